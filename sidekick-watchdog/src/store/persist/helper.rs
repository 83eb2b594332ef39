//! sled in a process of its own: `sidekick-watchdog state load|save DIR`, started by the watchdog and by nobody else.
//!
//! Both sides share one file, the helper's standard input and output: the watchdog writes the state into it, the helper
//! reads it to its end and writes its answer behind it. A helper that hangs is killed. One that outlives its watchdog
//! holds a lock until it is done; the next one waits for that.

use std::fs::File;
use std::io::{Read, Write};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::Arc;
use std::time::Duration;

use super::{Fault, Task, took_too_long};
use crate::exit::ExitCode;
use crate::platform::{self, HelperEnd};

const LOAD: &str = "load";
const SAVE: &str = "save";
/// The answer of a helper that had no room.
const FULL: &[u8] = b"disk full";

/// Has a helper do `task`. Blocks for `limit` at most.
pub(super) fn run(
    executable: &Path,
    directory: &Path,
    task: &Task,
    limit: Duration,
) -> Result<Vec<u8>, Fault> {
    let not_tried = |error: std::io::Error| match error.kind() {
        std::io::ErrorKind::StorageFull => Fault::DiskFull,
        _ => Fault::NotTried(format!("no process for sled: {error}")),
    };
    let path = beside(directory, "handover");
    // A new file each time: an older helper may still read the old one.
    let _ = std::fs::remove_file(&path);
    let shared = platform::create_private_file(&path).map_err(not_tried)?;
    let ended = give_and_wait(executable, directory, task, &shared, limit);
    let _ = std::fs::remove_file(&path);
    let answer = answer(&shared, task).map_err(not_tried)?;
    match ended.map_err(not_tried)? {
        HelperEnd::Code(0) => Ok(answer),
        HelperEnd::TimedOut | HelperEnd::Cancelled => Err(took_too_long(limit)),
        HelperEnd::Signal(signal) => Err(Fault::Unusable(format!("signal {signal} ended it"))),
        HelperEnd::Code(_) if answer == FULL => Err(Fault::DiskFull),
        HelperEnd::Code(code) if answer.is_empty() => {
            Err(Fault::Unusable(format!("it ended with code {code}")))
        }
        HelperEnd::Code(_) => Err(Fault::Unusable(
            String::from_utf8_lossy(&answer).into_owned(),
        )),
    }
}

fn give_and_wait(
    executable: &Path,
    directory: &Path,
    task: &Task,
    shared: &File,
    limit: Duration,
) -> std::io::Result<HelperEnd> {
    let word = match task {
        Task::Load => LOAD,
        Task::Save(bytes) => {
            platform::write_all_at(shared, bytes, 0)?;
            SAVE
        }
    };
    let mut command = Command::new(executable);
    // Nothing of ours: what has our environment passes for an engine's child.
    command
        .arg("state")
        .arg(word)
        .arg(directory)
        .env_clear()
        .stdin(Stdio::from(shared.try_clone()?))
        .stdout(Stdio::from(shared.try_clone()?))
        .stderr(Stdio::null());
    platform::run_helper(&mut command, limit, None, None)
}

/// What the helper wrote behind what it was given.
fn answer(shared: &File, task: &Task) -> std::io::Result<Vec<u8>> {
    let given = match task {
        Task::Load => 0,
        Task::Save(bytes) => bytes.len() as u64,
    };
    let len = shared.metadata()?.len().saturating_sub(given);
    let mut bytes = vec![0; usize::try_from(len).unwrap_or(usize::MAX)];
    let mut read = 0;
    while read < bytes.len() {
        match platform::read_at(shared, &mut bytes[read..], given + read as u64)? {
            0 => break,
            n => read += n,
        }
    }
    bytes.truncate(read);
    Ok(bytes)
}

/// A file beside the database.
fn beside(directory: &Path, kind: &str) -> PathBuf {
    directory.with_extension(kind)
}

/// What a helper does: `load` or `save` in `directory`, the state on standard input or output.
pub(crate) fn main(word: &str, directory: &Path) -> ExitCode {
    platform::make_new_files_private();
    let result = work(word, directory);
    let (answer, code) = match &result {
        Ok(bytes) => (bytes.as_slice(), ExitCode::Ok),
        Err(Fault::DiskFull) => (FULL, ExitCode::StoreUnusable),
        Err(Fault::NotTried(why) | Fault::Unusable(why)) => {
            (why.as_bytes(), ExitCode::StoreUnusable)
        }
    };
    match std::io::stdout().lock().write_all(answer) {
        Ok(()) => code,
        Err(_) => ExitCode::StoreUnusable,
    }
}

fn work(word: &str, directory: &Path) -> Result<Vec<u8>, Fault> {
    let not_tried = |error: std::io::Error| Fault::NotTried(error.to_string());
    let mut bytes = Vec::new();
    std::io::stdin()
        .lock()
        .read_to_end(&mut bytes)
        .map_err(not_tried)?;
    let lock = platform::create_private_file(&beside(directory, "lock")).map_err(not_tried)?;
    lock.lock().map_err(not_tried)?;
    let task = match word {
        LOAD => Task::Load,
        SAVE => Task::Save(Arc::new(bytes)),
        _ => return Err(Fault::NotTried(format!("{word:?} is no task"))),
    };
    task.run(directory)
}
