//! `version`: what this build is.

use crate::exit::ExitCode;

pub(super) fn run() -> ExitCode {
    super::say(format_args!(
        "sidekick-watchdog {} ({} {})",
        env!("CARGO_PKG_VERSION"),
        std::env::consts::OS,
        std::env::consts::ARCH
    ));
    ExitCode::Ok
}
