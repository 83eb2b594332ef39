//! `[restart]`: how long to wait between relaunches, and when to give up.

use std::time::Duration;

use super::reader::{Pass, any, between};
use super::value::DURATION_MAX;

/// How long to wait between relaunches, and when to give up.
#[derive(Clone, Debug)]
pub struct RestartConfig {
    /// The wait before the second relaunch in a row; the first one happens at once.
    pub backoff_first: Duration,
    /// The longest wait.
    pub backoff_max: Duration,
    /// Each wait is the last one times this (1 to 10).
    pub backoff_factor: f64,
    /// An engine that lived this long resets the waits.
    pub stable_after: Duration,
    /// Deaths within `give_up_window` after which nothing is launched any more; `None` = never give up.
    pub give_up_after: Option<u32>,
    /// The window that `give_up_after` counts in.
    pub give_up_window: Duration,
}

impl RestartConfig {
    pub(super) fn read(pass: &mut Pass<'_>) -> Self {
        let mut section = pass.section("restart");
        let config = Self {
            backoff_first: section.get(
                "backoff_first",
                Duration::from_millis(250),
                "Wait before the second relaunch in a row; the first relaunch happens at once.",
                between(Duration::from_millis(1), DURATION_MAX),
            ),
            backoff_max: section.get(
                "backoff_max",
                Duration::from_secs(30),
                "The longest wait between two relaunches.",
                between(Duration::from_millis(1), DURATION_MAX),
            ),
            backoff_factor: section.get(
                "backoff_factor",
                2.0,
                "Each wait is the last one times this.",
                between(1.0, 10.0),
            ),
            stable_after: section.get(
                "stable_after",
                Duration::from_secs(60),
                "An engine that lived this long starts the waits anew.",
                any,
            ),
            give_up_after: section.optional(
                "give_up_after",
                "10",
                "Deaths within give_up_window after which the watchdog gives up (exit code 5); without it, never.",
                between(1, 1000),
            ),
            give_up_window: section.get(
                "give_up_window",
                Duration::from_secs(600),
                "The window that give_up_after counts deaths in.",
                between(Duration::from_secs(1), DURATION_MAX),
            ),
        };
        section.later("safe_start", "safe start after a crash loop");
        section.finish();
        if config.backoff_first > config.backoff_max {
            pass.complain(
                "restart.backoff_first",
                format!(
                    "is {:?}, longer than restart.backoff_max ({:?})",
                    config.backoff_first, config.backoff_max
                ),
            );
        }
        config
    }
}
