//! The ops.

use sidekick_ipc::tree::{
    ANSWER_BYTES_MAX, Answer, Condition, DeleteReason, ErrorKind, LeaseRef,
    NODES_PER_PATTERN_WRITE_MAX, Path, Pattern, Put, StoreOp, StoreResult, TransactionOp,
};
use uuid::Uuid;

use super::change::Change;
use super::node::{Node, no_node};
use super::{Done, Failure, Tree};
use crate::store::blob::Blob;

/// Who writes.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Actor<'a> {
    /// The watchdog's name; empty for a client that is no session.
    pub(crate) source: &'a str,
    /// The session, or the client's id.
    pub(crate) epoch: Uuid,
}

/// When, and what else the tree does not know itself.
pub(crate) struct Moment<'a> {
    /// Log time.
    pub(crate) time_ns: u64,
    /// Whether a session of a source has ended.
    pub(crate) is_ended: &'a dyn Fn(&str, &Uuid) -> bool,
}

/// An answer without anything in it.
pub(super) fn done() -> Answer {
    Answer {
        succeeded: true,
        ..Answer::default()
    }
}

impl Tree {
    /// Applies a write whose limits were checked. Checkpoints are not the tree's.
    pub(crate) fn apply(
        &mut self,
        actor: Actor<'_>,
        moment: &Moment<'_>,
        op: StoreOp,
    ) -> StoreResult {
        let done = self.change(|change| match op {
            StoreOp::Put(put) => {
                let path = put.path.clone();
                change.put(put)?;
                let version = change.tree.nodes.get(&path).map_or(0, |node| node.version);
                Ok(Answer { version, ..done() })
            }
            StoreOp::PutMany {
                pattern,
                value,
                when,
            } => change.put_many(&pattern, value.map(Blob::from), &when),
            StoreOp::Delete { target, when } => change.delete(&target, &when),
            StoreOp::Transaction {
                compare,
                then,
                otherwise,
            } => change.transaction(&compare, then, otherwise),
            StoreOp::LeaseGrant { path, ttl_ms } => change.lease_grant(actor, moment, path, ttl_ms),
            StoreOp::LeaseRenew(lease) => change.lease_renew(moment, lease),
            StoreOp::LeaseRelease(lease) => change.lease_release(&lease),
            StoreOp::Checkpoint { .. }
            | StoreOp::Loaded { .. }
            | StoreOp::ForgetCheckpoint { .. } => Err(Failure::new(
                ErrorKind::Invalid,
                "a checkpoint is not kept in the tree",
            )),
        });
        match done {
            Ok(answer) => StoreResult::Ok(answer),
            Err(failure) => failure.into(),
        }
    }

    /// Nodes that match and for which all of `when` holds; too many are an error.
    fn matching(&self, pattern: &Pattern, when: &[Condition]) -> Result<Vec<Path>, Failure> {
        let max = NODES_PER_PATTERN_WRITE_MAX;
        let matching = self
            .candidates(pattern, None)
            .filter(|(path, _)| pattern.matches(path))
            .map(|(path, _)| path)
            .filter(|path| when.iter().all(|of| self.holds(path, of)));
        let found: Vec<Path> = matching.take(max + 1).cloned().collect();
        match found.len() > max {
            false => Ok(found),
            true => Err(Failure::new(
                ErrorKind::TooLarge,
                format!("more than {max} nodes match {pattern}, the limit of one write; narrow it"),
            )),
        }
    }
}

impl Change<'_> {
    fn put(&mut self, put: Put) -> Result<(), Failure> {
        let Put {
            path,
            value,
            when,
            keep_while,
            lease,
        } = put;
        self.tree.demand(&path, &when)?;
        if let Some(lease) = &lease {
            self.tree.demand_lease(lease)?;
        }
        // What it asks of itself need not hold yet, as in Khepri.
        let unmet = keep_while
            .iter()
            .filter(|(asked, _)| *asked != path)
            .find(|(asked, condition)| !self.tree.holds(asked, condition));
        if let Some((asked, condition)) = unmet {
            return Err(self
                .tree
                .unmet(ErrorKind::KeepWhileFailed, asked, condition));
        }
        let value = value.map(Blob::from);
        let fill = |node: &mut Node| {
            node.is_put = true;
            if !keep_while.is_empty() {
                node.keep_while = keep_while;
            }
            if let Some(lease) = lease {
                node.hangs_on = Some(lease.path);
            }
        };
        match self.tree.nodes.get(&path).cloned() {
            None => {
                let mut node = Node::implicit();
                node.value = value;
                fill(&mut node);
                self.create(&path, node);
            }
            Some(before) => {
                let mut node = before.clone();
                fill(&mut node);
                if node.value != value {
                    node.value = value;
                    node.version = node.version.saturating_add(1);
                    self.changed(&path, node);
                    self.touch(&path, true, DeleteReason::KeepWhile);
                } else if node != before {
                    self.update(&path, |of| *of = node);
                }
            }
        }
        self.settle();
        Ok(())
    }

    fn put_many(&mut self, pattern: &Pattern, value: Option<Blob>, when: &[Condition]) -> Done {
        let paths = self.tree.matching(pattern, when)?;
        for path in &paths {
            let Some(mut node) = self.tree.nodes.get(path).cloned() else {
                continue;
            };
            let is_new = node.value != value;
            if is_new {
                node.value.clone_from(&value);
                node.version = node.version.saturating_add(1);
                node.is_put = true;
                self.changed(path, node);
                self.touch(path, true, DeleteReason::KeepWhile);
            }
        }
        self.settle();
        let nodes = paths
            .iter()
            .filter_map(|path| Some(self.tree.nodes.get(path)?.info(path, false)));
        Ok(Answer {
            count: paths.len() as u64,
            nodes: nodes.collect(),
            ..done()
        })
    }

    fn delete(&mut self, target: &Pattern, when: &[Condition]) -> Done {
        let paths = match target.to_path() {
            Some(path) => {
                self.tree.demand(&path, when)?;
                let is_there = self.tree.nodes.contains_key(&path);
                is_there.then_some(path).into_iter().collect()
            }
            None => self.tree.matching(target, when)?,
        };
        for path in &paths {
            self.remove(path, DeleteReason::Asked);
        }
        self.settle();
        Ok(done())
    }

    fn transaction(
        &mut self,
        compare: &[(Path, Condition)],
        then: Vec<TransactionOp>,
        otherwise: Vec<TransactionOp>,
    ) -> Done {
        let tree = &*self.tree;
        let holds = compare
            .iter()
            .all(|(path, condition)| tree.holds(path, condition));
        let mut answer = Answer {
            succeeded: holds,
            ..Answer::default()
        };
        let mut bytes = 0;
        for op in if holds { then } else { otherwise } {
            let (path, with_value) = match op {
                TransactionOp::Put(put) => {
                    let path = put.path.clone();
                    self.put(put)?;
                    (path, false)
                }
                TransactionOp::Get(path) => (path, true),
                TransactionOp::Delete { path, when } => {
                    self.tree.demand(&path, &when)?;
                    self.remove(&path, DeleteReason::Asked);
                    self.settle();
                    (path, false)
                }
            };
            let info = match self.tree.nodes.get(&path) {
                Some(node) => node.info(&path, with_value),
                None => no_node(&path),
            };
            bytes += info.value.as_ref().map_or(0, Vec::len);
            if bytes > ANSWER_BYTES_MAX {
                return Err(Failure::new(
                    ErrorKind::TooLarge,
                    format!("the transaction reads {bytes} bytes, the limit is {ANSWER_BYTES_MAX}"),
                ));
            }
            answer.nodes.push(info);
        }
        Ok(answer)
    }
}

impl Tree {
    /// The lease is held under its token.
    pub(super) fn demand_lease(&self, lease: &LeaseRef) -> Result<(), Failure> {
        let held = self
            .nodes
            .get(&lease.path)
            .and_then(|node| node.held.as_ref());
        if held.is_some_and(|held| held.token == lease.token) {
            return Ok(());
        }
        let found = match held {
            Some(held) => format!("token {} is", held.token),
            None => "nobody's is".to_owned(),
        };
        Err(Failure::new(
            ErrorKind::LeaseLost,
            format!(
                "the lease at {} is not held under token {}, {found}; it ended, or never was: take it anew",
                lease.path, lease.token
            ),
        ))
    }
}
