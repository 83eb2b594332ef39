//! Three nodes in one process over a router that drops, delays and cuts off; leaders are killed and come back.

mod tree;

use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use bytes::Bytes;
use openraft::error::{
    Fatal, RPCError, RaftError, RemoteError, ReplicationClosed, StreamingError, Unreachable,
};
use openraft::network::{RPCOption, RaftNetwork, RaftNetworkFactory};
use openraft::raft::{
    AppendEntriesRequest, AppendEntriesResponse, SnapshotResponse, VoteRequest, VoteResponse,
};
use openraft::{BasicNode, OptionalSend, Snapshot, Vote};
use sidekick_ipc::frame::append_frame;
use uuid::Uuid;

use super::Parts;
use super::command::{Command, Outcome};
use super::machine::SnapshotEvery;
use super::node::{Node, NodeOptions, open_files};
use super::raft::{Raft, TypeConfig};
use super::wal::WalOptions;
use crate::position::Position;
use crate::slab::{RingCheckpoint, SlabHead};

#[derive(Default)]
struct Wires {
    nodes: BTreeMap<u64, Raft>,
    cut_off: BTreeSet<u64>,
    /// One call in so many is dropped; 0 = none.
    drop_one_in: u32,
    delay: Duration,
}

#[derive(Clone, Default)]
struct Router(Arc<Mutex<Wires>>);

struct Wire {
    router: Router,
    from: u64,
    to: u64,
}

#[derive(Clone)]
struct From(Router, u64);

impl RaftNetworkFactory<TypeConfig> for From {
    type Network = Wire;

    async fn new_client(&mut self, target: u64, _node: &BasicNode) -> Wire {
        Wire {
            router: self.0.clone(),
            from: self.1,
            to: target,
        }
    }
}

impl Wire {
    async fn target(&self) -> Result<Raft, Unreachable> {
        let (raft, delay) = {
            let wires = self.router.0.lock().unwrap();
            let cut = wires.cut_off.contains(&self.from) || wires.cut_off.contains(&self.to);
            let dropped = wires.drop_one_in > 0 && fastrand::u32(0..wires.drop_one_in) == 0;
            let raft = wires
                .nodes
                .get(&self.to)
                .filter(|_| !cut && !dropped)
                .cloned();
            (raft, wires.delay)
        };
        if !delay.is_zero() {
            tokio::time::sleep(delay).await;
        }
        raft.ok_or_else(|| {
            Unreachable::new(&std::io::Error::from(std::io::ErrorKind::NotConnected))
        })
    }
}

impl RaftNetwork<TypeConfig> for Wire {
    async fn append_entries(
        &mut self,
        request: AppendEntriesRequest<TypeConfig>,
        _option: RPCOption,
    ) -> Result<AppendEntriesResponse<u64>, RPCError<u64, BasicNode, RaftError<u64>>> {
        let answer = self.target().await?.append_entries(request).await;
        // The answer may be lost as well.
        self.target().await?;
        answer.map_err(|error| RemoteError::new(self.to, error).into())
    }

    async fn vote(
        &mut self,
        request: VoteRequest<u64>,
        _option: RPCOption,
    ) -> Result<VoteResponse<u64>, RPCError<u64, BasicNode, RaftError<u64>>> {
        let answer = self.target().await?.vote(request).await;
        answer.map_err(|error| RemoteError::new(self.to, error).into())
    }

    async fn full_snapshot(
        &mut self,
        vote: Vote<u64>,
        snapshot: Snapshot<TypeConfig>,
        _cancel: impl Future<Output = ReplicationClosed> + OptionalSend + 'static,
        _option: RPCOption,
    ) -> Result<SnapshotResponse<u64>, StreamingError<TypeConfig, Fatal<u64>>> {
        let answer = self
            .target()
            .await?
            .install_full_snapshot(vote, snapshot)
            .await;
        answer.map_err(|error| RemoteError::new(self.to, error).into())
    }
}

fn options(dir: &Path, id: u64) -> NodeOptions {
    NodeOptions {
        directory: dir.join(id.to_string()),
        wal: WalOptions {
            segment_bytes: 64 << 10,
            zero_step_bytes: 16 << 10,
            cache_bytes: 8 << 10,
            node: id,
            ..WalOptions::new("")
        },
        batch_bytes_max: 64 << 10,
        snapshot_every: SnapshotEvery {
            entries: 50,
            bytes: 1 << 20,
        },
        timing: super::raft::Timing::Quick,
        state_helper: None,
    }
}

async fn start(dir: &Path, router: &Router, id: u64) -> Node {
    let options = options(dir, id);
    let blocking = options.clone();
    let opened = tokio::task::spawn_blocking(move || open_files(&blocking))
        .await
        .unwrap()
        .unwrap();
    let node = Node::start(&options, opened, From(router.clone(), id))
        .await
        .unwrap();
    router.0.lock().unwrap().nodes.insert(id, node.raft.clone());
    node
}

fn command(seq: u64) -> (Command, Bytes) {
    let epoch = Uuid::from_u128(9);
    let mut frames = Vec::new();
    append_frame(&mut frames, &epoch, 1, seq, 0, &[seq as u8; 200]);
    let head = SlabHead {
        source: "s".into(),
        epoch,
        incarnation: 1,
        realtime_offset_ns: 0,
        first_seq: seq,
        count: 1,
        checkpoint: RingCheckpoint::default(),
    };
    (
        Command::Append {
            head,
            frames_bytes: frames.len() as u32,
        },
        frames.into(),
    )
}

/// Proposes to whoever answers, again and again, as a writer behind a flapping group does.
async fn propose(
    preferred: &mut u64,
    nodes: &BTreeMap<u64, Node>,
    command: Command,
    frames: Option<Bytes>,
) -> Outcome {
    let deadline = Instant::now() + Duration::from_secs(120);
    loop {
        assert!(Instant::now() < deadline, "no leader took the command");
        let first = *preferred;
        for (id, node) in nodes.range(first..).chain(nodes.range(..first)) {
            let Ok(ticket) = node.proposer.submit(command.clone(), frames.clone()).await else {
                continue;
            };
            if let Ok(Ok(outcome)) =
                tokio::time::timeout(Duration::from_millis(1500), ticket.wait()).await
            {
                *preferred = *id;
                return outcome;
            }
        }
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
}

fn sequence(node: &Node) -> Vec<u64> {
    let parts = Parts {
        wal: node.wal.clone(),
        machine: Arc::clone(&node.machine),
        proposer: node.proposer.clone(),
        fatal: node.fatal.clone(),
        bridges: Arc::clone(&node.bridges),
    };
    let mut after = 0;
    let mut all = Vec::new();
    loop {
        let read = parts.read_slabs(after, usize::MAX).unwrap();
        let Some(last) = read.last() else { return all };
        after = last.index;
        for (_, slab) in read.into_iter().flat_map(|entry| entry.slabs) {
            let frames = sidekick_ipc::frame::frames(&slab.frames, &slab.head.epoch);
            all.extend(frames.map(|frame| frame.unwrap().header.seq));
        }
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_was_committed_is_on_all_nodes_after_leaders_were_killed() {
    let dir = tempfile::tempdir().unwrap();
    let router = Router::default();
    let mut nodes = BTreeMap::new();
    let mut preferred = 1;
    for id in 1..=3 {
        nodes.insert(id, start(dir.path(), &router, id).await);
    }
    let members: BTreeMap<u64, BasicNode> = (1..=3).map(|id| (id, BasicNode::default())).collect();
    nodes[&1].raft.initialize(members).await.unwrap();
    let open = Command::OpenSession {
        source: "s".into(),
        epoch: Uuid::from_u128(9),
        launch: 1,
        started_realtime_ns: 0,
    };
    propose(&mut preferred, &nodes, open, None).await;
    propose(
        &mut preferred,
        &nodes,
        Command::SetSinks {
            sinks: vec![("x".into(), 1)],
        },
        None,
    )
    .await;
    let mut seq = 0;
    for round in 0..6 {
        {
            let mut wires = router.0.lock().unwrap();
            wires.drop_one_in = if round % 2 == 0 { 10 } else { 0 };
            wires.delay = Duration::from_millis(round % 3);
        }
        for _ in 0..40 {
            seq += 1;
            let (command, frames) = command(seq);
            let outcome = propose(&mut preferred, &nodes, command, Some(frames)).await;
            assert!(
                matches!(outcome, Outcome::Appended { next_seq, .. } if next_seq == seq + 1),
                "{outcome:?}"
            );
        }
        let leader = nodes
            .values()
            .find_map(|node| node.raft.metrics().borrow().current_leader);
        let leader = leader.unwrap_or(1);
        if round % 3 == 2 {
            // Cut off, it goes on believing for a while.
            router.0.lock().unwrap().cut_off = BTreeSet::from([leader]);
        } else {
            router.0.lock().unwrap().nodes.remove(&leader);
            if let Some(mut node) = nodes.remove(&leader) {
                node.stop().await;
            }
        }
        for _ in 0..20 {
            seq += 1;
            let (command, frames) = command(seq);
            propose(&mut preferred, &nodes, command, Some(frames)).await;
        }
        router.0.lock().unwrap().cut_off.clear();
        if let std::collections::btree_map::Entry::Vacant(place) = nodes.entry(leader) {
            place.insert(start(dir.path(), &router, leader).await);
        }
    }
    router.0.lock().unwrap().drop_one_in = 0;
    // A last word tells when all have caught up.
    let up_to = Position { index: 1, item: 0 };
    let last = Command::Uploaded {
        sink: "x".into(),
        lane: 0,
        up_to,
        records: 0,
    };
    propose(&mut preferred, &nodes, last, None).await;
    check(&nodes, seq).await.unwrap();
    for node in nodes.values_mut() {
        node.stop().await;
    }
}

/// Every node has come as far as the furthest, and holds exactly the records 1 to `seq`.
async fn check(nodes: &BTreeMap<u64, Node>, seq: u64) -> Result<(), String> {
    let applied = |node: &Node| node.machine.read(|state| state.last_applied);
    let deadline = Instant::now() + Duration::from_secs(120);
    let newest = nodes.values().map(applied).max().flatten();
    for node in nodes.values() {
        while applied(node) < newest {
            assert!(Instant::now() < deadline, "{node:?} stays behind");
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
        let found = sequence(node);
        if found != (1..=seq).collect::<Vec<u64>>() {
            return Err(format!("{node:?} holds {found:?}, not 1 to {seq}"));
        }
    }
    Ok(())
}

/// Writes one record to a leader that is cut off. An honest writer counts it when the group has committed it; a broken
/// store says so as soon as the leader's own log has it. The check of the test above has to tell them apart. `None`: on a busy
/// machine it was the leader no more when it was cut off.
async fn written_to_a_leader_that_is_cut_off(honest: bool) -> Option<Result<(), String>> {
    let dir = tempfile::tempdir().unwrap();
    let router = Router::default();
    let mut nodes = BTreeMap::new();
    let mut preferred = 1;
    for id in 1..=3 {
        nodes.insert(id, start(dir.path(), &router, id).await);
    }
    let members: BTreeMap<u64, BasicNode> = (1..=3).map(|id| (id, BasicNode::default())).collect();
    nodes[&1].raft.initialize(members).await.unwrap();
    let open = Command::OpenSession {
        source: "s".into(),
        epoch: Uuid::from_u128(9),
        launch: 1,
        started_realtime_ns: 0,
    };
    propose(&mut preferred, &nodes, open, None).await;
    let (first, frames) = command(1);
    propose(&mut preferred, &nodes, first, Some(frames)).await;
    let leader = preferred;
    router.0.lock().unwrap().cut_off = BTreeSet::from([leader]);
    // One that is cut off hears of no other.
    let is_leader = nodes[&leader].raft.metrics().borrow().state.is_leader();
    if !honest && !is_leader {
        for node in nodes.values_mut() {
            node.stop().await;
        }
        return None;
    }
    let (second, frames) = command(2);
    if honest {
        propose(&mut preferred, &nodes, second, Some(frames)).await;
    } else {
        let wal = &nodes[&leader].wal;
        let before = wal.last();
        let proposer = &nodes[&leader].proposer;
        let _ticket = proposer.submit(second, Some(frames)).await.unwrap();
        let deadline = Instant::now() + Duration::from_secs(120);
        while wal.last() == before {
            assert!(Instant::now() < deadline, "the leader did not write it");
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
        // The others go on without it: a command of theirs is committed while it is away.
        let mut others: BTreeMap<u64, Node> = BTreeMap::new();
        for id in (1..=3).filter(|id| *id != leader) {
            others.extend(nodes.remove_entry(&id));
        }
        let init = Command::Init {
            group: Uuid::from_u128(3),
        };
        propose(&mut preferred, &others, init, None).await;
        nodes.append(&mut others);
    }
    router.0.lock().unwrap().cut_off.clear();
    let last = Command::SetSinks { sinks: Vec::new() };
    propose(&mut preferred, &nodes, last, None).await;
    let result = check(&nodes, 2).await;
    for node in nodes.values_mut() {
        node.stop().await;
    }
    Some(result)
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_store_that_acknowledges_before_the_quorum_is_caught() {
    let is_kept = written_to_a_leader_that_is_cut_off(true).await;
    is_kept.unwrap().unwrap();
    let caught = loop {
        if let Some(result) = written_to_a_leader_that_is_cut_off(false).await {
            break result;
        }
    };
    assert!(caught.is_err(), "the check does not see a lost record");
}
