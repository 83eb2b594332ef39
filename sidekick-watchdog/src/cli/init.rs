//! `init`: writes a commented `sidekick.toml`.

use std::fs::OpenOptions;
use std::io::{self, Write};
use std::path::PathBuf;

use clap::Args;

use crate::config;
use crate::exit::ExitCode;

#[derive(Args, Debug)]
pub(super) struct InitArgs {
    /// The file to write
    #[arg(value_name = "FILE", default_value = config::FILE_NAME)]
    file: PathBuf,
    /// Replace the file if it exists
    #[arg(long)]
    force: bool,
}

pub(super) fn run(args: &InitArgs) -> ExitCode {
    let file = args.file.display();
    match write(args) {
        Ok(()) => {
            super::say(format_args!(
                "wrote {file}; set [engine] command in it, then: sidekick-watchdog check --config {file}"
            ));
            ExitCode::Ok
        }
        Err(error) if error.kind() == io::ErrorKind::AlreadyExists => {
            super::complain(format_args!("{file} exists already; --force replaces it"));
            ExitCode::Usage
        }
        Err(error) => {
            super::complain(format_args!("{file} cannot be written: {error}"));
            ExitCode::Internal
        }
    }
}

fn write(args: &InitArgs) -> io::Result<()> {
    let text = config::template();
    if !args.force {
        let mut file = OpenOptions::new()
            .write(true)
            .create_new(true)
            .open(&args.file)?;
        return file.write_all(text.as_bytes());
    }
    // A crash in between leaves the old file or the new one, never half of it.
    let mut new = args.file.clone().into_os_string();
    new.push(".new");
    std::fs::write(&new, text)?;
    std::fs::rename(&new, &args.file)
}
