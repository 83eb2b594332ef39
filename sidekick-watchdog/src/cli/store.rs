//! `store get|put|delete|list|count|watch|export|import|lease`: the state store of the running watchdog, over its control socket.

mod lease;
mod list;
mod node;
mod transfer;
mod watch;

use std::io::{self, Read};
use std::path::{Path, PathBuf};

use clap::Subcommand;
use hyper::StatusCode;
use serde_json::Value as Json;
use url::form_urlencoded::Serializer;

use super::client::{Answer, Client, ClientError};
use super::destination::DestinationError;
use crate::exit::ExitCode;

/// Reads, writes and watches the state store.
#[derive(Debug, Subcommand)]
pub(super) enum StoreCommand {
    /// Print one node's value as JSON
    #[command(after_help = "Exit code 14 when there is no such node.\n\n\
                      Examples:\n  sidekick-watchdog store get /match/42\n  sidekick-watchdog store get /match/42 --node | jq .version")]
    Get(node::GetArgs),
    /// Set one node's value, or with a pattern that of every node that matches
    #[command(
        after_help = "Whole numbers become int, numbers with a point float, objects Dictionary, arrays Array.\n\
                      Exit code 14 when a condition does not hold; nothing is changed then.\n\n\
                      Examples:\n  sidekick-watchdog store put /motd '\"welcome\"'\n  \
                      sidekick-watchdog store put /match/42 '{\"map\": \"arena\"}' --if-absent\n  \
                      sidekick-watchdog store put /gold '{\"coins\": 5}' --when '{\"field\": {\"coins\": [\">=\", 10]}}'\n  \
                      sidekick-watchdog store put /level - < level.json"
    )]
    Put(node::PutArgs),
    /// Delete a node and all below it, or every node that matches a pattern
    #[command(
        after_help = "Nothing to delete is no error.\n\nExample: sidekick-watchdog store delete '/match/*'"
    )]
    Delete(node::DeleteArgs),
    /// List the nodes that match a pattern
    #[command(
        after_help = "* stands for anything within a segment, ** for any number of segments.\n\n\
                      Examples:\n  sidekick-watchdog store list\n  sidekick-watchdog store list '/match/*' --json"
    )]
    List(list::ListArgs),
    /// Print how many nodes match a pattern
    #[command(after_help = "Example: sidekick-watchdog store count '/match/*'")]
    Count(list::CountArgs),
    /// Take, renew or release a lease: one holder at a time, and an end by itself
    #[command(
        subcommand,
        after_help = "Whoever holds a lease renews it before the time is over for which it may be used.\nIts nodes go when it ends.\n\n\
                      Example:\n  lease=$(sidekick-watchdog store lease take /jobs/backup --ttl 30s) || exit\n  \
                      sidekick-watchdog store put /jobs/backup/host '\"a\"' --lease \"$lease\"\n  \
                      lease=$(sidekick-watchdog store lease renew \"$lease\") || exit\n  \
                      sidekick-watchdog store lease release \"$lease\""
    )]
    Lease(lease::LeaseCommand),
    /// Print changes as they come, one JSON object a line
    #[command(
        after_help = "Example: sidekick-watchdog store watch '/match/**'\n\nWith --from REVISION nothing after that revision is missed, or a \
                      line with \"event\": \"compacted\" says so."
    )]
    Watch(watch::WatchArgs),
    /// Write the whole tree to a file (NDJSON with a checksum)
    #[command(
        after_help = "Leases are not exported. Godot's types are kept.\n\nExample: sidekick-watchdog store export tree.ndjson"
    )]
    Export(transfer::ExportArgs),
    /// Put every node of an exported tree; other nodes stay
    #[command(
        after_help = "The file is checked before anything is changed. Doing it again after a failure does no harm.\n\n\
                      Example: sidekick-watchdog store import tree.ndjson"
    )]
    Import(transfer::ImportArgs),
}

pub(super) fn run(command: &StoreCommand) -> ExitCode {
    let location = match command {
        StoreCommand::Get(args) => &args.location,
        StoreCommand::Put(args) => &args.location,
        StoreCommand::Delete(args) => &args.location,
        StoreCommand::List(args) => &args.location,
        StoreCommand::Count(args) => &args.location,
        StoreCommand::Lease(command) => command.location(),
        StoreCommand::Watch(args) => &args.location,
        StoreCommand::Export(args) => &args.location,
        StoreCommand::Import(args) => &args.location,
    };
    let config = match location.load(Vec::new()) {
        Ok(config) => config,
        Err(errors) => return super::complain_of_config(&errors),
    };
    let carried_out = Client::connect(&config)
        .map_err(StoreError::from)
        .and_then(|mut client| match command {
            StoreCommand::Get(args) => node::get(&mut client, args),
            StoreCommand::Put(args) => node::put(&mut client, args),
            StoreCommand::Delete(args) => node::delete(&mut client, args),
            StoreCommand::List(args) => list::list(&mut client, args),
            StoreCommand::Count(args) => list::count(&mut client, args),
            StoreCommand::Lease(command) => lease::run(&mut client, command),
            StoreCommand::Watch(args) => watch::watch(&mut client, args),
            StoreCommand::Export(args) => transfer::export(&mut client, args),
            StoreCommand::Import(args) => transfer::import(&mut client, args),
        });
    match carried_out {
        Ok(()) => ExitCode::Ok,
        Err(error) => {
            super::complain(&error);
            error.exit_code()
        }
    }
}

/// Why a command did not do what it was asked.
#[derive(Debug, thiserror::Error)]
enum StoreError {
    #[error(transparent)]
    Client(#[from] ClientError),
    #[error("{0}")]
    NotSo(String),
    #[error("{0}")]
    Usage(String),
    #[error("the store refused: {0}")]
    Refused(String),
    #[error("the store is not open: {0}")]
    NotOpen(String),
    #[error("{path:?}: {error}")]
    File { path: PathBuf, error: io::Error },
    #[error(transparent)]
    Destination(#[from] DestinationError),
}

impl StoreError {
    fn exit_code(&self) -> ExitCode {
        match self {
            Self::Client(error) => error.exit_code(),
            Self::NotSo(_) => ExitCode::NotSo,
            Self::Usage(_) => ExitCode::Usage,
            Self::NotOpen(_) => ExitCode::StoreUnusable,
            Self::Refused(_) | Self::File { .. } => ExitCode::Internal,
            Self::Destination(error) => error.exit_code(),
        }
    }
}

/// The JSON of an answer that is a success.
fn success(answer: &Answer) -> Result<Json, StoreError> {
    check(answer)?;
    serde_json::from_str(&answer.body)
        .map_err(|error| ClientError::Broken(format!("its answer is not JSON ({error})")).into())
}

/// Whether an answer is a success; what it says if it is none.
fn check(answer: &Answer) -> Result<(), StoreError> {
    if answer.code.is_success() {
        return Ok(());
    }
    let message = answer.sentence();
    Err(match answer.code {
        StatusCode::NOT_FOUND | StatusCode::PRECONDITION_FAILED | StatusCode::CONFLICT => {
            StoreError::NotSo(message)
        }
        StatusCode::BAD_REQUEST => StoreError::Usage(message),
        StatusCode::SERVICE_UNAVAILABLE => StoreError::NotOpen(message),
        _ => StoreError::Refused(message),
    })
}

/// The address of a node or a pattern.
fn address(path: &str) -> Result<String, StoreError> {
    address_below("/api/v1/store", path)
}

fn address_below(above: &str, path: &str) -> Result<String, StoreError> {
    let path = path.strip_prefix('/').ok_or_else(|| {
        StoreError::Usage(format!(
            "{path:?} is no path; one begins with a slash, as /match/42"
        ))
    })?;
    // Slashes stay; everything else that has a meaning in an address is written in hexadecimal.
    let mut address = format!("{above}/");
    for byte in path.bytes() {
        match byte {
            b'/' | b'-' | b'_' | b'.' | b'~' | b'0'..=b'9' | b'a'..=b'z' | b'A'..=b'Z' => {
                address.push(char::from(byte));
            }
            other => address.push_str(&format!("%{other:02X}")),
        }
    }
    Ok(address)
}

fn with_query(address: &str, query: Serializer<'_, String>) -> String {
    let mut query = query;
    match query.finish() {
        query if query.is_empty() => address.to_owned(),
        query => format!("{address}?{query}"),
    }
}

/// The bytes of a file, or of standard input.
fn read(path: &Path) -> Result<Vec<u8>, StoreError> {
    let read = match path.as_os_str() == "-" {
        true => {
            let mut text = Vec::new();
            io::stdin().lock().read_to_end(&mut text).map(|_| text)
        }
        false => std::fs::read(path),
    };
    read.map_err(|error| StoreError::File {
        path: path.to_owned(),
        error,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_path_is_written_as_an_address() {
        assert_eq!(address("/match/42").unwrap(), "/api/v1/store/match/42");
        assert_eq!(address("/a b/*?").unwrap(), "/api/v1/store/a%20b/%2A%3F");
        assert!(matches!(address("match"), Err(StoreError::Usage(_))));
    }

    #[test]
    fn what_the_store_answers_has_its_exit_code() {
        let code = |code, body: &str| {
            let body = body.to_owned();
            success(&Answer { code, body }).map_err(|error| error.exit_code())
        };
        assert!(code(StatusCode::OK, "{}").is_ok());
        let told = "{\"message\": \"no\"}";
        for (status, expected) in [
            (StatusCode::NOT_FOUND, ExitCode::NotSo),
            (StatusCode::PRECONDITION_FAILED, ExitCode::NotSo),
            (StatusCode::BAD_REQUEST, ExitCode::Usage),
            (StatusCode::SERVICE_UNAVAILABLE, ExitCode::StoreUnusable),
            (StatusCode::INSUFFICIENT_STORAGE, ExitCode::Internal),
        ] {
            assert_eq!(code(status, told), Err(expected));
        }
    }
}
