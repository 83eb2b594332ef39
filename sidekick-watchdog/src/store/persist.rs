//! The state in sled, for a quick start. Never the only copy: snapshot and log can always rebuild it, and do whenever
//! anything is wrong with it.
//!
//! sled runs in a process of its own ([`helper`]) that reads or writes the state once and ends. In this process it would
//! cost what an idle watchdog must not: seven threads of a pool that wake once a second for ever, buffers of two
//! segments (16 MiB), and a recovery that may panic or hang and that no thread can be stopped in. Without a helper
//! (tests, benches) it runs here, on a thread that nobody waits for longer than a limit.

mod database;
pub(crate) mod helper;
#[cfg(test)]
mod large_tests;
#[cfg(test)]
mod tests;

use std::path::{Path, PathBuf};
use std::sync::mpsc::channel;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, SystemTime};

use super::machine::Machine;
use super::raft::LogId;
use super::snapshot;
use super::state::State;

/// How often a changed state is written. What came since is in the log, and read from there at the next start.
const INTERVAL: Duration = Duration::from_secs(60);
/// How long reading or writing may take before it is given up.
const TIME_LIMIT: Duration = Duration::from_secs(10);

/// Why the database was not read or written.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Fault {
    /// There is no room. Nothing is wrong with the database.
    DiskFull,
    /// It was not tried. Nothing is known of the database.
    NotTried(String),
    /// Anything else; it is set aside.
    Unusable(String),
}

impl std::fmt::Display for Fault {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::DiskFull => f.write_str("no space left on its disk"),
            Self::NotTried(why) | Self::Unusable(why) => f.write_str(why),
        }
    }
}

/// What to do with the database.
#[derive(Clone, Debug)]
pub(crate) enum Task {
    /// Read the sealed state; empty if there is none.
    Load,
    /// Write this sealed state.
    Save(Arc<Vec<u8>>),
}

impl Task {
    /// Does it in this process. Opens the database and closes it again.
    fn run(&self, directory: &Path) -> Result<Vec<u8>, Fault> {
        match self {
            Self::Load => database::load(directory),
            Self::Save(bytes) => database::save(directory, bytes).map(|()| Vec::new()),
        }
    }
}

/// The database and how it is reached.
#[derive(Debug)]
pub(crate) struct Persist {
    directory: PathBuf,
    /// The executable that runs [`helper::main`]; without one sled runs in this process.
    helper: Option<PathBuf>,
    time_limit: Duration,
    /// What the database holds; held while it is open.
    saved: Mutex<Option<LogId>>,
}

impl Persist {
    pub(crate) fn new(directory: PathBuf, helper: Option<PathBuf>) -> Self {
        Self {
            directory,
            helper,
            time_limit: TIME_LIMIT,
            saved: Mutex::default(),
        }
    }

    /// Reads the state; `None` when there is none or it cannot be had. Blocks, twice the time limit at most.
    pub(crate) fn load(&self) -> Option<State> {
        let mut saved = self.saved.lock().unwrap_or_else(PoisonError::into_inner);
        let unseal = |bytes: Vec<u8>| match bytes.is_empty() {
            true => Ok(None),
            false => snapshot::unseal(&bytes).map(Some).map_err(Fault::Unusable),
        };
        match self.try_twice(&Task::Load, unseal) {
            Ok(state) => {
                *saved = state.as_ref().and_then(|state| state.last_applied);
                state
            }
            Err(fault) => {
                tracing::warn!(path = ?self.directory, %fault, "going on without the state in sled; starts take longer");
                None
            }
        }
    }

    /// Writes the machine's state if it is not what the database holds. Blocks, twice the time limit at most.
    pub(crate) fn save(&self, machine: &Machine) -> Result<(), Fault> {
        let mut saved = self.saved.lock().unwrap_or_else(PoisonError::into_inner);
        if machine.read(|state| state.last_applied) == *saved {
            return Ok(());
        }
        let state = machine.read(State::clone);
        if machine.is_broken() {
            return Err(Fault::NotTried(
                "a log entry was applied by half".to_owned(),
            ));
        }
        let bytes = snapshot::seal(&state).map_err(|error| Fault::NotTried(error.to_string()))?;
        self.try_twice(&Task::Save(Arc::new(bytes)), |_| Ok(()))?;
        *saved = state.last_applied;
        Ok(())
    }

    /// A database that cannot be used is renamed to `sled.bad-<time>`, and a new one takes its place.
    fn try_twice<T>(
        &self,
        task: &Task,
        read: impl Fn(Vec<u8>) -> Result<T, Fault>,
    ) -> Result<T, Fault> {
        let cause = match self.run(task).and_then(&read) {
            Err(Fault::Unusable(cause)) => cause,
            done => return done,
        };
        let aside = self.aside();
        tracing::warn!(path = ?self.directory, ?aside, %cause, "sled cannot be used; rebuilding from snapshot and log");
        std::fs::rename(&self.directory, &aside)
            .map_err(|error| Fault::NotTried(format!("{cause}; it cannot be renamed: {error}")))?;
        self.run(task).and_then(read)
    }

    fn aside(&self) -> PathBuf {
        let now = SystemTime::now()
            .duration_since(SystemTime::UNIX_EPOCH)
            .unwrap_or_default();
        let name = format!("sled.bad-{}", now.as_millis());
        self.directory.with_file_name(name)
    }

    fn run(&self, task: &Task) -> Result<Vec<u8>, Fault> {
        match &self.helper {
            Some(executable) => helper::run(executable, &self.directory, task, self.time_limit),
            None => run_on_a_thread(&self.directory, task, self.time_limit),
        }
    }
}

/// Runs sled in this process. A thread that hangs is left to itself; it holds files that are about to be renamed.
fn run_on_a_thread(directory: &Path, task: &Task, limit: Duration) -> Result<Vec<u8>, Fault> {
    let (sender, answer) = channel();
    let (path, task) = (directory.to_owned(), task.clone());
    let thread = std::thread::Builder::new()
        .name("sidekick-sled".to_owned())
        .spawn(move || drop(sender.send(task.run(&path))))
        .map_err(|error| Fault::NotTried(error.to_string()))?;
    match answer.recv_timeout(limit) {
        Ok(result) => {
            let _ = thread.join();
            result
        }
        Err(std::sync::mpsc::RecvTimeoutError::Timeout) => Err(took_too_long(limit)),
        Err(std::sync::mpsc::RecvTimeoutError::Disconnected) => {
            Err(Fault::Unusable("it panicked".to_owned()))
        }
    }
}

fn took_too_long(limit: Duration) -> Fault {
    Fault::Unusable(format!("it took longer than {limit:?}"))
}

/// Writes the state after it changed, now and then. Sleeps while nothing changes.
pub(crate) async fn keep(persist: Arc<Persist>, machine: Arc<Machine>) {
    let mut applied = machine.applied();
    let mut told = None;
    while applied.changed().await.is_ok() {
        tokio::time::sleep(INTERVAL).await;
        applied.mark_unchanged();
        let (persist, machine) = (Arc::clone(&persist), Arc::clone(&machine));
        let saved = tokio::task::spawn_blocking(move || persist.save(&machine)).await;
        let fault = saved.ok().and_then(Result::err);
        if let Some(fault) = fault.as_ref().filter(|_| fault != told) {
            tracing::warn!(%fault, "the state cannot be written to sled; the next start may take longer");
        }
        told = fault;
    }
}
