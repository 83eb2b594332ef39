//! Slabs to lines: what a backend reads.
//!
//! [`Walk`] goes through a slab's frames and checks each again (crc, sequence); what is damaged or missing comes out as
//! an item of its own, so that nothing is lost in silence and nothing blocks. [`LineWriter`] writes an item as one line
//! of NDJSON. Both are pure functions of the slab's bytes: the same slab gives the same lines for ever, or else
//! [`ENCODER_VERSION`] goes up and the old version stays while plans name it (CORRECTNESS rule 16).

mod cause;
mod clock;
mod line;
mod walk;

use std::borrow::Cow;
use std::io::Write;

use sidekick_ipc::frame::{Gap, Record};

use super::plan::lane_of;
use crate::slab::SlabHead;

pub(super) use cause::{gap_words, hole_words};
pub(super) use clock::{Clock, realtime_ns};
pub use line::LineWriter;
pub use walk::{Mark, Walk};

/// Version of the NDJSON form.
pub const ENCODER_VERSION: u32 = 1;

/// The stream of lines that tell of records which are not there.
pub const GAP_STREAM: &str = "sidekick.gap";

/// One thing to tell the backend.
#[derive(Debug)]
pub struct Item<'a> {
    /// Its sequence number: the frame's own, or the first of those that are lost.
    pub seq: u64,
    /// The engine's monotonic clock, ns. Of something lost: that of the last good frame before it in the slab.
    pub monotonic_ns: u64,
    /// What it is.
    pub what: What<'a>,
}

/// What an [`Item`] is.
#[derive(Debug)]
pub enum What<'a> {
    /// A record.
    Record(Record<'a>),
    /// The engine refused records (they have no sequence numbers).
    Refused(Gap),
    /// Sequence numbers whose records are lost.
    Lost {
        /// How many, from [`Item::seq`] on.
        count: u64,
        /// Why, for the backend to read.
        cause: Cow<'static, str>,
        /// The stream of the one record that is lost, where that is known.
        stream: Option<&'a str>,
    },
    /// Sequence numbers whose records the operator's rules left out before a batch was made. No row tells of them.
    Dropped {
        /// How many, from [`Item::seq`] on.
        count: u64,
        /// What they are counted under.
        reason: &'static str,
    },
    /// The session ended here as far as anybody knows; what its ring still held is unknown. Has a number of its own.
    TailUnknown,
}

impl Item<'_> {
    /// How many sequence numbers it stands for.
    pub fn numbers(&self) -> u64 {
        match &self.what {
            What::Lost { count, .. } | What::Dropped { count, .. } => *count,
            What::Record(_) | What::Refused(_) | What::TailUnknown => 1,
        }
    }

    /// The stream that its row belongs to.
    pub fn stream(&self) -> &str {
        match &self.what {
            What::Record(record) => record.stream,
            What::Refused(_) | What::Lost { .. } | What::Dropped { .. } | What::TailUnknown => {
                GAP_STREAM
            }
        }
    }

    /// The lane among `lanes` that this item belongs to.
    pub fn lane(&self, lanes: u32) -> u32 {
        match &self.what {
            What::Record(record) => lane_of(record.stream, lanes),
            What::Lost {
                stream: Some(stream),
                ..
            } => lane_of(stream, lanes),
            What::Refused(_) | What::Lost { .. } | What::Dropped { .. } | What::TailUnknown => {
                lane_of(GAP_STREAM, lanes)
            }
        }
    }

    /// Whether a row tells of it.
    pub fn has_row(&self) -> bool {
        !matches!(self.what, What::Dropped { .. })
    }
}

/// Writes the items of one lane in the form that a sink takes: NDJSON ([`LineWriter`]) or rows of its own.
///
/// A pure function of the items: the same ones in the same order give the same bytes for ever, or else
/// [`RowWriter::version`] goes up and the old version stays while plans name it (CORRECTNESS rule 16).
pub trait RowWriter: std::fmt::Debug + Send + Sync {
    /// The version of its form. A plan pins it.
    fn version(&self) -> u32;

    /// Appends one row for `item` of the slab with `head` to `out`. Always writes one.
    fn write(&mut self, head: &SlabHead, item: &Item<'_>, out: &mut Vec<u8>) -> Written;
}

/// What a [`RowWriter`] wrote.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Written {
    /// A record.
    Record,
    /// A line that tells of refused or lost records.
    Gap,
    /// A line in place of a record whose value cannot be decoded.
    Undecodable,
}

/// Appends text.
pub(super) fn put(out: &mut Vec<u8>, text: std::fmt::Arguments<'_>) {
    // Writing to a Vec cannot fail.
    let _ = out.write_fmt(text);
}

#[cfg(test)]
mod tests;
