//! Dead letters that somebody wants sent again. Their own lane does it, between two batches: it is the only one who
//! writes to its part of a sink. A replay has a plan of its own, committed before the first try, and a key of its own.

use tracing::info;

use super::Lane;
use crate::books::Letter;
use crate::slab::Slab;
use crate::upload::encode::{Walk, What};
use crate::upload::engine::courier::Delivered;
use crate::upload::outbox::{Outbox, OutboxError};
use crate::upload::plan::{Plan, Replay};
use crate::upload::shape::{BY_RULES, Ruling, Shaper, Stored, rule};
use crate::upload::sink::{Batch, OfLetter, PrepareError, Row, Sink};

/// So many letters are sent again before a batch that is due.
const REPLAYS_IN_A_ROW: u32 = 16;

/// The row of a letter, as the rules of `version` have it; otherwise code and reason.
fn row_of(
    letter: &Letter,
    sink: &dyn Sink,
    shaper: &dyn Shaper,
    version: u32,
    game_version: &str,
) -> Result<Vec<u8>, (String, String)> {
    let mut walk = Walk::new(Slab {
        head: letter.head.clone(),
        frames: letter.frame.clone().into(),
    });
    let no_row = || (BY_RULES.to_owned(), "it holds nothing to send".to_owned());
    let (head, mut item) = walk.step().ok_or_else(no_row)?;
    let mut shaped = Vec::new();
    if let Some(stored) = Stored::of(head, game_version, &item) {
        match rule(shaper, version, sink.name(), &stored, &mut shaped) {
            Ruling::Keep => {}
            Ruling::Changed(record) => item.what = What::Record(record),
            Ruling::Dropped { reason } => {
                let reason = format!("the rules would drop it now ({reason}); drop the letter");
                return Err((BY_RULES.to_owned(), reason));
            }
            Ruling::Refused { code, reason } => return Err((code.to_owned(), reason)),
        }
    }
    let mut row = Vec::new();
    let _ = sink.row_writer().write(head, &item, &mut row);
    Ok(row)
}

impl<O: Outbox> Lane<O> {
    /// Whether a dead letter of this lane is to be sent again. Looks only where the log has moved since it looked last.
    pub(super) fn has_replay(&mut self) -> bool {
        let applied = self.filler.applied();
        if self.replays_seen == Some(applied) {
            return false;
        }
        let sink = self.courier.sink.name();
        let is_marked = self.outbox.next_replay(sink, self.place.lane).is_some();
        if !is_marked {
            self.replays_seen = Some(applied);
        }
        is_marked
    }

    /// Sends marked dead letters of this lane, a few at most: what was recorded since has its turn between. No batch of it may
    /// be planned, but for one record that was refused and for which there is no room.
    pub(super) async fn replay_some(&mut self) -> Result<(), OutboxError> {
        for _ in 0..REPLAYS_IN_A_ROW {
            if !self.has_replay() {
                break;
            }
            let sink = self.courier.sink.clone();
            let Some(replay) = self.outbox.next_replay(sink.name(), self.place.lane) else {
                continue;
            };
            self.replay(replay).await?;
        }
        Ok(())
    }

    async fn replay(&mut self, replay: Replay) -> Result<(), OutboxError> {
        let Replay {
            id,
            lane,
            number,
            plan,
            letter,
        } = replay;
        let sink = self.courier.sink.clone();
        let encoder = self.filler.encoder_version();
        let rules = plan.as_ref().map(|plan| plan.rules_version);
        let rules = rules.unwrap_or_else(|| self.filler.rules_version());
        let planned = plan.as_ref().map_or(encoder, |plan| plan.encoder_version);
        if planned != encoder || !self.filler.knows(rules) {
            let why = format!(
                "the replay of dead letter {id} was planned with encoder {planned} and rules {rules}, which this program \
                 does not have; run the version that planned it until it is through"
            );
            return self.stand_still(why).await;
        }
        let game_version = self.outbox.game_version(&letter.head);
        let shaper = self.filler.shaper();
        let row = match row_of(&letter, sink.as_ref(), shaper, rules, &game_version) {
            Ok(row) => row,
            Err(refused) => return self.end_replay(id, number, Some(refused)).await,
        };
        let plan = match plan {
            Some(plan) => plan,
            None => {
                let extra = self.prepare(letter.position).await;
                let plan = Plan {
                    sink: sink.name().to_owned(),
                    lane: self.place.lane,
                    first: letter.position,
                    last: letter.position,
                    rules_version: rules,
                    encoder_version: encoder,
                    extra,
                };
                if !self.plan_replay(id, number, &plan).await? {
                    return Ok(());
                }
                plan
            }
        };
        let end = row.len();
        let body = loop {
            match sink.encode(&plan, row.clone()).await {
                Ok(body) => break body,
                Err(PrepareError(reason)) => self.courier.trouble(reason).await,
            }
        };
        let mut batch = Batch {
            key: format!("{}/replay-{number}", plan.key(&self.place.group)),
            plan,
            body,
            rows: vec![Row {
                position: letter.position,
                end,
            }],
            replay: Some(OfLetter { number, lane }),
        };
        loop {
            match self.courier.deliver(&batch).await {
                // One record alone is never too large: the courier says that it is refused.
                Delivered::Taken | Delivered::TooLarge => {
                    info!(sink = sink.name(), id, "dead letter replayed");
                    self.end_replay(id, number, None).await?;
                    self.tell_taken(&batch, 0);
                    return Ok(());
                }
                Delivered::Refused { code, reason } => {
                    return self.end_replay(id, number, Some((code, reason))).await;
                }
                Delivered::Replan => {
                    batch.plan.extra = self.prepare(letter.position).await;
                    if !self.plan_replay(id, number, &batch.plan).await? {
                        return Ok(());
                    }
                }
            }
        }
    }

    /// Commits a replay's plan; `false` when the letter is gone. A batch that is planned is one record that was refused: see
    /// `wait_for_room`.
    async fn plan_replay(
        &mut self,
        id: u64,
        number: u32,
        plan: &Plan,
    ) -> Result<bool, OutboxError> {
        let refused = self.open_plan.as_ref().map(|plan| plan.first);
        let commit = || {
            self.outbox
                .commit_replay_plan(id, number, plan.clone(), refused)
        };
        self.courier.until_committed(commit).await
    }

    async fn end_replay(
        &mut self,
        id: u64,
        number: u32,
        refused: Option<(String, String)>,
    ) -> Result<(), OutboxError> {
        let commit = || self.outbox.commit_replayed(id, number, refused.clone());
        self.courier.until_committed(commit).await?;
        self.courier.settled();
        Ok(())
    }
}
