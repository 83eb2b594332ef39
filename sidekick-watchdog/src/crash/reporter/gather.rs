//! What is found out of a death besides what the engine printed: the kernel's word, a core, errors that the extension noted.

use std::path::Path;
use std::time::{Duration, SystemTime};

use sidekick_ipc::errors::{self, ErrorKind};

use super::{Collected, ReportConfig};
use crate::crash::build::{Findings, build};
use crate::crash::parse::ERRORS_KEPT;
use crate::crash::{CrashReport, DeathFacts, OutOfMemory, ScriptError, cores};
use crate::event::DeathCause;
use crate::platform::{OomCounters, kernel_log_names};

const SIGKILL: i32 = 9;
/// Where the system says what it does with cores.
const CORE_PATTERN: &str = "/proc/sys/kernel/core_pattern";

/// The report of a death of which nothing is kept yet.
pub(super) fn make(config: &ReportConfig, facts: DeathFacts, collected: Collected) -> CrashReport {
    let started = facts
        .uptime
        .and_then(|uptime| facts.ended.checked_sub(uptime));
    let findings = Findings {
        out_of_memory: out_of_memory(&facts, &collected.oom),
        errors: noted_errors(&config.runtime_dir, facts.incarnation),
        core: core(&facts, &config.working_dir, started),
        scan: collected.scan,
        lines: collected.lines,
        environment: config.environment.clone(),
        log: collected.log,
        source: config.source.clone(),
    };
    build(facts, findings)
}

/// Takes the strongest word that the system gives.
fn out_of_memory(facts: &DeathFacts, counters: &OomCounters) -> OutOfMemory {
    let is_kill = match facts.cause {
        DeathCause::Signaled { signal, .. } => signal == SIGKILL,
        DeathCause::Unknown | DeathCause::Unwatched => true,
        _ => false,
    };
    if !is_kill {
        return OutOfMemory::No;
    }
    if counters.machine_has_risen() == Some(false) {
        return OutOfMemory::No;
    }
    // The kernel's log is looked through from its start until now, which may be long after its death.
    let since = facts.ended.elapsed().unwrap_or_default();
    let lived = facts.uptime.unwrap_or(Duration::MAX).saturating_add(since);
    match (
        kernel_log_names(facts.pid, lived),
        counters.group_has_risen(),
    ) {
        (Some(true), _) => OutOfMemory::Proven,
        (Some(false), _) | (None, Some(false)) => OutOfMemory::No,
        (None, Some(true)) => OutOfMemory::Likely,
        (None, None) => OutOfMemory::Unknown,
    }
}

fn core(facts: &DeathFacts, working_dir: &Path, started: Option<SystemTime>) -> Option<String> {
    let DeathCause::Signaled {
        core_dumped: true, ..
    } = facts.cause
    else {
        return None;
    };
    let pattern = std::fs::read_to_string(CORE_PATTERN).ok()?;
    cores::find(&pattern, facts.pid, working_dir, started)
}

/// The errors that the extension noted in the runtime directory; taken away once read.
fn noted_errors(runtime_dir: &Path, incarnation: u32) -> Vec<ScriptError> {
    let noted = match errors::read(runtime_dir, incarnation) {
        Ok(noted) => noted,
        Err(error) => {
            tracing::warn!(incarnation, %error, "noted errors cannot be read; those of the output are taken");
            return Vec::new();
        }
    };
    let word = |kind| match kind {
        ErrorKind::Script => "script",
        ErrorKind::Shader => "shader",
        ErrorKind::Error => "error",
    };
    let from = noted.len().saturating_sub(ERRORS_KEPT);
    let error = |error: errors::ScriptError| ScriptError {
        kind: word(error.kind).to_owned(),
        message: error.text,
        function: error.function,
        file: error.file,
        line: error.line,
        backtrace: error.backtrace.lines().map(str::to_owned).collect(),
        count: error.count,
    };
    noted.into_iter().skip(from).map(error).collect()
}
