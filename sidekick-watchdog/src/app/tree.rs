//! The state store as the API sees it: there while a plane is open.

use std::sync::{Arc, Mutex, PoisonError, RwLock, Weak};
use std::time::Instant;

use sidekick_ipc::tree::{
    Answer, ErrorKind, Pattern, StoreOp, StoreQuery, StoreResult, WatchBatch,
};
use tokio::sync::{Semaphore, watch};
use uuid::Uuid;

use crate::api::tree::{Later, LeaseTime, TreeStore};
use crate::store::Store;

/// Writes without an idempotency key that are under way at once; more wait.
const WRITERS: usize = 8;
/// About so many bytes of events are read at a time.
const EVENTS_BYTES_MAX: usize = 256 << 10;

/// The store of the plane that is open, if one is.
#[derive(Debug)]
pub(super) struct OpenTree {
    store: Arc<RwLock<Weak<Store>>>,
    writers: Arc<Writers>,
}

impl OpenTree {
    pub(super) fn new() -> Self {
        Self {
            store: Arc::default(),
            writers: Arc::new(Writers::new()),
        }
    }

    /// From now on this store answers.
    pub(super) fn open(&self, store: &Arc<Store>) {
        *self.store.write().unwrap_or_else(PoisonError::into_inner) = Arc::downgrade(store);
    }

    /// From now on none does.
    pub(super) fn close(&self) {
        *self.store.write().unwrap_or_else(PoisonError::into_inner) = Weak::new();
    }

    fn store(&self) -> Option<Arc<Store>> {
        self.store
            .read()
            .unwrap_or_else(PoisonError::into_inner)
            .upgrade()
    }
}

fn unavailable(why: impl std::fmt::Display) -> StoreResult {
    StoreResult::error(ErrorKind::Unavailable, why)
}

fn closed() -> StoreResult {
    unavailable("the store is not open; status tells why")
}

impl TreeStore for OpenTree {
    fn execute(&self, op: StoreOp, retry: Option<Uuid>) -> Later<StoreResult> {
        let (store, writers) = (self.store(), Arc::clone(&self.writers));
        Box::pin(async move {
            match store {
                Some(store) => execute(&store, &writers, &op, retry).await,
                None => closed(),
            }
        })
    }

    fn hold(
        &self,
        op: StoreOp,
        retry: Option<Uuid>,
        asked: Instant,
    ) -> Later<(StoreResult, Option<LeaseTime>)> {
        let (store, writers) = (self.store(), Arc::clone(&self.writers));
        Box::pin(async move {
            let Some(store) = store else {
                return (closed(), None);
            };
            let result = execute(&store, &writers, &op, retry).await;
            let time = match &result {
                StoreResult::Ok(Answer {
                    lease: Some(lease), ..
                }) => store.lease_time(lease, asked),
                _ => None,
            };
            (
                result,
                time.map(|(ttl, left)| LeaseTime {
                    ttl,
                    left_when_asked: left,
                }),
            )
        })
    }

    fn query(&self, query: StoreQuery) -> Later<StoreResult> {
        let store = self.store();
        Box::pin(async move {
            let Some(store) = store else {
                return closed();
            };
            let is_linearizable = matches!(
                query,
                StoreQuery::Get {
                    linearizable: true,
                    ..
                } | StoreQuery::List {
                    linearizable: true,
                    ..
                } | StoreQuery::Count {
                    linearizable: true,
                    ..
                }
            );
            if is_linearizable && let Err(error) = store.fence().await {
                return unavailable(error);
            }
            store.query(&query)
        })
    }

    fn revision(&self) -> Option<u64> {
        Some(self.store()?.revision())
    }

    fn events(&self, pattern: &Pattern, after: u64) -> Option<WatchBatch> {
        Some(self.store()?.events_after(pattern, after, EVENTS_BYTES_MAX))
    }

    fn changes(&self) -> Option<watch::Receiver<u64>> {
        Some(self.store()?.applied())
    }

    fn export(&self) -> Later<Result<String, StoreResult>> {
        let store = self.store();
        Box::pin(async move {
            let store = store.ok_or_else(closed)?;
            // Of a large tree it takes a while.
            let export = tokio::task::spawn_blocking(move || store.export()).await;
            export.map_err(unavailable)?.map_err(unavailable)
        })
    }

    fn import(&self, text: String) -> Later<Result<u64, StoreResult>> {
        let (store, writers) = (self.store(), Arc::clone(&self.writers));
        Box::pin(async move {
            let store = store.ok_or_else(closed)?;
            let read = tokio::task::spawn_blocking(move || Store::import(&text)).await;
            let ops = read
                .map_err(unavailable)?
                .map_err(|error| StoreResult::error(ErrorKind::Invalid, error))?;
            let mut count = 0;
            for op in &ops {
                let writer = writers.next().await;
                let done = store.execute(writer.client, writer.number, op).await;
                match done.map_err(unavailable)? {
                    StoreResult::Error { kind, message } => {
                        let message = format!("after {count} of {} writes: {message}", ops.len());
                        return Err(StoreResult::Error { kind, message });
                    }
                    StoreResult::Ok(_)
                    | StoreResult::Restored(_)
                    | StoreResult::AnswerLost { .. } => count += 1,
                }
            }
            Ok(count)
        })
    }
}

async fn execute(
    store: &Store,
    writers: &Writers,
    op: &StoreOp,
    retry: Option<Uuid>,
) -> StoreResult {
    // Who holds a lease may take it again. A writer's name serves many, so a lease is taken under one that serves nobody else.
    let is_grant = matches!(op, StoreOp::LeaseGrant { .. });
    let client = retry.or_else(|| is_grant.then(Uuid::new_v4));
    let executed = match client {
        Some(client) => store.execute(client, 1, op).await,
        None => {
            let writer = writers.next().await;
            store.execute(writer.client, writer.number, op).await
        }
    };
    executed.unwrap_or_else(unavailable)
}

/// Names and numbers for writes that bring none: each writer's numbers come to the store in their order, one at a time.
#[derive(Debug)]
struct Writers {
    free: Mutex<Vec<(Uuid, u64)>>,
    permits: Semaphore,
}

/// The right to one write.
struct Writer<'a> {
    client: Uuid,
    number: u64,
    writers: &'a Writers,
    _permit: Option<tokio::sync::SemaphorePermit<'a>>,
}

impl Writers {
    fn new() -> Self {
        Self {
            free: Mutex::new((0..WRITERS).map(|_| (Uuid::new_v4(), 0)).collect()),
            permits: Semaphore::new(WRITERS),
        }
    }

    async fn next(&self) -> Writer<'_> {
        // The semaphore is never closed; without a permit there would merely be no bound.
        let permit = self.permits.acquire().await.ok();
        let free = self
            .free
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .pop();
        let (client, number) = free.unwrap_or_else(|| (Uuid::new_v4(), 0));
        Writer {
            client,
            number: number + 1,
            writers: self,
            _permit: permit,
        }
    }
}

impl Drop for Writer<'_> {
    fn drop(&mut self) {
        let mut free = self
            .writers
            .free
            .lock()
            .unwrap_or_else(PoisonError::into_inner);
        if free.len() < WRITERS {
            free.push((self.client, self.number));
        }
    }
}
