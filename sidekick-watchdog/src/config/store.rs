//! `[store]`: the committed log and the state beside it.

use super::reader::{Pass, between};
use super::value::Size;

/// Log between two snapshots as a share of `disk_quota`, when `snapshot_every` is not set (CORRECTNESS rule 13).
const SNAPSHOTS_PER_QUOTA: u64 = 16;

/// The committed log and the state beside it.
#[derive(Clone, Debug)]
pub struct StoreConfig {
    /// Memory for the state's page cache, in bytes.
    pub cache_bytes: u64,
    /// The largest log entry made of waiting slabs, in bytes.
    pub batch_bytes_max: u64,
    /// Bytes of log between two snapshots.
    pub snapshot_every_bytes: u64,
    /// Bytes of disk that log, state and snapshots may take; records are refused beyond it, never dropped.
    pub disk_quota_bytes: u64,
}

impl StoreConfig {
    pub(super) fn read(pass: &mut Pass<'_>) -> Self {
        let mut section = pass.section("store");
        let cache = section.get(
            "cache_size",
            Size(4 << 20),
            "Memory for the state's page cache.",
            between(Size(1 << 20), Size(1 << 30)),
        );
        let batch = section.get(
            "batch_max_bytes",
            Size(1 << 20),
            "The most that one commit (one fsync) takes at once.",
            between(Size(128 << 10), Size(16 << 20)),
        );
        let quota = section.get(
            "disk_quota",
            Size(8 << 30),
            "Disk that the store may take. Beyond it new records are refused and counted; stored ones are never dropped.",
            between(Size(64 << 20), Size(1 << 50)),
        );
        let snapshot_every = section.optional(
            "snapshot_every",
            "\"512MiB\"",
            "Log between two snapshots; without it, a sixteenth of disk_quota.",
            between(Size(1 << 20), Size(1 << 50)),
        );
        section.later("batch_max_delay", "delayed commits");
        section.finish();
        let snapshot_every = match snapshot_every {
            Some(size) if size.0 > quota.0 / 2 => {
                pass.complain(
                    "store.snapshot_every",
                    format!(
                        "is {size}: at most half of store.disk_quota ({quota}), or the log could never be cut in time"
                    ),
                );
                size.0
            }
            Some(size) => size.0,
            None => {
                let size = Size(quota.0 / SNAPSHOTS_PER_QUOTA);
                pass.derive("store.snapshot_every", &size);
                size.0
            }
        };
        Self {
            cache_bytes: cache.0,
            batch_bytes_max: batch.0,
            snapshot_every_bytes: snapshot_every,
            disk_quota_bytes: quota.0,
        }
    }
}
