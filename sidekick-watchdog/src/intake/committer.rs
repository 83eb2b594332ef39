//! Who commits what intake brings, in intake's own words.

use std::pin::Pin;
use std::sync::Arc;

use sidekick_ipc::tree::{Pattern, StoreQuery, StoreResult, WatchBatch};
use uuid::Uuid;

use super::Filter;
use crate::books::Refused;
use crate::slab::{OpAt, RingCheckpoint, Slab};

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
