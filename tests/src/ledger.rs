//! What arrived at a backend: each record once by its identity, and everything that should not have happened.

use std::collections::BTreeMap;
use std::collections::btree_map;
use std::fs;
use std::io;
use std::path::Path;

use serde::Deserialize;
use serde_json::Value;

/// A record's identity.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Deserialize)]
pub struct Key {
    /// The watchdog's configured name.
    pub source: String,
    /// The ring session's UUID, as text.
    pub epoch: String,
    /// Dense, from 1.
    pub seq: u64,
}

/// One record as it arrived first.
#[derive(Debug, Clone)]
pub struct Arrival {
    /// The line, byte for byte.
    pub line: String,
    /// Which stream it names; empty when it names none.
    pub stream: String,
    /// How often it came, at least 1.
    pub times: u64,
}

impl Arrival {
    /// The whole line as a value.
    pub fn value(&self) -> Value {
        serde_json::from_str(&self.line).unwrap_or_default()
    }

    /// What was recorded.
    pub fn data(&self) -> Value {
        self.value()["data"].take()
    }
}

/// All that a backend took.
#[derive(Debug, Clone, Default)]
pub struct Ledger {
    records: BTreeMap<Key, Arrival>,
    newest: BTreeMap<(String, String, String), u64>,
    /// Lines that came again, byte-identical.
    pub duplicates: u64,
    /// Sentences about what no sink may ever send: the same identity with another content, a line that is
    /// no record, a stream out of order.
    pub violations: Vec<String>,
}

impl Ledger {
    /// Takes every `*.ndjson` file of a folder, in the order of their names, as the file sink writes them.
    /// Files that are still being written have other names.
    ///
    /// # Errors
    /// What reading brought; a folder that does not exist is an empty ledger.
    pub fn read_folder(folder: &Path) -> io::Result<Self> {
        let mut ledger = Self::default();
        let mut paths = Vec::new();
        collect_files(folder, &mut paths)?;
        paths.sort();
        for path in paths {
            ledger.take_lines(&fs::read_to_string(path)?);
        }
        Ok(ledger)
    }

    /// Takes the lines of one body or file.
    pub fn take_lines(&mut self, text: &str) {
        for line in text.lines() {
            self.take(line);
        }
    }

    /// Takes one line.
    pub fn take(&mut self, line: &str) {
        #[derive(Deserialize)]
        struct Line {
            #[serde(flatten)]
            key: Key,
            #[serde(default)]
            stream: String,
        }
        let Line { key, stream } = match serde_json::from_str(line) {
            Ok(line) => line,
            Err(error) => {
                self.violations
                    .push(format!("a line is no record ({error}): {line}"));
                return;
            }
        };
        match self.records.entry(key.clone()) {
            btree_map::Entry::Occupied(mut entry) => {
                let arrival = entry.get_mut();
                arrival.times += 1;
                if arrival.line == line {
                    self.duplicates += 1;
                } else {
                    self.violations.push(format!(
                        "{key:?} came with two contents: {} and {line}",
                        arrival.line
                    ));
                }
            }
            btree_map::Entry::Vacant(entry) => {
                let newest = self
                    .newest
                    .entry((key.source.clone(), key.epoch, stream.clone()))
                    .or_default();
                if key.seq < *newest {
                    self.violations.push(format!(
                        "record {} of stream {stream:?} came first after record {newest} of it",
                        key.seq
                    ));
                }
                *newest = key.seq.max(*newest);
                entry.insert(Arrival {
                    line: line.to_owned(),
                    stream,
                    times: 1,
                });
            }
        }
    }

    /// The records by identity.
    pub fn records(&self) -> &BTreeMap<Key, Arrival> {
        &self.records
    }

    /// How many different records there are.
    pub fn count(&self) -> usize {
        self.records.len()
    }

    /// Those of `expected` that did not come.
    pub fn missing<'a>(&self, expected: impl IntoIterator<Item = &'a Key>) -> Vec<&'a Key> {
        expected
            .into_iter()
            .filter(|key| !self.records.contains_key(*key))
            .collect()
    }
}

fn collect_files(folder: &Path, paths: &mut Vec<std::path::PathBuf>) -> io::Result<()> {
    let entries = match fs::read_dir(folder) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(()),
        other => other?,
    };
    for entry in entries {
        let path = entry?.path();
        if path.is_dir() {
            collect_files(&path, paths)?;
        } else if path
            .extension()
            .is_some_and(|extension| extension == "ndjson")
        {
            paths.push(path);
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn line(seq: u64, data: &str) -> String {
        format!(r#"{{"source":"a","epoch":"e","seq":{seq},"stream":"s","data":{data}}}"#)
    }

    #[test]
    fn a_record_that_comes_again_is_a_duplicate_and_no_violation() {
        let mut ledger = Ledger::default();
        ledger.take_lines(&format!(
            "{}\n{}\n{}\n",
            line(1, "1"),
            line(2, "2"),
            line(1, "1")
        ));
        assert_eq!((ledger.count(), ledger.duplicates), (2, 1));
        assert!(ledger.violations.is_empty(), "{:?}", ledger.violations);
    }

    #[test]
    fn what_must_not_happen_is_a_violation() {
        for (first, second, said) in [
            (line(1, "1"), line(1, "2"), "two contents"),
            (line(2, "2"), line(1, "1"), "came first after"),
            (line(1, "1"), "{\"half\":".to_owned(), "no record"),
        ] {
            let mut ledger = Ledger::default();
            ledger.take_lines(&format!("{first}\n{second}\n"));
            assert!(
                ledger.violations.len() == 1 && ledger.violations[0].contains(said),
                "{ledger:?}"
            );
        }
    }

    #[test]
    fn what_did_not_come_is_missing() {
        let mut ledger = Ledger::default();
        ledger.take(&line(1, "1"));
        let key = |seq| Key {
            source: "a".into(),
            epoch: "e".into(),
            seq,
        };
        assert_eq!(ledger.missing([&key(1), &key(2)]), [&key(2)]);
    }
}
