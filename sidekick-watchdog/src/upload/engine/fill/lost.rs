//! Entries of the log that are lost: which lane tells of one, and what it leaves out because the sink has it.

use super::Filler;
use crate::position::{LOST_ITEM, Loss, Position};
use crate::slab::Slab;
use crate::upload::outbox::{LaneState, Outbox, OutboxError};

/// Whether a lane has still to pass what lies at `position`. An open plan beyond it has passed it, too: nobody looks again
/// at what lies before it.
fn is_behind(lane: &LaneState, position: Position) -> bool {
    match &lane.plan {
        Some(plan) => plan.first <= position,
        None => lane.watermark < position,
    }
}

/// Who tells of an entry that is lost.
enum Teller {
    We,
    Another,
    /// It is for us, but not before others have passed it.
    WeLater,
}

impl<O: Outbox> Filler<O> {
    /// Where the next entry was found to be damaged since it was read: `false`, and it will be read again.
    pub(super) fn begins_with_truth(&mut self) -> bool {
        let next = self.queue.front().filter(|entry| entry.loss.is_none());
        let (None, Some(index)) = (&self.entry, next.map(|entry| entry.index)) else {
            return true;
        };
        // Behind a batch that is made again, something may be in memory.
        self.begun = match self.until {
            Some(_) => self.begun.max(index),
            None => index,
        };
        self.losses.begin(self.lane, self.begun);
        if !self.outbox.is_lost(index) {
            return true;
        }
        self.queue.clear();
        self.read_through = index.saturating_sub(1);
        false
    }

    /// Where the next entry is lost: finds out who tells of it. `false` where other lanes have to pass it first: at once
    /// when that is news, since the caller may have something else to do, else when something has changed.
    pub(super) async fn knows_teller(&mut self) -> Result<bool, OutboxError> {
        let next = self.queue.front().filter(|entry| entry.loss.is_some());
        let (None, Some(index), false) =
            (&self.entry, next.map(|entry| entry.index), self.has_asked)
        else {
            return Ok(true);
        };
        self.applied.mark_unchanged();
        self.met.mark_unchanged();
        let lost = Position {
            index,
            item: LOST_ITEM,
        };
        let teller = match self.until {
            // What tells of it lies behind the batch.
            Some(until) if until < lost => Teller::We,
            _ => self.teller(lost).await?,
        };
        match teller {
            Teller::We => {}
            Teller::Another => {
                if let Some(entry) = self.queue.front_mut() {
                    entry.slabs.clear();
                }
            }
            Teller::WeLater => {
                if !std::mem::replace(&mut self.waits, true) {
                    return Ok(false);
                }
                tokio::select! {
                    changed = self.applied.changed() => changed.map_err(|_| OutboxError::Closed)?,
                    // Its sender is ours.
                    _ = self.met.changed() => {}
                }
                self.waits = false;
                return Ok(false);
            }
        }
        (self.has_asked, self.waits) = (true, false);
        Ok(true)
    }

    /// Which lane tells of the lost entry at `lost`. What it held of which lane is not known, so it is the last one to pass
    /// it: once it is told no lane is left that could tell it again, and while it is not there is one. Lanes that have it as
    /// it was tell of nothing.
    async fn teller(&self, lost: Position) -> Result<Teller, OutboxError> {
        let passes = self.losses.meet(self.lane, lost);
        let lanes = self.outbox.lanes(self.sink.name()).await?;
        let lanes = (0..).zip(lanes);
        let behind: Vec<u32> = lanes
            .filter(|(number, lane)| *number != self.lane && is_behind(lane, lost))
            .map(|(number, _)| number)
            .collect();
        let of_us: Vec<u32> = match self.accounts {
            // Where anybody tells of it, he tells of all.
            true if behind.iter().any(|number| !passes.contains(number)) => {
                return Ok(Teller::Another);
            }
            true => behind.clone(),
            false => {
                let tellers = behind.iter().filter(|number| !passes.contains(number));
                tellers.copied().collect()
            }
        };
        Ok(match of_us.iter().max() {
            Some(number) if *number > self.lane => Teller::Another,
            _ if behind.is_empty() => Teller::We,
            _ => Teller::WeLater,
        })
    }

    /// How many more numbers of the lost entry at `index`, whose loss is told by `slabs`, are uploaded where everything at or
    /// before `position` is. A frame has one number or more.
    fn taken_of(&self, index: u64, loss: Loss, slabs: &[Slab], position: Position) -> u64 {
        let is_amid = position.index == index && position.item < LOST_ITEM;
        match slabs {
            // With several lanes, some of them may be others' records; with several sessions, nobody knows whose they are.
            [slab] if is_amid && self.lanes == 1 => {
                let taken = u64::from(position.item) + 1;
                taken.saturating_sub(loss.taken).min(slab.head.count)
            }
            _ => 0,
        }
    }

    /// Leaves out of `slabs`, which tell of a loss, what is uploaded.
    pub(super) fn leave_out_taken(&mut self, index: u64, loss: Loss, slabs: &mut Vec<Slab>) {
        let taken = self.taken_of(index, loss, slabs, self.held);
        if let Some(until) = self.until.filter(|_| self.accounts) {
            let more = self.taken_of(index, loss, slabs, until);
            let more = more.saturating_sub(taken);
            self.trail.records = self.trail.records.saturating_add(more);
            self.trail.rows = self.trail.rows.saturating_add(more);
        }
        if let [slab] = slabs.as_mut_slice() {
            slab.head.first_seq = slab.head.first_seq.saturating_add(taken);
            slab.head.count = slab.head.count.saturating_sub(taken);
        }
        slabs.retain(|slab| slab.head.count > 0);
    }
}
