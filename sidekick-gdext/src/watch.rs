//! A watch of the store as GDScript holds it.

use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};

use godot::prelude::*;

use crate::sidekick::Sidekick;

/// Tells of changes in the store: `Sidekick.store.watch("/match/*").changed.connect(_on_changed)`.
///
/// The extension keeps the watch until [method stop], so it need not be held. It outlives restarts of the watchdog: events are
/// in order, and none is missing without a `compacted` event that says so.
#[derive(GodotClass)]
#[class(no_init, base = RefCounted)]
pub(crate) struct SidekickWatch {
    /// The session's number of the watch; 0 for one that never began.
    pub(crate) number: AtomicU64,
    pub(crate) is_stopped: AtomicBool,
    base: Base<RefCounted>,
}

#[godot_api]
impl SidekickWatch {
    /// One change, on the main thread. `event.kind` is `"put"` (with `path`, `version`, `value`; version 1 if the node was made),
    /// `"delete"` (with `path` and `reason`: `"asked"`, `"keep_while"` or `"lease"`) or `"compacted"`: so much has happened that
    /// events are missing, read anew what is watched. Each has the `revision` of the store that it came with.
    #[signal]
    pub(crate) fn changed(event: VarDictionary);

    /// The watch could not begin or go on; `result` is that of a request that failed. No event comes any more.
    #[signal]
    pub(crate) fn failed(result: VarDictionary);

    /// Ends the watch: no event comes after this.
    #[func]
    fn stop(&self) {
        if !self.is_stopped.swap(true, Ordering::Relaxed) {
            let number = self.number.load(Ordering::Relaxed);
            Sidekick::singleton().bind().requests.stop_watch(number);
        }
    }

    /// Whether events may still come.
    #[func]
    fn is_active(&self) -> bool {
        !self.is_stopped.load(Ordering::Relaxed)
    }
}

impl SidekickWatch {
    pub(crate) fn create() -> Gd<Self> {
        Gd::from_init_fn(|base| Self {
            number: AtomicU64::new(0),
            is_stopped: AtomicBool::new(false),
            base,
        })
    }
}
