//! The texts of rule sets by their versions, kept as long as a plan may name them (CORRECTNESS rule 16).

use std::collections::{BTreeMap, BTreeSet};

use serde::{Deserialize, Serialize};

use super::super::command::Outcome;
use super::State;

/// Versions that are kept whether or not a plan names them: a batch that is being filled when the rules change is
/// planned with the version that it was begun with.
const VERSIONS_KEPT: usize = 16;

/// The rule sets.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Rules {
    /// The version in force; 0 for no rules.
    current: u32,
    /// The last version that was given.
    last: u32,
    texts: BTreeMap<u32, String>,
}

impl State {
    /// Puts `text` in force, and tells under which version: the same text has the same one while it is remembered.
    pub(super) fn set_rules(&mut self, text: String) -> Outcome {
        let known = self.rules.texts.iter().find(|(_, known)| **known == text);
        let version = match known.map(|(version, _)| *version) {
            _ if text.is_empty() => 0,
            Some(version) => version,
            None => {
                self.rules.last = self.rules.last.saturating_add(1);
                self.rules.texts.insert(self.rules.last, text);
                self.rules.last
            }
        };
        self.rules.current = version;
        let planned = self.planned_rules();
        let newest: BTreeSet<u32> = self
            .rules
            .texts
            .keys()
            .rev()
            .take(VERSIONS_KEPT)
            .copied()
            .collect();
        self.rules.texts.retain(|known, _| {
            *known == version || planned.contains(known) || newest.contains(known)
        });
        Outcome::Rules(version)
    }

    /// The versions that plans name: of lanes, of lanes that may come back, and of dead letters' replays.
    fn planned_rules(&self) -> BTreeSet<u32> {
        let lanes = self.sinks.values().flatten();
        let retired = self.retired.values().flat_map(|retired| &retired.lanes);
        let plans = lanes.chain(retired).filter_map(|lane| lane.plan.as_ref());
        let replays = self.letters().iter();
        let replays = replays.filter_map(|(_, kept)| kept.plan.as_ref());
        plans
            .chain(replays)
            .map(|plan| plan.rules_version)
            .collect()
    }

    /// Whether the texts of all versions that were ever given are kept.
    pub(crate) fn knows_all_rules(&self) -> bool {
        self.rules.texts.len() as u64 == u64::from(self.rules.last)
    }

    /// The texts of all versions that are kept.
    pub(crate) fn rules(&self) -> &BTreeMap<u32, String> {
        &self.rules.texts
    }
}
