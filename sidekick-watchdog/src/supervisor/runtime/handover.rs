//! A restart where there is a standby: the next engine is booted before the old one is asked to quit.

use std::time::Duration;

use super::Runtime;
use crate::event::EngineEvent;
use crate::platform::monotonic_now;
use crate::supervisor::machine::Event;
use crate::supervisor::machine::standby::Wish;

/// A restart by way of a fresh standby: it is booted first, then the engine is asked to quit.
#[derive(Clone, Debug)]
pub(super) struct Handover {
    grace: Duration,
    /// It is gone on without one that is parked after this.
    until: Duration,
    /// Why, where it is by plan.
    why: Option<String>,
}

impl Handover {
    /// It is gone on without a standby that is parked after this.
    pub(super) fn until(&self) -> Duration {
        self.until
    }
}

impl Runtime {
    /// A restart: where a standby is configured and the engine is up, by way of a fresh one.
    pub(super) fn restart(&mut self, grace: Duration, why: Option<String>) {
        let now = monotonic_now();
        if self.standby_wish() == Wish::Have {
            let hook = self.settings.pre_start.as_ref();
            let preparing = hook.map_or(Duration::ZERO, |hook| hook.timeout);
            let until = now + preparing + self.settings.startup_timeout;
            if self.handover.is_none() {
                self.cancel_preparation();
                self.dismiss_standby();
            }
            let handover = Handover { grace, until, why };
            let until = self.handover.as_ref().map_or(until, |begun| begun.until);
            self.handover = Some(Handover { until, ..handover });
        } else {
            self.handover = None;
            self.dismiss_standby();
            self.restart_now(grace, why);
        }
    }

    fn restart_now(&mut self, grace: Duration, why: Option<String>) {
        if let (Some(why), Some(engine)) = (why, &self.engine) {
            let incarnation = engine.launch;
            self.emit(EngineEvent::Planned { incarnation, why });
        }
        self.feed(Event::Restart { grace });
    }

    pub(super) fn go_on_with_handover(&mut self, now: Duration) {
        if self.handover.is_none() {
            return;
        }
        let wish = self.standby_wish();
        if self.engine.is_none() || wish == Wish::None {
            self.handover = None;
            return;
        }
        let is_fresh_parked = self.standby_machine.is_parked();
        let is_over = |handover: &mut Handover| {
            is_fresh_parked || now >= handover.until || wish != Wish::Have
        };
        if let Some(handover) = self.handover.take_if(is_over) {
            self.restart_now(handover.grace, handover.why);
        }
    }
}
