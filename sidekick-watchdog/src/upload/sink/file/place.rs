//! Where a batch lies: in which file, and from which byte on.

use uuid::Uuid;

use crate::position::Position;

/// What names of all files begin with.
pub(super) const PREFIX: &str = "records-";
/// What names of complete files end with.
pub(in crate::upload::sink) const SUFFIX: &str = ".ndjson";
/// What the name of a file ends with that is being appended to.
pub(in crate::upload::sink) const PART_SUFFIX: &str = ".ndjson.part";

/// Where a batch goes.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Place {
    pub(super) offset: u64,
    pub(super) name: String,
}

impl Place {
    /// The beginning of a new file, whose first record is the one at `first`.
    pub(super) fn new(group: &Uuid, first: Position) -> Self {
        let Position { index, item } = first;
        let group_prefix = group_prefix(group);
        Self {
            offset: 0,
            name: format!("{group_prefix}{index:020}.{item:010}{PART_SUFFIX}"),
        }
    }

    pub(super) fn to_extra(&self) -> Vec<u8> {
        format!("{} {}", self.offset, self.name).into_bytes()
    }

    pub(super) fn from_extra(extra: &[u8]) -> Option<Place> {
        let (offset, name) = std::str::from_utf8(extra).ok()?.split_once(' ')?;
        let plain = name.starts_with(PREFIX)
            && name.ends_with(PART_SUFFIX)
            && name
                .bytes()
                .all(|b| b.is_ascii_alphanumeric() || b == b'-' || b == b'.');
        plain.then_some(Place {
            offset: offset.parse().ok()?,
            name: name.to_owned(),
        })
    }
}

/// What names of a group's files begin with.
pub(super) fn group_prefix(group: &Uuid) -> String {
    let (first, ..) = group.as_fields();
    format!("{PREFIX}{first:08x}-")
}
