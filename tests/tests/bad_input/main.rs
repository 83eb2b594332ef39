//! Bad input: what is wrong with configuration, disk, rings and engine commands is said in one clear sentence with
//! cause and remedy, ends with the documented exit code or does not end the watchdog at all, and harms nothing stored.
//!
//! Real watchdogs over real files; the engine is this executable (`sidekick_tests::engine`). Damage that needs a
//! mount is ignored with the reason where there is no right to mount.

mod backend;
mod command;
mod config;
mod data_dir;
mod full_disk;
mod isolation;
mod port;
mod quota;
mod ring;
mod stored;

use std::process::ExitCode;

use sidekick_tests::engine::{self, Game, Played};
use sidekick_tests::ledger::Ledger;
use sidekick_tests::verdicts::{
    self, PATIENCE, assert_nothing_runs, ignorable, journals, stop_cleanly, trial,
};
use sidekick_tests::wait;
use sidekick_tests::watchdog::{Finished, LogLine, Setup, Watchdog};

fn main() -> ExitCode {
    let trials = [
        config::trials(),
        data_dir::trials(),
        command::trials(),
        port::trials(),
        ring::trials(),
        stored::trials(),
        full_disk::trials(),
        isolation::trials(),
        backend::trials(),
        quota::trials(),
    ];
    verdicts::main(trials.into_iter().flatten().collect())
}

/// A setup whose engine records a few small records a frame.
fn playing() -> Setup {
    let mut setup = Setup::new();
    setup.set_engine(Game::new(journals(&setup)).command_line());
    setup
}

/// Everything that the engines of a setup recorded, by their own account.
fn played(setup: &Setup) -> Vec<Played> {
    engine::played(&journals(setup))
}

/// Every record of every engine is in `ledger`, none with two contents.
#[track_caller]
fn assert_all_arrived(setup: &Setup, ledger: &Ledger) {
    let all = played(setup);
    assert!(all.iter().any(|engine| engine.last > 0), "{all:?}");
    let faults = engine::faults_of_arrival(&all, ledger);
    assert!(faults.is_empty(), "{faults:#?}");
}

/// `run` ends with `code`, says why in one sentence in the log and leaves nothing running. The sentence.
#[track_caller]
fn assert_refuses(setup: &Setup, code: i32) -> String {
    let finished = setup.start().wait(PATIENCE);
    refusal(setup, &finished, code)
}

/// The sentence with which a watchdog ended; it is one line and the only error.
#[track_caller]
fn refusal(setup: &Setup, finished: &Finished, code: i32) -> String {
    let log = finished.lines.join("\n");
    assert_eq!(finished.status.code(), Some(code), "{log}");
    assert!(!log.contains("panicked"), "{log}");
    assert!(!log.contains("left behind"), "{log}");
    let errors: Vec<LogLine> = finished
        .lines
        .iter()
        .filter_map(LogLine::parse)
        .filter(|line| line.level == "ERROR")
        .collect();
    let [error] = errors.as_slice() else {
        panic!("{} errors instead of one: {log}", errors.len());
    };
    let sentence = error.text("error").expect("its cause").to_owned();
    assert!(!sentence.contains('\n'), "{sentence}");
    // "Cause; remedy."
    assert!(sentence.contains("; "), "no remedy in {sentence:?}");
    assert_nothing_runs(setup);
    sentence
}

/// Asserts that `sentence` has all of `parts`.
#[track_caller]
fn assert_says(sentence: &str, parts: &[&str]) {
    for part in parts {
        assert!(sentence.contains(part), "{part:?} is not in {sentence:?}");
    }
}

/// Waits until at least `count` records of all sessions are committed.
#[track_caller]
fn wait_for_committed(watchdog: &Watchdog<'_>, count: u64) -> u64 {
    watchdog.wait_for_status("committed records", PATIENCE, |status| {
        status["totals"]["committed"]
            .as_u64()
            .filter(|committed| *committed >= count)
    })
}

/// The one engine that runs.
#[track_caller]
fn the_engine(setup: &Setup, watchdog: &Watchdog<'_>) -> u32 {
    wait::until("one engine", PATIENCE, || {
        let engines = setup.engines(Some(watchdog));
        assert!(engines.len() <= 1, "more than one engine: {engines:?}");
        engines.first().copied()
    })
}
