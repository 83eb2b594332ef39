//! Goes through the frames of one segment, and over what is damaged between them. Changes nothing.
//!
//! Of a frame in which one byte is another one it is known what it was (`mend`): it counts as whole, wherever it lies. Any other
//! bad frame is *damage* when it is proved that it had been whole once: another segment follows, or a later batch of
//! the same one, since a batch is only written after the one before it was fsynced. Otherwise it is where the log ends:
//! a batch was being written when the process or the machine went down, and nobody was told that it is durable.

use std::fs::File;
use std::io;

use super::BATCH_BYTES_MAX;
use super::frame::{FLAG_BATCH_START, FRAME_HEAD_BYTES, FrameHead, Kind, broken, frame_bytes};
use super::mend::{IsWhole, MendedByte, Mender};
use super::segment::{HEADER_BYTES, read_exact_at};

/// What lies at a place of a segment.
#[derive(Clone, Copy, Debug)]
pub(super) enum Piece {
    /// A whole frame that begins at this byte, or one of which a byte was mended.
    Frame(u64, FrameHead),
    /// Bytes that are not what was written, and nobody knows what that was.
    Damage(Damage),
}

/// Bytes of a segment that are not what was written, from one whole frame to the next.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Damage {
    /// The segment's number.
    pub(crate) segment: u64,
    /// The first byte.
    pub(crate) from: u64,
    /// The byte after the last one.
    pub(crate) to: u64,
    /// What lies where a head has to be, if it still looks like one. Nothing of it is certain.
    pub(super) claim: Option<FrameHead>,
    /// It was one frame, and not several.
    pub(super) is_one: bool,
}

/// A segment while its frames are read.
pub(super) struct Scan<'a> {
    window: Window<'a>,
    segment: u64,
    salt: u64,
    is_whole: IsWhole,
    /// No segment follows it.
    is_last: bool,
    /// Where the next frame begins.
    pub(super) position: u64,
    /// The crc of the frame before it.
    pub(super) previous: u32,
    /// Where the last batch begins.
    pub(super) batch_start: u64,
    /// The frame that says that the segment is complete was read.
    pub(super) sealed: bool,
    /// Bytes that are not what was written, where that is known.
    pub(super) mended: Vec<MendedByte>,
    /// Where the last frame begins that had to be mended, and its payload's first byte.
    first_byte: Option<(u64, u8)>,
    /// What is at `position` was found behind damage: it names a frame that nobody has read.
    is_resumed: bool,
    is_over: bool,
}

impl<'a> Scan<'a> {
    pub(super) fn new(
        file: &'a File,
        file_bytes: u64,
        segment: u64,
        salt: u64,
        is_whole: IsWhole,
        is_last: bool,
    ) -> Self {
        Self {
            window: Window {
                file,
                file_bytes,
                start: 0,
                bytes: Vec::new(),
            },
            segment,
            salt,
            is_whole,
            is_last,
            position: HEADER_BYTES,
            previous: 0,
            batch_start: HEADER_BYTES,
            sealed: false,
            mended: Vec::new(),
            first_byte: None,
            is_resumed: false,
            is_over: false,
        }
    }

    /// The next frame or damage; `None` at the segment's end.
    pub(super) fn next(&mut self) -> io::Result<Option<Piece>> {
        if self.sealed || self.is_over {
            return Ok(None);
        }
        let at = self.position;
        let whole = self.window.frame(at, self.salt)?;
        let whole = whole.filter(|head| self.is_resumed || head.follows(self.previous));
        let head = match whole {
            Some(head) => Some(head),
            None => self.mend(at)?,
        };
        let Some(head) = head else {
            return self.damage(at);
        };
        self.is_resumed = false;
        if head.flags & FLAG_BATCH_START != 0 {
            self.batch_start = at;
        }
        self.sealed = head.kind == Kind::Seal;
        self.previous = head.crc;
        self.position += frame_bytes(head.len as usize) as u64;
        Ok(Some(Piece::Frame(at, head)))
    }

    /// The first byte of the payload of the frame that was read last, at `at`.
    pub(super) fn first_byte(&mut self, at: u64) -> io::Result<u8> {
        match self.first_byte {
            Some((of, byte)) if of == at => Ok(byte),
            _ => Ok(self.window.at(at + FRAME_HEAD_BYTES as u64, 1)?[0]),
        }
    }

    /// The head of the frame at `at`, where all of it but one byte is what was written.
    fn mend(&mut self, at: u64) -> io::Result<Option<FrameHead>> {
        let mender = Mender {
            file: self.window.file,
            file_bytes: self.window.file_bytes,
            salt: self.salt,
            is_whole: self.is_whole,
        };
        let previous = (!self.is_resumed).then_some(self.previous);
        let Some(mended) = mender.mend(at, previous)? else {
            return Ok(None);
        };
        self.mended.push(MendedByte {
            segment: self.segment,
            at: mended.at,
        });
        let first = mended.frame.get(FRAME_HEAD_BYTES);
        self.first_byte = first.map(|byte| (at, *byte));
        Ok(Some(mended.head))
    }

    fn damage(&mut self, from: u64) -> io::Result<Option<Piece>> {
        let next = self.next_whole(from)?;
        if next.is_none() {
            self.is_over = true;
            if self.is_last {
                return Ok(None);
            }
        }
        let (to, next) = next.unzip();
        let to = to.unwrap_or(self.window.file_bytes);
        let claim = match from + FRAME_HEAD_BYTES as u64 <= self.window.file_bytes {
            true => FrameHead::parse(self.window.at(from, FRAME_HEAD_BYTES)?),
            false => None,
        };
        // Length or crc are still what they were: one byte does not change both.
        let is_one = claim.is_some_and(|claim| {
            from + frame_bytes(claim.len as usize) as u64 == to
                || next.is_some_and(|next: FrameHead| next.follows(claim.crc))
        });
        self.position = to;
        self.is_resumed = true;
        Ok(Some(Piece::Damage(Damage {
            segment: self.segment,
            from,
            to,
            claim,
            is_one,
        })))
    }

    /// The first whole frame behind a bad one, if the bad one is proved to have been whole once.
    fn next_whole(&mut self, bad: u64) -> io::Result<Option<(u64, FrameHead)>> {
        let mut end = self.window.file_bytes;
        if self.is_last {
            end = end.min(bad + 2 * BATCH_BYTES_MAX as u64);
        }
        if broken::get(broken::Without::Rot) {
            return Ok(None);
        }
        let mut first = None;
        let mut at = bad + 8;
        while at + FRAME_HEAD_BYTES as u64 <= end {
            // Most places do not even look like a head, and no crc is made for them.
            let looks = FrameHead::parse(self.window.at(at, FRAME_HEAD_BYTES)?).is_some();
            let Some(head) = looks
                .then(|| self.window.frame(at, self.salt))
                .transpose()?
                .flatten()
            else {
                at += 8;
                continue;
            };
            let first = *first.get_or_insert((at, head));
            if !self.is_last || head.flags & FLAG_BATCH_START != 0 {
                return Ok(Some(first));
            }
            at += frame_bytes(head.len as usize) as u64;
        }
        Ok(None)
    }
}

/// Reads a file's frames through a window, so that a segment is never in memory as a whole.
struct Window<'a> {
    file: &'a File,
    file_bytes: u64,
    start: u64,
    bytes: Vec<u8>,
}

impl Window<'_> {
    const BYTES: u64 = 1 << 20;

    /// The bytes at `offset`, at least `len` of them unless the file ends before.
    fn at(&mut self, offset: u64, len: usize) -> io::Result<&[u8]> {
        let end = offset.saturating_add(len as u64).min(self.file_bytes);
        if offset < self.start || end > self.start + self.bytes.len() as u64 {
            let want = Self::BYTES
                .max(len as u64)
                .min(self.file_bytes.saturating_sub(offset));
            self.bytes.resize(want as usize, 0);
            self.start = offset;
            read_exact_at(self.file, &mut self.bytes, offset)?;
        }
        Ok(&self.bytes[(offset - self.start) as usize..])
    }

    /// The frame at `offset`, if it is whole and right. Its bytes can then be had from `at`.
    fn frame(&mut self, offset: u64, salt: u64) -> io::Result<Option<FrameHead>> {
        if offset + FRAME_HEAD_BYTES as u64 > self.file_bytes {
            return Ok(None);
        }
        let Some(head) = FrameHead::parse(self.at(offset, FRAME_HEAD_BYTES)?) else {
            return Ok(None);
        };
        // The padding counts: what follows is written behind it.
        if offset + frame_bytes(head.len as usize) as u64 > self.file_bytes {
            return Ok(None);
        }
        let len = FRAME_HEAD_BYTES + head.len as usize;
        Ok(head.verify(self.at(offset, len)?, salt).then_some(head))
    }
}
