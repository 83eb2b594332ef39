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

mod context;
mod folder;
mod mark;
mod pack;
mod place;

use std::io;
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use uuid::Uuid;

use super::{Batch, BoxFuture, Compression, Held, Outcome, PrepareError, Sink};
use crate::position::Position;

use folder::{Files, WriteError};
use place::Place;
pub(super) use place::{PART_SUFFIX, SUFFIX};

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

impl FileSink {
    /// Writes below `settings.dir`. Touches nothing yet: what is wrong with the directory shows in the status and is
    /// tried again, since records are safe in the store.
    pub fn new(settings: FileSettings) -> Self {
        Self::of(Files::new(settings))
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

#[cfg(test)]
mod tests;
