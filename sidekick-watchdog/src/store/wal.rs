//! The log on disk: votes, entries, truncations and purges in one order, one fdatasync a batch.
//!
//! Segments are pre-zeroed in steps and recycled, so that a batch costs one write and one fdatasync without a change
//! of the file's metadata. A thread of its own writes; whatever is queued when it comes back from the disk is its
//! next batch. A failed write or fdatasync is final: nothing is written after it, everybody is told
//! (CORRECTNESS rule 10; what a failed fsync left in the page cache proves nothing).
//!
//! Knows nothing of openraft and of commands; entries are ids, kinds and bytes.

mod batch;
mod error;
mod frame;
mod index;
mod mend;
mod options;
mod read;
mod recovery;
mod scan;
mod segment;
#[cfg(test)]
mod tests;
mod writer;

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::io;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::mpsc::{Receiver, SyncSender, TrySendError, sync_channel};
use std::sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError};
use std::thread::JoinHandle;

use bytes::Bytes;

pub use error::WalError;
pub use frame::EntryId;
pub(crate) use frame::Kind;
#[cfg(test)]
pub(crate) use frame::broken;
use index::Index;
use mend::MendedByte;
pub(crate) use options::Rot;
pub use options::WalOptions;
pub(crate) use read::LogReader;
use read::read_one;
use recovery::{Reading, Recovered};
pub(crate) use scan::Damage;
use segment::Segment;
pub(crate) use segment::segment_name;
use writer::Writer;

use crate::position::Loss;

/// No batch is larger, but for a single entry that is.
pub(crate) const BATCH_BYTES_MAX: usize = 4 << 20;
/// Jobs that may wait for the thread; openraft keeps one or two in flight.
const JOBS_MAX: usize = 1024;

/// Whom the node votes for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Vote {
    pub(crate) term: u64,
    pub(crate) node: u64,
    pub(crate) committed: bool,
}

/// One entry as the log sees it.
#[derive(Clone, Debug)]
pub(crate) struct LogEntry {
    pub(crate) id: EntryId,
    pub(crate) kind: Kind,
    pub(crate) payload: Bytes,
}

/// Is called from the log's thread when the job is durable, or failed for good.
pub(crate) type Done = Box<dyn FnOnce(io::Result<()>) + Send>;

pub(crate) enum Job {
    Append { entries: Vec<LogEntry>, done: Done },
    Vote { vote: Vote, done: Done },
    Truncate { since: EntryId, done: Done },
    Purge { upto: EntryId, done: Done },
    Prepare { bytes: u64, done: Done },
    Stop,
}

/// Counters of the log; all grow but `log_bytes` and `mended`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct WalStats {
    /// Bytes of all segment files, spares included.
    pub log_bytes: u64,
    /// fdatasyncs of batches.
    pub syncs: u64,
    /// Entries written.
    pub entries: u64,
    /// Bytes written in frames.
    pub bytes: u64,
    /// How long the last fdatasync took, in microseconds.
    pub last_sync_us: u64,
    /// Bytes on the disk that are not what was written, where that is known and nothing is lost.
    pub mended: u64,
}

#[derive(Debug, Default)]
struct Counters {
    log_bytes: AtomicU64,
    syncs: AtomicU64,
    entries: AtomicU64,
    bytes: AtomicU64,
    last_sync_us: AtomicU64,
    /// Bytes that can be written without asking the file system for space.
    room: AtomicU64,
}

#[derive(Debug, Default)]
struct Inner {
    index: Index,
    segments: BTreeMap<u64, Arc<Segment>>,
    vote: Option<Vote>,
    purged: Option<EntryId>,
    last: Option<EntryId>,
    committed: Option<EntryId>,
    /// Recent entries, consecutive; those not yet written are never dropped.
    cache: VecDeque<LogEntry>,
    cache_bytes: usize,
    /// Index of the last entry written.
    written: u64,
    /// Entries that are damaged on the disk.
    lost: BTreeMap<u64, LostEntry>,
    /// Bytes on the disk that are not what was written, where that is known.
    mended: BTreeSet<MendedByte>,
}

/// An entry that is damaged on the disk.
#[derive(Clone, Debug)]
pub(crate) struct LostEntry {
    pub(crate) id: EntryId,
    /// Where it lay.
    pub(crate) damage: Damage,
    /// What it is read as; empty until that is known.
    pub(crate) stand_in: Bytes,
    /// That is the entry itself, but for records that are holes: it is read as an entry that was never damaged.
    pub(crate) is_salvaged: bool,
    pub(crate) loss: Loss,
}

impl Inner {
    /// What is on the disk, as `recovered`.
    fn of(recovered: &mut Recovered) -> Self {
        let lost = std::mem::take(&mut recovered.lost).into_iter();
        let lost = lost.map(|(index, (id, damage))| {
            let stand_in = Bytes::new();
            let lost = LostEntry {
                id,
                damage,
                stand_in,
                is_salvaged: false,
                loss: Loss::default(),
            };
            (index, lost)
        });
        let index = std::mem::take(&mut recovered.index);
        Self {
            vote: recovered.vote,
            purged: recovered.purged,
            last: recovered.purged,
            committed: recovered.committed,
            written: index.bounds().map_or(0, |(_, last)| last),
            index,
            segments: std::mem::take(&mut recovered.segments),
            lost: lost.collect(),
            mended: std::mem::take(&mut recovered.mended).into_iter().collect(),
            ..Self::default()
        }
    }

    fn shrink_cache(&mut self, limit: usize) {
        while self.cache_bytes > limit {
            match self.cache.front() {
                Some(entry) if entry.id.index <= self.written => {
                    self.cache_bytes -= entry.payload.len();
                    self.cache.pop_front();
                }
                _ => break,
            }
        }
    }

    fn cached(&self, index: u64) -> Option<&LogEntry> {
        let first = self.cache.front()?.id.index;
        self.cache
            .get(usize::try_from(index.checked_sub(first)?).ok()?)
    }
}

/// What the handle, its readers and the thread share.
#[derive(Debug)]
struct Shared {
    inner: Mutex<Inner>,
    counters: Counters,
    cache_limit: usize,
    /// Why nothing can be written any more.
    failure: OnceLock<String>,
}

impl Shared {
    /// Looks up the id of the last entry on the disk.
    fn find_last(&self) -> Result<(), WalError> {
        let bounds = self.lock().index.bounds();
        let last = match bounds {
            Some((_, last)) => read_one(self, last, Part::Heads(|_| 0))?.map(|entry| entry.id),
            None => None,
        };
        let mut inner = self.lock();
        inner.last = last.or(inner.last);
        if inner.committed > inner.last {
            inner.committed = None;
        }
        Ok(())
    }

    fn lock(&self) -> MutexGuard<'_, Inner> {
        // Nobody panics while holding it; were it so, the data is still a log's.
        self.inner.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// The log. Cheap to clone; the last clone's [`Wal::stop`] ends the thread.
#[derive(Clone, Debug)]
pub(crate) struct Wal {
    reader: LogReader,
    jobs: SyncSender<Job>,
    thread: Arc<Mutex<Option<JoinHandle<()>>>>,
    node: u64,
}

/// What the log holds can be read from it.
impl std::ops::Deref for Wal {
    type Target = LogReader;

    fn deref(&self) -> &LogReader {
        &self.reader
    }
}

/// Which part of an entry's bytes a reader wants.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Part {
    Whole,
    /// Only the first bytes, as many as the function says when it sees the first eight.
    Heads(fn(&[u8]) -> usize),
}

impl Wal {
    /// Opens or makes the log. Blocks for as long as reading the segments takes.
    ///
    /// # Errors
    /// [`WalError::Damaged`], [`WalError::Newer`], [`WalError::Hole`]: what is there is not touched.
    /// [`WalError::Io`]: no permission, no space.
    pub(crate) fn open(options: &WalOptions) -> Result<Self, WalError> {
        let mut recovered = recovery::recover(
            &options.directory,
            Reading::Owner(options.rot),
            options.is_whole,
            &mut |_, _| {},
        )?;
        let node = if recovered.tail.is_some() {
            recovered.node
        } else {
            options.node
        };
        let shared = Arc::new(Shared {
            inner: Mutex::default(),
            counters: Counters::default(),
            cache_limit: options.cache_bytes,
            failure: OnceLock::new(),
        });
        let mut writer = Writer::open(options, &recovered, Arc::clone(&shared), node)?;
        let mut inner = Inner::of(&mut recovered);
        inner
            .segments
            .insert(writer.current().number, Arc::clone(writer.current()));
        *shared.lock() = inner;
        shared.find_last()?;
        for Damage {
            segment, from, to, ..
        } in recovered.damage
        {
            let path = options.directory.join(segment_name(segment));
            tracing::warn!(
                ?path,
                from,
                to,
                "the log is damaged here; the bytes stay as they are until the log is purged behind them"
            );
        }
        for byte in &shared.lock().mended {
            byte.tell(&options.directory.join(segment_name(byte.segment)));
        }
        writer.clean_up()?;
        let (jobs, receiver) = sync_channel(JOBS_MAX);
        let thread = std::thread::Builder::new()
            .name("sidekick-log".to_owned())
            .spawn(move || run(writer, &receiver))
            .map_err(|error| {
                WalError::io(
                    "cannot start the log's thread for",
                    &options.directory,
                    error,
                )
            })?;
        Ok(Self {
            reader: LogReader { shared },
            jobs,
            thread: Arc::new(Mutex::new(Some(thread))),
            node,
        })
    }

    /// The node id that the log belongs to.
    pub(crate) fn node(&self) -> u64 {
        self.node
    }

    pub(crate) fn vote(&self) -> Option<Vote> {
        self.reader.shared.lock().vote
    }

    pub(crate) fn committed(&self) -> Option<EntryId> {
        self.reader.shared.lock().committed
    }

    /// Notes what is committed; written with the next batch, never fsynced on its own.
    pub(crate) fn set_committed(&self, id: Option<EntryId>) {
        let mut inner = self.reader.shared.lock();
        inner.committed = inner.committed.max(id);
    }

    pub(crate) fn stats(&self) -> WalStats {
        let counters = &self.reader.shared.counters;
        // SYNC: counters only; no other data hangs on them.
        WalStats {
            log_bytes: counters.log_bytes.load(Ordering::Relaxed),
            syncs: counters.syncs.load(Ordering::Relaxed),
            entries: counters.entries.load(Ordering::Relaxed),
            bytes: counters.bytes.load(Ordering::Relaxed),
            last_sync_us: counters.last_sync_us.load(Ordering::Relaxed),
            mended: self.reader.shared.lock().mended.len() as u64,
        }
    }

    /// Bytes that can be appended without new space from the file system.
    pub(crate) fn room(&self) -> u64 {
        // SYNC: a hint; the thread decides.
        self.reader.shared.counters.room.load(Ordering::Relaxed)
    }

    /// Whether an earlier write failed, so that nothing can be written any more.
    pub(crate) fn is_dead(&self) -> bool {
        self.failure().is_some()
    }

    /// Why nothing can be written any more, in words for the operator.
    pub(crate) fn failure(&self) -> Option<&str> {
        self.reader.shared.failure.get().map(String::as_str)
    }

    /// Queues entries. They can be read at once; `done` is called when they are durable.
    pub(crate) fn append(&self, entries: Vec<LogEntry>, done: Done) {
        {
            let mut inner = self.reader.shared.lock();
            for entry in &entries {
                // What a truncation or a jump left behind is no neighbour of these.
                if inner
                    .cache
                    .back()
                    .is_some_and(|last| last.id.index + 1 != entry.id.index)
                {
                    inner.cache.clear();
                    inner.cache_bytes = 0;
                }
                inner.cache_bytes += entry.payload.len();
                inner.cache.push_back(entry.clone());
                inner.last = Some(entry.id);
            }
        }
        self.send(Job::Append { entries, done });
    }

    pub(crate) fn save_vote(&self, vote: Vote, done: Done) {
        self.send(Job::Vote { vote, done });
    }

    /// Drops the entries from `since` on; they are gone when `done` is called.
    pub(crate) fn truncate(&self, since: EntryId, done: Done) {
        self.send(Job::Truncate { since, done });
    }

    /// Drops the entries up to and with `upto` and gives their space back.
    pub(crate) fn purge(&self, upto: EntryId, done: Done) {
        self.send(Job::Purge { upto, done });
    }

    /// Gets space for `bytes` more from the file system. Unlike a failed append, a failure here changes nothing.
    pub(crate) fn prepare(&self, bytes: u64, done: Done) {
        self.send(Job::Prepare { bytes, done });
    }

    fn send(&self, job: Job) {
        let job = match self.jobs.try_send(job) {
            Ok(()) => return,
            Err(TrySendError::Full(job)) => match self.jobs.send(job) {
                Ok(()) => return,
                Err(error) => error.0,
            },
            Err(TrySendError::Disconnected(job)) => job,
        };
        finish(job, &Err(io::Error::other(WalError::Closed)));
    }

    /// Writes what is queued and ends the thread. Blocks for one fdatasync.
    pub(crate) fn stop(&self) {
        let _ = self.jobs.send(Job::Stop);
        let thread = self
            .thread
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .take();
        if let Some(thread) = thread {
            let _ = thread.join();
        }
    }
}

/// Tells a job that will not be done.
fn finish(job: Job, result: &io::Result<()>) {
    let result = match result {
        Ok(()) => Ok(()),
        Err(error) => Err(io::Error::new(error.kind(), error.to_string())),
    };
    match job {
        Job::Append { done, .. }
        | Job::Vote { done, .. }
        | Job::Truncate { done, .. }
        | Job::Purge { done, .. }
        | Job::Prepare { done, .. } => done(result),
        Job::Stop => {}
    }
}

/// The log's thread.
fn run(mut writer: Writer, jobs: &Receiver<Job>) {
    let mut batch = Vec::new();
    let mut failed: Option<String> = None;
    while let Ok(job) = jobs.recv() {
        let mut bytes = 0;
        let mut next = Some(job);
        let mut stop = false;
        while let Some(job) = next.take() {
            stop |= matches!(job, Job::Stop);
            if let Job::Append { entries, .. } = &job {
                bytes += entries
                    .iter()
                    .map(|entry| entry.payload.len() + 64)
                    .sum::<usize>();
            }
            batch.push(job);
            if bytes < BATCH_BYTES_MAX && !stop {
                next = jobs.try_recv().ok();
            }
        }
        let mut result = if failed.is_none() {
            writer.write(&mut batch, stop)
        } else {
            Ok(())
        };
        if result.is_ok() && failed.is_none() && writer.is_broken() {
            result = Err(io::Error::other(
                "getting space for the log failed half-way",
            ));
        }
        if let Err(error) = result {
            tracing::error!(%error, "the log cannot be written; no more is accepted");
            let what = format!("the log cannot be written: {error}");
            failed = Some(writer.shared().failure.get_or_init(|| what).clone());
        }
        for job in batch.drain(..) {
            let message = failed.clone().unwrap_or_default();
            finish(job, &Err(io::Error::other(message)));
        }
        if stop {
            break;
        }
    }
}
