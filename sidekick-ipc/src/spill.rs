//! Where frames go while the ring is full: numbered append-only files of the same frames.
//!
//! Sequence numbers are dense over ring and spill together, so a reader merges by "who has the next number"; there
//! is no change of mode to agree on. A number belongs to a frame only when the frame is wholly written: a short write
//! is cut away and its number used again (CORRECTNESS rule 5). A kill amid a write leaves a torn end, which has no
//! right checksum and no successor. Of a value in several frames the first is written last, which makes all of them
//! there at once (CORRECTNESS rule 21).

use std::collections::VecDeque;
use std::fs::File;
use std::io;
use std::sync::Arc;

use uuid::Uuid;

use crate::frame::{FRAME_BYTES_MAX, FRAME_HEADER_BYTES, FrameHeader, verify_copy};
use crate::name::spill_name;
use crate::sys;
use crate::sys::Dir;

/// A spill file is followed by the next one at this size, so that drained ones can be deleted.
pub const SPILL_FILE_BYTES: u64 = 8 << 20;
/// Read at once. At least the largest frame.
const READ_BYTES: usize = 256 << 10;
const _: () = assert!(READ_BYTES >= FRAME_BYTES_MAX);

/// Why a frame could not be spilled. Nothing of it is there.
#[derive(Debug, thiserror::Error)]
pub enum SpillError {
    /// The files hold as much as they may.
    #[error("the spill files hold {bytes} bytes, the limit is {max}")]
    Full {
        /// Bytes there.
        bytes: u64,
        /// Most that may be there.
        max: u64,
    },
    /// The file system refused.
    #[error("the spill file {number} could not be written: {source}")]
    Io {
        /// Which file.
        number: u32,
        /// Why.
        source: io::Error,
    },
}

struct Written {
    last_seq: u64,
    bytes: u64,
}

struct Open {
    file: File,
    number: u32,
    bytes: u64,
    last_seq: u64,
}

/// The engine's end.
pub(crate) struct SpillWriter {
    dir: Arc<Dir>,
    launch: u32,
    epoch: Uuid,
    next_number: u32,
    open: Option<Open>,
    closed: VecDeque<Written>,
    closed_bytes: u64,
    bytes_max: u64,
}

impl SpillWriter {
    pub(crate) fn new(dir: Arc<Dir>, launch: u32, epoch: Uuid, bytes_max: u64) -> Self {
        let closed = VecDeque::new();
        let (next_number, open, closed_bytes) = (0, None, 0);
        SpillWriter {
            dir,
            launch,
            epoch,
            next_number,
            open,
            closed,
            closed_bytes,
            bytes_max,
        }
    }

    /// Number that the next file gets.
    pub(crate) fn next_number(&self) -> u32 {
        self.next_number
    }

    /// Ends the file in use; the next frame starts another one.
    pub(crate) fn close(&mut self) {
        if let Some(open) = self.open.take() {
            self.closed_bytes = self.closed_bytes.saturating_add(open.bytes);
            self.closed.push_back(Written {
                last_seq: open.last_seq,
                bytes: open.bytes,
            });
        }
    }

    /// Whether `bytes` more are allowed.
    pub(crate) fn has_room(&mut self, bytes: usize, acked_seq: u64) -> bool {
        self.forget(acked_seq).saturating_add(bytes as u64) <= self.bytes_max
    }

    /// Forgets files that are committed as a whole, ends the one in use when it is or is large enough; says how many
    /// bytes are left.
    fn forget(&mut self, acked_seq: u64) -> u64 {
        let is_over = |open: &Open| {
            open.bytes >= SPILL_FILE_BYTES || (open.bytes > 0 && open.last_seq <= acked_seq)
        };
        if self.open.as_ref().is_some_and(is_over) {
            self.close();
        }
        while let Some(file) = self
            .closed
            .front()
            .filter(|file| file.last_seq <= acked_seq)
        {
            self.closed_bytes = self.closed_bytes.saturating_sub(file.bytes);
            self.closed.pop_front();
        }
        self.closed_bytes
            .saturating_add(self.open.as_ref().map_or(0, |open| open.bytes))
    }

    /// Appends the sealed frames of one value, of which the last has number `seq` and the first `first_bytes` bytes: all
    /// of them or none. Frames up to `acked_seq` count as gone. `announce` is told of a new file (one more than its
    /// number) before its first frame.
    pub(crate) fn append(
        &mut self,
        frames: &[u8],
        first_bytes: usize,
        seq: u64,
        acked_seq: u64,
        announce: impl FnOnce(u32),
    ) -> Result<(), SpillError> {
        let there = self.forget(acked_seq);
        if there.saturating_add(frames.len() as u64) > self.bytes_max {
            return Err(SpillError::Full {
                bytes: there,
                max: self.bytes_max,
            });
        }
        if self.open.is_none() {
            let number = self.next_number;
            let file = self
                .dir
                .create_new(&spill_name(self.launch, &self.epoch, number))
                .map_err(|source| SpillError::Io { number, source })?;
            self.next_number = number.wrapping_add(1);
            self.open = Some(Open {
                file,
                number,
                bytes: 0,
                last_seq: 0,
            });
            announce(self.next_number);
        }
        let Some(open) = &mut self.open else {
            return Ok(());
        };
        if let Err(source) = write_first_last(&open.file, frames, first_bytes, open.bytes) {
            let number = open.number;
            // What is there of the frames must not stand before the frame that gets this number next.
            if open.file.set_len(open.bytes).is_err() {
                // Not even that: leave the file. Its torn end has no right checksum, and readers step over to the
                // next file because there is one.
                self.close();
            }
            return Err(SpillError::Io { number, source });
        }
        open.bytes = open.bytes.saturating_add(frames.len() as u64);
        open.last_seq = seq;
        Ok(())
    }
}

/// Writes the first frame after the others: a reader goes frame by frame, so that it finds none before all are there,
/// however the writing ends.
fn write_first_last(file: &File, frames: &[u8], first_bytes: usize, offset: u64) -> io::Result<()> {
    let (first, others) = frames
        .split_at_checked(first_bytes)
        .unwrap_or((frames, &[]));
    if !others.is_empty() {
        sys::write_all_at(file, others, offset.saturating_add(first.len() as u64))?;
    }
    sys::write_all_at(file, first, offset)
}

impl std::fmt::Debug for SpillWriter {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("SpillWriter")
            .field("next_number", &self.next_number)
            .finish_non_exhaustive()
    }
}

/// The watchdog's end.
#[derive(Debug)]
pub(crate) struct SpillReader {
    dir: Arc<Dir>,
    launch: u32,
    epoch: Uuid,
    seed: u32,
    number: u32,
    offset: u64,
    file: Option<File>,
    /// Empty until the first read, then of one size for good.
    buffer: Vec<u8>,
    /// Bytes of the buffer that are the file's.
    filled: usize,
    /// Offset in the file of the buffer's first byte.
    buffer_start: u64,
}

impl SpillReader {
    pub(crate) fn new(dir: Arc<Dir>, launch: u32, epoch: Uuid, seed: u32, number: u32) -> Self {
        let buffer = Vec::new();
        SpillReader {
            dir,
            launch,
            epoch,
            seed,
            number,
            offset: 0,
            file: None,
            buffer,
            filled: 0,
            buffer_start: 0,
        }
    }

    /// Which file, and where in it.
    pub(crate) fn place(&self) -> (u32, u64) {
        (self.number, self.offset)
    }

    pub(crate) fn seek(&mut self, number: u32, offset: u64) {
        self.number = number;
        self.offset = offset;
        self.file = None;
        self.filled = 0;
    }

    /// The next whole frame with a right checksum, if there is one. `end` is one more than the newest file's number,
    /// and was loaded before this call: everything in older files is there.
    pub(crate) fn peek(&mut self, end: u32) -> io::Result<Option<FrameHeader>> {
        loop {
            if self.number >= end {
                return Ok(None);
            }
            if self.open()? {
                if let Some(header) = self.buffered() {
                    return Ok(Some(header));
                }
                self.fill()?;
                if let Some(header) = self.buffered() {
                    return Ok(Some(header));
                }
            }
            // Nothing whole here. In the newest file it may still come; an older one is over.
            match self.next_existing(end)? {
                Some(number) => self.seek(number, 0),
                None => return Ok(None),
            }
        }
    }

    /// Appends the frame that `peek` found to `out` and steps over it.
    pub(crate) fn take(&mut self, header: FrameHeader, out: &mut Vec<u8>) {
        let from = self.offset.wrapping_sub(self.buffer_start) as usize;
        let bytes = header.frame_bytes();
        if let Some(frame) = self.buffer.get(from..).and_then(|rest| rest.get(..bytes)) {
            out.extend_from_slice(frame);
        }
        self.offset = self.offset.wrapping_add(bytes as u64);
    }

    fn open(&mut self) -> io::Result<bool> {
        if self.file.is_none() {
            let name = spill_name(self.launch, &self.epoch, self.number);
            match self.dir.open_own(&name, false) {
                Ok((file, _)) => self.file = Some(file),
                Err(e) if e.kind() == io::ErrorKind::NotFound => return Ok(false),
                Err(e) => return Err(e),
            }
        }
        Ok(true)
    }

    fn fill(&mut self) -> io::Result<()> {
        let Some(file) = &self.file else {
            return Ok(());
        };
        if self.buffer.is_empty() {
            self.buffer = vec![0; READ_BYTES];
        }
        self.buffer_start = self.offset;
        self.filled = 0;
        // No file is that long; the system would refuse the very question.
        if i64::try_from(self.offset.saturating_add(READ_BYTES as u64)).is_err() {
            return Ok(());
        }
        self.filled = sys::read_at(file, &mut self.buffer, self.offset)?;
        Ok(())
    }

    fn buffered(&mut self) -> Option<FrameHeader> {
        let from = usize::try_from(self.offset.checked_sub(self.buffer_start)?).ok()?;
        let rest = self.buffer.get_mut(from..self.filled)?;
        let (head, _) = rest.first_chunk::<FRAME_HEADER_BYTES>()?.as_chunks::<8>();
        let mut words = [0; 4];
        for (word, chunk) in words.iter_mut().zip(head) {
            *word = u64::from_le_bytes(*chunk);
        }
        let bytes = FrameHeader::from_words(words)?.frame_bytes();
        verify_copy(rest.get_mut(..bytes)?, self.seed).ok()
    }

    /// The lowest file number above this one that exists. Asks the directory, because `end` is the other process's
    /// word and may be any number.
    fn next_existing(&self, end: u32) -> io::Result<Option<u32>> {
        if self.number.saturating_add(1) >= end {
            return Ok(None);
        }
        let numbers = numbers(&self.dir, self.launch, &self.epoch)?;
        Ok(numbers
            .into_iter()
            .filter(|n| *n > self.number && *n < end)
            .min())
    }
}

/// Numbers of the session's spill files that exist, in no order.
pub(crate) fn numbers(dir: &Dir, launch: u32, epoch: &Uuid) -> io::Result<Vec<u32>> {
    let prefix = format!("{launch:010}-{epoch}.");
    let mut numbers = Vec::new();
    for entry in std::fs::read_dir(dir.path())? {
        let name = entry?.file_name();
        let number = name
            .to_str()
            .and_then(|name| name.strip_prefix(&prefix)?.strip_suffix(".spill"));
        numbers.extend(number.and_then(|number| number.parse::<u32>().ok()));
    }
    Ok(numbers)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::frame::{FrameKind, crc_seed, frame_bytes};
    use crate::request::append_request_in;

    const FRAGMENT: usize = 16;

    /// How many frames a reader finds in a file that ends as a kill amid the writing of a value has left it: the writes in
    /// this order, cut after `bytes_written` bytes.
    fn found(writes: &[(usize, &[u8])], mut bytes_written: usize, epoch: Uuid) -> usize {
        let dir = tempfile::tempdir().unwrap();
        let dir = Arc::new(Dir::open(dir.path()).unwrap());
        let file = dir.create_new(&spill_name(1, &epoch, 0)).unwrap();
        for (at, bytes) in writes {
            let part = &bytes[..bytes.len().min(bytes_written)];
            sys::write_all_at(&file, part, *at as u64).unwrap();
            bytes_written -= part.len();
        }
        let mut reader = SpillReader::new(dir, 1, epoch, crc_seed(&epoch), 0);
        let mut frames = 0;
        while let Some(header) = reader.peek(1).unwrap() {
            reader.take(header, &mut Vec::new());
            frames += 1;
        }
        frames
    }

    /// The broken variant beside it shows what the order is for.
    #[test]
    fn a_kill_amid_the_writing_of_a_value_leaves_none_of_its_frames() {
        let epoch = Uuid::from_u128(3);
        let mut frames = Vec::new();
        append_request_in(&mut frames, &epoch, FrameKind::Op, 1, 1, &[7; 40], FRAGMENT);
        let first_bytes = frame_bytes(FRAGMENT);
        let (first, others) = frames.split_at(first_bytes);
        let in_order = [(0, first), (first_bytes, others)];
        let first_last = [(first_bytes, others), (0, first)];
        let mut halves = 0;
        for bytes_written in 0..frames.len() {
            assert_eq!(
                found(&first_last, bytes_written, epoch),
                0,
                "{bytes_written}"
            );
            halves += found(&in_order, bytes_written, epoch);
        }
        assert_eq!(found(&first_last, frames.len(), epoch), 3);
        assert!(halves > 0);
    }
}
