//! The side of the log that writes; owned by its thread.

use std::io;
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

use bytes::Bytes;
use uuid::Uuid;

mod space;

use super::batch::PendingBatch;
use super::frame::{
    EntryId, FLAG_BATCH_START, FRAME_HEAD_BYTES, Kind, PAYLOAD_BYTES_MAX, frame_bytes,
};
use super::recovery::Recovered;
use super::segment::{HEADER_BYTES, Segment, list, open_rw, spare_name};
use super::{Job, Shared, Vote, WalError, WalOptions};

const SEAL_BYTES: u64 = FRAME_HEAD_BYTES as u64;
/// Room that every segment keeps for its seal and the small frames of a batch.
const SLACK_BYTES: u64 = 1024;
/// Steps of a delay that a test asks for.
const DELAY_STEP: Duration = Duration::from_millis(1);

/// What a written batch changes for readers.
enum Effect {
    Entry {
        index: u64,
        segment: u64,
        offset: u64,
    },
    Vote(Vote),
    Truncate(EntryId),
    Purge(EntryId),
}

pub(crate) struct Writer {
    options: WalOptions,
    shared: Arc<Shared>,
    node: u64,
    log: Uuid,
    current: Arc<Segment>,
    capacity: u64,
    position: u64,
    /// Bytes of the current file that were written once.
    zeroed: u64,
    previous: u32,
    pending: PendingBatch,
    effects: Vec<Effect>,
    vote: Option<Vote>,
    purged: Option<EntryId>,
    committed: Option<EntryId>,
    spares: Vec<PathBuf>,
    /// An error left the files in a state that only recovery understands.
    broken: bool,
}

impl Writer {
    pub(crate) fn open(
        options: &WalOptions,
        recovered: &Recovered,
        shared: Arc<Shared>,
        node: u64,
    ) -> Result<Self, WalError> {
        let io = |error| WalError::io("cannot write the log in", &options.directory, error);
        let (_, spares) = list(&options.directory).map_err(io)?;
        let mut writer = Self {
            options: options.clone(),
            shared,
            node,
            log: if recovered.tail.is_some() {
                recovered.log
            } else {
                Uuid::new_v4()
            },
            // For a new log this is the file that `next_segment` is about to complete.
            current: recovered.segments.values().next_back().map_or_else(
                || {
                    let path = options.directory.join(spare_name(1));
                    open_rw(&path, true)
                        .map(|file| {
                            Arc::new(Segment {
                                number: 0,
                                salt: 0,
                                file,
                                is_whole: options.is_whole,
                            })
                        })
                        .map_err(io)
                },
                |segment| Ok(Arc::clone(segment)),
            )?,
            capacity: options.segment_bytes,
            position: HEADER_BYTES,
            zeroed: 0,
            previous: 0,
            pending: PendingBatch::default(),
            effects: Vec::new(),
            vote: recovered.vote,
            purged: recovered.purged,
            committed: recovered.committed,
            spares,
            broken: false,
        };
        match recovered.tail {
            Some(tail) => {
                writer.position = tail.position;
                writer.previous = tail.previous;
                writer.zeroed = tail.file_bytes;
                writer.capacity = options.segment_bytes.max(tail.file_bytes);
                if tail.sealed {
                    writer.next_segment(tail.number + 1, 0).map_err(io)?;
                }
            }
            None => writer.next_segment(1, 0).map_err(io)?,
        }
        writer.count_bytes();
        Ok(writer)
    }

    pub(crate) fn shared(&self) -> &Shared {
        &self.shared
    }

    pub(crate) fn is_broken(&self) -> bool {
        self.broken
    }

    pub(crate) fn current(&self) -> &Arc<Segment> {
        &self.current
    }

    /// Removes segments that are no longer needed, as a crash during a purge leaves them.
    pub(crate) fn clean_up(&mut self) -> Result<(), WalError> {
        self.release_segments().map_err(|error| {
            WalError::io("cannot clean up the log in", &self.options.directory, error)
        })
    }

    /// Writes all jobs, fsyncs, publishes to readers, calls back. On an error the unanswered jobs stay in `jobs`.
    pub(crate) fn write(&mut self, jobs: &mut Vec<Job>, stop: bool) -> io::Result<()> {
        let only_prepare = jobs.iter().all(|job| matches!(job, Job::Prepare { .. }));
        if only_prepare {
            for job in jobs.drain(..) {
                if let Job::Prepare { bytes, done } = job {
                    done(self.prepare(bytes));
                }
            }
            return Ok(());
        }
        let committed = self.shared.lock().committed;
        if committed > self.committed
            && let Some(id) = committed
        {
            self.put(Kind::Committed, id, &Bytes::new())?;
            self.committed = committed;
        }
        let mut purges = false;
        for job in jobs.iter() {
            match job {
                Job::Append { entries, .. } => {
                    for entry in entries {
                        self.put(entry.kind, entry.id, &entry.payload)?;
                    }
                }
                Job::Vote { vote, .. } => {
                    self.vote = Some(*vote);
                    let id = EntryId {
                        term: vote.term,
                        node: vote.node,
                        index: 0,
                    };
                    self.put(Kind::Vote, id, &Bytes::from(vec![u8::from(vote.committed)]))?;
                    self.effects.push(Effect::Vote(*vote));
                }
                Job::Truncate { since, .. } => {
                    self.put(Kind::Truncate, *since, &Bytes::new())?;
                    self.effects.push(Effect::Truncate(*since));
                }
                Job::Purge { upto, .. } => {
                    self.purged = self.purged.max(Some(*upto));
                    self.put(Kind::Purge, *upto, &Bytes::new())?;
                    self.effects.push(Effect::Purge(*upto));
                    purges = true;
                }
                Job::Prepare { .. } | Job::Stop => {}
            }
        }
        // The last word before a stop may be `committed` alone.
        if !self.pending.is_empty() || stop {
            self.flush()?;
        }
        self.publish();
        if purges {
            self.release_segments()?;
        }
        for job in jobs.drain(..) {
            match job {
                Job::Prepare { bytes, done } => done(self.prepare(bytes)),
                job => super::finish(job, &Ok(())),
            }
        }
        Ok(())
    }

    fn put(&mut self, kind: Kind, id: EntryId, payload: &Bytes) -> io::Result<()> {
        if payload.len() > PAYLOAD_BYTES_MAX {
            return Err(io::Error::other(format!(
                "an entry of {} bytes, the limit is {PAYLOAD_BYTES_MAX}",
                payload.len()
            )));
        }
        let need = frame_bytes(payload.len()) as u64;
        if self.position + self.pending.bytes() + need + SEAL_BYTES > self.capacity {
            self.roll(need)?;
        }
        let offset = self.position + self.pending.bytes();
        let flags = if self.pending.is_empty() {
            FLAG_BATCH_START
        } else {
            0
        };
        let salt = self.current.salt;
        self.previous = self
            .pending
            .put(salt, self.previous, kind, flags, id, payload);
        if kind.is_entry() {
            self.effects.push(Effect::Entry {
                index: id.index,
                segment: self.current.number,
                offset,
            });
            // SYNC: a counter.
            self.shared.counters.entries.fetch_add(1, Ordering::Relaxed);
        }
        Ok(())
    }

    /// Writes the buffer and fsyncs it.
    fn flush(&mut self) -> io::Result<()> {
        if self.pending.is_empty() {
            return Ok(());
        }
        self.extend(self.position + self.pending.bytes())?;
        self.pending.write(&self.current.file, self.position)?;
        self.sync()?;
        self.position += self.pending.bytes();
        // SYNC: counters.
        self.shared
            .counters
            .bytes
            .fetch_add(self.pending.bytes(), Ordering::Relaxed);
        self.pending.clear();
        self.tell_room();
        Ok(())
    }

    fn sync(&self) -> io::Result<()> {
        let started = Instant::now();
        self.current.file.sync_data()?;
        let faults = &self.options.faults;
        // SYNC: test switches and counters.
        assert!(
            !faults.panics.load(Ordering::Relaxed),
            "the log's thread panics on purpose"
        );
        // In steps: who takes the delay away ends it.
        let left = || {
            let delay = Duration::from_micros(faults.sync_delay_us.load(Ordering::Relaxed));
            delay.checked_sub(started.elapsed())
        };
        while let Some(left) = left().filter(|left| !left.is_zero()) {
            std::thread::sleep(left.min(DELAY_STEP));
        }
        if faults.syncs_left.load(Ordering::Relaxed) != u64::MAX
            && faults
                .syncs_left
                .fetch_update(Ordering::Relaxed, Ordering::Relaxed, |left| {
                    left.checked_sub(1)
                })
                .is_err()
        {
            return Err(io::Error::other("fdatasync failed on purpose"));
        }
        let counters = &self.shared.counters;
        counters.syncs.fetch_add(1, Ordering::Relaxed);
        let took = u64::try_from(started.elapsed().as_micros()).unwrap_or(u64::MAX);
        counters.last_sync_us.store(took, Ordering::Relaxed);
        Ok(())
    }

    /// Lets readers see what was written.
    fn publish(&mut self) {
        let mut inner = self.shared.lock();
        for effect in self.effects.drain(..) {
            match effect {
                Effect::Entry {
                    index,
                    segment,
                    offset,
                } => {
                    if inner.index.push(index, segment, offset).is_err() {
                        // openraft promises not to leave holes; recovery would refuse one.
                        tracing::error!(index, "an entry does not continue the log");
                    }
                    inner.written = index;
                }
                Effect::Vote(vote) => inner.vote = Some(vote),
                Effect::Truncate(since) => {
                    inner.index.truncate(since.index);
                    inner.lost.retain(|index, _| *index < since.index);
                    while inner
                        .cache
                        .back()
                        .is_some_and(|entry| entry.id.index >= since.index)
                    {
                        if let Some(entry) = inner.cache.pop_back() {
                            inner.cache_bytes -= entry.payload.len();
                        }
                    }
                    inner.written = inner.index.bounds().map_or(0, |(_, last)| last);
                    inner.last = None;
                }
                Effect::Purge(upto) => {
                    inner.index.purge(upto.index);
                    inner.lost.retain(|index, _| *index > upto.index);
                    inner.purged = inner.purged.max(Some(upto));
                    while inner
                        .cache
                        .front()
                        .is_some_and(|entry| entry.id.index <= upto.index)
                    {
                        if let Some(entry) = inner.cache.pop_front() {
                            inner.cache_bytes -= entry.payload.len();
                        }
                    }
                    if inner.last.is_none_or(|last| last.index <= upto.index) {
                        inner.last = inner.purged;
                    }
                }
            }
        }
        let limit = self.shared.cache_limit;
        inner.shrink_cache(limit);
        let refresh = inner.last.is_none().then(|| inner.index.bounds()).flatten();
        drop(inner);
        // After a truncation the new last entry's id has to be looked up.
        if let Some((_, last)) = refresh {
            match super::read::read_one(&self.shared, last, super::Part::Heads(|_| 0)) {
                Ok(entry) => self.shared.lock().last = entry.map(|entry| entry.id),
                Err(error) => tracing::error!(%error, "the log's last entry cannot be read back"),
            }
        }
    }
}
