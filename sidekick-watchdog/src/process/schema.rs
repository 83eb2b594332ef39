//! JSON Schema (draft 2020-12) on the encoding: a subset that needs no other document. A keyword that is not in it is
//! refused when the schema is read, never ignored.
//!
//! Known: `type`, `enum`, `const`, `required`, `properties`, `additionalProperties`, `items`, `minimum`, `maximum`,
//! `exclusiveMinimum`, `exclusiveMaximum`, `minLength`, `maxLength`, `minItems`, `maxItems`, `pattern`, `format`, `allOf`,
//! `anyOf`, `oneOf`, `not`, and `$ref` to one of the root's `$defs` that does not come back to itself; without effect:
//! `$schema`, `$id`, `$comment`, `title`, `description`, `default`, `examples`. A record is held against it as its JSON
//! would be.

use std::borrow::Cow;
use std::sync::Arc;

use regex_lite::Regex;
use serde_json::Value as Json;
use sidekick_ipc::value::fields::{Look, look};
use sidekick_ipc::value::{Type, decode, encode};

use super::from_json;
use format::Format;

mod format;
mod read;

/// Why a schema cannot be used.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{at}: {why}")]
pub struct SchemaError {
    /// Where in it, as `#/properties/name`.
    pub at: String,
    /// What is wrong.
    pub why: String,
}

/// A schema, read.
#[derive(Debug)]
pub struct Schema(Node);

#[derive(Debug, Default)]
struct Node {
    /// `false` as a schema: nothing is right.
    never: bool,
    types: Option<Vec<Kind>>,
    allowed: Option<Vec<Json>>,
    required: Vec<String>,
    properties: Vec<(String, Node)>,
    additional: Option<Box<Node>>,
    items: Option<Box<Node>>,
    /// Keyword, limit.
    numbers: Vec<(Limit, f64)>,
    sizes: Vec<(SizeLimit, usize)>,
    pattern: Option<Arc<Regex>>,
    format: Option<Format>,
    /// `allOf` and `$ref`.
    all: Vec<Node>,
    any: Option<Vec<Node>>,
    one: Option<Vec<Node>>,
    not: Option<Box<Node>>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Kind {
    Null,
    Boolean,
    Integer,
    Number,
    String,
    Array,
    Object,
}

impl Kind {
    const WORDS: [(&'static str, Self); 7] = [
        ("null", Self::Null),
        ("boolean", Self::Boolean),
        ("integer", Self::Integer),
        ("number", Self::Number),
        ("string", Self::String),
        ("array", Self::Array),
        ("object", Self::Object),
    ];

    fn word(self) -> &'static str {
        let mut words = Self::WORDS.into_iter();
        words
            .find(|(_, kind)| *kind == self)
            .map_or("", |(word, _)| word)
    }
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Limit {
    Minimum,
    Maximum,
    ExclusiveMinimum,
    ExclusiveMaximum,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum SizeLimit {
    MinLength,
    MaxLength,
    MinItems,
    MaxItems,
}

impl Schema {
    /// Reads a schema.
    ///
    /// # Errors
    /// The first thing in it that is wrong, or not known here.
    pub fn compile(json: &Json) -> Result<Self, SchemaError> {
        read::read(json).map(Self)
    }

    /// Holds a record's data against it.
    ///
    /// # Errors
    /// The first thing that is wrong, with its place: `data.player: is missing`.
    pub fn check(&self, data: &[u8]) -> Result<(), String> {
        self.0.check(data, &mut String::from("data"))
    }
}

impl Node {
    /// `at` is the place of `data`; what is appended to it is taken off again unless something is wrong.
    fn check(&self, data: &[u8], at: &mut String) -> Result<(), String> {
        let wrong = |at: &str, why: String| Err(format!("{at}: {why}"));
        let found = match look(data) {
            Ok(found) => found,
            Err(error) => return wrong(at, format!("cannot be decoded: {error}")),
        };
        if let Look::Other(kind) = found
            && kind != Type::NodePath
        {
            // Vectors and packed arrays: as the lists that they are in JSON.
            return match decode(data) {
                Ok(value) => self.check(&encode(&from_json(&value.to_json())), at),
                Err(error) => wrong(at, format!("cannot be decoded: {error}")),
            };
        }
        if self.never {
            return wrong(at, "may not be there".into());
        }
        if let Some(types) = &self.types
            && !types.iter().any(|kind| is_of(*kind, &found))
        {
            let words: Vec<_> = types.iter().map(|kind| kind.word()).collect();
            return wrong(at, format!("is not of type {}", words.join(" or ")));
        }
        if let Some(allowed) = &self.allowed {
            let json = decode(data).map(|value| value.to_json());
            let json = json.map_err(|error| format!("{at}: cannot be decoded: {error}"))?;
            if !allowed.iter().any(|allowed| same(allowed, &json)) {
                return wrong(at, "is none of the values that are allowed".into());
            }
        }
        let number = match found {
            Look::Int(number) => Some(number as f64),
            Look::Float(number) => Some(number),
            _ => None,
        };
        if let Some(number) = number {
            for (limit, value) in &self.numbers {
                let is_kept = match limit {
                    Limit::Minimum => number >= *value,
                    Limit::Maximum => number <= *value,
                    Limit::ExclusiveMinimum => number > *value,
                    Limit::ExclusiveMaximum => number < *value,
                };
                if !is_kept {
                    return wrong(at, format!("is {number}, against {limit:?} {value}"));
                }
            }
        }
        let size = match found {
            Look::Text(text) => text.chars().count(),
            Look::Array(items) => items.count(),
            _ => 0,
        };
        for (limit, value) in &self.sizes {
            let is_kept =
                match (limit, &found) {
                    (SizeLimit::MinLength, Look::Text(_))
                    | (SizeLimit::MinItems, Look::Array(_)) => size >= *value,
                    (SizeLimit::MaxLength, Look::Text(_))
                    | (SizeLimit::MaxItems, Look::Array(_)) => size <= *value,
                    _ => true,
                };
            if !is_kept {
                return wrong(at, format!("has length {size}, against {limit:?} {value}"));
            }
        }
        if self.pattern.is_some() || self.format.is_some() {
            self.check_text(&found, data)
                .map_err(|why| format!("{at}: {why}"))?;
        }
        self.check_others(data, at)?;
        self.check_inside(&found, at)
    }

    /// What JSON has as a text; anything else is right.
    fn check_text(&self, found: &Look<'_>, data: &[u8]) -> Result<(), String> {
        let text = match found {
            Look::Text(text) => Cow::Borrowed(*text),
            other if is_of(Kind::String, other) => match decode(data).map(|it| it.to_json()) {
                Ok(Json::String(text)) => Cow::Owned(text),
                Ok(_) => return Ok(()),
                Err(error) => return Err(format!("cannot be decoded: {error}")),
            },
            _ => return Ok(()),
        };
        if let Some(pattern) = &self.pattern
            && !pattern.is_match(&text)
        {
            return Err(format!("does not match the pattern {:?}", pattern.as_str()));
        }
        match self.format {
            Some(format) if !format.fits(&text) => Err(format!("is no {}", format.word())),
            _ => Ok(()),
        }
    }

    /// The schemas that are for the same value.
    fn check_others(&self, data: &[u8], at: &mut String) -> Result<(), String> {
        for node in &self.all {
            node.check(data, at)?;
        }
        let before = at.len();
        let mut fits = |node: &Node| {
            let fits = node.check(data, at).is_ok();
            at.truncate(before);
            fits
        };
        let is_any = self
            .any
            .as_ref()
            .is_none_or(|any| any.iter().any(&mut fits));
        let fitting = self
            .one
            .as_ref()
            .map(|one| one.iter().filter(|node| fits(node)).count());
        let is_not = self.not.as_ref().is_none_or(|node| !fits(node));
        match (is_any, fitting.unwrap_or(1), is_not) {
            (true, 1, true) => Ok(()),
            (false, ..) => Err(format!("{at}: fits nothing of anyOf")),
            (true, fitting, true) => Err(format!("{at}: fits {fitting} of oneOf")),
            (true, _, false) => Err(format!("{at}: fits what it must not")),
        }
    }

    fn check_inside(&self, found: &Look<'_>, at: &mut String) -> Result<(), String> {
        let malformed = |at: &str, error| format!("{at}: cannot be decoded: {error}");
        let before = at.len();
        if let (Look::Array(items), Some(node)) = (found, &self.items) {
            for (index, item) in items.enumerate() {
                let item = item.map_err(|error| malformed(at, error))?;
                at.push_str(&format!("[{index}]"));
                node.check(item, at)?;
                at.truncate(before);
            }
        }
        let Look::Dictionary(entries) = found else {
            return Ok(());
        };
        for name in &self.required {
            let value = entries.get(name).map_err(|error| malformed(at, error))?;
            if value.is_none() {
                return Err(format!("{at}.{name}: is missing"));
            }
        }
        if self.properties.is_empty() && self.additional.is_none() {
            return Ok(());
        }
        for entry in *entries {
            let entry = entry.map_err(|error| malformed(at, error))?;
            let named = self
                .properties
                .iter()
                .find(|(name, _)| entry.is_named(name));
            let node = named.map(|(_, node)| node).or(self.additional.as_deref());
            let Some(node) = node else {
                continue;
            };
            let name = decode(entry.key).map(|key| key.to_json());
            match name.map_err(|error| malformed(at, error))? {
                Json::String(name) => at.push_str(&format!(".{name}")),
                name => at.push_str(&format!(".{name}")),
            }
            node.check(entry.value, at)?;
            at.truncate(before);
        }
        Ok(())
    }
}

/// Whether JSON would call it that.
fn is_of(kind: Kind, found: &Look<'_>) -> bool {
    match found {
        Look::Nil => kind == Kind::Null,
        Look::Bool(_) => kind == Kind::Boolean,
        Look::Int(_) => matches!(kind, Kind::Integer | Kind::Number),
        // JSON has words for the others, and they are texts.
        Look::Float(number) if !number.is_finite() => kind == Kind::String,
        Look::Float(number) => {
            kind == Kind::Number || kind == Kind::Integer && number.fract() == 0.0
        }
        Look::Text(_) | Look::Bytes(_) | Look::Other(_) => kind == Kind::String,
        Look::Array(_) => kind == Kind::Array,
        Look::Dictionary(_) => kind == Kind::Object,
    }
}

/// Equal as JSON Schema has it: `1` and `1.0` are one number.
fn same(one: &Json, other: &Json) -> bool {
    match (one, other) {
        (Json::Number(one), Json::Number(other)) => {
            one == other || one.is_f64() != other.is_f64() && one.as_f64() == other.as_f64()
        }
        (Json::Array(one), Json::Array(other)) => {
            one.len() == other.len() && one.iter().zip(other).all(|(one, other)| same(one, other))
        }
        (Json::Object(one), Json::Object(other)) => {
            one.len() == other.len()
                && one
                    .iter()
                    .all(|(key, value)| other.get(key).is_some_and(|other| same(value, other)))
        }
        (one, other) => one == other,
    }
}

#[cfg(test)]
mod tests;
