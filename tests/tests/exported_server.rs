//! What only a release build of the engine does, as exported games have it: it keeps what it prints to itself.

use std::process::ExitCode;
use std::time::Duration;

use sidekick_tests::claims;
use sidekick_tests::exported::Exported;
use sidekick_tests::godot::Godot;
use sidekick_tests::godot::fetch::Template;
use sidekick_tests::project::Project;
use sidekick_tests::watchdog::Setup;

const PATIENCE: Duration = Duration::from_secs(120);
const LINES: usize = 10;
/// Dies by SIGKILL after ten lines; the next one plays on.
const GAME: &str = "extends Node

var _frames := 0


func _ready() -> void:
	Sidekick.mark_ready()


func _process(_delta: float) -> void:
	_frames += 1
	if _frames <= 10:
		print(\"line \", _frames)
	elif Sidekick.get_incarnation() == 1:
		OS.kill(OS.get_process_id())
";

/// Whether the first engine warned, and how many of its lines were kept.
fn warned_and_kept(godot: &Godot, template: Template, flushes: bool) -> (bool, usize) {
    let project = Project::new(GAME);
    project.write(
        "project.godot",
        &format!(
            "config_version=5\n\n[application]\n\nconfig/name=\"Sidekick test\"\n\
             run/main_scene=\"res://main.tscn\"\nrun/flush_stdout_on_print={flushes}\n"
        ),
    );
    let exported = Exported::new(godot, template, &project);
    let mut setup = Setup::new();
    setup.set_engine(exported.command_line());
    let watchdog = setup.start();
    watchdog.wait_for_status("the next engine", PATIENCE, |status| {
        let engine = &status["engine"];
        (engine["incarnation"] == 2 && engine["ready"] == true).then_some(())
    });
    let lines = setup
        .run(&["logs", "-n", "1000", "-i", "1"], PATIENCE)
        .stdout;
    assert!(
        lines
            .iter()
            .any(|line| line.contains("Initialize godot-rust")),
        "{lines:#?}"
    );
    watchdog.stop(PATIENCE);
    let warned = lines
        .iter()
        .any(|line| line.contains("Flush stdout on Print"));
    let kept = lines.iter().filter(|line| line.contains("| line ")).count();
    (warned, kept)
}

fn lines_that_a_crash_would_take_are_warned_of(godot: &Godot, template: Template) {
    assert_eq!(warned_and_kept(godot, template, false), (true, 0));
}

fn a_server_that_flushes_keeps_its_lines_and_has_no_warning(godot: &Godot, template: Template) {
    assert_eq!(warned_and_kept(godot, template, true), (false, LINES));
}

fn main() -> ExitCode {
    claims::of_templates(&[
        (
            "lines_that_a_crash_would_take_are_warned_of",
            lines_that_a_crash_would_take_are_warned_of,
        ),
        (
            "a_server_that_flushes_keeps_its_lines_and_has_no_warning",
            a_server_that_flushes_keeps_its_lines_and_has_no_warning,
        ),
    ])
}
