//! Every way in which a real server dies or hangs: the watchdog names the cause, exactly one engine runs afterwards, and
//! nothing that was recorded is missing.
//!
//! The game (`gd/deaths/main.gd`) journals what it records and does one thing in its first incarnation. Time-outs are
//! short by configuration; the deadlines of the waits are generous, so that a slow machine fails nothing.

use std::ffi::OsString;
use std::fs;
use std::path::PathBuf;
use std::time::Duration;

use rustix::process::Signal;
use serde_json::Value;
use sidekick_tests::godot::Godot;
use sidekick_tests::journal;
use sidekick_tests::process;
use sidekick_tests::project::Project;
use sidekick_tests::wait;
use sidekick_tests::watchdog::{Setup, Watchdog};

const PATIENCE: Duration = Duration::from_secs(60);

/// Relaunches follow one another quickly. An engine is silent for at most half a second once it runs, and has time to
/// start on a busy machine.
const QUICK: &str = "[restart]\nbackoff_first = \"10ms\"\nbackoff_max = \"50ms\"\nstable_after = \"1s\"\n\
                     [upload]\nbatch_max_age = \"100ms\"\n";

/// A project that plays one act, and what surrounds its watchdog.
struct Scene {
    project: Project,
    setup: Setup,
}

impl Scene {
    /// `arguments` go to the game, `config` is added to the configuration.
    fn new(godot: &Godot, arguments: &[&str], config: &str) -> Self {
        let project = Project::new(include_str!("../gd/deaths/main.gd"));
        project.write("journal.gd", journal::SCRIPT);
        let mut setup = Setup::new();
        let notes = setup.scratch().join("notes");
        let journals = setup.scratch().join("journals");
        for folder in [&notes, &journals] {
            fs::create_dir(folder).expect("a folder for the game");
        }
        let (notes, journals) = (notes.display().to_string(), journals.display().to_string());
        let mut words = vec!["--journal", &journals, "--notes", &notes];
        words.extend(["--threads", "0", "--per-frame", "5"]);
        words.extend(arguments);
        setup.set_engine(project.command_line(godot, &words));
        setup.set_config(&format!("{QUICK}{config}"));
        Self { project, setup }
    }

    /// Wraps the engine's command: `words` come before it.
    fn wrap(&mut self, words: &[&str], godot: &Godot) {
        let journals = self.setup.scratch().join("journals").display().to_string();
        let game = ["--journal", &journals, "--threads", "0", "--per-frame", "5"];
        let mut command: Vec<OsString> = words.iter().map(OsString::from).collect();
        command.extend(self.project.command_line(godot, &game));
        self.setup.set_engine(command);
    }

    fn note(&self, name: &str) -> PathBuf {
        self.setup.scratch().join("notes").join(name)
    }

    /// The one engine that runs.
    #[track_caller]
    fn engine(&self, watchdog: &Watchdog<'_>) -> u32 {
        let engines = self.setup.engines(Some(watchdog));
        let described = || engines.iter().map(|pid| process::command_line(*pid));
        match engines[..] {
            [engine] => engine,
            _ => panic!("not one engine: {:?}", described().collect::<Vec<_>>()),
        }
    }

    /// What every scene ends with: the next incarnation plays, alone; all ends when asked; no record is missing.
    #[track_caller]
    fn ends_well(&self, watchdog: Watchdog<'_>, incarnation: u64) {
        plays(&watchdog, incarnation);
        let known = watchdog
            .status()
            .and_then(|status| status["engine"]["pid"].as_u64());
        assert_eq!(known, Some(u64::from(self.engine(&watchdog))));
        let finished = watchdog.stop(PATIENCE);
        let log = finished.lines.join("\n");
        assert_eq!(finished.status.code(), Some(0), "{log}");
        self.nothing_is_left(&log);
    }

    /// No process of the scene's lives, and every record that the game says it made has arrived.
    #[track_caller]
    fn nothing_is_left(&self, log: &str) {
        let left = self.setup.descendants(None);
        let described: Vec<_> = left.iter().map(|pid| process::command_line(*pid)).collect();
        assert!(left.is_empty(), "left running: {described:?}\n{log}");
        let recorded = journal::read(&self.setup.scratch().join("journals"));
        assert!(!recorded.is_empty(), "nothing was recorded\n{log}");
        let broken = journal::broken_promises(&recorded, &self.setup.uploaded_files());
        assert!(
            broken.is_empty(),
            "{} of {}: {:#?}\n{log}",
            broken.len(),
            recorded.len(),
            broken.first()
        );
    }
}

/// Waits until this incarnation is ready and in its main loop.
#[track_caller]
fn plays(watchdog: &Watchdog<'_>, incarnation: u64) {
    watchdog.wait_for_status("the engine to play", PATIENCE, |status| {
        let engine = &status["engine"];
        let plays = engine["ready"] == true
            && engine["incarnation"] == incarnation
            && engine["frame"].as_u64().is_some_and(|frame| frame > 0);
        plays.then_some(())
    });
}

/// The `number`th death, counted from 1, once it is known.
#[track_caller]
fn death(watchdog: &Watchdog<'_>, number: usize) -> Value {
    watchdog.wait_for_status("a death", PATIENCE, |status| {
        status["engine"]["last_deaths"].get(number - 1).cloned()
    })
}

#[track_caller]
fn assert_cause(death: &Value, expected: &[&str]) {
    let cause = death["cause"].as_str().unwrap_or_default();
    for words in expected {
        assert!(cause.contains(words), "not {words:?}: {death:#}");
    }
}

/// The engine gets a signal while it plays; the cause names it, and the next incarnation plays.
#[track_caller]
fn dies_of(godot: &Godot, signal: Signal, words: &[&str]) {
    let scene = Scene::new(godot, &[], "");
    let watchdog = scene.setup.start();
    plays(&watchdog, 1);
    scene.setup.signal(scene.engine(&watchdog), signal);
    let death = death(&watchdog, 1);
    assert_cause(&death, words);
    assert!(death["frame"].as_u64() > Some(0), "{death:#}");
    scene.ends_well(watchdog, 2);
}

/// The engine acts by itself; the cause has these words, and the next incarnation plays.
#[track_caller]
fn dies_by(godot: &Godot, act: &[&str], config: &str, words: &[&str]) {
    let scene = Scene::new(godot, act, config);
    let watchdog = scene.setup.start();
    assert_cause(&death(&watchdog, 1), words);
    scene.ends_well(watchdog, 2);
}

/// SIGKILL, as the kernel's out-of-memory killer sends it.
fn a_kill(godot: &Godot) {
    dies_of(godot, Signal::KILL, &["SIGKILL"]);
}

/// SIGABRT kills without a word of the engine's own.
fn an_abort(godot: &Godot) {
    dies_of(godot, Signal::ABORT, &["SIGABRT"]);
}

/// `quit(0)` is clean; who wants a server that is always up says so, and gets the next one.
fn a_clean_quit_where_the_server_is_to_be_up_always(godot: &Godot) {
    let act = ["--act", "quit", "--code", "0"];
    dies_by(godot, &act, "[engine]\nrestart = \"always\"\n", &["quit"]);
}

/// `quit(0)` ends it all by default: the engine is not started again, and the watchdog says so.
fn a_clean_quit(godot: &Godot) {
    let scene = Scene::new(godot, &["--act", "quit", "--code", "0"], "");
    let watchdog = scene.setup.start();
    assert_eq!(death(&watchdog, 1)["cause"], "quit");
    watchdog.wait_for_status("the end", PATIENCE, |status| {
        (status["engine"]["state"] == "stopped").then_some(())
    });
    assert!(scene.setup.engines(Some(&watchdog)).is_empty());
    let finished = watchdog.stop(PATIENCE);
    let log = finished.lines.join("\n");
    assert_eq!(finished.status.code(), Some(0), "{log}");
    scene.nothing_is_left(&log);
}

/// `quit(3)` is the game's own doing, and still a failure: the next one is started.
fn a_quit_with_a_code(godot: &Godot) {
    let act = ["--act", "quit", "--code", "3"];
    dies_by(godot, &act, "", &["quit with exit code 3"]);
}

/// An endless loop in `_process`: found by the silence of the main loop, and ended.
fn a_busy_loop(godot: &Godot) {
    let config = "[health]\nhang_timeout = \"500ms\"\n";
    dies_by(godot, &["--act", "loop"], config, &["hung for"]);
}

/// A stopped process is silent as well.
fn a_stopped_process(godot: &Godot) {
    let scene = Scene::new(godot, &[], "[health]\nhang_timeout = \"500ms\"\n");
    let watchdog = scene.setup.start();
    plays(&watchdog, 1);
    scene.setup.signal(scene.engine(&watchdog), Signal::STOP);
    assert_cause(&death(&watchdog, 1), &["hung for"]);
    scene.ends_well(watchdog, 2);
}

/// A stall of 2.5 s that was announced kills nobody, though the limit is half a second.
fn an_announced_stall(godot: &Godot) {
    let config = "[health]\nhang_timeout = \"500ms\"\n";
    let scene = Scene::new(godot, &["--act", "announced_stall"], config);
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
    let config = "[health]\nhang_timeout = \"500ms\"\n";
    let scene = Scene::new(godot, &["--act", "stall"], config);
    let watchdog = scene.setup.start();
    assert_cause(&death(&watchdog, 1), &["hung for"]);
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
    let engine = scene
        .setup
        .engines(Some(&watchdog))
        .into_iter()
        .find(|pid| !children.contains(pid));
    scene.setup.signal(engine.expect("an engine"), Signal::KILL);
    assert_cause(&death(&watchdog, 1), &["SIGKILL"]);
    wait::until("the children to die", PATIENCE, || {
        let living = scene.setup.descendants(Some(&watchdog));
        (!children.iter().any(|pid| living.contains(pid))).then_some(())
    });
    scene.ends_well(watchdog, 2);
}

/// Asked to quit, a game that does not want to, and whose process ignores SIGTERM, is killed after its grace.
fn an_engine_that_does_not_want_to_end(godot: &Godot) {
    let config = "[shutdown]\nengine_grace = \"1s\"\n";
    let mut scene = Scene::new(godot, &[], config);
    scene.wrap(
        &["sh", "-c", "trap '' TERM; exec \"$0\" \"$@\" --act deaf"],
        godot,
    );
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

sidekick_tests::godot_claims!(
    a_kill,
    an_abort,
    a_clean_quit,
    a_clean_quit_where_the_server_is_to_be_up_always,
    a_quit_with_a_code,
    a_busy_loop,
    a_stopped_process,
    an_announced_stall,
    a_stall_that_nobody_announced,
    an_engine_with_children,
    an_engine_that_does_not_want_to_end,
);
