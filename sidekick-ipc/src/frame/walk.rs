//! The frames of a slab, one after the other.

use uuid::Uuid;

use super::seal::{crc_apart, crc_seed};
use super::{FRAME_HEADER_BYTES, FrameError, FrameHeader};

/// A frame in a slab.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct FrameView<'a> {
    /// Its header.
    pub header: FrameHeader,
    /// Its payload without padding.
    pub payload: &'a [u8],
}

/// Walks the frames of `bytes`, and checks length, magic and crc of each. An error ends the walk.
pub fn frames<'a>(bytes: &'a [u8], epoch: &Uuid) -> Frames<'a> {
    Frames {
        rest: bytes,
        seed: crc_seed(epoch),
    }
}

/// See [`frames`].
#[derive(Clone, Debug)]
pub struct Frames<'a> {
    rest: &'a [u8],
    seed: u32,
}

impl<'a> Iterator for Frames<'a> {
    type Item = Result<FrameView<'a>, FrameError>;

    fn next(&mut self) -> Option<Self::Item> {
        if self.rest.is_empty() {
            return None;
        }
        let result = self.step();
        if result.is_err() {
            self.rest = &[];
        }
        Some(result)
    }
}

impl<'a> Frames<'a> {
    fn step(&mut self) -> Result<FrameView<'a>, FrameError> {
        let rest = self.rest;
        let Some(head) = rest.first_chunk::<FRAME_HEADER_BYTES>() else {
            return Err(FrameError::Short {
                bytes: rest.len(),
                need: FRAME_HEADER_BYTES,
            });
        };
        let header = FrameHeader::from_bytes(head).ok_or(FrameError::Magic)?;
        let need = header.frame_bytes();
        let end = FRAME_HEADER_BYTES.saturating_add(header.len as usize);
        let (Some(payload), Some(next)) = (rest.get(FRAME_HEADER_BYTES..end), rest.get(need..))
        else {
            return Err(FrameError::Short {
                bytes: rest.len(),
                need,
            });
        };
        let computed = crc_apart(self.seed, header, payload);
        if computed != header.crc {
            return Err(FrameError::Crc {
                seq: header.seq,
                found: header.crc,
                computed,
            });
        }
        self.rest = next;
        Ok(FrameView { header, payload })
    }
}
