//! What the main loop does with what the parts tell.

use std::path::PathBuf;

use sidekick_ipc::SessionInfo;
use sidekick_ipc::attach::AttachError;
use tokio::time::Instant;
use tracing::{error, warn};

use super::plane::life::Change;
use super::tell::tell;
use super::{App, AppError, Engine, Outcome, last_words, link, tell};
use crate::crash::CrashReport;
use crate::event::{DeathCause, EngineEvent};
use crate::intake::{AttachedSession, IntakeEvent};
use crate::platform::monotonic_now;
use crate::supervisor::Command;
use crate::supervisor::fence::{self, StaleEngine};

impl App<'_> {
    /// The data plane was opened, closed and so on.
    pub(super) fn on_change(&mut self, change: Change) {
        match change {
            Change::Opened => {
                if let Some(plane) = self.data.plane() {
                    self.board.group(plane.store().group().to_string());
                    self.board.missing(plane.vanished());
                    if let Some(engine) = &self.engine {
                        plane.expect(engine.launch);
                    }
                    if let Some(launch) = self.standby {
                        plane.stands_by(launch);
                    }
                }
            }
            Change::Failed(error) => {
                let next_try_s = self.data.condition().next_try.map(tell::seconds);
                error!(
                    %error,
                    next_try_s,
                    "the store cannot be opened; the engine is supervised all the same, records wait in its ring"
                );
            }
            Change::Died => {}
            Change::Closed => {
                // All that its threads had to tell is there. What they left is taken by the next one.
                while let Ok(event) = self.intake_events.try_recv() {
                    self.on_intake(event);
                }
                self.left = None;
                self.board.store_closed();
            }
            Change::Uploads => self.on_uploads(),
        }
    }

    /// Whether the ring of the engine is to be looked for here: intake does it while there is one.
    pub(super) fn awaits_ring(&self) -> bool {
        let engine = self.engine.as_ref();
        self.data.plane().is_none() && engine.is_some_and(|engine| !engine.is_connected)
    }

    /// Looks for the engine's ring, so that its heartbeat is heard while nobody drains it.
    pub(super) fn look_for_ring(&mut self) {
        let Some(launch) = self.engine.as_ref().map(|engine| engine.launch) else {
            return;
        };
        match link::find(self.board.runtime_dir(), launch) {
            None | Some(Err(AttachError::Io { .. })) => {}
            Some(Ok(attachment)) => {
                self.on_attached(&link::undrained(&attachment));
            }
            Some(Err(error)) => {
                if let Some(engine) = &mut self.engine {
                    // It stays what it is.
                    engine.is_connected = true;
                }
                self.on_intake(IntakeEvent::Refused { launch, error });
            }
        }
    }

    pub(super) fn on_report(&mut self, report: CrashReport, path: PathBuf) {
        let event = EngineEvent::Reported {
            incarnation: report.incarnation,
            cause: report.cause.clone(),
            report_id: report.report_id.to_string(),
            path,
        };
        tell(&event);
        if !report.standby {
            self.board.engine(&event);
        }
        if let Some(plane) = self.data.plane() {
            plane.report(report);
        }
        self.refresh();
    }

    pub(super) fn on_uploads(&mut self) {
        if let Some(plane) = self.data.plane_mut() {
            self.board.uploads(plane.uploads());
        }
    }

    pub(super) fn on_engine(&mut self, event: &EngineEvent) -> Option<Outcome> {
        match event {
            // Why was told when its ring was refused; the extension is there.
            EngineEvent::Unconnected { incarnation, .. } if self.refused.contains(incarnation) => {}
            event => tell(event),
        }
        self.board.engine(event);
        match event {
            EngineEvent::Started { incarnation, .. } | EngineEvent::Adopted { incarnation, .. } => {
                self.engine = Some(Engine {
                    launch: *incarnation,
                    since: Instant::now(),
                    is_connected: false,
                });
                if let Some(plane) = self.data.plane() {
                    plane.expect(*incarnation);
                }
                None
            }
            EngineEvent::StandbyStarted { incarnation, .. } => {
                self.standby = Some(*incarnation);
                if let Some(plane) = self.data.plane() {
                    plane.stands_by(*incarnation);
                }
                None
            }
            EngineEvent::StandbyEnded { incarnation, .. } => {
                self.standby = None;
                remove_ring(self.board.runtime_dir().to_owned(), *incarnation);
                None
            }
            EngineEvent::Died {
                incarnation,
                cause,
                log,
                ..
            } => {
                if let (DeathCause::ExitedEarly { .. }, Some(log)) = (cause, log) {
                    last_words::quote(*incarnation, log.clone(), self.engine_log.clone());
                }
                if let Some(plane) = self.data.plane() {
                    plane.rescan();
                }
                None
            }
            EngineEvent::Unfit {
                unfit,
                log,
                left_running,
                ..
            } => Some(Outcome::Unfit(AppError::unfit(
                unfit.clone(),
                log.clone(),
                *left_running,
            ))),
            EngineEvent::GaveUp { deaths } => Some(Outcome::GaveUp { deaths: *deaths }),
            // An operator's `stop` keeps the watchdog.
            EngineEvent::Stopped { asked: false } => Some(Outcome::EngineDone),
            _ => None,
        }
    }

    fn on_attached(&mut self, session: &AttachedSession) {
        let launch = session.info.launch;
        if let Some(engine) = &mut self.engine {
            engine.is_connected |= engine.launch == launch;
        }
        let link = self.board.attached(session);
        self.remote.send(Command::Connected { launch, link });
    }

    pub(super) fn on_intake(&mut self, event: IntakeEvent) {
        match event {
            IntakeEvent::Attached(session) => {
                // The clock makes each number higher than the last one's, also a dead watchdog's. Not before the ring is drained:
                // the game asks again at each new one.
                let generation = u64::try_from(monotonic_now().as_nanos()).unwrap_or(u64::MAX);
                session.controls.set_generation(generation);
                self.on_attached(&session);
            }
            IntakeEvent::Refused { launch, error } => {
                self.refused.insert(launch);
                if let Some(versions) = link::versions(&error) {
                    self.remote.send(Command::Foreign { launch, versions });
                    if self.heartbeat_required {
                        // The supervisor tells what becomes of it.
                        warn!(launch, %error, "a ring cannot be used");
                        return;
                    }
                }
                error!(
                    launch,
                    %error,
                    "a ring cannot be used; its records stay in it, the game runs on"
                );
            }
            IntakeEvent::Stale { info, path } => self.end_stale(&info, path),
            IntakeEvent::Left { launch, reason } => {
                warn!(incarnation = launch, %reason, "the ring keeps what is not committed");
                self.left = Some(reason);
            }
            IntakeEvent::ShutOut {
                launch,
                path,
                reason,
            } => {
                error!(
                    launch,
                    %reason,
                    path = %path.display(),
                    "the store does not take a session's records; they stay in its ring. Does the runtime directory \
                     belong to this data directory? Move the ring away to give them up"
                );
                let reason = format!("{reason} (ring {})", path.display());
                self.board.shut_out(reason.clone());
                self.left = Some(reason);
            }
            IntakeEvent::Ended { launch, progress } => {
                self.board.ended(launch, &progress);
                tell::session_ended(launch, &progress);
            }
        }
    }

    /// Ends an engine that lives beside the one that is the engine. Not on this thread: it looks through all processes.
    fn end_stale(&self, info: &SessionInfo, ring: PathBuf) {
        let stale = StaleEngine {
            launch: info.launch,
            ring,
            pid: info.pid,
            start_ticks: info.pid_start_time,
        };
        let engine = self.board.engine_pid();
        tokio::task::spawn_blocking(move || {
            if let Err(error) = fence::end_stale(&stale, engine) {
                error!(%error, launch = stale.launch, "a stale engine lives on; its records stay in its ring");
            }
        });
    }
}

/// Removes what a standby leaves that was never the engine: it recorded nothing. Not on this thread, which touches no files.
fn remove_ring(runtime_dir: PathBuf, launch: u32) {
    tokio::task::spawn_blocking(move || {
        if let Some(Ok(ring)) = link::find(&runtime_dir, launch)
            && let Err(error) = ring.finish()
        {
            warn!(launch, %error, "the ring of a dead standby cannot be removed");
        }
    });
}
