//! What stands between the ring and the disk: records may be left out, or stored as something else.
//!
//! Sequence numbers stay dense: a hole frame with a cause of its own stands for what was left out, neighbors in one.
//! A record that was changed keeps its number and its time. What is not touched stays the ring's own bytes.

use sidekick_ipc::frame::{
    FRAME_HEADER_BYTES, FrameHeader, FrameKind, Hole, RECORD_BYTES_MAX, Record, append_frame,
    hole_cause,
};
use uuid::Uuid;

use super::requests::header;

/// Whose records are looked at.
#[derive(Clone, Copy, Debug)]
pub struct FilterOrigin<'a> {
    /// The source that they are stored under.
    pub source: &'a str,
    /// The session.
    pub epoch: Uuid,
    /// The launch that recorded them.
    pub incarnation: u32,
    /// The game's version.
    pub game_version: &'a str,
    /// Added to a record's monotonic time, nanoseconds since 1970.
    pub realtime_offset_ns: i64,
}

/// What becomes of a record.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Filtered {
    /// It is stored as it is.
    Keep,
    /// What was appended to `out`, an encoded value, is stored in its place.
    Changed,
    /// It is not stored, and that is meant.
    Dropped,
    /// It is not stored, since what must not be stored could not be taken out of it.
    Unreadable,
}

/// Judges records before they are stored. `app` implements it over the rules.
///
/// What a filter says may depend on the record and on itself only: after a crash the same records are judged again, if
/// need be by another one, and what was committed counts.
pub trait Filter: Send + Sync {
    /// How many times as large records can become at most, 1 when they only shrink.
    fn growth(&self) -> usize;

    /// Judges one record. Called on intake's threads for each record: it must not wait for anything. `out` is empty.
    fn judge(
        &self,
        origin: &FilterOrigin<'_>,
        record: &Record<'_>,
        header: &FrameHeader,
        out: &mut Vec<u8>,
    ) -> Filtered;
}

/// What was done to a run of frames.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Done {
    /// Records left out because a rule says so.
    pub(super) dropped: u64,
    /// Records that could not be read by a rule that had to.
    pub(super) unreadable: u64,
}

/// Judges the frames of `frames` from `from` on, whole frames of session `origin.epoch` whose checksums were looked at.
pub(super) fn run(
    filter: &dyn Filter,
    origin: &FilterOrigin<'_>,
    frames: &mut Vec<u8>,
    from: usize,
) -> Done {
    let mut out = Rewritten {
        epoch: origin.epoch,
        bytes: Vec::new(),
        is_begun: false,
        hole: None,
    };
    let (mut done, mut value, mut payload) = (Done::default(), Vec::new(), Vec::new());
    let mut at = from;
    while let Some(head) = header(frames, at) {
        let begins = at;
        at = at.saturating_add(head.frame_bytes());
        let payload_at = begins.saturating_add(FRAME_HEADER_BYTES);
        let record = match FrameKind::from_u16(head.kind) {
            Some(FrameKind::Record) => frames
                .get(payload_at..payload_at.saturating_add(head.len as usize))
                .and_then(|payload| Record::parse(payload).ok()),
            _ => None,
        };
        value.clear();
        let mut verdict = match &record {
            Some(record) => filter.judge(origin, record, &head, &mut value),
            None => Filtered::Keep,
        };
        if let (Some(record), Filtered::Changed) = (&record, verdict) {
            payload.clear();
            Record::encode_head(record.stream, &mut payload);
            payload.extend_from_slice(&value);
            if payload.len() > RECORD_BYTES_MAX {
                // Hashes made it too large for any frame; cut off it would be damaged.
                verdict = Filtered::Unreadable;
            }
        }
        if verdict != Filtered::Keep && !out.is_begun {
            out.is_begun = true;
            let before = frames.get(from..begins).unwrap_or_default();
            out.bytes.extend_from_slice(before);
        }
        match verdict {
            Filtered::Keep if out.is_begun => {
                out.end_hole();
                let same = frames.get(begins..at).unwrap_or_default();
                out.bytes.extend_from_slice(same);
            }
            Filtered::Keep => {}
            Filtered::Changed => {
                out.end_hole();
                let (kind, seq, time) = (head.kind, head.seq, head.monotonic_ns);
                append_frame(&mut out.bytes, &origin.epoch, kind, seq, time, &payload);
            }
            Filtered::Dropped => {
                done.dropped += 1;
                out.hole(hole_cause::RULE, &head);
            }
            Filtered::Unreadable => {
                done.unreadable += 1;
                out.hole(hole_cause::RULE_FAILED, &head);
            }
        }
    }
    if out.is_begun {
        out.end_hole();
        // Bytes that are no frame would be found again at upload; there are none.
        out.bytes
            .extend_from_slice(frames.get(at..).unwrap_or_default());
        frames.truncate(from);
        frames.append(&mut out.bytes);
    }
    done
}

/// The frames as they are to be stored.
struct Rewritten {
    epoch: Uuid,
    bytes: Vec<u8>,
    is_begun: bool,
    /// A hole that may grow: its first number, and its time.
    hole: Option<(Hole, u64, u64)>,
}

impl Rewritten {
    fn hole(&mut self, cause: u8, head: &FrameHeader) {
        match &mut self.hole {
            Some((hole, first_seq, _))
                if hole.cause == cause && first_seq.saturating_add(hole.count) == head.seq =>
            {
                hole.count += 1;
            }
            _ => {
                self.end_hole();
                let hole = Hole { count: 1, cause };
                self.hole = Some((hole, head.seq, head.monotonic_ns));
            }
        }
    }

    fn end_hole(&mut self) {
        let Some((hole, seq, monotonic_ns)) = self.hole.take() else {
            return;
        };
        let mut payload = Vec::with_capacity(Hole::BYTES);
        hole.encode(&mut payload);
        let kind = FrameKind::Hole as u16;
        append_frame(
            &mut self.bytes,
            &self.epoch,
            kind,
            seq,
            monotonic_ns,
            &payload,
        );
    }
}

#[cfg(test)]
mod tests;
