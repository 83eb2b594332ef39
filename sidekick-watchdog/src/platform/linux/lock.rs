//! flock: who holds a file.
//!
//! A flock belongs to the *open file description*: every process that inherited the descriptor holds it, and it is
//! free only when the last of them is gone. That is what makes it a proof of death.

use std::fs::{self, File, TryLockError};
use std::io;
use std::os::unix::fs::MetadataExt;

use super::procfs;

/// Takes the exclusive lock if nobody holds it; it lasts as long as `file` and every copy of it in any process.
///
/// # Errors
/// What the system said, other than that the lock is held (`Ok(false)`).
pub fn try_lock(file: &File) -> io::Result<bool> {
    match file.try_lock() {
        Ok(()) => Ok(true),
        Err(TryLockError::WouldBlock) => Ok(false),
        Err(TryLockError::Error(error)) => Err(error),
    }
}

/// Whether nobody holds the lock of `file`; it is not held afterwards either.
///
/// # Errors
/// What the system said.
pub fn is_lock_free(file: &File) -> io::Result<bool> {
    let free = try_lock(file)?;
    if free {
        file.unlock()?;
    }
    Ok(free)
}

/// The processes, this one excepted, that have `file`'s inode open, oldest first: each one's number and start time, by
/// which [`super::process::Process::open`] knows it again.
///
/// Looks through `/proc/<pid>/fd`, so it sees only what this user may see; some milliseconds.
///
/// # Errors
/// `file` has no metadata.
pub fn lock_holders(file: &File) -> io::Result<Vec<(u32, u64)>> {
    let wanted = file.metadata()?;
    let mut holders: Vec<(u64, u32)> = procfs::all_pids()
        .into_iter()
        .filter(|&pid| pid != std::process::id() && has_open(pid, &wanted))
        .filter_map(|pid| Some((procfs::stat(pid)?.start_ticks, pid)))
        .collect();
    holders.sort_unstable();
    Ok(holders
        .into_iter()
        .map(|(ticks, pid)| (pid, ticks))
        .collect())
}

fn has_open(pid: u32, wanted: &fs::Metadata) -> bool {
    let Ok(descriptors) = fs::read_dir(format!("/proc/{pid}/fd")) else {
        return false;
    };
    descriptors.flatten().any(|descriptor| {
        fs::metadata(descriptor.path())
            .is_ok_and(|found| found.ino() == wanted.ino() && found.dev() == wanted.dev())
    })
}
