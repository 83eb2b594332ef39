//! Carries out what [`super::machine`] decides, on a thread of its own.
//!
//! The thread sleeps in one poll on the engine's pidfd and a waker until the machine's next deadline. It shares no
//! lock with store or upload and touches no disk but the runtime directory's memory; see [`super::output`].

use std::collections::VecDeque;
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::mpsc::{Receiver, TryRecvError};
use std::time::Duration;

use tokio::sync::mpsc::Sender;
use tokio::sync::mpsc::error::TrySendError;

use super::death::Death;
use super::late::LateExits;
use super::launch::{LaunchLocks, Running, Survivor};
use super::machine::{self, Action, Beat, Event, Machine, Phase, Told};
use super::output::Output;
use super::spawn::{self, EngineCommand, LaunchError};
use super::{Command, Ended, EngineLink, LinkFinder};
use crate::event::{DeathCause, EngineEvent, Unfit, Versions};
use crate::platform::{
    Exit, Process, ProcessState, Waitable, Waker, kill_strays, monotonic_now, wait,
};

/// How long a relaunch waits for a launch that is not prepared yet (deaths in quick succession, a slow disk) before it
/// starts without an output file.
const PREPARED_WAIT: Duration = Duration::from_millis(50);
/// Pause between two looks whether the game is ready: growing, so that a game that never says so costs nothing.
const READY_POLL_FIRST: Duration = Duration::from_millis(20);
const READY_POLL_MAX: Duration = Duration::from_secs(5);
/// How often dead orphans are reaped, and what an engine left behind is looked for after its death.
const SWEEP_INTERVAL: Duration = Duration::from_secs(10);
const SWEEP_AFTER_DEATH: Duration = Duration::from_millis(200);
/// Events kept for a receiver that does not keep up; beyond it the oldest are dropped and counted.
const EVENTS_KEPT_MAX: usize = 256;
const EVENTS_RETRY: Duration = Duration::from_millis(100);
/// How long a restart that hangs on the exit code of somebody else's child waits for it.
const EXIT_NEEDED_MAX: Duration = Duration::from_secs(2);
const EXIT_NEEDED_POLL: Duration = Duration::from_millis(5);
/// How many numbers are tried when a launch lock is held by who knows whom.
const LOCKS_TRIED_MAX: u32 = 16;

/// What the thread needs from the configuration.
#[derive(Debug)]
pub(super) struct Settings {
    pub command: EngineCommand,
    pub success_exit_codes: Vec<i32>,
    pub heartbeat_required: bool,
    pub subreaper: bool,
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
    engine: Option<Engine>,
    last_launch: u32,
    /// The highest number that is durably reserved: launch files below it may go.
    reserved: u32,
    launches_over: Vec<u32>,
    is_relaunch: bool,
    died_at: Option<Duration>,
    late: LateExits<Death>,
    ever_started: bool,
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
}

impl Runtime {
    pub(super) fn new(parts: Parts) -> Self {
        let sweep_at = parts.settings.subreaper.then(monotonic_now);
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
            engine: None,
            last_launch: parts.last_launch,
            reserved: 0,
            launches_over: parts.launches_over,
            is_relaunch: parts.is_relaunch,
            died_at: None,
            late: LateExits::new(),
            ever_started: false,
            first_error: None,
            sweep_at,
            leaving: false,
            detached: false,
        }
    }

    /// Takes over the engine that runs, or starts the first one; with `hold` starts none and ends the one that runs.
    pub(super) fn begin(
        &mut self,
        survivor: Option<Survivor>,
        hold: Option<Duration>,
    ) -> Result<(), LaunchError> {
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
        let engine = Engine::new(launch, survivor.process, kept, since, now);
        self.engine = Some(engine);
        self.last_launch = self.last_launch.max(launch);
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
            if self.leaving && at_rest {
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
            match wait(&self.waker, engine, timeout) {
                Ok(ready) => {
                    if ready.readable {
                        self.on_death();
                    }
                    if ready.woken {
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
        [
            self.machine.deadline(),
            ready_poll,
            self.sweep_at,
            retry,
            late,
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
        engine.link = Some(link);
        engine.ready_poll_at = now;
        if is_first {
            self.emit(EngineEvent::Connected {
                incarnation: launch,
            });
            self.feed(Event::Connected);
        }
    }

    fn on_time(&mut self) {
        let now = monotonic_now();
        self.flush_events();
        self.tell_late(now, false);
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
        if due(self.sweep_at) {
            self.sweep_at = self.settings.subreaper.then(|| now + SWEEP_INTERVAL);
            // May ask for another sweep soon.
            self.remove_launch_files();
            self.sweep();
        }
    }

    fn read_heartbeat(&mut self, now: Duration) {
        let Some(engine) = self.engine.as_mut() else {
            return;
        };
        let Some(link) = &engine.link else {
            return;
        };
        let heartbeat = link.heartbeat();
        let beat = Beat {
            frames: heartbeat.frames,
            stamp: Duration::from_nanos(heartbeat.monotonic_ns),
            allowed_silence: heartbeat.allowed_silence,
            paused: heartbeat.paused || engine.process.state() == ProcessState::Traced,
            goodbye: heartbeat.clean_exit.is_some(),
            ready: heartbeat.ready,
            crashed: heartbeat.crashed,
        };
        let mut became_ready = None;
        if !engine.ready_told {
            // A game may call mark_ready() before its first frame. It is looked at until there is one: the machine must
            // hear of it, or a hang would go unnoticed for as long as a start may take.
            engine.ready_told = heartbeat.ready && heartbeat.frames > 0;
            if engine.ready_told {
                became_ready = Some((engine.launch, now.saturating_sub(engine.started_at)));
            }
            engine.ready_poll_at = now + engine.ready_poll;
            engine.ready_poll = (engine.ready_poll * 3 / 2).min(READY_POLL_MAX);
        }
        if let Some((incarnation, after)) = became_ready {
            self.emit(EngineEvent::Ready { incarnation, after });
        }
        self.feed_at(Event::Beat(beat), now);
    }

    /// The engine's death is proven: end its group, start the next one, and only then clean up.
    fn on_death(&mut self) {
        let now = monotonic_now();
        let Some(engine) = self.engine.take() else {
            return;
        };
        engine.process.kill_group();
        let link = engine
            .link
            .or_else(|| self.find_link.as_ref().and_then(|find| find(engine.launch)));
        let heartbeat = link.as_ref().map(|link| link.heartbeat());
        let said_goodbye = heartbeat.is_some_and(|heartbeat| heartbeat.clean_exit.is_some());
        let mut exit = engine.process.reap();
        if exit == Exit::Unknown && !self.settings.heartbeat_required && link.is_none() {
            exit = wait_for_exit(&engine.process);
        }
        let is_asked = self.machine.is_end_asked();
        let mut death = Death {
            launch: engine.launch,
            pid: engine.process.pid(),
            ended_by: self.machine.ended_by(),
            uptime: now.saturating_sub(engine.started_at),
            heartbeat,
            is_ring_missing: link.is_none() && self.settings.heartbeat_required,
            foreign: engine.foreign,
            log: engine.log,
            is_asked,
            is_success: false,
        };
        let success = self.is_success(&death.cause(exit), link.is_some());
        death.is_success = success;
        self.died_at = Some(now);
        self.is_relaunch = true;
        self.launches_over.push(engine.launch);
        if exit == Exit::Unknown && !said_goodbye {
            // Told when it is known how; the next start does not wait for that.
            self.late.push(engine.process, death, now);
        } else {
            self.tell_death(&death, exit);
        }
        self.feed_at(Event::Died { success }, now);
        if self.engine.is_none() && (success || is_asked) {
            self.is_relaunch = false;
            self.output.ended_cleanly(engine.launch);
        }
        self.sweep_soon(now);
    }

    fn tell_death(&mut self, death: &Death, exit: Exit) {
        self.output.ended(death.facts(exit));
        self.emit(EngineEvent::Died {
            incarnation: death.launch,
            pid: death.pid,
            cause: death.cause(exit),
            log: death.log.clone(),
            uptime: Some(death.uptime),
            frame: death.heartbeat.map(|heartbeat| heartbeat.frames),
        });
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
        while let Some(action) = actions.pop_front() {
            match action {
                Action::Prepare => {
                    let prepared = Event::Prepared { success: true };
                    actions.extend(self.machine.on_event(prepared, monotonic_now()));
                }
                Action::EndPrepare => {}
                Action::Spawn { .. } => match self.start_engine() {
                    Ok(()) => {
                        actions.extend(self.machine.on_event(Event::Spawned, monotonic_now()));
                    }
                    Err(error) if !self.ever_started => {
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
                Action::Backtrace { .. } => {
                    if let Some(engine) = &self.engine {
                        engine.process.backtrace();
                    }
                }
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

    fn start_engine(&mut self) -> Result<(), LaunchError> {
        let prepared = self.output.take(self.last_launch, PREPARED_WAIT);
        let mut launch = self.last_launch.saturating_add(1);
        if let Some(prepared) = &prepared {
            launch = prepared.launch;
            self.reserved = self.reserved.max(launch);
        }
        // The disk is too slow to reserve a number; the output's file is in memory.
        let prepared = prepared.or_else(|| self.output.unprepared(launch));
        let log = prepared.as_ref().map(|prepared| prepared.path.clone());
        let kept = prepared.as_ref().map(|prepared| prepared.kept.clone());
        let mut tries = 0;
        let lock = loop {
            self.last_launch = launch;
            match self.locks.lock(launch, log.as_deref()) {
                Ok(Some(lock)) => break lock,
                Ok(None) if tries < LOCKS_TRIED_MAX => {
                    // A number that is in use though nobody told us: not ours to disturb, take another.
                    tries += 1;
                    launch = launch.saturating_add(1);
                }
                Ok(None) => {
                    return Err(self.lock_error(launch, std::io::ErrorKind::WouldBlock.into()));
                }
                Err(source) => return Err(self.lock_error(launch, source)),
            }
        };
        let command = &self.settings.command;
        let started = spawn::start(command, launch, self.is_relaunch, &lock, prepared.as_ref());
        let process = match started {
            Ok(process) => process,
            Err(error) => {
                drop(lock);
                // No engine ever had this number.
                self.locks.remove_if_free(launch);
                return Err(error);
            }
        };
        let now = monotonic_now();
        let pid = process.pid();
        let handed_over = lock.hand_over(&process);
        self.output.runs(running(launch, &process, log.as_ref()));
        self.ever_started = true;
        self.engine = Some(Engine::new(launch, process, kept.clone(), now, now));
        let gap = self.died_at.take().map(|died| now.saturating_sub(died));
        self.emit(EngineEvent::Started {
            incarnation: launch,
            pid,
            gap,
            log: kept.unwrap_or_else(|| PathBuf::from("/dev/null")),
        });
        self.output.started(launch, pid, log, false);
        if let Err(error) = handed_over {
            tracing::warn!(launch, %error, "launch lock has no pid; a successor has to search for its holder");
        }
        Ok(())
    }

    fn lock_error(&self, launch: u32, source: std::io::Error) -> LaunchError {
        LaunchError::Lock {
            path: self.locks.path(launch),
            source,
        }
    }

    /// Removes the locks of launches that are over and ends what still holds them.
    fn remove_launch_files(&mut self) {
        let (locks, reserved) = (&self.locks, self.reserved);
        let mut is_held = false;
        self.launches_over.retain(|&launch| {
            if !locks.is_free(launch) {
                let killed = locks.kill_leftovers(launch);
                tracing::warn!(launch, killed, "descendants of a dead engine were killed");
                is_held = true;
                return true;
            }
            // The file shows that its number was used, as long as no higher one is durable.
            let is_needed = launch >= reserved;
            if !is_needed {
                locks.remove_if_free(launch);
            }
            is_needed
        });
        if is_held {
            self.sweep_soon(monotonic_now());
        }
    }

    /// Never later than planned already: deaths in quick succession must not put it off for ever.
    fn sweep_soon(&mut self, now: Duration) {
        let soon = now + SWEEP_AFTER_DEATH;
        self.sweep_at = Some(self.sweep_at.map_or(soon, |planned| planned.min(soon)));
    }

    fn sweep(&self) {
        if self.settings.subreaper {
            let killed = kill_strays(self.engine.as_ref().map(|engine| &engine.process));
            if killed > 0 {
                tracing::warn!(killed, "orphans of a dead engine were killed");
            }
        }
    }

    fn tell(&mut self, told: Told) {
        let incarnation = self
            .engine
            .as_ref()
            .map_or(self.last_launch, |engine| engine.launch);
        let event = match told {
            Told::Unfit(unfit) => {
                // The application is about to end us; until it does, nothing is started any more.
                self.leaving = true;
                let engine = self.engine.as_ref();
                let versions = engine.and_then(|engine| engine.foreign.clone());
                let left_running = unfit == machine::Unfit::ForeignAdopted;
                EngineEvent::Unfit {
                    incarnation,
                    unfit: match unfit {
                        machine::Unfit::NoRing { after } => Unfit::NoExtension { after },
                        machine::Unfit::Foreign | machine::Unfit::ForeignAdopted => {
                            Unfit::Version(versions.unwrap_or_default())
                        }
                    },
                    log: engine.and_then(|engine| engine.log.clone()),
                    left_running,
                }
            }
            Told::Unconnected { after } => EngineEvent::Unconnected { incarnation, after },
            Told::Hung { silent } => EngineEvent::Hung {
                incarnation,
                silent,
            },
            Told::Ending(_) | Told::SafeStart { .. } => return,
            Told::Backoff { delay } => EngineEvent::Backoff { delay },
            Told::CrashLoop { deaths, every } => EngineEvent::CrashLoop { deaths, every },
            Told::GaveUp { deaths } => EngineEvent::GaveUp { deaths },
            Told::Stopped { asked } => EngineEvent::Stopped { asked },
        };
        self.emit(event);
    }

    /// Never blocks: what the receiver does not take is kept, up to a bound.
    fn emit(&mut self, event: EngineEvent) {
        self.events_kept.push_back(event);
        self.flush_events();
        while self.events_kept.len() > EVENTS_KEPT_MAX {
            self.events_kept.pop_front();
            self.events_dropped += 1;
        }
    }

    fn flush_events(&mut self) {
        while let Some(event) = self.events_kept.pop_front() {
            match self.events.try_send(event) {
                Ok(()) => {}
                Err(TrySendError::Full(event)) => {
                    self.events_kept.push_front(event);
                    return;
                }
                // Nobody listens any more.
                Err(TrySendError::Closed(_)) => {}
            }
        }
        if self.events_dropped > 0 {
            tracing::warn!(dropped = self.events_dropped, "engine events were dropped");
            self.events_dropped = 0;
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

/// Waits until the system tells how somebody else's dead child ended: only where the exit code alone decides whether
/// another engine is started.
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

impl Engine {
    fn new(
        launch: u32,
        process: Process,
        log: Option<PathBuf>,
        started_at: Duration,
        now: Duration,
    ) -> Self {
        Self {
            launch,
            process,
            started_at,
            link: None,
            foreign: None,
            log,
            ready_told: false,
            ready_poll: READY_POLL_FIRST,
            ready_poll_at: now,
        }
    }
}
