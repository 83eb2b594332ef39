//! What was refused is told: by words in the header at once, by a gap frame as soon as one has room.

use std::sync::Arc;
use std::sync::atomic::Ordering::{Relaxed, Release};

use super::{RefusedCause, Session, State};
use crate::frame::{FRAME_HEADER_BYTES, FrameKind, Gap, frame_bytes, gap_cause};
use crate::layout;
use crate::region::Region;

/// While the disk runs short, records refused for it are told so often: 10 s, a megabyte of gap frames a day.
const QUOTA_GAP_EVERY_NS: u64 = 10_000_000_000;

impl Session {
    pub(super) fn refuse(
        &self,
        state: &mut State,
        cause: RefusedCause,
        payload_bytes: usize,
        now_ns: u64,
    ) {
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
    pub(super) fn flush_gaps_due(
        &self,
        state: &mut State,
        now_ns: u64,
    ) -> Result<(), RefusedCause> {
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
    pub(super) fn flush_gaps(&self, state: &mut State, now_ns: u64) -> Result<(), RefusedCause> {
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
