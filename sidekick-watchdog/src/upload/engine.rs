//! Drives the sinks: one task for each lane of each sink.
//!
//! Nothing is spawned here. [`Engine::tasks`] gives named futures that the app spawns and joins.

mod courier;
mod draft;
mod fill;
mod lane;
mod letter;
mod losses;

use std::sync::Arc;

use tokio::sync::watch;
use uuid::Uuid;

use super::UploadSettings;
use super::gate::Gate;
use super::outbox::{Outbox, OutboxError};
use super::plan::whole;
use super::shape::{KeepAll, Shaper};
use super::sink::{BoxFuture, Sink};
use super::status::{Board, Seat, UploadStatus};
use crate::position::Position;

use lane::Lane;
use losses::Losses;

/// What the app wants of the lanes. Goes from left to right; a dropped sender counts as [`Drive::Stop`].
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
pub enum Drive {
    /// Upload as configured.
    #[default]
    Run,
    /// The grace of a shutdown: send what there is at once, try again soon.
    Drain,
    /// End now, wherever a lane stands. Loses nothing: the next start goes on from the plans.
    Stop,
}

/// Why a lane ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum LaneEnd {
    /// The app said [`Drive::Stop`].
    Stopped,
    /// The store closed first.
    StoreClosed,
    /// Another node uploads now.
    NotLeader,
}

/// A lane's name and its future, for the app to spawn.
pub type LaneTask = (String, BoxFuture<'static, LaneEnd>);

/// The uploader of one node.
#[derive(Debug)]
pub struct Engine<O> {
    outbox: Arc<O>,
    sinks: Vec<Arc<dyn Sink>>,
    shaper: Arc<dyn Shaper>,
    settings: UploadSettings,
    drive: watch::Receiver<Drive>,
    board: Arc<Board>,
}

impl<O: Outbox> Engine<O> {
    /// An uploader from `outbox` to `sinks`, steered by `drive`. Does nothing yet.
    pub fn new(
        outbox: Arc<O>,
        sinks: Vec<Arc<dyn Sink>>,
        settings: UploadSettings,
        drive: watch::Receiver<Drive>,
    ) -> Self {
        Self {
            outbox,
            sinks,
            shaper: Arc::new(KeepAll),
            settings,
            drive,
            board: Arc::new(Board::new()),
        }
    }

    /// Has each record shaped before its row is written. Without this, every record goes as it is.
    #[must_use]
    pub fn shaped_by(self, shaper: Arc<dyn Shaper>) -> Self {
        Self { shaper, ..self }
    }

    /// What the uploader tells about itself, from now on.
    pub fn status(&self) -> watch::Receiver<UploadStatus> {
        self.board.subscribe()
    }

    /// Notes that the session `epoch` had come to `seq` when the log ended with entry `index`.
    ///
    /// For what was committed before this process started: the lanes note what they read, but do not read again what is
    /// uploaded. [`UploadStatus::uploaded`] tells of it once everything up to `index` is through.
    pub fn note(&self, index: u64, epoch: Uuid, seq: u64) {
        self.board.milestone(whole(index), epoch, seq);
    }

    /// The lanes as named futures, one for each lane of each sink. They end only as [`LaneEnd`] says.
    ///
    /// # Errors
    /// What the outbox says when it is asked for its lanes; a sink of which it knows none is a [`OutboxError::Failed`].
    pub async fn tasks(self) -> Result<Vec<LaneTask>, OutboxError> {
        let group = self.outbox.group();
        let mut tasks: Vec<LaneTask> = Vec::new();
        for sink in &self.sinks {
            let states = self.outbox.lanes(sink.name()).await?;
            let lanes = u32::try_from(states.len()).unwrap_or(u32::MAX);
            if lanes == 0 {
                let reason = format!("the store has no lanes for the sink {:?}", sink.name());
                return Err(OutboxError::Failed(reason));
            }
            let watermarks: Vec<Position> = states.iter().map(|s| s.watermark).collect();
            let number = self.board.seat(sink.name(), &watermarks);
            let gate = Arc::new(Gate::new(lanes));
            let losses = Arc::new(Losses::default());
            for (lane, state) in (0..lanes).zip(states) {
                let seat = Seat {
                    sink: number,
                    lane: lane as usize,
                };
                let work = Lane::new(
                    self.outbox.clone(),
                    sink.clone(),
                    self.shaper.clone(),
                    self.settings.clone(),
                    self.board.clone(),
                    self.drive.clone(),
                    seat,
                    gate.clone(),
                    losses.clone(),
                    lane::Place { group, lane, lanes },
                    state,
                );
                let mut drive = self.drive.clone();
                let task = async move {
                    tokio::select! {
                        biased;
                        // An error means that the sender is gone.
                        _ = drive.wait_for(|drive| *drive == Drive::Stop) => LaneEnd::Stopped,
                        end = work.run() => end,
                    }
                };
                tasks.push((format!("upload-{}-{lane}", sink.name()), Box::pin(task)));
            }
        }
        Ok(tasks)
    }
}

#[cfg(test)]
mod tests;
