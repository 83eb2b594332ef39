//! How the server process before this one died: the watchdog's report, read when somebody asks.

use std::fs::File;
use std::io::Read;
use std::path::Path;
use std::sync::{Mutex, PoisonError};

use godot::classes::Json;
use godot::prelude::*;

/// The watchdog bounds what it writes to much less.
const REPORT_BYTES_MAX: u64 = 1 << 20;
/// Keys that every report has, with null where nothing is known.
const KEYS: [&str; 8] = [
    "cause",
    "signal",
    "exit_code",
    "frame",
    "uptime_s",
    "script_errors",
    "backtrace",
    "report_id",
];
/// Whole numbers, at any depth: Godot's JSON makes a float of each number.
const WHOLE: [&str; 10] = [
    "signal",
    "exit_code",
    "frame",
    "incarnation",
    "pid",
    "line",
    "count",
    "rss_bytes",
    "end",
    "id",
];

/// The report's text once it was read: it never changes, and no thread's own Variant is shared.
static TEXT: Mutex<String> = Mutex::new(String::new());

/// The report as a dictionary; empty when there is none (yet).
pub(crate) fn last_death(path: Option<&Path>) -> VarDictionary {
    let Some(path) = path else {
        return VarDictionary::new();
    };
    let mut text = TEXT.lock().unwrap_or_else(PoisonError::into_inner);
    if text.is_empty() {
        // The watchdog gives it its name when it is whole. A file in memory: no disk is waited for.
        let Some(found) = read(path) else {
            return VarDictionary::new();
        };
        *text = found;
    }
    let parsed = Json::parse_string(text.as_str());
    let Ok(mut report) = parsed.try_to::<VarDictionary>() else {
        return VarDictionary::new();
    };
    for key in KEYS {
        if !report.contains_key(key) {
            report.set(key, &Variant::nil());
        }
    }
    make_whole(&mut report);
    report
}

/// Makes ints of what is one, in a dictionary and all that it holds.
fn make_whole(report: &mut VarDictionary) {
    for key in WHOLE {
        if let Some(number) = report.get(key).and_then(|it| it.try_to::<f64>().ok()) {
            report.set(key, number as i64);
        }
    }
    for value in report.values_array().iter_shared() {
        make_whole_in(&value);
    }
}

/// Dictionaries and arrays are shared: what is changed here is changed in the report.
fn make_whole_in(value: &Variant) {
    if let Ok(mut inner) = value.try_to::<VarDictionary>() {
        make_whole(&mut inner);
    } else if let Ok(items) = value.try_to::<VarArray>() {
        for item in items.iter_shared() {
            make_whole_in(&item);
        }
    }
}

fn read(path: &Path) -> Option<String> {
    let mut text = String::new();
    let file = File::open(path).ok()?;
    file.take(REPORT_BYTES_MAX).read_to_string(&mut text).ok()?;
    (!text.is_empty()).then_some(text)
}
