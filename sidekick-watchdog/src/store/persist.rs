//! The state in sled, written in the background, for a quick start. Never the only copy: snapshot and log can always
//! rebuild it, and do whenever anything is wrong with it.
//!
//! sled's own `flush` is not durable on Linux, its large values go to files that are never fsynced, and its recovery
//! may panic or hang. Hence: 8 MiB segments and chunks of at most 64 KiB (no such files), an fdatasync of its `db`
//! file after each flush, and a thread of its own that nobody waits for longer than a limit.

use std::path::{Path, PathBuf};
use std::sync::mpsc::{Receiver, RecvTimeoutError, Sender, channel};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread::JoinHandle;
use std::time::{Duration, SystemTime};

use super::machine::Machine;
use super::snapshot;
use super::state::State;
use crate::platform;

/// Larger values would go to files of their own, which are never fsynced.
const CHUNK_BYTES: usize = 64 << 10;
/// How often a changed state is written.
const INTERVAL: Duration = Duration::from_secs(1);
/// How long a database may take to open before it is set aside.
pub(crate) const OPEN_TIMEOUT: Duration = Duration::from_secs(10);
const CACHE_BYTES: u64 = 2 << 20;
const SEGMENT_BYTES: usize = 8 << 20;
const COUNT: &[u8] = b"count";

enum Message {
    Run(Arc<Machine>),
    Stop,
}

/// Why the database cannot be used.
enum Fault {
    /// There is no room to open it.
    DiskFull,
    /// Anything else; it is set aside.
    Unusable(String),
}

/// The thread that owns the database.
#[derive(Debug)]
pub(crate) struct Persist {
    sender: Sender<Message>,
    thread: Mutex<Option<JoinHandle<()>>>,
}

/// Opens the database in `directory` and reads the state in it. What cannot be opened in time, panics or is damaged is
/// renamed to `<directory>.bad-<time>` and a new one is made; when that fails too, the store does without.
pub(crate) fn open(directory: &Path, timeout: Duration) -> (Option<Persist>, Option<State>) {
    for _ in 0..2 {
        let (sender, receiver) = channel();
        let (opened_sender, opened) = channel();
        let path = directory.to_owned();
        let thread = std::thread::Builder::new()
            .name("sidekick-sled".to_owned())
            .spawn(move || run(&path, &opened_sender, &receiver));
        let Ok(thread) = thread else { break };
        let cause = match opened.recv_timeout(timeout) {
            Ok(Ok(state)) => {
                let thread = Mutex::new(Some(thread));
                return (Some(Persist { sender, thread }), state);
            }
            Ok(Err(Fault::DiskFull)) => {
                // Nothing is wrong with the database: it stays where it is for the next start.
                let _ = thread.join();
                break;
            }
            Ok(Err(Fault::Unusable(cause))) => {
                let _ = thread.join();
                cause
            }
            Err(RecvTimeoutError::Disconnected) => {
                let _ = thread.join();
                "it panicked".to_owned()
            }
            // The thread is left to itself; it holds files that are about to be renamed.
            Err(RecvTimeoutError::Timeout) => format!("it took longer than {timeout:?}"),
        };
        let aside = aside(directory);
        tracing::warn!(path = ?directory, ?aside, %cause, "sled cannot be opened; rebuilding from snapshot and log");
        if std::fs::rename(directory, &aside).is_err() {
            break;
        }
    }
    tracing::warn!(path = ?directory, "going on without sled; starts take longer");
    (None, None)
}

fn aside(directory: &Path) -> PathBuf {
    let now = SystemTime::now()
        .duration_since(SystemTime::UNIX_EPOCH)
        .unwrap_or_default();
    let parent = directory.parent().unwrap_or(directory);
    parent.join(format!("sled.bad-{}", now.as_millis()))
}

fn load(db: &sled::Db) -> Result<Option<State>, String> {
    let Some(count) = db.get(COUNT).map_err(|error| error.to_string())? else {
        return Ok(None);
    };
    let count: [u8; 4] = count
        .as_ref()
        .try_into()
        .map_err(|_| "its count is not one")?;
    let mut bytes = Vec::new();
    for chunk in 0..u32::from_le_bytes(count) {
        let part = db
            .get(chunk.to_be_bytes())
            .map_err(|error| error.to_string())?;
        bytes.extend_from_slice(&part.ok_or("a chunk is missing")?);
    }
    snapshot::unseal(&bytes).map(Some)
}

fn save(db: &sled::Db, file: &std::fs::File, state: &State) -> Result<(), String> {
    let bytes = snapshot::seal(state).map_err(|error| error.to_string())?;
    let mut batch = sled::Batch::default();
    let mut count = 0_u32;
    for chunk in bytes.chunks(CHUNK_BYTES) {
        batch.insert(&count.to_be_bytes(), chunk);
        count += 1;
    }
    batch.insert(COUNT, &count.to_le_bytes());
    db.apply_batch(batch).map_err(|error| error.to_string())?;
    db.flush().map_err(|error| error.to_string())?;
    file.sync_data().map_err(|error| error.to_string())
}

fn run(
    directory: &Path,
    opened: &Sender<Result<Option<State>, Fault>>,
    messages: &Receiver<Message>,
) {
    let open = || -> Result<_, Fault> {
        // sled would let everybody in; what is in the way is sled's to complain of.
        let _ = platform::create_private_dir(directory);
        let config = sled::Config::default()
            .path(directory)
            .cache_capacity(CACHE_BYTES)
            .segment_size(SEGMENT_BYTES)
            .flush_every_ms(None);
        let db = config.open().map_err(|error| match error {
            sled::Error::Io(error) if error.kind() == std::io::ErrorKind::StorageFull => {
                Fault::DiskFull
            }
            error => Fault::Unusable(error.to_string()),
        })?;
        let state = load(&db).map_err(Fault::Unusable)?;
        let file = std::fs::File::open(directory.join("db"))
            .map_err(|error| Fault::Unusable(error.to_string()))?;
        Ok((db, file, state))
    };
    let (db, file) = match open() {
        Ok((db, file, state)) => {
            if opened.send(Ok(state)).is_err() {
                return;
            }
            (db, file)
        }
        Err(cause) => {
            let _ = opened.send(Err(cause));
            return;
        }
    };
    let Ok(Message::Run(machine)) = messages.recv() else {
        return;
    };
    let mut saved = machine.read(|state| state.last_applied);
    let mut applied = machine.applied();
    loop {
        // Asleep while nothing changes; a burst is written once per interval.
        let stop = !matches!(
            messages.recv_timeout(INTERVAL),
            Err(RecvTimeoutError::Timeout)
        );
        if applied.has_changed().unwrap_or(true) || stop {
            applied.mark_unchanged();
            let state = machine.read(State::clone);
            if state.last_applied != saved {
                if let Err(cause) = save(&db, &file, &state) {
                    tracing::warn!(%cause, "sled cannot be written; going on without it");
                    return;
                }
                saved = state.last_applied;
            }
        }
        if stop {
            return;
        }
    }
}

impl Persist {
    /// Starts writing `machine`'s state.
    pub(crate) fn start(&self, machine: Arc<Machine>) {
        let _ = self.sender.send(Message::Run(machine));
    }

    /// Writes once more and closes the database. Blocks; a database that hangs is left to itself.
    pub(crate) fn stop(&self, timeout: Duration) {
        let _ = self.sender.send(Message::Stop);
        let thread = self
            .thread
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .take();
        let Some(thread) = thread else { return };
        let (sender, receiver) = channel();
        let waiter = std::thread::Builder::new()
            .name("sidekick-sled-end".to_owned())
            .spawn(move || {
                let _ = thread.join();
                let _ = sender.send(());
            });
        if waiter.is_ok() && receiver.recv_timeout(timeout).is_err() {
            tracing::warn!(?timeout, "sled did not close in time");
        }
    }
}
