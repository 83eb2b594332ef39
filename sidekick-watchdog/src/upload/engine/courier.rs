//! Tries a batch until the backend has it, and pauses between tries.

use std::sync::Arc;
use std::time::{Duration, SystemTime};

use tokio::sync::watch;
use tracing::warn;

use super::Drive;
use crate::upload::gate::{Gate, Verdict};
use crate::upload::outbox::OutboxError;
use crate::upload::retry::Backoff;
use crate::upload::sink::{Batch, Outcome, Sink};
use crate::upload::status::{Board, Seat, SinkState, in_words};

/// Longest pause between tries in the grace of a shutdown.
const DRAIN_PAUSE_MAX: Duration = Duration::from_secs(1);

/// The code of a record that is too large for the backend, where that gives none.
const TOO_LARGE: &str = "too large";

/// How a batch left the courier.
pub(super) enum Delivered {
    /// The backend has it.
    Taken,
    /// It wants to be halved.
    TooLarge,
    /// The backend will never take it as it is.
    Refused {
        /// HTTP status, SQLSTATE or exit code.
        code: String,
        /// What the backend said.
        reason: String,
    },
    /// It wants another place.
    Replan,
}

/// Brings one lane's batches to its sink and shows how that goes.
#[derive(Debug)]
pub(super) struct Courier {
    pub(super) sink: Arc<dyn Sink>,
    pub(super) board: Arc<Board>,
    pub(super) drive: watch::Receiver<Drive>,
    pub(super) seat: Seat,
    /// Shared by all lanes of the sink.
    pub(super) gate: Arc<Gate>,
    pub(super) backoff: Backoff,
    pub(super) retry_max: Duration,
}

impl Courier {
    pub(super) async fn deliver(&mut self, batch: &Batch) -> Delivered {
        self.board.update(self.seat, |_, lane| lane.in_flight(true));
        let (sink, gate) = (self.sink.clone(), self.gate.clone());
        loop {
            let pass = gate.enter().await;
            let outcome = sink.send(batch).await;
            if let Outcome::Wait { pause, .. } = outcome {
                gate.quiet(pause);
            }
            pass.leave(Verdict::of(&outcome));
            match outcome {
                Outcome::Taken => {
                    self.backoff.reset();
                    return Delivered::Taken;
                }
                Outcome::TooLarge { .. } if batch.records() > 1 => return Delivered::TooLarge,
                Outcome::TooLarge { reason } => {
                    let bytes = batch.row_bytes();
                    let reason = format!("a single record of {bytes} bytes is too large: {reason}");
                    let code = TOO_LARGE.to_owned();
                    return Delivered::Refused { code, reason };
                }
                Outcome::Wait { pause, reason } => {
                    let reason = format!("{reason}; waiting {} as asked", in_words(pause));
                    // The gate keeps everybody from knocking until then.
                    self.failed(SinkState::Retrying { reason });
                }
                Outcome::Retry { reason } => self.trouble(reason).await,
                Outcome::Refused { code, reason } => return Delivered::Refused { code, reason },
                Outcome::Park { reason } => self.parked(reason).await,
                Outcome::Replan { reason } => {
                    warn!(sink = sink.name(), reason, "planning a batch anew");
                    self.trouble(reason).await;
                    return Delivered::Replan;
                }
            }
        }
    }

    /// Shows that something failed, and pauses.
    pub(super) async fn trouble(&mut self, reason: String) {
        let pause = self.backoff.next_pause();
        self.warn_of(&reason, "upload failed; trying again");
        self.failed(SinkState::Retrying { reason });
        self.pause(pause).await;
    }

    /// Commits; tries again until that is known to have worked.
    pub(super) async fn until_committed<T, F>(
        &mut self,
        commit: impl Fn() -> F,
    ) -> Result<T, OutboxError>
    where
        F: Future<Output = Result<T, OutboxError>>,
    {
        loop {
            match commit().await {
                Ok(done) => return Ok(done),
                Err(error) => self.commit_failed(error).await?,
            }
        }
    }

    /// A commit failed: pauses if it may work later.
    pub(super) async fn commit_failed(&mut self, error: OutboxError) -> Result<(), OutboxError> {
        match error {
            OutboxError::Failed(reason) => self.trouble(reason).await,
            OutboxError::LettersFull(reason) => self.parked(reason).await,
            error => return Err(error),
        }
        Ok(())
    }

    /// Shows that somebody has to do something first, and pauses.
    pub(super) async fn parked(&mut self, reason: String) {
        let _ = self.backoff.next_pause();
        self.warn_of(&reason, "sink parked; nothing is dropped");
        self.failed(SinkState::Parked { reason });
        self.pause(self.retry_max).await;
    }

    /// One line of log; ever more rarely as it goes on.
    fn warn_of(&self, reason: &str, what: &str) {
        let failures = self.backoff.failures();
        if failures.is_power_of_two() {
            let (sink, lane) = (self.sink.name(), self.seat.lane);
            warn!(sink, lane, failures, reason, "{what}");
        }
    }

    fn failed(&self, state: SinkState) {
        self.board.update(self.seat, |status, lane| {
            status.failures += 1;
            status.last_failure = Some(SystemTime::now());
            status.last_error = match &state {
                SinkState::Ok => None,
                SinkState::Retrying { reason } | SinkState::Parked { reason } => {
                    Some(reason.clone())
                }
            };
            lane.state(state);
        });
    }

    /// The store works again and nothing is on its way: what failed is over.
    pub(super) fn recovered(&mut self) {
        if self.backoff.failures() > 0 {
            self.backoff.reset();
            self.show(SinkState::Ok);
        }
    }

    /// What was on its way is done with, well or not.
    pub(super) fn settled(&mut self) {
        self.backoff.reset();
        self.board.update(self.seat, |_, lane| {
            lane.state(SinkState::Ok);
            lane.in_flight(false);
        });
    }

    pub(super) fn show(&self, state: SinkState) {
        self.board.update(self.seat, |_, lane| lane.state(state));
    }

    /// Pauses; the grace of a shutdown cuts it short, and so does a backend that is back.
    async fn pause(&mut self, pause: Duration) {
        if *self.drive.borrow() >= Drive::Drain {
            return tokio::time::sleep(pause.min(DRAIN_PAUSE_MAX)).await;
        }
        let gate = self.gate.clone();
        tokio::select! {
            () = tokio::time::sleep(pause) => {}
            // Another lane found the backend well again.
            () = gate.reopened() => {}
            // The engine ends this lane when the sender is gone.
            Ok(_) = self.drive.wait_for(|drive| *drive >= Drive::Drain) => {}
        }
    }
}
