//! From a [`Value`] to the bytes that Godot's `var_to_bytes` gives for it.

use super::wire::{ELEMENT_SHIFT, FLAG_64, NODE_PATH_ABSOLUTE, NODE_PATH_NEW, VALUE_SHIFT};
use super::{ContainerType, NodePath, PackedReals, Reals, Type, Value};

/// Encodes `value` byte for byte as `var_to_bytes` does (Godot 4.4 to 4.6).
///
/// A value made by hand may have more than [`DEPTH_MAX`](super::DEPTH_MAX) containers inside one another, and then
/// [`decode`](super::decode) will refuse the bytes. Lengths are 32 bits in the format; longer containers and texts are
/// cut off at `i32::MAX`.
pub fn encode(value: &Value) -> Vec<u8> {
    let mut out = Vec::new();
    encode_into(value, &mut out);
    out
}

/// Like [`encode`], at the end of `out`.
pub fn encode_into(value: &Value, out: &mut Vec<u8>) {
    match value {
        Value::Nil => word(out, Type::Nil as u32),
        Value::Bool(value) => {
            word(out, Type::Bool as u32);
            word(out, u32::from(*value));
        }
        Value::Int(value) => match i32::try_from(*value) {
            Ok(short) => {
                word(out, Type::Int as u32);
                out.extend_from_slice(&short.to_le_bytes());
            }
            Err(_) => {
                word(out, Type::Int as u32 | FLAG_64);
                out.extend_from_slice(&value.to_le_bytes());
            }
        },
        Value::Float(value) => float(out, *value),
        Value::String(value) => string(out, value),
        Value::StringName(value) => {
            word(out, Type::StringName as u32);
            text(out, value, false);
        }
        Value::NodePath(path) => node_path(out, path),
        Value::Vector2(value) => reals(out, Type::Vector2, value),
        Value::Vector3(value) => reals(out, Type::Vector3, value),
        Value::Vector4(value) => reals(out, Type::Vector4, value),
        Value::Rect2(value) => reals(out, Type::Rect2, value),
        Value::Plane(value) => reals(out, Type::Plane, value),
        Value::Quaternion(value) => reals(out, Type::Quaternion, value),
        Value::Transform2D(value) => reals(out, Type::Transform2D, value),
        Value::Aabb(value) => reals(out, Type::Aabb, value),
        Value::Basis(value) => reals(out, Type::Basis, value),
        Value::Transform3D(value) => reals(out, Type::Transform3D, value),
        Value::Projection(value) => reals(out, Type::Projection, value),
        Value::Color(value) => {
            word(out, Type::Color as u32);
            value
                .iter()
                .for_each(|part| out.extend_from_slice(&part.to_le_bytes()));
        }
        Value::Vector2i(value) => ints(out, Type::Vector2i, value),
        Value::Vector3i(value) => ints(out, Type::Vector3i, value),
        Value::Vector4i(value) => ints(out, Type::Vector4i, value),
        Value::Rect2i(value) => ints(out, Type::Rect2i, value),
        Value::Array(items) => {
            word(out, Type::Array as u32);
            array(out, items);
        }
        Value::TypedArray(typed) => {
            word(
                out,
                Type::Array as u32 | typed.element_type.kind() << ELEMENT_SHIFT,
            );
            container_type(out, &typed.element_type);
            array(out, &typed.items);
        }
        Value::Dictionary(entries) => {
            word(out, Type::Dictionary as u32);
            dictionary(out, entries);
        }
        Value::TypedDictionary(typed) => {
            let kind = |kind: &Option<ContainerType>| kind.as_ref().map_or(0, ContainerType::kind);
            let kinds =
                kind(&typed.key_type) << ELEMENT_SHIFT | kind(&typed.value_type) << VALUE_SHIFT;
            word(out, Type::Dictionary as u32 | kinds);
            typed
                .key_type
                .iter()
                .for_each(|kind| container_type(out, kind));
            typed
                .value_type
                .iter()
                .for_each(|kind| container_type(out, kind));
            dictionary(out, &typed.entries);
        }
        Value::PackedByteArray(bytes) => {
            word(out, Type::PackedByteArray as u32);
            let bytes = &bytes[..count(out, bytes.len())];
            out.extend_from_slice(bytes);
            pad(out, bytes.len());
        }
        Value::PackedInt32Array(items) => {
            word(out, Type::PackedInt32Array as u32);
            let len = count(out, items.len());
            items[..len]
                .iter()
                .for_each(|item| out.extend_from_slice(&item.to_le_bytes()));
        }
        Value::PackedInt64Array(items) => {
            word(out, Type::PackedInt64Array as u32);
            let len = count(out, items.len());
            items[..len]
                .iter()
                .for_each(|item| out.extend_from_slice(&item.to_le_bytes()));
        }
        Value::PackedFloat32Array(items) => {
            word(out, Type::PackedFloat32Array as u32);
            let len = count(out, items.len());
            items[..len]
                .iter()
                .for_each(|item| out.extend_from_slice(&item.to_le_bytes()));
        }
        Value::PackedFloat64Array(items) => {
            word(out, Type::PackedFloat64Array as u32);
            let len = count(out, items.len());
            items[..len]
                .iter()
                .for_each(|item| out.extend_from_slice(&item.to_le_bytes()));
        }
        Value::PackedStringArray(items) => {
            word(out, Type::PackedStringArray as u32);
            let len = count(out, items.len());
            items[..len].iter().for_each(|item| text(out, item, true));
        }
        Value::PackedVector2Array(items) => packed(out, Type::PackedVector2Array, items),
        Value::PackedVector3Array(items) => packed(out, Type::PackedVector3Array, items),
        Value::PackedVector4Array(items) => packed(out, Type::PackedVector4Array, items),
        Value::PackedColorArray(items) => {
            word(out, Type::PackedColorArray as u32);
            let len = count(out, items.len());
            items[..len]
                .iter()
                .flatten()
                .for_each(|part| out.extend_from_slice(&part.to_le_bytes()));
        }
    }
}

/// A `String`.
pub(super) fn string(out: &mut Vec<u8>, value: &str) {
    word(out, Type::String as u32);
    text(out, value, false);
}

fn word(out: &mut Vec<u8>, word: u32) {
    out.extend_from_slice(&word.to_le_bytes());
}

/// Writes a count and gives it back, at most what the format can say.
fn count(out: &mut Vec<u8>, len: usize) -> usize {
    let len = len.min(i32::MAX as usize);
    word(out, len as u32);
    len
}

fn pad(out: &mut Vec<u8>, len: usize) {
    let padding = len.wrapping_neg() % 4;
    out.extend_from_slice(&[0; 3][..padding]);
}

/// `terminated`: with a zero byte at its end that its length counts, as packed arrays have it.
fn text(out: &mut Vec<u8>, text: &str, terminated: bool) {
    let len = text.floor_char_boundary(i32::MAX as usize - 4);
    let written = len + usize::from(terminated);
    word(out, written as u32);
    out.extend_from_slice(&text.as_bytes()[..len]);
    if terminated {
        out.push(0);
    }
    pad(out, written);
}

fn node_path(out: &mut Vec<u8>, path: &NodePath) {
    word(out, Type::NodePath as u32);
    word(
        out,
        path.names.len().min(i32::MAX as usize) as u32 | NODE_PATH_NEW,
    );
    word(out, path.subnames.len().min(i32::MAX as usize) as u32);
    word(out, if path.absolute { NODE_PATH_ABSOLUTE } else { 0 });
    path.names
        .iter()
        .chain(&path.subnames)
        .for_each(|name| text(out, name, false));
}

/// In 32 bits if nothing is lost. NaN is equal to nothing, itself included, so it takes the long form.
fn float(out: &mut Vec<u8>, value: f64) {
    let short = value as f32;
    if f64::from(short) == value {
        word(out, Type::Float as u32);
        out.extend_from_slice(&short.to_le_bytes());
    } else {
        word(out, Type::Float as u32 | FLAG_64);
        out.extend_from_slice(&value.to_le_bytes());
    }
}

fn reals<const N: usize>(out: &mut Vec<u8>, kind: Type, reals: &Reals<N>) {
    match reals {
        Reals::Single(parts) => {
            word(out, kind as u32);
            parts
                .iter()
                .for_each(|part| out.extend_from_slice(&part.to_le_bytes()));
        }
        Reals::Double(parts) => {
            word(out, kind as u32 | FLAG_64);
            parts
                .iter()
                .for_each(|part| out.extend_from_slice(&part.to_le_bytes()));
        }
    }
}

fn packed<const N: usize>(out: &mut Vec<u8>, kind: Type, reals: &PackedReals<N>) {
    match reals {
        PackedReals::Single(items) => {
            word(out, kind as u32);
            let len = count(out, items.len());
            items[..len]
                .iter()
                .flatten()
                .for_each(|part| out.extend_from_slice(&part.to_le_bytes()));
        }
        PackedReals::Double(items) => {
            word(out, kind as u32 | FLAG_64);
            let len = count(out, items.len());
            items[..len]
                .iter()
                .flatten()
                .for_each(|part| out.extend_from_slice(&part.to_le_bytes()));
        }
    }
}

fn ints<const N: usize>(out: &mut Vec<u8>, kind: Type, parts: &[i32; N]) {
    word(out, kind as u32);
    parts
        .iter()
        .for_each(|part| out.extend_from_slice(&part.to_le_bytes()));
}

fn container_type(out: &mut Vec<u8>, kind: &ContainerType) {
    match kind {
        ContainerType::Builtin(kind) => word(out, *kind as u32),
        ContainerType::Class(name) | ContainerType::Script(name) => text(out, name, false),
    }
}

fn array(out: &mut Vec<u8>, items: &[Value]) {
    let len = count(out, items.len());
    items[..len].iter().for_each(|item| encode_into(item, out));
}

fn dictionary(out: &mut Vec<u8>, entries: &[(Value, Value)]) {
    let len = count(out, entries.len());
    for (key, value) in &entries[..len] {
        encode_into(key, out);
        encode_into(value, out);
    }
}
