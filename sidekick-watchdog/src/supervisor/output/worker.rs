//! The thread that reads what engines write, line by line, from memory. It touches no disk.

use std::collections::VecDeque;
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use super::keeper::{Keeper, Task};
use super::past::Past;
use super::spool::{Progress, give_up};
use super::{BannerSeen, EngineLog, OutputSettings, Shared, Work, lock};
use crate::crash::DeathFacts;
use crate::crash::parse::CrashScan;
use crate::crash::reporter::{Collected, Reporter};
use crate::log_line::LogLine;
use crate::platform::{FileWatch, OomCounters, Waitable, Waker, monotonic_now, wait};
use crate::supervisor::tail::Tail;

/// One turn of reading, so that new work is seen in between.
const TURN_BYTES_MAX: usize = 256 * 1024;
/// Without inotify the file is looked at this often.
const POLL_INTERVAL: Duration = Duration::from_millis(200);
/// Dead engines whose facts are still to come.
const OVER_MAX: usize = 8;

pub(super) struct Worker {
    pub shared: Arc<Shared>,
    pub log: EngineLog,
    pub settings: OutputSettings,
    pub kept: PathBuf,
    pub live: PathBuf,
    pub keeper: Keeper,
    pub reporter: Reporter,
    pub on_line: Box<dyn FnMut(LogLine) + Send>,
    /// Woken at each crash banner that is seen.
    pub supervisor: Waker,
    pub watch: Option<FileWatch>,
    pub following: Option<Following>,
    pub over: VecDeque<(u32, Collected)>,
}

/// The engine whose output is read.
pub(super) struct Following {
    launch: u32,
    path: PathBuf,
    /// `None`: nothing to read.
    tail: Option<Tail>,
    scan: CrashScan,
    /// When the last crash banner came; zero if before we did.
    banner_at: Duration,
    oom: OomCounters,
    /// `None`: not in memory, so not copied.
    progress: Option<Arc<Progress>>,
    is_given_up: bool,
}

impl Worker {
    pub(super) fn run(mut self) {
        loop {
            let more = self.read(TURN_BYTES_MAX);
            let work = lock(&self.shared.work).pop_front();
            match work {
                Some(Work::Leave) => {
                    self.read_to_end();
                    return;
                }
                Some(Work::Started {
                    launch,
                    pid,
                    path,
                    adopted,
                }) => {
                    // First what a relaunch may be waiting for.
                    self.keeper.push(Task::Prepare { after: launch });
                    self.end_tail();
                    self.follow(launch, pid, path, adopted);
                }
                Some(Work::StandbyStarted { launch }) => {
                    self.keeper.push(Task::Prepare { after: launch });
                }
                Some(Work::StandbyOver { launch, live }) => {
                    if live.parent() == Some(&*self.live) {
                        let progress = Arc::default();
                        self.keeper.push(Task::FollowDead {
                            launch,
                            live,
                            progress,
                        });
                    }
                }
                Some(Work::Runs(running)) => self.keeper.push(Task::Runs(running)),
                Some(Work::EndedCleanly { launch }) => {
                    self.read_to_end();
                    self.keeper.push(Task::EndedCleanly { launch });
                }
                Some(Work::Ended(facts)) => self.report(*facts),
                Some(Work::EndedUntold(facts, live)) => {
                    let output = Past {
                        launch: facts.incarnation,
                        live,
                        kept: self.kept.clone(),
                        lines_max: self.settings.report_lines,
                    };
                    self.reporter
                        .untold_death(*facts, Box::new(move || output.collect()));
                }
                None if more => {}
                None => self.sleep(),
            }
        }
    }

    fn sleep(&self) {
        let other = self.watch.as_ref().map(|watch| watch as &dyn Waitable);
        let needs_poll = self.watch.is_none() && self.following.is_some();
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

    fn follow(&mut self, launch: u32, pid: u32, path: Option<PathBuf>, adopted: bool) {
        let path = path.unwrap_or_default();
        let tail = match Tail::open(&path, launch, adopted) {
            Ok(tail) => Some(tail),
            Err(error) => {
                tracing::warn!(?path, %error, "engine output cannot be followed");
                None
            }
        };
        self.log
            .begin(launch, tail.as_ref().map_or(0, Tail::offset));
        // An engine of an earlier version may write to the disk itself.
        let progress = (path.parent() == Some(&*self.live)).then(|| {
            let progress = Arc::new(Progress::default());
            if adopted {
                // Until the copying has found out how far it is, nothing counts as waiting for it.
                progress.copied.store(u64::MAX, Ordering::Release);
            }
            self.keeper.push(Task::Follow {
                launch,
                live: path.clone(),
                progress: Arc::clone(&progress),
            });
            progress
        });
        if tail.is_some()
            && let Some(watch) = &mut self.watch
            && let Err(error) = watch.follow(&path)
        {
            tracing::warn!(?path, %error, "engine output is polled");
            self.watch = None;
        }
        self.following = Some(Following {
            launch,
            path,
            tail,
            scan: CrashScan::default(),
            banner_at: Duration::ZERO,
            oom: OomCounters::of(pid),
            progress,
            is_given_up: false,
        });
    }

    /// Reads what is there, up to `bytes_max`; returns whether there may be more.
    fn read(&mut self, bytes_max: usize) -> bool {
        let Some(following) = &mut self.following else {
            return false;
        };
        let Some(tail) = &mut following.tail else {
            return false;
        };
        let before = tail.offset();
        let (log, on_line, scan) = (&self.log, &mut self.on_line, &mut following.scan);
        let banner_at = &mut following.banner_at;
        let read = tail.read(bytes_max, |line, is_new| {
            if scan.push(&line) && is_new {
                *banner_at = monotonic_now();
            }
            log.push(line.clone());
            if is_new {
                on_line(line);
            }
        });
        let offset = tail.offset();
        if offset > before {
            self.grown(offset);
        }
        match read {
            Ok(more) => more,
            Err(error) => {
                tracing::warn!(%error, "engine output cannot be read");
                if let Some(following) = &mut self.following {
                    following.tail = None;
                }
                false
            }
        }
    }

    /// There is more of it, up to `offset`.
    fn grown(&mut self, offset: u64) {
        let Some(following) = &mut self.following else {
            return;
        };
        let banner = following.scan.banner().map(|banner| BannerSeen {
            launch: following.launch,
            signal: banner.signal,
            at: following.banner_at,
            last_line: monotonic_now(),
        });
        let is_another = {
            let mut seen = lock(&self.shared.banner);
            let at = |banner: &Option<BannerSeen>| banner.map(|banner| banner.at);
            let is_another = banner.is_some() && at(&banner) != at(&seen);
            *seen = banner;
            is_another
        };
        if is_another {
            self.supervisor.wake();
        }
        let Some(progress) = &following.progress else {
            return;
        };
        self.keeper.grown();
        let waiting = offset.saturating_sub(progress.copied.load(Ordering::Acquire));
        let held = offset.saturating_sub(progress.floor.load(Ordering::Acquire));
        let memory_max = self.settings.memory_bytes_max;
        if waiting.min(held) > memory_max {
            give_up(&following.path, progress, offset - memory_max / 2);
            if !following.is_given_up {
                following.is_given_up = true;
                tracing::warn!(
                    incarnation = following.launch,
                    waiting,
                    "the disk is too slow for the engine's output, a part of it is not kept"
                );
            }
        }
    }

    fn read_to_end(&mut self) {
        while self.read(TURN_BYTES_MAX) {}
    }

    /// The engine is dead: reads it to the end and keeps what was found for its report.
    fn end_tail(&mut self) {
        self.read_to_end();
        let Some(mut following) = self.following.take() else {
            return;
        };
        let (log, on_line, scan) = (&self.log, &mut self.on_line, &mut following.scan);
        if let Some(tail) = &mut following.tail {
            tail.end(|line, _| {
                scan.push(&line);
                log.push(line.clone());
                on_line(line);
            });
        }
        self.log.end();
        *lock(&self.shared.banner) = None;
        let launch = following.launch;
        let kept = match &following.progress {
            Some(_) => super::pieces::piece_path(&self.kept, launch, 0),
            None => following.path,
        };
        if following.progress.is_some() {
            self.keeper.push(Task::Over { launch });
        }
        let mut lines = self.log.last_lines(Some(launch));
        let lines = lines.split_off(lines.len().saturating_sub(self.settings.report_lines));
        let collected = Collected {
            scan: following.scan,
            lines,
            oom: following.oom,
            log: following.tail.is_some().then_some(kept),
        };
        self.over.push_back((launch, collected));
        if self.over.len() > OVER_MAX {
            self.over.pop_front();
        }
    }

    fn report(&mut self, facts: DeathFacts) {
        let launch = facts.incarnation;
        let is_followed = self.following.as_ref();
        if is_followed.is_some_and(|following| following.launch == launch) {
            self.end_tail();
        }
        let found = self.over.iter().position(|(over, _)| *over == launch);
        let collected = found
            .and_then(|at| self.over.remove(at))
            .map(|(_, collected)| collected)
            .unwrap_or_default();
        self.reporter.death(facts, collected);
    }
}
