//! A sink that waits for the pacer before each batch: for those that do not pace themselves.

use std::sync::Arc;

use bytes::Bytes;
use uuid::Uuid;

use super::{Batch, BoxFuture, Held, Outcome, PrepareError, Sink};
use crate::position::Position;
use crate::upload::encode::RowWriter;
use crate::upload::pace::Pacer;
use crate::upload::plan::Plan;

/// Another sink, paced.
#[derive(Debug)]
pub struct Paced {
    inner: Arc<dyn Sink>,
    pacer: Arc<Pacer>,
}

impl Paced {
    /// `inner`, whose batches wait for `pacer`.
    pub fn new(inner: Arc<dyn Sink>, pacer: Arc<Pacer>) -> Self {
        Self { inner, pacer }
    }
}

impl Sink for Paced {
    fn name(&self) -> &str {
        self.inner.name()
    }

    fn lanes(&self) -> u32 {
        self.inner.lanes()
    }

    fn prepare<'a>(
        &'a self,
        group: &'a Uuid,
        first: Position,
    ) -> BoxFuture<'a, Result<Vec<u8>, PrepareError>> {
        self.inner.prepare(group, first)
    }

    fn held<'a>(
        &'a self,
        group: &'a Uuid,
        lane: u32,
    ) -> BoxFuture<'a, Result<Option<Held>, PrepareError>> {
        self.inner.held(group, lane)
    }

    fn row_writer(&self) -> Box<dyn RowWriter> {
        self.inner.row_writer()
    }

    fn encode<'a>(
        &'a self,
        plan: &'a Plan,
        rows: Vec<u8>,
    ) -> BoxFuture<'a, Result<Bytes, PrepareError>> {
        self.inner.encode(plan, rows)
    }

    fn send<'a>(&'a self, batch: &'a Batch) -> BoxFuture<'a, Outcome> {
        Box::pin(async move {
            self.pacer.wait(batch.body.len()).await;
            self.inner.send(batch).await
        })
    }
}
