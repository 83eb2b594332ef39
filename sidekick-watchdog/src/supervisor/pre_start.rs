//! The operator's command before each start, run on a thread of its own.

use std::process::{Command, Stdio};
use std::sync::Arc;
use std::sync::atomic::{AtomicU8, Ordering};
use std::time::Duration;

use super::spawn::{EngineCommand, set_environment_of_hook};
use crate::platform::{HelperEnd, Waker, run_helper};

const RUNS: u8 = 0;
const SUCCEEDED: u8 = 1;
const FAILED: u8 = 2;

/// What runs before each start.
#[derive(Clone, Debug)]
pub struct PreStart {
    /// The program and its arguments.
    pub command: Vec<String>,
    /// It is killed after this time.
    pub timeout: Duration,
}

/// One run of it.
#[derive(Debug)]
pub(super) struct PreStartRun {
    state: Arc<AtomicU8>,
    cancel: Waker,
}

impl PreStartRun {
    /// Starts it, before a start of the engine or of a standby; `waker` is woken at its end. Without a thread or a descriptor it has failed at once.
    pub(super) fn begin(
        hook: &PreStart,
        engine: &EngineCommand,
        waker: &Waker,
        is_for_standby: bool,
    ) -> Option<Self> {
        let (program, arguments) = hook.command.split_first()?;
        let mut command = Command::new(program);
        command.args(arguments).stdin(Stdio::null());
        set_environment_of_hook(&mut command, engine);
        if let Some(dir) = &engine.working_dir {
            command.current_dir(dir);
        }
        let cancel = Waker::new().ok()?;
        let state = Arc::new(AtomicU8::new(RUNS));
        let run = Self {
            state: Arc::clone(&state),
            cancel: cancel.clone(),
        };
        let (timeout, waker, name) = (hook.timeout, waker.clone(), program.clone());
        let thread = std::thread::Builder::new().name("pre-start".to_owned());
        let started = thread.spawn(move || {
            let ended = run_helper(&mut command, timeout, Some(&cancel));
            let success = matches!(ended, Ok(HelperEnd::Code(0)));
            if !success && is_for_standby {
                tracing::warn!(
                    program = name,
                    ?ended,
                    "[hooks] pre_start failed, so no standby is started; it is tried again"
                );
            } else if !success {
                tracing::warn!(
                    program = name,
                    ?ended,
                    "[hooks] pre_start failed, so the engine is not started"
                );
            }
            // SYNC: pairs with the Acquire load in `ended`.
            state.store(if success { SUCCEEDED } else { FAILED }, Ordering::Release);
            waker.wake();
        });
        started.ok()?;
        Some(run)
    }

    /// Ends it, with all that it started.
    pub(super) fn cancel(&self) {
        self.cancel.wake();
    }

    /// Whether it succeeded, once it has ended.
    pub(super) fn ended(&self) -> Option<bool> {
        match self.state.load(Ordering::Acquire) {
            RUNS => None,
            state => Some(state == SUCCEEDED),
        }
    }
}

/// Nobody waits for it any more.
impl Drop for PreStartRun {
    fn drop(&mut self) {
        self.cancel();
    }
}
