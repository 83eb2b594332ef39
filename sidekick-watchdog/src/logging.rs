//! The watchdog's own log: to standard error and, where configured, to a file.
//!
//! Writing happens on threads of its own behind bounded queues. When a reader of standard error sleeps or the disk
//! is stuck, lines are dropped and counted ([`LogGuard::lines_dropped`]); nothing in the watchdog waits for its log.

mod rolling;

use std::fmt;
use std::io::{self, IsTerminal};
use std::path::{Path, PathBuf};

use jiff::Timestamp;
use tracing::Subscriber;
use tracing::level_filters::LevelFilter;
use tracing_appender::non_blocking::{ErrorCounter, NonBlocking, NonBlockingBuilder, WorkerGuard};
use tracing_subscriber::Layer;
use tracing_subscriber::filter::Targets;
use tracing_subscriber::fmt::format::Writer;
use tracing_subscriber::fmt::time::FormatTime;
use tracing_subscriber::layer::SubscriberExt;
use tracing_subscriber::util::SubscriberInitExt;

use self::rolling::Rolling;
use crate::config::{LogConfig, LogFormat, LogLevel, LogRotation};

/// Lines that may wait for a writer; about 2 MiB. The ones after are dropped and counted.
const LINES_WAITING_MAX: usize = 8 * 1024;

/// Why there is no log.
#[derive(Debug, thiserror::Error)]
pub enum LogError {
    /// The file's folder or the file cannot be made or written.
    #[error("the log file {path:?} cannot be written: {why}; change [log] file")]
    File {
        /// The file as configured.
        path: PathBuf,
        /// The system's words.
        why: String,
    },
    /// Somebody installed a log before.
    #[error("logging was started twice in one process")]
    Twice,
}

/// Keeps the log's threads; when dropped, waits at most about a second for the last lines to be written.
#[derive(Debug)]
#[must_use]
pub struct LogGuard {
    _workers: Vec<WorkerGuard>,
    counters: Vec<ErrorCounter>,
}

impl LogGuard {
    /// Lines that were dropped because their writer was stuck.
    pub fn lines_dropped(&self) -> u64 {
        self.counters
            .iter()
            .map(|counter| counter.dropped_lines() as u64)
            .sum()
    }
}

/// Starts logging for the whole process.
///
/// # Errors
/// [`LogError::File`] when the file cannot be written, [`LogError::Twice`] when called again.
pub fn init(config: &LogConfig) -> Result<LogGuard, LogError> {
    let is_terminal = io::stderr().is_terminal();
    let (subscriber, guard) = subscriber(config, io::stderr(), is_terminal)?;
    subscriber.try_init().map_err(|_| LogError::Twice)?;
    Ok(guard)
}

/// What [`init`] installs, writing to `writer` in place of standard error.
fn subscriber(
    config: &LogConfig,
    writer: impl io::Write + Send + 'static,
    is_terminal: bool,
) -> Result<(impl Subscriber + Send + Sync, LogGuard), LogError> {
    let as_json = match config.format {
        LogFormat::Auto => !is_terminal,
        LogFormat::Text => false,
        LogFormat::Json => true,
    };
    let (stderr, worker) = queue("log-stderr", writer);
    let mut guard = LogGuard {
        counters: vec![stderr.error_counter()],
        _workers: vec![worker],
    };
    let stderr_layer = match as_json {
        true => json_layer(stderr),
        false => tracing_subscriber::fmt::layer()
            .with_writer(stderr)
            .with_timer(Rfc3339)
            .with_ansi(is_terminal)
            .with_target(false)
            .boxed(),
    };
    let file_layer = match &config.file {
        Some(path) => {
            let (file, worker) = queue("log-file", open(path, config.rotate)?);
            guard.counters.push(file.error_counter());
            guard._workers.push(worker);
            Some(json_layer(file))
        }
        None => None,
    };
    let subscriber = tracing_subscriber::registry()
        .with(stderr_layer)
        .with(file_layer)
        .with(filter(config.level));
    Ok((subscriber, guard))
}

fn queue(name: &str, writer: impl io::Write + Send + 'static) -> (NonBlocking, WorkerGuard) {
    NonBlockingBuilder::default()
        .buffered_lines_limit(LINES_WAITING_MAX)
        .lossy(true)
        .thread_name(name)
        .finish(writer)
}

fn json_layer<S>(writer: NonBlocking) -> Box<dyn Layer<S> + Send + Sync>
where
    S: Subscriber + for<'a> tracing_subscriber::registry::LookupSpan<'a>,
{
    tracing_subscriber::fmt::layer()
        .json()
        .flatten_event(true)
        .with_current_span(false)
        .with_span_list(false)
        .with_writer(writer)
        .with_timer(Rfc3339)
        .boxed()
}

fn open(path: &Path, rotate: LogRotation) -> Result<Rolling<fn() -> Timestamp>, LogError> {
    Rolling::open(path, rotate, Timestamp::now as fn() -> Timestamp).map_err(|error| {
        LogError::File {
            path: path.to_owned(),
            why: error.to_string(),
        }
    })
}

/// The configured level for our own words. The libraries' daily business is shown only to those who look for a fault:
/// openraft tells of every step of every start at `info`.
fn filter(configured: LogLevel) -> Targets {
    let own = level(configured);
    let libraries = match configured {
        LogLevel::Debug | LogLevel::Trace => own,
        _ => own.min(LevelFilter::WARN),
    };
    Targets::new()
        .with_default(libraries)
        .with_target("sidekick", own)
}

fn level(level: LogLevel) -> LevelFilter {
    match level {
        LogLevel::Off => LevelFilter::OFF,
        LogLevel::Error => LevelFilter::ERROR,
        LogLevel::Warn => LevelFilter::WARN,
        LogLevel::Info => LevelFilter::INFO,
        LogLevel::Debug => LevelFilter::DEBUG,
        LogLevel::Trace => LevelFilter::TRACE,
    }
}

/// The wall clock as `2026-11-22T12:00:00.123456Z`.
struct Rfc3339;

impl FormatTime for Rfc3339 {
    fn format_time(&self, w: &mut Writer<'_>) -> fmt::Result {
        write!(w, "{:.6}", jiff::Timestamp::now())
    }
}

#[cfg(test)]
mod tests {
    use std::sync::mpsc;
    use std::time::{Duration, Instant};

    use super::*;

    fn config(file: Option<PathBuf>) -> LogConfig {
        LogConfig {
            level: LogLevel::Info,
            format: LogFormat::Auto,
            file,
            rotate: LogRotation::Never,
        }
    }

    /// A reader that sleeps: each write blocks until the test drops its end.
    struct Stuck(mpsc::Receiver<()>);

    impl io::Write for Stuck {
        fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
            let _ = self.0.recv();
            Ok(bytes.len())
        }
        fn flush(&mut self) -> io::Result<()> {
            Ok(())
        }
    }

    #[test]
    fn the_file_gets_json_lines_from_the_level_on() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("sidekick.log");
        let (subscriber, guard) =
            subscriber(&config(Some(path.clone())), io::sink(), true).unwrap();
        tracing::subscriber::with_default(subscriber, || {
            tracing::debug!("below the level");
            tracing::warn!(silent_ms = 5100, "engine hung");
        });
        drop(guard);
        let text = std::fs::read_to_string(path).unwrap();
        let line: serde_json::Value = serde_json::from_str(&text).expect("exactly one line");
        assert_eq!(line["message"], "engine hung");
        assert_eq!(line["silent_ms"], 5100);
        assert_eq!(line["level"], "WARN");
        let time: jiff::Timestamp = line["timestamp"].as_str().unwrap().parse().unwrap();
        assert!(time.duration_until(jiff::Timestamp::now()).as_secs() < 60);
    }

    /// More lines than may wait, into a writer that never returns: nothing waits, and the end comes all the same.
    #[test]
    fn a_stuck_reader_blocks_nobody_and_the_lost_lines_are_counted() {
        let (release, stuck) = mpsc::channel();
        let (subscriber, guard) = subscriber(&config(None), Stuck(stuck), false).unwrap();
        let begun = Instant::now();
        tracing::subscriber::with_default(subscriber, || {
            for line in 0..LINES_WAITING_MAX + 100 {
                tracing::info!(line, "x");
            }
        });
        assert!(guard.lines_dropped() >= 99, "{}", guard.lines_dropped());
        drop(guard);
        assert!(
            begun.elapsed() < Duration::from_secs(30),
            "bounded, not for ever"
        );
        drop(release);
    }

    #[test]
    fn a_file_that_cannot_be_written_is_one_clear_error() {
        let folder = tempfile::tempdir().unwrap();
        std::fs::write(folder.path().join("a"), "").unwrap();
        let file = Some(folder.path().join("a/sidekick.log"));
        let error = subscriber(&config(file), io::sink(), false).err().unwrap();
        let words = error.to_string();
        assert!(
            words.contains("sidekick.log") && words.contains("change [log] file"),
            "{words}"
        );
    }
}
