//! What is lost of folding (`store::state::folding`) with an entry that held a step.
//!
//! Steps are numbered, so a later one shows which are missing. The entries that they had folded are whole: where nobody has
//! taken anything behind the lost step, the later ones are refused in its absence, and all is folded again from where the
//! state stands. Where a sink has, the rows of later steps must not come a second time: the lost steps count as empty
//! ones, and are told as lost. Which records they had marked is known no more; who has not taken these yet gets a gap in their
//! place, since they may be in rows that went out.

use std::collections::BTreeMap;
use std::ops::Range;

use super::super::command::Command;
use super::super::state::{Marks, State, Step};
use crate::position::Position;
use sidekick_ipc::frame::hole_cause;

/// Where a slab lies that may not be folded, and its numbers.
#[derive(Clone, Debug)]
struct Place {
    index: u64,
    item: u32,
    first_seq: u64,
    count: u64,
}

impl Place {
    /// None of its records goes any further.
    fn hide(&self) -> ((u64, u32), Marks) {
        let end = self.first_seq.saturating_add(self.count);
        let marked: Vec<(u64, u8)> = (self.first_seq..end)
            .map(|seq| (seq, hole_cause::ROTTEN))
            .collect();
        ((self.index, self.item), Marks::new(self.first_seq, &marked))
    }
}

/// What went with one entry.
#[derive(Debug, Default)]
struct LostSteps {
    /// Folding began in it, or before it.
    is_on: bool,
    numbers: Range<u64>,
    /// The steps' entries can be folded again.
    is_there: bool,
    hidden: Vec<Place>,
}

/// Folding as the intact part of the log shows it.
#[derive(Debug)]
pub(super) struct Folds {
    is_on: bool,
    cursor: u64,
    next: u64,
    /// The log holds nothing up to and with this entry.
    purged: u64,
    unfolded: Vec<Place>,
    /// As far as some lane has come, or has planned.
    furthest: Position,
    lost: BTreeMap<u64, LostSteps>,
    /// Records that the watchdog made: those that are known.
    derived: u64,
}

impl Folds {
    pub(super) fn new(base: &State, now: &State, purged: Option<u64>) -> Self {
        let (is_on, cursor, next) = base.folding();
        let lanes = base.sinks().chain(now.sinks()).flat_map(|(_, lanes)| lanes);
        let came = lanes.flat_map(|lane| {
            let planned = lane.plan.as_ref().map(|plan| plan.last);
            [Some(lane.watermark), planned].into_iter().flatten()
        });
        Self {
            is_on,
            cursor,
            next,
            purged: purged.unwrap_or_default(),
            unfolded: Vec::new(),
            furthest: came.max().unwrap_or_default(),
            lost: BTreeMap::new(),
            derived: base.derived_records(),
        }
    }

    /// A lane came so far, or plans to.
    pub(super) fn came(&mut self, position: Position) {
        self.furthest = self.furthest.max(position);
    }

    /// Folding is to begin.
    pub(super) fn begin(&mut self, index: u64) {
        if !self.is_on {
            (self.is_on, self.cursor) = (true, index);
        }
    }

    /// A slab in entry `index`, whose first frame is number `item` of it.
    pub(super) fn slab(&mut self, index: u64, item: u32, first_seq: u64, count: u64) {
        if self.is_on {
            self.unfolded.push(Place {
                index,
                item,
                first_seq,
                count,
            });
        }
    }

    /// Records that the watchdog made came with an entry that the state has.
    pub(super) fn brought(&mut self, count: u64) {
        self.derived = self.derived.saturating_add(count);
    }

    /// A step that is whole; `passed` is the last lost entry before it. Whether it will be taken.
    pub(super) fn step(&mut self, step: &Step, passed: Option<u64>) -> bool {
        if let Some(index) = passed {
            let lost = self.lost.entry(index).or_default();
            if !self.is_on {
                (self.is_on, self.cursor, lost.is_on) = (true, index, true);
            }
            if step.number > self.next {
                lost.numbers = self.next..step.number;
                lost.is_there = self.purged <= self.cursor;
                // Those of this step have its marks.
                let first = step.marks.iter().map(|((index, _), _)| *index).min();
                let end = first.unwrap_or(index).min(index);
                let hidden = self.unfolded.iter().filter(|place| place.index < end);
                lost.hidden = hidden.cloned().collect();
                self.next = step.number;
            }
        }
        if step.number != self.next {
            return false;
        }
        self.next += 1;
        self.cursor = self.cursor.max(step.to);
        let cursor = self.cursor;
        self.unfolded.retain(|place| place.index > cursor);
        true
    }

    /// Behind the last step that is whole the state knows of more: they went with the entry at `index`.
    pub(super) fn close(&mut self, index: u64, now: &State) {
        let (.., next) = now.folding();
        if next > self.next {
            let lost = self.lost.entry(index).or_default();
            lost.numbers = self.next..next;
        }
    }

    /// The first step that went with the entry at `index`, and how many rows went with it, as far as the state knows.
    pub(super) fn lost_rows(&self, index: u64, now: &State) -> Option<(u64, u64)> {
        let lost = self.lost.get(&index)?;
        let rows = now.derived_records().saturating_sub(self.derived);
        (!lost.numbers.is_empty() && rows > 0).then_some((lost.numbers.start, rows))
    }

    /// What is to be applied in the place of what went with the entry at `index`, and the first step that is given up.
    pub(super) fn stand_in(&self, index: u64) -> (Vec<Command>, Option<u64>) {
        let Some(lost) = self.lost.get(&index) else {
            return (Vec::new(), None);
        };
        let mut commands = Vec::new();
        if lost.is_on {
            commands.push(Command::SetFolding { is_on: true });
        }
        let is_taken_behind = self.furthest >= Position { index, item: 0 };
        if !is_taken_behind && lost.is_there {
            return (commands, None);
        }
        let mut marks: Vec<_> = lost.hidden.iter().map(Place::hide).collect();
        for number in lost.numbers.clone() {
            let step = Step {
                number,
                marks: std::mem::take(&mut marks),
                ..Step::default()
            };
            commands.push(Command::Fold { step, rows: None });
        }
        let first = (!lost.numbers.is_empty()).then_some(lost.numbers.start);
        (commands, first)
    }
}
