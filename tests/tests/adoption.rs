//! Watchdogs die, a real game does not notice.
//!
//! `HARNESS_WATCHDOG_KILLS` sets the number of kills (100 by default).

use std::fs;
use std::thread;
use std::time::{Duration, Instant};

use rustix::process::Signal;
use serde_json::Value;
use sidekick_tests::godot::Godot;
use sidekick_tests::history::{Look, faults_of_one_life};
use sidekick_tests::journal;
use sidekick_tests::project::Project;
use sidekick_tests::wait;
use sidekick_tests::watchdog::{Setup, Watchdog};

const KILLS_DEFAULT: u32 = 100;
/// Generous: a loaded machine is slow, and a test that ends early for that says nothing.
const PATIENCE: Duration = Duration::from_secs(120);

/// Waits until this watchdog has the first engine, knows its ring and has committed what was there.
fn wait_until_adopted(watchdog: &Watchdog<'_>, committed_before: u64) -> u64 {
    watchdog.wait_for_status("an adopted engine", PATIENCE, |status| {
        let engine = &status["engine"];
        assert_ne!(engine["incarnation"].as_u64(), Some(2), "a second engine");
        let committed = status["session"]["committed"].as_u64()?;
        (engine["connected"] == true && committed > committed_before).then_some(committed)
    })
}

/// The watchdog is killed again and again under a running game: one engine process throughout, its frame counter is never
/// reset, and no record is lost or stands twice in the files that the watchdogs wrote.
fn a_game_does_not_notice_that_its_watchdogs_are_killed(godot: &Godot) {
    let kills = std::env::var("HARNESS_WATCHDOG_KILLS").map_or(KILLS_DEFAULT, |text| {
        text.parse().expect("HARNESS_WATCHDOG_KILLS is a number")
    });
    let seed = std::env::var("HARNESS_SEED").map_or_else(
        |_| fastrand::u64(..),
        |text| text.parse().expect("HARNESS_SEED is a number"),
    );
    println!("{kills} kills, HARNESS_SEED={seed}");
    let mut random = fastrand::Rng::with_seed(seed);
    let project = Project::new(journal::SCRIPT);
    let mut setup = Setup::new();
    let journals = setup.scratch().join("journals");
    fs::create_dir(&journals).expect("a folder for the journals");
    setup.set_engine(project.command_line(godot, &["--journal", &journals.display().to_string()]));
    setup.set_config("[upload]\nbatch_max_age = \"50ms\"\n[shutdown]\nupload_grace = \"60s\"\n");

    let mut watchdog = setup.start();
    let mut committed = wait_until_adopted(&watchdog, 0);
    let mut history = vec![Look::at(&setup, Some(&watchdog))];
    let mut slowest = Duration::ZERO;
    for kill in 0..kills {
        // The moment of the kill, not a wait for anything. Every fourth time while it is still starting.
        thread::sleep(Duration::from_millis(random.u64(0..200)));
        watchdog.kill();
        history.push(Look::at(&setup, None));
        let started = Instant::now();
        watchdog = setup.start();
        if kill % 4 != 3 {
            committed = wait_until_adopted(&watchdog, committed);
            slowest = slowest.max(started.elapsed());
        }
        history.push(next_frame(&setup, &watchdog, &history[history.len() - 1]));
    }
    wait_until_adopted(&watchdog, committed);
    let finished = watchdog.stop(PATIENCE);
    let log = finished.lines.join("\n");
    assert_eq!(finished.status.code(), Some(0), "{log}");
    assert!(
        setup.descendants(None).is_empty(),
        "something was left running"
    );

    let faults = faults_of_one_life(&history);
    assert!(faults.is_empty(), "HARNESS_SEED={seed}: {faults:#?}");
    let recorded = journal::read(&journals);
    let ledger = setup.uploaded_files();
    let frames = |look: &Look| look.session.as_ref().map_or(0, |(_, frames)| *frames);
    println!(
        "{} records journaled, {} uploaded, {} twice; {} frames in one process; adopted and committing after {slowest:.2?} at most",
        recorded.len(),
        ledger.count(),
        ledger.duplicates,
        frames(&history[history.len() - 1]) - frames(&history[0]),
    );
    let broken = journal::broken_promises(&recorded, &ledger);
    assert!(
        broken.is_empty(),
        "{} broken promises, HARNESS_SEED={seed}, the first: {:#?}",
        broken.len(),
        &broken[..broken.len().min(5)]
    );
    assert_eq!(ledger.duplicates, 0, "HARNESS_SEED={seed}");
    assert!(
        recorded.len() > kills as usize * 20,
        "the game hardly recorded"
    );
}

/// A look after the engine has come to its next frame.
fn next_frame(setup: &Setup, watchdog: &Watchdog<'_>, last: &Look) -> Look {
    wait::until("the next frame", PATIENCE, || {
        let look = Look::at(setup, Some(watchdog));
        (look.session != last.session).then_some(look)
    })
}

/// Turns on the project setting by which a game starts its dead watchdog again.
fn set_respawn(project: &Project) {
    let path = project.path().join("project.godot");
    let settings = fs::read_to_string(path).expect("the project's settings");
    project.write(
        "project.godot",
        &format!("{settings}\n[sidekick]\n\nwatchdog/respawn=true\n"),
    );
}

/// Whichever of game and watchdog is killed, the other brings it back; no record is lost.
fn game_and_watchdog_bring_each_other_back(godot: &Godot) {
    let project = Project::new(journal::SCRIPT);
    set_respawn(&project);
    let mut setup = Setup::new();
    let journals = setup.scratch().join("journals");
    fs::create_dir(&journals).expect("a folder for the journals");
    setup.set_engine(project.command_line(godot, &["--journal", &journals.display().to_string()]));
    setup.set_config(
        "[upload]\nbatch_max_age = \"50ms\"\n[restart]\nbackoff_first = \"10ms\"\n\
         [shutdown]\nupload_grace = \"60s\"\n",
    );
    // What answers `status`: the watchdog's process, the engine's, and its incarnation.
    let pair = |what: &str, pick: &dyn Fn(u32, u64) -> bool| {
        wait::until(what, PATIENCE, || {
            let answer = setup.run(&["status", "--json"], PATIENCE);
            let status: Value = serde_json::from_str(&answer.stdout.join("\n")).ok()?;
            let number =
                |value: &Value| value.as_u64().and_then(|number| u32::try_from(number).ok());
            let (watchdog, engine) = (number(&status["pid"])?, number(&status["engine"]["pid"])?);
            let incarnation = status["engine"]["incarnation"].as_u64()?;
            let plays = status["engine"]["ready"] == true && pick(watchdog, incarnation);
            plays.then_some((watchdog, engine, incarnation))
        })
    };
    let first = setup.start();
    let (mut watchdog, mut engine, mut incarnation) = pair("a game", &|_, _| true);
    // Ours to reap; those that follow are the system's children.
    first.kill();
    for round in 0..2 {
        if round > 0 {
            setup.signal(watchdog, Signal::KILL);
        }
        let dead = watchdog;
        let next = pair("another watchdog", &|pid, _| pid != dead);
        assert_eq!((next.1, next.2), (engine, incarnation), "the same game");
        watchdog = next.0;
        setup.signal(engine, Signal::KILL);
        let next = pair("another game", &|_, number| number > incarnation);
        assert_eq!(
            next.0, watchdog,
            "the watchdog did not die with the game that started it"
        );
        (_, engine, incarnation) = next;
        assert_eq!(setup.engines(None), [engine]);
    }
    setup.signal(watchdog, Signal::TERM);
    wait::until("the end of all", PATIENCE, || {
        setup.descendants(None).is_empty().then_some(())
    });
    let broken = journal::broken_promises(&journal::read(&journals), &setup.uploaded_files());
    assert!(
        broken.is_empty(),
        "{} broken promises: {:#?}",
        broken.len(),
        broken.first()
    );
}

sidekick_tests::godot_claims!(
    a_game_does_not_notice_that_its_watchdogs_are_killed,
    game_and_watchdog_bring_each_other_back,
);
