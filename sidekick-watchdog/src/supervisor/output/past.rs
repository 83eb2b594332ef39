//! What an engine printed that nobody followed: it died while no watchdog ran.

use std::collections::VecDeque;
use std::path::PathBuf;

use super::pieces::pieces;
use crate::crash::reporter::Collected;
use crate::supervisor::tail::Tail;

/// Where the output of one dead engine lies.
#[derive(Debug)]
pub(super) struct Past {
    pub launch: u32,
    /// The file that it wrote to, until all of it is kept.
    pub live: Option<PathBuf>,
    /// The folder of kept output.
    pub kept: PathBuf,
    /// So many of the last lines go into a report.
    pub lines_max: usize,
}

impl Past {
    /// Reads the end of it. Its copy is being completed meanwhile, after which the live file goes: what is no longer in
    /// the one place is in the other. Blocks on the disk.
    pub(super) fn collect(self) -> Collected {
        let mut collected = Collected::default();
        let live = self.live.as_deref().and_then(|live| {
            let tail = Tail::open(live, self.launch, true).ok()?;
            Some((tail, live.to_owned()))
        });
        let Some((mut tail, path)) = live.or_else(|| self.open_kept()) else {
            return collected;
        };
        let mut lines = VecDeque::new();
        let mut take = |line: crate::log_line::LogLine, _| {
            collected.scan.push(&line);
            lines.push_back(line);
            if lines.len() > self.lines_max {
                lines.pop_front();
            }
        };
        if let Err(error) = tail.read(usize::MAX, &mut take) {
            tracing::warn!(?path, %error, "the output of a dead engine cannot be read to its end");
        }
        tail.end(&mut take);
        collected.lines = lines.into();
        collected
    }

    fn open_kept(&self) -> Option<(Tail, PathBuf)> {
        let pieces = pieces(&self.kept).ok()?;
        let last = pieces
            .into_iter()
            .rfind(|piece| piece.launch == self.launch)?;
        let tail = Tail::open(&last.path, self.launch, true).ok()?;
        Some((tail, last.path))
    }
}

#[cfg(test)]
mod tests {
    use std::fs;

    use super::super::pieces::{live_path, piece_path};
    use super::*;

    const CRASH: &str = include_str!("../../crash/golden/segv.txt");

    #[test]
    fn it_is_read_from_where_it_is() {
        for place in ["live", "kept"] {
            let dir = tempfile::tempdir().expect("temporary folder");
            let kept = dir.path().join("kept");
            fs::create_dir(&kept).expect("made");
            let live = live_path(dir.path(), 7);
            match place {
                "live" => fs::write(&live, CRASH).expect("written"),
                _ => {
                    fs::write(piece_path(&kept, 7, 0), "first\n").expect("written");
                    fs::write(piece_path(&kept, 7, 6), CRASH).expect("written");
                    fs::write(piece_path(&kept, 8, 0), "another\n").expect("written");
                }
            }
            let past = Past {
                launch: 7,
                live: Some(live),
                kept,
                lines_max: 5,
            };
            let collected = past.collect();
            assert_eq!(collected.lines.len(), 5, "{place}");
            assert!(collected.lines.iter().all(|line| line.incarnation == 7));
            let banner = collected.scan.banner().expect("a banner");
            assert_eq!(banner.signal, 11, "{place}");
            assert!(!banner.script_backtrace.is_empty(), "{place}");
        }
    }

    #[test]
    fn of_output_that_is_nowhere_nothing_is_told() {
        let dir = tempfile::tempdir().expect("temporary folder");
        let past = Past {
            launch: 7,
            live: None,
            kept: dir.path().join("kept"),
            lines_max: 5,
        };
        let collected = past.collect();
        assert!(collected.lines.is_empty());
    }
}
