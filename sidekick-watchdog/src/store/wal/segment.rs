//! One file of the log: its header page, its name, its pre-zeroed space.

use std::fs::{File, OpenOptions};
use std::io;
use std::path::{Path, PathBuf};

use uuid::Uuid;

use super::frame::broken;
use super::mend::{IsWhole, Mender, change_of_crc, changes_of};
use crate::platform;

/// Frames begin here; the header has a page of its own, which is never written again.
pub(crate) const HEADER_BYTES: u64 = 4096;
const MAGIC: &[u8; 8] = b"SKWAL\r\n\x1a";
/// The version of header and frames. A higher one is refused with a clear message.
pub(crate) const WAL_VERSION: u16 = 1;
const HEADER_USED: usize = 60;
/// The crc of what lies before it.
const HEADER_CRC_AT: usize = HEADER_USED - 4;

/// What a segment's header says.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Header {
    pub(crate) number: u64,
    pub(crate) salt: u64,
    pub(crate) node: u64,
    /// One UUID for all segments of a log, so that a file of another log is noticed.
    pub(crate) log: Uuid,
}

/// Why a header was refused.
#[derive(Debug)]
pub(crate) enum HeaderFault {
    Damaged,
    Newer(u16),
}

impl Header {
    pub(crate) fn encode(&self) -> Vec<u8> {
        let mut page = vec![0; HEADER_BYTES as usize];
        page[..8].copy_from_slice(MAGIC);
        page[8..10].copy_from_slice(&WAL_VERSION.to_le_bytes());
        page[16..24].copy_from_slice(&self.number.to_le_bytes());
        page[24..32].copy_from_slice(&self.salt.to_le_bytes());
        page[32..40].copy_from_slice(&self.node.to_le_bytes());
        page[40..56].copy_from_slice(self.log.as_bytes());
        let crc = crc32fast::hash(&page[..HEADER_CRC_AT]);
        page[HEADER_CRC_AT..HEADER_USED].copy_from_slice(&crc.to_le_bytes());
        page
    }

    /// The header, and the place of the byte in it that had to be mended, if one had.
    pub(crate) fn read(page: &[u8]) -> Result<(Self, Option<u64>), HeaderFault> {
        Self::decode(page).map_or_else(
            |fault| Self::mend(page).ok_or(fault),
            |header| Ok((header, None)),
        )
    }

    /// What it was, if all of it but one byte is what was written.
    fn mend(page: &[u8]) -> Option<(Self, Option<u64>)> {
        if broken::get(broken::Without::Mending) {
            return None;
        }
        let mut header = page.get(..HEADER_USED)?.to_vec();
        let (covered, crc) = header.split_last_chunk()?;
        let difference = crc32fast::hash(covered) ^ u32::from_le_bytes(*crc);
        let in_crc =
            change_of_crc(difference).map(|(place, change)| (HEADER_CRC_AT + place, change));
        let mut found = None;
        for (place, change) in changes_of(HEADER_CRC_AT, difference).chain(in_crc) {
            header[place] ^= change;
            if let Ok(mended) = Self::decode(&header)
                && found.replace((mended, Some(place as u64))).is_some()
            {
                return None;
            }
            header[place] ^= change;
        }
        found
    }

    fn decode(page: &[u8]) -> Result<Self, HeaderFault> {
        if page.len() < HEADER_USED || &page[..8] != MAGIC {
            return Err(HeaderFault::Damaged);
        }
        let version = u16::from_le_bytes([page[8], page[9]]);
        if version > WAL_VERSION {
            return Err(HeaderFault::Newer(version));
        }
        let word = |at: usize| {
            let mut word = [0; 8];
            word.copy_from_slice(&page[at..at + 8]);
            u64::from_le_bytes(word)
        };
        let crc = crc32fast::hash(&page[..HEADER_CRC_AT]).to_le_bytes();
        if crc != page[HEADER_CRC_AT..HEADER_USED] || version != WAL_VERSION {
            return Err(HeaderFault::Damaged);
        }
        let mut log = [0; 16];
        log.copy_from_slice(&page[40..56]);
        Ok(Self {
            number: word(16),
            salt: word(24),
            node: word(32),
            log: Uuid::from_bytes(log),
        })
    }
}

/// A segment that holds frames, shared with readers.
#[derive(Debug)]
pub(crate) struct Segment {
    pub(crate) number: u64,
    pub(crate) salt: u64,
    pub(crate) file: File,
    pub(super) is_whole: IsWhole,
}

impl Segment {
    /// What mends its frames, of a file that has so many bytes now.
    pub(super) fn mender(&self, file_bytes: u64) -> Mender<'_> {
        Mender {
            file: &self.file,
            file_bytes,
            salt: self.salt,
            is_whole: self.is_whole,
        }
    }
}

/// The file name of segment `number`.
pub(crate) fn segment_name(number: u64) -> String {
    format!("{number:016}.wal")
}

/// The segment number that a file name tells.
pub(crate) fn parse_segment_name(name: &str) -> Option<u64> {
    let digits = name.strip_suffix(".wal")?;
    if digits.len() != 16 || !digits.bytes().all(|byte| byte.is_ascii_digit()) {
        return None;
    }
    digits.parse().ok()
}

/// The file name of a spare: space that was written before and waits for use.
pub(crate) fn spare_name(number: u64) -> String {
    format!("{number:016}.spare")
}

pub(crate) fn open_rw(path: &Path, create: bool) -> io::Result<File> {
    let mut options = OpenOptions::new();
    options.read(true).write(true).create(create);
    platform::set_private(&mut options).open(path)
}

/// Opens a file to look at it only.
pub(crate) fn open_ro(path: &Path) -> io::Result<File> {
    File::open(path)
}

pub(crate) fn read_exact_at(file: &File, mut buffer: &mut [u8], mut offset: u64) -> io::Result<()> {
    while !buffer.is_empty() {
        match platform::read_at(file, buffer, offset) {
            Ok(0) => return Err(io::ErrorKind::UnexpectedEof.into()),
            Ok(n) => {
                buffer = &mut buffer[n..];
                offset += n as u64;
            }
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(error) => return Err(error),
        }
    }
    Ok(())
}

pub(crate) fn write_all_at(file: &File, buffer: &[u8], offset: u64) -> io::Result<()> {
    platform::write_all_at(file, buffer, offset)
}

/// Makes creations and renames in `directory` durable.
pub(crate) fn sync_directory(directory: &Path) -> io::Result<()> {
    platform::sync_dir(directory)
}

/// Segment files by number.
pub(crate) type Numbered = Vec<(u64, PathBuf)>;

/// The log's files in `directory`: segments by number, and spares.
pub(crate) fn list(directory: &Path) -> io::Result<(Numbered, Vec<PathBuf>)> {
    let mut segments = Vec::new();
    let mut spares = Vec::new();
    for entry in std::fs::read_dir(directory)? {
        let entry = entry?;
        let name = entry.file_name();
        let Some(name) = name.to_str() else { continue };
        if let Some(number) = parse_segment_name(name) {
            segments.push((number, entry.path()));
        } else if name.ends_with(".spare") {
            spares.push(entry.path());
        }
    }
    segments.sort();
    Ok((segments, spares))
}
