//! Aggregates and duplicates, with the real watchdog, which is killed at random while an engine without Godot records on: the
//! rows that arrive add up to what was recorded, exactly, and of each kind of record one arrives.

use std::collections::{BTreeMap, BTreeSet};
use std::process::ExitCode;
use std::thread;
use std::time::Duration;

use serde_json::Value as Json;
use sidekick_ipc::value::{Value, encode};
use sidekick_tests::engine;
use sidekick_tests::verdicts::{self, trial};
use sidekick_tests::wait;
use sidekick_tests::watchdog::Setup;

const PATIENCE: Duration = Duration::from_secs(120);
/// The first argument of this executable when it is to be an engine.
const FLAG: &str = "--act-as-arena";
/// How often the watchdog is killed.
const KILLS: u32 = 8;

const CONFIG: &str = r#"
[upload]
batch_max_age = "20ms"

[[stream]]
match = "damage"
aggregate = { into = "damage.second", every = "1s", lateness = "0s", by = ["weapon"], values = ["amount"] }

[[stream]]
match = "match.*"
dedupe = { by = ["id"], within = "1h" }
"#;

fn main() -> ExitCode {
    if std::env::args_os().nth(1).is_some_and(|word| word == FLAG) {
        return play();
    }
    let trials = vec![trial(
        "rows_add_up_to_what_was_recorded_over_kills_of_the_watchdog",
        rows_add_up_to_what_was_recorded_over_kills_of_the_watchdog,
    )];
    verdicts::run(trials, 1)
}

/// Whether the record with this number is of stream `damage`; the others tell of a match.
fn is_damage(seq: u64) -> bool {
    !seq.is_multiple_of(3)
}

/// What a record of damage has in it.
fn amount(seq: u64) -> i64 {
    (seq % 1000) as i64 - 300
}

/// Each match is told of several times.
fn match_id(seq: u64) -> i64 {
    (seq / 10) as i64
}

/// Records some of both in each frame until it is asked to quit. What is recorded follows from the number that it gets.
fn play() -> ExitCode {
    let field = |name: &str, value| (Value::String(name.into()), Value::Int(value));
    let mut seq = 0;
    engine::play_frames(engine::options(), Duration::from_millis(5), |session| {
        for _ in 0..10 {
            seq += 1;
            let (stream, fields) = match is_damage(seq) {
                true => {
                    let weapon = field("weapon", (seq % 4) as i64);
                    ("damage", vec![weapon, field("amount", amount(seq))])
                }
                false => ("match.end", vec![field("id", match_id(seq))]),
            };
            let given = session.record(stream, &encode(&Value::Dictionary(fields)));
            assert_eq!(given.ok(), Some(seq), "the numbers are the engine's own");
        }
    })
}

/// What was recorded, or has arrived.
#[derive(Debug, Default, PartialEq)]
struct Tally {
    hits: u64,
    damage: i64,
    by_weapon: BTreeMap<u64, u64>,
    matches: BTreeSet<i64>,
    /// Records of matches beyond one for each.
    repeated: u64,
}

impl Tally {
    fn recorded(last_seq: u64) -> Self {
        let mut tally = Self::default();
        for seq in 1..=last_seq {
            match is_damage(seq) {
                true => {
                    tally.hits += 1;
                    tally.damage += amount(seq);
                    *tally.by_weapon.entry(seq % 4).or_default() += 1;
                }
                false => drop(tally.matches.insert(match_id(seq))),
            }
        }
        tally
    }

    fn arrived<'a>(records: impl Iterator<Item = (&'a str, Json)>) -> Self {
        let mut tally = Self::default();
        for (stream, data) in records {
            match stream {
                "damage.second" => {
                    let count = data["count"].as_u64().expect("a number");
                    let weapon = data["by"]["weapon"].as_u64().expect("a number");
                    tally.hits += count;
                    tally.damage += data["values"]["amount"]["sum"].as_i64().expect("whole");
                    *tally.by_weapon.entry(weapon).or_default() += count;
                }
                "match.end" => {
                    let id = data["id"].as_i64().expect("a number");
                    tally.repeated += u64::from(!tally.matches.insert(id));
                }
                "damage" => panic!("the records themselves are not sent"),
                _ => {}
            }
        }
        tally
    }
}

/// Stream and data of what has arrived.
fn records(setup: &Setup) -> Vec<(String, Json)> {
    let ledger = setup.uploaded_files();
    assert!(ledger.violations.is_empty(), "{:#?}", ledger.violations);
    let arrivals = ledger.records().values();
    arrivals
        .map(|arrival| (arrival.stream.clone(), arrival.data()))
        .collect()
}

fn tally(records: &[(String, Json)]) -> Tally {
    Tally::arrived(
        records
            .iter()
            .map(|(stream, data)| (stream.as_str(), data.clone())),
    )
}

fn rows_add_up_to_what_was_recorded_over_kills_of_the_watchdog() {
    let mut setup = Setup::new();
    setup.set_config(CONFIG);
    let own = std::env::current_exe().expect("the path of this executable");
    setup.set_engine([own.as_os_str(), FLAG.as_ref()]);
    let mut watchdog = setup.start();
    watchdog.wait_for_status("an open window", PATIENCE, |status| {
        let folding = &status["store"]["folding"];
        let is_told = folding["oldest_window"].is_string()
            && folding["oldest_window_age_s"].is_number()
            && folding["waiting"].is_number();
        (is_told && folding["open_windows"].as_u64()? > 0).then_some(())
    });
    let mut hits = 0;
    for kill in 0..KILLS {
        // Rows that come after the last kill: it works, and then it is killed wherever it stands.
        hits = wait::until("more rows", PATIENCE, || {
            let now = tally(&records(&setup)).hits;
            (now > hits).then_some(now)
        });
        thread::sleep(Duration::from_millis(fastrand::u64(0..400)));
        watchdog.kill();
        if kill % 2 == 1 {
            // What comes meanwhile waits in the ring.
            thread::sleep(Duration::from_millis(fastrand::u64(0..600)));
        }
        watchdog = setup.start();
    }
    watchdog.wait_for_status("the last one at work", PATIENCE, |status| {
        (status["engine"]["connected"] == true).then_some(())
    });
    let stopped = setup.run(&["stop"], PATIENCE);
    assert!(stopped.status.success(), "{:#?}", stopped.lines);
    let last_seq = wait::until("the session's end", PATIENCE, || {
        let records = records(&setup);
        let end = records.iter().find(|(stream, _)| stream == "sidekick.end");
        end.and_then(|(_, data)| data["last_seq"].as_u64())
    });
    let expected = Tally::recorded(last_seq);
    assert!(expected.hits > 1000, "{last_seq} records are few");
    wait::until("all rows", PATIENCE, || {
        (tally(&records(&setup)).hits >= expected.hits).then_some(())
    });
    let finished = watchdog.stop(PATIENCE);
    assert!(finished.status.success(), "{:#?}", finished.lines);
    let mut records = records(&setup);
    assert_eq!(tally(&records), expected);

    // It does count: a row that is missing, one that comes twice, and a match that does.
    let row = records
        .iter()
        .position(|(stream, _)| stream == "damage.second");
    let row = records.remove(row.expect("a row"));
    assert_ne!(tally(&records), expected);
    records.extend([row.clone(), row]);
    assert_ne!(tally(&records), expected);
    records.pop();
    assert_eq!(tally(&records), expected);
    let end = records.iter().find(|(stream, _)| stream == "match.end");
    let end = end.expect("a match").clone();
    records.push(end);
    assert_ne!(tally(&records), expected);
}
