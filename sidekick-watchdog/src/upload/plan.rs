//! Plans: what is committed before a batch is tried, and what is committed after it was taken.

use serde::{Deserialize, Serialize};
use uuid::Uuid;

use crate::books::{Counts, Letter};
use crate::position::Position;

/// Names the bytes of one batch. Committed before the first try, so every later try, by whomever, sends the same.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Plan {
    /// Name of the sink.
    pub sink: String,
    /// Number of the lane, from 0.
    pub lane: u32,
    /// Position of the first record.
    pub first: Position,
    /// Position of the last record.
    pub last: Position,
    /// Version of the rules that made the batch; 0 while there are no rules.
    pub rules_version: u32,
    /// Version of the encoder, see [`super::encode::ENCODER_VERSION`].
    pub encoder_version: u32,
    /// What the sink wants to find again: content encoding of the body, name and offset of a file. At most 512 bytes.
    pub extra: Vec<u8>,
}

impl Plan {
    /// The `Idempotency-Key`: `<group>/<sink>/<first index>.<item>-<last index>.<item>`.
    pub fn key(&self, group: &Uuid) -> String {
        let (first, last) = (self.first, self.last);
        format!(
            "{group}/{}/{}.{}-{}.{}",
            self.sink, first.index, first.item, last.index, last.item
        )
    }
}

/// Says that a lane is through with everything up to a position, and what became of it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Settled {
    /// Name of the sink.
    pub sink: String,
    /// Number of the lane.
    pub lane: u32,
    /// Every record of the lane at or before it was taken by the backend or left out on purpose. May lie beyond the
    /// batch's last record, where entries follow that hold nothing for this lane; `item == u32::MAX` stands for a whole
    /// entry.
    pub up_to: Position,
    /// What became of everything of this lane after what was settled before, up to and with `up_to`.
    pub counts: Counts,
}

/// A record for which the backend, or a rule, has no use: to be kept as a dead letter.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Dead {
    /// Name of the sink.
    pub sink: String,
    /// Number of the lane.
    pub lane: u32,
    /// What became of everything of this lane after what was settled before, up to and with the letter's position, but
    /// for the letter itself.
    pub counts: Counts,
    /// The record.
    pub letter: Letter,
}

/// A dead letter that a lane shall send again.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Replay {
    /// Names the letter.
    pub id: u64,
    /// The lane that wrote it, when the sink had other lanes perhaps.
    pub lane: u32,
    /// Which replay of it this is, from 1.
    pub number: u32,
    /// What was planned for it; `None`: it has to be planned.
    pub plan: Option<Plan>,
    /// The record.
    pub letter: Letter,
}

/// The lane to which `stream` belongs, among `lanes` of them. Part of what is stored: never changes.
pub fn lane_of(stream: &str, lanes: u32) -> u32 {
    crc32fast::hash(stream.as_bytes())
        .checked_rem(lanes)
        .unwrap_or(0)
}

/// The position after `position` in the order of all possible positions.
pub(crate) fn after(position: Position) -> Position {
    match position.item.checked_add(1) {
        Some(item) => Position {
            index: position.index,
            item,
        },
        None => Position {
            index: position.index.saturating_add(1),
            item: 0,
        },
    }
}

/// The position that stands for a whole entry.
pub(crate) fn whole(index: u64) -> Position {
    Position {
        index,
        item: u32::MAX,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The key is what backends remember for ever; so is the lane of a stream.
    #[test]
    fn keys_and_lanes_keep_their_form() {
        let plan = Plan {
            sink: "http".into(),
            lane: 2,
            first: Position { index: 17, item: 3 },
            last: Position { index: 20, item: 0 },
            rules_version: 0,
            encoder_version: 1,
            extra: Vec::new(),
        };
        assert_eq!(
            plan.key(&Uuid::from_u128(0x1234)),
            "00000000-0000-0000-0000-000000001234/http/17.3-20.0"
        );
        let lanes = ["damage", "chat.say", "score", "sidekick.gap"].map(|s| lane_of(s, 4));
        assert_eq!(lanes, [0, 1, 1, 2]);
        assert_eq!(
            lane_of("anything", 0),
            0,
            "no lanes is not a division by zero"
        );
    }
}
