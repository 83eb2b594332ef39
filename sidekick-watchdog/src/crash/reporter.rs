//! Makes and keeps reports on a thread of its own, so that neither the supervisor nor the engine's output waits for a
//! disk, a kernel log or a hook.

mod gather;
mod hook;

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::mpsc::{Receiver, SyncSender, TrySendError, sync_channel};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use sidekick_ipc::errors;

use super::keep::{CrashFolder, keep_death, read_death};
use super::parse::CrashScan;
use super::{CrashReport, DeathFacts, OnReport};
use crate::log_line::LogLine;
use crate::platform::OomCounters;
use gather::make;
pub use hook::PostMortem;
use hook::run_hooks;

/// Deaths that wait for their report; beyond it the newest is not reported (its log stays).
const DEATHS_MAX: usize = 32;
/// Reports that wait for the hook; beyond it the hook is not run for the newest.
const HOOKS_MAX: usize = 8;
/// How long the end of the watchdog waits for reports that are being written.
const LAST_GRACE: Duration = Duration::from_secs(5);
const POLL: Duration = Duration::from_millis(5);

/// What reports are made with.
#[derive(Clone, Debug, Default)]
pub struct ReportConfig {
    /// The watchdog's name.
    pub source: String,
    /// Reports are kept in here.
    pub data_dir: PathBuf,
    /// The last deaths are kept in here, for the next incarnation.
    pub runtime_dir: PathBuf,
    /// The engine's working directory, where cores with relative names lie.
    pub working_dir: PathBuf,
    /// What may be shown of the engine's environment (see [`super::environment`]).
    pub environment: BTreeMap<String, String>,
    /// Run after each report.
    pub post_mortem: Option<PostMortem>,
}

/// What the output of a dead engine gave.
#[derive(Debug, Default)]
pub struct Collected {
    /// What its text told.
    pub scan: CrashScan,
    /// Its last lines, oldest first.
    pub lines: Vec<LogLine>,
    /// The system's counters as they stood at its start.
    pub oom: OomCounters,
    /// Where its output is kept.
    pub log: Option<PathBuf>,
}

/// Reads what an engine printed that nobody followed. Called on the reports' own thread: it may wait for a disk.
pub type Collect = Box<dyn FnOnce() -> Collected + Send>;

/// Takes the number of each launch whose end is told: its report is kept as well as can be, or there is to be none. It
/// must not block.
pub type OnTold = Arc<dyn Fn(u32) + Send + Sync>;

struct Job {
    facts: DeathFacts,
    output: JobOutput,
}

enum JobOutput {
    Followed(Box<Collected>),
    /// Its death was not told in time: a watchdog before us may have begun to.
    Unfollowed(Collect),
}

/// Hands deaths to the thread; on drop it is waited for, a few seconds at most.
pub struct Reporter {
    jobs: Option<SyncSender<Job>>,
    on_told: OnTold,
    thread: Option<JoinHandle<()>>,
}

impl std::fmt::Debug for Reporter {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Reporter").finish_non_exhaustive()
    }
}

impl Reporter {
    /// Starts the thread.
    ///
    /// # Errors
    /// The system has no thread to give.
    pub fn start(
        config: ReportConfig,
        on_report: OnReport,
        on_told: OnTold,
    ) -> std::io::Result<Self> {
        let (jobs, receiver) = sync_channel(DEATHS_MAX);
        let (hooks, reports) = sync_channel(HOOKS_MAX);
        if let Some(hook) = config.post_mortem.clone() {
            // It ends with its channel; the watchdog's end does not wait for a hook.
            std::thread::Builder::new()
                .name("post-mortem".to_owned())
                .spawn(move || run_hooks(&hook, &reports))?;
        }
        let worker = Worker {
            config,
            on_report,
            on_told: Arc::clone(&on_told),
            hooks,
        };
        let thread = std::thread::Builder::new()
            .name("crash-report".to_owned())
            .spawn(move || worker.run(&receiver))?;
        Ok(Self {
            jobs: Some(jobs),
            on_told,
            thread: Some(thread),
        })
    }

    /// Makes a report of a death, unless it was expected. Never blocks.
    pub fn death(&self, facts: DeathFacts, collected: Collected) {
        self.push(Job {
            facts,
            output: JobOutput::Followed(Box::new(collected)),
        });
    }

    /// The same for a death that no watchdog told, of an engine whose output nobody follows any more. Where a watchdog
    /// before us was killed in the middle of telling it, its report is the one that is kept. Never blocks.
    pub fn untold_death(&self, facts: DeathFacts, collect: Collect) {
        self.push(Job {
            facts,
            output: JobOutput::Unfollowed(collect),
        });
    }

    fn push(&self, job: Job) {
        let incarnation = job.facts.incarnation;
        let Some(jobs) = &self.jobs else {
            return;
        };
        if let Err(TrySendError::Full(_)) = jobs.try_send(job) {
            tracing::warn!(
                incarnation,
                "no crash report: {DEATHS_MAX} others wait for the disk; the engine's output is kept"
            );
            (self.on_told)(incarnation);
        }
    }
}

impl Drop for Reporter {
    fn drop(&mut self) {
        self.jobs = None;
        let Some(thread) = self.thread.take() else {
            return;
        };
        let until = Instant::now() + LAST_GRACE;
        while !thread.is_finished() {
            if Instant::now() >= until {
                tracing::warn!("crash reports wait for the disk; not waited for");
                return;
            }
            std::thread::sleep(POLL);
        }
        // It panics only by a bug in `on_report`, which the panic itself has told already.
        let _ = thread.join();
    }
}

struct Worker {
    config: ReportConfig,
    on_report: OnReport,
    on_told: OnTold,
    hooks: SyncSender<(PathBuf, CrashReport)>,
}

impl Worker {
    fn run(mut self, jobs: &Receiver<Job>) {
        while let Ok(Job { facts, output }) = jobs.recv() {
            let incarnation = facts.incarnation;
            if !facts.expected {
                let report = match output {
                    JobOutput::Followed(collected) => make(&self.config, facts, *collected),
                    JobOutput::Unfollowed(collect) => match begun(&self.config, &facts) {
                        Some(report) => report,
                        None => make(&self.config, facts, collect()),
                    },
                };
                self.keep(report);
            }
            // Only now: killed before this, a successor keeps the same report again, or makes it.
            (self.on_told)(incarnation);
            // What cannot be removed now lies in memory until the next boot.
            let _ = errors::remove(&self.config.runtime_dir, incarnation);
        }
    }

    fn keep(&mut self, report: CrashReport) {
        let incarnation = report.incarnation;
        // Memory first: the next incarnation may ask for it already.
        let in_memory = keep_death(&self.config.runtime_dir, &report);
        if let Err(error) = &in_memory {
            tracing::warn!(incarnation, %error, "the next incarnation is not told of this death");
        }
        let on_disk = CrashFolder::new(&self.config.data_dir).keep(&report);
        let path = match (on_disk, in_memory) {
            (Ok(path), _) => path,
            (Err(error), in_memory) => {
                tracing::warn!(incarnation, %error, "crash report is not on the disk; {}",
                    crate::platform::remedy(&error));
                in_memory.unwrap_or_default()
            }
        };
        if self.config.post_mortem.is_some()
            && let Err(TrySendError::Full(_)) = self.hooks.try_send((path.clone(), report.clone()))
        {
            tracing::warn!(
                incarnation,
                "post_mortem is not run: {HOOKS_MAX} others wait for it"
            );
        }
        (self.on_report)(report, path);
    }
}

/// The report of this death that a watchdog before us kept, in memory or on the disk, before it was killed.
fn begun(config: &ReportConfig, facts: &DeathFacts) -> Option<CrashReport> {
    let is_it = |report: &CrashReport| report.source == config.source && report.pid == facts.pid;
    read_death(&config.runtime_dir, facts.incarnation)
        .filter(is_it)
        .or_else(|| {
            CrashFolder::new(&config.data_dir)
                .find(facts.incarnation)
                .filter(is_it)
        })
}

#[cfg(test)]
mod tests;
