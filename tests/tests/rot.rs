//! A byte of a stopped watchdog's log changes on the disk: the watchdog starts all the same, everything else arrives once,
//! and the backend is told the exact numbers that are lost.
//!
//! Real watchdogs and a real backend; the engine is this executable (`sidekick_tests::engine`). Places are random, with a
//! seed that is printed.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::{Path, PathBuf};
use std::process::ExitCode;

use libtest_mimic::Arguments;
use serde_json::Value;
use sidekick_tests::engine::{self, Game};
use sidekick_tests::ledger::{Key, Ledger};
use sidekick_tests::receiver::Receiver;
use sidekick_tests::verdicts::{PATIENCE, journals, stop_cleanly, trial};
use sidekick_tests::wait;
use sidekick_tests::watchdog::{Setup, Watchdog};

/// Where frames begin in a segment of the log.
const FRAMES_AT: usize = 4096;
/// An engine records so many.
const RECORDS: u64 = 400;
/// Places that are tried for each way to stop.
const PLACES: u64 = 6;
const GAP_STREAM: &str = "sidekick.gap";

fn main() -> ExitCode {
    if let Some(code) = engine::act_if_asked() {
        return code;
    }
    let mut arguments = Arguments::from_args();
    arguments.test_threads = arguments.test_threads.or(Some(2));
    let trials = vec![
        trial(
            "a_rotten_byte_of_a_log_that_was_closed_costs_one_entry",
            || costs_one_entry(End::Stopped),
        ),
        trial(
            "a_rotten_byte_of_a_log_that_was_left_open_costs_one_entry",
            || costs_one_entry(End::Killed),
        ),
        trial(
            "a_rotten_byte_amid_uploads_loses_and_doubles_nothing_else",
            a_rotten_byte_amid_uploads_loses_and_doubles_nothing_else,
        ),
        trial(
            "a_rotten_byte_of_what_was_uploaded_costs_nothing",
            a_rotten_byte_of_what_was_uploaded_costs_nothing,
        ),
    ];
    libtest_mimic::run(&arguments, trials).exit_code()
}

/// How the watchdog ended before its log was damaged.
#[derive(Clone, Copy, PartialEq)]
enum End {
    Stopped,
    Killed,
}

fn setup(receiver: &Receiver) -> Setup {
    let mut setup = Setup::new();
    setup.set_config(&format!(
        "[upload]\nsinks = [\"http\"]\nbatch_max_age = \"50ms\"\nretry_first = \"10ms\"\nretry_max = \"100ms\"\n\
         [upload.http]\nurl = \"{}\"\ntimeout = \"5s\"\n[shutdown]\nupload_grace = \"100ms\"\n",
        receiver.url()
    ));
    let game = Game {
        per_frame: 1,
        records_max: RECORDS,
        ..Game::new(journals(&setup))
    };
    setup.set_engine(game.command_line());
    setup
}

fn segment(setup: &Setup) -> PathBuf {
    setup.data_dir().join("log").join("0000000000000001.wal")
}

fn wait_for_committed(watchdog: &Watchdog<'_>, count: u64) {
    watchdog.wait_for_status("committed records", PATIENCE, |status| {
        let committed = status["totals"]["committed"].as_u64();
        committed.filter(|committed| *committed >= count)
    });
}

fn inspect(setup: &Setup) -> Value {
    let finished = setup.run(&["buffer", "inspect", "--json"], PATIENCE);
    assert!(finished.status.success(), "{:?}", finished.lines);
    serde_json::from_str(&finished.stdout.join("\n")).expect("JSON")
}

/// The frames of the log, by the marks that each has: where one begins that is an entry with commands, and where the next
/// one does. By their heads alone, in a file that is whole.
fn frames(bytes: &[u8]) -> Vec<(usize, usize, u8, u8)> {
    let mut frames = Vec::new();
    let mut at = FRAMES_AT;
    while at + 40 <= bytes.len() {
        let word = |at: usize| u32::from_le_bytes(bytes[at..at + 4].try_into().expect("4 bytes"));
        let (length, kind, flags) = (word(at) as usize, bytes[at + 12], bytes[at + 13]);
        if kind == 0 {
            break;
        }
        let end = at + (40 + length).next_multiple_of(8);
        frames.push((at, end, kind, flags));
        at = end;
    }
    frames
}

/// A place in the log, behind so much of it (0 to 1), in which damage is told from a torn end: behind it a later batch
/// begins.
fn place(bytes: &[u8], behind: f64, random: &mut fastrand::Rng) -> usize {
    let frames = frames(bytes);
    let last_batch = frames
        .iter()
        .rfind(|(.., flags)| flags & 1 == 1)
        .map_or(FRAMES_AT, |(at, ..)| *at);
    // What says whose log it is lies in the first entries; they are refused where they have to be applied again.
    let begin = frames.get(12).map_or(FRAMES_AT, |(at, ..)| *at);
    let begin = begin + ((last_batch - begin) as f64 * behind) as usize;
    random.usize(begin..last_batch)
}

/// What the gaps at the backend say that is lost.
fn told(ledger: &Ledger) -> BTreeSet<Key> {
    let mut told = BTreeSet::new();
    for (key, arrival) in ledger.records() {
        if arrival.stream != GAP_STREAM {
            continue;
        }
        let data = arrival.data();
        let number = |name: &str| data[name].as_u64().expect("a number");
        assert_eq!(data["cause"], "the log on the disk was damaged");
        assert_eq!(
            number("last_seq") - number("first_seq") + 1,
            number("count")
        );
        for seq in number("first_seq")..=number("last_seq") {
            let is_new = told.insert(Key { seq, ..key.clone() });
            assert!(is_new, "{key:?}: {seq} is told twice as lost");
        }
    }
    told
}

/// Every number came once: as a record, or as told to be lost.
fn complaints(setup: &Setup, ledger: &Ledger, told: &BTreeSet<Key>) -> Vec<String> {
    let mut complaints = ledger.violations.clone();
    if ledger.duplicates > 0 {
        complaints.push(format!("{} duplicates", ledger.duplicates));
    }
    for played in engine::played(&journals(setup)) {
        for key in played.keys() {
            let arrival = ledger.records().get(&key);
            let is_record = arrival.is_some_and(|arrival| arrival.stream != GAP_STREAM);
            if is_record == told.contains(&key) {
                complaints.push(format!("{key:?}: arrived: {is_record}, and told the same"));
            }
        }
    }
    complaints
}

/// Waits until `count` records or more are committed and nothing is pending; the status then.
fn wait_for_all(watchdog: &Watchdog<'_>, count: u64) -> Value {
    watchdog.wait_for_status("books without anything pending", PATIENCE, |status| {
        let books = &status["upload"]["sinks"][0]["books"];
        let is_all = status["totals"]["committed"].as_u64() >= Some(count);
        (is_all && books["pending"] == 0).then(|| status.clone())
    })
}

fn copy_folder(from: &Path, to: &Path) {
    fs::create_dir_all(to).expect("a folder");
    for entry in fs::read_dir(from).expect("a folder") {
        let entry = entry.expect("an entry");
        let target = to.join(entry.file_name());
        if entry.file_type().expect("its type").is_dir() {
            copy_folder(&entry.path(), &target);
        } else {
            fs::copy(entry.path(), target).expect("copied");
        }
    }
}

fn costs_one_entry(end: End) {
    let seed = 20_261_129 + end as u64;
    println!("seed {seed}");
    let mut random = fastrand::Rng::with_seed(seed);
    let mut losses = 0;
    for round in 0..PLACES {
        let mut receiver = Receiver::start();
        receiver.go_down();
        let setup = setup(&receiver);
        let watchdog = setup.start();
        wait_for_committed(&watchdog, RECORDS);
        match end {
            End::Stopped => drop(stop_cleanly(&setup, watchdog)),
            End::Killed => kill_all(&setup, watchdog),
        }
        let path = segment(&setup);
        let mut bytes = fs::read(&path).expect("a log");
        let at = place(&bytes, 0.0, &mut random);
        bytes[at] ^= random.u8(1..);
        fs::write(&path, &bytes).expect("written");
        println!("round {round}: byte {at}");
        let verified = setup.run(&["buffer", "verify"], PATIENCE);
        assert_eq!(verified.status.code(), Some(15), "{:?}", verified.stdout);
        let place = path.display().to_string();
        assert!(verified.stdout.join("\n").contains(&place));
        assert!(inspect(&setup)["damage"][0].as_str().is_some());

        receiver.come_up();
        let watchdog = setup.start();
        // Those of the engine that was, and of the one that is.
        let status = wait_for_all(&watchdog, 2 * RECORDS);
        let log = stop_cleanly(&setup, watchdog).lines.join("\n");
        let ledger = receiver.ledger();
        let told = told(&ledger);
        let faults = complaints(&setup, &ledger, &told);
        assert!(faults.is_empty(), "{faults:#?}\n{log}");
        let books = &status["upload"]["sinks"][0]["books"];
        assert_eq!(books["lost"].as_u64(), Some(told.len() as u64), "{status}");
        if told.is_empty() {
            continue;
        }
        losses += 1;
        let words = status["store"]["rotten"][0].as_str().expect("told");
        let first = told.first().expect("one");
        assert!(
            words.contains(&format!("lost: {} to ", first.seq)),
            "{words}"
        );
        assert!(log.contains(words), "{log}");
        // The same check, were the gap not told, or the lost records sent.
        assert!(!complaints(&setup, &ledger, &BTreeSet::new()).is_empty());
        let mut more = told.clone();
        let mut arrivals = ledger.records().iter();
        let other = arrivals.find(|(_, arrival)| arrival.stream == "test");
        more.extend(other.map(|(key, _)| key.clone()));
        assert!(!complaints(&setup, &ledger, &more).is_empty());
    }
    println!("{losses} of {PLACES} places cost records");
    assert!(losses > 0, "no place held a record");
}

/// Ends watchdog and engine at once, as a power cut would.
fn kill_all(setup: &Setup, watchdog: Watchdog<'_>) {
    let engines = setup.engines(Some(&watchdog));
    watchdog.kill();
    for engine in engines {
        setup.signal(engine, rustix::process::Signal::KILL);
    }
    wait::until("their end", PATIENCE, || {
        setup.descendants(None).is_empty().then_some(())
    });
}

/// The most records of a batch in the next test.
const BATCH_RECORDS: u64 = 7;

/// Plans, marks and books lie in the log beside the records, and are lost with an entry that has to be applied again.
fn a_rotten_byte_amid_uploads_loses_and_doubles_nothing_else() {
    let mut random = fastrand::Rng::with_seed(20_261_132);
    let mut losses = 0;
    for round in 0..2 * PLACES {
        let mut setup = Setup::new();
        setup.set_config("[upload]\nbatch_max_age = \"10ms\"\nbatch_max_records = 7\n");
        setup.set_engine(Game::new(journals(&setup)).command_line());
        let watchdog = setup.start();
        wait_for_committed(&watchdog, 200);
        kill_all(&setup, watchdog);
        let path = segment(&setup);
        let mut bytes = fs::read(&path).expect("a log");
        // Every second time where the log ends: what was done last is known from nowhere else.
        let begin = if round % 2 == 0 { 0.9 } else { 0.0 };
        let at = place(&bytes, begin, &mut random);
        bytes[at] ^= random.u8(1..);
        fs::write(&path, &bytes).expect("written");
        println!("round {round}: byte {at}");
        let before = setup.uploaded_files();
        let last = before.records().keys().map(|key| key.seq).max();
        let watchdog = setup.start();
        wait_for_committed(&watchdog, 400);
        let log = stop_cleanly(&setup, watchdog).lines.join("\n");
        let ledger = setup.uploaded_files();
        let told = told(&ledger);
        let mut faults = complaints(&setup, &ledger, &told);
        // A batch that arrived, and of which that was not written down before the kill: nobody knows it when its entry rots, and its
        // numbers are told as lost. What lies further than a batch from the last arrival is held to everything.
        let is_of_batch = |seq: u64| last.is_some_and(|last| seq.abs_diff(last) < BATCH_RECORDS);
        let collides = before.records().keys().any(|key| {
            let twice = format!("{key:?} came with two contents");
            is_of_batch(key.seq) && faults.iter().any(|fault| fault.starts_with(&twice))
        });
        if collides {
            println!("round {round}: told as lost, and had arrived with the last batch");
            faults.retain(|fault| {
                let seq = fault
                    .split("seq: ")
                    .nth(1)
                    .and_then(|rest| rest.split(' ').next()?.parse().ok());
                !seq.is_some_and(is_of_batch)
            });
        }
        assert!(
            faults.is_empty(),
            "round {round}, byte {at}: {faults:#?}\n{log}"
        );
        losses += u64::from(!told.is_empty());
        let audit = setup.run(&["audit"], PATIENCE);
        assert!(
            audit.status.success() || collides,
            "round {round}, byte {at}: {:#?}",
            audit.stdout
        );
    }
    println!("{losses} of {} places cost records", 2 * PLACES);
}

fn a_rotten_byte_of_what_was_uploaded_costs_nothing() {
    let receiver = Receiver::start();
    let setup = setup(&receiver);
    let watchdog = setup.start();
    wait_for_committed(&watchdog, RECORDS);
    wait_for_all(&watchdog, RECORDS);
    stop_cleanly(&setup, watchdog);
    let whole = setup.scratch().join("whole");
    copy_folder(&setup.data_dir(), &whole);
    let mut random = fastrand::Rng::with_seed(7);
    let mut counts = BTreeMap::new();
    for _ in 0..3 {
        fs::remove_dir_all(setup.data_dir()).expect("removed");
        copy_folder(&whole, &setup.data_dir());
        let path = segment(&setup);
        let mut bytes = fs::read(&path).expect("a log");
        let at = place(&bytes, 0.0, &mut random);
        bytes[at] ^= 1;
        fs::write(&path, &bytes).expect("written");
        let watchdog = setup.start();
        let status = wait_for_all(&watchdog, 2 * RECORDS);
        let lost = status["upload"]["sinks"][0]["books"]["lost"].as_u64();
        counts.insert(at, lost);
        stop_cleanly(&setup, watchdog);
    }
    assert!(counts.values().all(|lost| *lost == Some(0)), "{counts:?}");
    assert!(told(&receiver.ledger()).is_empty());
}
