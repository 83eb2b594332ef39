//! Engine and watchdog bring one another back, and what is told then. The real Godot, the real watchdog.

use std::time::Duration;

use rustix::process::Signal;
use serde_json::Value;
use sidekick_tests::godot::Godot;
use sidekick_tests::project::Project;
use sidekick_tests::wait;
use sidekick_tests::watchdog::Setup;

const PATIENCE: Duration = Duration::from_secs(90);
const ANSWER: Duration = Duration::from_secs(10);
const QUICK: &str = "[restart]\nbackoff_first = \"10ms\"\n[upload]\nbatch_max_age = \"100ms\"\n";

/// Both pids, watchdog's and engine's, once somebody answers with a living engine and `pick` likes it.
fn status_of(setup: &Setup, what: &str, pick: impl Fn(u64, u64) -> bool) -> (u64, u64) {
    wait::until(what, PATIENCE, || {
        let finished = setup.run(&["status", "--json"], ANSWER);
        let status: Value = serde_json::from_str(&finished.stdout.join("\n")).ok()?;
        if status["engine"]["connected"] != true {
            return None;
        }
        let pids = (status["pid"].as_u64()?, status["engine"]["pid"].as_u64()?);
        pick(pids.0, pids.1).then_some(pids)
    })
}

/// The watchdog is killed: the engine, which notices that, starts it again, and the new one adopts the engine. Then the engine is
/// killed: the watchdog that the engine has started starts it again.
fn either_brings_the_other_back(godot: &Godot) {
    let project = Project::new(
        "extends Node\n\n\nfunc _process(_delta: float) -> void:\n\tSidekick.record(&\"frame\", Engine.get_process_frames())\n",
    );
    project.write("override.cfg", "[sidekick]\n\nwatchdog/respawn=true\n");
    let mut setup = Setup::new();
    setup.set_config(QUICK);
    setup.set_engine(project.command_line(godot, &[]));
    let watchdog = setup.start();
    let (first, engine) = status_of(&setup, "a connected engine", |_, _| true);
    watchdog.kill();
    let (second, same) = status_of(&setup, "another watchdog", |watchdog, _| watchdog != first);
    assert_eq!(same, engine, "adopted, not started");
    let pid = u32::try_from(engine).expect("a pid");
    assert_eq!(setup.engines(None), [pid]);
    setup.signal(pid, Signal::KILL);
    let (third, _) = status_of(&setup, "another engine", |_, other| other != engine);
    assert_eq!(third, second);
    let ledger = setup.uploaded_files();
    assert_eq!(ledger.violations, Vec::<String>::new());
    assert!(ledger.count() > 0);
}

sidekick_tests::godot_claims!(either_brings_the_other_back);
