//! Looks into an encoded value without decoding it, and puts changed dictionaries together from slices of old ones.
//!
//! [`look`] tells what a value is; of a container it gives the bytes of each key and value, found by skipping over
//! them. Nothing is copied, nothing is allocated. [`DictionaryWriter`] and [`ArrayWriter`] append containers whose
//! parts are such slices. The bytes may be anybody's: no panic, and no more steps than there are bytes.
//!
//! Not here: which fields are wanted, or what is done to them.

use super::wire::{DecodeError, Reader, Token, deeper};
use super::{DEPTH_MAX, Type};

/// One value as far as it can be told without decoding what is inside.
#[derive(Debug, Clone, Copy)]
pub enum Look<'a> {
    /// `null`.
    Nil,
    /// A `bool`.
    Bool(bool),
    /// An `int`.
    Int(i64),
    /// A `float`.
    Float(f64),
    /// A `String` or a `StringName`.
    Text(&'a str),
    /// A `PackedByteArray`.
    Bytes(&'a [u8]),
    /// An `Array`, typed or not.
    Array(Items<'a>),
    /// A `Dictionary`, typed or not.
    Dictionary(Entries<'a>),
    /// Any other type: vectors, packed arrays, node paths.
    Other(Type),
}

/// Looks at `bytes`, which are one value and nothing else.
///
/// The values inside of a container are looked at only when its iterator comes to them; run it to its end to know that
/// all of it is well formed.
///
/// # Errors
/// Whatever [`decode`](super::decode) refuses in the value's own data, and bytes behind a value that is no container.
pub fn look(bytes: &[u8]) -> Result<Look<'_>, DecodeError> {
    let mut reader = Reader::new(bytes);
    let found = match reader.token()? {
        Token::Nil => Look::Nil,
        Token::Bool(value) => Look::Bool(value),
        Token::Int(value) => Look::Int(value),
        Token::Float(value) => Look::Float(value),
        Token::String(text) | Token::StringName(text) => Look::Text(text),
        Token::Bytes(bytes) => Look::Bytes(bytes),
        Token::Array { count, .. } => {
            return Ok(Look::Array(Items(Parts::new(bytes, reader, count))));
        }
        Token::Dictionary { count, .. } => {
            let parts = Parts::new(bytes, reader, count);
            return Ok(Look::Dictionary(Entries(parts)));
        }
        Token::NodePath { .. } => Look::Other(Type::NodePath),
        Token::Floats(kind, _) | Token::Ints(kind, _) | Token::PackedFloats(kind, _, _) => {
            Look::Other(kind)
        }
        Token::PackedInt32(_) => Look::Other(Type::PackedInt32Array),
        Token::PackedInt64(_) => Look::Other(Type::PackedInt64Array),
        Token::PackedFloat32(_) => Look::Other(Type::PackedFloat32Array),
        Token::PackedFloat64(_) => Look::Other(Type::PackedFloat64Array),
        Token::PackedString(_) => Look::Other(Type::PackedStringArray),
    };
    reader.finish()?;
    Ok(found)
}

/// What [`Items`] and [`Entries`] share: the bytes from which values are cut off one after the other.
#[derive(Debug, Clone, Copy)]
struct Parts<'a> {
    bytes: &'a [u8],
    /// Behind the count.
    begin: usize,
    count: usize,
    reader: Reader<'a>,
}

impl<'a> Parts<'a> {
    fn new(bytes: &'a [u8], reader: Reader<'a>, count: usize) -> Self {
        Self {
            bytes,
            begin: reader.at(),
            count,
            reader,
        }
    }

    /// Header and element types: all before the count.
    fn head(&self) -> &'a [u8] {
        self.bytes
            .get(..self.begin.saturating_sub(4))
            .unwrap_or_default()
    }

    /// The next value's bytes.
    fn cut(&mut self) -> Result<&'a [u8], DecodeError> {
        let from = self.reader.at();
        skip(&mut self.reader)?;
        Ok(self.bytes.get(from..self.reader.at()).unwrap_or_default())
    }
}

/// Goes behind the next value.
fn skip(reader: &mut Reader<'_>) -> Result<(), DecodeError> {
    let at = reader.at();
    let count = match reader.token()? {
        Token::Array { count, .. } => count,
        Token::Dictionary { count, .. } => count * 2,
        _ => return Ok(()),
    };
    skip_inside(reader, at, count)
}

/// Goes behind the `left` values of a container that began at `at`.
fn skip_inside(reader: &mut Reader<'_>, at: usize, mut left: usize) -> Result<(), DecodeError> {
    // How many values are still to come at each depth.
    let mut pending = [0_usize; DEPTH_MAX + 1];
    let mut depth = deeper(0, at)?;
    loop {
        while left == 0 {
            depth -= 1;
            if depth == 0 {
                return Ok(());
            }
            left = pending[depth];
        }
        left -= 1;
        let at = reader.at();
        let count = match reader.token()? {
            Token::Array { count, .. } => count,
            Token::Dictionary { count, .. } => count * 2,
            _ => continue,
        };
        pending[depth] = left;
        depth = deeper(depth, at)?;
        left = count;
    }
}

/// The elements of an array, in their order. An error is the last item.
#[derive(Debug, Clone, Copy)]
pub struct Items<'a>(Parts<'a>);

impl<'a> Items<'a> {
    /// How many elements are still to come.
    pub fn count(&self) -> usize {
        self.0.count
    }

    /// What stands before the count: the header, and the element's type. To be given to [`ArrayWriter::begin`].
    pub fn head(&self) -> &'a [u8] {
        self.0.head()
    }
}

impl<'a> Iterator for Items<'a> {
    type Item = Result<&'a [u8], DecodeError>;

    fn next(&mut self) -> Option<Self::Item> {
        let parts = &mut self.0;
        if parts.count == 0 {
            // Said once: an empty reader has nothing left over.
            let rest = std::mem::replace(&mut parts.reader, Reader::new(&[]));
            return rest.finish().err().map(Err);
        }
        parts.count -= 1;
        let cut = parts.cut();
        if cut.is_err() {
            parts.count = 0;
            parts.reader = Reader::new(&[]);
        }
        Some(cut)
    }
}

/// A key of a dictionary and its value, both encoded.
#[derive(Debug, Clone, Copy)]
pub struct Entry<'a> {
    /// The key.
    pub key: &'a [u8],
    /// The value.
    pub value: &'a [u8],
}

impl Entry<'_> {
    /// Whether JSON would call this entry `name`: its key is that text, or a whole number that reads so.
    pub fn is_named(&self, name: &str) -> bool {
        match look(self.key) {
            Ok(Look::Text(key)) => key == name,
            Ok(Look::Int(key)) => name.parse() == Ok(key) && is_plain_int(name),
            _ => false,
        }
    }
}

/// Whether `text` is how a whole number is printed: no sign but a minus, no zeros in front.
fn is_plain_int(text: &str) -> bool {
    let digits = text.strip_prefix('-').unwrap_or(text);
    !digits.starts_with('+') && (digits == "0" && text == "0" || !digits.starts_with('0'))
}

/// The entries of a dictionary, in their order. An error is the last item.
#[derive(Debug, Clone, Copy)]
pub struct Entries<'a>(Parts<'a>);

impl<'a> Entries<'a> {
    /// How many entries are still to come.
    pub fn count(&self) -> usize {
        self.0.count
    }

    /// What stands before the count: the header, and the types of keys and values. To be given to
    /// [`DictionaryWriter::begin`] for a dictionary from which entries are only left out.
    pub fn head(&self) -> &'a [u8] {
        self.0.head()
    }

    /// The value of the entry called `name` (see [`Entry::is_named`]), of the last one where a hostile encoding has
    /// several, as JSON would have it.
    ///
    /// # Errors
    /// Whatever is malformed in the dictionary.
    pub fn get(self, name: &str) -> Result<Option<&'a [u8]>, DecodeError> {
        let mut found = None;
        for entry in self {
            let entry = entry?;
            if entry.is_named(name) {
                found = Some(entry.value);
            }
        }
        Ok(found)
    }
}

impl<'a> Iterator for Entries<'a> {
    type Item = Result<Entry<'a>, DecodeError>;

    fn next(&mut self) -> Option<Self::Item> {
        let mut items = Items(self.0);
        let key = match items.0.count {
            // Nothing follows but what must not.
            0 => items.next()?,
            _ => items.0.cut(),
        };
        let entry = key.and_then(|key| {
            let value = items.0.cut()?;
            Ok(Entry { key, value })
        });
        items.0.count = items.0.count.saturating_sub(1);
        if entry.is_err() {
            items.0.count = 0;
            items.0.reader = Reader::new(&[]);
        }
        self.0 = items.0;
        Some(entry)
    }
}

/// Appends one dictionary. The bytes are well formed once it is finished.
#[derive(Debug)]
pub struct DictionaryWriter {
    count_at: usize,
    count: u32,
}

/// The head of a `Dictionary` without types.
pub const UNTYPED_DICTIONARY: &[u8] = &[Type::Dictionary as u8, 0, 0, 0];
/// The head of an `Array` without a type.
pub const UNTYPED_ARRAY: &[u8] = &[Type::Array as u8, 0, 0, 0];

impl DictionaryWriter {
    /// Begins at the end of `out`. `head` is [`UNTYPED_DICTIONARY`] or [`Entries::head`] of one whose types still hold.
    pub fn begin(head: &[u8], out: &mut Vec<u8>) -> Self {
        out.extend_from_slice(head);
        let count_at = out.len();
        out.extend_from_slice(&[0; 4]);
        Self { count_at, count: 0 }
    }

    /// Says that a key and its value were appended to `out`.
    pub fn added(&mut self) {
        self.count = self.count.saturating_add(1);
    }

    /// Writes the count.
    pub fn finish(self, out: &mut [u8]) {
        write_count(out, self.count_at, self.count);
    }
}

/// Appends one array. The bytes are well formed once it is finished.
#[derive(Debug)]
pub struct ArrayWriter(DictionaryWriter);

impl ArrayWriter {
    /// Begins at the end of `out`. `head` is [`UNTYPED_ARRAY`] or [`Items::head`] of one whose type still holds.
    pub fn begin(head: &[u8], out: &mut Vec<u8>) -> Self {
        Self(DictionaryWriter::begin(head, out))
    }

    /// Says that an element was appended to `out`.
    pub fn added(&mut self) {
        self.0.added();
    }

    /// Writes the count.
    pub fn finish(self, out: &mut [u8]) {
        self.0.finish(out);
    }
}

fn write_count(out: &mut [u8], at: usize, count: u32) {
    if let Some(field) = out
        .get_mut(at..)
        .and_then(|rest| rest.first_chunk_mut::<4>())
    {
        *field = count.to_le_bytes();
    }
}

/// Appends `text` as an encoded `String`.
pub fn write_text(text: &str, out: &mut Vec<u8>) {
    super::encode::string(out, text);
}

/// Appends `bytes` as a value of the type of `like`, which is a `String`, `StringName` or `PackedByteArray`.
pub fn write_bytes_like(like: &[u8], bytes: &[u8], out: &mut Vec<u8>) {
    let len = bytes.len().min(i32::MAX as usize);
    out.extend_from_slice(like.get(..4).unwrap_or_default());
    out.extend_from_slice(&(len as u32).to_le_bytes());
    out.extend_from_slice(bytes.get(..len).unwrap_or_default());
    out.resize(out.len().saturating_add(len.wrapping_neg() % 4), 0);
}
