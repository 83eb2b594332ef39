//! What a frame was of which one byte is another one.
//!
//! A crc tells more than that something is wrong. How far it is off depends on which bytes were changed and how, and on nothing
//! else that the frame holds. So for each byte there is at most one change that explains it, for most bytes there is none, and
//! where one byte was changed, that change is among those that are found. Whether it was this one, and not a larger damage that
//! happens to look like it, is told by what else is known: the frames before and behind name a crc, and commands and records
//! have checksums of their own, among them one that is no crc (`command::batch`).
//!
//! Nothing is changed on the disk: whoever reads such a frame mends what was read.

use std::fs::File;
use std::io;
use std::path::Path;

use super::BATCH_BYTES_MAX;
use super::frame::{FRAME_HEAD_BYTES, FrameHead, Kind, broken, frame_bytes, salted};
use super::segment::read_exact_at;

/// Longer payloads are not mended.
const MENDED_BYTES_MAX: usize = 2 * BATCH_BYTES_MAX;
/// A payload that has no checksum of its own is mended up to this length. One in 16,000 larger damages in one that is as
/// long looks like a change of one byte.
const UNPROVED_BYTES_MAX: usize = 1024;
/// Where the length lies in a frame's head.
const LENGTH_AT: usize = 0;
/// Where the crc lies.
const CRC_AT: usize = 4;
/// What lies from here on is covered by the crc.
const COVERED_AT: usize = 8;

/// Whether the payload of an entry with commands is what was written, by the checksums in it. If it is said to be changed so that the
/// crc is right, it takes one of another kind to tell: where one crc is right by chance, so is every other one over the same bytes.
pub(crate) type IsWhole = fn(&[u8], bool) -> bool;

/// A byte on the disk that is not what was written; what was written is known.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct MendedByte {
    /// The segment's number.
    pub(crate) segment: u64,
    /// Where in it.
    pub(crate) at: u64,
}

impl MendedByte {
    /// Tells the operator of it; `path` is its segment.
    pub(super) fn tell(&self, path: &Path) {
        tracing::warn!(
            ?path,
            byte = self.at,
            "a byte of the log is not what was written; what it was is known, and nothing is lost, but the disk wants a look"
        );
    }
}

/// A frame of which a byte was mended.
#[derive(Debug)]
pub(super) struct Mended {
    pub(super) head: FrameHead,
    /// Head and payload, as they were written.
    pub(super) frame: Vec<u8>,
    /// Where in the file the byte is.
    pub(super) at: u64,
}

/// A segment's file, and how its frames are known.
#[derive(Clone, Copy, Debug)]
pub(super) struct Mender<'a> {
    pub(super) file: &'a File,
    pub(super) file_bytes: u64,
    pub(super) salt: u64,
    pub(super) is_whole: IsWhole,
}

impl Mender<'_> {
    /// The frame at `at` of the file, where all of it but one byte is what was written. `previous` is the crc of the frame before, if
    /// that is known.
    pub(super) fn mend(&self, at: u64, previous: Option<u32>) -> io::Result<Option<Mended>> {
        if broken::get(broken::Without::Mending) {
            return Ok(None);
        }
        let Some(head) = self.read(at, FRAME_HEAD_BYTES)? else {
            return Ok(None);
        };
        if head.iter().all(|byte| *byte == 0) {
            // Nothing was written here.
            return Ok(None);
        }
        let len = word(&head, LENGTH_AT) as usize;
        if let Some(frame) = self.read(at, FRAME_HEAD_BYTES.saturating_add(len))? {
            let changes = changes(&frame, self.salt);
            if let Some(mended) = self.choose(at, previous, frame, &changes)? {
                return Ok(Some(mended));
            }
        }
        // If it is the length, the rest of the head is as it was written.
        let mut any_length = head;
        any_length[LENGTH_AT..CRC_AT].fill(0);
        let is_head = FrameHead::parse(&any_length)
            .is_some_and(|head| previous.is_none_or(|crc| head.follows(crc)));
        if !is_head {
            return Ok(None);
        }
        let left = self.file_bytes.saturating_sub(at);
        let most = left.min((FRAME_HEAD_BYTES + MENDED_BYTES_MAX) as u64);
        let Some(bytes) = self.read(at, most as usize)? else {
            return Ok(None);
        };
        let changes = changed_lengths(&bytes, self.salt);
        self.choose(at, previous, bytes, &changes)
    }

    /// Makes that one of `changes` in `bytes` (place, and what is added there) which gives a frame that can be proved, if it is one
    /// alone.
    fn choose(
        &self,
        at: u64,
        previous: Option<u32>,
        mut bytes: Vec<u8>,
        changes: &[(usize, u8)],
    ) -> io::Result<Option<Mended>> {
        let mut found = None;
        for &(place, change) in changes {
            bytes[place] ^= change;
            let head = self.prove(at, previous, &bytes, place)?;
            bytes[place] ^= change;
            if let Some(head) = head
                && found.replace((place, change, head)).is_some()
            {
                return Ok(None);
            }
        }
        Ok(found.map(|(place, change, head)| {
            bytes[place] ^= change;
            bytes.truncate(FRAME_HEAD_BYTES + head.len as usize);
            Mended {
                head,
                frame: bytes,
                at: at + place as u64,
            }
        }))
    }

    /// The head of the frame at `at` of which `bytes` are a guess, changed at `place`, if all that is known speaks for it.
    fn prove(
        &self,
        at: u64,
        previous: Option<u32>,
        bytes: &[u8],
        place: usize,
    ) -> io::Result<Option<FrameHead>> {
        let Some(head) = FrameHead::parse(bytes).filter(|head| head.verify(bytes, self.salt))
        else {
            return Ok(None);
        };
        let end = at + frame_bytes(head.len as usize) as u64;
        if end > self.file_bytes || previous.is_some_and(|crc| !head.follows(crc)) {
            return Ok(None);
        }
        let payload = &bytes[FRAME_HEAD_BYTES..FRAME_HEAD_BYTES + head.len as usize];
        let is_changed = place >= FRAME_HEAD_BYTES;
        let is_proved = match head.kind {
            Kind::Normal => (self.is_whole)(payload, is_changed),
            _ => payload.len() <= UNPROVED_BYTES_MAX,
        };
        if !is_proved {
            return Ok(None);
        }
        let next = self.whole(end)?;
        Ok(next
            .is_none_or(|next| next.follows(head.crc))
            .then_some(head))
    }

    /// The head of the frame at `at`, if it is whole.
    fn whole(&self, at: u64) -> io::Result<Option<FrameHead>> {
        let head = self.read(at, FRAME_HEAD_BYTES)?;
        let Some(head) = head.and_then(|head| FrameHead::parse(&head)) else {
            return Ok(None);
        };
        let frame = self.read(at, FRAME_HEAD_BYTES.saturating_add(head.len as usize))?;
        let is_whole = frame.is_some_and(|frame| head.verify(&frame, self.salt));
        Ok(is_whole.then_some(head))
    }

    /// So many bytes of the file, if there are as many and no more than a frame has that is mended.
    fn read(&self, at: u64, len: usize) -> io::Result<Option<Vec<u8>>> {
        let left = self.file_bytes.saturating_sub(at);
        if len as u64 > left || len > FRAME_HEAD_BYTES + MENDED_BYTES_MAX {
            return Ok(None);
        }
        let mut bytes = vec![0; len];
        read_exact_at(self.file, &mut bytes, at)?;
        Ok(Some(bytes))
    }
}

fn word(bytes: &[u8], at: usize) -> u32 {
    let word = bytes.get(at..).and_then(|bytes| bytes.first_chunk());
    u32::from_le_bytes(*word.unwrap_or(&[0; 4]))
}

/// The changes of one byte that make `frame`, all of it, one with the right crc; none of its length.
fn changes(frame: &[u8], salt: u64) -> Vec<(usize, u8)> {
    let Some(covered) = frame.get(COVERED_AT..) else {
        return Vec::new();
    };
    let mut hasher = salted(salt);
    hasher.update(covered);
    let difference = hasher.finalize() ^ word(frame, CRC_AT);
    let in_crc = change_of_crc(difference).map(|(place, change)| (CRC_AT + place, change));
    let in_covered = changes_of(covered.len(), difference);
    let in_covered = in_covered.map(|(place, change)| (COVERED_AT + place, change));
    in_covered.chain(in_crc).collect()
}

/// The changes of a byte of the length that make a frame with the right crc out of the first of `bytes`.
fn changed_lengths(bytes: &[u8], salt: u64) -> Vec<(usize, u8)> {
    let len = word(bytes, LENGTH_AT);
    let mut lengths: Vec<(usize, usize, u8)> = (0..4_usize)
        .flat_map(|place| (1..=u8::MAX).map(move |change| (place, change)))
        .map(|(place, change)| {
            let other = len ^ u32::from(change) << (8 * place);
            (other as usize, LENGTH_AT + place, change)
        })
        .collect();
    lengths.sort_unstable();
    let mut hasher = salted(salt);
    let mut at = COVERED_AT;
    let mut found = Vec::new();
    for (len, place, change) in lengths {
        let end = FRAME_HEAD_BYTES.saturating_add(len);
        let Some(more) = bytes.get(at..end) else {
            break;
        };
        hasher.update(more);
        at = end;
        if hasher.clone().finalize() == word(bytes, CRC_AT) {
            found.push((place, change));
        }
    }
    found
}

/// The change of a crc's own byte that makes up for `difference`.
pub(super) fn change_of_crc(difference: u32) -> Option<(usize, u8)> {
    let bytes = difference.to_le_bytes();
    let place = bytes.iter().position(|byte| *byte != 0)?;
    let change = bytes[place];
    (difference == u32::from(change) << (8 * place)).then_some((place, change))
}

/// The changes of one of `len` bytes that make up for `difference` in a crc of all of them, from the last byte on.
///
/// A change is undone backwards: the upper byte of a crc tells which byte's entry of the table went in last.
pub(super) fn changes_of(len: usize, difference: u32) -> impl Iterator<Item = (usize, u8)> {
    let mut state = difference;
    let places = if difference == 0 { 0 } else { len };
    (0..places).rev().filter_map(move |place| {
        let last = UPPER[(state >> 24) as usize];
        let before = state ^ ADDED[usize::from(last)];
        state = before << 8 | u32::from(last);
        (before == 0).then_some((place, last))
    })
}

/// What each byte adds to a CRC-32.
const ADDED: [u32; 256] = added();
/// Which byte adds something with this upper byte; each has one of its own.
const UPPER: [u8; 256] = upper();

const fn added() -> [u32; 256] {
    let mut added = [0; 256];
    let mut byte = 0;
    while byte < 256 {
        let mut crc = byte as u32;
        let mut bit = 0;
        while bit < 8 {
            let is_odd = crc & 1 == 1;
            crc >>= 1;
            if is_odd {
                crc ^= 0xEDB8_8320;
            }
            bit += 1;
        }
        added[byte] = crc;
        byte += 1;
    }
    added
}

const fn upper() -> [u8; 256] {
    let mut upper = [0; 256];
    let mut byte = 0;
    while byte < 256 {
        upper[(ADDED[byte] >> 24) as usize] = byte as u8;
        byte += 1;
    }
    upper
}

#[cfg(test)]
mod tests;
