//! The lock of the command before a start: by it a watchdog finds the one that a killed watchdog left running.
//!
//! As an engine does, the command inherits it with all that it starts. Its file says when the command is over: what that
//! left running on purpose is nobody's to end.

use std::fs::{self, File};
use std::io;
use std::time::{Duration, Instant};

use super::{LaunchLocks, kill_holders};
use crate::platform::{
    create_private_dir, create_private_file, is_lock_free, read_at, try_lock, write_all_at,
};

/// How long a killed command may take to be gone.
const ENDING_MAX: Duration = Duration::from_secs(5);
const ENDING_POLL: Duration = Duration::from_millis(5);
const OVER: &[u8] = b"over\n";

/// One run's lock.
#[derive(Debug)]
pub struct HookLock {
    /// Locked, for the command to inherit; to be closed once it has.
    pub inherited: File,
    /// The same file.
    pub file: HookFile,
}

/// Where the end of one run is written down.
#[derive(Debug)]
pub struct HookFile(File);

impl HookFile {
    /// The command has ended, and its process group with it.
    pub fn note_end(&self) {
        // Without it the next start ends what this one left running: no reason to fail.
        if let Err(error) = write_all_at(&self.0, OVER, 0) {
            tracing::warn!(%error, "the end of [hooks] pre_start cannot be noted");
        }
    }

    fn is_over(&self) -> io::Result<bool> {
        let mut text = [0; OVER.len()];
        Ok(read_at(&self.0, &mut text, 0)? == OVER.len() && text == *OVER)
    }
}

impl LaunchLocks {
    /// Ends the command of an earlier watchdog if it still runs, with all that it started, and locks a new file. Blocks
    /// until that one is gone, up to 5 s.
    ///
    /// # Errors
    /// What the system said; or that the earlier one does not end.
    pub fn lock_hook(&self) -> io::Result<HookLock> {
        let path = self.dir.join("pre_start");
        if let Ok(earlier) = File::open(&path).map(HookFile) {
            if !earlier.is_over()? {
                end(&earlier.0)?;
            }
            // Its file is its own: this one's lock must not be that of what it left running.
            fs::remove_file(&path)?;
        }
        create_private_dir(&self.dir)?;
        let inherited = create_private_file(&path)?;
        try_lock(&inherited)?;
        let file = HookFile(create_private_file(&path)?);
        Ok(HookLock { inherited, file })
    }
}

fn end(file: &File) -> io::Result<()> {
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
        tracing::warn!("[hooks] pre_start of an earlier watchdog was still running; killed");
    }
    Ok(())
}
