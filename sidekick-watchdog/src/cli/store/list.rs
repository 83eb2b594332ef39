//! `list` and `count`: which nodes there are.

use std::io::{self, Write};

use clap::Args;
use url::form_urlencoded::Serializer;

use super::{StoreError, success, with_query};
use crate::cli::client::Client;
use crate::cli::{LocationArgs, say};

#[derive(Args, Debug)]
pub(in crate::cli) struct ListArgs {
    /// Which nodes
    #[arg(default_value = "/**")]
    pattern: String,
    /// One JSON object a line
    #[arg(long)]
    json: bool,
    #[command(flatten)]
    pub(super) location: LocationArgs,
}

#[derive(Args, Debug)]
pub(in crate::cli) struct CountArgs {
    /// Which nodes
    #[arg(default_value = "/**")]
    pattern: String,
    #[command(flatten)]
    pub(super) location: LocationArgs,
}

pub(super) fn list(client: &mut Client, args: &ListArgs) -> Result<(), StoreError> {
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

pub(super) fn count(client: &mut Client, args: &CountArgs) -> Result<(), StoreError> {
    let mut query = Serializer::new(String::new());
    query.append_pair("pattern", &args.pattern);
    let told = success(&client.get(&with_query("/api/v1/count", query))?)?;
    say(&told["count"]);
    Ok(())
}
