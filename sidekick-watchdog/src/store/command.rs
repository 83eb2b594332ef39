//! What is proposed to the group. `batch`: how it lies in an entry. `outcome`: what came of it.
//!
//! Commands and outcomes gain variants at their end and change nothing else: old logs must stay readable.

mod batch;
mod outcome;

use serde::{Deserialize, Serialize};
use uuid::Uuid;

pub(crate) use self::batch::Batch;
pub use self::outcome::Refusal;
pub(crate) use self::outcome::{Outcome, Outcomes};
use super::state::Step;
use crate::books::{Counts, Letter};
use crate::position::Position;
use crate::slab::{OpAt, SlabHead};

/// What is proposed.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) enum Command {
    /// Names the group; the first one holds.
    Init {
        /// The UUID proposed.
        group: Uuid,
    },
    /// Opens a session, or the same one again.
    OpenSession {
        /// The watchdog's name.
        source: String,
        /// The session.
        epoch: Uuid,
        /// The launch number of its engine.
        launch: u32,
        /// Wall clock at the session's start, in nanoseconds since the Unix epoch.
        started_realtime_ns: i64,
    },
    /// Takes a slab; its frames lie behind the heads.
    Append {
        /// Whose, from where to where.
        head: SlabHead,
        /// How many bytes of frames.
        frames_bytes: u32,
    },
    /// Ends a session.
    EndSession {
        /// The watchdog's name.
        source: String,
        /// The session.
        epoch: Uuid,
        /// Why it ended, in words.
        cause: String,
        /// The ring vanished: nobody knows what it still held.
        tail_unknown: bool,
    },
    /// Tells which sinks there are and how many lanes each has; no longer proposed, [`Command::PlaceSinks`] is.
    SetSinks {
        /// Name and lanes.
        sinks: Vec<(String, u32)>,
    },
    /// Fixes an upload batch before its first try.
    Plan {
        /// For which sink.
        sink: String,
        /// For which of its lanes.
        lane: u32,
        /// The batch.
        plan: Plan,
    },
    /// Moves a lane's watermark; no longer proposed, [`Command::Settle`] is.
    Uploaded {
        /// For which sink.
        sink: String,
        /// For which of its lanes.
        lane: u32,
        /// Everything of this lane up to and with this position is done with.
        up_to: Position,
        /// How many records that were.
        records: u64,
    },
    /// Takes a slab of the watchdog's own, once; its frames lie behind the heads.
    Derived {
        /// Whose; its epoch is what tells it from others.
        head: SlabHead,
        /// How many bytes of frames.
        frames_bytes: u32,
    },
    /// As [`Command::PlaceSinks`], where a new sink takes the place of others only if none of them stays; no longer proposed.
    NameSinks {
        /// Name and lanes.
        sinks: Vec<(String, u32)>,
        /// The log of the node that proposes this holds nothing up to and with this entry.
        purged: u64,
    },
    /// As [`Command::Append`], of a slab in which ops of the state store ride; these are applied from its frames.
    AppendOps {
        /// Whose, from where to where.
        head: SlabHead,
        /// How many bytes of frames.
        frames_bytes: u32,
        /// Where in them the ops are.
        ops: Vec<OpAt>,
        /// Log time, set by the proposer.
        time_ns: u64,
    },
    /// Lets log time go on: a lease is due.
    Tick {
        /// Log time, set by the proposer.
        time_ns: u64,
    },
    /// Applies an op of a client that is no session, once for each of its numbers.
    Execute {
        /// Who asks.
        client: Uuid,
        /// Its number for this op.
        number: u64,
        /// The op, encoded.
        #[serde(with = "serde_bytes")]
        op: Vec<u8>,
        /// Log time, set by the proposer.
        time_ns: u64,
    },
    /// Moves a lane's watermark and writes into the sink's books what became of everything between.
    Settle {
        /// For which sink.
        sink: String,
        /// For which of its lanes.
        lane: u32,
        /// Everything of this lane up to and with this position is done with.
        up_to: Position,
        /// What became of what lies between the watermark and `up_to`.
        counts: Counts,
    },
    /// Keeps a record that nobody would take, and moves its lane's watermark past it.
    DeadLetter {
        /// For which sink.
        sink: String,
        /// For which of its lanes.
        lane: u32,
        /// What became of what lies between the watermark and the letter.
        counts: Counts,
        /// The record and what was said of it.
        letter: Letter,
        /// Log time, set by the proposer.
        time_ns: u64,
    },
    /// Does something to dead letters.
    Letters {
        /// What.
        change: LetterChange,
        /// Log time, set by the proposer.
        time_ns: u64,
    },
    /// Puts rules in force; the answer is their version.
    SetRules {
        /// What they are made of; empty for none.
        text: String,
    },
    /// Begins or ends folding.
    SetFolding {
        /// Which of the two.
        is_on: bool,
    },
    /// Takes what has come of folding the entries behind the cursor.
    Fold {
        /// What it changes.
        step: Step,
        /// Head and bytes of frames of the rows that it brings; the frames lie behind the heads.
        rows: Option<(SlabHead, u32)>,
    },
    /// As [`Command::OpenSession`], which is proposed no longer, of a game that tells its version.
    OpenGame {
        /// The watchdog's name.
        source: String,
        /// The session.
        epoch: Uuid,
        /// The launch number of its engine.
        launch: u32,
        /// Wall clock at the session's start, in nanoseconds since the Unix epoch.
        started_realtime_ns: i64,
        /// The game's version; empty where it has none.
        game_version: String,
    },
    /// Tells which sinks there are and how many lanes each has. One that comes as others go takes their place.
    PlaceSinks {
        /// Name and lanes.
        sinks: Vec<(String, u32)>,
        /// The log of the node that proposes this holds nothing up to and with this entry.
        purged: u64,
    },
}

/// What is done to dead letters.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) enum LetterChange {
    /// Marks them: their lanes shall send them again.
    Mark {
        /// By their ids.
        ids: Vec<u64>,
    },
    /// Drops them, counted; those that a replay is under way for stay. No longer proposed, [`LetterChange::Discard`] is.
    Drop {
        /// By their ids.
        ids: Vec<u64>,
    },
    /// Drops likewise what has been kept for so long; no longer proposed, [`LetterChange::Outdate`] is.
    Expire {
        /// For how long, in nanoseconds of log time.
        keep_ns: u64,
    },
    /// Fixes the bytes of a marked one's next replay before its first try.
    Plan {
        /// Its id.
        id: u64,
        /// Which replay of it this is, from 1.
        number: u32,
        /// The batch of this one record.
        plan: Plan,
    },
    /// The backend has it.
    Replayed {
        /// Its id.
        id: u64,
        /// Which replay of it this was.
        number: u32,
    },
    /// The backend refused it again: it stays a letter, unmarked.
    Refused {
        /// Its id.
        id: u64,
        /// Which replay of it this was.
        number: u32,
        /// As in [`Letter::code`].
        code: String,
        /// As in [`Letter::reason`].
        reason: String,
    },
    /// As [`LetterChange::Plan`], also while its lane's open plan is the one record at `refused`: the backend refused that,
    /// so nothing of it is on its way.
    PlanBeside {
        /// Its id.
        id: u64,
        /// Which replay of it this is, from 1.
        number: u32,
        /// The batch of this one record.
        plan: Plan,
        /// The record that waits for room.
        refused: Position,
    },
    /// Drops them, counted; those stay that a sink of the configuration is sending.
    Discard {
        /// By their ids.
        ids: Vec<u64>,
    },
    /// Drops likewise what has been kept for so long.
    Outdate {
        /// For how long, in nanoseconds of log time.
        keep_ns: u64,
    },
}

impl Command {
    /// The slab that it brings, if it does: head and bytes of frames.
    pub(crate) fn slab(self) -> Option<(SlabHead, u32)> {
        match self {
            Self::Append { head, frames_bytes }
            | Self::Derived { head, frames_bytes }
            | Self::AppendOps {
                head, frames_bytes, ..
            } => Some((head, frames_bytes)),
            Self::Fold { rows, .. } => rows,
            _ => None,
        }
    }

    /// What it is, in a word or two.
    pub(crate) fn word(&self) -> &'static str {
        match self {
            Self::Init { .. } => "group",
            Self::OpenSession { .. } | Self::OpenGame { .. } => "session opened",
            Self::Append { .. } | Self::AppendOps { .. } => "slab",
            Self::EndSession { .. } => "session ended",
            Self::SetSinks { .. } | Self::NameSinks { .. } | Self::PlaceSinks { .. } => "sinks",
            Self::Plan { .. } => "upload planned",
            Self::Uploaded { .. } | Self::Settle { .. } => "upload settled",
            Self::Derived { .. } => "record of the watchdog",
            Self::Tick { .. } => "lease ended",
            Self::Execute { .. } => "state write",
            Self::DeadLetter { .. } => "dead letter",
            Self::Letters { .. } => "dead letters changed",
            Self::SetRules { .. } => "rules",
            Self::SetFolding { .. } => "folding",
            Self::Fold { .. } => "fold",
        }
    }

    /// How many bytes of frames belong to it.
    pub(crate) fn frames_bytes(&self) -> Option<u32> {
        match self {
            Self::Append { frames_bytes, .. }
            | Self::Derived { frames_bytes, .. }
            | Self::AppendOps { frames_bytes, .. } => Some(*frames_bytes),
            Self::Fold { rows, .. } => rows.as_ref().map(|(_, bytes)| *bytes),
            _ => None,
        }
    }

    /// Sets log time where it counts.
    pub(crate) fn stamp(&mut self, now_ns: u64) {
        match self {
            Self::AppendOps { time_ns, .. }
            | Self::Tick { time_ns }
            | Self::Execute { time_ns, .. }
            | Self::DeadLetter { time_ns, .. }
            | Self::Letters { time_ns, .. } => *time_ns = now_ns,
            _ => {}
        }
    }

    /// About how many bytes its head takes in an entry.
    pub(crate) fn head_bytes(&self) -> usize {
        match self {
            Self::AppendOps { ops, .. } => {
                let fragments: usize = ops.iter().map(|op| op.fragments.len()).sum();
                160 + ops.len() * 16 + fragments * 8
            }
            Self::Execute { op, .. } => 160 + op.len(),
            Self::SetRules { text } => 160 + text.len(),
            Self::Fold { step, .. } => 160 + step.bytes(),
            Self::DeadLetter { letter, .. } => 320 + usize::try_from(letter.bytes()).unwrap_or(0),
            Self::Letters {
                change:
                    LetterChange::Mark { ids }
                    | LetterChange::Drop { ids }
                    | LetterChange::Discard { ids },
                ..
            } => 160 + ids.len() * 8,
            _ => 160,
        }
    }

    /// About how many bytes of log the command takes; the same on every node.
    pub(crate) fn log_bytes(&self) -> u64 {
        self.head_bytes() as u64 + u64::from(self.frames_bytes().unwrap_or(0))
    }
}

/// An upload batch whose bytes are fixed: same log, same versions, same bytes (CORRECTNESS rule 16).
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Plan {
    /// First record of the batch.
    pub first: Position,
    /// Last record of the batch.
    pub last: Position,
    /// Version of the processing rules that the batch is made with.
    pub rules_version: u32,
    /// Version of the encoder that the batch is made with.
    pub encoder_version: u32,
    /// What the sink needs to resume, such as a file's length; at most [`PLAN_EXTRA_BYTES_MAX`] bytes.
    #[serde(with = "serde_bytes")]
    pub extra: Vec<u8>,
}

/// The largest [`Plan::extra`].
pub const PLAN_EXTRA_BYTES_MAX: usize = 4096;

#[cfg(test)]
mod tests;
