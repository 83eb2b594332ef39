//! The engines' output files and launch numbers, on a thread of their own.
//!
//! Everything about them that touches the data directory's disk happens here, ahead of time, so that a disk that
//! stands still delays no relaunch: while one engine runs, the next one's launch number is made durable and its
//! output file opened. The supervisor only picks up what is ready.

use std::collections::VecDeque;
use std::fs::{self, File};
use std::io;
use std::path::{Path, PathBuf};
use std::sync::mpsc::{Receiver, SyncSender, sync_channel};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread::JoinHandle;
use std::time::Duration;

use super::launch::{Running, RunningFile};
use super::tail::{LastLines, LogLine, Tail};
use crate::crash::{DeathFacts, OnReport};
use crate::platform::{
    FileWatch, Waitable, Waker, boot_id, create_private_dir, create_private_file,
    open_private_append, wait, write_all_at,
};

/// Work that waits for this thread; beyond it the oldest is dropped (its file stays on the disk).
const WORK_MAX: usize = 64;
/// One turn of reading, so that new work is seen in between.
const TURN_BYTES_MAX: usize = 256 * 1024;
/// Without inotify the file is looked at this often.
const POLL_INTERVAL: Duration = Duration::from_millis(200);

/// Why engine output has no place.
#[derive(Debug, thiserror::Error)]
#[error("engine output cannot be kept in {path:?}: {source}; {}", crate::platform::remedy(.source))]
pub struct OutputError {
    /// The folder or file.
    pub path: PathBuf,
    /// What the system said.
    pub source: io::Error,
}

/// A launch number that was never used before and never will be again, with a file for the engine's output.
#[derive(Debug)]
pub struct Prepared {
    /// The number.
    pub launch: u32,
    /// The file, opened for appending.
    pub log: File,
    /// Its path.
    pub path: PathBuf,
}

/// The numbers of one data directory: `<data_dir>/launch` holds the last one reserved and whether the last end was
/// clean.
#[derive(Debug)]
struct Numbers {
    file: File,
    logs: PathBuf,
    boot_id: String,
    last: u32,
}

/// What an earlier run left behind.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Past {
    /// The highest launch number that may have been used; 0 = none.
    pub last: u32,
    /// Whether that engine's end was asked for, or clean.
    pub clean: bool,
    /// Whether this data directory itself tells of an engine that ran.
    pub is_ours: bool,
}

impl Numbers {
    /// Opens the counter. The number goes on after everything that is known of: the counter, the output files and
    /// `used` (launch locks, the store's sessions).
    fn open(
        data_dir: &Path,
        used: u32,
        is_free: impl Fn(u32) -> bool,
    ) -> Result<(Self, Past), OutputError> {
        let logs = data_dir.join("engine");
        let path = data_dir.join("launch");
        let failed = |path: &Path, source| OutputError {
            path: path.to_owned(),
            source,
        };
        create_private_dir(&logs).map_err(|error| failed(&logs, error))?;
        let file = create_private_file(&path).map_err(|error| failed(&path, error))?;
        let text = fs::read_to_string(&path).unwrap_or_default();
        let mut words = text.split_ascii_whitespace();
        let reserved: Option<u32> = words.next().and_then(|word| word.parse().ok());
        let clean = words.next() == Some("clean");
        let boot_id = boot_id();
        let same_boot = words.next() == Some(boot_id.as_str());
        let logged = fs::read_dir(&logs)
            .map_err(|error| failed(&logs, error))?
            .filter_map(|entry| launch_of(&entry.ok()?.path()))
            .max()
            .unwrap_or(0);
        let mut last = reserved.unwrap_or(0).max(logged).max(used);
        // Reserved for an engine that never came: in this boot nothing shows that it was used.
        if reserved == Some(last) && last > used && same_boot && is_free(last) {
            let log = log_path(&logs, last);
            if fs::metadata(&log).map_or(true, |metadata| metadata.len() == 0) {
                last -= 1;
            }
        }
        let is_ours = reserved.unwrap_or(0).max(logged).min(last) > 0;
        let past = Past {
            last,
            clean,
            is_ours,
        };
        let numbers = Self {
            file,
            logs,
            boot_id,
            last,
        };
        Ok((numbers, past))
    }

    fn prepare(&mut self, after: u32) -> Result<Prepared, OutputError> {
        let launch = self.last.max(after).saturating_add(1);
        self.write(launch, "running")?;
        self.last = launch;
        let path = log_path(&self.logs, launch);
        let log = open_private_append(&path).map_err(|source| OutputError {
            path: path.clone(),
            source,
        })?;
        Ok(Prepared { launch, log, path })
    }

    /// Makes a number (and how the last engine ended) durable.
    fn write(&self, launch: u32, how: &str) -> Result<(), OutputError> {
        // Always the same length, so that overwriting it in place is one write of less than a sector.
        let text = format!("{launch:010} {how:<7} {:<36}\n", self.boot_id);
        write_all_at(&self.file, text.as_bytes(), 0)
            .and_then(|()| self.file.sync_all())
            .map_err(|source| OutputError {
                path: self.logs.with_file_name("launch"),
                source,
            })
    }

    /// Deletes the oldest output files, and empty ones that no engine will write any more.
    fn prune(&self, logs_kept: usize, in_use: &[u32]) {
        let Ok(entries) = fs::read_dir(&self.logs) else {
            return;
        };
        let mut launches: Vec<u32> = entries
            .filter_map(|entry| launch_of(&entry.ok()?.path()))
            .filter(|launch| !in_use.contains(launch))
            .collect();
        launches.sort_unstable_by(|a, b| b.cmp(a));
        for launch in launches.into_iter().skip(logs_kept) {
            let _ = fs::remove_file(log_path(&self.logs, launch));
        }
    }
}

fn log_path(logs: &Path, launch: u32) -> PathBuf {
    logs.join(format!("{launch:010}.log"))
}

fn launch_of(path: &Path) -> Option<u32> {
    if path.extension()? != "log" {
        return None;
    }
    path.file_stem()?.to_str()?.parse().ok()
}

#[derive(Debug)]
enum Work {
    /// An engine started: prepare the next, follow this one.
    Started {
        launch: u32,
        path: Option<PathBuf>,
        adopted: bool,
    },
    /// An engine runs: which process it is.
    Runs(Running),
    /// No engine runs and the last one's end was asked for, or clean.
    EndedCleanly {
        launch: u32,
    },
    /// A death is proven.
    Ended(Box<DeathFacts>),
    Leave,
}

#[derive(Debug)]
struct Shared {
    /// Held for a push or a pop, never while a file is touched.
    work: Mutex<VecDeque<Work>>,
    last_lines: Mutex<LastLines>,
    waker: Waker,
}

/// The supervisor's hold of the output thread.
#[derive(Debug)]
pub struct Output {
    shared: Arc<Shared>,
    prepared: Receiver<Result<Prepared, OutputError>>,
    thread: Option<JoinHandle<()>>,
}

/// What the output thread is started with.
#[derive(Debug)]
pub struct OutputConfig<'a> {
    /// The data directory.
    pub data_dir: &'a Path,
    /// The highest launch number that is known to have been used.
    pub used: u32,
    /// So many output files are kept.
    pub logs_kept: usize,
    /// So many lines are kept in memory.
    pub lines_kept: usize,
}

/// Reads the last lines of the engines' output from any thread.
#[derive(Clone, Debug)]
pub struct EngineLog {
    shared: Arc<Shared>,
}

impl EngineLog {
    /// The last lines of one incarnation (`None`: of all), oldest first.
    pub fn last_lines(&self, incarnation: Option<u32>) -> Vec<LogLine> {
        lock(&self.shared.last_lines).of(incarnation)
    }
}

impl Output {
    /// Opens the numbers, prepares the first launch and starts the thread. `on_line` is called there with each new
    /// line; while it blocks, nothing is prepared.
    ///
    /// # Errors
    /// The data directory cannot be written.
    pub fn start(
        config: &OutputConfig<'_>,
        is_free: impl Fn(u32) -> bool,
        on_line: impl FnMut(LogLine) + Send + 'static,
        on_report: OnReport,
    ) -> Result<(Self, Past), OutputError> {
        let failed = |source| OutputError {
            path: config.data_dir.join("engine"),
            source,
        };
        let (mut numbers, past) = Numbers::open(config.data_dir, config.used, is_free)?;
        let (ready, prepared) = sync_channel(1);
        let first = numbers.prepare(0)?;
        let _ = ready.try_send(Ok(first));
        let shared = Arc::new(Shared {
            work: Mutex::new(VecDeque::new()),
            last_lines: Mutex::new(LastLines::new(config.lines_kept)),
            waker: Waker::new().map_err(failed)?,
        });
        let worker = Worker {
            shared: Arc::clone(&shared),
            numbers,
            running: RunningFile::new(config.data_dir),
            ready,
            logs_kept: config.logs_kept,
            tail: None,
            watch: FileWatch::new().ok(),
            on_line: Box::new(on_line),
            on_report,
        };
        let thread = std::thread::Builder::new()
            .name("engine-output".to_owned())
            .spawn(move || worker.run())
            .map_err(failed)?;
        let output = Self {
            shared,
            prepared,
            thread: Some(thread),
        };
        Ok((output, past))
    }

    /// The lines.
    pub fn log(&self) -> EngineLog {
        EngineLog {
            shared: Arc::clone(&self.shared),
        }
    }

    /// The next prepared launch beyond `last`, waited for up to `timeout`; `None` = the disk is too slow for us.
    pub fn take(&self, last: u32, timeout: Duration) -> Option<Prepared> {
        loop {
            match self.prepared.recv_timeout(timeout) {
                Ok(Ok(prepared)) if prepared.launch > last => return Some(prepared),
                // Its number was used without it meanwhile.
                Ok(Ok(_)) => {}
                Ok(Err(error)) => {
                    tracing::warn!(%error, "engine output is lost");
                    return None;
                }
                Err(_) => return None,
            }
        }
    }

    /// Tells that an engine runs: its output is followed and the next launch prepared.
    pub fn started(&self, launch: u32, path: Option<PathBuf>, adopted: bool) {
        self.push(Work::Started {
            launch,
            path,
            adopted,
        });
    }

    /// Tells which process the engine is, for the record in the data directory.
    pub fn runs(&self, running: Running) {
        self.push(Work::Runs(running));
    }

    /// Tells that the last engine's end was asked for, or clean, and none follows.
    pub fn ended_cleanly(&self, launch: u32) {
        self.push(Work::EndedCleanly { launch });
    }

    /// Tells of a proven death, after the next start: what the engine printed is read to its end, and a report made
    /// unless the end was expected. Never blocks.
    pub fn ended(&self, facts: DeathFacts) {
        self.push(Work::Ended(Box::new(facts)));
    }

    fn push(&self, work: Work) {
        let mut queue = lock(&self.shared.work);
        if queue.len() >= WORK_MAX {
            queue.pop_front();
        }
        queue.push_back(work);
        drop(queue);
        self.shared.waker.wake();
    }
}

impl Drop for Output {
    fn drop(&mut self) {
        self.push(Work::Leave);
        if let Some(thread) = self.thread.take() {
            // It panics only by a bug in `on_line`, which the panic itself has told already.
            let _ = thread.join();
        }
    }
}

fn lock<T>(mutex: &Mutex<T>) -> std::sync::MutexGuard<'_, T> {
    // What is behind these mutexes is whole between any two statements.
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

struct Worker {
    shared: Arc<Shared>,
    numbers: Numbers,
    running: RunningFile,
    ready: SyncSender<Result<Prepared, OutputError>>,
    logs_kept: usize,
    tail: Option<Tail>,
    watch: Option<FileWatch>,
    on_line: Box<dyn FnMut(LogLine) + Send>,
    #[expect(dead_code, reason = "reports are made in the next step")]
    on_report: OnReport,
}

impl Worker {
    fn run(mut self) {
        loop {
            let more = self.read(TURN_BYTES_MAX);
            let work = lock(&self.shared.work).pop_front();
            match work {
                Some(Work::Leave) => {
                    self.end_tail();
                    return;
                }
                Some(Work::Started {
                    launch,
                    path,
                    adopted,
                }) => {
                    // First what a relaunch may be waiting for.
                    self.prepare(launch);
                    self.end_tail();
                    self.follow(launch, path, adopted);
                    self.numbers
                        .prune(self.logs_kept, &[launch, self.numbers.last]);
                }
                Some(Work::Runs(running)) => {
                    if let Err(error) = self.running.write(&running) {
                        tracing::warn!(%error, "which process the engine is was not noted in the data directory");
                    }
                }
                Some(Work::EndedCleanly { launch }) => {
                    self.read_to_end();
                    if let Err(error) = self.numbers.write(launch.max(self.numbers.last), "clean") {
                        tracing::warn!(%error, "clean end was not noted");
                    }
                }
                Some(Work::Ended(facts)) => {
                    tracing::debug!(incarnation = facts.incarnation, "no report is made yet");
                }
                None if more => {}
                None => self.sleep(),
            }
        }
    }

    fn sleep(&self) {
        let other = self.watch.as_ref().map(|watch| watch as &dyn Waitable);
        let needs_poll = self.watch.is_none() && self.tail.is_some();
        let timeout = needs_poll.then_some(POLL_INTERVAL);
        match wait(&self.shared.waker, other, timeout) {
            Ok(ready) if ready.readable => {
                if let Some(watch) = &self.watch {
                    watch.clear();
                }
            }
            Ok(_) => {}
            Err(error) => {
                tracing::warn!(%error, "engine output cannot be waited for");
                std::thread::sleep(POLL_INTERVAL);
            }
        }
    }

    fn prepare(&mut self, after: u32) {
        if self.numbers.last > after {
            return;
        }
        let prepared = self.numbers.prepare(after);
        // Full: one that nobody has taken yet is there already.
        let _ = self.ready.try_send(prepared);
    }

    fn follow(&mut self, launch: u32, path: Option<PathBuf>, adopted: bool) {
        let Some(path) = path else {
            return;
        };
        match Tail::open(&path, launch, adopted) {
            Ok(tail) => self.tail = Some(tail),
            Err(error) => tracing::warn!(?path, %error, "engine output cannot be followed"),
        }
        if let Some(watch) = &mut self.watch
            && let Err(error) = watch.follow(&path)
        {
            tracing::warn!(?path, %error, "engine output is polled");
            self.watch = None;
        }
    }

    /// Reads what is there, up to `bytes_max`; returns whether there may be more.
    fn read(&mut self, bytes_max: usize) -> bool {
        let Some(tail) = &mut self.tail else {
            return false;
        };
        let shared = &self.shared;
        let on_line = &mut self.on_line;
        let read = tail.read(bytes_max, |line, is_new| {
            lock(&shared.last_lines).push(line.clone());
            if is_new {
                on_line(line);
            }
        });
        match read {
            Ok(more) => more,
            Err(error) => {
                tracing::warn!(%error, "engine output cannot be read");
                self.tail = None;
                false
            }
        }
    }

    fn read_to_end(&mut self) {
        while self.read(TURN_BYTES_MAX) {}
    }

    fn end_tail(&mut self) {
        self.read_to_end();
        let shared = &self.shared;
        let on_line = &mut self.on_line;
        if let Some(mut tail) = self.tail.take() {
            tail.end(|line, _| {
                lock(&shared.last_lines).push(line.clone());
                on_line(line);
            });
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn open(data_dir: &Path, used: u32) -> (Numbers, Past) {
        Numbers::open(data_dir, used, |_| true).expect("usable")
    }

    #[test]
    fn numbers_go_on_over_runs_and_over_a_lost_counter() {
        let dir = tempfile::tempdir().expect("temporary folder");
        let (mut numbers, past) = open(dir.path(), 0);
        assert_eq!(
            past,
            Past {
                last: 0,
                clean: false,
                is_ours: false
            }
        );
        for wanted in 1..=3 {
            let prepared = numbers.prepare(0).expect("prepared");
            assert_eq!(prepared.launch, wanted);
            fs::write(&prepared.path, "output").expect("written");
        }
        numbers.write(3, "clean").expect("written");
        let (_, past) = open(dir.path(), 0);
        assert_eq!(
            past,
            Past {
                last: 3,
                clean: true,
                is_ours: true
            }
        );
        fs::write(dir.path().join("launch"), "garbage").expect("written");
        let (mut numbers, past) = open(dir.path(), 0);
        assert_eq!(past.last, 3);
        assert_eq!(numbers.prepare(0).expect("prepared").launch, 4);
        assert_eq!(open(dir.path(), 9).1.last, 9);
    }

    #[test]
    fn what_only_the_runtime_directory_knows_is_not_this_data_directorys_past() {
        let dir = tempfile::tempdir().expect("temporary folder");
        let (mut numbers, past) = open(dir.path(), 9);
        assert_eq!((past.last, past.is_ours), (9, false));
        let prepared = numbers.prepare(0).expect("prepared");
        fs::write(&prepared.path, "output").expect("written");
        assert!(open(dir.path(), 9).1.is_ours);
    }

    #[test]
    fn a_number_reserved_for_nobody_is_given_out_again_but_a_used_one_never() {
        let dir = tempfile::tempdir().expect("temporary folder");
        let (mut numbers, _) = open(dir.path(), 0);
        numbers.prepare(0).expect("prepared");
        assert_eq!(open(dir.path(), 0).1.last, 0);
        // A launch lock, output or another boot may mean that it was used.
        assert_eq!(
            Numbers::open(dir.path(), 0, |_| false)
                .expect("usable")
                .1
                .last,
            1
        );
        fs::write(dir.path().join("engine/0000000001.log"), "x").expect("written");
        assert_eq!(open(dir.path(), 0).1.last, 1);
    }

    #[test]
    fn only_the_newest_output_files_are_kept() {
        let dir = tempfile::tempdir().expect("temporary folder");
        let (mut numbers, _) = open(dir.path(), 0);
        for _ in 0..10 {
            numbers.prepare(0).expect("prepared");
        }
        numbers.prune(3, &[10]);
        let mut left: Vec<_> = fs::read_dir(dir.path().join("engine"))
            .expect("there")
            .filter_map(|entry| launch_of(&entry.ok()?.path()))
            .collect();
        left.sort_unstable();
        assert_eq!(left, [7, 8, 9, 10]);
    }
}
