//! Engine commands that cannot be started, and programs that are no engine.

use std::fs;

use libtest_mimic::Trial;
use sidekick_tests::folders::write_program;
use sidekick_tests::watchdog::Setup;

use super::{
    PATIENCE, assert_nothing_runs, assert_refuses, assert_says, stop_cleanly, the_engine, trial,
};

pub(super) fn trials() -> Vec<Trial> {
    vec![
        trial(
            "an_engine_that_does_not_exist",
            an_engine_that_does_not_exist,
        ),
        trial(
            "an_engine_that_is_not_executable",
            an_engine_that_is_not_executable,
        ),
        trial(
            "an_engine_that_is_a_directory",
            an_engine_that_is_a_directory,
        ),
        trial("an_engine_that_is_no_program", an_engine_that_is_no_program),
        trial(
            "a_working_directory_that_does_not_exist",
            a_working_directory_that_does_not_exist,
        ),
        trial(
            "an_engine_that_vanishes_does_not_end_the_watchdog",
            an_engine_that_vanishes_does_not_end_the_watchdog,
        ),
        trial(
            "a_program_without_the_extension_is_told_of_once",
            a_program_without_the_extension_is_told_of_once,
        ),
        trial(
            "a_program_without_the_extension_ends_the_watchdog_where_a_heartbeat_is_required",
            a_program_without_the_extension_ends_the_watchdog_where_a_heartbeat_is_required,
        ),
        trial(
            "a_program_that_ends_before_the_game_ran_is_quoted",
            a_program_that_ends_before_the_game_ran_is_quoted,
        ),
    ]
}

fn an_engine_that_does_not_exist() {
    let mut setup = Setup::new();
    setup.set_engine(["no-such-godot", "--headless"]);
    let sentence = assert_refuses(&setup, 4);
    assert_says(&sentence, &["no-such-godot", "install it"]);

    let path = setup.scratch().join("game.x86_64");
    setup.set_engine([&path]);
    let sentence = assert_refuses(&setup, 4);
    assert_says(&sentence, &["game.x86_64", "correct the path"]);
}

fn an_engine_that_is_not_executable() {
    let mut setup = Setup::new();
    let path = setup.scratch().join("game.x86_64");
    fs::write(&path, "#!/bin/sh\nexec sleep 600\n").expect("written");
    setup.set_engine([&path]);
    let sentence = assert_refuses(&setup, 4);
    assert_says(&sentence, &["game.x86_64", "chmod +x"]);
}

fn an_engine_that_is_a_directory() {
    let mut setup = Setup::new();
    let path = setup.scratch().join("game");
    fs::create_dir(&path).expect("made");
    setup.set_engine([&path]);
    let sentence = assert_refuses(&setup, 4);
    assert_says(&sentence, &["game", "directory", "name the program in it"]);
}

fn an_engine_that_is_no_program() {
    let mut setup = Setup::new();
    let path = setup.scratch().join("game.x86_64");
    write_program(&path, b"MZ\0\0not for this system", 0o755);
    setup.set_engine([&path]);
    let sentence = assert_refuses(&setup, 4);
    assert_says(&sentence, &["game.x86_64", "platform and architecture"]);
}

fn a_working_directory_that_does_not_exist() {
    let mut setup = Setup::new();
    setup.set_config("[engine]\nworking_dir = \"nowhere\"\n");
    setup.set_engine(["sleep", "600"]);
    let finished = setup.start().wait(PATIENCE);
    let said = finished.lines.join("\n");
    assert!(
        matches!(finished.status.code(), Some(3 | 4)),
        "{:?}: {said}",
        finished.status
    );
    assert!(
        said.contains("nowhere") && said.contains("working_dir"),
        "{said}"
    );
    assert_nothing_runs(&setup);
}

/// Somebody replaces the game's file while it runs: the next start fails, is told of, and tried again.
fn an_engine_that_vanishes_does_not_end_the_watchdog() {
    let mut setup = Setup::new();
    setup.set_config("[restart]\nbackoff_first = \"50ms\"\nbackoff_max = \"100ms\"\n");
    let path = setup.scratch().join("game");
    write_program(&path, &fs::read("/bin/sleep").expect("sleep"), 0o755);
    setup.set_engine([path.clone().into_os_string(), "600".into()]);
    let mut watchdog = setup.start();
    // The log's word: the watchdog has other children for a moment when it begins.
    let first = watchdog.wait_for_log("the first start", PATIENCE, |line| {
        (line.message == "engine started").then(|| line.number("pid"))
    });
    let first = first
        .and_then(|pid| u32::try_from(pid).ok())
        .expect("its pid");
    let aside = setup.scratch().join("aside");
    fs::rename(&path, &aside).expect("moved");
    setup.signal(first, rustix::process::Signal::KILL);
    let error = watchdog.wait_for_log("the failed start", PATIENCE, |line| {
        (line.message == "engine not started")
            .then(|| line.text("error").unwrap_or_default().to_owned())
    });
    assert_says(&error, &["game", "correct the path"]);
    fs::rename(&aside, &path).expect("moved back");
    watchdog.wait_for_log("the next start", PATIENCE, |line| {
        (line.message == "engine started" && line.number("pid") != Some(first.into())).then_some(())
    });
    stop_cleanly(&setup, watchdog);
}

fn a_program_without_the_extension_is_told_of_once() {
    let mut setup = Setup::new();
    setup.set_config(
        "[health]\nheartbeat = \"optional\"\nstartup_timeout = \"1s\"\nhang_timeout = \"500ms\"\n",
    );
    setup.set_engine(["sleep", "600"]);
    let mut watchdog = setup.start();
    let pid = the_engine(&setup, &watchdog);
    wait_for_the_warning(&mut watchdog);
    // It would have counted as hung long before the watchdog has answered often enough.
    for _ in 0..20 {
        assert!(watchdog.status().is_some(), "no answer");
    }
    assert_eq!(the_engine(&setup, &watchdog), pid, "it was relaunched");
    let log = watchdog.log();
    let warnings = log.iter().filter(|line| is_the_warning(&line.message));
    assert_eq!(warnings.count(), 1);
    stop_cleanly(&setup, watchdog);
}

fn a_program_without_the_extension_ends_the_watchdog_where_a_heartbeat_is_required() {
    let mut setup = Setup::new();
    setup.set_config("[health]\nstartup_timeout = \"1s\"\nhang_timeout = \"500ms\"\n");
    setup.set_engine(["sleep", "600"]);
    let sentence = assert_refuses(&setup, 11);
    assert_says(
        &sentence,
        &[
            "without the Sidekick extension",
            "addons/sidekick",
            ".godot/extension_list.cfg",
            "heartbeat = \"optional\"",
            "0000000001.log",
        ],
    );
}

fn a_program_that_ends_before_the_game_ran_is_quoted() {
    let mut setup = Setup::new();
    setup.set_config("[restart]\nbackoff_first = \"50ms\"\nbackoff_max = \"100ms\"\n");
    setup.set_engine(["sh", "-c", "echo no such project >&2"]);
    let mut watchdog = setup.start();
    let cause = watchdog.wait_for_log("the first end", PATIENCE, |line| {
        (line.message == "engine died").then(|| line.text("cause").unwrap_or_default().to_owned())
    });
    assert_eq!(cause, "exit code 0 before the game ran");
    let output = watchdog.wait_for_log("its last words", PATIENCE, |line| {
        line.message
            .contains("ended before the game ran")
            .then(|| line.text("output").unwrap_or_default().to_owned())
    });
    assert_eq!(output, "no such project");
    // What it had to say may be mended by the next update, so it is tried again.
    watchdog.wait_for_log("the second engine", PATIENCE, |line| {
        (line.message == "engine started" && line.number("incarnation") == Some(2)).then_some(())
    });
    stop_cleanly(&setup, watchdog);
}

fn is_the_warning(message: &str) -> bool {
    message.contains("has not loaded the Sidekick extension")
}

fn wait_for_the_warning(watchdog: &mut sidekick_tests::watchdog::Watchdog<'_>) {
    let message = watchdog.wait_for_log("the missing extension", PATIENCE, |line| {
        (line.level == "WARN" && is_the_warning(&line.message)).then(|| line.message.clone())
    });
    assert_says(
        &message,
        &["addons/sidekick", ".godot/extension_list.cfg", "heartbeat"],
    );
}
