//! The sink `"command"` with a real program: the watchdog and the engine are killed while it uploads, and what the program
//! stored is held against what the engines themselves say they recorded.
//!
//! The program stores each batch in a file of its own, whole or not at all, under a number that counts up and the batch's key.
//! A second one beside it, or one that goes on behind its watchdog's back, would store a batch twice or out of order.
//!
//! `HARNESS_ROUNDS` sets the number of kills (12 by default; hundreds are fine), `HARNESS_SEED` repeats a run's choices.

use std::fs;
use std::path::PathBuf;
use std::process::ExitCode;
use std::thread;
use std::time::Duration;

use rustix::process::Signal;
use sidekick_tests::engine::{Game, faults_of_arrival, played};
use sidekick_tests::folders::write_program;
use sidekick_tests::ledger::Ledger;
use sidekick_tests::verdicts::{self, PATIENCE, journals, stop_cleanly, trial};
use sidekick_tests::wait;
use sidekick_tests::watchdog::{Setup, Watchdog};

const ROUNDS_DEFAULT: u64 = 12;
/// Kills after which the broken variant must have doubled something.
const BROKEN_ROUNDS_MAX: u32 = 60;

/// How each program begins. It takes a while, so that many kills fall between its steps.
const STORE: &str = "\
    cd batches || exit 78\n\
    env | grep ^SIDEKICK_ | cut -d= -f1 | sort > ../environment\n\
    name=$(printf %s \"$SIDEKICK_BATCH_KEY\" | tr / _)\n\
    known() { ls | grep -q -e \"-$name.ndjson$\"; }\n\
    number=$(ls | wc -l)\n\
    cat > ../new && sleep 0.02\n";
/// A batch that is there is not stored again, and of each fifth one the answer is lost.
const ONCE: &str = "\
    known && exit 0\n\
    mv ../new $(printf %06d $number)-$name.ndjson && sleep 0.02\n\
    [ $((number % 5)) = 3 ] && echo the answer is lost >&2 && exit 75\n\
    exit 0\n";
/// The broken variant.
const FORGETFUL: &str = "mv ../new $(printf %06d $number)-$name.ndjson && sleep 0.02\n";

fn main() -> ExitCode {
    verdicts::main(vec![
        trial(
            "each_record_is_stored_once_whatever_is_killed",
            each_record_is_stored_once_whatever_is_killed,
        ),
        trial(
            "a_program_that_forgets_keys_is_found_out",
            a_program_that_forgets_keys_is_found_out,
        ),
        trial(
            "a_missing_program_parks_and_is_told",
            a_missing_program_parks_and_is_told,
        ),
    ])
}

fn set_up(script: &str) -> Setup {
    let mut setup = Setup::new();
    let game = Game::new(journals(&setup));
    setup.set_engine(game.command_line());
    setup.set_config(
        "[upload]\nsinks = [\"command\"]\nbatch_max_age = \"20ms\"\nretry_first = \"10ms\"\nretry_max = \"200ms\"\n\
         [upload.command]\nrun = [\"sh\", \"./store.sh\"]\n\
         [restart]\nbackoff_first = \"10ms\"\nbackoff_max = \"50ms\"\ncrash_loop_deaths = 1000\n\
         [shutdown]\nupload_grace = \"60s\"\n",
    );
    fs::create_dir(batches(&setup)).expect("a folder for the batches");
    fs::write(setup.scratch().join("store.sh"), script).expect("a script");
    setup
}

fn batches(setup: &Setup) -> PathBuf {
    setup.scratch().join("batches")
}

/// Waits until batches come that were not there.
fn wait_for_batches(setup: &Setup, watchdog: &Watchdog<'_>) {
    let count = || fs::read_dir(batches(setup)).expect("the batches").count();
    let before = count();
    let more = wait::poll(PATIENCE, || (count() > before).then_some(()));
    let log = watchdog.running.lines.all();
    assert!(
        more.is_some(),
        "no batches come; the log says:\n{}",
        log.join("\n")
    );
}

/// What is wrong with what was stored.
fn faults(setup: &Setup) -> Vec<String> {
    let ledger = Ledger::read_folder(&batches(setup)).expect("the batches");
    let played = played(&setup.scratch().join("journals"));
    let mut faults = faults_of_arrival(&played, &ledger);
    if ledger.duplicates > 0 {
        faults.push(format!("{} records came twice", ledger.duplicates));
    }
    let records = ledger.records().values();
    let gaps = records.filter(|arrival| arrival.stream == "sidekick.gap");
    faults.extend(gaps.map(|gap| format!("a gap: {}", gap.line)));
    let recorded: u64 = played.iter().map(|engine| engine.last).sum();
    println!("{recorded} records journaled, {} stored", ledger.count());
    if recorded == 0 {
        faults.push("nothing was recorded".into());
    }
    faults
}

/// Whatever is killed, at whatever moment: what was stored is what was recorded, each record once.
fn each_record_is_stored_once_whatever_is_killed() {
    let rounds = number("HARNESS_ROUNDS").unwrap_or(ROUNDS_DEFAULT);
    let seed = number("HARNESS_SEED").unwrap_or_else(|| fastrand::u64(..));
    println!("{rounds} kills, HARNESS_SEED={seed}");
    let mut random = fastrand::Rng::with_seed(seed);
    let setup = set_up(&format!("{STORE}{ONCE}"));
    let mut watchdog = setup.start();
    for round in 0..rounds {
        wait_for_batches(&setup, &watchdog);
        // The moment of the kill, not a wait for anything.
        thread::sleep(Duration::from_millis(random.u64(0..100)));
        if round % 4 == 3 {
            let engine = watchdog.wait_for_status("an engine", PATIENCE, |status| {
                status["engine"]["pid"].as_u64()
            });
            setup.signal(engine as u32, Signal::KILL);
            continue;
        }
        watchdog.kill();
        if random.bool() {
            // Else the next one comes while the program of this one still runs.
            thread::sleep(Duration::from_millis(random.u64(0..100)));
        }
        watchdog = setup.start();
    }
    wait_for_batches(&setup, &watchdog);
    let finished = stop_cleanly(&setup, watchdog);
    let faults = faults(&setup);
    let log = finished.lines.join("\n");
    assert!(faults.is_empty(), "HARNESS_SEED={seed}: {faults:#?}\n{log}");
    let told = fs::read_to_string(setup.scratch().join("environment")).expect("names");
    assert_eq!(told, "SIDEKICK_BATCH_KEY\nSIDEKICK_BATCH_RECORDS\n");
}

/// The test above can fail: a program that stores what it has stored already doubles the batch that is under way at a kill.
fn a_program_that_forgets_keys_is_found_out() {
    let setup = set_up(&format!("{STORE}{FORGETFUL}"));
    let mut watchdog = setup.start();
    for round in 1.. {
        wait_for_batches(&setup, &watchdog);
        watchdog.kill();
        watchdog = setup.start();
        // The batch that was on its way is the first to come again.
        wait_for_batches(&setup, &watchdog);
        if faults(&setup)
            .iter()
            .any(|fault| fault.contains("came twice"))
        {
            break;
        }
        assert!(round < BROKEN_ROUNDS_MAX, "nothing came twice");
    }
    stop_cleanly(&setup, watchdog);
}

/// A program that is not there, and then is; `doctor` and `status` say what is missing.
fn a_missing_program_parks_and_is_told() {
    let setup = set_up(&format!("{STORE}{ONCE}"));
    setup.set_config(
        "[upload]\nsinks = [\"command\"]\nbatch_max_age = \"20ms\"\nretry_max = \"250ms\"\n\
         [upload.command]\nrun = [\"./upload\"]\n[shutdown]\nupload_grace = \"60s\"\n",
    );
    let finished = setup.run(&["doctor"], PATIENCE);
    let mut lines = finished.lines.iter();
    let line = lines.find(|line| line.contains("upload.command"));
    let line = line.unwrap_or_else(|| panic!("{}", finished.lines.join("\n")));
    assert!(
        line.starts_with("warn") && line.contains("does not exist"),
        "{line}"
    );
    let watchdog = setup.start();
    let reason = watchdog.wait_for_status("a parked sink", PATIENCE, |status| {
        let sink = status["upload"]["sinks"].as_array()?.first()?;
        (sink["state"] == "parked").then(|| sink["reason"].as_str().unwrap_or_default().to_owned())
    });
    assert!(
        reason.contains("[upload.command] run cannot be started"),
        "{reason}"
    );
    let script = fs::read_to_string(setup.scratch().join("store.sh")).expect("the script");
    let (new, place) = (
        setup.scratch().join("upload.new"),
        setup.scratch().join("upload"),
    );
    write_program(&new, format!("#!/bin/sh\n{script}").as_bytes(), 0o700);
    fs::rename(new, place).expect("a program");
    wait_for_batches(&setup, &watchdog);
    stop_cleanly(&setup, watchdog);
    assert_eq!(faults(&setup), Vec::<String>::new());
    let finished = setup.run(&["doctor"], PATIENCE);
    let is_fine = |line: &String| line.starts_with("ok") && line.contains("upload.command");
    assert!(
        finished.lines.iter().any(is_fine),
        "{}",
        finished.lines.join("\n")
    );
}

fn number(variable: &str) -> Option<u64> {
    let text = std::env::var(variable).ok()?;
    let number = text.parse();
    Some(number.unwrap_or_else(|_| panic!("{variable}={text:?} is no number")))
}
