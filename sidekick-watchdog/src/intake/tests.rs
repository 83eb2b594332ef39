//! Real sessions, a committer in memory, and the trouble between them.

use std::collections::HashMap;
use std::path::Path;
use std::sync::{Condvar, Mutex};
use std::time::{Duration, Instant};

use sidekick_ipc::attach::Attachment;
use sidekick_ipc::heartbeat::Phase;
use sidekick_ipc::session::{RefusedCause, Session, SessionOptions, WhenFull};
use sidekick_ipc::tree::{Pattern, StoreQuery, StoreResult, WatchBatch};
use uuid::Uuid;

use super::*;
use crate::books::Refused;
use crate::slab::{OpAt, RingCheckpoint, Slab};

mod requests;

const PATIENCE: Duration = Duration::from_secs(120);
/// How long something that must not happen is waited for.
const NEVER: Duration = Duration::from_millis(300);

#[derive(Default)]
struct Seen {
    /// Launches in the order in which they were opened.
    opened: Vec<u32>,
    next_seq: HashMap<Uuid, u64>,
    checkpoints: HashMap<Uuid, RingCheckpoint>,
    ended: Vec<SessionEnding>,
    refused: Refused,
    later_left: u32,
    /// A session that is refused for good.
    refuses: Option<Uuid>,
    appends: u32,
    tree: requests::Tree,
    /// What is appended waits here while there is such a list.
    gate: Option<Vec<requests::Gated>>,
    /// Broken on purpose: nobody waits for the end of earlier sessions.
    restores_early: bool,
    /// To be told of the next change.
    listeners: Vec<Arc<requests::Slot>>,
}

/// Commits in memory, by the store's rules.
#[derive(Default)]
struct Memory {
    seen: Mutex<Seen>,
    changed: Condvar,
    on_append: Mutex<Option<Box<dyn FnMut() + Send>>>,
}

impl Memory {
    fn with<T>(&self, act: impl FnOnce(&mut Seen) -> T) -> T {
        let result = act(&mut self.seen.lock().unwrap());
        self.changed.notify_all();
        result
    }

    /// Whether `done` came true in time.
    fn comes(&self, limit: Duration, mut done: impl FnMut(&Seen) -> bool) -> bool {
        let seen = self.seen.lock().unwrap();
        let (_seen, waited) = self
            .changed
            .wait_timeout_while(seen, limit, |seen| !done(seen))
            .unwrap();
        !waited.timed_out()
    }

    fn commit(&self, slab: &Slab, ops: &[OpAt]) -> Result<(), CommitError> {
        let result = self.with(|seen| {
            seen.appends += 1;
            let next = seen.next_seq.entry(slab.head.epoch).or_insert(1);
            if slab.head.first_seq > *next {
                return Err(CommitError::Hole { expected: *next });
            }
            if seen.later_left > 0 {
                seen.later_left -= 1;
                let reason = "full".to_owned();
                return Err(CommitError::Later { reason });
            }
            let from = *next;
            *next = slab.head.next_seq().max(*next);
            seen.checkpoints
                .insert(slab.head.epoch, slab.head.checkpoint);
            seen.tree.apply(slab, ops, from);
            Ok(())
        });
        self.wake_all();
        result
    }

    fn committed(&self, epoch: Uuid) -> u64 {
        self.with(|seen| seen.next_seq.get(&epoch).map_or(0, |next| next - 1))
    }
}

impl Committer for Memory {
    fn open(&self, opening: &SessionOpening) -> Result<SessionResume, CommitError> {
        let epoch = opening.epoch;
        if self.with(|seen| seen.refuses) == Some(epoch) {
            let reason = "too old".to_owned();
            return Err(CommitError::Refused { epoch, reason });
        }
        Ok(self.with(|seen| {
            seen.opened.push(opening.incarnation);
            let checkpoint = seen.checkpoints.get(&opening.epoch);
            SessionResume {
                source: "test".to_owned(),
                next_seq: *seen.next_seq.entry(opening.epoch).or_insert(1),
                checkpoint: checkpoint.copied().unwrap_or_default(),
                ended: false,
                tail_unknown: false,
            }
        }))
    }

    fn append(&self, slab: Slab, ops: Vec<OpAt>) -> PendingAppend {
        if let Some(act) = &mut *self.on_append.lock().unwrap() {
            act();
        }
        if let Some(waiting) = &mut self.seen.lock().unwrap().gate {
            let slot = Arc::<requests::Slot>::default();
            let pending = requests::Pending(Arc::clone(&slot));
            waiting.push(requests::Gated { slab, ops, slot });
            self.changed.notify_all();
            return Box::pin(pending);
        }
        Box::pin(std::future::ready(self.commit(&slab, &ops)))
    }

    fn end(&self, ending: &SessionEnding) -> Result<(), CommitError> {
        self.with(|seen| seen.ended.push(ending.clone()));
        self.wake_all();
        Ok(())
    }

    fn refused(&self, refused: &Refused) {
        self.with(|seen| seen.refused.add(refused));
    }

    fn query(&self, asker: &Asker, query: &StoreQuery) -> StoreResult {
        self.with(|seen| seen.tree.query(asker, query))
    }

    fn answers(&self, asker: &Asker, after: u64) -> Vec<(u64, StoreResult)> {
        self.with(|seen| seen.tree.answers(asker, after))
    }

    fn checkpoints(&self, _asker: &Asker) -> (u64, u64) {
        self.with(|seen| seen.tree.kept())
    }

    fn earlier_ended(&self, asker: &Asker, rings: &[Uuid]) -> bool {
        self.with(|seen| seen.earlier_ended(asker, rings))
    }

    fn revision(&self) -> u64 {
        self.with(|seen| seen.tree.revision())
    }

    fn events(&self, pattern: &Pattern, revision: u64) -> WatchBatch {
        self.with(|seen| seen.tree.events(pattern, revision))
    }

    fn changed(&self) -> Changed {
        let change = requests::Pending(self.next_change());
        Box::pin(async {
            let _ = change.await;
        })
    }
}

fn session(dir: &Path, launch: u32) -> Session {
    Session::create(SessionOptions {
        runtime_dir: dir.to_owned(),
        launch,
        incarnation: launch,
        ring_bytes: 64 << 10,
        when_full: WhenFull::Spill,
        block_max: Duration::ZERO,
        spill_bytes_max: 64 << 20,
        keep: Vec::new(),
        library_version: "test".to_owned(),
        game_version: String::new(),
    })
    .unwrap()
}

fn start(dir: &Path, memory: &Arc<Memory>, slab_bytes_max: usize) -> Intake {
    start_with(dir, memory, slab_bytes_max, |_| {})
}

fn start_with(
    dir: &Path,
    memory: &Arc<Memory>,
    slab_bytes_max: usize,
    on_event: impl Fn(IntakeEvent) + Send + Sync + 'static,
) -> Intake {
    let config = IntakeConfig {
        runtime_dir: dir.to_owned(),
        source: "test".to_owned(),
        slab_bytes_max,
        in_flight_bytes_max: 4 * slab_bytes_max,
    };
    let intake = Intake::spawn(config, memory.clone(), Arc::new(on_event)).unwrap();
    let files = sidekick_ipc::scan(dir).unwrap();
    intake.expect(files.last().map_or(1, |file| file.launch));
    intake
}

fn directory() -> tempfile::TempDir {
    tempfile::tempdir().unwrap()
}

/// Gives a file a second name, which makes readers refuse it until the name is gone.
fn refuse(path: &Path) -> std::path::PathBuf {
    let second = path.with_extension("second");
    std::fs::hard_link(path, &second).unwrap();
    second
}

fn files(dir: &Path, extension: &str) -> Vec<PathBuf> {
    let entries = std::fs::read_dir(dir).unwrap();
    let mut files: Vec<PathBuf> = entries
        .map(|entry| entry.unwrap().path())
        .filter(|path| path.extension().is_some_and(|found| found == extension))
        .collect();
    files.sort();
    files
}

#[test]
fn a_spill_file_that_cannot_be_read_now_does_not_end_the_session() {
    let dir = directory();
    let engine = session(dir.path(), 1);
    let epoch = engine.epoch();
    while files(dir.path(), "spill").is_empty() {
        engine.record("stream", &[7; 4000]).unwrap();
    }
    let recorded = engine.record("stream", &[7; 4000]).unwrap();
    drop(engine);
    let second = refuse(&files(dir.path(), "spill")[0]);
    let memory = Arc::new(Memory::default());
    let intake = start(dir.path(), &memory, 1 << 20);
    assert!(
        !memory.comes(NEVER, |seen| !seen.ended.is_empty()),
        "ended at {} of {recorded}",
        memory.committed(epoch)
    );
    std::fs::remove_file(second).unwrap();
    assert!(memory.comes(PATIENCE, |seen| !seen.ended.is_empty()));
    assert_eq!(memory.committed(epoch), recorded);
    assert!(memory.with(|seen| seen.ended[0].tail_known));
    intake.stop();
}

#[test]
fn a_ring_that_cannot_be_opened_now_is_opened_later_and_told_of_once() {
    let dir = directory();
    let engine = session(dir.path(), 1);
    let recorded = engine.record("stream", b"x").unwrap();
    let epoch = engine.epoch();
    drop(engine);
    let second = refuse(&files(dir.path(), "ring")[0]);
    let memory = Arc::new(Memory::default());
    let (refusals, refused) = std::sync::mpsc::channel();
    let refusals = Mutex::new(refusals);
    let intake = start_with(dir.path(), &memory, 1 << 20, move |event| {
        if matches!(event, IntakeEvent::Refused { .. }) {
            let _ = refusals.lock().unwrap().send(());
        }
    });
    refused.recv_timeout(PATIENCE).expect("told");
    intake.rescan();
    assert!(refused.recv_timeout(NEVER).is_err(), "told once");
    std::fs::remove_file(second).unwrap();
    intake.rescan();
    assert!(memory.comes(PATIENCE, |seen| !seen.ended.is_empty()));
    assert_eq!(memory.committed(epoch), recorded);
    intake.stop();
}

#[test]
fn a_next_ring_that_cannot_be_opened_now_does_not_end_the_session() {
    let dir = directory();
    let engine = session(dir.path(), 1);
    engine.record("stream", b"old").unwrap();
    let file = sidekick_ipc::scan(dir.path()).unwrap().remove(0);
    let attachment = Attachment::open(&file).unwrap();
    attachment.controls().set_rotate_to(1);
    engine.on_frame(Phase::Running);
    drop(attachment);
    let recorded = engine.record("stream", b"new").unwrap();
    let rings = files(dir.path(), "ring");
    assert_eq!(rings.len(), 2, "it rotated");
    let second = refuse(&rings[1]);
    let memory = Arc::new(Memory::default());
    let intake = start(dir.path(), &memory, 1 << 20);
    assert!(
        !memory.comes(NEVER, |seen| !seen.ended.is_empty()),
        "the engine lives"
    );
    std::fs::remove_file(second).unwrap();
    let epoch = engine.epoch();
    assert!(memory.comes(PATIENCE, |seen| seen.next_seq[&epoch] == recorded + 1));
    assert!(memory.with(|seen| seen.ended.is_empty()));
    intake.stop();
}

/// Asking anew where a session stands is one more entry in the log, and a busy game would have asked at each frame.
#[test]
fn a_full_store_is_not_asked_again_and_again() {
    let dir = directory();
    let engine = session(dir.path(), 1);
    let recorded = engine.record("stream", b"x").unwrap();
    let memory = Arc::new(Memory::default());
    memory.with(|seen| seen.later_left = 4);
    let intake = start(dir.path(), &memory, 1 << 20);
    let epoch = engine.epoch();
    assert!(memory.comes(PATIENCE, |seen| {
        engine.on_frame(Phase::Running);
        seen.next_seq.get(&epoch) == Some(&(recorded + 1))
    }));
    assert_eq!(
        memory.with(|seen| (seen.opened.clone(), seen.appends)),
        (vec![1], 5)
    );
    intake.stop();
}

#[test]
fn a_game_that_never_pauses_does_not_hold_up_the_end() {
    let dir = directory();
    let engine = Arc::new(session(dir.path(), 1));
    engine.record("stream", b"x").unwrap();
    let memory = Arc::new(Memory::default());
    let writer = Arc::clone(&engine);
    *memory.on_append.lock().unwrap() = Some(Box::new(move || {
        let _ = writer.record("stream", b"x");
    }));
    let intake = start(dir.path(), &memory, 1 << 20);
    assert!(memory.comes(PATIENCE, |seen| seen.appends > 2));
    let (stopped, is_stopped) = std::sync::mpsc::channel();
    std::thread::spawn(move || {
        intake.stop();
        let _ = stopped.send(());
    });
    is_stopped.recv_timeout(PATIENCE).expect("stop returns");
    assert!(memory.with(|seen| seen.ended.is_empty()));
}

/// The store takes no session below the highest launch that it knows.
#[test]
fn sessions_are_opened_in_the_order_of_their_launches() {
    let dir = directory();
    for launch in 1..=3 {
        drop(session(dir.path(), launch));
    }
    let memory = Arc::new(Memory::default());
    let watched = Arc::clone(&memory);
    let intake = start_with(dir.path(), &memory, 1 << 20, move |event| {
        // The first one dawdles.
        if matches!(&event, IntakeEvent::Attached(session) if session.info.launch == 1) {
            watched.comes(NEVER, |seen| seen.opened.contains(&3));
        }
    });
    assert!(memory.comes(PATIENCE, |seen| seen.ended.len() == 3));
    assert_eq!(memory.with(|seen| seen.opened.clone()), [1, 2, 3]);
    intake.stop();
}

/// An older engine that lives beside the newer one: its session is opened in its turn, nothing is taken from its ring
/// while it lives, and all that it recorded is taken once it is dead.
#[test]
fn a_stale_engines_ring_is_left_alone_until_it_is_dead() {
    let dir = directory();
    let old = session(dir.path(), 1);
    let recorded = old.record("stream", b"x").unwrap();
    let new = session(dir.path(), 2);
    new.record("stream", b"x").unwrap();
    let (old_epoch, new_epoch) = (old.epoch(), new.epoch());
    let memory = Arc::new(Memory::default());
    let (told, stale) = std::sync::mpsc::channel();
    let told = Mutex::new(told);
    let intake = start_with(dir.path(), &memory, 1 << 20, move |event| {
        if let IntakeEvent::Stale { info, .. } = event {
            told.lock().unwrap().send(info.launch).unwrap();
        }
    });
    assert_eq!(stale.recv_timeout(PATIENCE), Ok(1));
    assert!(memory.comes(PATIENCE, |seen| seen.next_seq.get(&new_epoch) == Some(&2)));
    // It goes on as if nothing had happened, but what it would record is refused.
    assert_eq!(old.record("stream", b"y"), Err(RefusedCause::Fenced));
    old.on_frame(Phase::Running);
    assert!(!memory.comes(NEVER, |seen| seen.next_seq[&old_epoch] > 1));
    assert_eq!(memory.with(|seen| seen.opened.clone()), [1, 2]);
    drop(old);
    assert!(memory.comes(PATIENCE, |seen| !seen.ended.is_empty()));
    assert_eq!(memory.committed(old_epoch), recorded);
    assert!(memory.with(|seen| seen.ended[0].tail_known));
    intake.stop();
}

/// The same for one that was drained already when the newer one came.
#[test]
fn an_engine_that_becomes_stale_is_drained_no_more() {
    let dir = directory();
    let old = session(dir.path(), 1);
    old.record("stream", b"x").unwrap();
    let epoch = old.epoch();
    let memory = Arc::new(Memory::default());
    let (told, stale) = std::sync::mpsc::channel();
    let told = Mutex::new(told);
    let intake = start_with(dir.path(), &memory, 1 << 20, move |event| {
        if let IntakeEvent::Stale { info, .. } = event {
            told.lock().unwrap().send(info.launch).unwrap();
        }
    });
    assert!(memory.comes(PATIENCE, |seen| seen.next_seq.get(&epoch) == Some(&2)));
    intake.expect(2);
    assert_eq!(stale.recv_timeout(PATIENCE), Ok(1));
    assert_eq!(old.record("stream", b"y"), Err(RefusedCause::Fenced));
    old.on_frame(Phase::Running);
    assert!(!memory.comes(NEVER, |seen| seen.next_seq[&epoch] > 2));
    drop(old);
    assert!(memory.comes(PATIENCE, |seen| !seen.ended.is_empty()));
    assert_eq!(memory.committed(epoch), 1);
    intake.stop();
}

/// A ring of a launch that never was must not shut out those to come.
#[test]
fn a_ring_of_a_launch_that_was_never_made_is_not_opened() {
    let dir = directory();
    let engine = session(dir.path(), 1);
    engine.record("stream", b"x").unwrap();
    let memory = Arc::new(Memory::default());
    let intake = start(dir.path(), &memory, 1 << 20);
    drop(session(dir.path(), 9));
    intake.rescan();
    drop(engine);
    assert!(memory.comes(PATIENCE, |seen| !seen.ended.is_empty()));
    assert_eq!(memory.with(|seen| seen.opened.clone()), [1]);
    intake.expect(9);
    assert!(memory.comes(PATIENCE, |seen| seen.ended.len() == 2));
    intake.stop();
}

/// What the session's end tells: gaps (count, cause) and whether the tail is unknown.
fn told(ending: &SessionEnding) -> (Vec<(u64, u8)>, bool) {
    let Some(slab) = &ending.last else {
        return (Vec::new(), false);
    };
    let (mut gaps, mut unknown) = (Vec::new(), false);
    let mut next_seq = slab.head.first_seq;
    for frame in sidekick_ipc::frames(&slab.frames, &slab.head.epoch) {
        let frame = frame.unwrap();
        assert_eq!(frame.header.seq, next_seq);
        next_seq += 1;
        if let Ok(gap) = sidekick_ipc::Gap::parse(frame.payload) {
            gaps.push((gap.count, gap.cause));
        } else {
            let hole = sidekick_ipc::Hole::parse(frame.payload).unwrap();
            assert_eq!(hole.cause, sidekick_ipc::frame::hole_cause::TAIL_UNKNOWN);
            unknown = true;
        }
    }
    assert_eq!(slab.head.next_seq(), next_seq);
    (gaps, unknown)
}

/// Waits for a session's end; gives back what was committed with it, and its counts.
fn ends(dir: &Path) -> (SessionEnding, u64, Arc<SessionProgress>) {
    let memory = Arc::new(Memory::default());
    let (ended, is_ended) = std::sync::mpsc::channel();
    let ended = Mutex::new(ended);
    let intake = start_with(dir, &memory, 1 << 20, move |event| {
        if let IntakeEvent::Ended { progress, .. } = event {
            ended.lock().unwrap().send(progress).unwrap();
        }
    });
    let progress = is_ended.recv_timeout(PATIENCE).expect("the session's end");
    intake.stop();
    assert!(files(dir, "ring").is_empty());
    let ending = memory.with(|seen| seen.ended.remove(0));
    let committed = memory.committed(ending.epoch);
    (ending, committed, progress)
}

#[test]
fn an_orderly_end_has_nothing_more_to_tell() {
    let dir = directory();
    let engine = session(dir.path(), 1);
    engine.record("stream", b"x").unwrap();
    drop(engine);
    let (ending, committed, progress) = ends(dir.path());
    assert!(ending.tail_known && ending.last.is_none());
    assert_eq!(committed, 1);
    assert!(!progress.tail_unknown.load(Ordering::Relaxed));
}

/// No number tells how much is lost, so a gap of unknown size does.
#[test]
fn damage_in_the_last_record_ends_the_session_with_a_gap() {
    use std::os::unix::fs::FileExt;

    let dir = directory();
    let engine = session(dir.path(), 1);
    for _ in 0..3 {
        engine.record("stream", b"value").unwrap();
    }
    let last = engine.record("stream", b"victim").unwrap();
    drop(engine);
    let ring = files(dir.path(), "ring").remove(0);
    let bytes = std::fs::read(&ring).unwrap();
    let at = bytes.windows(6).position(|found| found == b"victim");
    let file = std::fs::OpenOptions::new().write(true).open(&ring).unwrap();
    file.write_all_at(b"?", at.unwrap() as u64).unwrap();
    let (ending, committed, progress) = ends(dir.path());
    assert_eq!(committed, last - 1);
    assert_eq!(told(&ending), (vec![], true));
    assert_eq!(ending.last.unwrap().head.first_seq, last);
    assert!(!ending.tail_known);
    assert!(progress.tail_unknown.load(Ordering::Relaxed));
    assert_eq!(progress.holes.load(Ordering::Relaxed), 1);
}

/// A session whose ring is full, and which has refused so many records.
fn full_session(dir: &Path, refusals: u64) -> Session {
    let engine = Session::create(SessionOptions {
        runtime_dir: dir.to_owned(),
        launch: 1,
        incarnation: 1,
        ring_bytes: 64 << 10,
        when_full: WhenFull::Refuse,
        block_max: Duration::ZERO,
        spill_bytes_max: 0,
        keep: Vec::new(),
        library_version: "test".to_owned(),
        game_version: String::new(),
    })
    .unwrap();
    let mut refused = 0;
    while refused < refusals {
        refused += u64::from(engine.record("stream", &[7; 4000]).is_err());
        engine.on_frame(Phase::Running);
    }
    engine
}

fn refused_full(count: u64) -> Refused {
    Refused {
        full: count,
        ..Refused::default()
    }
}

/// The engine tells of them once there is room again. The disk is full then, so what it tells is read more than once.
#[test]
fn refusals_that_a_frame_tells_of_are_counted_once_by_their_cause() {
    let dir = directory();
    let engine = full_session(dir.path(), 7);
    let memory = Arc::new(Memory::default());
    let (told, is_told) = std::sync::mpsc::channel();
    let told = Mutex::new(told);
    let intake = start_with(dir.path(), &memory, 1 << 20, move |event| {
        if let IntakeEvent::Attached(AttachedSession { progress, .. })
        | IntakeEvent::Ended { progress, .. } = event
        {
            told.lock().unwrap().send(progress).unwrap();
        }
    });
    let progress = is_told.recv_timeout(PATIENCE).unwrap();
    let last = engine.last_seq();
    let epoch = engine.epoch();
    let has = |last| memory.comes(PATIENCE, |seen| seen.next_seq.get(&epoch) > Some(&last));
    assert!(has(last));
    assert!(progress.refused_by().is_empty(), "nothing is told of yet");
    memory.with(|seen| seen.later_left = 2);
    // Room is given back a moment after it is committed.
    while engine.last_seq() == last {
        engine.on_frame(Phase::Running);
        std::thread::yield_now();
    }
    let last = engine.record("stream", b"x").unwrap();
    assert!(has(last));
    drop(engine);
    let progress = is_told.recv_timeout(PATIENCE).unwrap();
    assert_eq!(progress.refused_by(), refused_full(7));
    assert_eq!(memory.with(|seen| seen.refused), refused_full(7));
    intake.stop();
}

/// The engine dies before there is room for the frame that would tell of them.
#[test]
fn refusals_that_no_frame_told_of_are_told_at_the_end() {
    let dir = directory();
    let engine = full_session(dir.path(), 11);
    let last = engine.last_seq();
    drop(engine);
    let (ending, committed, progress) = ends(dir.path());
    assert_eq!(committed, last);
    let cause = sidekick_ipc::frame::gap_cause::FULL;
    assert_eq!(told(&ending), (vec![(11, cause)], false));
    assert_eq!(ending.last.unwrap().head.first_seq, last + 1);
    assert_eq!(progress.refused_untold.load(Ordering::Relaxed), 11);
    assert_eq!(progress.refused_by(), refused_full(11));
    assert_eq!(progress.committed.load(Ordering::Relaxed), last + 1);
}

#[test]
fn waiting_for_a_full_store_is_over_when_it_takes_records_again() {
    let dir = directory();
    let engine = session(dir.path(), 1);
    let recorded = engine.record("stream", b"x").unwrap();
    let memory = Arc::new(Memory::default());
    memory.with(|seen| seen.later_left = 2);
    let (attached, is_attached) = std::sync::mpsc::channel();
    let attached = Mutex::new(attached);
    let intake = start_with(dir.path(), &memory, 1 << 20, move |event| {
        if let IntakeEvent::Attached(session) = event {
            attached.lock().unwrap().send(session.progress).unwrap();
        }
    });
    let progress = is_attached.recv_timeout(PATIENCE).unwrap();
    let waits = || progress.waits.lock().unwrap().clone();
    let comes = |what: &dyn Fn() -> bool| {
        let deadline = Instant::now() + PATIENCE;
        while !what() {
            assert!(Instant::now() < deadline);
            std::thread::yield_now();
        }
    };
    comes(&|| waits().as_deref() == Some("full"));
    comes(&|| progress.committed.load(Ordering::Acquire) == recorded);
    comes(&|| waits().is_none());
    intake.stop();
}

/// One engine command that runs two engines in turn: the second one's records are taken when the first is through.
#[test]
fn two_processes_of_one_launch_are_drained_in_turn() {
    let dir = directory();
    let first = session(dir.path(), 1);
    first.record("stream", b"x").unwrap();
    let memory = Arc::new(Memory::default());
    let mut epochs = vec![first.epoch()];
    // Until their names, by chance, are not in the order of their beginnings.
    while epochs.is_sorted() {
        let next = session(dir.path(), 1);
        next.record("stream", b"y").unwrap();
        epochs.push(next.epoch());
    }
    let intake = start(dir.path(), &memory, 1 << 20);
    assert!(memory.comes(PATIENCE, |seen| seen.next_seq.contains_key(&epochs[0])));
    assert!(!memory.comes(NEVER, |seen| seen.next_seq.len() > 1));
    drop(first);
    assert!(memory.comes(PATIENCE, |seen| {
        intake.rescan();
        seen.ended.len() == epochs.len()
    }));
    let ended: Vec<Uuid> = memory.with(|seen| seen.ended.iter().map(|end| end.epoch).collect());
    assert_eq!(ended, epochs);
    assert!(epochs.iter().all(|epoch| memory.committed(*epoch) == 1));
    intake.stop();
}

#[test]
fn a_session_that_the_store_refuses_is_told() {
    let dir = directory();
    let engine = session(dir.path(), 1);
    let epoch = engine.epoch();
    engine.record("stream", b"x").unwrap();
    drop(engine);
    let memory = Arc::new(Memory::default());
    memory.with(|seen| seen.refuses = Some(epoch));
    let (told, is_told) = std::sync::mpsc::channel();
    let told = Mutex::new(told);
    let intake = start_with(dir.path(), &memory, 1 << 20, move |event| {
        if let IntakeEvent::ShutOut { launch, path, .. } = event {
            told.lock().unwrap().send((launch, path)).unwrap();
        }
    });
    let ring = files(dir.path(), "ring").remove(0);
    assert_eq!(is_told.recv_timeout(PATIENCE), Ok((1, ring.clone())));
    intake.rescan();
    assert!(is_told.recv_timeout(NEVER).is_err(), "told once");
    intake.stop();
    assert!(ring.exists());
}
