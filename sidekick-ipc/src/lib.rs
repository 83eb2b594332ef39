//! What the Godot extension and the watchdog agree on byte for byte.
//!
//! ```text
//!  engine process (Session)                 one file per rotation              watchdog process (Attachment)
//!  record ─► mutex ─► Producer ─────────► uplink ring   (D, P: engine) ─────► drain ─► commit ─► release
//!                        └─ ring full ──► .spill files                 ─────►   └ merged by sequence number
//!  on_frame ────────────────────────────► heartbeat     (P: engine)    ─────► heartbeat
//!  control ◄──────────────────────────── control words (C: watchdog)  ◄───── controls
//!  op, query ─► as record                                                 ─────► drain (request)
//!  next_message ◄─────────────────────── downlink ring (C: watchdog)  ◄───── send
//! ```
//!
//! # Layout
//! - [`layout`]: where every word lies and who writes it
//! - [`region`]: shared words behind a trait: a mapping, the heap, a model
//! - [`ring`]: the ring over a region, and its way to sleep and wake
//! - [`frame`]: one frame: header, checksum, kinds, payloads
//! - [`header`], [`name`]: whose file it is
//! - [`request`]: what the game asks of the store, in frames
//! - [`session`]: the engine's side; [`spill`]: its overflow
//! - [`attach`]: the watchdog's side
//! - [`heartbeat`], [`control`], [`message`]: the words and messages beside the records
//! - [`errors`]: the last script errors, in a file of their own
//! - [`stream`]: patterns of stream names
//! - [`value`]: Godot's values in their binary encoding
//! - [`tree`]: what the game asks of the state store, and what it hears back
//! - [`sys`], [`wake`]: what the system does for us
//!
//! All `unsafe` of the project but the extension's entry point is in [`region`] and [`sys`].

// What parses the other process's bytes must not be able to panic.
#![cfg_attr(
    not(test),
    deny(
        clippy::arithmetic_side_effects,
        clippy::expect_used,
        clippy::indexing_slicing,
        clippy::panic,
        clippy::unwrap_used
    )
)]

pub mod attach;
pub mod control;
pub mod errors;
pub mod frame;
pub mod header;
pub mod heartbeat;
pub mod layout;
pub mod message;
pub mod name;
// Offsets are the caller's own; one outside the region is a mistake that must not become a wild access.
#[allow(clippy::arithmetic_side_effects, clippy::indexing_slicing)]
pub mod region;
pub mod request;
pub mod ring;
pub mod session;
pub mod spill;
pub mod stream;
pub mod sys;
pub mod tree;
// Its bounds are argued in place and held by its own fuzz.
#[allow(clippy::arithmetic_side_effects, clippy::indexing_slicing)]
pub mod value;
pub mod wake;

pub use attach::{
    AttachError, Attachment, Corruption, DrainError, Drained, ReaderCheckpoint, SendError, Waker,
};
pub use control::{Control, Controls, KeptCheckpoints, Quit};
pub use frame::{
    FRAME_HEADER_BYTES, FrameError, FrameHeader, FrameKind, FrameView, Frames, Gap, Hole,
    RECORD_BYTES_MAX, Record, append_frame, frames,
};
pub use header::{HeaderError, PROTOCOL_VERSION, SessionInfo};
pub use heartbeat::{Heartbeat, HeartbeatReader, Phase};
pub use message::{Downlink, DownlinkMessage};
pub use name::{RingFileName, remove_unfinished, scan};
pub use session::{
    CheckpointRef, CheckpointRoom, Look, Message, RefusedCause, Session, SessionError,
    SessionOptions, WhenFull,
};
