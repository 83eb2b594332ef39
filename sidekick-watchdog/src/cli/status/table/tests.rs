//! What people are told of a watchdog, in words.

use super::*;
use crate::api::BooksStatus;
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
        books: BooksStatus {
            pending: Some(61),
            ..BooksStatus::default()
        },
        ..SinkStatus::default()
    });
    status.upload.sinks.push(SinkStatus {
        name: "postgres".into(),
        state: "ok".into(),
        records: 1,
        entries_behind: Some(40),
        books: BooksStatus {
            replayed: 3,
            ..BooksStatus::default()
        },
        ..SinkStatus::default()
    });
    let table = table(&status);
    for part in [
        "lobby-1, version",
        "postgres: ok, 1 record, catching up (40 entries of the log to go; how many records these are is told then), 3 replayed",
        "up 1h 2m 3s",
        "running, incarnation 2, game 1.2, not marked ready",
        "incarnation 1: segmentation fault (SIGSEGV), lived 12.0 s, relaunched after 3.1 ms",
        "log 3.0 MiB of 4.0 GiB",
        "only streams with keep = true are recorded",
        "http: retrying, 0 records, 61 pending (503 busy)",
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

/// A sink that was taken out is in no line of its own, and what is left of it uses up what all sinks share.
#[test]
fn letters_are_told_against_their_bound_with_those_of_sinks_that_are_gone() {
    let mut status = Status::default();
    assert!(!table(&status).contains("letters"));
    status.upload.dead_letters = LettersStatus {
        count: 13,
        count_max: 10_000,
        bytes: 3 << 20,
        bytes_max: 64 << 20,
    };
    status.upload.removed.push(RemovedSink {
        name: "http".into(),
        dead_letters: 2,
        has_records: true,
        records: Some(61),
    });
    let table = table(&status);
    for part in [
        "13 of at most 10000, 3.0 MiB of 64.0 MiB",
        "http: not configured; 61 records left behind, put it back",
        "; 2 dead letters, to be dropped",
    ] {
        assert!(table.contains(part), "{part}\n{table}");
    }
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
