//! The log as openraft sees it.

// openraft's error is what its traits return.
#![allow(clippy::result_large_err)]

use std::fmt::Debug;
use std::io;
use std::ops::{Bound, RangeBounds};

use bytes::Bytes;
use openraft::storage::{LogFlushed, LogState, RaftLogReader, RaftLogStorage};
use openraft::{AnyError, EntryPayload, Membership, OptionalSend, StorageIOError};

use super::codec;
use super::command::Batch;
use super::raft::{Entry, LogId, StorageError, TypeConfig, entry_id, log_id};
use super::wal::{Done, EntryId, Kind, LogEntry, Part, Vote, Wal, WalError};

/// What one answer to another node may hold (CORRECTNESS rule 15); one entry may be larger.
const FETCH_BYTES_MAX: usize = 4 << 20;

/// openraft's view of a [`Wal`].
#[derive(Clone, Debug)]
pub(crate) struct LogStore {
    wal: Wal,
}

impl LogStore {
    pub(crate) fn new(wal: Wal) -> Self {
        Self { wal }
    }
}

fn read_error(error: &(impl std::error::Error + 'static)) -> StorageError {
    StorageIOError::read_logs(AnyError::new(error)).into()
}

fn to_log(entry: Entry) -> Result<LogEntry, codec::CodecError> {
    let (kind, payload) = match entry.payload {
        EntryPayload::Blank => (Kind::Blank, Bytes::new()),
        EntryPayload::Normal(batch) => (Kind::Normal, batch.bytes().clone()),
        EntryPayload::Membership(membership) => (
            Kind::Membership,
            codec::encode("a membership", &membership)?.into(),
        ),
    };
    Ok(LogEntry {
        id: entry_id(&entry.log_id),
        kind,
        payload,
    })
}

pub(crate) fn to_raft(entry: LogEntry) -> Result<Entry, codec::CodecError> {
    let payload = match entry.kind {
        Kind::Normal | Kind::Lost => EntryPayload::Normal(Batch::from_bytes(entry.payload)),
        Kind::Membership => {
            let membership: Membership<u64, openraft::BasicNode> =
                codec::decode("a membership", &entry.payload)?;
            EntryPayload::Membership(membership)
        }
        _ => EntryPayload::Blank,
    };
    Ok(Entry {
        log_id: log_id(entry.id),
        payload,
    })
}

impl LogStore {
    /// Sends a job with a callback and waits for it.
    async fn wait(&self, job: impl FnOnce(&Wal, Done)) -> io::Result<()> {
        let (sender, receiver) = tokio::sync::oneshot::channel();
        job(&self.wal, Box::new(move |result| drop(sender.send(result))));
        receiver
            .await
            .unwrap_or_else(|_| Err(io::Error::other(WalError::Closed)))
    }

    fn read(
        &self,
        start: u64,
        end: u64,
        bytes_max: usize,
        part: Part,
    ) -> Result<Vec<Entry>, StorageError> {
        let entries = self
            .wal
            .read_range(start, end, bytes_max, part)
            .map_err(|error| read_error(&error))?;
        entries
            .into_iter()
            .map(|entry| to_raft(entry).map_err(|error| read_error(&error)))
            .collect()
    }
}

impl RaftLogReader<TypeConfig> for LogStore {
    /// Serves apply: entries that are no longer in memory come without what apply does not need.
    async fn try_get_log_entries<R: RangeBounds<u64> + Clone + Debug + OptionalSend>(
        &mut self,
        range: R,
    ) -> Result<Vec<Entry>, StorageError> {
        let Some((first, last)) = self.wal.bounds() else {
            return Ok(Vec::new());
        };
        let start = match range.start_bound() {
            Bound::Included(&start) => start,
            Bound::Excluded(&start) => start.saturating_add(1),
            Bound::Unbounded => 0,
        };
        let end = match range.end_bound() {
            Bound::Included(&end) => end.saturating_add(1),
            Bound::Excluded(&end) => end,
            Bound::Unbounded => u64::MAX,
        };
        let end = end.min(last.saturating_add(1));
        self.read(
            start.max(first),
            end,
            usize::MAX,
            Part::Heads(Batch::apply_end),
        )
    }

    /// Serves replication: whole entries, bounded by bytes.
    async fn limited_get_log_entries(
        &mut self,
        start: u64,
        end: u64,
    ) -> Result<Vec<Entry>, StorageError> {
        self.read(start, end, FETCH_BYTES_MAX, Part::Whole)
    }
}

impl RaftLogStorage<TypeConfig> for LogStore {
    type LogReader = Self;

    async fn get_log_state(&mut self) -> Result<LogState<TypeConfig>, StorageError> {
        Ok(LogState {
            last_purged_log_id: self.wal.purged().map(log_id),
            last_log_id: self.wal.last().map(log_id),
        })
    }

    async fn get_log_reader(&mut self) -> Self {
        self.clone()
    }

    async fn save_vote(&mut self, vote: &openraft::Vote<u64>) -> Result<(), StorageError> {
        let vote = Vote {
            term: vote.leader_id.term,
            node: vote.leader_id.node_id,
            committed: vote.committed,
        };
        self.wait(|wal, done| wal.save_vote(vote, done))
            .await
            .map_err(|error| StorageIOError::write_vote(AnyError::new(&error)).into())
    }

    async fn read_vote(&mut self) -> Result<Option<openraft::Vote<u64>>, StorageError> {
        Ok(self.wal.vote().map(|vote| openraft::Vote {
            leader_id: openraft::LeaderId::new(vote.term, vote.node),
            committed: vote.committed,
        }))
    }

    async fn save_committed(&mut self, committed: Option<LogId>) -> Result<(), StorageError> {
        self.wal.set_committed(committed.as_ref().map(entry_id));
        Ok(())
    }

    async fn read_committed(&mut self) -> Result<Option<LogId>, StorageError> {
        Ok(self.wal.committed().map(log_id))
    }

    async fn append<I>(
        &mut self,
        entries: I,
        callback: LogFlushed<TypeConfig>,
    ) -> Result<(), StorageError>
    where
        I: IntoIterator<Item = Entry> + OptionalSend,
        I::IntoIter: OptionalSend,
    {
        let entries: Result<Vec<LogEntry>, _> = entries.into_iter().map(to_log).collect();
        let entries = entries.map_err(|error| StorageIOError::write_logs(AnyError::new(&error)))?;
        self.wal.append(
            entries,
            Box::new(move |result| callback.log_io_completed(result)),
        );
        Ok(())
    }

    async fn truncate(&mut self, since: LogId) -> Result<(), StorageError> {
        let since: EntryId = entry_id(&since);
        self.wait(|wal, done| wal.truncate(since, done))
            .await
            .map_err(|error| StorageIOError::write_logs(AnyError::new(&error)).into())
    }

    async fn purge(&mut self, upto: LogId) -> Result<(), StorageError> {
        let upto: EntryId = entry_id(&upto);
        self.wait(|wal, done| wal.purge(upto, done))
            .await
            .map_err(|error| StorageIOError::write_logs(AnyError::new(&error)).into())
    }
}
