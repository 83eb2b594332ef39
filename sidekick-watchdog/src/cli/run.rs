//! `run`: reads the configuration, starts the log and hands over to [`crate::app`].

use tracing::warn;

use super::ConfigArgs;
use crate::config::Config;
use crate::exit::ExitCode;
use crate::logging::{self, LogGuard};

pub(super) fn run(args: &ConfigArgs) -> ExitCode {
    let config = match args.load() {
        Ok(config) => config,
        Err(errors) => return super::complain_of_config(&errors),
    };
    if config.engine.command.is_empty() {
        super::complain(
            "there is no engine to launch: set [engine] command in sidekick.toml (`sidekick-watchdog init` writes one), \
             or name it after `--`, as in `sidekick-watchdog run -- godot --headless --path my_game`",
        );
        return ExitCode::BadConfig;
    }
    // Held until the end: dropping it writes the last lines.
    let log = match logging::init(&config.log) {
        Ok(guard) => guard,
        Err(error) => {
            super::complain(error);
            return ExitCode::BadConfig;
        }
    };
    for warning in &config.warnings {
        warn!(warning, "configuration");
    }
    serve(config, &log)
}

/// Runs the watchdog until it is asked to end.
fn serve(_config: Config, _log: &LogGuard) -> ExitCode {
    tracing::error!("this build cannot run an engine yet: the parts are not joined");
    ExitCode::Internal
}
