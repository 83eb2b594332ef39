//! Copies what an engine writes from memory to the disk.
//!
//! The engine appends to a *live* file in the runtime directory, which is memory: it never waits for a disk. This copies
//! its bytes to pieces in the data directory and gives the copied ones back to the memory (by punching holes; the file's
//! length goes on growing, what it takes does not). How far the copying has come is told by the pieces' names and
//! lengths alone, so a watchdog killed at any instruction is followed by one that goes on at the next byte: nothing is
//! lost and nothing doubled.

use std::fs::File;
use std::io::{self, Write as _};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use super::pieces::{piece_path, pieces};
use crate::platform::{open_private_append, punch_hole, read_at};

/// So much of the live file stays readable behind what is copied, for whoever adopts its engine or reads its end.
pub(super) const KEPT_BEHIND: u64 = 64 * 1024;
/// Holes are punched in steps of at least this size.
const PUNCH_STEP: u64 = 256 * 1024;
const CHUNK_BYTES: usize = 64 * 1024;

/// How far the copying of one live file has come; shared by the thread that copies and the one that reads.
#[derive(Debug, Default)]
pub(super) struct Progress {
    /// Everything before this is on the disk.
    pub copied: AtomicU64,
    /// Everything before this was given up, because the disk did not take it in time.
    pub floor: AtomicU64,
}

/// The copying of one live file.
#[derive(Debug)]
pub(super) struct Spool {
    pub launch: u32,
    pub live_path: PathBuf,
    /// Its engine is dead: once everything is copied, the live file goes.
    pub is_over: bool,
    live: File,
    dir: PathBuf,
    rotate_bytes: u64,
    at: u64,
    piece: Option<Open>,
    punched: u64,
    progress: Arc<Progress>,
}

/// The piece that is being written.
#[derive(Debug)]
struct Open {
    file: File,
    start: u64,
    bytes: u64,
    /// Its last byte, written by us, ends a line: a good place to end the piece.
    is_line_end: bool,
}

/// What [`Spool::step`] did.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Step {
    /// There may be more to copy.
    pub more: bool,
    /// A new piece was begun.
    pub rotated: bool,
}

impl Spool {
    /// Goes on where the pieces in `dir` end.
    pub(super) fn open(
        dir: &Path,
        live_path: &Path,
        launch: u32,
        rotate_bytes: u64,
        progress: Arc<Progress>,
    ) -> io::Result<Self> {
        let live = File::open(live_path)?;
        let last = pieces(dir)?
            .into_iter()
            .rfind(|piece| piece.launch == launch);
        let piece = match &last {
            Some(last) => Some(Open {
                file: open_private_append(&last.path)?,
                start: last.start,
                bytes: last.bytes,
                is_line_end: ends_line(&last.path, last.bytes),
            }),
            None => None,
        };
        let at = last.map_or(0, |last| last.end());
        progress.copied.store(at, Ordering::Release);
        Ok(Self {
            launch,
            live_path: live_path.to_owned(),
            is_over: false,
            live,
            dir: dir.to_owned(),
            rotate_bytes,
            at,
            piece,
            punched: 0,
            progress,
        })
    }

    /// Copies one chunk.
    ///
    /// # Errors
    /// What the system said; the next step goes on where the disk's file ends.
    pub(super) fn step(&mut self) -> io::Result<Step> {
        let floor = self.progress.floor.load(Ordering::Acquire);
        if self.at < floor {
            // The next piece's name shows what is missing.
            self.piece = None;
            self.at = floor;
        }
        let mut chunk = [0_u8; CHUNK_BYTES];
        let bytes = read_at(&self.live, &mut chunk, self.at)?;
        if bytes == 0 {
            return Ok(Step::default());
        }
        // SYNC: pairs with the Release store in `give_up`, which comes before its hole: a chunk that was read before
        // the floor moved has no hole in it.
        if self.progress.floor.load(Ordering::Acquire) > self.at {
            return Ok(Step {
                more: true,
                rotated: false,
            });
        }
        let chunk = self.part_for_piece(&chunk[..bytes]);
        let rotated = self.piece.is_none();
        self.write(chunk)?;
        self.progress.copied.store(self.at, Ordering::Release);
        self.punch();
        Ok(Step {
            more: true,
            rotated,
        })
    }

    /// What of a chunk still goes to the present piece. A full one is ended at a line's end.
    fn part_for_piece<'a>(&mut self, chunk: &'a [u8]) -> &'a [u8] {
        let Some(piece) = self
            .piece
            .as_ref()
            .filter(|piece| piece.bytes >= self.rotate_bytes)
        else {
            return chunk;
        };
        match chunk.iter().position(|&byte| byte == b'\n') {
            Some(end) if !piece.is_line_end => &chunk[..=end],
            None if piece.bytes < self.rotate_bytes.saturating_mul(2) => chunk,
            _ => {
                self.piece = None;
                chunk
            }
        }
    }

    fn write(&mut self, bytes: &[u8]) -> io::Result<()> {
        let piece = match &mut self.piece {
            Some(piece) => piece,
            none => none.insert(Open {
                file: open_private_append(&piece_path(&self.dir, self.launch, self.at))?,
                start: self.at,
                bytes: 0,
                is_line_end: false,
            }),
        };
        let written = piece.file.write_all(bytes);
        if written.is_ok() {
            piece.bytes += bytes.len() as u64;
        } else {
            // A full disk takes a part. Where even that cannot be told, the next step tries again from here.
            piece.bytes = piece.file.metadata()?.len();
        }
        piece.is_line_end = bytes.last() == Some(&b'\n');
        self.at = piece.start + piece.bytes;
        written
    }

    /// Gives copied memory back.
    fn punch(&mut self) {
        let until = self.at.saturating_sub(KEPT_BEHIND);
        if until.saturating_sub(self.punched) >= PUNCH_STEP {
            match punch_hole(&self.live_path, self.punched, until - self.punched) {
                Ok(()) => self.punched = until,
                Err(error) => {
                    // A file system without holes: the live file keeps its bytes until its engine ends.
                    tracing::debug!(%error, "no hole in the live output");
                    self.punched = u64::MAX;
                }
            }
        }
    }
}

/// Whether the last byte of a file ends a line.
fn ends_line(path: &Path, bytes: u64) -> bool {
    let mut last = [0];
    let read = File::open(path).and_then(|file| read_at(&file, &mut last, bytes.saturating_sub(1)));
    matches!(read, Ok(1)) && last == *b"\n"
}

/// Gives up what the disk did not take, up to `until`, and frees its memory.
pub(super) fn give_up(live_path: &Path, progress: &Progress, until: u64) {
    let from = progress.copied.load(Ordering::Acquire);
    // SYNC: pairs with the Acquire loads in `Spool::step`.
    progress.floor.store(until, Ordering::Release);
    let hole = until.saturating_sub(KEPT_BEHIND);
    if hole > from {
        // Where it cannot be freed now, it is when its engine ends.
        let _ = punch_hole(live_path, from, hole - from);
    }
}

#[cfg(test)]
mod tests {
    use std::fs;

    use super::*;
    use crate::platform::allocated_bytes;

    struct Site {
        dir: tempfile::TempDir,
        written: Vec<u8>,
        progress: Arc<Progress>,
    }

    impl Site {
        fn new() -> Self {
            let dir = tempfile::tempdir().expect("temporary folder");
            fs::create_dir(dir.path().join("kept")).expect("made");
            fs::write(dir.path().join("live"), "").expect("made");
            Self {
                dir,
                written: Vec::new(),
                progress: Arc::default(),
            }
        }

        fn live(&self) -> PathBuf {
            self.dir.path().join("live")
        }

        fn kept(&self) -> PathBuf {
            self.dir.path().join("kept")
        }

        /// What the engine does: it appends.
        fn print(&mut self, bytes: &[u8]) {
            let mut live = open_private_append(&self.live()).expect("open");
            live.write_all(bytes).expect("written");
            self.written.extend_from_slice(bytes);
        }

        fn open(&self, rotate_bytes: u64) -> Spool {
            let progress = Arc::clone(&self.progress);
            Spool::open(&self.kept(), &self.live(), 1, rotate_bytes, progress).expect("opened")
        }

        fn kept_bytes(&self) -> Vec<u8> {
            let read = |piece: super::super::pieces::Piece| fs::read(piece.path).expect("read");
            let pieces = pieces(&self.kept()).expect("readable");
            pieces.into_iter().flat_map(read).collect()
        }
    }

    fn to_end(spool: &mut Spool) {
        while spool.step().expect("copied").more {}
    }

    /// Prints, and has a new watchdog take over after each step, in the middle of pieces and lines: every byte is kept once.
    #[test]
    fn however_often_the_watchdog_dies_every_byte_is_kept_once() {
        let mut site = Site::new();
        for turn in 0..200 {
            site.print(format!("line {turn} {}\n", "x".repeat(turn * 7)).as_bytes());
            site.print(b"half a line");
            let mut spool = site.open(1000);
            if turn % 3 == 0 {
                // It dies in the middle of writing: a part of the chunk is in the piece.
                let part = 5.min(site.written.len() - usize::try_from(spool.at).expect("small"));
                let from = usize::try_from(spool.at).expect("small");
                let bytes = site.written[from..from + part].to_vec();
                spool.write(&bytes).expect("written");
            } else {
                let _ = spool.step().expect("copied");
            }
        }
        to_end(&mut site.open(1000));
        assert_eq!(site.kept_bytes(), site.written);
        let pieces = pieces(&site.kept()).expect("readable");
        assert!(pieces.len() > 20, "{}", pieces.len());
    }

    /// The same with a broken variant, which remembers its place beside the pieces instead of taking it from them and is
    /// killed between writing and remembering.
    #[test]
    fn a_place_remembered_elsewhere_would_double_what_was_written() {
        let mut site = Site::new();
        site.print(b"one\ntwo\n");
        let mut spool = site.open(1000);
        let remembered = spool.at;
        to_end(&mut spool);
        // Killed here: what was remembered is the place before the copy.
        let mut successor = site.open(1000);
        successor.at = remembered;
        to_end(&mut successor);
        assert_ne!(site.kept_bytes(), site.written);
    }

    #[test]
    fn pieces_end_at_lines_and_an_endless_line_is_cut_all_the_same() {
        let mut site = Site::new();
        for n in 0..1000 {
            site.print(format!("line number {n}\n").as_bytes());
            let mut spool = site.open(1000);
            to_end(&mut spool);
        }
        let kept = pieces(&site.kept()).expect("readable");
        for piece in &kept[..kept.len() - 1] {
            let text = fs::read(&piece.path).expect("read");
            assert_eq!(text.last(), Some(&b'\n'), "{piece:?}");
            assert!(piece.bytes < 1100, "{piece:?}");
        }
        let mut spool = site.open(1000);
        for _ in 0..100 {
            site.print(&[b'x'; 500]);
            to_end(&mut spool);
        }
        let kept = pieces(&site.kept()).expect("readable");
        assert!(kept.iter().all(|piece| piece.bytes <= 3000), "{kept:?}");
        assert_eq!(site.kept_bytes(), site.written);
    }

    /// A long-lived, talkative engine: its live file takes no more memory than a bound.
    #[test]
    fn copied_output_takes_no_memory() {
        let mut site = Site::new();
        let mut spool = site.open(1 << 20);
        for _ in 0..64 {
            site.print(&[b'y'; 128 * 1024]);
            to_end(&mut spool);
            let taken = allocated_bytes(&site.live()).expect("there");
            assert!(taken <= KEPT_BEHIND + 2 * PUNCH_STEP, "{taken}");
        }
        assert_eq!(site.kept_bytes().len(), site.written.len());
    }

    /// The disk stands still for long: what is given up is missing, the rest is whole and the gap shows in the names.
    #[test]
    fn what_is_given_up_leaves_a_gap_that_shows() {
        let mut site = Site::new();
        site.print(&[b'a'; 1000]);
        let mut spool = site.open(1 << 20);
        to_end(&mut spool);
        site.print(&[b'b'; 500 * 1024]);
        give_up(&site.live(), &site.progress, 400 * 1024);
        to_end(&mut spool);
        let kept = pieces(&site.kept()).expect("readable");
        let places: Vec<_> = kept
            .iter()
            .map(|piece| (piece.start, piece.bytes))
            .collect();
        assert_eq!(places, [(0, 1000), (400 * 1024, 1000 + 100 * 1024)]);
        assert!(site.kept_bytes().iter().all(|&byte| byte != 0));
    }
}
