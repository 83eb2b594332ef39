//! The seam behind which every system call of the watchdog lies.
//!
//! What is here so far is Linux (`platform/linux/`); another system is a sibling of that folder with the same names.
//! Everything is safe Rust over rustix and the standard library; nothing outside this module tells systems apart.
//!
//! - [`Process`]: a process held by its pidfd: told of its death, signalled without pid reuse, reaped.
//! - [`spawn`]: starts a program that inherits a launch lock.
//! - [`Waker`], [`wait`]: sleeping until one of a few things happens.
//! - [`ShutdownSignals`]: SIGTERM and its kin as a future.
//! - [`ControlListener`], [`connect_control`]: how commands reach a running watchdog.
//! - [`data_dir`], [`runtime_dir`]: the folders that belong to one watchdog alone.

pub mod data_dir;
#[cfg(target_os = "linux")]
mod linux;
pub mod runtime_dir;

#[cfg(target_os = "linux")]
pub use linux::{
    clock::{boot_id, monotonic_now},
    control_socket::{ControlListener, ControlStream, connect_control},
    files::{
        allocated_bytes, bytes_of, create_private_dir, create_private_file, is_private_dir,
        is_readable_by_all, open_private_append, os_string_from_bytes, path_from_bytes, punch_hole,
        read_at, set_private, sync_dir, write_all_at,
    },
    helper::{HelperEnd, run_helper},
    inotify::FileWatch,
    lock::{is_lock_free, lock_holders, try_lock},
    oom::{OomCounters, kernel_log_names},
    process::{
        Exit, NO_EXECUTABLE_FORMAT, Process, ProcessState, Spawn, become_subreaper,
        close_inherited_on_exec, kill_strays, leave_session, own_children, spawn, spawn_other,
    },
    signals::ShutdownSignals,
    wake::{Ready, Waitable, Waker, wait},
};

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
        _ => "check that disk and its file system",
    }
}
