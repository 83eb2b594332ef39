//! Why the log cannot be used, in words for the operator.

use std::io;
use std::path::{Path, PathBuf};

use super::segment;

/// Why the log cannot be opened, read or written.
#[derive(Debug, thiserror::Error)]
pub enum WalError {
    /// The operating system refused.
    #[error("{doing} {path:?}: {error}; {}", crate::platform::remedy(.error))]
    Io {
        /// What was tried.
        doing: &'static str,
        /// On which file or directory.
        path: PathBuf,
        /// What the system said.
        error: io::Error,
    },
    /// A file is not what was written.
    #[error(
        "log segment {path:?} is damaged at byte {offset}: {what}; restore it from a copy, or move the log away and lose what it holds"
    )]
    Damaged {
        /// The segment.
        path: PathBuf,
        /// Where in it.
        offset: u64,
        /// What is wrong.
        what: String,
    },
    /// An entry was whole when the log was opened, and is not what was written now.
    #[error(
        "entry {index} in log segment {path:?}, byte {offset}, is no longer what was written; restart the watchdog: it \
         goes on without that entry and tells what is lost"
    )]
    Rotten {
        /// The entry.
        index: u64,
        /// The segment.
        path: PathBuf,
        /// Where in it.
        offset: u64,
    },
    /// A newer program wrote it.
    #[error(
        "log segment {path:?} has version {found}, this program knows {}; use the newer program",
        segment::WAL_VERSION
    )]
    Newer {
        /// The segment.
        path: PathBuf,
        /// Its version.
        found: u16,
    },
    /// Entries are missing at the front.
    #[error(
        "the log begins at entry {first} but is said to be purged only before {expected}; segment files are missing"
    )]
    Hole {
        /// The first entry that had to be there.
        expected: u64,
        /// The first entry that is.
        first: u64,
    },
    /// The thread stopped after an error that was reported before.
    #[error("the log is closed after a failed write; to open it again recovers")]
    Closed,
}

impl WalError {
    pub(crate) fn io(doing: &'static str, path: &Path, error: io::Error) -> Self {
        Self::Io {
            doing,
            path: path.to_owned(),
            error,
        }
    }
}
