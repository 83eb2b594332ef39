//! A slab: a run of frames of one ring session, as intake hands it to the store and upload reads it back.
//!
//! The frames are the ring's own bytes, never re-encoded: their crc, seeded with the session's UUID, is checked
//! again at upload, from the game's thread to the backend's door. The head says whose they are and what the wall
//! clock was, so that a slab can be understood with nothing but itself.

use std::time::{SystemTime, UNIX_EPOCH};

use bytes::Bytes;
use serde::{Deserialize, Serialize};
use sidekick_ipc::frame::{FrameKind, Gap, Hole, append_frame, hole_cause};
use uuid::Uuid;

/// Where in a session's ring (and spill) a reader stands. All that a successor needs to go on.
///
/// Committed together with the frames before it, so a ring is never drained twice (CORRECTNESS rule 4).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct RingCheckpoint {
    /// Which ring file of the session: 0, then one more for each rotation.
    pub rotation: u32,
    /// Byte position in that ring; grows for ever, the ring's mask makes an offset of it.
    pub ring_position: u64,
    /// Which spill file of the session is being read.
    pub spill_file: u32,
    /// Byte offset in that spill file.
    pub spill_offset: u64,
}

/// Whose frames a slab holds.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct SlabHead {
    /// The watchdog's configured name, unique in a group.
    pub source: String,
    /// The ring session's UUID.
    pub epoch: Uuid,
    /// The launch number of the engine that wrote them.
    pub incarnation: u32,
    /// Add this to a frame's monotonic nanoseconds to get nanoseconds since the Unix epoch.
    pub realtime_offset_ns: i64,
    /// Sequence number of the first frame.
    pub first_seq: u64,
    /// How many sequence numbers the slab covers: its frames, and what hole frames stand for.
    pub count: u64,
    /// Where the reader stands after these frames.
    pub checkpoint: RingCheckpoint,
}

impl SlabHead {
    /// The sequence number after the last one covered.
    pub fn next_seq(&self) -> u64 {
        self.first_seq.saturating_add(self.count)
    }
}

/// Where an operation of the game (a frame of kind `Op`) lies among a slab's frames. It is always whole: intake ends no slab
/// inside of one, and what is damaged is not listed.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct OpAt {
    /// The operation's number: that of its last frame.
    pub last_seq: u64,
    /// Offset and length of each frame's payload in the slab's frames, in bytes; put together they are the request.
    pub fragments: Vec<(u32, u32)>,
}

/// A head and its frames, contiguous, each 8-byte aligned as in the ring (`sidekick_ipc::frame`).
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Slab {
    /// Whose frames these are.
    pub head: SlabHead,
    /// The frames' bytes.
    pub frames: Bytes,
}

impl Slab {
    /// What a session's end has to tell that the session itself could not: records that the engine refused without
    /// having told of it, and that nobody knows what its ring still held. `None` when there is nothing of it.
    ///
    /// `head` says from where on, and for whom; its count is set here. `now` is the time at which the end is unknown.
    pub fn closing(
        mut head: SlabHead,
        untold: &[Gap],
        tail_unknown: bool,
        now: SystemTime,
    ) -> Option<Slab> {
        let mut frames = Vec::new();
        let mut seq = head.first_seq;
        for gap in untold {
            let mut payload = Vec::with_capacity(Gap::BYTES);
            gap.encode(&mut payload);
            let (kind, at) = (FrameKind::Gap as u16, gap.last_monotonic_ns);
            append_frame(&mut frames, &head.epoch, kind, seq, at, &payload);
            seq = seq.saturating_add(1);
        }
        if tail_unknown {
            let now_ns = now
                .duration_since(UNIX_EPOCH)
                .unwrap_or_default()
                .as_nanos();
            let at = i128::try_from(now_ns).unwrap_or(0) - i128::from(head.realtime_offset_ns);
            let hole = Hole {
                count: 1,
                cause: hole_cause::TAIL_UNKNOWN,
            };
            let mut payload = Vec::with_capacity(Hole::BYTES);
            hole.encode(&mut payload);
            let (kind, at) = (FrameKind::Hole as u16, u64::try_from(at).unwrap_or(0));
            append_frame(&mut frames, &head.epoch, kind, seq, at, &payload);
            seq = seq.saturating_add(1);
        }
        head.count = seq.saturating_sub(head.first_seq);
        (head.count > 0).then(|| Slab {
            head,
            frames: frames.into(),
        })
    }
}
