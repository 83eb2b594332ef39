//! Real `kill -9`, of producers with two threads and of consumers, at random moments, over many generations. Nothing
//! that was returned may be lost, nothing may come twice, whoever dies.
//!
//! `SIDEKICK_KILLS=5000` for a long run; 40 producers by default, and about as many consumers.

mod support;

use std::fs::File;
use std::io::{Read, Seek, SeekFrom, Write};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::atomic::Ordering::{Acquire, Release};
use std::time::{Duration, Instant};

use sidekick_ipc::region::{Mapping, Region};
use sidekick_ipc::*;

const THREADS: u64 = 2;
/// Bytes in each frame of a value of several.
const FRAGMENT: usize = 100;
const ROLE: &str = "SIDEKICK_KILL_ROLE";
const DIR: &str = "SIDEKICK_KILL_DIR";
const LAUNCH: &str = "SIDEKICK_KILL_LAUNCH";

fn value_of(launch: u64, thread: u64, number: u64) -> Vec<u8> {
    let mut value = Vec::new();
    for word in [launch, thread, number] {
        value.extend_from_slice(&word.to_le_bytes());
    }
    value.extend((0..number * 37 % 401).map(|k| (number * 31 + k) as u8));
    value
}

/// Numbers that `record` has returned, per launch and thread, in a file that survives everybody.
struct Board(Mapping);

impl Board {
    fn open(dir: &Path) -> Board {
        let file = File::options()
            .read(true)
            .write(true)
            .open(dir.join("board"))
            .unwrap();
        let bytes = file.metadata().unwrap().len() as usize;
        Board(Mapping::create(&file, bytes).unwrap())
    }
    fn at(launch: u64, thread: u64) -> usize {
        ((launch * THREADS + thread) * 8) as usize
    }
    fn get(&self, launch: u64, thread: u64) -> u64 {
        self.0.load(Board::at(launch, thread), Acquire)
    }
    fn set(&self, launch: u64, thread: u64, number: u64) {
        self.0.store(Board::at(launch, thread), number, Release);
    }
}

/// The game: two threads that record as fast as they can, a main loop that runs frames.
fn produce(dir: &Path, launch: u64) {
    let board = Board::open(dir);
    let mut options = support::options(&dir.join("run"), WhenFull::Spill);
    options.launch = launch as u32;
    options.spill_bytes_max = 2 << 20;
    let session = Session::create(options).unwrap();
    std::thread::scope(|scope| {
        for thread in 0..THREADS {
            let (session, board) = (&session, &board);
            scope.spawn(move || {
                let mut number = 0;
                loop {
                    let value = value_of(launch, thread, number + 1);
                    // Every fourth one is a value in several frames.
                    let sent = if number % 4 == 3 {
                        session.submit_request(FrameKind::Op, &value, FRAGMENT)
                    } else {
                        session.record("kill", &value)
                    };
                    match sent {
                        Ok(_) => {
                            number += 1;
                            board.set(launch, thread, number);
                        }
                        Err(_) => std::thread::yield_now(),
                    }
                }
            });
        }
        loop {
            session.on_frame(Phase::Running);
            std::thread::sleep(Duration::from_millis(1));
        }
    });
}

/// What one transaction of the store holds.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
struct Batch {
    launch: u64,
    first_seq: u64,
    next_seq: u64,
    checkpoint: ReaderCheckpoint,
    /// First and last number of each thread's records; 0, 0 for none.
    numbers: [(u64, u64); THREADS as usize],
}

impl Batch {
    const WORDS: usize = 11;

    fn encode(&self) -> Vec<u8> {
        let c = &self.checkpoint;
        let [a, b] = self.numbers;
        let mut bytes = Vec::new();
        for word in [
            self.launch,
            self.first_seq,
            self.next_seq,
            c.rotation.into(),
            c.ring_position,
            c.spill_file.into(),
            c.spill_offset,
            a.0,
            a.1,
            b.0,
            b.1,
        ] {
            bytes.extend_from_slice(&word.to_le_bytes());
        }
        bytes.extend_from_slice(&u64::from(crc32fast::hash(&bytes)).to_le_bytes());
        bytes
    }

    fn decode(bytes: &[u8]) -> Option<Batch> {
        let word = |i: usize| u64::from_le_bytes(bytes[8 * i..8 * i + 8].try_into().unwrap());
        if word(Batch::WORDS) != u64::from(crc32fast::hash(&bytes[..8 * Batch::WORDS])) {
            return None;
        }
        Some(Batch {
            launch: word(0),
            first_seq: word(1),
            next_seq: word(2),
            checkpoint: ReaderCheckpoint {
                rotation: word(3) as u32,
                ring_position: word(4),
                spill_file: word(5) as u32,
                spill_offset: word(6),
            },
            numbers: [(word(7), word(8)), (word(9), word(10))],
        })
    }
}

/// An append-only file of batches with checksums; a torn end is cut away.
struct Store {
    file: File,
    batches: Vec<Batch>,
}

impl Store {
    fn open(dir: &Path) -> Store {
        let path = dir.join("store");
        let mut file = File::options()
            .create(true)
            .truncate(false)
            .read(true)
            .write(true)
            .open(path)
            .unwrap();
        let mut bytes = Vec::new();
        file.read_to_end(&mut bytes).unwrap();
        let batches: Vec<_> = bytes
            .chunks_exact(8 * Batch::WORDS + 8)
            .map_while(Batch::decode)
            .collect();
        let good = batches.len() * (8 * Batch::WORDS + 8);
        file.set_len(good as u64).unwrap();
        file.seek(SeekFrom::End(0)).unwrap();
        Store { file, batches }
    }

    fn last(&self, launch: u64) -> Batch {
        let none = Batch {
            launch,
            next_seq: 1,
            ..Batch::default()
        };
        self.batches
            .iter()
            .rev()
            .find(|b| b.launch == launch)
            .copied()
            .unwrap_or(none)
    }

    fn commit(&mut self, batch: Batch) {
        self.file.write_all(&batch.encode()).unwrap();
        self.batches.push(batch);
    }
}

/// The watchdog: drains every ring it finds, oldest first, until it is told to end (file `end`) and nothing is left.
fn consume(dir: &Path, commits_late: bool) {
    let mut store = Store::open(dir);
    let runtime = dir.join("run");
    let mut batches = 0u64;
    loop {
        let names = scan(&runtime).unwrap();
        let Some(name) = names.first() else {
            if dir.join("end").exists() {
                return;
            }
            std::thread::sleep(Duration::from_micros(300));
            continue;
        };
        let launch = u64::from(name.launch);
        let last = store.last(launch);
        let mut attachment = match Attachment::open(name) {
            Ok(attachment) => attachment,
            Err(error) => panic!("{error}"),
        };
        attachment.resume(last.next_seq, last.checkpoint);
        let mut out = Vec::new();
        loop {
            // In this order: first the proof of death, then once more all there is.
            let alive = attachment.is_writer_alive();
            out.clear();
            let drained = attachment.drain(&mut out, 60_000).unwrap();
            assert_eq!(drained.corruption, None);
            if drained.count == 0 {
                if !alive {
                    break;
                }
                attachment.wait(Duration::from_millis(2));
                continue;
            }
            let batch = Batch {
                launch,
                first_seq: drained.first_seq,
                next_seq: drained.first_seq + drained.count,
                checkpoint: drained.checkpoint,
                numbers: numbers_in(&out, &attachment, drained.first_seq),
            };
            if commits_late {
                attachment.release(batch.next_seq - 1, &batch.checkpoint);
                std::thread::sleep(Duration::from_micros(500));
            }
            store.commit(batch);
            attachment.release(batch.next_seq - 1, &batch.checkpoint);
            batches += 1;
            if batches.is_multiple_of(8) {
                attachment
                    .controls()
                    .set_rotate_to(attachment.info().rotation + 1);
            }
        }
        attachment.finish().unwrap();
    }
}

/// Checks every frame; the numbers of each thread follow one another.
fn numbers_in(out: &[u8], attachment: &Attachment, first_seq: u64) -> [(u64, u64); 2] {
    let mut numbers = [(0, 0); 2];
    let launch = u64::from(attachment.info().launch);
    let mut assembler = request::Assembler::default();
    let mut is_amid_value = false;
    for (frame, seq) in frames(out, &attachment.info().epoch).zip(first_seq..) {
        let frame = frame.unwrap();
        assert_eq!(frame.header.seq, seq, "launch {launch}");
        if frame.header.kind == FrameKind::Gap as u16 {
            continue;
        }
        is_amid_value = frame.header.flags & frame::FLAG_MORE != 0;
        let value = if frame.header.kind == FrameKind::Op as u16 {
            let Some(request) = assembler.push(&frame) else {
                assert!(is_amid_value, "launch {launch}, seq {seq}: half a value");
                continue;
            };
            request.bytes
        } else {
            assert_eq!(
                frame.header.kind,
                FrameKind::Record as u16,
                "launch {launch}, seq {seq}"
            );
            Record::parse(frame.payload).unwrap().variant.to_vec()
        };
        let word = |i: usize| u64::from_le_bytes(value[8 * i..8 * i + 8].try_into().unwrap());
        let (thread, number) = (word(1), word(2));
        assert_eq!(
            value,
            value_of(launch, thread, number),
            "launch {launch}, seq {seq}"
        );
        let (first, last) = &mut numbers[thread as usize];
        if *first == 0 {
            *first = number;
        } else {
            assert_eq!(number, *last + 1, "launch {launch}, thread {thread}");
        }
        *last = number;
    }
    assert!(!is_amid_value, "launch {launch}: half a value at the end");
    numbers
}

/// Not a test: what the children run.
#[test]
fn role() {
    let Ok(role) = std::env::var(ROLE) else {
        return;
    };
    // SAFETY: a plain call; a child must not outlive the test.
    unsafe { libc::prctl(libc::PR_SET_PDEATHSIG, libc::SIGKILL) };
    let dir = PathBuf::from(std::env::var(DIR).unwrap());
    let launch = std::env::var(LAUNCH).unwrap().parse().unwrap();
    match role.as_str() {
        "producer" => produce(&dir, launch),
        "consumer" => consume(&dir, false),
        _ => consume(&dir, true),
    }
}

fn spawn(role: &str, dir: &Path, launch: u64) -> Child {
    Command::new(std::env::current_exe().unwrap())
        .args(["--exact", "role", "--nocapture"])
        .env(ROLE, role)
        .env(DIR, dir)
        .env(LAUNCH, launch.to_string())
        .stdout(Stdio::null())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap()
}

/// Kills it; what it said if it had ended by itself before, which is an error.
fn kill(mut child: Child) -> Option<String> {
    let ended = child.try_wait().unwrap();
    child.kill().unwrap();
    let output = child.wait_with_output().unwrap();
    ended.map(|status| format!("{status}: {}", String::from_utf8_lossy(&output.stderr)))
}

#[derive(Debug, Default)]
struct Outcome {
    producers: u64,
    consumers: u64,
    records: u64,
    lost: u64,
    doubled_or_missing: u64,
    early: u64,
    errors: Vec<String>,
}

fn run(consumer_role: &str, launches: u64) -> Outcome {
    let base = if Path::new("/dev/shm").is_dir() {
        "/dev/shm"
    } else {
        "/tmp"
    };
    let dir = tempfile::tempdir_in(base).unwrap();
    let dir = dir.path();
    std::fs::create_dir(dir.join("run")).unwrap();
    let board = File::create(dir.join("board")).unwrap();
    board.set_len((launches + 1) * THREADS * 8).unwrap();
    let mut outcome = Outcome::default();
    let mut consumer = spawn(consumer_role, dir, 0);
    for launch in 1..=launches {
        let producer = spawn("producer", dir, launch);
        // It may be killed at its start, too: every fourth one dies before or around its ring's appearance.
        let life = match fastrand::u32(..4) {
            0 => fastrand::u64(1_000..8_000),
            _ => fastrand::u64(8_000..40_000),
        };
        let until = Instant::now() + Duration::from_micros(life);
        while Instant::now() < until {
            std::thread::sleep(Duration::from_micros(fastrand::u64(500..9_000)));
            if fastrand::u32(..2) == 0 {
                outcome.errors.extend(kill(consumer));
                outcome.consumers += 1;
                consumer = spawn(consumer_role, dir, 0);
            }
        }
        outcome.errors.extend(kill(producer));
        outcome.producers += 1;
    }
    outcome.errors.extend(kill(consumer));
    std::fs::write(dir.join("end"), "").unwrap();
    let last = spawn(consumer_role, dir, 0).wait_with_output().unwrap();
    if !last.status.success() {
        outcome
            .errors
            .push(String::from_utf8_lossy(&last.stderr).into_owned());
    }
    let store = Store::open(dir);
    let board = Board::open(dir);
    let count = (launches + 1) as usize;
    let mut next_seq = vec![1; count];
    let mut stored = vec![[0u64; THREADS as usize]; count];
    for batch in &store.batches {
        let launch = batch.launch as usize;
        outcome.doubled_or_missing += u64::from(batch.first_seq != next_seq[launch]);
        next_seq[launch] = batch.next_seq;
        for (stored, (first, last)) in stored[launch].iter_mut().zip(batch.numbers) {
            if first != 0 {
                outcome.doubled_or_missing += u64::from(first != *stored + 1);
                *stored = last;
            }
        }
    }
    for launch in 1..=launches {
        for thread in 0..THREADS {
            let (returned, stored) = (
                board.get(launch, thread),
                stored[launch as usize][thread as usize],
            );
            outcome.records += stored;
            outcome.lost += returned.saturating_sub(stored);
            outcome.early += stored.saturating_sub(returned);
        }
    }
    outcome
}

#[test]
fn nothing_returned_is_lost_or_doubled_whoever_is_killed() {
    let kills = std::env::var("SIDEKICK_KILLS")
        .ok()
        .and_then(|n| n.parse().ok())
        .unwrap_or(40);
    let outcome = run("consumer", kills);
    println!("{outcome:?}");
    let Outcome {
        lost,
        doubled_or_missing,
        errors,
        ..
    } = &outcome;
    assert!(
        errors.is_empty() && *lost == 0 && *doubled_or_missing == 0,
        "{outcome:?}"
    );
    assert!(outcome.records > 1000, "{outcome:?}");
}

/// A consumer that gives space back and acknowledges before it commits: the same kills must show it.
#[test]
fn a_consumer_that_commits_late_is_caught() {
    for _ in 0..10 {
        let outcome = run("late consumer", 20);
        let Outcome {
            lost,
            doubled_or_missing,
            errors,
            ..
        } = &outcome;
        if *lost > 0 || *doubled_or_missing > 0 || !errors.is_empty() {
            println!("{outcome:?}");
            return;
        }
    }
    panic!("200 kills did not show it");
}
