//! The standby: a second engine, booted and parked, that takes the place of one that dies.

use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use super::Runtime;
use super::engine::{Engine, running};
use super::handover::Handover;
use crate::event::EngineEvent;
use crate::platform::{Exit, Process, ProcessState, kill_point, monotonic_now};
use crate::supervisor::EngineLink;
use crate::supervisor::death::Death;
use crate::supervisor::launch::{Active, Survivor};
use crate::supervisor::machine::standby::{Action, Event, Wish};
use crate::supervisor::machine::{Beat, EndedBy};
use crate::supervisor::pre_start::PreStartRun;
use crate::supervisor::spawn::LaunchError;

/// Looks at it: growing while it boots, then as often as it is told that we live.
const LOOK_FIRST: Duration = Duration::from_millis(20);
const LOOK_MAX: Duration = Duration::from_secs(1);

/// The second engine.
#[derive(Debug)]
pub(super) struct Standby {
    pub launch: u32,
    pub process: Process,
    /// The file that it writes its output to.
    live: Option<PathBuf>,
    /// Where the first part of that is kept.
    kept: Option<PathBuf>,
    started_at: Duration,
    link: Option<Arc<dyn EngineLink>>,
    look_at: Duration,
    look_pause: Duration,
}

impl Runtime {
    /// Says which launch is the engine, before anybody is told.
    pub(super) fn note_active(&self, launch: u32) {
        if !self.settings.standby {
            return;
        }
        let active = Active {
            launch,
            is_relaunch: self.is_relaunch,
            last_death: self.last_death.clone(),
        };
        if let Err(error) = self.active_file.write(&active) {
            // The only other engine there may be is dead, so nobody can take the one for the other.
            tracing::warn!(launch, %error, "which engine is active cannot be noted");
        }
    }

    pub(super) fn adopt_standby(&mut self, survivor: Survivor) {
        let Survivor {
            launch,
            process,
            log: live,
            ..
        } = survivor;
        self.last_launch = self.last_launch.max(launch);
        let kept = live.as_deref().map(|live| self.output.kept(launch, live));
        self.take_in(launch, process, live, kept, true);
    }

    fn take_in(
        &mut self,
        launch: u32,
        process: Process,
        live: Option<PathBuf>,
        kept: Option<PathBuf>,
        is_adopted: bool,
    ) {
        let now = monotonic_now();
        let pid = process.pid();
        let age = if is_adopted {
            process.age()
        } else {
            Duration::ZERO
        };
        self.standby = Some(Standby {
            launch,
            process,
            live,
            kept,
            started_at: now.saturating_sub(age),
            link: None,
            look_at: now + LOOK_FIRST,
            look_pause: LOOK_FIRST,
        });
        self.emit(EngineEvent::StandbyStarted {
            incarnation: launch,
            pid,
            adopted: is_adopted,
        });
        self.output.standby_started(launch);
        self.feed_standby(Event::Spawned, now);
    }

    pub(super) fn standby_wish(&self) -> Wish {
        if !self.settings.standby || self.leaving || self.settings.no_more_starts.is_set() {
            return Wish::None;
        }
        let engine = self.engine.as_ref();
        let is_up = engine.is_some_and(|engine| engine.ready_told || !self.settings.ready_required);
        let is_safe = engine.is_some_and(|engine| engine.is_safe);
        let is_for_good = self.machine.is_stop_asked();
        Wish::of(self.machine.phase(), is_up, is_safe, is_for_good)
    }

    /// Looks after the standby: whether there is to be one, and how it does.
    pub(super) fn care_for_standby(&mut self, now: Duration) {
        if !self.settings.standby && self.standby.is_none() {
            return;
        }
        let wish = self.standby_wish();
        self.feed_standby(Event::Wish(wish), now);
        let due = |at: Option<Duration>| at.is_some_and(|at| at <= now);
        let is_due = due(self.standby_machine.deadline());
        if is_due || due(self.standby.as_ref().map(|standby| standby.look_at)) {
            self.look_at_standby(now);
        }
        if is_due {
            self.feed_standby(Event::Tick, now);
        }
        self.go_on_with_preparation(wish, now);
        self.go_on_with_handover(now);
    }

    fn look_at_standby(&mut self, now: Duration) {
        let Some(standby) = &mut self.standby else {
            return;
        };
        standby.look_pause = (standby.look_pause * 3 / 2).min(LOOK_MAX);
        standby.look_at = now + standby.look_pause;
        let is_new = standby.link.is_none();
        if is_new {
            let find = self.find_link.as_ref();
            standby.link = find.and_then(|find| find(standby.launch));
        }
        let Some(link) = &standby.link else {
            return;
        };
        link.beat();
        let heartbeat = link.heartbeat();
        let beat = Beat {
            frames: heartbeat.frames,
            stamp: Duration::from_nanos(heartbeat.monotonic_ns),
            allowed_silence: heartbeat.allowed_silence,
            paused: heartbeat.paused || standby.process.state() == ProcessState::Traced,
            goodbye: heartbeat.clean_exit.is_some(),
            ready: heartbeat.ready,
            crashed: heartbeat.crashed,
        };
        if is_new {
            self.feed_standby(Event::Connected, now);
        }
        let parked = heartbeat.parked;
        self.feed_standby(Event::Beat { beat, parked }, now);
    }

    fn feed_standby(&mut self, event: Event, now: Duration) {
        for action in self.standby_machine.on_event(event, now) {
            match action {
                Action::Spawn => self.prepare_standby(now),
                Action::Kill => {
                    if let Some(standby) = &self.standby {
                        standby.process.kill_group();
                    }
                }
                Action::TellParked => {
                    if let Some(standby) = &self.standby {
                        let incarnation = standby.launch;
                        let after = now.saturating_sub(standby.started_at);
                        self.emit(EngineEvent::StandbyParked { incarnation, after });
                    }
                }
            }
        }
    }

    /// Starts one, after the command before it where there is one. The engine plays on meanwhile.
    fn prepare_standby(&mut self, now: Duration) {
        match self.begin_pre_start() {
            Ok(None) => self.start_standby(now),
            Ok(run) => self.standby_pre_start = run,
            Err(error) => self.tell_no_standby(&error, now),
        }
    }

    fn go_on_with_preparation(&mut self, wish: Wish, now: Duration) {
        if wish == Wish::None {
            self.cancel_preparation();
        }
        let ended = self.standby_pre_start.as_ref();
        let Some(ended) = ended.and_then(PreStartRun::ended) else {
            return;
        };
        self.standby_pre_start = None;
        match ended {
            Ok(()) => self.start_standby(now),
            Err(error) => self.tell_no_standby(&error, now),
        }
    }

    fn tell_no_standby(&mut self, error: &dyn std::error::Error, now: Duration) {
        self.feed_standby(Event::SpawnFailed, now);
        let retry = self.standby_machine.retry(now);
        tracing::warn!(%error, ?retry, "no standby could be started");
    }

    /// The command that runs before a standby's start, for the start of an engine that comes sooner.
    pub(super) fn take_standby_preparation(&mut self) -> Option<PreStartRun> {
        let run = self.standby_pre_start.take()?;
        self.feed_standby(Event::SpawnFailed, monotonic_now());
        Some(run)
    }

    /// Ends it, with all that it started.
    pub(super) fn cancel_preparation(&mut self) {
        drop(self.take_standby_preparation());
    }

    fn start_standby(&mut self, now: Duration) {
        match self.launch(false, true) {
            Ok(launched) => self.take_in(
                launched.launch,
                launched.process,
                launched.live,
                launched.kept,
                false,
            ),
            Err(error) => self.tell_no_standby(&error, now),
        }
    }

    /// A cold start: whatever stands by is not what is wanted (or is dying), and two would be one too many.
    pub(super) fn start_engine_alone(&mut self, is_safe: bool) -> Result<(), LaunchError> {
        if self.standby.is_some() {
            self.dismiss_standby();
        }
        self.start_engine(is_safe)
    }

    /// Ends the standby that lives, whose program or state is of no use any more.
    pub(super) fn dismiss_standby(&mut self) {
        self.feed_standby(Event::Dismiss, monotonic_now());
    }

    /// Whether the next start can be the standby's that lives.
    pub(super) fn can_promote(&self) -> bool {
        let standby = self.standby.as_ref();
        let is_dead =
            |standby: &Standby| matches!(standby.process.wait_dead(Duration::ZERO), Ok(true));
        self.standby_machine.is_promotable()
            && !self.machine.is_next_safe()
            && standby.is_some_and(|standby| !is_dead(standby))
    }

    /// Makes the standby the engine, if one lives. In this order, each step good to be repeated by a watchdog that comes
    /// after one that was killed amid it: the word that decides, the ring of the promoted, everybody else.
    pub(super) fn promote(&mut self) -> bool {
        if !self.standby_machine.is_promotable() {
            return false;
        }
        let is_alive =
            |standby: &mut Standby| !matches!(standby.process.wait_dead(Duration::ZERO), Ok(true));
        let Some(standby) = self.standby.take_if(is_alive) else {
            return false;
        };
        let launch = standby.launch;
        kill_point("before_active_word");
        self.note_active(launch);
        kill_point("after_active_word");
        let link = standby
            .link
            .or_else(|| self.find_link.as_ref().and_then(|find| find(launch)));
        if let Some(link) = &link {
            link.activate(launch);
        }
        kill_point("after_ring_word");
        let now = monotonic_now();
        let pid = standby.process.pid();
        let process = running(launch, &standby.process, standby.live.as_ref());
        self.output.runs(process);
        self.ever_started = true;
        let (kept, plan) = (standby.kept, &self.settings.plan);
        let engine = Engine::new(launch, standby.process, kept.clone(), now, now, plan);
        self.engine = Some(Engine { link, ..engine });
        self.feed_standby(Event::Promoted, now);
        let gap = self.died_at.take().map(|died| now.saturating_sub(died));
        self.emit(EngineEvent::Started {
            incarnation: launch,
            pid,
            gap,
            log: kept.unwrap_or_else(|| PathBuf::from("/dev/null")),
            standby: true,
        });
        self.output.started(launch, pid, standby.live, false);
        kill_point("after_telling");
        true
    }

    /// The standby's death is proven.
    pub(super) fn on_standby_death(&mut self) {
        let now = monotonic_now();
        let Some(standby) = self.standby.take() else {
            return;
        };
        standby.process.kill_group();
        let launch = standby.launch;
        let link = standby
            .link
            .or_else(|| self.find_link.as_ref().and_then(|find| find(launch)));
        let silent = self.standby_machine.silent();
        let is_asked = self.standby_machine.is_ending() && silent.is_none();
        let pid = standby.process.pid();
        let exit = standby.process.reap();
        let death = Death {
            launch,
            pid,
            ended_by: silent.map(|silent| EndedBy::Hang { silent }),
            uptime: now.saturating_sub(standby.started_at),
            heartbeat: link.as_ref().map(|link| link.heartbeat()),
            game_version: link.and_then(|link| link.game_version()),
            is_ring_missing: false,
            foreign: None,
            log: standby.kept,
            is_asked,
            is_success: false,
            memory: Vec::new(),
            hang: None,
            caught: None,
        };
        let mut facts = death.facts(exit);
        facts.standby = true;
        facts.expected |= is_asked || (exit == Exit::Unknown && silent.is_none());
        self.feed_standby(Event::Died, now);
        let retry = (!is_asked).then(|| self.standby_machine.retry(now));
        self.emit(EngineEvent::StandbyEnded {
            incarnation: launch,
            pid,
            cause: facts.cause.clone(),
            retry,
        });
        if facts.expected {
            self.note_told(launch);
        } else {
            self.output.ended_untold(facts, standby.live.clone());
        }
        if let Some(live) = standby.live {
            self.output.standby_over(launch, live);
        }
        self.launches_over.push(launch);
        self.sweep_soon(now);
    }

    /// When the standby is to be cared for next.
    pub(super) fn standby_wake(&self) -> Option<Duration> {
        let look = self.standby.as_ref().map(|standby| standby.look_at);
        let handover = self.handover.as_ref().map(Handover::until);
        [self.standby_machine.deadline(), look, handover]
            .into_iter()
            .flatten()
            .min()
    }
}
