//! `[shutdown]`: how long engine and uploads may take when the watchdog is asked to end.

use std::time::Duration;

use super::reader::{Pass, between};

/// How long engine and uploads may take when the watchdog is asked to end.
#[derive(Clone, Debug)]
pub struct ShutdownConfig {
    /// From asking the engine to quit to killing its process group.
    pub engine_grace: Duration,
    /// The same for `drain`, which lets a match come to its end.
    pub drain_grace: Duration,
    /// How long uploads go on after the engine's end; what is left is uploaded after the next start.
    pub upload_grace: Duration,
}

impl ShutdownConfig {
    pub(super) fn read(pass: &mut Pass<'_>) -> Self {
        let mut section = pass.section("shutdown");
        let config = Self {
            engine_grace: section.get(
                "engine_grace",
                Duration::from_secs(10),
                "Time the game has to save and quit before its process group is killed.",
                between(Duration::ZERO, Duration::from_secs(3600)),
            ),
            drain_grace: section.get(
                "drain_grace",
                Duration::from_secs(600),
                "The same for the command `drain`: time to let a match come to its end.",
                between(Duration::ZERO, Duration::from_secs(24 * 3600)),
            ),
            upload_grace: section.get(
                "upload_grace",
                Duration::from_secs(5),
                "Time uploads have after the engine's end; what is left waits safely for the next start.",
                between(Duration::ZERO, Duration::from_secs(3600)),
            ),
        };
        section.finish();
        config
    }
}
