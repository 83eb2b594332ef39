//! Shared words behind a trait, so that a mapping, the heap (Miri) and a loom model run the same protocol code.
//!
//! Owns access by words. Does not know what any word means.

use std::sync::atomic::{AtomicU32, AtomicU64, Ordering, fence};
use std::time::Duration;

mod guard;
mod mapping;

pub use mapping::{Mapping, Side};

/// Memory that two processes share, as words of one size each.
///
/// Offsets are bytes and aligned to the word. An offset outside the region is a mistake of the caller and panics:
/// no offset may come out of shared memory unchecked.
pub trait Region: Send + Sync {
    /// Loads a 64-bit word.
    fn load(&self, at: usize, order: Ordering) -> u64;
    /// Stores a 64-bit word.
    fn store(&self, at: usize, value: u64, order: Ordering);
    /// Stores whole words (`bytes` is a multiple of 8), each relaxed.
    fn copy_in(&self, at: usize, bytes: &[u8]);
    /// Loads whole words (`out` is a multiple of 8), each relaxed.
    fn copy_out(&self, at: usize, out: &mut [u8]);
    /// A sequentially consistent fence.
    fn fence(&self) {
        fence(Ordering::SeqCst);
    }
    /// Loads a 32-bit futex word, relaxed.
    fn load32(&self, at: usize) -> u32;
    /// Adds 1 to a 32-bit futex word and wakes all who sleep on it.
    fn bump_and_wake(&self, at: usize);
    /// Sleeps while the futex word has this value, at most `timeout`. May return early.
    fn wait(&self, at: usize, while_value: u32, timeout: Duration);
}

macro_rules! forward {
    ($pointer:ty) => {
        impl<R: Region + ?Sized> Region for $pointer {
            #[inline]
            fn load(&self, at: usize, order: Ordering) -> u64 {
                (**self).load(at, order)
            }
            #[inline]
            fn store(&self, at: usize, value: u64, order: Ordering) {
                (**self).store(at, value, order);
            }
            #[inline]
            fn copy_in(&self, at: usize, bytes: &[u8]) {
                (**self).copy_in(at, bytes);
            }
            #[inline]
            fn copy_out(&self, at: usize, out: &mut [u8]) {
                (**self).copy_out(at, out);
            }
            #[inline]
            fn fence(&self) {
                (**self).fence();
            }
            #[inline]
            fn load32(&self, at: usize) -> u32 {
                (**self).load32(at)
            }
            fn bump_and_wake(&self, at: usize) {
                (**self).bump_and_wake(at);
            }
            fn wait(&self, at: usize, while_value: u32, timeout: Duration) {
                (**self).wait(at, while_value, timeout);
            }
        }
    };
}

forward!(&R);
forward!(std::sync::Arc<R>);

/// A region on the heap of one process, for models, Miri and tests. Its futex words do not put anyone to sleep.
#[derive(Debug)]
pub struct HeapRegion {
    words: Box<[AtomicU64]>,
    futexes: Box<[AtomicU32]>,
}

impl HeapRegion {
    /// A region of `bytes` zero bytes, rounded up to 8.
    pub fn new(bytes: usize) -> HeapRegion {
        let words = bytes.div_ceil(8);
        HeapRegion {
            words: (0..words).map(|_| AtomicU64::new(0)).collect(),
            // SYNC: separate from the words, so that no location is accessed with two sizes.
            futexes: (0..words).map(|_| AtomicU32::new(0)).collect(),
        }
    }
}

impl Region for HeapRegion {
    fn load(&self, at: usize, order: Ordering) -> u64 {
        self.words[at / 8].load(order)
    }
    fn store(&self, at: usize, value: u64, order: Ordering) {
        self.words[at / 8].store(value, order);
    }
    fn copy_in(&self, at: usize, bytes: &[u8]) {
        let (chunks, _) = bytes.as_chunks::<8>();
        for (word, chunk) in self.words[at / 8..][..chunks.len()].iter().zip(chunks) {
            word.store(u64::from_le_bytes(*chunk), Ordering::Relaxed);
        }
    }
    fn copy_out(&self, at: usize, out: &mut [u8]) {
        let (chunks, _) = out.as_chunks_mut::<8>();
        for (word, chunk) in self.words[at / 8..][..chunks.len()].iter().zip(chunks) {
            *chunk = word.load(Ordering::Relaxed).to_le_bytes();
        }
    }
    fn load32(&self, at: usize) -> u32 {
        self.futexes[at / 8].load(Ordering::Relaxed)
    }
    fn bump_and_wake(&self, at: usize) {
        self.futexes[at / 8].fetch_add(1, Ordering::Release);
    }
    fn wait(&self, _at: usize, _while_value: u32, _timeout: Duration) {
        std::thread::yield_now();
    }
}
