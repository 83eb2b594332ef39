//! Makes and keeps reports on a thread of its own, so that neither the supervisor nor the engine's output waits for a
//! disk, a kernel log or a hook.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::Arc;
use std::sync::mpsc::{Receiver, SyncSender, TrySendError, sync_channel};
use std::thread::JoinHandle;
use std::time::{Duration, Instant, SystemTime};

use sidekick_ipc::errors::{self, ErrorKind};

use super::build::{Findings, build};
use super::keep::{CrashFolder, keep_death, read_death};
use super::parse::{CrashScan, ERRORS_KEPT};
use super::{CrashReport, DeathFacts, OnReport, OutOfMemory, ScriptError, cores};
use crate::event::DeathCause;
use crate::log_line::LogLine;
use crate::platform::{HelperEnd, OomCounters, kernel_log_names, run_helper};

/// Deaths that wait for their report; beyond it the newest is not reported (its log stays).
const DEATHS_MAX: usize = 32;
/// Reports that wait for the hook; beyond it the hook is not run for the newest.
const HOOKS_MAX: usize = 8;
/// How long the end of the watchdog waits for reports that are being written.
const LAST_GRACE: Duration = Duration::from_secs(5);
const POLL: Duration = Duration::from_millis(5);
const SIGKILL: i32 = 9;
/// Where the system says what it does with cores.
const CORE_PATTERN: &str = "/proc/sys/kernel/core_pattern";

/// A command that is run after a report is written.
#[derive(Clone, Debug)]
pub struct PostMortem {
    /// Program and arguments; not empty.
    pub command: Vec<String>,
    /// It is killed after this time.
    pub timeout: Duration,
}

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

fn make(config: &ReportConfig, facts: DeathFacts, collected: Collected) -> CrashReport {
    let started = facts
        .uptime
        .and_then(|uptime| facts.ended.checked_sub(uptime));
    let findings = Findings {
        out_of_memory: out_of_memory(&facts, &collected.oom),
        errors: noted_errors(&config.runtime_dir, facts.incarnation),
        core: core(&facts, &config.working_dir, started),
        scan: collected.scan,
        lines: collected.lines,
        environment: config.environment.clone(),
        log: collected.log,
        source: config.source.clone(),
    };
    build(facts, findings)
}

/// Takes the strongest word that the system gives.
fn out_of_memory(facts: &DeathFacts, counters: &OomCounters) -> OutOfMemory {
    let is_kill = match facts.cause {
        DeathCause::Signaled { signal, .. } => signal == SIGKILL,
        DeathCause::Unknown | DeathCause::Unwatched => true,
        _ => false,
    };
    if !is_kill {
        return OutOfMemory::No;
    }
    if counters.machine_has_risen() == Some(false) {
        return OutOfMemory::No;
    }
    // The kernel's log is looked through from its start until now, which may be long after its death.
    let since = facts.ended.elapsed().unwrap_or_default();
    let lived = facts.uptime.unwrap_or(Duration::MAX).saturating_add(since);
    match (
        kernel_log_names(facts.pid, lived),
        counters.group_has_risen(),
    ) {
        (Some(true), _) => OutOfMemory::Proven,
        (Some(false), _) | (None, Some(false)) => OutOfMemory::No,
        (None, Some(true)) => OutOfMemory::Likely,
        (None, None) => OutOfMemory::Unknown,
    }
}

fn core(facts: &DeathFacts, working_dir: &Path, started: Option<SystemTime>) -> Option<String> {
    let DeathCause::Signaled {
        core_dumped: true, ..
    } = facts.cause
    else {
        return None;
    };
    let pattern = std::fs::read_to_string(CORE_PATTERN).ok()?;
    cores::find(&pattern, facts.pid, working_dir, started)
}

/// The errors that the extension noted in the runtime directory; taken away once read.
fn noted_errors(runtime_dir: &Path, incarnation: u32) -> Vec<ScriptError> {
    let noted = match errors::read(runtime_dir, incarnation) {
        Ok(noted) => noted,
        Err(error) => {
            tracing::warn!(incarnation, %error, "noted errors cannot be read; those of the output are taken");
            return Vec::new();
        }
    };
    let word = |kind| match kind {
        ErrorKind::Script => "script",
        ErrorKind::Shader => "shader",
        ErrorKind::Error => "error",
    };
    let from = noted.len().saturating_sub(ERRORS_KEPT);
    let error = |error: errors::ScriptError| ScriptError {
        kind: word(error.kind).to_owned(),
        message: error.text,
        function: error.function,
        file: error.file,
        line: error.line,
        backtrace: error.backtrace.lines().map(str::to_owned).collect(),
        count: error.count,
    };
    noted.into_iter().skip(from).map(error).collect()
}

fn run_hooks(hook: &PostMortem, reports: &Receiver<(PathBuf, CrashReport)>) {
    while let Ok((path, report)) = reports.recv() {
        let Some((program, arguments)) = hook.command.split_first() else {
            return;
        };
        let mut command = Command::new(program);
        command
            .args(arguments)
            .env("SIDEKICK_REPORT", &path)
            .env("SIDEKICK_REPORT_ID", report.report_id.to_string())
            .env("SIDEKICK_REPORT_CAUSE", &report.cause)
            .env("SIDEKICK_REPORT_KIND", &report.kind)
            .env(
                "SIDEKICK_REPORT_INCARNATION",
                report.incarnation.to_string(),
            )
            .stdin(Stdio::null())
            .stdout(Stdio::null());
        let incarnation = report.incarnation;
        match run_helper(&mut command, hook.timeout, None, None) {
            Ok(HelperEnd::Code(0)) => tracing::debug!(incarnation, "post_mortem ended"),
            Ok(end) => tracing::warn!(incarnation, %end, "post_mortem did not end well"),
            Err(error) => tracing::warn!(incarnation, %error, program, "post_mortem cannot be run"),
        }
    }
}

#[cfg(test)]
mod tests {
    use std::sync::mpsc::channel;

    use super::*;

    const DEADLINE: Duration = Duration::from_secs(20);

    fn config(dir: &Path) -> ReportConfig {
        ReportConfig {
            source: "test".to_owned(),
            data_dir: dir.join("data"),
            runtime_dir: dir.join("run"),
            working_dir: dir.to_owned(),
            ..ReportConfig::default()
        }
    }

    fn segv() -> DeathFacts {
        let signaled = DeathCause::Signaled {
            signal: 11,
            core_dumped: false,
        };
        DeathFacts::new(7, 42, signaled)
    }

    /// Reports a death and checks that its report lies in memory and on the disk, and that an expected one gets none.
    #[test]
    fn a_death_leaves_a_report_and_an_expected_end_none() {
        let dir = tempfile::tempdir().expect("temporary folder");
        let (sender, reports) = channel();
        let on_report: OnReport = Box::new(move |report, path| {
            let _ = sender.send((report, path));
        });
        let (tells, told) = sync_channel(8);
        let on_told: OnTold = Arc::new(move |incarnation| {
            let _ = tells.try_send(incarnation);
        });
        let reporter = Reporter::start(config(dir.path()), on_report, on_told).expect("started");
        let mut expected = segv();
        expected.expected = true;
        reporter.death(expected, Collected::default());
        reporter.death(segv(), Collected::default());
        drop(reporter);
        let (report, path) = reports.recv_timeout(DEADLINE).expect("a report");
        assert_eq!(report.signal, Some(11));
        assert!(
            path.starts_with(dir.path().join("data/crashes")),
            "{path:?}"
        );
        let folder = CrashFolder::new(&dir.path().join("data"));
        assert_eq!(folder.read(report.report_id).expect("read"), report);
        assert_eq!(folder.pending().expect("readable"), [report.report_id]);
        assert!(dir.path().join("run/deaths/0000000007.json").exists());
        assert!(reports.recv_timeout(DEADLINE).is_err(), "one report");
        let told: Vec<u32> = told.iter().collect();
        assert_eq!(told, [7, 7], "the end that was expected, too");
    }

    /// A watchdog is killed in the middle of telling a death that it was not there for: whatever it had come to, the
    /// next one tells the same report, and there is one.
    #[test]
    fn a_death_that_was_begun_to_be_told_is_told_as_the_same() {
        for cut in ["nothing kept", "in memory", "on the disk", "both"] {
            let dir = tempfile::tempdir().expect("temporary folder");
            let unwatched = || DeathFacts::new(7, 42, DeathCause::Unwatched);
            let first = make(&config(dir.path()), unwatched(), Collected::default());
            if matches!(cut, "in memory" | "both") {
                keep_death(&dir.path().join("run"), &first).expect("kept");
            }
            let folder = CrashFolder::new(&dir.path().join("data"));
            if matches!(cut, "on the disk" | "both") {
                folder.keep(&first).expect("kept");
            }
            let told = tell_untold(dir.path(), unwatched());
            assert_eq!(told == first.report_id, cut != "nothing kept", "{cut}");
            assert_eq!(folder.ids().expect("readable"), [told], "{cut}");
            assert_eq!(folder.pending().expect("readable"), [told], "{cut}");
            // And told again by a third one.
            assert_eq!(tell_untold(dir.path(), unwatched()), told, "{cut}");
            assert_eq!(folder.ids().expect("readable"), [told], "{cut}");
        }
    }

    /// The broken variant: a report is made whether there is one or not. The test above would find two.
    #[test]
    fn made_anew_each_time_there_would_be_two_reports() {
        let dir = tempfile::tempdir().expect("temporary folder");
        let folder = CrashFolder::new(&dir.path().join("data"));
        for _ in 0..2 {
            let facts = DeathFacts::new(7, 42, DeathCause::Unwatched);
            let report = make(&config(dir.path()), facts, Collected::default());
            folder.keep(&report).expect("kept");
        }
        assert_eq!(folder.ids().expect("readable").len(), 2);
    }

    /// A report of that number, but of another process: of another life of the runtime directory.
    #[test]
    fn a_report_of_another_process_is_not_this_deaths() {
        let dir = tempfile::tempdir().expect("temporary folder");
        let other = DeathFacts::new(7, 41, DeathCause::Unwatched);
        let other = make(&config(dir.path()), other, Collected::default());
        keep_death(&dir.path().join("run"), &other).expect("kept");
        let told = tell_untold(dir.path(), DeathFacts::new(7, 42, DeathCause::Unwatched));
        assert_ne!(told, other.report_id);
    }

    fn tell_untold(dir: &Path, facts: DeathFacts) -> uuid::Uuid {
        let (sender, reports) = channel();
        let on_report: OnReport = Box::new(move |report, _| {
            let _ = sender.send(report);
        });
        let reporter = Reporter::start(config(dir), on_report, Arc::new(|_| {})).expect("started");
        reporter.untold_death(facts, Box::new(Collected::default));
        drop(reporter);
        reports.recv_timeout(DEADLINE).expect("a report").report_id
    }

    /// Makes a folder of reports impossible: the report is in memory, and told all the same.
    #[test]
    fn without_a_disk_the_report_is_in_memory() {
        let dir = tempfile::tempdir().expect("temporary folder");
        std::fs::write(dir.path().join("data"), "in the way").expect("written");
        let (sender, reports) = channel();
        let on_report: OnReport = Box::new(move |_, path| {
            let _ = sender.send(path);
        });
        let reporter =
            Reporter::start(config(dir.path()), on_report, Arc::new(|_| {})).expect("started");
        reporter.death(segv(), Collected::default());
        let path = reports.recv_timeout(DEADLINE).expect("a report");
        assert_eq!(path, dir.path().join("run/deaths/0000000007.json"));
    }

    /// A hook that hangs is killed after its time and holds nothing up; it finds the report.
    #[test]
    fn the_hook_gets_the_reports_path_and_a_limit() {
        let dir = tempfile::tempdir().expect("temporary folder");
        let told = dir.path().join("told");
        let script = format!(
            "cp \"$SIDEKICK_REPORT\" {0}.new && mv {0}.new {0}; sleep 1000",
            told.display()
        );
        let mut config = config(dir.path());
        config.post_mortem = Some(PostMortem {
            command: vec!["/bin/sh".into(), "-c".into(), script],
            timeout: Duration::from_secs(5),
        });
        let (sender, reports) = channel();
        let on_report: OnReport = Box::new(move |report, _| {
            let _ = sender.send(report);
        });
        let reporter = Reporter::start(config, on_report, Arc::new(|_| {})).expect("started");
        reporter.death(segv(), Collected::default());
        reporter.death(segv(), Collected::default());
        let first = reports.recv_timeout(DEADLINE).expect("a report");
        reports.recv_timeout(DEADLINE).expect("not held up");
        let until = Instant::now() + DEADLINE;
        while !told.exists() && Instant::now() < until {
            std::thread::sleep(POLL);
        }
        let text = std::fs::read(&told).expect("the hook has copied it");
        let copied: CrashReport = serde_json::from_slice(&text).expect("whole");
        assert_eq!(copied, first);
    }
}
