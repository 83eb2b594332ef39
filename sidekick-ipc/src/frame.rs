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

use crc32fast::Hasher;
use uuid::Uuid;

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

/// The crc's start value in the session `epoch`. A frame of another session never passes.
pub fn crc_seed(epoch: &Uuid) -> u32 {
    crc32fast::hash(epoch.as_bytes())
}

/// Fills in the header of `frame`, whose payload of `payload_bytes` stands from byte 32 on, and returns the crc.
///
/// `frame` ends with the payload or its padding; shorter ones are left alone.
pub fn seal(
    frame: &mut [u8],
    seed: u32,
    kind: u16,
    payload_bytes: usize,
    seq: u64,
    monotonic_ns: u64,
) -> u32 {
    let header = FrameHeader {
        kind,
        len: payload_bytes as u32,
        seq,
        monotonic_ns,
        flags: 0,
        crc: 0,
    };
    let Some(covered) = frame.get_mut(..FRAME_HEADER_BYTES.saturating_add(payload_bytes)) else {
        return 0;
    };
    if let Some(head) = covered.first_chunk_mut::<FRAME_HEADER_BYTES>() {
        *head = header.to_bytes();
    }
    let crc = crc_of(seed, covered);
    if let Some(field) = covered.get_mut(24..28) {
        field.copy_from_slice(&crc.to_le_bytes());
    }
    crc
}

/// The header of a frame whose payload lies elsewhere.
pub(crate) fn sealed_header(
    seed: u32,
    kind: u16,
    flags: u32,
    payload: &[u8],
    seq: u64,
    monotonic_ns: u64,
) -> [u8; FRAME_HEADER_BYTES] {
    let header = FrameHeader {
        kind,
        len: payload.len() as u32,
        seq,
        monotonic_ns,
        flags,
        crc: 0,
    };
    let mut hasher = Hasher::new_with_initial(seed);
    hasher.update(&header.to_bytes());
    hasher.update(payload);
    FrameHeader {
        crc: hasher.finalize(),
        ..header
    }
    .to_bytes()
}

/// Checks a frame that was copied out of shared memory. Sets its padding to zero.
pub(crate) fn verify_copy(frame: &mut [u8], seed: u32) -> Result<FrameHeader, FrameError> {
    let header = match frame.first_chunk::<FRAME_HEADER_BYTES>() {
        Some(head) => FrameHeader::from_bytes(head).ok_or(FrameError::Magic)?,
        None => {
            return Err(FrameError::Short {
                bytes: frame.len(),
                need: FRAME_HEADER_BYTES,
            });
        }
    };
    let end = FRAME_HEADER_BYTES.saturating_add(header.len as usize);
    if frame.len() < end {
        return Err(FrameError::Short {
            bytes: frame.len(),
            need: end,
        });
    }
    let (covered, padding) = frame.split_at_mut(end);
    padding.fill(0);
    if let Some(field) = covered.get_mut(24..28) {
        field.fill(0);
    }
    let crc = crc_of(seed, covered);
    if let Some(field) = covered.get_mut(24..28) {
        field.copy_from_slice(&header.crc.to_le_bytes());
    }
    if crc != header.crc {
        return Err(FrameError::Crc {
            seq: header.seq,
            found: header.crc,
            computed: crc,
        });
    }
    Ok(header)
}

#[inline]
fn crc_of(seed: u32, bytes: &[u8]) -> u32 {
    let mut hasher = Hasher::new_with_initial(seed);
    hasher.update(bytes);
    hasher.finalize()
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
        let mut hasher = Hasher::new_with_initial(self.seed);
        hasher.update(&FrameHeader { crc: 0, ..header }.to_bytes());
        hasher.update(payload);
        let computed = hasher.finalize();
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

/// Appends one frame of session `epoch` to `out`. `payload` is at most [`RECORD_BYTES_MAX`] bytes; a longer one is
/// cut off there.
pub fn append_frame(
    out: &mut Vec<u8>,
    epoch: &Uuid,
    kind: u16,
    seq: u64,
    monotonic_ns: u64,
    payload: &[u8],
) {
    append_flagged_frame(out, crc_seed(epoch), kind, 0, seq, monotonic_ns, payload);
}

pub(crate) fn append_flagged_frame(
    out: &mut Vec<u8>,
    seed: u32,
    kind: u16,
    flags: u32,
    seq: u64,
    monotonic_ns: u64,
    payload: &[u8],
) {
    let payload = payload.get(..RECORD_BYTES_MAX).unwrap_or(payload);
    let start = out.len();
    let header = sealed_header(seed, kind, flags, payload, seq, monotonic_ns);
    out.extend_from_slice(&header);
    out.extend_from_slice(payload);
    out.resize(start.saturating_add(frame_bytes(payload.len())), 0);
}

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

/// Why the engine refused records, see [`Gap::cause`].
pub mod gap_cause {
    /// The engine died before it could tell why.
    pub const UNKNOWN: u8 = 0;
    /// Ring (and spill, if allowed) had no room.
    pub const FULL: u8 = 1;
    /// The spill file could not be written.
    pub const SPILL_FAILED: u8 = 2;
    /// The watchdog's disk quota is nearly used up, and the stream is none that is kept then.
    pub const QUOTA: u8 = 3;
}

/// Why sequence numbers are missing, see [`Hole::cause`].
pub mod hole_cause {
    /// The ring's bytes were damaged; a copy lies in `quarantine/`.
    pub const CORRUPT: u8 = 1;
    /// The reader stands before what is still there (a store restored from a backup).
    pub const OVERWRITTEN: u8 = 2;
    /// The previous rotation ended before the number with which this one starts.
    pub const ROTATED: u8 = 3;
    /// A spill file is missing or damaged.
    pub const SPILL: u8 = 4;
    /// The session ended and nobody knows what its ring still held from this number on: one record or many.
    pub const TAIL_UNKNOWN: u8 = 5;
    /// The record was of a stream that only the watchdog may write to.
    pub const RESERVED: u8 = 6;
    /// The operator's rules leave the record out: nothing is lost that was wanted.
    pub const RULE: u8 = 7;
    /// The operator's rules would have taken something out of the record, and it could not be read.
    pub const RULE_FAILED: u8 = 8;
    /// The watchdog's log was damaged on the disk after the record was stored.
    pub const ROTTEN: u8 = 9;
    /// A record like it was taken before; a reader's view of a stored record, never written.
    pub const DUPLICATE: u8 = 10;
    /// The record is part of an aggregate, which goes in its place; a reader's view of a stored record, never written.
    pub const AGGREGATED: u8 = 11;
}

/// Payload of a [`FrameKind::Gap`]: records that the engine refused, which have no sequence numbers.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Gap {
    /// Number of refused records.
    pub count: u64,
    /// Sum of their payloads' bytes.
    pub bytes: u64,
    /// Engine's monotonic clock at the first.
    pub first_monotonic_ns: u64,
    /// Engine's monotonic clock at the last.
    pub last_monotonic_ns: u64,
    /// See [`gap_cause`].
    pub cause: u8,
}

impl Gap {
    /// Bytes of the encoding.
    pub const BYTES: usize = 33;

    /// Appends the encoding: four little-endian u64 and a byte.
    pub fn encode(&self, out: &mut Vec<u8>) {
        for word in [
            self.count,
            self.bytes,
            self.first_monotonic_ns,
            self.last_monotonic_ns,
        ] {
            out.extend_from_slice(&word.to_le_bytes());
        }
        out.push(self.cause);
    }

    /// Reads the encoding.
    ///
    /// # Errors
    /// [`FrameError::Payload`] when it is not [`Gap::BYTES`] long.
    pub fn parse(payload: &[u8]) -> Result<Gap, FrameError> {
        let error = FrameError::Payload {
            what: "gap",
            bytes: payload.len(),
        };
        let (words, rest) = payload.as_chunks::<8>();
        let ([a, b, c, d], [cause]) = (words, rest) else {
            return Err(error);
        };
        Ok(Gap {
            count: u64::from_le_bytes(*a),
            bytes: u64::from_le_bytes(*b),
            first_monotonic_ns: u64::from_le_bytes(*c),
            last_monotonic_ns: u64::from_le_bytes(*d),
            cause: *cause,
        })
    }
}

/// Payload of a [`FrameKind::Hole`]: `count` sequence numbers from the frame's own on are lost.
///
/// A hole that stands in the place of a frame has its size: the encoding is followed by the stream of the record that is lost, as a record
/// begins (a length of 0 where it is not known), and zeros. Where there is no room for the encoding, a cause alone tells of one number.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Hole {
    /// How many numbers.
    pub count: u64,
    /// See [`hole_cause`].
    pub cause: u8,
}

impl Hole {
    /// Bytes of the encoding, of which a payload may have more.
    pub const BYTES: usize = 9;

    /// Appends the encoding: a little-endian u64 and a byte.
    pub fn encode(&self, out: &mut Vec<u8>) {
        out.extend_from_slice(&self.count.to_le_bytes());
        out.push(self.cause);
    }

    /// The encoding in a payload of `bytes`; `None` where it has no room, or where `stream` has none.
    pub fn fill(&self, bytes: usize, stream: Option<&str>) -> Option<Vec<u8>> {
        let mut payload = Vec::with_capacity(bytes);
        match bytes < Hole::BYTES {
            true if self.count == 1 && stream.is_none() => payload.push(self.cause),
            true => return None,
            false => self.encode(&mut payload),
        }
        if let Some(stream) = stream {
            Record::encode_head(stream, &mut payload);
        }
        if payload.len() > bytes {
            return None;
        }
        payload.resize(bytes, 0);
        Some(payload)
    }

    /// The stream of the one record that is lost, where the hole knows it.
    pub fn stream(payload: &[u8]) -> Option<&str> {
        let name = payload.get(Hole::BYTES..)?;
        Record::parse(name).ok().map(|record| record.stream)
    }

    /// Reads the encoding.
    ///
    /// # Errors
    /// [`FrameError::Payload`] when it is empty.
    pub fn parse(payload: &[u8]) -> Result<Hole, FrameError> {
        let error = FrameError::Payload {
            what: "hole",
            bytes: payload.len(),
        };
        let (&first, rest) = payload.split_first().ok_or(error)?;
        let Some((count, &[cause, ..])) = payload.split_first_chunk::<8>() else {
            let is_short = rest.iter().all(|byte| *byte == 0);
            let hole = Hole {
                count: 1,
                cause: first,
            };
            return is_short.then_some(hole).ok_or(error);
        };
        Ok(Hole {
            count: u64::from_le_bytes(*count),
            cause,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn frames_come_back_as_they_were_appended() {
        let epoch = Uuid::from_u128(7);
        let mut out = Vec::new();
        let mut payload = Vec::new();
        Record::encode_head("chat.say", &mut payload);
        payload.extend_from_slice(b"0123456");
        append_frame(&mut out, &epoch, FrameKind::Record as u16, 1, 10, &payload);
        let gap = Gap {
            count: 3,
            bytes: 9,
            first_monotonic_ns: 1,
            last_monotonic_ns: 2,
            cause: 1,
        };
        let mut body = Vec::new();
        gap.encode(&mut body);
        append_frame(&mut out, &epoch, FrameKind::Gap as u16, 2, 11, &body);
        let hole = Hole {
            count: 5,
            cause: hole_cause::CORRUPT,
        };
        let mut body = Vec::new();
        hole.encode(&mut body);
        append_frame(&mut out, &epoch, FrameKind::Hole as u16, 3, 12, &body);

        let all: Vec<_> = frames(&out, &epoch).collect::<Result<_, _>>().unwrap();
        assert_eq!(all.len(), 3);
        let record = Record::parse(all[0].payload).unwrap();
        assert_eq!(
            (record.stream, record.variant),
            ("chat.say", &b"0123456"[..])
        );
        assert_eq!(Gap::parse(all[1].payload), Ok(gap));
        assert_eq!(Hole::parse(all[2].payload), Ok(hole));
        assert_eq!((all[2].header.seq, all[2].header.monotonic_ns), (3, 12));
    }

    #[test]
    fn every_flipped_bit_and_every_cut_is_noticed() {
        let epoch = Uuid::from_u128(7);
        let mut out = Vec::new();
        append_frame(&mut out, &epoch, 1, 1, 10, &[1, 1, b'a', 4, 5, 6, 7, 8]);
        for bit in 0..out.len() * 8 {
            let mut bad = out.clone();
            bad[bit / 8] ^= 1 << (bit % 8);
            assert!(frames(&bad, &epoch).any(|f| f.is_err()), "bit {bit}");
        }
        for cut in 1..out.len() {
            assert!(
                frames(&out[..cut], &epoch).any(|f| f.is_err()),
                "cut at {cut}"
            );
        }
        assert!(
            frames(&out, &Uuid::from_u128(8)).any(|f| f.is_err()),
            "another session's frame"
        );
    }

    #[test]
    fn a_record_needs_a_name() {
        assert!(Record::parse(&[]).is_err());
        assert!(Record::parse(&[0, 1, 2]).is_err());
        assert!(Record::parse(&[3, b'a']).is_err());
        assert!(Record::parse(&[1, 0xff]).is_err());
    }
}
