//! A supervisor under measurement: something that keeps a program alive whose first act is a stamp in a file.

use std::error::Error;
use std::ffi::OsString;
use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::thread;
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use rustix::process::{Signal, pidfd_send_signal};
use sidekick_tests::process::{self, Running, Token};

/// Between two looks at a stamp file. The stamp says itself when it was made; this only shortens the bench.
const LOOK: Duration = Duration::from_millis(1);
/// The longest that a relaunch may take.
const PATIENCE: Duration = Duration::from_secs(60);

/// A process's first act.
#[derive(Debug, Clone, Copy, PartialEq)]
struct Stamp {
    pid: u32,
    /// Seconds since the epoch.
    at: f64,
}

/// A supervisor and the stamps of what it keeps alive.
pub(super) struct Subject<'a> {
    pub(super) name: &'static str,
    token: &'a Token,
    log: PathBuf,
    /// Milliseconds from the kill to the next stamp.
    pub(super) samples: Vec<f64>,
}

impl<'a> Subject<'a> {
    /// `log` is where the supervised program stamps; the program carries `token`.
    pub(super) fn new(name: &'static str, token: &'a Token, log: PathBuf) -> Self {
        let samples = Vec::new();
        Self {
            name,
            token,
            log,
            samples,
        }
    }

    fn stamps(&self) -> Vec<Stamp> {
        let text = fs::read_to_string(&self.log).unwrap_or_default();
        // A line without its end is being written.
        let whole = text.rfind('\n').map_or("", |end| &text[..end]);
        let parse = |line: &str| {
            let (pid, at) = line.split_once(' ')?;
            Some(Stamp {
                pid: pid.parse().ok()?,
                at: at.parse().ok()?,
            })
        };
        whole.lines().filter_map(parse).collect()
    }

    /// Waits for a stamp number `count`, counted from 1, and returns it.
    fn wait_for(&self, count: usize) -> Result<Stamp, String> {
        let deadline = Instant::now() + PATIENCE;
        while Instant::now() < deadline {
            if let Some(stamp) = self.stamps().get(count - 1) {
                return Ok(*stamp);
            }
            thread::sleep(LOOK);
        }
        Err(format!(
            "{} did not start its program a {count}. time",
            self.name
        ))
    }

    /// Waits until its program has lived for `settle`.
    pub(super) fn settle(&self, settle: Duration) -> Result<(), String> {
        let stamp = self.wait_for(self.stamps().len().max(1))?;
        let lived = Duration::try_from_secs_f64(now() - stamp.at).unwrap_or_default();
        thread::sleep(settle.saturating_sub(lived));
        Ok(())
    }

    /// Kills its program and takes the time to the next one's stamp.
    pub(super) fn kill(&mut self) -> Result<(), Box<dyn Error>> {
        let stamps = self.stamps();
        let last = stamps.last().ok_or("nothing to kill")?;
        let handle = process::open(self.token, last.pid)
            .ok_or_else(|| format!("{}'s program died by itself", self.name))?;
        let killed = now();
        pidfd_send_signal(&handle, Signal::KILL)?;
        let next = self.wait_for(stamps.len() + 1)?;
        self.samples.push((next.at - killed) * 1e3);
        Ok(())
    }
}

/// By the clock that the programs stamp with.
fn now() -> f64 {
    let since = SystemTime::now().duration_since(UNIX_EPOCH);
    since.unwrap_or_default().as_secs_f64()
}

/// Compiles one of our C programs, statically where the system has what that takes.
pub(super) fn compile(source: &str, to: &Path) -> Result<(), Box<dyn Error>> {
    let file = to.with_extension("c");
    fs::write(&file, source)?;
    for linking in [&["-static"][..], &[]] {
        let mut command = Command::new(std::env::var_os("CC").unwrap_or_else(|| "cc".into()));
        command
            .arg("-O2")
            .args(linking)
            .arg("-o")
            .arg(to)
            .arg(&file);
        if command.output()?.status.success() {
            return Ok(());
        }
    }
    Err(format!("{file:?} does not compile; is there a C compiler (cc)?").into())
}

/// The floor: a loop around posix_spawn and waitpid.
pub(super) fn start_floor(
    floor: &Path,
    program: &[OsString],
    environment: &[(&str, OsString)],
    token: &Token,
) -> Result<Running, Box<dyn Error>> {
    let mut command = Command::new(floor);
    command
        .args(program)
        .envs(environment.iter().map(|(name, value)| (name, value)));
    token.mark(&mut command);
    Ok(Running::start(&mut command)?)
}

/// runit's supervisor of one service; `None` where it is not installed.
pub(super) fn start_runit(
    folder: &Path,
    program: &[OsString],
    token: &Token,
) -> Result<Option<Running>, Box<dyn Error>> {
    let service = folder.join("runit");
    fs::create_dir_all(&service)?;
    let words: Vec<String> = program
        .iter()
        .map(|word| format!("'{}'", word.display()))
        .collect();
    let run = service.join("run");
    fs::write(&run, format!("#!/bin/sh\nexec {}\n", words.join(" ")))?;
    fs::set_permissions(&run, fs::Permissions::from_mode(0o700))?;
    let mut command = Command::new("runsv");
    command.arg(&service);
    token.mark(&mut command);
    match Running::start(&mut command) {
        Ok(running) => Ok(Some(running)),
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => Ok(None),
        Err(error) => Err(error.into()),
    }
}
