//! The figures that the machine decides by.

use std::time::Duration;

/// When an engine that ended is started again.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum RestartPolicy {
    /// After every end.
    Always,
    /// After every end but a clean one.
    OnFailure,
    /// Never.
    Never,
}

/// Every figure the machine decides by.
#[derive(Clone, Debug)]
pub struct Policy {
    /// When an engine that ended is started again.
    pub restart: RestartPolicy,
    /// The delay before the second relaunch in a row; the first is at once.
    pub backoff_first: Duration,
    /// The longest delay.
    pub backoff_max: Duration,
    /// By how much each delay is longer than the one before.
    pub backoff_factor: f64,
    /// Each delay is made up to this part longer or shorter, `0.0..=1.0`.
    pub backoff_jitter: f64,
    /// An engine that was up this long (since it was ready, where it has to say so, else since its first frame; without
    /// any heartbeat, where none is required, since its start) clears the count of failures.
    pub stable_after: Duration,
    /// So many failures within `breaker_window`, without a stable life between, are a crash loop; and so are so many in a
    /// row that never came up, however long each took.
    pub breaker_deaths: u32,
    /// See `breaker_deaths`.
    pub breaker_window: Duration,
    /// Whether a crash loop is first answered by one safe start; else, and after it, the breaker opens.
    pub safe_start: bool,
    /// The pause between two tries while the breaker is open.
    pub half_open_every: Duration,
    /// So many unasked deaths within `give_up_window` end it all. `None`: never give up.
    pub give_up_after: Option<u32>,
    /// See `give_up_after`.
    pub give_up_window: Duration,
    /// Whether an engine must show a heartbeat.
    pub heartbeat_required: bool,
    /// From the start to the first frame.
    pub startup_timeout: Duration,
    /// From the start to the game's word that it is ready; `None`: it need not say so.
    pub ready_timeout: Option<Duration>,
    /// Silence of the frame counter after which the engine counts as hung.
    pub hang_timeout: Duration,
    /// From the signal that makes a hung engine print its backtrace to the kill.
    pub hang_grace: Duration,
    /// What an engine gets to quit that is ended by our own decision (memory, no readiness).
    pub drain_grace: Duration,
    /// The time limit of the command that runs before each start; `None`: there is none.
    pub pre_start_timeout: Option<Duration>,
}

impl Default for Policy {
    fn default() -> Self {
        Self {
            restart: RestartPolicy::OnFailure,
            backoff_first: Duration::from_millis(250),
            backoff_max: Duration::from_secs(30),
            backoff_factor: 2.0,
            backoff_jitter: 0.2,
            stable_after: Duration::from_secs(60),
            breaker_deaths: 10,
            breaker_window: Duration::from_secs(300),
            safe_start: true,
            half_open_every: Duration::from_secs(60),
            give_up_after: None,
            give_up_window: Duration::from_secs(600),
            heartbeat_required: true,
            startup_timeout: Duration::from_secs(60),
            ready_timeout: None,
            hang_timeout: Duration::from_secs(5),
            hang_grace: Duration::from_secs(2),
            drain_grace: Duration::from_secs(10),
            pre_start_timeout: None,
        }
    }
}
