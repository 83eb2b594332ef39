//! `[health]`: when the engine counts as hung, and when as ready.

use std::time::Duration;

use super::reader::{Pass, any, between};
use super::value::{DURATION_MAX, keywords};

keywords! {
    /// Whether an engine without a heartbeat is a fault.
    pub enum HeartbeatPolicy {
        /// The extension must connect within `startup_timeout` and beat ever after.
        Required = "required",
        /// Programs without the extension are watched for their end only.
        Optional = "optional",
    }
}

/// When the engine counts as hung, and when as ready.
#[derive(Clone, Debug)]
pub struct HealthConfig {
    /// From launch to the first frame of the main loop.
    pub startup_timeout: Duration,
    /// Silence of the main loop after which it counts as hung.
    pub hang_timeout: Duration,
    /// Whether an engine without a heartbeat is a fault.
    pub heartbeat: HeartbeatPolicy,
    /// Whether `/readyz` waits for `Sidekick.mark_ready()`.
    pub ready_required: bool,
}

impl HealthConfig {
    pub(super) fn read(pass: &mut Pass<'_>) -> Self {
        let mut section = pass.section("health");
        let config = Self {
            startup_timeout: section.get(
                "startup_timeout",
                Duration::from_secs(60),
                "Time from the launch to the first frame; loading happens here.",
                between(Duration::from_secs(1), DURATION_MAX),
            ),
            hang_timeout: section.get(
                "hang_timeout",
                Duration::from_secs(5),
                "Silence of the game's main loop after which it counts as hung and is relaunched.",
                between(Duration::from_millis(100), DURATION_MAX),
            ),
            heartbeat: section.get(
                "heartbeat",
                HeartbeatPolicy::Required,
                "\"required\", or \"optional\" for programs without the extension.",
                any,
            ),
            ready_required: section.get(
                "ready_required",
                false,
                "Whether /readyz waits until the game has called Sidekick.mark_ready().",
                any,
            ),
        };
        section.later("memory_max", "memory limits");
        section.finish();
        if config.hang_timeout > config.startup_timeout {
            pass.complain(
                "health.hang_timeout",
                format!(
                    "is {:?}, longer than health.startup_timeout ({:?}); a loading engine may be silent for \
                     longer than a running one",
                    config.hang_timeout, config.startup_timeout
                ),
            );
        }
        config
    }
}
