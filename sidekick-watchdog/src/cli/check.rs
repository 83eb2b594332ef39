//! `check`: is the configuration right?

use super::ConfigArgs;
use crate::exit::ExitCode;
use crate::process::Shape;

pub(super) fn run(args: &ConfigArgs) -> ExitCode {
    let config = match args.load() {
        Ok(config) => config,
        Err(errors) => return super::complain_of_config(&errors),
    };
    for warning in &config.warnings {
        super::complain(format_args!("warning: {warning}"));
    }
    if config.engine.command.is_empty() {
        super::complain("warning: [engine] command is not set; `run` will want it after `--`");
    }
    if config.engine.standby > 0 {
        super::complain(
            "warning: [engine] standby = 1 boots a second engine: the game must await Sidekick.when_active() before it binds its port",
        );
    }
    let (screen, shape) = match (
        config.streams.screen(),
        Shape::parse(&config.streams.shape_text()),
    ) {
        (Ok(screen), Ok(shape)) => (screen, shape),
        (Err(why), _) | (_, Err(why)) => {
            super::complain(why);
            return ExitCode::BadConfig;
        }
    };
    let trials = &config.streams.trials;
    let mut failed = 0;
    for trial in trials {
        if let Err(differences) = trial.run(&screen, &shape, &config.name) {
            failed += 1;
            super::complain(format_args!(
                "test {:?} fails:\n  {}",
                trial.name,
                differences.join("\n  ")
            ));
        }
    }
    if failed > 0 {
        super::complain(format_args!(
            "{failed} of {} tests of rules fail",
            trials.len()
        ));
        return ExitCode::BadConfig;
    }
    if !trials.is_empty() {
        super::say(format_args!("ok: {} tests of rules", trials.len()));
    }
    match &config.file {
        Some(file) => super::say(format_args!("ok: {}", file.display())),
        None => super::say("ok: no configuration file, defaults and environment"),
    }
    ExitCode::Ok
}
