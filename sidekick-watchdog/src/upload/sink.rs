//! What a sink is: the one who brings a batch to a backend and says what became of it.

pub mod arrivals;
pub mod command;
pub mod compression;
pub mod file;
pub mod http;
pub mod paced;
pub mod postgres;

use std::fmt::Debug;
use std::future::Future;
use std::pin::Pin;
use std::time::Duration;

use bytes::Bytes;
use uuid::Uuid;

use super::encode::{LineWriter, RowWriter};
use super::plan::Plan;
use crate::position::Position;

pub use command::{CommandSettings, CommandSink};
pub use compression::Compression;
pub use file::{FileSettings, FileSink};
pub use http::{HttpSettings, HttpSink};
pub use paced::Paced;
pub use postgres::{PostgresSettings, PostgresSink};

/// A boxed future, so that sinks of several kinds fit one list.
pub type BoxFuture<'a, T> = Pin<Box<dyn Future<Output = T> + Send + 'a>>;

/// Where one row of a batch came from and where it ends.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Row {
    /// Position of its record.
    pub position: Position,
    /// The rows' bytes up to here, before [`Sink::encode`], are this one's and those before it.
    pub end: usize,
}

/// A planned batch, ready to be sent.
#[derive(Clone, Debug)]
pub struct Batch {
    /// Its committed plan.
    pub plan: Plan,
    /// Its `Idempotency-Key`.
    pub key: String,
    /// What is sent: the rows as [`Sink::encode`] made them. The same bytes at every try.
    pub body: Bytes,
    /// Its rows, one for each record, in their order.
    pub rows: Vec<Row>,
    /// It is the replay of a dead letter: one record, whose position lies behind what the sink took before. `None`: a batch
    /// whose positions lie beyond.
    pub replay: Option<OfLetter>,
}

/// Whose replay a batch is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct OfLetter {
    /// Which replay of the letter, from 1.
    pub number: u32,
    /// The lane that wrote the letter, whatever lanes the sink has by now. Of all letters of one such lane a single replay is
    /// open at a time, and the next one begins once it is known what became of that.
    pub lane: u32,
}

impl Batch {
    /// How many records it has.
    pub fn records(&self) -> u64 {
        self.rows.len() as u64
    }

    /// How many bytes its rows had before [`Sink::encode`].
    pub fn row_bytes(&self) -> u64 {
        self.rows.last().map_or(0, |row| row.end as u64)
    }
}

/// What became of a try.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Outcome {
    /// The backend has it, now or from an earlier try. For a sink that stores it itself: it is durable.
    Taken,
    /// It is too large for the backend. The lane halves it.
    TooLarge {
        /// What the backend said.
        reason: String,
    },
    /// The backend wants to be left alone for a while.
    Wait {
        /// For how long.
        pause: Duration,
        /// What the backend said.
        reason: String,
    },
    /// The try failed as tries do; backoff and try again.
    Retry {
        /// What happened.
        reason: String,
    },
    /// The backend will never take this batch as it is: at least one of its records is bad, and none was taken.
    Refused {
        /// The HTTP status, the SQLSTATE or the exit code.
        code: String,
        /// What the backend said.
        reason: String,
    },
    /// Somebody has to repair something first. Shown as parked, tried again rarely, nothing dropped.
    Park {
        /// What happened and what may help.
        reason: String,
    },
    /// What the plan's `extra` names is gone (the file was taken away), so it cannot hold a part of this batch. The lane
    /// asks for a new `extra` and commits it.
    Replan {
        /// What is gone.
        reason: String,
    },
}

/// A failure to make ready for a batch; it will be tried again after a pause.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{0}")]
pub struct PrepareError(pub String);

/// What a sink holds of a lane.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Held {
    /// Every row of the lane at or before it, and none behind it.
    pub position: Position,
    /// Session and last number of the last row, where the sink knows them.
    pub last: Option<(Uuid, u64)>,
}

/// A backend, as the lanes see it. One batch at a time for each of its lanes. What it has to say is its name and how a
/// batch is sent.
pub trait Sink: Debug + Send + Sync + 'static {
    /// Its name in configuration, keys, plans and status.
    fn name(&self) -> &str;

    /// How many lanes it wants at the first start of a group; later the state's number counts. One keeps all streams in the
    /// order of their commits.
    fn lanes(&self) -> u32 {
        1
    }

    /// What the plan of the next batch of `group`, starting at the record `first`, shall keep as its `extra`: nothing,
    /// where a sink does not say otherwise.
    ///
    /// Must leave no trace that a restart before the plan's commit could trip over. The batch before it in the lane was
    /// taken, though that may not be committed yet; or it was refused, and dead letters are full.
    fn prepare<'a>(
        &'a self,
        _group: &'a Uuid,
        _first: Position,
    ) -> BoxFuture<'a, Result<Vec<u8>, PrepareError>> {
        Box::pin(async { Ok(Vec::new()) })
    }

    /// What it holds of what `lane` of `group` sent. `None` where it cannot say. Asked before anything is sent, where the log is damaged: of a batch that arrived it
    /// may be the only one who knows.
    fn held<'a>(
        &'a self,
        _group: &'a Uuid,
        _lane: u32,
    ) -> BoxFuture<'a, Result<Option<Held>, PrepareError>> {
        Box::pin(async { Ok(None) })
    }

    /// Writes the rows of a lane. NDJSON, where a sink does not say otherwise.
    fn row_writer(&self) -> Box<dyn RowWriter> {
        Box::new(LineWriter::default())
    }

    /// Makes the body of `rows` as `plan` says; the same body every time. The rows as they are, where a sink does not say
    /// otherwise.
    fn encode<'a>(
        &'a self,
        _plan: &'a Plan,
        rows: Vec<u8>,
    ) -> BoxFuture<'a, Result<Bytes, PrepareError>> {
        Box::pin(async { Ok(rows.into()) })
    }

    /// Tries once to bring `batch` to the backend. May be dropped at any await point and called again.
    fn send<'a>(&'a self, batch: &'a Batch) -> BoxFuture<'a, Outcome>;
}
