//! What a damaged entry is read as: the gaps that it left.
//!
//! Nobody knows what lay where the log is damaged. What is known is where each session stood before (a snapshot, and the
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
#[cfg(test)]
mod tests;

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};

use bytes::Bytes;
use sidekick_ipc::frame::{FrameKind, Hole, append_frame, frames, hole_cause};
use uuid::Uuid;

use super::StoreError;
use super::command::{Batch, Command};
use super::folding;
use super::read;
use super::snapshot::Snapshots;
use super::state::State;
use super::wal::{Kind, LogReader, LostEntry, Part, WalError, segment_name};
use crate::position::{LOST_ITEM, Loss, Position};
use crate::slab::{RingCheckpoint, Slab, SlabHead};

pub(crate) use bridges::Bridges;
use folds::Folds;
use kept::Kept;
use salvage::{Readers, Salvaged, Standing, salvage};

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

/// A session as the intact part of the log shows it.
#[derive(Clone, Copy, Debug, Default)]
struct Seen {
    launch: u32,
    next_seq: u64,
    realtime_offset_ns: i64,
    checkpoint: RingCheckpoint,
    monotonic_ns: u64,
}

/// Numbers of a session that went with an entry.
#[derive(Debug)]
struct Gap {
    source: String,
    epoch: Uuid,
    /// The watchdog had made them.
    is_derived: bool,
    seen: Seen,
    first_seq: u64,
    end_seq: u64,
}

impl Gap {
    /// What tells of it: a slab of one hole.
    fn slab(self) -> Slab {
        let count = self.end_seq - self.first_seq;
        let cause = hole_cause::ROTTEN;
        let mut payload = Vec::with_capacity(Hole::BYTES);
        Hole { count, cause }.encode(&mut payload);
        let mut frames = Vec::new();
        let (kind, at) = (FrameKind::Hole as u16, self.seen.monotonic_ns);
        append_frame(&mut frames, &self.epoch, kind, self.first_seq, at, &payload);
        let head = SlabHead {
            source: self.source,
            epoch: self.epoch,
            incarnation: self.seen.launch,
            realtime_offset_ns: self.seen.realtime_offset_ns,
            first_seq: self.first_seq,
            count,
            checkpoint: self.seen.checkpoint,
        };
        let frames = frames.into();
        Slab { head, frames }
    }
}

/// What is put in the place of one entry.
#[derive(Debug, Default)]
struct StandIn {
    commands: Vec<Command>,
    gaps: Vec<Gap>,
}

impl StandIn {
    /// How many it tells of.
    fn numbers(&self) -> u64 {
        let counts = self.gaps.iter().map(|gap| gap.end_seq - gap.first_seq);
        counts.fold(0, u64::saturating_add)
    }

    /// Leaves out the first numbers, `taken` of them, which are uploaded; how many that were. Whose they are is known only
    /// where all are of one session.
    fn leave_out(&mut self, taken: u64) -> u64 {
        let [gap] = self.gaps.as_mut_slice() else {
            return 0;
        };
        let taken = taken.min(gap.end_seq - gap.first_seq);
        gap.first_seq += taken;
        self.gaps.retain(|gap| gap.first_seq < gap.end_seq);
        taken
    }

    fn encode(self) -> Result<Bytes, StoreError> {
        let (mut commands, mut frames) = (self.commands, Vec::new());
        for gap in self.gaps {
            let is_derived = gap.is_derived;
            let slab = gap.slab();
            // One frame of some dozen bytes.
            let (head, frames_bytes) = (slab.head, slab.frames.len() as u32);
            commands.push(match is_derived {
                true => Command::Derived { head, frames_bytes },
                false => Command::Append { head, frames_bytes },
            });
            frames.push(slab.frames);
        }
        let batch = Batch::encode(&commands, &frames).map_err(|error| StoreError::Raft {
            what: error.to_string(),
        })?;
        Ok(batch.bytes().clone())
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

/// The log as it is read from its base on.
struct Walk<'a> {
    /// Lost entries of which it has to be found out what they are read as.
    lost: &'a BTreeMap<u64, LostEntry>,
    /// Those of which that is known.
    kept: &'a BTreeMap<u64, Kept>,
    sessions: BTreeMap<(String, Uuid), Seen>,
    sinks: BTreeSet<String>,
    group: Uuid,
    folds: Folds,
    /// The state has everything up to and with this entry.
    applied: u64,
    /// Epochs of the watchdog's own records.
    derived: BTreeSet<Uuid>,
    /// Whose the watchdog's own records are, as far as the log shows it.
    maker: Option<String>,
    /// The last lost entry that was passed.
    passed: Option<u64>,
    stand_ins: BTreeMap<u64, StandIn>,
    /// How many numbers the intact entries brought.
    numbers: BTreeMap<u64, u64>,
    /// The group's name, its members and its sinks are known.
    known: [bool; 3],
}

/// Sets what the lost entries of `log` in `directory` are read as, and tells of each. `now` is the state that goes on with
/// the log.
///
/// # Errors
/// [`WalError::Damaged`] where that cannot be told; `StoreError::Io`.
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
    let mut remains = log.remains(entry).into_iter();
    let salvaged = remains.find_map(|payload| salvage(&payload, standing))?;
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

/// Why a lost entry cannot be bridged.
enum Fault {
    Log(WalError),
    /// What it held; which entry.
    Unknown(u64, &'static str),
}

impl Fault {
    fn told(self, directory: &Path, lost: &BTreeMap<u64, LostEntry>) -> WalError {
        match self {
            Self::Log(error) => error,
            Self::Unknown(index, what) => {
                let damage = lost.get(&index).map(|entry| entry.damage);
                WalError::Damaged {
                    path: directory.join(segment_name(damage.map_or(0, |damage| damage.segment))),
                    offset: damage.map_or(0, |damage| damage.from),
                    what: format!("entry {index} is lost, and {what}"),
                }
            }
        }
    }
}

impl<'a> Walk<'a> {
    fn new(
        lost: &'a BTreeMap<u64, LostEntry>,
        kept: &'a BTreeMap<u64, Kept>,
        base: &State,
        now: &State,
        purged: Option<u64>,
    ) -> Self {
        let sessions = base.sessions().map(|(source, epoch, session)| {
            let seen = Seen {
                launch: session.launch,
                next_seq: session.next_seq,
                realtime_offset_ns: session.started_realtime_ns,
                checkpoint: session.checkpoint.unwrap_or_default(),
                monotonic_ns: 0,
            };
            ((source.to_owned(), epoch), seen)
        });
        let has_members = |state: &State| state.membership.membership().voter_ids().count() > 0;
        let has_sinks = |state: &State| !state.totals().is_empty();
        Self {
            lost,
            kept,
            sessions: sessions.collect(),
            sinks: (base.sinks().chain(now.sinks()))
                .map(|(sink, _)| sink.to_owned())
                .collect(),
            group: now.group.or(base.group).unwrap_or_default(),
            folds: Folds::new(base, now, purged),
            applied: now.last_applied.map_or(0, |id| id.index),
            derived: base.derived_epochs().collect(),
            maker: None,
            passed: None,
            stand_ins: BTreeMap::new(),
            numbers: BTreeMap::new(),
            known: [
                now.group.is_some(),
                has_members(now),
                has_sinks(now) || has_sinks(base),
            ],
        }
    }

    fn go(&mut self, log: &LogReader, base: &State) -> Result<(), Fault> {
        let Some((first, last)) = log.bounds() else {
            return Ok(());
        };
        let from = base.last_applied.map_or(0, |id| id.index + 1).max(first);
        for index in from..=last {
            if self.lost.contains_key(&index) {
                self.passed = Some(index);
                continue;
            }
            if let Some(kept) = self.kept.get(&index) {
                self.look(index, &Batch::from_bytes(kept.payload.clone()))?;
                continue;
            }
            let entry = log.read(index, Part::Whole).map_err(Fault::Log)?;
            let Some(entry) = entry else {
                // Purged since the snapshot was chosen: what it held would pass for lost.
                if log.purged().is_some_and(|id| index <= id.index) {
                    let first = self.lost.keys().next().copied().unwrap_or(index);
                    let what = "entries before it were purged meanwhile; it is tried again";
                    return Err(Fault::Unknown(first, what));
                }
                continue;
            };
            match entry.kind {
                Kind::Membership => self.known[1] = true,
                Kind::Normal => self.look(index, &Batch::from_bytes(entry.payload))?,
                _ => {}
            }
        }
        Ok(())
    }

    fn look(&mut self, index: u64, batch: &Batch) -> Result<(), Fault> {
        let unreadable = |_| {
            let index = self.passed.unwrap_or_default();
            Fault::Unknown(index, "an entry behind it cannot be read")
        };
        let commands = batch.commands().map_err(unreadable)?;
        let slabs = batch.slabs().map_err(unreadable)?;
        let mut slabs = slabs.into_iter();
        let mut item = 0_u32;
        for command in commands {
            let slab = command
                .frames_bytes()
                .and_then(|_| slabs.next())
                .map(|(_, slab)| slab);
            match &command {
                Command::Plan { plan, .. } => self.folds.came(plan.last),
                Command::Uploaded { up_to, .. } | Command::Settle { up_to, .. } => {
                    self.folds.came(*up_to);
                }
                Command::DeadLetter { letter, .. } => self.folds.came(letter.position),
                _ => {}
            }
            let first_item = item;
            if let Some(slab) = &slab {
                item = item.saturating_add(read::count_frames(&slab.frames));
            }
            match command {
                Command::Init { group } => {
                    if self.group.is_nil() {
                        self.group = group;
                    }
                    self.known[0] = true;
                }
                Command::SetSinks { sinks } | Command::NameSinks { sinks, .. } => {
                    self.known[2] = true;
                    self.sinks.extend(sinks.into_iter().map(|(sink, _)| sink));
                }
                Command::Plan { sink, .. }
                | Command::Uploaded { sink, .. }
                | Command::Settle { sink, .. }
                | Command::DeadLetter { sink, .. }
                    if !self.sinks.contains(&sink) =>
                {
                    if let Some(index) = self.passed {
                        let what = "it named a sink that is used behind it";
                        return Err(Fault::Unknown(index, what));
                    }
                }
                Command::OpenSession {
                    source,
                    epoch,
                    launch,
                    started_realtime_ns,
                }
                | Command::OpenGame {
                    source,
                    epoch,
                    launch,
                    started_realtime_ns,
                    ..
                } => {
                    self.sessions
                        .entry((source, epoch))
                        .or_insert_with(|| Seen {
                            launch,
                            next_seq: 1,
                            realtime_offset_ns: started_realtime_ns,
                            ..Seen::default()
                        });
                }
                Command::Append { head, .. } | Command::AppendOps { head, .. } => {
                    let frames = slab.map(|slab| slab.frames).unwrap_or_default();
                    let count = self.take(&head, &frames);
                    *self.numbers.entry(index).or_default() += count;
                    self.folds
                        .slab(index, first_item, head.first_seq, head.count);
                }
                Command::Derived { head, .. } => {
                    if self.derived.insert(head.epoch) {
                        *self.numbers.entry(index).or_default() += head.count;
                        self.bring(index, 1);
                    }
                    self.folds
                        .slab(index, first_item, head.first_seq, head.count);
                    self.maker = Some(head.source);
                }
                Command::SetFolding { is_on: true } => self.folds.begin(index),
                Command::Fold { step, rows } => {
                    let is_taken = self.folds.step(&step, self.passed);
                    if let Some((head, _)) = rows.filter(|_| is_taken) {
                        *self.numbers.entry(index).or_default() += head.count;
                        self.bring(index, head.count);
                        self.maker = Some(head.source);
                    }
                }
                _ => {}
            }
        }
        Ok(())
    }

    /// Records that the watchdog made came with the entry at `index`.
    fn bring(&mut self, index: u64, count: u64) {
        if index <= self.applied {
            self.folds.brought(count);
        }
    }

    /// A slab begins where its session stood, or behind what is lost. How many numbers are new.
    fn take(&mut self, head: &SlabHead, frames: &[u8]) -> u64 {
        let monotonic_ns = read::first_monotonic_ns(frames).unwrap_or_default();
        let of = (head.source.clone(), head.epoch);
        let here = Seen {
            launch: head.incarnation,
            next_seq: head.first_seq,
            realtime_offset_ns: head.realtime_offset_ns,
            checkpoint: head.checkpoint,
            monotonic_ns,
        };
        let stood = match (self.sessions.get(&of), self.passed) {
            (Some(seen), _) => *seen,
            // Its beginning is lost.
            (None, Some(index)) => {
                let open = Command::OpenSession {
                    source: of.0.clone(),
                    epoch: of.1,
                    launch: head.incarnation,
                    started_realtime_ns: head.realtime_offset_ns,
                };
                let stand_in = self.stand_ins.entry(index).or_default();
                stand_in.commands.push(open);
                Seen {
                    next_seq: 1,
                    ..here
                }
            }
            // It was refused.
            (None, None) => return 0,
        };
        if let (true, Some(index)) = (head.first_seq > stood.next_seq, self.passed) {
            self.lose(index, &of, &here, stood.next_seq, head.first_seq);
        }
        let next_seq = stood.next_seq.max(head.next_seq());
        self.sessions.insert(of, Seen { next_seq, ..here });
        next_seq - stood.next_seq.max(head.first_seq)
    }

    /// What was lost behind the last slab of a session: the state knows how far it had come.
    fn close(&mut self, now: &State) {
        let applied = now.last_applied.map_or(0, |id| id.index);
        let Some((&last, _)) = self.lost.range(..=applied).next_back() else {
            return;
        };
        if now.sinks().all(|(sink, _)| self.has_taken_all(now, sink)) {
            self.stand_ins = self.stand_ins.split_off(&(applied + 1));
            return;
        }
        for (source, epoch, session) in now.sessions() {
            let of = (source.to_owned(), epoch);
            let seen = self.sessions.get(&of).copied().unwrap_or_else(|| Seen {
                launch: session.launch,
                next_seq: 1,
                realtime_offset_ns: session.started_realtime_ns,
                ..Seen::default()
            });
            if session.next_seq > seen.next_seq {
                self.lose(last, &of, &seen, seen.next_seq, session.next_seq);
            }
        }
        let derived: Vec<(u64, Uuid)> = self
            .lost
            .keys()
            .flat_map(|index| now.derived_at(*index).map(move |epoch| (*index, epoch)))
            .collect();
        for (index, epoch) in derived {
            self.folds.brought(1);
            self.lose_derived(now, index, epoch, 1);
        }
        self.folds.close(last, now);
        let lost: Vec<u64> = self
            .lost
            .range(..=applied)
            .map(|(index, _)| *index)
            .collect();
        for index in lost {
            if let Some((step, rows)) = self.folds.lost_rows(index, now) {
                self.folds.brought(rows);
                let epoch = folding::epoch(self.group, step);
                self.lose_derived(now, index, epoch, rows);
            }
        }
    }

    /// Steps of folding that are to be applied went with lost entries.
    fn redo_folding(&mut self, now: &State) {
        let lost = self.lost.range(self.applied + 1..);
        let lost: Vec<u64> = lost.map(|(index, _)| *index).collect();
        for index in lost {
            let (commands, step) = self.folds.stand_in(index);
            let stand_in = self.stand_ins.entry(index).or_default();
            stand_in.commands.extend(commands);
            if let Some(step) = step {
                // How many rows there were, nobody knows.
                let epoch = folding::epoch(self.group, step);
                self.lose_derived(now, index, epoch, 1);
            }
        }
    }

    /// Records that the watchdog made went with the entry at `index`.
    fn lose_derived(&mut self, now: &State, index: u64, epoch: Uuid, count: u64) {
        let maker = self.maker.clone();
        let maker = maker.or_else(|| now.totals().into_keys().next());
        let stand_in = self.stand_ins.entry(index).or_default();
        stand_in.gaps.push(Gap {
            source: maker.unwrap_or_default(),
            epoch,
            is_derived: true,
            seen: Seen::default(),
            first_seq: 1,
            end_seq: 1 + count,
        });
    }

    /// Whether `sink` has dealt with all but what lies behind every one of its lanes: nothing that was applied is lost to it.
    fn has_taken_all(&self, now: &State, sink: &str) -> bool {
        let books = now.books(sink);
        let since = books
            .since
            .and_then(|since| now.committed().checked_sub(since));
        let pending = since.and_then(|accepted| accepted.checked_sub(books.numbers()));
        let lanes = now.lanes(sink).into_iter().flatten();
        let furthest = lanes.map(|lane| lane.watermark.index).max();
        let applied = now.last_applied.map_or(0, |id| id.index);
        let behind = furthest.map_or(0, |index| index + 1)..=applied;
        let intact: u64 = match behind.is_empty() {
            true => 0,
            false => self.numbers.range(behind).map(|(_, count)| *count).sum(),
        };
        pending.is_some_and(|pending| pending <= intact)
    }

    /// `first_seq` to before `end_seq` of a session went with the entry at `index`.
    fn lose(&mut self, index: u64, of: &(String, Uuid), seen: &Seen, first_seq: u64, end_seq: u64) {
        let stand_in = self.stand_ins.entry(index).or_default();
        if first_seq < end_seq {
            stand_in.gaps.push(Gap {
                source: of.0.clone(),
                epoch: of.1,
                is_derived: false,
                seen: *seen,
                first_seq,
                end_seq,
            });
        }
    }

    /// What is to be applied again must not have held what everything else rests on.
    fn check(&self, now: &State) -> Result<(), Fault> {
        let applied = now.last_applied.map_or(0, |id| id.index);
        let Some((&index, _)) = self.lost.range(applied + 1..).next() else {
            return Ok(());
        };
        match self.known {
            [true, true, true] => Ok(()),
            _ => {
                let what = "it may have held the group's name, its members or its sinks";
                Err(Fault::Unknown(index, what))
            }
        }
    }
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
