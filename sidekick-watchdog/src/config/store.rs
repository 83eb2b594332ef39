//! `[store]`: the committed log and the state beside it.

use super::reader::{Pass, between};
use super::value::Size;

/// The committed log and the state beside it.
#[derive(Clone, Debug)]
pub struct StoreConfig {
    /// Memory for recent log entries, in bytes; uploads read older ones from the disk.
    pub cache_bytes: u64,
    /// The largest log entry made of waiting slabs, in bytes.
    pub batch_bytes_max: u64,
    /// Log entries between two snapshots.
    pub snapshot_every_entries: u32,
    /// Bytes of log beyond which records are refused, never dropped.
    pub disk_quota_bytes: u64,
}

impl StoreConfig {
    pub(super) fn read(pass: &mut Pass<'_>) -> Self {
        let mut section = pass.section("store");
        let cache = section.get(
            "cache_size",
            Size(4 << 20),
            "Memory for recent log entries; uploads that lag further behind read from the disk.",
            between(Size(1 << 20), Size(1 << 30)),
        );
        let batch = section.get(
            "batch_max_bytes",
            Size(2 << 20),
            "The most that one commit (one fsync) takes at once.",
            between(Size(128 << 10), Size(16 << 20)),
        );
        let snapshot_every_entries = section.get(
            "snapshot_every",
            16_384,
            "Commits between two snapshots of the state; the log before a snapshot is freed once it is uploaded.",
            between(16, 10_000_000),
        );
        let quota = section.get(
            "disk_quota",
            Size(4 << 30),
            "Disk that the log may take. Beyond it new records are refused and counted; stored ones are never dropped.",
            between(Size(256 << 20), Size(1 << 50)),
        );
        section.later("batch_max_delay", "delayed commits");
        section.finish();
        Self {
            cache_bytes: cache.0,
            batch_bytes_max: batch.0,
            snapshot_every_entries,
            disk_quota_bytes: quota.0,
        }
    }
}
