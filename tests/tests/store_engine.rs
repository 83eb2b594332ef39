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

/// What each call answers, with the store that games have: `continuity.rs` asks much of this of a store that the test plays.
fn every_call_answers_as_it_is_documented(godot: &Godot) {
    let found = found(
        godot,
        r#"func of_node(node: Dictionary) -> Array:
	return [node.path, node.has_value, node.value, node.version]


func work() -> Dictionary:
	var store: SidekickStore = Sidekick.store
	var events: Array = []
	var watch: SidekickWatch = store.watch("/m/*")
	watch.changed.connect(func(event: Dictionary) -> void: events.append([event.kind, event.path, event.get("value")]))
	var found: Dictionary = {}
	var result: Dictionary = await store.put("/m/1", {"stats": {"hp": 5}}, {"exists": false}).wait()
	found.first = [result.ok, result.error, result.version]
	found.again = (await store.put("/m/1", 2, {"exists": false}).wait()).error
	found.version = [(await store.put("/m/1", 2, {"version": 2}).wait()).error, (await store.put("/m/1", 2, {"version": ["<", 2]}).wait()).version]
	found.field = (await store.put("/m/1", 3, {"field": {"stats/hp": [">", 0]}}).wait()).error
	found.any = (await store.put("/m/1", 4, {"any": [{"version": 99}, {"not": {"exists": false}}]}).wait()).version
	await store.put("/n", 1).wait()

	result = await store.list("/**").wait()
	found.list = [result.nodes.map(of_node), result.count]
	result = await store.list("/x/**").wait()
	found.nothing = [result.ok, result.nodes, result.count]
	found.count = [(await store.count("/m/*").wait()).count, (await store.count("/x").wait()).count]
	result = await store.fetch("/m/1").wait()
	found.fetch = [result.ok, result.value, result.version, result.nodes.map(of_node)]
	result = await store.fetch("/m").wait()
	found.above = [result.ok, result.value, result.version, result.nodes.map(of_node)]
	found.missing = []
	for options: Dictionary in [{}, {"linearizable": true}]:
		result = await store.fetch("/x", options).wait()
		found.missing.append([result.ok, result.error, result.message.contains("/x"), result.value, result.nodes])
	found.values = [store.get_value("/m/1", "default", 60.0), store.get_value("/x", "default", 60.0)]

	var before: Dictionary = (await store.lease("/l", 60.0).wait()).lease
	var lease: Dictionary = (await store.lease("/l", 60.0).wait()).lease
	found.lease = [lease.path, lease.token > before.token, (await store.renew_lease(lease).wait()).lease.seconds]
	found.lost = (await store.renew_lease(before).wait()).error
	var hanging: Dictionary = {"put": "/m/2", "value": 5, "lease": lease}
	result = await store.transaction({"/m/1": {"exists": true}}, [hanging, {"get": "/m/1"}], [{"delete": "/m/1"}]).wait()
	found.transaction = [result.ok, result.succeeded, result.nodes.map(of_node)]
	result = await store.transaction({"/x": {"exists": true}}, [], [{"get": "/x"}, {"put": "/y", "value": null}, {"delete": "/y"}]).wait()
	found.otherwise = [result.ok, result.succeeded, result.nodes.map(of_node), result.count, result.deleted]
	result = await store.put("/m/*", 7).wait()
	found.many = [result.count, result.nodes.map(of_node)]
	found.none = (await store.put("/x/*", 7).wait()).count

	found.kept = (await store.put("/kept", 1, {"keep_while": {"/m/1": {"value": 7}}}).wait()).ok
	found.unkept = (await store.put("/unkept", 1, {"keep_while": {"/x": true}}).wait()).error
	result = await store.release_lease(lease).wait()
	found.released = [result.ok, result.count, result.deleted_cut, (await store.fetch("/m/2").wait()).error]
	result = await store.delete("/m/*").wait()
	found.deleted = [result.deleted, result.count, result.deleted_cut]
	result = await store.delete("/m/1").wait()
	found.again_deleted = [result.ok, result.count]
	while events.size() < 8:
		await get_tree().process_frame
	watch.stop()
	found.events = events
	return found
"#,
    );
    let expected = json!({
        "first": [true, "", 1], "again": "condition_failed", "version": ["condition_failed", 2], "field": "condition_failed",
        "any": 3,
        "list": [[["/m", false, null, 1], ["/m/1", true, 4, 3], ["/n", true, 1, 1]], 3], "nothing": [true, [], 0], "count": [1, 0],
        "fetch": [true, 4, 3, [["/m/1", true, 4, 3]]], "above": [true, null, 1, [["/m", false, null, 1]]],
        "missing": [[false, "not_found", true, null, []], [false, "not_found", true, null, []]],
        "values": [4, "default"],
        "lease": ["/l", true, 60.0], "lost": "lease_lost",
        "transaction": [true, true, [["/m/2", true, null, 1], ["/m/1", true, 4, 3]]],
        "otherwise": [true, false, [["/x", false, null, 0], ["/y", true, null, 1], ["/y", false, null, 0]], 1, [{"path": "/y", "reason": "asked"}]],
        "many": [2, [["/m/1", true, null, 4], ["/m/2", true, null, 2]]], "none": 0,
        "kept": true, "unkept": "keep_while_failed", "released": [true, 2, false, "not_found"],
        "deleted": [[
            {"path": "/m/1", "reason": "asked"}, {"path": "/kept", "reason": "keep_while"},
            {"path": "/m", "reason": "keep_while"},
        ], 3, false],
        "again_deleted": [true, 0],
        "events": [
            ["put", "/m/1", {"stats": {"hp": 5}}], ["put", "/m/1", 2], ["put", "/m/1", 4], ["put", "/m/2", 5],
            ["put", "/m/1", 7], ["put", "/m/2", 7], ["delete", "/m/2", null], ["delete", "/m/1", null],
        ],
    });
    assert_eq!(found, expected);
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
    every_call_answers_as_it_is_documented,
    every_write_is_answered_however_late_it_is_read,
    a_forgotten_checkpoint_is_gone_after_a_crash,
    a_lease_that_ended_during_a_hang_is_told_as_lost,
    a_transaction_beyond_the_limits_changes_nothing,
);
