//! Random writes against a tree as a child would keep it: plain maps, everything looked at anew after each write.

use std::collections::BTreeMap;

use proptest::prelude::*;
use sidekick_ipc::tree::{
    Comparison, Condition, Path, Pattern, Put, StoreOp, StoreResult, TransactionOp, WatchKind,
};
use uuid::Uuid;

use super::{Actor, Moment, Tree};
use crate::store::codec;

#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Naive {
    version: u64,
    value: Option<Vec<u8>>,
    is_put: bool,
    /// Nodes that have to be there.
    needs: Vec<String>,
}

#[derive(Clone, Debug, Default, PartialEq)]
pub(crate) struct Model(BTreeMap<String, Naive>);

impl Model {
    /// Takes another one's nodes, which have other paths.
    pub(crate) fn join(&mut self, mut other: Model) {
        self.0.append(&mut other.0);
    }

    fn children(&self, path: &str) -> usize {
        let is_child = |of: &&String| of.rsplit_once('/').is_some_and(|(above, _)| above == path);
        self.0.keys().filter(is_child).count()
    }

    fn holds(&self, path: &str, condition: &Condition) -> bool {
        let node = self.0.get(path);
        match condition {
            Condition::Exists(wanted) => node.is_some() == *wanted,
            Condition::HasValue(wanted) => node.is_some_and(|of| of.value.is_some()) == *wanted,
            Condition::Version(Comparison::Equal, wanted) => {
                node.map_or(0, |of| of.version) == *wanted
            }
            Condition::ChildCount(Comparison::Less, wanted) => {
                (self.children(path) as u64) < *wanted
            }
            Condition::ValueIs(wanted) => node.is_some_and(|of| of.value.as_ref() == Some(wanted)),
            Condition::Not(of) => !self.holds(path, of),
            other => panic!("{other:?}"),
        }
    }

    fn delete(&mut self, path: &str) {
        let below = format!("{path}/");
        self.0.retain(|of, _| of != path && !of.starts_with(&below));
        self.settle();
    }

    /// Takes away what nobody keeps, until all that is left is kept.
    fn settle(&mut self) {
        loop {
            let left = self.0.iter().find(|(path, node)| {
                let useless = !node.is_put && self.children(path) == 0;
                useless || node.needs.iter().any(|need| !self.0.contains_key(need))
            });
            let Some(path) = left.map(|(path, _)| path.clone()) else {
                return;
            };
            let below = format!("{path}/");
            self.0
                .retain(|of, _| *of != path && !of.starts_with(&below));
        }
    }

    fn put(&mut self, put: &Put) -> Result<(), ()> {
        let path = put.path.as_str();
        let needs: Vec<String> = put
            .keep_while
            .iter()
            .map(|(of, _)| of.to_string())
            .collect();
        if !put.when.iter().all(|of| self.holds(path, of))
            || !needs.iter().all(|need| self.0.contains_key(need))
        {
            return Err(());
        }
        let mut at = 0;
        while let Some(slash) = path[at + 1..].find('/') {
            at += 1 + slash;
            self.0.entry(path[..at].to_owned()).or_insert(Naive {
                version: 1,
                value: None,
                is_put: false,
                needs: Vec::new(),
            });
        }
        let node = self.0.entry(path.to_owned()).or_insert(Naive {
            version: 0,
            value: None,
            is_put: true,
            needs: Vec::new(),
        });
        if node.version == 0 || node.value != put.value {
            node.version += 1;
        }
        node.value.clone_from(&put.value);
        node.is_put = true;
        if !needs.is_empty() {
            node.needs = needs;
        }
        self.settle();
        Ok(())
    }

    fn matching(&self, pattern: &Pattern, when: &[Condition]) -> Vec<String> {
        let names = self.0.keys().filter(|path| {
            pattern.matches(&Path::new(path).unwrap()) && when.iter().all(|of| self.holds(path, of))
        });
        names.cloned().collect()
    }

    /// Applies a write; after an error the model is worth nothing.
    pub(crate) fn apply(&mut self, op: &StoreOp) -> Result<(), ()> {
        match op {
            StoreOp::Put(put) => self.put(put)?,
            StoreOp::PutMany {
                pattern,
                value,
                when,
            } => {
                for path in self.matching(pattern, when) {
                    if let Some(node) = self.0.get_mut(&path).filter(|of| of.value != *value) {
                        node.value.clone_from(value);
                        node.version += 1;
                        node.is_put = true;
                    }
                }
            }
            StoreOp::Delete { target, when } => match target.to_path() {
                Some(path) => {
                    if !when.iter().all(|of| self.holds(path.as_str(), of)) {
                        return Err(());
                    }
                    self.delete(path.as_str());
                }
                None => {
                    for path in self.matching(target, when) {
                        let below = format!("{path}/");
                        self.0
                            .retain(|of, _| *of != path && !of.starts_with(&below));
                    }
                    self.settle();
                }
            },
            StoreOp::Transaction {
                compare,
                then,
                otherwise,
            } => {
                let holds = compare
                    .iter()
                    .all(|(path, of)| self.holds(path.as_str(), of));
                for op in if holds { then } else { otherwise } {
                    match op {
                        TransactionOp::Put(put) => self.put(put)?,
                        TransactionOp::Get(_) => {}
                        TransactionOp::Delete { path, .. } => self.delete(path.as_str()),
                    }
                }
            }
            other => panic!("{other:?}"),
        }
        Ok(())
    }
}

fn paths() -> impl Strategy<Value = Path> {
    proptest::collection::vec("[ab]", 1..4)
        .prop_map(|of| Path::new(&format!("/{}", of.join("/"))).unwrap())
}

fn conditions() -> impl Strategy<Value = Condition> {
    let plain = prop_oneof![
        any::<bool>().prop_map(Condition::Exists),
        any::<bool>().prop_map(Condition::HasValue),
        (0..3_u64).prop_map(|of| Condition::Version(Comparison::Equal, of)),
        (0..3_u64).prop_map(|of| Condition::ChildCount(Comparison::Less, of)),
        (0..3_u8).prop_map(|of| Condition::ValueIs(vec![of])),
    ];
    prop_oneof![
        3 => plain.clone(),
        1 => plain.prop_map(|of| Condition::Not(Box::new(of))),
    ]
}

fn values() -> impl Strategy<Value = Option<Vec<u8>>> {
    proptest::option::weighted(0.8, (0..3_u8).prop_map(|of| vec![of]))
}

fn puts() -> impl Strategy<Value = Put> {
    let when = proptest::collection::vec(conditions(), 0..2);
    let keep = proptest::collection::vec(paths(), 0..2);
    (paths(), values(), when, keep).prop_map(|(path, value, when, keep)| {
        let keep = keep.into_iter().filter(|of| *of != path);
        let keep_while = keep.map(|of| (of, Condition::Exists(true))).collect();
        Put {
            path,
            value,
            when,
            keep_while,
            lease: None,
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
    ]
}

fn all() -> Pattern {
    Pattern::new("/**").unwrap()
}

/// The tree as the model would have it.
pub(crate) fn as_model(tree: &Tree) -> Model {
    let nodes = tree.nodes.iter().map(|(path, node)| {
        let naive = Naive {
            version: node.version,
            value: node.value.as_ref().map(|value| value.to_vec()),
            is_put: node.is_put,
            needs: node
                .keep_while
                .iter()
                .map(|(of, _)| of.to_string())
                .collect(),
        };
        (path.to_string(), naive)
    });
    Model(nodes.collect())
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(512))]

    /// The tree is what the model is after every write; a failed one leaves no trace; a watcher that asks now and then,
    /// with breaks, has seen exactly what is there; what is written and read back is the same, index and all.
    #[test]
    fn the_tree_agrees_with_a_naive_model(steps in proptest::collection::vec((ops(), 0..4_u8), 1..40)) {
        let mut tree = Tree::default();
        let mut model = Model::default();
        let mut seen: BTreeMap<Path, (u64, Option<Vec<u8>>)> = BTreeMap::new();
        let mut revision = 0;
        let actor = Actor { source: "s", epoch: Uuid::from_u128(1) };
        let moment = Moment { time_ns: 0, is_ended: &|_, _| true };
        for (op, looks) in steps {
            let before = tree.clone();
            let mut after = model.clone();
            let expected = after.apply(&op);
            match tree.apply(actor, &moment, op.clone()) {
                StoreResult::Ok(answer) => {
                    prop_assert!(expected.is_ok(), "{op:?} was done: {answer:?}");
                    model = after;
                    prop_assert!(answer.revision - before.revision() <= 1);
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
            if looks > 0 {
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
        let ops = super::export::import(&tree.export().unwrap());
        let mut copy = Tree::default();
        // A model's values are no values of Godot's; the text says so.
        if let Ok(ops) = ops {
            for op in ops {
                copy.apply(actor, &moment, op);
            }
            prop_assert_eq!(copy.nodes.keys().collect::<Vec<_>>(), tree.nodes.keys().collect::<Vec<_>>());
        }
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
