//! The API's dead letters: those of the store that is open.

use std::sync::{Arc, Mutex, PoisonError, Weak};
use std::time::Duration;

use tokio::runtime::Handle;
use tokio::sync::watch;
use tracing::{info, warn};

use crate::api::letters::{
    LetterBox, LetterError, LetterList, LetterOrder, LetterReport, LetterSummary, LettersChanged,
    Wanted,
};
use crate::books::Letter;
use crate::slab::Slab;
use crate::store::{KeptLetter, LETTERS_MAX, Store, StoreError};
use crate::upload::Drive;
use crate::upload::encode::{LineWriter, RowWriter, Walk};

/// How often it is looked whether letters are too old.
const EXPIRY_EVERY: Duration = Duration::from_secs(60);

/// Drops letters that were kept for `keep`, until the plane is told to stop.
pub(super) async fn expire(store: Arc<Store>, keep: Duration, mut drive: watch::Receiver<Drive>) {
    loop {
        tokio::select! {
            // An error means that the sender is gone.
            _ = drive.wait_for(|drive| *drive == Drive::Stop) => return,
            () = tokio::time::sleep(EXPIRY_EVERY) => {}
        }
        match store.expire_letters(keep).await {
            Ok(0) => {}
            Ok(count) => warn!(
                count,
                keep_s = keep.as_secs(),
                "dead letters dropped; they were kept as long as [upload] dead_letters_keep says"
            ),
            Err(StoreError::Stopped { .. }) => return,
            Err(error) => warn!(%error, "dead letters that are too old could not be dropped"),
        }
    }
}

/// The letters of whatever store is open.
#[derive(Debug)]
pub(super) struct OpenLetters {
    store: Mutex<Weak<Store>>,
    runtime: Handle,
}

impl OpenLetters {
    /// Of no store yet. Must be called on the runtime.
    pub(super) fn new() -> Self {
        Self {
            store: Mutex::default(),
            runtime: Handle::current(),
        }
    }

    /// From now on, of this one, until it is gone.
    pub(super) fn open(&self, store: &Arc<Store>) {
        *self.store.lock().unwrap_or_else(PoisonError::into_inner) = Arc::downgrade(store);
    }

    fn store(&self) -> Result<Arc<Store>, LetterError> {
        let store = self.store.lock().unwrap_or_else(PoisonError::into_inner);
        store.upgrade().ok_or(LetterError::NotNow)
    }
}

fn is_wanted(wanted: &Wanted, id: u64, kept: &KeptLetter) -> bool {
    let is = |asked: &Option<String>, found: &str| asked.as_ref().is_none_or(|a| a == found);
    wanted.ids.as_ref().is_none_or(|ids| ids.contains(&id))
        && is(&wanted.sink, &kept.sink)
        && is(&wanted.stream, &kept.letter.stream)
}

/// A sink that nobody knows is a slip: it has no letters, which would look as if all were well. One that was taken out of
/// the configuration is known by its letters.
fn check_sink(store: &Store, wanted: &Wanted) -> Result<(), LetterError> {
    let Some(sink) = &wanted.sink else {
        return Ok(());
    };
    let known = store.letter_sinks();
    match known.contains(sink) {
        true => Ok(()),
        false => Err(LetterError::NoSink {
            sink: sink.clone(),
            known: known.into_iter().collect(),
        }),
    }
}

fn summary(id: u64, kept: &KeptLetter, now_ns: u64) -> LetterSummary {
    let letter = &kept.letter;
    let age = Duration::from_nanos(now_ns.saturating_sub(kept.time_ns));
    LetterSummary {
        id,
        sink: kept.sink.clone(),
        stream: letter.stream.clone(),
        source: letter.head.source.clone(),
        epoch: letter.head.epoch.to_string(),
        seq: letter.head.first_seq,
        code: letter.code.clone(),
        reason: letter.reason.clone(),
        rules_version: letter.rules_version,
        age_s: age.as_secs_f64(),
        marked: kept.marked,
        replays: kept.replays,
    }
}

/// The record as NDJSON has it.
fn record(letter: &Letter) -> serde_json::Value {
    let mut walk = Walk::new(Slab {
        head: letter.head.clone(),
        frames: letter.frame.clone().into(),
    });
    let mut line = Vec::new();
    if let Some((head, item)) = walk.step() {
        let _ = LineWriter::default().write(head, &item, &mut line);
    }
    serde_json::from_slice(&line).unwrap_or_default()
}

impl LetterBox for OpenLetters {
    fn list(&self, wanted: &Wanted, after: u64, limit: usize) -> Result<LetterList, LetterError> {
        let store = self.store()?;
        check_sink(&store, wanted)?;
        let found = store.dead_letters(after, limit.saturating_add(1), |id, kept| {
            is_wanted(wanted, id, kept)
        });
        let now_ns = store.log_time_ns();
        let (count, bytes) = store.dead_letter_room();
        let letters = found.iter().take(limit);
        Ok(LetterList {
            letters: letters
                .map(|(id, kept)| summary(*id, kept, now_ns))
                .collect(),
            wanted: store.count_dead_letters(|id, kept| is_wanted(wanted, id, kept)),
            count,
            bytes,
            more: found.len() > limit,
        })
    }

    fn show(&self, id: u64) -> Result<LetterReport, LetterError> {
        let store = self.store()?;
        let mut found = store.dead_letters(id.saturating_sub(1), 1, |found, _| found == id);
        let (_, kept) = found.pop().ok_or(LetterError::Unknown(id))?;
        Ok(LetterReport {
            letter: summary(id, &kept, store.log_time_ns()),
            record: record(&kept.letter),
        })
    }

    fn change(&self, wanted: &Wanted, order: LetterOrder) -> Result<LettersChanged, LetterError> {
        let store = self.store()?;
        check_sink(&store, wanted)?;
        let count_max = usize::try_from(LETTERS_MAX).unwrap_or(usize::MAX);
        let found = store.dead_letters(0, count_max, |id, kept| is_wanted(wanted, id, kept));
        let ids: Vec<u64> = found.into_iter().map(|(id, _)| id).collect();
        let done = self.runtime.block_on(async {
            match order {
                LetterOrder::Replay => store.mark_letters(ids).await,
                LetterOrder::Drop => store.drop_letters(ids).await,
            }
        });
        let changed = done.map_err(|error| LetterError::Store(error.to_string()))?;
        info!(?order, changed, "dead letters changed by an operator");
        Ok(LettersChanged { changed })
    }
}
