//! Reads entries back, from memory or from disk.

use std::path::PathBuf;
use std::sync::Arc;

use bytes::Bytes;

use super::frame::{FRAME_HEAD_BYTES, FrameHead, Kind, PAYLOAD_BYTES_MAX};
use super::segment::{self, Segment, read_exact_at};
use super::{LogEntry, Part, Shared, WalError};

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
        let Some(segment) = inner.segments.get(&number) else {
            return Ok(None);
        };
        (Arc::clone(segment), offset)
    };
    match read_frame(&segment, index, offset, part) {
        Ok(entry) => Ok(Some(entry)),
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

fn read_frame(
    segment: &Segment,
    index: u64,
    offset: u64,
    part: Part,
) -> Result<LogEntry, WalError> {
    let path = PathBuf::from(segment::segment_name(segment.number));
    let io = |error| WalError::io("cannot read the log", &path, error);
    let damaged = || WalError::Damaged {
        path: path.clone(),
        offset,
        what: format!("entry {index} is not what was written"),
    };
    let mut head_bytes = [0; FRAME_HEAD_BYTES];
    read_exact_at(&segment.file, &mut head_bytes, offset).map_err(io)?;
    let head = FrameHead::parse(&head_bytes)
        .filter(|head| head.kind.is_entry() && head.id.index == index)
        .ok_or_else(damaged)?;
    let len = head.len as usize;
    let mut frame = vec![0; FRAME_HEAD_BYTES + len.min(PAYLOAD_BYTES_MAX)];
    read_exact_at(&segment.file, &mut frame, offset).map_err(io)?;
    if !head.verify(&frame, segment.salt) {
        return Err(damaged());
    }
    let payload = match part {
        Part::Heads(wanted) if head.kind == Kind::Normal => {
            let keep = wanted(&frame[FRAME_HEAD_BYTES..]).min(len);
            Bytes::copy_from_slice(&frame[FRAME_HEAD_BYTES..FRAME_HEAD_BYTES + keep])
        }
        _ => Bytes::from(frame).slice(FRAME_HEAD_BYTES..),
    };
    Ok(LogEntry {
        id: head.id,
        kind: head.kind,
        payload,
    })
}
