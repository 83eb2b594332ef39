//! Watchdogs die, a real game does not notice.
//!
//! `HARNESS_WATCHDOG_KILLS` sets the number of kills (15 by default).

use std::fs;
use std::thread;
use std::time::{Duration, Instant};

use sidekick_tests::godot::Godot;
use sidekick_tests::history::{Look, faults_of_one_life};
use sidekick_tests::journal;
use sidekick_tests::project::Project;
use sidekick_tests::wait;
use sidekick_tests::watchdog::{Setup, Watchdog};

const KILLS_DEFAULT: u32 = 15;
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
        thread::sleep(Duration::from_millis(random.u64(0..400)));
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

sidekick_tests::godot_claims!(a_game_does_not_notice_that_its_watchdogs_are_killed);
