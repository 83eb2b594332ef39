//! The demo's server does what its list of troubles says, on its own: what a watchdog makes of each is told elsewhere.

use std::os::unix::process::ExitStatusExt;
use std::time::Duration;

use sidekick_tests::godot::Godot;
use sidekick_tests::project::{Options, Output, Project};

const DEADLINE: Duration = Duration::from_secs(180);

fn run(godot: &Godot, user_arguments: &[&str]) -> Output {
    let mut all = vec!["--players", "20", "--port", "0"];
    all.extend(user_arguments);
    let options = Options {
        user_arguments: all,
        ..Options::default()
    };
    Project::demo().run(godot, &options, DEADLINE)
}

fn wrote(output: &Output, text: &str) -> bool {
    output.lines.iter().any(|line| line.contains(text))
}

/// Each way to die ends the process as the list says, with or without the engine's own words.
fn deaths_are_what_they_say(godot: &Godot) {
    for (argument, signal, has_words) in [
        ("--crash-after", 6, true),
        ("--segv-after", 6, true),
        ("--abort-after", 6, false),
        ("--kill-after", 9, false),
    ] {
        let output = run(godot, &[argument, "0.2"]);
        assert_eq!(
            (output.status.signal(), wrote(&output, "handle_crash")),
            (Some(signal), has_words),
            "{argument}: {:#?}",
            output.lines
        );
    }
}

/// What does not kill leaves the server able to quit, with the code that it was told.
fn the_rest_leaves_it_alive(godot: &Godot) {
    let output = run(
        godot,
        &[
            "--sleep-after",
            "0.1",
            "--sleep-s",
            "0.3",
            "--leak-after",
            "0.1",
            "--leak-max-mib",
            "32",
            "--fork-after",
            "0.1",
            "--flood-after",
            "0.1",
            "--error-after",
            "0.1",
            "--restart-after",
            "0.1",
            "--ignore-quit-after",
            "0.1",
            "--quit-after",
            "1.5",
            "--quit-code",
            "3",
        ],
    );
    assert_eq!(output.status.code(), Some(3), "{:#?}", output.lines);
    for text in [
        "told to sleep",
        "awake again",
        "told to leak",
        "arena: child ",
        "told to flood",
        "asked for by the operator",
        "told to restart",
        "told to ignore_quit",
    ] {
        assert!(wrote(&output, text), "{text}: {:#?}", output.lines);
    }
    assert!(!wrote(&output, "Parse Error"), "{:#?}", output.lines);
}

sidekick_tests::godot_claims!(deaths_are_what_they_say, the_rest_leaves_it_alive);
