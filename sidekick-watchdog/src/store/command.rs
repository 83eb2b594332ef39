//! What is proposed to the group, how it lies in an entry, and what came of it.
//!
//! An entry holds a batch: `[version u8][has ops u8][2 zero][length of the heads u32][heads][frames of the slabs]`. The
//! heads are the commands in bincode, a slab's frames follow as they came from the ring. Whoever needs only the heads
//! (apply, unless ops ride in the frames) reads only them. Both enums gain variants at their end and change nothing else: old logs must stay readable.

use bytes::Bytes;
use serde::{Deserialize, Deserializer, Serialize, Serializer};
use sidekick_ipc::tree::StoreResult;
use uuid::Uuid;

use super::codec::{self, CodecError};
use super::state::{SinkChange, Step};
use crate::books::{Counts, Letter};
use crate::position::Position;
use crate::slab::{OpAt, RingCheckpoint, Slab, SlabHead};

const BATCH_VERSION: u8 = 1;
/// Bytes before the heads.
pub(crate) const BATCH_HEAD_BYTES: usize = 8;

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
    /// Tells which sinks there are and how many lanes each has; no longer proposed, [`Command::NameSinks`] is.
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
    /// Tells which sinks there are and how many lanes each has.
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
}

/// What is done to dead letters.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) enum LetterChange {
    /// Marks them: their lanes shall send them again.
    Mark {
        /// By their ids.
        ids: Vec<u64>,
    },
    /// Drops them, counted; those that a replay is under way for stay.
    Drop {
        /// By their ids.
        ids: Vec<u64>,
    },
    /// Drops, counted, what has been kept for so long.
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
}

impl Command {
    /// The slab that it brings, if it does: head and bytes of frames.
    fn slab(self) -> Option<(SlabHead, u32)> {
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
            Self::SetSinks { .. } | Self::NameSinks { .. } => "sinks",
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
                change: LetterChange::Mark { ids } | LetterChange::Drop { ids },
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
    #[error("dead letters are full ({count} of {bytes} bytes); replay or drop some")]
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

/// A batch of commands as it lies in an entry: bytes, shared, never decoded twice on the write path.
#[derive(Clone, PartialEq, Eq)]
pub(crate) struct Batch {
    bytes: Bytes,
}

impl std::fmt::Debug for Batch {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Batch({} bytes)", self.bytes.len())
    }
}

impl Batch {
    /// Lays commands and frames out. `frames` are those of the commands that bring slabs, in their order.
    pub(crate) fn encode(commands: &[Command], frames: &[Bytes]) -> Result<Self, CodecError> {
        let heads = codec::encode("commands", &commands)?;
        let heads_len = u32::try_from(heads.len())
            .map_err(|cause| CodecError::new("cannot encode", "commands", cause))?;
        let total = BATCH_HEAD_BYTES + heads.len() + frames.iter().map(Bytes::len).sum::<usize>();
        let mut bytes = Vec::with_capacity(total);
        let has_ops = commands
            .iter()
            .any(|command| matches!(command, Command::AppendOps { .. }));
        bytes.extend_from_slice(&[BATCH_VERSION, u8::from(has_ops), 0, 0]);
        bytes.extend_from_slice(&heads_len.to_le_bytes());
        bytes.extend_from_slice(&heads);
        for frames in frames {
            bytes.extend_from_slice(frames);
        }
        Ok(Self {
            bytes: bytes.into(),
        })
    }

    pub(crate) fn from_bytes(bytes: Bytes) -> Self {
        Self { bytes }
    }

    pub(crate) fn bytes(&self) -> &Bytes {
        &self.bytes
    }

    /// How many bytes of an encoded batch hold the heads. Given its first eight bytes or more.
    pub(crate) fn heads_end(bytes: &[u8]) -> usize {
        match bytes.get(4..8) {
            Some(&[a, b, c, d]) => {
                BATCH_HEAD_BYTES.saturating_add(u32::from_le_bytes([a, b, c, d]) as usize)
            }
            _ => usize::MAX,
        }
    }

    /// How many bytes of an encoded batch apply needs. Given its first eight bytes or more.
    pub(crate) fn apply_end(bytes: &[u8]) -> usize {
        match bytes.get(1) {
            Some(0) => Self::heads_end(bytes),
            _ => usize::MAX,
        }
    }

    /// The frames of all slabs, one after the other; none when only the heads were read.
    pub(crate) fn frames(&self) -> &[u8] {
        let heads = Self::heads_end(&self.bytes);
        self.bytes.get(heads..).unwrap_or_default()
    }

    /// The commands, without their frames.
    pub(crate) fn commands(&self) -> Result<Vec<Command>, CodecError> {
        match self.bytes.first() {
            Some(&BATCH_VERSION) => {}
            Some(version) => {
                return Err(CodecError::new(
                    "cannot decode",
                    "a batch",
                    format!("version {version}"),
                ));
            }
            None => return Err(CodecError::new("cannot decode", "a batch", "it is empty")),
        }
        let heads = self
            .bytes
            .get(BATCH_HEAD_BYTES..Self::heads_end(&self.bytes))
            .ok_or_else(|| CodecError::new("cannot decode", "a batch", "its heads are cut off"))?;
        codec::decode("commands", heads)
    }

    /// The slabs with their numbers among the slabs of this entry, from 0. The batch must be whole.
    pub(crate) fn slabs(&self) -> Result<Vec<(u32, Slab)>, CodecError> {
        let mut at = Self::heads_end(&self.bytes);
        let mut slabs = Vec::new();
        for command in self.commands()? {
            let Some((head, frames_bytes)) = command.slab() else {
                continue;
            };
            let end = at.saturating_add(frames_bytes as usize);
            if end > self.bytes.len() {
                return Err(CodecError::new(
                    "cannot decode",
                    "a slab",
                    "its frames are cut off",
                ));
            }
            slabs.push((
                slabs.len() as u32,
                Slab {
                    head,
                    frames: self.bytes.slice(at..end),
                },
            ));
            at = end;
        }
        Ok(slabs)
    }
}

impl Serialize for Batch {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_bytes(&self.bytes)
    }
}

impl<'de> Deserialize<'de> for Batch {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let bytes = serde_bytes::ByteBuf::deserialize(deserializer)?;
        Ok(Self {
            bytes: bytes.into_vec().into(),
        })
    }
}

/// What came of a batch, command by command; empty for entries without commands.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub(crate) struct Outcomes(pub(crate) Vec<Outcome>);

#[cfg(test)]
mod tests {
    use super::super::state::Marks;
    use super::*;

    fn head(first_seq: u64, count: u64) -> SlabHead {
        SlabHead {
            source: "a".into(),
            epoch: Uuid::from_u128(7),
            incarnation: 3,
            realtime_offset_ns: -5,
            first_seq,
            count,
            checkpoint: RingCheckpoint {
                rotation: 1,
                ring_position: 2,
                spill_file: 3,
                spill_offset: 4,
            },
        }
    }

    fn hex(bytes: &[u8]) -> String {
        bytes.iter().map(|byte| format!("{byte:02x}")).collect()
    }

    /// Old logs hold these bytes; a change here makes them unreadable.
    #[test]
    fn the_encoding_of_commands_does_not_change() {
        let epoch = Uuid::from_u128(0x0102);
        let position = |index, item| Position { index, item };
        let plan = Plan {
            first: position(1, 2),
            last: position(3, 4),
            rules_version: 5,
            encoder_version: 6,
            extra: vec![9],
        };
        let uuid = "100000000000000000000000000000000000000000000102";
        let a = "010000000000000061";
        let at = "030000000000000004000000";
        let counted = format!(
            "0100000000000000020000000000000003000000000000000400000000000000\
             05000000000000000100000000000000{a}0600000000000000"
        );
        let counts = || Counts {
            rows: 1,
            records: 2,
            notes: 3,
            lost: 4,
            requests: 5,
            dropped: [("a".to_owned(), 6)].into(),
        };
        let letters = |change| Command::Letters { change, time_ns: 5 };
        let blob = || super::super::blob::Blob::from(&b"a"[..]);
        let small_plan = Plan {
            first: position(3, 4),
            last: position(3, 4),
            rules_version: 5,
            encoder_version: 6,
            extra: Vec::new(),
        };
        let golden = [
            (Command::Init { group: epoch }, format!("00000000{uuid}")),
            (
                Command::OpenSession {
                    source: "a".into(),
                    epoch,
                    launch: 2,
                    started_realtime_ns: 3,
                },
                format!("01000000{a}{uuid}020000000300000000000000"),
            ),
            (
                Command::Append {
                    head: head(1, 2),
                    frames_bytes: 8,
                },
                format!(
                    "02000000{a}100000000000000000000000000000000000000000000007\
                     03000000fbffffffffffffff01000000000000000200000000000000\
                     010000000200000000000000030000000400000000000000\
                     08000000"
                ),
            ),
            (
                Command::EndSession {
                    source: "a".into(),
                    epoch,
                    cause: "x".into(),
                    tail_unknown: true,
                },
                format!("03000000{a}{uuid}01000000000000007801"),
            ),
            (
                Command::SetSinks {
                    sinks: vec![("a".into(), 4)],
                },
                format!("040000000100000000000000{a}04000000"),
            ),
            (
                Command::Plan {
                    sink: "a".into(),
                    lane: 1,
                    plan,
                },
                format!(
                    "05000000{a}01000000010000000000000002000000\
                     030000000000000004000000\
                     0500000006000000010000000000000009"
                ),
            ),
            (
                Command::Uploaded {
                    sink: "a".into(),
                    lane: 1,
                    up_to: position(3, 4),
                    records: 7,
                },
                format!("06000000{a}010000000300000000000000040000000700000000000000"),
            ),
            (
                Command::Derived {
                    head: head(1, 1),
                    frames_bytes: 8,
                },
                format!(
                    "07000000{a}100000000000000000000000000000000000000000000007\
                     03000000fbffffffffffffff01000000000000000100000000000000\
                     010000000200000000000000030000000400000000000000\
                     08000000"
                ),
            ),
            (
                Command::NameSinks {
                    sinks: vec![("a".into(), 4)],
                    purged: 5,
                },
                format!("080000000100000000000000{a}040000000500000000000000"),
            ),
            (
                Command::AppendOps {
                    head: head(1, 2),
                    frames_bytes: 8,
                    ops: vec![OpAt {
                        last_seq: 2,
                        fragments: vec![(3, 4)],
                    }],
                    time_ns: 5,
                },
                format!(
                    "09000000{a}100000000000000000000000000000000000000000000007\
                     03000000fbffffffffffffff01000000000000000200000000000000\
                     010000000200000000000000030000000400000000000000\
                     0800000001000000000000000200000000000000\
                     010000000000000003000000040000000500000000000000"
                ),
            ),
            (
                Command::Tick { time_ns: 5 },
                "0a0000000500000000000000".to_owned(),
            ),
            (
                Command::Execute {
                    client: epoch,
                    number: 2,
                    op: vec![9],
                    time_ns: 5,
                },
                format!("0b000000{uuid}02000000000000000100000000000000090500000000000000"),
            ),
            (
                Command::Settle {
                    sink: "a".into(),
                    lane: 1,
                    up_to: position(3, 4),
                    counts: counts(),
                },
                format!("0c000000{a}01000000{at}{counted}"),
            ),
            (
                Command::DeadLetter {
                    sink: "a".into(),
                    lane: 1,
                    counts: counts(),
                    letter: Letter {
                        position: position(3, 4),
                        stream: "a".into(),
                        code: "a".into(),
                        reason: "a".into(),
                        rules_version: 5,
                        numbers: 1,
                        head: head(1, 1),
                        frame: vec![9],
                    },
                    time_ns: 5,
                },
                format!(
                    "0d000000{a}01000000{counted}{at}{a}{a}{a}050000000100000000000000\
                     {a}100000000000000000000000000000000000000000000007\
                     03000000fbffffffffffffff01000000000000000100000000000000\
                     010000000200000000000000030000000400000000000000\
                     0100000000000000090500000000000000"
                ),
            ),
            (
                letters(LetterChange::Mark { ids: vec![2] }),
                "0e000000000000000100000000000000020000000000000005000000000000\
                 00"
                .to_owned(),
            ),
            (
                letters(LetterChange::Drop { ids: vec![2] }),
                "0e00000001000000010000000000000002000000000000000500000000000000".to_owned(),
            ),
            (
                letters(LetterChange::Expire { keep_ns: 2 }),
                "0e0000000200000002000000000000000500000000000000".to_owned(),
            ),
            (
                letters(LetterChange::Plan {
                    id: 2,
                    number: 3,
                    plan: small_plan,
                }),
                format!(
                    "0e00000003000000020000000000000003000000{at}{at}0500000006000000000000000000000005\
                         00000000000000"
                ),
            ),
            (
                letters(LetterChange::Replayed { id: 2, number: 3 }),
                "0e000000040000000200000000000000030000000500000000000000".to_owned(),
            ),
            (
                letters(LetterChange::Refused {
                    id: 2,
                    number: 3,
                    code: "a".into(),
                    reason: "a".into(),
                }),
                format!("0e00000005000000020000000000000003000000{a}{a}0500000000000000"),
            ),
            (
                Command::SetRules { text: "a".into() },
                format!("0f000000{a}"),
            ),
            (Command::SetFolding { is_on: true }, "1000000001".to_owned()),
            (
                Command::Fold {
                    step: Step {
                        number: 2,
                        to: 5,
                        cells: vec![(blob(), Some(blob())), (blob(), None)],
                        marks: vec![((3, 4), Marks::new(1, &[(1, 9)]))],
                    },
                    rows: Some((head(1, 1), 8)),
                },
                format!(
                    "1100000002000000000000000500000000000000\
                     0200000000000000{a}01{a}{a}00\
                     0100000000000000{at}010000000000000009010000000000000001\
                     01{a}100000000000000000000000000000000000000000000007\
                     03000000fbffffffffffffff01000000000000000100000000000000\
                     010000000200000000000000030000000400000000000000\
                     08000000"
                ),
            ),
            (
                Command::OpenGame {
                    source: "a".into(),
                    epoch,
                    launch: 2,
                    started_realtime_ns: 3,
                    game_version: "a".into(),
                },
                format!("12000000{a}{uuid}020000000300000000000000{a}"),
            ),
        ];
        for (command, expected) in golden {
            let bytes = codec::encode("command", &command).unwrap();
            assert_eq!(hex(&bytes), expected, "{command:?}");
            assert_eq!(
                codec::decode::<Command>("command", &bytes).unwrap(),
                command
            );
            let mut longer = bytes.clone();
            longer.push(0);
            assert!(
                codec::decode::<Command>("command", &longer).is_err(),
                "trailing bytes"
            );
            assert!(codec::decode::<Command>("command", &bytes[..bytes.len() - 1]).is_err());
        }
    }

    #[test]
    fn a_batch_gives_back_commands_and_frames() {
        let commands = [
            Command::Append {
                head: head(1, 2),
                frames_bytes: 8,
            },
            Command::SetSinks { sinks: Vec::new() },
            Command::Append {
                head: head(3, 1),
                frames_bytes: 3,
            },
        ];
        let frames = [Bytes::from_static(b"12345678"), Bytes::from_static(b"abc")];
        let batch = Batch::encode(&commands, &frames).unwrap();
        assert_eq!(batch.commands().unwrap(), commands);
        let slabs = batch.slabs().unwrap();
        assert_eq!(slabs.len(), 2);
        assert_eq!(slabs[1].0, 1);
        assert_eq!(slabs[1].1.frames, frames[1]);
        let heads = Batch::heads_end(batch.bytes());
        let cut = Batch::from_bytes(batch.bytes().slice(..heads));
        assert_eq!(cut.commands().unwrap(), commands);
        assert!(cut.slabs().is_err());
        for len in 0..heads {
            assert!(
                Batch::from_bytes(batch.bytes().slice(..len))
                    .commands()
                    .is_err()
            );
        }
    }
}
