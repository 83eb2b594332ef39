//! Messages of the downlink: replies and events from the watchdog to the engine.

use std::fmt;
use std::sync::{Arc, Mutex, PoisonError};

use crate::attach::SendError;
use crate::frame::{FRAME_HEADER_BYTES, FrameError, FrameKind, frame_bytes, seal};
use crate::region::Mapping;
use crate::ring::Producer;
use crate::sys;

/// [`DownlinkMessage::kind`] of a sentence (UTF-8) that the game's developer should see in the engine's own output.
pub const NOTICE: u32 = 1;
/// [`DownlinkMessage::kind`] of a warning that the engine uses much memory; the body is its bytes as a little-endian u64.
pub const MEMORY_HIGH: u32 = 2;

/// Largest body of a downlink message in bytes.
pub const MESSAGE_BODY_BYTES_MAX: usize = crate::frame::RECORD_BYTES_MAX - HEAD_BYTES;
const HEAD_BYTES: usize = 12;

/// One message to the engine. Delivered at most once: what must survive belongs into a control level or the store.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct DownlinkMessage {
    /// What it is; the engine ignores kinds that it does not know.
    pub kind: u32,
    /// Number of the request that it answers; 0 for an event.
    pub request: u64,
    /// What it says, as its kind defines; at most [`MESSAGE_BODY_BYTES_MAX`] bytes.
    pub body: Vec<u8>,
}

impl DownlinkMessage {
    pub(crate) fn encode(&self, out: &mut Vec<u8>) {
        out.extend_from_slice(&self.kind.to_le_bytes());
        out.extend_from_slice(&self.request.to_le_bytes());
        out.extend_from_slice(&self.body);
    }

    /// The bytes that a [`MEMORY_HIGH`] message tells of; `None` for other messages and damaged ones.
    pub fn memory_bytes(&self) -> Option<u64> {
        let body = self.body.first_chunk::<8>()?;
        (self.kind == MEMORY_HIGH).then(|| u64::from_le_bytes(*body))
    }

    pub(crate) fn parse(payload: &[u8]) -> Result<DownlinkMessage, FrameError> {
        let error = FrameError::Payload {
            what: "message",
            bytes: payload.len(),
        };
        let (kind, rest) = payload.split_first_chunk::<4>().ok_or(error)?;
        let (request, body) = rest.split_first_chunk::<8>().ok_or(error)?;
        Ok(DownlinkMessage {
            kind: u32::from_le_bytes(*kind),
            request: u64::from_le_bytes(*request),
            body: body.to_vec(),
        })
    }
}

/// Sends messages to the engine from any thread of the watchdog. Cheap to clone; keeps the mapping alive.
#[derive(Clone)]
pub struct Downlink(Arc<Sender>);

struct Sender {
    producer: Mutex<Producer<Arc<Mapping>>>,
    seed: u32,
}

impl fmt::Debug for Downlink {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Downlink").finish_non_exhaustive()
    }
}

impl Downlink {
    pub(crate) fn new(producer: Producer<Arc<Mapping>>, seed: u32) -> Self {
        let producer = Mutex::new(producer);
        Self(Arc::new(Sender { producer, seed }))
    }

    /// Sends a message to the engine, which looks once per frame.
    ///
    /// # Errors
    /// [`SendError`]: nothing was sent.
    pub fn send(&self, message: &DownlinkMessage) -> Result<(), SendError> {
        let bytes = message.body.len();
        if bytes > MESSAGE_BODY_BYTES_MAX {
            return Err(SendError::TooLarge { bytes });
        }
        let mut frame = vec![0; FRAME_HEADER_BYTES];
        message.encode(&mut frame);
        let payload_bytes = frame.len().saturating_sub(FRAME_HEADER_BYTES);
        frame.resize(frame_bytes(payload_bytes), 0);
        let mut producer = self
            .0
            .producer
            .lock()
            .unwrap_or_else(PoisonError::into_inner);
        // The position is the number: it goes on over watchdogs without a word of its own.
        let seq = producer.tail();
        seal(
            &mut frame,
            self.0.seed,
            FrameKind::Message as u16,
            payload_bytes,
            seq,
            sys::monotonic_ns(),
        );
        producer.publish(&frame).map_err(|_| SendError::Full)
    }

    /// Tells the game that its process uses `bytes` of memory, more than it should ([`MEMORY_HIGH`]).
    ///
    /// # Errors
    /// [`SendError::Full`]: nothing was sent.
    pub fn memory_high(&self, bytes: u64) -> Result<(), SendError> {
        self.send(&DownlinkMessage {
            kind: MEMORY_HIGH,
            request: 0,
            body: bytes.to_le_bytes().to_vec(),
        })
    }

    /// Sends a sentence for the game's developer ([`NOTICE`]), cut at the largest body.
    ///
    /// # Errors
    /// [`SendError::Full`]: nothing was sent.
    pub fn notice(&self, sentence: &str) -> Result<(), SendError> {
        let mut end = sentence.len().min(MESSAGE_BODY_BYTES_MAX);
        while !sentence.is_char_boundary(end) {
            end = end.saturating_sub(1);
        }
        self.send(&DownlinkMessage {
            kind: NOTICE,
            request: 0,
            body: sentence.as_bytes().get(..end).unwrap_or_default().to_vec(),
        })
    }
}
