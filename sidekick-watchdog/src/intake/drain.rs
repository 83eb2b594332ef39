//! Drains one session: ring (and its later rotations) → slabs → committed → acknowledged, until its engine is dead
//! and nothing is left.

use std::collections::VecDeque;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::thread::JoinHandle;
use std::time::Duration;

use sidekick_ipc::attach::{Attachment, DrainError, ReaderCheckpoint, Waker};
use sidekick_ipc::name::RingFileName;
use tracing::{error, info, warn};

use super::{
    AttachedSession, CommitError, Committer, IntakeConfig, IntakeEvent, PendingAppend,
    SessionEnding, SessionOpening, SessionResume,
};
use crate::slab::{RingCheckpoint, Slab, SlabHead};

/// Slabs that may be on their way to the disk at once. One grows while the other is fsynced; more would only hold
/// memory (each is at most `slab_bytes_max`).
const IN_FLIGHT_MAX: usize = 4;
/// Sleep between looks at a silent ring. The engine wakes us; this bounds what a lost wake costs.
const SILENT_MAX: Duration = Duration::from_millis(100);
/// Sleep once a ring has been silent for a while: an idle game should cost nothing.
const IDLE_MAX: Duration = Duration::from_secs(1);
/// Sleep after the store had no room.
const REFUSED_PAUSE: Duration = Duration::from_millis(250);
/// Empty looks in a row after which a ring counts as idle.
const IDLE_AFTER: u32 = 20;

/// A session's counts, for status and metrics. Written by its drain thread, read by anyone.
#[derive(Debug, Default)]
pub struct SessionProgress {
    /// The session's UUID, once known.
    pub epoch: uuid::Uuid,
    /// Last sequence number seen in ring or spill.
    pub recorded: AtomicU64,
    /// Everything up to this number is durable.
    pub committed: AtomicU64,
    /// Numbers that were lost to corruption and stand as holes.
    pub holes: AtomicU64,
    /// Bytes copied out of the ring.
    pub bytes: AtomicU64,
}

/// A drain thread and the means to wake it.
pub(super) struct Session {
    waker: Waker,
    thread: JoinHandle<()>,
}

impl Session {
    pub(super) fn start(
        attachment: Attachment,
        launch: u32,
        config: &IntakeConfig,
        committer: Arc<dyn Committer>,
        on_event: Arc<dyn Fn(IntakeEvent) + Send + Sync>,
        stop: Arc<AtomicBool>,
    ) -> std::io::Result<Self> {
        let waker = attachment.waker();
        let progress = Arc::new(SessionProgress {
            epoch: attachment.info().epoch,
            ..SessionProgress::default()
        });
        let config = config.clone();
        let thread = std::thread::Builder::new()
            .name(format!("drain-{launch}"))
            .spawn(move || {
                let drain = Drain {
                    attachment,
                    config,
                    committer,
                    stop,
                    progress: Arc::clone(&progress),
                    in_flight: VecDeque::with_capacity(IN_FLIGHT_MAX),
                    next_seq: 1,
                    refusals: 0,
                    complained: false,
                    tail_known: true,
                    on_event: Arc::clone(&on_event),
                };
                match drain.run() {
                    Ok(Outcome::Ended) => on_event(IntakeEvent::Ended { launch, progress }),
                    Ok(Outcome::Stopped) => {}
                    Err(CommitError::Closed) => {
                        warn!(launch, "the store is closed; the ring keeps what is in it");
                    }
                    Err(CommitError::Later { reason }) => {
                        warn!(launch, %reason, "not everything is committed; the ring keeps the rest for the next start");
                    }
                    Err(error) => error!(launch, %error, "the session's records stay in its ring"),
                }
            })?;
        Ok(Self { waker, thread })
    }

    pub(super) fn wake(&self) {
        self.waker.wake();
        self.thread.thread().unpark();
    }

    pub(super) fn is_finished(&self) -> bool {
        self.thread.is_finished()
    }

    pub(super) fn join(self) {
        if self.thread.join().is_err() {
            error!("a drain thread panicked; its ring keeps what is in it");
        }
    }
}

enum Outcome {
    /// The engine is dead, its ring is empty, its end is committed, its files are gone.
    Ended,
    /// The watchdog stops; the engine lives on with its ring.
    Stopped,
}

/// A slab on its way, and where the reader stands once it is durable.
struct InFlight {
    pending: Box<dyn PendingAppend>,
    last_seq: u64,
    checkpoint: ReaderCheckpoint,
}

struct Drain {
    attachment: Attachment,
    config: IntakeConfig,
    committer: Arc<dyn Committer>,
    stop: Arc<AtomicBool>,
    progress: Arc<SessionProgress>,
    in_flight: VecDeque<InFlight>,
    /// Number of the next frame to take.
    next_seq: u64,
    /// How often in a row the store had no room.
    refusals: u32,
    /// What cannot be read was told already.
    complained: bool,
    /// Everything that the ring held could be read.
    tail_known: bool,
    on_event: Arc<dyn Fn(IntakeEvent) + Send + Sync>,
}

impl Drain {
    fn run(mut self) -> Result<Outcome, CommitError> {
        self.tell_attached();
        if self.resume()?.ended {
            return Ok(self.remove_files());
        }
        let mut silent = 0_u32;
        loop {
            self.settle(IN_FLIGHT_MAX - 1)?;
            if self.take()? > 0 {
                silent = 0;
                continue;
            }
            if !self.in_flight.is_empty() {
                self.settle(0)?;
                continue;
            }
            // Order matters: first the proof of death, then one more look. What a dead engine wrote is all there,
            // so if that look finds nothing the session is over.
            if !self.attachment.is_writer_alive() {
                if self.take()? > 0 {
                    continue;
                }
                if self.next_rotation() {
                    self.resume()?;
                    continue;
                }
                return self.end();
            }
            if self.stop.load(Ordering::Acquire) {
                return Ok(Outcome::Stopped);
            }
            silent = silent.saturating_add(1);
            self.attachment.wait(if silent < IDLE_AFTER {
                SILENT_MAX
            } else {
                IDLE_MAX
            });
        }
    }

    /// Asks where the session stands in the committed state and puts the reader there.
    fn resume(&mut self) -> Result<SessionResume, CommitError> {
        self.in_flight.clear();
        let info = self.attachment.info();
        let opening = SessionOpening {
            epoch: info.epoch,
            incarnation: info.launch,
            started_realtime_ns: i64::try_from(info.realtime_base_ns).unwrap_or(i64::MAX),
        };
        let resume = loop {
            match self.committer.open(&opening) {
                Err(CommitError::Later { reason }) => self.put_off(reason)?,
                opened => break opened?,
            }
        };
        while self.attachment.info().rotation < resume.checkpoint.rotation && self.next_rotation() {
        }
        self.attachment
            .resume(resume.next_seq, reader_checkpoint(&resume.checkpoint));
        self.next_seq = resume.next_seq;
        self.progress
            .recorded
            .fetch_max(resume.next_seq - 1, Ordering::Relaxed);
        self.progress
            .committed
            .store(resume.next_seq - 1, Ordering::Release);
        Ok(resume)
    }

    /// Takes what the ring holds, one slab at most, and sends it off. Returns how many numbers it covers.
    fn take(&mut self) -> Result<u64, CommitError> {
        let mut frames = Vec::new();
        let drained = match self
            .attachment
            .drain(&mut frames, self.config.slab_bytes_max)
        {
            Ok(drained) => drained,
            Err(error) => {
                self.tail_known &= !matches!(error, DrainError::Truncated { .. });
                if !self.complained {
                    error!(%error, epoch = %self.progress.epoch, "ring cannot be read");
                    self.complained = true;
                }
                return Ok(0);
            }
        };
        if let Some(corruption) = &drained.corruption {
            warn!(epoch = %self.progress.epoch, ?corruption, "ring is damaged; a copy is in quarantine");
        }
        if drained.count == 0 {
            return Ok(0);
        }
        let checkpoint = drained.checkpoint;
        let slab = Slab {
            head: SlabHead {
                source: self.config.source.clone(),
                epoch: self.attachment.info().epoch,
                incarnation: self.attachment.info().launch,
                realtime_offset_ns: self.attachment.info().realtime_offset_ns(),
                first_seq: drained.first_seq,
                count: drained.count,
                checkpoint: RingCheckpoint {
                    rotation: checkpoint.rotation,
                    ring_position: checkpoint.ring_position,
                    spill_file: checkpoint.spill_file,
                    spill_offset: checkpoint.spill_offset,
                },
            },
            frames: frames.into(),
        };
        let last_seq = slab.head.next_seq() - 1;
        self.next_seq = slab.head.next_seq();
        self.progress
            .recorded
            .fetch_max(last_seq, Ordering::Relaxed);
        self.progress
            .bytes
            .fetch_add(slab.frames.len() as u64, Ordering::Relaxed);
        let pending = self.committer.append(slab);
        self.in_flight.push_back(InFlight {
            pending,
            last_seq,
            checkpoint,
        });
        Ok(drained.count)
    }

    /// Waits until at most `left` slabs are in flight, acknowledging each as it becomes durable.
    fn settle(&mut self, left: usize) -> Result<(), CommitError> {
        while self.in_flight.len() > left {
            let Some(first) = self.in_flight.pop_front() else {
                break;
            };
            match first.pending.wait() {
                Ok(()) => {
                    // First the number, then the space: `ack` may not lag behind what was given back.
                    self.attachment.release(first.last_seq, &first.checkpoint);
                    self.progress
                        .committed
                        .store(first.last_seq, Ordering::Release);
                    if std::mem::take(&mut self.refusals) > 0 {
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
                    self.resume()?;
                }
                Err(error) => return Err(error),
            }
        }
        Ok(())
    }

    /// Waits a moment after the store had no room; when the watchdog stops, gives up instead.
    fn put_off(&mut self, reason: String) -> Result<(), CommitError> {
        if self.stop.load(Ordering::Acquire) {
            return Err(CommitError::Later { reason });
        }
        // Once, and then about once a minute: the ring holds what is not taken.
        if self.refusals.is_multiple_of(240) {
            warn!(epoch = %self.progress.epoch, %reason, "records wait in the ring");
        }
        self.refusals = self.refusals.wrapping_add(1);
        // Not the ring's own sleep: that ends at once as long as there is something to read.
        std::thread::park_timeout(REFUSED_PAUSE);
        Ok(())
    }

    fn tell_attached(&self) {
        (self.on_event)(IntakeEvent::Attached(AttachedSession {
            info: self.attachment.info().clone(),
            heartbeat: self.attachment.heartbeats(),
            controls: self.attachment.controls(),
            progress: Arc::clone(&self.progress),
        }));
    }

    /// Goes on to the session's next ring file if there is one: the engine made it because this one is damaged. All
    /// that this one held is committed by now, so it is removed.
    fn next_rotation(&mut self) -> bool {
        let info = self.attachment.info();
        let (launch, epoch, rotation) = (info.launch, info.epoch, info.rotation + 1);
        let is_next = |file: &RingFileName| {
            file.launch == launch && file.epoch == epoch && file.rotation == rotation
        };
        let files = sidekick_ipc::name::scan(&self.config.runtime_dir).unwrap_or_default();
        let Some(file) = files.iter().find(|file| is_next(file)) else {
            return false;
        };
        match Attachment::open(file) {
            Ok(attachment) => {
                let drained = std::mem::replace(&mut self.attachment, attachment);
                if let Err(error) = drained.finish() {
                    warn!(%error, "a drained ring could not be removed; the next start will");
                }
                self.tell_attached();
                true
            }
            Err(error) => {
                error!(%error, file = %file.path.display(), "the session's next ring cannot be opened");
                false
            }
        }
    }

    fn end(mut self) -> Result<Outcome, CommitError> {
        let ending = SessionEnding {
            epoch: self.attachment.info().epoch,
            tail_known: self.tail_known,
            clean_exit: self.attachment.heartbeat().clean_exit,
        };
        loop {
            match self.committer.end(&ending) {
                Err(CommitError::Later { reason }) => self.put_off(reason)?,
                ended => break ended?,
            }
        }
        Ok(self.remove_files())
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
