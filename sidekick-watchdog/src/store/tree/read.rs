//! Questions about the tree as it stands.

use std::ops::Bound;

use sidekick_ipc::tree::{ANSWER_BYTES_MAX, Answer, NodeInfo, Path, Pattern};

use super::Tree;
use super::node::Node;

/// Nodes that one page looks at; a page may then be short, and still there is a next one.
const LOOKED_AT_MAX: usize = 1 << 16;

impl Tree {
    /// Nodes that may match, in order: those that begin as the pattern does, after `after`.
    pub(super) fn candidates<'a>(
        &'a self,
        pattern: &'a Pattern,
        after: Option<&'a Path>,
    ) -> impl Iterator<Item = (&'a Path, &'a Node)> {
        let prefix = pattern.literal_prefix();
        let start = match after.filter(|after| after.as_str() >= prefix) {
            Some(after) => Bound::Excluded(after.as_str()),
            None => Bound::Included(prefix),
        };
        self.nodes
            .range::<str, _>((start, Bound::Unbounded))
            .take_while(move |(path, _)| path.as_str().starts_with(prefix))
    }

    /// One node with its value.
    pub(crate) fn get(&self, path: &Path) -> Option<NodeInfo> {
        Some(self.nodes.get(path)?.info(path, true))
    }

    /// A page of the nodes that match, with their values: at most `limit`, and about [`ANSWER_BYTES_MAX`] bytes.
    pub(crate) fn list(&self, pattern: &Pattern, after: Option<&Path>, limit: usize) -> Answer {
        let mut answer = super::write::done();
        answer.revision = self.revision;
        let mut bytes = 0;
        let mut last: Option<&Path> = None;
        for (looked_at, (path, node)) in self.candidates(pattern, after).enumerate() {
            if !pattern.matches(path) {
                if looked_at >= LOOKED_AT_MAX {
                    answer.next = Some(path.clone());
                    break;
                }
                continue;
            }
            let more =
                node.value.as_ref().map_or(0, |value| value.len()) + path.as_str().len() + 64;
            let is_full = answer.nodes.len() >= limit
                || (bytes + more > ANSWER_BYTES_MAX && !answer.nodes.is_empty());
            if is_full {
                answer.next = last.cloned();
                break;
            }
            bytes += more;
            answer.nodes.push(node.info(path, true));
            last = Some(path);
        }
        answer.count = answer.nodes.len() as u64;
        answer
    }

    /// How many nodes match. Looks at each that begins as the pattern does.
    pub(crate) fn count(&self, pattern: &Pattern) -> u64 {
        match pattern.to_path() {
            Some(path) => u64::from(self.nodes.contains_key(&path)),
            None => self
                .candidates(pattern, None)
                .filter(|(path, _)| pattern.matches(path))
                .count() as u64,
        }
    }
}
