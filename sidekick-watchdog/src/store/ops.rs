//! The state store's side of the store: answers, checkpoints, writes of clients that are no session.

use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use sidekick_ipc::tree::{
    Answer, ErrorKind, LeaseRef, Pattern, Restored, StoreOp, StoreQuery, StoreResult, WatchBatch,
    Words,
};
use uuid::Uuid;

use super::command::{Command, Outcome};
use super::state::State;
use super::tree;
use super::{AppendError, ImportError, Store, StoreError};

impl Store {
    /// Answers of a session's ops after number `after` that it has not taken yet, in their order: about `bytes_max` bytes of
    /// them, at least one if there is one. None once the session has ended. That a checkpoint was taken is no answer.
    pub fn answers_after(
        &self,
        epoch: Uuid,
        after: u64,
        bytes_max: u64,
    ) -> Vec<(u64, StoreResult)> {
        self.parts
            .machine
            .read(|state| state.answers_after(&epoch, after, bytes_max))
    }

    /// What `source` may go on with: its newest checkpoint of `key`, or with `safe` the one from before what the last
    /// incarnations had loaded. To be asked once [`Store::is_earlier_session_open`] says no.
    pub fn restore(&self, source: &str, key: &str, safe: bool) -> Restored {
        let now = SystemTime::now()
            .duration_since(UNIX_EPOCH)
            .unwrap_or_default();
        let now_ms = i64::try_from(now.as_millis()).unwrap_or(i64::MAX);
        self.parts
            .machine
            .read(|state| state.restore(source, key, safe, now_ms))
    }

    /// How many keys of `source` have checkpoints, and the bytes of the newest of each with its deltas.
    pub fn kept_checkpoints(&self, source: &str) -> (u64, u64) {
        self.parts
            .machine
            .read(|state| state.kept_checkpoints(source))
    }

    /// Whether a session of a launch of `source` before `launch` has not ended: what it wrote is not all committed.
    pub fn is_earlier_session_open(&self, source: &str, launch: u32) -> bool {
        self.parts
            .machine
            .read(|state| state.is_earlier_session_open(source, launch))
    }

    /// Applies an op of a client that is no session, such as an operator's over HTTP; durable when this returns. A retry
    /// with the same `client` and `number` gives the same answer and changes nothing: the last 64 answers of each of the
    /// last 1024 clients are remembered.
    ///
    /// # Errors
    /// As [`Store::append`]. What the op itself came to is in the [`StoreResult`].
    pub async fn execute(
        &self,
        client: Uuid,
        number: u64,
        op: &StoreOp,
    ) -> Result<StoreResult, AppendError> {
        let op = match op.encode() {
            Ok(op) => op,
            Err(error) => return Ok(StoreResult::error(ErrorKind::TooLarge, error)),
        };
        self.refuse_over_quota()?;
        let command = Command::Execute {
            client,
            number,
            op,
            time_ns: 0,
        };
        match self.parts.proposer.propose(command).await? {
            Outcome::Executed(result) => Ok(result),
            Outcome::Refused(refusal) => Err(AppendError::Refused(refusal)),
            other => Err(AppendError::Stopped(format!(
                "unexpected outcome {other:?}"
            ))),
        }
    }

    /// Answers a question about the tree from memory: what this node has applied. To get a node that is not there is
    /// [`ErrorKind::NotFound`]. For a linearizable answer wait for [`Store::fence`] first. Watches and restores are not answered here, but by [`Store::events_after`] and
    /// [`Store::restore`].
    pub fn query(&self, query: &StoreQuery) -> StoreResult {
        if let Err(invalid) = query.check() {
            return StoreResult::error(ErrorKind::Invalid, invalid);
        }
        let read = |state: &State| {
            let tree = state.tree();
            let revision = tree.revision();
            let answer = Answer {
                revision,
                succeeded: true,
                ..Answer::default()
            };
            match query {
                StoreQuery::Get { path, .. } => match tree.get(path) {
                    Some(node) => StoreResult::Ok(Answer {
                        version: node.version,
                        count: 1,
                        nodes: vec![node],
                        ..answer
                    }),
                    None => StoreResult::error(
                        ErrorKind::NotFound,
                        format_args!("there is no node {path}"),
                    ),
                },
                StoreQuery::List {
                    pattern,
                    after,
                    limit,
                    ..
                } => StoreResult::Ok(tree.list(pattern, after.as_ref(), *limit as usize)),
                StoreQuery::Count { pattern, .. } => StoreResult::Ok(Answer {
                    count: tree.count(pattern),
                    ..answer
                }),
                StoreQuery::Watch { .. } | StoreQuery::Unwatch { .. } => StoreResult::Ok(answer),
                StoreQuery::Restore { .. } => StoreResult::error(
                    ErrorKind::Invalid,
                    "a restore is no question about the tree",
                ),
            }
        };
        self.parts.machine.read(read)
    }

    /// Everything that any node of the group has committed before this was called is in what [`Store::query`] and the
    /// others answer once this returns.
    ///
    /// # Errors
    /// [`StoreError`]: this node does not lead, or cannot reach enough of the others.
    pub async fn fence(&self) -> Result<(), StoreError> {
        let voters = |state: &State| state.membership.membership().voter_ids().count();
        // Alone, what is committed is applied before anybody hears of it.
        if self.parts.machine.read(voters) <= 1 {
            return Ok(());
        }
        let raft = self.node.read().await.raft.clone();
        let fenced = raft.ensure_linearizable().await;
        fenced.map(|_| ()).map_err(|error| StoreError::Raft {
            what: error.to_string(),
        })
    }

    /// How long a lease lives, and how much of that was left at a moment that has gone by: as it stands now, so a renewal since then
    /// counts. `None` if it is not held under its token.
    pub fn lease_time(&self, lease: &LeaseRef, then: Instant) -> Option<(Duration, Duration)> {
        let machine = &self.parts.machine;
        let (ttl_ns, ends_ns) = machine.read(|state| state.tree().lease_time(lease))?;
        let left_ns = ends_ns.saturating_sub(machine.then_ns(then));
        Some((Duration::from_nanos(ttl_ns), Duration::from_nanos(left_ns)))
    }

    /// The tree's revision: higher by one for each write that changed something. Changes with [`Store::applied`].
    pub fn revision(&self) -> u64 {
        self.parts.machine.read(|state| state.tree().revision())
    }

    /// What happened in the tree to nodes that match after `revision`, in order and with nothing missing, about
    /// `bytes_max` bytes of it (4 MiB more at most). [`WatchBatch::revision`] is where to go on from; there is more while
    /// it is below [`Store::revision`].
    pub fn events_after(&self, pattern: &Pattern, revision: u64, bytes_max: usize) -> WatchBatch {
        self.parts
            .machine
            .read(|state| state.tree().events_after(pattern, revision, bytes_max))
    }

    /// Bytes and number of the tree's nodes.
    pub fn tree_size(&self) -> (u64, usize) {
        self.parts
            .machine
            .read(|state| (state.tree().bytes(), state.tree().len()))
    }

    /// The tree as text: NDJSON with a checksum at its end, see [`Store::import`]. Takes as much memory as the tree, and
    /// time in proportion, on the caller's thread.
    ///
    /// # Errors
    /// In words; a value that cannot be written.
    pub fn export(&self) -> Result<String, String> {
        // Cheap beside the writing: values are shared.
        let tree = self.parts.machine.read(|state| state.tree().clone());
        tree.export()
    }

    /// The ops that make the nodes of an exported tree, to be given to [`Store::execute`] one after the other; repeating
    /// all of them after a failure does no harm.
    ///
    /// # Errors
    /// [`ImportError`]: the text is damaged, nothing of it is used.
    pub fn import(text: &str) -> Result<Vec<StoreOp>, ImportError> {
        tree::export::import(text)
    }
}

#[cfg(test)]
mod tests {
    use sidekick_ipc::frame::append_frame;
    use sidekick_ipc::tree::{CheckpointKind, Path, Put, RestoreStatus, encode_request};

    use super::*;
    use crate::slab::{OpAt, RingCheckpoint, Slab, SlabHead};
    use crate::store::StoreConfig;

    /// One checkpoint in a frame of its own.
    fn slab(epoch: Uuid, launch: u32, seq: u64, op: &StoreOp) -> (Slab, Vec<OpAt>) {
        let request = encode_request(seq - 1, op).unwrap();
        let mut frames = Vec::new();
        append_frame(&mut frames, &epoch, 4, seq, 0, &request);
        let head = SlabHead {
            source: "s".into(),
            epoch,
            incarnation: launch,
            realtime_offset_ns: 0,
            first_seq: seq,
            count: 1,
            checkpoint: RingCheckpoint::default(),
        };
        let frames = frames.into();
        let op = OpAt {
            last_seq: seq,
            fragments: vec![(
                sidekick_ipc::frame::FRAME_HEADER_BYTES as u32,
                request.len() as u32,
            )],
        };
        (Slab { head, frames }, vec![op])
    }

    /// A game that checkpoints and dies, a watchdog that is restarted with and without its state, a game that goes on.
    #[tokio::test(flavor = "multi_thread", worker_threads = 2)]
    async fn a_checkpoint_outlives_engine_and_watchdog() {
        let dir = tempfile::tempdir().unwrap();
        let config = StoreConfig {
            segment_bytes: 64 << 10,
            zero_step_bytes: 16 << 10,
            cache_size: 0,
            ..StoreConfig::new(dir.path().join("data"))
        };
        let epoch = Uuid::from_u128(3);
        let checkpoint = |version: u64| StoreOp::Checkpoint {
            key: "match".into(),
            kind: CheckpointKind::Full,
            version,
            value: vec![version as u8; 2000],
            frame: version,
            realtime_ms: 0,
        };
        let store = Store::open(config.clone()).await.unwrap();
        store.session_opened("s", epoch, 1, 0).await.unwrap();
        for seq in 1..=5 {
            let (slab, ops) = slab(epoch, 1, seq, &checkpoint(seq));
            let appended = store.submit_ops(slab, ops).await.unwrap().wait().await;
            assert_eq!(appended.unwrap().answers.len(), 1);
        }
        let (slab, ops) = slab(epoch, 1, 6, &put("/a", 1));
        let appended = store.submit_ops(slab, ops).await.unwrap().wait().await;
        let put = appended.unwrap().answers;
        let owed = |store: &Store| store.answers_after(epoch, 0, u64::MAX);
        // That a checkpoint was taken is no answer.
        assert_eq!(owed(&store), put);
        store.shutdown().await;
        drop(store);

        for round in 0..2 {
            if round == 1 {
                std::fs::remove_dir_all(config.dir.join("state")).unwrap();
            }
            let store = Store::open(config.clone()).await.unwrap();
            let restored = store.restore("s", "match", false);
            assert_eq!(restored.status, RestoreStatus::Restored);
            assert_eq!((restored.version, restored.full), (5, vec![5; 2000]));
            assert_eq!(owed(&store), put);
            assert!(store.is_earlier_session_open("s", 2));
            if round == 1 {
                store
                    .session_ended("s", epoch, "died", false, None)
                    .await
                    .unwrap();
                assert!(!store.is_earlier_session_open("s", 2));
                assert_eq!(owed(&store), []);
            }
            store.shutdown().await;
        }
    }

    fn put(at: &str, number: i64) -> StoreOp {
        let value = sidekick_ipc::value::encode(&sidekick_ipc::value::Value::Int(number));
        StoreOp::Put(Put::new(Path::new(at).unwrap(), Some(value)))
    }

    fn answer(result: StoreResult) -> Answer {
        match result {
            StoreResult::Ok(answer) => answer,
            other => panic!("{other:?}"),
        }
    }

    /// Every part of the tree comes back from the log and from the state in sled; a retry over a restart changes nothing.
    #[tokio::test(flavor = "multi_thread", worker_threads = 2)]
    async fn the_tree_outlives_restarts() {
        let dir = tempfile::tempdir().unwrap();
        let config = StoreConfig {
            segment_bytes: 64 << 10,
            zero_step_bytes: 16 << 10,
            cache_size: 0,
            ..StoreConfig::new(dir.path().join("data"))
        };
        let client = Uuid::from_u128(5);
        let all = Pattern::new("/**").unwrap();
        let mut number = 0;
        for round in 0..4_i64 {
            if round == 2 {
                std::fs::remove_dir_all(config.dir.join("state")).unwrap();
            }
            let store = Store::open(config.clone()).await.unwrap();
            let revision = store.revision();
            assert_eq!(revision, round as u64 * 10);
            for step in 0..10 {
                number += 1;
                let op = put(&format!("/n/{step}"), round);
                let first = store.execute(client, number, &op).await.unwrap();
                let again = store.execute(client, number, &op).await.unwrap();
                assert_eq!(first, again);
                assert_eq!(answer(first).version, round as u64 + 1);
            }
            let batch = store.events_after(&all, revision, usize::MAX);
            assert_eq!((batch.compacted, batch.revision), (false, revision + 10));
            assert_eq!(batch.events.len(), if round == 0 { 11 } else { 10 });
            store.fence().await.unwrap();
            let query = StoreQuery::Count {
                pattern: all.clone(),
                linearizable: true,
            };
            assert_eq!(answer(store.query(&query)).count, 11);
            let get = |at: &str| StoreQuery::Get {
                path: Path::new(at).unwrap(),
                linearizable: true,
            };
            let found = answer(store.query(&get("/n/3")));
            assert_eq!((found.version, found.count), (round as u64 + 1, 1));
            let value = sidekick_ipc::value::encode(&sidekick_ipc::value::Value::Int(round));
            assert_eq!(found.value(), Some(value.as_slice()));
            let missing = store.query(&get("/n/10"));
            assert!(
                matches!(&missing, StoreResult::Error { kind: ErrorKind::NotFound, message } if message.contains("/n/10")),
                "{missing:?}"
            );
            store.shutdown().await;
        }
        let store = Store::open(config.clone()).await.unwrap();
        let text = store.export().unwrap();
        let other = Store::open(StoreConfig {
            dir: dir.path().join("other"),
            ..config
        });
        let other = other.await.unwrap();
        for (number, op) in Store::import(&text).unwrap().iter().enumerate() {
            other.execute(client, number as u64, op).await.unwrap();
        }
        assert_eq!(other.tree_size(), store.tree_size());
        store.shutdown().await;
        other.shutdown().await;
    }

    /// What is left of a lease is told as of any moment: none is gained by asking for one before it was granted, and a renewal counts.
    #[tokio::test(flavor = "multi_thread", worker_threads = 2)]
    async fn what_is_left_of_a_lease_is_told_while_it_is_held() {
        let dir = tempfile::tempdir().unwrap();
        let store = Store::open(StoreConfig::new(dir.path())).await.unwrap();
        let client = Uuid::from_u128(5);
        let hour = Duration::from_secs(3600);
        let grant = StoreOp::LeaseGrant {
            path: Path::new("/match").unwrap(),
            ttl_ms: 3_600_000,
        };
        let before = Instant::now();
        let granted = answer(store.execute(client, 1, &grant).await.unwrap());
        let lease = granted.lease.unwrap();
        let (ttl, left_before) = store.lease_time(&lease, before).unwrap();
        assert_eq!(ttl, hour);
        assert!(left_before >= hour);
        let after = Instant::now();
        let left = |lease: &LeaseRef| store.lease_time(lease, after).map(|(_, left)| left);
        let left_after = left(&lease).unwrap();
        assert!(left_after < hour);
        assert_eq!(left_before - left_after, after - before);
        let renew = StoreOp::LeaseRenew(lease.clone());
        answer(store.execute(client, 2, &renew).await.unwrap());
        assert!(left(&lease).unwrap() >= hour);
        let other = LeaseRef {
            token: lease.token + 1,
            ..lease.clone()
        };
        assert_eq!(left(&other), None);
        let release = StoreOp::LeaseRelease(lease.clone());
        answer(store.execute(client, 3, &release).await.unwrap());
        assert_eq!(left(&lease), None);
        store.shutdown().await;
    }

    /// Nobody writes anything; the lease ends all the same, and what hangs on it goes.
    #[tokio::test(flavor = "multi_thread", worker_threads = 2)]
    async fn a_lease_ends_by_itself() {
        let dir = tempfile::tempdir().unwrap();
        let store = Store::open(StoreConfig::new(dir.path())).await.unwrap();
        let client = Uuid::from_u128(5);
        let grant = StoreOp::LeaseGrant {
            path: Path::new("/match").unwrap(),
            ttl_ms: 100,
        };
        let granted = answer(store.execute(client, 1, &grant).await.unwrap());
        assert_eq!(store.tree_size().1, 1);
        let mut applied = store.applied();
        let ended = async {
            while store.tree_size().1 > 0 {
                applied.changed().await.unwrap();
            }
        };
        let patience = std::time::Duration::from_secs(20);
        tokio::time::timeout(patience, ended).await.unwrap();
        let renew = StoreOp::LeaseRenew(granted.lease.unwrap());
        let lost = store.execute(client, 2, &renew).await.unwrap();
        assert!(matches!(
            lost,
            StoreResult::Error {
                kind: ErrorKind::LeaseLost,
                ..
            }
        ));
        store.shutdown().await;
    }
}
