//! What a lane commits: its next plan, and how far it is through.

use super::Lane;
use crate::books::Counts;
use crate::upload::outbox::{Outbox, OutboxError};
use crate::upload::plan::{Plan, Settled};

impl<O: Outbox> Lane<O> {
    /// Commits `plan`; tries again until that is known to have worked. Nothing is sent before.
    pub(super) async fn commit_plan(&mut self, plan: &Plan) -> Result<(), OutboxError> {
        let commit = || self.outbox.commit_plan(plan.clone());
        self.courier.until_committed(commit).await?;
        self.open_plan = Some(plan.clone());
        Ok(())
    }

    /// Everything before the draft is done; `counts` is what became of the batch at hand.
    pub(super) fn settle(&mut self, mut counts: Counts) -> Settled {
        let (up_to, before) = self.filler.settle();
        counts.add(&before);
        Settled {
            sink: self.courier.sink.name().to_owned(),
            lane: self.place.lane,
            up_to,
            counts,
        }
    }

    /// Commits what is settled, with the next plan where there is one; tries again until that is known to have worked.
    pub(super) async fn commit_settled(
        &mut self,
        settled: Settled,
        next: Option<Plan>,
    ) -> Result<(), OutboxError> {
        let commit = || self.outbox.commit_settled(settled.clone(), next.clone());
        self.courier.until_committed(commit).await?;
        self.open_plan = next;
        self.filler.saved();
        Ok(())
    }

    /// Commits the watermark of a lane that has nothing to send.
    pub(super) async fn save_watermark(&mut self) -> Result<(), OutboxError> {
        let settled = self.settle(Counts::default());
        self.commit_settled(settled, None).await?;
        self.courier.recovered();
        Ok(())
    }
}
