//! Other programs than engines, run to their end within a time: hooks, and who takes uploads.

use std::fmt;
use std::fs::File;
use std::io::{self, Read as _};
use std::os::unix::process::{CommandExt as _, ExitStatusExt as _};
use std::process::{ChildStderr, Command};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::process::{Pid, PidfdFlags, Signal, kill_process_group, pidfd_open};

use super::process::{Spawn, spawn_other, spawn_with};
use super::procfs;
use super::wake::Waker;

/// How much of the end of what a helper says is kept.
const SAID_BYTES_MAX: usize = 64 << 10;
/// Reads of 4 KiB at its end: more than a pipe holds.
const READS_AT_END_MAX: usize = 64;
/// How long a killed group is waited for: what hangs in a system call dies when that returns.
const GROUP_ENDING_MAX: Duration = Duration::from_secs(5);
const GROUP_ENDING_POLL: Duration = Duration::from_millis(1);

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
/// of its group still lives then ends with it, and unless the program ended well that is waited for, up to 5 s. Blocks;
/// usable from any thread. [`super::process::kill_strays`] leaves the group alone as long as the program runs. It inherits
/// `inherited`, a locked file, which is closed here then. With `cancel` woken already nothing is started.
///
/// # Errors
/// It cannot be started or watched.
pub fn run_helper(
    command: &mut Command,
    limit: Duration,
    cancel: Option<&Waker>,
    inherited: Option<File>,
) -> io::Result<HelperEnd> {
    run_helper_heard(command, limit, cancel, inherited).map(|(end, _)| end)
}

/// As [`run_helper`]; also the end of what it said, 64 KiB at most, where the command's standard error is piped.
///
/// # Errors
/// It cannot be started or watched.
pub fn run_helper_heard(
    command: &mut Command,
    limit: Duration,
    cancel: Option<&Waker>,
    inherited: Option<File>,
) -> io::Result<(HelperEnd, Vec<u8>)> {
    if cancel.is_some_and(|cancel| is_ready(PollFd::new(cancel, PollFlags::IN))) {
        return Ok((HelperEnd::Cancelled, Vec::new()));
    }
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
    let mut said = Said::of(child.stderr.take());
    let ended = wait(pid, limit, cancel, &mut said);
    if let Some(group) = i32::try_from(pid).ok().and_then(Pid::from_raw) {
        // Not reaped yet, so the number is still its own. What it left running would pass for an engine's orphan.
        let _ = kill_process_group(group, Signal::KILL);
    }
    let status = child.wait();
    if !matches!(&status, Ok(status) if status.success()) {
        wait_for_group(pid);
    }
    lock().retain(|helper| *helper != pid);
    let said = said.finish();
    if let Some(killed) = ended? {
        return Ok((killed, said));
    }
    let status = status?;
    let end = match (status.code(), status.signal()) {
        (Some(code), _) => HelperEnd::Code(code),
        (None, signal) => HelperEnd::Signal(signal.unwrap_or_default()),
    };
    Ok((end, said))
}

/// Waits until nothing of a group that was killed runs: a signal is carried out a moment after it is sent, and whoever
/// goes on here relies on nobody writing any more.
fn wait_for_group(group: u32) {
    let asked_at = Instant::now();
    while procfs::group_runs(group) && asked_at.elapsed() < GROUP_ENDING_MAX {
        std::thread::sleep(GROUP_ENDING_POLL);
    }
}

/// Why it is to be killed; `None`: it has ended within `limit` and before `cancel` was woken.
fn wait(
    pid: u32,
    limit: Duration,
    cancel: Option<&Waker>,
    said: &mut Said,
) -> io::Result<Option<HelperEnd>> {
    let raw = i32::try_from(pid)
        .ok()
        .and_then(Pid::from_raw)
        .ok_or(io::ErrorKind::NotFound)?;
    let pidfd = pidfd_open(raw, PidfdFlags::empty())?;
    let until = Instant::now() + limit;
    loop {
        let left = until.saturating_duration_since(Instant::now());
        let timeout = Timespec {
            tv_sec: left.as_secs().try_into().unwrap_or(i64::MAX),
            tv_nsec: left.subsec_nanos().into(),
        };
        let mut fds = vec![PollFd::new(&pidfd, PollFlags::IN)];
        fds.extend(cancel.map(|cancel| PollFd::new(cancel, PollFlags::IN)));
        fds.extend(
            said.pipe
                .as_ref()
                .map(|pipe| PollFd::new(pipe, PollFlags::IN)),
        );
        match poll(&mut fds, Some(&timeout)) {
            Ok(_) => {}
            Err(rustix::io::Errno::INTR) => continue,
            Err(error) => return Err(error.into()),
        }
        let mut ready = fds.iter().map(|fd| !fd.revents().is_empty());
        if ready.next() == Some(true) {
            return Ok(None);
        }
        if cancel.is_some() && ready.next() == Some(true) {
            return Ok(Some(HelperEnd::Cancelled));
        }
        // Who talks without end has no more time than others.
        if left.is_zero() {
            return Ok(Some(HelperEnd::TimedOut));
        }
        if ready.next() == Some(true) {
            said.read();
        }
    }
}

/// Whether a read would not block.
fn is_ready(fd: PollFd<'_>) -> bool {
    matches!(poll(&mut [fd], Some(&Timespec::default())), Ok(1..))
}

/// The end of what a helper says. Read while it runs, so that it never waits for us.
#[derive(Debug)]
struct Said {
    /// Until it is closed.
    pipe: Option<ChildStderr>,
    bytes: Vec<u8>,
}

impl Said {
    fn of(pipe: Option<ChildStderr>) -> Self {
        let bytes = Vec::new();
        Self { pipe, bytes }
    }

    /// Reads what is there; only called when something is, so it does not block.
    fn read(&mut self) {
        let Some(pipe) = &mut self.pipe else {
            return;
        };
        let mut piece = [0; 4096];
        match pipe.read(&mut piece) {
            Ok(count) if count > 0 => {
                self.bytes.extend(piece.iter().take(count));
                if self.bytes.len() > 2 * SAID_BYTES_MAX {
                    self.cut();
                }
            }
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            _ => self.pipe = None,
        }
    }

    /// Keeps the last of it.
    fn cut(&mut self) {
        let too_many = self.bytes.len().saturating_sub(SAID_BYTES_MAX);
        self.bytes.drain(..too_many);
    }

    /// What was said, with what still lies in the pipe. Whoever left the group may hold that open, and is not waited for.
    fn finish(mut self) -> Vec<u8> {
        for _ in 0..READS_AT_END_MAX {
            match &self.pipe {
                Some(pipe) if is_ready(PollFd::new(pipe, PollFlags::IN)) => self.read(),
                _ => break,
            }
        }
        self.cut();
        self.bytes
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
    }

    #[test]
    fn who_is_cancelled_ends_or_never_begins() {
        let day = Duration::from_secs(86_400);
        let dir = tempfile::tempdir().expect("temporary folder");
        let begun = dir.path().join("begun");
        let mut command = shell(&format!("touch {}; sleep 1000", begun.display()));
        let cancel = Waker::new().expect("a descriptor");
        let mut run = || run_helper(&mut command, day, Some(&cancel), None).expect("run");
        std::thread::scope(|threads| {
            threads.spawn(|| {
                while !begun.exists() {
                    std::thread::yield_now();
                }
                cancel.wake();
            });
            assert_eq!(run(), HelperEnd::Cancelled);
        });
        std::fs::remove_file(&begun).expect("it began");
        assert_eq!(run(), HelperEnd::Cancelled, "still woken");
        assert!(!begun.exists());
    }

    /// Where two talk to one pipe, and one of them never ends, only what was said until the helper's end is waited for.
    #[test]
    fn what_a_helper_says_is_heard_to_its_end_and_no_longer() {
        let day = Duration::from_secs(86_400);
        let dir = tempfile::tempdir().expect("temporary folder");
        let script = "setsid sh -c 'echo $$ >&2; echo words >&2; touch left; exec sleep 1000' & \
                      while ! test -e left; do :; done; exit 3";
        let mut command = shell(script);
        command.current_dir(dir.path());
        command.stderr(std::process::Stdio::piped());
        let (end, said) = run_helper_heard(&mut command, day, None, None).expect("run");
        assert_eq!(end, HelperEnd::Code(3));
        let said = String::from_utf8(said).expect("UTF-8");
        let (pid, words) = said.split_once('\n').expect("two lines");
        let left = super::super::process::Process::open(pid.parse().expect("a number"), None);
        left.expect("it left the group").kill();
        assert_eq!(words, "words\n");
    }
}
