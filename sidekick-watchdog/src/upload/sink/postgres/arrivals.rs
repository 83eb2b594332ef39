//! Reads back what the tables hold, to be compared with the log.

use std::collections::BTreeSet;
use std::pin::pin;

use futures_util::StreamExt;
use uuid::Uuid;

use super::PostgresSink;
use super::tables::{GAPS_INDEX, TableName, Target};
use crate::postgres::{Link, Trouble};
use crate::upload::sink::arrivals::Arrivals;

impl PostgresSink {
    /// What the tables hold of `sources`. Reads every row of them, without the data; one table after the other, so that
    /// what is being written meanwhile may be seen in one and not yet in another. Tables that the sink would make hold nothing.
    ///
    /// # Errors
    /// What kept it from that.
    pub async fn arrivals(&self, sources: &BTreeSet<String>) -> Result<Arrivals, Trouble> {
        let mut link = self.server.connect().await?;
        let mut arrivals = Arrivals::default();
        let mut read = BTreeSet::new();
        for (index, target) in self.tables.targets.iter().enumerate() {
            if !read.insert(target.table.to_string()) {
                continue;
            }
            if target.is_ours && self.create_tables && !is_there(&mut link, &target.table).await? {
                // It is made before the first row.
                continue;
            }
            let is_gap = index == usize::from(GAPS_INDEX);
            match target.key() {
                Some(key) => {
                    read_keys(&mut link, target, &key, is_gap, sources, &mut arrivals).await?;
                }
                None => {
                    let query = format!("select count(*) from {}", target.table);
                    let row = link
                        .run(async |client| client.query_one(&query, &[]).await)
                        .await?;
                    let rows = u64::try_from(row.get::<_, i64>(0)).unwrap_or(0);
                    arrivals.uncounted.insert(target.table.to_string(), rows);
                }
            }
        }
        Ok(arrivals)
    }
}

async fn is_there(link: &mut Link, table: &TableName) -> Result<bool, Trouble> {
    let query = format!("select to_regclass('{table}') is not null");
    let row = link
        .run(async |client| client.query_one(&query, &[]).await)
        .await?;
    Ok(row.get(0))
}

async fn read_keys(
    link: &mut Link,
    target: &Target,
    key: &str,
    is_gap: bool,
    sources: &BTreeSet<String>,
    arrivals: &mut Arrivals,
) -> Result<(), Trouble> {
    let mut columns = key.split(", ");
    let mut text = || format!("{}::text", columns.next().unwrap_or_default());
    let (source, epoch, seq) = (text(), text(), text());
    // As texts: the columns of an operator's own table may be of any type.
    let query = format!(
        "select {source}, {epoch}, {seq} from {} where {source} = any($1)",
        target.table
    );
    let sources: Vec<&str> = sources.iter().map(String::as_str).collect();
    link.run(async |client| {
        let statement = client.prepare(&query).await?;
        let rows = client.query_raw(&statement, [&sources]).await?;
        let mut rows = pin!(rows);
        while let Some(row) = rows.next().await {
            let row = row?;
            let text = |at| row.get::<_, Option<&str>>(at).unwrap_or_default();
            let parsed = (text(1).parse::<Uuid>(), text(2).parse());
            match parsed {
                (Ok(epoch), Ok(seq)) => arrivals.take(text(0), epoch, seq, is_gap),
                _ => arrivals.complain(format!(
                    "{}: a row of {:?} with epoch {:?} and number {:?}",
                    target.table,
                    text(0),
                    text(1),
                    text(2)
                )),
            }
        }
        Ok(())
    })
    .await
}
