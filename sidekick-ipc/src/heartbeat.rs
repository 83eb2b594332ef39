//! What the engine says about itself, once per frame of its main loop.

use std::sync::Arc;
use std::sync::atomic::Ordering::{Acquire, Relaxed};
use std::time::Duration;

use crate::layout;
use crate::region::{Mapping, Region};

/// Longest silence that an engine can announce; a longer one counts as this.
pub const STALL_MAX: Duration = Duration::from_secs(3600);

/// What the game is doing.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[repr(u8)]
pub enum Phase {
    /// The engine starts; no frame yet.
    #[default]
    Boot = 0,
    /// Frames run, the game said that it loads.
    Loading = 1,
    /// Frames run.
    Running = 2,
    /// Frames run, and a debugger is attached that may hold the game at a breakpoint: silence is no hang. A paused scene
    /// tree (`get_tree().paused`) is not it: its frames go on.
    Paused = 3,
    /// The game is about to quit.
    Stopping = 4,
    /// The engine's crash handler has begun. No frame will come; if the process does not end soon, it never will.
    Crashed = 5,
    /// A standby that waits to be activated: its frames are beats of its waiting, about one a second.
    Parked = 6,
}

impl Phase {
    fn from_word(word: u64) -> Phase {
        match word {
            1 => Phase::Loading,
            2 => Phase::Running,
            3 => Phase::Paused,
            4 => Phase::Stopping,
            5 => Phase::Crashed,
            6 => Phase::Parked,
            _ => Phase::Boot,
        }
    }
}

/// The engine's heartbeat words, read once. Advice of another process: silence is measured with the own clock, by
/// `frames` not changing.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Heartbeat {
    /// Frames of the main loop so far.
    pub frames: u64,
    /// Engine's monotonic clock at the last of them, ns.
    pub monotonic_ns: u64,
    /// What the game is doing.
    pub phase: Phase,
    /// The game called `mark_ready()`.
    pub ready: bool,
    /// Silence after the last frame that the game announced, or after the session's beginning while there was none; at
    /// most [`STALL_MAX`], zero if it announced none.
    pub allowed_silence: Duration,
    /// Time between the last two frames, µs; 0 before the second.
    pub last_tick_us: u32,
    /// The game says that nobody would miss it (`set_idle`): a good moment for a restart.
    pub idle: bool,
    /// The game asks to be started anew when it is idle.
    pub restart_wanted: bool,
    /// The exit code hint, once the game quits on purpose.
    pub clean_exit: Option<i32>,
    /// The session goes on in a file with the next rotation number; read the words there.
    pub rotated: bool,
    /// Records refused in this rotation's view of the session, ever.
    pub refused_count: u64,
    /// Those of them that a gap frame has told of. If the engine died, the others are known only here.
    pub refused_told: u64,
}

/// Reads heartbeats from any thread. Cheap to clone; keeps the mapping alive.
#[derive(Clone, Debug)]
pub struct HeartbeatReader(pub(crate) Arc<Mapping>);

impl HeartbeatReader {
    /// The words as they are now.
    pub fn read(&self) -> Heartbeat {
        read(&*self.0)
    }

    /// Whether a thread of the engine waits for space in the ring right now.
    pub fn is_space_wanted(&self) -> bool {
        self.0.load(layout::P_SPACE_WAITING, Relaxed) != 0
    }
}

pub(crate) fn read<R: Region>(region: &R) -> Heartbeat {
    let word = |at| region.load(at, Relaxed);
    // SYNC: pairs with the Release stores of the state in `Session`; the exit code was stored before.
    let state = region.load(layout::P_STATE, Acquire);
    let monotonic_ns = word(layout::P_FRAME_NS);
    let since_ns = match monotonic_ns {
        0 => word(layout::P_BEGUN_NS),
        at_ns => at_ns,
    };
    let silence_ns = word(layout::P_STALL_UNTIL_NS).saturating_sub(since_ns);
    Heartbeat {
        frames: word(layout::P_FRAMES),
        monotonic_ns,
        phase: Phase::from_word(word(layout::P_PHASE)),
        ready: word(layout::P_READY) == 1,
        allowed_silence: Duration::from_nanos(silence_ns).min(STALL_MAX),
        last_tick_us: u32::try_from(word(layout::P_TICK_US)).unwrap_or(u32::MAX),
        idle: word(layout::P_IDLE) == 1,
        restart_wanted: word(layout::P_RESTART_WANTED) == 1,
        clean_exit: (state == layout::STATE_CLEAN).then(|| word(layout::P_EXIT_CODE) as i32),
        rotated: state == layout::STATE_ROTATED,
        refused_count: word(layout::P_REFUSED_COUNT),
        refused_told: word(layout::P_REFUSED_TOLD),
    }
}
