//! Changes to a record's fields, made on the encoding: what is not named is copied as bytes.
//!
//! A field is named by a path, `player.name`. `*` stands for every element of an array and every entry of a
//! dictionary; a dot that belongs to a name is written `\.`. All changes of a rule are made in one walk, each to the
//! data as it was before the rule.

use ring::hmac;
use sidekick_ipc::value::DecodeError;
use sidekick_ipc::value::fields::{
    ArrayWriter, DictionaryWriter, Entries, Entry, Items, Look, UNTYPED_ARRAY, UNTYPED_DICTIONARY,
    look, write_bytes_like, write_text,
};

/// Names in a path.
pub const PATH_NAMES_MAX: usize = 16;
/// Bytes of a hash that are kept: 128 bits, 32 characters.
const HASH_BYTES: usize = 16;

/// The key of `hash_fields`. Its bytes are shown nowhere.
#[derive(Clone)]
pub struct HashKey(hmac::Key);

impl std::fmt::Debug for HashKey {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("HashKey(hidden)")
    }
}

impl HashKey {
    /// The key that is these bytes.
    pub fn new(secret: &[u8]) -> Self {
        Self(hmac::Key::new(hmac::HMAC_SHA256, secret))
    }

    /// A value's hash: HMAC-SHA-256, its first half in hexadecimal. A text and a whole number count by their text, so
    /// `7` and `"7"` are the same player; anything else by its encoding.
    fn hash(&self, value: &[u8], found: Look<'_>) -> String {
        let tag = match found {
            Look::Text(text) => hmac::sign(&self.0, text.as_bytes()),
            Look::Int(number) => hmac::sign(&self.0, number.to_string().as_bytes()),
            _ => hmac::sign(&self.0, value),
        };
        let mut text = String::with_capacity(HASH_BYTES * 2);
        for byte in tag.as_ref().iter().take(HASH_BYTES) {
            for digit in [byte >> 4, byte & 15] {
                text.push(char::from_digit(u32::from(digit), 16).unwrap_or('0'));
            }
        }
        text
    }
}

/// What is done to a field.
#[derive(Clone, Debug)]
pub enum Change {
    /// It is left out.
    Drop,
    /// Its value becomes its hash. `null` stays.
    Hash(HashKey),
    /// A text, or an array of bytes, is cut to so many bytes.
    Truncate(usize),
    /// It gets another name, and takes the place of a field that has it already.
    Rename(String),
    /// Its value becomes the one with this number.
    Set(usize),
}

impl Change {
    /// Whether a typed container may not be typed any more.
    fn retypes(&self) -> bool {
        matches!(self, Self::Hash(_) | Self::Rename(_) | Self::Set(_))
    }
}

/// Why a field's path is none.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum PathError {
    /// Nothing between two dots, or at an end.
    #[error("has an empty name in it")]
    Empty,
    /// Too many names.
    #[error("has more than {PATH_NAMES_MAX} names")]
    TooLong,
    /// A backslash before something else than a dot, a star or a backslash.
    #[error("has a backslash that escapes nothing; write \\. for a dot in a name")]
    Escape,
    /// The same field, or one around it, is changed in another way.
    #[error("is named twice in one rule")]
    Twice,
    /// A star where one field must be named.
    #[error("may not have a * in it")]
    Star,
}

/// One step of a path.
#[derive(Clone, Debug, PartialEq, Eq)]
enum Step {
    Name(String),
    Each,
}

/// Where a field is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct FieldPath(Vec<Step>);

impl FieldPath {
    /// Reads `player.name`.
    ///
    /// # Errors
    /// See [`PathError`].
    pub fn parse(text: &str) -> Result<Self, PathError> {
        let mut steps = Vec::new();
        let (mut name, mut is_escaped, mut chars) = (String::new(), false, text.chars());
        loop {
            match chars.next() {
                Some('\\') => match chars.next() {
                    Some(c @ ('.' | '*' | '\\')) => {
                        name.push(c);
                        is_escaped = true;
                    }
                    _ => return Err(PathError::Escape),
                },
                Some(c) if c != '.' => name.push(c),
                end => {
                    let step = match std::mem::take(&mut name) {
                        name if name.is_empty() => return Err(PathError::Empty),
                        name if name == "*" && !is_escaped => Step::Each,
                        name => Step::Name(name),
                    };
                    is_escaped = false;
                    steps.push(step);
                    if steps.len() > PATH_NAMES_MAX {
                        return Err(PathError::TooLong);
                    }
                    if end.is_none() {
                        return Ok(Self(steps));
                    }
                }
            }
        }
    }

    /// The field's bytes in a record's data; `None` where it has no such field. No `*` in it.
    pub fn find<'a>(&self, data: &'a [u8]) -> Option<&'a [u8]> {
        let mut at = data;
        for step in &self.0 {
            let (Step::Name(name), Ok(Look::Dictionary(entries))) = (step, look(at)) else {
                return None;
            };
            at = entries.get(name).ok()??;
        }
        Some(at)
    }

    /// Whether it names exactly one field.
    pub fn is_single(&self) -> bool {
        !self.0.contains(&Step::Each)
    }
}

/// The changes of one rule as a tree of names.
#[derive(Clone, Debug, Default)]
pub struct Edit {
    names: Vec<(String, Edit)>,
    each: Option<Box<Edit>>,
    change: Option<Change>,
}

impl Edit {
    /// Whether it changes nothing.
    pub fn is_empty(&self) -> bool {
        self.names.is_empty() && self.each.is_none() && self.change.is_none()
    }

    /// Adds a change of the field at `path`.
    ///
    /// # Errors
    /// [`PathError::Twice`] when this field, one inside it or one around it is changed already.
    pub fn add(&mut self, path: &FieldPath, change: Change) -> Result<(), PathError> {
        let mut node = self;
        for step in &path.0 {
            if node.change.is_some() {
                return Err(PathError::Twice);
            }
            node = match step {
                Step::Each => node.each.get_or_insert_default(),
                Step::Name(name) => {
                    let at = match node.names.iter().position(|(known, _)| known == name) {
                        Some(at) => at,
                        None => {
                            node.names.push((name.clone(), Self::default()));
                            node.names.len() - 1
                        }
                    };
                    match node.names.get_mut(at) {
                        Some((_, next)) => next,
                        None => return Ok(()),
                    }
                }
            };
        }
        if !node.is_empty() {
            return Err(PathError::Twice);
        }
        node.change = Some(change);
        Ok(())
    }

    /// Appends `data` with the changes made to `out`. `values` are what [`Change::Set`] sets, encoded. False when
    /// nothing was changed: `out` then holds what `data` does.
    ///
    /// # Errors
    /// Whatever is malformed in `data`; `out` is then as it was.
    pub fn apply(
        &self,
        data: &[u8],
        values: &[Vec<u8>],
        out: &mut Vec<u8>,
    ) -> Result<bool, DecodeError> {
        let before = out.len();
        let mut changed = false;
        let mut walk = Walk {
            values,
            changed: &mut changed,
        };
        match walk.inside(self, data, out) {
            Ok(()) => Ok(changed),
            Err(error) => {
                out.truncate(before);
                Err(error)
            }
        }
    }

    /// What is to be done to this entry.
    fn of<'e>(&'e self, entry: &Entry<'_>) -> Option<&'e Edit> {
        let mut named = self.names.iter().filter(|(name, _)| entry.is_named(name));
        match named.next() {
            Some((_, edit)) => Some(edit),
            None => self.each.as_deref(),
        }
    }

    fn retypes_inside(&self) -> bool {
        let children = self.names.iter().map(|(_, edit)| edit);
        children
            .chain(self.each.as_deref())
            .any(|edit| edit.change.as_ref().is_some_and(Change::retypes))
    }
}

struct Walk<'a> {
    values: &'a [Vec<u8>],
    changed: &'a mut bool,
}

impl Walk<'_> {
    /// Writes a value, of which something inside is to be changed. Recurses as deep as a path has names.
    fn inside(&mut self, edit: &Edit, value: &[u8], out: &mut Vec<u8>) -> Result<(), DecodeError> {
        match look(value)? {
            Look::Dictionary(entries) => self.dictionary(edit, entries, out),
            Look::Array(items) => self.array(edit, items, out),
            _ => {
                out.extend_from_slice(value);
                Ok(())
            }
        }
    }

    fn dictionary(
        &mut self,
        edit: &Edit,
        entries: Entries<'_>,
        out: &mut Vec<u8>,
    ) -> Result<(), DecodeError> {
        let head = match edit.retypes_inside() {
            true => UNTYPED_DICTIONARY,
            false => entries.head(),
        };
        let mut writer = DictionaryWriter::begin(head, out);
        // Fields whose names others come to have.
        let mut taken = Vec::new();
        for (name, inside) in &edit.names {
            if let Some(Change::Rename(new)) = &inside.change
                && entries.get(name)?.is_some()
            {
                taken.push(new.as_str());
            }
        }
        let mut set = vec![false; edit.names.len()];
        for entry in entries {
            let entry = entry?;
            let inside = edit.of(&entry);
            let change = inside.and_then(|inside| inside.change.as_ref());
            let is_renamed = matches!(change, Some(Change::Rename(_)));
            if !is_renamed && taken.iter().any(|name| entry.is_named(name)) {
                *self.changed = true;
                continue;
            }
            match (inside, change) {
                (_, Some(Change::Drop)) => {
                    *self.changed = true;
                    continue;
                }
                (_, Some(Change::Rename(name))) => {
                    *self.changed = true;
                    write_text(name, out);
                    out.extend_from_slice(entry.value);
                }
                (_, Some(Change::Set(number))) => {
                    let at = edit.names.iter().position(|(name, _)| entry.is_named(name));
                    let was_set = at.and_then(|at| set.get_mut(at));
                    // Of several of one name, which only a hostile encoding has, one is left.
                    if was_set.is_some_and(|was_set| std::mem::replace(was_set, true)) {
                        continue;
                    }
                    out.extend_from_slice(entry.key);
                    self.set(*number, out);
                }
                (Some(inside), _) => {
                    out.extend_from_slice(entry.key);
                    self.value(inside, entry.value, out)?;
                }
                (None, _) => {
                    out.extend_from_slice(entry.key);
                    out.extend_from_slice(entry.value);
                }
            }
            writer.added();
        }
        for ((name, inside), was_set) in edit.names.iter().zip(set) {
            if let (Some(Change::Set(number)), false) = (&inside.change, was_set) {
                write_text(name, out);
                self.set(*number, out);
                writer.added();
            }
        }
        writer.finish(out);
        Ok(())
    }

    fn array(
        &mut self,
        edit: &Edit,
        items: Items<'_>,
        out: &mut Vec<u8>,
    ) -> Result<(), DecodeError> {
        let head = match edit.retypes_inside() {
            true => UNTYPED_ARRAY,
            false => items.head(),
        };
        let mut writer = ArrayWriter::begin(head, out);
        for item in items {
            let item = item?;
            match edit.each.as_deref() {
                Some(inside) if matches!(inside.change, Some(Change::Drop)) => {
                    *self.changed = true;
                    continue;
                }
                Some(inside) => self.value(inside, item, out)?,
                None => out.extend_from_slice(item),
            }
            writer.added();
        }
        writer.finish(out);
        Ok(())
    }

    /// Writes a value with what is to be done to it, or inside it.
    fn value(&mut self, edit: &Edit, value: &[u8], out: &mut Vec<u8>) -> Result<(), DecodeError> {
        match &edit.change {
            None => return self.inside(edit, value, out),
            Some(Change::Hash(key)) => {
                let found = look(value)?;
                if !matches!(found, Look::Nil) {
                    *self.changed = true;
                    write_text(&key.hash(value, found), out);
                    return Ok(());
                }
            }
            Some(Change::Truncate(bytes_max)) => match look(value)? {
                Look::Text(text) if text.len() > *bytes_max => {
                    *self.changed = true;
                    let end = text.floor_char_boundary(*bytes_max);
                    let kept = text.as_bytes().get(..end).unwrap_or_default();
                    write_bytes_like(value, kept, out);
                    return Ok(());
                }
                Look::Bytes(bytes) if bytes.len() > *bytes_max => {
                    *self.changed = true;
                    let kept = bytes.get(..*bytes_max).unwrap_or_default();
                    write_bytes_like(value, kept, out);
                    return Ok(());
                }
                _ => {}
            },
            // Of containers' entries only; see there.
            Some(Change::Drop | Change::Rename(_) | Change::Set(_)) => {}
        }
        out.extend_from_slice(value);
        Ok(())
    }

    fn set(&mut self, number: usize, out: &mut Vec<u8>) {
        *self.changed = true;
        match self.values.get(number) {
            Some(value) => out.extend_from_slice(value),
            None => sidekick_ipc::value::encode_into(&sidekick_ipc::value::Value::Nil, out),
        }
    }
}

#[cfg(test)]
mod tests;
