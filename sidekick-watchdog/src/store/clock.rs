//! Log time: what leases are measured with (CORRECTNESS rule 22).
//!
//! It is the last committed time plus what went by on our monotonic clock since we saw it. It never goes back, a jump of
//! the wall clock does not touch it, and it stands still while no watchdog runs: what was granted lasts too long rather
//! than too short.

use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

#[derive(Debug)]
pub(crate) struct LogClock {
    /// A time and when it was that time.
    anchor: Mutex<(u64, Instant)>,
}

impl LogClock {
    /// `committed_ns` is the state's time at `now`.
    pub(crate) fn new(committed_ns: u64, now: Instant) -> Self {
        Self {
            anchor: Mutex::new((committed_ns, now)),
        }
    }

    /// The time to stamp a command with, in nanoseconds. `committed_ns` is the state's time; another node may have been
    /// ahead of us.
    pub(crate) fn now_ns(&self, committed_ns: u64, now: Instant) -> u64 {
        let mut anchor = self.anchor.lock().unwrap_or_else(PoisonError::into_inner);
        let (base, since) = *anchor;
        let time = base.saturating_add(nanos(now.saturating_duration_since(since)));
        if committed_ns > time {
            *anchor = (committed_ns, now);
            return committed_ns;
        }
        time
    }

    /// What the time was at a moment that has gone by; one before the anchor's is told as the anchor's, so too late rather than too
    /// early.
    pub(crate) fn then_ns(&self, then: Instant) -> u64 {
        let (base, since) = *self.anchor.lock().unwrap_or_else(PoisonError::into_inner);
        base.saturating_add(nanos(then.saturating_duration_since(since)))
    }
}

/// A duration in whole nanoseconds; 584 years at most.
pub(crate) fn nanos(duration: Duration) -> u64 {
    u64::try_from(duration.as_nanos()).unwrap_or(u64::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn log_time_goes_on_from_what_was_committed_and_never_back() {
        let start = Instant::now();
        let at = |ms| start + Duration::from_millis(ms);
        let clock = LogClock::new(1_000, start);
        assert_eq!(clock.now_ns(1_000, start), 1_000);
        assert_eq!(clock.now_ns(1_000, at(2)), 2_001_000);
        // Another leader was ahead; its time is where we go on.
        assert_eq!(clock.now_ns(9_000_000, at(3)), 9_000_000);
        assert_eq!(clock.now_ns(9_000_000, at(4)), 10_000_000);
        // A clock that does not move is no trouble.
        assert_eq!(clock.now_ns(0, at(1)), 9_000_000);
        assert_eq!(clock.then_ns(at(1)), 9_000_000);
        assert_eq!(clock.then_ns(at(5)), 11_000_000);
    }
}
