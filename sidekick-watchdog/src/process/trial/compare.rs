//! What came of records beside what should have come of them.

use serde_json::Value as Json;

use super::{Expected, Sent};

impl Expected {
    fn fits(&self, found: &Self) -> bool {
        match (self, found) {
            (Self::Data(expected), Self::Data(found)) => {
                let mut differences = Vec::new();
                compare("", Some(expected), Some(found), &mut differences);
                differences.is_empty()
            }
            (Self::Refused(expected), Self::Refused(found)) => found.contains(expected),
            (expected, found) => expected == found,
        }
    }
}

impl Sent {
    fn fits(&self, found: &Self) -> bool {
        let is_then = self.at_ns.is_none() || self.at_ns == found.at_ns;
        self.stream == found.stream && is_then && self.what.fits(&found.what)
    }
}

/// The differences between what should come of a record and what does, a line for each.
pub(super) fn tell(expected: &Expected, found: &Expected) -> Vec<String> {
    match (expected, found) {
        (Expected::Data(expected), Expected::Data(found)) => {
            let mut differences = Vec::new();
            compare("data", Some(expected), Some(found), &mut differences);
            differences
        }
        (expected, found) if expected.fits(found) => Vec::new(),
        (expected, found) => vec![
            format!("expected: {expected}"),
            format!("found:    {found}"),
        ],
    }
}

/// Takes for each record that should be sent one that is; tells of those that are left on either side.
pub(super) fn match_up(outputs: &[Sent], mut found: Vec<Sent>) -> Vec<String> {
    let mut missing = Vec::new();
    for output in outputs {
        match found.iter().position(|found| output.fits(found)) {
            Some(at) => drop(found.remove(at)),
            None => missing.push(format!("expected: {output}")),
        }
    }
    missing.extend(found.iter().map(|found| format!("found:    {found}")));
    missing
}

/// Lists where two values differ.
fn compare(at: &str, expected: Option<&Json>, found: Option<&Json>, differences: &mut Vec<String>) {
    let shown = |value: Option<&Json>| value.map_or_else(|| "nothing".into(), Json::to_string);
    match (expected, found) {
        (Some(Json::Object(expected)), Some(Json::Object(found))) => {
            let more = found.keys().filter(|key| !expected.contains_key(*key));
            for key in expected.keys().chain(more) {
                let at = format!("{at}.{key}");
                compare(&at, expected.get(key), found.get(key), differences);
            }
        }
        (Some(Json::Array(expected)), Some(Json::Array(found))) => {
            for index in 0..expected.len().max(found.len()) {
                let at = format!("{at}[{index}]");
                compare(&at, expected.get(index), found.get(index), differences);
            }
        }
        (Some(Json::Number(one)), Some(Json::Number(other))) if one.as_f64() == other.as_f64() => {}
        (one, other) if one == other => {}
        (one, other) => {
            differences.push(format!(
                "{at}: expected {}, found {}",
                shown(one),
                shown(other)
            ));
        }
    }
}
