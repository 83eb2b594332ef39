//! Slabs, an outbox and a backend for the tests of this folder, and a fuse that stops the world at any of its points.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::atomic::{AtomicI64, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use bytes::Bytes;
use sidekick_ipc::frame::{FrameKind, Record, append_frame};
use sidekick_ipc::value::{Value, encode};
use tokio::sync::{Notify, watch};
use tokio::task::JoinSet;
use uuid::Uuid;

use super::engine::{Drive, Engine, LaneEnd};
use super::outbox::{IndexedSlabs, LaneState, Outbox, OutboxError};
use super::plan::{Dead, Plan, Replay, Settled, lane_of};
use super::shape::{KeepAll, Shaper};
use super::sink::{Batch, BoxFuture, Held, Outcome, PrepareError, Sink};
use super::{UploadSettings, UploadStatus};
use crate::books::{Counts, Letter};
use crate::position::Position;
use crate::slab::{RingCheckpoint, Slab, SlabHead};

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

#[derive(Debug, Default)]
pub(super) struct State {
    pub(super) entries: Vec<IndexedSlabs>,
    pub(super) lanes: BTreeMap<(String, u32), LaneState>,
    pub(super) index: u64,
    pub(super) next_seq: u64,
    /// Position, stream and sequence number of every record.
    pub(super) records: Vec<(Position, String, u64)>,
    /// What became of the numbers of all sinks and lanes; exact, as the real books are.
    pub(super) books: Counts,
    pub(super) letters: Vec<FakeLetter>,
    pub(super) letters_max: usize,
    /// Numbers of records that rules drop.
    pub(super) left_out: BTreeSet<u64>,
    pub(super) last_letter: u64,
    pub(super) commits: u64,
    pub(super) watermark_commits: u64,
    pub(super) complaints: Vec<String>,
}

/// A dead letter.
#[derive(Clone, Debug)]
pub(super) struct FakeLetter {
    pub(super) id: u64,
    pub(super) lane: u32,
    pub(super) marked: bool,
    pub(super) replays: u32,
    pub(super) plan: Option<Plan>,
    pub(super) letter: Letter,
}

impl State {
    /// Moves a watermark as the real state does; `false` where it stays.
    fn settle(&mut self, sink: &str, lane: u32, up_to: Position, counts: &Counts) -> bool {
        let lane = self.lanes.get_mut(&(sink.to_owned(), lane)).unwrap();
        if up_to <= lane.watermark {
            return false;
        }
        lane.watermark = up_to;
        lane.plan.take_if(|plan| plan.last <= up_to);
        self.books.add(counts);
        true
    }

    /// Numbers of records that are dead letters.
    pub(super) fn dead(&self) -> u64 {
        self.letters.iter().map(|kept| kept.letter.numbers).sum()
    }
}

/// What survives crashes: the store.
#[derive(Debug)]
pub(super) struct FakeOutbox {
    pub(super) state: Mutex<State>,
    pub(super) applied: watch::Sender<u64>,
    pub(super) fuse: Arc<Fuse>,
    /// The broken variant: says that a plan is committed, and keeps nothing.
    pub(super) forgets_plans: bool,
    /// The broken variant: counts also where the watermark stays.
    pub(super) counts_twice: bool,
    /// Fails one of so many calls.
    pub(super) fails_every: Option<u64>,
    pub(super) random: Mutex<fastrand::Rng>,
}

impl FakeOutbox {
    pub(super) fn new(fuse: Arc<Fuse>, sinks: &[(&str, u32)]) -> Self {
        let mut state = State {
            next_seq: 1,
            letters_max: usize::MAX,
            ..State::default()
        };
        for (sink, lanes) in sinks {
            for lane in 0..*lanes {
                state
                    .lanes
                    .insert(((*sink).to_owned(), lane), LaneState::default());
            }
        }
        Self {
            state: Mutex::new(state),
            applied: watch::Sender::new(0),
            fuse,
            forgets_plans: false,
            counts_twice: false,
            fails_every: None,
            random: Mutex::new(fastrand::Rng::with_seed(7)),
        }
    }

    /// Appends an entry with a slab for each list of streams.
    pub(super) fn append(&self, slabs: &[&[&str]]) {
        let mut state = self.state.lock().unwrap();
        state.index += 1;
        let index = state.index;
        let mut entry = IndexedSlabs {
            index,
            slabs: Vec::new(),
            loss: None,
        };
        let mut item = 0;
        for streams in slabs {
            let first_seq = state.next_seq;
            entry.slabs.push(slab(first_seq, streams));
            for stream in *streams {
                let seq = state.next_seq;
                state.next_seq += 1;
                if *stream == REQUEST {
                    continue;
                }
                state
                    .records
                    .push((Position { index, item }, (*stream).to_owned(), seq));
                item += 1;
            }
        }
        state.entries.push(entry);
        self.applied.send_replace(index);
    }

    /// The last entry.
    pub(super) fn index(&self) -> u64 {
        self.state.lock().unwrap().index
    }

    async fn call(&self) -> Result<(), OutboxError> {
        self.fuse.point().await;
        match self.fails_every {
            Some(every) if self.random.lock().unwrap().u64(0..every) == 0 => {
                Err(OutboxError::Failed("the disk is full".into()))
            }
            _ => Ok(()),
        }
    }

    /// After a command: it took effect, but whether whoever asked hears of that is another matter.
    async fn answered(&self) -> Result<(), OutboxError> {
        self.call().await
    }

    /// A command moves the log on by an entry, as in the real store.
    fn committed(&self, state: &mut State) {
        state.commits += 1;
        state.index += 1;
        self.applied.send_replace(state.index);
    }

    fn put_plan(&self, state: &mut State, plan: Plan) {
        if self.forgets_plans {
            return;
        }
        let lane = state
            .lanes
            .get_mut(&(plan.sink.clone(), plan.lane))
            .unwrap();
        if plan.first <= lane.watermark || plan.last < plan.first {
            state
                .complaints
                .push(format!("a plan overlaps its watermark: {plan:?}"));
            return;
        }
        lane.plan = Some(plan);
    }
}

impl Outbox for FakeOutbox {
    fn group(&self) -> Uuid {
        GROUP
    }

    async fn lanes(&self, sink: &str) -> Result<Vec<LaneState>, OutboxError> {
        let state = self.state.lock().unwrap();
        let of_sink = state.lanes.iter().filter(|((name, _), _)| name == sink);
        Ok(of_sink.map(|(_, lane)| lane.clone()).collect())
    }

    async fn read(
        &self,
        after_index: u64,
        _bytes_max: usize,
    ) -> Result<Vec<IndexedSlabs>, OutboxError> {
        self.call().await?;
        let found = {
            let state = self.state.lock().unwrap();
            let after = state
                .entries
                .iter()
                .filter(|entry| entry.index > after_index);
            after.take(2).cloned().collect()
        };
        Ok(found)
    }

    fn game_version(&self, _: &SlabHead) -> Arc<str> {
        "".into()
    }

    fn is_lost(&self, index: u64) -> bool {
        let state = self.state.lock().unwrap();
        let mut entries = state.entries.iter();
        entries.any(|entry| entry.index == index && entry.loss.is_some())
    }

    fn has_lost(&self) -> bool {
        let state = self.state.lock().unwrap();
        state.entries.iter().any(|entry| entry.loss.is_some())
    }

    fn applied(&self) -> watch::Receiver<u64> {
        self.applied.subscribe()
    }

    async fn commit_plan(&self, plan: Plan) -> Result<(), OutboxError> {
        self.call().await?;
        {
            let mut state = self.state.lock().unwrap();
            self.put_plan(&mut state, plan);
            self.committed(&mut state);
        }
        self.answered().await
    }

    async fn commit_settled(
        &self,
        settled: Settled,
        next: Option<Plan>,
    ) -> Result<(), OutboxError> {
        self.call().await?;
        {
            let mut state = self.state.lock().unwrap();
            let Settled {
                sink,
                lane,
                up_to,
                counts,
            } = settled;
            state.watermark_commits += u64::from(counts.rows == 0);
            if !state.settle(&sink, lane, up_to, &counts) && self.counts_twice {
                state.books.add(&counts);
            }
            if let Some(next) = next {
                self.put_plan(&mut state, next);
            }
            self.committed(&mut state);
        }
        self.answered().await
    }

    async fn commit_dead(&self, dead: Dead) -> Result<(), OutboxError> {
        self.call().await?;
        {
            let mut state = self.state.lock().unwrap();
            let position = dead.letter.position;
            if state.letters.len() >= state.letters_max {
                return Err(OutboxError::LettersFull("dead letters are full".into()));
            }
            if state.settle(&dead.sink, dead.lane, position, &dead.counts) {
                state.last_letter += 1;
                let kept = FakeLetter {
                    id: state.last_letter,
                    lane: dead.lane,
                    marked: false,
                    replays: 0,
                    plan: None,
                    letter: dead.letter,
                };
                state.letters.push(kept);
            }
            self.committed(&mut state);
        }
        self.answered().await
    }

    fn next_replay(&self, _sink: &str, lane: u32) -> Option<Replay> {
        let state = self.state.lock().unwrap();
        let of_lane = |kept: &&FakeLetter| kept.marked && kept.lane == lane;
        let under_way = state
            .letters
            .iter()
            .filter(of_lane)
            .find(|kept| kept.plan.is_some());
        let kept = under_way.or_else(|| state.letters.iter().find(of_lane))?;
        Some(Replay {
            id: kept.id,
            number: kept.replays + u32::from(kept.plan.is_none()),
            plan: kept.plan.clone(),
            letter: kept.letter.clone(),
        })
    }

    async fn commit_replay_plan(
        &self,
        id: u64,
        number: u32,
        plan: Plan,
    ) -> Result<bool, OutboxError> {
        self.call().await?;
        let is_there = {
            let mut state = self.state.lock().unwrap();
            let open = state.lanes[&(plan.sink.clone(), plan.lane)].plan.clone();
            let is_full = state.letters.len() >= state.letters_max;
            if let Some(open) = open.filter(|_| !is_full) {
                state.complaints.push(format!("a replay beside {open:?}"));
            }
            let kept = state
                .letters
                .iter_mut()
                .find(|kept| kept.id == id && kept.marked);
            let is_there = kept.is_some();
            if let Some(kept) = kept {
                kept.replays = number;
                kept.plan = Some(plan);
            }
            self.committed(&mut state);
            is_there
        };
        self.answered().await.map(|()| is_there)
    }

    async fn commit_replayed(
        &self,
        id: u64,
        number: u32,
        refused: Option<(String, String)>,
    ) -> Result<(), OutboxError> {
        self.call().await?;
        {
            let mut state = self.state.lock().unwrap();
            let place = state.letters.iter().position(|kept| kept.id == id);
            match (place, refused) {
                (None, _) => {}
                (Some(place), None) => {
                    let kept = state.letters.remove(place);
                    assert_eq!(kept.replays, number);
                    state.books.rows += 1;
                    state.books.records += kept.letter.numbers;
                }
                (Some(place), Some((code, reason))) => {
                    let kept = &mut state.letters[place];
                    (kept.marked, kept.plan, kept.replays) = (false, None, number);
                    (kept.letter.code, kept.letter.reason) = (code, reason);
                }
            }
            self.committed(&mut state);
        }
        self.answered().await
    }
}

/// What else survives crashes: the backend. Remembers keys and their bodies.
#[derive(Debug)]
pub(super) struct FakeSink {
    pub(super) lanes: u32,
    pub(super) fuse: Arc<Fuse>,
    pub(super) random: Mutex<fastrand::Rng>,
    /// Of ten tries this many fail in one way or another.
    pub(super) fails_of_ten: u32,
    /// More lines than this are a 413.
    pub(super) lines_max: usize,
    /// Numbers of records that it will never take.
    pub(super) poison: BTreeSet<u64>,
    /// The broken variant: says that it took what it refused, so the lane drops it.
    pub(super) drops_refused: bool,
    /// The broken variant: the body has the number of the try in it.
    pub(super) unsteady: bool,
    /// Says what it holds of each lane.
    pub(super) tells_held: bool,
    /// The broken variant: says of each lane what any of them holds.
    pub(super) mixes_lanes: bool,
    pub(super) seen: Mutex<Seen>,
}

#[derive(Debug, Default)]
pub(super) struct Seen {
    /// Bodies by key, whether they were taken or not.
    pub(super) bodies: BTreeMap<String, Bytes>,
    /// Keys that were taken, in the order of their first time.
    pub(super) taken: Vec<String>,
    /// Their lanes, by key; where there is none it is the first.
    pub(super) lanes: BTreeMap<String, u32>,
    pub(super) tries: u64,
    /// Batches that it said it took, for the first time.
    pub(super) good: u64,
    pub(super) complaints: Vec<String>,
}

impl FakeSink {
    pub(super) fn new(lanes: u32, fuse: Arc<Fuse>, seed: u64) -> Self {
        Self {
            lanes,
            fuse,
            random: Mutex::new(fastrand::Rng::with_seed(seed)),
            fails_of_ten: 3,
            lines_max: 3,
            poison: BTreeSet::new(),
            drops_refused: false,
            unsteady: false,
            tells_held: false,
            mixes_lanes: false,
            seen: Mutex::default(),
        }
    }

    fn random(&self, below: u32) -> u32 {
        self.random.lock().unwrap().u32(0..below)
    }

    /// `(stream, seq)` of every record taken, in order, repetitions of a key left out as a backend does.
    pub(super) fn records(&self) -> Vec<(String, u64)> {
        let seen = self.seen.lock().unwrap();
        seen.taken
            .iter()
            .flat_map(|key| lines(&seen.bodies[key]))
            .collect()
    }
}

/// `(stream, seq)` of each line.
pub(super) fn lines(body: &[u8]) -> Vec<(String, u64)> {
    assert!(
        body.is_empty() || body.ends_with(b"\n"),
        "the last line is cut off"
    );
    let lines = body.split(|b| *b == b'\n').filter(|line| !line.is_empty());
    lines
        .map(|line| {
            let line: serde_json::Value = serde_json::from_slice(line).expect("a line is JSON");
            (
                line["stream"].as_str().unwrap().to_owned(),
                line["seq"].as_u64().unwrap(),
            )
        })
        .collect()
}

impl Sink for FakeSink {
    fn name(&self) -> &str {
        "fake"
    }

    fn lanes(&self) -> u32 {
        self.lanes
    }

    fn prepare<'a>(
        &'a self,
        _group: &'a Uuid,
        _first: Position,
    ) -> BoxFuture<'a, Result<Vec<u8>, PrepareError>> {
        Box::pin(async move {
            self.fuse.point().await;
            if self.random(10) < self.fails_of_ten {
                return Err(PrepareError("not ready".into()));
            }
            Ok(b"extra".to_vec())
        })
    }

    fn held<'a>(
        &'a self,
        _group: &'a Uuid,
        lane: u32,
    ) -> BoxFuture<'a, Result<Option<Held>, PrepareError>> {
        Box::pin(async move {
            let seen = self.seen.lock().unwrap();
            let last = |key: &String| {
                let (index, item) = key.rsplit_once('-')?.1.split_once('.')?;
                let (index, item) = (index.parse().ok()?, item.parse().ok()?);
                Some(Position { index, item })
            };
            let is_of = |key: &&String| {
                self.mixes_lanes || seen.lanes.get(*key).copied().unwrap_or(0) == lane
            };
            let position = seen.taken.iter().filter(is_of).filter_map(last).max();
            let position = position.filter(|_| self.tells_held);
            let held = |position| Held {
                position,
                last: None,
            };
            Ok(position.map(held))
        })
    }

    fn encode<'a>(
        &'a self,
        _plan: &'a Plan,
        mut lines: Vec<u8>,
    ) -> BoxFuture<'a, Result<Bytes, PrepareError>> {
        if self.unsteady {
            let tries = self.seen.lock().unwrap().tries;
            lines.truncate(lines.len() - 2);
            lines.extend_from_slice(format!(",\"try\":{tries}}}\n").as_bytes());
        }
        Box::pin(async move { Ok(lines.into()) })
    }

    fn send<'a>(&'a self, batch: &'a Batch) -> BoxFuture<'a, Outcome> {
        Box::pin(async move {
            self.fuse.point().await;
            let fault = self.random(10);
            let outcome = {
                let mut seen = self.seen.lock().unwrap();
                seen.tries += 1;
                let key = &batch.key;
                let known = seen
                    .bodies
                    .entry(key.clone())
                    .or_insert_with(|| batch.body.clone());
                if *known != batch.body {
                    seen.complaints.push(format!("two bodies under {key}"));
                }
                seen.lanes.insert(key.clone(), batch.plan.lane);
                let taken = seen.taken.contains(key);
                let is_bad = lines(&batch.body)
                    .iter()
                    .any(|(_, seq)| self.poison.contains(seq));
                if is_bad && fault >= self.fails_of_ten {
                    match self.drops_refused {
                        true => Outcome::Taken,
                        false => Outcome::Refused {
                            code: "HTTP 400".into(),
                            reason: "bad".into(),
                        },
                    }
                } else if !taken && lines(&batch.body).len() > self.lines_max {
                    Outcome::TooLarge {
                        reason: "413".into(),
                    }
                } else if fault >= self.fails_of_ten {
                    seen.good += u64::from(!taken);
                    if !taken {
                        seen.taken.push(key.clone());
                    }
                    Outcome::Taken
                } else {
                    let reason = "503".to_owned();
                    match fault % 3 {
                        0 if !is_bad => {
                            // The answer is lost after the batch was taken.
                            if !taken {
                                seen.taken.push(key.clone());
                            }
                            Outcome::Retry { reason }
                        }
                        1 => Outcome::Wait {
                            pause: Duration::from_secs(2),
                            reason,
                        },
                        _ => Outcome::Park { reason },
                    }
                }
            };
            self.fuse.point().await;
            outcome
        })
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
