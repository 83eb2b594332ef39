//! Crash reports on their way into the store, as records of stream `sidekick.crash`.
//!
//! A report is in a file before it comes here; the mark beside it goes when its record is durable. So what the store
//! did not take (its disk is full, we are killed) is taken later, by this watchdog or the next, and the store knows a
//! repetition.

use std::path::PathBuf;
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use sidekick_ipc::frame::RECORD_BYTES_MAX;
use sidekick_ipc::value::{Value, encode};
use tokio::sync::mpsc;
use tracing::{debug, warn};

use crate::crash::build::for_record;
use crate::crash::keep::CrashFolder;
use crate::crash::{CrashReport, STREAM};
use crate::store::{Derived, DerivedError, Store};

/// Reports that wait for the store; beyond it they are taken from their files later.
pub(super) const REPORTS_MAX: usize = 64;
/// How often reports that were not taken are tried again.
const RETRY: Duration = Duration::from_secs(30);
/// JSON is shorter than a Variant: so much of it is tried first.
const JSON_BYTES_FIRST: usize = 48 << 10;
const JSON_BYTES_LAST: usize = 1 << 10;
/// Room for the stream's name and the frame's head.
const HEAD_BYTES: usize = 512;

/// Says now and then that reports which were not taken are to be tried again, for as long as somebody listens.
pub(super) async fn remind(again: mpsc::Sender<()>) {
    loop {
        tokio::select! {
            () = tokio::time::sleep(RETRY) => {
                // One that was not heard yet is enough.
                let _ = again.try_send(());
            }
            () = again.closed() => return,
        }
    }
}

/// Stores reports: those that `reports` brings, and those of earlier runs, again whenever `again` says so. Ends with the
/// channel of reports, after a last look. Polls no timer: a thread that outlives its runtime must not.
pub(super) async fn store_reports(
    store: Arc<Store>,
    folder: CrashFolder,
    mut reports: mpsc::Receiver<CrashReport>,
    mut again: mpsc::Receiver<()>,
) {
    store_pending(&store, &folder).await;
    loop {
        tokio::select! {
            report = reports.recv() => match report {
                Some(report) => store_one(&store, &folder, report).await,
                None => break,
            },
            Some(()) = again.recv() => store_pending(&store, &folder).await,
        }
    }
}

/// Stores the reports whose files are marked.
async fn store_pending(store: &Store, folder: &CrashFolder) {
    let pending = match folder.pending() {
        Ok(pending) => pending,
        Err(error) => {
            warn!(%error, "crash reports cannot be looked for");
            return;
        }
    };
    for report_id in pending {
        match folder.read(report_id) {
            Ok(report) => store_one(store, folder, report).await,
            // Being written just now, or killed before it was: without a report the mark means nothing.
            Err(error) => debug!(%report_id, %error, "a crash report cannot be read"),
        }
    }
}

async fn store_one(store: &Store, folder: &CrashFolder, report: CrashReport) {
    let report_id = report.report_id;
    let (source, incarnation) = (report.source.clone(), report.incarnation);
    let time: Option<SystemTime> = report
        .ended
        .parse::<jiff::Timestamp>()
        .ok()
        .map(SystemTime::from);
    let variant = to_variant(report);
    let record = Derived {
        source: &source,
        id: report_id,
        incarnation,
        time: time.unwrap_or_else(SystemTime::now),
        stream: STREAM,
        variant: &variant,
    };
    match store.derived(&record).await {
        Ok(()) => folder.stored(report_id),
        Err(DerivedError::Append(error)) => {
            debug!(%report_id, %error, "the store does not take a crash report yet");
        }
        Err(error) => {
            warn!(%report_id, %error, "crash report is not uploaded; its file stays");
            folder.stored(report_id);
        }
    }
}

/// The report as a Variant that fits into a record.
fn to_variant(report: CrashReport) -> Vec<u8> {
    let mut json_bytes = JSON_BYTES_FIRST;
    loop {
        let small = for_record(report.clone(), json_bytes);
        let json = serde_json::to_value(&small).unwrap_or_default();
        let variant = encode(&to_value(json));
        if variant.len() + HEAD_BYTES <= RECORD_BYTES_MAX || json_bytes <= JSON_BYTES_LAST {
            return variant;
        }
        json_bytes /= 2;
    }
}

fn to_value(json: serde_json::Value) -> Value {
    use serde_json::Value as Json;
    match json {
        Json::Null => Value::Nil,
        Json::Bool(value) => Value::Bool(value),
        Json::Number(number) => match number.as_i64() {
            Some(number) => Value::Int(number),
            None => Value::Float(number.as_f64().unwrap_or(f64::NAN)),
        },
        Json::String(text) => Value::String(text),
        Json::Array(items) => Value::Array(items.into_iter().map(to_value).collect()),
        Json::Object(fields) => Value::Dictionary(
            fields
                .into_iter()
                .map(|(name, value)| (Value::String(name), to_value(value)))
                .collect(),
        ),
    }
}

/// The closure that the reports' thread calls; it never blocks.
pub(super) fn sender() -> (
    crate::crash::OnReport,
    mpsc::Receiver<(CrashReport, PathBuf)>,
) {
    let (sender, receiver) = mpsc::channel(REPORTS_MAX);
    let on_report = Box::new(move |report, path| {
        if sender.try_send((report, path)).is_err() {
            // Its file is there and marked.
            debug!("a crash report is not told");
        }
    });
    (on_report, receiver)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::crash::{MemorySample, ScriptError};
    use crate::log_line::LogLine;
    use crate::store::StoreConfig;
    use uuid::Uuid;

    fn report() -> CrashReport {
        CrashReport {
            report_id: Uuid::new_v4(),
            source: "test".to_owned(),
            incarnation: 7,
            cause: "segmentation fault (SIGSEGV)".to_owned(),
            ended: "2026-11-22T12:00:00Z".to_owned(),
            ..CrashReport::default()
        }
    }

    #[test]
    fn the_largest_report_fits_into_a_record() {
        let mut report = report();
        report.memory = vec![MemorySample::default(); 100_000];
        report.log_lines = vec![LogLine::default(); 10_000];
        report.script_errors = vec![ScriptError::default(); 1000];
        report.backtrace = vec![String::new(); 50_000];
        let variant = to_variant(report);
        assert!(variant.len() <= RECORD_BYTES_MAX - HEAD_BYTES);
        assert!(sidekick_ipc::value::check(&variant).is_ok());
        let mut json = Vec::new();
        sidekick_ipc::value::write_json(&variant, &mut json).expect("a value");
        let read: CrashReport = serde_json::from_slice(&json).expect("a report");
        assert_eq!(read.incarnation, 7);
    }

    /// A report is kept, then the watchdog dies before its record is stored: the next one stores it, once.
    #[tokio::test]
    async fn a_report_that_was_not_stored_is_stored_by_the_next_start() {
        let dir = tempfile::tempdir().expect("temporary folder");
        let folder = CrashFolder::new(dir.path());
        let kept = report();
        folder.keep(&kept).expect("kept");
        // The mark of a report that never came to be does no harm.
        std::fs::write(
            dir.path()
                .join(format!("crashes/{}.pending", Uuid::new_v4())),
            "",
        )
        .expect("written");
        let store = Arc::new(
            Store::open(StoreConfig::new(dir.path()))
                .await
                .expect("open"),
        );
        let (sender, receiver) = mpsc::channel(1);
        // Told, too, as by a thread that goes on where it left off.
        sender.send(kept.clone()).await.expect("room");
        drop(sender);
        let (_again, reminders) = mpsc::channel(1);
        store_reports(Arc::clone(&store), folder.clone(), receiver, reminders).await;
        assert!(
            !folder
                .pending()
                .expect("readable")
                .contains(&kept.report_id)
        );
        let entries = store.read_slabs(0, usize::MAX).await.expect("read");
        let slabs: Vec<_> = entries.into_iter().flat_map(|entry| entry.slabs).collect();
        assert_eq!(slabs.len(), 1, "once");
        assert_eq!(slabs[0].1.head.incarnation, 7);
        store.shutdown().await;
    }
}
