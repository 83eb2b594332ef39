//! `[restart]`: how long to wait between relaunches, and when to give up.

use std::time::Duration;

use super::reader::{Pass, any, between};
use super::value::{DURATION_MAX, keywords};
use crate::schedule::Schedule;

keywords! {
    /// When a planned restart happens.
    pub enum RestartWhen {
        /// At its time: the game gets `quit_requested` and its grace.
        Now = "now",
        /// From its time on, as soon as the game says that it is idle.
        Idle = "idle",
    }
}

/// How long to wait between relaunches, and when to give up.
#[derive(Clone, Debug)]
pub struct RestartConfig {
    /// The wait before the second relaunch in a row; the first one happens at once.
    pub backoff_first: Duration,
    /// The longest wait.
    pub backoff_max: Duration,
    /// Each wait is the last one times this (1 to 10).
    pub backoff_factor: f64,
    /// An engine that was up this long, since it was ready if it has to be, else since its first frame, resets the waits.
    pub stable_after: Duration,
    /// Deaths within `give_up_window` after which nothing is launched any more; `None` = never give up.
    pub give_up_after: Option<u32>,
    /// The window that `give_up_after` counts in.
    pub give_up_window: Duration,
    /// Deaths within `crash_loop_window`, none of them after a stable life, that make a crash loop; as many in a row that
    /// never came up do so too, however long each took.
    pub crash_loop_deaths: u32,
    /// The window that `crash_loop_deaths` counts in.
    pub crash_loop_window: Duration,
    /// The pause between two tries after a crash loop.
    pub half_open_every: Duration,
    /// Whether a crash loop is first answered by one safe start.
    pub safe_start: bool,
    /// Planned restarts.
    pub schedule: Vec<Schedule>,
    /// Whether a planned restart waits until the game says that it is idle.
    pub when: RestartWhen,
}

/// So many planned restarts make sense; more are a mistake.
const SCHEDULES_MAX: usize = 64;

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
                "An engine that was up this long, since it was ready if it has to be, else since its first frame, starts the \
                 waits and the count of deaths anew.",
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
            crash_loop_deaths: section.get(
                "crash_loop_deaths",
                10,
                "Deaths within crash_loop_window that are a crash loop: one safe start, then one try every half_open_every.",
                between(2, 1000),
            ),
            crash_loop_window: section.get(
                "crash_loop_window",
                Duration::from_secs(300),
                "The window that crash_loop_deaths counts in.",
                between(Duration::from_secs(1), DURATION_MAX),
            ),
            half_open_every: section.get(
                "half_open_every",
                Duration::from_secs(60),
                "Pause between two tries after a crash loop; they go on for ever.",
                between(Duration::from_secs(1), DURATION_MAX),
            ),
            safe_start: section.get(
                "safe_start",
                true,
                "Whether a crash loop is first answered by one start with SIDEKICK_SAFE_START=1 in its environment.",
                any,
            ),
            schedule: section
                .get(
                    "schedule",
                    Vec::new(),
                    "Planned restarts, as [\"04:00 daily\", \"05:30 monday\", \"after 24h\"], in the system's time zone.",
                    |texts: &Vec<String>| check_schedule(texts),
                )
                .iter()
                .filter_map(|text| text.parse().ok())
                .collect(),
            when: section.get(
                "when",
                RestartWhen::Now,
                "When a planned restart happens: \"now\", or \"idle\": once the game has called Sidekick.set_idle(true).",
                any,
            ),
        };
        section.finish();
        if config.backoff_first > config.backoff_max {
            let first = format!("{:?}", config.backoff_first);
            let max = format!("{:?}", config.backoff_max);
            pass.complain_of_two(
                [
                    ("restart.backoff_first", first, "longer than"),
                    ("restart.backoff_max", max, "shorter than"),
                ],
                "",
            );
        }
        config
    }
}

fn check_schedule(texts: &[String]) -> Result<(), String> {
    if texts.len() > SCHEDULES_MAX {
        return Err(format!(
            "has {} entries, at most {SCHEDULES_MAX}",
            texts.len()
        ));
    }
    for text in texts {
        text.parse::<Schedule>()
            .map_err(|error| error.to_string())?;
    }
    Ok(())
}
