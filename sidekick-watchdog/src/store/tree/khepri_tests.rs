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

mod conditions;
mod deletes;
mod export;
mod keep_while;
mod leases;
mod many;
mod puts;
mod transactions;
mod watches;

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
