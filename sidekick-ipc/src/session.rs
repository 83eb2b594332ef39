//! The engine's side of a session: record, heartbeat, control.
//!
//! `Session` may be used from any thread. It never panics on what the other process or the disk does, and no method
//! waits longer than [`SessionOptions::block_max`] per frame, and that only with [`WhenFull::Block`].
//!
//! `file`: the ring file · `record`: how a record is taken · `refused` and `gaps`: why one is not, and how that is told ·
//! `request` and `room`: requests to the store · `frame`: once per frame of the game · `stall`: announced silences ·
//! `downlink`: the watchdog's messages · `standby`: until this engine is the active one.

use std::collections::VecDeque;
use std::io;
use std::path::PathBuf;
use std::sync::atomic::Ordering::{Acquire, Relaxed, Release};
use std::sync::atomic::{AtomicBool, AtomicU64};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, RwLock};
use std::time::Duration;

use uuid::Uuid;

use crate::control::{self, Control};
use crate::frame::{Gap, crc_seed};
use crate::layout::{self, RingLayout};
use crate::message::DownlinkMessage;
use crate::region::{Mapping, Region};
use crate::ring::{DRAIN_SLEEP, Notifier, Producer, kick};
use crate::spill::SpillWriter;
use crate::stream::StreamPattern;
use crate::sys::{self, Dir};

mod downlink;
mod file;
mod frame;
mod gaps;
mod record;
mod refused;
mod request;
mod room;
mod stall;
mod standby;

use file::{Current, Place};
pub use frame::Look;
pub use refused::RefusedCause;
use request::Requests;
pub use request::{CheckpointRef, Message};
pub use room::CheckpointRoom;
pub use stall::Stall;

/// What to do with a record when the ring is full.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum WhenFull {
    /// Append it to the spill file (about a microsecond).
    #[default]
    Spill,
    /// Wait for space, in all at most [`SessionOptions::block_max`] per frame; then refuse.
    Block,
    /// Refuse it and count it.
    Refuse,
}

/// How to set up a session.
#[derive(Clone, Debug)]
pub struct SessionOptions {
    /// Existing directory of this user that nobody else can write.
    pub runtime_dir: PathBuf,
    /// Launch number that the watchdog gave.
    pub launch: u32,
    /// Incarnation number that the watchdog gave.
    pub incarnation: u32,
    /// Bytes of the uplink, rounded up to a power of two within [`layout::RING_BYTES_MIN`] and
    /// [`layout::RING_BYTES_MAX`].
    pub ring_bytes: usize,
    /// What to do when it is full.
    pub when_full: WhenFull,
    /// With [`WhenFull::Block`]: longest wait per frame, over all threads.
    pub block_max: Duration,
    /// Most bytes in spill files that are not committed yet.
    pub spill_bytes_max: u64,
    /// Streams that record on while the watchdog's disk runs short.
    pub keep: Vec<StreamPattern>,
    /// Version of the library, for the header.
    pub library_version: String,
    /// Version of the game, for the header; empty where it has none.
    pub game_version: String,
}

/// Why a session could not start.
#[derive(Debug, thiserror::Error)]
#[error("{action} {path:?}: {source}")]
pub struct SessionError {
    /// What was tried.
    pub action: &'static str,
    /// On which file or directory.
    pub path: PathBuf,
    /// Why not.
    pub source: io::Error,
}

struct State {
    producer: Producer<Arc<Mapping>>,
    last_seq: u64,
    spill: SpillWriter,
    /// What no gap frame has told of yet, by cause: `gap_cause::FULL`, `gap_cause::SPILL_FAILED`,
    /// `gap_cause::QUOTA`.
    gaps: [Gap; 3],
    refused: Gap,
    /// Tail at the last kick that a filling ring asked for.
    kicked_at: u64,
    rotate_after_ns: u64,
    /// While the disk runs short, what is refused for it is told from then on.
    quota_gap_after_ns: u64,
    closed: bool,
}

/// One engine process's session with the watchdog.
pub struct Session {
    options: SessionOptions,
    dir: Arc<Dir>,
    epoch: Uuid,
    seed: u32,
    ring_bytes: usize,
    current: RwLock<Arc<Current>>,
    state: Mutex<State>,
    last_seq: AtomicU64,
    committed_seq: AtomicU64,
    uploaded_seq: AtomicU64,
    refused: AtomicU64,
    gap_pending: AtomicU64,
    frames: AtomicU64,
    block_left_ns: AtomicU64,
    notifier: Notifier,
    crashed: AtomicBool,
    /// It was begun as a standby and is not known to be active yet.
    stands_by: AtomicBool,
    last_frame_ns: AtomicU64,
    realtime_due_ns: AtomicU64,
    /// Locked before `state`, never after it.
    requests: Mutex<Requests>,
    /// The watchdog that the questions without an answer were put to; 0 before the first.
    asked_generation: AtomicU64,
    /// The questions are to be asked again, whichever watchdog it is: their answers may have been lost.
    is_break: AtomicBool,
    /// Messages that an earlier rotation's file still held.
    leftover: Mutex<VecDeque<DownlinkMessage>>,
    /// Whether there are such, so that a frame takes no lock to know.
    has_leftover: AtomicBool,
}

impl std::fmt::Debug for Session {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Session")
            .field("epoch", &self.epoch)
            .finish_non_exhaustive()
    }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    // Whatever panicked while holding it: `tail` is stored last, so the state is good after any panic.
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Session {
    /// Makes the session's ring file; a watchdog sees it complete or not at all.
    ///
    /// # Errors
    /// [`SessionError`] with what was tried on which path. Nothing is left behind.
    pub fn create(options: SessionOptions) -> Result<Session, SessionError> {
        let dir = Dir::open(&options.runtime_dir).map_err(|source| SessionError {
            action: "open the runtime directory",
            path: options.runtime_dir.clone(),
            source,
        })?;
        let dir = Arc::new(dir);
        let epoch = Uuid::new_v4();
        let ring_bytes = options
            .ring_bytes
            .clamp(layout::RING_BYTES_MIN, layout::RING_BYTES_MAX)
            .next_power_of_two();
        let place = Place {
            dir: &dir,
            options: &options,
            epoch,
            ring_bytes,
        };
        let current = Arc::new(place.make(0, 1, 0, |_| {})?);
        let spill = SpillWriter::new(
            Arc::clone(&dir),
            options.launch,
            epoch,
            options.spill_bytes_max,
        );
        let uplink = RingLayout::uplink(ring_bytes as u64);
        let state = State {
            producer: Producer::attach(Arc::clone(&current.mapping), uplink),
            last_seq: 0,
            spill,
            gaps: Default::default(),
            refused: Gap::default(),
            kicked_at: 0,
            rotate_after_ns: 0,
            quota_gap_after_ns: 0,
            closed: false,
        };
        Ok(Session {
            block_left_ns: AtomicU64::new(as_ns(options.block_max)),
            dir,
            epoch,
            seed: crc_seed(&epoch),
            ring_bytes,
            options,
            current: RwLock::new(current),
            state: Mutex::new(state),
            last_seq: AtomicU64::new(0),
            committed_seq: AtomicU64::new(0),
            uploaded_seq: AtomicU64::new(0),
            refused: AtomicU64::new(0),
            gap_pending: AtomicU64::new(0),
            frames: AtomicU64::new(0),
            notifier: Notifier::default(),
            crashed: AtomicBool::new(false),
            stands_by: AtomicBool::new(false),
            last_frame_ns: AtomicU64::new(0),
            realtime_due_ns: AtomicU64::new(0),
            requests: Mutex::default(),
            asked_generation: AtomicU64::new(0),
            is_break: AtomicBool::new(false),
            leftover: Mutex::default(),
            has_leftover: AtomicBool::new(false),
        })
    }

    /// The session's UUID.
    pub fn epoch(&self) -> Uuid {
        self.epoch
    }

    fn current(&self) -> Arc<Current> {
        Arc::clone(&self.current.read().unwrap_or_else(PoisonError::into_inner))
    }

    /// Wakes the watchdog now, for a flush.
    pub fn kick(&self) {
        kick(&self.current().mapping, DRAIN_SLEEP);
    }

    /// Number of the last record (or gap) taken; 0 before the first.
    pub fn last_seq(&self) -> u64 {
        self.last_seq.load(Acquire)
    }

    /// Everything up to this number is committed in the watchdog's store. Never goes back.
    pub fn committed_seq(&self) -> u64 {
        self.level(layout::C_ACK_SEQ, &self.committed_seq)
    }

    /// Everything up to this number is uploaded. Never goes back.
    pub fn uploaded_seq(&self) -> u64 {
        self.level(layout::C_UPLOADED_SEQ, &self.uploaded_seq)
    }

    fn level(&self, at: usize, highest: &AtomicU64) -> u64 {
        self.level_in(&self.current().mapping, at, highest)
    }

    fn level_in(&self, region: &Mapping, at: usize, highest: &AtomicU64) -> u64 {
        // The watchdog's word; it cannot speak of records that were never taken.
        let seq = region.load(at, Acquire).min(self.last_seq());
        let before = highest.load(Relaxed);
        if seq > before {
            highest.fetch_max(seq, Relaxed).max(seq)
        } else {
            before
        }
    }

    /// Records refused so far, for any cause.
    pub fn refused(&self) -> u64 {
        self.refused.load(Relaxed)
    }

    /// Bytes in the ring that the watchdog has not released.
    pub fn ring_used(&self) -> u64 {
        lock(&self.state).producer.used()
    }

    /// Bytes of the ring.
    pub fn ring_bytes(&self) -> u64 {
        self.ring_bytes as u64
    }

    /// Tells that the game is ready to serve.
    pub fn set_ready(&self) {
        let state = lock(&self.state);
        state.producer.region().store(layout::P_READY, 1, Relaxed);
    }

    /// Frames of the main loop so far.
    pub fn frames(&self) -> u64 {
        self.frames.load(Relaxed)
    }

    /// Says that the process ends on purpose. Records are still taken until it does.
    pub fn set_clean_exit(&self, exit_code_hint: i32) {
        let mut state = lock(&self.state);
        let _ = self.flush_gaps(&mut state, sys::monotonic_ns());
        let region = state.producer.region();
        region.store(
            layout::P_EXIT_CODE,
            u64::from(exit_code_hint.cast_unsigned()),
            Relaxed,
        );
        // SYNC: pairs with the Acquire load in `heartbeat::read`.
        region.store(layout::P_STATE, layout::STATE_CLEAN, Release);
        kick(region, DRAIN_SLEEP);
    }

    /// Takes no more records; each further one is refused with [`RefusedCause::Closed`].
    pub fn close(&self) {
        let mut state = lock(&self.state);
        let _ = self.flush_gaps(&mut state, sys::monotonic_ns());
        state.closed = true;
        kick(state.producer.region(), DRAIN_SLEEP);
    }

    /// What the watchdog wants. To be read once per frame.
    pub fn control(&self) -> Control {
        control::read(&self.current().mapping, sys::monotonic_ns())
    }
}

/// What the watchdog has committed, as far as it can have.
fn acked_seq(state: &State) -> u64 {
    state
        .producer
        .region()
        .load(layout::C_ACK_SEQ, Relaxed)
        .min(state.last_seq)
}

fn as_ns(duration: Duration) -> u64 {
    u64::try_from(duration.as_nanos()).unwrap_or(u64::MAX)
}
