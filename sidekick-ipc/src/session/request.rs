//! The engine's requests to the store: on their way up, and their answers on the way down.
//!
//! An op that was taken is applied once, whatever dies; its answer is kept until the game has taken it, and a new watchdog
//! gives it again by itself. A question is asked again when the watchdog is another one; a watch goes on from the last
//! revision that was seen. An answer is given to the game once, however often it comes.

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::sync::atomic::Ordering::{Acquire, Relaxed};
use std::time::Duration;

use serde::Serialize;
use serde::ser::{SerializeStructVariant, Serializer};

use super::room::CheckpointRoom;
use super::{RefusedCause, Session, State, WhenFull, lock};
use crate::control::KeptCheckpoints;
use crate::frame::{FRAGMENT_BYTES, FrameKind, append_flagged_frame, frame_bytes, sealed_header};
use crate::layout;
use crate::message::{DownlinkMessage, REPLY, Unpacker, WATCH_EVENTS};
use crate::region::Region;
use crate::request::{fragments, request_frames_bytes};
use crate::ring::{DRAIN_SLEEP, MESSAGE_SLEEP, kick, sleep};
use crate::sys;
use crate::tree::codec::REQUEST_PAYLOAD_BYTES_MAX;
use crate::tree::{
    CheckpointKind, REQUESTS_OUTSTANDING_MAX, StoreOp, StoreQuery, StoreResult, WatchBatch, Words,
    WordsError,
};

/// Of so many ops whose answer nobody awaits an error is still told.
const QUIET_MAX: usize = 1024;
/// A thread in [`Session::wait_message`] looks again after this long: another one may have taken its wake.
const WAIT_SLICE: Duration = Duration::from_millis(2);

/// What the watchdog has to say to the game.
#[derive(Clone, Debug, PartialEq)]
pub enum Message {
    /// The answer to a request that the game made, given once. For a [checkpoint](Session::checkpoint) and what
    /// belongs to one: only an error.
    Reply {
        /// The request's number.
        number: u64,
        /// The answer.
        result: StoreResult,
    },
    /// What a watch saw since the last time.
    Events {
        /// Number of the query that began the watch.
        watch: u64,
        /// The events; none of them was told before.
        batch: WatchBatch,
    },
    /// Anything else.
    Other(DownlinkMessage),
}

/// [`StoreOp::Checkpoint`] of a borrowed value, which is copied no more than it must be.
#[derive(Clone, Copy, Debug)]
pub struct CheckpointRef<'a> {
    /// As there.
    pub key: &'a str,
    /// As there.
    pub kind: CheckpointKind,
    /// As there.
    pub version: u64,
    /// As there.
    pub value: &'a [u8],
    /// As there.
    pub frame: u64,
    /// As there.
    pub realtime_ms: i64,
}

impl Serialize for CheckpointRef<'_> {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        // As serde derives it for the op; a test compares the two.
        let mut op = serializer.serialize_struct_variant("StoreOp", 7, "Checkpoint", 6)?;
        op.serialize_field("key", self.key)?;
        op.serialize_field("kind", &self.kind)?;
        op.serialize_field("version", &self.version)?;
        op.serialize_field("value", serde_bytes::Bytes::new(self.value))?;
        op.serialize_field("frame", &self.frame)?;
        op.serialize_field("realtime_ms", &self.realtime_ms)?;
        op.end()
    }
}

/// A question without an answer.
#[derive(Debug)]
struct Question {
    query: StoreQuery,
    /// Under which numbers it was asked; the first is the one that the game knows.
    asked: Vec<u64>,
}

#[derive(Debug)]
struct Watch {
    query: StoreQuery,
    /// Everything up to this revision was told; `None` before the watchdog has said where it begins.
    revision: Option<u64>,
    /// The game knows whether the watch was taken.
    is_answered: bool,
    /// As in [`Question`].
    asked: Vec<u64>,
}

/// What was asked and not answered.
#[derive(Debug, Default)]
pub(super) struct Requests {
    /// Ops whose answers are awaited.
    ops: BTreeSet<u64>,
    /// Number of the last op.
    last_op: u64,
    /// Ops whose answers are told only if they are errors, and the key that each is about.
    quiet: VecDeque<(u64, String)>,
    room: CheckpointRoom,
    questions: BTreeMap<u64, Question>,
    watches: BTreeMap<u64, Watch>,
    /// Numbers under which questions and watches were asked again → the number that the game knows.
    again: BTreeMap<u64, u64>,
    unpacker: Unpacker,
    /// What is encoded, kept for its memory.
    scratch: Vec<u8>,
}

impl Requests {
    /// Every answer up to this number was taken.
    fn acked(&self) -> u64 {
        self.ops
            .first()
            .map_or(self.last_op, |first| first.saturating_sub(1))
    }

    fn outstanding(&self) -> usize {
        self.ops
            .len()
            .saturating_add(self.questions.len())
            .saturating_add(self.watches.len())
    }

    /// The number that the game knows.
    fn original(&self, number: u64) -> u64 {
        self.again.get(&number).copied().unwrap_or(number)
    }

    fn forget_asked(&mut self, asked: &[u64]) {
        for number in asked {
            self.again.remove(number);
        }
    }

    fn on_message(&mut self, message: DownlinkMessage) -> Option<Message> {
        match message.kind {
            REPLY => {
                let bytes = self.unpacker.push(&message)?;
                self.on_reply(self.original(message.request), &bytes)
            }
            WATCH_EVENTS => {
                let bytes = self.unpacker.push(&message)?;
                let batch = WatchBatch::decode(&bytes).ok()?;
                self.on_events(self.original(message.request), batch)
            }
            _ => Some(Message::Other(message)),
        }
    }

    fn on_reply(&mut self, number: u64, bytes: &[u8]) -> Option<Message> {
        let result = StoreResult::decode(bytes).unwrap_or_else(|error| {
            StoreResult::error(
                crate::tree::ErrorKind::Invalid,
                format_args!("the watchdog's answer is not understood: {error}"),
            )
        });
        let is_error = result.error_words().is_some();
        if let Some(watch) = self.watches.get_mut(&number) {
            if let StoreResult::Ok(answer) = &result {
                watch.revision.get_or_insert(answer.revision);
            }
            let is_told = std::mem::replace(&mut watch.is_answered, true);
            if is_error && let Some(watch) = self.watches.remove(&number) {
                self.forget_asked(&watch.asked);
            }
            return (is_error || !is_told).then_some(Message::Reply { number, result });
        }
        if let Some(question) = self.questions.remove(&number) {
            self.forget_asked(&question.asked);
            if let (StoreQuery::Restore { key, .. }, StoreResult::Restored(restored)) =
                (&question.query, &result)
            {
                self.room.restored(number, key, restored);
            }
            return Some(Message::Reply { number, result });
        }
        if self.ops.remove(&number) {
            return Some(Message::Reply { number, result });
        }
        let quiet = self.quiet.iter().position(|(quiet, _)| *quiet == number)?;
        let (_, key) = self.quiet.remove(quiet)?;
        if is_error {
            self.room.refused(&key);
        }
        is_error.then_some(Message::Reply { number, result })
    }

    fn on_events(&mut self, number: u64, mut batch: WatchBatch) -> Option<Message> {
        let watch = self.watches.get_mut(&number)?;
        // Asked again, it may come twice. After a break in the events all is new, also where the store knows less than it did.
        let told = watch.revision.filter(|_| !batch.compacted);
        let is_new = |revision| told.is_none_or(|told| revision > told);
        batch.events.retain(|event| is_new(event.revision));
        watch.revision = told.max(Some(batch.revision));
        let is_news = !batch.events.is_empty() || batch.compacted;
        is_news.then_some(Message::Events {
            watch: number,
            batch,
        })
    }
}

impl Session {
    /// Sends an op and awaits its answer, which comes as [`Message::Reply`] with this number. When this returns `Ok`, the op
    /// survives the death of this process and is applied once.
    ///
    /// # Errors
    /// [`RefusedCause`]: nothing was sent.
    pub fn op(&self, op: &StoreOp) -> Result<u64, RefusedCause> {
        let mut requests = lock(&self.requests);
        check_outstanding(&requests)?;
        let number = self.send_words(&mut requests, FrameKind::Op, op)?;
        requests.ops.insert(number);
        requests.last_op = number;
        Ok(number)
    }

    /// Sends a checkpoint. Of its answer only an error is told, as far as it can be: it may be left out. There is none for want
    /// of room in the store: what would be refused for that is refused here.
    ///
    /// # Errors
    /// [`RefusedCause`]: nothing was sent.
    pub fn checkpoint(&self, checkpoint: &CheckpointRef<'_>) -> Result<u64, RefusedCause> {
        let CheckpointRef {
            key, kind, value, ..
        } = *checkpoint;
        let mut requests = lock(&self.requests);
        let told = KeptCheckpoints::read(&*self.current().mapping);
        requests.room.hear(told);
        let growth = requests.room.check(key, kind, value.len())?;
        let number = self.send_quietly(&mut requests, key, checkpoint)?;
        requests.room.sent(number, key, kind, value.len(), growth);
        Ok(number)
    }

    /// Takes all checkpoints of a key away; an error is told as for [`Session::checkpoint`].
    ///
    /// # Errors
    /// As there.
    pub fn forget_checkpoint(&self, key: &str) -> Result<u64, RefusedCause> {
        let mut requests = lock(&self.requests);
        let op = StoreOp::ForgetCheckpoint {
            key: key.to_owned(),
        };
        let number = self.send_quietly(&mut requests, key, &op)?;
        requests.room.sent_forget(number, key);
        Ok(number)
    }

    /// Tells that the game goes on with the checkpoint of this version, a full one's; an error is told as for
    /// [`Session::checkpoint`].
    ///
    /// # Errors
    /// As there.
    pub fn loaded(&self, key: &str, version: u64) -> Result<u64, RefusedCause> {
        let op = StoreOp::Loaded {
            key: key.to_owned(),
            version,
        };
        self.send_quietly(&mut lock(&self.requests), key, &op)
    }

    fn send_quietly(
        &self,
        requests: &mut Requests,
        key: &str,
        op: &impl Serialize,
    ) -> Result<u64, RefusedCause> {
        let number = self.send_words(requests, FrameKind::Op, op)?;
        requests.last_op = number;
        if requests.quiet.len() >= QUIET_MAX {
            requests.quiet.pop_front();
        }
        requests.quiet.push_back((number, key.to_owned()));
        Ok(number)
    }

    /// Asks a question; the answer comes as [`Message::Reply`] with this number. A [`StoreQuery::Watch`] is answered, and
    /// then goes on as [`Message::Events`] until [`Session::unwatch`].
    ///
    /// # Errors
    /// [`RefusedCause`]: nothing was asked.
    pub fn query(&self, query: &StoreQuery) -> Result<u64, RefusedCause> {
        let mut requests = lock(&self.requests);
        check_outstanding(&requests)?;
        let number = self.send_words(&mut requests, FrameKind::Query, query)?;
        let (query, asked) = (query.clone(), vec![number]);
        match query {
            StoreQuery::Watch { .. } => {
                let watch = Watch {
                    query,
                    revision: None,
                    is_answered: false,
                    asked,
                };
                requests.watches.insert(number, watch);
            }
            // Nobody waits for its answer, and a new watchdog knows of no watch.
            StoreQuery::Unwatch { .. } => {}
            query => {
                requests.questions.insert(number, Question { query, asked });
            }
        }
        Ok(number)
    }

    /// Ends a watch: no more of its events are told. Best effort for the watchdog, which would go on sending them.
    pub fn unwatch(&self, watch: u64) {
        let mut requests = lock(&self.requests);
        let Some(ended) = requests.watches.remove(&watch) else {
            return;
        };
        requests.forget_asked(&ended.asked);
        let last = ended.asked.last().copied().unwrap_or(watch);
        let words = StoreQuery::Unwatch { watch: last };
        let _ = self.send_words(&mut requests, FrameKind::Query, &words);
    }

    /// The game no longer waits for this answer: it counts as taken.
    pub fn forget(&self, number: u64) {
        let mut requests = lock(&self.requests);
        requests.ops.remove(&number);
        if let Some(question) = requests.questions.remove(&number) {
            requests.forget_asked(&question.asked);
        }
    }

    /// Encodes and sends. The requests are locked meanwhile, so that no answer is looked up before its request is noted.
    fn send_words(
        &self,
        requests: &mut Requests,
        kind: FrameKind,
        words: &impl Serialize,
    ) -> Result<u64, RefusedCause> {
        let acked = requests.acked();
        let mut scratch = std::mem::take(&mut requests.scratch);
        scratch.clear();
        let sent = crate::tree::codec::encode_request_into(acked, words, &mut scratch)
            .map_err(|error| match error {
                WordsError::TooLarge { bytes, max, .. } => {
                    RefusedCause::RequestTooLarge { bytes, max }
                }
                WordsError::Malformed { .. } => RefusedCause::RequestTooLarge {
                    bytes: usize::MAX,
                    max: REQUEST_PAYLOAD_BYTES_MAX,
                },
            })
            .and_then(|()| self.submit_request(kind, &scratch, FRAGMENT_BYTES));
        requests.scratch = scratch;
        sent
    }

    /// Stores the frames of one request: all of them or none.
    ///
    /// Public for tests, which cut into smaller fragments than a request needs.
    ///
    /// # Errors
    /// [`RefusedCause`]: nothing was stored.
    #[doc(hidden)]
    pub fn submit_request(
        &self,
        kind: FrameKind,
        request: &[u8],
        fragment_bytes: usize,
    ) -> Result<u64, RefusedCause> {
        let now_ns = sys::monotonic_ns();
        if request.len() > REQUEST_PAYLOAD_BYTES_MAX {
            return Err(RefusedCause::RequestTooLarge {
                bytes: request.len(),
                max: REQUEST_PAYLOAD_BYTES_MAX,
            });
        }
        let bytes = request_frames_bytes(request.len(), fragment_bytes);
        let mut state = lock(&self.state);
        let state = &mut *state;
        if state.closed {
            return Err(RefusedCause::Closed);
        }
        if self.is_fenced_in(state.producer.region()) {
            return Err(RefusedCause::Fenced);
        }
        if self.is_standby_in(state.producer.region()) {
            return Err(RefusedCause::Standby);
        }
        if bytes > self.ring_bytes && self.options.when_full != WhenFull::Spill {
            return Err(RefusedCause::TooLargeForRing {
                bytes,
                ring_bytes: self.ring_bytes,
            });
        }
        self.make_room(state, bytes, true)?;
        let first_seq = state.last_seq.wrapping_add(1);
        let mut seq = state.last_seq;
        let in_ring = state.producer.publish_together(
            bytes,
            fragments(request, fragment_bytes).map(|(flags, payload)| {
                seq = seq.wrapping_add(1);
                let header = sealed_header(self.seed, kind as u16, flags, payload, seq, now_ns);
                (header, payload)
            }),
        );
        if in_ring.is_err() {
            if self.options.when_full != WhenFull::Spill {
                return Err(RefusedCause::Full);
            }
            seq = self.spill_request(state, kind, request, fragment_bytes, first_seq, now_ns)?;
        }
        self.count(state, seq);
        self.kick_if_filling(state);
        Ok(seq)
    }

    #[cold]
    fn spill_request(
        &self,
        state: &mut State,
        kind: FrameKind,
        request: &[u8],
        fragment_bytes: usize,
        first_seq: u64,
        now_ns: u64,
    ) -> Result<u64, RefusedCause> {
        let mut frames = Vec::with_capacity(request_frames_bytes(request.len(), fragment_bytes));
        let (mut seq, mut first_bytes) = (first_seq, 0);
        for (index, (flags, payload)) in fragments(request, fragment_bytes).enumerate() {
            seq = first_seq.wrapping_add(index as u64);
            if index == 0 {
                first_bytes = frame_bytes(payload.len());
            }
            append_flagged_frame(
                &mut frames,
                self.seed,
                kind as u16,
                flags,
                seq,
                now_ns,
                payload,
            );
        }
        self.spill(state, &frames, first_bytes, seq)?;
        Ok(seq)
    }

    /// The next message of the watchdog, if there is one that the game has not had yet.
    pub fn next_message(&self) -> Option<Message> {
        let mut scratch = Vec::new();
        let mut requests = lock(&self.requests);
        while let Some(message) = self.poll_downlink(&mut scratch) {
            if let Some(message) = requests.on_message(message) {
                return Some(message);
            }
        }
        None
    }

    /// Sleeps until the watchdog has sent something, a few milliseconds at most and at most `timeout`; returns at once when
    /// something is there already. Wakes the watchdog, so that it takes what was asked. Whoever waits calls it again, and
    /// [`Session::next_message`] in between.
    pub fn wait_message(&self, timeout: Duration) {
        let current = self.current();
        let region = &current.mapping;
        self.ask_again_if_new(region.load(layout::C_GENERATION, Relaxed));
        kick(region, DRAIN_SLEEP);
        if self.has_leftover.load(Relaxed) {
            return;
        }
        sleep(region, MESSAGE_SLEEP, timeout.min(WAIT_SLICE), || {
            region.load(layout::DOWN_TAIL, Acquire) != region.load(layout::DOWN_HEAD, Relaxed)
        });
    }

    /// The answers to what was asked may have been lost with a file.
    pub(super) fn ask_again_later(&self) {
        self.asked_generation.store(0, Relaxed);
        self.is_break.store(true, Relaxed);
    }

    /// Puts the open questions to a watchdog that has not heard them.
    #[inline]
    pub(super) fn ask_again_if_new(&self, generation: u64) {
        if generation != 0 && generation != self.asked_generation.load(Relaxed) {
            self.ask_again(generation);
        }
    }

    #[cold]
    fn ask_again(&self, generation: u64) {
        let mut requests = lock(&self.requests);
        let before = self.asked_generation.swap(generation, Relaxed);
        if before == generation {
            return;
        }
        // The first watchdog finds what was asked in the ring.
        let is_break = self.is_break.load(Relaxed);
        if before == 0 && !is_break {
            return;
        }
        if self.ask_all(&mut requests).is_ok() {
            self.is_break.store(false, Relaxed);
        } else {
            // No room just now: the next frame tries again.
            self.asked_generation.store(0, Relaxed);
            self.is_break.store(true, Relaxed);
        }
    }

    fn ask_all(&self, requests: &mut Requests) -> Result<(), RefusedCause> {
        requests.unpacker.clear();
        let mut questions = std::mem::take(&mut requests.questions);
        let mut watches = std::mem::take(&mut requests.watches);
        let mut result = Ok(());
        for (number, question) in &mut questions {
            let sent = self.send_words(requests, FrameKind::Query, &question.query);
            match sent {
                Ok(asked) => {
                    question.asked.push(asked);
                    requests.again.insert(asked, *number);
                }
                Err(cause) => result = Err(cause),
            }
        }
        for (number, watch) in &mut watches {
            if let (Some(from), Some(last)) = (from_revision(&mut watch.query), watch.asked.last())
            {
                *from = watch.revision.or(*from);
                // It may be the same watchdog, after a rotation.
                let ended = StoreQuery::Unwatch { watch: *last };
                let _ = self.send_words(requests, FrameKind::Query, &ended);
            }
            let sent = self.send_words(requests, FrameKind::Query, &watch.query);
            match sent {
                Ok(asked) => {
                    watch.asked.push(asked);
                    requests.again.insert(asked, *number);
                }
                Err(cause) => result = Err(cause),
            }
        }
        requests.questions = questions;
        requests.watches = watches;
        result
    }
}

fn from_revision(query: &mut StoreQuery) -> Option<&mut Option<u64>> {
    match query {
        StoreQuery::Watch { from_revision, .. } => Some(from_revision),
        _ => None,
    }
}

fn check_outstanding(requests: &Requests) -> Result<(), RefusedCause> {
    if requests.outstanding() >= REQUESTS_OUTSTANDING_MAX {
        return Err(RefusedCause::TooManyRequests {
            max: REQUESTS_OUTSTANDING_MAX,
        });
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::tree::decode_request;

    #[test]
    fn a_borrowed_checkpoint_is_the_op() {
        for kind in [CheckpointKind::Full, CheckpointKind::Delta { base: 4 }] {
            let borrowed = CheckpointRef {
                key: "match",
                kind,
                version: 5,
                value: b"value",
                frame: 6,
                realtime_ms: -7,
            };
            let mut bytes = Vec::new();
            crate::tree::codec::encode_request_into(9, &borrowed, &mut bytes).unwrap();
            let op = StoreOp::Checkpoint {
                key: "match".to_owned(),
                kind,
                version: 5,
                value: b"value".to_vec(),
                frame: 6,
                realtime_ms: -7,
            };
            assert_eq!(decode_request(&bytes), Some((9, Ok(op))));
        }
    }
}
