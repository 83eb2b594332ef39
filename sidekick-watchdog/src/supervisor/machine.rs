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
//! - [`policy`]: the figures. [`words`]: events, actions, phases.
//! - `heart`: until when an engine may be silent. `breaker`: what a failure leads to.
//! - [`standby`]: the same for a second engine that waits to take its place.

mod breaker;
mod heart;
pub mod policy;
pub mod standby;
pub mod words;

use std::time::Duration;

use self::breaker::{Breaker, Next, StartKind};
use self::heart::Heart;
pub use self::policy::{Policy, RestartPolicy};
pub use self::words::{Action, Beat, EndedBy, Event, Phase, Told, Unfit};

/// After a kill the group is killed again this often, should its death not come (a process in an uninterruptible
/// system call dies only when that returns). No other engine is started meanwhile.
pub const KILL_AGAIN_AFTER: Duration = Duration::from_secs(5);

/// An engine that printed that it crashed, then nothing for so long, will not end by itself (godot#108268).
pub const LIMBO_SILENCE: Duration = Duration::from_secs(2);
/// However much it prints: so long after its crash it is over.
const LIMBO_MAX: Duration = Duration::from_secs(30);

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Then {
    Stop,
    Restart,
    /// Its end counts as a failure: it was our decision, not the operator's.
    Recover,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum State {
    Idle,
    /// `pending`: what was asked for while the command before the start ran.
    Preparing {
        pending: Option<(Then, Duration)>,
        kill_at: Duration,
    },
    /// `pending`: what was asked for while the process was being made.
    Spawning {
        pending: Option<(Then, Duration)>,
    },
    Starting,
    Running,
    Hung {
        kill_at: Duration,
        killed: bool,
    },
    /// `kill_at` is the end of the grace, then the time of the next kill.
    Stopping {
        then: Then,
        kill_at: Duration,
        killed: bool,
        /// It was found hung meanwhile and prints its backtrace; then this is the end of its grace.
        hung: Option<Duration>,
    },
    Waiting {
        until: Duration,
    },
    Stopped,
    GaveUp,
}

/// An engine that told of its crash and has not ended yet.
#[derive(Clone, Copy, Debug)]
struct Limbo {
    /// When it first told of it; no frame is known to have passed since.
    since: Duration,
    /// When its last banner came.
    banner: Duration,
    last_output: Duration,
}

impl Limbo {
    fn until(&self) -> Duration {
        let silent = self.last_output.saturating_add(LIMBO_SILENCE);
        silent.min(self.since.saturating_add(LIMBO_MAX))
    }

    /// What is left of it as the frames stand: whatever was printed, who goes on has not crashed before.
    fn unrefuted(self, heart: &Heart) -> Option<Self> {
        if heart.has_frame_after(self.banner) {
            None
        } else if heart.has_frame_after(self.since) {
            let since = self.banner;
            Some(Self { since, ..self })
        } else {
            Some(self)
        }
    }
}

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

    /// When [`Event::Tick`] is due; `None` = only an event can change anything.
    pub fn deadline(&self) -> Option<Duration> {
        match self.state {
            State::Idle | State::Spawning { .. } | State::Stopped | State::GaveUp => None,
            State::Starting | State::Running if self.limbo.is_some() => {
                self.limbo.map(|limbo| limbo.until())
            }
            State::Starting => self
                .silence_deadline()
                .into_iter()
                .chain(self.ready_deadline())
                .min(),
            State::Running => self
                .silence_deadline()
                .into_iter()
                .chain(self.ready_deadline())
                .min(),
            State::Stopping { kill_at, .. } => {
                self.end_deadline().into_iter().chain([kill_at]).min()
            }
            State::Preparing { kill_at, .. } | State::Hung { kill_at, .. } => Some(kill_at),
            State::Waiting { until } => Some(until),
        }
    }

    fn silence_deadline(&self) -> Option<Duration> {
        match self.state {
            State::Starting if self.told_unconnected && !self.policy.heartbeat_required => None,
            State::Starting => Some(self.heart.startup_deadline(&self.policy)),
            _ => Some(self.heart.hang_deadline(&self.policy)),
        }
    }

    /// Until when an engine that was asked to end may be silent, while it has its grace: one that hangs in its end, or
    /// has crashed in it, makes no use of that. `None`: it has no grace any more, or no ring to tell by.
    fn end_deadline(&self) -> Option<Duration> {
        let State::Stopping {
            killed: false,
            hung: None,
            ..
        } = self.state
        else {
            return None;
        };
        if let Some(limbo) = self.limbo {
            return Some(limbo.until());
        }
        if !self.heart.connected {
            return None;
        }
        if self.heart.has_frame() {
            return Some(self.heart.hang_deadline(&self.policy));
        }
        let is_required = self.policy.heartbeat_required;
        is_required.then(|| self.heart.startup_deadline(&self.policy))
    }

    fn ready_deadline(&self) -> Option<Duration> {
        self.heart.ready_deadline(&self.policy)
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

    fn on_crashing(&mut self, banner: Duration, last_output: Duration, now: Duration) {
        let limbo = Limbo {
            since: self.limbo.map_or(now, |limbo| limbo.since),
            banner,
            last_output,
        };
        // A banner that a frame has followed stays refuted, whatever lines come after it.
        self.limbo = limbo.unrefuted(&self.heart);
        let Some(until) = self.limbo.map(|limbo| limbo.until()) else {
            return;
        };
        // The backtrace that we made it print is still coming.
        match &mut self.state {
            State::Hung {
                kill_at,
                killed: false,
            } => *kill_at = until.max(*kill_at),
            State::Stopping {
                kill_at,
                killed: false,
                hung: Some(end_of_grace),
                ..
            } => *kill_at = until.max(*kill_at).min(*end_of_grace),
            _ => {}
        }
    }

    /// Too much memory: the engine is asked to quit, with the time to drain. One that was asked already for another reason,
    /// or grows on by a quarter in that time, has the short grace of a hung one: the kernel would end it, and perhaps
    /// others with it.
    fn on_memory_over(&mut self, rss_bytes: u64, now: Duration, out: &mut Vec<Action>) {
        let found = EndedBy::Memory { rss_bytes };
        if self.limbo.is_some() {
            return;
        }
        if matches!(self.state, State::Starting | State::Running) {
            self.recover(found, self.policy.drain_grace, now, out);
            return;
        }
        let State::Stopping {
            kill_at,
            killed: false,
            hung: None,
            ..
        } = &mut self.state
        else {
            return;
        };
        if let Some(EndedBy::Memory { rss_bytes: first }) = self.ended_by
            && rss_bytes < first.saturating_add(first / 4)
        {
            return;
        }
        let grace = self.policy.hang_grace;
        if now.saturating_add(grace) < *kill_at {
            *kill_at = now.saturating_add(grace);
            let ended_by = *self.ended_by.get_or_insert(found);
            out.push(Action::Tell(Told::Ending(ended_by)));
            out.push(Action::AskQuit { grace });
        }
    }

    fn on_tick(&mut self, now: Duration, out: &mut Vec<Action>) {
        if self.deadline().is_none_or(|deadline| now < deadline) {
            return;
        }
        match self.state {
            State::Starting | State::Running if self.limbo.is_some() => self.end_limbo(now, out),
            State::Starting | State::Running => self.on_engine_due(now, out),
            State::Preparing { pending, .. } => {
                out.push(Action::EndPrepare);
                let kill_at = now.saturating_add(KILL_AGAIN_AFTER);
                self.state = State::Preparing { pending, kill_at };
            }
            State::Hung { .. } => self.kill_as_hung(now, out),
            State::Stopping { kill_at, .. } if now < kill_at => self.on_end_due(now, out),
            State::Stopping { then, killed, .. } => {
                if !killed && self.ended_by.is_none() {
                    self.ended_by = Some(EndedBy::StopTimeout);
                }
                out.push(Action::KillGroup);
                self.state = State::Stopping {
                    then,
                    kill_at: now.saturating_add(KILL_AGAIN_AFTER),
                    killed: true,
                    hung: None,
                };
            }
            State::Waiting { .. } => self.start(now, out),
            State::Idle | State::Spawning { .. } | State::Stopped | State::GaveUp => {}
        }
    }

    /// A deadline of the engine itself has come: no ring, no frame, or no word that it is ready.
    fn on_engine_due(&mut self, now: Duration, out: &mut Vec<Action>) {
        let after = now.saturating_sub(self.started_at);
        if self
            .silence_deadline()
            .is_none_or(|deadline| now < deadline)
        {
            let grace = self.policy.drain_grace;
            self.recover(EndedBy::NotReady { after }, grace, now, out);
            return;
        }
        let silent = self.heart.silent(now);
        if self.state == State::Running {
            if !self.heart.forgive_lateness(&self.policy, now) {
                self.hang(silent, now, out);
            }
        } else if self.policy.heartbeat_required && !self.heart.connected {
            self.on_no_ring(after, now, out);
        } else if self.policy.heartbeat_required {
            self.hang(silent, now, out);
        } else if !self.told_unconnected {
            self.told_unconnected = true;
            if !self.heart.connected {
                out.push(Action::Tell(Told::Unconnected { after }));
            }
        }
    }

    /// An engine hangs in its end, or crashed in it: treated as one that runs, but what follows is what was asked for, and
    /// never later than its grace. Why it was to end stays its cause, if that was our decision.
    fn on_end_due(&mut self, now: Duration, out: &mut Vec<Action>) {
        let State::Stopping { then, kill_at, .. } = self.state else {
            return;
        };
        let silent = self.heart.silent(now);
        if self.limbo.is_none() && self.heart.forgive_lateness(&self.policy, now) {
            return;
        }
        let is_crashed = self.limbo.take().is_some() || self.heart.crashed;
        if is_crashed || self.heart.goodbye {
            let found = if self.heart.goodbye {
                EndedBy::StuckInExit { silent }
            } else {
                EndedBy::CrashLimbo
            };
            self.ended_by.get_or_insert(found);
            out.push(Action::KillGroup);
            self.state = State::Stopping {
                then,
                kill_at: now.saturating_add(KILL_AGAIN_AFTER),
                killed: true,
                hung: None,
            };
        } else {
            self.ended_by.get_or_insert(EndedBy::Hang { silent });
            out.push(Action::Tell(Told::Hung { silent }));
            out.push(Action::Backtrace { silent });
            self.state = State::Stopping {
                then,
                kill_at: now.saturating_add(self.policy.hang_grace).min(kill_at),
                killed: false,
                hung: Some(kill_at),
            };
        }
    }

    /// No ring within the startup time, and one is required. If none was ever seen, the next engine will not open one
    /// either, and to say so once is better than to kill one every minute for ever.
    fn on_no_ring(&mut self, after: Duration, now: Duration, out: &mut Vec<Action>) {
        let ended_by = EndedBy::NoRing { after };
        if self.ever_connected || self.adopted {
            out.push(Action::Tell(Told::Unconnected { after }));
            self.end_engine(ended_by, Then::Recover, self.policy.hang_grace, now, out);
        } else {
            out.push(Action::Tell(Told::Unfit(Unfit::NoRing { after })));
            self.end_engine(ended_by, Then::Stop, self.policy.hang_grace, now, out);
        }
    }

    fn on_foreign(&mut self, now: Duration, out: &mut Vec<Action>) {
        // Where no heartbeat is required the engine runs on without us; that its ring is refused is told all the same.
        let is_watched = self.policy.heartbeat_required && self.state == State::Starting;
        if !is_watched || self.heart.connected {
            return;
        }
        let grace = self.policy.hang_grace;
        if self.adopted {
            // The watchdog was updated under a running game: that is no reason to end the match.
            out.push(Action::Tell(Told::Unfit(Unfit::ForeignAdopted)));
            out.push(Action::Leave);
        } else if self.ever_connected {
            self.recover(EndedBy::Foreign, grace, now, out);
        } else {
            out.push(Action::Tell(Told::Unfit(Unfit::Foreign)));
            self.end_engine(EndedBy::Foreign, Then::Stop, grace, now, out);
        }
    }

    /// Ends an engine by our own decision; its end counts as a failure, so that one that does it again and again
    /// is slowed down.
    fn recover(
        &mut self,
        ended_by: EndedBy,
        grace: Duration,
        now: Duration,
        out: &mut Vec<Action>,
    ) {
        out.push(Action::Tell(Told::Ending(ended_by)));
        self.end_engine(ended_by, Then::Recover, grace, now, out);
    }

    fn end_engine(
        &mut self,
        ended_by: EndedBy,
        then: Then,
        grace: Duration,
        now: Duration,
        out: &mut Vec<Action>,
    ) {
        self.ended_by = Some(ended_by);
        out.push(Action::AskQuit { grace });
        self.state = State::Stopping {
            then,
            kill_at: now.saturating_add(grace),
            killed: false,
            hung: None,
        };
    }

    fn hang(&mut self, silent: Duration, now: Duration, out: &mut Vec<Action>) {
        if self.heart.goodbye {
            // All it had to do is done, so there is nothing to find out and nothing to save.
            self.ended_by = Some(EndedBy::StuckInExit { silent });
            self.kill_as_hung(now, out);
        } else if self.heart.crashed {
            self.end_limbo(now, out);
        } else {
            self.ended_by = Some(EndedBy::Hang { silent });
            out.push(Action::Tell(Told::Hung { silent }));
            out.push(Action::Backtrace { silent });
            self.state = State::Hung {
                kill_at: now.saturating_add(self.policy.hang_grace),
                killed: false,
            };
        }
    }

    fn end_limbo(&mut self, now: Duration, out: &mut Vec<Action>) {
        self.limbo = None;
        self.ended_by = Some(EndedBy::CrashLimbo);
        out.push(Action::Tell(Told::Ending(EndedBy::CrashLimbo)));
        self.kill_as_hung(now, out);
    }

    fn kill_as_hung(&mut self, now: Duration, out: &mut Vec<Action>) {
        out.push(Action::KillGroup);
        self.state = State::Hung {
            kill_at: now.saturating_add(KILL_AGAIN_AFTER),
            killed: true,
        };
    }

    fn on_end_asked(
        &mut self,
        wanted: Then,
        grace: Duration,
        now: Duration,
        out: &mut Vec<Action>,
    ) {
        let end_of_grace = now.saturating_add(grace);
        match &mut self.state {
            State::Starting | State::Running => {
                out.push(Action::AskQuit { grace });
                self.state = State::Stopping {
                    then: wanted,
                    kill_at: end_of_grace,
                    killed: false,
                    hung: None,
                };
            }
            // It cannot quit by itself any more; what was begun goes on.
            State::Hung { kill_at, .. } => {
                let kill_at = end_of_grace.min(*kill_at);
                self.state = State::Stopping {
                    then: wanted,
                    kill_at,
                    killed: true,
                    hung: None,
                };
            }
            State::Stopping {
                then,
                kill_at,
                killed,
                hung,
            } => {
                *then = wanted;
                if let Some(end) = hung {
                    *end = end_of_grace.min(*end);
                    *kill_at = end_of_grace.min(*kill_at);
                } else if !*killed && end_of_grace < *kill_at {
                    *kill_at = end_of_grace;
                    out.push(Action::AskQuit { grace });
                }
            }
            State::Preparing { pending, .. } => {
                *pending = Some((wanted, grace));
                if wanted == Then::Stop {
                    out.push(Action::EndPrepare);
                }
            }
            State::Spawning { pending } => *pending = Some((wanted, grace)),
            State::Idle | State::Waiting { .. } if wanted == Then::Stop => self.stop(true, out),
            State::Stopped | State::GaveUp if wanted == Then::Stop => {}
            State::Idle | State::Waiting { .. } | State::Stopped | State::GaveUp => {
                self.on_start(now, out);
            }
        }
    }

    fn on_kill(&mut self, now: Duration, out: &mut Vec<Action>) {
        match &mut self.state {
            State::Starting | State::Running | State::Hung { .. } | State::Stopping { .. } => {
                out.push(Action::KillGroup);
                self.state = State::Stopping {
                    then: Then::Stop,
                    kill_at: now.saturating_add(KILL_AGAIN_AFTER),
                    killed: true,
                    hung: None,
                };
            }
            State::Preparing { pending, .. } => {
                *pending = Some((Then::Stop, Duration::ZERO));
                out.push(Action::EndPrepare);
            }
            State::Spawning { pending } => *pending = Some((Then::Stop, Duration::ZERO)),
            State::Idle | State::Waiting { .. } => self.stop(true, out),
            State::Stopped | State::GaveUp => {}
        }
    }

    fn on_died(&mut self, success: bool, now: Duration, out: &mut Vec<Action>) {
        match self.state {
            State::Stopping {
                then: Then::Stop, ..
            } => {
                let asked = !matches!(
                    self.ended_by,
                    Some(EndedBy::NoRing { .. } | EndedBy::Foreign)
                );
                self.stop(asked, out);
            }
            // A restart that was asked for is no failure.
            State::Stopping {
                then: Then::Restart,
                ..
            } => {
                self.forget_failures();
                self.start(now, out);
            }
            State::Stopping {
                then: Then::Recover,
                ..
            } => self.on_unasked_death(false, self.was_up(now), now, out),
            State::Starting | State::Running | State::Hung { .. } => {
                self.on_unasked_death(success, self.was_up(now), now, out);
            }
            // No engine was there that could have died.
            State::Idle
            | State::Preparing { .. }
            | State::Spawning { .. }
            | State::Waiting { .. }
            | State::Stopped
            | State::GaveUp => {}
        }
    }

    /// How long the engine that died now was up, and so may count as stable. `None`: it never came up, however old.
    fn was_up(&self, now: Duration) -> Option<Duration> {
        if !self.policy.heartbeat_required && !self.heart.connected {
            // There is nothing else to go by.
            return Some(now.saturating_sub(self.started_at));
        }
        let until = match self.ended_by {
            Some(EndedBy::NotReady { .. } | EndedBy::NoRing { .. } | EndedBy::Foreign) => {
                return None;
            }
            Some(EndedBy::Hang { .. }) => self.heart.moved_at(),
            _ => now,
        };
        let since = self.heart.up_since(&self.policy)?;
        Some(until.saturating_sub(since))
    }

    /// `up`: how long it was up; `None`: it never was.
    fn on_unasked_death(
        &mut self,
        success: bool,
        up: Option<Duration>,
        now: Duration,
        out: &mut Vec<Action>,
    ) {
        let wanted = match self.policy.restart {
            RestartPolicy::Always => true,
            RestartPolicy::OnFailure => !success,
            RestartPolicy::Never => false,
        };
        if !wanted {
            self.stop(false, out);
            return;
        }
        let (delay, kind) = match self.breaker.on_failure(&self.policy, up, now) {
            Next::Start { delay, kind } => (delay, kind),
            Next::GiveUp { deaths } => {
                self.state = State::GaveUp;
                out.push(Action::Tell(Told::GaveUp { deaths }));
                return;
            }
        };
        let deaths = self.breaker.failures();
        self.next_is_safe = kind == StartKind::Safe;
        match kind {
            StartKind::Safe => out.push(Action::Tell(Told::SafeStart { deaths })),
            StartKind::FirstHalfOpen => {
                let every = delay;
                out.push(Action::Tell(Told::CrashLoop { deaths, every }));
            }
            StartKind::Usual | StartKind::HalfOpen => {}
        }
        if delay.is_zero() {
            self.start(now, out);
        } else {
            self.state = State::Waiting {
                until: now.saturating_add(delay),
            };
            let crash_loop = matches!(kind, StartKind::FirstHalfOpen | StartKind::HalfOpen);
            out.push(Action::Tell(Told::Backoff { delay, crash_loop }));
        }
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
