//! The payload of a record.

use super::{FrameError, FrameKind, STREAM_NAME_BYTES_MAX};

/// Payload of a [`FrameKind::Record`]: `[name_len u8][name, UTF-8][value in Godot's binary encoding]`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Record<'a> {
    /// Name of the stream, 1 to [`STREAM_NAME_BYTES_MAX`] bytes.
    pub stream: &'a str,
    /// The value as `var_to_bytes` gives it.
    pub variant: &'a [u8],
}

impl<'a> Record<'a> {
    /// Takes a payload apart.
    ///
    /// # Errors
    /// [`FrameError::Payload`] when the name is empty, cut short or not UTF-8.
    pub fn parse(payload: &'a [u8]) -> Result<Record<'a>, FrameError> {
        let error = FrameError::Payload {
            what: "record",
            bytes: payload.len(),
        };
        let (&name_bytes, rest) = payload.split_first().ok_or(error)?;
        let (name, variant) = rest.split_at_checked(name_bytes as usize).ok_or(error)?;
        let stream = std::str::from_utf8(name).map_err(|_| error)?;
        if stream.is_empty() {
            return Err(error);
        }
        Ok(Record { stream, variant })
    }

    /// Appends the name as it stands before the value. A name longer than [`STREAM_NAME_BYTES_MAX`] is cut at a
    /// character.
    pub fn encode_head(stream: &str, out: &mut Vec<u8>) {
        let mut end = stream.len().min(STREAM_NAME_BYTES_MAX);
        while !stream.is_char_boundary(end) {
            end = end.saturating_sub(1);
        }
        let name = stream.get(..end).unwrap_or_default();
        out.push(name.len() as u8);
        out.extend_from_slice(name.as_bytes());
    }
}

/// Streams whose names begin so are the watchdog's own: a game records to none of them.
pub const RESERVED_STREAM_PREFIX: &str = "sidekick.";

/// Whether a frame with this payload claims to be of a stream that only the watchdog may write to.
pub(crate) fn is_reserved_record(kind: u16, payload: &[u8]) -> bool {
    kind == FrameKind::Record as u16
        && payload
            .get(1..)
            .is_some_and(|rest| rest.starts_with(RESERVED_STREAM_PREFIX.as_bytes()))
        && payload.first().copied().unwrap_or(0) as usize >= RESERVED_STREAM_PREFIX.len()
}
