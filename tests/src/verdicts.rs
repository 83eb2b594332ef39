//! The frame of tests over real watchdogs with engines of [`crate::engine`], and what they claim at their end.

use std::fs;
use std::path::PathBuf;
use std::process::ExitCode;
use std::time::Duration;

use libtest_mimic::{Arguments, Completion, Failed, Trial};

use crate::engine;
use crate::process;
use crate::watchdog::{Finished, Setup, Watchdog};

/// Generous: a loaded machine is slow, and a test that ends early for that says nothing.
pub const PATIENCE: Duration = Duration::from_secs(90);

/// The `main` of a target that is its own engine: an engine where it was started as one, else the trials, two at a time unless
/// the command line says otherwise.
pub fn main(trials: Vec<Trial>) -> ExitCode {
    if let Some(code) = engine::act_if_asked() {
        return code;
    }
    run(trials, 2)
}

/// Runs trials as the command line asks, and `at_once` of them at a time where it does not say.
pub fn run(trials: Vec<Trial>, at_once: usize) -> ExitCode {
    let mut arguments = Arguments::from_args();
    arguments.test_threads = arguments.test_threads.or(Some(at_once));
    libtest_mimic::run(&arguments, trials).exit_code()
}

/// A trial that fails by panicking.
pub fn trial(name: &str, run: fn()) -> Trial {
    Trial::test(name, move || {
        run();
        Ok(())
    })
}

/// A trial that may find that its surroundings cannot be had: the reason.
pub fn ignorable(name: &str, run: fn() -> Result<(), String>) -> Trial {
    Trial::ignorable_test(name, move || -> Result<Completion, Failed> {
        Ok(match run() {
            Ok(()) => Completion::Completed,
            Err(reason) => Completion::ignored_with(reason),
        })
    })
}

/// A folder for the journals of a setup's engines.
pub fn journals(setup: &Setup) -> PathBuf {
    let folder = setup.scratch().join("journals");
    fs::create_dir_all(&folder).expect("a folder for the journals");
    folder
}

/// Asks the watchdog to end; it does so with 0, leaves nothing running, and the books balance.
#[track_caller]
pub fn stop_cleanly(setup: &Setup, watchdog: Watchdog<'_>) -> Finished {
    ended_cleanly(setup, watchdog.stop(PATIENCE))
}

/// As [`stop_cleanly`], where the test took away or damaged what an audit would read.
#[track_caller]
pub fn stop_unaudited(setup: &Setup, watchdog: Watchdog<'_>) -> Finished {
    ended_cleanly(setup, watchdog.stop_unaudited(PATIENCE))
}

#[track_caller]
fn ended_cleanly(setup: &Setup, finished: Finished) -> Finished {
    let log = finished.lines.join("\n");
    assert_eq!(finished.status.code(), Some(0), "{log}");
    assert!(!log.contains("panicked"), "{log}");
    assert_nothing_runs(setup);
    finished
}

/// Nothing that any watchdog of this setup started runs.
#[track_caller]
pub fn assert_nothing_runs(setup: &Setup) {
    let left: Vec<String> = setup
        .descendants(None)
        .into_iter()
        .map(process::command_line)
        .collect();
    assert!(left.is_empty(), "something was left running: {left:?}");
}
