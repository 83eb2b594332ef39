//! What the group knows: sessions, lanes, totals. Pure: a state and an entry give a state and outcomes.
//!
//! Records are not in it; they live once, in the log.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};
use sidekick_ipc::tree::{Restored, StoreOp, StoreResult};
use uuid::Uuid;

mod books;
mod checkpoints;
mod folding;
mod games;
mod letters;
mod requests;
mod rules;
mod sinks;
#[cfg(test)]
mod tests;

pub(crate) use folding::{Marks, Step};
pub use letters::{KeptLetter, LETTERS_BYTES_MAX, LETTERS_MAX};
pub(crate) use sinks::SinkChange;
pub use sinks::{LANES_MAX, LaneState, Remains};

use checkpoints::Checkpoints;
use folding::Folding;
use games::Versions;
use letters::Letters;
use requests::{Clients, Requests};
use rules::Rules;
use sinks::{Retired, Succession};

use super::command::{Command, Outcome, PLAN_EXTRA_BYTES_MAX, Refusal};
use super::raft::{LogId, StoredMembership};
use super::tree::{Actor, Moment, Tree};
use crate::books::{Counts, SinkBooks};
use crate::slab::{RingCheckpoint, SlabHead};

/// Ended sessions of earlier launches that are remembered for each source; older ones live on in the totals only.
const ENDED_SESSIONS_MAX: usize = 8;
/// Sessions of one launch, one after the other: processes that one engine command starts in turn. All of those of the
/// last launch are remembered, so that none of them opens a second time.
const LAUNCH_SESSIONS_MAX: usize = 256;
/// Derived records that are remembered. Their makers try again at the next start, long before so many others came.
const DERIVED_KEPT: usize = 1024;

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
    /// Log time of the last command that had one, in nanoseconds.
    time_ns: u64,
    /// What sessions have asked and not heard, by epoch.
    requests: BTreeMap<Uuid, Requests>,
    clients: Clients,
    checkpoints: Checkpoints,
    /// Derived records taken, all of them.
    derived_records: u64,
    tree: Tree,
    /// What became of each sequence number, sink by sink.
    books: BTreeMap<String, SinkBooks>,
    /// The last entry that brought something to upload.
    last_slab: u64,
    letters: Letters,
    rules: Rules,
    folding: Folding,
    /// Which version of the game recorded what, by source.
    games: BTreeMap<String, Versions>,
    /// What retired sinks had not taken and no other one took over, in sequence numbers; `None` where nobody knows how many.
    left_behind: BTreeMap<String, Option<u64>>,
}

impl State {
    /// As [`State::apply_batch`], of commands without frames.
    #[cfg(test)]
    pub(crate) fn apply(&mut self, index: u64, commands: Vec<Command>) -> Vec<Outcome> {
        self.apply_batch(index, commands, &[])
    }

    /// Applies the commands of the entry at `index`; `frames` are those of its slabs, one after the other (only needed
    /// where ops ride in them). Never fails: what cannot be done is refused.
    pub(crate) fn apply_batch(
        &mut self,
        index: u64,
        commands: Vec<Command>,
        mut frames: &[u8],
    ) -> Vec<Outcome> {
        let mut slab = 0;
        commands
            .into_iter()
            .map(|command| {
                let number = slab;
                let mut own: &[u8] = &[];
                if let Some(bytes) = command.frames_bytes() {
                    slab += 1;
                    (own, frames) = frames.split_at_checked(bytes as usize).unwrap_or_default();
                }
                self.apply_one(index, number, command, own)
                    .unwrap_or_else(Outcome::Refused)
            })
            .collect()
    }

    fn apply_one(
        &mut self,
        index: u64,
        slab: u32,
        command: Command,
        frames: &[u8],
    ) -> Result<Outcome, Refusal> {
        match command {
            Command::Init { group } => Ok(Outcome::Group(*self.group.get_or_insert(group))),
            Command::OpenSession {
                source,
                epoch,
                launch,
                started_realtime_ns,
            } => self.open_session(source, epoch, launch, started_realtime_ns, None),
            Command::OpenGame {
                source,
                epoch,
                launch,
                started_realtime_ns,
                game_version,
            } => self.open_session(
                source,
                epoch,
                launch,
                started_realtime_ns,
                Some(&game_version),
            ),
            Command::Append { head, .. } => self.append((index, slab), &head),
            Command::AppendOps {
                head, ops, time_ns, ..
            } => {
                self.advance(time_ns);
                self.append_ops((index, slab), &head, &ops, frames)
            }
            Command::Tick { time_ns } => {
                self.advance(time_ns);
                Ok(Outcome::Done)
            }
            Command::Execute {
                client,
                number,
                op,
                time_ns,
            } => {
                self.advance(time_ns);
                Ok(Outcome::Executed(self.execute(index, client, number, &op)))
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
            Command::SetSinks { sinks } => {
                self.set_sinks(index, sinks, 0, Succession::OfAll);
                Ok(Outcome::Sinks(self.lane_counts()))
            }
            Command::NameSinks { sinks, purged } => {
                let changes = self.set_sinks(index, sinks, purged, Succession::OfAll);
                let lanes = self.lane_counts();
                Ok(Outcome::SinksNamed { lanes, changes })
            }
            Command::PlaceSinks { sinks, purged } => {
                let changes = self.set_sinks(index, sinks, purged, Succession::OfAny);
                let lanes = self.lane_counts();
                Ok(Outcome::SinksNamed { lanes, changes })
            }
            Command::Plan { sink, lane, plan } => {
                let is_replaying = self.open_replay(&sink, lane).is_some();
                let lane = self.lane(&sink, lane)?;
                if plan.last < plan.first || plan.extra.len() > PLAN_EXTRA_BYTES_MAX {
                    return Err(Refusal::BadPlan);
                }
                match &lane.plan {
                    None if is_replaying => return Err(Refusal::ReplayStands),
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
                let counts = Counts {
                    rows: records,
                    ..Counts::default()
                };
                self.uncounted(&sink);
                self.settle(&sink, lane, up_to, &counts)
            }
            Command::Settle {
                sink,
                lane,
                up_to,
                counts,
            } => self.settle(&sink, lane, up_to, &counts),
            Command::DeadLetter {
                sink,
                lane,
                counts,
                letter,
                time_ns,
            } => {
                self.advance(time_ns);
                self.dead_letter(&sink, lane, &counts, letter)
            }
            Command::Letters { change, time_ns } => {
                self.advance(time_ns);
                self.change_letters(change)
            }
            Command::SetRules { text } => Ok(self.set_rules(text)),
            Command::SetFolding { is_on } => Ok(self.set_folding(index, is_on)),
            Command::Fold { step, rows } => {
                let rows = rows.map(|(head, _)| ((index, slab), head.count));
                self.fold(step, rows)
            }
            Command::Derived { head, .. } => {
                match self.take_derived(index, head.epoch) {
                    true => {
                        self.brought(index);
                        self.awaits_folding(index, head.count);
                    }
                    false => drop(self.cuts.insert((index, slab), Cut::Whole)),
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
        self.derived_records = self.derived_records.saturating_add(1);
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
        game_version: Option<&str>,
    ) -> Result<Outcome, Refusal> {
        let of = self.sources.entry(source.clone()).or_default();
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
        let same = of
            .sessions
            .values()
            .filter(|session| session.launch == launch);
        let (count, is_busy) = same.fold((0, false), |(count, is_busy), session| {
            (count + 1, is_busy || session.end.is_none())
        });
        let last = of.totals.last_launch;
        if launch < last || (launch == last && count == 0) {
            return Err(Refusal::OldLaunch { launch, last });
        }
        if is_busy {
            return Err(Refusal::LaunchBusy { launch });
        }
        if count >= LAUNCH_SESSIONS_MAX {
            let max = LAUNCH_SESSIONS_MAX;
            return Err(Refusal::LaunchSessions { launch, max });
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
        if let Some(version) = game_version {
            self.note_game(&source, (launch, epoch), count == 0, version);
        }
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
        // Nobody is left who could take the answers.
        self.requests.remove(&epoch);
        let outcome = Outcome::Session {
            next_seq: session.next_seq,
            checkpoint: session.checkpoint,
        };
        let mut ended: Vec<(u32, Uuid)> = of
            .sessions
            .iter()
            .filter(|(_, session)| session.end.is_some())
            .filter(|(_, session)| session.launch < of.totals.last_launch)
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

    /// Log time goes on to `time_ns`, never back.
    fn advance(&mut self, time_ns: u64) {
        self.time_ns = self.time_ns.max(time_ns);
        self.tree.expire(self.time_ns);
    }

    /// Log time of the last command that had one.
    pub(crate) fn time_ns(&self) -> u64 {
        self.time_ns
    }

    pub(crate) fn tree(&self) -> &Tree {
        &self.tree
    }

    fn apply_to_tree(&mut self, writer: Actor<'_>, op: StoreOp) -> StoreResult {
        let sources = &self.sources;
        let session = |source: &str, epoch: &Uuid| sources.get(source)?.sessions.get(epoch);
        let moment = Moment {
            time_ns: self.time_ns,
            // What is forgotten ended long ago.
            is_ended: &|source, epoch| {
                session(source, epoch).is_none_or(|session| session.end.is_some())
            },
        };
        self.tree.apply(writer, &moment, op)
    }

    /// What `source` may go on with; `now_ms` is the wall clock in milliseconds since the Unix epoch.
    pub(crate) fn restore(&self, source: &str, key: &str, safe: bool, now_ms: i64) -> Restored {
        self.checkpoints.restore(source, key, safe, now_ms)
    }

    /// How many keys of `source` have checkpoints, and the bytes of the newest of each.
    pub(crate) fn kept_checkpoints(&self, source: &str) -> (u64, u64) {
        self.checkpoints.kept(source)
    }

    /// Whether a session of an earlier launch of `source` has not ended.
    pub(crate) fn is_earlier_session_open(&self, source: &str, launch: u32) -> bool {
        let sessions = self.sources.get(source).map(|of| of.sessions.values());
        let mut sessions = sessions.into_iter().flatten();
        sessions.any(|session| session.launch < launch && session.end.is_none())
    }

    pub(crate) fn session(&self, source: &str, epoch: &Uuid) -> Option<&SessionState> {
        self.sources.get(source)?.sessions.get(epoch)
    }

    /// All sessions that are remembered: source, epoch, state.
    pub(crate) fn sessions(&self) -> impl Iterator<Item = (&str, Uuid, &SessionState)> {
        self.sources.iter().flat_map(|(source, of)| {
            let sessions = of.sessions.iter();
            sessions.map(move |(epoch, session)| (source.as_str(), *epoch, session))
        })
    }

    pub(crate) fn open_sessions(&self) -> impl Iterator<Item = (&str, Uuid, &SessionState)> {
        let is_open = |(_, _, session): &(&str, Uuid, &SessionState)| session.end.is_none();
        self.sessions().filter(is_open)
    }

    pub(crate) fn totals(&self) -> BTreeMap<String, SourceTotals> {
        self.sources
            .iter()
            .map(|(source, of)| (source.clone(), of.totals))
            .collect()
    }

    /// Derived records taken: they are uploaded like others and belong to no engine's session.
    pub(crate) fn derived_records(&self) -> u64 {
        self.derived_records
    }

    /// The epochs of those that the entry at `index` brought, as far as they are remembered.
    pub(crate) fn derived_at(&self, index: u64) -> impl Iterator<Item = Uuid> {
        let derived = self.derived.iter().filter(move |(_, at)| **at == index);
        derived.map(|(epoch, _)| *epoch)
    }

    /// The epochs of those that are remembered.
    pub(crate) fn derived_epochs(&self) -> impl Iterator<Item = Uuid> {
        self.derived.keys().copied()
    }

    /// For a state of a version that did not count them: those that are remembered.
    pub(crate) fn count_derived(&mut self) {
        self.derived_records = self.derived.len() as u64;
    }

    pub(crate) fn cut(&self, index: u64, slab: u32) -> Option<Cut> {
        self.cuts.get(&(index, slab)).copied()
    }

    /// Drops what concerns entries at or before `index`, which are no longer in the log.
    pub(crate) fn forget_cuts(&mut self, index: u64) {
        self.cuts = self.cuts.split_off(&(index.saturating_add(1), 0));
        self.forget_marks(index);
    }
}
