//! One lane of one sink: plans batches, has them sent, commits that they were taken. One batch at a time.
//!
//! `resume`: where it begins · `next`: the batch that is planned next · `commit`: what is written down · `refused`: what the backend
//! does not take, with `suspect`, the search for a bad record · `replay`: dead letters that are sent again.

mod commit;
mod next;
mod refused;
mod replay;
mod resume;
mod suspect;

use std::pin::pin;
use std::sync::Arc;
use std::time::SystemTime;

use tokio::sync::watch;
use uuid::Uuid;

use super::courier::{Courier, Delivered};
use super::fill::Filler;
use super::letter::{Buried, LetterRow};
use super::losses::Losses;
use super::{Drive, LaneEnd};
use crate::books::Counts;
use crate::upload::UploadSettings;
use crate::upload::gate::Gate;
use crate::upload::outbox::{LaneState, Outbox, OutboxError};
use crate::upload::plan::Plan;
use crate::upload::retry::Backoff;
use crate::upload::shape::Shaper;
use crate::upload::sink::{Batch, Sink};
use crate::upload::status::{Board, Seat, SinkState};

use suspect::Suspect;

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
struct Ready {
    batch: Batch,
    gap_lines: u64,
    counts: Counts,
    /// The record, where the batch has one and it was kept.
    record: Option<Buried>,
}

#[derive(Debug)]
pub(super) struct Lane<O> {
    outbox: Arc<O>,
    settings: UploadSettings,
    place: Place,
    filler: Filler<O>,
    courier: Courier,
    /// Where a bad record is looked for.
    suspect: Option<Suspect>,
    letters: LetterRow,
    /// The log's end when marked dead letters were looked for.
    replays_seen: Option<u64>,
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
        self.tell_taken(&ready.batch, ready.gap_lines);
        self.courier.board.update(self.courier.seat, |_, lane| {
            lane.state(SinkState::Ok);
            lane.in_flight(in_flight);
            lane.done(up_to);
        });
        Ok(match next {
            Some((plan, draft)) => Some(self.ready(plan, draft).await),
            None => None,
        })
    }

    /// The backend has the batch, and that is committed.
    fn tell_taken(&self, batch: &Batch, gap_lines: u64) {
        self.courier.board.update(self.courier.seat, |status, _| {
            status.records += batch.records();
            status.batches += 1;
            status.line_bytes += batch.row_bytes();
            status.gap_lines += gap_lines;
            status.last_success = Some(SystemTime::now());
        });
    }
}
