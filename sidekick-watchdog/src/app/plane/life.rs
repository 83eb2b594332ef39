//! When the data plane is opened and closed.
//!
//! It is opened at the start, closed when its store dies, and opened again, with pauses that double from one second to a
//! minute. One rule holds over all of it: no store is opened while the last one's threads may still write. A thread that
//! hangs in a system call cannot be ended, so the plane then stays closed until the disk has let go of it.

use std::pin::Pin;
use std::sync::Arc;
use std::time::Duration;

use tokio::task::JoinHandle;
use tokio::time::Instant;
use tracing::{error, info, warn};

use super::Plane;
use crate::api::StoreState;
use crate::app::AppError;
use crate::app::board::Condition;
use crate::upload::retry::Backoff;

/// The bounds of the pauses between two tries to open the store: each pause is a random part of its bound.
const RETRY_FIRST: Duration = Duration::from_secs(1);
const RETRY_MAX: Duration = Duration::from_secs(60);
/// A store that was open for so long has recovered; one that dies sooner is opened again after a longer pause.
const RECOVERED_AFTER: Duration = Duration::from_secs(60);

/// Where the plane is in its life.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Phase {
    /// A store is being opened.
    Opening,
    /// Records are taken.
    Open,
    /// The store died; its threads may still write.
    Closing,
    /// No thread of any store is left; the next try waits.
    Waiting,
}

/// What happens to it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Event {
    /// The store is open.
    Opened,
    /// It could not be opened, and nothing of it is left.
    Failed,
    /// The open store can do no more.
    Died,
    /// Nothing of it is left.
    Closed,
    /// The pause is over.
    Due,
}

/// The rule. What cannot happen in a phase changes nothing.
pub(super) const fn next(phase: Phase, event: Event) -> Phase {
    match (phase, event) {
        (Phase::Opening, Event::Opened) => Phase::Open,
        (Phase::Opening, Event::Failed) | (Phase::Closing, Event::Closed) => Phase::Waiting,
        (Phase::Open, Event::Died) => Phase::Closing,
        (Phase::Waiting, Event::Due) => Phase::Opening,
        (phase, _) => phase,
    }
}

/// Begins to open a plane.
pub(in crate::app) type Opener =
    Box<dyn Fn() -> Pin<Box<dyn Future<Output = Result<Plane, AppError>> + Send>> + Send>;

/// Begins to close a plane whose store died; the task ends when nothing of it is left.
type Closer = fn(Plane) -> JoinHandle<()>;

/// What [`Life::changed`] tells.
#[derive(Debug)]
pub(in crate::app) enum Change {
    /// Records are taken from now on.
    Opened,
    /// It could not be opened; tried again later. Whoever hears it tells it.
    Failed(AppError),
    /// The store died; what it had begun is being ended.
    Died,
    /// It is closed for good; another one will be opened.
    Closed,
    /// The uploads have news.
    Uploads,
}

enum State {
    Opening(JoinHandle<Result<Plane, AppError>>),
    Open { plane: Box<Plane>, since: Instant },
    Closing(JoinHandle<()>),
    Waiting(Instant),
}

impl State {
    const fn phase(&self) -> Phase {
        match self {
            Self::Opening(_) => Phase::Opening,
            Self::Open { .. } => Phase::Open,
            Self::Closing(_) => Phase::Closing,
            Self::Waiting(_) => Phase::Waiting,
        }
    }
}

/// The plane, whether it is open or not.
pub(in crate::app) struct Life {
    opener: Opener,
    closer: Closer,
    state: State,
    backoff: Backoff,
    /// Why it is not open.
    reason: Option<String>,
    failures: u64,
}

impl Life {
    /// Begins to open the first plane. Must be called on the runtime.
    pub(in crate::app) fn begin(opener: Opener) -> Self {
        Self {
            state: State::Opening(tokio::spawn(opener())),
            opener,
            closer: |plane| tokio::spawn(plane.close()),
            backoff: Backoff::new(RETRY_FIRST, RETRY_MAX, fastrand::Rng::new()),
            reason: None,
            failures: 0,
        }
    }

    /// The plane while it is open.
    pub(in crate::app) fn plane(&self) -> Option<&Plane> {
        match &self.state {
            State::Open { plane, .. } => Some(plane),
            _ => None,
        }
    }

    pub(in crate::app) fn plane_mut(&mut self) -> Option<&mut Plane> {
        match &mut self.state {
            State::Open { plane, .. } => Some(plane),
            _ => None,
        }
    }

    /// Whether a store is being opened.
    pub(in crate::app) const fn is_opening(&self) -> bool {
        matches!(self.state, State::Opening(_))
    }

    /// The plane at the watchdog's end; why there is none otherwise. No other is opened.
    pub(in crate::app) fn end(self) -> Result<Plane, String> {
        match self.state {
            State::Open { plane, .. } => Ok(*plane),
            State::Opening(_) if self.reason.is_none() => {
                Err("the store is still being opened".to_owned())
            }
            _ => Err(self.reason.unwrap_or_default()),
        }
    }

    /// How the store is.
    pub(in crate::app) fn condition(&self) -> Condition {
        let (state, next_try) = match &self.state {
            State::Opening(_) => (StoreState::Opening, None),
            State::Open { .. } => (StoreState::Open, None),
            State::Closing(_) => (StoreState::Closing, None),
            State::Waiting(due) => {
                let left = due.saturating_duration_since(Instant::now());
                (StoreState::Failed, Some(left))
            }
        };
        Condition {
            state,
            reason: self.reason.clone(),
            next_try,
            failures: self.failures,
        }
    }

    /// Waits for the next change and carries it out. May be dropped at any await: nothing is lost.
    pub(in crate::app) async fn changed(&mut self) -> Change {
        loop {
            match &mut self.state {
                State::Opening(task) => {
                    let opened = task.await.unwrap_or_else(|panic| {
                        Err(AppError::System {
                            doing: "the store panicked while it was opened",
                            error: std::io::Error::other(panic),
                        })
                    });
                    return match opened {
                        Ok(plane) => self.on_opened(plane),
                        Err(error) => self.on_failed(error),
                    };
                }
                State::Open { plane, .. } => {
                    let store = Arc::clone(plane.store());
                    tokio::select! {
                        biased;
                        error = store.fatal() => return self.on_died(&error.to_string()),
                        () = plane.uploads_changed() => return Change::Uploads,
                    }
                }
                State::Closing(task) => {
                    if let Err(panic) = task.await {
                        // Whoever panicked is gone, which is all that counts.
                        warn!(%panic, "closing the store went wrong");
                    }
                    self.wait_or_open(Event::Closed);
                    return Change::Closed;
                }
                State::Waiting(due) => {
                    tokio::time::sleep_until(*due).await;
                    self.wait_or_open(Event::Due);
                }
            }
        }
    }

    fn on_opened(&mut self, plane: Plane) -> Change {
        debug_assert_eq!(next(self.state.phase(), Event::Opened), Phase::Open);
        if self.reason.take().is_some() {
            info!("the store is open again; what waited in the rings is taken");
        }
        self.state = State::Open {
            plane: Box::new(plane),
            since: Instant::now(),
        };
        Change::Opened
    }

    fn on_failed(&mut self, error: AppError) -> Change {
        self.failures += 1;
        self.reason = Some(error.to_string());
        self.wait_or_open(Event::Failed);
        Change::Failed(error)
    }

    fn on_died(&mut self, reason: &str) -> Change {
        error!(
            %reason,
            "the store died; the engine is supervised all the same, records wait in its ring, the store is opened again"
        );
        self.failures += 1;
        self.reason = Some(reason.to_owned());
        debug_assert_eq!(next(self.state.phase(), Event::Died), Phase::Closing);
        // Never seen: replaced at once.
        let state = std::mem::replace(&mut self.state, State::Waiting(Instant::now()));
        if let State::Open { plane, since } = state {
            if since.elapsed() >= RECOVERED_AFTER {
                self.backoff.reset();
            }
            self.state = State::Closing((self.closer)(*plane));
        }
        Change::Died
    }

    /// Goes on by the rule.
    fn wait_or_open(&mut self, event: Event) {
        match next(self.state.phase(), event) {
            Phase::Waiting => {
                let pause = self.backoff.next_pause();
                self.state = State::Waiting(Instant::now() + pause);
            }
            Phase::Opening => self.state = State::Opening(tokio::spawn((self.opener)())),
            Phase::Open | Phase::Closing => {}
        }
    }
}

#[cfg(test)]
mod tests;
