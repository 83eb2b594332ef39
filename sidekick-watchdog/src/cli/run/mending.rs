//! A wrong configuration beside a game that runs: a watchdog that died while somebody was editing the file is followed by one that
//! waits for the rest of the edit. If it ended instead, the game would stay unwatched until somebody noticed.

use std::path::Path;
use std::time::Duration;

use super::Wrong;
use crate::app::AppError;
use crate::cli::complain;
use crate::config::Config;
use crate::exit::ExitCode;
use crate::platform::data_dir::DataDirLock;
use crate::platform::{ServiceHints, ServiceManager};
use crate::supervisor::launch::RunningFile;

/// How often the configuration is read again.
const LOOK_EVERY: Duration = Duration::from_secs(1);
/// So much time a service manager is asked for with each look, since there is nothing yet that could be called a start.
const EXTENSION: Duration = Duration::from_secs(15);

/// Tells what is wrong, and if a game runs that an earlier watchdog has left, waits until `read` finds nothing wrong.
pub(super) fn wait(
    mut wrong: Wrong,
    read: impl Fn() -> Result<Config, Wrong>,
) -> Result<Config, ExitCode> {
    let code = wrong.tell();
    let Some((data_dir, game)) = left(&wrong) else {
        return Err(code);
    };
    // As long as it waits it is the watchdog of this data directory: no second one comes to wait beside it.
    let _lock = DataDirLock::acquire(&data_dir).map_err(|error| {
        complain(&error);
        AppError::from(error).exit_code()
    })?;
    complain(format_args!(
        "the game of {} runs on unwatched (process {game}); waiting until the configuration is mended. Asked to end before, this \
         leaves the game running",
        data_dir.display()
    ));
    let manager = ServiceManager::new(&ServiceHints::from_environment()).unwrap_or_default();
    loop {
        let usec = EXTENSION.as_micros();
        let status = "the configuration is wrong, the game runs on unwatched";
        // A manager that does not hear it starts us again.
        let _ = manager.tell(&format!("STATUS={status}\nEXTEND_TIMEOUT_USEC={usec}"));
        std::thread::sleep(LOOK_EVERY);
        match read() {
            Ok(config) => {
                complain("the configuration is mended; going on");
                return Ok(config);
            }
            Err(other) if other.words() == wrong.words() => {}
            Err(other) => {
                other.tell();
                wrong = other;
            }
        }
    }
}

/// The game that runs without a watchdog, with its data directory.
fn left(wrong: &Wrong) -> Option<(std::path::PathBuf, u32)> {
    let data_dir: &Path = wrong.data_dir()?;
    let game = RunningFile::new(data_dir).survivor()?;
    Some((data_dir.to_owned(), game.pid()))
}
