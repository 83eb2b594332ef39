//! From Godot's values to bytes: the one place on `record()`'s way that calls the engine.

use std::sync::atomic::{AtomicBool, Ordering};

use godot::classes::Engine;
use godot::global::var_to_bytes;
use godot::prelude::*;

use sidekick_ipc::frame::RESERVED_STREAM_PREFIX;

use crate::common_fields;
use crate::recorder::{Cause, Recorder, STREAM_BYTES_MAX};

/// Whether the engine could not encode a value before; it may well be asked for the same one again.
static HAS_FAILED: AtomicBool = AtomicBool::new(false);

/// Records `data`; returns the sequence number, or 0 for what was refused or only counted. From any thread.
#[inline]
pub(crate) fn record(recorder: &Recorder, stream: &StringName, data: &Variant) -> i64 {
    let Some(session) = recorder.wants() else {
        return 0;
    };
    let mut buffer = [0; STREAM_BYTES_MAX];
    let outcome = match name(stream.chars(), &mut buffer) {
        Ok(name) => {
            // The engine encodes a dictionary several times faster than it can be walked from here.
            let bytes = encoded(data);
            let whole = common_fields::added_to(bytes.as_slice());
            recorder.push(session, name, whole.as_deref().unwrap_or(bytes.as_slice()))
        }
        Err(cause) => Err(recorder.refuse("", cause)),
    };
    match outcome {
        Ok(seq) => seq as i64,
        Err(refused) => {
            if let Some(warning) = refused.warning {
                godot_warn!("{warning}");
            }
            0
        }
    }
}

/// A value as the engine encodes it; no bytes if it cannot.
#[inline]
pub(crate) fn encoded(value: &Variant) -> PackedByteArray {
    let bytes = match HAS_FAILED.load(Ordering::Relaxed) {
        false => var_to_bytes(value),
        true => quietly(|| var_to_bytes(value)),
    };
    if bytes.is_empty() {
        HAS_FAILED.store(true, Ordering::Relaxed);
    }
    bytes
}

/// A value as bytes that can be stored.
///
/// # Errors
/// A sentence that says what in it cannot.
pub(crate) fn checked(value: &Variant) -> Result<PackedByteArray, String> {
    let bytes = encoded(value);
    match sidekick_ipc::value::check(bytes.as_slice()) {
        Ok(()) => Ok(bytes),
        Err(refusal) => Err(refusal.to_string()),
    }
}

/// Does `work` without the engine's own complaints: of a container that holds itself it makes thousands, a line for each
/// level, every time. Those of the first time are shown; our own warning says which record it was.
#[cold]
fn quietly<T>(work: impl FnOnce() -> T) -> T {
    let mut engine = Engine::singleton();
    let was_printing = engine.is_printing_error_messages();
    engine.set_print_error_messages(false);
    let done = work();
    engine.set_print_error_messages(was_printing);
    done
}

/// The stream's name as UTF-8 in `buffer`: 1 to 255 bytes, no control characters, none of the watchdog's own.
#[inline]
fn name<'a>(chars: &[char], buffer: &'a mut [u8; STREAM_BYTES_MAX]) -> Result<&'a str, Cause> {
    if chars.is_empty() {
        return Err(Cause::StreamEmpty);
    }
    let mut end = 0;
    for &c in chars {
        if c.is_control() {
            return Err(Cause::StreamBad);
        }
        let Some(free) = buffer.get_mut(end..end + c.len_utf8()) else {
            return Err(Cause::StreamTooLong {
                bytes: chars.iter().map(|c| c.len_utf8()).sum(),
            });
        };
        end += c.encode_utf8(free).len();
    }
    let name = std::str::from_utf8(&buffer[..end]).map_err(|_| Cause::StreamBad)?;
    if name.starts_with(RESERVED_STREAM_PREFIX) {
        return Err(Cause::StreamReserved);
    }
    Ok(name)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn named(text: &str) -> Result<String, Cause> {
        let chars: Vec<char> = text.chars().collect();
        name(&chars, &mut [0; STREAM_BYTES_MAX]).map(str::to_owned)
    }

    #[test]
    fn names_are_taken_up_to_255_bytes_of_utf_8() {
        assert_eq!(named("damage.melee"), Ok("damage.melee".to_owned()));
        assert_eq!(named("größe→🙂"), Ok("größe→🙂".to_owned()));
        assert_eq!(named(&"x".repeat(255)), Ok("x".repeat(255)));
        assert_eq!(
            named(&"x".repeat(256)),
            Err(Cause::StreamTooLong { bytes: 256 })
        );
        assert_eq!(
            named(&"ü".repeat(128)),
            Err(Cause::StreamTooLong { bytes: 256 })
        );
        assert_eq!(named(""), Err(Cause::StreamEmpty));
        assert_eq!(named("a\nb"), Err(Cause::StreamBad));
        assert_eq!(named("sidekick"), Ok("sidekick".to_owned()));
        assert_eq!(named("sidekick."), Err(Cause::StreamReserved));
        assert_eq!(named("sidekick.crash"), Err(Cause::StreamReserved));
    }
}
