//! `Sidekick.set_common_fields` in the real engine: which records get which fields, what is refused, what the next process begins
//! with, and that rules see them. Where nothing but the game's side matters, the test plays the watchdog.

use std::collections::BTreeMap;
use std::time::Duration;

use rustix::process::Signal;
use serde_json::{Value, json};
use sidekick_ipc::tree::StoreOp;
use sidekick_ipc::value::{Value as Stored, encode};
use sidekick_tests::double::{Watchdog, main_script};
use sidekick_tests::godot::Godot;
use sidekick_tests::project::{Options, Project};
use sidekick_tests::wait;
use sidekick_tests::watchdog::Setup;

const PATIENCE: Duration = Duration::from_secs(90);

/// What was recorded, in order.
fn seen(watchdog: &Watchdog) -> Vec<&str> {
    let seen = watchdog.seen.iter();
    seen.map(|seen| seen.json.as_str()).collect()
}

/// Each dictionary gets the fields that it lacks, of whatever types it is, and stays itself as it was; fields are a copy, are
/// replaced as a whole and taken away. Nothing else that the game tells gets any.
fn dictionaries_get_the_fields_that_they_lack(godot: &Godot) {
    let mut watchdog = Watchdog::new();
    let output = watchdog.run(
        godot,
        "Sidekick.record(&\"a\", {\"n\": 1})
var inner: Array = [1]
var fields: Dictionary = {\"match\": 7, &\"map\": inner}
Sidekick.set_common_fields(fields)
fields.match = 8
fields.more = 9
inner.append(2)
var data: Dictionary = {\"n\": 2}
Sidekick.record(&\"a\", data)
print(\"data \", data)
Sidekick.record(&\"a\", {})
Sidekick.record(&\"a\", {&\"match\": null, \"n\": 3})
Sidekick.record(&\"a\", {\"map\": \"own\", \"match\": {\"match\": 1}})
Sidekick.record(&\"a\", {1: 2})
var typed: Dictionary[StringName, int] = {&\"n\": 4}
typed.make_read_only()
Sidekick.record(&\"a\", typed)
var whole: Dictionary[String, int] = {\"match\": 5, \"map\": 6}
Sidekick.record(&\"a\", whole)
for other: Variant in [null, 5, \"text\", [{\"n\": 6}], Vector2(1, 2)]:
	Sidekick.record(&\"a\", other)
Sidekick.checkpoint(\"state\", {\"n\": 7})
Sidekick.store.put(\"/n\", {\"n\": 8})
var typed_fields: Dictionary[StringName, int] = {&\"match\": 10}
Sidekick.set_common_fields(typed_fields)
Sidekick.record(&\"b\", {\"n\": 9})
Sidekick.set_common_fields({})
Sidekick.record(&\"b\", {\"n\": 10})
get_tree().quit()",
    );
    output.assert_clean_exit(0);
    assert_eq!(output.answer("data "), Some("{ \"n\": 2 }"));
    let expected = [
        r#"{"n":1}"#,
        r#"{"match":7,"map":[1],"n":2}"#,
        r#"{"match":7,"map":[1]}"#,
        r#"{"map":[1],"match":null,"n":3}"#,
        r#"{"map":"own","match":{"match":1}}"#,
        r#"{"match":7,"map":[1],"1":2}"#,
        r#"{"match":7,"map":[1],"n":4}"#,
        r#"{"match":5,"map":6}"#,
        "null",
        "5",
        r#""text""#,
        r#"[{"n":6}]"#,
        "[1.0,2.0]",
        r#"{"match":10,"n":9}"#,
        r#"{"n":10}"#,
    ];
    assert_eq!(seen(&watchdog), expected);
    let own = |n: i64| encode(&Stored::Dictionary(vec![("n".into(), n.into())]));
    assert_eq!(watchdog.store.checkpoints["state"].full, own(7));
    let put = watchdog.store.ops.iter().find_map(|(_, op)| match op {
        StoreOp::Put(put) => put.value.clone(),
        _ => None,
    });
    assert_eq!(put, Some(own(8)));
}

/// Threads record while another changes the fields: each record has those of one call, all of them, and never older ones than
/// its thread has had. What a thread sets is in the records of all.
fn every_thread_may_set_and_record(godot: &Godot) {
    let mut watchdog = Watchdog::new();
    let output = watchdog.run(
        godot,
        "var begun: Semaphore = Semaphore.new()
var enough: Semaphore = Semaphore.new()
var work: Callable = func(who: int) -> void:
	var n: int = 0
	while not enough.try_wait():
		Sidekick.record(&\"t\", {\"who\": who, \"n\": n})
		n += 1
		if n == 1:
			begun.post()
Sidekick.set_common_fields({\"a\": 0, \"b\": 0})
var threads: Array[Thread] = []
for who: int in 3:
	threads.append(Thread.new())
	threads[who].start(work.bind(who))
for _thread: Thread in threads:
	begun.wait()
var round: int = 0
while Sidekick.get_stats().recorded < 20000:
	for _time: int in 20:
		round += 1
		Sidekick.set_common_fields({\"a\": round, \"b\": round})
enough.post(3)
for thread: Thread in threads:
	thread.wait_to_finish()
var last: Thread = Thread.new()
last.start(func() -> void: Sidekick.set_common_fields({\"from\": \"a thread\"}))
last.wait_to_finish()
Sidekick.record(&\"end\", {})
get_tree().quit()",
    );
    output.assert_clean_exit(0);
    let mut counts = [0; 3];
    let mut newest = [0; 3];
    for seen in watchdog.seen.iter().filter(|seen| seen.stream == "t") {
        let data: Value = serde_json::from_str(&seen.json).expect("JSON");
        let who = data["who"].as_u64().expect("a number") as usize;
        let a = data["a"].as_u64().expect("a number");
        assert_eq!(data["b"], a, "{data}");
        assert_eq!(data["n"], counts[who], "{data}");
        assert!(a >= newest[who], "{data} after {}", newest[who]);
        newest[who] = a;
        counts[who] += 1;
    }
    assert!(!counts.contains(&0), "{counts:?}");
    let end = watchdog.seen.last().expect("records");
    let end: Value = serde_json::from_str(&end.json).expect("JSON");
    assert_eq!(end["from"], "a thread");
}

/// Each wrong call is one error that says why, changes nothing and counts as no record; a field makes a record too large as
/// any part of it does.
fn what_cannot_be_a_field_changes_nothing(godot: &Godot) {
    let mut watchdog = Watchdog::new();
    let output = watchdog.run(
        godot,
        "Sidekick.set_common_fields({\"match\": 7})
var deep: Array = []
for level: int in 100:
	deep = [deep]
var many: Dictionary = {}
for number: int in 33:
	many[str(number)] = number
var itself: Dictionary = {}
itself.me = itself
var bad: Array[Dictionary] = [{\"a\": [self]}, {\"a\": print}, {\"a\": tree_exited}, {\"a\": RID()}, {\"a\": deep}, many,
	{\"a\": \"x\".repeat(5000)}, {\"match\": 8, 7: 8}, {Vector2i(1, 2): 8}, itself]
for fields: Dictionary in bad:
	Sidekick.set_common_fields(fields)
	Sidekick.record(&\"a\", {\"n\": 1})
itself.clear()
var large: PackedByteArray = []
large.resize(65492)
print(\"large \", Sidekick.record(&\"a\", {\"b\": large}), Sidekick.get_stats().refused)
Sidekick.set_common_fields({})
print(\"fits \", Sidekick.record(&\"a\", {\"b\": large}) > 0)
get_tree().quit()",
    );
    assert_eq!(output.status.code(), Some(0), "{:#?}", output.lines);
    assert_eq!(output.answer("large "), Some("01"));
    assert_eq!(output.answer("fits "), Some("true"));
    let seen = seen(&watchdog);
    assert_eq!(seen.len(), 11);
    assert!(
        seen[..10]
            .iter()
            .all(|json| *json == r#"{"match":7,"n":1}"#)
    );
    let errors: Vec<_> = (output.lines.iter())
        .filter(|line| line.contains("set_common_fields has changed nothing"))
        .collect();
    assert_eq!(errors.len(), 10, "{:#?}", output.lines);
    for (error, reason) in errors.iter().zip([
        "holds an Object at [\"a\"][0]",
        "holds a Callable at [\"a\"]",
        "holds a Signal at [\"a\"]",
        "holds an RID at [\"a\"]",
        "nested more than 64 containers deep",
        "33 fields, the limit is 32",
        "bytes, the limit is 4096",
        "the key 7 is neither a String nor a StringName",
        "the key [1,2] is neither a String nor a StringName",
        "whether a container holds itself",
    ]) {
        assert!(error.contains(reason), "{reason}: {error}");
    }
}

/// Without a watchdog it does nothing and says nothing, but of a mistake.
fn without_a_watchdog_only_mistakes_are_told(godot: &Godot) {
    let project = Project::new(&main_script(
        "Sidekick.set_common_fields({\"match\": 7})
print(\"seq \", Sidekick.record(&\"a\", {}), Sidekick.get_stats().recorded)
Sidekick.set_common_fields({7: 7})
get_tree().quit()",
    ));
    let output = project.run(godot, &Options::default(), PATIENCE);
    assert_eq!(output.status.code(), Some(0), "{:#?}", output.lines);
    assert_eq!(output.answer("seq "), Some("01"));
    let errors = output.lines.iter().filter(|line| line.contains("ERROR"));
    assert_eq!(errors.count(), 1, "{:#?}", output.lines);
}

/// Says what it finds, then sets a match of its own.
const GAME: &str = r#"extends Node


func _ready() -> void:
	if Sidekick.is_standby():
		Sidekick.set_common_fields({"booted_as": "standby"})
	await Sidekick.when_active()
	Sidekick.record(&"began", {"incarnation": Sidekick.get_incarnation()})
	Sidekick.set_common_fields({"match": Sidekick.get_incarnation()})
	Sidekick.record(&"plays", {})
	Sidekick.mark_ready()
"#;

/// What has arrived of a stream, session by session.
fn arrived(setup: &Setup, stream: &str) -> Vec<Value> {
    let ledger = setup.uploaded_files();
    assert_eq!(ledger.violations, Vec::<String>::new());
    let records = ledger.records().iter();
    let mut found: Vec<_> = records
        .filter(|(_, arrival)| arrival.stream == stream)
        .map(|(key, arrival)| {
            (
                arrival.value()["incarnation"].as_u64(),
                key.seq,
                arrival.data(),
            )
        })
        .collect();
    found.sort_by_key(|(incarnation, seq, _)| (*incarnation, *seq));
    found.into_iter().map(|(_, _, data)| data).collect()
}

/// Kills the engine twice; each process begins without the fields of the one before, and has its own.
fn each_process_sets_its_own(godot: &Godot, standby: u32, relaunched: &Value) {
    let project = Project::new(GAME);
    let mut setup = Setup::new();
    setup.set_config(&format!(
        "[engine]\nstandby = {standby}\n[restart]\nbackoff_first = \"10ms\"\n[upload]\nbatch_max_age = \"50ms\"\n"
    ));
    setup.set_engine(project.command_line(godot, &[]));
    let watchdog = setup.start();
    let mut began = vec![json!({"incarnation": 1})];
    let mut plays = vec![json!({"match": 1})];
    for incarnation in 1..=2 {
        let pid = watchdog.wait_for_status("a game and its standby", PATIENCE, |status| {
            let engine = &status["engine"];
            let is_it = engine["incarnation"] == incarnation && engine["ready"] == true;
            let has_standby = standby == 0 || status["standby"]["state"] == "parked";
            engine["pid"].as_u64().filter(|_| is_it && has_standby)
        });
        setup.signal(u32::try_from(pid).expect("a process id"), Signal::KILL);
        let next = incarnation + 1;
        let mut first = relaunched.clone();
        first["incarnation"] = json!(next);
        began.push(first);
        plays.push(json!({"match": next}));
        wait::until("the next one's records", PATIENCE, || {
            (arrived(&setup, "plays").len() == plays.len()).then_some(())
        });
    }
    let finished = watchdog.stop(PATIENCE);
    assert_eq!(finished.status.code(), Some(0), "{:#?}", finished.lines);
    assert_eq!(arrived(&setup, "began"), began);
    assert_eq!(arrived(&setup, "plays"), plays);
    // What the watchdog tells of the game has none.
    for stream in ["sidekick.end", "sidekick.crash"] {
        let told = arrived(&setup, stream);
        let has_none = |data: &Value| data.get("match").is_none();
        assert!(!told.is_empty() && told.iter().all(has_none), "{told:#?}");
    }
}

fn a_relaunched_process_begins_without(godot: &Godot) {
    each_process_sets_its_own(godot, 0, &json!({}));
}

/// One that takes over has what it set itself while it waited, and nothing of the one that died.
fn a_standby_begins_without(godot: &Godot) {
    each_process_sets_its_own(godot, 1, &json!({"booted_as": "standby"}));
}

const RULES: &str = r#"
[upload]
batch_max_age = "50ms"

[[stream]]
match = "damage"
aggregate = { into = "damage.second", every = "1s", lateness = "0s", by = ["match"], values = ["amount"] }

[[stream]]
match = "chat"
filter = "match is defined"

[[stream]]
match = "move"
drop = "match == 'ice'"
"#;

/// Rules before storing, rules before upload and rules over many records see the fields as any other.
fn rules_see_them(godot: &Godot) {
    let project = Project::new(
        r#"extends Node


func _ready() -> void:
	Sidekick.mark_ready()
	_play(1)
	Sidekick.set_common_fields({"match": "ice"})
	_play(10)
	_play(20)
	Sidekick.set_common_fields({"match": "fire"})
	_play(5)
	Sidekick.record(&"end", {})


func _play(amount: int) -> void:
	Sidekick.record(&"damage", {"amount": amount})
	Sidekick.record(&"chat", {"n": amount})
	Sidekick.record(&"move", {"n": amount})
"#,
    );
    let mut setup = Setup::new();
    setup.set_config(RULES);
    setup.set_engine(project.command_line(godot, &[]));
    let watchdog = setup.start();
    // Counts and sums by match; a window's border may lie between two records.
    let rows = || {
        let mut rows = BTreeMap::<String, (i64, i64)>::new();
        for row in arrived(&setup, "damage.second") {
            let number = |value: &Value| value.as_i64().expect("a whole number");
            let told = rows.entry(row["by"]["match"].to_string()).or_default();
            told.0 += number(&row["count"]);
            told.1 += number(&row["values"]["amount"]["sum"]);
        }
        rows
    };
    wait::until("all rows and the end", PATIENCE, || {
        let count: i64 = rows().values().map(|(count, _)| count).sum();
        (count == 4 && !arrived(&setup, "end").is_empty()).then_some(())
    });
    let finished = watchdog.stop(PATIENCE);
    assert_eq!(finished.status.code(), Some(0), "{:#?}", finished.lines);
    let expected = [("\"fire\"", (1, 5)), ("\"ice\"", (2, 30)), ("null", (1, 1))];
    let expected = expected.map(|(by, told)| (by.to_owned(), told));
    assert_eq!(rows(), BTreeMap::from(expected));
    let chat = [
        json!({"match": "ice", "n": 10}),
        json!({"match": "ice", "n": 20}),
        json!({"match": "fire", "n": 5}),
    ];
    assert_eq!(arrived(&setup, "chat"), chat);
    let moves = [json!({"n": 1}), json!({"match": "fire", "n": 5})];
    assert_eq!(arrived(&setup, "move"), moves);
    assert_eq!(arrived(&setup, "end"), [json!({"match": "fire"})]);
}

sidekick_tests::godot_claims!(
    dictionaries_get_the_fields_that_they_lack,
    every_thread_may_set_and_record,
    what_cannot_be_a_field_changes_nothing,
    without_a_watchdog_only_mistakes_are_told,
    a_relaunched_process_begins_without,
    a_standby_begins_without,
    rules_see_them,
);
