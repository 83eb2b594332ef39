//! What a game of `gd/journal.gd` recorded by its own account, held against what the backend has.
//!
//! The journal is a witness that knows nothing of ring, watchdog or store: a line stands in it only after `record()`
//! has returned, so whatever it says must arrive.

use std::collections::BTreeMap;
use std::fs;
use std::path::Path;

use crate::ledger::{Key, Ledger};

/// The game: writes a journal into the folder that `--journal` names.
pub const SCRIPT: &str = include_str!("../gd/journal.gd");

/// The source that every [`crate::watchdog::Setup`] gives its watchdogs.
const SOURCE: &str = "test";

/// What the journal says of one record.
#[derive(Debug, PartialEq, Eq)]
pub struct Entry {
    stream: String,
    nonce: u64,
    text: String,
}

/// Everything whose `record()` returned, as the game itself wrote it down.
///
/// # Panics
/// When a journal cannot be read, or gives one number twice.
pub fn read(folder: &Path) -> BTreeMap<Key, Entry> {
    let mut entries = BTreeMap::new();
    for file in fs::read_dir(folder).expect("the journals' folder") {
        let text = fs::read_to_string(file.expect("an entry").path()).expect("a journal");
        // What comes after the last newline was being written when the engine was killed.
        let whole = text.rfind('\n').map_or("", |end| &text[..end]);
        for line in whole.lines() {
            let words: Vec<&str> = line.split(' ').collect();
            let [epoch, seq, stream, nonce, letter, length] = words[..] else {
                panic!("not a journal line: {line:?}");
            };
            let key = Key {
                source: SOURCE.to_owned(),
                epoch: epoch.to_owned(),
                seq: seq.parse().expect("a number"),
            };
            let entry = Entry {
                stream: stream.to_owned(),
                nonce: nonce.parse().expect("a number"),
                text: letter.repeat(length.parse().expect("a number")),
            };
            let before = entries.insert(key, entry);
            assert!(before.is_none(), "one number was given twice: {line:?}");
        }
    }
    entries
}

/// Sentences about everything that is not as promised: P1, P2, P4 and P5 of the README.
pub fn broken_promises(journal: &BTreeMap<Key, Entry>, ledger: &Ledger) -> Vec<String> {
    let mut broken = ledger.violations.clone();
    for (key, entry) in journal {
        let Some(arrival) = ledger.records().get(key) else {
            broken.push(format!("{key:?} was recorded and is not at the backend"));
            continue;
        };
        let data = arrival.data();
        let arrived = Entry {
            stream: arrival.stream.clone(),
            nonce: data["nonce"].as_u64().unwrap_or_default(),
            text: data["text"].as_str().unwrap_or_default().to_owned(),
        };
        if arrived != *entry {
            broken.push(format!(
                "{key:?} was recorded as {entry:?} and arrived as {arrived:?}"
            ));
        }
    }
    let mut next = BTreeMap::new();
    for (key, arrival) in ledger.records() {
        let expected = next.entry(&key.epoch).or_insert(1);
        if key.seq != *expected {
            broken.push(format!(
                "the backend has no number {expected} of {}",
                key.epoch
            ));
        }
        *expected = key.seq + 1;
        if arrival.stream == "sidekick.gap" {
            broken.push(format!("a gap was reported: {}", arrival.line));
        }
    }
    broken
}
