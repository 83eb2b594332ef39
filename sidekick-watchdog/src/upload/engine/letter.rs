//! Records on their way to become dead letters, and back.

use std::time::Duration;

use sidekick_ipc::frame::{FrameKind, Hole, append_frame, hole_cause};
use tokio::time::Instant;
use tracing::warn;

use crate::books::Letter;
use crate::position::Position;
use crate::slab::SlabHead;
use crate::upload::encode::{Item, What, Written};
use crate::upload::plan::Dead;

/// A lane that keeps no letter for so long begins a new row: one that comes later is news.
const ROW_PAUSE: Duration = Duration::from_secs(600);

/// A record that may have to be kept, with all that it takes to write its row again.
#[derive(Clone, Debug)]
pub(super) struct Buried {
    head: SlabHead,
    stream: String,
    /// Numbers that count as lost already are not counted a second time.
    numbers: u64,
    frame: Vec<u8>,
    monotonic_ns: u64,
}

impl Buried {
    /// What `item` of the slab with `head` is, as the row tells that was written for it. Its frame is still missing.
    pub(super) fn new(head: &SlabHead, item: &Item<'_>, written: Written) -> Self {
        let is_lost = matches!(item.what, What::Lost { .. }) || written == Written::Undecodable;
        Self {
            head: SlabHead {
                first_seq: item.seq,
                count: item.numbers(),
                ..head.clone()
            },
            stream: item.stream().to_owned(),
            numbers: u64::from(!is_lost),
            frame: Vec::new(),
            monotonic_ns: item.monotonic_ns,
        }
    }

    /// With the frame that it came from; none where the log holds none that is whole.
    pub(super) fn with_frame(mut self, frame: &[u8]) -> Self {
        self.frame = frame.to_vec();
        if frame.is_empty() {
            let hole = Hole {
                count: self.head.count,
                cause: hole_cause::CORRUPT,
            };
            let mut payload = Vec::with_capacity(Hole::BYTES);
            hole.encode(&mut payload);
            let (kind, seq) = (FrameKind::Hole as u16, self.head.first_seq);
            let (epoch, at) = (self.head.epoch, self.monotonic_ns);
            append_frame(&mut self.frame, &epoch, kind, seq, at, &payload);
        }
        self
    }

    /// The letter.
    pub(super) fn letter(
        self,
        position: Position,
        rules_version: u32,
        code: String,
        reason: String,
    ) -> Letter {
        Letter {
            position,
            stream: self.stream,
            code,
            reason,
            rules_version,
            numbers: self.numbers,
            head: self.head,
            frame: self.frame,
        }
        .bounded()
    }
}

/// The letters that a lane has kept in a row: whoever refuses one record may refuse ten thousand.
#[derive(Debug, Default)]
pub(super) struct LetterRow {
    count: u64,
    last: Option<Instant>,
}

impl LetterRow {
    /// `dead` is kept. One line of log; ever more rarely as the row goes on.
    pub(super) fn note(&mut self, dead: &Dead, now: Instant) {
        let goes_on = self
            .last
            .is_some_and(|last| now.duration_since(last) < ROW_PAUSE);
        self.count = if goes_on { self.count + 1 } else { 1 };
        self.last = Some(now);
        if self.count.is_power_of_two() {
            let Dead { sink, lane, .. } = dead;
            let letter = &dead.letter;
            warn!(
                sink,
                lane,
                in_a_row = self.count,
                stream = letter.stream,
                code = letter.code,
                reason = letter.reason,
                "a record was refused for good; kept as a dead letter"
            );
        }
    }
}
