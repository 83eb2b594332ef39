//! The seam behind which every system call of the watchdog lies.
//!
//! What is here so far is Linux (`platform/linux/`); another system is a sibling of that folder with the same names.
//! Everything is safe Rust over rustix and the standard library (the one ioctl that needs more lies in
//! `sidekick_ipc::sys`); nothing outside this module tells systems apart or names rustix, which a test enforces.
//!
//! - [`Process`]: a process held by its pidfd: told of its death, signalled without pid reuse, reaped.
//! - [`spawn`]: starts a program that inherits a launch lock.
//! - [`Waker`], [`wait`]: sleeping until one of a few things happens.
//! - [`ShutdownSignals`]: SIGTERM and its kin as a future. [`ReloadSignal`]: SIGHUP, where there is no terminal.
//! - [`ControlListener`], [`connect_control`]: how commands reach a running watchdog.
//! - [`ServiceManager`]: telling systemd how we do.
//! - [`run_helper`]: other programs than engines; [`RunLock`]: by which the next watchdog finds one that is left running.
//! - [`kill_point`]: where tests let a debug build be killed.
//! - [`data_dir`], [`runtime_dir`]: the folders that belong to one watchdog alone.
//!
//! # What another system has to fill in
//!
//! | here | Linux | Windows | macOS |
//! |---|---|---|---|
//! | [`Process`]: told of a death, never mistaken for another | pidfd, start ticks | process handle, creation time | `kqueue` with `EVFILT_PROC`, start time of `proc_pidinfo` |
//! | how it ended: [`Process::reap`] | `waitid`; not ours: `PIDFD_INFO_EXIT` (Linux 6.15) | `GetExitCodeProcess`, ours or not | `waitid`; not ours: `NOTE_EXITSTATUS` |
//! | ask, kill it and its children: [`Process::terminate`], [`Process::kill_group`] | signals to the process group | the control word of the ring; a job object for each engine, `TerminateJobObject` | as Linux |
//! | children that left the group: [`become_subreaper`], [`kill_strays`] | subreaper, `/proc` | the job object holds them | nothing like it: only what holds the launch lock |
//! | an engine outlives its watchdog | nothing to do | the job must be named and without `KILL_ON_JOB_CLOSE` | nothing to do |
//! | [`try_lock`] held from before the first instruction by [`spawn`] | `flock` inherited with its descriptor | a locked handle in the list of inherited ones | as Linux |
//! | [`lock_holders`] | `/proc/<pid>/fd` | the restart manager (`RmGetList`) | `proc_listpidspath` |
//! | [`ProcessState`], memory, CPU | `/proc/<pid>/stat` | `NtQuerySystemInformation`, `GetProcessMemoryInfo` | `proc_pidinfo` |
//! | evidence of a hang: [`Process::backtrace`] | SIGSEGV, at which Godot prints its stack | `MiniDumpWriteDump` | as Linux |
//! | [`wait`], [`Waker`], [`FileWatch`] | `poll`, eventfd, inotify | wait handles, events, `ReadDirectoryChangesW` | `kqueue` |
//! | [`ShutdownSignals`] | SIGTERM, SIGINT | console control events, the service's stop | as Linux |
//! | [`ControlListener`] | unix socket, mode 0600 | named pipe with an access list | as Linux |
//! | ours alone: [`is_private_dir`] and its kin | owner and mode | access lists | as Linux |
//! | [`runtime_dir`] in memory | `/run`, `/dev/shm` | none: `%LOCALAPPDATA%` | none: `$TMPDIR` |
//! | out of memory: [`OomCounters`] | cgroup counters, kernel log | a limit of the job object | jetsam tells nobody |
//! | [`boot_id`], [`monotonic_now`] | `/proc`, CLOCK_MONOTONIC | boot time, `QueryUnbiasedInterruptTime` | `kern.bootsessionuuid`, `CLOCK_UPTIME_RAW` |
//! | [`memory_file`]: a batch for a program to read | a sealed memfd | a temporary file, deleted on close | a temporary file, unlinked |
//! | [`leave_session`], [`close_inherited_on_exec`] | `setsid`, `close_range` | `DETACHED_PROCESS`, no inherited handles | `setsid`, a flag on each descriptor |

pub mod data_dir;
mod kill_point;
#[cfg(target_os = "linux")]
mod linux;
mod run_lock;
pub mod runtime_dir;

pub use kill_point::kill_point;
#[cfg(all(test, target_os = "linux"))]
pub use linux::process::nothing_is_started;
#[cfg(target_os = "linux")]
pub use linux::{
    clock::{boot_id, monotonic_now},
    control_socket::{ControlListener, ControlStream, connect_control},
    files::{
        allocated_bytes, bytes_of, create_private_dir, create_private_file, is_private_dir,
        is_readable_by_all, make_new_files_private, memory_file, open_private_append,
        os_string_from_bytes, path_from_bytes, punch_hole, read_at, set_private, sync_dir,
        write_all_at,
    },
    helper::{HelperEnd, run_helper, run_helper_heard},
    inotify::FileWatch,
    lock::{is_lock_free, is_lock_held, lock_holders, openers, try_lock},
    oom::{OomCounters, kernel_log_names},
    process::{
        Exit, NO_EXECUTABLE_FORMAT, Process, ProcessState, Spawn, become_subreaper,
        close_inherited_on_exec, keep_own_variables, kill_strays, leave_session, own_children,
        spawn, spawn_other,
    },
    procfs::age,
    service_manager::{ServiceHints, ServiceManager},
    signals::{ReloadSignal, ShutdownSignals},
    system::{
        FileSystem, check_folder_access, file_system, free_bytes, host_name, is_executable,
        is_superuser, kernel_release,
    },
    threads::{ThreadState, ticks_per_second},
    wake::{Ready, Waitable, Waker, wait, wait_for_either},
};
pub use run_lock::{RunFile, RunLock};

/// What to do about a file that the system refuses, in words that go on a sentence.
pub fn remedy(error: &std::io::Error) -> &'static str {
    use std::io::ErrorKind;
    match error.kind() {
        ErrorKind::StorageFull => "free some space on its disk",
        ErrorKind::QuotaExceeded => "free some space or raise the disk quota of this user",
        ErrorKind::ReadOnlyFilesystem => "make its file system writable",
        ErrorKind::PermissionDenied => "let this user read and write it",
        ErrorKind::NotADirectory | ErrorKind::AlreadyExists => {
            "move away the file that lies where a folder has to be"
        }
        ErrorKind::NotFound => "check the path, and for a data directory --data-dir",
        _ => "check that disk and its file system",
    }
}
