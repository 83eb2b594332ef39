//! Takes frames out of the engines' rings and hands them, as slabs, to whoever commits them.
//!
//! One thread finds ring files and starts one drain thread for each session (`drain`). Intake knows rings and
//! slabs; what "committed" means is the [`Committer`]'s business. It never decides that an engine is dead: the ring
//! file's lock, which the kernel releases with the engine, proves that. Nor does it decide which engine is *the* engine:
//! it is told ([`Intake::expect`]), and takes nothing from the ring of an older one that lives beside it.

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU32, Ordering};
use std::sync::mpsc::{Receiver, SyncSender, TryRecvError, sync_channel};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use sidekick_ipc::attach::{AttachError, Attachment};
use sidekick_ipc::control::Controls;
use sidekick_ipc::header::SessionInfo;
use sidekick_ipc::heartbeat::HeartbeatReader;
use sidekick_ipc::message::Downlink;
use sidekick_ipc::name::RingFileName;
use sidekick_ipc::tree::{Pattern, StoreQuery, StoreResult, WatchBatch};
use tracing::{error, info, warn};
use uuid::Uuid;

use crate::books::Refused;
use crate::platform::{FileWatch, Waitable, Waker, wait};
use crate::slab::{OpAt, RingCheckpoint, Slab};

mod answers;
mod bell;
mod drain;
mod filter;
mod requests;
#[cfg(test)]
mod tests;

pub use drain::SessionProgress;
pub use filter::{Filter, FilterOrigin, Filtered};

/// Commands that may wait for the intake thread; more make the caller wait.
const COMMANDS_MAX: usize = 16;
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

/// What intake tells the committer about a session it found.
#[derive(Clone, Debug)]
pub struct SessionOpening {
    /// The session's UUID.
    pub epoch: Uuid,
    /// Number of the launch that wrote it.
    pub incarnation: u32,
    /// The wall clock when the session began, in nanoseconds since the Unix epoch.
    pub started_realtime_ns: i64,
    /// The game's version, as it tells it; empty where it has none.
    pub game_version: String,
}

/// Where a session stands in the committed state.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SessionResume {
    /// The watchdog's name under which the session was opened first; its records keep it.
    pub source: String,
    /// The first sequence number that is not committed.
    pub next_seq: u64,
    /// Where the reader stood after the last committed frame.
    pub checkpoint: RingCheckpoint,
    /// The session's end is committed already: its files can go.
    pub ended: bool,
    /// It ended, and what its ring still held is unknown.
    pub tail_unknown: bool,
}

/// How a session ended, as intake knows it.
#[derive(Clone, Debug)]
pub struct SessionEnding {
    /// The session's UUID.
    pub epoch: Uuid,
    /// Whether its ring was read to its end; if not, what it still held is unknown.
    pub tail_known: bool,
    /// The exit code that the engine announced, if it said goodbye.
    pub clean_exit: Option<i32>,
    /// What the session itself could not tell, to be committed together with its end.
    pub last: Option<Slab>,
}

/// Why something could not be committed.
#[derive(Debug, thiserror::Error)]
pub enum CommitError {
    /// The slab does not follow what is committed: an earlier one was lost on the way. Resume and send again.
    #[error("the slab does not follow what is committed, number {expected} comes next")]
    Hole {
        /// The next number that would be taken.
        expected: u64,
    },
    /// The session may not write (never opened, ended, or a newer one exists).
    #[error("session {epoch} may not write: {reason}")]
    Refused {
        /// The session.
        epoch: Uuid,
        /// Why, in words.
        reason: String,
    },
    /// There is no room just now; nothing was taken. Send it again later.
    #[error("not taken for now: {reason}")]
    Later {
        /// Why, in words.
        reason: String,
    },
    /// The store is gone; nothing will be committed any more.
    #[error("the store is closed")]
    Closed,
}

/// Commits what intake brings. `app` implements it over the store.
pub trait Committer: Send + Sync + 'static {
    /// Opens a session (again) and waits until that is committed and everything before it is applied, so that the
    /// answer is no older than what any earlier watchdog committed (CORRECTNESS rule 4).
    ///
    /// # Errors
    /// [`CommitError::Refused`] when the session may not write, [`CommitError::Later`], [`CommitError::Closed`].
    fn open(&self, opening: &SessionOpening) -> Result<SessionResume, CommitError>;

    /// Queues a slab and returns at once, or waits while the queue is full. Slabs are taken in the order of the
    /// calls. `ops` are the operations in it that are to be applied.
    fn append(&self, slab: Slab, ops: Vec<OpAt>) -> PendingAppend;

    /// Commits a session's end and waits for it.
    ///
    /// # Errors
    /// [`CommitError::Later`], [`CommitError::Closed`].
    fn end(&self, ending: &SessionEnding) -> Result<(), CommitError>;

    /// Answers a query from the committed state, in memory and at once. Never asked: to watch, to end a watch.
    fn query(&self, asker: &Asker, query: &StoreQuery) -> StoreResult;

    /// Answers of the asker's operations after number `after`, in order, that the asker has not acknowledged. At least
    /// one if there is one; what is missing is asked for with the last one's number.
    fn answers(&self, asker: &Asker, after: u64) -> Vec<(u64, StoreResult)>;

    /// How many keys of the asker's have checkpoints in the committed state, and the bytes of the newest of each.
    fn checkpoints(&self, asker: &Asker) -> (u64, u64);

    /// Whether every session before the asker's has ended: those that the state knows of, and `rings`, sessions whose
    /// rings are still there.
    fn earlier_ended(&self, asker: &Asker, rings: &[Uuid]) -> bool;

    /// The revision of the tree.
    fn revision(&self) -> u64;

    /// What happened to nodes that match after `revision`, in order; as much as fits into one message.
    fn events(&self, pattern: &Pattern, revision: u64) -> WatchBatch;

    /// Resolves when the state changes after this call. Polled by any thread, woken by any.
    fn changed(&self) -> Changed;

    /// So many records were refused by an engine, as gaps tell that are committed now.
    fn refused(&self, _refused: &Refused) {}

    /// What judges records before they are stored, as of now; `None` when none is to be judged.
    fn filter(&self) -> Option<Arc<dyn Filter>> {
        None
    }
}

/// Who asks.
#[derive(Clone, Debug)]
pub struct Asker {
    /// The watchdog's name under which its session was opened.
    pub source: String,
    /// The session.
    pub epoch: Uuid,
    /// Number of its launch.
    pub launch: u32,
}

/// A slab on its way to the disk: resolves when it is durable and applied, or refused with any [`CommitError`]. After
/// [`CommitError::Hole`] and [`CommitError::Later`] nothing of it was taken. Polled outside of any runtime.
pub type PendingAppend = Pin<Box<dyn Future<Output = Result<(), CommitError>> + Send>>;

/// See [`Committer::changed`].
pub type Changed = Pin<Box<dyn Future<Output = ()> + Send>>;

/// Settings of the intake.
#[derive(Clone, Debug)]
pub struct IntakeConfig {
    /// Where ring files appear.
    pub runtime_dir: PathBuf,
    /// The watchdog's configured name.
    pub source: String,
    /// Most bytes of frames in one slab.
    pub slab_bytes_max: usize,
    /// Most bytes of frames that one ring has on their way to the disk, so that the store has something to put together;
    /// one slab always is. All of it is held in memory while the disk is behind.
    pub in_flight_bytes_max: usize,
}

/// What intake has to say.
#[derive(Debug)]
pub enum IntakeEvent {
    /// A session's ring was opened.
    Attached(AttachedSession),
    /// A ring file cannot be used; the engine runs on, but its records stay where they are.
    Refused {
        /// Number of the launch that wrote it.
        launch: u32,
        /// Why.
        error: AttachError,
    },
    /// An older engine lives beside the newer one. Its ring is left alone until it is dead: end it.
    Stale {
        /// What its ring's header says; another process's word.
        info: SessionInfo,
        /// The ring.
        path: PathBuf,
    },
    /// The store refused a session for good; its records stay in its ring until somebody acts.
    ShutOut {
        /// Number of the launch.
        launch: u32,
        /// The ring.
        path: PathBuf,
        /// Why.
        reason: String,
    },
    /// A drain ended before all was committed; the ring keeps the rest for the next start.
    Left {
        /// Number of the launch.
        launch: u32,
        /// Why.
        reason: String,
    },
    /// A session's end is committed and its files are gone.
    Ended {
        /// Number of the launch.
        launch: u32,
        /// Its counts at the end.
        progress: Arc<SessionProgress>,
    },
}

/// A session whose ring is being drained.
#[derive(Clone, Debug)]
pub struct AttachedSession {
    /// What the ring's header says.
    pub info: SessionInfo,
    /// The engine's heartbeat words.
    pub heartbeat: HeartbeatReader,
    /// The words that the engine reads.
    pub controls: Controls,
    /// Messages to the engine.
    pub downlink: Downlink,
    /// Counts, kept up to date by the drain thread.
    pub progress: Arc<SessionProgress>,
}

enum Command {
    /// An engine was started or adopted; its ring will appear.
    Expect(u32),
    /// This launch waits to become the engine: its ring is left alone.
    StandsBy(u32),
    /// The directory may have changed, or an engine has died.
    Rescan,
    Stop,
}

/// The running intake. Dropping it does not stop it; [`Intake::stop`] does.
#[derive(Debug)]
pub struct Intake {
    commands: SyncSender<Command>,
    waker: Waker,
    stopping: Arc<AtomicBool>,
    thread: JoinHandle<()>,
}

impl Intake {
    /// Starts the intake thread. Events go to `on_event`, called from intake's threads; it must not block for long.
    ///
    /// # Errors
    /// When the thread cannot be started.
    pub fn spawn(
        config: IntakeConfig,
        committer: Arc<dyn Committer>,
        on_event: Arc<dyn Fn(IntakeEvent) + Send + Sync>,
    ) -> std::io::Result<Self> {
        let (commands, inbox) = sync_channel(COMMANDS_MAX);
        let stopping = Arc::new(AtomicBool::new(false));
        let stop = Arc::clone(&stopping);
        let waker = Waker::new()?;
        let own_waker = waker.clone();
        let thread = std::thread::Builder::new()
            .name("intake".into())
            .spawn(move || {
                Scanner {
                    config,
                    committer,
                    on_event,
                    stop,
                    active: Arc::new(AtomicU32::new(0)),
                    standby: 0,
                    unheard: BTreeMap::new(),
                    sessions: BTreeMap::new(),
                    refused: Vec::new(),
                    unopened: Vec::new(),
                    behind: BTreeMap::new(),
                    last_turn: None,
                }
                .run(&inbox, &own_waker);
            })?;
        Ok(Self {
            commands,
            waker,
            stopping,
            thread,
        })
    }

    /// An engine was started or adopted, and is *the* engine from now on: look for its ring eagerly. Rings of older
    /// launches are drained once their engines are dead. Before the first call nothing is drained.
    pub fn expect(&self, launch: u32) {
        self.send(Command::Expect(launch));
    }

    /// This launch waits to become the engine, and its ring with it.
    pub fn stands_by(&self, launch: u32) {
        self.send(Command::StandsBy(launch));
    }

    /// An engine died, or a ring may have appeared: look now.
    pub fn rescan(&self) {
        self.send(Command::Rescan);
    }

    /// Drains what dead engines left, stops reading the rings of living ones, and waits for the threads.
    pub fn stop(self) {
        self.stopping.store(true, Ordering::Release);
        self.send(Command::Stop);
        if self.thread.join().is_err() {
            error!("the intake thread panicked");
        }
    }

    fn send(&self, command: Command) {
        // The thread ends only by `stop`, which consumes us; a full inbox makes us wait a moment.
        let _ = self.commands.send(command);
        self.waker.wake();
    }
}

/// The intake thread: finds ring files and keeps one drain thread for each session.
struct Scanner {
    config: IntakeConfig,
    committer: Arc<dyn Committer>,
    on_event: Arc<dyn Fn(IntakeEvent) + Send + Sync>,
    stop: Arc<AtomicBool>,
    /// The launch that is the engine; 0 = not told yet.
    active: Arc<AtomicU32>,
    /// The launch that waits to become the engine; 0 = none.
    standby: u32,
    /// Rings of launches beyond the active one: since when, and whether it was told.
    unheard: BTreeMap<PathBuf, (Instant, bool)>,
    /// One for each launch: processes that one engine command starts in turn are drained in turn.
    sessions: BTreeMap<u32, drain::Session>,
    /// Files that are refused for good.
    refused: Vec<PathBuf>,
    /// Files that cannot be opened now; they are told of once, and tried again with each look.
    unopened: Vec<PathBuf>,
    /// Rings beside the one that is drained, of the same launch: since when, and whether it was told.
    behind: BTreeMap<PathBuf, (Instant, bool)>,
    /// Closes when the session found last is opened.
    last_turn: Option<Receiver<()>>,
}

impl Scanner {
    fn run(mut self, inbox: &Receiver<Command>, waker: &Waker) {
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
        self.unheard.retain(|path, _| is_there(path));
        self.behind.retain(|path, _| is_there(path));
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
            let (since, told) = self
                .behind
                .entry(file.path.clone())
                .or_insert_with(|| (Instant::now(), false));
            if session.epoch() != file.epoch
                && since.elapsed() > UNHEARD_MAX
                && !std::mem::replace(told, true)
            {
                warn!(
                    path = %file.path.display(),
                    launch = file.launch,
                    "two processes of one launch record; the second one's records wait in its ring until the first has \
                     ended. Let the engine command run one engine at a time"
                );
            }
            return false;
        }
        self.behind.remove(&file.path);
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
            self.unheard.remove(&file.path);
            return true;
        }
        if file.launch == self.standby {
            return false;
        }
        let (since, told) = self
            .unheard
            .entry(file.path.clone())
            .or_insert_with(|| (Instant::now(), false));
        if since.elapsed() > UNHEARD_MAX && !std::mem::replace(told, true) {
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
