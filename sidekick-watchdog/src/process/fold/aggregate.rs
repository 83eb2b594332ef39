//! `aggregate`: one record for all those of a window of time and a group.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use serde::{Deserialize, Serialize};
use sidekick_ipc::stream::StreamPattern;
use sidekick_ipc::value::fields::Look;
use sidekick_ipc::value::{Value, decode, encode};

use super::{
    Changed, Field, OpenWindows, Origin, Row, RuleError, RuleId, pattern, rule_id, time_ns,
};

/// Windows times groups that are open, over all rules, but for what one run of records adds; beyond that the oldest are
/// told early.
pub const GROUPS_MAX: usize = 4096;
/// Rows of one step.
pub const ROWS_MAX: usize = 1024;
/// The most fields that make a group.
pub const BY_MAX: usize = 8;
/// The most fields whose values are added up.
pub const VALUES_MAX: usize = 8;
/// The most bounds of one histogram.
pub const BOUNDS_MAX: usize = 32;
/// The longest window: a week, in nanoseconds.
pub const EVERY_MAX_NS: u64 = 7 * 24 * 3600 * 1_000_000_000;
/// A group's value is cut to so many bytes.
const GROUP_VALUE_BYTES_MAX: usize = 128;

/// The first byte of the name of a cell that holds a rule of which windows are open. It comes before its groups' cells.
pub(super) const RULE_TAG: u8 = b'a';
/// The first byte of the name of a group's cell.
pub(super) const GROUP_TAG: u8 = b'g';

/// `aggregate`, as it was written.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct AggregateSpec {
    /// Which streams.
    pub pattern: String,
    /// The stream of the rows.
    pub into: String,
    /// How long a window is, in nanoseconds; 1 to [`EVERY_MAX_NS`].
    pub every_ns: u64,
    /// How long a window waits for records that come late, in nanoseconds.
    pub lateness_ns: u64,
    /// The fields by whose values records are told apart; at most [`BY_MAX`].
    pub by: Vec<String>,
    /// The fields whose values are added up, each with the bounds of its histogram, rising; at most [`VALUES_MAX`] with
    /// [`BOUNDS_MAX`] bounds.
    pub values: BTreeMap<String, Vec<f64>>,
    /// The records go on, too.
    pub keep_raw: bool,
}

#[derive(Debug)]
pub(super) struct Aggregate {
    pub(super) id: RuleId,
    pub(super) pattern: StreamPattern,
    pub(super) keeps_raw: bool,
    text: String,
    spec: AggregateSpec,
    by: Vec<Field>,
    values: Vec<(Field, Vec<f64>)>,
}

impl Aggregate {
    pub(super) fn compile(spec: &AggregateSpec) -> Result<Self, RuleError> {
        // Texts and finite numbers: nothing that JSON does not take.
        Self::parse(serde_json::to_string(spec).unwrap_or_default())
    }

    /// The rule that this text says: of the configuration, or as it was kept with its windows.
    fn parse(text: String) -> Result<Self, RuleError> {
        let spec: AggregateSpec = serde_json::from_str(&text).map_err(|error| RuleError::Text {
            why: error.to_string().into(),
        })?;
        let field = |name: &String| Field::compile(&spec.pattern, "aggregate", name);
        let values = spec.values.iter();
        let values = values.map(|(name, bounds)| Ok((field(name)?, bounds.clone())));
        Ok(Self {
            id: rule_id(&text),
            pattern: pattern(&spec.pattern)?,
            keeps_raw: spec.keep_raw,
            by: spec.by.iter().map(field).collect::<Result<_, _>>()?,
            values: values.collect::<Result<_, _>>()?,
            spec,
            text,
        })
    }

    /// From when on a window is told that began then.
    fn due_ns(&self, start_ns: u64) -> u64 {
        let end_ns = start_ns.saturating_add(self.spec.every_ns);
        end_ns.saturating_add(self.spec.lateness_ns)
    }

    /// The name of the group's cell that the record belongs to.
    fn group(&self, origin: &Origin<'_>, data: &[u8]) -> Vec<u8> {
        let values = self.by.iter().map(|field| match field.look(origin, data) {
            Some((Look::Text(text), _)) => {
                let end = text.floor_char_boundary(GROUP_VALUE_BYTES_MAX);
                Value::String(text.get(..end).unwrap_or_default().to_owned())
            }
            Some((_, bytes)) if bytes.len() <= GROUP_VALUE_BYTES_MAX => {
                decode(bytes).unwrap_or_default()
            }
            _ => Value::Nil,
        });
        let values = encode(&Value::Array(values.collect()));
        let time_ns = time_ns(origin);
        let start_ns = time_ns - time_ns % self.spec.every_ns.max(1);
        // Big-endian, so that a rule's windows are in the order of their beginnings.
        [&[GROUP_TAG], &self.id[..], &start_ns.to_be_bytes(), &values].concat()
    }

    fn row(&self, start_ns: u64, by: Vec<Value>, group: &Group) -> Row {
        let text = |text: &str| Value::String(text.to_owned());
        let names = self.spec.by.iter().map(|name| text(name));
        let stats = self.spec.values.iter().zip(&group.stats);
        let stats = stats.map(|((name, bounds), stats)| (text(name), stats.told(bounds)));
        let data = Value::Dictionary(vec![
            (
                text("window_s"),
                Value::Float(self.spec.every_ns as f64 / 1e9),
            ),
            (text("by"), Value::Dictionary(names.zip(by).collect())),
            (text("count"), Value::Int(int(group.count))),
            (text("values"), Value::Dictionary(stats.collect())),
        ]);
        Row {
            time_ns: start_ns,
            stream: self.spec.into.clone(),
            variant: encode(&data),
        }
    }
}

fn int(number: u64) -> i64 {
    i64::try_from(number).unwrap_or(i64::MAX)
}

/// A number as the game recorded it. Whole ones stay whole while their sum fits.
#[derive(Clone, Copy, Debug, PartialEq)]
enum Number {
    Int(i64),
    Float(f64),
}

impl Number {
    fn of(look: Look<'_>) -> Option<Self> {
        match look {
            Look::Int(number) => Some(Self::Int(number)),
            Look::Float(number) if !number.is_nan() => Some(Self::Float(number)),
            _ => None,
        }
    }

    fn float(self) -> f64 {
        match self {
            Self::Int(number) => number as f64,
            Self::Float(number) => number,
        }
    }

    fn plus(self, other: Self) -> Self {
        if let (Self::Int(one), Self::Int(two)) = (self, other)
            && let Some(sum) = one.checked_add(two)
        {
            return Self::Int(sum);
        }
        Self::Float(self.float() + other.float())
    }

    fn is_less(self, other: Self) -> bool {
        match (self, other) {
            (Self::Int(one), Self::Int(two)) => one < two,
            (one, two) => one.float() < two.float(),
        }
    }

    fn told(self) -> Value {
        match self {
            Self::Int(number) => Value::Int(number),
            Self::Float(number) => Value::Float(number),
        }
    }

    fn read(value: &Value) -> Option<Self> {
        match value {
            Value::Int(number) => Some(Self::Int(*number)),
            Value::Float(number) => Some(Self::Float(*number)),
            _ => None,
        }
    }
}

/// The values of one field.
#[derive(Clone, Debug, Default, PartialEq)]
struct Stats {
    count: u64,
    /// Sum, smallest, largest.
    numbers: Option<[Number; 3]>,
    /// Up to and with each bound but above the one before, and above the last.
    buckets: Vec<u64>,
}

impl Stats {
    fn add(&mut self, number: Number, bounds: &[f64]) {
        self.count += 1;
        let [sum, least, most] = self.numbers.unwrap_or([Number::Int(0), number, number]);
        self.numbers = Some([
            sum.plus(number),
            if number.is_less(least) { number } else { least },
            if most.is_less(number) { number } else { most },
        ]);
        if !bounds.is_empty() {
            self.buckets.resize(bounds.len() + 1, 0);
            let at = bounds.partition_point(|bound| *bound < number.float());
            if let Some(bucket) = self.buckets.get_mut(at) {
                *bucket += 1;
            }
        }
    }

    fn buckets(&self) -> Value {
        Value::PackedInt64Array(self.buckets.iter().map(|count| int(*count)).collect())
    }

    fn told(&self, bounds: &[f64]) -> Value {
        let text = |text: &str| Value::String(text.to_owned());
        let mut told = vec![(text("count"), Value::Int(int(self.count)))];
        let names = ["sum", "min", "max"].into_iter();
        for (name, number) in names.zip(self.numbers.into_iter().flatten()) {
            told.push((text(name), number.told()));
        }
        if !self.buckets.is_empty() {
            told.push((text("bounds"), Value::PackedFloat64Array(bounds.to_vec())));
            told.push((text("buckets"), self.buckets()));
        }
        Value::Dictionary(told)
    }

    fn cell(&self) -> Value {
        let mut parts = vec![Value::Int(int(self.count)), self.buckets()];
        parts.extend(self.numbers.into_iter().flatten().map(Number::told));
        Value::Array(parts)
    }

    fn read(value: &Value) -> Option<Self> {
        let Value::Array(parts) = value else {
            return None;
        };
        let (Some(Value::Int(count)), Some(Value::PackedInt64Array(buckets))) =
            (parts.first(), parts.get(1))
        else {
            return None;
        };
        let mut numbers = parts.iter().skip(2).map(Number::read);
        let numbers = match numbers.next() {
            None => None,
            Some(sum) => Some([sum?, numbers.next()??, numbers.next()??]),
        };
        Some(Self {
            count: u64::try_from(*count).ok()?,
            numbers,
            buckets: buckets
                .iter()
                .map(|count| u64::try_from(*count).ok())
                .collect::<Option<_>>()?,
        })
    }
}

/// The records of one window and group.
#[derive(Clone, Debug, Default, PartialEq)]
struct Group {
    count: u64,
    /// One for each of the rule's values.
    stats: Vec<Stats>,
}

impl Group {
    fn cell(&self) -> Vec<u8> {
        let stats = self.stats.iter().map(Stats::cell);
        let count = Value::Int(int(self.count));
        encode(&Value::Array([count].into_iter().chain(stats).collect()))
    }

    fn read(bytes: &[u8]) -> Option<Self> {
        let Ok(Value::Array(parts)) = decode(bytes) else {
            return None;
        };
        let (Value::Int(count), stats) = parts.split_first()? else {
            return None;
        };
        Some(Self {
            count: u64::try_from(*count).ok()?,
            stats: stats.iter().map(Stats::read).collect::<Option<_>>()?,
        })
    }
}

/// The parts of the name of a group's cell: the rule, the window's beginning, the values that make the group.
fn parts(name: &[u8]) -> Option<(RuleId, u64, Vec<Value>)> {
    let (id, start_ns, by) = raw_parts(name)?;
    let Ok(Value::Array(by)) = decode(by) else {
        return None;
    };
    Some((id, start_ns, by))
}

fn raw_parts(name: &[u8]) -> Option<(RuleId, u64, &[u8])> {
    let (id, rest) = name
        .strip_prefix(&[GROUP_TAG])?
        .split_at_checked(size_of::<RuleId>())?;
    let (start_ns, by) = rest.split_at_checked(8)?;
    let start_ns = u64::from_be_bytes(start_ns.try_into().ok()?);
    Some((id.try_into().ok()?, start_ns, by))
}

fn rule_name(id: &RuleId) -> Vec<u8> {
    [&[RULE_TAG], id.as_slice()].concat()
}

/// A rule of which windows are or were open.
#[derive(Debug)]
struct Known {
    rule: Arc<Aggregate>,
    is_in_force: bool,
    /// The time of the newest record, nanoseconds since 1970.
    newest_ns: u64,
    groups: usize,
}

/// The windows that are open.
#[derive(Debug, Default)]
pub(super) struct Windows {
    rules: BTreeMap<RuleId, Known>,
    /// By the names of their cells.
    groups: BTreeMap<Vec<u8>, Group>,
}

impl Windows {
    /// Takes a cell; false when it is none. Rules come before their groups.
    pub(super) fn read(&mut self, name: &[u8], value: &[u8]) -> bool {
        if name.first() == Some(&RULE_TAG) {
            let text = std::str::from_utf8(value).map(str::to_owned);
            let rule = text.ok().and_then(|text| Aggregate::parse(text).ok());
            let rule = rule.filter(|rule| rule_name(&rule.id) == name);
            return rule.is_some_and(|rule| {
                self.know(&Arc::new(rule));
                true
            });
        }
        let (Some((id, ..)), Some(group)) = (parts(name), Group::read(value)) else {
            return false;
        };
        let Some(known) = self.rules.get_mut(&id) else {
            return false;
        };
        known.groups += 1;
        self.groups.insert(name.to_owned(), group);
        true
    }

    fn know(&mut self, rule: &Arc<Aggregate>) -> &mut Known {
        self.rules.entry(rule.id).or_insert_with(|| Known {
            rule: Arc::clone(rule),
            is_in_force: false,
            newest_ns: 0,
            groups: 0,
        })
    }

    pub(super) fn set_rules(&mut self, rules: &[Arc<Aggregate>]) {
        for known in self.rules.values_mut() {
            known.is_in_force = false;
        }
        for rule in rules {
            self.know(rule).is_in_force = true;
        }
        self.rules
            .retain(|_, known| known.is_in_force || known.groups > 0);
    }

    pub(super) fn add(
        &mut self,
        rule: &Arc<Aggregate>,
        origin: &Origin<'_>,
        data: &[u8],
        changed: &mut Changed,
    ) {
        let name = rule.group(origin, data);
        let known = self.know(rule);
        known.newest_ns = known.newest_ns.max(time_ns(origin));
        let group = match self.groups.get_mut(&name) {
            Some(group) => group,
            None => {
                let known = self.know(rule);
                known.groups += 1;
                if known.groups == 1 {
                    changed.note(rule_name(&rule.id));
                }
                self.groups.entry(name.clone()).or_insert_with(|| Group {
                    count: 0,
                    stats: vec![Stats::default(); rule.values.len()],
                })
            }
        };
        group.count += 1;
        for ((field, bounds), stats) in rule.values.iter().zip(&mut group.stats) {
            let found = field.look(origin, data);
            if let Some(number) = found.and_then(|(look, _)| Number::of(look)) {
                stats.add(number, bounds);
            }
        }
        changed.note(name);
    }

    /// When a group's window is due: at once when its rule is gone.
    fn group_due_ns(&self, name: &[u8]) -> Option<(u64, bool)> {
        let (id, start_ns, _) = parts(name)?;
        let known = self.rules.get(&id)?;
        let due_ns = known.rule.due_ns(start_ns);
        Some((due_ns, !known.is_in_force || known.newest_ns >= due_ns))
    }

    pub(super) fn open(&self) -> OpenWindows {
        let starts_ns = self.groups.keys().filter_map(|name| raw_parts(name));
        OpenWindows {
            count: self.groups.len(),
            oldest_ns: starts_ns.map(|(_, start_ns, _)| start_ns).min(),
        }
    }

    pub(super) fn due_ns(&self) -> Option<u64> {
        let names = self.groups.keys();
        names
            .filter_map(|name| self.group_due_ns(name))
            .map(|(due_ns, _)| due_ns)
            .min()
    }

    pub(super) fn close(&mut self, now_ns: Option<u64>, changed: &mut Changed) -> Vec<Row> {
        let mut due: BTreeSet<Vec<u8>> = BTreeSet::new();
        let mut open: Vec<(u64, &Vec<u8>)> = Vec::new();
        for name in self.groups.keys() {
            match self.group_due_ns(name) {
                Some((due_ns, is_due))
                    if !is_due && now_ns.is_none_or(|now_ns| now_ns < due_ns) =>
                {
                    open.push((due_ns, name));
                }
                _ => drop(due.insert(name.clone())),
            }
        }
        let too_many = open.len().saturating_sub(GROUPS_MAX);
        if too_many > 0 {
            open.sort_unstable();
            due.extend(open.iter().take(too_many).map(|(_, name)| (*name).clone()));
        }
        due.into_iter()
            .take(ROWS_MAX)
            .filter_map(|name| self.tell(name, changed))
            .collect()
    }

    /// Takes a group away and makes its row.
    fn tell(&mut self, name: Vec<u8>, changed: &mut Changed) -> Option<Row> {
        let group = self.groups.remove(&name)?;
        let (id, start_ns, by) = parts(&name)?;
        changed.note(name);
        let known = self.rules.get_mut(&id)?;
        let row = known.rule.row(start_ns, by, &group);
        known.groups -= 1;
        if known.groups == 0 {
            changed.note(rule_name(&id));
            if !known.is_in_force {
                self.rules.remove(&id);
            }
        }
        Some(row)
    }

    /// The value of a cell; `None` when it is gone.
    pub(super) fn cell(&self, name: &[u8]) -> Option<Vec<u8>> {
        if name.first() == Some(&GROUP_TAG) {
            return self.groups.get(name).map(Group::cell);
        }
        let mut rules = self.rules.values().filter(|known| known.groups > 0);
        let known = rules.find(|known| rule_name(&known.rule.id) == name)?;
        Some(known.rule.text.clone().into_bytes())
    }
}
