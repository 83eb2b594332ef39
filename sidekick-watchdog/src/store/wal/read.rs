//! Reads entries back, from memory or from disk.

use std::collections::BTreeMap;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, OnceLock};

use bytes::Bytes;

use super::frame::{EntryId, FRAME_HEAD_BYTES, FrameHead, Kind, frame_bytes};
use super::mend::{IsWhole, MendedByte};
use super::recovery::{Reading, recover};
use super::scan::Damage;
use super::segment::{self, Segment, read_exact_at};
use super::{BATCH_BYTES_MAX, Counters, Inner, LogEntry, LostEntry, Part, Shared, WalError};
use crate::position::Loss;

/// How often somebody beside the writer begins anew: files are recycled while he reads, and a batch is half written.
const GUEST_TRIES: usize = 5;
/// Over so many damaged frames in a row their heads are followed.
const CHAINED_MAX: usize = 16;

/// What can be read of a log, by its owner or beside it.
#[derive(Clone, Debug)]
pub(crate) struct LogReader {
    pub(super) shared: Arc<Shared>,
}

impl LogReader {
    /// Reads the log in `directory` as it is now, whether or not somebody writes to it, and changes nothing. Tells where it
    /// is damaged; entries that lay there are [`Kind::Lost`]. `is_whole` is that of [`WalOptions`](super::WalOptions). Blocks for as long as
    /// reading the segments takes.
    ///
    /// # Errors
    /// As `Wal::open`, except for damaged entries.
    pub(crate) fn beside(
        directory: &Path,
        is_whole: IsWhole,
        progress: &mut dyn FnMut(usize, usize),
    ) -> Result<(Self, Vec<Damage>), WalError> {
        let mut before: Option<Vec<(u64, u64)>> = None;
        let mut tries = 0;
        let mut recovered = loop {
            tries += 1;
            match recover(directory, Reading::Guest, is_whole, progress) {
                Ok(recovered) => {
                    let places = recovered.damage.iter();
                    let places: Vec<_> = places.map(|d| (d.segment, d.from)).collect();
                    // A batch that was being written, or a file that was recycled, is none when it is read again.
                    let is_sure = places.is_empty() || before.as_ref() == Some(&places);
                    if is_sure || tries == GUEST_TRIES {
                        break recovered;
                    }
                    before = Some(places);
                }
                Err(error) if tries == GUEST_TRIES => return Err(error),
                Err(error @ (WalError::Newer { .. } | WalError::Hole { .. })) => return Err(error),
                Err(_) => {}
            }
        };
        let damage = std::mem::take(&mut recovered.damage);
        let shared = Shared {
            inner: Mutex::new(Inner::of(&mut recovered)),
            counters: Counters::default(),
            cache_limit: 0,
            failure: OnceLock::new(),
        };
        shared.find_last()?;
        let shared = Arc::new(shared);
        Ok((Self { shared }, damage))
    }

    pub(crate) fn purged(&self) -> Option<EntryId> {
        self.shared.lock().purged
    }

    /// The last entry's id, or the purged one's when nothing is left.
    pub(crate) fn last(&self) -> Option<EntryId> {
        let inner = self.shared.lock();
        inner.last.max(inner.purged)
    }

    /// First and last index that can be read.
    pub(crate) fn bounds(&self) -> Option<(u64, u64)> {
        let inner = self.shared.lock();
        let disk = inner.index.bounds();
        let last = inner.last?.index;
        let first = disk
            .map(|(first, _)| first)
            .or_else(|| inner.cache.front().map(|e| e.id.index))?;
        (first <= last && inner.purged.is_none_or(|id| id.index < last)).then_some((first, last))
    }

    /// One entry; `None` when it is not (or no longer) in the log. May read from disk.
    pub(crate) fn read(&self, index: u64, part: Part) -> Result<Option<LogEntry>, WalError> {
        read_one(&self.shared, index, part)
    }

    /// Entries of `[start, end)` until `bytes_max` is passed; at least one if there is one.
    pub(crate) fn read_range(
        &self,
        start: u64,
        end: u64,
        bytes_max: usize,
        part: Part,
    ) -> Result<Vec<LogEntry>, WalError> {
        let mut entries = Vec::new();
        let mut bytes = 0;
        for index in start..end {
            let Some(entry) = self.read(index, part)? else {
                break;
            };
            bytes += entry.payload.len();
            if bytes > bytes_max && !entries.is_empty() {
                break;
            }
            entries.push(entry);
        }
        Ok(entries)
    }

    /// The entries that are damaged on the disk, by index.
    pub(crate) fn lost(&self) -> BTreeMap<u64, LostEntry> {
        self.shared.lock().lost.clone()
    }

    /// Where an entry lies: segment and byte; `None` for what is not on the disk.
    pub(crate) fn place(&self, index: u64) -> Option<(u64, u64)> {
        self.shared.lock().index.get(index)
    }

    /// The segments that hold the log, by number.
    pub(crate) fn segments(&self) -> Vec<u64> {
        self.shared.lock().segments.keys().copied().collect()
    }

    /// Bytes on the disk that are not what was written, where that is known: nothing is lost of what they are in.
    pub(crate) fn mended(&self) -> Vec<MendedByte> {
        self.shared.lock().mended.iter().copied().collect()
    }

    /// Whether the entry at `index` is damaged on the disk, as far as anybody has found out.
    pub(crate) fn is_damaged(&self, index: u64) -> bool {
        self.shared.lock().lost.contains_key(&index)
    }

    /// Whether of the entry at `index` nothing is left.
    pub(crate) fn is_lost(&self, index: u64) -> bool {
        let inner = self.shared.lock();
        let entry = inner.lost.get(&index);
        entry.is_some_and(|entry| !entry.is_salvaged)
    }

    /// Whether of some entry nothing is left.
    pub(crate) fn has_lost(&self) -> bool {
        let inner = self.shared.lock();
        inner.lost.values().any(|entry| !entry.is_salvaged)
    }

    /// What lies where the payload of the damaged entry `lost` has to be, if the frames' heads prove that it is this entry's: each
    /// names the crc of the one before it, up to a frame that is whole. What an older entry left there names another one.
    pub(crate) fn remains(&self, lost: &LostEntry) -> Option<Bytes> {
        let segment = self
            .shared
            .lock()
            .segments
            .get(&lost.damage.segment)
            .cloned()?;
        let file = &segment.file;
        let (mut at, mut previous, mut found) = (lost.damage.from, None, None);
        for _ in 0..CHAINED_MAX {
            let mut head_bytes = [0; FRAME_HEAD_BYTES];
            read_exact_at(file, &mut head_bytes, at).ok()?;
            let head = FrameHead::parse(&head_bytes)?;
            let len = Some(head.len as usize).filter(|len| *len <= 2 * BATCH_BYTES_MAX)?;
            let mut frame = vec![0; FRAME_HEAD_BYTES + len];
            read_exact_at(file, &mut frame, at).ok()?;
            if let Some(previous) = previous {
                if !head.follows(previous) {
                    return None;
                }
                if head.verify(&frame, segment.salt) {
                    return found;
                }
            }
            if head.kind == Kind::Normal && head.id.index == lost.id.index {
                found = Some(Bytes::from(frame).slice(FRAME_HEAD_BYTES..));
            }
            previous = Some(head.crc);
            at += frame_bytes(len) as u64;
        }
        None
    }

    /// What is known of the lost entry at `index`.
    pub(crate) fn loss(&self, index: u64) -> Loss {
        let inner = self.shared.lock();
        let lost = inner.lost.get(&index);
        lost.map(|lost| lost.loss).unwrap_or_default()
    }

    /// Looks at an entry that was whole when the log was opened; `None` if it can be read, or is no longer in the log.
    ///
    /// # Errors
    /// [`WalError::Io`].
    pub(crate) fn look_for_damage(&self, index: u64) -> Result<Option<LostEntry>, WalError> {
        let offset = match self.read(index, Part::Heads(|_| 0)) {
            Ok(_) => return Ok(None),
            Err(WalError::Rotten { offset, .. }) => offset,
            Err(error) => return Err(error),
        };
        let Some((segment, _)) = self.place(index) else {
            return Ok(None);
        };
        let next = self.place(index + 1);
        let next = next.filter(|(number, _)| *number == segment);
        let to = next.map_or(offset + FRAME_HEAD_BYTES as u64, |(_, to)| to);
        // Whoever led before it or behind it led then.
        let whole = |index| self.read(index, Part::Heads(|_| 0)).ok().flatten();
        let (first, last) = self.bounds().unwrap_or((index, index));
        let before = (first..index).rev().find_map(whole);
        let neighbor = before.or_else(|| (index + 1..=last).find_map(whole));
        let leader = neighbor.map(|entry| entry.id).unwrap_or_default();
        Ok(Some(LostEntry {
            id: EntryId { index, ..leader },
            damage: Damage {
                segment,
                from: offset,
                to,
                claim: None,
                is_one: true,
            },
            stand_in: Bytes::new(),
            is_salvaged: false,
            loss: Loss::default(),
        }))
    }

    /// From now on these entries are lost, and are read as they say.
    pub(crate) fn set_lost(&self, lost: BTreeMap<u64, LostEntry>) {
        let mut inner = self.shared.lock();
        let purged = inner.purged.map_or(0, |id| id.index);
        let lost = lost.into_iter();
        inner.lost.extend(lost.filter(|(index, _)| *index > purged));
    }
}

/// Reads one entry from the cache or from disk.
pub(super) fn read_one(
    shared: &Shared,
    index: u64,
    part: Part,
) -> Result<Option<LogEntry>, WalError> {
    let (segment, offset) = {
        let inner = shared.lock();
        if inner.purged.is_some_and(|id| index <= id.index) {
            return Ok(None);
        }
        if let Some(entry) = inner.cached(index) {
            return Ok(Some(entry.clone()));
        }
        let Some((number, offset)) = inner.index.get(index) else {
            return Ok(None);
        };
        if let Some(lost) = inner.lost.get(&index) {
            return Ok(Some(LogEntry {
                id: lost.id,
                kind: match lost.is_salvaged {
                    true => Kind::Normal,
                    false => Kind::Lost,
                },
                payload: lost.stand_in.clone(),
            }));
        }
        let Some(segment) = inner.segments.get(&number) else {
            return Ok(None);
        };
        (Arc::clone(segment), offset)
    };
    match read_frame(&segment, index, offset, part) {
        Ok((entry, mended)) => {
            if let Some(at) = mended {
                let byte = MendedByte {
                    segment: segment.number,
                    at,
                };
                let mut inner = shared.lock();
                let is_still_there = inner.segments.contains_key(&byte.segment);
                let is_news = is_still_there && inner.mended.insert(byte);
                drop(inner);
                if is_news {
                    byte.tell(Path::new(&segment::segment_name(byte.segment)));
                }
            }
            Ok(Some(entry))
        }
        Err(error) => {
            // Purged and recycled while we read?
            let inner = shared.lock();
            if inner.index.get(index) == Some((segment.number, offset)) {
                Err(error)
            } else {
                Ok(None)
            }
        }
    }
}

/// An entry from the disk, and where the byte is that had to be mended, if one had.
fn read_frame(
    segment: &Segment,
    index: u64,
    offset: u64,
    part: Part,
) -> Result<(LogEntry, Option<u64>), WalError> {
    let path = PathBuf::from(segment::segment_name(segment.number));
    let io = |error| WalError::io("cannot read the log", &path, error);
    let damaged = || WalError::Rotten {
        index,
        path: path.clone(),
        offset,
    };
    let is_it = |head: &FrameHead| head.kind.is_entry() && head.id.index == index;
    let file_bytes = segment.file.metadata().map_err(io)?.len();
    let whole = whole_frame(segment, file_bytes, offset).map_err(io)?;
    let (head, frame, mended) = match whole.filter(|(head, _)| is_it(head)) {
        Some((head, frame)) => (head, frame, None),
        None => {
            let mended = segment.mender(file_bytes).mend(offset, None).map_err(io)?;
            let mended = mended.filter(|mended| is_it(&mended.head));
            let mended = mended.ok_or_else(damaged)?;
            (mended.head, mended.frame, Some(mended.at))
        }
    };
    let len = head.len as usize;
    let payload = match part {
        Part::Heads(wanted) if head.kind == Kind::Normal => {
            let keep = wanted(&frame[FRAME_HEAD_BYTES..]).min(len);
            Bytes::copy_from_slice(&frame[FRAME_HEAD_BYTES..FRAME_HEAD_BYTES + keep])
        }
        _ => Bytes::from(frame).slice(FRAME_HEAD_BYTES..),
    };
    let entry = LogEntry {
        id: head.id,
        kind: head.kind,
        payload,
    };
    Ok((entry, mended))
}

/// Head and bytes of the frame at `offset`, if it is whole.
fn whole_frame(
    segment: &Segment,
    file_bytes: u64,
    offset: u64,
) -> io::Result<Option<(FrameHead, Vec<u8>)>> {
    let mut head_bytes = [0; FRAME_HEAD_BYTES];
    read_exact_at(&segment.file, &mut head_bytes, offset)?;
    let Some(head) = FrameHead::parse(&head_bytes) else {
        return Ok(None);
    };
    let len = FRAME_HEAD_BYTES + head.len as usize;
    if offset + len as u64 > file_bytes {
        return Ok(None);
    }
    let mut frame = vec![0; len];
    read_exact_at(&segment.file, &mut frame, offset)?;
    Ok(head.verify(&frame, segment.salt).then_some((head, frame)))
}
