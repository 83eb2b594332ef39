//! Checkpoints: per source and key the last full ones, each with its deltas, and the one for a safe start.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};
use sidekick_ipc::tree::{
    Answer, CheckpointKind, DELTAS_MAX, ErrorKind, RestoreStatus, Restored, StoreResult,
    VALUE_BYTES_MAX,
};

use super::super::blob::Blob;

/// Full checkpoints that are kept of a key, besides a pinned one.
const FULL_KEPT: usize = 3;
/// Keys of one source. Checkpoints are whole states of a game; a game with so many keys wants the tree.
const KEYS_MAX: usize = 256;
/// Bytes of all checkpoints of a group.
const BYTES_MAX: u64 = 64 << 20;
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

/// All checkpoints of the group.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Checkpoints {
    sources: BTreeMap<String, BTreeMap<String, Key>>,
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
    fn bytes(&self) -> u64 {
        let keys = self.sources.values().flat_map(BTreeMap::values);
        let fulls = keys.flat_map(|key| key.recent.iter().chain(&key.pin));
        fulls
            .map(|full| (full.written.value.len() + full.delta_bytes()) as u64)
            .sum()
    }

    /// Keeps a checkpoint, or says why not; then the one before stands.
    pub(super) fn write(&mut self, write: Write<'_>, revision: u64) -> StoreResult {
        let error = |kind, message: String| StoreResult::error(kind, message);
        let bytes = self.bytes().saturating_add(write.value.len() as u64);
        if bytes > BYTES_MAX {
            return error(
                ErrorKind::TreeFull,
                format!(
                    "all checkpoints together would be {bytes} bytes, the limit is {BYTES_MAX}"
                ),
            );
        }
        let keys = match self.sources.get_mut(write.source) {
            Some(keys) => keys,
            None => self.sources.entry(write.source.to_owned()).or_default(),
        };
        let count = keys.len();
        let key = match keys.get_mut(&write.key) {
            Some(key) => key,
            None if count >= KEYS_MAX => {
                return error(
                    ErrorKind::TooMany,
                    format!(
                        "{count} keys have checkpoints, no more are taken; keep what is many in the tree"
                    ),
                );
            }
            None if write.kind != CheckpointKind::Full => {
                return error(
                    ErrorKind::DeltaGap,
                    format!(
                        "a delta of {:?}, of which there is no full checkpoint",
                        write.key
                    ),
                );
            }
            None => keys.entry(write.key).or_default(),
        };
        if write.version <= key.version {
            return error(
                ErrorKind::StaleVersion,
                format!(
                    "checkpoint version {} is not above {}, the last one; restore first",
                    write.version, key.version
                ),
            );
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
                key.recent.push(Full {
                    written,
                    deltas: Vec::new(),
                });
                if key.recent.len() > FULL_KEPT {
                    key.recent.remove(0);
                }
            }
            CheckpointKind::Delta { base } => {
                // Never merged over a gap (CORRECTNESS rule 21).
                let full = key.recent.last_mut().filter(|full| {
                    full.written.version == base
                        && full.newest().version.checked_add(1) == Some(written.version)
                });
                let Some(full) = full else {
                    let at = written.version;
                    return error(
                        ErrorKind::DeltaGap,
                        format!(
                            "delta {at} on {base} does not follow version {}; send a full checkpoint",
                            key.version
                        ),
                    );
                };
                let bytes = full.delta_bytes() + written.value.len();
                if full.deltas.len() >= DELTAS_MAX || bytes > VALUE_BYTES_MAX {
                    return error(
                        ErrorKind::TooLarge,
                        format!(
                            "{} deltas and {bytes} bytes on one full checkpoint, the limits are {DELTAS_MAX} and \
                             {VALUE_BYTES_MAX}; send a full checkpoint",
                            full.deltas.len() + 1
                        ),
                    );
                }
                full.deltas.push(written);
            }
        }
        key.version = write.version;
        let is_proven = key.loaded.is_some_and(|loaded| {
            loaded.launch == write.launch
                && write.time_ns.saturating_sub(loaded.time_ns) >= PROVEN_AFTER_NS
        });
        if is_proven {
            key.pin = None;
        }
        taken(key.version, revision)
    }

    /// Notes what a launch goes on with; keeps the one before that for a safe start, unless an earlier launch of a row
    /// of deaths did so already.
    pub(super) fn loaded(
        &mut self,
        source: &str,
        launch: u32,
        key: &str,
        version: u64,
        time_ns: u64,
        revision: u64,
    ) -> StoreResult {
        let found = self
            .sources
            .get_mut(source)
            .and_then(|keys| keys.get_mut(key));
        let Some(key) = found else {
            return StoreResult::error(
                ErrorKind::NotFound,
                format!("there is no checkpoint of {key:?} to have been loaded"),
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
        taken(version, revision)
    }

    /// What `source` may go on with. `now_ms` is the wall clock, in milliseconds since the Unix epoch.
    pub(super) fn restore(&self, source: &str, key: &str, safe: bool, now_ms: i64) -> Restored {
        let found = self.sources.get(source).and_then(|keys| keys.get(key));
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
