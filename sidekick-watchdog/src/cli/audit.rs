//! `audit`: reckons the books anew from the log and compares them with what the destinations hold.

mod reckon;
mod rules;

use std::collections::BTreeSet;
use std::fmt::Write as _;

use clap::Args;
use serde::Serialize;

use super::LocationArgs;
use super::words::{count, plain};
use crate::config::{Config, SinkKind};
use crate::exit::ExitCode;
use crate::store::{LogView, StoreError};
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

impl Audit {
    /// The sinks whose destinations should have been read, and could not be.
    fn unread(&self) -> Vec<&str> {
        let unread = self.sinks.iter().filter(|sink| sink.unread.is_some());
        unread.map(|sink| &*sink.name).collect()
    }

    /// A difference counts for more than what is not known.
    fn exit_code(&self) -> ExitCode {
        match (self.balances, self.unread().is_empty()) {
            (false, _) => ExitCode::Damaged,
            (true, false) => ExitCode::Internal,
            (true, true) => ExitCode::Ok,
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
            audit.exit_code()
        }
        Err(error) => {
            super::complain(&error);
            error.exit_code()
        }
    }
}

fn audit(config: &Config) -> Result<Audit, StoreError> {
    // First the log: a destination then has all that the log says it has, and perhaps more.
    let view = LogView::open(&config.data_dir, &mut |_, _| {})?;
    let sources: BTreeSet<String> = reckon::sources(&view)?;
    let names: Vec<String> = view.sinks().map(|(sink, _)| sink.to_owned()).collect();
    let mut held = Vec::new();
    for name in names {
        let (arrivals, unread) = match arrivals(config, &name, &sources) {
            Ok(arrivals) => (arrivals, None),
            // The others are looked at all the same.
            Err(why) => (None, Some(why)),
        };
        held.push((name, arrivals, unread));
    }
    let mut ends = reckon::ends(&view);
    let mut read_back = held.iter().filter_map(|(_, arrivals, _)| arrivals.as_ref());
    if read_back.any(|arrivals| reckon::is_ahead(arrivals, &ends)) {
        // What was recorded while they were read has been accepted as well, if the log says so now.
        ends = reckon::ends(&LogView::open(&config.data_dir, &mut |_, _| {})?);
    }
    let mut sinks = Vec::new();
    for (name, arrivals, unread) in held {
        let account = reckon::account(&view, &ends, &name, arrivals.as_ref())?;
        sinks.push(SinkAccount { unread, ..account });
    }
    Ok(Audit {
        balances: sinks.iter().all(|sink| sink.differences.is_empty()),
        sinks,
        damage: view.damage().len(),
    })
}

/// What the destination of `sink` holds; `None` where it cannot be read back, and why it could not be asked where it can.
fn arrivals(
    config: &Config,
    sink: &str,
    sources: &BTreeSet<String>,
) -> Result<Option<Arrivals>, String> {
    match (sink, &config.upload.postgres) {
        (name, _) if name == SinkKind::File.word() => {
            let folder = &config.upload.file.dir;
            let arrivals = Arrivals::of_files(folder, sources);
            arrivals.map(Some).map_err(|error| {
                let remedy = crate::platform::remedy(&error);
                format!("the folder {folder:?} cannot be read: {error}; {remedy}")
            })
        }
        (name, Some(postgres)) if name == SinkKind::Postgres.word() => {
            let settings = crate::app::postgres_sink(postgres, config.upload.concurrency_max);
            let sink = PostgresSink::new(settings);
            let runtime = tokio::runtime::Builder::new_current_thread()
                .enable_all()
                .build()
                .map_err(|error| error.to_string())?;
            let arrivals = runtime.block_on(sink.arrivals(sources));
            arrivals.map(Some).map_err(|trouble| trouble.to_string())
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
        let at_destination = match (&sink.destination, &sink.unread) {
            (Some(held), _) => format!("{} records, {} rows of gaps", held.records, held.gaps),
            (None, Some(why)) => format!("NOT KNOWN, it could not be asked: {why}"),
            (None, None) => "cannot be read back".to_owned(),
        };
        line("at the destination", at_destination);
        for (table, rows) in sink.destination.iter().flat_map(|held| &held.uncounted) {
            let words = format!("{rows} rows without source, epoch and number, not compared");
            line(table, words);
        }
        if sink.not_compared > 0 {
            let words = format!(
                "{}: not in the tables that are compared, so in the others or left out",
                count(sink.not_compared, "record", "records")
            );
            line("not comparable", words);
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
    let unread = audit.unread().join(", ");
    match (audit.balances, unread.is_empty(), is_known) {
        (false, ..) => text.push_str("the books do not balance"),
        (true, false, _) => {
            let _ = write!(
                text,
                "no difference was found; what {} holds is not known",
                plain(&unread)
            );
        }
        (true, true, false) => text.push_str(
            "no difference was found; whether the sums are right is not known until every sink has caught up once",
        ),
        (true, true, true) => text.push_str("the books balance"),
    }
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

    /// What one destination does not tell hides nothing of the others.
    #[test]
    fn a_destination_that_cannot_be_asked_is_a_line_and_the_others_are_told() {
        let with = |differences: Vec<Difference>| Audit {
            balances: differences.is_empty(),
            sinks: vec![
                SinkAccount {
                    name: "file".into(),
                    destination: Some(reckon::Held::default()),
                    differences,
                    ..SinkAccount::default()
                },
                SinkAccount {
                    name: "postgres".into(),
                    unread: Some("nobody answers".into()),
                    ..SinkAccount::default()
                },
            ],
            damage: 0,
        };
        let audit = with(Vec::new());
        assert_eq!(audit.exit_code(), ExitCode::Internal);
        let text = table(&audit);
        for part in [
            "0 records, 0 rows of gaps",
            "NOT KNOWN, it could not be asked: nobody answers",
            "no difference was found; what postgres holds is not known",
        ] {
            assert!(text.contains(part), "{part}\n{text}");
        }
        let (what, numbers) = ("missing".to_owned(), None);
        let audit = with(vec![Difference { what, numbers }]);
        assert_eq!(audit.exit_code(), ExitCode::Damaged);
        assert!(table(&audit).ends_with("the books do not balance"));
    }
}
