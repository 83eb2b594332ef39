//! What a relaunched game is told of the one before. The real Godot, the real watchdog.

use std::time::Duration;

use serde_json::{Value, json};
use sidekick_tests::godot::Godot;
use sidekick_tests::project::Project;
use sidekick_tests::wait;
use sidekick_tests::watchdog::Setup;

const PATIENCE: Duration = Duration::from_secs(180);

const GAME: &str = r#"extends Node

## Sends a signal to this process once its main thread takes signals. glibc blocks them in a thread that starts a process until
## it has started; one that comes meanwhile goes to another thread. (What is executed comes by way of a shell's double quotes.)
const KILL_MAIN := "until grep -q 'SigBlk:.0000000000000000' /proc/{pid}/task/{pid}/status; do :; done; kill -SEGV {pid}"


func _ready() -> void:
	Sidekick.mark_ready()
	if not Sidekick.is_relaunch():
		Sidekick.record(&"first", Sidekick.get_last_death())
		push_error("shortly before the end")
		# One frame may take as long as the timer.
		for frame in 20:
			await get_tree().process_frame
		await get_tree().create_timer(0.3).timeout
		OS.execute("/bin/sh", ["-c", KILL_MAIN.format({"pid": OS.get_process_id()})])
		OS.delay_msec(10_000)
		return
	var waited: int = 0
	while Sidekick.get_last_death().is_empty():
		waited += 1
		await get_tree().process_frame
	var death: Dictionary = Sidekick.get_last_death()
	Sidekick.record(&"death", {
		"cause": death.cause, "signal": death.signal, "exit_code": death.exit_code, "frames": death.frame > 5,
		"uptime": death.uptime_s > 0.2 and death.uptime_s < 600.0, "backtrace": death.backtrace.size() > 2,
		"error": death.script_errors[0].message,
		"report": death.report_id.length(), "incarnation": death.incarnation, "safe": Sidekick.is_safe_start(),
	})
"#;

fn recorded(setup: &Setup, stream: &str) -> Option<Value> {
    let ledger = setup.uploaded_files();
    let arrival = ledger
        .records()
        .values()
        .find(|arrival| arrival.stream == stream)?;
    Some(arrival.data())
}

/// Killed by SIGSEGV after a script error: the next incarnation reads why, when and after which errors, without having to ask
/// for long; the first one had nothing to read.
fn a_relaunched_game_learns_how_the_last_one_died(godot: &Godot) {
    let project = Project::new(GAME);
    let mut setup = Setup::new();
    setup.set_config("[restart]\nbackoff_first = \"10ms\"\n[upload]\nbatch_max_age = \"100ms\"\n");
    setup.set_engine(project.command_line(godot, &[]));
    let watchdog = setup.start();
    let death = wait::until("the game's word of the death", PATIENCE, || {
        recorded(&setup, "death")
    });
    let cause = death["cause"].as_str().unwrap_or_default();
    assert!(cause.starts_with("segmentation fault"), "{death:#}");
    let expected = json!({
        "cause": cause, "signal": 11, "exit_code": null, "frames": true, "uptime": true, "backtrace": true,
        "error": "shortly before the end", "report": 36, "incarnation": 1, "safe": false,
    });
    assert_eq!(death, expected);
    assert_eq!(recorded(&setup, "first"), Some(json!({})));
    watchdog.stop(PATIENCE);
}

/// A game that uses more than the soft limit hears of it, with the number; one that says that it is idle and wants a restart gets
/// one, which is no death.
fn much_memory_is_told_and_a_wish_for_a_restart_heard(godot: &Godot) {
    let project = Project::new(
        "extends Node


func _ready() -> void:
	Sidekick.mark_ready()
	Sidekick.record(&\"start\", [Sidekick.get_incarnation(), Sidekick.get_last_death()])
	if Sidekick.get_incarnation() == 1:
		await get_tree().create_timer(2.0).timeout
		var block: PackedByteArray = []
		block.resize(300 << 20)
		block.fill(1)
		var bytes: int = await Sidekick.memory_high
		Sidekick.record(&\"memory\", bytes > 256 << 20)
		Sidekick.set_idle(true)
		Sidekick.restart_when_idle()
",
    );
    let mut setup = Setup::new();
    setup.set_config(
        "[health]\nmemory_soft = \"256MiB\"\n[restart]\nbackoff_first = \"10ms\"\n[upload]\nbatch_max_age = \"100ms\"\n",
    );
    setup.set_engine(project.command_line(godot, &[]));
    let watchdog = setup.start();
    wait::until("the second incarnation's word", PATIENCE, || {
        let ledger = setup.uploaded_files();
        let starts = ledger
            .records()
            .values()
            .any(|arrival| arrival.stream == "start" && arrival.data() == json!([2, {}]));
        starts.then_some(())
    });
    let memory = wait::until("the first one's word", PATIENCE, || {
        recorded(&setup, "memory")
    });
    assert_eq!(memory, json!(true));
    let finished = watchdog.stop(PATIENCE);
    assert_eq!(finished.status.code(), Some(0), "{:#?}", finished.lines);
}

sidekick_tests::godot_claims!(
    a_relaunched_game_learns_how_the_last_one_died,
    much_memory_is_told_and_a_wish_for_a_restart_heard,
);
