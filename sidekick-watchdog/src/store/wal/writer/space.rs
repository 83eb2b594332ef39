//! Where the writer gets its space: zeroed files, the next segment, what is recycled and given back.

use std::io;
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::Ordering;

use bytes::Bytes;
use uuid::Uuid;

use super::super::frame::{EntryId, FLAG_BATCH_START, Kind, write_frame};
use super::super::segment::{
    Header, Segment, list, open_rw, segment_name, spare_name, sync_directory, write_all_at,
};
use super::{SLACK_BYTES, Writer};

/// Whole segments kept for use; the rest goes back to the file system.
const SPARES_MAX: usize = 1;

/// A segment that is ready to be switched to.
struct Next {
    segment: Arc<Segment>,
    path: PathBuf,
    position: u64,
    capacity: u64,
    zeroed: u64,
    previous: u32,
}

impl Writer {
    pub(super) fn tell_room(&self) {
        let room = self
            .zeroed
            .min(self.capacity)
            .saturating_sub(self.position + SLACK_BYTES);
        // SYNC: a hint for the proposer.
        self.shared.counters.room.store(room, Ordering::Relaxed);
    }

    /// Zeroes the file up to at least `end`, in steps. The caller fsyncs.
    pub(super) fn extend(&mut self, end: u64) -> io::Result<()> {
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
    pub(super) fn prepare(&mut self, bytes: u64) -> io::Result<()> {
        // SYNC: a test switch.
        if self.options.faults.promises_space.load(Ordering::Relaxed) {
            return Ok(());
        }
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
    pub(super) fn roll(&mut self, need: u64) -> io::Result<()> {
        // The next file comes first: if there is no space for it, nothing has happened yet.
        let number = self.current.number + 1;
        let next = self.make_segment(number, need)?;
        self.broken = true;
        let flags = if self.pending.is_empty() {
            FLAG_BATCH_START
        } else {
            0
        };
        let salt = self.current.salt;
        self.pending.put(
            salt,
            self.previous,
            Kind::Seal,
            flags,
            EntryId::default(),
            &Bytes::new(),
        );
        self.flush()?;
        self.switch(next)?;
        self.broken = false;
        Ok(())
    }

    pub(super) fn next_segment(&mut self, number: u64, need: u64) -> io::Result<()> {
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
            is_whole: self.options.is_whole,
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

    /// Recycles or removes the segments before the first one that is still needed.
    pub(super) fn release_segments(&mut self) -> io::Result<()> {
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
            inner.mended.retain(|byte| !gone.contains(&byte.segment));
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

    pub(super) fn count_bytes(&self) {
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
