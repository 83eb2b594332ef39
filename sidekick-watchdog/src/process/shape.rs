//! What is done to a record on its way to the backend: filtered, its fields renamed and set, held against a schema.
//!
//! A [`Shape`] is made from a text that is kept while a plan needs it (CORRECTNESS rule 16), and gives for the same
//! record the same bytes for ever. Whoever changes what a text means writes a new form number into new ones and keeps
//! the old meaning for old ones.

use std::collections::BTreeMap;
use std::fmt;

use serde::{Deserialize, Serialize};
use serde_json::Value as Json;
use sidekick_ipc::stream::StreamPattern;
use sidekick_ipc::value::{DecodeError, Value as Godot};

use super::edit::{Change, Edit};
use super::expression::{View, to_godot};
use super::{Expression, FieldPath, Origin, RuleError, Schema, Scratch, means};

/// The form of the text. Older ones stay readable, and mean what they meant.
const FORM: u32 = 2;
/// The first form whose expressions know `game_version`; before, that was a field of the record.
const FORM_WITH_GAME_VERSION: u32 = 2;

/// The second half of a rule, as it was written.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ShapeSpec {
    /// Which streams.
    #[serde(rename = "match")]
    pub pattern: String,
    /// Only records for which this expression holds go on.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub filter: Option<String>,
    /// Fields and their new names.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub rename: BTreeMap<String, String>,
    /// Fields and what they are set to.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub set: BTreeMap<String, SetSpec>,
    /// A JSON Schema that records must keep, after all else. What does not is refused.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub schema: Option<Json>,
    /// The sinks that the records go to, all when there is no such list.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub sinks: Option<Vec<String>>,
}

impl ShapeSpec {
    /// Whether it does nothing.
    pub fn is_empty(&self) -> bool {
        self.filter.is_none()
            && self.rename.is_empty()
            && self.set.is_empty()
            && self.schema.is_none()
            && self.sinks.is_none()
    }
}

/// What a field is set to.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum SetSpec {
    /// Always this.
    Value(Json),
    /// What the expression gives for the record as it was before the rule.
    Expr(String),
}

#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Text {
    form: u32,
    rules: Vec<ShapeSpec>,
}

#[derive(Debug)]
enum Source {
    /// Encoded.
    Value(Vec<u8>),
    Expression(String, Expression),
}

#[derive(Debug)]
struct Rule {
    pattern: StreamPattern,
    filter: Option<Expression>,
    /// First renamed, then set: `set` sees the new names.
    rename: Edit,
    set: Edit,
    sources: Vec<Source>,
    schema: Option<Schema>,
    sinks: Option<Vec<String>>,
}

/// What becomes of a record.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Shaped {
    /// It is sent as it was stored.
    Same,
    /// It is sent as [`Scratch::data`] has it.
    Changed,
    /// It is not sent: a filter says so.
    Dropped,
    /// A rule could not be applied to it, or it does not keep a schema.
    Refused(Refusal),
}

/// Why rules refuse a record; for the dead letters.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Refusal {
    /// The part of the rule that refused it, by its key: `filter`, `rename`, `set` or `schema`.
    pub code: &'static str,
    /// What is wrong, for whoever looks at the letter.
    pub reason: String,
}

impl Refusal {
    fn new(code: &'static str, why: impl fmt::Display) -> Self {
        let reason = format!("{code}: {why}");
        Self { code, reason }
    }

    fn undecodable(code: &'static str, error: &DecodeError) -> Self {
        Self::new(code, format_args!("the record cannot be decoded: {error}"))
    }
}

/// The second halves of all rules.
#[derive(Debug, Default)]
pub struct Shape {
    form: u32,
    rules: Vec<Rule>,
}

impl Shape {
    /// The text that stands for these rules; empty for none.
    pub fn text<'a>(specs: impl IntoIterator<Item = &'a ShapeSpec>) -> String {
        let specs = specs.into_iter().filter(|spec| !spec.is_empty());
        let rules: Vec<_> = specs.cloned().collect();
        if rules.is_empty() {
            return String::new();
        }
        // Maps with texts as keys, and numbers that came out of TOML: nothing that JSON does not take.
        serde_json::to_string(&Text { form: FORM, rules }).unwrap_or_default()
    }

    /// Makes rules of a text.
    ///
    /// # Errors
    /// The first mistake found.
    pub fn parse(text: &str) -> Result<Self, RuleError> {
        if text.is_empty() {
            return Ok(Self::default());
        }
        let Text { form, rules } = serde_json::from_str(text).map_err(|error| RuleError::Text {
            why: error.to_string().into(),
        })?;
        if !(1..=FORM).contains(&form) {
            let why = format!("they have form {form}, this watchdog knows 1 to {FORM}").into();
            return Err(RuleError::Text { why });
        }
        let rules = rules.iter().map(compile).collect::<Result<_, _>>()?;
        Ok(Self { form, rules })
    }

    /// Whether nothing is ever done to any record.
    pub fn is_empty(&self) -> bool {
        self.rules.is_empty()
    }

    /// Whether anything is ever done to records of this stream.
    pub fn touches(&self, stream: &str) -> bool {
        self.rules.iter().any(|rule| means(&rule.pattern, stream))
    }

    /// Whether records of this stream go to this sink. Of several rules that say so, the last one counts.
    pub fn goes_to(&self, stream: &str, sink: &str) -> bool {
        let mut rules = self.rules.iter().rev();
        rules
            .find_map(|rule| match &rule.sinks {
                Some(sinks) if means(&rule.pattern, stream) => {
                    Some(sinks.iter().any(|name| name == sink))
                }
                _ => None,
            })
            .unwrap_or(true)
    }

    /// Judges a record. `data` is its encoded value as it was stored.
    pub fn shape(&self, origin: &Origin<'_>, data: &[u8], scratch: &mut Scratch) -> Shaped {
        scratch.begin();
        let mut origin = *origin;
        if self.form < FORM_WITH_GAME_VERSION {
            origin.game_version = None;
        }
        for rule in &self.rules {
            if !means(&rule.pattern, origin.stream) {
                continue;
            }
            match rule.apply(&origin, data, scratch) {
                Ok(true) => {}
                Ok(false) => return Shaped::Dropped,
                Err(Refusal { code, reason }) => {
                    let reason = format!("the rule for {:?}: {reason}", rule.pattern.as_str());
                    return Shaped::Refused(Refusal { code, reason });
                }
            }
        }
        match scratch.is_changed {
            true => Shaped::Changed,
            false => Shaped::Same,
        }
    }
}

impl Rule {
    /// False when the filter does not hold.
    fn apply(
        &self,
        origin: &Origin<'_>,
        data: &[u8],
        scratch: &mut Scratch,
    ) -> Result<bool, Refusal> {
        if let Some(filter) = &self.filter {
            let view = View::new(origin, scratch.current(data));
            let holds = filter.holds(&view);
            if !holds.map_err(|why| Refusal::new("filter", why))? {
                return Ok(false);
            }
        }
        if !self.rename.is_empty() {
            let renamed = scratch.apply(&self.rename, &[], data);
            renamed.map_err(|error| Refusal::undecodable("rename", &error))?;
        }
        if !self.set.is_empty() {
            let view = View::new(origin, scratch.current(data));
            let mut values = Vec::with_capacity(self.sources.len());
            for source in &self.sources {
                let value = source.value(&view);
                values.push(value.map_err(|why| Refusal::new("set", why))?);
            }
            let set = scratch.apply(&self.set, &values, data);
            set.map_err(|error| Refusal::undecodable("set", &error))?;
        }
        if let Some(schema) = &self.schema {
            let checked = schema.check(scratch.current(data));
            checked.map_err(|why| Refusal::new("schema", why))?;
        }
        Ok(true)
    }
}

impl Source {
    fn value(&self, view: &View) -> Result<Vec<u8>, String> {
        match self {
            Self::Value(encoded) => Ok(encoded.clone()),
            Self::Expression(field, expression) => {
                let value = expression.eval(view);
                let value = value.map_err(|why| format!("{field:?}: {why}"))?;
                let value = to_godot(&value, 0)
                    .ok_or_else(|| format!("{field:?} is nothing that a record can hold"))?;
                Ok(sidekick_ipc::value::encode(&value))
            }
        }
    }
}

fn compile(spec: &ShapeSpec) -> Result<Rule, RuleError> {
    let pattern = || spec.pattern.clone();
    let expression = |key, text: &str| {
        Expression::compile(text).map_err(|why| RuleError::Expression {
            pattern: pattern(),
            key,
            why,
        })
    };
    let add = |edit: &mut Edit, key, field: &str, change| {
        let path = FieldPath::parse(field).and_then(|path| match path.is_single() {
            true => edit.add(&path, change),
            false => Err(super::PathError::Star),
        });
        path.map_err(|why| RuleError::Field {
            pattern: pattern(),
            key,
            field: field.to_owned(),
            why,
        })
    };
    let (mut rename, mut set, mut sources) = (Edit::default(), Edit::default(), Vec::new());
    for (field, name) in &spec.rename {
        add(&mut rename, "rename", field, Change::Rename(name.clone()))?;
    }
    for (field, source) in &spec.set {
        add(&mut set, "set", field, Change::Set(sources.len()))?;
        sources.push(match source {
            SetSpec::Value(json) => Source::Value(sidekick_ipc::value::encode(&from_json(json))),
            SetSpec::Expr(text) => Source::Expression(field.clone(), expression("set", text)?),
        });
    }
    Ok(Rule {
        pattern: spec.pattern.parse().map_err(RuleError::Pattern)?,
        filter: match &spec.filter {
            Some(text) => Some(expression("filter", text)?),
            None => None,
        },
        rename,
        set,
        sources,
        schema: match &spec.schema {
            Some(json) => Some(Schema::compile(json).map_err(|why| RuleError::Schema {
                pattern: pattern(),
                why,
            })?),
            None => None,
        },
        sinks: spec.sinks.clone(),
    })
}

/// JSON as a game would have recorded it.
pub fn from_json(json: &Json) -> Godot {
    match json {
        Json::Null => Godot::Nil,
        Json::Bool(value) => Godot::Bool(*value),
        Json::Number(number) => match number.as_i64() {
            Some(number) => Godot::Int(number),
            None => Godot::Float(number.as_f64().unwrap_or(f64::NAN)),
        },
        Json::String(text) => Godot::String(text.clone()),
        Json::Array(items) => Godot::Array(items.iter().map(from_json).collect()),
        Json::Object(entries) => Godot::Dictionary(
            entries
                .iter()
                .map(|(key, value)| (Godot::String(key.clone()), from_json(value)))
                .collect(),
        ),
    }
}

#[cfg(test)]
mod tests;
