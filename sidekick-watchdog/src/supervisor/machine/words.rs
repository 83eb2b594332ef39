//! What the machine is told and what it answers.

use std::time::Duration;

/// One reading of the engine's heartbeat.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Beat {
    /// Frames so far.
    pub frames: u64,
    /// CLOCK_MONOTONIC at the last frame, as the engine stamped it. Believed only between the last reading and now.
    pub stamp: Duration,
    /// The silence the game announced (`Sidekick.expect_stall`), zero if none.
    pub allowed_silence: Duration,
    /// The engine stands in a debugger, or told that it is paused: silence is no hang.
    pub paused: bool,
    /// The game said that players may come (`Sidekick.mark_ready`).
    pub ready: bool,
    /// Its crash handler has begun.
    pub crashed: bool,
    /// It said goodbye: it is on its way out, and no frame will follow.
    pub goodbye: bool,
}

/// What happened.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Event {
    /// There should be an engine. The first event of all unless one was adopted; later the operator's `start`.
    Start,
    /// An engine that outlived its watchdog was taken over; it was started at `since`.
    Adopted {
        /// When it was started.
        since: Duration,
    },
    /// The command before the start has ended.
    Prepared {
        /// Whether the start may go on.
        success: bool,
    },
    /// Before anything was started or adopted: an engine died, not well, while no watchdog was there. It counts as the
    /// failure before the first start.
    DiedUnwatched,
    /// The process asked for exists.
    Spawned,
    /// The process asked for could not be made.
    SpawnFailed,
    /// The engine opened its ring.
    Connected,
    /// The engine opened a ring of another protocol version.
    Foreign,
    /// The heartbeat was read. Send one before each [`Event::Tick`] while connected.
    Beat(Beat),
    /// The engine printed that it crashed. To be told again with each later line; a frame after `banner` refutes it for good.
    Crashing {
        /// When the crash handler's banner came, the last one if there are several.
        banner: Duration,
        /// When its last line came.
        last_output: Duration,
    },
    /// The engine uses more memory than it may.
    MemoryOver {
        /// How much.
        rss_bytes: u64,
    },
    /// The engine's death is proven. `success`: it ended by itself, cleanly, with a code that counts as success.
    Died {
        /// See above.
        success: bool,
    },
    /// End the engine and start no other.
    Stop {
        /// How long it has before it is killed.
        grace: Duration,
    },
    /// End the engine and start another.
    Restart {
        /// How long it has before it is killed.
        grace: Duration,
    },
    /// End the engine now and start no other.
    Kill,
    /// The deadline has come.
    Tick,
}

/// What to do, in this order.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Action {
    /// Run the command that comes before each start and report [`Event::Prepared`] at its end.
    Prepare,
    /// Kill that command and all that it started; [`Event::Prepared`] follows all the same.
    EndPrepare,
    /// Start an engine now and report [`Event::Spawned`] or [`Event::SpawnFailed`].
    Spawn {
        /// Whether it is the safe start of a crash loop.
        safe: bool,
    },
    /// Ask the engine to quit within the grace.
    AskQuit {
        /// How long it has.
        grace: Duration,
    },
    /// Find out how a hung engine hangs, then make it print its backtrace.
    Backtrace {
        /// How long it has been silent.
        silent: Duration,
    },
    /// Kill the engine and everything in its process group.
    KillGroup,
    /// End the supervisor and leave the engine running.
    Leave,
    /// Tell it to log, status and API.
    Tell(Told),
}

/// What the machine decided that others may want to hear of.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Told {
    /// No ring was opened within the startup time.
    Unconnected {
        /// How long the engine has been running.
        after: Duration,
    },
    /// The engine cannot be watched and the first one to show it: this configuration cannot work. The watchdog ends.
    Unfit(Unfit),
    /// The engine is silent beyond the limit and will be killed.
    Hung {
        /// How long it has been silent.
        silent: Duration,
    },
    /// The engine is ended by our own decision; another follows.
    Ending(EndedBy),
    /// The next start waits.
    Backoff {
        /// For how long.
        delay: Duration,
        /// Whether it is a try of a crash loop's.
        crash_loop: bool,
    },
    /// A crash loop: the next start is a safe one.
    SafeStart {
        /// Failures in a row.
        deaths: u32,
    },
    /// The breaker opened: one try every `every` from now on.
    CrashLoop {
        /// Failures in a row.
        deaths: u32,
        /// The pause between two tries.
        every: Duration,
    },
    /// Too many deaths; no engine will be started any more.
    GaveUp {
        /// Deaths in the window.
        deaths: u32,
    },
    /// No engine runs and none will be started.
    Stopped {
        /// Whether an operator or the watchdog's own end asked for it; else the engine ended and policy leaves it so.
        asked: bool,
    },
}

/// Why no engine of this configuration can be watched.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Unfit {
    /// The first engine opened no ring in time.
    NoRing {
        /// How long it has been running.
        after: Duration,
    },
    /// The first engine speaks another version of the protocol; it was ended.
    Foreign,
    /// So does the one that was adopted; it is left running.
    ForeignAdopted,
}

/// Where things stand, for status.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Phase {
    /// Nothing was asked for yet.
    Idle,
    /// The command before the start runs.
    Preparing,
    /// The engine is being started or shows no frame yet.
    Starting,
    /// Its frames go on.
    Running,
    /// Its frames stand still; it is being ended.
    Hung,
    /// It was asked to end.
    Stopping,
    /// The next start waits.
    Backoff,
    /// The breaker is open and the next try waits.
    HalfOpen,
    /// No engine runs; it was asked so, or it ended cleanly.
    Stopped,
    /// Too many deaths.
    GaveUp,
}

/// Why we ended an engine, where it was our decision.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum EndedBy {
    /// It hung.
    Hang {
        /// How long it had been silent.
        silent: Duration,
    },
    /// It did not quit within its grace.
    StopTimeout,
    /// It opened no ring in time.
    NoRing {
        /// How long it had been running.
        after: Duration,
    },
    /// Its ring is of another protocol version.
    Foreign,
    /// It did not become ready in time.
    NotReady {
        /// How long it had been running.
        after: Duration,
    },
    /// It used more memory than it may.
    Memory {
        /// How much.
        rss_bytes: u64,
    },
    /// It crashed, but its process did not come to its end.
    CrashLimbo,
    /// It said goodbye and did not come to its end.
    StuckInExit {
        /// How long it had been silent.
        silent: Duration,
    },
}
