//! One lane of one sink: plans batches, has them sent, commits that they were taken. One batch at a time.

use std::pin::pin;
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use tokio::sync::watch;
use tokio::time::Instant;
use tracing::{info, warn};
use uuid::Uuid;

use super::courier::{Courier, Delivered};
use super::fill::{Draft, Filler};
use super::{Drive, LaneEnd};
use crate::position::Position;
use crate::upload::UploadSettings;
use crate::upload::outbox::{LaneState, Outbox, OutboxError};
use crate::upload::plan::{Plan, Uploaded};
use crate::upload::retry::Backoff;
use crate::upload::sink::{Batch, Sink};
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
/// Version of the rules; there are none yet.
const RULES_VERSION: u32 = 0;

/// Which lane it is.
#[derive(Clone, Copy, Debug)]
pub(super) struct Place {
    pub(super) group: Uuid,
    pub(super) lane: u32,
    pub(super) lanes: u32,
}

/// A batch on its way, and where its records stand.
#[derive(Debug)]
struct Ready {
    batch: Batch,
    gap_lines: u64,
}

#[derive(Debug)]
pub(super) struct Lane<O> {
    outbox: Arc<O>,
    settings: UploadSettings,
    place: Place,
    filler: Filler<O>,
    courier: Courier,
    /// Bytes of lines in the next batch, at most; shrinks when the backend finds batches too large.
    bytes_max: usize,
    open_plan: Option<Plan>,
}

impl<O: Outbox> Lane<O> {
    #[expect(clippy::too_many_arguments, reason = "called once, by the engine")]
    pub(super) fn new(
        outbox: Arc<O>,
        sink: Arc<dyn Sink>,
        settings: UploadSettings,
        board: Arc<Board>,
        drive: watch::Receiver<Drive>,
        seat: Seat,
        place: Place,
        state: LaneState,
    ) -> Self {
        let start = state
            .plan
            .as_ref()
            .map_or(state.watermark, |plan| plan.last.max(state.watermark));
        let filler = Filler::new(
            outbox.clone(),
            board.clone(),
            sink.clone(),
            (place.lane, place.lanes),
            settings.batch_max_records,
            settings.batch_max_bytes,
            start,
        );
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
            bytes_max,
            open_plan: state.plan,
        }
    }

    pub(super) async fn run(mut self) -> LaneEnd {
        loop {
            match self.work().await {
                Ok(()) => {}
                Err(OutboxError::Closed) => return LaneEnd::StoreClosed,
                Err(OutboxError::NotLeader) => return LaneEnd::NotLeader,
                Err(OutboxError::Failed(reason)) => self.courier.trouble(reason).await,
            }
        }
    }

    /// Works until the outbox fails. Starts from the open plan, so it may be called again after a failure.
    async fn work(&mut self) -> Result<(), OutboxError> {
        let mut ready = match self.open_plan.clone() {
            Some(plan) => self.resume(plan).await?,
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
                Delivered::TooLarge => ready = self.halve(ready).await?,
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

    /// Makes the batch of a plan again that an earlier process (or an earlier try) committed.
    async fn resume(&mut self, plan: Plan) -> Result<Ready, OutboxError> {
        let encoder = self.filler.encoder_version();
        let reason = if plan.encoder_version != encoder || plan.rules_version != RULES_VERSION {
            format!(
                "the open batch was planned with encoder {} and rules {}, this program has {encoder} and \
                 {RULES_VERSION}; run the version that planned it until it is uploaded",
                plan.encoder_version, plan.rules_version
            )
        } else if let Some(draft) = self.filler.rebuild(&plan).await? {
            info!(
                sink = plan.sink,
                lane = plan.lane,
                records = draft.rows.len(),
                "resuming a planned batch"
            );
            return Ok(self.ready(plan, draft).await);
        } else {
            format!(
                "the log no longer holds what the open plan names ({}); nothing more can be sent in this lane without \
                 risking that records arrive twice",
                plan.key(&self.place.group)
            )
        };
        warn!(sink = plan.sink, lane = plan.lane, reason, "lane parked");
        self.courier.show(SinkState::Parked { reason });
        std::future::pending().await
    }

    /// Waits for a batch to be due, plans it and commits the plan.
    async fn next_batch(&mut self) -> Result<Ready, OutboxError> {
        self.wait_until_due().await?;
        let extra = self.prepare(self.filler.first()).await;
        let (plan, draft) = self.draw_up(extra);
        self.commit_plan(&plan).await?;
        Ok(self.ready(plan, draft).await)
    }

    async fn wait_until_due(&mut self) -> Result<(), OutboxError> {
        let mut drive = self.courier.drive.clone();
        let mut unsaved_since = None;
        loop {
            if self.is_due() {
                return Ok(());
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
            rules_version: RULES_VERSION,
            encoder_version: self.filler.encoder_version(),
            extra,
        };
        (plan, draft)
    }

    /// Asks the sink for a plan's `extra` until it gives one.
    async fn prepare(&mut self, first: Position) -> Vec<u8> {
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
        };
        Ready {
            batch,
            gap_lines: draft.gap_lines,
        }
    }

    /// Commits `plan`; tries again until that is known to have worked. Nothing is sent before.
    async fn commit_plan(&mut self, plan: &Plan) -> Result<(), OutboxError> {
        loop {
            match self.outbox.commit_plan(plan.clone()).await {
                Ok(()) => break,
                Err(OutboxError::Failed(reason)) => self.courier.trouble(reason).await,
                Err(error) => return Err(error),
            }
        }
        self.open_plan = Some(plan.clone());
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
        let up_to = self.filler.floor();
        let mut next = None;
        if self.is_due() {
            // A sink that is not ready now is asked again later: that must not hold up this commit.
            let sink = self.courier.sink.clone();
            if let Ok(extra) = sink.prepare(&self.place.group, self.filler.first()).await {
                next = Some(self.draw_up(extra));
            }
        }
        let uploaded = self.uploaded(up_to, ready.batch.records());
        let next_plan = next.as_ref().map(|(plan, _)| plan.clone());
        loop {
            let (uploaded, next_plan) = (uploaded.clone(), next_plan.clone());
            match self.outbox.commit_uploaded(uploaded, next_plan).await {
                Ok(()) => break,
                Err(OutboxError::Failed(reason)) => self.courier.trouble(reason).await,
                Err(error) => return Err(error),
            }
        }
        self.open_plan = next_plan;
        self.filler.saved();
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

    /// The backend finds the batch too large: a plan for its first half takes the place of its plan, and the rest is
    /// planned anew after it.
    async fn halve(&mut self, ready: Ready) -> Result<Ready, OutboxError> {
        let half = ready.batch.rows.len() / 2;
        let Some(last) = half.checked_sub(1).and_then(|n| ready.batch.rows.get(n)) else {
            // A single record: the courier keeps trying it and never says that it is too large.
            return Ok(ready);
        };
        let last = last.position;
        let half_bytes = usize::try_from(ready.batch.row_bytes() / 2).unwrap_or(usize::MAX);
        self.bytes_max = half_bytes.clamp(BYTES_MAX_FLOOR, self.bytes_max.max(BYTES_MAX_FLOOR));
        let plan = Plan {
            last,
            ..ready.batch.plan
        };
        self.filler.set_bytes_max(self.bytes_max);
        self.filler.begin_after(last);
        self.commit_plan(&plan).await?;
        self.resume(plan).await
    }

    /// Commits the watermark of a lane that has nothing to send.
    async fn save_watermark(&mut self) -> Result<(), OutboxError> {
        let uploaded = self.uploaded(self.filler.floor(), 0);
        self.outbox.commit_uploaded(uploaded, None).await?;
        self.filler.saved();
        self.courier.recovered();
        Ok(())
    }

    fn uploaded(&self, up_to: Position, records: u64) -> Uploaded {
        let sink = self.courier.sink.name().to_owned();
        Uploaded {
            sink,
            lane: self.place.lane,
            up_to,
            records,
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
