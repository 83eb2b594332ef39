//! Writes to the tree of a group whose leaders are killed and cut off: each counts once, however often it is sent.

use sidekick_ipc::tree::{Condition, Path as NodePath, Put, StoreOp, StoreResult, Words};

use super::super::tree::Tree;
use super::*;

const CLIENT: Uuid = Uuid::from_u128(77);

fn create(number: u64) -> Command {
    let path = NodePath::new(&format!("/n/{number}")).unwrap();
    let mut put = Put::new(path, Some(number.to_le_bytes().to_vec()));
    // Applied a second time, it would fail.
    put.when = vec![Condition::Exists(false)];
    Command::Execute {
        client: CLIENT,
        number,
        op: StoreOp::Put(put).encode().unwrap(),
        time_ns: 0,
    }
}

fn is_done(outcome: &Outcome) -> bool {
    matches!(outcome, Outcome::Executed(StoreResult::Ok(answer)) if answer.version == 1)
}

async fn group(dir: &Path, router: &Router) -> BTreeMap<u64, Node> {
    let mut nodes = BTreeMap::new();
    for id in 1..=3 {
        nodes.insert(id, start(dir, router, id).await);
    }
    let members: BTreeMap<u64, BasicNode> = (1..=3).map(|id| (id, BasicNode::default())).collect();
    nodes[&1].raft.initialize(members).await.unwrap();
    nodes
}

/// Waits until all nodes have applied as much as the furthest.
async fn caught_up(nodes: &BTreeMap<u64, Node>) -> Vec<Tree> {
    let applied = |node: &Node| node.machine.read(|state| state.last_applied);
    let deadline = Instant::now() + Duration::from_secs(120);
    let newest = nodes.values().map(applied).max().flatten();
    let mut trees = Vec::new();
    for node in nodes.values() {
        while applied(node) < newest {
            assert!(Instant::now() < deadline, "{node:?} stays behind");
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
        trees.push(node.machine.read(|state| state.tree().clone()));
    }
    trees
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn every_acknowledged_write_is_in_every_tree_once() {
    let dir = tempfile::tempdir().unwrap();
    let router = Router::default();
    let mut nodes = group(dir.path(), &router).await;
    let mut preferred = 1;
    let mut number = 0;
    for round in 0..4_u64 {
        {
            let mut wires = router.0.lock().unwrap();
            wires.drop_one_in = if round % 2 == 0 { 10 } else { 0 };
            wires.delay = Duration::from_millis(round % 3);
        }
        let leader = preferred;
        for step in 0..40 {
            if step == 20 && round % 2 == 1 {
                router.0.lock().unwrap().cut_off = BTreeSet::from([leader]);
            } else if step == 20 {
                router.0.lock().unwrap().nodes.remove(&leader);
                if let Some(mut node) = nodes.remove(&leader) {
                    node.stop().await;
                }
            }
            number += 1;
            let outcome = propose(&mut preferred, &nodes, create(number), None).await;
            assert!(is_done(&outcome), "{number}: {outcome:?}");
            // Its sender did not hear of it and asks another node.
            preferred = 1 + number % 3;
            let again = propose(&mut preferred, &nodes, create(number), None).await;
            assert_eq!(again, outcome);
        }
        router.0.lock().unwrap().cut_off.clear();
        if let std::collections::btree_map::Entry::Vacant(place) = nodes.entry(leader) {
            place.insert(start(dir.path(), &router, leader).await);
        }
    }
    router.0.lock().unwrap().drop_one_in = 0;
    // With another number it is another request, which a second try must not be: the check above would see it.
    let mut second = create(number);
    if let Command::Execute { number, .. } = &mut second {
        *number += 1;
    }
    let outcome = propose(&mut preferred, &nodes, second, None).await;
    assert!(!is_done(&outcome), "{outcome:?}");
    let trees = caught_up(&nodes).await;
    for tree in &trees {
        assert_eq!(*tree, trees[0]);
        assert_eq!(tree.len() as u64, number + 1);
        assert_eq!(tree.revision(), number);
    }
    for node in nodes.values_mut() {
        node.stop().await;
    }
}

/// The leader that granted it is gone; the next one ends it, by the time in the log.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_lease_ends_under_the_next_leader() {
    let dir = tempfile::tempdir().unwrap();
    let router = Router::default();
    let mut nodes = group(dir.path(), &router).await;
    let mut preferred = 1;
    let grant = StoreOp::LeaseGrant {
        path: NodePath::new("/match").unwrap(),
        ttl_ms: 500,
    };
    let grant = Command::Execute {
        client: CLIENT,
        number: 1,
        op: grant.encode().unwrap(),
        time_ns: 0,
    };
    propose(&mut preferred, &nodes, grant, None).await;
    router.0.lock().unwrap().nodes.remove(&preferred);
    if let Some(mut node) = nodes.remove(&preferred) {
        node.stop().await;
    }
    let deadline = Instant::now() + Duration::from_secs(120);
    for node in nodes.values() {
        while node.machine.read(|state| state.tree().revision()) < 2 {
            assert!(Instant::now() < deadline, "the lease does not end");
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
        assert_eq!(node.machine.read(|state| state.tree().len()), 0);
    }
    for node in nodes.values_mut() {
        node.stop().await;
    }
}
