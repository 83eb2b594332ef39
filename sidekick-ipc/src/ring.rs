//! The ring: one writer process, one reader process, committed by one store.
//!
//! Positions grow for ever; the capacity's mask makes offsets of them. A frame may wrap around the end. Nothing
//! beyond `tail` is ever looked at, so a frame that its writer did not finish does not exist. Both words are checked
//! by the other side: a position is taken only if it lies where it can lie.
//!
//! | killed | what memory says | what the reader does |
//! |---|---|---|
//! | before or while the frame's words are stored | bytes beyond `tail` | never looks there |
//! | after `tail`, before the caller has its answer | a complete frame | delivers it |
//! | reader, before its batch is committed | nothing happened | its successor reads it again |
//! | reader, between commit and `head` | the engine sees less room | its successor stores `head` again |

use std::sync::atomic::AtomicU64;
use std::sync::atomic::Ordering::{Acquire, Relaxed, Release};
use std::time::Duration;

use crate::frame::{FRAME_HEADER_BYTES, FrameHeader, verify_copy};
use crate::layout::RingLayout;
use crate::region::Region;

/// The ring has no room for this frame now.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Full;

/// Writing end. One at a time; in the engine it lives in a process-private mutex, which dies with its process.
#[derive(Debug)]
pub struct Producer<R> {
    region: R,
    layout: RingLayout,
    tail: u64,
    head_cache: u64,
}

impl<R: Region> Producer<R> {
    /// The writing end of a ring that stands as its words say: fresh, or left by a predecessor in the same role.
    ///
    /// Words that cannot be right (hostile or damaged) make the ring count as empty from its tail on.
    pub fn attach(region: R, layout: RingLayout) -> Self {
        let tail = region.load(layout.tail, Relaxed) & !7;
        // SYNC: pairs with the Release store in `Consumer::release`.
        let head = region.load(layout.head, Acquire);
        let head_cache = if tail.wrapping_sub(head) <= layout.capacity {
            head
        } else {
            tail
        };
        Producer {
            region,
            layout,
            tail,
            head_cache,
        }
    }

    /// Position after the last frame.
    pub fn tail(&self) -> u64 {
        self.tail
    }

    /// The region it writes to.
    pub fn region(&self) -> &R {
        &self.region
    }

    /// Bytes that the reader has not released.
    pub fn used(&mut self) -> u64 {
        self.refresh_head();
        self.tail.wrapping_sub(self.head_cache)
    }

    /// Whether a frame of `bytes` fits. Asks shared memory only when the last known state has no room.
    #[inline]
    pub fn has_room(&mut self, bytes: usize) -> bool {
        let used = self.tail.wrapping_sub(self.head_cache);
        if self.layout.capacity.wrapping_sub(used) >= bytes as u64 {
            return true;
        }
        self.refresh_head();
        let used = self.tail.wrapping_sub(self.head_cache);
        self.layout.capacity.wrapping_sub(used) >= bytes as u64
    }

    fn refresh_head(&mut self) {
        // SYNC: pairs with the Release store in `Consumer::release`: the reader's loads of the bytes that are
        // overwritten next happened before.
        let head = self.region.load(self.layout.head, Acquire);
        // The other process's word: taken only if it moved forward and not beyond the tail.
        if head.wrapping_sub(self.head_cache) <= self.tail.wrapping_sub(self.head_cache) {
            self.head_cache = head;
        }
    }

    /// Writes one sealed frame ([`crate::frame::seal`]), padded to 8 bytes, and commits it.
    ///
    /// # Errors
    /// [`Full`]: nothing was written.
    #[inline]
    pub fn publish(&mut self, frame: &[u8]) -> Result<(), Full> {
        debug_assert!(frame.len().is_multiple_of(8));
        if !self.has_room(frame.len()) {
            return Err(Full);
        }
        self.write(0, frame);
        self.commit(frame.len() as u64);
        Ok(())
    }

    /// Writes the frames of one value, each in pieces of whole words (header, payload), and commits all of them with one
    /// store: a reader sees every one or none.
    ///
    /// # Errors
    /// [`Full`]: nothing was committed.
    pub fn publish_together<'a>(
        &mut self,
        bytes: usize,
        pieces: impl IntoIterator<Item = (FrameStart, &'a [u8])>,
    ) -> Result<(), Full> {
        if !self.has_room(bytes) {
            return Err(Full);
        }
        let mut written = 0u64;
        for (head, payload) in pieces {
            self.write(written, &head);
            written = written.wrapping_add(head.len() as u64);
            // The last word of a payload is filled up with zeros.
            let whole = payload.len() & !7;
            let (words, rest) = payload.split_at(whole);
            self.write(written, words);
            written = written.wrapping_add(whole as u64);
            if !rest.is_empty() {
                let mut word = [0; 8];
                for (to, from) in word.iter_mut().zip(rest) {
                    *to = *from;
                }
                self.write(written, &word);
                written = written.wrapping_add(8);
            }
        }
        debug_assert_eq!(written, bytes as u64);
        self.commit(written);
        Ok(())
    }

    /// Stores whole words so many bytes after the tail. There is room.
    #[inline]
    fn write(&self, after_tail: u64, words: &[u8]) {
        let offset = self.tail.wrapping_add(after_tail) & (self.layout.capacity.wrapping_sub(1));
        let until_end = self.layout.capacity.wrapping_sub(offset) as usize;
        let at = self.layout.data.wrapping_add(offset as usize);
        match words.split_at_checked(until_end) {
            None => self.region.copy_in(at, words),
            Some((first, second)) => {
                self.region.copy_in(at, first);
                self.region.copy_in(self.layout.data, second);
            }
        }
    }

    #[inline]
    fn commit(&mut self, bytes: u64) {
        self.tail = self.tail.wrapping_add(bytes);
        // SYNC: pairs with the Acquire load of `tail` in `Consumer::peek`; publishes the words stored above.
        // This is the commit, for a living reader and for whoever finds the file after a kill: a killed process
        // leaves a prefix of its stores in program order.
        self.region.store(self.layout.tail, self.tail, Release);
    }
}

/// The header of a frame as it stands in memory.
pub type FrameStart = [u8; FRAME_HEADER_BYTES];

/// What is wrong with a ring's bytes.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum RingError {
    /// The commit word is not where it can be.
    #[error("tail {tail} is not within {capacity} bytes after position {position}")]
    Tail {
        /// The word.
        tail: u64,
        /// Where the reader stands.
        position: u64,
        /// Bytes of the ring.
        capacity: u64,
    },
    /// The release word is not where it can be.
    #[error(
        "head {head} lies beyond position {position}: bytes were overwritten before they were read"
    )]
    Head {
        /// The word.
        head: u64,
        /// Where the reader stands.
        position: u64,
    },
    /// No frame starts at the position, or it is longer than what is committed.
    #[error("no frame starts at position {position}")]
    Header {
        /// Where.
        position: u64,
    },
    /// A frame's checksum is wrong, or the frame changed while it was read.
    #[error("the frame at position {position} does not match its checksum")]
    Crc {
        /// Where.
        position: u64,
    },
    /// A frame has a sequence number that cannot come next.
    #[error("the frame at position {position} has number {found}, {expected} comes next")]
    Seq {
        /// Where.
        position: u64,
        /// Its number.
        found: u64,
        /// The number that comes next.
        expected: u64,
    },
}

/// Reading end. Copies out first and looks at the copy only.
#[derive(Debug)]
pub struct Consumer<R> {
    region: R,
    layout: RingLayout,
    seed: u32,
    position: u64,
    tail_cache: u64,
    accepts: fn(u16) -> bool,
}

impl<R: Region> Consumer<R> {
    /// A reader that stands at `position`. Frames must be sealed with `seed`, and have a kind that `accepts` takes.
    pub fn new(
        region: R,
        layout: RingLayout,
        seed: u32,
        position: u64,
        accepts: fn(u16) -> bool,
    ) -> Self {
        Consumer {
            region,
            layout,
            seed,
            position,
            tail_cache: position,
            accepts,
        }
    }

    /// Where it stands.
    pub fn position(&self) -> u64 {
        self.position
    }

    /// The region it reads.
    pub fn region(&self) -> &R {
        &self.region
    }

    /// Moves the reader.
    pub fn seek(&mut self, position: u64) {
        self.position = position;
        self.tail_cache = position;
    }

    /// The commit word, if it lies where it can lie.
    ///
    /// # Errors
    /// [`RingError::Tail`].
    pub fn tail(&self) -> Result<u64, RingError> {
        // SYNC: pairs with the Release store in `Producer::publish`.
        let tail = self.region.load(self.layout.tail, Acquire);
        let ahead = tail.wrapping_sub(self.position);
        if ahead > self.layout.capacity || !tail.is_multiple_of(8) {
            let (position, capacity) = (self.position, self.layout.capacity);
            return Err(RingError::Tail {
                tail,
                position,
                capacity,
            });
        }
        Ok(tail)
    }

    /// The header of the next frame, not checked yet but for its length; `None` when nothing is committed.
    ///
    /// # Errors
    /// [`RingError::Tail`] and [`RingError::Header`].
    #[inline]
    pub fn peek(&mut self) -> Result<Option<FrameHeader>, RingError> {
        if self.tail_cache == self.position {
            self.tail_cache = self.tail()?;
            if self.tail_cache == self.position {
                return Ok(None);
            }
        }
        let committed = self.tail_cache.wrapping_sub(self.position);
        let header = self.header_at(self.position);
        match header {
            Some(header) if header.frame_bytes() as u64 <= committed => Ok(Some(header)),
            _ => Err(RingError::Header {
                position: self.position,
            }),
        }
    }

    /// Appends the frame whose header [`Consumer::peek`] gave to `out` and steps over it. `out` is as before on an
    /// error.
    ///
    /// # Errors
    /// [`RingError::Crc`].
    #[inline]
    pub fn take(&mut self, peeked: FrameHeader, out: &mut Vec<u8>) -> Result<(), RingError> {
        let start = out.len();
        let bytes = peeked.frame_bytes();
        if self.copy_checked(self.position, peeked, out).is_err() {
            out.truncate(start);
            return Err(RingError::Crc {
                position: self.position,
            });
        }
        self.position = self.position.wrapping_add(bytes as u64);
        Ok(())
    }

    fn copy_checked(
        &self,
        position: u64,
        peeked: FrameHeader,
        out: &mut Vec<u8>,
    ) -> Result<(), ()> {
        let start = out.len();
        out.resize(start.wrapping_add(peeked.frame_bytes()), 0);
        let frame = out.get_mut(start..).ok_or(())?;
        self.copy_out(position, frame);
        // The copy is judged alone: the other process may have changed the words since `peek`.
        let copied = verify_copy(frame, self.seed).map_err(|_| ())?;
        if copied == peeked { Ok(()) } else { Err(()) }
    }

    fn header_at(&self, position: u64) -> Option<FrameHeader> {
        let mask = self.layout.capacity.wrapping_sub(1);
        let mut words = [0; FRAME_HEADER_BYTES / 8];
        for (i, word) in words.iter_mut().enumerate() {
            let offset = position.wrapping_add((i as u64).wrapping_mul(8)) & mask;
            *word = self
                .region
                .load(self.layout.data.wrapping_add(offset as usize), Relaxed);
        }
        FrameHeader::from_words(words).filter(|header| (self.accepts)(header.kind))
    }

    #[inline]
    fn copy_out(&self, position: u64, out: &mut [u8]) {
        let offset = position & self.layout.capacity.wrapping_sub(1);
        let until_end = self.layout.capacity.wrapping_sub(offset) as usize;
        let at = self.layout.data.wrapping_add(offset as usize);
        if out.len() <= until_end {
            self.region.copy_out(at, out);
        } else {
            let (first, second) = out.split_at_mut(until_end);
            self.region.copy_out(at, first);
            self.region.copy_out(self.layout.data, second);
        }
    }

    /// After damage: scans forward in steps of 8 bytes for a whole frame with a right checksum whose number `accept`
    /// takes, and moves there.
    ///
    /// Returns false when there is none; the reader then stands at the tail, or does not move when the tail itself is
    /// damaged. Costs at most one pass over the ring and four times its size in checksums, whatever the bytes say.
    pub fn resync(&mut self, accept: impl Fn(u64) -> bool) -> bool {
        let start = self.position;
        let tail = self.tail();
        let window = match tail {
            Ok(tail) => tail.wrapping_sub(start),
            Err(_) => self.layout.capacity,
        };
        let mut budget = self.layout.capacity.saturating_mul(4);
        let mut copy = Vec::new();
        let mut step = 0u64;
        while step.wrapping_add(FRAME_HEADER_BYTES as u64) <= window {
            let position = start.wrapping_add(step);
            if let Some(header) = self.header_at(position) {
                let bytes = header.frame_bytes() as u64;
                if accept(header.seq) && step.wrapping_add(bytes) <= window && bytes <= budget {
                    budget = budget.wrapping_sub(bytes);
                    copy.clear();
                    if self.copy_checked(position, header, &mut copy).is_ok() {
                        self.seek(position);
                        if tail.is_err() {
                            self.tail_cache = position.wrapping_add(bytes);
                        }
                        return true;
                    }
                }
            }
            step = step.wrapping_add(8);
        }
        if let Ok(tail) = tail {
            self.seek(tail);
        }
        false
    }

    /// Goes where the commit word says, however unlikely: for a reader that may lose frames but must find back once
    /// the word is right again.
    pub fn skip_to_tail(&mut self) {
        // SYNC: as in `tail`.
        self.seek(self.region.load(self.layout.tail, Acquire) & !7);
    }

    /// Gives the bytes before `position` back to the writer.
    pub fn release(&self, position: u64) {
        // SYNC: pairs with the Acquire load in `Producer::refresh_head`; this side's loads of those bytes are done.
        self.region.store(self.layout.head, position, Release);
    }
}

/// The two words by which a sleeper is found: a flag of the sleeper's, a futex word of the waker's.
#[derive(Clone, Copy, Debug)]
pub struct SleepWords {
    /// 1 while somebody sleeps or is about to; written by the sleeper.
    pub waiting: usize,
    /// Futex word; written by the waker.
    pub wake: usize,
}

/// The watchdog's drain thread sleeps, the engine wakes.
pub const DRAIN_SLEEP: SleepWords = SleepWords {
    waiting: crate::layout::C_WAITING,
    wake: crate::layout::P_WAKE,
};
/// An engine thread sleeps for space, the watchdog wakes.
pub const SPACE_SLEEP: SleepWords = SleepWords {
    waiting: crate::layout::P_SPACE_WAITING,
    wake: crate::layout::C_SPACE,
};
/// An engine thread sleeps for a message of the downlink, the watchdog wakes.
pub const MESSAGE_SLEEP: SleepWords = SleepWords {
    waiting: crate::layout::DOWN_WAITING,
    wake: crate::layout::DOWN_WAKE,
};

/// Sleeps until [`kick`] or the timeout, unless `is_ready` already.
pub fn sleep<R: Region>(
    region: &R,
    words: SleepWords,
    timeout: Duration,
    is_ready: impl FnOnce() -> bool,
) {
    let value = region.load32(words.wake);
    region.store(words.waiting, 1, Relaxed);
    // SYNC: Dekker with `kick`: the flag before the look at the ring here, the ring before the look at the flag
    // there. One of the two sees the other.
    region.fence();
    if !is_ready() {
        region.wait(words.wake, value, timeout);
    }
    region.store(words.waiting, 0, Relaxed);
}

/// Wakes the sleeper if there is one. Costs a fence and a load if not.
#[inline]
pub fn kick<R: Region>(region: &R, words: SleepWords) -> bool {
    // SYNC: Dekker with `sleep`.
    region.fence();
    if region.load(words.waiting, Relaxed) == 0 {
        return false;
    }
    region.bump_and_wake(words.wake);
    true
}

/// Wakes the sleeper once for what came since the last time, so that a game that records nothing wakes nobody.
///
/// One thread calls [`Notifier::tell`]; any may publish meanwhile.
#[derive(Debug, Default)]
pub struct Notifier {
    told: AtomicU64,
}

impl Notifier {
    /// Wakes the sleeper if `published`, a count that only grows, is another than at the last call. Returns whether it
    /// looked for a sleeper.
    #[inline]
    pub fn tell<R: Region>(
        &self,
        region: &R,
        words: SleepWords,
        published: impl FnOnce() -> u64,
    ) -> bool {
        // The count is read before the kick: what comes after this load is told by the next call. Read after the
        // kick, what came in between would count as told, to a sleeper that had lain down before it.
        let now = published();
        if now == self.told.load(Relaxed) {
            return false;
        }
        self.told.store(now, Relaxed);
        kick(region, words);
        true
    }
}
