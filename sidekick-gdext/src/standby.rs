//! A server that was started to take another's place: it loads, then waits in the frame hook until the watchdog says so.

use std::fs::File;
use std::io::Read;
use std::path::{Path, PathBuf};
use std::sync::OnceLock;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use godot::prelude::*;
use sidekick_ipc::Session;

use crate::core::{self, Core};
use crate::sidekick::Sidekick;

/// A parked server wakes so often to beat; its main loop runs one frame.
const BEAT: Duration = Duration::from_secs(1);
const WORD_BYTES_MAX: u64 = 4096;

/// The game waits for `when_active()`, so nothing is lost by standing still.
static IS_AWAITED: AtomicBool = AtomicBool::new(false);
/// This server was started as a standby.
static BEGAN: AtomicBool = AtomicBool::new(false);
/// A standby whose game was not told that it is active; a frame of all others costs this one look.
static WAITS: AtomicBool = AtomicBool::new(false);
/// What the watchdog decided when it made this server the active one.
static TAKEN_OVER: OnceLock<TakenOver> = OnceLock::new();

#[derive(Debug, Default, PartialEq, Eq)]
struct TakenOver {
    is_relaunch: bool,
    last_death: Option<PathBuf>,
}

/// At load, of a server that was started as a standby.
pub(crate) fn begin() {
    BEGAN.store(true, Ordering::Relaxed);
    WAITS.store(true, Ordering::Relaxed);
}

/// Whether another server is still the active one.
pub(crate) fn is_standby() -> bool {
    BEGAN.load(Ordering::Relaxed) && core::session().is_some_and(Session::is_standby)
}

/// Something to await: at once where there is nothing to wait for.
pub(crate) fn when_active(object: &Gd<Sidekick>) -> Variant {
    if !is_standby() {
        return Variant::nil();
    }
    IS_AWAITED.store(true, Ordering::Relaxed);
    Signal::from_object_signal(object, "activated").to_variant()
}

/// What this server took over, once it is active. The watchdog wrote the word that tells of it before the one in the ring.
fn taken_over(core: &Core) -> Option<&'static TakenOver> {
    if !BEGAN.load(Ordering::Relaxed) || is_standby() {
        return None;
    }
    Some(TAKEN_OVER.get_or_init(|| read(&core.runtime_dir, core.incarnation)))
}

/// Whether this server took the place of one that died.
pub(crate) fn is_relaunch(core: &Core) -> bool {
    taken_over(core).map_or(core.is_relaunch, |over| over.is_relaunch)
}

/// Where the report of that death is, or will be.
pub(crate) fn last_death(core: &Core) -> Option<&Path> {
    match taken_over(core) {
        Some(over) => over.last_death.as_deref(),
        None => core.last_death.as_deref(),
    }
}

/// Whether the frame hook holds this server.
pub(crate) fn is_parked() -> bool {
    IS_AWAITED.load(Ordering::Relaxed) && WAITS.load(Ordering::Relaxed)
}

/// At the end of a frame: waits, if the game does, and tells it when it is active.
#[inline]
pub(crate) fn on_frame(core: &Core, session: &Session) {
    if WAITS.load(Ordering::Relaxed) {
        wait(core, session);
    }
}

#[cold]
fn wait(core: &Core, session: &Session) {
    if IS_AWAITED.load(Ordering::Relaxed) {
        session.park(BEAT);
    }
    if session.is_standby() {
        return;
    }
    WAITS.store(false, Ordering::Relaxed);
    // Read now: the next standby's promotion writes another word.
    let _ = taken_over(core);
    Sidekick::singleton().signals().activated().emit();
}

/// The watchdog writes the word before it tells anybody, in memory: no disk is waited for.
fn read(runtime_dir: &Path, launch: u32) -> TakenOver {
    let mut text = String::new();
    let read = File::open(runtime_dir.join("active"))
        .and_then(|file| file.take(WORD_BYTES_MAX).read_to_string(&mut text));
    read.ok()
        .and_then(|_| parse(&text, launch))
        .unwrap_or_default()
}

fn parse(text: &str, launch: u32) -> Option<TakenOver> {
    let mut lines = text.strip_suffix("\nend\n")?.lines();
    let mut field = |name: &str| lines.next()?.strip_prefix(name)?.strip_prefix('=');
    if field("launch")?.parse() != Ok(launch) {
        return None;
    }
    Some(TakenOver {
        is_relaunch: field("relaunch")? == "1",
        last_death: Some(field("last_death")?)
            .filter(|path| !path.is_empty())
            .map(PathBuf::from),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_it_took_over_is_read_from_the_word_that_made_it_active() {
        let text = "launch=7\nrelaunch=1\nlast_death=/run/x/deaths/6.json\nend\n";
        let over = parse(text, 7).expect("whole");
        assert!(over.is_relaunch);
        assert_eq!(
            over.last_death.as_deref(),
            Some("/run/x/deaths/6.json".as_ref())
        );
        let planned = parse("launch=7\nrelaunch=0\nlast_death=\nend\n", 7);
        assert_eq!(planned, Some(TakenOver::default()));
        assert_eq!(parse(text, 8), None, "of another");
        for cut in 0..text.len() {
            assert_eq!(parse(&text[..cut], 7), None, "cut at {cut}");
        }
    }
}
