//! A session and its attachment in one process: what goes in comes out, whatever the ring's state.

use std::path::Path;
use std::time::Duration;

use sidekick_ipc::*;
use uuid::Uuid;

fn options(dir: &Path, when_full: WhenFull) -> SessionOptions {
    SessionOptions {
        runtime_dir: dir.to_owned(),
        launch: 1,
        incarnation: 1,
        ring_bytes: 256 << 10,
        when_full,
        block_max: Duration::from_millis(2),
        spill_bytes_max: 64 << 20,
        library_version: "0.1.0".to_owned(),
    }
}

fn attach(dir: &Path) -> Attachment {
    let names = scan(dir).unwrap();
    let mut attachment = Attachment::open(names.last().unwrap()).unwrap();
    attachment.resume(1, ReaderCheckpoint::default());
    attachment
}

fn body(i: u64) -> Vec<u8> {
    (0..(i * 37 % 211)).map(|k| (i * 31 + k) as u8).collect()
}

/// Checks that `bytes` hold the records `first..` whose value is `body(seq)`, and returns the number after the last.
fn check_records(bytes: &[u8], epoch: &Uuid, first: u64) -> u64 {
    let mut next = first;
    for frame in frames(bytes, epoch) {
        let frame = frame.unwrap();
        assert_eq!(frame.header.seq, next);
        assert_eq!(frame.header.kind, FrameKind::Record as u16);
        let record = Record::parse(frame.payload).unwrap();
        assert_eq!((record.stream, record.variant), ("test", &body(next)[..]));
        next += 1;
    }
    next
}

#[test]
fn records_come_out_in_order_and_ack_comes_back() {
    let dir = tempfile::tempdir().unwrap();
    let session = Session::create(options(dir.path(), WhenFull::Refuse)).unwrap();
    let mut attachment = attach(dir.path());
    assert_eq!(attachment.info().epoch, session.epoch());
    assert_eq!(attachment.info().pid, std::process::id());
    assert!(attachment.is_writer_alive());
    let mut next = 1;
    for round in 0..2000u64 {
        for _ in 0..round % 7 {
            let seq = session.last_seq() + 1;
            assert_eq!(session.record("test", &body(seq)), Ok(seq));
        }
        session.on_frame(Phase::Running);
        let mut out = Vec::new();
        let drained = attachment.drain(&mut out, 1 << 20).unwrap();
        assert_eq!((drained.first_seq, drained.corruption), (next, None));
        next = check_records(&out, &session.epoch(), next);
        assert_eq!(next, session.last_seq() + 1);
        attachment.release(next - 1, &drained.checkpoint);
        assert_eq!(session.committed_seq(), next - 1);
    }
    assert_eq!(session.ring_used(), 0);
    assert_eq!(attachment.heartbeat().frames, 2000);
    drop(session);
    assert!(!attachment.is_writer_alive());
    attachment.finish().unwrap();
    assert_eq!(scan(dir.path()).unwrap(), []);
}
