//! The store as the uploader's outbox: sinks, plans and watermarks, and the records read back from the log.

use std::collections::BTreeMap;
use std::sync::Arc;

use tracing::{info, warn};

use super::command::{Batch, Command, Outcome, Plan};
use super::read::{self, IndexedSlabs};
use super::state::{LaneState, Remains, SinkChange, State};
use super::wal::{Kind, LogEntry, Part, WalError};
use super::{Parts, Store, StoreError};
use crate::books::{Counts, SinkBooks};
use crate::position::Position;

/// Tells the operator what became of a sink.
fn tell(change: &SinkChange) {
    match change {
        SinkChange::Added {
            sink,
            after,
            instead_of: None,
        } => info!(
            sink,
            after_entry = after,
            "a new sink: it takes what is recorded from now on"
        ),
        SinkChange::Returned {
            sink,
            missed: 0,
            batch_given_up: false,
        } => info!(
            sink,
            "a sink is back: it goes on where it stopped, nothing is missing"
        ),
        SinkChange::Returned {
            sink,
            missed,
            batch_given_up,
        } => warn!(
            sink,
            entries_missed = missed,
            batch_given_up,
            "a sink is back: it goes on with what the log still holds; what was removed meanwhile does not go to it"
        ),
        SinkChange::Replaced {
            sink,
            instead_of,
            after,
            pending,
        } => info!(
            sink,
            instead_of,
            after_entry = after,
            pending,
            "a new sink takes the place of another: it takes what that one had not taken, and what comes"
        ),
        SinkChange::TakenOut {
            sink,
            pending,
            letters,
            successor,
        } => {
            match (pending, successor) {
                (Some(0), _) => info!(sink, "a sink was taken out; it had taken everything"),
                (pending, Some(successor)) => info!(
                    sink,
                    successor,
                    pending,
                    "a sink was taken out; what it had not taken goes to another"
                ),
                (Some(pending), None) => warn!(
                    sink,
                    pending,
                    "a sink was taken out before it had taken everything, and the log no longer waits for it; put it \
                     back to send what the log still holds"
                ),
                (None, None) => warn!(
                    sink,
                    "a sink was taken out, and the log no longer waits for it; how much it had not taken is not known. \
                     Put it back to send what the log still holds"
                ),
            }
            if *letters > 0 {
                warn!(
                    sink,
                    dead_letters = letters,
                    "dead letters of a sink that was taken out are kept on; `sidekick-watchdog dead-letters drop --sink` \
                     gives them up, and they can be replayed once the sink is put back"
                );
            }
        }
        // Such outcomes are those of older logs, which nobody waits for.
        SinkChange::Added { .. } | SinkChange::Removed { .. } => {}
    }
}

impl Store {
    /// Tells which sinks there are, with their numbers of lanes (1 to [`LANES_MAX`](super::LANES_MAX)), and returns the
    /// numbers in force: an existing sink's lanes change only when all of them stand at the same position without a plan.
    /// Must be called before the first record is appended: what no sink waits for counts as uploaded.
    ///
    /// A sink that is not named any more no longer holds the log; when it is named again it goes on where it stood, with
    /// what the log still holds. A sink that was never named begins now, or takes the place of the least advanced of those
    /// that go as it comes. A line in the log tells of each that comes or goes.
    ///
    /// # Errors
    /// [`StoreError::Stopped`].
    pub async fn set_sinks(
        &self,
        sinks: Vec<(String, u32)>,
    ) -> Result<BTreeMap<String, u32>, StoreError> {
        // Nothing is purged between our look and the answer: a sink that comes back counts on what is left.
        let machine = Arc::clone(&self.parts.machine);
        let _no_purge = machine.purging.lock().await;
        let purged = self.parts.wal.purged().map_or(0, |id| id.index);
        let is_new = self.parts.machine.read(|state| state.totals().is_empty());
        match self.propose(Command::PlaceSinks { sinks, purged }).await? {
            Outcome::SinksNamed { lanes, changes } => {
                // The first sinks of a new store are no news.
                for change in changes.iter().filter(|_| !is_new) {
                    tell(change);
                }
                Ok(lanes.into_iter().collect())
            }
            other => Err(StoreError::Raft {
                what: format!("unexpected outcome {other:?}"),
            }),
        }
    }

    /// Puts rules in force and tells their version: 0 for an empty text, else the same for the same text while it is
    /// remembered. Texts are kept while a plan names their version.
    ///
    /// # Errors
    /// [`StoreError::Stopped`].
    pub async fn set_rules(&self, text: String) -> Result<u32, StoreError> {
        match self.propose(Command::SetRules { text }).await? {
            Outcome::Rules(version) => Ok(version),
            other => Err(StoreError::Raft {
                what: format!("unexpected outcome {other:?}"),
            }),
        }
    }

    /// The texts of all rules that are kept, by version.
    pub fn rules(&self) -> BTreeMap<u32, String> {
        self.parts.machine.read(|state| state.rules().clone())
    }

    /// What is left of sinks that were taken out of the configuration.
    pub fn remains(&self) -> BTreeMap<String, Remains> {
        let purged = self.parts.wal.purged().map_or(0, |id| id.index);
        self.parts.machine.read(|state| state.remains(purged))
    }

    /// The lanes of a sink; empty if there is no such sink.
    pub fn lanes(&self, sink: &str) -> Vec<LaneState> {
        self.parts
            .machine
            .read(|state| state.lanes(sink).map(<[_]>::to_vec).unwrap_or_default())
    }

    /// Fixes an upload batch before its first try. The same plan again is no error.
    ///
    /// # Errors
    /// [`StoreError::Refused`]: `Refusal::PlanStands`, `Refusal::PlanBehind`, `Refusal::BadPlan`,
    /// `Refusal::UnknownLane`; [`StoreError::Stopped`].
    pub async fn plan(&self, sink: &str, lane: u32, plan: Plan) -> Result<(), StoreError> {
        self.propose(Command::Plan {
            sink: sink.to_owned(),
            lane,
            plan,
        })
        .await
        .map(|_| ())
    }

    /// Moves a lane's watermark: everything of this lane up to and with `up_to` is done with, as `counts` says in the
    /// sink's books. `item = u32::MAX` says the whole entry. A position at or behind the watermark changes nothing, the
    /// books neither.
    ///
    /// The log is freed up to the slowest lane; lanes without records have to be moved on as well.
    ///
    /// # Errors
    /// [`StoreError::Refused`] with `Refusal::UnknownLane`; [`StoreError::Stopped`].
    pub async fn settle(
        &self,
        sink: &str,
        lane: u32,
        up_to: Position,
        counts: Counts,
    ) -> Result<(), StoreError> {
        let command = Command::Settle {
            sink: sink.to_owned(),
            lane,
            up_to,
            counts,
        };
        self.propose(command).await.map(|_| ())
    }

    /// As [`Store::settle`], of so many records.
    #[cfg(test)]
    pub(crate) async fn uploaded(
        &self,
        sink: &str,
        lane: u32,
        up_to: Position,
        records: u64,
    ) -> Result<(), StoreError> {
        let counts = Counts {
            rows: records,
            records,
            ..Counts::default()
        };
        self.settle(sink, lane, up_to, counts).await
    }

    /// Whether an entry is known to be damaged that is still in the log.
    pub fn has_rotten(&self) -> bool {
        self.parts.wal.has_lost()
    }

    /// What became of each sequence number at `sink`, and how many are committed at that moment, those of derived records
    /// among them.
    pub fn books(&self, sink: &str) -> (SinkBooks, u64) {
        let machine = &self.parts.machine;
        machine.read(|state| (state.books(sink), state.committed()))
    }

    /// Committed slabs of the entries after `after_index` that are to be uploaded ([`Store::uploadable`]), in order, about
    /// `max_bytes` of log at most but at least one entry. Records that go no further are holes. Entries without slabs
    /// are left out, except that the last entry looked at is always there (with no slabs, if it has none), so that a
    /// reader gets on. Empty when everything there is has been read.
    ///
    /// # Errors
    /// [`StoreError::Log`]: the log is damaged.
    pub async fn read_slabs(
        &self,
        after_index: u64,
        max_bytes: usize,
    ) -> Result<Vec<IndexedSlabs>, StoreError> {
        let parts = self.parts.clone();
        tokio::task::spawn_blocking(move || parts.read_slabs(after_index, max_bytes))
            .await
            .map_err(|error| StoreError::Raft {
                what: error.to_string(),
            })?
    }
}

impl Parts {
    pub(super) fn read_slabs(
        &self,
        after_index: u64,
        max_bytes: usize,
    ) -> Result<Vec<IndexedSlabs>, StoreError> {
        let end = self.machine.read(State::uploadable);
        self.read_between(after_index, end, max_bytes)
    }

    /// An entry that was applied; one that rots meanwhile is bridged first.
    fn read_entry(&self, index: u64) -> Result<Option<LogEntry>, StoreError> {
        match self.wal.read(index, Part::Whole) {
            Err(cause @ WalError::Rotten { .. }) => {
                self.bridges.bridge(index, cause)?;
                Ok(self.wal.read(index, Part::Whole)?)
            }
            read => Ok(read?),
        }
    }

    /// As [`Parts::read_slabs`], of entries up to and with `end`.
    pub(super) fn read_between(
        &self,
        after_index: u64,
        end: u64,
        max_bytes: usize,
    ) -> Result<Vec<IndexedSlabs>, StoreError> {
        let Some((first, _)) = self.wal.bounds() else {
            return Ok(Vec::new());
        };
        let start = after_index.saturating_add(1).max(first);
        let mut out = Vec::new();
        let mut bytes = 0;
        for index in start..=end {
            let Some(entry) = self.read_entry(index)? else {
                break;
            };
            bytes += entry.payload.len();
            let is_lost = entry.kind == Kind::Lost;
            let loss = is_lost.then(|| self.wal.loss(index));
            let slabs = if entry.kind == Kind::Normal || is_lost {
                let batch = Batch::from_bytes(entry.payload);
                // What was cut off, or goes no further, counts slabs that are no longer there.
                let cut = |state: &State, slab| match is_lost {
                    true => None,
                    false => state.cut(index, slab),
                };
                self.machine
                    .read(|state| {
                        let marks = |item| state.marks(index, item).filter(|_| !is_lost);
                        read::visible(&batch, |slab| cut(state, slab), marks)
                    })
                    .map_err(|error| StoreError::Raft {
                        what: error.to_string(),
                    })?
            } else {
                Vec::new()
            };
            let last = index == end || bytes >= max_bytes;
            if last || is_lost || !slabs.is_empty() {
                out.push(IndexedSlabs { index, slabs, loss });
            }
            if last {
                break;
            }
        }
        Ok(out)
    }
}
