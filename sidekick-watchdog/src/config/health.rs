//! `[health]`: when the engine counts as hung, and when as ready.

use std::time::Duration;

use super::reader::{Pass, any, between};
use super::value::{DURATION_MAX, Size, keywords};

/// An engine needs more than this for itself.
const MEMORY_MIN: Size = Size(16 << 20);
const MEMORY_MAX: Size = Size(1 << 50);

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
    /// Whether the game has to call `Sidekick.mark_ready()`: `/readyz` waits for it, and without it an engine is
    /// started anew after `ready_timeout`.
    pub ready_required: bool,
    /// From launch to `Sidekick.mark_ready()`, where that is required.
    pub ready_timeout: Duration,
    /// Resident memory above which it is warned of and the game told; `None` = never.
    pub memory_soft: Option<u64>,
    /// Resident memory above which the engine is asked to quit and started anew; `None` = never.
    pub memory_max: Option<u64>,
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
                "Silence of the game's main loop after which it counts as hung and is relaunched; also that of a handler of \
                 quit_requested.",
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
                "Whether the game has to call Sidekick.mark_ready(): /readyz waits for it, and a game that does not call \
                 it within ready_timeout (a script that does not parse idles for ever) is started anew.",
                any,
            ),
            ready_timeout: section.get(
                "ready_timeout",
                Duration::from_secs(120),
                "Time from the launch to Sidekick.mark_ready(), if ready_required; Sidekick.expect_stall() extends it.",
                between(Duration::from_secs(1), DURATION_MAX),
            ),
            memory_soft: section
                .optional(
                    "memory_soft",
                    "\"1536MiB\"",
                    "Resident memory above which a warning is logged and the game gets the signal memory_high(bytes).",
                    between(MEMORY_MIN, MEMORY_MAX),
                )
                .map(|Size(bytes)| bytes),
            memory_max: section
                .optional(
                    "memory_max",
                    "\"2GiB\"",
                    "Resident memory above which the engine is asked to quit and started anew, before the kernel kills it. One that \
                     grows on by a quarter meanwhile, or passes it while it quits for another reason, is killed.",
                    between(MEMORY_MIN, MEMORY_MAX),
                )
                .map(|Size(bytes)| bytes),
        };
        section.finish();
        if let (Some(soft), Some(max)) = (config.memory_soft, config.memory_max)
            && soft > max
        {
            pass.complain(
                "health.memory_soft",
                format!(
                    "is {}, more than health.memory_max ({})",
                    Size(soft),
                    Size(max)
                ),
            );
        }
        if config.hang_timeout > config.startup_timeout {
            let hang = format!("{:?}", config.hang_timeout);
            let startup = format!("{:?}", config.startup_timeout);
            pass.complain_of_two(
                [
                    ("health.hang_timeout", hang, "longer than"),
                    ("health.startup_timeout", startup, "shorter than"),
                ],
                "; a loading engine may be silent for longer than a running one",
            );
        }
        config
    }
}
