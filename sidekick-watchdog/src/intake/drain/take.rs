//! From the ring to the store: takes frames out, answers what is asked, sends slabs.

use std::sync::atomic::Ordering;
use std::time::Instant;

use sidekick_ipc::attach::{DrainError, ReaderCheckpoint};
use tracing::{error, warn};

use super::super::filter::{self, Filter, FilterOrigin};
use super::super::{CommitError, requests};
use super::Drain;
use super::settle::InFlight;
use crate::books::Refused;
use crate::slab::{OpAt, RingCheckpoint, Slab, SlabHead};

/// Queries alone wait for company ([`super::HELD_MAX`]) until so many bytes of them are there.
const HELD_BYTES_MAX: usize = 16 << 10;

/// Frames that were taken out of the ring and are not on their way yet.
pub(super) struct Held {
    pub(super) frames: Vec<u8>,
    pub(super) first_seq: u64,
    pub(super) count: u64,
    pub(super) checkpoint: ReaderCheckpoint,
    pub(super) lost: u64,
    pub(super) refused: Refused,
    pub(super) since: Instant,
}

impl Drain {
    /// Takes what the ring holds, one slab at most, and sends it off; queries alone wait for company. Returns how many
    /// numbers it covers.
    pub(super) fn take(&mut self) -> Result<u64, CommitError> {
        let mut frames = match &mut self.held {
            Some(held) => std::mem::take(&mut held.frames),
            None => Vec::new(),
        };
        let before = frames.len();
        let filter = self.committer.filter();
        let growth = filter.as_ref().map_or(1, |filter| filter.growth().max(1));
        let drained = self
            .attachment
            .drain(&mut frames, self.config.slab_bytes_max / growth);
        if let (Some(filter), Ok(_)) = (&filter, &drained) {
            self.judge(&**filter, &mut frames, before);
        }
        let new = match &drained {
            Ok(drained) if drained.count > 0 => {
                let seen = self.progress.recorded.load(Ordering::Relaxed);
                let new = frames.get(before..).unwrap_or_default();
                requests::list(new, &mut self.last_op, seen)
            }
            _ => requests::Listed::default(),
        };
        let mut held = Held {
            frames,
            first_seq: 0,
            count: 0,
            checkpoint: ReaderCheckpoint::default(),
            lost: 0,
            refused: Refused::default(),
            since: Instant::now(),
        };
        if let Some(earlier) = self.held.take() {
            let frames = held.frames;
            held = Held { frames, ..earlier };
        }
        let drained = match drained {
            Ok(drained) => drained,
            Err(error) => {
                match error {
                    DrainError::Truncated { .. } => self.tail_known = false,
                    DrainError::Spill { .. } => self.unreadable = true,
                }
                if !self.complained {
                    error!(%error, epoch = %self.progress.epoch, "ring cannot be read");
                    self.complained = true;
                }
                self.held = (held.count > 0).then_some(held);
                return Ok(0);
            }
        };
        self.unreadable = false;
        if let Some(corruption) = &drained.corruption {
            warn!(epoch = %self.progress.epoch, ?corruption, "ring is damaged; a copy is in quarantine");
        }
        if drained.count == 0 {
            self.held = (held.count > 0).then_some(held);
            return Ok(0);
        }
        if held.count == 0 {
            held.first_seq = drained.first_seq;
        }
        held.count = held.count.saturating_add(drained.count);
        held.checkpoint = drained.checkpoint;
        held.lost = held.lost.saturating_add(drained.lost);
        held.refused.add(&new.refused);
        self.next_seq = held.first_seq.saturating_add(held.count);
        self.progress
            .recorded
            .fetch_max(self.next_seq - 1, Ordering::Relaxed);
        (self.progress.requests).fetch_add(new.new_frames, Ordering::Relaxed);
        let added = held.frames.len().saturating_sub(before);
        self.progress
            .bytes
            .fetch_add(added as u64, Ordering::Relaxed);
        // The game may be waiting: before anything is sent to the disk.
        if !new.queries.is_empty() {
            self.answers.note(new.queries);
            self.answer();
        }
        if !new.has_more_than_queries && held.frames.len() < HELD_BYTES_MAX {
            self.held = Some(held);
            return Ok(drained.count);
        }
        let mut ops = new.ops;
        for (offset, _) in ops.iter_mut().flat_map(|op| &mut op.fragments) {
            // A slab is far below 4 GiB.
            *offset = offset.saturating_add(before as u32);
        }
        self.send(held, ops);
        Ok(drained.count)
    }

    /// Lets the rules have their say on the frames from `from` on.
    fn judge(&self, filter: &dyn Filter, frames: &mut Vec<u8>, from: usize) {
        let info = self.attachment.info();
        let origin = FilterOrigin {
            source: &self.source,
            epoch: info.epoch,
            incarnation: info.launch,
            game_version: &info.game_version,
            realtime_offset_ns: self.attachment.realtime_offset_ns(),
        };
        let done = filter::run(filter, &origin, frames, from);
        let progress = &self.progress;
        (progress.dropped).fetch_add(done.dropped, Ordering::Relaxed);
        if done.unreadable > 0
            && (progress.unreadable).fetch_add(done.unreadable, Ordering::Relaxed) == 0
        {
            warn!(epoch = %info.epoch, count = done.unreadable, "records cannot be read by the rules that would take something out of them; they are not stored, and a gap is uploaded in their place");
        }
    }

    /// Sends what was held back.
    pub(super) fn send_held(&mut self) {
        if let Some(held) = self.held.take() {
            self.send(held, Vec::new());
        }
    }

    fn send(&mut self, held: Held, ops: Vec<OpAt>) {
        let slab = Slab {
            head: self.head(held.first_seq, held.count, held.checkpoint),
            frames: held.frames.into(),
        };
        let last_seq = slab.head.next_seq() - 1;
        let bytes = slab.frames.len();
        self.in_flight_bytes += bytes;
        let has_ops = !ops.is_empty();
        let pending = self.committer.append(slab, ops);
        self.in_flight.push_back(InFlight {
            pending,
            last_seq,
            has_ops,
            checkpoint: held.checkpoint,
            lost: held.lost,
            refused: held.refused,
            bytes,
        });
    }

    pub(super) fn head(
        &self,
        first_seq: u64,
        count: u64,
        checkpoint: ReaderCheckpoint,
    ) -> SlabHead {
        SlabHead {
            source: self.source.clone(),
            epoch: self.attachment.info().epoch,
            incarnation: self.attachment.info().launch,
            realtime_offset_ns: self.attachment.realtime_offset_ns(),
            first_seq,
            count,
            checkpoint: RingCheckpoint {
                rotation: checkpoint.rotation,
                ring_position: checkpoint.ring_position,
                spill_file: checkpoint.spill_file,
                spill_offset: checkpoint.spill_offset,
            },
        }
    }
}
