//! What became of records at a sink: counts that add up, and the records that no backend would take.
//!
//! Owns the words that store, upload and app share. Does not own where they are kept (`store::state`) nor when they
//! change (`upload::engine`).
//!
//! What is counted are *sequence numbers*. For each sink, of those committed since it began:
//! `committed = records + notes + lost + requests + dropped + dead + pending`. Exact, because each count moves in the
//! same command as the watermark that it belongs to.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};
use sidekick_ipc::frame::{Gap, gap_cause};

use crate::position::Position;
use crate::slab::SlabHead;

/// Reasons for drops that are counted apart at one sink; what comes beyond counts as [`OTHER_REASONS`].
pub const REASONS_MAX: usize = 64;
/// The longest reason for a drop, in bytes; longer ones are cut.
pub const REASON_BYTES_MAX: usize = 64;
/// The reason that stands for all that are not counted apart.
pub const OTHER_REASONS: &str = "other";
/// The reason of a record that rules left out before it was stored.
pub const DROPPED_BEFORE_STORING: &str = "rule before storing";
/// The reason of a record like one that was taken before.
pub const DROPPED_DUPLICATE: &str = "duplicate";
/// The reason of a record that goes as a part of an aggregate.
pub const DROPPED_AGGREGATED: &str = "aggregated";
/// Why records are left out before a sink looks at them: in their place each sink finds a hole.
pub const DROPPED_FOR_ALL: [&str; 3] = [
    DROPPED_BEFORE_STORING,
    DROPPED_DUPLICATE,
    DROPPED_AGGREGATED,
];
/// The reason of a dead letter that an operator dropped.
pub const DROPPED_BY_OPERATOR: &str = "operator";
/// The reason of a dead letter that was kept long enough.
pub const DROPPED_EXPIRED: &str = "expired";

/// What became of the sequence numbers of a run of positions.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Counts {
    /// Rows that the backend took, of whatever kind.
    pub rows: u64,
    /// Records that the backend took.
    pub records: u64,
    /// Numbers whose row, taken by the backend, tells that the engine refused records or that a session's tail is unknown.
    pub notes: u64,
    /// Numbers whose records are lost or cannot be read; a row that the backend took tells of each run of them.
    pub lost: u64,
    /// Operations and queries of the game's state: they go to no backend.
    pub requests: u64,
    /// Records that were left out on purpose, by reason.
    pub dropped: BTreeMap<String, u64>,
}

impl Counts {
    /// How many sequence numbers are accounted for.
    pub fn numbers(&self) -> u64 {
        [self.records, self.notes, self.lost, self.requests]
            .into_iter()
            .chain(self.dropped.values().copied())
            .fold(0, u64::saturating_add)
    }

    /// Whether there is nothing in it.
    pub fn is_empty(&self) -> bool {
        *self == Self::default()
    }

    /// Adds what `other` counts.
    pub fn add(&mut self, other: &Self) {
        for (mine, theirs) in [
            (&mut self.rows, other.rows),
            (&mut self.records, other.records),
            (&mut self.notes, other.notes),
            (&mut self.lost, other.lost),
            (&mut self.requests, other.requests),
        ] {
            *mine = mine.saturating_add(theirs);
        }
        for (reason, count) in &other.dropped {
            self.drop_of(reason, *count);
        }
    }

    /// Counts records dropped for `reason`.
    pub fn drop_of(&mut self, reason: &str, count: u64) {
        if count == 0 {
            return;
        }
        let reason = cut(reason, REASON_BYTES_MAX);
        let is_room = self.dropped.contains_key(reason) || self.dropped.len() < REASONS_MAX;
        let reason = if is_room { reason } else { OTHER_REASONS };
        let known = self.dropped.entry(reason.to_owned()).or_default();
        *known = known.saturating_add(count);
    }
}

/// Records that the engine refused, by cause. They never had a sequence number, so no books of a sink tell of them.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct Refused {
    /// The ring, and the spill files where they are allowed, had no room.
    pub full: u64,
    /// The spill file could not be written.
    pub spill_failed: u64,
    /// The quota of the disk was nearly used up.
    pub quota: u64,
    /// The engine died before it could tell why, or told a cause that is not known here.
    pub unknown: u64,
}

impl Refused {
    /// Each cause and how many there were of it.
    pub fn causes(&self) -> [(&'static str, u64); 4] {
        [
            ("full", self.full),
            ("spill_failed", self.spill_failed),
            ("quota", self.quota),
            ("unknown", self.unknown),
        ]
    }

    /// Whether there was none.
    pub fn is_empty(&self) -> bool {
        *self == Self::default()
    }

    /// Adds what a gap tells. Its numbers are the engine's word.
    pub fn note(&mut self, gap: &Gap) {
        let count = match gap.cause {
            gap_cause::FULL => &mut self.full,
            gap_cause::SPILL_FAILED => &mut self.spill_failed,
            gap_cause::QUOTA => &mut self.quota,
            _ => &mut self.unknown,
        };
        *count = count.saturating_add(gap.count);
    }

    /// Adds what `other` counts.
    pub fn add(&mut self, other: &Self) {
        for (mine, theirs) in [
            (&mut self.full, other.full),
            (&mut self.spill_failed, other.spill_failed),
            (&mut self.quota, other.quota),
            (&mut self.unknown, other.unknown),
        ] {
            *mine = mine.saturating_add(theirs);
        }
    }
}

/// The books of one sink.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct SinkBooks {
    /// Sequence numbers that were committed before the sink's first one. `None` until that is known: a sink that took
    /// another's place, came back, or is older than the books learns it when it has nothing left to do.
    pub since: Option<u64>,
    /// What became of those that are done with.
    pub counts: Counts,
    /// Numbers whose records are dead letters now.
    pub dead: u64,
    /// Dead letters that wait for somebody.
    pub letters_now: u64,
    /// Dead letters there ever were.
    pub letters: u64,
    /// Dead letters that a replay brought to the backend.
    pub replayed: u64,
}

impl SinkBooks {
    /// How many sequence numbers are accounted for.
    pub fn numbers(&self) -> u64 {
        self.counts.numbers().saturating_add(self.dead)
    }

    /// Numbers committed since the sink began, of `committed` in all; `None` where it is not known what it began with.
    pub fn accepted(&self, committed: u64) -> Option<u64> {
        Some(committed.saturating_sub(self.since?))
    }

    /// Numbers of these that the sink has not dealt with.
    pub fn pending(&self, committed: u64) -> Option<u64> {
        let accepted = self.accepted(committed)?;
        Some(accepted.saturating_sub(self.numbers()))
    }
}

/// A record that a backend, or a rule, refused for good: kept until somebody replays or drops it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Letter {
    /// Where it stands in the log.
    pub position: Position,
    /// Its stream.
    pub stream: String,
    /// `HTTP 400`, a SQLSTATE; of rules the part that refused it (`filter`, `rename`, `set`, `schema`), or `rules`.
    pub code: String,
    /// What was said of it, at most [`LETTER_REASON_BYTES_MAX`] bytes.
    pub reason: String,
    /// Version of the rules that it was made with.
    pub rules_version: u32,
    /// The sequence numbers that are on the books for it: 1, or 0 where its row tells of numbers that count as lost.
    pub numbers: u64,
    /// Whose it is; covers the one frame.
    pub head: SlabHead,
    /// Its frame, as it lay in the ring.
    #[serde(with = "serde_bytes")]
    pub frame: Vec<u8>,
}

/// The longest [`Letter::reason`].
pub const LETTER_REASON_BYTES_MAX: usize = 1024;
/// The longest [`Letter::code`].
pub const LETTER_CODE_BYTES_MAX: usize = 64;

impl Letter {
    /// Cuts what a backend said to its bounds.
    pub fn bounded(mut self) -> Self {
        self.reason = cut(&self.reason, LETTER_REASON_BYTES_MAX).to_owned();
        self.code = cut(&self.code, LETTER_CODE_BYTES_MAX).to_owned();
        self
    }

    /// About how many bytes it takes.
    pub fn bytes(&self) -> u64 {
        let words = self.stream.len() + self.code.len() + self.reason.len();
        let whose = self.head.source.len() + 160;
        (self.frame.len() + words + whose) as u64
    }
}

/// The beginning of `text`, at most `bytes_max` bytes, whole characters.
pub fn cut(text: &str, bytes_max: usize) -> &str {
    let mut end = text.len().min(bytes_max);
    while !text.is_char_boundary(end) {
        end -= 1;
    }
    text.get(..end).unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn reasons_are_bounded_and_no_drop_is_left_out() {
        let mut counts = Counts::default();
        for n in 0..1000 {
            counts.drop_of(&format!("rule {n}"), 2);
        }
        counts.drop_of(&"x".repeat(500), 1);
        assert_eq!(counts.numbers(), 2001);
        assert!(counts.dropped.len() <= REASONS_MAX + 1);
        assert!(
            counts
                .dropped
                .keys()
                .all(|reason| reason.len() <= REASON_BYTES_MAX)
        );
    }

    #[test]
    fn a_cut_leaves_whole_characters() {
        assert_eq!(cut("añb", 2), "a");
        assert_eq!(cut("añb", 3), "añ");
        assert_eq!(cut("", 3), "");
    }
}
