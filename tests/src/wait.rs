//! Waits on an observable with a deadline, so that no test sleeps for a guess.

use std::thread;
use std::time::{Duration, Instant};

/// How often a condition is looked at: short beside an engine's frame, long beside the look itself.
const POLL: Duration = Duration::from_millis(5);

/// Looks at `condition` until it gives a value, and returns that; `None` when `deadline` passes first.
pub fn poll<T>(deadline: Duration, mut condition: impl FnMut() -> Option<T>) -> Option<T> {
    let end = Instant::now() + deadline;
    loop {
        if let Some(value) = condition() {
            return Some(value);
        }
        if Instant::now() >= end {
            return None;
        }
        thread::sleep(POLL);
    }
}

/// As [`poll`], for a test that cannot go on without the value.
///
/// # Panics
/// When `deadline` passes first; `what` says what was waited for, as in `"the engine to start"`.
#[track_caller]
pub fn until<T>(what: &str, deadline: Duration, condition: impl FnMut() -> Option<T>) -> T {
    poll(deadline, condition)
        .unwrap_or_else(|| panic!("waited {:.1} s in vain for {what}", deadline.as_secs_f64()))
}
