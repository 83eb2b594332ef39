//! A ring file in memory: each side can write its own regions and reads the others.

use std::fs::File;
use std::io;
use std::sync::atomic::{AtomicU32, AtomicU64, Ordering};
use std::time::Duration;

use memmap2::{MmapOptions, MmapRaw};

use super::Region;
use super::guard::Guard;
use crate::layout::{REGION_BYTES, engine_ranges, watchdog_ranges};
use crate::{sys, wake};

/// Who maps a file.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Side {
    /// The game: writes the uplink, reads the control words.
    Engine,
    /// The watchdog: writes the control words and the downlink, reads the rest.
    Watchdog,
    /// Reads only.
    Reader,
}

/// A mapped ring file.
#[derive(Debug)]
pub struct Mapping {
    // Dropped before `raw`: the guard must not cover addresses that are given back.
    guard: Option<Guard>,
    raw: MmapRaw,
}

impl Mapping {
    /// Maps a new file of `bytes` bytes, writable everywhere until [`Mapping::protect`].
    ///
    /// # Errors
    /// As the system gives them.
    pub fn create(file: &File, bytes: usize) -> io::Result<Mapping> {
        let raw = MmapOptions::new().len(bytes).map_raw(file)?;
        Ok(Mapping { guard: None, raw })
    }

    /// Maps an existing file of `bytes` bytes for the watchdog or a mere reader.
    ///
    /// The range is watched: when somebody truncates the file, the whole mapping reads as zeros instead of killing
    /// this process, and [`Mapping::is_lost`] tells.
    ///
    /// # Errors
    /// As the system gives them, or when too many files are mapped.
    pub fn open(file: &File, bytes: usize, side: Side) -> io::Result<Mapping> {
        let raw = if side == Side::Reader {
            MmapOptions::new().len(bytes).map_raw_read_only(file)?
        } else {
            MmapOptions::new().len(bytes).map_raw(file)?
        };
        let mut mapping = Mapping { guard: None, raw };
        if side != Side::Reader {
            mapping.protect(side)?;
        }
        mapping.guard = Some(Guard::register(mapping.raw.as_ptr() as usize, bytes)?);
        Ok(mapping)
    }

    /// Takes away the right to write what is not this side's.
    ///
    /// # Errors
    /// As the system gives them.
    pub fn protect(&self, side: Side) -> io::Result<()> {
        let bytes = self.raw.len();
        let engine = engine_ranges(bytes);
        let watchdog = watchdog_ranges();
        let mine: &[(usize, usize)] = match side {
            Side::Engine => &engine,
            Side::Watchdog => &watchdog,
            Side::Reader => &[],
        };
        let mut at = 0;
        for &(start, end) in mine {
            self.protect_range(at, start)?;
            at = end;
        }
        self.protect_range(at, bytes)
    }

    fn protect_range(&self, start: usize, end: usize) -> io::Result<()> {
        debug_assert!(start.is_multiple_of(REGION_BYTES));
        if start >= end || end > self.raw.len() {
            return Ok(());
        }
        // SAFETY: `start < end <= len`, so the range lies inside the mapping, which lives as long as `self`. No Rust
        // reference into the mapping is ever a `&mut`, and nobody on this side stores into these ranges.
        unsafe { sys::protect_read_only(self.raw.as_mut_ptr().add(start), end - start) }
    }

    /// Touches the pages from `start` to `end`, so that no page fault happens while the game records. Best effort: an older kernel refuses.
    pub fn prefault(&self, start: usize, end: usize) {
        let end = end.min(self.raw.len());
        if start < end {
            // SAFETY: `start < end <= len`, so the range lies inside the mapping; populating changes no byte of it.
            unsafe { sys::prefault(self.raw.as_mut_ptr().add(start), end - start) };
        }
    }

    /// Keeps the mapping out of forked children. Best effort.
    pub fn keep_from_children(&self) {
        // SAFETY: the range is exactly the mapping, and not inheriting it changes no byte of it.
        unsafe { sys::keep_from_children(self.raw.as_mut_ptr(), self.raw.len()) };
    }

    /// Bytes mapped.
    pub fn bytes(&self) -> usize {
        self.raw.len()
    }

    /// Whether the file was truncated under the mapping, which reads as zeros from then on.
    pub fn is_lost(&self) -> bool {
        self.guard.as_ref().is_some_and(Guard::is_hit)
    }

    #[inline(always)]
    fn word(&self, at: usize) -> &AtomicU64 {
        assert!(at.is_multiple_of(8) && at < self.raw.len() && self.raw.len() - at >= 8);
        // SAFETY: `at` is 8-aligned (a mapping is page-aligned) and `at + 8 <= len`, checked above; the mapping lives
        // as long as `self`, and every access to it is atomic and of one size per location.
        unsafe { &*self.raw.as_ptr().add(at).cast::<AtomicU64>() }
    }

    #[inline(always)]
    fn word32(&self, at: usize) -> &AtomicU32 {
        assert!(at.is_multiple_of(8) && at < self.raw.len() && self.raw.len() - at >= 8);
        // SAFETY: as in `word`; the futex words are never accessed as 64 bits.
        unsafe { &*self.raw.as_ptr().add(at).cast::<AtomicU32>() }
    }

    #[inline(always)]
    fn words(&self, at: usize, bytes: usize) -> *const AtomicU64 {
        assert!(at.is_multiple_of(8) && at <= self.raw.len() && bytes <= self.raw.len() - at);
        // SAFETY: `at <= len`, checked above.
        unsafe { self.raw.as_ptr().add(at).cast::<AtomicU64>() }
    }
}

// JUSTIFICATION for the raw pointers here: the bytes belong to another process, so a slice would claim what nobody
// can keep. One bounds check per run instead of one per word is worth 10 ns per record.
impl Region for Mapping {
    #[inline(always)]
    fn load(&self, at: usize, order: Ordering) -> u64 {
        self.word(at).load(order)
    }

    #[inline(always)]
    fn store(&self, at: usize, value: u64, order: Ordering) {
        self.word(at).store(value, order);
    }

    #[inline(always)]
    fn copy_in(&self, at: usize, bytes: &[u8]) {
        let (chunks, _) = bytes.as_chunks::<8>();
        let base = self.words(at, chunks.len() * 8);
        for (i, chunk) in chunks.iter().enumerate() {
            // SAFETY: `i < chunks.len()`, and `words` checked that so many words from `at` on lie in the mapping.
            unsafe { &*base.add(i) }.store(u64::from_ne_bytes(*chunk), Ordering::Relaxed);
        }
    }

    #[inline(always)]
    fn copy_out(&self, at: usize, out: &mut [u8]) {
        let (chunks, _) = out.as_chunks_mut::<8>();
        let base = self.words(at, chunks.len() * 8);
        for (i, chunk) in chunks.iter_mut().enumerate() {
            // SAFETY: as in `copy_in`.
            *chunk = unsafe { &*base.add(i) }
                .load(Ordering::Relaxed)
                .to_ne_bytes();
        }
    }

    fn load32(&self, at: usize) -> u32 {
        self.word32(at).load(Ordering::Relaxed)
    }

    fn bump_and_wake(&self, at: usize) {
        let word = self.word32(at);
        // SYNC: the sleeper compares the word in the kernel; Release keeps the words stored before visible to it.
        word.fetch_add(1, Ordering::Release);
        wake::wake(word);
    }

    fn wait(&self, at: usize, while_value: u32, timeout: Duration) {
        wake::wait(self.word32(at), while_value, timeout);
    }
}

impl Mapping {
    /// Wakes all sleepers of a futex word without changing it, for a side that cannot write it. Says how many that were.
    pub(crate) fn wake_only(&self, at: usize) -> usize {
        wake::wake(self.word32(at))
    }
}
