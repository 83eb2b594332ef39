//! The state machine as openraft sees it: applies entries in memory, takes snapshots along the way, publishes them.

// openraft's error is what its traits return.
#![allow(clippy::result_large_err)]

use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Instant;

use openraft::storage::{RaftSnapshotBuilder, RaftStateMachine};
use openraft::{AnyError, EntryPayload, OptionalSend, SnapshotMeta, StorageIOError};
use tokio::sync::{Notify, watch};

use super::clock::LogClock;
use super::command::Outcomes;
use super::raft::{Entry, LogId, StorageError, StoredMembership, TypeConfig};
use super::snapshot::{self, Snapshots};
use super::state::State;

/// When a pending snapshot is due.
#[derive(Clone, Copy, Debug)]
pub(crate) struct SnapshotEvery {
    pub(crate) entries: u64,
    pub(crate) bytes: u64,
}

#[derive(Debug)]
struct Inner {
    state: State,
    /// Index and log bytes at the last snapshot taken.
    taken: (u64, u64),
    /// The state of a snapshot that waits to be written; a newer one replaces it. Its values are shared with `state`: to
    /// take it is quick, to encode it is not and happens where nobody waits.
    due: Option<(u64, Box<State>)>,
}

/// The state, shared by openraft, the readers and the background writers.
#[derive(Debug)]
pub(crate) struct Machine {
    inner: Mutex<Inner>,
    applied: watch::Sender<u64>,
    uploadable: watch::Sender<u64>,
    snapshots: Snapshots,
    every: SnapshotEvery,
    /// openraft's own test suite wants snapshots of "now", which we never make.
    #[cfg(test)]
    pub(crate) eager: std::sync::atomic::AtomicBool,
    /// A fault of ours, as a test wants it: the next entry panics while the state is held.
    #[cfg(test)]
    pub(crate) panics: std::sync::atomic::AtomicBool,
    /// Wakes the housekeeper: a snapshot is due or a watermark moved.
    pub(crate) changed: Notify,
    broken: AtomicBool,
    /// Held while a thread works on the snapshots; true once the node is stopped and none may begin.
    work: Mutex<bool>,
    clock: LogClock,
    /// Held while the log is purged, and by whoever counts on what it holds.
    pub(crate) purging: tokio::sync::Mutex<()>,
}

impl Machine {
    /// `taken` is where the newest snapshot stands: index and log bytes. Counted from there, or a watchdog that is
    /// restarted often would never take one, and its log would only grow.
    pub(crate) fn new(
        state: State,
        taken: (u64, u64),
        snapshots: Snapshots,
        every: SnapshotEvery,
    ) -> Arc<Self> {
        let index = state.last_applied.map_or(0, |id| id.index);
        let uploadable = state.uploadable();
        let clock = LogClock::new(state.time_ns(), Instant::now());
        Arc::new(Self {
            inner: Mutex::new(Inner {
                state,
                taken,
                due: None,
            }),
            applied: watch::Sender::new(index),
            uploadable: watch::Sender::new(uploadable),
            snapshots,
            every,
            #[cfg(test)]
            eager: Default::default(),
            #[cfg(test)]
            panics: Default::default(),
            changed: Notify::new(),
            broken: AtomicBool::new(false),
            work: Mutex::new(false),
            clock,
            purging: tokio::sync::Mutex::default(),
        })
    }

    fn lock(&self) -> MutexGuard<'_, Inner> {
        // Nothing panics while holding it; `State::apply` is total.
        self.inner.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The turn to work on the snapshots' files; `None` once the node is stopped.
    pub(crate) fn work(&self) -> Option<MutexGuard<'_, bool>> {
        let turn = self.work.lock().unwrap_or_else(PoisonError::into_inner);
        (!*turn).then_some(turn)
    }

    /// From now on nobody works on the snapshots' files. Blocks until who does so now is done.
    pub(crate) fn end_work(&self) {
        *self.work.lock().unwrap_or_else(PoisonError::into_inner) = true;
    }

    /// Reads the state; must not block.
    pub(crate) fn read<T>(&self, read: impl FnOnce(&State) -> T) -> T {
        read(&self.lock().state)
    }

    /// Log time as this node would stamp it now.
    pub(crate) fn now_ns(&self) -> u64 {
        let committed_ns = self.read(State::time_ns);
        self.clock.now_ns(committed_ns, Instant::now())
    }

    /// What log time was at a moment that has gone by, or a little more.
    pub(crate) fn then_ns(&self, then: Instant) -> u64 {
        // So that it is not behind what another node has stamped meanwhile.
        self.now_ns();
        self.clock.then_ns(then)
    }

    pub(crate) fn applied(&self) -> watch::Receiver<u64> {
        self.applied.subscribe()
    }

    /// Entries up to this one may be read for upload. Behind [`Machine::applied`] while records wait to be folded.
    pub(crate) fn uploadable(&self) -> watch::Receiver<u64> {
        self.uploadable.subscribe()
    }

    /// Tells how far the state has come.
    fn tell(&self, applied: u64, uploadable: u64) {
        self.applied.send_replace(applied);
        self.uploadable.send_if_modified(|known| {
            let is_news = *known != uploadable;
            *known = uploadable;
            is_news
        });
    }

    pub(crate) fn snapshots(&self) -> &Snapshots {
        &self.snapshots
    }

    /// Drops what concerns entries that are no longer in the log.
    pub(crate) fn forget_cuts(&self, purged: u64) {
        self.lock().state.forget_cuts(purged);
    }

    /// Writes the snapshot that is due, if any. Blocks on the disk.
    pub(crate) fn write_due(&self) -> std::io::Result<()> {
        let Some((index, state)) = self.lock().due.take() else {
            return Ok(());
        };
        let bytes = snapshot::seal(&state).map_err(std::io::Error::other)?;
        drop(state);
        self.snapshots.write(index, false, &bytes)?;
        self.snapshots.thin_out()
    }

    /// Sees to it that no start has to apply the entry at `index` again, nor any before it: writes `state`, which is beyond it,
    /// unless a snapshot is. Blocks on the disk.
    pub(crate) fn keep_beyond(&self, index: u64, state: &State) -> std::io::Result<()> {
        let Some(_turn) = self.work() else {
            return Err(std::io::Error::other("the store is closed"));
        };
        let files = self.snapshots.list()?;
        let applied = state.last_applied.map_or(0, |id| id.index);
        if files.iter().any(|file| file.index >= index) {
            return Ok(());
        }
        let bytes = snapshot::seal(state).map_err(std::io::Error::other)?;
        self.snapshots.write(applied, false, &bytes)
    }

    /// Applies an entry; a panic becomes an error. openraft would not notice that its state machine is gone, and whoever
    /// waits for an answer would wait for ever.
    fn apply_entry_or_stop(
        &self,
        inner: &mut Inner,
        entry: Entry,
    ) -> Result<Outcomes, StorageError> {
        let id = entry.log_id;
        let applied = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| {
            self.apply_entry(inner, entry)
        }));
        applied.unwrap_or_else(|_| {
            // SYNC: pairs with the Acquire load in `is_broken`.
            self.broken.store(true, Ordering::Release);
            let what = format!(
                "log entry {} cannot be applied: a bug, please report it",
                id.index
            );
            tracing::error!(
                index = id.index,
                "applying a log entry panicked; the store stops"
            );
            Err(StorageIOError::apply(id, AnyError::error(what)).into())
        })
    }

    /// An entry was applied by half: the state in memory is worth nothing, and must not be written anywhere.
    pub(crate) fn is_broken(&self) -> bool {
        // SYNC: pairs with the Release store in `apply_entry_or_stop`.
        self.broken.load(Ordering::Acquire)
    }

    fn apply_entry(&self, inner: &mut Inner, entry: Entry) -> Result<Outcomes, StorageError> {
        let id = entry.log_id;
        #[cfg(test)]
        assert!(
            !self.panics.load(std::sync::atomic::Ordering::Relaxed),
            "apply panics on purpose"
        );
        let state = &mut inner.state;
        state.last_applied = Some(id);
        let outcomes = match entry.payload {
            EntryPayload::Blank => Outcomes::default(),
            EntryPayload::Membership(membership) => {
                state.membership = StoredMembership::new(Some(id), membership);
                Outcomes::default()
            }
            EntryPayload::Normal(batch) => {
                let commands = batch
                    .commands()
                    .map_err(|error| StorageIOError::apply(id, AnyError::new(&error)))?;
                state.log_bytes += commands
                    .iter()
                    .map(super::command::Command::log_bytes)
                    .sum::<u64>();
                Outcomes(state.apply_batch(id.index, commands, batch.frames()))
            }
        };
        let (index, bytes) = inner.taken;
        if id.index - index.min(id.index) >= self.every.entries
            || state.log_bytes.saturating_sub(bytes) >= self.every.bytes
        {
            inner.taken = (id.index, state.log_bytes);
            inner.due = Some((id.index, Box::new(state.clone())));
        }
        Ok(outcomes)
    }
}

/// The handle that openraft owns.
#[derive(Clone, Debug)]
pub(crate) struct StateMachine(pub(crate) Arc<Machine>);

impl RaftStateMachine<TypeConfig> for StateMachine {
    type SnapshotBuilder = Self;

    async fn applied_state(&mut self) -> Result<(Option<LogId>, StoredMembership), StorageError> {
        Ok(self
            .0
            .read(|state| (state.last_applied, state.membership.clone())))
    }

    async fn apply<I>(&mut self, entries: I) -> Result<Vec<Outcomes>, StorageError>
    where
        I: IntoIterator<Item = Entry> + OptionalSend,
        I::IntoIter: OptionalSend,
    {
        let mut outcomes = Vec::new();
        let (applied, uploadable);
        {
            let mut inner = self.0.lock();
            let uploaded = inner.state.uploaded_index();
            for entry in entries {
                outcomes.push(self.0.apply_entry_or_stop(&mut inner, entry)?);
            }
            applied = inner.state.last_applied.map_or(0, |id| id.index);
            uploadable = inner.state.uploadable();
            if inner.due.is_some() || inner.state.uploaded_index() != uploaded {
                self.0.changed.notify_one();
            }
        }
        self.0.tell(applied, uploadable);
        Ok(outcomes)
    }

    async fn get_snapshot_builder(&mut self) -> Self {
        self.clone()
    }

    async fn begin_receiving_snapshot(&mut self) -> Result<Box<Vec<u8>>, StorageError> {
        Ok(Box::default())
    }

    async fn install_snapshot(
        &mut self,
        meta: &SnapshotMeta<u64, openraft::BasicNode>,
        snapshot: Box<Vec<u8>>,
    ) -> Result<(), StorageError> {
        let state = snapshot::unseal(&snapshot).map_err(|cause| {
            StorageIOError::read_snapshot(Some(meta.signature()), AnyError::error(cause))
        })?;
        let index = state.last_applied.map_or(0, |id| id.index);
        let uploadable = state.uploadable();
        self.0
            .snapshots
            .write(index, true, &snapshot)
            .map_err(|error| {
                StorageIOError::write_snapshot(Some(meta.signature()), AnyError::new(&error))
            })?;
        {
            let mut inner = self.0.lock();
            inner.taken = (index, state.log_bytes);
            inner.due = None;
            inner.state = state;
        }
        self.0.tell(index, uploadable);
        Ok(())
    }

    async fn get_current_snapshot(
        &mut self,
    ) -> Result<Option<openraft::Snapshot<TypeConfig>>, StorageError> {
        let newest = self
            .0
            .snapshots
            .newest_published()
            .map_err(|error| StorageIOError::read_snapshot(None, AnyError::new(&error)))?;
        Ok(newest.map(|(bytes, state)| snapshot::to_raft(bytes, &state)))
    }
}

impl RaftSnapshotBuilder<TypeConfig> for StateMachine {
    /// Gives the newest published snapshot. Never takes one of "now": that would let records go that nobody has
    /// uploaded. The housekeeper publishes before it asks for this, because an error here is openraft's end.
    async fn build_snapshot(&mut self) -> Result<openraft::Snapshot<TypeConfig>, StorageError> {
        let failed =
            |error: std::io::Error| StorageIOError::write_snapshot(None, AnyError::new(&error));
        let snapshots = &self.0.snapshots;
        #[cfg(test)]
        if self.0.eager.load(std::sync::atomic::Ordering::Relaxed) {
            let state = self.0.read(State::clone);
            let bytes = snapshot::seal(&state).unwrap_or_default();
            if let Some(id) = state.last_applied {
                snapshots.write(id.index, true, &bytes).map_err(failed)?;
            }
            return Ok(snapshot::to_raft(bytes, &state));
        }
        let newest = snapshots.newest_published().map_err(failed)?;
        let (bytes, state) = newest.ok_or_else(|| {
            StorageIOError::write_snapshot(
                None,
                AnyError::error("no snapshot can be published yet"),
            )
        })?;
        Ok(snapshot::to_raft(bytes, &state))
    }
}
