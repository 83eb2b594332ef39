//! Engine output, line by line.
//!
//! Turns the bytes of an engine's log file into [`LogLine`]s with bounded memory, and keeps the last of them.

use std::collections::VecDeque;
use std::fs::File;
use std::io;
use std::path::Path;

use crate::crash::parse::level;
pub use crate::log_line::{LogLevel, LogLine, LogPosition};
use crate::platform::read_at;

/// Longer lines are cut here; the rest of them is dropped and `cut` says so.
pub const LINE_BYTES_MAX: usize = 8 * 1024;
/// So much of an adopted engine's earlier output is looked at.
const REPLAY_BYTES_MAX: u64 = 64 * 1024;
const READ_BYTES: usize = 32 * 1024;

/// Cuts a stream of bytes into lines.
#[derive(Debug)]
pub struct LineCutter {
    incarnation: u32,
    partial: Vec<u8>,
    overlong: bool,
    last_level: LogLevel,
    /// The place of the next byte, and of the line that it belongs to.
    at: u64,
    line_start: u64,
    /// What comes first is the rest of a line whose beginning we do not have.
    skips_first: bool,
}

impl LineCutter {
    /// A cutter whose first byte is the one at `at` of the incarnation's output; `skips_first`: in the middle of a line,
    /// of which nothing is handed out.
    pub fn new(incarnation: u32, at: u64, skips_first: bool) -> Self {
        Self {
            incarnation,
            partial: Vec::new(),
            overlong: false,
            last_level: LogLevel::Info,
            at,
            line_start: at,
            skips_first,
        }
    }

    /// What comes next lies at this place.
    pub fn jump(&mut self, at: u64) {
        if self.partial.is_empty() {
            self.line_start = at;
        }
        self.at = at;
    }

    /// Takes the next bytes and hands out the lines that end in them.
    pub fn push(&mut self, mut bytes: &[u8], out: &mut impl FnMut(LogLine)) {
        while let Some(end) = bytes.iter().position(|&byte| byte == b'\n') {
            self.append(&bytes[..end]);
            self.at += 1;
            self.finish(out);
            bytes = &bytes[end + 1..];
        }
        self.append(bytes);
    }

    fn append(&mut self, bytes: &[u8]) {
        let room = LINE_BYTES_MAX - self.partial.len();
        self.partial
            .extend_from_slice(&bytes[..bytes.len().min(room)]);
        self.overlong |= bytes.len() > room;
        self.at += bytes.len() as u64;
    }

    fn finish(&mut self, out: &mut impl FnMut(LogLine)) {
        let start = std::mem::replace(&mut self.line_start, self.at);
        let cut = std::mem::take(&mut self.overlong);
        if std::mem::take(&mut self.skips_first) {
            self.partial.clear();
            return;
        }
        let text = String::from_utf8_lossy(&self.partial);
        let text = text.strip_suffix('\r').unwrap_or(&text).to_owned();
        let level = level(&text, self.last_level);
        self.last_level = level;
        self.partial.clear();
        out(LogLine {
            incarnation: self.incarnation,
            level,
            text,
            cut,
            end: self.at,
            start,
        });
    }

    /// The last line has no end: the engine died in the middle of it.
    pub fn end(&mut self, out: &mut impl FnMut(LogLine)) {
        if !self.partial.is_empty() {
            self.finish(out);
        }
    }
}

/// Follows one growing file.
#[derive(Debug)]
pub struct Tail {
    file: File,
    /// Lines that end before this were written before we came.
    fresh_from: u64,
    cutter: LineCutter,
}

impl Tail {
    /// Follows `path` from its start, or, for an engine that was adopted, from its last 64 KiB.
    ///
    /// # Errors
    /// The file cannot be opened.
    pub fn open(path: &Path, incarnation: u32, adopted: bool) -> io::Result<Self> {
        let file = File::open(path)?;
        let length = file.metadata()?.len();
        let (offset, fresh_from) = if adopted {
            (length.saturating_sub(REPLAY_BYTES_MAX), length)
        } else {
            (0, 0)
        };
        Ok(Self {
            file,
            fresh_from,
            cutter: LineCutter::new(incarnation, offset, offset > 0),
        })
    }

    /// How far it was read.
    pub fn offset(&self) -> u64 {
        self.cutter.at
    }

    /// Reads what was written since, at most `bytes_max`; returns whether there may be more.
    ///
    /// `out` gets each line, and whether it is new since we came.
    ///
    /// # Errors
    /// What the system said.
    pub fn read(
        &mut self,
        bytes_max: usize,
        mut out: impl FnMut(LogLine, bool),
    ) -> io::Result<bool> {
        let mut chunk = [0_u8; READ_BYTES];
        let mut taken = 0;
        while taken < bytes_max {
            let bytes = read_at(&self.file, &mut chunk, self.cutter.at)?;
            if bytes == 0 {
                return Ok(false);
            }
            taken += bytes;
            let fresh_from = self.fresh_from;
            self.cutter.push(&chunk[..bytes], &mut |line| {
                let is_new = line.end > fresh_from;
                out(line, is_new);
            });
        }
        Ok(true)
    }

    /// The engine is dead: whatever stands there without a line end is its last line.
    pub fn end(&mut self, mut out: impl FnMut(LogLine, bool)) {
        self.cutter.end(&mut |line| out(line, true));
    }
}

/// The last lines of all incarnations; the oldest go first.
#[derive(Debug)]
pub struct LastLines {
    lines: VecDeque<LogLine>,
    lines_max: usize,
}

impl LastLines {
    /// Keeps up to `lines_max` lines (each up to [`LINE_BYTES_MAX`]).
    pub fn new(lines_max: usize) -> Self {
        Self {
            lines: VecDeque::new(),
            lines_max,
        }
    }

    /// Keeps one more.
    pub fn push(&mut self, line: LogLine) {
        self.lines.push_back(line);
        while self.lines.len() > self.lines_max {
            self.lines.pop_front();
        }
    }

    /// The lines kept of one incarnation (`None`: of all), oldest first.
    pub fn of(&self, incarnation: Option<u32>) -> Vec<LogLine> {
        let wanted = |line: &&LogLine| incarnation.is_none_or(|number| line.incarnation == number);
        self.lines.iter().filter(wanted).cloned().collect()
    }

    /// The lines after a place, at most `lines_max`; `None`: there may be others between it and what is kept.
    pub fn after(&self, position: LogPosition, lines_max: usize) -> Option<Vec<LogLine>> {
        let first = self
            .lines
            .partition_point(|line| line.position() <= position);
        let follows = |line: &LogLine| {
            line.incarnation == position.incarnation && line.start <= position.offset
        };
        let is_whole = first > 0 || self.lines.front().is_some_and(follows);
        is_whole.then(|| {
            let lines = self.lines.iter().skip(first).take(lines_max);
            lines.cloned().collect()
        })
    }
}

#[cfg(test)]
mod tests {
    use std::io::Write as _;

    use super::*;

    fn lines_of(chunks: &[&[u8]]) -> Vec<LogLine> {
        let mut cutter = LineCutter::new(7, 0, false);
        let mut lines = Vec::new();
        for chunk in chunks {
            cutter.push(chunk, &mut |line| lines.push(line));
        }
        cutter.end(&mut |line| lines.push(line));
        lines
    }

    #[test]
    fn lines_are_the_same_however_the_bytes_arrive() {
        let text = b"one\ntwo\r\nSCRIPT ERROR: x\n   at: y.gd:3\nlast without end";
        let whole = lines_of(&[text]);
        for line in &whole {
            let (start, end) = (line.start as usize, line.end as usize);
            let own = String::from_utf8_lossy(&text[start..end]);
            assert_eq!(own.trim_end(), line.text);
        }
        for cut in 0..text.len() {
            assert_eq!(
                lines_of(&[&text[..cut], &text[cut..]]),
                whole,
                "cut at {cut}"
            );
        }
        let levels: Vec<_> = whole.iter().map(|line| line.level).collect();
        use LogLevel::{Info, ScriptError};
        assert_eq!(levels, [Info, Info, ScriptError, ScriptError, Info]);
        assert_eq!(whole[1].text, "two");
        assert_eq!(whole[4].text, "last without end");
    }

    #[test]
    fn an_endless_line_takes_bounded_memory() {
        let mut cutter = LineCutter::new(1, 0, false);
        let mut lines = Vec::new();
        for _ in 0..1000 {
            cutter.push(&[b'x'; 4096], &mut |line| lines.push(line));
            assert!(cutter.partial.capacity() <= 2 * LINE_BYTES_MAX);
        }
        cutter.push(b"\nnext\n", &mut |line| lines.push(line));
        assert_eq!(lines.len(), 2);
        assert!(lines[0].cut && lines[0].text.len() == LINE_BYTES_MAX);
        assert!(!lines[1].cut);
    }

    /// The last lines are those after any place that is among them, and no others are taken for them.
    #[test]
    fn lines_after_a_place_are_known_only_where_none_is_missing() {
        let mut last = LastLines::new(2);
        for line in lines_of(&[b"a\nb\nc\n"]) {
            last.push(line);
        }
        let after = |incarnation, offset| {
            let position = LogPosition {
                incarnation,
                offset,
            };
            let lines = last.after(position, 10)?;
            Some(lines.into_iter().map(|line| line.text).collect::<String>())
        };
        assert_eq!(after(7, 0), None, "a is gone");
        assert_eq!(after(6, 9), None);
        assert_eq!(after(7, 2).as_deref(), Some("bc"));
        assert_eq!(after(7, 4).as_deref(), Some("c"));
        assert_eq!(after(7, 6).as_deref(), Some(""));
        assert_eq!(after(8, 0).as_deref(), Some(""));
    }

    #[test]
    fn a_growing_file_is_read_once() {
        let dir = tempfile::tempdir().expect("temporary folder");
        let path = dir.path().join("engine.log");
        let mut file = File::create(&path).expect("made");
        let mut tail = Tail::open(&path, 1, false).expect("opened");
        let mut texts = Vec::new();
        for part in ["a\nb", "c\n", "", "d\n"] {
            file.write_all(part.as_bytes()).expect("written");
            tail.read(usize::MAX, |line, _| texts.push(line.text))
                .expect("read");
        }
        assert_eq!(texts, ["a", "bc", "d"]);
    }

    #[test]
    fn only_the_last_lines_are_kept() {
        let mut last = LastLines::new(2);
        for line in lines_of(&[b"a\nb\nc\n"]) {
            last.push(line);
        }
        let texts: Vec<_> = last.of(Some(7)).into_iter().map(|line| line.text).collect();
        assert_eq!(texts, ["b", "c"]);
        assert!(last.of(Some(1)).is_empty());
    }
}
