//! How a log is opened, and where tests let its disk fail.

use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64};

use super::mend::IsWhole;

/// What [`Wal::open`] needs to know.
#[derive(Clone, Debug)]
pub struct WalOptions {
    /// Where the segments lie; must exist.
    pub directory: PathBuf,
    /// A segment's size in bytes, 64 KiB to 1 GiB; a larger entry gets a larger segment of its own.
    pub segment_bytes: u64,
    /// Space is zeroed in steps of this many bytes.
    pub zero_step_bytes: u64,
    /// Recent entries kept in memory, in bytes of payload.
    pub cache_bytes: usize,
    /// The node's id, written into a new log; an existing log's own id holds.
    pub node: u64,
    /// What becomes of entries that are damaged on the disk.
    pub(crate) rot: Rot,
    /// Tells of what is damaged on the disk whether it was put right.
    pub(crate) is_whole: IsWhole,
    /// Where tests let the disk fail.
    pub(crate) faults: Arc<Faults>,
}

/// What becomes of a log with a damaged entry amid it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Rot {
    /// It is not opened: another node has the entry.
    Refused,
    /// The entry is lost, and the log goes on behind it: nobody else has it.
    Bridged,
}

impl WalOptions {
    /// The usual sizes, in `directory`.
    pub fn new(directory: impl Into<PathBuf>) -> Self {
        Self {
            directory: directory.into(),
            segment_bytes: 64 << 20,
            zero_step_bytes: 4 << 20,
            cache_bytes: 8 << 20,
            node: 1,
            rot: Rot::Refused,
            is_whole: |_, _| false,
            faults: Arc::default(),
        }
    }
}

/// Lets the disk fail on purpose: `u64::MAX` or `false` = never.
#[derive(Debug)]
pub(crate) struct Faults {
    /// fdatasyncs that still succeed.
    pub(crate) syncs_left: AtomicU64,
    /// Bytes that may still be added to the log's files, as a full disk would have it.
    pub(crate) space_left: AtomicU64,
    /// Slows each fdatasync down by so many microseconds.
    pub(crate) sync_delay_us: AtomicU64,
    /// Space is promised without being had, which the tests have to catch.
    pub(crate) promises_space: AtomicBool,
    /// The log's thread panics at its next fdatasync, as a fault of ours would have it.
    pub(crate) panics: AtomicBool,
    /// All segments get the same salt, which the tests have to catch.
    pub(crate) fixed_salt: AtomicBool,
}

impl Default for Faults {
    fn default() -> Self {
        Self {
            syncs_left: AtomicU64::new(u64::MAX),
            space_left: AtomicU64::new(u64::MAX),
            sync_delay_us: AtomicU64::new(0),
            promises_space: AtomicBool::new(false),
            panics: AtomicBool::new(false),
            fixed_salt: AtomicBool::new(false),
        }
    }
}
