//! What is done to a record before anything of it is stored: left out, sampled, redacted.

use std::collections::BTreeMap;

use ring::digest;
use sidekick_ipc::stream::StreamPattern;
use sidekick_ipc::value::fields::{Look, look};

use super::edit::{Change, Edit};
use super::expression::View;
use super::{Expression, FieldPath, HashKey, Origin, RuleError, Scratch, means};

/// The first half of a rule, as it was written.
#[derive(Clone, Debug)]
pub struct ScreenSpec {
    /// Which streams.
    pub pattern: StreamPattern,
    /// Records for which this expression holds are left out.
    pub drop: Option<String>,
    /// The share of records that is kept, 0 to 1.
    pub sample: Option<f64>,
    /// The field whose value decides about being kept: all records with the same value share one fate.
    pub sample_by: Option<String>,
    /// Fields that are left out.
    pub drop_fields: Vec<String>,
    /// Fields whose values become keyed hashes.
    pub hash_fields: Vec<String>,
    /// The key for these.
    pub hash_key: Option<HashKey>,
    /// Fields that are cut to so many bytes.
    pub truncate: BTreeMap<String, u32>,
}

impl ScreenSpec {
    /// One that does nothing.
    pub fn new(pattern: StreamPattern) -> Self {
        Self {
            pattern,
            drop: None,
            sample: None,
            sample_by: None,
            drop_fields: Vec::new(),
            hash_fields: Vec::new(),
            hash_key: None,
            truncate: BTreeMap::new(),
        }
    }

    /// Whether it does nothing.
    pub fn is_empty(&self) -> bool {
        self.drop.is_none()
            && self.sample.is_none()
            && self.drop_fields.is_empty()
            && self.hash_fields.is_empty()
            && self.truncate.is_empty()
    }
}

#[derive(Debug)]
struct Rule {
    pattern: StreamPattern,
    drop: Option<Expression>,
    sample: Option<(f64, Option<FieldPath>)>,
    edit: Edit,
    hashes: bool,
}

/// What becomes of a record.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Verdict {
    /// It is stored as it came.
    Same,
    /// It is stored as [`Scratch::data`] has it.
    Changed,
    /// It is not stored: a rule says so.
    Dropped,
    /// It is not stored: it is malformed, and what a rule would have to take out of it cannot be found.
    Unreadable,
}

/// A verdict, and whether a condition had no value on the way to it. It then counts as not holding.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Screened {
    /// What becomes of the record.
    pub verdict: Verdict,
    /// A `drop` could not be evaluated.
    pub undecided: bool,
}

/// The first halves of all rules.
#[derive(Debug, Default)]
pub struct Screen {
    rules: Vec<Rule>,
}

impl Screen {
    /// Makes rules of what was written.
    ///
    /// # Errors
    /// The first mistake found.
    pub fn compile<'a>(specs: impl IntoIterator<Item = &'a ScreenSpec>) -> Result<Self, RuleError> {
        let specs = specs.into_iter().filter(|spec| !spec.is_empty());
        let rules = specs.map(compile).collect::<Result<_, _>>()?;
        Ok(Self { rules })
    }

    /// Whether nothing is ever done to any record.
    pub fn is_empty(&self) -> bool {
        self.rules.is_empty()
    }

    /// Whether records can become larger. At most five times as large: eight bytes are the smallest value that is
    /// hashed, and its hash is a text of forty.
    pub fn grows(&self) -> bool {
        self.rules.iter().any(|rule| rule.hashes)
    }

    /// Whether anything is ever done to records of this stream.
    pub fn touches(&self, stream: &str) -> bool {
        self.rules.iter().any(|rule| means(&rule.pattern, stream))
    }

    /// Judges a record. `data` is its encoded value, anybody's bytes.
    pub fn screen(&self, origin: &Origin<'_>, data: &[u8], scratch: &mut Scratch) -> Screened {
        scratch.begin();
        let mut undecided = false;
        let mut verdict = Verdict::Same;
        for rule in &self.rules {
            if !means(&rule.pattern, origin.stream) {
                continue;
            }
            let is_dropped = rule.drop.as_ref().is_some_and(|drop| {
                let holds = drop.holds(&View::new(origin, scratch.current(data)));
                undecided |= holds.is_err();
                holds.unwrap_or(false)
            });
            let is_sampled_out = rule.sample.as_ref().is_some_and(|(share, by)| {
                !is_in_sample(*share, by.as_ref(), origin, scratch.current(data))
            });
            if is_dropped || is_sampled_out {
                verdict = Verdict::Dropped;
                break;
            }
            if rule.edit.is_empty() {
                continue;
            }
            if scratch.apply(&rule.edit, &[], data).is_err() {
                verdict = Verdict::Unreadable;
                break;
            }
            if scratch.is_changed {
                verdict = Verdict::Changed;
            }
        }
        Screened { verdict, undecided }
    }
}

/// Whether a record belongs to the share that is kept. Decided by the key's value alone, or, without one, by the record's own
/// identity: the same on every server and at every time.
fn is_in_sample(share: f64, by: Option<&FieldPath>, origin: &Origin<'_>, data: &[u8]) -> bool {
    let mut context = digest::Context::new(&digest::SHA256);
    context.update(b"sidekick sample 1\0");
    match by
        .and_then(|by| by.find(data))
        .map(|value| (value, look(value)))
    {
        Some((_, Ok(Look::Text(text)))) => context.update(text.as_bytes()),
        Some((_, Ok(Look::Int(number)))) => context.update(number.to_string().as_bytes()),
        Some((value, _)) => context.update(value),
        None => {
            context.update(origin.source.as_bytes());
            for word in [u64::from(origin.incarnation), origin.seq] {
                context.update(&word.to_le_bytes());
            }
        }
    }
    let digest = context.finish();
    let mut first = [0; 8];
    for (to, from) in first.iter_mut().zip(digest.as_ref()) {
        *to = *from;
    }
    // 53 bits, as a float has them: a number from 0 up to, but not including, 1.
    let place = (u64::from_le_bytes(first) >> 11) as f64 / (1_u64 << 53) as f64;
    place < share
}

fn compile(spec: &ScreenSpec) -> Result<Rule, RuleError> {
    let pattern = || spec.pattern.as_str().to_owned();
    let path = |key, field: &str| {
        FieldPath::parse(field).map_err(|why| RuleError::Field {
            pattern: pattern(),
            key,
            field: field.to_owned(),
            why,
        })
    };
    let mut edit = Edit::default();
    let mut add = |key, field: &str, change| {
        edit.add(&path(key, field)?, change)
            .map_err(|why| RuleError::Field {
                pattern: pattern(),
                key,
                field: field.to_owned(),
                why,
            })
    };
    for field in &spec.drop_fields {
        add("drop_fields", field, Change::Drop)?;
    }
    for field in &spec.hash_fields {
        let Some(key) = &spec.hash_key else {
            return Err(RuleError::NoHashKey { pattern: pattern() });
        };
        add("hash_fields", field, Change::Hash(key.clone()))?;
    }
    for (field, bytes_max) in &spec.truncate {
        add("truncate", field, Change::Truncate(*bytes_max as usize))?;
    }
    let drop = spec.drop.as_deref().map(Expression::compile).transpose();
    let drop = drop.map_err(|why| RuleError::Expression {
        pattern: pattern(),
        key: "drop",
        why,
    })?;
    let by = match &spec.sample_by {
        Some(field) => {
            let by = path("sample_by", field)?;
            if !by.is_single() {
                return Err(RuleError::Field {
                    pattern: pattern(),
                    key: "sample_by",
                    field: field.clone(),
                    why: super::PathError::Star,
                });
            }
            Some(by)
        }
        None => None,
    };
    Ok(Rule {
        pattern: spec.pattern.clone(),
        drop,
        sample: spec.sample.map(|share| (share, by)),
        edit,
        hashes: !spec.hash_fields.is_empty(),
    })
}

#[cfg(test)]
mod tests;
