//! What was asked and not answered, and what an answer means to the game.

use std::collections::{BTreeMap, BTreeSet, VecDeque};

use super::Message;
use crate::message::{DownlinkMessage, REPLY, Unpacker, WATCH_EVENTS};
use crate::session::RefusedCause;
use crate::session::room::CheckpointRoom;
use crate::tree::{
    ErrorKind, REQUESTS_OUTSTANDING_MAX, StoreQuery, StoreResult, WatchBatch, Words,
};

/// Of so many ops whose answer nobody awaits an error is still told.
const QUIET_MAX: usize = 1024;

/// A question without an answer.
#[derive(Debug)]
pub(super) struct Question {
    pub(super) query: StoreQuery,
    /// Under which numbers it was asked; the first is the one that the game knows.
    pub(super) asked: Vec<u64>,
}

/// A watch that was not ended.
#[derive(Debug)]
pub(super) struct Watch {
    pub(super) query: StoreQuery,
    /// Everything up to this revision was told; `None` before the watchdog has said where it begins.
    pub(super) revision: Option<u64>,
    /// The game knows whether the watch was taken.
    pub(super) is_answered: bool,
    /// As in [`Question`].
    pub(super) asked: Vec<u64>,
}

/// What was asked and not answered.
#[derive(Debug, Default)]
pub(in crate::session) struct Requests {
    /// Ops whose answers are awaited.
    pub(super) ops: BTreeSet<u64>,
    /// Number of the last op.
    pub(super) last_op: u64,
    /// Ops whose answers are told only if they are errors, and the key that each is about.
    pub(super) quiet: VecDeque<(u64, String)>,
    pub(super) room: CheckpointRoom,
    pub(super) questions: BTreeMap<u64, Question>,
    pub(super) watches: BTreeMap<u64, Watch>,
    /// Numbers under which questions and watches were asked again → the number that the game knows.
    pub(super) again: BTreeMap<u64, u64>,
    pub(super) unpacker: Unpacker,
    /// What is encoded, kept for its memory.
    pub(super) scratch: Vec<u8>,
}

impl Requests {
    /// Every answer up to this number was taken.
    pub(super) fn acked(&self) -> u64 {
        self.ops
            .first()
            .map_or(self.last_op, |first| first.saturating_sub(1))
    }

    /// Whether one more may be asked.
    pub(super) fn check_outstanding(&self) -> Result<(), RefusedCause> {
        let outstanding = self
            .ops
            .len()
            .saturating_add(self.questions.len())
            .saturating_add(self.watches.len());
        if outstanding >= REQUESTS_OUTSTANDING_MAX {
            return Err(RefusedCause::TooManyRequests {
                max: REQUESTS_OUTSTANDING_MAX,
            });
        }
        Ok(())
    }

    /// An op was sent of whose answer only an error is told.
    pub(super) fn note_quiet(&mut self, number: u64, key: &str) {
        self.last_op = number;
        if self.quiet.len() >= QUIET_MAX {
            self.quiet.pop_front();
        }
        self.quiet.push_back((number, key.to_owned()));
    }

    /// The number that the game knows.
    fn original(&self, number: u64) -> u64 {
        self.again.get(&number).copied().unwrap_or(number)
    }

    pub(super) fn forget_asked(&mut self, asked: &[u64]) {
        for number in asked {
            self.again.remove(number);
        }
    }

    pub(super) fn on_message(&mut self, message: DownlinkMessage) -> Option<Message> {
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
                ErrorKind::Invalid,
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
