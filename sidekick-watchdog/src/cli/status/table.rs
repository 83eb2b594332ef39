//! The table of `status`, for people.

use std::fmt::{Display, Write};

use crate::api::{
    Death, EngineState, FoldingStatus, LettersStatus, QuotaLevel, RegistryStatus, RemovedSink,
    SessionStatus, SinkStatus, Status, StoreState, StoreStatus,
};
use crate::cli::words::{count, plain, size, span};

/// Deaths that the table shows; the JSON has all that the watchdog keeps.
const DEATHS_SHOWN: usize = 5;

/// Lines with a name and words. Control characters are taken out, since some words come from elsewhere (a backend's reasons).
#[derive(Debug, Default)]
struct Table(String);

impl Table {
    fn line(&mut self, name: &str, words: impl Display) {
        let _ = writeln!(self.0, "{name:<9} {}", plain(&words.to_string()));
    }
}

pub(super) fn table(status: &Status) -> String {
    let mut table = Table::default();
    let Status {
        name, version, pid, ..
    } = status;
    let (up, api) = (span(status.uptime_s), &status.api);
    table.line(
        "watchdog",
        format_args!("{name}, version {version}, pid {pid}, up {up}, http://{api}"),
    );
    table.line("data", status.data_dir.display());
    table.line("engine", engine_words(status));
    if let Some(words) = standby_words(status) {
        table.line("standby", words);
    }
    if let Some(registry) = &status.registry {
        table.line("registry", registry_words(registry));
    }
    let deaths = &status.engine.last_deaths;
    for death in deaths.iter().rev().take(DEATHS_SHOWN) {
        table.line("death", death_words(death, status));
    }
    if let Some(session) = &status.session {
        table.line("session", session_words(session));
    }
    table.line(
        "totals",
        format_args!(
            "committed {}, missing since this watchdog began {}",
            status.totals.committed, status.totals.gaps
        ),
    );
    tell_store(&mut table, &status.store);
    for sink in &status.upload.sinks {
        table.line("upload", sink_words(sink));
    }
    for removed in &status.upload.removed {
        table.line("upload", removed_words(removed));
    }
    if status.upload.dead_letters.count > 0 {
        table.line("letters", letters_words(&status.upload.dead_letters));
    }
    let mut text = table.0;
    text.truncate(text.trim_end().len());
    text
}

fn tell_store(table: &mut Table, store: &StoreStatus) {
    let fsync = store
        .last_fsync_us
        .map_or_else(String::new, |us| format!(", last fsync {us} µs"));
    table.line(
        "store",
        format!(
            "log {} of {}, applied index {}{fsync}",
            size(store.log_bytes),
            size(store.disk_quota_bytes),
            store.applied
        ),
    );
    match store.quota {
        QuotaLevel::Fine => {}
        QuotaLevel::High => table.line(
            "",
            "nears its disk_quota: bring the backend back, or raise it",
        ),
        QuotaLevel::Low => table.line(
            "",
            "disk_quota nearly used up: only streams with keep = true are recorded",
        ),
    }
    if store.state != StoreState::Open {
        let mut words = store.state.word().to_owned();
        if let Some(left) = store.next_try_s {
            let _ = write!(words, ", next try in {left:.0} s");
        }
        words.push_str("; records wait in the ring, the engine is supervised all the same");
        table.line("", words);
    }
    if let Some(reason) = &store.failed {
        table.line("", format!("why: {reason}"));
    }
    for words in &store.rotten {
        table.line("", words);
    }
    if store.mended_bytes > 0 {
        table.line("", mended_words(store.mended_bytes));
    }
    for reason in &store.shut_out {
        table.line(
            "",
            format!("does not take a session's records, they stay in its ring: {reason}"),
        );
    }
    if let Some(reason) = &store.waits {
        table.line(
            "",
            format!("takes no records, they wait in the ring: {reason}"),
        );
    }
    if let Some(folding) = &store.folding {
        table.line("folding", folding_words(folding));
    }
}

fn death_words(death: &Death, status: &Status) -> String {
    let mut words = format!("incarnation {}: {}", death.incarnation, death.cause);
    if death.as_asked {
        words.push_str(", as asked");
    }
    if let Some(uptime_s) = death.uptime_s {
        let _ = write!(words, ", lived {}", span(uptime_s));
    }
    match death.gap_ms {
        Some(gap_ms) => {
            let _ = write!(words, ", relaunched after {gap_ms:.1} ms");
        }
        // One of a later number has been started since; how long after is not known.
        None if death.incarnation < status.engine.incarnation => {}
        None if matches!(
            status.engine.state,
            EngineState::Backoff | EngineState::CrashLoop | EngineState::Starting
        ) =>
        {
            words.push_str(", waits to be relaunched");
        }
        None => words.push_str(", not relaunched"),
    }
    let _ = write!(words, ", {}", death.time);
    words
}

fn session_words(session: &SessionStatus) -> String {
    let recorded = session
        .recorded
        .map_or_else(String::new, |recorded| format!("recorded {recorded}, "));
    format!(
        "{recorded}committed {}, uploaded {}, backlog {}, refused {}{}, missing {}{} ({})",
        session.committed,
        session.uploaded,
        session.backlog,
        session.refused,
        refused_words(session),
        session.holes,
        request_words(session),
        session.epoch
    )
}

fn sink_words(sink: &SinkStatus) -> String {
    let records = count(sink.records, "record", "records");
    let mut words = format!("{}: {}, {records}", sink.name, sink.state);
    // While it catches up this is not known; that is told below.
    if let Some(pending) = sink.books.pending {
        let _ = write!(words, ", {pending} pending");
    }
    if let Some(age_s) = sink.last_success_age_s {
        let _ = write!(words, ", last success {} ago", span(age_s));
    }
    if let Some(entries) = sink.entries_behind {
        let _ = write!(
            words,
            ", catching up ({entries} entries of the log to go; how many records these are is told then)"
        );
    }
    if sink.books.dead_letters > 0 {
        let letters = sink.books.dead_letters;
        let _ = write!(words, ", {letters} dead");
    }
    if sink.books.replayed > 0 {
        let _ = write!(words, ", {} replayed", sink.books.replayed);
    }
    let dropped: u64 = sink.books.dropped.values().sum();
    if dropped > 0 {
        let _ = write!(words, ", {dropped} dropped");
    }
    if let Some(reason) = &sink.reason {
        let _ = write!(words, " ({reason})");
    }
    words
}

/// What is left of a sink that was taken out of the configuration.
fn removed_words(removed: &RemovedSink) -> String {
    let mut words = format!("{}: not configured", removed.name);
    match (removed.has_records, removed.records) {
        (false, _) => {}
        (true, Some(records)) => {
            let _ = write!(
                words,
                "; {} left behind, put it back to send what the log still holds",
                count(records, "record", "records")
            );
        }
        (true, None) => {
            words.push_str("; put it back to send what it had not taken and the log still holds");
        }
    }
    if removed.dead_letters > 0 {
        let letters = count(removed.dead_letters, "dead letter", "dead letters");
        let _ = write!(
            words,
            "; {letters}, to be dropped, or replayed once it is put back"
        );
    }
    words
}

fn letters_words(letters: &LettersStatus) -> String {
    format!(
        "{} of at most {}, {} of {}, of all sinks together (`sidekick-watchdog dead-letters list`)",
        letters.count,
        letters.count_max,
        size(letters.bytes),
        size(letters.bytes_max)
    )
}

fn engine_words(status: &Status) -> String {
    let engine = &status.engine;
    let mut words = engine.state.words().to_owned();
    if engine.incarnation > 0 {
        let _ = write!(words, ", incarnation {}", engine.incarnation);
    }
    if !engine.game_version.is_empty() {
        let _ = write!(words, ", game {}", engine.game_version);
    }
    if let Some(pid) = engine.pid {
        let _ = write!(words, ", pid {pid}");
    }
    if let Some(uptime_s) = engine.uptime_s {
        let _ = write!(words, ", up {}", span(uptime_s));
    }
    if let Some(frame) = engine.frame {
        let _ = write!(words, ", frame {frame}");
    }
    if let (EngineState::Stopping, Some(left)) = (engine.state, engine.grace_left_s) {
        let _ = write!(words, ", killed in {left:.0} s if it does not quit");
    }
    if let Some(left) = engine.next_try_s {
        let _ = write!(words, ", next try in {left:.0} s");
    }
    if engine.state == EngineState::Stopped {
        words.push_str(", by an operator; `sidekick-watchdog start` starts it");
    }
    if let Some(error) = &engine.start_error {
        let _ = write!(words, ", the last start failed: {error}");
    }
    if engine.state == EngineState::Starting && engine.connected {
        words.push_str(", its extension is loaded, no frame yet");
    }
    if engine.state == EngineState::Running {
        words.push_str(match (engine.connected, engine.ready) {
            (false, _) if engine.ring_lost => {
                ", its ring was cleaned up with the runtime directory: what it records is lost; \
                 `sidekick-watchdog restart` ends that"
            }
            (false, _) if engine.heartbeat_required => ", not connected yet",
            (false, _) => ", without the extension",
            (true, true) => ", ready",
            (true, false) => ", not marked ready",
        });
    }
    match engine.starts {
        // Only an adopted one, so far.
        0 => {}
        1 => words.push_str(", 1 start"),
        starts => {
            let _ = write!(words, ", {starts} starts");
        }
    }
    words
}

/// `None` where there is none and never was.
fn standby_words(status: &Status) -> Option<String> {
    let mut words = match &status.standby {
        Some(standby) => format!(
            "{} for {}, incarnation {}, pid {}",
            standby.state.word(),
            span(standby.since_s),
            standby.incarnation,
            standby.pid
        ),
        None if status.promotions > 0 => "none".to_owned(),
        None => return None,
    };
    let standby = status.standby.as_ref();
    if let Some(bytes) = standby.and_then(|standby| standby.resident_bytes) {
        let _ = write!(words, ", {} of memory", size(bytes));
    }
    match status.promotions {
        0 => {}
        1 => words.push_str("; 1 standby took over"),
        number => {
            let _ = write!(words, "; {number} standbys took over");
        }
    }
    Some(words)
}

/// Where rules that look at more than one record stand.
fn folding_words(folding: &FoldingStatus) -> String {
    let mut words = match folding.waiting {
        0 => "nothing waits for dedupe and aggregate".to_owned(),
        1 => "1 record waits for dedupe and aggregate".to_owned(),
        waiting => format!("{waiting} records wait for dedupe and aggregate"),
    };
    match folding.open_windows {
        0 => {}
        1 => words.push_str(", 1 open window"),
        count => {
            let _ = write!(words, ", {count} open windows");
        }
    }
    if let (Some(oldest), Some(age_s)) = (&folding.oldest_window, folding.oldest_window_age_s) {
        let _ = write!(words, ", the oldest since {oldest} ({})", span(age_s));
    }
    words
}

/// What the disk gave back otherwise than it was written, and is known all the same.
fn mended_words(bytes: u64) -> String {
    let (are, were) = match bytes {
        1 => ("is", "was"),
        _ => ("are", "were"),
    };
    let bytes = count(bytes, "byte", "bytes");
    format!(
        "{bytes} of the log {are} not what {were} written; nothing is lost, but the disk wants a look"
    )
}

/// Why records were refused, as far as that is told.
fn refused_words(session: &SessionStatus) -> String {
    let causes = session.refused_by.causes().into_iter();
    let words: Vec<String> = causes
        .filter(|(_, count)| *count > 0)
        .map(|(cause, count)| format!("{cause} {count}"))
        .collect();
    match words.is_empty() {
        true => String::new(),
        false => format!(" ({})", words.join(", ")),
    }
}

/// What is counted as recorded, committed and uploaded without being a record.
fn request_words(session: &SessionStatus) -> String {
    match session.requests {
        Some(0) => String::new(),
        Some(1) => "; 1 of the recorded is a store request, which no backend gets".to_owned(),
        Some(count) => {
            format!("; {count} of the recorded are store requests, which no backend gets")
        }
        None => "; store requests count as recorded, too".to_owned(),
    }
}

fn registry_words(registry: &RegistryStatus) -> String {
    let mut words = match (&registry.id, registry.draining) {
        (Some(id), false) => format!("listed as {id}"),
        (Some(id), true) => format!("listed as {id}, draining"),
        (None, _) => "not listed".to_owned(),
    };
    if let Some(error) = &registry.error {
        let _ = write!(words, "; {error}");
    }
    words
}

#[cfg(test)]
mod tests;
