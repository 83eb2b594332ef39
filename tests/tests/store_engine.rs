//! The state store with the real engine and the real watchdog, where the two have to agree on what is wrong: leases that ended while the
//! game stood still, transactions beyond the limits, more answers than are kept, checkpoints that were forgotten.

use std::fs;
use std::time::Duration;

use serde_json::{Value, json};
use sidekick_tests::godot::Godot;
use sidekick_tests::project::Project;
use sidekick_tests::wait;
use sidekick_tests::watchdog::Setup;

const PATIENCE: Duration = Duration::from_secs(120);

/// What the script's function `work`, which returns a dictionary, has found.
fn found(godot: &Godot, work: &str) -> Value {
    let project = Project::new(&format!(
        "extends Node\n\n\nfunc _ready() -> void:\n\tSidekick.mark_ready()\n\tvar found: Dictionary = await work()\n\
         \tvar path: String = OS.get_cmdline_user_args()[0]\n\
         \tvar file: FileAccess = FileAccess.open(path + \".part\", FileAccess.WRITE)\n\
         \tfile.store_string(JSON.stringify(found))\n\tfile.close()\n\
         \tDirAccess.rename_absolute(path + \".part\", path)\n\n\n{work}"
    ));
    let mut setup = Setup::new();
    setup.set_config("[upload]\nsinks = []\n");
    let out = setup.scratch().join("found.json");
    setup.set_engine(project.command_line(godot, &[&out.display().to_string()]));
    let watchdog = setup.start();
    let Some(text) = wait::poll(PATIENCE, || fs::read_to_string(&out).ok()) else {
        panic!("nothing was found: {:#?}", watchdog.running.lines.all());
    };
    watchdog.stop(PATIENCE);
    serde_json::from_str(&text).expect("JSON")
}

/// The game stands still for longer than its lease lives: what hung on it is gone, whoever relies on it is told, and it can be had again.
fn a_lease_that_ended_during_a_hang_is_told_as_lost(godot: &Godot) {
    let found = found(
        godot,
        r#"func work() -> Dictionary:
	var store: SidekickStore = Sidekick.store
	var granted: Dictionary = await store.lease("/l", 0.5).wait()
	var hanging: Dictionary = await store.put("/hangs", 1, {"lease": granted}).wait()
	OS.delay_msec(2500)
	var found: Dictionary = {"granted": granted.ok, "hanging": hanging.ok}
	found.late = Time.get_ticks_msec() > granted.lease.use_until_ms
	found.renewed = (await store.renew_lease(granted).wait()).error
	found.put = (await store.put("/b", 1, {"lease": granted}).wait()).error
	found.released = (await store.release_lease(granted).wait()).error
	found.value = store.get_value("/hangs", "default")
	var again: Dictionary = await store.lease("/l", 5.0).wait()
	found.again = again.ok
	found.higher = again.lease.token > granted.lease.token
	return found
"#,
    );
    let expected = json!({
        "granted": true, "hanging": true, "late": true, "renewed": "lease_lost", "put": "lease_lost",
        "released": "lease_lost", "value": "default", "again": true, "higher": true,
    });
    assert_eq!(found, expected);
}

/// Too many ops, or too large ones, change nothing and are told with the limit; the game goes on.
fn a_transaction_beyond_the_limits_changes_nothing(godot: &Godot) {
    let found = found(
        godot,
        r#"func work() -> Dictionary:
	var store: SidekickStore = Sidekick.store
	var many: Array = []
	for number: int in 129:
		many.append({"put": "/many/%d" % number, "value": number})
	var large: PackedByteArray = []
	large.resize(600000)
	var big: Array = [{"put": "/big/1", "value": large}, {"put": "/big/2", "value": large}]
	var found: Dictionary = {}
	var result: Dictionary = await store.transaction({}, many).wait()
	found.many = [result.ok, result.error, result.message.contains("128")]
	result = await store.transaction({}, big).wait()
	found.big = [result.ok, result.error, result.message.contains("1048576")]
	found.count = (await store.count("/**").wait()).count
	found.fits = (await store.transaction({}, many.slice(1)).wait()).ok
	found.after = (await store.count("/many/*").wait()).count
	return found
"#,
    );
    println!("{found}");
    assert_eq!(found["many"][0], json!(false));
    assert_eq!(found["big"][0], json!(false));
    for kind in ["many", "big"] {
        let error = found[kind][1].as_str().unwrap_or_default();
        assert!(["too_large", "invalid"].contains(&error), "{found}");
        assert_eq!(found[kind][2], json!(true), "{found}");
    }
    assert_eq!(found["count"], json!(0));
    assert_eq!(
        (&found["fits"], &found["after"]),
        (&json!(true), &json!(128))
    );
}

/// A game asks for far more than is kept while it reads nothing: each write is answered all the same, as it was applied; none
/// times out.
fn every_write_is_answered_however_late_it_is_read(godot: &Godot) {
    let found = found(
        godot,
        r#"func work() -> Dictionary:
	Sidekick.expect_stall(120.0)
	var store: SidekickStore = Sidekick.store
	var large: PackedByteArray = []
	large.resize(1000000)
	await store.put("/large", large, {"timeout_s": 60.0}).wait()
	var requests: Array[SidekickRequest] = []
	for number: int in 40:
		requests.append(store.transaction({}, [{"put": "/count", "value": number}, {"get": "/large"}], [], 120.0))
	var last: int = Sidekick.checkpoint("last", 1)
	while Sidekick.get_stats().committed < last:
		OS.delay_msec(5)
	var found: Dictionary = {"ok": 0, "lost": 0, "others": [], "first": ""}
	var revision: int = 0
	for request: SidekickRequest in requests:
		var result: Dictionary = await request.wait()
		if result.revision != revision + 1 and revision > 0 or not result.succeeded:
			found.others.append("revision %d after %d" % [result.revision, revision])
		revision = result.revision
		if result.ok and result.nodes[1].value == large:
			found.ok += 1
		elif result.error == "answer_lost" and result.nodes.is_empty():
			found.lost += 1
			found.first = result.message
		else:
			found.others.append(result.error)
	found.count = store.get_value("/count", -1, 60.0)
	return found
"#,
    );
    println!("{found}");
    assert_eq!(found["others"], json!([]), "{found}");
    let count = |of: &str| found[of].as_u64().unwrap_or_default();
    assert_eq!(count("ok") + count("lost"), 40, "{found}");
    assert!(count("ok") >= 16 && count("lost") > 0, "{found}");
    let message = found["first"].as_str().unwrap_or_default();
    assert!(message.contains("it was applied"), "{found}");
    assert_eq!(found["count"], json!(39));
}

/// A checkpoint that was forgotten is gone for the next process; the one beside it, and one that came after, are there.
fn a_forgotten_checkpoint_is_gone_after_a_crash(godot: &Godot) {
    let found = found(
        godot,
        r#"func work() -> Dictionary:
	if Sidekick.is_relaunch():
		var found: Dictionary = {}
		for key: String in ["over", "on", "anew"]:
			found[key] = [Sidekick.restore(key, "default", 60.0), Sidekick.restore_info(key).status]
		return found
	for key: String in ["over", "on", "anew"]:
		Sidekick.checkpoint(key, "first")
	await Sidekick.flush(60.0)
	Sidekick.forget_checkpoint("anew")
	Sidekick.checkpoint("anew", "second")
	if Sidekick.forget_checkpoint("over") > 0 and Sidekick.checkpoint_delta("over", {}) == 0:
		OS.kill(OS.get_process_id())
	return {}
"#,
    );
    let expected = json!({
        "over": ["default", "none"], "on": ["first", "restored"], "anew": ["second", "restored"],
    });
    assert_eq!(found, expected);
}

sidekick_tests::godot_claims!(
    every_write_is_answered_however_late_it_is_read,
    a_forgotten_checkpoint_is_gone_after_a_crash,
    a_lease_that_ended_during_a_hang_is_told_as_lost,
    a_transaction_beyond_the_limits_changes_nothing,
);
