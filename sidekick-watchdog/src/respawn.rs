//! A watchdog that is dead, started again by the engine it left behind.
//!
//! While it runs, the watchdog keeps `<runtime_dir>/watchdog.json`: how it was started. The extension (its project
//! setting `sidekick/watchdog/respawn`) starts `sidekick-watchdog respawn --runtime-dir DIR` once it has proof that the
//! watchdog is dead. That process leaves the engine's session, lets go of everything it inherited (the engine's launch
//! lock among it: who holds that passes for the engine's child, and is killed as one) and starts `run` as it was
//! started before. Two at once do no harm: the data directory's lock decides.

use std::ffi::{OsStr, OsString};
use std::fs::{self, File};
use std::io::{self, Read, Write};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use serde::{Deserialize, Serialize};

use crate::exit::ExitCode;
use crate::platform::{
    bytes_of, close_inherited_on_exec, create_private_file, is_lock_held, is_private_dir,
    leave_session, open_private_append, os_string_from_bytes, spawn_other,
};

const NAME: &str = "watchdog.json";
/// A process's arguments and environment may have some megabytes; more is not ours.
const BYTES_MAX: u64 = 16 << 20;
/// The output of respawned watchdogs begins a new file beyond this.
const LOG_BYTES_MAX: u64 = 16 << 20;
/// What a service manager meant for one process alone.
const NOT_INHERITED: [&str; 8] = [
    "SYSTEMD_EXEC_PID",
    "NOTIFY_SOCKET",
    "WATCHDOG_USEC",
    "WATCHDOG_PID",
    "LISTEN_FDS",
    "LISTEN_PID",
    "LISTEN_FDNAMES",
    "MAINPID",
];

/// Why no watchdog was started.
#[derive(Debug, thiserror::Error)]
pub enum RespawnError {
    /// Nothing tells how it was started.
    #[error(
        "{path:?} cannot be used: {reason}; start the watchdog as it was started first, with `sidekick-watchdog run`"
    )]
    Unusable {
        /// The file or folder.
        path: PathBuf,
        /// What is wrong with it.
        reason: String,
    },
    /// It cannot be started.
    #[error("watchdog {exe:?} cannot be started again: {source}; was it moved?")]
    Start {
        /// The program.
        exe: PathBuf,
        /// What the system said.
        source: io::Error,
    },
}

impl RespawnError {
    /// The exit code for it.
    pub fn exit_code(&self) -> ExitCode {
        match self {
            Self::Unusable { .. } => ExitCode::RuntimeDir,
            Self::Start { .. } => ExitCode::CannotSpawn,
        }
    }
}

/// What became of a respawn.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Respawned {
    /// A watchdog was started; whether it stays is for the data directory's lock to decide.
    Started {
        /// Its process id.
        pid: u32,
    },
    /// One runs already.
    Runs,
    /// A service manager runs it, and starts it again.
    Managed,
}

/// Text of the system: a string if it is one, else its bytes.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(untagged)]
enum Text {
    Utf8(String),
    Bytes(Vec<u8>),
}

impl From<&OsStr> for Text {
    fn from(text: &OsStr) -> Self {
        match text.to_str() {
            Some(text) => Self::Utf8(text.to_owned()),
            None => Self::Bytes(bytes_of(text).to_vec()),
        }
    }
}

impl From<&Text> for OsString {
    fn from(text: &Text) -> Self {
        match text {
            Text::Utf8(text) => text.into(),
            Text::Bytes(bytes) => os_string_from_bytes(bytes),
        }
    }
}

/// How a watchdog was started. The environment may hold secrets: the file is for this user alone, in memory.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
struct Started {
    exe: Text,
    args: Vec<Text>,
    cwd: Option<Text>,
    env: Vec<(Text, Text)>,
    data_dir: Text,
    /// Whether its log goes to a file of its own; if not, what it prints goes to `<data_dir>/watchdog.log`.
    has_log_file: bool,
    /// Whether a service manager runs it.
    managed: bool,
}

impl Started {
    /// How this process was started.
    fn own(data_dir: &Path, has_log_file: bool) -> io::Result<Self> {
        let variable = |name| std::env::var_os(name).filter(|value| !value.is_empty());
        // Not INVOCATION_ID: a terminal that is a service of the desktop hands it to everything started in it.
        let is_service = variable("SYSTEMD_EXEC_PID")
            .is_some_and(|pid| pid.to_str() == Some(&std::process::id().to_string()));
        Ok(Self {
            exe: std::env::current_exe()?.as_os_str().into(),
            args: std::env::args_os()
                .skip(1)
                .map(|arg| arg.as_os_str().into())
                .collect(),
            cwd: std::env::current_dir()
                .ok()
                .map(|dir| dir.as_os_str().into()),
            env: std::env::vars_os()
                .filter(|(name, _)| !NOT_INHERITED.iter().any(|other| name == other))
                .map(|(name, value)| (name.as_os_str().into(), value.as_os_str().into()))
                .collect(),
            data_dir: data_dir.as_os_str().into(),
            has_log_file,
            managed: is_service || variable("NOTIFY_SOCKET").is_some(),
        })
    }

    fn write(&self, runtime_dir: &Path) -> io::Result<()> {
        let new = runtime_dir.join("watchdog.json.new");
        let mut file = create_private_file(&new)?;
        file.set_len(0)?;
        file.write_all(&serde_json::to_vec(self)?)?;
        fs::rename(new, runtime_dir.join(NAME))
    }

    fn read(runtime_dir: &Path) -> Result<Self, RespawnError> {
        let path = runtime_dir.join(NAME);
        let unusable = |path: &Path, reason: String| RespawnError::Unusable {
            path: path.to_owned(),
            reason,
        };
        // It says which program to execute, so nobody else may have written it.
        is_private_dir(runtime_dir).map_err(|reason| unusable(runtime_dir, reason))?;
        let mut text = Vec::new();
        File::open(&path)
            .and_then(|file| file.take(BYTES_MAX).read_to_end(&mut text))
            .map_err(|error| unusable(&path, error.to_string()))?;
        serde_json::from_slice(&text).map_err(|error| unusable(&path, error.to_string()))
    }

    fn command(&self) -> Command {
        let mut command = Command::new(OsString::from(&self.exe));
        command
            .args(self.args.iter().map(OsString::from))
            .env_clear()
            .envs(
                self.env
                    .iter()
                    .map(|(name, value)| (OsString::from(name), OsString::from(value))),
            )
            .stdin(Stdio::null());
        if let Some(cwd) = &self.cwd {
            command.current_dir(OsString::from(cwd));
        }
        command
    }

    /// Where what it prints goes.
    fn output(&self) -> io::Result<(Stdio, Stdio)> {
        if self.has_log_file {
            return Ok((Stdio::null(), Stdio::null()));
        }
        let path = Path::new(&OsString::from(&self.data_dir)).join("watchdog.log");
        if fs::metadata(&path).is_ok_and(|found| found.len() > LOG_BYTES_MAX) {
            fs::rename(&path, path.with_extension("log.1"))?;
        }
        let log = open_private_append(&path)?;
        Ok((log.try_clone()?.into(), log.into()))
    }
}

/// Writes down how this process was started, for [`respawn`]. Without it the watchdog works as well.
///
/// # Errors
/// What the system said.
pub fn record(runtime_dir: &Path, data_dir: &Path, has_log_file: bool) -> io::Result<()> {
    Started::own(data_dir, has_log_file)?.write(runtime_dir)
}

/// Removes it: this end was meant, and nobody is to start another.
pub fn forget(runtime_dir: &Path) {
    // Left behind, a game that outlives us would start a watchdog, which is not wrong either.
    let _ = fs::remove_file(runtime_dir.join(NAME));
}

/// Starts the watchdog that recorded itself in `runtime_dir` again, in a session of its own, unless one runs.
///
/// Only for a process that does nothing else: it leaves its session and marks every descriptor but the standard ones
/// to be closed in what it starts.
///
/// # Errors
/// See [`RespawnError`].
pub fn respawn(runtime_dir: &Path) -> Result<Respawned, RespawnError> {
    let started = Started::read(runtime_dir)?;
    if started.managed {
        return Ok(Respawned::Managed);
    }
    let lock = Path::new(&OsString::from(&started.data_dir)).join("watchdog.lock");
    // A missing folder or lock: the new watchdog makes them. Not by trying to lock it: another that is just starting
    // would find it taken, and give up.
    if File::open(lock).is_ok_and(|file| is_lock_held(&file).unwrap_or(false)) {
        return Ok(Respawned::Runs);
    }
    leave_session();
    close_inherited_on_exec();
    let mut command = started.command();
    let outcome = started.output().and_then(|(stdout, stderr)| {
        command.stdout(stdout).stderr(stderr);
        spawn_other(&mut command)
    });
    // Not waited for: this process ends now, and the new one is the system's child.
    let child = outcome.map_err(|source| RespawnError::Start {
        exe: OsString::from(&started.exe).into(),
        source,
    })?;
    Ok(Respawned::Started { pid: child.id() })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::platform::create_private_dir;

    /// A folder and, in it, one that is private.
    fn private() -> (tempfile::TempDir, PathBuf) {
        let dir = tempfile::tempdir().expect("temporary folder");
        let path = dir.path().join("private");
        create_private_dir(&path).expect("made");
        (dir, path)
    }

    fn example(data_dir: &Path) -> Started {
        Started {
            exe: Text::Utf8("/bin/true".to_owned()),
            args: vec![Text::Bytes(vec![0xff, 0x41])],
            cwd: None,
            env: vec![(Text::Utf8("A".to_owned()), Text::Utf8("b".to_owned()))],
            data_dir: data_dir.as_os_str().into(),
            has_log_file: true,
            managed: false,
        }
    }

    #[test]
    fn what_was_recorded_is_read_again_text_that_is_no_utf8_too() {
        let (_folder, dir) = private();
        let started = example(&dir);
        started.write(&dir).expect("written");
        assert_eq!(Started::read(&dir).expect("read"), started);
        forget(&dir);
        let error = Started::read(&dir).expect_err("gone").to_string();
        assert!(error.contains("sidekick-watchdog run"), "{error}");
    }

    #[test]
    fn one_that_is_run_by_a_service_manager_or_runs_is_not_started() {
        let (_folder, dir) = private();
        let managed = Started {
            managed: true,
            ..example(&dir)
        };
        managed.write(&dir).expect("written");
        assert_eq!(respawn(&dir).expect("read"), Respawned::Managed);
        example(&dir).write(&dir).expect("written");
        let lock = create_private_file(&dir.join("watchdog.lock")).expect("made");
        lock.lock().expect("free");
        assert_eq!(respawn(&dir).expect("read"), Respawned::Runs);
    }

    /// The file names a program to execute.
    #[test]
    fn a_place_that_is_not_ours_alone_is_not_believed() {
        let (_folder, dir) = private();
        example(&dir).write(&dir).expect("written");
        let error = Started::read(&dir.join(NAME))
            .expect_err("refused")
            .to_string();
        assert!(error.contains("not a folder"), "{error}");
    }
}
