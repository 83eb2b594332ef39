//! What the group knows: sessions, lanes, totals. Pure: a state and an entry give a state and outcomes.
//!
//! Records are not in it; they live once, in the log.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};
use uuid::Uuid;

use super::command::{Command, Outcome, PLAN_EXTRA_BYTES_MAX, Plan, Refusal};
use super::raft::{LogId, StoredMembership};
use crate::position::Position;
use crate::slab::{RingCheckpoint, SlabHead};

/// Ended sessions that are remembered for each source; older ones live on in the totals only.
const ENDED_SESSIONS_MAX: usize = 8;
/// Derived records that are remembered. Their makers try again at the next start, long before so many others came.
const DERIVED_KEPT: usize = 1024;
/// The largest number of lanes of one sink.
pub const LANES_MAX: u32 = 256;

/// How a session ended.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct SessionEnd {
    /// Why, in words.
    pub cause: String,
    /// The ring vanished: nobody knows what it still held.
    pub tail_unknown: bool,
}

/// One session as the group knows it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct SessionState {
    /// The launch number of its engine.
    pub launch: u32,
    /// Wall clock at its start, in nanoseconds since the Unix epoch.
    pub started_realtime_ns: i64,
    /// The sequence number that comes next, from 1.
    pub next_seq: u64,
    /// Where its ring's reader stands; `None` before the first slab.
    pub checkpoint: Option<RingCheckpoint>,
    /// How it ended, if it has.
    pub end: Option<SessionEnd>,
}

/// One lane of a sink.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct LaneState {
    /// Everything of this lane up to and with this position is uploaded. `item` is `u32::MAX` when the whole entry is.
    pub watermark: Position,
    /// The batch that is being uploaded.
    pub plan: Option<Plan>,
    /// Records uploaded so far.
    pub records: u64,
}

/// A sink that was taken out of the configuration, as it stood then.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
struct Retired {
    lanes: Vec<LaneState>,
    /// The entry that took it out.
    at: u64,
}

/// Counts of one source over all its sessions.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct SourceTotals {
    /// Sequence numbers committed.
    pub committed: u64,
    /// Sessions opened.
    pub sessions: u64,
    /// The highest launch number that opened a session.
    pub last_launch: u32,
}

/// What readers must not see of a slab in the log.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) enum Cut {
    /// All of it was refused or seen before.
    Whole,
    /// What lies before this sequence number was seen before.
    Before(u64),
}

#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
struct SourceState {
    totals: SourceTotals,
    sessions: BTreeMap<Uuid, SessionState>,
}

/// The state machine's whole state.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub(crate) struct State {
    pub(crate) last_applied: Option<LogId>,
    pub(crate) membership: StoredMembership,
    pub(crate) group: Option<Uuid>,
    /// Bytes of all entries ever applied.
    pub(crate) log_bytes: u64,
    sources: BTreeMap<String, SourceState>,
    sinks: BTreeMap<String, Vec<LaneState>>,
    /// By entry and number of the slab in it; empty but for retries.
    cuts: BTreeMap<(u64, u32), Cut>,
    // New fields go to the end and are all zeros when empty: see `snapshot::unseal`.
    /// Epochs of derived records and the entries that brought them.
    derived: BTreeMap<Uuid, u64>,
    /// Sinks that were taken out of the configuration; nothing waits for them.
    retired: BTreeMap<String, Retired>,
}

impl State {
    /// Applies the commands of the entry at `index`. Never fails: what cannot be done is refused.
    pub(crate) fn apply(&mut self, index: u64, commands: Vec<Command>) -> Vec<Outcome> {
        let mut slab = 0;
        commands
            .into_iter()
            .map(|command| {
                let number = slab;
                slab += u32::from(matches!(
                    command,
                    Command::Append { .. } | Command::Derived { .. }
                ));
                self.apply_one(index, number, command)
                    .unwrap_or_else(Outcome::Refused)
            })
            .collect()
    }

    fn apply_one(&mut self, index: u64, slab: u32, command: Command) -> Result<Outcome, Refusal> {
        match command {
            Command::Init { group } => Ok(Outcome::Group(*self.group.get_or_insert(group))),
            Command::OpenSession {
                source,
                epoch,
                launch,
                started_realtime_ns,
            } => self.open_session(source, epoch, launch, started_realtime_ns),
            Command::Append { head, .. } => {
                let result = self.take(&head);
                let cut = match &result {
                    Ok((_, None)) => None,
                    Ok((_, cut)) => *cut,
                    Err(_) => Some(Cut::Whole),
                };
                if let Some(cut) = cut {
                    self.cuts.insert((index, slab), cut);
                }
                result.map(|(outcome, _)| outcome)
            }
            Command::EndSession {
                source,
                epoch,
                cause,
                tail_unknown,
            } => self.end_session(
                &source,
                epoch,
                SessionEnd {
                    cause,
                    tail_unknown,
                },
            ),
            Command::SetSinks { sinks } => Ok(self.set_sinks(sinks)),
            Command::Plan { sink, lane, plan } => {
                let lane = self.lane(&sink, lane)?;
                if plan.last < plan.first || plan.extra.len() > PLAN_EXTRA_BYTES_MAX {
                    return Err(Refusal::BadPlan);
                }
                match &lane.plan {
                    Some(standing) if *standing == plan => return Ok(Outcome::Done),
                    // A batch that was too large is halved, one whose file is gone is planned anew: the same
                    // beginning, so nothing before it and nothing after it changes.
                    Some(standing) if standing.first == plan.first => {}
                    Some(_) => return Err(Refusal::PlanStands),
                    None if plan.first <= lane.watermark => return Err(Refusal::PlanBehind),
                    None => {}
                }
                lane.plan = Some(plan);
                Ok(Outcome::Done)
            }
            Command::Uploaded {
                sink,
                lane,
                up_to,
                records,
            } => {
                let lane = self.lane(&sink, lane)?;
                if up_to > lane.watermark {
                    lane.watermark = up_to;
                    lane.records = lane.records.saturating_add(records);
                    if lane.plan.as_ref().is_some_and(|plan| plan.last <= up_to) {
                        lane.plan = None;
                    }
                }
                Ok(Outcome::Done)
            }
            Command::Derived { head, .. } => {
                if !self.take_derived(index, head.epoch) {
                    self.cuts.insert((index, slab), Cut::Whole);
                }
                Ok(Outcome::Done)
            }
        }
    }

    /// Notes a derived record; `false` when it was taken before.
    fn take_derived(&mut self, index: u64, epoch: Uuid) -> bool {
        if self.derived.contains_key(&epoch) {
            return false;
        }
        self.derived.insert(epoch, index);
        if self.derived.len() > DERIVED_KEPT {
            let oldest = self.derived.iter().min_by_key(|(_, index)| **index);
            if let Some(epoch) = oldest.map(|(epoch, _)| *epoch) {
                self.derived.remove(&epoch);
            }
        }
        true
    }

    fn open_session(
        &mut self,
        source: String,
        epoch: Uuid,
        launch: u32,
        started_realtime_ns: i64,
    ) -> Result<Outcome, Refusal> {
        let of = self.sources.entry(source).or_default();
        if let Some(session) = of.sessions.get(&epoch) {
            // The same ring again, as after the watchdog's restart.
            if session.end.is_some() {
                return Err(Refusal::SessionEnded);
            }
            return Ok(Outcome::Session {
                next_seq: session.next_seq,
                checkpoint: session.checkpoint,
            });
        }
        if launch <= of.totals.last_launch {
            return Err(Refusal::OldLaunch {
                launch,
                last: of.totals.last_launch,
            });
        }
        of.totals.last_launch = launch;
        of.totals.sessions += 1;
        let session = SessionState {
            launch,
            started_realtime_ns,
            next_seq: 1,
            checkpoint: None,
            end: None,
        };
        of.sessions.insert(epoch, session);
        Ok(Outcome::Session {
            next_seq: 1,
            checkpoint: None,
        })
    }

    /// Takes a slab's new part; tells what readers must not see of it.
    fn take(&mut self, head: &SlabHead) -> Result<(Outcome, Option<Cut>), Refusal> {
        let of = self
            .sources
            .get_mut(&head.source)
            .ok_or(Refusal::UnknownSession)?;
        let session = of
            .sessions
            .get_mut(&head.epoch)
            .ok_or(Refusal::UnknownSession)?;
        if session.end.is_some() {
            return Err(Refusal::SessionEnded);
        }
        let end = head
            .first_seq
            .checked_add(head.count)
            .ok_or(Refusal::BadCount)?;
        if head.count == 0 || head.first_seq == 0 {
            return Err(Refusal::BadCount);
        }
        let expected = session.next_seq;
        if head.first_seq > expected {
            return Err(Refusal::Hole {
                first_seq: head.first_seq,
                expected,
            });
        }
        let cut = if end <= expected {
            Some(Cut::Whole)
        } else {
            session.next_seq = end;
            session.checkpoint = Some(head.checkpoint);
            of.totals.committed += end - expected;
            (head.first_seq < expected).then_some(Cut::Before(expected))
        };
        let outcome = Outcome::Appended {
            next_seq: session.next_seq,
            checkpoint: session.checkpoint.unwrap_or_default(),
        };
        Ok((outcome, cut))
    }

    fn end_session(
        &mut self,
        source: &str,
        epoch: Uuid,
        end: SessionEnd,
    ) -> Result<Outcome, Refusal> {
        let of = self
            .sources
            .get_mut(source)
            .ok_or(Refusal::UnknownSession)?;
        let session = of.sessions.get_mut(&epoch).ok_or(Refusal::UnknownSession)?;
        // The first word holds; a retry changes nothing.
        session.end.get_or_insert(end);
        let outcome = Outcome::Session {
            next_seq: session.next_seq,
            checkpoint: session.checkpoint,
        };
        let mut ended: Vec<(u32, Uuid)> = of
            .sessions
            .iter()
            .filter(|(_, session)| session.end.is_some())
            .map(|(epoch, session)| (session.launch, *epoch))
            .collect();
        if ended.len() > ENDED_SESSIONS_MAX {
            ended.sort_unstable();
            for (_, epoch) in ended.drain(..ended.len() - ENDED_SESSIONS_MAX) {
                of.sessions.remove(&epoch);
            }
        }
        Ok(outcome)
    }

    /// New sinks begin where the slowest known one stands. A sink's lanes change only between plans, when all its
    /// lanes stand at the same position; until then the old number holds.
    fn set_sinks(&mut self, sinks: Vec<(String, u32)>) -> Outcome {
        let start = self
            .sinks
            .values()
            .flatten()
            .map(|lane| lane.watermark)
            .min()
            .unwrap_or_default();
        let mut old = std::mem::take(&mut self.sinks);
        for (name, lanes) in sinks {
            let wanted = lanes.clamp(1, LANES_MAX) as usize;
            let lanes = match old.remove(&name) {
                None => vec![
                    LaneState {
                        watermark: start,
                        ..LaneState::default()
                    };
                    wanted
                ],
                Some(mut lanes) => {
                    let at = lanes.first().map(|lane| lane.watermark).unwrap_or_default();
                    let quiet = lanes
                        .iter()
                        .all(|lane| lane.plan.is_none() && lane.watermark == at);
                    if quiet && lanes.len() != wanted {
                        let records = lanes.iter().map(|lane| lane.records).sum();
                        lanes.clear();
                        lanes.resize(
                            wanted,
                            LaneState {
                                watermark: at,
                                ..LaneState::default()
                            },
                        );
                        lanes[0].records = records;
                    }
                    lanes
                }
            };
            self.sinks.insert(name, lanes);
        }
        Outcome::Sinks(
            self.sinks
                .iter()
                .map(|(name, lanes)| (name.clone(), lanes.len() as u32))
                .collect(),
        )
    }

    fn lane(&mut self, sink: &str, lane: u32) -> Result<&mut LaneState, Refusal> {
        self.sinks
            .get_mut(sink)
            .and_then(|lanes| lanes.get_mut(lane as usize))
            .ok_or(Refusal::UnknownLane)
    }

    /// Everything in entries at or before this index is uploaded to every sink; `u64::MAX` without sinks.
    pub(crate) fn uploaded_index(&self) -> u64 {
        self.sinks
            .values()
            .flatten()
            .map(|lane| match lane.watermark {
                Position {
                    index,
                    item: u32::MAX,
                } => index,
                Position { index, .. } => index.saturating_sub(1),
            })
            .min()
            .unwrap_or(u64::MAX)
    }

    pub(crate) fn session(&self, source: &str, epoch: &Uuid) -> Option<&SessionState> {
        self.sources.get(source)?.sessions.get(epoch)
    }

    pub(crate) fn open_sessions(&self) -> impl Iterator<Item = (&str, Uuid, &SessionState)> {
        self.sources.iter().flat_map(|(source, of)| {
            of.sessions
                .iter()
                .filter(|(_, session)| session.end.is_none())
                .map(move |(epoch, session)| (source.as_str(), *epoch, session))
        })
    }

    pub(crate) fn totals(&self) -> BTreeMap<String, SourceTotals> {
        self.sources
            .iter()
            .map(|(source, of)| (source.clone(), of.totals))
            .collect()
    }

    pub(crate) fn lanes(&self, sink: &str) -> Option<&[LaneState]> {
        self.sinks.get(sink).map(Vec::as_slice)
    }

    pub(crate) fn cut(&self, index: u64, slab: u32) -> Option<Cut> {
        self.cuts.get(&(index, slab)).copied()
    }

    /// Drops what concerns entries at or before `index`, which are no longer in the log.
    pub(crate) fn forget_cuts(&mut self, index: u64) {
        self.cuts = self.cuts.split_off(&(index.saturating_add(1), 0));
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[derive(Clone, Debug)]
    enum Step {
        Open {
            epoch: u8,
            launch: u32,
        },
        Append {
            epoch: u8,
            first_seq: u64,
            count: u64,
        },
        End {
            epoch: u8,
        },
    }

    fn steps() -> impl Strategy<Value = Vec<Step>> {
        let step = prop_oneof![
            1 => (0..4_u8, 0..6_u32).prop_map(|(epoch, launch)| Step::Open { epoch, launch }),
            8 => (0..4_u8, 0..40_u64, 0..12_u64)
                .prop_map(|(epoch, first_seq, count)| Step::Append { epoch, first_seq, count }),
            1 => (0..4_u8).prop_map(|epoch| Step::End { epoch }),
        ];
        proptest::collection::vec(step, 1..200)
    }

    /// A session as a child would keep it: every number on a list.
    #[derive(Default)]
    struct Naive {
        open: bool,
        ended: bool,
        seen: Vec<u64>,
    }

    proptest! {
        /// Each number of a session is visible exactly once and in order, whatever is retried, lost or late.
        #[test]
        fn sessions_agree_with_a_naive_model(steps in steps()) {
            let mut state = State::default();
            let mut model: BTreeMap<u8, Naive> = BTreeMap::new();
            let mut visible: BTreeMap<u8, Vec<u64>> = BTreeMap::new();
            let mut last_launch = 0;
            for (index, step) in steps.into_iter().enumerate() {
                let index = index as u64 + 1;
                let uuid = |epoch: u8| Uuid::from_u128(u128::from(epoch) + 1);
                let source = || "s".to_owned();
                match step {
                    Step::Open { epoch, launch } => {
                        let command = Command::OpenSession {
                            source: source(), epoch: uuid(epoch), launch, started_realtime_ns: 0,
                        };
                        let outcome = state.apply(index, vec![command]).remove(0);
                        let naive = model.entry(epoch).or_default();
                        let fine = if naive.open { !naive.ended } else { launch > last_launch };
                        prop_assert_eq!(matches!(outcome, Outcome::Session { .. }), fine);
                        if fine && !naive.open {
                            naive.open = true;
                            last_launch = launch;
                        }
                    }
                    Step::Append { epoch, first_seq, count } => {
                        let head = SlabHead {
                            source: source(), epoch: uuid(epoch), incarnation: 1,
                            realtime_offset_ns: 0, first_seq, count,
                            checkpoint: RingCheckpoint { ring_position: first_seq + count, ..Default::default() },
                        };
                        let command = Command::Append { head, frames_bytes: 0 };
                        let outcome = state.apply(index, vec![command]).remove(0);
                        let naive = model.entry(epoch).or_default();
                        let next = naive.seen.len() as u64 + 1;
                        let fine = naive.open && !naive.ended && count > 0
                            && first_seq > 0 && first_seq <= next;
                        prop_assert_eq!(matches!(outcome, Outcome::Appended { .. }), fine);
                        if fine {
                            naive.seen.extend(next.max(first_seq)..first_seq + count);
                        }
                        let shown = match state.cut(index, 0) {
                            Some(Cut::Whole) => first_seq..first_seq,
                            Some(Cut::Before(seq)) => seq..first_seq + count,
                            None => first_seq..first_seq + count,
                        };
                        visible.entry(epoch).or_default().extend(shown);
                    }
                    Step::End { epoch } => {
                        let command = Command::EndSession {
                            source: source(), epoch: uuid(epoch), cause: String::new(), tail_unknown: false,
                        };
                        state.apply(index, vec![command]);
                        let naive = model.entry(epoch).or_default();
                        naive.ended |= naive.open;
                    }
                }
            }
            let mut committed = 0;
            for (epoch, naive) in &model {
                let shown = visible.get(epoch).cloned().unwrap_or_default();
                prop_assert_eq!(&shown, &naive.seen);
                prop_assert_eq!(shown, (1..=naive.seen.len() as u64).collect::<Vec<_>>());
                committed += naive.seen.len() as u64;
                if let Some(session) = state.session("s", &Uuid::from_u128(u128::from(*epoch) + 1)) {
                    prop_assert_eq!(session.next_seq, naive.seen.len() as u64 + 1);
                }
            }
            prop_assert_eq!(state.totals().get("s").map_or(0, |of| of.committed), committed);
            let bytes = super::super::snapshot::seal(&state).unwrap();
            prop_assert_eq!(super::super::snapshot::unseal(&bytes).unwrap(), state);
        }
    }

    #[test]
    fn plans_and_watermarks_move_forward_only() {
        let mut state = State::default();
        let at = |index, item| Position { index, item };
        let plan = |first, last| Plan {
            first,
            last,
            rules_version: 1,
            encoder_version: 1,
            extra: Vec::new(),
        };
        let mut index = 0;
        let mut apply = |command| {
            index += 1;
            state.apply(index, vec![command]).remove(0)
        };
        let sinks = |lanes| Command::SetSinks {
            sinks: vec![("a".into(), lanes)],
        };
        let uploaded = |lane, up_to| Command::Uploaded {
            sink: "a".into(),
            lane,
            up_to,
            records: 1,
        };
        let propose = |plan| Command::Plan {
            sink: "a".into(),
            lane: 0,
            plan,
        };
        assert_eq!(
            apply(uploaded(0, at(1, 0))),
            Outcome::Refused(Refusal::UnknownLane)
        );
        assert_eq!(apply(sinks(2)), Outcome::Sinks(vec![("a".into(), 2)]));
        let first = plan(at(5, 0), at(6, 3));
        assert_eq!(apply(propose(first.clone())), Outcome::Done);
        assert_eq!(apply(propose(first.clone())), Outcome::Done);
        let other = plan(at(5, 1), at(6, 3));
        assert_eq!(apply(propose(other)), Outcome::Refused(Refusal::PlanStands));
        // A batch that was too large is halved, and planned whole again.
        assert_eq!(apply(propose(plan(at(5, 0), at(5, 9)))), Outcome::Done);
        assert_eq!(apply(propose(first.clone())), Outcome::Done);
        // While a plan stands the lanes stay.
        assert_eq!(apply(sinks(4)), Outcome::Sinks(vec![("a".into(), 2)]));
        // Half of the batch, then all of it, then a late retry.
        assert_eq!(apply(uploaded(0, at(5, 9))), Outcome::Done);
        assert_eq!(apply(propose(first.clone())), Outcome::Done);
        assert_eq!(apply(uploaded(0, at(6, 3))), Outcome::Done);
        assert_eq!(apply(uploaded(0, at(5, 9))), Outcome::Done);
        assert_eq!(apply(propose(first)), Outcome::Refused(Refusal::PlanBehind));
        assert_eq!(
            apply(propose(plan(at(9, 1), at(9, 0)))),
            Outcome::Refused(Refusal::BadPlan)
        );
        assert_eq!(apply(uploaded(1, at(6, 3))), Outcome::Done);
        assert_eq!(apply(sinks(4)), Outcome::Sinks(vec![("a".into(), 4)]));
        // A new sink begins where the slowest stands.
        let both = vec![("b".into(), 1), ("a".into(), 4)];
        apply(Command::SetSinks { sinks: both });
        assert_eq!(state.lanes("b").unwrap()[0].watermark, at(6, 3));
        assert_eq!(state.uploaded_index(), 5);
    }
}
