//! What games ask of the store, and what they hear.

use std::collections::BTreeMap;
use std::pin::Pin;
use std::sync::atomic::AtomicU32;
use std::task::{Context, Poll, Waker};

use sidekick_ipc::session::{CheckpointRef, Message};
use sidekick_ipc::tree::{
    Answer, CHECKPOINT_KEYS_MAX, CheckpointKind, NodeInfo, Path as TreePath, Put, RestoreStatus,
    Restored, StoreOp, WatchEvent, WatchKind, decode_request,
};

use super::*;

/// What becomes of a slab.
type Settled = Result<(), CommitError>;

/// A slab that waits to be committed.
pub(super) struct Gated {
    pub(super) slab: Slab,
    pub(super) ops: Vec<OpAt>,
    pub(super) slot: Arc<Slot>,
}

/// A future that somebody else makes ready.
#[derive(Default)]
pub(super) struct Slot(Mutex<(Option<Settled>, Option<Waker>)>);

impl Slot {
    pub(super) fn fill(&self, result: Result<(), CommitError>) {
        let mut slot = self.0.lock().unwrap();
        slot.0 = Some(result);
        let waker = slot.1.take();
        drop(slot);
        if let Some(waker) = waker {
            waker.wake();
        }
    }

    fn take(&self, context: &Context<'_>) -> Poll<Result<(), CommitError>> {
        let mut slot = self.0.lock().unwrap();
        match slot.0.take() {
            Some(result) => Poll::Ready(result),
            None => {
                slot.1 = Some(context.waker().clone());
                Poll::Pending
            }
        }
    }
}

pub(super) struct Pending(pub(super) Arc<Slot>);

impl Future for Pending {
    type Output = Result<(), CommitError>;

    fn poll(self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Self::Output> {
        self.0.take(context)
    }
}

/// A tree of puts and full checkpoints, as small as can be.
#[derive(Default)]
pub(super) struct Tree {
    nodes: BTreeMap<TreePath, Vec<u8>>,
    events: Vec<WatchEvent>,
    answers: HashMap<Uuid, BTreeMap<u64, StoreResult>>,
    /// Versions that were applied, in order.
    checkpoints: Vec<u64>,
}

fn ok(answer: Answer) -> StoreResult {
    StoreResult::Ok(Answer {
        succeeded: true,
        ..answer
    })
}

impl Tree {
    pub(super) fn apply(&mut self, slab: &Slab, ops: &[OpAt], next_seq: u64) {
        for op in ops.iter().filter(|op| op.last_seq >= next_seq) {
            let parts = op.fragments.iter().flat_map(|(offset, len)| {
                &slab.frames[*offset as usize..(*offset + *len) as usize]
            });
            let request: Vec<u8> = parts.copied().collect();
            let (acked, op_words) = decode_request::<StoreOp>(&request).unwrap();
            let answers = self.answers.entry(slab.head.epoch).or_default();
            *answers = answers.split_off(&(acked + 1));
            match op_words.unwrap() {
                StoreOp::Put(put) => {
                    let value = put.value.unwrap_or_default();
                    self.nodes.insert(put.path.clone(), value.clone());
                    let revision = self.events.len() as u64 + 1;
                    self.events.push(WatchEvent {
                        revision,
                        path: put.path,
                        kind: WatchKind::Put {
                            version: 1,
                            value: Some(value),
                        },
                    });
                }
                StoreOp::Checkpoint { version, .. } => self.checkpoints.push(version),
                other => panic!("{other:?}"),
            }
            let revision = self.events.len() as u64;
            answers.insert(
                op.last_seq,
                ok(Answer {
                    revision,
                    ..Answer::default()
                }),
            );
        }
    }

    pub(super) fn query(&self, _asker: &Asker, query: &StoreQuery) -> StoreResult {
        match query {
            StoreQuery::Get { path, .. } => {
                let value = self.nodes.get(path).cloned();
                ok(Answer {
                    version: 1,
                    nodes: vec![NodeInfo {
                        path: path.clone(),
                        version: 1,
                        child_version: 1,
                        child_count: 0,
                        has_value: value.is_some(),
                        value,
                        lease: 0,
                    }],
                    ..Answer::default()
                })
            }
            StoreQuery::Restore { .. } => StoreResult::Restored(Restored {
                status: RestoreStatus::Restored,
                version: self.checkpoints.last().copied().unwrap_or(0),
                ..Restored::default()
            }),
            other => panic!("{other:?}"),
        }
    }

    pub(super) fn answers(&self, asker: &Asker, after: u64) -> Vec<(u64, StoreResult)> {
        let answers = self.answers.get(&asker.epoch);
        let mut after = answers.into_iter().flat_map(|of| of.range(after + 1..));
        // One at a time will do.
        let next = after.next();
        next.map(|(number, result)| (*number, result.clone()))
            .into_iter()
            .collect()
    }

    /// Its checkpoints have a key each and no bytes.
    pub(super) fn kept(&self) -> (u64, u64) {
        (self.checkpoints.len() as u64, 0)
    }

    pub(super) fn revision(&self) -> u64 {
        self.events.len() as u64
    }

    pub(super) fn events(&self, pattern: &Pattern, revision: u64) -> WatchBatch {
        let matching = self.events.iter().filter(|event| event.revision > revision);
        WatchBatch {
            revision: self.revision(),
            compacted: false,
            events: matching
                .filter(|event| pattern.matches(&event.path))
                .cloned()
                .collect(),
        }
    }
}

impl Seen {
    pub(super) fn earlier_ended(&self, asker: &Asker, rings: &[Uuid]) -> bool {
        if self.restores_early {
            return true;
        }
        let has_ended = |epoch: &Uuid| self.ended.iter().any(|end| end.epoch == *epoch);
        let mut earlier = self.next_seq.keys().filter(|epoch| **epoch != asker.epoch);
        earlier.all(has_ended) && rings.iter().all(has_ended)
    }
}

impl Memory {
    pub(super) fn next_change(&self) -> Arc<Slot> {
        let slot = Arc::<Slot>::default();
        self.seen.lock().unwrap().listeners.push(Arc::clone(&slot));
        slot
    }

    pub(super) fn wake_all(&self) {
        let listeners = std::mem::take(&mut self.seen.lock().unwrap().listeners);
        for slot in listeners {
            slot.fill(Ok(()));
        }
    }

    /// Nodes are put by somebody else.
    fn happen(&self, paths: &[&str]) {
        self.with(|seen| {
            for at in paths {
                let revision = seen.tree.revision() + 1;
                let (version, value) = (1, None);
                seen.tree.events.push(WatchEvent {
                    revision,
                    path: path(at),
                    kind: WatchKind::Put { version, value },
                });
            }
        });
        self.wake_all();
    }

    fn close_gate(&self) {
        self.with(|seen| seen.gate = Some(Vec::new()));
    }

    /// Commits what has waited, and what comes from now on.
    fn open_gate(&self) {
        for Gated { slab, ops, slot } in self.with(|seen| seen.gate.take()).unwrap_or_default() {
            slot.fill(self.commit(&slab, &ops));
        }
    }
}

fn path(text: &str) -> TreePath {
    TreePath::new(text).unwrap()
}

fn put(at: &str, value: &[u8]) -> StoreOp {
    StoreOp::Put(Put::new(path(at), Some(value.to_vec())))
}

fn get(at: &str) -> StoreQuery {
    StoreQuery::Get {
        path: path(at),
        linearizable: false,
    }
}

/// Waits for the session's next message.
fn message(engine: &Session, limit: Duration) -> Option<Message> {
    let deadline = Instant::now() + limit;
    loop {
        if let Some(message) = engine.next_message() {
            return Some(message);
        }
        let left = deadline.saturating_duration_since(Instant::now());
        if left.is_zero() {
            return None;
        }
        engine.wait_message(left);
    }
}

fn reply(engine: &Session, number: u64) -> StoreResult {
    loop {
        match message(engine, PATIENCE) {
            Some(Message::Reply { number: of, result }) if of == number => return result,
            Some(Message::Reply { .. } | Message::Other(_)) => {}
            other => panic!("instead of the answer to {number}: {other:?}"),
        }
    }
}

fn value(result: StoreResult) -> Option<Vec<u8>> {
    match result {
        StoreResult::Ok(answer) => answer.value().map(<[u8]>::to_vec),
        other => panic!("{other:?}"),
    }
}

#[test]
fn a_query_sees_every_operation_before_it() {
    let dir = directory();
    let engine = session(dir.path(), 1);
    let memory = Arc::new(Memory::default());
    let intake = start(dir.path(), &memory, 1 << 20);
    memory.close_gate();
    let first = engine.op(&put("/a", b"1")).unwrap();
    let read = engine.query(&get("/a")).unwrap();
    engine.kick();
    assert!(
        message(&engine, NEVER).is_none(),
        "nothing is committed yet"
    );
    memory.open_gate();
    assert!(matches!(reply(&engine, first), StoreResult::Ok(_)));
    assert_eq!(value(reply(&engine, read)), Some(b"1".to_vec()));
    intake.stop();
}

/// Nothing that a query would have to see is on its way: it waits for no disk, not even for its own frame's.
#[test]
fn a_query_behind_records_alone_waits_for_no_disk() {
    let dir = directory();
    let engine = session(dir.path(), 1);
    let memory = Arc::new(Memory::default());
    let intake = start(dir.path(), &memory, 1 << 20);
    memory.close_gate();
    engine.record("stream", b"x").unwrap();
    engine.kick();
    assert!(memory.comes(PATIENCE, |seen| {
        seen.gate
            .as_ref()
            .is_some_and(|waiting| !waiting.is_empty())
    }));
    let read = engine.query(&get("/a")).unwrap();
    assert_eq!(value(reply(&engine, read)), None);
    memory.open_gate();
    intake.stop();
    assert_eq!(memory.committed(engine.epoch()), engine.last_seq());
}

#[test]
fn queries_alone_are_committed_together() {
    let dir = directory();
    let engine = session(dir.path(), 1);
    let memory = Arc::new(Memory::default());
    let intake = start(dir.path(), &memory, 1 << 20);
    for _ in 0..50 {
        let read = engine.query(&get("/a")).unwrap();
        reply(&engine, read);
    }
    let (epoch, last) = (engine.epoch(), engine.last_seq());
    assert!(memory.comes(PATIENCE, |seen| seen.next_seq[&epoch] == last + 1));
    let appends = memory.with(|seen| seen.appends);
    assert!(appends < 50, "{appends} writes for 50 queries");
    intake.stop();
}

/// Run by hand on a quiet machine: how long a game waits for a value, from question to answer.
#[test]
#[ignore = "tells times, holds none"]
fn how_long_a_read_takes() {
    let dir = directory();
    let engine = session(dir.path(), 1);
    let memory = Arc::new(Memory::default());
    let intake = start(dir.path(), &memory, 1 << 20);
    let first = engine.query(&get("/a")).unwrap();
    reply(&engine, first);
    let mut took: Vec<Duration> = (0..2000)
        .map(|_| {
            let begun = Instant::now();
            let read = engine.query(&get("/a")).unwrap();
            reply(&engine, read);
            let took = begun.elapsed();
            // As far apart as two frames' reads, more or less.
            std::thread::sleep(Duration::from_millis(1));
            took
        })
        .collect();
    took.sort_unstable();
    println!(
        "p50 {:?}, p90 {:?}, p99 {:?}",
        took[1000], took[1800], took[1980]
    );
    intake.stop();
}

/// The new watchdog answers what the old one has applied and could not tell any more.
#[test]
fn an_operation_whose_watchdog_died_is_answered_by_the_next() {
    let dir = directory();
    let engine = session(dir.path(), 1);
    let memory = Arc::new(Memory::default());
    let file = sidekick_ipc::scan(dir.path()).unwrap().remove(0);
    let number = engine.op(&put("/a", b"1")).unwrap();
    // What a watchdog does before it dies: commits.
    let mut attachment = Attachment::open(&file).unwrap();
    attachment.resume(1, Default::default());
    let mut frames = Vec::new();
    let drained = attachment.drain(&mut frames, 1 << 20).unwrap();
    let listed = crate::intake::requests::list(&frames, &mut 0, 0);
    let head = crate::slab::SlabHead {
        source: "test".into(),
        epoch: engine.epoch(),
        incarnation: 1,
        realtime_offset_ns: 0,
        first_seq: drained.first_seq,
        count: drained.count,
        checkpoint: RingCheckpoint {
            rotation: 0,
            ring_position: drained.checkpoint.ring_position,
            spill_file: 0,
            spill_offset: 0,
        },
    };
    let frames = frames.into();
    memory.commit(&Slab { head, frames }, &listed.ops).unwrap();
    drop(attachment);

    let intake = start(dir.path(), &memory, 1 << 20);
    assert!(matches!(reply(&engine, number), StoreResult::Ok(_)));
    intake.stop();
    assert_eq!(memory.with(|seen| seen.tree.revision()), 1, "applied once");
}

/// A watchdog that takes a session up amid it does not know how many of its numbers were requests, and shows that.
#[test]
fn who_has_not_read_a_session_from_its_beginning_knows_that() {
    let dir = directory();
    let engine = session(dir.path(), 1);
    let epoch = engine.epoch();
    let memory = Arc::new(Memory::default());
    let read = |last: u64| {
        let (attached, is_attached) = std::sync::mpsc::channel();
        let attached = Mutex::new(attached);
        let intake = start_with(dir.path(), &memory, 1 << 20, move |event| {
            if let IntakeEvent::Attached(session) = event {
                attached.lock().unwrap().send(session.progress).unwrap();
            }
        });
        let progress = is_attached.recv_timeout(PATIENCE).unwrap();
        assert!(memory.comes(PATIENCE, |seen| {
            seen.next_seq.get(&epoch) == Some(&(last + 1))
        }));
        intake.stop();
        let read = [&progress.requests, &progress.read_before];
        read.map(|number| number.load(Ordering::Relaxed))
    };
    engine.record("stream", b"x").unwrap();
    let last = engine.op(&put("/a", b"1")).unwrap();
    assert_eq!(read(last), [1, 0]);
    assert_eq!(read(engine.op(&put("/a", b"2")).unwrap()), [1, last]);
}

#[test]
fn a_watch_tells_of_what_others_do() {
    let dir = directory();
    let (one, other) = (session(dir.path(), 1), session(dir.path(), 1));
    drop(other);
    let memory = Arc::new(Memory::default());
    let intake = start(dir.path(), &memory, 1 << 20);
    let watch = StoreQuery::Watch {
        pattern: Pattern::new("/players/*").unwrap(),
        from_revision: None,
    };
    let number = one.query(&watch).unwrap();
    assert!(matches!(reply(&one, number), StoreResult::Ok(_)));
    // Somebody else, over HTTP.
    memory.happen(&["/players/1", "/elsewhere", "/players/2"]);
    let mut seen = Vec::new();
    while seen.len() < 2 {
        match message(&one, PATIENCE) {
            Some(Message::Events { watch, batch }) => {
                assert_eq!(watch, number);
                seen.extend(batch.events.into_iter().map(|event| event.revision));
            }
            other => panic!("{other:?}"),
        }
    }
    assert_eq!(seen, [1, 3]);
    intake.stop();
}

/// Who has listed an empty store, which has revision 0, and watches from there hears of everything since; who watches from
/// now on does not.
#[test]
fn a_watch_from_revision_0_is_none_from_now() {
    let dir = directory();
    let engine = session(dir.path(), 1);
    let memory = Arc::new(Memory::default());
    let intake = start(dir.path(), &memory, 1 << 20);
    memory.happen(&["/a"]);
    let told = |from_revision| {
        let pattern = Pattern::new("/**").unwrap();
        let watch = StoreQuery::Watch {
            pattern,
            from_revision,
        };
        let number = engine.query(&watch).unwrap();
        match reply(&engine, number) {
            StoreResult::Ok(answer) => answer.revision,
            other => panic!("{other:?}"),
        }
    };
    assert_eq!(told(None), 1);
    assert_eq!(told(Some(0)), 0);
    match message(&engine, PATIENCE) {
        Some(Message::Events { batch, .. }) => assert_eq!(batch.events.len(), 1),
        other => panic!("{other:?}"),
    }
    intake.stop();
}

/// A damaged ring is left for another: what was under way in the old one's downlink is told again.
#[test]
fn watches_and_answers_outlive_a_rotation() {
    let dir = directory();
    let engine = session(dir.path(), 1);
    let memory = Arc::new(Memory::default());
    // As the application does: another number for each ring that is taken up.
    let generation = AtomicU32::new(0);
    let (attached, is_attached) = std::sync::mpsc::channel();
    let attached = Mutex::new(attached);
    let intake = start_with(dir.path(), &memory, 1 << 20, move |event| {
        if let IntakeEvent::Attached(session) = event {
            let next = 1 + generation.fetch_add(1, Ordering::Relaxed);
            session.controls.set_generation(next.into());
            attached.lock().unwrap().send(session.controls).unwrap();
        }
    });
    let controls = is_attached.recv_timeout(PATIENCE).unwrap();
    engine.on_frame(Phase::Running);
    let watch = StoreQuery::Watch {
        pattern: Pattern::new("/a").unwrap(),
        from_revision: None,
    };
    let watch = engine.query(&watch).unwrap();
    assert!(matches!(reply(&engine, watch), StoreResult::Ok(_)));
    controls.set_rotate_to(1);
    engine.on_frame(Phase::Running);
    is_attached.recv_timeout(PATIENCE).expect("the next ring");
    engine.on_frame(Phase::Running);
    let number = engine.op(&put("/a", b"1")).unwrap();
    let (mut is_answered, mut is_told) = (false, false);
    while !(is_answered && is_told) {
        engine.on_frame(Phase::Running);
        match message(&engine, PATIENCE) {
            Some(Message::Reply { number: of, .. }) => is_answered |= of == number,
            Some(Message::Events { watch: of, batch }) => {
                assert_eq!((of, batch.events.len()), (watch, 1));
                is_told = true;
            }
            other => panic!("{other:?}"),
        }
    }
    intake.stop();
}

fn checkpoint<'a>(
    key: &'a str,
    kind: CheckpointKind,
    version: u64,
    value: &'a [u8],
) -> CheckpointRef<'a> {
    CheckpointRef {
        key,
        kind,
        version,
        value,
        frame: 1,
        realtime_ms: 1,
    }
}

/// What a new engine restores while its predecessor's last checkpoint is on its way to a slow disk: the version, and
/// whether it was told before that one was committed. `memory` is how the committer behaves.
fn restored_over_a_slow_disk(memory: &Arc<Memory>) -> (u64, bool) {
    let dir = directory();
    let old = session(dir.path(), 1);
    let intake = start(dir.path(), memory, 1 << 20);
    let old_epoch = old.epoch();
    assert!(memory.comes(PATIENCE, |seen| seen.next_seq.contains_key(&old_epoch)));
    memory.close_gate();
    old.checkpoint(&checkpoint("match", CheckpointKind::Full, 9, &[1]))
        .unwrap();
    old.kick();
    assert!(memory.comes(PATIENCE, |seen| {
        seen.gate
            .as_ref()
            .is_some_and(|waiting| !waiting.is_empty())
    }));
    drop(old);
    let new = session(dir.path(), 2);
    let restore = StoreQuery::Restore {
        key: "match".into(),
        safe: false,
    };
    let restore = new.query(&restore).unwrap();
    let other = new.query(&get("/a")).unwrap();
    intake.expect(2);
    // It holds up nobody else.
    let mut early = None;
    loop {
        match message(&new, PATIENCE) {
            Some(Message::Reply { number, .. }) if number == other => break,
            Some(Message::Reply { number, result }) if number == restore => early = Some(result),
            Some(Message::Other(_)) => {}
            other => panic!("{other:?}"),
        }
    }
    if let (None, Some(Message::Reply { result, .. })) = (&early, message(&new, NEVER)) {
        early = Some(result);
    }
    memory.open_gate();
    let is_early = early.is_some();
    let restored = match early.unwrap_or_else(|| reply(&new, restore)) {
        StoreResult::Restored(restored) => restored.version,
        other => panic!("{other:?}"),
    };
    intake.stop();
    (restored, is_early)
}

/// CORRECTNESS rule 3: the restore waits, the engine does not.
#[test]
fn a_restore_waits_for_the_end_of_earlier_sessions() {
    let memory = Arc::new(Memory::default());
    assert_eq!(restored_over_a_slow_disk(&memory), (9, false));
}

/// The test above can fail: a restore that waits for nobody gives what was before the last checkpoint.
#[test]
fn a_restore_that_does_not_wait_is_noticed() {
    let memory = Arc::new(Memory::default());
    memory.with(|seen| seen.restores_early = true);
    assert_eq!(restored_over_a_slow_disk(&memory), (0, true));
}

/// The engine hears how much is kept before any restore is answered, and again as it commits: what there is no room for is
/// refused at the call.
#[test]
fn a_checkpoint_without_room_is_refused_at_the_call() {
    let dir = directory();
    let memory = Arc::new(Memory::default());
    memory.with(|seen| seen.tree.checkpoints = (1..CHECKPOINT_KEYS_MAX as u64).collect());
    let engine = session(dir.path(), 1);
    let intake = start(dir.path(), &memory, 1 << 20);
    let restore = StoreQuery::Restore {
        key: "match".into(),
        safe: false,
    };
    let asked = engine.query(&restore).unwrap();
    reply(&engine, asked);
    let send = |key| engine.checkpoint(&checkpoint(key, CheckpointKind::Full, 1, &[1]));
    let last = send("last").unwrap();
    assert!(memory.comes(PATIENCE, |seen| seen.tree.checkpoints.len()
        == CHECKPOINT_KEYS_MAX));
    // It counts once, on its way and after it.
    let max = CHECKPOINT_KEYS_MAX;
    assert_eq!(send("more"), Err(RefusedCause::CheckpointKeys { max }));
    send("last").unwrap();
    send("match").unwrap();
    assert!(memory.comes(PATIENCE, |seen| seen.tree.checkpoints.len()
        > CHECKPOINT_KEYS_MAX));
    assert!(engine.last_seq() > last);
    intake.stop();
}

/// An engine writes faster than the watchdog commits: of the full checkpoints of one slab the last one counts.
#[test]
fn only_full_checkpoints_coalesce() {
    let dir = directory();
    let engine = session(dir.path(), 1);
    let send = |key: &str, version, kind| {
        let value = vec![1; 100_000];
        engine
            .checkpoint(&checkpoint(key, kind, version, &value))
            .unwrap()
    };
    let (full, delta) = (CheckpointKind::Full, |base| CheckpointKind::Delta { base });
    send("a", 1, full);
    send("b", 2, full);
    send("a", 3, full);
    send("b", 4, delta(2));
    send("a", 5, full);
    send("b", 6, full);
    send("c", 7, full);
    engine.forget_checkpoint("c").unwrap();
    send("c", 8, full);
    let file = sidekick_ipc::scan(dir.path()).unwrap().remove(0);
    let mut attachment = Attachment::open(&file).unwrap();
    attachment.resume(1, Default::default());
    let mut frames = Vec::new();
    attachment.drain(&mut frames, 16 << 20).unwrap();
    let listed = crate::intake::requests::list(&frames, &mut 0, 0);
    let versions = |ops: &[OpAt]| -> Vec<u64> {
        ops.iter()
            .map(|op| {
                let parts = op
                    .fragments
                    .iter()
                    .flat_map(|(offset, len)| &frames[*offset as usize..(*offset + *len) as usize]);
                let request: Vec<u8> = parts.copied().collect();
                match decode_request::<StoreOp>(&request).unwrap().1.unwrap() {
                    StoreOp::Checkpoint { version, .. } => version,
                    StoreOp::ForgetCheckpoint { .. } => 0,
                    other => panic!("{other:?}"),
                }
            })
            .collect()
    };
    // One that is forgotten at once is needless, too; the forgetting is not.
    assert_eq!(versions(&listed.ops), [2, 4, 5, 6, 0, 8]);
}
