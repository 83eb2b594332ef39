//! The API's dead letters: those of the store that is open.

use std::collections::BTreeSet;
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

fn summary(id: u64, kept: &KeptLetter, now_ns: u64, sinks: &BTreeSet<String>) -> LetterSummary {
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
        sink_removed: !sinks.contains(&kept.sink),
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

fn not_taken(error: StoreError) -> LetterError {
    LetterError::Store(error.to_string())
}

async fn replay(
    store: &Store,
    wanted: &Wanted,
    found: Vec<(u64, KeptLetter)>,
) -> Result<LettersChanged, LetterError> {
    let sinks = store.sink_names();
    let (here, away): (Vec<_>, Vec<_>) = found
        .into_iter()
        .partition(|(_, kept)| sinks.contains(&kept.sink));
    let are_named = wanted.ids.is_some() || wanted.sink.is_some();
    if let Some((_, kept)) = away.first()
        && (are_named || here.is_empty())
    {
        return Err(LetterError::NotConfigured(kept.sink.clone()));
    }
    let ids = here.into_iter().map(|(id, _)| id).collect();
    Ok(LettersChanged {
        changed: store.mark_letters(ids).await.map_err(not_taken)?,
        without_sink: away.len() as u64,
        ..LettersChanged::default()
    })
}

async fn drop_all(
    store: &Store,
    found: Vec<(u64, KeptLetter)>,
) -> Result<LettersChanged, LetterError> {
    let ids: Vec<u64> = found.into_iter().map(|(id, _)| id).collect();
    let changed = store.drop_letters(ids.clone()).await.map_err(not_taken)?;
    Ok(LettersChanged {
        changed,
        on_their_way: store.letters_on_their_way(&ids),
        ..LettersChanged::default()
    })
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
        let sinks = store.sink_names();
        let letters = found.iter().take(limit);
        Ok(LetterList {
            letters: letters
                .map(|(id, kept)| summary(*id, kept, now_ns, &sinks))
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
            letter: summary(id, &kept, store.log_time_ns(), &store.sink_names()),
            record: record(&kept.letter),
        })
    }

    fn change(&self, wanted: &Wanted, order: LetterOrder) -> Result<LettersChanged, LetterError> {
        let store = self.store()?;
        check_sink(&store, wanted)?;
        let count_max = usize::try_from(LETTERS_MAX).unwrap_or(usize::MAX);
        let found = store.dead_letters(0, count_max, |id, kept| is_wanted(wanted, id, kept));
        let done = self.runtime.block_on(async {
            match order {
                LetterOrder::Replay => replay(&store, wanted, found).await,
                LetterOrder::Drop => drop_all(&store, found).await,
            }
        });
        let done = done?;
        let changed = done.changed;
        info!(?order, changed, "dead letters changed by an operator");
        Ok(done)
    }
}

#[cfg(test)]
mod tests {
    use sidekick_ipc::frame::append_frame;
    use uuid::Uuid;

    use super::*;
    use crate::books::Counts;
    use crate::position::Position;
    use crate::slab::{RingCheckpoint, SlabHead};
    use crate::store::{Plan, StoreConfig};

    const EPOCH: Uuid = Uuid::from_u128(7);

    fn head(first_seq: u64) -> SlabHead {
        SlabHead {
            source: "s".into(),
            epoch: EPOCH,
            incarnation: 1,
            realtime_offset_ns: 0,
            first_seq,
            count: 1,
            checkpoint: RingCheckpoint::default(),
        }
    }

    fn frame(seq: u64) -> Vec<u8> {
        let mut frames = Vec::new();
        append_frame(&mut frames, &EPOCH, 1, seq, 0, &[0; 8]);
        frames
    }

    /// Makes a dead letter of the sink, number `seq`.
    async fn bury(store: &Store, sink: &str, seq: u64) -> Position {
        let slab = Slab {
            head: head(seq),
            frames: frame(seq).into(),
        };
        store.append(slab).await.unwrap();
        let position = Position {
            index: store.stats().applied,
            item: 0,
        };
        let letter = Letter {
            position,
            stream: "a".into(),
            code: "HTTP 400".into(),
            reason: "bad".into(),
            rules_version: 0,
            numbers: 1,
            head: head(seq),
            frame: frame(seq),
        };
        let buried = store.dead_letter(sink, 0, Counts::default(), letter);
        buried.await.unwrap();
        position
    }

    fn of_sink(sink: &str) -> Wanted {
        Wanted {
            sink: Some(sink.to_owned()),
            ..Wanted::default()
        }
    }

    /// One that is on its way stays; with its sink taken out nobody sends it, so a replay is refused and a drop carried out.
    #[tokio::test(flavor = "multi_thread", worker_threads = 2)]
    async fn letters_of_a_sink_that_was_taken_out_are_dropped_and_not_replayed() {
        let dir = tempfile::tempdir().unwrap();
        let open = Store::open(StoreConfig::new(dir.path().join("data")));
        let store = Arc::new(open.await.unwrap());
        let name = |sink: &str| vec![(sink.to_owned(), 1)];
        store.session_opened("s", EPOCH, 1, 0).await.unwrap();
        store.set_sinks(name("http")).await.unwrap();
        let first = bury(&store, "http", 1).await;
        bury(&store, "http", 2).await;
        let letters = Arc::new(OpenLetters::new());
        letters.open(&store);
        let order = |wanted: &Wanted, order| {
            let (letters, wanted) = (Arc::clone(&letters), wanted.clone());
            async move {
                let done = tokio::task::spawn_blocking(move || letters.change(&wanted, order));
                done.await.unwrap()
            }
        };
        let one = Wanted {
            ids: Some(vec![1]),
            ..Wanted::default()
        };
        let marked = order(&one, LetterOrder::Replay).await.unwrap();
        assert_eq!((marked.changed, marked.without_sink), (1, 0));
        let plan = Plan {
            first,
            last: first,
            rules_version: 0,
            encoder_version: 1,
            extra: Vec::new(),
        };
        store.plan_replay(1, 1, plan, None).await.unwrap();
        let dropped = order(&one, LetterOrder::Drop).await.unwrap();
        assert_eq!((dropped.changed, dropped.on_their_way), (0, 1));

        store.set_sinks(name("file")).await.unwrap();
        bury(&store, "file", 3).await;
        for wanted in [of_sink("http"), one.clone()] {
            let refused = order(&wanted, LetterOrder::Replay).await.unwrap_err();
            let words = "sink \"http\" is not configured: put it back";
            assert!(refused.to_string().starts_with(words), "{refused}");
        }
        // Who means all of them gets those that can be.
        let some = order(&Wanted::default(), LetterOrder::Replay)
            .await
            .unwrap();
        assert_eq!((some.changed, some.without_sink), (1, 2));
        let list = letters.list(&Wanted::default(), 0, 10).unwrap();
        let removed: Vec<bool> = list.letters.iter().map(|it| it.sink_removed).collect();
        assert_eq!(removed, [true, true, false]);
        assert_eq!(store.remains()["http"].letters, 2);
        let dropped = order(&of_sink("http"), LetterOrder::Drop).await.unwrap();
        assert_eq!((dropped.changed, dropped.on_their_way), (2, 0));
        assert!(store.remains().is_empty());
        store.shutdown().await;
    }
}
