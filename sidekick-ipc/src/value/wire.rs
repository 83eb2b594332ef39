//! The one reader of Godot's binary Variant encoding; [`check`](super::check), [`decode`](super::decode) and
//! [`write_json`](super::write_json) all pull [`Token`]s from it, so they accept exactly the same bytes.
//!
//! The format is that of `var_to_bytes` (`core/io/marshalls.cpp`, Godot 4.4 to 4.6): every value is a header word
//! (type in the low byte, flags from bit 16 up), then its data, little-endian, padded to four bytes. Where Godot's own
//! decoder is lenient (unknown flag bits, the bytes of a padding, a small integer in its long form), so is this one.

use super::{DEPTH_MAX, Type};

/// The type in a header word.
const TYPE_MASK: u32 = 0xFF;
/// 64-bit integers and floats; on the vector types: a build of Godot with double precision.
pub(super) const FLAG_64: u32 = 1 << 16;
/// Where the kind of an array's element type, or of a dictionary's key type, stands.
pub(super) const ELEMENT_SHIFT: u32 = 16;
/// Where the kind of a dictionary's value type stands.
pub(super) const VALUE_SHIFT: u32 = 18;
/// The kinds of an element type: none, a built-in type, a class, a script.
const KIND_MASK: u32 = 0b11;
/// Set in the first word of every node path since Godot 2.
pub(super) const NODE_PATH_NEW: u32 = 0x8000_0000;
/// Flags of a node path: it is absolute; it has one more subname than it says (written by Godot 3.0 only).
pub(super) const NODE_PATH_ABSOLUTE: u32 = 1;
const NODE_PATH_PROPERTY: u32 = 2;
/// The top bit of a container's count said "shared" in old versions and is ignored.
const COUNT_MASK: u32 = 0x7FFF_FFFF;
/// No value takes fewer bytes than its header.
const VALUE_BYTES_MIN: usize = 4;

/// Why bytes are not a value that Sidekick takes. `at` is always a byte offset from the start.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum DecodeError {
    /// There are no bytes at all; `var_to_bytes` gives this for data that contains itself.
    #[error("no bytes: the engine could not encode the data")]
    Empty,
    /// The data stops before the end it announces.
    #[error("{needed} more bytes are announced at byte {at}, {left} are left")]
    Truncated {
        /// Where the announced bytes would begin.
        at: usize,
        /// How many are announced.
        needed: usize,
        /// How many there are.
        left: usize,
    },
    /// A type number above the last that Godot 4.6 has.
    #[error("unknown type {found} at byte {at}")]
    UnknownType {
        /// Where its header begins.
        at: usize,
        /// The number found.
        found: u32,
    },
    /// A type that means nothing outside of the process that made it.
    #[error("{kind} at byte {at} cannot be stored")]
    Forbidden {
        /// Where its header begins.
        at: usize,
        /// `Object`, `Callable`, `Signal` or `RID`.
        kind: Type,
    },
    /// More than [`DEPTH_MAX`] containers inside one another.
    #[error("more than {max} containers inside one another at byte {at}", max = DEPTH_MAX)]
    TooDeep {
        /// Where the container that is too much begins.
        at: usize,
    },
    /// A text that is not UTF-8. Godot 4.6 puts U+FFFD in the place of whatever it cannot encode, so this is damage.
    #[error("text that is not valid unicode at byte {at}")]
    NotUnicode {
        /// The first offending byte.
        at: usize,
    },
    /// A node path as Godot 1 wrote it; Godot 4 does not read it either.
    #[error("node path in an outdated form at byte {at}")]
    OldNodePath {
        /// Where its header begins.
        at: usize,
    },
    /// The value is followed by more bytes.
    #[error("{left} bytes left over after the value's end at byte {at}")]
    Trailing {
        /// Where the value ends.
        at: usize,
        /// How many bytes follow.
        left: usize,
    },
}

/// Little-endian floats of a fixed width, as they stand in the encoding.
#[derive(Debug, Clone, Copy)]
pub(super) struct Floats<'a> {
    pub(super) bytes: &'a [u8],
    /// 64 bits each, otherwise 32.
    pub(super) wide: bool,
}

impl<'a> Floats<'a> {
    /// Reads them as 32 bits each; empty if [`Floats::wide`].
    pub(super) fn narrow(self) -> impl Iterator<Item = f32> + 'a {
        let bytes = if self.wide { &[] } else { self.bytes };
        bytes
            .as_chunks()
            .0
            .iter()
            .map(|chunk| f32::from_le_bytes(*chunk))
    }

    /// Reads them as 64 bits each; empty unless [`Floats::wide`].
    pub(super) fn wide(self) -> impl Iterator<Item = f64> + 'a {
        let bytes = if self.wide { self.bytes } else { &[] };
        bytes
            .as_chunks()
            .0
            .iter()
            .map(|chunk| f64::from_le_bytes(*chunk))
    }

    /// Cuts them into groups of `count` floats.
    pub(super) fn groups(self, count: usize) -> impl Iterator<Item = Floats<'a>> {
        let bytes = count.max(1) * if self.wide { 8 } else { 4 };
        let wide = self.wide;
        self.bytes
            .chunks_exact(bytes)
            .map(move |bytes| Floats { bytes, wide })
    }
}

/// `count` texts in a row, each with its length before it; all were found to be valid.
#[derive(Debug, Clone, Copy)]
pub(super) struct Texts<'a> {
    bytes: &'a [u8],
    pub(super) count: usize,
    terminated: bool,
}

impl<'a> Texts<'a> {
    pub(super) fn iter(self) -> impl Iterator<Item = &'a str> {
        let mut reader = Reader::new(self.bytes);
        (0..self.count).map_while(move |_| reader.text(self.terminated).ok())
    }
}

/// The element type of a typed array or dictionary, borrowed from the encoding.
#[derive(Debug, Clone, Copy)]
pub(super) enum Element<'a> {
    Builtin(Type),
    Class(&'a str),
    Script(&'a str),
}

/// One value without the values inside it.
#[derive(Debug, Clone, Copy)]
pub(super) enum Token<'a> {
    Nil,
    Bool(bool),
    Int(i64),
    Float(f64),
    String(&'a str),
    StringName(&'a str),
    NodePath {
        absolute: bool,
        names: Texts<'a>,
        subnames: Texts<'a>,
    },
    /// A type of a fixed number of floats, from `Vector2` to `Projection` and `Color`.
    Floats(Type, Floats<'a>),
    /// A type of a fixed number of 32-bit integers, `Vector2i` and its kin.
    Ints(Type, &'a [u8]),
    Bytes(&'a [u8]),
    PackedInt32(&'a [u8]),
    PackedInt64(&'a [u8]),
    PackedFloat32(Floats<'a>),
    PackedFloat64(Floats<'a>),
    PackedString(Texts<'a>),
    /// A packed array of vectors or colors: its type, the floats of one element, all floats.
    PackedFloats(Type, usize, Floats<'a>),
    /// `count` values follow.
    Array {
        element: Option<Element<'a>>,
        count: usize,
    },
    /// `count` pairs of a key and a value follow.
    Dictionary {
        key: Option<Element<'a>>,
        value: Option<Element<'a>>,
        count: usize,
    },
}

/// Reads tokens off the front of an encoding. Copy it to come back to a place.
#[derive(Debug, Clone, Copy)]
pub(super) struct Reader<'a> {
    rest: &'a [u8],
    len: usize,
    /// The bytes that the values announced by containers and not yet begun take at least. A count that the input
    /// cannot hold is found before anything is reserved for it, and all counts together stay below `len / 4`.
    owed: usize,
}

impl<'a> Reader<'a> {
    pub(super) fn new(bytes: &'a [u8]) -> Self {
        Reader {
            rest: bytes,
            len: bytes.len(),
            owed: VALUE_BYTES_MIN,
        }
    }

    /// The offset of the next byte.
    #[inline(always)]
    pub(super) fn at(&self) -> usize {
        self.len - self.rest.len()
    }

    /// Checks that nothing follows the value read.
    #[inline(always)]
    pub(super) fn finish(&self) -> Result<(), DecodeError> {
        if self.rest.is_empty() {
            return Ok(());
        }
        Err(DecodeError::Trailing {
            at: self.at(),
            left: self.rest.len(),
        })
    }

    #[cold]
    fn truncated(&self, needed: usize) -> DecodeError {
        if self.len == 0 {
            return DecodeError::Empty;
        }
        DecodeError::Truncated {
            at: self.at(),
            needed,
            left: self.rest.len(),
        }
    }

    #[inline(always)]
    fn chunk<const N: usize>(&mut self) -> Result<[u8; N], DecodeError> {
        let Some((chunk, rest)) = self.rest.split_first_chunk::<N>() else {
            return Err(self.truncated(N));
        };
        self.rest = rest;
        Ok(*chunk)
    }

    #[inline(always)]
    fn word(&mut self) -> Result<u32, DecodeError> {
        Ok(u32::from_le_bytes(self.chunk()?))
    }

    #[inline(always)]
    fn bytes(&mut self, count: usize) -> Result<&'a [u8], DecodeError> {
        let Some((bytes, rest)) = self.rest.split_at_checked(count) else {
            return Err(self.truncated(count));
        };
        self.rest = rest;
        Ok(bytes)
    }

    /// `len` bytes and the padding behind them.
    #[inline(always)]
    fn padded(&mut self, len: usize) -> Result<&'a [u8], DecodeError> {
        let Some(padded) = len.checked_next_multiple_of(4) else {
            return Err(self.truncated(len));
        };
        let bytes = self.bytes(padded)?;
        Ok(&bytes[..len])
    }

    /// A text with its length before it; `terminated`: one zero byte at its end is not part of it.
    #[inline(always)]
    fn text(&mut self, terminated: bool) -> Result<&'a str, DecodeError> {
        let len = self.word()? as usize;
        let at = self.at();
        let mut bytes = self.padded(len)?;
        if terminated {
            bytes = bytes.strip_suffix(&[0]).unwrap_or(bytes);
        }
        match std::str::from_utf8(bytes) {
            Ok(text) => Ok(text),
            Err(error) => Err(DecodeError::NotUnicode {
                at: at + error.valid_up_to(),
            }),
        }
    }

    /// Checks `count` texts and keeps their bytes.
    fn texts(&mut self, count: usize, terminated: bool) -> Result<Texts<'a>, DecodeError> {
        let before = self.rest;
        if count > before.len() / 4 {
            return Err(self.truncated(count.saturating_mul(4)));
        }
        for _ in 0..count {
            self.text(terminated)?;
        }
        let bytes = &before[..before.len() - self.rest.len()];
        Ok(Texts {
            bytes,
            count,
            terminated,
        })
    }

    #[inline(always)]
    fn floats(&mut self, count: usize, wide: bool) -> Result<Floats<'a>, DecodeError> {
        let bytes = self.elements(count, if wide { 8 } else { 4 })?;
        Ok(Floats { bytes, wide })
    }

    #[inline(always)]
    fn elements(&mut self, count: usize, bytes_each: usize) -> Result<&'a [u8], DecodeError> {
        self.bytes(count.saturating_mul(bytes_each))
    }

    fn node_path(&mut self, at: usize) -> Result<Token<'a>, DecodeError> {
        let first = self.word()?;
        if first & NODE_PATH_NEW == 0 {
            return Err(DecodeError::OldNodePath { at });
        }
        let mut subname_count = self.word()? as usize;
        let flags = self.word()?;
        if flags & NODE_PATH_PROPERTY != 0 {
            subname_count = subname_count.saturating_add(1);
        }
        let names = self.texts((first & !NODE_PATH_NEW) as usize, false)?;
        let subnames = self.texts(subname_count, false)?;
        Ok(Token::NodePath {
            absolute: flags & NODE_PATH_ABSOLUTE != 0,
            names,
            subnames,
        })
    }

    #[inline(always)]
    fn element(&mut self, header: u32, shift: u32) -> Result<Option<Element<'a>>, DecodeError> {
        match (header >> shift) & KIND_MASK {
            0 => Ok(None),
            kind => self.element_of_kind(kind).map(Some),
        }
    }

    #[cold]
    fn element_of_kind(&mut self, kind: u32) -> Result<Element<'a>, DecodeError> {
        let at = self.at();
        match kind {
            1 => {
                let found = self.word()?;
                Type::from_number(found)
                    .map(Element::Builtin)
                    .ok_or(DecodeError::UnknownType { at, found })
            }
            2 => self.text(false).map(Element::Class),
            _ => self.text(false).map(Element::Script),
        }
    }

    /// Reads a container's count, each element of which is `values_each` values.
    #[inline(always)]
    fn count(&mut self, values_each: usize) -> Result<usize, DecodeError> {
        let count = (self.word()? & COUNT_MASK) as usize;
        let needed = count.saturating_mul(values_each * VALUE_BYTES_MIN);
        let owed = self.owed.saturating_add(needed);
        if owed > self.rest.len() {
            return Err(self.truncated(owed));
        }
        self.owed = owed;
        Ok(count)
    }

    /// Reads the next value's own data; of a container only its count, the values inside are the next tokens.
    #[inline(always)]
    pub(super) fn token(&mut self) -> Result<Token<'a>, DecodeError> {
        let at = self.at();
        let header = self.word()?;
        self.owed = self.owed.saturating_sub(VALUE_BYTES_MIN);
        let wide = header & FLAG_64 != 0;
        let found = header & TYPE_MASK;
        let Some(kind) = Type::from_number(found) else {
            return Err(DecodeError::UnknownType { at, found });
        };
        Ok(match kind {
            Type::Nil => Token::Nil,
            Type::Bool => Token::Bool(self.word()? != 0),
            Type::Int if wide => Token::Int(i64::from_le_bytes(self.chunk()?)),
            Type::Int => Token::Int(i32::from_le_bytes(self.chunk()?).into()),
            Type::Float if wide => Token::Float(f64::from_le_bytes(self.chunk()?)),
            Type::Float => Token::Float(f32::from_le_bytes(self.chunk()?).into()),
            Type::String => Token::String(self.text(false)?),
            Type::StringName => Token::StringName(self.text(false)?),
            Type::NodePath => self.node_path(at)?,
            Type::Vector2 => Token::Floats(kind, self.floats(2, wide)?),
            Type::Vector3 => Token::Floats(kind, self.floats(3, wide)?),
            Type::Rect2 | Type::Vector4 | Type::Plane | Type::Quaternion => {
                Token::Floats(kind, self.floats(4, wide)?)
            }
            Type::Transform2D | Type::Aabb => Token::Floats(kind, self.floats(6, wide)?),
            Type::Basis => Token::Floats(kind, self.floats(9, wide)?),
            Type::Transform3D => Token::Floats(kind, self.floats(12, wide)?),
            Type::Projection => Token::Floats(kind, self.floats(16, wide)?),
            Type::Color => Token::Floats(kind, self.floats(4, false)?),
            Type::Vector2i => Token::Ints(kind, self.elements(2, 4)?),
            Type::Vector3i => Token::Ints(kind, self.elements(3, 4)?),
            Type::Rect2i | Type::Vector4i => Token::Ints(kind, self.elements(4, 4)?),
            Type::Rid | Type::Object | Type::Callable | Type::Signal => {
                return Err(DecodeError::Forbidden { at, kind });
            }
            Type::Dictionary => {
                let key = self.element(header, ELEMENT_SHIFT)?;
                let value = self.element(header, VALUE_SHIFT)?;
                Token::Dictionary {
                    key,
                    value,
                    count: self.count(2)?,
                }
            }
            Type::Array => {
                let element = self.element(header, ELEMENT_SHIFT)?;
                Token::Array {
                    element,
                    count: self.count(1)?,
                }
            }
            Type::PackedByteArray => {
                let count = self.word()? as usize;
                Token::Bytes(self.padded(count)?)
            }
            Type::PackedInt32Array => {
                let count = self.word()? as usize;
                Token::PackedInt32(self.elements(count, 4)?)
            }
            Type::PackedInt64Array => {
                let count = self.word()? as usize;
                Token::PackedInt64(self.elements(count, 8)?)
            }
            Type::PackedFloat32Array => {
                let count = self.word()? as usize;
                Token::PackedFloat32(self.floats(count, false)?)
            }
            Type::PackedFloat64Array => {
                let count = self.word()? as usize;
                Token::PackedFloat64(self.floats(count, true)?)
            }
            Type::PackedStringArray => {
                let count = self.word()? as usize;
                Token::PackedString(self.texts(count, true)?)
            }
            Type::PackedVector2Array => self.packed_floats(kind, 2, wide)?,
            Type::PackedVector3Array => self.packed_floats(kind, 3, wide)?,
            Type::PackedVector4Array => self.packed_floats(kind, 4, wide)?,
            Type::PackedColorArray => self.packed_floats(kind, 4, false)?,
        })
    }

    /// [`Reader::token`] as a call of its own, for the readers that recurse: its temporaries would be in each frame.
    #[inline(never)]
    pub(super) fn token_outlined(&mut self) -> Result<Token<'a>, DecodeError> {
        self.token()
    }

    fn packed_floats(
        &mut self,
        kind: Type,
        each: usize,
        wide: bool,
    ) -> Result<Token<'a>, DecodeError> {
        let count = self.word()? as usize;
        Ok(Token::PackedFloats(
            kind,
            each,
            self.floats(count.saturating_mul(each), wide)?,
        ))
    }
}

/// The depth inside a container that begins at `at` and itself stands at `depth` (0: the whole value).
#[inline(always)]
pub(super) fn deeper(depth: usize, at: usize) -> Result<usize, DecodeError> {
    if depth >= DEPTH_MAX {
        Err(DecodeError::TooDeep { at })
    } else {
        Ok(depth + 1)
    }
}
