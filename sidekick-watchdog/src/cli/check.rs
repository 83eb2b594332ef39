//! `check`: is the configuration right?

use super::ConfigArgs;
use super::words::count;
use crate::exit::ExitCode;

pub(super) fn run(args: &ConfigArgs) -> ExitCode {
    let config = match args.load() {
        Ok(config) => config,
        Err(errors) => return super::complain_of_config(&errors),
    };
    for warning in &config.warnings {
        super::complain(format_args!("warning: {warning}"));
    }
    if config.engine.command.0.is_empty() {
        super::complain("warning: [engine] command is not set; `run` will want it after `--`");
    }
    if config.engine.standby > 0 {
        super::complain(
            "warning: [engine] standby = 1 boots a second engine: the game must await Sidekick.when_active() before it binds its port",
        );
    }
    if let Some(Err(why)) = super::doctor::find_uploader(&config) {
        super::complain(format_args!("warning: [upload.command] {why}"));
    }
    for leaving in super::sinks::leaving(&config) {
        if leaving.is_left_behind {
            super::complain(format_args!("warning: [upload] sinks: {}", leaving.words));
        }
    }
    let failing = match config.streams.failing_trials(&config.name) {
        Ok(failing) => failing,
        Err(why) => {
            super::complain(why);
            return ExitCode::BadConfig;
        }
    };
    for (name, differences) in &failing {
        let differences = differences.join("\n  ");
        super::complain(format_args!("test {name:?} fails:\n  {differences}"));
    }
    let trials = &config.streams.trials;
    if !failing.is_empty() {
        super::complain(format_args!(
            "failing: {} of {}",
            failing.len(),
            tests_words(trials.len())
        ));
        return ExitCode::BadConfig;
    }
    if !trials.is_empty() {
        super::say(format_args!("ok: {}", tests_words(trials.len())));
    }
    match &config.file {
        Some(file) => super::say(format_args!("ok: {}", file.display())),
        None => super::say("ok: no configuration file, defaults and environment"),
    }
    ExitCode::Ok
}

fn tests_words(trials: usize) -> String {
    count(trials as u64, "test of rules", "tests of rules")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_test_is_no_tests() {
        let words = [0, 1, 2].map(tests_words);
        assert_eq!(
            words,
            ["0 tests of rules", "1 test of rules", "2 tests of rules"]
        );
    }
}
