//! What the tests share: a folder with everything of one watchdog in it, and a count of its engines from outside.
//!
//! Everything that a test starts in a [`Site`] carries its folder in the environment, and ends with it, also when the
//! test panics; [`leftovers`] holds it to that.

use std::fmt;
use std::fs;
use std::os::unix::process::ExitStatusExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command as Program, Stdio};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicI64, AtomicU64, Ordering};
use std::time::{Duration, Instant};

use sidekick_watchdog::event::EngineEvent;
use sidekick_watchdog::platform::data_dir::DataDirLock;
use sidekick_watchdog::platform::runtime_dir::{self, RuntimeDirHints};
use sidekick_watchdog::platform::{ShutdownSignals, monotonic_now, spawn_other};
use sidekick_watchdog::supervisor::machine::{Policy, RestartPolicy};
use sidekick_watchdog::supervisor::memory::MemoryLimits;
use sidekick_watchdog::supervisor::output::OutputSettings;
use sidekick_watchdog::supervisor::planned::RestartPlan;
use sidekick_watchdog::supervisor::spawn::{EngineCommand, RingEnvironment};
use sidekick_watchdog::supervisor::{
    Command, Ended, EngineLink, Handle, Heartbeat, LinkFinder, NoMoreStarts, SupervisorConfig,
    SupervisorError, spawn,
};
use tempfile::TempDir;
use tokio::sync::mpsc::{Receiver, channel};

/// Nothing here takes longer on a healthy machine, however busy.
pub const DEADLINE: Duration = Duration::from_secs(120);

/// The environment variable by which the test binary becomes a watchdog; its value is the folder.
const AS_WATCHDOG: &str = "TEST_AS_WATCHDOG";

/// The environment variable by which everything that belongs to a folder is found; its value is the folder.
const SITE: &str = "TEST_SITE";

/// A watchdog's folder; everything that still runs from it is killed at the end.
pub struct Site {
    pub dir: TempDir,
}

impl Site {
    /// A new folder whose engine is the shell script `engine`; the folder is `$0` in it.
    pub fn new(engine: &str) -> Self {
        let dir = tempfile::tempdir().expect("temporary folder");
        fs::write(dir.path().join("engine.sh"), engine).expect("written");
        Self { dir }
    }

    pub fn path(&self) -> &Path {
        self.dir.path()
    }

    pub fn config(&self) -> SupervisorConfig {
        config(self.path())
    }

    pub fn launch_file(&self, launch: u32) -> PathBuf {
        self.path().join(format!("run/launch/{launch:010}"))
    }

    /// The record of the engine's process in the data directory.
    pub fn running_file(&self) -> PathBuf {
        self.path().join("data/engine_process")
    }

    /// Process ids of the engines of this folder that are alive, counted by looking at all processes.
    pub fn engines(&self) -> Vec<u32> {
        let marker = self.path().join("engine.sh");
        processes()
            .filter(|&pid| {
                fs::read(format!("/proc/{pid}/cmdline")).is_ok_and(|line| {
                    let mut words = line.split(|&byte| byte == 0);
                    words.next() == Some(b"/bin/sh")
                        && words.next() == Some(marker.as_os_str().as_encoded_bytes())
                })
            })
            .filter(|&pid| is_alive(pid) && leads_group(pid))
            .collect()
    }

    /// Numbers that the engine's script wrote into a file, line by line.
    pub fn numbers(&self, file: &str) -> Vec<u32> {
        fs::read_to_string(self.path().join(file))
            .unwrap_or_default()
            .lines()
            .filter_map(|line| line.parse().ok())
            .collect()
    }

    /// Starts the test binary as a watchdog of this folder.
    pub fn watchdog_process(&self) -> WatchdogProcess {
        self.watchdog_process_after("")
    }

    /// The same, with a shell command carried out before in the same process.
    pub fn watchdog_process_after(&self, before: &str) -> WatchdogProcess {
        let binary = std::env::current_exe().expect("known");
        // Whoever runs the tests may ignore signals (`nohup`, a job in the background of a script); this one must not.
        let mut command = Program::new("env");
        command
            .args(["--default-signal=HUP,INT,QUIT,TERM", "/bin/sh"])
            .args(["-c", &format!("{before}\nexec \"$0\" \"$@\"")])
            .arg(binary)
            .args([
                "--exact",
                "harness::as_watchdog",
                "--nocapture",
                "--test-threads=1",
            ])
            .env(AS_WATCHDOG, self.path())
            .env(SITE, self.path())
            .stdout(Stdio::null())
            .stderr(Stdio::null());
        let child = spawn_other(&mut command).expect("started");
        WatchdogProcess(child)
    }
}

/// A watchdog in a process of its own, killed with SIGKILL at the latest when the test ends.
pub struct WatchdogProcess(Child);

impl WatchdogProcess {
    pub fn kill(&mut self) {
        let _ = self.0.kill();
        self.0.wait().expect("reaped");
    }

    pub fn pid(&self) -> u32 {
        self.0.id()
    }

    /// Its exit code, if it has ended.
    pub fn ended(&mut self) -> Option<Option<i32>> {
        self.0.try_wait().expect("our child").map(|status| {
            assert_eq!(status.signal(), None, "the watchdog was killed");
            status.code()
        })
    }
}

impl Drop for WatchdogProcess {
    fn drop(&mut self) {
        self.kill();
    }
}

impl Drop for Site {
    fn drop(&mut self) {
        let asked_at = Instant::now();
        // One that has just called `exec` has no environment for a moment.
        let mut clear_looks = 0;
        while clear_looks < 3 && asked_at.elapsed() < DEADLINE {
            let living = carriers(SITE, self.path());
            clear_looks = if living.is_empty() {
                clear_looks + 1
            } else {
                0
            };
            living.into_iter().for_each(kill);
            std::thread::sleep(Duration::from_millis(2));
        }
    }
}

/// The living processes whose environment has this variable with this value.
pub fn carriers(variable: &str, value: &Path) -> Vec<u32> {
    let wanted = format!("{variable}={}", value.display());
    processes()
        .filter(|pid| {
            fs::read(format!("/proc/{pid}/environ")).is_ok_and(|environment| {
                environment
                    .split(|&byte| byte == 0)
                    .any(|entry| entry == wanted.as_bytes())
            })
        })
        .collect()
}

/// A configuration with everything in one folder and short times.
pub fn config(dir: &Path) -> SupervisorConfig {
    let runtime_dir = dir.join("run");
    fs::create_dir_all(runtime_dir.join("launch")).expect("made");
    SupervisorConfig {
        engine: EngineCommand {
            command: vec![
                "/bin/sh".to_owned(),
                dir.join("engine.sh").to_str().expect("UTF-8").to_owned(),
            ],
            working_dir: Some(dir.to_owned()),
            env: vec![(SITE.to_owned(), dir.display().to_string())],
            source: "test".to_owned(),
            runtime_dir,
            ring: RingEnvironment {
                ring_bytes: 1 << 20,
                when_full: "spill".to_owned(),
                block_max: Duration::from_micros(100),
                spill_bytes_max: 1 << 20,
                keep: Vec::new(),
            },
            quit_without_watchdog: None,
        },
        memory: MemoryLimits::default(),
        plan: RestartPlan::default(),
        pre_start: None,
        data_dir: dir.join("data"),
        policy: Policy {
            restart: RestartPolicy::OnFailure,
            backoff_first: Duration::from_millis(1),
            backoff_max: Duration::from_millis(2),
            breaker_deaths: 1_000_000,
            heartbeat_required: false,
            hang_timeout: Duration::from_millis(300),
            hang_grace: Duration::from_millis(300),
            ..Policy::default()
        },
        success_exit_codes: vec![0],
        output: OutputSettings {
            // Small, so that output of tests comes to be in several files.
            rotate_bytes: 20_000,
            ..OutputSettings::default()
        },
        launch_last: 0,
        subreaper: false,
        hold: None,
        no_more_starts: NoMoreStarts::default(),
        standby: false,
    }
}

/// A supervisor in this process and what it tells.
pub struct Watched {
    pub handle: Ending,
    events: Receiver<EngineEvent>,
    runtime: tokio::runtime::Runtime,
}

/// A supervisor's handle. One whose test panics would go on and start engines, so it is shut down.
pub struct Ending(Option<Handle>);

impl Ending {
    pub fn join(mut self) -> Ended {
        self.0.take().expect("joined once").join()
    }
}

impl std::ops::Deref for Ending {
    type Target = Handle;

    fn deref(&self) -> &Handle {
        self.0.as_ref().expect("not joined yet")
    }
}

impl Drop for Ending {
    fn drop(&mut self) {
        let Some(handle) = self.0.take().filter(|_| std::thread::panicking()) else {
            return;
        };
        let grace = Duration::ZERO;
        handle.send(Command::Shutdown { grace });
        let asked_at = Instant::now();
        while !handle.is_finished() && asked_at.elapsed() < DEADLINE {
            std::thread::sleep(Duration::from_millis(2));
        }
    }
}

impl Watched {
    pub fn start(config: SupervisorConfig) -> Result<Self, SupervisorError> {
        Self::start_with(config, None)
    }

    /// The same with rings that `find_link` finds.
    pub fn start_with(
        config: SupervisorConfig,
        find_link: Option<LinkFinder>,
    ) -> Result<Self, SupervisorError> {
        let (sender, events) = channel(1024);
        let handle = spawn(config, sender, find_link, |_| {}, Box::new(|_, _| {}))?;
        let runtime = tokio::runtime::Builder::new_current_thread()
            .enable_time()
            .build()
            .expect("built");
        Ok(Self {
            handle: Ending(Some(handle)),
            events,
            runtime,
        })
    }

    /// The next event.
    pub fn event(&mut self) -> EngineEvent {
        let events = &mut self.events;
        self.runtime
            .block_on(async { tokio::time::timeout(DEADLINE, events.recv()).await })
            .expect("an event in time")
            .expect("the supervisor lives")
    }

    /// The next event for which `pick` finds something; those before it are passed over.
    pub fn until<T>(&mut self, mut pick: impl FnMut(&EngineEvent) -> Option<T>) -> T {
        let mut passed = Vec::new();
        let asked_at = Instant::now();
        while asked_at.elapsed() < DEADLINE {
            let event = self.event();
            if let Some(found) = pick(&event) {
                return found;
            }
            passed.push(event);
        }
        panic!("not among {passed:?}");
    }

    /// The next event, which must be an adoption: incarnation and pid.
    #[track_caller]
    pub fn adopted(&mut self) -> (u32, u32) {
        match self.event() {
            EngineEvent::Adopted {
                incarnation, pid, ..
            } => (incarnation, pid),
            event => panic!("an adoption, not {event:?}"),
        }
    }

    /// Waits for a start and returns incarnation and pid.
    pub fn started(&mut self) -> (u32, u32) {
        self.until(|event| match event {
            EngineEvent::Started {
                incarnation, pid, ..
            } => Some((*incarnation, *pid)),
            _ => None,
        })
    }

    pub fn shut_down(self, grace: Duration) -> Ended {
        assert!(self.handle.send(Command::Shutdown { grace }));
        self.handle.join()
    }
}

/// A link whose heartbeat the test sets.
#[derive(Default)]
pub struct FakeLink {
    pub frames: AtomicU64,
    pub ready: AtomicBool,
    pub asked_to_quit: AtomicBool,
    /// `set_idle(true)` and `restart_when_idle()`.
    pub idle: AtomicBool,
    pub restart_wanted: AtomicBool,
    /// What it was told by `memory_high`, last.
    pub memory_told: AtomicU64,
    /// How often the supervisor has looked.
    pub looks: AtomicU64,
    /// 0 = no goodbye, else the exit code plus one.
    pub goodbye: AtomicI64,
    /// A frame has passed at each look.
    pub beats: AtomicBool,
    /// It is a standby that waits.
    pub parked: AtomicBool,
    /// The launch that it was told to be active as.
    pub activated: AtomicU64,
}

impl fmt::Debug for FakeLink {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("FakeLink")
    }
}

impl EngineLink for FakeLink {
    fn heartbeat(&self) -> Heartbeat {
        let goodbye = self.goodbye.load(Ordering::Relaxed);
        self.looks.fetch_add(1, Ordering::Relaxed);
        let beats = self.beats.load(Ordering::Relaxed);
        self.frames.fetch_add(beats.into(), Ordering::Relaxed);
        Heartbeat {
            frames: self.frames.load(Ordering::Relaxed),
            monotonic_ns: u64::try_from(monotonic_now().as_nanos()).unwrap_or(u64::MAX),
            ready: self.ready.load(Ordering::Relaxed),
            idle: self.idle.load(Ordering::Relaxed),
            parked: self.parked.load(Ordering::Relaxed),
            restart_wanted: self.restart_wanted.load(Ordering::Relaxed),
            clean_exit: (goodbye > 0).then(|| i32::try_from(goodbye - 1).unwrap_or(0)),
            ..Heartbeat::default()
        }
    }

    fn ask_quit(&self, _grace: Duration) {
        self.asked_to_quit.store(true, Ordering::Relaxed);
    }

    fn activate(&self, launch: u32) {
        self.activated.store(launch.into(), Ordering::Relaxed);
    }

    fn memory_high(&self, rss_bytes: u64) {
        self.memory_told.store(rss_bytes, Ordering::Relaxed);
    }
}

pub fn link() -> Arc<FakeLink> {
    Arc::new(FakeLink::default())
}

/// Waits until `what` is there.
#[track_caller]
pub fn eventually<T>(claim: &str, mut what: impl FnMut() -> Option<T>) -> T {
    let asked_at = Instant::now();
    loop {
        if let Some(found) = what() {
            return found;
        }
        assert!(asked_at.elapsed() < DEADLINE, "never happened: {claim}");
        std::thread::sleep(Duration::from_millis(2));
    }
}

pub fn processes() -> impl Iterator<Item = u32> {
    fs::read_dir("/proc")
        .expect("readable")
        .filter_map(|entry| entry.ok()?.file_name().to_str()?.parse().ok())
}

/// Whether a process runs (a zombie does not).
pub fn is_alive(pid: u32) -> bool {
    fs::read_to_string(format!("/proc/{pid}/stat"))
        .ok()
        .and_then(|stat| stat.rsplit(')').next()?.trim_start().chars().next())
        .is_some_and(|state| state != 'Z' && state != 'X')
}

/// A shell's child is a copy of it until its exec; only the engine itself leads a group.
fn leads_group(pid: u32) -> bool {
    fs::read_to_string(format!("/proc/{pid}/stat"))
        .ok()
        .and_then(|stat| {
            stat.rsplit(')')
                .next()?
                .split_ascii_whitespace()
                .nth(2)?
                .parse()
                .ok()
        })
        .is_some_and(|group: u32| group == pid)
}

pub fn signal(pid: u32, signal: &str) {
    let mut command = Program::new("kill");
    command
        .args([format!("-{signal}"), pid.to_string()])
        .stderr(Stdio::null());
    let _ = spawn_other(&mut command).and_then(|mut child| child.wait());
}

pub fn kill(pid: u32) {
    signal(pid, "KILL");
}

/// Not a test: the body of [`Site::watchdog_process`]. Without its variable it does nothing.
#[test]
fn as_watchdog() {
    let Some(dir) = std::env::var_os(AS_WATCHDOG).map(PathBuf::from) else {
        return;
    };
    let exit_code = match run_as_watchdog(&dir) {
        Ok(()) => 0,
        Err(code) => code as i32,
    };
    // The harness would make 101 of any failure.
    #[expect(clippy::exit, reason = "this process is the watchdog, not the test")]
    std::process::exit(exit_code);
}

fn run_as_watchdog(dir: &Path) -> Result<(), sidekick_watchdog::exit::ExitCode> {
    use sidekick_watchdog::exit::ExitCode;
    let lock = DataDirLock::acquire(&dir.join("data")).map_err(|_| ExitCode::Locked)?;
    let hints = RuntimeDirHints {
        configured: Some(dir.join("run")),
        ..RuntimeDirHints::default()
    };
    let runtime_dir = runtime_dir::resolve(lock.dir(), &hints).map_err(|_| ExitCode::RuntimeDir)?;
    let mut config = config(dir);
    config.engine.runtime_dir = runtime_dir.path;
    config.subreaper = true;
    tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .map_err(|_| ExitCode::Internal)?
        .block_on(async {
            // Before the first engine, so that it does not inherit ignored signals.
            let mut signals = ShutdownSignals::install().map_err(|_| ExitCode::Internal)?;
            let (sender, mut events) = channel(1024);
            let handle = spawn(config, sender, None, |_| {}, Box::new(|_, _| {}))
                .map_err(|error| error.exit_code())?;
            let mut grace = Duration::from_secs(60);
            loop {
                tokio::select! {
                    event = events.recv() => {
                        if event.is_none() {
                            break;
                        }
                    }
                    _ = signals.recv() => {
                        handle.send(Command::Shutdown { grace });
                        grace = Duration::ZERO;
                    }
                }
            }
            assert_eq!(handle.join(), Ended::Stopped);
            Ok(())
        })
}
