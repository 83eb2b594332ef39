//! Values as JSON, for the backends: [`write_json`] straight from the encoding, [`Value::to_json`] for everything else.
//!
//! - null, bool, int, float, String, StringName and NodePath (its text) as one would expect; a byte array as base64.
//! - A float is a double in GDScript however short its encoding, and is printed with as many digits as a double
//!   needs. The parts of vectors, colors and `PackedFloat32Array` are 32-bit floats (in the usual build of Godot) and
//!   are printed with the fewest digits that tell them from their neighbors: `Vector2(0.1, 1)` is `[0.1,1.0]`.
//! - JSON has no word for NaN and the infinities: `"nan"`, `"inf"`, `"-inf"`.
//! - Vectors, colors and the like are flat arrays of numbers in the order of the encoding: Rect2 `[x,y,width,height]`,
//!   Plane `[normal x,y,z,d]`, Quaternion `[x,y,z,w]`, AABB position and size, Transform2D its columns `x`, `y`,
//!   `origin`, Basis its nine numbers row by row, Transform3D a Basis and then the origin, Projection its columns.
//!   Packed arrays of them are arrays of such arrays.
//! - A dictionary is an object. A key that is not a text becomes its JSON, without quotes: `1`, `0.5`, `true`, `null`,
//!   `nan`, `[1,2]`. If two keys of different types become the same text (`1` and `"1"`), the later one wins.
//! - The NUL character, which PostgreSQL does not take, becomes U+FFFD, as in Godot's own strings.

use std::borrow::Cow;
use std::collections::HashMap;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use serde_json::Value as Json;
use serde_json::ser::{CompactFormatter, Formatter as _};

use super::wire::{DecodeError, Floats, Reader, Token, deeper};
use super::{NodePath, PackedReals, Reals, Value};

/// Appends one encoded value to `out` as JSON, without building a [`Value`].
///
/// # Errors
/// Whatever [`decode`](super::decode) refuses; `out` is then as it was before.
pub fn write_json(bytes: &[u8], out: &mut Vec<u8>) -> Result<(), DecodeError> {
    write(bytes, out, false)
}

fn write(bytes: &[u8], out: &mut Vec<u8>, careful: bool) -> Result<(), DecodeError> {
    let before = out.len();
    let mut writer = Writer {
        reader: Reader::new(bytes),
        out,
    };
    let written = writer
        .value(0, careful)
        .and_then(|()| writer.reader.finish());
    if written.is_err() {
        out.truncate(before);
    }
    written
}

/// What a dictionary's keys are; keys of one class have different texts because Godot holds them to be different.
#[derive(Clone, Copy, PartialEq)]
enum KeyClass {
    Text,
    Int,
    Other,
}

struct Writer<'a, 'o> {
    reader: Reader<'a>,
    out: &'o mut Vec<u8>,
}

impl Writer<'_, '_> {
    /// Writes the next value. `careful`: hold the keys of every dictionary inside against one another from the start.
    fn value(&mut self, depth: usize, careful: bool) -> Result<(), DecodeError> {
        let at = self.reader.at();
        match self.reader.token_outlined()? {
            Token::Array { count, .. } => {
                let depth = deeper(depth, at)?;
                self.out.push(b'[');
                for index in 0..count {
                    if index > 0 {
                        self.out.push(b',');
                    }
                    self.value(depth, careful)?;
                }
                self.out.push(b']');
                Ok(())
            }
            Token::Dictionary { count, .. } => {
                let depth = deeper(depth, at)?;
                let (start, contents) = (self.out.len(), self.reader);
                if !careful && self.plain_dictionary(depth, count)? {
                    return Ok(());
                }
                // Written twice at most: everything inside is now careful from the start.
                self.out.truncate(start);
                self.reader = contents;
                self.careful_dictionary(depth, count)
            }
            token => {
                self.leaf(token);
                Ok(())
            }
        }
    }

    /// Writes a dictionary whose keys are all of one class; false if they are not, with `out` half written.
    fn plain_dictionary(&mut self, depth: usize, count: usize) -> Result<bool, DecodeError> {
        let mut first = KeyClass::Other;
        self.out.push(b'{');
        for index in 0..count {
            if index > 0 {
                self.out.push(b',');
            }
            let class = self.key(depth)?;
            if index == 0 {
                first = class;
            }
            if count > 1 && (class != first || class == KeyClass::Other) {
                return Ok(false);
            }
            self.out.push(b':');
            self.value(depth, false)?;
        }
        self.out.push(b'}');
        Ok(true)
    }

    /// Writes a dictionary with keys of any kind, each text once, with the value of the last key that has it.
    fn careful_dictionary(&mut self, depth: usize, count: usize) -> Result<(), DecodeError> {
        let start = self.out.len();
        let mut entries = Vec::with_capacity(count);
        for _ in 0..count {
            let from = self.out.len() - start;
            self.key(depth)?;
            let colon = self.out.len() - start;
            self.out.push(b':');
            self.value(depth, true)?;
            entries.push((from, colon, self.out.len() - start));
        }
        let written = self.out.split_off(start);
        let mut last = HashMap::with_capacity(count);
        for (index, (from, colon, _)) in entries.iter().enumerate() {
            last.insert(&written[*from..*colon], index);
        }
        self.out.push(b'{');
        for (index, (from, colon, to)) in entries.iter().enumerate() {
            if last.get(&written[*from..*colon]) == Some(&index) {
                if self.out.len() > start + 1 {
                    self.out.push(b',');
                }
                self.out.extend_from_slice(&written[*from..*to]);
            }
        }
        self.out.push(b'}');
        Ok(())
    }

    fn key(&mut self, depth: usize) -> Result<KeyClass, DecodeError> {
        let ahead = self.reader;
        match self.reader.token_outlined()? {
            Token::String(key) | Token::StringName(key) => {
                text(self.out, key);
                Ok(KeyClass::Text)
            }
            Token::Int(key) => {
                self.out.push(b'"');
                int(self.out, key);
                self.out.push(b'"');
                Ok(KeyClass::Int)
            }
            _ => {
                self.reader = ahead;
                let start = self.out.len();
                // A parser of the text in a key would not drop the earlier of two equal keys for us.
                self.value(depth, true)?;
                if self.out.get(start) != Some(&b'"') {
                    let json = self.out.split_off(start);
                    text(self.out, &String::from_utf8_lossy(&json));
                }
                Ok(KeyClass::Other)
            }
        }
    }

    fn leaf(&mut self, token: Token<'_>) {
        let out = &mut *self.out;
        match token {
            // Containers never come here.
            Token::Nil | Token::Array { .. } | Token::Dictionary { .. } => {
                out.extend_from_slice(b"null");
            }
            Token::Bool(true) => out.extend_from_slice(b"true"),
            Token::Bool(false) => out.extend_from_slice(b"false"),
            Token::Int(value) => int(out, value),
            Token::Float(value) => double(out, value),
            Token::String(value) | Token::StringName(value) => text(out, value),
            Token::NodePath {
                absolute,
                names,
                subnames,
            } => {
                text(out, &path_text(absolute, names.iter(), subnames.iter()));
            }
            Token::Floats(_, values)
            | Token::PackedFloat32(values)
            | Token::PackedFloat64(values) => {
                floats(out, values);
            }
            Token::Ints(_, bytes) | Token::PackedInt32(bytes) => {
                list(out, bytes.as_chunks().0, |out, chunk| {
                    int(out, i32::from_le_bytes(*chunk).into());
                });
            }
            Token::PackedInt64(bytes) => {
                list(out, bytes.as_chunks().0, |out, chunk| {
                    int(out, i64::from_le_bytes(*chunk));
                });
            }
            Token::Bytes(bytes) => {
                out.push(b'"');
                out.extend_from_slice(STANDARD.encode(bytes).as_bytes());
                out.push(b'"');
            }
            Token::PackedString(texts) => list(out, texts.iter(), text),
            Token::PackedFloats(_, each, values) => list(out, values.groups(each), floats),
        }
    }
}

fn list<T>(out: &mut Vec<u8>, items: impl IntoIterator<Item = T>, write: impl Fn(&mut Vec<u8>, T)) {
    out.push(b'[');
    for (index, item) in items.into_iter().enumerate() {
        if index > 0 {
            out.push(b',');
        }
        write(out, item);
    }
    out.push(b']');
}

fn floats(out: &mut Vec<u8>, values: Floats<'_>) {
    if values.wide {
        list(out, values.wide(), double);
    } else {
        list(out, values.narrow(), single);
    }
}

fn int(out: &mut Vec<u8>, value: i64) {
    // Writing to a vector cannot fail; the same below.
    let _ = CompactFormatter.write_i64(out, value);
}

fn double(out: &mut Vec<u8>, value: f64) {
    if value.is_finite() {
        let _ = CompactFormatter.write_f64(out, value);
    } else {
        out.push(b'"');
        out.extend_from_slice(not_finite(value).as_bytes());
        out.push(b'"');
    }
}

fn single(out: &mut Vec<u8>, value: f32) {
    if value.is_finite() {
        let _ = CompactFormatter.write_f32(out, value);
    } else {
        double(out, value.into());
    }
}

fn text(out: &mut Vec<u8>, value: &str) {
    let _ = serde_json::to_writer(out, &*without_nul(value));
}

fn without_nul(value: &str) -> Cow<'_, str> {
    if value.as_bytes().contains(&0) {
        Cow::Owned(value.replace('\0', "\u{FFFD}"))
    } else {
        Cow::Borrowed(value)
    }
}

fn not_finite(value: f64) -> &'static str {
    if value.is_nan() {
        "nan"
    } else if value > 0.0 {
        "inf"
    } else {
        "-inf"
    }
}

/// A node path as Godot prints it: `/root/Main`, `Player/Sprite:position:x`.
fn path_text<'a>(
    absolute: bool,
    names: impl Iterator<Item = &'a str>,
    subnames: impl Iterator<Item = &'a str>,
) -> String {
    let mut path = String::from(if absolute { "/" } else { "" });
    for (index, name) in names.enumerate() {
        if index > 0 {
            path.push('/');
        }
        path.push_str(name);
    }
    for subname in subnames {
        path.push(':');
        path.push_str(subname);
    }
    path
}

impl std::fmt::Display for NodePath {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let names = self.names.iter().map(String::as_str);
        let subnames = self.subnames.iter().map(String::as_str);
        f.write_str(&path_text(self.absolute, names, subnames))
    }
}

impl Value {
    /// The same JSON that [`write_json`] writes, as a tree.
    ///
    /// An object's keys are in the order that `serde_json` keeps.
    pub fn to_json(&self) -> Json {
        match self {
            Value::Nil => Json::Null,
            Value::Bool(value) => Json::Bool(*value),
            Value::Int(value) => Json::from(*value),
            Value::Float(value) => json_double(*value),
            Value::String(value) | Value::StringName(value) => Json::from(without_nul(value)),
            Value::NodePath(path) => Json::from(without_nul(&path.to_string())),
            Value::Vector2(value) => value.to_json(),
            Value::Vector3(value) => value.to_json(),
            Value::Vector4(value) => value.to_json(),
            Value::Rect2(value) => value.to_json(),
            Value::Plane(value) => value.to_json(),
            Value::Quaternion(value) => value.to_json(),
            Value::Transform2D(value) => value.to_json(),
            Value::Aabb(value) => value.to_json(),
            Value::Basis(value) => value.to_json(),
            Value::Transform3D(value) => value.to_json(),
            Value::Projection(value) => value.to_json(),
            Value::Color(value) => json_list(value, |part| json_single(*part)),
            Value::Vector2i(value) => json_list(value, |part| Json::from(*part)),
            Value::Vector3i(value) => json_list(value, |part| Json::from(*part)),
            Value::Vector4i(value) => json_list(value, |part| Json::from(*part)),
            Value::Rect2i(value) => json_list(value, |part| Json::from(*part)),
            Value::Array(items) => json_list(items, Value::to_json),
            Value::TypedArray(typed) => json_list(&typed.items, Value::to_json),
            Value::Dictionary(entries) => json_object(entries),
            Value::TypedDictionary(typed) => json_object(&typed.entries),
            Value::PackedByteArray(bytes) => Json::from(STANDARD.encode(bytes)),
            Value::PackedInt32Array(items) => json_list(items, |item| Json::from(*item)),
            Value::PackedInt64Array(items) => json_list(items, |item| Json::from(*item)),
            Value::PackedFloat32Array(items) => json_list(items, |item| json_single(*item)),
            Value::PackedFloat64Array(items) => json_list(items, |item| json_double(*item)),
            Value::PackedStringArray(items) => {
                json_list(items, |item| Json::from(without_nul(item)))
            }
            Value::PackedVector2Array(items) => items.to_json(),
            Value::PackedVector3Array(items) => items.to_json(),
            Value::PackedVector4Array(items) => items.to_json(),
            Value::PackedColorArray(items) => {
                json_list(items, |item| json_list(item, |part| json_single(*part)))
            }
        }
    }
}

impl<const N: usize> Reals<N> {
    fn to_json(self) -> Json {
        match self {
            Reals::Single(parts) => json_list(&parts, |part| json_single(*part)),
            Reals::Double(parts) => json_list(&parts, |part| json_double(*part)),
        }
    }
}

impl<const N: usize> PackedReals<N> {
    fn to_json(&self) -> Json {
        match self {
            PackedReals::Single(items) => {
                json_list(items, |item| json_list(item, |part| json_single(*part)))
            }
            PackedReals::Double(items) => {
                json_list(items, |item| json_list(item, |part| json_double(*part)))
            }
        }
    }
}

fn json_list<'a, T: 'a>(
    items: impl IntoIterator<Item = &'a T>,
    json: impl Fn(&'a T) -> Json,
) -> Json {
    Json::Array(items.into_iter().map(json).collect())
}

fn json_object(entries: &[(Value, Value)]) -> Json {
    Json::Object(
        entries
            .iter()
            .map(|(key, value)| (key_text(key), value.to_json()))
            .collect(),
    )
}

/// A key as [`write_json`] writes it: the digits of floats inside a key must be the same to the letter.
fn key_text(key: &Value) -> String {
    if let Some(text) = key.text() {
        return without_nul(text).into_owned();
    }
    let mut json = Vec::new();
    // Refused is only a key that nobody could have decoded, nested too deeply.
    if write(&super::encode(key), &mut json, true).is_err() {
        return key.to_json().to_string();
    }
    match json.first() {
        Some(b'"') => serde_json::from_slice(&json).unwrap_or_default(),
        _ => String::from_utf8_lossy(&json).into_owned(),
    }
}

fn json_double(value: f64) -> Json {
    if value.is_finite() {
        Json::from(value)
    } else {
        Json::from(not_finite(value))
    }
}

/// The double that is closest to the digits that [`write_json`] gives `value`.
fn json_single(value: f32) -> Json {
    if !value.is_finite() {
        return Json::from(not_finite(value.into()));
    }
    let mut digits = Vec::new();
    single(&mut digits, value);
    let digits = String::from_utf8_lossy(&digits);
    Json::from(digits.parse().unwrap_or_else(|_| f64::from(value)))
}
