//! Random writes against a tree as a child would keep it ([`model`]), with time going on.

use std::collections::BTreeMap;

use proptest::prelude::*;
use sidekick_ipc::tree::{
    Comparison, Condition, LeaseRef, Path, Pattern, Put, StoreOp, StoreResult, TransactionOp,
    WatchKind,
};
use sidekick_ipc::value::{Value, encode};
use uuid::Uuid;

use super::{Actor, Moment, Tree};
use crate::store::codec;

mod model;

pub(crate) use model::{Model, Now, as_model};

/// Stands for the token of the lease that is held where it is asked for, if one is.
const HELD: u64 = 0;

fn paths() -> impl Strategy<Value = Path> {
    proptest::collection::vec("[ab]", 1..4)
        .prop_map(|of| Path::new(&format!("/{}", of.join("/"))).unwrap())
}

fn comparisons() -> impl Strategy<Value = Comparison> {
    prop::sample::select(vec![
        Comparison::Equal,
        Comparison::NotEqual,
        Comparison::Less,
        Comparison::LessOrEqual,
        Comparison::Greater,
        Comparison::GreaterOrEqual,
    ])
}

fn texts() -> impl Strategy<Value = Value> {
    prop::sample::select(vec!["a", "b"]).prop_map(|of| Value::String(of.to_owned()))
}

fn conditions() -> impl Strategy<Value = Condition> {
    let wanted = prop_oneof![
        3 => (0..3_i64).prop_map(Value::Int),
        1 => (0..3_i8).prop_map(|of| Value::Float(f64::from(of) - 0.5)),
        1 => texts(),
    ];
    let field = (
        prop::sample::select(vec!["hp", "mp"]),
        comparisons(),
        wanted,
    );
    let plain = prop_oneof![
        any::<bool>().prop_map(Condition::Exists),
        any::<bool>().prop_map(Condition::HasValue),
        (comparisons(), 0..4_u64).prop_map(|(how, of)| Condition::Version(how, of)),
        (comparisons(), 0..4_u64).prop_map(|(how, of)| Condition::ChildVersion(how, of)),
        (comparisons(), 0..3_u64).prop_map(|(how, of)| Condition::ChildCount(how, of)),
        values().prop_map(|of| Condition::ValueIs(of.unwrap_or_default())),
        field.prop_map(|(key, comparison, value)| Condition::Field {
            keys: vec![key.to_owned()],
            comparison,
            value: encode(&value),
        }),
        tokens().prop_map(Condition::LeaseIs),
    ];
    let nested = plain.clone().prop_recursive(2, 6, 3, |inner| {
        let several = || proptest::collection::vec(inner.clone(), 0..3);
        prop_oneof![
            inner.clone().prop_map(|of| Condition::Not(Box::new(of))),
            several().prop_map(Condition::All),
            several().prop_map(Condition::Any),
            (paths(), inner.clone()).prop_map(|(path, of)| Condition::At(path, Box::new(of))),
        ]
    });
    prop_oneof![3 => plain, 1 => nested]
}

/// A token that is held, or one that most often is not.
fn tokens() -> impl Strategy<Value = u64> {
    prop_oneof![3 => Just(HELD), 1 => 1..20_u64]
}

fn leases() -> impl Strategy<Value = LeaseRef> {
    (lease_paths(), tokens()).prop_map(|(path, token)| LeaseRef { path, token })
}

/// Few, so that leases meet.
fn lease_paths() -> impl Strategy<Value = Path> {
    prop::sample::select(vec!["/a", "/b/a", "/b/b/a"]).prop_map(|path| Path::new(path).unwrap())
}

fn values() -> impl Strategy<Value = Option<Vec<u8>>> {
    let number = (0..3_i64).prop_map(Value::Int);
    let field = prop_oneof![3 => number.clone(), 1 => texts()];
    let dictionary =
        field.prop_map(|of| Value::Dictionary(vec![(Value::String("hp".to_owned()), of)]));
    let value = prop_oneof![number, dictionary].prop_map(|of| encode(&of));
    proptest::option::weighted(0.8, value)
}

fn puts() -> impl Strategy<Value = Put> {
    let when = proptest::collection::vec(conditions(), 0..2);
    let keep = proptest::collection::vec(paths(), 0..2);
    let lease = proptest::option::weighted(0.3, leases());
    (paths(), values(), when, keep, lease).prop_map(|(path, value, when, keep, lease)| {
        let keep = keep.into_iter().filter(|of| *of != path);
        let keep_while = keep.map(|of| (of, Condition::Exists(true))).collect();
        Put {
            path,
            value,
            when,
            keep_while,
            lease,
        }
    })
}

fn patterns() -> impl Strategy<Value = Pattern> {
    proptest::collection::vec(
        prop_oneof!["[ab]", Just("*".to_owned()), Just("**".to_owned())],
        1..4,
    )
    .prop_map(|of| Pattern::new(&format!("/{}", of.join("/"))).unwrap())
}

fn ops() -> impl Strategy<Value = StoreOp> {
    let when = || proptest::collection::vec(conditions(), 0..2);
    let inner = prop_oneof![
        4 => puts().prop_map(TransactionOp::Put),
        1 => paths().prop_map(TransactionOp::Get),
        1 => paths().prop_map(|path| TransactionOp::Delete { path, when: Vec::new() }),
    ];
    let inner = proptest::collection::vec(inner, 0..4);
    let compare = proptest::collection::vec((paths(), conditions()), 0..2);
    prop_oneof![
        6 => puts().prop_map(StoreOp::Put),
        1 => (patterns(), values(), when())
            .prop_map(|(pattern, value, when)| StoreOp::PutMany { pattern, value, when }),
        2 => (paths(), when())
            .prop_map(|(path, when)| StoreOp::Delete { target: path.into(), when }),
        1 => (patterns(), when()).prop_map(|(target, when)| StoreOp::Delete { target, when }),
        2 => (compare, inner.clone(), inner)
            .prop_map(|(compare, then, otherwise)| StoreOp::Transaction { compare, then, otherwise }),
        3 => (lease_paths(), 100..300_u64)
            .prop_map(|(path, ttl_ms)| StoreOp::LeaseGrant { path, ttl_ms }),
        1 => leases().prop_map(StoreOp::LeaseRenew),
        1 => leases().prop_map(StoreOp::LeaseRelease),
    ]
}

/// Puts the token that is held in the place of [`HELD`], wherever the op names a lease.
fn with_tokens(mut op: StoreOp, model: &Model) -> StoreOp {
    fn of_condition(condition: &mut Condition, at: &Path, model: &Model) {
        match condition {
            Condition::LeaseIs(token) if *token == HELD => {
                *token = model.token(at.as_str()).unwrap_or(HELD);
            }
            Condition::Not(of) => of_condition(of, at, model),
            Condition::All(of) | Condition::Any(of) => {
                of.iter_mut().for_each(|of| of_condition(of, at, model));
            }
            Condition::At(path, of) => of_condition(of, &path.clone(), model),
            _ => {}
        }
    }
    let of_lease = |lease: &mut LeaseRef| {
        if lease.token == HELD {
            lease.token = model.token(lease.path.as_str()).unwrap_or(HELD);
        }
    };
    let of_put = |put: &mut Put| {
        let at = put.path.clone();
        let when = put.when.iter_mut();
        when.for_each(|of| of_condition(of, &at, model));
        put.lease.iter_mut().for_each(of_lease);
    };
    match &mut op {
        StoreOp::Put(put) => of_put(put),
        StoreOp::Delete { target, when } => {
            if let Some(path) = target.to_path() {
                when.iter_mut()
                    .for_each(|of| of_condition(of, &path, model));
            }
        }
        StoreOp::Transaction {
            compare,
            then,
            otherwise,
        } => {
            let compare = compare.iter_mut();
            compare.for_each(|(path, of)| of_condition(of, &path.clone(), model));
            for op in then.iter_mut().chain(otherwise) {
                if let TransactionOp::Put(put) = op {
                    of_put(put);
                }
            }
        }
        StoreOp::LeaseRenew(lease) | StoreOp::LeaseRelease(lease) => of_lease(lease),
        _ => {}
    }
    op
}

/// One write of a session, or of a client that is none.
#[derive(Clone, Debug)]
struct Step {
    op: StoreOp,
    who: usize,
    /// Time since the one before.
    ms: u64,
    /// Sessions with epochs below this one have ended.
    ended_below: u128,
    /// Whether the watcher looks after it.
    looks: bool,
}

const ACTORS: [(&str, u128); 4] = [("s", 1), ("s", 2), ("t", 3), ("", 4)];

fn steps() -> impl Strategy<Value = Step> {
    let ms = prop_oneof![2 => Just(0), 1 => 1..150_u64];
    (ops(), 0..ACTORS.len(), ms, 0..3_u128, 0..4_u8).prop_map(
        |(op, who, ms, ended_below, looks)| Step {
            op,
            who,
            ms,
            ended_below,
            looks: looks == 0,
        },
    )
}

fn all() -> Pattern {
    Pattern::new("/**").unwrap()
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(512))]

    /// The tree is what the model is after every write and whenever leases end; a failed write leaves no trace; a lease has one
    /// holder, with a token above all before; a watcher that asks now and then, with breaks, has seen exactly what is there; what
    /// is written and read back is the same, index and all.
    #[test]
    fn the_tree_agrees_with_a_naive_model(steps in proptest::collection::vec(steps(), 1..40)) {
        let mut tree = Tree::default();
        let mut model = Model::default();
        let mut seen: BTreeMap<Path, (u64, Option<Vec<u8>>)> = BTreeMap::new();
        let (mut revision, mut time_ns, mut last_token) = (0, 0, 0);
        for Step { op, who, ms, ended_below, looks } in steps {
            time_ns += ms * 1_000_000;
            tree.expire(time_ns);
            model.expire(time_ns);
            prop_assert_eq!(as_model(&tree), model.clone(), "{} ms later", ms);
            let op = with_tokens(op, &model);
            let (source, epoch) = ACTORS[who];
            let actor = Actor { source, epoch: Uuid::from_u128(epoch) };
            let is_ended = |_: &str, epoch: &Uuid| epoch.as_u128() < ended_below;
            let moment = Moment { time_ns, is_ended: &is_ended };
            let before = tree.clone();
            let mut after = model.clone();
            let now = Now { actor, time_ns, ended_below, token: before.revision() + 1 };
            let expected = after.apply(&op, now);
            match tree.apply(actor, &moment, op.clone()) {
                StoreResult::Ok(answer) => {
                    prop_assert!(expected.is_ok(), "{op:?} was done: {answer:?}");
                    model = after;
                    prop_assert!(answer.revision - before.revision() <= 1);
                    if let (StoreOp::LeaseGrant { .. }, Some(lease)) = (&op, &answer.lease) {
                        prop_assert!(lease.token > last_token);
                        last_token = lease.token;
                    }
                }
                StoreResult::Error { message, .. } => {
                    prop_assert!(expected.is_err(), "{op:?} was refused: {message}");
                    prop_assert_eq!(&tree, &before);
                }
                other => panic!("{other:?}"),
            }
            prop_assert_eq!(as_model(&tree), model.clone(), "after {:?}", op);
            for (path, node) in &tree.nodes {
                prop_assert_eq!(node.child_count as usize, model.children(path.as_str()), "{}", path);
            }
            let bytes = codec::encode("tree", &tree).unwrap();
            prop_assert_eq!(&codec::decode::<Tree>("tree", &bytes).unwrap(), &tree);
            if !looks {
                continue;
            }
            while revision < tree.revision() {
                let batch = tree.events_after(&all(), revision, 300);
                prop_assert!(!batch.compacted);
                prop_assert!(batch.revision > revision);
                for event in batch.events {
                    prop_assert!(event.revision > revision && event.revision <= batch.revision);
                    match event.kind {
                        WatchKind::Put { version, value } => {
                            seen.insert(event.path, (version, value));
                        }
                        WatchKind::Delete { .. } => {
                            prop_assert!(seen.remove(&event.path).is_some());
                        }
                    }
                }
                revision = batch.revision;
            }
            let there = tree.nodes.iter().map(|(path, node)| {
                (path.clone(), (node.version, node.value.as_ref().map(|of| of.to_vec())))
            });
            prop_assert_eq!(&seen, &there.collect());
        }
        // Leases are not exported, nor what is there for one alone.
        tree.expire(u64::MAX);
        let mut copy = Tree::default();
        let actor = Actor { source: "", epoch: Uuid::nil() };
        let moment = Moment { time_ns, is_ended: &|_, _| true };
        for op in super::export::import(&tree.export().unwrap()).unwrap() {
            copy.apply(actor, &moment, op);
        }
        let values = |tree: &Tree| -> Vec<(Path, Option<Vec<u8>>, bool)> {
            let nodes = tree.nodes.iter();
            let values = nodes.map(|(path, of)| (path.clone(), of.value.as_ref().map(|of| of.to_vec()), of.is_put));
            values.collect()
        };
        prop_assert_eq!(values(&copy), values(&tree));
    }

    /// Pages make up the whole, in order, whatever their size.
    #[test]
    fn pages_make_up_the_whole(all_paths in proptest::collection::btree_set(paths(), 0..20), pattern in patterns(), limit in 1..4_usize) {
        let mut tree = Tree::default();
        let actor = Actor { source: "s", epoch: Uuid::from_u128(1) };
        let moment = Moment { time_ns: 0, is_ended: &|_, _| true };
        for path in all_paths {
            tree.apply(actor, &moment, StoreOp::Put(Put::new(path, None)));
        }
        let mut found = Vec::new();
        let mut after = None;
        loop {
            let page = tree.list(&pattern, after.as_ref(), limit);
            found.extend(page.nodes.into_iter().map(|node| node.path));
            after = page.next;
            if after.is_none() {
                break;
            }
        }
        let expected: Vec<Path> = tree.nodes.keys().filter(|of| pattern.matches(of)).cloned().collect();
        prop_assert_eq!(tree.count(&pattern), expected.len() as u64);
        prop_assert_eq!(found, expected);
    }
}

/// The random writes come to what they are meant to try: leases that are held by others, gone over, lost and at their end, nodes
/// that go with them, and conditions of every kind that hold and that do not. A model that knew less would not be noticed
/// otherwise.
#[test]
fn the_random_writes_come_to_what_they_are_for() {
    use proptest::strategy::ValueTree;
    use proptest::test_runner::TestRunner;
    use sidekick_ipc::tree::{DeleteReason, ErrorKind};

    let mut runner = TestRunner::deterministic();
    let steps = proptest::collection::vec(steps(), 4000);
    let steps = steps.new_tree(&mut runner).unwrap().current();
    let (mut tree, mut time_ns) = (Tree::default(), 0);
    let mut counts: BTreeMap<String, usize> = BTreeMap::new();
    let mut count = |what: String| *counts.entry(what).or_default() += 1;
    for step in steps {
        time_ns += step.ms * 1_000_000;
        let before = tree.revision();
        tree.expire(time_ns);
        for event in tree.events_after(&all(), before, usize::MAX).events {
            if let WatchKind::Delete { reason } = event.kind {
                count(format!("expired, {}", reason.name()));
            }
        }
        let model = as_model(&tree);
        let op = with_tokens(step.op, &model);
        let (source, epoch) = ACTORS[step.who];
        let actor = Actor {
            source,
            epoch: Uuid::from_u128(epoch),
        };
        let is_ended = |_: &str, epoch: &Uuid| epoch.as_u128() < step.ended_below;
        let moment = Moment {
            time_ns,
            is_ended: &is_ended,
        };
        let was_held = match &op {
            StoreOp::LeaseGrant { path, .. } => model.token(path.as_str()).is_some(),
            _ => false,
        };
        let asked = match &op {
            StoreOp::Put(put) => put.when.first().map(|of| format!("{of:?}")),
            _ => None,
        };
        let kind = asked.and_then(|of| Some(of.split(['(', ' ']).next()?.to_owned()));
        match tree.apply(actor, &moment, op) {
            StoreResult::Ok(_) if was_held => count("taken over".to_owned()),
            StoreResult::Ok(answer) => {
                let mut gone = answer.deleted.iter();
                if gone.any(|of| of.reason == DeleteReason::Lease) {
                    count("gone with a lease".to_owned());
                }
                count(format!("{kind:?} holds"));
            }
            StoreResult::Error {
                kind: error @ ErrorKind::ConditionFailed,
                ..
            } => {
                count(format!("{kind:?} {}", error.name()));
            }
            StoreResult::Error { kind: error, .. } => count(error.name().to_owned()),
            other => panic!("{other:?}"),
        }
    }
    let mut expected: Vec<String> = [
        "lease_held",
        "lease_lost",
        "taken over",
        "gone with a lease",
    ]
    .map(str::to_owned)
    .to_vec();
    expected.push("expired, lease".to_owned());
    for kind in [
        "Field",
        "All",
        "Any",
        "At",
        "Not",
        "ChildVersion",
        "LeaseIs",
    ] {
        expected.push(format!("Some({kind:?}) holds"));
        expected.push(format!("Some({kind:?}) condition_failed"));
    }
    for what in expected {
        assert!(counts.contains_key(&what), "{what}: {counts:#?}");
    }
}
