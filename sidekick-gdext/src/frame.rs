//! The hook after each frame: heartbeat, wake of the watchdog, and the watchdog's level words turned into signals.
//!
//! An idle frame allocates nothing and touches no object of the engine.

use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

use godot::classes::EngineDebugger;
use godot::global::godot_warn;
use godot::obj::Singleton;
use sidekick_ipc::message::NOTICE;
use sidekick_ipc::{DownlinkMessage, Message, Phase, Session};

use crate::core::{self, Core};
use crate::crash;
use crate::flush;
use crate::quit;
use crate::requests::{self, Told};
use crate::respawn;
use crate::sidekick::Sidekick;
use crate::standby;

/// Messages of the watchdog that are taken in one frame.
const MESSAGES_PER_FRAME_MAX: usize = 16;

static LEVELS: Mutex<Levels> = Mutex::new(Levels::NEW);
/// Frames between two looks at what hardly ever changes.
const RARELY: u64 = 64;
static FRAMES: AtomicU64 = AtomicU64::new(0);
static HAS_CRASH_LISTENER: AtomicBool = AtomicBool::new(false);
/// A debugger is attached: it may hold the game at a breakpoint at any time.
static IS_DEBUGGED: AtomicBool = AtomicBool::new(false);
/// Set by `Sidekick.mark_ready()`.
static IS_READY: AtomicBool = AtomicBool::new(false);

/// What the watchdog's words said at the last frame.
#[derive(Debug)]
struct Levels {
    committed: u64,
    uploaded: u64,
    is_connected: bool,
}

/// What has changed since the frame before.
#[derive(Debug, Default, PartialEq, Eq)]
struct Changes {
    committed: Option<u64>,
    uploaded: Option<u64>,
    connected: Option<bool>,
}

impl Levels {
    const NEW: Self = Self {
        committed: 0,
        uploaded: 0,
        is_connected: false,
    };

    fn step(
        &mut self,
        committed: u64,
        uploaded: u64,
        silence: Duration,
        lost_after: Duration,
    ) -> Changes {
        let mut changes = Changes::default();
        if committed > self.committed {
            self.committed = committed;
            changes.committed = Some(committed);
        }
        if uploaded > self.uploaded {
            self.uploaded = uploaded;
            changes.uploaded = Some(uploaded);
        }
        let is_connected = silence < lost_after;
        if is_connected != self.is_connected {
            self.is_connected = is_connected;
            changes.connected = Some(is_connected);
        }
        changes
    }
}

/// Called by the engine on the main thread after every `_process`.
pub(crate) fn on_frame() {
    let Some(core) = core::core() else { return };
    supervised(core);
    if flush::any_pending() {
        let committed = core::session().map_or(0, |session| session.committed_seq());
        let due = Sidekick::singleton()
            .bind()
            .flushes
            .take_due(committed, Instant::now());
        // The singleton is let go of: what resumes here may call it again.
        for (object, ok) in due {
            object.signals().completed().emit(ok);
        }
    }
    if requests::is_busy() {
        let told = Sidekick::singleton()
            .bind()
            .requests
            .on_frame(Instant::now());
        told.into_iter().for_each(Told::tell);
    }
}

fn supervised(core: &'static Core) {
    let Some(session) = core.recorder.session() else {
        return;
    };
    let look = session.look();
    let control = &look.control;
    let changes = LEVELS.lock().unwrap_or_else(PoisonError::into_inner).step(
        look.committed_seq,
        look.uploaded_seq,
        control.watchdog_alive_age,
        core.lost_after,
    );
    // Whether no script ran since the clock was read.
    let mut quiet = true;
    if changes != Changes::default() {
        quiet = false;
        tell(&changes);
    }
    if look.has_message {
        quiet = false;
        listen(session);
    }
    if look.is_fenced {
        quit::at_once(
            "the watchdog has started another server in this one's place; this one quits",
        );
    }
    let grace = match control.quit {
        Some(quit) => Some(quit.grace),
        None => core
            .quit_without_watchdog
            .and_then(|limit| quit::without_watchdog(limit, core, control)),
    };
    quiet &= !quit::on_frame(grace);
    if core.respawn {
        respawn::on_frame(&core.runtime_dir, control);
    }
    if FRAMES
        .fetch_add(1, Ordering::Relaxed)
        .is_multiple_of(RARELY)
    {
        rarely();
    }
    // Last, so that what the handlers above recorded is told of in this frame.
    if quiet {
        session.on_frame_at(phase(), look.monotonic_ns);
    } else {
        session.on_frame(phase());
    }
    standby::on_frame(core, session);
}

fn tell(changes: &Changes) {
    let sidekick = Sidekick::singleton();
    // A new `signals()` for each: gdext hands out one at a time, and a handler may come back here.
    match changes.connected {
        Some(true) => sidekick.signals().watchdog_connected().emit(),
        Some(false) => sidekick.signals().watchdog_lost().emit(),
        None => {}
    }
    if let Some(seq) = changes.committed {
        sidekick.signals().committed().emit(seq as i64);
    }
    if let Some(seq) = changes.uploaded {
        sidekick.signals().uploaded().emit(seq as i64);
    }
}

/// In the first frame and about once a second from then on.
fn rarely() {
    if !HAS_CRASH_LISTENER.load(Ordering::Relaxed) {
        HAS_CRASH_LISTENER.store(crash::listen(), Ordering::Relaxed);
    }
    IS_DEBUGGED.store(EngineDebugger::singleton().is_active(), Ordering::Relaxed);
}

/// Takes what the watchdog has sent, a few messages a frame: a flood of them must not hold up the game.
fn listen(session: &Session) {
    for _ in 0..MESSAGES_PER_FRAME_MAX {
        let Some(message) = session.next_message() else {
            return;
        };
        match message {
            Message::Other(message) => on_message(&message),
            message => {
                let told = Sidekick::singleton().bind().requests.take(Some(message));
                // The singleton is let go of: what resumes here may call it again.
                told.into_iter().for_each(Told::tell);
            }
        }
    }
}

/// What the watchdog has to say that answers nothing. On the main thread.
pub(crate) fn on_message(message: &DownlinkMessage) {
    // Kinds of a later watchdog are none of our business.
    if message.kind == NOTICE {
        let sentence = String::from_utf8_lossy(&message.body);
        godot_warn!("Sidekick: the watchdog says: {sentence}");
    } else if let Some(bytes) = message.memory_bytes() {
        let bytes = i64::try_from(bytes).unwrap_or(i64::MAX);
        Sidekick::singleton().signals().memory_high().emit(bytes);
    }
}

fn phase() -> Phase {
    if quit::is_asked() {
        Phase::Stopping
    } else if standby::is_parked() {
        Phase::Parked
    } else if IS_DEBUGGED.load(Ordering::Relaxed) {
        Phase::Paused
    } else if IS_READY.load(Ordering::Relaxed) {
        Phase::Running
    } else {
        Phase::Loading
    }
}

/// The game says that it serves.
pub(crate) fn mark_ready() {
    IS_READY.store(true, Ordering::Relaxed);
    if let Some(session) = core::session() {
        session.set_ready();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const LOST_AFTER: Duration = Duration::from_secs(3);

    #[test]
    fn each_level_is_told_once() {
        let mut levels = Levels::NEW;
        let first = levels.step(5, 2, Duration::ZERO, LOST_AFTER);
        assert_eq!(
            first,
            Changes {
                committed: Some(5),
                uploaded: Some(2),
                connected: Some(true)
            }
        );
        assert_eq!(
            levels.step(5, 2, Duration::ZERO, LOST_AFTER),
            Changes::default()
        );
        let more = levels.step(9, 2, Duration::ZERO, LOST_AFTER);
        assert_eq!(
            more,
            Changes {
                committed: Some(9),
                ..Changes::default()
            }
        );
        assert_eq!(
            levels.step(4, 1, Duration::ZERO, LOST_AFTER),
            Changes::default(),
            "never backwards"
        );
    }

    #[test]
    fn a_silent_watchdog_is_lost_and_found() {
        let mut levels = Levels::NEW;
        assert_eq!(
            levels.step(0, 0, Duration::MAX, LOST_AFTER).connected,
            None,
            "never there, never lost"
        );
        assert_eq!(
            levels
                .step(0, 0, Duration::from_millis(9), LOST_AFTER)
                .connected,
            Some(true)
        );
        assert_eq!(
            levels.step(0, 0, LOST_AFTER, LOST_AFTER).connected,
            Some(false)
        );
        assert_eq!(
            levels.step(0, 0, Duration::ZERO, LOST_AFTER).connected,
            Some(true)
        );
    }
}
