//! The engine's requests to the store: on their way up, and their answers on the way down.
//!
//! An op that was taken is applied once, whatever dies; its answer is kept until the game has taken it, and a new watchdog
//! gives it again by itself. A question is asked again when the watchdog is another one; a watch goes on from the last
//! revision that was seen. An answer is given to the game once, however often it comes.
//!
//! `pending`: what was asked and not answered · `submit`: the frames of a request · `checkpoint`: what is sent without an answer ·
//! `again`: what is asked again.

mod again;
mod checkpoint;
mod pending;
mod submit;

use std::sync::atomic::Ordering::{Acquire, Relaxed};
use std::time::Duration;

use super::{RefusedCause, Session, lock};
use crate::frame::FrameKind;
use crate::layout;
use crate::message::DownlinkMessage;
use crate::region::Region;
use crate::ring::{DRAIN_SLEEP, MESSAGE_SLEEP, kick, sleep};
use crate::tree::{StoreOp, StoreQuery, StoreResult, WatchBatch};

pub use checkpoint::CheckpointRef;
pub(super) use pending::Requests;
use pending::{Question, Watch};

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

impl Session {
    /// Sends an op and awaits its answer, which comes as [`Message::Reply`] with this number. When this returns `Ok`, the op
    /// survives the death of this process and is applied once.
    ///
    /// # Errors
    /// [`RefusedCause`]: nothing was sent.
    pub fn op(&self, op: &StoreOp) -> Result<u64, RefusedCause> {
        let mut requests = lock(&self.requests);
        requests.check_outstanding()?;
        let number = self.send_words(&mut requests, FrameKind::Op, op)?;
        requests.ops.insert(number);
        requests.last_op = number;
        Ok(number)
    }

    /// Asks a question; the answer comes as [`Message::Reply`] with this number. A [`StoreQuery::Watch`] is answered, and
    /// then goes on as [`Message::Events`] until [`Session::unwatch`].
    ///
    /// # Errors
    /// [`RefusedCause`]: nothing was asked.
    pub fn query(&self, query: &StoreQuery) -> Result<u64, RefusedCause> {
        let mut requests = lock(&self.requests);
        requests.check_outstanding()?;
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
}
