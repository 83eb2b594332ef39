//! What engines printed, for status, reports and `logs`: the last lines in memory, older ones from the files, new ones
//! as they come.

use std::fs::File;
use std::io;
use std::path::PathBuf;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use tokio::sync::watch;

use super::super::tail::{LastLines, LineCutter};
use super::follower::Follower;
use super::pieces::{live_path, pieces};
use super::spool::KEPT_BEHIND;
use crate::log_line::{LogLine, LogPosition};
use crate::platform::read_at;

/// So much is read back from files at most.
const READ_BACK_BYTES_MAX: usize = 32 << 20;
const READ_BACK_STEP: usize = 256 * 1024;
/// How often a file is read again that was given up meanwhile.
const TRIES: usize = 3;

/// The lines in memory, and how far they go.
#[derive(Debug)]
pub(super) struct Lines {
    pub(super) last: LastLines,
    pub(super) known: Known,
    /// Told of each change.
    changed: watch::Sender<()>,
}

/// How far the output is known.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Known {
    /// Everything before it was read, or was there before we came.
    pub(super) at: LogPosition,
    /// That incarnation is dead and read to its end; those before it are anyway.
    pub(super) is_over: bool,
}

/// Reads the engines' output from any thread; cheap to clone.
#[derive(Clone, Debug)]
pub struct EngineLog {
    /// Held for a push or a copy, never while a file is touched.
    lines: Arc<Mutex<Lines>>,
    pub(super) files: Files,
}

/// Where the output lies.
#[derive(Clone, Debug)]
pub(super) struct Files {
    pub(super) kept: PathBuf,
    pub(super) live: PathBuf,
}

impl EngineLog {
    /// `used`: the highest launch number that may have been used before; `running`: the one that is about to be adopted.
    pub(super) fn new(lines_kept: usize, files: Files, used: u32, running: Option<u32>) -> Self {
        let live_bytes = |launch| {
            let found = std::fs::metadata(live_path(&files.live, launch));
            found.map_or(0, |found| found.len())
        };
        let at = LogPosition {
            incarnation: running.unwrap_or(used),
            offset: running.map_or(u64::MAX, live_bytes),
        };
        let is_over = running.is_none();
        Self {
            lines: Arc::new(Mutex::new(Lines {
                last: LastLines::new(lines_kept),
                known: Known { at, is_over },
                changed: watch::Sender::new(()),
            })),
            files,
        }
    }

    /// From now on this incarnation's output is read, from `offset` on.
    pub(super) fn begin(&self, incarnation: u32, offset: u64) {
        self.change(|lines| {
            let at = LogPosition {
                incarnation,
                offset,
            };
            lines.known.at = lines.known.at.max(at);
            lines.known.is_over = false;
        });
    }

    /// It is dead, and everything that it printed was pushed.
    pub(super) fn end(&self) {
        self.change(|lines| lines.known.is_over = true);
    }

    /// The next line came.
    pub(super) fn push(&self, line: LogLine) {
        self.change(|lines| {
            lines.known.at = lines.known.at.max(line.position());
            lines.last.push(line);
        });
    }

    fn change(&self, change: impl FnOnce(&mut Lines)) {
        let mut lines = self.lock();
        change(&mut lines);
        if lines.changed.receiver_count() > 0 {
            lines.changed.send_replace(());
        }
    }

    /// The last lines of one incarnation (`None`: of all) that are in memory, oldest first.
    pub fn last_lines(&self, incarnation: Option<u32>) -> Vec<LogLine> {
        self.lock().last.of(incarnation)
    }

    /// The last lines in memory, at most `lines_max`, and what comes after them: none is missing or doubled in between.
    /// With `after`, instead of the last lines, all that come after that place; a place beyond all that we know of is of
    /// another data directory and counts as none.
    pub fn follow(
        &self,
        incarnation: Option<u32>,
        lines_max: usize,
        after: Option<LogPosition>,
    ) -> (Vec<LogLine>, Follower) {
        let lines = self.lock();
        let at = lines.known.at;
        let after = after.filter(|after| after.incarnation <= at.incarnation);
        let last = match after {
            Some(_) => Vec::new(),
            None => {
                let mut last = lines.last.of(incarnation);
                last.split_off(last.len().saturating_sub(lines_max))
            }
        };
        let follower = Follower::new(
            Arc::downgrade(&self.lines),
            self.files.clone(),
            lines.changed.subscribe(),
            incarnation,
            after.unwrap_or(at),
        );
        (last, follower)
    }

    /// The last `lines_max` lines of one incarnation, oldest first, read from its files as far back as they are kept, at
    /// most 32 MiB. Blocks on the disk.
    ///
    /// # Errors
    /// What the system said. No file of it is an empty answer.
    pub fn read_back(&self, incarnation: u32, lines_max: usize) -> io::Result<Vec<LogLine>> {
        let mut tries = 0;
        loop {
            tries += 1;
            if let Some(lines) = self.try_read_back(incarnation, lines_max)? {
                return Ok(lines);
            }
            if tries == TRIES {
                return Ok(Vec::new());
            }
        }
    }

    /// `None`: what it read was moved under its hands.
    fn try_read_back(
        &self,
        incarnation: u32,
        lines_max: usize,
    ) -> io::Result<Option<Vec<LogLine>>> {
        // Before the pieces: once it is gone they are complete.
        let live = match File::open(live_path(&self.files.live, incarnation)) {
            Ok(file) => Some(file),
            Err(error) if error.kind() == io::ErrorKind::NotFound => None,
            Err(error) => return Err(error),
        };
        let mut sections = Vec::new();
        let mut end = 0;
        for piece in pieces(&self.files.kept)? {
            if piece.launch == incarnation {
                end = piece.end();
                match File::open(&piece.path) {
                    Ok(file) => sections.push(Section {
                        file,
                        start: piece.start,
                        from: 0,
                        to: piece.bytes,
                    }),
                    // Deleted meanwhile, and so was everything before it.
                    Err(error) if error.kind() == io::ErrorKind::NotFound => sections.clear(),
                    Err(error) => return Err(error),
                }
            }
        }
        // What is not copied yet is still in memory.
        if let Some(file) = live {
            let length = file.metadata()?.len();
            sections.push(Section {
                file,
                start: 0,
                from: end,
                to: length.max(end),
            });
        }
        let (chunks, is_whole) = last_bytes(&sections, lines_max)?;
        let is_moved = pieces(&self.files.kept)?
            .iter()
            .rfind(|piece| piece.launch == incarnation)
            .is_some_and(|piece| piece.end() > end + KEPT_BEHIND);
        if is_moved {
            return Ok(None);
        }
        let begin = chunks.first().map_or(0, |(place, _)| *place);
        let mut cutter = LineCutter::new(incarnation, begin, !is_whole);
        let mut lines = Vec::new();
        for (place, chunk) in &chunks {
            cutter.jump(*place);
            cutter.push(chunk, &mut |line| lines.push(line));
        }
        cutter.end(&mut |line| lines.push(line));
        Ok(Some(lines.split_off(lines.len().saturating_sub(lines_max))))
    }

    fn lock(&self) -> MutexGuard<'_, Lines> {
        lock(&self.lines)
    }
}

pub(super) fn lock(lines: &Mutex<Lines>) -> MutexGuard<'_, Lines> {
    // What is behind this mutex is whole between any two statements.
    lines.lock().unwrap_or_else(PoisonError::into_inner)
}

/// A part of a file that holds output.
struct Section {
    file: File,
    /// The place of the file's first byte in the whole output.
    start: u64,
    from: u64,
    to: u64,
}

/// Bytes with the place of the first.
type Chunk = (u64, Vec<u8>);

/// The end of these parts of files, with at least `lines_max` lines if there are so many, in chunks with their places;
/// and whether it is all of them. If not, it begins in the middle of a line.
fn last_bytes(sections: &[Section], lines_max: usize) -> io::Result<(Vec<Chunk>, bool)> {
    // From the end to the front, turned round at the end.
    let mut chunks = Vec::new();
    let (mut bytes, mut line_ends) = (0, 0);
    let mut is_whole = true;
    'sections: for section in sections.iter().rev() {
        let mut end = section.to;
        while end > section.from {
            if line_ends > lines_max || bytes >= READ_BACK_BYTES_MAX {
                is_whole = false;
                break 'sections;
            }
            let begin = end.saturating_sub(READ_BACK_STEP as u64).max(section.from);
            let mut chunk = vec![0; usize::try_from(end - begin).unwrap_or(READ_BACK_STEP)];
            let mut read = 0;
            while read < chunk.len() {
                match read_at(&section.file, &mut chunk[read..], begin + read as u64)? {
                    0 => break,
                    more => read += more,
                }
            }
            chunk.truncate(read);
            line_ends += chunk.iter().filter(|&&byte| byte == b'\n').count();
            bytes += chunk.len();
            chunks.push((section.start + begin, chunk));
            end = begin;
        }
    }
    chunks.reverse();
    Ok((chunks, is_whole))
}

#[cfg(test)]
mod tests {
    use std::fs;

    use super::super::pieces::piece_path;
    use super::*;

    fn log(dir: &std::path::Path) -> EngineLog {
        let (kept, live) = (dir.join("kept"), dir.join("live"));
        fs::create_dir(&kept).expect("made");
        fs::create_dir(&live).expect("made");
        EngineLog::new(10, Files { kept, live }, 0, None)
    }

    fn texts(lines: &[LogLine]) -> Vec<&str> {
        lines.iter().map(|line| line.text.as_str()).collect()
    }

    /// Puts one output in pieces and a live file, cut at every place, and reads it back.
    #[test]
    fn older_lines_are_read_over_all_files() {
        let dir = tempfile::tempdir().expect("temporary folder");
        let log = log(dir.path());
        let text = "one\ntwo\nthree\nfour\nfive";
        fs::write(live_path(&log.files.live, 1), text).expect("written");
        assert_eq!(texts(&log.read_back(1, 2).expect("read")), ["four", "five"]);
        for first in 1..text.len() {
            fs::write(piece_path(&log.files.kept, 1, 0), &text[..first]).expect("written");
            let second = text.len() - first;
            let path = piece_path(&log.files.kept, 1, first as u64);
            fs::write(&path, &text[first..first + second / 2]).expect("written");
            let lines = log.read_back(1, 100).expect("read");
            assert_eq!(texts(&lines), ["one", "two", "three", "four", "five"]);
            let ends: Vec<u64> = lines.iter().map(|line| line.end).collect();
            assert_eq!(ends, [4, 8, 14, 19, 23]);
            let lines = log.read_back(1, 1).expect("read");
            assert_eq!(texts(&lines), ["five"]);
            fs::remove_file(path).expect("removed");
        }
        assert!(log.read_back(2, 100).expect("read").is_empty());
    }

    #[test]
    fn reading_back_is_bounded() {
        let dir = tempfile::tempdir().expect("temporary folder");
        let log = log(dir.path());
        let text = "0123456789\n".repeat(200_000);
        fs::write(piece_path(&log.files.kept, 1, 0), &text).expect("written");
        let lines = log.read_back(1, 5).expect("read");
        assert_eq!(texts(&lines), ["0123456789"; 5]);
        assert_eq!(log.read_back(1, 150_000).expect("read").len(), 150_000);
    }
}
