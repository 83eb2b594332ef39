//! The engines' output and launch numbers.
//!
//! An engine appends to a *live* file in the runtime directory, which is memory: it never waits for a disk, its
//! descriptor stays good for its whole life, and what it has written is there however it dies. Two threads see to it:
//! - `engine-output` (`worker`) reads lines as they come and touches no disk,
//! - `engine-files` (`keeper`) copies to pieces of bounded size in the data directory (`spool`), and reserves the next
//!   launch number ahead of time, so that a disk that stands still delays no relaunch.
//!
//! What is promised: every byte that the engine has written while a disk works is kept once. If the disk stands still,
//! up to `memory_bytes_max` bytes wait in memory; when there are more, the older half goes. What the engine itself still holds in a
//! buffer when it dies (a release build without `flush_stdout_on_print`) never came here.

mod engine_log;
mod follower;
mod keeper;
mod numbers;
mod past;
mod pieces;
mod spool;
mod worker;

use std::collections::VecDeque;
use std::fs::File;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::mpsc::{Receiver, sync_channel};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread::JoinHandle;
use std::time::Duration;

pub use self::engine_log::EngineLog;
use self::engine_log::Files;
pub use self::follower::{Followed, Follower};
use self::keeper::Keeper;
use self::numbers::{Numbers, open_live};
use self::worker::Worker;
use super::launch::{Running, RunningFile};
use crate::crash::reporter::{OnTold, PostMortem, ReportConfig, Reporter};
use crate::crash::{DeathFacts, OnReport};
use crate::log_line::LogLine;
use crate::platform::{FileWatch, Waker};

/// Work that waits for this thread; beyond it the oldest is dropped (its file stays on the disk).
const WORK_MAX: usize = 64;
/// The folder of kept output in the data directory.
const KEPT_DIR: &str = "engine";
/// The folder of live output in the runtime directory.
const LIVE_DIR: &str = "output";

/// Why engine output has no place.
#[derive(Debug, thiserror::Error)]
#[error("engine output cannot be kept in {path:?}: {source}; {}", crate::platform::remedy(.source))]
pub struct OutputError {
    /// The folder or file.
    pub path: PathBuf,
    /// What the system said.
    pub source: io::Error,
}

impl OutputError {
    fn new(path: &Path, source: io::Error) -> Self {
        Self {
            path: path.to_owned(),
            source,
        }
    }
}

/// Whether the data directory itself tells up to which number launches were reserved. One that does not may still have a
/// past that only its store knows.
pub fn is_launch_reserved(data_dir: &Path) -> bool {
    numbers::reserved(data_dir).is_some()
}

/// How much of the engines' output is kept, and where it shows.
#[derive(Clone, Debug)]
pub struct OutputSettings {
    /// So many lines are kept in memory.
    pub lines_kept: usize,
    /// So many of the last lines go into a crash report.
    pub report_lines: usize,
    /// A file is ended and the next one begun at this many bytes (or at the end of the line).
    pub rotate_bytes: u64,
    /// Files of all engines together have at most about so many bytes; the oldest go first.
    pub disk_bytes_max: u64,
    /// Output of so many engines is kept beside the present one's.
    pub launches_kept: usize,
    /// So much output may wait in memory for the disk; beyond it all but the newest half of that is given up.
    pub memory_bytes_max: u64,
    /// Run after each crash report.
    pub post_mortem: Option<PostMortem>,
}

impl Default for OutputSettings {
    fn default() -> Self {
        Self {
            lines_kept: 1000,
            report_lines: 200,
            rotate_bytes: 16 << 20,
            disk_bytes_max: 256 << 20,
            launches_kept: 50,
            memory_bytes_max: 16 << 20,
            post_mortem: None,
        }
    }
}

/// A launch number that was never used before and never will be again, with a file for the engine's output.
#[derive(Debug)]
pub struct Prepared {
    /// The number.
    pub launch: u32,
    /// The file that the engine writes to, opened for appending; in memory.
    pub log: File,
    /// Its path.
    pub path: PathBuf,
    /// Where its first part is kept.
    pub kept: PathBuf,
}

/// What an earlier run left behind.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Past {
    /// The highest launch number that may have been used; 0 = none.
    pub last: u32,
    /// Whether that engine's end was asked for, or clean.
    pub clean: bool,
    /// Whether this data directory itself tells of an engine that ran.
    pub is_ours: bool,
}

/// A crash handler's banner in the running engine's output. Games can print one themselves: once a frame has passed after
/// it, it means nothing.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct BannerSeen {
    /// Whose output it is in.
    pub launch: u32,
    /// The signal that it tells of.
    pub signal: i32,
    /// When it came, on the same clock; zero if before we did.
    pub at: Duration,
    /// When the last line came so far, on the monotonic clock ([`crate::platform::monotonic_now`]).
    pub last_line: Duration,
}

#[derive(Debug)]
enum Work {
    /// An engine started: prepare the next, follow this one.
    Started {
        launch: u32,
        pid: u32,
        path: Option<PathBuf>,
        adopted: bool,
    },
    /// A standby started: prepare the next launch. Its output is followed once it is the engine.
    StandbyStarted {
        launch: u32,
    },
    /// A standby's death is proven: what it wrote is kept.
    StandbyOver {
        launch: u32,
        live: PathBuf,
    },
    /// An engine runs: which process it is.
    Runs(Running),
    /// No engine runs and the last one's end was asked for, or clean.
    EndedCleanly {
        launch: u32,
    },
    /// A death is proven.
    Ended(Box<DeathFacts>),
    /// So is one that no watchdog told; with the file that it wrote to.
    EndedUntold(Box<DeathFacts>, Option<PathBuf>),
    Leave,
}

#[derive(Debug)]
struct Shared {
    /// Held for a push or a pop, never while a file is touched.
    work: Mutex<VecDeque<Work>>,
    banner: Mutex<Option<BannerSeen>>,
    waker: Waker,
}

/// The supervisor's hold of the output threads.
#[derive(Debug)]
pub struct Output {
    shared: Arc<Shared>,
    log: EngineLog,
    kept: PathBuf,
    live: PathBuf,
    prepared: Receiver<Result<Prepared, OutputError>>,
    thread: Option<JoinHandle<()>>,
}

/// What the output threads are started with.
pub struct OutputConfig {
    /// How much is kept.
    pub settings: OutputSettings,
    /// About the reports; its folders are used for the output, too.
    pub report: ReportConfig,
    /// The highest launch number that is known to have been used.
    pub used: u32,
    /// The engine that is about to be adopted: its output is not of the dead.
    pub running: Option<u32>,
    /// The same of its standby.
    pub standby: Option<u32>,
    /// Takes each launch whose end is told.
    pub on_told: OnTold,
    /// Woken when a crash banner is seen ([`Output::banner`]).
    pub supervisor: Waker,
}

impl std::fmt::Debug for OutputConfig {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("OutputConfig")
            .field("settings", &self.settings)
            .field("report", &self.report)
            .field("used", &self.used)
            .field("running", &self.running)
            .field("standby", &self.standby)
            .finish_non_exhaustive()
    }
}

impl Output {
    /// Opens the numbers, prepares the first launch and starts the threads. `on_line` is called on the reading one with
    /// each new line: it must not block.
    ///
    /// # Errors
    /// The data directory or the runtime directory cannot be written.
    pub fn start(
        config: OutputConfig,
        is_free: impl Fn(u32) -> bool,
        on_line: impl FnMut(LogLine) + Send + 'static,
        on_report: OnReport,
    ) -> Result<(Self, Past), OutputError> {
        let kept = config.report.data_dir.join(KEPT_DIR);
        let live = config.report.runtime_dir.join(LIVE_DIR);
        let failed = |source| OutputError::new(&kept, source);
        let data_dir = &config.report.data_dir;
        let (mut numbers, past) = Numbers::open(data_dir, &kept, &live, config.used, is_free)?;
        let (ready, prepared) = sync_channel(1);
        let first = numbers.prepare(0)?;
        let _ = ready.try_send(Ok(first));
        let shared = Arc::new(Shared {
            work: Mutex::new(VecDeque::new()),
            banner: Mutex::new(None),
            waker: Waker::new().map_err(failed)?,
        });
        let settings = config.settings;
        let files = Files {
            kept: kept.clone(),
            live: live.clone(),
        };
        let log = EngineLog::new(settings.lines_kept, files, past.last, config.running);
        let folders = (kept.clone(), live.clone());
        let keeper = Keeper::start(
            settings.clone(),
            folders,
            numbers,
            ready,
            (config.running, config.standby),
            RunningFile::new(data_dir),
        )
        .map_err(failed)?;
        let worker = Worker {
            shared: Arc::clone(&shared),
            log: log.clone(),
            settings,
            kept: kept.clone(),
            live: live.clone(),
            keeper,
            reporter: Reporter::start(config.report, on_report, config.on_told).map_err(failed)?,
            on_line: Box::new(on_line),
            supervisor: config.supervisor,
            watch: FileWatch::new().ok(),
            following: None,
            over: VecDeque::new(),
        };
        let thread = std::thread::Builder::new()
            .name("engine-output".to_owned())
            .spawn(move || worker.run())
            .map_err(failed)?;
        let output = Self {
            shared,
            log,
            kept,
            live,
            prepared,
            thread: Some(thread),
        };
        Ok((output, past))
    }

    /// The lines.
    pub fn log(&self) -> EngineLog {
        self.log.clone()
    }

    /// The next prepared launch beyond `last`, waited for up to `timeout`; `None` = the disk is too slow for us.
    pub fn take(&self, last: u32, timeout: Duration) -> Option<Prepared> {
        loop {
            match self.prepared.recv_timeout(timeout) {
                Ok(Ok(prepared)) if prepared.launch > last => return Some(prepared),
                // Its number was used without it meanwhile.
                Ok(Ok(_)) => {}
                Ok(Err(error)) => {
                    tracing::warn!(%error, "launch number is not durable");
                    return None;
                }
                Err(_) => return None,
            }
        }
    }

    /// A file for the output of a launch whose number could not be reserved in time; it is in memory, so this does not
    /// wait for the disk. `None` = the runtime directory cannot be written, its output is lost.
    pub fn unprepared(&self, launch: u32) -> Option<Prepared> {
        match open_live(&self.live, &self.kept, launch) {
            Ok(prepared) => Some(prepared),
            Err(error) => {
                tracing::warn!(%error, "engine output is lost");
                None
            }
        }
    }

    /// Tells that an engine runs: its output (`path`: the live file) is followed and the next launch prepared.
    pub fn started(&self, launch: u32, pid: u32, path: Option<PathBuf>, adopted: bool) {
        self.push(Work::Started {
            launch,
            pid,
            path,
            adopted,
        });
    }

    /// Tells that a standby runs: the next launch is prepared.
    pub fn standby_started(&self, launch: u32) {
        self.push(Work::StandbyStarted { launch });
    }

    /// Tells that a standby died that never was the engine: what it wrote to `live` is kept.
    pub fn standby_over(&self, launch: u32, live: PathBuf) {
        self.push(Work::StandbyOver { launch, live });
    }

    /// Where the first part of an engine's output is kept that is written to `live`.
    pub fn kept(&self, launch: u32, live: &Path) -> PathBuf {
        if live.parent() == Some(&*self.live) {
            pieces::piece_path(&self.kept, launch, 0)
        } else {
            live.to_owned()
        }
    }

    /// Tells which process the engine is, for the record in the data directory.
    pub fn runs(&self, running: Running) {
        self.push(Work::Runs(running));
    }

    /// The crash handler's banner in the output that is followed, if its last lines are one.
    pub fn banner(&self) -> Option<BannerSeen> {
        *lock(&self.shared.banner)
    }

    /// Tells that the last engine's end was asked for, or clean, and none follows.
    pub fn ended_cleanly(&self, launch: u32) {
        self.push(Work::EndedCleanly { launch });
    }

    /// Tells of a proven death, after the next start: what the engine printed is read to its end, and a report made
    /// unless the end was expected. Never blocks.
    pub fn ended(&self, facts: DeathFacts) {
        self.push(Work::Ended(Box::new(facts)));
    }

    /// Tells of a death that no watchdog told: `live` is the file that the engine wrote to. Never blocks.
    pub fn ended_untold(&self, facts: DeathFacts, live: Option<PathBuf>) {
        self.push(Work::EndedUntold(Box::new(facts), live));
    }

    fn push(&self, work: Work) {
        let mut queue = lock(&self.shared.work);
        if queue.len() >= WORK_MAX {
            queue.pop_front();
        }
        queue.push_back(work);
        drop(queue);
        self.shared.waker.wake();
    }
}

impl Drop for Output {
    fn drop(&mut self) {
        self.push(Work::Leave);
        if let Some(thread) = self.thread.take() {
            // It panics only by a bug in `on_line`, which the panic itself has told already.
            let _ = thread.join();
        }
    }
}

fn lock<T>(mutex: &Mutex<T>) -> std::sync::MutexGuard<'_, T> {
    // What is behind these mutexes is whole between any two statements.
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
