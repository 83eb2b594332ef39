//! The way through a slab, item by item.

use std::borrow::Cow;

use sidekick_ipc::frame::{FrameKind, FrameView, Gap, Hole, Record, frames, hole_cause};

use super::cause::{drop_reason, hole_words};
use super::{Item, What};
use crate::slab::{Slab, SlabHead};

/// Where a [`Walk`] stands; cheap to copy, to go back by one item.
#[derive(Clone, Copy, Debug)]
pub struct Mark {
    offset: usize,
    /// Where the frame of the last item begins; the end of the frames where it has none.
    frame: usize,
    next_seq: u64,
    monotonic_ns: u64,
}

/// A walk through the items of one slab.
#[derive(Debug)]
pub struct Walk {
    slab: Slab,
    mark: Mark,
}

impl Walk {
    /// Stands before the first item of `slab`.
    pub fn new(slab: Slab) -> Self {
        let mark = Mark {
            offset: 0,
            frame: 0,
            next_seq: slab.head.first_seq,
            monotonic_ns: 0,
        };
        Self { slab, mark }
    }

    /// Whose frames these are.
    pub fn head(&self) -> &SlabHead {
        &self.slab.head
    }

    /// Where the walk stands.
    pub fn mark(&self) -> Mark {
        self.mark
    }

    /// The frame that the last item came from; empty where there was none, or none that is whole.
    pub fn frame(&self) -> &[u8] {
        let frame = self.slab.frames.get(self.mark.frame..self.mark.offset);
        frame.unwrap_or_default()
    }

    /// How many numbers of requests of the game lie between `earlier`, where the walk stood before the last item, and
    /// that item, which has the number `seq`. They are the store's business, and no item tells of them.
    pub fn requests_between(earlier: &Mark, seq: u64) -> u64 {
        seq.saturating_sub(earlier.next_seq)
    }

    /// As [`Walk::requests_between`], at the end of the slab.
    pub fn requests_since(&self, earlier: &Mark) -> u64 {
        Self::requests_between(earlier, self.head().next_seq())
    }

    /// Goes back to where it stood.
    pub fn go_back(&mut self, mark: Mark) {
        self.mark = mark;
    }

    /// The next item; `None` after the last. Sequence numbers rise strictly, and every number that the slab's head
    /// covers is in exactly one item.
    pub fn step(&mut self) -> Option<(&SlabHead, Item<'_>)> {
        let Self {
            slab: Slab {
                head,
                frames: bytes,
            },
            mark,
        } = self;
        let head: &SlabHead = head;
        let end_seq = head.next_seq();
        loop {
            let at = *mark;
            let rest = bytes.get(at.offset..).unwrap_or_default();
            let lost = |count: u64, cause: Cow<'static, str>| {
                let what = What::Lost {
                    count,
                    cause,
                    stream: None,
                };
                Some((
                    head,
                    Item {
                        seq: at.next_seq,
                        monotonic_ns: at.monotonic_ns,
                        what,
                    },
                ))
            };
            // Frames that are gone from here on take the rest of the slab's numbers with them.
            let frame = match frames(rest, &head.epoch).next() {
                Some(Ok(frame)) if frame.header.seq < end_seq => frame,
                other => {
                    mark.offset = bytes.len();
                    mark.frame = bytes.len();
                    mark.next_seq = end_seq;
                    let cause = match other {
                        None => Cow::Borrowed("the slab ends early"),
                        Some(Ok(_)) => Cow::Borrowed("a frame lies beyond its slab"),
                        Some(Err(error)) => Cow::Owned(format!("damaged in the store: {error}")),
                    };
                    let count = end_seq.saturating_sub(at.next_seq);
                    return if count > 0 { lost(count, cause) } else { None };
                }
            };
            let header = frame.header;
            if header.seq > at.next_seq {
                mark.next_seq = header.seq;
                mark.frame = at.offset;
                return lost(
                    header.seq - at.next_seq,
                    Cow::Borrowed("missing in the slab"),
                );
            }
            mark.offset = at.offset.saturating_add(header.frame_bytes());
            mark.frame = at.offset;
            mark.monotonic_ns = header.monotonic_ns;
            let hole = match FrameKind::from_u16(header.kind) {
                Some(FrameKind::Hole) => Hole::parse(frame.payload).ok(),
                _ => None,
            };
            let end = hole.map_or(1, |hole| hole.count.max(1));
            let end = header.seq.saturating_add(end);
            if end <= at.next_seq {
                continue; // Seen before: the part of a repeated slab that apply has cut off.
            }
            // Cut off inside of a hole: what is left of it counts.
            let seq = header.seq.max(at.next_seq);
            if FrameKind::is_request(header.kind) {
                // The store's business, not the backend's.
                mark.next_seq = header.seq.saturating_add(1);
                continue;
            }
            let left = end.min(end_seq).saturating_sub(seq).max(1);
            let item = Item {
                seq,
                monotonic_ns: header.monotonic_ns,
                what: what_of(&frame, left),
            };
            mark.next_seq = seq.saturating_add(item.numbers());
            return Some((head, item));
        }
    }
}

/// What a frame tells; a hole has so many numbers that are `left` to tell.
fn what_of<'a>(frame: &FrameView<'a>, left: u64) -> What<'a> {
    let what = match FrameKind::from_u16(frame.header.kind) {
        Some(FrameKind::Record) => Record::parse(frame.payload).map(What::Record),
        Some(FrameKind::Gap) => Gap::parse(frame.payload).map(What::Refused),
        Some(FrameKind::Hole) => Hole::parse(frame.payload).map(|hole| {
            if hole.cause == hole_cause::TAIL_UNKNOWN {
                return What::TailUnknown;
            }
            match drop_reason(hole.cause) {
                Some(reason) => What::Dropped {
                    count: left,
                    reason,
                },
                None => What::Lost {
                    count: left,
                    cause: hole_words(hole.cause),
                    stream: Hole::stream(frame.payload),
                },
            }
        }),
        Some(FrameKind::Op | FrameKind::Query | FrameKind::Message) | None => Ok(What::Lost {
            count: 1,
            cause: Cow::Owned(format!("frame of unknown kind {}", frame.header.kind)),
            stream: None,
        }),
    };
    what.unwrap_or_else(|error| What::Lost {
        count: 1,
        cause: Cow::Owned(format!("damaged: {error}")),
        stream: None,
    })
}
