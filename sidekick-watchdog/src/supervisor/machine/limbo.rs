//! An engine that printed that it crashed, and is there still.

use std::time::Duration;

use super::heart::Heart;

/// An engine that printed that it crashed, then nothing for so long, will not end by itself (godot#108268).
pub const LIMBO_SILENCE: Duration = Duration::from_secs(2);
/// However much it prints: so long after its crash it is over.
const LIMBO_MAX: Duration = Duration::from_secs(30);

/// An engine that told of its crash and has not ended yet.
#[derive(Clone, Copy, Debug)]
pub(super) struct Limbo {
    /// When it first told of it; no frame is known to have passed since.
    pub(super) since: Duration,
    /// When its last banner came.
    pub(super) banner: Duration,
    pub(super) last_output: Duration,
}

impl Limbo {
    pub(super) fn until(&self) -> Duration {
        let silent = self.last_output.saturating_add(LIMBO_SILENCE);
        silent.min(self.since.saturating_add(LIMBO_MAX))
    }

    /// What is left of it as the frames stand: whatever was printed, who goes on has not crashed before.
    pub(super) fn unrefuted(self, heart: &Heart) -> Option<Self> {
        if heart.has_frame_after(self.banner) {
            None
        } else if heart.has_frame_after(self.since) {
            let since = self.banner;
            Some(Self { since, ..self })
        } else {
            Some(self)
        }
    }
}
