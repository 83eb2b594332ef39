//! Launches, watches, relaunches and adopts the engine.
//!
//! - [`machine`]: every decision, as a pure function.
//! - `runtime`: carries them out; one thread, asleep until something happens.
//! - [`launch`]: launch locks, adoption; [`fence`]: stale engines are ended.
//! - [`spawn`](mod@spawn): the engine's command line and environment.
//! - [`output`], [`tail`]: the engine's output and launch numbers; threads of their own, since disks can stand still.
//!
//! It knows neither rings nor store: the application hands in an [`EngineLink`] once it has attached a ring.

mod death;
mod evidence;
pub mod fence;
mod late;
pub mod launch;
pub mod machine;
pub mod memory;
pub mod output;
pub mod planned;
pub mod pre_start;
mod runtime;
pub mod spawn;
pub mod tail;
mod unwatched;

use std::fmt;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc::{SyncSender, sync_channel};
use std::thread::JoinHandle;
use std::time::Duration;

use tokio::sync::mpsc::Sender;

use self::launch::{
    ActiveFile, AdoptError, LaunchLocks, RunningFile, Sorted, Survey, Survivor, sort_out,
};
use self::machine::standby::StandbyMachine;
use self::machine::{Machine, Policy};
use self::memory::MemoryLimits;
use self::output::{EngineLog, Output, OutputConfig, OutputError, OutputSettings};
use self::planned::RestartPlan;
use self::pre_start::PreStart;
use self::runtime::{Parts, Runtime, Settings};
use self::spawn::{EngineCommand, LaunchError};
use self::tail::LogLine;
use crate::crash::reporter::ReportConfig;
use crate::crash::{OnReport, environment};
use crate::event::{EngineEvent, Versions};
use crate::exit::ExitCode;
use crate::platform::{Waker, become_subreaper};

/// Commands that wait for the supervisor's thread; it takes them at once unless the system starves it.
const COMMANDS_MAX: usize = 64;
/// How long a surplus engine has to die of SIGKILL before we go on without its proof of death.
const SURPLUS_DEATH_MAX: Duration = Duration::from_secs(10);

/// What the ring tells of the engine.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Heartbeat {
    /// Frames since the ring was opened.
    pub frames: u64,
    /// CLOCK_MONOTONIC at the last frame.
    pub monotonic_ns: u64,
    /// Whether the game called `Sidekick.mark_ready()`.
    pub ready: bool,
    /// Whether the game stands still on purpose (a debugger).
    pub paused: bool,
    /// It is a standby that waits to be activated; its frames are beats of its waiting.
    pub parked: bool,
    /// The silence that the game announced, counted from its last frame; zero if none.
    pub allowed_silence: Duration,
    /// Time between the last two frames, µs; 0 before the second.
    pub last_tick_us: u32,
    /// The game says that nobody would miss it (`Sidekick.set_idle`).
    pub idle: bool,
    /// The game asks to be started anew once it is idle (`Sidekick.restart_when_idle`).
    pub restart_wanted: bool,
    /// The engine's crash handler has begun (NOTIFICATION_CRASH).
    pub crashed: bool,
    /// What it is doing, in one word for people.
    pub phase: &'static str,
    /// The exit code with which the engine said goodbye, if it did.
    pub clean_exit: Option<i32>,
}

/// The supervisor's side of an attached ring. Called on the supervisor's thread: it must never block.
pub trait EngineLink: Send + Sync + fmt::Debug {
    /// The heartbeat as it stands; also after the engine's death.
    fn heartbeat(&self) -> Heartbeat;
    /// The game's version, where it tells one.
    fn game_version(&self) -> Option<String> {
        None
    }
    /// Asks the game to quit within `grace`.
    fn ask_quit(&self, grace: Duration);
    /// Tells the engine that it is the active one. Good to be told again.
    fn activate(&self, launch: u32) {
        let _ = launch;
    }
    /// Tells an engine that nobody else beats for, a standby, that the watchdog lives.
    fn beat(&self) {}
    /// Tells the game that its process uses more memory than it should.
    fn memory_high(&self, rss_bytes: u64) {
        let _ = rss_bytes;
    }
}

/// Finds the ring of a launch that ended before the application had attached it, so that a clean exit is known for
/// one. Called on the supervisor's thread after a death and before the next start: it must be quick.
pub type LinkFinder = Box<dyn Fn(u32) -> Option<Arc<dyn EngineLink>> + Send>;

/// Says at once, and ahead of any command, that nothing is to be started any more. Cheap to clone; for all threads.
///
/// A command would come too late for an engine that dies, or is about to be started first, at that moment.
#[derive(Clone, Debug, Default)]
pub struct NoMoreStarts(Arc<AtomicBool>);

impl NoMoreStarts {
    /// From now on no engine is started. [`Command::Shutdown`] or the like is to follow.
    pub fn set(&self) {
        self.0.store(true, Ordering::Release);
    }

    /// Whether it was said.
    pub fn is_set(&self) -> bool {
        self.0.load(Ordering::Acquire)
    }
}

/// Everything the supervisor is told at its start.
#[derive(Debug)]
pub struct SupervisorConfig {
    /// What to start.
    pub engine: EngineCommand,
    /// The data directory, locked by the caller ([`crate::platform::data_dir::DataDirLock`]).
    pub data_dir: PathBuf,
    /// When to start, wait and kill.
    pub policy: Policy,
    /// Exit codes of a clean end that count as success.
    pub success_exit_codes: Vec<i32>,
    /// How much memory it may use.
    pub memory: MemoryLimits,
    /// When it is restarted by plan.
    pub plan: RestartPlan,
    /// What runs before each start.
    pub pre_start: Option<PreStart>,
    /// How much of its output is kept.
    pub output: OutputSettings,
    /// The highest launch number that is known of besides; the next is higher. Zero if there is none: the data directory
    /// keeps its own count, which does not wait for the store.
    pub launch_last: u32,
    /// Find, end and reap what engines leave behind outside their process group. Only for a process that has no
    /// children but its engine: every other child of it counts as left behind.
    pub subreaper: bool,
    /// Start no engine until told, and end one that runs with this grace: an operator's `stop` outlives a watchdog.
    pub hold: Option<Duration>,
    /// The watchdog was asked to end.
    pub no_more_starts: NoMoreStarts,
    /// Keep a second engine, booted and parked, to take the place of one that dies.
    pub standby: bool,
}

/// What to do; see [`Handle`].
#[derive(Debug)]
pub enum Command {
    /// The application attached the ring of this launch.
    Connected {
        /// The launch number in the ring's name.
        launch: u32,
        /// How to read and steer it.
        link: Arc<dyn EngineLink>,
    },
    /// The ring of this launch is of another version of the protocol.
    Foreign {
        /// The launch number in the ring's name.
        launch: u32,
        /// What the two sides are.
        versions: Versions,
    },
    /// Say that the supervisor goes on.
    Ping(tokio::sync::oneshot::Sender<()>),
    /// Start an engine if none runs; earlier deaths are forgotten.
    Start,
    /// End the engine and start no other until told.
    Stop {
        /// How long it has before it is killed.
        grace: Duration,
    },
    /// End the engine and start another.
    Restart {
        /// How long it has before it is killed.
        grace: Duration,
    },
    /// End the engine, then the supervisor.
    Shutdown {
        /// How long it has before it is killed.
        grace: Duration,
    },
    /// Kill the engine now, then end the supervisor.
    Kill,
    /// End the supervisor and leave the engine running, for the next watchdog to adopt.
    Detach,
}

/// How the supervisor ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Ended {
    /// No engine is left.
    Stopped,
    /// The engine (if any) was left running.
    Detached,
    /// The thread panicked; the engine was left running. A bug.
    Panicked,
}

/// Why there is no supervisor.
#[derive(Debug, thiserror::Error)]
pub enum SupervisorError {
    /// The first engine cannot be started.
    #[error(transparent)]
    Launch(#[from] LaunchError),
    /// Engines of an earlier watchdog cannot be accounted for.
    #[error(transparent)]
    Adopt(#[from] AdoptError),
    /// The output has no place.
    #[error(transparent)]
    Output(#[from] OutputError),
    /// A thread or descriptor is missing.
    #[error(
        "supervisor cannot be started: {0}; raise the system's limits on threads and open files"
    )]
    System(#[from] std::io::Error),
}

impl SupervisorError {
    /// The watchdog's exit code for it.
    pub fn exit_code(&self) -> ExitCode {
        match self {
            Self::Launch(LaunchError::Lock { .. }) => ExitCode::RuntimeDir,
            Self::Launch(_) => ExitCode::CannotSpawn,
            Self::Adopt(AdoptError::Unreadable { .. }) => ExitCode::RuntimeDir,
            Self::Adopt(AdoptError::Invisible { .. }) => ExitCode::Locked,
            Self::Output(_) => ExitCode::StoreUnusable,
            Self::System(_) => ExitCode::Internal,
        }
    }
}

/// The application's hold of the supervisor. Dropping it without [`Command::Shutdown`] leaves the engine running.
#[derive(Debug)]
pub struct Handle {
    remote: Remote,
    log: EngineLog,
    thread: JoinHandle<Ended>,
}

/// Sends commands from any thread; cheap to clone.
#[derive(Clone, Debug)]
pub struct Remote {
    commands: SyncSender<Command>,
    waker: WakeOnDrop,
}

/// Wakes the thread when the last sender is gone, so that it notices.
#[derive(Clone, Debug)]
struct WakeOnDrop(Waker);

impl Drop for WakeOnDrop {
    fn drop(&mut self) {
        self.0.wake();
    }
}

impl Remote {
    /// Sends a command. Returns `false` if the supervisor has ended, or 64 commands wait already.
    pub fn send(&self, command: Command) -> bool {
        let is_sent = self.commands.try_send(command).is_ok();
        self.waker.0.wake();
        is_sent
    }
}

impl Handle {
    /// Sends a command; see [`Remote::send`].
    pub fn send(&self, command: Command) -> bool {
        self.remote.send(command)
    }

    /// A sender for other threads.
    pub fn remote(&self) -> Remote {
        self.remote.clone()
    }

    /// The engines' last lines of output.
    pub fn log(&self) -> EngineLog {
        self.log.clone()
    }

    /// Whether the thread has ended.
    pub fn is_finished(&self) -> bool {
        self.thread.is_finished()
    }

    /// Waits for the end that [`Command::Shutdown`], [`Command::Kill`] or [`Command::Detach`] asked for. Blocks: on an
    /// async runtime call it where blocking is allowed. Every [`Remote`] may go on existing.
    pub fn join(self) -> Ended {
        self.thread.join().unwrap_or(Ended::Panicked)
    }
}

/// Whether an engine of an earlier watchdog runs, which [`spawn()`] would adopt. Only the holder of the data directory's lock
/// may ask. Blocks for some milliseconds, up to 5 s if the holder of a launch lock cannot be made out.
///
/// # Errors
/// As [`spawn()`].
pub fn is_engine_running(runtime_dir: &Path, data_dir: &Path) -> Result<bool, SupervisorError> {
    let locks = LaunchLocks::new(runtime_dir);
    let mut survey = locks.survey()?;
    RunningFile::new(data_dir).complete(&mut survey, &locks);
    Ok(!survey.running.is_empty())
}

/// Accounts for engines of an earlier watchdog, adopts the newest that runs or starts the first one, and goes on
/// supervising on a thread of its own.
///
/// `events` gets what happens; the supervisor never waits for its receiver (up to 256 events are kept for it). It is
/// closed when the supervisor ends. `on_line` gets each line of output on the output thread, `on_report` each crash
/// report on a thread of the reports' own.
///
/// Blocks for the first start: some milliseconds, up to some seconds if surplus engines have to be ended.
///
/// # Errors
/// See [`SupervisorError`].
pub fn spawn(
    config: SupervisorConfig,
    events: Sender<EngineEvent>,
    find_link: Option<LinkFinder>,
    on_line: impl FnMut(LogLine) + Send + 'static,
    on_report: OnReport,
) -> Result<Handle, SupervisorError> {
    if config.subreaper {
        become_subreaper()?;
    }
    let locks = LaunchLocks::new(&config.engine.runtime_dir);
    let mut survey = locks.survey()?;
    RunningFile::new(&config.data_dir).complete(&mut survey, &locks);
    let Survey {
        running,
        over,
        mut untold,
    } = survey;
    let active_file = ActiveFile::new(&config.engine.runtime_dir);
    let active = active_file.read().map(|active| active.launch);
    let Sorted {
        engine: survivor,
        mut standby,
        mut surplus,
    } = sort_out(running, |survivor| survivor.launch, active);
    if !config.standby {
        surplus.extend(standby.take());
    }
    // Standbys that died while no watchdog was there: they served nobody.
    untold.retain(|untold| {
        let was_standby = active.is_some_and(|active| untold.launch > active);
        if was_standby {
            let launch = untold.launch;
            tracing::warn!(launch, "a standby died while no watchdog ran");
            let _ = locks.tell(launch);
        }
        !was_standby
    });
    let codes = &config.success_exit_codes;
    let mut unwatched = unwatched::find(untold, &locks, find_link.as_ref(), codes);
    end_surplus(surplus, &locks);
    if !config.standby {
        // Only now that there is no second engine any more.
        active_file.remove();
    }

    let used = over
        .iter()
        .copied()
        .chain(survivor.as_ref().map(|survivor| survivor.launch))
        .chain(standby.as_ref().map(|standby| standby.launch))
        .max()
        .unwrap_or(0)
        .max(config.launch_last);
    let waker = Waker::new()?;
    let told = locks.clone();
    let output_config = OutputConfig {
        on_told: Arc::new(move |launch| {
            if let Err(error) = told.tell(launch) {
                tracing::warn!(launch, %error, "a later watchdog may report an end that is told");
            }
        }),
        report: report_config(&config),
        settings: config.output,
        used,
        running: survivor.as_ref().map(|survivor| survivor.launch),
        standby: standby.as_ref().map(|standby| standby.launch),
        supervisor: waker.clone(),
    };
    let launch_last = config.launch_last;
    let was_used = |launch| locks.path(launch).exists();
    let (output, past) = Output::start(
        output_config,
        |launch| !was_used(launch),
        on_line,
        on_report,
    )?;
    // Its end was noted as clean before launch files told anything.
    unwatched.retain(|death| !(past.clean && death.facts.incarnation == past.last));
    let log = output.log();
    let (commands, receiver) = sync_channel(COMMANDS_MAX);
    let heartbeat_required = config.policy.heartbeat_required;
    let drain_grace = config.policy.drain_grace;
    let mut policy = config.policy;
    policy.pre_start_timeout = config.pre_start.as_ref().map(|hook| hook.timeout);
    let hold = config.hold;
    let ready_required = policy.ready_timeout.is_some();
    let startup_timeout = policy.startup_timeout;
    let standby_machine = StandbyMachine::new(policy.clone());
    let mut runtime = Runtime::new(Parts {
        settings: Settings {
            command: config.engine,
            success_exit_codes: config.success_exit_codes,
            heartbeat_required,
            subreaper: config.subreaper,
            memory: config.memory,
            plan: config.plan,
            pre_start: config.pre_start,
            drain_grace,
            no_more_starts: config.no_more_starts,
            standby: config.standby,
            ready_required,
            startup_timeout,
        },
        machine: Machine::new(policy, fastrand::u64(..)),
        locks,
        output,
        find_link,
        commands: receiver,
        waker: waker.clone(),
        events,
        last_launch: past.last,
        launches_over: over,
        // What only the runtime directory knows of is another data directory's past (this one was wiped).
        is_relaunch: (past.is_ours || launch_last > 0) && !past.clean,
        standby_machine,
        active_file,
        active,
    });
    runtime.begin(unwatched, survivor, standby, hold)?;
    let thread = std::thread::Builder::new()
        .name("supervisor".to_owned())
        .spawn(move || runtime.run())?;
    Ok(Handle {
        remote: Remote {
            commands,
            waker: WakeOnDrop(waker),
        },
        log,
        thread,
    })
}

/// What crash reports are made with.
fn report_config(config: &SupervisorConfig) -> ReportConfig {
    let engine = &config.engine;
    let ours: Vec<(String, String)> = std::env::vars_os()
        .filter_map(|(name, value)| Some((name.into_string().ok()?, value.into_string().ok()?)))
        // Ours, not the engine's.
        .filter(|(name, _)| !name.starts_with("SIDEKICK_"))
        .collect();
    fn by_ref(pairs: &[(String, String)]) -> impl Iterator<Item = (&str, &str)> {
        pairs.iter().map(|(name, value)| (&**name, &**value))
    }
    ReportConfig {
        source: engine.source.clone(),
        data_dir: config.data_dir.clone(),
        runtime_dir: engine.runtime_dir.clone(),
        working_dir: engine
            .working_dir
            .clone()
            .or_else(|| std::env::current_dir().ok())
            .unwrap_or_default(),
        environment: environment::shown(by_ref(&ours), by_ref(&engine.env)),
        post_mortem: config.output.post_mortem.clone(),
    }
}

/// Ends all engines but the newest. Two at once should never be; a launch number tells which one is to stay.
fn end_surplus(surplus: Vec<Survivor>, locks: &LaunchLocks) {
    for survivor in &surplus {
        let pid = survivor.process.pid();
        tracing::warn!(
            pid,
            launch = survivor.launch,
            "a second engine was running; killed"
        );
        survivor.process.kill_group();
    }
    for survivor in surplus {
        // It is no crash. What cannot be noted is reported by the next watchdog.
        let _ = locks.tell(survivor.launch);
        if !matches!(survivor.process.wait_dead(SURPLUS_DEATH_MAX), Ok(true)) {
            let pid = survivor.process.pid();
            tracing::warn!(pid, "a second engine does not die of SIGKILL");
        }
    }
}
