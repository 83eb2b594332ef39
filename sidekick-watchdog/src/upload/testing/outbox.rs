//! What survives crashes on our side: the store, in memory.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Arc, Mutex};

use tokio::sync::watch;
use uuid::Uuid;

use super::{Fuse, GROUP, REQUEST, slab};
use crate::books::{Counts, Letter};
use crate::position::Position;
use crate::slab::SlabHead;
use crate::upload::outbox::{IndexedSlabs, LaneState, Outbox, OutboxError};
use crate::upload::plan::{Dead, Plan, Replay, Settled};

#[derive(Debug, Default)]
pub(in crate::upload) struct State {
    pub(in crate::upload) entries: Vec<IndexedSlabs>,
    pub(in crate::upload) lanes: BTreeMap<(String, u32), LaneState>,
    pub(in crate::upload) index: u64,
    pub(in crate::upload) next_seq: u64,
    /// Position, stream and sequence number of every record.
    pub(in crate::upload) records: Vec<(Position, String, u64)>,
    /// What became of the numbers of all sinks and lanes; exact, as the real books are.
    pub(in crate::upload) books: Counts,
    pub(in crate::upload) letters: Vec<FakeLetter>,
    pub(in crate::upload) letters_max: usize,
    /// Numbers of records that rules drop.
    pub(in crate::upload) left_out: BTreeSet<u64>,
    pub(in crate::upload) last_letter: u64,
    pub(in crate::upload) commits: u64,
    pub(in crate::upload) watermark_commits: u64,
    pub(in crate::upload) complaints: Vec<String>,
}

/// What the store says of a second plan.
const PLAN_STANDS: &str = "another plan of this lane is not finished";

/// A dead letter.
#[derive(Clone, Debug)]
pub(in crate::upload) struct FakeLetter {
    pub(in crate::upload) id: u64,
    pub(in crate::upload) lane: u32,
    pub(in crate::upload) marked: bool,
    pub(in crate::upload) replays: u32,
    pub(in crate::upload) plan: Option<Plan>,
    pub(in crate::upload) letter: Letter,
}

impl State {
    /// Moves a watermark as the real state does; `false` where it stays.
    fn settle(&mut self, sink: &str, lane: u32, up_to: Position, counts: &Counts) -> bool {
        let lane = self.lanes.get_mut(&(sink.to_owned(), lane)).unwrap();
        if up_to <= lane.watermark {
            return false;
        }
        lane.watermark = up_to;
        lane.plan.take_if(|plan| plan.last <= up_to);
        self.books.add(counts);
        true
    }

    /// The letter of this lane whose replay is under way.
    fn open_replay(&self, lane: u32) -> Option<u64> {
        let mut letters = self.letters.iter();
        let open = letters.find(|kept| kept.lane == lane && kept.plan.is_some());
        open.map(|kept| kept.id)
    }

    /// As the real state: `false` where the letter is gone or its replay with this number is over.
    fn plan_replay(
        &mut self,
        id: u64,
        number: u32,
        plan: Plan,
        refused: Option<Position>,
    ) -> Result<bool, OutboxError> {
        if !self.letters.iter().any(|kept| kept.id == id) {
            return Ok(false);
        }
        let standing = self.lanes[&(plan.sink.clone(), plan.lane)].plan.as_ref();
        let is_refused = |plan: &Plan| plan.first == plan.last && Some(plan.first) == refused;
        if standing.is_some_and(|standing| !is_refused(standing)) {
            return self.refuse(PLAN_STANDS, &plan);
        }
        if self.open_replay(plan.lane).is_some_and(|open| open != id) {
            return self.refuse("a dead letter of this lane is being replayed", &plan);
        }
        let kept = self.letters.iter_mut().find(|kept| kept.id == id);
        let kept = kept.filter(|kept| {
            let current = kept.replays + u32::from(kept.plan.is_none());
            kept.marked && number == current
        });
        let is_there = kept.is_some();
        if let Some(kept) = kept {
            (kept.replays, kept.plan) = (number, Some(plan));
        }
        Ok(is_there)
    }

    /// A lane that asks for what the store refuses asks for ever.
    fn refuse<T>(&mut self, reason: &str, plan: &Plan) -> Result<T, OutboxError> {
        self.complaints.push(format!("{reason}: {plan:?}"));
        Err(OutboxError::Failed(reason.to_owned()))
    }

    /// Numbers of records that are dead letters.
    pub(in crate::upload) fn dead(&self) -> u64 {
        self.letters.iter().map(|kept| kept.letter.numbers).sum()
    }
}

/// The store. Its commands move the log on, and fail as asked.
#[derive(Debug)]
pub(in crate::upload) struct FakeOutbox {
    pub(in crate::upload) state: Mutex<State>,
    pub(in crate::upload) applied: watch::Sender<u64>,
    pub(in crate::upload) fuse: Arc<Fuse>,
    /// The broken variant: says that a plan is committed, and keeps nothing.
    pub(in crate::upload) forgets_plans: bool,
    /// The broken variant: counts also where the watermark stays.
    pub(in crate::upload) counts_twice: bool,
    /// The broken variant: refuses each replay beside a plan.
    pub(in crate::upload) refuses_beside: bool,
    /// Fails one of so many calls.
    pub(in crate::upload) fails_every: Option<u64>,
    pub(in crate::upload) random: Mutex<fastrand::Rng>,
}

impl FakeOutbox {
    pub(in crate::upload) fn new(fuse: Arc<Fuse>, sinks: &[(&str, u32)]) -> Self {
        let mut state = State {
            next_seq: 1,
            letters_max: usize::MAX,
            ..State::default()
        };
        for (sink, lanes) in sinks {
            for lane in 0..*lanes {
                state
                    .lanes
                    .insert(((*sink).to_owned(), lane), LaneState::default());
            }
        }
        Self {
            state: Mutex::new(state),
            applied: watch::Sender::new(0),
            fuse,
            forgets_plans: false,
            counts_twice: false,
            refuses_beside: false,
            fails_every: None,
            random: Mutex::new(fastrand::Rng::with_seed(7)),
        }
    }

    /// Appends an entry with a slab for each list of streams.
    pub(in crate::upload) fn append(&self, slabs: &[&[&str]]) {
        let mut state = self.state.lock().unwrap();
        state.index += 1;
        let index = state.index;
        let mut entry = IndexedSlabs {
            index,
            slabs: Vec::new(),
            loss: None,
        };
        let mut item = 0;
        for streams in slabs {
            let first_seq = state.next_seq;
            entry.slabs.push(slab(first_seq, streams));
            for stream in *streams {
                let seq = state.next_seq;
                state.next_seq += 1;
                if *stream == REQUEST {
                    continue;
                }
                state
                    .records
                    .push((Position { index, item }, (*stream).to_owned(), seq));
                item += 1;
            }
        }
        state.entries.push(entry);
        self.applied.send_replace(index);
    }

    /// The last entry.
    pub(in crate::upload) fn index(&self) -> u64 {
        self.state.lock().unwrap().index
    }

    async fn call(&self) -> Result<(), OutboxError> {
        self.fuse.point().await;
        match self.fails_every {
            Some(every) if self.random.lock().unwrap().u64(0..every) == 0 => {
                Err(OutboxError::Failed("the disk is full".into()))
            }
            _ => Ok(()),
        }
    }

    /// After a command: it took effect, but whether whoever asked hears of that is another matter.
    async fn answered(&self) -> Result<(), OutboxError> {
        self.call().await
    }

    /// A command moves the log on by an entry, as in the real store.
    fn committed(&self, state: &mut State) {
        state.commits += 1;
        state.index += 1;
        self.applied.send_replace(state.index);
    }

    /// Refuses what the store refuses.
    fn put_plan(&self, state: &mut State, plan: Plan) -> Result<(), OutboxError> {
        if self.forgets_plans {
            return Ok(());
        }
        let is_replaying = state.open_replay(plan.lane).is_some();
        let lane = state
            .lanes
            .get_mut(&(plan.sink.clone(), plan.lane))
            .unwrap();
        let refused = match &lane.plan {
            _ if plan.last < plan.first => Some("the plan is not one"),
            None if is_replaying => Some("a dead letter of this lane is being replayed"),
            None if plan.first <= lane.watermark => Some("the plan begins behind the watermark"),
            Some(standing) if standing.first != plan.first => Some(PLAN_STANDS),
            _ => None,
        };
        match refused {
            None => lane.plan = Some(plan),
            Some(reason) => return state.refuse(reason, &plan),
        }
        Ok(())
    }
}

impl Outbox for FakeOutbox {
    fn group(&self) -> Uuid {
        GROUP
    }

    async fn lanes(&self, sink: &str) -> Result<Vec<LaneState>, OutboxError> {
        let state = self.state.lock().unwrap();
        let of_sink = state.lanes.iter().filter(|((name, _), _)| name == sink);
        Ok(of_sink.map(|(_, lane)| lane.clone()).collect())
    }

    async fn read(
        &self,
        after_index: u64,
        _bytes_max: usize,
    ) -> Result<Vec<IndexedSlabs>, OutboxError> {
        self.call().await?;
        let found = {
            let state = self.state.lock().unwrap();
            let after = state
                .entries
                .iter()
                .filter(|entry| entry.index > after_index);
            after.take(2).cloned().collect()
        };
        Ok(found)
    }

    fn game_version(&self, _: &SlabHead) -> Arc<str> {
        "".into()
    }

    fn is_lost(&self, index: u64) -> bool {
        let state = self.state.lock().unwrap();
        let mut entries = state.entries.iter();
        entries.any(|entry| entry.index == index && entry.loss.is_some())
    }

    fn has_lost(&self) -> bool {
        let state = self.state.lock().unwrap();
        state.entries.iter().any(|entry| entry.loss.is_some())
    }

    fn applied(&self) -> watch::Receiver<u64> {
        self.applied.subscribe()
    }

    async fn commit_plan(&self, plan: Plan) -> Result<(), OutboxError> {
        self.call().await?;
        {
            let mut state = self.state.lock().unwrap();
            let planned = self.put_plan(&mut state, plan);
            self.committed(&mut state);
            planned?;
        }
        self.answered().await
    }

    async fn commit_settled(
        &self,
        settled: Settled,
        next: Option<Plan>,
    ) -> Result<(), OutboxError> {
        self.call().await?;
        {
            let mut state = self.state.lock().unwrap();
            let Settled {
                sink,
                lane,
                up_to,
                counts,
            } = settled;
            state.watermark_commits += u64::from(counts.rows == 0);
            if !state.settle(&sink, lane, up_to, &counts) && self.counts_twice {
                state.books.add(&counts);
            }
            let planned = next.map(|next| self.put_plan(&mut state, next));
            self.committed(&mut state);
            planned.transpose()?;
        }
        self.answered().await
    }

    async fn commit_dead(&self, dead: Dead) -> Result<(), OutboxError> {
        self.call().await?;
        {
            let mut state = self.state.lock().unwrap();
            let position = dead.letter.position;
            if state.letters.len() >= state.letters_max {
                return Err(OutboxError::LettersFull("dead letters are full".into()));
            }
            if state.settle(&dead.sink, dead.lane, position, &dead.counts) {
                state.last_letter += 1;
                let kept = FakeLetter {
                    id: state.last_letter,
                    lane: dead.lane,
                    marked: false,
                    replays: 0,
                    plan: None,
                    letter: dead.letter,
                };
                state.letters.push(kept);
            }
            self.committed(&mut state);
        }
        self.answered().await
    }

    fn next_replay(&self, _sink: &str, lane: u32) -> Option<Replay> {
        let state = self.state.lock().unwrap();
        let of_lane = |kept: &&FakeLetter| kept.marked && kept.lane == lane;
        let under_way = state
            .letters
            .iter()
            .filter(of_lane)
            .find(|kept| kept.plan.is_some());
        let kept = under_way.or_else(|| state.letters.iter().find(of_lane))?;
        Some(Replay {
            id: kept.id,
            lane: kept.lane,
            number: kept.replays + u32::from(kept.plan.is_none()),
            plan: kept.plan.clone(),
            letter: kept.letter.clone(),
        })
    }

    async fn commit_replay_plan(
        &self,
        id: u64,
        number: u32,
        plan: Plan,
        refused: Option<Position>,
    ) -> Result<bool, OutboxError> {
        self.call().await?;
        let is_there = {
            let mut state = self.state.lock().unwrap();
            self.committed(&mut state);
            let refused = refused.filter(|_| !self.refuses_beside);
            state.plan_replay(id, number, plan, refused)?
        };
        self.answered().await.map(|()| is_there)
    }

    async fn commit_replayed(
        &self,
        id: u64,
        number: u32,
        refused: Option<(String, String)>,
    ) -> Result<(), OutboxError> {
        self.call().await?;
        {
            let mut state = self.state.lock().unwrap();
            let place = state.letters.iter().position(|kept| kept.id == id);
            match (place, refused) {
                (None, _) => {}
                (Some(place), None) => {
                    let kept = state.letters.remove(place);
                    assert_eq!(kept.replays, number);
                    state.books.rows += 1;
                    state.books.records += kept.letter.numbers;
                }
                (Some(place), Some((code, reason))) => {
                    let kept = &mut state.letters[place];
                    (kept.marked, kept.plan, kept.replays) = (false, None, number);
                    (kept.letter.code, kept.letter.reason) = (code, reason);
                }
            }
            self.committed(&mut state);
        }
        self.answered().await
    }
}
