//! What the state store says: results of ops and queries, and the events of watches.

use std::fmt;

use serde::{Deserialize, Serialize};

use super::LeaseRef;
use super::path::Path;

/// What came of an op or a query.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub enum StoreResult {
    /// It was done, or was done before.
    Ok(Answer),
    /// Nothing was changed.
    Error {
        /// Which kind of error, for programs.
        kind: ErrorKind,
        /// What is wrong and what to do, for people.
        message: String,
    },
    /// What there is to restore.
    Restored(Restored),
    /// It was done, but of its answer only what is small was kept.
    AnswerLost {
        /// Without values and lists of nodes.
        answer: Answer,
        /// Why, and what to do, for people.
        message: String,
    },
}

impl StoreResult {
    /// An error.
    pub fn error(kind: ErrorKind, message: impl fmt::Display) -> Self {
        Self::Error {
            kind,
            message: message.to_string(),
        }
    }

    /// Whether it has what may be large: values or lists of nodes.
    pub fn has_bulk(&self) -> bool {
        matches!(self, Self::Ok(of) if !of.nodes.is_empty() || !of.deleted.is_empty())
    }

    /// Gives up its values and lists of nodes ([`Self::has_bulk`]), and says why.
    pub fn give_up(&mut self, message: impl fmt::Display) {
        if let Self::Ok(answer) = self {
            let answer = Answer {
                nodes: Vec::new(),
                deleted: Vec::new(),
                ..std::mem::take(answer)
            };
            *self = Self::AnswerLost {
                answer,
                message: message.to_string(),
            };
        }
    }

    /// The word and the sentence of what is no plain success; [`ErrorKind::AnswerLost`] of something that was done.
    pub fn error_words(&self) -> Option<(ErrorKind, &str)> {
        match self {
            Self::Ok(_) | Self::Restored(_) => None,
            Self::Error { kind, message } => Some((*kind, message)),
            Self::AnswerLost { message, .. } => Some((ErrorKind::AnswerLost, message)),
        }
    }
}

/// The good news. Which of it means something is told by what was asked; the rest is at its default.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Answer {
    /// The tree's revision after the op, or at the query: higher by one for every write that changed something.
    pub revision: u64,
    /// Version of the node, or of the checkpoint that was taken; 0 if there is no node.
    pub version: u64,
    /// The nodes of a query, with their values; one for each op of a transaction, in their order, with their values for
    /// gets; those of a put with a pattern, without.
    pub nodes: Vec<NodeInfo>,
    /// The nodes that vanished, parents after their children: the first [`super::NODES_PER_ANSWER_MAX`] of them.
    pub deleted: Vec<Deleted>,
    /// The lease granted or renewed.
    pub lease: Option<LeaseRef>,
    /// How many nodes match, or were put by a pattern; of every other write how many vanished.
    pub count: u64,
    /// A transaction: whether `compare` held. For every other request: true.
    pub succeeded: bool,
    /// A list goes on: ask again with this as `after`.
    pub next: Option<Path>,
}

impl Answer {
    /// The node's value, of an answer about a single node ([`super::StoreQuery::Get`]).
    pub fn value(&self) -> Option<&[u8]> {
        match self.nodes.as_slice() {
            // Of a list that found one, no version is told.
            [node] if self.version > 0 => node.value.as_deref(),
            _ => None,
        }
    }

    /// Whether more nodes vanished than `deleted` names. Of a put with a pattern nobody can tell: its `count` is that of the puts.
    pub fn is_deleted_cut(&self) -> bool {
        let named = self.deleted.len();
        named >= super::NODES_PER_ANSWER_MAX && self.count > named as u64
    }
}

/// One node as it stands.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct NodeInfo {
    /// Its path.
    pub path: Path,
    /// Goes up by one with each change of its value, from 1; 0 if there is no such node.
    pub version: u64,
    /// Goes up by one with each child that comes or goes, from 1; 0 if there is no such node.
    pub child_version: u64,
    /// How many children it has.
    pub child_count: u64,
    /// Whether it has a value, also where that is not told.
    pub has_value: bool,
    /// Its value, where it is told.
    #[serde(with = "serde_bytes")]
    pub value: Option<Vec<u8>>,
    /// The token of the lease that is held here; 0 if none is.
    pub lease: u64,
}

/// A node that vanished.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Deleted {
    /// Its path.
    pub path: Path,
    /// Why.
    pub reason: DeleteReason,
}

/// Why a node vanished.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub enum DeleteReason {
    /// Somebody deleted it, or a node above it.
    Asked,
    /// A condition that kept it no longer holds, or its last child went and it was only there for its children.
    KeepWhile,
    /// The lease that it hung on has ended.
    Lease,
}

impl DeleteReason {
    /// The word for it in GDScript and JSON.
    pub fn name(self) -> &'static str {
        match self {
            Self::Asked => "asked",
            Self::KeepWhile => "keep_while",
            Self::Lease => "lease",
        }
    }
}

/// Kinds of errors.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub enum ErrorKind {
    /// The node is not there.
    NotFound,
    /// A condition does not hold.
    ConditionFailed,
    /// A condition of a keep-while does not hold now.
    KeepWhileFailed,
    /// Somebody else holds the lease.
    LeaseHeld,
    /// The lease is no longer held under this token.
    LeaseLost,
    /// A checkpoint with a version that is not above the last one.
    StaleVersion,
    /// A delta whose base or predecessor is not there.
    DeltaGap,
    /// A limit of size or number.
    TooLarge,
    /// The bytes are no op or query, or break a rule.
    Invalid,
    /// The tree holds as much as it may.
    TreeFull,
    /// Too many watches or requests at a time.
    TooMany,
    /// It was applied before; its answer, or the large part of it, is no longer kept.
    AnswerLost,
    /// The store cannot answer now.
    Unavailable,
    /// Nothing came in time.
    Timeout,
    /// There is no watchdog.
    Unsupervised,
    /// The process is about to end.
    ShuttingDown,
}

impl ErrorKind {
    /// The word for it in GDScript and JSON.
    pub fn name(self) -> &'static str {
        match self {
            Self::NotFound => "not_found",
            Self::ConditionFailed => "condition_failed",
            Self::KeepWhileFailed => "keep_while_failed",
            Self::LeaseHeld => "lease_held",
            Self::LeaseLost => "lease_lost",
            Self::StaleVersion => "stale_version",
            Self::DeltaGap => "delta_gap",
            Self::TooLarge => "too_large",
            Self::Invalid => "invalid",
            Self::TreeFull => "tree_full",
            Self::TooMany => "too_many",
            Self::AnswerLost => "answer_lost",
            Self::Unavailable => "unavailable",
            Self::Timeout => "timeout",
            Self::Unsupervised => "unsupervised",
            Self::ShuttingDown => "shutting_down",
        }
    }
}

/// What a game may go on with.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Restored {
    /// Whether there is something.
    pub status: RestoreStatus,
    /// Version of the full checkpoint that is told here; 0 if there is none. What [`super::StoreOp::Loaded`] names.
    pub full_version: u64,
    /// The highest version that this key has seen: the next checkpoint's is above it. May be above what is told here, in
    /// a safe start.
    pub version: u64,
    /// The full checkpoint.
    #[serde(with = "serde_bytes")]
    pub full: Vec<u8>,
    /// The deltas on it, in order.
    pub deltas: Vec<serde_bytes::ByteBuf>,
    /// Launch number of the engine that wrote the last of it.
    pub incarnation: u32,
    /// The frame of that engine.
    pub frame: u64,
    /// How old it is, by the wall clocks of that engine and of the watchdog that answers, in milliseconds.
    pub age_ms: u64,
    /// It is one from before the checkpoint that the last incarnations had loaded.
    pub is_safe: bool,
}

/// Whether there is something to restore.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub enum RestoreStatus {
    /// Nothing was ever checkpointed under this key.
    #[default]
    None,
    /// There is.
    Restored,
}

/// Events of one watch, in order and with none missing between one batch and the next.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct WatchBatch {
    /// Everything up to and with this revision was told: where to watch from after a break.
    pub revision: u64,
    /// Changes before the first event here are no longer known: the watcher fell too far behind, or asked for a revision
    /// too old. It has to read anew what it watches.
    pub compacted: bool,
    /// What happened.
    pub events: Vec<WatchEvent>,
}

impl WatchBatch {
    /// Where a batch that is `compacted` goes on: its events come after this revision.
    pub fn goes_on_after(&self) -> u64 {
        let first = self.events.first();
        first.map_or(self.revision, |first| first.revision.saturating_sub(1))
    }
}

/// One change of one node.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct WatchEvent {
    /// The revision that it came with; several events of one write share theirs.
    pub revision: u64,
    /// Which node.
    pub path: Path,
    /// What happened to it.
    pub kind: WatchKind,
}

/// What happened to a node.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub enum WatchKind {
    /// It was made, or its value changed.
    Put {
        /// Its version; 1 if it was made.
        version: u64,
        /// Its value.
        #[serde(with = "serde_bytes")]
        value: Option<Vec<u8>>,
    },
    /// It vanished.
    Delete {
        /// Why.
        reason: DeleteReason,
    },
}
