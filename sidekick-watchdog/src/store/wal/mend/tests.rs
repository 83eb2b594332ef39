//! Every byte of a log is changed in turn, and nothing of it is lost; larger damage is not taken for a changed byte.

use std::collections::BTreeMap;
use std::fs;
use std::path::Path;

use bytes::Bytes;

use super::super::frame::broken::{WITHOUT, Without};
use super::super::frame::{EntryId, write_frame};
use super::super::recovery::{Reading, recover};
use super::super::segment::{HEADER_BYTES, segment_name};
use super::super::tests::{NODE, append, entries, id, memory_dir, options, wait};
use super::super::{LogEntry, LogReader, Part, Rot, Vote, Wal};
use super::*;

/// What a reader finds in a log.
#[derive(Debug, PartialEq)]
struct Seen {
    vote: Option<Vote>,
    purged: Option<EntryId>,
    committed: Option<EntryId>,
    entries: Vec<(u64, EntryId, Kind, Bytes)>,
}

/// What is in the log in `directory`, and which bytes were mended.
fn look(directory: &Path) -> Result<(Seen, Vec<MendedByte>), String> {
    let words = |error: super::super::WalError| error.to_string();
    // Who has others to get an entry from refuses a log with damage.
    recover(
        directory,
        Reading::Owner(Rot::Refused),
        |_, _| true,
        &mut |_, _| {},
    )
    .map_err(words)?;
    let (log, damage) = LogReader::beside(directory, |_, _| true, &mut |_, _| {}).map_err(words)?;
    if !damage.is_empty() {
        return Err(format!("{damage:?}"));
    }
    let (first, last) = log.bounds().unwrap_or((1, 0));
    let mut entries = Vec::new();
    for index in first..=last {
        let entry = log.read(index, Part::Whole).map_err(words)?;
        let entry = entry.ok_or("a hole")?;
        entries.push((index, entry.id, entry.kind, entry.payload));
    }
    let inner = log.shared.lock();
    let seen = Seen {
        vote: inner.vote,
        purged: inner.purged,
        committed: inner.committed,
        entries,
    };
    drop(inner);
    Ok((seen, log.mended()))
}

/// A log with frames of every kind in two segments.
fn write(directory: &Path) {
    let wal = Wal::open(&options(directory)).unwrap();
    let vote = |term| Vote {
        term,
        node: NODE,
        committed: true,
    };
    wait(|done| wal.save_vote(vote(1), done)).unwrap();
    let mut first = entries(0..=2, 60);
    first[0].kind = Kind::Blank;
    first[0].payload = Bytes::new();
    first[1].kind = Kind::Membership;
    append(&wal, first).unwrap();
    append(&wal, entries(3..=5, 61)).unwrap();
    wal.set_committed(Some(id(3)));
    wait(|done| wal.truncate(id(5), done)).unwrap();
    wait(|done| wal.purge(id(1), done)).unwrap();
    append(&wal, entries(5..=5, 62)).unwrap();
    // The first segment has no room for this one.
    append(&wal, entries(6..=6, 64_000)).unwrap();
    append(&wal, entries(7..=8, 63)).unwrap();
    wait(|done| wal.save_vote(vote(2), done)).unwrap();
    wal.set_committed(Some(id(8)));
    append(&wal, entries(9..=10, 64)).unwrap();
    wal.stop();
}

/// What the bytes of a segment are, as far as the frames reach; a long payload by some of its bytes.
fn kinds_of_bytes(bytes: &[u8]) -> Vec<(usize, String)> {
    let mut kinds: Vec<(usize, String)> = (0..60).map(|at| (at, "header".to_owned())).collect();
    kinds.extend(
        (60..HEADER_BYTES as usize)
            .step_by(97)
            .map(|at| (at, "nobody's".to_owned())),
    );
    let mut at = HEADER_BYTES as usize;
    while let Some(head) = bytes.get(at..).and_then(FrameHead::parse) {
        let len = head.len as usize;
        let step = if len > 1000 { 997 } else { 1 };
        for (field, range) in [
            ("length", 0..4),
            ("crc", 4..8),
            ("crc before", 8..12),
            ("kind", 12..13),
            ("flags", 13..14),
            ("zeros", 14..16),
            ("id", 16..40),
        ] {
            kinds.extend(range.map(|byte| (at + byte, format!("{field} of a {:?}", head.kind))));
        }
        let payload = (40..40 + len).step_by(step);
        kinds.extend(payload.map(|byte| (at + byte, format!("payload of a {:?}", head.kind))));
        let end = at + frame_bytes(len);
        kinds.extend((at + 40 + len..end).map(|byte| (byte, "nobody's".to_owned())));
        at = end;
    }
    let behind = (at..bytes.len()).step_by(997);
    kinds.extend(behind.map(|byte| (byte, "nobody's".to_owned())));
    kinds
}

/// Changes every byte of a log, one at a time; the first complaint, or how many bytes there were of each kind.
fn change_every_byte() -> Result<BTreeMap<String, u32>, String> {
    let dir = memory_dir();
    write(dir.path());
    let (whole, mended) = look(dir.path())?;
    assert_eq!(whole.entries.len(), 9);
    assert!(mended.is_empty() && whole.committed.is_some() && whole.purged.is_some());
    let mut random = fastrand::Rng::with_seed(5);
    let mut counts = BTreeMap::new();
    for segment in [1, 2] {
        let path = dir.path().join(segment_name(segment));
        let bytes = fs::read(&path).unwrap();
        for (at, kind) in kinds_of_bytes(&bytes) {
            let mut rotten = bytes.clone();
            rotten[at] ^= random.u8(1..);
            fs::write(&path, &rotten).unwrap();
            let told =
                |what: &dyn std::fmt::Debug| format!("{kind}, byte {at} of {segment}: {what:?}");
            let (seen, mended) = look(dir.path()).map_err(|error| told(&error))?;
            if seen != whole {
                return Err(told(&"it reads otherwise"));
            }
            let at = at as u64;
            let expected: Vec<MendedByte> = match kind == "nobody's" {
                true => Vec::new(),
                false => vec![MendedByte { segment, at }],
            };
            if mended != expected {
                return Err(told(&mended));
            }
            if fs::read(&path).unwrap() != rotten {
                return Err(told(&"the file was changed"));
            }
            *counts.entry(kind).or_default() += 1;
        }
        fs::write(&path, &bytes).unwrap();
    }
    Ok(counts)
}

#[test]
fn any_one_byte_of_a_log_costs_nothing() {
    let counts = change_every_byte().unwrap();
    for (kind, count) in &counts {
        println!("{kind}: {count} bytes, nothing is lost");
    }
    for kind in [
        "Vote",
        "Blank",
        "Normal",
        "Membership",
        "Truncate",
        "Purge",
        "Committed",
        "Seal",
    ] {
        assert!(counts.contains_key(&format!("kind of a {kind}")), "{kind}");
    }
}

/// Must be caught: a log that is not mended.
#[test]
fn a_log_that_is_not_mended_is_noticed() {
    WITHOUT.set(Some(Without::Mending));
    let result = change_every_byte();
    WITHOUT.set(None);
    result.unwrap_err();
}

const SALT: u64 = 0x0123_4567_89AB_CDEF;
const BEFORE: u32 = 77;

fn fold(payload: &[u8]) -> u64 {
    let words = payload.as_chunks::<8>().0.iter();
    words.fold(0, |folded, word| folded ^ u64::from_le_bytes(*word))
}

/// The last word of a payload makes all come to zero.
fn is_whole(payload: &[u8], _: bool) -> bool {
    fold(payload) == 0
}

/// As a version had it whose payloads tell by a crc alone.
fn has_its_crc(payload: &[u8]) -> bool {
    payload
        .split_last_chunk()
        .is_some_and(|(rest, crc)| crc32fast::hash(rest).to_le_bytes() == *crc)
}

fn sealed(mut payload: Vec<u8>) -> Vec<u8> {
    payload.extend(fold(&payload).to_le_bytes());
    payload
}

fn sealed_by_crc(mut payload: Vec<u8>) -> Vec<u8> {
    payload.extend(crc32fast::hash(&payload).to_le_bytes());
    payload
}

/// A frame with a payload of some more than `len` bytes, and one behind it. Where that begins.
fn frames(
    len: usize,
    seal: fn(Vec<u8>) -> Vec<u8>,
    random: &mut fastrand::Rng,
) -> (Vec<u8>, usize) {
    let payload = seal((0..len).map(|_| random.u8(..)).collect());
    let mut bytes = Vec::new();
    let crc = write_frame(&mut bytes, SALT, BEFORE, Kind::Normal, 1, id(4), &payload);
    let end = bytes.len();
    write_frame(&mut bytes, SALT, crc, Kind::Blank, 1, id(5), &[]);
    (bytes, end)
}

fn mend(bytes: &[u8], is_whole: IsWhole, previous: Option<u32>) -> Option<Mended> {
    let file = tempfile::tempfile_in("/dev/shm").or_else(|_| tempfile::tempfile());
    let file = file.unwrap();
    super::super::segment::write_all_at(&file, bytes, 0).unwrap();
    let mender = Mender {
        file: &file,
        file_bytes: bytes.len() as u64,
        salt: SALT,
        is_whole,
    };
    mender.mend(0, previous).unwrap()
}

#[test]
fn every_change_of_a_byte_is_found() {
    let mut random = fastrand::Rng::with_seed(6);
    let (whole, end) = frames(16, sealed, &mut random);
    let covered = FRAME_HEAD_BYTES + 24;
    for (at, change) in (0..covered).flat_map(|at| (1..=u8::MAX).map(move |by| (at, by))) {
        let mut bytes = whole.clone();
        bytes[at] ^= change;
        bytes.truncate(if change % 3 == 0 { end } else { whole.len() });
        let previous = (change % 2 == 0).then_some(BEFORE);
        let mended = mend(&bytes, is_whole, previous);
        let mended = mended.unwrap_or_else(|| panic!("byte {at} by {change}"));
        assert_eq!(mended.frame, whole[..covered], "byte {at} by {change}");
        assert_eq!((mended.at, mended.head.id), (at as u64, id(4)));
    }
}

/// How often damage of several bytes is taken for one of a single byte.
fn wrong_guesses(seal: fn(Vec<u8>) -> Vec<u8>, proof: IsWhole) -> u32 {
    let mut random = fastrand::Rng::with_seed(7);
    let (whole, end) = frames(8000, seal, &mut random);
    let mut wrong = 0;
    for _ in 0..10_000 {
        let mut bytes = whole.clone();
        let from = random.usize(FRAME_HEAD_BYTES..end - 80);
        let len = random.usize(2..64);
        for byte in &mut bytes[from..from + len] {
            *byte ^= random.u8(1..);
        }
        wrong += u32::from(mend(&bytes, proof, Some(BEFORE)).is_some());
    }
    wrong
}

#[test]
fn larger_damage_is_not_mended() {
    assert_eq!(wrong_guesses(sealed, is_whole), 0);
    // Who knows a crc alone says nothing of what was changed.
    let proof: IsWhole = |payload, is_changed| !is_changed && has_its_crc(payload);
    assert_eq!(wrong_guesses(sealed_by_crc, proof), 0);
}

/// Must be caught: whoever asks for no proof, or for one by another crc.
#[test]
fn a_crc_is_no_proof() {
    assert!(wrong_guesses(sealed, |_, _| true) > 0);
    assert!(wrong_guesses(sealed_by_crc, |payload, _| has_its_crc(payload)) > 0);
}

/// What an older frame left there names another crc, and is none whatever one byte of it is.
#[test]
fn a_frame_of_another_place_is_not_mended() {
    let mut random = fastrand::Rng::with_seed(8);
    let (mut bytes, _) = frames(96, sealed, &mut random);
    for at in [0, 4, 8, 12, 20, 60] {
        bytes[at] ^= 1;
        assert!(mend(&bytes, is_whole, Some(BEFORE)).is_some());
        assert!(
            mend(&bytes, is_whole, Some(BEFORE + 1)).is_none(),
            "byte {at}"
        );
        bytes[at] ^= 1;
    }
    assert!(
        mend(&bytes, is_whole, Some(BEFORE)).is_none(),
        "it is whole"
    );
    // The one behind it names another one.
    bytes.truncate(144);
    bytes[60] ^= 1;
    assert!(mend(&bytes, is_whole, Some(BEFORE)).is_some());
    write_frame(&mut bytes, SALT, 0, Kind::Blank, 1, id(5), &[]);
    assert!(mend(&bytes, is_whole, Some(BEFORE)).is_none());
}

/// Whatever lies there: nothing panics, and nothing is made of it.
#[test]
fn hostile_bytes_are_nothing() {
    let mut random = fastrand::Rng::with_seed(9);
    for _ in 0..3000 {
        let mut bytes: Vec<u8> = (0..random.usize(0..400)).map(|_| random.u8(..)).collect();
        // Mostly what looks like a head.
        if random.u8(0..8) > 0 && bytes.len() >= FRAME_HEAD_BYTES {
            let len = match random.u8(0..3) {
                0 => random.u32(..),
                1 => u32::MAX >> random.u32(0..32),
                _ => random.u32(0..400),
            };
            bytes[..4].copy_from_slice(&len.to_le_bytes());
            bytes[12] = random.u8(0..10);
            bytes[14..16].fill(0);
        }
        for previous in [None, Some(word(&bytes, 8))] {
            assert!(mend(&bytes, is_whole, previous).is_none());
        }
    }
}

/// A reader of an open log mends what it finds changed, and it is counted once.
#[test]
fn a_byte_that_changes_under_a_reader_costs_nothing() {
    let dir = memory_dir();
    let options = super::super::WalOptions {
        cache_bytes: 0,
        ..options(dir.path())
    };
    let wal = Wal::open(&options).unwrap();
    let written: Vec<LogEntry> = entries(0..=3, 300);
    append(&wal, written.clone()).unwrap();
    let (segment, from) = wal.place(2).unwrap();
    let path = dir.path().join(segment_name(segment));
    let read = |index| wal.read(index, Part::Whole);
    for at in (from..from + 340).step_by(13) {
        let whole = fs::read(&path).unwrap();
        let mut rotten = whole.clone();
        rotten[at as usize] ^= 0x81;
        fs::write(&path, &rotten).unwrap();
        for _ in 0..2 {
            let entry = read(2).unwrap().unwrap();
            assert_eq!(
                (entry.id, entry.payload),
                (id(2), written[2].payload.clone())
            );
        }
        let byte = MendedByte { segment, at };
        assert!(wal.mended().contains(&byte), "byte {at}");
        // A second one is beyond that.
        rotten[at as usize + 1] ^= 0x81;
        fs::write(&path, &rotten).unwrap();
        assert!(at + 1 >= from + 340 || read(2).is_err(), "byte {at}");
        fs::write(&path, &whole).unwrap();
    }
    assert_eq!(wal.stats().mended, wal.mended().len() as u64);
    wal.stop();
}
