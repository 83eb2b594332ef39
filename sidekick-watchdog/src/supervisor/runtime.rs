//! Carries out what [`super::machine`] decides, on a thread of its own.
//!
//! The thread sleeps in one poll on the engine's pidfd and a waker until the machine's next deadline. It shares no
//! lock with store or upload and touches no disk but the runtime directory's memory; see [`super::output`].
//!
//! [`commands`]: what is asked · [`actions`]: what the machine says is done · [`start`]: a start, and what it finds left over ·
//! [`engine`]: the one that lives · [`care`]: how it does · [`deaths`]: how it died · [`telling`]: who hears of it ·
//! [`standby`] and [`handover`]: a second engine.

mod actions;
mod care;
mod commands;
mod deaths;
mod engine;
mod handover;
mod standby;
mod start;
mod telling;

use std::collections::VecDeque;
use std::path::PathBuf;
use std::sync::mpsc::Receiver;
use std::time::Duration;

use tokio::sync::mpsc::Sender;

use self::engine::{Engine, running};
use self::handover::Handover;
use self::standby::Standby;
use super::death::Death;
use super::late::LateExits;
use super::launch::{ActiveFile, LaunchLocks, Survivor};
use super::machine::standby::StandbyMachine;
use super::machine::{Event, Machine, Phase};
use super::memory::MemoryLimits;
use super::output::Output;
use super::planned::RestartPlan;
use super::pre_start::{PreStart, PreStartRun};
use super::spawn::{EngineCommand, LaunchError};
use super::unwatched::Unwatched;
use super::{Command, Ended, LinkFinder, NoMoreStarts};
use crate::crash::keep::death_path;
use crate::event::EngineEvent;
use crate::platform::{Waitable, Waker, monotonic_now, wait_for_either};

/// How often dead orphans are reaped.
const SWEEP_INTERVAL: Duration = Duration::from_secs(10);
const EVENTS_RETRY: Duration = Duration::from_millis(100);

/// What the thread needs from the configuration.
#[derive(Debug)]
pub(super) struct Settings {
    pub command: EngineCommand,
    pub success_exit_codes: Vec<i32>,
    pub heartbeat_required: bool,
    pub subreaper: bool,
    pub memory: MemoryLimits,
    pub plan: RestartPlan,
    pub pre_start: Option<PreStart>,
    pub drain_grace: Duration,
    pub no_more_starts: NoMoreStarts,
    /// Whether there is to be a standby.
    pub standby: bool,
    /// Whether a game has to say that it is ready.
    pub ready_required: bool,
    pub startup_timeout: Duration,
}

pub(super) struct Runtime {
    settings: Settings,
    machine: Machine,
    locks: LaunchLocks,
    output: Output,
    find_link: Option<LinkFinder>,
    commands: Receiver<Command>,
    waker: Waker,
    events: Sender<EngineEvent>,
    events_kept: VecDeque<EngineEvent>,
    events_dropped: u64,
    /// Events are kept until a start is over.
    events_wait: bool,
    engine: Option<Engine>,
    standby: Option<Standby>,
    standby_machine: StandbyMachine,
    /// The command before a standby's start.
    standby_pre_start: Option<PreStartRun>,
    /// A restart that waits for a fresh standby.
    handover: Option<Handover>,
    active_file: ActiveFile,
    /// The launch that was the engine when we came, where an earlier watchdog kept a standby.
    active_before: Option<u32>,
    last_launch: u32,
    /// The highest number that is durably reserved: launch files below it may go.
    reserved: u32,
    launches_over: Vec<u32>,
    is_relaunch: bool,
    /// Where the report of the last death is, or will be, if it was neither clean nor as asked for.
    last_death: Option<PathBuf>,
    pre_start: Option<PreStartRun>,
    died_at: Option<Duration>,
    late: LateExits<Death>,
    ever_started: bool,
    /// The first start is behind us: who calls hears of it no more.
    is_begun: bool,
    first_error: Option<LaunchError>,
    sweep_at: Option<Duration>,
    leaving: bool,
    detached: bool,
}

/// What [`Runtime::new`] is made of.
pub(super) struct Parts {
    pub settings: Settings,
    pub machine: Machine,
    pub locks: LaunchLocks,
    pub output: Output,
    pub find_link: Option<LinkFinder>,
    pub commands: Receiver<Command>,
    pub waker: Waker,
    pub events: Sender<EngineEvent>,
    pub last_launch: u32,
    pub launches_over: Vec<u32>,
    pub is_relaunch: bool,
    pub standby_machine: StandbyMachine,
    pub active_file: ActiveFile,
    /// See [`ActiveFile`].
    pub active: Option<u32>,
}

impl Runtime {
    pub(super) fn new(parts: Parts) -> Self {
        let sweep_at = parts.settings.subreaper.then(monotonic_now);
        let runtime_dir = &parts.settings.command.runtime_dir;
        let last_death = (parts.is_relaunch)
            .then(|| death_path(runtime_dir, parts.last_launch))
            .filter(|path| path.exists());
        Self {
            settings: parts.settings,
            machine: parts.machine,
            locks: parts.locks,
            output: parts.output,
            find_link: parts.find_link,
            commands: parts.commands,
            waker: parts.waker,
            events: parts.events,
            events_kept: VecDeque::new(),
            events_dropped: 0,
            events_wait: false,
            engine: None,
            standby: None,
            standby_machine: parts.standby_machine,
            standby_pre_start: None,
            handover: None,
            active_file: parts.active_file,
            active_before: parts.active,
            last_launch: parts.last_launch,
            reserved: 0,
            launches_over: parts.launches_over,
            is_relaunch: parts.is_relaunch,
            last_death,
            pre_start: None,
            died_at: None,
            late: LateExits::new(),
            ever_started: false,
            is_begun: false,
            first_error: None,
            sweep_at,
            leaving: false,
            detached: false,
        }
    }

    /// Tells of the deaths that nobody told, takes over the engine that runs, or starts the first one; with `hold` starts none and ends the one that runs.
    pub(super) fn begin(
        &mut self,
        unwatched: Vec<Unwatched>,
        survivor: Option<Survivor>,
        standby: Option<Survivor>,
        hold: Option<Duration>,
    ) -> Result<(), LaunchError> {
        for death in unwatched {
            self.tell_unwatched(death);
        }
        // Before the engine: if that died meanwhile, the next start is the promotion.
        if let Some(standby) = standby {
            self.adopt_standby(standby);
        }
        if let Some(survivor) = survivor {
            self.adopt(survivor);
        } else if hold.is_none() {
            self.feed(Event::Start);
        }
        if let Some(grace) = hold {
            // A later `start` that fails is told, and no reason to end the watchdog.
            self.ever_started = true;
            self.feed(Event::Stop { grace });
        }
        self.is_begun = true;
        self.care_for_standby(monotonic_now());
        self.first_error.take().map_or(Ok(()), Err)
    }

    fn adopt(&mut self, survivor: Survivor) {
        let now = monotonic_now();
        let launch = survivor.launch;
        self.ever_started = true;
        let uptime = survivor.process.age();
        self.emit(EngineEvent::Adopted {
            incarnation: launch,
            pid: survivor.process.pid(),
            uptime,
            ring_lost: survivor.is_ring_lost,
        });
        self.output
            .runs(running(launch, &survivor.process, survivor.log.as_ref()));
        let pid = survivor.process.pid();
        let kept = survivor
            .log
            .as_deref()
            .map(|log| self.output.kept(launch, log));
        self.output.started(launch, pid, survivor.log, true);
        let since = now.saturating_sub(uptime);
        let plan = &self.settings.plan;
        let engine = Engine::new(launch, survivor.process, kept, since, now, plan);
        self.engine = Some(Engine {
            is_adopted: true,
            is_ring_lost: survivor.is_ring_lost,
            ..engine
        });
        self.last_launch = self.last_launch.max(launch);
        if self.active_before != Some(launch) {
            self.note_active(launch);
        }
        // Its watchdog may have been killed between the word that decides and this one.
        if self.active_before.is_some()
            && let Some(link) = self.find_link.as_ref().and_then(|find| find(launch))
        {
            link.activate(launch);
        }
        self.feed(Event::Adopted { since });
    }

    /// The thread's life. Ends when it was told to leave and no engine is left, or to leave the engine alone.
    pub(super) fn run(mut self) -> Ended {
        loop {
            if self.detached {
                return Ended::Detached;
            }
            let at_rest = matches!(
                self.machine.phase(),
                Phase::Stopped | Phase::GaveUp | Phase::Idle
            );
            if self.leaving && at_rest && self.standby.is_none() {
                self.tell_late(monotonic_now(), true);
                self.remove_launch_files();
                self.sweep();
                return Ended::Stopped;
            }
            let now = monotonic_now();
            let timeout = self.next_wake().map(|wake| wake.saturating_sub(now));
            let engine = self
                .engine
                .as_ref()
                .map(|engine| &engine.process as &dyn Waitable);
            let standby = self
                .standby
                .as_ref()
                .map(|standby| &standby.process as &dyn Waitable);
            match wait_for_either(&self.waker, [engine, standby], timeout) {
                Ok((woken, [is_dead, is_standby_dead])) => {
                    if is_standby_dead {
                        // First, so that a dead one is not promoted.
                        self.on_standby_death();
                    }
                    if is_dead {
                        self.on_death();
                    }
                    if woken {
                        self.take_commands();
                    }
                }
                Err(error) => {
                    // Only a lack of kernel memory; to go on slowly is better than to end.
                    tracing::warn!(%error, "supervisor cannot wait for the engine");
                    std::thread::sleep(EVENTS_RETRY);
                }
            }
            self.on_time();
        }
    }

    fn next_wake(&self) -> Option<Duration> {
        let ready_poll = self
            .engine
            .as_ref()
            .filter(|engine| engine.link.is_some() && !engine.ready_told)
            .map(|engine| engine.ready_poll_at);
        let retry = (!self.events_kept.is_empty()).then(|| monotonic_now() + EVENTS_RETRY);
        let late = self.late.deadline();
        let look = self.engine.as_ref().map(|engine| engine.look_at);
        [
            self.machine.deadline(),
            ready_poll,
            self.sweep_at,
            retry,
            late,
            look,
            self.standby_wake(),
        ]
        .into_iter()
        .flatten()
        .min()
    }

    fn on_time(&mut self) {
        let now = monotonic_now();
        self.flush_events();
        self.tell_late(now, false);
        self.take_pre_start();
        self.heed_banner();
        self.look(now);
        let due = |at: Option<Duration>| at.is_some_and(|at| at <= now);
        let machine_due = due(self.machine.deadline());
        let ready_due = self
            .engine
            .as_ref()
            .is_some_and(|engine| !engine.ready_told && engine.ready_poll_at <= now);
        if machine_due || ready_due {
            self.read_heartbeat(now);
        }
        if machine_due {
            self.feed_at(Event::Tick, now);
        }
        self.care_for_standby(now);
        if due(self.sweep_at) {
            self.sweep_at = self.settings.subreaper.then(|| now + SWEEP_INTERVAL);
            // May ask for another sweep soon.
            self.remove_launch_files();
            self.sweep();
        }
    }
}
