//! Keeps the watchdog alive when a ring file is truncated under its mapping.
//!
//! Reading a page behind the end of a mapped file raises SIGBUS, which kills. The handler puts zero pages over the
//! registered range instead and sets a flag: the parser then finds a ring that makes no sense, and says so.

use std::io;
use std::sync::Mutex;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};

use crate::sys;

/// Ring files mapped at once. One per live engine and rotation, and what dead ones left: far below this.
const SLOTS: usize = 256;

struct Slot {
    start: AtomicUsize,
    // Written last when registering and first when letting go; 0 = free.
    end: AtomicUsize,
    hit: AtomicBool,
}

static SLOT: [Slot; SLOTS] = [const {
    Slot {
        start: AtomicUsize::new(0),
        end: AtomicUsize::new(0),
        hit: AtomicBool::new(false),
    }
}; SLOTS];
static REGISTERING: Mutex<bool> = Mutex::new(false);

/// A registered address range.
#[derive(Debug)]
pub(super) struct Guard(usize);

impl Guard {
    pub(super) fn register(start: usize, bytes: usize) -> io::Result<Guard> {
        let mut installed = REGISTERING
            .lock()
            .unwrap_or_else(std::sync::PoisonError::into_inner);
        if !*installed {
            sys::install_bus_error_handler(on_bus_error)?;
            *installed = true;
        }
        let free = SLOT
            .iter()
            .position(|slot| slot.end.load(Ordering::Relaxed) == 0);
        let Some((index, slot)) = free.and_then(|i| Some((i, SLOT.get(i)?))) else {
            return Err(io::Error::other(format!(
                "{SLOTS} ring files are mapped already"
            )));
        };
        slot.hit.store(false, Ordering::Relaxed);
        slot.start.store(start, Ordering::Relaxed);
        // SYNC: pairs with the Acquire load in `on_bus_error`, which then sees `start`.
        slot.end
            .store(start.saturating_add(bytes), Ordering::Release);
        Ok(Guard(index))
    }

    pub(super) fn is_hit(&self) -> bool {
        SLOT.get(self.0)
            .is_some_and(|slot| slot.hit.load(Ordering::Acquire))
    }
}

impl Drop for Guard {
    fn drop(&mut self) {
        if let Some(slot) = SLOT.get(self.0) {
            slot.end.store(0, Ordering::Release);
        }
    }
}

/// Whether `address` was in a guarded range and has memory behind it now. Runs in a signal handler: takes no lock,
/// allocates nothing.
fn on_bus_error(address: usize) -> bool {
    for slot in &SLOT {
        let end = slot.end.load(Ordering::Acquire);
        let start = slot.start.load(Ordering::Relaxed);
        if address >= start && address < end {
            slot.hit.store(true, Ordering::Release);
            // SAFETY: the range is a mapping of this process that stays registered while it is mapped (a `Guard` is
            // dropped before its mapping), and only shared words, which may change at any time, lie in it.
            return unsafe { sys::cover_with_zeros(start, end - start) };
        }
    }
    false
}
