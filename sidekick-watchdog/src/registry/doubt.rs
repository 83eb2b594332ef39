//! Whether a row that the registry fails at is still there: some answer a beat for one that is gone with an error of their own
//! (Uro's `Repo.get!` behind a server that shows it as a 500), which looks like any other trouble.

use std::time::Duration;

use tokio::time::Instant;

use super::listing::{ROW_RETRY, Step};

/// Failing beats say something of the row once clients have not seen it for so long (Uro's freshness), so that whatever is done
/// about it hides nothing.
const FAILING_MIN: Duration = Duration::from_secs(30);
/// One beat could have met anything.
const FAILED_BEATS_MIN: u32 = 3;
/// Rows that are made one after the other of which no beat is taken; the next ones wait for [`ROW_RETRY`] each.
const ROWS_MAX: u32 = 2;

/// What the registry's own errors make of a row. It is kept until there is another one, and beaten for again where none can be
/// made: errors that end cost nothing then.
#[derive(Debug, Default)]
pub(super) struct Doubt {
    /// The first of the beats in a row that failed, and how many they are.
    failing_since: Option<Instant>,
    failed_beats: u32,
    stage: Stage,
    /// Rows in a row that were made in doubt, and when the last one was.
    rows: u32,
    made_at: Option<Instant>,
}

/// How far it is with a new row.
#[derive(Debug, Default)]
enum Stage {
    #[default]
    Beats,
    /// The old one is to be taken off.
    Removal,
    /// The registry has failed at that, too.
    Creation,
}

impl Doubt {
    /// What to do for row `id` in place of a beat.
    pub(super) fn step(&self, id: &str) -> Option<Step> {
        match self.stage {
            Stage::Beats => None,
            Stage::Removal => Some(Step::Forget { id: id.to_owned() }),
            Stage::Creation => Some(Step::Create),
        }
    }

    /// A beat has failed; whether another row is to be made now.
    pub(super) fn beat_failed(&mut self, now: Instant) -> bool {
        let since = *self.failing_since.get_or_insert(now);
        self.failed_beats = self.failed_beats.saturating_add(1);
        let rests = self.rows >= ROWS_MAX && self.made_at.is_some_and(|at| at + ROW_RETRY > now);
        let is_over = self.failed_beats >= FAILED_BEATS_MIN && now > since + FAILING_MIN && !rests;
        if is_over {
            self.stage = Stage::Removal;
        }
        is_over
    }

    /// The removal of the old row has failed; whether it was tried in doubt, so that it does not matter.
    pub(super) fn removal_failed(&mut self) -> bool {
        let is_in_doubt = matches!(self.stage, Stage::Removal);
        if is_in_doubt {
            self.stage = Stage::Creation;
        }
        is_in_doubt
    }

    /// The old row is gone; whether it was taken off in doubt.
    pub(super) fn row_is_gone(&mut self, now: Instant) -> bool {
        let is_in_doubt = matches!(self.stage, Stage::Removal);
        if is_in_doubt {
            self.count_row(now);
        }
        is_in_doubt
    }

    /// There is a new row.
    pub(super) fn row_is_made(&mut self, now: Instant) {
        if matches!(self.stage, Stage::Creation) {
            self.count_row(now);
        }
    }

    fn count_row(&mut self, now: Instant) {
        self.rows = self.rows.saturating_add(1);
        self.made_at = Some(now);
        self.interrupt();
    }

    /// Something else than a failing beat: they are counted from the first again.
    pub(super) fn interrupt(&mut self) {
        (self.failing_since, self.failed_beats) = (None, 0);
        self.stage = Stage::Beats;
    }
}
