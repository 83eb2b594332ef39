//! The replicated store: commits slabs to a fsynced log.
//!
//! A [`Store`] is one node of a Raft group; a group of one is the usual case and has no network. Records live once, in
//! the log; the state (sessions, upload progress, totals) lives in memory and is rebuilt from snapshot and log.
//!
//! The way of a write: [`Store::append`] → group commit → log, one fdatasync a batch → applied in memory → answer.
//! What was answered is durable. Anything wrong with the disk is final for this [`Store`]: [`Store::fatal`] tells; shut it
//! down and open another, which recovers.
//!
//! openraft, sled and bincode are named only below this module.

mod blob;
mod clock;
#[cfg(test)]
mod cluster;
mod codec;
mod command;
#[cfg(test)]
mod crash;
mod derived;
mod error;
#[cfg(test)]
mod faults;
mod folding;
mod letters;
mod log;
mod machine;
mod network;
mod node;
mod ops;
mod outbox;
mod persist;
mod proposer;
mod raft;
mod read;
mod rot;
mod snapshot;
mod state;
#[cfg(test)]
mod suite;
#[cfg(test)]
mod tests;
mod tree;
mod view;
mod wal;

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use sidekick_ipc::tree::StoreResult;
use tokio::sync::watch;
use uuid::Uuid;

pub use command::{PLAN_EXTRA_BYTES_MAX, Plan, Refusal};
pub use derived::{Derived, DerivedError};
pub use error::{AppendError, StoreError};
pub use folding::{FoldMarks, FoldRow, FoldStep, Unfolded};
pub use read::IndexedSlabs;
pub use rot::{LostRange, RottenEntry};
pub use state::{
    KeptLetter, LANES_MAX, LETTERS_BYTES_MAX, LETTERS_MAX, LaneState, Remains, SessionEnd,
    SessionState, SourceTotals,
};
pub use tree::export::ImportError;
pub use view::{DamagedPlace, LogView, SegmentSummary, ViewedEntry};
pub use wal::{WalError, WalStats};

use command::{Command, Outcome};
use machine::SnapshotEvery;
use node::{Node, NodeOptions};
use proposer::Ticket;
use raft::Timing;
use wal::WalOptions;

use crate::exit::ExitCode;
use crate::slab::{OpAt, RingCheckpoint, Slab};

/// How a store is opened.
#[derive(Clone, Debug)]
pub struct StoreConfig {
    /// The data directory; `log/`, `state/` and `snapshots/` are made in it.
    pub dir: PathBuf,
    /// Recent log entries kept in memory, in bytes.
    pub cache_size: usize,
    /// The largest batch, in bytes; a larger slab is a batch of its own.
    pub batch_max_bytes: usize,
    /// A snapshot is taken at least every so many log entries.
    pub snapshot_every: u64,
    /// Beyond so many bytes of log, new records are refused until old ones are uploaded. At least four segments.
    pub disk_quota: u64,
    /// Size of one log file in bytes.
    pub segment_bytes: u64,
    /// Log files are filled with zeros in steps of so many bytes before they are used.
    pub zero_step_bytes: u64,
    /// The executable that runs [`state_helper`] when it is started as `EXECUTABLE state load|save DIR`: sled's memory
    /// and threads are then not this process's. Without one it runs in this process.
    pub state_helper: Option<PathBuf>,
}

impl StoreConfig {
    /// The defaults, in `dir`.
    pub fn new(dir: impl Into<PathBuf>) -> Self {
        Self {
            dir: dir.into(),
            cache_size: 8 << 20,
            batch_max_bytes: 1 << 20,
            snapshot_every: 16_384,
            disk_quota: 4 << 30,
            segment_bytes: 64 << 20,
            zero_step_bytes: 4 << 20,
            state_helper: None,
        }
    }
}

/// A slab is committed.
#[derive(Clone, Debug, PartialEq)]
pub struct Appended {
    /// Every sequence number of the session before this one is committed.
    pub next_seq: u64,
    /// Where the ring's reader stands; everything before it may be released.
    pub checkpoint: RingCheckpoint,
    /// What came of the ops in the slab, by their numbers; also of those that an earlier slab had brought.
    pub answers: Vec<(u64, StoreResult)>,
}

/// Where a session stands when it is opened.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct SessionOpened {
    /// The sequence number that comes next.
    pub next_seq: u64,
    /// Where to drain the ring from; `None` = from its beginning.
    pub checkpoint: Option<RingCheckpoint>,
}

/// A slab on its way; see [`Store::submit`].
#[derive(Debug)]
pub struct AppendTicket(Ticket);

impl AppendTicket {
    /// Waits until the slab is committed or refused.
    ///
    /// # Errors
    /// As [`Store::append`].
    pub async fn wait(self) -> Result<Appended, AppendError> {
        match self.0.wait().await? {
            Outcome::Appended {
                next_seq,
                checkpoint,
            } => Ok(Appended {
                next_seq,
                checkpoint,
                answers: Vec::new(),
            }),
            Outcome::AppendedOps {
                next_seq,
                checkpoint,
                answers,
            } => Ok(Appended {
                next_seq,
                checkpoint,
                answers,
            }),
            Outcome::Refused(refusal) => Err(AppendError::Refused(refusal)),
            other => Err(AppendError::Stopped(format!(
                "unexpected outcome {other:?}"
            ))),
        }
    }
}

/// Counters for metrics and status.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct StoreStats {
    /// Of the log.
    pub log: WalStats,
    /// Index of the last entry applied.
    pub applied: u64,
    /// Everything at or before this entry is uploaded; `u64::MAX` without sinks.
    pub uploaded: u64,
    /// The log is purged up to this entry.
    pub purged: u64,
    /// The configured quota in bytes.
    pub disk_quota: u64,
}

/// The store. Cheap to share behind an [`Arc`]; all methods may be called from any task.
#[derive(Debug)]
pub struct Store {
    node: tokio::sync::RwLock<Node>,
    parts: Parts,
    group: Uuid,
    disk_quota: u64,
    snapshots: PathBuf,
}

/// What methods need without waiting for the node.
#[derive(Clone, Debug)]
struct Parts {
    wal: wal::Wal,
    machine: Arc<machine::Machine>,
    proposer: proposer::Proposer,
    fatal: watch::Receiver<Option<String>>,
    bridges: Arc<rot::Bridges>,
}

impl Store {
    /// Opens the store and replays the log; ready to append when this returns. Must be called in a tokio runtime with
    /// time enabled.
    ///
    /// # Errors
    /// [`StoreError`] with what is wrong and what to do; nothing is changed then, and nothing runs on.
    pub async fn open(config: StoreConfig) -> Result<Self, StoreError> {
        let options = NodeOptions {
            directory: config.dir.clone(),
            wal: WalOptions {
                segment_bytes: config.segment_bytes.clamp(64 << 10, 1 << 30),
                zero_step_bytes: config.zero_step_bytes,
                cache_bytes: config.cache_size,
                ..WalOptions::new(PathBuf::new())
            },
            batch_bytes_max: config.batch_max_bytes.max(4096),
            snapshot_every: SnapshotEvery {
                entries: config.snapshot_every.max(1),
                bytes: (config.disk_quota / 16).clamp(1 << 16, 64 << 20),
            },
            timing: Timing::Alone,
            state_helper: config.state_helper.clone(),
        };
        Self::open_with(options, config.disk_quota).await
    }

    async fn open_with(options: NodeOptions, disk_quota: u64) -> Result<Self, StoreError> {
        // Below this, not even an empty log would fit.
        let disk_quota = disk_quota.max(4 * options.wal.segment_bytes);
        let blocking = options.clone();
        let opened = tokio::task::spawn_blocking(move || node::open_files(&blocking))
            .await
            .map_err(|error| StoreError::Raft {
                what: error.to_string(),
            })??;
        let mut node = Node::start(&options, opened, network::NoNetwork).await?;
        let init = async {
            node.lead_alone().await?;
            let known = node.machine.read(|state| state.group);
            match known {
                Some(group) => Ok(group),
                None => match node
                    .proposer
                    .propose(Command::Init {
                        group: Uuid::new_v4(),
                    })
                    .await?
                {
                    Outcome::Group(group) => Ok(group),
                    other => Err(StoreError::Raft {
                        what: format!("unexpected outcome {other:?}"),
                    }),
                },
            }
        };
        let group = match init.await {
            Ok(group) => group,
            Err(error) => {
                node.stop().await;
                return Err(error);
            }
        };
        let parts = Parts {
            wal: node.wal.clone(),
            machine: Arc::clone(&node.machine),
            proposer: node.proposer.clone(),
            fatal: node.fatal.clone(),
            bridges: Arc::clone(&node.bridges),
        };
        let snapshots = options.directory.join("snapshots");
        Ok(Self {
            node: tokio::sync::RwLock::new(node),
            parts,
            group,
            disk_quota,
            snapshots,
        })
    }

    /// The group's UUID; never changes, never comes back after the data directory was wiped.
    pub fn group(&self) -> Uuid {
        self.group
    }

    /// The log entries that were found damaged on the disk, when the store was opened or since, those that are purged left
    /// out.
    pub fn rotten(&self) -> Vec<RottenEntry> {
        self.parts.bridges.known()
    }

    /// Whether the entry at `index` is known to be damaged. One that was read before that was known has to be read again.
    pub fn is_rotten(&self, index: u64) -> bool {
        self.parts.wal.is_lost(index)
    }

    async fn propose(&self, command: Command) -> Result<Outcome, StoreError> {
        match self.parts.proposer.propose(command).await? {
            Outcome::Refused(refusal) => Err(StoreError::Refused(refusal)),
            outcome => Ok(outcome),
        }
    }

    /// Opens a session, or the same one again after a restart. `launch` must be above that of every earlier session of
    /// the source, or that of the last ones if these have ended. The answer tells where to go on.
    ///
    /// # Errors
    /// [`StoreError::Refused`] with [`Refusal::OldLaunch`], [`Refusal::LaunchBusy`],
    /// [`Refusal::LaunchSessions`] or [`Refusal::SessionEnded`]; [`StoreError::Stopped`].
    pub async fn session_opened(
        &self,
        source: &str,
        epoch: Uuid,
        launch: u32,
        started_realtime_ns: i64,
    ) -> Result<SessionOpened, StoreError> {
        self.session_opened_of(source, epoch, launch, started_realtime_ns, "")
            .await
    }

    /// As [`Store::session_opened`], of a game of this version ([`Store::game_version`]). Only the word at its first
    /// opening counts.
    ///
    /// # Errors
    /// As [`Store::session_opened`].
    pub async fn session_opened_of(
        &self,
        source: &str,
        epoch: Uuid,
        launch: u32,
        started_realtime_ns: i64,
        game_version: &str,
    ) -> Result<SessionOpened, StoreError> {
        let command = Command::OpenGame {
            source: source.to_owned(),
            epoch,
            launch,
            started_realtime_ns,
            game_version: game_version.to_owned(),
        };
        match self.propose(command).await? {
            Outcome::Session {
                next_seq,
                checkpoint,
            } => Ok(SessionOpened {
                next_seq,
                checkpoint,
            }),
            other => Err(StoreError::Raft {
                what: format!("unexpected outcome {other:?}"),
            }),
        }
    }

    /// The version of the game that a session is of; empty where it told none, and for records of the watchdog's own.
    /// Always the same once the session is open, also when it is forgotten.
    pub fn game_version(&self, source: &str, launch: u32, epoch: Uuid) -> Arc<str> {
        let machine = &self.parts.machine;
        machine.read(|state| state.game_version(source, launch, epoch).into())
    }

    /// Ends a session; its sequence numbers are final. `tail_unknown` says that the ring vanished before it was
    /// drained. `last` is what is told of that ([`Slab::closing`]); it goes into the same entry, over quota too. A second
    /// call with the same `last` changes nothing.
    ///
    /// # Errors
    /// [`StoreError::Refused`] with [`Refusal::UnknownSession`]; [`StoreError::Stopped`].
    pub async fn session_ended(
        &self,
        source: &str,
        epoch: Uuid,
        cause: &str,
        tail_unknown: bool,
        last: Option<Slab>,
    ) -> Result<SessionOpened, StoreError> {
        let end = Command::EndSession {
            source: source.to_owned(),
            epoch,
            cause: cause.chars().take(1024).collect(),
            tail_unknown,
        };
        let outcome = match last {
            None => self.propose(end).await?,
            Some(Slab { head, frames }) => {
                // A few frames of some dozen bytes.
                let frames_bytes = frames.len() as u32;
                let append = Command::Append { head, frames_bytes };
                let proposer = &self.parts.proposer;
                let ticket = proposer
                    .submit_both(append, Some(frames), Some(end))
                    .await?;
                match ticket.wait().await? {
                    Outcome::Refused(refusal) => return Err(StoreError::Refused(refusal)),
                    outcome => outcome,
                }
            }
        };
        match outcome {
            Outcome::Session {
                next_seq,
                checkpoint,
            } => Ok(SessionOpened {
                next_seq,
                checkpoint,
            }),
            other => Err(StoreError::Raft {
                what: format!("unexpected outcome {other:?}"),
            }),
        }
    }

    fn refuse_over_quota(&self) -> Result<(), AppendError> {
        let log_bytes = self.parts.wal.stats().log_bytes;
        let quota = self.disk_quota;
        if log_bytes > quota {
            return Err(AppendError::Quota { log_bytes, quota });
        }
        Ok(())
    }

    /// Queues a slab and returns at once, so that several can be in flight; they are committed in the order in which
    /// this was called. Waits only while the queue is full.
    ///
    /// # Errors
    /// [`AppendError::Quota`], [`AppendError::Stopped`].
    pub async fn submit(&self, slab: Slab) -> Result<AppendTicket, AppendError> {
        self.submit_ops(slab, Vec::new()).await
    }

    /// As [`Store::submit`], of a slab in which ops of the state store ride, at `ops`. What came of them is in
    /// [`Appended::answers`], and stays in [`Store::answers_after`] until the session has taken it.
    ///
    /// # Errors
    /// As [`Store::submit`].
    pub async fn submit_ops(
        &self,
        slab: Slab,
        ops: Vec<OpAt>,
    ) -> Result<AppendTicket, AppendError> {
        self.refuse_over_quota()?;
        let frames_bytes = u32::try_from(slab.frames.len())
            .map_err(|_| AppendError::Refused(Refusal::BadCount))?;
        let head = slab.head;
        let command = match ops.is_empty() {
            true => Command::Append { head, frames_bytes },
            false => Command::AppendOps {
                head,
                frames_bytes,
                ops,
                time_ns: 0,
            },
        };
        Ok(AppendTicket(
            self.parts
                .proposer
                .submit(command, Some(slab.frames))
                .await?,
        ))
    }

    /// Commits a slab: durable when this returns. What the group has seen of it already is not stored twice.
    ///
    /// # Errors
    /// [`AppendError::Refused`]: nothing of it was stored. [`AppendError::Quota`], [`AppendError::NoSpace`]: try again
    /// later. [`AppendError::Stopped`]: see [`Store::fatal`].
    pub async fn append(&self, slab: Slab) -> Result<Appended, AppendError> {
        self.submit(slab).await?.wait().await
    }

    /// A session as the group knows it. Linearizable: a group of one has applied its whole log before it opened.
    pub fn session(&self, source: &str, epoch: Uuid) -> Option<SessionState> {
        self.parts
            .machine
            .read(|state| state.session(source, &epoch).cloned())
    }

    /// All sessions that have not ended: source, epoch, state.
    pub fn open_sessions(&self) -> Vec<(String, Uuid, SessionState)> {
        self.parts.machine.read(|state| {
            state
                .open_sessions()
                .map(|(source, epoch, session)| (source.to_owned(), epoch, session.clone()))
                .collect()
        })
    }

    /// The highest launch number that opened a session of `source`; 0 if none did.
    pub fn last_launch(&self, source: &str) -> u32 {
        self.parts
            .machine
            .read(|state| state.totals().get(source).map_or(0, |of| of.last_launch))
    }

    /// Counts per source.
    pub fn totals(&self) -> BTreeMap<String, SourceTotals> {
        self.parts.machine.read(state::State::totals)
    }

    /// Records taken that the watchdog made itself ([`Store::derived`]); they are in no source's counts.
    pub fn derived_records(&self) -> u64 {
        self.parts.machine.read(state::State::derived_records)
    }

    /// Index of the last entry applied; changes with every batch.
    pub fn applied(&self) -> watch::Receiver<u64> {
        self.parts.machine.applied()
    }

    /// Entries up to this one may be read for upload: behind [`Store::applied`] while records wait to be folded.
    pub fn uploadable(&self) -> watch::Receiver<u64> {
        self.parts.machine.uploadable()
    }

    /// Resolves when the store has died, with the reason. It is to be shut down then; another may be opened after that.
    pub async fn fatal(&self) -> StoreError {
        let mut fatal = self.parts.fatal.clone();
        let why = match fatal.wait_for(Option::is_some).await {
            Ok(why) => why.clone().unwrap_or_default(),
            // The proposer is gone: shut down, which is no death.
            Err(_) => return std::future::pending().await,
        };
        StoreError::Stopped { why }
    }

    /// Whether the store goes on: its core has taken notice of this question. Waits for no disk, and for ever for a core
    /// that stands still.
    pub async fn is_answering(&self) -> bool {
        let raft = self.node.read().await.raft.clone();
        raft.with_raft_state(|_| ()).await.is_ok()
    }

    /// Stops. What was answered is durable; what was not answered gets [`AppendError::Stopped`]. When this returns,
    /// nothing of this store touches the disk any more. Takes as long as the disk does for what is under way.
    pub async fn shutdown(&self) {
        self.node.write().await.stop().await;
    }

    /// Counters.
    pub fn stats(&self) -> StoreStats {
        let (applied, uploaded) = self.parts.machine.read(|state| {
            (
                state.last_applied.map_or(0, |id| id.index),
                state.uploaded_index(),
            )
        });
        StoreStats {
            log: self.parts.wal.stats(),
            applied,
            uploaded,
            purged: self.parts.wal.purged().map_or(0, |id| id.index),
            disk_quota: self.disk_quota,
        }
    }

    /// Where the snapshots lie.
    pub fn snapshot_dir(&self) -> &Path {
        &self.snapshots
    }
}

/// Reads (`load`) or writes (`save`) the state in sled for a watchdog that started this process, see
/// [`StoreConfig::state_helper`]. Uses standard input and output.
pub fn state_helper(task: &str, directory: &Path) -> ExitCode {
    persist::helper::main(task, directory)
}
