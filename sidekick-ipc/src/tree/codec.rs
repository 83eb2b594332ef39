//! The bytes of the words: bincode with fixed-width integers, from slices only, with a limit, no trailing bytes.

use bincode::Options;
use serde::Serialize;
use serde::de::DeserializeOwned;

use super::{
    CheckpointKind, REPLY_BYTES_MAX, REQUEST_BYTES_MAX, StoreOp, StoreQuery, StoreResult,
    WatchBatch,
};

/// Bytes before the words in a request: the number up to which the game has taken its answers.
const ACKED_BYTES: usize = 8;

/// Why bytes are not the words they should be.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum WordsError {
    /// Too many bytes.
    #[error("{what}: {bytes} bytes, the limit is {max}")]
    TooLarge {
        /// What it should be.
        what: &'static str,
        /// How many.
        bytes: usize,
        /// How many there may be.
        max: usize,
    },
    /// Not the encoding of this, or one that breaks a rule such as those of paths.
    #[error("{what}: {cause}")]
    Malformed {
        /// What it should be.
        what: &'static str,
        /// What is wrong.
        cause: String,
    },
}

/// What travels between game and store.
pub trait Words: Serialize + DeserializeOwned {
    /// What it is, for errors.
    const WHAT: &'static str;
    /// Largest encoding.
    const BYTES_MAX: usize;

    /// Appends its bytes to `out`.
    ///
    /// # Errors
    /// [`WordsError::TooLarge`]; `out` is as before.
    fn encode_into(&self, out: &mut Vec<u8>) -> Result<(), WordsError> {
        let before = out.len();
        let result = options(Self::BYTES_MAX).serialize_into(&mut *out, self);
        result.map_err(|cause| {
            out.truncate(before);
            match *cause {
                bincode::ErrorKind::SizeLimit => WordsError::TooLarge {
                    what: Self::WHAT,
                    bytes: bincode::serialized_size(self).map_or(usize::MAX, |bytes| {
                        usize::try_from(bytes).unwrap_or(usize::MAX)
                    }),
                    max: Self::BYTES_MAX,
                },
                cause => WordsError::Malformed {
                    what: Self::WHAT,
                    cause: cause.to_string(),
                },
            }
        })
    }

    /// Its bytes.
    ///
    /// # Errors
    /// [`WordsError::TooLarge`].
    fn encode(&self) -> Result<Vec<u8>, WordsError> {
        let mut out = Vec::new();
        self.encode_into(&mut out)?;
        Ok(out)
    }

    /// Reads `bytes`, all of them, from whoever wrote them.
    ///
    /// # Errors
    /// [`WordsError`]: they are not one.
    fn decode(bytes: &[u8]) -> Result<Self, WordsError> {
        if bytes.len() > Self::BYTES_MAX {
            return Err(WordsError::TooLarge {
                what: Self::WHAT,
                bytes: bytes.len(),
                max: Self::BYTES_MAX,
            });
        }
        options(Self::BYTES_MAX)
            .deserialize(bytes)
            .map_err(|cause| WordsError::Malformed {
                what: Self::WHAT,
                cause: cause.to_string(),
            })
    }
}

fn options(limit: usize) -> impl Options {
    bincode::DefaultOptions::new()
        .with_fixint_encoding()
        .with_limit(limit as u64)
        .reject_trailing_bytes()
}

impl Words for StoreOp {
    const WHAT: &'static str = "store op";
    const BYTES_MAX: usize = REQUEST_BYTES_MAX;
}

impl Words for StoreQuery {
    const WHAT: &'static str = "store query";
    const BYTES_MAX: usize = REQUEST_BYTES_MAX;
}

impl Words for StoreResult {
    const WHAT: &'static str = "store result";
    const BYTES_MAX: usize = REPLY_BYTES_MAX;
}

impl Words for WatchBatch {
    const WHAT: &'static str = "watch events";
    const BYTES_MAX: usize = REPLY_BYTES_MAX;
}

/// The bytes of a request as they ride in its frames, put together: `[acked u64][words]`. Every answer up to and with
/// `acked` was taken by the game.
///
/// # Errors
/// [`WordsError::TooLarge`].
pub fn encode_request(acked: u64, words: &impl Words) -> Result<Vec<u8>, WordsError> {
    let mut out = acked.to_le_bytes().to_vec();
    words.encode_into(&mut out)?;
    Ok(out)
}

/// As [`encode_request`], of whatever serializes as such words do, appended to `out`.
///
/// # Errors
/// [`WordsError::TooLarge`]; `out` is as before.
pub fn encode_request_into(
    acked: u64,
    words: &impl Serialize,
    out: &mut Vec<u8>,
) -> Result<(), WordsError> {
    let before = out.len();
    out.extend_from_slice(&acked.to_le_bytes());
    let result = options(REQUEST_BYTES_MAX).serialize_into(&mut *out, words);
    result.map_err(|cause| {
        out.truncate(before);
        match *cause {
            bincode::ErrorKind::SizeLimit => WordsError::TooLarge {
                what: "store request",
                bytes: bincode::serialized_size(words).map_or(usize::MAX, |bytes| {
                    usize::try_from(bytes).unwrap_or(usize::MAX)
                }),
                max: REQUEST_BYTES_MAX,
            },
            cause => WordsError::Malformed {
                what: "store request",
                cause: cause.to_string(),
            },
        }
    })
}

/// What the first bytes of a request say if it is about a checkpoint, without a look at its value: the key, and the kind
/// of a [`StoreOp::Checkpoint`]; none for a [`StoreOp::Loaded`].
pub fn peek_checkpoint(request: &[u8]) -> Option<(&str, Option<CheckpointKind>)> {
    const CHECKPOINT: u32 = 7;
    const LOADED: u32 = 8;
    let (_acked, words) = request.split_first_chunk::<ACKED_BYTES>()?;
    let peek = || options(PEEK_BYTES_MAX).allow_trailing_bytes();
    match words.first_chunk::<4>().map(|of| u32::from_le_bytes(*of))? {
        CHECKPOINT => {
            let (_, key, kind): (u32, &str, CheckpointKind) = peek().deserialize(words).ok()?;
            Some((key, Some(kind)))
        }
        LOADED => {
            let (_, key): (u32, &str) = peek().deserialize(words).ok()?;
            Some((key, None))
        }
        _ => None,
    }
}

/// Bytes of an op that [`peek_checkpoint`] reads at most: a key of any length that is allowed, and the words around it.
const PEEK_BYTES_MAX: usize = 64 + super::CHECKPOINT_KEY_BYTES_MAX;

/// Largest request with what stands before its words.
pub const REQUEST_PAYLOAD_BYTES_MAX: usize = REQUEST_BYTES_MAX + ACKED_BYTES;

/// Takes a request apart. `None` when not even the number is whole; the number counts also when the words are bad.
pub fn decode_request<T: Words>(bytes: &[u8]) -> Option<(u64, Result<T, WordsError>)> {
    let (acked, words) = bytes.split_first_chunk::<ACKED_BYTES>()?;
    Some((u64::from_le_bytes(*acked), T::decode(words)))
}
