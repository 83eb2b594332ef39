//! The end: first the engine, then what it left in the ring, then the uploads.

use std::time::Duration;

use tokio::time::Instant;
use tracing::{debug, error, info, warn};

use super::plane::life::Change;
use super::{App, AppError, LAST_GRACE, Outcome};
use crate::supervisor::{Command, Handle};

impl App<'_> {
    /// Ends the parts in the order of the data's way.
    pub(super) async fn finish(
        mut self,
        outcome: Outcome,
        supervisor: Handle,
        upload_grace: Duration,
    ) -> Result<(), AppError> {
        let command = match outcome {
            Outcome::Unfit(AppError::VersionMismatch {
                left_running: true, ..
            }) => Command::Detach,
            _ => Command::Shutdown {
                grace: self.engine_grace,
            },
        };
        self.board.stopping();
        self.service.stopping();
        let graces = self.engine_grace.saturating_add(upload_grace);
        let _more_time = self.service.extend(graces.saturating_add(LAST_GRACE * 8));
        // Who ends the watchdog ends the stop with it: the next `run` is an order to run.
        if matches!(outcome, Outcome::Signaled | Outcome::EngineDone)
            && let Err(error) = self.stop_note.set(false)
        {
            warn!(%error, "the next start will start no engine");
        }
        self.end_engine(command, supervisor).await;
        self.open_until(Instant::now() + upload_grace).await;
        self.end_reports().await;
        self.drain(upload_grace).await;
        self.refresh();
        // Its task writes the last of it and ends.
        drop(self.history.take());
        let down = match self.data.end() {
            Ok(plane) => {
                plane.end().await;
                None
            }
            Err(reason) => Some(reason),
        };
        let dir = self.board.runtime_dir().to_owned();
        match outcome {
            Outcome::Signaled | Outcome::EngineDone => match (down, self.left) {
                (None, None) => Ok(()),
                (None, Some(reason)) => Err(AppError::Left { reason, dir }),
                (Some(reason), _) => Err(AppError::down(reason, dir)),
            },
            Outcome::GaveUp { deaths } => Err(AppError::GaveUp { deaths }),
            Outcome::Unfit(error) => Err(error),
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
                change = self.data.changed() => self.on_change(change),
            }
        }
        while let Ok(event) = self.engine_events.try_recv() {
            self.on_engine(&event);
        }
    }

    /// A store that is just being opened is waited for: what the engine has left could still be stored.
    async fn open_until(&mut self, deadline: Instant) {
        while self.data.is_opening() {
            tokio::select! {
                change = self.data.changed() => self.on_change(change),
                signal = self.signals.recv() => {
                    warn!(signal, "asked to end again; the store is not waited for");
                    return;
                }
                () = tokio::time::sleep_until(deadline) => {
                    warn!("the store takes too long to open; what is left in the ring is taken by the next start");
                    return;
                }
            }
        }
    }

    /// Reports of the last deaths are stored before the uploads get their grace.
    async fn end_reports(&mut self) {
        while let Ok((report, path)) = self.reports.try_recv() {
            self.on_report(report, path);
        }
        if let Some(plane) = self.data.plane_mut() {
            plane.end_reports().await;
        }
    }

    /// Takes what dead engines left, then gives the uploads their grace.
    async fn drain(&mut self, upload_grace: Duration) {
        let Some(plane) = self.data.plane_mut() else {
            return;
        };
        if let Some(intake) = plane.begin_end() {
            let mut stopped = tokio::task::spawn_blocking(move || intake.stop());
            loop {
                tokio::select! {
                    _ = &mut stopped => break,
                    Some(event) = self.intake_events.recv() => self.on_intake(event),
                    signal = self.signals.recv() => {
                        warn!(signal, "asked to end again; what is left in the ring is taken by the next start");
                        return;
                    }
                    change = self.data.changed() => {
                        if matches!(change, Change::Died) {
                            error!("what is left in the ring is taken by the next start");
                            return;
                        }
                        self.on_change(change);
                    }
                }
            }
            while let Ok(event) = self.intake_events.try_recv() {
                self.on_intake(event);
            }
        }
        let Some(plane) = self.data.plane_mut() else {
            return;
        };
        let last = plane.store().stats().applied;
        let deadline = Instant::now() + upload_grace;
        tokio::select! {
            done = tokio::time::timeout_at(deadline, plane.uploaded(last)) => {
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
