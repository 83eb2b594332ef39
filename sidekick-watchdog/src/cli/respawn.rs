//! `respawn`: started by the extension of an engine whose watchdog is dead; not for people.

use std::path::PathBuf;

use clap::Args;

use crate::exit::ExitCode;
use crate::respawn::{Respawned, respawn};

#[derive(Args, Clone, Debug)]
pub(super) struct RespawnArgs {
    /// The runtime directory of the watchdog that is to be started again
    #[arg(long, value_name = "DIR")]
    runtime_dir: PathBuf,
}

pub(super) fn run(args: &RespawnArgs) -> ExitCode {
    match respawn(&args.runtime_dir) {
        Ok(Respawned::Started { pid }) => super::say(format_args!("watchdog started, pid {pid}")),
        Ok(Respawned::Runs) => super::say("a watchdog runs already"),
        Ok(Respawned::Managed) => {
            super::say("the watchdog is run by a service manager, which starts it again");
        }
        Err(error) => {
            super::complain(&error);
            return error.exit_code();
        }
    }
    ExitCode::Ok
}
