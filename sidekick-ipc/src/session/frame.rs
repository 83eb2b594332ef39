//! What a session does once per frame: it tells that the main loop lives, and looks what the watchdog wants.

use std::sync::atomic::Ordering::{Acquire, Relaxed, Release};
use std::sync::{Arc, PoisonError};

use super::downlink::read_downlink;
use super::file::{Current, Place};
use super::gaps::store_untold;
use super::{Session, SessionError, State, WhenFull, as_ns, lock};
use crate::control::{self, Control};
use crate::frame::{FRAME_BYTES_MAX, Gap, frame_bytes};
use crate::heartbeat::Phase;
use crate::layout::{self, RingLayout};
use crate::region::{Mapping, Region};
use crate::ring::{DRAIN_SLEEP, Producer, kick};
use crate::sys;

/// How often the offset between the two clocks is looked at.
const REALTIME_EVERY_NS: u64 = 1_000_000_000;
/// A smaller change of it is the clock being slewed, or the time between two readings: not worth times that jump.
const REALTIME_STEP_NS: u64 = 1_000_000;
/// After a file for the next rotation could not be made, the next try waits so long.
const ROTATE_RETRY_NS: u64 = 1_000_000_000;

/// What [`Session::look`] saw.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Look {
    /// CLOCK_MONOTONIC at that moment, ns.
    pub monotonic_ns: u64,
    /// What the watchdog wants.
    pub control: Control,
    /// As [`Session::committed_seq`].
    pub committed_seq: u64,
    /// As [`Session::uploaded_seq`].
    pub uploaded_seq: u64,
    /// [`Session::poll_downlink`] may have something.
    pub has_message: bool,
    /// As [`Session::is_fenced`].
    pub is_fenced: bool,
}

impl Session {
    /// All that a frame asks, read at once.
    pub fn look(&self) -> Look {
        let monotonic_ns = sys::monotonic_ns();
        let current = self.current.read().unwrap_or_else(PoisonError::into_inner);
        let region = &*current.mapping;
        let tail = region.load(layout::DOWN_TAIL, Relaxed);
        Look {
            monotonic_ns,
            control: control::read(region, monotonic_ns),
            committed_seq: self.level_in(region, layout::C_ACK_SEQ, &self.committed_seq),
            uploaded_seq: self.level_in(region, layout::C_UPLOADED_SEQ, &self.uploaded_seq),
            has_message: tail != region.load(layout::DOWN_HEAD, Relaxed)
                || self.has_leftover.load(Relaxed),
            is_fenced: self.is_fenced_in(region),
        }
    }

    /// To be called once per frame of the main loop: heartbeat, gap frames, rotation if asked for, waking the watchdog
    /// if something was recorded since the frame before.
    pub fn on_frame(&self, phase: Phase) {
        self.on_frame_at(phase, sys::monotonic_ns());
    }

    /// As [`Session::on_frame`], for a caller that has just read the clock ([`Look::monotonic_ns`]): reading it again
    /// would be half of the cost.
    pub fn on_frame_at(&self, phase: Phase, now_ns: u64) {
        if self.options.when_full == WhenFull::Block {
            self.block_left_ns
                .store(as_ns(self.options.block_max), Relaxed);
        }
        let current = self.current.read().unwrap_or_else(PoisonError::into_inner);
        let wanted = current.mapping.load(layout::C_ROTATE_TO, Relaxed);
        if self.gap_pending.load(Relaxed) > 0 || wanted > u64::from(current.rotation) {
            let old = Arc::clone(&current);
            drop(current);
            let current = self.on_rare_frame(old, wanted, now_ns);
            self.beat(&current, phase, now_ns);
        } else {
            self.beat(&current, phase, now_ns);
        }
    }

    #[cold]
    fn on_rare_frame(&self, mut current: Arc<Current>, wanted: u64, now_ns: u64) -> Arc<Current> {
        let mut state = lock(&self.state);
        if !state.closed {
            if wanted > u64::from(current.rotation) && now_ns >= state.rotate_after_ns {
                match self.rotate(&mut state, &current) {
                    Ok(next) => current = next,
                    Err(_) => state.rotate_after_ns = now_ns.saturating_add(ROTATE_RETRY_NS),
                }
            }
            // Space has returned when the largest record would fit; else the next frame looks again.
            let gap_bytes = frame_bytes(Gap::BYTES).saturating_mul(state.gaps.len());
            let enough = FRAME_BYTES_MAX.saturating_add(gap_bytes);
            if self.make_room(&mut state, enough, false).is_ok() {
                let _ = self.flush_gaps_due(&mut state, now_ns);
            }
        }
        current
    }

    fn beat(&self, current: &Current, phase: Phase, now_ns: u64) {
        let region = &current.mapping;
        let before_ns = self.last_frame_ns.load(Relaxed);
        self.last_frame_ns.store(now_ns, Relaxed);
        if before_ns != 0 {
            let tick_us = now_ns.saturating_sub(before_ns) / 1_000;
            region.store(layout::P_TICK_US, tick_us, Relaxed);
        }
        if now_ns >= self.realtime_due_ns.load(Relaxed) {
            self.refresh_realtime(region, now_ns);
        }
        let phase = if self.crashed.load(Relaxed) {
            Phase::Crashed
        } else {
            phase
        };
        region.store(layout::P_FRAME_NS, now_ns, Relaxed);
        region.store(layout::P_PHASE, phase as u64, Relaxed);
        // Only this thread counts.
        let frames = self.frames.load(Relaxed).wrapping_add(1);
        self.frames.store(frames, Relaxed);
        // SYNC: last, so that who sees the count change finds the clock and the phase of that frame or a later one.
        region.store(layout::P_FRAMES, frames, Release);
        let generation = region.load(layout::C_GENERATION, Relaxed);
        region.store(layout::P_GENERATION_SEEN, generation, Relaxed);
        self.ask_again_if_new(generation);
        self.notifier
            .tell(region, DRAIN_SLEEP, || self.last_seq.load(Acquire));
        current.prefault_some();
    }

    /// Somebody may have set the wall clock: records made from now on should say so.
    #[cold]
    fn refresh_realtime(&self, region: &Mapping, now_ns: u64) {
        self.realtime_due_ns
            .store(now_ns.saturating_add(REALTIME_EVERY_NS), Relaxed);
        let offset_ns = sys::realtime_ns().wrapping_sub(sys::monotonic_ns());
        let before_ns = region.load(layout::P_REALTIME_OFFSET_NS, Relaxed);
        let change_ns = (offset_ns.wrapping_sub(before_ns) as i64).unsigned_abs();
        if change_ns >= REALTIME_STEP_NS {
            region.store(layout::P_REALTIME_OFFSET_NS, offset_ns, Relaxed);
        }
    }

    /// Whether a newer launch is the active one: this process has been given up, takes no records and is to quit.
    pub fn is_fenced(&self) -> bool {
        self.is_fenced_in(&self.current().mapping)
    }

    #[inline]
    pub(super) fn is_fenced_in(&self, region: &Mapping) -> bool {
        region.load(layout::C_ACTIVE_LAUNCH, Relaxed) > u64::from(self.options.launch)
    }

    /// The engine's crash handler has begun. May be called in a signal handler: takes no lock that it would have to wait
    /// for, and allocates nothing.
    pub fn mark_crashed(&self) {
        self.crashed.store(true, Relaxed);
        if let Ok(current) = self.current.try_read() {
            let phase = Phase::Crashed as u64;
            current.mapping.store(layout::P_PHASE, phase, Relaxed);
        }
    }

    /// Says whether the game could be restarted now without anybody missing it.
    pub fn set_idle(&self, idle: bool) {
        let state = lock(&self.state);
        state
            .producer
            .region()
            .store(layout::P_IDLE, idle.into(), Relaxed);
    }

    /// Asks to be started anew as soon as the game is idle, or takes that back.
    pub fn set_restart_wanted(&self, wanted: bool) {
        let state = lock(&self.state);
        state
            .producer
            .region()
            .store(layout::P_RESTART_WANTED, wanted.into(), Relaxed);
    }

    fn rotate(&self, state: &mut State, old: &Arc<Current>) -> Result<Arc<Current>, SessionError> {
        let place = Place {
            dir: &self.dir,
            options: &self.options,
            epoch: self.epoch,
            ring_bytes: self.ring_bytes,
        };
        state.spill.close();
        let rotation = old.rotation.wrapping_add(1);
        let first_seq = state.last_seq.wrapping_add(1);
        let spill_first = state.spill.next_number();
        let next = place.make(rotation, first_seq, spill_first, |new| {
            // What is a level goes along.
            let levels = [
                layout::P_FRAMES,
                layout::P_FRAME_NS,
                layout::P_PHASE,
                layout::P_STALL_UNTIL_NS,
                layout::P_READY,
                layout::P_TICK_US,
                layout::P_IDLE,
                layout::P_RESTART_WANTED,
                layout::P_REALTIME_OFFSET_NS,
                layout::P_BEGUN_NS,
                layout::P_REFUSED_COUNT,
                layout::P_REFUSED_BYTES,
                layout::P_REFUSED_TOLD,
            ];
            for at in levels {
                new.store(at, old.mapping.load(at, Relaxed), Relaxed);
            }
            for (at, gap) in layout::P_UNTOLD.into_iter().zip(&state.gaps) {
                store_untold(new, at, gap);
            }
            new.store(layout::P_SPILL_END, spill_first.into(), Relaxed);
        })?;
        let next = Arc::new(next);
        let uplink = RingLayout::uplink(self.ring_bytes as u64);
        state.producer = Producer::attach(Arc::clone(&next.mapping), uplink);
        state.kicked_at = 0;
        // What the watchdog has sent already would be forgotten with the file.
        let mut scratch = Vec::new();
        let mut leftover = lock(&self.leftover);
        while let Some(message) = read_downlink(old, &mut scratch) {
            leftover.push_back(message);
            self.has_leftover.store(true, Relaxed);
        }
        drop(leftover);
        *self.current.write().unwrap_or_else(PoisonError::into_inner) = Arc::clone(&next);
        self.ask_again_later();
        // SYNC: pairs with the Acquire load in `heartbeat::read`: after this nothing more comes here, and the next
        // file has its name already.
        old.mapping
            .store(layout::P_STATE, layout::STATE_ROTATED, Release);
        kick(&old.mapping, DRAIN_SLEEP);
        Ok(next)
    }
}
