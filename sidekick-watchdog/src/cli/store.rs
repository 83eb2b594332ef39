//! `store get|put|delete|list|count|watch|export|import`, and `store lease` (`lease.rs`): the state store of the running watchdog, over its
//! control socket.

mod lease;

use std::fs::File;
use std::io::{self, Read, Write};
use std::path::PathBuf;

use clap::{Args, Subcommand};
use hyper::{Method, StatusCode};
use serde_json::Value as Json;
use url::form_urlencoded::Serializer;

use super::LocationArgs;
use super::client::{Answer, Client, ClientError};
use crate::exit::ExitCode;

/// Reads, writes and watches the state store.
#[derive(Debug, Subcommand)]
pub(super) enum StoreCommand {
    /// Print one node's value as JSON
    #[command(after_help = "Exit code 14 when there is no such node.\n\n\
                      Examples:\n  sidekick-watchdog store get /match/42\n  sidekick-watchdog store get /match/42 --node | jq .version")]
    Get(GetArgs),
    /// Set one node's value, or with a pattern that of every node that matches
    #[command(
        after_help = "Whole numbers become int, numbers with a point float, objects Dictionary, arrays Array.\n\
                      Exit code 14 when a condition does not hold; nothing is changed then.\n\n\
                      Examples:\n  sidekick-watchdog store put /motd '\"welcome\"'\n  \
                      sidekick-watchdog store put /match/42 '{\"map\": \"arena\"}' --if-absent\n  \
                      sidekick-watchdog store put /gold '{\"coins\": 5}' --when '{\"field\": {\"coins\": [\">=\", 10]}}'\n  \
                      sidekick-watchdog store put /level - < level.json"
    )]
    Put(PutArgs),
    /// Delete a node and all below it, or every node that matches a pattern
    #[command(
        after_help = "Nothing to delete is no error.\n\nExample: sidekick-watchdog store delete '/match/*'"
    )]
    Delete(DeleteArgs),
    /// List the nodes that match a pattern
    #[command(
        after_help = "* stands for anything within a segment, ** for any number of segments.\n\n\
                      Examples:\n  sidekick-watchdog store list\n  sidekick-watchdog store list '/match/*' --json"
    )]
    List(ListArgs),
    /// Print how many nodes match a pattern
    #[command(after_help = "Example: sidekick-watchdog store count '/match/*'")]
    Count(CountArgs),
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
    Watch(WatchArgs),
    /// Write the whole tree to a file (NDJSON with a checksum)
    #[command(
        after_help = "Leases are not exported. Godot's types are kept.\n\nExample: sidekick-watchdog store export tree.ndjson"
    )]
    Export(ExportArgs),
    /// Put every node of an exported tree; other nodes stay
    #[command(
        after_help = "The file is checked before anything is changed. Doing it again after a failure does no harm.\n\n\
                      Example: sidekick-watchdog store import tree.ndjson"
    )]
    Import(ImportArgs),
}

#[derive(Args, Debug)]
pub(super) struct GetArgs {
    /// The node, such as /match/42
    path: String,
    /// Print the whole node: value, versions, children, lease
    #[arg(long)]
    node: bool,
    #[command(flatten)]
    location: LocationArgs,
}

/// What must hold, or nothing is changed.
#[derive(Args, Debug)]
struct Conditions {
    /// Only if the node is there
    #[arg(long, conflicts_with = "if_absent")]
    if_exists: bool,
    /// Only if the node is not there
    #[arg(long)]
    if_absent: bool,
    /// Only if the node has this version
    #[arg(long, value_name = "VERSION")]
    if_version: Option<u64>,
    /// Only if these conditions hold, as Sidekick.store takes them
    #[arg(long, value_name = "JSON")]
    when: Option<String>,
}

#[derive(Args, Debug)]
pub(super) struct PutArgs {
    /// The node or a pattern
    path: String,
    /// The value as JSON; - reads standard input
    #[arg(allow_hyphen_values = true)]
    value: String,
    #[command(flatten)]
    conditions: Conditions,
    /// The node is deleted when this no longer holds, as {"/match/42": true}
    #[arg(long, value_name = "JSON")]
    keep_while: Option<String>,
    /// Only while this lease is held, and the node goes when it ends; what `store lease take` has printed
    #[arg(long, value_name = "LEASE")]
    lease: Option<String>,
    #[command(flatten)]
    location: LocationArgs,
}

#[derive(Args, Debug)]
pub(super) struct DeleteArgs {
    /// The node or a pattern
    path: String,
    #[command(flatten)]
    conditions: Conditions,
    #[command(flatten)]
    location: LocationArgs,
}

#[derive(Args, Debug)]
pub(super) struct ListArgs {
    /// Which nodes
    #[arg(default_value = "/**")]
    pattern: String,
    /// One JSON object a line
    #[arg(long)]
    json: bool,
    #[command(flatten)]
    location: LocationArgs,
}

#[derive(Args, Debug)]
pub(super) struct CountArgs {
    /// Which nodes
    #[arg(default_value = "/**")]
    pattern: String,
    #[command(flatten)]
    location: LocationArgs,
}

#[derive(Args, Debug)]
pub(super) struct WatchArgs {
    /// Which nodes
    #[arg(default_value = "/**")]
    pattern: String,
    /// Begin after this revision instead of now
    #[arg(long, value_name = "REVISION")]
    from: Option<u64>,
    #[command(flatten)]
    location: LocationArgs,
}

#[derive(Args, Debug)]
pub(super) struct ExportArgs {
    /// The file; - is standard output
    #[arg(default_value = "-")]
    file: PathBuf,
    #[command(flatten)]
    location: LocationArgs,
}

#[derive(Args, Debug)]
pub(super) struct ImportArgs {
    /// The file; - is standard input
    file: PathBuf,
    #[command(flatten)]
    location: LocationArgs,
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
            StoreCommand::Get(args) => get(&mut client, args),
            StoreCommand::Put(args) => put(&mut client, args),
            StoreCommand::Delete(args) => delete(&mut client, args),
            StoreCommand::List(args) => list(&mut client, args),
            StoreCommand::Count(args) => count(&mut client, args),
            StoreCommand::Lease(command) => lease::run(&mut client, command),
            StoreCommand::Watch(args) => watch(&mut client, args),
            StoreCommand::Export(args) => export(&mut client, args),
            StoreCommand::Import(args) => import(&mut client, args),
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
}

impl StoreError {
    fn exit_code(&self) -> ExitCode {
        match self {
            Self::Client(error) => error.exit_code(),
            Self::NotSo(_) => ExitCode::NotSo,
            Self::Usage(_) => ExitCode::Usage,
            Self::NotOpen(_) => ExitCode::StoreUnusable,
            Self::Refused(_) | Self::File { .. } => ExitCode::Internal,
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

fn conditions(asked: &Conditions) -> Serializer<'static, String> {
    let mut query = Serializer::new(String::new());
    if asked.if_exists || asked.if_absent {
        query.append_pair("exists", if asked.if_exists { "true" } else { "false" });
    }
    if let Some(version) = asked.if_version {
        query.append_pair("version", &version.to_string());
    }
    if let Some(when) = &asked.when {
        query.append_pair("when", when);
    }
    query
}

fn get(client: &mut Client, args: &GetArgs) -> Result<(), StoreError> {
    let node = success(&client.get(&address(&args.path)?)?)?;
    match args.node {
        true => super::say(&node),
        false if node["has_value"] == false => {
            let text = format!("{} has no value, but children", args.path);
            return Err(StoreError::NotSo(text));
        }
        false => super::say(&node["value"]),
    }
    Ok(())
}

fn put(client: &mut Client, args: &PutArgs) -> Result<(), StoreError> {
    let value = match args.value.as_str() {
        "-" => read("-".as_ref())?,
        value => value.as_bytes().to_vec(),
    };
    if let Err(error) = serde_json::from_slice::<serde::de::IgnoredAny>(&value) {
        let text = format!(
            "the value is not JSON ({error}); a text stands in quotes of its own, as '\"welcome\"', a dictionary in braces, as \
             '{{\"map\": \"arena\"}}'"
        );
        return Err(StoreError::Usage(text));
    }
    let mut query = conditions(&args.conditions);
    if let Some(keep_while) = &args.keep_while {
        query.append_pair("keep_while", keep_while);
    }
    if let Some(lease) = &args.lease {
        query.append_pair("lease", lease);
    }
    let path = with_query(&address(&args.path)?, query);
    let told = success(&client.send(Method::PUT, &path, value)?)?;
    match args.path.contains('*') {
        true => super::say(format_args!("{} nodes changed", told["count"])),
        false => super::say(format_args!("version {}", told["version"])),
    }
    Ok(())
}

fn delete(client: &mut Client, args: &DeleteArgs) -> Result<(), StoreError> {
    let path = with_query(&address(&args.path)?, conditions(&args.conditions));
    let told = success(&client.send(Method::DELETE, &path, Vec::new())?)?;
    super::say(format_args!("{} nodes deleted", told["count"]));
    Ok(())
}

fn list(client: &mut Client, args: &ListArgs) -> Result<(), StoreError> {
    let mut after = String::new();
    loop {
        let mut query = Serializer::new(String::new());
        query.append_pair("pattern", &args.pattern);
        query.append_pair("after", &after);
        let told = success(&client.get(&with_query("/api/v1/store", query))?)?;
        let mut out = io::stdout().lock();
        for node in told["nodes"].as_array().into_iter().flatten() {
            let written = match args.json {
                true => writeln!(out, "{node}"),
                false => {
                    let path = node["path"].as_str().unwrap_or_default();
                    match node["has_value"] == true {
                        true => writeln!(out, "{path}\t{}", node["value"]),
                        false => writeln!(out, "{path}"),
                    }
                }
            };
            if written.is_err() {
                // Whoever reads us has gone: `store list | head`.
                return Ok(());
            }
        }
        match told["next"].as_str() {
            Some(next) => after = next.to_owned(),
            None => return Ok(()),
        }
    }
}

fn count(client: &mut Client, args: &CountArgs) -> Result<(), StoreError> {
    let mut query = Serializer::new(String::new());
    query.append_pair("pattern", &args.pattern);
    let told = success(&client.get(&with_query("/api/v1/count", query))?)?;
    super::say(&told["count"]);
    Ok(())
}

fn watch(client: &mut Client, args: &WatchArgs) -> Result<(), StoreError> {
    let mut query = Serializer::new(String::new());
    query.append_pair("pattern", &args.pattern);
    if let Some(from) = args.from {
        query.append_pair("from", &from.to_string());
    }
    let mut events = Events::default();
    let mut is_closed = false;
    let answer = client.stream(&with_query("/api/v1/watch", query), |piece| {
        let text = events.take(piece);
        let mut out = io::stdout().lock();
        is_closed = out
            .write_all(text.as_bytes())
            .and_then(|()| out.flush())
            .is_err();
        !is_closed
    })?;
    check(&answer)?;
    match is_closed {
        true => Ok(()),
        false => Err(StoreError::NotOpen("it has been closed".to_owned())),
    }
}

/// Puts pieces of server-sent events together and makes a line of JSON of each.
#[derive(Debug, Default)]
struct Events {
    partial: Vec<u8>,
    name: String,
}

impl Events {
    fn take(&mut self, piece: &[u8]) -> String {
        self.partial.extend_from_slice(piece);
        let mut lines = String::new();
        let Some(end) = self.partial.iter().rposition(|&byte| byte == b'\n') else {
            return lines;
        };
        let whole: Vec<u8> = self.partial.drain(..=end).collect();
        for line in String::from_utf8_lossy(&whole).lines() {
            if let Some(name) = line.strip_prefix("event: ") {
                name.clone_into(&mut self.name);
            }
            let Some(data) = line.strip_prefix("data: ") else {
                continue;
            };
            if let Ok(Json::Object(mut data)) = serde_json::from_str(data) {
                data.insert("event".to_owned(), self.name.as_str().into());
                lines.push_str(&format!("{}\n", Json::Object(data)));
            }
        }
        lines
    }
}

fn export(client: &mut Client, args: &ExportArgs) -> Result<(), StoreError> {
    let is_standard = args.file.as_os_str() == "-";
    let failed = |error| StoreError::File {
        path: args.file.clone(),
        error,
    };
    let mut written = Ok(());
    let mut take = |out: &mut dyn Write, piece: &[u8]| {
        written = out.write_all(piece);
        written.is_ok()
    };
    if is_standard {
        let mut out = io::stdout().lock();
        check(&client.stream("/api/v1/export", |piece| take(&mut out, piece))?)?;
        return written.and_then(|()| out.flush()).map_err(failed);
    }
    // Whoever finds the file finds all of it.
    let mut partial = args.file.clone().into_os_string();
    partial.push(".part");
    let mut file = File::create(&partial).map_err(failed)?;
    check(&client.stream("/api/v1/export", |piece| take(&mut file, piece))?)?;
    written
        .and_then(|()| file.sync_all())
        .and_then(|()| std::fs::rename(&partial, &args.file))
        .map_err(failed)
}

fn import(client: &mut Client, args: &ImportArgs) -> Result<(), StoreError> {
    let text = read(&args.file)?;
    let told = success(&client.send(Method::POST, "/api/v1/import", text)?)?;
    super::say(format_args!("{} writes done", told["count"]));
    Ok(())
}

fn read(path: &std::path::Path) -> Result<Vec<u8>, StoreError> {
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
    fn events_become_lines_however_they_are_cut() {
        let text = b"event: ready\ndata: {\"revision\":4}\nid: 4\n\n:\n\nevent: put\ndata: {\"path\":\"/a\"}\nid: 5\n\n";
        for size in [1, 7, text.len()] {
            let mut events = Events::default();
            let lines: String = text.chunks(size).map(|piece| events.take(piece)).collect();
            assert_eq!(
                lines,
                "{\"event\":\"ready\",\"revision\":4}\n{\"event\":\"put\",\"path\":\"/a\"}\n"
            );
        }
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
