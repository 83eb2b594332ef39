//! The payloads that tell of records which are not there: refused ones, and numbers that are lost.

use super::{FrameError, Record};

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

/// Payload of a [`FrameKind::Gap`](super::FrameKind::Gap): records that the engine refused, which have no sequence numbers.
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

/// Payload of a [`FrameKind::Hole`](super::FrameKind::Hole): `count` sequence numbers from the frame's own on are lost.
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
