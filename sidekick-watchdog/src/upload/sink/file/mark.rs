//! What the file sink holds: `upload.mark`, written over after each batch.
//!
//! Durable before a batch counts as taken: what lies in the files behind it was never settled, or cutting it off would lose what is. It
//! counts only where the log is damaged, since plans tell everything else.

use std::fs::{File, OpenOptions};
use std::io::{self, Write};
use std::path::Path;

use serde_json::Value;
use uuid::Uuid;

use crate::platform;
use crate::position::Position;
use crate::upload::encode::GAP_STREAM;

pub(super) const MARK_NAME: &str = "upload.mark";
/// Written in one piece, always of this length.
const MARK_BYTES: usize = 256;

/// Up to where the files of a group are complete.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Mark {
    pub(super) group: Uuid,
    /// The last row's position.
    pub(super) held: Position,
    /// Whose that row is: the session, and the last number that it tells of.
    pub(super) last: (Uuid, u64),
    /// The file with that row, and where it ends there.
    pub(super) name: String,
    pub(super) end: u64,
}

impl Mark {
    /// The one in `dir`, if there is one that is whole.
    pub(super) fn read(dir: &Path) -> Option<Self> {
        let text = std::fs::read_to_string(dir.join(MARK_NAME)).ok()?;
        let (crc, words) = text.trim_end().split_once(' ')?;
        let is_whole = u32::from_str_radix(crc, 16) == Ok(crc32fast::hash(words.as_bytes()));
        let mut words = words.split(' ').filter(|_| is_whole);
        let mut next = || words.next();
        Some(Self {
            group: next()?.parse().ok()?,
            held: Position {
                index: next()?.parse().ok()?,
                item: next()?.parse().ok()?,
            },
            last: (next()?.parse().ok()?, next()?.parse().ok()?),
            end: next()?.parse().ok()?,
            name: next()?.to_owned(),
        })
    }

    /// Session and last number of the last line of `rows`.
    pub(super) fn last_of(rows: &[u8]) -> (Uuid, u64) {
        let line = rows.strip_suffix(b"\n").unwrap_or(rows);
        let start = line.iter().rposition(|byte| *byte == b'\n');
        let line = line.get(start.map_or(0, |at| at + 1)..).unwrap_or_default();
        let line: Value = serde_json::from_slice(line).unwrap_or_default();
        let epoch = line["epoch"].as_str().and_then(|epoch| epoch.parse().ok());
        let of_gap = match line["stream"] == GAP_STREAM {
            true => line["data"]["last_seq"].as_u64(),
            false => None,
        };
        let seq = of_gap.or_else(|| line["seq"].as_u64());
        (epoch.unwrap_or_default(), seq.unwrap_or_default())
    }

    /// Opens the file that holds it.
    pub(super) fn open(dir: &Path) -> io::Result<File> {
        let mut options = OpenOptions::new();
        options.write(true).create(true).truncate(false);
        platform::set_private(&mut options).open(dir.join(MARK_NAME))
    }

    /// Puts it in the place of the one before.
    pub(super) fn write(&self, file: &File) -> io::Result<()> {
        let Position { index, item } = self.held;
        let (epoch, seq) = self.last;
        let words = format!(
            "{} {index} {item} {epoch} {seq} {} {}",
            self.group, self.end, self.name
        );
        let mut text = format!("{:08x} {words}", crc32fast::hash(words.as_bytes())).into_bytes();
        text.resize(MARK_BYTES - 1, b' ');
        text.write_all(b"\n")?;
        platform::write_all_at(file, &text, 0)?;
        file.sync_data()
    }
}
