//! What the lanes of a sink know of one another where the log rots while they read it.
//!
//! A lane that had begun with an entry before its loss was found has its records of it and will tell of no loss, so whoever
//! tells waits until it has passed. A lane that begins later meets the loss. As little will a lane tell whose sink says at
//! the start that it holds more than was written down.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Mutex, MutexGuard, PoisonError};

use tokio::sync::{OnceCell, watch};

use crate::position::Position;
use crate::upload::sink::Held;

#[derive(Debug, Default)]
struct Inner {
    /// The last entry that each lane has begun with.
    begun: BTreeMap<u32, u64>,
    /// For each entry that was met as lost: the lanes that may have it as it was.
    intact: BTreeMap<u64, BTreeSet<u32>>,
}

/// Shared by all lanes of a sink.
#[derive(Debug, Default)]
pub(super) struct Losses {
    inner: Mutex<Inner>,
    changed: watch::Sender<()>,
    /// Lane by lane, what the sink holds; asked once, before any lane sends something, where entries are lost.
    pub(super) held: OnceCell<Vec<Held>>,
}

impl Losses {
    fn lock(&self) -> MutexGuard<'_, Inner> {
        // Nothing panics while holding it.
        self.inner.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// `lane` begins with the entry at `index`, and looks only then whether it is known to be lost.
    pub(super) fn begin(&self, lane: u32, index: u64) {
        self.lock().begun.insert(lane, index);
    }

    /// `lane` has met the loss of an entry that is told at `lost`: the others that have it as it was, perhaps, or whose sink
    /// has it.
    pub(super) fn meet(&self, lane: u32, lost: Position) -> BTreeSet<u32> {
        let index = lost.index;
        let held = (0..).zip(self.held.get().into_iter().flatten());
        let held = held.filter(|(_, held)| held.position >= lost);
        let mut inner = self.lock();
        let Inner { begun, intact } = &mut *inner;
        let known = intact.entry(index).or_insert_with(|| {
            let begun = begun.iter().filter(|(_, begun)| **begun >= index);
            begun.map(|(lane, _)| *lane).collect()
        });
        if known.remove(&lane) {
            self.changed.send_replace(());
        }
        match broken::get() {
            true => BTreeSet::new(),
            false => known
                .iter()
                .copied()
                .chain(held.map(|(lane, _)| lane))
                .collect(),
        }
    }

    /// Tells when a lane has met a loss that it might have missed.
    pub(super) fn changed(&self) -> watch::Receiver<()> {
        self.changed.subscribe()
    }
}

/// The variant that the tests have to catch: everybody is taken to meet every loss.
pub(super) mod broken {
    #[cfg(test)]
    thread_local! {
        pub(in crate::upload::engine) static IS_BLIND: std::cell::Cell<bool> = const { std::cell::Cell::new(false) };
    }

    #[inline]
    pub(super) fn get() -> bool {
        #[cfg(test)]
        return IS_BLIND.get();
        #[cfg(not(test))]
        false
    }
}
