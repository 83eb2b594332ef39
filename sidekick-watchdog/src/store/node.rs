//! One node of a group: log, state machine, openraft and proposer, started and stopped together.

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use openraft::RaftNetworkFactory;
use tokio::sync::watch;
use tokio::task::JoinHandle;

use super::StoreError;
use super::command::Command;
use super::log::LogStore;
use super::machine::{Machine, SnapshotEvery, StateMachine};
use super::persist::{self, Persist};
use super::proposer::{ProposeError, Proposer};
use super::raft::{self, Raft, Timing, TypeConfig};
use super::rot::{self, Bridges, Keeping};
use super::snapshot::Snapshots;
use super::state::State;
use super::wal::{LogReader, Rot, Wal, WalOptions};
use crate::platform;

/// How long openraft may take for what is a matter of milliseconds on a healthy disk.
const STEP_TIMEOUT: Duration = Duration::from_secs(60);

/// How long a due lease waits when this node does not lead, or its disk is full.
const TICK_RETRY: Duration = Duration::from_secs(1);

/// Room in the log for votes, for the first entry of a term and for the membership.
const START_BYTES: u64 = 8 << 10;

#[derive(Clone, Debug)]
pub(crate) struct NodeOptions {
    pub(crate) directory: PathBuf,
    pub(crate) wal: WalOptions,
    pub(crate) batch_bytes_max: usize,
    pub(crate) snapshot_every: SnapshotEvery,
    pub(crate) timing: Timing,
    /// The executable that runs sled ([`super::state_helper`]); without one it runs in this process.
    pub(crate) state_helper: Option<PathBuf>,
}

/// A running node.
pub(crate) struct Node {
    pub(crate) raft: Raft,
    pub(crate) wal: Wal,
    pub(crate) machine: Arc<Machine>,
    pub(crate) proposer: Proposer,
    /// Why the node died, once it has.
    pub(crate) fatal: watch::Receiver<Option<String>>,
    /// Entries that were found damaged on the disk.
    pub(crate) bridges: Arc<Bridges>,
    tasks: Vec<JoinHandle<()>>,
    persist: Arc<Persist>,
}

impl std::fmt::Debug for Node {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Node")
            .field("id", &self.wal.node())
            .finish_non_exhaustive()
    }
}

/// Makes `path` a directory that only we can read.
fn make_directory(path: &Path) -> Result<(), StoreError> {
    match std::fs::metadata(path) {
        Ok(data) if !data.is_dir() => Err(StoreError::NotADirectory {
            path: path.to_owned(),
        }),
        Ok(_) => Ok(()),
        Err(_) => platform::create_private_dir(path)
            .map_err(|error| StoreError::io("cannot make directory", path, error)),
    }
}

/// What is on disk, made ready.
pub(crate) struct Opened {
    pub(crate) wal: Wal,
    pub(crate) machine: Arc<Machine>,
    persist: Arc<Persist>,
    bridges: Arc<Bridges>,
}

/// Opens log, snapshots and state. Blocks on the disk. After an error nothing of it runs on: the caller may try again.
pub(crate) fn open_files(options: &NodeOptions) -> Result<Opened, StoreError> {
    let directory = |name: &str| options.directory.join(name);
    for path in [
        options.directory.clone(),
        directory("log"),
        directory("snapshots"),
    ] {
        make_directory(&path)?;
    }
    let wal = Wal::open(&WalOptions {
        directory: directory("log"),
        // Whoever is alone has nobody else to get an entry from.
        rot: match options.timing {
            Timing::Alone => Rot::Bridged,
            _ => Rot::Refused,
        },
        is_whole: rot::is_whole,
        ..options.wal.clone()
    })?;
    let opened = open_state(options, wal.clone());
    if opened.is_err() {
        wal.stop();
    }
    opened
}

fn open_state(options: &NodeOptions, wal: Wal) -> Result<Opened, StoreError> {
    let directory = |name: &str| options.directory.join(name);
    let path = directory("snapshots");
    let snapshots =
        Snapshots::open(&path).map_err(|error| StoreError::io("cannot open", &path, error))?;
    let purged = wal.purged().map(|id| id.index);
    let last = wal.last().map(|id| id.index);
    let published = snapshots
        .newest_published()
        .map_err(|error| StoreError::io("cannot read the snapshots in", &path, error))?
        .and_then(|(_, state)| state.last_applied)
        .map(|id| id.index);
    if let Some(purged) = purged
        && published.is_none_or(|published| published < purged)
    {
        return Err(StoreError::NoSnapshot {
            directory: path,
            purged,
        });
    }
    take_room_for_start(&wal)?;
    let persist = Persist::new(directory("state"), options.state_helper.clone());
    let kept = persist.load();
    // Behind the purge point or ahead of the log it is worth nothing (CORRECTNESS 12).
    let kept = kept.filter(|state| {
        let index = state.last_applied.map(|id| id.index);
        let fits = index >= purged && index <= last;
        if !fits {
            tracing::warn!(
                ?index,
                ?purged,
                ?last,
                "the state in sled does not fit the log; rebuilding"
            );
        }
        fits
    });
    let from_snapshot = snapshots.base(purged, last)?;
    let taken = from_snapshot.as_ref().map_or((0, 0), |state| {
        let index = state.last_applied.map_or(0, |id| id.index);
        (index, state.log_bytes)
    });
    let newest = [kept, from_snapshot]
        .into_iter()
        .flatten()
        .max_by_key(|state| state.last_applied);
    let state = newest.unwrap_or_default();
    let log = directory("log");
    let rotten = rot::bridge(&wal, &log, &snapshots, &state, Keeping::Owner)?;
    for entry in &rotten {
        tracing::error!(index = entry.index, "{entry}");
    }
    let machine = Machine::new(state, taken, snapshots, options.snapshot_every);
    if let Some(purged) = purged {
        machine.forget_cuts(purged);
    }
    let is_alone = matches!(options.timing, Timing::Alone);
    let bridges = Bridges::new(
        LogReader::clone(&wal),
        log,
        Arc::clone(&machine),
        is_alone,
        rotten,
    );
    Ok(Opened {
        wal,
        machine,
        persist: Arc::new(persist),
        bridges: Arc::new(bridges),
    })
}

/// What openraft said; when it only repeats what is wrong with the log, the log's own words.
fn raft_error(wal: &Wal, error: &dyn std::fmt::Display) -> StoreError {
    match wal.failure() {
        Some(why) => StoreError::Stopped {
            why: why.to_owned(),
        },
        None => StoreError::Raft {
            what: error.to_string(),
        },
    }
}

/// Makes sure that what openraft writes by itself at start has room. Its words for a full disk are not ours, and each
/// try would take a bit of what is left.
fn take_room_for_start(wal: &Wal) -> Result<(), StoreError> {
    let (sender, receiver) = std::sync::mpsc::channel();
    wal.prepare(
        START_BYTES,
        Box::new(move |result| drop(sender.send(result))),
    );
    match receiver.recv() {
        Ok(Err(error)) => Err(StoreError::NoSpace {
            what: error.to_string(),
        }),
        _ => Ok(()),
    }
}

impl Node {
    /// Starts openraft on what `open_files` found. The node is then a follower, or waits to be initialized.
    pub(crate) async fn start<N: RaftNetworkFactory<TypeConfig>>(
        options: &NodeOptions,
        opened: Opened,
        network: N,
    ) -> Result<Self, StoreError> {
        let Opened {
            wal,
            machine,
            persist,
            bridges,
        } = opened;
        let config = raft::config(options.timing)?;
        let log = LogStore::new(wal.clone());
        let state = StateMachine(Arc::clone(&machine));
        let raft = match Raft::new(wal.node(), config, network, log, state).await {
            Ok(raft) => raft,
            Err(error) => {
                let error = raft_error(&wal, &error);
                // Nothing of it may write once the caller tries again.
                let _ = tokio::task::spawn_blocking(move || wal.stop()).await;
                return Err(error);
            }
        };
        let (fatal_sender, fatal) = watch::channel(None);
        let (proposer, run) = Proposer::new(
            raft.clone(),
            wal.clone(),
            Arc::clone(&machine),
            options.batch_bytes_max,
            move |why| {
                fatal_sender.send_if_modified(|old| {
                    let first = old.is_none();
                    old.get_or_insert(why);
                    first
                });
            },
        );
        let tasks = vec![
            tokio::spawn(run),
            tokio::spawn(keep_house(raft.clone(), wal.clone(), Arc::clone(&machine))),
            tokio::spawn(keep_leases(proposer.clone(), Arc::clone(&machine))),
            tokio::spawn(persist::keep(Arc::clone(&persist), Arc::clone(&machine))),
        ];
        Ok(Self {
            raft,
            wal,
            machine,
            proposer,
            fatal,
            bridges,
            tasks,
            persist,
        })
    }

    /// Makes the only node of a group its leader and waits until all that the log held is applied.
    pub(crate) async fn lead_alone(&self) -> Result<(), StoreError> {
        let raft_error = |error: &dyn std::fmt::Display| raft_error(&self.wal, error);
        let last = self.wal.last().map_or(0, |id| id.index);
        let initialized = self
            .raft
            .is_initialized()
            .await
            .map_err(|error| raft_error(&error))?;
        if initialized {
            // Nobody else could win; there is no need to wait for the election timeout.
            self.raft
                .trigger()
                .elect()
                .await
                .map_err(|error| raft_error(&error))?;
        } else {
            let members = std::collections::BTreeMap::from([(
                self.wal.node(),
                openraft::BasicNode::default(),
            )]);
            self.raft
                .initialize(members)
                .await
                .map_err(|error| raft_error(&error))?;
        }
        let node = self.wal.node();
        self.raft
            .wait(Some(STEP_TIMEOUT))
            .metrics(
                |metrics| {
                    metrics.running_state.is_err()
                        || (metrics.current_leader == Some(node)
                            && metrics.last_applied.is_some_and(|id| id.index >= last))
                },
                "the group of one leads itself",
            )
            .await
            .map_err(|error| raft_error(&error))?;
        self.raft
            .ensure_linearizable()
            .await
            .map_err(|error| raft_error(&error))?;
        Ok(())
    }

    /// Stops openraft and the log; what was answered is durable. Afterwards nothing of this node touches the disk any
    /// more: it may be opened again. Waits for as long as the disk takes for what is under way.
    pub(crate) async fn stop(&mut self) {
        // The proposer first, or it would take the shutdown for a death.
        for task in self.tasks.drain(..) {
            task.abort();
            let _ = task.await;
        }
        let _ = self.raft.shutdown().await;
        let wal = self.wal.clone();
        let (persist, machine) = (Arc::clone(&self.persist), Arc::clone(&self.machine));
        let stop = move || {
            wal.stop();
            machine.end_work();
            if let Err(fault) = persist.save(&machine) {
                tracing::warn!(%fault, "the state was not written to sled; the next start may take longer");
            }
        };
        let _ = tokio::task::spawn_blocking(stop).await;
    }
}

/// Lets log time go on when a lease is due. Sleeps while there is none; without a leader it tries again after a while.
async fn keep_leases(proposer: Proposer, machine: Arc<Machine>) {
    let mut applied = machine.applied();
    loop {
        applied.mark_unchanged();
        let wait = match machine.read(|state| state.tree().next_end_ns()) {
            None => Duration::MAX,
            Some(ends_ns) => Duration::from_nanos(ends_ns.saturating_sub(machine.now_ns())),
        };
        if wait.is_zero() {
            // Set by the proposer.
            let time_ns = 0;
            match proposer.propose(Command::Tick { time_ns }).await {
                Ok(_) => {}
                Err(ProposeError::Stopped(_)) => return,
                Err(_) => tokio::time::sleep(TICK_RETRY).await,
            }
            continue;
        }
        tokio::select! {
            () = tokio::time::sleep(wait) => {}
            changed = applied.changed() => if changed.is_err() { return },
        }
    }
}

/// Writes snapshots that are due, publishes those whose records are all uploaded, purges the log behind them.
async fn keep_house(raft: Raft, wal: Wal, machine: Arc<Machine>) {
    let mut told = None;
    loop {
        // Each upload is a new try; one word about the same trouble is enough.
        let trouble = keep_house_once(&raft, &wal, &machine).await.err();
        if let Some(what) = trouble.as_ref().filter(|_| trouble != told) {
            tracing::warn!(%what, "snapshots or purging are behind; the log cannot give space back");
        }
        told = trouble;
        machine.changed.notified().await;
        if wal.is_dead() {
            return;
        }
    }
}

async fn keep_house_once(raft: &Raft, wal: &Wal, machine: &Arc<Machine>) -> Result<(), String> {
    let blocking = Arc::clone(machine);
    let uploaded = machine.read(State::uploaded_index);
    let due = tokio::task::spawn_blocking(move || {
        let Some(_turn) = blocking.work() else {
            return Ok(None);
        };
        blocking.write_due()?;
        blocking.snapshots().publish_newest(uploaded)
    });
    let due = due
        .await
        .map_err(|error| error.to_string())?
        .map_err(|error| error.to_string())?;
    if let Some(file) = due {
        raft.trigger()
            .snapshot()
            .await
            .map_err(|error| error.to_string())?;
        raft.wait(Some(STEP_TIMEOUT))
            .metrics(
                |metrics| {
                    metrics.running_state.is_err()
                        || metrics.snapshot.is_some_and(|id| id.index >= file.index)
                },
                "a snapshot is published",
            )
            .await
            .map_err(|error| error.to_string())?;
    }
    let blocking = Arc::clone(machine);
    let point = tokio::task::spawn_blocking(move || {
        let Some(_turn) = blocking.work() else {
            return Ok(None);
        };
        blocking.snapshots().purge_point()
    });
    let point = point
        .await
        .map_err(|error| error.to_string())?
        .map_err(|error| error.to_string())?;
    if let Some(point) = point {
        let _guard = machine.purging.lock().await;
        // A sink that came back stands behind the snapshots that were published while it was away.
        let point = point.min(machine.read(State::uploaded_index));
        if wal.purged().map_or(0, |id| id.index) < point {
            raft.trigger()
                .purge_log(point)
                .await
                .map_err(|error| error.to_string())?;
            raft.wait(Some(STEP_TIMEOUT))
                .metrics(
                    |metrics| {
                        metrics.running_state.is_err()
                            || metrics.purged.is_some_and(|id| id.index >= point)
                    },
                    "the log is purged",
                )
                .await
                .map_err(|error| error.to_string())?;
        }
        machine.forget_cuts(point);
    }
    Ok(())
}
