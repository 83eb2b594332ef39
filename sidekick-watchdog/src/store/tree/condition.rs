//! What holds.

use sidekick_ipc::tree::{Comparison, Condition, ErrorKind, Path};
use sidekick_ipc::value::{self, Value};

use super::node::Node;
use super::{Failure, Tree};

impl Tree {
    /// Whether `condition` holds for the node at `path`.
    pub(super) fn holds(&self, path: &Path, condition: &Condition) -> bool {
        let node = self.nodes.get(path);
        match condition {
            Condition::Exists(wanted) => node.is_some() == *wanted,
            Condition::HasValue(wanted) => node.is_some_and(|node| node.value.is_some()) == *wanted,
            Condition::Version(comparison, wanted) => {
                comparison.holds(&node.map_or(0, |node| node.version), wanted)
            }
            Condition::ChildVersion(comparison, wanted) => {
                comparison.holds(&node.map_or(0, |node| node.child_version), wanted)
            }
            Condition::ChildCount(comparison, wanted) => {
                comparison.holds(&node.map_or(0, |node| node.child_count), wanted)
            }
            Condition::ValueIs(wanted) => node
                .and_then(|node| node.value.as_ref())
                .is_some_and(|value| **value == **wanted),
            Condition::Field {
                keys,
                comparison,
                value,
            } => node.is_some_and(|node| field_holds(node, keys, *comparison, value)),
            Condition::LeaseIs(token) => node
                .and_then(|node| node.held.as_ref())
                .is_some_and(|held| held.token == *token),
            Condition::Not(of) => !self.holds(path, of),
            Condition::All(of) => of.iter().all(|of| self.holds(path, of)),
            Condition::Any(of) => of.iter().any(|of| self.holds(path, of)),
            Condition::At(path, of) => self.holds(path, of),
        }
    }

    /// All of `conditions` hold, or which does not and what is there.
    pub(super) fn demand(&self, path: &Path, conditions: &[Condition]) -> Result<(), Failure> {
        let failed = conditions.iter().find(|of| !self.holds(path, of));
        match failed {
            None => Ok(()),
            Some(condition) => Err(self.unmet(ErrorKind::ConditionFailed, path, condition)),
        }
    }

    /// The error for a condition that does not hold.
    pub(super) fn unmet(&self, kind: ErrorKind, path: &Path, condition: &Condition) -> Failure {
        let asked = match condition {
            Condition::At(path, _) => path,
            _ => path,
        };
        let found = match self.nodes.get(asked) {
            None => "there is no such node".to_owned(),
            Some(node) => format!(
                "it has version {}, {} children and {}",
                node.version,
                node.child_count,
                match &node.value {
                    Some(value) => format!("a value of {} bytes", value.len()),
                    None => "no value".to_owned(),
                }
            ),
        };
        // Values would make it endless.
        let mut wanted = format!("{condition:?}");
        if wanted.len() > 200 {
            wanted = wanted.chars().take(200).collect();
            wanted.push('…');
        }
        Failure::new(kind, format!("{wanted} does not hold for {asked}: {found}"))
    }
}

fn field_holds(node: &Node, keys: &[String], comparison: Comparison, wanted: &[u8]) -> bool {
    let decode = |bytes: &[u8]| value::decode(bytes).ok();
    let Some(found) = node.value.as_ref().and_then(|value| decode(value)) else {
        return false;
    };
    let Some(wanted) = decode(wanted) else {
        return false;
    };
    let mut field = &found;
    for key in keys {
        match field.get(key) {
            Some(inner) => field = inner,
            None => return false,
        }
    }
    compare(field, comparison, &wanted)
}

fn compare(found: &Value, comparison: Comparison, wanted: &Value) -> bool {
    let number = |value: &Value| match value {
        Value::Int(number) => Some(*number as f64),
        Value::Float(number) => Some(*number),
        _ => None,
    };
    if let (Value::Int(found), Value::Int(wanted)) = (found, wanted) {
        return comparison.holds(found, wanted);
    }
    if let (Some(found), Some(wanted)) = (number(found), number(wanted)) {
        return comparison.holds(&found, &wanted);
    }
    if let (Some(found), Some(wanted)) = (found.text(), wanted.text()) {
        return comparison.holds(found, wanted);
    }
    match comparison {
        Comparison::Equal => found == wanted,
        Comparison::NotEqual => found != wanted,
        _ => false,
    }
}
