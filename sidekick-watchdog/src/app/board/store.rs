//! The store's figures, and how near the log is to its quota.

use std::collections::BTreeMap;
use std::sync::PoisonError;
use std::time::{Duration, UNIX_EPOCH};

use tracing::{info, warn};

use super::{Board, age};
use crate::api::{FoldingStatus, QuotaLevel, StoreStatus, Totals};
use crate::app::quota;
use crate::app::tell::seconds;
use crate::metrics::raise_to;
use crate::process::OpenWindows;
use crate::store::Store;

impl Board {
    pub(super) fn refresh_store(&mut self, store: &Store) {
        let stats = store.stats();
        self.status.store = StoreStatus {
            log_bytes: stats.log.log_bytes,
            disk_quota_bytes: stats.disk_quota,
            quota: self.quota(stats.log.log_bytes, stats.disk_quota),
            applied: stats.applied,
            shut_out: self.shut_out.clone(),
            last_fsync_us: Some(stats.log.last_sync_us),
            waits: self.current.as_ref().and_then(|current| {
                let waits = current.progress.waits.lock();
                waits.unwrap_or_else(PoisonError::into_inner).clone()
            }),
            rotten: store.rotten().iter().map(ToString::to_string).collect(),
            mended_bytes: stats.log.mended,
            ..StoreStatus::default()
        };
        let rotten = self.status.store.rotten.len();
        self.metrics
            .store_rotten_entries
            .set(i64::try_from(rotten).unwrap_or(i64::MAX));
        self.metrics
            .store_mended_bytes
            .set(i64::try_from(stats.log.mended).unwrap_or(i64::MAX));
        raise_to(&self.metrics.store_fsyncs, stats.log.syncs);
        self.metrics
            .store_fsync_last_seconds
            .set(stats.log.last_sync_us as f64 / 1e6);
        self.metrics
            .store_log_bytes
            .set(i64::try_from(stats.log.log_bytes).unwrap_or(i64::MAX));
        self.metrics
            .store_quota_bytes
            .set(i64::try_from(stats.disk_quota).unwrap_or(i64::MAX));
        self.metrics
            .store_quota_low
            .set((self.status.store.quota == QuotaLevel::Low).into());
        let recorded: u64 = store.totals().values().map(|source| source.committed).sum();
        // What the watchdog records itself is uploaded as well.
        let committed = recorded.saturating_add(store.derived_records());
        raise_to(&self.metrics.records_committed, committed);
        self.status.totals = Totals {
            committed,
            uploaded: BTreeMap::new(),
            gaps: self.status.totals.gaps,
        };
    }

    pub(super) fn refresh_folding(&mut self, waiting: Option<u64>, open: OpenWindows) {
        self.status.store.folding = waiting.map(|waiting| {
            let oldest = open.oldest_ns.map(Duration::from_nanos);
            let oldest = oldest.and_then(|since_1970| UNIX_EPOCH.checked_add(since_1970));
            FoldingStatus {
                waiting,
                open_windows: open.count,
                oldest_window: oldest
                    .and_then(|oldest| jiff::Timestamp::try_from(oldest).ok())
                    .map(|oldest| oldest.to_string()),
                oldest_window_age_s: oldest.map(|oldest| age(oldest).map_or(0.0, seconds)),
            }
        });
        let folding = self.status.store.folding.as_ref();
        let waiting = folding.map_or(0, |folding| folding.waiting);
        let age_s = folding.and_then(|folding| folding.oldest_window_age_s);
        self.metrics
            .folding_waiting_records
            .set(i64::try_from(waiting).unwrap_or(i64::MAX));
        self.metrics
            .folding_oldest_window_seconds
            .set(age_s.unwrap_or(0.0));
    }

    /// Tells engine, developer and operator how near the log is to its quota.
    fn quota(&self, log_bytes: u64, disk_quota: u64) -> QuotaLevel {
        let before = self.status.store.quota;
        let now = quota::level(before, log_bytes, disk_quota);
        let sentences = quota::sentences(before, now);
        for sentence in &sentences {
            match now < before {
                true => info!(log_bytes, disk_quota, "{sentence}"),
                false => warn!(log_bytes, disk_quota, "{sentence}"),
            }
        }
        if let Some(current) = &self.current {
            // A level, told each time: an engine that was adopted, or has gone on to another file, knows nothing yet.
            current.link.controls.set_disk_low(now == QuotaLevel::Low);
            for sentence in &sentences {
                // A full downlink means that the game does not look; status and log have it too.
                let _ = current.downlink.notice(sentence);
            }
        }
        now
    }
}
