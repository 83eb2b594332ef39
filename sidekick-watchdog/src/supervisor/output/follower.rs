//! Those who follow the output: each has a place in it and reads on from there, out of memory if it is near, else out
//! of the files. So nothing is kept for a slow one, nothing is skipped, and one that comes back to a later watchdog goes
//! on where it stopped.

use std::collections::VecDeque;
use std::fs::{self, File};
use std::io;
use std::sync::{Mutex, Weak};

use tokio::sync::watch;

use super::super::tail::LineCutter;
use super::engine_log::{Files, Known, Lines, lock};
use super::pieces::{Piece, live_path, parse, pieces};
use super::spool::KEPT_BEHIND;
use crate::log_line::{LogLine, LogPosition};
use crate::platform::read_at;

/// Lines that a follower takes at a time.
const LINES_AT_ONCE: usize = 256;
const CHUNK_BYTES: usize = 64 * 1024;
/// So many zeros in a live file are a hole that was made for want of memory, and no output.
const HOLE_BYTES: usize = 4096;
/// How often a file is looked for again that was moved meanwhile.
const TRIES: usize = 16;

/// What a follower gets.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Followed {
    /// The next line.
    Line(LogLine),
    /// So many bytes are not kept any more.
    Skipped(u64),
}

/// New lines, in order.
#[derive(Debug)]
pub struct Follower {
    lines: Weak<Mutex<Lines>>,
    files: Files,
    changed: watch::Receiver<()>,
    incarnation: Option<u32>,
    /// Everything before it was handed out, or is in `ready`.
    position: LogPosition,
    ready: VecDeque<Followed>,
}

impl Follower {
    pub(super) fn new(
        lines: Weak<Mutex<Lines>>,
        files: Files,
        changed: watch::Receiver<()>,
        incarnation: Option<u32>,
        position: LogPosition,
    ) -> Self {
        Self {
            lines,
            files,
            changed,
            incarnation,
            position,
            ready: VecDeque::new(),
        }
    }

    /// The place that it has come to.
    pub fn position(&self) -> LogPosition {
        self.position
    }

    /// The next line, waited for; `None` = there will be no more.
    pub async fn next(&mut self) -> Option<Followed> {
        loop {
            if let Some(next) = self.ready.pop_front() {
                return Some(next);
            }
            // Before looking: what changes afterwards is seen.
            self.changed.borrow_and_update();
            let near = self.look()?;
            match near {
                Near::Nothing => self.changed.changed().await.ok()?,
                Near::Lines(lines) => self.take(lines),
                Near::Beyond(known) => self.read_files(known).await,
            }
        }
    }

    fn look(&self) -> Option<Near> {
        let lines = self.lines.upgrade()?;
        let lines = lock(&lines);
        if self.position >= lines.known.at {
            return Some(Near::Nothing);
        }
        Some(match lines.last.after(self.position, LINES_AT_ONCE) {
            Some(after) if !after.is_empty() => Near::Lines(after),
            _ => Near::Beyond(lines.known),
        })
    }

    fn take(&mut self, lines: Vec<LogLine>) {
        for line in lines {
            self.position = self.position.max(line.position());
            if self
                .incarnation
                .is_none_or(|wanted| wanted == line.incarnation)
            {
                self.ready.push_back(Followed::Line(line));
            }
        }
    }

    async fn read_files(&mut self, known: Known) {
        let (files, position, wanted) = (self.files.clone(), self.position, self.incarnation);
        let read = tokio::task::spawn_blocking(move || files.after(position, wanted, known)).await;
        match read {
            Ok(Ok((items, position))) => {
                self.ready.extend(items);
                self.position = position;
            }
            // Without the files it goes on with what is in memory.
            failed => {
                if let Ok(Err(error)) = failed {
                    tracing::warn!(%error, "kept engine output cannot be read");
                }
                self.position = known.at;
            }
        }
    }
}

/// What is in memory after a place.
enum Near {
    Nothing,
    Lines(Vec<LogLine>),
    /// There is more, and the files have to tell.
    Beyond(Known),
}

/// What was found at a place.
enum Found {
    Bytes(usize),
    /// Nothing before this place.
    GapUntil(u64),
    End,
}

impl Files {
    /// Some of what comes after a place, and the place after that; at the end of all, `known.at` or beyond. Blocks.
    fn after(
        &self,
        mut position: LogPosition,
        wanted: Option<u32>,
        known: Known,
    ) -> io::Result<(Vec<Followed>, LogPosition)> {
        for launch in self.launches()? {
            let is_passed = launch < position.incarnation || launch > known.at.incarnation;
            if is_passed || wanted.is_some_and(|wanted| wanted != launch) {
                continue;
            }
            if launch > position.incarnation {
                position = LogPosition {
                    incarnation: launch,
                    offset: 0,
                };
            }
            let is_dead = launch < known.at.incarnation || known.is_over;
            let (items, offset) = self.of_launch(launch, position.offset, is_dead)?;
            position.offset = offset;
            if !items.is_empty() {
                return Ok((items, position));
            }
        }
        Ok((Vec::new(), position.max(known.at)))
    }

    /// The launches that have output, in order.
    fn launches(&self) -> io::Result<Vec<u32>> {
        let mut launches = Vec::new();
        for dir in [&self.live, &self.kept] {
            for entry in fs::read_dir(dir)? {
                launches.extend(parse(&entry?.file_name()).map(|(launch, _)| launch));
            }
        }
        launches.sort_unstable();
        launches.dedup();
        Ok(launches)
    }

    fn of_launch(
        &self,
        launch: u32,
        mut at: u64,
        is_dead: bool,
    ) -> io::Result<(Vec<Followed>, u64)> {
        let mut items = Vec::new();
        let mut handed_out = at;
        let mut cutter = LineCutter::new(launch, at, false);
        let mut chunk = vec![0; CHUNK_BYTES];
        while items.len() < LINES_AT_ONCE {
            let mut take = |line: LogLine| {
                handed_out = line.end;
                items.push(Followed::Line(line));
            };
            match self.at(launch, at, &mut chunk)? {
                Found::Bytes(bytes) => {
                    cutter.push(&chunk[..bytes], &mut take);
                    at += bytes as u64;
                }
                Found::GapUntil(until) => {
                    cutter.end(&mut take);
                    items.push(Followed::Skipped(until - at));
                    handed_out = until;
                    at = until;
                    cutter = LineCutter::new(launch, at, true);
                }
                Found::End => {
                    // One that lives may still go on with its last line.
                    if is_dead {
                        cutter.end(&mut take);
                    }
                    break;
                }
            }
        }
        Ok((items, handed_out))
    }

    /// Reads at a place, as much as one file gives.
    fn at(&self, launch: u32, at: u64, chunk: &mut [u8]) -> io::Result<Found> {
        let own = || -> io::Result<Vec<Piece>> {
            let mut pieces = pieces(&self.kept)?;
            pieces.retain(|piece| piece.launch == launch);
            Ok(pieces)
        };
        let copied = |pieces: &[Piece]| pieces.last().map_or(0, Piece::end);
        for _ in 0..TRIES {
            // Before the pieces: once it is gone they are complete.
            let live = open(&live_path(&self.live, launch))?;
            let pieces = own()?;
            let is_in = |piece: &&Piece| piece.start <= at && at < piece.end();
            if let Some(piece) = pieces.iter().find(is_in) {
                let Some(file) = open(&piece.path)? else {
                    continue;
                };
                let left = usize::try_from(piece.end() - at).unwrap_or(usize::MAX);
                let room = chunk.len().min(left);
                let bytes = read_at(&file, &mut chunk[..room], at - piece.start)?;
                if bytes > 0 {
                    return Ok(Found::Bytes(bytes));
                }
                continue;
            }
            if let Some(next) = pieces.iter().find(|piece| piece.start > at) {
                return Ok(Found::GapUntil(next.start));
            }
            let Some(live) = live else {
                return Ok(Found::End);
            };
            let bytes = read_at(&live, chunk, at)?;
            if copied(&own()?) > at.saturating_add(KEPT_BEHIND) {
                // Copied meanwhile, and perhaps a hole by now.
                continue;
            }
            let zeros = chunk[..bytes].iter().take_while(|&&byte| byte == 0).count();
            return Ok(match bytes {
                0 => Found::End,
                _ if zeros >= HOLE_BYTES => Found::GapUntil(at + zeros as u64),
                bytes => Found::Bytes(bytes),
            });
        }
        Err(io::Error::other("it is moved faster than it can be read"))
    }
}

/// `None`: there is no such file.
fn open(path: &std::path::Path) -> io::Result<Option<File>> {
    match File::open(path) {
        Ok(file) => Ok(Some(file)),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
        Err(error) => Err(error),
    }
}

#[cfg(test)]
mod tests {
    use std::io::Write as _;
    use std::sync::Arc;
    use std::time::Duration;

    use super::super::engine_log::EngineLog;
    use super::super::spool::{Progress, Spool, give_up};
    use super::*;
    use crate::platform::open_private_append;
    use crate::supervisor::tail::Tail;

    /// An engine, and a watchdog that reads and copies what it prints.
    struct Site {
        dir: tempfile::TempDir,
        log: EngineLog,
        tail: Option<Tail>,
        launch: u32,
    }

    impl Site {
        fn new() -> Self {
            let dir = tempfile::tempdir().expect("temporary folder");
            for name in ["kept", "live"] {
                fs::create_dir(dir.path().join(name)).expect("made");
            }
            let log = Self::watchdog(dir.path(), 0, None);
            Self {
                dir,
                log,
                tail: None,
                launch: 0,
            }
        }

        fn watchdog(dir: &std::path::Path, used: u32, running: Option<u32>) -> EngineLog {
            let (kept, live) = (dir.join("kept"), dir.join("live"));
            EngineLog::new(4, Files { kept, live }, used, running)
        }

        fn live(&self) -> std::path::PathBuf {
            live_path(&self.dir.path().join("live"), self.launch)
        }

        fn print(&self, text: &str) {
            let mut live = open_private_append(&self.live()).expect("opened");
            live.write_all(text.as_bytes()).expect("written");
        }

        fn launch(&mut self) {
            self.launch += 1;
            self.print("");
            self.watch(false);
        }

        fn watch(&mut self, adopted: bool) {
            let tail = Tail::open(&self.live(), self.launch, adopted).expect("opened");
            self.log.begin(self.launch, tail.offset());
            self.tail = Some(tail);
            self.read();
        }

        fn read(&mut self) {
            let log = self.log.clone();
            if let Some(tail) = &mut self.tail {
                tail.read(usize::MAX, |line, _| log.push(line))
                    .expect("read");
            }
        }

        /// It is dead: read to its end and copied.
        fn end(&mut self) {
            self.read();
            let log = self.log.clone();
            if let Some(mut tail) = self.tail.take() {
                tail.end(|line, _| log.push(line));
            }
            self.log.end();
            self.copy();
            fs::remove_file(self.live()).expect("removed");
        }

        fn copy(&self) {
            let kept = self.dir.path().join("kept");
            let mut spool = Spool::open(&kept, &self.live(), self.launch, 64, Arc::default());
            let spool = spool.as_mut().expect("opened");
            while spool.step().expect("copied").more {}
        }

        /// The watchdog is killed, and another comes.
        fn replace_watchdog(&mut self, is_alive: bool) {
            let running = is_alive.then_some(self.launch);
            self.log = Self::watchdog(self.dir.path(), self.launch, running);
            self.tail = None;
        }
    }

    /// What comes, until it is as long as `wanted`, and what is there beyond it.
    async fn texts(follower: &mut Follower, wanted: &str) -> String {
        let mut texts = String::new();
        loop {
            let patience = match texts.len() < wanted.len() {
                true => Duration::from_secs(30),
                false => Duration::ZERO,
            };
            match tokio::time::timeout(patience, follower.next()).await {
                Ok(Some(Followed::Line(line))) => {
                    texts.push_str(&format!("{}:{} ", line.incarnation, line.text));
                }
                Ok(Some(Followed::Skipped(bytes))) => texts.push_str(&format!("-{bytes} ")),
                Ok(None) => return texts + "end",
                Err(_) => return texts,
            }
        }
    }

    async fn expect(follower: &mut Follower, wanted: &str) {
        assert_eq!(texts(follower, wanted).await, wanted);
    }

    fn numbers(launch: u32, from: usize, to: usize) -> String {
        (from..to).map(|n| format!("{launch}:line {n} ")).collect()
    }

    /// A slow one reads from the files what memory does not hold any more; one of a single incarnation gets no other's.
    #[tokio::test]
    async fn a_follower_misses_and_doubles_no_line_however_slow_it_is() {
        let mut site = Site::new();
        site.launch();
        site.print("line 0\nline 1\nline 2\n");
        site.read();
        let (last, mut follower) = site.log.follow(None, 2, None);
        assert_eq!(last.len(), 2);
        let (_, mut second) = site.log.follow(Some(2), 2, None);
        for n in 3..400 {
            site.print(&format!("line {n}\n"));
            site.read();
            if n % 50 == 0 {
                site.copy();
            }
        }
        expect(&mut follower, &numbers(1, 3, 400)).await;
        site.print("line 400\nhalf");
        site.read();
        expect(&mut follower, "1:line 400 ").await;
        site.end();
        site.launch();
        site.print("line 0\n");
        site.read();
        expect(&mut follower, "1:half 2:line 0 ").await;
        expect(&mut second, "2:line 0 ").await;
        site.replace_watchdog(true);
        expect(&mut follower, "end").await;
    }

    /// Watchdogs come and go while engines print, die and start; who asks each new one for what comes after its place
    /// gets every line once.
    #[tokio::test]
    async fn a_place_holds_over_watchdogs_and_engines() {
        let mut site = Site::new();
        let mut position = None;
        let (mut all, mut wanted) = (String::new(), String::new());
        for turn in 0..60_u32 {
            if site.launch == 0 || turn % 4 == 3 {
                site.launch();
            }
            let (_, mut follower) = site.log.follow(None, 100, position);
            let text = format!("before {turn}");
            site.print(&format!("{text}\nhalf"));
            site.read();
            wanted.push_str(&format!("{}:{text} ", site.launch));
            // The watchdog is killed before, or after, its follower has that.
            if turn % 2 == 0 || position.is_none() {
                all.push_str(&texts(&mut follower, &wanted[all.len()..]).await);
                position = Some(follower.position());
            }
            site.print(&format!(" of {turn}\n{}", "x".repeat(turn as usize * 40)));
            site.print("\nlast");
            wanted.push_str(&format!("{}:half of {turn} ", site.launch));
            wanted.push_str(&format!(
                "{}:{} ",
                site.launch,
                "x".repeat(turn as usize * 40)
            ));
            if turn % 3 == 0 {
                site.copy();
            }
            // The engine lives on, or dies while nobody watches.
            let is_dead = turn % 4 == 2;
            site.replace_watchdog(!is_dead);
            if is_dead {
                wanted.push_str(&format!("{}:last ", site.launch));
                if turn % 8 == 2 {
                    site.copy();
                    fs::remove_file(site.live()).expect("removed");
                }
            } else {
                site.watch(true);
                site.print("\n");
                site.read();
                wanted.push_str(&format!("{}:last ", site.launch));
            }
        }
        let (_, mut follower) = site.log.follow(None, 100, position);
        all.push_str(&texts(&mut follower, &wanted[all.len()..]).await);
        assert_eq!(all, wanted);
    }

    /// What the disk did not take in time, and what was pruned, is told of as missing.
    #[tokio::test]
    async fn what_is_not_kept_is_told_of() {
        let mut site = Site::new();
        site.launch();
        let (_, mut follower) = site.log.follow(None, 0, None);
        let line = format!("{}\n", "y".repeat(999));
        site.print(&line.repeat(500));
        give_up(&site.live(), &Progress::default(), 400_000);
        site.read();
        let told = texts(&mut follower, "-").await;
        assert!(told.starts_with('-'), "{}", &told[..told.len().min(99)]);
        let place = LogPosition {
            incarnation: 9,
            offset: 3,
        };
        let (_, mut elsewhere) = site.log.follow(None, 0, Some(place));
        site.print("new\n");
        site.read();
        expect(&mut elsewhere, "1:new ").await;
    }
}
