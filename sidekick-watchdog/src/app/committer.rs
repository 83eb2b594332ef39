//! Joins intake to the store: what intake calls committed is what the store has fsynced and applied.

use std::sync::Arc;

use tokio::runtime::Handle;

use super::ends;
use super::names::Names;
use super::rules::LiveRules;
use sidekick_ipc::tree::{ErrorKind, Pattern, StoreQuery, StoreResult, WatchBatch};
use uuid::Uuid;

use crate::api::operator::Stage;
use crate::books::Refused;
use crate::intake::{
    Asker, Changed, CommitError, Committer, Filter, PendingAppend, SessionEnding, SessionOpening,
    SessionResume,
};
use crate::metrics::Metrics;
use crate::slab::{OpAt, Slab};
use crate::store::{AppendError, AppendTicket, Refusal, Store, StoreError};

/// Bytes of events that are told at a time, about.
const EVENTS_BYTES: usize = 256 << 10;
/// Bytes of answers that are looked up at a time, about: as much as waits for room in a downlink.
const ANSWERS_BYTES: u64 = 256 << 10;

/// The store as intake sees it. Its calls block, so they belong on intake's threads, never on the runtime's.
pub(super) struct StoreCommitter {
    pub(super) store: Arc<Store>,
    pub(super) runtime: Handle,
    pub(super) names: Names,
    pub(super) rules: Arc<LiveRules>,
    pub(super) metrics: Metrics,
}

impl StoreCommitter {
    /// Records a session's end; called again, it changes nothing.
    fn note_end(&self, source: &str, epoch: Uuid) -> Result<(), CommitError> {
        let noted = self
            .runtime
            .block_on(ends::note(&self.store, source, epoch));
        noted.map_err(|error| match error {
            AppendError::Stopped(_) => CommitError::Closed,
            error => CommitError::Later {
                reason: error.to_string(),
            },
        })
    }
}

impl Committer for StoreCommitter {
    fn open(&self, opening: &SessionOpening) -> Result<SessionResume, CommitError> {
        let epoch = opening.epoch;
        let source = self.names.owner(&self.store, epoch);
        let opened = self.runtime.block_on(self.store.session_opened_of(
            source,
            epoch,
            opening.incarnation,
            opening.started_realtime_ns,
            &opening.game_version,
        ));
        match opened {
            Ok(opened) => Ok(SessionResume {
                source: source.to_owned(),
                next_seq: opened.next_seq,
                checkpoint: opened.checkpoint.unwrap_or_default(),
                ended: false,
                tail_unknown: false,
            }),
            Err(StoreError::Refused(Refusal::SessionEnded)) => {
                // A watchdog that was killed before it told; the ring goes after this.
                self.note_end(source, epoch)?;
                let session = self.store.session(source, epoch);
                Ok(SessionResume {
                    source: source.to_owned(),
                    next_seq: session.as_ref().map_or(1, |session| session.next_seq),
                    tail_unknown: session
                        .as_ref()
                        .and_then(|session| session.end.as_ref())
                        .is_some_and(|end| end.tail_unknown),
                    checkpoint: session
                        .and_then(|session| session.checkpoint)
                        .unwrap_or_default(),
                    ended: true,
                })
            }
            Err(StoreError::Refused(refusal)) => Err(CommitError::Refused {
                epoch,
                reason: refusal.to_string(),
            }),
            Err(error) => Err(not_now(&error)),
        }
    }

    fn append(&self, slab: Slab, ops: Vec<OpAt>) -> PendingAppend {
        let epoch = slab.head.epoch;
        let tap = &self.rules.tap;
        let seen = tap
            .is_open(Stage::Stored)
            .then(|| (Arc::clone(tap), slab.clone()));
        let ticket = self.runtime.block_on(self.store.submit_ops(slab, ops));
        let settled = settled(ticket, epoch);
        let Some((tap, slab)) = seen else {
            return Box::pin(settled);
        };
        Box::pin(async move {
            settled.await?;
            tap.stored(&slab);
            Ok(())
        })
    }

    fn refused(&self, refused: &Refused) {
        self.metrics.refused(refused);
    }

    fn end(&self, ending: &SessionEnding) -> Result<(), CommitError> {
        let owner = self.names.owner(&self.store, ending.epoch);
        let cause = ends::cause(ending.clean_exit);
        let ended = self.runtime.block_on(self.store.session_ended(
            owner,
            ending.epoch,
            &cause,
            !ending.tail_known,
            ending.last.clone(),
        ));
        match ended {
            Ok(_) => self.note_end(owner, ending.epoch),
            Err(StoreError::Refused(refusal)) => Err(CommitError::Refused {
                epoch: ending.epoch,
                reason: refusal.to_string(),
            }),
            Err(error) => Err(not_now(&error)),
        }
    }

    fn query(&self, asker: &Asker, query: &StoreQuery) -> StoreResult {
        match query {
            StoreQuery::Restore { key, safe } => {
                StoreResult::Restored(self.store.restore(&asker.source, key, *safe))
            }
            StoreQuery::Get { linearizable, .. }
            | StoreQuery::List { linearizable, .. }
            | StoreQuery::Count { linearizable, .. } => {
                if *linearizable && let Err(error) = self.runtime.block_on(self.store.fence()) {
                    return StoreResult::error(ErrorKind::Unavailable, error);
                }
                self.store.query(query)
            }
            StoreQuery::Watch { .. } | StoreQuery::Unwatch { .. } => self.store.query(query),
        }
    }

    fn answers(&self, asker: &Asker, after: u64) -> Vec<(u64, StoreResult)> {
        self.store.answers_after(asker.epoch, after, ANSWERS_BYTES)
    }

    fn checkpoints(&self, asker: &Asker) -> (u64, u64) {
        self.store.kept_checkpoints(&asker.source)
    }

    fn earlier_ended(&self, asker: &Asker, rings: &[Uuid]) -> bool {
        let has_ended = |epoch: &Uuid| {
            let session = self.store.session(&asker.source, *epoch);
            session.is_some_and(|session| session.end.is_some())
        };
        !self
            .store
            .is_earlier_session_open(&asker.source, asker.launch)
            && rings.iter().all(has_ended)
    }

    fn revision(&self) -> u64 {
        self.store.revision()
    }

    fn events(&self, pattern: &Pattern, revision: u64) -> WatchBatch {
        self.store.events_after(pattern, revision, EVENTS_BYTES)
    }

    fn filter(&self) -> Option<Arc<dyn Filter>> {
        self.rules.filter()
    }

    fn changed(&self) -> Changed {
        let mut applied = self.store.applied();
        Box::pin(async move {
            if applied.changed().await.is_err() {
                // The store is closed: nothing changes any more.
                std::future::pending::<()>().await;
            }
        })
    }
}

/// A full disk passes; everything else that is no refusal is the store's end.
fn not_now(error: &StoreError) -> CommitError {
    match error {
        StoreError::NoSpace { .. } => CommitError::Later {
            reason: error.to_string(),
        },
        _ => CommitError::Closed,
    }
}

async fn settled(
    ticket: Result<AppendTicket, AppendError>,
    epoch: Uuid,
) -> Result<(), CommitError> {
    let appended = match ticket {
        Ok(ticket) => ticket.wait().await,
        Err(error) => Err(error),
    };
    match appended {
        Ok(_) => Ok(()),
        Err(AppendError::Refused(Refusal::Hole { expected, .. })) => {
            Err(CommitError::Hole { expected })
        }
        Err(AppendError::Refused(refusal)) => Err(CommitError::Refused {
            epoch,
            reason: refusal.to_string(),
        }),
        Err(
            error @ (AppendError::Quota { .. }
            | AppendError::NoSpace(_)
            | AppendError::NotLeader { .. }),
        ) => Err(CommitError::Later {
            reason: error.to_string(),
        }),
        Err(AppendError::Stopped(_)) => Err(CommitError::Closed),
    }
}
