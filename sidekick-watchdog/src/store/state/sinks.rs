//! Sinks and their lanes: who has taken what, and what becomes of it when the configuration changes.
//!
//! - A sink that is taken out no longer holds the log. How far it came is remembered, its open plan included: when it
//!   comes back it goes on there, with what the log still holds, and nothing goes to it twice.
//! - A sink that was never named begins with what is recorded from now on, so that nobody finds old records where he
//!   did not expect them. If it takes the place of others (none stays), it begins where the most advanced of these
//!   stood: nothing falls between two sinks.

use serde::{Deserialize, Serialize};

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

/// What became of a sink when the configuration changed.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) enum SinkChange {
    /// It was never named before; it takes what comes after entry `after`.
    Added {
        /// Its name.
        sink: String,
        /// The last entry that it does not take.
        after: u64,
        /// The sink that it takes the place of.
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
    /// It is no longer named.
    Removed {
        /// Its name.
        sink: String,
        /// Entries that it had not taken.
        behind: u64,
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
    ) -> Vec<SinkChange> {
        let mut changes = Vec::new();
        let mut old = std::mem::take(&mut self.sinks);
        let named = |name: &String| sinks.iter().any(|(sink, _)| sink == name);
        let gone: Vec<String> = old.keys().filter(|name| !named(name)).cloned().collect();
        let nobody_stays = gone.len() == old.len();
        let mut place: Option<(Position, String)> = None;
        for sink in gone {
            let lanes = old.remove(&sink).unwrap_or_default();
            let behind = index.saturating_sub(1 + index_of(lanes.iter()).unwrap_or_default());
            place = place.max(Some((lowest(&lanes), sink.clone())));
            let retired = Retired { lanes, at: index };
            self.retired.insert(sink.clone(), retired);
            changes.push(SinkChange::Removed { sink, behind });
        }
        let place = place.filter(|_| nobody_stays);
        for (sink, lanes) in sinks {
            let wanted = lanes.clamp(1, LANES_MAX) as usize;
            let lanes = if let Some(lanes) = old.remove(&sink) {
                resize(lanes, wanted)
            } else if let Some(retired) = self.retired.remove(&sink) {
                self.uncounted(&sink);
                let (lanes, change) = bring_back(&sink, retired.lanes, purged);
                changes.push(change);
                resize(lanes, wanted)
            } else {
                let now = whole(index.saturating_sub(1));
                let start = place.as_ref().map_or(now, |(start, _)| *start);
                // What this very entry brought before is the sink's already.
                let is_exact = place.is_none() && self.last_slab < index;
                let books = SinkBooks {
                    since: is_exact.then(|| self.committed()),
                    ..SinkBooks::default()
                };
                self.books.insert(sink.clone(), books);
                let lanes = begin(wanted, start, 0);
                changes.push(SinkChange::Added {
                    after: index_of(lanes.iter()).unwrap_or_default(),
                    instead_of: place.as_ref().map(|(_, sink)| sink.clone()),
                    sink: sink.clone(),
                });
                lanes
            };
            self.sinks.insert(sink, lanes);
        }
        while self.retired.len() > RETIRED_MAX {
            let oldest = self.retired.iter().min_by_key(|(_, retired)| retired.at);
            let Some(sink) = oldest.map(|(sink, _)| sink.clone()) else {
                break;
            };
            self.retired.remove(&sink);
            self.books.remove(&sink);
        }
        changes
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
fn bring_back(sink: &str, mut lanes: Vec<LaneState>, purged: u64) -> (Vec<LaneState>, SinkChange) {
    let missed = purged.saturating_sub(index_of(lanes.iter()).unwrap_or_default());
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
