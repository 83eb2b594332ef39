//! What is known of an engine's end, and what that makes its cause.

use std::path::PathBuf;
use std::time::Duration;

use super::Heartbeat;
use super::machine::EndedBy;
use crate::crash::{DeathFacts, HangEvidence, MemorySample};
use crate::event::{DeathCause, Versions};
use crate::platform::Exit;

/// All that is known of a death but how the process ended.
#[derive(Debug)]
pub(super) struct Death {
    pub launch: u32,
    pub pid: u32,
    /// Our own deed, if it was ours.
    pub ended_by: Option<EndedBy>,
    pub uptime: Duration,
    /// The last that its ring told, if it had one.
    pub heartbeat: Option<Heartbeat>,
    /// The game's version, where its ring tells one.
    pub game_version: Option<String>,
    /// It never opened the ring that it has to have.
    pub is_ring_missing: bool,
    /// Its ring is of another protocol version.
    pub foreign: Option<Versions>,
    pub log: Option<PathBuf>,
    /// It was to end.
    pub is_asked: bool,
    /// Its end counts as success, as far as is known at once.
    pub is_success: bool,
    /// Its memory over time.
    pub memory: Vec<MemorySample>,
    /// How it hung.
    pub hang: Option<HangEvidence>,
    /// The signal that its crash handler told of.
    pub caught: Option<i32>,
}

const SIGABRT: i32 = 6;
const SIGKILL: i32 = 9;
const SIGTERM: i32 = 15;

impl Death {
    /// The facts, for a report.
    pub(super) fn facts(&self, exit: Exit) -> DeathFacts {
        let heartbeat = self.heartbeat.unwrap_or_default();
        let tick = Duration::from_micros(heartbeat.last_tick_us.into());
        let cause = self.cause(exit);
        DeathFacts {
            expected: self.is_expected(&cause),
            uptime: Some(self.uptime),
            frame: self.heartbeat.map(|heartbeat| heartbeat.frames),
            last_tick: Some(tick).filter(|tick| !tick.is_zero()),
            ready: heartbeat.ready,
            phase: Some(heartbeat.phase.to_owned()).filter(|phase| !phase.is_empty()),
            memory: self.memory.clone(),
            hang: self.hang.clone(),
            log: self.log.clone(),
            game_version: self.game_version.clone(),
            ..DeathFacts::new(self.launch, self.pid, cause)
        }
    }

    /// The cause as it is told at once: Godot's crash handler ends with SIGABRT whatever it caught, and says what that was.
    pub(super) fn told_cause(&self, exit: Exit) -> DeathCause {
        match (self.cause(exit), self.caught) {
            (
                DeathCause::Signaled {
                    signal: SIGABRT,
                    core_dumped,
                },
                Some(signal),
            ) => DeathCause::Signaled {
                signal,
                core_dumped,
            },
            (cause, _) => cause,
        }
    }

    /// Clean with success, or as it was asked to end: no report.
    pub(super) fn is_expected(&self, cause: &DeathCause) -> bool {
        match cause {
            DeathCause::Clean { .. } | DeathCause::Exited { .. } => {
                self.is_success || self.is_asked
            }
            // Asked by SIGTERM, for want of a ring, or killed because we were asked twice.
            DeathCause::Signaled {
                signal: SIGTERM | SIGKILL,
                ..
            } => self.is_asked,
            // The same, of somebody else's child of which the system told nobody.
            DeathCause::Unknown => self.is_asked && self.heartbeat.is_none(),
            _ => false,
        }
    }

    /// It was asked to end, and did.
    pub(super) fn is_as_asked(&self, exit: Exit) -> bool {
        self.is_asked && self.is_expected(&self.cause(exit))
    }

    /// The cause, by our own deeds, the system's word and the engine's own.
    pub(super) fn cause(&self, exit: Exit) -> DeathCause {
        let goodbye = self.heartbeat.and_then(|heartbeat| heartbeat.clean_exit);
        match (self.ended_by, exit, goodbye) {
            (Some(EndedBy::NoRing { after }), ..) => DeathCause::NoRing { after },
            (Some(EndedBy::Foreign), ..) => {
                DeathCause::Foreign(self.foreign.clone().unwrap_or_default())
            }
            (Some(EndedBy::StuckInExit { silent }), _, goodbye) => DeathCause::StuckInExit {
                exit_code: goodbye.unwrap_or(0),
                silent: Some(silent),
            },
            (Some(EndedBy::Hang { silent }), ..) => DeathCause::Hung {
                silent,
                how: self.hang.as_ref().map(|hang| hang.kind).unwrap_or_default(),
            },
            (Some(EndedBy::NotReady { after }), ..) => DeathCause::NotReady { after },
            (Some(EndedBy::Memory { rss_bytes }), ..) => DeathCause::Memory { rss_bytes },
            (Some(EndedBy::CrashLimbo), ..) => DeathCause::CrashLimbo,
            // It said goodbye, so it came to its end by itself, if just beyond the grace.
            (_, Exit::Code(exit_code), Some(_)) => DeathCause::Clean { exit_code },
            (Some(EndedBy::StopTimeout), _, Some(exit_code)) => DeathCause::StuckInExit {
                exit_code,
                silent: None,
            },
            (Some(EndedBy::StopTimeout), ..) => DeathCause::StopTimeout,
            (None, Exit::Unknown, Some(exit_code)) => DeathCause::Clean { exit_code },
            (None, Exit::Code(exit_code), None) if self.is_ring_missing => {
                DeathCause::ExitedEarly { exit_code }
            }
            (None, Exit::Code(exit_code), None) => DeathCause::Exited { exit_code },
            (
                None,
                Exit::Signal {
                    signal,
                    core_dumped,
                },
                _,
            ) => DeathCause::Signaled {
                signal,
                core_dumped,
            },
            (None, Exit::Unknown, None) => DeathCause::Unknown,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::crash::HangKind;

    /// A program without the extension is asked by a signal, of which it may die.
    #[test]
    fn who_dies_of_being_asked_ended_as_asked() {
        let killed = |signal| Exit::Signal {
            signal,
            core_dumped: false,
        };
        for (is_asked, exit, wanted) in [
            (true, killed(SIGTERM), true),
            (true, Exit::Code(143), true),
            (true, Exit::Unknown, true),
            (true, killed(11), false),
            (false, killed(SIGTERM), false),
            (false, Exit::Code(0), false),
            (false, Exit::Unknown, false),
        ] {
            let death = Death {
                launch: 1,
                pid: 1,
                is_asked,
                is_success: false,
                ended_by: None,
                uptime: Duration::ZERO,
                heartbeat: None,
                game_version: None,
                is_ring_missing: false,
                foreign: None,
                log: None,
                memory: Vec::new(),
                hang: None,
                caught: None,
            };
            assert_eq!(death.is_as_asked(exit), wanted, "{is_asked} {exit:?}");
        }
    }

    #[test]
    fn the_cause_is_the_best_word_of_all_who_tell() {
        let killed = Exit::Signal {
            signal: 9,
            core_dumped: false,
        };
        let silent = Duration::from_secs(5);
        let stuck = DeathCause::StuckInExit {
            exit_code: 3,
            silent: None,
        };
        for (ended_by, exit, goodbye, ring, cause) in [
            (
                None,
                Exit::Code(3),
                Some(3),
                true,
                DeathCause::Clean { exit_code: 3 },
            ),
            (
                None,
                Exit::Code(3),
                None,
                true,
                DeathCause::Exited { exit_code: 3 },
            ),
            (
                None,
                Exit::Code(0),
                None,
                false,
                DeathCause::ExitedEarly { exit_code: 0 },
            ),
            (
                None,
                Exit::Unknown,
                Some(3),
                true,
                DeathCause::Clean { exit_code: 3 },
            ),
            (None, Exit::Unknown, None, true, DeathCause::Unknown),
            (
                Some(EndedBy::Hang { silent }),
                killed,
                None,
                true,
                DeathCause::Hung {
                    silent,
                    how: HangKind::Unknown,
                },
            ),
            (
                Some(EndedBy::StopTimeout),
                killed,
                None,
                true,
                DeathCause::StopTimeout,
            ),
            (Some(EndedBy::StopTimeout), killed, Some(3), true, stuck),
        ] {
            let death = Death {
                launch: 1,
                pid: 1,
                is_asked: false,
                is_success: false,
                ended_by,
                uptime: silent,
                heartbeat: ring.then(|| Heartbeat {
                    clean_exit: goodbye,
                    ..Heartbeat::default()
                }),
                game_version: None,
                is_ring_missing: !ring,
                foreign: None,
                log: None,
                memory: Vec::new(),
                hang: None,
                caught: Some(11),
            };
            assert_eq!(
                death.cause(exit),
                cause,
                "{ended_by:?} {exit:?} {goodbye:?}"
            );
            assert_eq!(death.told_cause(exit), cause, "killed, not crashed");
            if cause == DeathCause::Unknown {
                let signaled = |signal| Exit::Signal {
                    signal,
                    core_dumped: false,
                };
                let told = death.told_cause(signaled(SIGABRT)).to_string();
                assert_eq!(told, "segmentation fault (SIGSEGV)");
                assert_eq!(death.told_cause(signaled(9)), death.cause(signaled(9)));
            }
        }
    }
}
