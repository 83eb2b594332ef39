//! The operator's hook: a command that is run after each report.

use std::path::PathBuf;
use std::process::{Command, Stdio};
use std::sync::mpsc::Receiver;
use std::time::Duration;

use crate::crash::CrashReport;
use crate::platform::{HelperEnd, run_helper};

/// A command that is run after a report is written.
#[derive(Clone, Debug)]
pub struct PostMortem {
    /// Program and arguments; not empty.
    pub command: Vec<String>,
    /// It is killed after this time.
    pub timeout: Duration,
}

/// Runs it for one report after the other, until no more can come.
pub(super) fn run_hooks(hook: &PostMortem, reports: &Receiver<(PathBuf, CrashReport)>) {
    while let Ok((path, report)) = reports.recv() {
        let Some((program, arguments)) = hook.command.split_first() else {
            return;
        };
        let mut command = Command::new(program);
        command
            .args(arguments)
            .env("SIDEKICK_REPORT", &path)
            .env("SIDEKICK_REPORT_ID", report.report_id.to_string())
            .env("SIDEKICK_REPORT_CAUSE", &report.cause)
            .env("SIDEKICK_REPORT_KIND", &report.kind)
            .env(
                "SIDEKICK_REPORT_INCARNATION",
                report.incarnation.to_string(),
            )
            .stdin(Stdio::null())
            .stdout(Stdio::null());
        let incarnation = report.incarnation;
        match run_helper(&mut command, hook.timeout, None, None) {
            Ok(HelperEnd::Code(0)) => tracing::debug!(incarnation, "post_mortem ended"),
            Ok(end) => tracing::warn!(incarnation, %end, "post_mortem did not end well"),
            Err(error) => tracing::warn!(incarnation, %error, program, "post_mortem cannot be run"),
        }
    }
}
