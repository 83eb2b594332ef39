//! One line of an engine's output, as supervisor, reports, API and command line share it.

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
}
