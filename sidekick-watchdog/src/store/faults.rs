//! Faults of ours, as tests of other modules want them.

use std::sync::atomic::Ordering;

use super::Store;

impl Store {
    /// Whether the next entry panics when it is applied, which the store does not outlive.
    pub(crate) fn panic_in_apply(&self, panics: bool) {
        // SYNC: a test switch.
        self.parts.machine.panics.store(panics, Ordering::Relaxed);
    }

    /// The log's thread does nothing else until `hang` returns, as if a system call took so long.
    pub(crate) fn hang_log(&self, hang: impl FnOnce() + Send + 'static) {
        self.parts.wal.prepare(0, Box::new(move |_| hang()));
    }
}
