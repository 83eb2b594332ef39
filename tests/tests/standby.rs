//! A second server, booted and parked, takes over when the first one dies. The real Godot, the real watchdog.

use std::time::Duration;

use rustix::process::Signal;
use serde_json::{Value, json};
use sidekick_tests::godot::Godot;
use sidekick_tests::ports;
use sidekick_tests::project::Project;
use sidekick_tests::wait;
use sidekick_tests::watchdog::{Setup, Watchdog};

const PATIENCE: Duration = Duration::from_secs(90);

/// Binds a port, as a server does, once it is the active one; a second bind would fail.
const GAME: &str = r#"extends Node

var _server: TCPServer = TCPServer.new()


func _ready() -> void:
	var was_standby: bool = Sidekick.is_standby()
	var before: Array = [Sidekick.get_incarnation(), Sidekick.record(&"early", 1) != 0 if was_standby else false]
	await Sidekick.when_active()
	var bound: int = _server.listen(PORT, "127.0.0.1")
	Sidekick.mark_ready()
	Sidekick.record(&"serves", [OS.get_process_id(), was_standby, before, bound, Sidekick.is_standby(),
		Sidekick.get_incarnation(), Sidekick.is_relaunch()])
"#;

/// What the server with this pid recorded when it began to serve.
fn served(setup: &Setup, pid: u64) -> Option<Value> {
    let ledger = setup.uploaded_files();
    let data = ledger
        .records()
        .values()
        .filter(|arrival| arrival.stream == "serves")
        .map(sidekick_tests::ledger::Arrival::data)
        .find(|data| data[0] == pid)?;
    Some(data)
}

fn parked(watchdog: &Watchdog<'_>, not: Option<u64>) -> u64 {
    watchdog.wait_for_status("a parked standby", PATIENCE, |status| {
        let standby = &status["standby"];
        let pid = standby["pid"].as_u64()?;
        (standby["state"] == "parked" && Some(pid) != not).then_some(pid)
    })
}

/// Processor time of a process in clock ticks.
fn ticks(pid: u64) -> Option<u64> {
    let stat = std::fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
    let fields: Vec<&str> = stat.rsplit(')').next()?.split_ascii_whitespace().collect();
    Some(fields.get(11)?.parse::<u64>().ok()? + fields.get(12)?.parse::<u64>().ok()?)
}

fn small(pid: u64) -> u32 {
    u32::try_from(pid).expect("a process id")
}

/// Killed by SIGKILL: the one that serves next was there before, had recorded nothing, holds no port twice, and is followed by
/// another standby. That one killed is replaced while nobody notices.
fn the_standby_serves_when_the_active_one_is_killed(godot: &Godot) {
    let port = ports::free();
    let project = Project::new(&GAME.replace("PORT", &port.to_string()));
    let mut setup = Setup::new();
    setup.set_config(
        "[engine]\nstandby = 1\n[restart]\nbackoff_first = \"10ms\"\n[upload]\nbatch_max_age = \"100ms\"\n",
    );
    setup.set_engine(project.command_line(godot, &[]));
    let watchdog = setup.start();
    let waiting = parked(&watchdog, None);
    let status = watchdog.status().expect("answers");
    let engine = status["engine"]["pid"].as_u64().expect("an engine");
    let first = wait::until("the first one's word", PATIENCE, || served(&setup, engine));
    assert_eq!(
        first,
        json!([engine, false, [1, false], 0, false, 1, false])
    );
    assert!(served(&setup, waiting).is_none());

    // It costs next to nothing: less than a tenth of one processor.
    let before = ticks(waiting).expect("alive");
    let frames = |status: &Value| status["engine"]["frame"].as_u64();
    let from = frames(&status).unwrap_or(0);
    watchdog.wait_for_status("some time to pass", PATIENCE, |status| {
        (frames(status)? > from + 120).then_some(())
    });
    let used = ticks(waiting).expect("alive") - before;
    assert!(used < 20, "{used} ticks while parked");

    setup.signal(small(engine), Signal::KILL);
    let second = wait::until("the standby's word", PATIENCE, || served(&setup, waiting));
    assert_eq!(
        second,
        json!([waiting, true, [0, false], 0, false, 2, true])
    );
    let next = parked(&watchdog, Some(waiting));

    setup.signal(small(next), Signal::KILL);
    let third = parked(&watchdog, Some(next));
    let status = watchdog.status().expect("answers");
    assert_eq!(status["engine"]["pid"], waiting, "undisturbed");
    setup.signal(small(waiting), Signal::KILL);
    let word = wait::until("the next one's word", PATIENCE, || served(&setup, third));
    assert_eq!((&word[1], &word[3]), (&json!(true), &json!(0)));
    parked(&watchdog, Some(third));
    let told = [
        "sidekick_standby_up 1",
        "sidekick_standby_parked 1",
        "sidekick_standby_promotions_total 2",
    ];
    let is_told = |text: &str| {
        let has = |wanted: &&str| text.lines().any(|line| line == *wanted);
        told.iter().all(has)
    };
    wait::until("metrics of the standby", PATIENCE, || {
        let (_, text) = watchdog.get("/metrics")?;
        is_told(&text).then_some(())
    });
    let finished = watchdog.stop(PATIENCE);
    assert_eq!(finished.status.code(), Some(0), "{:#?}", finished.lines);
}

sidekick_tests::godot_claims!(the_standby_serves_when_the_active_one_is_killed);
