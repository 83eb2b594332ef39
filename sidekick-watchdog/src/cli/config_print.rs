//! `config print`: each setting's value in force and where it came from.

use super::ConfigArgs;
use crate::config;
use crate::exit::ExitCode;

pub(super) fn run(args: &ConfigArgs) -> ExitCode {
    match args.load() {
        Ok(config) => {
            for warning in &config.warnings {
                super::complain(format_args!("warning: {warning}"));
            }
            super::say(config::effective(&config, &super::working_dir()).trim_end());
            ExitCode::Ok
        }
        Err(errors) => super::complain_of_config(&errors),
    }
}
