//! Where an engine stands in its life, and what is to follow its end.

use std::time::Duration;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Then {
    Stop,
    Restart,
    /// Its end counts as a failure: it was our decision, not the operator's.
    Recover,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum State {
    Idle,
    /// `pending`: what was asked for while the command before the start ran.
    Preparing {
        pending: Option<(Then, Duration)>,
        kill_at: Duration,
    },
    /// `pending`: what was asked for while the process was being made.
    Spawning {
        pending: Option<(Then, Duration)>,
    },
    Starting,
    Running,
    Hung {
        kill_at: Duration,
        killed: bool,
    },
    /// `kill_at` is the end of the grace, then the time of the next kill.
    Stopping {
        then: Then,
        kill_at: Duration,
        killed: bool,
        /// It was found hung meanwhile and prints its backtrace; then this is the end of its grace.
        hung: Option<Duration>,
    },
    Waiting {
        until: Duration,
    },
    Stopped,
    GaveUp,
}
