//! The engine's side of a session: record, heartbeat, control.
//!
//! [`Session`] may be used from any thread. It never panics on what the other process or the disk does, and no method
//! waits longer than [`SessionOptions::block_max`] per frame, and that only with [`WhenFull::Block`].

use std::cell::RefCell;
use std::collections::VecDeque;
use std::io;
use std::path::PathBuf;
use std::sync::atomic::Ordering::{Acquire, Relaxed, Release};
use std::sync::atomic::{AtomicBool, AtomicU64};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, RwLock};
use std::time::Duration;

use uuid::Uuid;

use crate::control::{self, Control};
use crate::frame::{
    FRAME_HEADER_BYTES, FrameKind, Gap, RECORD_BYTES_MAX, RESERVED_STREAM_PREFIX, Record,
    STREAM_NAME_BYTES_MAX, crc_seed, frame_bytes, gap_cause, seal,
};
use crate::heartbeat::STALL_MAX;
use crate::layout::{self, RingLayout};
use crate::message::DownlinkMessage;
use crate::region::{Mapping, Region};
use crate::ring::{Consumer, DRAIN_SLEEP, Notifier, Producer, SPACE_SLEEP, kick, sleep};
use crate::spill::{SpillError, SpillWriter};
use crate::stream::StreamPattern;
use crate::sys::{self, Dir};

mod file;
mod frame;
mod request;
mod room;
mod standby;

use file::{Current, Place};
pub use frame::Look;
use request::Requests;
pub use request::{CheckpointRef, Message};
pub use room::CheckpointRoom;

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

/// Why a record was not taken. It has no sequence number, and is counted; [`RefusedCause::Full`],
/// [`RefusedCause::SpillFailed`] and [`RefusedCause::Quota`] are also told by a gap frame.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum RefusedCause {
    /// Larger than a frame can hold.
    #[error("the record has {bytes} bytes with its stream's name, the limit is {max}; split it")]
    TooLarge {
        /// Bytes of name and value.
        bytes: usize,
        /// Most that a record may have.
        max: usize,
    },
    /// No room in the ring, and none in the spill files if these are allowed.
    #[error("the watchdog is behind: ring and spill files are full")]
    Full,
    /// The spill file could not be written.
    #[error("the ring is full and the spill file could not be written; is the disk full?")]
    SpillFailed,
    /// The watchdog's disk quota is nearly used up, and the stream is none that is kept then.
    #[error(
        "the watchdog's disk quota is nearly used up; only streams that are to be kept record on"
    )]
    Quota,
    /// The stream's name is empty or too long.
    #[error("a stream's name has 1 to {STREAM_NAME_BYTES_MAX} bytes")]
    StreamName,
    /// The stream is one of the watchdog's own.
    #[error(
        "streams that begin with {RESERVED_STREAM_PREFIX:?} are the watchdog's own; choose another name"
    )]
    StreamReserved,
    /// A request to the store that is larger than any may be.
    #[error("the request has {bytes} bytes, the limit is {max}; split it")]
    RequestTooLarge {
        /// Bytes of the request.
        bytes: usize,
        /// Most that a request may have.
        max: usize,
    },
    /// A request that fits into the ring never, and may not be spilled.
    #[error(
        "the request takes {bytes} bytes, the whole ring has {ring_bytes}; raise [ring] size, or let it spill"
    )]
    TooLargeForRing {
        /// Bytes of the request's frames.
        bytes: usize,
        /// Bytes of the ring.
        ring_bytes: usize,
    },
    /// Too many answers are awaited.
    #[error("{max} requests are not answered yet; wait for some of them")]
    TooManyRequests {
        /// Most that there may be.
        max: usize,
    },
    /// Another key than those that have checkpoints.
    #[error(
        "{max} keys of this server have checkpoints, no more are taken; forget_checkpoint() those that are over, and restore() one \
         that is there before you replace it"
    )]
    CheckpointKeys {
        /// Most that there may be.
        max: usize,
    },
    /// More bytes than the checkpoints of a server may have.
    #[error(
        "all checkpoints of this server would have {bytes} bytes, the limit is {max}; make them smaller, forget_checkpoint() those \
         that are over, and restore() one that is there before you replace it"
    )]
    CheckpointBytes {
        /// Bytes of the newest ones of all keys together.
        bytes: u64,
        /// Most that there may be.
        max: u64,
    },
    /// The session has ended.
    #[error("the session has ended")]
    Closed,
    /// Another engine has taken this one's place.
    #[error("a newer launch of this server is active; this process is to quit")]
    Fenced,
    /// This engine waits to take another's place.
    #[error("this process is a standby; it records once it is active")]
    Standby,
}

/// A silence that [`Session::extend_stall`] has announced.
#[derive(Clone, Copy, Debug)]
pub struct Stall {
    until_ns: u64,
    before_ns: u64,
}

struct State {
    producer: Producer<Arc<Mapping>>,
    last_seq: u64,
    spill: SpillWriter,
    /// What no gap frame has told of yet, by cause: [`gap_cause::FULL`], [`gap_cause::SPILL_FAILED`],
    /// [`gap_cause::QUOTA`].
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

/// While the disk runs short, records refused for it are told so often: 10 s, a megabyte of gap frames a day.
const QUOTA_GAP_EVERY_NS: u64 = 10_000_000_000;

thread_local! {
    static FRAME: RefCell<Vec<u8>> = const { RefCell::new(Vec::new()) };
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

    /// Takes one record: `variant` is what `var_to_bytes` gave. Returns its sequence number, from 1 on.
    ///
    /// When this returns `Ok`, the record survives the death of this process.
    ///
    /// # Errors
    /// [`RefusedCause`]: nothing was written.
    pub fn record(&self, stream: &str, variant: &[u8]) -> Result<u64, RefusedCause> {
        if stream.is_empty() || stream.len() > STREAM_NAME_BYTES_MAX {
            self.refused.fetch_add(1, Relaxed);
            return Err(RefusedCause::StreamName);
        }
        if stream.starts_with(RESERVED_STREAM_PREFIX) {
            self.refused.fetch_add(1, Relaxed);
            return Err(RefusedCause::StreamReserved);
        }
        let payload_bytes = variant.len().saturating_add(stream.len()).saturating_add(1);
        if payload_bytes > RECORD_BYTES_MAX {
            self.refused.fetch_add(1, Relaxed);
            return Err(RefusedCause::TooLarge {
                bytes: payload_bytes,
                max: RECORD_BYTES_MAX,
            });
        }
        let fill = |frame: &mut Vec<u8>| {
            frame.clear();
            frame.resize(FRAME_HEADER_BYTES, 0);
            Record::encode_head(stream, frame);
            frame.extend_from_slice(variant);
            frame.resize(frame_bytes(payload_bytes), 0);
            self.submit(stream, frame, payload_bytes)
        };
        FRAME
            .try_with(|frame| frame.try_borrow_mut().map(|mut frame| fill(&mut frame)))
            // A thread that is ending, or a signal handler amid `record`: pay for an allocation.
            .map_or_else(
                |_| fill(&mut Vec::new()),
                |done| done.unwrap_or_else(|_| fill(&mut Vec::new())),
            )
    }

    fn submit(
        &self,
        stream: &str,
        frame: &mut [u8],
        payload_bytes: usize,
    ) -> Result<u64, RefusedCause> {
        let now_ns = sys::monotonic_ns();
        let mut state = lock(&self.state);
        let state = &mut *state;
        if state.closed {
            self.refused.fetch_add(1, Relaxed);
            return Err(RefusedCause::Closed);
        }
        if self.is_fenced_in(state.producer.region()) {
            self.refused.fetch_add(1, Relaxed);
            return Err(RefusedCause::Fenced);
        }
        if self.is_standby_in(state.producer.region()) {
            self.refused.fetch_add(1, Relaxed);
            return Err(RefusedCause::Standby);
        }
        let result = self
            .may_go_on(state, stream)
            .and_then(|()| self.make_room(state, frame.len(), true))
            .and_then(|()| self.put(state, FrameKind::Record, frame, payload_bytes, now_ns));
        match result {
            Ok(seq) => {
                self.kick_if_filling(state);
                Ok(seq)
            }
            Err(cause) => {
                self.refuse(state, cause, payload_bytes, now_ns);
                Err(cause)
            }
        }
    }

    /// Whether a record of `stream` is wanted while the disk runs short.
    #[inline]
    fn may_go_on(&self, state: &State, stream: &str) -> Result<(), RefusedCause> {
        let is_low = state.producer.region().load(layout::C_DISK_LOW, Relaxed) == 1;
        if is_low && !self.options.keep.iter().any(|keep| keep.matches(stream)) {
            return Err(RefusedCause::Quota);
        }
        Ok(())
    }

    /// Sees to it that so many bytes can be stored: in the ring, or where `when_full` says.
    #[inline]
    fn make_room(
        &self,
        state: &mut State,
        bytes: usize,
        may_block: bool,
    ) -> Result<(), RefusedCause> {
        if state.producer.has_room(bytes) {
            return Ok(());
        }
        match self.options.when_full {
            WhenFull::Spill if state.spill.has_room(bytes, acked_seq(state)) => Ok(()),
            WhenFull::Block if may_block => self.block(state, bytes),
            _ => Err(RefusedCause::Full),
        }
    }

    /// Gives the frame the next number and stores it in the ring, or in the spill file if that is allowed.
    fn put(
        &self,
        state: &mut State,
        kind: FrameKind,
        frame: &mut [u8],
        payload_bytes: usize,
        now_ns: u64,
    ) -> Result<u64, RefusedCause> {
        let seq = state.last_seq.wrapping_add(1);
        seal(frame, self.seed, kind as u16, payload_bytes, seq, now_ns);
        if state.producer.publish(frame).is_err() {
            if self.options.when_full != WhenFull::Spill {
                return Err(RefusedCause::Full);
            }
            self.spill(state, frame, frame.len(), seq)?;
        }
        self.count(state, seq);
        Ok(seq)
    }

    /// `seq` is the last number that was given to something stored.
    #[inline]
    fn count(&self, state: &mut State, seq: u64) {
        state.last_seq = seq;
        // SYNC: for readers of the number only; the record itself is committed by the ring or the file.
        self.last_seq.store(seq, Release);
    }

    /// Stores the frames of one value in the spill file; the first has `first_bytes` bytes, the last has number `seq`.
    #[cold]
    fn spill(
        &self,
        state: &mut State,
        frames: &[u8],
        first_bytes: usize,
        seq: u64,
    ) -> Result<(), RefusedCause> {
        let acked = acked_seq(state);
        let region = Arc::clone(state.producer.region());
        // SYNC: Release, so that whoever sees the number finds all older files complete.
        let announce = |end: u32| region.store(layout::P_SPILL_END, end.into(), Release);
        state
            .spill
            .append(frames, first_bytes, seq, acked, announce)
            .map_err(|error| match error {
                SpillError::Full { .. } => RefusedCause::Full,
                SpillError::Io { .. } => RefusedCause::SpillFailed,
            })?;
        // SYNC: pairs with the Acquire load in `Attachment::has_more`. The commit is the file's; this word is how a
        // drain thread that is about to sleep sees it, for the ring's tail does not move.
        region.store(layout::P_SPILL_SEQ, seq, Release);
        Ok(())
    }

    #[cold]
    fn block(&self, state: &mut State, bytes: usize) -> Result<(), RefusedCause> {
        let region = Arc::clone(state.producer.region());
        kick(&region, DRAIN_SLEEP);
        let started_ns = sys::monotonic_ns();
        let budget_ns = self.block_left_ns.load(Relaxed);
        let mut spent_ns = 0;
        let mut result = Err(RefusedCause::Full);
        while result.is_err() && spent_ns < budget_ns {
            let left = Duration::from_nanos(budget_ns.saturating_sub(spent_ns));
            sleep(&region, SPACE_SLEEP, left, || {
                state.producer.has_room(bytes)
            });
            // At least 1 us a turn, so that the loop ends whatever the clock says.
            let since_ns = sys::monotonic_ns().saturating_sub(started_ns);
            spent_ns = since_ns.max(spent_ns.saturating_add(1_000));
            if state.producer.has_room(bytes) {
                result = Ok(());
            }
        }
        self.block_left_ns
            .store(budget_ns.saturating_sub(spent_ns), Relaxed);
        result
    }

    fn refuse(&self, state: &mut State, cause: RefusedCause, payload_bytes: usize, now_ns: u64) {
        self.refused.fetch_add(1, Relaxed);
        let [full, spill_failed, quota] = &mut state.gaps;
        let (gap, cause) = match cause {
            RefusedCause::SpillFailed => (spill_failed, gap_cause::SPILL_FAILED),
            RefusedCause::Quota => (quota, gap_cause::QUOTA),
            _ => (full, gap_cause::FULL),
        };
        for gap in [gap, &mut state.refused] {
            if gap.count == 0 {
                gap.first_monotonic_ns = now_ns;
            }
            gap.count = gap.count.saturating_add(1);
            gap.bytes = gap.bytes.saturating_add(payload_bytes as u64);
            gap.last_monotonic_ns = now_ns;
            gap.cause = cause;
        }
        self.store_refused(state);
    }

    /// As [`Session::flush_gaps`]; but while the disk runs short, what is refused for it is told every now and then only:
    /// gap frames must not use up what is left for the streams that are to be kept.
    fn flush_gaps_due(&self, state: &mut State, now_ns: u64) -> Result<(), RefusedCause> {
        let is_low = state.producer.region().load(layout::C_DISK_LOW, Relaxed) == 1;
        if is_low && now_ns < state.quota_gap_after_ns {
            return self.flush_first_gaps(state, state.gaps.len().saturating_sub(1), now_ns);
        }
        let [.., quota] = &state.gaps;
        if quota.count > 0 {
            state.quota_gap_after_ns = now_ns.saturating_add(QUOTA_GAP_EVERY_NS);
        }
        self.flush_gaps(state, now_ns)
    }

    /// Tells of the refused records, if there are some: one frame for each cause. Called once per frame of the game, or
    /// a ring that has room for small records and none for large ones would fill with gap frames.
    fn flush_gaps(&self, state: &mut State, now_ns: u64) -> Result<(), RefusedCause> {
        self.flush_first_gaps(state, state.gaps.len(), now_ns)
    }

    /// As [`Session::flush_gaps`], of so many causes.
    fn flush_first_gaps(
        &self,
        state: &mut State,
        causes: usize,
        now_ns: u64,
    ) -> Result<(), RefusedCause> {
        for index in 0..causes {
            let Some(gap) = state.gaps.get(index).filter(|gap| gap.count > 0) else {
                continue;
            };
            let mut frame = vec![0; FRAME_HEADER_BYTES];
            gap.encode(&mut frame);
            frame.resize(frame_bytes(Gap::BYTES), 0);
            let region = Arc::clone(state.producer.region());
            let told_in = layout::P_UNTOLD_TOLD_IN.get(index).copied();
            let told_in = |seq| {
                if let Some(at) = told_in {
                    // SYNC: orders nothing between processes; Release keeps the order of these stores, for a kill.
                    region.store(at, seq, Release);
                }
            };
            // Killed from here on: the frame tells of them if it is there, else their words do.
            told_in(state.last_seq.wrapping_add(1));
            if let Err(refused) = self.put(state, FrameKind::Gap, &mut frame, Gap::BYTES, now_ns) {
                told_in(0);
                return Err(refused);
            }
            if let Some(gap) = state.gaps.get_mut(index) {
                *gap = Gap::default();
            }
            self.store_refused(state);
            told_in(0);
        }
        Ok(())
    }

    fn store_refused(&self, state: &State) {
        let pending = state
            .gaps
            .iter()
            .fold(0u64, |sum, gap| sum.saturating_add(gap.count));
        self.gap_pending.store(pending, Relaxed);
        store_refused(
            state.producer.region(),
            &state.refused,
            &state.gaps,
            pending,
        );
    }

    /// Wakes the watchdog when a quarter of the ring is in use, and again with every sixteenth more.
    fn kick_if_filling(&self, state: &mut State) {
        let quarter = (self.ring_bytes / 4) as u64;
        let tail = state.producer.tail();
        if tail.wrapping_sub(state.kicked_at) >= quarter / 4 && state.producer.used() >= quarter {
            state.kicked_at = tail;
            kick(state.producer.region(), DRAIN_SLEEP);
        }
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

    /// Announces that frames may not come for `duration` from now, at most [`STALL_MAX`].
    pub fn expect_stall(&self, duration: Duration) {
        let until_ns = sys::monotonic_ns().saturating_add(as_ns(duration.min(STALL_MAX)));
        let state = lock(&self.state);
        state
            .producer
            .region()
            .store(layout::P_STALL_UNTIL_NS, until_ns, Relaxed);
    }

    /// As [`Session::expect_stall`], unless a longer silence was announced already. To be followed by
    /// [`Session::end_stall`] with what this returns.
    pub fn extend_stall(&self, duration: Duration) -> Stall {
        let until_ns = sys::monotonic_ns().saturating_add(as_ns(duration.min(STALL_MAX)));
        let state = lock(&self.state);
        let region = state.producer.region();
        let before_ns = region.load(layout::P_STALL_UNTIL_NS, Relaxed);
        if before_ns < until_ns {
            region.store(layout::P_STALL_UNTIL_NS, until_ns, Relaxed);
        }
        Stall {
            until_ns,
            before_ns,
        }
    }

    /// What was waited for has come: from now on only `left` of the announced silence is left, for the frame to end in, or
    /// what was announced before. Does nothing when another silence was announced meanwhile.
    pub fn end_stall(&self, stall: Stall, left: Duration) {
        let until_ns = sys::monotonic_ns().saturating_add(as_ns(left));
        let state = lock(&self.state);
        let region = state.producer.region();
        let is_ours = region.load(layout::P_STALL_UNTIL_NS, Relaxed) == stall.until_ns;
        if is_ours && until_ns < stall.until_ns {
            let until_ns = until_ns.max(stall.before_ns);
            region.store(layout::P_STALL_UNTIL_NS, until_ns, Relaxed);
        }
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

    /// The next message of the watchdog, if there is one. `out` is scratch space that saves allocations.
    ///
    /// A damaged downlink is skipped to its end.
    pub fn poll_downlink(&self, out: &mut Vec<u8>) -> Option<DownlinkMessage> {
        if self.has_leftover.load(Relaxed) {
            let mut leftover = lock(&self.leftover);
            if let Some(message) = leftover.pop_front() {
                return Some(message);
            }
            self.has_leftover.store(false, Relaxed);
        }
        read_downlink(&self.current(), out)
    }
}

/// The next message in a file's downlink.
fn read_downlink(current: &Current, out: &mut Vec<u8>) -> Option<DownlinkMessage> {
    let mut consumer = lock(&current.downlink);
    loop {
        let position = consumer.position();
        let header = match consumer.peek() {
            Ok(header) => header?,
            Err(_) => {
                skip_damage(&mut consumer);
                return None;
            }
        };
        out.clear();
        if header.seq != position || consumer.take(header, out).is_err() {
            skip_damage(&mut consumer);
            return None;
        }
        consumer.release(consumer.position());
        let end = FRAME_HEADER_BYTES.saturating_add(header.len as usize);
        let payload = out.get(FRAME_HEADER_BYTES..end).unwrap_or_default();
        if let Ok(message) = DownlinkMessage::parse(payload) {
            return Some(message);
        }
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

fn skip_damage(consumer: &mut Consumer<Arc<Mapping>>) {
    consumer.skip_to_tail();
    consumer.release(consumer.position());
}

fn as_ns(duration: Duration) -> u64 {
    u64::try_from(duration.as_nanos()).unwrap_or(u64::MAX)
}

fn store_refused(region: &impl Region, refused: &Gap, untold: &[Gap; 3], pending: u64) {
    // First, so that who finds the words below cleared, amid this, finds nothing left to tell.
    let told = refused.count.saturating_sub(pending);
    // SYNC: Release here and in `store_untold` keeps the order of these stores, for a kill between them.
    region.store(layout::P_REFUSED_TOLD, told, Release);
    for (at, gap) in layout::P_UNTOLD.into_iter().zip(untold) {
        store_untold(region, at, gap);
    }
    region.store(layout::P_REFUSED_COUNT, refused.count, Relaxed);
    region.store(layout::P_REFUSED_BYTES, refused.bytes, Relaxed);
}

/// Stores what no frame has told of yet, so that it is known when this process dies before one can.
pub(super) fn store_untold(region: &impl Region, at: usize, gap: &Gap) {
    let words = [
        gap.count,
        gap.bytes,
        gap.first_monotonic_ns,
        gap.last_monotonic_ns,
    ];
    for (index, word) in words.into_iter().enumerate() {
        region.store(at.wrapping_add(index.wrapping_mul(8)), word, Release);
    }
}
