//! `dedupe` and `aggregate` of a rule.

use std::collections::BTreeMap;
use std::time::Duration;

use sidekick_ipc::frame::{RESERVED_STREAM_PREFIX, STREAM_NAME_BYTES_MAX};
use toml::Spanned;
use toml::de::DeValue;

use super::super::reader::between;
use super::super::value::Value;
use super::item::Item;
use crate::process::{
    AggregateSpec, BOUNDS_MAX, BY_MAX, DedupeSpec, EVERY_MAX_NS, FieldPath, KEYS_MAX, VALUES_MAX,
};

/// Keys that `dedupe` remembers when nothing is said.
const KEYS_DEFAULT: u32 = 10_000;
/// How long a window waits for late records when nothing is said.
const LATENESS_DEFAULT: Duration = Duration::from_secs(10);
/// The longest that it can wait.
const LATENESS_MAX: Duration = Duration::from_secs(24 * 3600);
/// The shortest window.
const EVERY_MIN: Duration = Duration::from_secs(1);
const EVERY_MAX: Duration = Duration::from_nanos(EVERY_MAX_NS);

/// Reads a table inside of a rule's; `None` when it is not there or something in it is wrong, which is told.
fn table<T>(
    item: &mut Item<'_, '_, '_>,
    (key, name): (&'static str, &'static str),
    example: &str,
    read: impl FnOnce(&mut Item<'_, '_, '_>) -> Option<T>,
) -> Option<T> {
    let raw = item.raw(key)?;
    let Some(table) = raw.get_ref().as_table() else {
        item.complain(
            raw.span(),
            key,
            format!("must be a table such as {example}"),
        );
        return None;
    };
    let mut inner = Item::new(&mut *item.pass, name, table);
    let found = read(&mut inner);
    inner.finish();
    let failed = inner.failed;
    if found.is_none() && !failed {
        item.complain(raw.span(), key, format!("lacks something: {example}"));
    }
    item.failed |= failed;
    found.filter(|_| !failed)
}

pub(super) fn dedupe(item: &mut Item<'_, '_, '_>, pattern: &str) -> Option<DedupeSpec> {
    let example = "{ by = [\"id\"], within = \"10m\" }";
    table(item, ("dedupe", "stream.dedupe"), example, |item| {
        let by = item.get_checked("by", |by: &Vec<String>| match by.is_empty() {
            true => Err("must name the fields that make a record what it is".into()),
            false => are_fields(by),
        });
        let within = item.get_checked("within", between(EVERY_MIN, EVERY_MAX));
        let keys_max = item.get_checked("keys_max", between(1, KEYS_MAX));
        Some(DedupeSpec {
            pattern: pattern.to_owned(),
            by: by?,
            within_ns: nanos(within?),
            keys_max: keys_max.unwrap_or(KEYS_DEFAULT),
        })
    })
}

pub(super) fn aggregate(item: &mut Item<'_, '_, '_>, pattern: &str) -> Option<AggregateSpec> {
    let example =
        "{ into = \"damage.minute\", every = \"1m\", by = [\"weapon\"], values = [\"amount\"] }";
    table(item, ("aggregate", "stream.aggregate"), example, |item| {
        let into = item.get_checked("into", is_stream);
        let every = item.get_checked("every", between(EVERY_MIN, EVERY_MAX));
        let lateness = item.get_checked("lateness", between(Duration::ZERO, LATENESS_MAX));
        let by = item.get_checked("by", are_fields);
        let values = item.get_checked("values", are_fields);
        let histogram = item.fields("histogram", "{ amount = [1, 10, 100] }", read_bounds);
        let keep_raw = item.get("keep_raw");
        let values = values.unwrap_or_default().into_iter();
        let mut values: BTreeMap<String, Vec<f64>> =
            values.map(|field| (field, Vec::new())).collect();
        values.extend(histogram);
        if values.len() > VALUES_MAX {
            let given = item.table.get("values");
            let span = given.or_else(|| item.table.get("histogram"));
            let why = format!("has {} fields, at most {VALUES_MAX}", values.len());
            item.complain(span.map_or(0..0, Spanned::span), "values", why);
        }
        Some(AggregateSpec {
            pattern: pattern.to_owned(),
            into: into?,
            every_ns: nanos(every?),
            lateness_ns: nanos(lateness.unwrap_or(LATENESS_DEFAULT)),
            by: by.unwrap_or_default(),
            values,
            keep_raw: keep_raw.unwrap_or(false),
        })
    })
}

fn nanos(duration: Duration) -> u64 {
    u64::try_from(duration.as_nanos()).unwrap_or(u64::MAX)
}

#[expect(clippy::ptr_arg, reason = "checks get what is read")]
fn is_stream(name: &String) -> Result<(), String> {
    match name.len() {
        1..=STREAM_NAME_BYTES_MAX if !name.starts_with(RESERVED_STREAM_PREFIX) => Ok(()),
        1..=STREAM_NAME_BYTES_MAX => Err(format!(
            "begins with {RESERVED_STREAM_PREFIX:?}; such streams are the watchdog's own"
        )),
        bytes => Err(format!(
            "has {bytes} bytes, a stream's name has 1 to {STREAM_NAME_BYTES_MAX}"
        )),
    }
}

#[expect(clippy::ptr_arg, reason = "checks get what is read")]
fn are_fields(fields: &Vec<String>) -> Result<(), String> {
    if fields.len() > BY_MAX {
        return Err(format!("has {} fields, at most {BY_MAX}", fields.len()));
    }
    let mut unusable = fields
        .iter()
        .filter_map(|field| match FieldPath::parse(field) {
            Ok(path) if path.is_single() => None,
            Ok(_) => Some(format!("the field {field:?} may not have a * in it")),
            Err(why) => Some(format!("the field {field:?} {why}")),
        });
    unusable.next().map_or(Ok(()), Err)
}

fn read_bounds(value: &DeValue<'_>) -> Result<Vec<f64>, String> {
    let bounds = Vec::<f64>::from_toml(value)?;
    let is_rising = bounds.is_sorted_by(|one, next| one < next);
    match (1..=BOUNDS_MAX).contains(&bounds.len()) && is_rising {
        true if bounds.iter().all(|bound| bound.is_finite()) => Ok(bounds),
        _ => Err(format!("must be 1 to {BOUNDS_MAX} rising numbers")),
    }
}
