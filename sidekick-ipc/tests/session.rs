//! A session and its attachment in one process: what goes in comes out, whatever the ring's state.

mod support;

use std::time::{Duration, Instant};

use sidekick_ipc::frame::{gap_cause, hole_cause};
use sidekick_ipc::*;
use support::*;

#[test]
fn records_come_out_in_order_and_ack_comes_back() {
    let dir = tempfile::tempdir().unwrap();
    let session = Session::create(options(dir.path(), WhenFull::Refuse)).unwrap();
    let mut attachment = attach(dir.path());
    assert_eq!(attachment.info().epoch, session.epoch());
    assert_eq!(attachment.info().pid, std::process::id());
    assert!(attachment.is_writer_alive());
    let mut next = 1;
    for round in 0..4000u64 {
        for _ in 0..round % 7 {
            let seq = session.last_seq() + 1;
            assert_eq!(session.record("test", &body(seq)), Ok(seq));
        }
        session.on_frame(Phase::Running);
        for item in commit_all(&mut attachment) {
            assert_eq!(item, Item::Record(next, body(next)));
            next += 1;
        }
        assert_eq!(next, session.last_seq() + 1);
        assert_eq!(session.committed_seq(), next - 1);
    }
    assert_eq!(session.ring_used(), 0);
    assert_eq!(attachment.heartbeat().frames, 4000);
    drop(session);
    assert!(!attachment.is_writer_alive());
    attachment.finish().unwrap();
    assert_eq!(std::fs::read_dir(dir.path()).unwrap().count(), 0);
}

#[test]
fn records_of_many_threads_are_dense() {
    let dir = tempfile::tempdir().unwrap();
    let session = Session::create(options(dir.path(), WhenFull::Spill)).unwrap();
    let mut attachment = attach(dir.path());
    let mut all = Vec::new();
    std::thread::scope(|scope| {
        for _ in 0..4 {
            scope.spawn(|| {
                for _ in 0..2000 {
                    session.record("t", &[7; 60]).unwrap();
                }
            });
        }
        while all.len() < 8000 {
            all.extend(commit_all(&mut attachment));
        }
    });
    assert_eq!(check_dense(&all, 1), 8001);
}

#[test]
fn what_is_too_large_or_has_no_name_is_refused() {
    let dir = tempfile::tempdir().unwrap();
    let session = Session::create(options(dir.path(), WhenFull::Spill)).unwrap();
    assert_eq!(session.record("", &[]), Err(RefusedCause::StreamName));
    assert_eq!(
        session.record(&"n".repeat(256), &[]),
        Err(RefusedCause::StreamName)
    );
    let most = RECORD_BYTES_MAX - 2;
    let max = RECORD_BYTES_MAX;
    let refused = Err(RefusedCause::TooLarge {
        bytes: max + 1,
        max,
    });
    assert_eq!(session.record("n", &vec![0; most + 1]), refused);
    assert_eq!(session.record("n", &vec![0; most]), Ok(1));
    assert_eq!(session.record(&"n".repeat(255), &[]), Ok(2));
    assert_eq!(session.refused(), 3);
    session.close();
    assert_eq!(session.record("n", &[]), Err(RefusedCause::Closed));
    assert_eq!(drain_all(&mut attach(dir.path())).0.len(), 2);
}

/// Fills ring and spill, drains in parts, goes on recording in between: the merge is by number.
#[test]
fn a_full_ring_spills_and_the_merge_is_dense() {
    let dir = tempfile::tempdir().unwrap();
    let session = Session::create(options(dir.path(), WhenFull::Spill)).unwrap();
    let mut attachment = attach(dir.path());
    let mut next = 1;
    for round in 0..30 {
        for _ in 0..300 {
            let seq = session.last_seq() + 1;
            assert_eq!(session.record("test", &big_body(seq, 1500)), Ok(seq));
        }
        if round % 3 == 1 {
            assert!(spill_files(dir.path()) > 0);
        }
        let mut out = Vec::new();
        let drained = attachment
            .drain(&mut out, 350_000 + round * 10_000)
            .unwrap();
        assert_eq!(drained.corruption, None);
        for item in items(&out, &session.epoch()) {
            assert_eq!(item, Item::Record(next, big_body(next, 1500)));
            next += 1;
        }
        attachment.release(next - 1, &drained.checkpoint);
    }
    for item in commit_all(&mut attachment) {
        assert_eq!(item, Item::Record(next, big_body(next, 1500)));
        next += 1;
    }
    assert_eq!(next, session.last_seq() + 1);
    attachment.finish().unwrap();
    assert_eq!(std::fs::read_dir(dir.path()).unwrap().count(), 0);
}

#[test]
fn drained_spill_files_are_deleted_and_the_limit_holds() {
    let dir = tempfile::tempdir().unwrap();
    let mut options = options(dir.path(), WhenFull::Spill);
    options.spill_bytes_max = 20 << 20;
    let session = Session::create(options).unwrap();
    let mut attachment = attach(dir.path());
    let mut taken = 0;
    while session.record("test", &big_body(taken, 60_000)).is_ok() {
        taken += 1;
    }
    assert_eq!(
        session.record("test", &big_body(0, 60_000)),
        Err(RefusedCause::Full)
    );
    assert!((330..360).contains(&taken), "{taken}");
    assert_eq!(spill_files(dir.path()), 3);
    let all = commit_all(&mut attachment);
    assert_eq!(check_dense(&all, 1), taken + 1);
    assert_eq!(spill_files(dir.path()), 1, "only the newest stays");
    // There is room again, and the refused ones are told of first.
    session.on_frame(Phase::Running);
    session.record("test", &[1]).unwrap();
    let all = commit_all(&mut attachment);
    let [Item::Gap(_, gap), Item::Record(_, _)] = &all[..] else {
        panic!("{all:?}")
    };
    assert_eq!((gap.count, gap.cause), (2, gap_cause::FULL));
}

/// While the watchdog's disk runs short only what is to be kept is taken. What is refused is told by few gap frames, and
/// none of it is forgotten.
#[test]
fn a_short_disk_refuses_all_streams_but_those_to_be_kept() {
    let dir = tempfile::tempdir().unwrap();
    let mut options = options(dir.path(), WhenFull::Spill);
    options.keep = ["purchase", "ban.*"].map(|it| it.parse().unwrap()).to_vec();
    let session = Session::create(options).unwrap();
    let mut attachment = attach(dir.path());
    session.record("damage", &[1]).unwrap();
    attachment.controls().set_disk_low(true);
    for frame in 0..100 {
        assert_eq!(session.record("damage", &[2]), Err(RefusedCause::Quota));
        assert_eq!(session.record("banana", &[2]), Err(RefusedCause::Quota));
        if frame % 10 == 0 {
            session.record("purchase", &[3]).unwrap();
            session.record("ban.player", &[4]).unwrap();
        }
        session.on_frame(Phase::Running);
    }
    assert_eq!(session.refused(), 200);
    let all = commit_all(&mut attachment);
    let gaps = |items: &[Item]| -> Vec<Gap> {
        let gaps = items.iter().filter_map(|item| match item {
            Item::Gap(_, gap) => Some(*gap),
            _ => None,
        });
        gaps.collect()
    };
    let [first] = gaps(&all)[..] else {
        panic!("one frame tells of the first ones, the rest waits: {all:?}");
    };
    assert_eq!((first.count, first.cause), (2, gap_cause::QUOTA));
    assert_eq!(
        check_dense(&all, 1),
        1 + 20 + 1 + 1,
        "the number that comes next"
    );
    let untold = attachment.untold_refusals();
    assert_eq!((untold[0].count, untold[0].cause), (198, gap_cause::QUOTA));
    // There is room again: the rest is told in the next frame.
    attachment.controls().set_disk_low(false);
    session.record("damage", &[5]).unwrap();
    session.on_frame(Phase::Running);
    let all = commit_all(&mut attachment);
    let [rest] = gaps(&all)[..] else {
        panic!("{all:?}");
    };
    assert_eq!((rest.count, rest.cause), (198, gap_cause::QUOTA));
    assert!(attachment.untold_refusals().is_empty());
}

/// Before a first frame there is none that a silence could count from: it counts from the session's beginning, and not
/// from the machine's. What was waited for takes the rest of its announced silence with it.
#[test]
fn a_silence_announced_before_the_first_frame_is_no_longer_than_said() {
    let dir = tempfile::tempdir().unwrap();
    let session = Session::create(options(dir.path(), WhenFull::Spill)).unwrap();
    let attachment = attach(dir.path());
    let silence = || attachment.heartbeat().allowed_silence;
    session.expect_stall(Duration::from_secs(2));
    // Some of it for a machine that was busy since the session began.
    let said = Duration::from_secs(2)..Duration::from_secs(60);
    assert!(said.contains(&silence()), "{:?}", silence());
    let stall = session.extend_stall(Duration::from_secs(600));
    assert!(silence() >= Duration::from_secs(600));
    session.end_stall(stall, Duration::from_secs(1));
    assert!(
        said.contains(&silence()),
        "what was announced before holds: {:?}",
        silence()
    );
    // Another one that was announced meanwhile is nobody else's to end.
    let stall = session.extend_stall(Duration::from_secs(100));
    session.expect_stall(Duration::from_secs(500));
    session.end_stall(stall, Duration::from_secs(1));
    assert!(silence() >= Duration::from_secs(500));
}

#[test]
fn refused_records_are_told_by_one_gap_frame_when_space_returns() {
    let dir = tempfile::tempdir().unwrap();
    let session = Session::create(options(dir.path(), WhenFull::Refuse)).unwrap();
    let mut attachment = attach(dir.path());
    let mut taken = 0;
    while session.record("test", &big_body(taken, 1000)).is_ok() {
        taken += 1;
    }
    for _ in 0..9 {
        assert_eq!(
            session.record("test", &big_body(0, 1000)),
            Err(RefusedCause::Full)
        );
    }
    session.on_frame(Phase::Running);
    assert_eq!((session.refused(), session.last_seq()), (10, taken));
    let heartbeat = attachment.heartbeat();
    assert_eq!((heartbeat.refused_count, heartbeat.refused_told), (10, 0));
    assert_eq!(commit_all(&mut attachment).len() as u64, taken);
    session.on_frame(Phase::Running);
    let all = commit_all(&mut attachment);
    let [Item::Gap(seq, gap)] = &all[..] else {
        panic!("{all:?}")
    };
    assert_eq!((*seq, gap.count, gap.bytes), (taken + 1, 10, 10 * 1005));
    assert!(gap.first_monotonic_ns < gap.last_monotonic_ns);
    let heartbeat = attachment.heartbeat();
    assert_eq!((heartbeat.refused_count, heartbeat.refused_told), (10, 10));
    assert_eq!(session.record("test", &[]), Ok(taken + 2));
}

#[test]
fn blocking_waits_for_space_within_the_frames_budget() {
    let dir = tempfile::tempdir().unwrap();
    let mut options = options(dir.path(), WhenFull::Block);
    options.block_max = Duration::from_millis(60);
    let session = Session::create(options).unwrap();
    let mut attachment = attach(dir.path());
    let mut taken = 0u64;
    let started = loop {
        let started = Instant::now();
        if session.record("test", &big_body(taken, 1000)).is_err() {
            break started;
        }
        taken += 1;
    };
    assert!(started.elapsed() >= Duration::from_millis(59));
    assert!(
        started.elapsed() < Duration::from_secs(60),
        "{:?}",
        started.elapsed()
    );
    // The budget is gone for this frame: no more waiting at all. A busy machine may make a call slow, not half of them.
    let slow = (0..100).filter(|_| {
        let started = Instant::now();
        assert_eq!(
            session.record("test", &big_body(0, 1000)),
            Err(RefusedCause::Full)
        );
        started.elapsed() >= Duration::from_millis(59)
    });
    let slow = slow.count();
    assert!(slow < 50, "{slow} calls waited");
    // A new frame has a new budget.
    session.on_frame(Phase::Running);
    let started = Instant::now();
    assert_eq!(
        session.record("test", &big_body(0, 1000)),
        Err(RefusedCause::Full)
    );
    assert!(started.elapsed() >= Duration::from_millis(59));
    commit_all(&mut attachment);
    assert!(session.record("test", &[]).is_ok());
}

#[test]
fn a_blocked_thread_is_woken_by_release() {
    let dir = tempfile::tempdir().unwrap();
    let mut options = options(dir.path(), WhenFull::Block);
    options.block_max = Duration::from_secs(600);
    let session = Session::create(options).unwrap();
    let mut attachment = attach(dir.path());
    let each = 1000usize;
    let fits = (256 << 10) / frame::frame_bytes(each + 5);
    (0..fits).for_each(|i| {
        session.record("test", &big_body(i as u64, each)).unwrap();
    });
    std::thread::scope(|scope| {
        let started = Instant::now();
        let blocked = scope.spawn(|| session.record("test", &big_body(0, each)));
        let heartbeats = attachment.heartbeats();
        eventually("the waiting flag", || heartbeats.is_space_wanted());
        assert!(!blocked.is_finished());
        commit_all(&mut attachment);
        assert_eq!(blocked.join().unwrap(), Ok(fits as u64 + 1));
        assert!(started.elapsed() < Duration::from_secs(300));
    });
}

/// A watchdog dies between drain and commit, and another between commit and release.
#[test]
fn a_successor_goes_on_from_the_committed_checkpoint() {
    let dir = tempfile::tempdir().unwrap();
    let session = Session::create(options(dir.path(), WhenFull::Spill)).unwrap();
    let name = scan(dir.path()).unwrap().remove(0);
    let (mut next, mut checkpoint) = (1, ReaderCheckpoint::default());
    for round in 0..60u64 {
        for _ in 0..100 {
            let seq = session.last_seq() + 1;
            session.record("test", &big_body(seq, 900)).unwrap();
        }
        let mut attachment = Attachment::open(&name).unwrap();
        attachment.resume(next, checkpoint);
        assert_eq!(session.committed_seq(), next - 1);
        let mut out = Vec::new();
        let drained = attachment.drain(&mut out, 80_000).unwrap();
        if round % 3 == 0 {
            continue; // killed before the commit
        }
        assert_eq!((drained.first_seq, drained.corruption), (next, None));
        for item in items(&out, &session.epoch()) {
            assert_eq!(item, Item::Record(next, big_body(next, 900)));
            next += 1;
        }
        checkpoint = drained.checkpoint; // committed
        if round % 3 == 1 {
            attachment.release(next - 1, &checkpoint);
        }
    }
    let mut attachment = Attachment::open(&name).unwrap();
    attachment.resume(next, checkpoint);
    assert_eq!(
        check_dense(&commit_all(&mut attachment), next),
        session.last_seq() + 1
    );
    assert_eq!(session.committed_seq(), session.last_seq());
}

#[test]
fn a_checkpoint_older_than_what_was_released_gives_a_hole() {
    let dir = tempfile::tempdir().unwrap();
    let session = Session::create(options(dir.path(), WhenFull::Refuse)).unwrap();
    let mut attachment = attach(dir.path());
    for seq in 1..=150 {
        session.record("test", &big_body(seq, 1000)).unwrap();
    }
    commit_all(&mut attachment);
    for seq in 151..=250 {
        session.record("test", &big_body(seq, 1000)).unwrap();
    }
    attachment.resume(
        10,
        ReaderCheckpoint {
            ring_position: 9 * 1040,
            ..Default::default()
        },
    );
    let (all, _) = drain_all(&mut attachment);
    assert_eq!(
        all[0],
        Item::Hole(
            10,
            Hole {
                count: 141,
                cause: hole_cause::OVERWRITTEN
            }
        )
    );
    assert_eq!(check_dense(&all, 10), 251);
}

#[test]
fn a_damaged_frame_becomes_a_hole_and_the_engine_rotates() {
    let dir = tempfile::tempdir().unwrap();
    let session = Session::create(options(dir.path(), WhenFull::Spill)).unwrap();
    let mut first = attach(dir.path());
    (1..=100).for_each(|seq| {
        session.record("test", &big_body(seq, 100)).unwrap();
    });
    let one = frame::frame_bytes(105) as u64;
    // Numbers 11, 50 and 51: in a payload, in a length, in a checksum.
    let data = layout::D as u64;
    scribble(&first.name().path, data + 10 * one + 60, b"wild");
    scribble(&first.name().path, data + 49 * one, &[0xff; 3]);
    scribble(&first.name().path, data + 50 * one + 24, &[0; 4]);
    let (all, damage) = drain_all(&mut first);
    assert_eq!(check_dense(&all, 1), 101);
    let holes: Vec<_> = all
        .iter()
        .filter(|item| matches!(item, Item::Hole(..)))
        .collect();
    assert_eq!(
        holes,
        [
            &Item::Hole(
                11,
                Hole {
                    count: 1,
                    cause: hole_cause::CORRUPT
                }
            ),
            &Item::Hole(
                50,
                Hole {
                    count: 2,
                    cause: hole_cause::CORRUPT
                }
            )
        ]
    );
    let copy = damage[0].quarantine.clone().unwrap();
    let original = std::fs::metadata(&first.name().path).unwrap().len();
    assert_eq!(std::fs::metadata(&copy).unwrap().len(), original);
    assert!(
        damage[1..].iter().all(|damage| damage.quarantine.is_none()),
        "one copy per file"
    );

    session.set_ready();
    session.on_frame(Phase::Running);
    let seq = session.record("test", &[1]).unwrap();
    assert_eq!(seq, 101);
    let names = scan(dir.path()).unwrap();
    assert_eq!(names.iter().map(|n| n.rotation).collect::<Vec<_>>(), [0, 1]);
    assert_eq!(drain_all(&mut first).0, []);
    assert!(first.heartbeat().rotated && !first.is_writer_alive());
    let mut second = Attachment::open(&names[1]).unwrap();
    assert_eq!(
        (second.info().epoch, second.info().first_seq),
        (session.epoch(), 101)
    );
    assert!(second.heartbeat().ready && second.is_writer_alive());
    second.resume(first.next_seq(), first.checkpoint());
    first.finish().unwrap();
    assert_eq!(commit_all(&mut second), [Item::Record(101, vec![1])]);
    assert_eq!(session.committed_seq(), 101);
    second.finish().unwrap();
    assert_eq!(scan(dir.path()).unwrap(), []);
}

#[test]
fn a_rotation_amid_a_spill_keeps_every_record() {
    let dir = tempfile::tempdir().unwrap();
    let session = Session::create(options(dir.path(), WhenFull::Spill)).unwrap();
    let mut first = attach(dir.path());
    let record = |n| {
        for _ in 0..n {
            let seq = session.last_seq() + 1;
            session.record("test", &big_body(seq, 1000)).unwrap();
        }
    };
    record(400);
    first.controls().set_rotate_to(1);
    session.on_frame(Phase::Running);
    record(400);
    let (mut all, _) = drain_all(&mut first);
    let names = scan(dir.path()).unwrap();
    let mut second = Attachment::open(&names[1]).unwrap();
    second.resume(first.next_seq(), first.checkpoint());
    first.finish().unwrap();
    all.extend(commit_all(&mut second));
    assert_eq!(all.len(), 800);
    for (item, seq) in all.iter().zip(1..) {
        assert_eq!(*item, Item::Record(seq, big_body(seq, 1000)));
    }
    second.finish().unwrap();
    assert_eq!(std::fs::read_dir(dir.path()).unwrap().count(), 0);
}

#[test]
fn a_rotation_that_starts_later_than_the_last_one_ended_gives_a_hole() {
    let dir = tempfile::tempdir().unwrap();
    let session = Session::create(options(dir.path(), WhenFull::Refuse)).unwrap();
    let first = attach(dir.path());
    (1..=20).for_each(|_| {
        session.record("test", &[2]).unwrap();
    });
    first.controls().set_rotate_to(1);
    session.on_frame(Phase::Running);
    session.record("test", &[3]).unwrap();
    let mut second = Attachment::open(&scan(dir.path()).unwrap()[1]).unwrap();
    second.resume(15, ReaderCheckpoint::default());
    let hole = Item::Hole(
        15,
        Hole {
            count: 6,
            cause: hole_cause::ROTATED,
        },
    );
    assert_eq!(drain_all(&mut second).0, [hole, Item::Record(21, vec![3])]);
}

/// The commit word itself is overwritten: what is whole is recovered without it, and the engine repairs it with its
/// next record or rotates.
#[test]
fn a_damaged_commit_word_loses_nothing() {
    for wild in [u64::MAX, 12345, 1 << 40] {
        let dir = tempfile::tempdir().unwrap();
        let session = Session::create(options(dir.path(), WhenFull::Refuse)).unwrap();
        let mut attachment = attach(dir.path());
        (1..=50).for_each(|seq| {
            session.record("test", &body(seq)).unwrap();
        });
        let path = attachment.name().path.clone();
        scribble(&path, layout::P_TAIL as u64, &wild.to_le_bytes());
        let (mut all, damage) = drain_all(&mut attachment);
        assert!(!damage.is_empty());
        assert_eq!(drain_all(&mut attachment).0, []);
        // Nothing to do until the word changes, so a wait is a wait.
        let started = Instant::now();
        attachment.wait(Duration::from_millis(30));
        assert!(started.elapsed() >= Duration::from_millis(25));
        (51..=60).for_each(|seq| {
            session.record("test", &body(seq)).unwrap();
        });
        all.extend(drain_all(&mut attachment).0);
        for (item, seq) in all.iter().zip(1..) {
            assert_eq!(*item, Item::Record(seq, body(seq)));
        }
        assert_eq!(all.len(), 60);
        session.on_frame(Phase::Running);
        assert_eq!(scan(dir.path()).unwrap().len(), 2);
    }
}

#[test]
fn messages_reach_the_engine_over_watchdog_generations() {
    let dir = tempfile::tempdir().unwrap();
    let session = Session::create(options(dir.path(), WhenFull::Refuse)).unwrap();
    let mut scratch = Vec::new();
    assert_eq!(session.poll_downlink(&mut scratch), None);
    let message = |n: u32| DownlinkMessage {
        kind: n,
        request: n.into(),
        body: big_body(n.into(), 5000),
    };
    let (mut sent, mut got) = (0, 0);
    for generation in 0..300 {
        let attachment = attach(dir.path());
        for _ in 0..generation % 5 {
            attachment.send(&message(sent)).unwrap();
            sent += 1;
        }
        while let Some(found) = session.poll_downlink(&mut scratch) {
            assert_eq!(found, message(got));
            got += 1;
        }
        assert_eq!(sent, got);
    }
    let attachment = attach(dir.path());
    let mut fits = 0;
    while attachment.send(&message(fits)).is_ok() {
        fits += 1;
    }
    assert!(fits > 200);
    assert_eq!(attachment.send(&message(0)), Err(SendError::Full));
    // Damage: the rest is skipped, later messages come.
    let middle = (layout::DOWN_D + 500_000) as u64;
    scribble(&attachment.name().path, middle, &[0xa5; 6000]);
    while session.poll_downlink(&mut scratch).is_some() {}
    attachment.send(&message(9)).unwrap();
    assert_eq!(session.poll_downlink(&mut scratch), Some(message(9)));
}

#[test]
fn levels_go_both_ways() {
    let dir = tempfile::tempdir().unwrap();
    let session = Session::create(options(dir.path(), WhenFull::Refuse)).unwrap();
    let attachment = attach(dir.path());
    assert_eq!(session.control().watchdog_alive_age, Duration::MAX);
    let controls = attachment.controls();
    controls.set_generation(7);
    controls.beat();
    controls.set_backlog(99);
    controls.set_disk_low(true);
    controls.set_quit(Duration::from_secs(30));
    let control = session.control();
    assert_eq!(
        (control.generation, control.backlog, control.disk_low),
        (7, 99, true)
    );
    assert_eq!(control.watchdog_pid, std::process::id());
    assert!(control.watchdog_alive_age < Duration::from_secs(10));
    let grace = control.quit.unwrap().grace;
    assert!(
        grace > Duration::from_secs(20) && grace <= Duration::from_secs(30),
        "{grace:?}"
    );
    controls.clear_quit();
    assert_eq!(session.control().quit, None);

    assert_eq!(attachment.heartbeat(), Heartbeat::default());
    session.on_frame(Phase::Loading);
    session.expect_stall(Duration::from_secs(5));
    session.set_ready();
    let heartbeat = attachment.heartbeats().read();
    assert_eq!(
        (heartbeat.frames, heartbeat.phase, heartbeat.ready),
        (1, Phase::Loading, true)
    );
    let silence = heartbeat.allowed_silence;
    assert!(
        silence >= Duration::from_secs(5) && silence < Duration::from_secs(15),
        "{silence:?}"
    );
    controls.set_disk_low(false);
    session.record("test", &[]).unwrap();
    attachment.set_uploaded(1_000_000);
    assert_eq!(session.uploaded_seq(), 1, "never beyond what was recorded");
    session.set_clean_exit(-3);
    assert_eq!(attachment.heartbeat().clean_exit, Some(-3));
}

#[test]
fn a_wait_ends_by_frame_by_waker_and_by_what_is_there() {
    let dir = tempfile::tempdir().unwrap();
    let session = Session::create(options(dir.path(), WhenFull::Spill)).unwrap();
    let mut attachment = attach(dir.path());
    let long = Duration::from_secs(600);
    let started = Instant::now();
    let waker = attachment.waker();
    waker.wake(); // before the wait: must not get lost
    attachment.wait(long);
    for _ in 0..50 {
        std::thread::scope(|scope| {
            scope.spawn(|| attachment.wait(long));
            waker.wake();
        });
    }
    session.record("test", &[]).unwrap();
    attachment.wait(long); // something is there
    commit_all(&mut attachment);
    std::thread::scope(|scope| {
        let waiting = scope.spawn(|| attachment.wait(long));
        session.record("test", &[]).unwrap();
        session.on_frame(Phase::Running);
        eventually("the end of the wait", || waiting.is_finished());
    });
    commit_all(&mut attachment);
    // The ring is full, for nothing is released: the record goes to the spill, and the ring's tail stands still.
    while spill_files(dir.path()) == 0 {
        session.record("test", &big_body(0, 1000)).unwrap();
    }
    drain_all(&mut attachment);
    session.record("test", &big_body(0, 1000)).unwrap();
    attachment.wait(long);
    assert_eq!(drain_all(&mut attachment).0.len(), 1);
    assert!(started.elapsed() < Duration::from_secs(300));
}

/// A watchdog seems to sleep for ever (its flag is set): frames wake it when something was recorded, and only then.
#[test]
fn a_game_that_records_nothing_wakes_nobody() {
    let dir = tempfile::tempdir().unwrap();
    let session = Session::create(options(dir.path(), WhenFull::Spill)).unwrap();
    let path = scan(dir.path()).unwrap().remove(0).path;
    scribble(&path, layout::C_WAITING as u64, &[1]);
    let wakes = || {
        let bytes = std::fs::read(&path).unwrap();
        u32::from_le_bytes(bytes[layout::P_WAKE..][..4].try_into().unwrap())
    };
    let frames = |count| (0..count).for_each(|_| session.on_frame(Phase::Running));
    frames(100);
    assert_eq!(wakes(), 0);
    for round in 1..5 {
        session.record("test", &[]).unwrap();
        session.record("test", &[]).unwrap();
        frames(100);
        assert_eq!(wakes(), round);
    }
    // What goes to the spill counts too: first until there is one, then one more.
    while spill_files(dir.path()) == 0 {
        session.record("test", &big_body(0, 1000)).unwrap();
    }
    frames(1);
    let before = wakes();
    session.record("test", &big_body(0, 1000)).unwrap();
    frames(100);
    assert_eq!(wakes(), before + 1);
}

/// Room for small records and none for large ones: each large one is refused, and one frame of the game tells of all.
#[test]
fn refused_records_between_taken_ones_make_one_gap_a_frame() {
    let dir = tempfile::tempdir().unwrap();
    let session = Session::create(options(dir.path(), WhenFull::Refuse)).unwrap();
    let mut attachment = attach(dir.path());
    while session.record("test", &big_body(0, 60_000)).is_ok() {}
    for _ in 0..20 {
        session.record("test", &[1]).unwrap();
        session.record("test", &big_body(0, 60_000)).unwrap_err();
    }
    let taken = commit_all(&mut attachment).len() as u64;
    assert_eq!(taken, session.last_seq());
    session.on_frame(Phase::Running);
    session.on_frame(Phase::Running);
    let all = commit_all(&mut attachment);
    let [Item::Gap(seq, gap)] = &all[..] else {
        panic!("{all:?}")
    };
    assert_eq!((*seq, gap.count, session.refused()), (taken + 1, 21, 21));
    let heartbeat = attachment.heartbeat();
    assert_eq!((heartbeat.refused_count, heartbeat.refused_told), (21, 21));
}

/// The watchdog tells that a newer launch is active: this engine takes nothing more, and counts what it refuses.
#[test]
fn an_engine_that_was_given_up_records_no_more() {
    let dir = tempfile::tempdir().unwrap();
    let mut options = options(dir.path(), WhenFull::Spill);
    options.launch = 5;
    let session = Session::create(options).unwrap();
    let attachment = attach(dir.path());
    for launch in [0, 4, 5] {
        attachment.controls().set_active_launch(launch);
        assert!(!session.is_fenced());
        session.record("test", &[]).unwrap();
    }
    attachment.controls().set_active_launch(6);
    assert!(session.is_fenced());
    assert_eq!(session.control().active_launch, 6);
    assert_eq!(session.record("test", &[]), Err(RefusedCause::Fenced));
    assert_eq!((session.last_seq(), session.refused()), (3, 1));
}

/// What the game says about itself, and that it crashes, reach the watchdog; a frame that still comes changes nothing.
#[test]
fn idle_restart_and_crash_are_told() {
    let dir = tempfile::tempdir().unwrap();
    let session = Session::create(options(dir.path(), WhenFull::Refuse)).unwrap();
    let attachment = attach(dir.path());
    session.on_frame(Phase::Running);
    assert_eq!(attachment.heartbeat().last_tick_us, 0);
    session.set_idle(true);
    session.set_restart_wanted(true);
    session.on_frame(Phase::Running);
    let heartbeat = attachment.heartbeat();
    assert!(heartbeat.idle && heartbeat.restart_wanted);
    session.set_idle(false);
    session.set_restart_wanted(false);
    attachment.controls().set_rotate_to(1);
    session.on_frame(Phase::Running);
    let attachment = Attachment::open(&scan(dir.path()).unwrap()[1]).unwrap();
    let heartbeat = attachment.heartbeat();
    assert!(!heartbeat.idle && !heartbeat.restart_wanted);
    session.mark_crashed();
    assert_eq!(attachment.heartbeat().phase, Phase::Crashed);
    session.on_frame(Phase::Running);
    assert_eq!(attachment.heartbeat().phase, Phase::Crashed);
}

/// A message of much memory comes out with its number; a damaged one says nothing.
#[test]
fn memory_high_reaches_the_game() {
    let dir = tempfile::tempdir().unwrap();
    let session = Session::create(options(dir.path(), WhenFull::Refuse)).unwrap();
    let attachment = attach(dir.path());
    attachment.downlink().memory_high(1 << 33).unwrap();
    let got = session.poll_downlink(&mut Vec::new()).unwrap();
    assert_eq!(got.memory_bytes(), Some(1 << 33));
    let short = DownlinkMessage {
        kind: message::MEMORY_HIGH,
        request: 0,
        body: vec![1, 2],
    };
    assert_eq!(short.memory_bytes(), None);
}

/// Somebody set the wall clock while the engine ran: the offset follows within a second, and small steps are left alone.
#[test]
fn the_wall_clocks_offset_is_kept_up_to_date() {
    let dir = tempfile::tempdir().unwrap();
    let session = Session::create(options(dir.path(), WhenFull::Refuse)).unwrap();
    let attachment = attach(dir.path());
    let at_start = attachment.info().realtime_offset_ns();
    assert_eq!(attachment.realtime_offset_ns(), at_start);
    session.on_frame(Phase::Running);
    assert_eq!(attachment.realtime_offset_ns(), at_start);
    // The engine's memory of the offset is the word itself: another one there is as if the clock had been set.
    let path = &attachment.name().path;
    let earlier = at_start - 3_600_000_000_000;
    scribble(
        path,
        layout::P_REALTIME_OFFSET_NS as u64,
        &earlier.to_le_bytes(),
    );
    eventually("the new offset", || {
        session.on_frame(Phase::Running);
        (attachment.realtime_offset_ns() - at_start).abs() < 1_000_000_000
    });
}

/// The watchdog's death is proven by pid and start time, also while nobody has reaped it; silence proves nothing.
#[test]
fn a_watchdogs_death_is_proven() {
    let mut child = std::process::Command::new("sleep")
        .arg("60")
        .spawn()
        .unwrap();
    let control = Control {
        watchdog_alive_age: Duration::MAX,
        watchdog_pid: child.id(),
        watchdog_start_time: sys::process_start_time(child.id()).unwrap(),
        ..Control::default()
    };
    assert!(!control.is_watchdog_dead());
    assert!(!Control::default().is_watchdog_dead(), "none was there yet");
    let other = Control {
        watchdog_start_time: control.watchdog_start_time + 1,
        ..control
    };
    assert!(other.is_watchdog_dead(), "another process has its pid");
    child.kill().unwrap();
    eventually("the proof", || control.is_watchdog_dead());
    child.wait().unwrap();
    assert!(control.is_watchdog_dead());
}

/// Resident bytes of this process's mappings of the session's file.
fn resident_kib(session: &Session) -> u64 {
    let name = session.epoch().to_string();
    let text = std::fs::read_to_string("/proc/self/smaps").unwrap();
    let (mut sum, mut is_ours) = (0, false);
    for line in text.lines() {
        let mut words = line.split_whitespace();
        match words.next().unwrap() {
            "Rss:" if is_ours => sum += words.next().unwrap().parse::<u64>().unwrap(),
            range if range.contains('-') => is_ours = line.contains(&name),
            _ => {}
        }
    }
    sum
}

/// A server that starts again must not wait for the whole ring, and must not take a page fault for each page later.
#[test]
fn the_ring_becomes_resident_while_the_game_runs() {
    let dir = tempfile::tempdir().unwrap();
    let mut options = options(dir.path(), WhenFull::Refuse);
    options.ring_bytes = 16 << 20;
    let ring_kib = (options.ring_bytes >> 10) as u64;
    let session = Session::create(options).unwrap();
    assert!(resident_kib(&session) < ring_kib / 2);
    for _ in 0..64 {
        session.on_frame(Phase::Running);
    }
    assert!(resident_kib(&session) >= ring_kib);
}
