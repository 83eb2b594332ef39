//! One try of one batch: lock the progress, write what lies beyond it, move it, commit.

use std::collections::HashMap;
use std::pin::pin;

use bytes::Bytes;
use futures_util::SinkExt;
use tokio_postgres::types::{ToSql, Type};
use tokio_postgres::{Client, Error, SimpleQueryMessage, Statement};
use uuid::Uuid;

use super::Mode;
use super::rows::{INDEX_BYTES, columns};
use super::tables::{TableName, Tables, Target};
use crate::position::Position;
use crate::postgres::{Link, Server, Trouble};
use crate::upload::sink::Batch;

/// What the server says of a row whose key is there already.
pub(super) const KEY_IS_THERE: &str = "23505";
/// What it says where no unique key is over the columns that [`Mode::Insert`] names.
pub(super) const NO_KEY: &str = "42P10";

/// A connection, and what was prepared in it.
#[derive(Debug)]
pub(super) struct Session {
    link: Link,
    /// Prepared COPYs, by the target's index.
    copies: HashMap<u16, Statement>,
    /// The types of a target's columns, by its index.
    types: HashMap<u16, Vec<String>>,
}

impl Session {
    pub(super) async fn open(server: &Server) -> Result<Self, Trouble> {
        Ok(Self {
            link: server.connect().await?,
            copies: HashMap::new(),
            types: HashMap::new(),
        })
    }

    /// Writes what of the batch was not written before, in one transaction. Rolled back after a failure for which the
    /// connection is kept ([`Trouble::Data`], and [`NO_KEY`] of a batch that may be refused for another reason).
    pub(super) async fn write(
        &mut self,
        tables: &Tables,
        group: &Uuid,
        batch: &Batch,
        mode: Mode,
    ) -> Result<(), Trouble> {
        let done = self.transact(tables, group, batch, mode).await;
        if let Err(trouble) = &done
            && (matches!(trouble, Trouble::Data { .. }) || trouble.code() == Some(NO_KEY))
        {
            self.execute("rollback").await?;
        }
        done
    }

    async fn transact(
        &mut self,
        tables: &Tables,
        group: &Uuid,
        batch: &Batch,
        mode: Mode,
    ) -> Result<(), Trouble> {
        let (progress, plan) = (&tables.progress, &batch.plan);
        let (sink, lane) = match batch.replay {
            None => (plan.sink.clone(), plan.lane),
            // A dead letter lies behind its lane's mark, so each has one of its own. It names no lane of today's: the answer
            // may be lost, and the lanes be others when it is sent again.
            Some(letter) => {
                let Position { index, item } = plan.first;
                (format!("{} replay {index}.{item}", plan.sink), letter.lane)
            }
        };
        let here = format!("group_id = '{group}' and sink = '{sink}' and lane = {lane}");
        let look = format!("select log_index, item from {progress} where {here} for update");
        let mut seen = self.position(&format!("begin; {look}")).await?;
        if seen.is_none() {
            // The first batch of the lane. Another one that comes for it at the same time waits here.
            let first = format!(
                "insert into {progress} (group_id, sink, lane, log_index, item) values ('{group}', '{sink}', {lane}, 0, -1) on \
                 conflict do nothing; {look}"
            );
            seen = self.position(&first).await?;
        }
        // Nothing was seen where the item is below 0.
        let seen = seen.flatten();
        let groups = rows_beyond(batch, seen);
        if groups.is_empty() {
            return self.execute("rollback").await;
        }
        for (index, rows) in groups {
            let Some(target) = tables.targets.get(usize::from(index)) else {
                let reason = format!("the batch {} has a row for no table", batch.key);
                return Err(Trouble::repair(reason));
            };
            match mode {
                Mode::Copy => self.copy(index, target, rows).await?,
                Mode::Insert => self.insert(index, target, rows).await?,
            }
        }
        let Position { index, item } = plan.last;
        let index = i64::try_from(index).unwrap_or(i64::MAX);
        self.execute(&format!(
            "update {progress} set log_index = {index}, item = {item} where {here}; commit"
        ))
        .await
    }

    /// Up to where the lane's rows are written; `None` where none is. Waits for a transaction of the lane that is under way.
    pub(super) async fn held(
        &mut self,
        tables: &Tables,
        group: &Uuid,
        sink: &str,
        lane: u32,
    ) -> Result<Option<Position>, Trouble> {
        let progress = &tables.progress;
        let query = format!(
            "select log_index, item from {progress} where group_id = '{group}' and sink = '{sink}' and lane = {lane} for \
             update"
        );
        Ok(self.position(&query).await?.flatten())
    }

    /// How far the lane has come: `None` = it has no row, `Some(None)` = one that says that nothing was seen.
    async fn position(&mut self, query: &str) -> Result<Option<Option<Position>>, Trouble> {
        let messages = self
            .link
            .run(async |client| client.simple_query(query).await)
            .await?;
        let row = messages.iter().find_map(|message| match message {
            SimpleQueryMessage::Row(row) => {
                Some((row.get(0)?.parse().ok()?, row.get(1)?.parse().ok()?))
            }
            _ => None,
        });
        Ok(row.map(|(index, item): (i64, i64)| {
            Some(Position {
                index: u64::try_from(index).ok()?,
                item: u32::try_from(item).ok()?,
            })
        }))
    }

    async fn execute(&mut self, query: &str) -> Result<(), Trouble> {
        self.link
            .run(async |client| client.batch_execute(query).await)
            .await
    }

    async fn copy(&mut self, index: u16, target: &Target, rows: Vec<u8>) -> Result<(), Trouble> {
        let known = self.copies.get(&index).cloned();
        let statement = match known {
            Some(statement) => statement,
            None => {
                let copy = target.copy();
                let statement = self
                    .link
                    .run(async |client| client.prepare(&copy).await)
                    .await?;
                self.copies.insert(index, statement.clone());
                statement
            }
        };
        self.link
            .run(async |client| send_copy(client, &statement, rows.into()).await)
            .await
    }

    async fn insert(&mut self, index: u16, target: &Target, rows: Vec<u8>) -> Result<(), Trouble> {
        let names = target.names();
        let types = match self.types.get(&index) {
            Some(types) => types.clone(),
            None => {
                let types = self.types_of(&target.table, &names).await?;
                self.types.insert(index, types.clone());
                types
            }
        };
        let mut arrays: Vec<Vec<Option<String>>> = vec![Vec::new(); names.len()];
        // Rows are made by us of texts that are UTF-8.
        for row in String::from_utf8_lossy(&rows).lines() {
            for (array, value) in arrays.iter_mut().zip(columns(row)) {
                array.push(value);
            }
        }
        let statement = target.insert(&types);
        let parameters: Vec<(&(dyn ToSql + Sync), Type)> = arrays
            .iter()
            .map(|array| (array as &(dyn ToSql + Sync), Type::TEXT_ARRAY))
            .collect();
        self.link
            .run(async |client| client.execute_typed(&statement, &parameters).await)
            .await
            .map(drop)
    }

    /// The types of a table's columns, as SQL has them.
    async fn types_of(
        &mut self,
        table: &TableName,
        names: &[&str],
    ) -> Result<Vec<String>, Trouble> {
        let found = self.columns_of(table).await?;
        let type_of = |name: &&str| {
            let column = found.iter().find(|(column, _)| column == name);
            column.map(|(_, kind)| kind.clone()).ok_or_else(|| {
                Trouble::repair(format!(
                    "the table {table} has no column \"{name}\"; add it, or correct [[upload.postgres.tables]] columns"
                ))
            })
        };
        names.iter().map(type_of).collect()
    }

    /// Name and type of each column; an error where the table is not there.
    async fn columns_of(&mut self, table: &TableName) -> Result<Vec<(String, String)>, Trouble> {
        let query = format!(
            "select attname, format_type(atttypid, atttypmod) from pg_attribute where attrelid = '{table}'::regclass and \
             attnum > 0 and not attisdropped"
        );
        let messages = self
            .link
            .run(async |client| client.simple_query(&query).await)
            .await?;
        let column = |message: &SimpleQueryMessage| match message {
            SimpleQueryMessage::Row(row) => Some((row.get(0)?.to_owned(), row.get(1)?.to_owned())),
            _ => None,
        };
        Ok(messages.iter().filter_map(column).collect())
    }

    /// The tables that are not there.
    pub(super) async fn missing(&mut self, tables: &Tables) -> Result<Vec<String>, Trouble> {
        let mut missing = Vec::new();
        for wanted in tables.all() {
            if !self.has(&wanted.table).await? {
                missing.push(wanted.table.to_string());
            }
        }
        Ok(missing)
    }

    async fn has(&mut self, table: &TableName) -> Result<bool, Trouble> {
        let query = format!("select 1 where to_regclass('{table}') is not null");
        let messages = self
            .link
            .run(async |client| client.simple_query(&query).await)
            .await?;
        Ok(messages
            .iter()
            .any(|message| matches!(message, SimpleQueryMessage::Row(_))))
    }

    /// Makes our tables where they are missing, and the columns that an older version did not have.
    pub(super) async fn create(&mut self, tables: &Tables) -> Result<(), Trouble> {
        for wanted in tables.all() {
            let Some(create) = &wanted.create else {
                continue;
            };
            if !self.has(&wanted.table).await? {
                // Another watchdog may make it at the same moment; then this one comes again.
                self.execute(create)
                    .await
                    .map_err(|trouble| match trouble {
                        Trouble::Data { code, reason } => {
                            Trouble::lost(format!("PostgreSQL says {code}: {reason}"))
                        }
                        other => other,
                    })?;
                tracing::info!(table = %wanted.table, "made a table");
                continue;
            }
            let found = self.columns_of(&wanted.table).await?;
            for (name, kind) in &wanted.columns {
                if found.iter().any(|(column, _)| column == name) {
                    continue;
                }
                // Rows that are there have no value for it.
                let kind = kind.trim_end_matches(" not null");
                let table = &wanted.table;
                self.execute(&format!(
                    "alter table {table} add column if not exists \"{name}\" {kind}"
                ))
                .await?;
                tracing::info!(%table, column = name, "added a column");
            }
        }
        Ok(())
    }
}

async fn send_copy(client: &Client, statement: &Statement, rows: Bytes) -> Result<(), Error> {
    let mut copy = pin!(client.copy_in::<_, Bytes>(statement).await?);
    copy.send(rows).await?;
    copy.finish().await.map(drop)
}

/// The rows whose positions lie beyond `seen`, without their indexes, for each target that has some.
fn rows_beyond(batch: &Batch, seen: Option<Position>) -> Vec<(u16, Vec<u8>)> {
    let mut groups: Vec<(u16, Vec<u8>)> = Vec::new();
    let mut start = 0;
    for row in &batch.rows {
        let bytes = batch.body.get(start..row.end).unwrap_or_default();
        start = row.end;
        if seen.is_some_and(|seen| row.position <= seen) {
            continue;
        }
        let Some((index, columns)) = bytes.split_first_chunk::<INDEX_BYTES>() else {
            continue;
        };
        let index = u16::from_le_bytes(*index);
        match groups.iter_mut().find(|(known, _)| *known == index) {
            Some((_, rows)) => rows.extend_from_slice(columns),
            None => {
                let mut rows =
                    Vec::with_capacity(batch.body.len().saturating_sub(start - bytes.len()));
                rows.extend_from_slice(columns);
                groups.push((index, rows));
            }
        }
    }
    groups
}
