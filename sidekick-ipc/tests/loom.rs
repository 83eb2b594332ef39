//! The ring's real protocol code under loom: every interleaving (within a bound on preemptions) of one writer and one
//! reader over commit, reuse, sleep and wake, and of the memory orders that the model knows. Each weakened variant
//! must be found.
//!
//! ```sh
//! RUSTFLAGS="--cfg loom" CARGO_TARGET_DIR=target/loom cargo test --release -p sidekick-ipc --test loom
//! ```
//!
//! Not modelled by loom: load buffering, so a relaxed load of `head` is not found. It stays Acquire by argument.
#![cfg(loom)]

use std::sync::atomic::Ordering::{self, Relaxed};
use std::time::Duration;

use loom::sync::atomic::{AtomicU32, AtomicU64, fence};
use loom::sync::{Arc, Condvar, Mutex};
use loom::thread;
use sidekick_ipc::FrameKind;
use sidekick_ipc::frame::{FRAME_HEADER_BYTES, seal};
use sidekick_ipc::layout::RingLayout;
use sidekick_ipc::region::Region;
use sidekick_ipc::ring::{Consumer, Notifier, Producer, SleepWords, kick, sleep};

const TAIL: usize = 0;
const HEAD: usize = 8;
const DRAIN: SleepWords = SleepWords {
    waiting: 16,
    wake: 24,
};
const SPACE: SleepWords = SleepWords {
    waiting: 32,
    wake: 40,
};
const DATA: usize = 48;
/// Two frames without payload.
const CAPACITY: u64 = 64;
const LAYOUT: RingLayout = RingLayout {
    tail: TAIL,
    head: HEAD,
    data: DATA,
    capacity: CAPACITY,
};
const WORDS: usize = (DATA + CAPACITY as usize) / 8;
const SEED: u32 = 77;

struct Shared {
    words: Vec<AtomicU64>,
    futexes: Vec<AtomicU32>,
    // The kernel compares the word under the lock that a wake takes too.
    bucket: Mutex<()>,
    woken: Condvar,
}

#[derive(Clone, Copy, Debug, Default, PartialEq)]
enum Variant {
    #[default]
    Good,
    RelaxedTail,
    NoFenceInKick,
    NoFenceInSleep,
    NoRecheck,
    ReleasesFirst,
    CommitsFirst,
    /// A value in two frames, with a commit for each.
    CommitsEachFragment,
    /// The frame hook looks how far the ring is only after it has woken.
    CountsAfterTheKick,
}

/// One thread's view of the shared words, weakened where a variant says.
struct View {
    shared: Arc<Shared>,
    variant: Variant,
    fences: bool,
}

impl Region for View {
    fn load(&self, at: usize, order: Ordering) -> u64 {
        self.shared.words[at / 8].load(order)
    }
    fn store(&self, at: usize, value: u64, order: Ordering) {
        let relaxed = at == TAIL && self.variant == Variant::RelaxedTail;
        self.shared.words[at / 8].store(value, if relaxed { Relaxed } else { order });
    }
    fn copy_in(&self, at: usize, bytes: &[u8]) {
        if self.variant == Variant::CommitsFirst {
            let tail = self.shared.words[TAIL / 8].load(Relaxed);
            self.shared.words[TAIL / 8].store(tail + bytes.len() as u64, Ordering::Release);
        }
        for (i, chunk) in bytes.chunks_exact(8).enumerate() {
            let word = u64::from_le_bytes(chunk.try_into().unwrap());
            self.shared.words[at / 8 + i].store(word, Relaxed);
        }
    }
    fn copy_out(&self, at: usize, out: &mut [u8]) {
        for (i, chunk) in out.chunks_exact_mut(8).enumerate() {
            chunk.copy_from_slice(&self.shared.words[at / 8 + i].load(Relaxed).to_le_bytes());
        }
    }
    fn fence(&self) {
        if self.fences {
            fence(Ordering::SeqCst);
        }
    }
    fn load32(&self, at: usize) -> u32 {
        self.shared.futexes[at / 8].load(Relaxed)
    }
    fn bump_and_wake(&self, at: usize) {
        self.shared.futexes[at / 8].fetch_add(1, Ordering::Release);
        let _bucket = self.shared.bucket.lock().unwrap();
        self.shared.woken.notify_all();
    }
    /// Without a timeout: a wake that gets lost is a deadlock, which loom reports.
    fn wait(&self, at: usize, while_value: u32, _timeout: Duration) {
        let bucket = self.shared.bucket.lock().unwrap();
        if self.shared.futexes[at / 8].load(Relaxed) == while_value {
            drop(self.shared.woken.wait(bucket).unwrap());
        }
    }
}

/// Writes `records` frames, waiting for space if `may_wait` (else it stops at a full ring), and reads them.
fn run(variant: Variant, records: u64) {
    let shared = Arc::new(Shared {
        words: (0..WORDS).map(|_| AtomicU64::new(0)).collect(),
        futexes: (0..DATA / 8).map(|_| AtomicU32::new(0)).collect(),
        bucket: Mutex::new(()),
        woken: Condvar::new(),
    });
    let view = |fences| View {
        shared: Arc::clone(&shared),
        variant,
        fences,
    };
    let writer_view = view(variant != Variant::NoFenceInKick);
    let reader_view = view(variant != Variant::NoFenceInSleep);
    let writer = thread::spawn(move || {
        let mut producer = Producer::attach(&writer_view, LAYOUT);
        for seq in 1..=records {
            let mut frame = [0; FRAME_HEADER_BYTES];
            seal(&mut frame, SEED, FrameKind::Record as u16, 0, seq, seq);
            while producer.publish(&frame).is_err() {
                sleep(&&writer_view, SPACE, Duration::MAX, || {
                    producer.has_room(frame.len())
                });
            }
            kick(&&writer_view, DRAIN);
        }
    });
    let mut consumer = Consumer::new(&reader_view, LAYOUT, SEED, 0, FrameKind::is_uplink);
    let mut next = 1;
    let mut out = Vec::new();
    while next <= records {
        let Some(header) = consumer.peek().expect("a header that makes sense") else {
            let position = consumer.position();
            sleep(&&reader_view, DRAIN, Duration::MAX, || {
                variant != Variant::NoRecheck
                    && reader_view.load(TAIL, Ordering::Acquire) != position
            });
            continue;
        };
        assert_eq!(header.seq, next);
        if variant == Variant::ReleasesFirst {
            consumer.release(consumer.position() + 32);
            kick(&&reader_view, SPACE);
        }
        consumer.take(header, &mut out).expect("a whole frame");
        next += 1;
        if variant != Variant::ReleasesFirst {
            consumer.release(consumer.position());
            kick(&&reader_view, SPACE);
        }
    }
    writer.join().unwrap();
}

/// One thread records, the frame hook of another wakes for what is new: a frame amid the record, and one after it.
fn run_frames(variant: Variant) {
    let shared = Arc::new(Shared {
        words: (0..WORDS).map(|_| AtomicU64::new(0)).collect(),
        futexes: (0..DATA / 8).map(|_| AtomicU32::new(0)).collect(),
        bucket: Mutex::new(()),
        woken: Condvar::new(),
    });
    let view = || View {
        shared: Arc::clone(&shared),
        variant,
        fences: true,
    };
    let (recorder_view, frame_view, reader_view) = (view(), view(), view());
    let last_seq = Arc::new(AtomicU64::new(0));
    let engine = thread::spawn(move || {
        let recorded = Arc::clone(&last_seq);
        let recorder = thread::spawn(move || {
            let mut producer = Producer::attach(&recorder_view, LAYOUT);
            let mut frame = [0; FRAME_HEADER_BYTES];
            seal(&mut frame, SEED, FrameKind::Record as u16, 0, 1, 1);
            producer.publish(&frame).expect("an empty ring");
            recorded.store(1, Ordering::Release);
        });
        let notifier = Notifier::default();
        let mut told = 0;
        let mut frame = || {
            let published = || last_seq.load(Ordering::Acquire);
            if variant != Variant::CountsAfterTheKick {
                notifier.tell(&&frame_view, DRAIN, published);
            } else if published() != told || told == 0 {
                kick(&&frame_view, DRAIN);
                told = published();
            }
        };
        frame();
        recorder.join().unwrap();
        frame();
    });
    let mut consumer = Consumer::new(&reader_view, LAYOUT, SEED, 0, FrameKind::is_uplink);
    while consumer
        .peek()
        .expect("a header that makes sense")
        .is_none()
    {
        sleep(&&reader_view, DRAIN, Duration::MAX, || {
            reader_view.load(TAIL, Ordering::Acquire) != 0
        });
    }
    engine.join().unwrap();
}

/// A value in two frames, in a ring of exactly that size, twice: who sees the first frame has the second.
fn run_fragments(variant: Variant) {
    let shared = Arc::new(Shared {
        words: (0..WORDS).map(|_| AtomicU64::new(0)).collect(),
        futexes: (0..DATA / 8).map(|_| AtomicU32::new(0)).collect(),
        bucket: Mutex::new(()),
        woken: Condvar::new(),
    });
    let view = || View {
        shared: Arc::clone(&shared),
        variant,
        fences: true,
    };
    let (writer_view, reader_view) = (view(), view());
    let writer = thread::spawn(move || {
        let mut producer = Producer::attach(&writer_view, LAYOUT);
        for first in [1, 3] {
            let header = |seq: u64| {
                let mut frame = [0; FRAME_HEADER_BYTES];
                seal(&mut frame, SEED, FrameKind::Op as u16, 0, seq, seq);
                frame
            };
            let mut groups = vec![vec![header(first), header(first + 1)]];
            if variant == Variant::CommitsEachFragment {
                groups = vec![vec![header(first)], vec![header(first + 1)]];
            }
            for group in groups {
                let bytes = group.len() * FRAME_HEADER_BYTES;
                let pieces = || group.iter().map(|header| (*header, &[][..]));
                while producer.publish_together(bytes, pieces()).is_err() {
                    sleep(&&writer_view, SPACE, Duration::MAX, || {
                        producer.has_room(bytes)
                    });
                }
            }
            kick(&&writer_view, DRAIN);
        }
    });
    let mut consumer = Consumer::new(&reader_view, LAYOUT, SEED, 0, FrameKind::is_uplink);
    let mut out = Vec::new();
    let mut next = 1;
    while next <= 4 {
        let Some(header) = consumer.peek().expect("a header that makes sense") else {
            assert!(next % 2 == 1, "a whole value");
            let position = consumer.position();
            sleep(&&reader_view, DRAIN, Duration::MAX, || {
                reader_view.load(TAIL, Ordering::Acquire) != position
            });
            continue;
        };
        assert_eq!(header.seq, next);
        consumer.take(header, &mut out).expect("a whole frame");
        next += 1;
        if next % 2 == 1 {
            consumer.release(consumer.position());
            kick(&&reader_view, SPACE);
        }
    }
    writer.join().unwrap();
}

/// For [`check`]: what runs instead of so many records.
const FRAMES_RUN: u64 = 0;
const FRAGMENTS_RUN: u64 = u64::MAX;

fn check(variant: Variant, records: u64, preemptions: usize) {
    let mut builder = loom::model::Builder::new();
    builder.preemption_bound = Some(preemptions);
    builder.max_branches = 100_000;
    // What is to be found is looked for as long as it takes.
    builder.max_duration = matches!(variant, Variant::Good).then_some(Duration::from_secs(20));
    let runs = std::sync::Arc::new(std::sync::atomic::AtomicU64::new(0));
    let counted = std::sync::Arc::clone(&runs);
    builder.check(move || {
        counted.fetch_add(1, Relaxed);
        match records {
            FRAMES_RUN => run_frames(variant),
            FRAGMENTS_RUN => run_fragments(variant),
            _ => run(variant, records),
        }
    });
    println!(
        "{variant:?}, {records} records: {} interleavings",
        runs.load(Relaxed)
    );
}

#[test]
fn commit_and_wake_hold_in_every_interleaving() {
    check(Variant::Good, 2, 5);
}

#[test]
fn reuse_and_waiting_for_space_hold_in_every_interleaving() {
    check(Variant::Good, 3, 3);
}

#[test]
fn a_frame_hook_that_wakes_only_for_what_is_new_holds_in_every_interleaving() {
    check(Variant::Good, 0, 4);
}

#[test]
fn all_frames_of_a_value_come_at_once_in_every_interleaving() {
    check(Variant::Good, FRAGMENTS_RUN, 4);
}

/// Runs the model in a child, for loom may abort where it finds something, and expects it to find `what`.
fn must_fail(test: &str, what: &str, variant: Variant, records: u64) {
    if std::env::var_os("SIDEKICK_LOOM_CHILD").is_some() {
        check(variant, records, 3);
        return;
    }
    let output = std::process::Command::new(std::env::current_exe().unwrap())
        .args(["--exact", test, "--nocapture"])
        .env("SIDEKICK_LOOM_CHILD", "1")
        .output()
        .unwrap();
    let said = String::from_utf8_lossy(&output.stderr);
    assert!(!output.status.success(), "{variant:?} was not found");
    assert!(said.contains(what), "{variant:?} failed otherwise: {said}");
}

const TORN: &str = "a whole frame";
const NO_FRAME: &str = "a header that makes sense";
const LOST_WAKE: &str = "deadlock";

#[test]
fn a_relaxed_store_of_tail_is_found() {
    must_fail(
        "a_relaxed_store_of_tail_is_found",
        NO_FRAME,
        Variant::RelaxedTail,
        2,
    );
}

#[test]
fn a_commit_before_the_words_is_found() {
    must_fail(
        "a_commit_before_the_words_is_found",
        NO_FRAME,
        Variant::CommitsFirst,
        1,
    );
}

#[test]
fn a_commit_for_each_frame_of_a_value_is_found() {
    let test = "a_commit_for_each_frame_of_a_value_is_found";
    must_fail(
        test,
        "a whole value",
        Variant::CommitsEachFragment,
        FRAGMENTS_RUN,
    );
}

#[test]
fn a_missing_fence_in_kick_is_found() {
    must_fail(
        "a_missing_fence_in_kick_is_found",
        LOST_WAKE,
        Variant::NoFenceInKick,
        2,
    );
}

#[test]
fn a_missing_fence_in_sleep_is_found() {
    must_fail(
        "a_missing_fence_in_sleep_is_found",
        LOST_WAKE,
        Variant::NoFenceInSleep,
        2,
    );
}

#[test]
fn a_missing_second_look_before_sleeping_is_found() {
    let test = "a_missing_second_look_before_sleeping_is_found";
    must_fail(test, LOST_WAKE, Variant::NoRecheck, 2);
}

#[test]
fn a_release_before_the_copy_is_found() {
    must_fail(
        "a_release_before_the_copy_is_found",
        TORN,
        Variant::ReleasesFirst,
        3,
    );
}

#[test]
fn a_count_that_is_taken_after_the_kick_is_found() {
    let test = "a_count_that_is_taken_after_the_kick_is_found";
    must_fail(test, LOST_WAKE, Variant::CountsAfterTheKick, 0);
}
