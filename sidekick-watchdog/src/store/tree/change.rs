//! One write on its way: everything that it changes goes through here, so that it can be undone as a whole, and what
//! follows from it (nodes that nobody keeps any more) happens with it.

use std::collections::VecDeque;

use sidekick_ipc::tree::{
    Answer, DeleteReason, Deleted, ErrorKind, NODES_PER_ANSWER_MAX, Path, TREE_BYTES_MAX_DEFAULT,
};

use super::history::{Event, Kind};
use super::node::Node;
use super::{Done, Failure, Tree};

/// A node of which something changed, so that others may no longer be kept.
struct Touched {
    path: Path,
    /// By a put to itself: what it asks of itself need not hold yet.
    is_own_put: bool,
    /// Why it goes if nobody wants it any more.
    reason: DeleteReason,
}

/// One write on its way.
pub(super) struct Change<'a> {
    pub(super) tree: &'a mut Tree,
    /// What was there before, in order.
    undo: Vec<(Path, Option<Node>)>,
    events: Vec<Event>,
    /// The first [`NODES_PER_ANSWER_MAX`] of the nodes that went.
    deleted: Vec<Deleted>,
    /// How many went.
    removed: u64,
    touched: VecDeque<Touched>,
}

impl Tree {
    /// Runs a write: all of it, or nothing.
    pub(super) fn change(&mut self, write: impl FnOnce(&mut Change<'_>) -> Done) -> Done {
        let bytes = self.index.bytes;
        let mut change = Change {
            tree: self,
            undo: Vec::new(),
            events: Vec::new(),
            deleted: Vec::new(),
            removed: 0,
            touched: VecDeque::new(),
        };
        let done = write(&mut change).and_then(|answer| {
            let now = change.tree.index.bytes;
            match now > TREE_BYTES_MAX_DEFAULT && now > bytes {
                false => Ok(answer),
                true => Err(Failure::new(
                    ErrorKind::TreeFull,
                    format!("the tree would be {now} bytes, the limit is {TREE_BYTES_MAX_DEFAULT}; delete something"),
                )),
            }
        });
        match done {
            Ok(answer) => Ok(change.commit(answer)),
            Err(failure) => {
                change.undo();
                Err(failure)
            }
        }
    }
}

impl Change<'_> {
    /// The revision that this write makes, if it changes something.
    pub(super) fn revision(&self) -> u64 {
        self.tree.revision.saturating_add(1)
    }

    fn commit(self, mut answer: Answer) -> Answer {
        if !self.undo.is_empty() {
            self.tree.revision = self.revision();
            self.tree.history.add(self.events);
        }
        answer.revision = self.tree.revision;
        answer.deleted = self.deleted;
        // Of a put with a pattern it is how many were put.
        if answer.count == 0 {
            answer.count = self.removed;
        }
        answer
    }

    fn undo(mut self) {
        while let Some((path, before)) = self.undo.pop() {
            self.replace(&path, before);
        }
    }

    /// Puts a node, or nothing, in the place of what is there.
    fn replace(&mut self, path: &Path, node: Option<Node>) -> Option<Node> {
        let tree = &mut *self.tree;
        if let Some(before) = tree.nodes.get(path) {
            tree.index.remove(path, before);
        }
        match node {
            Some(node) => {
                tree.index.add(path, &node);
                tree.nodes.insert(path.clone(), node)
            }
            None => tree.nodes.remove(path),
        }
    }

    fn set(&mut self, path: &Path, node: Option<Node>) {
        let before = self.replace(path, node);
        self.undo.push((path.clone(), before));
    }

    fn event(&mut self, path: &Path, kind: Kind) {
        let revision = self.revision();
        self.events.push(Event {
            revision,
            path: path.clone(),
            kind,
        });
    }

    pub(super) fn touch(&mut self, path: &Path, is_own_put: bool, reason: DeleteReason) {
        self.touched.push_back(Touched {
            path: path.clone(),
            is_own_put,
            reason,
        });
    }

    /// Changes a node that is there, without an event.
    pub(super) fn update(&mut self, path: &Path, update: impl FnOnce(&mut Node)) {
        if let Some(mut node) = self.tree.nodes.get(path).cloned() {
            update(&mut node);
            self.set(path, Some(node));
        }
    }

    /// Makes a node that is not there, and those above it.
    pub(super) fn create(&mut self, path: &Path, node: Node) {
        let mut missing = Vec::new();
        let mut above = path.parent();
        while let Some(parent) = above {
            if self.tree.nodes.contains_key(&parent) {
                self.update(&parent, |node| {
                    node.child_count = node.child_count.saturating_add(1);
                    node.child_version = node.child_version.saturating_add(1);
                });
                self.touch(&parent, false, DeleteReason::KeepWhile);
                break;
            }
            above = parent.parent();
            missing.push(parent);
        }
        for parent in missing.into_iter().rev() {
            let mut node = Node::implicit();
            node.child_count = 1;
            self.changed(&parent, node);
            self.touch(&parent, true, DeleteReason::KeepWhile);
        }
        self.changed(path, node);
        self.touch(path, true, DeleteReason::KeepWhile);
    }

    /// Sets a node and tells of it.
    pub(super) fn changed(&mut self, path: &Path, node: Node) {
        let kind = Kind::Put {
            version: node.version,
            value: node.value.clone(),
        };
        self.set(path, Some(node));
        self.event(path, kind);
    }

    /// Takes a node away with all that lies below it.
    pub(super) fn remove(&mut self, path: &Path, reason: DeleteReason) {
        if !self.tree.nodes.contains_key(path) {
            return;
        }
        let mut all: Vec<Path> = vec![path.clone()];
        all.extend(self.tree.below(path).map(|(path, _)| path.clone()));
        for path in all.iter().rev() {
            self.set(path, None);
            self.event(path, Kind::Delete(reason));
            self.removed += 1;
            if self.deleted.len() < NODES_PER_ANSWER_MAX {
                self.deleted.push(Deleted {
                    path: path.clone(),
                    reason,
                });
            }
            self.touch(path, false, reason);
        }
        if let Some(parent) = path.parent() {
            self.update(&parent, |node| {
                node.child_count = node.child_count.saturating_sub(1);
                node.child_version = node.child_version.saturating_add(1);
            });
            self.touch(&parent, false, DeleteReason::KeepWhile);
        }
    }

    /// Lets go what nobody keeps any more, and what that leads to. Ends: each round takes nodes away, none makes one.
    pub(super) fn settle(&mut self) {
        while let Some(Touched {
            path,
            is_own_put,
            reason,
        }) = self.touched.pop_front()
        {
            let tree = &*self.tree;
            let keepers = tree.index.keepers.get(&path);
            let left: Vec<Path> = keepers
                .into_iter()
                .flatten()
                .filter(|keeper| !(is_own_put && **keeper == path))
                .filter(|keeper| !tree.is_kept(keeper, &path))
                .cloned()
                .collect();
            let node = tree.nodes.get(&path);
            let is_held = node.is_some_and(|node| node.held.is_some());
            let hanging = tree.index.hanging.get(&path).filter(|_| !is_held);
            let hanging: Vec<Path> = hanging.into_iter().flatten().cloned().collect();
            let is_useless = node.is_some_and(Node::is_useless);
            for keeper in left {
                self.remove(&keeper, DeleteReason::KeepWhile);
            }
            for path in hanging {
                self.remove(&path, DeleteReason::Lease);
            }
            if is_useless {
                self.remove(&path, reason);
            }
        }
    }
}

impl Tree {
    /// What the node `keeper` asks of `asked` holds.
    fn is_kept(&self, keeper: &Path, asked: &Path) -> bool {
        self.nodes.get(keeper).is_none_or(|node| {
            node.keep_while
                .iter()
                .filter(|(path, _)| path == asked)
                .all(|(path, condition)| self.holds(path, condition))
        })
    }

    /// All nodes below one, in order.
    pub(super) fn below<'a>(
        &'a self,
        path: &Path,
    ) -> impl Iterator<Item = (&'a Path, &'a Node)> + use<'a> {
        let prefix = format!("{path}/");
        self.nodes
            .range::<str, _>((
                std::ops::Bound::Excluded(prefix.as_str()),
                std::ops::Bound::Unbounded,
            ))
            .take_while(move |(path, _)| path.as_str().starts_with(&prefix))
    }
}
