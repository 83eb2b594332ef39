//! A watchdog's log changes on the disk, while it is stopped or while it runs. One byte costs nothing. Of more, it goes on all the
//! same, everything else arrives once, and the backend is told the exact numbers that are lost.
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
use sidekick_tests::log_bytes::{any_place, change, damage, frames, kill_all, place, segment};
use sidekick_tests::receiver::{Fault, Receiver};
use sidekick_tests::verdicts::{PATIENCE, journals, stop_cleanly, trial};
use sidekick_tests::wait;
use sidekick_tests::watchdog::{Setup, Watchdog};

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
            "one_byte_anywhere_costs_nothing",
            one_byte_anywhere_costs_nothing,
        ),
        trial(
            "one_byte_costs_nothing_where_lanes_stand_apart",
            one_byte_costs_nothing_where_lanes_stand_apart,
        ),
        trial("rot_of_a_log_that_was_closed_costs_what_it_lies_in", || {
            costs_what_it_lies_in(End::Stopped);
        }),
        trial(
            "rot_of_a_log_that_was_left_open_costs_what_it_lies_in",
            || costs_what_it_lies_in(End::Killed),
        ),
        trial(
            "rot_amid_uploads_loses_and_doubles_nothing_else",
            rot_amid_uploads_loses_and_doubles_nothing_else,
        ),
        trial(
            "rot_of_what_was_uploaded_costs_nothing",
            rot_of_what_was_uploaded_costs_nothing,
        ),
        trial("rot_under_a_running_watchdog_costs_one_record", || {
            rots_under_a_running_watchdog(false);
        }),
        trial(
            "rot_under_a_running_watchdog_is_told_the_same_over_kills",
            || rots_under_a_running_watchdog(true),
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
    let game = |journals| Game {
        per_frame: 1,
        records_max: RECORDS,
        ..Game::new(journals)
    };
    setup_with(receiver, "", game)
}

fn setup_with(receiver: &Receiver, upload: &str, game: impl Fn(PathBuf) -> Game) -> Setup {
    let mut setup = Setup::new();
    setup.set_config(&format!(
        "[upload]\nsinks = [\"http\"]\nbatch_max_age = \"50ms\"\nretry_first = \"10ms\"\nretry_max = \"100ms\"\n{upload}\
         [upload.http]\nurl = \"{}\"\ntimeout = \"60s\"\n[shutdown]\nupload_grace = \"100ms\"\n\
         [store]\ncache_size = \"1MiB\"\n",
        receiver.url()
    ));
    setup.set_engine(game(journals(&setup)).command_line());
    setup
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

/// What the gaps at the backend say that is lost.
fn told(ledger: &Ledger) -> BTreeSet<Key> {
    let mut told = BTreeSet::new();
    for (key, arrival) in ledger.records() {
        if arrival.stream != GAP_STREAM {
            continue;
        }
        let data = arrival.data();
        let number = |name: &str| data[name].as_u64().expect("a number");
        // The last numbers of a session are read from its ring again, where the engine may have written over them.
        let causes = [
            "the log on the disk was damaged",
            "overwritten in the ring before it was read",
        ];
        let cause = data["cause"].as_str().unwrap_or_default();
        assert!(causes.contains(&cause), "{data}");
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

fn costs_what_it_lies_in(end: End) {
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
        let bytes = fs::read(&path).expect("a log");
        let at = place(&bytes, 0.0, &mut random);
        damage(&setup, at, &mut random);
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

/// Whatever the byte is of, the log's first and last entries and its header among it, and whether all has to be applied again.
fn one_byte_anywhere_costs_nothing() {
    let mut random = fastrand::Rng::with_seed(20_261_135);
    for round in 0..2 * PLACES {
        let mut setup = Setup::new();
        setup.set_config("[upload]\nbatch_max_age = \"10ms\"\nbatch_max_records = 7\n");
        setup.set_engine(Game::new(journals(&setup)).command_line());
        let watchdog = setup.start();
        wait_for_committed(&watchdog, 200);
        match round % 2 {
            0 => kill_all(&setup, watchdog),
            _ => drop(stop_cleanly(&setup, watchdog)),
        }
        let bytes = fs::read(segment(&setup)).expect("a log");
        let at = any_place(&bytes, &mut random);
        change(&setup, at, &mut random);
        println!("round {round}: byte {at}");
        let verified = setup.run(&["buffer", "verify"], PATIENCE);
        let words = verified.stdout.join("\n");
        assert_eq!(verified.status.code(), Some(15), "byte {at}: {words}");
        assert!(words.contains(&format!("byte {at}:")), "{words}");
        let watchdog = setup.start();
        let status = watchdog.wait_for_status("more records", PATIENCE, |status| {
            let committed = status["totals"]["committed"].as_u64();
            (committed >= Some(400)).then(|| status.clone())
        });
        let store = &status["store"];
        assert_eq!(store["mended_bytes"], 1, "byte {at}: {store}");
        assert_eq!(store["rotten"].as_array().map(Vec::len), Some(0), "{store}");
        let log = stop_cleanly(&setup, watchdog).lines.join("\n");
        assert!(log.contains("not what was written"), "{log}");
        let ledger = setup.uploaded_files();
        let told = told(&ledger);
        assert!(told.is_empty(), "byte {at}: {told:?}");
        let faults = complaints(&setup, &ledger, &told);
        assert!(faults.is_empty(), "byte {at}: {faults:#?}\n{log}");
        let audit = setup.run(&["audit"], PATIENCE);
        assert!(audit.status.success(), "byte {at}: {:#?}", audit.stdout);
    }
}

/// Two streams have a lane each, and the watchdog is killed amid uploads. What had arrived is not told as lost.
fn one_byte_costs_nothing_where_lanes_stand_apart() {
    let mut random = fastrand::Rng::with_seed(20_261_136);
    for round in 0..PLACES {
        let mut receiver = Receiver::start();
        receiver.go_down();
        let setup = setup_with(&receiver, "batch_max_records = 7\n", |journals| Game {
            per_frame: 1,
            records_max: RECORDS,
            ..Game::new(journals)
        });
        let watchdog = setup.start();
        wait_for_committed(&watchdog, RECORDS);
        receiver.come_up();
        wait::until("uploads", PATIENCE, || {
            (receiver.look(Ledger::count) >= 100).then_some(())
        });
        kill_all(&setup, watchdog);
        let bytes = fs::read(segment(&setup)).expect("a log");
        let frames = frames(&bytes);
        let entries: Vec<_> = frames.iter().filter(|frame| frame.is_commands()).collect();
        let entry = entries[random.usize(..entries.len())];
        // Among the commands.
        let at = random.usize(entry.at + 40..entry.at + 100);
        change(&setup, at, &mut random);
        println!("round {round}: byte {at}");
        let watchdog = setup.start();
        let status = wait_for_all(&watchdog, 2 * RECORDS);
        let log = stop_cleanly(&setup, watchdog).lines.join("\n");
        let ledger = receiver.ledger();
        let told = told(&ledger);
        assert!(told.is_empty(), "byte {at}: {told:?}");
        let mut faults = complaints(&setup, &ledger, &told);
        // What was on its way comes again, as it was.
        faults.retain(|fault| !fault.ends_with("duplicates"));
        assert!(faults.is_empty(), "byte {at}: {faults:#?}\n{log}");
        let books = &status["upload"]["sinks"][0]["books"];
        assert_eq!(books["lost"], 0, "{books}");
    }
}

/// Plans, marks and books lie in the log beside the records, and are lost with an entry that has to be applied again. What had
/// arrived by then, the sink itself knows.
fn rot_amid_uploads_loses_and_doubles_nothing_else() {
    let random = fastrand::Rng::with_seed(20_261_132);
    let mut losses = 0;
    let places = std::env::var("HARNESS_ROTS").ok();
    let places = places.map_or(2 * PLACES, |count| count.parse().expect("a number"));
    let mut random = match places == 2 * PLACES {
        true => random,
        false => fastrand::Rng::new(),
    };
    for round in 0..places {
        let mut setup = Setup::new();
        setup.set_config("[upload]\nbatch_max_age = \"10ms\"\nbatch_max_records = 7\n");
        setup.set_engine(Game::new(journals(&setup)).command_line());
        let watchdog = setup.start();
        wait_for_committed(&watchdog, 200);
        kill_all(&setup, watchdog);
        let bytes = fs::read(segment(&setup)).expect("a log");
        // Every second time where the log ends: what was done last is known from nowhere else.
        let begin = if round % 2 == 0 { 0.9 } else { 0.0 };
        let at = place(&bytes, begin, &mut random);
        damage(&setup, at, &mut random);
        println!("round {round}: byte {at}");
        let watchdog = setup.start();
        wait_for_committed(&watchdog, 400);
        let log = stop_cleanly(&setup, watchdog).lines.join("\n");
        let ledger = setup.uploaded_files();
        let told = told(&ledger);
        let faults = complaints(&setup, &ledger, &told);
        assert!(
            faults.is_empty(),
            "round {round}, byte {at}: {faults:#?}\n{log}"
        );
        losses += u64::from(!told.is_empty());
        let audit = setup.run(&["audit"], PATIENCE);
        assert!(
            audit.status.success(),
            "round {round}, byte {at}: {:#?}",
            audit.stdout
        );
    }
    println!("{losses} of {places} places cost records");
}

fn rot_of_what_was_uploaded_costs_nothing() {
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
        let bytes = fs::read(segment(&setup)).expect("a log");
        let at = place(&bytes, 0.0, &mut random);
        damage(&setup, at, &mut random);
        let watchdog = setup.start();
        let status = wait_for_all(&watchdog, 2 * RECORDS);
        let lost = status["upload"]["sinks"][0]["books"]["lost"].as_u64();
        counts.insert(at, lost);
        stop_cleanly(&setup, watchdog);
    }
    assert!(counts.values().all(|lost| *lost == Some(0)), "{counts:?}");
    assert!(told(&receiver.ledger()).is_empty());
}

/// An engine records so many in the next test: more than the watchdog keeps of them in memory.
const MANY: u64 = 8000;

/// The damage is in an entry that nobody has read, in memory neither of the store nor of a lane. With `kills`, answers of the
/// backend get lost and the watchdog is killed while it goes on.
fn rots_under_a_running_watchdog(kills: bool) {
    let mut random = fastrand::Rng::with_seed(20_261_133 + u64::from(kills));
    for round in 0..3 {
        let mut receiver = Receiver::start();
        receiver.go_down();
        let setup = setup_with(&receiver, "batch_max_records = 50\n", |journals| Game {
            per_frame: 20,
            text_bytes: 1000,
            records_max: MANY,
            ..Game::new(journals)
        });
        let watchdog = setup.start();
        wait_for_committed(&watchdog, MANY);
        let bytes = fs::read(segment(&setup)).expect("a log");
        let frames = frames(&bytes);
        let end = frames.last().map_or(0, |frame| frame.end);
        // Entries with records.
        let entries: Vec<_> = frames
            .iter()
            .filter(|frame| frame.is_commands() && frame.end - frame.at > 2000)
            .filter(|frame| frame.at > end / 2 && frame.end < end - (2 << 20))
            .collect();
        assert!(!entries.is_empty(), "{} frames up to {end}", frames.len());
        let frame = entries[random.usize(..entries.len())];
        // Once among the commands, which costs the entry. They begin behind 20 bytes that tell of them.
        let heads = frame.at + 60..frame.at + 100;
        let records = frame.at + 1000..frame.end - 8;
        let at = random.usize(if round == 0 { heads } else { records });
        damage(&setup, at, &mut random);
        println!("round {round}: byte {at} of {end}");

        let faults = fastrand::Rng::with_seed(round);
        let faults = std::sync::Mutex::new(faults);
        receiver.set_plan(move |_| {
            let fault = faults.lock().expect("a seed").u8(0..4);
            (kills && fault == 0).then_some(Fault::CutTaken)
        });
        receiver.come_up();
        let mut watchdog = watchdog;
        if kills {
            watchdog.wait_for_status("a damaged entry", PATIENCE, |status| {
                let rotten = status["store"]["rotten"].as_array();
                rotten.filter(|rotten| !rotten.is_empty()).map(|_| ())
            });
            for more in [0, MANY / 20, MANY / 20] {
                let before = receiver.look(Ledger::count) as u64;
                wait::until("some more of it", PATIENCE, || {
                    let count = receiver.look(Ledger::count) as u64;
                    (count >= (before + more).min(MANY * 9 / 10)).then_some(())
                });
                watchdog.kill();
                watchdog = setup.start();
            }
        }
        let status = wait_for_all(&watchdog, MANY);
        let most = match round {
            0 => (frame.end - frame.at) / 1000 + 1,
            // It may lie where one ends and the next begins.
            _ => 2,
        };
        let check = |status: &Value| {
            let ledger = receiver.ledger();
            let told = told(&ledger);
            let mut faults = complaints(&setup, &ledger, &told);
            if kills {
                // What was taken and not answered comes again, as it was.
                faults.retain(|fault| !fault.ends_with("duplicates"));
            }
            assert!(faults.is_empty(), "round {round}: {faults:#?}");
            let books = &status["upload"]["sinks"][0]["books"];
            assert_eq!(books["lost"].as_u64(), Some(told.len() as u64), "{status}");
            let words = status["store"]["rotten"][0].as_str().expect("told");
            let lost = match told.first() {
                Some(first) => format!("lost: {} to ", first.seq),
                // Between two records.
                None => "no record is known to be lost".to_owned(),
            };
            assert!(words.contains(&lost), "{words}");
            assert!(round > 0 || !told.is_empty(), "{words}");
            assert!(!words.contains("state writes"), "{words}");
            assert!(told.len() <= most, "round {round}: {words}");
            words.to_owned()
        };
        let words = check(&status);
        let log = stop_cleanly(&setup, watchdog).lines.join("\n");
        assert!(kills || log.contains(&words), "{log}");
        // The next one tells of the same, and of nothing a second time.
        let watchdog = setup.start();
        let status = wait_for_all(&watchdog, 2 * MANY);
        let again = check(&status);
        let numbers = |words: &str| {
            words
                .split_once(", lost: ")
                .map(|(_, lost)| lost.to_owned())
        };
        assert_eq!(numbers(&again), numbers(&words), "round {round}");
        stop_cleanly(&setup, watchdog);
    }
}
