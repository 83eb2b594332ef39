//! What follows from a death: what it was, whether another engine is started, and who is told.

use std::time::Duration;

use super::Runtime;
use crate::crash::DeathFacts;
use crate::crash::keep::death_path;
use crate::event::{DeathCause, EngineEvent};
use crate::platform::{Exit, Process, monotonic_now};
use crate::supervisor::death::Death;
use crate::supervisor::machine::{Event, Phase};
use crate::supervisor::unwatched::Unwatched;

/// How long a restart that hangs on the exit code of somebody else's child waits for it. No command is taken meanwhile,
/// so it is short; an end of which nobody told by then is none that was clean.
const EXIT_NEEDED_MAX: Duration = Duration::from_millis(200);
const EXIT_NEEDED_POLL: Duration = Duration::from_millis(5);

impl Runtime {
    /// The engine's death is proven: end its group, start the next one, and only then clean up.
    pub(super) fn on_death(&mut self) {
        let now = monotonic_now();
        let Some(engine) = self.engine.take() else {
            return;
        };
        self.handover = None;
        engine.process.kill_group();
        let link = engine
            .link
            .or_else(|| self.find_link.as_ref().and_then(|find| find(engine.launch)));
        let heartbeat = link.as_ref().map(|link| link.heartbeat());
        let (memory, hang) = (engine.memory.into_samples(), engine.hang);
        let said_goodbye = heartbeat.is_some_and(|heartbeat| heartbeat.clean_exit.is_some());
        let mut exit = engine.process.reap();
        let is_decisive = self.machine.is_exit_decisive();
        if exit == Exit::Unknown
            && is_decisive
            && !self.settings.heartbeat_required
            && link.is_none()
        {
            exit = wait_for_exit(&engine.process);
        }
        let is_asked = self.machine.is_end_asked();
        let mut death = Death {
            launch: engine.launch,
            pid: engine.process.pid(),
            ended_by: self.machine.ended_by(),
            uptime: now.saturating_sub(engine.started_at),
            heartbeat,
            game_version: link.as_ref().and_then(|link| link.game_version()),
            is_ring_missing: link.is_none()
                && self.settings.heartbeat_required
                && !engine.is_adopted,
            foreign: engine.foreign,
            log: engine.log,
            is_asked,
            is_success: false,
            memory,
            hang,
            caught: self.caught(engine.launch),
        };
        let cause = death.cause(exit);
        let success = self.is_success(&cause, link.is_some());
        death.is_success = success;
        // Also one that was to end, for a restart, and crashed in it.
        let is_bad = !success && !death.is_expected(&cause);
        self.died_at = Some(now);
        self.is_relaunch = true;
        let runtime_dir = &self.settings.command.runtime_dir;
        self.last_death = is_bad.then(|| death_path(runtime_dir, engine.launch));
        self.launches_over.push(engine.launch);
        if exit == Exit::Unknown && !said_goodbye {
            // Told when it is known how; the next start does not wait for that.
            self.late.push(engine.process, death, now);
            self.feed_at(Event::Died { success }, now);
        } else {
            // What is told wakes other threads, which would compete for the processor with the start of the next engine.
            self.events_wait = true;
            self.emit(died(&death, exit));
            self.feed_at(Event::Died { success }, now);
            self.events_wait = false;
            self.flush_events();
            self.hand_over(death.facts(exit));
        }
        let is_over = success || (is_asked && (!is_bad || self.machine.phase() == Phase::Stopped));
        if self.engine.is_none() && is_over {
            self.is_relaunch = false;
            self.last_death = None;
            self.output.ended_cleanly(engine.launch);
        }
        self.sweep_soon(now);
    }

    /// The signal of the crash handler's banner in this engine's output.
    fn caught(&self, launch: u32) -> Option<i32> {
        let banner = self.output.banner()?;
        (banner.launch == launch).then_some(banner.signal)
    }

    fn tell_death(&mut self, death: &Death, exit: Exit) {
        self.emit(died(death, exit));
        self.hand_over(death.facts(exit));
    }

    /// Hands a death to who makes its report.
    fn hand_over(&self, facts: DeathFacts) {
        if facts.expected {
            // The ring that shows it is about to go: a successor would not see any more that no report is due.
            self.note_told(facts.incarnation);
        }
        self.output.ended(facts);
    }

    pub(super) fn note_told(&self, launch: u32) {
        if let Err(error) = self.locks.tell(launch) {
            tracing::warn!(launch, %error, "a later watchdog may report an end that is told");
        }
    }

    /// Tells of a death that no watchdog saw, or none could tell.
    pub(super) fn tell_unwatched(&mut self, death: Unwatched) {
        let Unwatched {
            mut facts,
            is_success,
            live,
        } = death;
        let launch = facts.incarnation;
        facts.log = live.as_deref().map(|live| self.output.kept(launch, live));
        self.emit(EngineEvent::Died {
            incarnation: launch,
            pid: facts.pid,
            cause: facts.cause.clone(),
            log: facts.log.clone(),
            uptime: facts.uptime,
            frame: facts.frame,
            as_asked: false,
            success: is_success,
        });
        if launch >= self.last_launch || Some(launch) == self.active_before {
            self.is_relaunch &= !is_success;
            let runtime_dir = &self.settings.command.runtime_dir;
            self.last_death = (self.is_relaunch).then(|| death_path(runtime_dir, launch));
        }
        if is_success {
            self.note_told(launch);
        } else {
            self.feed(Event::DiedUnwatched);
        }
        self.output.ended_untold(facts, live);
    }

    /// Tells of deaths whose cause has come to be known; with `last`, of all.
    pub(super) fn tell_late(&mut self, now: Duration, last: bool) {
        for (death, exit) in self.late.take(now, last) {
            self.tell_death(&death, exit);
        }
    }

    /// A clean end is one that the engine told of itself; where no ring is expected, the exit code has to do.
    fn is_success(&self, cause: &DeathCause, has_ring: bool) -> bool {
        let codes = &self.settings.success_exit_codes;
        match cause {
            DeathCause::Clean { exit_code } | DeathCause::StuckInExit { exit_code, .. } => {
                codes.contains(exit_code)
            }
            DeathCause::Exited { exit_code } => {
                !self.settings.heartbeat_required && !has_ring && codes.contains(exit_code)
            }
            _ => false,
        }
    }
}

/// Waits until the system tells how somebody else's dead child ended, at most [`EXIT_NEEDED_MAX`]: only where the exit
/// code alone decides whether another engine is started.
fn wait_for_exit(process: &Process) -> Exit {
    let until = monotonic_now() + EXIT_NEEDED_MAX;
    loop {
        let exit = process.reap();
        if exit != Exit::Unknown || monotonic_now() >= until {
            return exit;
        }
        std::thread::sleep(EXIT_NEEDED_POLL);
    }
}

fn died(death: &Death, exit: Exit) -> EngineEvent {
    EngineEvent::Died {
        incarnation: death.launch,
        pid: death.pid,
        cause: death.told_cause(exit),
        log: death.log.clone(),
        uptime: Some(death.uptime),
        frame: death.heartbeat.map(|heartbeat| heartbeat.frames),
        as_asked: death.is_as_asked(exit),
        success: death.is_success,
    }
}
