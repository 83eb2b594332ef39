//! Why an engine died, with everything that helps to mend it.
//!
//! - [`DeathFacts`]: what the supervisor knows at the proof of death.
//! - [`CrashReport`]: what is made of it: kept in files, stored as a record of stream [`STREAM`], shown to people.
//! - [`parse`]: what Godot's own text tells (the crash handler's banner, backtraces, script errors).
//! - [`verdict`]: why it died, of all that is known.
//! - [`build`]: puts a report together; [`environment`] and [`cores`] give it their part.
//! - [`keep`]: where reports lie.
//! - [`reporter`]: the thread that does all this.
//!
//! Words that supervisor, app, API and command line share; it knows none of them.

pub mod build;
pub mod cores;
pub mod environment;
pub mod keep;
pub mod parse;
pub mod reporter;
pub mod verdict;

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::time::{Duration, SystemTime};

use serde::{Deserialize, Serialize};
use uuid::Uuid;

use crate::event::DeathCause;
use crate::log_line::LogLine;

/// The stream that reports are recorded in.
pub const STREAM: &str = "sidekick.crash";
/// The folder of reports in the data directory: `<report_id>.json`.
pub const CRASHES_DIR: &str = "crashes";
/// The folder of reports in the runtime directory: `<incarnation>.json`, for the next incarnation.
pub const DEATHS_DIR: &str = "deaths";

/// What the supervisor knows when an engine's death is proven.
#[derive(Clone, Debug, PartialEq)]
pub struct DeathFacts {
    /// The incarnation (launch number) that died.
    pub incarnation: u32,
    /// Its process id.
    pub pid: u32,
    /// Why, as far as exit status, ring and our own deeds tell.
    pub cause: DeathCause,
    /// Whether this end was asked for, or clean and successful: then no report is made.
    pub expected: bool,
    /// When its death was proven.
    pub ended: SystemTime,
    /// From its start, where that is known.
    pub uptime: Option<Duration>,
    /// The last frame that its heartbeat told.
    pub frame: Option<u64>,
    /// How long its last frame took.
    pub last_tick: Option<Duration>,
    /// What it was doing: `boot`, `loading`, `running`, `paused`, `stopping`.
    pub phase: Option<String>,
    /// Whether the game had called `Sidekick.mark_ready()`.
    pub ready: bool,
    /// Its memory over time, oldest first.
    pub memory: Vec<MemorySample>,
    /// What was found before a hanging engine was ended.
    pub hang: Option<HangEvidence>,
    /// Where its output goes, as it was started.
    pub log: Option<PathBuf>,
    /// It was a standby: it never served anybody.
    pub standby: bool,
    /// The game's version, where it told one.
    pub game_version: Option<String>,
}

impl DeathFacts {
    /// Facts with everything unknown but these; it died just now.
    pub fn new(incarnation: u32, pid: u32, cause: DeathCause) -> Self {
        Self {
            incarnation,
            pid,
            cause,
            expected: false,
            ended: SystemTime::now(),
            uptime: None,
            frame: None,
            last_tick: None,
            phase: None,
            ready: false,
            memory: Vec::new(),
            hang: None,
            log: None,
            standby: false,
            game_version: None,
        }
    }
}

/// The engine's memory at one time.
#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct MemorySample {
    /// Seconds from the engine's start.
    pub at_s: f64,
    /// Resident memory in bytes.
    pub rss_bytes: u64,
}

/// How a hanging engine hangs.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum HangKind {
    /// It uses its processor: a loop without end, or one that takes very long.
    BusyLoop,
    /// It sleeps: a lock, a socket, a child process.
    Waiting,
    /// It is in a system call that does not return (a disk or network share that stands still).
    Uninterruptible,
    /// A signal stopped it (SIGSTOP, SIGTSTP).
    Stopped,
    /// It could not be seen.
    #[default]
    Unknown,
}

impl HangKind {
    /// The end of the sentence "hung for 10.2 s …"; empty when unknown.
    pub fn words(self) -> &'static str {
        match self {
            Self::BusyLoop => "in a busy loop",
            Self::Waiting => "waiting for something",
            Self::Uninterruptible => "in a system call that does not return",
            Self::Stopped => "stopped by a signal",
            Self::Unknown => "",
        }
    }
}

/// What was found before a hanging engine was ended.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct HangEvidence {
    /// How it hung.
    pub kind: HangKind,
    /// How long its main loop had been silent, in seconds.
    pub silent_s: f64,
    /// Its processor use while it was silent; 100 = one whole core.
    pub cpu_percent: Option<f64>,
    /// Its threads, the main thread first.
    pub threads: Vec<ThreadEvidence>,
}

/// One thread of a hanging engine.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct ThreadEvidence {
    /// Its id.
    pub id: u32,
    /// Its name.
    pub name: String,
    /// `R`, `S`, `D`, `T`, … as the system has it.
    pub state: String,
    /// Its processor use; 100 = one whole core.
    pub cpu_percent: Option<f64>,
    /// Where in the kernel it waits, where the system tells.
    pub waits_in: Option<String>,
    /// Its stack, innermost first, where the system tells.
    pub stack: Vec<String>,
}

/// One error that the engine told before its death.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct ScriptError {
    /// `script`, `error`, `shader` or `warning`.
    pub kind: String,
    /// What was wrong, in the engine's words.
    pub message: String,
    /// The function that it was told from.
    pub function: String,
    /// The file, as `res://…` for scripts.
    pub file: String,
    /// The line in it, from 1; 0 = unknown.
    pub line: u32,
    /// The scripts' stack, innermost first.
    pub backtrace: Vec<String>,
    /// How often it came in a row.
    pub count: u32,
}

/// Whether the kernel killed it for want of memory.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum OutOfMemory {
    /// No: it died otherwise, or the counter that would show it stands where it stood.
    No,
    /// The kernel's log names this process.
    Proven,
    /// It was killed by SIGKILL, not by us, and its control group counts a kill for want of memory in its lifetime.
    Likely,
    /// The system does not let us know.
    #[default]
    Unknown,
}

/// Why an engine died, with everything that helps to mend it. What is not known is `null` or empty.
///
/// In JSON it is what `Sidekick.get_last_death()`, the backend and the API get.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct CrashReport {
    /// Names this report for ever.
    pub report_id: Uuid,
    /// The watchdog's name.
    pub source: String,
    /// The incarnation that died.
    pub incarnation: u32,
    /// Its process id.
    pub pid: u32,
    /// Why, in words: "segmentation fault in frame 18,211 after 5 min 3 s".
    pub cause: String,
    /// Why, in one word, to count and filter by: `segv`, `abort`, `fpe`, `ill`, `bus`, `oom`, `hang`, `memory`, `killed`,
    /// `exit`, `stop_timeout`, `unknown`, …
    pub kind: String,
    /// The signal that was at its root. Godot's handler turns SIGSEGV into SIGABRT; the true one is in its text.
    pub signal: Option<i32>,
    /// The same as `SIGSEGV`.
    pub signal_name: Option<String>,
    /// The exit code, if it ended by itself.
    pub exit_code: Option<i32>,
    /// When it was started, RFC 3339.
    pub started: Option<String>,
    /// When its death was proven, RFC 3339.
    pub ended: String,
    /// How long it lived, in seconds.
    pub uptime_s: Option<f64>,
    /// The last frame that its heartbeat told.
    pub frame: Option<u64>,
    /// How long its last frame took, in milliseconds.
    pub last_tick_ms: Option<f64>,
    /// What it was doing: `boot`, `loading`, `running`, `paused`, `stopping`.
    pub phase: Option<String>,
    /// Whether the game had called `Sidekick.mark_ready()`.
    pub ready: bool,
    /// The engine's own (C++) backtrace, innermost first, as it was printed.
    pub backtrace: Vec<String>,
    /// The scripts' backtrace at the crash, innermost first: `_process (res://main.gd:5)`.
    pub script_backtrace: Vec<String>,
    /// The last errors that the engine told, oldest first.
    pub script_errors: Vec<ScriptError>,
    /// The last lines of its output, oldest first.
    pub log_lines: Vec<LogLine>,
    /// Its memory over time, oldest first.
    pub memory: Vec<MemorySample>,
    /// What was found before it was ended for hanging.
    pub hang: Option<HangEvidence>,
    /// Whether the kernel killed it for want of memory.
    pub out_of_memory: OutOfMemory,
    /// Its environment: values of what is known to be harmless, else `(hidden)`.
    pub environment: BTreeMap<String, String>,
    /// Where its core dump lies, or how to get at it.
    pub core: Option<String>,
    /// The game's version, as its project has it.
    pub game_version: Option<String>,
    /// As the engine told it: `Godot Engine v4.6.3.stable…`.
    pub engine_version: Option<String>,
    /// The watchdog's version.
    pub watchdog_version: String,
    /// The file with its whole output.
    pub log: Option<PathBuf>,
    /// Whether it was a standby, which never served anybody.
    pub standby: bool,
}

/// Takes each report once it is kept, with the path of its file (in the data directory; in the runtime directory if
/// that disk could not be written). Called on the reports' own thread.
pub type OnReport = Box<dyn FnMut(CrashReport, PathBuf) + Send>;
