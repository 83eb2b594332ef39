//! What happens to the engine, in words that log, status, API and tests share.

use std::fmt;
use std::path::PathBuf;
use std::time::Duration;

use serde::Serialize;

use crate::crash::HangKind;

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
    /// It ended by itself before it opened the ring that it has to have: the game never ran.
    ExitedEarly {
        /// The exit code.
        exit_code: i32,
    },
    /// It opened no ring within the startup time and we ended it.
    NoRing {
        /// How long it had been running.
        after: Duration,
    },
    /// Its library speaks another version of the protocol and we ended it.
    Foreign(Versions),
    /// The game did not say within its time that it is ready, and we ended it.
    NotReady {
        /// How long it had been running.
        after: Duration,
    },
    /// It used more memory than it may, and we ended it.
    Memory {
        /// How much was resident.
        rss_bytes: u64,
    },
    /// It crashed, but its process did not come to its end and we killed it.
    CrashLimbo,
    /// It said goodbye, but its process did not come to its end and we killed it.
    StuckInExit {
        /// The exit code that it had announced.
        exit_code: i32,
        /// How long it had been silent; `None` = beyond the grace that it was given.
        silent: Option<Duration>,
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
        /// How it hung, as far as could be seen.
        how: HangKind,
    },
    /// We asked it to quit and had to kill it after the grace.
    StopTimeout,
    /// It was gone when we came, and the system no longer knows how it ended.
    Unknown,
    /// It died while no watchdog was there to see how.
    Unwatched,
}

impl DeathCause {
    /// The kind in one word, for the label of a metric.
    pub fn label(&self) -> &'static str {
        match self {
            Self::Clean { .. } => "clean",
            Self::Exited { .. } => "exited",
            Self::ExitedEarly { .. } => "exited_early",
            Self::NoRing { .. } => "no_ring",
            Self::Foreign(_) => "foreign",
            Self::NotReady { .. } => "not_ready",
            Self::Memory { .. } => "memory",
            Self::CrashLimbo => "crash_limbo",
            Self::StuckInExit { .. } => "stuck_in_exit",
            Self::Signaled { .. } => "signaled",
            Self::Hung { .. } => "hung",
            Self::StopTimeout => "stop_timeout",
            Self::Unknown => "unknown",
            Self::Unwatched => "unwatched",
        }
    }
}

/// The cause in words for people: "segmentation fault (SIGSEGV)", "exit code 3", "hung for 10.2 s".
impl fmt::Display for DeathCause {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Clean { exit_code: 0 } => write!(f, "quit"),
            Self::Clean { exit_code } => write!(f, "quit with exit code {exit_code}"),
            Self::Exited { exit_code } => write!(f, "exit code {exit_code}"),
            Self::ExitedEarly { exit_code } => {
                write!(f, "exit code {exit_code} before the game ran")
            }
            Self::NoRing { after } => write!(
                f,
                "ended: the Sidekick extension did not show itself within {:.1} s",
                after.as_secs_f64()
            ),
            Self::Foreign(versions) => write!(f, "ended: {versions}"),
            Self::NotReady { after } => write!(
                f,
                "ended: the game did not say within {:.1} s that it is ready",
                after.as_secs_f64()
            ),
            Self::Memory { rss_bytes } => write!(
                f,
                "ended: it used {} MiB of memory, more than it may",
                rss_bytes >> 20
            ),
            Self::CrashLimbo => write!(f, "crashed, but did not end; killed"),
            Self::StuckInExit { exit_code, silent } => {
                write!(f, "quit with exit code {exit_code}, but hung in its exit")?;
                if let Some(silent) = silent {
                    write!(f, " for {:.1} s", silent.as_secs_f64())?;
                }
                write!(f, "; killed")
            }
            Self::Signaled {
                signal,
                core_dumped,
            } => {
                match signal_words(*signal) {
                    Some(words) => write!(f, "{words}")?,
                    None => write!(f, "killed by signal {signal}")?,
                }
                if *core_dumped {
                    write!(f, ", core dumped")?;
                }
                Ok(())
            }
            Self::Hung { silent, how } => {
                write!(f, "hung for {:.1} s", silent.as_secs_f64())?;
                match how.words() {
                    "" => Ok(()),
                    words => write!(f, " {words}"),
                }
            }
            Self::StopTimeout => write!(f, "killed, did not quit within its grace"),
            Self::Unknown => write!(f, "gone, nobody saw how"),
            Self::Unwatched => write!(f, "died while no watchdog ran, nobody saw how"),
        }
    }
}

/// The signals that end engines, in words (numbers as on Linux, x86 and ARM).
pub fn signal_words(signal: i32) -> Option<&'static str> {
    Some(match signal {
        1 => "killed by SIGHUP",
        2 => "killed by SIGINT",
        3 => "killed by SIGQUIT",
        4 => "illegal instruction (SIGILL)",
        5 => "trap (SIGTRAP)",
        6 => "aborted (SIGABRT)",
        7 => "bus error (SIGBUS)",
        8 => "arithmetic error (SIGFPE)",
        9 => "killed by SIGKILL",
        10 => "killed by SIGUSR1",
        11 => "segmentation fault (SIGSEGV)",
        12 => "killed by SIGUSR2",
        13 => "broken pipe (SIGPIPE)",
        14 => "killed by SIGALRM",
        15 => "killed by SIGTERM",
        24 => "out of CPU time (SIGXCPU)",
        25 => "file too large (SIGXFSZ)",
        31 => "bad system call (SIGSYS)",
        _ => return None,
    })
}

/// A signal's name in its words: the part in parentheses, or after "killed by ".
pub fn signal_name(signal: i32) -> Option<&'static str> {
    let words = signal_words(signal)?;
    let at = words.find("SIG")?;
    Some(words[at..].trim_end_matches(')'))
}

/// The two sides of a ring, where they do not fit.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
pub struct Versions {
    /// The protocol that the game's library speaks.
    pub library_protocol: u16,
    /// The protocol that this watchdog speaks.
    pub watchdog_protocol: u16,
    /// The library's own version, where it can be made out.
    pub library: Option<String>,
}

impl Versions {
    /// Which side is the older one, and what to do about it.
    pub fn remedy(&self) -> &'static str {
        if self.library_protocol < self.watchdog_protocol {
            "update the addon in the game (addons/sidekick) to the watchdog's version"
        } else {
            "update the watchdog to the version of the game's addon (addons/sidekick)"
        }
    }
}

/// "the game's library (0.3.0) speaks protocol 4, this watchdog (0.2.0) speaks 3".
impl fmt::Display for Versions {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "the game's library ")?;
        if let Some(library) = &self.library {
            write!(f, "({library}) ")?;
        }
        write!(
            f,
            "speaks protocol {}, this watchdog ({}) speaks {}",
            self.library_protocol,
            env!("CARGO_PKG_VERSION"),
            self.watchdog_protocol
        )
    }
}

/// Why no engine of a configuration can be watched.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case", tag = "kind")]
pub enum Unfit {
    /// It opens no ring: the extension is not loaded.
    NoExtension {
        /// How long it was waited for.
        after: Duration,
    },
    /// Library and watchdog speak different versions of the protocol.
    Version(Versions),
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
        /// It was the standby, booted before.
        standby: bool,
    },
    /// A second engine boots, to take the place of the first one when that dies.
    StandbyStarted {
        /// The incarnation number that it has when it is activated.
        incarnation: u32,
        /// Its process id.
        pid: u32,
        /// It outlived the watchdog that had started it.
        adopted: bool,
    },
    /// The standby waits to be activated.
    StandbyParked {
        /// Its incarnation number.
        incarnation: u32,
        /// From its start.
        after: Duration,
    },
    /// The standby died before it was activated.
    StandbyEnded {
        /// Its incarnation number.
        incarnation: u32,
        /// Its process id.
        pid: u32,
        /// Why, as far as is known.
        cause: DeathCause,
        /// Until the next one is started; `None`: we ended it.
        retry: Option<Duration>,
    },
    /// An engine that outlived its watchdog was taken over.
    Adopted {
        /// Its incarnation number.
        incarnation: u32,
        /// Its process id.
        pid: u32,
        /// How long it has been running.
        uptime: Duration,
        /// The runtime directory was cleaned up under it, and its ring with that.
        ring_lost: bool,
    },
    /// The engine opened its ring: the extension is loaded.
    Connected {
        /// Its incarnation number.
        incarnation: u32,
        /// Its first frame has passed before: it was adopted, or booted as the standby.
        in_main_loop: bool,
    },
    /// The engine's first frame has passed.
    Running {
        /// Its incarnation number.
        incarnation: u32,
        /// From its start.
        after: Duration,
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
        /// How it hangs, as far as can be seen.
        how: HangKind,
    },
    /// The engine uses more memory than it should; the game was told.
    MemoryHigh {
        /// Its incarnation number.
        incarnation: u32,
        /// Its resident memory.
        rss_bytes: u64,
        /// The limit that it is beyond.
        limit_bytes: u64,
    },
    /// We end the engine by our own decision; another follows.
    Ending {
        /// Its incarnation number.
        incarnation: u32,
        /// Why: the cause of death to be, in words.
        why: String,
    },
    /// The engine is restarted by plan, or because the game asked for it.
    Planned {
        /// Its incarnation number.
        incarnation: u32,
        /// Which entry of the schedule, or whose wish.
        why: String,
    },
    /// The engine dies again and again: the next start is a safe one.
    SafeStart {
        /// Deaths in a row.
        deaths: u32,
    },
    /// The engine's death is proven.
    Died {
        /// Its incarnation number.
        incarnation: u32,
        /// Its process id.
        pid: u32,
        /// Why, as far as is known.
        cause: DeathCause,
        /// Where its output went, if anywhere.
        log: Option<PathBuf>,
        /// From its start, where that is known.
        uptime: Option<Duration>,
        /// The last frame that its heartbeat told.
        frame: Option<u64>,
        /// It was asked to end, and did.
        as_asked: bool,
        /// It ended by itself, with a code that counts as success: only `restart = "always"` starts another.
        success: bool,
    },
    /// The report of a death is kept.
    Reported {
        /// The incarnation that died.
        incarnation: u32,
        /// Why it died, in a sentence's words.
        cause: String,
        /// What names the report, a UUID.
        report_id: String,
        /// Its file.
        path: PathBuf,
    },
    /// No ring was opened within the startup time: the extension is missing or does not fit.
    Unconnected {
        /// Its incarnation number.
        incarnation: u32,
        /// How long it has been running.
        after: Duration,
    },
    /// The first engine shows that none of this configuration can be watched; the watchdog ends.
    Unfit {
        /// Its incarnation number.
        incarnation: u32,
        /// Why.
        unfit: Unfit,
        /// Where its output went, if anywhere.
        log: Option<PathBuf>,
        /// It was adopted and runs on.
        left_running: bool,
    },
    /// An engine process could not be made, or the command before it failed; it counts as a death.
    StartFailed {
        /// The incarnation number it would have had.
        incarnation: u32,
        /// Cause and remedy.
        error: String,
    },
    /// The next start waits.
    Backoff {
        /// For how long.
        delay: Duration,
        /// Whether it is a try of a crash loop's: these go on for ever.
        crash_loop: bool,
    },
    /// The engine dies again and again: from now on one try every `every`, for ever.
    CrashLoop {
        /// Deaths in a row.
        deaths: u32,
        /// The pause between two tries.
        every: Duration,
    },
    /// The engine died too often within the configured window; none will be started any more.
    GaveUp {
        /// Deaths within the window.
        deaths: u32,
    },
    /// The engine was asked to quit; it is killed when it has not done so within the grace.
    Stopping {
        /// Its incarnation number.
        incarnation: u32,
        /// How long it has.
        grace: Duration,
    },
    /// No engine runs and none will be started.
    Stopped {
        /// Whether an operator or the watchdog's own end asked for it; else the engine ended and policy leaves it so.
        asked: bool,
    },
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn causes_read_as_words() {
        let signaled = |signal, core_dumped| DeathCause::Signaled {
            signal,
            core_dumped,
        };
        let hung = DeathCause::Hung {
            silent: Duration::from_millis(10_230),
            how: HangKind::BusyLoop,
        };
        for (cause, words) in [
            (
                signaled(11, true),
                "segmentation fault (SIGSEGV), core dumped",
            ),
            (signaled(9, false), "killed by SIGKILL"),
            (signaled(64, false), "killed by signal 64"),
            (DeathCause::Exited { exit_code: 3 }, "exit code 3"),
            (DeathCause::Clean { exit_code: 0 }, "quit"),
            (hung, "hung for 10.2 s in a busy loop"),
        ] {
            assert_eq!(cause.to_string(), words);
        }
    }
}
