//! `export` and `import`: the whole tree, to a file and back.

use std::fs::File;
use std::io::{self, Write};
use std::path::PathBuf;

use clap::Args;
use hyper::Method;

use super::{StoreError, check, read, success};
use crate::cli::client::Client;
use crate::cli::{LocationArgs, say};

#[derive(Args, Debug)]
pub(in crate::cli) struct ExportArgs {
    /// The file; - is standard output
    #[arg(default_value = "-")]
    file: PathBuf,
    #[command(flatten)]
    pub(super) location: LocationArgs,
}

#[derive(Args, Debug)]
pub(in crate::cli) struct ImportArgs {
    /// The file; - is standard input
    file: PathBuf,
    #[command(flatten)]
    pub(super) location: LocationArgs,
}

pub(super) fn export(client: &mut Client, args: &ExportArgs) -> Result<(), StoreError> {
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

pub(super) fn import(client: &mut Client, args: &ImportArgs) -> Result<(), StoreError> {
    let text = read(&args.file)?;
    let told = success(&client.send(Method::POST, "/api/v1/import", text)?)?;
    say(format_args!("{} writes done", told["count"]));
    Ok(())
}
