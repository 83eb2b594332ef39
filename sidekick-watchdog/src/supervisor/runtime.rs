//! Carries out what [`super::machine`] decides, on a thread of its own.
//!
//! The thread sleeps in one poll on the engine's pidfd and a waker until the machine's next deadline. It shares no
//! lock with store or upload and touches no disk but the runtime directory's memory; see [`super::output`].

mod care;
mod handover;
mod standby;
mod start;
mod telling;

use std::collections::VecDeque;
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::mpsc::{Receiver, TryRecvError};
use std::time::Duration;

use jiff::Zoned;
use tokio::sync::mpsc::Sender;

use self::handover::Handover;
use self::standby::Standby;
use super::death::Death;
use super::evidence::CpuLooks;
use super::late::LateExits;
use super::launch::{ActiveFile, LaunchLocks, Running, Survivor};
use super::machine::standby::StandbyMachine;
use super::machine::{Action, Event, Machine, Phase};
use super::memory::{MemoryLimits, MemoryWatch};
use super::output::Output;
use super::planned::{Planned, RestartPlan};
use super::pre_start::{PreStart, PreStartRun};
use super::spawn::{EngineCommand, LaunchError};
use super::unwatched::Unwatched;
use super::{Command, Ended, EngineLink, LinkFinder, NoMoreStarts};
use crate::crash::keep::death_path;
use crate::crash::{DeathFacts, HangEvidence};
use crate::event::{DeathCause, EngineEvent, Versions};
use crate::platform::{Exit, Process, Waitable, Waker, monotonic_now, wait_for_either};

/// How often the engine's threads, memory and plan are looked at; more often where its memory has a limit, and at the
/// beginning of its life.
const LOOK_EVERY: Duration = Duration::from_secs(5);
const LOOK_EVERY_LIMITED: Duration = Duration::from_secs(1);
const LOOK_FIRST: Duration = Duration::from_millis(250);
/// Pause between two looks whether the game is ready: growing, so that a game that never says so costs nothing. Until its
/// first frame somebody may wait for that.
const READY_POLL_FIRST: Duration = Duration::from_millis(20);
const FRAME_POLL_MAX: Duration = Duration::from_secs(1);
const READY_POLL_MAX: Duration = Duration::from_secs(5);
/// How often dead orphans are reaped, and what an engine left behind is looked for after its death.
const SWEEP_INTERVAL: Duration = Duration::from_secs(10);
const SWEEP_AFTER_DEATH: Duration = Duration::from_millis(200);
const EVENTS_RETRY: Duration = Duration::from_millis(100);
/// How long a restart that hangs on the exit code of somebody else's child waits for it. No command is taken meanwhile,
/// so it is short; an end of which nobody told by then is none that was clean.
const EXIT_NEEDED_MAX: Duration = Duration::from_millis(200);
const EXIT_NEEDED_POLL: Duration = Duration::from_millis(5);

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

/// The engine that lives.
#[derive(Debug)]
struct Engine {
    launch: u32,
    process: Process,
    started_at: Duration,
    link: Option<Arc<dyn EngineLink>>,
    /// Its ring is of another protocol version.
    foreign: Option<Versions>,
    log: Option<PathBuf>,
    /// It was started by an earlier watchdog, which may have seen its ring.
    is_adopted: bool,
    /// Its ring was cleaned up with the runtime directory.
    is_ring_lost: bool,
    /// It is the safe start of a crash loop.
    is_safe: bool,
    cpu: CpuLooks,
    memory: MemoryWatch,
    planned: Planned,
    /// How it hangs, once it does.
    hang: Option<HangEvidence>,
    /// The last line after a crash banner that the machine was told of.
    banner_at: Option<Duration>,
    look_at: Duration,
    look_pause: Duration,
    running_told: bool,
    ready_told: bool,
    ready_poll: Duration,
    ready_poll_at: Duration,
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

    fn take_commands(&mut self) {
        loop {
            match self.commands.try_recv() {
                Ok(command) => self.on_command(command),
                Err(TryRecvError::Empty) => return,
                // The application is gone without a word: leave the engine to the next watchdog.
                Err(TryRecvError::Disconnected) => {
                    self.detached |= !self.leaving;
                    return;
                }
            }
        }
    }

    fn on_command(&mut self, command: Command) {
        // Who leaves starts nothing any more.
        if self.leaving && matches!(command, Command::Start | Command::Restart { .. }) {
            return;
        }
        match command {
            Command::Connected { launch, link } => self.on_connected(launch, link),
            Command::Foreign { launch, versions } => {
                let engine = self.engine.as_mut();
                if let Some(engine) = engine.filter(|engine| engine.launch == launch) {
                    engine.foreign = Some(versions);
                    self.feed(Event::Foreign);
                }
            }
            Command::Ping(answer) => {
                // Whoever asked may have gone.
                let _ = answer.send(());
            }
            Command::Start => self.feed(Event::Start),
            Command::Stop { grace } => self.feed(Event::Stop { grace }),
            Command::Restart { grace } if self.settings.standby => self.restart(grace, None),
            Command::Restart { grace } => self.feed(Event::Restart { grace }),
            Command::Shutdown { grace } => {
                self.leaving = true;
                self.feed(Event::Stop { grace });
            }
            Command::Kill => {
                self.leaving = true;
                self.feed(Event::Kill);
            }
            Command::Detach => self.detached = true,
        }
    }

    fn on_connected(&mut self, launch: u32, link: Arc<dyn EngineLink>) {
        let now = monotonic_now();
        let Some(engine) = self
            .engine
            .as_mut()
            .filter(|engine| engine.launch == launch)
        else {
            return;
        };
        let is_first = engine.link.is_none();
        if self.settings.standby {
            // One that was promoted before it had a ring does not know yet.
            link.activate(launch);
        }
        engine.link = Some(link);
        engine.ready_poll_at = now;
        if is_first {
            self.tell_connected();
            self.feed(Event::Connected);
        }
    }

    /// Tells that the engine has a ring, if it has one.
    fn tell_connected(&mut self) -> bool {
        let Some(engine) = self.engine.as_mut() else {
            return false;
        };
        let Some(link) = &engine.link else {
            return false;
        };
        engine.running_told = link.heartbeat().frames > 0;
        let (incarnation, in_main_loop) = (engine.launch, engine.running_told);
        self.emit(EngineEvent::Connected {
            incarnation,
            in_main_loop,
        });
        true
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

    /// The engine's death is proven: end its group, start the next one, and only then clean up.
    fn on_death(&mut self) {
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

    fn note_told(&self, launch: u32) {
        if let Err(error) = self.locks.tell(launch) {
            tracing::warn!(launch, %error, "a later watchdog may report an end that is told");
        }
    }

    /// Tells of a death that no watchdog saw, or none could tell.
    fn tell_unwatched(&mut self, death: Unwatched) {
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
    fn tell_late(&mut self, now: Duration, last: bool) {
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

    fn feed(&mut self, event: Event) {
        self.feed_at(event, monotonic_now());
    }

    fn feed_at(&mut self, event: Event, now: Duration) {
        let mut actions = VecDeque::from(self.machine.on_event(event, now));
        let mut is_unprepared = false;
        while let Some(action) = actions.pop_front() {
            match action {
                Action::Prepare | Action::Spawn { .. } if self.settings.no_more_starts.is_set() => {
                    let grace = Duration::ZERO;
                    // Withdrawn in the machine's own way: asked to stop amid a start that comes to nothing.
                    for withdrawn in [
                        Event::Stop { grace },
                        Event::SpawnFailed,
                        Event::Prepared { success: false },
                    ] {
                        actions.extend(self.machine.on_event(withdrawn, monotonic_now()));
                    }
                }
                // It ran before the standby's own start.
                Action::Prepare if self.can_promote() => {
                    is_unprepared = true;
                    let prepared = Event::Prepared { success: true };
                    actions.extend(self.machine.on_event(prepared, monotonic_now()));
                }
                Action::Prepare => {
                    let begun = match self.take_standby_preparation() {
                        Some(run) => Ok(Some(run)),
                        None => self.begin_pre_start(),
                    };
                    let success = begun.is_ok();
                    self.pre_start = begun.unwrap_or_else(|error| {
                        self.tell_unprepared(&error);
                        None
                    });
                    if self.pre_start.is_none() {
                        let prepared = Event::Prepared { success };
                        actions.extend(self.machine.on_event(prepared, monotonic_now()));
                    }
                }
                Action::EndPrepare => {
                    if let Some(run) = &self.pre_start {
                        run.cancel();
                    }
                }
                Action::Spawn { safe: false } if self.promote() => {
                    actions.extend(self.machine.on_event(Event::Spawned, monotonic_now()));
                    if self.tell_connected() {
                        actions.extend(self.machine.on_event(Event::Connected, monotonic_now()));
                    }
                }
                // The standby has died since.
                Action::Spawn { .. } if is_unprepared => {
                    is_unprepared = false;
                    actions.extend(self.machine.on_event(Event::SpawnFailed, monotonic_now()));
                }
                Action::Spawn { safe } => match self.start_engine_alone(safe) {
                    Ok(()) => {
                        actions.extend(self.machine.on_event(Event::Spawned, monotonic_now()));
                    }
                    Err(error) if !self.ever_started && !self.is_begun => {
                        self.first_error = Some(error);
                        return;
                    }
                    Err(error) => {
                        let incarnation = self.last_launch;
                        let error = error.to_string();
                        self.emit(EngineEvent::StartFailed { incarnation, error });
                        actions.extend(self.machine.on_event(Event::SpawnFailed, monotonic_now()));
                    }
                },
                Action::AskQuit { grace } => self.ask_quit(grace),
                Action::Backtrace { silent } => self.backtrace(silent),
                Action::KillGroup => {
                    if let Some(engine) = &self.engine {
                        engine.process.kill_group();
                    }
                }
                Action::Leave => self.detached = true,
                Action::Tell(told) => self.tell(told),
            }
        }
    }

    /// Asks through the ring if there is one; else by SIGTERM, which Godot without the extension dies of at once.
    fn ask_quit(&mut self, grace: Duration) {
        if let Some(engine) = &self.engine {
            match &engine.link {
                Some(link) => link.ask_quit(grace),
                None => engine.process.terminate(),
            }
            let incarnation = engine.launch;
            self.emit(EngineEvent::Stopping { incarnation, grace });
        }
    }
}

fn running(launch: u32, process: &Process, log: Option<&PathBuf>) -> Running {
    Running {
        launch,
        pid: process.pid(),
        start_ticks: process.start_ticks(),
        log: log.cloned(),
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

impl Engine {
    fn new(
        launch: u32,
        process: Process,
        log: Option<PathBuf>,
        started_at: Duration,
        now: Duration,
        plan: &RestartPlan,
    ) -> Self {
        Self {
            launch,
            process,
            started_at,
            link: None,
            foreign: None,
            log,
            is_adopted: false,
            is_ring_lost: false,
            is_safe: false,
            cpu: CpuLooks::default(),
            memory: MemoryWatch::new(started_at, LOOK_FIRST),
            planned: Planned::new(plan, Zoned::now),
            hang: None,
            banner_at: None,
            look_at: now + LOOK_FIRST,
            look_pause: LOOK_FIRST,
            running_told: false,
            ready_told: false,
            ready_poll: READY_POLL_FIRST,
            ready_poll_at: now,
        }
    }
}
