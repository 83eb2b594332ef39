//! Where a lane begins: what its sink holds already, and the batch that was planned before.

use tracing::{info, warn};

use super::{Lane, Place, Ready};
use crate::position::Position;
use crate::upload::engine::draft::Draft;
use crate::upload::outbox::{Outbox, OutboxError};
use crate::upload::plan::{Plan, Settled};
use crate::upload::sink::Held;
use crate::upload::status::SinkState;

impl<O: Outbox> Lane<O> {
    /// Where the log was damaged when the store was opened, a batch may have arrived of which that was not written down, and be
    /// lost: takes what the sink says that it holds for uploaded.
    pub(super) async fn learn_what_is_held(&mut self) -> Result<(), OutboxError> {
        if self.knows_held || !self.outbox.has_lost() {
            self.knows_held = true;
            return Ok(());
        }
        let (courier, Place { group, lanes, .. }) = (&mut self.courier, self.place);
        let ask = || async move {
            let sink = courier.sink.clone();
            let mut held = Vec::new();
            while let Ok(lane) = u32::try_from(held.len()) {
                if lane >= lanes {
                    break;
                }
                match sink.held(&group, lane).await {
                    Ok(lane) => held.push(lane.unwrap_or_default()),
                    Err(error) => courier.trouble(error.0).await,
                }
            }
            held
        };
        let all = self.losses.held.get_or_init(ask).await;
        let held = all.get(self.place.lane as usize);
        let Held { position, last } = held.copied().unwrap_or_default();
        self.courier.recovered();
        // What lies beyond the log's end is not ours.
        self.filler.set_last(last);
        if position > self.filler.held() && position.index <= self.filler.applied() {
            self.take_for_uploaded(position).await?;
        }
        self.knows_held = true;
        Ok(())
    }

    /// The sink has everything up to and with `held`.
    async fn take_for_uploaded(&mut self, held: Position) -> Result<(), OutboxError> {
        let plan = self.open_plan.clone();
        let rules = plan.as_ref().map(|plan| plan.rules_version);
        let rules = rules.filter(|version| self.filler.knows(*version));
        let rules = rules.unwrap_or_else(|| self.filler.rules_version());
        let counts = self.filler.account(plan.as_ref(), held, rules).await?;
        let (sink, lane) = (self.courier.sink.name().to_owned(), self.place.lane);
        info!(
            sink,
            lane,
            numbers = counts.numbers(),
            "the sink has taken more than was written down; none of it is told as lost"
        );
        let settled = Settled {
            sink,
            lane,
            up_to: held,
            counts,
        };
        self.commit_settled(settled, None).await?;
        self.filler.set_held(held);
        match plan.filter(|plan| plan.last > held) {
            None => self.filler.begin_after(held),
            plan => self.open_plan = plan,
        }
        self.courier
            .board
            .update(self.courier.seat, |_, lane| lane.done(held));
        Ok(())
    }

    /// The batch of `plan`, or the next one where nothing of that is left.
    pub(super) async fn resume_or_next(&mut self, plan: Plan) -> Result<Ready, OutboxError> {
        match self.resume(plan).await? {
            Some(ready) => Ok(ready),
            None => self.next_batch().await,
        }
    }

    /// Makes the batch of a plan again that an earlier process (or an earlier try) committed. `None` when all of its
    /// records are lost; it is settled then.
    async fn resume(&mut self, plan: Plan) -> Result<Option<Ready>, OutboxError> {
        let encoder = self.filler.encoder_version();
        let rules = self.filler.rules_version();
        let is_known = self.filler.knows(plan.rules_version);
        let reason = if plan.encoder_version != encoder || !is_known {
            format!(
                "the open batch was planned with encoder {} and rules {}, this program has {encoder} and \
                 {rules}; run the version that planned it until it is uploaded",
                plan.encoder_version, plan.rules_version
            )
        } else if let Some(draft) = self.filler.rebuild(&plan).await? {
            if draft.rows.is_empty() {
                self.settle_lost(plan, draft).await?;
                return Ok(None);
            }
            info!(
                sink = plan.sink,
                lane = plan.lane,
                records = draft.rows.len(),
                "resuming a planned batch"
            );
            return Ok(Some(self.ready(plan, draft).await));
        } else {
            format!(
                "the log no longer holds what the open plan names ({}); nothing more can be sent in this lane without \
                 risking that records arrive twice",
                plan.key(&self.place.group)
            )
        };
        self.stand_still(reason).await
    }

    /// All records of `plan` are lost.
    pub(super) async fn settle_lost(
        &mut self,
        plan: Plan,
        draft: Draft,
    ) -> Result<(), OutboxError> {
        let settled = Settled {
            sink: plan.sink,
            lane: plan.lane,
            up_to: plan.last,
            counts: draft.counts,
        };
        self.commit_settled(settled, None).await
    }

    /// Shows that nothing more can be done here, and waits for the end.
    pub(super) async fn stand_still<T>(&self, reason: String) -> T {
        let sink = self.courier.sink.name();
        warn!(sink, lane = self.place.lane, reason, "lane parked");
        self.courier.show(SinkState::Parked { reason });
        std::future::pending().await
    }
}
