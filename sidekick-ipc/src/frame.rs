//! One frame: header, checksum, kinds, and what the payloads of the kinds hold.
//!
//! ```text
//! w0  0x5A5A:16 | kind:16 | len:32
//! w1  sequence number
//! w2  monotonic ns
//! w3  flags:32 | crc:32
//! payload, zero-padded to 8 bytes
//! ```
//!
//! Words are little-endian. The crc (CRC-32) is seeded with the session's UUID and covers the header, its own field
//! taken as zero, and the payload. It is not for torn writes, which the commit word hides, but for wild ones; it is
//! stored unchanged and checked again at upload.

mod missing;
mod record;
mod seal;
mod walk;

pub use missing::{Gap, Hole, gap_cause, hole_cause};
pub(crate) use record::is_reserved_record;
pub use record::{RESERVED_STREAM_PREFIX, Record};
pub(crate) use seal::{append_flagged_frame, sealed_header, verify_copy};
pub use seal::{append_frame, crc_seed, seal};
pub use walk::{FrameView, Frames, frames};

/// Bytes of a frame before its payload.
pub const FRAME_HEADER_BYTES: usize = 32;
/// Largest payload of a frame: 64 KiB. Bounds every allocation that a hostile length could ask for.
pub const RECORD_BYTES_MAX: usize = 64 << 10;
/// Largest frame, padding included.
pub const FRAME_BYTES_MAX: usize = FRAME_HEADER_BYTES + RECORD_BYTES_MAX;
/// Bytes of a request's body that one frame carries; a longer one goes on in the next frame.
pub const FRAGMENT_BYTES: usize = RECORD_BYTES_MAX;
/// [`FrameHeader::flags`]: the value goes on in the next frame.
pub const FLAG_MORE: u32 = 1;
/// [`FrameHeader::flags`]: the value began in an earlier frame.
pub const FLAG_CONTINUED: u32 = 2;
/// Longest stream name in bytes; its length rides in one byte.
pub const STREAM_NAME_BYTES_MAX: usize = 255;

const MAGIC: u16 = 0x5A5A;

/// What a frame holds.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u16)]
pub enum FrameKind {
    /// A record, see [`Record`].
    Record = 1,
    /// Records that the engine refused, see [`Gap`]. Has a sequence number of its own.
    Gap = 2,
    /// Sequence numbers that are lost, see [`Hole`]. Made by the reader, never accepted from a ring.
    Hole = 3,
    /// A write to the store that the watchdog keeps, see [`crate::request`]. Durable and in order with the records.
    Op = 4,
    /// A question to the store, see [`crate::request`].
    Query = 5,
    /// A message of the downlink, see [`crate::message`].
    Message = 16,
}

impl FrameKind {
    /// The kind with this number.
    pub fn from_u16(kind: u16) -> Option<FrameKind> {
        match kind {
            1 => Some(FrameKind::Record),
            2 => Some(FrameKind::Gap),
            3 => Some(FrameKind::Hole),
            4 => Some(FrameKind::Op),
            5 => Some(FrameKind::Query),
            16 => Some(FrameKind::Message),
            _ => None,
        }
    }

    /// Whether a frame of this kind may come from the engine.
    pub fn is_uplink(kind: u16) -> bool {
        matches!(
            FrameKind::from_u16(kind),
            Some(FrameKind::Record | FrameKind::Gap | FrameKind::Op | FrameKind::Query)
        )
    }

    /// Whether a frame of this kind is (a part of) a request: see [`crate::request`].
    pub fn is_request(kind: u16) -> bool {
        matches!(
            FrameKind::from_u16(kind),
            Some(FrameKind::Op | FrameKind::Query)
        )
    }

    /// Whether a frame of this kind may come from the watchdog.
    pub fn is_downlink(kind: u16) -> bool {
        FrameKind::from_u16(kind) == Some(FrameKind::Message)
    }
}

/// What stands before the payload.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct FrameHeader {
    /// [`FrameKind`] as a number.
    pub kind: u16,
    /// Bytes of payload, without padding.
    pub len: u32,
    /// Sequence number, dense in a session from 1.
    pub seq: u64,
    /// Writer's monotonic clock, ns.
    pub monotonic_ns: u64,
    /// [`FLAG_MORE`] and [`FLAG_CONTINUED`]; 0 for a frame that stands alone.
    pub flags: u32,
    /// Checksum.
    pub crc: u32,
}

impl FrameHeader {
    /// Reads the words; `None` when the magic or the length cannot be right.
    pub fn from_words(words: [u64; 4]) -> Option<FrameHeader> {
        let [w0, seq, monotonic_ns, w3] = words;
        let header = FrameHeader {
            kind: (w0 >> 32) as u16,
            len: w0 as u32,
            seq,
            monotonic_ns,
            flags: (w3 >> 32) as u32,
            crc: w3 as u32,
        };
        ((w0 >> 48) as u16 == MAGIC && header.len as usize <= RECORD_BYTES_MAX).then_some(header)
    }

    /// The words as they stand in memory.
    pub fn to_words(self) -> [u64; 4] {
        [
            u64::from(MAGIC) << 48 | u64::from(self.kind) << 32 | u64::from(self.len),
            self.seq,
            self.monotonic_ns,
            u64::from(self.flags) << 32 | u64::from(self.crc),
        ]
    }

    /// Bytes of the whole frame, padding included.
    pub fn frame_bytes(&self) -> usize {
        frame_bytes(self.len as usize)
    }

    fn to_bytes(self) -> [u8; FRAME_HEADER_BYTES] {
        let mut bytes = [0; FRAME_HEADER_BYTES];
        for (to, word) in bytes.chunks_exact_mut(8).zip(self.to_words()) {
            to.copy_from_slice(&word.to_le_bytes());
        }
        bytes
    }

    fn from_bytes(bytes: &[u8; FRAME_HEADER_BYTES]) -> Option<FrameHeader> {
        let mut words = [0u64; 4];
        let (chunks, _) = bytes.as_chunks::<8>();
        for (word, chunk) in words.iter_mut().zip(chunks) {
            *word = u64::from_le_bytes(*chunk);
        }
        FrameHeader::from_words(words)
    }
}

/// Bytes of a frame with a payload of `payload_bytes`, padding included.
pub const fn frame_bytes(payload_bytes: usize) -> usize {
    (payload_bytes.saturating_add(7) & !7).saturating_add(FRAME_HEADER_BYTES)
}

/// Why a run of bytes is not a run of frames.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum FrameError {
    /// The bytes end inside a frame.
    #[error("{bytes} bytes are left, the frame needs {need}")]
    Short {
        /// Bytes there.
        bytes: usize,
        /// Bytes needed.
        need: usize,
    },
    /// No frame starts here.
    #[error("no frame starts here: wrong magic, or a length beyond {RECORD_BYTES_MAX} bytes")]
    Magic,
    /// The checksum is another one.
    #[error("frame {seq} has crc {found:#010x}, its bytes give {computed:#010x}")]
    Crc {
        /// Sequence number as the frame says.
        seq: u64,
        /// Crc in the frame.
        found: u32,
        /// Crc of its bytes.
        computed: u32,
    },
    /// The payload is not what its kind says.
    #[error("a payload of {bytes} bytes does not hold a {what}")]
    Payload {
        /// Kind of payload.
        what: &'static str,
        /// Bytes there.
        bytes: usize,
    },
}

#[cfg(test)]
mod tests;
