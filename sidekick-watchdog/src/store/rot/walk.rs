//! Walks the intact part of the log from a snapshot on, to see what is missing between.

use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;

use uuid::Uuid;

use super::super::command::{Batch, Command};
use super::super::folding;
use super::super::read;
use super::super::state::State;
use super::super::wal::{Kind, LogReader, LostEntry, Part, WalError, segment_name};
use super::folds::Folds;
use super::kept::Kept;
use super::stand_in::{Gap, Seen, StandIn};
use crate::slab::SlabHead;

/// The log as it is read from its base on.
pub(super) struct Walk<'a> {
    /// Lost entries of which it has to be found out what they are read as.
    pub(super) lost: &'a BTreeMap<u64, LostEntry>,
    /// Those of which that is known.
    pub(super) kept: &'a BTreeMap<u64, Kept>,
    pub(super) sessions: BTreeMap<(String, Uuid), Seen>,
    pub(super) sinks: BTreeSet<String>,
    pub(super) group: Uuid,
    pub(super) folds: Folds,
    /// The state has everything up to and with this entry.
    pub(super) applied: u64,
    /// Epochs of the watchdog's own records.
    pub(super) derived: BTreeSet<Uuid>,
    /// Whose the watchdog's own records are, as far as the log shows it.
    pub(super) maker: Option<String>,
    /// The last lost entry that was passed.
    pub(super) passed: Option<u64>,
    pub(super) stand_ins: BTreeMap<u64, StandIn>,
    /// How many numbers the intact entries brought.
    pub(super) numbers: BTreeMap<u64, u64>,
    /// The group's name, its members and its sinks are known.
    pub(super) known: [bool; 3],
}

/// Why a lost entry cannot be bridged.
pub(super) enum Fault {
    Log(WalError),
    /// What it held; which entry.
    Unknown(u64, &'static str),
}

impl Fault {
    pub(super) fn told(self, directory: &Path, lost: &BTreeMap<u64, LostEntry>) -> WalError {
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
    pub(super) fn new(
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

    pub(super) fn go(&mut self, log: &LogReader, base: &State) -> Result<(), Fault> {
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

    pub(super) fn look(&mut self, index: u64, batch: &Batch) -> Result<(), Fault> {
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
                Command::SetSinks { sinks }
                | Command::NameSinks { sinks, .. }
                | Command::PlaceSinks { sinks, .. } => {
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
    pub(super) fn bring(&mut self, index: u64, count: u64) {
        if index <= self.applied {
            self.folds.brought(count);
        }
    }

    /// A slab begins where its session stood, or behind what is lost. How many numbers are new.
    pub(super) fn take(&mut self, head: &SlabHead, frames: &[u8]) -> u64 {
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
    pub(super) fn close(&mut self, now: &State) {
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
    pub(super) fn redo_folding(&mut self, now: &State) {
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
    pub(super) fn lose_derived(&mut self, now: &State, index: u64, epoch: Uuid, count: u64) {
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
    pub(super) fn has_taken_all(&self, now: &State, sink: &str) -> bool {
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
    pub(super) fn lose(
        &mut self,
        index: u64,
        of: &(String, Uuid),
        seen: &Seen,
        first_seq: u64,
        end_seq: u64,
    ) {
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
    pub(super) fn check(&self, now: &State) -> Result<(), Fault> {
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
