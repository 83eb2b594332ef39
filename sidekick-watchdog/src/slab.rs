//! A slab: a run of frames of one ring session, as intake hands it to the store and upload reads it back.
//!
//! The frames are the ring's own bytes, never re-encoded: their crc, seeded with the session's UUID, is checked
//! again at upload, from the game's thread to the backend's door. The head says whose they are and what the wall
//! clock was, so that a slab can be understood with nothing but itself.

use bytes::Bytes;
use serde::{Deserialize, Serialize};
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

/// A head and its frames, contiguous, each 8-byte aligned as in the ring (`sidekick_ipc::frame`).
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Slab {
    /// Whose frames these are.
    pub head: SlabHead,
    /// The frames' bytes.
    pub frames: Bytes,
}
