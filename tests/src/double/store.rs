//! The double's store: as much of a tree as tests of the game's side need. What the words really mean is the watchdog's business.

use std::collections::BTreeMap;

use sidekick_ipc::FrameKind;
use sidekick_ipc::message::Parcel;
use sidekick_ipc::request::RequestBytes;
use sidekick_ipc::tree::{
    Answer, CheckpointKind, Comparison, Condition, DeleteReason, Deleted, ErrorKind, LeaseRef,
    NodeInfo, Path, Pattern, RestoreStatus, Restored, StoreOp, StoreQuery, StoreResult, WatchBatch,
    WatchEvent, WatchKind, decode_request,
};

/// What was checkpointed under one key.
#[derive(Debug, Clone, Default)]
pub struct Kept {
    /// Version of the full one.
    pub full_version: u64,
    /// Version of the last.
    pub version: u64,
    /// The full one.
    pub full: Vec<u8>,
    /// The deltas on it.
    pub deltas: Vec<Vec<u8>>,
    /// The frame of the last.
    pub frame: u64,
}

/// A few maps.
#[derive(Debug, Default)]
pub struct Store {
    /// Versions and values.
    pub nodes: BTreeMap<Path, (u64, Vec<u8>)>,
    /// Checkpoints by key.
    pub checkpoints: BTreeMap<String, Kept>,
    /// Ops in order, with their numbers.
    pub ops: Vec<(u64, StoreOp)>,
    /// Queries in order, with their numbers.
    pub queries: Vec<(u64, StoreQuery)>,
    revision: u64,
    watches: Vec<(u64, Pattern)>,
}

impl Store {
    /// Takes a request, and gives what is to be sent for it.
    ///
    /// # Panics
    /// When the request makes no sense.
    pub fn take(&mut self, request: &RequestBytes) -> Vec<Parcel> {
        let number = request.number;
        let mut events = Vec::new();
        let result = if request.kind == FrameKind::Op {
            let (_, op) = decode_request::<StoreOp>(&request.bytes).expect("a request");
            let op = op.expect("an op");
            self.ops.push((number, op.clone()));
            self.apply(&op, &mut events)
        } else {
            let (_, query) = decode_request::<StoreQuery>(&request.bytes).expect("a request");
            let query = query.expect("a query");
            self.queries.push((number, query.clone()));
            self.answer(number, &query)
        };
        let mut parcels = vec![Parcel::reply(number, &result).expect("small")];
        for (watch, pattern) in &self.watches {
            let matching: Vec<WatchEvent> = events
                .iter()
                .filter(|event: &&WatchEvent| pattern.matches(&event.path))
                .cloned()
                .collect();
            if !matching.is_empty() {
                let batch = WatchBatch {
                    revision: self.revision,
                    compacted: false,
                    events: matching,
                };
                parcels.push(Parcel::events(*watch, &batch).expect("small"));
            }
        }
        parcels
    }

    fn ok(&self, answer: Answer) -> StoreResult {
        StoreResult::Ok(Answer {
            revision: self.revision,
            succeeded: true,
            ..answer
        })
    }

    fn holds(&self, path: &Path, condition: &Condition) -> bool {
        let version = self.nodes.get(path).map_or(0, |(version, _)| *version);
        match condition {
            Condition::Exists(exists) => *exists == (version > 0),
            Condition::Version(comparison, wanted) => comparison.holds(&version, wanted),
            Condition::ValueIs(value) => self
                .nodes
                .get(path)
                .is_some_and(|(_, found)| found == value),
            Condition::Not(of) => !self.holds(path, of),
            Condition::All(all) => all.iter().all(|of| self.holds(path, of)),
            Condition::Any(any) => any.iter().any(|of| self.holds(path, of)),
            Condition::Field {
                keys, comparison, ..
            } => keys.as_slice() == ["stats", "hp"] && *comparison == Comparison::Greater,
            _ => false,
        }
    }

    fn apply(&mut self, op: &StoreOp, events: &mut Vec<WatchEvent>) -> StoreResult {
        match op {
            StoreOp::Put(put) => {
                if !put.when.iter().all(|of| self.holds(&put.path, of)) {
                    return StoreResult::error(ErrorKind::ConditionFailed, "a condition failed");
                }
                self.revision += 1;
                let value = put.value.clone().unwrap_or_default();
                let node = self.nodes.entry(put.path.clone()).or_default();
                *node = (node.0 + 1, value);
                let version = node.0;
                events.push(WatchEvent {
                    revision: self.revision,
                    path: put.path.clone(),
                    kind: WatchKind::Put {
                        version,
                        value: put.value.clone(),
                    },
                });
                self.ok(Answer {
                    version,
                    ..Answer::default()
                })
            }
            StoreOp::Delete { target, .. } => {
                self.revision += 1;
                let gone: Vec<Path> = self
                    .nodes
                    .keys()
                    .filter(|path| target.matches(path))
                    .cloned()
                    .collect();
                let mut deleted = Vec::new();
                for path in gone {
                    self.nodes.remove(&path);
                    events.push(WatchEvent {
                        revision: self.revision,
                        path: path.clone(),
                        kind: WatchKind::Delete {
                            reason: DeleteReason::Asked,
                        },
                    });
                    deleted.push(Deleted {
                        path,
                        reason: DeleteReason::Asked,
                    });
                }
                self.ok(Answer {
                    count: deleted.len() as u64,
                    deleted,
                    ..Answer::default()
                })
            }
            StoreOp::LeaseGrant { path, .. } => self.ok(Answer {
                lease: Some(LeaseRef {
                    path: path.clone(),
                    token: 77,
                }),
                ..Answer::default()
            }),
            StoreOp::LeaseRenew(lease) => self.ok(Answer {
                lease: Some(lease.clone()),
                ..Answer::default()
            }),
            StoreOp::Checkpoint {
                key,
                kind,
                version,
                value,
                frame,
                ..
            } => self.checkpoint(key, *kind, *version, value, *frame),
            StoreOp::ForgetCheckpoint { key } => {
                self.checkpoints.remove(key);
                self.ok(Answer::default())
            }
            _ => self.ok(Answer::default()),
        }
    }

    fn checkpoint(
        &mut self,
        key: &str,
        kind: CheckpointKind,
        version: u64,
        value: &[u8],
        frame: u64,
    ) -> StoreResult {
        let kept = self.checkpoints.entry(key.to_owned()).or_default();
        if version <= kept.version {
            return StoreResult::error(ErrorKind::StaleVersion, "stale");
        }
        match kind {
            CheckpointKind::Full => {
                (kept.full, kept.full_version) = (value.to_vec(), version);
                kept.deltas.clear();
            }
            CheckpointKind::Delta { base }
                if base == kept.full_version && version == kept.version + 1 =>
            {
                kept.deltas.push(value.to_vec());
            }
            CheckpointKind::Delta { .. } => {
                return StoreResult::error(ErrorKind::DeltaGap, "a delta's base is missing");
            }
        }
        (kept.version, kept.frame) = (version, frame);
        self.ok(Answer {
            version,
            ..Answer::default()
        })
    }

    fn answer(&mut self, number: u64, query: &StoreQuery) -> StoreResult {
        match query {
            StoreQuery::Get { path, .. } => match self.nodes.get(path) {
                Some((version, value)) => self.ok(Answer {
                    version: *version,
                    nodes: vec![node_info(path, *version, value)],
                    ..Answer::default()
                }),
                None => StoreResult::error(ErrorKind::NotFound, "there is no such node"),
            },
            StoreQuery::List { pattern, .. } | StoreQuery::Count { pattern, .. } => {
                let nodes: Vec<NodeInfo> = self
                    .nodes
                    .iter()
                    .filter(|(path, _)| pattern.matches(path))
                    .map(|(path, (version, value))| node_info(path, *version, value))
                    .collect();
                self.ok(Answer {
                    count: nodes.len() as u64,
                    nodes,
                    ..Answer::default()
                })
            }
            StoreQuery::Watch { pattern, .. } => {
                self.watches.push((number, pattern.clone()));
                self.ok(Answer::default())
            }
            StoreQuery::Unwatch { watch } => {
                self.watches.retain(|(number, _)| number != watch);
                self.ok(Answer::default())
            }
            StoreQuery::Restore { key, .. } => {
                let Some(kept) = self.checkpoints.get(key) else {
                    return StoreResult::Restored(Restored::default());
                };
                StoreResult::Restored(Restored {
                    status: RestoreStatus::Restored,
                    full_version: kept.full_version,
                    version: kept.version,
                    full: kept.full.clone(),
                    deltas: kept
                        .deltas
                        .iter()
                        .map(|delta| delta.clone().into())
                        .collect(),
                    incarnation: 2,
                    frame: kept.frame,
                    age_ms: 1500,
                    is_safe: false,
                })
            }
        }
    }
}

fn node_info(path: &Path, version: u64, value: &[u8]) -> NodeInfo {
    NodeInfo {
        path: path.clone(),
        version,
        child_version: 0,
        child_count: 0,
        has_value: true,
        value: Some(value.to_vec()),
        lease: 0,
    }
}
