//! The words of the state store: what a game asks of it ([`StoreOp`], [`StoreQuery`]) and what it hears back
//! ([`StoreResult`], [`WatchBatch`]).
//!
//! Values are Godot's own encoding ([`crate::value`]) as bytes; nobody on the way looks inside, but for a condition on a
//! field. Ops ride in the ring as the records do and lie in the log for good, so these enums gain variants at their end
//! and change nothing else.
//!
//! [`path`]: names of nodes · [`condition`]: questions about nodes · [`answer`]: what comes back · [`check`]: limits · [`codec`]: the bytes.
//! Not here: what the words mean to the tree (the watchdog's `store`), how they ride in frames (`session`).

pub mod answer;
pub mod check;
pub mod codec;
pub mod condition;
pub mod path;

use serde::{Deserialize, Serialize};

pub use answer::{
    Answer, DeleteReason, Deleted, ErrorKind, NodeInfo, RestoreStatus, Restored, StoreResult,
    WatchBatch, WatchEvent, WatchKind,
};
pub use check::Invalid;
pub use codec::{Words, WordsError, decode_request, encode_request, peek_checkpoint};
pub use condition::{CONDITION_DEPTH_MAX, CONDITIONS_MAX, Comparison, Condition};
pub use path::{
    PATH_BYTES_MAX, PATH_DEPTH_MAX, Path, PathError, Pattern, RESERVED_SEGMENT, SEGMENT_BYTES_MAX,
};

/// Largest value of a node or a checkpoint in bytes: 1 MiB. Larger things are files, not state.
pub const VALUE_BYTES_MAX: usize = 1 << 20;
/// Most ops of one transaction, both branches together.
pub const OPS_PER_TRANSACTION_MAX: usize = 128;
/// Largest transaction: bytes of all its values, compared ones included.
pub const TRANSACTION_BYTES_MAX: usize = 1 << 20;
/// Most nodes that one write with a pattern may touch.
pub const NODES_PER_PATTERN_WRITE_MAX: usize = 1024;
/// Most keep-while conditions of one node.
pub const KEEP_WHILE_MAX: usize = 16;
/// Most keys that a condition on a field may go inwards.
pub const FIELD_KEYS_MAX: usize = 8;
/// Most watches of one session.
pub const WATCHES_PER_SESSION_MAX: usize = 64;
/// Most requests of one session whose answers were not yet taken.
pub const REQUESTS_OUTSTANDING_MAX: usize = 4096;
/// Longest key of a checkpoint in bytes.
pub const CHECKPOINT_KEY_BYTES_MAX: usize = 128;
/// Most keys of one server with checkpoints: one for each player of a large one, and then some. A call refuses more; the
/// store takes twice as many, since a game may have checkpointed before the watchdog had told it how many there are.
pub const CHECKPOINT_KEYS_MAX: usize = 4096;
/// Most bytes of one server's checkpoints, the newest full one of each key and its deltas: 64 MiB. A call refuses more, and the
/// store takes twice as much, as for [`CHECKPOINT_KEYS_MAX`]. Older ones are kept as far as they fit, too.
pub const CHECKPOINTS_BYTES_MAX: u64 = 64 << 20;
/// Most deltas on one full checkpoint; their values may have [`VALUE_BYTES_MAX`] bytes in all.
pub const DELTAS_MAX: usize = 64;
/// Shortest time to live of a lease in milliseconds.
pub const LEASE_TTL_MS_MIN: u64 = 100;
/// Longest time to live of a lease in milliseconds: a day.
pub const LEASE_TTL_MS_MAX: u64 = 24 * 60 * 60 * 1000;
/// Most nodes of one answer; the rest comes with the next page.
pub const NODES_PER_ANSWER_MAX: usize = 1024;
/// Largest list of nodes in one answer, in bytes of paths and values; one node always fits.
pub const ANSWER_BYTES_MAX: usize = 1 << 20;
/// Bytes of everything that the tree may hold, paths included, where nothing else is configured: 256 MiB.
pub const TREE_BYTES_MAX_DEFAULT: u64 = 256 << 20;

/// Largest encoded op or query. A transaction's values and what names them.
pub const REQUEST_BYTES_MAX: usize = (2 << 20) + (512 << 10);
/// Largest encoded result or batch of events: a checkpoint and its deltas, or a page of nodes, and what names them.
pub const REPLY_BYTES_MAX: usize = 6 << 20;

/// A write. It is logged; it applies once, however often it is sent.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub enum StoreOp {
    /// Makes or changes one node.
    Put(Put),
    /// Changes the value of every node that matches; makes none. All of them or none.
    PutMany {
        /// Which nodes; at most [`NODES_PER_PATTERN_WRITE_MAX`].
        pattern: Pattern,
        /// Their new value, `None` to take it away.
        #[serde(with = "serde_bytes")]
        value: Option<Vec<u8>>,
        /// Only nodes for which all of this holds are changed.
        when: Vec<Condition>,
    },
    /// Takes nodes away, with all that lies below them.
    Delete {
        /// One node, or a pattern for many; at most [`NODES_PER_PATTERN_WRITE_MAX`] that match.
        target: Pattern,
        /// For a single path: fails unless all of this holds. For a pattern: nodes for which it does not hold stay.
        when: Vec<Condition>,
    },
    /// Several ops at once: if all of `compare` holds then `then`, otherwise `otherwise`. If one op of that branch fails,
    /// nothing is changed.
    Transaction {
        /// Node and condition.
        compare: Vec<(Path, Condition)>,
        /// What is done if all of it holds.
        then: Vec<TransactionOp>,
        /// What is done if not.
        otherwise: Vec<TransactionOp>,
    },
    /// Takes the lease at a node, which is made if it is not there and then vanishes with the lease, unless somebody puts
    /// it. Granted if nobody holds
    /// it, or a session of the same source that has ended, or the same session.
    LeaseGrant {
        /// Which node.
        path: Path,
        /// For how long, unless it is renewed: [`LEASE_TTL_MS_MIN`] to [`LEASE_TTL_MS_MAX`].
        ttl_ms: u64,
    },
    /// Begins a lease's time to live anew.
    LeaseRenew(LeaseRef),
    /// Gives a lease back.
    LeaseRelease(LeaseRef),
    /// Keeps the state of a game; latest wins.
    Checkpoint {
        /// Under which key; 1 to [`CHECKPOINT_KEY_BYTES_MAX`] bytes.
        key: String,
        /// All of it, or what changed.
        kind: CheckpointKind,
        /// Goes up by one with each checkpoint of this key, over incarnations (from [`Restored::version`]).
        version: u64,
        /// The state; at most [`VALUE_BYTES_MAX`] bytes.
        #[serde(with = "serde_bytes")]
        value: Vec<u8>,
        /// The engine's frame, for whoever restores it.
        frame: u64,
        /// The engine's wall clock, in milliseconds since the Unix epoch, for whoever restores it.
        realtime_ms: i64,
    },
    /// Tells that the game has loaded a checkpoint; should it die soon, an older one is offered (a safe start).
    Loaded {
        /// Its key.
        key: String,
        /// The version of the full one.
        version: u64,
    },
    /// Takes all checkpoints of a key away. None is no error.
    ForgetCheckpoint {
        /// Which key.
        key: String,
    },
}

/// One put.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Put {
    /// Which node. Nodes above it that are missing are made, without a value, and vanish with their last child.
    pub path: Path,
    /// Its value, `None` for a node without one.
    #[serde(with = "serde_bytes")]
    pub value: Option<Vec<u8>>,
    /// The put fails unless all of this holds.
    pub when: Vec<Condition>,
    /// The node lives while all of this holds. It must hold now, but for what the node asks of itself: that is looked at
    /// when its children come and go. It replaces what was asked before; if empty, that stands.
    pub keep_while: Vec<(Path, Condition)>,
    /// The put fails unless this lease is held, and the node vanishes with it. `None` leaves standing what was asked before.
    pub lease: Option<LeaseRef>,
}

impl Put {
    /// A put without conditions.
    pub fn new(path: Path, value: Option<Vec<u8>>) -> Self {
        Self {
            path,
            value,
            when: Vec::new(),
            keep_while: Vec::new(),
            lease: None,
        }
    }
}

/// An op in a transaction.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub enum TransactionOp {
    /// As [`StoreOp::Put`].
    Put(Put),
    /// Reads a node as the ops before it have left it. A node that is not there is no error.
    Get(Path),
    /// As [`StoreOp::Delete`] of one node. A node that is not there is no error.
    Delete {
        /// Which node.
        path: Path,
        /// The transaction fails unless all of this holds.
        when: Vec<Condition>,
    },
}

/// A lease that somebody was granted.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct LeaseRef {
    /// The node it was granted at.
    pub path: Path,
    /// The fencing token: higher for every later grant in the group.
    pub token: u64,
}

/// How much of a state a checkpoint holds.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum CheckpointKind {
    /// All of it.
    Full,
    /// What changed since the checkpoint before. Taken only if none is missing since the full one.
    Delta {
        /// The version of the full one.
        base: u64,
    },
}

/// A question; answered from memory, not logged.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub enum StoreQuery {
    /// One node.
    Get {
        /// Which.
        path: Path,
        /// Everything that any node of the group has committed before must be seen.
        linearizable: bool,
    },
    /// A page of the nodes that match, ordered by path.
    List {
        /// Which nodes.
        pattern: Pattern,
        /// Only those after this one: [`Answer::next`] of the page before.
        after: Option<Path>,
        /// At most so many, at most [`NODES_PER_ANSWER_MAX`].
        limit: u32,
        /// As for `Get`.
        linearizable: bool,
    },
    /// How many nodes match.
    Count {
        /// Which nodes.
        pattern: Pattern,
        /// As for `Get`.
        linearizable: bool,
    },
    /// Tells of every change of nodes that match, in order, until [`StoreQuery::Unwatch`]. The first answer is a
    /// [`StoreResult`] with the revision at which the watch begins.
    Watch {
        /// Which nodes.
        pattern: Pattern,
        /// From the first change after this revision on; `None`: from now on. Revision 0 is that of an empty tree.
        from_revision: Option<u64>,
    },
    /// Ends a watch.
    Unwatch {
        /// The number of the request that began it.
        watch: u64,
    },
    /// The newest checkpoint, once every earlier session of the same source has ended.
    Restore {
        /// Its key.
        key: String,
        /// Rather the one before the checkpoint that the last incarnations had loaded and died with.
        safe: bool,
    },
}

#[cfg(test)]
mod tests;
