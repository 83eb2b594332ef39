//! What goes wrong with records, backends and operators: poison, rules, outages, dead letters and their replays. In every
//! case the books add up: what was committed is uploaded, dead, dropped for a reason, or told of.

use std::collections::BTreeSet;
use std::fs::File;
use std::io::{Read, Seek};
use std::sync::atomic::{AtomicBool, AtomicU32, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use bytes::Bytes;
use sidekick_ipc::frame::Record;
use tokio::time::Instant;
use uuid::Uuid;

use super::{append_random, steady};
use crate::position::Position;
use crate::upload::engine::Drive;
use crate::upload::gate::{FAILURES_MAX, PROBE_EVERY};
use crate::upload::plan::Plan;
use crate::upload::shape::{Shaped, Shaper, Stored};
use crate::upload::sink::{Batch, BoxFuture, Outcome, PrepareError};
use crate::upload::status::SinkState;
use crate::upload::testing::{
    FakeOutbox, FakeSink, Fuse, REQUEST, Running, check, check_books, check_watermarks,
    small_batches, start, start_shaped,
};
use crate::upload::{Sink, UploadSettings};

/// Numbers of the dead letters, in their order.
pub(super) fn dead(outbox: &FakeOutbox) -> Vec<u64> {
    let state = outbox.state.lock().unwrap();
    let letters = state.letters.iter();
    letters.map(|kept| kept.letter.head.first_seq).collect()
}

/// Waits until everything is through, and lanes that only looked have committed that.
pub(super) async fn settle(running: &mut Running, outbox: &FakeOutbox) {
    running.through(outbox.index()).await;
    tokio::time::sleep(Duration::from_secs(30)).await;
}

/// One bad record in a batch of 10,000: all others arrive, in order, at the price of a few requests.
#[tokio::test(start_paused = true)]
async fn a_poison_record_costs_a_few_requests_and_nobody_else() {
    for poison in [1, 2, 4_711, 5_000, 9_999, 10_000] {
        let fuse = Fuse::new();
        let outbox = Arc::new(FakeOutbox::new(fuse.clone(), &[("fake", 1)]));
        let sink = Arc::new(FakeSink {
            poison: BTreeSet::from([poison]),
            ..steady(1, &fuse)
        });
        for _ in 0..100 {
            outbox.append(&[&["a"; 100]]);
        }
        let settings = UploadSettings {
            batch_max_records: 10_000,
            batch_max_bytes: 64 << 20,
            ..UploadSettings::default()
        };
        let mut running = start(outbox.clone(), vec![sink.clone()], settings).await;
        settle(&mut running, &outbox).await;
        check(&outbox, &sink).unwrap();
        check_books(&outbox).unwrap();
        assert_eq!(dead(&outbox), [poison]);
        let came = sink.records();
        assert_eq!(came.len(), 9_999);
        assert!(came.is_sorted_by_key(|(_, seq)| *seq), "the order is lost");
        let tries = sink.seen.lock().unwrap().tries;
        // The batch itself, and no more than 2 * log2(10,000) + 2 others.
        assert!(
            tries <= 1 + 2 * 13 + 2,
            "{tries} requests for number {poison}"
        );
        let state = outbox.state.lock().unwrap();
        let letter = &state.letters[0].letter;
        let said = (letter.code.as_str(), letter.reason.as_str());
        assert_eq!(said, ("HTTP 400", "bad"));
        assert_eq!((letter.stream.as_str(), letter.numbers), ("a", 1));
    }
}

/// Rules for these tests: the stream says what becomes of a record. Reloaded all the time.
#[derive(Debug, Default)]
struct ByStream {
    version: Mutex<u32>,
}

impl Shaper for ByStream {
    fn version(&self) -> u32 {
        let mut version = self.version.lock().unwrap();
        *version = (*version + 1) % 30;
        *version / 10
    }

    fn knows(&self, version: u32) -> bool {
        version < 3
    }

    fn shape(&self, version: u32, _: &str, stored: &Stored<'_>, out: &mut Vec<u8>) -> Shaped {
        match stored.record.stream {
            "score" if stored.seq.is_multiple_of(2) => Shaped::Dropped {
                reason: "even".into(),
            },
            "move" if stored.seq.is_multiple_of(3) => Shaped::Refused {
                code: "set",
                reason: format!("version {version} wants no {}", stored.seq),
            },
            stream @ "damage" => {
                Record::encode_head(stream, out);
                out.extend_from_slice(stored.record.variant);
                Shaped::Changed
            }
            _ => Shaped::Keep,
        }
    }
}

/// One run through crashes, with everything that can become of a record.
struct Case {
    seed: u64,
    crash_at: i64,
    counts_twice: bool,
    drops_refused: bool,
}

impl Case {
    fn new(seed: u64, crash_at: i64) -> Self {
        Self {
            seed,
            crash_at,
            counts_twice: false,
            drops_refused: false,
        }
    }

    async fn run(&self) -> Result<i64, String> {
        let lanes = if self.seed.is_multiple_of(2) { 1 } else { 3 };
        let fuse = Fuse::new();
        let mut outbox = FakeOutbox::new(fuse.clone(), &[("fake", lanes)]);
        outbox.counts_twice = self.counts_twice;
        outbox.fails_every = self.seed.is_multiple_of(3).then_some(7);
        let outbox = Arc::new(outbox);
        let mut random = fastrand::Rng::with_seed(self.seed);
        append_random(&outbox, &mut random, 6);
        {
            let mut state = outbox.state.lock().unwrap();
            let records = state.records.clone();
            let is_even = |(_, stream, seq): &&(_, String, u64)| stream == "score" && seq % 2 == 0;
            state.left_out = records
                .iter()
                .filter(is_even)
                .map(|(.., seq)| *seq)
                .collect();
        }
        let sink = Arc::new(FakeSink {
            drops_refused: self.drops_refused,
            poison: (0..100).filter(|_| random.u32(0..8) == 0).collect(),
            lines_max: 4,
            ..FakeSink::new(lanes, fuse.clone(), self.seed)
        });
        let begin = |settings| {
            let sinks: Vec<Arc<dyn Sink>> = vec![sink.clone()];
            start_shaped(
                outbox.clone(),
                sinks,
                settings,
                Arc::new(ByStream::default()),
            )
        };
        fuse.set(self.crash_at);
        let mut passed = 0;
        for crash in 0..100 {
            let before = fuse.left();
            let settings = UploadSettings {
                batch_max_records: random.usize(2..9),
                ..small_batches()
            };
            let running = begin(settings).await;
            let blown = running.until_blown(outbox.index(), &fuse).await;
            passed += before - fuse.left().max(0);
            check_watermarks(&outbox, &sink)?;
            if blown {
                let crash_again = crash < 20 && self.crash_at > 10;
                fuse.set(if crash_again { self.crash_at } else { i64::MAX });
                continue;
            }
            fuse.set(i64::MAX);
            let mut running = begin(small_batches()).await;
            running.drive.send_replace(Drive::Drain);
            settle(&mut running, &outbox).await;
            check(&outbox, &sink)?;
            check_books(&outbox)?;
            self.check_ends(&outbox, &sink)?;
            return Ok(passed);
        }
        Err("no end after 100 crashes".into())
    }

    /// Dropped is what the rules drop, dead is what they or the backend refuse.
    fn check_ends(&self, outbox: &FakeOutbox, sink: &FakeSink) -> Result<(), String> {
        let found: BTreeSet<u64> = dead(outbox).into_iter().collect();
        let state = outbox.state.lock().unwrap();
        let dropped = state.books.dropped.get("even").copied().unwrap_or_default();
        if dropped != state.left_out.len() as u64 {
            return Err(format!("{dropped} dropped, not {}", state.left_out.len()));
        }
        let is_dead = |(_, stream, seq): &&(_, String, u64)| {
            let by_rules = stream == "move" && seq % 3 == 0;
            by_rules || (sink.poison.contains(seq) && !state.left_out.contains(seq))
        };
        let dead = state.records.iter().filter(is_dead);
        let expected: BTreeSet<u64> = dead.map(|(.., seq)| *seq).collect();
        match found == expected {
            true => Ok(()),
            false => Err(format!("dead are {found:?}, expected {expected:?}")),
        }
    }
}

/// Poison, rules that are reloaded all the time, 413, 503, lost answers, a store that fails, and a crash at each point:
/// everything ends in exactly one place, and the books say so.
#[tokio::test(start_paused = true)]
async fn in_is_uploaded_and_dead_and_dropped_whatever_happens() {
    for seed in 0..4 {
        let points = Case::new(seed, i64::MAX).run().await.unwrap();
        assert!(points > 40, "{points} points");
        for crash_at in (1..points).step_by(2) {
            let run = Case::new(seed, crash_at).run().await;
            run.unwrap_or_else(|e| panic!("seed {seed}, point {crash_at}: {e}"));
        }
    }
    for seed in 4..60 {
        let run = Case::new(seed, i64::MAX).run().await;
        run.unwrap_or_else(|e| panic!("seed {seed}: {e}"));
    }
}

/// Must fail: books that do not hang on the watermark count what a retry brings again.
#[tokio::test(start_paused = true)]
async fn broken_books_without_dedup_would_count_twice() {
    let mut caught = 0;
    for seed in [0, 3, 6, 9, 12] {
        let case = Case {
            counts_twice: true,
            ..Case::new(seed, i64::MAX)
        };
        let run = case.run().await;
        caught += u32::from(run.is_err_and(|error| error.contains("the books")));
    }
    assert!(caught > 0, "the check does not see what is counted twice");
}

/// Must fail: a lane that lets go of what was refused.
#[tokio::test(start_paused = true)]
async fn broken_lane_that_drops_what_is_refused_would_be_noticed() {
    let mut caught = 0;
    for seed in 0..8 {
        let case = Case {
            drops_refused: true,
            ..Case::new(seed, i64::MAX)
        };
        caught += u32::from(case.run().await.is_err());
    }
    assert!(caught >= 6, "{caught} of 8");
}

/// The log of this thread, while it lives.
struct Log {
    file: File,
    _listener: tracing::subscriber::DefaultGuard,
}

impl Log {
    fn listen() -> Self {
        let file = tempfile::tempfile().unwrap();
        let writer = Mutex::new(file.try_clone().unwrap());
        let listener = tracing_subscriber::fmt().with_writer(writer).json();
        let _listener = tracing::subscriber::set_default(listener.finish());
        Self { file, _listener }
    }

    /// The how manieth letter of a row each line tells of.
    fn kept(&self) -> Vec<u64> {
        let mut text = String::new();
        (&self.file).rewind().unwrap();
        (&self.file).read_to_string(&mut text).unwrap();
        let lines = text
            .lines()
            .map(|line| -> serde_json::Value { serde_json::from_str(line).unwrap() });
        let counts = lines.map(|line| line["fields"]["in_a_row"].as_u64());
        counts.flatten().collect()
    }
}

/// A backend that refuses all records: the log tells of it in a few lines.
#[tokio::test(start_paused = true)]
async fn a_thousand_letters_are_a_few_lines_of_log() {
    let fuse = Fuse::new();
    let outbox = Arc::new(FakeOutbox::new(fuse.clone(), &[("fake", 1)]));
    outbox.append(&[&["a"; 1000]]);
    let sink = Arc::new(FakeSink {
        poison: (1..=1000).collect(),
        ..steady(1, &fuse)
    });
    let log = Log::listen();
    let mut running = start(outbox.clone(), vec![sink], small_batches()).await;
    settle(&mut running, &outbox).await;
    assert_eq!(dead(&outbox).len(), 1000);
    assert_eq!(log.kept(), [1, 2, 4, 8, 16, 32, 64, 128, 256, 512]);
}

/// No room for another dead letter: the lane stands still and says why, drops nothing, and goes on when there is room.
#[tokio::test(start_paused = true)]
async fn full_dead_letters_park_the_lane() {
    let fuse = Fuse::new();
    let outbox = Arc::new(FakeOutbox::new(fuse.clone(), &[("fake", 1)]));
    outbox.state.lock().unwrap().letters_max = 1;
    outbox.append(&[&["a", "b", "c", "d"]]);
    let sink = Arc::new(FakeSink {
        poison: BTreeSet::from([2, 3]),
        ..steady(1, &fuse)
    });
    let log = Log::listen();
    let mut running = start(outbox.clone(), vec![sink.clone()], small_batches()).await;
    let is_parked = |status: &crate::upload::UploadStatus| {
        status.sinks.first().is_some_and(
            |s| matches!(&s.state, SinkState::Parked { reason } if reason.contains("full")),
        )
    };
    running.status.wait_for(is_parked).await.unwrap();
    tokio::time::sleep(Duration::from_secs(3600)).await;
    assert_eq!((dead(&outbox), sink.records().len()), (vec![2], 1));
    // What is not kept yet is not told as kept, however often it is tried.
    assert_eq!(log.kept(), [1]);
    outbox.state.lock().unwrap().letters_max = 2;
    settle(&mut running, &outbox).await;
    assert_eq!(dead(&outbox), [2, 3]);
    // After an hour it is news again.
    assert_eq!(log.kept(), [1, 1]);
    check(&outbox, &sink).unwrap();
    check_books(&outbox).unwrap();
    assert_eq!(running.status.borrow().sinks[0].state, SinkState::Ok);
}

/// A backend that refuses what another one takes, until it is mended.
#[derive(Debug)]
struct Mending {
    bad: FakeSink,
    well: FakeSink,
    is_well: AtomicBool,
}

impl Sink for Mending {
    fn name(&self) -> &str {
        self.bad.name()
    }

    fn lanes(&self) -> u32 {
        self.bad.lanes()
    }

    fn prepare<'a>(
        &'a self,
        group: &'a Uuid,
        first: Position,
    ) -> BoxFuture<'a, Result<Vec<u8>, PrepareError>> {
        self.bad.prepare(group, first)
    }

    fn encode<'a>(
        &'a self,
        plan: &'a Plan,
        rows: Vec<u8>,
    ) -> BoxFuture<'a, Result<Bytes, PrepareError>> {
        self.bad.encode(plan, rows)
    }

    fn send<'a>(&'a self, batch: &'a Batch) -> BoxFuture<'a, Outcome> {
        match self.is_well.load(Ordering::Relaxed) {
            true => self.well.send(batch),
            false => self.bad.send(batch),
        }
    }
}

/// Rules that refuse until they are mended.
#[derive(Debug, Default)]
struct Mended {
    version: AtomicU32,
}

impl Shaper for Mended {
    fn version(&self) -> u32 {
        self.version.load(Ordering::Relaxed)
    }

    fn knows(&self, _: u32) -> bool {
        true
    }

    fn shape(&self, version: u32, _: &str, stored: &Stored<'_>, _: &mut Vec<u8>) -> Shaped {
        match version == 0 && stored.record.stream != "well" {
            true => Shaped::Refused {
                code: "filter",
                reason: "a typo".to_owned(),
            },
            false => Shaped::Keep,
        }
    }
}

/// Full of dead letters, a lane goes on when what refused its records is mended: it tries the one at hand again, and sends
/// those that somebody marks.
#[tokio::test(start_paused = true)]
async fn full_dead_letters_are_sent_again_and_judged_anew() {
    for is_of_rules in [false, true] {
        for is_marked in [false, true] {
            let fuse = Fuse::new();
            let outbox = Arc::new(FakeOutbox::new(fuse.clone(), &[("fake", 1)]));
            outbox.state.lock().unwrap().letters_max = 1;
            outbox.append(&[&["well", "b", "c", "well"]]);
            let poison = BTreeSet::from([2, 3]);
            let sink = Arc::new(Mending {
                bad: FakeSink {
                    poison: if is_of_rules { BTreeSet::new() } else { poison },
                    ..steady(1, &fuse)
                },
                well: steady(1, &fuse),
                is_well: AtomicBool::new(false),
            });
            let rules = Arc::new(Mended::default());
            rules
                .version
                .store(u32::from(!is_of_rules), Ordering::Relaxed);
            let mut running = start_shaped(
                outbox.clone(),
                vec![sink.clone()],
                small_batches(),
                rules.clone(),
            )
            .await;
            let is_parked = |status: &crate::upload::UploadStatus| {
                let state = status.sinks.first().map(|sink| &sink.state);
                matches!(state, Some(SinkState::Parked { .. }))
            };
            running.status.wait_for(is_parked).await.unwrap();
            assert_eq!(dead(&outbox), [2]);
            rules.version.store(1, Ordering::Relaxed);
            sink.is_well.store(true, Ordering::Relaxed);
            if is_marked {
                mark_all(&outbox);
            }
            settle(&mut running, &outbox).await;
            let told = format!("rules: {is_of_rules}, marked: {is_marked}");
            let left: &[u64] = if is_marked { &[] } else { &[2] };
            assert_eq!(dead(&outbox), left, "{told}");
            let records = [sink.bad.records(), sink.well.records()].concat();
            let mut came: Vec<u64> = records.iter().map(|(_, seq)| *seq).collect();
            came.sort_unstable();
            let expected: Vec<u64> = (1..=4).filter(|seq| !left.contains(seq)).collect();
            assert_eq!(came, expected, "{told}");
            check_books(&outbox).unwrap();
            let complaints = outbox.state.lock().unwrap().complaints.clone();
            assert_eq!(complaints, Vec::<String>::new(), "{told}");
        }
    }
}

pub(super) fn mark_all(outbox: &FakeOutbox) {
    let mut state = outbox.state.lock().unwrap();
    for kept in &mut state.letters {
        kept.marked = true;
    }
    state.index += 1;
    outbox.applied.send_replace(state.index);
}

/// A letter of the rules has their own word for it, also where they refuse it anew at its replay.
#[tokio::test(start_paused = true)]
async fn a_letter_of_the_rules_says_which_part_refused_it() {
    let fuse = Fuse::new();
    let outbox = Arc::new(FakeOutbox::new(fuse.clone(), &[("fake", 1)]));
    outbox.append(&[&["a", "b", "move"]]);
    let sink: Arc<dyn Sink> = Arc::new(steady(1, &fuse));
    let shaper = Arc::new(ByStream::default());
    let mut running = start_shaped(outbox.clone(), vec![sink], small_batches(), shaper).await;
    for replays in 0..2 {
        settle(&mut running, &outbox).await;
        {
            let mut state = outbox.state.lock().unwrap();
            let kept = &mut state.letters[0];
            assert_eq!((kept.letter.head.first_seq, kept.replays), (3, replays));
            assert_eq!(std::mem::take(&mut kept.letter.code), "set");
        }
        mark_all(&outbox);
    }
}

/// Letters are replayed by their lanes, each under a key of its own, whatever is killed when; one that is refused again
/// stays, with the new reason.
#[tokio::test(start_paused = true)]
async fn marked_letters_are_sent_again_wherever_the_engine_is_killed() {
    for crash_at in 0..40 {
        let fuse = Fuse::new();
        let outbox = Arc::new(FakeOutbox::new(fuse.clone(), &[("fake", 3)]));
        outbox.append(&[&["damage", "score", "move", "damage", REQUEST, "chat.say"]]);
        let sink = Arc::new(FakeSink {
            poison: BTreeSet::from([1, 3, 6]),
            ..steady(3, &fuse)
        });
        let mut running = start(outbox.clone(), vec![sink.clone()], small_batches()).await;
        settle(&mut running, &outbox).await;
        running.tasks.shutdown().await;
        assert_eq!(dead(&outbox).len(), 3);
        // Number 3 stays bad.
        let seen = std::mem::take(&mut *sink.seen.lock().unwrap());
        let healed = Arc::new(FakeSink {
            poison: BTreeSet::from([3]),
            fails_of_ten: 3,
            seen: Mutex::new(seen),
            ..steady(3, &fuse)
        });
        mark_all(&outbox);
        outbox.append(&[&["damage", "move"]]);
        fuse.set(crash_at);
        let running = start(outbox.clone(), vec![healed.clone()], small_batches()).await;
        running.until_blown(outbox.index(), &fuse).await;
        fuse.set(i64::MAX);
        let mut running = start(outbox.clone(), vec![healed.clone()], small_batches()).await;
        settle(&mut running, &outbox).await;
        tokio::time::sleep(Duration::from_secs(600)).await;
        assert_eq!(dead(&outbox), [3], "crash at {crash_at}");
        check_books(&outbox).unwrap();
        let mut came: Vec<u64> = healed.records().iter().map(|(_, seq)| *seq).collect();
        came.sort_unstable();
        assert_eq!(came, [1, 2, 4, 6, 7, 8], "crash at {crash_at}");
        let seen = healed.seen.lock().unwrap();
        assert_eq!(seen.complaints, Vec::<String>::new());
        let replays = seen.taken.iter().filter(|key| key.ends_with("/replay-1"));
        assert_eq!(replays.count(), 2);
        let state = outbox.state.lock().unwrap();
        assert_eq!(state.complaints, Vec::<String>::new());
        assert!(!state.letters[0].marked && state.letters[0].replays == 1);
    }
}

/// A backend that answers in one way until a moment, and well from then on.
#[derive(Debug)]
struct Outage {
    inner: FakeSink,
    until: Instant,
    answer: Outcome,
    tries: Mutex<Vec<Instant>>,
}

impl Sink for Outage {
    fn name(&self) -> &str {
        self.inner.name()
    }

    fn lanes(&self) -> u32 {
        self.inner.lanes()
    }

    fn prepare<'a>(
        &'a self,
        group: &'a Uuid,
        first: Position,
    ) -> BoxFuture<'a, Result<Vec<u8>, PrepareError>> {
        self.inner.prepare(group, first)
    }

    fn encode<'a>(
        &'a self,
        plan: &'a Plan,
        rows: Vec<u8>,
    ) -> BoxFuture<'a, Result<Bytes, PrepareError>> {
        self.inner.encode(plan, rows)
    }

    fn send<'a>(&'a self, batch: &'a Batch) -> BoxFuture<'a, Outcome> {
        Box::pin(async move {
            self.tries.lock().unwrap().push(Instant::now());
            if Instant::now() < self.until {
                return self.answer.clone();
            }
            self.inner.send(batch).await
        })
    }
}

/// 12 s of 503, 60 s of 401, half an hour without a connection, all with the default settings: nothing is lost, dead or
/// dropped, nobody knocks more than once a second, and what waited goes soon after.
#[tokio::test(start_paused = true)]
async fn outages_lose_nothing_with_default_settings() {
    let reason = || "it is away".to_owned();
    let busy = Outcome::Wait {
        pause: Duration::from_secs(1),
        reason: reason(),
    };
    for (seconds, answer) in [
        (12, busy),
        (60, Outcome::Park { reason: reason() }),
        (1800, Outcome::Retry { reason: reason() }),
    ] {
        let fuse = Fuse::new();
        let outbox = Arc::new(FakeOutbox::new(fuse.clone(), &[("fake", 4)]));
        let until = Instant::now() + Duration::from_secs(seconds);
        let sink = Arc::new(Outage {
            inner: steady(4, &fuse),
            until,
            answer,
            tries: Mutex::default(),
        });
        let settings = UploadSettings::default();
        let mut running = start(outbox.clone(), vec![sink.clone()], settings.clone()).await;
        while Instant::now() < until {
            outbox.append(&[&["damage", "chat.say", "score", "move", "match.end"]]);
            tokio::time::sleep(Duration::from_secs(1)).await;
        }
        settle(&mut running, &outbox).await;
        assert_eq!(dead(&outbox), Vec::<u64>::new());
        check(&outbox, &sink.inner).unwrap();
        check_books(&outbox).unwrap();
        let tries = sink.tries.lock().unwrap();
        let during: Vec<Instant> = tries.iter().copied().filter(|at| *at < until).collect();
        // Until the breaker opens all lanes may try.
        let probes = during.get(FAILURES_MAX as usize..).unwrap_or_default();
        for pair in probes.windows(2) {
            assert!(pair[1] - pair[0] >= PROBE_EVERY, "{seconds} s: {pair:?}");
        }
        let first_after = tries.iter().find(|at| **at >= until).unwrap();
        let waited = *first_after - until;
        assert!(waited <= settings.retry_max, "{seconds} s: {waited:?}");
    }
}

/// A letter holds the frame of the record that was refused, and says which numbers are on the books for it.
#[tokio::test(start_paused = true)]
async fn a_letter_holds_its_record() {
    let fuse = Fuse::new();
    let outbox = Arc::new(FakeOutbox::new(fuse.clone(), &[("fake", 1)]));
    outbox.append(&[&[REQUEST, "a", REQUEST, "b"]]);
    let sink = Arc::new(FakeSink {
        poison: BTreeSet::from([4]),
        ..steady(1, &fuse)
    });
    let mut running = start(outbox.clone(), vec![sink.clone()], small_batches()).await;
    settle(&mut running, &outbox).await;
    let state = outbox.state.lock().unwrap();
    let (letter, books) = (&state.letters[0].letter, &state.books);
    assert_eq!((books.records, books.requests, books.rows), (1, 2, 1));
    let mut frames = sidekick_ipc::frame::frames(&letter.frame, &letter.head.epoch);
    let frame = frames.next().unwrap().unwrap();
    assert_eq!(frame.header.seq, 4);
    assert_eq!(Record::parse(frame.payload).unwrap().stream, "b");
    assert_eq!((letter.head.first_seq, letter.head.count), (4, 1));
}

/// A long row of replays does not hold up what was recorded since.
#[tokio::test(start_paused = true)]
async fn replays_and_new_records_take_turns() {
    let fuse = Fuse::new();
    let outbox = Arc::new(FakeOutbox::new(fuse.clone(), &[("fake", 1)]));
    for _ in 0..20 {
        outbox.append(&[&["a", "a", "a", "a"]]);
    }
    let sink = Arc::new(Mending {
        bad: FakeSink {
            poison: (1..=80).collect(),
            ..steady(1, &fuse)
        },
        well: steady(1, &fuse),
        is_well: AtomicBool::new(false),
    });
    let mut running = start(outbox.clone(), vec![sink.clone()], small_batches()).await;
    settle(&mut running, &outbox).await;
    assert_eq!(dead(&outbox).len(), 80);
    sink.is_well.store(true, Ordering::Relaxed);
    for _ in 0..10 {
        outbox.append(&[&["a", "a", "a", "a"]]);
    }
    mark_all(&outbox);
    settle(&mut running, &outbox).await;
    tokio::time::sleep(Duration::from_secs(600)).await;
    assert_eq!(dead(&outbox), Vec::<u64>::new());
    check_books(&outbox).unwrap();
    let status = running.status.borrow().sinks[0].clone();
    assert_eq!(status.records, 120);
    assert!(status.last_success.is_some());
    let seen = sink.well.seen.lock().unwrap();
    let is_replay = |key: &String| key.ends_with("/replay-1");
    assert_eq!(seen.taken.iter().filter(|key| is_replay(key)).count(), 80);
    // Replays before each batch.
    let batches = seen.taken.split(|key| !is_replay(key)).map(<[_]>::len);
    let batches: Vec<usize> = batches.collect();
    assert!(batches.iter().all(|replays| *replays <= 16), "{batches:?}");
}
