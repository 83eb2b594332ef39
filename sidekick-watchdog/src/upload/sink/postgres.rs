//! Rows of PostgreSQL, each exactly once.
//!
//! One transaction locks the lane's row of `sidekick_progress`, compares it with the batch, writes only what lies beyond
//! it and moves it. So whatever is killed at whatever moment, and whoever sends the batch again (also a late leader whose
//! batch overlaps, CORRECTNESS rule 18): what was committed is not written again, what was not is.
//!
//! | what the server says | what follows |
//! |---|---|
//! | all of it was seen before | taken; nothing is written |
//! | SQLSTATE 22, 23, 44, 54, P0 | at least one record is bad: refused, nothing was written |
//! | 28 (who we are) | the files are read again; what is new is tried at once |
//! | 28, 3D, 3F, 42, 0A: access, database, tables, rights; a wrong certificate | parked: shown, tried rarely |
//! | everything else, no connection, a time-out | tried again without end |
//!
//! In mode `copy` a key that is there already (23505) is no bad record where it is the record's own (`source`, `epoch`,
//! `seq`): somebody set `sidekick_progress` back. The batch is then written as in mode `insert`, which skips such rows. Where
//! that cannot be, since a user's own table has these columns and no unique key over them (42P10), the refusal stands.
//!
//! A connection for each lane stays open. It is given up after every failure that the server did not put down to the data.

mod arrivals;
mod rows;
mod tables;
mod transaction;

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use uuid::Uuid;

use super::{Batch, BoxFuture, Held, Outcome, PrepareError, Sink};
use crate::position::Position;
use crate::postgres::{Server, ServerSettings, Trouble};
use crate::upload::encode::RowWriter;

use rows::CopyWriter;
use tables::Tables;
use transaction::{KEY_IS_THERE, NO_KEY, Session};

pub use rows::COPY_VERSION;
pub use tables::{TableName, TableRule, Value, check_name};

/// How rows are written.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Mode {
    /// `COPY`: the fast way.
    #[default]
    Copy,
    /// `INSERT … ON CONFLICT DO NOTHING` on (source, epoch, seq): for tables that others write the same records to, and
    /// for CockroachDB.
    Insert,
}

/// The database. The app fills it from `[upload.postgres]`.
#[derive(Clone, Debug)]
pub struct PostgresSettings {
    /// Where it is, and who we are there.
    pub server: ServerSettings,
    /// The table of records. Default `sidekick_records`; the other two are in the same schema.
    pub table: TableName,
    /// Streams that go into tables of their own; the first that fits counts.
    pub tables: Vec<TableRule>,
    /// How rows are written.
    pub mode: Mode,
    /// Make the tables of ours that are missing, and the columns that they lack.
    pub create_tables: bool,
    /// How many batches may be on their way at once: the number of lanes. Default 4.
    pub concurrency_max: u32,
}

/// Writes batches into tables.
#[derive(Debug)]
pub struct PostgresSink {
    server: Server,
    tables: Arc<Tables>,
    mode: Mode,
    create_tables: bool,
    lanes: u32,
    /// The connection of each lane that has one and does not use it now.
    idle: Mutex<Vec<Option<Session>>>,
    /// Tables are made by one lane at a time.
    creation: tokio::sync::Mutex<()>,
}

impl PostgresSink {
    /// A sink for these settings. Connects to nobody yet.
    pub fn new(settings: PostgresSettings) -> Self {
        Self {
            tables: Arc::new(Tables::new(&settings.table, &settings.tables)),
            server: Server::new(settings.server),
            mode: settings.mode,
            create_tables: settings.create_tables,
            lanes: settings.concurrency_max.max(1),
            idle: Mutex::default(),
            creation: tokio::sync::Mutex::default(),
        }
    }

    /// Connects and looks for the tables: the names of those that are missing, quoted for SQL. Changes nothing.
    ///
    /// # Errors
    /// What kept it from that.
    pub async fn examine(&self) -> Result<Vec<String>, Trouble> {
        let look = async {
            let mut session = Session::open(&self.server).await?;
            session.missing(&self.tables).await
        };
        let looked = tokio::time::timeout(self.server.timeout(), look).await;
        looked.unwrap_or_else(|_| Err(self.too_slow()))
    }

    async fn try_once(&self, batch: &Batch) -> Outcome {
        let Ok(group) = Uuid::from_slice(&batch.plan.extra) else {
            let reason = format!("the plan {} names no group", batch.key);
            return Outcome::Park { reason };
        };
        let tried = tokio::time::timeout(self.server.timeout(), self.write(&group, batch)).await;
        match tried.unwrap_or_else(|_| Err(self.too_slow())) {
            Ok(()) => Outcome::Taken,
            Err(Trouble::Data { code, reason }) => Outcome::Refused { code, reason },
            Err(Trouble::Repair { reason, .. }) => Outcome::Park { reason },
            Err(Trouble::Passing { reason, .. }) => Outcome::Retry { reason },
        }
    }

    async fn write(&self, group: &Uuid, batch: &Batch) -> Result<(), Trouble> {
        let lane = batch.plan.lane;
        let mut session = match self.take(lane) {
            Some(mut idle) => match self.write_in(&mut idle, group, batch).await {
                // It broke while nobody looked.
                Err(trouble) if trouble.is_lost() => self.open().await?,
                done => return self.done(lane, idle, done),
            },
            None => self.open().await?,
        };
        let done = self.write_in(&mut session, group, batch).await;
        self.done(lane, session, done)
    }

    async fn write_in(
        &self,
        session: &mut Session,
        group: &Uuid,
        batch: &Batch,
    ) -> Result<(), Trouble> {
        let done = session.write(&self.tables, group, batch, self.mode).await;
        let refusal = match done {
            Err(trouble) if self.mode == Mode::Copy && trouble.code() == Some(KEY_IS_THERE) => {
                trouble
            }
            done => return done,
        };
        let again = session.write(&self.tables, group, batch, Mode::Insert);
        match again.await {
            // So it was another key of the user's that was hurt.
            Err(trouble) if trouble.code() == Some(NO_KEY) => Err(refusal),
            done => done,
        }
    }

    async fn look_up(&self, group: &Uuid, lane: u32) -> Result<Option<Position>, Trouble> {
        let mut session = self.open().await?;
        session.held(&self.tables, group, self.name(), lane).await
    }

    /// Keeps a session that is good for another batch.
    fn done(&self, lane: u32, session: Session, done: Result<(), Trouble>) -> Result<(), Trouble> {
        if matches!(done, Ok(()) | Err(Trouble::Data { .. })) {
            let mut idle = self.lock();
            let lane = lane as usize;
            if idle.len() <= lane {
                idle.resize_with(lane + 1, || None);
            }
            idle[lane] = Some(session);
        }
        done
    }

    async fn open(&self) -> Result<Session, Trouble> {
        let mut session = Session::open(&self.server).await?;
        if self.create_tables {
            let _one_at_a_time = self.creation.lock().await;
            session.create(&self.tables).await?;
        }
        Ok(session)
    }

    fn take(&self, lane: u32) -> Option<Session> {
        self.lock().get_mut(lane as usize)?.take()
    }

    fn too_slow(&self) -> Trouble {
        Trouble::lost(format!(
            "PostgreSQL did not answer within {:?}",
            self.server.timeout()
        ))
    }

    fn lock(&self) -> MutexGuard<'_, Vec<Option<Session>>> {
        // Each change of it is a single store.
        self.idle.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Sink for PostgresSink {
    fn name(&self) -> &str {
        "postgres"
    }

    fn lanes(&self) -> u32 {
        self.lanes
    }

    /// The group, whose progress the batch is compared with.
    fn prepare<'a>(
        &'a self,
        group: &'a Uuid,
        _first: Position,
    ) -> BoxFuture<'a, Result<Vec<u8>, PrepareError>> {
        Box::pin(async { Ok(group.as_bytes().to_vec()) })
    }

    fn held<'a>(
        &'a self,
        group: &'a Uuid,
        lane: u32,
    ) -> BoxFuture<'a, Result<Option<Held>, PrepareError>> {
        Box::pin(async move {
            let looked = self.look_up(group, lane);
            let looked = tokio::time::timeout(self.server.timeout(), looked).await;
            let held = looked.unwrap_or_else(|_| Err(self.too_slow()));
            let position = held.map_err(|trouble| PrepareError(trouble.to_string()))?;
            let last = None;
            Ok(position.map(|position| Held { position, last }))
        })
    }

    fn row_writer(&self) -> Box<dyn RowWriter> {
        Box::new(CopyWriter::new(self.tables.clone()))
    }

    fn send<'a>(&'a self, batch: &'a Batch) -> BoxFuture<'a, Outcome> {
        Box::pin(self.try_once(batch))
    }
}
