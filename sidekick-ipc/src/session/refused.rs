//! Why something was not taken.

use crate::frame::{RESERVED_STREAM_PREFIX, STREAM_NAME_BYTES_MAX};

/// Why a record was not taken. It has no sequence number, and is counted; [`RefusedCause::Full`],
/// [`RefusedCause::SpillFailed`] and [`RefusedCause::Quota`] are also told by a gap frame.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum RefusedCause {
    /// Larger than a frame can hold.
    #[error("the record has {bytes} bytes with its stream's name, the limit is {max}; split it")]
    TooLarge {
        /// Bytes of name and value.
        bytes: usize,
        /// Most that a record may have.
        max: usize,
    },
    /// No room in the ring, and none in the spill files if these are allowed.
    #[error("the watchdog is behind: ring and spill files are full")]
    Full,
    /// The spill file could not be written.
    #[error("the ring is full and the spill file could not be written; is the disk full?")]
    SpillFailed,
    /// The watchdog's disk quota is nearly used up, and the stream is none that is kept then.
    #[error(
        "the watchdog's disk quota is nearly used up; only streams that are to be kept record on"
    )]
    Quota,
    /// The stream's name is empty or too long.
    #[error("a stream's name has 1 to {STREAM_NAME_BYTES_MAX} bytes")]
    StreamName,
    /// The stream is one of the watchdog's own.
    #[error(
        "streams that begin with {RESERVED_STREAM_PREFIX:?} are the watchdog's own; choose another name"
    )]
    StreamReserved,
    /// A request to the store that is larger than any may be.
    #[error("the request has {bytes} bytes, the limit is {max}; split it")]
    RequestTooLarge {
        /// Bytes of the request.
        bytes: usize,
        /// Most that a request may have.
        max: usize,
    },
    /// A request that fits into the ring never, and may not be spilled.
    #[error(
        "the request takes {bytes} bytes, the whole ring has {ring_bytes}; raise [ring] size, or let it spill"
    )]
    TooLargeForRing {
        /// Bytes of the request's frames.
        bytes: usize,
        /// Bytes of the ring.
        ring_bytes: usize,
    },
    /// Too many answers are awaited.
    #[error("{max} requests are not answered yet; wait for some of them")]
    TooManyRequests {
        /// Most that there may be.
        max: usize,
    },
    /// Another key than those that have checkpoints.
    #[error(
        "{max} keys of this server have checkpoints, no more are taken; forget_checkpoint() those that are over, and restore() one \
         that is there before you replace it"
    )]
    CheckpointKeys {
        /// Most that there may be.
        max: usize,
    },
    /// More bytes than the checkpoints of a server may have.
    #[error(
        "all checkpoints of this server would have {bytes} bytes, the limit is {max}; make them smaller, forget_checkpoint() those \
         that are over, and restore() one that is there before you replace it"
    )]
    CheckpointBytes {
        /// Bytes of the newest ones of all keys together.
        bytes: u64,
        /// Most that there may be.
        max: u64,
    },
    /// The session has ended.
    #[error("the session has ended")]
    Closed,
    /// Another engine has taken this one's place.
    #[error("a newer launch of this server is active; this process is to quit")]
    Fenced,
    /// This engine waits to take another's place.
    #[error("this process is a standby; it records once it is active")]
    Standby,
}
