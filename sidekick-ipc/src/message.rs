//! Messages of the downlink: replies and events from the watchdog to the engine.

use std::collections::BTreeMap;
use std::fmt;
use std::sync::{Arc, Mutex, PoisonError};

use crate::attach::SendError;
use crate::frame::{
    FLAG_CONTINUED, FLAG_MORE, FRAME_HEADER_BYTES, FrameError, FrameKind, frame_bytes, seal,
};
use crate::region::Mapping;
use crate::ring::{MESSAGE_SLEEP, Producer, kick};
use crate::sys;
use crate::tree::{REPLY_BYTES_MAX, StoreResult, WatchBatch, Words, WordsError};

/// [`DownlinkMessage::kind`] of a sentence (UTF-8) that the game's developer should see in the engine's own output.
pub const NOTICE: u32 = 1;
/// [`DownlinkMessage::kind`] of a warning that the engine uses much memory; the body is its bytes as a little-endian u64.
pub const MEMORY_HIGH: u32 = 2;
/// [`DownlinkMessage::kind`] of a part of an answer of the store, see [`Parcel`].
pub const REPLY: u32 = 3;
/// [`DownlinkMessage::kind`] of a part of what a watch saw, see [`Parcel`].
pub const WATCH_EVENTS: u32 = 4;

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

/// Bytes of a parcel that one message carries.
const PARCEL_PART_BYTES: usize = MESSAGE_BODY_BYTES_MAX - 1;

/// An answer of any size, on its way to the engine in messages: each body is a byte of flags ([`FLAG_MORE`],
/// [`FLAG_CONTINUED`]) and a part.
#[derive(Clone, PartialEq, Eq)]
pub struct Parcel {
    kind: u32,
    request: u64,
    bytes: Vec<u8>,
    /// Bytes that are sent; `None` before the first part, so that an empty parcel is sent, too.
    sent: Option<usize>,
}

impl Parcel {
    /// The answer to the request with number `request`.
    ///
    /// # Errors
    /// [`WordsError::TooLarge`].
    pub fn reply(request: u64, result: &StoreResult) -> Result<Parcel, WordsError> {
        Ok(Parcel::new(REPLY, request, result.encode()?))
    }

    /// What the watch that was begun by request `watch` saw.
    ///
    /// # Errors
    /// [`WordsError::TooLarge`].
    pub fn events(watch: u64, batch: &WatchBatch) -> Result<Parcel, WordsError> {
        Ok(Parcel::new(WATCH_EVENTS, watch, batch.encode()?))
    }

    /// One of encoded words.
    pub fn new(kind: u32, request: u64, bytes: Vec<u8>) -> Parcel {
        Parcel {
            kind,
            request,
            bytes,
            sent: None,
        }
    }

    /// The request that it belongs to.
    pub fn request(&self) -> u64 {
        self.request
    }

    /// The next message of it, and how many bytes of the parcel it carries; `None` when all is sent.
    fn next_message(&self) -> Option<(DownlinkMessage, usize)> {
        let start = self.sent.unwrap_or(0);
        if self.sent.is_some() && start >= self.bytes.len() {
            return None;
        }
        let end = start
            .saturating_add(PARCEL_PART_BYTES)
            .min(self.bytes.len());
        let part = self.bytes.get(start..end).unwrap_or_default();
        let more = if end < self.bytes.len() { FLAG_MORE } else { 0 };
        let continued = if start > 0 { FLAG_CONTINUED } else { 0 };
        let mut body = Vec::with_capacity(part.len().saturating_add(1));
        body.push((more | continued) as u8);
        body.extend_from_slice(part);
        let message = DownlinkMessage {
            kind: self.kind,
            request: self.request,
            body,
        };
        Some((message, part.len()))
    }
}

impl fmt::Debug for Parcel {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Parcel")
            .field("kind", &self.kind)
            .field("request", &self.request)
            .field("bytes", &self.bytes.len())
            .field("sent", &self.sent)
            .finish()
    }
}

/// Most parcels that are put together at a time; the watchdog sends one after the other, mostly.
const PARCELS_OPEN_MAX: usize = 64;

/// Puts parcels together from messages.
#[derive(Debug, Default)]
pub(crate) struct Unpacker {
    open: BTreeMap<(u32, u64), Vec<u8>>,
}

impl Unpacker {
    /// Takes a message's body. Gives the parcel's bytes when its last part came. A part without its beginning is skipped, as
    /// is what grows too large.
    pub(crate) fn push(&mut self, message: &DownlinkMessage) -> Option<Vec<u8>> {
        let key = (message.kind, message.request);
        let (&flags, part) = message.body.split_first()?;
        let flags = u32::from(flags);
        let begun = self.open.remove(&key);
        if flags & (FLAG_CONTINUED | FLAG_MORE) == 0 {
            return Some(part.to_vec());
        }
        let mut bytes = if flags & FLAG_CONTINUED == 0 {
            Vec::new()
        } else {
            begun?
        };
        if bytes.len().saturating_add(part.len()) > REPLY_BYTES_MAX {
            return None;
        }
        bytes.extend_from_slice(part);
        if flags & FLAG_MORE == 0 {
            return Some(bytes);
        }
        if self.open.len() >= PARCELS_OPEN_MAX {
            self.open.pop_first();
        }
        self.open.insert(key, bytes);
        None
    }

    /// Forgets what was begun: the rest of it will not come.
    pub(crate) fn clear(&mut self) {
        self.open.clear();
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
        producer.publish(&frame).map_err(|_| SendError::Full)?;
        kick(producer.region(), MESSAGE_SLEEP);
        Ok(())
    }

    /// Sends what is left of a parcel, as much as there is room for. `Ok` once the last of it is sent.
    ///
    /// Parcels may be sent in turns. The engine takes a message about once a frame, or at once when it waits.
    ///
    /// # Errors
    /// [`SendError::Full`]: call it again when the engine has read some.
    pub fn send_parcel(&self, parcel: &mut Parcel) -> Result<(), SendError> {
        while let Some((message, bytes)) = parcel.next_message() {
            self.send(&message)?;
            parcel.sent = Some(parcel.sent.unwrap_or(0).saturating_add(bytes));
        }
        Ok(())
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

#[cfg(test)]
mod tests {
    use super::*;

    fn messages(mut parcel: Parcel) -> Vec<DownlinkMessage> {
        let mut messages = Vec::new();
        while let Some((message, bytes)) = parcel.next_message() {
            messages.push(message);
            parcel.sent = Some(parcel.sent.unwrap_or(0) + bytes);
        }
        messages
    }

    #[test]
    fn parcels_of_any_size_come_back_also_in_turns() {
        let part = PARCEL_PART_BYTES;
        for size in [0, 1, part, part + 1, 3 * part + 5] {
            let of = |seed: usize| -> Vec<u8> { (0..size).map(|k| (k * seed) as u8).collect() };
            let (one, other) = (of(3), of(5));
            let left = messages(Parcel::new(REPLY, 7, one.clone()));
            let right = messages(Parcel::new(REPLY, 8, other.clone()));
            let mut unpacker = Unpacker::default();
            let mut got = Vec::new();
            for (a, b) in left.iter().zip(&right) {
                got.extend(unpacker.push(a));
                got.extend(unpacker.push(b));
            }
            assert_eq!(got, [one, other], "{size}");
        }
    }

    #[test]
    fn a_parcel_that_is_begun_anew_is_the_new_one() {
        let old = messages(Parcel::new(REPLY, 7, vec![1; 200_000]));
        let new = messages(Parcel::new(REPLY, 7, vec![2; 200_000]));
        let mut unpacker = Unpacker::default();
        assert_eq!(unpacker.push(&old[0]), None);
        assert_eq!(unpacker.push(&old[1]), None);
        let got: Vec<_> = new.iter().filter_map(|m| unpacker.push(m)).collect();
        assert_eq!(got, [vec![2; 200_000]]);
        // What is left of the old one means nothing any more.
        assert_eq!(unpacker.push(&old[3]), None);
    }
}
