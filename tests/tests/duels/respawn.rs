//! A dead watchdog is started again by its engine.

use std::fs;
use std::process::Command;

use libtest_mimic::Trial;
use rustix::process::Signal;
use sidekick_tests::engine::RESPAWN_VARIABLE;
use sidekick_tests::process::{self, Running};
use sidekick_tests::wait;
use sidekick_tests::watchdog::Setup;

use super::{
    PATIENCE, assert_all_arrived, playing, status, stop_cleanly, trial, wait_until_played,
};

const ROUNDS: u64 = 3;

pub(super) fn trials() -> Vec<Trial> {
    vec![
        trial(
            "whichever_of_the_two_is_killed_the_other_brings_it_back",
            either_one,
        ),
        trial("of_two_respawns_at_once_one_watchdog_is_left", two_at_once),
        trial("a_watchdog_that_was_stopped_is_not_started_again", stopped),
    ]
}

/// The watchdog that answers.
fn watchdog_pid(setup: &Setup, not: u32) -> u32 {
    let log = setup.data_dir().join("watchdog.log");
    let found = wait::poll(PATIENCE, || {
        let pid = status(setup)?["pid"].as_u64().map(|pid| pid as u32)?;
        (pid != not).then_some(pid)
    });
    found.unwrap_or_else(|| {
        let log = fs::read_to_string(log).unwrap_or_default();
        let engines = fs::read_dir(setup.data_dir().join("engine")).expect("readable");
        let outputs: Vec<_> = engines
            .flatten()
            .map(|entry| fs::read_to_string(entry.path()))
            .collect();
        panic!("no other watchdog came; its log:\n{log}\nthe engines say {outputs:?}")
    })
}

/// All watchdogs that run.
fn watchdogs(setup: &Setup) -> Vec<u32> {
    let program = setup.command(&[]).get_program().display().to_string();
    let mut found = setup.descendants(None);
    found.retain(|pid| process::command_line(*pid).contains(&format!("{program} run")));
    found
}

fn either_one() {
    let mut setup = playing();
    let program = setup.command(&[]).get_program().to_owned();
    setup.set_variable(RESPAWN_VARIABLE, program);
    let watchdog = setup.start();
    let mut pid = watchdog.running.pid();
    let mut engine = wait_until_played(&setup, 1);
    // Ours to reap; the others are the system's children.
    watchdog.kill();
    for incarnation in 1..=ROUNDS {
        if incarnation > 1 {
            setup.signal(pid, Signal::KILL);
        }
        pid = watchdog_pid(&setup, pid);
        assert_eq!(
            wait_until_played(&setup, incarnation),
            engine,
            "the same engine"
        );
        assert_eq!(setup.engines(None), [engine]);
        // It must not die with the engine that started it, and no later engine may pass for that one's child.
        setup.signal(engine, Signal::KILL);
        engine = wait_until_played(&setup, incarnation + 1);
        // Another one that was started too, or a process amid its start, is there for a moment.
        wait::until("one watchdog", PATIENCE, || {
            (watchdogs(&setup) == [pid]).then_some(())
        });
        assert_eq!(setup.engines(None), [engine]);
    }
    let held = fs::read_dir(format!("/proc/{pid}/fd")).expect("running");
    let locks: Vec<_> = held
        .flatten()
        .filter_map(|entry| fs::read_link(entry.path()).ok())
        .filter(|path| path.starts_with(setup.runtime_dir().join("launch")))
        .collect();
    assert!(locks.is_empty(), "it holds launch locks: {locks:?}");
    setup.signal(pid, Signal::TERM);
    wait::until("the end of all", PATIENCE, || {
        setup.descendants(None).is_empty().then_some(())
    });
    assert!(!setup.runtime_dir().join("watchdog.json").exists());
    let log = fs::read_to_string(setup.data_dir().join("watchdog.log")).expect("its log");
    assert!(log.contains("asked to end"), "{log}");
    assert_all_arrived(&setup, ROUNDS as usize);
}

fn respawn(setup: &Setup) -> Command {
    let mut command = setup.command(&["respawn", "--runtime-dir"]);
    command.arg(setup.runtime_dir());
    command
}

fn two_at_once() {
    let setup = playing();
    let watchdog = setup.start();
    let dead = watchdog.running.pid();
    let engine = wait_until_played(&setup, 1);
    watchdog.kill();
    let mut both = [0, 1].map(|_| Running::start(&mut respawn(&setup)).expect("started"));
    for one in &mut both {
        let status = one
            .wait(PATIENCE)
            .expect("it starts another process and ends");
        assert!(status.success(), "{:?}", one.settled_lines());
    }
    let pid = watchdog_pid(&setup, dead);
    wait::until("one watchdog", PATIENCE, || {
        (watchdogs(&setup) == [pid]).then_some(())
    });
    assert_eq!(wait_until_played(&setup, 1), engine);
    // A third finds that one runs.
    let third = setup.run(
        &[
            "respawn",
            "--runtime-dir",
            &setup.runtime_dir().display().to_string(),
        ],
        PATIENCE,
    );
    assert!(third.stdout.join("").contains("runs already"), "{third:?}");
    wait::until("one watchdog", PATIENCE, || {
        (watchdogs(&setup) == [pid]).then_some(())
    });
    setup.signal(pid, Signal::TERM);
    wait::until("the end of all", PATIENCE, || {
        setup.descendants(None).is_empty().then_some(())
    });
    assert_all_arrived(&setup, 1);
}

fn stopped() {
    let setup = playing();
    let watchdog = setup.start();
    wait_until_played(&setup, 1);
    stop_cleanly(&setup, watchdog);
    let finished = setup.run(
        &[
            "respawn",
            "--runtime-dir",
            &setup.runtime_dir().display().to_string(),
        ],
        PATIENCE,
    );
    assert_eq!(finished.status.code(), Some(8), "{finished:?}");
    assert_eq!(watchdogs(&setup), [0_u32; 0]);
}
