//! Bridges what readers find damaged while the store is open, as a start does.
//!
//! The state is beyond such an entry: nothing but records is lost. It must stay so, or the next start would have to apply
//! what is no longer there: before anybody reads on, a snapshot lies behind the entry.

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use super::super::StoreError;
use super::super::machine::Machine;
use super::super::state::State;
use super::super::wal::{LogReader, WalError};
use super::{Keeping, RottenEntry, bridge_lost};

/// The damaged entries of an open store.
#[derive(Debug)]
pub(crate) struct Bridges {
    log: LogReader,
    directory: PathBuf,
    machine: Arc<Machine>,
    /// Nobody else has the entries.
    is_alone: bool,
    /// Held by who bridges: one at a time.
    turn: Mutex<()>,
    known: Mutex<Vec<RottenEntry>>,
}

impl Bridges {
    /// Of `log` in `directory`; `known` were found when it was opened.
    pub(crate) fn new(
        log: LogReader,
        directory: PathBuf,
        machine: Arc<Machine>,
        is_alone: bool,
        known: Vec<RottenEntry>,
    ) -> Self {
        Self {
            log,
            directory,
            machine,
            is_alone,
            turn: Mutex::default(),
            known: Mutex::new(known),
        }
    }

    fn lock(&self) -> MutexGuard<'_, Vec<RottenEntry>> {
        // Each change of it is a single store.
        self.known.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Those that are still in the log.
    pub(crate) fn known(&self) -> Vec<RottenEntry> {
        let purged = self.log.purged().map_or(0, |id| id.index);
        let known = self.lock();
        let known = known.iter().filter(|entry| entry.index > purged);
        known.cloned().collect()
    }

    /// Sees to it that the entry at `index`, which was applied and cannot be read, can be read as the gap that it leaves.
    /// Blocks on the disk, as long as a start does that reads the log from its last snapshot on.
    ///
    /// # Errors
    /// `cause` where another node has the entry; what kept it from being bridged.
    pub(crate) fn bridge(&self, index: u64, cause: WalError) -> Result<(), StoreError> {
        if !self.is_alone {
            return Err(cause.into());
        }
        let _turn = self.turn.lock().unwrap_or_else(PoisonError::into_inner);
        // Somebody was faster.
        if self.log.is_damaged(index) {
            return Ok(());
        }
        if self.machine.is_broken() {
            let why = "its state is worth nothing after a panic".to_owned();
            return Err(StoreError::Stopped { why });
        }
        let state = self.machine.read(State::clone);
        let kept = self.machine.keep_beyond(index, &state);
        kept.map_err(|error| {
            let what = "cannot keep the state before a damaged entry is given up, in";
            StoreError::io(what, self.machine.snapshots().directory(), error)
        })?;
        let found = self.find(index, &state)?;
        for entry in &found {
            tracing::error!(index = entry.index, "{entry}");
        }
        self.lock().extend(found);
        Ok(())
    }

    /// Bridges the entry at `index`, and those that are found damaged on the way.
    fn find(&self, index: u64, state: &State) -> Result<Vec<RottenEntry>, StoreError> {
        let mut lost = BTreeMap::new();
        let mut next = index;
        loop {
            match self.log.look_for_damage(next)? {
                Some(entry) => drop(lost.insert(next, entry)),
                // The disk has thought better of it.
                None if lost.is_empty() => return Ok(Vec::new()),
                None => {}
            }
            let snapshots = self.machine.snapshots();
            let (log, directory) = (&self.log, self.directory.as_path());
            match bridge_lost(
                log,
                directory,
                snapshots,
                state,
                lost.clone(),
                Keeping::Sure,
            ) {
                Err(StoreError::Log(WalError::Rotten { index, .. }))
                    if !lost.contains_key(&index) =>
                {
                    next = index;
                }
                done => return done,
            }
        }
    }
}
