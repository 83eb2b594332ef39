//! Silences that are announced: for so long the watchdog takes none for a hang.

use std::sync::atomic::Ordering::Relaxed;
use std::time::Duration;

use super::{Session, as_ns, lock};
use crate::heartbeat::STALL_MAX;
use crate::layout;
use crate::region::Region;
use crate::sys;

/// A silence that [`Session::extend_stall`] has announced.
#[derive(Clone, Copy, Debug)]
pub struct Stall {
    until_ns: u64,
    before_ns: u64,
}

impl Session {
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
}
