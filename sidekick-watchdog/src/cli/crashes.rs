//! `crashes`: lists the crash reports, or shows one. Without a running watchdog they are read from the data directory.

use std::fmt::Write;

use clap::Args;
use hyper::StatusCode;

use super::LocationArgs;
use super::client::{Client, ClientError};
use super::words::{plain, second, size, span};
use crate::api::crashes::{self, CrashError, CrashSummary, SHORT_ID_CHARS, short_id};
use crate::config::Config;
use crate::crash::keep::{CrashFolder, REPORTS_KEPT};
use crate::crash::{CrashReport, ScriptError};
use crate::exit::ExitCode;
use crate::log_line::LogLevel;

/// Reports that are listed when nothing else is asked for.
const LISTED: usize = 20;
/// A number of more digits than this is an id.
const COUNT_DIGITS_MAX: usize = 3;

#[derive(Args, Debug)]
pub(super) struct CrashesArgs {
    /// So many of the last ones, or the one with this id (a part of it will do), or `last`
    #[arg(value_name = "COUNT|ID|last")]
    which: Option<String>,
    #[command(flatten)]
    location: LocationArgs,
    /// Print the list, or the whole report, as JSON
    #[arg(long)]
    json: bool,
}

pub(super) fn run(args: &CrashesArgs) -> ExitCode {
    let config = match args.location.load(Vec::new()) {
        Ok(config) => config,
        Err(errors) => return super::complain_of_config(&errors),
    };
    let which = args.which.as_deref();
    let count = match which {
        None => Some(LISTED),
        Some(word) if word.len() <= COUNT_DIGITS_MAX => word.parse().ok(),
        Some(_) => None,
    };
    let shown = match count {
        Some(count) => list(&config, count.min(REPORTS_KEPT)).map(|list| match args.json {
            true => json(&list),
            false => table(&list),
        }),
        None => report(&config, which.unwrap_or("last")).map(|report| match args.json {
            true => json(&report),
            false => text(&report),
        }),
    };
    match shown {
        Ok(text) => {
            super::say(text.trim_end());
            ExitCode::Ok
        }
        Err(error) => {
            super::complain(&error);
            error.exit_code()
        }
    }
}

fn list(config: &Config, count: usize) -> Result<Vec<CrashSummary>, ClientError> {
    let asked = get(config, &format!("/api/v1/crashes?limit={count}"));
    or_from_disk(asked, || crashes::list(&folder(config)?, count))
}

fn report(config: &Config, id: &str) -> Result<CrashReport, ClientError> {
    let find = || crashes::find(&folder(config)?, id);
    let is_plain = |byte: u8| byte.is_ascii_alphanumeric() || byte == b'-';
    if !id.bytes().all(is_plain) {
        // It would go into a path; no id has anything else in it.
        return find().map_err(missing);
    }
    or_from_disk(get(config, &format!("/api/v1/crashes/{id}")), find)
}

fn get<T: serde::de::DeserializeOwned>(config: &Config, path: &str) -> Result<T, ClientError> {
    let answer = Client::connect(config)?.get(path)?;
    if answer.code == StatusCode::NOT_FOUND {
        return Err(ClientError::Missing(answer.body.trim_end().to_owned()));
    }
    serde_json::from_str(&answer.success()?)
        .map_err(|error| ClientError::Broken(format!("its answer is not JSON ({error})")))
}

/// Who died is asked about most when nothing runs any more.
fn or_from_disk<T>(
    asked: Result<T, ClientError>,
    read: impl FnOnce() -> Result<T, CrashError>,
) -> Result<T, ClientError> {
    match asked {
        Err(not_running @ ClientError::NotRunning { .. }) => read().map_err(|error| match error {
            CrashError::Unreadable(_) => not_running,
            other => missing(other),
        }),
        asked => asked,
    }
}

fn missing(error: CrashError) -> ClientError {
    ClientError::Missing(error.to_string())
}

/// The reports' folder, where there is a data directory at all.
fn folder(config: &Config) -> Result<CrashFolder, CrashError> {
    std::fs::metadata(&config.data_dir)?;
    Ok(CrashFolder::new(&config.data_dir))
}

fn json<T: serde::Serialize>(value: &T) -> String {
    // No maps with keys other than strings are in it.
    serde_json::to_string_pretty(value).unwrap_or_default()
}

fn table(list: &[CrashSummary]) -> String {
    if list.is_empty() {
        return "no crash reports; no engine has crashed, as far as is known".to_owned();
    }
    let mut text = format!(
        "{:<SHORT_ID_CHARS$}  {:<23}  {:>11}  {:>10}  cause\n",
        "id", "when", "incarnation", "lived"
    );
    for crash in list {
        let id = short_id(crash.report_id);
        let lived = crash.uptime_s.map_or_else(|| "?".to_owned(), span);
        let _ = writeln!(
            text,
            "{id}  {:<23}  {:>11}  {lived:>10}  {}",
            second(&crash.ended),
            crash.incarnation,
            plain(&crash.cause)
        );
    }
    text.push_str("\n`sidekick-watchdog crashes ID` shows one, `crashes last` the newest");
    text
}

/// A whole report for people. What is not known is left out.
fn text(report: &CrashReport) -> String {
    let mut page = Page::default();
    page.line("cause", &report.cause);
    page.line(
        "incarnation",
        &format!(
            "{} of {}, pid {}",
            report.incarnation, report.source, report.pid
        ),
    );
    page.line("died", &second(&report.ended));
    if let Some(started) = &report.started {
        page.line("started", &second(started));
    }
    if let Some(uptime) = report.uptime_s {
        page.line("lived", &span(uptime));
    }
    page.line("was", &state(report));
    if let Some(name) = &report.signal_name {
        page.line("signal", name);
    }
    if let Some(code) = report.exit_code {
        page.line("exit code", &code.to_string());
    }
    if let Some(last) = report.memory.last() {
        let peak = report.memory.iter().map(|sample| sample.rss_bytes).max();
        let peak = peak.unwrap_or(last.rss_bytes);
        page.line(
            "memory",
            &format!(
                "{} resident at the end, at most {}",
                size(last.rss_bytes),
                size(peak)
            ),
        );
    }
    for (name, value) in [
        ("game", &report.game_version),
        ("engine", &report.engine_version),
        ("core dump", &report.core),
        (
            "output",
            &report.log.as_ref().map(|path| path.display().to_string()),
        ),
    ] {
        if let Some(value) = value {
            page.line(name, value);
        }
    }
    page.line("report", &report.report_id.to_string());
    if let Some(hang) = &report.hang {
        let threads = hang.threads.iter().map(|thread| {
            let waits = thread
                .waits_in
                .as_ref()
                .map_or_else(String::new, |place| format!(", in {place}"));
            format!("{} {} ({}){waits}", thread.state, thread.name, thread.id)
        });
        let what = format!("hung for {:.1} s {}", hang.silent_s, hang.kind.words());
        page.section(what.trim_end(), threads);
    }
    page.section("engine's backtrace", report.backtrace.iter().cloned());
    page.section(
        "scripts' backtrace",
        report.script_backtrace.iter().cloned(),
    );
    let errors = report.script_errors.iter().flat_map(|error| {
        let times = if error.count > 1 {
            format!(" ({} times)", error.count)
        } else {
            String::new()
        };
        let stack = error.backtrace.iter().map(|frame| format!("    {frame}"));
        std::iter::once(format!("{}: {}{times}", error.kind, error.message))
            .chain(place(error))
            .chain(stack)
    });
    page.section("errors before it", errors);
    let lines = report.log_lines.iter().map(|line| {
        let mark = match line.level {
            LogLevel::Info => ' ',
            LogLevel::Warning => 'W',
            LogLevel::Error | LogLevel::ScriptError => 'E',
        };
        format!("{mark} {}", line.text)
    });
    page.section("last lines of its output", lines);
    let environment = report
        .environment
        .iter()
        .map(|(name, value)| format!("{name}={value}"));
    page.section("environment", environment);
    page.text
}

/// Where a script went wrong, as far as that was told.
fn place(error: &ScriptError) -> Option<String> {
    let at = match (error.function.is_empty(), error.file.is_empty()) {
        (true, true) => return None,
        (false, true) => error.function.clone(),
        (true, false) => format!("{}:{}", error.file, error.line),
        (false, false) => format!("{} ({}:{})", error.function, error.file, error.line),
    };
    Some(format!("    at {at}"))
}

/// What it was doing, in words.
fn state(report: &CrashReport) -> String {
    let mut words = report
        .phase
        .clone()
        .unwrap_or_else(|| "in an unknown phase".to_owned());
    words.push_str(if report.ready {
        ", ready"
    } else {
        ", not marked ready"
    });
    if let Some(frame) = report.frame {
        let _ = write!(words, ", frame {frame}");
    }
    if let Some(tick_ms) = report.last_tick_ms {
        let _ = write!(words, ", last tick {tick_ms:.1} ms");
    }
    words
}

#[derive(Default)]
struct Page {
    text: String,
}

impl Page {
    fn line(&mut self, name: &str, value: &str) {
        let _ = writeln!(self.text, "{name:<12} {}", plain(value));
    }

    /// A heading and what is under it, unless that is nothing.
    fn section(&mut self, heading: &str, lines: impl Iterator<Item = String>) {
        let mut lines = lines.peekable();
        if lines.peek().is_some() {
            let _ = writeln!(self.text, "\n{heading}:");
            for line in lines {
                let _ = writeln!(self.text, "  {}", plain(&line));
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::crash::MemorySample;
    use crate::log_line::LogLine;

    #[test]
    fn a_report_reads_as_a_page_and_obeys_no_escape() {
        let report = CrashReport {
            cause: "segmentation fault in frame 18,211 after 5 min 3 s".into(),
            source: "lobby-1".into(),
            incarnation: 4,
            ended: "2026-11-22T12:00:00.5Z".into(),
            signal_name: Some("SIGSEGV".into()),
            memory: vec![
                MemorySample {
                    at_s: 1.0,
                    rss_bytes: 200 << 20,
                },
                MemorySample {
                    at_s: 2.0,
                    rss_bytes: 100 << 20,
                },
            ],
            backtrace: vec!["[1] libc.so.6(+0x3c050)".into()],
            script_errors: vec![
                ScriptError {
                    kind: "script".into(),
                    message: "Invalid call".into(),
                    function: "_process".into(),
                    file: "res://main.gd".into(),
                    line: 5,
                    count: 3,
                    ..ScriptError::default()
                },
                ScriptError {
                    kind: "error".into(),
                    message: "nobody knows where".into(),
                    ..ScriptError::default()
                },
            ],
            log_lines: vec![LogLine {
                level: LogLevel::Error,
                text: "\u{1b}[31mERROR: no".into(),
                ..LogLine::default()
            }],
            ..CrashReport::default()
        };
        let text = text(&report);
        for part in [
            "cause        segmentation fault in frame 18,211 after 5 min 3 s\n",
            "died         2026-11-22 12:00:00 UTC\n",
            "memory       100.0 MiB resident at the end, at most 200.0 MiB\n",
            "\nengine's backtrace:\n  [1] libc.so.6(+0x3c050)\n",
            "script: Invalid call (3 times)\n      at _process (res://main.gd:5)\n  error: nobody knows where\n\n",
            "\nlast lines of its output:\n  E ERROR: no\n",
        ] {
            assert!(text.contains(part), "{part}\n{text}");
        }
        assert!(!text.contains("scripts' backtrace") && !text.contains('\u{1b}'));
    }

    #[test]
    fn the_list_tells_when_who_and_why() {
        let crash = CrashSummary {
            report_id: "01930000-0000-7000-8000-00000001bbbb".parse().unwrap(),
            incarnation: 12,
            cause: "hung for 10.2 s in a busy loop".into(),
            ended: "2026-11-22T12:00:00Z".into(),
            uptime_s: Some(303.0),
            ..CrashSummary::default()
        };
        let table = table(&[crash]);
        let row = "0001bbbb  2026-11-22 12:00:00 UTC           12       5m 3s  hung for 10.2 s in a busy loop\n";
        assert!(table.contains(row), "{table}");
    }
}
