//! `run`: reads the configuration, starts the log and hands over to [`crate::app`].

mod mending;

use std::path::{Path, PathBuf};

use tracing::{error, warn};

use super::ConfigArgs;
use crate::app;
use crate::config::{Config, ConfigErrors, LogLevel};
use crate::exit::ExitCode;
use crate::logging;

pub(super) fn run(args: &ConfigArgs) -> ExitCode {
    let config = read(args).or_else(|wrong| mending::wait(wrong, || read(args)));
    let config = match config {
        Ok(config) => config,
        Err(code) => return code,
    };
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

/// A configuration that no watchdog can run with.
enum Wrong {
    Config(ConfigErrors),
    NoEngine { data_dir: PathBuf },
}

fn read(args: &ConfigArgs) -> Result<Config, Wrong> {
    let config = args.load().map_err(Wrong::Config)?;
    match config.engine.command.0.is_empty() {
        true => Err(Wrong::NoEngine {
            data_dir: config.data_dir,
        }),
        false => Ok(config),
    }
}

impl Wrong {
    fn words(&self) -> String {
        match self {
            Self::Config(errors) => errors.to_string(),
            Self::NoEngine { .. } => {
                "there is no engine to launch: set [engine] command in sidekick.toml (`sidekick-watchdog init` writes one), \
                 or name it after `--`, as in `sidekick-watchdog run -- godot --headless --path my_game`"
                    .to_owned()
            }
        }
    }

    fn tell(&self) -> ExitCode {
        match self {
            Self::Config(errors) => super::complain_of_config(errors),
            Self::NoEngine { .. } => {
                super::complain(self.words());
                ExitCode::BadConfig
            }
        }
    }

    fn data_dir(&self) -> Option<&Path> {
        match self {
            Self::Config(errors) => errors.data_dir.as_deref(),
            Self::NoEngine { data_dir } => Some(data_dir),
        }
    }
}
