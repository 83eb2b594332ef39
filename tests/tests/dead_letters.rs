//! Dead letters from end to end: the real watchdog, a backend that refuses for good, and an operator at the command line. The
//! records are crash reports of an engine that is a shell, so no engine is needed.

use std::fs;
use std::time::Duration;

use serde_json::Value;
use sidekick_tests::receiver::{Fault, Receiver};
use sidekick_tests::wait;
use sidekick_tests::watchdog::{Setup, Watchdog};

const PATIENCE: Duration = Duration::from_secs(120);

/// A watchdog of an engine that crashes at its start when it is told to ([`crash_next`]), and quits on SIGTERM.
fn setup(receiver: &Receiver) -> Setup {
    let mut setup = Setup::new();
    setup.set_config(&format!(
        "[health]\nheartbeat = \"optional\"\n[restart]\nbackoff_first = \"10ms\"\nbackoff_max = \"10ms\"\n\
         [upload]\nsinks = [\"http\"]\nbatch_max_age = \"50ms\"\nretry_first = \"10ms\"\nretry_max = \"100ms\"\n\
         [upload.http]\nurl = \"{}\"\n",
        receiver.url()
    ));
    let flag = flag(&setup);
    setup.set_engine([
        "sh",
        "-c",
        &format!(
            "if [ -e {flag} ]; then rm {flag}; kill -SEGV $$; fi; trap 'exit 0' TERM; while :; do sleep 0.02; done"
        ),
    ]);
    setup
}

fn flag(setup: &Setup) -> String {
    let flag = setup.scratch().join("crash");
    flag.to_str().expect("a path in UTF-8").to_owned()
}

/// The next engine crashes, once.
fn crash_next(setup: &Setup) {
    fs::write(flag(setup), "").expect("a flag");
}

#[track_caller]
fn run(setup: &Setup, arguments: &[&str]) -> String {
    let finished = setup.run(arguments, PATIENCE);
    assert!(finished.status.success(), "{:?}", finished.lines);
    finished.stdout.join("\n")
}

#[track_caller]
fn json(setup: &Setup, arguments: &[&str]) -> Value {
    let text = run(setup, &[arguments, &["--json"]].concat());
    serde_json::from_str(&text).unwrap_or_else(|error| panic!("{error}: {text}"))
}

/// Waits until the books of the sink say so.
#[track_caller]
fn books(watchdog: &Watchdog<'_>, what: &str, is: impl Fn(&Value) -> bool) -> Value {
    watchdog.wait_for_status(what, PATIENCE, |status| {
        let books = &status["upload"]["sinks"][0]["books"];
        is(books).then(|| books.clone())
    })
}

fn number(books: &Value, name: &str) -> u64 {
    books[name].as_u64().unwrap_or(u64::MAX)
}

/// A record that is refused for good waits with the reason, survives the watchdog's death, and goes to the backend once
/// somebody says so; another one is dropped and counted. At each point the books add up.
#[test]
fn a_dead_letter_is_shown_replayed_and_dropped() {
    let receiver = Receiver::start();
    receiver.set_plan(|_| Some(Fault::Status(422)));
    let setup = setup(&receiver);
    crash_next(&setup);
    let watchdog = setup.start();
    books(&watchdog, "a dead letter", |books| {
        number(books, "dead_letters") == 1
    });
    assert_eq!(receiver.look(|ledger| ledger.count()), 0);
    watchdog.kill();

    let watchdog = setup.start();
    books(&watchdog, "the letter that was kept", |books| {
        number(books, "dead_letters") == 1
    });
    let list = json(&setup, &["dead-letters", "list"]);
    let letter = &list["letters"][0];
    assert_eq!(
        (list["count"].as_u64(), letter["id"].as_u64()),
        (Some(1), Some(1))
    );
    assert_eq!(letter["code"], "HTTP 422");
    assert_eq!(letter["stream"], "sidekick.crash");
    assert_eq!(letter["sink"], "http");
    let shown = json(&setup, &["dead-letters", "show", "1"]);
    assert!(shown["record"]["data"]["cause"].is_string(), "{shown}");
    let text = run(&setup, &["dead-letters", "show", "1"]);
    assert!(
        text.contains("HTTP 422") && text.contains("sidekick.crash"),
        "{text}"
    );

    // Still refused: it stays a letter, unmarked.
    run(&setup, &["dead-letters", "replay", "1"]);
    wait::until("the replay to be refused", PATIENCE, || {
        let shown = json(&setup, &["dead-letters", "show", "1"]);
        (shown["replays"] == 1 && shown["marked"] == false).then_some(())
    });
    receiver.clear_plan();
    let said = run(
        &setup,
        &["dead-letters", "replay", "--stream", "sidekick.crash"],
    );
    assert!(said.starts_with("1 marked"), "{said}");
    let after = books(&watchdog, "the replay", |books| {
        number(books, "dead_letters") == 0
    });
    assert_eq!(
        (number(&after, "uploaded"), number(&after, "replayed")),
        (1, 1)
    );
    assert_eq!(number(&after, "pending"), 0);
    assert_eq!(receiver.look(|ledger| ledger.count()), 1);
    // Whoever counts what was uploaded counts it.
    let status = watchdog.wait_for_status("a success", PATIENCE, |status| {
        let sink = &status["upload"]["sinks"][0];
        sink["last_success_age_s"]
            .is_number()
            .then(|| status.clone())
    });
    let sink = &status["upload"]["sinks"][0];
    assert_eq!(status["totals"]["uploaded"]["http"], 1, "{status}");
    assert_eq!(sink["records"], 1, "{sink}");
    let text = run(&setup, &["status"]);
    assert!(
        text.contains("1 record,") && text.contains("1 replayed"),
        "{text}"
    );
    let keys: Vec<String> = receiver.requests().into_iter().map(|it| it.key).collect();
    assert!(
        keys.last().is_some_and(|key| key.ends_with("/replay-2")),
        "{keys:?}"
    );

    // Another one, which nobody wants.
    receiver.set_plan(|_| Some(Fault::Status(400)));
    crash_next(&setup);
    run(&setup, &["restart", "--no-wait"]);
    books(&watchdog, "another dead letter", |books| {
        number(books, "dead_letters") == 1
    });
    let nothing = setup.run(&["dead-letters", "drop"], PATIENCE);
    assert_eq!(nothing.status.code(), Some(2), "{:?}", nothing.lines);
    for verb in ["list", "replay", "drop"] {
        let nobody = setup.run(&["dead-letters", verb, "--sink", "nope"], PATIENCE);
        assert_eq!(nobody.status.code(), Some(1), "{verb}: {:?}", nobody.lines);
        let told = nobody.lines.join("\n");
        assert!(
            told.contains("no sink \"nope\"; there is \"http\""),
            "{told}"
        );
    }
    run(&setup, &["dead-letters", "list", "--sink", "http"]);
    let said = run(&setup, &["dead-letters", "drop", "--all"]);
    assert_eq!(said, "1 dropped");
    let after = books(&watchdog, "the drop", |books| {
        number(books, "dead_letters") == 0
    });
    assert_eq!(after["dropped"]["operator"], 1);
    let committed = watchdog
        .status()
        .map(|status| status["totals"]["committed"].as_u64());
    let total = number(&after, "uploaded") + number(&after, "lost") + number(&after, "notes") + 1;
    assert_eq!(committed, Some(Some(total)), "{after}");
    let (code, metrics) = watchdog.get("/metrics").expect("an answer");
    assert_eq!(code, 200);
    assert_eq!(after["accepted"], total, "{after}");
    let accepted = format!("sidekick_records_accepted_total{{sink=\"http\"}} {total}");
    for line in [
        accepted.as_str(),
        "sidekick_records_uploaded_total{sink=\"http\"} 1",
        "sidekick_records_total{sink=\"http\",outcome=\"uploaded\",reason=\"\"} 1",
        "sidekick_records_total{sink=\"http\",outcome=\"dropped\",reason=\"operator\"} 1",
        "sidekick_dead_letters{sink=\"http\"} 0",
        "sidekick_records_pending{sink=\"http\"} 0",
    ] {
        assert!(
            metrics.lines().any(|found| found == line),
            "{line}\n{metrics}"
        );
    }
    watchdog.stop(PATIENCE);
}
