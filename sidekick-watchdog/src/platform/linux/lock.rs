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
        #[cfg(test)]
        Err(TryLockError::WouldBlock) => try_lock_again(file),
        #[cfg(not(test))]
        Err(TryLockError::WouldBlock) => Ok(false),
        Err(TryLockError::Error(error)) => Err(error),
    }
}

/// It may have been held by a program that another test starts.
#[cfg(test)]
fn try_lock_again(file: &File) -> io::Result<bool> {
    let _none = super::process::nothing_is_started();
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

/// Whether anybody holds the lock of `file`, this process included, found out without taking it: unlike
/// [`is_lock_free`] it makes nobody else's [`try_lock`] fail.
///
/// Sees only what this user may see; some milliseconds.
///
/// # Errors
/// `file` has no metadata.
pub fn is_lock_held(file: &File) -> io::Result<bool> {
    #[cfg(test)]
    let _none = super::process::nothing_is_started();
    let wanted = file.metadata()?;
    let mut pids = procfs::all_pids().into_iter();
    Ok(pids.any(|pid| has_open(pid, &wanted, is_locked)))
}

/// The processes, this one excepted, that hold the lock of `file`, oldest first: each one's number and start time, by
/// which [`super::process::Process::open`] knows it again. Who merely has the file open (a backup, a pager) is none.
///
/// Looks through `/proc/<pid>/fd` and `fdinfo`, so it sees only what this user may see; some milliseconds.
///
/// # Errors
/// `file` has no metadata.
pub fn lock_holders(file: &File) -> io::Result<Vec<(u32, u64)>> {
    processes_with(file, is_locked)
}

/// As [`lock_holders`], the processes that have `file` open, whether they hold its lock or not.
///
/// # Errors
/// `file` has no metadata.
pub fn openers(file: &File) -> io::Result<Vec<(u32, u64)>> {
    processes_with(file, |_, _| true)
}

fn processes_with(file: &File, wants: fn(u32, &str) -> bool) -> io::Result<Vec<(u32, u64)>> {
    #[cfg(test)]
    let _none = super::process::nothing_is_started();
    let wanted = file.metadata()?;
    let mut holders: Vec<(u64, u32)> = procfs::all_pids()
        .into_iter()
        .filter(|&pid| pid != std::process::id() && has_open(pid, &wanted, wants))
        .filter_map(|pid| Some((procfs::stat(pid)?.start_ticks, pid)))
        .collect();
    holders.sort_unstable();
    Ok(holders
        .into_iter()
        .map(|(ticks, pid)| (pid, ticks))
        .collect())
}

fn has_open(pid: u32, wanted: &fs::Metadata, wants: fn(u32, &str) -> bool) -> bool {
    let Ok(descriptors) = fs::read_dir(format!("/proc/{pid}/fd")) else {
        return false;
    };
    descriptors.flatten().any(|descriptor| {
        fs::metadata(descriptor.path())
            .is_ok_and(|found| found.ino() == wanted.ino() && found.dev() == wanted.dev())
            && wants(pid, &descriptor.file_name().to_string_lossy())
    })
}

/// Whether the descriptor's open file description holds a flock: the kernel tells the locks of that one only.
fn is_locked(pid: u32, descriptor: &str) -> bool {
    fs::read_to_string(format!("/proc/{pid}/fdinfo/{descriptor}")).is_ok_and(|info| {
        info.lines()
            .any(|line| line.starts_with("lock:") && line.contains(" FLOCK "))
    })
}

#[cfg(test)]
mod tests {
    use std::process::{Command, Stdio};

    use super::super::process::spawn_other;
    use super::*;

    /// Looks at a lock without end, while another takes it and lets it go again: it is never refused. Where the look takes
    /// the lock for a moment ([`is_lock_free`], the broken variant) it is.
    #[test]
    fn who_looks_at_a_lock_is_in_nobodys_way() {
        fn is_refused(look: fn(&File) -> io::Result<bool>, until_refused: bool) -> bool {
            const TIMES: u32 = 300;
            let dir = tempfile::tempdir().expect("temporary folder");
            let path = dir.path().join("lock");
            let own = File::create(&path).expect("made");
            let (mut tries, mut is_refused) = (0, false);
            let (done, is_done) = std::sync::mpsc::channel::<()>();
            let other = File::open(&path).expect("opened");
            let looker = std::thread::spawn(move || {
                let mut looks = 0;
                loop {
                    look(&other).expect("looked");
                    looks += 1;
                    if is_done.try_recv() == Err(std::sync::mpsc::TryRecvError::Disconnected) {
                        return looks;
                    }
                }
            });
            let deadline = std::time::Instant::now() + std::time::Duration::from_secs(60);
            while tries < TIMES || (until_refused && !is_refused) {
                tries += 1;
                match try_lock(&own).expect("asked") {
                    true => own.unlock().expect("let go"),
                    false => is_refused = true,
                }
                std::thread::yield_now();
                if std::time::Instant::now() > deadline {
                    break;
                }
            }
            drop(done);
            assert!(looker.join().expect("no panic") > 0);
            is_refused
        }
        assert!(!is_refused(is_lock_held, false));
        assert!(is_refused(is_lock_free, true));
        let dir = tempfile::tempdir().expect("temporary folder");
        let file = File::create(dir.path().join("lock")).expect("made");
        assert!(!is_lock_held(&file).expect("looked"));
        assert!(try_lock(&file).expect("asked"));
        assert!(is_lock_held(&file).expect("looked"));
    }

    /// Both have the file open; only the one that inherited the locked descriptor holds the lock.
    #[test]
    fn who_merely_has_the_file_open_holds_no_lock() {
        let dir = tempfile::tempdir().expect("temporary folder");
        let path = dir.path().join("lock");
        let locked = File::create(&path).expect("made");
        assert!(try_lock(&locked).expect("asked"));
        let sleeper = |file: File| {
            let mut command = Command::new("sleep");
            command.arg("60").stdin(Stdio::from(file));
            spawn_other(&mut command).expect("sleep runs")
        };
        let mut holder = sleeper(locked.try_clone().expect("a copy"));
        let mut bystander = sleeper(File::open(&path).expect("opened"));
        let found = lock_holders(&locked).expect("looked");
        let ends = [holder.kill(), bystander.kill()];
        let waits = [holder.wait(), bystander.wait()];
        assert!(ends.iter().all(Result::is_ok) && waits.iter().all(Result::is_ok));
        let pids: Vec<u32> = found.iter().map(|&(pid, _)| pid).collect();
        assert_eq!(pids, [holder.id()]);
    }
}
