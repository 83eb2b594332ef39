//! A match of `gd/match.gd` under a real watchdog, and what is known of it in the end: by its own journals and by the
//! kernel's list of sockets.
//!
//! All functions panic where an assertion would, with what the watchdog said.

use std::fs;
use std::path::PathBuf;
use std::time::Duration;

use serde_json::Value;

use crate::godot::Godot;
use crate::match_journal::{self, Serving, Summary, judge, last_serving};
use crate::port_watch::{PortWatch, Seen};
use crate::project::Project;
use crate::watchdog::{Setup, Watchdog};
use crate::{ports, process, saver, wait};

/// Generous: a slow machine fails nothing.
pub const PATIENCE: Duration = Duration::from_secs(120);

/// A watchdog's surroundings with the match as its engine.
#[derive(Debug)]
pub struct Stage {
    /// Its watchdogs' surroundings.
    pub setup: Setup,
    /// The match's journals.
    pub journals: PathBuf,
    has_standby: bool,
    watch: PortWatch,
    project: Project,
}

/// What is known of a match at its end.
#[derive(Debug)]
pub struct Outcome {
    /// Numbers of its journals.
    pub summary: Summary,
    /// What was not as promised by the match's journals.
    pub broken: Vec<String>,
    /// What was seen of its port.
    pub seen: Seen,
    /// What the last watchdog said.
    pub log: String,
}

impl Outcome {
    /// That nothing was broken, and that the port was held by those who said that they serve, one at a time.
    #[track_caller]
    pub fn assert_kept(&self) {
        let Self {
            summary,
            broken,
            seen,
            log,
        } = self;
        assert!(
            broken.is_empty(),
            "{} broken promises, the first: {:#?}\n{log}",
            broken.len(),
            &broken[..broken.len().min(5)]
        );
        assert!(seen.together.is_empty(), "{:?}\n{log}", seen.together);
        // Who died amid taking the port did not say so any more.
        let (holders, served) = (&seen.holders, &summary.served);
        let silent: Vec<_> = holders.difference(served).collect();
        assert!(
            silent.len() <= holders.len() / 4,
            "{silent:?} held the port and were never heard of\n{log}"
        );
    }
}

impl Stage {
    /// `broken` is how the game is to be broken; empty: not at all.
    pub fn new(godot: &Godot, has_standby: bool, broken: &str) -> Self {
        let project = Project::new(match_journal::SCRIPT);
        let mut setup = Setup::new();
        let journals = setup.scratch().join("journals");
        fs::create_dir(&journals).expect("a folder for the journals");
        let port = ports::free_udp();
        let folder = journals.to_str().expect("a path in UTF-8");
        let port_word = port.to_string();
        let words = ["--port", &port_word, "--journal", folder, "--break", broken];
        setup.set_engine(project.command_line(godot, &words));
        let standby = u8::from(has_standby);
        let config = format!("[engine]\nstandby = {standby}\n{}", saver::CONFIG);
        setup.set_config(&config);
        Self {
            setup,
            journals,
            has_standby,
            watch: PortWatch::start(port),
            project,
        }
    }

    /// Puts the game's next version in the place of its program, as an update does.
    ///
    /// # Panics
    /// When it cannot be written.
    pub fn update(&self, version: u32) {
        let script = match_journal::SCRIPT.replace(
            "const VERSION := 1\n",
            &format!("const VERSION := {version}\n"),
        );
        self.project.write("main.gd", &script);
    }

    /// Who serves, if it lives.
    pub fn serving(&self) -> Option<Serving> {
        last_serving(&self.journals).filter(|serving| process::runs(serving.pid))
    }

    /// The engine that serves and, where there is to be one, the standby that is parked beside it.
    #[track_caller]
    pub fn settled(&self, watchdog: &Watchdog<'_>) -> (u32, Option<u32>) {
        let settled = wait::poll(PATIENCE, || {
            let serving = self.serving()?.pid;
            if !self.has_standby {
                return Some((serving, None));
            }
            let (_, text) = watchdog.get("/api/v1/status")?;
            let status: Value = serde_json::from_str(&text).ok()?;
            let standby = u32::try_from(status["standby"]["pid"].as_u64()?).ok()?;
            let is_parked = status["standby"]["state"] == "parked" && standby != serving;
            is_parked.then_some((serving, Some(standby)))
        });
        settled.unwrap_or_else(|| {
            let (lines, log) = (watchdog.running.lines.all(), watchdog.running.is_alive());
            panic!(
                "no engine that serves, or no standby; the watchdog runs: {log}; it says:\n{}",
                lines.join("\n")
            )
        })
    }

    /// Waits until somebody serves who is not `before`, and says who.
    #[track_caller]
    pub fn next(&self, before: u32) -> Serving {
        wait::until("somebody else who serves", PATIENCE, || {
            self.serving().filter(|serving| serving.pid != before)
        })
    }

    /// What the journals say so far.
    pub fn judge(&self) -> (Summary, Vec<String>) {
        judge(&self.journals)
    }

    /// Waits until so many checkpoints are done.
    #[track_caller]
    pub fn has_kept(&self, checkpoints: u64) {
        wait::until("more checkpoints", PATIENCE, || {
            (self.judge().0.done >= checkpoints).then_some(())
        });
    }

    /// What was seen of its port so far.
    pub fn seen(&self) -> Seen {
        self.watch.seen()
    }

    /// Ends the watchdog, and the match with it.
    #[track_caller]
    pub fn end(&self, watchdog: Watchdog<'_>) -> Outcome {
        let finished = watchdog.stop(PATIENCE);
        let log = finished.lines.join("\n");
        assert_eq!(finished.status.code(), Some(0), "{log}");
        assert!(!log.contains("panicked"), "{log}");
        let left = self.setup.engines(None);
        assert!(left.is_empty(), "left running: {left:?}\n{log}");
        let (summary, broken) = self.judge();
        Outcome {
            summary,
            broken,
            seen: self.seen(),
            log,
        }
    }
}
