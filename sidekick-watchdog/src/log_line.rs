//! One line of an engine's output, as supervisor, reports, API and command line share it.

use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Serialize};

/// How grave a line is, by Godot's prefixes.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum LogLevel {
    /// Plain output.
    #[default]
    Info,
    /// `WARNING:`, `USER WARNING:`.
    Warning,
    /// `ERROR:`, `USER ERROR:`, `SHADER ERROR:`, and the crash handler's text.
    Error,
    /// `SCRIPT ERROR:`, `USER SCRIPT ERROR:`.
    ScriptError,
}

/// One line of an engine's output.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct LogLine {
    /// The engine's incarnation number.
    pub incarnation: u32,
    /// How grave it is; the lines that explain an error (`   at: …`) have its level.
    pub level: LogLevel,
    /// The text without its line end; bytes that are no UTF-8 are replaced.
    pub text: String,
    /// Whether the line was longer than what is kept of one (8 KiB).
    pub cut: bool,
    /// The place after its line end, in bytes from the beginning of the incarnation's whole output.
    pub end: u64,
    /// The place of its first byte.
    #[serde(skip)]
    pub start: u64,
}

impl LogLine {
    /// The place after it.
    pub fn position(&self) -> LogPosition {
        LogPosition {
            incarnation: self.incarnation,
            offset: self.end,
        }
    }
}

/// A place in the output of all incarnations, in the order of their numbers. Every watchdog of one data directory means
/// the same place by it.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
pub struct LogPosition {
    /// The incarnation.
    pub incarnation: u32,
    /// Bytes from the beginning of its whole output.
    pub offset: u64,
}

/// As in the API: `3:4096`.
impl fmt::Display for LogPosition {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}:{}", self.incarnation, self.offset)
    }
}

impl FromStr for LogPosition {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let wrong = || format!("{text:?} is no place in the output; one is \"3:4096\"");
        let (incarnation, offset) = text.split_once(':').ok_or_else(wrong)?;
        Ok(Self {
            incarnation: incarnation.parse().map_err(|_| wrong())?,
            offset: offset.parse().map_err(|_| wrong())?,
        })
    }
}
