//! How a record is taken: numbered, and stored in the ring or where `when_full` says.

use std::cell::RefCell;
use std::sync::Arc;
use std::sync::atomic::Ordering::{Relaxed, Release};
use std::time::Duration;

use super::{RefusedCause, Session, State, WhenFull, acked_seq, lock};
use crate::frame::{
    FRAME_HEADER_BYTES, FrameKind, RECORD_BYTES_MAX, RESERVED_STREAM_PREFIX, Record,
    STREAM_NAME_BYTES_MAX, frame_bytes, seal,
};
use crate::layout;
use crate::region::Region;
use crate::ring::{DRAIN_SLEEP, SPACE_SLEEP, kick, sleep};
use crate::spill::SpillError;
use crate::sys;

thread_local! {
    static FRAME: RefCell<Vec<u8>> = const { RefCell::new(Vec::new()) };
}

impl Session {
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
    pub(super) fn make_room(
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
    pub(super) fn put(
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
    pub(super) fn count(&self, state: &mut State, seq: u64) {
        state.last_seq = seq;
        // SYNC: for readers of the number only; the record itself is committed by the ring or the file.
        self.last_seq.store(seq, Release);
    }

    /// Stores the frames of one value in the spill file; the first has `first_bytes` bytes, the last has number `seq`.
    #[cold]
    pub(super) fn spill(
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

    /// Wakes the watchdog when a quarter of the ring is in use, and again with every sixteenth more.
    pub(super) fn kick_if_filling(&self, state: &mut State) {
        let quarter = (self.ring_bytes / 4) as u64;
        let tail = state.producer.tail();
        if tail.wrapping_sub(state.kicked_at) >= quarter / 4 && state.producer.used() >= quarter {
            state.kicked_at = tail;
            kick(state.producer.region(), DRAIN_SLEEP);
        }
    }
}
