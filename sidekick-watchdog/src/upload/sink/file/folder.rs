//! The directory of files: appends to the last one, and completes it when the next one begins.

use std::fs::{File, OpenOptions};
use std::io::{self, Read, Seek, SeekFrom, Write};
use std::path::Path;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use tracing::warn;
use uuid::Uuid;

use super::context::{context, in_context};
use super::mark::{MARK_NAME, Mark};
use super::place::{PART_SUFFIX, Place, SUFFIX, group_prefix};
use super::{FileSettings, pack};
use crate::platform;
use crate::position::Position;
use crate::upload::sink::{Batch, Held};

pub(super) const LOCK_NAME: &str = "upload.lock";

/// The directory and what is known of it.
#[derive(Debug)]
pub(super) struct Files {
    settings: FileSettings,
    /// Held while this process uses the directory, and by every write that is still under way.
    open: Mutex<Option<Open>>,
    /// There may be complete files that are not compressed.
    has_plain: AtomicBool,
    /// Held by who compresses them.
    packing: Mutex<()>,
    /// The sink is gone.
    pub(super) is_over: Arc<AtomicBool>,
    #[cfg(test)]
    pub(super) faults: Faults,
}

#[derive(Debug)]
struct Open {
    /// Its lock lasts as long as it.
    _lock: File,
    mark: File,
    /// The `.part` of this group that is being appended to, where that is known.
    part: Option<String>,
}

/// What tests break.
#[cfg(test)]
#[derive(Debug, Default)]
pub(super) struct Faults {
    pub(super) no_truncation: bool,
    /// Bytes that still fit the disk.
    pub(super) disk_left: Mutex<Option<u64>>,
}

/// Why a batch was not written.
#[derive(Debug)]
pub(super) enum WriteError {
    /// The file is not what the plan says: it holds nothing of this batch.
    Gone(String),
    Io(io::Error),
}

impl From<io::Error> for WriteError {
    fn from(error: io::Error) -> Self {
        WriteError::Io(error)
    }
}

impl Files {
    /// Touches nothing yet.
    pub(super) fn new(settings: FileSettings) -> Self {
        Self {
            settings,
            open: Mutex::new(None),
            has_plain: AtomicBool::new(true),
            packing: Mutex::default(),
            is_over: Arc::default(),
            #[cfg(test)]
            faults: Faults::default(),
        }
    }

    /// Compresses complete files while others go on. Nobody waits for it.
    pub(super) fn pack(self: &Arc<Self>) {
        if !self.has_plain.swap(false, Ordering::Relaxed) {
            return;
        }
        let files = Arc::clone(self);
        tokio::task::spawn_blocking(move || {
            let _packing = files.packing.lock().unwrap_or_else(PoisonError::into_inner);
            let FileSettings {
                dir, compression, ..
            } = &files.settings;
            let goes_on = || !files.is_over.load(Ordering::Relaxed);
            if let Err(error) = pack::pack_all(dir, *compression, &goes_on) {
                warn!(%error, "a complete file stays as it is; it is compressed when the next one is complete");
            }
        });
    }

    /// Where the next batch goes: the end of the group's `.part`, or a new file.
    pub(super) fn place(&self, group: &Uuid, first: Position) -> io::Result<Place> {
        let mut guard = self.lock();
        let open = self.open(&mut guard)?;
        let group_prefix = group_prefix(group);
        if open
            .part
            .as_ref()
            .is_none_or(|part| !part.starts_with(&group_prefix))
        {
            open.part = self.parts(&group_prefix)?.pop();
        }
        if let Some(name) = &open.part {
            let end = in_context("look at", &self.settings.dir.join(name), |path| {
                end_of(path)
            })?;
            if let Some(offset) = end.filter(|end| *end < self.settings.rotate_bytes) {
                return Ok(Place {
                    offset,
                    name: name.clone(),
                });
            }
        }
        Ok(Place::new(group, first))
    }

    /// Up to which position the group's files are complete. What they hold behind it is of a batch that was being written:
    /// it is cut off, since nobody may know that batch any more.
    pub(super) fn held(&self, group: &Uuid) -> io::Result<Option<Held>> {
        let mut guard = self.lock();
        self.open(&mut guard)?;
        let dir = &self.settings.dir;
        let Some(mark) = Mark::read(dir).filter(|mark| mark.group == *group) else {
            return Ok(None);
        };
        for part in self.parts(&group_prefix(group))? {
            let end = match part.cmp(&mark.name) {
                std::cmp::Ordering::Less => continue,
                std::cmp::Ordering::Equal => mark.end,
                std::cmp::Ordering::Greater => 0,
            };
            in_context("cut", &dir.join(&part), |path| {
                let file = OpenOptions::new().write(true).open(path)?;
                if file.metadata()?.len() > end {
                    file.set_len(end)?;
                    file.sync_all()?;
                }
                Ok(())
            })?;
        }
        Ok(Some(Held {
            position: mark.held,
            last: Some(mark.last),
        }))
    }

    /// Notes that the files are complete up to and with `batch`, which lies at `place`.
    fn note(&self, file: &File, place: &Place, batch: &Batch) -> io::Result<()> {
        let group = batch
            .key
            .split('/')
            .next()
            .and_then(|group| group.parse().ok());
        let group = group.unwrap_or_default();
        let (held, last) = match batch.replay {
            None => (batch.plan.last, Mark::last_of(&batch.body)),
            // It lies behind the lane's other batches.
            Some(_) => {
                let mark = Mark::read(&self.settings.dir).filter(|mark| mark.group == group);
                mark.map(|mark| (mark.held, mark.last)).unwrap_or_default()
            }
        };
        let mark = Mark {
            group,
            held,
            last,
            name: place.name.clone(),
            end: place.offset + batch.body.len() as u64,
        };
        in_context("write", &self.settings.dir.join(MARK_NAME), |_| {
            mark.write(file)
        })
    }

    /// Writes the batch at `place` and makes it durable.
    pub(super) fn write(&self, place: &Place, batch: &Batch) -> Result<(), WriteError> {
        let body: &[u8] = &batch.body;
        let mut guard = self.lock();
        let open = self.open(&mut guard)?;
        let path = self.settings.dir.join(&place.name);
        if place.offset == 0 {
            self.complete_all_but(&place.name)?;
        }
        let mut options = OpenOptions::new();
        options.read(true).write(true).create(place.offset == 0);
        platform::set_private(&mut options);
        let mut file = match options.open(&path) {
            Ok(file) => file,
            Err(error) if error.kind() == io::ErrorKind::NotFound && place.offset > 0 => {
                open.part = None;
                let path = path.display();
                return Err(WriteError::Gone(format!("{path} was taken away")));
            }
            Err(error) => return Err(context("open", &path, error).into()),
        };
        let bytes = in_context("look at", &path, |_| file.metadata())?.len();
        if bytes < place.offset {
            open.part = None;
            let (path, offset) = (path.display(), place.offset);
            let reason = format!("{path} has {bytes} bytes, {offset} of them were written");
            return Err(WriteError::Gone(reason));
        }
        let written = in_context("write", &path, |_| {
            self.write_at(&mut file, place.offset, body)
        });
        if let Err(error) = written {
            // So that readers see no part of a line meanwhile. The next try cuts it off in any case.
            let _ = file.set_len(place.offset);
            return Err(error.into());
        }
        in_context("sync", &self.settings.dir, platform::sync_dir)?;
        self.note(&open.mark, place, batch)?;
        open.part = Some(place.name.clone());
        Ok(())
    }

    fn write_at(&self, file: &mut File, offset: u64, body: &[u8]) -> io::Result<()> {
        #[cfg(test)]
        if self.faults.no_truncation {
            file.seek(SeekFrom::End(0))?;
            file.write_all(body)?;
            return file.sync_all();
        }
        file.set_len(offset)?;
        file.seek(SeekFrom::Start(offset))?;
        #[cfg(test)]
        self.fill_disk(file, body)?;
        file.write_all(body)?;
        file.sync_all()
    }

    /// Writes as much of `body` as the test's disk holds, and fails if that is not all.
    #[cfg(test)]
    fn fill_disk(&self, file: &mut File, body: &[u8]) -> io::Result<()> {
        let left = *self.faults.disk_left.lock().unwrap();
        let left = left.and_then(|left| body.get(..left as usize));
        let Some(part) = left else { return Ok(()) };
        file.write_all(part)?;
        Err(io::ErrorKind::StorageFull.into())
    }

    /// Renames every `.part` of the group of `name` to its final name, but for `name` itself: a new file is begun, so
    /// all that is in the others is committed as uploaded.
    fn complete_all_but(&self, name: &str) -> io::Result<()> {
        let Some(group_prefix) = name.get(..group_prefix(&Uuid::nil()).len()) else {
            return Ok(());
        };
        let mut renamed = false;
        for part in self.parts(group_prefix)? {
            if part == name {
                continue;
            }
            let from = self.settings.dir.join(&part);
            let complete = part.strip_suffix(PART_SUFFIX).unwrap_or(&part);
            let to = self.settings.dir.join(format!("{complete}{SUFFIX}"));
            let mut names = std::iter::once(to.clone()).chain(pack::packed_names(&to));
            if let Some(there) = names.find(|name| name.try_exists().unwrap_or(true)) {
                let text = format!("{} is there already; move it away", there.display());
                return Err(context("complete", &from, io::Error::other(text)));
            }
            in_context("rename", &from, |from| std::fs::rename(from, &to))?;
            renamed = true;
        }
        if renamed {
            self.has_plain.store(true, Ordering::Relaxed);
            in_context("sync", &self.settings.dir, platform::sync_dir)?;
        }
        Ok(())
    }

    /// The names of the `.part` files that begin with `prefix`, sorted.
    fn parts(&self, prefix: &str) -> io::Result<Vec<String>> {
        let dir = &self.settings.dir;
        let mut parts = Vec::new();
        for entry in in_context("list", dir, |dir| std::fs::read_dir(dir))? {
            if let Ok(name) = in_context("list", dir, |_| entry)?
                .file_name()
                .into_string()
                && name.starts_with(prefix)
                && name.ends_with(PART_SUFFIX)
            {
                parts.push(name);
            }
        }
        parts.sort_unstable();
        Ok(parts)
    }

    fn lock(&self) -> MutexGuard<'_, Option<Open>> {
        // What it guards is found again by looking at the directory.
        self.open.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Makes the directory and takes its lock, once.
    fn open<'a>(&self, open: &'a mut Option<Open>) -> io::Result<&'a mut Open> {
        let dir = &self.settings.dir;
        if open.is_some() && !dir.join(LOCK_NAME).try_exists()? {
            // Somebody removed the directory under us: make it again.
            *open = None;
        }
        if let Some(open) = open {
            return Ok(open);
        }
        in_context("make", dir, platform::create_private_dir)?;
        let path = dir.join(LOCK_NAME);
        let mut options = OpenOptions::new();
        options.write(true).create(true);
        platform::set_private(&mut options);
        let lock = in_context("open", &path, |path| options.open(path))?;
        if !in_context("lock", &path, |_| platform::try_lock(&lock))? {
            return Err(io::Error::other(format!(
                "{} is used by another watchdog; give each its own [upload.file] dir",
                dir.display()
            )));
        }
        Ok(open.insert(Open {
            mark: in_context("open", &dir.join(MARK_NAME), |_| Mark::open(dir))?,
            _lock: lock,
            part: None,
        }))
    }
}

/// The length of the file, if it is there and ends with a whole line.
fn end_of(path: &Path) -> io::Result<Option<u64>> {
    let mut file = match File::open(path) {
        Ok(file) => file,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
        Err(error) => return Err(error),
    };
    let bytes = file.metadata()?.len();
    if bytes > 0 {
        let mut last = [0];
        file.seek(SeekFrom::End(-1))?;
        file.read_exact(&mut last)?;
        if last != *b"\n" {
            return Ok(None);
        }
    }
    Ok(Some(bytes))
}
