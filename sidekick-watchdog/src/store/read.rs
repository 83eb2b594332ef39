//! Committed slabs, read back from the log, without what was refused or seen twice, and with holes in the place of what
//! goes no further.

use bytes::Bytes;
use sidekick_ipc::frame::{FRAME_HEADER_BYTES, FrameHeader, FrameKind, Hole, append_frame};

use super::command::Batch;
use super::state::{Cut, Marks};
use crate::position::Loss;
use crate::slab::Slab;

/// The slabs of one entry.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct IndexedSlabs {
    /// The entry's index.
    pub index: u64,
    /// Each slab with the number of its first frame, counted over all frames of the entry
    /// ([`Position::item`](crate::position::Position)). Empty when all were refused.
    pub slabs: Vec<(u32, Slab)>,
    /// What the entry held is damaged on the disk; the slabs tell of what is missing.
    pub loss: Option<Loss>,
}

/// One frame's place in a slab's bytes; the crc is not looked at, upload does that.
struct Placed {
    at: usize,
    header: FrameHeader,
    /// The sequence number after those that it covers.
    end_seq: u64,
}

fn word(bytes: &[u8], at: usize) -> u64 {
    let mut word = [0; 8];
    word.copy_from_slice(&bytes[at..at + 8]);
    u64::from_le_bytes(word)
}

fn walk(bytes: &[u8]) -> impl Iterator<Item = Placed> + '_ {
    let mut at = 0;
    std::iter::from_fn(move || {
        let frame = bytes.get(at..)?;
        if frame.len() < FRAME_HEADER_BYTES {
            return None;
        }
        let words = [
            word(frame, 0),
            word(frame, 8),
            word(frame, 16),
            word(frame, 24),
        ];
        let header = FrameHeader::from_words(words)?;
        let end = FRAME_HEADER_BYTES.saturating_add(header.len as usize);
        let covers = match FrameKind::from_u16(header.kind) {
            Some(FrameKind::Hole) => {
                let hole = frame.get(FRAME_HEADER_BYTES..end).map(Hole::parse);
                hole.and_then(Result::ok).map_or(1, |hole| hole.count)
            }
            _ => 1,
        };
        let placed = Placed {
            at,
            header,
            end_seq: header.seq.saturating_add(covers),
        };
        at += header.frame_bytes();
        Some(placed)
    })
}

/// How many frames there are, as positions count them.
pub(super) fn count_frames(frames: &[u8]) -> u32 {
    u32::try_from(walk(frames).count()).unwrap_or(u32::MAX)
}

/// The engine's monotonic clock at the first frame; `None` where that frame's head is none.
pub(super) fn first_monotonic_ns(frames: &[u8]) -> Option<u64> {
    let head = frames.get(..FRAME_HEADER_BYTES)?;
    let words = [word(head, 0), word(head, 8), word(head, 16), word(head, 24)];
    FrameHeader::from_words(words).map(|header| header.monotonic_ns)
}

/// The slabs of an entry that readers may see.
pub(super) fn visible<'a>(
    batch: &Batch,
    cut: impl Fn(u32) -> Option<Cut>,
    marks: impl Fn(u32) -> Option<&'a Marks>,
) -> Result<Vec<(u32, Slab)>, super::codec::CodecError> {
    let mut item = 0_u32;
    let mut visible = Vec::new();
    for (number, slab) in batch.slabs()? {
        let first = item;
        item = item.saturating_add(walk(&slab.frames).count() as u32);
        match cut(number) {
            None => visible.push((first, slab)),
            Some(Cut::Whole) => {}
            Some(Cut::Before(seq)) => visible.push(cut_off(first, slab, seq)),
        }
    }
    for (first, slab) in &mut visible {
        if let Some(marks) = marks(*first) {
            hide(slab, marks);
        }
    }
    Ok(visible)
}

/// Puts a hole in the place of each record that goes no further: as many frames as before, so positions stay.
fn hide(slab: &mut Slab, marks: &Marks) {
    let mut hidden = Vec::with_capacity(slab.frames.len());
    let mut end = 0;
    for Placed { at, header, .. } in walk(&slab.frames) {
        end = slab
            .frames
            .len()
            .min(at.saturating_add(header.frame_bytes()));
        let behind_first = header.seq.checked_sub(slab.head.first_seq);
        let Some(cause) = behind_first.and_then(|number| marks.cause(number)) else {
            hidden.extend_from_slice(slab.frames.get(at..end).unwrap_or_default());
            continue;
        };
        let mut payload = Vec::with_capacity(Hole::BYTES);
        Hole { count: 1, cause }.encode(&mut payload);
        let (kind, seq, time_ns) = (FrameKind::Hole as u16, header.seq, header.monotonic_ns);
        append_frame(&mut hidden, &slab.head.epoch, kind, seq, time_ns, &payload);
    }
    // What is no frame is told at upload.
    hidden.extend_from_slice(slab.frames.get(end..).unwrap_or_default());
    slab.frames = hidden.into();
}

/// Takes the frames away that end before `seq`.
fn cut_off(first: u32, mut slab: Slab, seq: u64) -> (u32, Slab) {
    let mut skipped = 0;
    let mut from = slab.frames.len();
    for frame in walk(&slab.frames) {
        if frame.end_seq > seq {
            from = frame.at;
            break;
        }
        skipped += 1;
    }
    slab.head.count = slab.head.next_seq().saturating_sub(seq);
    slab.head.first_seq = seq;
    slab.frames = Bytes::slice(&slab.frames, from..);
    (first.saturating_add(skipped), slab)
}
