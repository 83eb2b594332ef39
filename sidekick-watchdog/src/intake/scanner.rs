//! Finds ring files, and has each drained in its turn.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU32, Ordering};
use std::sync::mpsc::{Receiver, TryRecvError};
use std::time::{Duration, Instant};

use sidekick_ipc::attach::{AttachError, Attachment};
use sidekick_ipc::name::RingFileName;
use tracing::{error, info, warn};

use super::{Command, Committer, IntakeConfig, IntakeEvent, drain};
use crate::platform::{FileWatch, Waitable, Waker, wait};

/// How often the directory is looked at, though it is told when something comes to be in it (see [`FileWatch`]).
const SCAN_IDLE: Duration = Duration::from_secs(5);
/// The same where it is not told, while a started engine's ring is awaited.
const SCAN_AWAITED: Duration = Duration::from_millis(5);
const SCAN_AWAITED_LATE: Duration = Duration::from_millis(100);
/// A ring file that is unfinished for so long will never be finished.
const UNFINISHED_AGE: Duration = Duration::from_secs(60);
/// A ring of a launch that we never heard of is told of after this long: until then we may hear of it.
const UNHEARD_MAX: Duration = Duration::from_secs(10);
/// After this long without the ring, looking every few milliseconds is a waste.
const AWAITED_EAGERLY: Duration = Duration::from_secs(5);
/// After this long it is a program without the extension, or one that loads for ever.
const AWAITED_AT_ALL: Duration = Duration::from_secs(60);

/// The intake thread: finds ring files and keeps one drain thread for each session.
pub(super) struct Scanner {
    config: IntakeConfig,
    committer: Arc<dyn Committer>,
    on_event: Arc<dyn Fn(IntakeEvent) + Send + Sync>,
    stop: Arc<AtomicBool>,
    /// The launch that is the engine; 0 = not told yet.
    active: Arc<AtomicU32>,
    /// The launch that waits to become the engine; 0 = none.
    standby: u32,
    /// Rings of launches beyond the active one.
    unheard: Overdue,
    /// One for each launch: processes that one engine command starts in turn are drained in turn.
    sessions: BTreeMap<u32, drain::Session>,
    /// Files that are refused for good.
    refused: Vec<PathBuf>,
    /// Files that cannot be opened now; they are told of once, and tried again with each look.
    unopened: Vec<PathBuf>,
    /// Rings beside the one that is drained, of the same launch.
    behind: Overdue,
    /// Closes when the session found last is opened.
    last_turn: Option<Receiver<()>>,
}

/// Rings that wait: since when, and whether it was told.
#[derive(Default)]
struct Overdue(BTreeMap<PathBuf, (Instant, bool)>);

impl Overdue {
    /// The ring at `path` waits; whether it does for so long that somebody should know. Says so once.
    fn is_to_be_told(&mut self, path: &Path) -> bool {
        let (since, told) = self
            .0
            .entry(path.to_owned())
            .or_insert_with(|| (Instant::now(), false));
        since.elapsed() > UNHEARD_MAX && !std::mem::replace(told, true)
    }
}

impl Scanner {
    pub(super) fn new(
        config: IntakeConfig,
        committer: Arc<dyn Committer>,
        on_event: Arc<dyn Fn(IntakeEvent) + Send + Sync>,
        stop: Arc<AtomicBool>,
    ) -> Self {
        Self {
            config,
            committer,
            on_event,
            stop,
            active: Arc::new(AtomicU32::new(0)),
            standby: 0,
            unheard: Overdue::default(),
            sessions: BTreeMap::new(),
            refused: Vec::new(),
            unopened: Vec::new(),
            behind: Overdue::default(),
            last_turn: None,
        }
    }

    pub(super) fn run(mut self, inbox: &Receiver<Command>, waker: &Waker) {
        let mut swept: Option<Instant> = None;
        let mut awaited: Option<(u32, Instant)> = None;
        let mut watch = FileWatch::new().ok();
        'life: loop {
            // Before the look, so that what comes after it is told; anew, since the folder may be another by now.
            let is_watched = watch.as_mut().is_some_and(|watch| {
                watch.clear();
                watch.follow_names(&self.config.runtime_dir).is_ok()
            });
            self.scan();
            if swept.is_none_or(|at| at.elapsed() > UNFINISHED_AGE) {
                self.sweep();
                swept = Some(Instant::now());
            }
            if awaited.is_some_and(|(launch, _)| self.sessions.contains_key(&launch)) {
                awaited = None;
            }
            let pause = match awaited {
                _ if is_watched => SCAN_IDLE,
                Some((_, since)) if since.elapsed() < AWAITED_EAGERLY => SCAN_AWAITED,
                Some((_, since)) if since.elapsed() < AWAITED_AT_ALL => SCAN_AWAITED_LATE,
                _ => SCAN_IDLE,
            };
            let names = watch.as_ref().filter(|_| is_watched);
            let names = names.map(|watch| watch as &dyn Waitable);
            if let Err(error) = wait(waker, names, Some(pause)) {
                warn!(%error, "intake cannot wait for rings");
                std::thread::sleep(SCAN_AWAITED_LATE);
            }
            loop {
                match inbox.try_recv() {
                    Ok(Command::Expect(launch)) => {
                        self.active.fetch_max(launch, Ordering::AcqRel);
                        awaited = Some((launch, Instant::now()));
                        self.sessions.values().for_each(drain::Session::wake);
                    }
                    Ok(Command::StandsBy(launch)) => self.standby = launch,
                    Ok(Command::Rescan) => self.sessions.values().for_each(drain::Session::wake),
                    Err(TryRecvError::Empty) => break,
                    Ok(Command::Stop) | Err(TryRecvError::Disconnected) => break 'life,
                }
            }
        }
        // Engines that died a moment ago have left rings: whatever is there now is still taken.
        self.scan();
        for session in self.sessions.into_values() {
            session.wake();
            session.join();
        }
    }

    fn scan(&mut self) {
        let finished: Vec<u32> = self
            .sessions
            .iter()
            .filter(|(_, session)| session.is_finished())
            .map(|(launch, _)| *launch)
            .collect();
        let mut shut_out = Vec::new();
        for launch in finished {
            if let Some(session) = self.sessions.remove(&launch) {
                let epoch = session.epoch();
                if session.join() {
                    shut_out.push(epoch);
                }
            }
        }
        let files = match sidekick_ipc::name::scan(&self.config.runtime_dir) {
            Ok(files) => files,
            Err(error) => {
                warn!(%error, dir = %self.config.runtime_dir.display(), "runtime directory cannot be read");
                return;
            }
        };
        let is_there = |path: &PathBuf| files.iter().any(|file| file.path == *path);
        self.refused.retain(is_there);
        self.unopened.retain(is_there);
        self.unheard.0.retain(|path, _| is_there(path));
        self.behind.0.retain(|path, _| is_there(path));
        let is_shut_out = |file: &&RingFileName| shut_out.contains(&file.epoch);
        self.refused.extend(
            files
                .iter()
                .filter(is_shut_out)
                .map(|file| file.path.clone()),
        );
        for file in &files {
            // Later rotations of a session are opened by its drain thread, in order.
            let first_of_launch = !files.iter().any(|other| {
                other.launch == file.launch
                    && other.epoch == file.epoch
                    && other.rotation < file.rotation
            });
            if first_of_launch
                && self.is_heard_of(file)
                && !self.refused.contains(&file.path)
                && self.is_its_turn(file, &files)
            {
                self.attach(file);
            }
        }
    }

    /// Whether no other session of the same launch is drained, or is to be drained before. Tells of one that waits long.
    fn is_its_turn(&mut self, file: &RingFileName, files: &[RingFileName]) -> bool {
        if let Some(session) = self.sessions.get(&file.launch) {
            if session.epoch() != file.epoch && self.behind.is_to_be_told(&file.path) {
                warn!(
                    path = %file.path.display(),
                    launch = file.launch,
                    "two processes of one launch record; the second one's records wait in its ring until the first has \
                     ended. Let the engine command run one engine at a time"
                );
            }
            return false;
        }
        self.behind.0.remove(&file.path);
        let mut others = files
            .iter()
            .filter(|other| other.launch == file.launch && other.epoch != file.epoch)
            .filter(|other| !self.refused.contains(&other.path))
            .peekable();
        if others.peek().is_none() {
            return true;
        }
        // Rare, so the header is read anew each time.
        let began = |file: &RingFileName| {
            Attachment::open(file).map_or(u64::MAX, |ring| ring.info().realtime_base_ns)
        };
        let own = began(file);
        others.all(|other| (own, file.epoch) < (began(other), other.epoch))
    }

    /// Whether a ring is of a launch that was the engine at some time. A later number would shut out every engine to
    /// come, since the store takes no session below the highest launch that it knows.
    fn is_heard_of(&mut self, file: &RingFileName) -> bool {
        let active = self.active.load(Ordering::Acquire);
        if active == 0 {
            return false;
        }
        if file.launch <= active {
            self.unheard.0.remove(&file.path);
            return true;
        }
        if file.launch == self.standby {
            return false;
        }
        if self.unheard.is_to_be_told(&file.path) {
            warn!(
                path = %file.path.display(),
                launch = file.launch,
                engine = active,
                "a ring of a launch that was never made is left alone; end its engine and move it away"
            );
        }
        false
    }

    /// Removes what engines left that were killed while they made their ring: each is as large as a ring.
    fn sweep(&self) {
        match sidekick_ipc::remove_unfinished(&self.config.runtime_dir, UNFINISHED_AGE) {
            Ok(0) => {}
            Ok(count) => info!(count, "unfinished ring files removed"),
            Err(error) => warn!(%error, "unfinished ring files cannot be removed"),
        }
    }

    fn attach(&mut self, file: &RingFileName) {
        match Attachment::open(file) {
            Ok(attachment) => {
                let (turn, after) = drain::Turn::after(self.last_turn.take());
                self.last_turn = Some(after);
                let session = drain::Session::start(
                    attachment,
                    file.launch,
                    &self.config,
                    Arc::clone(&self.committer),
                    Arc::clone(&self.on_event),
                    drain::Flags {
                        stop: Arc::clone(&self.stop),
                        active: Arc::clone(&self.active),
                    },
                    turn,
                );
                match session {
                    Ok(session) => {
                        self.sessions.insert(file.launch, session);
                    }
                    Err(error) => {
                        error!(%error, launch = file.launch, "no thread for the ring; trying again");
                    }
                }
            }
            Err(error) => {
                let list = match error {
                    AttachError::Io { .. } => &mut self.unopened,
                    _ => &mut self.refused,
                };
                if list.contains(&file.path) {
                    return;
                }
                list.push(file.path.clone());
                (self.on_event)(IntakeEvent::Refused {
                    launch: file.launch,
                    error,
                });
            }
        }
    }
}
