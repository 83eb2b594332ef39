//! `[log]`: what the watchdog itself tells, and where.

use std::path::PathBuf;

use super::reader::{Pass, any};
use super::value::keywords;

keywords! {
    /// The least severe messages that are kept.
    pub enum LogLevel {
        /// Nothing.
        Off = "off",
        /// What needs somebody.
        Error = "error",
        /// What may need somebody.
        Warn = "warn",
        /// What happened.
        Info = "info",
        /// How it happened.
        Debug = "debug",
        /// Every step.
        Trace = "trace",
    }
}

keywords! {
    /// How messages are written.
    pub enum LogFormat {
        /// Text on a terminal, JSON elsewhere.
        Auto = "auto",
        /// One line of text each.
        Text = "text",
        /// One JSON object a line.
        Json = "json",
    }
}

keywords! {
    /// When a new log file is begun.
    pub enum LogRotation {
        /// Never.
        Never = "never",
        /// At midnight UTC.
        Daily = "daily",
        /// Each hour.
        Hourly = "hourly",
    }
}

/// What the watchdog itself tells, and where.
#[derive(Clone, Debug)]
pub struct LogConfig {
    /// The least severe messages that are kept.
    pub level: LogLevel,
    /// How messages are written to standard error; a file is always JSON.
    pub format: LogFormat,
    /// Also write to this file.
    pub file: Option<PathBuf>,
    /// When a new file is begun.
    pub rotate: LogRotation,
}

impl LogConfig {
    pub(super) fn read(pass: &mut Pass<'_>) -> Self {
        let mut section = pass.section("log");
        let config = Self {
            level: section.get(
                "level",
                LogLevel::Info,
                "\"error\", \"warn\", \"info\", \"debug\", \"trace\" or \"off\".",
                any,
            ),
            format: section.get(
                "format",
                LogFormat::Auto,
                "\"text\", \"json\", or \"auto\": text on a terminal, JSON lines elsewhere.",
                any,
            ),
            file: section.optional_path(
                "file",
                "\"sidekick.log\"",
                "Also write JSON lines to this file; with rotation, the date is added to its name.",
            ),
            rotate: section.get(
                "rotate",
                LogRotation::Daily,
                "When a new log file is begun: \"never\", \"daily\" or \"hourly\"; the last 14 are kept.",
                any,
            ),
        };
        section.finish();
        config
    }
}
