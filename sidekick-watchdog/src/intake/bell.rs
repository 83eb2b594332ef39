//! Wakes a drain thread, wherever it sleeps.

use std::sync::{Arc, Mutex, OnceLock, PoisonError};
use std::task::Wake;
use std::thread::Thread;

use sidekick_ipc::attach::Waker;

/// Wakes a drain thread from its ring's sleep or from [`std::thread::park`]; also what futures wake that it polls.
pub(super) struct Bell {
    /// Of the ring file that is being read.
    ring: Mutex<Waker>,
    thread: OnceLock<Thread>,
}

impl Bell {
    pub(super) fn new(ring: Waker) -> Arc<Self> {
        Arc::new(Self {
            ring: Mutex::new(ring),
            thread: OnceLock::new(),
        })
    }

    /// The calling thread is the one to be woken.
    pub(super) fn belongs_to_this_thread(&self) {
        let _ = self.thread.set(std::thread::current());
    }

    /// Another ring file is being read from now on.
    pub(super) fn set_ring(&self, ring: Waker) {
        *self.ring.lock().unwrap_or_else(PoisonError::into_inner) = ring;
    }

    pub(super) fn ring(&self) {
        // Not under the lock: it may take a moment.
        let ring = self
            .ring
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .clone();
        ring.wake();
        if let Some(thread) = self.thread.get() {
            thread.unpark();
        }
    }
}

impl Wake for Bell {
    fn wake(self: Arc<Self>) {
        self.ring();
    }

    fn wake_by_ref(self: &Arc<Self>) {
        self.ring();
    }
}
