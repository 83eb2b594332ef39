//! The lock of one run of a helper: by it a watchdog finds the one that a killed watchdog left running.
//!
//! As an engine does, the helper inherits it with all that it starts. Its file says when the helper is over: what that
//! left running on purpose is not this lock's to end (a watchdog that lives ends it with the engine: `kill_strays`).

use std::fs::{self, File};
use std::io;
use std::path::Path;
use std::time::{Duration, Instant};

use super::{
    Process, create_private_dir, create_private_file, is_lock_free, lock_holders, read_at,
    try_lock, write_all_at,
};

/// How long a killed helper may take to be gone.
const ENDING_MAX: Duration = Duration::from_secs(5);
const ENDING_POLL: Duration = Duration::from_millis(5);
const OVER: &[u8] = b"over\n";

/// One run's lock.
#[derive(Debug)]
pub struct RunLock {
    /// Locked, for the helper to inherit; to be closed once it has.
    pub inherited: File,
    /// The same file.
    pub file: RunFile,
}

/// Where the end of one run is written down.
#[derive(Debug)]
pub struct RunFile(File);

impl RunFile {
    /// The helper has ended, and its process group with it.
    pub fn note_end(&self) {
        // Without it the next run ends what this one left running: no reason to fail.
        if let Err(error) = write_all_at(&self.0, OVER, 0) {
            tracing::warn!(%error, "the end of a helper cannot be noted");
        }
    }

    fn is_over(&self) -> io::Result<bool> {
        let mut text = [0; OVER.len()];
        Ok(read_at(&self.0, &mut text, 0)? == OVER.len() && text == *OVER)
    }
}

impl RunLock {
    /// Ends the run before, of an earlier watchdog, if it still goes on, with all that it started, and locks a new file at
    /// `path`. `what` names the helper in the log. Blocks until that one is gone, up to 5 s.
    ///
    /// # Errors
    /// What the system said; or that the earlier one does not end.
    pub fn take(path: &Path, what: &str) -> io::Result<Self> {
        if let Ok(earlier) = File::open(path).map(RunFile) {
            if !earlier.is_over()? {
                end(&earlier.0, what)?;
            }
            // Its file is its own: this one's lock must not be that of what it left running.
            fs::remove_file(path)?;
        }
        if let Some(folder) = path.parent() {
            create_private_dir(folder)?;
        }
        let inherited = create_private_file(path)?;
        try_lock(&inherited)?;
        let file = RunFile(create_private_file(path)?);
        Ok(Self { inherited, file })
    }
}

fn end(file: &File, what: &str) -> io::Result<()> {
    let asked_at = Instant::now();
    let mut killed = 0;
    while !is_lock_free(file)? {
        if asked_at.elapsed() > ENDING_MAX {
            return Err(io::Error::new(
                io::ErrorKind::TimedOut,
                "one that an earlier watchdog ran does not end",
            ));
        }
        killed += kill_holders(file);
        std::thread::sleep(ENDING_POLL);
    }
    if killed > 0 {
        tracing::warn!(what, "one of an earlier watchdog was still running; killed");
    }
    Ok(())
}

/// Kills who holds the lock; of one that leads its process group, as a helper does, also those of the group that closed it.
fn kill_holders(file: &File) -> usize {
    let holders = lock_holders(file).unwrap_or_default();
    let processes = holders
        .into_iter()
        .filter_map(|(pid, ticks)| Process::open(pid, Some(ticks)).ok());
    let kill = |process: Process| match process.leads_group() {
        true => process.kill_group(),
        false => process.kill(),
    };
    processes.map(kill).count()
}
