//! What to do with the engine, decided purely: `on_event(event, now) -> actions`.
//!
//! Owns every decision about starting, stopping, waiting and killing. Does nothing itself, reads no clock and
//! knows no process: the runtime carries the actions out and reports back. `now` is CLOCK_MONOTONIC as a
//! [`Duration`], the same clock as the stamps of the engine's heartbeats.
//!
//! ```text
//! Idle → (Preparing) → Spawning → Starting → Running → (Hung) ─┐
//!              ↑                                               │ death
//!              ├──── Backoff / HalfOpen ←──────────────────────┤
//!              └──── at once (first death) ←───────────────────┤
//!                    Stopping → Stopped   GaveUp ←─────────────┘
//! ```
//!
//! - [`policy`]: the figures. [`words`]: events, actions, phases. `state`: what the phases stand for.
//! - `heart`: until when an engine may be silent. `deadlines`: what is done when any time has come.
//! - `ending`: how a living engine is ended. `limbo`: one that told of its crash and is there still.
//! - `death`: what follows its death. `breaker`: what a failure leads to.
//! - [`standby`]: the same for a second engine that waits to take its place.

mod breaker;
mod deadlines;
mod death;
mod ending;
mod heart;
mod limbo;
pub mod policy;
pub mod standby;
mod state;
pub mod words;

use std::time::Duration;

use self::breaker::Breaker;
use self::heart::Heart;
pub use self::limbo::LIMBO_SILENCE;
use self::limbo::Limbo;
pub use self::policy::{Policy, RestartPolicy};
use self::state::{State, Then};
pub use self::words::{Action, Beat, EndedBy, Event, Phase, Told, Unfit};

/// After a kill the group is killed again this often, should its death not come (a process in an uninterruptible
/// system call dies only when that returns). No other engine is started meanwhile.
pub const KILL_AGAIN_AFTER: Duration = Duration::from_secs(5);

/// The machine. See the module's text.
#[derive(Debug)]
pub struct Machine {
    policy: Policy,
    breaker: Breaker,
    state: State,
    started_at: Duration,
    heart: Heart,
    /// An engine of this machine's life has opened a ring: the configuration can work.
    ever_connected: bool,
    adopted: bool,
    told_unconnected: bool,
    limbo: Option<Limbo>,
    ended_by: Option<EndedBy>,
    next_is_safe: bool,
}

impl Machine {
    /// A machine at rest. `seed` feeds the jitter.
    pub fn new(policy: Policy, seed: u64) -> Self {
        Self {
            policy,
            breaker: Breaker::new(seed),
            state: State::Idle,
            started_at: Duration::ZERO,
            heart: Heart::default(),
            ever_connected: false,
            adopted: false,
            told_unconnected: false,
            limbo: None,
            ended_by: None,
            next_is_safe: false,
        }
    }

    /// Where things stand.
    pub fn phase(&self) -> Phase {
        match self.state {
            State::Idle => Phase::Idle,
            State::Preparing { .. } => Phase::Preparing,
            State::Spawning { .. } | State::Starting => Phase::Starting,
            State::Running => Phase::Running,
            State::Hung { .. } => Phase::Hung,
            State::Stopping { .. } => Phase::Stopping,
            State::Waiting { .. } if self.breaker.is_open() => Phase::HalfOpen,
            State::Waiting { .. } => Phase::Backoff,
            State::Stopped => Phase::Stopped,
            State::GaveUp => Phase::GaveUp,
        }
    }

    /// Whether somebody asked for the end of the engine that lives.
    pub fn is_end_asked(&self) -> bool {
        matches!(
            self.state,
            State::Stopping {
                then: Then::Stop | Then::Restart,
                ..
            }
        )
    }

    /// Whether the engine is to end and no other is to follow it.
    pub fn is_stop_asked(&self) -> bool {
        matches!(
            self.state,
            State::Stopping {
                then: Then::Stop,
                ..
            }
        )
    }

    /// Whether the exit code of the engine that died, without a ring, decides about another: only where its end was not
    /// our doing, and a clean one is answered otherwise than a failure.
    pub fn is_exit_decisive(&self) -> bool {
        let is_free = matches!(
            self.state,
            State::Starting | State::Running | State::Hung { .. }
        );
        is_free && self.policy.restart == RestartPolicy::OnFailure
    }

    /// Why we ended the present engine (or the last one, until the next is spawned), if we did.
    pub fn ended_by(&self) -> Option<EndedBy> {
        self.ended_by
    }

    /// Failures in a row, without a stable life between.
    pub fn failures(&self) -> u32 {
        self.breaker.failures()
    }

    /// Takes one event and says what to do.
    pub fn on_event(&mut self, event: Event, now: Duration) -> Vec<Action> {
        let mut out = Vec::new();
        match event {
            Event::Start => self.on_start(now, &mut out),
            Event::Adopted { since } => {
                self.begin_life(since.min(now), now);
                self.adopted = true;
            }
            Event::DiedUnwatched => {
                if self.state == State::Idle {
                    self.breaker.count_earlier(&self.policy, now);
                }
            }
            Event::Prepared { success } => self.on_prepared(success, now, &mut out),
            Event::Spawned => self.on_spawned(now, &mut out),
            Event::SpawnFailed => {
                if let State::Spawning { pending } = self.state {
                    self.on_start_failed(pending, now, &mut out);
                }
            }
            Event::Connected => {
                self.ever_connected = true;
                self.heart.connect(now);
            }
            Event::Foreign => self.on_foreign(now, &mut out),
            Event::Beat(beat) => {
                let moved = self.heart.on_beat(&beat, now);
                self.limbo = self.limbo.and_then(|limbo| limbo.unrefuted(&self.heart));
                if moved && self.state == State::Starting {
                    self.state = State::Running;
                }
            }
            Event::Crashing {
                banner,
                last_output,
            } => self.on_crashing(banner, last_output.min(now), now),
            Event::MemoryOver { rss_bytes } => self.on_memory_over(rss_bytes, now, &mut out),
            Event::Died { success } => self.on_died(success, now, &mut out),
            Event::Stop { grace } => self.on_end_asked(Then::Stop, grace, now, &mut out),
            Event::Restart { grace } => self.on_end_asked(Then::Restart, grace, now, &mut out),
            Event::Kill => self.on_kill(now, &mut out),
            Event::Tick => self.on_tick(now, &mut out),
        }
        out
    }

    fn on_start(&mut self, now: Duration, out: &mut Vec<Action>) {
        match &mut self.state {
            // Nobody asked yet: all that can be counted here is the death of the engine before.
            State::Idle => self.start(now, out),
            State::Stopped | State::GaveUp | State::Waiting { .. } => {
                self.forget_failures();
                self.start(now, out);
            }
            State::Stopping { then, .. } => *then = Then::Restart,
            State::Preparing { pending, .. } | State::Spawning { pending } => *pending = None,
            State::Starting | State::Running | State::Hung { .. } => {}
        }
    }

    /// Whether the start that comes next, or is under way, is the safe one of a crash loop.
    pub fn is_next_safe(&self) -> bool {
        self.next_is_safe
    }

    fn on_prepared(&mut self, success: bool, now: Duration, out: &mut Vec<Action>) {
        let State::Preparing { pending, .. } = self.state else {
            return;
        };
        match pending {
            Some((Then::Stop, _)) => self.stop(true, out),
            _ if success => self.spawn(out),
            _ => self.on_start_failed(pending, now, out),
        }
    }

    fn on_start_failed(
        &mut self,
        pending: Option<(Then, Duration)>,
        now: Duration,
        out: &mut Vec<Action>,
    ) {
        if let Some((Then::Stop, _)) = pending {
            self.stop(true, out);
        } else {
            self.on_unasked_death(false, None, now, out);
        }
    }

    fn on_spawned(&mut self, now: Duration, out: &mut Vec<Action>) {
        let State::Spawning { pending } = self.state else {
            return;
        };
        self.begin_life(now, now);
        if let Some((then, grace)) = pending {
            self.on_end_asked(then, grace, now, out);
        }
    }

    fn begin_life(&mut self, since: Duration, now: Duration) {
        self.state = State::Starting;
        self.started_at = since;
        self.heart = Heart::new(now);
        self.adopted = false;
        self.told_unconnected = false;
        self.limbo = None;
        self.ended_by = None;
        self.next_is_safe = false;
    }

    /// A start, with the command before it where there is one.
    fn start(&mut self, now: Duration, out: &mut Vec<Action>) {
        if let Some(timeout) = self.policy.pre_start_timeout {
            self.state = State::Preparing {
                pending: None,
                // Who runs it holds it to its time, and knows then why it ended. This is for when that fails.
                kill_at: now.saturating_add(timeout).saturating_add(KILL_AGAIN_AFTER),
            };
            out.push(Action::Prepare);
        } else {
            self.spawn(out);
        }
    }

    fn spawn(&mut self, out: &mut Vec<Action>) {
        self.state = State::Spawning { pending: None };
        let safe = self.next_is_safe;
        out.push(Action::Spawn { safe });
    }

    fn stop(&mut self, asked: bool, out: &mut Vec<Action>) {
        self.state = State::Stopped;
        out.push(Action::Tell(Told::Stopped { asked }));
    }

    fn forget_failures(&mut self) {
        self.breaker.forget();
        self.next_is_safe = false;
    }
}

#[cfg(test)]
mod tests;
