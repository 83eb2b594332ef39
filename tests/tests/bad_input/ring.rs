//! Rings that no library of this version wrote so.

use std::ffi::OsString;
use std::fs::{self, File, OpenOptions};
use std::os::unix::fs::{FileExt, OpenOptionsExt, symlink};
use std::path::{Path, PathBuf};
use std::time::Duration;

use libtest_mimic::Trial;
use rustix::process::Signal;
use serde_json::Value;
use sidekick_ipc::{PROTOCOL_VERSION, RingFileName, Session, SessionOptions, WhenFull};
use sidekick_tests::engine::{Game, PROTOCOL_VARIABLE};
use sidekick_tests::ledger::{Key, Ledger};
use sidekick_tests::wait;
use sidekick_tests::watchdog::{LogLine, Setup, Watchdog};
use uuid::Uuid;

use super::{
    PATIENCE, assert_all_arrived, assert_refuses, assert_says, played, playing, stop_cleanly,
    the_engine, trial, wait_for_committed,
};

pub(super) fn trials() -> Vec<Trial> {
    vec![
        trial(
            "a_library_of_another_version_is_told_with_both_versions",
            a_library_of_another_version_is_told_with_both_versions,
        ),
        trial(
            "a_library_of_another_version_ends_the_watchdog_where_a_heartbeat_is_required",
            a_library_of_another_version_ends_the_watchdog_where_a_heartbeat_is_required,
        ),
        trial(
            "a_running_game_of_another_version_outlives_the_watchdogs_update",
            a_running_game_of_another_version_outlives_the_watchdogs_update,
        ),
        trial(
            "files_that_are_no_rings_are_told_and_left_alone",
            files_that_are_no_rings_are_told_and_left_alone,
        ),
        trial(
            "a_dead_engines_ring_that_was_truncated_is_told",
            a_dead_engines_ring_that_was_truncated_is_told,
        ),
        trial(
            "a_damaged_record_costs_that_record_alone",
            a_damaged_record_costs_that_record_alone,
        ),
        trial(
            "a_ring_truncated_under_the_watchdog_does_not_kill_it",
            a_ring_truncated_under_the_watchdog_does_not_kill_it,
        ),
        trial(
            "a_damaged_last_record_is_told_as_an_unknown_tail",
            a_damaged_last_record_is_told_as_an_unknown_tail,
        ),
        trial(
            "a_deleted_ring_is_told_as_an_unknown_tail",
            a_deleted_ring_is_told_as_an_unknown_tail,
        ),
        trial(
            "refusals_of_an_engine_that_was_killed_are_told",
            refusals_of_an_engine_that_was_killed_are_told,
        ),
        trial(
            "two_engines_of_one_launch_lose_nothing",
            two_engines_of_one_launch_lose_nothing,
        ),
        trial(
            "a_session_that_the_store_refuses_is_told_and_ends_with_6",
            a_session_that_the_store_refuses_is_told_and_ends_with_6,
        ),
    ]
}

/// Waits for the error about `path` and returns its sentence.
#[track_caller]
fn wait_for_refusal(watchdog: &mut Watchdog<'_>, path: &Path) -> String {
    let name = path.display().to_string();
    watchdog.wait_for_log(&format!("{name}'s refusal"), PATIENCE, |line| {
        let sentence = line.text("error")?;
        (line.level == "ERROR" && sentence.contains(&name)).then(|| sentence.to_owned())
    })
}

/// Waits for the ring of the engine that runs.
#[track_caller]
fn the_ring(setup: &Setup) -> PathBuf {
    wait::until("a ring", PATIENCE, || {
        let mut rings = sidekick_ipc::scan(setup.runtime_dir()).ok()?;
        rings.pop().map(|ring| ring.path)
    })
}

fn a_library_of_another_version_is_told_with_both_versions() {
    let mut setup = playing();
    let theirs = PROTOCOL_VERSION + 8;
    setup.set_variable(PROTOCOL_VARIABLE, theirs.to_string());
    setup.set_config(
        "[health]\nheartbeat = \"optional\"\nstartup_timeout = \"1s\"\nhang_timeout = \"500ms\"\n\
         [shutdown]\nengine_grace = \"1s\"\n",
    );
    let mut watchdog = setup.start();
    let sentence = wait_for_refusal(&mut watchdog, setup.runtime_dir());
    assert_says(
        &sentence,
        &[
            &format!("speaks protocol {theirs}"),
            &format!("speaks {PROTOCOL_VERSION}"),
            "install matching versions",
        ],
    );
    // The game runs on, the watchdog too, and nobody claims that the extension is missing.
    let pid = the_engine(&setup, &watchdog);
    wait::until("records in its ring", PATIENCE, || {
        played(&setup)
            .iter()
            .any(|game| game.last > 1000)
            .then_some(())
    });
    assert_eq!(the_engine(&setup, &watchdog), pid);
    assert!(watchdog.status().is_some(), "no answer");
    let errors = watchdog.log();
    let errors = errors.iter().filter(|line| line.level == "ERROR");
    assert_eq!(errors.count(), 1, "it is told once");
    let ring = the_ring(&setup);
    let finished = stop_cleanly(&setup, watchdog);
    let log = finished.lines.join("\n");
    assert!(!log.contains("has not loaded"), "{log}");
    assert!(ring.exists(), "the records were thrown away");

    // A watchdog that speaks its version finds them: here the file is given ours.
    let file = OpenOptions::new().write(true).open(&ring).expect("a ring");
    file.write_all_at(&PROTOCOL_VERSION.to_le_bytes(), 8)
        .expect("written");
    setup.set_variable(PROTOCOL_VARIABLE, PROTOCOL_VERSION.to_string());
    let last = played(&setup)[0].last;
    let watchdog = setup.start();
    wait_for_committed(&watchdog, last);
    stop_cleanly(&setup, watchdog);
    assert_all_arrived(&setup, &setup.uploaded_files());
}

fn a_library_of_another_version_ends_the_watchdog_where_a_heartbeat_is_required() {
    for (theirs, update) in [
        (PROTOCOL_VERSION + 8, "update the watchdog"),
        (0, "update the addon in the game"),
    ] {
        let mut setup = playing();
        setup.set_variable(PROTOCOL_VARIABLE, theirs.to_string());
        let sentence = assert_refuses(&setup, 12);
        assert_says(
            &sentence,
            &[
                &format!("({}) speaks protocol {theirs}", env!("CARGO_PKG_VERSION")),
                &format!("speaks {PROTOCOL_VERSION}"),
                update,
            ],
        );
    }
}

/// A game whose ring the new watchdog cannot read was fine until the update: its match goes on.
fn a_running_game_of_another_version_outlives_the_watchdogs_update() {
    let mut setup = playing();
    setup.set_variable(PROTOCOL_VARIABLE, (PROTOCOL_VERSION + 8).to_string());
    setup.set_config("[health]\nheartbeat = \"optional\"\n");
    let mut watchdog = setup.start();
    wait_for_refusal(&mut watchdog, setup.runtime_dir());
    let pid = the_engine(&setup, &watchdog);
    watchdog.kill();

    setup.set_config("");
    let finished = setup.start().wait(PATIENCE);
    let log = finished.lines.join("\n");
    assert_eq!(finished.status.code(), Some(12), "{log}");
    assert!(log.contains("runs on, unwatched"), "{log}");
    assert_eq!(setup.engines(None), [pid], "{log}");
    setup.signal(pid, Signal::KILL);
}

fn private(path: &Path) -> File {
    OpenOptions::new()
        .write(true)
        .create_new(true)
        .mode(0o600)
        .open(path)
        .expect("a new file")
}

fn files_that_are_no_rings_are_told_and_left_alone() {
    let setup = playing();
    let place = |launch| RingFileName::new(setup.runtime_dir(), launch, Uuid::new_v4(), 0).path;
    let precious = setup.scratch().join("precious");
    fs::write(&precious, vec![b'p'; 1 << 20]).expect("written");

    let random = place(1);
    let mut bytes = vec![0; 1 << 20];
    fastrand::fill(&mut bytes);
    private(&random).write_all_at(&bytes, 0).expect("written");
    let empty = place(2);
    drop(private(&empty));
    let link = place(3);
    symlink(&precious, &link).expect("linked");
    let folder = place(4);
    fs::create_dir(&folder).expect("made");
    let readable_by_all = place(5);
    fs::write(&readable_by_all, &bytes).expect("written");

    let mut watchdog = setup.start();
    for path in [&random, &empty, &link, &folder, &readable_by_all] {
        let sentence = wait_for_refusal(&mut watchdog, path);
        println!("{sentence}");
        assert_says(&sentence, &["away"]);
    }
    wait_for_committed(&watchdog, 200);
    let finished = stop_cleanly(&setup, watchdog);
    let errors = finished
        .lines
        .iter()
        .filter(|line| line.contains("\"ERROR\""));
    assert_eq!(errors.count(), 5, "{}", finished.lines.join("\n"));
    assert_eq!(fs::read(&random).expect("still there"), bytes);
    assert!(link.is_symlink() && folder.is_dir() && empty.exists());
    let kept = fs::read(&precious).expect("still there");
    assert!(kept.iter().all(|byte| *byte == b'p'));
    assert_all_arrived(&setup, &setup.uploaded_files());
}

/// Engine and watchdog are dead, and records wait in the ring, whose path this returns.
fn records_in_a_dead_ring(setup: &Setup) -> PathBuf {
    let watchdog = setup.start();
    wait_for_committed(&watchdog, 20);
    let engine = the_engine(setup, &watchdog);
    watchdog.kill();
    let seen = played(setup)[0].last;
    wait::until("more records", PATIENCE, || {
        (played(setup)[0].last > seen + 500).then_some(())
    });
    setup.signal(engine, Signal::KILL);
    wait::until("its end", PATIENCE, || {
        setup.descendants(None).is_empty().then_some(())
    });
    the_ring(setup)
}

fn a_dead_engines_ring_that_was_truncated_is_told() {
    let setup = playing();
    let ring = records_in_a_dead_ring(&setup);
    let file = OpenOptions::new().write(true).open(&ring).expect("a ring");
    file.set_len(1 << 20).expect("truncated");
    let mut watchdog = setup.start();
    let sentence = wait_for_refusal(&mut watchdog, &ring);
    assert_says(&sentence, &["1048576 bytes", "away"]);
    wait::until("the second engine's records", PATIENCE, || {
        let games = played(&setup);
        (games.len() == 2 && games.iter().all(|game| game.last > 100)).then_some(())
    });
    stop_cleanly(&setup, watchdog);
    assert!(ring.exists(), "what was left of it was thrown away");
    let ledger = setup.uploaded_files();
    assert!(ledger.violations.is_empty(), "{:#?}", ledger.violations);
}

fn a_damaged_record_costs_that_record_alone() {
    let setup = playing();
    let ring = records_in_a_dead_ring(&setup);
    let game = played(&setup)[0].clone();
    let victim = game.last - 200;
    let bytes = fs::read(&ring).expect("a ring");
    let text = format!("{victim}:xxx");
    let at = bytes
        .windows(text.len())
        .position(|window| window == text.as_bytes())
        .expect("the record in the ring");
    let file = OpenOptions::new().write(true).open(&ring).expect("a ring");
    file.write_all_at(b"?", at as u64).expect("written");

    let mut watchdog = setup.start();
    watchdog.wait_for_log("the damage", PATIENCE, |line| {
        (line.level == "WARN" && line.message.contains("ring is damaged")).then_some(())
    });
    wait_for_committed(&watchdog, game.last);
    watchdog.wait_for_status("the lost record", PATIENCE, |status| {
        (status["totals"]["gaps"].as_u64() == Some(1)).then_some(())
    });
    stop_cleanly(&setup, watchdog);
    let ledger = setup.uploaded_files();
    assert_all_arrived(&setup, &ledger);
    let key = Key {
        source: "test".to_owned(),
        epoch: game.epoch,
        seq: victim,
    };
    let lost: Vec<_> = ledger
        .records()
        .iter()
        .filter(|(_, arrival)| arrival.stream == "sidekick.gap")
        .map(|(key, _)| key.clone())
        .collect();
    assert_eq!(lost, [key], "other records were lost");
    let quarantine = fs::read_dir(setup.runtime_dir().join("quarantine")).expect("a copy");
    assert_eq!(quarantine.count(), 1);
}

fn a_ring_truncated_under_the_watchdog_does_not_kill_it() {
    let setup = playing();
    let mut watchdog = setup.start();
    wait_for_committed(&watchdog, 20);
    let engine = the_engine(&setup, &watchdog);
    let ring = the_ring(&setup);
    let file = OpenOptions::new().write(true).open(&ring).expect("a ring");
    file.set_len(0).expect("truncated");
    watchdog.wait_for_log("the truncated ring", PATIENCE, |line| {
        (line.level == "ERROR" && line.message == "ring cannot be read").then_some(())
    });
    setup.signal(engine, Signal::KILL);
    watchdog.wait_for_log("the unknown tail", PATIENCE, tells_unknown_tail);
    watchdog.wait_for_status("the gap", PATIENCE, |status| {
        (status["totals"]["gaps"].as_u64() == Some(1)).then_some(())
    });
    watchdog.wait_for_log("the second engine", PATIENCE, |line| {
        (line.message == "engine connected" && line.number("incarnation") == Some(2)).then_some(())
    });
    wait::until("its records", PATIENCE, || {
        let games = played(&setup);
        (games.len() == 2 && games.iter().all(|game| game.last > 20)).then_some(())
    });
    stop_cleanly(&setup, watchdog);
    let ledger = setup.uploaded_files();
    assert!(ledger.violations.is_empty(), "{:#?}", ledger.violations);
    assert_eq!(gaps(&ledger, "tail unknown").len(), 1);
}

fn tells_unknown_tail(line: &LogLine) -> Option<()> {
    let words = "session ended, what its ring still held is unknown";
    (line.level == "WARN" && line.message.contains(words)).then_some(())
}

/// Uploaded gap lines with this cause: whose, and the data.
fn gaps(ledger: &Ledger, cause: &str) -> Vec<(Key, Value)> {
    ledger
        .records()
        .iter()
        .filter(|(_, arrival)| arrival.stream == "sidekick.gap")
        .map(|(key, arrival)| (key.clone(), arrival.data()))
        .filter(|(_, data)| data["cause"].as_str() == Some(cause))
        .collect()
}

/// No later record tells how much is lost.
fn a_damaged_last_record_is_told_as_an_unknown_tail() {
    let setup = playing();
    let ring = records_in_a_dead_ring(&setup);
    let game = played(&setup)[0].clone();
    let bytes = fs::read(&ring).expect("a ring");
    let place = |seq: u64| {
        let text = format!("{seq}:xxx");
        let mut windows = bytes.windows(text.len());
        windows.position(|window| window == text.as_bytes())
    };
    // The journal is a frame behind.
    let last = (game.last..).take_while(|seq| place(*seq).is_some()).last();
    let last = last.expect("the last record in the ring");
    let file = OpenOptions::new().write(true).open(&ring).expect("a ring");
    file.write_all_at(b"?", place(last).expect("found") as u64)
        .expect("written");

    let mut watchdog = setup.start();
    watchdog.wait_for_log("the unknown tail", PATIENCE, tells_unknown_tail);
    watchdog.wait_for_status("the gap", PATIENCE, |status| {
        (status["totals"]["gaps"].as_u64() == Some(1)).then_some(())
    });
    stop_cleanly(&setup, watchdog);
    let ledger = setup.uploaded_files();
    assert!(ledger.violations.is_empty(), "{:#?}", ledger.violations);
    let gaps = gaps(&ledger, "tail unknown");
    let [(key, data)] = &gaps[..] else {
        panic!("{gaps:?}")
    };
    assert_eq!((&key.epoch, key.seq), (&game.epoch, last));
    assert!(data["count"].is_null(), "{data}");
    let before: Vec<Key> = game
        .keys()
        .into_iter()
        .filter(|key| key.seq < last)
        .collect();
    assert!(ledger.missing(&before).is_empty());
}

fn a_deleted_ring_is_told_as_an_unknown_tail() {
    let setup = playing();
    let ring = records_in_a_dead_ring(&setup);
    let game = played(&setup)[0].clone();
    fs::remove_file(&ring).expect("deleted");
    let watchdog = setup.start();
    watchdog.wait_for_status("the gap", PATIENCE, |status| {
        (status["totals"]["gaps"].as_u64() == Some(1)).then_some(())
    });
    let (_, metrics) = watchdog.get("/metrics").expect("metrics");
    assert!(metrics.contains("records_missing_total 1"), "{metrics}");
    stop_cleanly(&setup, watchdog);
    // Another start tells it no second time.
    let watchdog = setup.start();
    wait::until("an answer", PATIENCE, || watchdog.status().map(drop));
    stop_cleanly(&setup, watchdog);
    let gaps = gaps(&setup.uploaded_files(), "tail unknown");
    assert_eq!(gaps.len(), 1, "{gaps:?}");
    assert_eq!(gaps[0].0.epoch, game.epoch);
}

/// The engine is killed before there is room for the frame that would tell of them.
fn refusals_of_an_engine_that_was_killed_are_told() {
    let mut setup = playing();
    let mut game = Game::new(super::journals(&setup));
    game.text_bytes = 4000;
    setup.set_engine(game.command_line());
    setup.set_config("[ring]\nsize = \"64KiB\"\nspill_max = \"1MiB\"\n");
    let watchdog = setup.start();
    wait_for_committed(&watchdog, 20);
    let engine = the_engine(&setup, &watchdog);
    watchdog.kill();
    wait::until("refusals", PATIENCE, || {
        (played(&setup)[0].refused > 100).then_some(())
    });
    setup.signal(engine, Signal::KILL);
    wait::until("its end", PATIENCE, || {
        setup.descendants(None).is_empty().then_some(())
    });
    let game = played(&setup)[0].clone();
    let rings = sidekick_ipc::scan(setup.runtime_dir()).expect("readable");
    let ring = sidekick_ipc::Attachment::open(&rings[0]).expect("a ring");
    let refused = ring.heartbeat().refused_count;
    drop(ring);
    assert!(refused >= game.refused, "{refused}, {game:?}");
    let watchdog = setup.start();
    wait::until("the next engine's records", PATIENCE, || {
        (played(&setup).len() == 2).then_some(())
    });
    stop_cleanly(&setup, watchdog);
    let ledger = setup.uploaded_files();
    let told: u64 = ledger
        .records()
        .iter()
        .filter(|(key, arrival)| key.epoch == game.epoch && arrival.stream == "sidekick.gap")
        .map(|(_, arrival)| arrival.data()["count"].as_u64().expect("a count"))
        .sum();
    assert_eq!(told, refused);
    assert_all_arrived(&setup, &ledger);
}

/// The engine command is a script that runs one game after the other; both have the launch's number.
fn two_engines_of_one_launch_lose_nothing() {
    let mut setup = playing();
    let mut game = Game::new(super::journals(&setup)).command_line();
    game.pop();
    let script = "\"$@\" 100; exec \"$@\" 1000000";
    let shell = ["/bin/sh", "-c", script, "sh"].map(OsString::from);
    setup.set_engine(shell.into_iter().chain(game));
    let watchdog = setup.start();
    let second = wait::until("the second game", PATIENCE, || {
        let mut games = played(&setup);
        games.sort_by_key(|game| game.last);
        (games.len() == 2 && games[1].last > 600).then(|| games[1].epoch.clone())
    });
    watchdog.wait_for_status("the second game's records", PATIENCE, |status| {
        let session = &status["session"];
        let is_second = session["epoch"].as_str() == Some(&second);
        (is_second && session["committed"].as_u64() > Some(100)).then_some(())
    });
    stop_cleanly(&setup, watchdog);
    assert_eq!(played(&setup).len(), 2);
    assert_all_arrived(&setup, &setup.uploaded_files());
}

/// A ring of a launch before the last one that the store knows, such as one that was put back from a copy.
fn a_session_that_the_store_refuses_is_told_and_ends_with_6() {
    let setup = playing();
    let watchdog = setup.start();
    wait_for_committed(&watchdog, 20);
    let engine = the_engine(&setup, &watchdog);
    setup.signal(engine, Signal::KILL);
    watchdog.wait_for_status("the second engine's session", PATIENCE, |status| {
        (played(&setup).len() == 2
            && status["session"]["committed"].as_u64() > Some(5)
            && status["engine"]["incarnation"].as_u64() == Some(2))
        .then_some(())
    });
    stop_cleanly(&setup, watchdog);
    let session = Session::create(SessionOptions {
        runtime_dir: setup.runtime_dir().to_owned(),
        launch: 1,
        incarnation: 1,
        ring_bytes: 64 << 10,
        when_full: WhenFull::Refuse,
        block_max: Duration::ZERO,
        spill_bytes_max: 0,
        keep: Vec::new(),
        library_version: env!("CARGO_PKG_VERSION").to_owned(),
        game_version: String::new(),
    })
    .expect("a session");
    session.record("test", &[0; 4]).expect("taken");
    drop(session);
    let ring = the_ring(&setup);

    let mut watchdog = setup.start();
    watchdog.wait_for_log("the refusal", PATIENCE, |line| {
        let words = "the store does not take a session's records";
        (line.level == "ERROR" && line.message.contains(words)).then_some(())
    });
    watchdog.wait_for_status("the refusal", PATIENCE, |status| {
        let reason = status["store"]["shut_out"][0].as_str()?;
        reason.contains("launch 1 is not above").then_some(())
    });
    let doctor = setup.run(&["doctor"], PATIENCE).lines.join("\n");
    assert!(doctor.contains("rings"), "{doctor}");
    let finished = watchdog.stop(PATIENCE);
    let log = finished.lines.join("\n");
    assert_eq!(finished.status.code(), Some(6), "{log}");
    assert!(ring.exists(), "its records were thrown away");
}
