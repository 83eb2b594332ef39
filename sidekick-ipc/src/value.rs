//! Godot's values: the [`Value`] tree, and the codec between it, the engine's binary encoding, and JSON.
//!
//! Records and checkpoints travel and are stored as the bytes that the engine's `var_to_bytes` made of them.
//! [`check`] walks them on the game's thread, [`write_json`] prints them for the backends; only who must look inside
//! pays for [`decode`]. Bytes come from another process, so none of the three trusts them: no panic, no unbounded
//! memory, no unbounded recursion.
//!
//! Not here: how records are framed (`frame`), what `Value`s mean to the store.

mod check;
mod common_fields;
mod decode;
mod encode;
pub mod fields;
mod from_json;
mod json;
mod wire;

#[cfg(test)]
mod common_fields_tests;
#[cfg(test)]
mod fields_tests;
#[cfg(test)]
mod golden_tests;
#[cfg(test)]
mod property_tests;

use std::fmt;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use serde::{Deserialize, Deserializer, Serialize, Serializer};

pub use check::{Refusal, check};
pub use common_fields::{
    COMMON_FIELDS_BYTES_MAX, COMMON_FIELDS_MAX, CommonFields, CommonFieldsError,
};
pub use decode::decode;
pub use encode::{encode, encode_into};
pub use from_json::JsonError;
pub use json::write_json;
pub use wire::DecodeError;

/// How many containers may stand inside one another. Bounds the recursion of everything here; Godot's own bound of
/// 1024 would not fit the stacks of worker threads, and JSON parsers often stop at 128.
pub const DEPTH_MAX: usize = 64;

macro_rules! types {
    ($($name:ident = $number:literal $text:literal,)*) => {
        /// The types of a Variant, numbered as in Godot 4.
        #[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
        #[repr(u8)]
        #[expect(missing_docs, reason = "each is named as in Godot's class reference")]
        pub enum Type { $($name = $number,)* }

        const TYPES: [Type; 39] = [$(Type::$name,)*];

        impl fmt::Display for Type {
            /// The type's name in GDScript.
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str(match self { $(Type::$name => $text,)* })
            }
        }
    };
}

types! {
    Nil = 0 "null",
    Bool = 1 "bool",
    Int = 2 "int",
    Float = 3 "float",
    String = 4 "String",
    Vector2 = 5 "Vector2",
    Vector2i = 6 "Vector2i",
    Rect2 = 7 "Rect2",
    Rect2i = 8 "Rect2i",
    Vector3 = 9 "Vector3",
    Vector3i = 10 "Vector3i",
    Transform2D = 11 "Transform2D",
    Vector4 = 12 "Vector4",
    Vector4i = 13 "Vector4i",
    Plane = 14 "Plane",
    Quaternion = 15 "Quaternion",
    Aabb = 16 "AABB",
    Basis = 17 "Basis",
    Transform3D = 18 "Transform3D",
    Projection = 19 "Projection",
    Color = 20 "Color",
    StringName = 21 "StringName",
    NodePath = 22 "NodePath",
    Rid = 23 "RID",
    Object = 24 "Object",
    Callable = 25 "Callable",
    Signal = 26 "Signal",
    Dictionary = 27 "Dictionary",
    Array = 28 "Array",
    PackedByteArray = 29 "PackedByteArray",
    PackedInt32Array = 30 "PackedInt32Array",
    PackedInt64Array = 31 "PackedInt64Array",
    PackedFloat32Array = 32 "PackedFloat32Array",
    PackedFloat64Array = 33 "PackedFloat64Array",
    PackedStringArray = 34 "PackedStringArray",
    PackedVector2Array = 35 "PackedVector2Array",
    PackedVector3Array = 36 "PackedVector3Array",
    PackedColorArray = 37 "PackedColorArray",
    PackedVector4Array = 38 "PackedVector4Array",
}

impl Type {
    /// The type with this number, if Godot 4.6 has one.
    #[inline(always)]
    pub fn from_number(number: u32) -> Option<Type> {
        TYPES.get(number as usize).copied()
    }
}

/// One value of GDScript, of any type that can be stored.
///
/// [`encode`] gives the bytes of `var_to_bytes`, [`decode`] takes them. Serde sees those same bytes (as base64 in
/// formats for humans), so that a `Value` from an untrusted source is checked like any other.
///
/// Two values are equal as their parts are; NaN is equal to nothing, and the order of a dictionary counts.
#[derive(Debug, Clone, PartialEq, Default)]
pub enum Value {
    /// `null`, also what Godot makes of a freed object.
    #[default]
    Nil,
    /// A `bool`.
    Bool(bool),
    /// An `int`, always 64 bits in GDScript.
    Int(i64),
    /// A `float`, always 64 bits in GDScript.
    Float(f64),
    /// A `String`.
    String(String),
    /// A `StringName`.
    StringName(String),
    /// A `NodePath`.
    NodePath(Box<NodePath>),
    /// A `Vector2`: x, y.
    Vector2(Reals<2>),
    /// A `Vector2i`: x, y.
    Vector2i([i32; 2]),
    /// A `Rect2`: x, y, width, height.
    Rect2(Box<Reals<4>>),
    /// A `Rect2i`: x, y, width, height.
    Rect2i([i32; 4]),
    /// A `Vector3`: x, y, z.
    Vector3(Reals<3>),
    /// A `Vector3i`: x, y, z.
    Vector3i([i32; 3]),
    /// A `Transform2D`: its columns `x`, `y`, `origin`.
    Transform2D(Box<Reals<6>>),
    /// A `Vector4`: x, y, z, w.
    Vector4(Box<Reals<4>>),
    /// A `Vector4i`: x, y, z, w.
    Vector4i([i32; 4]),
    /// A `Plane`: the normal's x, y, z, then d.
    Plane(Box<Reals<4>>),
    /// A `Quaternion`: x, y, z, w.
    Quaternion(Box<Reals<4>>),
    /// An `AABB`: position x, y, z, then size x, y, z.
    Aabb(Box<Reals<6>>),
    /// A `Basis`, row by row. (GDScript's `basis.x` is a column.)
    Basis(Box<Reals<9>>),
    /// A `Transform3D`: its basis, row by row, then its origin.
    Transform3D(Box<Reals<12>>),
    /// A `Projection`, column by column.
    Projection(Box<Reals<16>>),
    /// A `Color`: red, green, blue, alpha; 32-bit floats in every build.
    Color([f32; 4]),
    /// A `Dictionary` without types, in its order.
    Dictionary(Vec<(Value, Value)>),
    /// A `Dictionary[K, V]`.
    TypedDictionary(Box<TypedDictionary>),
    /// An `Array` without a type.
    Array(Vec<Value>),
    /// An `Array[T]`.
    TypedArray(Box<TypedArray>),
    /// A `PackedByteArray`.
    PackedByteArray(Vec<u8>),
    /// A `PackedInt32Array`.
    PackedInt32Array(Vec<i32>),
    /// A `PackedInt64Array`.
    PackedInt64Array(Vec<i64>),
    /// A `PackedFloat32Array`.
    PackedFloat32Array(Vec<f32>),
    /// A `PackedFloat64Array`.
    PackedFloat64Array(Vec<f64>),
    /// A `PackedStringArray`.
    PackedStringArray(Vec<String>),
    /// A `PackedVector2Array`.
    PackedVector2Array(Box<PackedReals<2>>),
    /// A `PackedVector3Array`.
    PackedVector3Array(Box<PackedReals<3>>),
    /// A `PackedColorArray`.
    PackedColorArray(Vec<[f32; 4]>),
    /// A `PackedVector4Array`.
    PackedVector4Array(Box<PackedReals<4>>),
}

// A `null` takes four bytes in the encoding and one `Value` in memory: decoding takes at most eight times the input.
const _: () = assert!(size_of::<Value>() <= 32);

/// `N` numbers of Godot's `real_t`: 32 bits each, or 64 in a build with `precision=double`.
#[derive(Debug, Clone, Copy, PartialEq)]
pub enum Reals<const N: usize> {
    /// From a usual build.
    Single([f32; N]),
    /// From a build with double precision.
    Double([f64; N]),
}

/// The elements of a packed array of vectors, see [`Reals`].
#[derive(Debug, Clone, PartialEq)]
pub enum PackedReals<const N: usize> {
    /// From a usual build.
    Single(Vec<[f32; N]>),
    /// From a build with double precision.
    Double(Vec<[f64; N]>),
}

/// A `NodePath`; its `Display` is the text that Godot shows.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct NodePath {
    /// It begins at the root.
    pub absolute: bool,
    /// The nodes' names.
    pub names: Vec<String>,
    /// What follows the colons: a resource, a property, a part of it.
    pub subnames: Vec<String>,
}

/// The type that a typed array or dictionary demands of its elements.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum ContainerType {
    /// A type other than an object's.
    Builtin(Type),
    /// A class of the engine. `var_to_bytes` writes `EncodedObjectAsID` here for every class and script.
    Class(String),
    /// A script, by its path. Only `var_to_bytes_with_objects` writes it.
    Script(String),
}

impl ContainerType {
    /// The number that stands for the kind of type in a container's header.
    fn kind(&self) -> u32 {
        match self {
            ContainerType::Builtin(_) => 1,
            ContainerType::Class(_) => 2,
            ContainerType::Script(_) => 3,
        }
    }
}

/// An `Array[T]`. That the items are of the type is Godot's care, not checked here.
#[derive(Debug, Clone, PartialEq)]
pub struct TypedArray {
    /// The type of every item.
    pub element_type: ContainerType,
    /// The items.
    pub items: Vec<Value>,
}

/// A `Dictionary[K, V]`. That keys and values are of the types is Godot's care, not checked here.
#[derive(Debug, Clone, PartialEq)]
pub struct TypedDictionary {
    /// The type of every key, `None` for any.
    pub key_type: Option<ContainerType>,
    /// The type of every value, `None` for any.
    pub value_type: Option<ContainerType>,
    /// The pairs, in the dictionary's order.
    pub entries: Vec<(Value, Value)>,
}

impl Value {
    /// The pairs of a dictionary, typed or not.
    pub fn entries(&self) -> Option<&[(Value, Value)]> {
        match self {
            Value::Dictionary(entries) => Some(entries),
            Value::TypedDictionary(typed) => Some(&typed.entries),
            _ => None,
        }
    }

    /// The items of an array, typed or not; `None` for packed arrays.
    pub fn items(&self) -> Option<&[Value]> {
        match self {
            Value::Array(items) => Some(items),
            Value::TypedArray(typed) => Some(&typed.items),
            _ => None,
        }
    }

    /// The text of a String or StringName.
    pub fn text(&self) -> Option<&str> {
        match self {
            Value::String(text) | Value::StringName(text) => Some(text),
            _ => None,
        }
    }

    /// The value at a text key of a dictionary; Godot too holds `"key"` and `&"key"` to be the same key.
    pub fn get(&self, key: &str) -> Option<&Value> {
        let entry = self
            .entries()?
            .iter()
            .find(|(name, _)| name.text() == Some(key))?;
        Some(&entry.1)
    }
}

impl From<&str> for Value {
    fn from(text: &str) -> Self {
        Value::String(text.to_owned())
    }
}

impl From<i64> for Value {
    fn from(value: i64) -> Self {
        Value::Int(value)
    }
}

impl Serialize for Value {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let bytes = encode(self);
        if serializer.is_human_readable() {
            serializer.serialize_str(&STANDARD.encode(bytes))
        } else {
            serializer.serialize_bytes(&bytes)
        }
    }
}

impl<'de> Deserialize<'de> for Value {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        use serde::de::Error as _;
        let bytes = if deserializer.is_human_readable() {
            let text = String::deserialize(deserializer)?;
            STANDARD
                .decode(text)
                .map_err(|error| D::Error::custom(format!("a value is not base64: {error}")))?
        } else {
            serde_bytes::ByteBuf::deserialize(deserializer)?.into_vec()
        };
        decode(&bytes).map_err(D::Error::custom)
    }
}
