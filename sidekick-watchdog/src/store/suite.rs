//! openraft's own tests on our log and state machine, in real directories.

use openraft::testing::{StoreBuilder, Suite};

use super::log::LogStore;
use super::machine::{Machine, SnapshotEvery, StateMachine};
use super::raft::{StorageError, TypeConfig};
use super::snapshot::Snapshots;
use super::state::State;
use super::wal::{Wal, WalOptions};

struct Builder;

/// Removes the directory and stops the log's thread.
struct Guard {
    wal: Wal,
    _dir: tempfile::TempDir,
}

impl Drop for Guard {
    fn drop(&mut self) {
        self.wal.stop();
    }
}

impl StoreBuilder<TypeConfig, LogStore, StateMachine, Guard> for Builder {
    async fn build(&self) -> Result<(Guard, LogStore, StateMachine), StorageError> {
        let dir = tempfile::tempdir().unwrap();
        let options = WalOptions {
            segment_bytes: 64 << 10,
            zero_step_bytes: 16 << 10,
            cache_bytes: 100,
            ..WalOptions::new(dir.path())
        };
        let wal = Wal::open(&options).unwrap();
        let snapshots = Snapshots::open(dir.path()).unwrap();
        let every = SnapshotEvery {
            entries: u64::MAX,
            bytes: u64::MAX,
        };
        let machine = Machine::new(State::default(), (0, 0), snapshots, every);
        machine
            .eager
            .store(true, std::sync::atomic::Ordering::Relaxed);
        let guard = Guard {
            wal: wal.clone(),
            _dir: dir,
        };
        Ok((guard, LogStore::new(wal), StateMachine(machine)))
    }
}

#[test]
fn openrafts_suite_passes() {
    Suite::test_all(Builder).unwrap();
}
