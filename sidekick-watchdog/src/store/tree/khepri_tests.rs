//! The semantics of Khepri's own tests, case by case and under their names, as far as they are meant here.
//!
//! | Khepri's module | cases here |
//! |---|---|
//! | `simple_put.erl` | `create_non_existing_node`, `create_existing_node`, `insert_non_existing_node`, `insert_existing_node`, `insert_existing_node_with_identical_payload`, `update_non_existing_node`, `update_existing_node`, `compare_and_swap_*`, `clear_payload_*` |
//! | `simple_get.erl` | `get_non_existing_node`, `get_existing_node`, `exists_and_has_data`, `get_many_nodes_and_count_many_nodes` |
//! | `simple_delete.erl` | `delete_non_existing_node`, `delete_existing_node`, `delete_existing_node_with_condition_*` |
//! | `put_command.erl` | `insert_a_node_with_path_containing_non_existing_nodes`, `child_list_version_*` |
//! | `delete_command.erl` | as `simple_delete.erl`; `delete_non_existing_node_under_non_existing_parent`, `delete_a_node_deep_into_the_tree`; many at once: `delete_many_nodes` |
//! | `conditions.erl` | `if_node_exists`: `exists_and_has_data`; `if_payload_version_and_if_child_list_version_and_length`, `if_data_matches`, `if_not_and_if_all_and_if_any`; names and paths: `path.rs` of `sidekick-ipc/src/tree` |
//! | `keep_while_conditions.erl`; `keep_until_conditions.erl`, its older name | `insert_when_keep_while_*`, `keep_while_still_true_after_command`, `keep_while_now_false_after_command`, `keep_while_now_false_after_delete_command`, `recursive_automatic_cleanup`, `automatic_reclaim_*` |
//! | `return_indirect_deletes_option.erl` | always returned: `put_returns_indirect_deletes`, `keep_while_now_false_after_delete_command` |
//! | `advanced_put.erl`, `advanced_get.erl`, `advanced_delete.erl` ("many") | `put_many_nodes`, `get_many_nodes_and_count_many_nodes`, `delete_many_nodes`, `clear_payload_from_existing_node` |
//! | `queries.erl` | `get_*`, `get_many_nodes_and_count_many_nodes`; `**` more than once: `path.rs`; in pages: `pages_make_up_the_whole` of `model_tests.rs`. A query has no conditions |
//! | `simple_tx_get.erl`, `simple_tx_put.erl`, `simple_tx_delete.erl`, `transactions.erl`, `batch.erl` | `transaction_*` |
//! | `triggers.erl` (ours are watches) | `event_triggers_*`, `filter_on_change_type_and_pattern` |
//! | `export.erl`, `export_erlang.erl` | `what_is_exported_is_imported_and_damage_is_found`, and each tree of `model_tests.rs` |
//! | `path_operations.erl`, `prop_path_operations.erl` | `path.rs`: a path is text here, so nothing has to be turned into text and back |
//! | `fence.erl`, `favor_option.erl` (`consistency`, `low_latency`) | `Store::fence` and `linearizable` of a query: `store/ops.rs`, `store/cluster/tree.rs` |
//! | `prop_state_machine.erl` | `model_tests.rs` |
//! | `protect_against_dups_option.erl`, `async_option.erl`, `reply_to.erl` | every write is asynchronous and counts once: `state/requests/tests.rs`, `intake/tests/requests.rs` |
//! | `timeout.erl` | a request's time is the game's affair: `tests/tests/continuity.rs` |
//! | `cluster_SUITE.erl`, `cached_leader.erl` | as far as there is a group yet: `store/cluster.rs` |
//!
//! Not meant:
//! - `root_node.erl`: the root is no node here; it has no value, and nothing is asked of it. `bad_paths_are_refused_with_a_reason`
//!   of `path.rs`.
//! - `advanced_tx_*.erl`, `simple_tx_misc.erl` (many nodes and aborts in a transaction): an op of a transaction is about one node, and
//!   what would abort it is asked before.
//! - `tx_funs.erl`, `tx_sprocs.erl`, `stored_procs.erl`, `mfa_to_fun.erl`, `sf_cache.erl`: code in the log.
//! - `projections.erl`: a watch with a cache takes their place.
//! - regular expressions in names, relative paths, `sigils.erl`, `bang_functions.erl`, `db_info.erl`, `display_tree.erl`: of Erlang, or
//!   of its console; ours is `sidekick-watchdog store`.
//!
//! Ours alone: leases.

use sidekick_ipc::tree::{
    Answer, Comparison, Condition, DeleteReason, ErrorKind, LeaseRef, NODES_PER_ANSWER_MAX,
    NODES_PER_PATTERN_WRITE_MAX, NodeInfo, Path, Pattern, Put, StoreOp, StoreResult, TransactionOp,
    VALUE_BYTES_MAX, WatchKind,
};
use sidekick_ipc::value::{Value, encode};
use uuid::Uuid;

use super::{Actor, Moment, Tree};

fn path(text: &str) -> Path {
    Path::new(text).unwrap()
}

fn pattern(text: &str) -> Pattern {
    Pattern::new(text).unwrap()
}

fn try_as(
    tree: &mut Tree,
    who: (&str, u128),
    time_ms: u64,
    op: StoreOp,
) -> Result<Answer, ErrorKind> {
    op.check().unwrap();
    let actor = Actor {
        source: who.0,
        epoch: Uuid::from_u128(who.1),
    };
    let moment = Moment {
        time_ns: time_ms * 1_000_000,
        // Sessions below 10 have ended.
        is_ended: &|_, epoch| epoch.as_u128() < 10,
    };
    match tree.apply(actor, &moment, op) {
        StoreResult::Ok(answer) => Ok(answer),
        StoreResult::Error { kind, .. } => Err(kind),
        other => panic!("{other:?}"),
    }
}

fn run(tree: &mut Tree, op: StoreOp) -> Result<Answer, ErrorKind> {
    try_as(tree, ("s", 10), 0, op)
}

fn value(text: &str) -> Option<Vec<u8>> {
    Some(text.as_bytes().to_vec())
}

fn put(tree: &mut Tree, at: &str, text: &str) -> Answer {
    run(tree, StoreOp::Put(Put::new(path(at), value(text)))).unwrap()
}

fn put_if(tree: &mut Tree, at: &str, text: &str, when: Condition) -> Result<Answer, ErrorKind> {
    let mut put = Put::new(path(at), value(text));
    put.when = vec![when];
    run(tree, StoreOp::Put(put))
}

fn put_keep(
    tree: &mut Tree,
    at: &str,
    asked: &str,
    condition: Condition,
) -> Result<Answer, ErrorKind> {
    let mut put = Put::new(path(at), value("kept"));
    put.keep_while = vec![(path(asked), condition)];
    run(tree, StoreOp::Put(put))
}

fn delete(tree: &mut Tree, target: &str) -> Vec<(String, DeleteReason)> {
    let op = StoreOp::Delete {
        target: pattern(target),
        when: Vec::new(),
    };
    gone(run(tree, op).unwrap())
}

fn gone(answer: Answer) -> Vec<(String, DeleteReason)> {
    let gone = answer.deleted.into_iter();
    gone.map(|deleted| (deleted.path.to_string(), deleted.reason))
        .collect()
}

fn names(tree: &Tree) -> Vec<&str> {
    tree.nodes.keys().map(Path::as_str).collect()
}

fn node(tree: &Tree, at: &str) -> NodeInfo {
    tree.get(&path(at)).unwrap()
}

fn events(tree: &Tree, revision: u64) -> Vec<(String, WatchKind)> {
    let batch = tree.events_after(&pattern("/**"), revision, usize::MAX);
    let events = batch.events.into_iter();
    events
        .map(|event| (event.path.to_string(), event.kind))
        .collect()
}

const ASKED: DeleteReason = DeleteReason::Asked;
const KEPT: DeleteReason = DeleteReason::KeepWhile;

#[test]
fn create_non_existing_node() {
    let mut tree = Tree::default();
    let answer = put_if(&mut tree, "/foo", "a", Condition::Exists(false)).unwrap();
    assert_eq!(
        (answer.version, answer.revision, answer.succeeded),
        (1, 1, true)
    );
}

#[test]
fn create_existing_node() {
    let mut tree = Tree::default();
    put(&mut tree, "/foo", "a");
    let refused = put_if(&mut tree, "/foo", "b", Condition::Exists(false));
    assert_eq!(refused, Err(ErrorKind::ConditionFailed));
    assert_eq!(node(&tree, "/foo").value, value("a"));
    assert_eq!(tree.revision(), 1);
}

#[test]
fn insert_non_existing_node() {
    let mut tree = Tree::default();
    assert_eq!(put(&mut tree, "/foo", "a").version, 1);
}

#[test]
fn insert_existing_node() {
    let mut tree = Tree::default();
    put(&mut tree, "/foo", "a");
    assert_eq!(put(&mut tree, "/foo", "b").version, 2);
    assert_eq!(node(&tree, "/foo").child_version, 1);
}

/// No new version, so no event and no revision either.
#[test]
fn insert_existing_node_with_identical_payload() {
    let mut tree = Tree::default();
    put(&mut tree, "/foo", "a");
    let again = put(&mut tree, "/foo", "a");
    assert_eq!((again.version, again.revision), (1, 1));
    assert_eq!(events(&tree, 0).len(), 1);
}

#[test]
fn update_non_existing_node() {
    let mut tree = Tree::default();
    let refused = put_if(&mut tree, "/foo", "a", Condition::Exists(true));
    assert_eq!(refused, Err(ErrorKind::ConditionFailed));
    assert!(names(&tree).is_empty());
}

#[test]
fn update_existing_node() {
    let mut tree = Tree::default();
    put(&mut tree, "/foo", "a");
    let answer = put_if(&mut tree, "/foo", "b", Condition::Exists(true));
    assert_eq!(answer.unwrap().version, 2);
}

#[test]
fn compare_and_swap_matching_and_mismatching_and_non_existing_node() {
    let mut tree = Tree::default();
    let is = |text: &str| Condition::ValueIs(text.as_bytes().to_vec());
    let missing = put_if(&mut tree, "/foo", "b", is("a"));
    assert_eq!(missing, Err(ErrorKind::ConditionFailed));
    put(&mut tree, "/foo", "a");
    assert_eq!(put_if(&mut tree, "/foo", "b", is("a")).unwrap().version, 2);
    assert_eq!(
        put_if(&mut tree, "/foo", "c", is("a")),
        Err(ErrorKind::ConditionFailed)
    );
    assert_eq!(node(&tree, "/foo").value, value("b"));
}

#[test]
fn clear_payload_from_existing_node() {
    let mut tree = Tree::default();
    put(&mut tree, "/foo", "a");
    let clear = || StoreOp::Put(Put::new(path("/foo"), None));
    assert_eq!(run(&mut tree, clear()).unwrap().version, 2);
    assert_eq!(node(&tree, "/foo").value, None);
    assert_eq!(run(&mut tree, clear()).unwrap().version, 2);
}

#[test]
fn get_non_existing_node() {
    assert_eq!(Tree::default().get(&path("/foo")), None);
}

#[test]
fn get_existing_node() {
    let mut tree = Tree::default();
    put(&mut tree, "/foo/bar", "a");
    let info = node(&tree, "/foo/bar");
    assert_eq!(
        (info.version, info.child_version, info.child_count),
        (1, 1, 0)
    );
    assert_eq!(info.value, value("a"));
}

#[test]
fn exists_and_has_data() {
    let mut tree = Tree::default();
    put(&mut tree, "/foo/bar", "a");
    assert!(tree.holds(&path("/foo"), &Condition::Exists(true)));
    assert!(tree.holds(&path("/foo"), &Condition::HasValue(false)));
    assert!(tree.holds(&path("/foo/bar"), &Condition::HasValue(true)));
    assert!(tree.holds(&path("/baz"), &Condition::Exists(false)));
    assert!(tree.holds(&path("/baz"), &Condition::HasValue(false)));
}

#[test]
fn delete_non_existing_node() {
    let mut tree = Tree::default();
    assert_eq!(delete(&mut tree, "/foo"), []);
    assert_eq!(tree.revision(), 0);
}

#[test]
fn delete_existing_node() {
    let mut tree = Tree::default();
    put(&mut tree, "/foo", "a");
    put(&mut tree, "/foo/bar/baz", "b");
    put(&mut tree, "/foo-2", "c");
    let all = ["/foo/bar/baz", "/foo/bar", "/foo"];
    assert_eq!(
        delete(&mut tree, "/foo"),
        all.map(|of| (of.to_owned(), ASKED))
    );
    assert_eq!(names(&tree), ["/foo-2"]);
    assert_eq!(put(&mut tree, "/foo", "a").version, 1);
}

#[test]
fn delete_non_existing_node_under_non_existing_parent() {
    let mut tree = Tree::default();
    assert_eq!(delete(&mut tree, "/foo/bar/baz"), []);
    assert!(names(&tree).is_empty());
}

#[test]
fn delete_a_node_deep_into_the_tree() {
    let mut tree = Tree::default();
    put(&mut tree, "/foo/bar/baz/qux", "a");
    put(&mut tree, "/foo/bar", "b");
    let all = ["/foo/bar/baz/qux", "/foo/bar/baz"];
    assert_eq!(
        delete(&mut tree, "/foo/bar/baz"),
        all.map(|of| (of.to_owned(), ASKED))
    );
    let bar = node(&tree, "/foo/bar");
    assert_eq!((bar.version, bar.child_version, bar.child_count), (2, 2, 0));
    let foo = node(&tree, "/foo");
    assert_eq!((foo.version, foo.child_version, foo.child_count), (1, 1, 1));
}

#[test]
fn delete_existing_node_with_condition_true_and_false() {
    let mut tree = Tree::default();
    put(&mut tree, "/foo", "a");
    let op = |version| StoreOp::Delete {
        target: pattern("/foo"),
        when: vec![Condition::Version(Comparison::Equal, version)],
    };
    assert_eq!(run(&mut tree, op(2)), Err(ErrorKind::ConditionFailed));
    assert_eq!(run(&mut tree, op(1)).unwrap().count, 1);
    assert!(names(&tree).is_empty());
}

#[test]
fn insert_a_node_with_path_containing_non_existing_nodes() {
    let mut tree = Tree::default();
    put(&mut tree, "/foo/bar/baz", "a");
    assert_eq!(names(&tree), ["/foo", "/foo/bar", "/foo/bar/baz"]);
    let foo = node(&tree, "/foo");
    assert_eq!((foo.version, foo.child_version, foo.child_count), (1, 1, 1));
}

#[test]
fn child_list_version_and_length_follow_the_children() {
    let mut tree = Tree::default();
    put(&mut tree, "/foo/a", "a");
    put(&mut tree, "/foo/b", "b");
    let foo = node(&tree, "/foo");
    assert_eq!((foo.version, foo.child_version, foo.child_count), (1, 2, 2));
    // A grandchild or a child's value is no change of the list.
    put(&mut tree, "/foo/b", "c");
    put(&mut tree, "/foo/b/c", "c");
    assert_eq!(node(&tree, "/foo").child_version, 2);
    delete(&mut tree, "/foo/b");
    let foo = node(&tree, "/foo");
    assert_eq!((foo.child_version, foo.child_count), (3, 1));
}

#[test]
fn if_payload_version_and_if_child_list_version_and_length() {
    let mut tree = Tree::default();
    put(&mut tree, "/foo", "a");
    put(&mut tree, "/foo", "b");
    put(&mut tree, "/foo/x", "x");
    let foo = path("/foo");
    use Comparison::{Equal, Greater, GreaterOrEqual, Less, LessOrEqual, NotEqual};
    let table = [
        (Equal, 2, true),
        (NotEqual, 2, false),
        (Less, 2, false),
        (LessOrEqual, 2, true),
        (Greater, 1, true),
        (GreaterOrEqual, 3, false),
    ];
    for (comparison, than, expected) in table {
        assert_eq!(
            tree.holds(&foo, &Condition::Version(comparison, than)),
            expected
        );
        assert_eq!(
            tree.holds(&foo, &Condition::ChildVersion(comparison, than)),
            expected
        );
        let count = Condition::ChildCount(comparison, than - 1);
        assert_eq!(tree.holds(&foo, &count), expected, "{count:?}");
    }
    assert!(tree.holds(&path("/none"), &Condition::Version(Equal, 0)));
}

#[test]
fn if_not_and_if_all_and_if_any() {
    let mut tree = Tree::default();
    put(&mut tree, "/foo", "a");
    let (yes, no) = (Condition::Exists(true), Condition::Exists(false));
    let holds = |condition| tree.holds(&path("/foo"), &condition);
    assert!(holds(Condition::Not(Box::new(no.clone()))));
    assert!(holds(Condition::All(vec![yes.clone(), yes.clone()])));
    assert!(!holds(Condition::All(vec![yes.clone(), no.clone()])));
    assert!(holds(Condition::All(Vec::new())));
    assert!(holds(Condition::Any(vec![no.clone(), yes])));
    assert!(!holds(Condition::Any(Vec::new())));
    assert!(holds(Condition::At(path("/bar"), Box::new(no))));
}

/// Khepri's match specifications; ours look into dictionaries.
#[test]
fn if_data_matches() {
    let mut tree = Tree::default();
    let entry = |key: &str, value| (Value::from(key), value);
    let inner = Value::Dictionary(vec![
        entry("state", "open".into()),
        entry("rank", Value::Float(2.5)),
    ]);
    let lobby = Value::Dictionary(vec![entry("size", 16.into()), entry("of", inner)]);
    run(
        &mut tree,
        StoreOp::Put(Put::new(path("/lobby"), Some(encode(&lobby)))),
    )
    .unwrap();
    let holds = |keys: &[&str], comparison, value: Value| {
        let keys = keys.iter().map(|key| (*key).to_owned()).collect();
        let value = encode(&value);
        let field = Condition::Field {
            keys,
            comparison,
            value,
        };
        tree.holds(&path("/lobby"), &field)
    };
    assert!(holds(&["size"], Comparison::Equal, 16.into()));
    assert!(holds(&["size"], Comparison::Greater, Value::Float(15.5)));
    assert!(holds(&["of", "state"], Comparison::Equal, "open".into()));
    assert!(holds(
        &["of", "state"],
        Comparison::Equal,
        Value::StringName("open".into())
    ));
    assert!(holds(&["of", "rank"], Comparison::Less, 3.into()));
    assert!(holds(&["of", "state"], Comparison::NotEqual, 3.into()));
    assert!(!holds(&["of", "state"], Comparison::Less, 3.into()));
    assert!(!holds(&["of", "none"], Comparison::NotEqual, 3.into()));
    assert!(!holds(&["size", "of"], Comparison::NotEqual, 3.into()));
    let bytes = Condition::Field {
        keys: vec!["size".into()],
        comparison: Comparison::NotEqual,
        value: vec![1, 2, 3],
    };
    assert!(!tree.holds(&path("/lobby"), &bytes));
    assert!(!tree.holds(&path("/none"), &bytes));
}

#[test]
fn insert_when_keep_while_true_and_false() {
    let mut tree = Tree::default();
    put(&mut tree, "/foo", "a");
    assert!(put_keep(&mut tree, "/baz", "/foo", Condition::Exists(true)).is_ok());
    let refused = put_keep(&mut tree, "/bar", "/none", Condition::Exists(true));
    assert_eq!(refused, Err(ErrorKind::KeepWhileFailed));
    assert_eq!(names(&tree), ["/baz", "/foo"]);
}

/// What a node asks of itself need not hold yet; it is looked at when its children come and go.
#[test]
fn insert_when_keep_while_false_on_self() {
    let mut tree = Tree::default();
    let has_child = Condition::ChildCount(Comparison::Greater, 0);
    put_keep(&mut tree, "/foo", "/foo", has_child).unwrap();
    put(&mut tree, "/foo", "b");
    assert_eq!(names(&tree), ["/foo"]);
    put(&mut tree, "/foo/x", "x");
    let expected = [("/foo/x".to_owned(), ASKED), ("/foo".to_owned(), KEPT)];
    assert_eq!(delete(&mut tree, "/foo/x"), expected);
}

#[test]
fn keep_while_still_true_after_command() {
    let mut tree = Tree::default();
    put(&mut tree, "/foo", "a");
    put_keep(
        &mut tree,
        "/baz",
        "/foo",
        Condition::ChildCount(Comparison::Less, 2),
    )
    .unwrap();
    put(&mut tree, "/foo/x", "x");
    assert!(names(&tree).contains(&"/baz"));
}

#[test]
fn keep_while_now_false_after_command() {
    let mut tree = Tree::default();
    put(&mut tree, "/foo", "a");
    put_keep(
        &mut tree,
        "/baz",
        "/foo",
        Condition::ChildCount(Comparison::Less, 1),
    )
    .unwrap();
    let answer = put(&mut tree, "/foo/x", "x");
    assert_eq!(gone(answer), [("/baz".to_owned(), KEPT)]);
    assert_eq!(names(&tree), ["/foo", "/foo/x"]);
}

#[test]
fn keep_while_now_false_after_delete_command() {
    let mut tree = Tree::default();
    put(&mut tree, "/server/7", "a");
    put_keep(
        &mut tree,
        "/match/1/player/2",
        "/server/7",
        Condition::Exists(true),
    )
    .unwrap();
    let all = [
        ("/server/7", ASKED),
        ("/server", KEPT),
        ("/match/1/player/2", KEPT),
        ("/match/1/player", KEPT),
        ("/match/1", KEPT),
        ("/match", KEPT),
    ];
    let mut found = delete(&mut tree, "/server/7");
    let mut expected = all.map(|(of, reason)| (of.to_owned(), reason)).to_vec();
    found.sort();
    expected.sort();
    assert_eq!(found, expected);
    assert!(names(&tree).is_empty());
}

/// A put may be what ends a node elsewhere; its answer says so.
#[test]
fn put_returns_indirect_deletes() {
    let mut tree = Tree::default();
    put_keep(&mut tree, "/bar", "/foo", Condition::Exists(false)).unwrap();
    let answer = put(&mut tree, "/foo", "a");
    assert_eq!(gone(answer), [("/bar".to_owned(), KEPT)]);
    assert_eq!(names(&tree), ["/foo"]);
}

#[test]
fn recursive_automatic_cleanup() {
    let mut tree = Tree::default();
    put(&mut tree, "/a", "a");
    for (of, asked) in [("/b", "/a"), ("/c", "/b"), ("/d", "/c")] {
        put_keep(&mut tree, of, asked, Condition::Exists(true)).unwrap();
    }
    // A circle ends, too.
    put_keep(&mut tree, "/b", "/d", Condition::Exists(true)).unwrap();
    put_keep(&mut tree, "/b", "/a", Condition::Exists(true)).unwrap();
    delete(&mut tree, "/a");
    assert!(names(&tree).is_empty());
    assert_eq!(tree.index, Default::default());
}

/// A later put that says nothing of it leaves a keep-while as it is.
#[test]
fn a_put_without_keep_while_leaves_it_standing() {
    let mut tree = Tree::default();
    put(&mut tree, "/foo", "a");
    put_keep(&mut tree, "/bar", "/foo", Condition::Exists(true)).unwrap();
    put(&mut tree, "/bar", "new");
    delete(&mut tree, "/foo");
    assert!(names(&tree).is_empty());
}

#[test]
fn automatic_reclaim_of_useless_nodes_works() {
    let mut tree = Tree::default();
    put(&mut tree, "/foo/bar/baz", "a");
    let all = [("/foo/bar/baz", ASKED), ("/foo/bar", KEPT), ("/foo", KEPT)];
    let all = all.map(|(of, reason)| (of.to_owned(), reason));
    assert_eq!(delete(&mut tree, "/foo/bar/baz"), all);
}

#[test]
fn automatic_reclaim_keeps_relevant_nodes() {
    let mut tree = Tree::default();
    put(&mut tree, "/foo/bar/baz", "a");
    put(&mut tree, "/foo/bar", "b");
    put(&mut tree, "/foo/other", "c");
    delete(&mut tree, "/foo/bar/baz");
    assert_eq!(names(&tree), ["/foo", "/foo/bar", "/foo/other"]);
    delete(&mut tree, "/foo/bar");
    assert_eq!(names(&tree), ["/foo", "/foo/other"]);
}

/// Beyond Khepri: what goes is counted, also where the list of it ends, and each node once.
#[test]
fn a_delete_counts_all_that_went() {
    let mut tree = Tree::default();
    let children = NODES_PER_ANSWER_MAX + 476;
    for number in 0..children {
        put(&mut tree, &format!("/imp/{number}"), "a");
    }
    put_keep(&mut tree, "/kept", "/imp", Condition::Exists(true)).unwrap();
    let delete = |tree: &mut Tree, target: &str| {
        let op = StoreOp::Delete {
            target: pattern(target),
            when: Vec::new(),
        };
        run(tree, op).unwrap()
    };
    let answer = delete(&mut tree, "/imp");
    assert_eq!(answer.count, children as u64 + 2);
    assert_eq!(answer.deleted.len(), NODES_PER_ANSWER_MAX);
    assert_eq!(names(&tree), [""; 0]);
    assert_eq!(delete(&mut tree, "/imp").count, 0);

    for at in ["/a/b/c", "/a/d"] {
        put(&mut tree, at, "a");
    }
    // Some that match lie below others that do.
    let answer = delete(&mut tree, "/a/**");
    assert_eq!((answer.count, answer.deleted.len(), tree.len()), (4, 4, 0));
}

/// Beyond Khepri: so does every other write by which nodes go, and it says whether its list of them is whole.
#[test]
fn every_write_counts_what_went_with_it() {
    // One node is the lease's.
    for children in [NODES_PER_ANSWER_MAX - 1, NODES_PER_ANSWER_MAX] {
        let mut tree = Tree::default();
        let op = StoreOp::LeaseGrant {
            path: path("/l"),
            ttl_ms: 1000,
        };
        let granted = run(&mut tree, op).unwrap();
        assert_eq!((granted.count, granted.is_deleted_cut()), (0, false));
        let lease = granted.lease.unwrap();
        for number in 0..children {
            let mut hanging = Put::new(path(&format!("/host_{number}")), value("a"));
            hanging.lease = Some(lease.clone());
            run(&mut tree, StoreOp::Put(hanging)).unwrap();
        }
        let all = children as u64 + 1;
        let is_cut = children == NODES_PER_ANSWER_MAX;
        let cases = [
            StoreOp::LeaseRelease(lease.clone()),
            StoreOp::Transaction {
                compare: Vec::new(),
                then: vec![TransactionOp::Delete {
                    path: path("/l"),
                    when: Vec::new(),
                }],
                otherwise: Vec::new(),
            },
        ];
        for op in cases {
            let mut tree = tree.clone();
            let answer = run(&mut tree, op).unwrap();
            assert_eq!((answer.count, tree.len()), (all, 0));
            assert_eq!(answer.deleted.len(), NODES_PER_ANSWER_MAX);
            assert_eq!(answer.is_deleted_cut(), is_cut, "{children}");
        }
    }
    let mut tree = Tree::default();
    put(&mut tree, "/a", "1");
    put_keep(&mut tree, "/b", "/a", Condition::ValueIs(b"1".to_vec())).unwrap();
    let answer = put(&mut tree, "/a", "2");
    assert_eq!((answer.count, answer.deleted.len()), (1, 1));
}

fn meadow() -> Tree {
    let mut tree = Tree::default();
    for at in [
        "/stock/wood/oak",
        "/stock/wood/birch",
        "/stock/metal/iron",
        "/user_1",
    ] {
        put(&mut tree, at, "a");
    }
    tree
}

#[test]
fn put_many_nodes() {
    let mut tree = meadow();
    let many = |target: &str, when: Vec<Condition>| StoreOp::PutMany {
        pattern: pattern(target),
        value: value("b"),
        when,
    };
    let answer = run(&mut tree, many("/stock/wood/*", Vec::new())).unwrap();
    assert_eq!((answer.count, answer.revision), (2, 5));
    assert_eq!(answer.nodes[0].version, 2);
    assert_eq!(
        (answer.nodes[0].has_value, &answer.nodes[0].value),
        (true, &None)
    );
    // It makes no nodes.
    assert_eq!(
        run(&mut tree, many("/none/*", Vec::new())).unwrap().count,
        0
    );
    assert_eq!(run(&mut tree, many("/new", Vec::new())).unwrap().count, 0);
    let when = vec![Condition::ValueIs(b"a".to_vec())];
    assert_eq!(run(&mut tree, many("/**", when)).unwrap().count, 2);
}

#[test]
fn get_many_nodes_and_count_many_nodes() {
    let tree = meadow();
    let list = |target: &str| -> Vec<String> {
        let page = tree.list(&pattern(target), None, 100);
        assert_eq!(page.next, None);
        page.nodes
            .into_iter()
            .map(|node| node.path.to_string())
            .collect()
    };
    assert_eq!(list("/stock/*"), ["/stock/metal", "/stock/wood"]);
    assert_eq!(list("/stock/*/oak"), ["/stock/wood/oak"]);
    assert_eq!(list("/user_*"), ["/user_1"]);
    assert_eq!(tree.count(&pattern("/**")), 7);
    assert_eq!(tree.count(&pattern("/stock/**")), 5);
    assert_eq!(tree.count(&pattern("/stock")), 1);
}

#[test]
fn delete_many_nodes() {
    let mut tree = meadow();
    let found = delete(&mut tree, "/stock/wood/*");
    assert_eq!(found.len(), 3);
    assert_eq!(
        names(&tree),
        ["/stock", "/stock/metal", "/stock/metal/iron", "/user_1"]
    );
    assert_eq!(delete(&mut tree, "/**").len(), 4);
    assert!(names(&tree).is_empty());
}

#[test]
fn a_pattern_that_is_too_wide_is_refused_whole() {
    let mut tree = Tree::default();
    for number in 0..=NODES_PER_PATTERN_WRITE_MAX {
        put(&mut tree, &format!("/n/{number}"), "a");
    }
    let op = StoreOp::Delete {
        target: pattern("/n/*"),
        when: Vec::new(),
    };
    assert_eq!(run(&mut tree, op), Err(ErrorKind::TooLarge));
    assert_eq!(tree.len(), NODES_PER_PATTERN_WRITE_MAX + 2);
    assert_eq!(
        delete(&mut tree, "/n").len(),
        1024,
        "an answer names no more"
    );
    assert_eq!(tree.len(), 0);
}

#[test]
fn transaction_put_get_delete() {
    let mut tree = Tree::default();
    put(&mut tree, "/a", "1");
    let transaction = |wanted: &str| StoreOp::Transaction {
        compare: vec![(path("/a"), Condition::ValueIs(wanted.as_bytes().to_vec()))],
        then: vec![
            TransactionOp::Put(Put::new(path("/b"), value("2"))),
            TransactionOp::Get(path("/b")),
            TransactionOp::Delete {
                path: path("/a"),
                when: Vec::new(),
            },
            TransactionOp::Get(path("/a")),
        ],
        otherwise: vec![TransactionOp::Get(path("/b"))],
    };
    let answer = run(&mut tree, transaction("1")).unwrap();
    assert!(answer.succeeded);
    assert_eq!(answer.revision, 2);
    let versions: Vec<u64> = answer.nodes.iter().map(|node| node.version).collect();
    assert_eq!(versions, [1, 1, 0, 0]);
    assert_eq!(answer.nodes[1].value, value("2"));
    let answer = run(&mut tree, transaction("1")).unwrap();
    assert!(!answer.succeeded);
    assert_eq!((answer.nodes.len(), answer.revision), (1, 2));
}

#[test]
fn transaction_that_fails_in_the_middle_changes_nothing() {
    let mut tree = Tree::default();
    put(&mut tree, "/a", "1");
    put_keep(&mut tree, "/kept", "/a", Condition::Exists(true)).unwrap();
    let before = tree.clone();
    let mut second = Put::new(path("/b"), value("2"));
    second.when = vec![Condition::Exists(true)];
    let op = StoreOp::Transaction {
        compare: Vec::new(),
        then: vec![
            TransactionOp::Delete {
                path: path("/a"),
                when: Vec::new(),
            },
            TransactionOp::Put(Put::new(path("/x/y/z"), value("3"))),
            TransactionOp::Put(second),
        ],
        otherwise: Vec::new(),
    };
    assert_eq!(run(&mut tree, op), Err(ErrorKind::ConditionFailed));
    assert_eq!(tree, before);
}

/// "Lobby full", in one put.
#[test]
fn a_put_may_ask_about_another_node() {
    let mut tree = Tree::default();
    let join = |tree: &mut Tree, who: &str| {
        let room = Condition::ChildCount(Comparison::Less, 2);
        let room = Condition::At(path("/lobby"), Box::new(room));
        put_if(tree, &format!("/lobby/{who}"), "in", room)
    };
    assert!(join(&mut tree, "a").is_ok());
    assert!(join(&mut tree, "b").is_ok());
    assert_eq!(join(&mut tree, "c"), Err(ErrorKind::ConditionFailed));
}

#[test]
fn event_triggers_tell_of_every_change_in_order() {
    let mut tree = Tree::default();
    put(&mut tree, "/foo/bar", "a");
    put(&mut tree, "/foo/bar", "b");
    delete(&mut tree, "/foo/bar");
    let put_event = |at: &str, version, text: Option<&str>| {
        let value = text.and_then(value);
        (at.to_owned(), WatchKind::Put { version, value })
    };
    let gone = |at: &str, reason| (at.to_owned(), WatchKind::Delete { reason });
    let all = [
        put_event("/foo", 1, None),
        put_event("/foo/bar", 1, Some("a")),
        put_event("/foo/bar", 2, Some("b")),
        gone("/foo/bar", ASKED),
        gone("/foo", KEPT),
    ];
    assert_eq!(events(&tree, 0), all);
    assert_eq!(events(&tree, 1), all[2..]);
    assert_eq!(events(&tree, 3), []);
}

#[test]
fn filter_on_change_type_and_pattern() {
    let mut tree = Tree::default();
    put(&mut tree, "/a/x", "1");
    put(&mut tree, "/b/x", "1");
    let batch = tree.events_after(&pattern("/*/x"), 1, usize::MAX);
    assert_eq!(batch.events.len(), 1);
    assert_eq!((batch.revision, batch.compacted), (2, false));
    // Nothing that matches is still told as seen.
    let batch = tree.events_after(&pattern("/none"), 0, 1);
    assert_eq!((batch.revision, batch.events.len()), (2, 0));
}

/// A watcher that fell too far behind, or comes from another tree, is told so.
#[test]
fn a_watcher_too_far_behind_is_told() {
    let mut tree = Tree::default();
    for number in 0..10_000 {
        put(&mut tree, "/a", &number.to_string());
    }
    let batch = tree.events_after(&pattern("/a"), 100, usize::MAX);
    assert!(batch.compacted);
    assert_eq!((batch.events.len(), batch.revision), (8192, 10_000));
    assert!(
        !tree
            .events_after(&pattern("/a"), 10_000 - 8192, 1)
            .compacted
    );
    assert!(
        tree.events_after(&pattern("/a"), 10_000 - 8193, 1)
            .compacted
    );
    assert!(tree.events_after(&pattern("/a"), 10_001, 1).compacted);
    let value = vec![7; VALUE_BYTES_MAX];
    for number in 0..9 {
        let op = StoreOp::Put(Put::new(path(&format!("/{number}")), Some(value.clone())));
        run(&mut tree, op).unwrap();
    }
    assert!(tree.events_after(&pattern("/a"), 10_000, 1).compacted);
    assert!(!tree.events_after(&pattern("/a"), 10_003, 1).compacted);
    // One write with more than can be told at once.
    let many = StoreOp::PutMany {
        pattern: pattern("/*"),
        value: Some(vec![8; VALUE_BYTES_MAX]),
        when: Vec::new(),
    };
    run(&mut tree, many).unwrap();
    assert!(tree.events_after(&pattern("/a"), 10_009, 1).compacted);
    assert!(!tree.events_after(&pattern("/a"), 10_010, 1).compacted);
}

#[test]
fn a_full_tree_takes_no_more_and_gives_back() {
    let mut tree = Tree::default();
    let big = |number: usize| {
        StoreOp::Put(Put::new(
            path(&format!("/{number}")),
            Some(vec![0; VALUE_BYTES_MAX]),
        ))
    };
    let mut count = 0;
    while run(&mut tree, big(count)).is_ok() {
        count += 1;
    }
    assert_eq!(count, 255);
    let before = tree.clone();
    assert_eq!(run(&mut tree, big(count)), Err(ErrorKind::TreeFull));
    assert_eq!(tree, before);
    delete(&mut tree, "/0");
    assert!(run(&mut tree, big(count)).is_ok());
}

fn grant(tree: &mut Tree, who: (&str, u128), time_ms: u64) -> Result<LeaseRef, ErrorKind> {
    let op = StoreOp::LeaseGrant {
        path: path("/match/1"),
        ttl_ms: 1000,
    };
    try_as(tree, who, time_ms, op).map(|answer| answer.lease.unwrap())
}

#[test]
fn a_lease_has_one_holder_and_ends_by_log_time() {
    let mut tree = Tree::default();
    let (a, b) = (("a", 20), ("b", 21));
    let first = grant(&mut tree, a, 0).unwrap();
    assert_eq!(grant(&mut tree, b, 500), Err(ErrorKind::LeaseHeld));
    assert_eq!(node(&tree, "/match/1").lease, first.token);
    try_as(&mut tree, a, 900, StoreOp::LeaseRenew(first.clone())).unwrap();
    assert_eq!(tree.next_end_ns(), Some(1_900_000_000));
    // What hangs on it, and a guarded write.
    let mut guarded = Put::new(path("/state"), value("x"));
    guarded.lease = Some(first.clone());
    run(&mut tree, StoreOp::Put(guarded.clone())).unwrap();
    tree.expire(1_899_999_999);
    assert_eq!(names(&tree), ["/match", "/match/1", "/state"]);
    tree.expire(1_900_000_000);
    assert!(names(&tree).is_empty());
    assert_eq!(
        run(&mut tree, StoreOp::Put(guarded)),
        Err(ErrorKind::LeaseLost)
    );
    let renew = StoreOp::LeaseRenew(first.clone());
    assert_eq!(try_as(&mut tree, a, 2000, renew), Err(ErrorKind::LeaseLost));
    let second = grant(&mut tree, b, 2000).unwrap();
    assert!(second.token > first.token);
    let release = |lease| StoreOp::LeaseRelease(lease);
    assert_eq!(run(&mut tree, release(first)), Err(ErrorKind::LeaseLost));
    let answer = run(&mut tree, release(second)).unwrap();
    assert_eq!(
        gone(answer)[0],
        ("/match/1".to_owned(), DeleteReason::Lease)
    );
    assert_eq!(tree.next_end_ns(), None);
}

/// The game that went on after a death takes its own lease back at once, and what hangs on it stays.
#[test]
fn a_lease_goes_over_to_the_next_session_of_its_source() {
    let mut tree = Tree::default();
    let first = grant(&mut tree, ("a", 5), 0).unwrap();
    let mut hanging = Put::new(path("/state"), value("x"));
    hanging.lease = Some(first.clone());
    run(&mut tree, StoreOp::Put(hanging)).unwrap();
    assert_eq!(grant(&mut tree, ("b", 11), 1), Err(ErrorKind::LeaseHeld));
    let second = grant(&mut tree, ("a", 12), 1).unwrap();
    assert!(second.token > first.token);
    assert!(names(&tree).contains(&"/state"));
    // That one has not ended.
    assert_eq!(grant(&mut tree, ("a", 13), 2), Err(ErrorKind::LeaseHeld));
    // A value makes the node one that stays without its lease.
    put(&mut tree, "/match/1", "value");
    tree.expire(5_000_000_000);
    assert_eq!(names(&tree), ["/match", "/match/1"]);
    assert_eq!(node(&tree, "/match/1").lease, 0);
}

#[test]
fn what_is_exported_is_imported_and_damage_is_found() {
    let mut tree = Tree::default();
    let godot =
        |at: &str, number: i64| StoreOp::Put(Put::new(path(at), Some(encode(&Value::Int(number)))));
    run(&mut tree, godot("/z", 1)).unwrap();
    run(&mut tree, godot("/a/b", 2)).unwrap();
    let mut kept = Put::new(path("/b"), None);
    kept.keep_while = vec![(path("/z"), Condition::Exists(true))];
    run(&mut tree, StoreOp::Put(kept)).unwrap();
    let text = tree.export().unwrap();
    let mut copy = Tree::default();
    for op in super::export::import(&text).unwrap() {
        run(&mut copy, op).unwrap();
    }
    assert_eq!(copy.nodes, tree.nodes);
    for at in 0..text.len() {
        let mut bytes = text.clone().into_bytes();
        bytes[at] ^= 1;
        let damaged = String::from_utf8(bytes).unwrap();
        assert!(super::export::import(&damaged).is_err(), "at {at}");
        assert!(super::export::import(&text[..at]).is_err());
    }
}
