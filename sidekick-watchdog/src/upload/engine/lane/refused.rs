//! What a backend does not take: batches that are halved, and records that become dead letters.

use tokio::time::Instant;

use super::suspect::Suspect;
use super::{Lane, Ready};
use crate::books::{Counts, Letter};
use crate::position::Position;
use crate::upload::engine::draft::Draft;
use crate::upload::outbox::{Outbox, OutboxError};
use crate::upload::plan::{Dead, Plan};

impl<O: Outbox> Lane<O> {
    /// The backend cannot take the batch as it is: a plan for its first half takes the place of its plan, and the rest is
    /// planned anew after it. `is_bad`: a record of it is bad, and is looked for.
    pub(super) async fn halve(&mut self, ready: Ready, is_bad: bool) -> Result<Ready, OutboxError> {
        let rows = &ready.batch.rows;
        let half = rows.len() / 2;
        let Some(last) = half.checked_sub(1).and_then(|n| rows.get(n)) else {
            return Ok(ready);
        };
        let last = last.position;
        let rest = rows.len() - half;
        match &mut self.suspect {
            Some(suspect) if !is_bad => suspect.left += rest,
            None if !is_bad => {}
            suspect => {
                *suspect = Some(Suspect {
                    end: ready.batch.plan.last,
                    left: rest,
                });
            }
        }
        let plan = Plan {
            last,
            ..ready.batch.plan
        };
        self.limit_records();
        self.filler.begin_after(last);
        self.filler.holds_up_to(plan.first.index.saturating_sub(1));
        self.commit_plan(&plan).await?;
        self.resume_or_next(plan).await
    }

    /// The backend refused a record for good: keeps it as a dead letter and goes on after it. Gives the batch back when
    /// that cannot be: the log does not give the record again.
    pub(super) async fn bury(
        &mut self,
        mut ready: Ready,
        code: String,
        reason: String,
    ) -> Result<Option<Ready>, OutboxError> {
        let plan = &ready.batch.plan;
        if ready.record.is_none() {
            // Read again: it was not kept, since next to none comes to this.
            let again = self.filler.rebuild(plan).await?;
            if let Some(draft) = again {
                if draft.rows.is_empty() {
                    self.settle_lost(ready.batch.plan, draft).await?;
                    self.courier.settled();
                    self.suspect = None;
                    self.limit_records();
                    return Ok(None);
                }
                ready.record = draft.record;
            }
        }
        let Some(record) = ready.record.take() else {
            let key = &ready.batch.key;
            let why = format!("the log no longer holds what the open plan names ({key}): {reason}");
            return Ok(Some(self.stand_still(why).await));
        };
        let letter = record.letter(plan.first, plan.rules_version, code, reason);
        // Its own row is not among what the backend took; what is lost stays lost.
        let counts = Counts {
            rows: 0,
            records: 0,
            notes: 0,
            ..ready.counts.clone()
        };
        if !self.commit_dead(letter, counts).await? {
            // The backend may think better of it meanwhile.
            return Ok(Some(ready));
        }
        self.suspect = None;
        self.limit_records();
        Ok(None)
    }

    /// Reads again what lies behind the watermark.
    pub(super) async fn begin_anew(&mut self) -> Result<(), OutboxError> {
        let lanes = self.outbox.lanes(self.courier.sink.name()).await?;
        let lane = lanes.into_iter().nth(self.place.lane as usize);
        self.filler.begin_after(lane.unwrap_or_default().watermark);
        Ok(())
    }

    /// Keeps a dead letter. `false` where there is no room for it, after a pause in which others may have gone.
    pub(super) async fn commit_dead(
        &mut self,
        letter: Letter,
        counts: Counts,
    ) -> Result<bool, OutboxError> {
        let position = letter.position;
        let dead = Dead {
            sink: self.courier.sink.name().to_owned(),
            lane: self.place.lane,
            counts,
            letter,
        };
        loop {
            match self.outbox.commit_dead(dead.clone()).await {
                Ok(()) => break,
                Err(OutboxError::LettersFull(reason)) => {
                    self.wait_for_room(reason).await?;
                    return Ok(false);
                }
                Err(error) => self.courier.commit_failed(error).await?,
            }
        }
        self.letters.note(&dead, Instant::now());
        self.open_plan = None;
        self.courier.settled();
        self.courier
            .board
            .update(self.courier.seat, |_, lane| lane.done(position));
        Ok(true)
    }

    /// There is no room for another dead letter: waits a while, and sends those that somebody marks, though a batch may be
    /// planned: its one record is refused, and nothing of it is on its way.
    async fn wait_for_room(&mut self, reason: String) -> Result<(), OutboxError> {
        let (outbox, lane) = (self.outbox.clone(), self.place.lane);
        let sink = self.courier.sink.name().to_owned();
        let mut applied = outbox.applied();
        let marked = async move {
            while outbox.next_replay(&sink, lane).is_none() && applied.changed().await.is_ok() {}
        };
        tokio::select! {
            () = self.courier.parked(reason) => {}
            () = marked => {}
        }
        self.replays_seen = None;
        self.replay_some().await
    }

    /// The batch of `draft` is the next one: goes on with the search for a bad record.
    pub(super) fn watch_for_suspects(&mut self, draft: &Draft) {
        let suspect = self.suspect.take();
        let first = draft.first().unwrap_or_default();
        self.suspect = suspect.and_then(|suspect| suspect.after_batch(first, draft.rows.len()));
        self.limit_records();
    }

    /// Sets how many records the batch after the one at hand has.
    fn limit_records(&mut self) {
        let (records_max, fence) = match &self.suspect {
            Some(suspect) if suspect.left > 0 => (suspect.next_records(), suspect.end),
            _ => (self.settings.batch_max_records, Position::default()),
        };
        self.filler.set_records_max(records_max);
        self.filler.set_fence(fence);
    }
}
