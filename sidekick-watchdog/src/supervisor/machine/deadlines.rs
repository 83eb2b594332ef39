//! Until when the machine waits in which state, and what it does when that time has come.

use std::time::Duration;

use super::state::State;
use super::words::{Action, EndedBy, Told};
use super::{KILL_AGAIN_AFTER, Machine};

impl Machine {
    /// When [`Event::Tick`](super::Event::Tick) is due; `None` = only an event can change anything.
    pub fn deadline(&self) -> Option<Duration> {
        match self.state {
            State::Idle | State::Spawning { .. } | State::Stopped | State::GaveUp => None,
            State::Starting | State::Running if self.limbo.is_some() => {
                self.limbo.map(|limbo| limbo.until())
            }
            State::Starting | State::Running => self
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

    pub(super) fn on_tick(&mut self, now: Duration, out: &mut Vec<Action>) {
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
}
