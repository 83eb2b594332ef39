//! Kills the engine, the watchdog and both at random moments, with a backend that fails at random, and holds what
//! the backend has against what the game's own journal says was recorded.
//!
//! `HARNESS_KILLS` sets the number of kills (20 by default; thousands are fine), `HARNESS_SEED` repeats a run's choices.
//! The kernel's timing is not repeated, of course.

use std::fs;
use std::thread;
use std::time::Duration;

use rustix::process::Signal;
use sidekick_tests::godot::Godot;
use sidekick_tests::journal;
use sidekick_tests::process;
use sidekick_tests::project::Project;
use sidekick_tests::receiver::{Fault, Receiver};
use sidekick_tests::verdicts::stop_cleanly;
use sidekick_tests::watchdog::{Setup, Watchdog};

const KILLS_DEFAULT: u32 = 20;
/// Longer than the watchdog waits for an answer.
const SILENCE: Duration = Duration::from_secs(2);
/// What a backend does to a request, and in how many of a hundred.
const FAULTS: [(Fault, u32); 6] = [
    (Fault::Status(500), 8),
    (Fault::RetryAfter(503, 0), 4),
    (Fault::CutUntaken, 4),
    (Fault::CutTaken, 8),
    (Fault::SilentUntaken(SILENCE), 2),
    (Fault::SilentTaken(SILENCE), 3),
];
/// Generous: a loaded machine is slow, and a test that ends early for that says nothing.
const PATIENCE: Duration = Duration::from_secs(120);

/// A project that journals, and a watchdog that uploads to `receiver`.
fn set_up(godot: &Godot, receiver: &Receiver) -> (Project, Setup) {
    let project = Project::new(journal::SCRIPT);
    let mut setup = Setup::new();
    let journals = setup.scratch().join("journals");
    fs::create_dir(&journals).expect("a folder for the journals");
    let journals = journals.to_str().expect("a path in UTF-8").to_owned();
    setup.set_engine(project.command_line(godot, &["--journal", &journals]));
    setup.set_config(&format!(
        "[upload]\nsinks = [\"http\"]\nbatch_max_age = \"100ms\"\nretry_first = \"10ms\"\nretry_max = \"100ms\"\n\
         [upload.http]\nurl = \"{}\"\ntimeout = \"1s\"\n\
         [restart]\nbackoff_first = \"10ms\"\nbackoff_max = \"50ms\"\ncrash_loop_deaths = 1000\n\
         [shutdown]\nupload_grace = \"60s\"\n",
        receiver.url()
    ));
    (project, setup)
}

fn wait_until_connected(watchdog: &Watchdog<'_>) {
    watchdog.wait_for_status("a connected engine", PATIENCE, |status| {
        status["engine"]["connected"].as_bool().filter(|yes| *yes)
    });
}

/// The one engine that runs; panics when there are two.
fn the_engine(setup: &Setup, watchdog: &Watchdog<'_>) -> Option<u32> {
    let engines = setup.engines(Some(watchdog));
    assert!(
        engines.len() <= 1,
        "more than one engine: {:?}",
        engines
            .iter()
            .map(|pid| process::command_line(*pid))
            .collect::<Vec<_>>()
    );
    engines.first().copied()
}

/// Whatever is killed, at whatever moment: every record whose `record()` returned is at the backend, none with two
/// contents, no number is missing, and no engine ever runs beside another.
fn what_was_recorded_arrives_whatever_is_killed(godot: &Godot) {
    let kills = number("HARNESS_KILLS").map_or(KILLS_DEFAULT, |kills| kills as u32);
    let seed = number("HARNESS_SEED").unwrap_or_else(|| fastrand::u64(..));
    println!("{kills} kills, HARNESS_SEED={seed}");
    let mut random = fastrand::Rng::with_seed(seed);

    let receiver = Receiver::start();
    let mut faults = fastrand::Rng::with_seed(seed);
    // Each at least once, in every third request; then at random.
    let mut owed = FAULTS.map(|(fault, _)| fault).to_vec();
    faults.shuffle(&mut owed);
    let mut requests = 0;
    receiver.set_plan(move |_| {
        requests += 1;
        if requests % 3 == 0
            && let Some(fault) = owed.pop()
        {
            return Some(fault);
        }
        let mut number = faults.u32(..100);
        let fault = FAULTS.iter().find(|(_, share)| {
            let is_it = number < *share;
            number = number.saturating_sub(*share);
            is_it
        });
        fault.map(|(fault, _)| *fault)
    });
    let (_project, setup) = set_up(godot, &receiver);
    let mut watchdog = setup.start();
    for kill in 0..kills {
        // Every third time whenever it is, start-up included; else while it records.
        if kill % 3 != 0 {
            wait_until_connected(&watchdog);
        }
        // The moment of the kill, not a wait for anything.
        thread::sleep(Duration::from_millis(random.u64(0..900)));
        let (kills_engine, kills_watchdog) =
            [(true, false), (false, true), (true, true)][random.usize(..3)];
        let engine = the_engine(&setup, &watchdog).filter(|_| kills_engine);
        let engine_first = random.bool();
        if let Some(pid) = engine.filter(|_| engine_first) {
            setup.signal(pid, Signal::KILL);
        }
        if kills_watchdog {
            watchdog.kill();
            thread::sleep(Duration::from_millis(random.u64(0..300)));
            if let Some(pid) = engine.filter(|_| !engine_first) {
                setup.signal(pid, Signal::KILL);
            }
            watchdog = setup.start();
        } else if let Some(pid) = engine {
            setup.signal(pid, Signal::KILL);
        }
    }
    wait_until_connected(&watchdog);
    receiver.clear_plan();
    let finished = stop_cleanly(&setup, watchdog);

    let requests = receiver.requests();
    for (fault, _) in FAULTS {
        let times = requests
            .iter()
            .filter(|request| request.fault == Some(fault));
        let times = times.count();
        println!("{times} times {fault:?}");
        assert!(
            times > 0,
            "{fault:?} was never tried in {} requests",
            requests.len()
        );
    }
    let recorded = journal::read(&setup.scratch().join("journals"));
    let ledger = receiver.ledger();
    // What was taken without an answer comes again.
    assert!(ledger.duplicates > 0, "nothing was sent again");
    println!(
        "{} records journaled, {} at the backend, {} sent again",
        recorded.len(),
        ledger.count(),
        ledger.duplicates
    );
    assert!(
        recorded.len() > kills as usize * 20,
        "the game hardly recorded anything"
    );
    let broken = journal::broken_promises(&recorded, &ledger);
    assert!(
        broken.is_empty(),
        "{} broken promises, HARNESS_SEED={seed}, the first: {:#?}\n{}",
        broken.len(),
        &broken[..broken.len().min(5)],
        finished.lines.join("\n")
    );
}

/// The test above can fail: engine and watchdog are killed while the backend is down, the log is taken away before the
/// next watchdog comes, and the records in it are found missing.
fn a_log_that_is_taken_away_is_found_out(godot: &Godot) {
    let mut receiver = Receiver::start();
    let (_project, setup) = set_up(godot, &receiver);
    receiver.go_down();
    let watchdog = setup.start();
    watchdog.wait_for_status("committed records", PATIENCE, |status| {
        status["totals"]["committed"]
            .as_u64()
            .filter(|count| *count > 100)
    });
    let engine = the_engine(&setup, &watchdog).expect("an engine");
    watchdog.kill();
    setup.signal(engine, Signal::KILL);
    for part in ["log", "state", "snapshots"] {
        let _ = fs::remove_dir_all(setup.data_dir().join(part));
    }
    receiver.come_up();
    let watchdog = setup.start();
    wait_until_connected(&watchdog);
    watchdog.stop(PATIENCE);
    let recorded = journal::read(&setup.scratch().join("journals"));
    let broken = journal::broken_promises(&recorded, &receiver.ledger());
    assert!(
        broken
            .iter()
            .any(|sentence| sentence.contains("is not at the backend")),
        "the loss was not noticed: {broken:?}"
    );
}

fn number(variable: &str) -> Option<u64> {
    let text = std::env::var(variable).ok()?;
    Some(
        text.parse()
            .unwrap_or_else(|_| panic!("{variable}={text:?} is no number")),
    )
}

sidekick_tests::godot_claims!(
    what_was_recorded_arrives_whatever_is_killed,
    a_log_that_is_taken_away_is_found_out,
);
