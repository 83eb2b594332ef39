//! What operators ask for, carried out.
//!
//! A `stop` outlives the watchdog: it is noted in the runtime directory, and a watchdog that comes after one that was
//! killed starts no engine. The note goes when an operator starts the engine, when the watchdog is asked to end (the
//! next `run` is an order to run), and with the machine's reboot.

use std::fs;
use std::io::{self, Write};
use std::path::{Path, PathBuf};
use std::sync::{Mutex, OnceLock, PoisonError};
use std::time::Duration;

use crate::api::operator::{Operator, Order, OrderError, Verb};
use crate::config::ShutdownConfig;
use crate::platform;
use crate::supervisor::{Command, Remote};

/// The file in the runtime directory that says that an operator has stopped the engine.
const STOPPED_FILE: &str = "stopped";

/// Serves the API's orders.
#[derive(Debug)]
pub(super) struct AppOperator {
    /// There once the supervisor runs.
    remote: OnceLock<Remote>,
    stopped: StopNote,
    engine_grace: Duration,
    drain_grace: Duration,
    /// One order at a time, so that note and command are of the same one.
    turn: Mutex<()>,
}

impl AppOperator {
    pub(super) fn new(runtime_dir: &Path, shutdown: &ShutdownConfig) -> Self {
        Self {
            remote: OnceLock::new(),
            stopped: StopNote::new(runtime_dir),
            engine_grace: shutdown.engine_grace,
            drain_grace: shutdown.drain_grace,
            turn: Mutex::new(()),
        }
    }

    /// From now on orders are taken.
    pub(super) fn serve(&self, remote: Remote) {
        // Called once.
        let _ = self.remote.set(remote);
    }
}

impl Operator for AppOperator {
    fn order(&self, order: Order) -> Result<Duration, OrderError> {
        let remote = self.remote.get().ok_or(OrderError::NotNow)?;
        let _turn = self.turn.lock().unwrap_or_else(PoisonError::into_inner);
        let usual = match order.verb {
            Verb::Drain => self.drain_grace,
            Verb::Restart | Verb::Start | Verb::Stop => self.engine_grace,
        };
        let grace = order.grace.unwrap_or(usual);
        // The note before the deed: killed in between, the next watchdog does what was asked for.
        let command = match order.verb {
            Verb::Restart => Command::Restart { grace },
            Verb::Start => Command::Start,
            Verb::Stop | Verb::Drain => Command::Stop { grace },
        };
        let was_stopped = self.stopped.is_set();
        let stops = matches!(order.verb, Verb::Stop | Verb::Drain);
        self.stopped.set(stops)?;
        tracing::info!(order = %order.verb, grace_s = grace.as_secs_f64(), "order taken");
        if remote.send(command) {
            return Ok(grace);
        }
        let _ = self.stopped.set(was_stopped);
        Err(OrderError::Busy)
    }
}

/// The note that an operator has stopped the engine.
#[derive(Clone, Debug)]
pub(super) struct StopNote {
    path: PathBuf,
}

impl StopNote {
    pub(super) fn new(runtime_dir: &Path) -> Self {
        Self {
            path: runtime_dir.join(STOPPED_FILE),
        }
    }

    pub(super) fn is_set(&self) -> bool {
        self.path.exists()
    }

    pub(super) fn set(&self, stopped: bool) -> Result<(), OrderError> {
        let done = match stopped {
            true => self.write(),
            false => match fs::remove_file(&self.path) {
                Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(()),
                done => done,
            },
        };
        done.map_err(|source| OrderError::Note {
            path: self.path.clone(),
            source,
        })
    }

    fn write(&self) -> io::Result<()> {
        let mut file = platform::create_private_file(&self.path)?;
        writeln!(file, "{}", jiff::Timestamp::now())
    }
}
