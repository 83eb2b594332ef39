//! `[engine]`: what is launched and when it is launched again.

use std::path::PathBuf;
use std::time::Duration;

use super::command_line::CommandLine;
use super::hooks::names_a_program;
use super::reader::{Pass, any, between};
use super::value::{DURATION_MAX, HiddenMap, Size, keywords};

keywords! {
    /// After which ends of the engine it is launched again.
    pub enum RestartPolicy {
        /// After every end but a clean one with a success exit code.
        OnFailure = "on-failure",
        /// After every end.
        Always = "always",
        /// After none: the watchdog drains, uploads and ends with it.
        Never = "never",
    }
}

/// What is launched and when it is launched again.
#[derive(Clone, Debug)]
pub struct EngineConfig {
    /// Program and arguments; empty when not configured (`run` refuses that).
    pub command: CommandLine,
    /// The engine's working directory; the watchdog's own when `None`.
    pub working_dir: Option<PathBuf>,
    /// Environment variables added to the watchdog's own.
    pub env: HiddenMap,
    /// When it is launched again.
    pub restart: RestartPolicy,
    /// Exit codes that count as a clean end.
    pub success_exit_codes: Vec<i32>,
    /// So many of the last lines of output go into a crash report.
    pub log_lines_kept: u32,
    /// A file of output is ended and the next one begun at this many bytes.
    pub log_rotate_bytes: u64,
    /// Bytes of all output that is kept; the oldest files go first.
    pub log_disk_bytes_max: u64,
    /// Without a living watchdog for so long the engine quits by itself; `None` = it runs on.
    pub quit_without_watchdog: Option<Duration>,
    /// So many engines are kept booted beside the one that runs: 0 or 1.
    pub standby: u32,
}

impl EngineConfig {
    pub(super) fn read(pass: &mut Pass<'_>) -> Self {
        let mut section = pass.section("engine");
        let command = section
            .optional(
                "command",
                "[\"godot\", \"--headless\", \"--path\", \".\"]",
                "The engine and its arguments. What follows `--` on the command line replaces it.",
                names_a_program,
            )
            .unwrap_or_default();
        let working_dir = section.optional_path(
            "working_dir",
            "\".\"",
            "The engine's working directory; without it, the watchdog's own.",
        );
        let env = section.get(
            "env",
            HiddenMap::default(),
            "Environment variables for the engine, added to the watchdog's own.",
            |env: &HiddenMap| check_env(env),
        );
        let restart = section.get(
            "restart",
            RestartPolicy::OnFailure,
            "When the engine is launched again: \"on-failure\", \"always\" or \"never\".",
            any,
        );
        let success_exit_codes = section.get(
            "success_exit_codes",
            vec![0],
            "Exit codes that count as a clean end for \"on-failure\".",
            |codes: &Vec<i32>| codes.iter().try_for_each(between(0, 255)),
        );
        let log_lines_kept = section.get(
            "log_lines_kept",
            200,
            "So many of the last lines of its output go into a crash report.",
            between(0, 2000),
        );
        let log_rotate = section.get(
            "log_rotate",
            Size(16 << 20),
            "A file of its output is ended and the next one begun at this size.",
            between(Size(64 << 10), Size(1 << 30)),
        );
        let log_disk_max = section.get(
            "log_disk_max",
            Size(256 << 20),
            "Size of all output that is kept, of this and earlier engines; the oldest files go first.",
            between(Size(1 << 20), Size(1 << 40)),
        );
        let quit_without_watchdog = section.optional(
            "quit_without_watchdog",
            "\"10m\"",
            "After so long without a living watchdog the game quits by itself; without this it runs on.",
            between(Duration::from_secs(5), DURATION_MAX),
        );
        let standby = section.get(
            "standby",
            0,
            "1: keep a second engine booted and parked, which takes over when the first one dies. The game must await Sidekick.when_active() before it binds its port.",
            between(0, 1),
        );
        section.later("project_dir", "finding the project by itself");
        section.finish();
        if let Some(folder) = working_dir.as_deref().filter(|folder| !folder.is_dir()) {
            pass.complain(
                "engine.working_dir",
                format!("is {}, which is not a folder", folder.display()),
            );
        }
        Self {
            command,
            working_dir,
            env,
            restart,
            success_exit_codes,
            log_lines_kept,
            log_rotate_bytes: log_rotate.0,
            log_disk_bytes_max: log_disk_max.0,
            quit_without_watchdog,
            standby,
        }
    }
}

fn check_env(env: &HiddenMap) -> Result<(), String> {
    for name in env.0.keys() {
        if name.is_empty() || name.contains(['=', '\0']) {
            return Err(format!("has {name:?}, which cannot be a variable's name"));
        }
        if name.starts_with("SIDEKICK_") {
            return Err(format!(
                "sets {name}: variables that start with SIDEKICK_ are set by the watchdog itself"
            ));
        }
    }
    Ok(())
}
