//! Every way in which a real server dies or hangs: the watchdog names the cause, exactly one engine runs afterwards, and
//! nothing that was recorded is missing.
//!
//! The game (`gd/deaths/main.gd`) journals what it records and does one thing in its first incarnation. Time-outs are
//! short by configuration; the deadlines of the waits are generous, so that a slow machine fails nothing.

use std::fs;

use rustix::process::Signal;
use serde_json::Value;
use sidekick_tests::godot::Godot;
use sidekick_tests::scene::{PATIENCE, QUICK, Scene, assert_cause, death, plays, report};
use sidekick_tests::wait;
use sidekick_tests::watchdog::{LogLine, Watchdog};

/// Short, and longer than a busy machine leaves the engine alone that is started next.
const HANG: &str = "[health]\nhang_timeout = \"3s\"\n";

/// The engine gets a signal while it plays; the report names it, and the next incarnation plays.
#[track_caller]
fn dies_of(godot: &Godot, signal: Signal, kind: &str, words: &[&str]) -> Value {
    let scene = Scene::new(godot, &[], "");
    let watchdog = scene.setup.start();
    plays(&watchdog, 1);
    scene.setup.signal(scene.engine(&watchdog), signal);
    let report = report(&watchdog, 1);
    assert_cause(&report, kind, words);
    assert_eq!(report["signal"], signal.as_raw(), "{report:#}");
    assert!(report["frame"].as_u64() > Some(0), "{report:#}");
    scene.ends_well(watchdog, 2);
    scene.has_arrived(&report);
    report
}

/// The engine acts by itself; the report has this kind and these words, and the next incarnation plays.
#[track_caller]
fn dies_by(godot: &Godot, act: &[&str], config: &str, kind: &str, words: &[&str]) -> Value {
    let scene = Scene::new(godot, act, config);
    let watchdog = scene.setup.start();
    let report = report(&watchdog, 1);
    assert_cause(&report, kind, words);
    scene.ends_well(watchdog, 2);
    scene.has_arrived(&report);
    report
}

/// SIGKILL, as the kernel's out-of-memory killer sends it.
fn a_kill(godot: &Godot) {
    dies_of(godot, Signal::KILL, "killed", &["SIGKILL"]);
}

/// SIGABRT kills without a word of the engine's own.
fn an_abort(godot: &Godot) {
    dies_of(godot, Signal::ABORT, "abort", &["SIGABRT"]);
}

/// SIGSEGV: Godot prints its backtrace and aborts, so the system tells of SIGABRT; its text tells the truth.
fn a_segmentation_fault(godot: &Godot) {
    let report = dies_of(
        godot,
        Signal::SEGV,
        "segv",
        &["segmentation fault (SIGSEGV) in frame"],
    );
    let backtrace = report["backtrace"].as_array().map(Vec::len);
    assert!(backtrace > Some(0), "{report:#}");
}

/// `OS.crash()`, a trap that ends in an abort as well.
fn a_crash_on_purpose(godot: &Godot) {
    let report = dies_by(
        godot,
        &["--act", "crash"],
        "",
        "ill",
        &["illegal instruction"],
    );
    let scripts = report["script_backtrace"].to_string();
    assert!(scripts.contains("_do (res://main.gd:"), "{report:#}");
}

/// `quit(0)` is clean; who wants a server that is always up says so, and gets the next one.
fn a_clean_quit_where_the_server_is_to_be_up_always(godot: &Godot) {
    let act = ["--act", "quit", "--code", "0"];
    let scene = Scene::new(godot, &act, "[engine]\nrestart = \"always\"\n");
    let watchdog = scene.setup.start();
    let death = death(&watchdog, 1);
    assert_eq!(
        (&death["cause"], &death["report"]),
        (&"quit".into(), &Value::Null)
    );
    scene.ends_well(watchdog, 2);
}

/// The engine's end, of which this is the cause, is the only one, and that of the watchdog as well.
#[track_caller]
fn ends_it_all(scene: &Scene, cause: &str) {
    let finished = scene.setup.start().wait(PATIENCE);
    let log = finished.lines.join("\n");
    assert_eq!(finished.status.code(), Some(0), "{log}");
    let causes = finished
        .lines
        .iter()
        .filter_map(|line| LogLine::parse(line)?.text("cause").map(str::to_owned));
    assert_eq!(causes.collect::<Vec<_>>(), [cause]);
    scene.nothing_is_left(&log);
}

/// `quit(0)` ends it all by default: no engine is started again, and the watchdog ends as well.
fn a_clean_quit(godot: &Godot) {
    let scene = Scene::new(godot, &["--act", "quit", "--code", "0"], "");
    ends_it_all(&scene, "quit");
}

/// `quit(3)` is the game's own doing, and still a failure: the next one is started.
fn a_quit_with_a_code(godot: &Godot) {
    let act = ["--act", "quit", "--code", "3"];
    dies_by(godot, &act, "", "exit", &["quit with exit code 3"]);
}

/// So is a code that the configuration takes for one of success: no engine follows.
fn a_quit_with_a_code_that_counts_as_success(godot: &Godot) {
    let act = ["--act", "quit", "--code", "7"];
    let scene = Scene::new(godot, &act, "[engine]\nsuccess_exit_codes = [0, 7]\n");
    ends_it_all(&scene, "quit with exit code 7");
}

/// An endless loop in `_process`: found by the silence of the main loop, and ended.
fn a_busy_loop(godot: &Godot) {
    let report = dies_by(
        godot,
        &["--act", "loop"],
        HANG,
        "hang",
        &["hung for", "in a busy loop"],
    );
    let scripts = report["script_backtrace"].to_string();
    assert!(scripts.contains("_do (res://main.gd:"), "{report:#}");
}

/// A loop before the first frame, after a restore and a stall that was announced: both end when they were said to. It has a
/// ring and nobody says that it runs. (A machine that counts the stall from its own boot is among those of
/// `supervisor::machine::tests::broken`.)
fn a_busy_loop_before_the_first_frame(godot: &Godot) {
    let config = "[health]\nstartup_timeout = \"15s\"\n";
    let scene = Scene::new(godot, &["--act", "loop_at_start"], config);
    let watchdog = scene.setup.start();
    watchdog.wait_for_status("its ring", PATIENCE, |status| {
        let engine = &status["engine"];
        let is_it = engine["incarnation"] == 1;
        assert!(!is_it || engine["state"] != "running", "{status:#}");
        (is_it && engine["connected"] == true).then_some(())
    });
    let report = report(&watchdog, 1);
    assert_cause(&report, "hang", &["hung for", "in a busy loop"]);
    scene.ends_well(watchdog, 2);
    scene.has_arrived(&report);
}

/// A stopped process is silent as well.
fn a_stopped_process(godot: &Godot) {
    let scene = Scene::new(godot, &[], HANG);
    let watchdog = scene.setup.start();
    plays(&watchdog, 1);
    scene.setup.signal(scene.engine(&watchdog), Signal::STOP);
    assert_cause(
        &report(&watchdog, 1),
        "hang",
        &["hung for", "stopped by a signal"],
    );
    scene.ends_well(watchdog, 2);
}

/// A stall that was announced kills nobody, though it takes longer than the limit.
fn an_announced_stall(godot: &Godot) {
    let scene = Scene::new(godot, &["--act", "announced_stall"], HANG);
    let watchdog = scene.setup.start();
    wait::until("the stall to be over", PATIENCE, || {
        scene.note("over").exists().then_some(())
    });
    let status = watchdog.status().expect("a status");
    assert_eq!(status["engine"]["last_deaths"], serde_json::json!([]));
    scene.ends_well(watchdog, 1);
}

/// The same stall without a word: the test above can fail.
fn a_stall_that_nobody_announced(godot: &Godot) {
    let scene = Scene::new(godot, &["--act", "stall"], HANG);
    let watchdog = scene.setup.start();
    assert_cause(&report(&watchdog, 1), "hang", &["hung for"]);
    assert!(!scene.note("over").exists());
    scene.ends_well(watchdog, 2);
}

/// What the engine started dies with it, also what has left its process group.
fn an_engine_with_children(godot: &Godot) {
    let scene = Scene::new(godot, &["--act", "children"], "");
    let watchdog = scene.setup.start();
    let children: Vec<u32> = wait::until("children", PATIENCE, || {
        let text = fs::read_to_string(scene.note("children")).ok()?;
        let pids: Vec<u32> = text
            .split(' ')
            .filter_map(|word| word.parse().ok())
            .collect();
        (pids.len() == 2).then_some(pids)
    });
    // Its children lead groups as it does: the watchdog knows which one is the engine.
    let status = watchdog.status().expect("a status");
    let engine = status["engine"]["pid"].as_u64().expect("an engine");
    let engine = u32::try_from(engine).expect("a process id");
    scene.setup.signal(engine, Signal::KILL);
    assert_cause(&report(&watchdog, 1), "killed", &["SIGKILL"]);
    wait::until("the children to die", PATIENCE, || {
        let living = scene.setup.descendants(Some(&watchdog));
        (!children.iter().any(|pid| living.contains(pid))).then_some(())
    });
    scene.ends_well(watchdog, 2);
}

/// Asked to quit, a game that does not want to, and whose process ignores SIGTERM, is killed after its grace.
fn an_engine_that_does_not_want_to_end(godot: &Godot) {
    let config = "[shutdown]\nengine_grace = \"1s\"\n";
    let mut scene = Scene::new(godot, &["--act", "deaf"], config);
    scene.wrap("trap '' TERM; exec \"$0\" \"$@\"");
    let watchdog = scene.setup.start();
    plays(&watchdog, 1);
    scene.setup.signal(scene.engine(&watchdog), Signal::TERM);
    let frame = |watchdog: &Watchdog<'_>| watchdog.status()?["engine"]["frame"].as_u64();
    let before = frame(&watchdog).expect("a frame");
    wait::until("it to play on", PATIENCE, || {
        frame(&watchdog).filter(|frame| *frame > before)
    });
    let finished = watchdog.stop(PATIENCE);
    let log = finished.lines.join("\n");
    assert_eq!(finished.status.code(), Some(0), "{log}");
    assert!(log.contains("did not quit within its grace"), "{log}");
    scene.nothing_is_left(&log);
}

/// The main script does not parse: the engine idles for ever, with a heartbeat, but never gets ready. It is started anew,
/// and plays once the script is mended.
fn a_script_that_does_not_parse(godot: &Godot) {
    let config = "[health]\nready_required = true\nready_timeout = \"3s\"\n";
    let scene = Scene::new(godot, &[], config);
    let script = include_str!("../gd/deaths/main.gd");
    scene
        .project
        .write("main.gd", &format!("{script}\nfunc (\n"));
    let watchdog = scene.setup.start();
    let report = report(&watchdog, 1);
    assert_cause(
        &report,
        "not_ready",
        &["did not say within", "that it is ready"],
    );
    assert!(
        report["frame"].as_u64() > Some(0),
        "it has a heartbeat: {report:#}"
    );
    scene.project.write("main.gd", script);
    let incarnation = wait_for_ready(&watchdog);
    scene.ends_well(watchdog, incarnation);
}

/// Memory that grows: the game is told at the soft limit, and at the hard one asked to quit, saved and started anew.
fn memory_that_grows(godot: &Godot) {
    let config = "[health]\nmemory_soft = \"300MiB\"\nmemory_max = \"450MiB\"\n";
    let scene = Scene::new(godot, &["--act", "grow"], config);
    let watchdog = scene.setup.start();
    let report = report(&watchdog, 1);
    assert_cause(&report, "memory", &["of memory, more than it may"]);
    let history = report["memory"].as_array().expect("a history");
    let resident = history.iter().filter_map(|at| at["rss_bytes"].as_u64());
    assert!(resident.max() > Some(450 << 20), "{report:#}");
    let told = fs::read_to_string(scene.note("memory_high")).expect("the game's own note");
    let told: u64 = told.parse().expect("bytes");
    assert!(told > 300 << 20, "{told}");
    scene.ends_well(watchdog, 2);
}

/// The game asks for a restart, says that it is idle, and gets one, as a quit with all that belongs to it.
fn a_restart_at_the_games_wish(godot: &Godot) {
    let scene = Scene::new(godot, &["--act", "restart"], "");
    let mut watchdog = scene.setup.start();
    let why = watchdog.wait_for_log("the planned restart", PATIENCE, |line| {
        (line.message == "planned restart").then(|| line.text("why").map(str::to_owned))
    });
    assert_eq!(why.as_deref(), Some("the game asked for it"));
    let cause = watchdog.wait_for_log("its clean end", PATIENCE, |line| {
        (line.message == "engine quit").then(|| line.text("cause").map(str::to_owned))
    });
    assert_eq!(cause.as_deref(), Some("quit"));
    scene.ends_well(watchdog, 2);
}

/// A hundred deaths in a row are answered by a safe start and, when that dies too, by a try now and then, for ever; the
/// watchdog says so. Once the cause is gone the next try plays, with nobody's help.
///
/// The deaths are those of a program that stands in for an engine which does not get as far as its first frame; who comes
/// back is the real one.
fn a_hundred_deaths_in_a_row(godot: &Godot) {
    const DEATHS: usize = 100;
    let mut scene = Scene::new(godot, &[], "");
    let restart = format!("[restart]\ncrash_loop_deaths = {DEATHS}\nhalf_open_every = \"2s\"\n");
    // One that took long to die on a busy machine is one of them.
    let quick = QUICK.replace("stable_after = \"1s\"", "stable_after = \"10m\"");
    scene
        .setup
        .set_config(&quick.replace("[restart]\n", &restart));
    let cause = scene.note("cause");
    fs::write(&cause, "").expect("writable");
    let starts = scene.note("starts");
    scene.wrap(&format!(
        "echo \"start ${{SIDEKICK_SAFE_START:-0}}\" >> '{}'; test ! -e '{}' || kill -KILL $$; exec \"$0\" \"$@\"",
        starts.display(),
        cause.display()
    ));
    let started = || {
        let text = fs::read_to_string(&starts).unwrap_or_default();
        text.lines().map(str::to_owned).collect::<Vec<_>>()
    };
    let mut watchdog = scene.setup.start();
    let deaths = watchdog.wait_for_log("a crash loop", PATIENCE, |line| {
        let is_loop = line.message.contains("try");
        is_loop.then(|| line.number("deaths")).flatten()
    });
    assert_eq!(deaths as usize, DEATHS + 1);
    // Tried again, in vain.
    wait::until("a try", PATIENCE, || {
        (started().len() > DEATHS + 1).then_some(())
    });
    fs::remove_file(&cause).expect("ours");
    let incarnation = wait_for_ready(&watchdog);
    let started = started();
    assert_eq!(incarnation as usize, started.len());
    assert!(
        incarnation as usize <= DEATHS + 8,
        "tried {incarnation} times"
    );
    let safe: Vec<usize> = (1..)
        .zip(&started)
        .filter(|(_, line)| *line == "start 1")
        .map(|(number, _)| number)
        .collect();
    assert_eq!(safe, [DEATHS + 1], "{started:?}");
    scene.ends_well(watchdog, incarnation);
}

/// The incarnation that says it is ready.
#[track_caller]
fn wait_for_ready(watchdog: &Watchdog<'_>) -> u64 {
    watchdog.wait_for_status("a ready game", PATIENCE, |status| {
        let engine = &status["engine"];
        let is_ready = engine["ready"] == true;
        is_ready.then(|| engine["incarnation"].as_u64()).flatten()
    })
}

sidekick_tests::godot_claims!(
    a_kill,
    an_abort,
    a_segmentation_fault,
    a_crash_on_purpose,
    a_clean_quit,
    a_clean_quit_where_the_server_is_to_be_up_always,
    a_quit_with_a_code,
    a_quit_with_a_code_that_counts_as_success,
    a_busy_loop,
    a_busy_loop_before_the_first_frame,
    a_stopped_process,
    an_announced_stall,
    a_stall_that_nobody_announced,
    an_engine_with_children,
    an_engine_that_does_not_want_to_end,
    a_script_that_does_not_parse,
    memory_that_grows,
    a_restart_at_the_games_wish,
    a_hundred_deaths_in_a_row,
);
