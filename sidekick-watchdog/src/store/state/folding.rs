//! What became of records that rules of the kind *first of its kind* and *so many of them* are asked about: the cells that
//! such rules remember, and the records that go no further (CORRECTNESS rule 19).
//!
//! The state knows nothing of rules. One of the group's nodes folds committed records in their order and proposes what
//! comes of it as a step: cells, marks, rows and cursor move in one command or not at all, and a step is taken only as
//! the one that comes next. So whoever folds an entry a second time, after a crash or beside another node, changes nothing.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use super::super::blob::Blob;
use super::super::command::{Outcome, Refusal};
use super::{Cut, State};

/// Records of a slab that go no further: for each cause (`sidekick_ipc::frame::hole_cause`) a bit for each sequence
/// number, from the slab's first one on.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Marks(Vec<(u8, Blob)>);

impl Marks {
    /// `marked` are sequence numbers and causes; numbers before `first_seq` are left out.
    pub(crate) fn new(first_seq: u64, marked: &[(u64, u8)]) -> Self {
        let mut by_cause: BTreeMap<u8, Vec<u8>> = BTreeMap::new();
        for (seq, cause) in marked {
            let Some(at) = seq.checked_sub(first_seq) else {
                continue;
            };
            let (byte, bit) = ((at / 8) as usize, 1 << (at % 8));
            let bits = by_cause.entry(*cause).or_default();
            if bits.len() <= byte {
                bits.resize(byte + 1, 0);
            }
            if let Some(byte) = bits.get_mut(byte) {
                *byte |= bit;
            }
        }
        let by_cause = by_cause.into_iter();
        Self(by_cause.map(|(cause, bits)| (cause, bits.into())).collect())
    }

    /// Why the record goes no further that stands so many numbers behind the slab's first.
    pub(crate) fn cause(&self, at: u64) -> Option<u8> {
        let (byte, bit) = (usize::try_from(at / 8).ok()?, 1 << (at % 8));
        let is_marked = |bits: &Blob| bits.get(byte).is_some_and(|byte| byte & bit != 0);
        let mut causes = self.0.iter();
        causes
            .find(|(_, bits)| is_marked(bits))
            .map(|(cause, _)| *cause)
    }
}

/// What one step changes.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Step {
    /// Its number; the one that comes next, or nothing happens.
    pub(crate) number: u64,
    /// Entries up to and with this one are folded now.
    pub(crate) to: u64,
    /// Cells that are put, and such that are taken away.
    pub(crate) cells: Vec<(Blob, Option<Blob>)>,
    /// By entry and number of the slab's first frame in it.
    pub(crate) marks: Vec<((u64, u32), Marks)>,
}

impl Step {
    /// About how many bytes it takes.
    pub(crate) fn bytes(&self) -> usize {
        let cells = self.cells.iter();
        let cells =
            cells.map(|(name, cell)| 17 + name.len() + cell.as_ref().map_or(0, |c| c.len()));
        let marks = self.marks.iter();
        let marks =
            marks.map(|(_, Marks(bits))| 20 + bits.iter().map(|(_, b)| 9 + b.len()).sum::<usize>());
        cells.chain(marks).sum()
    }
}

/// See the module.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Folding {
    /// Nothing goes to a sink before it is folded.
    is_on: bool,
    /// Everything in entries at or before it is folded.
    cursor: u64,
    /// The number of the step that comes next.
    next: u64,
    /// What rules remember, by names that they choose.
    cells: BTreeMap<Blob, Blob>,
    /// Of entries that are still in the log.
    marks: BTreeMap<(u64, u32), Marks>,
    /// How many sequence numbers wait to be folded, by the entries that brought them.
    waiting: BTreeMap<u64, u64>,
}

impl State {
    /// From entry `index` on records are folded, or are no more. It ends only when nothing is left to be folded and no
    /// cell is kept; until then the order changes nothing.
    pub(super) fn set_folding(&mut self, index: u64, is_on: bool) -> Outcome {
        let folding = &mut self.folding;
        if is_on && !folding.is_on {
            folding.is_on = true;
            folding.cursor = index;
        }
        let is_done = folding.cells.is_empty() && folding.cursor >= self.last_slab;
        if !is_on && is_done {
            folding.is_on = false;
            folding.waiting.clear();
        }
        Outcome::Done
    }

    /// Takes a step. `rows`: place and count of the records that it brings.
    pub(super) fn fold(
        &mut self,
        step: Step,
        rows: Option<((u64, u32), u64)>,
    ) -> Result<Outcome, Refusal> {
        let folding = &mut self.folding;
        if !folding.is_on || step.number != folding.next {
            if let Some((place, _)) = rows {
                self.cuts.insert(place, Cut::Whole);
            }
            return Err(Refusal::NotNext);
        }
        folding.next += 1;
        folding.cursor = folding.cursor.max(step.to);
        let behind = folding.cursor.saturating_add(1);
        folding.waiting = folding.waiting.split_off(&behind);
        folding.marks.extend(step.marks);
        for (name, cell) in step.cells {
            match cell {
                Some(cell) => drop(folding.cells.insert(name, cell)),
                None => drop(folding.cells.remove(&name)),
            }
        }
        if let Some(((index, _), count)) = rows {
            self.derived_records = self.derived_records.saturating_add(count);
            self.brought(index);
        }
        Ok(Outcome::Done)
    }

    /// Entry `index` brings something to upload.
    pub(super) fn brought(&mut self, index: u64) {
        // Entries that brought nothing need no step.
        if self.folding.is_on && self.folding.cursor >= self.last_slab {
            self.folding.cursor = self.folding.cursor.max(index.saturating_sub(1));
        }
        self.last_slab = index;
    }

    /// Entry `index` brings so many sequence numbers that are to be folded, where anything is.
    pub(super) fn awaits_folding(&mut self, index: u64, numbers: u64) {
        let folding = &mut self.folding;
        if folding.is_on && index > folding.cursor && numbers > 0 {
            let waiting = folding.waiting.entry(index).or_default();
            *waiting = waiting.saturating_add(numbers);
        }
    }

    /// How many sequence numbers wait to be folded; `None` while none is to be.
    pub(crate) fn unfolded(&self) -> Option<u64> {
        let waiting = self.folding.waiting.values();
        let sum = waiting.fold(0, |sum: u64, numbers| sum.saturating_add(*numbers));
        self.folding.is_on.then_some(sum)
    }

    /// Entries up to this one may be read for upload: all, or those that are folded.
    pub(crate) fn uploadable(&self) -> u64 {
        let applied = self.last_applied.map_or(0, |id| id.index);
        match self.folding.is_on && self.folding.cursor < self.last_slab {
            true => self.folding.cursor.min(applied),
            false => applied,
        }
    }

    /// Whether records are folded, up to where they are, and the number of the next step.
    pub(crate) fn folding(&self) -> (bool, u64, u64) {
        let Folding {
            is_on,
            cursor,
            next,
            ..
        } = &self.folding;
        (*is_on, *cursor, *next)
    }

    pub(crate) fn cells(&self) -> &BTreeMap<Blob, Blob> {
        &self.folding.cells
    }

    /// Which records of the slab go no further that begins with frame `item` of entry `index`.
    pub(crate) fn marks(&self, index: u64, item: u32) -> Option<&Marks> {
        self.folding.marks.get(&(index, item))
    }

    /// Drops the marks of entries at or before `index`, which are no longer in the log.
    pub(super) fn forget_marks(&mut self, index: u64) {
        let marks = &mut self.folding.marks;
        *marks = marks.split_off(&(index.saturating_add(1), 0));
    }
}

#[cfg(test)]
mod tests;
