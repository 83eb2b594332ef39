//! What an engine printed last, for the log: it ended before the game ran, so nobody else heard it.

use std::path::PathBuf;

use tracing::warn;

use crate::log_line::LogLine;
use crate::supervisor::output::EngineLog;

/// Enough for a screen of errors.
const LINES_MAX: usize = 6;
/// Lines read, empty ones included.
const LINES_READ_MAX: usize = 64;

/// Logs the last lines of an engine's output (kept in `log`); reads them on a thread that may block.
pub(super) fn quote(incarnation: u32, log: PathBuf, engine_log: EngineLog) {
    tokio::task::spawn_blocking(move || {
        let output = engine_log
            .read_back(incarnation, LINES_READ_MAX)
            .map_or_else(
                |error| format!("(unreadable: {error})"),
                |lines| last_lines(&lines),
            );
        warn!(
            incarnation,
            output,
            log = %log.display(),
            "the engine ended before the game ran; is the project's folder right (--path), and has it a main scene \
             that loads? What it printed last is in `output`"
        );
    });
}

fn last_lines(lines: &[LogLine]) -> String {
    let lines = lines.iter().map(|line| line.text.trim());
    let lines = lines.filter(|line| !line.is_empty());
    let mut last: Vec<&str> = lines.rev().take(LINES_MAX).collect();
    last.reverse();
    last.join(" | ")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_last_lines_of_a_long_output_are_quoted() {
        let line = |text: &str| LogLine {
            text: text.to_owned(),
            ..LogLine::default()
        };
        let mut lines = vec![line("x"); 9000];
        lines.extend([
            line("ERROR: no scene"),
            line(""),
            line("  at: main"),
            line(""),
        ]);
        let quoted = last_lines(&lines);
        assert!(
            quoted.ends_with("x | ERROR: no scene | at: main"),
            "{quoted}"
        );
    }
}
