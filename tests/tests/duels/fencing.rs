//! Two engines at once, however they came to be: the newer one is the engine, the older is ended, and nothing of what
//! either recorded is lost.

use std::fs;

use libtest_mimic::Trial;
use rustix::process::Signal;
use sidekick_tests::engine::Game;
use sidekick_tests::process::{self, Running};
use sidekick_tests::wait;
use sidekick_tests::watchdog::Setup;

use super::{
    PATIENCE, assert_all_arrived, faults_of_records, journals, others, playing, stop_cleanly,
    trial, wait_for_status, wait_until_alone, wait_until_played,
};

pub(super) fn trials() -> Vec<Trial> {
    vec![
        trial(
            "an_engine_that_comes_back_from_sigstop_beside_a_newer_one_is_ended",
            back_from_stop,
        ),
        trial(
            "an_engine_that_no_watchdog_started_is_ended_and_drained_first",
            by_hand,
        ),
        trial(
            "of_two_engines_the_newer_is_adopted_and_the_older_ended",
            two_to_adopt,
        ),
        trial("an_engine_under_its_old_name_is_drained_under_it", renamed),
        trial("a_stale_engine_that_nobody_ends_is_seen", nobody_ends),
        trial("a_stale_engine_that_nobody_drains_is_seen", nobody_drains),
    ]
}

/// See [`Game::start_by_hand`].
fn start_by_hand(setup: &Setup, launch: u32) -> Running {
    Game::new(journals(setup)).start_by_hand(setup, launch)
}

fn back_from_stop() {
    let setup = playing();
    let watchdog = setup.start();
    let old = wait_until_played(&setup, 1);
    wait_for_status(&setup, "some records", |status| {
        status["session"]["committed"]
            .as_u64()
            .filter(|count| *count > 100)
    });
    // In this order: a process group that loses its parent while it is stopped is sent SIGHUP by the system.
    watchdog.kill();
    setup.signal(old, Signal::STOP);
    setup.hide_engine(1);
    let watchdog = setup.start();
    // It goes on as if nothing had happened, if it comes to that.
    setup.signal(old, Signal::CONT);
    let new = wait_until_played(&setup, 2);
    assert_ne!(new, old);
    wait_until_alone(&setup, new);
    let finished = stop_cleanly(&setup, watchdog);
    let log = finished.lines.join("\n");
    assert!(log.contains("a stale engine still lives"), "{log}");
    assert_all_arrived(&setup, 2);
}

/// The store has never heard of its session when the newer one is there already.
fn by_hand() {
    let setup = playing();
    let mut old = start_by_hand(&setup, 1);
    wait::until("its ring", PATIENCE, || {
        let rings = sidekick_ipc::scan(setup.runtime_dir()).ok()?;
        (!rings.is_empty()).then_some(())
    });
    let watchdog = setup.start();
    let new = wait_until_played(&setup, 2);
    assert_eq!(
        old.wait(PATIENCE)
            .and_then(|status| std::os::unix::process::ExitStatusExt::signal(&status)),
        Some(Signal::KILL.as_raw())
    );
    wait_until_alone(&setup, new);
    stop_cleanly(&setup, watchdog);
    assert_all_arrived(&setup, 2);
}

/// The broken variant: without a watchdog, or with one that fences nobody, both live.
fn nobody_ends() {
    let setup = playing();
    let engines = [1, 2].map(|launch| start_by_hand(&setup, launch));
    wait::until("both to record", PATIENCE, || {
        let played = sidekick_tests::engine::played(&journals(&setup));
        let playing = played.iter().filter(|engine| engine.last > 0);
        (playing.count() == 2).then_some(())
    });
    let [old, new] = engines.each_ref().map(Running::pid);
    assert_eq!(others(&setup, new), [old]);
}

/// The broken variant: what is ended before it is drained has lost its records.
fn nobody_drains() {
    let setup = playing();
    let mut old = start_by_hand(&setup, 1);
    wait::until("its records", PATIENCE, || {
        let played = sidekick_tests::engine::played(&journals(&setup));
        played.iter().any(|engine| engine.last > 0).then_some(())
    });
    old.kill();
    for ring in sidekick_ipc::scan(setup.runtime_dir()).expect("readable") {
        fs::remove_file(ring.path).expect("ours");
    }
    let watchdog = setup.start();
    wait_for_status(&setup, "a new engine", |status| {
        (status["engine"]["connected"] == true).then_some(())
    });
    stop_cleanly(&setup, watchdog);
    let faults = faults_of_records(&setup, 1);
    assert!(
        faults.iter().any(|fault| fault.contains("are missing")),
        "{faults:?}"
    );
}

/// Both have what a watchdog knows its engines by.
fn two_to_adopt() {
    let setup = playing();
    let watchdog = setup.start();
    let old = wait_until_played(&setup, 1);
    watchdog.kill();
    let record =
        fs::read_to_string(setup.runtime_dir().join("launch/0000000001")).expect("its lock");
    let new = start_by_hand(&setup, 2);
    let stat = fs::read_to_string(format!("/proc/{}/stat", new.pid())).expect("running");
    let started = stat
        .rsplit(')')
        .next()
        .and_then(|rest| rest.split_whitespace().nth(19));
    let record: String = record
        .lines()
        .map(|line| match line.split_once('=') {
            Some(("pid", _)) => format!("pid={}\n", new.pid()),
            Some(("start_ticks", _)) => format!("start_ticks={}\n", started.expect("field 22")),
            _ => format!("{line}\n"),
        })
        .collect();
    fs::write(setup.runtime_dir().join("launch/0000000002"), record).expect("its lock");
    let watchdog = setup.start();
    assert_eq!(wait_until_played(&setup, 2), new.pid());
    wait::until("the older one's end", PATIENCE, || {
        (!process::runs(old)).then_some(())
    });
    stop_cleanly(&setup, watchdog);
    assert_all_arrived(&setup, 2);
}

/// `name` is changed between two watchdogs while the engine runs on, and after it.
fn renamed() {
    let mut setup = playing();
    let watchdog = setup.start();
    let engine = wait_until_played(&setup, 1);
    watchdog.kill();
    setup.set_variable("SIDEKICK_NAME", "renamed");
    let watchdog = setup.start();
    assert_eq!(wait_until_played(&setup, 1), engine);
    setup.signal(engine, Signal::KILL);
    wait_until_played(&setup, 2);
    stop_cleanly(&setup, watchdog);
    // What the first engine recorded is all there under the name of its beginning, once.
    let ledger = setup.uploaded_files();
    assert!(ledger.violations.is_empty(), "{:?}", ledger.violations);
    let played = sidekick_tests::engine::played(&journals(&setup));
    assert_eq!(played.len(), 2);
    let source_of = |epoch: &str| {
        let keys = ledger.records().keys().filter(|key| key.epoch == epoch);
        let mut sources: Vec<(&str, u64)> = Vec::new();
        for key in keys {
            match sources.iter_mut().find(|(source, _)| *source == key.source) {
                Some((_, count)) => *count += 1,
                None => sources.push((&key.source, 1)),
            }
        }
        sources
    };
    let mut names = Vec::new();
    for engine in &played {
        let sources = source_of(&engine.epoch);
        let [(name, count)] = sources[..] else {
            panic!("{engine:?} came under {sources:?}");
        };
        assert!(count >= engine.last, "{count} of {engine:?}");
        names.push(name);
    }
    names.sort_unstable();
    assert_eq!(names, ["renamed", "test"]);
}
