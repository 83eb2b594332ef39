//! Fields that every record has besides its own: read once, then put in front of the entries of an encoded dictionary.
//!
//! Not here: who sets them, and which values are records.

use super::check::{Refusal, check, shortened};
use super::decode;
use super::fields::{Entries, Look, UNTYPED_DICTIONARY, look};
use super::wire::DecodeError;

/// The most fields: the name of each is held against every key of every record.
pub const COMMON_FIELDS_MAX: usize = 32;
/// The most bytes of all fields together, encoded as one dictionary: each record, which has 64 KiB at most, has them in it.
pub const COMMON_FIELDS_BYTES_MAX: usize = 4096;

/// Why a dictionary cannot be common fields. Its `Display` is a sentence for a GDScript developer.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum CommonFieldsError {
    /// Something in it cannot be stored.
    #[error(transparent)]
    Value(#[from] Refusal),
    /// It is a value of another type.
    #[error("they are no Dictionary")]
    NoDictionary,
    /// One of its keys is no text.
    #[error("the key {key} is neither a String nor a StringName")]
    Key {
        /// The key as JSON, cut short.
        key: String,
    },
    /// There are more than [`COMMON_FIELDS_MAX`].
    #[error("{count} fields, the limit is {COMMON_FIELDS_MAX}")]
    TooMany {
        /// How many there are.
        count: usize,
    },
    /// They take more than [`COMMON_FIELDS_BYTES_MAX`].
    #[error(
        "{bytes} bytes, the limit is {COMMON_FIELDS_BYTES_MAX}, since each record has them in it"
    )]
    TooLarge {
        /// How many they take.
        bytes: usize,
    },
}

/// Fields that each record gets, unless it has one of that name itself.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct CommonFields(Vec<Field>);

#[derive(Debug, Clone, PartialEq, Eq)]
struct Field {
    name: String,
    /// Key and value, encoded.
    entry: Vec<u8>,
}

// One bit for each field says whether a record has it.
const _: () = assert!(COMMON_FIELDS_MAX <= u32::BITS as usize);

impl CommonFields {
    /// No fields.
    pub const fn none() -> Self {
        Self(Vec::new())
    }

    /// The entries of a dictionary as `var_to_bytes` encodes it.
    ///
    /// # Errors
    /// Says what in it cannot be a field.
    pub fn read(bytes: &[u8]) -> Result<Self, CommonFieldsError> {
        check(bytes)?;
        if bytes.len() > COMMON_FIELDS_BYTES_MAX {
            return Err(CommonFieldsError::TooLarge { bytes: bytes.len() });
        }
        let Look::Dictionary(entries) = look(bytes).map_err(unreadable)? else {
            return Err(CommonFieldsError::NoDictionary);
        };
        let count = entries.count();
        if count > COMMON_FIELDS_MAX {
            return Err(CommonFieldsError::TooMany { count });
        }
        let mut fields = Vec::with_capacity(count);
        for entry in entries {
            let entry = entry.map_err(unreadable)?;
            let Look::Text(name) = look(entry.key).map_err(unreadable)? else {
                let key = decode(entry.key).map_err(unreadable)?.to_json();
                let key = shortened(&key.to_string());
                return Err(CommonFieldsError::Key { key });
            };
            fields.push(Field {
                name: name.to_owned(),
                entry: [entry.key, entry.value].concat(),
            });
        }
        Ok(Self(fields))
    }

    /// Whether there is none.
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// An encoded value with these fields in it. `None` where it stays as it is: it is no dictionary, it has all of them itself, or it
    /// is malformed, which is for others to tell.
    ///
    /// A typed dictionary that gets a field becomes one without types. Allocates the bytes that it gives.
    pub fn added_to(&self, record: &[u8]) -> Option<Vec<u8>> {
        let Ok(Look::Dictionary(entries)) = look(record) else {
            return None;
        };
        let own = self.own(entries)?;
        let missing = || {
            let fields = self.0.iter().enumerate();
            fields.filter(|(index, _)| own & 1 << index == 0)
        };
        let added = missing().count();
        if added == 0 {
            return None;
        }
        let count = u32::try_from(entries.count().saturating_add(added)).ok()?;
        let own_entries = record.get(entries.head().len() + size_of::<u32>()..)?;
        let bytes: usize = missing().map(|(_, field)| field.entry.len()).sum();
        let mut out = Vec::with_capacity(bytes + record.len());
        out.extend_from_slice(UNTYPED_DICTIONARY);
        out.extend_from_slice(&count.to_le_bytes());
        // In front: of keys that JSON would call the same, such as `"1"` and `1`, the later one counts.
        for (_, field) in missing() {
            out.extend_from_slice(&field.entry);
        }
        out.extend_from_slice(own_entries);
        Some(out)
    }

    /// A bit for each field of which the dictionary has one of its own; `None` if it is malformed.
    fn own(&self, entries: Entries<'_>) -> Option<u32> {
        let mut own = 0;
        for entry in entries {
            // Godot too holds `"key"` and `&"key"` to be the same key.
            if let Ok(Look::Text(key)) = look(entry.ok()?.key)
                && let Some(index) = self.0.iter().position(|field| field.name == key)
            {
                own |= 1 << index;
            }
        }
        Some(own)
    }
}

/// Does not come about: all of it was checked.
fn unreadable(error: DecodeError) -> CommonFieldsError {
    let path = String::new();
    CommonFieldsError::Value(Refusal { error, path })
}
