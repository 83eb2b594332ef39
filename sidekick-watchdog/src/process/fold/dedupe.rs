//! `dedupe`: of records whose key fields are alike, the first one counts.

use std::collections::{BTreeMap, HashMap};

use ring::digest;
use serde::{Deserialize, Serialize};
use sidekick_ipc::stream::StreamPattern;
use sidekick_ipc::value::fields::Look;

use super::{Changed, Field, Origin, RuleError, RuleId, pattern, rule_id, time_ns};

/// The largest number of keys that a rule can remember.
pub const KEYS_MAX: u32 = 100_000;
/// The first byte of a cell's name.
pub(super) const TAG: u8 = b'k';

type Key = [u8; 16];

/// `dedupe`, as it was written.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct DedupeSpec {
    /// Which streams.
    pub pattern: String,
    /// The fields that make a record what it is; one that lacks any of them is like no other.
    pub by: Vec<String>,
    /// How far apart two records may be, in nanoseconds of their own time.
    pub within_ns: u64,
    /// How many are remembered, the latest ones; 1 to [`KEYS_MAX`].
    pub keys_max: u32,
}

#[derive(Debug)]
pub(super) struct Dedupe {
    pub(super) id: RuleId,
    pub(super) pattern: StreamPattern,
    by: Vec<Field>,
    within_ns: u64,
    keys_max: usize,
}

impl Dedupe {
    pub(super) fn compile(spec: &DedupeSpec) -> Result<Self, RuleError> {
        // Texts and numbers: nothing that JSON does not take.
        let text = serde_json::to_string(spec).unwrap_or_default();
        let by = spec.by.iter();
        let by = by.map(|field| Field::compile(&spec.pattern, "dedupe", field));
        Ok(Self {
            id: rule_id(&text),
            pattern: pattern(&spec.pattern)?,
            by: by.collect::<Result<_, _>>()?,
            within_ns: spec.within_ns,
            keys_max: spec.keys_max.clamp(1, KEYS_MAX) as usize,
        })
    }

    /// What makes the record what it is, hashed: server, stream and key fields. A text and a whole number count by their
    /// text, so `7` and `"7"` are one.
    fn key(&self, origin: &Origin<'_>, data: &[u8]) -> Option<Key> {
        let mut context = digest::Context::new(&digest::SHA256);
        let mut part = |kind: u8, bytes: &[u8]| {
            context.update(&[kind]);
            context.update(&(bytes.len() as u64).to_le_bytes());
            context.update(bytes);
        };
        part(b'd', origin.source.as_bytes());
        part(b'd', origin.stream.as_bytes());
        for field in &self.by {
            match field.look(origin, data)? {
                (Look::Text(text), _) => part(b't', text.as_bytes()),
                (Look::Int(number), _) => part(b't', number.to_string().as_bytes()),
                (_, bytes) => part(b'v', bytes),
            }
        }
        let mut key = Key::default();
        for (to, from) in key.iter_mut().zip(context.finish().as_ref()) {
            *to = *from;
        }
        Some(key)
    }
}

/// The keys that a rule has seen.
#[derive(Debug, Default)]
pub(super) struct Seen {
    /// The number of its coming, and the record's time.
    by_key: HashMap<Key, (u64, u64)>,
    /// Keys by the numbers of their coming.
    in_order: BTreeMap<u64, Key>,
    newest_ns: u64,
}

impl Seen {
    pub(super) fn is_duplicate(
        &mut self,
        rule: &Dedupe,
        origin: &Origin<'_>,
        data: &[u8],
        changed: &mut Changed,
    ) -> bool {
        let Some(key) = rule.key(origin, data) else {
            return false;
        };
        let time_ns = time_ns(origin);
        if let Some((number, known_ns)) = self.by_key.get(&key) {
            if known_ns.abs_diff(time_ns) <= rule.within_ns {
                return true;
            }
            self.in_order.remove(number);
        }
        let number = self
            .in_order
            .last_key_value()
            .map_or(0, |(last, _)| last + 1);
        self.put(key, number, time_ns);
        changed.note(name(&rule.id, &key));
        while let Some((number, key)) = self.in_order.first_key_value() {
            let (number, key) = (*number, *key);
            let is_old = self.by_key.get(&key).is_none_or(|(_, known_ns)| {
                known_ns.saturating_add(rule.within_ns) < self.newest_ns
            });
            if !is_old && self.by_key.len() <= rule.keys_max {
                break;
            }
            self.in_order.remove(&number);
            self.by_key.remove(&key);
            changed.note(name(&rule.id, &key));
        }
        false
    }

    fn put(&mut self, key: Key, number: u64, time_ns: u64) {
        self.by_key.insert(key, (number, time_ns));
        self.in_order.insert(number, key);
        self.newest_ns = self.newest_ns.max(time_ns);
    }

    pub(super) fn forget_all(&mut self, id: &RuleId, changed: &mut Changed) {
        for key in self.by_key.keys() {
            changed.note(name(id, key));
        }
        *self = Self::default();
    }
}

fn name(id: &RuleId, key: &Key) -> Vec<u8> {
    [&[TAG], id.as_slice(), key.as_slice()].concat()
}

/// A cell's name behind its tag.
fn parts(rest: &[u8]) -> Option<(RuleId, Key)> {
    let (id, key) = rest.split_at_checked(size_of::<RuleId>())?;
    Some((id.try_into().ok()?, key.try_into().ok()?))
}

/// Takes a cell; false when it is none.
pub(super) fn read(seen: &mut BTreeMap<RuleId, Seen>, rest: &[u8], value: &[u8]) -> bool {
    let numbers = value.split_at_checked(8).and_then(|(number, time_ns)| {
        let word = |bytes: &[u8]| bytes.try_into().ok().map(u64::from_le_bytes);
        Some((word(number)?, word(time_ns)?))
    });
    match (parts(rest), numbers) {
        (Some((id, key)), Some((number, time_ns))) => {
            seen.entry(id).or_default().put(key, number, time_ns);
            true
        }
        _ => false,
    }
}

/// The value of a cell; `None` when it is gone.
pub(super) fn cell(seen: &BTreeMap<RuleId, Seen>, rest: &[u8]) -> Option<Vec<u8>> {
    let (id, key) = parts(rest)?;
    let (number, time_ns) = seen.get(&id)?.by_key.get(&key)?;
    Some([number.to_le_bytes(), time_ns.to_le_bytes()].concat())
}
