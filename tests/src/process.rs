//! Processes of a test: their lines, their end, and that none of them outlives it.
//!
//! Everything started here carries a token in its environment, which its own children inherit. At the end, also
//! that of a test that panics, exactly the processes with the token are killed: engines of a watchdog that was itself
//! killed are found so, and daemons that have left parent, group and session. What a test starts without a token
//! gets one of its own. `tests/leftovers.rs` holds it to that.

mod look;

use std::ffi::OsStr;
use std::fs;
use std::io::{self, BufRead, BufReader, Read};
use std::os::fd::OwnedFd;
use std::process::{Child, Command, ExitStatus, Stdio};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::thread;
use std::time::Duration;

use rustix::process::{Pid, PidfdFlags, Signal, kill_process, pidfd_open, pidfd_send_signal};

pub use look::{command_line, leads_its_group, runs, words};

use crate::wait;
use look::{ENVIRONMENT, settled};

/// The variable that carries the token. Not called `SIDEKICK_…`: the programs under test read those.
const TOKEN_VARIABLE: &str = "HARNESS_TOKEN";
/// The variable of a token that is carried beside the usual one, by tests of the harness itself.
const WITNESS_VARIABLE: &str = "HARNESS_WITNESS";

/// A process may be started behind the look that was to find it: so many looks in a row must find none.
const CLEAR_LOOKS: u32 = 3;

/// How long a killed process may take to be gone.
const KILL_TIME_MAX: Duration = Duration::from_secs(10);

/// How long to wait for the last lines of a process whose pipes others hold open.
const SETTLE_TIME_MAX: Duration = Duration::from_secs(10);

/// A token of one test's processes; when it goes, they are killed.
#[derive(Debug)]
pub struct Token {
    variable: &'static str,
    value: String,
}

impl Token {
    /// A token that no other test has.
    pub fn new() -> Self {
        Self::of(TOKEN_VARIABLE)
    }

    /// A token that does not take the place of another one: what a test run that is itself under test leaves behind
    /// carries it still.
    pub fn witness() -> Self {
        Self::of(WITNESS_VARIABLE)
    }

    fn of(variable: &'static str) -> Self {
        let value = format!("{}-{:016x}", std::process::id(), fastrand::u64(..));
        Self { variable, value }
    }

    /// Makes `command` and everything that it starts belong to this token.
    pub fn mark(&self, command: &mut Command) {
        command.env(self.variable, &self.value);
    }

    /// The living processes that carry the token, zombies not among them.
    pub fn processes(&self) -> Vec<u32> {
        let Ok(entries) = fs::read_dir("/proc") else {
            return Vec::new();
        };
        entries
            .filter_map(|entry| entry.ok()?.file_name().to_str()?.parse().ok())
            .filter(|pid: &u32| self.is_carried_by(*pid))
            .collect()
    }

    fn is_carried_by(&self, pid: u32) -> bool {
        let wanted = format!("{}={}", self.variable, self.value);
        settled(pid, ENVIRONMENT).is_ok_and(|environment| {
            environment
                .split(|byte| *byte == 0)
                .any(|entry| entry == wanted.as_bytes())
        })
    }

    /// Kills every process that carries the token and waits until all are gone.
    pub fn kill_all(&self) {
        let mut clear_looks = 0;
        let is_clear = wait::poll(KILL_TIME_MAX, || {
            let living = self.processes();
            for pid in &living {
                let Some(pid_checked) = i32::try_from(*pid).ok().and_then(Pid::from_raw) else {
                    continue;
                };
                // The handle is taken before the look, so a reused number cannot be hit.
                if let Ok(handle) = pidfd_open(pid_checked, PidfdFlags::empty())
                    && self.is_carried_by(*pid)
                {
                    let _ = pidfd_send_signal(&handle, Signal::KILL);
                }
            }
            clear_looks = if living.is_empty() {
                clear_looks + 1
            } else {
                0
            };
            (clear_looks == CLEAR_LOOKS).then_some(())
        });
        if is_clear.is_none() {
            eprintln!(
                "harness: processes {:?} are still there after SIGKILL",
                self.processes()
            );
        }
    }
}

impl Default for Token {
    fn default() -> Self {
        Self::new()
    }
}

impl Drop for Token {
    fn drop(&mut self) {
        self.kill_all();
    }
}

/// Lines that a process has written so far, in order of arrival over both of its outputs.
#[derive(Debug, Clone, Default)]
pub struct Lines {
    lines: Arc<Mutex<Vec<String>>>,
    /// How many pipes are still open.
    readers: Arc<AtomicUsize>,
}

impl Lines {
    /// A copy of all lines so far.
    pub fn all(&self) -> Vec<String> {
        self.lock().clone()
    }

    /// How many there are; lines from here on are those that come next.
    pub fn count(&self) -> usize {
        self.lock().len()
    }

    /// The first line for which `pick` gives something, from line number `from` on.
    pub fn find<T>(&self, from: usize, pick: impl FnMut(&String) -> Option<T>) -> Option<T> {
        self.lock().iter().skip(from).find_map(pick)
    }

    fn is_read_out(&self) -> bool {
        self.readers.load(Ordering::Acquire) == 0
    }

    fn lock(&self) -> MutexGuard<'_, Vec<String>> {
        self.lines.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn collect(&self, from: impl Read + Send + 'static, also: Option<&Self>) {
        let also = also.cloned();
        self.readers.fetch_add(1, Ordering::Relaxed);
        let lines = self.clone();
        thread::spawn(move || {
            let mut reader = BufReader::new(from);
            let mut line = Vec::new();
            while reader
                .read_until(b'\n', &mut line)
                .is_ok_and(|bytes| bytes > 0)
            {
                let text = String::from_utf8_lossy(&line);
                let text = text.trim_end_matches(['\n', '\r']).to_owned();
                if let Some(also) = &also {
                    also.lock().push(text.clone());
                }
                lines.lock().push(text);
                line.clear();
            }
            // SYNC: pairs with the Acquire load in `is_read_out`; all lines are in place by now.
            lines.readers.fetch_sub(1, Ordering::Release);
        });
    }
}

/// A process that is killed and reaped when this value goes. Where its command carried no token, so is all that it
/// started; else that is the token's matter.
#[derive(Debug)]
pub struct Running {
    child: Child,
    status: Option<ExitStatus>,
    /// Goes after the process itself, so that what it starts last is found.
    _own: Option<Token>,
    /// What it has written so far, on both outputs.
    pub lines: Lines,
    /// What it has written so far on its standard output alone.
    pub stdout: Lines,
}

impl Running {
    /// Starts `command` with no input, without the `SIDEKICK_*` variables of the test's own surroundings.
    ///
    /// # Errors
    /// What the system said.
    pub fn start(command: &mut Command) -> io::Result<Self> {
        let set: Vec<_> = command
            .get_envs()
            .map(|(name, _)| name.to_owned())
            .collect();
        let own = (!set.iter().any(|name| name == TOKEN_VARIABLE)).then(Token::new);
        if let Some(own) = &own {
            own.mark(command);
        }
        for (name, _) in std::env::vars_os() {
            if is_ours(&name) && !set.contains(&name) {
                command.env_remove(name);
            }
        }
        let mut child = command
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()?;
        let lines = Lines::default();
        let only_stdout = Lines::default();
        if let Some(stdout) = child.stdout.take() {
            lines.collect(stdout, Some(&only_stdout));
        }
        if let Some(stderr) = child.stderr.take() {
            lines.collect(stderr, None);
        }
        Ok(Self {
            child,
            status: None,
            _own: own,
            lines,
            stdout: only_stdout,
        })
    }

    /// Its process id. Not reused before this value goes.
    pub fn pid(&self) -> u32 {
        self.child.id()
    }

    /// How it ended, if it has.
    pub fn status(&mut self) -> Option<ExitStatus> {
        if self.status.is_none() {
            self.status = self.child.try_wait().unwrap_or_default();
        }
        self.status
    }

    /// Whether it runs; one that has ended and is not reaped yet does not.
    pub fn is_alive(&self) -> bool {
        self.status.is_none() && runs(self.pid())
    }

    /// Waits for its end; `None` when `deadline` passes first.
    pub fn wait(&mut self, deadline: Duration) -> Option<ExitStatus> {
        wait::poll(deadline, || self.status())
    }

    /// Sends a signal; nothing happens when it is dead already.
    pub fn signal(&mut self, signal: Signal) {
        if self.status().is_none()
            && let Some(pid) = i32::try_from(self.pid()).ok().and_then(Pid::from_raw)
        {
            let _ = kill_process(pid, signal);
        }
    }

    /// Whether it has ended and all that it wrote is read: no line comes any more.
    pub fn has_said_all(&mut self) -> bool {
        self.status().is_some() && self.lines.is_read_out()
    }

    /// All lines of a process that has ended. Its pipes may hold some that nobody has read yet, and a child
    /// that it left behind may hold the pipes open, so this waits until no more come.
    pub fn settled_lines(&self) -> Vec<String> {
        wait::poll(SETTLE_TIME_MAX, || self.lines.is_read_out().then_some(()));
        self.lines.all()
    }

    /// Kills it with SIGKILL and waits for its end.
    pub fn kill(&mut self) {
        if self.status().is_none() {
            let _ = self.child.kill();
            self.status = self.child.wait().ok();
        }
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        self.kill();
    }
}

fn is_ours(name: &OsStr) -> bool {
    name.to_str()
        .is_some_and(|name| name.starts_with("SIDEKICK_"))
}

/// A handle of a living process that the test knows by number; `None` when it is gone.
///
/// # Panics
/// When the process does not carry `token`: a test touches nothing that it did not start.
#[track_caller]
pub fn open(token: &Token, pid: u32) -> Option<OwnedFd> {
    let handle = i32::try_from(pid)
        .ok()
        .and_then(Pid::from_raw)
        .and_then(|pid| pidfd_open(pid, PidfdFlags::empty()).ok())?;
    if !token.is_carried_by(pid) {
        assert!(
            !token_is_readable(pid),
            "process {pid} was not started by this test"
        );
        return None;
    }
    Some(handle)
}

/// Sends a signal to a process that the test knows by number, such as an engine started by a watchdog.
///
/// # Panics
/// When the process does not carry `token`: a test signals nothing that it did not start.
#[track_caller]
pub fn signal(token: &Token, pid: u32, signal: Signal) {
    if let Some(handle) = open(token, pid) {
        let _ = pidfd_send_signal(handle, signal);
    }
}

/// A zombie's environment reads as empty: it is dead, not foreign.
fn token_is_readable(pid: u32) -> bool {
    fs::read(format!("/proc/{pid}/environ")).is_ok_and(|environment| !environment.is_empty())
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A shell starts a child in a session of its own and is killed; the child is found by its token.
    #[test]
    fn an_orphan_is_killed_with_its_token() {
        let token = Token::new();
        let mut command = Command::new("sh");
        command.args(["-c", "setsid sleep 600 & echo $!; wait"]);
        token.mark(&mut command);
        let mut shell = Running::start(&mut command).unwrap();
        let orphan: u32 = wait::until("the child's number", Duration::from_secs(10), || {
            shell.lines.find(0, |line| line.parse().ok())
        });
        shell.kill();
        wait::until("the child to be marked", Duration::from_secs(10), || {
            token.processes().contains(&orphan).then_some(())
        });
        let other = Token::new();
        assert!(other.processes().is_empty());
        token.kill_all();
        assert!(token.processes().is_empty());
    }

    /// The same without a token of the test's own, and without the test's help.
    #[test]
    fn an_orphan_is_killed_with_what_started_it() {
        let mut command = Command::new("sh");
        command.args(["-c", "setsid sleep 600 & echo $!; wait"]);
        let shell = Running::start(&mut command).unwrap();
        let orphan: u32 = wait::until("the child's number", Duration::from_secs(10), || {
            shell.lines.find(0, |line| line.parse().ok())
        });
        assert!(runs(orphan));
        drop(shell);
        assert!(!runs(orphan));
    }

    /// Whoever starts a process goes on before the process has its environment.
    #[test]
    fn a_process_amid_its_exec_is_found() {
        const TRIES: u32 = 1000;
        let token = Token::new();
        let mut command = Command::new("sleep");
        command.arg("600").stdin(Stdio::null());
        token.mark(&mut command);
        let own = fs::read_link("/proc/self/exe").unwrap();
        for _ in 0..TRIES {
            let mut child = command.spawn().unwrap();
            // Before its exec it shows what this process has, which carries no token.
            let program = format!("/proc/{}/exe", child.id());
            while fs::read_link(&program).unwrap() == own {
                thread::yield_now();
            }
            let is_found = token.is_carried_by(child.id());
            child.kill().unwrap();
            child.wait().unwrap();
            assert!(is_found);
        }
    }

    #[test]
    #[should_panic(expected = "was not started by this test")]
    fn a_foreign_process_is_not_signalled() {
        signal(&Token::new(), std::process::id(), Signal::CONT);
    }
}
