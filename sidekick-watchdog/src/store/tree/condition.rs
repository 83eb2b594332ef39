//! What holds.

use sidekick_ipc::tree::{Comparison, Condition, ErrorKind, Path};
use sidekick_ipc::value::{self, Value};

use super::node::Node;
use super::{Failure, Tree};

/// Characters of a condition in an error, at most: values would make it endless.
const WORDS_MAX: usize = 200;
/// Characters of one value in it.
const VALUE_WORDS_MAX: usize = 80;

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
        let wanted = short(words(condition), WORDS_MAX);
        Failure::new(
            kind,
            format!("\"{wanted}\" does not hold for {asked}: {found}"),
        )
    }
}

/// A condition as a person would write it down.
fn words(condition: &Condition) -> String {
    let several = |of: &[Condition], join: &str| -> String {
        let each: Vec<String> = of.iter().map(|one| format!("({})", words(one))).collect();
        each.join(join)
    };
    match condition {
        Condition::Exists(true) => "the node is there".to_owned(),
        Condition::Exists(false) => "the node is not there".to_owned(),
        Condition::HasValue(true) => "the node has a value".to_owned(),
        Condition::HasValue(false) => "the node has no value".to_owned(),
        Condition::Version(how, number) => format!("version {} {number}", sign(*how)),
        Condition::ChildVersion(how, number) => format!("child_version {} {number}", sign(*how)),
        Condition::ChildCount(how, number) => format!("children {} {number}", sign(*how)),
        Condition::ValueIs(value) => format!("value == {}", json(value)),
        Condition::Field {
            keys,
            comparison,
            value,
        } => format!("{} {} {}", keys.join("."), sign(*comparison), json(value)),
        Condition::LeaseIs(token) => format!("the lease's token is {token}"),
        Condition::Not(one) => format!("not ({})", words(one)),
        Condition::All(all) => several(all, " and "),
        Condition::Any(any) => several(any, " or "),
        Condition::At(_, one) => words(one),
    }
}

fn sign(comparison: Comparison) -> &'static str {
    match comparison {
        Comparison::Equal => "==",
        Comparison::NotEqual => "!=",
        Comparison::Less => "<",
        Comparison::LessOrEqual => "<=",
        Comparison::Greater => ">",
        Comparison::GreaterOrEqual => ">=",
    }
}

/// A value as JSON, its beginning if it is long.
fn json(bytes: &[u8]) -> String {
    let text = value::decode(bytes).map(|value| value.to_json().to_string());
    text.map_or_else(
        |_| format!("a value of {} bytes", bytes.len()),
        |text| short(text, VALUE_WORDS_MAX),
    )
}

fn short(text: String, chars_max: usize) -> String {
    match text.char_indices().nth(chars_max) {
        Some((end, _)) => format!("{}…", text.get(..end).unwrap_or_default()),
        None => text,
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

#[cfg(test)]
mod tests {
    use sidekick_ipc::value::encode;

    use super::*;

    #[test]
    fn conditions_read_as_a_person_would_write_them() {
        let coins = |number| Condition::Field {
            keys: vec!["bag".into(), "coins".into()],
            comparison: Comparison::GreaterOrEqual,
            value: encode(&Value::Int(number)),
        };
        let long = Condition::ValueIs(encode(&Value::String("ä".repeat(500))));
        for (condition, expected) in [
            (coins(10), "bag.coins >= 10".to_owned()),
            (Condition::Exists(false), "the node is not there".to_owned()),
            (
                Condition::Any(vec![
                    Condition::Not(Box::new(Condition::Version(Comparison::Equal, 3))),
                    Condition::ChildCount(Comparison::Less, 16),
                ]),
                "(not (version == 3)) or (children < 16)".to_owned(),
            ),
            (long, format!("value == \"{}…", "ä".repeat(79))),
            (
                Condition::ValueIs(vec![1, 2, 3]),
                "value == a value of 3 bytes".to_owned(),
            ),
        ] {
            assert_eq!(words(&condition), expected);
        }
    }
}
