//! Requests to the store beside the records, and their answers: what is asked is there as a whole, in order, once; what is
//! answered is told once, whichever watchdog answers.

mod support;

use std::time::{Duration, Instant};

use sidekick_ipc::frame::FRAGMENT_BYTES;
use sidekick_ipc::message::{NOTICE, Parcel};
use sidekick_ipc::request::{Assembler, RequestBytes};
use sidekick_ipc::session::{CheckpointRef, Message};
use sidekick_ipc::tree::*;
use sidekick_ipc::*;
use support::*;

fn put(path: &str, bytes: usize) -> StoreOp {
    StoreOp::Put(Put::new(
        Path::new(path).unwrap(),
        Some(big_body(bytes as u64, bytes)),
    ))
}

fn get(path: &str) -> StoreQuery {
    StoreQuery::Get {
        path: Path::new(path).unwrap(),
        linearizable: false,
    }
}

fn watch(pattern: &str, from_revision: Option<u64>) -> StoreQuery {
    StoreQuery::Watch {
        pattern: Pattern::new(pattern).unwrap(),
        from_revision,
    }
}

fn ok(revision: u64) -> StoreResult {
    StoreResult::Ok(Answer {
        revision,
        ..Answer::default()
    })
}

/// What the ring holds, as a watchdog sees it.
fn requests(attachment: &mut Attachment, max_bytes: usize) -> Vec<RequestBytes> {
    let (mut all, mut assembler) = (Vec::new(), Assembler::default());
    loop {
        let mut out = Vec::new();
        let drained = attachment.drain(&mut out, max_bytes).unwrap();
        assert_eq!(drained.corruption, None);
        for frame in frames(&out, &attachment.info().epoch) {
            all.extend(assembler.push(&frame.unwrap()));
        }
        attachment.release(attachment.next_seq() - 1, &drained.checkpoint);
        if !drained.more {
            return all;
        }
    }
}

fn op_of(request: &RequestBytes) -> (u64, StoreOp) {
    assert_eq!(request.kind, FrameKind::Op);
    let (acked, op) = decode_request(&request.bytes).unwrap();
    (acked, op.unwrap())
}

fn query_of(request: &RequestBytes) -> StoreQuery {
    assert_eq!(request.kind, FrameKind::Query);
    let (_, query) = decode_request(&request.bytes).unwrap();
    query.unwrap()
}

fn reply(attachment: &Attachment, number: u64, result: &StoreResult) {
    let mut parcel = Parcel::reply(number, result).unwrap();
    attachment.downlink().send_parcel(&mut parcel).unwrap();
}

fn events(attachment: &Attachment, watch: u64, revisions: std::ops::RangeInclusive<u64>) {
    let batch = WatchBatch {
        revision: *revisions.end(),
        compacted: false,
        events: revisions.map(event).collect(),
    };
    let mut parcel = Parcel::events(watch, &batch).unwrap();
    attachment.downlink().send_parcel(&mut parcel).unwrap();
}

fn event(revision: u64) -> WatchEvent {
    WatchEvent {
        revision,
        path: Path::new("/a").unwrap(),
        kind: WatchKind::Put {
            version: revision,
            value: None,
        },
    }
}

fn revisions(message: Option<Message>) -> (u64, Vec<u64>) {
    match message {
        Some(Message::Events { watch, batch }) => {
            (watch, batch.events.iter().map(|e| e.revision).collect())
        }
        other => panic!("{other:?}"),
    }
}

#[test]
fn ops_of_any_size_come_out_whole_in_order_with_the_records() {
    let dir = tempfile::tempdir().unwrap();
    let session = Session::create(options(dir.path(), WhenFull::Spill)).unwrap();
    let mut attachment = attach(dir.path());
    let mut expected = Vec::new();
    for round in 0..40usize {
        let size = [0, 100, 70_000, 1 << 20][round % 4];
        session.record("test", &body(round as u64)).unwrap();
        let op = put(&format!("/a/{round}"), size);
        expected.push((session.op(&op).unwrap(), op));
        if round % 5 == 0 {
            // The ring has 256 KiB: what is larger was spilled, all of it.
            let max_bytes = [1, 60_000, 200_000][round % 3];
            let got: Vec<_> = requests(&mut attachment, max_bytes)
                .iter()
                .map(|request| (request.number, op_of(request).1))
                .collect();
            assert!(got == std::mem::take(&mut expected), "round {round}");
        }
    }
    let got = requests(&mut attachment, usize::MAX);
    assert_eq!(got.len(), expected.len());
    for (request, (number, op)) in got.iter().zip(&expected) {
        assert_eq!(request.number, *number);
        assert!(op_of(request).1 == *op);
    }
    assert_eq!(session.committed_seq(), session.last_seq());
}

/// However little is drained at a time, the frames of one value come in one call.
#[test]
fn one_drain_gives_the_whole_of_a_value() {
    let dir = tempfile::tempdir().unwrap();
    let mut options = options(dir.path(), WhenFull::Spill);
    options.ring_bytes = 4 << 20;
    let session = Session::create(options).unwrap();
    let mut attachment = attach(dir.path());
    for size in [10, 300_000, 20, 1 << 20] {
        session.op(&put("/a", size)).unwrap();
    }
    let mut requests = 0;
    loop {
        let mut out = Vec::new();
        let drained = attachment.drain(&mut out, 1000).unwrap();
        let mut assembler = Assembler::default();
        let mut last = None;
        for frame in frames(&out, &session.epoch()) {
            let frame = frame.unwrap();
            requests += usize::from(assembler.push(&frame).is_some());
            last = Some(frame.header.flags);
        }
        assert!(last.is_none_or(|flags| flags & frame::FLAG_MORE == 0));
        if !drained.more {
            break;
        }
    }
    assert_eq!(requests, 4);
}

#[test]
fn what_does_not_fit_is_refused_as_a_whole() {
    let dir = tempfile::tempdir().unwrap();
    let session = Session::create(options(dir.path(), WhenFull::Refuse)).unwrap();
    let refused = session.op(&put("/a", 1 << 20));
    assert!(
        matches!(
            refused,
            Err(RefusedCause::TooLargeForRing {
                ring_bytes: 262_144,
                ..
            })
        ),
        "{refused:?}"
    );
    session.op(&put("/a", 200_000)).unwrap();
    assert_eq!(session.op(&put("/a", 100_000)), Err(RefusedCause::Full));
    assert_eq!(
        session.op(&put("/a", 3 << 20)),
        Err(RefusedCause::RequestTooLarge {
            bytes: (3 << 20) + 40,
            max: tree::REQUEST_BYTES_MAX,
        })
    );
    let all = requests(&mut attach(dir.path()), usize::MAX);
    assert_eq!(all.len(), 1);
    assert_eq!(session.refused(), 0, "those are the records'");
}

#[test]
fn an_answer_is_told_once_and_then_acknowledged() {
    let dir = tempfile::tempdir().unwrap();
    let session = Session::create(options(dir.path(), WhenFull::Spill)).unwrap();
    let mut attachment = attach(dir.path());
    let first = session.op(&put("/a", 10)).unwrap();
    let second = session.op(&put("/a", 10)).unwrap();
    let query = session.query(&get("/a")).unwrap();
    let sent = requests(&mut attachment, usize::MAX);
    assert_eq!(sent.iter().map(op_acked).collect::<Vec<_>>(), [0, 0, 0]);
    for number in [second, second, query, first, first, query, 999] {
        reply(&attachment, number, &ok(number));
    }
    attachment.downlink().notice("hello").unwrap();
    let mut told = Vec::new();
    while let Some(message) = session.next_message() {
        told.push(match message {
            Message::Reply { number, result } => {
                assert_eq!(result, ok(number));
                number
            }
            Message::Other(message) => {
                assert_eq!(message.kind, NOTICE);
                0
            }
            Message::Events { .. } => panic!("{message:?}"),
        });
    }
    assert_eq!(told, [second, query, first, 0]);
    let third = session.op(&put("/a", 10)).unwrap();
    session.op(&put("/a", 10)).unwrap();
    // Given up by the game: as good as taken.
    session.forget(third);
    let fifth = session.op(&put("/a", 10)).unwrap();
    session.op(&put("/a", 10)).unwrap();
    let sent = requests(&mut attachment, usize::MAX);
    assert_eq!(
        sent.iter().map(op_acked).collect::<Vec<_>>(),
        [second, second + 1, third, third]
    );
    assert_eq!(fifth, third + 2);
}

fn op_acked(request: &RequestBytes) -> u64 {
    u64::from_le_bytes(request.bytes[..8].try_into().unwrap())
}

/// Of what nobody awaits, only the bad news comes; and it holds nothing up.
#[test]
fn a_quiet_op_tells_its_error_only() {
    let dir = tempfile::tempdir().unwrap();
    let session = Session::create(options(dir.path(), WhenFull::Spill)).unwrap();
    let mut attachment = attach(dir.path());
    let checkpoint = |version| CheckpointRef {
        key: "match",
        kind: CheckpointKind::Full,
        version,
        value: b"state",
        frame: 1,
        realtime_ms: 2,
    };
    let good = session.checkpoint(&checkpoint(1)).unwrap();
    let bad = session.checkpoint(&checkpoint(1)).unwrap();
    session.op(&put("/a", 1)).unwrap();
    let sent = requests(&mut attachment, usize::MAX);
    assert_eq!(op_acked(&sent[2]), bad);
    assert!(matches!(
        op_of(&sent[0]).1,
        StoreOp::Checkpoint { version: 1, .. }
    ));
    reply(&attachment, good, &ok(1));
    let stale = StoreResult::error(ErrorKind::StaleVersion, "version 1 is not above 1");
    reply(&attachment, bad, &stale);
    reply(&attachment, bad, &stale);
    let told = Message::Reply {
        number: bad,
        result: stale,
    };
    assert_eq!(session.next_message(), Some(told));
    assert_eq!(session.next_message(), None);
}

#[test]
fn answers_larger_than_the_downlink_come_in_parts() {
    let dir = tempfile::tempdir().unwrap();
    let session = Session::create(options(dir.path(), WhenFull::Spill)).unwrap();
    let mut attachment = attach(dir.path());
    let number = session.query(&get("/a")).unwrap();
    requests(&mut attachment, usize::MAX);
    let result = StoreResult::Restored(Restored {
        full: big_body(3, 3 << 20),
        ..Restored::default()
    });
    let mut parcel = Parcel::reply(number, &result).unwrap();
    let mut rounds = 0;
    while attachment.downlink().send_parcel(&mut parcel).is_err() {
        assert_eq!(session.next_message(), None);
        rounds += 1;
    }
    assert!(rounds >= 3);
    let told = session.next_message();
    assert!(told == Some(Message::Reply { number, result }));
}

#[test]
fn too_many_requests_are_refused_until_one_is_answered() {
    let dir = tempfile::tempdir().unwrap();
    let session = Session::create(options(dir.path(), WhenFull::Spill)).unwrap();
    let mut attachment = attach(dir.path());
    for _ in 0..REQUESTS_OUTSTANDING_MAX {
        session.query(&get("/a")).unwrap();
    }
    let max = REQUESTS_OUTSTANDING_MAX;
    assert_eq!(
        session.op(&put("/a", 1)),
        Err(RefusedCause::TooManyRequests { max })
    );
    session.loaded("match", 1).unwrap();
    requests(&mut attachment, usize::MAX);
    reply(&attachment, 7, &ok(1));
    session.next_message().unwrap();
    session.op(&put("/a", 1)).unwrap();
}

/// A watchdog dies with questions unanswered; the next one is asked again, and watches go on where they were.
#[test]
fn a_new_watchdog_is_asked_again() {
    let dir = tempfile::tempdir().unwrap();
    let session = Session::create(options(dir.path(), WhenFull::Spill)).unwrap();
    let mut first = attach(dir.path());
    first.controls().set_generation(5);
    session.on_frame(Phase::Running);
    let question = session.query(&get("/a")).unwrap();
    let op = session.op(&put("/b", 1)).unwrap();
    let watched = session.query(&watch("/**", None)).unwrap();
    assert_eq!(requests(&mut first, usize::MAX).len(), 3);
    reply(&first, watched, &ok(40));
    events(&first, watched, 41..=43);
    let told = Message::Reply {
        number: watched,
        result: ok(40),
    };
    assert_eq!(session.next_message(), Some(told));
    assert_eq!(
        revisions(session.next_message()),
        (watched, vec![41, 42, 43])
    );
    session.on_frame(Phase::Running);
    assert_eq!(requests(&mut first, usize::MAX), []);
    drop(first);

    let mut second = attach(dir.path());
    second.resume(session.last_seq() + 1, second.checkpoint());
    let _ = requests(&mut second, usize::MAX);
    second.controls().set_generation(6);
    session.on_frame(Phase::Running);
    session.on_frame(Phase::Running);
    let sent = requests(&mut second, usize::MAX);
    let queries: Vec<_> = sent.iter().map(query_of).collect();
    assert_eq!(
        queries,
        [
            get("/a"),
            StoreQuery::Unwatch { watch: watched },
            watch("/**", Some(43))
        ]
    );
    let (asked, rewatched) = (sent[0].number, sent[2].number);
    // The op's answer is the watchdog's own affair; questions are answered under their new numbers.
    reply(&second, op, &ok(44));
    reply(&second, asked, &ok(45));
    reply(&second, question, &ok(45));
    reply(&second, rewatched, &ok(45));
    events(&second, rewatched, 43..=45);
    for number in [op, question] {
        match session.next_message() {
            Some(Message::Reply { number: told, .. }) => assert_eq!(told, number),
            other => panic!("{other:?}"),
        }
    }
    assert_eq!(revisions(session.next_message()), (watched, vec![44, 45]));
    assert_eq!(session.next_message(), None);
    session.unwatch(watched);
    events(&second, rewatched, 46..=46);
    assert_eq!(session.next_message(), None);
    let sent = requests(&mut second, usize::MAX);
    assert_eq!(query_of(&sent[0]), StoreQuery::Unwatch { watch: rewatched });
}

/// Of a watch that began at an empty store nothing is missed either, and a store that knows less than it did is believed.
#[test]
fn a_watch_from_the_beginning_goes_on_there() {
    let dir = tempfile::tempdir().unwrap();
    let session = Session::create(options(dir.path(), WhenFull::Spill)).unwrap();
    let mut attachment = attach(dir.path());
    attachment.controls().set_generation(5);
    session.on_frame(Phase::Running);
    let watched = session.query(&watch("/**", None)).unwrap();
    requests(&mut attachment, usize::MAX);
    reply(&attachment, watched, &ok(0));
    assert!(session.next_message().is_some());
    let ask_again = |attachment: &mut Attachment, generation| {
        attachment.controls().set_generation(generation);
        session.on_frame(Phase::Running);
        let sent = requests(attachment, usize::MAX);
        (sent[1].number, query_of(&sent[1]))
    };
    let (second, query) = ask_again(&mut attachment, 6);
    assert_eq!(query, watch("/**", Some(0)));
    events(&attachment, second, 1..=9);
    assert_eq!(
        revisions(session.next_message()),
        (watched, (1..=9).collect())
    );
    let (third, query) = ask_again(&mut attachment, 7);
    assert_eq!(query, watch("/**", Some(9)));
    let broken = WatchBatch {
        revision: 3,
        compacted: true,
        events: Vec::new(),
    };
    let mut parcel = Parcel::events(third, &broken).unwrap();
    attachment.downlink().send_parcel(&mut parcel).unwrap();
    events(&attachment, third, 4..=5);
    let told = session.next_message();
    assert!(matches!(told, Some(Message::Events { batch, .. }) if batch.compacted));
    assert_eq!(revisions(session.next_message()), (watched, vec![4, 5]));
}

/// With the file its downlink changes: what was sent before is not lost, what may have been is asked again.
#[test]
fn a_rotation_loses_no_answer() {
    let dir = tempfile::tempdir().unwrap();
    let session = Session::create(options(dir.path(), WhenFull::Spill)).unwrap();
    let mut first = attach(dir.path());
    first.controls().set_generation(5);
    session.on_frame(Phase::Running);
    let answered = session.query(&get("/a")).unwrap();
    let open = session.query(&get("/b")).unwrap();
    requests(&mut first, usize::MAX);
    reply(&first, answered, &ok(1));
    first.controls().set_rotate_to(1);
    session.on_frame(Phase::Running);
    let mut second = attach(dir.path());
    assert_eq!(second.info().rotation, 1);
    assert!(session.look().has_message);
    let told = Message::Reply {
        number: answered,
        result: ok(1),
    };
    assert_eq!(session.next_message(), Some(told));
    // The same watchdog.
    second.resume(second.info().first_seq, ReaderCheckpoint::default());
    second.controls().set_generation(5);
    session.on_frame(Phase::Running);
    let sent = requests(&mut second, usize::MAX);
    assert_eq!(sent.iter().map(query_of).collect::<Vec<_>>(), [get("/b")]);
    reply(&second, sent[0].number, &ok(2));
    let told = Message::Reply {
        number: open,
        result: ok(2),
    };
    assert_eq!(session.next_message(), Some(told));
}

/// Whoever waits is woken by the answer. Without the wake each round would take a slice of the wait, so the sum tells.
#[test]
fn an_answer_wakes_who_waits_for_it() {
    let dir = tempfile::tempdir().unwrap();
    let session = Session::create(options(dir.path(), WhenFull::Spill)).unwrap();
    let mut attachment = attach(dir.path());
    let rounds = 300;
    std::thread::scope(|scope| {
        scope.spawn(|| {
            let mut answered = 0;
            while answered < rounds {
                attachment.wait(Duration::from_secs(5));
                for request in requests(&mut attachment, usize::MAX) {
                    reply(&attachment, request.number, &ok(1));
                    answered += 1;
                }
            }
        });
        let mut times = Vec::new();
        for _ in 0..rounds {
            let begun = Instant::now();
            let number = session.query(&get("/a")).unwrap();
            loop {
                if let Some(Message::Reply { number: told, .. }) = session.next_message() {
                    assert_eq!(told, number);
                    break;
                }
                session.wait_message(Duration::from_secs(5));
            }
            times.push(begun.elapsed());
        }
        times.sort();
        println!(
            "round trip: p50 {:?}, p95 {:?}",
            times[rounds / 2],
            times[rounds * 95 / 100]
        );
    });
}

/// A game that waits in `restore()` runs no frames: the question is put to a new watchdog by the wait itself.
#[test]
fn who_waits_asks_a_new_watchdog() {
    let dir = tempfile::tempdir().unwrap();
    let session = Session::create(options(dir.path(), WhenFull::Spill)).unwrap();
    let mut attachment = attach(dir.path());
    attachment.controls().set_generation(1);
    session.on_frame(Phase::Running);
    let number = session.query(&get("/a")).unwrap();
    assert_eq!(requests(&mut attachment, usize::MAX).len(), 1);
    // It died before it answered.
    attachment.controls().set_generation(2);
    session.wait_message(Duration::from_millis(1));
    let asked = requests(&mut attachment, usize::MAX);
    assert_eq!(asked.iter().map(query_of).collect::<Vec<_>>(), [get("/a")]);
    reply(&attachment, asked[0].number, &ok(1));
    let told = Message::Reply {
        number,
        result: ok(1),
    };
    assert_eq!(session.next_message(), Some(told));
}

/// No library writes a value that never ends. One call of drain is bounded all the same, and nothing comes of the value.
#[test]
fn a_value_without_end_is_drained_in_bounded_parts() {
    use sidekick_ipc::region::{Mapping, Region, Side};
    use std::sync::atomic::Ordering::Release;

    let dir = tempfile::tempdir().unwrap();
    let mut options = options(dir.path(), WhenFull::Spill);
    options.ring_bytes = 16 << 20;
    let session = Session::create(options).unwrap();
    let mut attachment = attach(dir.path());
    let mut hostile = Vec::new();
    let endless = vec![7; 12 << 20];
    let kind = FrameKind::Op;
    request::append_request(&mut hostile, &session.epoch(), kind, 1, 1, &endless);
    let file = std::fs::File::options()
        .read(true)
        .write(true)
        .open(&attachment.name().path)
        .unwrap();
    let words = Mapping::open(&file, layout::file_bytes(16 << 20), Side::Engine).unwrap();
    words.copy_in(layout::D, &hostile);
    words.store(layout::P_TAIL, hostile.len() as u64, Release);
    let longest = request::request_frames_bytes(codec::REQUEST_PAYLOAD_BYTES_MAX, FRAGMENT_BYTES);
    let (mut calls, mut assembler) = (0, Assembler::default());
    loop {
        let mut out = Vec::new();
        let drained = attachment.drain(&mut out, 1000).unwrap();
        assert!(out.len() <= 1000 + longest + frame::FRAME_BYTES_MAX);
        for frame in frames(&out, &session.epoch()) {
            assert_eq!(assembler.push(&frame.unwrap()), None);
        }
        calls += 1;
        if !drained.more {
            break;
        }
    }
    assert!(calls >= 4, "{calls}");
}

/// What a fragment carries is bounded by the frame.
#[test]
fn fragments_fill_their_frames() {
    assert_eq!(FRAGMENT_BYTES, RECORD_BYTES_MAX);
}
