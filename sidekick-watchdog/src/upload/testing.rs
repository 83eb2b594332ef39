//! Slabs, an outbox and a backend for the tests of this folder, and a fuse that stops the world at any of its points.

mod outbox;
mod sink;

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::sync::atomic::{AtomicI64, Ordering};
use std::time::Duration;

use sidekick_ipc::frame::{FrameKind, Record, append_frame};
use sidekick_ipc::value::{Value, encode};
use tokio::sync::{Notify, watch};
use tokio::task::JoinSet;
use uuid::Uuid;

use super::engine::{Drive, Engine, LaneEnd};
use super::outbox::Outbox;
use super::plan::lane_of;
use super::shape::{KeepAll, Shaper};
use super::sink::Sink;
use super::{UploadSettings, UploadStatus};
use crate::slab::{RingCheckpoint, Slab, SlabHead};

pub(super) use outbox::FakeOutbox;
pub(super) use sink::{FakeSink, lines};

pub(super) const EPOCH: Uuid = Uuid::from_u128(0xE90C);
pub(super) const GROUP: Uuid = Uuid::from_u128(0x6009);

/// 2026-11-22T12:00:00Z, less the monotonic clock's second 1000.
pub(super) const REALTIME_OFFSET_NS: i64 = (1_795_348_800 - 1000) * 1_000_000_000;

pub(super) fn head(first_seq: u64, count: u64) -> SlabHead {
    SlabHead {
        source: "lobby-1".into(),
        epoch: EPOCH,
        incarnation: 3,
        realtime_offset_ns: REALTIME_OFFSET_NS,
        first_seq,
        count,
        checkpoint: RingCheckpoint::default(),
    }
}

pub(super) fn put_record(frames: &mut Vec<u8>, seq: u64, stream: &str, value: &Value) {
    let mut payload = Vec::new();
    Record::encode_head(stream, &mut payload);
    payload.extend_from_slice(&encode(value));
    let monotonic_ns = 1_000_000_000_000 + seq * 1_000;
    append_frame(
        frames,
        &EPOCH,
        FrameKind::Record as u16,
        seq,
        monotonic_ns,
        &payload,
    );
}

/// In the place of a stream's name: an operation or a query of the state store, which no backend gets.
pub(super) const REQUEST: &str = "(request)";

/// A slab with one record for each stream named.
pub(super) fn slab(first_seq: u64, streams: &[&str]) -> Slab {
    let mut frames = Vec::new();
    for (seq, stream) in (first_seq..).zip(streams) {
        if *stream == REQUEST {
            let kind = [FrameKind::Op, FrameKind::Query][(seq % 2) as usize];
            append_frame(
                &mut frames,
                &EPOCH,
                kind as u16,
                seq,
                1,
                b"whatever it says",
            );
            continue;
        }
        put_record(&mut frames, seq, stream, &Value::Int(seq as i64));
    }
    Slab {
        head: head(first_seq, streams.len() as u64),
        frames: frames.into(),
    }
}

/// Stops everybody who comes to one of its points after the first `left`, for ever. Whoever waits then drops them all:
/// a crash.
#[derive(Debug)]
pub(super) struct Fuse {
    left: AtomicI64,
    blown: Notify,
}

impl Fuse {
    pub(super) fn new() -> Arc<Self> {
        Arc::new(Self {
            left: AtomicI64::new(i64::MAX),
            blown: Notify::new(),
        })
    }

    pub(super) fn set(&self, left: i64) {
        self.left.store(left, Ordering::SeqCst);
    }

    pub(super) fn left(&self) -> i64 {
        self.left.load(Ordering::SeqCst)
    }

    pub(super) async fn point(&self) {
        if self.left.fetch_sub(1, Ordering::SeqCst) <= 0 {
            self.blown.notify_one();
            std::future::pending::<()>().await;
        }
    }

    async fn blown(&self) {
        self.blown.notified().await;
    }
}

pub(super) fn small_batches() -> UploadSettings {
    UploadSettings {
        batch_max_records: 5,
        batch_max_bytes: 900,
        ..UploadSettings::default()
    }
}

/// A running engine.
#[derive(Debug)]
pub(super) struct Running {
    pub(super) tasks: JoinSet<LaneEnd>,
    pub(super) drive: watch::Sender<Drive>,
    pub(super) status: watch::Receiver<UploadStatus>,
}

pub(super) async fn start<O: Outbox>(
    outbox: Arc<O>,
    sinks: Vec<Arc<dyn Sink>>,
    settings: UploadSettings,
) -> Running {
    start_shaped(outbox, sinks, settings, Arc::new(KeepAll)).await
}

pub(super) async fn start_shaped<O: Outbox>(
    outbox: Arc<O>,
    sinks: Vec<Arc<dyn Sink>>,
    settings: UploadSettings,
    shaper: Arc<dyn Shaper>,
) -> Running {
    let (drive, steering) = watch::channel(Drive::Run);
    let engine = Engine::new(outbox, sinks, settings, steering).shaped_by(shaper);
    let status = engine.status();
    let mut tasks = JoinSet::new();
    for (_, task) in engine.tasks().await.unwrap() {
        tasks.spawn(task);
    }
    Running {
        tasks,
        drive,
        status,
    }
}

impl Running {
    /// Waits until everything up to `index` is through, at most an hour of the test's clock.
    pub(super) async fn through(&mut self, index: u64) {
        let through = self.status.wait_for(|status| status.is_through(index));
        let waited = tokio::time::timeout(Duration::from_secs(3600), through).await;
        let through = waited.map(|through| through.is_ok());
        assert_eq!(through, Ok(true), "stuck: {:?}", self.status.borrow());
    }

    /// Waits until everything is through or the fuse blows, which ends all of it at once. Says whether it blew.
    pub(super) async fn until_blown(mut self, index: u64, fuse: &Fuse) -> bool {
        let blown = tokio::select! {
            biased;
            () = fuse.blown() => true,
            () = self.through(index) => false,
        };
        self.tasks.shutdown().await;
        blown
    }
}

/// Compares what came to the sink with what was recorded, but for dead letters and what rules left out.
pub(super) fn check(outbox: &FakeOutbox, sink: &FakeSink) -> Result<(), String> {
    let state = outbox.state.lock().unwrap();
    let seen = sink.seen.lock().unwrap();
    if let Some(complaint) = seen.complaints.first().or_else(|| state.complaints.first()) {
        return Err(complaint.clone());
    }
    drop(seen);
    let mut came: BTreeMap<String, Vec<u64>> = BTreeMap::new();
    for (stream, seq) in sink.records() {
        came.entry(stream).or_default().push(seq);
    }
    let mut recorded: BTreeMap<String, Vec<u64>> = BTreeMap::new();
    let dead: BTreeSet<u64> = state
        .letters
        .iter()
        .map(|kept| kept.letter.head.first_seq)
        .collect();
    let goes = |seq: &u64| !dead.contains(seq) && !state.left_out.contains(seq);
    for (_, stream, seq) in state.records.iter().filter(|(.., seq)| goes(seq)) {
        recorded.entry(stream.clone()).or_default().push(*seq);
    }
    if came != recorded {
        return Err(format!("recorded {recorded:?}, came {came:?}"));
    }
    Ok(())
}

/// Every number committed is accounted for, once, when all is through.
pub(super) fn check_books(outbox: &FakeOutbox) -> Result<(), String> {
    let state = outbox.state.lock().unwrap();
    let (committed, dead) = (state.next_seq - 1, state.dead());
    if state.books.numbers() + dead != committed {
        return Err(format!(
            "{committed} committed, {dead} dead, the books tell of {:?}",
            state.books
        ));
    }
    Ok(())
}

/// Every record at or before its lane's watermark has come to the sink.
pub(super) fn check_watermarks(outbox: &FakeOutbox, sink: &FakeSink) -> Result<(), String> {
    let came = sink.records();
    let state = outbox.state.lock().unwrap();
    let is_dead = |seq: u64| {
        let mut letters = state.letters.iter();
        letters.any(|kept| kept.letter.head.first_seq == seq) || state.left_out.contains(&seq)
    };
    for (position, stream, seq) in &state.records {
        let lane = lane_of(stream, sink.lanes);
        let watermark = state.lanes[&("fake".to_owned(), lane)].watermark;
        let is_there = came.contains(&(stream.clone(), *seq)) || is_dead(*seq);
        if *position <= watermark && !is_there {
            return Err(format!(
                "{stream} {seq} at {position:?} is behind {watermark:?}, but not there"
            ));
        }
    }
    Ok(())
}
