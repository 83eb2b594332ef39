//! What several tests of the ring share.
#![allow(dead_code)]

use std::os::unix::fs::FileExt;
use std::path::Path;
use std::time::{Duration, Instant};

use sidekick_ipc::*;
use uuid::Uuid;

pub fn options(dir: &Path, when_full: WhenFull) -> SessionOptions {
    SessionOptions {
        runtime_dir: dir.to_owned(),
        launch: 1,
        incarnation: 1,
        ring_bytes: 256 << 10,
        when_full,
        block_max: Duration::from_millis(2),
        spill_bytes_max: 64 << 20,
        keep: Vec::new(),
        library_version: "0.1.0".to_owned(),
        game_version: String::new(),
    }
}

/// Attaches to the newest ring file as to a session of which nothing is committed.
pub fn attach(dir: &Path) -> Attachment {
    let names = scan(dir).unwrap();
    let mut attachment = Attachment::open(names.last().unwrap()).unwrap();
    attachment.resume(1, ReaderCheckpoint::default());
    attachment
}

/// A value that depends on the number, in size too.
pub fn body(seq: u64) -> Vec<u8> {
    big_body(seq, (seq.wrapping_mul(37) % 211) as usize)
}

pub fn big_body(seq: u64, bytes: usize) -> Vec<u8> {
    (0..bytes)
        .map(|k| (seq as usize).wrapping_mul(7).wrapping_add(k) as u8)
        .collect()
}

/// What a run of frames holds, in order.
#[derive(Clone, Debug, PartialEq)]
pub enum Item {
    Record(u64, Vec<u8>),
    Gap(u64, Gap),
    Hole(u64, Hole),
    /// A frame of a request: number, flags, payload.
    Fragment(u64, u32, Vec<u8>),
}

pub fn items(bytes: &[u8], epoch: &Uuid) -> Vec<Item> {
    frames(bytes, epoch)
        .map(|frame| {
            let frame = frame.unwrap();
            let seq = frame.header.seq;
            match FrameKind::from_u16(frame.header.kind).unwrap() {
                FrameKind::Record => {
                    Item::Record(seq, Record::parse(frame.payload).unwrap().variant.to_vec())
                }
                FrameKind::Gap => Item::Gap(seq, Gap::parse(frame.payload).unwrap()),
                FrameKind::Hole => Item::Hole(seq, Hole::parse(frame.payload).unwrap()),
                FrameKind::Op | FrameKind::Query => {
                    Item::Fragment(seq, frame.header.flags, frame.payload.to_vec())
                }
                FrameKind::Message => panic!("a message in the uplink"),
            }
        })
        .collect()
}

/// Checks that numbers are dense from `next` on, holes included; returns the number after the last.
pub fn check_dense(items: &[Item], mut next: u64) -> u64 {
    for item in items {
        let (seq, covers) = match item {
            Item::Record(seq, _) | Item::Gap(seq, _) | Item::Fragment(seq, ..) => (*seq, 1),
            Item::Hole(seq, hole) => (*seq, hole.count),
        };
        assert_eq!(seq, next, "{item:?}");
        next += covers;
    }
    next
}

/// Drains all there is, committing nothing.
pub fn drain_all(attachment: &mut Attachment) -> (Vec<Item>, Vec<Corruption>) {
    let (mut all, mut damage) = (Vec::new(), Vec::new());
    loop {
        let mut out = Vec::new();
        let drained = attachment.drain(&mut out, 100_000).unwrap();
        let got = items(&out, &attachment.info().epoch);
        assert_eq!(
            check_dense(&got, drained.first_seq),
            drained.first_seq + drained.count
        );
        all.extend(got);
        damage.extend(drained.corruption);
        if !drained.more {
            return (all, damage);
        }
    }
}

/// Drains and releases, as if committed.
pub fn commit_all(attachment: &mut Attachment) -> Vec<Item> {
    let (items, damage) = drain_all(attachment);
    assert_eq!(damage, []);
    attachment.release(attachment.next_seq() - 1, &attachment.checkpoint());
    items
}

/// Overwrites bytes of a ring file as a wild pointer in the engine would.
pub fn scribble(path: &Path, at: u64, bytes: &[u8]) {
    let file = std::fs::OpenOptions::new().write(true).open(path).unwrap();
    file.write_all_at(bytes, at).unwrap();
}

pub fn spill_files(dir: &Path) -> usize {
    let names = std::fs::read_dir(dir)
        .unwrap()
        .map(|e| e.unwrap().file_name());
    names
        .filter(|n| n.to_str().unwrap().ends_with(".spill"))
        .count()
}

/// Waits for something that must come.
pub fn eventually(what: &str, mut is_so: impl FnMut() -> bool) {
    let deadline = Instant::now() + Duration::from_secs(120);
    while !is_so() {
        assert!(Instant::now() < deadline, "{what} did not come");
        std::thread::sleep(Duration::from_millis(1));
    }
}
