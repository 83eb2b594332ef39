//! What survives crashes on the other side: a backend, in memory.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use bytes::Bytes;
use uuid::Uuid;

use super::Fuse;
use crate::position::Position;
use crate::upload::plan::Plan;
use crate::upload::sink::{Batch, BoxFuture, Held, Outcome, PrepareError, Sink};

/// The backend. Remembers keys and their bodies.
#[derive(Debug)]
pub(in crate::upload) struct FakeSink {
    pub(in crate::upload) lanes: u32,
    pub(in crate::upload) fuse: Arc<Fuse>,
    pub(in crate::upload) random: Mutex<fastrand::Rng>,
    /// Of ten tries this many fail in one way or another.
    pub(in crate::upload) fails_of_ten: u32,
    /// More lines than this are a 413.
    pub(in crate::upload) lines_max: usize,
    /// Numbers of records that it will never take.
    pub(in crate::upload) poison: BTreeSet<u64>,
    /// The broken variant: says that it took what it refused, so the lane drops it.
    pub(in crate::upload) drops_refused: bool,
    /// The broken variant: the body has the number of the try in it.
    pub(in crate::upload) unsteady: bool,
    /// Says what it holds of each lane.
    pub(in crate::upload) tells_held: bool,
    /// The broken variant: says of each lane what any of them holds.
    pub(in crate::upload) mixes_lanes: bool,
    pub(in crate::upload) seen: Mutex<Seen>,
}

#[derive(Debug, Default)]
pub(in crate::upload) struct Seen {
    /// Bodies by key, whether they were taken or not.
    pub(in crate::upload) bodies: BTreeMap<String, Bytes>,
    /// Keys that were taken, in the order of their first time.
    pub(in crate::upload) taken: Vec<String>,
    /// Their lanes, by key; where there is none it is the first.
    pub(in crate::upload) lanes: BTreeMap<String, u32>,
    pub(in crate::upload) tries: u64,
    /// Batches that it said it took, for the first time.
    pub(in crate::upload) good: u64,
    pub(in crate::upload) complaints: Vec<String>,
}

impl FakeSink {
    pub(in crate::upload) fn new(lanes: u32, fuse: Arc<Fuse>, seed: u64) -> Self {
        Self {
            lanes,
            fuse,
            random: Mutex::new(fastrand::Rng::with_seed(seed)),
            fails_of_ten: 3,
            lines_max: 3,
            poison: BTreeSet::new(),
            drops_refused: false,
            unsteady: false,
            tells_held: false,
            mixes_lanes: false,
            seen: Mutex::default(),
        }
    }

    fn random(&self, below: u32) -> u32 {
        self.random.lock().unwrap().u32(0..below)
    }

    /// `(stream, seq)` of every record taken, in order, repetitions of a key left out as a backend does.
    pub(in crate::upload) fn records(&self) -> Vec<(String, u64)> {
        let seen = self.seen.lock().unwrap();
        seen.taken
            .iter()
            .flat_map(|key| lines(&seen.bodies[key]))
            .collect()
    }
}

/// `(stream, seq)` of each line.
pub(in crate::upload) fn lines(body: &[u8]) -> Vec<(String, u64)> {
    assert!(
        body.is_empty() || body.ends_with(b"\n"),
        "the last line is cut off"
    );
    let lines = body.split(|b| *b == b'\n').filter(|line| !line.is_empty());
    lines
        .map(|line| {
            let line: serde_json::Value = serde_json::from_slice(line).expect("a line is JSON");
            (
                line["stream"].as_str().unwrap().to_owned(),
                line["seq"].as_u64().unwrap(),
            )
        })
        .collect()
}

impl Sink for FakeSink {
    fn name(&self) -> &str {
        "fake"
    }

    fn lanes(&self) -> u32 {
        self.lanes
    }

    fn prepare<'a>(
        &'a self,
        _group: &'a Uuid,
        _first: Position,
    ) -> BoxFuture<'a, Result<Vec<u8>, PrepareError>> {
        Box::pin(async move {
            self.fuse.point().await;
            if self.random(10) < self.fails_of_ten {
                return Err(PrepareError("not ready".into()));
            }
            Ok(b"extra".to_vec())
        })
    }

    fn held<'a>(
        &'a self,
        _group: &'a Uuid,
        lane: u32,
    ) -> BoxFuture<'a, Result<Option<Held>, PrepareError>> {
        Box::pin(async move {
            let seen = self.seen.lock().unwrap();
            let last = |key: &String| {
                let (index, item) = key.rsplit_once('-')?.1.split_once('.')?;
                let (index, item) = (index.parse().ok()?, item.parse().ok()?);
                Some(Position { index, item })
            };
            let is_of = |key: &&String| {
                self.mixes_lanes || seen.lanes.get(*key).copied().unwrap_or(0) == lane
            };
            let position = seen.taken.iter().filter(is_of).filter_map(last).max();
            let position = position.filter(|_| self.tells_held);
            let held = |position| Held {
                position,
                last: None,
            };
            Ok(position.map(held))
        })
    }

    fn encode<'a>(
        &'a self,
        _plan: &'a Plan,
        mut lines: Vec<u8>,
    ) -> BoxFuture<'a, Result<Bytes, PrepareError>> {
        if self.unsteady {
            let tries = self.seen.lock().unwrap().tries;
            lines.truncate(lines.len() - 2);
            lines.extend_from_slice(format!(",\"try\":{tries}}}\n").as_bytes());
        }
        Box::pin(async move { Ok(lines.into()) })
    }

    fn send<'a>(&'a self, batch: &'a Batch) -> BoxFuture<'a, Outcome> {
        Box::pin(async move {
            self.fuse.point().await;
            let fault = self.random(10);
            let outcome = {
                let mut seen = self.seen.lock().unwrap();
                seen.tries += 1;
                let key = &batch.key;
                let known = seen
                    .bodies
                    .entry(key.clone())
                    .or_insert_with(|| batch.body.clone());
                if *known != batch.body {
                    seen.complaints.push(format!("two bodies under {key}"));
                }
                seen.lanes.insert(key.clone(), batch.plan.lane);
                let taken = seen.taken.contains(key);
                let is_bad = lines(&batch.body)
                    .iter()
                    .any(|(_, seq)| self.poison.contains(seq));
                if is_bad && fault >= self.fails_of_ten {
                    match self.drops_refused {
                        true => Outcome::Taken,
                        false => Outcome::Refused {
                            code: "HTTP 400".into(),
                            reason: "bad".into(),
                        },
                    }
                } else if !taken && lines(&batch.body).len() > self.lines_max {
                    Outcome::TooLarge {
                        reason: "413".into(),
                    }
                } else if fault >= self.fails_of_ten {
                    seen.good += u64::from(!taken);
                    if !taken {
                        seen.taken.push(key.clone());
                    }
                    Outcome::Taken
                } else {
                    let reason = "503".to_owned();
                    match fault % 3 {
                        0 if !is_bad => {
                            // The answer is lost after the batch was taken.
                            if !taken {
                                seen.taken.push(key.clone());
                            }
                            Outcome::Retry { reason }
                        }
                        1 => Outcome::Wait {
                            pause: Duration::from_secs(2),
                            reason,
                        },
                        _ => Outcome::Park { reason },
                    }
                }
            };
            self.fuse.point().await;
            outcome
        })
    }
}
