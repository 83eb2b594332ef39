//! What a damaged entry is read as: the gaps that it left.
//!
//! This is about damage of several bytes; of a single one the log knows what it was (`wal::mend`). Nobody knows what lay where the log is damaged. What is known is where each session stood before (a snapshot, and the
//! entries since) and where its next slab begins, or where the state says that it stood: the numbers between are lost.
//! So in place of a lost entry readers get a batch of hole frames. Where the entry was applied before the damage came,
//! upload alone reads it, and nothing is lost but the records; where it has to be applied again, its holes are taken like
//! any slab, and what else it held (state writes, dead letters) is lost with it, which the log and the status tell.
//!
//! Refused, since a wrong guess would lose or double what is intact: an entry that may have held the group's name, its
//! members or its sinks.

mod bridges;
mod folds;
mod kept;
mod salvage;
mod stand_in;
#[cfg(test)]
mod tests;
mod walk;

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};

use bytes::Bytes;
use sidekick_ipc::frame::{FrameKind, Hole, frames, hole_cause};
use uuid::Uuid;

use super::StoreError;
use super::command::{Batch, Command};
use super::snapshot::Snapshots;
use super::state::State;
use super::wal::{LogReader, LostEntry, segment_name};
use crate::position::{LOST_ITEM, Loss, Position};

pub(crate) use bridges::Bridges;
use kept::Kept;
pub(crate) use salvage::is_whole;
use salvage::{Readers, Salvaged, Standing, salvage};
use walk::{Fault, Walk};

/// A log entry that is damaged on the disk, and what is known to be lost with it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RottenEntry {
    /// Its index.
    pub index: u64,
    /// The segment that it lies in.
    pub segment: PathBuf,
    /// Where in the segment the damage begins, in bytes. The bytes stay as they are until the log is purged behind them.
    pub from: u64,
    /// Where it ends.
    pub to: u64,
    /// The sequence numbers that are lost.
    pub gaps: Vec<LostRange>,
    /// It was not applied before the damage came, and nothing of it is left: state writes and dead letters in it are lost too.
    pub is_unapplied: bool,
}

/// Sequence numbers of a session that are lost.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct LostRange {
    /// The watchdog's name.
    pub source: String,
    /// The session.
    pub epoch: Uuid,
    /// The first number.
    pub first_seq: u64,
    /// The last number.
    pub last_seq: u64,
}

impl std::fmt::Display for RottenEntry {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let (index, from, to) = (self.index, self.from, self.to);
        write!(f, "log entry {index} is damaged on the disk ")?;
        write!(f, "({}, bytes {from} to {to})", self.segment.display())?;
        match self.gaps.len() {
            0 => f.write_str(", no record is known to be lost")?,
            _ => f.write_str(", lost: ")?,
        }
        for (number, gap) in self.gaps.iter().enumerate() {
            let comma = if number > 0 { ", " } else { "" };
            let (first, last) = (gap.first_seq, gap.last_seq);
            write!(
                f,
                "{comma}{first} to {last} of session {} of {}",
                gap.epoch, gap.source
            )?;
        }
        match self.is_unapplied {
            true => f.write_str("; state writes and dead letters that it held are lost too"),
            false => Ok(()),
        }
    }
}

/// What becomes of what lost entries are read as.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Keeping {
    /// Whoever looks beside the owner keeps nothing.
    Guest,
    /// It is kept, where that can be.
    Owner,
    /// It is kept, or nobody reads on.
    Sure,
}

impl Keeping {
    /// Keeps what the entry at `index` is read as.
    fn keep(self, directory: &Path, index: u64, kept: &Kept) -> Result<(), StoreError> {
        if self == Self::Guest {
            return Ok(());
        }
        match kept::write(directory, index, kept) {
            Ok(()) => {}
            Err(error) if self == Self::Sure => {
                let what = "cannot keep what a damaged entry is read as, in";
                return Err(StoreError::io(what, directory, error));
            }
            Err(error) => tracing::warn!(
                index,
                %error,
                "what a damaged log entry is read as cannot be kept; the next start finds it out anew"
            ),
        }
        Ok(())
    }
}

/// Sets what the lost entries of `log` in `directory` are read as, and tells of each. `now` is the state that goes on with
/// the log.
///
/// # Errors
/// [`StoreError::Log`] where that cannot be told; `StoreError::Io`.
pub(super) fn bridge(
    log: &LogReader,
    directory: &Path,
    snapshots: &Snapshots,
    now: &State,
    keeping: Keeping,
) -> Result<Vec<RottenEntry>, StoreError> {
    if keeping == Keeping::Owner {
        let lost = log.lost();
        kept::forget(directory, |index| lost.contains_key(&index));
    }
    bridge_lost(log, directory, snapshots, now, log.lost(), keeping)
}

/// As [`bridge`], of the entries `lost`; others that are lost were bridged before.
fn bridge_lost(
    log: &LogReader,
    directory: &Path,
    snapshots: &Snapshots,
    now: &State,
    mut lost: BTreeMap<u64, LostEntry>,
    keeping: Keeping,
) -> Result<Vec<RottenEntry>, StoreError> {
    let applied = now.last_applied.map_or(0, |id| id.index);
    let mut kept = BTreeMap::new();
    for (index, entry) in log.lost() {
        let is_unapplied = index > applied;
        let known = match entry.stand_in.is_empty() {
            true => kept::read(directory, index),
            false => Some(Kept {
                is_unapplied,
                taken: entry.loss.taken,
                counted: entry.loss.counted,
                is_salvaged: entry.is_salvaged,
                payload: entry.stand_in,
            }),
        };
        // One that was applied then says nothing of what applying it takes.
        if let Some(known) = known.filter(|known| known.is_unapplied || !is_unapplied) {
            kept.insert(index, known);
        }
    }
    let unknown = lost.iter().filter(|(index, _)| !kept.contains_key(index));
    let mut unknown: BTreeMap<u64, LostEntry> = unknown
        .map(|(index, entry)| (*index, entry.clone()))
        .collect();
    if !unknown.is_empty() {
        let readers = Readers::of(log, now, keeping == Keeping::Sure);
        for (index, entry) in &unknown {
            if let Some(salvaged) = salvage_entry(log, entry, readers.towards(*index)) {
                keeping.keep(directory, *index, &salvaged)?;
                kept.insert(*index, salvaged);
            }
        }
    }
    unknown.retain(|index, _| !kept.contains_key(index));
    let mut new = stand_ins(log, directory, snapshots, now, &unknown, &kept)?;
    for (index, stand_in) in &new {
        keeping.keep(directory, *index, stand_in)?;
    }
    let mut rotten = Vec::new();
    for (index, entry) in &mut lost {
        let is_old = kept.contains_key(index);
        let Some(stand_in) = new.remove(index).or_else(|| kept.remove(index)) else {
            continue;
        };
        entry.stand_in = stand_in.payload;
        entry.is_salvaged = stand_in.is_salvaged;
        entry.loss = Loss {
            taken: stand_in.taken,
            counted: stand_in.counted,
            is_old,
        };
        rotten.push(RottenEntry {
            index: *index,
            segment: directory.join(segment_name(entry.damage.segment)),
            from: entry.damage.from,
            to: entry.damage.to,
            gaps: gaps(&entry.stand_in)?,
            is_unapplied: *index > applied && !entry.is_salvaged,
        });
    }
    log.set_lost(lost);
    Ok(rotten)
}

/// A damaged entry without its damaged records, where that can be told.
fn salvage_entry(log: &LogReader, entry: &LostEntry, standing: Standing) -> Option<Kept> {
    let salvaged = salvage(&log.remains(entry)?, standing)?;
    let Salvaged {
        payload,
        is_applicable,
    } = salvaged;
    Some(Kept {
        is_unapplied: is_applicable,
        taken: 0,
        counted: 0,
        is_salvaged: true,
        payload,
    })
}

/// What a stand-in tells that is lost.
fn gaps(stand_in: &Bytes) -> Result<Vec<LostRange>, StoreError> {
    let slabs = Batch::from_bytes(stand_in.clone()).slabs();
    let slabs = slabs.map_err(|error| StoreError::Raft {
        what: error.to_string(),
    })?;
    let mut gaps = Vec::new();
    for (_, slab) in slabs {
        for frame in frames(&slab.frames, &slab.head.epoch).flatten() {
            let is_hole = frame.header.kind == FrameKind::Hole as u16;
            let hole = is_hole.then(|| Hole::parse(frame.payload).ok()).flatten();
            if let Some(hole) = hole.filter(|hole| hole.cause == hole_cause::ROTTEN) {
                gaps.push(LostRange {
                    source: slab.head.source.clone(),
                    epoch: slab.head.epoch,
                    first_seq: frame.header.seq,
                    last_seq: frame
                        .header
                        .seq
                        .saturating_add(hole.count)
                        .saturating_sub(1),
                });
            }
        }
    }
    Ok(gaps)
}

/// Finds out what the entries `lost` are read as.
fn stand_ins(
    log: &LogReader,
    directory: &Path,
    snapshots: &Snapshots,
    now: &State,
    lost: &BTreeMap<u64, LostEntry>,
    kept: &BTreeMap<u64, Kept>,
) -> Result<BTreeMap<u64, Kept>, StoreError> {
    let Some((&first, _)) = lost.first_key_value() else {
        return Ok(BTreeMap::new());
    };
    let applied = now.last_applied.map_or(0, |id| id.index);
    let purged = log.purged().map(|id| id.index);
    let base = snapshots
        .before(purged, first)
        .map_err(|error| StoreError::io("cannot read the snapshots beside", directory, error))?;
    let last = lost.last_key_value().map_or(first, |(index, _)| *index);
    let needed = last > applied || last > now.uploaded_index();
    let (mut stand_ins, mut sinks) = (BTreeMap::new(), BTreeSet::new());
    let mut numbers = BTreeMap::new();
    match base {
        Some(base) => {
            let mut walk = Walk::new(lost, kept, &base, now, purged);
            walk.go(log, &base)
                .and_then(|()| walk.check(now))
                .map_err(|fault| fault.told(directory, lost))?;
            walk.close(now);
            walk.redo_folding(now);
            (stand_ins, sinks) = (walk.stand_ins, walk.sinks);
            numbers = walk.numbers;
        }
        // Everything in it is where it had to go.
        None if !needed => {}
        None => {
            let what = "no snapshot reaches so near that it could be told what is lost";
            return Err(Fault::Unknown(first, what).told(directory, lost).into());
        }
    }
    let mut found = BTreeMap::new();
    for index in lost.keys() {
        let mut stand_in = stand_ins.remove(index).unwrap_or_default();
        let is_unapplied = *index > applied;
        if is_unapplied {
            // A step of the books may have been in it: each sink learns anew what it began with.
            let marks = sinks.iter().map(|sink| Command::Uploaded {
                sink: sink.clone(),
                lane: 0,
                up_to: Position::default(),
                records: 0,
            });
            stand_in.commands.splice(0..0, marks);
        }
        // What is not applied is on nobody's books.
        let is_applied = |&(at, _): &(&u64, &u64)| *at <= applied;
        let intact = numbers.range(index + 1..).take_while(is_applied);
        let lost = stand_ins.range(..=applied);
        let behind = intact
            .map(|(_, count)| *count)
            .chain(lost.map(|(_, stand_in)| stand_in.numbers()))
            .fold(0, u64::saturating_add);
        let all = taken_of(now, *index, stand_in.numbers(), behind).unwrap_or_default();
        let taken = stand_in.leave_out(all);
        let kept = Kept {
            is_unapplied,
            taken,
            counted: all.saturating_sub(taken),
            is_salvaged: false,
            payload: stand_in.encode()?,
        };
        found.insert(*index, kept);
    }
    Ok(found)
}

/// How many of the `count` numbers of the entry at `index` every sink has dealt with, where all lanes stand amid it; `behind` came with
/// later entries. `None` where that is not the same for all of them.
///
/// The books know it. An item may be no measure: requests have numbers and no item, and one hole stands for many.
fn taken_of(now: &State, index: u64, count: u64, behind: u64) -> Option<u64> {
    let at = |watermark: Position| match watermark.index == index {
        true => watermark.item,
        false => u32::MAX,
    };
    let mut all = None;
    for (sink, lanes) in now.sinks() {
        let mut items = lanes.iter().map(|lane| at(lane.watermark));
        let item = items.next()?;
        // Beyond all frames of an entry stands only what tells of its loss.
        if item >= LOST_ITEM || items.any(|other| other != item) {
            return None;
        }
        let books = now.books(sink);
        let taken = match books.since {
            Some(since) => {
                let passed = since.saturating_add(books.numbers());
                let pending = now.committed().saturating_sub(passed);
                count.saturating_sub(pending.saturating_sub(behind))
            }
            // One number for each item at least.
            None => u64::from(item) + 1,
        };
        let taken = taken.min(count);
        if all.is_some_and(|all| all != taken) {
            return None;
        }
        all = Some(taken);
    }
    all
}
