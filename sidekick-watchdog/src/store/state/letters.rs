//! Dead letters: records that a backend or a rule refused for good, kept until they are replayed, dropped or too old.
//!
//! Bounded by [`LETTERS_MAX`] and [`LETTERS_BYTES_MAX`]; when full, nothing is dropped: whoever brings another one is
//! refused and waits.

use std::collections::BTreeMap;
use std::sync::Arc;

use serde::{Deserialize, Serialize};

use super::super::command::{LetterChange, Outcome, PLAN_EXTRA_BYTES_MAX, Plan, Refusal};
use super::State;
use crate::books::{Counts, DROPPED_BY_OPERATOR, DROPPED_EXPIRED, Letter};
use crate::position::Position;

/// The most dead letters of a group.
pub const LETTERS_MAX: u64 = 10_000;
/// The most bytes that the dead letters of a group take.
pub const LETTERS_BYTES_MAX: u64 = 64 << 20;

/// A dead letter as it is kept.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct KeptLetter {
    /// Which sink's.
    pub sink: String,
    /// Which lane's, when it was written; see [`KeptLetter::is_of`].
    pub lane: u32,
    /// Log time when it was written, in nanoseconds.
    pub time_ns: u64,
    /// Its lane shall send it again.
    pub marked: bool,
    /// Replays that were planned so far.
    pub replays: u32,
    /// The bytes of the replay under way.
    pub plan: Option<Plan>,
    /// The record and what was said of it. Shared: a state is cloned for each snapshot.
    #[serde(with = "shared")]
    pub letter: Arc<Letter>,
}

/// A shared letter is written as what it is.
mod shared {
    use super::{Arc, Letter};
    use serde::{Deserialize, Deserializer, Serialize, Serializer};

    pub(super) fn serialize<S: Serializer>(
        letter: &Arc<Letter>,
        serializer: S,
    ) -> Result<S::Ok, S::Error> {
        Letter::serialize(letter, serializer)
    }

    pub(super) fn deserialize<'de, D: Deserializer<'de>>(
        deserializer: D,
    ) -> Result<Arc<Letter>, D::Error> {
        Letter::deserialize(deserializer).map(Arc::new)
    }
}

impl KeptLetter {
    /// Whether it is for this lane to replay, the sink having `lanes` of them now.
    pub fn is_of(&self, sink: &str, lane: u32, lanes: u32) -> bool {
        self.sink == sink && self.lane.checked_rem(lanes) == Some(lane)
    }
}

/// All dead letters of a group.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Letters {
    kept: BTreeMap<u64, KeptLetter>,
    /// The id that the last one got.
    last_id: u64,
    bytes: u64,
    /// How many are marked.
    marked: u64,
}

impl Letters {
    pub(crate) fn iter(&self) -> impl Iterator<Item = (u64, &KeptLetter)> {
        self.kept.iter().map(|(id, kept)| (*id, kept))
    }

    pub(crate) fn get(&self, id: u64) -> Option<&KeptLetter> {
        self.kept.get(&id)
    }

    pub(crate) fn count(&self) -> u64 {
        self.kept.len() as u64
    }

    pub(crate) fn bytes(&self) -> u64 {
        self.bytes
    }

    /// The letter that a lane has to replay next: one that is under way, else the oldest that is marked.
    pub(crate) fn next_replay(
        &self,
        sink: &str,
        lane: u32,
        lanes: u32,
    ) -> Option<(u64, &KeptLetter)> {
        if self.marked == 0 {
            return None;
        }
        let of_lane = || {
            self.iter()
                .filter(|(_, kept)| kept.marked && kept.is_of(sink, lane, lanes))
        };
        of_lane()
            .find(|(_, kept)| kept.plan.is_some())
            .or_else(|| of_lane().next())
    }

    fn remove(&mut self, id: u64) -> Option<KeptLetter> {
        let kept = self.kept.remove(&id)?;
        self.bytes = self.bytes.saturating_sub(kept.letter.bytes());
        self.marked = self.marked.saturating_sub(u64::from(kept.marked));
        Some(kept)
    }
}

impl State {
    pub(super) fn dead_letter(
        &mut self,
        sink: &str,
        lane: u32,
        counts: &Counts,
        letter: Letter,
    ) -> Result<Outcome, Refusal> {
        let position = letter.position;
        if position <= self.lane(sink, lane)?.watermark {
            return Ok(Outcome::Done);
        }
        let letter = letter.bounded();
        let (count, bytes) = (self.letters.count(), self.letters.bytes);
        if count >= LETTERS_MAX || bytes.saturating_add(letter.bytes()) > LETTERS_BYTES_MAX {
            return Err(Refusal::LettersFull { count, bytes });
        }
        self.settle(sink, lane, position, counts)?;
        let books = self.books.entry(sink.to_owned()).or_default();
        books.dead = books.dead.saturating_add(letter.numbers);
        books.letters = books.letters.saturating_add(1);
        books.letters_now = books.letters_now.saturating_add(1);
        let letters = &mut self.letters;
        letters.last_id += 1;
        letters.bytes = bytes.saturating_add(letter.bytes());
        let kept = KeptLetter {
            sink: sink.to_owned(),
            lane,
            time_ns: self.time_ns,
            marked: false,
            replays: 0,
            plan: None,
            letter: Arc::new(letter),
        };
        letters.kept.insert(letters.last_id, kept);
        Ok(Outcome::Done)
    }

    pub(super) fn change_letters(&mut self, change: LetterChange) -> Result<Outcome, Refusal> {
        match change {
            LetterChange::Mark { ids } => {
                let mut count = 0;
                for id in ids {
                    if let Some(kept) = self.letters.kept.get_mut(&id) {
                        self.letters.marked += u64::from(!kept.marked);
                        count += u64::from(!kept.marked);
                        kept.marked = true;
                    }
                }
                Ok(Outcome::Letters(count))
            }
            LetterChange::Drop { ids } => {
                Ok(self.drop_letters(ids, DROPPED_BY_OPERATOR, Self::is_planned))
            }
            LetterChange::Expire { keep_ns } => {
                let ids = self.old_letters(keep_ns);
                Ok(self.drop_letters(ids, DROPPED_EXPIRED, Self::is_planned))
            }
            LetterChange::Discard { ids } => {
                Ok(self.drop_letters(ids, DROPPED_BY_OPERATOR, Self::is_on_its_way))
            }
            LetterChange::Outdate { keep_ns } => {
                let ids = self.old_letters(keep_ns);
                Ok(self.drop_letters(ids, DROPPED_EXPIRED, Self::is_on_its_way))
            }
            LetterChange::Plan { id, number, plan } => self.plan_replay(id, number, plan, None),
            LetterChange::PlanBeside {
                id,
                number,
                plan,
                refused,
            } => self.plan_replay(id, number, plan, Some(refused)),
            LetterChange::Replayed { id, number } => {
                self.under_way(id, number)?;
                let Some(kept) = self.letters.remove(id) else {
                    return Err(Refusal::UnknownLetter);
                };
                let books = self.books.entry(kept.sink).or_default();
                let numbers = kept.letter.numbers;
                books.dead = books.dead.saturating_sub(numbers);
                books.counts.rows = books.counts.rows.saturating_add(1);
                books.counts.records = books.counts.records.saturating_add(numbers);
                books.letters_now = books.letters_now.saturating_sub(1);
                books.replayed = books.replayed.saturating_add(1);
                Ok(Outcome::Letters(1))
            }
            LetterChange::Refused {
                id,
                number,
                code,
                reason,
            } => {
                // Before its plan is fixed it may be refused, too: by the rules.
                let kept = self.letters.kept.get_mut(&id);
                let kept = kept.filter(|kept| match kept.plan {
                    Some(_) => kept.replays == number,
                    None => kept.marked && kept.replays + 1 == number,
                });
                let kept = kept.ok_or(Refusal::UnknownLetter)?;
                kept.replays = number;
                kept.plan = None;
                kept.marked = false;
                let old = kept.letter.bytes();
                let letter = Letter {
                    code,
                    reason,
                    ..(*kept.letter).clone()
                };
                kept.letter = Arc::new(letter.bounded());
                let new = kept.letter.bytes();
                self.letters.bytes = self.letters.bytes.saturating_sub(old).saturating_add(new);
                self.letters.marked = self.letters.marked.saturating_sub(1);
                Ok(Outcome::Letters(1))
            }
        }
    }

    /// The letter whose replay with this number is under way.
    fn under_way(&mut self, id: u64, number: u32) -> Result<&mut KeptLetter, Refusal> {
        let kept = self.letters.kept.get_mut(&id);
        kept.filter(|kept| kept.plan.is_some() && kept.replays == number)
            .ok_or(Refusal::UnknownLetter)
    }

    /// `refused`: the one record of a plan that may stand, see [`LetterChange::PlanBeside`].
    fn plan_replay(
        &mut self,
        id: u64,
        number: u32,
        plan: Plan,
        refused: Option<Position>,
    ) -> Result<Outcome, Refusal> {
        if plan.extra.len() > PLAN_EXTRA_BYTES_MAX {
            return Err(Refusal::BadPlan);
        }
        let kept = self.letters.get(id).ok_or(Refusal::UnknownLetter)?;
        let (sink, lane) = (kept.sink.clone(), kept.lane);
        let lanes = self.sinks.get(&sink).ok_or(Refusal::UnknownLane)?;
        let count = u32::try_from(lanes.len()).unwrap_or(u32::MAX);
        let lane = lane.checked_rem(count).ok_or(Refusal::UnknownLane)?;
        let standing = lanes.get(lane as usize).and_then(|lane| lane.plan.as_ref());
        let is_refused = |plan: &Plan| plan.first == plan.last && Some(plan.first) == refused;
        if standing.is_some_and(|standing| !is_refused(standing)) {
            return Err(Refusal::PlanStands);
        }
        if self.open_replay(&sink, lane).is_some_and(|open| open != id) {
            return Err(Refusal::ReplayStands);
        }
        let kept = self
            .letters
            .kept
            .get_mut(&id)
            .ok_or(Refusal::UnknownLetter)?;
        // The same again, or one whose file is gone.
        let again = kept.plan.is_some() && kept.replays == number;
        if !kept.marked || !(again || (kept.plan.is_none() && kept.replays + 1 == number)) {
            return Err(Refusal::UnknownLetter);
        }
        kept.replays = number;
        kept.plan = Some(plan);
        Ok(Outcome::Letters(1))
    }

    /// The letter of this lane whose replay is under way.
    pub(super) fn open_replay(&self, sink: &str, lane: u32) -> Option<u64> {
        let lanes = self.sinks.get(sink).map_or(0, Vec::len);
        let lanes = u32::try_from(lanes).unwrap_or(u32::MAX);
        let (id, kept) = self.letters.next_replay(sink, lane, lanes)?;
        kept.plan.is_some().then_some(id)
    }

    /// Those that have been kept for so long.
    fn old_letters(&self, keep_ns: u64) -> Vec<u64> {
        let is_old = |kept: &KeptLetter| kept.time_ns.saturating_add(keep_ns) <= self.time_ns;
        let old = self.letters.iter().filter(|(_, kept)| is_old(kept));
        old.map(|(id, _)| id).collect()
    }

    /// What kept a letter from being dropped in older logs: nobody could drop one whose sink was gone amid its replay.
    fn is_planned(&self, kept: &KeptLetter) -> bool {
        kept.plan.is_some()
    }

    /// Whether a sink is sending it. One that is not configured sends nothing, whatever was planned.
    pub(crate) fn is_on_its_way(&self, kept: &KeptLetter) -> bool {
        kept.plan.is_some() && self.sinks.contains_key(&kept.sink)
    }

    fn drop_letters(
        &mut self,
        ids: Vec<u64>,
        reason: &str,
        stays: fn(&Self, &KeptLetter) -> bool,
    ) -> Outcome {
        let mut count = 0;
        for id in ids {
            if self.letters.get(id).is_some_and(|kept| stays(self, kept)) {
                continue;
            }
            let Some(kept) = self.letters.remove(id) else {
                continue;
            };
            count += 1;
            let books = self.books.entry(kept.sink).or_default();
            books.dead = books.dead.saturating_sub(kept.letter.numbers);
            books.letters_now = books.letters_now.saturating_sub(1);
            books.counts.drop_of(reason, kept.letter.numbers);
        }
        Outcome::Letters(count)
    }

    pub(crate) fn letters(&self) -> &Letters {
        &self.letters
    }
}

#[cfg(test)]
mod tests;
