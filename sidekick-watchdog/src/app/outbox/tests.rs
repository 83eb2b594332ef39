//! The real lanes on the real store, where it takes both to show what they do.

use std::collections::BTreeSet;
use std::future::poll_fn;
use std::sync::Mutex;
use std::task::Poll;
use std::time::Duration;

use sidekick_ipc::frame::{FrameKind, Record, append_frame};
use sidekick_ipc::value::{Value, encode};
use tokio::task::JoinSet;

use super::*;
use crate::books::{Counts, Letter};
use crate::slab::{RingCheckpoint, Slab};
use crate::store::{LETTERS_MAX, StoreConfig};
use crate::upload::sink::BoxFuture;
use crate::upload::{Batch, Drive, Engine, Outcome, Sink, SinkState, UploadSettings, UploadStatus};

const PATIENCE: Duration = Duration::from_secs(60);
const EPOCH: Uuid = Uuid::from_u128(0xE);
/// Numbers of records that became letters long ago.
const OLD: u64 = 1_000_000;
/// So many letters are proposed at once.
const AT_ONCE: u64 = 500;

/// A backend that refuses some numbers for good.
#[derive(Debug, Default)]
struct Backend {
    refused: BTreeSet<u64>,
    came: Mutex<Vec<u64>>,
}

impl Sink for Backend {
    fn name(&self) -> &str {
        "fake"
    }

    fn send<'a>(&'a self, batch: &'a Batch) -> BoxFuture<'a, Outcome> {
        let lines = batch.body.split(|byte| *byte == b'\n');
        let lines = lines.filter(|line| !line.is_empty());
        let numbers: Vec<u64> = lines
            .map(|line| -> serde_json::Value { serde_json::from_slice(line).unwrap() })
            .map(|line| line["seq"].as_u64().unwrap())
            .collect();
        let outcome = match numbers.iter().any(|seq| self.refused.contains(seq)) {
            true => Outcome::Refused {
                code: "HTTP 400".into(),
                reason: "bad".into(),
            },
            false => {
                self.came.lock().unwrap().extend(numbers);
                Outcome::Taken
            }
        };
        Box::pin(async { outcome })
    }
}

fn slab(first_seq: u64, count: u64) -> Slab {
    let mut frames = Vec::new();
    for seq in first_seq..first_seq + count {
        let mut payload = Vec::new();
        Record::encode_head("a", &mut payload);
        payload.extend_from_slice(&encode(&Value::Int(7)));
        let kind = FrameKind::Record as u16;
        append_frame(&mut frames, &EPOCH, kind, seq, 1, &payload);
    }
    Slab {
        head: SlabHead {
            source: "s".into(),
            epoch: EPOCH,
            incarnation: 1,
            realtime_offset_ns: 0,
            first_seq,
            count,
            checkpoint: RingCheckpoint::default(),
        },
        frames: frames.into(),
    }
}

/// One of long ago, which is on nobody's books.
fn letter(position: Position, seq: u64) -> Letter {
    let Slab { head, frames } = slab(seq, 1);
    Letter {
        position,
        stream: "a".into(),
        code: "HTTP 400".into(),
        reason: "bad".into(),
        rules_version: 0,
        numbers: 0,
        head,
        frame: frames.to_vec(),
    }
}

async fn open(dir: &tempfile::TempDir, lanes: u32) -> Arc<Store> {
    let config = StoreConfig {
        segment_bytes: 1 << 20,
        zero_step_bytes: 64 << 10,
        ..StoreConfig::new(dir.path().join("data"))
    };
    let store = Store::open(config).await.unwrap();
    store.set_sinks(vec![("fake".into(), lanes)]).await.unwrap();
    Arc::new(store)
}

/// Runs them side by side, begun in their order.
async fn all<F: Future>(futures: impl Iterator<Item = F>) {
    let mut left: Vec<_> = futures.map(Box::pin).collect();
    poll_fn(|context| {
        left.retain_mut(|future| future.as_mut().poll(context).is_pending());
        match left.is_empty() {
            true => Poll::Ready(()),
            false => Poll::Pending,
        }
    })
    .await;
}

/// As many letters as are kept.
async fn fill(store: &Store) {
    let index = store.stats().applied;
    for first in (0..LETTERS_MAX).step_by(AT_ONCE as usize) {
        all((first..first + AT_ONCE).map(async |n| {
            let item = u32::try_from(n).unwrap();
            let letter = letter(Position { index, item }, OLD + n);
            let kept = store.dead_letter("fake", 0, Counts::default(), letter);
            kept.await.unwrap();
        }))
        .await;
    }
    assert_eq!(store.dead_letter_room().0, LETTERS_MAX);
}

async fn until(
    status: &mut watch::Receiver<UploadStatus>,
    what: &str,
    is: impl FnMut(&UploadStatus) -> bool,
) {
    let waited = tokio::time::timeout(PATIENCE, status.wait_for(is)).await;
    let is_there = waited.is_ok_and(|waited| waited.is_ok());
    assert!(is_there, "{what}: {:?}", status.borrow());
}

/// Full of letters, one of which the backend takes by now, while the record at hand stays refused: the replay makes room
/// for it, and the lane goes on.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_replay_makes_room_for_the_record_at_hand() {
    let dir = tempfile::tempdir().unwrap();
    let store = open(&dir, 1).await;
    fill(&store).await;
    store.session_opened("s", EPOCH, 1, 0).await.unwrap();
    store.append(slab(1, 3)).await.unwrap();
    let last = store.stats().applied;
    let backend = Arc::new(Backend {
        refused: BTreeSet::from([2]),
        came: Mutex::default(),
    });
    let settings = UploadSettings {
        batch_max_age: Duration::from_millis(10),
        ..UploadSettings::default()
    };
    let (_drive, steering) = watch::channel(Drive::Run);
    let outbox = Arc::new(StoreOutbox(store.clone()));
    let engine = Engine::new(outbox, vec![backend.clone()], settings, steering);
    let mut status = engine.status();
    let mut tasks = JoinSet::new();
    for (_, task) in engine.tasks().await.unwrap() {
        tasks.spawn(task);
    }
    let is_full = |status: &UploadStatus| {
        let state = status.sinks.first().map(|sink| &sink.state);
        matches!(state, Some(SinkState::Parked { reason }) if reason.contains("are full"))
    };
    until(&mut status, "a lane without room", is_full).await;
    assert_eq!(store.mark_letters(vec![1]).await.unwrap(), 1);
    until(&mut status, "the end", |status| status.is_through(last)).await;
    assert_eq!(*backend.came.lock().unwrap(), [1, OLD, 3]);
    let (books, committed) = store.books("fake");
    assert_eq!((books.dead, books.replayed), (1, 1));
    assert_eq!(books.pending(committed), Some(0));
    assert_eq!(store.dead_letter_room().0, LETTERS_MAX);
    tasks.shutdown().await;
    store.shutdown().await;
}

/// What a sink remembers of a replay hangs on that lane: it must find it again when it has other lanes.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_replay_names_the_lane_that_wrote_the_letter() {
    let dir = tempfile::tempdir().unwrap();
    let store = open(&dir, 4).await;
    let index = store.stats().applied;
    let letter = letter(Position { index, item: 0 }, OLD);
    let kept = store.dead_letter("fake", 3, Counts::default(), letter);
    kept.await.unwrap();
    store.mark_letters(vec![1]).await.unwrap();
    let outbox = StoreOutbox(store.clone());
    let replay = outbox.next_replay("fake", 3).unwrap();
    assert_eq!((replay.id, replay.lane), (1, 3));
    let up_to = Position { index, item: 1 };
    for lane in 0..4 {
        let settled = store.settle("fake", lane, up_to, Counts::default());
        settled.await.unwrap();
    }
    let lanes = store.set_sinks(vec![("fake".into(), 1)]).await.unwrap();
    assert_eq!(lanes["fake"], 1);
    assert_eq!(outbox.next_replay("fake", 0), Some(replay));
    store.shutdown().await;
}
