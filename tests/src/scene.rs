//! A real game that plays one act under a real watchdog, and what must hold whatever the act was.
//!
//! The game (`gd/deaths/main.gd`) journals what it records. All functions panic where an assertion would, with what the watchdog
//! said.

use std::ffi::OsString;
use std::fs;
use std::path::PathBuf;
use std::time::Duration;

use serde_json::Value;

use crate::godot::Godot;
use crate::journal;
use crate::ledger::Arrival;
use crate::process;
use crate::project::Project;
use crate::watchdog::{Setup, Watchdog};

/// Generous: a slow machine fails nothing.
pub const PATIENCE: Duration = Duration::from_secs(120);

/// Relaunches follow one another quickly. An engine is silent for at most half a second once it runs, and has time to
/// start on a busy machine.
pub const QUICK: &str = "[restart]\nbackoff_first = \"10ms\"\nbackoff_max = \"50ms\"\nstable_after = \"1s\"\n\
                     [upload]\nbatch_max_age = \"100ms\"\n";

/// A project that plays one act, and what surrounds its watchdog.
#[derive(Debug)]
pub struct Scene {
    /// The game.
    pub project: Project,
    /// Its watchdog's surroundings.
    pub setup: Setup,
    /// The engine's command.
    command: Vec<OsString>,
}

impl Scene {
    /// `arguments` go to the game, `config` is added to the configuration.
    pub fn new(godot: &Godot, arguments: &[&str], config: &str) -> Self {
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
        let command = project.command_line(godot, &words);
        setup.set_engine(&command);
        setup.set_config(&format!("{QUICK}{config}"));
        Self {
            project,
            setup,
            command,
        }
    }

    /// Runs the engine by this shell script, which finds it in `"$0" "$@"`.
    pub fn wrap(&mut self, script: &str) {
        let words: [OsString; 3] = ["sh".into(), "-c".into(), script.into()];
        self.setup.set_engine(words.iter().chain(&self.command));
    }

    /// Where the game leaves what it has to say.
    pub fn note(&self, name: &str) -> PathBuf {
        self.setup.scratch().join("notes").join(name)
    }

    /// The one engine that runs.
    #[track_caller]
    pub fn engine(&self, watchdog: &Watchdog<'_>) -> u32 {
        let engines = self.setup.engines(Some(watchdog));
        let described = || engines.iter().map(|pid| process::command_line(*pid));
        match engines[..] {
            [engine] => engine,
            _ => panic!("not one engine: {:?}", described().collect::<Vec<_>>()),
        }
    }

    /// What every scene ends with: the next incarnation plays, alone; all ends when asked; no record is missing.
    #[track_caller]
    pub fn ends_well(&self, watchdog: Watchdog<'_>, incarnation: u64) {
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

    /// The backend has the report, once.
    #[track_caller]
    pub fn has_arrived(&self, report: &Value) {
        let ledger = self.setup.uploaded_files();
        let reports: Vec<Value> = ledger
            .records()
            .values()
            .filter(|arrival| arrival.stream == "sidekick.crash")
            .map(Arrival::data)
            .collect();
        let ids: Vec<&Value> = reports.iter().map(|data| &data["report_id"]).collect();
        assert_eq!(ids, [&report["report_id"]]);
        assert_eq!(reports[0]["cause"], report["cause"]);
    }

    /// No process of the scene's lives, and every record that the game says it made has arrived.
    #[track_caller]
    pub fn nothing_is_left(&self, log: &str) {
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
pub fn plays(watchdog: &Watchdog<'_>, incarnation: u64) {
    watchdog.wait_for_status("the engine to play", PATIENCE, |status| {
        let engine = &status["engine"];
        let plays = engine["ready"] == true
            && engine["incarnation"] == incarnation
            && engine["frame"].as_u64().is_some_and(|frame| frame > 0);
        plays.then_some(())
    });
}

/// The report of the `number`th death, counted from 1, once it lies in its file.
#[track_caller]
pub fn report(watchdog: &Watchdog<'_>, number: usize) -> Value {
    let path = watchdog.wait_for_status("a crash report", PATIENCE, |status| {
        let death = status["engine"]["last_deaths"].get(number - 1)?;
        death["report"].as_str().map(PathBuf::from)
    });
    let text = fs::read_to_string(&path).unwrap_or_else(|error| panic!("no {path:?}: {error}"));
    serde_json::from_str(&text).expect("a report is JSON")
}

/// The `number`th death, counted from 1, once it is known.
#[track_caller]
pub fn death(watchdog: &Watchdog<'_>, number: usize) -> Value {
    watchdog.wait_for_status("a death", PATIENCE, |status| {
        status["engine"]["last_deaths"].get(number - 1).cloned()
    })
}

/// A report's kind, and words that its cause has.
#[track_caller]
pub fn assert_cause(report: &Value, kind: &str, words: &[&str]) {
    assert_eq!(report["kind"], kind, "{report:#}");
    let cause = report["cause"].as_str().unwrap_or_default();
    for words in words {
        assert!(cause.contains(words), "not {words:?}: {report:#}");
    }
}
