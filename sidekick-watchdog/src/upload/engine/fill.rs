//! Fills batches: reads the log in order and encodes the records of one lane.
//!
//! Where a batch begins and which bytes it has depends on the log and the plan only, never on how the reading was cut:
//! positions are counted over the items of an entry from its start ([`Walk`]).

use std::collections::VecDeque;
use std::sync::Arc;

use sidekick_ipc::frame::Record;
use tokio::sync::watch;
use tokio::time::Instant;
use uuid::Uuid;

use super::letter::Buried;
use super::losses::Losses;
use crate::books::Counts;
use crate::position::{LOST_ITEM, Loss, Position};
use crate::slab::Slab;
use crate::upload::encode::{Item, RowWriter, Walk, What, Written};
use crate::upload::outbox::{IndexedSlabs, LaneState, Outbox, OutboxError};
use crate::upload::plan::{Plan, after, whole};
use crate::upload::shape::{BY_RULES, Shaped, Shaper, Stored};
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
    /// The version of the rules that it is made with.
    pub(super) rules_version: u32,
    /// What becomes, once it is taken, of everything from `floor` up to and with its last record.
    pub(super) counts: Counts,
    /// The one record that it has, where that shall be kept.
    pub(super) record: Option<Buried>,
    /// The rules refused its one record, with code and reason: nothing is to be sent.
    pub(super) refusal: Option<(&'static str, String)>,
    /// When the first record came.
    opened_at: Option<Instant>,
    /// Everything at or before it was looked at before the first record came.
    floor: Position,
    /// What became of everything up to and with `floor` that is not settled.
    before: Counts,
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

/// Whether a lane has still to pass what lies at `position`. An open plan beyond it has passed it, too: nobody looks again
/// at what lies before it.
fn is_behind(lane: &LaneState, position: Position) -> bool {
    match &lane.plan {
        Some(plan) => plan.first <= position,
        None => lane.watermark < position,
    }
}

/// Who tells of an entry that is lost.
enum Teller {
    We,
    Another,
    /// It is for us, but not before others have passed it.
    WeLater,
}

#[derive(Debug)]
struct Entry {
    index: u64,
    /// It is lost, and ours alone to tell of. What is counted of [`Loss::counted`] goes from it.
    loss: Option<Loss>,
    slabs: std::vec::IntoIter<Slab>,
    walk: Option<Walk>,
    /// The version of the game that recorded the slab at hand.
    game_version: Arc<str>,
    /// Number of the next item.
    item: u32,
    /// Requests after the last item of the slabs looked at. They count at the position of the next item, or of the whole
    /// entry.
    requests: u64,
}

/// Tells what a row tells of.
fn count_row(counts: &mut Counts, item: &Item<'_>, written: Written, loss: Option<&mut Loss>) {
    counts.rows += 1;
    match (&item.what, written) {
        (What::Record(_), Written::Record | Written::Gap) => counts.records += 1,
        (What::Record(_), Written::Undecodable) => counts.lost += 1,
        (What::Lost { count, .. }, _) => {
            let known = loss.map_or(0, |loss| {
                let known = loss.counted.min(*count);
                loss.counted -= known;
                known
            });
            counts.lost = counts.lost.saturating_add(*count - known);
        }
        (What::Refused(_) | What::TailUnknown, _) => counts.notes += 1,
        // It has no row; see `look_at_item`.
        (What::Dropped { .. }, _) => {}
    }
}

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

    /// Makes the batch of `plan` again. `None` when the log no longer gives exactly what the plan names. Where an entry of it
    /// is lost, the batch is what is left of it, perhaps without any row: under the same key the backend takes it once, and
    /// one that had taken the whole batch has more than it is told of. The record of a batch of one is kept in
    /// [`Draft::record`].
    ///
    /// # Errors
    /// What the outbox says.
    pub(super) async fn rebuild(&self, plan: &Plan) -> Result<Option<Draft>, OutboxError> {
        let mut filler = self.again(plan.first, plan.last, plan.rules_version);
        filler.keeps = plan.first == plan.last;
        filler.read_all(plan.last).await?;
        let mut draft = filler.draft;
        if filler.met_lost {
            let before = std::mem::take(&mut draft.before);
            draft.counts.add(&before);
            draft.counts.add(&filler.trail);
            return Ok(draft.refusal.is_none().then_some(draft));
        }
        let exact = draft.first() == Some(plan.first)
            && draft.last() == Some(plan.last)
            && draft.refusal.is_none();
        Ok(exact.then_some(draft))
    }

    /// What became of everything that the sink has up to and with `held`, and of which nobody was told. Before the lane's open
    /// `plan` there is nothing: all of that was settled with it, or is not ours, and other lanes take it for passed.
    ///
    /// # Errors
    /// What the outbox says.
    pub(super) async fn account(
        &self,
        plan: Option<&Plan>,
        held: Position,
        rules_version: u32,
    ) -> Result<Counts, OutboxError> {
        let first = plan.map_or_else(|| after(self.held), |plan| plan.first);
        let mut filler = self.again(first, held, rules_version);
        filler.accounts = true;
        filler.read_all(held).await?;
        let Draft {
            mut counts, before, ..
        } = filler.draft;
        counts.add(&before);
        counts.add(&filler.trail);
        Ok(counts)
    }

    /// Reads again what lies from `first` to `last`.
    fn again(&self, first: Position, last: Position, rules_version: u32) -> Self {
        let mut filler = Filler::new(
            self.outbox.clone(),
            self.board.clone(),
            self.sink.clone(),
            self.shaper.clone(),
            self.losses.clone(),
            (self.lane, self.lanes),
            (usize::MAX, usize::MAX),
        );
        (filler.begun, filler.held) = (self.begun, self.held);
        filler.last = self.last;
        filler.rules_version = Some(rules_version);
        filler.from = first;
        filler.until = Some(last);
        filler.read_through = first.index.saturating_sub(1);
        filler
    }

    async fn read_all(&mut self, last: Position) -> Result<(), OutboxError> {
        while !self.draft.closed && (self.holds_some() || self.read_through < last.index) {
            self.step().await?;
        }
        Ok(())
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

    /// Where the next entry was found to be damaged since it was read: `false`, and it will be read again.
    fn begins_with_truth(&mut self) -> bool {
        let next = self.queue.front().filter(|entry| entry.loss.is_none());
        let (None, Some(index)) = (&self.entry, next.map(|entry| entry.index)) else {
            return true;
        };
        // Behind a batch that is made again, something may be in memory.
        self.begun = match self.until {
            Some(_) => self.begun.max(index),
            None => index,
        };
        self.losses.begin(self.lane, self.begun);
        if !self.outbox.is_lost(index) {
            return true;
        }
        self.queue.clear();
        self.read_through = index.saturating_sub(1);
        false
    }

    /// Where the next entry is lost: finds out who tells of it. `false` where other lanes have to pass it first: at once
    /// when that is news, since the caller may have something else to do, else when something has changed.
    async fn knows_teller(&mut self) -> Result<bool, OutboxError> {
        let next = self.queue.front().filter(|entry| entry.loss.is_some());
        let (None, Some(index), false) =
            (&self.entry, next.map(|entry| entry.index), self.has_asked)
        else {
            return Ok(true);
        };
        self.applied.mark_unchanged();
        self.met.mark_unchanged();
        let lost = Position {
            index,
            item: LOST_ITEM,
        };
        let teller = match self.until {
            // What tells of it lies behind the batch.
            Some(until) if until < lost => Teller::We,
            _ => self.teller(lost).await?,
        };
        match teller {
            Teller::We => {}
            Teller::Another => {
                if let Some(entry) = self.queue.front_mut() {
                    entry.slabs.clear();
                }
            }
            Teller::WeLater => {
                if !std::mem::replace(&mut self.waits, true) {
                    return Ok(false);
                }
                tokio::select! {
                    changed = self.applied.changed() => changed.map_err(|_| OutboxError::Closed)?,
                    // Its sender is ours.
                    _ = self.met.changed() => {}
                }
                self.waits = false;
                return Ok(false);
            }
        }
        (self.has_asked, self.waits) = (true, false);
        Ok(true)
    }

    /// Which lane tells of the lost entry at `lost`. What it held of which lane is not known, so it is the last one to pass
    /// it: once it is told no lane is left that could tell it again, and while it is not there is one. Lanes that have it as
    /// it was tell of nothing.
    async fn teller(&self, lost: Position) -> Result<Teller, OutboxError> {
        let passes = self.losses.meet(self.lane, lost);
        let lanes = self.outbox.lanes(self.sink.name()).await?;
        let lanes = (0..).zip(lanes);
        let behind: Vec<u32> = lanes
            .filter(|(number, lane)| *number != self.lane && is_behind(lane, lost))
            .map(|(number, _)| number)
            .collect();
        let of_us: Vec<u32> = match self.accounts {
            // Where anybody tells of it, he tells of all.
            true if behind.iter().any(|number| !passes.contains(number)) => {
                return Ok(Teller::Another);
            }
            true => behind.clone(),
            false => {
                let tellers = behind.iter().filter(|number| !passes.contains(number));
                tellers.copied().collect()
            }
        };
        Ok(match of_us.iter().max() {
            Some(number) if *number > self.lane => Teller::Another,
            _ if behind.is_empty() => Teller::We,
            _ => Teller::WeLater,
        })
    }

    /// How many more numbers of the lost entry at `index`, whose loss is told by `slabs`, are uploaded where everything at or
    /// before `position` is. A frame has one number or more.
    fn taken_of(&self, index: u64, loss: Loss, slabs: &[Slab], position: Position) -> u64 {
        let is_amid = position.index == index && position.item < LOST_ITEM;
        match slabs {
            // With several lanes, some of them may be others' records; with several sessions, nobody knows whose they are.
            [slab] if is_amid && self.lanes == 1 => {
                let taken = u64::from(position.item) + 1;
                taken.saturating_sub(loss.taken).min(slab.head.count)
            }
            _ => 0,
        }
    }

    /// Leaves out of `slabs`, which tell of a loss, what is uploaded.
    fn leave_out_taken(&mut self, index: u64, loss: Loss, slabs: &mut Vec<Slab>) {
        let taken = self.taken_of(index, loss, slabs, self.held);
        if let Some(until) = self.until.filter(|_| self.accounts) {
            let more = self.taken_of(index, loss, slabs, until);
            let more = more.saturating_sub(taken);
            self.trail.records = self.trail.records.saturating_add(more);
            self.trail.rows = self.trail.rows.saturating_add(more);
        }
        if let [slab] = slabs.as_mut_slice() {
            slab.head.first_seq = slab.head.first_seq.saturating_add(taken);
            slab.head.count = slab.head.count.saturating_sub(taken);
        }
        slabs.retain(|slab| slab.head.count > 0);
    }

    /// Looks at the items of one slab, or fewer if the draft is closed before its end.
    fn look_at_slab(&mut self) {
        let entry = match &mut self.entry {
            Some(entry) => entry,
            None => {
                let Some(IndexedSlabs {
                    index,
                    mut slabs,
                    loss,
                }) = self.queue.pop_front()
                else {
                    return;
                };
                let is_lost = loss.is_some();
                if let Some(loss) = loss {
                    self.leave_out_taken(index, loss, &mut slabs);
                }
                self.has_asked = false;
                self.slabs_unsaved = self.slabs_unsaved.saturating_add(is_lost.into());
                self.met_lost |= is_lost && self.until.is_some_and(|until| index <= until.index);
                let slabs = slabs.into_iter();
                self.entry.insert(Entry {
                    index,
                    loss,
                    slabs,
                    walk: None,
                    game_version: "".into(),
                    item: if is_lost { LOST_ITEM } else { 0 },
                    requests: 0,
                })
            }
        };
        if entry.walk.is_none() {
            match entry.slabs.next() {
                Some(slab) => {
                    entry.game_version = self.outbox.game_version(&slab.head);
                    entry.walk = Some(Walk::new(slab));
                }
                None => {
                    if self.lane == 0 {
                        self.trail.requests = self.trail.requests.saturating_add(entry.requests);
                    }
                    self.scanned = self.scanned.max(whole(entry.index));
                    self.entry = None;
                    return;
                }
            }
        }
        while !self.draft.closed && self.look_at_item() {}
    }

    /// Looks at the next item of the slab at hand; `false` at its end, and when the item has to wait for the next batch.
    fn look_at_item(&mut self) -> bool {
        let draft = &mut self.draft;
        let Some(entry) = &mut self.entry else {
            return false;
        };
        let Some(walk) = &mut entry.walk else {
            return false;
        };
        let is_begun = !draft.rows.is_empty();
        let rules_version = match (self.rules_version, is_begun) {
            (Some(version), _) => version,
            (None, false) => self.shaper.version(),
            (None, true) => draft.rules_version,
        };
        let position = Position {
            index: entry.index,
            item: entry.item,
        };
        let is_over = is_begun && self.rules_version.is_none() && {
            let is_beyond_fence = position > self.fence && draft.first() <= Some(self.fence);
            is_beyond_fence || self.shaper.version() != rules_version
        };
        if is_over || self.until.is_some_and(|until| position > until) {
            draft.closed = true;
            return false;
        }
        let mark = walk.mark();
        let Some((head, mut item)) = walk.step() else {
            let (epoch, next_seq) = (walk.head().epoch, walk.head().next_seq());
            entry.requests = entry.requests.saturating_add(walk.requests_since(&mark));
            entry.walk = None;
            self.board
                .milestone(self.scanned, epoch, next_seq.saturating_sub(1));
            self.slabs_unsaved = self.slabs_unsaved.saturating_add(1);
            return false;
        };
        let is_ours =
            position >= self.from && (entry.loss.is_some() || item.lane(self.lanes) == self.lane);
        let mut counts = Counts::default();
        if self.lane == 0 && position >= self.from {
            let requests = Walk::requests_between(&mark, item.seq);
            counts.requests = entry.requests.saturating_add(requests);
        }
        let mut is_taken = false;
        if let Some((epoch, last)) = self.last
            && (is_ours && position > self.held && epoch == head.epoch && item.seq <= last)
        {
            let numbers = item.numbers();
            let taken = numbers.min(last.saturating_sub(item.seq).saturating_add(1));
            is_taken = taken == numbers;
            counts.rows = counts.rows.saturating_add(taken);
            counts.records = counts.records.saturating_add(taken);
            if let What::Lost { count, .. } | What::Dropped { count, .. } = &mut item.what {
                *count -= taken;
                item.seq += taken;
            }
        }
        let shaped = match &item.what {
            What::Record(record) if is_ours && !is_taken => {
                let stored = Stored {
                    head,
                    game_version: &entry.game_version,
                    seq: item.seq,
                    monotonic_ns: item.monotonic_ns,
                    record: *record,
                };
                self.shaped.clear();
                let sink = self.sink.name();
                self.shaper
                    .shape(rules_version, sink, &stored, &mut self.shaped)
            }
            _ => Shaped::Keep,
        };
        let (seq, monotonic_ns) = (item.seq, item.monotonic_ns);
        let row = match shaped {
            _ if !is_ours || is_taken => None,
            _ if !item.has_row() => {
                if let What::Dropped { count, reason } = item.what {
                    counts.drop_of(reason, count);
                }
                None
            }
            Shaped::Keep => Some(Ok(item)),
            Shaped::Changed => Some(match Record::parse(&self.shaped) {
                Ok(record) => Ok(Item {
                    seq,
                    monotonic_ns,
                    what: What::Record(record),
                }),
                Err(error) => {
                    let reason = format!("the rules made no record of it: {error}");
                    Err((item, (BY_RULES, reason)))
                }
            }),
            Shaped::Dropped { reason } => {
                counts.drop_of(&reason, 1);
                None
            }
            // It was a dead letter, which is lost.
            Shaped::Refused { .. } if self.accounts => {
                counts.lost += 1;
                None
            }
            Shaped::Refused { code, reason } => Some(Err((item, (code, reason)))),
        };
        if let Some(row) = row {
            let start = draft.bytes.len();
            let mut kept = None;
            let is_written = match row {
                Ok(item) => {
                    let written = self.writer.write(head, &item, &mut draft.bytes);
                    let fits = draft.bytes.len() <= self.bytes_max || start == 0;
                    if fits {
                        match &mut entry.loss {
                            // Nobody has told of it: the sink has the records.
                            Some(loss) if self.accounts && !loss.is_old => {
                                counts.rows += item.numbers();
                                counts.records += item.numbers();
                            }
                            loss => count_row(&mut counts, &item, written, loss.as_mut()),
                        }
                        draft.gap_lines += u64::from(written != Written::Record);
                        if self.keeps {
                            kept = Some(Buried::new(head, &item, written));
                        }
                    }
                    fits
                }
                // It becomes a dead letter alone, once everything before it is through.
                Err((item, refusal)) if !is_begun => {
                    kept = Some(Buried::new(head, &item, Written::Record));
                    draft.refusal = Some(refusal);
                    true
                }
                Err(_) => false,
            };
            if !is_written {
                draft.bytes.truncate(start);
                draft.closed = true;
                walk.go_back(mark);
                return false;
            }
            if let Some(kept) = kept {
                draft.record = Some(kept.with_frame(walk.frame()));
            }
            let trail = std::mem::take(&mut self.trail);
            if is_begun {
                draft.counts.add(&trail);
            } else {
                draft.before = trail;
                draft.floor = self.scanned;
                draft.opened_at = Some(Instant::now());
                draft.rules_version = rules_version;
            }
            draft.counts.add(&counts);
            let end = draft.bytes.len();
            if self.accounts {
                draft.bytes.clear();
            }
            draft.rows.push(Row { position, end });
            draft.closed = draft.rows.len() >= self.records_max
                || end >= self.bytes_max
                || draft.refusal.is_some()
                || self.until == Some(position);
        } else if !counts.is_empty() {
            self.trail.add(&counts);
        }
        entry.requests = 0;
        self.scanned = self.scanned.max(position);
        entry.item = entry.item.saturating_add(1);
        true
    }
}
