//! A session that waits to be the active one: it takes nothing until then (CORRECTNESS rule 6).

use std::sync::atomic::Ordering::{Acquire, Relaxed};
use std::time::Duration;

use super::Session;
use crate::layout;
use crate::region::{Mapping, Region};

impl Session {
    /// Begins as a standby. To be called before anything is recorded.
    pub fn stand_by(&self) {
        self.stands_by.store(true, Relaxed);
    }

    /// Whether another engine is still the active one.
    pub fn is_standby(&self) -> bool {
        self.stands_by.load(Relaxed) && self.is_standby_in(&self.current().mapping)
    }

    #[inline]
    pub(super) fn is_standby_in(&self, region: &Mapping) -> bool {
        self.stands_by.load(Relaxed) && self.still_stands_by(region)
    }

    #[cold]
    fn still_stands_by(&self, region: &Mapping) -> bool {
        let active = region.load(layout::C_ACTIVE_LAUNCH, Acquire);
        let waits = active < u64::from(self.options.launch);
        if !waits {
            // Once active it stays so, until a newer one is.
            self.stands_by.store(false, Relaxed);
        }
        waits
    }

    /// Sleeps while this is a standby, at most `timeout`. May return early.
    pub fn park(&self, timeout: Duration) {
        let current = self.current();
        let region = &*current.mapping;
        // SYNC: the word is read before the look at what it tells of; who changes that wakes after it, so a change in
        // between makes the wait return at once.
        let value = region.load32(layout::C_PARK);
        region.fence();
        if self.is_standby_in(region) {
            region.wait(layout::C_PARK, value, timeout);
        }
    }
}
