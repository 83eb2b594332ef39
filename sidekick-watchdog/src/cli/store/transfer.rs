//! `export` and `import`: the whole tree, to a file and back.

use std::io::Write;
use std::path::PathBuf;

use clap::Args;
use hyper::Method;

use super::{StoreError, check, read, success};
use crate::cli::client::Client;
use crate::cli::destination::Destination;
use crate::cli::{LocationArgs, say};

#[derive(Args, Debug)]
pub(in crate::cli) struct ExportArgs {
    /// The file; - is standard output
    #[arg(default_value = "-")]
    file: PathBuf,
    #[command(flatten)]
    pub(super) location: LocationArgs,
    /// Replace the file if it exists
    #[arg(long)]
    force: bool,
}

#[derive(Args, Debug)]
pub(in crate::cli) struct ImportArgs {
    /// The file; - is standard input
    file: PathBuf,
    #[command(flatten)]
    pub(super) location: LocationArgs,
}

pub(super) fn export(client: &mut Client, args: &ExportArgs) -> Result<(), StoreError> {
    let mut destination = Destination::open(&args.file, args.force)?;
    let mut written = Ok(());
    let answer = client.stream("/api/v1/export", |piece| {
        written = destination.write_all(piece);
        written.is_ok()
    })?;
    check(&answer)?;
    Ok(destination.finish(written)?)
}

pub(super) fn import(client: &mut Client, args: &ImportArgs) -> Result<(), StoreError> {
    let text = read(&args.file)?;
    let told = success(&client.send(Method::POST, "/api/v1/import", text)?)?;
    say(format_args!("{} writes done", told["count"]));
    Ok(())
}
