//! `init`: writes a commented `sidekick.toml`.

use std::io::Write;
use std::path::PathBuf;

use clap::Args;

use super::destination::{Destination, DestinationError, is_standard};
use crate::config;
use crate::exit::ExitCode;

#[derive(Args, Debug)]
pub(super) struct InitArgs {
    /// The file to write; - is standard output
    #[arg(value_name = "FILE", default_value = config::FILE_NAME)]
    file: PathBuf,
    /// Replace the file if it exists
    #[arg(long)]
    force: bool,
}

pub(super) fn run(args: &InitArgs) -> ExitCode {
    match write(args) {
        Ok(()) if is_standard(&args.file) => ExitCode::Ok,
        Ok(()) => {
            let file = args.file.display();
            super::say(format_args!(
                "wrote {file}; set [engine] command in it, then: sidekick-watchdog check --config {file}"
            ));
            ExitCode::Ok
        }
        Err(error) => {
            super::complain(&error);
            error.exit_code()
        }
    }
}

fn write(args: &InitArgs) -> Result<(), DestinationError> {
    let mut destination = Destination::open(&args.file, args.force)?;
    let written = destination.write_all(config::template().as_bytes());
    destination.finish(written)
}
