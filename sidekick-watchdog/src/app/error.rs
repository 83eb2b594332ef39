//! Why the watchdog ended other than asked, and its exit code for it.

use std::path::PathBuf;
use std::time::Duration;

use crate::api::ApiError;
use crate::event::{Unfit, Versions};
use crate::exit::ExitCode;
use crate::platform::data_dir::DataDirError;
use crate::platform::runtime_dir::RuntimeDirError;
use crate::store::StoreError;
use crate::supervisor::SupervisorError;
use crate::upload::OutboxError;

/// Why the watchdog ended other than asked.
#[derive(Debug, thiserror::Error)]
pub enum AppError {
    /// The data directory is in use or unusable.
    #[error(transparent)]
    DataDir(#[from] DataDirError),
    /// There is no place for the rings.
    #[error(transparent)]
    RuntimeDir(#[from] RuntimeDirError),
    /// The store cannot be opened.
    #[error(transparent)]
    Store(#[from] StoreError),
    /// A sink cannot be made from its configuration.
    #[error("[upload.{sink}] {reason}")]
    Sink {
        /// Which one.
        sink: &'static str,
        /// What is wrong with it.
        reason: String,
    },
    /// The rules for streams cannot be used.
    #[error("[[stream]] {reason}")]
    Rules {
        /// What is wrong with them.
        reason: String,
    },
    /// The uploader cannot start.
    #[error("uploads cannot start: {0}")]
    Upload(#[from] OutboxError),
    /// The first engine cannot be started.
    #[error(transparent)]
    Supervisor(#[from] SupervisorError),
    /// The API has no address.
    #[error(transparent)]
    Api(#[from] ApiError),
    /// The end came while the store took no records.
    #[error(
        "not everything that was recorded is committed: {reason}; the rest waits in {dir:?} for the next start, but not \
         for a reboot"
    )]
    Left {
        /// Why it was not committed.
        reason: String,
        /// Where it waits.
        dir: PathBuf,
    },
    /// The end came while the store was down, and no ring waits for it.
    #[error("the store was down at the end: {reason}")]
    Down {
        /// Why it was down.
        reason: String,
    },
    /// The engine died too often.
    #[error(
        "the engine died {deaths} times within [restart] give_up_window; not started again, its records are kept"
    )]
    GaveUp {
        /// How often.
        deaths: u32,
    },
    /// The first engine opened no ring.
    #[error(
        "the engine ran for {:.1} s without the Sidekick extension and was ended{}; see that addons/sidekick is in the \
         project, is listed in .godot/extension_list.cfg, and has its library for this platform, or set [health] \
         heartbeat = \"optional\" for a program that does without",
        after.as_secs_f64(), at_log(log.as_ref())
    )]
    NoExtension {
        /// How long it ran.
        after: Duration,
        /// Where its output is.
        log: Option<PathBuf>,
    },
    /// The first engine's library is of another version.
    #[error(
        "{versions}; {}{}",
        versions.remedy(),
        if *left_running { "; the game was running already and runs on, unwatched" } else { "" }
    )]
    VersionMismatch {
        /// Which.
        versions: Versions,
        /// Whether the engine was left running.
        left_running: bool,
    },
    /// The system refused a thread or the like.
    #[error("{doing}: {error}")]
    System {
        /// What was tried.
        doing: &'static str,
        /// What the system said.
        error: std::io::Error,
    },
}

fn at_log(log: Option<&PathBuf>) -> String {
    log.map_or_else(String::new, |log| {
        format!(" (its output is in {})", log.display())
    })
}

impl AppError {
    /// The end of a watchdog whose store is down.
    pub(super) fn down(reason: String, dir: PathBuf) -> Self {
        // A directory that cannot be read may hold rings.
        let waits = sidekick_ipc::scan(&dir).map_or(true, |rings| !rings.is_empty());
        match waits {
            true => Self::Left { reason, dir },
            false => Self::Down { reason },
        }
    }

    /// The end of a watchdog whose first engine cannot be watched.
    pub(super) fn unfit(unfit: Unfit, log: Option<PathBuf>, left_running: bool) -> Self {
        match unfit {
            Unfit::NoExtension { after } => Self::NoExtension { after, log },
            Unfit::Version(versions) => Self::VersionMismatch {
                versions,
                left_running,
            },
        }
    }

    /// What the process tells its caller.
    pub fn exit_code(&self) -> ExitCode {
        match self {
            Self::DataDir(DataDirError::InUse { .. }) => ExitCode::Locked,
            Self::DataDir(DataDirError::Unusable { .. }) => ExitCode::StoreUnusable,
            Self::RuntimeDir(_) => ExitCode::RuntimeDir,
            Self::Store(error) => error.exit_code(),
            Self::Sink { .. } | Self::Rules { .. } => ExitCode::BadConfig,
            Self::Upload(_) => ExitCode::StoreUnusable,
            Self::Supervisor(error) => error.exit_code(),
            Self::Api(ApiError::Control { .. }) => ExitCode::RuntimeDir,
            Self::Api(_) => ExitCode::Listen,
            Self::Left { .. } | Self::Down { .. } => ExitCode::StoreUnusable,
            Self::GaveUp { .. } => ExitCode::GaveUp,
            Self::NoExtension { .. } => ExitCode::NoExtension,
            Self::VersionMismatch { .. } => ExitCode::VersionMismatch,
            Self::System { .. } => ExitCode::Internal,
        }
    }
}
