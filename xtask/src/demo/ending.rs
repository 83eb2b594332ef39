//! The ways in which the demo ends its engine.

use std::fs;
use std::io;
use std::path::Path;

use rustix::process::Signal;
use sidekick_tests::process::{self, Token};

/// One way to end an engine.
#[derive(Clone, Copy, Debug)]
pub enum Ending {
    /// `kill -9`: as the kernel's out-of-memory killer does it.
    Kill,
    /// A segmentation fault, as a bug in a C++ module makes it.
    Segfault,
    /// The game itself calls `OS.crash()`.
    Crash,
    /// The game's main loop never returns.
    Hang,
}

/// All of them in the order of the show.
pub const WAYS: [Ending; 5] = [
    Ending::Kill,
    Ending::Segfault,
    Ending::Crash,
    Ending::Hang,
    Ending::Kill,
];

impl Ending {
    /// In words.
    pub fn words(self) -> &'static str {
        match self {
            Self::Kill => "kill -9",
            Self::Segfault => "segmentation fault",
            Self::Crash => "OS.crash() in the game",
            Self::Hang => "endless loop in the game",
        }
    }

    /// Does it to the engine `pid`.
    ///
    /// # Errors
    /// When the command file cannot be written.
    pub fn bring(self, pid: u32, token: &Token, command_file: &Path) -> io::Result<()> {
        match self {
            Self::Kill => process::signal(token, pid, Signal::KILL),
            Self::Segfault => process::signal(token, pid, Signal::SEGV),
            Self::Crash => fs::write(command_file, "crash")?,
            Self::Hang => fs::write(command_file, "hang")?,
        }
        Ok(())
    }
}
