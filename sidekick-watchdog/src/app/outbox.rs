//! Joins upload to the store: the log is the outbox, the state keeps plans and watermarks.

use std::sync::Arc;

use tokio::sync::watch;
use uuid::Uuid;

use crate::position::Position;
use crate::slab::SlabHead;
use crate::store::{self, Refusal, Store, StoreError};
use crate::upload::{Dead, IndexedSlabs, LaneState, Outbox, OutboxError, Plan, Replay, Settled};

/// The store as the uploader sees it.
pub(super) struct StoreOutbox(pub(super) Arc<Store>);

impl Outbox for StoreOutbox {
    fn group(&self) -> Uuid {
        self.0.group()
    }

    async fn lanes(&self, sink: &str) -> Result<Vec<LaneState>, OutboxError> {
        let lanes = self.0.lanes(sink).into_iter().zip(0..);
        Ok(lanes
            .map(|(lane, number)| LaneState {
                watermark: lane.watermark,
                plan: lane.plan.map(|plan| planned(sink, number, plan)),
            })
            .collect())
    }

    async fn read(
        &self,
        after_index: u64,
        bytes_max: usize,
    ) -> Result<Vec<IndexedSlabs>, OutboxError> {
        let mut after = after_index;
        loop {
            let entries = self
                .0
                .read_slabs(after, bytes_max)
                .await
                .map_err(outbox_error)?;
            // The store hands out the last entry that it looked at even if it holds nothing, so that we get on.
            let Some(last) = entries.last().map(|entry| entry.index) else {
                return Ok(Vec::new());
            };
            let found: Vec<IndexedSlabs> = entries
                .into_iter()
                .filter(|entry| entry.loss.is_some() || !entry.slabs.is_empty())
                .map(|entry| IndexedSlabs {
                    index: entry.index,
                    slabs: entry.slabs.into_iter().map(|(_, slab)| slab).collect(),
                    loss: entry.loss,
                })
                .collect();
            if !found.is_empty() {
                return Ok(found);
            }
            after = last;
        }
    }

    fn game_version(&self, head: &SlabHead) -> Arc<str> {
        let SlabHead {
            source,
            incarnation,
            epoch,
            ..
        } = head;
        self.0.game_version(source, *incarnation, *epoch)
    }

    fn is_lost(&self, index: u64) -> bool {
        self.0.is_rotten(index)
    }

    fn has_lost(&self) -> bool {
        self.0.has_rotten()
    }

    fn applied(&self) -> watch::Receiver<u64> {
        self.0.uploadable()
    }

    async fn commit_plan(&self, plan: Plan) -> Result<(), OutboxError> {
        let (sink, lane) = (plan.sink.clone(), plan.lane);
        self.0
            .plan(&sink, lane, stored(plan))
            .await
            .map_err(outbox_error)
    }

    async fn commit_settled(
        &self,
        settled: Settled,
        next: Option<Plan>,
    ) -> Result<(), OutboxError> {
        let Settled {
            sink,
            lane,
            up_to,
            counts,
        } = settled;
        let moved = self.0.settle(&sink, lane, up_to, counts);
        let Some(next) = next else {
            return moved.await.map_err(outbox_error);
        };
        // Queued one behind the other, so the proposer puts both into one entry. Were they torn apart by a crash, the
        // lane would stand at its new watermark without a plan: a state it knows.
        let (moved, planned) = tokio::join!(biased; moved, self.0.plan(&sink, lane, stored(next)));
        moved.and(planned).map_err(outbox_error)
    }

    async fn commit_dead(&self, dead: Dead) -> Result<(), OutboxError> {
        let Dead {
            sink,
            lane,
            counts,
            letter,
        } = dead;
        let kept = self.0.dead_letter(&sink, lane, counts, letter);
        kept.await.map_err(outbox_error)
    }

    fn next_replay(&self, sink: &str, lane: u32) -> Option<Replay> {
        let (id, kept) = self.0.next_replay(sink, lane)?;
        let number = match kept.plan {
            Some(_) => kept.replays,
            None => kept.replays.saturating_add(1),
        };
        Some(Replay {
            id,
            lane: kept.lane,
            number,
            plan: kept.plan.map(|plan| planned(sink, lane, plan)),
            letter: kept.letter.as_ref().clone(),
        })
    }

    async fn commit_replay_plan(
        &self,
        id: u64,
        number: u32,
        plan: Plan,
        refused: Option<Position>,
    ) -> Result<bool, OutboxError> {
        match self.0.plan_replay(id, number, stored(plan), refused).await {
            Ok(()) => Ok(true),
            Err(StoreError::Refused(Refusal::UnknownLetter)) => Ok(false),
            Err(error) => Err(outbox_error(error)),
        }
    }

    async fn commit_replayed(
        &self,
        id: u64,
        number: u32,
        refused: Option<(String, String)>,
    ) -> Result<(), OutboxError> {
        let done = match refused {
            None => self.0.replayed(id, number).await,
            Some((code, reason)) => self.0.replay_refused(id, number, code, reason).await,
        };
        match done {
            // It was said before.
            Err(StoreError::Refused(Refusal::UnknownLetter)) => Ok(()),
            done => done.map_err(outbox_error),
        }
    }
}

fn planned(sink: &str, lane: u32, plan: store::Plan) -> Plan {
    Plan {
        sink: sink.to_owned(),
        lane,
        first: plan.first,
        last: plan.last,
        rules_version: plan.rules_version,
        encoder_version: plan.encoder_version,
        extra: plan.extra,
    }
}

fn stored(plan: Plan) -> store::Plan {
    store::Plan {
        first: plan.first,
        last: plan.last,
        rules_version: plan.rules_version,
        encoder_version: plan.encoder_version,
        extra: plan.extra,
    }
}

fn outbox_error(error: StoreError) -> OutboxError {
    match error {
        StoreError::Stopped { .. } => OutboxError::Closed,
        StoreError::Refused(full @ Refusal::LettersFull { .. }) => {
            OutboxError::LettersFull(full.to_string())
        }
        StoreError::Refused(refusal @ (Refusal::UnknownLane | Refusal::PlanStands)) => {
            OutboxError::Failed(refusal.to_string())
        }
        error => OutboxError::Failed(error.to_string()),
    }
}

#[cfg(test)]
mod tests;
