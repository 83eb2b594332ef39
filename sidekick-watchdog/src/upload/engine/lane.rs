//! One lane of one sink: plans batches, has them sent, commits that they were taken. One batch at a time.

use std::pin::pin;
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use tokio::sync::watch;
use tokio::time::Instant;
use tracing::{info, warn};
use uuid::Uuid;

use super::courier::{Courier, Delivered};
use super::draft::Draft;
use super::fill::Filler;
use super::letter::{Buried, LetterRow};
use super::losses::Losses;
use super::suspect::Suspect;
use super::{Drive, LaneEnd};
use crate::books::{Counts, Letter};
use crate::position::Position;
use crate::upload::UploadSettings;
use crate::upload::gate::Gate;
use crate::upload::outbox::{LaneState, Outbox, OutboxError};
use crate::upload::plan::{Dead, Plan, Settled};
use crate::upload::retry::Backoff;
use crate::upload::shape::Shaper;
use crate::upload::sink::{Batch, Held, Sink};
use crate::upload::status::{Board, Seat, SinkState};

/// A lane without records commits its watermark after this many slabs, so that it does not hold back the log.
const SLABS_UNSAVED_MAX: u64 = 256;
/// A lane without records commits its watermark this long after it saw a slab. Commits bring no slabs, so they never
/// cause another one.
const SAVE_AFTER: Duration = Duration::from_secs(5);
/// How many steps a lane reads on, after a batch was taken, to have the next one's plan ride along.
const SLABS_AHEAD_MAX: u32 = 64;
/// Batches are not cut below this after a backend found one too large.
const BYTES_MAX_FLOOR: usize = 1024;

/// Which lane it is.
#[derive(Clone, Copy, Debug)]
pub(super) struct Place {
    pub(super) group: Uuid,
    pub(super) lane: u32,
    pub(super) lanes: u32,
}

/// A batch on its way, and where its records stand.
#[derive(Debug)]
pub(super) struct Ready {
    pub(super) batch: Batch,
    gap_lines: u64,
    counts: Counts,
    /// The record, where the batch has one and it was kept.
    record: Option<Buried>,
}

#[derive(Debug)]
pub(super) struct Lane<O> {
    pub(super) outbox: Arc<O>,
    settings: UploadSettings,
    pub(super) place: Place,
    pub(super) filler: Filler<O>,
    pub(super) courier: Courier,
    /// Where a bad record is looked for.
    suspect: Option<Suspect>,
    letters: LetterRow,
    /// The log's end when marked dead letters were looked for.
    pub(super) replays_seen: Option<u64>,
    /// Bytes of lines in the next batch, at most; shrinks when the backend finds batches too large.
    bytes_max: usize,
    open_plan: Option<Plan>,
    losses: Arc<Losses>,
    /// It is known what the sink holds, as far as anybody has to know.
    knows_held: bool,
}

impl<O: Outbox> Lane<O> {
    #[expect(clippy::too_many_arguments, reason = "called once, by the engine")]
    pub(super) fn new(
        outbox: Arc<O>,
        sink: Arc<dyn Sink>,
        shaper: Arc<dyn Shaper>,
        settings: UploadSettings,
        board: Arc<Board>,
        drive: watch::Receiver<Drive>,
        seat: Seat,
        gate: Arc<Gate>,
        losses: Arc<Losses>,
        place: Place,
        state: LaneState,
    ) -> Self {
        let start = state
            .plan
            .as_ref()
            .map_or(state.watermark, |plan| plan.last.max(state.watermark));
        let mut filler = Filler::new(
            outbox.clone(),
            board.clone(),
            sink.clone(),
            shaper,
            losses.clone(),
            (place.lane, place.lanes),
            (settings.batch_max_records, settings.batch_max_bytes),
        );
        filler.begin_after(start);
        filler.set_held(state.watermark);
        if let Some(plan) = &state.plan {
            filler.holds_up_to(plan.first.index.saturating_sub(1));
        }
        let backoff = Backoff::new(
            settings.retry_first,
            settings.retry_max,
            fastrand::Rng::new(),
        );
        let retry_max = settings.retry_max;
        let courier = Courier {
            sink,
            board,
            drive,
            seat,
            gate,
            backoff,
            retry_max,
        };
        let bytes_max = settings.batch_max_bytes;
        Self {
            outbox,
            settings,
            place,
            filler,
            courier,
            suspect: None,
            letters: LetterRow::default(),
            replays_seen: None,
            bytes_max,
            open_plan: state.plan,
            losses,
            knows_held: false,
        }
    }

    pub(super) async fn run(mut self) -> LaneEnd {
        loop {
            match self.work().await {
                Ok(()) => {}
                Err(OutboxError::Closed) => return LaneEnd::StoreClosed,
                Err(OutboxError::NotLeader) => return LaneEnd::NotLeader,
                Err(OutboxError::Failed(reason) | OutboxError::LettersFull(reason)) => {
                    self.courier.trouble(reason).await;
                }
            }
        }
    }

    /// Works until the outbox fails. Starts from the open plan, so it may be called again after a failure.
    async fn work(&mut self) -> Result<(), OutboxError> {
        self.learn_what_is_held().await?;
        let mut ready = match self.open_plan.clone() {
            Some(plan) => self.resume_or_next(plan).await?,
            None => self.next_batch().await?,
        };
        loop {
            match self.deliver(&ready).await? {
                Delivered::Taken => {
                    self.bytes_max = (self.bytes_max + self.bytes_max / 64 + 1)
                        .min(self.settings.batch_max_bytes);
                    self.filler.set_bytes_max(self.bytes_max);
                    let next = self.taken(&ready).await?;
                    ready = match next {
                        Some(next) => next,
                        None => self.next_batch().await?,
                    };
                }
                Delivered::TooLarge => {
                    let half = usize::try_from(ready.batch.row_bytes() / 2).unwrap_or(usize::MAX);
                    self.bytes_max =
                        half.clamp(BYTES_MAX_FLOOR, self.bytes_max.max(BYTES_MAX_FLOOR));
                    self.filler.set_bytes_max(self.bytes_max);
                    ready = self.halve(ready, false).await?;
                }
                Delivered::Refused { .. } if ready.batch.rows.len() > 1 => {
                    ready = self.halve(ready, true).await?;
                }
                Delivered::Refused { code, reason } => {
                    ready = match self.bury(ready, code, reason).await? {
                        Some(ready) => ready,
                        None => self.next_batch().await?,
                    };
                }
                Delivered::Replan => {
                    let extra = self.prepare(ready.batch.plan.first).await;
                    let plan = Plan {
                        extra,
                        ..ready.batch.plan
                    };
                    self.commit_plan(&plan).await?;
                    ready.batch.plan = plan;
                }
            }
        }
    }

    /// Where the log was damaged when the store was opened, a batch may have arrived of which that was not written down, and be
    /// lost: takes what the sink says that it holds for uploaded.
    async fn learn_what_is_held(&mut self) -> Result<(), OutboxError> {
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
    async fn resume_or_next(&mut self, plan: Plan) -> Result<Ready, OutboxError> {
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
    async fn settle_lost(&mut self, plan: Plan, draft: Draft) -> Result<(), OutboxError> {
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

    /// Waits for a batch to be due, plans it and commits the plan. Between batches, sends dead letters again and buries
    /// what the rules refuse.
    async fn next_batch(&mut self) -> Result<Ready, OutboxError> {
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
    fn is_due(&self) -> bool {
        let Some(opened_at) = self.filler.opened_at() else {
            return false;
        };
        self.filler.is_closed()
            || opened_at.elapsed() >= self.settings.batch_max_age
            || (*self.courier.drive.borrow() >= Drive::Drain && !self.filler.has_more())
    }

    /// Makes a plan of the draft.
    fn draw_up(&mut self, extra: Vec<u8>) -> (Plan, Draft) {
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

    /// The batch of `draft` is the next one: goes on with the search for a bad record.
    fn watch_for_suspects(&mut self, draft: &Draft) {
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

    async fn ready(&mut self, plan: Plan, draft: Draft) -> Ready {
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

    /// Commits `plan`; tries again until that is known to have worked. Nothing is sent before.
    async fn commit_plan(&mut self, plan: &Plan) -> Result<(), OutboxError> {
        loop {
            match self.outbox.commit_plan(plan.clone()).await {
                Ok(()) => break,
                Err(error) => self.courier.commit_failed(error).await?,
            }
        }
        self.open_plan = Some(plan.clone());
        Ok(())
    }

    /// Everything before the draft is done; `counts` is what became of the batch at hand.
    fn settle(&mut self, mut counts: Counts) -> Settled {
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
    async fn commit_settled(
        &mut self,
        settled: Settled,
        next: Option<Plan>,
    ) -> Result<(), OutboxError> {
        loop {
            let (settled, next) = (settled.clone(), next.clone());
            match self.outbox.commit_settled(settled, next).await {
                Ok(()) => break,
                Err(error) => self.courier.commit_failed(error).await?,
            }
        }
        self.open_plan = next;
        self.filler.saved();
        Ok(())
    }

    /// Has the batch sent, and fills the next one meanwhile.
    async fn deliver(&mut self, ready: &Ready) -> Result<Delivered, OutboxError> {
        let Self {
            courier, filler, ..
        } = self;
        let mut delivery = pin!(courier.deliver(&ready.batch));
        let mut reads = true;
        loop {
            let fills = reads && !filler.is_closed();
            tokio::select! {
                biased;
                delivered = &mut delivery => return Ok(delivered),
                step = filler.step(), if fills => match step {
                    Ok(()) => {}
                    // The batch on its way comes first; what is wrong with reading will be seen after it.
                    Err(OutboxError::Failed(_)) => reads = false,
                    Err(error) => return Err(error),
                },
            }
        }
    }

    /// The batch was taken: moves the watermark, in one proposal with the next plan where a batch is due.
    async fn taken(&mut self, ready: &Ready) -> Result<Option<Ready>, OutboxError> {
        // With a backlog the next batch is full in no time, and its plan rides along.
        // Bounded: other lanes' records may go on for long, and this commit must not wait for them.
        for _ in 0..SLABS_AHEAD_MAX {
            if !self.filler.has_more() || self.is_due() {
                break;
            }
            match self.filler.step().await {
                Ok(()) => {}
                Err(OutboxError::Failed(_)) => break,
                Err(error) => return Err(error),
            }
        }
        let settled = self.settle(ready.counts.clone());
        let up_to = settled.up_to;
        let mut next = None;
        if self.is_due() && !self.filler.is_refused() && !self.has_replay() {
            // A sink that is not ready now is asked again later: that must not hold up this commit.
            let sink = self.courier.sink.clone();
            if let Ok(extra) = sink.prepare(&self.place.group, self.filler.first()).await {
                next = Some(self.draw_up(extra));
            }
        }
        let next_plan = next.as_ref().map(|(plan, _)| plan.clone());
        self.commit_settled(settled, next_plan).await?;
        let in_flight = next.is_some();
        self.courier
            .board
            .update(self.courier.seat, |status, lane| {
                status.records += ready.batch.records();
                status.batches += 1;
                status.line_bytes += ready.batch.row_bytes();
                status.gap_lines += ready.gap_lines;
                status.last_success = Some(SystemTime::now());
                lane.state(SinkState::Ok);
                lane.in_flight(in_flight);
                lane.done(up_to);
            });
        Ok(match next {
            Some((plan, draft)) => Some(self.ready(plan, draft).await),
            None => None,
        })
    }

    /// The backend cannot take the batch as it is: a plan for its first half takes the place of its plan, and the rest is
    /// planned anew after it. `is_bad`: a record of it is bad, and is looked for.
    async fn halve(&mut self, ready: Ready, is_bad: bool) -> Result<Ready, OutboxError> {
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
    async fn bury(
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
    async fn begin_anew(&mut self) -> Result<(), OutboxError> {
        let lanes = self.outbox.lanes(self.courier.sink.name()).await?;
        let lane = lanes.into_iter().nth(self.place.lane as usize);
        self.filler.begin_after(lane.unwrap_or_default().watermark);
        Ok(())
    }

    /// Keeps a dead letter. `false` where there is no room for it, after a pause in which others may have gone.
    async fn commit_dead(&mut self, letter: Letter, counts: Counts) -> Result<bool, OutboxError> {
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

    /// Commits the watermark of a lane that has nothing to send.
    async fn save_watermark(&mut self) -> Result<(), OutboxError> {
        let settled = self.settle(Counts::default());
        self.commit_settled(settled, None).await?;
        self.courier.recovered();
        Ok(())
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
