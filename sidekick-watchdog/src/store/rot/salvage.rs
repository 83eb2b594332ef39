//! What is left of a damaged entry whose commands are whole: everything but the records that the damage lies in.
//!
//! The commands have a crc of their own (`command::batch`), and each frame has had one since it lay in the ring. So where the
//! commands are what was written, the frames are gone through one by one, and each that is damaged gives way to a hole of
//! its size. Nothing else moves: positions, plans, marks and the places of ops stay what they were.
//!
//! The lane of a record tells of its hole, if the name of its stream is sure: that has no crc of its own, and so has to be
//! one that an intact record of the entry has, too. Where it is not, an entry is salvaged only as long as no lane stands amid
//! it, and has nothing of it in memory. Else it is given up as a whole.

use std::collections::{BTreeMap, BTreeSet};
use std::ops::Range;

use bytes::Bytes;
use sidekick_ipc::frame::{
    FRAME_BYTES_MAX, FRAME_HEADER_BYTES, FrameHeader, FrameKind, FrameView, Hole, Record,
    append_frame, frames, hole_cause,
};

use super::super::codec;
use super::super::command::{Batch, Command};
use super::super::state::State;
use super::super::wal::{Kind, LogReader, Part};
use super::super::{LANES_MAX, LaneState};
use crate::position::Position;
use crate::slab::{OpAt, SlabHead};
use broken::Without;

/// Where the readers of an entry stand, and so what may change in it.
#[derive(Clone, Copy, Debug)]
pub(super) struct Standing {
    /// It does not matter which lane tells of a hole.
    is_anybodys: bool,
    /// No position amid the entry was written down.
    is_fresh: bool,
    /// The ops in it were applied.
    is_applied: bool,
}

/// How far everybody has come who reads the log.
#[derive(Debug)]
pub(super) struct Readers {
    lanes: BTreeMap<String, Vec<LaneState>>,
    /// Entries up to and with this one are folded.
    folded: u64,
    applied: u64,
    /// Lanes may have more of the log than they wrote down.
    are_running: bool,
}

impl Readers {
    /// Those of a `log` that goes on with the state `now`. While a store `is_running`, the state has all that is in the log; else
    /// what readers wrote down since is found there.
    pub(super) fn of(log: &LogReader, now: &State, is_running: bool) -> Self {
        let (is_folding, cursor, _) = now.folding();
        let lanes = now
            .sinks()
            .map(|(sink, lanes)| (sink.to_owned(), lanes.to_vec()));
        let mut readers = Self {
            lanes: lanes.collect(),
            folded: if is_folding { cursor } else { 0 },
            applied: now.last_applied.map_or(0, |id| id.index),
            are_running: is_running,
        };
        let (first, last) = log.bounds().unwrap_or((1, 0));
        if !is_running {
            for index in first.max(readers.applied + 1)..=last {
                // What cannot be read is damaged, too, and nobody will know what it said.
                if let Ok(Some(entry)) = log.read(index, Part::Heads(Batch::heads_end))
                    && entry.kind == Kind::Normal
                {
                    let commands = Batch::from_bytes(entry.payload).commands();
                    commands
                        .into_iter()
                        .flatten()
                        .for_each(|command| readers.note(command));
                }
            }
        }
        readers
    }

    fn note(&mut self, command: Command) {
        let (sink, lane, plan, up_to) = match command {
            Command::Plan { sink, lane, plan } => (sink, lane, Some(plan), None),
            Command::Uploaded {
                sink, lane, up_to, ..
            }
            | Command::Settle {
                sink, lane, up_to, ..
            } => (sink, lane, None, Some(up_to)),
            Command::DeadLetter {
                sink, lane, letter, ..
            } => (sink, lane, None, Some(letter.position)),
            Command::Fold { step, .. } => {
                self.folded = self.folded.max(step.to);
                return;
            }
            _ => return,
        };
        let lanes = self.lanes.entry(sink).or_default();
        let number = lane as usize;
        if number >= LANES_MAX as usize {
            return;
        }
        if lanes.len() <= number {
            lanes.resize(number + 1, LaneState::default());
        }
        let Some(lane) = lanes.get_mut(number) else {
            return;
        };
        if let Some(up_to) = up_to {
            lane.watermark = lane.watermark.max(up_to);
            lane.plan = lane.plan.take().filter(|plan| plan.last > lane.watermark);
        }
        lane.plan = plan.or_else(|| lane.plan.take());
    }

    /// Where they stand towards the entry at `index`.
    pub(super) fn towards(&self, index: u64) -> Standing {
        let mut standing = Standing {
            is_anybodys: !self.are_running,
            is_fresh: self.folded < index,
            is_applied: self.applied >= index,
        };
        let begin = Position { index, item: 0 };
        let end = Position {
            index,
            item: u32::MAX,
        };
        for lanes in self.lanes.values() {
            let has_passed = |lane: &LaneState| match &lane.plan {
                Some(plan) => plan.first > end,
                None => lane.watermark >= end,
            };
            let is_before = |lane: &LaneState| {
                let planned = lane.plan.as_ref().map(|plan| plan.last);
                lane.watermark.max(planned.unwrap_or_default()) < begin
            };
            let is_apart = !lanes.iter().all(has_passed) && !lanes.iter().all(is_before);
            standing.is_fresh &= !is_apart;
            standing.is_anybodys &= lanes.len() <= 1 || !is_apart;
        }
        standing
    }
}

/// An entry without its damaged records.
#[derive(Debug)]
pub(super) struct Salvaged {
    /// The whole batch, with holes.
    pub(super) payload: Bytes,
    /// All ops that ride in it are whole: it can be applied.
    pub(super) is_applicable: bool,
}

/// A slab in the entry.
struct Place {
    head: SlabHead,
    frames: Range<usize>,
    ops: Vec<OpAt>,
}

/// Frames of a slab that are not what was written.
struct Damage {
    /// Their bytes in the slab.
    bytes: Range<usize>,
    first_seq: u64,
    end_seq: u64,
    /// The clock of the frame before.
    monotonic_ns: u64,
    /// It is one record, whatever else is wrong.
    is_record: bool,
    /// What stands where a record's stream does.
    stream: Option<String>,
}

/// Takes out of the entry with `payload` what is damaged. `None` where that cannot be told from the rest.
pub(super) fn salvage(payload: &[u8], standing: Standing) -> Option<Salvaged> {
    let places = places(payload)?;
    let mut streams = BTreeSet::new();
    let mut damages = Vec::new();
    for place in &places {
        damages.push(look(
            place,
            payload.get(place.frames.clone())?,
            &mut streams,
        )?);
    }
    let mut mended = payload.to_vec();
    let mut is_applicable = true;
    for (place, damage) in places.iter().zip(&damages) {
        let frames = mended.get_mut(place.frames.clone())?;
        for damage in damage {
            is_applicable &= !touches(&place.ops, &damage.bytes);
            let stream = damage.stream.as_ref();
            let is_sure = |stream: &&String| {
                damage.is_record && (streams.contains(*stream) || broken::get(Without::SureStreams))
            };
            let stream = stream.filter(is_sure);
            // Another frame may have become one that looks like a record, and may have been no item.
            let is_known = stream.is_some()
                || standing.is_anybodys && standing.is_fresh
                || broken::get(Without::Standing);
            if !is_known {
                return None;
            }
            damage.mend(frames, &place.head, stream.map(String::as_str))?;
        }
    }
    (standing.is_applied || is_applicable).then(|| Salvaged {
        payload: mended.into(),
        is_applicable,
    })
}

/// Whether the payload of an entry is what was written, by the checksums of its commands and of its frames. They are crcs like the log's: if
/// it `is_changed` so that this one is right, the fold has to be right as well.
pub(crate) fn is_whole(payload: &[u8], is_changed: bool) -> bool {
    if is_changed && !Batch::is_folded(payload) {
        return false;
    }
    let Some(places) = places(payload) else {
        return false;
    };
    places.iter().all(|place| {
        let frames = payload.get(place.frames.clone());
        let damages = frames.and_then(|frames| look(place, frames, &mut BTreeSet::new()));
        damages.is_some_and(|damages| damages.is_empty())
    })
}

/// Where the slabs of an entry lie, if its commands are what was written.
fn places(payload: &[u8]) -> Option<Vec<Place>> {
    let heads = Batch::checked_heads(payload)?;
    let commands: Vec<Command> = codec::decode("commands", heads).ok()?;
    let mut at = Batch::heads_end(payload);
    let mut places = Vec::new();
    for command in commands {
        let ops = match &command {
            Command::AppendOps { ops, .. } => ops.clone(),
            _ => Vec::new(),
        };
        let Some((head, frames_bytes)) = command.slab() else {
            continue;
        };
        let end = at.checked_add(frames_bytes as usize)?;
        places.push(Place {
            head,
            frames: at..end,
            ops,
        });
        at = end;
    }
    // Behind them there may be the padding of the log's frame.
    let rest = payload.len().checked_sub(at)?;
    (rest < 8).then_some(places)
}

/// Whether a part of one of `ops` lies in these bytes.
fn touches(ops: &[OpAt], bytes: &Range<usize>) -> bool {
    let mut fragments = ops.iter().flat_map(|op| &op.fragments);
    fragments.any(|(offset, len)| {
        let from = *offset as usize;
        from < bytes.end && from.saturating_add(*len as usize) > bytes.start
    })
}

/// Finds what is damaged in a slab, and the streams of what is not.
fn look(place: &Place, bytes: &[u8], streams: &mut BTreeSet<String>) -> Option<Vec<Damage>> {
    let head = &place.head;
    let mut damages = Vec::new();
    let (mut at, mut seq, mut monotonic_ns) = (0, head.first_seq, 0);
    while at < bytes.len() {
        if let Some(frame) = whole(bytes, at, head, seq..seq.saturating_add(1)) {
            if frame.header.kind == FrameKind::Record as u16
                && let Ok(record) = Record::parse(frame.payload)
            {
                streams.insert(record.stream.to_owned());
            }
            monotonic_ns = frame.header.monotonic_ns;
            seq = end_of(&frame);
            at = at.checked_add(frame.header.frame_bytes())?;
            continue;
        }
        let (end, end_seq) = next_whole(bytes, at, head, seq)?;
        damages.push(Damage::new(bytes, at..end, seq..end_seq, monotonic_ns));
        (at, seq) = (end, end_seq);
    }
    (at == bytes.len() && seq == head.next_seq()).then_some(damages)
}

/// The number after those that a frame covers.
fn end_of(frame: &FrameView<'_>) -> u64 {
    let is_hole = frame.header.kind == FrameKind::Hole as u16;
    let hole = is_hole.then(|| Hole::parse(frame.payload).ok()).flatten();
    let covers = hole.map_or(1, |hole| hole.count.max(1));
    frame.header.seq.saturating_add(covers)
}

/// The frame at `at`, if it is what was written and has one of these numbers.
fn whole<'a>(
    bytes: &'a [u8],
    at: usize,
    head: &SlabHead,
    seqs: Range<u64>,
) -> Option<FrameView<'a>> {
    let frame = frames(bytes.get(at..)?, &head.epoch).next()?.ok()?;
    seqs.contains(&frame.header.seq).then_some(frame)
}

/// Where the frame behind a damaged one begins, and its number; the slab's end, where there is none.
fn next_whole(bytes: &[u8], bad: usize, head: &SlabHead, seq: u64) -> Option<(usize, u64)> {
    let behind = seq.checked_add(1)?..head.next_seq();
    // Most likely the length is still what it was. What a record holds may look like a frame, and is none.
    let claimed = claim(bytes, bad).map(|header| bad.saturating_add(header.frame_bytes()));
    let next = behind.start..behind.start.saturating_add(1);
    if let Some(at) = claimed.filter(|at| whole(bytes, *at, head, next).is_some()) {
        return Some((at, behind.start));
    }
    let from = bad.checked_add(FRAME_HEADER_BYTES)?;
    for at in (from..bytes.len()).step_by(8) {
        if let Some(frame) = whole(bytes, at, head, behind.clone()) {
            return Some((at, frame.header.seq));
        }
    }
    (seq < head.next_seq()).then_some((bytes.len(), head.next_seq()))
}

/// What looks like the head of a frame. Nothing of it is certain.
fn claim(bytes: &[u8], at: usize) -> Option<FrameHeader> {
    let words = bytes.get(at..)?.first_chunk::<FRAME_HEADER_BYTES>()?;
    let (words, _) = words.as_chunks::<8>();
    let [a, b, c, d] = *words else {
        return None;
    };
    FrameHeader::from_words([a, b, c, d].map(u64::from_le_bytes))
}

impl Damage {
    fn new(slab: &[u8], bytes: Range<usize>, seqs: Range<u64>, monotonic_ns: u64) -> Self {
        // A frame has one number at least.
        let is_one = seqs.end.saturating_sub(seqs.start) == 1;
        let kind = slab.get(bytes.start.saturating_add(4)..);
        let kind = kind.and_then(|kind| kind.first_chunk::<2>());
        let is_record =
            kind.is_some_and(|kind| u16::from_le_bytes(*kind) == FrameKind::Record as u16);
        let payload = slab.get(bytes.start.saturating_add(FRAME_HEADER_BYTES)..bytes.end);
        let record = payload.and_then(|payload| Record::parse(payload).ok());
        Self {
            bytes,
            first_seq: seqs.start,
            end_seq: seqs.end,
            monotonic_ns,
            is_record: is_one && is_record,
            stream: record.map(|record| record.stream.to_owned()),
        }
    }

    /// Puts a hole of the same size there.
    fn mend(&self, frames: &mut [u8], head: &SlabHead, stream: Option<&str>) -> Option<()> {
        let bytes = self.bytes.len();
        if bytes > FRAME_BYTES_MAX {
            return None;
        }
        let hole = Hole {
            count: self.end_seq.saturating_sub(self.first_seq),
            cause: hole_cause::ROTTEN,
        };
        let payload = hole.fill(bytes.checked_sub(FRAME_HEADER_BYTES)?, stream)?;
        let mut frame = Vec::with_capacity(bytes);
        let (kind, at) = (FrameKind::Hole as u16, self.monotonic_ns);
        append_frame(&mut frame, &head.epoch, kind, self.first_seq, at, &payload);
        let place = frames.get_mut(self.bytes.clone())?;
        (place.len() == frame.len()).then(|| place.copy_from_slice(&frame))
    }
}

/// Variants that the tests have to catch.
mod broken {
    /// What is left out.
    #[derive(Clone, Copy, Debug, PartialEq, Eq)]
    pub(super) enum Without {
        /// Whatever stands where a stream does is taken for one.
        SureStreams,
        /// Places are not looked at: an entry is salvaged wherever lanes stand.
        Standing,
    }

    #[cfg(test)]
    thread_local! {
        pub(super) static WITHOUT: std::cell::Cell<Option<Without>> = const { std::cell::Cell::new(None) };
    }

    #[inline]
    pub(super) fn get(what: Without) -> bool {
        #[cfg(test)]
        return WITHOUT.get() == Some(what);
        #[cfg(not(test))]
        {
            let _ = what;
            false
        }
    }
}

#[cfg(test)]
mod tests;
