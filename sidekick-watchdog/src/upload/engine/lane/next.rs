//! The next batch of a lane: waits until it is due, and plans it.

use std::time::Duration;

use tokio::time::Instant;

use super::{Lane, Ready};
use crate::books::Counts;
use crate::position::Position;
use crate::upload::engine::Drive;
use crate::upload::engine::draft::Draft;
use crate::upload::outbox::{Outbox, OutboxError};
use crate::upload::plan::Plan;
use crate::upload::sink::Batch;

/// A lane without records commits its watermark after this many slabs, so that it does not hold back the log.
const SLABS_UNSAVED_MAX: u64 = 256;
/// A lane without records commits its watermark this long after it saw a slab. Commits bring no slabs, so they never
/// cause another one.
const SAVE_AFTER: Duration = Duration::from_secs(5);

impl<O: Outbox> Lane<O> {
    /// Waits for a batch to be due, plans it and commits the plan. Between batches, sends dead letters again and buries
    /// what the rules refuse.
    pub(super) async fn next_batch(&mut self) -> Result<Ready, OutboxError> {
        loop {
            self.replay_some().await?;
            if !self.wait_until_due().await? {
                continue;
            }
            if self.filler.is_refused() {
                let (_, mut counts) = self.filler.settle();
                let draft = self.filler.take();
                counts.add(&draft.counts);
                let (position, version) = (draft.first().unwrap_or_default(), draft.rules_version);
                if let (Some((code, reason)), Some(record)) = (draft.refusal, draft.record) {
                    let letter = record.letter(position, version, code.to_owned(), reason);
                    if !self.commit_dead(letter, counts).await? {
                        // The rules may think better of it meanwhile.
                        self.begin_anew().await?;
                    }
                }
                continue;
            }
            let extra = self.prepare(self.filler.first()).await;
            // A plan is committed with everything before it settled: nothing of the books hangs on what a restart would
            // have to look at again, with other rules perhaps.
            let settled = match self.filler.has_unsettled() {
                true => Some(self.settle(Counts::default())),
                false => None,
            };
            let (plan, draft) = self.draw_up(extra);
            match settled {
                Some(settled) => self.commit_settled(settled, Some(plan.clone())).await?,
                None => self.commit_plan(&plan).await?,
            }
            return Ok(self.ready(plan, draft).await);
        }
    }

    /// Waits until the draft is due; `false` when a dead letter is to be sent again before it.
    async fn wait_until_due(&mut self) -> Result<bool, OutboxError> {
        let mut drive = self.courier.drive.clone();
        let mut unsaved_since = None;
        loop {
            if self.is_due() {
                return Ok(true);
            }
            let draining = *drive.borrow_and_update() >= Drive::Drain;
            self.tell_done();
            if self.filler.has_more() {
                self.filler.step().await?;
                self.courier.recovered();
                if self.filler.is_empty() && self.filler.slabs_unsaved() >= SLABS_UNSAVED_MAX {
                    self.save_watermark().await?;
                }
                continue;
            }
            if self.has_replay() {
                return Ok(false);
            }
            let due_at = match self.filler.opened_at() {
                Some(opened_at) => Some(opened_at + self.settings.batch_max_age),
                None if self.filler.slabs_unsaved() == 0 => {
                    unsaved_since = None;
                    None
                }
                None if draining => Some(Instant::now()),
                None => Some(*unsaved_since.get_or_insert_with(Instant::now) + SAVE_AFTER),
            };
            tokio::select! {
                step = self.filler.step() => {
                    step?;
                }
                () = until(due_at) => {
                    if self.filler.is_empty() {
                        self.save_watermark().await?;
                    }
                }
                // The engine ends this lane when the sender is gone.
                Ok(()) = drive.changed() => {}
            }
        }
    }

    /// Whether the draft should be sent now.
    pub(super) fn is_due(&self) -> bool {
        let Some(opened_at) = self.filler.opened_at() else {
            return false;
        };
        self.filler.is_closed()
            || opened_at.elapsed() >= self.settings.batch_max_age
            || (*self.courier.drive.borrow() >= Drive::Drain && !self.filler.has_more())
    }

    /// Makes a plan of the draft.
    pub(super) fn draw_up(&mut self, extra: Vec<u8>) -> (Plan, Draft) {
        let draft = self.filler.take();
        let first = draft.first().unwrap_or_default();
        let last = draft.last().unwrap_or_default();
        let plan = Plan {
            sink: self.courier.sink.name().to_owned(),
            lane: self.place.lane,
            first,
            last,
            rules_version: draft.rules_version,
            encoder_version: self.filler.encoder_version(),
            extra,
        };
        self.watch_for_suspects(&draft);
        (plan, draft)
    }

    /// Asks the sink for a plan's `extra` until it gives one.
    pub(super) async fn prepare(&mut self, first: Position) -> Vec<u8> {
        let sink = self.courier.sink.clone();
        loop {
            match sink.prepare(&self.place.group, first).await {
                Ok(extra) => return extra,
                Err(error) => self.courier.trouble(error.0).await,
            }
        }
    }

    pub(super) async fn ready(&mut self, plan: Plan, draft: Draft) -> Ready {
        let sink = self.courier.sink.clone();
        let mut bytes = draft.bytes;
        let body = loop {
            // Only a runtime that is shutting down makes this fail, and then nothing is lost with the rows.
            match sink.encode(&plan, std::mem::take(&mut bytes)).await {
                Ok(body) => break body,
                Err(error) => self.courier.trouble(error.0).await,
            }
        };
        let batch = Batch {
            key: plan.key(&self.place.group),
            plan,
            body,
            rows: draft.rows,
            replay: None,
        };
        Ready {
            batch,
            gap_lines: draft.gap_lines,
            counts: draft.counts,
            record: draft.record,
        }
    }

    /// With no batch on its way, everything before the draft is through, committed or not.
    fn tell_done(&self) {
        let floor = self.filler.floor();
        self.courier
            .board
            .update(self.courier.seat, |_, lane| lane.done(floor));
    }
}

async fn until(at: Option<Instant>) {
    match at {
        Some(at) => tokio::time::sleep_until(at).await,
        None => std::future::pending().await,
    }
}
