//! Processes by pidfd: started, watched, signalled and reaped without ever mistaking one for another.

use std::fs::File;
use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::process::CommandExt;
use std::process::{Child, Command};
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use rustix::io::{FdFlags, fcntl_setfd};
use rustix::process::{
    Pid, PidfdFlags, Signal, WaitId, WaitIdOptions, kill_process_group, pidfd_open,
    pidfd_send_signal, set_child_subreaper, waitid,
};

use super::procfs;

/// The system's error number for a file that is no program (ENOEXEC).
pub const NO_EXECUTABLE_FORMAT: i32 = rustix::io::Errno::NOEXEC.raw_os_error();

/// How a process ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Exit {
    /// By itself, with this code.
    Code(i32),
    /// By a signal.
    Signal {
        /// The signal's number.
        signal: i32,
        /// Whether a core was dumped.
        core_dumped: bool,
    },
    /// Not our child, so the system does not tell, or not yet: Linux tells it from 6.15 on, once the parent (after
    /// ours died, the system's first process) has taken the status.
    Unknown,
}

impl Exit {
    /// From the status word of wait(2).
    fn from_status(status: i32) -> Self {
        const CORE_DUMPED: i32 = 0x80;
        match status & 0x7f {
            0 => Self::Code((status >> 8) & 0xff),
            signal => Self::Signal {
                signal,
                core_dumped: status & CORE_DUMPED != 0,
            },
        }
    }
}

/// What a process is doing, for telling a busy loop from a stopped process.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ProcessState {
    /// On a processor or ready for one.
    Running,
    /// Waiting for something.
    Sleeping,
    /// In an uninterruptible system call (a disk that does not answer).
    Uninterruptible,
    /// Stopped by a signal.
    Stopped,
    /// In a debugger.
    Traced,
    /// Dead.
    Gone,
}

/// A process, held by its pidfd, so that its number cannot come to mean another one.
#[derive(Debug)]
pub struct Process {
    pid: Pid,
    pidfd: OwnedFd,
    start_ticks: u64,
    is_child: bool,
}

impl Process {
    /// Takes hold of a running process. With `start_ticks`, only if it is the one that was started then.
    ///
    /// # Errors
    /// `NotFound`: there is no such process, or it is another one by now. Else what the system said.
    pub fn open(pid: u32, start_ticks: Option<u64>) -> io::Result<Self> {
        let gone = || io::Error::new(io::ErrorKind::NotFound, format!("no process {pid}"));
        let raw = i32::try_from(pid)
            .ok()
            .and_then(Pid::from_raw)
            .ok_or_else(gone)?;
        let pidfd = pidfd_open(raw, PidfdFlags::empty()).map_err(|error| {
            if error == rustix::io::Errno::SRCH {
                gone()
            } else {
                error.into()
            }
        })?;
        // Read after the pidfd was opened: if this is the right process, then so is the pidfd's.
        let stat = procfs::stat(pid).ok_or_else(gone)?;
        if stat.state == 'Z' || start_ticks.is_some_and(|ticks| ticks != stat.start_ticks) {
            return Err(gone());
        }
        Ok(Self {
            pid: raw,
            pidfd,
            start_ticks: stat.start_ticks,
            is_child: false,
        })
    }

    /// Its process id.
    pub fn pid(&self) -> u32 {
        self.pid.as_raw_nonzero().get().cast_unsigned()
    }

    /// Clock ticks from boot to its start: with the pid, its identity.
    pub fn start_ticks(&self) -> u64 {
        self.start_ticks
    }

    /// How long ago it was started, to 10 ms.
    pub fn age(&self) -> Duration {
        procfs::age(self.start_ticks)
    }

    /// What it is doing.
    pub fn state(&self) -> ProcessState {
        procfs::state(self.pid())
    }

    /// Whether it leads a process group of its own, as every engine does that [`spawn`] started.
    pub fn leads_group(&self) -> bool {
        procfs::stat(self.pid()).is_some_and(|stat| stat.group == self.pid())
    }

    /// Asks it to end (SIGTERM). To a dead process it does nothing.
    pub fn terminate(&self) {
        self.signal(Signal::TERM);
    }

    /// Makes it tell where it stands (SIGSEGV: the only signal at which Godot prints its backtrace) and die.
    pub fn backtrace(&self) {
        self.signal(Signal::SEGV);
    }

    /// Kills it, and it alone.
    pub fn kill(&self) {
        self.signal(Signal::KILL);
    }

    fn signal(&self, signal: Signal) {
        // The one expected error is that it is dead, which is what the caller will be told by its pidfd.
        if let Err(error) = pidfd_send_signal(&self.pidfd, signal)
            && error != rustix::io::Errno::SRCH
        {
            tracing::warn!(pid = self.pid(), %error, "engine could not be signalled");
        }
    }

    /// Kills it and everything else in its process group, dead or alive itself.
    ///
    /// Call it before [`Self::reap`]: until then the group's number cannot be anybody else's. (An adopted process is
    /// reaped by its own parent; there it holds as long as the kernel does not go once round all its numbers between
    /// its death and this call.)
    pub fn kill_group(&self) {
        self.kill();
        if let Err(error) = kill_process_group(self.pid, Signal::KILL)
            && error != rustix::io::Errno::SRCH
        {
            tracing::warn!(pid = self.pid(), %error, "process group could not be killed");
        }
    }

    /// Whether it is dead; waits for its death up to `timeout`.
    ///
    /// # Errors
    /// What the system said.
    pub fn wait_dead(&self, timeout: Duration) -> io::Result<bool> {
        use rustix::event::{PollFd, PollFlags, Timespec, poll};
        let timeout = Timespec {
            tv_sec: timeout.as_secs().try_into().unwrap_or(i64::MAX),
            tv_nsec: timeout.subsec_nanos().into(),
        };
        let mut fds = [PollFd::new(&self.pidfd, PollFlags::IN)];
        match poll(&mut fds, Some(&timeout)) {
            Ok(ready) => Ok(ready > 0),
            Err(rustix::io::Errno::INTR) => Ok(false),
            Err(error) => Err(error.into()),
        }
    }

    /// Whether we started it, so that [`Self::reap`] knows how it ended as soon as it is dead.
    pub fn is_child(&self) -> bool {
        self.is_child
    }

    /// Takes a dead process's exit status, which lets its number go. Never blocks.
    ///
    /// Of a process that is not our child it is [`Exit::Unknown`] until its parent has taken it: ask again.
    pub fn reap(&self) -> Exit {
        if !self.is_child {
            return self.told_exit();
        }
        let options = WaitIdOptions::EXITED | WaitIdOptions::NOHANG;
        match waitid(WaitId::PidFd(self.pidfd.as_fd()), options) {
            Ok(Some(status)) => {
                if let Some(code) = status.exit_status() {
                    Exit::Code(code)
                } else if let Some(signal) = status.terminating_signal() {
                    Exit::Signal {
                        signal,
                        core_dumped: status.dumped(),
                    }
                } else {
                    Exit::Unknown
                }
            }
            Ok(None) => Exit::Unknown,
            Err(error) => {
                // ECHILD: SIGCHLD was ignored by who started us, so the kernel has reaped it already.
                let exit = self.told_exit();
                if exit == Exit::Unknown {
                    tracing::warn!(pid = self.pid(), %error, "exit status could not be read");
                }
                exit
            }
        }
    }

    /// What the system tells anybody who holds the pidfd.
    fn told_exit(&self) -> Exit {
        sidekick_ipc::sys::exit_status(self.pidfd.as_fd()).map_or(Exit::Unknown, Exit::from_status)
    }
}

impl AsFd for Process {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.pidfd.as_fd()
    }
}

/// Variables that a service manager meant for the watchdog alone.
const OF_SERVICE_MANAGER: [&str; 6] = [
    "NOTIFY_SOCKET",
    "WATCHDOG_USEC",
    "WATCHDOG_PID",
    "LISTEN_FDS",
    "LISTEN_PID",
    "LISTEN_FDNAMES",
];

/// What to start, beside the command itself.
#[derive(Debug)]
pub struct Spawn<'a> {
    /// A locked file that the new process (and its children) inherit and so keep locked as long as they live.
    pub inherited_lock: &'a File,
}

/// Only one process is started at a time: while it is, its launch lock is inheritable, and no other may inherit it.
static SPAWNING: Mutex<()> = Mutex::new(());

/// While this is held no process of ours is there that was forked and has not become its program yet: such a one has all our
/// descriptors, locks and files being written among them. For unit tests, which do beside each other what one watchdog does
/// not.
#[cfg(test)]
pub fn nothing_is_started() -> std::sync::MutexGuard<'static, ()> {
    SPAWNING.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Starts `command` as the leader of a process group of its own.
///
/// The standard library resets SIGPIPE and the signal mask; the signals that [`super::signals::ShutdownSignals`]
/// handles are back at their defaults by the exec. Every program of the watchdog is started here, so that none
/// inherits another's lock.
///
/// # Errors
/// What the system said: no such file, not executable, …
pub fn spawn(command: &mut Command, with: &Spawn<'_>) -> io::Result<Process> {
    command.process_group(0);
    let child = spawn_with(command, with)?;
    let pid = child.id();
    // Until we reap it the number is its own, dead or alive.
    let raw = i32::try_from(pid).ok().and_then(Pid::from_raw);
    let held = raw
        .ok_or(rustix::io::Errno::SRCH)
        .and_then(|raw| Ok((raw, pidfd_open(raw, PidfdFlags::empty())?)));
    match held {
        Ok((raw, pidfd)) => Ok(Process {
            pid: raw,
            pidfd,
            start_ticks: procfs::stat(pid).map_or(0, |stat| stat.start_ticks),
            is_child: true,
        }),
        Err(error) => {
            // Without a pidfd (no descriptors left) it could not be watched: take it back.
            let mut child = child;
            let _ = child.kill();
            let _ = child.wait();
            Err(error.into())
        }
    }
}

/// Starts a program that inherits a lock.
pub(super) fn spawn_with(command: &mut Command, with: &Spawn<'_>) -> io::Result<Child> {
    let _one_at_a_time = SPAWNING.lock().unwrap_or_else(PoisonError::into_inner);
    fcntl_setfd(with.inherited_lock, FdFlags::empty())?;
    let spawned = command.spawn();
    fcntl_setfd(with.inherited_lock, FdFlags::CLOEXEC)?;
    spawned
}

/// Starts any other program. Whatever starts a program in a process that also starts engines has to do it by this: a
/// plain [`Command::spawn`] at the wrong moment would inherit an engine's launch lock, pass for its descendant, and be
/// killed as one.
///
/// # Errors
/// What the system said.
pub fn spawn_other(command: &mut Command) -> io::Result<Child> {
    let _one_at_a_time = SPAWNING.lock().unwrap_or_else(PoisonError::into_inner);
    command.spawn()
}

/// Keeps from a program what of this process's environment is meant for this process alone: `SIDEKICK_*`, which may hold
/// secrets, and what a service manager tells it.
pub fn keep_own_variables(command: &mut Command) {
    for (name, _) in std::env::vars_os() {
        let text = name.to_string_lossy();
        if text.starts_with("SIDEKICK_") || OF_SERVICE_MANAGER.contains(&&*text) {
            command.env_remove(&name);
        }
    }
}

/// Leaves the session and process group that this process was started in, so that neither its terminal nor whoever
/// kills the group reaches it and what it starts. One that leads its group stays; it has its own already.
pub fn leave_session() {
    let _ = rustix::process::setsid();
}

/// Keeps every descriptor that this process inherited, the standard ones excepted, from the programs it starts.
pub fn close_inherited_on_exec() {
    sidekick_ipc::sys::close_on_exec_from(3);
}

/// Makes orphaned descendants ours, so that what an engine leaves behind can be found and ended.
///
/// # Errors
/// What the system said.
pub fn become_subreaper() -> io::Result<()> {
    // The number only matters by not being zero.
    set_child_subreaper(Some(rustix::process::getpid())).map_err(Into::into)
}

/// Direct children of this process: the engine and adopted orphans.
pub fn own_children() -> Vec<u32> {
    procfs::own_children()
}

/// Reaps dead orphans and kills those that were left behind by engines that are gone. Returns how many were killed.
///
/// An orphan is a child of ours other than `engines`; it belongs to an earlier engine if it was not started after any of
/// the present ones (the system counts in steps of 10 ms, and a relaunch takes less). Only for a process whose every child is an engine, a helper (`run_helper`) or an orphan ([`become_subreaper`]).
pub fn kill_strays(engines: &[&Process]) -> usize {
    let mut killed = 0;
    // While a helper is being started it cannot be told from a stray; the next sweep comes soon.
    let Some(helpers) = super::helper::helpers() else {
        return killed;
    };
    for pid in own_children() {
        let is_engine = engines.iter().any(|engine| engine.pid() == pid);
        if is_engine || helpers.contains(&pid) {
            continue;
        }
        let (Some(stat), Some(raw)) = (
            procfs::stat(pid),
            i32::try_from(pid).ok().and_then(Pid::from_raw),
        ) else {
            continue;
        };
        if helpers.contains(&stat.group) {
            // A running helper's child, whose own parent has ended; it ends with the helper.
            continue;
        }
        let is_older = engines
            .iter()
            .all(|engine| stat.start_ticks <= engine.start_ticks);
        if stat.state != 'Z' && is_older {
            // A child's number is its own until it is reaped, which nobody does but we.
            let _ = rustix::process::kill_process(raw, Signal::KILL);
            killed += 1;
        }
        let _ = waitid(
            WaitId::Pid(raw),
            WaitIdOptions::EXITED | WaitIdOptions::NOHANG,
        );
    }
    killed
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_wait_status_is_read_as_the_system_means_it() {
        for (status, exit) in [
            (0, Exit::Code(0)),
            (42 << 8, Exit::Code(42)),
            (255 << 8, Exit::Code(255)),
            (
                11,
                Exit::Signal {
                    signal: 11,
                    core_dumped: false,
                },
            ),
            (
                0x86,
                Exit::Signal {
                    signal: 6,
                    core_dumped: true,
                },
            ),
        ] {
            assert_eq!(Exit::from_status(status), exit, "{status:#x}");
        }
    }

    /// A bystander holds the pidfd of somebody else's child, and learns how it ended when its parent has asked.
    #[test]
    fn the_end_of_a_process_that_is_not_ours_is_told_once_its_parent_knows() {
        for (script, expected) in [
            ("exit 42", Exit::Code(42)),
            (
                "kill -SEGV $$",
                Exit::Signal {
                    signal: 11,
                    core_dumped: false,
                },
            ),
        ] {
            let mut child = spawn_other(
                Command::new("sh")
                    .args(["-c", &format!("read go; {script}")])
                    .stdin(std::process::Stdio::piped()),
            )
            .expect("started");
            let process = Process::open(child.id(), None).expect("running");
            assert!(!process.is_child());
            assert_eq!(process.reap(), Exit::Unknown, "it runs");
            drop(child.stdin.take());
            assert!(process.wait_dead(Duration::from_secs(20)).expect("polled"));
            assert_eq!(process.reap(), Exit::Unknown, "nobody has reaped it");
            child.wait().expect("reaped");
            match process.reap() {
                // A kernel before 6.15 never tells.
                Exit::Unknown => {
                    let kernel =
                        std::fs::read_to_string("/proc/sys/kernel/osrelease").expect("known");
                    let mut numbers = kernel
                        .split('.')
                        .map(|word| word.parse::<u32>().unwrap_or(0));
                    let version = (numbers.next().unwrap_or(0), numbers.next().unwrap_or(0));
                    assert!(version < (6, 15), "Linux {kernel} should tell");
                }
                Exit::Signal { signal, .. } => {
                    assert_eq!(
                        Exit::Signal {
                            signal,
                            core_dumped: false
                        },
                        expected
                    );
                }
                exit => assert_eq!(exit, expected),
            }
        }
    }
}
