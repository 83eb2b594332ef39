//! What came of a command, and why one changed nothing.

use serde::{Deserialize, Serialize};
use sidekick_ipc::tree::StoreResult;
use uuid::Uuid;

use crate::slab::RingCheckpoint;
use crate::store::state::{LETTERS_BYTES_MAX, LETTERS_MAX, SinkChange};

/// What sizes are told in.
const MIB: u64 = 1 << 20;

/// What came of a command. Every variant but `Refused` means that its effect is in the state.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub(crate) enum Outcome {
    /// Done, or was done before.
    Done,
    /// The group's UUID.
    Group(Uuid),
    /// Where the session stands.
    Session {
        /// The next sequence number expected.
        next_seq: u64,
        /// Where the ring's reader stands; `None` before the first slab.
        checkpoint: Option<RingCheckpoint>,
    },
    /// Where the session stands after the slab.
    Appended {
        /// The next sequence number expected.
        next_seq: u64,
        /// Where the ring's reader stands.
        checkpoint: RingCheckpoint,
    },
    /// The lanes in force, sink by sink.
    Sinks(Vec<(String, u32)>),
    /// Nothing was changed.
    Refused(Refusal),
    /// The lanes in force, sink by sink, and what became of which sink.
    SinksNamed {
        /// Name and lanes.
        lanes: Vec<(String, u32)>,
        /// Who came and who went.
        changes: Vec<SinkChange>,
    },
    /// Where the session stands after the slab, and what came of the ops in it.
    AppendedOps {
        /// The next sequence number expected.
        next_seq: u64,
        /// Where the ring's reader stands.
        checkpoint: RingCheckpoint,
        /// By the ops' numbers.
        answers: Vec<(u64, StoreResult)>,
    },
    /// What came of an op.
    Executed(StoreResult),
    /// How many dead letters were changed.
    Letters(u64),
    /// The version of the rules.
    Rules(u32),
}

/// Why a command changed nothing.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, thiserror::Error)]
pub enum Refusal {
    /// The session was never opened, or is forgotten.
    #[error("the session is not open")]
    UnknownSession,
    /// The session has ended.
    #[error("the session has ended")]
    SessionEnded,
    /// A later launch has opened a session already.
    #[error("launch {launch} is not above {last}, the last one of its source")]
    OldLaunch {
        /// The launch that was refused.
        launch: u32,
        /// The highest one seen.
        last: u32,
    },
    /// Sequence numbers are missing before the slab.
    #[error("the slab begins at {first_seq}, {expected} comes next")]
    Hole {
        /// The slab's first number.
        first_seq: u64,
        /// The number that comes next.
        expected: u64,
    },
    /// The slab covers no or too many sequence numbers.
    #[error("the slab's count is out of range")]
    BadCount,
    /// No such sink or lane.
    #[error("no such sink or lane")]
    UnknownLane,
    /// Another plan of this lane is not finished.
    #[error("another plan of this lane is not finished")]
    PlanStands,
    /// The plan begins at or before what is uploaded already.
    #[error("the plan begins at or before what is uploaded already")]
    PlanBehind,
    /// The plan's last position is before its first, or its extra bytes are too many.
    #[error("the plan is not one")]
    BadPlan,
    /// Another session of the same launch has not ended.
    #[error("another session of launch {launch} is still open; its ring has to be drained first")]
    LaunchBusy {
        /// The launch.
        launch: u32,
    },
    /// The launch has opened more sessions than are remembered.
    #[error(
        "launch {launch} has opened {max} sessions, no more are taken; let each process be a launch of its own"
    )]
    LaunchSessions {
        /// The launch.
        launch: u32,
        /// How many it may open.
        max: usize,
    },
    /// No more dead letters are kept.
    #[error(
        "dead letters are full ({count} of {LETTERS_MAX} letters, {:.1} of {} MiB); replay or drop some",
        *bytes as f64 / MIB as f64,
        LETTERS_BYTES_MAX / MIB
    )]
    LettersFull {
        /// How many there are.
        count: u64,
        /// What they take.
        bytes: u64,
    },
    /// No such dead letter, or it is not being replayed with this number.
    #[error("no such dead letter, or this replay of it is over")]
    UnknownLetter,
    /// A letter of this lane is being replayed.
    #[error("a dead letter of this lane is being replayed")]
    ReplayStands,
    /// Records are not folded, or another step came first.
    #[error("these records are folded already, or are not to be")]
    NotNext,
}

/// What came of a batch, command by command; empty for entries without commands.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub(crate) struct Outcomes(pub(crate) Vec<Outcome>);
