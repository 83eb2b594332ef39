//! What the uploader tells about itself, and how far records have come.

use std::collections::BTreeMap;
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::{Duration, SystemTime};

use serde::Serialize;
use tokio::sync::watch;
use uuid::Uuid;

use super::plan::whole;
use crate::position::Position;

/// Milestones kept at most. Beyond it every second one is forgotten, so a long backlog is reported in coarser steps.
const MILESTONES_MAX: usize = 4096;
/// Sessions whose level is kept in the status, the latest ones.
const LEVELS_MAX: usize = 32;

/// Whether a sink works.
#[derive(Clone, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "snake_case", tag = "state")]
pub enum SinkState {
    /// The last try succeeded, or there was none yet.
    #[default]
    Ok,
    /// The last try failed; another follows.
    Retrying {
        /// What happened.
        reason: String,
    },
    /// Somebody has to repair something; tried again rarely.
    Parked {
        /// What happened and what may help.
        reason: String,
    },
}

/// One sink.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
pub struct SinkStatus {
    /// Its name.
    pub name: String,
    /// The worst state of its lanes.
    #[serde(flatten)]
    pub state: SinkState,
    /// Its lanes.
    pub lanes: u32,
    /// Lanes with a batch on its way.
    pub in_flight: u32,
    /// Records taken by the backend since this process started.
    pub records: u64,
    /// Batches taken since this process started.
    pub batches: u64,
    /// Bytes of the lines of these batches, before compression.
    pub line_bytes: u64,
    /// Tries that failed since this process started.
    pub failures: u64,
    /// Lines among the records that tell of lost or undecodable ones.
    pub gap_lines: u64,
    /// When the last batch was taken.
    pub last_success: Option<SystemTime>,
    /// When the last try failed.
    pub last_failure: Option<SystemTime>,
    /// What the last failure was, kept when all is well again.
    pub last_error: Option<String>,
    /// Everything at or before it is through this sink.
    pub done: Position,
}

/// The whole uploader.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
pub struct UploadStatus {
    /// The sinks. With none there is nothing to wait for: what is committed counts as uploaded.
    pub sinks: Vec<SinkStatus>,
    /// Everything at or before it is through all sinks.
    pub done: Position,
    /// For each recent session the sequence number up to which all is through all sinks.
    pub uploaded: Vec<(Uuid, u64)>,
}

impl UploadStatus {
    /// Whether everything up to the log's entry `index` is through all sinks. What a shutdown waits for.
    pub fn is_through(&self, index: u64) -> bool {
        self.sinks.is_empty() || self.done >= whole(index)
    }
}

#[derive(Debug, Default)]
struct LaneBoard {
    state: SinkState,
    in_flight: bool,
    done: Position,
}

#[derive(Debug)]
struct SinkBoard {
    status: SinkStatus,
    lanes: Vec<LaneBoard>,
}

#[derive(Debug, Default)]
struct Inner {
    sinks: Vec<SinkBoard>,
    /// Ends of slabs that not every lane has passed, with the session and its last sequence number there.
    milestones: BTreeMap<Position, (Uuid, u64)>,
    levels: Vec<(Uuid, u64)>,
    done: Position,
}

/// Where all lanes write what they did.
#[derive(Debug)]
pub(crate) struct Board {
    inner: Mutex<Inner>,
    status: watch::Sender<UploadStatus>,
}

/// One lane's place on the board.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Seat {
    pub(crate) sink: usize,
    pub(crate) lane: usize,
}

impl Board {
    pub(crate) fn new() -> Self {
        Self {
            inner: Mutex::default(),
            status: watch::Sender::new(UploadStatus::default()),
        }
    }

    pub(crate) fn subscribe(&self) -> watch::Receiver<UploadStatus> {
        self.status.subscribe()
    }

    /// Seats a sink whose lanes are through with these positions; gives its number.
    pub(crate) fn seat(&self, name: &str, done: &[Position]) -> usize {
        let mut inner = self.lock();
        let number = inner.sinks.len();
        inner.sinks.push(SinkBoard {
            status: SinkStatus {
                name: name.to_owned(),
                lanes: u32::try_from(done.len()).unwrap_or(u32::MAX),
                ..SinkStatus::default()
            },
            lanes: done
                .iter()
                .map(|&done| LaneBoard {
                    done,
                    ..LaneBoard::default()
                })
                .collect(),
        });
        self.publish(&mut inner);
        number
    }

    /// Notes that at `position` the session `epoch` has come to `seq`.
    pub(crate) fn milestone(&self, position: Position, epoch: Uuid, seq: u64) {
        let mut inner = self.lock();
        if position <= inner.done {
            if inner.raise(epoch, seq) {
                self.publish(&mut inner);
            }
            return;
        }
        inner.milestones.insert(position, (epoch, seq));
        if inner.milestones.len() > MILESTONES_MAX {
            inner.thin_out();
        }
    }

    /// Changes a lane's place and tells everybody who watches.
    pub(crate) fn update(
        &self,
        seat: Seat,
        change: impl FnOnce(&mut SinkStatus, &mut LaneChange<'_>),
    ) {
        let mut inner = self.lock();
        let Some(sink) = inner.sinks.get_mut(seat.sink) else {
            return;
        };
        let Some(lane) = sink.lanes.get_mut(seat.lane) else {
            return;
        };
        change(&mut sink.status, &mut LaneChange { lane });
        self.publish(&mut inner);
    }

    fn lock(&self) -> MutexGuard<'_, Inner> {
        // The board holds figures only; one that a panic left half changed is still a board.
        self.inner.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn publish(&self, inner: &mut Inner) {
        for sink in &mut inner.sinks {
            let lanes = &sink.lanes;
            sink.status.state = lanes
                .iter()
                .map(|l| &l.state)
                .max()
                .cloned()
                .unwrap_or_default();
            sink.status.in_flight = lanes.iter().map(|l| u32::from(l.in_flight)).sum();
            sink.status.done = lanes.iter().map(|l| l.done).min().unwrap_or_default();
        }
        inner.done = inner
            .sinks
            .iter()
            .map(|s| s.status.done)
            .min()
            .unwrap_or_default();
        while let Some(first) = inner.milestones.first_entry() {
            if *first.key() > inner.done {
                break;
            }
            let (epoch, seq) = first.remove();
            inner.raise(epoch, seq);
        }
        let status = UploadStatus {
            sinks: inner.sinks.iter().map(|s| s.status.clone()).collect(),
            done: inner.done,
            uploaded: inner.levels.clone(),
        };
        self.status.send_if_modified(|current| {
            let changed = *current != status;
            if changed {
                *current = status;
            }
            changed
        });
    }
}

impl Inner {
    /// Raises a session's level; says whether it rose.
    fn raise(&mut self, epoch: Uuid, seq: u64) -> bool {
        if let Some((_, level)) = self.levels.iter_mut().find(|(known, _)| *known == epoch) {
            let rises = *level < seq;
            *level = seq.max(*level);
            return rises;
        }
        if self.levels.len() >= LEVELS_MAX {
            self.levels.remove(0);
        }
        self.levels.push((epoch, seq));
        true
    }

    /// Forgets every second milestone, but never the last one of a session.
    fn thin_out(&mut self) {
        let mut last = BTreeMap::new();
        for (position, (epoch, _)) in &self.milestones {
            last.insert(*epoch, *position);
        }
        let mut odd = false;
        self.milestones.retain(|position, (epoch, _)| {
            odd = !odd;
            odd || last.get(epoch) == Some(position)
        });
    }
}

/// What a lane may change of its own place.
#[derive(Debug)]
pub(crate) struct LaneChange<'a> {
    lane: &'a mut LaneBoard,
}

impl LaneChange<'_> {
    pub(crate) fn state(&mut self, state: SinkState) {
        self.lane.state = state;
    }

    pub(crate) fn in_flight(&mut self, in_flight: bool) {
        self.lane.in_flight = in_flight;
    }

    pub(crate) fn done(&mut self, done: Position) {
        self.lane.done = done.max(self.lane.done);
    }
}

/// A pause as operators read it.
pub(crate) fn in_words(pause: Duration) -> String {
    format!("{:.1} s", pause.as_secs_f64())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(index: u64) -> Position {
        Position { index, item: 9 }
    }

    #[test]
    fn a_level_rises_when_the_slowest_lane_of_all_sinks_has_passed() {
        let board = Board::new();
        let status = board.subscribe();
        let epoch = Uuid::from_u128(1);
        let start = [Position::default(); 2];
        assert_eq!(
            (board.seat("file", &start[..1]), board.seat("http", &start)),
            (0, 1)
        );
        board.milestone(at(5), epoch, 50);
        board.milestone(at(7), epoch, 70);
        for seat in [Seat { sink: 0, lane: 0 }, Seat { sink: 1, lane: 1 }] {
            board.update(seat, |_, lane| lane.done(at(7)));
            assert_eq!(status.borrow().uploaded, []);
        }
        board.update(Seat { sink: 1, lane: 0 }, |_, lane| lane.done(at(6)));
        assert_eq!(status.borrow().uploaded, [(epoch, 50)]);
        assert!(status.borrow().is_through(5) && !status.borrow().is_through(6));
        board.update(Seat { sink: 1, lane: 0 }, |_, lane| lane.done(at(7)));
        assert_eq!(status.borrow().uploaded, [(epoch, 70)]);
        board.milestone(at(3), epoch, 30);
        assert_eq!(
            status.borrow().uploaded,
            [(epoch, 70)],
            "a level never falls"
        );
    }

    #[test]
    fn milestones_are_bounded_and_keep_each_sessions_last() {
        let board = Board::new();
        let status = board.subscribe();
        board.seat("file", &[Position::default()]);
        for n in 1..=100_000 {
            board.milestone(at(n), Uuid::from_u128(u128::from(n / 60_000)), n);
        }
        assert!(board.lock().milestones.len() <= MILESTONES_MAX);
        board.update(Seat { sink: 0, lane: 0 }, |_, lane| lane.done(at(100_000)));
        let uploaded = status.borrow().uploaded.clone();
        assert_eq!(
            uploaded,
            [(Uuid::from_u128(0), 59_999), (Uuid::from_u128(1), 100_000)]
        );
    }

    #[test]
    fn the_worst_lane_names_the_sinks_state() {
        let board = Board::new();
        let status = board.subscribe();
        board.seat("http", &[Position::default(); 2]);
        let parked = SinkState::Parked {
            reason: "401".into(),
        };
        board.update(Seat { sink: 0, lane: 1 }, |_, lane| {
            lane.state(parked.clone());
        });
        let retrying = SinkState::Retrying {
            reason: "500".into(),
        };
        board.update(Seat { sink: 0, lane: 0 }, |_, lane| lane.state(retrying));
        assert_eq!(status.borrow().sinks[0].state, parked);
    }
}
