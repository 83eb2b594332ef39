//! The operator's command before each start, run on a thread of its own.

use std::io;
use std::process::{Command, Stdio};
use std::sync::mpsc::{Receiver, sync_channel};
use std::time::Duration;

use super::launch::LaunchLocks;
use super::spawn::{EngineCommand, set_environment_of_hook};
use crate::platform::{HelperEnd, Waker, run_helper};

/// What runs before each start.
#[derive(Clone, Debug)]
pub struct PreStart {
    /// The program and its arguments.
    pub command: Vec<String>,
    /// It is killed after this time.
    pub timeout: Duration,
}

/// Why no start follows it.
#[derive(Debug, thiserror::Error)]
pub(super) enum PreStartError {
    /// It did not come to run.
    #[error(
        "[hooks] pre_start {program:?} cannot be run: {source}; correct its path or permissions"
    )]
    NotRun {
        /// The program as configured.
        program: String,
        /// What the system said.
        source: io::Error,
    },
    /// It ended, but not well.
    #[error(
        "[hooks] pre_start {program:?} failed ({end}); what it printed stands in the watchdog's own output"
    )]
    Failed {
        /// The program as configured.
        program: String,
        /// How it ended.
        end: HelperEnd,
    },
    /// It was killed.
    #[error(
        "[hooks] pre_start {program:?} was killed after {limit:?}; make it end sooner, or raise [hooks] pre_start_timeout"
    )]
    TimedOut {
        /// The program as configured.
        program: String,
        /// How long it had.
        limit: Duration,
    },
    /// It was killed since no start was to follow any more; nothing has failed.
    #[error("[hooks] pre_start {program:?} was cancelled")]
    Cancelled {
        /// The program as configured.
        program: String,
    },
}

/// One run of it.
#[derive(Debug)]
pub(super) struct PreStartRun {
    end: Receiver<Result<(), PreStartError>>,
    cancel: Waker,
}

impl PreStartRun {
    /// Starts it, once one that an earlier watchdog left running is ended; `waker` is woken at its end.
    ///
    /// # Errors
    /// There is no thread or descriptor for it.
    pub(super) fn begin(
        hook: &PreStart,
        engine: &EngineCommand,
        locks: &LaunchLocks,
        waker: &Waker,
    ) -> Result<Self, PreStartError> {
        let (program, arguments) = match hook.command.split_first() {
            Some((program, arguments)) => (program.clone(), arguments),
            None => (String::new(), Default::default()),
        };
        let mut command = Command::new(&program);
        command.args(arguments).stdin(Stdio::null());
        set_environment_of_hook(&mut command, engine);
        if let Some(dir) = &engine.working_dir {
            command.current_dir(dir);
        }
        let not_run = |source| PreStartError::NotRun {
            program: program.clone(),
            source,
        };
        let cancel = Waker::new().map_err(not_run)?;
        let (ends, end) = sync_channel(1);
        let run = Self {
            end,
            cancel: cancel.clone(),
        };
        let (limit, waker, name) = (hook.timeout, waker.clone(), program.clone());
        let locks = locks.clone();
        let thread = std::thread::Builder::new().name("pre-start".to_owned());
        let started = thread.spawn(move || {
            let ended = locks.lock_hook().and_then(|lock| {
                let ended = run_helper(&mut command, limit, Some(&cancel), Some(lock.inherited));
                lock.file.note_end();
                ended
            });
            // Where nobody waits for it any more, nobody hears of it.
            let _ = ends.send(judge(ended, name, limit));
            waker.wake();
        });
        started.map_err(not_run)?;
        Ok(run)
    }

    /// Ends it, with all that it started.
    pub(super) fn cancel(&self) {
        self.cancel.wake();
    }

    /// Whether it succeeded, told once when it has ended.
    pub(super) fn ended(&self) -> Option<Result<(), PreStartError>> {
        self.end.try_recv().ok()
    }
}

fn judge(
    ended: io::Result<HelperEnd>,
    program: String,
    limit: Duration,
) -> Result<(), PreStartError> {
    match ended {
        Ok(HelperEnd::Code(0)) => Ok(()),
        Ok(HelperEnd::TimedOut) => Err(PreStartError::TimedOut { program, limit }),
        Ok(HelperEnd::Cancelled) => Err(PreStartError::Cancelled { program }),
        Ok(end) => Err(PreStartError::Failed { program, end }),
        Err(source) => Err(PreStartError::NotRun { program, source }),
    }
}

/// Nobody waits for it any more.
impl Drop for PreStartRun {
    fn drop(&mut self) {
        self.cancel();
    }
}
