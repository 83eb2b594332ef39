//! Watchdogs come and go around an engine that is being started.

use std::ffi::OsString;
use std::fs;
use std::thread;
use std::time::Duration;

use libtest_mimic::Trial;
use rustix::process::Signal;
use sidekick_tests::engine::Game;
use sidekick_tests::folders::Folder;
use sidekick_tests::history::{Look, faults_of_a_duel, faults_of_one_life};
use sidekick_tests::process::Running;
use sidekick_tests::wait;

use super::{
    PATIENCE, assert_all_arrived, journals, others, playing, rounds, status, stop_cleanly, trial,
    wait_for_status, wait_until_alone, wait_until_played,
};

const DUELS_DEFAULT: u32 = 50;
const STARTS: u32 = 10;
const UNSEEN_DEATHS: usize = 5;
/// `ExitCode::Locked`.
const LOCKED: i32 = 7;

pub(super) fn trials() -> Vec<Trial> {
    vec![
        trial("of_two_watchdogs_started_at_once_exactly_one_wins", duels),
        trial(
            "an_engine_that_has_no_ring_yet_is_adopted_and_heard_when_it_has",
            no_ring_yet,
        ),
        trial(
            "two_watchdogs_without_a_common_lock_are_seen",
            no_common_lock,
        ),
        trial("an_engine_that_nobody_adopts_is_seen", nobody_adopts),
        trial(
            "an_engine_whose_ring_was_cleaned_up_runs_on_is_told_of_and_ends_by_a_restart",
            cleaned_up,
        ),
        trial("the_status_says_how_an_adopted_engine_ended", how_it_ended),
        trial(
            "a_death_that_no_watchdog_saw_is_reported_once_however_many_watchdogs_die",
            unseen_deaths,
        ),
        trial(
            "a_watchdog_killed_at_any_step_of_a_start_leaves_one_engine",
            any_step,
        ),
    ]
}

fn duels() {
    for round in 0..rounds("HARNESS_DUELS", DUELS_DEFAULT) {
        let setup = playing();
        let mut both = [setup.start(), setup.start()];
        wait::until("a loser", PATIENCE, || {
            both.iter_mut()
                .find_map(|watchdog| watchdog.running.status())
        });
        let engine = wait_until_played(&setup, 1);
        let mut looks = vec![setup.engines(None)];
        wait_for_status(&setup, "its next records", |status| {
            status["session"]["committed"]
                .as_u64()
                .filter(|count| *count > 30)
        });
        looks.push(setup.engines(None));
        let ends = both
            .each_mut()
            .map(|watchdog| watchdog.running.status().and_then(|end| end.code()));
        let faults = faults_of_a_duel(ends, &looks, LOCKED);
        assert!(
            faults.is_empty() && looks[0] == [engine],
            "round {round}: {faults:?}"
        );
        let [first, second] = both;
        let winner = if ends[0].is_none() { first } else { second };
        stop_cleanly(&setup, winner);
        assert_all_arrived(&setup, 1);
    }
}

/// The broken variant of the duel: two data directories, so each finds its lock free.
fn no_common_lock() {
    let setup = playing();
    let first = setup.start();
    let mut command = setup.command(&["run"]);
    let (data, runtime) = (setup.scratch().join("other"), Folder::in_memory());
    command
        .env("SIDEKICK_DATA_DIR", data)
        .env("SIDEKICK_RUNTIME_DIR", runtime.path())
        .arg("--")
        .args(Game::new(journals(&setup)).command_line());
    let mut second = Running::start(&mut command).expect("started");
    let own = [first.running.pid(), second.pid()];
    let engines = wait::until("two engines", PATIENCE, || {
        let mut engines = setup.engines(None);
        engines.retain(|pid| !own.contains(pid));
        (engines.len() == 2).then_some(engines)
    });
    let ends = [None, second.status().and_then(|end| end.code())];
    let faults = faults_of_a_duel(ends, &[engines], LOCKED);
    assert_eq!(faults.len(), 2, "{faults:?}");
}

/// The broken variant of an adoption: a watchdog that knows nothing of the engine starts another one.
fn nobody_adopts() {
    let setup = playing();
    let watchdog = setup.start();
    wait_until_played(&setup, 1);
    let mut history = vec![Look::at(&setup, Some(&watchdog))];
    watchdog.kill();
    setup.hide_engine(1);
    let watchdog = setup.start();
    let new = wait_until_played(&setup, 2);
    wait_until_alone(&setup, new);
    history.push(Look::at(&setup, Some(&watchdog)));
    let faults = faults_of_one_life(&history);
    assert!(
        faults.iter().any(|fault| fault.contains("engines")),
        "{faults:?}"
    );
    assert!(
        faults.iter().any(|fault| fault.contains("session")),
        "{faults:?}"
    );
    stop_cleanly(&setup, watchdog);
}

/// The engine has been started and has not come to its ring; its watchdog is killed, the next one adopts it.
fn no_ring_yet() {
    let mut setup = playing();
    let go = setup.scratch().join("go");
    let game = Game::new(journals(&setup)).command_line();
    let mut command: Vec<OsString> = [
        "sh",
        "-c",
        "until [ -e \"$0\" ]; do sleep 0.01; done; exec \"$@\"",
    ]
    .map(OsString::from)
    .into();
    command.push(go.clone().into());
    command.extend(game);
    setup.set_engine(command);
    let watchdog = setup.start();
    let engine = wait::until("an engine", PATIENCE, || {
        setup.engines(None).first().copied()
    });
    watchdog.kill();
    let mut watchdog = setup.start();
    // Twice: the second time there is nothing new to be found either.
    for _ in 0..2 {
        wait_for_status(&setup, "an adopted engine", |status| {
            assert!(status["engine"]["connected"] != true, "it has no ring");
            (status["engine"]["pid"] == engine).then_some(())
        });
        assert_eq!(setup.engines(None), [engine]);
        watchdog.kill();
        watchdog = setup.start();
    }
    fs::write(go, "").expect("written");
    assert_eq!(wait_until_played(&setup, 1), engine);
    stop_cleanly(&setup, watchdog);
    assert_all_arrived(&setup, 1);
}

/// Everything in the runtime directory is removed while no watchdog lives. The same engine runs on; log, status and
/// readiness say that nothing is heard of it, and how to end that.
fn cleaned_up() {
    let setup = playing();
    let watchdog = setup.start();
    let engine = wait_until_played(&setup, 1);
    watchdog.kill();
    for entry in fs::read_dir(setup.runtime_dir()).expect("readable") {
        let path = entry.expect("an entry").path();
        let removed = match path.is_dir() {
            true => fs::remove_dir_all(&path),
            false => fs::remove_file(&path),
        };
        removed.unwrap_or_else(|error| panic!("{path:?}: {error}"));
    }
    let mut watchdog = setup.start();
    // The second one finds the launch file that the first one wrote anew.
    for round in 0..2 {
        if round > 0 {
            watchdog.kill();
            watchdog = setup.start();
        }
        watchdog.wait_for_log("the lost ring", PATIENCE, |line| {
            let is_it = line.message.contains("cleaned up under this engine");
            (is_it && line.level == "WARN").then_some(())
        });
        wait_for_status(&setup, "an engine that is not heard", |status| {
            let adopted = &status["engine"];
            let is_it = adopted["pid"] == engine && adopted["ring_lost"] == true;
            (is_it && adopted["state"] == "running").then_some(())
        });
    }
    let table = setup.run(&["status"], PATIENCE).stdout.join("\n");
    assert!(table.contains("what it records is lost"), "{table}");
    let (code, why) = watchdog.get("/readyz").expect("an answer");
    assert!(code == 503 && why.contains("restart it"), "{code} {why}");
    assert!(others(&setup, engine).is_empty(), "one engine");

    let restarted = setup.run(&["restart", "--grace", "1s"], PATIENCE);
    assert!(restarted.status.success(), "{:#?}", restarted.lines);
    let next = wait_until_played(&setup, 2);
    wait_until_alone(&setup, next);
    let (code, why) = watchdog.get("/readyz").expect("an answer");
    assert_eq!(code, 200, "{why}");
    stop_cleanly(&setup, watchdog);
}

/// Which signal ended an engine is known to a watchdog that did not start it.
fn how_it_ended() {
    let kernel = fs::read_to_string("/proc/sys/kernel/osrelease").expect("known");
    let mut numbers = kernel
        .split('.')
        .map(|word| word.parse::<u32>().unwrap_or(0));
    if (numbers.next(), numbers.next()) < (Some(6), Some(15)) {
        println!("SKIPPED: Linux {kernel} does not tell");
        return;
    }
    for (signal, cause) in [(Signal::ABORT, "SIGABRT"), (Signal::KILL, "SIGKILL")] {
        let setup = playing();
        let watchdog = setup.start();
        let engine = wait_until_played(&setup, 1);
        watchdog.kill();
        let watchdog = setup.start();
        assert_eq!(wait_until_played(&setup, 1), engine);
        setup.signal(engine, signal);
        wait_for_status(&setup, "its death and its cause", |status| {
            let deaths = status["engine"]["last_deaths"].as_array()?;
            let death = deaths.first()?;
            assert_eq!((deaths.len(), death["incarnation"].as_u64()), (1, Some(1)));
            let told = death["cause"].as_str().unwrap_or_default();
            assert!(told.contains(cause), "{told:?} is not {cause:?}");
            Some(())
        });
        wait_until_played(&setup, 2);
        stop_cleanly(&setup, watchdog);
        assert_all_arrived(&setup, 2);
    }
}

/// The watchdog is killed, then its engine, then at any moment the watchdogs that are about to tell of it.
fn unseen_deaths() {
    let setup = playing();
    let mut random = fastrand::Rng::new();
    let seed = random.get_seed();
    let playing_engine = || {
        let engine = wait_for_status(&setup, "an engine", |status| {
            let engine = &status["engine"];
            let is_there = engine["connected"] == true;
            is_there.then(|| (engine["pid"].as_u64(), engine["incarnation"].as_u64()))
        });
        let (Some(pid), Some(incarnation)) = engine else {
            panic!("{engine:?}");
        };
        (u32::try_from(pid).expect("a process id"), incarnation)
    };
    let mut watchdog = setup.start();
    let mut dead = Vec::new();
    for _ in 0..UNSEEN_DEATHS {
        let (engine, incarnation) = playing_engine();
        watchdog.kill();
        setup.signal(engine, Signal::KILL);
        wait::until("its death", PATIENCE, || {
            (!setup.engines(None).contains(&engine)).then_some(())
        });
        dead.push(incarnation);
        for _ in 0..2 {
            let next = setup.start();
            // The moment of the kill, not a wait for anything.
            thread::sleep(Duration::from_millis(random.u64(0..250)));
            next.kill();
        }
        watchdog = setup.start();
    }
    playing_engine();
    wait::until("their reports", PATIENCE, || {
        (reported(&setup).len() >= dead.len()).then_some(())
    });
    stop_cleanly(&setup, watchdog);
    assert_eq!(reported(&setup), dead, "seed {seed}");
    let ledger = setup.uploaded_files();
    let told = ledger.records().values();
    let told = told.filter(|arrival| arrival.stream == "sidekick.crash");
    assert_eq!(told.count(), dead.len(), "seed {seed}");
    assert_all_arrived(&setup, 1);
}

/// The incarnations that have a report, one for each report.
fn reported(setup: &sidekick_tests::watchdog::Setup) -> Vec<u64> {
    let reports = fs::read_dir(setup.data_dir().join("crashes"));
    let paths = reports.into_iter().flatten().filter_map(Result::ok);
    let mut incarnations: Vec<u64> = paths
        .map(|entry| entry.path())
        .filter(|path| path.extension().is_some_and(|found| found == "json"))
        .map(|path| {
            let text = fs::read(path).expect("a report");
            let report: serde_json::Value = serde_json::from_slice(&text).expect("a whole report");
            report["incarnation"].as_u64().expect("a number")
        })
        .collect();
    incarnations.sort_unstable();
    incarnations
}

fn any_step() {
    let setup = playing();
    let mut random = fastrand::Rng::new();
    let seed = random.get_seed();
    for round in 0..STARTS {
        let watchdog = setup.start();
        // The moment of the kill, not a wait for anything.
        thread::sleep(Duration::from_millis(random.u64(0..250)));
        watchdog.kill();
        let watchdog = setup.start();
        let engine = wait_for_status(&setup, "an engine", |status| {
            let engine = &status["engine"];
            engine["pid"]
                .as_u64()
                .filter(|_| engine["connected"] == true)
        });
        let engine = u32::try_from(engine).expect("a process id");
        wait_until_alone(&setup, engine);
        if round % 2 == 0 {
            stop_cleanly(&setup, watchdog);
        } else {
            watchdog.kill();
            assert_eq!(setup.engines(None), [engine], "round {round}, seed {seed}");
        }
    }
    let watchdog = setup.start();
    wait_for_status(&setup, "the last engine", |status| {
        (status["engine"]["connected"] == true).then_some(())
    });
    stop_cleanly(&setup, watchdog);
    assert!(status(&setup).is_none());
    assert_all_arrived(&setup, 1);
}
