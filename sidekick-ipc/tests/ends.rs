//! What a reader knows of a session's end when it did not come to it in order.

mod support;

use sidekick_ipc::frame::{gap_cause, hole_cause};
use sidekick_ipc::*;
use support::*;

/// Where the frame number `seq` of records of `bytes` begins in the file.
fn frame_at(seq: u64, bytes: usize) -> u64 {
    layout::D as u64 + (seq - 1) * frame::frame_bytes(bytes + 5) as u64
}

#[test]
fn an_orderly_end_is_known() {
    let dir = tempfile::tempdir().unwrap();
    let session = Session::create(options(dir.path(), WhenFull::Spill)).unwrap();
    let mut attachment = attach(dir.path());
    while spill_files(dir.path()) == 0 {
        session.record("test", &big_body(1, 1000)).unwrap();
    }
    drop(session);
    commit_all(&mut attachment);
    assert!(!attachment.is_tail_unknown());
    assert_eq!(attachment.untold_refusals(), []);
}

/// Nothing follows the damage, so no number tells how much is lost; and a successor that goes on from what was
/// committed meanwhile knows it, too.
#[test]
fn damage_at_the_very_end_leaves_the_tail_unknown() {
    let dir = tempfile::tempdir().unwrap();
    let session = Session::create(options(dir.path(), WhenFull::Spill)).unwrap();
    (1..=20).for_each(|seq| {
        session.record("test", &big_body(seq, 100)).unwrap();
    });
    drop(session);
    let mut attachment = attach(dir.path());
    let path = attachment.name().path.clone();
    scribble(&path, frame_at(20, 100) + 60, b"wild");
    let mut out = Vec::new();
    let drained = attachment.drain(&mut out, 1 << 20).unwrap();
    assert_eq!((drained.count, drained.lost), (19, 0));
    assert!(drained.corruption.is_some());
    assert!(attachment.is_tail_unknown());
    let mut successor = attach(dir.path());
    successor.resume(20, drained.checkpoint);
    assert_eq!(drain_all(&mut successor).0, []);
    assert!(successor.is_tail_unknown());
}

#[test]
fn damage_that_a_good_frame_follows_does_not() {
    let dir = tempfile::tempdir().unwrap();
    let session = Session::create(options(dir.path(), WhenFull::Spill)).unwrap();
    (1..=20).for_each(|seq| {
        session.record("test", &big_body(seq, 100)).unwrap();
    });
    drop(session);
    let mut attachment = attach(dir.path());
    let path = attachment.name().path.clone();
    scribble(&path, frame_at(19, 100) + 60, b"wild");
    assert_eq!(check_dense(&drain_all(&mut attachment).0, 1), 21);
    assert!(!attachment.is_tail_unknown());
}

#[test]
fn a_spill_file_that_is_gone_leaves_the_tail_unknown() {
    let dir = tempfile::tempdir().unwrap();
    let session = Session::create(options(dir.path(), WhenFull::Spill)).unwrap();
    while spill_files(dir.path()) == 0 {
        session.record("test", &big_body(1, 1000)).unwrap();
    }
    drop(session);
    for entry in std::fs::read_dir(dir.path()).unwrap() {
        let path = entry.unwrap().path();
        if path.extension().is_some_and(|found| found == "spill") {
            std::fs::remove_file(path).unwrap();
        }
    }
    let mut attachment = attach(dir.path());
    drain_all(&mut attachment);
    assert!(attachment.is_tail_unknown());
}

/// The engine dies before there is room for the gap frame; also when it had gone on to another file before.
#[test]
fn refusals_that_no_frame_tells_of_are_known_all_the_same() {
    for rotate in [false, true] {
        let dir = tempfile::tempdir().unwrap();
        let session = Session::create(options(dir.path(), WhenFull::Refuse)).unwrap();
        let fill = || while session.record("test", &big_body(0, 1000)).is_ok() {};
        fill();
        if rotate {
            attach(dir.path()).controls().set_rotate_to(1);
            session.on_frame(Phase::Running);
            fill();
        }
        for _ in 0..6 {
            session.record("test", &big_body(0, 1000)).unwrap_err();
        }
        let attachment = attach(dir.path());
        assert_eq!(attachment.info().rotation, u32::from(rotate));
        let [gap] = attachment.untold_refusals()[..] else {
            panic!("{:?}", attachment.untold_refusals())
        };
        let beat = attachment.heartbeat();
        assert_eq!(gap.count, beat.refused_count - beat.refused_told);
        assert!(gap.count >= 7, "{gap:?}");
        assert_eq!((gap.bytes, gap.cause), (gap.count * 1005, gap_cause::FULL));
        assert!(gap.first_monotonic_ns < gap.last_monotonic_ns);
        let mut reader = attach(dir.path());
        if rotate {
            reader.resume(
                reader.info().first_seq,
                ReaderCheckpoint {
                    rotation: 1,
                    ..Default::default()
                },
            );
        }
        commit_all(&mut reader);
        session.on_frame(Phase::Running);
        assert_eq!(attachment.untold_refusals(), [], "told by now");
    }
}

/// A hostile library: what it calls the watchdog's own does not pass for it.
#[test]
fn a_record_of_a_reserved_stream_is_refused_on_both_sides() {
    let dir = tempfile::tempdir().unwrap();
    let session = Session::create(options(dir.path(), WhenFull::Spill)).unwrap();
    assert_eq!(
        session.record("sidekick.gap", &[1]),
        Err(RefusedCause::StreamReserved)
    );
    assert_eq!(session.refused(), 1);
    let forged = "sidekick.crash";
    let as_long = "g".repeat(forged.len());
    for stream in ["test", &as_long, "test"] {
        session.record(stream, &[7; 24]).unwrap();
    }
    let mut attachment = attach(dir.path());
    let path = attachment.name().path.clone();
    let second = layout::D + frame::frame_bytes(24 + 5);
    let mut bytes = std::fs::read(&path).unwrap()[second..].to_vec();
    let payload_bytes = 24 + 1 + forged.len();
    let end = frame::frame_bytes(payload_bytes);
    bytes.truncate(end);
    bytes[33..][..forged.len()].copy_from_slice(forged.as_bytes());
    let kind = FrameKind::Record as u16;
    let seed = frame::crc_seed(&session.epoch());
    let monotonic_ns = u64::from_le_bytes(bytes[16..24].try_into().unwrap());
    frame::seal(&mut bytes, seed, kind, payload_bytes, 2, monotonic_ns);
    scribble(&path, second as u64, &bytes);
    let (all, damage) = drain_all(&mut attachment);
    assert_eq!(damage, []);
    let hole = Hole {
        count: 1,
        cause: hole_cause::RESERVED,
    };
    assert_eq!(all[1], Item::Hole(2, hole));
    assert_eq!(check_dense(&all, 1), 4);
}
