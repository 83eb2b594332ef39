//! `status`: asks the running watchdog, as a table for people or JSON for programs.

mod table;

use clap::Args;

use super::LocationArgs;
use super::client::Client;
use crate::exit::ExitCode;
use table::table;

#[derive(Args, Debug)]
pub(super) struct StatusArgs {
    #[command(flatten)]
    location: LocationArgs,
    /// Print the whole status as JSON
    #[arg(long)]
    json: bool,
}

pub(super) fn run(args: &StatusArgs) -> ExitCode {
    let config = match args.location.load(Vec::new()) {
        Ok(config) => config,
        Err(errors) => return super::complain_of_config(&errors),
    };
    match Client::connect(&config).and_then(|mut client| client.status()) {
        Ok((status, json)) => {
            super::say(match args.json {
                true => json,
                false => table(&status),
            });
            ExitCode::Ok
        }
        Err(error) => {
            super::complain(&error);
            error.exit_code()
        }
    }
}
