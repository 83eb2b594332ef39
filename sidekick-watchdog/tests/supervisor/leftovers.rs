//! A test that fails leaves no process behind, in whatever session.
//!
//! This executable is run again for one test that starts real processes and panics. They carry a witness besides the folder
//! by which the failing test finds them, so that what it misses is found.

use std::mem;
use std::path::Path;
use std::process::{Command as Program, Stdio};

use sidekick_watchdog::platform::spawn_other;
use tempfile::TempDir;

use crate::harness::{Site, Watched, carriers, eventually, kill};

/// Says which way to fail in the process that is to fail.
const FAIL: &str = "TEST_FAIL";
const WITNESS: &str = "TEST_WITNESS";
const LAST_WORDS: &str = "a failure on purpose";
/// An engine and a daemon that has left its session and closed the lock.
const ENGINE: &str = "setsid bash -c 'for fd in /proc/$$/fd/*; do n=${fd##*/}; [ $n -gt 2 ] && eval \"exec $n>&-\"; done; \
                      echo $$ >> daemons; while :; do sleep 0.05; done' & echo $$ >> pids; while :; do sleep 0.05; done";

/// How many processes a test leaves that fails this way.
#[track_caller]
fn left_by(way: &str) -> usize {
    // Not removed by the failing test, and no name that another process has.
    let witness = TempDir::new().expect("temporary folder");
    let mut program = Program::new(std::env::current_exe().expect("known"));
    program
        .args(["--exact", "leftovers::fails_on_purpose", "--nocapture"])
        .env(FAIL, way)
        .env(WITNESS, witness.path())
        .env("TMPDIR", witness.path())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped());
    // Other tests of this process lock launches: a plain spawn could inherit a lock, and be killed as an engine's child.
    let child = spawn_other(&mut program).expect("this executable");
    let output = child.wait_with_output().expect("its end");
    let said = String::from_utf8_lossy(&output.stderr);
    assert!(
        !output.status.success() && said.contains(LAST_WORDS),
        "{said}"
    );
    let left = carriers(WITNESS, witness.path());
    let _end = KilledAtTheEnd(witness.path());
    left.len()
}

struct KilledAtTheEnd<'a>(&'a Path);

impl Drop for KilledAtTheEnd<'_> {
    fn drop(&mut self) {
        eventually("the end of what was left", || {
            let left = carriers(WITNESS, self.0);
            left.iter().copied().for_each(kill);
            left.is_empty().then_some(())
        });
    }
}

#[test]
fn a_failing_test_leaves_nothing() {
    for way in ["its own watchdog", "a watchdog process", "an orphan"] {
        assert_eq!(left_by(way), 0, "{way}");
    }
}

/// The broken variant: nobody cleans up.
#[test]
fn a_failing_test_that_forgets_is_seen() {
    assert!(left_by("forgets") >= 2);
}

/// Not a test: the body of [`left_by`]. Without its variable it does nothing.
#[test]
fn fails_on_purpose() {
    let Ok(way) = std::env::var(FAIL) else {
        return;
    };
    let site = Site::new(ENGINE);
    let up = |site: &Site| {
        eventually("engine and daemon", || {
            let is_up = [site.numbers("pids"), site.numbers("daemons")];
            is_up.iter().all(|pids| !pids.is_empty()).then_some(())
        });
    };
    let mut watchdog = None;
    let mut watched = None;
    match way.as_str() {
        "its own watchdog" => watched = Some(Watched::start(site.config()).expect("started")),
        _ => watchdog = Some(site.watchdog_process()),
    }
    up(&site);
    if way == "an orphan"
        && let Some(mut watchdog) = watchdog.take()
    {
        watchdog.kill();
    }
    if way == "forgets" {
        mem::forget((site, watchdog, watched));
    }
    panic!("{LAST_WORDS}");
}
