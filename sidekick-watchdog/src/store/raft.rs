//! The types with which openraft is used, and its settings.

use std::sync::Arc;

use openraft::{BasicNode, Config, SnapshotPolicy};

use super::StoreError;
use super::command::{Batch, Outcomes};
use super::wal::EntryId;

openraft::declare_raft_types!(
    /// What openraft needs to know: a batch of commands in, their outcomes out.
    pub(crate) TypeConfig:
        D = Batch,
        R = Outcomes,
        NodeId = u64,
        Node = BasicNode,
        SnapshotData = Vec<u8>,
);

pub(crate) type LogId = openraft::LogId<u64>;
pub(crate) type Entry = openraft::Entry<TypeConfig>;
pub(crate) type StoredMembership = openraft::StoredMembership<u64, BasicNode>;
pub(crate) type StorageError = openraft::StorageError<u64>;
pub(crate) type Raft = openraft::Raft<TypeConfig>;

pub(crate) fn log_id(id: EntryId) -> LogId {
    LogId::new(openraft::CommittedLeaderId::new(id.term, id.node), id.index)
}

pub(crate) fn entry_id(id: &LogId) -> EntryId {
    EntryId {
        term: id.leader_id.term,
        node: id.leader_id.node_id,
        index: id.index,
    }
}

/// How often a leader shows that it lives, and how long others wait for that.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Timing {
    /// A group of one: nobody waits. openraft's clock ticks with the heartbeat, and each tick would wake us.
    Alone,
    /// For disks whose slowest fdatasync takes 100 ms.
    #[expect(dead_code, reason = "the network between nodes comes later")]
    Group,
    /// For tests that kill leaders.
    #[cfg(test)]
    Quick,
}

pub(crate) fn config(timing: Timing) -> Result<Arc<Config>, StoreError> {
    let (heartbeat_interval, election_timeout_min, election_timeout_max) = match timing {
        Timing::Alone => (60_000, 120_000, 240_000),
        Timing::Group => (250, 1000, 2000),
        #[cfg(test)]
        Timing::Quick => (50, 200, 400),
    };
    let config = Config {
        cluster_name: "sidekick".to_owned(),
        heartbeat_interval,
        election_timeout_min,
        election_timeout_max,
        install_snapshot_timeout: 30_000,
        purge_batch_size: 256,
        // Entries are batches of up to 1 MiB; the log's reader bounds a fetch by bytes as well.
        max_payload_entries: 64,
        // Snapshots are published and logs purged by our own trigger and nothing else (CORRECTNESS 12).
        snapshot_policy: SnapshotPolicy::Never,
        max_in_snapshot_log_to_keep: u64::MAX,
        // A follower is brought up from the log for as long as the log has it.
        replication_lag_threshold: u64::MAX,
        ..Config::default()
    };
    config
        .validate()
        .map(Arc::new)
        .map_err(|error| StoreError::Raft {
            what: error.to_string(),
        })
}
