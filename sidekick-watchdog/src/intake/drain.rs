//! Drains one session: ring (and its later rotations) → slabs → committed → acknowledged, until its engine is dead
//! and nothing is left.

use std::collections::VecDeque;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU32, Ordering};
use std::task::Context;
use std::time::Duration;

use sidekick_ipc::KeptCheckpoints;
use sidekick_ipc::attach::{AttachError, Attachment, ReaderCheckpoint};

use super::answers::Answers;
use super::bell::Bell;
use super::{AttachedSession, Changed, CommitError, Committer, IntakeConfig, IntakeEvent};
use life::Rotation;
use settle::InFlight;
use take::Held;

mod life;
mod session;
mod settle;
mod take;

pub use session::SessionProgress;
pub(super) use session::{Flags, Session, Turn};

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
/// Sleep between tries to send while the downlink is full: the engine does not tell when it has read.
const BEHIND_PAUSE: Duration = Duration::from_millis(1);
/// Sleep between looks whether the rings of earlier sessions are gone.
const ENDS_PAUSE: Duration = Duration::from_millis(5);

enum Outcome {
    /// The engine is dead, its ring is empty, its end is committed, its files are gone.
    Ended,
    /// The watchdog stops; the engine lives on with its ring.
    Stopped,
}

struct Drain {
    attachment: Attachment,
    /// Wakes this thread.
    bell: Arc<Bell>,
    answers: Answers,
    /// The engine knows how many checkpoints are kept.
    told_checkpoints: bool,
    /// Queries that wait for company on their way to the disk. They are answered already, or will be.
    held: Option<Held>,
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
                self.attachment.wait(self.pause(SILENT_MAX));
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
            self.attachment.wait(self.pause(if silent < IDLE_AFTER {
                SILENT_MAX
            } else {
                IDLE_MAX
            }));
        }
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
        if !self.told_checkpoints {
            self.tell_checkpoints();
        }
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

    /// Tells the engine how many checkpoints are kept, so that it takes none that there is no room for; not before every
    /// earlier session has ended, which could add some.
    fn tell_checkpoints(&mut self) {
        let asker = self.answers.asker();
        if !self.told_checkpoints {
            let rings = earlier_rings(&self.config.runtime_dir, asker.launch);
            self.told_checkpoints = self.committer.earlier_ended(asker, &rings);
        }
        if self.told_checkpoints {
            let (keys, bytes) = self.committer.checkpoints(asker);
            let (next_seq, _) = self.settled;
            self.attachment.controls().set_checkpoints(KeptCheckpoints {
                seq: next_seq.saturating_sub(1),
                keys,
                bytes,
            });
        }
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
