//! Why the store did not do what it was asked, in words for the operator.

use std::path::{Path, PathBuf};

use super::command::Refusal;
use super::proposer::ProposeError;
use super::wal::WalError;
use crate::exit::ExitCode;

/// Why the store cannot be opened or has died.
#[derive(Debug, thiserror::Error)]
pub enum StoreError {
    /// Something else lies where the directory has to be.
    #[error("{path:?} is not a directory; name another data directory or move it away")]
    NotADirectory {
        /// What lies there.
        path: PathBuf,
    },
    /// The operating system refused.
    #[error("{doing} {path:?}: {error}; {}", crate::platform::remedy(.error))]
    Io {
        /// What was tried.
        doing: &'static str,
        /// On which file or directory.
        path: PathBuf,
        /// What the system said.
        error: std::io::Error,
    },
    /// The log cannot be used.
    #[error(transparent)]
    Log(#[from] WalError),
    /// The log begins after entry `purged`, and the state up to there is lost.
    #[error(
        "no snapshot in {directory:?} reaches entry {purged}, before which the log is purged; restore the snapshots from a copy, or move the data directory away and start anew"
    )]
    NoSnapshot {
        /// Where snapshots are kept.
        directory: PathBuf,
        /// Up to where the log is purged.
        purged: u64,
    },
    /// openraft refused or gave up.
    #[error("the Raft node cannot go on: {what}")]
    Raft {
        /// What it said.
        what: String,
    },
    /// The disk is full. Nothing was written.
    #[error("no space for the log: {what}; free some space on the data directory's disk")]
    NoSpace {
        /// What the system said.
        what: String,
    },
    /// The store has stopped.
    #[error(
        "the store has stopped: {why}; to open it again recovers, nothing that was acknowledged is lost"
    )]
    Stopped {
        /// Why.
        why: String,
    },
    /// The command was understood and refused.
    #[error("refused: {0}")]
    Refused(Refusal),
}

impl StoreError {
    pub(super) fn io(doing: &'static str, path: &Path, error: std::io::Error) -> Self {
        Self::Io {
            doing,
            path: path.to_owned(),
            error,
        }
    }

    /// What the process tells its caller when it ends for this.
    pub fn exit_code(&self) -> ExitCode {
        ExitCode::StoreUnusable
    }
}

impl From<ProposeError> for StoreError {
    fn from(error: ProposeError) -> Self {
        match error {
            ProposeError::Stopped(why) => Self::Stopped { why },
            ProposeError::NoSpace(what) => Self::NoSpace { what },
            other => Self::Raft {
                what: other.to_string(),
            },
        }
    }
}

/// Why a slab was not taken.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum AppendError {
    /// The group refused it; see there for what to send instead.
    #[error("slab refused: {0}")]
    Refused(Refusal),
    /// The quota is reached; try again when something was uploaded.
    #[error(
        "the log holds {log_bytes} bytes, the quota is {quota}; nothing was stored, uploads make room"
    )]
    Quota {
        /// Bytes of log.
        log_bytes: u64,
        /// The quota in bytes.
        quota: u64,
    },
    /// The disk is full; try again when there is space. Nothing was written.
    #[error(
        "no space for the log: {0}; nothing was stored, free some space on the data directory's disk"
    )]
    NoSpace(String),
    /// Another node leads the group.
    #[error("this node is not the leader; leader: {leader:?}")]
    NotLeader {
        /// Who leads, if known.
        leader: Option<u64>,
    },
    /// The store has stopped; whether the slab was stored shows after a restart.
    #[error("the store has stopped: {0}")]
    Stopped(String),
}

impl From<ProposeError> for AppendError {
    fn from(error: ProposeError) -> Self {
        match error {
            ProposeError::NotLeader { leader } => Self::NotLeader { leader },
            ProposeError::NoSpace(what) => Self::NoSpace(what),
            ProposeError::Stopped(why) => Self::Stopped(why),
        }
    }
}
