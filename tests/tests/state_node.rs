//! `SidekickState`: what it keeps is back after a kill, before the first physics frame, and nothing that it is given stops the game.

use std::fs;
use std::process::Command;
use std::time::Duration;

use sidekick_tests::folders::repository;
use sidekick_tests::godot::Godot;
use sidekick_tests::process::Running;
use sidekick_tests::project::{Options, Project};

const DEADLINE: Duration = Duration::from_secs(90);

/// The game of `gd/state`.
fn game() -> Project {
    let project = Project::new("extends Node\n");
    project.copy_scripts(&repository().join("tests/gd/state"), ".");
    project
}

/// Without a watchdog the scene stays as `_ready` made it; the game learns so at the same moment as otherwise.
fn without_a_watchdog_nothing_is_kept(godot: &Godot) {
    let options = Options {
        user_arguments: vec!["--act", "quit"],
        ..Options::default()
    };
    let output = game().run(godot, &options, DEADLINE);
    output.assert_clean_exit(0);
    assert_eq!(
        output.answer("restored "),
        Some(r#"{"status":"unsupervised"}"#)
    );
    let warnings: Vec<_> = (output.lines.iter())
        .filter(|line| line.contains("WARNING"))
        .collect();
    assert!(warnings.is_empty(), "{warnings:#?}");
}

/// The editor's inspector adds what was picked as a path from the root, once, and can undo it; the node warns of paths that lead
/// nowhere, though scripts do not run there, and does nothing else.
fn the_editor_helps_to_pick(godot: &Godot) {
    let project = game();
    let plugins = "\n[editor_plugins]\n\nenabled=PackedStringArray(\"res://addons/sidekick/plugin.cfg\", \
                   \"res://addons/probe/plugin.cfg\")\n";
    let settings = fs::read_to_string(project.path().join("project.godot")).expect("there");
    project.write("project.godot", &(settings + plugins));
    project.write(
        "addons/probe/plugin.cfg",
        "[plugin]\n\nname=\"Probe\"\ndescription=\"\"\nauthor=\"\"\nversion=\"1\"\nscript=\"plugin.gd\"\n",
    );
    // Frames, not awaits: the editor reloads scripts after its first scan, and that cancels them.
    project.write(
        "addons/probe/plugin.gd",
        r#"@tool
extends EditorPlugin

const Inspector := preload("res://addons/sidekick/editor/state_inspector.gd")

var _frame: int = 0


func _process(_delta: float) -> void:
	var scene: Node = EditorInterface.get_edited_scene_root()
	if scene == null:
		EditorInterface.open_scene_from_path("res://main.tscn")
		return
	_frame += 1
	if _frame == 10:
		_pick(scene)
	elif _frame == 20:
		get_tree().quit()


func _pick(scene: Node) -> void:
	var state: Node = scene.get_node("State")
	var inspector: Inspector = Inspector.new()
	print("handles ", inspector._can_handle(state), inspector._can_handle(scene))
	state.properties = [] as Array[NodePath]
	state.spawn_roots = [] as Array[NodePath]
	print("empty ", state._get_configuration_warnings().size())
	inspector.add_property(^":round", scene.get_node("Game"), state)
	inspector.add_property(^":round", scene.get_node("Game"), state)
	inspector.add_property(^":position:x", scene.get_node("Mobs"), state)
	inspector.add_property(^":process_mode", scene, state)
	inspector.add_spawn_root(scene.get_node("Mobs"), state)
	print("picked ", state.properties, state.spawn_roots)
	print("good ", state._get_configuration_warnings())
	var history: EditorUndoRedoManager = EditorInterface.get_editor_undo_redo()
	history.get_history_undo_redo(history.get_object_history_id(state)).undo()
	print("undone ", state.spawn_roots)
	state.properties = [^"Game:nothing", ^"Nobody:x", ^"Game"] as Array[NodePath]
	print("bad ", state._get_configuration_warnings().size())
"#,
    );
    let mut command = Command::new(&godot.path);
    command
        .args(["--headless", "--editor", "--path"])
        .arg(project.path());
    project.confine(&mut command);
    let mut editor = Running::start(&mut command).expect("an editor");
    editor.wait(DEADLINE).expect("the editor ends");
    let lines = editor.lines.all();
    for expected in [
        "handles truefalse",
        "empty 1",
        r#"picked [^"Game:round", ^"Mobs:position:x", ^":process_mode"][^"Mobs"]"#,
        "good []",
        "undone []",
        "bad 3",
    ] {
        assert!(
            lines.iter().any(|line| line == expected),
            "{expected}: {lines:#?}"
        );
    }
    assert!(
        !lines.iter().any(|line| line.contains("SCRIPT ERROR")),
        "{lines:#?}"
    );
}

sidekick_tests::godot_claims!(without_a_watchdog_nothing_is_kept, the_editor_helps_to_pick);
