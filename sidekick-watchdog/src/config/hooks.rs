//! `[hooks]`: the operator's own commands at turns of the engine's life.

use std::time::Duration;

use super::command_line::CommandLine;
use super::reader::{Pass, between};

/// The longest time limit of a hook: who waits longer waits for ever.
const TIMEOUT_MAX: Duration = Duration::from_secs(3600);

/// The operator's own commands at turns of the engine's life.
#[derive(Clone, Debug)]
pub struct HooksConfig {
    /// Runs before each start, relaunches too; `None` = nothing.
    pub pre_start: Option<CommandLine>,
    /// After this long it is killed, and its start has failed.
    pub pre_start_timeout: Duration,
    /// Run after a crash report is written; `None` = nothing.
    pub post_mortem: Option<CommandLine>,
    /// It is killed after this time.
    pub post_mortem_timeout: Duration,
}

impl HooksConfig {
    pub(super) fn read(pass: &mut Pass<'_>) -> Self {
        let mut section = pass.section("hooks");
        let config = Self {
            pre_start: section.optional(
                "pre_start",
                "[\"./update.sh\"]",
                "Run before each start of the engine, relaunches too, in its folder. If it fails, so has the start.",
                names_a_program,
            ),
            pre_start_timeout: section.get(
                "pre_start_timeout",
                Duration::from_secs(30),
                "pre_start is killed, with what it started, after this time, and has failed.",
                between(Duration::from_millis(100), TIMEOUT_MAX),
            ),
            post_mortem: section.optional(
                "post_mortem",
                "[\"./on-crash.sh\"]",
                "Run after a crash report is written, with its path in SIDEKICK_REPORT. Nothing waits for it. What a hook \
                 leaves running in its process group ends with it.",
                names_a_program,
            ),
            post_mortem_timeout: section.get(
                "post_mortem_timeout",
                Duration::from_secs(60),
                "It is killed, with what it started, after this time.",
                between(Duration::from_millis(100), TIMEOUT_MAX),
            ),
        };
        section.finish();
        config
    }
}

pub(super) fn names_a_program(command: &CommandLine) -> Result<(), String> {
    match command.0.first() {
        Some(program) if !program.is_empty() => Ok(()),
        _ => Err("must name a program first".into()),
    }
}
