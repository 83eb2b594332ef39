//! What arrived at a backend: each record once by its identity, and everything that should not have happened.

use std::collections::BTreeMap;
use std::collections::btree_map;
use std::fs;
use std::io::{self, Read};
use std::path::Path;

use serde::Deserialize;
use serde_json::Value;

/// How often a folder is listed anew when a file goes away meanwhile. Files complete once in many megabytes.
const READ_TRIES: usize = 10;

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
    /// Takes every `*.ndjson` (also compressed) and `*.ndjson.part` file of a folder, in the order of their names, as the
    /// file sink writes them. The last line of a `.part` is left out while it has no end.
    ///
    /// # Errors
    /// What reading brought; a folder that does not exist is an empty ledger.
    pub fn read_folder(folder: &Path) -> io::Result<Self> {
        for _ in 0..READ_TRIES {
            match Self::try_read_folder(folder) {
                // Completed or compressed between the listing and the reading, and so renamed.
                Err(error) if error.kind() == io::ErrorKind::NotFound => {}
                other => return other,
            }
        }
        Self::try_read_folder(folder)
    }

    fn try_read_folder(folder: &Path) -> io::Result<Self> {
        let mut ledger = Self::default();
        if !folder.is_dir() {
            return Ok(ledger);
        }
        let mut paths: Vec<_> = fs::read_dir(folder)?
            .map(|entry| Ok(entry?.path()))
            .collect::<io::Result<_>>()?;
        paths.sort();
        let is_packed = |path: &Path| path.with_extension("ndjson.gz").is_file();
        for path in paths {
            let name = path.file_name().unwrap_or_default().to_string_lossy();
            let is_part = name.ends_with(".ndjson.part");
            let is_plain = name.ends_with(".ndjson");
            // While it is being compressed a file is there twice.
            if is_plain && is_packed(&path) {
                continue;
            }
            let mut bytes = Vec::new();
            match name.ends_with(".ndjson.gz") {
                true => {
                    let file = fs::File::open(&path)?;
                    flate2::read::MultiGzDecoder::new(file).read_to_end(&mut bytes)?;
                }
                false if is_part || is_plain => bytes = fs::read(&path)?,
                false => continue,
            }
            if is_part {
                // Cut off first: the line that is being written may end amid a letter.
                let end = bytes.iter().rposition(|byte| *byte == b'\n');
                bytes.truncate(end.map_or(0, |end| end + 1));
            }
            let text = String::from_utf8(bytes)
                .map_err(|error| io::Error::new(io::ErrorKind::InvalidData, error))?;
            ledger.take_lines(&text);
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
    fn files_are_read_in_order_and_a_line_without_its_end_is_left_out() {
        let folder = crate::folders::Folder::new();
        assert_eq!(
            Ledger::read_folder(&folder.join("none")).unwrap().count(),
            0
        );
        fs::write(
            folder.join("records-b.1.ndjson.part"),
            [
                line(2, "2").as_bytes(),
                b"\n{\"source\":\"",
                &"é".as_bytes()[..1],
            ]
            .concat(),
        )
        .unwrap();
        fs::write(folder.join("records-a.0.ndjson"), line(1, "1")).unwrap();
        fs::write(folder.join("upload.lock"), "").unwrap();
        let ledger = Ledger::read_folder(folder.path()).unwrap();
        assert_eq!(
            (ledger.count(), ledger.violations.len()),
            (2, 0),
            "{ledger:?}"
        );
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
