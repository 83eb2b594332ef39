//! The watchdog's request to quit, and leaving cleanly.
//!
//! A request is emitted once as `quit_requested(grace_seconds)`, then the tree gets `NOTIFICATION_WM_CLOSE_REQUEST`. Nobody was
//! connected and the tree accepts quitting by itself: it quits in the next frame. Otherwise the game has the grace to save and quits itself.

use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use godot::classes::notify::NodeNotification;
use godot::classes::{Engine, SceneTree};
use godot::obj::Singleton;
use godot::prelude::*;
use sidekick_ipc::Control;

use crate::core::{self, Core};
use crate::logger;
use crate::requests::Told;
use crate::sidekick::Sidekick;

/// Time to save for a game whose watchdog stays away.
const LONELY_GRACE: Duration = Duration::from_secs(10);

static STAGE: Mutex<Stage> = Mutex::new(Stage::Idle);

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Stage {
    /// Nobody asked.
    Idle,
    /// Asked in the frame before, and no script listened.
    Unheard,
    /// The game knows; it quits by itself or is killed when the grace is over.
    LeftToGame,
}

#[derive(Debug, PartialEq, Eq)]
enum Action {
    Nothing,
    Ask(Duration),
    QuitIfAccepted,
}

/// What to do in this frame. A request that is withdrawn can be made again.
fn step(stage: &mut Stage, grace: Option<Duration>) -> Action {
    match (*stage, grace) {
        (Stage::Idle, Some(grace)) => {
            *stage = Stage::LeftToGame;
            Action::Ask(grace)
        }
        (Stage::Unheard, Some(_)) => {
            *stage = Stage::LeftToGame;
            Action::QuitIfAccepted
        }
        (Stage::Unheard | Stage::LeftToGame, None) => {
            *stage = Stage::Idle;
            Action::Nothing
        }
        (Stage::Idle, None) | (Stage::LeftToGame, Some(_)) => Action::Nothing,
    }
}

fn stage() -> MutexGuard<'static, Stage> {
    STAGE.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Whether the watchdog has asked us to quit.
pub(crate) fn is_asked() -> bool {
    *stage() != Stage::Idle
}

/// Once a frame, with what is left of the grace when the watchdog asks us to quit. True when scripts may have run.
pub(crate) fn on_frame(grace: Option<Duration>) -> bool {
    let action = step(&mut stage(), grace);
    match action {
        Action::Nothing => return false,
        Action::Ask(grace) => ask(grace),
        Action::QuitIfAccepted => {
            if let Some(mut tree) = tree().filter(|tree| tree.is_auto_accept_quit()) {
                tree.quit();
            }
        }
    }
    true
}

/// What is left of the grace when the watchdog stays away for longer than `limit`, as the operator wants it. Nobody would kill the
/// game at the end of it, so it quits then.
pub(crate) fn without_watchdog(
    limit: Duration,
    core: &Core,
    control: &Control,
) -> Option<Duration> {
    let silence = control.watchdog_alive_age.min(core.started.elapsed());
    let grace = lonely(silence, limit)?;
    if grace.is_zero() {
        at_once(
            "the watchdog stays away for longer than allowed, and the grace is over; the server quits",
        );
    } else if *stage() == Stage::Idle {
        godot_warn!(
            "Sidekick: the watchdog stays away for longer than {:.1} s, so the server is asked to quit as configured.",
            limit.as_secs_f64()
        );
    }
    Some(grace)
}

fn lonely(silence: Duration, limit: Duration) -> Option<Duration> {
    let over = silence.checked_sub(limit)?;
    Some(LONELY_GRACE.saturating_sub(over))
}

/// Quits in this frame, whatever the game wants; says why, once.
pub(crate) fn at_once(why: &str) {
    static DONE: AtomicBool = AtomicBool::new(false);
    if DONE.swap(true, Ordering::Relaxed) {
        return;
    }
    godot_warn!("Sidekick: {why}.");
    if let Some(mut tree) = tree() {
        tree.quit();
    }
}

fn ask(grace: Duration) {
    let sidekick = Sidekick::singleton();
    // Before the emission: a script that awaits the signal is connected only until then.
    let is_heard = sidekick.has_connections("quit_requested");
    sidekick
        .signals()
        .quit_requested()
        .emit(grace.as_secs_f64());
    if !is_heard {
        *stage() = Stage::Unheard;
    }
    if let Some(mut root) = tree().and_then(|tree| tree.get_root()) {
        root.propagate_notification(NodeNotification::WM_CLOSE_REQUEST.into());
    }
}

fn tree() -> Option<Gd<SceneTree>> {
    Engine::singleton()
        .get_main_loop()?
        .try_cast::<SceneTree>()
        .ok()
}

/// The main loop has ended by itself: says so to the watchdog, and lets go of every script.
pub(crate) fn on_main_loop_end() {
    logger::unregister();
    if !godot::init::is_singleton_available::<Sidekick>() {
        return;
    }
    let sidekick = Sidekick::singleton();
    let flushes = sidekick.bind().flushes.take_all();
    let (told, watches) = sidekick.bind().requests.take_all();
    let requests = told.into_iter().filter_map(Told::end);
    let objects: Vec<Gd<RefCounted>> = requests
        .chain(watches.into_iter().map(Gd::upcast))
        .collect();
    if !keeps_connections() {
        for object in objects {
            disconnect_all(&object.upcast());
        }
        for flush in flushes {
            disconnect_all(&flush.upcast());
        }
        disconnect_all(&sidekick.upcast());
    }
    if let Some(session) = core::session() {
        session.set_clean_exit(0);
        session.kick();
    }
}

/// A lambda that is still connected to an extension's object when the scripting language is gone makes the engine abort (134
/// instead of the game's exit code; seen on 4.6.3).
fn disconnect_all(object: &Gd<Object>) {
    for signal in object.get_signal_list().iter_shared() {
        let Some(name) = signal.get("name") else {
            continue;
        };
        let name = StringName::from(&name.stringify());
        for connection in object.get_signal_connection_list(&name).iter_shared() {
            if let Some(callable) = connection
                .get("callable")
                .and_then(|it| it.try_to::<Callable>().ok())
            {
                object.clone().disconnect(&name, &callable);
            }
        }
    }
}

/// The broken variant for the test that shows why connections are cut. Not in release builds.
fn keeps_connections() -> bool {
    cfg!(debug_assertions) && std::env::var_os("SIDEKICK_BROKEN_KEEP_CONNECTIONS").is_some()
}

#[cfg(test)]
mod tests {
    use super::*;

    const GRACE: Option<Duration> = Some(Duration::from_secs(10));

    #[test]
    fn a_request_is_passed_on_once() {
        let mut stage = Stage::Idle;
        assert_eq!(step(&mut stage, None), Action::Nothing);
        assert_eq!(
            step(&mut stage, GRACE),
            Action::Ask(Duration::from_secs(10))
        );
        assert_eq!(step(&mut stage, GRACE), Action::Nothing);
        assert_eq!(step(&mut stage, GRACE), Action::Nothing);
    }

    #[test]
    fn an_unheard_request_quits_in_the_next_frame() {
        let mut stage = Stage::Unheard;
        assert_eq!(step(&mut stage, GRACE), Action::QuitIfAccepted);
        assert_eq!(step(&mut stage, GRACE), Action::Nothing);
    }

    #[test]
    fn a_watchdog_that_stays_away_is_given_up_after_the_grace() {
        let limit = Duration::from_secs(60);
        assert_eq!(lonely(limit - Duration::from_millis(1), limit), None);
        assert_eq!(lonely(limit, limit), Some(LONELY_GRACE));
        assert_eq!(
            lonely(limit + Duration::from_secs(4), limit),
            Some(Duration::from_secs(6))
        );
        assert_eq!(lonely(Duration::MAX, limit), Some(Duration::ZERO));
    }

    #[test]
    fn a_withdrawn_request_can_be_made_again() {
        let mut stage = Stage::LeftToGame;
        assert_eq!(step(&mut stage, None), Action::Nothing);
        assert_eq!(
            step(&mut stage, GRACE),
            Action::Ask(Duration::from_secs(10))
        );
        let mut stage = Stage::Unheard;
        assert_eq!(step(&mut stage, None), Action::Nothing);
        assert_eq!(stage, Stage::Idle);
    }
}
