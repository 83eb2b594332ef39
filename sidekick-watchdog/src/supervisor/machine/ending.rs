//! How a living engine is ended, and by whose decision.

use std::time::Duration;

use super::limbo::Limbo;
use super::state::{State, Then};
use super::words::{Action, EndedBy, Told, Unfit};
use super::{KILL_AGAIN_AFTER, Machine};

impl Machine {
    pub(super) fn on_crashing(&mut self, banner: Duration, last_output: Duration, now: Duration) {
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
    pub(super) fn on_memory_over(&mut self, rss_bytes: u64, now: Duration, out: &mut Vec<Action>) {
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

    /// No ring within the startup time, and one is required. If none was ever seen, the next engine will not open one
    /// either, and to say so once is better than to kill one every minute for ever.
    pub(super) fn on_no_ring(&mut self, after: Duration, now: Duration, out: &mut Vec<Action>) {
        let ended_by = EndedBy::NoRing { after };
        if self.ever_connected || self.adopted {
            out.push(Action::Tell(Told::Unconnected { after }));
            self.end_engine(ended_by, Then::Recover, self.policy.hang_grace, now, out);
        } else {
            out.push(Action::Tell(Told::Unfit(Unfit::NoRing { after })));
            self.end_engine(ended_by, Then::Stop, self.policy.hang_grace, now, out);
        }
    }

    pub(super) fn on_foreign(&mut self, now: Duration, out: &mut Vec<Action>) {
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
    pub(super) fn recover(
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

    pub(super) fn hang(&mut self, silent: Duration, now: Duration, out: &mut Vec<Action>) {
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

    pub(super) fn end_limbo(&mut self, now: Duration, out: &mut Vec<Action>) {
        self.limbo = None;
        self.ended_by = Some(EndedBy::CrashLimbo);
        out.push(Action::Tell(Told::Ending(EndedBy::CrashLimbo)));
        self.kill_as_hung(now, out);
    }

    pub(super) fn kill_as_hung(&mut self, now: Duration, out: &mut Vec<Action>) {
        out.push(Action::KillGroup);
        self.state = State::Hung {
            kill_at: now.saturating_add(KILL_AGAIN_AFTER),
            killed: true,
        };
    }

    pub(super) fn on_end_asked(
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

    pub(super) fn on_kill(&mut self, now: Duration, out: &mut Vec<Action>) {
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
}
