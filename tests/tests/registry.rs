//! `[registry]`: players find the server while it serves, and are not sent to it when it does not.

use std::fs;
use std::process::ExitCode;
use std::time::Duration;

use libtest_mimic::Arguments;
use rustix::process::Signal;
use serde_json::Value;
use sidekick_tests::engine::{Game, act_if_asked};
use sidekick_tests::shards::{Known, PASSWORD, Shards, USER};
use sidekick_tests::verdicts::trial;
use sidekick_tests::wait;
use sidekick_tests::watchdog::Setup;

/// More than the half a minute for which a registry may fail before a row is made anew.
const PATIENCE: Duration = Duration::from_secs(120);
/// Longer than the first two pauses between tries.
const SOON: Duration = Duration::from_secs(5);

fn main() -> ExitCode {
    if let Some(code) = act_if_asked() {
        return code;
    }
    let trials = vec![
        trial("a_restart_does_not_show_and_an_end_does", restarts),
        trial("a_drain_shows_at_once", drain),
        trial(
            "a_token_that_is_no_longer_good_and_a_lost_row_are_mended",
            mended,
        ),
        trial("a_row_without_an_id_stays_the_only_one", nameless),
        trial(
            "an_error_of_the_registrys_own_hides_nothing_for_long",
            failing,
        ),
        trial(
            "a_lost_row_that_is_answered_with_a_500_is_made_anew",
            missed,
        ),
        trial("a_wrong_password_is_told_and_stops_nothing", wrong_password),
    ];
    libtest_mimic::run(&Arguments::from_args(), trials).exit_code()
}

/// A server that is to be listed; it is taken off after `unlist_after`.
fn setup(shards: &Shards, unlist_after: &str, password: &str) -> Setup {
    let mut setup = Setup::new();
    let journals = setup.scratch().join("journals");
    fs::create_dir(&journals).expect("a folder for the journals");
    let secret = setup.scratch().join("password");
    fs::write(&secret, format!("{password}\n")).expect("a password file");
    setup.set_config(&format!(
        "[restart]\nbackoff_first = \"10ms\"\n[registry]\nurl = \"{}\"\naddress = \"game.example\"\nport = 7711\nmap = \"arena\"\n\
         name = \"Lobby 1\"\nuser = \"{USER}\"\npassword_file = \"{}\"\nbeat_every = \"1s\"\nunlist_after = \"{unlist_after}\"\n",
        shards.url(),
        secret.display()
    ));
    setup.set_engine(Game::new(journals).command_line());
    setup
}

/// Waits until the registry is so.
#[track_caller]
fn until(what: &str, shards: &Shards, is_so: impl Fn(&Known) -> bool) -> Known {
    wait::until(what, PATIENCE, || Some(shards.known()).filter(&is_so))
}

fn beats(known: &Known, id: &str) -> u64 {
    known.beats.get(id).copied().unwrap_or_default()
}

fn restarts() {
    let shards = Shards::start();
    let setup = setup(&shards, "20s", PASSWORD);
    let mut watchdog = setup.start();
    let known = until("a row that is beaten for", &shards, |known| {
        beats(known, "1") > 0
    });
    let row = &known.rows["1"];
    for (key, value) in [
        ("address", "game.example"),
        ("map", "arena"),
        ("name", "Lobby 1"),
    ] {
        assert_eq!(row[key], value, "{row}");
        assert_eq!(row["shard"][key], value, "{row}");
    }
    assert_eq!(row["port"], 7711);
    let status = watchdog.wait_for_status("a listed server", PATIENCE, |status| {
        status["registry"]["id"].as_str().map(str::to_owned)
    });
    assert_eq!(status, "1");

    // The engine, then the watchdog, then both.
    for (engine_dies, watchdog_dies) in [(true, false), (false, true), (true, true)] {
        if engine_dies {
            // The one before may still be there for a moment.
            let engine = wait::until("one engine", PATIENCE, || {
                match setup.engines(Some(&watchdog))[..] {
                    [engine] => Some(engine),
                    _ => None,
                }
            });
            setup.signal(engine, Signal::KILL);
        }
        if watchdog_dies {
            watchdog.kill();
            watchdog = setup.start();
        }
        let before = beats(&shards.known(), "1");
        let known = until("more beats", &shards, |known| {
            beats(known, "1") > before + 1
        });
        assert_eq!(known.created, 1, "it was listed anew");
        assert_eq!(known.rows.len(), 1);
    }

    let finished = watchdog.stop(PATIENCE);
    assert!(finished.status.success(), "{:?}", finished.lines);
    assert!(
        shards.known().rows.is_empty(),
        "a server that has ended is listed"
    );
}

fn drain() {
    let shards = Shards::start();
    let setup = setup(&shards, "0s", PASSWORD);
    let watchdog = setup.start();
    until("a row", &shards, |known| known.rows.len() == 1);
    // It cannot hear the wish to quit, and is killed when its time is over.
    let engines = setup.engines(Some(&watchdog));
    setup.signal(engines[0], Signal::STOP);
    let order = setup.run(&["drain", "--no-wait", "--grace", "4s"], PATIENCE);
    assert!(order.status.success(), "{:?}", order.lines);
    until("a row that drains", &shards, |known| {
        known.rows.values().any(|row| row["status"] == "draining")
    });
    until("no row", &shards, |known| known.rows.is_empty());
    let start = setup.run(&["start"], PATIENCE);
    assert!(start.status.success(), "{:?}", start.lines);
    let known = until("a new row", &shards, |known| known.rows.len() == 1);
    assert!(known.rows.values().all(|row| row["status"] == "online"));
    watchdog.stop(PATIENCE);
}

fn mended() {
    let shards = Shards::start();
    let setup = setup(&shards, "20s", PASSWORD);
    let watchdog = setup.start();
    until("beats", &shards, |known| beats(known, "1") > 0);
    let before = shards.revoke();
    let known = until("beats with a new token", &shards, |known| {
        beats(known, "1") > beats(&before, "1") + 1
    });
    assert_eq!((known.logins, known.created), (before.logins + 1, 1));
    shards.forget();
    let known = until("a new row", &shards, |known| beats(known, "2") > 0);
    assert_eq!(known.rows.len(), 1);
    watchdog.stop(PATIENCE);
}

/// The registry keeps its rows for ever, so what cannot be beaten for is not made over and over.
fn nameless() {
    let shards = Shards::start();
    shards.tell_no_ids();
    let setup = setup(&shards, "0s", PASSWORD);
    let watchdog = setup.start();
    let error = watchdog.wait_for_status("a word of the id", PATIENCE, |status: &Value| {
        status["registry"]["error"].as_str().map(str::to_owned)
    });
    assert!(error.contains("update the registry"), "{error}");
    // Another engine does not make up for it at once, either.
    setup.signal(setup.engines(Some(&watchdog))[0], Signal::KILL);
    let another = wait::poll(SOON, || (shards.known().created > 1).then_some(()));
    assert_eq!(another, None, "{:?}", shards.known());
    let finished = watchdog.stop(PATIENCE);
    assert!(finished.status.success(), "{:?}", finished.lines);
    assert_eq!(shards.known().created, 1);
}

/// Beats that meet a 500 are tried again and make no row; neither is a row forgotten whose removal met one.
fn failing() {
    let shards = Shards::start();
    let setup = setup(&shards, "0s", PASSWORD);
    let watchdog = setup.start();
    until("beats", &shards, |known| beats(known, "1") > 0);
    shards.fail(true);
    let before = until("three failures", &shards, |known| known.failed >= 3);
    shards.fail(false);
    let known = until("more beats", &shards, |known| {
        beats(known, "1") > beats(&before, "1") + 1
    });
    assert_eq!((known.created, known.rows.len()), (1, 1));

    let before = shards.known();
    shards.fail(true);
    let stop = setup.run(&["stop"], PATIENCE);
    assert!(stop.status.success(), "{:?}", stop.lines);
    until("two failures to take it off", &shards, |known| {
        known.failed >= before.failed + 3
    });
    shards.fail(false);
    until("no row", &shards, |known| known.rows.is_empty());
    watchdog.stop(PATIENCE);
}

/// A row that is gone meets the same 500 at its beats and at its removal, for ever: once it cannot be seen any more anyway, there is
/// another one.
fn missed() {
    let shards = Shards::start();
    shards.miss_with_500();
    let setup = setup(&shards, "20s", PASSWORD);
    let watchdog = setup.start();
    until("beats", &shards, |known| beats(known, "1") > 0);
    shards.forget();
    let known = until("beats for a new row", &shards, |known| {
        beats(known, "2") > 1
    });
    assert_eq!((known.created, known.rows.len()), (2, 1));
    let id = watchdog.wait_for_status("a listed server", PATIENCE, |status| {
        let listed = &status["registry"];
        let id = listed["id"].as_str().filter(|_| listed["error"].is_null());
        id.map(str::to_owned)
    });
    assert_eq!(id, "2");
    let finished = watchdog.stop(PATIENCE);
    assert!(finished.status.success(), "{:?}", finished.lines);
    assert!(shards.known().rows.is_empty());
}

fn wrong_password() {
    let shards = Shards::start();
    let setup = setup(&shards, "20s", "wrong");
    let watchdog = setup.start();
    let error = watchdog.wait_for_status("a word of the login", PATIENCE, |status: &Value| {
        status["registry"]["error"].as_str().map(str::to_owned)
    });
    assert!(error.contains("password_file"), "{error}");
    assert!(!error.contains("wrong\""), "{error}");
    watchdog.wait_for_status("a running game", PATIENCE, |status| {
        (status["engine"]["connected"] == true).then_some(())
    });
    let finished = watchdog.stop(PATIENCE);
    assert!(finished.status.success(), "{:?}", finished.lines);
}
