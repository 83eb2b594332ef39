//! A tree as a child would keep it: plain maps, everything looked at anew after each write.

use std::cmp::Ordering;
use std::collections::BTreeMap;

use sidekick_ipc::tree::{
    Comparison, Condition, LeaseRef, Path, Pattern, Put, StoreOp, TransactionOp,
};
use sidekick_ipc::value::{Value, decode};

use super::super::{Actor, Tree};

#[derive(Clone, Debug, PartialEq)]
struct Lease {
    token: u64,
    ttl_ms: u64,
    ends_ns: u64,
    holder: (String, u128),
}

#[derive(Clone, Debug, Default, PartialEq)]
pub(super) struct Naive {
    version: u64,
    child_version: u64,
    value: Option<Vec<u8>>,
    is_put: bool,
    /// Nodes that have to be there.
    needs: Vec<String>,
    held: Option<Lease>,
    /// The node of the lease that it goes with.
    hangs_on: Option<String>,
}

#[derive(Clone, Debug, Default, PartialEq)]
pub(crate) struct Model(pub(super) BTreeMap<String, Naive>);

/// Who writes, and when.
#[derive(Clone, Copy)]
pub(crate) struct Now<'a> {
    pub(crate) actor: Actor<'a>,
    pub(crate) time_ns: u64,
    /// Sessions with epochs below this one have ended.
    pub(crate) ended_below: u128,
    /// The token of a lease that is granted now.
    pub(crate) token: u64,
}

impl Model {
    /// Takes another one's nodes, which have other paths.
    pub(crate) fn join(&mut self, mut other: Model) {
        self.0.append(&mut other.0);
    }

    pub(super) fn children(&self, path: &str) -> usize {
        let is_child = |of: &&String| of.rsplit_once('/').is_some_and(|(above, _)| above == path);
        self.0.keys().filter(is_child).count()
    }

    /// The token of the lease that is held at a node.
    pub(super) fn token(&self, path: &str) -> Option<u64> {
        Some(self.0.get(path)?.held.as_ref()?.token)
    }

    fn holds(&self, path: &str, condition: &Condition) -> bool {
        let node = self.0.get(path);
        match condition {
            Condition::Exists(wanted) => node.is_some() == *wanted,
            Condition::HasValue(wanted) => node.is_some_and(|of| of.value.is_some()) == *wanted,
            Condition::Version(how, wanted) => {
                stands(node.map_or(0, |of| of.version).cmp(wanted), *how)
            }
            Condition::ChildVersion(how, wanted) => {
                stands(node.map_or(0, |of| of.child_version).cmp(wanted), *how)
            }
            Condition::ChildCount(how, wanted) => {
                stands((self.children(path) as u64).cmp(wanted), *how)
            }
            Condition::ValueIs(wanted) => node.is_some_and(|of| of.value.as_ref() == Some(wanted)),
            Condition::Field {
                keys,
                comparison,
                value,
            } => {
                let found = node.and_then(|of| decode(of.value.as_ref()?).ok());
                let field = found.as_ref().and_then(|of| of.get(keys.first()?));
                field.is_some_and(|of| field_holds(of, *comparison, &decode(value).unwrap()))
            }
            Condition::LeaseIs(token) => self.token(path) == Some(*token),
            Condition::Not(of) => !self.holds(path, of),
            Condition::All(all) => !all.iter().any(|of| !self.holds(path, of)),
            Condition::Any(any) => any.iter().any(|of| self.holds(path, of)),
            Condition::At(other, of) => self.holds(other.as_str(), of),
        }
    }

    fn is_held(&self, lease: &LeaseRef) -> bool {
        self.token(lease.path.as_str()) == Some(lease.token)
    }

    /// Takes a node away with all below it; its parent notices.
    fn take(&mut self, path: &str) {
        if !self.0.contains_key(path) {
            return;
        }
        let below = format!("{path}/");
        self.0.retain(|of, _| of != path && !of.starts_with(&below));
        let parent = path.rsplit_once('/').map(|(above, _)| above);
        if let Some(parent) = parent.and_then(|parent| self.0.get_mut(parent)) {
            parent.child_version += 1;
        }
    }

    /// Takes away what nobody keeps, until all that is left is kept.
    fn settle(&mut self) {
        loop {
            let left = self.0.iter().find(|(path, node)| {
                let useless = !node.is_put && node.held.is_none() && self.children(path) == 0;
                let hung = node.hangs_on.as_ref();
                useless
                    || node.needs.iter().any(|need| !self.0.contains_key(need))
                    || hung.is_some_and(|lease| self.token(lease).is_none())
            });
            let Some(path) = left.map(|(path, _)| path.clone()) else {
                return;
            };
            self.take(&path);
        }
    }

    /// The node at `path`, made if it is not there, with those above it.
    fn make(&mut self, path: &str) -> &mut Naive {
        if !self.0.contains_key(path) {
            let above = path.rsplit_once('/').map(|(above, _)| above);
            if let Some(above) = above.filter(|above| !above.is_empty()) {
                let was_there = self.0.contains_key(above);
                // One that is made for this child has had it from its beginning.
                self.make(above).child_version += u64::from(was_there);
            }
        }
        self.0.entry(path.to_owned()).or_insert_with(|| Naive {
            child_version: 1,
            ..Naive::default()
        })
    }

    fn put(&mut self, put: &Put) -> Result<(), ()> {
        let path = put.path.as_str();
        let needs: Vec<String> = put
            .keep_while
            .iter()
            .map(|(of, _)| of.to_string())
            .collect();
        if !put.when.iter().all(|of| self.holds(path, of))
            || !put.lease.iter().all(|lease| self.is_held(lease))
            || !needs.iter().all(|need| self.0.contains_key(need))
        {
            return Err(());
        }
        let node = self.make(path);
        if node.version == 0 || node.value != put.value {
            node.version += 1;
        }
        node.value.clone_from(&put.value);
        node.is_put = true;
        if !needs.is_empty() {
            node.needs = needs;
        }
        if let Some(lease) = &put.lease {
            node.hangs_on = Some(lease.path.to_string());
        }
        self.begin();
        self.settle();
        Ok(())
    }

    /// What was made on the way begins with version 1.
    fn begin(&mut self) {
        for node in self.0.values_mut() {
            node.version = node.version.max(1);
        }
    }

    fn matching(&self, pattern: &Pattern, when: &[Condition]) -> Vec<String> {
        let names = self.0.keys().filter(|path| {
            pattern.matches(&Path::new(path).unwrap()) && when.iter().all(|of| self.holds(path, of))
        });
        names.cloned().collect()
    }

    /// Every lease that is due ends.
    pub(super) fn expire(&mut self, time_ns: u64) {
        for node in self.0.values_mut() {
            node.held.take_if(|held| held.ends_ns <= time_ns);
        }
        self.settle();
    }

    fn grant(&mut self, path: &str, ttl_ms: u64, now: Now<'_>) -> Result<(), ()> {
        let (source, epoch) = (now.actor.source, now.actor.epoch.as_u128());
        if let Some(Lease { holder, .. }) = self.0.get(path).and_then(|of| of.held.as_ref()) {
            let is_heir = !source.is_empty() && holder.0 == source && holder.1 < now.ended_below;
            if holder.1 != epoch && !is_heir {
                return Err(());
            }
        }
        self.make(path).held = Some(Lease {
            token: now.token,
            ttl_ms,
            ends_ns: now.time_ns + ttl_ms * 1_000_000,
            holder: (source.to_owned(), epoch),
        });
        self.begin();
        Ok(())
    }

    /// Applies a write; after an error the model is worth nothing.
    pub(crate) fn apply(&mut self, op: &StoreOp, now: Now<'_>) -> Result<(), ()> {
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
            StoreOp::Delete { target, when } => {
                if let Some(path) = target.to_path()
                    && !when.iter().all(|of| self.holds(path.as_str(), of))
                {
                    return Err(());
                }
                let targets = match target.to_path() {
                    Some(path) => vec![path.to_string()],
                    None => self.matching(target, when),
                };
                for path in targets {
                    self.take(&path);
                }
                self.settle();
            }
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
                        TransactionOp::Delete { path, .. } => {
                            self.take(path.as_str());
                            self.settle();
                        }
                    }
                }
            }
            StoreOp::LeaseGrant { path, ttl_ms } => self.grant(path.as_str(), *ttl_ms, now)?,
            StoreOp::LeaseRenew(lease) | StoreOp::LeaseRelease(lease) if !self.is_held(lease) => {
                return Err(());
            }
            StoreOp::LeaseRenew(lease) => {
                let node = self.0.get_mut(lease.path.as_str()).ok_or(())?;
                if let Some(held) = &mut node.held {
                    held.ends_ns = now.time_ns + held.ttl_ms * 1_000_000;
                }
            }
            StoreOp::LeaseRelease(lease) => {
                self.0.get_mut(lease.path.as_str()).ok_or(())?.held = None;
                self.settle();
            }
            other => panic!("{other:?}"),
        }
        Ok(())
    }
}

fn stands(found: Ordering, how: Comparison) -> bool {
    match how {
        Comparison::Equal => found == Ordering::Equal,
        Comparison::NotEqual => found != Ordering::Equal,
        Comparison::Less => found == Ordering::Less,
        Comparison::LessOrEqual => found != Ordering::Greater,
        Comparison::Greater => found == Ordering::Greater,
        Comparison::GreaterOrEqual => found != Ordering::Less,
    }
}

/// Of the values that the test makes: numbers and texts.
fn field_holds(found: &Value, how: Comparison, wanted: &Value) -> bool {
    let order = match (found, wanted) {
        (Value::Int(found), Value::Int(wanted)) => Some(found.cmp(wanted)),
        (Value::Int(found), Value::Float(wanted)) => (*found as f64).partial_cmp(wanted),
        (Value::String(found), Value::String(wanted)) => Some(found.cmp(wanted)),
        _ => None,
    };
    match order {
        Some(order) => stands(order, how),
        None => how == Comparison::NotEqual,
    }
}

/// The tree as the model would have it.
pub(crate) fn as_model(tree: &Tree) -> Model {
    let nodes = tree.nodes.iter().map(|(path, node)| {
        let naive = Naive {
            version: node.version,
            child_version: node.child_version,
            value: node.value.as_ref().map(|value| value.to_vec()),
            is_put: node.is_put,
            needs: node
                .keep_while
                .iter()
                .map(|(of, _)| of.to_string())
                .collect(),
            held: node.held.as_ref().map(|held| Lease {
                token: held.token,
                ttl_ms: held.ttl_ns / 1_000_000,
                ends_ns: held.ends_ns,
                holder: (held.source.clone(), held.epoch.as_u128()),
            }),
            hangs_on: node.hangs_on.as_ref().map(Path::to_string),
        };
        (path.to_string(), naive)
    });
    Model(nodes.collect())
}
