//! Starts engines, and clears away what dead ones left in the runtime directory and among our children.

use std::path::PathBuf;
use std::time::Duration;

use super::Runtime;
use super::engine::{Engine, running};
use crate::event::EngineEvent;
use crate::platform::{Process, kill_strays, monotonic_now};
use crate::supervisor::machine::Event;
use crate::supervisor::pre_start::{PreStartError, PreStartRun};
use crate::supervisor::spawn::{self, Launch, LaunchError};

/// How long a relaunch waits for a launch that is not prepared yet (deaths in quick succession, a slow disk) before it
/// starts without an output file.
const PREPARED_WAIT: Duration = Duration::from_millis(50);
/// How many numbers are tried when a launch lock is held by who knows whom.
const LOCKS_TRIED_MAX: u32 = 16;

/// What an engine left behind is looked for so soon after its death.
const SWEEP_AFTER_DEATH: Duration = Duration::from_millis(200);

/// A process that was just made.
pub(super) struct Launched {
    pub launch: u32,
    pub process: Process,
    /// The file that it writes its output to.
    pub live: Option<PathBuf>,
    /// Where the first part of that is kept.
    pub kept: Option<PathBuf>,
}

impl Runtime {
    /// Starts the engine.
    pub(super) fn start_engine(&mut self, is_safe: bool) -> Result<(), LaunchError> {
        let launched = self.launch(is_safe, false)?;
        let Launched {
            launch,
            process,
            live,
            kept,
        } = launched;
        let now = monotonic_now();
        let pid = process.pid();
        self.output.runs(running(launch, &process, live.as_ref()));
        self.ever_started = true;
        let plan = &self.settings.plan;
        let engine = Engine::new(launch, process, kept.clone(), now, now, plan);
        self.engine = Some(Engine { is_safe, ..engine });
        let gap = self.died_at.take().map(|died| now.saturating_sub(died));
        self.emit(EngineEvent::Started {
            incarnation: launch,
            pid,
            gap,
            log: kept.unwrap_or_else(|| PathBuf::from("/dev/null")),
            standby: false,
        });
        self.output.started(launch, pid, live, false);
        Ok(())
    }

    /// Makes a process with a number of its own: the engine or its standby.
    pub(super) fn launch(
        &mut self,
        is_safe: bool,
        is_standby: bool,
    ) -> Result<Launched, LaunchError> {
        let prepared = self.output.take(self.last_launch, PREPARED_WAIT);
        let mut launch = self.last_launch.saturating_add(1);
        if let Some(prepared) = &prepared {
            launch = prepared.launch;
            self.reserved = self.reserved.max(launch);
        }
        // The disk is too slow to reserve a number; the output's file is in memory.
        let prepared = prepared.or_else(|| self.output.unprepared(launch));
        let live = prepared.as_ref().map(|prepared| prepared.path.clone());
        let kept = prepared.as_ref().map(|prepared| prepared.kept.clone());
        let mut tries = 0;
        let lock = loop {
            self.last_launch = launch;
            match self.locks.lock(launch, live.as_deref()) {
                Ok(Some(lock)) => break lock,
                Ok(None) if tries < LOCKS_TRIED_MAX => {
                    // A number that is in use though nobody told us: not ours to disturb, take another.
                    tries += 1;
                    launch = launch.saturating_add(1);
                }
                Ok(None) => {
                    return Err(self.lock_error(launch, std::io::ErrorKind::WouldBlock.into()));
                }
                Err(source) => return Err(self.lock_error(launch, source)),
            }
        };
        if !is_standby {
            self.note_active(launch);
        }
        let command = &self.settings.command;
        let particular = Launch {
            number: launch,
            // What a standby follows is told to it when it is known.
            is_relaunch: self.is_relaunch && !is_standby,
            is_safe,
            last_death: self.last_death.clone().filter(|_| !is_standby),
            is_standby,
        };
        let started = spawn::start(command, &particular, &lock, prepared.as_ref());
        let process = match started {
            Ok(process) => process,
            Err(error) => {
                drop(lock);
                // No engine ever had this number.
                self.locks.remove_if_free(launch);
                return Err(error);
            }
        };
        if let Err(error) = lock.hand_over(&process) {
            tracing::warn!(launch, %error, "launch lock has no pid; a successor has to search for its holder");
        }
        Ok(Launched {
            launch,
            process,
            live,
            kept,
        })
    }

    pub(super) fn lock_error(&self, launch: u32, source: std::io::Error) -> LaunchError {
        LaunchError::Lock {
            path: self.locks.path(launch),
            source,
        }
    }

    /// Removes the locks of launches that are over and ends what still holds them.
    pub(super) fn remove_launch_files(&mut self) {
        let (locks, reserved) = (&self.locks, self.reserved);
        let mut is_held = false;
        self.launches_over.retain(|&launch| {
            if !locks.is_free(launch) {
                let killed = locks.kill_leftovers(launch);
                // None where its lock was let go meanwhile.
                if killed > 0 {
                    tracing::warn!(launch, killed, "descendants of a dead engine were killed");
                }
                is_held = true;
                return true;
            }
            // The file shows that its number was used, as long as no higher one is durable, and that its end is to be
            // told, as long as it is not.
            let is_needed = launch >= reserved || !locks.is_told(launch);
            if !is_needed {
                locks.remove_if_free(launch);
            }
            is_needed
        });
        if is_held {
            self.sweep_soon(monotonic_now());
        }
    }

    /// Never later than planned already: deaths in quick succession must not put it off for ever.
    pub(super) fn sweep_soon(&mut self, now: Duration) {
        let soon = now + SWEEP_AFTER_DEATH;
        self.sweep_at = Some(self.sweep_at.map_or(soon, |planned| planned.min(soon)));
    }

    pub(super) fn sweep(&self) {
        if self.settings.subreaper {
            let engine = self.engine.as_ref().map(|engine| &engine.process);
            let standby = self.standby.as_ref().map(|standby| &standby.process);
            let engines: Vec<_> = engine.into_iter().chain(standby).collect();
            let killed = kill_strays(&engines);
            if killed > 0 {
                tracing::warn!(killed, "orphans of a dead engine were killed");
            }
        }
    }

    /// Begins the command before a start, if there is one.
    ///
    /// # Errors
    /// It cannot be begun.
    pub(super) fn begin_pre_start(&self) -> Result<Option<PreStartRun>, PreStartError> {
        let (command, waker) = (&self.settings.command, &self.waker);
        let hook = self.settings.pre_start.as_ref();
        hook.map(|hook| PreStartRun::begin(hook, command, &self.locks, waker))
            .transpose()
    }

    /// Goes on with a start once the command before it has ended.
    pub(super) fn take_pre_start(&mut self) {
        let Some(ended) = self.pre_start.as_ref().and_then(PreStartRun::ended) else {
            return;
        };
        self.pre_start = None;
        let success = ended.is_ok();
        if let Err(error) = ended {
            self.tell_unprepared(&error);
        }
        self.feed(Event::Prepared { success });
    }

    /// Tells that a start failed before its engine.
    pub(super) fn tell_unprepared(&mut self, error: &PreStartError) {
        if matches!(error, PreStartError::Cancelled { .. }) {
            tracing::info!(%error, "no engine is to be started any more");
            return;
        }
        self.emit(EngineEvent::StartFailed {
            incarnation: self.last_launch.saturating_add(1),
            error: error.to_string(),
        });
    }
}
