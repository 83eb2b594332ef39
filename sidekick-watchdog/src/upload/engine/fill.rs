//! Fills batches: reads the log in order and encodes the records of one lane.
//!
//! Where a batch begins and which bytes it has depends on the log and the plan only, never on how the reading was cut:
//! positions are counted over the items of an entry from its start ([`Walk`](crate::upload::encode::Walk)).
//!
//! `items`: what a draft takes of an entry · `lost`: entries that are lost · `again`: planned batches once more.

mod again;
mod items;
mod lost;

use std::collections::VecDeque;
use std::sync::Arc;

use tokio::sync::watch;
use tokio::time::Instant;
use uuid::Uuid;

use super::draft::Draft;
use super::losses::Losses;
use crate::books::Counts;
use crate::position::Position;
use crate::upload::encode::RowWriter;
use crate::upload::outbox::{IndexedSlabs, Outbox, OutboxError};
use crate::upload::plan::{after, whole};
use crate::upload::shape::Shaper;
use crate::upload::sink::Sink;
use crate::upload::status::Board;

use items::Entry;

/// About how much of the log a lane reads at once. Also what it holds in memory beside its two batches.
const READ_BYTES: usize = 1 << 20;

/// Reads the log for one lane.
#[derive(Debug)]
pub(super) struct Filler<O> {
    outbox: Arc<O>,
    applied: watch::Receiver<u64>,
    board: Arc<Board>,
    sink: Arc<dyn Sink>,
    shaper: Arc<dyn Shaper>,
    losses: Arc<Losses>,
    met: watch::Receiver<()>,
    /// Of entries behind it nothing is in memory.
    begun: u64,
    /// The sink has everything at or before it.
    held: Position,
    /// Session and number of the last row that the sink has. Behind `held`, what lies at or before it is what was read from
    /// its ring again, since its entry is lost.
    last: Option<(Uuid, u64)>,
    /// It only counts what the sink has.
    accounts: bool,
    /// When a planned batch is made again: the version of its rules.
    rules_version: Option<u32>,
    lane: u32,
    lanes: u32,
    records_max: usize,
    bytes_max: usize,
    /// No batch that begins at or before it goes beyond it.
    fence: Position,
    /// Keep the first record of a draft.
    keeps: bool,
    /// What lies before it belongs to earlier batches.
    from: Position,
    /// When a planned batch is made again: its last record.
    until: Option<Position>,
    /// Everything at or before it was looked at.
    scanned: Position,
    /// Entries up to here were read.
    read_through: u64,
    queue: VecDeque<IndexedSlabs>,
    entry: Option<Entry>,
    writer: Box<dyn RowWriter>,
    /// What the rules made of a record.
    shaped: Vec<u8>,
    draft: Draft,
    /// What became of everything after the draft's last record, or after what is settled where there is no draft.
    trail: Counts,
    /// Slabs looked at since [`Filler::saved`].
    slabs_unsaved: u64,
    /// When a planned batch is made again: some of it is lost.
    met_lost: bool,
    /// The next entry is lost, and it is known that it is for us to tell of it, or that it is not.
    has_asked: bool,
    /// The next entry is lost, and other lanes have to pass it first.
    waits: bool,
}

impl<O: Outbox> Filler<O> {
    /// Begins at the log's beginning.
    pub(super) fn new(
        outbox: Arc<O>,
        board: Arc<Board>,
        sink: Arc<dyn Sink>,
        shaper: Arc<dyn Shaper>,
        losses: Arc<Losses>,
        (lane, lanes): (u32, u32),
        (records_max, bytes_max): (usize, usize),
    ) -> Self {
        Self {
            applied: outbox.applied(),
            outbox,
            board,
            lane,
            lanes,
            records_max: records_max.max(1),
            bytes_max: bytes_max.max(1),
            shaper,
            met: losses.changed(),
            losses,
            begun: 0,
            held: Position::default(),
            last: None,
            accounts: false,
            rules_version: None,
            fence: Position::default(),
            keeps: false,
            from: Position::default(),
            until: None,
            scanned: Position::default(),
            read_through: 0,
            queue: VecDeque::new(),
            entry: None,
            writer: sink.row_writer(),
            sink,
            shaped: Vec::new(),
            draft: Draft::default(),
            trail: Counts::default(),
            slabs_unsaved: 0,
            met_lost: false,
            has_asked: false,
            waits: false,
        }
    }

    /// Throws away what it holds and begins after `position`.
    pub(super) fn begin_after(&mut self, position: Position) {
        self.from = after(position);
        self.scanned = position;
        self.read_through = self.from.index.saturating_sub(1);
        self.holds_up_to(self.read_through);
        self.queue.clear();
        self.entry = None;
        (self.has_asked, self.waits) = (false, false);
        self.draft = Draft::default();
        self.trail = Counts::default();
    }

    /// Nothing of entries behind `index` is in memory, neither here nor on its way: a batch of them is going to be made again.
    pub(super) fn holds_up_to(&mut self, index: u64) {
        self.begun = index;
        self.losses.begin(self.lane, index);
    }

    /// The sink has everything at or before `held`.
    pub(super) fn set_held(&mut self, held: Position) {
        self.held = held;
    }

    /// The last row that the sink has.
    pub(super) fn set_last(&mut self, last: Option<(Uuid, u64)>) {
        self.last = last;
    }

    pub(super) fn held(&self) -> Position {
        self.held
    }

    /// The version of what its writer writes.
    pub(super) fn encoder_version(&self) -> u32 {
        self.writer.version()
    }

    /// Whether rules of this version can be applied.
    pub(super) fn knows(&self, rules_version: u32) -> bool {
        self.shaper.knows(rules_version)
    }

    pub(super) fn rules_version(&self) -> u32 {
        self.shaper.version()
    }

    pub(super) fn shaper(&self) -> &dyn Shaper {
        self.shaper.as_ref()
    }

    /// The largest number of records in a batch from now on.
    pub(super) fn set_records_max(&mut self, records_max: usize) {
        self.records_max = records_max.max(1);
    }

    /// From now on no batch that begins at or before `fence` goes beyond it.
    pub(super) fn set_fence(&mut self, fence: Position) {
        self.fence = fence;
    }

    /// The largest number of bytes of rows from now on.
    pub(super) fn set_bytes_max(&mut self, bytes_max: usize) {
        self.bytes_max = bytes_max.max(1);
    }

    pub(super) fn is_closed(&self) -> bool {
        self.draft.closed
    }

    pub(super) fn is_empty(&self) -> bool {
        self.draft.rows.is_empty()
    }

    /// Whether the draft is a record that the rules refused.
    pub(super) fn is_refused(&self) -> bool {
        self.draft.refusal.is_some()
    }

    /// Position of the draft's first record.
    pub(super) fn first(&self) -> Position {
        self.draft.first().unwrap_or_default()
    }

    /// When the first record of the draft came.
    pub(super) fn opened_at(&self) -> Option<Instant> {
        self.draft.opened_at
    }

    /// Everything at or before it was looked at and is not in the draft.
    pub(super) fn floor(&self) -> Position {
        if self.is_empty() {
            self.scanned
        } else {
            self.draft.floor
        }
    }

    /// What to commit when everything before the draft is done: its [`Filler::floor`], and what became of all up to there
    /// that was not settled. Whoever asks commits it, or throws this filler's state away.
    pub(super) fn settle(&mut self) -> (Position, Counts) {
        let counts = match self.is_empty() {
            true => &mut self.trail,
            false => &mut self.draft.before,
        };
        let counts = std::mem::take(counts);
        (self.floor(), counts)
    }

    /// Whether something lies before the draft that no commit has told of.
    pub(super) fn has_unsettled(&self) -> bool {
        match self.is_empty() {
            true => !self.trail.is_empty(),
            false => !self.draft.before.is_empty(),
        }
    }

    /// Slabs looked at since the watermark was last committed.
    pub(super) fn slabs_unsaved(&self) -> u64 {
        self.slabs_unsaved
    }

    /// The watermark was committed.
    pub(super) fn saved(&mut self) {
        self.slabs_unsaved = 0;
    }

    /// The log's end.
    pub(super) fn applied(&self) -> u64 {
        *self.applied.borrow()
    }

    /// Whether there is something to do without waiting.
    pub(super) fn has_more(&self) -> bool {
        !self.waits && (self.holds_some() || *self.applied.borrow() > self.read_through)
    }

    fn holds_some(&self) -> bool {
        self.entry.is_some() || !self.queue.is_empty()
    }

    /// Takes the draft and begins a new one.
    pub(super) fn take(&mut self) -> Draft {
        std::mem::take(&mut self.draft)
    }

    /// One step: looks at a slab, or reads on, or waits for something new to be applied. May be dropped at any await
    /// point and called again.
    ///
    /// # Errors
    /// What the outbox says; [`OutboxError::Closed`] when nothing will be applied any more.
    pub(super) async fn step(&mut self) -> Result<(), OutboxError> {
        if self.holds_some() {
            if !self.begins_with_truth() || !self.knows_teller().await? {
                return Ok(());
            }
            self.look_at_slab();
            tokio::task::yield_now().await;
            return Ok(());
        }
        let applied = *self.applied.borrow_and_update();
        if applied <= self.read_through {
            return self
                .applied
                .changed()
                .await
                .map_err(|_| OutboxError::Closed);
        }
        let entries = self.outbox.read(self.read_through, READ_BYTES).await?;
        let Some(last) = entries.last().map(|entry| entry.index) else {
            self.read_through = applied;
            self.scanned = self.scanned.max(whole(applied));
            return Ok(());
        };
        if entries
            .first()
            .is_some_and(|entry| entry.index <= self.read_through)
        {
            return Err(OutboxError::Failed(format!(
                "the store gave entries up to {last} when asked for those after {}",
                self.read_through
            )));
        }
        self.read_through = last;
        self.queue.extend(entries);
        Ok(())
    }
}
