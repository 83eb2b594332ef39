//! A batch that is being filled.

use tokio::time::Instant;

use super::letter::Buried;
use crate::books::Counts;
use crate::position::Position;
use crate::slab::SlabHead;
use crate::upload::encode::{Item, RowWriter, Written};
use crate::upload::sink::Row;

/// Rows, and what is to be said of them once they are taken.
#[derive(Debug, Default)]
pub(super) struct Draft {
    pub(super) bytes: Vec<u8>,
    /// Where each row is, and whose.
    pub(super) rows: Vec<Row>,
    pub(super) gap_lines: u64,
    /// The version of the rules that it is made with.
    pub(super) rules_version: u32,
    /// What becomes, once it is taken, of everything from `floor` up to and with its last record.
    pub(super) counts: Counts,
    /// The one record that it has, where that shall be kept.
    pub(super) record: Option<Buried>,
    /// The rules refused its one record, with code and reason: nothing is to be sent.
    pub(super) refusal: Option<(&'static str, String)>,
    /// When the first record came.
    pub(super) opened_at: Option<Instant>,
    /// Everything at or before it was looked at before the first record came.
    pub(super) floor: Position,
    /// What became of everything up to and with `floor` that is not settled.
    pub(super) before: Counts,
    /// Nothing more fits.
    pub(super) closed: bool,
}

impl Draft {
    pub(super) fn first(&self) -> Option<Position> {
        self.rows.first().map(|row| row.position)
    }

    pub(super) fn last(&self) -> Option<Position> {
        self.rows.last().map(|row| row.position)
    }

    /// Writes a row for `item`, its end for the caller to note. `None` where it does not fit into `bytes_max`; alone it always does.
    pub(super) fn write(
        &mut self,
        writer: &mut dyn RowWriter,
        head: &SlabHead,
        item: &Item<'_>,
        bytes_max: usize,
    ) -> Option<Written> {
        let start = self.bytes.len();
        let written = writer.write(head, item, &mut self.bytes);
        if self.bytes.len() > bytes_max && start > 0 {
            self.bytes.truncate(start);
            return None;
        }
        self.gap_lines += u64::from(written != Written::Record);
        Some(written)
    }
}
