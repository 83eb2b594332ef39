//! Sinks that are taken out of the configuration, with the real watchdog: who gets their backlog, and what becomes of their dead
//! letters. The records are crash reports of an engine that is a shell, so no engine is needed.

use std::fs;
use std::path::PathBuf;
use std::time::Duration;

use serde_json::Value;
use sidekick_tests::receiver::{Fault, Receiver};
use sidekick_tests::wait;
use sidekick_tests::watchdog::{Setup, Watchdog};

const PATIENCE: Duration = Duration::from_secs(60);

fn flag(setup: &Setup) -> PathBuf {
    setup.scratch().join("crash")
}

/// Where the program of the sink `command` puts what it is given.
fn given(setup: &Setup) -> PathBuf {
    setup.scratch().join("given.ndjson")
}

/// A setup whose engine crashes when the flag is there, and quits on SIGTERM.
fn setup() -> Setup {
    let mut setup = Setup::new();
    let flag = flag(&setup);
    let flag = flag.display();
    setup.set_engine([
        "sh",
        "-c",
        &format!(
            "trap 'exit 0' TERM; while :; do if [ -e {flag} ]; then rm {flag}; kill -SEGV $$; fi; sleep 0.02; done"
        ),
    ]);
    setup
}

fn configure(setup: &Setup, receiver: &Receiver, sinks: &str) {
    setup.set_config(&format!(
        "[health]\nheartbeat = \"optional\"\n[restart]\nbackoff_first = \"10ms\"\nbackoff_max = \"10ms\"\n\
         [upload]\nsinks = {sinks}\nbatch_max_age = \"50ms\"\nretry_first = \"10ms\"\nretry_max = \"100ms\"\n\
         [upload.http]\nurl = \"{}\"\n[upload.command]\nrun = [\"sh\", \"-c\", \"cat >> {}\"]\n",
        receiver.url(),
        given(setup).display(),
    ));
}

/// Has the engine crash, and waits until the sink's books say so.
#[track_caller]
fn crash(setup: &Setup, watchdog: &Watchdog<'_>, what: &str, is: impl Fn(&Value) -> bool) {
    fs::write(flag(setup), "").expect("a flag");
    watchdog.wait_for_status(what, PATIENCE, |status| {
        let sinks = status["upload"]["sinks"].as_array()?;
        let http = sinks.iter().find(|sink| sink["name"] == "http")?;
        is(&http["books"]).then_some(())
    });
}

/// `http` has one dead letter, and records that its backend does not take just now; `file` has everything.
fn with_letter_and_backlog<'s>(setup: &'s Setup, receiver: &Receiver) -> Watchdog<'s> {
    receiver.set_plan(|_| Some(Fault::Status(422)));
    configure(setup, receiver, "[\"http\", \"file\"]");
    let watchdog = setup.start();
    crash(setup, &watchdog, "a dead letter", |books| {
        books["dead_letters"] == 1 && books["pending"] == 0
    });
    receiver.set_plan(|_| Some(Fault::Status(503)));
    crash(setup, &watchdog, "a backlog", |books| {
        books["pending"].as_u64() > Some(0)
    });
    watchdog
}

#[track_caller]
fn said(setup: &Setup, arguments: &[&str], code: i32) -> String {
    let finished = setup.run(arguments, PATIENCE);
    assert_eq!(finished.status.code(), Some(code), "{:?}", finished.lines);
    finished.lines.join("\n")
}

/// The one that comes takes the place of the one that goes, though another one stays.
#[test]
fn a_sink_that_comes_as_another_goes_gets_its_backlog() {
    let receiver = Receiver::start();
    let setup = setup();
    let watchdog = with_letter_and_backlog(&setup, &receiver);
    configure(&setup, &receiver, "[\"command\", \"file\"]");
    let told = said(&setup, &["doctor"], 0);
    assert!(told.contains("command takes its place with"), "{told}");
    watchdog.kill();
    let watchdog = setup.start();
    wait::until("the backlog at the new sink", PATIENCE, || {
        let given = fs::read_to_string(given(&setup)).unwrap_or_default();
        given
            .contains("\"stream\":\"sidekick.crash\"")
            .then_some(())
    });
    watchdog.wait_for_status("all of it", PATIENCE, |status| {
        let command = &status["upload"]["sinks"][0];
        (command["name"] == "command" && command["books"]["pending"] == 0).then_some(())
    });
    watchdog.stop(PATIENCE);
}

/// What nobody takes over is told before and after; dead letters are not replayed to nobody, and are not immortal.
#[test]
fn what_a_sink_leaves_behind_is_told_and_its_letters_can_be_dropped() {
    let receiver = Receiver::start();
    let setup = setup();
    let watchdog = with_letter_and_backlog(&setup, &receiver);
    configure(&setup, &receiver, "[\"file\"]");
    for command in ["check", "doctor"] {
        let told = said(&setup, &[command], 0);
        for part in ["nobody sends ", "its 1 dead letter can be dropped"] {
            assert!(told.contains(part), "{command}: {part}\n{told}");
        }
    }
    watchdog.kill();
    let watchdog = setup.start();
    let removed = watchdog.wait_for_status("the sink that went", PATIENCE, |status| {
        let removed = &status["upload"]["removed"][0];
        (removed["name"] == "http").then(|| removed.clone())
    });
    assert_eq!(removed["dead_letters"], 1, "{removed}");
    assert!(removed["records"].as_u64() > Some(0), "{removed}");
    let text = said(&setup, &["status"], 0);
    for part in ["http: not configured; ", "1 of at most 10000, "] {
        assert!(text.contains(part), "{part}\n{text}");
    }
    let (_, metrics) = watchdog.get("/metrics").expect("an answer");
    let line = "sidekick_dead_letters{sink=\"http\"} 1";
    assert!(metrics.lines().any(|found| found == line), "{metrics}");
    let refused = said(&setup, &["dead-letters", "replay", "1"], 1);
    assert!(
        refused.contains("sink \"http\" is not configured"),
        "{refused}"
    );
    let dropped = said(&setup, &["dead-letters", "drop", "--sink", "http"], 0);
    assert!(dropped.contains("1 dropped"), "{dropped}");
    watchdog.wait_for_status("no letters", PATIENCE, |status| {
        let letters = &status["upload"]["dead_letters"];
        (letters["count"] == 0).then_some(())
    });
    watchdog.stop(PATIENCE);
}
