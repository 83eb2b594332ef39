//! What follows an engine's death, or a start that failed.

use std::time::Duration;

use super::Machine;
use super::breaker::{Next, StartKind};
use super::policy::RestartPolicy;
use super::state::{State, Then};
use super::words::{Action, EndedBy, Told};

impl Machine {
    pub(super) fn on_died(&mut self, success: bool, now: Duration, out: &mut Vec<Action>) {
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
    pub(super) fn on_unasked_death(
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
}
