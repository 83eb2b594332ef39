//! Kills the engine, the watchdog and both at random moments, with a backend that fails at random, and holds what
//! the backend has against what the game's own journal says was recorded.
//!
//! `HARNESS_KILLS` sets the number of kills (20 by default; thousands are fine), `HARNESS_SEED` repeats a run's choices.
//! The kernel's timing is not repeated, of course.

use std::collections::BTreeMap;
use std::fs;
use std::path::Path;
use std::thread;
use std::time::Duration;

use rustix::process::Signal;
use sidekick_tests::godot::Godot;
use sidekick_tests::ledger::{Key, Ledger};
use sidekick_tests::project::Project;
use sidekick_tests::receiver::{Fault, Receiver};
use sidekick_tests::watchdog::{Setup, Watchdog};

const KILLS_DEFAULT: u32 = 20;
/// Generous: a loaded machine is slow, and a test that ends early for that says nothing.
const PATIENCE: Duration = Duration::from_secs(120);

/// What the journal says of one record.
#[derive(Debug, PartialEq, Eq)]
struct Entry {
    stream: String,
    nonce: u64,
    text: String,
}

/// Everything whose `record()` returned, as the game itself wrote it down.
fn read_journals(folder: &Path) -> BTreeMap<Key, Entry> {
    let mut entries = BTreeMap::new();
    for file in fs::read_dir(folder).expect("the journals' folder") {
        let text = fs::read_to_string(file.expect("an entry").path()).expect("a journal");
        // What comes after the last newline was being written when the engine was killed.
        let whole = text.rfind('\n').map_or("", |end| &text[..end]);
        for line in whole.lines() {
            let words: Vec<&str> = line.split(' ').collect();
            let [epoch, seq, stream, nonce, letter, length] = words[..] else {
                panic!("not a journal line: {line:?}");
            };
            let key = Key {
                source: "test".to_owned(),
                epoch: epoch.to_owned(),
                seq: seq.parse().expect("a number"),
            };
            let entry = Entry {
                stream: stream.to_owned(),
                nonce: nonce.parse().expect("a number"),
                text: letter.repeat(length.parse().expect("a number")),
            };
            let before = entries.insert(key, entry);
            assert!(before.is_none(), "one number was given twice: {line:?}");
        }
    }
    entries
}

/// Sentences about everything that is not as promised: P1, P2, P4 and P5 of the README.
fn broken_promises(journal: &BTreeMap<Key, Entry>, ledger: &Ledger) -> Vec<String> {
    let mut broken = ledger.violations.clone();
    for (key, entry) in journal {
        let Some(arrival) = ledger.records().get(key) else {
            broken.push(format!("{key:?} was recorded and is not at the backend"));
            continue;
        };
        let data = arrival.data();
        let arrived = Entry {
            stream: arrival.stream.clone(),
            nonce: data["nonce"].as_u64().unwrap_or_default(),
            text: data["text"].as_str().unwrap_or_default().to_owned(),
        };
        if arrived != *entry {
            broken.push(format!(
                "{key:?} was recorded as {entry:?} and arrived as {arrived:?}"
            ));
        }
    }
    let mut next = BTreeMap::new();
    for (key, arrival) in ledger.records() {
        let expected = next.entry(&key.epoch).or_insert(1);
        if key.seq != *expected {
            broken.push(format!(
                "the backend has no number {expected} of {}",
                key.epoch
            ));
        }
        *expected = key.seq + 1;
        if arrival.stream == "sidekick.gap" {
            broken.push(format!("a gap was reported: {}", arrival.line));
        }
    }
    broken
}

/// A project that journals, and a watchdog that uploads to `receiver`.
fn set_up(godot: &Godot, receiver: &Receiver) -> (Project, Setup) {
    let project = Project::new(include_str!("../gd/journal.gd"));
    let mut setup = Setup::new();
    let journals = setup.scratch().join("journals");
    fs::create_dir(&journals).expect("a folder for the journals");
    let journals = journals.to_str().expect("a path in UTF-8").to_owned();
    setup.set_engine(project.command_line(godot, &["--journal", &journals]));
    setup.set_config(&format!(
        "[upload]\nsinks = [\"http\"]\nbatch_max_age = \"100ms\"\nretry_first = \"10ms\"\nretry_max = \"100ms\"\n\
         [upload.http]\nurl = \"{}\"\ntimeout = \"1s\"\n\
         [restart]\nbackoff_first = \"10ms\"\nbackoff_max = \"50ms\"\nstable_after = \"100ms\"\n\
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
///
/// An engine leads its process group. What a wrapper script forks while it looks for its folder does not, nor does the
/// watchdog's own child before it has become an engine.
fn the_engine(setup: &Setup, watchdog: &Watchdog<'_>) -> Option<u32> {
    let mut engines = setup.descendants(Some(watchdog));
    engines.retain(|pid| leads_its_group(*pid));
    assert!(
        engines.len() <= 1,
        "more than one engine: {:?}",
        engines
            .iter()
            .map(|pid| command_line(*pid))
            .collect::<Vec<_>>()
    );
    engines.first().copied()
}

fn leads_its_group(pid: u32) -> bool {
    // The fields after the name, which is in parentheses: state, parent, group.
    fs::read_to_string(format!("/proc/{pid}/stat")).is_ok_and(|stat| {
        let fields = stat.rsplit(')').next().unwrap_or_default();
        fields.split_ascii_whitespace().nth(2) == Some(&pid.to_string())
    })
}

fn command_line(pid: u32) -> String {
    let words = fs::read(format!("/proc/{pid}/cmdline")).unwrap_or_default();
    format!(
        "{pid} {}",
        String::from_utf8_lossy(&words).replace('\0', " ")
    )
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
    receiver.set_plan(move |_| match faults.u32(..100) {
        0..8 => Some(Fault::Status(500)),
        8..12 => Some(Fault::RetryAfter(503, 0)),
        12..16 => Some(Fault::CutUntaken),
        16..24 => Some(Fault::CutTaken),
        24..26 => Some(Fault::SilentUntaken(Duration::from_secs(2))),
        26..29 => Some(Fault::SilentTaken(Duration::from_secs(2))),
        _ => None,
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
    let finished = watchdog.stop(PATIENCE);
    assert_eq!(
        finished.status.code(),
        Some(0),
        "{}",
        finished.lines.join("\n")
    );
    assert!(
        setup.descendants(None).is_empty(),
        "something was left running"
    );

    let journal = read_journals(&setup.scratch().join("journals"));
    let ledger = receiver.ledger();
    println!(
        "{} records journaled, {} at the backend, {} sent again",
        journal.len(),
        ledger.count(),
        ledger.duplicates
    );
    assert!(
        journal.len() > kills as usize * 20,
        "the game hardly recorded anything"
    );
    let broken = broken_promises(&journal, &ledger);
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
    let journal = read_journals(&setup.scratch().join("journals"));
    let broken = broken_promises(&journal, &receiver.ledger());
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
