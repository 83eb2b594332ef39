//! A disk that becomes full amid a frame: the torn piece is cut away and its number is used again.
//!
//! One test, because the limit it sets is the whole process's.

mod support;

use sidekick_ipc::frame::gap_cause;
use sidekick_ipc::*;
use support::*;

/// Most bytes that a file may have from now on; a write across the limit is a short write.
fn limit_file_bytes(bytes: u64) {
    let limit = libc::rlimit {
        rlim_cur: bytes,
        rlim_max: libc::RLIM_INFINITY,
    };
    // SAFETY: plain calls with a valid struct; ignoring the signal makes the write return an error instead.
    unsafe {
        libc::signal(libc::SIGXFSZ, libc::SIG_IGN);
        assert_eq!(libc::setrlimit(libc::RLIMIT_FSIZE, &raw const limit), 0);
    }
}

#[test]
fn a_short_write_is_cut_away_and_its_number_used_again() {
    let dir = tempfile::tempdir().unwrap();
    let session = Session::create(options(dir.path(), WhenFull::Spill)).unwrap();
    let mut attachment = attach(dir.path());
    let mut accepted = Vec::new();
    let record = |accepted: &mut Vec<(u64, Vec<u8>)>, n: usize| {
        let mut refused = 0;
        for _ in 0..n {
            let value = big_body(accepted.len() as u64, 1000);
            match session.record("test", &value) {
                Ok(seq) => accepted.push((seq, value)),
                Err(RefusedCause::SpillFailed) => refused += 1,
                Err(cause) => panic!("{cause}"),
            }
        }
        refused
    };
    assert_eq!(record(&mut accepted, 300), 0);
    assert_eq!(spill_files(dir.path()), 1);
    limit_file_bytes(100_500); // not a multiple of a frame's size
    let refused = record(&mut accepted, 100);
    assert!(refused > 40, "{refused}");
    // What the short writes left is gone: the file ends with a whole frame.
    let spill = std::fs::read_dir(dir.path())
        .unwrap()
        .map(|e| e.unwrap())
        .find(|e| e.file_name().to_str().unwrap().ends_with(".spill"))
        .unwrap();
    let bytes = std::fs::read(spill.path()).unwrap();
    assert!(bytes.len() > 99_000);
    assert!(frames(&bytes, &session.epoch()).all(|frame| frame.is_ok()));
    limit_file_bytes(libc::RLIM_INFINITY);
    assert_eq!(record(&mut accepted, 100), 0);
    session.on_frame(Phase::Running);
    let all = commit_all(&mut attachment);
    assert_eq!(check_dense(&all, 1), session.last_seq() + 1);
    let (mut records, mut gaps) = (Vec::new(), Vec::new());
    for item in &all {
        match item {
            Item::Record(seq, bytes) => records.push((*seq, bytes.clone())),
            Item::Gap(_, gap) => gaps.push(*gap),
            Item::Hole(..) | Item::Fragment(..) => panic!("{item:?}"),
        }
    }
    assert!(records == accepted);
    let told: u64 = gaps.iter().map(|gap| gap.count).sum();
    assert_eq!((told, gaps[0].cause), (refused, gap_cause::SPILL_FAILED));

    // The same amid a value of several frames: none of them stays, and its numbers are used again.
    let before = session.last_seq();
    let request = big_body(7, 200_000);
    while session.ring_used() + 66_000 < session.ring_bytes() {
        session.record("test", &big_body(0, 60_000)).unwrap();
    }
    session.record("test", &big_body(0, 60_000)).unwrap();
    let filled = session.last_seq();
    // A new file: all in the one before was committed.
    let spilled = std::fs::metadata(
        dir.path()
            .join(format!("0000000001-{}.1.spill", session.epoch())),
    )
    .unwrap()
    .len();
    for room in [0, 8, 65_568, 100_000, 131_136, 200_000] {
        limit_file_bytes(spilled + room);
        let refused = session.submit_request(FrameKind::Op, &request, 1 << 16);
        assert_eq!(refused, Err(RefusedCause::SpillFailed), "{room}");
        limit_file_bytes(libc::RLIM_INFINITY);
        assert_eq!(session.last_seq(), filled);
    }
    session.record("test", b"after").unwrap();
    let number = session.submit_request(FrameKind::Op, &request, 1 << 16);
    assert_eq!(number, Ok(filled + 5));
    let all = commit_all(&mut attachment);
    assert_eq!(check_dense(&all, before + 1), filled + 6);
    let parts: Vec<u8> = all
        .iter()
        .filter_map(|item| match item {
            Item::Fragment(_, _, part) => Some(part.clone()),
            _ => None,
        })
        .collect::<Vec<_>>()
        .concat();
    assert!(parts == request);
}
