//! Starting one engine: its command, its environment, its output.

use std::io;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::Duration;

use super::launch::LaunchLock;
use super::output::Prepared;
use crate::platform::{self, Process};

/// What the engine is told about its ring, by environment.
#[derive(Clone, Debug)]
pub struct RingEnvironment {
    /// `SIDEKICK_RING_SIZE`, bytes.
    pub ring_bytes: u64,
    /// `SIDEKICK_RING_WHEN_FULL`: `spill`, `block` or `refuse`.
    pub when_full: String,
    /// `SIDEKICK_RING_BLOCK_MAX_US`.
    pub block_max: Duration,
    /// `SIDEKICK_SPILL_MAX`, bytes.
    pub spill_bytes_max: u64,
    /// `SIDEKICK_KEEP`, one pattern a line: streams that record on while the watchdog's disk runs short.
    pub keep: Vec<String>,
}

/// What to start.
#[derive(Clone, Debug)]
pub struct EngineCommand {
    /// The program and its arguments. A program without a slash is searched for in `PATH`.
    pub command: Vec<String>,
    /// The folder it is started in; a program or argument with a relative path means one in there.
    pub working_dir: Option<PathBuf>,
    /// Added to our own environment. Of that, `SIDEKICK_*` and what a service manager told *us* is left out.
    pub env: Vec<(String, String)>,
    /// `SIDEKICK_SOURCE`.
    pub source: String,
    /// `SIDEKICK_RUNTIME_DIR`.
    pub runtime_dir: PathBuf,
    /// About its ring.
    pub ring: RingEnvironment,
    /// Without a living watchdog for so long the engine quits by itself; `None` = it runs on.
    pub quit_without_watchdog: Option<Duration>,
}

/// What is particular to one launch.
#[derive(Clone, Debug)]
pub struct Launch {
    /// Its number.
    pub number: u32,
    /// Whether it follows an end that was not asked for.
    pub is_relaunch: bool,
    /// Whether it is the safe start of a crash loop.
    pub is_safe: bool,
    /// Where the report of the death before it is, or will be.
    pub last_death: Option<PathBuf>,
    /// Whether it is to wait until the engine that runs has gone.
    pub is_standby: bool,
}

/// Why an engine could not be started.
#[derive(Debug, thiserror::Error)]
pub enum LaunchError {
    /// There is no command.
    #[error("no engine command is configured; set [engine] command or name it after --")]
    NoCommand,
    /// The folder to start it in is missing.
    #[error(
        "engine cannot be started in {path:?}: {source}; set [engine] working_dir to an existing folder"
    )]
    WorkingDir {
        /// The folder.
        path: PathBuf,
        /// What the system said.
        source: io::Error,
    },
    /// The program cannot be started.
    #[error("engine command {program:?} cannot be started: {source}; {remedy}")]
    Program {
        /// The program as configured.
        program: String,
        /// What the system said.
        source: io::Error,
        /// What to do.
        remedy: &'static str,
    },
    /// The launch lock cannot be made.
    #[error(
        "launch lock {path:?} cannot be made: {source}; make the runtime directory writable and not full"
    )]
    Lock {
        /// The lock.
        path: PathBuf,
        /// What the system said.
        source: io::Error,
    },
}

/// Starts the engine as `launch`; `lock` is inherited. Output goes to `output`, or nowhere.
///
/// # Errors
/// See [`LaunchError`].
pub fn start(
    engine: &EngineCommand,
    launch: &Launch,
    lock: &LaunchLock,
    output: Option<&Prepared>,
) -> Result<Process, LaunchError> {
    let (program, arguments) = engine.command.split_first().ok_or(LaunchError::NoCommand)?;
    let mut command = Command::new(program);
    command.args(arguments).stdin(Stdio::null());
    set_environment(&mut command, engine, launch);
    if let Some(dir) = &engine.working_dir {
        command.current_dir(dir);
    }
    let streams = output
        .and_then(|output| Some((output.log.try_clone().ok()?, output.log.try_clone().ok()?)));
    match streams {
        Some((stdout, stderr)) => command.stdout(stdout).stderr(stderr),
        None => command.stdout(Stdio::null()).stderr(Stdio::null()),
    };
    let with = platform::Spawn {
        inherited_lock: lock.file(),
    };
    platform::spawn(&mut command, &with).map_err(|source| explain(engine, program, source))
}

/// The environment of a command before a start: the engine's own without what it is told of its launch.
pub(super) fn set_environment_of_hook(command: &mut Command, engine: &EngineCommand) {
    platform::keep_own_variables(command);
    command
        .envs(engine.env.iter().map(|(name, value)| (name, value)))
        .env("SIDEKICK_SOURCE", &engine.source);
}

fn set_environment(command: &mut Command, engine: &EngineCommand, launch: &Launch) {
    platform::keep_own_variables(command);
    if launch.is_safe {
        command.env("SIDEKICK_SAFE_START", "1");
    }
    if launch.is_standby {
        command.env("SIDEKICK_STANDBY", "1");
    }
    if let Some(path) = &launch.last_death {
        command.env("SIDEKICK_LAST_DEATH", path);
    }
    if let Some(limit) = engine.quit_without_watchdog {
        let limit_ms = limit.as_millis().to_string();
        command.env("SIDEKICK_QUIT_WITHOUT_WATCHDOG_MS", limit_ms);
    }
    let relaunch = if launch.is_relaunch { "1" } else { "0" };
    let ring = &engine.ring;
    command
        .envs(engine.env.iter().map(|(name, value)| (name, value)))
        .env("SIDEKICK_RUNTIME_DIR", &engine.runtime_dir)
        .env("SIDEKICK_LAUNCH", launch.number.to_string())
        .env("SIDEKICK_INCARNATION", launch.number.to_string())
        .env("SIDEKICK_SOURCE", &engine.source)
        .env("SIDEKICK_RELAUNCH", relaunch)
        .env("SIDEKICK_RING_SIZE", ring.ring_bytes.to_string())
        .env("SIDEKICK_RING_WHEN_FULL", &ring.when_full)
        .env(
            "SIDEKICK_RING_BLOCK_MAX_US",
            ring.block_max.as_micros().to_string(),
        )
        .env("SIDEKICK_SPILL_MAX", ring.spill_bytes_max.to_string())
        .env("SIDEKICK_KEEP", ring.keep.join("\n"))
        .env("SIDEKICK_WATCHDOG_VERSION", env!("CARGO_PKG_VERSION"));
}

fn explain(engine: &EngineCommand, program: &str, source: io::Error) -> LaunchError {
    if let Some(dir) = &engine.working_dir
        && let Err(source) = is_dir(dir)
    {
        return LaunchError::WorkingDir {
            path: dir.clone(),
            source,
        };
    }
    let remedy = match source.kind() {
        io::ErrorKind::NotFound if program.contains('/') => {
            "correct the path in [engine] command (relative ones start in working_dir), or install the interpreter it names"
        }
        io::ErrorKind::NotFound => "install it, or give its whole path in [engine] command",
        io::ErrorKind::PermissionDenied | io::ErrorKind::IsADirectory
            if is_dir(&place(engine, program)).is_ok() =>
        {
            "it is a directory: name the program in it in [engine] command"
        }
        io::ErrorKind::PermissionDenied => "make it executable (chmod +x)",
        _ if source.raw_os_error() == Some(platform::NO_EXECUTABLE_FORMAT) => {
            "it is no program for this system: check the export's platform and architecture"
        }
        _ => "check [engine] command and the system's limits",
    };
    LaunchError::Program {
        program: program.to_owned(),
        source,
        remedy,
    }
}

/// Where a program with a slash in its name lies; relative ones start in the working directory.
fn place(engine: &EngineCommand, program: &str) -> PathBuf {
    engine
        .working_dir
        .as_deref()
        .map_or_else(|| PathBuf::from(program), |dir| dir.join(program))
}

fn is_dir(path: &Path) -> io::Result<()> {
    if std::fs::metadata(path)?.is_dir() {
        Ok(())
    } else {
        Err(io::Error::from(io::ErrorKind::NotADirectory))
    }
}
