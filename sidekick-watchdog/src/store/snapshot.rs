//! Snapshot files: the state at an index, checksummed, written whole or not at all.
//!
//! A *pending* snapshot (`.pending`) is taken along the way. It is *published* (renamed to `.snap`) when everything at
//! or before its index is uploaded, and only then openraft and other nodes see it (CORRECTNESS 12, 13). Two published
//! ones are kept; the log is purged up to the older one.

use std::collections::BTreeSet;
use std::io::{self, Read, Write};
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use super::StoreError;
use super::codec;
use super::raft::{StoredMembership, TypeConfig};
use super::state::State;
use crate::platform;

const MAGIC: &[u8; 8] = b"SKSNAP\r\n";
const VERSION: u16 = 10;
/// Bytes that versions 2 to 10 added to the end of a state, all of them zeros in an empty one.
const ADDED_BYTES: [usize; 9] = [16, 32, 8, 40, 48, 16, 33, 16, 8];
/// The first version that counts derived records.
const COUNTS_DERIVED: u16 = 4;
/// The first version that keeps books.
const KEEPS_BOOKS: u16 = 6;
const HEAD_BYTES: usize = 24;
/// More pending ones than this are thinned out.
const PENDING_MAX: usize = 64;
/// Published ones that are kept.
const PUBLISHED_KEPT: usize = 2;

/// A snapshot file by its name.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct SnapshotFile {
    /// The last entry in it.
    pub(crate) index: u64,
    pub(crate) published: bool,
    pub(crate) path: PathBuf,
}

/// The directory of snapshots.
#[derive(Clone, Debug)]
pub(crate) struct Snapshots {
    directory: PathBuf,
    /// Damaged ones that could not be renamed away: nobody looks at them again.
    unusable: Arc<Mutex<BTreeSet<PathBuf>>>,
}

/// Wraps an encoded state with magic, version, length and crc.
pub(crate) fn seal(state: &State) -> Result<Vec<u8>, codec::CodecError> {
    let body = codec::encode("the state", state)?;
    let mut bytes = Vec::with_capacity(HEAD_BYTES + body.len());
    bytes.extend_from_slice(MAGIC);
    bytes.extend_from_slice(&VERSION.to_le_bytes());
    bytes.extend_from_slice(&[0; 2]);
    bytes.extend_from_slice(&crc32fast::hash(&body).to_le_bytes());
    bytes.extend_from_slice(&(body.len() as u64).to_le_bytes());
    bytes.extend_from_slice(&body);
    Ok(bytes)
}

/// Checks and decodes what `seal` made.
pub(crate) fn unseal(bytes: &[u8]) -> Result<State, String> {
    if bytes.len() < HEAD_BYTES || &bytes[..8] != MAGIC {
        return Err("it is not a snapshot".to_owned());
    }
    let version = u16::from_le_bytes([bytes[8], bytes[9]]);
    if !(1..=VERSION).contains(&version) {
        return Err(format!(
            "it has version {version}, this program knows {VERSION}"
        ));
    }
    let body = &bytes[HEAD_BYTES..];
    if bytes[16..24] != (body.len() as u64).to_le_bytes() {
        return Err(format!(
            "it is {} bytes, which is not what its head says",
            bytes.len()
        ));
    }
    if bytes[12..16] != crc32fast::hash(body).to_le_bytes() {
        return Err("its checksum is wrong".to_owned());
    }
    let decode = |body: &[u8]| codec::decode("the state", body).map_err(|error| error.to_string());
    if version == VERSION {
        return decode(body);
    }
    let missing = ADDED_BYTES.iter().skip(usize::from(version) - 1).sum();
    let mut state = decode(&[body, &vec![0; missing]].concat())?;
    if version < COUNTS_DERIVED {
        state.count_derived();
    }
    if version < KEEPS_BOOKS {
        state.open_books();
    }
    Ok(state)
}

impl Snapshots {
    /// Opens the directory, which must exist, and removes what a crash left half-written.
    pub(crate) fn open(directory: &Path) -> io::Result<Self> {
        for entry in std::fs::read_dir(directory)? {
            let entry = entry?;
            if entry.file_name().to_string_lossy().ends_with(".tmp") {
                std::fs::remove_file(entry.path())?;
            }
        }
        Ok(Self {
            directory: directory.to_owned(),
            unusable: Arc::default(),
        })
    }

    /// The snapshots of a store that somebody else may have open; nothing is changed.
    pub(crate) fn beside(directory: &Path) -> Self {
        Self {
            directory: directory.to_owned(),
            unusable: Arc::default(),
        }
    }

    pub(crate) fn directory(&self) -> &Path {
        &self.directory
    }

    fn unusable(&self) -> MutexGuard<'_, BTreeSet<PathBuf>> {
        self.unusable.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// All snapshots, lowest index first.
    pub(crate) fn list(&self) -> io::Result<Vec<SnapshotFile>> {
        let mut files = Vec::new();
        let unusable = self.unusable().clone();
        for entry in std::fs::read_dir(&self.directory)? {
            let path = entry?.path();
            if unusable.contains(&path) {
                continue;
            }
            let Some(name) = path.file_name().and_then(|name| name.to_str()) else {
                continue;
            };
            let (stem, published) =
                match (name.strip_suffix(".snap"), name.strip_suffix(".pending")) {
                    (Some(stem), _) => (stem, true),
                    (_, Some(stem)) => (stem, false),
                    _ => continue,
                };
            if let Ok(index) = stem.parse() {
                files.push(SnapshotFile {
                    index,
                    published,
                    path,
                });
            }
        }
        files.sort();
        Ok(files)
    }

    fn path(&self, index: u64, published: bool) -> PathBuf {
        let kind = if published { "snap" } else { "pending" };
        self.directory.join(format!("{index:016}.{kind}"))
    }

    /// Writes a sealed state; it is durable when this returns.
    pub(crate) fn write(&self, index: u64, published: bool, bytes: &[u8]) -> io::Result<()> {
        let temporary = self.directory.join(format!("{index:016}.tmp"));
        let mut options = std::fs::OpenOptions::new();
        options.write(true).create(true).truncate(true);
        let mut file = platform::set_private(&mut options).open(&temporary)?;
        file.write_all(bytes)?;
        file.sync_all()?;
        drop(file);
        let path = self.path(index, published);
        std::fs::rename(&temporary, &path)?;
        // Whatever was wrong with one of that name is gone.
        self.unusable().remove(&path);
        self.sync()
    }

    fn sync(&self) -> io::Result<()> {
        platform::sync_dir(&self.directory)
    }

    /// Reads and checks one; `Err` with what is wrong with it.
    fn look(file: &SnapshotFile) -> Result<(Vec<u8>, State), String> {
        let mut bytes = Vec::new();
        let state = std::fs::File::open(&file.path)
            .and_then(|mut open| open.read_to_end(&mut bytes))
            .map_err(|error| error.to_string())
            .and_then(|_| unseal(&bytes))?;
        match &state.last_applied {
            Some(id) if id.index == file.index => Ok((bytes, state)),
            _ => Err("it holds another index than its name says".to_owned()),
        }
    }

    /// The newest whole state from `purged` on and below the entry at `index`; an empty one where nothing is purged.
    pub(crate) fn before(&self, purged: Option<u64>, index: u64) -> io::Result<Option<State>> {
        let fits = |file: &&SnapshotFile| {
            file.index < index && purged.is_none_or(|purged| file.index >= purged)
        };
        let files = self.list()?;
        let mut files = files.iter().rev().filter(fits);
        let found = files.find_map(|file| Self::look(file).ok());
        Ok(match (found, purged) {
            (Some((_, state)), _) => Some(state),
            (None, None) => Some(State::default()),
            (None, Some(_)) => None,
        })
    }

    /// Reads and checks one; a damaged one is renamed aside and told.
    pub(crate) fn read(&self, file: &SnapshotFile) -> Option<(Vec<u8>, State)> {
        let result = Self::look(file);
        match result {
            Ok(read) => Some(read),
            Err(cause) => {
                let mut aside = file.path.clone().into_os_string();
                aside.push(".bad");
                match std::fs::rename(&file.path, aside) {
                    Ok(()) => {
                        tracing::warn!(path = ?file.path, %cause, "snapshot unusable; set aside");
                    }
                    Err(error) => {
                        tracing::warn!(
                            path = ?file.path,
                            %cause,
                            %error,
                            "snapshot unusable, and it cannot be renamed; ignored from now on, remove it by hand"
                        );
                        self.unusable().insert(file.path.clone());
                    }
                }
                None
            }
        }
    }

    /// The newest published one that is whole.
    pub(crate) fn newest_published(&self) -> io::Result<Option<(Vec<u8>, State)>> {
        let files = self.list()?;
        Ok(files
            .iter()
            .rev()
            .filter(|file| file.published)
            .find_map(|file| self.read(file)))
    }

    /// The highest pending index at or before `uploaded` and above every published one.
    fn publishable(&self, uploaded: u64) -> io::Result<Option<SnapshotFile>> {
        let files = self.list()?;
        let published = files
            .iter()
            .filter(|file| file.published)
            .map(|file| file.index)
            .max();
        Ok(files
            .into_iter()
            .rev()
            .find(|file| !file.published && file.index <= uploaded && Some(file.index) > published))
    }

    /// Publishes the newest pending one that is whole and at or before `uploaded`, if there is one to publish.
    pub(crate) fn publish_newest(&self, uploaded: u64) -> io::Result<Option<SnapshotFile>> {
        // Ends: a damaged one is renamed or ignored.
        while let Some(file) = self.publishable(uploaded)? {
            if self.publish(&file)? {
                return Ok(Some(file));
            }
        }
        Ok(None)
    }

    /// Publishes `file` if it is whole.
    fn publish(&self, file: &SnapshotFile) -> io::Result<bool> {
        if self.read(file).is_none() {
            return Ok(false);
        }
        std::fs::rename(&file.path, self.path(file.index, true))?;
        self.sync()?;
        Ok(true)
    }

    /// Up to where the log may be purged: the older of two whole published snapshots. Removes what is no longer needed.
    pub(crate) fn purge_point(&self) -> io::Result<Option<u64>> {
        let mut whole = Vec::new();
        for file in self.list()?.into_iter().rev().filter(|file| file.published) {
            if whole.len() == PUBLISHED_KEPT {
                std::fs::remove_file(&file.path)?;
            } else if self.read(&file).is_some() {
                whole.push(file.index);
            }
        }
        // After a jump of the watermarks (a sink was taken out of the configuration) only the newest was published.
        // Everything before it is uploaded too, and with a full log no further one would ever be taken.
        if let [newest] = whole[..] {
            let earlier = |file: &SnapshotFile| !file.published && file.index < newest;
            for file in self.list()?.into_iter().rev().filter(earlier) {
                if self.publish(&file)? {
                    whole.push(file.index);
                    break;
                }
            }
        }
        if whole.len() < PUBLISHED_KEPT {
            return Ok(None);
        }
        // Pending ones before the newest published one will never be published.
        for file in self.list()?.into_iter().filter(|file| !file.published) {
            if file.index <= whole[0] {
                std::fs::remove_file(&file.path)?;
            }
        }
        Ok(whole.last().copied())
    }

    /// Drops every second pending one when there are too many; any of them will do for a restart.
    pub(crate) fn thin_out(&self) -> io::Result<()> {
        let pending: Vec<_> = self
            .list()?
            .into_iter()
            .filter(|file| !file.published)
            .collect();
        if pending.len() > PENDING_MAX {
            for file in pending.iter().skip(1).step_by(2) {
                std::fs::remove_file(&file.path)?;
            }
        }
        Ok(())
    }
}

/// The snapshot as openraft sees it.
pub(crate) fn to_raft(bytes: Vec<u8>, state: &State) -> openraft::Snapshot<TypeConfig> {
    let membership: StoredMembership = state.membership.clone();
    openraft::Snapshot {
        meta: openraft::SnapshotMeta {
            last_log_id: state.last_applied,
            last_membership: membership,
            snapshot_id: state
                .last_applied
                .map_or_else(String::new, |id| id.to_string()),
        },
        snapshot: Box::new(bytes),
    }
}

impl Snapshots {
    /// The newest state from which the log can be replayed: not behind the purge point, and only a published one may
    /// be ahead of the log.
    pub(crate) fn base(
        &self,
        purged: Option<u64>,
        last: Option<u64>,
    ) -> Result<Option<State>, StoreError> {
        let files = self
            .list()
            .map_err(|error| StoreError::io("cannot list", &self.directory, error))?;
        let fits = |file: &&SnapshotFile| {
            purged.is_none_or(|purged| file.index >= purged)
                && (file.published || Some(file.index) <= last)
        };
        Ok(files
            .iter()
            .rev()
            .filter(fits)
            .find_map(|file| self.read(file))
            .map(|(_, state)| state))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The state as that version wrote it: what was added later is not there.
    fn as_of(version: u16, state: &State) -> Vec<u8> {
        let mut old = seal(state).unwrap();
        let added: usize = ADDED_BYTES.iter().skip(usize::from(version) - 1).sum();
        old.truncate(old.len() - added);
        let body = &old[HEAD_BYTES..];
        let (crc, len) = (crc32fast::hash(body), body.len() as u64);
        old[8..10].copy_from_slice(&version.to_le_bytes());
        old[12..16].copy_from_slice(&crc.to_le_bytes());
        old[16..24].copy_from_slice(&len.to_le_bytes());
        old
    }

    /// Old versions are what ended before the fields that were added at the end.
    #[test]
    fn snapshots_of_old_versions_are_read() {
        use super::super::command::Command;
        let mut state = State::default();
        let group = uuid::Uuid::from_u128(7);
        state.apply(1, vec![Command::Init { group }]);
        assert_eq!(unseal(&as_of(1, &state)).unwrap(), state);
        assert_eq!(unseal(&as_of(2, &state)).unwrap(), state);
        assert_eq!(unseal(&as_of(3, &state)).unwrap(), state);
        // Version 3 did not count derived records; those that it remembers are counted.
        for epoch in 1..=3 {
            let head = crate::slab::SlabHead {
                source: "s".to_owned(),
                epoch: uuid::Uuid::from_u128(epoch),
                incarnation: 1,
                realtime_offset_ns: 0,
                first_seq: 1,
                count: 1,
                checkpoint: crate::slab::RingCheckpoint::default(),
            };
            let frames_bytes = 0;
            state.apply(2, vec![Command::Derived { head, frames_bytes }]);
        }
        // Nor did it know which entry was the last to bring something; the last one of all will do.
        let mut opened = state.clone();
        opened.open_books();
        let read = unseal(&as_of(3, &state)).unwrap();
        assert_eq!(read, opened);
        assert_eq!(read.derived_records(), 3);
        assert_eq!(unseal(&as_of(4, &state)).unwrap(), opened);
        assert_eq!(unseal(&as_of(5, &state)).unwrap(), opened);
        assert_eq!(unseal(&as_of(6, &state)).unwrap(), state);
        assert_eq!(unseal(&as_of(7, &state)).unwrap(), state);
        assert_eq!(unseal(&as_of(8, &state)).unwrap(), state);
        assert_eq!(unseal(&as_of(9, &state)).unwrap(), state);
        let mut newer = as_of(VERSION, &state);
        assert_eq!(unseal(&newer).unwrap(), state);
        newer[8] = VERSION as u8 + 1;
        assert!(unseal(&newer).unwrap_err().contains("version 11"));
    }

    /// What version 2 wrote, byte by byte: no entry applied, no members, group 7, and nothing else.
    #[test]
    fn the_bytes_of_version_2_do_not_change() {
        let mut state = State::default();
        let group = uuid::Uuid::from_u128(7);
        state.apply(1, vec![super::super::command::Command::Init { group }]);
        let body = &as_of(2, &state)[HEAD_BYTES..];
        let group = [vec![1], 16_u64.to_le_bytes().to_vec(), vec![0; 15], vec![7]].concat();
        let golden = [vec![0; 18], group, vec![0; 48]].concat();
        assert_eq!(body, golden);
    }

    /// A damaged one whose place aside is taken: what cannot be renamed is not looked at for ever.
    #[test]
    fn a_damaged_snapshot_that_cannot_be_renamed_is_passed_over() {
        let dir = tempfile::tempdir().unwrap();
        let snapshots = Snapshots::open(dir.path()).unwrap();
        let write = |index| {
            let (term, node) = (1, 1);
            let id = super::super::wal::EntryId { term, node, index };
            let mut state = State::default();
            state.last_applied = Some(super::super::raft::log_id(id));
            let bytes = seal(&state).unwrap();
            snapshots.write(index, false, &bytes).unwrap();
        };
        write(5);
        write(7);
        let path = snapshots.path(7, false);
        std::fs::write(&path, b"no snapshot").unwrap();
        std::fs::create_dir_all(path.with_extension("pending.bad").join("full")).unwrap();
        let published = snapshots.publish_newest(9).unwrap();
        assert_eq!(published.map(|file| file.index), Some(5));
        assert!(path.exists());
        assert_eq!(snapshots.publish_newest(9).unwrap(), None);
        // Written anew, it counts again.
        write(7);
        let published = snapshots.publish_newest(9).unwrap();
        assert_eq!(published.map(|file| file.index), Some(7));
    }
}
