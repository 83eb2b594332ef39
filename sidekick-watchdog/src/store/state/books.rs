//! The books: what became of each sequence number at each sink. They change with the watermarks, in one command.

use super::super::command::{Outcome, Refusal};
use super::State;
use super::sinks::whole;
use crate::books::{Counts, SinkBooks};
use crate::position::Position;

impl State {
    /// Moves a lane's watermark to `up_to` and counts what lies between. A position at or behind it changes nothing.
    pub(super) fn settle(
        &mut self,
        sink: &str,
        lane: u32,
        up_to: Position,
        counts: &Counts,
    ) -> Result<Outcome, Refusal> {
        let lane = self.lane(sink, lane)?;
        if up_to <= lane.watermark {
            return Ok(Outcome::Done);
        }
        lane.watermark = up_to;
        lane.records = lane.records.saturating_add(counts.rows);
        if lane.plan.as_ref().is_some_and(|plan| plan.last <= up_to) {
            lane.plan = None;
        }
        let books = self.books.entry(sink.to_owned()).or_default();
        books.counts.add(counts);
        if books.since.is_none() && self.is_done(sink) {
            self.begin_books(sink);
        }
        Ok(Outcome::Done)
    }

    /// Whether every lane of `sink` is through with all slabs there are.
    pub(super) fn is_done(&self, sink: &str) -> bool {
        let lanes = self.sinks.get(sink).into_iter().flatten();
        lanes.map(|lane| lane.watermark).min() >= Some(whole(self.last_slab))
    }

    /// With nothing left to do, what the sink began with is the rest.
    fn begin_books(&mut self, sink: &str) {
        let committed = self.committed();
        if let Some(books) = self.books.get_mut(sink) {
            books.since = committed.checked_sub(books.numbers());
        }
    }

    /// Old entries count rows only; the sink learns anew what it began with.
    pub(super) fn uncounted(&mut self, sink: &str) {
        if let Some(books) = self.books.get_mut(sink) {
            books.since = None;
        }
    }

    /// For a state of a version without books: nobody knows which entry was the last that brought something.
    pub(crate) fn open_books(&mut self) {
        self.last_slab = self.last_applied.map_or(0, |id| id.index);
    }

    /// Sequence numbers committed: those of all sources, and derived records.
    pub(crate) fn committed(&self) -> u64 {
        let sources = self.sources.values().map(|of| of.totals.committed);
        sources.fold(self.derived_records, u64::saturating_add)
    }

    /// The books of `sink`, as if it had none where it never had anything to do.
    pub(crate) fn books(&self, sink: &str) -> SinkBooks {
        self.books.get(sink).cloned().unwrap_or_default()
    }
}
