//! Sleeping and waking on a word in shared memory, and waiting awake for a moment before that.
//!
//! Linux: a futex without the PRIVATE flag, which works across processes and through a read-only mapping.

use std::sync::OnceLock;
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

/// Pauses of the processor between two looks.
const PAUSES_PER_LOOK: u32 = 8;

/// Looks without sleeping until `is_ready` or until the monotonic clock says `until_ns`; says which of the two it was. For waits
/// that are mostly shorter than being put to sleep and woken again takes, which is some 50 µs on a processor that idles.
///
/// Where the other process cannot run meanwhile, for want of a second processor, it looks once.
pub fn spin(until_ns: u64, mut is_ready: impl FnMut() -> bool) -> bool {
    loop {
        if is_ready() {
            return true;
        }
        if !can_spin() || sys::monotonic_ns() >= until_ns {
            return false;
        }
        for _ in 0..PAUSES_PER_LOOK {
            std::hint::spin_loop();
        }
    }
}

/// Whether this process may use more than one processor. The first call takes a moment: it reads files.
pub(crate) fn can_spin() -> bool {
    static CAN_SPIN: OnceLock<bool> = OnceLock::new();
    *CAN_SPIN.get_or_init(|| std::thread::available_parallelism().is_ok_and(|n| n.get() > 1))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn waiting_awake_ends_at_its_time_or_when_it_is_there() {
        let now_ns = sys::monotonic_ns();
        assert!(!spin(now_ns, || false));
        assert!(spin(now_ns, || true));
        let (mut looks, until_ns) = (0, now_ns.saturating_add(1_000_000));
        assert!(!spin(until_ns, || {
            looks += 1;
            false
        }));
        assert!(looks > 0);
        assert!(!can_spin() || sys::monotonic_ns() >= until_ns);
    }
}
