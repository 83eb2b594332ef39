//! What the uploader needs of the store, in the uploader's own words. The app adapts the store to it.

use std::future::Future;
use std::sync::Arc;

use tokio::sync::watch;
use uuid::Uuid;

use super::plan::{Dead, Plan, Replay, Settled};
use crate::position::{Loss, Position};
use crate::slab::{Slab, SlabHead};

/// Why the outbox did not do what it was asked.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum OutboxError {
    /// The store is shutting down. The lane ends.
    #[error("the store is closed")]
    Closed,
    /// Another node leads the group now and uploads from here on. The lane ends.
    #[error("this node does not lead its group")]
    NotLeader,
    /// Reading or committing failed and may work later (a full disk, a slow quorum). The lane tries again; what it asks
    /// for is safe to repeat, also if the first attempt took effect after all.
    #[error("{0}")]
    Failed(String),
    /// No more dead letters are kept; somebody has to replay or drop some.
    #[error("{0}")]
    LettersFull(String),
}

/// What the state holds of one lane of one sink.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct LaneState {
    /// Every record of this lane at or before this position is uploaded. The default position means: nothing is.
    /// `item == u32::MAX` stands for a whole entry.
    pub watermark: Position,
    /// The batch that was planned and is not known to be taken.
    pub plan: Option<Plan>,
}

/// The slabs of one log entry, in their order. An entry is always handed out whole.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct IndexedSlabs {
    /// Index of the entry.
    pub index: u64,
    /// The slabs that apply accepted from it: without what was a repetition, and the same on every reading, on every
    /// node and after every restart, for positions are counted over them.
    pub slabs: Vec<Slab>,
    /// What the entry held is damaged on the disk: its slabs tell of what is missing, and batches that were planned over it
    /// cannot be made again as they were. Items are counted from [`LOST_ITEM`](crate::position::LOST_ITEM).
    pub loss: Option<Loss>,
}

/// The store as the uploader sees it. All methods may be called at the same time by several lanes.
///
/// Dropping one of the futures leaves it open whether its command took effect; every command is safe to repeat.
pub trait Outbox: Send + Sync + 'static {
    /// The group's UUID, part of every key.
    fn group(&self) -> Uuid;

    /// The lanes of `sink`, at least one, in their order. Their number is part of the state, because it says which
    /// stream belongs to which lane.
    fn lanes(&self, sink: &str)
    -> impl Future<Output = Result<Vec<LaneState>, OutboxError>> + Send;

    /// Entries after `after_index` that hold accepted slabs: at least one if there is one that is applied, and no more
    /// than about `bytes_max` of them. Only what is committed, applied and folded.
    ///
    /// Empty means: no entry after `after_index` and up to what [`Outbox::applied`] said before the call holds slabs.
    fn read(
        &self,
        after_index: u64,
        bytes_max: usize,
    ) -> impl Future<Output = Result<Vec<IndexedSlabs>, OutboxError>> + Send;

    /// The version of the game that recorded what slabs with this head hold; empty where it told none. For a slab that was
    /// read always the same.
    fn game_version(&self, head: &SlabHead) -> Arc<str>;

    /// Whether the entry at `index` is known to be damaged on the disk. What was read of it before that was known and is not
    /// begun with is to be read again.
    fn is_lost(&self, index: u64) -> bool;

    /// Whether any entry is.
    fn has_lost(&self) -> bool;

    /// The index of the last entry that may be read, moving forward. Its end (the sender is gone) ends the lanes.
    fn applied(&self) -> watch::Receiver<u64>;

    /// Commits `plan` as the open plan of its lane; it takes the place of one that is open and begins with the same record.
    /// Fails beside another one, and as the first one beside a replay.
    fn commit_plan(&self, plan: Plan) -> impl Future<Output = Result<(), OutboxError>> + Send;

    /// In one proposal: moves the lane's watermark forward to `settled.up_to` (never back), writes `settled.counts` into
    /// the sink's books if it moved, closes the lane's open plan if that one ends at or before it, and opens `next`.
    fn commit_settled(
        &self,
        settled: Settled,
        next: Option<Plan>,
    ) -> impl Future<Output = Result<(), OutboxError>> + Send;

    /// Keeps a dead letter, and moves its lane's watermark to it as [`Outbox::commit_settled`] does; nothing happens where
    /// the watermark has passed it.
    fn commit_dead(&self, dead: Dead) -> impl Future<Output = Result<(), OutboxError>> + Send;

    /// The dead letter that this lane shall send next: one whose replay is under way, else the oldest that is marked.
    fn next_replay(&self, sink: &str, lane: u32) -> Option<Replay>;

    /// Commits `plan` for the replay `number` of the letter `id`; it takes the place of one that is open for it. `false`
    /// when the letter is gone, or marked no more: nothing is to be sent. `refused`: the lane's open plan is this one record,
    /// which the backend refused and for which there is no room; beside any other open plan this fails.
    fn commit_replay_plan(
        &self,
        id: u64,
        number: u32,
        plan: Plan,
        refused: Option<Position>,
    ) -> impl Future<Output = Result<bool, OutboxError>> + Send;

    /// Ends the replay `number` of the letter `id`. `refused`, code and reason, keeps the letter, unmarked; without it
    /// the backend has it, and it is a letter no more. Nothing happens where that replay is not under way.
    fn commit_replayed(
        &self,
        id: u64,
        number: u32,
        refused: Option<(String, String)>,
    ) -> impl Future<Output = Result<(), OutboxError>> + Send;
}
