//! Records as rows of PostgreSQL: the table's key keeps each once, a table of keys knows the batches.

use tokio::sync::Mutex;
use tokio_postgres::types::{ToSql, Type};

use super::line::Record;
use super::{StoreError, Stored};
use crate::postgres::{Link, Server, ServerSettings, Trouble};

const TABLES: &str = "\
    create table if not exists sidekick_records (source text not null, epoch uuid not null, seq bigint not null, \
        stream text, time timestamptz, incarnation int, data jsonb, primary key (source, epoch, seq)); \
    create table if not exists sidekick_keys (key text primary key, taken timestamptz not null default now())";
const KEY: &str = "insert into sidekick_keys (key) values ($1) on conflict do nothing";
const RECORDS: &str = "insert into sidekick_records (source, epoch, seq, stream, time, incarnation, data) \
    select a, cast(b as uuid), cast(c as bigint), d, cast(e as timestamptz), cast(f as int), cast(g as jsonb) \
    from unnest($1::text[], $2::text[], $3::text[], $4::text[], $5::text[], $6::text[], $7::text[]) as u(a, b, c, d, e, f, g) \
    on conflict do nothing";

#[derive(Debug)]
pub(super) struct RowStore {
    server: Server,
    /// Taken out while it is used: a connection that broke, or whose use was given up, does not come back.
    link: Mutex<Option<Link>>,
}

impl RowStore {
    pub(super) fn new(settings: ServerSettings) -> Self {
        Self {
            server: Server::new(settings),
            link: Mutex::new(None),
        }
    }

    /// Stores what of a batch is new, in one transaction.
    pub(super) async fn put(&self, key: &str, records: &[Record]) -> Result<Stored, StoreError> {
        let mut kept = self.link.lock().await;
        let work = async {
            let mut link = match kept.take() {
                Some(link) => link,
                None => {
                    let mut link = self.server.connect().await?;
                    link.run(async |client| client.batch_execute(TABLES).await)
                        .await?;
                    link
                }
            };
            let stored = put(&mut link, key, records).await?;
            *kept = Some(link);
            Ok::<_, Trouble>(stored)
        };
        match tokio::time::timeout(self.server.timeout(), work).await {
            Ok(Ok(stored)) => Ok(stored),
            Ok(Err(trouble @ Trouble::Data { .. })) => {
                Err(StoreError::Refused(trouble.to_string()))
            }
            Ok(Err(trouble)) => Err(StoreError::Later(trouble.to_string())),
            Err(_) => Err(StoreError::Later(
                "PostgreSQL did not answer in time".into(),
            )),
        }
    }
}

async fn put(link: &mut Link, key: &str, records: &[Record]) -> Result<Stored, Trouble> {
    let column = |of: fn(&Record) -> String| records.iter().map(of).collect::<Vec<String>>();
    let columns = [
        column(|record| record.key.source.clone()),
        column(|record| record.key.epoch.to_string()),
        column(|record| record.key.seq.to_string()),
        column(|record| record.stream.clone()),
        column(|record| record.time.clone()),
        column(|record| record.incarnation.to_string()),
        column(|record| record.data.get().to_owned()),
    ];
    let parameters: Vec<(&(dyn ToSql + Sync), Type)> = columns
        .iter()
        .map(|column| (column as &(dyn ToSql + Sync), Type::TEXT_ARRAY))
        .collect();
    link.run(async |client| {
        client.batch_execute("begin").await?;
        if !key.is_empty() && client.execute_typed(KEY, &[(&key, Type::TEXT)]).await? == 0 {
            client.batch_execute("rollback").await?;
            return Ok(Stored::Known);
        }
        let new = client.execute_typed(RECORDS, &parameters).await?;
        client.batch_execute("commit").await?;
        Ok(Stored::New(usize::try_from(new).unwrap_or(usize::MAX)))
    })
    .await
}
