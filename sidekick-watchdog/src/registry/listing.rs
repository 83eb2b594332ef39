//! What to tell a registry next: a pure function of time, the engine's presence and the registry's answers.

use std::time::Duration;

use tokio::time::Instant;

use super::Presence;
use super::client::{Answer, ClientError};
use super::doubt::Doubt;

/// The first wait after a failure; doubled up to [`RETRY_MAX`].
const RETRY_FIRST: Duration = Duration::from_secs(1);
const RETRY_MAX: Duration = Duration::from_secs(30);
/// The wait where not one beat was taken of so many rows in a row: another one would be refused as well, and the registry
/// keeps them all.
const REFUSED_ROWS_MAX: u32 = 2;
pub(super) const ROW_RETRY: Duration = Duration::from_secs(600);
/// How often a row is taken off of a registry that fails at it. It stays there then, which no client sees: nobody beats for it.
const REMOVAL_FAILURES_MAX: u32 = 8;

/// The next thing to do.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Step {
    /// List it.
    Create,
    /// Say that it lives, and its status if that has changed.
    Beat { id: String, status: Option<Status> },
    /// Take a row off that the registry does not want beats for.
    Forget { id: String },
    /// Take it off.
    Remove { id: String },
    /// Nothing before this moment, or before something changes.
    WaitUntil(Option<Instant>),
}

/// What is shown.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Status {
    Online,
    Draining,
}

impl Status {
    pub(super) fn word(self) -> &'static str {
        match self {
            Self::Online => "online",
            Self::Draining => "draining",
        }
    }
}

/// One server's place in the registry.
#[derive(Debug)]
pub(super) struct Listing {
    beat_every: Duration,
    unlist_after: Duration,
    id: Option<String>,
    /// A row that is to be taken off before there is another.
    refused: Option<String>,
    /// Rows in a row of which no beat was taken.
    refused_rows: u32,
    /// What is made of beats at which the registry failed.
    doubt: Doubt,
    /// Removals in a row at which the registry failed.
    failed_removals: u32,
    /// A row whose id the registry did not tell.
    nameless: Option<Nameless>,
    /// What the registry shows; `None`: not known.
    shown: Option<Status>,
    beaten_at: Option<Instant>,
    away_since: Option<Instant>,
    /// Failures in a row, and when to try again.
    failures: u32,
    retry_at: Option<Instant>,
}

/// A row that can be neither beaten for nor taken off: another one is made for another engine, and not soon.
#[derive(Debug)]
struct Nameless {
    made_at: Instant,
    /// The engine that it was made for has gone.
    engine_left: bool,
}

impl Listing {
    /// `id` is what an earlier watchdog has left.
    pub(super) fn new(beat_every: Duration, unlist_after: Duration, id: Option<String>) -> Self {
        Self {
            beat_every,
            unlist_after,
            id,
            refused: None,
            refused_rows: 0,
            doubt: Doubt::default(),
            failed_removals: 0,
            nameless: None,
            shown: None,
            beaten_at: None,
            away_since: None,
            failures: 0,
            retry_at: None,
        }
    }

    pub(super) fn id(&self) -> Option<&str> {
        self.id.as_deref()
    }

    pub(super) fn is_draining(&self) -> bool {
        self.id.is_some() && self.shown == Some(Status::Draining)
    }

    pub(super) fn next(&mut self, now: Instant, presence: Presence) -> Step {
        let step = self.wanted(now, presence);
        match (self.retry_at, &step) {
            (Some(at), step) if at > now && !matches!(step, Step::WaitUntil(_)) => {
                Step::WaitUntil(Some(at))
            }
            _ => step,
        }
    }

    fn wanted(&mut self, now: Instant, presence: Presence) -> Step {
        // Only a server that serves is worth another row.
        if presence != Presence::Up {
            self.doubt.interrupt();
        }
        if presence == Presence::Away {
            if let Some(nameless) = &mut self.nameless {
                nameless.engine_left = true;
            }
            let since = *self.away_since.get_or_insert(now);
            let until = since + self.unlist_after;
            return match (&self.id, until <= now) {
                (None, _) => Step::WaitUntil(None),
                (Some(id), true) => Step::Remove { id: id.clone() },
                (Some(_), false) => Step::WaitUntil(Some(until)),
            };
        }
        self.away_since = None;
        if let Some(id) = self.refused.clone() {
            return Step::Forget { id };
        }
        let wanted = match presence {
            Presence::Draining => Status::Draining,
            Presence::Up | Presence::Away => Status::Online,
        };
        match &self.id {
            // Nobody is to be sent to a server that will end.
            None if wanted == Status::Draining => Step::WaitUntil(None),
            None => self.create(now),
            Some(id) => self.doubt.step(id).unwrap_or_else(|| {
                let due = self.beaten_at.map(|at| at + self.beat_every);
                let status = (self.shown != Some(wanted)).then_some(wanted);
                match due.filter(|due| *due > now && status.is_none()) {
                    Some(due) => Step::WaitUntil(Some(due)),
                    None => Step::Beat {
                        id: id.clone(),
                        status,
                    },
                }
            }),
        }
    }

    fn create(&self, now: Instant) -> Step {
        match &self.nameless {
            Some(row) if !row.engine_left => Step::WaitUntil(None),
            Some(row) if row.made_at + ROW_RETRY > now => {
                Step::WaitUntil(Some(row.made_at + ROW_RETRY))
            }
            _ => Step::Create,
        }
    }

    /// Takes note of what came of a step.
    pub(super) fn done(&mut self, now: Instant, step: &Step, result: Result<Answer, ClientError>) {
        match (step, result) {
            (Step::Create, Ok(answer)) => {
                self.doubt.row_is_made(now);
                self.id = answer.id;
                self.nameless = None;
                self.shown = Some(Status::Online);
                self.beaten_at = Some(now);
            }
            (Step::Create, Err(ClientError::NoId)) => {
                self.removed();
                self.nameless = Some(Nameless {
                    made_at: now,
                    engine_left: false,
                });
            }
            (Step::Beat { status, .. }, Ok(_)) => {
                self.shown = status.or(self.shown);
                self.beaten_at = Some(now);
                self.refused_rows = 0;
                self.doubt = Doubt::default();
            }
            (Step::Beat { id, .. }, Err(ClientError::Refused { .. })) => {
                self.refused = Some(id.clone());
                self.removed();
                self.doubt.interrupt();
                self.refused_rows = self.refused_rows.saturating_add(1);
                // Else at once: clients do not see it now.
                if self.refused_rows >= REFUSED_ROWS_MAX {
                    self.retry_at = Some(now + ROW_RETRY);
                }
                return;
            }
            (Step::Beat { .. }, Err(ClientError::Failed { .. })) => {
                match self.doubt.beat_failed(now) {
                    true => self.retry_at = None,
                    false => self.retry_later(now),
                }
                return;
            }
            // Whether it was there or not: it is not now.
            (Step::Forget { .. }, Ok(_) | Err(ClientError::Refused { .. })) => {
                match self.doubt.row_is_gone(now) {
                    true => self.removed(),
                    false => self.refused = None,
                }
            }
            (Step::Forget { .. }, Err(ClientError::Failed { .. }))
                if self.doubt.removal_failed() =>
            {
                // On with the other row; the time between tries stays what it is.
                return;
            }
            (Step::Remove { .. }, Ok(_) | Err(ClientError::Refused { .. })) => self.removed(),
            (Step::Forget { .. }, Err(ClientError::Failed { .. })) if self.gives_row_up() => {
                self.refused = None;
            }
            (Step::Remove { .. }, Err(ClientError::Failed { .. })) if self.gives_row_up() => {
                self.removed();
            }
            (Step::WaitUntil(_), _) => return,
            (_, Err(_)) => {
                self.doubt.interrupt();
                self.retry_later(now);
                return;
            }
        }
        (self.failures, self.failed_removals, self.retry_at) = (0, 0, None);
    }

    fn retry_later(&mut self, now: Instant) {
        let doubled = RETRY_FIRST.saturating_mul(1 << self.failures.min(16));
        self.failures = self.failures.saturating_add(1);
        self.retry_at = Some(now + doubled.min(RETRY_MAX));
    }

    /// Counts a removal at which the registry failed; whether it was the last.
    fn gives_row_up(&mut self) -> bool {
        self.failed_removals += 1;
        self.failed_removals >= REMOVAL_FAILURES_MAX
    }

    fn removed(&mut self) {
        (self.id, self.shown, self.beaten_at) = (None, None, None);
    }
}

#[cfg(test)]
mod tests;
