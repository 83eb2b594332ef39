//! A reader against hostile bytes: hundreds of thousands of mutated images, a writer that scribbles while they are read,
//! and whole attachments with damaged words, frames, spill files and checkpoints. Overflow checks are on in this
//! profile: no panic, no endless loop, no frame accepted that was not written.
//!
//! `SIDEKICK_FUZZ` multiplies the number of images.

mod support;

use std::sync::atomic::AtomicBool;
use std::sync::atomic::Ordering::{Acquire, Relaxed, Release};
use std::sync::{Arc, LazyLock};
use std::time::{Duration, Instant};

use sidekick_ipc::frame::{FRAME_HEADER_BYTES, frame_bytes, hole_cause, seal};
use sidekick_ipc::layout::RingLayout;
use sidekick_ipc::region::{HeapRegion, Mapping, Region};
use sidekick_ipc::ring::{Consumer, Producer};
use sidekick_ipc::*;
use support::*;

struct Random(u64);

impl Random {
    fn next(&mut self) -> u64 {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        self.0
    }
    fn below(&mut self, n: u64) -> u64 {
        self.next() % n
    }
    /// A value that a wild or hostile writer might leave.
    fn word(&mut self, was: u64) -> u64 {
        match self.below(7) {
            0 => self.next(),
            1 => u64::MAX - self.below(64),
            2 => self.below(70_000),
            3 => was ^ (1 << self.below(64)),
            4 => was.wrapping_add(8 * self.below(64)),
            5 => was.wrapping_sub(8 * self.below(64)),
            _ => (was & 0xffff_ffff_0000_0000) | self.below(1 << 17),
        }
    }
}

fn rounds(base: u64) -> u64 {
    let times = std::env::var("SIDEKICK_FUZZ")
        .ok()
        .and_then(|n| n.parse().ok())
        .unwrap_or(1);
    base * times
}

const SEED: u32 = 99;
const LAYOUT: RingLayout = RingLayout {
    tail: 0,
    head: 8,
    data: 64,
    capacity: 4096,
};

fn publish(producer: &mut Producer<Arc<HeapRegion>>, seq: u64) -> bool {
    let value = body(seq);
    let mut frame = vec![0; FRAME_HEADER_BYTES];
    frame.extend_from_slice(&value);
    frame.resize(frame_bytes(value.len()), 0);
    seal(&mut frame, SEED, 1, value.len(), seq, seq);
    producer.publish(&frame).is_ok()
}

/// The values of the first numbers, which are compared millions of times.
static KNOWN: LazyLock<Vec<Vec<u8>>> = LazyLock::new(|| (0..200).map(body).collect());

/// Reads all there is, as the watchdog does; returns (accepted, damage).
fn read(consumer: &mut Consumer<Arc<HeapRegion>>, mut next: u64, steps: u64) -> (u64, u64) {
    let (mut accepted, mut damage, mut out) = (0, 0, Vec::new());
    for _ in 0..steps {
        out.clear();
        let result = match consumer.peek() {
            Ok(None) => return (accepted, damage),
            Ok(Some(header)) => consumer.take(header, &mut out).map(|()| header.seq),
            Err(error) => Err(error),
        };
        match result {
            Ok(seq) => {
                accepted += 1;
                let value = KNOWN
                    .get(seq as usize)
                    .cloned()
                    .unwrap_or_else(|| body(seq));
                assert_eq!(
                    out[FRAME_HEADER_BYTES..][..value.len()],
                    value[..],
                    "a wrong frame"
                );
                next = seq + 1;
            }
            Err(_) => {
                damage += 1;
                if !consumer.resync(|seq| seq >= next) {
                    return (accepted, damage);
                }
            }
        }
    }
    (accepted, damage)
}

#[test]
fn mutated_rings_give_no_wrong_frame_and_no_panic() {
    let mut random = Random(0x9e37_79b9_7f4a_7c15);
    let region = Arc::new(HeapRegion::new(64 + 4096));
    // Positions near the end of u64 in every second run.
    let (mut images, mut accepted, mut damaged) = (0u64, 0, 0);
    for start in [0u64, u64::MAX - 4095 - 2048, 1 << 40] {
        let start = start & !7;
        region.store(0, start, Relaxed);
        region.store(8, start, Relaxed);
        let mut producer = Producer::attach(Arc::clone(&region), LAYOUT);
        let mut seq = 0;
        // Two laps, so that old frames lie beyond the tail.
        let mut first = 1;
        let mut lag = std::collections::VecDeque::new();
        while seq < 120 {
            if publish(&mut producer, seq + 1) {
                seq += 1;
                lag.push_back(producer.tail());
            } else {
                region.store(8, lag.pop_front().unwrap(), Release);
                first += 1;
            }
        }
        let image: Vec<u64> = (0..(64 + 4096) / 8)
            .map(|i| region.load(8 * i, Relaxed))
            .collect();
        let (head, tail) = (image[1], image[0]);
        assert!(read(&mut consumer(&region, head), first, 1000).0 > 20);
        for _ in 0..rounds(50_000) {
            let mut touched = Vec::new();
            for _ in 0..=random.below(4) {
                let at = match random.below(4) {
                    0 => 0,
                    // A word of the first frame.
                    1 => 64 + ((head + 8 * random.below(4)) & 4095) as usize,
                    _ => 64 + 8 * random.below(512) as usize,
                };
                let value = if random.below(6) == 0 {
                    // A whole frame's start, moved to somewhere else.
                    image[8 + random.below(512) as usize]
                } else {
                    random.word(region.load(at, Relaxed))
                };
                region.store(at, value, Relaxed);
                touched.push(at);
            }
            let (good, bad) = read(&mut consumer(&region, head), first, 1000);
            assert!(
                good <= 4096 / 32 * 2,
                "{good} frames of a ring that holds {}",
                4096 / 32
            );
            accepted += good;
            damaged += u64::from(bad > 0);
            images += 1;
            for at in touched {
                region.store(at, image[at / 8], Relaxed);
            }
        }
        assert_eq!(region.load(0, Relaxed), tail);
    }
    println!("{images} images, {accepted} frames accepted, {damaged} images with damage");
    assert!(damaged > images / 10 && accepted > images);
}

fn consumer(region: &Arc<HeapRegion>, position: u64) -> Consumer<Arc<HeapRegion>> {
    Consumer::new(
        Arc::clone(region),
        LAYOUT,
        SEED,
        position,
        FrameKind::is_uplink,
    )
}

/// The check fails on a reader that trusts: the mutator does produce wrong frames with plausible headers.
#[test]
fn a_reader_without_checksums_would_be_fooled() {
    let region = Arc::new(HeapRegion::new(64 + 4096));
    let mut producer = Producer::attach(Arc::clone(&region), LAYOUT);
    assert!((1..=10).all(|seq| publish(&mut producer, seq)));
    let mut random = Random(5);
    let mut fooled = 0;
    for _ in 0..1000 {
        let at = 64 + 8 * random.below(40) as usize;
        let was = region.load(at, Relaxed);
        region.store(at, random.word(was), Relaxed);
        let mut reader = consumer(&region, 0);
        if let Ok(Some(header)) = reader.peek() {
            let mut raw = vec![0; header.frame_bytes()];
            region.copy_out(64, &mut raw);
            let value = body(header.seq);
            let payload = &raw[FRAME_HEADER_BYTES..FRAME_HEADER_BYTES + header.len as usize];
            fooled += u32::from(payload != &value[..]);
        }
        region.store(at, was, Relaxed);
    }
    assert!(fooled > 0);
}

#[test]
fn a_writer_that_scribbles_while_it_is_read_gives_no_wrong_frame() {
    let region = Arc::new(HeapRegion::new(64 + 4096));
    let done = AtomicBool::new(false);
    let (mut accepted, mut damage) = (0, 0);
    std::thread::scope(|scope| {
        scope.spawn(|| {
            let mut random = Random(77);
            let mut producer = Producer::attach(Arc::clone(&region), LAYOUT);
            let (mut seq, mut refused) = (0, 0);
            while !done.load(Acquire) {
                if publish(&mut producer, seq + 1) {
                    (seq, refused) = (seq + 1, 0);
                } else {
                    refused += 1;
                    std::thread::yield_now();
                }
                if refused > 20 {
                    // The words are spoiled for good. A new file would start so.
                    region.store(8, 0, Relaxed);
                    region.store(0, 0, Relaxed);
                    producer = Producer::attach(Arc::clone(&region), LAYOUT);
                }
                if random.below(5) == 0 {
                    let at = if random.below(8) == 0 {
                        0
                    } else {
                        64 + 8 * random.below(512) as usize
                    };
                    region.store(at, random.word(region.load(at, Relaxed)), Relaxed);
                }
            }
        });
        let mut reader = consumer(&region, 0);
        let deadline = Instant::now() + Duration::from_secs(300);
        while accepted < rounds(20_000) && Instant::now() < deadline {
            let (good, bad) = read(&mut reader, 1, 200);
            accepted += good;
            damage += bad;
            if let Ok(tail) = reader.tail() {
                reader.seek(tail);
                reader.release(tail);
            } else {
                reader.seek(region.load(8, Relaxed) & !7);
            }
        }
        done.store(true, Release);
    });
    println!("{accepted} frames accepted, {damage} times damage");
    assert!(accepted >= rounds(20_000) && damage > 100);
}

/// Words, frames, spill bytes and the checkpoint are damaged; what comes out is dense, and each record in it is right.
#[test]
fn damaged_sessions_give_right_records_or_holes() {
    let dir = tempfile::tempdir().unwrap();
    let session = Session::create(options(dir.path(), WhenFull::Spill)).unwrap();
    for seq in 1..=300 {
        session.record("test", &big_body(seq, 1000)).unwrap();
    }
    let name = scan(dir.path()).unwrap().remove(0);
    let file = std::fs::File::options()
        .read(true)
        .write(true)
        .open(&name.path)
        .unwrap();
    // Writable everywhere, and more: also what the engine cannot write.
    let words = Mapping::create(&file, layout::file_bytes(256 << 10)).unwrap();
    let spill = std::fs::read_dir(dir.path())
        .unwrap()
        .map(|e| e.unwrap().path())
        .find(|path| path.extension().is_some_and(|e| e == "spill"))
        .unwrap();
    let spilled = std::fs::read(&spill).unwrap();
    let mut random = Random(4242);
    let (mut records, mut holes) = (0u64, 0u64);
    for _ in 0..rounds(1500) {
        let mut touched = Vec::new();
        for _ in 0..random.below(4) {
            let at = match random.below(5) {
                0 => layout::P_TAIL,
                1 => layout::P_SPILL_END,
                2 => layout::C_HEAD,
                _ => layout::D + 8 * random.below((256 << 10) / 8) as usize,
            };
            let was = words.load(at, Relaxed);
            touched.push((at, was));
            words.store(at, random.word(was), Relaxed);
        }
        let mut bytes = spilled.clone();
        match random.below(6) {
            0 => bytes.truncate(random.below(bytes.len() as u64) as usize),
            1 => {
                let at = random.below(bytes.len() as u64) as usize;
                bytes[at] ^= 1 << random.below(8);
            }
            _ => {}
        }
        std::fs::write(&spill, &bytes).unwrap();
        let mut attachment = Attachment::open(&name).unwrap();
        let (ring_position, spill_offset) = (1040 * random.below(250), 1040 * random.below(50));
        let checkpoint = match random.below(4) {
            0 => ReaderCheckpoint {
                rotation: random.below(3) as u32,
                ring_position: random.word(ring_position),
                spill_file: random.below(3) as u32,
                spill_offset: random.word(spill_offset),
            },
            _ => ReaderCheckpoint::default(),
        };
        attachment.resume(1, checkpoint);
        let mut next = 1;
        for call in 0.. {
            assert!(call < 1000, "it does not end");
            let mut out = Vec::new();
            let drained = attachment.drain(&mut out, 50_000).unwrap();
            assert_eq!(drained.first_seq, next);
            let all = items(&out, &session.epoch());
            next = check_dense(&all, next);
            assert_eq!(next, drained.first_seq + drained.count);
            for item in all {
                match item {
                    Item::Record(seq, value) => {
                        assert_eq!(value, big_body(seq, 1000));
                        records += 1;
                    }
                    Item::Hole(_, hole) => {
                        assert!((hole_cause::CORRUPT..=hole_cause::SPILL).contains(&hole.cause));
                        holes += 1;
                    }
                    Item::Gap(..) | Item::Fragment(..) => panic!("{item:?}"),
                }
            }
            attachment.release(next - 1, &drained.checkpoint);
            if !drained.more {
                break;
            }
        }
        drop(attachment);
        for (at, was) in touched.into_iter().rev() {
            words.store(at, was, Relaxed);
        }
        words.store(layout::C_HEAD, 0, Relaxed);
        words.store(layout::C_ACK_SEQ, 0, Relaxed);
        std::fs::write(&spill, &spilled).unwrap();
    }
    println!("{records} records, {holes} holes");
    assert!(records > 0 && holes > 0);
    let copies = std::fs::read_dir(dir.path().join("quarantine"))
        .unwrap()
        .count();
    assert!(copies <= 8, "{copies} copies");
    // Nothing sticks: undamaged, all of it is there.
    let mut attachment = attach(dir.path());
    assert_eq!(drain_all(&mut attachment).0.len(), 300);
}

/// The other direction: whatever stands in the control words and the downlink, no method of the game's side panics, hangs
/// or speaks of numbers that it never gave out.
#[test]
fn a_hostile_watchdog_cannot_break_the_game() {
    for when_full in [WhenFull::Spill, WhenFull::Block, WhenFull::Refuse] {
        let dir = tempfile::tempdir().unwrap();
        let mut options = options(dir.path(), when_full);
        options.spill_bytes_max = 1 << 20;
        options.block_max = Duration::from_micros(20);
        let session = Session::create(options).unwrap();
        let path = scan(dir.path()).unwrap().remove(0).path;
        let file = std::fs::File::options()
            .read(true)
            .write(true)
            .open(&path)
            .unwrap();
        let words = Mapping::create(&file, layout::file_bytes(256 << 10)).unwrap();
        // Some messages, so that damage in them means something.
        let attachment = attach(dir.path());
        let mut random = Random(31);
        let (mut scratch, mut messages, mut last) = (Vec::new(), 0, 0);
        for round in 0..rounds(4000) {
            let _ = attachment.send(&DownlinkMessage {
                kind: 1,
                request: round,
                body: vec![1; 99],
            });
            for _ in 0..random.below(6) {
                let at = match random.below(4) {
                    0 => layout::DOWN_TAIL,
                    1 => layout::DOWN_D + 8 * random.below(2000) as usize,
                    2 => layout::C_HEAD + 8 * random.below(3) as usize,
                    // All control words but the one that makes files.
                    _ => match layout::C_GENERATION + 8 * random.below(18) as usize {
                        layout::C_ROTATE_TO => layout::C_BACKLOG,
                        at => at,
                    },
                };
                words.store(at, random.word(words.load(at, Relaxed)), Relaxed);
            }
            for _ in 0..random.below(20) {
                if let Ok(seq) = session.record("test", &big_body(round, 300)) {
                    assert!(seq > last);
                    last = seq;
                }
            }
            session.on_frame(Phase::Running);
            assert!(session.committed_seq() <= session.last_seq());
            assert!(session.uploaded_seq() <= session.last_seq());
            assert!(session.ring_used() <= session.ring_bytes());
            let _ = session.control();
            while let Some(message) = session.poll_downlink(&mut scratch) {
                assert_eq!(message.body, vec![1; 99]);
                messages += 1;
            }
        }
        assert!(
            last > 100 && messages > 100,
            "{last} records, {messages} messages"
        );
        words.store(layout::C_ROTATE_TO, u64::MAX, Relaxed);
        session.on_frame(Phase::Running);
        assert!(
            session.record("test", &[]).is_ok(),
            "a new file starts with sane words"
        );
    }
}
