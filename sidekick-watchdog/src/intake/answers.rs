//! What a session asked of the store, and what goes back to it: answers of operations, answers of queries, events of
//! watches. Belongs to the session's drain thread and never waits for anybody.

use std::collections::{BTreeMap, VecDeque};

use sidekick_ipc::message::{Parcel, REPLY, WATCH_EVENTS};
use sidekick_ipc::tree::{
    Answer, ErrorKind, Pattern, REQUESTS_OUTSTANDING_MAX, StoreQuery, StoreResult,
    WATCHES_PER_SESSION_MAX, WatchBatch, Words,
};

use super::requests::Asked;
use super::{Asker, Committer};

/// Bytes of answers that wait for room in the downlink; no more are made before some are sent. One larger one fits.
const OUT_BYTES_MAX: usize = 1 << 20;
/// Queries that wait to be looked at. An engine of ours awaits [`REQUESTS_OUTSTANDING_MAX`] at most; as many may come whose
/// answers it no longer awaits, since their time was over or their watch has ended.
const ASKED_MAX: usize = 2 * REQUESTS_OUTSTANDING_MAX;
/// What an answer counts at least.
const PARCEL_BYTES_MIN: usize = 64;

struct Watching {
    pattern: Pattern,
    /// Everything up to this revision was told.
    told: u64,
}

/// See the module.
pub(super) struct Answers {
    asker: Asker,
    /// Queries that nobody has looked at, in their order.
    asked: VecDeque<Asked>,
    /// Queries that wait for the end of earlier sessions.
    waiting: Vec<(u64, StoreQuery)>,
    watches: BTreeMap<u64, Watching>,
    /// The highest query that was noted: after a rewind they come again.
    noted: u64,
    /// The last operation whose answer is on its way.
    answered: u64,
    /// Ready to be sent, each with its bytes.
    out: VecDeque<(Parcel, usize)>,
    out_bytes: usize,
    /// There may be answers of operations that are not on their way.
    owes: bool,
}

impl Answers {
    /// Owes the session the answer of every operation that it has not acknowledged.
    pub(super) fn new(asker: Asker) -> Self {
        Self {
            asker,
            asked: VecDeque::new(),
            waiting: Vec::new(),
            watches: BTreeMap::new(),
            noted: 0,
            answered: 0,
            out: VecDeque::new(),
            out_bytes: 0,
            owes: true,
        }
    }

    /// Operations were applied.
    pub(super) fn applied(&mut self) {
        self.owes = true;
    }

    /// The session goes on in another ring file: what was on its way may be lost with the old one. Its questions and
    /// watches it asks again by itself; answers of operations are due again.
    pub(super) fn begin_anew(&mut self) {
        let noted = self.noted;
        *self = Self {
            noted,
            ..Self::new(self.asker.clone())
        };
    }

    pub(super) fn asker(&self) -> &Asker {
        &self.asker
    }

    /// Whose answers they are: the store's name for it may become known late.
    pub(super) fn set_source(&mut self, source: &str) {
        self.asker.source.clear();
        self.asker.source.push_str(source);
    }

    /// Notes queries. What an engine of ours would not ask for, since too much is unanswered already, is refused.
    pub(super) fn note(&mut self, queries: Vec<Asked>) {
        for asked in queries {
            if asked.number <= self.noted {
                continue;
            }
            self.noted = asked.number;
            if self.asked.len() + self.waiting.len() < ASKED_MAX {
                self.asked.push_back(asked);
            } else if self.has_room() {
                let max = ASKED_MAX;
                let message = format_args!("{max} queries are not answered yet");
                self.reply(
                    asked.number,
                    &StoreResult::error(ErrorKind::TooMany, message),
                );
            }
        }
    }

    /// Whether a change of the store could make something to tell.
    pub(super) fn listens(&self) -> bool {
        !self.watches.is_empty() || !self.waiting.is_empty()
    }

    /// Whether there may be something to answer or to send, apart from what a change of the store brings.
    pub(super) fn has_work(&self) -> bool {
        self.owes || !self.asked.is_empty() || !self.out.is_empty()
    }

    /// Whether something waits for room in the downlink.
    pub(super) fn is_behind(&self) -> bool {
        !self.out.is_empty()
    }

    /// Whether a query waits for the end of earlier sessions.
    pub(super) fn waits_for_ends(&self) -> bool {
        !self.waiting.is_empty()
    }

    /// Answers what can be answered and sends what there is room for. Everything up to `settled` is applied.
    /// `earlier_rings` are the sessions of earlier launches whose rings are still there; asked only if it matters.
    pub(super) fn work(
        &mut self,
        committer: &dyn Committer,
        settled: u64,
        earlier_rings: impl FnOnce() -> Vec<uuid::Uuid>,
        mut send: impl FnMut(&mut Parcel) -> bool,
    ) {
        self.send(&mut send);
        let mut earlier_rings = Some(earlier_rings);
        while self.has_room() {
            let before = self.out.len();
            self.answer_ops(committer);
            self.answer_queries(committer, settled);
            if !self.waiting.is_empty()
                && let Some(rings) = earlier_rings.take()
                && committer.earlier_ended(&self.asker, &rings())
            {
                self.answer_waiting(committer);
            }
            self.tell_watches(committer);
            let is_done = self.out.len() == before;
            self.send(&mut send);
            if is_done {
                break;
            }
        }
    }

    fn has_room(&self) -> bool {
        self.out_bytes < OUT_BYTES_MAX
    }

    fn send(&mut self, send: &mut impl FnMut(&mut Parcel) -> bool) {
        while let Some((parcel, bytes)) = self.out.front_mut() {
            if !send(parcel) {
                return;
            }
            self.out_bytes = self.out_bytes.saturating_sub(*bytes);
            self.out.pop_front();
        }
    }

    fn push(&mut self, kind: u32, request: u64, bytes: Vec<u8>) {
        let size = bytes.len().saturating_add(PARCEL_BYTES_MIN);
        self.out_bytes = self.out_bytes.saturating_add(size);
        self.out
            .push_back((Parcel::new(kind, request, bytes), size));
    }

    fn reply(&mut self, number: u64, result: &StoreResult) {
        let bytes = result.encode().or_else(|error| {
            let message = format!("{error}; ask for less at a time");
            StoreResult::error(ErrorKind::TooLarge, message).encode()
        });
        // A sentence always fits.
        self.push(REPLY, number, bytes.unwrap_or_default());
    }

    fn answer_ops(&mut self, committer: &dyn Committer) {
        while self.owes && self.has_room() {
            let answers = committer.answers(&self.asker, self.answered);
            self.owes = !answers.is_empty();
            for (number, result) in answers {
                self.answered = self.answered.max(number);
                self.reply(number, &result);
            }
        }
    }

    fn answer_queries(&mut self, committer: &dyn Committer, settled: u64) {
        // Answers of operations go first: a query is behind all of those before it.
        while self.has_room() && !self.owes {
            match self.asked.front() {
                Some(asked) if asked.after_op <= settled => {}
                _ => return,
            }
            let Some(Asked { number, query, .. }) = self.asked.pop_front() else {
                return;
            };
            match query {
                Err(error) => {
                    self.reply(number, &StoreResult::error(ErrorKind::Invalid, error));
                }
                Ok(StoreQuery::Watch {
                    pattern,
                    from_revision,
                }) => self.watch(committer, number, pattern, from_revision),
                Ok(StoreQuery::Unwatch { watch }) => {
                    let was = self.watches.remove(&watch);
                    let answer = Answer {
                        count: u64::from(was.is_some()),
                        revision: committer.revision(),
                        succeeded: true,
                        ..Answer::default()
                    };
                    self.reply(number, &StoreResult::Ok(answer));
                }
                Ok(query @ StoreQuery::Restore { .. }) => self.waiting.push((number, query)),
                Ok(query) => {
                    let result = committer.query(&self.asker, &query);
                    self.reply(number, &result);
                }
            }
        }
    }

    fn watch(
        &mut self,
        committer: &dyn Committer,
        number: u64,
        pattern: Pattern,
        from: Option<u64>,
    ) {
        if self.watches.len() >= WATCHES_PER_SESSION_MAX {
            let max = WATCHES_PER_SESSION_MAX;
            let message = format_args!("{max} watches are open; stop some of them");
            self.reply(number, &StoreResult::error(ErrorKind::TooMany, message));
            return;
        }
        let now = committer.revision();
        // From the future: the store knows less than it did, as after a restored copy.
        let compacted = from.is_some_and(|from| from > now);
        let told = from.map_or(now, |from| from.min(now));
        self.watches.insert(number, Watching { pattern, told });
        let answer = Answer {
            revision: told,
            succeeded: true,
            ..Answer::default()
        };
        self.reply(number, &StoreResult::Ok(answer));
        let batch = WatchBatch {
            revision: now,
            compacted,
            events: Vec::new(),
        };
        if compacted && let Ok(bytes) = batch.encode() {
            self.push(WATCH_EVENTS, number, bytes);
        }
    }

    fn answer_waiting(&mut self, committer: &dyn Committer) {
        while self.has_room() && !self.waiting.is_empty() {
            let (number, query) = self.waiting.remove(0);
            let result = committer.query(&self.asker, &query);
            self.reply(number, &result);
        }
    }

    fn tell_watches(&mut self, committer: &dyn Committer) {
        if self.watches.is_empty() {
            return;
        }
        let revision = committer.revision();
        let (mut told, mut bytes) = (Vec::new(), self.out_bytes);
        for (number, watching) in &mut self.watches {
            while watching.told < revision && bytes < OUT_BYTES_MAX {
                let batch = committer.events(&watching.pattern, watching.told);
                let is_news = batch.compacted || !batch.events.is_empty();
                if batch.revision <= watching.told {
                    break;
                }
                watching.told = batch.revision;
                if is_news && let Ok(encoded) = batch.encode() {
                    bytes = bytes.saturating_add(encoded.len());
                    told.push((*number, encoded));
                }
            }
        }
        for (number, encoded) in told {
            self.push(WATCH_EVENTS, number, encoded);
        }
    }
}
