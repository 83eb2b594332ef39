//! NDJSON files in a directory: the default sink.
//!
//! ```text
//! uploads/records-1a2b3c4d-00000000000000000017.0000000000.ndjson        complete, never touched again
//! uploads/records-1a2b3c4d-00000000000000004711.0000000003.ndjson.part   being appended to
//! uploads/records-1a2b3c4d-00000000000000000009.0000000000.ndjson.gz     complete, and compressed since
//! uploads/upload.lock                                                    one writer at a time
//! uploads/upload.mark                                                    the position up to which they are complete
//! ```
//! A name holds the start of the group's UUID and the position of the first record, so names sort as records were
//! committed. A file is complete when the next batch begins a new one: it is then renamed, for a plan is committed only
//! when the batch before it is.
//!
//! A plan's `extra` holds file name and offset; each try cuts the file to that offset and writes from there, so a kill
//! between write and commit doubles nothing (CORRECTNESS rule 20). A batch counts as taken when file and directory are
//! fsynced. Who reads all of `*.ndjson`, `*.ndjson.gz` (or `.zst`) and `*.ndjson.part` sees each record once, if of a name that is there plain and
//! compressed only one is read; the last lines of a `.part` may be
//! incomplete, or be cut off and written again (the same bytes), while a batch is being written. Complete files may be
//! moved away or deleted at any time.

mod mark;
mod pack;

use std::fs::{File, OpenOptions, TryLockError};
use std::io::{self, Read, Seek, SeekFrom, Write};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use tracing::warn;
use uuid::Uuid;

use super::{Batch, BoxFuture, Compression, Held, Outcome, PrepareError, Sink};
use crate::platform;
use crate::position::Position;

use mark::Mark;

const PREFIX: &str = "records-";
pub(super) const SUFFIX: &str = ".ndjson";
pub(super) const PART_SUFFIX: &str = ".ndjson.part";
const LOCK_NAME: &str = "upload.lock";

/// Where the files go. The app fills it from `[upload.file]`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct FileSettings {
    /// The directory; made when it is not there. Default `<data_dir>/uploads`.
    pub dir: PathBuf,
    /// A file is complete when it has this many bytes or more. Default 64 MiB.
    pub rotate_bytes: u64,
    /// How complete files are compressed, a while after they are complete.
    pub compression: Compression,
}

/// Appends batches to files. One lane: the files hold all streams in the order of their commits.
#[derive(Clone, Debug)]
pub struct FileSink {
    files: Arc<Files>,
    _end: Arc<End>,
}

/// Ends what goes on behind the sink's back.
#[derive(Debug)]
struct End(Arc<AtomicBool>);

impl Drop for End {
    fn drop(&mut self) {
        self.0.store(true, Ordering::Relaxed);
    }
}

#[derive(Debug)]
struct Files {
    settings: FileSettings,
    /// Held while this process uses the directory, and by every write that is still under way.
    open: Mutex<Option<Open>>,
    /// There may be complete files that are not compressed.
    has_plain: AtomicBool,
    /// Held by who compresses them.
    packing: Mutex<()>,
    /// The sink is gone.
    is_over: Arc<AtomicBool>,
    #[cfg(test)]
    faults: Faults,
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
struct Faults {
    no_truncation: bool,
    /// Bytes that still fit the disk.
    disk_left: Mutex<Option<u64>>,
}

impl FileSink {
    /// Writes below `settings.dir`. Touches nothing yet: what is wrong with the directory shows in the status and is
    /// tried again, since records are safe in the store.
    pub fn new(settings: FileSettings) -> Self {
        Self::of(Files {
            settings,
            open: Mutex::new(None),
            has_plain: AtomicBool::new(true),
            packing: Mutex::default(),
            is_over: Arc::default(),
            #[cfg(test)]
            faults: Faults::default(),
        })
    }

    fn of(files: Files) -> Self {
        let end = Arc::new(End(Arc::clone(&files.is_over)));
        Self {
            files: Arc::new(files),
            _end: end,
        }
    }
}

impl Sink for FileSink {
    fn name(&self) -> &str {
        "file"
    }

    fn prepare<'a>(
        &'a self,
        group: &'a Uuid,
        first: Position,
    ) -> BoxFuture<'a, Result<Vec<u8>, PrepareError>> {
        let (files, group) = (self.files.clone(), *group);
        Box::pin(async move {
            let place = blocking(move || files.place(&group, first)).await;
            place
                .map(|place| place.to_extra())
                .map_err(|error| PrepareError(error.to_string()))
        })
    }

    fn held<'a>(
        &'a self,
        group: &'a Uuid,
        _lane: u32,
    ) -> BoxFuture<'a, Result<Option<Held>, PrepareError>> {
        let (files, group) = (self.files.clone(), *group);
        Box::pin(async move {
            let held = blocking(move || files.held(&group)).await;
            held.map_err(|error: io::Error| PrepareError(error.to_string()))
        })
    }

    fn send<'a>(&'a self, batch: &'a Batch) -> BoxFuture<'a, Outcome> {
        Box::pin(async move {
            let Some(place) = Place::from_extra(&batch.plan.extra) else {
                let reason = format!("the plan {} names no file", batch.key);
                return Outcome::Park { reason };
            };
            let (files, batch) = (self.files.clone(), batch.clone());
            match blocking(move || files.write(&place, &batch)).await {
                Ok(()) => {
                    self.files.pack();
                    Outcome::Taken
                }
                Err(WriteError::Gone(reason)) => Outcome::Replan { reason },
                Err(WriteError::Io(error)) => Outcome::Retry {
                    reason: error.to_string(),
                },
            }
        })
    }
}

/// Runs `work` where blocking harms nobody. It goes on to its end also when this future is dropped.
async fn blocking<T: Send + 'static, E: From<io::Error> + Send + 'static>(
    work: impl FnOnce() -> Result<T, E> + Send + 'static,
) -> Result<T, E> {
    let done = tokio::task::spawn_blocking(work).await;
    done.unwrap_or_else(|error| Err(io::Error::other(error).into()))
}

/// Where a batch goes.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Place {
    offset: u64,
    name: String,
}

impl Place {
    fn to_extra(&self) -> Vec<u8> {
        format!("{} {}", self.offset, self.name).into_bytes()
    }

    fn from_extra(extra: &[u8]) -> Option<Place> {
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

#[derive(Debug)]
enum WriteError {
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
    /// Compresses complete files while others go on. Nobody waits for it.
    fn pack(self: &Arc<Self>) {
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
    fn place(&self, group: &Uuid, first: Position) -> io::Result<Place> {
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
        let Position { index, item } = first;
        Ok(Place {
            offset: 0,
            name: format!("{group_prefix}{index:020}.{item:010}{PART_SUFFIX}"),
        })
    }

    /// Up to which position the group's files are complete. What they hold behind it is of a batch that was being written:
    /// it is cut off, since nobody may know that batch any more.
    fn held(&self, group: &Uuid) -> io::Result<Option<Held>> {
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
        in_context("write", &self.settings.dir.join(mark::MARK_NAME), |_| {
            mark.write(file)
        })
    }

    /// Writes the batch at `place` and makes it durable.
    fn write(&self, place: &Place, batch: &Batch) -> Result<(), WriteError> {
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
        match lock.try_lock() {
            Ok(()) => Ok(open.insert(Open {
                mark: in_context("open", &dir.join(mark::MARK_NAME), |_| Mark::open(dir))?,
                _lock: lock,
                part: None,
            })),
            Err(TryLockError::WouldBlock) => Err(io::Error::other(format!(
                "{} is used by another watchdog; give each its own [upload.file] dir",
                dir.display()
            ))),
            Err(TryLockError::Error(error)) => Err(context("lock", &path, error)),
        }
    }
}

/// What names of a group's files begin with.
fn group_prefix(group: &Uuid) -> String {
    let (first, ..) = group.as_fields();
    format!("{PREFIX}{first:08x}-")
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

fn in_context<T>(
    verb: &str,
    path: &Path,
    work: impl FnOnce(&Path) -> io::Result<T>,
) -> io::Result<T> {
    work(path).map_err(|error| context(verb, path, error))
}

/// Says what was done to what, keeps the kind.
fn context(verb: &str, path: &Path, error: io::Error) -> io::Error {
    let remedy = match error.kind() {
        io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded => {
            "; free space, nothing is lost"
        }
        io::ErrorKind::PermissionDenied | io::ErrorKind::ReadOnlyFilesystem => {
            "; make it writable for the watchdog's user"
        }
        _ => "",
    };
    let text = format!("cannot {verb} {}: {error}{remedy}", path.display());
    io::Error::new(error.kind(), text)
}

#[cfg(test)]
mod tests;
