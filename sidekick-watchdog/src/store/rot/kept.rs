//! What lost entries are read as, beside the log: `log/<index>.lost`.
//!
//! What was uploaded of an entry, and how far its sessions had come, is known best when its loss is found. So what is made
//! of it then is kept: batches that were planned over it are made again byte for byte, whatever happened since.

use std::fs::OpenOptions;
use std::io::{self, Write};
use std::path::{Path, PathBuf};

use bytes::Bytes;

use crate::platform;

const MAGIC: &[u8; 8] = b"SKLOST\r\n";
const VERSION: u8 = 1;
/// Magic, version, whether it is to be applied, whether it was salvaged, five zeros, how many numbers are taken, how many more are counted, crc32 of these 24 bytes
/// and the payload.
const HEAD_BYTES: usize = 36;
const WORDS_BYTES: usize = 24;
const SUFFIX: &str = ".lost";

/// What a lost entry is read as.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Kept {
    /// It is to be applied, too.
    pub(super) is_unapplied: bool,
    /// [`Loss::taken`](crate::position::Loss::taken).
    pub(super) taken: u64,
    /// [`Loss::counted`](crate::position::Loss::counted).
    pub(super) counted: u64,
    /// It is the entry itself, with holes in the place of damaged records: nothing else of it is lost.
    pub(super) is_salvaged: bool,
    /// A batch.
    pub(super) payload: Bytes,
}

fn path(directory: &Path, index: u64) -> PathBuf {
    directory.join(format!("{index:016}{SUFFIX}"))
}

fn crc(head: &[u8], payload: &[u8]) -> [u8; 4] {
    let mut hasher = crc32fast::Hasher::new();
    hasher.update(head);
    hasher.update(payload);
    hasher.finalize().to_le_bytes()
}

/// What was kept for the entry at `index`; `None` where nothing was, or what is there is not what was written.
pub(super) fn read(directory: &Path, index: u64) -> Option<Kept> {
    let bytes = std::fs::read(path(directory, index)).ok()?;
    let (head, payload) = bytes.split_at_checked(HEAD_BYTES)?;
    let (magic, words) = head.split_at_checked(MAGIC.len())?;
    let (words, known) = words.split_at_checked(WORDS_BYTES)?;
    let is_whole =
        magic == MAGIC && words.first() == Some(&VERSION) && known == crc(words, payload);
    is_whole.then(|| Kept {
        is_unapplied: words.get(1) == Some(&1),
        taken: number_at(words, 8),
        counted: number_at(words, 16),
        is_salvaged: words.get(2) == Some(&1),
        payload: Bytes::copy_from_slice(payload),
    })
}

fn number_at(words: &[u8], at: usize) -> u64 {
    let bytes = words.get(at..).and_then(|bytes| bytes.first_chunk());
    u64::from_le_bytes(*bytes.unwrap_or(&[0; 8]))
}

/// Keeps it; it is durable when this returns.
pub(super) fn write(directory: &Path, index: u64, kept: &Kept) -> io::Result<()> {
    let mut words = [0; WORDS_BYTES];
    let flags = [kept.is_unapplied, kept.is_salvaged].map(u8::from);
    words[..3].copy_from_slice(&[VERSION, flags[0], flags[1]]);
    words[8..16].copy_from_slice(&kept.taken.to_le_bytes());
    words[16..].copy_from_slice(&kept.counted.to_le_bytes());
    let path = path(directory, index);
    let temporary = path.with_extension("lost.tmp");
    let mut options = OpenOptions::new();
    options.write(true).create(true).truncate(true);
    let mut file = platform::set_private(&mut options).open(&temporary)?;
    file.write_all(MAGIC)?;
    file.write_all(&words)?;
    file.write_all(&crc(&words, &kept.payload))?;
    file.write_all(&kept.payload)?;
    file.sync_all()?;
    drop(file);
    std::fs::rename(&temporary, &path)?;
    platform::sync_dir(directory)
}

/// Removes what is kept for entries that are not lost, or no longer in the log. What cannot be removed does no harm.
pub(super) fn forget(directory: &Path, is_lost: impl Fn(u64) -> bool) {
    for entry in std::fs::read_dir(directory).into_iter().flatten().flatten() {
        let path = entry.path();
        let name = path.file_name().and_then(|name| name.to_str());
        let index = name.and_then(|name| name.split_once(SUFFIX)?.0.parse().ok());
        if index.is_some_and(|index| !is_lost(index)) {
            let _ = std::fs::remove_file(path);
        }
    }
}
