//! Where rules have their say: what becomes of a record before its row is written.

use std::borrow::Cow;
use std::fmt::Debug;

use sidekick_ipc::frame::Record;

use super::encode::{Item, What};
use crate::slab::SlabHead;

/// The code of a dead letter that the rules as a whole would not send.
pub const BY_RULES: &str = "rules";

/// A record as it is stored.
#[derive(Clone, Copy, Debug)]
pub struct Stored<'a> {
    /// Whose it is.
    pub head: &'a SlabHead,
    /// The version of the game that recorded it; empty where it has none.
    pub game_version: &'a str,
    /// Its sequence number.
    pub seq: u64,
    /// The engine's monotonic clock, ns.
    pub monotonic_ns: u64,
    /// Stream and value.
    pub record: Record<'a>,
}

impl<'a> Stored<'a> {
    /// The record that `item` of the slab with `head` is; `None` where it is none.
    pub(super) fn of(head: &'a SlabHead, game_version: &'a str, item: &Item<'a>) -> Option<Self> {
        let What::Record(record) = item.what else {
            return None;
        };
        Some(Self {
            head,
            game_version,
            seq: item.seq,
            monotonic_ns: item.monotonic_ns,
            record,
        })
    }
}

/// What a [`Shaper`] makes of a record.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Shaped {
    /// It goes as it is.
    Keep,
    /// What was written to `out` goes in its place.
    Changed,
    /// It goes nowhere, and that is meant. Counted under the reason: a few words, of which there are few.
    Dropped {
        /// Such as the rule's name. At most [`crate::books::REASON_BYTES_MAX`] bytes.
        reason: Cow<'static, str>,
    },
    /// It is not what it has to be; it becomes a dead letter, in its turn.
    Refused {
        /// What refused it, in a word, such as the part of the rule.
        code: &'static str,
        /// What is wrong with it, for whoever looks at the letter.
        reason: String,
    },
}

/// Rules, as the lanes see them. The app joins them to what makes them.
///
/// [`Shaper::shape`] is a pure function of its arguments: a version says for ever what becomes of a record, since plans
/// pin it (CORRECTNESS rule 16). Which lane a record belongs to is decided before, by the stream that it was stored with.
pub trait Shaper: Debug + Send + Sync + 'static {
    /// The version for batches that are begun now. May change at any time; a batch is made with one.
    fn version(&self) -> u32;

    /// Whether it still has the rules of `version`. Must, while a plan names them.
    fn knows(&self, version: u32) -> bool;

    /// What becomes of `stored` on its way to `sink`. For [`Shaped::Changed`] the new record is appended to `out`, which
    /// is empty before, as a record's payload ([`Record::encode_head`], then the value).
    fn shape(&self, version: u32, sink: &str, stored: &Stored<'_>, out: &mut Vec<u8>) -> Shaped;
}

/// What rules make of a record, as whoever writes its row takes it.
#[derive(Debug)]
pub(super) enum Ruling<'a> {
    /// As [`Shaped::Keep`].
    Keep,
    /// This goes in its place.
    Changed(Record<'a>),
    /// As [`Shaped::Dropped`].
    Dropped { reason: Cow<'static, str> },
    /// As [`Shaped::Refused`].
    Refused { code: &'static str, reason: String },
}

/// Asks the rules of `version` what becomes of `stored`. A new record lies in `out`.
pub(super) fn rule<'a>(
    shaper: &dyn Shaper,
    version: u32,
    sink: &str,
    stored: &Stored<'_>,
    out: &'a mut Vec<u8>,
) -> Ruling<'a> {
    out.clear();
    match shaper.shape(version, sink, stored, out) {
        Shaped::Keep => Ruling::Keep,
        Shaped::Changed => match Record::parse(out) {
            Ok(record) => Ruling::Changed(record),
            Err(error) => Ruling::Refused {
                code: BY_RULES,
                reason: format!("the rules made no record of it: {error}"),
            },
        },
        Shaped::Dropped { reason } => Ruling::Dropped { reason },
        Shaped::Refused { code, reason } => Ruling::Refused { code, reason },
    }
}

/// No rules: every record goes as it is, under version 0.
#[derive(Clone, Copy, Debug, Default)]
pub struct KeepAll;

impl Shaper for KeepAll {
    fn version(&self) -> u32 {
        0
    }

    fn knows(&self, version: u32) -> bool {
        version == 0
    }

    fn shape(&self, _: u32, _: &str, _: &Stored<'_>, _: &mut Vec<u8>) -> Shaped {
        Shaped::Keep
    }
}
