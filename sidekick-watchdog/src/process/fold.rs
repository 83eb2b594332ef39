//! Rules that look at more than one record: `dedupe` leaves out what was there before, `aggregate` makes one record of
//! many.
//!
//! [`Fold`] is what such rules remember, and a function of the records that it was given, in their order. It reads and
//! writes its memory as *cells*, names and values of bytes, so that somebody can keep them. Whoever drives it commits the
//! changed cells, the verdicts and the rows of a run of records together or not at all (CORRECTNESS rule 19); on a
//! failure it is made anew from the cells that were kept.
//!
//! What is forgotten under pressure is bounded and never costs a number: a window that has to go early is told early, and
//! what comes for it later is told in another row. Rows of one window add up.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use ring::digest;
use sidekick_ipc::stream::StreamPattern;
use sidekick_ipc::value::fields::{Look, look};

use super::{FieldPath, Origin, RuleError, means};

mod aggregate;
mod dedupe;

pub use aggregate::{AggregateSpec, BOUNDS_MAX, BY_MAX, EVERY_MAX_NS, ROWS_MAX, VALUES_MAX};
pub use dedupe::{DedupeSpec, KEYS_MAX};

use aggregate::{Aggregate, Windows};
use dedupe::{Dedupe, Seen};

/// Names a rule by what it says: a rule that is changed is another one.
type RuleId = [u8; 8];

/// Field names that stand for what is not in the data.
const STREAM: &str = "$stream";
const SOURCE: &str = "$source";
const GAME_VERSION: &str = "$game_version";

fn rule_id(text: &str) -> RuleId {
    let digest = digest::digest(&digest::SHA256, text.as_bytes());
    let mut id = RuleId::default();
    for (to, from) in id.iter_mut().zip(digest.as_ref()) {
        *to = *from;
    }
    id
}

/// A field of a record, or `$stream`, `$source` or `$game_version`.
#[derive(Clone, Debug)]
enum Field {
    Stream,
    Source,
    GameVersion,
    Path(FieldPath),
}

impl Field {
    fn compile(pattern: &str, key: &'static str, field: &str) -> Result<Self, RuleError> {
        let problem = |why| RuleError::Field {
            pattern: pattern.to_owned(),
            key,
            field: field.to_owned(),
            why,
        };
        match field {
            STREAM => Ok(Self::Stream),
            SOURCE => Ok(Self::Source),
            GAME_VERSION => Ok(Self::GameVersion),
            field => match FieldPath::parse(field).map_err(problem)? {
                path if path.is_single() => Ok(Self::Path(path)),
                _ => Err(problem(super::PathError::Star)),
            },
        }
    }

    fn look<'a>(&self, origin: &Origin<'a>, data: &'a [u8]) -> Option<(Look<'a>, &'a [u8])> {
        match self {
            Self::Stream => Some((Look::Text(origin.stream), &[])),
            Self::Source => Some((Look::Text(origin.source), &[])),
            Self::GameVersion => Some((Look::Text(origin.game_version?), &[])),
            Self::Path(path) => {
                let value = path.find(data)?;
                Some((look(value).ok()?, value))
            }
        }
    }
}

fn pattern(text: &str) -> Result<StreamPattern, RuleError> {
    text.parse().map_err(RuleError::Pattern)
}

/// A record's time as folding counts it: nanoseconds since 1970, 0 to what fits.
fn time_ns(origin: &Origin<'_>) -> u64 {
    u64::try_from(origin.time_ns.max(0)).unwrap_or(u64::MAX)
}

/// The rules in force.
#[derive(Debug, Default)]
pub struct FoldRules {
    dedupes: Vec<Dedupe>,
    aggregates: Vec<Arc<Aggregate>>,
}

impl FoldRules {
    /// Makes rules of what was written. Of rules that say the same one is taken.
    ///
    /// # Errors
    /// The first mistake found.
    pub fn compile<'a>(
        dedupes: impl IntoIterator<Item = &'a DedupeSpec>,
        aggregates: impl IntoIterator<Item = &'a AggregateSpec>,
    ) -> Result<Self, RuleError> {
        let mut rules = Self::default();
        for spec in dedupes {
            let dedupe = Dedupe::compile(spec)?;
            if rules.dedupes.iter().all(|known| known.id != dedupe.id) {
                rules.dedupes.push(dedupe);
            }
        }
        for spec in aggregates {
            let aggregate = Aggregate::compile(spec)?;
            if rules
                .aggregates
                .iter()
                .all(|known| known.id != aggregate.id)
            {
                rules.aggregates.push(Arc::new(aggregate));
            }
        }
        Ok(rules)
    }

    /// Whether nothing is ever done to any record.
    pub fn is_empty(&self) -> bool {
        self.dedupes.is_empty() && self.aggregates.is_empty()
    }
}

/// What becomes of a record.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Folded {
    /// It goes on.
    Kept,
    /// One like it was there before.
    Duplicate,
    /// It is counted, and goes on only as a part of a row.
    Aggregated,
}

/// A record that stands for others.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Row {
    /// The beginning of its window, nanoseconds since 1970.
    pub time_ns: u64,
    /// Its stream.
    pub stream: String,
    /// Its value, encoded.
    pub variant: Vec<u8>,
}

/// What is counted and not told yet.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct OpenWindows {
    /// How many windows, each group of one counted.
    pub count: usize,
    /// The beginning of the oldest, nanoseconds since 1970.
    pub oldest_ns: Option<u64>,
}

/// A cell's name, and its value or that it is gone.
pub type CellChange = (Vec<u8>, Option<Vec<u8>>);

/// Names of cells that were changed.
#[derive(Debug, Default)]
struct Changed(BTreeSet<Vec<u8>>);

impl Changed {
    fn note(&mut self, name: Vec<u8>) {
        self.0.insert(name);
    }
}

/// What rules remember.
#[derive(Debug, Default)]
pub struct Fold {
    rules: Arc<FoldRules>,
    seen: BTreeMap<RuleId, Seen>,
    windows: Windows,
    changed: Changed,
}

impl Fold {
    /// Goes on with what was kept. Cells that nobody can read are forgotten.
    pub fn new(rules: Arc<FoldRules>, cells: &BTreeMap<Vec<u8>, Vec<u8>>) -> Self {
        let mut fold = Self::default();
        for (name, value) in cells {
            let is_known = match name.split_first() {
                Some((&dedupe::TAG, rest)) => dedupe::read(&mut fold.seen, rest, value),
                Some((&aggregate::RULE_TAG | &aggregate::GROUP_TAG, _)) => {
                    fold.windows.read(name, value)
                }
                _ => false,
            };
            if !is_known {
                fold.changed.note(name.clone());
            }
        }
        fold.set_rules(rules);
        fold
    }

    /// Other rules are in force. What a rule that is gone remembers goes, and its windows are due.
    pub fn set_rules(&mut self, rules: Arc<FoldRules>) {
        let Self { seen, changed, .. } = self;
        seen.retain(|id, seen| {
            let is_kept = rules.dedupes.iter().any(|rule| rule.id == *id);
            if !is_kept {
                seen.forget_all(id, changed);
            }
            is_kept
        });
        self.windows.set_rules(&rules.aggregates);
        self.rules = rules;
    }

    /// Takes the next record; `data` is its encoded value.
    pub fn fold(&mut self, origin: &Origin<'_>, data: &[u8]) -> Folded {
        for rule in &self.rules.dedupes {
            if means(&rule.pattern, origin.stream) {
                let seen = self.seen.entry(rule.id).or_default();
                if seen.is_duplicate(rule, origin, data, &mut self.changed) {
                    return Folded::Duplicate;
                }
            }
        }
        let mut folded = Folded::Kept;
        for rule in &self.rules.aggregates {
            if means(&rule.pattern, origin.stream) {
                self.windows.add(rule, origin, data, &mut self.changed);
                if !rule.keeps_raw {
                    folded = Folded::Aggregated;
                }
            }
        }
        folded
    }

    /// The rows of windows that are due, at most [`ROWS_MAX`]; call it again when there are so many. `now_ns` is the
    /// time, nanoseconds since 1970, for when no records are left that could tell it.
    pub fn close(&mut self, now_ns: Option<u64>) -> Vec<Row> {
        self.windows.close(now_ns, &mut self.changed)
    }

    /// The windows that are open, counted with their groups, and the beginning of the oldest, nanoseconds since 1970.
    pub fn open(&self) -> OpenWindows {
        self.windows.open()
    }

    /// When the next window is due if no record comes, nanoseconds since 1970.
    pub fn due_ns(&self) -> Option<u64> {
        self.windows.due_ns()
    }

    /// The cells that are not as they were when this was called last.
    pub fn take_changes(&mut self) -> Vec<CellChange> {
        let changed = std::mem::take(&mut self.changed);
        let value = |name: &[u8]| match name.split_first() {
            Some((&dedupe::TAG, rest)) => dedupe::cell(&self.seen, rest),
            _ => self.windows.cell(name),
        };
        let names = changed.0.into_iter();
        names
            .map(|name| (value(&name), name))
            .map(|(value, name)| (name, value))
            .collect()
    }
}

#[cfg(test)]
mod tests;
