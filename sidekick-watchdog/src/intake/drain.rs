//! Drains one session: ring (and its later rotations) → slabs → committed → acknowledged, until its engine is dead
//! and nothing is left.

use std::collections::VecDeque;
use std::sync::atomic::{AtomicBool, AtomicU32, AtomicU64, Ordering};
use std::sync::mpsc::{Receiver, Sender, channel};
use std::sync::{Arc, Mutex, PoisonError};
use std::task::{Context, Poll};
use std::thread::JoinHandle;
use std::time::{Duration, Instant, SystemTime};

use sidekick_ipc::attach::{AttachError, Attachment, DrainError, ReaderCheckpoint};
use sidekick_ipc::name::RingFileName;
use tracing::{error, info, warn};

use super::answers::Answers;
use super::bell::Bell;
use super::{
    Asker, AttachedSession, Changed, CommitError, Committer, IntakeConfig, IntakeEvent,
    PendingAppend, SessionEnding, SessionOpening, SessionResume, requests,
};
use crate::slab::{OpAt, RingCheckpoint, Slab, SlabHead};

/// Slabs that may be on their way to the disk at once, so that small ones, too, are put together: in the ring, where
/// they take no memory. Their bytes have a bound of their own ([`IntakeConfig::in_flight_bytes_max`]).
const IN_FLIGHT_MAX: usize = 16;
/// Sleep between looks at a silent ring. The engine wakes us; this bounds what a lost wake costs.
const SILENT_MAX: Duration = Duration::from_millis(100);
/// Sleep once a ring has been silent for a while: an idle game should cost nothing.
const IDLE_MAX: Duration = Duration::from_secs(1);
/// Sleep after the store had no room.
const REFUSED_PAUSE: Duration = Duration::from_millis(250);
/// Sleep between looks whether a stale engine is dead.
const STALE_PAUSE: Duration = Duration::from_millis(20);
/// Empty looks in a row after which a ring counts as idle.
const IDLE_AFTER: u32 = 20;
/// Queries alone are not worth a write to the disk: what was answered waits so long for company.
const HELD_MAX: Duration = Duration::from_millis(100);
/// Or until so many bytes of them are there.
const HELD_BYTES_MAX: usize = 16 << 10;
/// Sleep between tries to send while the downlink is full: the engine does not tell when it has read.
const BEHIND_PAUSE: Duration = Duration::from_millis(1);
/// Queries so close to each other come from a thread that waits for each answer: what it asks next is waited for awake.
const IN_A_ROW_MAX: Duration = Duration::from_micros(300);
/// And so long.
const AWAKE_MAX: Duration = Duration::from_micros(50);
/// Sleep between looks whether the rings of earlier sessions are gone.
const ENDS_PAUSE: Duration = Duration::from_millis(5);

/// A session's counts, for status and metrics. Written by its drain thread, read by anyone.
#[derive(Debug, Default)]
pub struct SessionProgress {
    /// The session's UUID, once known.
    pub epoch: uuid::Uuid,
    /// Last sequence number seen in ring or spill.
    pub recorded: AtomicU64,
    /// How many of these numbers are requests to the store, which go to no backend. Counted since this watchdog reads.
    pub requests: AtomicU64,
    /// Everything up to this number is durable.
    pub committed: AtomicU64,
    /// Numbers that were lost to corruption and stand as holes.
    pub holes: AtomicU64,
    /// Bytes copied out of the ring.
    pub bytes: AtomicU64,
    /// Nobody knows what its ring still held when it ended.
    pub tail_unknown: AtomicBool,
    /// Records that the engine refused and did not live to tell of; told at the session's end.
    pub refused_untold: AtomicU64,
    /// Why the store takes no records just now; they wait in the ring.
    pub waits: Mutex<Option<String>>,
}

/// A session's turn to be opened: after those that were found before it. The store takes no session below the highest
/// launch that it knows, so opening a later one first would shut the earlier one out for good.
pub(super) struct Turn {
    /// Closes when the one before is opened.
    before: Option<Receiver<()>>,
    /// Closes when this one is opened, or has given up.
    _opened: Sender<()>,
}

impl Turn {
    /// The next turn after `before`, and what the one after it waits for.
    pub(super) fn after(before: Option<Receiver<()>>) -> (Self, Receiver<()>) {
        let (opened, after) = channel();
        let turn = Self {
            before,
            _opened: opened,
        };
        (turn, after)
    }

    fn wait(&self) {
        if let Some(before) = &self.before {
            // Nothing is ever sent: it ends when the other side is gone.
            let _ = before.recv();
        }
    }
}

/// What the intake thread tells all drain threads.
pub(super) struct Flags {
    /// The watchdog ends.
    pub(super) stop: Arc<AtomicBool>,
    /// The launch that is the engine.
    pub(super) active: Arc<AtomicU32>,
}

/// A drain thread and the means to wake it.
pub(super) struct Session {
    bell: Arc<Bell>,
    epoch: uuid::Uuid,
    /// Gives back whether the session was refused for good.
    thread: JoinHandle<bool>,
}

impl Session {
    pub(super) fn start(
        attachment: Attachment,
        launch: u32,
        config: &IntakeConfig,
        committer: Arc<dyn Committer>,
        on_event: Arc<dyn Fn(IntakeEvent) + Send + Sync>,
        flags: Flags,
        turn: Turn,
    ) -> std::io::Result<Self> {
        let bell = Bell::new(attachment.waker());
        let own_bell = Arc::clone(&bell);
        let epoch = attachment.info().epoch;
        let path = attachment.name().path.clone();
        let progress = Arc::new(SessionProgress {
            epoch: attachment.info().epoch,
            ..SessionProgress::default()
        });
        let config = config.clone();
        let thread = std::thread::Builder::new()
            .name(format!("drain-{launch}"))
            .spawn(move || {
                own_bell.belongs_to_this_thread();
                let drain = Drain {
                    attachment,
                    answers: Answers::new(Asker {
                        source: config.source.clone(),
                        epoch,
                        launch,
                    }),
                    bell: own_bell,
                    held: None,
                    answered_at: None,
                    expects_query: false,
                    last_op: 0,
                    changed: None,
                    source: config.source.clone(),
                    config,
                    committer,
                    stop: flags.stop,
                    active: flags.active,
                    progress: Arc::clone(&progress),
                    in_flight: VecDeque::new(),
                    in_flight_bytes: 0,
                    next_seq: 1,
                    refusals: 0,
                    complained: false,
                    acked_seq: 0,
                    tail_known: true,
                    unreadable: false,
                    settled: (1, ReaderCheckpoint::default()),
                    on_event: Arc::clone(&on_event),
                };
                match drain.run(turn) {
                    Ok(Outcome::Ended) => on_event(IntakeEvent::Ended { launch, progress }),
                    Ok(Outcome::Stopped) => {}
                    Err(error @ (CommitError::Closed | CommitError::Later { .. })) => {
                        let reason = error.to_string();
                        on_event(IntakeEvent::Left { launch, reason });
                    }
                    Err(error) => {
                        let reason = error.to_string();
                        on_event(IntakeEvent::ShutOut {
                            launch,
                            path,
                            reason,
                        });
                        return true;
                    }
                }
                false
            })?;
        Ok(Self {
            bell,
            epoch,
            thread,
        })
    }

    pub(super) fn epoch(&self) -> uuid::Uuid {
        self.epoch
    }

    pub(super) fn wake(&self) {
        self.bell.ring();
    }

    pub(super) fn is_finished(&self) -> bool {
        self.thread.is_finished()
    }

    /// Waits for its end. True when the store refused the session: trying again would change nothing.
    pub(super) fn join(self) -> bool {
        self.thread.join().unwrap_or_else(|_| {
            error!("a drain thread panicked; its ring keeps what is in it");
            false
        })
    }
}

enum Outcome {
    /// The engine is dead, its ring is empty, its end is committed, its files are gone.
    Ended,
    /// The watchdog stops; the engine lives on with its ring.
    Stopped,
}

/// What became of going on to a session's next ring file.
#[derive(PartialEq, Eq)]
enum Rotation {
    /// There is none.
    Last,
    /// It is being read now.
    Next,
    /// There is one, or nobody knows, but it cannot be read now.
    Later,
}

/// A slab on its way, and where the reader stands once it is durable.
struct InFlight {
    pending: PendingAppend,
    last_seq: u64,
    /// There are operations in it.
    has_ops: bool,
    checkpoint: ReaderCheckpoint,
    /// Numbers in it that are holes.
    lost: u64,
    /// Bytes of its frames.
    bytes: usize,
}

/// Frames that were taken out of the ring and are not on their way yet.
struct Held {
    frames: Vec<u8>,
    first_seq: u64,
    count: u64,
    checkpoint: ReaderCheckpoint,
    lost: u64,
    since: Instant,
}

struct Drain {
    attachment: Attachment,
    /// Wakes this thread.
    bell: Arc<Bell>,
    answers: Answers,
    /// Queries that wait for company on their way to the disk. They are answered already, or will be.
    held: Option<Held>,
    /// When queries were answered last.
    answered_at: Option<Instant>,
    /// The next query is likely to come at once.
    expects_query: bool,
    /// The last operation that was taken.
    last_op: u64,
    /// Resolves when the store has changed; while something listens.
    changed: Option<Changed>,
    config: IntakeConfig,
    /// Whose records these are.
    source: String,
    committer: Arc<dyn Committer>,
    stop: Arc<AtomicBool>,
    active: Arc<AtomicU32>,
    progress: Arc<SessionProgress>,
    in_flight: VecDeque<InFlight>,
    /// Bytes of their frames.
    in_flight_bytes: usize,
    /// Number of the next frame to take.
    next_seq: u64,
    /// How often in a row the store had no room.
    refusals: u32,
    /// What cannot be read was told already.
    complained: bool,
    /// The last number that was ever acknowledged to the engine.
    acked_seq: u64,
    /// Everything that the ring held could be read.
    tail_known: bool,
    /// The last look failed, and a later one may not: nothing is known of what is left.
    unreadable: bool,
    /// The first number that is not acknowledged, and where the reader stands before it.
    settled: (u64, ReaderCheckpoint),
    on_event: Arc<dyn Fn(IntakeEvent) + Send + Sync>,
}

impl Drain {
    fn run(mut self, turn: Turn) -> Result<Outcome, CommitError> {
        let resumed = if self.is_stale() {
            turn.wait();
            // In its turn all the same, or the newer session would shut this one out.
            let opened = self.open();
            drop(turn);
            opened?;
            if !self.outlive_stale() {
                return Ok(Outcome::Stopped);
            }
            self.tell_attached();
            self.resume()
        } else {
            self.tell_attached();
            turn.wait();
            let resumed = self.resume();
            drop(turn);
            resumed
        };
        let resumed = resumed?;
        if resumed.ended {
            self.progress
                .tail_unknown
                .store(resumed.tail_unknown, Ordering::Relaxed);
            return Ok(self.remove_files());
        }
        let mut silent = 0_u32;
        loop {
            // Before the next look: a game that never pauses must not hold up the watchdog's end.
            if self.stop.load(Ordering::Acquire) && self.attachment.is_writer_alive() {
                self.settle_all()?;
                return Ok(Outcome::Stopped);
            }
            if self.is_stale() {
                self.settle_all()?;
                if !self.outlive_stale() {
                    return Ok(Outcome::Stopped);
                }
            }
            self.settle_for_one()?;
            self.settle_ready()?;
            if self.answers.has_work() {
                self.answer();
            }
            if self.take()? > 0 {
                silent = 0;
                continue;
            }
            self.listen();
            self.answer();
            if self
                .held
                .as_ref()
                .is_some_and(|held| held.since.elapsed() >= HELD_MAX)
            {
                self.send_held();
                continue;
            }
            let is_alive = self.attachment.is_writer_alive();
            if is_alive && !self.in_flight.is_empty() {
                self.sleep(SILENT_MAX);
                continue;
            }
            if self.held.is_some() && !is_alive || !self.in_flight.is_empty() {
                self.settle_all()?;
                continue;
            }
            // Order matters: first the proof of death, then one more look. What a dead engine wrote is all there,
            // so if that look finds nothing the session is over.
            if !is_alive {
                if self.take()? > 0 {
                    continue;
                }
                if !self.unreadable {
                    match self.next_rotation() {
                        Rotation::Next => {
                            self.resume()?;
                            continue;
                        }
                        Rotation::Last => return self.end(),
                        Rotation::Later => {}
                    }
                }
                // An end committed now would give up what could not be read.
                if self.stop.load(Ordering::Acquire) {
                    return Ok(Outcome::Stopped);
                }
                std::thread::sleep(REFUSED_PAUSE);
                continue;
            }
            silent = silent.saturating_add(1);
            if self.unreadable {
                // `wait` would return at once: the ring is not empty.
                std::thread::sleep(REFUSED_PAUSE);
                continue;
            }
            self.sleep(if silent < IDLE_AFTER {
                SILENT_MAX
            } else {
                IDLE_MAX
            });
        }
    }

    /// Sleeps until the bell rings, the engine wakes, or something else is due; `longest` at most.
    fn sleep(&mut self, longest: Duration) {
        if std::mem::take(&mut self.expects_query) && self.attachment.wait_awake(AWAKE_MAX) {
            return;
        }
        self.attachment.wait(self.pause(longest));
    }

    /// How long to sleep, at most `longest`: until something else is due.
    fn pause(&self, longest: Duration) -> Duration {
        let mut pause = longest;
        if let Some(held) = &self.held {
            pause = pause.min(HELD_MAX.saturating_sub(held.since.elapsed()));
        }
        if self.answers.is_behind() {
            pause = pause.min(BEHIND_PAUSE);
        }
        if self.answers.waits_for_ends() {
            pause = pause.min(ENDS_PAUSE);
        }
        // Zero would be no sleep, and no look at the ring either.
        pause.max(Duration::from_micros(1))
    }

    /// Sees to it that a change of the store wakes this thread, if it matters to somebody.
    fn listen(&mut self) {
        if !self.answers.listens() {
            self.changed = None;
            return;
        }
        let waker = Arc::clone(&self.bell).into();
        let mut context = Context::from_waker(&waker);
        loop {
            // What has changed before this is looked at after it.
            let mut changed = match self.changed.take() {
                Some(changed) => changed,
                None => self.committer.changed(),
            };
            if changed.as_mut().poll(&mut context).is_pending() {
                self.changed = Some(changed);
                return;
            }
        }
    }

    /// Answers what can be answered by now.
    fn answer(&mut self) {
        let (settled, _) = self.settled;
        let downlink = self.attachment.downlink();
        let (launch, dir) = (self.attachment.info().launch, &self.config.runtime_dir);
        self.answers.work(
            &*self.committer,
            settled.saturating_sub(1),
            || earlier_rings(dir, launch),
            |parcel| downlink.send_parcel(parcel).is_ok(),
        );
    }

    /// Whether a newer engine is the engine while this one lives.
    fn is_stale(&self) -> bool {
        self.attachment.info().launch < self.active.load(Ordering::Acquire)
            && self.attachment.is_writer_alive()
    }

    /// Waits for the death of a stale engine, taking nothing from its ring meanwhile. False when the watchdog ends
    /// first.
    fn outlive_stale(&self) -> bool {
        self.tell_active();
        (self.on_event)(IntakeEvent::Stale {
            info: self.attachment.info().clone(),
            path: self.attachment.name().path.clone(),
        });
        while self.attachment.is_writer_alive() {
            if self.stop.load(Ordering::Acquire) {
                return false;
            }
            std::thread::park_timeout(STALE_PAUSE);
        }
        true
    }

    /// Opens the session and waits until that is committed.
    fn open(&mut self) -> Result<SessionResume, CommitError> {
        let info = self.attachment.info();
        let opening = SessionOpening {
            epoch: info.epoch,
            incarnation: info.launch,
            started_realtime_ns: i64::try_from(info.realtime_base_ns).unwrap_or(i64::MAX),
        };
        loop {
            match self.committer.open(&opening) {
                Err(CommitError::Later { reason }) => self.put_off(reason)?,
                opened => {
                    self.set_waits(None);
                    return opened;
                }
            }
        }
    }

    /// Asks where the session stands in the committed state and puts the reader there.
    fn resume(&mut self) -> Result<SessionResume, CommitError> {
        self.in_flight.clear();
        self.in_flight_bytes = 0;
        let resume = self.open()?;
        self.source.clone_from(&resume.source);
        self.answers.set_source(&resume.source);
        self.answers.applied();
        while self.attachment.info().rotation < resume.checkpoint.rotation
            && self.next_rotation() == Rotation::Next
        {}
        self.acked_seq = self.acked_seq.max(self.attachment.acked_seq());
        if self.acked_seq >= resume.next_seq {
            warn!(
                epoch = %self.progress.epoch,
                acknowledged = self.acked_seq,
                next = resume.next_seq,
                "the log is older than what was acknowledged (restored from a copy, or a disk that lost writes); \
                 what the ring no longer holds is lost"
            );
        }
        self.settled = (resume.next_seq, reader_checkpoint(&resume.checkpoint));
        self.rewind();
        self.progress
            .recorded
            .fetch_max(resume.next_seq - 1, Ordering::Relaxed);
        self.progress
            .committed
            .store(resume.next_seq - 1, Ordering::Release);
        Ok(resume)
    }

    /// Puts the reader where everything before is acknowledged. The store cuts off what it has seen after all.
    fn rewind(&mut self) {
        self.held = None;
        self.in_flight.clear();
        self.in_flight_bytes = 0;
        let (next_seq, checkpoint) = self.settled;
        self.attachment.resume(next_seq, checkpoint);
        self.next_seq = next_seq;
    }

    /// Takes what the ring holds, one slab at most, and sends it off; queries alone wait for company. Returns how many
    /// numbers it covers.
    fn take(&mut self) -> Result<u64, CommitError> {
        let mut frames = match &mut self.held {
            Some(held) => std::mem::take(&mut held.frames),
            None => Vec::new(),
        };
        let before = frames.len();
        let drained = self
            .attachment
            .drain(&mut frames, self.config.slab_bytes_max);
        let new = match &drained {
            Ok(drained) if drained.count > 0 => {
                let seen = self.progress.recorded.load(Ordering::Relaxed);
                let new = frames.get(before..).unwrap_or_default();
                requests::list(new, &mut self.last_op, seen)
            }
            _ => requests::Listed::default(),
        };
        let mut held = Held {
            frames,
            first_seq: 0,
            count: 0,
            checkpoint: ReaderCheckpoint::default(),
            lost: 0,
            since: Instant::now(),
        };
        if let Some(earlier) = self.held.take() {
            let frames = held.frames;
            held = Held { frames, ..earlier };
        }
        let drained = match drained {
            Ok(drained) => drained,
            Err(error) => {
                match error {
                    DrainError::Truncated { .. } => self.tail_known = false,
                    DrainError::Spill { .. } => self.unreadable = true,
                }
                if !self.complained {
                    error!(%error, epoch = %self.progress.epoch, "ring cannot be read");
                    self.complained = true;
                }
                self.held = (held.count > 0).then_some(held);
                return Ok(0);
            }
        };
        self.unreadable = false;
        if let Some(corruption) = &drained.corruption {
            warn!(epoch = %self.progress.epoch, ?corruption, "ring is damaged; a copy is in quarantine");
        }
        if drained.count == 0 {
            self.held = (held.count > 0).then_some(held);
            return Ok(0);
        }
        if held.count == 0 {
            held.first_seq = drained.first_seq;
        }
        held.count = held.count.saturating_add(drained.count);
        held.checkpoint = drained.checkpoint;
        held.lost = held.lost.saturating_add(drained.lost);
        self.next_seq = held.first_seq.saturating_add(held.count);
        self.progress
            .recorded
            .fetch_max(self.next_seq - 1, Ordering::Relaxed);
        (self.progress.requests).fetch_add(new.new_frames, Ordering::Relaxed);
        let added = held.frames.len().saturating_sub(before);
        self.progress
            .bytes
            .fetch_add(added as u64, Ordering::Relaxed);
        // The game may be waiting: before anything is sent to the disk.
        if !new.queries.is_empty() {
            self.answers.note(new.queries);
            self.answer();
            let now = Instant::now();
            let before = self.answered_at.replace(now);
            self.expects_query = before.is_some_and(|at| now.duration_since(at) < IN_A_ROW_MAX);
        }
        if !new.has_more_than_queries && held.frames.len() < HELD_BYTES_MAX {
            self.held = Some(held);
            return Ok(drained.count);
        }
        let mut ops = new.ops;
        for (offset, _) in ops.iter_mut().flat_map(|op| &mut op.fragments) {
            // A slab is far below 4 GiB.
            *offset = offset.saturating_add(before as u32);
        }
        self.send(held, ops);
        Ok(drained.count)
    }

    /// Sends what was held back.
    fn send_held(&mut self) {
        if let Some(held) = self.held.take() {
            self.send(held, Vec::new());
        }
    }

    fn send(&mut self, held: Held, ops: Vec<OpAt>) {
        let slab = Slab {
            head: self.head(held.first_seq, held.count, held.checkpoint),
            frames: held.frames.into(),
        };
        let last_seq = slab.head.next_seq() - 1;
        let bytes = slab.frames.len();
        self.in_flight_bytes += bytes;
        let has_ops = !ops.is_empty();
        let pending = self.committer.append(slab, ops);
        self.in_flight.push_back(InFlight {
            pending,
            last_seq,
            has_ops,
            checkpoint: held.checkpoint,
            lost: held.lost,
            bytes,
        });
    }

    /// Waits until one more slab may be sent.
    fn settle_for_one(&mut self) -> Result<(), CommitError> {
        let bytes = self.config.slab_bytes_max;
        self.settle(
            IN_FLIGHT_MAX - 1,
            self.config.in_flight_bytes_max.saturating_sub(bytes),
        )
    }

    /// Sends what is held back, and waits until nothing is in flight.
    fn settle_all(&mut self) -> Result<(), CommitError> {
        self.send_held();
        self.settle(0, 0)
    }

    /// Waits until at most so many slabs and bytes are in flight, acknowledging each slab as it becomes durable.
    fn settle(&mut self, slabs: usize, bytes: usize) -> Result<(), CommitError> {
        while self.in_flight.len() > slabs || self.in_flight_bytes > bytes {
            if !self.settle_first()? {
                // The bell rings when it is there.
                std::thread::park();
            }
        }
        Ok(())
    }

    /// Acknowledges the slabs that have become durable. The bell rings for the next one.
    fn settle_ready(&mut self) -> Result<(), CommitError> {
        while !self.in_flight.is_empty() {
            if !self.settle_first()? {
                break;
            }
        }
        Ok(())
    }

    /// Acknowledges the slab that was sent first if it has become durable. False if it has not.
    fn settle_first(&mut self) -> Result<bool, CommitError> {
        let Some(first) = self.in_flight.front_mut() else {
            return Ok(true);
        };
        let waker = Arc::clone(&self.bell).into();
        let Poll::Ready(settled) = first
            .pending
            .as_mut()
            .poll(&mut Context::from_waker(&waker))
        else {
            return Ok(false);
        };
        let Some(first) = self.in_flight.pop_front() else {
            return Ok(true);
        };
        self.in_flight_bytes -= first.bytes;
        match settled {
            Ok(()) => {
                // First the number, then the space: `ack` may not lag behind what was given back.
                self.attachment.release(first.last_seq, &first.checkpoint);
                self.progress
                    .committed
                    .store(first.last_seq, Ordering::Release);
                self.settled = (first.last_seq.saturating_add(1), first.checkpoint);
                if first.has_ops {
                    self.answers.applied();
                }
                if first.lost > 0 {
                    self.progress.holes.fetch_add(first.lost, Ordering::Relaxed);
                    warn!(epoch = %self.progress.epoch, count = first.lost, "records are lost; a gap is uploaded in their place");
                }
                if std::mem::take(&mut self.refusals) > 0 {
                    self.set_waits(None);
                    info!(epoch = %self.progress.epoch, "records are taken again");
                }
            }
            Err(CommitError::Hole { expected }) => {
                info!(
                    expected,
                    sent = first.last_seq,
                    "a slab was lost on the way; reading it again"
                );
                self.resume()?;
            }
            Err(CommitError::Later { reason }) => {
                self.put_off(reason)?;
                // Nothing is asked of the store: each question would be one more entry in a log that is full.
                self.rewind();
            }
            Err(error) => return Err(error),
        }
        Ok(true)
    }

    /// Waits a moment after the store had no room; when the watchdog stops, gives up instead.
    fn put_off(&mut self, reason: String) -> Result<(), CommitError> {
        if self.stop.load(Ordering::Acquire) {
            return Err(CommitError::Later { reason });
        }
        // Once, and then about once a minute: the ring holds what is not taken.
        self.set_waits(Some(reason.clone()));
        if self.refusals.is_multiple_of(240) {
            warn!(epoch = %self.progress.epoch, %reason, "records wait in the ring");
        }
        self.refusals = self.refusals.wrapping_add(1);
        // Not the ring's own sleep: that ends at once as long as there is something to read. And a bell that rang for
        // something else is no reason to ask again.
        let since = Instant::now();
        while !self.stop.load(Ordering::Acquire) {
            let left = REFUSED_PAUSE.saturating_sub(since.elapsed());
            if left.is_zero() {
                break;
            }
            std::thread::park_timeout(left);
        }
        Ok(())
    }

    fn set_waits(&self, reason: Option<String>) {
        *self
            .progress
            .waits
            .lock()
            .unwrap_or_else(PoisonError::into_inner) = reason;
    }

    /// Tells the engine which launch is the engine: one that lives on as a stale one records no more and quits.
    fn tell_active(&self) {
        let active = self.active.load(Ordering::Acquire);
        self.attachment.controls().set_active_launch(active);
    }

    fn tell_attached(&self) {
        self.tell_active();
        (self.on_event)(IntakeEvent::Attached(AttachedSession {
            info: self.attachment.info().clone(),
            heartbeat: self.attachment.heartbeats(),
            controls: self.attachment.controls(),
            downlink: self.attachment.downlink(),
            progress: Arc::clone(&self.progress),
        }));
    }

    /// Goes on to the session's next ring file if there is one: the engine made it because this one is damaged. All
    /// that this one held is committed by now, so it is removed.
    fn next_rotation(&mut self) -> Rotation {
        let info = self.attachment.info();
        let (launch, epoch, rotation) = (info.launch, info.epoch, info.rotation + 1);
        let is_next = |file: &RingFileName| {
            file.launch == launch && file.epoch == epoch && file.rotation == rotation
        };
        let files = match sidekick_ipc::name::scan(&self.config.runtime_dir) {
            Ok(files) => files,
            Err(error) => {
                self.complain(&error, "the runtime directory cannot be read");
                return Rotation::Later;
            }
        };
        let Some(file) = files.iter().find(|file| is_next(file)) else {
            // The engine says that it went on to a file that is no longer there.
            self.tail_known &= !self.attachment.heartbeat().rotated;
            return Rotation::Last;
        };
        match Attachment::open(file) {
            Ok(attachment) => {
                let drained = std::mem::replace(&mut self.attachment, attachment);
                self.bell.set_ring(self.attachment.waker());
                self.answers.begin_anew();
                if let Err(error) = drained.finish() {
                    warn!(%error, "a drained ring could not be removed; the next start will");
                }
                self.complained = false;
                self.tell_attached();
                Rotation::Next
            }
            Err(error) => {
                self.complain(&error, "the session's next ring cannot be opened");
                Rotation::Later
            }
        }
    }

    /// Tells of what cannot be read, once.
    fn complain(&mut self, error: &dyn std::error::Error, what: &str) {
        if !std::mem::replace(&mut self.complained, true) {
            error!(%error, epoch = %self.progress.epoch, "{what}; trying again");
        }
    }

    fn end(mut self) -> Result<Outcome, CommitError> {
        let tail_known =
            self.tail_known && self.next_seq > self.acked_seq && !self.attachment.is_tail_unknown();
        let untold = self.attachment.untold_refusals();
        let (next_seq, checkpoint) = self.settled;
        let head = SlabHead {
            realtime_offset_ns: self.realtime_offset_ns(),
            ..self.head(next_seq, 0, checkpoint)
        };
        let ending = SessionEnding {
            epoch: self.attachment.info().epoch,
            tail_known,
            clean_exit: self.attachment.heartbeat().clean_exit,
            last: Slab::closing(head, &untold, !tail_known, SystemTime::now()),
        };
        loop {
            match self.committer.end(&ending) {
                Err(CommitError::Later { reason }) => self.put_off(reason)?,
                ended => break ended?,
            }
        }
        self.set_waits(None);
        let refused = untold
            .iter()
            .fold(0, |sum: u64, gap| sum.saturating_add(gap.count));
        self.progress
            .refused_untold
            .store(refused, Ordering::Relaxed);
        if refused > 0 {
            warn!(epoch = %self.progress.epoch, count = refused, "the engine died before it told of records that it refused; a gap is uploaded for them");
        }
        if let Some(last) = &ending.last {
            let last_seq = last.head.next_seq().saturating_sub(1);
            self.progress.committed.store(last_seq, Ordering::Release);
            self.progress
                .recorded
                .fetch_max(last_seq, Ordering::Relaxed);
        }
        if !tail_known {
            self.progress.tail_unknown.store(true, Ordering::Relaxed);
            self.progress.holes.fetch_add(1, Ordering::Relaxed);
        }
        Ok(self.remove_files())
    }

    /// The engine's clock; its first word of it when its last one is lost with the ring.
    fn realtime_offset_ns(&self) -> i64 {
        let info = self.attachment.info();
        match self.attachment.realtime_offset_ns() {
            0 => i64::try_from(
                i128::from(info.realtime_base_ns) - i128::from(info.monotonic_base_ns),
            )
            .unwrap_or(0),
            offset => offset,
        }
    }

    fn head(&self, first_seq: u64, count: u64, checkpoint: ReaderCheckpoint) -> SlabHead {
        SlabHead {
            source: self.source.clone(),
            epoch: self.attachment.info().epoch,
            incarnation: self.attachment.info().launch,
            realtime_offset_ns: self.attachment.realtime_offset_ns(),
            first_seq,
            count,
            checkpoint: RingCheckpoint {
                rotation: checkpoint.rotation,
                ring_position: checkpoint.ring_position,
                spill_file: checkpoint.spill_file,
                spill_offset: checkpoint.spill_offset,
            },
        }
    }

    fn remove_files(self) -> Outcome {
        if let Err(error) = self.attachment.finish() {
            warn!(%error, "a drained ring could not be removed; the next start will");
        }
        Outcome::Ended
    }
}

fn reader_checkpoint(from: &RingCheckpoint) -> ReaderCheckpoint {
    ReaderCheckpoint {
        rotation: from.rotation,
        ring_position: from.ring_position,
        spill_file: from.spill_file,
        spill_offset: from.spill_offset,
    }
}

/// Sessions of launches before `launch` whose rings are still there and can be read.
fn earlier_rings(dir: &std::path::Path, launch: u32) -> Vec<uuid::Uuid> {
    // Not to know is to wait: the one who asks has a limit of its own.
    let Ok(files) = sidekick_ipc::name::scan(dir) else {
        return vec![uuid::Uuid::nil()];
    };
    files
        .into_iter()
        .filter(|file| file.launch < launch)
        // What will never be read holds nobody up.
        .filter(|file| matches!(Attachment::open(file), Ok(_) | Err(AttachError::Io { .. })))
        .map(|file| file.epoch)
        .collect()
}
