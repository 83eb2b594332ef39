//! `[upload.command]`: a program that takes batches.

use std::time::Duration;

use super::SinkKind;
use crate::config::command_line::CommandLine;
use crate::config::hooks::names_a_program;
use crate::config::reader::{Pass, between};

/// `[upload.command]`: a program that takes batches.
#[derive(Clone, Debug)]
pub struct CommandSinkConfig {
    /// The program and its arguments.
    pub run: CommandLine,
    /// The longest that one batch may take.
    pub timeout: Duration,
}

impl CommandSinkConfig {
    pub(super) fn read(pass: &mut Pass<'_>, sinks: &[SinkKind]) -> Option<Self> {
        let mut section = pass.section("upload.command");
        let run = section.optional(
            "run",
            "[\"clickhouse-client\", \"--query\", \"INSERT INTO records FORMAT JSONEachRow\"]",
            "Run for each batch, in the engine's folder and without a shell, with the batch as NDJSON on standard input and its \
             key in SIDEKICK_BATCH_KEY. Exit code 0: taken. 65: a record is bad. 77, 78: parked. Any other: tried again.",
            names_a_program,
        );
        let timeout = section.get(
            "timeout",
            Duration::from_secs(30),
            "It is killed, with what it started, after this time.",
            between(Duration::from_millis(100), Duration::from_secs(3600)),
        );
        section.finish();
        let wanted = sinks.contains(&SinkKind::Command);
        let is_given = run.is_some()
            || pass
                .complaints
                .iter()
                .any(|c| c.key == "upload.command.run");
        if wanted && !is_given {
            pass.complain(
                "upload.sinks",
                "has \"command\", but upload.command.run is not set; add [upload.command] run = [\"./program\"]",
            );
        }
        if !wanted && run.is_some() {
            pass.warnings.push(
                "[upload.command] is set but not used: upload.sinks does not have \"command\""
                    .into(),
            );
        }
        run.filter(|_| wanted).map(|run| Self { run, timeout })
    }
}
