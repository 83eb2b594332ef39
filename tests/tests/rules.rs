//! Rules for streams, with the real watchdog and an engine without Godot: what a rule takes out of a record is nowhere on
//! the disk, numbers stay whole, and a reload changes rules under a running game without losing one.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::time::Duration;

use serde_json::json;
use sidekick_ipc::value::{Value, encode};
use sidekick_tests::engine;
use sidekick_tests::folders::texts;
use sidekick_tests::verdicts::{self, trial};
use sidekick_tests::wait;
use sidekick_tests::watchdog::Setup;

const PATIENCE: Duration = Duration::from_secs(120);
/// The first argument of this executable when it is to be an engine.
const FLAG: &str = "--act-as-chat";
/// What must never reach a disk.
const SECRET: &str = "10.66.77.88";
const NAME: &str = "annabelle-the-first";

const CONFIG: &str = r#"
[upload]
batch_max_age = "50ms"

[[stream]]
match = "chat.*"
drop_fields = ["ip"]
hash_fields = ["players.*.name"]
hash_key_file = "hash.key"
set = { region = "eu" }

[[stream]]
match = "debug"
drop = true

[[test]]
name = "no addresses"
stream = "chat.say"
input = { ip = "1.2.3.4", n = 1 }
expect = { n = 1, region = "eu" }
"#;

fn main() -> ExitCode {
    if std::env::args_os().nth(1).is_some_and(|word| word == FLAG) {
        return play();
    }
    let trials = vec![
        trial(
            "what_a_rule_takes_out_is_nowhere_on_the_disk",
            what_a_rule_takes_out_is_nowhere_on_the_disk,
        ),
        trial(
            "without_the_rule_it_would_be_found",
            without_the_rule_it_would_be_found,
        ),
        trial(
            "rules_are_reloaded_under_a_running_game",
            rules_are_reloaded_under_a_running_game,
        ),
        trial(
            "each_record_tells_the_version_that_recorded_it",
            each_record_tells_the_version_that_recorded_it,
        ),
    ];
    verdicts::run(trials, 1)
}

/// Records a line of chat and one of debugging in each frame until it is asked to quit.
fn play() -> ExitCode {
    let mut options = engine::options();
    // Each incarnation is of another version.
    let version = format!("1.{}", options.incarnation);
    options.game_version.clone_from(&version);
    let text = |text: &str| Value::String(text.into());
    let mut number = 0;
    engine::play_frames(options, Duration::from_millis(5), |session| {
        number += 1;
        let player = Value::Dictionary(vec![(text("name"), text(NAME))]);
        let said = Value::Dictionary(vec![
            (text("n"), Value::Int(number)),
            (text("ip"), text(SECRET)),
            (text("version"), text(&version)),
            (text("players"), Value::Array(vec![player])),
        ]);
        let _ = session.record("chat.say", &encode(&said));
        let _ = session.record("debug", &encode(&text(SECRET)));
    })
}

fn setup(config: &str) -> Setup {
    let mut setup = Setup::new();
    setup.set_config(config);
    let key = setup.config_path().with_file_name("hash.key");
    fs::write(key, "a key of the test's own\n".replace(' ', "-")).expect("the key's file");
    let own = std::env::current_exe().expect("the path of this executable");
    setup.set_engine([own.as_os_str(), FLAG.as_ref()]);
    setup
}

/// Files below `folder` that hold `needle`, as text or packed.
fn files_with(folder: &Path, needle: &str) -> Vec<PathBuf> {
    let mut texts = texts(folder);
    texts.retain(|_, text| text.contains(needle));
    texts.into_keys().collect()
}

/// How many lines of chat have arrived, and the region that the last of them has.
fn arrived(setup: &Setup) -> (usize, String) {
    let ledger = setup.uploaded_files();
    let chat = ledger
        .records()
        .iter()
        .filter(|(_, arrival)| arrival.stream == "chat.say");
    let mut chat: Vec<_> = chat
        .map(|(key, arrival)| (key.seq, arrival.data()))
        .collect();
    chat.sort_by_key(|(seq, _)| *seq);
    let region = chat.last().map(|(_, data)| data["region"].clone());
    let region = region.and_then(|region| region.as_str().map(str::to_owned));
    (chat.len(), region.unwrap_or_default())
}

/// An address is left out, a name is hashed, a stream is dropped: neither log nor state, upload, dead letter nor report has
/// any of them, though the engine is killed in the middle of it.
fn what_a_rule_takes_out_is_nowhere_on_the_disk() {
    let setup = setup(CONFIG);
    let check = setup.run(&["check"], PATIENCE);
    assert!(check.status.success(), "{:#?}", check.lines);
    let watchdog = setup.start();
    wait::until("some chat", PATIENCE, || {
        (arrived(&setup).0 > 20).then_some(())
    });
    for engine in setup.engines(Some(&watchdog)) {
        setup.signal(engine, rustix::process::Signal::KILL);
    }
    wait::until("chat of the next incarnation", PATIENCE, || {
        let ledger = setup.uploaded_files();
        let mut lines = std::collections::BTreeMap::<_, u32>::new();
        for (key, arrival) in ledger.records() {
            let is_chat = arrival.stream == "chat.say";
            *lines.entry(&key.epoch).or_default() += u32::from(is_chat);
        }
        let is_known = |lines: &&u32| **lines > 20;
        (lines.values().filter(is_known).count() == 2).then_some(())
    });
    let finished = watchdog.stop(PATIENCE);
    assert!(finished.status.success(), "{:#?}", finished.lines);
    for needle in [SECRET, NAME] {
        let found = files_with(&setup.data_dir(), needle);
        assert!(found.is_empty(), "{needle} is in {found:?}");
        assert!(!finished.lines.iter().any(|line| line.contains(needle)));
    }
    let ledger = setup.uploaded_files();
    assert!(ledger.violations.is_empty(), "{:#?}", ledger.violations);
    let mut hashes = Vec::new();
    let mut last = std::collections::BTreeMap::<String, i64>::new();
    for (key, arrival) in ledger.records() {
        match arrival.stream.as_str() {
            "chat.say" => {
                let data = arrival.data();
                assert_eq!(data["region"], json!("eu"));
                hashes.push(data["players"][0]["name"].clone());
                // The engine's first record has number 1, and each line of chat one of debugging behind it.
                let number = data["n"].as_i64().expect("a number");
                assert_eq!(key.seq as i64, 2 * number - 1, "{key:?}");
                let last = last.entry(key.epoch.clone()).or_default();
                *last = number.max(*last);
            }
            "debug" => panic!("{key:?} was to be dropped"),
            "sidekick.gap" => panic!("nothing is lost: {}", arrival.data()),
            _ => {}
        }
    }
    assert_eq!(last.len(), 2, "two incarnations");
    let total: i64 = last.values().sum();
    assert_eq!(hashes.len() as i64, total, "each line of chat arrives");
    hashes.dedup();
    assert_eq!(hashes.len(), 1, "one player, one hash: {hashes:?}");
    assert_eq!(hashes[0].as_str().map(str::len), Some(32));
}

/// The broken variant of the claim above: it looks where it would have to look.
fn without_the_rule_it_would_be_found() {
    let setup = setup("[upload]\nbatch_max_age = \"50ms\"\n");
    let watchdog = setup.start();
    wait::until("some chat", PATIENCE, || {
        (arrived(&setup).0 > 20).then_some(())
    });
    watchdog.stop(PATIENCE);
    let found = files_with(&setup.data_dir(), SECRET);
    let is_in = |folder: &str| {
        found
            .iter()
            .any(|path| path.to_string_lossy().contains(folder))
    };
    assert!(is_in("/uploads/") && found.len() > 1, "{found:?}");
}

/// By command and by signal; a bad file is refused and changes nothing. No record is lost over it.
fn rules_are_reloaded_under_a_running_game() {
    let setup = setup(CONFIG);
    let mut watchdog = setup.start();
    let region = |expected: &str| {
        wait::until(expected, PATIENCE, || {
            (arrived(&setup).1 == expected).then_some(())
        });
    };
    region("eu");
    setup.set_config(&CONFIG.replace("\"eu\"", "\"us\""));
    let reload = setup.run(&["config", "reload"], PATIENCE);
    assert!(reload.status.success(), "{:#?}", reload.lines);
    region("us");
    for (stage, has_secret, has_region) in [
        ("raw", true, false),
        ("stored", false, false),
        ("uploaded", false, true),
    ] {
        let tail = [
            "records", "tail", "--stream", "chat.*", "-n", "3", "--stage", stage,
        ];
        // The last three of all may be of both regions for a moment.
        let tail = wait::until("lines of one region", PATIENCE, || {
            let tail = setup.run(&tail, PATIENCE);
            assert!(tail.status.success(), "{:#?}", tail.lines);
            (!tail.stdout.iter().any(|line| line.contains("\"eu\""))).then_some(tail)
        });
        let lines = tail.stdout.iter().filter(|line| line.contains("\"data\":"));
        assert_eq!(lines.clone().count(), 3, "{:#?}", tail.stdout);
        for line in lines {
            assert_eq!(line.contains(SECRET), has_secret, "{line}");
            assert_eq!(line.contains("\"us\""), has_region, "{line}");
            assert!(line.contains(&format!("\"stage\":\"{stage}\"")), "{line}");
        }
    }

    setup.set_config(&CONFIG.replace("expect = { n = 1", "expect = { n = 2"));
    let refused = setup.run(&["config", "reload"], PATIENCE);
    assert_eq!(refused.status.code(), Some(3), "{:#?}", refused.lines);
    let words = refused.lines.join("\n");
    assert!(words.contains("data.n: expected 2, found 1"), "{words}");

    setup.set_config(&CONFIG.replace("\"eu\"", "\"ap\""));
    if fs::File::open("/dev/tty").is_ok() {
        // A hangup would end it here.
        setup.run(&["config", "reload"], PATIENCE);
    } else {
        watchdog.running.signal(rustix::process::Signal::HUP);
    }
    watchdog.wait_for_log("the reload", PATIENCE, |line| {
        (line.message == "rules reloaded" && line.number("version") == Some(3)).then_some(())
    });
    region("ap");
    watchdog.stop(PATIENCE);
    let ledger = setup.uploaded_files();
    assert!(ledger.violations.is_empty(), "{:#?}", ledger.violations);
    let (count, _) = arrived(&setup);
    let last = ledger.records().keys().map(|key| key.seq).max();
    let chat = ledger
        .records()
        .values()
        .filter(|arrival| arrival.stream == "chat.say");
    assert_eq!(chat.count(), count);
    // Each second number is debugging, which is dropped.
    assert!(
        last.is_some_and(|last| last.div_ceil(2) == count as u64),
        "{last:?} {count}"
    );
    assert!(files_with(&setup.data_dir(), SECRET).is_empty());
}

/// Two versions of a game record while the backend is away; engine and watchdog are killed, and a third version runs when
/// the records go out. A rule that tells the version tells that of each record, not of the moment.
fn each_record_tells_the_version_that_recorded_it() {
    const RULES: &str = r#"
[[stream]]
match = "chat.*"
set = { told = { expr = "game_version" } }

[[stream]]
match = "chat.*"
aggregate = { into = "lines", every = "1s", lateness = "0s", by = ["version", "$game_version"], keep_raw = true }

[[stream]]
match = "debug"
drop = "game_version == '1.2'"
"#;
    let away = format!(
        "[upload]\nsinks = [\"http\"]\n[upload.http]\nurl = \"http://127.0.0.1:1/\"\n{RULES}"
    );
    let setup = setup(&away);
    let watchdog = setup.start();
    for incarnation in 1..=2 {
        watchdog.wait_for_status("a session", PATIENCE, |status| {
            let engine = &status["engine"];
            let is_it = engine["incarnation"] == incarnation
                && engine["game_version"] == format!("1.{incarnation}");
            let committed = status["session"]["committed"].as_u64()?;
            (is_it && committed > 20).then_some(())
        });
        if incarnation == 1 {
            for engine in setup.engines(Some(&watchdog)) {
                setup.signal(engine, rustix::process::Signal::KILL);
            }
        }
    }
    watchdog.kill();
    for engine in setup.engines(None) {
        setup.signal(engine, rustix::process::Signal::KILL);
    }
    // The sink takes the place of the other, and so all that this one had not taken.
    setup.set_config(&format!("[upload]\nbatch_max_age = \"50ms\"\n{RULES}"));
    let watchdog = setup.start();
    let versions = |stream: &str| {
        let ledger = setup.uploaded_files();
        let records = ledger.records().values();
        let records = records.filter(|arrival| arrival.stream == stream);
        records.map(|arrival| arrival.data()).collect::<Vec<_>>()
    };
    wait::until("lines of the third version", PATIENCE, || {
        let rows = versions("lines");
        rows.iter()
            .any(|row| row["by"]["version"] == "1.3")
            .then_some(())
    });
    watchdog.stop(PATIENCE);
    let mut seen = std::collections::BTreeSet::new();
    for data in versions("chat.say") {
        assert_eq!(data["told"], data["version"], "{data}");
        seen.insert(data["version"].as_str().expect("a text").to_owned());
    }
    assert!(seen.into_iter().eq(["1.1", "1.2", "1.3"]));
    for row in versions("lines") {
        let by = &row["by"];
        assert_eq!(by["$game_version"], by["version"], "{row}");
    }
    let ledger = setup.uploaded_files();
    let mut debugging = std::collections::BTreeSet::new();
    for (key, arrival) in ledger.records() {
        match arrival.stream.as_str() {
            "debug" => drop(debugging.insert(key.epoch.clone())),
            "sidekick.end" => {
                let data = arrival.data();
                assert!(data["game_version"].is_string(), "{data}");
            }
            _ => {}
        }
    }
    assert_eq!(debugging.len(), 2, "one of the three drops it");
}
