//! Records in a folder: `records.ndjson`, each line once, and `keys`, the keys of the batches that were taken.

use std::collections::HashSet;
use std::fs::{File, OpenOptions};
use std::io::{self, BufRead, BufReader, Seek, SeekFrom, Write};
use std::path::Path;
use std::sync::{Mutex, PoisonError};

use super::line::{Key, Record};
use super::{StoreError, Stored};
use crate::platform;

#[derive(Debug)]
pub(super) struct FolderStore {
    inner: Mutex<Inner>,
    /// Its lock lasts as long as it.
    _lock: File,
}

/// Who else writes cuts off what we have answered for.
const LOCK_NAME: &str = "backend.lock";

#[derive(Debug)]
struct Inner {
    records: Lines,
    keys: Lines,
    known: HashSet<Key>,
    known_keys: HashSet<String>,
}

/// A file of whole lines.
#[derive(Debug)]
struct Lines {
    file: File,
    bytes: u64,
}

impl FolderStore {
    /// Opens the folder, which is made where it is missing, and reads what is there. A line that was being written when
    /// the process was killed was not answered for, and is cut off. `None` where another process has the folder.
    pub(super) fn open(dir: &Path) -> io::Result<Option<Self>> {
        platform::create_private_dir(dir)?;
        // Before anything is read: the other one may be about to write.
        let lock = open_private(&dir.join(LOCK_NAME))?;
        if !platform::try_lock(&lock)? {
            return Ok(None);
        }
        let (mut known, mut known_keys) = (HashSet::new(), HashSet::new());
        let records = Lines::open(&dir.join("records.ndjson"), |line| {
            let record = Record::parse(line).map_err(io::Error::other)?;
            known.insert(record.key);
            Ok(())
        })?;
        let keys = Lines::open(&dir.join("keys"), |line| {
            known_keys.insert(line.to_owned());
            Ok(())
        })?;
        platform::sync_dir(dir)?;
        let inner = Inner {
            records,
            keys,
            known,
            known_keys,
        };
        Ok(Some(Self {
            inner: Mutex::new(inner),
            _lock: lock,
        }))
    }

    /// Stores what of a batch is new, and makes it durable.
    pub(super) fn put(&self, key: &str, records: &[Record]) -> Result<Stored, StoreError> {
        // What a panic left half done is no line that counts: the file is cut to its length before each write.
        let mut inner = self.inner.lock().unwrap_or_else(PoisonError::into_inner);
        if inner.known_keys.contains(key) {
            return Ok(Stored::Known);
        }
        let mut fresh = HashSet::new();
        let mut text = String::new();
        for record in records {
            if !inner.known.contains(&record.key) && fresh.insert(record.key.clone()) {
                text.push_str(&record.line);
                text.push('\n');
            }
        }
        let later = |error: io::Error| StoreError::Later(format!("cannot store: {error}"));
        inner.records.append(&text).map_err(later)?;
        let new = fresh.len();
        inner.known.extend(fresh);
        // A kill before this one is written costs a comparison of records at the next try, nothing else.
        if !key.is_empty() && !key.contains(['\n', '\r']) {
            inner.keys.append(&format!("{key}\n")).map_err(later)?;
            inner.known_keys.insert(key.to_owned());
        }
        Ok(Stored::New(new))
    }
}

impl Lines {
    fn open(path: &Path, mut each: impl FnMut(&str) -> io::Result<()>) -> io::Result<Self> {
        let file = open_private(path)?;
        let mut reader = BufReader::new(&file);
        let (mut bytes, mut line) = (0, String::new());
        while reader.read_line(&mut line)? > 0 {
            let Some(whole) = line.strip_suffix('\n') else {
                break;
            };
            each(whole)
                .map_err(|error| io::Error::other(format!("{}: {error}", path.display())))?;
            bytes += line.len() as u64;
            line.clear();
        }
        Ok(Self { file, bytes })
    }

    /// Appends whole lines and makes them durable; what was there before stays if that fails.
    fn append(&mut self, text: &str) -> io::Result<()> {
        if text.is_empty() {
            return Ok(());
        }
        self.file.set_len(self.bytes)?;
        self.file.seek(SeekFrom::Start(self.bytes))?;
        self.file.write_all(text.as_bytes())?;
        self.file.sync_all()?;
        self.bytes += text.len() as u64;
        Ok(())
    }
}

fn open_private(path: &Path) -> io::Result<File> {
    let mut options = OpenOptions::new();
    options.read(true).write(true).create(true);
    platform::set_private(&mut options);
    options.open(path)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn record(seq: u64) -> Record {
        let epoch = "00000000-0000-0000-0000-00000000e90c";
        Record::parse(&format!(
            "{{\"source\":\"a\",\"epoch\":\"{epoch}\",\"seq\":{seq},\"stream\":\"s\",\"time\":\"2026-11-22T12:00:00Z\",\
             \"incarnation\":1,\"data\":{seq}}}"
        ))
        .unwrap()
    }

    /// What was answered for is there after a kill, once; half a line is not.
    #[test]
    fn records_and_keys_are_known_again_and_half_a_line_is_cut_off() {
        let dir = tempfile::tempdir().unwrap();
        let put = |store: &FolderStore, key: &str, seqs: &[u64]| {
            let records: Vec<Record> = seqs.iter().map(|seq| record(*seq)).collect();
            store.put(key, &records).unwrap()
        };
        let store = FolderStore::open(dir.path()).unwrap().unwrap();
        assert_eq!(put(&store, "k1", &[1, 2, 2]), Stored::New(2));
        assert_eq!(put(&store, "k1", &[9]), Stored::Known);
        drop(store);
        let path = dir.path().join("records.ndjson");
        let whole = std::fs::read_to_string(&path).unwrap();
        std::fs::write(&path, format!("{whole}{{\"source\":\"a\",\"ep")).unwrap();
        let store = FolderStore::open(dir.path()).unwrap().unwrap();
        assert_eq!(put(&store, "k1", &[1]), Stored::Known);
        assert_eq!(put(&store, "", &[2, 3]), Stored::New(1));
        drop(store);
        assert_eq!(std::fs::read_to_string(&path).unwrap().lines().count(), 3);
    }
    /// Two would each cut off what the other has appended, and has answered for.
    #[test]
    fn a_folder_is_had_by_one_at_a_time() {
        let dir = tempfile::tempdir().unwrap();
        let first = FolderStore::open(dir.path()).unwrap().unwrap();
        assert!(FolderStore::open(dir.path()).unwrap().is_none());
        assert_eq!(first.put("k1", &[record(1)]).unwrap(), Stored::New(1));
        drop(first);
        let next = FolderStore::open(dir.path()).unwrap().unwrap();
        assert_eq!(next.put("k1", &[record(1)]).unwrap(), Stored::Known);
    }
}
