//! `audit`: reckons the books anew from the log and compares them with what the destinations hold.

mod reckon;
mod rules;

use std::collections::BTreeSet;
use std::fmt::Write as _;

use clap::Args;
use serde::Serialize;

use super::LocationArgs;
use super::words::plain;
use crate::config::{Config, SinkKind};
use crate::exit::ExitCode;
use crate::store::LogView;
use crate::upload::sink::PostgresSink;
use crate::upload::sink::arrivals::Arrivals;

use reckon::{Difference, SinkAccount};

/// Differences that the table shows of one sink; the JSON has all.
const SHOWN_MAX: usize = 20;

#[derive(Args, Debug)]
pub(super) struct AuditArgs {
    #[command(flatten)]
    location: LocationArgs,
    /// Print it as JSON
    #[arg(long)]
    json: bool,
}

/// What an audit found.
#[derive(Debug, Serialize)]
struct Audit {
    balances: bool,
    sinks: Vec<SinkAccount>,
    /// Damaged places of the log.
    damage: usize,
}

/// Why there is no audit.
#[derive(Debug, thiserror::Error)]
enum AuditError {
    #[error(transparent)]
    Store(#[from] crate::store::StoreError),
    #[error("the folder {folder:?} of the file sink cannot be read: {error}; {}", crate::platform::remedy(.error))]
    Files {
        folder: std::path::PathBuf,
        error: std::io::Error,
    },
    #[error("PostgreSQL cannot be asked: {0}; try again when it can be reached")]
    Postgres(String),
}

impl AuditError {
    fn exit_code(&self) -> ExitCode {
        match self {
            Self::Store(error) => error.exit_code(),
            Self::Files { .. } | Self::Postgres(_) => ExitCode::Internal,
        }
    }
}

pub(super) fn run(args: &AuditArgs) -> ExitCode {
    let config = match args.location.load(Vec::new()) {
        Ok(config) => config,
        Err(errors) => return super::complain_of_config(&errors),
    };
    match audit(&config) {
        Ok(audit) => {
            super::say(match args.json {
                true => serde_json::to_string_pretty(&audit).unwrap_or_default(),
                false => table(&audit),
            });
            match audit.balances {
                true => ExitCode::Ok,
                false => ExitCode::Damaged,
            }
        }
        Err(error) => {
            super::complain(&error);
            error.exit_code()
        }
    }
}

fn audit(config: &Config) -> Result<Audit, AuditError> {
    // First the log: a destination then has all that the log says it has, and perhaps more.
    let view = LogView::open(&config.data_dir, &mut |_, _| {})?;
    let sources: BTreeSet<String> = reckon::sources(&view)?;
    let names: Vec<String> = view.sinks().map(|(sink, _)| sink.to_owned()).collect();
    let mut held = Vec::new();
    for name in names {
        let arrivals = arrivals(config, &name, &sources)?;
        held.push((name, arrivals));
    }
    let mut ends = reckon::ends(&view);
    let mut read_back = held.iter().filter_map(|(_, arrivals)| arrivals.as_ref());
    if read_back.any(|arrivals| reckon::is_ahead(arrivals, &ends)) {
        // What was recorded while they were read has been accepted as well, if the log says so now.
        ends = reckon::ends(&LogView::open(&config.data_dir, &mut |_, _| {})?);
    }
    let mut sinks = Vec::new();
    for (name, arrivals) in &held {
        sinks.push(reckon::account(&view, &ends, name, arrivals.as_ref())?);
    }
    Ok(Audit {
        balances: sinks.iter().all(|sink| sink.differences.is_empty()),
        sinks,
        damage: view.damage().len(),
    })
}

/// What the destination of `sink` holds; `None` where it cannot be read back.
fn arrivals(
    config: &Config,
    sink: &str,
    sources: &BTreeSet<String>,
) -> Result<Option<Arrivals>, AuditError> {
    match (sink, &config.upload.postgres) {
        (name, _) if name == SinkKind::File.word() => {
            let folder = &config.upload.file.dir;
            let arrivals = Arrivals::of_files(folder, sources);
            arrivals.map(Some).map_err(|error| AuditError::Files {
                folder: folder.clone(),
                error,
            })
        }
        (name, Some(postgres)) if name == SinkKind::Postgres.word() => {
            let settings = crate::app::postgres_sink(postgres, config.upload.concurrency_max);
            let sink = PostgresSink::new(settings);
            let runtime = tokio::runtime::Builder::new_current_thread()
                .enable_all()
                .build()
                .map_err(|error| AuditError::Postgres(error.to_string()))?;
            let arrivals = runtime.block_on(sink.arrivals(sources));
            arrivals
                .map(Some)
                .map_err(|trouble| AuditError::Postgres(trouble.to_string()))
        }
        _ => Ok(None),
    }
}

fn table(audit: &Audit) -> String {
    let mut text = String::new();
    for sink in &audit.sinks {
        let _ = writeln!(text, "{}", plain(&sink.name));
        let mut line = |name: &str, words: String| {
            let _ = writeln!(text, "  {name:<22} {}", plain(&words));
        };
        let number = |number: Option<u64>| match number {
            Some(number) => number.to_string(),
            None => "not known until it has caught up once".to_owned(),
        };
        line("accepted", number(sink.accepted));
        line("uploaded", sink.uploaded.to_string());
        line("notes", sink.notes.to_string());
        line("requests of the game", sink.requests.to_string());
        for (reason, count) in &sink.dropped {
            line("dropped", format!("{count} ({reason})"));
        }
        line("lost", sink.lost.to_string());
        line("dead", sink.dead.to_string());
        line("pending", sink.pending.to_string());
        match &sink.destination {
            Some(held) => line(
                "at the destination",
                format!("{} records, {} rows of gaps", held.records, held.gaps),
            ),
            None => line("at the destination", "cannot be read back".to_owned()),
        }
        for (table, rows) in sink.destination.iter().flat_map(|held| &held.uncounted) {
            let words = format!("{rows} rows without source, epoch and number, not compared");
            line(table, words);
        }
        if sink.left_out > 0 {
            let words = format!(
                "{} of those that rules or operators left out",
                sink.left_out
            );
            line("not there", words);
        }
        for difference in sink.differences.iter().take(SHOWN_MAX) {
            line("DIFFERENCE", difference.to_string());
        }
        if let Some(more @ 1..) = sink.differences.len().checked_sub(SHOWN_MAX) {
            line("DIFFERENCE", format!("and {more} more; --json has all"));
        }
    }
    if audit.damage > 0 {
        let _ = writeln!(
            text,
            "the log is damaged; `sidekick-watchdog buffer verify` tells where"
        );
    }
    let is_known = audit.sinks.iter().all(|sink| sink.accepted.is_some());
    text.push_str(match (audit.balances, is_known) {
        (true, true) => "the books balance",
        (true, false) => "no difference was found; whether the sums are right is not known until every sink has caught up once",
        (false, _) => "the books do not balance",
    });
    text
}

impl std::fmt::Display for Difference {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(&self.what)?;
        match &self.numbers {
            Some(of) => write!(
                f,
                ": {} to {} of session {} of {}",
                of.first_seq, of.last_seq, of.epoch, of.source
            ),
            None => Ok(()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn books_balance_only_where_their_beginning_is_known() {
        let table = |accepted: Option<u64>| {
            let sink = SinkAccount {
                accepted,
                ..SinkAccount::default()
            };
            table(&Audit {
                balances: true,
                sinks: vec![sink],
                damage: 0,
            })
        };
        assert!(table(Some(0)).ends_with("the books balance"));
        assert!(!table(None).contains("balance"));
    }
}
