//! The end: first the engine, then what it left in the ring, then the uploads.

use std::time::Duration;

use tokio::sync::watch;
use tokio::task::JoinSet;
use tokio::time::Instant;
use tracing::{debug, error, info, warn};

use super::{App, AppError, LAST_GRACE, Outcome};
use crate::supervisor::{Command, Handle};
use crate::upload::Drive;

impl App<'_> {
    /// Ends the parts in the order of the data's way.
    pub(super) async fn finish(
        mut self,
        outcome: Outcome,
        supervisor: Handle,
        drive: &watch::Sender<Drive>,
        mut tasks: JoinSet<()>,
        upload_grace: Duration,
    ) -> Result<(), AppError> {
        let store_died = matches!(outcome, Outcome::StoreDied(_));
        let command = match outcome {
            Outcome::StoreDied(_)
            | Outcome::Unfit(AppError::VersionMismatch {
                left_running: true, ..
            }) => Command::Detach,
            _ => Command::Shutdown {
                grace: self.engine_grace,
            },
        };
        self.board.stopping();
        self.service.stopping();
        let graces = self.engine_grace.saturating_add(upload_grace);
        let _more_time = self.service.extend(graces.saturating_add(LAST_GRACE * 4));
        // Who ends the watchdog ends the stop with it: the next `run` is an order to run.
        if matches!(outcome, Outcome::Signaled | Outcome::EngineDone)
            && let Err(error) = self.stop_note.set(false)
        {
            warn!(%error, "the next start will start no engine");
        }
        self.end_engine(command, supervisor).await;
        if !store_died {
            self.drain(drive, upload_grace).await;
        }
        self.refresh();
        // Its task writes the last of it and ends.
        drop(self.history.take());
        drive.send_replace(Drive::Stop);
        let ended = tokio::time::timeout(LAST_GRACE, async {
            while tasks.join_next().await.is_some() {}
        });
        if ended.await.is_err() {
            warn!("a part did not end in time; left behind");
        }
        match outcome {
            Outcome::Signaled | Outcome::EngineDone => match self.left {
                Some(reason) => Err(AppError::Left {
                    reason,
                    dir: self.board.runtime_dir().to_owned(),
                }),
                None => Ok(()),
            },
            Outcome::GaveUp { deaths } => Err(AppError::GaveUp { deaths }),
            Outcome::Unfit(error) => Err(error),
            Outcome::StoreDied(error) => Err(error.into()),
            Outcome::SupervisorGone => Err(AppError::System {
                doing: "the supervisor ended by itself",
                error: std::io::Error::other("its thread panicked; the engine runs on"),
            }),
        }
    }

    /// Ends (or leaves) the engine and waits for that. A second signal ends it at once.
    async fn end_engine(&mut self, command: Command, supervisor: Handle) {
        supervisor.send(command);
        let mut joined = tokio::task::spawn_blocking(move || supervisor.join());
        loop {
            tokio::select! {
                ended = &mut joined => {
                    debug!(?ended, "supervisor ended");
                    break;
                }
                signal = self.signals.recv() => {
                    warn!(signal, "asked to end again; the engine is killed");
                    self.remote.send(Command::Kill);
                }
                Some(event) = self.engine_events.recv() => {
                    self.on_engine(&event);
                    self.refresh();
                }
                Some(event) = self.intake_events.recv() => self.on_intake(event),
                Some((report, path)) = self.reports.recv() => self.on_report(report, path),
                Ok(()) = self.uploads.changed() => self.on_uploads(),
            }
        }
        while let Ok(event) = self.engine_events.try_recv() {
            self.on_engine(&event);
        }
        self.store_reports().await;
    }

    /// Reports of the last deaths are stored before the uploads get their grace. What the store does not take now, the
    /// next start gives it.
    async fn store_reports(&mut self) {
        while let Ok((report, path)) = self.reports.try_recv() {
            self.on_report(report, path);
        }
        let Some((sender, stored)) = self.reports_to_store.take() else {
            return;
        };
        drop(sender);
        if tokio::time::timeout(LAST_GRACE, stored).await.is_err() {
            warn!("crash reports wait for the store; the next start stores them");
        }
    }

    /// Takes what dead engines left, then gives the uploads their grace.
    async fn drain(&mut self, drive: &watch::Sender<Drive>, upload_grace: Duration) {
        drive.send_replace(Drive::Drain);
        if let Some(intake) = self.intake.take() {
            let mut stopped = tokio::task::spawn_blocking(move || intake.stop());
            loop {
                tokio::select! {
                    _ = &mut stopped => break,
                    Some(event) = self.intake_events.recv() => self.on_intake(event),
                    signal = self.signals.recv() => {
                        warn!(signal, "asked to end again; what is left in the ring is taken by the next start");
                        return;
                    }
                    error = self.store.fatal() => {
                        error!(%error, "what is left in the ring is taken by the next start");
                        return;
                    }
                }
            }
            while let Ok(event) = self.intake_events.try_recv() {
                self.on_intake(event);
            }
        }
        let last = self.store.stats().applied;
        let deadline = Instant::now() + upload_grace;
        let through = async {
            let _ = self
                .uploads
                .wait_for(|uploads| uploads.is_through(last))
                .await;
        };
        tokio::select! {
            done = tokio::time::timeout_at(deadline, through) => {
                if done.is_err() {
                    warn!(grace = ?upload_grace, "not everything is uploaded; the next start goes on");
                }
            }
            signal = self.signals.recv() => warn!(signal, "asked to end again; the next start uploads the rest"),
        }
        self.on_uploads();
        self.refresh();
        let totals = self.board.totals();
        let (committed, uploaded) = (totals.committed, totals.uploaded.values().min());
        info!(committed, uploaded, "the end of what the store holds");
    }
}
