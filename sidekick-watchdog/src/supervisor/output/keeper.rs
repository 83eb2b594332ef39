//! The thread that touches the data directory's disk for engine output: it reserves launch numbers, copies output,
//! deletes old one. When the disk stands still it does too, and nobody waits for it.

use std::collections::VecDeque;
use std::fs;
use std::path::PathBuf;
use std::sync::mpsc::SyncSender;
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use super::super::launch::{Running, RunningFile};
use super::numbers::{Numbers, live_launches};
use super::pieces::{live_path, prune};
use super::spool::{Progress, Spool};
use super::{OutputError, OutputSettings, Prepared};

/// Tasks that wait for the disk; beyond it the oldest is dropped (its live file is seen to by the next start).
const TASKS_MAX: usize = 256;
/// Dead engines whose output waits for the disk; beyond it the oldest loses what is not copied.
const OVER_MAX: usize = 8;
/// After an error, until the next try.
const RETRY: Duration = Duration::from_secs(1);
/// How long the end of the watchdog waits for the disk. What is not copied then is by the next start.
const LAST_GRACE: Duration = Duration::from_secs(2);
const POLL: Duration = Duration::from_millis(2);

#[derive(Debug)]
pub(super) enum Task {
    /// Reserve a number beyond this one.
    Prepare { after: u32 },
    /// Note which process the engine is.
    Runs(Running),
    /// Copy what this engine writes.
    Follow {
        launch: u32,
        live: PathBuf,
        progress: Arc<Progress>,
    },
    /// Copy what this dead standby wrote.
    FollowDead {
        launch: u32,
        live: PathBuf,
        progress: Arc<Progress>,
    },
    /// This engine is dead and everything that it wrote is there.
    Over { launch: u32 },
    /// The last engine's end was asked for, or clean, and none follows.
    EndedCleanly { launch: u32 },
}

#[derive(Debug, Default)]
struct Queue {
    tasks: VecDeque<Task>,
    grown: bool,
    leave: bool,
}

#[derive(Debug, Default)]
struct Shared {
    /// Held for a push or a pop, never while a file is touched.
    queue: Mutex<Queue>,
    ready: Condvar,
}

impl Shared {
    fn lock(&self) -> MutexGuard<'_, Queue> {
        // The queue is whole between any two statements.
        self.queue.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// The hold of the thread; on drop it is waited for, a moment at most.
#[derive(Debug)]
pub(super) struct Keeper {
    shared: Arc<Shared>,
    thread: Option<JoinHandle<()>>,
}

impl Keeper {
    /// Starts the thread. Live files of engines other than `running`, its `standby` and the prepared are of the dead: they are copied
    /// and removed.
    pub(super) fn start(
        settings: OutputSettings,
        (kept, live): (PathBuf, PathBuf),
        numbers: Numbers,
        ready: SyncSender<Result<Prepared, OutputError>>,
        (running, standby): (Option<u32>, Option<u32>),
        running_file: RunningFile,
    ) -> std::io::Result<Self> {
        let shared = Arc::new(Shared::default());
        let prepared = numbers.last;
        let mut worker = Worker {
            shared: Arc::clone(&shared),
            settings,
            kept,
            live,
            numbers,
            ready,
            spools: Vec::new(),
            unopened: Vec::new(),
            followed: running.max(standby).unwrap_or(0),
            running,
            running_file,
            is_failing: false,
        };
        let thread = std::thread::Builder::new()
            .name("engine-files".to_owned())
            .spawn(move || {
                for launch in live_launches(&worker.live) {
                    if ![Some(prepared), running, standby].contains(&Some(launch)) {
                        let live = live_path(&worker.live, launch);
                        worker.follow(launch, live, Arc::default());
                        worker.over(launch);
                    }
                }
                worker.run();
            })?;
        Ok(Self {
            shared,
            thread: Some(thread),
        })
    }

    /// Never blocks.
    pub(super) fn push(&self, task: Task) {
        let mut queue = self.shared.lock();
        if queue.tasks.len() >= TASKS_MAX {
            queue.tasks.pop_front();
        }
        queue.tasks.push_back(task);
        drop(queue);
        self.shared.ready.notify_one();
    }

    /// Tells that there is more to copy. Never blocks.
    pub(super) fn grown(&self) {
        self.shared.lock().grown = true;
        self.shared.ready.notify_one();
    }
}

impl Drop for Keeper {
    fn drop(&mut self) {
        self.shared.lock().leave = true;
        self.shared.ready.notify_one();
        let Some(thread) = self.thread.take() else {
            return;
        };
        let until = Instant::now() + LAST_GRACE;
        while !thread.is_finished() {
            if Instant::now() >= until {
                tracing::warn!(
                    "engine output waits for the disk; the next start copies what is left of it"
                );
                return;
            }
            std::thread::sleep(POLL);
        }
        let _ = thread.join();
    }
}

struct Worker {
    shared: Arc<Shared>,
    settings: OutputSettings,
    kept: PathBuf,
    live: PathBuf,
    numbers: Numbers,
    ready: SyncSender<Result<Prepared, OutputError>>,
    spools: Vec<Spool>,
    /// Those that could not be opened yet.
    unopened: Vec<(u32, PathBuf, Arc<Progress>, bool)>,
    /// The highest launch that was followed: its live file is an engine's.
    followed: u32,
    running: Option<u32>,
    running_file: RunningFile,
    is_failing: bool,
}

impl Worker {
    fn run(mut self) {
        loop {
            let (task, leave) = self.next();
            match task {
                Some(task) => {
                    self.carry_out(task);
                    continue;
                }
                None => {
                    let more = self.copy();
                    if leave && !more {
                        self.leave();
                        return;
                    }
                    if more {
                        continue;
                    }
                }
            }
            self.sleep();
        }
    }

    fn next(&self) -> (Option<Task>, bool) {
        let mut queue = self.shared.lock();
        queue.grown = false;
        (queue.tasks.pop_front(), queue.leave)
    }

    fn sleep(&self) {
        let queue = self.shared.lock();
        let at_rest = |queue: &mut Queue| queue.tasks.is_empty() && !queue.grown && !queue.leave;
        // Poisoned is as good as whole here.
        if self.is_failing || !self.unopened.is_empty() {
            // Growth is no reason to try a failing disk earlier.
            let at_rest = |queue: &mut Queue| queue.tasks.is_empty() && !queue.leave;
            drop(self.shared.ready.wait_timeout_while(queue, RETRY, at_rest));
        } else {
            drop(self.shared.ready.wait_while(queue, at_rest));
        }
    }

    fn carry_out(&mut self, task: Task) {
        match task {
            Task::Prepare { after } => {
                if self.numbers.last <= after {
                    // Full: one that nobody has taken yet is there already.
                    let _ = self.ready.try_send(self.numbers.prepare(after));
                }
            }
            Task::Follow {
                launch,
                live,
                progress,
            } => {
                self.running = Some(launch);
                self.follow(launch, live, progress);
                self.prune();
            }
            Task::FollowDead {
                launch,
                live,
                progress,
            } => {
                self.follow(launch, live, progress);
                self.over(launch);
            }
            Task::Runs(running) => {
                if let Err(error) = self.running_file.write(&running) {
                    tracing::warn!(%error, "which process the engine is was not noted in the data directory");
                }
            }
            Task::Over { launch } => self.over(launch),
            Task::EndedCleanly { launch } => {
                let last = launch.max(self.numbers.last);
                if let Err(error) = self.numbers.write(last, "clean") {
                    tracing::warn!(%error, "clean end was not noted");
                }
            }
        }
    }

    fn follow(&mut self, launch: u32, live: PathBuf, progress: Arc<Progress>) {
        self.followed = self.followed.max(launch);
        if let Err(progress) = self.open(launch, &live, progress, false) {
            self.unopened.push((launch, live, progress, false));
        }
    }

    fn open(
        &mut self,
        launch: u32,
        live: &std::path::Path,
        progress: Arc<Progress>,
        is_over: bool,
    ) -> Result<(), Arc<Progress>> {
        let rotate_bytes = self.settings.rotate_bytes;
        match Spool::open(
            &self.kept,
            live,
            launch,
            rotate_bytes,
            Arc::clone(&progress),
        ) {
            Ok(mut spool) => {
                spool.is_over = is_over;
                self.spools.push(spool);
                Ok(())
            }
            // Nothing to copy from.
            Err(error) if error.kind() == std::io::ErrorKind::NotFound && !live.exists() => Ok(()),
            Err(error) => {
                self.fail(launch, &error);
                Err(progress)
            }
        }
    }

    fn over(&mut self, launch: u32) {
        if self.running == Some(launch) {
            self.running = None;
        }
        for spool in &mut self.spools {
            spool.is_over |= spool.launch == launch;
        }
        for (unopened, _, _, is_over) in &mut self.unopened {
            *is_over |= *unopened == launch;
        }
    }

    fn fail(&mut self, launch: u32, error: &std::io::Error) {
        if !self.is_failing {
            tracing::warn!(
                incarnation = launch, %error,
                "engine output is not on the disk, the last of it is kept in memory; {}",
                crate::platform::remedy(error)
            );
        }
        self.is_failing = true;
    }

    /// Copies a chunk of each; returns whether there may be more.
    fn copy(&mut self) -> bool {
        // What fails as it did before is not told again.
        let was_failing = self.is_failing;
        for (launch, live, progress, is_over) in std::mem::take(&mut self.unopened) {
            if let Err(progress) = self.open(launch, &live, progress, is_over) {
                self.unopened.push((launch, live, progress, is_over));
            }
        }
        let (mut more, mut rotated) = (false, false);
        let mut failure = None;
        self.spools.retain_mut(|spool| match spool.step() {
            Ok(step) => {
                more |= step.more;
                rotated |= step.rotated;
                let is_done = spool.is_over && !step.more;
                if is_done {
                    let _ = fs::remove_file(&spool.live_path);
                }
                !is_done
            }
            Err(error) => {
                failure = Some((spool.launch, error));
                true
            }
        });
        if let Some((launch, error)) = failure {
            self.fail(launch, &error);
            self.drop_oldest();
            return false;
        }
        self.is_failing = !self.unopened.is_empty();
        if self.is_failing {
            self.drop_oldest();
        } else if was_failing {
            tracing::info!("engine output is on the disk again");
        }
        if rotated {
            self.prune();
        }
        more
    }

    /// With a disk that takes nothing, dead engines' output must not fill the memory.
    fn drop_oldest(&mut self) {
        let opened = self.spools.iter().filter(|spool| spool.is_over);
        let unopened = self.unopened.iter().filter(|(.., is_over)| *is_over);
        let mut over: Vec<u32> = opened
            .map(|spool| spool.launch)
            .chain(unopened.map(|(launch, ..)| *launch))
            .collect();
        over.sort_unstable();
        over.truncate(over.len().saturating_sub(OVER_MAX));
        let goes = |launch: u32, live: &std::path::Path| {
            let goes = over.binary_search(&launch).is_ok();
            if goes {
                let _ = fs::remove_file(live);
                tracing::warn!(incarnation = launch, "the end of its output is lost");
            }
            goes
        };
        self.spools
            .retain(|spool| !goes(spool.launch, &spool.live_path));
        self.unopened
            .retain(|(launch, live, ..)| !goes(*launch, live));
    }

    fn prune(&self) {
        let settings = &self.settings;
        let in_use: Vec<u32> = self.spools.iter().map(|spool| spool.launch).collect();
        prune(
            &self.kept,
            settings.disk_bytes_max,
            settings.launches_kept,
            &in_use,
        );
    }

    /// A file that was prepared for an engine that never came.
    fn leave(&self) {
        let unused = self.numbers.last;
        if unused > self.followed {
            let path = live_path(&self.live, unused);
            if fs::metadata(&path).is_ok_and(|found| found.len() == 0) {
                let _ = fs::remove_file(path);
            }
        }
    }
}
