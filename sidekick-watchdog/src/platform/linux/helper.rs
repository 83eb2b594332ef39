//! Other programs than engines, run to their end within a time: hooks.

use std::fmt;
use std::fs::File;
use std::io;
use std::os::unix::process::{CommandExt as _, ExitStatusExt as _};
use std::process::Command;
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::process::{Pid, PidfdFlags, Signal, kill_process_group, pidfd_open};

use super::process::{Spawn, spawn_other, spawn_with};
use super::wake::Waker;

/// Children of ours that are no engine's orphans.
static HELPERS: Mutex<Vec<u32>> = Mutex::new(Vec::new());

/// How a helper ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum HelperEnd {
    /// By itself, with this code.
    Code(i32),
    /// By this signal.
    Signal(i32),
    /// It was killed, with its process group, when its time was over.
    TimedOut,
    /// It was killed, with its process group, since nobody waited for it any more.
    Cancelled,
}

impl fmt::Display for HelperEnd {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Code(code) => write!(f, "exit code {code}"),
            Self::Signal(signal) => write!(f, "signal {signal}"),
            Self::TimedOut => write!(f, "killed when its time was over"),
            Self::Cancelled => write!(f, "cancelled"),
        }
    }
}

/// Runs a program in a process group of its own, to its end or for at most `limit`, or until `cancel` is woken. Whatever
/// of its group still lives then ends with it. Blocks; usable from any thread. [`super::process::kill_strays`] leaves the
/// group alone as long as the program runs. It inherits `inherited`, a locked file, which is closed here then.
///
/// # Errors
/// It cannot be started or watched.
pub fn run_helper(
    command: &mut Command,
    limit: Duration,
    cancel: Option<&Waker>,
    inherited: Option<File>,
) -> io::Result<HelperEnd> {
    command.process_group(0);
    let mut helpers = lock();
    let mut child = match &inherited {
        Some(inherited_lock) => spawn_with(command, &Spawn { inherited_lock })?,
        None => spawn_other(command)?,
    };
    drop(inherited);
    let pid = child.id();
    helpers.push(pid);
    drop(helpers);
    let ended = wait(pid, limit, cancel);
    if let Some(group) = i32::try_from(pid).ok().and_then(Pid::from_raw) {
        // Not reaped yet, so the number is still its own. What it left running would pass for an engine's orphan.
        let _ = kill_process_group(group, Signal::KILL);
    }
    let status = child.wait();
    lock().retain(|helper| *helper != pid);
    if let Some(killed) = ended? {
        return Ok(killed);
    }
    let status = status?;
    Ok(match (status.code(), status.signal()) {
        (Some(code), _) => HelperEnd::Code(code),
        (None, signal) => HelperEnd::Signal(signal.unwrap_or_default()),
    })
}

/// Why it is to be killed; `None`: it has ended within `limit` and before `cancel` was woken.
fn wait(pid: u32, limit: Duration, cancel: Option<&Waker>) -> io::Result<Option<HelperEnd>> {
    let raw = i32::try_from(pid)
        .ok()
        .and_then(Pid::from_raw)
        .ok_or(io::ErrorKind::NotFound)?;
    let pidfd = pidfd_open(raw, PidfdFlags::empty())?;
    let until = std::time::Instant::now() + limit;
    loop {
        let left = until.saturating_duration_since(std::time::Instant::now());
        let timeout = Timespec {
            tv_sec: left.as_secs().try_into().unwrap_or(i64::MAX),
            tv_nsec: left.subsec_nanos().into(),
        };
        let mut fds = vec![PollFd::new(&pidfd, PollFlags::IN)];
        fds.extend(cancel.map(|cancel| PollFd::new(cancel, PollFlags::IN)));
        match poll(&mut fds, Some(&timeout)) {
            Ok(0) => return Ok(Some(HelperEnd::TimedOut)),
            Ok(_) => {
                let ended = fds.first().is_some_and(|fd| !fd.revents().is_empty());
                return Ok((!ended).then_some(HelperEnd::Cancelled));
            }
            Err(rustix::io::Errno::INTR) => {}
            Err(error) => return Err(error.into()),
        }
    }
}

fn lock() -> MutexGuard<'static, Vec<u32>> {
    HELPERS.lock().unwrap_or_else(PoisonError::into_inner)
}

/// The helpers that run, held still; `None` while one is being started.
pub(super) fn helpers() -> Option<MutexGuard<'static, Vec<u32>>> {
    HELPERS.try_lock().ok()
}

#[cfg(test)]
mod tests {
    use super::super::procfs::Stat;
    use super::*;

    fn shell(script: &str) -> Command {
        let mut command = Command::new("/bin/sh");
        command.args(["-c", script]);
        command
    }

    #[test]
    fn ends_are_told_apart() {
        let day = Duration::from_secs(86_400);
        let run = |script, limit| run_helper(&mut shell(script), limit, None, None).expect("run");
        assert_eq!(run("exit 3", day), HelperEnd::Code(3));
        assert_eq!(run("kill -9 $$", day), HelperEnd::Signal(9));
        let long = run("sleep 1000 & wait", Duration::from_millis(20));
        assert_eq!(long, HelperEnd::TimedOut);
        assert!(run_helper(&mut Command::new("/nowhere"), day, None, None).is_err());
        let dir = tempfile::tempdir().expect("temporary folder");
        let file = dir.path().join("pid");
        let script = format!("sleep 1000 & echo $! > {}; exit 4", file.display());
        assert_eq!(run(&script, day), HelperEnd::Code(4));
        let left: u32 = std::fs::read_to_string(file)
            .expect("written")
            .trim()
            .parse()
            .expect("a number");
        // Its end is certain, if not at once.
        while !matches!(
            super::super::procfs::stat(left),
            None | Some(Stat { state: 'Z', .. })
        ) {
            std::thread::yield_now();
        }
        let cancel = Waker::new().expect("a descriptor");
        cancel.wake();
        let cancelled = run_helper(&mut shell("sleep 1000"), day, Some(&cancel), None);
        assert_eq!(cancelled.expect("run"), HelperEnd::Cancelled);
    }
}
