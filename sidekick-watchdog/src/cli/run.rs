//! `run`: reads the configuration, starts the log and hands over to [`crate::app`].

use tracing::{error, warn};

use super::ConfigArgs;
use crate::app;
use crate::config::LogLevel;
use crate::exit::ExitCode;
use crate::logging;

pub(super) fn run(args: &ConfigArgs) -> ExitCode {
    let config = match args.load() {
        Ok(config) => config,
        Err(errors) => return super::complain_of_config(&errors),
    };
    if config.engine.command.0.is_empty() {
        super::complain(
            "there is no engine to launch: set [engine] command in sidekick.toml (`sidekick-watchdog init` writes one), \
             or name it after `--`, as in `sidekick-watchdog run -- godot --headless --path my_game`",
        );
        return ExitCode::BadConfig;
    }
    // Held until the end: dropping it writes the last lines.
    let level = config.log.level;
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
    let args = args.clone();
    match app::run(config, Box::new(move || args.load()), &log) {
        Ok(()) => ExitCode::Ok,
        Err(error) => {
            error!(%error, "watchdog ends");
            if level == LogLevel::Off {
                // Nobody asked for a log, but an end with a code and without a word helps nobody either.
                super::complain(&error);
            }
            error.exit_code()
        }
    }
}
