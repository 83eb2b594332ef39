//! `SidekickState`: what it keeps is back after a kill, before the first physics frame, and nothing that it is given stops the game.

use std::fs;
use std::process::Command;
use std::time::Duration;

use rustix::process::Signal;
use serde_json::Value;
use sidekick_ipc::tree::CHECKPOINT_KEYS_MAX;
use sidekick_tests::double;
use sidekick_tests::folders::repository;
use sidekick_tests::godot::Godot;
use sidekick_tests::process::Running;
use sidekick_tests::project::{Options, Project};
use sidekick_tests::wait;
use sidekick_tests::watchdog::{Setup, Watchdog};

/// Relaunches follow one another quickly.
const QUICK: &str = "[restart]\nbackoff_first = \"10ms\"\nbackoff_max = \"50ms\"\n";
const DEADLINE: Duration = Duration::from_secs(180);

/// The game of `gd/state`.
fn game() -> Project {
    let project = Project::new("extends Node\n");
    project.copy_scripts(&repository().join("tests/gd/state"), ".");
    project
}

/// The game under a watchdog, and where it leaves its notes.
struct Scene {
    // Before the folders of what runs in them.
    setup: Setup,
    project: Project,
}

impl Scene {
    fn new(godot: &Godot, act: &str) -> Self {
        let project = game();
        let mut setup = Setup::new();
        let notes = setup.scratch().join("notes");
        fs::create_dir(&notes).expect("a folder for the game");
        let notes = notes.display().to_string();
        setup.set_engine(project.command_line(godot, &["--notes", &notes, "--act", act]));
        setup.set_config(QUICK);
        Self { setup, project }
    }

    /// What the game of this incarnation noted.
    #[track_caller]
    fn note(&self, watchdog: &Watchdog<'_>, incarnation: u32, what: &str) -> String {
        let path = (self.setup.scratch().join("notes")).join(format!("{incarnation}-{what}"));
        wait::poll(DEADLINE, || fs::read_to_string(&path).ok()).unwrap_or_else(|| {
            let log = watchdog.running.lines.all().join("\n");
            let game = self.outputs(incarnation);
            panic!("incarnation {incarnation} noted no {what}; the game says:\n{game:?}\nthe log says:\n{log}")
        })
    }

    /// The one in that `SidekickState` told what it has restored.
    #[track_caller]
    fn restored(&self, watchdog: &Watchdog<'_>, incarnation: u32) -> Value {
        let text = self.note(watchdog, incarnation, "restored");
        serde_json::from_str(&text).unwrap_or_else(|error| panic!("{error}: {text}"))
    }

    /// What the game of this incarnation has printed: in memory while it lives, then in the data directory.
    fn outputs(&self, incarnation: u32) -> [String; 2] {
        let name = format!("{incarnation:010}.log");
        let places = [
            self.setup.runtime_dir().join("output").join(&name),
            self.setup.data_dir().join("engine").join(&name),
        ];
        places.map(|path| fs::read_to_string(path).unwrap_or_default())
    }

    /// What it has printed once this is part of it.
    #[track_caller]
    fn output_with(&self, incarnation: u32, sentence: &str) -> String {
        let is_in = || {
            let mut texts = self.outputs(incarnation).into_iter();
            texts.find(|text| text.contains(sentence))
        };
        wait::poll(DEADLINE, is_in)
            .unwrap_or_else(|| panic!("no {sentence:?}: {:?}", self.outputs(incarnation)))
    }

    fn kill(&self, watchdog: &Watchdog<'_>) {
        for engine in self.setup.engines(Some(watchdog)) {
            self.setup.signal(engine, Signal::KILL);
        }
    }
}

fn count(text: &str, what: &str) -> usize {
    text.lines().filter(|line| line.contains(what)).count()
}

/// Killed right after a checkpoint: in the first physics frame of the next engine every property and every spawned child is as it
/// was, though `_ready` has set defaults and spawned others, and the game was told before.
fn properties_and_children_are_back_before_the_first_tick(godot: &Godot) {
    let scene = Scene::new(godot, "play");
    let watchdog = scene.setup.start();
    let kept = scene.note(&watchdog, 1, "kept");
    let fresh = scene.note(&watchdog, 1, "first");
    assert_ne!(kept, fresh);
    assert_eq!(scene.restored(&watchdog, 1)["status"], "none");
    // Again and again: what was restored is kept in its turn.
    for incarnation in 2..=4 {
        scene.kill(&watchdog);
        assert_eq!(scene.note(&watchdog, incarnation, "first"), kept);
        let info = scene.restored(&watchdog, incarnation);
        assert_eq!(info["status"], "restored", "{info}");
        assert_eq!(info["skipped"], serde_json::json!([]), "{info}");
        assert_eq!(info["spawned"], 1, "{info}");
    }
    let output = scene.output_with(2, "restored {");
    assert_eq!(count(&output, "WARNING: Sidekick"), 0, "{output}");
    watchdog.stop(DEADLINE);
}

/// The same scene without the node: the test above can fail.
fn without_the_node_the_defaults_win(godot: &Godot) {
    let scene = Scene::new(godot, "without");
    let watchdog = scene.setup.start();
    let fresh = scene.note(&watchdog, 1, "first");
    scene.kill(&watchdog);
    assert_eq!(scene.note(&watchdog, 2, "first"), fresh);
    watchdog.stop(DEADLINE);
}

/// Left to itself the node writes what has changed, in deltas and complete checkpoints; together they are the last state, with
/// a child that went and one that came.
fn deltas_add_up(godot: &Godot) {
    let scene = Scene::new(godot, "deltas");
    let watchdog = scene.setup.start();
    let kept = scene.note(&watchdog, 1, "kept");
    scene.kill(&watchdog);
    assert_eq!(scene.note(&watchdog, 2, "first"), kept);
    watchdog.stop(DEADLINE);
}

/// Paths that lead nowhere and values that cannot be stored are told once each; the rest is kept, and the game goes on.
fn what_cannot_be_kept_is_told_once(godot: &Godot) {
    let scene = Scene::new(godot, "bad");
    let watchdog = scene.setup.start();
    scene.note(&watchdog, 1, "kept");
    scene.note(&watchdog, 1, "bad");
    let output = scene.output_with(1, "Game:anything is not kept");
    for sentence in [
        "Nobody:x is not kept: there is no node Nobody",
        "Game:nothing is not kept: Game has no property nothing",
        "Game:script is not kept: it holds an object",
        "the children of Nowhere are not kept",
        "Game:anything is not kept: it is nested more than",
    ] {
        assert_eq!(count(&output, sentence), 1, "{sentence}: {output}");
    }
    assert_eq!(count(&output, "SCRIPT ERROR"), 0, "{output}");
    scene.kill(&watchdog);
    let first = scene.note(&watchdog, 2, "first");
    assert!(first.starts_with("[7, 77.5, "), "{first}");
    assert!(first.contains("wounded"), "{first}");
    watchdog.stop(DEADLINE);
}

/// The game was changed before the relaunch: what still fits is restored, every part that does not is named, and the game goes on.
fn another_shape_of_scene_gets_what_fits(godot: &Godot) {
    let scene = Scene::new(godot, "play");
    let watchdog = scene.setup.start();
    scene.note(&watchdog, 1, "kept");
    let script = include_str!("../gd/state/game.gd");
    let changed = script
        .replace("var round := 0", "var round := Vector2.ZERO")
        .replace("\tround = 1\n", "")
        .replace(
            "var typed: Array[int] = []",
            "var typed: Array[String] = []",
        )
        .replace("\ttyped = [1, 2]\n", "")
        .replace(
            "var points := PackedVector2Array()",
            "var spots := 0\nvar points: int:\n\tget: return spots",
        )
        .replace("\tpoints = [Vector2.ONE]\n", "");
    scene.project.write("game.gd", &changed);
    let tree = include_str!("../gd/state/main.tscn");
    let changed = tree.replace("NodePath(\"Game:label\"), ", "");
    scene.project.write("main.tscn", &changed);
    let mob = include_str!("../gd/state/mob.gd").replace("life", "lives");
    scene.project.write("mob.gd", &mob);
    scene.kill(&watchdog);
    let info = scene.restored(&watchdog, 2);
    let skipped = info["skipped"].to_string();
    for sentence in [
        "Game:round: it is a Vector2, saved was a int",
        "Game:typed: it is a Array[String], saved was a Array[int]",
        "Game:points: it is a int, saved was a PackedVector2Array",
        "Game:label: it is not kept any more",
        "Mobs/Bob:life: Bob has no property life",
    ] {
        assert!(skipped.contains(sentence), "{sentence}: {info:#}");
    }
    assert_eq!(info["spawned"], 1, "{info:#}");
    let first = scene.note(&watchdog, 2, "first");
    for part in [
        "77.5",
        "\"ann\": 1.5",
        "Color(1, 0, 0, 1)",
        "wounded",
        "Vector2(9, 9)",
    ] {
        assert!(first.contains(part), "{part}: {first}");
    }
    let output = scene.output_with(2, "does not fit");
    assert_eq!(count(&output, "does not fit"), 1, "{output}");
    assert_eq!(count(&output, "SCRIPT ERROR"), 0, "{output}");
    watchdog.stop(DEADLINE);
}

/// Under its key lies something that no `SidekickState` wrote.
fn what_others_wrote_is_left_alone(godot: &Godot) {
    let scene = Scene::new(godot, "foreign");
    let watchdog = scene.setup.start();
    scene.note(&watchdog, 1, "kept");
    let fresh = scene.note(&watchdog, 1, "first");
    scene.kill(&watchdog);
    let info = scene.restored(&watchdog, 2);
    assert!(
        info["skipped"]
            .to_string()
            .contains("everything: it is a Array"),
        "{info}"
    );
    assert_eq!(scene.note(&watchdog, 2, "first"), fresh);
    watchdog.stop(DEADLINE);
}

/// A match that ended is over: after a stop the next start is a fresh one.
fn a_clean_end_is_the_end_of_the_match(godot: &Godot) {
    let scene = Scene::new(godot, "play");
    let watchdog = scene.setup.start();
    scene.note(&watchdog, 1, "kept");
    let fresh = scene.note(&watchdog, 1, "first");
    watchdog.stop(DEADLINE);
    let watchdog = scene.setup.start();
    assert_eq!(scene.restored(&watchdog, 2)["status"], "fresh");
    assert_eq!(scene.note(&watchdog, 2, "first"), fresh);
    watchdog.stop(DEADLINE);
}

/// The watchdog does not answer in time: the game begins with its defaults and overwrites nothing; when the answer comes, what was
/// kept is restored after all. (The node is made by a script here.)
fn a_late_answer_is_restored_late(godot: &Godot) {
    const GAME: &str = "extends Node

const State := preload(\"res://addons/sidekick/sidekick_state.gd\")

var round: int = 0


func _ready() -> void:
	var state: State = State.new()
	state.name = \"State\"
	state.properties = [^\":round\"] as Array[NodePath]
	state.interval_s = 0.0
	state.restore_timeout_s = 60.0 if Sidekick.get_incarnation() == 3 else 0.2
	add_child(state)
	round = 1
	var info: Dictionary = await state.restored
	print(\"restored \", info.status, round)
	if info.status == \"timeout\":
		print(\"kept \", state.checkpoint_now())
		info = await state.restored
		print(\"late \", info.status, round)
	round += 6
	print(\"now \", state.checkpoint_now())
	await Sidekick.flush()
	get_tree().quit()
";
    let project = Project::new(GAME);
    let mut watchdog = double::Watchdog::new();
    let engine = watchdog.launch(godot, &project);
    let output = watchdog.serve_to_the_end(engine);
    output.assert_clean_exit(0);
    assert_eq!(output.answer("restored "), Some("none1"));
    assert_eq!(output.answer("now "), Some("true"));

    watchdog.set("LAUNCH", "8");
    watchdog.set("INCARNATION", "4");
    watchdog.answers = false;
    let mut engine = watchdog.launch(godot, &project);
    watchdog.serve_until("a question", |watchdog| watchdog.store.queries.len() > 1);
    engine.wait_for_line("kept ", DEADLINE);
    watchdog.answers = true;
    let output = watchdog.serve_to_the_end(engine);
    output.assert_clean_exit(0);
    assert_eq!(output.answer("restored "), Some("timeout1"));
    assert_eq!(output.answer("kept "), Some("false"));
    assert_eq!(output.answer("late "), Some("restored7"));
    assert_eq!(output.answer("now "), Some("true"));
}

/// The store has no room for the node's state: it says so, as of every other refusal, and the game goes on.
fn a_state_without_room_is_told_once(godot: &Godot) {
    const GAME: &str = "extends Node

const State := preload(\"res://addons/sidekick/sidekick_state.gd\")

var round: int = 0


func _ready() -> void:
	var state: State = State.new()
	state.name = \"State\"
	state.properties = [^\":round\"] as Array[NodePath]
	state.interval_s = 0.0
	add_child(state)
	await state.restored
	for _try: int in 3:
		round += 1
		print(\"kept \", state.checkpoint_now())
		await get_tree().physics_frame
	get_tree().quit()
";
    let project = Project::new(GAME);
    let mut watchdog = double::Watchdog::new();
    watchdog.keys_elsewhere = Some(CHECKPOINT_KEYS_MAX as u64);
    let engine = watchdog.launch(godot, &project);
    let output = watchdog.serve_to_the_end(engine);
    output.assert_clean_exit(0);
    let count = |text: &str| {
        output
            .lines
            .iter()
            .filter(|line| line.contains(text))
            .count()
    };
    assert_eq!(
        (count("kept false"), count("kept true")),
        (3, 0),
        "{:#?}",
        output.lines
    );
    assert_eq!(count("took no checkpoint"), 1, "{:#?}", output.lines);
    assert_eq!(count("4096 keys of this server have checkpoints"), 1);
    assert!(watchdog.store.checkpoints.is_empty());
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
    let lines = editor.settled_lines();
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

sidekick_tests::godot_claims!(
    properties_and_children_are_back_before_the_first_tick,
    without_the_node_the_defaults_win,
    deltas_add_up,
    what_cannot_be_kept_is_told_once,
    another_shape_of_scene_gets_what_fits,
    what_others_wrote_is_left_alone,
    a_clean_end_is_the_end_of_the_match,
    a_late_answer_is_restored_late,
    a_state_without_room_is_told_once,
    without_a_watchdog_nothing_is_kept,
    the_editor_helps_to_pick,
);
