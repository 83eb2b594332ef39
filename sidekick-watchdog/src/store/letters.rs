//! Dead letters as the uploader and operators change and read them. What they are is told in `state::letters`.

use std::collections::BTreeSet;
use std::time::Duration;

use super::clock::nanos;
use super::command::{Command, LetterChange, Outcome, Plan};
use super::state::KeptLetter;
use super::{Store, StoreError};
use crate::books::{Counts, Letter};
use crate::position::Position;

impl Store {
    /// Keeps a record that nobody would take and moves its lane's watermark to it; `counts` is what lies between. One at
    /// or behind the watermark changes nothing.
    ///
    /// # Errors
    /// [`StoreError::Refused`] with `Refusal::LettersFull`, `Refusal::UnknownLane`; [`StoreError::Stopped`].
    pub async fn dead_letter(
        &self,
        sink: &str,
        lane: u32,
        counts: Counts,
        letter: Letter,
    ) -> Result<(), StoreError> {
        let command = Command::DeadLetter {
            sink: sink.to_owned(),
            lane,
            counts,
            letter: letter.bounded(),
            time_ns: 0,
        };
        self.propose(command).await.map(|_| ())
    }

    async fn change_letters(&self, change: LetterChange) -> Result<u64, StoreError> {
        match self
            .propose(Command::Letters { change, time_ns: 0 })
            .await?
        {
            Outcome::Letters(count) => Ok(count),
            other => Err(StoreError::Raft {
                what: format!("unexpected outcome {other:?}"),
            }),
        }
    }

    /// Marks dead letters: their lanes send them again when they have a moment. Says how many were not marked before.
    ///
    /// # Errors
    /// [`StoreError::Stopped`].
    pub async fn mark_letters(&self, ids: Vec<u64>) -> Result<u64, StoreError> {
        self.change_letters(LetterChange::Mark { ids }).await
    }

    /// Drops dead letters; the sinks' books say so. Those stay that a configured sink is sending. Says how many went.
    ///
    /// # Errors
    /// [`StoreError::Stopped`].
    pub async fn drop_letters(&self, ids: Vec<u64>) -> Result<u64, StoreError> {
        self.change_letters(LetterChange::Discard { ids }).await
    }

    /// How many of these letters are there, and being sent by a configured sink.
    pub fn letters_on_their_way(&self, ids: &[u64]) -> u64 {
        self.parts.machine.read(|state| {
            let kept = ids.iter().filter_map(|id| state.letters().get(*id));
            kept.filter(|kept| state.is_on_its_way(kept)).count() as u64
        })
    }

    /// Drops, as [`Store::drop_letters`], what has been kept for `keep` of log time. Asks the group only if there is any.
    ///
    /// # Errors
    /// [`StoreError::Stopped`].
    pub async fn expire_letters(&self, keep: Duration) -> Result<u64, StoreError> {
        let keep_ns = nanos(keep);
        let now_ns = self.parts.machine.now_ns();
        let is_old = |kept: &KeptLetter| kept.time_ns.saturating_add(keep_ns) <= now_ns;
        let any = self.parts.machine.read(|state| {
            let mut letters = state.letters().iter();
            letters.any(|(_, kept)| !state.is_on_its_way(kept) && is_old(kept))
        });
        match any {
            true => self.change_letters(LetterChange::Outdate { keep_ns }).await,
            false => Ok(0),
        }
    }

    /// Fixes the bytes of a marked letter's replay before its first try. `refused`: the one record of its lane's open plan,
    /// which the backend refused and for which there is no room.
    ///
    /// # Errors
    /// [`StoreError::Refused`]: it is gone, or its lane has another batch on its way; [`StoreError::Stopped`].
    pub async fn plan_replay(
        &self,
        id: u64,
        number: u32,
        plan: Plan,
        refused: Option<Position>,
    ) -> Result<(), StoreError> {
        let change = match refused {
            None => LetterChange::Plan { id, number, plan },
            Some(refused) => LetterChange::PlanBeside {
                id,
                number,
                plan,
                refused,
            },
        };
        self.change_letters(change).await.map(drop)
    }

    /// The backend has a replayed letter: it is one no more.
    ///
    /// # Errors
    /// [`StoreError::Refused`] with `Refusal::UnknownLetter`: that was said before. [`StoreError::Stopped`].
    pub async fn replayed(&self, id: u64, number: u32) -> Result<(), StoreError> {
        let change = LetterChange::Replayed { id, number };
        self.change_letters(change).await.map(drop)
    }

    /// The backend refused a replayed letter again.
    ///
    /// # Errors
    /// As [`Store::replayed`].
    pub async fn replay_refused(
        &self,
        id: u64,
        number: u32,
        code: String,
        reason: String,
    ) -> Result<(), StoreError> {
        let change = LetterChange::Refused {
            id,
            number,
            code,
            reason,
        };
        self.change_letters(change).await.map(drop)
    }

    /// The letter that a lane has to replay next, with its id.
    pub fn next_replay(&self, sink: &str, lane: u32) -> Option<(u64, KeptLetter)> {
        self.parts.machine.read(|state| {
            let lanes = state.lanes(sink).map_or(0, <[_]>::len);
            let lanes = u32::try_from(lanes).unwrap_or(u32::MAX);
            let next = state.letters().next_replay(sink, lane, lanes);
            next.map(|(id, kept)| (id, kept.clone()))
        })
    }

    /// Dead letters with ids above `after` for which `wanted` holds, oldest first, at most `count_max`.
    pub fn dead_letters(
        &self,
        after: u64,
        count_max: usize,
        mut wanted: impl FnMut(u64, &KeptLetter) -> bool,
    ) -> Vec<(u64, KeptLetter)> {
        self.parts.machine.read(|state| {
            let letters = state.letters().iter();
            let found = letters.filter(|(id, kept)| *id > after && wanted(*id, kept));
            let found = found.take(count_max);
            found.map(|(id, kept)| (id, kept.clone())).collect()
        })
    }

    /// How many dead letters there are for which `wanted` holds.
    pub fn count_dead_letters(&self, mut wanted: impl FnMut(u64, &KeptLetter) -> bool) -> u64 {
        self.parts.machine.read(|state| {
            let letters = state.letters().iter();
            letters.filter(|(id, kept)| wanted(*id, kept)).count() as u64
        })
    }

    /// The sinks of the configuration.
    pub fn sink_names(&self) -> BTreeSet<String> {
        self.parts.machine.read(|state| {
            let sinks = state.sinks();
            sinks.map(|(sink, _)| sink.to_owned()).collect()
        })
    }

    /// The sinks of the configuration, and those that have dead letters still.
    pub fn letter_sinks(&self) -> BTreeSet<String> {
        self.parts.machine.read(|state| {
            let letters = state.letters().iter();
            let sinks = state.sinks().map(|(sink, _)| sink);
            let sinks: BTreeSet<&str> = sinks.chain(letters.map(|(_, kept)| &*kept.sink)).collect();
            sinks.into_iter().map(str::to_owned).collect()
        })
    }

    /// How many dead letters there are, and how many bytes they take.
    pub fn dead_letter_room(&self) -> (u64, u64) {
        self.parts.machine.read(|state| {
            let letters = state.letters();
            (letters.count(), letters.bytes())
        })
    }

    /// Log time as this node would stamp it now, in nanoseconds.
    pub fn log_time_ns(&self) -> u64 {
        self.parts.machine.now_ns()
    }
}
