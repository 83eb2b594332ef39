//! From the encoding to a [`Value`].

use super::wire::{DecodeError, Element, Floats, Reader, Texts, Token, deeper};
use super::{
    ContainerType, NodePath, PackedReals, Reals, Type, TypedArray, TypedDictionary, Value,
};

/// Decodes one value, which must fill `bytes` to the end.
///
/// Never panics, and never allocates more than a small multiple of `bytes.len()`: every count is held against the
/// bytes that are left before room is made for it.
///
/// # Errors
/// Whatever [`check`](super::check) refuses.
pub fn decode(bytes: &[u8]) -> Result<Value, DecodeError> {
    let mut reader = Reader::new(bytes);
    let value = value(&mut reader, 0)?;
    reader.finish()?;
    Ok(value)
}

fn value(reader: &mut Reader<'_>, depth: usize) -> Result<Value, DecodeError> {
    let at = reader.at();
    Ok(match reader.token_outlined()? {
        Token::Array { element, count } => {
            let depth = deeper(depth, at)?;
            let mut items = Vec::with_capacity(count);
            for _ in 0..count {
                items.push(value(reader, depth)?);
            }
            match element.map(container_type) {
                None => Value::Array(items),
                Some(element_type) => Value::TypedArray(Box::new(TypedArray {
                    element_type,
                    items,
                })),
            }
        }
        Token::Dictionary { key, value, count } => {
            let depth = deeper(depth, at)?;
            let entries = entries(reader, depth, count)?;
            if key.is_none() && value.is_none() {
                Value::Dictionary(entries)
            } else {
                let key_type = key.map(container_type);
                let value_type = value.map(container_type);
                Value::TypedDictionary(Box::new(TypedDictionary {
                    key_type,
                    value_type,
                    entries,
                }))
            }
        }
        token => leaf(token),
    })
}

/// Reads `count` pairs, whose containers stand at `depth`.
pub(super) fn entries(
    reader: &mut Reader<'_>,
    depth: usize,
    count: usize,
) -> Result<Vec<(Value, Value)>, DecodeError> {
    let mut entries = Vec::with_capacity(count);
    for _ in 0..count {
        let key = value(reader, depth)?;
        entries.push((key, value(reader, depth)?));
    }
    Ok(entries)
}

fn container_type(element: Element<'_>) -> ContainerType {
    match element {
        Element::Builtin(kind) => ContainerType::Builtin(kind),
        Element::Class(name) => ContainerType::Class(name.to_owned()),
        Element::Script(path) => ContainerType::Script(path.to_owned()),
    }
}

/// Apart from `value`, whose frames are on the stack once a level.
#[inline(never)]
fn leaf(token: Token<'_>) -> Value {
    match token {
        // Containers never come here.
        Token::Nil | Token::Array { .. } | Token::Dictionary { .. } => Value::Nil,
        Token::Bool(value) => Value::Bool(value),
        Token::Int(value) => Value::Int(value),
        Token::Float(value) => Value::Float(value),
        Token::String(text) => Value::String(text.to_owned()),
        Token::StringName(text) => Value::StringName(text.to_owned()),
        Token::NodePath {
            absolute,
            names,
            subnames,
        } => Value::NodePath(Box::new(NodePath {
            absolute,
            names: owned(names),
            subnames: owned(subnames),
        })),
        Token::Floats(kind, floats) => math(kind, floats),
        Token::Ints(kind, bytes) => match kind {
            Type::Vector2i => Value::Vector2i(ints(bytes)),
            Type::Vector3i => Value::Vector3i(ints(bytes)),
            Type::Rect2i => Value::Rect2i(ints(bytes)),
            _ => Value::Vector4i(ints(bytes)),
        },
        Token::Bytes(bytes) => Value::PackedByteArray(bytes.to_vec()),
        Token::PackedInt32(bytes) => Value::PackedInt32Array(
            bytes
                .as_chunks()
                .0
                .iter()
                .map(|c| i32::from_le_bytes(*c))
                .collect(),
        ),
        Token::PackedInt64(bytes) => Value::PackedInt64Array(
            bytes
                .as_chunks()
                .0
                .iter()
                .map(|c| i64::from_le_bytes(*c))
                .collect(),
        ),
        Token::PackedFloat32(floats) => Value::PackedFloat32Array(floats.narrow().collect()),
        Token::PackedFloat64(floats) => Value::PackedFloat64Array(floats.wide().collect()),
        Token::PackedString(texts) => Value::PackedStringArray(owned(texts)),
        Token::PackedFloats(kind, _, floats) => match kind {
            Type::PackedVector2Array => Value::PackedVector2Array(Box::new(packed(floats))),
            Type::PackedVector3Array => Value::PackedVector3Array(Box::new(packed(floats))),
            Type::PackedVector4Array => Value::PackedVector4Array(Box::new(packed(floats))),
            _ => Value::PackedColorArray(floats.groups(4).map(narrow).collect()),
        },
    }
}

fn owned(texts: Texts<'_>) -> Vec<String> {
    let mut owned = Vec::with_capacity(texts.count);
    owned.extend(texts.iter().map(str::to_owned));
    owned
}

fn math(kind: Type, floats: Floats<'_>) -> Value {
    match kind {
        Type::Vector2 => Value::Vector2(reals(floats)),
        Type::Vector3 => Value::Vector3(reals(floats)),
        Type::Vector4 => Value::Vector4(Box::new(reals(floats))),
        Type::Rect2 => Value::Rect2(Box::new(reals(floats))),
        Type::Plane => Value::Plane(Box::new(reals(floats))),
        Type::Quaternion => Value::Quaternion(Box::new(reals(floats))),
        Type::Transform2D => Value::Transform2D(Box::new(reals(floats))),
        Type::Aabb => Value::Aabb(Box::new(reals(floats))),
        Type::Basis => Value::Basis(Box::new(reals(floats))),
        Type::Transform3D => Value::Transform3D(Box::new(reals(floats))),
        Type::Projection => Value::Projection(Box::new(reals(floats))),
        _ => Value::Color(narrow(floats)),
    }
}

fn narrow<const N: usize>(floats: Floats<'_>) -> [f32; N] {
    let mut values = [0.0; N];
    values
        .iter_mut()
        .zip(floats.narrow())
        .for_each(|(slot, value)| *slot = value);
    values
}

fn wide<const N: usize>(floats: Floats<'_>) -> [f64; N] {
    let mut values = [0.0; N];
    values
        .iter_mut()
        .zip(floats.wide())
        .for_each(|(slot, value)| *slot = value);
    values
}

fn reals<const N: usize>(floats: Floats<'_>) -> Reals<N> {
    if floats.wide {
        Reals::Double(wide(floats))
    } else {
        Reals::Single(narrow(floats))
    }
}

fn packed<const N: usize>(floats: Floats<'_>) -> PackedReals<N> {
    if floats.wide {
        PackedReals::Double(floats.groups(N).map(wide).collect())
    } else {
        PackedReals::Single(floats.groups(N).map(narrow).collect())
    }
}

fn ints<const N: usize>(bytes: &[u8]) -> [i32; N] {
    let mut values = [0; N];
    values
        .iter_mut()
        .zip(bytes.as_chunks().0)
        .for_each(|(slot, chunk)| *slot = i32::from_le_bytes(*chunk));
    values
}
