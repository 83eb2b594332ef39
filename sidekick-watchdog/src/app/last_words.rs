//! What an engine printed last, for the log: it ended before the game ran, so nobody else heard it.

use std::fs::File;
use std::io::{Read, Seek, SeekFrom};
use std::path::{Path, PathBuf};

use tracing::warn;

/// Enough for a screen of errors.
const BYTES_MAX: u64 = 4096;
const LINES_MAX: usize = 6;

/// Logs the last lines of an engine's output; reads them on a thread that may block.
pub(super) fn quote(incarnation: u32, log: PathBuf) {
    tokio::task::spawn_blocking(move || {
        let output = last_lines(&log).unwrap_or_else(|error| format!("(unreadable: {error})"));
        warn!(
            incarnation,
            output,
            log = %log.display(),
            "the engine ended before the game ran; is the project's folder right (--path), and has it a main scene \
             that loads? Its last words are quoted here"
        );
    });
}

fn last_lines(log: &Path) -> std::io::Result<String> {
    let mut file = File::open(log)?;
    let length = file.metadata()?.len();
    file.seek(SeekFrom::Start(length.saturating_sub(BYTES_MAX)))?;
    let mut bytes = Vec::new();
    file.take(BYTES_MAX).read_to_end(&mut bytes)?;
    let text = String::from_utf8_lossy(&bytes);
    let lines: Vec<&str> = text.lines().map(str::trim).collect();
    let lines = lines.into_iter().filter(|line| !line.is_empty());
    let mut last: Vec<&str> = lines.rev().take(LINES_MAX).collect();
    last.reverse();
    Ok(last.join(" | "))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_last_lines_of_a_long_output_are_quoted() {
        let dir = tempfile::tempdir().expect("a folder");
        let log = dir.path().join("engine.log");
        std::fs::write(
            &log,
            format!("{}\nERROR: no scene\n\n  at: main\n", "x".repeat(9000)),
        )
        .expect("written");
        let quoted = last_lines(&log).expect("readable");
        assert!(quoted.ends_with("ERROR: no scene | at: main"), "{quoted}");
    }
}
