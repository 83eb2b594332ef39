//! Reading again what was read before: a planned batch, or what the sink says that it holds.

use super::{Draft, Filler};
use crate::books::Counts;
use crate::position::Position;
use crate::upload::outbox::{Outbox, OutboxError};
use crate::upload::plan::{Plan, after};

impl<O: Outbox> Filler<O> {
    /// Makes the batch of `plan` again. `None` when the log no longer gives exactly what the plan names. Where an entry of it
    /// is lost, the batch is what is left of it, perhaps without any row: under the same key the backend takes it once, and
    /// one that had taken the whole batch has more than it is told of. The record of a batch of one is kept in
    /// [`Draft::record`].
    ///
    /// # Errors
    /// What the outbox says.
    pub(in crate::upload::engine) async fn rebuild(
        &self,
        plan: &Plan,
    ) -> Result<Option<Draft>, OutboxError> {
        let mut filler = self.again(plan.first, plan.last, plan.rules_version);
        filler.keeps = plan.first == plan.last;
        filler.read_all(plan.last).await?;
        let mut draft = filler.draft;
        if filler.met_lost {
            let before = std::mem::take(&mut draft.before);
            draft.counts.add(&before);
            draft.counts.add(&filler.trail);
            return Ok(draft.refusal.is_none().then_some(draft));
        }
        let exact = draft.first() == Some(plan.first)
            && draft.last() == Some(plan.last)
            && draft.refusal.is_none();
        Ok(exact.then_some(draft))
    }

    /// What became of everything that the sink has up to and with `held`, and of which nobody was told. Before the lane's open
    /// `plan` there is nothing: all of that was settled with it, or is not ours, and other lanes take it for passed.
    ///
    /// # Errors
    /// What the outbox says.
    pub(in crate::upload::engine) async fn account(
        &self,
        plan: Option<&Plan>,
        held: Position,
        rules_version: u32,
    ) -> Result<Counts, OutboxError> {
        let first = plan.map_or_else(|| after(self.held), |plan| plan.first);
        let mut filler = self.again(first, held, rules_version);
        filler.accounts = true;
        filler.read_all(held).await?;
        let Draft {
            mut counts, before, ..
        } = filler.draft;
        counts.add(&before);
        counts.add(&filler.trail);
        Ok(counts)
    }

    /// Reads again what lies from `first` to `last`.
    fn again(&self, first: Position, last: Position, rules_version: u32) -> Self {
        let mut filler = Filler::new(
            self.outbox.clone(),
            self.board.clone(),
            self.sink.clone(),
            self.shaper.clone(),
            self.losses.clone(),
            (self.lane, self.lanes),
            (usize::MAX, usize::MAX),
        );
        (filler.begun, filler.held) = (self.begun, self.held);
        filler.last = self.last;
        filler.rules_version = Some(rules_version);
        filler.from = first;
        filler.until = Some(last);
        filler.read_through = first.index.saturating_sub(1);
        filler
    }

    async fn read_all(&mut self, last: Position) -> Result<(), OutboxError> {
        while !self.draft.closed && (self.holds_some() || self.read_through < last.index) {
            self.step().await?;
        }
        Ok(())
    }
}
