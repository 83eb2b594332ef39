//! Puts a report together.

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::time::{SystemTime, UNIX_EPOCH};

use uuid::Uuid;

use super::parse::CrashScan;
use super::verdict::{Verdict, verdict};
use super::{CrashReport, DeathFacts, OutOfMemory, ScriptError};
use crate::event::signal_name;
use crate::log_line::LogLine;

/// Bytes of log text in one report; the oldest lines go first.
const LOG_BYTES_MAX: usize = 256 << 10;
/// Samples of memory in one report: evenly spread over its life.
const MEMORY_SAMPLES_MAX: usize = 256;
/// Threads of a hang in one report.
const THREADS_MAX: usize = 128;

/// What was collected of a dead engine beside the supervisor's facts.
#[derive(Clone, Debug, Default)]
pub struct Findings {
    /// What its output told.
    pub scan: CrashScan,
    /// Its last lines, oldest first.
    pub lines: Vec<LogLine>,
    /// The errors that the extension noted; empty = take those of the output.
    pub errors: Vec<ScriptError>,
    /// Whether the kernel killed it for want of memory.
    pub out_of_memory: OutOfMemory,
    /// What may be shown of its environment.
    pub environment: BTreeMap<String, String>,
    /// Where its core lies.
    pub core: Option<String>,
    /// The file with its output.
    pub log: Option<PathBuf>,
    /// The watchdog's name.
    pub source: String,
}

/// The report of a death.
pub fn build(facts: DeathFacts, mut findings: Findings) -> CrashReport {
    let Verdict {
        kind,
        words,
        signal,
        exit_code,
        banner_counts,
    } = verdict(&facts, &findings.scan, findings.out_of_memory);
    let banner = findings
        .scan
        .banner()
        .filter(|_| banner_counts)
        .cloned()
        .unwrap_or_default();
    let text_errors = findings.scan.errors();
    let started = facts
        .uptime
        .and_then(|uptime| facts.ended.checked_sub(uptime));
    CrashReport {
        report_id: new_report_id(facts.ended),
        source: findings.source,
        incarnation: facts.incarnation,
        pid: facts.pid,
        cause: words,
        kind,
        signal,
        signal_name: signal.and_then(signal_name).map(str::to_owned),
        exit_code,
        started: started.and_then(rfc3339),
        ended: rfc3339(facts.ended).unwrap_or_default(),
        uptime_s: facts.uptime.map(|uptime| uptime.as_secs_f64()),
        frame: facts.frame,
        last_tick_ms: facts.last_tick.map(|tick| tick.as_secs_f64() * 1000.0),
        phase: facts.phase,
        ready: facts.ready,
        backtrace: banner.backtrace,
        script_backtrace: banner.script_backtrace,
        script_errors: if findings.errors.is_empty() {
            text_errors
        } else {
            findings.errors
        },
        log_lines: bounded(findings.lines),
        memory: thinned(facts.memory),
        hang: facts.hang.map(|mut hang| {
            hang.threads.truncate(THREADS_MAX);
            hang
        }),
        out_of_memory: findings.out_of_memory,
        environment: findings.environment,
        core: findings.core,
        game_version: facts.game_version,
        engine_version: findings.scan.engine_version().map(str::to_owned),
        watchdog_version: env!("CARGO_PKG_VERSION").to_owned(),
        log: findings.log.or(facts.log),
        standby: facts.standby,
    }
}

/// A UUID that begins with the time (version 7), so that names sort by it.
pub fn new_report_id(at: SystemTime) -> Uuid {
    let since = at.duration_since(UNIX_EPOCH).unwrap_or_default();
    let millis = u64::try_from(since.as_millis()).unwrap_or(u64::MAX);
    let mut random = [0_u8; 10];
    random.copy_from_slice(&Uuid::new_v4().as_bytes()[..10]);
    uuid::Builder::from_unix_timestamp_millis(millis, &random).into_uuid()
}

fn rfc3339(time: SystemTime) -> Option<String> {
    let time = jiff::Timestamp::try_from(time).ok()?;
    Some(time.to_string())
}

fn bounded(mut lines: Vec<LogLine>) -> Vec<LogLine> {
    let mut bytes = 0;
    let kept = lines
        .iter()
        .rev()
        .take_while(|line| {
            bytes += line.text.len();
            bytes <= LOG_BYTES_MAX
        })
        .count();
    lines.split_off(lines.len() - kept)
}

fn thinned<T: Copy>(samples: Vec<T>) -> Vec<T> {
    if samples.len() <= MEMORY_SAMPLES_MAX {
        return samples;
    }
    let last = samples.len() - 1;
    let pick = |at: usize| samples.get(at * last / (MEMORY_SAMPLES_MAX - 1)).copied();
    (0..MEMORY_SAMPLES_MAX).filter_map(pick).collect()
}

/// The report as a record of at most `bytes_max` bytes of JSON: what is longest and least telling is shortened first.
pub fn for_record(mut report: CrashReport, bytes_max: usize) -> CrashReport {
    let size = |report: &CrashReport| serde_json::to_vec(report).map_or(0, |bytes| bytes.len());
    while size(&report) > bytes_max {
        if !report.log_lines.is_empty() {
            let half = report.log_lines.len().div_ceil(2);
            report.log_lines.drain(..half);
        } else if report.memory.len() > 8 {
            report.memory.drain(..report.memory.len() / 2);
        } else if let Some(hang) = report.hang.as_mut().filter(|hang| !hang.threads.is_empty()) {
            let kept = hang.threads.len() / 2;
            hang.threads.truncate(kept);
        } else if !report.environment.is_empty() {
            report.environment.clear();
        } else if report.script_errors.len() > 1 {
            report.script_errors.remove(0);
        } else if report.backtrace.len() > 1 {
            let kept = report.backtrace.len() / 2;
            report.backtrace.truncate(kept);
        } else {
            report.script_backtrace.clear();
            report.script_errors.clear();
            report.backtrace.clear();
            break;
        }
    }
    report
}

#[cfg(test)]
mod tests;
