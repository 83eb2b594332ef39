//! `config reload`: the running watchdog reads its rules anew.

use super::LocationArgs;
use super::client::{Client, ClientError};
use super::words::count;
use crate::api::operator::Reloaded;
use crate::exit::ExitCode;

pub(super) fn run(args: &LocationArgs) -> ExitCode {
    let config = match args.load(Vec::new()) {
        Ok(config) => config,
        Err(errors) => return super::complain_of_config(&errors),
    };
    let answered = Client::connect(&config).and_then(|mut client| {
        let response = client.post("/api/v1/config/reload")?;
        if response.code.as_u16() == REFUSED {
            super::complain(format_args!(
                "the watchdog refuses it, and its old rules stay in force:\n{}",
                response.body.trim_end()
            ));
            return Ok(ExitCode::BadConfig);
        }
        let body = response.success()?;
        let reloaded: Reloaded = serde_json::from_str(&body)
            .map_err(|error| ClientError::Broken(format!("its answer is not JSON ({error})")))?;
        let rules = count(reloaded.rules as u64, "rule", "rules");
        super::say(format_args!("reloaded: {rules} in force"));
        if !reloaded.needs_restart.is_empty() {
            super::complain(format_args!(
                "changed too, and waiting for the watchdog's next start: {}",
                reloaded.needs_restart.join(", ")
            ));
        }
        Ok(ExitCode::Ok)
    });
    answered.unwrap_or_else(|error| {
        super::complain(&error);
        error.exit_code()
    })
}

/// The status of a configuration with mistakes.
const REFUSED: u16 = 422;
