//! The driver on a real store, ended at any await point and begun again, the store restarted under it: what rows tell
//! and what goes on is what was recorded, exactly.

use std::collections::BTreeMap;

use sidekick_ipc::frame::append_frame;
use sidekick_ipc::value::{Value, decode, encode};
use tokio::task::JoinHandle;
use uuid::Uuid;

use super::*;
use crate::process::{AggregateSpec, DedupeSpec};
use crate::slab::{RingCheckpoint, SlabHead};
use crate::store::StoreConfig;

const PATIENCE: Duration = Duration::from_secs(60);
const EPOCH: Uuid = Uuid::from_u128(7);

fn rules() -> FoldRules {
    let dedupe = DedupeSpec {
        pattern: "match.*".into(),
        by: vec!["id".into()],
        within_ns: 1 << 60,
        keys_max: 1000,
    };
    let aggregate = AggregateSpec {
        pattern: "damage".into(),
        into: "damage.second".into(),
        every_ns: 1_000_000_000,
        lateness_ns: 1_000_000_000,
        by: vec!["weapon".into()],
        values: BTreeMap::from([("amount".into(), Vec::new())]),
        keep_raw: false,
    };
    FoldRules::compile(&[dedupe], &[aggregate]).unwrap()
}

/// What was recorded: of damage how many and how much, and which matches.
#[derive(Debug, Default, PartialEq)]
struct Tally {
    hits: u64,
    damage: i64,
    matches: BTreeMap<i64, u64>,
    duplicates: u64,
    others: u64,
}

/// One session that goes on from slab to slab.
#[derive(Default)]
struct Game {
    next_seq: u64,
    recorded: Tally,
}

impl Game {
    fn slab(&mut self, random: &mut fastrand::Rng) -> Slab {
        let first_seq = self.next_seq + 1;
        let mut frames = Vec::new();
        for _ in 0..random.usize(1..30) {
            self.next_seq += 1;
            let number = |name: &str, number| (Value::String(name.into()), Value::Int(number));
            let (stream, fields) = match random.u32(0..3) {
                0 => {
                    let amount = random.i64(-9..100);
                    self.recorded.hits += 1;
                    self.recorded.damage += amount;
                    let weapon = random.i64(0..3);
                    (
                        "damage",
                        vec![number("weapon", weapon), number("amount", amount)],
                    )
                }
                1 => {
                    let id = random.i64(0..40);
                    let times = self.recorded.matches.entry(id).or_default();
                    self.recorded.duplicates += *times;
                    *times = 1;
                    ("match.end", vec![number("id", id)])
                }
                _ => {
                    self.recorded.others += 1;
                    ("chat", Vec::new())
                }
            };
            let mut payload = Vec::new();
            Record::encode_head(stream, &mut payload);
            payload.extend_from_slice(&encode(&Value::Dictionary(fields)));
            let time_ns = 1_000_000_000 + self.next_seq * 20_000_000;
            let kind = FrameKind::Record as u16;
            append_frame(&mut frames, &EPOCH, kind, self.next_seq, time_ns, &payload);
        }
        let head = SlabHead {
            source: "s".into(),
            epoch: EPOCH,
            incarnation: 1,
            realtime_offset_ns: 0,
            first_seq,
            count: self.next_seq + 1 - first_seq,
            checkpoint: RingCheckpoint::default(),
        };
        let frames = frames.into();
        Slab { head, frames }
    }
}

/// What a reader is given, and how much of it are rows.
async fn told(store: &Store) -> Tally {
    let mut tally = Tally::default();
    let entries = store.read_slabs(0, usize::MAX).await.unwrap();
    let slabs = entries.into_iter().flat_map(|entry| entry.slabs);
    let mut last_seq = 0;
    for (_, slab) in slabs {
        for frame in frames(&slab.frames, &slab.head.epoch) {
            let frame = frame.unwrap();
            if slab.head.epoch == EPOCH {
                last_seq += 1;
                assert_eq!(frame.header.seq, last_seq, "numbers stay dense");
            }
            if frame.header.kind == FrameKind::Hole as u16 {
                let hole = sidekick_ipc::Hole::parse(frame.payload).unwrap();
                tally.duplicates += u64::from(hole.cause == hole_cause::DUPLICATE);
                continue;
            }
            let record = Record::parse(frame.payload).unwrap();
            let data = decode(record.variant).unwrap().to_json();
            match record.stream {
                "damage.second" => {
                    tally.hits += data["count"].as_u64().unwrap();
                    tally.damage += data["values"]["amount"]["sum"].as_i64().unwrap();
                }
                "match.end" => {
                    *tally
                        .matches
                        .entry(data["id"].as_i64().unwrap())
                        .or_default() += 1;
                }
                "chat" => tally.others += 1,
                other => panic!("{other} is not to be seen"),
            }
        }
    }
    tally
}

struct Running {
    task: JoinHandle<()>,
    rules: watch::Sender<Arc<FoldRules>>,
    open: watch::Receiver<OpenWindows>,
    drive: watch::Sender<Drive>,
}

fn begin(store: &Arc<Store>) -> Running {
    let rules = watch::Sender::new(Arc::new(rules()));
    let drive = watch::Sender::new(Drive::Run);
    let open = watch::Sender::default();
    let folding = run(
        Arc::clone(store),
        "s".into(),
        rules.subscribe(),
        open.clone(),
        drive.subscribe(),
    );
    Running {
        task: tokio::spawn(folding),
        rules,
        open: open.subscribe(),
        drive,
    }
}

async fn open(config: &StoreConfig) -> Arc<Store> {
    Arc::new(Store::open(config.clone()).await.unwrap())
}

/// Waits until all is folded; takes the rules out, and waits until they have told everything.
async fn over(store: &Store, running: Running) {
    running.drive.send_replace(Drive::Drain);
    let last = *store.applied().borrow();
    let mut uploadable = store.uploadable();
    let folded = uploadable.wait_for(|uploadable| *uploadable >= last);
    let folded = tokio::time::timeout(PATIENCE, folded).await;
    folded.expect("all is folded").unwrap();
    running.rules.send_replace(Arc::default());
    let mut applied = store.applied();
    let ended = async {
        while store.is_folding() {
            applied.changed().await.unwrap();
        }
    };
    let ended = tokio::time::timeout(PATIENCE, ended).await;
    ended.expect("folding ends");
    running.drive.send_replace(Drive::Stop);
    running.task.await.unwrap();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn rows_are_what_was_recorded_wherever_the_driver_is_ended() {
    for seed in 0..6 {
        let mut random = fastrand::Rng::with_seed(seed);
        let dir = tempfile::tempdir().unwrap();
        let config = StoreConfig {
            segment_bytes: 64 << 10,
            zero_step_bytes: 16 << 10,
            snapshot_every: 40,
            ..StoreConfig::new(dir.path().join("data"))
        };
        let mut store = open(&config).await;
        // A sink that takes nothing: the log keeps everything.
        store.set_sinks(vec![("file".into(), 1)]).await.unwrap();
        store.session_opened("s", EPOCH, 1, 0).await.unwrap();
        store.set_folding(true).await.unwrap();
        let mut running = begin(&store);
        let mut game = Game::default();
        for _ in 0..40 {
            store.append(game.slab(&mut random)).await.unwrap();
            if random.u32(0..4) > 0 {
                continue;
            }
            // Wherever it stands: it may be reading, waiting for a commit, or pausing.
            for _ in 0..random.usize(0..20) {
                tokio::task::yield_now().await;
            }
            running.task.abort();
            let _ = running.task.await;
            if random.bool() {
                store.shutdown().await;
                drop(store);
                if random.bool() {
                    std::fs::remove_dir_all(config.dir.join("state")).unwrap();
                }
                store = open(&config).await;
            }
            running = begin(&store);
        }
        over(&store, running).await;
        let told = told(&store).await;
        assert_eq!(told, game.recorded, "seed {seed}");
        store.shutdown().await;
    }
}

/// Rules come while records flow: what came before goes on as it is, and nothing waits for ever.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn rules_come_and_go_while_records_flow() {
    let mut random = fastrand::Rng::with_seed(3);
    let dir = tempfile::tempdir().unwrap();
    let store = open(&StoreConfig::new(dir.path().join("data"))).await;
    store.set_sinks(vec![("file".into(), 1)]).await.unwrap();
    store.session_opened("s", EPOCH, 1, 0).await.unwrap();
    let mut game = Game::default();
    store.append(game.slab(&mut random)).await.unwrap();
    let before = game.recorded.hits;
    assert!(!store.is_folding());
    let running = begin(&store);
    let mut applied = store.applied();
    let is_on = async {
        while !store.is_folding() {
            applied.changed().await.unwrap();
        }
    };
    tokio::time::timeout(PATIENCE, is_on).await.unwrap();
    let first = std::mem::take(&mut game.recorded);
    for _ in 0..20 {
        store.append(game.slab(&mut random)).await.unwrap();
    }
    over(&store, running).await;
    let entries = store.read_slabs(0, usize::MAX).await.unwrap();
    let raw = entries
        .iter()
        .flat_map(|entry| &entry.slabs)
        .flat_map(|(_, slab)| {
            let frames = frames(&slab.frames, &slab.head.epoch);
            let streams = frames.filter_map(|frame| {
                let frame = frame.unwrap();
                let record = Record::parse(frame.payload).ok()?;
                let is_record = frame.header.kind == FrameKind::Record as u16;
                is_record.then(|| record.stream.to_owned())
            });
            streams.collect::<Vec<_>>()
        });
    let raw = raw.filter(|stream| stream == "damage").count() as u64;
    assert_eq!(raw, before, "what came before the rule is sent as it is");
    assert_eq!(first.hits, before);
    store.shutdown().await;
}

/// How far folding is behind, and what it holds back.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_waits_and_which_windows_are_open_is_told() {
    let mut random = fastrand::Rng::with_seed(3);
    let dir = tempfile::tempdir().unwrap();
    let store = open(&StoreConfig::new(dir.path().join("data"))).await;
    store.set_sinks(vec![("file".into(), 1)]).await.unwrap();
    store.session_opened("s", EPOCH, 1, 0).await.unwrap();
    assert_eq!(store.unfolded_numbers(), None);
    store.set_folding(true).await.unwrap();
    let mut game = Game::default();
    // Its windows end long after this test.
    let later_ns = now_ns() + 3600 * 1_000_000_000;
    while game.recorded.hits == 0 {
        let mut slab = game.slab(&mut random);
        slab.head.realtime_offset_ns = i64::try_from(later_ns).unwrap();
        store.append(slab).await.unwrap();
    }
    assert_eq!(store.unfolded_numbers(), Some(game.next_seq));
    let running = begin(&store);
    let mut windows = running.open.clone();
    let opened = windows.wait_for(|open| open.count > 0);
    let opened = *tokio::time::timeout(PATIENCE, opened)
        .await
        .unwrap()
        .unwrap();
    assert_eq!(store.unfolded_numbers(), Some(0));
    let oldest_ns = opened.oldest_ns.unwrap();
    assert!(later_ns < oldest_ns && oldest_ns < later_ns + 60 * 1_000_000_000);
    over(&store, running).await;
    assert_eq!(store.unfolded_numbers(), None);
    assert_eq!(*windows.borrow(), OpenWindows::default());
    store.shutdown().await;
}
