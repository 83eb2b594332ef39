//! `Sidekick.record` as the engine calls it: registered by hand instead of by `#[func]`.
//!
//! gdext's glue costs 0.3 µs a call (it borrows the instance under a lock, converts and copies each argument, keeps a context for panics), a
//! third of what the engine needs to encode a record at all. This function needs no instance and only reads its arguments, so
//! it does without. All other methods are plain `#[func]`s. The `unsafe` here belongs to the extension's entry point: it is the
//! contract between the engine and a registered method, and nothing else. For the same reason arguments stand here whose defaults
//! gdext does not know to be harmless.

use std::ffi::c_void;
use std::panic::{AssertUnwindSafe, catch_unwind};

use godot::builtin::{AnyArray, AnyDictionary};
use godot::meta::conv::ByValue;
use godot::meta::error::ConvertError;
use godot::meta::shape::GodotShape;
use godot::meta::{FromGodot, GodotConvert, GodotImmutable, ToGodot};
use godot::prelude::*;
use godot::register::info::MethodFlags;
use godot::register::private::method::ClassMethodInfo;
use godot::sys;

use crate::core;
use crate::encode;
use crate::sidekick::Sidekick;

type Parameters = (StringName, Variant);

/// A dictionary of options; none by default.
#[derive(Clone, Debug, GodotConvert)]
#[godot(transparent)]
pub(crate) struct Options(pub(crate) AnyDictionary);

impl Options {
    /// The default, which nobody can change.
    pub(crate) fn none() -> Self {
        Self(
            VarDictionary::new()
                .into_read_only()
                .upcast_any_dictionary(),
        )
    }
}

/// A list of anything; empty by default.
#[derive(Clone, Debug, GodotConvert)]
#[godot(transparent)]
pub(crate) struct List(pub(crate) AnyArray);

impl List {
    /// The default, which nobody can change.
    pub(crate) fn empty() -> Self {
        Self(VarArray::new().into_read_only().upcast_any_array())
    }
}

/// Any value; null by default.
#[derive(Clone, Debug)]
pub(crate) struct Anything(pub(crate) Variant);

impl GodotConvert for Anything {
    type Via = Variant;

    fn godot_shape() -> GodotShape {
        Variant::godot_shape()
    }
}

impl ToGodot for Anything {
    type Pass = ByValue;

    fn to_godot(&self) -> Variant {
        self.0.clone()
    }
}

impl FromGodot for Anything {
    fn try_from_godot(via: Variant) -> Result<Self, ConvertError> {
        Ok(Self(via))
    }
}

impl Anything {
    /// The default.
    pub(crate) fn null() -> Self {
        Self(Variant::nil())
    }
}

// SAFETY: the one default of this type is a dictionary that the engine has marked as read-only and that is empty: cloning it counts
// an atomic reference, and no clone can change it.
unsafe impl GodotImmutable for Options {}
// SAFETY: as for `Options`: an empty array that is read-only.
unsafe impl GodotImmutable for List {}
// SAFETY: the one default of this type is null, which has no state.
unsafe impl GodotImmutable for Anything {}

/// Adds `record` to the class. To be called once, at Scene level, after gdext has registered the class.
pub(crate) fn register() {
    // SAFETY: `ptrcall` and `call` read their arguments as `Parameters` and give back an i64, as said here.
    let method = unsafe {
        ClassMethodInfo::from_signature::<Sidekick, Parameters, i64>(
            StringName::from("record"),
            Some(call),
            Some(ptrcall),
            MethodFlags::DEFAULT,
            &["stream", "data"],
            Vec::new(),
        )
    };
    method.register_extension_class_method();
}

/// From any thread. A panic, which would be a bug, must not cross into the engine: it counts as not recorded.
#[inline]
fn record(stream: &StringName, data: &Variant) -> i64 {
    let Some(core) = core::core() else { return 0 };
    catch_unwind(AssertUnwindSafe(|| {
        encode::record(&core.recorder, stream, data)
    }))
    .unwrap_or(0)
}

/// How GDScript calls a method that takes a Variant.
///
/// # Safety
/// The engine's: `arguments` are `count` pointers to live Variants, `result` points to a Variant and `error` to a call error.
unsafe extern "C" fn call(
    _userdata: *mut c_void,
    _instance: sys::GDExtensionClassInstancePtr,
    arguments: *const sys::GDExtensionConstVariantPtr,
    count: sys::GDExtensionInt,
    result: sys::GDExtensionVariantPtr,
    error: *mut sys::GDExtensionCallError,
) {
    let refuse = |kind, argument, expected| {
        // SAFETY: the engine's `error` is valid for writes during the call.
        unsafe {
            *error = sys::GDExtensionCallError {
                error: kind,
                argument,
                expected,
            }
        };
    };
    if count != 2 {
        let kind = if count < 2 {
            sys::GDEXTENSION_CALL_ERROR_TOO_FEW_ARGUMENTS
        } else {
            sys::GDEXTENSION_CALL_ERROR_TOO_MANY_ARGUMENTS
        };
        return refuse(kind, 2, 2);
    }
    // SAFETY: there are two pointers (checked above) to Variants that live during the call, and gdext's Variant is the engine's,
    // bit for bit.
    let (stream, data) = unsafe {
        (
            &*(*arguments).cast::<Variant>(),
            &*(*arguments.add(1)).cast::<Variant>(),
        )
    };
    let Ok(name) = stream.try_to_relaxed::<StringName>() else {
        return refuse(
            sys::GDEXTENSION_CALL_ERROR_INVALID_ARGUMENT,
            0,
            sys::GDEXTENSION_VARIANT_TYPE_STRING_NAME,
        );
    };
    let seq = record(&name, data).to_variant();
    // SAFETY: `result` is a live Variant of the engine's; the assignment drops what is in it.
    unsafe { *result.cast::<Variant>() = seq };
}

/// How typed callers (other extensions, C#) call it.
///
/// # Safety
/// The engine's: `arguments` are pointers to a live `StringName` and a live Variant, `result` to an i64.
unsafe extern "C" fn ptrcall(
    _userdata: *mut c_void,
    _instance: sys::GDExtensionClassInstancePtr,
    arguments: *const sys::GDExtensionConstTypePtr,
    result: sys::GDExtensionTypePtr,
) {
    // SAFETY: as above; the types are those that `register` has told the engine.
    let (stream, data) = unsafe {
        (
            &*(*arguments).cast::<StringName>(),
            &*(*arguments.add(1)).cast::<Variant>(),
        )
    };
    let seq = record(stream, data);
    // SAFETY: the engine gives room for an i64, as registered.
    unsafe { result.cast::<i64>().write(seq) };
}

#[cfg(feature = "docs")]
mod docs {
    use godot::private::{__GODOT_DOCS_REGISTRY, DocsItem, DocsShard, InherentImplDocs};

    use crate::sidekick::Sidekick;

    // What `///` is for a `#[func]`.
    godot::sys::shard_add!(__GODOT_DOCS_REGISTRY; DocsShard::new::<Sidekick>(DocsItem::InherentImpl(InherentImplDocs {
        methods_xml: "<method name=\"record\">
<return type=\"int\" />
<param index=\"0\" name=\"stream\" type=\"StringName\" />
<param index=\"1\" name=\"data\" type=\"Variant\" />
<description>
Records one event and returns its sequence number, 1 or more; 0 if it was not recorded. May be called from any thread and does not wait for the disk.[br][br][param stream] names the kind of event (1 to 255 bytes of UTF-8, no control characters; names that begin with [code]sidekick.[/code] are the watchdog's own and refused). [param data] is any value but objects, callables, signals and RIDs, nested at most 64 deep; with the name it may have at most 64 KiB as [method @GlobalScope.var_to_bytes] encodes it. What is refused is counted and warned of once per cause. Without a watchdog it is only counted. Fields that every record is to have are set by [method set_common_fields].
</description>
</method>",
        signals_xml: "",
        constants_xml: "",
    })));
}
