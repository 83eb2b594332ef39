//! Checkpoints: per source and key the newest full one with its deltas, the two before it, and the one for a safe start.
//!
//! What counts against the limits is the newest of each key; the game's side keeps to half of them
//! ([`sidekick_ipc::CheckpointRoom`]), so what it takes is not refused here. The others fill what room is left, and give way.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};
use sidekick_ipc::tree::{
    Answer, CHECKPOINT_KEYS_MAX, CHECKPOINTS_BYTES_MAX, CheckpointKind, DELTAS_MAX, ErrorKind,
    RestoreStatus, Restored, StoreResult, VALUE_BYTES_MAX,
};

use super::super::blob::Blob;

/// Full checkpoints that are kept of a key, besides a pinned one.
const FULL_KEPT: usize = 3;
/// Keys of one source: what a call takes at most, and once more what a launch may have taken that was not told how many there
/// are, since its watchdog was not there yet.
const KEYS_MAX: usize = 2 * CHECKPOINT_KEYS_MAX;
/// Bytes of the newest checkpoints of one source, likewise.
const BYTES_MAX: u64 = 2 * CHECKPOINTS_BYTES_MAX;
/// A launch that ran so long after it had loaded a checkpoint did not die of it.
const PROVEN_AFTER_NS: u64 = 60 * 1_000_000_000;

/// One write of a checkpoint.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
struct Written {
    version: u64,
    value: Blob,
    launch: u32,
    frame: u64,
    realtime_ms: i64,
}

/// A full checkpoint and what changed since, in order and without a gap.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
struct Full {
    written: Written,
    deltas: Vec<Written>,
}

impl Full {
    fn newest(&self) -> &Written {
        self.deltas.last().unwrap_or(&self.written)
    }

    fn delta_bytes(&self) -> usize {
        self.deltas.iter().map(|delta| delta.value.len()).sum()
    }

    fn bytes(&self) -> u64 {
        (self.written.value.len() + self.delta_bytes()) as u64
    }
}

/// What a launch went on with.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
struct Loaded {
    launch: u32,
    /// Of the full one.
    version: u64,
    time_ns: u64,
}

/// One key of one source.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
struct Key {
    /// The highest version taken.
    version: u64,
    /// Oldest first; only the newest one takes deltas.
    recent: Vec<Full>,
    /// The newest one from before what the first of a row of short-lived launches had loaded.
    pin: Option<Full>,
    loaded: Option<Loaded>,
}

impl Key {
    /// Of the newest.
    fn newest_bytes(&self) -> u64 {
        self.recent.last().map_or(0, Full::bytes)
    }

    fn bytes(&self) -> u64 {
        self.recent.iter().chain(&self.pin).map(Full::bytes).sum()
    }

    /// Lets the oldest one go that is not the newest.
    fn drop_older(&mut self) -> bool {
        let has_older = self.recent.len() > 1;
        if has_older {
            self.recent.remove(0);
        }
        has_older
    }

    fn drop_pin(&mut self) -> bool {
        self.pin.take().is_some()
    }

    /// Bytes of the newest once `write` is taken.
    fn newest_bytes_with(&self, write: &Write<'_>) -> u64 {
        let bytes = write.value.len() as u64;
        match write.kind {
            CheckpointKind::Full => bytes,
            CheckpointKind::Delta { .. } => self.newest_bytes().saturating_add(bytes),
        }
    }

    /// Keeps a checkpoint, or says why not and stays as it is.
    fn write(&mut self, write: Write<'_>) -> Result<(), Refused> {
        if write.version <= self.version {
            let message = format!(
                "checkpoint version {} is not above {}, the last one; restore first",
                write.version, self.version
            );
            return Err((ErrorKind::StaleVersion, message));
        }
        let written = Written {
            version: write.version,
            value: write.value.into(),
            launch: write.launch,
            frame: write.frame,
            realtime_ms: write.realtime_ms,
        };
        match write.kind {
            CheckpointKind::Full => {
                self.recent.push(Full {
                    written,
                    deltas: Vec::new(),
                });
                if self.recent.len() > FULL_KEPT {
                    self.recent.remove(0);
                }
            }
            CheckpointKind::Delta { base } => self.write_delta(base, written)?,
        }
        self.version = write.version;
        let is_proven = self.loaded.is_some_and(|loaded| {
            loaded.launch == write.launch
                && write.time_ns.saturating_sub(loaded.time_ns) >= PROVEN_AFTER_NS
        });
        if is_proven {
            self.pin = None;
        }
        Ok(())
    }

    fn write_delta(&mut self, base: u64, written: Written) -> Result<(), Refused> {
        // Never merged over a gap (CORRECTNESS rule 21).
        let full = self.recent.last_mut().filter(|full| {
            full.written.version == base
                && full.newest().version.checked_add(1) == Some(written.version)
        });
        let Some(full) = full else {
            let message = format!(
                "delta {} on {base} does not follow version {}; send a full checkpoint",
                written.version, self.version
            );
            return Err((ErrorKind::DeltaGap, message));
        };
        let bytes = full.delta_bytes() + written.value.len();
        if full.deltas.len() >= DELTAS_MAX || bytes > VALUE_BYTES_MAX {
            let message = format!(
                "{} deltas and {bytes} bytes on one full checkpoint, the limits are {DELTAS_MAX} and {VALUE_BYTES_MAX}; \
                 send a full checkpoint",
                full.deltas.len() + 1
            );
            return Err((ErrorKind::TooLarge, message));
        }
        full.deltas.push(written);
        Ok(())
    }
}

/// Why a checkpoint is not kept: the word and the sentence.
type Refused = (ErrorKind, String);

/// Lets one go of a key; false if there is none.
type DropOne = fn(&mut Key) -> bool;

/// All keys of one source. How many bytes they have follows from them and is not written.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(from = "BTreeMap<String, Key>")]
struct Source {
    keys: BTreeMap<String, Key>,
    /// Of the newest of each key.
    #[serde(skip)]
    newest_bytes: u64,
    /// Of everything.
    #[serde(skip)]
    bytes: u64,
}

impl From<BTreeMap<String, Key>> for Source {
    fn from(keys: BTreeMap<String, Key>) -> Self {
        let mut source = Self::default();
        for (name, key) in keys {
            source.put(name, key);
        }
        source
    }
}

impl Source {
    /// Takes a key out, to be changed and put back.
    fn take(&mut self, name: &str) -> Option<Key> {
        let key = self.keys.remove(name)?;
        self.newest_bytes -= key.newest_bytes();
        self.bytes -= key.bytes();
        Some(key)
    }

    fn put(&mut self, name: String, key: Key) {
        self.newest_bytes += key.newest_bytes();
        self.bytes += key.bytes();
        self.keys.insert(name, key);
    }

    /// Whether there is room for `write` to a key that was taken out.
    fn check_room(&self, key: &Key, is_new: bool, write: &Write<'_>) -> Result<(), Refused> {
        if is_new && write.kind != CheckpointKind::Full {
            let message = format!(
                "a delta of {:?}, of which there is no full checkpoint",
                write.key
            );
            return Err((ErrorKind::DeltaGap, message));
        }
        let count = self.keys.len();
        if is_new && count >= KEYS_MAX {
            let message = format!(
                "{count} keys have checkpoints, no more are taken; keep what is many in the tree"
            );
            return Err((ErrorKind::TooMany, message));
        }
        let newest = key.newest_bytes_with(write);
        let bytes = self.newest_bytes.saturating_add(newest);
        if newest > key.newest_bytes() && bytes > BYTES_MAX {
            let message = format!(
                "all checkpoints together would be {bytes} bytes, the limit is {BYTES_MAX}"
            );
            return Err((ErrorKind::TreeFull, message));
        }
        Ok(())
    }

    /// Lets go what is not the newest of its key until the rest fits: those of `first` first, what is held back for a safe
    /// start last.
    fn make_room(&mut self, first: &str) {
        let Self { keys, bytes, .. } = self;
        let mut give_way = |key: &mut Key, drop_one: DropOne| {
            let mut of_key = key.bytes();
            while *bytes > CHECKPOINTS_BYTES_MAX && drop_one(key) {
                *bytes -= of_key - key.bytes();
                of_key = key.bytes();
            }
            *bytes > CHECKPOINTS_BYTES_MAX
        };
        for drop_one in [Key::drop_older as DropOne, Key::drop_pin] {
            if let Some(key) = keys.get_mut(first) {
                give_way(key, drop_one);
            }
            if !keys.values_mut().all(|key| give_way(key, drop_one)) {
                return;
            }
        }
    }
}

/// All checkpoints of the group.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Checkpoints {
    sources: BTreeMap<String, Source>,
}

/// What is to be kept; its limits are checked.
pub(super) struct Write<'a> {
    pub(super) source: &'a str,
    pub(super) launch: u32,
    pub(super) key: String,
    pub(super) kind: CheckpointKind,
    pub(super) version: u64,
    pub(super) value: Vec<u8>,
    pub(super) frame: u64,
    pub(super) realtime_ms: i64,
    /// Log time.
    pub(super) time_ns: u64,
}

fn taken(version: u64, revision: u64) -> StoreResult {
    StoreResult::Ok(Answer {
        revision,
        version,
        succeeded: true,
        ..Answer::default()
    })
}

impl Checkpoints {
    /// Keeps a checkpoint, or says why not; then the one before stands.
    pub(super) fn write(&mut self, write: Write<'_>, revision: u64) -> StoreResult {
        let name = write.key.clone();
        let (version, source_name) = (write.version, write.source);
        let source = match self.sources.get_mut(source_name) {
            Some(source) => source,
            None => self.sources.entry(source_name.to_owned()).or_default(),
        };
        let before = source.take(&name);
        let is_new = before.is_none();
        let mut key = before.unwrap_or_default();
        let done = source
            .check_room(&key, is_new, &write)
            .and_then(|()| key.write(write));
        if done.is_ok() || !is_new {
            source.put(name.clone(), key);
        }
        match done {
            Ok(()) => {
                source.make_room(&name);
                taken(version, revision)
            }
            Err((kind, message)) => {
                if source.keys.is_empty() {
                    self.sources.remove(source_name);
                }
                StoreResult::error(kind, message)
            }
        }
    }

    /// Takes everything of a key away.
    pub(super) fn forget(&mut self, source: &str, key: &str, revision: u64) -> StoreResult {
        let of = self.sources.get_mut(source);
        let was = of.and_then(|of| of.take(key).map(|_| of.keys.is_empty()));
        if was == Some(true) {
            self.sources.remove(source);
        }
        StoreResult::Ok(Answer {
            revision,
            count: u64::from(was.is_some()),
            succeeded: true,
            ..Answer::default()
        })
    }

    /// How many keys of `source` are kept, and the bytes of the newest of each.
    pub(super) fn kept(&self, source: &str) -> (u64, u64) {
        let source = self.sources.get(source);
        source.map_or((0, 0), |of| (of.keys.len() as u64, of.newest_bytes))
    }

    /// Notes what a launch goes on with; keeps the one before that for a safe start, unless an earlier launch of a row
    /// of deaths did so already.
    pub(super) fn loaded(
        &mut self,
        source: &str,
        launch: u32,
        name: &str,
        version: u64,
        time_ns: u64,
        revision: u64,
    ) -> StoreResult {
        let source = self.sources.get_mut(source);
        let found = source.and_then(|source| Some((source.take(name)?, source)));
        let Some((mut key, source)) = found else {
            return StoreResult::error(
                ErrorKind::NotFound,
                format!("there is no checkpoint of {name:?} to have been loaded"),
            );
        };
        if key.pin.is_none() {
            let before = |full: &&Full| full.written.version < version;
            key.pin = key.recent.iter().rev().find(before).cloned();
        }
        key.loaded = Some(Loaded {
            launch,
            version,
            time_ns,
        });
        source.put(name.to_owned(), key);
        source.make_room(name);
        taken(version, revision)
    }

    /// What `source` may go on with. `now_ms` is the wall clock, in milliseconds since the Unix epoch.
    pub(super) fn restore(&self, source: &str, key: &str, safe: bool, now_ms: i64) -> Restored {
        let found = self.sources.get(source).and_then(|of| of.keys.get(key));
        let Some(key) = found else {
            return Restored::default();
        };
        let newest = key.recent.last();
        let older = || {
            let loaded = key.loaded?;
            let before = |full: &&Full| full.written.version < loaded.version;
            key.recent.iter().rev().find(before)
        };
        let safer = safe.then(|| key.pin.as_ref().or_else(older)).flatten();
        let Some(full) = safer.or(newest) else {
            return Restored::default();
        };
        let last = full.newest();
        let age_ms = now_ms.saturating_sub(last.realtime_ms).max(0);
        Restored {
            status: RestoreStatus::Restored,
            full_version: full.written.version,
            version: key.version,
            full: full.written.value.to_vec(),
            deltas: full
                .deltas
                .iter()
                .map(|delta| serde_bytes::ByteBuf::from(delta.value.to_vec()))
                .collect(),
            incarnation: last.launch,
            frame: last.frame,
            age_ms: age_ms.unsigned_abs(),
            is_safe: safer.is_some(),
        }
    }
}

#[cfg(test)]
mod tests;
