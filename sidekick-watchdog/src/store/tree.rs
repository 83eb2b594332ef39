//! The tree: a game's state by path, with versions, conditions, keep-while, leases and a history for watches.
//!
//! Pure and total: a tree and a write give a tree and an answer, the same on every node; nothing here knows of logs,
//! clocks or tasks. What Khepri does in its place is told in STORE.md of the design; the list of its tests that are meant
//! is at the head of `tree/khepri_tests.rs`.
//!
//! [`node`]: what is kept · [`change`]: one write, undone if it fails · [`condition`]: what holds ·
//! [`write`]: the ops · [`lease`]: leases · [`history`]: events · [`read`]: questions · [`export`]: as text and back.

mod change;
mod condition;
pub(crate) mod export;
mod history;
#[cfg(test)]
mod khepri_tests;
mod lease;
#[cfg(test)]
pub(crate) mod model_tests;
mod node;
mod read;
mod write;

use std::collections::{BTreeMap, BTreeSet};

use serde::{Deserialize, Serialize};
use sidekick_ipc::tree::{Path, StoreResult};

pub(crate) use write::{Actor, Moment};

use history::History;
use node::Node;

/// What is done: an answer, or an error with the tree as it was.
type Done = Result<sidekick_ipc::tree::Answer, Failure>;

/// Why a write changed nothing.
#[derive(Clone, Debug, PartialEq)]
struct Failure {
    kind: sidekick_ipc::tree::ErrorKind,
    message: String,
}

impl Failure {
    fn new(kind: sidekick_ipc::tree::ErrorKind, message: impl Into<String>) -> Self {
        let message = message.into();
        Self { kind, message }
    }
}

impl From<Failure> for StoreResult {
    fn from(failure: Failure) -> Self {
        Self::Error {
            kind: failure.kind,
            message: failure.message,
        }
    }
}

/// The tree. The index follows from the nodes and is not written.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(from = "Written")]
pub(crate) struct Tree {
    nodes: BTreeMap<Path, Node>,
    /// Goes up by one with each write that changes something.
    revision: u64,
    history: History,
    #[serde(skip)]
    index: Index,
}

/// A tree as it is written.
#[derive(Deserialize)]
struct Written {
    nodes: BTreeMap<Path, Node>,
    revision: u64,
    history: History,
}

impl From<Written> for Tree {
    fn from(written: Written) -> Self {
        let mut index = Index::default();
        for (path, node) in &written.nodes {
            index.add(path, node);
        }
        Self {
            nodes: written.nodes,
            revision: written.revision,
            history: written.history,
            index,
        }
    }
}

/// What is looked up by something other than a node's path.
#[derive(Clone, Debug, Default, PartialEq)]
struct Index {
    /// By the node that a keep-while asks about: who asks.
    keepers: BTreeMap<Path, BTreeSet<Path>>,
    /// By the node of a lease: who hangs on it.
    hanging: BTreeMap<Path, BTreeSet<Path>>,
    /// Leases by their end.
    ends: BTreeSet<(u64, Path)>,
    /// Of everything together.
    bytes: u64,
}

fn join(of: &mut BTreeMap<Path, BTreeSet<Path>>, at: &Path, who: &Path) {
    of.entry(at.clone()).or_default().insert(who.clone());
}

fn leave(of: &mut BTreeMap<Path, BTreeSet<Path>>, at: &Path, who: &Path) {
    if let Some(all) = of.get_mut(at) {
        all.remove(who);
        if all.is_empty() {
            of.remove(at);
        }
    }
}

impl Index {
    fn add(&mut self, path: &Path, node: &Node) {
        for (asked, _) in &node.keep_while {
            join(&mut self.keepers, asked, path);
        }
        if let Some(lease) = &node.hangs_on {
            join(&mut self.hanging, lease, path);
        }
        if let Some(held) = &node.held {
            self.ends.insert((held.ends_ns, path.clone()));
        }
        self.bytes += node.bytes(path);
    }

    fn remove(&mut self, path: &Path, node: &Node) {
        for (asked, _) in &node.keep_while {
            leave(&mut self.keepers, asked, path);
        }
        if let Some(lease) = &node.hangs_on {
            leave(&mut self.hanging, lease, path);
        }
        if let Some(held) = &node.held {
            self.ends.remove(&(held.ends_ns, path.clone()));
        }
        self.bytes = self.bytes.saturating_sub(node.bytes(path));
    }
}

impl Tree {
    /// Goes up by one with each write that changes something.
    pub(crate) fn revision(&self) -> u64 {
        self.revision
    }

    /// When the next lease ends, in log time.
    pub(crate) fn next_end_ns(&self) -> Option<u64> {
        self.index.ends.first().map(|(ends_ns, _)| *ends_ns)
    }

    /// Bytes of everything that it holds.
    pub(crate) fn bytes(&self) -> u64 {
        self.index.bytes
    }

    /// How many nodes there are.
    pub(crate) fn len(&self) -> usize {
        self.nodes.len()
    }
}
