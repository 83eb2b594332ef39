//! Bad input that needs the real engine: a project without the extension.

use std::fs;
use std::path::Path;
use std::time::Duration;

use rustix::process::Signal;
use sidekick_tests::godot::Godot;
use sidekick_tests::mount::Mount;
use sidekick_tests::project::Project;
use sidekick_tests::watchdog::{LogLine, Setup};

const PATIENCE: Duration = Duration::from_secs(90);

/// A game whose project lacks the addon: the watchdog says what to look for, and ends it as any other.
fn a_game_without_the_extension_is_told_of(godot: &Godot) {
    let project = Project::without_extension("extends Node\n");
    let mut setup = Setup::new();
    setup.set_config(
        "[health]\nheartbeat = \"optional\"\nstartup_timeout = \"3s\"\nhang_timeout = \"2s\"\n[shutdown]\nengine_grace = \"5s\"\n",
    );
    setup.set_engine(project.command_line(godot, &[]));
    let mut watchdog = setup.start();
    let message = watchdog.wait_for_log("the missing extension", PATIENCE, |line| {
        (line.level == "WARN"
            && line
                .message
                .contains("has not loaded the Sidekick extension"))
        .then(|| line.message.clone())
    });
    assert!(message.contains("addons/sidekick"), "{message}");
    let finished = watchdog.stop(PATIENCE);
    assert_eq!(
        finished.status.code(),
        Some(0),
        "{}",
        finished.lines.join("\n")
    );
    assert!(
        setup.descendants(None).is_empty(),
        "something was left running"
    );
}

/// The same where a heartbeat is required, which is the default: one sentence, one exit code, nothing left running.
fn a_game_without_the_extension_ends_the_watchdog(godot: &Godot) {
    let project = Project::without_extension("extends Node\n");
    let mut setup = Setup::new();
    setup.set_config("[health]\nstartup_timeout = \"3s\"\nhang_timeout = \"2s\"\n");
    setup.set_engine(project.command_line(godot, &[]));
    let finished = setup.start().wait(PATIENCE);
    let log = finished.lines.join("\n");
    assert_eq!(finished.status.code(), Some(11), "{log}");
    let errors = finished.lines.iter().filter_map(LogLine::parse);
    let errors: Vec<LogLine> = errors.filter(|line| line.level == "ERROR").collect();
    assert_eq!(errors.len(), 1, "{log}");
    let sentence = errors[0].text("error").unwrap_or_default();
    for part in ["without the Sidekick extension", "extension_list.cfg"] {
        assert!(sentence.contains(part), "{sentence}");
    }
    assert!(
        setup.descendants(None).is_empty(),
        "something was left running"
    );
}

/// A project's folder that is none: Godot ends at once, and what it said about that is in the log.
fn a_project_that_is_none_is_quoted(godot: &Godot) {
    let project = Project::new("extends Node\n");
    let mut command = project.command_line(godot, &[]);
    for word in &mut command {
        if Path::new(word) == project.path() {
            *word = project.path().join("nowhere").into_os_string();
        }
    }
    let mut setup = Setup::new();
    setup.set_engine(command);
    let mut watchdog = setup.start();
    let cause = watchdog.wait_for_log("the first end", PATIENCE, |line| {
        (line.message == "engine died").then(|| line.text("cause").unwrap_or_default().to_owned())
    });
    assert!(cause.ends_with("before the game ran"), "{cause}");
    let output = watchdog.wait_for_log("its last words", PATIENCE, |line| {
        line.message
            .contains("ended before the game ran")
            .then(|| line.text("output").unwrap_or_default().to_owned())
    });
    println!("{output}");
    assert!(output.contains("nowhere"), "{output}");
    let finished = watchdog.stop(PATIENCE);
    assert_eq!(finished.status.code(), Some(0));
}

/// An engine that cannot print (its output is on the full disk) used to lose its extension: whatever is full, the next
/// engine connects and records.
fn an_engine_that_starts_on_a_full_disk_records(godot: &Godot) {
    let project = Project::new(
        "extends Node\nfunc _ready() -> void:\n\tprint(\"hello\")\n\tSidekick.mark_ready()\n\
         func _process(_delta: float) -> void:\n\tSidekick.record(&\"tick\", Engine.get_process_frames())\n",
    );
    let mut setup = Setup::new();
    setup.set_engine(project.command_line(godot, &[]));
    let mount = match Mount::new(&setup.data_dir(), 64 << 20) {
        Ok(mount) => mount,
        Err(why) => panic!("a small file system is needed, as root: {why}"),
    };
    let watchdog = setup.start();
    let ready = |launch: u64| {
        watchdog.wait_for_status("a ready game", PATIENCE, |status| {
            let engine = &status["engine"];
            (engine["incarnation"].as_u64() == Some(launch) && engine["ready"] == true)
                .then(|| {
                    engine["pid"]
                        .as_u64()
                        .and_then(|pid| u32::try_from(pid).ok())
                })
                .flatten()
        })
    };
    let first = ready(1);
    let filler = mount.fill();
    setup.signal(first, Signal::KILL);
    ready(2);
    fs::remove_file(filler).expect("removed");
    let committed = watchdog.wait_for_status("records", PATIENCE, |status| {
        status["totals"]["committed"].as_u64()
    });
    watchdog.wait_for_status("more records", PATIENCE, |status| {
        status["totals"]["committed"]
            .as_u64()
            .filter(|&count| count > committed)
    });
    let finished = watchdog.stop(PATIENCE);
    let log = finished.lines.join("\n");
    assert_eq!(finished.status.code(), Some(0), "{log}");
}

sidekick_tests::godot_claims!(
    an_engine_that_starts_on_a_full_disk_records,
    a_game_without_the_extension_is_told_of,
    a_game_without_the_extension_ends_the_watchdog,
    a_project_that_is_none_is_quoted
);
