//! Crash at every instruction. A child is single-stepped (ptrace) through the real code, and after each instruction
//! the parent looks at the shared file as if the child had been killed right there: over `record` (ring and spill), and
//! over drain, commit and release with a takeover by a new watchdog. Each harness is also run on a wrong order of
//! stores, which it must catch.
#![cfg(all(target_os = "linux", target_arch = "x86_64"))]

mod support;

use std::fs::File;
use std::path::Path;
use std::sync::atomic::Ordering::{Acquire, Relaxed, Release};

use sidekick_ipc::frame::{FRAME_HEADER_BYTES, crc_seed, frame_bytes, seal};
use sidekick_ipc::region::{Mapping, Region, Side};
use sidekick_ipc::*;
use support::*;

/// A page that parent and child share beside the ring.
struct Board(Mapping);

/// 1 while the code under test runs.
const INSIDE: usize = 0;
/// Number of the record in progress.
const TRYING: usize = 8;
/// Number of the last record that was returned.
const RETURNED: usize = 16;
/// Set by the child when its own checks fail.
const WRONG: usize = 24;
/// Which of the two checkpoints below is committed.
const SLOT: usize = 32;
/// Two checkpoints of five words: next number, ring position, spill file, spill offset.
const CHECKPOINT: usize = 64;

impl Board {
    fn new(dir: &Path) -> Board {
        let path = dir.join("board");
        let file = File::options()
            .create_new(true)
            .read(true)
            .write(true)
            .open(path)
            .unwrap();
        file.set_len(4096).unwrap();
        Board(Mapping::create(&file, 4096).unwrap())
    }
    fn get(&self, at: usize) -> u64 {
        self.0.load(at, Acquire)
    }
    fn set(&self, at: usize, value: u64) {
        self.0.store(at, value, Release);
    }
    /// A transaction: one store makes all of it valid.
    fn commit(&self, next_seq: u64, checkpoint: &ReaderCheckpoint) {
        let slot = self.get(SLOT) ^ 1;
        let at = CHECKPOINT + 64 * slot as usize;
        self.set(at, next_seq);
        self.set(at + 8, checkpoint.ring_position);
        self.set(at + 16, checkpoint.spill_file.into());
        self.set(at + 24, checkpoint.spill_offset);
        self.set(SLOT, slot);
    }
    fn committed(&self) -> (u64, ReaderCheckpoint) {
        let at = CHECKPOINT + 64 * self.get(SLOT) as usize;
        let checkpoint = ReaderCheckpoint {
            rotation: 0,
            ring_position: self.get(at + 8),
            spill_file: self.get(at + 16) as u32,
            spill_offset: self.get(at + 24),
        };
        (self.get(at).max(1), checkpoint)
    }
}

/// Forks; the child runs `body` under ptrace and exits.
fn fork_traced(body: impl FnOnce()) -> i32 {
    // SAFETY: the child uses only its own thread; the C library keeps its allocator usable after a fork. Whatever
    // happens in it, it leaves by `_exit`.
    unsafe {
        let pid = libc::fork();
        if pid == 0 {
            libc::ptrace(libc::PTRACE_TRACEME, 0, 0, 0);
            let ok = std::panic::catch_unwind(std::panic::AssertUnwindSafe(body)).is_ok();
            libc::_exit(i32::from(!ok));
        }
        assert!(pid > 0);
        pid
    }
}

/// In the child: hands control to the parent.
fn stop() {
    // SAFETY: a plain call.
    unsafe { libc::raise(libc::SIGSTOP) };
}

/// Lets the child run on (until its next `stop`, or for one instruction); false when it has ended.
fn resume_child(pid: i32, step: bool) -> bool {
    let request = if step {
        libc::PTRACE_SINGLESTEP
    } else {
        libc::PTRACE_CONT
    };
    // SAFETY: `pid` is this thread's stopped tracee.
    unsafe {
        libc::ptrace(request, pid, 0, 0);
        wait_stopped(pid)
    }
}

fn wait_stopped(pid: i32) -> bool {
    let mut status = 0;
    // SAFETY: `status` is valid for the call.
    unsafe { libc::waitpid(pid, &raw mut status, 0) };
    if libc::WIFEXITED(status) {
        assert_eq!(libc::WEXITSTATUS(status), 0, "the child panicked");
    }
    libc::WIFSTOPPED(status)
}

fn kill_child(pid: i32) {
    // SAFETY: `pid` is this thread's child.
    unsafe {
        libc::kill(pid, libc::SIGKILL);
        libc::waitpid(pid, std::ptr::null_mut(), 0);
    }
}

/// Instructions to look at per test; a debug build takes some thousand per record.
const POINTS: u64 = 60_000;

#[derive(Debug, Default)]
struct Tally {
    points: u64,
    violations: u64,
    /// Complete, but the caller did not have its answer.
    early: u64,
    records: u64,
}

/// What `record` is replaced with.
#[derive(Clone, Copy, PartialEq)]
enum Writer {
    Real,
    /// Stores the commit word before the frame.
    CommitsFirst,
    /// A value of several frames.
    Fragments,
    /// Such a value with a commit for each of its frames.
    CommitsEachFragment,
}

/// A value of three frames for every number.
const FRAGMENT: usize = 80;
fn fragments_of(seq: u64) -> Vec<u8> {
    big_body(seq, 2 * FRAGMENT + 8 + (seq * 5 % 60) as usize)
}

fn sizes(seq: u64) -> Vec<u8> {
    big_body(seq, (seq * 37 % 211) as usize)
}

/// A producer that commits before it writes, on the same words.
fn publish_commit_first(region: &Mapping, tail: &mut u64, epoch: &uuid::Uuid, seq: u64) {
    let mut frame = vec![0; FRAME_HEADER_BYTES];
    Record::encode_head("test", &mut frame);
    frame.extend_from_slice(&sizes(seq));
    let payload = frame.len() - FRAME_HEADER_BYTES;
    frame.resize(frame_bytes(payload), 0);
    seal(
        &mut frame,
        crc_seed(epoch),
        FrameKind::Record as u16,
        payload,
        seq,
        1,
    );
    let at = layout::D + *tail as usize;
    *tail += frame.len() as u64;
    region.store(layout::P_TAIL, *tail, Release);
    region.copy_in(at, &frame);
}

/// A producer that commits each frame of a value by itself, on the same words.
fn publish_each(
    region: &Mapping,
    tail: &mut u64,
    epoch: &uuid::Uuid,
    first_seq: u64,
    value: &[u8],
) {
    let mut frames_bytes = Vec::new();
    request::append_request_in(
        &mut frames_bytes,
        epoch,
        FrameKind::Op,
        first_seq,
        1,
        value,
        FRAGMENT,
    );
    let mut rest = &frames_bytes[..];
    for frame in frames(&frames_bytes, epoch).map(Result::unwrap) {
        let (one, others) = rest.split_at(frame.header.frame_bytes());
        region.copy_in(layout::D + *tail as usize, one);
        *tail += one.len() as u64;
        region.store(layout::P_TAIL, *tail, Release);
        rest = others;
    }
}

/// Steps through records; `prefill` bytes of the ring are taken before, so that it may be full.
fn step_over_record(writer: Writer, prefill: u64, points_max: u64) -> Tally {
    let dir = tempfile::tempdir().unwrap();
    let board = Board::new(dir.path());
    let runtime = dir.path().join("run");
    std::fs::create_dir(&runtime).unwrap();
    let pid = fork_traced(|| {
        let session = Session::create(options(&runtime, WhenFull::Spill)).unwrap();
        let name = scan(&runtime).unwrap().remove(0);
        let file = File::options()
            .read(true)
            .write(true)
            .open(name.path)
            .unwrap();
        let broken = Mapping::open(&file, layout::file_bytes(256 << 10), Side::Engine).unwrap();
        for size in [20_000, 200] {
            while session.ring_used() + size + 260 < prefill {
                let value = big_body(session.last_seq() + 1, size as usize);
                session.record("test", &value).unwrap();
            }
        }
        board.set(RETURNED, session.last_seq());
        let mut tail = session.ring_used();
        let mut seq = session.last_seq();
        loop {
            let first_seq = seq + 1;
            let in_fragments = matches!(writer, Writer::Fragments | Writer::CommitsEachFragment);
            seq += if in_fragments { 3 } else { 1 };
            let bytes = if in_fragments {
                fragments_of(first_seq)
            } else {
                sizes(seq)
            };
            board.set(TRYING, seq);
            stop();
            board.set(INSIDE, 1);
            match writer {
                Writer::Real => drop(session.record("test", &bytes)),
                Writer::CommitsFirst => {
                    publish_commit_first(&broken, &mut tail, &session.epoch(), seq);
                }
                Writer::Fragments => {
                    let _ = session.submit_request(FrameKind::Op, &bytes, FRAGMENT);
                }
                Writer::CommitsEachFragment => {
                    publish_each(&broken, &mut tail, &session.epoch(), first_seq, &bytes);
                }
            }
            board.set(RETURNED, seq);
            board.set(INSIDE, 0);
        }
    });
    assert!(wait_stopped(pid));
    let mut watchdog = attach(&runtime);
    let (base, _) = drain_all(&mut watchdog);
    let (next, checkpoint) = (watchdog.next_seq(), watchdog.checkpoint());
    assert_eq!(check_dense(&base, 1), next);
    let file = File::options()
        .read(true)
        .write(true)
        .open(&watchdog.name().path)
        .unwrap();
    let words = Mapping::open(&file, layout::file_bytes(256 << 10), Side::Watchdog).unwrap();
    let mut tally = Tally::default();
    while tally.points < points_max {
        assert!(resume_child(pid, true));
        if board.get(INSIDE) == 0 {
            if board.get(RETURNED) == board.get(TRYING) {
                tally.records += 1;
                assert!(resume_child(pid, false));
            }
            continue;
        }
        tally.points += 1;
        // The takeover. It gives back space, which must stay taken here.
        watchdog.resume(next, checkpoint);
        words.store(layout::C_HEAD, 0, Relaxed);
        words.store(layout::C_ACK_SEQ, 0, Relaxed);
        let mut out = Vec::new();
        let Ok(drained) = watchdog.drain(&mut out, usize::MAX) else {
            tally.violations += 1;
            continue;
        };
        let last = drained.first_seq + drained.count - 1;
        let mut assembler = request::Assembler::default();
        let mut amid_value = false;
        let whole = frames(&out, &watchdog.info().epoch).all(|frame| {
            let Ok(frame) = frame else { return false };
            if frame.header.kind == FrameKind::Record as u16 {
                return Record::parse(frame.payload)
                    .is_ok_and(|r| r.variant == sizes(frame.header.seq));
            }
            amid_value = frame.header.flags & frame::FLAG_MORE != 0;
            assembler
                .push(&frame)
                .is_none_or(|request| request.bytes == fragments_of(request.number - 2))
        }) && !amid_value;
        let (returned, trying) = (board.get(RETURNED), board.get(TRYING));
        if drained.corruption.is_some() || !whole || last < returned || last > trying {
            tally.violations += 1;
        }
        tally.early += u64::from(last > returned);
    }
    kill_child(pid);
    assert_eq!(spill_files(&runtime) > 0, prefill > 0, "{tally:?}");
    tally
}

#[test]
fn a_kill_at_any_instruction_of_record_leaves_whole_records_only() {
    let tally = step_over_record(Writer::Real, 0, POINTS);
    println!("{tally:?}");
    assert_eq!(tally.violations, 0, "{tally:?}");
    assert!(tally.early > 0 && tally.records > 2, "{tally:?}");
}

/// The ring becomes full under the harness: the first frames wrap or end there, the others go to the spill file.
#[test]
fn a_kill_at_any_instruction_of_a_spilled_record_leaves_whole_records_only() {
    let tally = step_over_record(Writer::Real, 256 << 10, POINTS);
    println!("{tally:?}");
    assert_eq!(tally.violations, 0, "{tally:?}");
    assert!(tally.early > 0 && tally.records > 2, "{tally:?}");
}

#[test]
fn a_kill_at_any_instruction_leaves_all_frames_of_a_value_or_none() {
    let tally = step_over_record(Writer::Fragments, 0, POINTS);
    println!("{tally:?}");
    assert_eq!(tally.violations, 0, "{tally:?}");
    assert!(tally.early > 0 && tally.records > 2, "{tally:?}");
}

#[test]
fn a_kill_at_any_instruction_of_a_spilled_value_leaves_all_of_its_frames_or_none() {
    let tally = step_over_record(Writer::Fragments, 256 << 10, POINTS);
    println!("{tally:?}");
    assert_eq!(tally.violations, 0, "{tally:?}");
    assert!(tally.early > 0 && tally.records > 2, "{tally:?}");
}

#[test]
fn the_harness_catches_a_producer_that_commits_each_frame_of_a_value() {
    let tally = step_over_record(Writer::CommitsEachFragment, 0, POINTS / 4);
    println!("{tally:?}");
    assert!(tally.violations > 0, "{tally:?}");
}

#[test]
fn the_harness_catches_a_producer_that_commits_first() {
    let tally = step_over_record(Writer::CommitsFirst, 0, POINTS / 4);
    println!("{tally:?}");
    assert!(tally.violations > 0, "{tally:?}");
}

/// How the reader takes what is left of a killed engine's refusals.
#[derive(Clone, Copy, PartialEq)]
enum GapReader {
    Real,
    /// Does not look at which frame was about to tell of them.
    IgnoresFrames,
}

/// Steps through the frame that tells of refused records, once there is room for it.
fn step_over_gap(reader: GapReader) -> Tally {
    let dir = tempfile::tempdir().unwrap();
    let board = Board::new(dir.path());
    let runtime = dir.path().join("run");
    std::fs::create_dir(&runtime).unwrap();
    let pid = fork_traced(|| {
        let session = Session::create(options(&runtime, WhenFull::Refuse)).unwrap();
        while session.record("test", &big_body(0, 1000)).is_ok() {}
        for _ in 0..6 {
            session.record("test", &big_body(0, 1000)).unwrap_err();
        }
        let mut before = attach(&runtime);
        commit_all(&mut before);
        board.commit(before.next_seq(), &before.checkpoint());
        board.set(RETURNED, session.refused());
        stop();
        board.set(INSIDE, 1);
        session.on_frame(Phase::Running);
        board.set(INSIDE, 0);
        stop();
    });
    assert!(wait_stopped(pid));
    let refused = board.get(RETURNED);
    assert!(refused >= 7);
    let mut watchdog = Attachment::open(&scan(&runtime).unwrap()[0]).unwrap();
    let (next, checkpoint) = board.committed();
    let path = watchdog.name().path.clone();
    let mut tally = Tally::default();
    while resume_child(pid, true) {
        if board.get(INSIDE) == 0 {
            if tally.points > 0 {
                break;
            }
            continue;
        }
        tally.points += 1;
        watchdog.resume(next, checkpoint);
        let mut out = Vec::new();
        let drained = watchdog.drain(&mut out, usize::MAX).unwrap();
        let in_frames: u64 = frames(&out, &watchdog.info().epoch)
            .map(|frame| Gap::parse(frame.unwrap().payload).unwrap().count)
            .sum();
        if reader == GapReader::IgnoresFrames {
            for at in layout::P_UNTOLD_TOLD_IN {
                scribble(&path, at as u64, &[0; 8]);
            }
        }
        let untold = watchdog.untold_refusals();
        let untold: u64 = untold.iter().map(|gap| gap.count).sum();
        let is_wrong = drained.corruption.is_some() || in_frames + untold != refused;
        tally.violations += u64::from(is_wrong);
        tally.records = tally.records.max(drained.count);
        tally.early += u64::from(in_frames > 0);
    }
    kill_child(pid);
    tally
}

#[test]
fn a_kill_at_any_instruction_of_a_gap_frame_tells_of_each_refusal_once() {
    let tally = step_over_gap(GapReader::Real);
    println!("{tally:?}");
    assert_eq!(tally.violations, 0, "{tally:?}");
    assert!(tally.records == 1 && tally.early > 0, "{tally:?}");
}

#[test]
fn the_harness_catches_a_reader_that_tells_what_a_frame_has_told() {
    let tally = step_over_gap(GapReader::IgnoresFrames);
    println!("{tally:?}");
    assert!(tally.violations > 0, "{tally:?}");
}

/// In which order the child's watchdog does its work.
#[derive(Clone, Copy, PartialEq)]
enum Reader {
    Real,
    /// Gives the space back before the records are committed.
    ReleasesFirst,
}

fn step_over_consume(reader: Reader, points_max: u64) -> Tally {
    let dir = tempfile::tempdir().unwrap();
    let board = Board::new(dir.path());
    let runtime = dir.path().join("run");
    std::fs::create_dir(&runtime).unwrap();
    let session = Session::create(options(&runtime, WhenFull::Spill)).unwrap();
    // Five that nearly fill the ring and are committed already, a few that fill it, twelve that go to the spill file.
    for size in [62_000, 62_000, 62_000, 62_000, 12_500] {
        session.record("test", &big_body(0, size)).unwrap();
    }
    let mut before = attach(&runtime);
    drain_all(&mut before);
    board.commit(before.next_seq(), &before.checkpoint());
    drop(before);
    while spill_files(&runtime) == 0 {
        session
            .record("test", &sizes(session.last_seq() + 1))
            .unwrap();
    }
    for _ in 0..11 {
        session
            .record("test", &sizes(session.last_seq() + 1))
            .unwrap();
    }
    let last = session.last_seq();
    let name = scan(&runtime).unwrap().remove(0);
    let epoch = session.epoch();
    let pid = fork_traced(|| {
        let mut watchdog = Attachment::open(&name).unwrap();
        let (next, checkpoint) = board.committed();
        stop();
        board.set(INSIDE, 1);
        watchdog.resume(next, checkpoint);
        let mut out = Vec::with_capacity(1 << 20);
        loop {
            out.clear();
            // About three small records at a time.
            let drained = watchdog.drain(&mut out, 400).unwrap();
            if drained.count == 0 {
                break;
            }
            if drained.corruption.is_some() {
                board.set(WRONG, 1);
            }
            let next = drained.first_seq + drained.count;
            if reader == Reader::ReleasesFirst {
                watchdog.release(next - 1, &drained.checkpoint);
            }
            board.commit(next, &drained.checkpoint);
            watchdog.release(next - 1, &drained.checkpoint);
        }
        board.set(INSIDE, 0);
    });
    assert!(wait_stopped(pid));
    let file = File::options()
        .read(true)
        .write(true)
        .open(&name.path)
        .unwrap();
    let words = Mapping::open(&file, layout::file_bytes(256 << 10), Side::Watchdog).unwrap();
    let mut tally = Tally::default();
    while resume_child(pid, true) {
        if board.get(INSIDE) == 0 {
            continue;
        }
        tally.points += 1;
        if tally.points > points_max {
            break;
        }
        let (next, checkpoint) = board.committed();
        let (head, ack) = (
            words.load(layout::C_HEAD, Relaxed),
            words.load(layout::C_ACK_SEQ, Relaxed),
        );
        // The engine may overwrite up to `head`, and may believe `ack`.
        let mut good = head <= checkpoint.ring_position && ack < next && board.get(WRONG) == 0;
        tally.early += u64::from(ack + 1 < next);
        // The takeover at the first points after each commit and every 97th else; a new process costs a millisecond.
        if tally.points.is_multiple_of(97) || next != tally.records {
            tally.records = next;
            let mut successor = Attachment::open(&name).unwrap();
            successor.resume(next, checkpoint);
            let (all, damage) = drain_all(&mut successor);
            good &= damage.is_empty() && check_dense(&all, next) == last + 1;
            good &= all.iter().all(|item| match item {
                Item::Record(seq, bytes) => *bytes == sizes(*seq),
                _ => false,
            });
            // As it was, so that the child's own stores are still looked at.
            words.store(layout::C_HEAD, head, Relaxed);
            words.store(layout::C_ACK_SEQ, ack, Relaxed);
        }
        tally.violations += u64::from(!good);
    }
    if tally.points > points_max {
        kill_child(pid);
    } else {
        assert_eq!(board.committed().0, last + 1);
        let mut successor = attach(&runtime);
        let (next, checkpoint) = board.committed();
        successor.resume(next, checkpoint);
        assert_eq!(drain_all(&mut successor).0, []);
        assert_eq!(successor.info().epoch, epoch);
    }
    tally
}

#[test]
fn a_kill_at_any_instruction_of_drain_commit_release_loses_and_doubles_nothing() {
    let tally = step_over_consume(Reader::Real, 1_000_000);
    println!("{tally:?}");
    assert_eq!(tally.violations, 0, "{tally:?}");
    assert!(
        tally.early > 0,
        "no kill between commit and release: {tally:?}"
    );
}

#[test]
fn the_harness_catches_a_consumer_that_releases_before_the_commit() {
    let tally = step_over_consume(Reader::ReleasesFirst, 100_000);
    println!("{tally:?}");
    assert!(tally.violations > 0, "{tally:?}");
}
