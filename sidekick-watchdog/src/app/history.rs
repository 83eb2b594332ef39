//! The last deaths, kept over the watchdog's own: `<data_dir>/deaths.json`.
//!
//! Written by a task of its own, the newest state only, so that a disk that stands still holds nobody up. Not fsynced:
//! after a power cut the list may be shorter. Crash reports are durable, and clean ends are here alone.

use std::fs;
use std::io::{self, Read, Write};
use std::path::{Path, PathBuf};

use tokio::sync::watch;
use tracing::warn;

use crate::api::{DEATHS_KEPT, Death};
use crate::platform::create_private_file;

/// The file in the data directory.
const FILE: &str = "deaths.json";
/// A file beyond this size is not ours.
const FILE_BYTES_MAX: u64 = 1 << 20;

/// Takes the list whenever it changes.
#[derive(Debug)]
pub(super) struct History {
    deaths: watch::Sender<Vec<Death>>,
}

impl History {
    /// What an earlier watchdog has kept (nothing, if that cannot be read), and the task that writes what comes until
    /// the history is dropped.
    pub(super) fn open(data_dir: &Path) -> (Self, Vec<Death>, impl Future<Output = ()> + use<>) {
        let path = data_dir.join(FILE);
        let kept = read(&path);
        let deaths = watch::Sender::new(kept.clone());
        let changes = deaths.subscribe();
        (Self { deaths }, kept, write_changes(path, changes))
    }

    /// The list as it is now. Never blocks.
    pub(super) fn keep(&self, deaths: &[Death]) {
        self.deaths.send_if_modified(|kept| {
            let is_new = kept != deaths;
            if is_new {
                deaths.clone_into(kept);
            }
            is_new
        });
    }
}

async fn write_changes(path: PathBuf, mut changes: watch::Receiver<Vec<Death>>) {
    let mut is_told = false;
    while changes.changed().await.is_ok() {
        let deaths = changes.borrow_and_update().clone();
        let path = path.clone();
        let written = tokio::task::spawn_blocking(move || write(&path, &deaths)).await;
        if let Ok(Err(error)) = written
            && !is_told
        {
            warn!(%error, "earlier deaths are not kept for the next watchdog");
            is_told = true;
        }
    }
}

fn read(path: &Path) -> Vec<Death> {
    let mut text = String::new();
    let read =
        fs::File::open(path).and_then(|file| file.take(FILE_BYTES_MAX).read_to_string(&mut text));
    if read.is_err() {
        return Vec::new();
    }
    let mut deaths: Vec<Death> = serde_json::from_str(&text).unwrap_or_default();
    let surplus = deaths.len().saturating_sub(DEATHS_KEPT);
    deaths.drain(..surplus);
    deaths
}

fn write(path: &Path, deaths: &[Death]) -> io::Result<()> {
    let new = path.with_extension("new");
    let mut file = create_private_file(&new)?;
    file.set_len(0)?;
    file.write_all(&serde_json::to_vec(deaths)?)?;
    fs::rename(new, path)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn death(incarnation: u32) -> Death {
        Death {
            incarnation,
            cause: "quit".into(),
            ..Death::default()
        }
    }

    #[tokio::test]
    async fn what_one_keeps_the_next_one_has() {
        let dir = tempfile::tempdir().unwrap();
        let (history, kept, task) = History::open(dir.path());
        assert!(kept.is_empty());
        let task = tokio::spawn(task);
        let deaths: Vec<Death> = (1..=20).map(death).collect();
        history.keep(&deaths[..3]);
        history.keep(&deaths);
        drop(history);
        task.await.unwrap();
        let (_, kept, _) = History::open(dir.path());
        assert_eq!(kept, deaths[20 - DEATHS_KEPT..]);
        fs::write(dir.path().join(FILE), "[{]").unwrap();
        assert!(History::open(dir.path()).1.is_empty());
    }
}
