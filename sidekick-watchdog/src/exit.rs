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
    /// The store cannot be opened, read or written: damaged, full, no permission, wrong version.
    StoreUnusable = 6,
    /// Another watchdog uses this data directory.
    Locked = 7,
    /// The runtime directory cannot be made or is not ours alone.
    RuntimeDir = 8,
    /// The API's address cannot be listened on.
    Listen = 9,
    /// No running watchdog answered (`status` and the like).
    NotRunning = 10,
}

impl From<ExitCode> for std::process::ExitCode {
    fn from(code: ExitCode) -> Self {
        Self::from(code as u8)
    }
}
