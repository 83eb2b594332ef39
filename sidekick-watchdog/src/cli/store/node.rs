//! `get`, `put`, `delete`: one node, or with a pattern all that match.

use clap::Args;
use hyper::Method;
use url::form_urlencoded::Serializer;

use super::{StoreError, address, read, success, with_query};
use crate::cli::client::Client;
use crate::cli::{LocationArgs, say};

#[derive(Args, Debug)]
pub(in crate::cli) struct GetArgs {
    /// The node, such as /match/42
    path: String,
    /// Print the whole node: value, versions, children, lease
    #[arg(long)]
    node: bool,
    #[command(flatten)]
    pub(super) location: LocationArgs,
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
pub(in crate::cli) struct PutArgs {
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
    pub(super) location: LocationArgs,
}

#[derive(Args, Debug)]
pub(in crate::cli) struct DeleteArgs {
    /// The node or a pattern
    path: String,
    #[command(flatten)]
    conditions: Conditions,
    #[command(flatten)]
    pub(super) location: LocationArgs,
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

pub(super) fn get(client: &mut Client, args: &GetArgs) -> Result<(), StoreError> {
    let node = success(&client.get(&address(&args.path)?)?)?;
    match args.node {
        true => say(&node),
        false if node["has_value"] == false => {
            let text = format!("{} has no value, but children", args.path);
            return Err(StoreError::NotSo(text));
        }
        false => say(&node["value"]),
    }
    Ok(())
}

pub(super) fn put(client: &mut Client, args: &PutArgs) -> Result<(), StoreError> {
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
        true => say(format_args!("{} nodes changed", told["count"])),
        false => say(format_args!("version {}", told["version"])),
    }
    Ok(())
}

pub(super) fn delete(client: &mut Client, args: &DeleteArgs) -> Result<(), StoreError> {
    let path = with_query(&address(&args.path)?, conditions(&args.conditions));
    let told = success(&client.send(Method::DELETE, &path, Vec::new())?)?;
    say(format_args!("{} nodes deleted", told["count"]));
    Ok(())
}
