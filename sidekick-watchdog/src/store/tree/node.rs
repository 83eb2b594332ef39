//! What a node is.

use serde::{Deserialize, Serialize};
use sidekick_ipc::tree::{Condition, NodeInfo, Path};
use uuid::Uuid;

use super::super::blob::Blob;

/// About what a node costs in memory besides its path and its value.
const NODE_BYTES: u64 = 256;

/// One node.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub(super) struct Node {
    pub(super) version: u64,
    pub(super) child_version: u64,
    pub(super) child_count: u64,
    pub(super) value: Option<Blob>,
    /// Somebody put it. Otherwise it was made for its children or its lease and goes with them.
    pub(super) is_put: bool,
    /// It lives while all of this holds.
    pub(super) keep_while: Vec<(Path, Condition)>,
    /// The node of the lease that it goes with.
    pub(super) hangs_on: Option<Path>,
    /// The lease that is held here.
    pub(super) held: Option<Held>,
}

/// A lease that somebody holds.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Held {
    pub(super) token: u64,
    pub(super) ttl_ns: u64,
    /// Log time.
    pub(super) ends_ns: u64,
    /// The watchdog's name; empty for a client that is no session.
    pub(super) source: String,
    /// The session, or the client.
    pub(super) epoch: Uuid,
}

impl Node {
    /// One that is only there for others.
    pub(super) fn implicit() -> Self {
        Self {
            version: 1,
            child_version: 1,
            child_count: 0,
            value: None,
            is_put: false,
            keep_while: Vec::new(),
            hangs_on: None,
            held: None,
        }
    }

    /// Nobody wants it.
    pub(super) fn is_useless(&self) -> bool {
        !self.is_put && self.child_count == 0 && self.held.is_none()
    }

    pub(super) fn bytes(&self, path: &Path) -> u64 {
        let kept: usize = self
            .keep_while
            .iter()
            .map(|(path, condition)| 2 * path.as_str().len() + weight(condition))
            .sum();
        let value = self.value.as_ref().map_or(0, |value| value.len());
        NODE_BYTES + (path.as_str().len() * 2 + value + kept) as u64
    }

    /// Its words; with its value if that is asked for.
    pub(super) fn info(&self, path: &Path, with_value: bool) -> NodeInfo {
        let value = self.value.as_ref().filter(|_| with_value);
        NodeInfo {
            path: path.clone(),
            version: self.version,
            child_version: self.child_version,
            child_count: self.child_count,
            has_value: self.value.is_some(),
            value: value.map(|value| value.to_vec()),
            lease: self.held.as_ref().map_or(0, |held| held.token),
        }
    }
}

/// About what a condition costs in memory.
fn weight(condition: &Condition) -> usize {
    64 + match condition {
        Condition::ValueIs(value) => value.len(),
        Condition::Field { keys, value, .. } => {
            value.len() + keys.iter().map(|key| key.len() + 24).sum::<usize>()
        }
        Condition::Not(of) => weight(of),
        Condition::At(path, of) => path.as_str().len() + weight(of),
        Condition::All(of) | Condition::Any(of) => of.iter().map(weight).sum(),
        _ => 0,
    }
}

/// What is told of a node that is not there.
pub(super) fn no_node(path: &Path) -> NodeInfo {
    NodeInfo {
        path: path.clone(),
        version: 0,
        child_version: 0,
        child_count: 0,
        has_value: false,
        value: None,
        lease: 0,
    }
}
