//! What game and watchdog tell one another beside the records: idleness, memory, deaths, script errors, crashes; and what an
//! engine does whose watchdog is gone or has given it up. The test plays the watchdog.

use std::fs;
use std::net::TcpListener;
use std::os::unix::fs::FileExt;
use std::os::unix::process::ExitStatusExt;
use std::process::Command;
use std::time::Duration;

use sidekick_ipc::errors::{self, ErrorKind};
use sidekick_ipc::{Attachment, Phase, layout, scan};
use sidekick_tests::double::{DEADLINE, Watchdog, main_script};
use sidekick_tests::folders::write_program;
use sidekick_tests::godot::Godot;
use sidekick_tests::process::{Running, Token};
use sidekick_tests::project::{Output, Project};
use sidekick_tests::wait;

const LAUNCH: u32 = 7;

fn count(output: &Output, text: &str) -> usize {
    output
        .lines
        .iter()
        .filter(|line| line.contains(text))
        .count()
}

/// `set_idle` and `restart_when_idle` reach the watchdog, and can be taken back; each frame tells how long the last took.
fn idle_and_restart_are_told(godot: &Godot) {
    let mut watchdog = Watchdog::new();
    let project = Project::new(&main_script(
        "Sidekick.set_idle(true)
Sidekick.restart_when_idle()
await Sidekick.quit_requested
Sidekick.set_idle(false)
get_tree().quit()",
    ));
    let engine = watchdog.launch(godot, &project);
    watchdog.serve_until("an idle game", |watchdog| {
        let heartbeat = watchdog.ring().heartbeat();
        heartbeat.idle && heartbeat.restart_wanted && heartbeat.last_tick_us > 0
    });
    watchdog.ring().controls().set_quit(Duration::from_secs(20));
    watchdog.serve_to_the_end(engine).assert_clean_exit(0);
    assert!(!watchdog.ring().heartbeat().idle);
}

/// A paused tree still has frames, and is no excuse for silence: the phase stays what it was.
fn a_paused_tree_is_not_a_paused_engine(godot: &Godot) {
    let mut watchdog = Watchdog::new();
    let project = Project::new(&main_script(
        "process_mode = Node.PROCESS_MODE_ALWAYS
Sidekick.mark_ready()
get_tree().paused = true
await Sidekick.quit_requested
get_tree().quit()",
    ));
    let engine = watchdog.launch(godot, &project);
    watchdog.serve_until("frames of a paused tree", |watchdog| {
        let heartbeat = watchdog.ring().heartbeat();
        heartbeat.frames > 100 && heartbeat.phase == Phase::Running
    });
    watchdog.ring().controls().set_quit(Duration::from_secs(20));
    watchdog.serve_to_the_end(engine).assert_clean_exit(0);
}

/// With a debugger attached the phase says that silence may be a breakpoint.
fn a_debugger_is_told_of(godot: &Godot) {
    let watchdog = Watchdog::new();
    let project = Project::new(&main_script("Sidekick.mark_ready()"));
    let debugger = TcpListener::bind("127.0.0.1:0").expect("a port");
    let address = format!("tcp://{}", debugger.local_addr().expect("bound"));
    let token = Token::new();
    let words = project.command_line(godot, &[]);
    let mut command = Command::new(&words[0]);
    command.args(&words[1..]).args(["--remote-debug", &address]);
    token.mark(&mut command);
    project.confine(&mut command);
    command.envs(watchdog.options().environment);
    let mut engine = Running::start(&mut command).expect("an engine");
    let connection = debugger.accept().expect("the engine calls its debugger");
    let name = wait::until("a ring", DEADLINE, || {
        scan(watchdog.runtime.path())
            .expect("ours")
            .into_iter()
            .next()
    });
    let ring = Attachment::open(&name).expect("a good ring");
    wait::until("the debugger's phase", DEADLINE, || {
        (ring.heartbeat().phase == Phase::Paused).then_some(())
    });
    drop(connection);
    engine.kill();
}

/// The watchdog's warning of much memory is a signal with the number.
fn much_memory_is_a_signal(godot: &Godot) {
    let mut watchdog = Watchdog::new();
    let project = Project::new(&main_script(
        "print(\"running\")
print(\"memory \", await Sidekick.memory_high)
get_tree().quit()",
    ));
    let mut engine = watchdog.launch(godot, &project);
    engine.wait_for_line("running", DEADLINE);
    watchdog
        .ring()
        .downlink()
        .memory_high(5_000_000_000)
        .expect("room");
    let output = watchdog.serve_to_the_end(engine);
    output.assert_clean_exit(0);
    assert_eq!(output.answer("memory "), Some("5000000000"));
}

/// A relaunched game finds the report of the last death, once the watchdog has written it; numbers are whole, what is unknown is
/// null, and every promised key is there.
fn the_last_death_is_told(godot: &Godot) {
    let mut watchdog = Watchdog::new();
    let report = watchdog.runtime.join("report.json");
    watchdog.set("LAST_DEATH", &report.display().to_string());
    watchdog.set("SAFE_START", "1");
    let project = Project::new(&main_script(
        "print(\"safe \", Sidekick.is_safe_start())
print(\"early \", Sidekick.get_last_death())
while Sidekick.get_last_death().is_empty():
	await get_tree().process_frame
var death: Dictionary = Sidekick.get_last_death()
print(\"keys \", death.has_all([\"cause\", \"signal\", \"exit_code\", \"frame\", \"uptime_s\", \"script_errors\", \"backtrace\", \"report_id\"]))
print(\"death \", [death.cause, death.signal, death.exit_code, death.frame, death.uptime_s, death.script_errors[0].line])
get_tree().quit()",
    ));
    let mut engine = watchdog.launch(godot, &project);
    engine.wait_for_line("early ", DEADLINE);
    let unfinished = watchdog.runtime.join("report.tmp");
    let text = r#"{"cause":"segmentation fault in frame 18,211","signal":11,"exit_code":null,"frame":18211,
        "uptime_s":303.5,"script_errors":[{"message":"x","line":5}],"report_id":"a"}"#;
    fs::write(&unfinished, text).expect("ours");
    fs::rename(&unfinished, &report).expect("ours");
    let output = watchdog.serve_to_the_end(engine);
    output.assert_clean_exit(0);
    assert_eq!(output.answer("safe "), Some("true"));
    assert_eq!(output.answer("early "), Some("{  }"));
    assert_eq!(output.answer("keys "), Some("true"));
    assert_eq!(
        output.answer("death "),
        Some("[\"segmentation fault in frame 18,211\", 11, <null>, 18211, 303.5, 5]")
    );
}

/// What scripts complain of, from any thread, is in the launch's error file with the script's stack; warnings are not. The exit
/// code is the game's own, also with the logger registered.
fn script_errors_are_kept_with_their_stack(godot: &Godot) {
    let mut watchdog = Watchdog::new();
    let project = Project::new(
        "extends Node


func _ready() -> void:
	push_warning(\"only a warning\")
	for index: int in 3:
		push_error(\"it went wrong\")
	_call_null(null)
	var thread: Thread = Thread.new()
	thread.start(func() -> void: push_error(\"from a thread\"))
	thread.wait_to_finish()
	get_tree().quit(3)


func _call_null(nothing: Object) -> void:
	nothing.call(\"anything\")
",
    );
    let engine = watchdog.launch(godot, &project);
    let output = watchdog.serve_to_the_end(engine);
    assert_eq!(output.status.code(), Some(3), "{:#?}", output.lines);
    let found = errors::read(watchdog.runtime.path(), LAUNCH).expect("a good file");
    let texts: Vec<_> = found.iter().map(|error| error.text.as_str()).collect();
    assert_eq!(found.len(), 3, "{found:#?}");
    assert_eq!((texts[0], found[0].count), ("it went wrong", 3));
    assert_eq!(
        (found[0].file.as_str(), found[0].line, found[0].kind),
        ("res://main.gd", 7, ErrorKind::Error)
    );
    assert!(
        found[0].backtrace.starts_with("_ready (res://main.gd:7)"),
        "{found:#?}"
    );
    assert_eq!(
        (found[1].kind, found[1].function.as_str(), found[1].line),
        (ErrorKind::Script, "_call_null", 16)
    );
    assert_eq!(
        found[1].backtrace.lines().count(),
        2,
        "innermost and caller: {found:#?}"
    );
    assert_eq!(texts[2], "from a thread");
}

/// The engine's crash handler tells the watchdog that it has begun, before it prints for as long as it likes.
fn a_crash_is_told_while_the_handler_runs(godot: &Godot) {
    let mut watchdog = Watchdog::new();
    let project = Project::new(
        "extends Node


func _process(_delta: float) -> void:
	if Engine.get_process_frames() > 20:
		OS.crash(\"asked for\")
",
    );
    let engine = watchdog.launch(godot, &project);
    let output = watchdog.serve_to_the_end(engine);
    assert_eq!(output.status.signal(), Some(6), "{:#?}", output.lines);
    let heartbeat = watchdog.ring().heartbeat();
    assert_eq!(
        (heartbeat.phase, heartbeat.clean_exit),
        (Phase::Crashed, None)
    );
}

/// An engine that finds a newer launch active takes no more records, says so once, and quits.
fn an_engine_that_was_given_up_quits(godot: &Godot) {
    let mut watchdog = Watchdog::new();
    let project = Project::new(
        "extends Node


func _ready() -> void:
	get_tree().auto_accept_quit = false
	print(\"running\")


func _process(_delta: float) -> void:
	print(\"seq \", Sidekick.record(&\"a\", 1))
",
    );
    let mut engine = watchdog.launch(godot, &project);
    engine.wait_for_line("seq ", DEADLINE);
    watchdog.ring().controls().set_active_launch(LAUNCH + 1);
    let output = watchdog.serve_to_the_end(engine);
    assert_eq!(output.status.code(), Some(0), "{:#?}", output.lines);
    assert_eq!(count(&output, "another server in this one's place"), 1);
    assert!(count(&output, "seq 0") >= 1 && count(&output, "seq 0") < 5);
    let numbered = count(&output, "seq ") - count(&output, "seq 0");
    assert_eq!(watchdog.seen.len(), numbered);
}

/// The watchdog stays away for longer than the operator allows: the game is asked to quit, with a grace.
fn a_game_without_its_watchdog_quits_if_told_to(godot: &Godot) {
    let mut watchdog = Watchdog::new();
    watchdog.set("QUIT_WITHOUT_WATCHDOG_MS", "700");
    let project = Project::new(&main_script(
        "print(\"running\")
var grace: float = await Sidekick.quit_requested
print(\"grace \", grace > 5.0 and grace <= 10.0)
get_tree().quit(4)",
    ));
    let mut engine = watchdog.launch(godot, &project);
    engine.wait_for_line("running", DEADLINE);
    watchdog.ring().controls().beat();
    let output = engine.finish(DEADLINE);
    output.assert_clean_exit(4);
    assert_eq!(output.answer("grace "), Some("true"));
    assert_eq!(count(&output, "is asked to quit as configured"), 1);
}

/// A watchdog whose process is gone is started again by the engine, through the executable that it has noted; one that lives
/// and is only silent is not.
fn a_dead_watchdog_is_started_again(godot: &Godot) {
    let mut watchdog = Watchdog::new();
    let runtime = watchdog.runtime.path().to_owned();
    let executable = runtime.join("watchdog.sh");
    let notes = runtime.join("notes");
    let text = format!("#!/bin/sh\necho \"$@\" >> {}\n", notes.display());
    write_program(&executable, text.as_bytes(), 0o700);
    let note = format!("{{\"exe\":\"{}\",\"args\":[]}}", executable.display());
    fs::write(runtime.join("watchdog.json"), note).expect("ours");
    let project = Project::new(&main_script(
        "Sidekick.watchdog_lost.connect(func() -> void: print(\"lost\"))\nprint(\"running\")",
    ));
    project.write("override.cfg", "[sidekick]\n\nwatchdog/respawn=true\n");
    let mut engine = watchdog.launch(godot, &project);
    engine.wait_for_line("running", DEADLINE);
    // This process plays the watchdog, and it lives.
    watchdog.ring().controls().set_generation(1);
    watchdog.ring().controls().beat();
    engine.wait_for_line("lost", DEADLINE);
    assert!(!notes.exists());
    // Another process has its number: the watchdog of that start time is gone.
    let ring = fs::OpenOptions::new()
        .write(true)
        .open(&watchdog.ring().name().path)
        .expect("ours");
    ring.write_all_at(&[1], layout::C_WATCHDOG_START as u64)
        .expect("ours");
    let words = wait::until("the respawn command", DEADLINE, || {
        fs::read_to_string(&notes)
            .ok()
            .filter(|text| text.ends_with('\n'))
    });
    let expected = format!("respawn --runtime-dir {}\n", runtime.display());
    assert!(words.starts_with(&expected), "{words}");
    watchdog.ring().controls().set_quit(Duration::from_secs(20));
    let output = watchdog.serve_to_the_end(engine);
    output.assert_clean_exit(0);
    assert!(count(&output, "the watchdog has died; starting it again") >= 1);
}

sidekick_tests::godot_claims!(
    idle_and_restart_are_told,
    a_paused_tree_is_not_a_paused_engine,
    a_debugger_is_told_of,
    much_memory_is_a_signal,
    the_last_death_is_told,
    script_errors_are_kept_with_their_stack,
    a_crash_is_told_while_the_handler_runs,
    an_engine_that_was_given_up_quits,
    a_game_without_its_watchdog_quits_if_told_to,
    a_dead_watchdog_is_started_again,
);
