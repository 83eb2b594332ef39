//! Never two engines, never two watchdogs, never none, and nothing piles up: real watchdogs over real rings, killed,
//! doubled and misled. The engine is this executable (`sidekick_tests::engine`).
//!
//! `HARNESS_DUELS` (50) and `HARNESS_RELAUNCHES` (1,000) set how long the two long ones go on.

mod adoption;
mod fencing;
mod respawn;
mod soak;

use std::process::ExitCode;

use serde_json::Value;
use sidekick_tests::engine::{self, Game};
use sidekick_tests::verdicts::{self, PATIENCE, journals, stop_cleanly, trial};
use sidekick_tests::wait;
use sidekick_tests::watchdog::Setup;

fn main() -> ExitCode {
    let trials = [
        adoption::trials(),
        fencing::trials(),
        respawn::trials(),
        soak::trials(),
    ];
    verdicts::main(trials.into_iter().flatten().collect())
}

/// How often something is done: what the variable says, or a number that fits every run of all tests.
fn rounds(variable: &str, default: u32) -> u32 {
    std::env::var(variable).map_or(default, |text| {
        text.parse()
            .unwrap_or_else(|_| panic!("{variable}={text:?} is no number"))
    })
}

/// A setup whose engine records a few small records a frame, which are uploaded at once.
fn playing() -> Setup {
    let mut setup = Setup::new();
    setup.set_engine(Game::new(journals(&setup)).command_line());
    setup.set_config(
        "[upload]\nbatch_max_age = \"50ms\"\n[restart]\nbackoff_first = \"1ms\"\nbackoff_max = \"5ms\"\ncrash_loop_deaths = 1000\n\
         stable_after = \"10ms\"\n[shutdown]\nupload_grace = \"60s\"\n",
    );
    setup
}

/// The status of whatever watchdog runs; `None` while none answers.
fn status(setup: &Setup) -> Option<Value> {
    let finished = setup.run(&["status", "--json"], PATIENCE);
    let is_answer = finished.status.success();
    is_answer
        .then(|| serde_json::from_str(&finished.stdout.join("\n")).ok())
        .flatten()
}

/// Waits until some watchdog's status makes `pick` give something.
#[track_caller]
fn wait_for_status<T>(setup: &Setup, what: &str, mut pick: impl FnMut(&Value) -> Option<T>) -> T {
    wait::until(what, PATIENCE, || pick(&status(setup)?))
}

/// Waits until the engine of this incarnation has its ring taken, and gives its process id.
#[track_caller]
fn wait_until_played(setup: &Setup, incarnation: u64) -> u32 {
    wait_for_status(setup, "an engine whose records are committed", |status| {
        let engine = &status["engine"];
        let is_it = engine["incarnation"] == incarnation && engine["connected"] == true;
        let plays = status["session"]["committed"]
            .as_u64()
            .is_some_and(|count| count > 0);
        (is_it && plays).then(|| engine["pid"].as_u64().map(|pid| pid as u32))?
    })
}

/// Waits until this engine is the only one.
#[track_caller]
fn wait_until_alone(setup: &Setup, engine: u32) {
    wait::until("one engine", PATIENCE, || {
        let is_there = setup.engines(None).contains(&engine);
        (is_there && others(setup, engine).is_empty()).then_some(())
    });
}

/// All engines but this one.
fn others(setup: &Setup, engine: u32) -> Vec<u32> {
    let mut engines = setup.engines(None);
    engines.retain(|pid| *pid != engine);
    engines
}

/// Every record of every engine has arrived, once, and at least `engines` engines recorded.
#[track_caller]
fn assert_all_arrived(setup: &Setup, engines: usize) -> u64 {
    let faults = faults_of_records(setup, engines);
    assert!(faults.is_empty(), "{faults:#?}");
    let all = engine::played(&journals(setup));
    all.iter().map(|engine| engine.last).sum()
}

/// Sentences about what keeps [`assert_all_arrived`] from being so.
fn faults_of_records(setup: &Setup, engines: usize) -> Vec<String> {
    let ledger = setup.uploaded_files();
    let all = engine::played(&journals(setup));
    let mut faults = engine::faults_of_arrival(&all, &ledger);
    if ledger.duplicates > 0 {
        faults.push(format!("{} records came twice", ledger.duplicates));
    }
    let recorded = all.iter().filter(|engine| engine.last > 0).count();
    if recorded < engines {
        faults.push(format!("{recorded} of {engines} engines recorded"));
    }
    let gaps = ledger
        .records()
        .values()
        .filter(|arrival| arrival.stream == "sidekick.gap");
    faults.extend(gaps.map(|gap| format!("a gap was reported: {}", gap.line)));
    faults
}
