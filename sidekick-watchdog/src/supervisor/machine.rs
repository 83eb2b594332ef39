//! What to do with the engine, decided purely: `on_event(event, now) -> actions`.
//!
//! Owns every decision about starting, stopping, waiting and killing. Does nothing itself, reads no clock and
//! knows no process: the runtime carries the actions out and reports back. `now` is CLOCK_MONOTONIC as a
//! [`Duration`], the same clock as the stamps of the engine's heartbeats.
//!
//! ```text
//! Idle → Spawning → Starting → Running → (Hung) ─┐
//!           ↑                                    │ death
//!           ├──── Backoff / HalfOpen ←───────────┤
//!           └──── at once (first death) ←────────┤
//!                 Stopping → Stopped   GaveUp ←──┘
//! ```

use std::collections::VecDeque;
use std::time::Duration;

/// After a kill the group is killed again this often, should its death not come (a process in an uninterruptible
/// system call dies only when that returns). No other engine is started meanwhile.
pub const KILL_AGAIN_AFTER: Duration = Duration::from_secs(5);

/// A check for a hang that comes later than this after its time says that *we* stood still (a suspended machine, a
/// stopped container); the engine then gets a whole period more, once.
const LATE_MAX: Duration = Duration::from_secs(1);

/// No life shorter than this counts as stable, whatever is configured: the count of failures must be able to grow.
const STABLE_AFTER_MIN: Duration = Duration::from_secs(1);

/// Exponents beyond this are all the same: the delay has met its cap long before.
const BACKOFF_STEPS_MAX: i32 = 64;

/// When an engine that ended is started again.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum RestartPolicy {
    /// After every end.
    Always,
    /// After every end but a clean one.
    OnFailure,
    /// Never.
    Never,
}

/// Every figure the machine decides by.
#[derive(Clone, Debug)]
pub struct Policy {
    /// When an engine that ended is started again.
    pub restart: RestartPolicy,
    /// The delay before the second relaunch in a row; the first is at once.
    pub backoff_first: Duration,
    /// The longest delay.
    pub backoff_max: Duration,
    /// By how much each delay is longer than the one before.
    pub backoff_factor: f64,
    /// Each delay is made up to this part longer or shorter, `0.0..=1.0`.
    pub backoff_jitter: f64,
    /// An engine that lived this long clears the count of failures.
    pub stable_after: Duration,
    /// So many failures in a row open the breaker: from then on one try every `half_open_every`.
    pub breaker_deaths: u32,
    /// The pause between two tries while the breaker is open.
    pub half_open_every: Duration,
    /// So many unasked deaths within `give_up_window` end it all. `None`: never give up.
    pub give_up_after: Option<u32>,
    /// See `give_up_after`.
    pub give_up_window: Duration,
    /// Whether an engine must show a heartbeat; without one it counts as hung after `startup_timeout`.
    pub heartbeat_required: bool,
    /// From the start to the first frame.
    pub startup_timeout: Duration,
    /// Silence of the frame counter after which the engine counts as hung.
    pub hang_timeout: Duration,
    /// From the signal that makes a hung engine print its backtrace to the kill.
    pub hang_grace: Duration,
}

impl Default for Policy {
    fn default() -> Self {
        Self {
            restart: RestartPolicy::OnFailure,
            backoff_first: Duration::from_millis(250),
            backoff_max: Duration::from_secs(30),
            backoff_factor: 2.0,
            backoff_jitter: 0.2,
            stable_after: Duration::from_secs(60),
            breaker_deaths: 10,
            half_open_every: Duration::from_secs(60),
            give_up_after: None,
            give_up_window: Duration::from_secs(600),
            heartbeat_required: true,
            startup_timeout: Duration::from_secs(60),
            hang_timeout: Duration::from_secs(5),
            hang_grace: Duration::from_secs(2),
        }
    }
}

/// One reading of the engine's heartbeat.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Beat {
    /// Frames so far.
    pub frames: u64,
    /// CLOCK_MONOTONIC at the last frame, as the engine stamped it. Believed only between the last reading and now.
    pub stamp: Duration,
    /// The silence the game announced (`Sidekick.expect_stall`), zero if none.
    pub allowed_silence: Duration,
    /// The engine stands in a debugger, or told that it is paused: silence is no hang.
    pub paused: bool,
    /// It said goodbye: it is on its way out, and no frame will follow.
    pub goodbye: bool,
}

/// What happened.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Event {
    /// There should be an engine. The first event of all unless one was adopted; later the operator's `start`.
    Start,
    /// An engine that outlived its watchdog was taken over; it was started at `since`.
    Adopted {
        /// When it was started.
        since: Duration,
    },
    /// The process asked for exists.
    Spawned,
    /// The process asked for could not be made.
    SpawnFailed,
    /// The engine opened its ring.
    Connected,
    /// The engine opened a ring of another protocol version.
    Foreign,
    /// The heartbeat was read. Send one before each [`Event::Tick`] while connected.
    Beat(Beat),
    /// The engine's death is proven. `success`: it ended by itself, cleanly, with a code that counts as success.
    Died {
        /// See above.
        success: bool,
    },
    /// End the engine and start no other.
    Stop {
        /// How long it has before it is killed.
        grace: Duration,
    },
    /// End the engine and start another.
    Restart {
        /// How long it has before it is killed.
        grace: Duration,
    },
    /// End the engine now and start no other.
    Kill,
    /// The deadline has come.
    Tick,
}

/// What to do, in this order.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Action {
    /// Start an engine now and report [`Event::Spawned`] or [`Event::SpawnFailed`].
    Spawn,
    /// Ask the engine to quit within the grace.
    AskQuit {
        /// How long it has.
        grace: Duration,
    },
    /// Make a hung engine print its backtrace.
    Backtrace,
    /// Kill the engine and everything in its process group.
    KillGroup,
    /// End the supervisor and leave the engine running.
    Leave,
    /// Tell it to log, status and API.
    Tell(Told),
}

/// What the machine decided that others may want to hear of.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Told {
    /// No ring was opened within the startup time.
    Unconnected {
        /// How long the engine has been running.
        after: Duration,
    },
    /// The engine cannot be watched and the first one to show it: this configuration cannot work. The watchdog ends.
    Unfit(Unfit),
    /// The engine is silent beyond the limit and will be killed.
    Hung {
        /// How long it has been silent.
        silent: Duration,
    },
    /// The next start waits.
    Backoff {
        /// For how long.
        delay: Duration,
    },
    /// The breaker opened: one try every `every` from now on.
    CrashLoop {
        /// Failures in a row.
        deaths: u32,
        /// The pause between two tries.
        every: Duration,
    },
    /// Too many deaths; no engine will be started any more.
    GaveUp {
        /// Deaths in the window.
        deaths: u32,
    },
    /// No engine runs and none will be started.
    Stopped {
        /// Whether an operator or the watchdog's own end asked for it; else the engine ended and policy leaves it so.
        asked: bool,
    },
}

/// Why no engine of this configuration can be watched.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Unfit {
    /// The first engine opened no ring in time.
    NoRing {
        /// How long it has been running.
        after: Duration,
    },
    /// The first engine speaks another version of the protocol; it was ended.
    Foreign,
    /// So does the one that was adopted; it is left running.
    ForeignAdopted,
}

/// Where things stand, for status.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Phase {
    /// Nothing was asked for yet.
    Idle,
    /// The engine is being started or shows no frame yet.
    Starting,
    /// Its frames go on.
    Running,
    /// Its frames stand still; it is being ended.
    Hung,
    /// It was asked to end.
    Stopping,
    /// The next start waits.
    Backoff,
    /// The breaker is open and the next try waits.
    HalfOpen,
    /// No engine runs; it was asked so, or it ended cleanly.
    Stopped,
    /// Too many deaths.
    GaveUp,
}

/// Why we ended an engine, where it was our decision.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum EndedBy {
    /// It hung.
    Hang {
        /// How long it had been silent.
        silent: Duration,
    },
    /// It did not quit within its grace.
    StopTimeout,
    /// It opened no ring in time.
    NoRing {
        /// How long it had been running.
        after: Duration,
    },
    /// Its ring is of another protocol version.
    Foreign,
    /// It said goodbye and did not come to its end.
    StuckInExit {
        /// How long it had been silent.
        silent: Duration,
    },
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Then {
    Stop,
    Restart,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum State {
    Idle,
    /// `pending`: what was asked for while the process was being made.
    Spawning {
        pending: Option<(Then, Duration)>,
    },
    Starting,
    Running,
    Hung {
        kill_at: Duration,
    },
    /// `kill_at` is the end of the grace, then the time of the next kill.
    Stopping {
        then: Then,
        kill_at: Duration,
        killed: bool,
    },
    Waiting {
        until: Duration,
    },
    Stopped,
    GaveUp,
}

/// The machine. See the module's text.
#[derive(Debug)]
pub struct Machine {
    policy: Policy,
    rng: fastrand::Rng,
    state: State,
    started_at: Duration,
    connected: bool,
    /// An engine of this machine's life has opened a ring: the configuration can work.
    ever_connected: bool,
    adopted: bool,
    told_unconnected: bool,
    goodbye: bool,
    frames: u64,
    beat_read_at: Duration,
    moved_at: Duration,
    allowed_silence: Duration,
    late_forgiven: bool,
    ended_by: Option<EndedBy>,
    failures: u32,
    breaker_open: bool,
    deaths: VecDeque<Duration>,
}

impl Machine {
    /// A machine at rest. `seed` feeds the jitter.
    pub fn new(policy: Policy, seed: u64) -> Self {
        Self {
            policy,
            rng: fastrand::Rng::with_seed(seed),
            state: State::Idle,
            started_at: Duration::ZERO,
            connected: false,
            ever_connected: false,
            adopted: false,
            told_unconnected: false,
            goodbye: false,
            frames: 0,
            beat_read_at: Duration::ZERO,
            moved_at: Duration::ZERO,
            allowed_silence: Duration::ZERO,
            late_forgiven: false,
            ended_by: None,
            failures: 0,
            breaker_open: false,
            deaths: VecDeque::new(),
        }
    }

    /// Where things stand.
    pub fn phase(&self) -> Phase {
        match self.state {
            State::Idle => Phase::Idle,
            State::Spawning { .. } | State::Starting => Phase::Starting,
            State::Running => Phase::Running,
            State::Hung { .. } => Phase::Hung,
            State::Stopping { .. } => Phase::Stopping,
            State::Waiting { .. } if self.breaker_open => Phase::HalfOpen,
            State::Waiting { .. } => Phase::Backoff,
            State::Stopped => Phase::Stopped,
            State::GaveUp => Phase::GaveUp,
        }
    }

    /// Why we ended the present engine (or the last one, until the next is spawned), if we did.
    pub fn ended_by(&self) -> Option<EndedBy> {
        self.ended_by
    }

    /// Failures in a row, without a stable life between.
    pub fn failures(&self) -> u32 {
        self.failures
    }

    /// When [`Event::Tick`] is due; `None` = only an event can change anything.
    pub fn deadline(&self) -> Option<Duration> {
        match self.state {
            State::Idle | State::Spawning { .. } | State::Stopped | State::GaveUp => None,
            State::Starting if self.told_unconnected && !self.policy.heartbeat_required => None,
            State::Starting => Some(self.startup_deadline()),
            State::Running => Some(self.moved_at.saturating_add(self.silence_limit())),
            State::Hung { kill_at } | State::Stopping { kill_at, .. } => Some(kill_at),
            State::Waiting { until } => Some(until),
        }
    }

    /// Takes one event and says what to do.
    pub fn on_event(&mut self, event: Event, now: Duration) -> Vec<Action> {
        let mut out = Vec::new();
        match event {
            Event::Start => self.on_start(&mut out),
            Event::Adopted { since } => {
                self.begin_life(since.min(now), now);
                self.adopted = true;
            }
            Event::Spawned => self.on_spawned(now, &mut out),
            Event::SpawnFailed => {
                if let State::Spawning {
                    pending: Some((Then::Stop, _)),
                } = self.state
                {
                    self.stop(true, &mut out);
                } else {
                    self.started_at = now;
                    self.on_unasked_death(false, now, &mut out);
                }
            }
            Event::Connected => {
                self.connected = true;
                self.ever_connected = true;
                self.beat_read_at = now;
            }
            Event::Foreign => self.on_foreign(now, &mut out),
            Event::Beat(beat) => self.on_beat(beat, now),
            Event::Died { success } => self.on_died(success, now, &mut out),
            Event::Stop { grace } => self.on_end_asked(Then::Stop, grace, now, &mut out),
            Event::Restart { grace } => self.on_end_asked(Then::Restart, grace, now, &mut out),
            Event::Kill => self.on_kill(now, &mut out),
            Event::Tick => self.on_tick(now, &mut out),
        }
        out
    }

    fn on_start(&mut self, out: &mut Vec<Action>) {
        match &mut self.state {
            State::Idle | State::Stopped | State::GaveUp | State::Waiting { .. } => {
                self.forget_failures();
                self.spawn(out);
            }
            State::Stopping { then, .. } => *then = Then::Restart,
            State::Spawning { pending } => *pending = None,
            State::Starting | State::Running | State::Hung { .. } => {}
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
        self.connected = false;
        self.adopted = false;
        self.told_unconnected = false;
        self.goodbye = false;
        self.frames = 0;
        self.beat_read_at = now;
        self.moved_at = now;
        self.allowed_silence = Duration::ZERO;
        self.late_forgiven = false;
        self.ended_by = None;
    }

    fn on_beat(&mut self, beat: Beat, now: Duration) {
        self.allowed_silence = beat.allowed_silence;
        self.goodbye = beat.goodbye;
        let moved = beat.frames != self.frames;
        if moved {
            // The counter moved since the last reading, so the true time lies between that and now.
            self.moved_at = beat.stamp.clamp(self.beat_read_at.min(now), now);
            self.frames = beat.frames;
            self.late_forgiven = false;
        }
        if beat.paused {
            self.moved_at = now;
        }
        self.beat_read_at = now;
        if self.state == State::Starting && moved {
            self.state = State::Running;
        }
    }

    fn on_tick(&mut self, now: Duration, out: &mut Vec<Action>) {
        if self.deadline().is_none_or(|deadline| now < deadline) {
            return;
        }
        match self.state {
            State::Starting => {
                let after = now.saturating_sub(self.started_at);
                if self.policy.heartbeat_required && !self.connected {
                    self.on_no_ring(after, now, out);
                    return;
                }
                if !self.connected && !self.told_unconnected {
                    self.told_unconnected = true;
                    out.push(Action::Tell(Told::Unconnected { after }));
                }
                if self.policy.heartbeat_required {
                    self.hang(now.saturating_sub(self.moved_at), now, out);
                } else {
                    self.told_unconnected = true;
                }
            }
            State::Running => {
                let due = self.moved_at.saturating_add(self.silence_limit());
                if now.saturating_sub(due) > LATE_MAX && !self.late_forgiven {
                    self.late_forgiven = true;
                    self.moved_at = now;
                } else {
                    self.hang(now.saturating_sub(self.moved_at), now, out);
                }
            }
            State::Hung { .. } => {
                out.push(Action::KillGroup);
                let kill_at = now.saturating_add(KILL_AGAIN_AFTER);
                self.state = State::Hung { kill_at };
            }
            State::Stopping { then, killed, .. } => {
                if !killed && self.ended_by.is_none() {
                    self.ended_by = Some(EndedBy::StopTimeout);
                }
                out.push(Action::KillGroup);
                self.state = State::Stopping {
                    then,
                    kill_at: now.saturating_add(KILL_AGAIN_AFTER),
                    killed: true,
                };
            }
            State::Waiting { .. } => self.spawn(out),
            State::Idle | State::Spawning { .. } | State::Stopped | State::GaveUp => {}
        }
    }

    /// No ring within the startup time, and one is required. If none was ever seen, the next engine will not open one
    /// either, and to say so once is better than to kill one every minute for ever.
    fn on_no_ring(&mut self, after: Duration, now: Duration, out: &mut Vec<Action>) {
        let ended_by = EndedBy::NoRing { after };
        if self.ever_connected || self.adopted {
            out.push(Action::Tell(Told::Unconnected { after }));
            self.fail_start(ended_by, now, out);
        } else {
            out.push(Action::Tell(Told::Unfit(Unfit::NoRing { after })));
            self.end_for_good(ended_by, now, out);
        }
    }

    fn on_foreign(&mut self, now: Duration, out: &mut Vec<Action>) {
        // Where no heartbeat is required the engine runs on without us; that its ring is refused is told all the same.
        if self.state != State::Starting || self.connected || !self.policy.heartbeat_required {
            return;
        }
        if self.adopted {
            // The watchdog was updated under a running game: that is no reason to end the match.
            out.push(Action::Tell(Told::Unfit(Unfit::ForeignAdopted)));
            out.push(Action::Leave);
        } else if self.ever_connected {
            self.fail_start(EndedBy::Foreign, now, out);
        } else {
            out.push(Action::Tell(Told::Unfit(Unfit::Foreign)));
            self.end_for_good(EndedBy::Foreign, now, out);
        }
    }

    /// Ends an engine that does not come to life; its death counts as a failure.
    fn fail_start(&mut self, ended_by: EndedBy, now: Duration, out: &mut Vec<Action>) {
        let grace = self.policy.hang_grace;
        self.ended_by = Some(ended_by);
        out.push(Action::AskQuit { grace });
        self.state = State::Hung {
            kill_at: now.saturating_add(grace),
        };
    }

    fn end_for_good(&mut self, ended_by: EndedBy, now: Duration, out: &mut Vec<Action>) {
        let grace = self.policy.hang_grace;
        self.ended_by = Some(ended_by);
        out.push(Action::AskQuit { grace });
        self.state = State::Stopping {
            then: Then::Stop,
            kill_at: now.saturating_add(grace),
            killed: false,
        };
    }

    fn hang(&mut self, silent: Duration, now: Duration, out: &mut Vec<Action>) {
        if self.goodbye {
            // All it had to do is done, so there is nothing to find out and nothing to save.
            self.ended_by = Some(EndedBy::StuckInExit { silent });
            out.push(Action::KillGroup);
            self.state = State::Hung {
                kill_at: now.saturating_add(KILL_AGAIN_AFTER),
            };
            return;
        }
        self.ended_by = Some(EndedBy::Hang { silent });
        out.push(Action::Tell(Told::Hung { silent }));
        out.push(Action::Backtrace);
        self.state = State::Hung {
            kill_at: now.saturating_add(self.policy.hang_grace),
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
                };
            }
            // It cannot quit by itself any more; what was begun goes on.
            State::Hung { kill_at } => {
                let kill_at = end_of_grace.min(*kill_at);
                self.state = State::Stopping {
                    then: wanted,
                    kill_at,
                    killed: true,
                };
            }
            State::Stopping {
                then,
                kill_at,
                killed,
            } => {
                *then = wanted;
                if !*killed && end_of_grace < *kill_at {
                    *kill_at = end_of_grace;
                    out.push(Action::AskQuit { grace });
                }
            }
            State::Spawning { pending } => *pending = Some((wanted, grace)),
            State::Idle | State::Waiting { .. } if wanted == Then::Stop => self.stop(true, out),
            State::Stopped | State::GaveUp if wanted == Then::Stop => {}
            State::Idle | State::Waiting { .. } | State::Stopped | State::GaveUp => {
                self.on_start(out);
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
                };
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
            } => self.stop(true, out),
            // A restart that was asked for is no failure.
            State::Stopping {
                then: Then::Restart,
                ..
            } => {
                self.forget_failures();
                self.spawn(out);
            }
            State::Starting | State::Running | State::Hung { .. } => {
                self.on_unasked_death(success, now, out);
            }
            // No engine was there that could have died.
            State::Idle
            | State::Spawning { .. }
            | State::Waiting { .. }
            | State::Stopped
            | State::GaveUp => {}
        }
    }

    fn on_unasked_death(&mut self, success: bool, now: Duration, out: &mut Vec<Action>) {
        let wanted = match self.policy.restart {
            RestartPolicy::Always => true,
            RestartPolicy::OnFailure => !success,
            RestartPolicy::Never => false,
        };
        if !wanted {
            self.stop(false, out);
            return;
        }
        let stable_after = self.policy.stable_after.max(STABLE_AFTER_MIN);
        if now.saturating_sub(self.started_at) >= stable_after {
            self.failures = 0;
            self.breaker_open = false;
        }
        self.failures = self.failures.saturating_add(1);
        if let Some(deaths) = self.deaths_too_many(now) {
            self.state = State::GaveUp;
            out.push(Action::Tell(Told::GaveUp { deaths }));
            return;
        }
        let delay = if self.failures >= self.policy.breaker_deaths {
            let every = self.policy.half_open_every;
            if !self.breaker_open {
                self.breaker_open = true;
                let deaths = self.failures;
                out.push(Action::Tell(Told::CrashLoop { deaths, every }));
            }
            every
        } else {
            self.backoff_delay()
        };
        if delay.is_zero() {
            self.spawn(out);
        } else {
            self.state = State::Waiting {
                until: now.saturating_add(delay),
            };
            out.push(Action::Tell(Told::Backoff { delay }));
        }
    }

    /// Counts this death and returns how many lie in the window if that is the limit.
    fn deaths_too_many(&mut self, now: Duration) -> Option<u32> {
        let limit = self.policy.give_up_after?;
        self.deaths.push_back(now);
        let from = now.saturating_sub(self.policy.give_up_window);
        // Bounded by the limit: older ones cannot decide anything.
        while self.deaths.front().is_some_and(|&died| died < from)
            || self.deaths.len() > limit.max(1) as usize
        {
            self.deaths.pop_front();
        }
        let deaths = self.deaths.len() as u32;
        (deaths >= limit.max(1)).then_some(deaths)
    }

    fn backoff_delay(&mut self) -> Duration {
        if self.failures <= 1 {
            return Duration::ZERO;
        }
        let steps = i32::try_from(self.failures - 2)
            .unwrap_or(BACKOFF_STEPS_MAX)
            .min(BACKOFF_STEPS_MAX);
        let factor = self.policy.backoff_factor.max(1.0).powi(steps);
        let longest = self.policy.backoff_max.as_secs_f64();
        let delay = (self.policy.backoff_first.as_secs_f64() * factor).min(longest);
        let jitter = self.policy.backoff_jitter.clamp(0.0, 1.0) * (self.rng.f64() * 2.0 - 1.0);
        Duration::try_from_secs_f64(delay * (1.0 + jitter)).unwrap_or(self.policy.backoff_max)
    }

    fn spawn(&mut self, out: &mut Vec<Action>) {
        self.state = State::Spawning { pending: None };
        out.push(Action::Spawn);
    }

    fn stop(&mut self, asked: bool, out: &mut Vec<Action>) {
        self.state = State::Stopped;
        out.push(Action::Tell(Told::Stopped { asked }));
    }

    fn forget_failures(&mut self) {
        self.failures = 0;
        self.breaker_open = false;
        self.deaths.clear();
    }

    fn startup_deadline(&self) -> Duration {
        let limit = self.policy.startup_timeout.max(self.allowed_silence);
        // From `moved_at`, not `started_at`: an adopted engine's time begins at its adoption.
        self.moved_at.saturating_add(limit)
    }

    fn silence_limit(&self) -> Duration {
        self.policy.hang_timeout.max(self.allowed_silence)
    }
}

#[cfg(test)]
mod tests;
