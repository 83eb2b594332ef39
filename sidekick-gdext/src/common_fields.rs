//! The fields that every record of this process gets, as the game has set them. What they are is `sidekick_ipc::value::CommonFields`.

use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{PoisonError, RwLock};

use godot::builtin::AnyDictionary;
use godot::prelude::*;
use sidekick_ipc::value::CommonFields;

use crate::core;
use crate::encode;
use crate::recorder::Mode;

/// Whether there are any. All that a record costs more where there are none.
static ARE_SET: AtomicBool = AtomicBool::new(false);
static FIELDS: RwLock<CommonFields> = RwLock::new(CommonFields::none());

/// Replaces the fields, or says why not. From any thread.
pub(crate) fn set(fields: &AnyDictionary) {
    if core::core().is_none_or(|core| matches!(core.recorder.mode(), Mode::Editor)) {
        return;
    }
    match CommonFields::read(encode::encoded(&fields.to_variant()).as_slice()) {
        Ok(fields) => {
            let mut current = FIELDS.write().unwrap_or_else(PoisonError::into_inner);
            // SYNC: Relaxed: the lock orders the fields themselves, and a thread that learns of this call sees the flag with it.
            ARE_SET.store(!fields.is_empty(), Ordering::Relaxed);
            *current = fields;
        }
        // Each time: there is no result that would tell, and records go on with fields that may be of the match before.
        Err(error) => {
            godot_error!(
                "Sidekick: set_common_fields has changed nothing, records keep the fields they had: {error}."
            );
        }
    }
}

/// An encoded record with the fields in it; `None` where it stays as it is.
#[inline]
pub(crate) fn added_to(record: &[u8]) -> Option<Vec<u8>> {
    match ARE_SET.load(Ordering::Relaxed) {
        false => None,
        true => add(record),
    }
}

#[inline(never)]
fn add(record: &[u8]) -> Option<Vec<u8>> {
    let fields = FIELDS.read().unwrap_or_else(PoisonError::into_inner);
    fields.added_to(record)
}
