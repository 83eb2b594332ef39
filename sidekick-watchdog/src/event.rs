//! What happens to the engine, in words that log, status, API and tests share.

use std::path::PathBuf;
use std::time::Duration;

use serde::Serialize;

/// Why an engine's life ended.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case", tag = "kind")]
pub enum DeathCause {
    /// It ended by itself and said so in its ring.
    Clean {
        /// Its exit code (low 8 bits, as Godot has it).
        exit_code: i32,
    },
    /// It ended by itself with this code but without saying goodbye in its ring.
    Exited {
        /// The exit code.
        exit_code: i32,
    },
    /// A signal killed it.
    Signaled {
        /// The signal's number.
        signal: i32,
        /// Whether the kernel says a core was dumped.
        core_dumped: bool,
    },
    /// Its main loop stood still for too long and we ended it.
    Hung {
        /// How long it had been silent.
        silent: Duration,
    },
    /// We asked it to quit and had to kill it after the grace.
    StopTimeout,
    /// It was gone when we came, and the system no longer knows how it ended.
    Unknown,
}

/// One thing that happened, for log, status and `/api/v1/events`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case", tag = "event")]
pub enum EngineEvent {
    /// A new engine process was started.
    Started {
        /// Its incarnation number, from 1.
        incarnation: u32,
        /// Its process id.
        pid: u32,
        /// From the proof of the last death to this start; `None` for the first start.
        gap: Option<Duration>,
        /// Where its output goes.
        log: PathBuf,
    },
    /// An engine that outlived its watchdog was taken over.
    Adopted {
        /// Its incarnation number.
        incarnation: u32,
        /// Its process id.
        pid: u32,
    },
    /// The engine opened its ring: the extension is loaded.
    Connected {
        /// Its incarnation number.
        incarnation: u32,
    },
    /// The game called `Sidekick.mark_ready()`.
    Ready {
        /// Its incarnation number.
        incarnation: u32,
        /// From its start.
        after: Duration,
    },
    /// The engine's main loop is silent beyond the limit.
    Hung {
        /// Its incarnation number.
        incarnation: u32,
        /// How long it has been silent.
        silent: Duration,
    },
    /// The engine's death is proven.
    Died {
        /// Its incarnation number.
        incarnation: u32,
        /// Its process id.
        pid: u32,
        /// Why, as far as is known.
        cause: DeathCause,
        /// From its start, where that is known.
        uptime: Option<Duration>,
        /// The last frame that its heartbeat told.
        frame: Option<u64>,
    },
    /// The next start waits.
    Backoff {
        /// For how long.
        delay: Duration,
    },
    /// No engine runs and none will be started.
    Stopped,
}
