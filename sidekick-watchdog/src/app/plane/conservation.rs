//! Conservation, with the real rules between a real ring, a real store and the real lanes: whatever the rules are, however
//! often they are reloaded, whatever the sinks answer and wherever the plane is closed, each record recorded has one end,
//! the one that the rules give it, and the books say the same.
//!
//! Rules, records and faults are made by chance. What should come of a record is asked of the rules themselves, apart
//! from everything that carries records about.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt::Write;
use std::sync::Mutex;

use bytes::Bytes;
use serde_json::Value as Json;
use sidekick_ipc::frame::{FrameKind, Hole, Record, frames, hole_cause};
use sidekick_ipc::heartbeat::Phase;
use sidekick_ipc::session::{Session, SessionOptions, WhenFull};
use sidekick_ipc::value::{Value, decode, encode};

use super::*;
use crate::app::rules::tests::config_of;
use crate::books::{DROPPED_AGGREGATED, DROPPED_BEFORE_STORING, DROPPED_DUPLICATE};
use crate::process::{Origin, Scratch, Screen, Shape, Shaped, Verdict};
use crate::upload::sink::{Batch, BoxFuture, Outcome};

const PATIENCE: Duration = Duration::from_secs(60);
const RECORDS: usize = 25;
const STREAMS: [&str; 4] = ["chat.say", "chat.team", "move", "score"];
const SCHEMA: &str = r#"{"type": "object", "required": ["player"]}"#;
const HEAD: &str = r#"
[upload]
sinks = ["file", "http"]
batch_max_records = 7
batch_max_age = "10ms"
retry_first = "1ms"
retry_max = "20ms"

[upload.http]
url = "http://127.0.0.1:9/"
"#;

/// How a sink breaks its word.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Breach {
    None,
    /// It says that it took a batch, and has not.
    Loses,
    /// It says that it took what it will never take.
    DropsRefused,
}

/// A backend that outlives planes. It fails by chance, and refuses every record whose number is a multiple of 13.
#[derive(Debug)]
struct Backend {
    name: &'static str,
    lanes: u32,
    breach: Breach,
    random: Mutex<fastrand::Rng>,
    /// Bodies by key.
    taken: Mutex<BTreeMap<String, Bytes>>,
}

impl Backend {
    fn new(name: &'static str, lanes: u32, breach: Breach, seed: u64) -> Arc<Self> {
        Arc::new(Self {
            name,
            lanes,
            breach,
            random: Mutex::new(fastrand::Rng::with_seed(seed)),
            taken: Mutex::default(),
        })
    }

    fn lines(body: &[u8]) -> Vec<Json> {
        let lines = body.split(|byte| *byte == b'\n');
        lines
            .filter(|line| !line.is_empty())
            .map(|line| serde_json::from_slice(line).expect("a line is JSON"))
            .collect()
    }

    /// All lines, each batch once.
    fn received(&self) -> Vec<Json> {
        let taken = self.taken.lock().unwrap();
        taken.values().flat_map(|body| Self::lines(body)).collect()
    }

    fn judge(&self, batch: &Batch) -> Outcome {
        let chance = self.random.lock().unwrap().u32(0..12);
        let lines = Self::lines(&batch.body);
        let reason = || "by chance".to_owned();
        let is_poison = |line: &Json| is_poison(line["seq"].as_u64().unwrap());
        let mut taken = self.taken.lock().unwrap();
        if let Some(known) = taken.get(&batch.key) {
            assert_eq!(*known, batch.body, "two bodies under {}", batch.key);
            return Outcome::Taken;
        }
        if lines.iter().any(is_poison) {
            return match self.breach {
                Breach::DropsRefused => Outcome::Taken,
                _ => Outcome::Refused {
                    code: "HTTP 400".into(),
                    reason: reason(),
                },
            };
        }
        let mut take = || drop(taken.insert(batch.key.clone(), batch.body.clone()));
        match chance {
            0 => Outcome::Retry { reason: reason() },
            // The answer is lost after the batch was taken.
            1 => {
                take();
                Outcome::Retry { reason: reason() }
            }
            2 => Outcome::Wait {
                pause: Duration::from_millis(2),
                reason: reason(),
            },
            3 if lines.len() > 3 => Outcome::TooLarge { reason: reason() },
            4 if self.breach == Breach::Loses => Outcome::Taken,
            _ => {
                take();
                Outcome::Taken
            }
        }
    }
}

fn is_poison(seq: u64) -> bool {
    seq.is_multiple_of(13)
}

impl Sink for Backend {
    fn name(&self) -> &str {
        self.name
    }

    fn lanes(&self) -> u32 {
        self.lanes
    }

    fn send<'a>(&'a self, batch: &'a Batch) -> BoxFuture<'a, Outcome> {
        Box::pin(async move { self.judge(batch) })
    }
}

/// Rules by chance, as an operator could write them.
fn random_rules(random: &mut fastrand::Rng) -> String {
    let mut text = String::new();
    for _ in 0..random.usize(0..5) {
        let pattern = ["chat.*", "move", "*", "chat.say", "*s*"][random.usize(0..5)];
        let _ = writeln!(text, "[[stream]]\nmatch = \"{pattern}\"");
        for (of, line) in [
            (4, "drop = \"n % 3 == 0\""),
            (4, "sample = 0.6\nsample_by = \"player\""),
            (3, "drop_fields = [\"ip\"]"),
            (
                3,
                "hash_fields = [\"player\"]\nhash_key_file = \"hash.key\"",
            ),
            (3, "truncate = { text = 4 }"),
            (4, "filter = \"n % 5 != 1\""),
            (3, "rename = { text = \"words\" }"),
            (3, "set = { region = \"eu\", twice = { expr = \"n * 2\" } }"),
            // It has no value for one record in four.
            (5, "set = { odd = { expr = \"n + extra\" } }"),
            (4, "schema = \"schema.json\""),
            (5, "sink = [\"http\"]"),
            (5, "dedupe = { by = [\"player\"], within = \"1h\" }"),
        ] {
            let is_set = line.starts_with("set");
            let has_set = text.rsplit("[[stream]]").next().unwrap().contains("set =");
            if random.u32(0..of) == 0 && !(is_set && has_set) {
                let _ = writeln!(text, "{line}");
            }
        }
    }
    if random.bool() {
        let pattern = ["chat.*", "move", "*"][random.usize(0..3)];
        let by = ["$stream", "player"][random.usize(0..2)];
        let _ = writeln!(
            text,
            "[[stream]]\nmatch = \"{pattern}\"\n\
             aggregate = {{ into = \"sums\", every = \"1h\", by = [\"{by}\"], values = [\"n\"] }}"
        );
    }
    text
}

fn random_record(random: &mut fastrand::Rng, n: i64) -> (&'static str, Value) {
    let text = |text: &str| Value::String(text.into());
    let mut fields = vec![
        (text("n"), Value::Int(n)),
        (text("ip"), text("10.0.0.1")),
        (text("text"), text("well played")),
    ];
    fields.push((
        text("extra"),
        match random.u32(0..4) {
            0 => text("no number"),
            _ => Value::Int(1),
        },
    ));
    if random.u32(0..5) > 0 {
        fields.push((text("player"), Value::Int(random.i64(0..9))));
    }
    (STREAMS[random.usize(0..4)], Value::Dictionary(fields))
}

/// What was recorded, and under which of the rules it was stored.
struct Recorded {
    seq: u64,
    stream: &'static str,
    data: Vec<u8>,
    generation: usize,
}

/// Rules that were in force at some time.
struct Generation {
    screen: Screen,
    shape: Shape,
}

/// How many came, are dead, were dropped before they were stored, for others' sake, and before upload.
type Ended = [u64; 5];

/// What may come of a record at one sink.
#[derive(Debug, Default)]
struct Ends {
    sent: Vec<Json>,
    is_dropped: bool,
    is_refused: bool,
}

fn origin<'a>(recorded: &Recorded) -> Origin<'a> {
    Origin {
        stream: recorded.stream,
        source: "s",
        incarnation: 1,
        game_version: Some(""),
        seq: recorded.seq,
        time_ns: 0,
    }
}

/// What is stored of it; `None` where a rule leaves it out.
fn stored(recorded: &Recorded, generations: &[Generation]) -> Option<Vec<u8>> {
    let mut scratch = Scratch::default();
    let screen = &generations[recorded.generation].screen;
    let screened = screen.screen(&origin(recorded), &recorded.data, &mut scratch);
    match screened.verdict {
        Verdict::Same => Some(recorded.data.clone()),
        Verdict::Changed => Some(scratch.data().to_vec()),
        Verdict::Dropped => None,
        Verdict::Unreadable => panic!("the records are well-formed"),
    }
}

/// A batch is made with the rules of the moment, whichever these are.
fn ends(recorded: &Recorded, data: &[u8], sink: &str, generations: &[Generation]) -> Ends {
    let mut ends = Ends::default();
    let mut scratch = Scratch::default();
    let json = |data: &[u8]| decode(data).unwrap().to_json();
    for Generation { shape, .. } in generations {
        if !shape.goes_to(recorded.stream, sink) {
            ends.is_dropped = true;
            continue;
        }
        match shape.shape(&origin(recorded), data, &mut scratch) {
            Shaped::Same => ends.sent.push(json(data)),
            Shaped::Changed => ends.sent.push(json(scratch.data())),
            Shaped::Dropped => ends.is_dropped = true,
            Shaped::Refused(_) => ends.is_refused = true,
        }
    }
    ends
}

/// A world: rules in a file, a ring, and backends; planes come and go in it.
struct World {
    folder: tempfile::TempDir,
    setup: Setup,
    backends: [Arc<Backend>; 2],
    session: Session,
    generations: Vec<Generation>,
    recorded: Vec<Recorded>,
}

impl World {
    fn new(breach: Breach, seed: u64) -> Self {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().to_owned();
        std::fs::write(path.join("hash.key"), "sixteen-bytes-or-more").unwrap();
        std::fs::write(path.join("schema.json"), SCHEMA).unwrap();
        std::fs::write(path.join("sidekick.toml"), HEAD).unwrap();
        let (data_dir, runtime_dir) = (path.join("data"), path.join("runtime"));
        std::fs::create_dir(&runtime_dir).unwrap();
        let read = {
            let path = path.clone();
            move || {
                let text = std::fs::read_to_string(path.join("sidekick.toml")).unwrap();
                config_of(&text, &path)
            }
        };
        let config = Arc::new(read().unwrap());
        let (events, mut told) = mpsc::channel(64);
        // As the main loop does.
        tokio::spawn(async move { while told.recv().await.is_some() {} });
        let session = Session::create(SessionOptions {
            runtime_dir: runtime_dir.clone(),
            launch: 1,
            incarnation: 1,
            ring_bytes: 64 << 10,
            when_full: WhenFull::Refuse,
            block_max: Duration::ZERO,
            spill_bytes_max: 0,
            keep: Vec::new(),
            library_version: "test".to_owned(),
            game_version: String::new(),
        })
        .unwrap();
        let mut world = Self {
            setup: Setup {
                rules: Arc::new(LiveRules::new(&config, Box::new(read)).unwrap()),
                config,
                store: StoreConfig {
                    segment_bytes: 1 << 20,
                    zero_step_bytes: 64 << 10,
                    ..StoreConfig::new(&data_dir)
                },
                data_dir,
                runtime_dir,
                events,
                letters: Arc::new(OpenLetters::new()),
                tree: Arc::new(OpenTree::new()),
                metrics: crate::metrics::Metrics::new(),
            },
            folder,
            backends: [
                Backend::new("file", 3, breach, seed),
                Backend::new("http", 1, breach, seed + 1),
            ],
            session,
            generations: Vec::new(),
            recorded: Vec::new(),
        };
        world.remember_rules(HEAD);
        world
    }

    fn remember_rules(&mut self, text: &str) {
        let config = config_of(text, self.folder.path()).unwrap();
        self.generations.push(Generation {
            screen: config.streams.screen().unwrap(),
            shape: Shape::parse(&config.streams.shape_text()).unwrap(),
        });
    }

    async fn open(&self) -> Plane {
        let sinks = self.backends.iter().map(|one| Arc::clone(one) as _);
        let plane = Plane::open(self.setup.clone(), sinks.collect());
        let plane = plane.await.unwrap();
        plane.expect(1);
        plane
    }

    async fn reload(&mut self, rules: &str) {
        let text = HEAD.to_owned() + rules;
        std::fs::write(self.folder.path().join("sidekick.toml"), &text).unwrap();
        let rules = Arc::clone(&self.setup.rules);
        let reloaded = tokio::task::spawn_blocking(move || rules.reload());
        reloaded
            .await
            .unwrap()
            .unwrap_or_else(|error| panic!("{error}\n{text}"));
        self.remember_rules(&text);
    }

    /// Records some, and waits until all of them are committed: intake has judged them with the rules of now.
    async fn record(&mut self, plane: &Plane, random: &mut fastrand::Rng) {
        for _ in 0..RECORDS {
            let n = self.recorded.len() as i64;
            let (stream, value) = random_record(random, n);
            let data = encode(&value);
            let seq = self
                .session
                .record(stream, &data)
                .expect("room in the ring");
            self.recorded.push(Recorded {
                seq,
                stream,
                data,
                generation: self.generations.len() - 1,
            });
        }
        self.session.on_frame(Phase::Running);
        let last = self.recorded.last().map_or(0, |recorded| recorded.seq);
        let epoch = self.session.epoch();
        let mut applied = plane.store().applied();
        let committed = async {
            loop {
                let session = plane.store().session("s", epoch);
                if session.is_some_and(|session| session.next_seq > last) {
                    return;
                }
                applied.changed().await.unwrap();
            }
        };
        timeout(committed).await;
    }

    /// Rules come and go, and records are made under each of them.
    async fn go_on(&mut self, plane: &Plane, random: &mut fastrand::Rng) {
        for _ in 0..3 {
            let rules = random_rules(random);
            self.reload(&rules).await;
            self.record(plane, random).await;
        }
    }

    /// Whether the sinks have told of everything that is committed.
    fn is_settled(&self, store: &Store) -> bool {
        self.backends.iter().all(|backend| {
            let (books, committed) = store.books(backend.name);
            books.pending(committed) == Some(0)
        })
    }

    /// Records that went no further for others' sake, and why. What windows have counted is told in rows.
    async fn folded(&self, store: &Store) -> Result<BTreeMap<u64, u8>, String> {
        let mut folded = BTreeMap::new();
        let mut told = 0;
        let entries = store.read_slabs(0, usize::MAX).await.unwrap();
        for (_, slab) in entries.into_iter().flat_map(|entry| entry.slabs) {
            for frame in frames(&slab.frames, &slab.head.epoch) {
                let frame = frame.unwrap();
                let kind = FrameKind::from_u16(frame.header.kind);
                if kind == Some(FrameKind::Hole) {
                    let cause = Hole::parse(frame.payload).unwrap().cause;
                    if matches!(cause, hole_cause::DUPLICATE | hole_cause::AGGREGATED) {
                        folded.insert(frame.header.seq, cause);
                    }
                } else if let Ok(record) = Record::parse(frame.payload)
                    && record.stream == "sums"
                {
                    let data = decode(record.variant).unwrap().to_json();
                    told += data["count"].as_u64().unwrap();
                }
            }
        }
        let counted = folded.values();
        let counted = counted.filter(|cause| **cause == hole_cause::AGGREGATED);
        match counted.count() as u64 {
            counted if counted == told => Ok(folded),
            counted => Err(format!("{counted} are aggregated, rows tell of {told}")),
        }
    }

    /// Holds all that was recorded against what has come of it. Gives how many came to which end.
    async fn check(&self, store: &Store) -> Result<Ended, String> {
        let folded = self.folded(store).await?;
        let mut ended = Ended::default();
        for backend in &self.backends {
            let here = self.check_sink(store, backend, &folded);
            let here = here.map_err(|why| format!("{}: {why}", backend.name))?;
            for (sum, count) in ended.iter_mut().zip(here) {
                *sum += count;
            }
        }
        Ok(ended)
    }

    fn check_sink(
        &self,
        store: &Store,
        backend: &Backend,
        folded: &BTreeMap<u64, u8>,
    ) -> Result<Ended, String> {
        let epoch = self.session.epoch().to_string();
        let received = backend.received();
        let mut came: BTreeMap<u64, &Json> = BTreeMap::new();
        for line in received.iter().filter(|line| line["epoch"] == *epoch) {
            let seq = line["seq"].as_u64().unwrap();
            if came.insert(seq, line).is_some() {
                return Err(format!("number {seq} came twice"));
            }
        }
        let letters = store.dead_letters(0, usize::MAX, |_, kept| kept.sink == backend.name);
        let heads = letters.iter().map(|(_, kept)| &kept.letter.head);
        let dead = heads.filter(|head| head.epoch == self.session.epoch());
        let dead: BTreeSet<u64> = dead.map(|head| head.first_seq).collect();
        // Rows and the session's end have theirs, too.
        let (books, committed) = store.books(backend.name);
        let others = committed - self.recorded.len() as u64;
        let others_ends = received.len() - came.len() + letters.len() - dead.len();
        let (mut before, mut by_rules) = (0, others - others_ends as u64);
        for recorded in &self.recorded {
            let seq = recorded.seq;
            let (line, is_dead) = (came.remove(&seq), dead.contains(&seq));
            let Some(data) = stored(recorded, &self.generations) else {
                before += 1;
                if line.is_some() || is_dead {
                    return Err(format!("number {seq} was not to be stored"));
                }
                continue;
            };
            if folded.contains_key(&seq) {
                if line.is_some() || is_dead {
                    return Err(format!("number {seq} was not to go further"));
                }
                continue;
            }
            let ends = ends(recorded, &data, backend.name, &self.generations);
            let may_be = match (line, is_dead) {
                (Some(_), true) => return Err(format!("number {seq} came and is dead")),
                (Some(line), false) => {
                    line["stream"] == recorded.stream && ends.sent.contains(&line["data"])
                }
                (None, true) => ends.is_refused || (is_poison(seq) && !ends.sent.is_empty()),
                (None, false) => {
                    by_rules += 1;
                    ends.is_dropped
                }
            };
            if !may_be {
                return Err(format!(
                    "number {seq}: came {line:?}, dead {is_dead}, but {ends:?}"
                ));
            }
        }
        if let Some(line) = came.values().next() {
            return Err(format!("nobody recorded {line}"));
        }
        let counts = &books.counts;
        let told = |reason: &str| counts.dropped.get(reason).copied().unwrap_or_default();
        let told_by_rules = told("filter") + told("not for this sink");
        let told_folded = told(DROPPED_DUPLICATE) + told(DROPPED_AGGREGATED);
        let expected = [
            received.len() as u64,
            letters.len() as u64,
            before,
            folded.len() as u64,
            by_rules,
        ];
        let found = [
            counts.records,
            books.dead,
            told(DROPPED_BEFORE_STORING),
            told_folded,
            told_by_rules,
        ];
        if found != expected {
            return Err(format!(
                "came, dead, dropped before storing, for others and before upload are {expected:?}, the books say {found:?}"
            ));
        }
        let sum: u64 = expected.iter().sum();
        match sum == committed && books.pending(committed) == Some(0) {
            true => Ok(expected),
            false => Err(format!(
                "{committed} are committed, {sum} have an end: {books:?}"
            )),
        }
    }
}

async fn timeout<T>(waits: impl Future<Output = T>) -> T {
    tokio::time::timeout(PATIENCE, waits)
        .await
        .expect("it goes on")
}

async fn run(seed: u64, breach: Breach) -> Result<Ended, String> {
    let mut random = fastrand::Rng::with_seed(seed);
    let mut world = World::new(breach, seed);
    for _ in 0..2 {
        let plane = world.open().await;
        world.go_on(&plane, &mut random).await;
        // Wherever the lanes stand.
        plane.close().await;
    }
    let mut plane = world.open().await;
    world.go_on(&plane, &mut random).await;
    // Windows are told when their rules are gone.
    world.reload("").await;
    let mut applied = plane.store().applied();
    timeout(async {
        while plane.store().is_folding() {
            applied.changed().await.unwrap();
        }
    })
    .await;
    let last = plane.store().stats().applied;
    timeout(plane.uploaded(last)).await;
    timeout(async {
        while !world.is_settled(plane.store()) {
            applied.changed().await.unwrap();
        }
    })
    .await;
    let checked = world.check(plane.store()).await;
    plane.close().await;
    checked
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn whatever_the_rules_are_each_record_has_one_end_and_the_books_say_it() {
    let mut ended = Ended::default();
    for seed in 0..12 {
        let run = run(seed, Breach::None).await;
        let here = run.unwrap_or_else(|error| panic!("seed {seed}: {error}"));
        for (sum, count) in ended.iter_mut().zip(here) {
            *sum += count;
        }
    }
    assert!(!ended.contains(&0), "{ended:?}: some end is never come to");
}

/// Must fail: backends that say what is not so.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_backend_that_loses_or_drops_is_found_out() {
    for breach in [Breach::Loses, Breach::DropsRefused] {
        let mut caught = 0;
        for seed in 0..3 {
            caught += u32::from(run(seed, breach).await.is_err());
        }
        assert!(caught > 0, "{breach:?} goes unnoticed");
    }
}
