//! What is put in the place of an entry of which nothing is left.

use bytes::Bytes;
use sidekick_ipc::frame::{FrameKind, Hole, append_frame, hole_cause};
use uuid::Uuid;

use super::super::StoreError;
use super::super::command::{Batch, Command};
use crate::slab::{RingCheckpoint, Slab, SlabHead};

/// A session as the intact part of the log shows it.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Seen {
    pub(super) launch: u32,
    pub(super) next_seq: u64,
    pub(super) realtime_offset_ns: i64,
    pub(super) checkpoint: RingCheckpoint,
    pub(super) monotonic_ns: u64,
}

/// Numbers of a session that went with an entry.
#[derive(Debug)]
pub(super) struct Gap {
    pub(super) source: String,
    pub(super) epoch: Uuid,
    /// The watchdog had made them.
    pub(super) is_derived: bool,
    pub(super) seen: Seen,
    pub(super) first_seq: u64,
    pub(super) end_seq: u64,
}

impl Gap {
    /// What tells of it: a slab of one hole.
    pub(super) fn slab(self) -> Slab {
        let count = self.end_seq - self.first_seq;
        let cause = hole_cause::ROTTEN;
        let mut payload = Vec::with_capacity(Hole::BYTES);
        Hole { count, cause }.encode(&mut payload);
        let mut frames = Vec::new();
        let (kind, at) = (FrameKind::Hole as u16, self.seen.monotonic_ns);
        append_frame(&mut frames, &self.epoch, kind, self.first_seq, at, &payload);
        let head = SlabHead {
            source: self.source,
            epoch: self.epoch,
            incarnation: self.seen.launch,
            realtime_offset_ns: self.seen.realtime_offset_ns,
            first_seq: self.first_seq,
            count,
            checkpoint: self.seen.checkpoint,
        };
        let frames = frames.into();
        Slab { head, frames }
    }
}

/// What is put in the place of one entry.
#[derive(Debug, Default)]
pub(super) struct StandIn {
    pub(super) commands: Vec<Command>,
    pub(super) gaps: Vec<Gap>,
}

impl StandIn {
    /// How many it tells of.
    pub(super) fn numbers(&self) -> u64 {
        let counts = self.gaps.iter().map(|gap| gap.end_seq - gap.first_seq);
        counts.fold(0, u64::saturating_add)
    }

    /// Leaves out the first numbers, `taken` of them, which are uploaded; how many that were. Whose they are is known only
    /// where all are of one session.
    pub(super) fn leave_out(&mut self, taken: u64) -> u64 {
        let [gap] = self.gaps.as_mut_slice() else {
            return 0;
        };
        let taken = taken.min(gap.end_seq - gap.first_seq);
        gap.first_seq += taken;
        self.gaps.retain(|gap| gap.first_seq < gap.end_seq);
        taken
    }

    pub(super) fn encode(self) -> Result<Bytes, StoreError> {
        let (mut commands, mut frames) = (self.commands, Vec::new());
        for gap in self.gaps {
            let is_derived = gap.is_derived;
            let slab = gap.slab();
            // One frame of some dozen bytes.
            let (head, frames_bytes) = (slab.head, slab.frames.len() as u32);
            commands.push(match is_derived {
                true => Command::Derived { head, frames_bytes },
                false => Command::Append { head, frames_bytes },
            });
            frames.push(slab.frames);
        }
        let batch = Batch::encode(&commands, &frames).map_err(|error| StoreError::Raft {
            what: error.to_string(),
        })?;
        Ok(batch.bytes().clone())
    }
}
