//! Sinks and their lanes: who has taken what, and what becomes of it when the configuration changes.
//!
//! - A sink that is taken out no longer holds the log. How far it came is remembered, its open plan included: when it
//!   comes back it goes on there, with what the log still holds, and nothing goes to it twice.
//! - A sink that was never named begins with what is recorded from now on, so that nobody finds old records where he
//!   did not expect them. If others go as it comes, it takes their place and begins where the least advanced of these
//!   stood: nothing falls between two sinks.
//! - What a sink had not taken that went with nobody coming is left behind, and remembered as that.

mod remains;

use serde::{Deserialize, Serialize};

pub use remains::Remains;

use super::super::command::{Plan, Refusal};
use super::State;
use crate::books::SinkBooks;
use crate::position::Position;

/// The largest number of lanes of one sink.
pub const LANES_MAX: u32 = 256;
/// Sinks taken out that are remembered, the latest ones.
const RETIRED_MAX: usize = 16;

/// One lane of a sink.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct LaneState {
    /// Everything of this lane up to and with this position is uploaded. `item` is `u32::MAX` when the whole entry is.
    pub watermark: Position,
    /// The batch that is being uploaded.
    pub plan: Option<Plan>,
    /// Records uploaded so far.
    pub records: u64,
}

/// A sink that was taken out of the configuration, as it stood then.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Retired {
    pub(super) lanes: Vec<LaneState>,
    /// The entry that took it out.
    at: u64,
}

/// Whose place a sink takes that was never named before.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Succession {
    /// Of older logs: that of the most advanced of all there were, if none of them stays. A backlog was dropped where one did.
    OfAll,
    /// That of the least advanced of those that go, whoever stays.
    OfAny,
}

/// Where a new sink begins that takes the place of another.
#[derive(Clone, Debug)]
struct Place {
    at: Position,
    /// Whose it was.
    of: String,
    /// Sequence numbers committed up to there, where that is known.
    since: Option<u64>,
}

/// What became of a sink when the configuration changed.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) enum SinkChange {
    /// It was never named before; it takes what comes after entry `after`.
    Added {
        /// Its name.
        sink: String,
        /// The last entry that it does not take.
        after: u64,
        /// The sink that it takes the place of; in older logs only.
        instead_of: Option<String>,
    },
    /// It was taken out and is back.
    Returned {
        /// Its name.
        sink: String,
        /// Entries that the log no longer holds and that it had not taken.
        missed: u64,
        /// A batch was on its way when it was taken out, and the log no longer holds it: it is not sent again.
        batch_given_up: bool,
    },
    /// It is no longer named; in older logs only.
    Removed {
        /// Its name.
        sink: String,
        /// Entries that it had not taken.
        behind: u64,
    },
    /// It was never named before, and takes the place of one that goes.
    Replaced {
        /// Its name.
        sink: String,
        /// The sink that it takes the place of.
        instead_of: String,
        /// The last entry of which it takes nothing.
        after: u64,
        /// Sequence numbers that it has to take; `None` where nobody knows.
        pending: Option<u64>,
    },
    /// It is no longer named.
    TakenOut {
        /// Its name.
        sink: String,
        /// Sequence numbers that it had not taken; `None` where nobody knows.
        pending: Option<u64>,
        /// Its dead letters.
        letters: u64,
        /// A sink that came, and takes what this one had not taken.
        successor: Option<String>,
    },
}

/// The position that stands for everything up to and with an entry.
pub(super) fn whole(index: u64) -> Position {
    Position {
        index,
        item: u32::MAX,
    }
}

/// Everything in entries at or before this index is taken by all of `lanes`.
fn index_of<'a>(lanes: impl Iterator<Item = &'a LaneState>) -> Option<u64> {
    lanes
        .map(|lane| match lane.watermark.item {
            u32::MAX => lane.watermark.index,
            _ => lane.watermark.index.saturating_sub(1),
        })
        .min()
}

fn lowest(lanes: &[LaneState]) -> Position {
    let watermarks = lanes.iter().map(|lane| lane.watermark);
    watermarks.min().unwrap_or_default()
}

fn begin(lanes: usize, watermark: Position, records: u64) -> Vec<LaneState> {
    let lane = LaneState {
        watermark,
        ..LaneState::default()
    };
    let mut lanes = vec![lane; lanes];
    if let Some(first) = lanes.first_mut() {
        first.records = records;
    }
    lanes
}

/// A sink's lanes change only between plans, when all of them stand at the same position; until then the old number
/// holds.
fn resize(lanes: Vec<LaneState>, wanted: usize) -> Vec<LaneState> {
    let at = lowest(&lanes);
    let quiet = |lane: &LaneState| lane.plan.is_none() && lane.watermark == at;
    if lanes.len() == wanted || !lanes.iter().all(quiet) {
        return lanes;
    }
    let records = lanes.iter().map(|lane| lane.records).sum();
    begin(wanted, at, records)
}

impl State {
    /// Applies the sinks of the configuration at entry `index`; the log holds nothing up to and with `purged`.
    pub(super) fn set_sinks(
        &mut self,
        index: u64,
        sinks: Vec<(String, u32)>,
        purged: u64,
        succession: Succession,
    ) -> Vec<SinkChange> {
        let named = |name: &String| sinks.iter().any(|(sink, _)| sink == name);
        let gone = self.sinks.keys().filter(|name| !named(name));
        let gone: Vec<String> = gone.cloned().collect();
        let mut names = sinks.iter().map(|(sink, _)| sink);
        let successor = names.find(|name| !self.sinks.contains_key(*name)).cloned();
        let place = self.place(&gone, succession);
        let gone = gone.into_iter();
        let mut changes: Vec<SinkChange> = gone
            .map(|sink| self.take_out(index, sink, successor.as_ref(), succession))
            .collect();
        let mut old = std::mem::take(&mut self.sinks);
        for (sink, lanes) in sinks {
            let wanted = lanes.clamp(1, LANES_MAX) as usize;
            let lanes = if let Some(lanes) = old.remove(&sink) {
                resize(lanes, wanted)
            } else if let Some(retired) = self.retired.remove(&sink) {
                self.uncounted(&sink);
                self.left_behind.remove(&sink);
                let knows = succession == Succession::OfAny;
                let last_slab = knows.then_some(self.last_slab);
                let (lanes, change) = bring_back(&sink, retired.lanes, purged, last_slab);
                changes.push(change);
                resize(lanes, wanted)
            } else {
                let place = place.as_ref();
                let (lanes, change) = self.bring_in(index, &sink, wanted, place, succession);
                changes.push(change);
                lanes
            };
            self.sinks.insert(sink, lanes);
        }
        self.forget_retired();
        changes
    }

    /// The place of those that go, for a new one to take.
    fn place(&self, gone: &[String], succession: Succession) -> Option<Place> {
        let stood = gone
            .iter()
            .filter_map(|sink| Some((lowest(self.sinks.get(sink)?), sink)));
        let (at, of) = match succession {
            Succession::OfAll if gone.len() == self.sinks.len() => stood.max()?,
            Succession::OfAll => return None,
            Succession::OfAny => stood.min()?,
        };
        // Its books tell up to where all of its lanes are.
        let mut lanes = self.sinks.get(of).into_iter().flatten();
        let books = self.books.get(of);
        let numbers = books.and_then(|books| Some(books.since?.saturating_add(books.numbers())));
        let is_told = succession == Succession::OfAny && lanes.all(|lane| lane.watermark == at);
        Some(Place {
            at,
            of: of.clone(),
            since: numbers.filter(|_| is_told),
        })
    }

    /// How many sequence numbers a sink has not taken; `None` where nobody knows.
    fn untaken(&self, sink: &str) -> Option<u64> {
        match self.is_done(sink) {
            true => Some(0),
            false => self.books.get(sink)?.pending(self.committed()),
        }
    }

    fn take_out(
        &mut self,
        index: u64,
        sink: String,
        successor: Option<&String>,
        succession: Succession,
    ) -> SinkChange {
        let pending = self.untaken(&sink);
        let letters = self.books.get(&sink).map_or(0, |books| books.letters_now);
        let lanes = self.sinks.remove(&sink).unwrap_or_default();
        let behind = index.saturating_sub(1 + index_of(lanes.iter()).unwrap_or_default());
        let retired = Retired { lanes, at: index };
        self.retired.insert(sink.clone(), retired);
        match succession {
            Succession::OfAll => SinkChange::Removed { sink, behind },
            Succession::OfAny => {
                if successor.is_none() && pending != Some(0) {
                    self.left_behind.insert(sink.clone(), pending);
                }
                SinkChange::TakenOut {
                    sink,
                    pending,
                    letters,
                    successor: successor.cloned(),
                }
            }
        }
    }

    /// The lanes of a sink that was never named before.
    fn bring_in(
        &mut self,
        index: u64,
        sink: &str,
        wanted: usize,
        place: Option<&Place>,
        succession: Succession,
    ) -> (Vec<LaneState>, SinkChange) {
        let now = whole(index.saturating_sub(1));
        let lanes = begin(wanted, place.map_or(now, |place| place.at), 0);
        let after = index_of(lanes.iter()).unwrap_or_default();
        let committed = self.committed();
        // What this very entry brought before is the sink's already.
        let is_exact = self.last_slab < index;
        let books = SinkBooks {
            since: match place {
                Some(place) => place.since,
                None => is_exact.then_some(committed),
            },
            ..SinkBooks::default()
        };
        let sink = sink.to_owned();
        let change = match (place, succession) {
            (Some(place), Succession::OfAny) => SinkChange::Replaced {
                sink: sink.clone(),
                instead_of: place.of.clone(),
                after,
                pending: books.pending(committed),
            },
            _ => SinkChange::Added {
                sink: sink.clone(),
                after,
                instead_of: place.map(|place| place.of.clone()),
            },
        };
        self.books.insert(sink, books);
        (lanes, change)
    }

    /// Of those taken out only the latest are remembered.
    fn forget_retired(&mut self) {
        while self.retired.len() > RETIRED_MAX {
            let oldest = self.retired.iter().min_by_key(|(_, retired)| retired.at);
            let Some(sink) = oldest.map(|(sink, _)| sink.clone()) else {
                break;
            };
            self.retired.remove(&sink);
            self.left_behind.remove(&sink);
            self.books.remove(&sink);
        }
    }

    /// The numbers of lanes in force, sink by sink.
    pub(super) fn lane_counts(&self) -> Vec<(String, u32)> {
        let count = |lanes: &Vec<LaneState>| u32::try_from(lanes.len()).unwrap_or(LANES_MAX);
        self.sinks
            .iter()
            .map(|(name, lanes)| (name.clone(), count(lanes)))
            .collect()
    }

    pub(super) fn lane(&mut self, sink: &str, lane: u32) -> Result<&mut LaneState, Refusal> {
        self.sinks
            .get_mut(sink)
            .and_then(|lanes| lanes.get_mut(lane as usize))
            .ok_or(Refusal::UnknownLane)
    }

    /// Everything in entries at or before this index is folded and uploaded to every sink; `u64::MAX` where nobody waits
    /// for anything.
    pub(crate) fn uploaded_index(&self) -> u64 {
        let uploaded = index_of(self.sinks.values().flatten()).unwrap_or(u64::MAX);
        match self.folding() {
            (true, ..) => uploaded.min(self.uploadable()),
            (false, ..) => uploaded,
        }
    }

    /// All sinks with their lanes.
    pub(crate) fn sinks(&self) -> impl Iterator<Item = (&str, &[LaneState])> {
        let sinks = self.sinks.iter();
        sinks.map(|(sink, lanes)| (sink.as_str(), lanes.as_slice()))
    }

    pub(crate) fn lanes(&self, sink: &str) -> Option<&[LaneState]> {
        self.sinks.get(sink).map(Vec::as_slice)
    }
}

/// The lanes of a sink that was away. What the log no longer holds counts as done with: it cannot be sent, and of a
/// batch that was on its way nobody knows whether the backend has it.
fn bring_back(
    sink: &str,
    mut lanes: Vec<LaneState>,
    purged: u64,
    last_slab: Option<u64>,
) -> (Vec<LaneState>, SinkChange) {
    let missed = match last_slab {
        // Nothing was recorded meanwhile.
        Some(last) if lowest(&lanes) >= whole(last) => 0,
        _ => purged.saturating_sub(index_of(lanes.iter()).unwrap_or_default()),
    };
    let mut batch_given_up = false;
    for lane in &mut lanes {
        if let Some(plan) = lane.plan.take_if(|plan| plan.first.index <= purged) {
            lane.watermark = lane.watermark.max(plan.last);
            batch_given_up = true;
        }
        lane.watermark = lane.watermark.max(whole(purged));
    }
    let change = SinkChange::Returned {
        sink: sink.to_owned(),
        missed,
        batch_given_up,
    };
    (lanes, change)
}

#[cfg(test)]
mod tests;
