//! `[hooks]`: the operator's own commands at turns of the engine's life.

use std::time::Duration;

use super::reader::{Pass, between};

/// The operator's own commands at turns of the engine's life.
#[derive(Clone, Debug)]
pub struct HooksConfig {
    /// Run after a crash report is written; `None` = nothing.
    pub post_mortem: Option<Vec<String>>,
    /// It is killed after this time.
    pub post_mortem_timeout: Duration,
}

impl HooksConfig {
    pub(super) fn read(pass: &mut Pass<'_>) -> Self {
        let mut section = pass.section("hooks");
        let config = Self {
            post_mortem: section.optional(
                "post_mortem",
                "[\"./on-crash.sh\"]",
                "Run after a crash report is written, with its path in SIDEKICK_REPORT. Nothing waits for it.",
                |command: &Vec<String>| match command.first() {
                    Some(program) if !program.is_empty() => Ok(()),
                    _ => Err("must name a program first".into()),
                },
            ),
            post_mortem_timeout: section.get(
                "post_mortem_timeout",
                Duration::from_secs(60),
                "It is killed, with what it started, after this time.",
                between(Duration::from_millis(100), Duration::from_secs(3600)),
            ),
        };
        section.finish();
        config
    }
}
