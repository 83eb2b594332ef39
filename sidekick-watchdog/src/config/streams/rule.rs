//! One `[[stream]]`.

use std::path::{Path, PathBuf};

use serde_json::Value as Json;
use sidekick_ipc::stream::StreamPattern;
use toml::Spanned;
use toml::de::DeTable;

use super::expression::is_expression;
use super::item::{Item, are_fields, check_field};
use super::{StreamRule, fold, set};
use crate::config::reader::{Pass, Place, file_folder};
use crate::config::secret;
use crate::config::value::Value;
use crate::platform::is_readable_by_all;
use crate::process::{FieldPath, FoldRules, HashKey, Schema, Screen, ScreenSpec, Shape, ShapeSpec};

/// The shortest key for hashes, in bytes. Names can be tried through, keys must not be.
const HASH_KEY_BYTES_MIN: usize = 16;
/// The largest schema, in bytes; the store keeps it with the rules.
const SCHEMA_BYTES_MAX: usize = 64 << 10;

/// Reads it; `place` is where it begins.
pub(super) fn read(
    pass: &mut Pass<'_>,
    place: Place,
    table: &DeTable<'_>,
    sinks: &[&str],
) -> Option<StreamRule> {
    let folder = file_folder(pass.sources());
    let mut item = Item::new(pass, "stream", table);
    let pattern = read_pattern(&mut item, &place);
    let drop = read_drop(&mut item);
    let (sample, sample_by) = read_sample(&mut item);
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
    let path: PathBuf = item.get("hash_key_file")?;
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
    let path: PathBuf = item.get("schema")?;
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

/// Which streams it is for.
fn read_pattern(item: &mut Item<'_, '_, '_>, place: &Place) -> Option<StreamPattern> {
    match item.get::<String>("match") {
        Some(text) => match text.parse::<StreamPattern>() {
            Ok(pattern) => Some(pattern),
            Err(why) => {
                let span = item.table.get("match").map_or(0..0, Spanned::span);
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
    }
}

/// An expression; `true` is one for all.
fn read_drop(item: &mut Item<'_, '_, '_>) -> Option<String> {
    match item.raw("drop") {
        Some(raw) => match raw.get_ref().as_bool() {
            Some(true) => Some("true".to_owned()),
            Some(false) => None,
            None => item.get_checked("drop", is_expression),
        },
        None => None,
    }
}

/// Which share of the records stays, and by which field they stay or go together.
fn read_sample(item: &mut Item<'_, '_, '_>) -> (Option<f64>, Option<String>) {
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
    if let (Some(raw), None, false) = (
        item.table.get("sample_by"),
        item.table.get("sample"),
        item.failed,
    ) {
        item.complain(
            raw.span(),
            "sample_by",
            "means nothing without sample".into(),
        );
    }
    (sample, sample_by)
}
