//! What may still be checkpointed: a call takes nothing that the store would refuse for want of room.
//!
//! The store tells how much of this server is kept ([`KeptCheckpoints`]) and as of which request. What was sent after that is
//! added, for the worst that it can come to, so the sum is never below what the store will count: several checkpoints of one
//! key that are under way count with every growth among them, and one of a key of which nothing is known counts as new.

use std::collections::{HashMap, VecDeque};

use super::RefusedCause;
use crate::control::KeptCheckpoints;
use crate::tree::{CHECKPOINT_KEYS_MAX, CHECKPOINTS_BYTES_MAX, CheckpointKind, Restored};

/// What one request adds, at most.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Growth {
    keys: u64,
    bytes: u64,
}

/// See the module.
#[derive(Debug, Default)]
pub struct CheckpointRoom {
    /// What the watchdog has told last; nothing before the first time.
    told: KeptCheckpoints,
    /// Requests after that which add something, in order.
    under_way: VecDeque<(u64, Growth)>,
    /// Their sum.
    growing: Growth,
    /// Keys that are kept for sure once all that was sent is applied, and the bytes that count of each at least.
    keys: HashMap<String, u64>,
    /// The last request that changed something.
    last_sent: u64,
}

impl CheckpointRoom {
    /// Takes what the watchdog tells. `None`: it has told nothing in this ring yet, and what was known stands.
    pub fn hear(&mut self, told: Option<KeptCheckpoints>) {
        let Some(told) = told else { return };
        self.told = told;
        while let Some((seq, growth)) = self.under_way.front().copied()
            && seq <= told.seq
        {
            self.under_way.pop_front();
            self.growing.keys = self.growing.keys.saturating_sub(growth.keys);
            self.growing.bytes = self.growing.bytes.saturating_sub(growth.bytes);
        }
    }

    /// What a checkpoint of so many bytes would add.
    ///
    /// # Errors
    /// [`RefusedCause::CheckpointKeys`], [`RefusedCause::CheckpointBytes`]: the store has no room for it.
    pub fn check(
        &self,
        key: &str,
        kind: CheckpointKind,
        bytes: usize,
    ) -> Result<Growth, RefusedCause> {
        let known = self.keys.get(key).copied();
        let replaced = match kind {
            CheckpointKind::Full => known.unwrap_or(0),
            CheckpointKind::Delta { .. } => 0,
        };
        let growth = Growth {
            keys: u64::from(known.is_none()),
            bytes: (bytes as u64).saturating_sub(replaced),
        };
        let sum =
            |told: u64, growing: u64, more: u64| told.saturating_add(growing).saturating_add(more);
        let keys = sum(self.told.keys, self.growing.keys, growth.keys);
        if growth.keys > 0 && keys > CHECKPOINT_KEYS_MAX as u64 {
            return Err(RefusedCause::CheckpointKeys {
                max: CHECKPOINT_KEYS_MAX,
            });
        }
        let bytes = sum(self.told.bytes, self.growing.bytes, growth.bytes);
        if growth.bytes > 0 && bytes > CHECKPOINTS_BYTES_MAX {
            return Err(RefusedCause::CheckpointBytes {
                bytes,
                max: CHECKPOINTS_BYTES_MAX,
            });
        }
        Ok(growth)
    }

    /// The checkpoint was sent.
    pub fn sent(
        &mut self,
        seq: u64,
        key: &str,
        kind: CheckpointKind,
        bytes: usize,
        growth: Growth,
    ) {
        if growth != Growth::default() {
            self.growing.keys = self.growing.keys.saturating_add(growth.keys);
            self.growing.bytes = self.growing.bytes.saturating_add(growth.bytes);
            self.under_way.push_back((seq, growth));
        }
        let known = match self.keys.get_mut(key) {
            Some(known) => known,
            None => self.keys.entry(key.to_owned()).or_default(),
        };
        *known = match kind {
            CheckpointKind::Full => bytes as u64,
            CheckpointKind::Delta { .. } => known.saturating_add(bytes as u64),
        };
        self.last_sent = seq;
    }

    /// It was asked to forget the key.
    pub fn sent_forget(&mut self, seq: u64, key: &str) {
        self.keys.remove(key);
        self.last_sent = seq;
    }

    /// A checkpoint of the key was refused: what the store has of it is not known.
    pub fn refused(&mut self, key: &str) {
        self.keys.remove(key);
    }

    /// What the store has of a key, as it answered a question with this number.
    pub fn restored(&mut self, asked: u64, key: &str, restored: &Restored) {
        // What was sent after the question may have changed it.
        if restored.version == 0 || asked < self.last_sent {
            return;
        }
        // In a safe start an older one is told; of the newest, which counts, nothing is known then.
        let bytes = match restored.is_safe {
            true => 0,
            false => (restored.deltas.iter()).fold(restored.full.len(), |sum, delta| {
                sum.saturating_add(delta.len())
            }),
        };
        self.keys.insert(key.to_owned(), bytes as u64);
    }
}
