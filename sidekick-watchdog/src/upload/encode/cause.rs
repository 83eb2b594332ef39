//! Why records are missing, in words for whoever reads the backend's rows.

use std::borrow::Cow;

use sidekick_ipc::frame::{gap_cause, hole_cause};

use crate::books::{DROPPED_AGGREGATED, DROPPED_BEFORE_STORING, DROPPED_DUPLICATE};

/// What records are counted under that a hole of this cause says were left out on purpose.
pub(super) fn drop_reason(cause: u8) -> Option<&'static str> {
    match cause {
        hole_cause::RULE => Some(DROPPED_BEFORE_STORING),
        hole_cause::DUPLICATE => Some(DROPPED_DUPLICATE),
        hole_cause::AGGREGATED => Some(DROPPED_AGGREGATED),
        _ => None,
    }
}

pub(in crate::upload) fn hole_words(cause: u8) -> Cow<'static, str> {
    Cow::Borrowed(match cause {
        hole_cause::CORRUPT => "the ring was damaged",
        hole_cause::OVERWRITTEN => "overwritten in the ring before it was read",
        hole_cause::ROTATED => "the ring was rotated before it was whole",
        hole_cause::SPILL => "a spill file is missing or damaged",
        hole_cause::RESERVED => "a record of a stream that only the watchdog may write to",
        hole_cause::ROTTEN => "the log on the disk was damaged",
        hole_cause::RULE => "left out by a rule",
        hole_cause::RULE_FAILED => {
            "not stored: a rule had to change the record and could not read it"
        }
        other => return Cow::Owned(format!("hole of unknown cause {other}")),
    })
}

pub(in crate::upload) fn gap_words(cause: u8) -> Cow<'static, str> {
    Cow::Borrowed(match cause {
        gap_cause::FULL => "refused by the engine: ring full",
        gap_cause::SPILL_FAILED => "refused by the engine: the spill file could not be written",
        gap_cause::QUOTA => "refused by the engine: the watchdog's disk quota is nearly used up",
        gap_cause::UNKNOWN => "refused by the engine, which died before it told why",
        other => return Cow::Owned(format!("refused by the engine: unknown cause {other}")),
    })
}
