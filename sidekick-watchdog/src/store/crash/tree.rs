//! kill -9 at random moments during a random workload on the tree, compared with a model of plain maps.
//!
//! Which op has which number follows from the number, so the model needs no journal: after each kill it does what the
//! store says it has taken, and must come to the same tree.

use sidekick_ipc::tree::{
    Comparison, Condition, Path, Pattern, Put, StoreOp, StoreResult, TransactionOp, encode_request,
};

use super::super::tree::Actor;
use super::super::tree::model_tests::{Model, Now, as_model};
use super::*;
use crate::slab::OpAt;

/// How many kills; each takes about a second.
const KILLS: &str = "SIDEKICK_STORE_TREE_KILLS";
const KILLS_DEFAULT: u32 = 25;

fn path(writer: u64, random: &mut fastrand::Rng) -> Path {
    let mut text = format!("/w{writer}");
    for _ in 0..random.usize(1..4) {
        text.push('/');
        text.push(random.choice(['a', 'b', 'c']).unwrap_or('a'));
    }
    Path::new(&text).unwrap()
}

fn put(writer: u64, random: &mut fastrand::Rng) -> Put {
    let mut put = Put::new(path(writer, random), None);
    if random.u8(0..5) > 0 {
        put.value = Some(vec![random.u8(0..4); random.usize(0..3000)]);
    }
    match random.u8(0..6) {
        0 => put.when.push(Condition::Exists(random.bool())),
        1 => put
            .when
            .push(Condition::Version(Comparison::Equal, random.u64(0..3))),
        2 => {
            let asked = path(writer, random);
            if asked != put.path {
                put.keep_while.push((asked, Condition::Exists(true)));
            }
        }
        _ => {}
    }
    put
}

fn op(writer: u64, seq: u64) -> StoreOp {
    let random = &mut fastrand::Rng::with_seed(writer << 32 | seq);
    match random.u8(0..10) {
        0..6 => StoreOp::Put(put(writer, random)),
        6 => StoreOp::Delete {
            target: path(writer, random).into(),
            when: Vec::new(),
        },
        7 => StoreOp::Delete {
            target: Pattern::new(&format!("/w{writer}/*/b")).unwrap(),
            when: Vec::new(),
        },
        8 => StoreOp::PutMany {
            pattern: Pattern::new(&format!("/w{writer}/a/**")).unwrap(),
            value: Some(vec![random.u8(0..4)]),
            when: Vec::new(),
        },
        _ => StoreOp::Transaction {
            compare: vec![(path(writer, random), Condition::Exists(true))],
            then: vec![
                TransactionOp::Put(put(writer, random)),
                TransactionOp::Put(put(writer, random)),
            ],
            otherwise: vec![TransactionOp::Put(put(writer, random))],
        },
    }
}

/// What the writer's ops need to know of the time: nothing, since no leases are in them.
fn now() -> Now<'static> {
    let actor = Actor {
        source: "",
        epoch: Uuid::nil(),
    };
    Now {
        actor,
        time_ns: 0,
        ended_below: 0,
        token: 0,
    }
}

fn slab_of_op(writer: u64, seq: u64) -> (Slab, Vec<OpAt>) {
    let epoch = Uuid::from_u128(u128::from(writer) + 1);
    let request = encode_request(seq.saturating_sub(20), &op(writer, seq)).unwrap();
    let mut frames = Vec::new();
    append_frame(&mut frames, &epoch, 4, seq, 0, &request);
    let head = SlabHead {
        source: format!("w{writer}"),
        epoch,
        incarnation: 1,
        realtime_offset_ns: 0,
        first_seq: seq,
        count: 1,
        checkpoint: RingCheckpoint::default(),
    };
    let from = sidekick_ipc::frame::FRAME_HEADER_BYTES as u32;
    let fragments = vec![(from, request.len() as u32)];
    let frames = Bytes::from(frames);
    (
        Slab { head, frames },
        vec![OpAt {
            last_seq: seq,
            fragments,
        }],
    )
}

/// Not a test: what the test below starts and kills.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
#[ignore = "started by another test"]
async fn child() {
    let Ok(dir) = std::env::var(DIR) else { return };
    let store = Arc::new(
        Store::open(config(std::path::Path::new(&dir)))
            .await
            .unwrap(),
    );
    let mut writers = tokio::task::JoinSet::new();
    for writer in 0..WRITERS {
        let store = Arc::clone(&store);
        writers.spawn(async move {
            let epoch = Uuid::from_u128(u128::from(writer) + 1);
            let source = format!("w{writer}");
            let opened = store.session_opened(&source, epoch, 1, 0).await.unwrap();
            // What was sent before the kill is sent again: whatever was taken of it must not count twice.
            let mut next = opened.next_seq.saturating_sub(5).max(1);
            loop {
                let mut tickets = Vec::new();
                for _ in 0..8 {
                    let (slab, ops) = slab_of_op(writer, next);
                    next += 1;
                    tickets.push(store.submit_ops(slab, ops).await.unwrap());
                }
                for ticket in tickets {
                    say(writer, ticket.wait().await.unwrap().next_seq);
                }
            }
        });
    }
    // None ends but by a panic, which is the child's end, too.
    writers.join_next().await.unwrap().unwrap();
}

/// By writer: the number that comes next, and what its ops so far come to.
struct Models(BTreeMap<u64, (u64, Model)>);

impl Models {
    /// Goes on to what the store has taken of each writer.
    fn follow(&mut self, store: &Store, acknowledged: &BTreeMap<u64, u64>) -> Result<(), String> {
        for writer in 0..WRITERS {
            let source = format!("w{writer}");
            let session = store.session(&source, Uuid::from_u128(u128::from(writer) + 1));
            let known = session.map_or(1, |session| session.next_seq);
            let told = acknowledged.get(&writer).copied().unwrap_or(1);
            if known < told {
                return Err(format!(
                    "{source}: {told} were acknowledged, {known} are known"
                ));
            }
            let (next, model) = self
                .0
                .entry(writer)
                .or_insert_with(|| (1, Model::default()));
            while *next < known {
                let mut after = model.clone();
                if after.apply(&op(writer, *next), now()).is_ok() {
                    *model = after;
                }
                *next += 1;
            }
        }
        Ok(())
    }

    fn all(&self) -> Model {
        let mut all = Model::default();
        for (_, model) in self.0.values() {
            all.join(model.clone());
        }
        all
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_tree_is_what_a_model_says_after_every_kill_9() {
    let dir = tempfile::tempdir().unwrap();
    let kills = std::env::var(KILLS)
        .ok()
        .and_then(|kills| kills.parse().ok());
    let mut models = Models(BTreeMap::new());
    let mut acknowledged = BTreeMap::new();
    for _ in 0..kills.unwrap_or(KILLS_DEFAULT) {
        let path = dir.path().to_owned();
        let millis = fastrand::u64(5..300);
        let name = "store::crash::tree::child";
        let run = move || run_child_and_kill(name, &path, false, millis);
        acknowledged.extend(tokio::task::spawn_blocking(run).await.unwrap());
        let store = Store::open(config(dir.path())).await.unwrap();
        models.follow(&store, &acknowledged).unwrap();
        let tree = store.parts.machine.read(|state| as_model(state.tree()));
        assert_eq!(tree, models.all());
        // Each writer hears the same of its last op as the first time.
        for (writer, (next, _)) in &models.0 {
            let epoch = Uuid::from_u128(u128::from(*writer) + 1);
            let answers: BTreeMap<u64, StoreResult> = store
                .answers_after(epoch, 0, u64::MAX)
                .into_iter()
                .collect();
            let (slab, ops) = slab_of_op(*writer, next - 1);
            let again = store
                .submit_ops(slab, ops)
                .await
                .unwrap()
                .wait()
                .await
                .unwrap();
            let last = (next - 1, answers[&(next - 1)].clone());
            assert_eq!(again.answers, [last]);
        }
        store.shutdown().await;
        // An op that counted twice, or not at all, would have been noticed.
        let mut broken = models.all();
        let writer = fastrand::u64(0..WRITERS);
        let seq = (1..).find(|seq| {
            let mut after = broken.clone();
            after.apply(&op(writer, *seq), now()).is_ok() && after != broken
        });
        let _ = broken.apply(&op(writer, seq.unwrap()), now());
        assert_ne!(tree, broken);
    }
}
