//! What engines printed, for status, reports and `logs`: the last lines in memory, older ones from the files, new ones
//! as they come.

use std::fs::File;
use std::io;
use std::path::PathBuf;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use tokio::sync::broadcast::{self, error::RecvError};

use super::super::tail::{LastLines, cut_lines};
use super::pieces::{live_path, pieces};
use super::spool::KEPT_BEHIND;
use crate::log_line::LogLine;
use crate::platform::read_at;

/// Lines that a follower may be behind; beyond it the oldest are skipped and counted.
const FOLLOWED_MAX: usize = 1024;
/// So much is read back from files at most.
const READ_BACK_BYTES_MAX: usize = 32 << 20;
const READ_BACK_STEP: usize = 256 * 1024;
/// How often a file is read again that was given up meanwhile.
const TRIES: usize = 3;

/// The lines in memory and those who follow them.
#[derive(Debug)]
pub(super) struct Lines {
    last: LastLines,
    followers: broadcast::Sender<LogLine>,
}

/// Reads the engines' output from any thread; cheap to clone.
#[derive(Clone, Debug)]
pub struct EngineLog {
    /// Held for a push or a copy, never while a file is touched.
    lines: Arc<Mutex<Lines>>,
    kept: PathBuf,
    live: PathBuf,
}

/// What a follower gets.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Followed {
    /// The next line.
    Line(LogLine),
    /// It was too slow: so many lines were skipped. They are in the files.
    Skipped(u64),
}

/// New lines, in order.
#[derive(Debug)]
pub struct Follower {
    lines: broadcast::Receiver<LogLine>,
    incarnation: Option<u32>,
}

impl Follower {
    /// The next line, waited for; `None` = there will be no more.
    pub async fn next(&mut self) -> Option<Followed> {
        loop {
            match self.lines.recv().await {
                Ok(line) => {
                    let is_wanted = self
                        .incarnation
                        .is_none_or(|wanted| wanted == line.incarnation);
                    if is_wanted {
                        return Some(Followed::Line(line));
                    }
                }
                Err(RecvError::Lagged(lines)) => return Some(Followed::Skipped(lines)),
                Err(RecvError::Closed) => return None,
            }
        }
    }
}

impl EngineLog {
    pub(super) fn new(lines_kept: usize, kept: PathBuf, live: PathBuf) -> Self {
        Self {
            lines: Arc::new(Mutex::new(Lines {
                last: LastLines::new(lines_kept),
                followers: broadcast::Sender::new(FOLLOWED_MAX),
            })),
            kept,
            live,
        }
    }

    /// The next line came.
    pub(super) fn push(&self, line: LogLine) {
        let mut lines = self.lock();
        if lines.followers.receiver_count() > 0 {
            let _ = lines.followers.send(line.clone());
        }
        lines.last.push(line);
    }

    /// The last lines of one incarnation (`None`: of all) that are in memory, oldest first.
    pub fn last_lines(&self, incarnation: Option<u32>) -> Vec<LogLine> {
        self.lock().last.of(incarnation)
    }

    /// The last lines in memory, at most `lines_max`, and what comes after them: none is missing or doubled in between.
    pub fn follow(&self, incarnation: Option<u32>, lines_max: usize) -> (Vec<LogLine>, Follower) {
        let lines = self.lock();
        let mut last = lines.last.of(incarnation);
        let follower = Follower {
            lines: lines.followers.subscribe(),
            incarnation,
        };
        drop(lines);
        (
            last.split_off(last.len().saturating_sub(lines_max)),
            follower,
        )
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
        let mut sections = Vec::new();
        let mut end = 0;
        for piece in pieces(&self.kept)? {
            if piece.launch == incarnation {
                end = piece.end();
                match File::open(&piece.path) {
                    Ok(file) => sections.push((file, 0, piece.bytes)),
                    // Deleted meanwhile, and so was everything before it.
                    Err(error) if error.kind() == io::ErrorKind::NotFound => sections.clear(),
                    Err(error) => return Err(error),
                }
            }
        }
        // What is not copied yet is still in memory.
        match File::open(live_path(&self.live, incarnation)) {
            Ok(file) => {
                let length = file.metadata()?.len();
                sections.push((file, end, length.max(end)));
            }
            Err(error) if error.kind() == io::ErrorKind::NotFound => {}
            Err(error) => return Err(error),
        }
        let text = last_bytes(&sections, lines_max)?;
        let is_moved = pieces(&self.kept)?
            .iter()
            .rfind(|piece| piece.launch == incarnation)
            .is_some_and(|piece| piece.end() > end + KEPT_BEHIND);
        if is_moved {
            return Ok(None);
        }
        let mut lines = cut_lines(&text, incarnation);
        Ok(Some(lines.split_off(lines.len().saturating_sub(lines_max))))
    }

    fn lock(&self) -> MutexGuard<'_, Lines> {
        // What is behind this mutex is whole between any two statements.
        self.lines.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// The end of these parts of files, from the beginning of a line, with at least `lines_max` lines if there are so many.
fn last_bytes(sections: &[(File, u64, u64)], lines_max: usize) -> io::Result<Vec<u8>> {
    // From the end to the front, turned round at the end.
    let mut chunks: Vec<Vec<u8>> = Vec::new();
    let (mut bytes, mut line_ends) = (0, 0);
    let mut is_whole = true;
    'sections: for (file, from, to) in sections.iter().rev() {
        let mut end = *to;
        while end > *from {
            if line_ends > lines_max || bytes >= READ_BACK_BYTES_MAX {
                is_whole = false;
                break 'sections;
            }
            let begin = end.saturating_sub(READ_BACK_STEP as u64).max(*from);
            let mut chunk = vec![0; usize::try_from(end - begin).unwrap_or(READ_BACK_STEP)];
            let mut read = 0;
            while read < chunk.len() {
                match read_at(file, &mut chunk[read..], begin + read as u64)? {
                    0 => break,
                    more => read += more,
                }
            }
            chunk.truncate(read);
            line_ends += chunk.iter().filter(|&&byte| byte == b'\n').count();
            bytes += chunk.len();
            chunks.push(chunk);
            end = begin;
        }
    }
    chunks.reverse();
    let mut text = chunks.concat();
    if !is_whole {
        // It begins in the middle of a line.
        let line = text.iter().position(|&byte| byte == b'\n');
        text.drain(..line.map_or(0, |at| at + 1));
    }
    Ok(text)
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
        EngineLog::new(10, kept, live)
    }

    fn line(incarnation: u32, text: &str) -> LogLine {
        LogLine {
            incarnation,
            text: text.to_owned(),
            ..LogLine::default()
        }
    }

    fn texts(lines: &[LogLine]) -> Vec<&str> {
        lines.iter().map(|line| line.text.as_str()).collect()
    }

    /// Follows while lines come, and checks that what was there and what came after are all lines, once.
    #[tokio::test]
    async fn a_follower_misses_and_doubles_no_line() {
        let dir = tempfile::tempdir().expect("temporary folder");
        let log = log(dir.path());
        for n in 0..20 {
            log.push(line(n % 2, &n.to_string()));
        }
        let (last, mut follower) = log.follow(Some(1), 3);
        assert_eq!(texts(&last), ["15", "17", "19"]);
        for n in 20..24 {
            log.push(line(n % 2, &n.to_string()));
        }
        assert_eq!(follower.next().await, Some(Followed::Line(line(1, "21"))));
        assert_eq!(follower.next().await, Some(Followed::Line(line(1, "23"))));
        for _ in 0..FOLLOWED_MAX + 5 {
            log.push(line(1, "x"));
        }
        assert_eq!(follower.next().await, Some(Followed::Skipped(5)));
        drop(log);
        let mut left = 0;
        while let Some(next) = follower.next().await {
            assert_eq!(next, Followed::Line(line(1, "x")));
            left += 1;
        }
        assert_eq!(left, FOLLOWED_MAX);
    }

    /// Puts one output in pieces and a live file, cut at every place, and reads it back.
    #[test]
    fn older_lines_are_read_over_all_files() {
        let dir = tempfile::tempdir().expect("temporary folder");
        let log = log(dir.path());
        let text = "one\ntwo\nthree\nfour\nfive";
        fs::write(live_path(&log.live, 1), text).expect("written");
        assert_eq!(texts(&log.read_back(1, 2).expect("read")), ["four", "five"]);
        for first in 1..text.len() {
            fs::write(piece_path(&log.kept, 1, 0), &text[..first]).expect("written");
            let second = text.len() - first;
            let path = piece_path(&log.kept, 1, first as u64);
            fs::write(&path, &text[first..first + second / 2]).expect("written");
            let lines = log.read_back(1, 100).expect("read");
            assert_eq!(texts(&lines), ["one", "two", "three", "four", "five"]);
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
        fs::write(piece_path(&log.kept, 1, 0), &text).expect("written");
        let lines = log.read_back(1, 5).expect("read");
        assert_eq!(texts(&lines), ["0123456789"; 5]);
        assert_eq!(log.read_back(1, 150_000).expect("read").len(), 150_000);
    }
}
