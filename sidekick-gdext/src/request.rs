//! One request to the store as GDScript holds it.

use std::sync::{Mutex, PoisonError};

use godot::prelude::*;

/// A request to [SidekickStore] that is under way: `var result: Dictionary = await request.wait()`.
///
/// The result is a dictionary with `ok`, `error` (one word, empty if `ok`), `message` (what is wrong and what to do, in a
/// sentence), `version` and `value`; see [SidekickStore] for what else there is. The extension keeps the request until it has
/// completed, so it need not be held.
#[derive(GodotClass)]
#[class(no_init, base = RefCounted)]
pub(crate) struct SidekickRequest {
    result: Mutex<Option<VarDictionary>>,
    base: Base<RefCounted>,
}

#[godot_api]
impl SidekickRequest {
    /// Once, from the main thread, in a later frame than the call that made the request.
    #[signal]
    pub(crate) fn completed(result: VarDictionary);

    /// For `await request.wait()`: the result if it is there, else the signal that brings it. Await it at once.
    #[func]
    fn wait(&self) -> Variant {
        if let Some(result) = &*self.result.lock().unwrap_or_else(PoisonError::into_inner) {
            return result.to_variant();
        }
        Signal::from_object_signal(&self.to_gd(), "completed").to_variant()
    }

    /// Whether the request has completed.
    #[func]
    fn is_done(&self) -> bool {
        self.result
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .is_some()
    }

    /// The result; empty before the request has completed.
    #[func]
    fn get_result(&self) -> VarDictionary {
        self.result
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .clone()
            .unwrap_or_default()
    }
}

impl SidekickRequest {
    pub(crate) fn create() -> Gd<Self> {
        Gd::from_init_fn(|base| Self {
            result: Mutex::new(None),
            base,
        })
    }

    /// Sets the result; the caller emits after letting go of the object. False when it had one.
    pub(crate) fn set_result(&self, result: &VarDictionary) -> bool {
        let mut kept = self.result.lock().unwrap_or_else(PoisonError::into_inner);
        if kept.is_some() {
            return false;
        }
        *kept = Some(result.clone());
        true
    }
}
