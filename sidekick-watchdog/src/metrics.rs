//! What the watchdog counts, for `/metrics` (OpenMetrics text). All names start with `sidekick_` and end in their unit.

use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use prometheus_client::encoding::EncodeLabelSet;
use prometheus_client::encoding::text::encode;
use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::family::Family;
use prometheus_client::metrics::gauge::Gauge;
use prometheus_client::metrics::histogram::{Histogram, exponential_buckets};
use prometheus_client::registry::{Metric, Registry, Unit};

use crate::books::{Refused, SinkBooks};

/// The content type of [`Metrics::encode`].
pub const CONTENT_TYPE: &str = "application/openmetrics-text; version=1.0.0; charset=utf-8";

/// The shortest bucket of a gap between death and relaunch: 1 ms. Seventeen doublings reach over a minute.
const GAP_BUCKET_FIRST_S: f64 = 0.001;

/// The label of metrics that are kept per sink.
#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
pub struct SinkLabel {
    /// The sink's name: `file`, `http`.
    pub sink: String,
}

/// The labels of what became of records.
#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
pub struct OutcomeLabel {
    /// The sink's name.
    pub sink: String,
    /// `uploaded`, `note`, `lost`, `request`, `dropped`: ends, of which each number has one.
    pub outcome: &'static str,
    /// Of what was dropped, why; otherwise empty.
    pub reason: String,
}

/// The label of deaths and refusals.
#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
pub struct CauseLabel {
    /// [`crate::event::DeathCause::label`], or one of [`Refused::causes`].
    pub cause: String,
}

/// All metrics; a clone counts into the same ones. Every method may be called from any thread and never blocks long.
#[derive(Clone, Debug)]
pub struct Metrics {
    /// Records that are durable.
    pub records_committed: Counter,
    /// Records that a sink has taken.
    pub records_uploaded: Family<SinkLabel, Counter>,
    /// What became of sequence numbers, sink by sink, as its books tell. Dead letters are all there ever were.
    pub records: Family<OutcomeLabel, Counter>,
    /// Dead letters that wait for somebody.
    pub dead_letters: Family<SinkLabel, Gauge>,
    /// Dead letters there ever were.
    pub dead_letters_kept: Family<SinkLabel, Counter>,
    /// Dead letters that a replay brought to the backend.
    pub dead_letters_replayed: Family<SinkLabel, Counter>,
    /// Bytes that they take, those of all sinks.
    pub dead_letter_bytes: Gauge,
    /// Sequence numbers committed since a sink began; missing while that is not known.
    pub records_accepted: Family<SinkLabel, Counter>,
    /// Sequence numbers whose records are dead letters now.
    pub records_dead: Family<SinkLabel, Gauge>,
    /// Sequence numbers that a sink has not dealt with; missing while that is not known.
    pub records_pending: Family<SinkLabel, Gauge>,
    /// Records that the library refused (full ring and the like), as gap records tell.
    pub records_refused: Counter,
    /// What of them gap records told that are committed, by cause.
    pub records_refused_by_cause: Family<CauseLabel, Counter>,
    /// Records that are known to be missing (damage in shared memory), as hole records tell.
    pub records_missing: Counter,
    /// Records that not every sink has taken yet, whether committed or still in the ring.
    pub backlog_records: Gauge,
    /// Engine processes started.
    pub engine_starts: Counter,
    /// Engine deaths by kind.
    pub engine_deaths: Family<CauseLabel, Counter>,
    /// The running incarnation's number.
    pub engine_incarnation: Gauge,
    /// 1 while an engine runs.
    pub engine_up: Gauge,
    /// 1 while the engine dies again and again and its next try waits.
    pub engine_crash_loop: Gauge,
    /// From the proof of a death to the next start.
    pub engine_gap_seconds: Histogram,
    /// 1 while a second engine is there to take over, booting or parked.
    pub standby_up: Gauge,
    /// Whether the server is listed in a registry of game servers.
    pub registry_listed: Gauge,
    /// 1 while it is parked: it would take over at once.
    pub standby_parked: Gauge,
    /// Its resident memory; 0 without one.
    pub standby_resident_bytes: Gauge,
    /// How often a standby became the engine.
    pub standby_promotions: Counter,
    /// Records in the ring that are not yet durable.
    pub ring_records: Gauge,
    /// 1 while the store takes records.
    pub store_up: Gauge,
    /// How often it died or could not be opened.
    pub store_failures: Counter,
    /// Bytes that the log takes on disk.
    pub store_log_bytes: Gauge,
    /// Bytes that it may take.
    pub store_quota_bytes: Gauge,
    /// 1 while only streams with `keep = true` are recorded.
    pub store_quota_low: Gauge,
    /// Log entries that are damaged on the disk.
    pub store_rotten_entries: Gauge,
    /// Bytes of the log that are not what was written, where that is known.
    pub store_mended_bytes: Gauge,
    /// Committed sequence numbers that `dedupe` and `aggregate` have not looked at.
    pub folding_waiting_records: Gauge,
    /// How long ago the oldest window began that is open; 0 without one.
    pub folding_oldest_window_seconds: Gauge<f64, AtomicU64>,
    /// Fsyncs of the log.
    pub store_fsyncs: Counter,
    /// How long the last of them took.
    pub store_fsync_last_seconds: Gauge<f64, AtomicU64>,
    /// Tries of uploads after a first failed one.
    pub upload_retries: Family<SinkLabel, Counter>,
    /// Lines of the watchdog's own log that were dropped.
    pub log_lines_dropped: Counter,
    registry: Arc<Registry>,
    /// Held while the books of a sink are told and while all is read: what is read adds up.
    books: Arc<Mutex<()>>,
}

impl Default for Metrics {
    fn default() -> Self {
        Self::new()
    }
}

impl Metrics {
    /// All metrics at zero.
    pub fn new() -> Self {
        let mut registry = Registry::with_prefix("sidekick");
        let r = &mut registry;
        // In the order in which they are told. The encoder appends `_total` to counters and the full stop to each help text.
        let metrics = Self {
            records_committed: told(r, "records_committed", "Records that are durable"),
            records_uploaded: told(r, "records_uploaded", "Records that a sink has taken"),
            records: told(r, "records", "What became of sequence numbers at each sink"),
            dead_letters: told(r, "dead_letters", "Dead letters that wait for somebody"),
            dead_letters_kept: told(
                r,
                "dead_letters_kept",
                "Dead letters there ever were, those among them that are none any more",
            ),
            dead_letters_replayed: told(
                r,
                "dead_letters_replayed",
                "Dead letters that a sink has taken since",
            ),
            dead_letter_bytes: measured(
                r,
                "dead_letter",
                "Bytes that the dead letters of all sinks take",
                Unit::Bytes,
            ),
            records_accepted: told(
                r,
                "records_accepted",
                "Sequence numbers committed since a sink began",
            ),
            records_dead: told(
                r,
                "records_dead",
                "Sequence numbers whose records are dead letters now",
            ),
            records_pending: told(
                r,
                "records_pending",
                "Sequence numbers that a sink has not dealt with",
            ),
            records_refused: told(r, "records_refused", "Records that the library refused"),
            records_refused_by_cause: told(
                r,
                "records_refused_by_cause",
                "Records that the library refused, as gap records told of them",
            ),
            records_missing: told(r, "records_missing", "Records known to be missing"),
            backlog_records: told(
                r,
                "backlog_records",
                "Records that not every sink has taken yet, committed or not",
            ),
            engine_starts: told(r, "engine_starts", "Engine processes started"),
            engine_deaths: told(r, "engine_deaths", "Engine deaths by kind"),
            engine_incarnation: told(r, "engine_incarnation", "Number of the running incarnation"),
            engine_up: told(r, "engine_up", "1 while an engine runs"),
            engine_crash_loop: told(
                r,
                "engine_crash_loop",
                "1 while the engine dies again and again and the next try waits",
            ),
            engine_gap_seconds: {
                let gaps = Histogram::new(exponential_buckets(GAP_BUCKET_FIRST_S, 2.0, 17));
                let help = "From the proof of a death to the next start";
                r.register_with_unit("engine_gap", help, Unit::Seconds, gaps.clone());
                gaps
            },
            registry_listed: told(
                r,
                "registry_listed",
                "1 while the server is listed in a registry of game servers",
            ),
            standby_up: told(
                r,
                "standby_up",
                "1 while a second engine is there to take over, booting or parked",
            ),
            standby_parked: told(
                r,
                "standby_parked",
                "1 while the second engine is parked and would take over at once",
            ),
            standby_resident_bytes: measured(
                r,
                "standby_resident",
                "Resident memory of the second engine",
                Unit::Bytes,
            ),
            standby_promotions: told(
                r,
                "standby_promotions",
                "How often a standby became the engine",
            ),
            ring_records: told(
                r,
                "ring_records",
                "Records in the ring that are not yet durable",
            ),
            store_up: told(r, "store_up", "1 while the store takes records"),
            store_failures: told(
                r,
                "store_failures",
                "How often the store died or could not be opened",
            ),
            store_log_bytes: measured(
                r,
                "store_log",
                "Bytes that the log takes on disk",
                Unit::Bytes,
            ),
            store_quota_bytes: measured(
                r,
                "store_quota",
                "Bytes that the log may take on disk",
                Unit::Bytes,
            ),
            store_quota_low: told(
                r,
                "store_quota_low",
                "1 while the quota is nearly used up and only streams with keep = true are recorded",
            ),
            store_rotten_entries: told(
                r,
                "store_rotten_entries",
                "Log entries that were found damaged on the disk and are not purged yet",
            ),
            store_mended_bytes: measured(
                r,
                "store_mended",
                "Bytes of the log that were found changed on the disk and are known all the same, so that nothing is lost",
                Unit::Bytes,
            ),
            folding_waiting_records: told(
                r,
                "folding_waiting_records",
                "Committed records that dedupe and aggregate have not looked at",
            ),
            folding_oldest_window_seconds: measured(
                r,
                "folding_oldest_window",
                "Time since the oldest open window of aggregate began",
                Unit::Seconds,
            ),
            store_fsyncs: told(r, "store_fsyncs", "Fsyncs of the log"),
            store_fsync_last_seconds: measured(
                r,
                "store_fsync_last",
                "Time that the last fsync of the log took",
                Unit::Seconds,
            ),
            upload_retries: told(
                r,
                "upload_retries",
                "Tries of uploads after a first failed one",
            ),
            log_lines_dropped: told(
                r,
                "log_lines_dropped",
                "Lines of the watchdog's own log that were dropped",
            ),
            registry: Arc::new(registry),
            books: Arc::default(),
        };
        // Alerts want to see a first refusal rise from 0.
        metrics.refused(&Refused::default());
        metrics
    }

    /// Counts a death and, once it is known, the gap to the next start.
    pub fn died(&self, cause: &crate::event::DeathCause) {
        let cause = cause.label().to_owned();
        self.engine_deaths
            .get_or_create(&CauseLabel { cause })
            .inc();
        self.engine_up.set(0);
    }

    /// Counts a start.
    pub fn started(&self, incarnation: u32, gap: Option<Duration>) {
        self.engine_starts.inc();
        self.engine_incarnation.set(i64::from(incarnation));
        self.engine_up.set(1);
        if let Some(gap) = gap {
            self.engine_gap_seconds.observe(gap.as_secs_f64());
        }
    }

    /// The counter of records that this sink has taken.
    pub fn uploaded(&self, sink: &str) -> Counter {
        let sink = sink.to_owned();
        self.records_uploaded
            .get_or_create_owned(&SinkLabel { sink })
    }

    /// Tells what the books of a sink say; `committed` is what there is in all.
    pub fn tell_books(&self, sink: &str, books: &SinkBooks, committed: u64) {
        let _as_one = self.lock_books();
        let counts = &books.counts;
        let raise = |outcome, reason: &str, total| {
            let label = OutcomeLabel {
                sink: sink.to_owned(),
                outcome,
                reason: reason.to_owned(),
            };
            raise_to(&self.records.get_or_create_owned(&label), total);
        };
        raise("uploaded", "", counts.records);
        raise("note", "", counts.notes);
        raise("lost", "", counts.lost);
        raise("request", "", counts.requests);
        for (reason, count) in &counts.dropped {
            raise("dropped", reason, *count);
        }
        let label = SinkLabel {
            sink: sink.to_owned(),
        };
        let gauge = |family: &Family<SinkLabel, Gauge>, value: u64| {
            let value = i64::try_from(value).unwrap_or(i64::MAX);
            family.get_or_create_owned(&label).set(value);
        };
        self.tell_letters(sink, books.letters_now);
        gauge(&self.records_dead, books.dead);
        for (family, total) in [
            (&self.dead_letters_kept, books.letters),
            (&self.dead_letters_replayed, books.replayed),
        ] {
            raise_to(&family.get_or_create_owned(&label), total);
        }
        match (books.accepted(committed), books.pending(committed)) {
            (Some(accepted), Some(pending)) => {
                raise_to(&self.records_accepted.get_or_create_owned(&label), accepted);
                gauge(&self.records_pending, pending);
            }
            // What was true of them is not any more.
            _ => {
                self.records_accepted.remove(&label);
                self.records_pending.remove(&label);
            }
        }
    }

    /// Tells how many dead letters of a sink there are, whether it is configured or not.
    pub fn tell_letters(&self, sink: &str, count: u64) {
        let label = SinkLabel {
            sink: sink.to_owned(),
        };
        let count = i64::try_from(count).unwrap_or(i64::MAX);
        self.dead_letters.get_or_create_owned(&label).set(count);
    }

    /// Tells how many bytes the dead letters of all sinks take.
    pub fn tell_letter_bytes(&self, bytes: u64) {
        let bytes = i64::try_from(bytes).unwrap_or(i64::MAX);
        self.dead_letter_bytes.set(bytes);
    }

    /// Counts records that the library refused. Their numbers are another process's word: a counter stops at its end.
    pub fn refused(&self, refused: &Refused) {
        for (cause, count) in refused.causes() {
            let cause = cause.to_owned();
            let counter = self
                .records_refused_by_cause
                .get_or_create_owned(&CauseLabel { cause });
            let more = |total: u64| Some(total.saturating_add(count));
            let _ = counter
                .inner()
                .fetch_update(Ordering::Relaxed, Ordering::Relaxed, more);
        }
    }

    fn lock_books(&self) -> MutexGuard<'_, ()> {
        // It guards nothing that a panic could leave half changed.
        self.books.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The counter of this sink's retries.
    pub fn retries(&self, sink: &str) -> Counter {
        let sink = sink.to_owned();
        self.upload_retries.get_or_create_owned(&SinkLabel { sink })
    }

    /// Everything as OpenMetrics text.
    pub fn encode(&self) -> String {
        let _as_one = self.lock_books();
        let mut text = String::new();
        // Writing to a string cannot fail; half a text would be seen by its missing `# EOF`.
        let _ = encode(&mut text, &self.registry);
        text
    }
}

/// A metric at zero that is told as `sidekick_<name>`.
fn told<M: Metric + Clone + Default>(registry: &mut Registry, name: &str, help: &str) -> M {
    let metric = M::default();
    registry.register(name, help, metric.clone());
    metric
}

/// The same of one whose name ends in its unit.
fn measured<M: Metric + Clone + Default>(
    registry: &mut Registry,
    name: &str,
    help: &str,
    unit: Unit,
) -> M {
    let metric = M::default();
    registry.register_with_unit(name, help, unit, metric.clone());
    metric
}

/// Raises a counter to a total that is kept elsewhere (the store's state); never lowers it.
pub fn raise_to(counter: &Counter, total: u64) {
    counter.inner().fetch_max(total, Ordering::Relaxed);
}

#[cfg(test)]
mod tests;
