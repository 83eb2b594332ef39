//! Folding as its driver sees it: what is not folded yet, what rules remember, and the step that moves both on.

use std::collections::BTreeMap;

use sidekick_ipc::frame::{FrameKind, Record, append_frame};
use uuid::Uuid;

use super::command::{Command, Outcome};
use super::read::IndexedSlabs;
use super::state::{Marks, State, Step};
use super::{Parts, Store, StoreError};
use crate::slab::{RingCheckpoint, SlabHead};

/// Keeps rows' epochs apart from all others that follow from an id.
const EPOCH_MASK: u64 = 0x5349_4445_4b66_6f6c;

/// Where folding stands, and what comes next.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Unfolded {
    /// The number of the step that comes next.
    pub step: u64,
    /// Everything in entries at or before it is folded when `entries` are.
    pub to: u64,
    /// Slabs that are not folded, in order; those that folding itself has brought are left out.
    pub entries: Vec<IndexedSlabs>,
    /// Nothing lies behind `to`.
    pub is_all: bool,
    /// Something is not uploaded before the step is taken, be it nothing that is to be folded.
    pub holds_up: bool,
}

/// A record that stands for others.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct FoldRow {
    /// Its time, nanoseconds since 1970.
    pub time_ns: u64,
    /// Its stream, 1 to 255 bytes.
    pub stream: String,
    /// Its value, encoded; with the stream's name at most 64 KiB.
    pub variant: Vec<u8>,
}

/// Records of a slab that go no further.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct FoldMarks {
    /// The slab's entry.
    pub index: u64,
    /// The number of the slab's first frame in it, as [`IndexedSlabs`] has it.
    pub item: u32,
    /// The slab's first sequence number.
    pub first_seq: u64,
    /// Records' sequence numbers with their causes ([`sidekick_ipc::frame::hole_cause`]).
    pub records: Vec<(u64, u8)>,
}

/// What has come of folding some entries.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct FoldStep {
    /// [`Unfolded::step`].
    pub step: u64,
    /// [`Unfolded::to`].
    pub to: u64,
    /// Cells that are put, and such that are taken away.
    pub cells: Vec<(Vec<u8>, Option<Vec<u8>>)>,
    /// Records that go no further.
    pub marks: Vec<FoldMarks>,
    /// Records that are to be uploaded as others are.
    pub rows: Vec<FoldRow>,
}

/// The epoch of the rows of a step. The same for ever: backends know records by it.
pub(super) fn epoch(group: Uuid, step: u64) -> Uuid {
    let id = Uuid::from_u64_pair(group.as_u64_pair().0 ^ EPOCH_MASK, step);
    uuid::Builder::from_custom_bytes(id.into_bytes()).into_uuid()
}

fn is_of_a_step(group: Uuid, known: Uuid) -> bool {
    known.as_u64_pair().0 == epoch(group, 0).as_u64_pair().0
}

/// Rows as a session of their own.
fn slab(source: &str, epoch: Uuid, rows: &[FoldRow]) -> (SlabHead, Vec<u8>) {
    let mut frames = Vec::new();
    for (seq, row) in (1..).zip(rows) {
        let mut payload = Vec::with_capacity(1 + row.stream.len() + row.variant.len());
        Record::encode_head(&row.stream, &mut payload);
        payload.extend_from_slice(&row.variant);
        let kind = FrameKind::Record as u16;
        append_frame(&mut frames, &epoch, kind, seq, row.time_ns, &payload);
    }
    let head = SlabHead {
        source: source.to_owned(),
        epoch,
        incarnation: 0,
        realtime_offset_ns: 0,
        first_seq: 1,
        count: rows.len() as u64,
        checkpoint: RingCheckpoint::default(),
    };
    (head, frames)
}

impl Store {
    /// From now on no record is uploaded before it is folded ([`Store::fold`]), or that ends: as soon as everything is
    /// folded and no cell is left, which [`Store::is_folding`] tells. Again, it changes nothing.
    ///
    /// # Errors
    /// [`StoreError::Stopped`].
    pub async fn set_folding(&self, is_on: bool) -> Result<(), StoreError> {
        let done = self.propose(Command::SetFolding { is_on }).await;
        done.map(|_| ())
    }

    /// Whether records wait to be folded before they are uploaded.
    pub fn is_folding(&self) -> bool {
        self.parts.machine.read(|state| state.folding().0)
    }

    /// How many sequence numbers wait to be folded; `None` while none is to be.
    pub fn unfolded_numbers(&self) -> Option<u64> {
        self.parts.machine.read(State::unfolded)
    }

    /// What rules remember, and the number of the step that comes next: one that was on its way may still be taken after
    /// this, and what is told here is of no use then.
    pub fn cells(&self) -> (u64, BTreeMap<Vec<u8>, Vec<u8>>) {
        self.parts.machine.read(|state| {
            let (.., next) = state.folding();
            let cells = state.cells().iter();
            let cells = cells.map(|(name, cell)| (name.to_vec(), cell.to_vec()));
            (next, cells.collect())
        })
    }

    /// What is to be folded next, about `bytes_max` of log at most.
    ///
    /// # Errors
    /// [`StoreError::Log`]: the log is damaged.
    pub async fn unfolded(&self, bytes_max: usize) -> Result<Unfolded, StoreError> {
        let (parts, group) = (self.parts.clone(), self.group);
        tokio::task::spawn_blocking(move || parts.unfolded(group, bytes_max))
            .await
            .map_err(|error| StoreError::Raft {
                what: error.to_string(),
            })?
    }

    /// Takes a step: all of it or nothing. Durable when this returns. `source` is whose the rows are.
    ///
    /// # Errors
    /// [`StoreError::Refused`] with `Refusal::NotNext`: this step, or another in its place, was taken before.
    /// [`StoreError::NoSpace`]; [`StoreError::Stopped`].
    pub async fn fold(&self, source: &str, step: FoldStep) -> Result<(), StoreError> {
        let marks = step.marks.into_iter();
        let marks = marks.map(|marks| {
            let place = (marks.index, marks.item);
            (place, Marks::new(marks.first_seq, &marks.records))
        });
        let cells = step.cells.into_iter();
        let cells = cells.map(|(name, cell)| (name.into(), cell.map(Into::into)));
        let (rows, frames) = match step.rows.is_empty() {
            true => (None, None),
            false => {
                let (head, frames) = slab(source, epoch(self.group, step.step), &step.rows);
                (Some((head, frames.len() as u32)), Some(frames.into()))
            }
        };
        let command = Command::Fold {
            step: Step {
                number: step.step,
                to: step.to,
                cells: cells.collect(),
                marks: marks.collect(),
            },
            rows,
        };
        let ticket = self.parts.proposer.submit(command, frames).await?;
        match ticket.wait().await? {
            Outcome::Refused(refusal) => Err(StoreError::Refused(refusal)),
            _ => Ok(()),
        }
    }
}

impl Parts {
    fn unfolded(&self, group: Uuid, bytes_max: usize) -> Result<Unfolded, StoreError> {
        let (step, cursor, applied, uploadable) = self.machine.read(|state: &State| {
            let (_, cursor, step) = state.folding();
            let applied = state.last_applied.map_or(0, |id| id.index);
            (step, cursor, applied, state.uploadable())
        });
        let holds_up = uploadable < applied;
        // Else there are no slabs behind the cursor, however many other entries.
        let mut entries = match holds_up {
            true => self.read_between(cursor, applied, bytes_max)?,
            false => Vec::new(),
        };
        let to = entries.last().map_or(uploadable, |entry| entry.index);
        for entry in &mut entries {
            entry
                .slabs
                .retain(|(_, slab)| !is_of_a_step(group, slab.head.epoch));
        }
        entries.retain(|entry| !entry.slabs.is_empty());
        Ok(Unfolded {
            step,
            to,
            entries,
            is_all: to >= applied,
            holds_up,
        })
    }
}

#[cfg(test)]
mod tests;
