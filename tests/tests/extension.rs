//! The extension in the real engine: its modes, its refusals, its end, the addon's script files.

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::os::unix::process::ExitStatusExt;
use std::process::Command;
use std::time::Duration;

use sidekick_tests::folders::Folder;
use sidekick_tests::godot::Godot;
use sidekick_tests::process::Running;
use sidekick_tests::project::{Options, Output, Project};
use sidekick_tests::wait;

const DEADLINE: Duration = Duration::from_secs(180);

/// A main script whose `_ready` is `body`, each line of it one line of GDScript.
fn main_script(body: &str) -> String {
    let body: String = body.lines().map(|line| format!("\t{line}\n")).collect();
    format!("extends Node\n\n\nfunc _ready() -> void:\n{body}")
}

fn run(godot: &Godot, body: &str) -> Output {
    Project::new(&main_script(body)).run(godot, &Options::default(), DEADLINE)
}

fn lines_with<'a>(output: &'a Output, text: &str) -> Vec<&'a str> {
    output
        .lines
        .iter()
        .map(String::as_str)
        .filter(|line| line.contains(text))
        .collect()
}

/// A project that has only the addon and the extension list, never imported: the singleton is there, and without a watchdog it
/// counts, refuses nothing, warns of nothing and says so in one line.
fn without_a_watchdog_records_are_only_counted(godot: &Godot) {
    let output = run(
        godot,
        "print(\"seq \", Sidekick.record(&\"a\", {\"x\": 1}), Sidekick.record(\"\", self), Sidekick.record(\"b\", print))
Sidekick.mark_ready()
Sidekick.expect_stall(NAN)
print(\"supervised \", Sidekick.is_supervised(), Sidekick.is_relaunch(), Sidekick.get_incarnation())
var stats: Dictionary = Sidekick.get_stats()
print(\"stats \", stats.mode, \" \", stats.recorded, \" \", stats.refused, \" \", stats.ring_used)
get_tree().quit()",
    );
    output.assert_clean_exit(0);
    assert_eq!(output.answer("seq "), Some("000"));
    assert_eq!(output.answer("supervised "), Some("falsefalse0"));
    assert_eq!(output.answer("stats "), Some("unsupervised 3 0 0"));
    assert_eq!(
        lines_with(&output, "Sidekick:").len(),
        1,
        "{:#?}",
        output.lines
    );
    assert_eq!(
        lines_with(&output, "no watchdog, records are only counted").len(),
        1
    );
    assert!(
        lines_with(&output, "WARNING").is_empty(),
        "{:#?}",
        output.lines
    );
}

/// The info line can be switched off in the project, also for one feature tag alone.
fn the_info_line_can_be_switched_off(godot: &Godot) {
    let project = Project::new(&main_script("get_tree().quit()"));
    project.write(
        "override.cfg",
        "[sidekick]\n\nlog/say_when_unsupervised.linux=false\n",
    );
    let output = project.run(godot, &Options::default(), DEADLINE);
    output.assert_clean_exit(0);
    assert!(
        lines_with(&output, "Sidekick:").is_empty(),
        "{:#?}",
        output.lines
    );
}

/// `await flush()` comes back with false when nobody keeps anything, and not within the same frame.
fn a_flush_without_a_watchdog_is_false(godot: &Godot) {
    let output = run(
        godot,
        "var frame: int = Engine.get_process_frames()
var ok: bool = await Sidekick.flush()
print(\"flush \", ok, \" \", Engine.get_process_frames() - frame <= 2)
get_tree().quit()",
    );
    output.assert_clean_exit(0);
    assert_eq!(output.answer("flush "), Some("false true"));
}

/// Lambdas left connected to the singleton, one of them awaiting a flush, do not change the exit code.
fn connected_lambdas_leave_the_exit_code_alone(godot: &Godot) {
    let output = run(
        godot,
        "Sidekick.committed.connect(func(_seq: int) -> void: pass)
Sidekick.quit_requested.connect(func(_grace: float) -> void: pass)
Sidekick.flush(60.0).connect(func(_ok: bool) -> void: pass)
get_tree().quit(3)",
    );
    output.assert_clean_exit(3);
}

/// The same with the library told to keep connections: the engine aborts. Once this fails, the engine is mended.
fn kept_lambdas_abort_the_engine(godot: &Godot) {
    let project = Project::new(&main_script(
        "Sidekick.committed.connect(func(_seq: int) -> void: pass)\nget_tree().quit(3)",
    ));
    let options = Options {
        environment: vec![("SIDEKICK_BROKEN_KEEP_CONNECTIONS".to_owned(), "1".into())],
        ..Options::default()
    };
    let output = project.run(godot, &options, DEADLINE);
    assert_eq!(output.status.signal(), Some(6), "{:#?}", output.lines);
}

/// Four threads record at once; every call is counted.
fn every_thread_may_record(godot: &Godot) {
    let output = run(
        godot,
        "var work: Callable = func() -> void:
	for number: int in 5000:
		Sidekick.record(&\"t\", number)
var threads: Array[Thread] = []
for index: int in 4:
	threads.append(Thread.new())
	threads[index].start(work)
work.call()
for thread: Thread in threads:
	thread.wait_to_finish()
print(\"recorded \", Sidekick.get_stats().recorded)
get_tree().quit()",
    );
    output.assert_clean_exit(0);
    assert_eq!(output.answer("recorded "), Some("25000"));
}

/// The stub has every method, argument and signal of the native class, and hands on to it.
fn the_stub_has_the_members_of_the_singleton(godot: &Godot) {
    let output = run(
        godot,
        "var stub: Node = load(\"res://addons/sidekick/sidekick_stub.gd\").new()
add_child(stub)
var script: Script = stub.get_script()
var methods: Dictionary = {}
for method: Dictionary in script.get_script_method_list():
	methods[method.name] = method
for method: Dictionary in ClassDB.class_get_method_list(&\"Sidekick\", true):
	var mine: Dictionary = methods.get(method.name, {})
	print(\"method \", method.name, \" \", not mine.is_empty()
		and mine.args.map(func(a: Dictionary) -> Array: return [a.name, a.type]) == method.args.map(func(a: Dictionary) -> Array: return [a.name, a.type])
		and mine.default_args == method.default_args and mine.return.type == method.return.type)
var signals: Dictionary = {}
for one: Dictionary in script.get_script_signal_list():
	signals[one.name] = one
for one: Dictionary in ClassDB.class_get_signal_list(&\"Sidekick\", true):
	var mine: Dictionary = signals.get(one.name, {})
	print(\"signal \", one.name, \" \", not mine.is_empty()
		and mine.args.map(func(a: Dictionary) -> Array: return [a.name, a.type]) == one.args.map(func(a: Dictionary) -> Array: return [a.name, a.type]))
for pair: Array in [[\"SidekickStore\", stub.StubStore], [\"SidekickRequest\", stub.StubRequest], [\"SidekickWatch\", stub.StubWatch]]:
	var own: Dictionary = {}
	for method: Dictionary in pair[1].get_script_method_list():
		own[method.name] = method
	for method: Dictionary in ClassDB.class_get_method_list(pair[0], true):
		var mine: Dictionary = own.get(method.name, {})
		print(\"of \", pair[0], \" \", method.name, \" \", not mine.is_empty()
			and mine.args.map(func(a: Dictionary) -> Array: return [a.name.lstrip(\"_\"), a.type]) == method.args.map(func(a: Dictionary) -> Array: return [a.name, a.type])
			and mine.default_args.size() == method.default_args.size() and mine.return.type == method.return.type)
	var told: Array = pair[1].get_script_signal_list().map(func(one: Dictionary) -> String: return one.name)
	for one: Dictionary in ClassDB.class_get_signal_list(pair[0], true):
		print(\"of \", pair[0], \" emits \", one.name, \" \", told.has(one.name))
print(\"stub \", stub.record(&\"a\", 1), stub.get_stats().recorded, Sidekick.get_stats().recorded, await stub.flush(0.1))
get_tree().quit()",
    );
    output.assert_clean_exit(0);
    assert_eq!(
        lines_with(&output, "method ").len(),
        21,
        "{:#?}",
        output.lines
    );
    assert_eq!(
        lines_with(&output, "signal ").len(),
        7,
        "{:#?}",
        output.lines
    );
    assert_eq!(
        lines_with(&output, "of Sidekick").len(),
        11 + 4 + 4,
        "{:#?}",
        output.lines
    );
    assert!(
        lines_with(&output, " false").is_empty(),
        "{:#?}",
        output.lines
    );
    assert_eq!(output.answer("stub "), Some("011false"));
}

/// The stub as the only Sidekick there is: where no library is, a game that uses every member runs.
fn the_stub_stands_in_where_no_library_is(godot: &Godot) {
    let project = Project::without_extension(&main_script(
        "Sidekick.committed.connect(func(_seq: int) -> void: pass)
Sidekick.mark_ready()
Sidekick.expect_stall(1.0)
Sidekick.set_common_fields({\"match\": 1})
print(\"stub \", Sidekick.record(&\"a\", 1), Sidekick.is_supervised(), Sidekick.is_relaunch(), Sidekick.get_incarnation())
print(\"stats \", Sidekick.get_stats().mode, Sidekick.get_stats().recorded)
print(\"flush \", await Sidekick.flush())
print(\"state \", Sidekick.checkpoint(\"a\", 1), Sidekick.checkpoint_delta(\"a\", {}), Sidekick.restore(\"a\", 5), Sidekick.restore_info(\"a\").status)
print(\"store \", Sidekick.store.get_value(\"/a\", 6), (await Sidekick.store.put(\"/a\", 1).wait()).error, (await Sidekick.store.watch(\"/a\").failed).error)
Sidekick.set_idle(true)
Sidekick.restart_when_idle()
await Sidekick.when_active()
print(\"death \", Sidekick.get_last_death(), Sidekick.is_safe_start(), Sidekick.is_standby())
get_tree().quit(3)",
    ));
    let stub = sidekick_tests::folders::repository().join("addons/sidekick/sidekick_stub.gd");
    project.write(
        "sidekick_stub.gd",
        &std::fs::read_to_string(stub).expect("the stub is there"),
    );
    project.write(
        "override.cfg",
        "[autoload]\n\nSidekick=\"*res://sidekick_stub.gd\"\n",
    );
    let output = project.run(godot, &Options::default(), DEADLINE);
    output.assert_clean_exit(3);
    assert_eq!(output.answer("stub "), Some("0falsefalse0"));
    assert_eq!(output.answer("stats "), Some("unsupervised1"));
    assert_eq!(output.answer("flush "), Some("false"));
    assert_eq!(output.answer("state "), Some("005unsupervised"));
    assert_eq!(output.answer("store "), Some("6unsupervisedunsupervised"));
    assert_eq!(output.answer("death "), Some("{  }falsefalse"));
}

/// An autoload that hides the singleton is warned of; the stub of that name is not.
fn an_autoload_of_the_same_name_is_warned_of(godot: &Godot) {
    let project = Project::new(&main_script("get_tree().quit()"));
    project.write("mine.gd", "extends Node\n");
    project.write(
        "override.cfg",
        "[autoload]\n\nSidekick=\"*res://mine.gd\"\n",
    );
    let output = project.run(godot, &Options::default(), DEADLINE);
    output.assert_clean_exit(0);
    assert_eq!(
        lines_with(&output, "the autoload \"Sidekick\"").len(),
        1,
        "{:#?}",
        output.lines
    );

    project.write(
        "override.cfg",
        "[autoload]\n\nSidekick=\"*res://addons/sidekick/sidekick_stub.gd\"\n",
    );
    let output = project.run(godot, &Options::default(), DEADLINE);
    output.assert_clean_exit(0);
    assert!(
        lines_with(&output, "WARNING").is_empty(),
        "{:#?}",
        output.lines
    );
}

/// A script's `class_name Sidekick` is warned of by name: the engine's own words do not say what to do.
fn a_class_of_the_same_name_is_warned_of(godot: &Godot) {
    let project = Project::new(&main_script("get_tree().quit()"));
    project.write("mine.gd", "class_name Sidekick\nextends Node\n");
    project.write(
        ".godot/global_script_class_cache.cfg",
        "list=[{\"base\": &\"Node\", \"class\": &\"Sidekick\", \"icon\": \"\", \"is_abstract\": false, \"is_tool\": false, \
         \"language\": &\"GDScript\", \"path\": \"res://mine.gd\"}]\n",
    );
    let output = project.run(godot, &Options::default(), DEADLINE);
    assert_eq!(output.status.code(), Some(0), "{:#?}", output.lines);
    let warnings = lines_with(&output, "says \"class_name Sidekick\"");
    assert_eq!(warnings.len(), 1, "{:#?}", output.lines);
    assert!(warnings[0].contains("res://mine.gd"));
}

/// A fresh checkout (no `.godot`) started by the launch script, with a stand-in for the watchdog that becomes the engine: the
/// extension is loaded, the game's arguments reach it, its exit code comes back.
fn the_launch_script_starts_a_fresh_checkout(godot: &Godot) {
    let project = Project::new(&main_script(
        "print(\"arguments \", OS.get_cmdline_user_args(), Sidekick.get_stats().mode)\nget_tree().quit(3)",
    ));
    fs::remove_dir_all(project.path().join(".godot")).expect("there");
    project.write(
        "addons/sidekick/bin/linux.x86_64/sidekick-watchdog",
        "#!/bin/sh\nwhile [ \"$1\" != -- ]; do shift; done\nshift\nexec \"$@\"\n",
    );
    let mut command = Command::new("sh");
    command.arg(project.path().join("addons/sidekick/sidekick.sh"));
    command
        .args(["--name", "x", "--", "--map=two words", "b"])
        .env("GODOT4_BIN", &godot.path);
    project.confine(&mut command);
    let mut engine = Running::start(&mut command).expect("a shell");
    let status = engine.wait(DEADLINE).expect("the engine ends");
    let answer = "arguments [\"--map=two words\", \"b\"]unsupervised";
    wait::until("the answer", DEADLINE, || {
        engine.lines.find(0, |line| (line == answer).then_some(()))
    });
    assert_eq!(status.code(), Some(3), "{:#?}", engine.lines.all());
}

/// In the editor everything is a silent no-op, also under a watchdog's variables, and no ring is made. The addon's plugin loads
/// there and gives back the execute bit that an installation loses.
fn the_editor_is_left_alone_and_the_plugin_repairs(godot: &Godot) {
    const WATCHDOG: &str = "addons/sidekick/bin/linux.x86_64/sidekick-watchdog";
    let project = Project::new(&main_script("get_tree().quit()"));
    project.write(WATCHDOG, "#!/bin/sh\n");
    project.write(
        "addons/probe/plugin.cfg",
        "[plugin]\n\nname=\"Probe\"\ndescription=\"\"\nauthor=\"\"\nversion=\"1\"\nscript=\"plugin.gd\"\n",
    );
    project.write(
        "addons/probe/plugin.gd",
        "@tool\nextends EditorPlugin\n\n\nfunc _enter_tree() -> void:\n\tSidekick.mark_ready()\n\
         \tprint(\"editor \", Sidekick.record(&\"a\", self), Sidekick.get_stats().mode, Sidekick.get_stats().recorded)\n\
         \tprint(\"state \", Sidekick.checkpoint(\"a\", 1), Sidekick.restore(\"a\", 2), Sidekick.store.get_value(\"/a\", 3), Sidekick.store.put(\"/a\", 4).is_done())\n",
    );
    // The editor reads no override.cfg.
    let settings = fs::read_to_string(project.path().join("project.godot")).expect("there");
    let plugins = "\n[editor_plugins]\n\nenabled=PackedStringArray(\"res://addons/probe/plugin.cfg\", \
                   \"res://addons/sidekick/plugin.cfg\")\n";
    project.write("project.godot", &(settings + plugins));
    let runtime = Folder::in_memory();
    let mut command = Command::new(&godot.path);
    command
        .args(["--headless", "--editor", "--quit", "--path"])
        .arg(project.path());
    command.env("SIDEKICK_RUNTIME_DIR", runtime.path());
    project.confine(&mut command);
    let mut editor = Running::start(&mut command).expect("an engine");
    let status = editor.wait(DEADLINE).expect("the editor ends");
    let lines = editor.settled_lines();
    assert!(status.success(), "{status}: {lines:#?}");
    assert!(
        lines.iter().any(|line| line == "editor 0editor0"),
        "{lines:#?}"
    );
    assert!(
        lines.iter().any(|line| line == "state 023false"),
        "{lines:#?}"
    );
    assert!(
        !lines.iter().any(|line| line.contains("Sidekick:")),
        "{lines:#?}"
    );
    assert!(
        !lines.iter().any(|line| line.contains("SCRIPT ERROR")),
        "{lines:#?}"
    );
    assert_eq!(fs::read_dir(runtime.path()).expect("ours").count(), 0);
    let mode = fs::metadata(project.path().join(WATCHDOG))
        .expect("there")
        .permissions()
        .mode();
    assert_eq!(mode & 0o111, 0o111);
}

/// Somebody installs the addon and only ever opens the editor: it finds the extension by itself, and the game loads it from then
/// on. (That first editor aborts when it is closed, godotengine/godot#111048; nothing is lost by it.)
fn opening_the_editor_once_is_enough(godot: &Godot) {
    let project = Project::new(&main_script(
        "print(\"mode \", Sidekick.get_stats().mode)\nget_tree().quit(3)",
    ));
    fs::remove_dir_all(project.path().join(".godot")).expect("there");
    let mut command = Command::new(&godot.path);
    command
        .args(["--headless", "--editor", "--quit", "--path"])
        .arg(project.path());
    project.confine(&mut command);
    let mut editor = Running::start(&mut command).expect("an engine");
    editor.wait(DEADLINE).expect("the editor ends");
    let output = project.run(godot, &Options::default(), DEADLINE);
    output.assert_clean_exit(3);
    assert_eq!(output.answer("mode "), Some("unsupervised"));
}

/// The debug library brings the text that F1 shows, for the class, each method and each signal.
fn f1_shows_every_member(godot: &Godot) {
    let project = Project::new(&main_script("get_tree().quit()"));
    let out = Folder::new();
    let mut command = Command::new(&godot.path);
    command
        .args(["--headless", "--doctool"])
        .arg(out.path())
        .arg("--gdextension-docs");
    command
        .arg("--path")
        .arg(project.path())
        .current_dir(project.path());
    project.confine(&mut command);
    let mut engine = Running::start(&mut command).expect("an engine");
    engine.wait(DEADLINE).expect("the engine ends");
    let page = fs::read_to_string(out.join("doc_classes/Sidekick.xml"))
        .or_else(|_| fs::read_to_string(out.join("Sidekick.xml")))
        .unwrap_or_else(|error| panic!("no page: {error}; {:#?}", engine.lines.all()));
    for member in [
        "record",
        "set_common_fields",
        "flush",
        "mark_ready",
        "expect_stall",
        "is_supervised",
        "is_relaunch",
        "get_incarnation",
        "get_last_death",
        "is_safe_start",
        "set_idle",
        "restart_when_idle",
        "get_stats",
        "checkpoint",
        "checkpoint_delta",
        "forget_checkpoint",
        "restore",
        "restore_info",
    ] {
        assert!(
            page.contains(&format!("<method name=\"{member}\"")),
            "{member} is missing:\n{page}"
        );
    }
    for signal in [
        "committed",
        "uploaded",
        "quit_requested",
        "memory_high",
        "watchdog_connected",
        "watchdog_lost",
    ] {
        assert!(
            page.contains(&format!("<signal name=\"{signal}\"")),
            "{signal} is missing:\n{page}"
        );
    }
    for class in ["SidekickStore", "SidekickRequest", "SidekickWatch"] {
        let page = fs::read_to_string(out.join(format!("doc_classes/{class}.xml")))
            .or_else(|_| fs::read_to_string(out.join(format!("{class}.xml"))))
            .unwrap_or_else(|error| panic!("no page of {class}: {error}"));
        assert!(
            !page.contains("<description>\n\t\t</description>"),
            "{page}"
        );
    }
}

sidekick_tests::godot_claims!(
    without_a_watchdog_records_are_only_counted,
    the_info_line_can_be_switched_off,
    a_flush_without_a_watchdog_is_false,
    connected_lambdas_leave_the_exit_code_alone,
    kept_lambdas_abort_the_engine,
    every_thread_may_record,
    the_stub_has_the_members_of_the_singleton,
    the_stub_stands_in_where_no_library_is,
    an_autoload_of_the_same_name_is_warned_of,
    a_class_of_the_same_name_is_warned_of,
    the_launch_script_starts_a_fresh_checkout,
    the_editor_is_left_alone_and_the_plugin_repairs,
    opening_the_editor_once_is_enough,
    f1_shows_every_member,
);
