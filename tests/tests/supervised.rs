//! The extension under supervision: the test itself plays the watchdog over the shared memory, so that it can do what no watchdog
//! would, such as committing nothing.

use std::os::unix::process::ExitStatusExt;
use std::path::PathBuf;
use std::time::Duration;

use sidekick_ipc::Phase;
use sidekick_tests::double::{DEADLINE, Watchdog, main_script};
use sidekick_tests::godot::Godot;
use sidekick_tests::project::{Output, Project};

fn lines_with<'a>(output: &'a Output, text: &str) -> Vec<&'a str> {
    output
        .lines
        .iter()
        .map(String::as_str)
        .filter(|line| line.contains(text))
        .collect()
}

/// Records of several streams arrive in order and as they were; the game knows who launched it, and how far its records are.
fn records_arrive_and_are_told_of(godot: &Godot) {
    let mut watchdog = Watchdog::new();
    let output = watchdog.run(
        godot,
        "var seen: Dictionary = {\"committed\": 0, \"uploaded\": 0}
Sidekick.committed.connect(func(seq: int) -> void: seen.committed = seq)
Sidekick.uploaded.connect(func(seq: int) -> void: seen.uploaded = seq)
Sidekick.mark_ready()
print(\"who \", Sidekick.is_supervised(), Sidekick.is_relaunch(), Sidekick.get_incarnation())
print(\"seqs \", Sidekick.record(&\"damage\", {\"who\": 17, \"at\": Vector2(1.5, 2)}), Sidekick.record(\"größe\", null), Sidekick.record(&\"log\", [1, \"zwei\"]))
print(\"flush \", await Sidekick.flush())
while seen.uploaded < 3:
	await get_tree().process_frame
var stats: Dictionary = Sidekick.get_stats()
print(\"stats \", [stats.mode, stats.source, stats.recorded, stats.refused, stats.committed, stats.uploaded, stats.backlog, stats.ring_used])
print(\"epoch \", stats.epoch)
print(\"levels \", seen)
print(\"flush again \", await Sidekick.flush())
get_tree().quit(4)",
    );
    output.assert_clean_exit(4);
    assert_eq!(output.answer("who "), Some("truetrue3"));
    assert_eq!(output.answer("seqs "), Some("123"));
    assert_eq!(output.answer("flush "), Some("true"));
    assert_eq!(output.answer("flush again "), Some("true"));
    assert_eq!(
        output.answer("stats "),
        Some("[\"supervised\", \"lobby-1\", 3, 0, 3, 3, 0, 0]")
    );
    assert_eq!(
        output.answer("epoch "),
        Some(watchdog.ring().info().epoch.to_string().as_str())
    );
    assert_eq!(
        output.answer("levels "),
        Some("{ \"committed\": 3, \"uploaded\": 3 }")
    );
    let expected = [
        (1, "damage", "{\"who\":17,\"at\":[1.5,2.0]}"),
        (2, "größe", "null"),
        (3, "log", "[1,\"zwei\"]"),
    ];
    let seen: Vec<_> = watchdog
        .seen
        .iter()
        .map(|seen| (seen.seq, seen.stream.as_str(), seen.json.as_str()))
        .collect();
    assert_eq!(seen, expected);
    let info = watchdog.ring().info();
    assert_eq!((info.launch, info.incarnation), (7, 3));
    assert_eq!(info.game_version, "1.2.3-test", "the project's");
    let heartbeat = watchdog.ring().heartbeat();
    assert!(heartbeat.frames > 0 && heartbeat.ready, "{heartbeat:?}");
    assert_eq!(heartbeat.phase, Phase::Running);
    assert!(heartbeat.clean_exit.is_some(), "the engine ended by itself");
    assert!(
        lines_with(&output, "WARNING").is_empty(),
        "{:#?}",
        output.lines
    );
    assert!(
        lines_with(&output, "no watchdog").is_empty(),
        "{:#?}",
        output.lines
    );
}

/// `record` is registered by hand: by name, as a callable, with a String for its name, and with wrong arguments (which the engine
/// reports as for any method) it does what every method does.
fn record_can_be_called_in_every_way(godot: &Godot) {
    let mut watchdog = Watchdog::new();
    let output = watchdog.run(
        godot,
        "var way: Callable = Sidekick.record
var text: String = \"b\"
print(\"seqs \", way.call(&\"a\", 1), Sidekick.call(&\"record\", \"a\", 2), Sidekick.callv(&\"record\", [\"a\", 3]), Sidekick.record(text, 4), way.bind(5).call(&\"a\"))
for wrong: Array in [[], [&\"a\"], [&\"a\", 1, 2], [7, 1]]:
	print(\"wrong \", Sidekick.callv(&\"record\", wrong))
print(\"then \", Sidekick.record(&\"a\", 6))
get_tree().quit()",
    );
    assert_eq!(output.status.code(), Some(0), "{:#?}", output.lines);
    assert_eq!(output.answer("seqs "), Some("12345"));
    assert_eq!(
        lines_with(&output, "wrong <null>").len(),
        4,
        "{:#?}",
        output.lines
    );
    assert!(
        lines_with(&output, "panic").is_empty(),
        "{:#?}",
        output.lines
    );
    assert_eq!(output.answer("then "), Some("6"));
    assert_eq!(watchdog.seen.len(), 6);
}

/// Every value that cannot be stored gives 0, is counted, and is warned of once with its cause; the game goes on.
fn what_cannot_be_stored_is_refused_and_warned_of_once(godot: &Godot) {
    let mut watchdog = Watchdog::new();
    let output = watchdog.run(
        godot,
        "var deep: Array = []
for level: int in 100:
	deep = [deep]
var itself: Dictionary = {}
itself.me = itself
var bad: Array = [[\"object\", {\"a\": [self]}], [\"callable\", print], [\"signal\", tree_exited], [\"rid\", RID()], [\"deep\", deep],
	[\"large\", PackedByteArray()], [\"\", 1], [\"x\".repeat(256), 1], [\"a\\nb\", 1]]
bad[5][1].resize(70000)
var sum: int = 0
for _round: int in 3:
	for pair: Array in bad:
		sum += Sidekick.record(pair[0], pair[1])
print(\"sum \", sum, \" refused \", Sidekick.get_stats().refused)
print(\"itself \", Sidekick.record(&\"itself\", itself))
itself.clear()
print(\"good \", Sidekick.record(&\"good\", 1))
get_tree().quit()",
    );
    assert_eq!(output.status.code(), Some(0), "{:#?}", output.lines);
    assert_eq!(output.answer("sum "), Some("0 refused 27"));
    assert_eq!(output.answer("itself "), Some("0"));
    assert_eq!(output.answer("good "), Some("1"));
    for text in [
        "holds an Object at [\"a\"][0]",
        "holds a Callable",
        "holds a Signal",
        "holds an RID",
        "is nested more than 64 containers deep",
        "the limit is 65536; split the data",
        "the stream's name is empty",
        "the stream's name has 256 bytes, the limit is 255",
        "the stream's name holds control characters",
    ] {
        assert_eq!(
            lines_with(&output, text).len(),
            1,
            "{text}: {:#?}",
            output.lines
        );
    }
    assert_eq!(watchdog.seen.len(), 1);
    assert_eq!(watchdog.missing, 0, "what the game must mend is no gap");
}

/// A ring that nobody empties refuses, counts, warns once; when there is space again a gap tells how many are missing.
fn a_full_ring_refuses_and_tells_of_the_gap(godot: &Godot) {
    let mut watchdog = Watchdog::new();
    watchdog.set("RING_WHEN_FULL", "refuse");
    let project = Project::new(&main_script(
        "var data: PackedByteArray = []
data.resize(60000)
var taken: int = 0
for _number: int in 100:
	taken += 1 if Sidekick.record(&\"bulk\", data) > 0 else 0
print(\"taken \", taken, \" refused \", Sidekick.get_stats().refused)
while not await Sidekick.flush(0.2):
	pass
print(\"more \", Sidekick.record(&\"bulk\", 1))
print(\"flush \", await Sidekick.flush())
get_tree().quit()",
    ));
    let mut engine = watchdog.launch(godot, &project);
    engine.wait_for_line("taken ", DEADLINE);
    let output = watchdog.serve_to_the_end(engine);
    output.assert_clean_exit(0);
    let answer = output.answer("taken ").expect("an answer");
    let (taken, refused) = answer.split_once(" refused ").expect("two numbers");
    let (taken, refused): (u64, u64) = (
        taken.parse().expect("a number"),
        refused.parse().expect("a number"),
    );
    assert!(
        taken > 10 && refused > 50 && taken + refused == 100,
        "{answer}"
    );
    assert_eq!(
        lines_with(&output, "the ring is full").len(),
        1,
        "{:#?}",
        output.lines
    );
    assert_eq!(watchdog.seen.len() as u64, taken + 1);
    assert_eq!(watchdog.missing, refused);
    assert_eq!(output.answer("flush "), Some("true"));
}

/// Nobody commits: a flush comes back with false at its time-out, not earlier, not much later; the records are still there.
fn a_flush_that_is_not_answered_times_out(godot: &Godot) {
    let mut watchdog = Watchdog::new();
    watchdog.commits = false;
    let output = watchdog.run(
        godot,
        "Sidekick.record(&\"a\", 1)
var start: int = Time.get_ticks_msec()
var long: Signal = Sidekick.flush(60.0)
var ok: bool = await Sidekick.flush(0.5)
var took: int = Time.get_ticks_msec() - start
print(\"flush \", ok, \" \", took >= 500 and took < 5000)
long.connect(func(_ok: bool) -> void: print(\"never\"))
get_tree().quit(3)",
    );
    output.assert_clean_exit(3);
    assert_eq!(output.answer("flush "), Some("false true"));
    assert!(lines_with(&output, "never").is_empty());
    assert_eq!(watchdog.seen.len(), 1);
}

/// Four threads and the main thread record at once: all arrive, numbered without a hole, in each thread's own order.
fn threads_record_without_a_hole(godot: &Godot) {
    let mut watchdog = Watchdog::new();
    let output = watchdog.run(
        godot,
        "var work: Callable = func(index: int) -> void:
	var last: int = 0
	for number: int in 2000:
		var seq: int = Sidekick.record(&\"t\", [index, number])
		if seq <= last:
			print(\"wrong seq \", seq)
		last = seq
var threads: Array[Thread] = []
for index: int in 4:
	threads.append(Thread.new())
	threads[index].start(work.bind(index))
work.call(4)
for thread: Thread in threads:
	thread.wait_to_finish()
print(\"flush \", await Sidekick.flush(30.0))
get_tree().quit()",
    );
    output.assert_clean_exit(0);
    assert_eq!(output.answer("flush "), Some("true"));
    assert!(lines_with(&output, "wrong").is_empty());
    assert_eq!(watchdog.seen.len(), 10_000);
    let mut next = [0; 5];
    for (seen, seq) in watchdog.seen.iter().zip(1..) {
        assert_eq!(seen.seq, seq);
        let (index, number): (usize, u32) = serde_json::from_str(&seen.json).expect("a pair");
        assert_eq!(number, next[index]);
        next[index] += 1;
    }
}

/// SIGKILL amid recording: every number that the game had been given before is in the ring.
fn what_was_numbered_survives_a_kill(godot: &Godot) {
    let mut watchdog = Watchdog::new();
    let project = Project::new(
        "extends Node\n\n\nfunc _process(_delta: float) -> void:\n\tfor number: int in 50:\n\
         \t\tprint(\"seq \", Sidekick.record(&\"a\", number))\n",
    );
    let mut engine = watchdog.launch(godot, &project);
    engine.wait_for_line("seq 1000", DEADLINE);
    engine.running.kill();
    let output = engine.finish(DEADLINE);
    assert_eq!(output.status.signal(), Some(9));
    let numbered = lines_with(&output, "seq ")
        .iter()
        .filter_map(|line| line.strip_prefix("seq ")?.parse::<u64>().ok())
        .max()
        .expect("some");
    while watchdog.serve_once() > 0 {}
    assert!(!watchdog.ring().is_writer_alive());
    assert_eq!(watchdog.ring().heartbeat().clean_exit, None);
    let count = watchdog.seen.len() as u64;
    assert!(
        numbered >= 1000 && count >= numbered,
        "{numbered} were numbered, {count} arrived"
    );
}

/// Asked to quit, a game without a listener quits by itself, and is told as the tree is when a window is closed.
fn a_game_that_does_not_listen_quits_when_asked(godot: &Godot) {
    let mut watchdog = Watchdog::new();
    let project = Project::new(
        "extends Node\n\n\nfunc _ready() -> void:\n\tprint(\"running\")\n\n\nfunc _notification(what: int) -> void:\n\
         \tif what == NOTIFICATION_WM_CLOSE_REQUEST:\n\t\tprint(\"close \", Sidekick.record(&\"last\", 1))\n",
    );
    let mut engine = watchdog.launch(godot, &project);
    engine.wait_for_line("running", DEADLINE);
    watchdog.ring().controls().set_quit(Duration::from_secs(20));
    let output = watchdog.serve_to_the_end(engine);
    output.assert_clean_exit(0);
    assert_eq!(
        lines_with(&output, "close 1").len(),
        1,
        "{:#?}",
        output.lines
    );
    assert_eq!(watchdog.seen.len(), 1);
    assert!(watchdog.ring().heartbeat().clean_exit.is_some());
    assert_eq!(watchdog.ring().heartbeat().phase, Phase::Stopping);
}

/// A game that listens is asked once, with the grace; it may await, and it decides when to quit and with which code.
fn a_game_that_listens_quits_when_it_has_saved(godot: &Godot) {
    let mut watchdog = Watchdog::new();
    let project = Project::new(&main_script(
        "print(\"running\")
var grace: float = await Sidekick.quit_requested
print(\"asked \", grace > 15.0 and grace <= 20.0)
Sidekick.quit_requested.connect(func(_grace: float) -> void: print(\"asked twice\"))
await get_tree().create_timer(0.3).timeout
Sidekick.record(&\"saved\", 1)
print(\"flush \", await Sidekick.flush())
get_tree().quit(7)",
    ));
    let mut engine = watchdog.launch(godot, &project);
    engine.wait_for_line("running", DEADLINE);
    watchdog.ring().controls().set_quit(Duration::from_secs(20));
    let output = watchdog.serve_to_the_end(engine);
    output.assert_clean_exit(7);
    assert_eq!(output.answer("asked "), Some("true"));
    assert_eq!(output.answer("flush "), Some("true"));
    assert!(lines_with(&output, "asked twice").is_empty());
}

/// With `auto_accept_quit` off the game decides, also when only its close handler knows of the request.
fn a_game_that_does_not_accept_quitting_is_left_alone(godot: &Godot) {
    let mut watchdog = Watchdog::new();
    let project = Project::new(
        "extends Node\n\n\nfunc _ready() -> void:\n\tget_tree().auto_accept_quit = false\n\tprint(\"running\")\n\n\n\
         func _notification(what: int) -> void:\n\tif what == NOTIFICATION_WM_CLOSE_REQUEST:\n\
         \t\tawait get_tree().create_timer(0.3).timeout\n\t\tget_tree().quit(5)\n",
    );
    let mut engine = watchdog.launch(godot, &project);
    engine.wait_for_line("running", DEADLINE);
    watchdog.ring().controls().set_quit(Duration::from_secs(20));
    let output = watchdog.serve_to_the_end(engine);
    output.assert_clean_exit(5);
}

/// The stub listens in any case, so it quits for a game that does not.
fn the_stub_quits_for_a_game_that_does_not_listen(godot: &Godot) {
    let mut watchdog = Watchdog::new();
    let project = Project::new(&main_script(
        "print(\"running \", Sidekick.record(&\"a\", 1))",
    ));
    project.write(
        "override.cfg",
        "[autoload]\n\nSidekick=\"*res://addons/sidekick/sidekick_stub.gd\"\n",
    );
    let mut engine = watchdog.launch(godot, &project);
    engine.wait_for_line("running 1", DEADLINE);
    watchdog.ring().controls().set_quit(Duration::from_secs(20));
    watchdog.serve_to_the_end(engine).assert_clean_exit(0);
}

/// A watchdog that stops beating is lost, one that beats again is connected; recording goes on meanwhile.
fn a_silent_watchdog_is_told_of(godot: &Godot) {
    let mut watchdog = Watchdog::new();
    let project = Project::new(&main_script(
        "Sidekick.watchdog_connected.connect(func() -> void: print(\"connected \", Sidekick.record(&\"a\", 1)))
Sidekick.watchdog_lost.connect(func() -> void: print(\"lost \", Sidekick.record(&\"a\", 2)))
await Sidekick.watchdog_lost
await Sidekick.watchdog_connected
get_tree().quit()",
    ));
    project.write("override.cfg", "[sidekick]\n\nwatchdog/lost_after_s=0.5\n");
    let mut engine = watchdog.launch(godot, &project);
    watchdog.ring().controls().beat();
    engine.wait_for_line("connected 1", DEADLINE);
    engine.wait_for_line("lost 2", DEADLINE);
    let output = watchdog.serve_to_the_end(engine);
    output.assert_clean_exit(0);
    assert_eq!(
        lines_with(&output, "connected ").len(),
        2,
        "{:#?}",
        output.lines
    );
    assert_eq!(lines_with(&output, "lost ").len(), 1, "{:#?}", output.lines);
}

/// What the watchdog sends for the developer's eyes appears in the engine's own output; an unknown kind does not.
fn notices_appear_in_the_games_output(godot: &Godot) {
    let mut watchdog = Watchdog::new();
    let project = Project::new(&main_script(
        "Sidekick.mark_ready()\nawait Sidekick.quit_requested\nget_tree().quit()",
    ));
    let mut engine = watchdog.launch(godot, &project);
    let downlink = watchdog.ring().downlink();
    let unknown = sidekick_ipc::DownlinkMessage {
        kind: 4711,
        request: 1,
        body: b"later".to_vec(),
    };
    downlink.send(&unknown).expect("room for a message");
    downlink
        .notice("the shop is closed")
        .expect("room for a notice");
    engine.wait_for_line("the watchdog says: the shop is closed", DEADLINE);
    watchdog.ring().controls().set_quit(Duration::from_secs(20));
    let output = watchdog.serve_to_the_end(engine);
    output.assert_clean_exit(0);
    assert!(lines_with(&output, "later").is_empty());
}

/// A program that the game starts finds none of the watchdog's variables, so nobody takes it for the engine.
fn children_of_the_game_are_not_taken_for_it(godot: &Godot) {
    let mut watchdog = Watchdog::new();
    let output = watchdog.run(
        godot,
        "var lines: Array = []
OS.execute(\"env\", [], lines)
print(\"mine \", lines[0].contains(\"SIDEKICK_\"), \" \", lines[0].contains(\"PATH=\"))
get_tree().quit()",
    );
    output.assert_clean_exit(0);
    assert_eq!(output.answer("mine "), Some("false true"));
}

/// A ring that cannot be made is warned of once, with path and cause; the game runs on as without a watchdog.
fn a_ring_that_cannot_be_made_does_not_stop_the_game(godot: &Godot) {
    let mut watchdog = Watchdog::new();
    let missing: PathBuf = watchdog.runtime.join("missing");
    watchdog.set("RUNTIME_DIR", &missing.display().to_string());
    let project = Project::new(&main_script(
        "print(\"seq \", Sidekick.record(&\"a\", 1), Sidekick.is_supervised(), await Sidekick.flush())\nget_tree().quit(3)",
    ));
    let output = project.run(godot, &watchdog.options(), DEADLINE);
    output.assert_clean_exit(3);
    assert_eq!(output.answer("seq "), Some("0falsefalse"));
    let warnings = lines_with(&output, "records are not kept in this run");
    assert_eq!(warnings.len(), 1, "{:#?}", output.lines);
    assert!(
        warnings[0].contains(&missing.display().to_string()),
        "{warnings:?}"
    );
}

/// Another version of the watchdog is named once, with both numbers; records are taken all the same.
fn another_version_of_the_watchdog_is_named(godot: &Godot) {
    let mut watchdog = Watchdog::new();
    watchdog.set("WATCHDOG_VERSION", "0.0.9");
    let output = watchdog.run(
        godot,
        "print(\"seq \", Sidekick.record(&\"a\", 1))\nget_tree().quit()",
    );
    output.assert_clean_exit(0);
    assert_eq!(output.answer("seq "), Some("1"));
    let warnings = lines_with(&output, "the watchdog is version 0.0.9");
    assert_eq!(warnings.len(), 1, "{:#?}", output.lines);
    assert!(warnings[0].contains(env!("CARGO_PKG_VERSION")));
}

/// Switched off in the project, nothing is recorded, but the watchdog still sees the engine live.
fn recording_can_be_switched_off(godot: &Godot) {
    let mut watchdog = Watchdog::new();
    let project = Project::new(&main_script(
        "print(\"seq \", Sidekick.record(&\"a\", 1), Sidekick.is_supervised())\nawait get_tree().process_frame\nget_tree().quit()",
    ));
    project.write("override.cfg", "[sidekick]\n\nrecord/enabled=false\n");
    let engine = watchdog.launch(godot, &project);
    let output = watchdog.serve_to_the_end(engine);
    output.assert_clean_exit(0);
    assert_eq!(output.answer("seq "), Some("0true"));
    assert!(watchdog.seen.is_empty());
    assert!(watchdog.ring().heartbeat().frames > 0);
}

/// An announced stall reaches the watchdog's view of the heartbeat.
fn a_stall_is_announced(godot: &Godot) {
    let mut watchdog = Watchdog::new();
    let project = Project::new(&main_script(
        "await get_tree().process_frame\nSidekick.expect_stall(30.0)\nprint(\"told\")\nawait Sidekick.quit_requested\nget_tree().quit()",
    ));
    let engine = watchdog.launch(godot, &project);
    watchdog.serve_until("the announcement", |watchdog| {
        watchdog.ring().heartbeat().allowed_silence > Duration::from_secs(10)
    });
    watchdog.ring().controls().set_quit(Duration::from_secs(20));
    watchdog.serve_to_the_end(engine).assert_clean_exit(0);
}

sidekick_tests::godot_claims!(
    records_arrive_and_are_told_of,
    record_can_be_called_in_every_way,
    what_cannot_be_stored_is_refused_and_warned_of_once,
    a_full_ring_refuses_and_tells_of_the_gap,
    a_flush_that_is_not_answered_times_out,
    threads_record_without_a_hole,
    what_was_numbered_survives_a_kill,
    a_game_that_does_not_listen_quits_when_asked,
    a_game_that_listens_quits_when_it_has_saved,
    a_game_that_does_not_accept_quitting_is_left_alone,
    the_stub_quits_for_a_game_that_does_not_listen,
    a_silent_watchdog_is_told_of,
    notices_appear_in_the_games_output,
    children_of_the_game_are_not_taken_for_it,
    a_ring_that_cannot_be_made_does_not_stop_the_game,
    another_version_of_the_watchdog_is_named,
    recording_can_be_switched_off,
    a_stall_is_announced,
);
