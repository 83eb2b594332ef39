//! Sleeping and waking on a word in shared memory.
//!
//! Linux: a futex without the PRIVATE flag, which works across processes and through a read-only mapping.

use std::sync::atomic::AtomicU32;
use std::time::Duration;

use crate::sys;

/// Sleeps while `word` is `while_value`, at most `timeout`. May return early.
pub fn wait(word: &AtomicU32, while_value: u32, timeout: Duration) {
    sys::futex_wait(word, while_value, timeout);
}

/// Wakes all who sleep on `word`, in any process. Says how many that were.
pub fn wake(word: &AtomicU32) -> usize {
    sys::futex_wake(word)
}
