//! Fills batches: reads the log in order and encodes the records of one lane.
//!
//! Where a batch begins and which bytes it has depends on the log and the plan only, never on how the reading was cut:
//! positions are counted over the items of an entry from its start ([`Walk`]).

use std::collections::VecDeque;
use std::sync::Arc;

use tokio::sync::watch;
use tokio::time::Instant;

use crate::position::Position;
use crate::slab::Slab;
use crate::upload::encode::{RowWriter, Walk, Written};
use crate::upload::outbox::{IndexedSlabs, Outbox, OutboxError};
use crate::upload::plan::{Plan, after, whole};
use crate::upload::sink::{Row, Sink};
use crate::upload::status::Board;

/// About how much of the log a lane reads at once. Also what it holds in memory beside its two batches.
const READ_BYTES: usize = 1 << 20;

/// A batch that is being filled.
#[derive(Debug, Default)]
pub(super) struct Draft {
    pub(super) bytes: Vec<u8>,
    /// Where each row is, and whose.
    pub(super) rows: Vec<Row>,
    pub(super) gap_lines: u64,
    /// When the first record came.
    opened_at: Option<Instant>,
    /// Everything at or before it was looked at before the first record came.
    floor: Position,
    /// Nothing more fits.
    closed: bool,
}

impl Draft {
    pub(super) fn first(&self) -> Option<Position> {
        self.rows.first().map(|row| row.position)
    }

    pub(super) fn last(&self) -> Option<Position> {
        self.rows.last().map(|row| row.position)
    }
}

#[derive(Debug)]
struct Entry {
    index: u64,
    slabs: std::vec::IntoIter<Slab>,
    walk: Option<Walk>,
    /// Number of the next item.
    item: u32,
}

/// Reads the log for one lane.
#[derive(Debug)]
pub(super) struct Filler<O> {
    outbox: Arc<O>,
    applied: watch::Receiver<u64>,
    board: Arc<Board>,
    sink: Arc<dyn Sink>,
    lane: u32,
    lanes: u32,
    records_max: usize,
    bytes_max: usize,
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
    draft: Draft,
    /// Slabs looked at since [`Filler::saved`].
    slabs_unsaved: u64,
}

impl<O: Outbox> Filler<O> {
    /// Begins after `watermark`.
    pub(super) fn new(
        outbox: Arc<O>,
        board: Arc<Board>,
        sink: Arc<dyn Sink>,
        (lane, lanes): (u32, u32),
        records_max: usize,
        bytes_max: usize,
        watermark: Position,
    ) -> Self {
        let mut filler = Self {
            applied: outbox.applied(),
            outbox,
            board,
            lane,
            lanes,
            records_max: records_max.max(1),
            bytes_max: bytes_max.max(1),
            from: Position::default(),
            until: None,
            scanned: Position::default(),
            read_through: 0,
            queue: VecDeque::new(),
            entry: None,
            writer: sink.row_writer(),
            sink,
            draft: Draft::default(),
            slabs_unsaved: 0,
        };
        filler.begin_after(watermark);
        filler
    }

    /// Throws away what it holds and begins after `position`.
    pub(super) fn begin_after(&mut self, position: Position) {
        self.from = after(position);
        self.scanned = position;
        self.read_through = self.from.index.saturating_sub(1);
        self.queue.clear();
        self.entry = None;
        self.draft = Draft::default();
    }

    /// Makes the batch of `plan` again. `None` when the log no longer gives exactly what the plan names.
    ///
    /// # Errors
    /// What the outbox says.
    pub(super) async fn rebuild(&self, plan: &Plan) -> Result<Option<Draft>, OutboxError> {
        let mut filler = Filler::new(
            self.outbox.clone(),
            self.board.clone(),
            self.sink.clone(),
            (self.lane, self.lanes),
            usize::MAX,
            usize::MAX,
            Position::default(),
        );
        filler.from = plan.first;
        filler.until = Some(plan.last);
        filler.read_through = plan.first.index.saturating_sub(1);
        while !filler.draft.closed && (filler.holds_some() || filler.read_through < plan.last.index)
        {
            filler.step().await?;
        }
        let draft = filler.draft;
        let exact = draft.first() == Some(plan.first) && draft.last() == Some(plan.last);
        Ok(exact.then_some(draft))
    }

    /// The version of what its writer writes.
    pub(super) fn encoder_version(&self) -> u32 {
        self.writer.version()
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

    /// Slabs looked at since the watermark was last committed.
    pub(super) fn slabs_unsaved(&self) -> u64 {
        self.slabs_unsaved
    }

    /// The watermark was committed.
    pub(super) fn saved(&mut self) {
        self.slabs_unsaved = 0;
    }

    /// Whether there is something to do without waiting.
    pub(super) fn has_more(&self) -> bool {
        self.holds_some() || *self.applied.borrow() > self.read_through
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

    /// Looks at the items of one slab, or fewer if the draft is closed before its end.
    fn look_at_slab(&mut self) {
        let draft = &mut self.draft;
        let entry = match &mut self.entry {
            Some(entry) => entry,
            None => {
                let Some(IndexedSlabs { index, slabs }) = self.queue.pop_front() else {
                    return;
                };
                let slabs = slabs.into_iter();
                self.entry.insert(Entry {
                    index,
                    slabs,
                    walk: None,
                    item: 0,
                })
            }
        };
        let walk = match &mut entry.walk {
            Some(walk) => walk,
            None => match entry.slabs.next() {
                Some(slab) => entry.walk.insert(Walk::new(slab)),
                None => {
                    self.scanned = self.scanned.max(whole(entry.index));
                    self.entry = None;
                    return;
                }
            },
        };
        loop {
            let position = Position {
                index: entry.index,
                item: entry.item,
            };
            let mark = walk.mark();
            let Some((head, item)) = walk.step() else {
                let (epoch, next_seq) = (walk.head().epoch, walk.head().next_seq());
                self.board
                    .milestone(self.scanned, epoch, next_seq.saturating_sub(1));
                self.slabs_unsaved = self.slabs_unsaved.saturating_add(1);
                entry.walk = None;
                return;
            };
            if position >= self.from && item.lane(self.lanes) == self.lane {
                let start = draft.bytes.len();
                let written = self.writer.write(head, &item, &mut draft.bytes);
                let full = draft.bytes.len() > self.bytes_max && start > 0;
                if full || self.until.is_some_and(|until| position > until) {
                    draft.bytes.truncate(start);
                    draft.closed = true;
                    walk.go_back(mark);
                    return;
                }
                if draft.rows.is_empty() {
                    draft.floor = self.scanned;
                    draft.opened_at = Some(Instant::now());
                }
                let end = draft.bytes.len();
                draft.rows.push(Row { position, end });
                draft.gap_lines += u64::from(written != Written::Record);
                draft.closed = draft.rows.len() >= self.records_max
                    || draft.bytes.len() >= self.bytes_max
                    || self.until == Some(position);
            }
            self.scanned = self.scanned.max(position);
            entry.item = entry.item.saturating_add(1);
            if draft.closed {
                return;
            }
        }
    }
}
