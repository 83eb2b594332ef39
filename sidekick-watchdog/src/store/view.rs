//! The log of a data directory, and the state that it comes to, read beside whoever has the store open. Changes nothing.
//!
//! The state is that of the snapshot where the log begins with all of its entries applied: what the watchdog's own state
//! is, as of the last whole entry, reckoned anew. Where the log is damaged the state may lack what only the watchdog knows that had applied it.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use uuid::Uuid;

use super::StoreError;
use super::command::Batch;
use super::read;
use super::rot::{self, Keeping, RottenEntry};
use super::snapshot::Snapshots;
use super::state::{KeptLetter, LaneState, SessionState, State};
use super::wal::{Kind, LogReader, Part, segment_name};
use crate::books::SinkBooks;
use crate::position::{LOST_ITEM, Position};
use crate::slab::Slab;

/// A log as it was when it was opened here.
#[derive(Debug)]
pub struct LogView {
    log: LogReader,
    directory: PathBuf,
    damage: Vec<DamagedPlace>,
    mended: Vec<(PathBuf, u64)>,
    state: State,
    /// Where each sink began, as far as the log shows it.
    begun: BTreeMap<String, Position>,
    rotten: Vec<RottenEntry>,
    untold: Option<String>,
}

/// A file of the log.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SegmentSummary {
    /// The file.
    pub path: PathBuf,
    /// Its size in bytes, the part that is not used yet among them.
    pub bytes: u64,
    /// The first and the last entry in it; `None` where there is none that is still needed.
    pub entries: Option<(u64, u64)>,
}

/// Bytes of a segment that are not what was written.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct DamagedPlace {
    /// The file.
    pub path: PathBuf,
    /// The first byte.
    pub from: u64,
    /// The byte after the last one.
    pub to: u64,
    /// The first and the last entry that lay there; `None` where none did that is still needed.
    pub entries: Option<(u64, u64)>,
}

/// One entry of the log.
#[derive(Clone, Debug)]
pub struct ViewedEntry {
    /// Its index.
    pub index: u64,
    /// Its kind: `leader`, `members`, `commands`, `damaged`.
    pub kind: &'static str,
    /// Its commands, each in a word or two.
    pub commands: Vec<&'static str>,
    /// The slabs that apply accepted from it; of a damaged one, what tells of its gaps.
    pub slabs: Vec<Slab>,
    /// Where counting of its items begins.
    pub first_item: u32,
}

impl LogView {
    /// Reads the log below `data_dir`, every frame of it. Blocks for as long as that takes; `progress` hears how many
    /// segments of how many are read.
    ///
    /// # Errors
    /// [`StoreError::Log`]: there is none, a segment is missing, a header is none, a newer program wrote it.
    pub fn open(
        data_dir: &Path,
        progress: &mut dyn FnMut(usize, usize),
    ) -> Result<Self, StoreError> {
        let directory = data_dir.join("log");
        let (log, damage) = LogReader::beside(&directory, rot::is_whole, progress)?;
        let lost = log.lost();
        let damage = damage.into_iter().map(|damage| {
            let is_here =
                |from: u64, segment: u64| (from, segment) == (damage.from, damage.segment);
            let mut here = lost
                .iter()
                .filter(|(_, entry)| is_here(entry.damage.from, entry.damage.segment))
                .map(|(index, _)| *index);
            let first = here.next();
            DamagedPlace {
                path: directory.join(segment_name(damage.segment)),
                from: damage.from,
                to: damage.to,
                entries: first.map(|first| (first, here.last().unwrap_or(first))),
            }
        });
        let mended = log.mended().into_iter();
        let mended = mended.map(|byte| (directory.join(segment_name(byte.segment)), byte.at));
        let mut view = Self {
            damage: damage.collect(),
            mended: mended.collect(),
            log,
            directory,
            state: State::default(),
            begun: BTreeMap::new(),
            rotten: Vec::new(),
            untold: None,
        };
        view.apply(&data_dir.join("snapshots"))?;
        Ok(view)
    }

    /// Brings the state to the log's end.
    fn apply(&mut self, snapshots: &Path) -> Result<(), StoreError> {
        let snapshots = Snapshots::beside(snapshots);
        let purged = self.log.purged().map(|id| id.index);
        let end = self.log.last().map_or(0, |id| id.index) + 1;
        let read = |below| {
            let state = snapshots.before(purged, below);
            state.map_err(|error| {
                StoreError::io("cannot read the snapshots beside", &self.directory, error)
            })
        };
        // The oldest shows the most; the newest will do.
        let base = match read(purged.map_or(0, |purged| purged + 1))? {
            None => read(end)?,
            oldest => oldest,
        };
        let Some(base) = base else {
            self.untold = Some("no snapshot reaches the beginning of the log".to_owned());
            return Ok(());
        };
        self.state = base;
        let begins = Position {
            index: self.state.last_applied.map_or(0, |id| id.index),
            item: u32::MAX,
        };
        self.note_sinks(Some(begins));
        match rot::bridge(
            &self.log,
            &self.directory,
            &snapshots,
            &self.state,
            Keeping::Guest,
        ) {
            Ok(rotten) => self.rotten = rotten,
            Err(error) => self.untold = Some(error.to_string()),
        }
        let Some((first, last)) = self.log.bounds() else {
            return Ok(());
        };
        let applied = self.state.last_applied.map_or(0, |id| id.index + 1);
        for index in applied.max(first)..=last {
            let Some(entry) = self.log.read(index, Part::Whole)? else {
                continue;
            };
            if matches!(entry.kind, Kind::Normal | Kind::Lost) && !entry.payload.is_empty() {
                let batch = Batch::from_bytes(entry.payload);
                let commands = batch.commands().map_err(unreadable)?;
                self.state.apply_batch(index, commands, batch.frames());
                self.note_sinks(None);
            }
        }
        Ok(())
    }

    /// Notes where sinks begin that were not seen before.
    fn note_sinks(&mut self, begins: Option<Position>) {
        let mut new = Vec::new();
        for (sink, lanes) in self.state.sinks() {
            if !self.begun.contains_key(sink) {
                let lowest = lanes.iter().map(|lane| lane.watermark).min();
                new.push((sink.to_owned(), begins.or(lowest).unwrap_or_default()));
            }
        }
        self.begun.extend(new);
    }

    /// The last position that `sink` was never to take, as far as the log shows it.
    pub fn begun(&self, sink: &str) -> Position {
        self.begun.get(sink).copied().unwrap_or_default()
    }

    /// The files of the log in their order.
    pub fn segments(&self) -> Vec<SegmentSummary> {
        let mut entries: BTreeMap<u64, (u64, u64)> = BTreeMap::new();
        let (first, last) = self.log.bounds().unwrap_or((1, 0));
        for index in first..=last {
            if let Some((segment, _)) = self.log.place(index) {
                entries.entry(segment).or_insert((index, index)).1 = index;
            }
        }
        let segments = self.log.segments().into_iter();
        let summary = |number| {
            let path = self.directory.join(segment_name(number));
            SegmentSummary {
                bytes: std::fs::metadata(&path).map_or(0, |data| data.len()),
                path,
                entries: entries.get(&number).copied(),
            }
        };
        segments.map(summary).collect()
    }

    /// Where the log is damaged.
    pub fn damage(&self) -> &[DamagedPlace] {
        &self.damage
    }

    /// Bytes that are not what was written, where that is known: in which file and where. Nothing is lost of what they are in.
    pub fn mended(&self) -> &[(PathBuf, u64)] {
        &self.mended
    }

    /// The entries that are lost, and what is known to be lost with them.
    pub fn rotten(&self) -> &[RottenEntry] {
        &self.rotten
    }

    /// Why it cannot be told what the state is, or what is lost, if it cannot.
    pub fn untold(&self) -> Option<&str> {
        self.untold.as_deref()
    }

    /// The texts of rules that are remembered, and whether no others were ever in force.
    pub fn rules(&self) -> (impl Iterator<Item = &str>, bool) {
        let texts = self.state.rules();
        let are_all = self.state.knows_all_rules();
        (texts.values().map(String::as_str), are_all)
    }

    /// The version of the game that recorded what slabs with this head hold.
    pub fn game_version(&self, head: &crate::slab::SlabHead) -> &str {
        self.state
            .game_version(&head.source, head.incarnation, head.epoch)
    }

    /// The group's UUID.
    pub fn group(&self) -> Option<Uuid> {
        self.state.group
    }

    /// Up to where the log is purged, and its last entry.
    pub fn bounds(&self) -> (u64, u64) {
        let purged = self.log.purged().map_or(0, |id| id.index);
        (purged, self.log.last().map_or(0, |id| id.index))
    }

    /// The sessions that are remembered: source, epoch, state.
    pub fn sessions(&self) -> impl Iterator<Item = (&str, Uuid, &SessionState)> {
        self.state.sessions()
    }

    /// The sinks with their lanes.
    pub fn sinks(&self) -> impl Iterator<Item = (&str, &[LaneState])> {
        self.state.sinks()
    }

    /// The books of `sink`, and how many sequence numbers are committed.
    pub fn books(&self, sink: &str) -> (SinkBooks, u64) {
        (self.state.books(sink), self.state.committed())
    }

    /// All dead letters.
    pub fn letters(&self) -> impl Iterator<Item = &KeptLetter> {
        self.state.letters().iter().map(|(_, kept)| kept)
    }

    /// The entries in their order.
    ///
    /// # Errors
    /// In place of one that cannot be read: it was purged meanwhile, or is not what was written.
    pub fn entries(&self) -> impl Iterator<Item = Result<ViewedEntry, StoreError>> {
        let (first, last) = self.log.bounds().unwrap_or((1, 0));
        (first..=last).filter_map(|index| self.entry(index).transpose())
    }

    fn entry(&self, index: u64) -> Result<Option<ViewedEntry>, StoreError> {
        let Some(entry) = self.log.read(index, Part::Whole)? else {
            return Ok(None);
        };
        let is_lost = entry.kind == Kind::Lost;
        let mut viewed = ViewedEntry {
            index,
            kind: match entry.kind {
                Kind::Membership => "members",
                Kind::Normal => "commands",
                Kind::Lost => "damaged",
                _ => "leader",
            },
            commands: Vec::new(),
            slabs: Vec::new(),
            first_item: if is_lost { LOST_ITEM } else { 0 },
        };
        if matches!(entry.kind, Kind::Normal | Kind::Lost) && !entry.payload.is_empty() {
            let batch = Batch::from_bytes(entry.payload);
            let cut = |slab| match is_lost {
                true => None,
                false => self.state.cut(index, slab),
            };
            if !is_lost {
                let commands = batch.commands().map_err(unreadable)?;
                viewed.commands = commands.iter().map(|command| command.word()).collect();
            }
            let marks = |item| match is_lost {
                true => None,
                false => self.state.marks(index, item),
            };
            let slabs = read::visible(&batch, cut, marks).map_err(unreadable)?;
            viewed.slabs = slabs.into_iter().map(|(_, slab)| slab).collect();
        }
        Ok(Some(viewed))
    }
}

fn unreadable(error: super::codec::CodecError) -> StoreError {
    StoreError::Raft {
        what: error.to_string(),
    }
}
