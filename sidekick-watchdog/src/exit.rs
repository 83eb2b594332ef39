//! The one place that knows the watchdog's exit codes.

/// What the process tells its caller at the end. The README lists these; scripts may rely on them.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
pub enum ExitCode {
    /// Everything asked for was done.
    Ok = 0,
    /// Something broke that no other code names; the log says what.
    Internal = 1,
    /// The command line was wrong.
    Usage = 2,
    /// The configuration was wrong; every complaint was printed.
    BadConfig = 3,
    /// The engine command does not exist or cannot be executed.
    CannotSpawn = 4,
    /// The engine died too often and `give_up_after` was set.
    GaveUp = 5,
    /// The store cannot be opened, read or written: damaged, full, no permission, wrong version. At a first start, or when
    /// the watchdog was asked to end: one that dies under a running engine ends nothing. Or the end came before everything
    /// recorded was committed.
    StoreUnusable = 6,
    /// Another watchdog uses this data directory, or another `backend` its folder.
    Locked = 7,
    /// The runtime directory cannot be made or is not ours alone.
    RuntimeDir = 8,
    /// The API's address cannot be listened on.
    Listen = 9,
    /// No running watchdog answered (`status` and the like).
    NotRunning = 10,
    /// The engine runs without the Sidekick extension, and `[health] heartbeat` is `"required"`.
    NoExtension = 11,
    /// The game's library and this watchdog speak different versions of the protocol.
    VersionMismatch = 12,
    /// The order was taken, but the engine did not come up.
    NotDone = 13,
    /// There is no such node in the store, a condition of a write does not hold, or a lease is held by another or has ended.
    NotSo = 14,
    /// The log is damaged (`buffer verify`, `buffer export`), or the books do not balance (`audit`); all of it was printed.
    Damaged = 15,
}

impl ExitCode {
    /// Every code, in order.
    pub const ALL: &'static [Self] = &[
        Self::Ok,
        Self::Internal,
        Self::Usage,
        Self::BadConfig,
        Self::CannotSpawn,
        Self::GaveUp,
        Self::StoreUnusable,
        Self::Locked,
        Self::RuntimeDir,
        Self::Listen,
        Self::NotRunning,
        Self::NoExtension,
        Self::VersionMismatch,
        Self::NotDone,
        Self::NotSo,
        Self::Damaged,
    ];

    /// What it means, for the help text.
    pub const fn words(self) -> &'static str {
        match self {
            Self::Ok => "everything asked for was done",
            Self::Internal => "something broke that no other code names; the log says what",
            Self::Usage => "the command line was wrong",
            Self::BadConfig => "the configuration was wrong; every complaint was printed",
            Self::CannotSpawn => "the engine command does not exist or cannot be executed",
            Self::GaveUp => "the engine died too often and give_up_after was set",
            Self::StoreUnusable => "the store cannot be opened, read or written",
            Self::Locked => "another watchdog uses this data directory",
            Self::RuntimeDir => "the runtime directory cannot be made or is not ours alone",
            Self::Listen => "the API's address cannot be listened on",
            Self::NotRunning => "no running watchdog answered",
            Self::NoExtension => "the engine runs without the Sidekick extension",
            Self::VersionMismatch => {
                "the game's library and the watchdog are of different versions"
            }
            Self::NotDone => "the order was taken, but the engine did not come up",
            Self::NotSo => {
                "the store has no such node, a condition does not hold, or a lease is not to be had"
            }
            Self::Damaged => "the log is damaged, or the books do not balance",
        }
    }
}

impl From<ExitCode> for std::process::ExitCode {
    fn from(code: ExitCode) -> Self {
        Self::from(code as u8)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Scripts are written by the README's table; the help text prints ours.
    #[test]
    fn the_readme_lists_every_code_in_our_words() {
        let readme = include_str!("../../README.md").replace('`', "");
        for &code in ExitCode::ALL {
            let row = format!("| {} | {}", code as u8, code.words());
            let count = readme.lines().filter(|line| line.starts_with(&row)).count();
            assert_eq!(count, 1, "{row}");
        }
    }
}
