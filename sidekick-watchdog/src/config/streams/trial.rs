//! `[[test]]`: a record and what should come of it, or several and all that should be sent.

use std::time::Duration;

use serde_json::Value as Json;
use sidekick_ipc::header::GAME_VERSION_BYTES;
use toml::Spanned;
use toml::de::DeTable;

use super::super::reader::{Pass, Place};
use super::item::Item;
use super::json::to_json;
use crate::process::{Expected, Recorded, Sent, Trial, Tried};

/// The most records of one test.
const INPUTS_MAX: usize = 1000;

/// What may come of one record.
const ENDS: [&str; 3] = ["expect", "dropped", "refused"];

pub(super) fn read(pass: &mut Pass<'_>, place: Place, table: &DeTable<'_>) -> Option<Trial> {
    let mut item = Item::new(pass, "test", table);
    let name = item.get::<String>("name");
    let stream = item.get_checked("stream", is_stream);
    let game_version = item.get_checked("game_version", is_game_version);
    let (input, data) = (json(&mut item, "input"), json(&mut item, "expect"));
    let dropped = item.get::<bool>("dropped").unwrap_or(false);
    let refused = item.get::<String>("refused");
    let by_default = stream.clone().unwrap_or_default();
    let inputs = list(&mut item, "inputs", "test.inputs", |item| {
        read_recorded(item, &by_default)
    });
    let outputs = list(&mut item, "outputs", "test.outputs", |item| {
        read_sent(item, &by_default)
    });
    check_keys(&mut item, &place);
    item.finish();
    if item.failed {
        return None;
    }
    let expected = match (data, dropped) {
        (Some(data), _) => Some(Expected::Data(data)),
        (None, true) => Some(Expected::Dropped),
        (None, false) => refused.map(Expected::Refused),
    };
    let tried = match (input, expected) {
        (Some(input), Some(expected)) => Tried::Record {
            stream: stream?,
            input,
            expected,
        },
        _ => Tried::Run {
            inputs: inputs?,
            outputs: outputs?,
        },
    };
    Some(Trial {
        name: name.unwrap_or_else(|| place.to_string()),
        game_version: game_version.unwrap_or_default(),
        tried,
    })
}

/// A test is of one record, or of several: tells of keys that are missing for that, and of those that do not go together.
fn check_keys(item: &mut Item<'_, '_, '_>, place: &Place) {
    let table = item.table;
    let has = |key: &str| {
        let value = table.get(key).map(|raw| raw.get_ref());
        value.is_some_and(|value| key != "dropped" || value.as_bool() != Some(false))
    };
    for (key, why) in missing(has) {
        item.failed = true;
        let key = format!("{}.{key}", item.name);
        let why = format!("is missing: {why}");
        item.pass.complain_at(place.clone(), key, why);
    }
    for (key, why) in surplus(has) {
        let span = table.get(key).map_or(0..0, Spanned::span);
        item.complain(span, key, why);
    }
}

fn missing(has: impl Fn(&str) -> bool) -> Vec<(&'static str, &'static str)> {
    let mut keys = Vec::new();
    if !has("stream") {
        let why = "name the stream that is recorded to, such as \"chat.say\"";
        keys.push(("stream", why));
    }
    keys.extend(match (has("input"), has("inputs")) {
        (false, false) if has("outputs") => Some(("inputs", "list what is recorded")),
        (false, false) => Some(("input", "say what is recorded, or list several as inputs")),
        (true, false) if !ENDS.into_iter().any(&has) => Some((
            "expect",
            "say what comes of the input by expect, dropped = true or refused",
        )),
        (false, true) if !has("outputs") => {
            Some(("outputs", "list all that is sent, [] for nothing"))
        }
        _ => None,
    });
    keys
}

fn surplus(has: impl Fn(&str) -> bool) -> Vec<(&'static str, String)> {
    let mut keys = Vec::new();
    let ends: Vec<_> = ENDS.into_iter().filter(|key| has(key)).collect();
    match (has("input"), has("inputs")) {
        (true, true) => {
            let why = "does not go with input: a test is of one record, or of several";
            keys.push(("inputs", why.to_owned()));
        }
        (true, false) => {
            if let [first, others @ ..] = &*ends {
                let why = format!("does not go with {first}: one thing comes of a record");
                keys.extend(others.iter().map(|key| (*key, why.clone())));
            }
            if has("outputs") {
                let why = "does not go with input: expect, dropped = true or refused says what comes of it";
                keys.push(("outputs", why.to_owned()));
            }
        }
        (false, true) => {
            let why = "does not go with inputs: outputs lists all that is sent";
            keys.extend(ends.into_iter().map(|key| (key, why.to_owned())));
        }
        (false, false) => {}
    }
    keys
}

#[expect(clippy::ptr_arg, reason = "checks get what is read")]
fn is_game_version(version: &String) -> Result<(), String> {
    match version.len() {
        0..=GAME_VERSION_BYTES => Ok(()),
        bytes => Err(format!(
            "has {bytes} bytes: a game tells at most {GAME_VERSION_BYTES} of its version"
        )),
    }
}

#[expect(clippy::ptr_arg, reason = "checks get what is read")]
fn is_stream(name: &String) -> Result<(), String> {
    match name.is_empty() {
        true => Err("must name a stream".into()),
        false => Ok(()),
    }
}

fn json(item: &mut Item<'_, '_, '_>, key: &'static str) -> Option<Json> {
    let raw = item.raw(key)?;
    match to_json(raw.get_ref()) {
        Ok(json) => Some(json),
        Err(why) => {
            item.complain(raw.span(), key, why);
            None
        }
    }
}

/// A list of tables; `None` where there is none. What is wrong in one is told at its place.
fn list<T>(
    item: &mut Item<'_, '_, '_>,
    key: &'static str,
    name: &'static str,
    read: impl Fn(&mut Item<'_, '_, '_>) -> Option<T>,
) -> Option<Vec<T>> {
    let raw = item.raw(key)?;
    let tables = raw.get_ref().as_array().and_then(|items| {
        let tables = items.iter();
        let tables = tables.map(|item| Some((item.span(), item.get_ref().as_table()?)));
        tables.collect::<Option<Vec<_>>>()
    });
    let tables = match tables {
        Some(tables) if tables.len() <= INPUTS_MAX => tables,
        Some(tables) => {
            let why = format!("has {} items, at most {INPUTS_MAX}", tables.len());
            item.complain(raw.span(), key, why);
            return None;
        }
        None => {
            let why = "must be a list of tables such as [{ at = \"1s\", data = { amount = 5 } }]";
            item.complain(raw.span(), key, why.into());
            return None;
        }
    };
    let mut found = Vec::with_capacity(tables.len());
    for (span, table) in tables {
        let mut inner = Item::new(&mut *item.pass, name, table);
        let read = read(&mut inner);
        inner.finish();
        let failed = inner.failed;
        if read.is_none() && !failed {
            item.complain(span, key, "lacks data in one of its tables".into());
        }
        item.failed |= failed;
        found.extend(read);
    }
    Some(found)
}

/// Since 1970, so that windows begin where the test does.
fn at_ns(item: &mut Item<'_, '_, '_>) -> Option<u64> {
    let at: Option<Duration> = item.get("at");
    at.map(|at| u64::try_from(at.as_nanos()).unwrap_or(u64::MAX))
}

fn read_recorded(item: &mut Item<'_, '_, '_>, by_default: &str) -> Option<Recorded> {
    let stream = item.get_checked("stream", is_stream);
    let (at_ns, data) = (at_ns(item), json(item, "data"));
    Some(Recorded {
        stream: stream.unwrap_or_else(|| by_default.to_owned()),
        at_ns: at_ns.unwrap_or(0),
        data: data?,
    })
}

fn read_sent(item: &mut Item<'_, '_, '_>, by_default: &str) -> Option<Sent> {
    let stream = item.get_checked("stream", is_stream);
    let (at_ns, data) = (at_ns(item), json(item, "data"));
    let refused = item.get::<String>("refused");
    if let (Some(_), Some(_)) = (&data, &refused) {
        let span = item.table.get("refused").map_or(0..0, Spanned::span);
        item.complain(span, "refused", "means nothing beside data".into());
    }
    Some(Sent {
        stream: stream.unwrap_or_else(|| by_default.to_owned()),
        at_ns,
        what: match (data, refused) {
            (Some(data), _) => Expected::Data(data),
            (None, why) => Expected::Refused(why?),
        },
    })
}
