//! Joins the store to rules that look at more than one record: reads what is committed, in its order, and commits what
//! comes of it as a step (CORRECTNESS rule 19). Nothing is uploaded before it came by here.
//!
//! What a step was not taken with does not count: after a failure everything is read anew from the store, and folded
//! again from where the last step ended.

use std::sync::Arc;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use sidekick_ipc::frame::{FrameKind, Record, frames, hole_cause};
use tokio::sync::watch;
use tracing::warn;

use crate::process::{Fold, FoldRules, Folded, OpenWindows, Origin, ROWS_MAX, Row};
use crate::slab::Slab;
use crate::store::{FoldMarks, FoldRow, FoldStep, Refusal, Store, StoreError};
use crate::upload::Drive;

/// About how much of the log one step takes.
const READ_BYTES: usize = 1 << 20;
/// Steps are so far apart when there is no backlog: each costs a commit, and records gain by company.
const STEP_EVERY: Duration = Duration::from_millis(50);
/// The pause after a step that was not taken.
const RETRY: Duration = Duration::from_secs(1);

/// What a step has left.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Left {
    /// More is there already.
    More,
    /// It was the last one for now.
    Wait,
    /// There was nothing to do.
    Nothing,
}

/// Drives folding until the store closes or the plane does. `open` is told of the windows that are open.
pub(super) async fn run(
    store: Arc<Store>,
    source: String,
    rules: watch::Receiver<Arc<FoldRules>>,
    open: watch::Sender<OpenWindows>,
    mut drive: watch::Receiver<Drive>,
) {
    let driver = Driver {
        applied: store.applied(),
        drive: drive.clone(),
        store,
        source,
        rules,
        open,
    };
    tokio::select! {
        biased;
        // An error means that the sender is gone.
        _ = drive.wait_for(|drive| *drive == Drive::Stop) => {}
        () = driver.run() => {}
    }
}

struct Driver {
    store: Arc<Store>,
    source: String,
    rules: watch::Receiver<Arc<FoldRules>>,
    open: watch::Sender<OpenWindows>,
    applied: watch::Receiver<u64>,
    drive: watch::Receiver<Drive>,
}

impl Driver {
    async fn run(mut self) {
        loop {
            match self.fold().await {
                Ok(()) | Err(StoreError::Stopped { .. }) => return,
                // Somebody was faster: an earlier driver's step that was on its way, or another node.
                Err(StoreError::Refused(Refusal::NotNext)) => {}
                Err(error) => {
                    warn!(%error, "records wait to be folded; trying again");
                    tokio::time::sleep(RETRY).await;
                }
            }
        }
    }

    /// Begins with what the store has. Returns when nothing is going to come any more.
    async fn fold(&mut self) -> Result<(), StoreError> {
        let rules = self.rules.borrow_and_update().clone();
        let (mut next, cells) = self.store.cells();
        let mut fold = Fold::new(rules, &cells);
        drop(cells);
        loop {
            self.open.send_replace(fold.open());
            if self.rules.has_changed().unwrap_or(false) {
                fold.set_rules(self.rules.borrow_and_update().clone());
            }
            let is_wanted = !self.rules.borrow().is_empty();
            if is_wanted && !self.store.is_folding() {
                self.store.set_folding(true).await?;
            }
            if !self.store.is_folding() {
                if self.rules.changed().await.is_err() {
                    return Ok(());
                }
                self.rules.mark_changed();
                continue;
            }
            self.applied.mark_unchanged();
            let left = self.step(&mut fold, &mut next).await?;
            let is_over = match left {
                Left::More => false,
                Left::Wait => {
                    self.pause().await;
                    false
                }
                Left::Nothing if !is_wanted && self.store.cells().1.is_empty() => {
                    self.store.set_folding(false).await?;
                    false
                }
                Left::Nothing => self.news(fold.due_ns()).await,
            };
            if is_over {
                return Ok(());
            }
        }
    }

    async fn step(&self, fold: &mut Fold, next: &mut u64) -> Result<Left, StoreError> {
        let unfolded = self.store.unfolded(READ_BYTES).await?;
        if unfolded.step != *next {
            return Err(StoreError::Refused(Refusal::NotNext));
        }
        let mut marks = Vec::new();
        for entry in &unfolded.entries {
            for (item, slab) in &entry.slabs {
                let head = &slab.head;
                let game_version =
                    (self.store).game_version(&head.source, head.incarnation, head.epoch);
                let marked = fold_slab(fold, slab, &game_version);
                if !marked.is_empty() {
                    marks.push(FoldMarks {
                        index: entry.index,
                        item: *item,
                        first_seq: slab.head.first_seq,
                        records: marked,
                    });
                }
                tokio::task::yield_now().await;
            }
        }
        // While more is there, records tell the time.
        let rows = fold.close(unfolded.is_all.then(now_ns));
        let step = FoldStep {
            step: unfolded.step,
            to: unfolded.to,
            cells: fold.take_changes(),
            marks,
            rows: rows.into_iter().map(row).collect(),
        };
        let is_more = !unfolded.is_all || step.rows.len() == ROWS_MAX;
        if !unfolded.holds_up && step.cells.is_empty() && step.rows.is_empty() {
            return Ok(Left::Nothing);
        }
        self.store.fold(&self.source, step).await?;
        *next += 1;
        Ok(match is_more {
            true => Left::More,
            false => Left::Wait,
        })
    }

    /// Lets records gather, unless the end is near.
    async fn pause(&mut self) {
        tokio::select! {
            () = tokio::time::sleep(STEP_EVERY) => {}
            _ = self.drive.wait_for(|drive| *drive != Drive::Run) => {}
        }
    }

    /// Waits for records, rules, or a window's end. True when there will be none.
    async fn news(&mut self, due_ns: Option<u64>) -> bool {
        let wait = due_ns.map(|due_ns| Duration::from_nanos(due_ns.saturating_sub(now_ns())));
        let is_due = async {
            match wait {
                Some(wait) => tokio::time::sleep(wait).await,
                None => std::future::pending().await,
            }
        };
        tokio::select! {
            changed = self.applied.changed() => changed.is_err(),
            changed = self.rules.changed() => {
                self.rules.mark_changed();
                changed.is_err()
            }
            () = is_due => false,
        }
    }
}

/// Nanoseconds since 1970.
fn now_ns() -> u64 {
    let now = SystemTime::now().duration_since(UNIX_EPOCH);
    u64::try_from(now.unwrap_or_default().as_nanos()).unwrap_or(u64::MAX)
}

/// Folds the records of a slab; gives those that go no further, and why. What is damaged is told at upload.
fn fold_slab(fold: &mut Fold, slab: &Slab, game_version: &str) -> Vec<(u64, u8)> {
    let head = &slab.head;
    let mut marked = Vec::new();
    for frame in frames(&slab.frames, &head.epoch).map_while(Result::ok) {
        if FrameKind::from_u16(frame.header.kind) != Some(FrameKind::Record) {
            continue;
        }
        let Ok(record) = Record::parse(frame.payload) else {
            continue;
        };
        let origin = Origin {
            stream: record.stream,
            source: &head.source,
            incarnation: head.incarnation,
            game_version: Some(game_version),
            seq: frame.header.seq,
            time_ns: i128::from(frame.header.monotonic_ns) + i128::from(head.realtime_offset_ns),
        };
        match fold.fold(&origin, record.variant) {
            Folded::Kept => {}
            Folded::Duplicate => marked.push((frame.header.seq, hole_cause::DUPLICATE)),
            Folded::Aggregated => marked.push((frame.header.seq, hole_cause::AGGREGATED)),
        }
    }
    marked
}

fn row(row: Row) -> FoldRow {
    FoldRow {
        time_ns: row.time_ns,
        stream: row.stream,
        variant: row.variant,
    }
}

#[cfg(test)]
mod tests;
