//! What a destination holds, read back to be compared with the log. Owns counting, not the comparing.

use std::collections::{BTreeMap, BTreeSet};
use std::io::{self, BufRead, BufReader};
use std::path::{Path, PathBuf};

use serde::Deserialize;
use uuid::Uuid;

use super::Compression;
use super::file::{PART_SUFFIX, SUFFIX};
use crate::upload::encode::GAP_STREAM;

/// Numbers, as runs of consecutive ones.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Numbers {
    /// Last number of a run by its first; no two runs touch.
    runs: BTreeMap<u64, u64>,
}

impl Numbers {
    /// Whether `number` is among them.
    pub fn contains(&self, number: u64) -> bool {
        let before = self.runs.range(..=number).next_back();
        before.is_some_and(|(_, last)| *last >= number)
    }

    /// Adds `number`; `false` when it was among them.
    pub fn insert(&mut self, number: u64) -> bool {
        if self.contains(number) {
            return false;
        }
        let before = self.runs.range(..number).next_back();
        let first = match before {
            Some((first, last)) if last.checked_add(1) == Some(number) => *first,
            _ => number,
        };
        let behind = number
            .checked_add(1)
            .and_then(|next| self.runs.remove(&next));
        self.runs.insert(first, behind.unwrap_or(number));
        true
    }

    /// First and last number of each run.
    pub fn runs(&self) -> impl Iterator<Item = (u64, u64)> + '_ {
        self.runs.iter().map(|(first, last)| (*first, *last))
    }

    /// How many they are.
    pub fn count(&self) -> u64 {
        let lengths = self.runs().map(|(first, last)| last - first + 1);
        lengths.fold(0, u64::saturating_add)
    }

    /// Whether there are none.
    pub fn is_empty(&self) -> bool {
        self.runs.is_empty()
    }
}

/// What a destination holds of one session.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Arrived {
    /// The numbers of its records.
    pub records: Numbers,
    /// The numbers of rows that tell of gaps.
    pub gaps: Numbers,
    /// Numbers that came more than once.
    pub doubled: Numbers,
}

impl Arrived {
    /// Takes a row with this number. Rows of either kind have their numbers from the same row of numbers.
    pub fn take(&mut self, seq: u64, is_gap: bool) {
        let seen = match is_gap {
            true => &mut self.gaps,
            false => &mut self.records,
        };
        if !seen.insert(seq) {
            self.doubled.insert(seq);
        }
    }
}

/// What a destination holds of some sources.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Arrivals {
    /// By source and session.
    pub sessions: BTreeMap<(String, Uuid), Arrived>,
    /// Tables whose rows cannot be told apart (no columns for source, epoch and seq): their names and rows.
    pub uncounted: BTreeMap<String, u64>,
    /// What cannot be read as a record, in words; the first few.
    pub unreadable: Vec<String>,
}

/// So often a folder is read anew in which files get other names meanwhile.
const LIST_TRIES: u32 = 8;

/// The files of the file sink in `folder`, each once: one that is being compressed is there twice for a moment.
fn list(folder: &Path) -> io::Result<Vec<PathBuf>> {
    let entries = match std::fs::read_dir(folder) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Vec::new()),
        entries => entries?,
    };
    let mut names = BTreeSet::new();
    for entry in entries {
        let name = entry?.file_name().to_string_lossy().into_owned();
        let is_complete = |compression: Compression| {
            let plain = name.strip_suffix(compression.suffix());
            plain.is_some_and(|plain| plain.ends_with(SUFFIX))
        };
        if name.ends_with(PART_SUFFIX) || Compression::ALL.into_iter().any(is_complete) {
            names.insert(name);
        }
    }
    let is_twice = |name: &String| {
        let packed = [Compression::Gzip, Compression::Zstd];
        let mut packed = packed.map(|compression| format!("{name}{}", compression.suffix()));
        name.ends_with(SUFFIX) && packed.iter_mut().any(|packed| names.contains(packed))
    };
    let once = names.iter().filter(|name| !is_twice(name));
    Ok(once.map(|name| folder.join(name)).collect())
}

/// So much of what cannot be read is told.
const UNREADABLE_MAX: usize = 8;

impl Arrivals {
    /// Takes a row.
    pub fn take(&mut self, source: &str, epoch: Uuid, seq: u64, is_gap: bool) {
        let of = (source.to_owned(), epoch);
        self.sessions.entry(of).or_default().take(seq, is_gap);
    }

    /// Notes what cannot be read as a record.
    pub fn complain(&mut self, words: String) {
        if self.unreadable.len() < UNREADABLE_MAX {
            self.unreadable.push(words);
        }
    }

    /// Reads the files of a folder that the file sink writes to, complete ones and the one that is being appended to.
    /// Lines of other sources are passed over.
    ///
    /// # Errors
    /// What reading brought. A folder that is not there holds nothing.
    pub fn of_files(folder: &Path, sources: &BTreeSet<String>) -> io::Result<Self> {
        let mut listed = list(folder)?;
        let mut tries = 0;
        loop {
            let mut arrivals = Self::default();
            let mut is_complete = true;
            for path in &listed {
                match arrivals.take_file(path, sources) {
                    // Completed or compressed since the folder was listed.
                    Err(error) if error.kind() == io::ErrorKind::NotFound => is_complete = false,
                    read => read?,
                }
            }
            let now = list(folder)?;
            tries += 1;
            if is_complete && now == listed || tries == LIST_TRIES {
                return Ok(arrivals);
            }
            listed = now;
        }
    }

    fn take_file(&mut self, path: &Path, sources: &BTreeSet<String>) -> io::Result<()> {
        let file = Compression::open(path).map_err(|error| {
            io::Error::new(error.kind(), format!("{}: {error}", path.display()))
        })?;
        let mut reader = BufReader::new(file);
        let mut line = Vec::new();
        let mut number = 0_u64;
        loop {
            line.clear();
            if let Err(error) = reader.read_until(b'\n', &mut line) {
                self.complain(format!("{}: {error}", path.display()));
                return Ok(());
            }
            number += 1;
            // What has no end is being written.
            if line.pop() != Some(b'\n') {
                return Ok(());
            }
            match serde_json::from_slice::<Line<'_>>(&line) {
                Ok(line) if sources.contains(line.source.as_ref()) => {
                    let is_gap = line.stream == GAP_STREAM;
                    self.take(&line.source, line.epoch, line.seq, is_gap);
                }
                Ok(_) => {}
                Err(error) => {
                    self.complain(format!("{}:{number}: {error}", path.display()));
                }
            }
        }
    }
}

#[derive(Deserialize)]
struct Line<'a> {
    #[serde(borrow)]
    source: std::borrow::Cow<'a, str>,
    epoch: Uuid,
    seq: u64,
    #[serde(borrow)]
    stream: std::borrow::Cow<'a, str>,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_are_runs_in_whatever_order_they_come() {
        let mut numbers = Numbers::default();
        for number in [5, 3, 4, 9, 1, 8, u64::MAX, u64::MAX - 1] {
            assert!(numbers.insert(number), "{number}");
        }
        assert!(!numbers.insert(4) && !numbers.insert(u64::MAX));
        let runs: Vec<_> = numbers.runs().collect();
        assert_eq!(runs, [(1, 1), (3, 5), (8, 9), (u64::MAX - 1, u64::MAX)]);
        assert_eq!(numbers.count(), 8);
        assert!(numbers.contains(8) && !numbers.contains(2) && !numbers.contains(6));
    }

    #[test]
    fn files_are_counted_up_to_the_line_that_has_no_end() {
        let dir = tempfile::tempdir().unwrap();
        let epoch = Uuid::from_u128(7);
        let line = |seq: u64, stream: &str, source: &str| {
            format!(
                "{{\"source\":\"{source}\",\"epoch\":\"{epoch}\",\"seq\":{seq},\"stream\":\"{stream}\",\"data\":{{\"seq\":1}}}}\n"
            )
        };
        let complete = [line(1, "a", "s"), line(2, "a", "s"), line(1, "a", "other")].concat();
        std::fs::write(dir.path().join("records-1.ndjson"), complete).unwrap();
        let part = [
            line(2, "a", "s"),
            line(3, GAP_STREAM, "s"),
            "no record\n".to_owned(),
            "{\"source\":\"s\"".to_owned(),
        ];
        std::fs::write(dir.path().join("records-2.ndjson.part"), part.concat()).unwrap();
        let sources = BTreeSet::from(["s".to_owned()]);
        let arrivals = Arrivals::of_files(dir.path(), &sources).unwrap();
        let arrived = &arrivals.sessions[&("s".to_owned(), epoch)];
        assert_eq!(arrived.records.runs().collect::<Vec<_>>(), [(1, 2)]);
        assert_eq!(arrived.doubled.runs().collect::<Vec<_>>(), [(2, 2)]);
        assert_eq!(arrived.gaps.runs().collect::<Vec<_>>(), [(3, 3)]);
        assert_eq!(arrivals.sessions.len(), 1);
        assert_eq!(arrivals.unreadable.len(), 1);
        let nothing = Arrivals::of_files(&dir.path().join("none"), &sources).unwrap();
        assert_eq!(nothing, Arrivals::default());
    }
}
