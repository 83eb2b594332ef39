//! Reads the log at start: what is whole, what is torn, what is damaged.
//!
//! The last segment ends at its first bad frame: a batch was being written when the process or the machine went
//! down, and nobody was told that it is durable. A bad frame anywhere else is damage. So is a bad frame in the last
//! segment that a later batch follows, since a batch is only written after the one before it was fsynced.

use std::collections::BTreeMap;
use std::fs::File;
use std::path::Path;
use std::sync::Arc;

use super::frame::{EntryId, FLAG_BATCH_START, FRAME_HEAD_BYTES, FrameHead, Kind, frame_bytes};
use super::index::Index;
use super::segment::{
    HEADER_BYTES, Header, HeaderFault, Segment, list, open_rw, read_exact_at, sync_directory,
    write_all_at,
};
use super::{BATCH_BYTES_MAX, Vote, WalError};

/// What the log's files say.
#[derive(Debug, Default)]
pub(crate) struct Recovered {
    pub(crate) index: Index,
    pub(crate) segments: BTreeMap<u64, Arc<Segment>>,
    pub(crate) vote: Option<Vote>,
    pub(crate) purged: Option<EntryId>,
    pub(crate) committed: Option<EntryId>,
    pub(crate) tail: Option<Tail>,
    pub(crate) node: u64,
    pub(crate) log: uuid::Uuid,
}

/// The end of the last segment.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Tail {
    pub(crate) number: u64,
    pub(crate) position: u64,
    pub(crate) file_bytes: u64,
    pub(crate) previous: u32,
    pub(crate) sealed: bool,
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
    fn at(&mut self, offset: u64, len: usize) -> std::io::Result<&[u8]> {
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
    fn frame(&mut self, offset: u64, salt: u64) -> std::io::Result<Option<FrameHead>> {
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

/// Reads all segments in `directory` and makes the tail durable (rewritten and fsynced) before returning.
pub(crate) fn recover(directory: &Path) -> Result<Recovered, WalError> {
    let io = |error| WalError::io("cannot read the log", directory, error);
    let (files, _) = list(directory).map_err(io)?;
    let mut out = Recovered::default();
    let count = files.len();
    if count > 0 {
        // A segment whose name came just before a kill: what it holds counts only once the name is durable, too.
        sync_directory(directory).map_err(io)?;
    }
    let first_number = files.first().map_or(0, |(number, _)| *number);
    for (at, (number, path)) in files.into_iter().enumerate() {
        let damaged = |offset: u64, what: &str| WalError::Damaged {
            path: path.clone(),
            offset,
            what: what.to_owned(),
        };
        let io = |error| WalError::io("cannot read the log", &path, error);
        if number != first_number + at as u64 {
            return Err(damaged(
                0,
                &format!("segment {} before it is missing", first_number + at as u64),
            ));
        }
        let file = open_rw(&path, false).map_err(io)?;
        let file_bytes = file.metadata().map_err(io)?.len();
        let mut page = vec![0; HEADER_BYTES.min(file_bytes) as usize];
        read_exact_at(&file, &mut page, 0).map_err(io)?;
        let header = Header::decode(&page).map_err(|fault| match fault {
            HeaderFault::Newer(found) => WalError::Newer {
                path: path.clone(),
                found,
            },
            HeaderFault::Damaged => damaged(0, "its header is not one"),
        })?;
        if header.number != number {
            return Err(damaged(
                0,
                &format!("its header says segment {}", header.number),
            ));
        }
        if at == 0 {
            out.node = header.node;
            out.log = header.log;
        } else if header.log != out.log || header.node != out.node {
            return Err(damaged(0, "it belongs to another log"));
        }
        let last = at + 1 == count;
        let tail = scan(&mut out, &file, file_bytes, &header, last, &damaged, &io)?;
        out.segments.insert(
            number,
            Arc::new(Segment {
                number,
                salt: header.salt,
                file,
            }),
        );
        out.tail = Some(tail);
    }
    if let (Some((first, _)), purged) = (out.index.bounds(), out.purged) {
        let expected = purged.map_or_else(|| first.min(1), |id| id.index + 1);
        if first != expected && first > expected {
            return Err(WalError::Hole { expected, first });
        }
    }
    Ok(out)
}

/// Reads one segment's frames into `out`.
fn scan(
    out: &mut Recovered,
    file: &File,
    file_bytes: u64,
    header: &Header,
    last: bool,
    damaged: &dyn Fn(u64, &str) -> WalError,
    io: &dyn Fn(std::io::Error) -> WalError,
) -> Result<Tail, WalError> {
    let mut window = Window {
        file,
        file_bytes,
        start: 0,
        bytes: Vec::new(),
    };
    let mut position = HEADER_BYTES;
    let mut previous = 0;
    let mut sealed = false;
    let mut batch_start = HEADER_BYTES;
    while !sealed {
        let head = match window.frame(position, header.salt).map_err(io)? {
            Some(head) if head.follows(previous) => head,
            _ if last => break,
            _ => return Err(damaged(position, "a bad frame is not at the log's end")),
        };
        if head.flags & FLAG_BATCH_START != 0 {
            batch_start = position;
        }
        let payload_at = position + FRAME_HEAD_BYTES as u64;
        match head.kind {
            Kind::Vote => {
                let committed = head.len > 0 && window.at(payload_at, 1).map_err(io)?[0] == 1;
                out.vote = Some(Vote {
                    term: head.id.term,
                    node: head.id.node,
                    committed,
                });
            }
            Kind::Blank | Kind::Normal | Kind::Membership => {
                out.index
                    .push(head.id.index, header.number, position)
                    .map_err(|expected| {
                        damaged(
                            position,
                            &format!("entry {} where {expected} was to be", head.id.index),
                        )
                    })?;
            }
            Kind::Truncate => out.index.truncate(head.id.index),
            Kind::Purge => {
                out.purged = out.purged.max(Some(head.id));
                out.index.purge(head.id.index);
            }
            Kind::Committed => out.committed = out.committed.max(Some(head.id)),
            Kind::Seal => sealed = true,
        }
        previous = head.crc;
        position += frame_bytes(head.len as usize) as u64;
    }
    if last && !sealed {
        refuse_later_batch(&mut window, position, header.salt, damaged, io)?;
    }
    if last {
        rewrite(file, batch_start, position, io)?;
    }
    Ok(Tail {
        number: header.number,
        position,
        file_bytes,
        previous,
        sealed,
    })
}

/// A batch that begins behind the first bad frame proves that the bad frame had been fsynced: damage, not a tear.
fn refuse_later_batch(
    window: &mut Window<'_>,
    bad: u64,
    salt: u64,
    damaged: &dyn Fn(u64, &str) -> WalError,
    io: &dyn Fn(std::io::Error) -> WalError,
) -> Result<(), WalError> {
    let end = window.file_bytes.min(bad + 2 * BATCH_BYTES_MAX as u64);
    let mut at = bad + 8;
    while at + FRAME_HEAD_BYTES as u64 <= end {
        let head = FrameHead::parse(window.at(at, FRAME_HEAD_BYTES).map_err(io)?);
        let starts = head.is_some_and(|head| head.flags & FLAG_BATCH_START != 0);
        if starts && window.frame(at, salt).map_err(io)?.is_some() {
            return Err(damaged(
                bad,
                &format!("a bad frame, and whole ones behind it at byte {at}"),
            ));
        }
        at += 8;
    }
    Ok(())
}

/// Writes the last batch again and fsyncs it: after a failed fsync the page cache may show what the disk never got.
fn rewrite(
    file: &File,
    from: u64,
    to: u64,
    io: &dyn Fn(std::io::Error) -> WalError,
) -> Result<(), WalError> {
    let mut at = from;
    let mut bytes = Vec::new();
    while at < to {
        let len = (to - at).min(1 << 20);
        bytes.resize(len as usize, 0);
        read_exact_at(file, &mut bytes, at).map_err(io)?;
        write_all_at(file, &bytes, at).map_err(io)?;
        at += len;
    }
    file.sync_all().map_err(io)
}
