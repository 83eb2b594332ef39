//! Brings a dead watchdog back, if the project wants that (`sidekick/watchdog/respawn`).
//!
//! The watchdog's own `respawn` command does the work: it leaves this process's group and starts the watchdog anew, as it was
//! started before. Here it is only started, at most once in a while, and waited for on a thread of its own.

use std::io::Read;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::Mutex;
use std::sync::PoisonError;
use std::time::{Duration, Instant};

use godot::classes::Json;
use godot::prelude::*;
use sidekick_ipc::Control;
use sidekick_ipc::sys::Dir;

/// A new watchdog needs a moment before it can be seen; and one that dies at once must not be started without end.
const EVERY: Duration = Duration::from_secs(5);
/// Silence after which it is worth asking the system whether the watchdog lives: it beats every second.
const SILENCE: Duration = Duration::from_millis(2500);
/// How often the system is asked then.
const LOOK_EVERY: Duration = Duration::from_secs(1);
/// What the watchdog left for its successor.
const FILE: &str = "watchdog.json";
const FILE_BYTES_MAX: u64 = 16 << 20;

static NEXT: Mutex<Option<Instant>> = Mutex::new(None);

/// Once a frame.
pub(crate) fn on_frame(runtime_dir: &Path, control: &Control) {
    if control.watchdog_alive_age < SILENCE || control.watchdog_pid == 0 {
        return;
    }
    let now = Instant::now();
    let mut next = NEXT.lock().unwrap_or_else(PoisonError::into_inner);
    if next.is_some_and(|next| now < next) {
        return;
    }
    if !control.is_watchdog_dead() {
        *next = Some(now + LOOK_EVERY);
        return;
    }
    *next = Some(now + EVERY);
    drop(next);
    let Some(executable) = executable(runtime_dir) else {
        return;
    };
    godot_warn!("Sidekick: the watchdog has died; starting it again.");
    start(executable, runtime_dir.to_owned());
}

/// The watchdog's executable, as it noted itself in a file that nobody else can have written.
fn executable(runtime_dir: &Path) -> Option<PathBuf> {
    let (file, _) = Dir::open(runtime_dir).ok()?.open_own(FILE, false).ok()?;
    let mut text = String::new();
    file.take(FILE_BYTES_MAX).read_to_string(&mut text).ok()?;
    let note = Json::parse_string(text.as_str())
        .try_to::<VarDictionary>()
        .ok()?;
    let executable = PathBuf::from(note.get("exe")?.try_to::<GString>().ok()?.to_string());
    executable.is_absolute().then_some(executable)
}

/// Not on the main thread: making a process of one with so much memory takes a moment, and its child must be waited for.
fn start(executable: PathBuf, runtime_dir: PathBuf) {
    let work = move || {
        let _ = Command::new(executable)
            .arg("respawn")
            .arg("--runtime-dir")
            .arg(runtime_dir)
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .status();
    };
    // Where no thread can be had the next round tries again.
    let _ = std::thread::Builder::new()
        .name("sidekick-respawn".to_owned())
        .spawn(work);
}
