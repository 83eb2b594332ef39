//! The engine between an outbox and a backend that both survive its crashes. It is crashed at every point where it could
//! be told apart from outside: before and after each read, commit and send.

mod faults;
mod full;
mod held;
mod lost;

use std::sync::Arc;
use std::time::Duration;

use super::Drive;
use crate::position::Position;
use crate::upload::engine::LaneEnd;
use crate::upload::outbox::OutboxError;
use crate::upload::plan::Plan;
use crate::upload::status::SinkState;
use crate::upload::testing::{
    FakeOutbox, FakeSink, Fuse, REQUEST, check, check_books, check_watermarks, lines,
    small_batches, start,
};
use crate::upload::{Outbox, UploadSettings};

const STREAMS: [&str; 6] = ["damage", "chat.say", "score", "match.end", "move", REQUEST];

/// Appends entries of random slabs.
fn append_random(outbox: &FakeOutbox, random: &mut fastrand::Rng, entries: usize) {
    for _ in 0..entries {
        let slabs: Vec<Vec<&str>> = (0..random.usize(1..4))
            .map(|_| {
                (0..random.usize(1..7))
                    .map(|_| STREAMS[random.usize(0..STREAMS.len())])
                    .collect()
            })
            .collect();
        let slabs: Vec<&[&str]> = slabs.iter().map(Vec::as_slice).collect();
        outbox.append(&slabs);
    }
}

struct Case {
    seed: u64,
    lanes: u32,
    /// Points passed before the first crash and between the further ones.
    crash_at: i64,
    crash_every: i64,
    forgets_plans: bool,
    unsteady: bool,
}

impl Case {
    fn new(seed: u64, crash_at: i64) -> Self {
        let lanes = if seed.is_multiple_of(2) { 1 } else { 3 };
        let crash_every = i64::MAX;
        Self {
            seed,
            lanes,
            crash_at,
            crash_every,
            forgets_plans: false,
            unsteady: false,
        }
    }

    /// Runs to the end through all crashes. Gives how many points were passed.
    async fn run(&self) -> Result<i64, String> {
        let fuse = Fuse::new();
        let mut outbox = FakeOutbox::new(fuse.clone(), &[("fake", self.lanes)]);
        outbox.forgets_plans = self.forgets_plans;
        let outbox = Arc::new(outbox);
        let mut sink = FakeSink::new(self.lanes, fuse.clone(), self.seed);
        sink.unsteady = self.unsteady;
        let sink = Arc::new(sink);
        let mut random = fastrand::Rng::with_seed(self.seed);
        append_random(&outbox, &mut random, 6);
        fuse.set(self.crash_at);
        let mut passed = 0;
        for crash in 0..200 {
            let before = fuse.left();
            // Each start has another configuration: only plans keep the batches the same.
            let settings = UploadSettings {
                batch_max_records: random.usize(2..7),
                ..small_batches()
            };
            let running = start(outbox.clone(), vec![sink.clone()], settings).await;
            let blown = running.until_blown(outbox.index(), &fuse).await;
            passed += before - fuse.left().max(0);
            check_watermarks(&outbox, &sink)?;
            if !blown {
                check(&outbox, &sink)?;
                fuse.set(i64::MAX);
                // Lanes that have nothing to send commit what they saw a little later.
                let mut running = start(outbox.clone(), vec![sink.clone()], small_batches()).await;
                running.drive.send_replace(Drive::Drain);
                running.through(outbox.index()).await;
                tokio::time::sleep(Duration::from_secs(60)).await;
                check_books(&outbox)?;
                return Ok(passed);
            }
            // The world goes on before the next start: batches would be cut in other places now.
            if crash < 20 {
                append_random(&outbox, &mut random, 1);
            }
            fuse.set(if crash < 100 {
                self.crash_every
            } else {
                i64::MAX
            });
        }
        Err("no end after 200 crashes".into())
    }
}

/// One crash at each point of a run, the world changed before the restart: everything arrives once under its key, bodies
/// under one key never differ, streams keep their order, watermarks never pass what has not arrived.
#[tokio::test(start_paused = true)]
async fn nothing_is_lost_or_doubled_wherever_the_engine_is_killed() {
    for seed in 0..3 {
        let points = Case::new(seed, i64::MAX).run().await.unwrap();
        assert!(points > 30, "{points} points");
        for crash_at in 0..points {
            let case = Case::new(seed, crash_at);
            case.run()
                .await
                .unwrap_or_else(|e| panic!("seed {seed}, point {crash_at}: {e}"));
        }
    }
}

/// Killed again and again, with some progress in between.
#[tokio::test(start_paused = true)]
async fn nothing_is_lost_or_doubled_when_it_is_killed_again_and_again() {
    for seed in 0..20 {
        let crash_every = 12 + (seed as i64) % 40;
        let case = Case {
            crash_every,
            ..Case::new(seed, crash_every)
        };
        case.run()
            .await
            .unwrap_or_else(|e| panic!("seed {seed}, every {crash_every}: {e}"));
    }
}

/// Must fail: without a committed plan a restart cuts other batches, and records come under two keys.
#[tokio::test(start_paused = true)]
async fn an_uncommitted_plan_would_double_records() {
    let mut caught = 0;
    for seed in 0..4 {
        for crash_at in 0..40 {
            let case = Case {
                forgets_plans: true,
                ..Case::new(seed, crash_at)
            };
            caught += u32::from(case.run().await.is_err());
        }
    }
    assert!(caught > 0, "the check does not see doubled records");
}

/// Must fail: a body that is made anew at each try.
#[tokio::test(start_paused = true)]
async fn an_unsteady_body_would_be_noticed() {
    let mut caught = false;
    for crash_at in 0..60 {
        let case = Case {
            unsteady: true,
            ..Case::new(1, crash_at)
        };
        caught |= case
            .run()
            .await
            .is_err_and(|error| error.contains("two bodies"));
    }
    assert!(caught);
}

#[tokio::test(start_paused = true)]
async fn failures_of_the_store_are_tried_again() {
    for every in 2..9 {
        let fuse = Fuse::new();
        let mut outbox = FakeOutbox::new(fuse.clone(), &[("fake", 2)]);
        outbox.fails_every = Some(every);
        let outbox = Arc::new(outbox);
        let sink = Arc::new(FakeSink::new(2, fuse, every));
        append_random(&outbox, &mut fastrand::Rng::with_seed(every), 8);
        let mut running = start(outbox.clone(), vec![sink.clone()], small_batches()).await;
        running.through(outbox.index()).await;
        check(&outbox, &sink).unwrap();
    }
}

/// A store that could not be read for a while leaves no mark on a lane that then has nothing to send.
#[tokio::test(start_paused = true)]
async fn an_idle_lane_shows_that_the_store_works_again() {
    let fuse = Fuse::new();
    let mut outbox = FakeOutbox::new(fuse.clone(), &[("fake", 2)]);
    outbox.fails_every = Some(2);
    let outbox = Arc::new(outbox);
    let sink = Arc::new(steady(2, &fuse));
    let mut running = start(outbox.clone(), vec![sink], UploadSettings::default()).await;
    for _ in 0..40 {
        outbox.append(&[&["damage"]]);
        tokio::time::sleep(Duration::from_secs(2)).await;
    }
    running.through(outbox.index()).await;
    tokio::time::sleep(Duration::from_secs(600)).await;
    let status = running.status.borrow();
    assert!(status.sinks[0].failures > 20, "{status:?}");
    assert_eq!(status.sinks[0].state, SinkState::Ok);
}

fn steady(lanes: u32, fuse: &Arc<Fuse>) -> FakeSink {
    FakeSink {
        fails_of_ten: 0,
        lines_max: usize::MAX,
        ..FakeSink::new(lanes, fuse.clone(), 1)
    }
}

/// With a backlog each batch costs one commit: `Uploaded` carries the next plan.
#[tokio::test(start_paused = true)]
async fn a_backlog_costs_one_commit_a_batch() {
    let fuse = Fuse::new();
    let outbox = Arc::new(FakeOutbox::new(fuse.clone(), &[("fake", 1)]));
    let sink = Arc::new(steady(1, &fuse));
    for _ in 0..50 {
        outbox.append(&[&["a", "b", "c", "d", "e"]]);
    }
    let settings = UploadSettings {
        batch_max_records: 10,
        ..UploadSettings::default()
    };
    let mut running = start(outbox.clone(), vec![sink.clone()], settings).await;
    running.through(50).await;
    check(&outbox, &sink).unwrap();
    assert_eq!(sink.seen.lock().unwrap().tries, 25);
    let commits = outbox.state.lock().unwrap().commits;
    assert!(commits <= 27, "{commits} commits for 25 batches");
    let status = running.status.borrow().sinks[0].clone();
    assert_eq!(
        (status.records, status.batches, status.failures),
        (250, 25, 0)
    );
    assert_eq!((status.state, status.in_flight), (SinkState::Ok, 0));
}

/// A batch that is not full waits for `batch_max_age`, and no longer.
#[tokio::test(start_paused = true)]
async fn a_small_batch_waits_for_more_until_it_is_old() {
    let fuse = Fuse::new();
    let outbox = Arc::new(FakeOutbox::new(fuse.clone(), &[("fake", 1)]));
    let sink = Arc::new(steady(1, &fuse));
    let mut running = start(
        outbox.clone(),
        vec![sink.clone()],
        UploadSettings::default(),
    )
    .await;
    let began = tokio::time::Instant::now();
    outbox.append(&[&["a"]]);
    tokio::time::sleep(Duration::from_millis(600)).await;
    outbox.append(&[&["b"]]);
    running.through(2).await;
    let waited = began.elapsed();
    assert!((1000..1100).contains(&waited.as_millis()), "{waited:?}");
    assert_eq!(
        sink.seen.lock().unwrap().taken.len(),
        1,
        "both in one batch"
    );
    assert_eq!(
        running.status.borrow().uploaded,
        [(crate::upload::testing::EPOCH, 2)]
    );
}

/// In the grace of a shutdown nothing waits to be filled, and a lane that sleeps after a failure tries at once.
#[tokio::test(start_paused = true)]
async fn a_drain_sends_at_once() {
    let fuse = Fuse::new();
    let outbox = Arc::new(FakeOutbox::new(fuse.clone(), &[("fake", 1)]));
    let sink = Arc::new(steady(1, &fuse));
    let settings = UploadSettings {
        batch_max_age: Duration::from_secs(600),
        ..UploadSettings::default()
    };
    let mut running = start(outbox.clone(), vec![sink.clone()], settings).await;
    outbox.append(&[&["a", "b"]]);
    tokio::time::sleep(Duration::from_secs(5)).await;
    assert_eq!(sink.records(), []);
    let began = tokio::time::Instant::now();
    running.drive.send_replace(Drive::Drain);
    running.through(1).await;
    assert!(began.elapsed() < Duration::from_millis(100));
    running.drive.send_replace(Drive::Stop);
    assert_eq!(
        running.tasks.join_next().await.unwrap().unwrap(),
        LaneEnd::Stopped
    );
    let state = outbox.state.lock().unwrap();
    assert_eq!(state.lanes[&("fake".to_owned(), 0)].plan, None);
}

/// Lanes without records follow, with few commits, and an idle log stays idle.
#[tokio::test(start_paused = true)]
async fn idle_lanes_move_their_watermark_and_then_rest() {
    let fuse = Fuse::new();
    let outbox = Arc::new(FakeOutbox::new(fuse.clone(), &[("fake", 4)]));
    let sink = Arc::new(steady(4, &fuse));
    let mut running = start(
        outbox.clone(),
        vec![sink.clone()],
        UploadSettings::default(),
    )
    .await;
    for _ in 0..1000 {
        outbox.append(&[&["damage"]]);
    }
    running.through(1000).await;
    tokio::time::sleep(Duration::from_secs(60)).await;
    let (commits, watermark_commits, index) = {
        let state = outbox.state.lock().unwrap();
        for (lane, state) in &state.lanes {
            assert!(state.watermark.index >= 1000, "{lane:?}: {state:?}");
        }
        (state.commits, state.watermark_commits, state.index)
    };
    assert!(
        watermark_commits <= 3 * 5,
        "{watermark_commits} commits for watermarks"
    );
    assert!(
        running.status.borrow().is_through(index),
        "own commits count as seen"
    );
    tokio::time::sleep(Duration::from_secs(3600)).await;
    assert_eq!(
        outbox.state.lock().unwrap().commits,
        commits,
        "an idle log rests"
    );
}

/// A game that only keeps its state costs a sink nothing, and its log goes all the same.
#[tokio::test(start_paused = true)]
async fn requests_alone_move_the_watermarks_and_send_nothing() {
    let fuse = Fuse::new();
    let outbox = Arc::new(FakeOutbox::new(fuse.clone(), &[("fake", 4)]));
    let sink = Arc::new(steady(4, &fuse));
    let settings = UploadSettings::default();
    let mut running = start(outbox.clone(), vec![sink.clone()], settings).await;
    for _ in 0..1000 {
        outbox.append(&[&[REQUEST, REQUEST], &[REQUEST]]);
    }
    running.through(1000).await;
    tokio::time::sleep(Duration::from_secs(60)).await;
    let state = outbox.state.lock().unwrap();
    for (lane, state) in &state.lanes {
        assert!(state.watermark.index >= 1000, "{lane:?}: {state:?}");
    }
    assert_eq!(state.commits, state.watermark_commits, "no plan");
    assert!(state.commits <= 4 * 15, "{} commits", state.commits);
    assert_eq!(sink.records(), []);
}

/// A plan of another version is never guessed at; the lane waits and says why.
#[tokio::test(start_paused = true)]
async fn a_plan_that_cannot_be_kept_parks_its_lane() {
    for (encoder_version, first_item) in [(99, 0), (1, 7)] {
        let fuse = Fuse::new();
        let outbox = Arc::new(FakeOutbox::new(fuse.clone(), &[("fake", 1)]));
        outbox.append(&[&["a", "b"]]);
        let plan = Plan {
            sink: "fake".into(),
            lane: 0,
            first: Position {
                index: 1,
                item: first_item,
            },
            last: Position { index: 1, item: 9 },
            rules_version: 0,
            encoder_version,
            extra: Vec::new(),
        };
        let key = ("fake".to_owned(), 0);
        outbox
            .state
            .lock()
            .unwrap()
            .lanes
            .get_mut(&key)
            .unwrap()
            .plan = Some(plan);
        let sink = Arc::new(steady(1, &fuse));
        let mut running = start(
            outbox.clone(),
            vec![sink.clone()],
            UploadSettings::default(),
        )
        .await;
        let parked = |status: &crate::upload::UploadStatus| {
            status
                .sinks
                .first()
                .is_some_and(|s| matches!(s.state, SinkState::Parked { .. }))
        };
        running.status.wait_for(parked).await.unwrap();
        tokio::time::sleep(Duration::from_secs(600)).await;
        assert_eq!(sink.records(), []);
    }
}

/// A record alone that is too large will never fit: it becomes a dead letter, and is not halved for ever.
#[tokio::test(start_paused = true)]
async fn a_single_record_too_large_becomes_a_dead_letter() {
    let fuse = Fuse::new();
    let outbox = Arc::new(FakeOutbox::new(fuse.clone(), &[("fake", 1)]));
    outbox.append(&[&["a", "b", "c"]]);
    let sink = Arc::new(FakeSink {
        lines_max: 0,
        ..steady(1, &fuse)
    });
    let mut running = start(
        outbox.clone(),
        vec![sink.clone()],
        UploadSettings::default(),
    )
    .await;
    running.through(1).await;
    check_books(&outbox).unwrap();
    let state = outbox.state.lock().unwrap();
    let letters = state.letters.iter().map(|kept| kept.letter.stream.as_str());
    assert_eq!(letters.collect::<Vec<_>>(), ["a", "b", "c"]);
    assert!(state.letters[0].letter.reason.contains("single record"));
    let seen = sink.seen.lock().unwrap();
    let sizes: Vec<usize> = seen.bodies.values().map(|body| lines(body).len()).collect();
    assert_eq!(sizes.iter().max(), Some(&3));
    assert_eq!(sizes.iter().min(), Some(&1));
}

/// Lanes end when the store does.
#[tokio::test(start_paused = true)]
async fn lanes_end_with_their_store() {
    let fuse = Fuse::new();
    let outbox = Arc::new(FakeOutbox::new(fuse.clone(), &[("fake", 2)]));
    let sink = Arc::new(steady(2, &fuse));
    // Only the outbox holds the sender of `applied`; a second one stands in for it here.
    let (closing, applied) = tokio::sync::watch::channel(0);
    let outbox = Arc::new(Closing {
        inner: outbox,
        applied,
    });
    let mut running = start(outbox, vec![sink], UploadSettings::default()).await;
    drop(closing);
    while let Some(end) = running.tasks.join_next().await {
        assert_eq!(end.unwrap(), LaneEnd::StoreClosed);
    }
}

#[derive(Debug)]
struct Closing {
    inner: Arc<FakeOutbox>,
    applied: tokio::sync::watch::Receiver<u64>,
}

impl Outbox for Closing {
    fn group(&self) -> uuid::Uuid {
        self.inner.group()
    }
    async fn lanes(&self, sink: &str) -> Result<Vec<crate::upload::LaneState>, OutboxError> {
        self.inner.lanes(sink).await
    }
    async fn read(
        &self,
        after_index: u64,
        bytes_max: usize,
    ) -> Result<Vec<crate::upload::IndexedSlabs>, OutboxError> {
        self.inner.read(after_index, bytes_max).await
    }
    fn game_version(&self, head: &crate::slab::SlabHead) -> Arc<str> {
        self.inner.game_version(head)
    }

    fn is_lost(&self, index: u64) -> bool {
        self.inner.is_lost(index)
    }
    fn has_lost(&self) -> bool {
        self.inner.has_lost()
    }
    fn applied(&self) -> tokio::sync::watch::Receiver<u64> {
        self.applied.clone()
    }
    async fn commit_plan(&self, plan: Plan) -> Result<(), OutboxError> {
        self.inner.commit_plan(plan).await
    }
    async fn commit_settled(
        &self,
        settled: crate::upload::Settled,
        next: Option<Plan>,
    ) -> Result<(), OutboxError> {
        self.inner.commit_settled(settled, next).await
    }
    async fn commit_dead(&self, dead: crate::upload::Dead) -> Result<(), OutboxError> {
        self.inner.commit_dead(dead).await
    }
    fn next_replay(&self, sink: &str, lane: u32) -> Option<crate::upload::Replay> {
        self.inner.next_replay(sink, lane)
    }
    async fn commit_replay_plan(
        &self,
        id: u64,
        number: u32,
        plan: Plan,
        refused: Option<Position>,
    ) -> Result<bool, OutboxError> {
        self.inner
            .commit_replay_plan(id, number, plan, refused)
            .await
    }
    async fn commit_replayed(
        &self,
        id: u64,
        number: u32,
        refused: Option<(String, String)>,
    ) -> Result<(), OutboxError> {
        self.inner.commit_replayed(id, number, refused).await
    }
}
