//! `state`: started by a watchdog to read or write the state in sled; not for people.

use std::path::PathBuf;

use clap::Args;

use crate::exit::ExitCode;

#[derive(Args, Clone, Debug)]
pub(super) struct StateArgs {
    /// What to do
    #[arg(value_parser = ["load", "save"])]
    task: String,
    /// The database's directory
    #[arg(value_name = "DIR")]
    directory: PathBuf,
}

pub(super) fn run(args: &StateArgs) -> ExitCode {
    crate::store::state_helper(&args.task, &args.directory)
}
