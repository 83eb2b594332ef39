//! Where a record stands in the committed log.

use serde::{Deserialize, Serialize};

/// Where counting begins in an entry that is lost ([`Position::item`]): behind every frame that it can have held, so that
/// what was uploaded of it stays behind the watermark, and what tells of the loss lies before it.
pub const LOST_ITEM: u32 = 1 << 31;

/// What is known of an entry that is damaged on the disk.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Loss {
    /// So many of its first numbers are left out of what tells of it: they were uploaded before.
    pub taken: u64,
    /// So many more were dealt with before, and nobody knows which: all are told, these are not counted again.
    pub counted: u64,
    /// An earlier process may have told of it.
    pub is_old: bool,
}

/// A record's place: the log entry that holds its slab, and its number inside that slab (from 0).
///
/// Positions order as records were committed. They are unique within a group (which has a UUID, see
/// [`crate::store`]) and are never used again, so a backend may remember them.
#[derive(
    Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize,
)]
pub struct Position {
    /// Index of the log entry.
    pub index: u64,
    /// Number of the frame, counted over all slabs of the entry in their order, from 0.
    pub item: u32,
}
