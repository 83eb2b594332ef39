//! When there is to be a standby (a second engine, booted and parked), decided purely as [`super::Machine`] decides about
//! the engine.
//!
//! ```text
//! Absent → Spawning → Alive (booting, then parked) → promoted: Absent
//!    ↑         │        │ silent, dismissed → Ending
//!    └─────────┴────────┴──── death ────────────┘
//! ```
//!
//! A standby that dies or hangs is replaced quietly, ever more slowly; that counts in no crash loop.

use std::time::Duration;

use super::heart::Heart;
use super::policy::Policy;
use super::words::Beat;
use super::{KILL_AGAIN_AFTER, Phase};

/// The engine has to have been up for so long before a standby is started beside it: its own start comes first.
pub const STEADY: Duration = Duration::from_secs(1);
const RETRY_FIRST: Duration = Duration::from_secs(1);
const RETRY_MAX: Duration = Duration::from_secs(60);
/// A standby that lived so long clears the count of failures.
const STABLE: Duration = Duration::from_secs(60);
/// A parked engine beats about once a second, and nobody waits for a standby: less silence than this is none.
const SILENCE_MIN: Duration = Duration::from_secs(5);

/// Whether there is to be one, by how the engine is.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Wish {
    /// None: there is no engine to stand by for, or none is to be started. One that lives is ended.
    None,
    /// Neither start nor end one.
    #[default]
    Keep,
    /// One, once the engine has been so for [`STEADY`].
    Have,
}

impl Wish {
    /// The wish for an engine in `phase`. `is_up`: ready, where it has to say so; `is_safe`: it is a safe start;
    /// `is_for_good`: no other is to follow it.
    pub fn of(phase: Phase, is_up: bool, is_safe: bool, is_for_good: bool) -> Self {
        match phase {
            Phase::Idle | Phase::Stopped | Phase::GaveUp => Self::None,
            Phase::Stopping if is_for_good => Self::None,
            Phase::Running if is_up && !is_safe => Self::Have,
            Phase::Preparing
            | Phase::Starting
            | Phase::Running
            | Phase::Hung
            | Phase::Stopping
            | Phase::Backoff
            | Phase::HalfOpen => Self::Keep,
        }
    }
}

/// What happened.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Event {
    /// How the engine is now.
    Wish(Wish),
    /// The process asked for exists, or one that outlived its watchdog was taken over.
    Spawned,
    /// The process asked for could not be made.
    SpawnFailed,
    /// It opened its ring.
    Connected,
    /// Its heartbeat was read. Send one before each [`Event::Tick`] while connected.
    Beat {
        /// The reading.
        beat: Beat,
        /// It waits to be activated.
        parked: bool,
    },
    /// Its death is proven.
    Died,
    /// It is the engine from now on.
    Promoted,
    /// The one that lives is of no use (an old program, or the next start is a safe one): end it. Another follows as usual.
    Dismiss,
    /// The deadline has come.
    Tick,
}

/// What to do, in this order.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Action {
    /// Start one now and report [`Event::Spawned`] or [`Event::SpawnFailed`].
    Spawn,
    /// Kill it and everything in its process group.
    Kill,
    /// It is parked.
    TellParked,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum State {
    Absent {
        not_before: Duration,
    },
    Spawning,
    Alive {
        since: Duration,
        is_parked: bool,
    },
    Ending {
        kill_at: Duration,
        /// How long it had been silent, if that is why.
        silent: Option<Duration>,
        /// The next one waits until then.
        not_before: Duration,
    },
}

/// The machine. See the module's text.
#[derive(Debug)]
pub struct StandbyMachine {
    policy: Policy,
    state: State,
    wish: Wish,
    /// Since when there is to be one.
    wished_since: Option<Duration>,
    heart: Heart,
    failures: u32,
}

impl StandbyMachine {
    /// A machine without a standby.
    pub fn new(mut policy: Policy) -> Self {
        policy.hang_timeout = policy.hang_timeout.max(SILENCE_MIN);
        Self {
            policy,
            state: State::Absent {
                not_before: Duration::ZERO,
            },
            wish: Wish::Keep,
            wished_since: None,
            heart: Heart::default(),
            failures: 0,
        }
    }

    /// Whether one lives that may become the engine, whatever it is doing: one that still boots is at worst the cold start
    /// itself.
    pub fn is_promotable(&self) -> bool {
        matches!(self.state, State::Alive { .. })
    }

    /// Whether it waits to be activated.
    pub fn is_parked(&self) -> bool {
        matches!(
            self.state,
            State::Alive {
                is_parked: true,
                ..
            }
        )
    }

    /// Whether we are ending it.
    pub fn is_ending(&self) -> bool {
        matches!(self.state, State::Ending { .. })
    }

    /// How long it had been silent, if we are ending it for that.
    pub fn silent(&self) -> Option<Duration> {
        match self.state {
            State::Ending { silent, .. } => silent,
            _ => None,
        }
    }

    /// The pause before the next one is started.
    pub fn retry(&self, now: Duration) -> Duration {
        match self.state {
            State::Absent { not_before } | State::Ending { not_before, .. } => {
                not_before.saturating_sub(now)
            }
            State::Spawning | State::Alive { .. } => Duration::ZERO,
        }
    }

    /// When [`Event::Tick`] is due; `None` = only an event can change anything.
    pub fn deadline(&self) -> Option<Duration> {
        match self.state {
            State::Absent { not_before } => {
                let since = self.wished_since?;
                Some(since.saturating_add(STEADY).max(not_before))
            }
            State::Spawning => None,
            State::Alive { .. } => self.silence_deadline(),
            State::Ending { kill_at, .. } => Some(kill_at),
        }
    }

    fn silence_deadline(&self) -> Option<Duration> {
        if !self.heart.connected && !self.policy.heartbeat_required {
            // There is nothing to go by.
            return None;
        }
        Some(if self.heart.has_frame() {
            self.heart.hang_deadline(&self.policy)
        } else {
            self.heart.startup_deadline(&self.policy)
        })
    }

    /// Takes one event and says what to do.
    pub fn on_event(&mut self, event: Event, now: Duration) -> Vec<Action> {
        let mut out = Vec::new();
        match event {
            Event::Wish(wish) => self.on_wish(wish, now, &mut out),
            Event::Spawned => {
                self.heart = Heart::new(now);
                self.state = State::Alive {
                    since: now,
                    is_parked: false,
                };
                if self.wish == Wish::None {
                    self.end(None, now, now, &mut out);
                }
            }
            Event::SpawnFailed => {
                if self.state == State::Spawning {
                    let not_before = now.saturating_add(self.next_delay());
                    self.state = State::Absent { not_before };
                }
            }
            Event::Connected => self.heart.connect(now),
            Event::Beat { beat, parked } => self.on_beat(&beat, parked, now, &mut out),
            Event::Died => self.on_died(now),
            Event::Promoted => {
                if self.is_promotable() {
                    self.failures = 0;
                    // The one that it was is up anew.
                    self.wished_since = None;
                    self.wish = Wish::Keep;
                    self.state = State::Absent { not_before: now };
                }
            }
            Event::Dismiss => {
                self.failures = 0;
                match &mut self.state {
                    State::Alive { .. } => self.end(None, now, now, &mut out),
                    State::Absent { not_before } | State::Ending { not_before, .. } => {
                        *not_before = now;
                    }
                    State::Spawning => {}
                }
            }
            Event::Tick => self.on_tick(now, &mut out),
        }
        out
    }

    fn on_wish(&mut self, wish: Wish, now: Duration, out: &mut Vec<Action>) {
        self.wish = wish;
        if wish == Wish::Have {
            self.wished_since.get_or_insert(now);
        } else {
            self.wished_since = None;
        }
        if wish == Wish::None && self.is_promotable() {
            self.end(None, now, now, out);
        }
    }

    fn on_beat(&mut self, beat: &Beat, parked: bool, now: Duration, out: &mut Vec<Action>) {
        let State::Alive { since, is_parked } = self.state else {
            return;
        };
        self.heart.on_beat(beat, now);
        if parked && !is_parked {
            out.push(Action::TellParked);
        }
        self.state = State::Alive {
            since,
            is_parked: parked,
        };
    }

    fn on_died(&mut self, now: Duration) {
        match self.state {
            State::Alive { since, .. } => {
                if now.saturating_sub(since) >= STABLE {
                    self.failures = 0;
                }
                let not_before = now.saturating_add(self.next_delay());
                self.state = State::Absent { not_before };
            }
            State::Ending { not_before, .. } => self.state = State::Absent { not_before },
            State::Absent { .. } | State::Spawning => {}
        }
    }

    fn on_tick(&mut self, now: Duration, out: &mut Vec<Action>) {
        if self.deadline().is_none_or(|deadline| now < deadline) {
            return;
        }
        match self.state {
            State::Absent { .. } => {
                self.state = State::Spawning;
                out.push(Action::Spawn);
            }
            State::Alive { since, .. } => {
                if self.heart.has_frame() && self.heart.forgive_lateness(&self.policy, now) {
                    return;
                }
                if now.saturating_sub(since) >= STABLE {
                    self.failures = 0;
                }
                let not_before = now.saturating_add(self.next_delay());
                self.end(Some(self.heart.silent(now)), not_before, now, out);
            }
            State::Ending {
                silent, not_before, ..
            } => {
                out.push(Action::Kill);
                self.state = State::Ending {
                    kill_at: now.saturating_add(KILL_AGAIN_AFTER),
                    silent,
                    not_before,
                };
            }
            State::Spawning => {}
        }
    }

    /// It has nothing to save, so it is killed at once.
    fn end(
        &mut self,
        silent: Option<Duration>,
        not_before: Duration,
        now: Duration,
        out: &mut Vec<Action>,
    ) {
        out.push(Action::Kill);
        self.state = State::Ending {
            kill_at: now.saturating_add(KILL_AGAIN_AFTER),
            silent,
            not_before,
        };
    }

    fn next_delay(&mut self) -> Duration {
        let delay = RETRY_FIRST.saturating_mul(1 << self.failures.min(10));
        self.failures = self.failures.saturating_add(1);
        delay.min(RETRY_MAX)
    }
}

#[cfg(test)]
mod tests;
