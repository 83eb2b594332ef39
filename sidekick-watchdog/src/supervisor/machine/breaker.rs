//! What a failure leads to: at once, later, safely, once a minute, or never again.

use std::collections::VecDeque;
use std::time::Duration;

use super::policy::Policy;

/// No life shorter than this counts as stable, whatever is configured: the count of failures must be able to grow.
const STABLE_AFTER_MIN: Duration = Duration::from_secs(1);

/// Exponents beyond this are all the same: the delay has met its cap long before.
const BACKOFF_STEPS_MAX: i32 = 64;

/// What comes after a failure.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Next {
    /// Another start.
    Start {
        /// When.
        delay: Duration,
        kind: StartKind,
    },
    /// None.
    GiveUp {
        /// Deaths in the window.
        deaths: u32,
    },
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum StartKind {
    Usual,
    /// The one safe start of a crash loop.
    Safe,
    /// The first try of an open breaker.
    FirstHalfOpen,
    HalfOpen,
}

/// Counts failures.
#[derive(Debug)]
pub(super) struct Breaker {
    rng: fastrand::Rng,
    failures: u32,
    /// Those of them in a row that never came up.
    never_up: u32,
    is_open: bool,
    safe_start_done: bool,
    /// The last failures since the last stable life.
    recent: VecDeque<Duration>,
    /// The last failures at all, where there is a limit to them.
    deaths: VecDeque<Duration>,
}

impl Breaker {
    pub(super) fn new(seed: u64) -> Self {
        Self {
            rng: fastrand::Rng::with_seed(seed),
            failures: 0,
            never_up: 0,
            is_open: false,
            safe_start_done: false,
            recent: VecDeque::new(),
            deaths: VecDeque::new(),
        }
    }

    pub(super) fn failures(&self) -> u32 {
        self.failures
    }

    pub(super) fn is_open(&self) -> bool {
        self.is_open
    }

    /// Somebody asked for a start: the past does not count against it.
    pub(super) fn forget(&mut self) {
        self.deaths.clear();
        self.close();
    }

    fn close(&mut self) {
        self.failures = 0;
        self.never_up = 0;
        self.is_open = false;
        self.safe_start_done = false;
        self.recent.clear();
    }

    /// An engine failed before this life began, nobody knows after how long. The start that is due anyway is the one that
    /// follows a first failure at once; the next failure is the second.
    pub(super) fn count_earlier(&mut self, policy: &Policy, now: Duration) {
        self.failures = self.failures.saturating_add(1);
        let limit = policy.breaker_deaths.max(1);
        count(&mut self.recent, now, policy.breaker_window, limit);
        if let Some(limit) = policy.give_up_after {
            count(&mut self.deaths, now, policy.give_up_window, limit.max(1));
        }
    }

    /// An engine that was up for `up` failed at `now`; `None`: it never came up.
    pub(super) fn on_failure(
        &mut self,
        policy: &Policy,
        up: Option<Duration>,
        now: Duration,
    ) -> Next {
        if up.is_some_and(|up| up >= policy.stable_after.max(STABLE_AFTER_MIN)) {
            self.close();
        }
        self.never_up = match up {
            None => self.never_up.saturating_add(1),
            Some(_) => 0,
        };
        self.failures = self.failures.saturating_add(1);
        if let Some(limit) = policy.give_up_after {
            let limit = limit.max(1);
            let deaths = count(&mut self.deaths, now, policy.give_up_window, limit);
            if deaths >= limit {
                return Next::GiveUp { deaths };
            }
        }
        let limit = policy.breaker_deaths.max(1);
        // Those that take long to fail to come up (a game that is never ready) are a loop, however wide the window.
        let is_loop = count(&mut self.recent, now, policy.breaker_window, limit) >= limit
            || self.never_up >= limit;
        if self.is_open || is_loop {
            return self.in_crash_loop(policy);
        }
        Next::Start {
            delay: self.backoff(policy),
            kind: StartKind::Usual,
        }
    }

    fn in_crash_loop(&mut self, policy: &Policy) -> Next {
        let was_open = self.is_open;
        if policy.safe_start && !was_open && !self.safe_start_done {
            self.safe_start_done = true;
            return Next::Start {
                delay: self.backoff(policy),
                kind: StartKind::Safe,
            };
        }
        self.is_open = true;
        Next::Start {
            delay: policy.half_open_every,
            kind: if was_open {
                StartKind::HalfOpen
            } else {
                StartKind::FirstHalfOpen
            },
        }
    }

    fn backoff(&mut self, policy: &Policy) -> Duration {
        if self.failures <= 1 {
            return Duration::ZERO;
        }
        let steps = i32::try_from(self.failures - 2)
            .unwrap_or(BACKOFF_STEPS_MAX)
            .min(BACKOFF_STEPS_MAX);
        let factor = policy.backoff_factor.max(1.0).powi(steps);
        let longest = policy.backoff_max.as_secs_f64();
        let delay = (policy.backoff_first.as_secs_f64() * factor).min(longest);
        let jitter = policy.backoff_jitter.clamp(0.0, 1.0) * (self.rng.f64() * 2.0 - 1.0);
        Duration::try_from_secs_f64(delay * (1.0 + jitter)).unwrap_or(policy.backoff_max)
    }
}

/// Notes this death and returns how many lie in the window. Bounded by the limit: older ones cannot decide anything.
fn count(deaths: &mut VecDeque<Duration>, now: Duration, window: Duration, limit: u32) -> u32 {
    deaths.push_back(now);
    let from = now.saturating_sub(window);
    while deaths.front().is_some_and(|&died| died < from) || deaths.len() > limit as usize {
        deaths.pop_front();
    }
    u32::try_from(deaths.len()).unwrap_or(limit)
}
