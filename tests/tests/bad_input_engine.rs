//! Bad input that needs the real engine: a project without the extension.

use std::time::Duration;

use sidekick_tests::godot::Godot;
use sidekick_tests::project::Project;
use sidekick_tests::watchdog::Setup;

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

sidekick_tests::godot_claims!(a_game_without_the_extension_is_told_of);
