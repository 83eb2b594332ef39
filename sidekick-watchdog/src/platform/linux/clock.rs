//! The clocks that processes share.

use std::time::Duration;

use rustix::time::{ClockId, clock_gettime};

/// CLOCK_MONOTONIC: since boot without suspended time; the same in every process of the machine.
pub fn monotonic_now() -> Duration {
    since_epoch(ClockId::Monotonic)
}

/// CLOCK_BOOTTIME: since boot with suspended time, the clock of process start times.
pub fn boottime_now() -> Duration {
    since_epoch(ClockId::Boottime)
}

fn since_epoch(clock: ClockId) -> Duration {
    let time = clock_gettime(clock);
    // Neither clock is ever negative.
    Duration::new(
        u64::try_from(time.tv_sec).unwrap_or(0),
        u32::try_from(time.tv_nsec).unwrap_or(0),
    )
}

/// Names this boot of the machine, so that a pid of another boot is never taken for one of this; empty if unknown.
pub fn boot_id() -> String {
    std::fs::read_to_string("/proc/sys/kernel/random/boot_id")
        .map(|id| id.trim().to_owned())
        .unwrap_or_default()
}
