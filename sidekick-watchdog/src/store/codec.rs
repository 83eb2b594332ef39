//! The one place that knows bincode: fixed-width integers, a limit, no trailing bytes, from slices only.

use bincode::Options;
use serde::Serialize;
use serde::de::DeserializeOwned;

/// Why bytes could not be encoded or decoded.
#[derive(Debug, thiserror::Error)]
#[error("{doing} {what}: {cause}")]
pub struct CodecError {
    doing: &'static str,
    what: &'static str,
    cause: String,
}

impl CodecError {
    pub(crate) fn new(doing: &'static str, what: &'static str, cause: impl ToString) -> Self {
        Self {
            doing,
            what,
            cause: cause.to_string(),
        }
    }
}

fn options(limit: u64) -> impl Options {
    bincode::DefaultOptions::new()
        .with_fixint_encoding()
        .with_limit(limit)
        .reject_trailing_bytes()
}

/// What our own encodings may grow to; slabs are never encoded. A state with a full tree is the largest.
pub(crate) const ENCODED_BYTES_MAX: u64 = 1 << 30;

/// How many bytes a value of ours takes.
pub(crate) fn encoded_bytes<T: Serialize>(value: &T) -> u64 {
    options(ENCODED_BYTES_MAX)
        .serialized_size(value)
        .unwrap_or(0)
}

pub(crate) fn encode<T: Serialize>(what: &'static str, value: &T) -> Result<Vec<u8>, CodecError> {
    options(ENCODED_BYTES_MAX)
        .serialize(value)
        .map_err(|cause| CodecError::new("cannot encode", what, cause))
}

/// Decodes `bytes`, all of them. They must have been checked (crc) before.
pub(crate) fn decode<T: DeserializeOwned>(
    what: &'static str,
    bytes: &[u8],
) -> Result<T, CodecError> {
    options((bytes.len() as u64).min(ENCODED_BYTES_MAX))
        .deserialize(bytes)
        .map_err(|cause| CodecError::new("cannot decode", what, cause))
}
