//! `status`: asks the running watchdog, as a table for people or JSON for programs.

use std::fmt::Write;

use clap::Args;

use super::LocationArgs;
use super::client::Client;
use super::words::{plain, size, span};
use crate::api::{
    EngineState, FoldingStatus, QuotaLevel, RegistryStatus, SessionStatus, Status, StoreState,
};
use crate::exit::ExitCode;

/// Deaths that the table shows; the JSON has all that the watchdog keeps.
const DEATHS_SHOWN: usize = 5;

#[derive(Args, Debug)]
pub(super) struct StatusArgs {
    #[command(flatten)]
    location: LocationArgs,
    /// Print the whole status as JSON
    #[arg(long)]
    json: bool,
}

pub(super) fn run(args: &StatusArgs) -> ExitCode {
    let config = match args.location.load(Vec::new()) {
        Ok(config) => config,
        Err(errors) => return super::complain_of_config(&errors),
    };
    match Client::connect(&config).and_then(|mut client| client.status()) {
        Ok((status, json)) => {
            super::say(match args.json {
                true => json,
                false => table(&status),
            });
            ExitCode::Ok
        }
        Err(error) => {
            super::complain(&error);
            error.exit_code()
        }
    }
}

/// The table. Control characters are taken out, since some words come from elsewhere (a backend's reasons).
fn table(status: &Status) -> String {
    let mut text = String::new();
    let mut line = |name: &str, words: String| {
        let _ = writeln!(text, "{name:<9} {}", plain(&words));
    };
    line(
        "watchdog",
        format!(
            "{}, version {}, pid {}, up {}, http://{}",
            status.name,
            status.version,
            status.pid,
            span(status.uptime_s),
            status.api
        ),
    );
    line("data", status.data_dir.display().to_string());
    line("engine", engine_words(status));
    if let Some(words) = standby_words(status) {
        line("standby", words);
    }
    if let Some(registry) = &status.registry {
        line("registry", registry_words(registry));
    }
    let deaths = &status.engine.last_deaths;
    for death in deaths.iter().rev().take(DEATHS_SHOWN) {
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
        line("death", format!("{words}, {}", death.time));
    }
    if let Some(session) = &status.session {
        let recorded = session
            .recorded
            .map_or_else(String::new, |recorded| format!("recorded {recorded}, "));
        line(
            "session",
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
            ),
        );
    }
    line(
        "totals",
        format!(
            "committed {}, missing since this watchdog began {}",
            status.totals.committed, status.totals.gaps
        ),
    );
    let fsync = status
        .store
        .last_fsync_us
        .map_or_else(String::new, |us| format!(", last fsync {us} µs"));
    line(
        "store",
        format!(
            "log {} of {}, applied index {}{fsync}",
            size(status.store.log_bytes),
            size(status.store.disk_quota_bytes),
            status.store.applied
        ),
    );
    match status.store.quota {
        QuotaLevel::Fine => {}
        QuotaLevel::High => line(
            "",
            "nears its disk_quota: bring the backend back, or raise it".to_owned(),
        ),
        QuotaLevel::Low => line(
            "",
            "disk_quota nearly used up: only streams with keep = true are recorded".to_owned(),
        ),
    }
    if status.store.state != StoreState::Open {
        let mut words = status.store.state.word().to_owned();
        if let Some(left) = status.store.next_try_s {
            let _ = write!(words, ", next try in {left:.0} s");
        }
        words.push_str("; records wait in the ring, the engine is supervised all the same");
        line("", words);
    }
    if let Some(reason) = &status.store.failed {
        line("", format!("why: {reason}"));
    }
    for words in &status.store.rotten {
        line("", words.clone());
    }
    for reason in &status.store.shut_out {
        line(
            "",
            format!("does not take a session's records, they stay in its ring: {reason}"),
        );
    }
    if let Some(reason) = &status.store.waits {
        line(
            "",
            format!("takes no records, they wait in the ring: {reason}"),
        );
    }
    if let Some(folding) = &status.store.folding {
        line("folding", folding_words(folding));
    }
    for sink in &status.upload.sinks {
        let records = match sink.records {
            1 => "1 record".to_owned(),
            records => format!("{records} records"),
        };
        let mut words = format!("{}: {}, {records}", sink.name, sink.state);
        if let Some(age_s) = sink.last_success_age_s {
            let _ = write!(words, ", last success {} ago", span(age_s));
        }
        if sink.books.dead_letters > 0 {
            let letters = sink.books.dead_letters;
            let _ = write!(
                words,
                ", {letters} dead (`sidekick-watchdog dead-letters list`)"
            );
        }
        let dropped: u64 = sink.books.dropped.values().sum();
        if dropped > 0 {
            let _ = write!(words, ", {dropped} dropped");
        }
        if let Some(reason) = &sink.reason {
            let _ = write!(words, " ({reason})");
        }
        line("upload", words);
    }
    text.truncate(text.trim_end().len());
    text
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
mod tests {
    use super::*;
    use crate::api::{Death, SinkStatus};
    use crate::books::Refused;

    #[test]
    fn the_table_tells_what_matters_and_lets_no_control_characters_through() {
        let mut status = Status {
            name: "lobby-1".into(),
            uptime_s: 3723.4,
            ..Status::default()
        };
        status.engine.state = EngineState::Running;
        status.engine.incarnation = 2;
        status.engine.connected = true;
        status.engine.game_version = "1.2\x1b".into();
        status.engine.last_deaths.push(Death {
            incarnation: 1,
            cause: "segmentation fault (SIGSEGV)".into(),
            gap_ms: Some(3.12),
            uptime_s: Some(12.0),
            frame: Some(700),
            time: "2026-11-22T12:00:00Z".into(),
            ..Default::default()
        });
        status.store.log_bytes = 3 << 20;
        status.store.disk_quota_bytes = 4 << 30;
        status.store.quota = QuotaLevel::Low;
        status.upload.sinks.push(SinkStatus {
            name: "http".into(),
            state: "retrying".into(),
            reason: Some("503 \x1b[31mbusy".into()),
            ..SinkStatus::default()
        });
        let table = table(&status);
        for part in [
            "lobby-1, version",
            "up 1h 2m 3s",
            "running, incarnation 2, game 1.2, not marked ready",
            "incarnation 1: segmentation fault (SIGSEGV), lived 12.0 s, relaunched after 3.1 ms",
            "log 3.0 MiB of 4.0 GiB",
            "only streams with keep = true are recorded",
            "http: retrying, 0 records (503 busy)",
        ] {
            assert!(table.contains(part), "{part}\n{table}");
        }
        assert!(!table.contains('\x1b'));
    }

    /// What goes to no backend counts as uploaded, too, since it has numbers: it is named.
    #[test]
    fn store_requests_are_told_apart_from_records() {
        let table_of = |requests| {
            table(&Status {
                session: Some(SessionStatus {
                    recorded: Some(12),
                    committed: 12,
                    uploaded: 12,
                    requests,
                    ..SessionStatus::default()
                }),
                ..Status::default()
            })
        };
        let none = "recorded 12, committed 12, uploaded 12, backlog 0, refused 0, missing 0 ()";
        assert!(table_of(Some(0)).contains(none), "{}", table_of(Some(0)));
        for (requests, words) in [
            (Some(1), "missing 0; 1 of the recorded is a store request,"),
            (Some(5), "missing 0; 5 of the recorded are store requests,"),
            (None, "missing 0; store requests count as recorded, too ("),
        ] {
            let table = table_of(requests);
            assert!(table.contains(words), "{table}");
        }
    }

    #[test]
    fn causes_of_refusals_are_named() {
        let table = table(&Status {
            session: Some(SessionStatus {
                refused: 15,
                refused_by: Refused {
                    full: 10,
                    quota: 2,
                    ..Refused::default()
                },
                ..SessionStatus::default()
            }),
            ..Status::default()
        });
        assert!(
            table.contains("refused 15 (full 10, quota 2), missing"),
            "{table}"
        );
    }

    #[test]
    fn folding_is_told_of_where_there_is_any() {
        let mut status = Status::default();
        assert!(!table(&status).contains("folding"));
        status.store.folding = Some(FoldingStatus::default());
        let idle = "folding   nothing waits for dedupe and aggregate\n";
        assert!(table(&status).contains(idle.trim_end()));
        status.store.folding = Some(FoldingStatus {
            waiting: 1200,
            open_windows: 3,
            oldest_window: Some("2026-11-29T12:00:00Z".into()),
            oldest_window_age_s: Some(62.0),
        });
        let busy = "folding   1200 records wait for dedupe and aggregate, 3 open windows, \
                    the oldest since 2026-11-29T12:00:00Z (1m 2s)";
        let table = table(&status);
        assert!(table.contains(busy), "{table}");
    }

    #[test]
    fn a_standby_is_told_of_with_those_before_it() {
        let mut status = Status::default();
        assert_eq!(standby_words(&status), None);
        status.standby = Some(crate::api::StandbyStatus {
            incarnation: 3,
            pid: 7,
            resident_bytes: Some(3 << 20),
            ..Default::default()
        });
        let words = standby_words(&status).expect("there is one");
        assert!(words.starts_with("booting for "), "{words}");
        assert!(words.ends_with(", incarnation 3, pid 7, 3.0 MiB of memory"));
        status.promotions = 1;
        let words = standby_words(&status).expect("there is one");
        assert!(words.ends_with("memory; 1 standby took over"), "{words}");
        status.standby = None;
        status.promotions = 2;
        let words = standby_words(&status);
        assert_eq!(words.as_deref(), Some("none; 2 standbys took over"));
    }

    #[test]
    fn an_engine_whose_ring_is_lost_is_told_of_with_the_remedy() {
        let mut status = Status::default();
        status.engine.state = EngineState::Running;
        status.engine.ring_lost = true;
        let table = table(&status);
        assert!(
            table.contains("`sidekick-watchdog restart` ends that"),
            "{table}"
        );
        let reason = status.unready_reason().expect("it is not ready");
        assert!(reason.contains("restart it"), "{reason}");
    }

    /// Only a death that no start follows is one without a relaunch.
    #[test]
    fn a_relaunch_that_waits_is_said() {
        let mut status = Status::default();
        status.engine.incarnation = 7;
        status.engine.last_deaths.push(Death {
            incarnation: 7,
            cause: "killed".into(),
            ..Default::default()
        });
        status.engine.state = EngineState::CrashLoop;
        status.engine.next_try_s = Some(41.7);
        let waits = table(&status);
        assert!(waits.contains("in a crash loop, incarnation 7, next try in 42 s"));
        assert!(waits.contains("7: killed, waits to be relaunched"));
        let reason = status.unready_reason();
        let words = "the engine is in a crash loop, next try in 42 s";
        assert_eq!(reason.as_deref(), Some(words));

        status.engine.state = EngineState::Stopped;
        assert!(table(&status).contains("7: killed, not relaunched"));
        status.engine.last_deaths[0].as_asked = true;
        let asked = table(&status);
        assert!(
            asked.contains("7: killed, as asked, not relaunched"),
            "{asked}"
        );
        status.engine.state = EngineState::Running;
        status.engine.incarnation = 8;
        let runs = table(&status);
        assert!(!runs.contains("relaunched"), "{runs}");
    }
}
