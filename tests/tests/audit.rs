//! `audit` and `buffer` over the files of a real watchdog: the books balance, and what is taken away or doubled is named.

use std::fs;
use std::path::PathBuf;
use std::process::ExitCode;

use serde_json::Value;
use sidekick_tests::engine::Game;
use sidekick_tests::ledger::Ledger;
use sidekick_tests::verdicts::{self, PATIENCE, journals, stop_cleanly, trial};
use sidekick_tests::wait;
use sidekick_tests::watchdog::{Setup, Watchdog};

/// The engine records so many.
const RECORDS: u64 = 300;

fn main() -> ExitCode {
    verdicts::main(vec![
        trial(
            "an_audit_finds_what_is_wrong_with_the_files",
            an_audit_finds_what_is_wrong_with_the_files,
        ),
        trial(
            "an_audit_counts_what_rules_leave_out",
            an_audit_counts_what_rules_leave_out,
        ),
        trial(
            "complete_files_are_compressed_over_kills",
            complete_files_are_compressed_over_kills,
        ),
        trial(
            "an_export_has_what_the_files_have",
            an_export_has_what_the_files_have,
        ),
    ])
}

fn setup(config: &str) -> Setup {
    let mut setup = Setup::new();
    setup.set_config(&format!("[upload]\nbatch_max_age = \"20ms\"\n{config}"));
    let game = Game {
        records_max: RECORDS,
        ..Game::new(journals(&setup))
    };
    setup.set_engine(game.command_line());
    setup
}

fn wait_until_uploaded(watchdog: &Watchdog<'_>) {
    watchdog.wait_for_status("all of it uploaded", PATIENCE, |status| {
        let books = &status["upload"]["sinks"][0]["books"];
        let is_all = status["totals"]["committed"].as_u64() >= Some(RECORDS);
        (is_all && books["pending"] == 0).then_some(())
    });
}

#[track_caller]
fn audit(setup: &Setup, code: i32) -> Value {
    let finished = setup.run(&["audit", "--json"], PATIENCE);
    let text = finished.stdout.join("\n");
    assert_eq!(
        finished.status.code(),
        Some(code),
        "{text}{:?}",
        finished.lines
    );
    serde_json::from_str(&text).unwrap_or_else(|error| panic!("{error}: {text}"))
}

/// What is wrong: in words, with the first and the last number.
fn differences(audit: &Value) -> Vec<(String, u64, u64)> {
    let differences = audit["sinks"][0]["differences"].as_array();
    let number = |of: &Value, name: &str| of[name].as_u64().unwrap_or_default();
    let differences = differences.into_iter().flatten();
    differences
        .map(|of| {
            let what = of["what"].as_str().unwrap_or_default().to_owned();
            (what, number(of, "first_seq"), number(of, "last_seq"))
        })
        .collect()
}

/// The file that is being appended to.
fn part(setup: &Setup) -> PathBuf {
    let entries = fs::read_dir(setup.data_dir().join("uploads")).expect("a folder");
    let mut paths = entries.map(|entry| entry.expect("an entry").path());
    let part = paths.find(|path| path.extension().is_some_and(|kind| kind == "part"));
    part.expect("a part")
}

fn an_audit_finds_what_is_wrong_with_the_files() {
    let setup = setup("");
    let watchdog = setup.start();
    wait_until_uploaded(&watchdog);
    // Beside a running watchdog.
    let whole = audit(&setup, 0);
    let sink = &whole["sinks"][0];
    assert_eq!(sink["accepted"], RECORDS, "{whole:#}");
    assert_eq!(sink["uploaded"], RECORDS, "{whole:#}");
    assert_eq!(sink["destination"]["records"], RECORDS, "{whole:#}");
    stop_cleanly(&setup, watchdog);
    audit(&setup, 0);

    let path = part(&setup);
    let text = fs::read_to_string(&path).expect("lines");
    let lines: Vec<&str> = text.lines().collect();
    let without = |gone: std::ops::Range<usize>| {
        let mut left = lines.clone();
        left.drain(gone);
        left.join("\n") + "\n"
    };
    fs::write(&path, without(10..13)).expect("written");
    let missing = vec![("missing".to_owned(), 11, 13)];
    assert_eq!(differences(&audit(&setup, 15)), missing);
    let table = setup.run(&["audit"], PATIENCE).stdout.join("\n");
    assert!(table.contains("missing: 11 to 13 of session"), "{table}");
    assert!(table.ends_with("the books do not balance"), "{table}");

    fs::write(&path, format!("{text}{}\n", lines[20])).expect("written");
    let doubled = vec![("doubled".to_owned(), 21, 21)];
    assert_eq!(differences(&audit(&setup, 15)), doubled);
    fs::write(&path, &text).expect("written");
    audit(&setup, 0);
}

/// What rules left out is not missing; one record less than that is.
fn an_audit_counts_what_rules_leave_out() {
    let setup = setup("[[stream]]\nmatch = \"test\"\nfilter = \"seq % 2 == 0\"\n");
    let watchdog = setup.start();
    wait_until_uploaded(&watchdog);
    stop_cleanly(&setup, watchdog);
    let whole = audit(&setup, 0);
    let sink = &whole["sinks"][0];
    let left_out = sink["left_out"].as_u64().expect("a number");
    assert_eq!(left_out, RECORDS / 2, "{whole:#}");
    let uploaded = sink["uploaded"].as_u64().expect("a number");
    // The session's end is a record as well.
    assert_eq!(uploaded, RECORDS / 2 + 1, "{whole:#}");
    let path = part(&setup);
    let text = fs::read_to_string(&path).expect("lines");
    let shorter: Vec<&str> = text.lines().skip(1).collect();
    fs::write(&path, shorter.join("\n") + "\n").expect("written");
    // Not one of those that the rule leaves out.
    let missing = vec![("missing".to_owned(), 2, 2)];
    assert_eq!(differences(&audit(&setup, 15)), missing);
}

/// Files are completed and compressed while the watchdog is killed again and again: each record is in one of them, once.
fn complete_files_are_compressed_over_kills() {
    const MANY: u64 = 6000;
    let mut setup = Setup::new();
    setup.set_config(
        "[upload]\nbatch_max_age = \"20ms\"\nbatch_max_records = 100\n[upload.file]\nrotate_bytes = \"64KiB\"\n",
    );
    let game = Game {
        per_frame: 10,
        text_bytes: 300,
        records_max: MANY,
        ..Game::new(journals(&setup))
    };
    setup.set_engine(game.command_line());
    let count = |ending: &str| {
        let entries = fs::read_dir(setup.data_dir().join("uploads"));
        let names = entries.into_iter().flatten();
        let names = names.map(|entry| entry.expect("an entry").file_name());
        names
            .filter(|name| name.display().to_string().ends_with(ending))
            .count()
    };
    let mut watchdog = setup.start();
    for kills in 1..=5 {
        let wanted = 4 * kills;
        wait::until("some more compressed files", PATIENCE, || {
            (count(".ndjson.gz") >= wanted).then_some(())
        });
        watchdog.kill();
        watchdog = setup.start();
    }
    watchdog.wait_for_status("all of it uploaded", PATIENCE, |status| {
        let books = &status["upload"]["sinks"][0]["books"];
        let is_all = status["totals"]["committed"].as_u64() >= Some(MANY);
        (is_all && books["pending"] == 0).then_some(())
    });
    wait::until("the last complete file compressed", PATIENCE, || {
        (count(".ndjson") == 0 && count(".tmp") == 0).then_some(())
    });
    let ledger = setup.uploaded_files();
    assert_eq!((ledger.violations.len(), ledger.duplicates), (0, 0));
    let uploaded = audit(&setup, 0)["sinks"][0]["uploaded"].as_u64();
    stop_cleanly(&setup, watchdog);
    assert!(uploaded >= Some(MANY), "{uploaded:?}");
    // Read as a reader would that takes every file for itself.
    let gz = count(".ndjson.gz");
    assert!(gz >= 20, "{gz} files");
    audit(&setup, 0);
}

/// The log's own export, with and without a running watchdog, is what the file sink wrote.
fn an_export_has_what_the_files_have() {
    let setup = setup("");
    let watchdog = setup.start();
    wait_until_uploaded(&watchdog);
    let export = |file: &str| {
        let path = setup.scratch().join(file);
        let words = path.to_str().expect("UTF-8");
        // The second one replaces the first, once it is told to.
        for (flag, code) in [(None, 0), (None, 2), (Some("--force"), 0)] {
            let words = ["buffer", "export", words].into_iter().chain(flag);
            let finished = setup.run(&words.collect::<Vec<_>>(), PATIENCE);
            assert_eq!(finished.status.code(), Some(code), "{:?}", finished.lines);
        }
        let mut ledger = Ledger::default();
        ledger.take_lines(&fs::read_to_string(&path).expect("lines"));
        ledger
    };
    let lines = |ledger: &Ledger| -> Vec<String> {
        assert!(ledger.violations.is_empty(), "{:#?}", ledger.violations);
        assert_eq!(ledger.duplicates, 0);
        let arrivals = ledger.records().values();
        arrivals.map(|arrival| arrival.line.clone()).collect()
    };
    let (beside, files) = (export("beside.ndjson"), setup.uploaded_files());
    assert!(lines(&beside) == lines(&files));
    stop_cleanly(&setup, watchdog);
    let (after, files) = (export("after.ndjson"), setup.uploaded_files());
    assert!(lines(&after) == lines(&files));
    assert_eq!(after.count() as u64, RECORDS + 1);
    let finished = setup.run(&["buffer", "inspect"], PATIENCE);
    let table = finished.stdout.join("\n");
    for part in ["1 to 300 in", "file: 0 to send", "damage    none"] {
        assert!(table.contains(part), "{part}: {table}");
    }
    let finished = setup.run(&["buffer", "verify"], PATIENCE);
    assert!(finished.status.success(), "{:?}", finished.stdout);
    let words = finished.stdout.join("\n");
    assert!(words.contains("nothing is damaged"), "{words}");
}
