//! Values that cannot be stored, in the real engine under the real watchdog: refused, counted and warned of once per cause, and
//! nobody is any the worse for it.

use std::time::Duration;

use sidekick_tests::godot::Godot;
use sidekick_tests::project::Project;
use sidekick_tests::wait;
use sidekick_tests::watchdog::Setup;

const PATIENCE: Duration = Duration::from_secs(90);

const GAME: &str = r#"extends Node


func _ready() -> void:
	Sidekick.mark_ready()
	var deep: Array = []
	for level: int in 100:
		deep = [deep]
	var large: PackedByteArray = []
	large.resize(70000)
	var itself: Dictionary = {}
	itself.me = itself
	var bad: Array = [{"a": [self]}, print, tree_exited, RID(), deep, large, [large, large], itself]
	var sum: int = 0
	for round: int in 3:
		for index: int in bad.size():
			sum += Sidekick.record(&"bad", bad[index])
		Sidekick.record(&"good", round)
	itself.clear()
	var ok: bool = await Sidekick.flush(30.0)
	var stats: Dictionary = Sidekick.get_stats()
	Sidekick.record(&"result", {"sum": sum, "refused": stats.refused, "recorded": stats.recorded, "ok": ok})
"#;

/// Each gives 0 and is counted; the good ones between them arrive, numbered without a hole; the log has one warning per cause; the
/// watchdog saw one incarnation and no damage.
fn unstorable_values_harm_nobody(godot: &Godot) {
    let project = Project::new(GAME);
    let mut setup = Setup::new();
    setup.set_config("[upload]\nbatch_max_age = \"100ms\"\n");
    setup.set_engine(project.command_line(godot, &[]));
    let watchdog = setup.start();
    let result = wait::until("the result", PATIENCE, || {
        let ledger = setup.uploaded_files();
        ledger
            .records()
            .values()
            .find(|arrival| arrival.stream == "result")
            .map(|arrival| arrival.data())
    });
    let expected = serde_json::json!({"sum": 0, "refused": 24, "recorded": 3, "ok": true});
    assert_eq!(result, expected);
    let finished = watchdog.stop(PATIENCE);
    assert_eq!(finished.status.code(), Some(0), "{:#?}", finished.lines);
    let ledger = setup.uploaded_files();
    assert_eq!(ledger.violations, Vec::<String>::new());
    let own = |stream: &str| stream.starts_with("sidekick.");
    let numbers: Vec<u64> = (ledger.records().iter())
        .filter(|(_, arrival)| !own(&arrival.stream))
        .map(|(key, _)| key.seq)
        .collect();
    assert_eq!(numbers, [1, 2, 3, 4]);
    let log: String = std::fs::read_dir(setup.data_dir().join("engine"))
        .expect("a folder of logs")
        .filter_map(|entry| std::fs::read_to_string(entry.ok()?.path()).ok())
        .collect();
    for text in [
        "holds an Object at [\"a\"][0]",
        "holds a Callable",
        "holds a Signal",
        "holds an RID",
        "is nested more than 64 containers deep",
        "the limit is 65536; split the data",
    ] {
        assert_eq!(log.matches(text).count(), 1, "{text}: {log}");
    }
    let started = finished
        .lines
        .iter()
        .filter(|line| line.contains("engine started"))
        .count();
    assert_eq!(started, 1, "{:#?}", finished.lines);
}

sidekick_tests::godot_claims!(unstorable_values_harm_nobody);
