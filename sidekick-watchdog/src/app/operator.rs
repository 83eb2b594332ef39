//! What operators ask for, carried out.
//!
//! A `stop` outlives the watchdog: it is noted in the runtime directory, and a watchdog that comes after one that was
//! killed starts no engine. The note goes when an operator starts the engine, when the watchdog is asked to end (the
//! next `run` is an order to run), and with the machine's reboot.

use std::fs;
use std::io::{self, Write};
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, OnceLock, PoisonError};
use std::time::Duration;

use bytes::Bytes;
use tokio::runtime::Handle;
use tokio::sync::mpsc;

use super::letters::OpenLetters;
use super::rules::LiveRules;
use super::tree::OpenTree;
use crate::api::letters::LetterBox;
use crate::api::operator::{
    Following, LogItem, Operator, Order, OrderError, ReloadError, Reloaded, TailError, Verb, Wanted,
};
use crate::api::tree::TreeStore;
use crate::config::ShutdownConfig;
use crate::crash::keep::CrashFolder;
use crate::log_line::{LogLine, LogPosition};
use crate::platform;
use crate::supervisor::output::{EngineLog, Followed, Follower};
use crate::supervisor::{Command, Remote};

/// The file in the runtime directory that says that an operator has stopped the engine.
const STOPPED_FILE: &str = "stopped";
/// Lines of output that are handed over ahead of a reader.
const FOLLOWED_AHEAD: usize = 64;

/// Serves the API's orders.
#[derive(Debug)]
pub(super) struct AppOperator {
    /// There once the supervisor runs.
    remote: OnceLock<Remote>,
    log: OnceLock<EngineLog>,
    crashes: CrashFolder,
    stopped: StopNote,
    engine_grace: Duration,
    drain_grace: Duration,
    rules: Arc<LiveRules>,
    runtime: Handle,
    /// One order at a time, so that note and command are of the same one.
    turn: Mutex<()>,
    tree: Arc<OpenTree>,
    letters: Arc<OpenLetters>,
}

impl AppOperator {
    /// Must be called on the runtime.
    pub(super) fn new(
        data_dir: &Path,
        runtime_dir: &Path,
        shutdown: &ShutdownConfig,
        rules: Arc<LiveRules>,
    ) -> Self {
        Self {
            remote: OnceLock::new(),
            log: OnceLock::new(),
            crashes: CrashFolder::new(data_dir),
            stopped: StopNote::new(runtime_dir),
            engine_grace: shutdown.engine_grace,
            drain_grace: shutdown.drain_grace,
            rules,
            runtime: Handle::current(),
            turn: Mutex::new(()),
            tree: Arc::new(OpenTree::new()),
            letters: Arc::new(OpenLetters::new()),
        }
    }

    /// The state store as the API sees it; whoever opens one puts it there.
    pub(super) fn open_tree(&self) -> Arc<OpenTree> {
        Arc::clone(&self.tree)
    }

    /// The dead letters as the API sees them; whoever opens a store puts it there.
    pub(super) fn open_letters(&self) -> Arc<OpenLetters> {
        Arc::clone(&self.letters)
    }

    /// From now on orders are taken, and there is output.
    pub(super) fn serve(&self, remote: Remote, log: EngineLog) {
        // Called once.
        let _ = self.remote.set(remote);
        let _ = self.log.set(log);
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

    fn log(&self, incarnation: Option<u32>, lines_max: usize) -> io::Result<Vec<LogLine>> {
        let Some(log) = self.log.get() else {
            return Ok(Vec::new());
        };
        if let Some(incarnation) = incarnation {
            return log.read_back(incarnation, lines_max);
        }
        let mut lines = log.last_lines(None);
        Ok(lines.split_off(lines.len().saturating_sub(lines_max)))
    }

    fn follow_log(
        &self,
        incarnation: Option<u32>,
        lines_max: usize,
        after: Option<LogPosition>,
    ) -> Option<Following> {
        let (sender, items) = mpsc::channel(FOLLOWED_AHEAD);
        let (lines, follower) = self.log.get()?.follow(incarnation, lines_max, after);
        let position = follower.position();
        self.runtime.spawn(forward(follower, sender));
        Some(Following {
            lines,
            position,
            items,
        })
    }

    fn tail(&self, wanted: Wanted) -> Result<mpsc::Receiver<Bytes>, TailError> {
        self.rules.tap.read(wanted)
    }

    fn reload(&self) -> Result<Reloaded, ReloadError> {
        self.rules.reload()
    }

    fn crashes(&self) -> CrashFolder {
        self.crashes.clone()
    }

    fn tree(&self) -> Option<Arc<dyn TreeStore>> {
        let tree: Arc<dyn TreeStore> = self.open_tree();
        Some(tree)
    }

    fn letters(&self) -> Option<Arc<dyn LetterBox>> {
        let letters: Arc<dyn LetterBox> = self.open_letters();
        Some(letters)
    }
}

/// Hands on what comes until either side is gone. What the reader does not take waits where it lies.
async fn forward(mut follower: Follower, sender: mpsc::Sender<LogItem>) {
    loop {
        let next = tokio::select! {
            next = follower.next() => next,
            () = sender.closed() => return,
        };
        let item = match next {
            Some(Followed::Line(line)) => LogItem::Line(line),
            Some(Followed::Skipped(bytes)) => LogItem::Skipped(bytes),
            None => return,
        };
        if sender.send(item).await.is_err() {
            return;
        }
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
