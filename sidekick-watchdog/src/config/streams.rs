//! `[[stream]]` and `[[test]]`: rules for records by their streams' names, and what should come of them.
//!
//! Read from the file only: a list has no place in the environment. Each key's mistakes are told at its own line.

mod expression;
mod fold;
mod set;
mod trial;

use std::collections::BTreeMap;
use std::path::Path;
use std::sync::Arc;

use serde_json::Value as Json;
use sidekick_ipc::stream::StreamPattern;
use toml::Spanned;
use toml::de::{DeTable, DeValue};

use super::reader::{Pass, Place, file_folder};
use super::secret;
use super::value::Value;
use crate::platform::is_readable_by_all;
use crate::process::{
    AggregateSpec, DedupeSpec, FieldPath, FoldRules, HashKey, Schema, Screen, ScreenSpec, Shape,
    ShapeSpec, Trial, TrialRules,
};
use expression::is_expression;

/// Rules beyond this number are refused: each record is held against all of them.
const RULES_MAX: usize = 256;
/// The shortest key for hashes, in bytes. Names can be tried through, keys must not be.
const HASH_KEY_BYTES_MIN: usize = 16;

/// The largest schema, in bytes; the store keeps it with the rules.
const SCHEMA_BYTES_MAX: usize = 64 << 10;

/// What `init` shows of this.
pub(super) const TEMPLATE: &str = r##"
# Rules for records by their streams' names; * stands for any run of characters. All that match apply, in this order.
# Before anything is stored: drop, sample, drop_fields, hash_fields, truncate. Then: dedupe, aggregate. Before upload: filter, rename,
# set, schema, sink.
#[[stream]]
#match = "chat.*"
#drop_fields = ["ip", "player.email"]
#hash_fields = ["player.id"]
#hash_key_file = "hash.key"
#truncate = { text = 500 }
#set = { region = { env = "REGION", default = "eu" }, server = { expr = "source" } }

#[[stream]]
#match = "debug.*"
#drop = "level is defined and level < 2"
#sample = 0.1
#sample_by = "player"

#[[stream]]
#match = "damage"
#dedupe = { by = ["hit_id"], within = "10m", keys_max = 10000 }
#aggregate = { into = "damage.minute", every = "1m", by = ["weapon"], values = ["amount"], histogram = { amount = [10, 100] } }

# What should come of a record; `sidekick-watchdog check` tries it.
#[[test]]
#name = "no addresses"
#stream = "chat.say"
#input = { text = "hello", ip = "10.0.0.1" }
#expect = { text = "hello", region = "eu", server = "lobby-1" }

# The same of several, with the times at which they are recorded: all that should be sent.
#[[test]]
#name = "hits are counted"
#stream = "damage"
#inputs = [
#	{ at = "1s", data = { hit_id = 1, weapon = "bow", amount = 5 } },
#	{ at = "2s", data = { hit_id = 1, weapon = "bow", amount = 5 } },
#]
#[[test.outputs]]
#stream = "damage.minute"
#at = "0s"
#data.window_s = 60
#data.by = { weapon = "bow" }
#data.count = 1
#data.values.amount = { count = 1, sum = 5, min = 5, max = 5, bounds = [10, 100], buckets = [1, 0, 0] }
"##;

/// One `[[stream]]`.
#[derive(Clone, Debug)]
pub struct StreamRule {
    /// Which streams.
    pub pattern: StreamPattern,
    /// They are still recorded when the disk runs short.
    pub keep: bool,
    /// What is done before anything is stored.
    pub screen: ScreenSpec,
    /// Records like one that was there before go no further.
    pub dedupe: Option<DedupeSpec>,
    /// One record stands for many.
    pub aggregate: Option<AggregateSpec>,
    /// What is done before upload.
    pub shape: ShapeSpec,
}

/// `[[stream]]` and `[[test]]`.
#[derive(Clone, Debug, Default)]
pub struct StreamsConfig {
    /// The rules, in the order of the file.
    pub rules: Vec<StreamRule>,
    /// What should come of them.
    pub trials: Vec<Trial>,
    /// Both as they were written, for `config print`.
    pub(super) shown: String,
}

impl StreamsConfig {
    /// The first halves of the rules.
    ///
    /// # Errors
    /// None for rules that were read from a configuration: what could be wrong was looked at there.
    pub fn screen(&self) -> Result<Screen, crate::process::RuleError> {
        Screen::compile(self.rules.iter().map(|rule| &rule.screen))
    }

    /// What looks at more than one record.
    ///
    /// # Errors
    /// As [`Self::screen`].
    pub fn fold_rules(&self) -> Result<FoldRules, crate::process::RuleError> {
        let dedupes = self.rules.iter().filter_map(|rule| rule.dedupe.as_ref());
        let aggregates = self.rules.iter().filter_map(|rule| rule.aggregate.as_ref());
        FoldRules::compile(dedupes, aggregates)
    }

    /// Tries what should come of records, as a server called `source` would. Gives the tests that fail, by name, with a
    /// line for each difference.
    ///
    /// # Errors
    /// As [`Self::screen`].
    pub fn failing_trials(
        &self,
        source: &str,
    ) -> Result<Vec<(&str, Vec<String>)>, crate::process::RuleError> {
        let rules = TrialRules {
            screen: &self.screen()?,
            folds: &Arc::new(self.fold_rules()?),
            shape: &Shape::parse(&self.shape_text())?,
            source,
        };
        let trials = self.trials.iter();
        let run = trials.map(|trial| (trial.name.as_str(), trial.run(&rules)));
        Ok(run
            .filter_map(|(name, run)| Some((name, run.err()?)))
            .collect())
    }

    /// The text of the second halves.
    pub fn shape_text(&self) -> String {
        Shape::text(self.rules.iter().map(|rule| &rule.shape))
    }

    /// The patterns of streams that are still recorded when the disk runs short.
    pub fn kept(&self) -> Vec<&str> {
        let kept = self.rules.iter().filter(|rule| rule.keep);
        kept.map(|rule| rule.pattern.as_str()).collect()
    }

    pub(super) fn read(pass: &mut Pass<'_>, sinks: &[&str]) -> Self {
        let mut config = Self::default();
        let tables = pass.tables("stream");
        if tables.len() > RULES_MAX {
            pass.complain_at(
                Place::Default,
                "stream".into(),
                format!("there are {} rules, at most {RULES_MAX}", tables.len()),
            );
        }
        for (place, table) in tables {
            config.show("stream", table);
            config.rules.extend(read_rule(pass, place, table, sinks));
        }
        for (place, table) in pass.tables("test") {
            config.show("test", table);
            config.trials.extend(trial::read(pass, place, table));
        }
        config
    }

    fn show(&mut self, name: &str, table: &DeTable<'_>) {
        use std::fmt::Write;
        let _ = write!(self.shown, "\n[[{name}]]\n");
        for (key, value) in table {
            let _ = writeln!(
                self.shown,
                "{} = {}",
                key.get_ref(),
                to_toml(value.get_ref())
            );
        }
    }
}

/// A table of a list while its keys are read.
struct Item<'p, 'a, 's> {
    pass: &'p mut Pass<'a>,
    name: &'static str,
    table: &'s DeTable<'s>,
    known: Vec<&'static str>,
    /// Something was wrong.
    failed: bool,
}

impl<'s> Item<'_, '_, 's> {
    fn raw(&mut self, key: &'static str) -> Option<&'s Spanned<DeValue<'s>>> {
        self.known.push(key);
        self.table.get(key)
    }

    fn get<T: Value>(&mut self, key: &'static str) -> Option<T> {
        self.get_checked(key, |_: &T| Ok(()))
    }

    fn get_checked<T: Value>(
        &mut self,
        key: &'static str,
        check: impl Fn(&T) -> Result<(), String>,
    ) -> Option<T> {
        let raw = self.raw(key)?;
        let read = T::from_toml(raw.get_ref());
        match read.and_then(|value| check(&value).map(|()| value)) {
            Ok(value) => Some(value),
            Err(why) => {
                self.complain(raw.span(), key, why);
                None
            }
        }
    }

    /// A table of fields, each value read by itself.
    fn fields<T>(
        &mut self,
        key: &'static str,
        expected: &str,
        read: impl Fn(&DeValue<'_>) -> Result<T, String>,
    ) -> BTreeMap<String, T> {
        let mut found = BTreeMap::new();
        let Some(raw) = self.raw(key) else {
            return found;
        };
        let Some(table) = raw.get_ref().as_table() else {
            self.complain(
                raw.span(),
                key,
                format!("must be a table of fields such as {expected}"),
            );
            return found;
        };
        for (field, value) in table {
            let name = field.get_ref().to_string();
            let checked = check_field(&name).and_then(|()| {
                read(value.get_ref()).map_err(|why| format!("of the field {name:?} {why}"))
            });
            match checked {
                Ok(value) => drop(found.insert(name, value)),
                Err(why) => self.complain(value.span(), key, why),
            }
        }
        found
    }

    fn complain(&mut self, span: std::ops::Range<usize>, key: &str, why: String) {
        self.failed = true;
        let place = self.pass.at(span);
        self.pass
            .complain_at(place, format!("{}.{key}", self.name), why);
    }

    fn finish(&mut self) {
        for (name, _) in self.table {
            let text: &str = name.get_ref();
            if !self.known.contains(&text) {
                let why = super::reader::unknown("key", text, self.known.iter().copied());
                self.complain(name.span(), text, why);
            }
        }
    }
}

fn check_field(field: &str) -> Result<(), String> {
    match FieldPath::parse(field) {
        Ok(_) => Ok(()),
        Err(why) => Err(format!("the field {field:?} {why}")),
    }
}

#[expect(clippy::ptr_arg, reason = "checks get what is read")]
fn are_fields(fields: &Vec<String>) -> Result<(), String> {
    fields.iter().try_for_each(|field| check_field(field))
}

fn read_rule(
    pass: &mut Pass<'_>,
    place: Place,
    table: &DeTable<'_>,
    sinks: &[&str],
) -> Option<StreamRule> {
    let folder = file_folder(pass.sources());
    let mut item = Item {
        pass,
        name: "stream",
        table,
        known: Vec::new(),
        failed: false,
    };
    let pattern = match item.get::<String>("match") {
        Some(text) => match text.parse::<StreamPattern>() {
            Ok(pattern) => Some(pattern),
            Err(why) => {
                let span = table.get("match").map_or(0..0, Spanned::span);
                item.complain(span, "match", format!("cannot be used: {why}"));
                None
            }
        },
        None if item.failed => None,
        None => {
            item.failed = true;
            let why = "is missing: name the streams, such as \"chat.*\"";
            item.pass
                .complain_at(place.clone(), "stream.match".into(), why.into());
            None
        }
    };
    let drop = match item.raw("drop") {
        Some(raw) => match raw.get_ref().as_bool() {
            Some(true) => Some("true".to_owned()),
            Some(false) => None,
            None => item.get_checked("drop", is_expression),
        },
        None => None,
    };
    let sample = item.get_checked("sample", |share: &f64| match (0.0..=1.0).contains(share) {
        true => Ok(()),
        false => Err(format!("is {share}: must be from 0 to 1")),
    });
    let sample_by = item.get_checked("sample_by", |field: &String| {
        check_field(field)?;
        match FieldPath::parse(field).is_ok_and(|path| path.is_single()) {
            true => Ok(()),
            false => Err("must name one field, without *".into()),
        }
    });
    if let (Some(raw), None, false) = (table.get("sample_by"), table.get("sample"), item.failed) {
        item.complain(
            raw.span(),
            "sample_by",
            "means nothing without sample".into(),
        );
    }
    let drop_fields = item.get_checked("drop_fields", are_fields);
    let hash_fields = item.get_checked("hash_fields", are_fields);
    let hash_key = read_hash_key(&mut item, &folder);
    if let (Some(raw), None) = (table.get("hash_fields"), table.get("hash_key_file")) {
        let why = "needs hash_key_file, a file with a secret of at least 16 characters";
        item.complain(raw.span(), "hash_fields", why.into());
    }
    let truncate = item.fields("truncate", "{ text = 500 }", |value| {
        u32::from_toml(value).map_err(|why| format!("{why} (bytes)"))
    });
    let filter = item.get_checked("filter", is_expression);
    let rename = item.fields(
        "rename",
        "{ pl = \"player\" }",
        |value| match String::from_toml(value)? {
            name if name.is_empty() => Err("must not be empty".into()),
            name => Ok(name),
        },
    );
    let variables = &item.pass.sources().variables;
    let set = item.fields("set", "{ region = \"eu\" }", |value| {
        set::read(value, variables)
    });
    let schema = read_schema(&mut item, &folder);
    let sink = item.get_checked("sink", |named: &Vec<String>| {
        let mut odd = named.iter().filter(|name| !sinks.contains(&name.as_str()));
        match odd.next() {
            None => Ok(()),
            Some(name) => Err(format!("names {name:?}, which is not in upload.sinks")),
        }
    });
    let named = pattern.as_ref().map_or("", StreamPattern::as_str);
    let dedupe = fold::dedupe(&mut item, named);
    let aggregate = fold::aggregate(&mut item, named);
    let keep = item.get("keep").unwrap_or(false);
    item.finish();
    let pattern = pattern.filter(|_| !item.failed)?;
    let rule = StreamRule {
        keep,
        screen: ScreenSpec {
            drop,
            sample,
            sample_by,
            drop_fields: drop_fields.unwrap_or_default(),
            hash_fields: hash_fields.unwrap_or_default(),
            hash_key,
            truncate,
            ..ScreenSpec::new(pattern.clone())
        },
        dedupe,
        aggregate,
        shape: ShapeSpec {
            pattern: pattern.as_str().to_owned(),
            filter,
            rename,
            set,
            schema,
            sinks: sink,
        },
        pattern,
    };
    // What only shows when all keys are seen together.
    let screen = Screen::compile([&rule.screen]).err();
    let shape = Shape::parse(&Shape::text([&rule.shape])).err();
    let fold = FoldRules::compile(&rule.dedupe, &rule.aggregate).err();
    if let Some(why) = screen.or(shape).or(fold) {
        pass.complain_at(place, "stream".into(), format!("cannot be used: {why}"));
        return None;
    }
    Some(rule)
}

fn read_hash_key(item: &mut Item<'_, '_, '_>, folder: &Path) -> Option<HashKey> {
    let path: std::path::PathBuf = item.get("hash_key_file")?;
    let path = folder.join(path);
    let span = item.table.get("hash_key_file").map_or(0..0, Spanned::span);
    match secret::read_file(&path) {
        Ok(key) if key.len() < HASH_KEY_BYTES_MIN => {
            let why = format!(
                "cannot be used: {} holds {} bytes, at least {HASH_KEY_BYTES_MIN} are needed; try: openssl rand -hex 32",
                path.display(),
                key.len()
            );
            item.complain(span, "hash_key_file", why);
            None
        }
        Ok(key) => {
            if is_readable_by_all(&path) {
                let file = path.display();
                item.pass.warnings.push(format!(
                    "stream.hash_key_file: every user of this machine can read {file}; run: chmod o-r {file}"
                ));
            }
            Some(HashKey::new(key.as_bytes()))
        }
        Err(why) => {
            item.complain(span, "hash_key_file", format!("cannot be used: {why}"));
            None
        }
    }
}

fn read_schema(item: &mut Item<'_, '_, '_>, folder: &Path) -> Option<Json> {
    let path: std::path::PathBuf = item.get("schema")?;
    let path = folder.join(path);
    let span = item.table.get("schema").map_or(0..0, Spanned::span);
    let read = || {
        let bytes = std::fs::read(&path).map_err(|error| error.to_string())?;
        if bytes.len() > SCHEMA_BYTES_MAX {
            return Err(format!(
                "it has {} bytes, at most {SCHEMA_BYTES_MAX}",
                bytes.len()
            ));
        }
        let json: Json = serde_json::from_slice(&bytes).map_err(|error| error.to_string())?;
        Schema::compile(&json).map_err(|error| error.to_string())?;
        Ok(json)
    };
    match read() {
        Ok(json) => Some(json),
        Err(why) => {
            item.complain(
                span,
                "schema",
                format!("cannot be used: {}: {why}", path.display()),
            );
            None
        }
    }
}

fn to_json(value: &DeValue<'_>) -> Result<Json, String> {
    Ok(match value {
        DeValue::String(text) => Json::String(text.to_string()),
        DeValue::Boolean(value) => Json::Bool(*value),
        DeValue::Integer(number) => i64::from_str_radix(number.as_str(), number.radix())
            .map_err(|_| "is a number beyond 64 bits".to_owned())?
            .into(),
        DeValue::Float(_) => f64::from_toml(value)?.into(),
        DeValue::Datetime(date) => Json::String(date.to_string()),
        DeValue::Array(items) => Json::Array(
            items
                .iter()
                .map(|item| to_json(item.get_ref()))
                .collect::<Result<_, _>>()?,
        ),
        DeValue::Table(entries) => Json::Object(
            entries
                .iter()
                .map(|(key, value)| Ok((key.get_ref().to_string(), to_json(value.get_ref())?)))
                .collect::<Result<_, String>>()?,
        ),
    })
}

fn to_toml(value: &DeValue<'_>) -> toml::Value {
    match value {
        DeValue::Array(items) => {
            toml::Value::Array(items.iter().map(|item| to_toml(item.get_ref())).collect())
        }
        DeValue::Table(entries) => toml::Value::Table(
            entries
                .iter()
                .map(|(key, value)| (key.get_ref().to_string(), to_toml(value.get_ref())))
                .collect(),
        ),
        DeValue::String(text) => toml::Value::String(text.to_string()),
        DeValue::Boolean(value) => toml::Value::Boolean(*value),
        DeValue::Integer(number) => toml::Value::Integer(
            i64::from_str_radix(number.as_str(), number.radix()).unwrap_or_default(),
        ),
        DeValue::Float(number) => toml::Value::Float(number.as_str().parse().unwrap_or(f64::NAN)),
        DeValue::Datetime(date) => toml::Value::Datetime(*date),
    }
}

#[cfg(test)]
mod tests;
