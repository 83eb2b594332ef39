//! The side of the log that writes; owned by its thread.

use std::io;
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

use uuid::Uuid;

use super::frame::{
    EntryId, FLAG_BATCH_START, FRAME_HEAD_BYTES, Kind, PAYLOAD_BYTES_MAX, frame_bytes, write_frame,
};
use super::recovery::Recovered;
use super::segment::{
    HEADER_BYTES, Header, Segment, list, open_rw, segment_name, spare_name, sync_directory,
    write_all_at,
};
use super::{Job, Shared, Vote, WalError, WalOptions};

/// Whole segments kept for use; the rest goes back to the file system.
const SPARES_MAX: usize = 1;
const SEAL_BYTES: u64 = FRAME_HEAD_BYTES as u64;
/// Room that every segment keeps for its seal and the small frames of a batch.
const SLACK_BYTES: u64 = 1024;

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
    buffer: Vec<u8>,
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
            buffer: Vec::new(),
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
            self.put(Kind::Committed, id, &[])?;
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
                    self.put(Kind::Vote, id, &[u8::from(vote.committed)])?;
                    self.effects.push(Effect::Vote(*vote));
                }
                Job::Truncate { since, .. } => {
                    self.put(Kind::Truncate, *since, &[])?;
                    self.effects.push(Effect::Truncate(*since));
                }
                Job::Purge { upto, .. } => {
                    self.purged = self.purged.max(Some(*upto));
                    self.put(Kind::Purge, *upto, &[])?;
                    self.effects.push(Effect::Purge(*upto));
                    purges = true;
                }
                Job::Prepare { .. } | Job::Stop => {}
            }
        }
        // The last word before a stop may be `committed` alone.
        if !self.buffer.is_empty() || stop {
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

    fn put(&mut self, kind: Kind, id: EntryId, payload: &[u8]) -> io::Result<()> {
        if payload.len() > PAYLOAD_BYTES_MAX {
            return Err(io::Error::other(format!(
                "an entry of {} bytes, the limit is {PAYLOAD_BYTES_MAX}",
                payload.len()
            )));
        }
        let need = frame_bytes(payload.len()) as u64;
        if self.position + self.buffer.len() as u64 + need + SEAL_BYTES > self.capacity {
            self.roll(need)?;
        }
        let offset = self.position + self.buffer.len() as u64;
        let flags = if self.buffer.is_empty() {
            FLAG_BATCH_START
        } else {
            0
        };
        let salt = self.current.salt;
        self.previous = write_frame(
            &mut self.buffer,
            salt,
            self.previous,
            kind,
            flags,
            id,
            payload,
        );
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
        if self.buffer.is_empty() {
            return Ok(());
        }
        self.extend(self.position + self.buffer.len() as u64)?;
        write_all_at(&self.current.file, &self.buffer, self.position)?;
        self.sync()?;
        self.position += self.buffer.len() as u64;
        // SYNC: counters.
        self.shared
            .counters
            .bytes
            .fetch_add(self.buffer.len() as u64, Ordering::Relaxed);
        self.buffer.clear();
        // One giant batch must not stay in memory for ever.
        self.buffer.shrink_to(2 * super::BATCH_BYTES_MAX);
        self.tell_room();
        Ok(())
    }

    fn sync(&self) -> io::Result<()> {
        let started = Instant::now();
        self.current.file.sync_data()?;
        let faults = &self.options.faults;
        // SYNC: test switches and counters.
        let delay = faults.sync_delay_us.load(Ordering::Relaxed);
        if delay > 0 {
            std::thread::sleep(Duration::from_micros(delay));
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

    fn tell_room(&self) {
        let room = self
            .zeroed
            .min(self.capacity)
            .saturating_sub(self.position + SLACK_BYTES);
        // SYNC: a hint for the proposer.
        self.shared.counters.room.store(room, Ordering::Relaxed);
    }

    /// Zeroes the file up to at least `end`, in steps. The caller fsyncs.
    fn extend(&mut self, end: u64) -> io::Result<()> {
        if end <= self.zeroed {
            return Ok(());
        }
        let step = self.options.zero_step_bytes.max(4096);
        let target = end.next_multiple_of(step).min(self.capacity).max(end);
        self.take_space(target - self.zeroed)?;
        let zeros = vec![0; (1 << 20).min(target - self.zeroed) as usize];
        let mut at = self.zeroed;
        while at < target {
            let len = (target - at).min(zeros.len() as u64);
            write_all_at(&self.current.file, &zeros[..len as usize], at)?;
            at += len;
        }
        // SYNC: a counter.
        self.shared
            .counters
            .log_bytes
            .fetch_add(target - self.zeroed, Ordering::Relaxed);
        self.zeroed = target;
        Ok(())
    }

    fn take_space(&self, bytes: u64) -> io::Result<()> {
        let left = &self.options.faults.space_left;
        // SYNC: a test switch.
        if left.load(Ordering::Relaxed) == u64::MAX
            || left
                .fetch_update(Ordering::Relaxed, Ordering::Relaxed, |left| {
                    left.checked_sub(bytes)
                })
                .is_ok()
        {
            return Ok(());
        }
        Err(io::Error::new(
            io::ErrorKind::StorageFull,
            "no space left on device (on purpose)",
        ))
    }

    /// Gets space for an append of `bytes` without writing a frame.
    fn prepare(&mut self, bytes: u64) -> io::Result<()> {
        let need = bytes + SLACK_BYTES;
        if self.position + need > self.capacity {
            return self.roll(need);
        }
        if self.position + need > self.zeroed {
            self.extend(self.position + need)?;
            if let Err(error) = self.current.file.sync_all() {
                self.broken = true;
                return Err(error);
            }
        }
        self.tell_room();
        Ok(())
    }

    /// Seals the current segment and goes on in a new one that has room for a frame of `need` bytes.
    fn roll(&mut self, need: u64) -> io::Result<()> {
        // The next file comes first: if there is no space for it, nothing has happened yet.
        let number = self.current.number + 1;
        let next = self.make_segment(number, need)?;
        self.broken = true;
        let flags = if self.buffer.is_empty() {
            FLAG_BATCH_START
        } else {
            0
        };
        let salt = self.current.salt;
        write_frame(
            &mut self.buffer,
            salt,
            self.previous,
            Kind::Seal,
            flags,
            EntryId::default(),
            &[],
        );
        self.flush()?;
        self.switch(next)?;
        self.broken = false;
        Ok(())
    }

    fn next_segment(&mut self, number: u64, need: u64) -> io::Result<()> {
        let next = self.make_segment(number, need)?;
        self.switch(next)
    }

    /// Makes the file of the next segment, whole and fsynced, still under a spare's name.
    fn make_segment(&mut self, number: u64, need: u64) -> io::Result<Next> {
        // SYNC: a test switch.
        let fixed = self.options.faults.fixed_salt.load(Ordering::Relaxed);
        let salt = if fixed {
            0
        } else {
            Uuid::new_v4().as_u64_pair().0
        };
        let header = Header {
            number,
            salt,
            node: self.node,
            log: self.log,
        };
        let mut head = header.encode();
        let mut previous = 0;
        let mut put = |kind, id, payload: &[u8]| {
            previous = write_frame(&mut head, header.salt, previous, kind, 0, id, payload);
        };
        // Every segment begins with what the ones before it said, so that they can be removed.
        if let Some(vote) = self.vote {
            let id = EntryId {
                term: vote.term,
                node: vote.node,
                index: 0,
            };
            put(Kind::Vote, id, &[u8::from(vote.committed)]);
        }
        if let Some(id) = self.purged {
            put(Kind::Purge, id, &[]);
        }
        if let Some(id) = self.committed {
            put(Kind::Committed, id, &[]);
        }
        let position = head.len() as u64;
        let capacity = self
            .options
            .segment_bytes
            .max(position + need + SLACK_BYTES);
        let path = self.options.directory.join(spare_name(number));
        let mut have = 0;
        if let Some(spare) = self.spares.pop() {
            if spare != path {
                std::fs::rename(&spare, &path)?;
            }
            have = std::fs::metadata(&path)?.len();
        }
        let file = open_rw(&path, true)?;
        let step = self.options.zero_step_bytes.max(4096);
        let want = (position + need)
            .next_multiple_of(step)
            .min(capacity)
            .max(position + need);
        if have < want {
            if let Err(error) = self
                .take_space(want - have)
                .and_then(|()| zero(&file, have, want))
            {
                drop(file);
                let _ = std::fs::remove_file(&path);
                return Err(error);
            }
            // SYNC: a counter.
            self.shared
                .counters
                .log_bytes
                .fetch_add(want - have, Ordering::Relaxed);
            have = want;
        }
        write_all_at(&file, &head, 0)?;
        file.sync_all()?;
        let segment = Arc::new(Segment {
            number,
            salt: header.salt,
            file,
        });
        Ok(Next {
            segment,
            path,
            position,
            capacity,
            zeroed: have,
            previous,
        })
    }

    fn switch(&mut self, next: Next) -> io::Result<()> {
        let number = next.segment.number;
        std::fs::rename(
            &next.path,
            self.options.directory.join(segment_name(number)),
        )?;
        sync_directory(&self.options.directory)?;
        self.shared
            .lock()
            .segments
            .insert(number, Arc::clone(&next.segment));
        self.current = next.segment;
        self.position = next.position;
        self.capacity = next.capacity.max(next.zeroed);
        self.zeroed = next.zeroed;
        self.previous = next.previous;
        self.tell_room();
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
            match super::read_one(&self.shared, last, super::Part::Heads(|_| 0)) {
                Ok(entry) => self.shared.lock().last = entry.map(|entry| entry.id),
                Err(error) => tracing::error!(%error, "the log's last entry cannot be read back"),
            }
        }
    }

    /// Recycles or removes the segments before the first one that is still needed.
    fn release_segments(&mut self) -> io::Result<()> {
        let gone: Vec<u64> = {
            let mut inner = self.shared.lock();
            let keep = inner
                .index
                .lowest_segment()
                .unwrap_or(u64::MAX)
                .min(self.current.number);
            let gone: Vec<u64> = inner
                .segments
                .range(..keep)
                .map(|(number, _)| *number)
                .collect();
            for number in &gone {
                inner.segments.remove(number);
            }
            gone
        };
        let directory = &self.options.directory;
        let mut changed = !gone.is_empty();
        for number in gone {
            let path = directory.join(segment_name(number));
            if self.spares.len() < SPARES_MAX
                && std::fs::metadata(&path)?.len() == self.options.segment_bytes
            {
                let spare = directory.join(spare_name(number));
                std::fs::rename(&path, &spare)?;
                self.spares.push(spare);
            } else {
                std::fs::remove_file(&path)?;
            }
        }
        while self.spares.len() > SPARES_MAX {
            if let Some(spare) = self.spares.pop() {
                std::fs::remove_file(spare)?;
                changed = true;
            }
        }
        if changed {
            sync_directory(directory)?;
            self.count_bytes();
        }
        Ok(())
    }

    fn count_bytes(&self) {
        let Ok((segments, spares)) = list(&self.options.directory) else {
            return;
        };
        let paths = segments.into_iter().map(|(_, path)| path).chain(spares);
        let bytes = paths
            .filter_map(|path| std::fs::metadata(path).ok())
            .map(|data| data.len())
            .sum();
        // SYNC: a counter.
        self.shared
            .counters
            .log_bytes
            .store(bytes, Ordering::Relaxed);
    }
}

/// A segment that is ready to be switched to.
struct Next {
    segment: Arc<Segment>,
    path: PathBuf,
    position: u64,
    capacity: u64,
    zeroed: u64,
    previous: u32,
}

fn zero(file: &std::fs::File, from: u64, to: u64) -> io::Result<()> {
    let zeros = vec![0; 1 << 20];
    let mut at = from;
    while at < to {
        let len = (to - at).min(zeros.len() as u64);
        write_all_at(file, &zeros[..len as usize], at)?;
        at += len;
    }
    Ok(())
}
