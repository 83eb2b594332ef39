//! From the entries of the log into the draft, one item after the other.

use std::sync::Arc;

use tokio::time::Instant;

use super::Filler;
use crate::books::Counts;
use crate::position::{LOST_ITEM, Loss, Position};
use crate::slab::Slab;
use crate::upload::encode::{Item, Mark, Walk, What, Written};
use crate::upload::engine::letter::Buried;
use crate::upload::outbox::{IndexedSlabs, Outbox};
use crate::upload::plan::whole;
use crate::upload::shape::{Ruling, Stored, rule};
use crate::upload::sink::Row;

/// An entry that is being looked at.
#[derive(Debug)]
pub(super) struct Entry {
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

/// An item that is not sent, and why: code and reason.
type Refused<'a> = (Item<'a>, (&'static str, String));

/// The row of `item`, if any: as the rules have it, or itself and why they refuse it. `accounts`: what is refused is a dead letter
/// already, which is lost.
fn row_of<'a>(
    item: Item<'a>,
    ruling: Ruling<'a>,
    accounts: bool,
    counts: &mut Counts,
) -> Option<Result<Item<'a>, Refused<'a>>> {
    if let What::Dropped { count, reason } = item.what {
        counts.drop_of(reason, count);
        return None;
    }
    match ruling {
        Ruling::Keep => Some(Ok(item)),
        Ruling::Changed(record) => Some(Ok(Item {
            what: What::Record(record),
            ..item
        })),
        Ruling::Dropped { reason } => {
            counts.drop_of(&reason, 1);
            None
        }
        Ruling::Refused { .. } if accounts => {
            counts.lost += 1;
            None
        }
        Ruling::Refused { code, reason } => Some(Err((item, (code, reason)))),
    }
}

/// Leaves out of `item` what the sink has up to the number `last`, and counts it; whether that is all of it.
fn leave_out_held(item: &mut Item<'_>, last: u64, counts: &mut Counts) -> bool {
    if item.seq > last {
        return false;
    }
    let numbers = item.numbers();
    let taken = numbers.min(last.saturating_sub(item.seq).saturating_add(1));
    counts.rows = counts.rows.saturating_add(taken);
    counts.records = counts.records.saturating_add(taken);
    if let What::Lost { count, .. } | What::Dropped { count, .. } = &mut item.what {
        *count -= taken;
        item.seq += taken;
    }
    taken == numbers
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
        // It has no row; see `row_of`.
        (What::Dropped { .. }, _) => {}
    }
}

impl<O: Outbox> Filler<O> {
    /// Looks at the items of one slab, or fewer if the draft is closed before its end.
    pub(super) fn look_at_slab(&mut self) {
        let Some(mut entry) = self.entry.take().or_else(|| self.next_entry()) else {
            return;
        };
        if entry.walk.is_none() {
            let Some(slab) = entry.slabs.next() else {
                self.end_entry(&entry);
                return;
            };
            entry.game_version = self.outbox.game_version(&slab.head);
            entry.walk = Some(Walk::new(slab));
        }
        while !self.draft.closed && self.look_at_item(&mut entry) {}
        self.entry = Some(entry);
    }

    /// The next entry, before its first slab.
    fn next_entry(&mut self) -> Option<Entry> {
        let IndexedSlabs {
            index,
            mut slabs,
            loss,
        } = self.queue.pop_front()?;
        if let Some(loss) = loss {
            self.leave_out_taken(index, loss, &mut slabs);
            self.slabs_unsaved = self.slabs_unsaved.saturating_add(1);
            self.met_lost |= self.until.is_some_and(|until| index <= until.index);
        }
        self.has_asked = false;
        Some(Entry {
            index,
            loss,
            slabs: slabs.into_iter(),
            walk: None,
            game_version: "".into(),
            item: if loss.is_some() { LOST_ITEM } else { 0 },
            requests: 0,
        })
    }

    fn end_entry(&mut self, entry: &Entry) {
        if self.lane == 0 {
            self.trail.requests = self.trail.requests.saturating_add(entry.requests);
        }
        self.scanned = self.scanned.max(whole(entry.index));
    }

    /// Looks at the next item of the slab at hand; `false` at its end, and when the item has to wait for the next batch.
    fn look_at_item(&mut self, entry: &mut Entry) -> bool {
        let position = Position {
            index: entry.index,
            item: entry.item,
        };
        let Some(walk) = &mut entry.walk else {
            return false;
        };
        let Some(rules_version) = self.rules_for(position) else {
            self.draft.closed = true;
            return false;
        };
        let mark = walk.mark();
        let Some((head, mut item)) = walk.step() else {
            self.end_slab(entry, &mark);
            return false;
        };
        let is_ours =
            position >= self.from && (entry.loss.is_some() || item.lane(self.lanes) == self.lane);
        let mut counts = Counts::default();
        if self.lane == 0 && position >= self.from {
            let requests = Walk::requests_between(&mark, item.seq);
            counts.requests = entry.requests.saturating_add(requests);
        }
        let held = self
            .last
            .filter(|(epoch, _)| is_ours && position > self.held && *epoch == head.epoch);
        let is_held = held.is_some_and(|(_, last)| leave_out_held(&mut item, last, &mut counts));
        let row = if is_ours && !is_held {
            let ruling = match Stored::of(head, &entry.game_version, &item) {
                Some(stored) => {
                    let (shaper, sink) = (self.shaper.as_ref(), self.sink.name());
                    rule(shaper, rules_version, sink, &stored, &mut self.shaped)
                }
                None => Ruling::Keep,
            };
            row_of(item, ruling, self.accounts, &mut counts)
        } else {
            None
        };
        let Some(row) = row else {
            self.trail.add(&counts);
            self.pass(entry, position);
            return true;
        };
        // `None`: it waits for the next batch.
        let kept = match row {
            Ok(item) => {
                let writer = self.writer.as_mut();
                let written = self.draft.write(writer, head, &item, self.bytes_max);
                written.map(|written| {
                    match &mut entry.loss {
                        // Nobody has told of it: the sink has the records.
                        Some(loss) if self.accounts && !loss.is_old => {
                            counts.rows += item.numbers();
                            counts.records += item.numbers();
                        }
                        loss => count_row(&mut counts, &item, written, loss.as_mut()),
                    }
                    self.keeps.then(|| Buried::new(head, &item, written))
                })
            }
            // It becomes a dead letter alone, once everything before it is through.
            Err((item, refusal)) if self.draft.rows.is_empty() => {
                self.draft.refusal = Some(refusal);
                Some(Some(Buried::new(head, &item, Written::Record)))
            }
            Err(_) => None,
        };
        let Some(kept) = kept else {
            self.draft.closed = true;
            walk.go_back(mark);
            return false;
        };
        if let Some(kept) = kept {
            self.draft.record = Some(kept.with_frame(walk.frame()));
        }
        self.add_row(position, rules_version, &counts);
        self.pass(entry, position);
        true
    }

    /// The version of the rules for the item at `position`; `None` where that is not for this draft.
    fn rules_for(&self, position: Position) -> Option<u32> {
        if self.until.is_some_and(|until| position > until) {
            return None;
        }
        if self.rules_version.is_some() {
            return self.rules_version;
        }
        let version = self.shaper.version();
        let Some(first) = self.draft.first() else {
            return Some(version);
        };
        let is_beyond_fence = position > self.fence && first <= self.fence;
        (!is_beyond_fence && version == self.draft.rules_version).then_some(version)
    }

    /// The slab at hand is through; `mark` is where its walk stood before.
    fn end_slab(&mut self, entry: &mut Entry, mark: &Mark) {
        let Some(walk) = entry.walk.take() else {
            return;
        };
        let (epoch, next_seq) = (walk.head().epoch, walk.head().next_seq());
        entry.requests = entry.requests.saturating_add(walk.requests_since(mark));
        self.board
            .milestone(self.scanned, epoch, next_seq.saturating_sub(1));
        self.slabs_unsaved = self.slabs_unsaved.saturating_add(1);
    }

    /// A row for the item at `position` was written, and `counts` is what it tells.
    fn add_row(&mut self, position: Position, rules_version: u32, counts: &Counts) {
        let trail = std::mem::take(&mut self.trail);
        let draft = &mut self.draft;
        if draft.rows.is_empty() {
            draft.before = trail;
            draft.floor = self.scanned;
            draft.opened_at = Some(Instant::now());
            draft.rules_version = rules_version;
        } else {
            draft.counts.add(&trail);
        }
        draft.counts.add(counts);
        let end = draft.bytes.len();
        if self.accounts {
            draft.bytes.clear();
        }
        draft.rows.push(Row { position, end });
        draft.closed = draft.rows.len() >= self.records_max
            || end >= self.bytes_max
            || draft.refusal.is_some()
            || self.until == Some(position);
    }

    /// The item at `position` was looked at, and what there is to say of it is noted.
    fn pass(&mut self, entry: &mut Entry, position: Position) {
        entry.requests = 0;
        self.scanned = self.scanned.max(position);
        entry.item = entry.item.saturating_add(1);
    }
}
