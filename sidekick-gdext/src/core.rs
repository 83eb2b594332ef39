//! What lives as long as the library is loaded: the mode, the recorder and what the watchdog told about this incarnation.

use std::path::PathBuf;
use std::sync::OnceLock;
use std::time::{Duration, Instant};

use godot::classes::{Os, ProjectSettings};
use godot::prelude::*;
use sidekick_ipc::errors::ErrorLog;
use sidekick_ipc::{Session, SessionOptions, WhenFull};

use crate::recorder::{Mode, Recorder};
use crate::settings;
use crate::standby;

/// This library's version; the watchdog tells its own.
const VERSION: &str = env!("CARGO_PKG_VERSION");
const PREFIX: &str = "SIDEKICK_";
/// Sizes for a watchdog that names none; the same as its own defaults.
const RING_BYTES_DEFAULT: usize = 16 << 20;
const SPILL_BYTES_MAX_DEFAULT: u64 = 256 << 20;
/// Longest time that one `record()` may block when the ring is full and blocking was asked for.
const BLOCK_MAX_DEFAULT: Duration = Duration::from_millis(2);

/// Everything that is fixed at load.
pub(crate) struct Core {
    pub(crate) recorder: Recorder,
    pub(crate) source: String,
    pub(crate) incarnation: u32,
    /// The watchdog's number of this process; later ones are higher.
    pub(crate) launch: u32,
    pub(crate) is_relaunch: bool,
    /// The watchdog gave this launch a careful start, for those before had died in a row.
    pub(crate) is_safe_start: bool,
    /// Where the report of the last death is, or will be soon.
    pub(crate) last_death: Option<PathBuf>,
    /// Silence of the watchdog after which it counts as lost.
    pub(crate) lost_after: Duration,
    /// Silence of the watchdog after which the game is to quit by itself.
    pub(crate) quit_without_watchdog: Option<Duration>,
    /// Whether to start a dead watchdog again.
    pub(crate) respawn: bool,
    pub(crate) runtime_dir: PathBuf,
    pub(crate) started: Instant,
    /// Where the engine's errors are kept; `None` where nobody would read them.
    pub(crate) errors: Option<ErrorLog>,
}

static CORE: OnceLock<Core> = OnceLock::new();

/// What was decided at load; `None` before that.
#[inline]
pub(crate) fn core() -> Option<&'static Core> {
    CORE.get()
}

/// The session, if a watchdog launched us.
#[inline]
pub(crate) fn session() -> Option<&'static Session> {
    core()?.recorder.session()
}

/// Decides the mode, and opens the ring when a watchdog launched us. Never fails: what cannot be opened is warned of, and the
/// game runs on unsupervised.
pub(crate) fn start() {
    CORE.get_or_init(|| {
        let launched = if godot::init::is_editor_hint() { None } else { read_environment() };
        let enabled = settings::flag(settings::RECORD_ENABLED);
        let lost_after = Duration::from_secs_f64(settings::seconds(settings::WATCHDOG_LOST_AFTER_S).min(3600.0));
        let Some(mut launched) = launched else {
            let mode =
                if godot::init::is_editor_hint() { Mode::Editor } else { Mode::Unsupervised };
            return Core {
                recorder: Recorder::new(mode, enabled),
                source: String::new(),
                incarnation: 0,
                launch: 0,
                is_relaunch: false,
                is_safe_start: false,
                last_death: None,
                lost_after,
                quit_without_watchdog: None,
                respawn: false,
                runtime_dir: PathBuf::new(),
                started: Instant::now(),
                errors: None,
            };
        };
        if let Some(watchdog) = launched.watchdog_version.as_deref().filter(|version| *version != VERSION) {
            godot_warn!(
                "Sidekick: the watchdog is version {watchdog}, the addon's library is version {VERSION}; update both from one \
                 release of the addon and restart the server."
            );
        }
        let runtime_dir = launched.options.runtime_dir.clone();
        let launch = launched.options.launch;
        launched.options.game_version = settings::text(settings::GAME_VERSION);
        let mode = match Session::create(launched.options) {
            Ok(session) => {
                if launched.is_standby {
                    session.stand_by();
                    standby::begin();
                }
                Mode::Supervised(Box::new(session))
            }
            Err(error) => {
                godot_warn!(
                    "Sidekick: records are not kept in this run: the ring in {} cannot be opened: {error}. The game runs on without \
                     the watchdog's help; mend the cause and restart the server.",
                    runtime_dir.display()
                );
                Mode::Unsupervised
            }
        };
        let is_supervised = matches!(mode, Mode::Supervised(_));
        Core {
            recorder: Recorder::new(mode, enabled),
            source: launched.source,
            incarnation: launched.incarnation,
            launch,
            is_relaunch: launched.is_relaunch,
            is_safe_start: launched.is_safe_start,
            last_death: launched.last_death,
            lost_after,
            quit_without_watchdog: launched.quit_without_watchdog,
            respawn: is_supervised && settings::flag(settings::WATCHDOG_RESPAWN),
            errors: is_supervised.then(|| ErrorLog::new(&runtime_dir, launch)),
            runtime_dir,
            started: Instant::now(),
        }
    });
}

/// One line that says so when there is no watchdog.
pub(crate) fn say_mode() {
    let Some(core) = core() else { return };
    if matches!(core.recorder.mode(), Mode::Unsupervised)
        && settings::flag(settings::LOG_UNSUPERVISED)
    {
        godot_print!(
            "Sidekick: no watchdog, records are only counted; start the server with addons/sidekick/sidekick.sh to keep them."
        );
    }
}

/// One warning when the last lines before a crash would be lost: the engine of an export keeps what it prints to itself until
/// its buffer is full.
pub(crate) fn warn_of_lost_lines() {
    let project = ProjectSettings::singleton();
    let flushes = project
        .get_setting_with_override("application/run/flush_stdout_on_print")
        .try_to::<bool>()
        .unwrap_or(false);
    if loses_lines(
        session().is_some(),
        Os::singleton().is_debug_build(),
        flushes,
    ) {
        godot_warn!(
            "Sidekick: what this server prints is lost at a crash, and its crash report will lack the last lines; turn on Project \
             Settings > Application > Run > Flush stdout on Print (for servers alone: application/run/\
             flush_stdout_on_print.dedicated_server)."
        );
    }
}

/// Debug builds flush each line.
fn loses_lines(is_supervised: bool, is_debug_build: bool, flushes: bool) -> bool {
    is_supervised && !is_debug_build && !flushes
}

/// What the watchdog hands to the engine it launches.
struct Launched {
    options: SessionOptions,
    source: String,
    incarnation: u32,
    is_relaunch: bool,
    is_safe_start: bool,
    is_standby: bool,
    last_death: Option<PathBuf>,
    quit_without_watchdog: Option<Duration>,
    watchdog_version: Option<String>,
}

/// Reads the watchdog's variables and removes every `SIDEKICK_*` from the environment, so that programs the game starts are not
/// taken for it. `None` without a runtime directory; nothing is removed then.
fn read_environment() -> Option<Launched> {
    let launched =
        parse(|name| std::env::var_os(name).map(|value| value.to_string_lossy().into_owned()))?;
    let os = Os::singleton();
    for (name, _) in std::env::vars_os() {
        if let Some(name) = name.to_str().filter(|name| name.starts_with(PREFIX)) {
            os.unset_environment(name);
        }
    }
    Some(launched)
}

fn parse(lookup: impl Fn(&str) -> Option<String>) -> Option<Launched> {
    let text = |name: &str| lookup(name).filter(|value| !value.is_empty());
    let number = |name: &str| text(name).and_then(|value| value.parse::<u64>().ok());
    let small = |name: &str| number(name).and_then(|value| u32::try_from(value).ok());
    let runtime_dir = PathBuf::from(text("SIDEKICK_RUNTIME_DIR")?);
    let incarnation = small("SIDEKICK_INCARNATION").unwrap_or(0);
    let options = SessionOptions {
        runtime_dir,
        launch: small("SIDEKICK_LAUNCH").unwrap_or(0),
        incarnation,
        ring_bytes: number("SIDEKICK_RING_SIZE")
            .and_then(|bytes| usize::try_from(bytes).ok())
            .unwrap_or(RING_BYTES_DEFAULT),
        when_full: match text("SIDEKICK_RING_WHEN_FULL").as_deref() {
            Some("block") => WhenFull::Block,
            Some("refuse") => WhenFull::Refuse,
            _ => WhenFull::Spill,
        },
        block_max: number("SIDEKICK_RING_BLOCK_MAX_US")
            .map_or(BLOCK_MAX_DEFAULT, Duration::from_micros),
        spill_bytes_max: number("SIDEKICK_SPILL_MAX").unwrap_or(SPILL_BYTES_MAX_DEFAULT),
        // A pattern that cannot be read is one of a newer watchdog's: no stream is kept by it.
        keep: text("SIDEKICK_KEEP")
            .map(|lines| lines.lines().filter_map(|line| line.parse().ok()).collect())
            .unwrap_or_default(),
        library_version: VERSION.to_owned(),
        // The project's, not the watchdog's to hand over.
        game_version: String::new(),
    };
    Some(Launched {
        options,
        source: text("SIDEKICK_SOURCE").unwrap_or_default(),
        incarnation,
        is_relaunch: text("SIDEKICK_RELAUNCH").as_deref() == Some("1"),
        is_safe_start: text("SIDEKICK_SAFE_START").as_deref() == Some("1"),
        is_standby: text("SIDEKICK_STANDBY").as_deref() == Some("1"),
        last_death: text("SIDEKICK_LAST_DEATH").map(PathBuf::from),
        quit_without_watchdog: number("SIDEKICK_QUIT_WITHOUT_WATCHDOG_MS")
            .filter(|ms| *ms > 0)
            .map(Duration::from_millis),
        watchdog_version: text("SIDEKICK_WATCHDOG_VERSION"),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn with(variables: &'static [(&str, &str)]) -> Option<Launched> {
        parse(|name| {
            variables
                .iter()
                .find(|(key, _)| *key == name)
                .map(|(_, value)| (*value).to_owned())
        })
    }

    #[test]
    fn without_a_runtime_directory_nobody_launched_us() {
        assert!(with(&[]).is_none());
        assert!(with(&[("SIDEKICK_RUNTIME_DIR", ""), ("SIDEKICK_SOURCE", "lobby")]).is_none());
    }

    #[test]
    fn what_the_watchdog_hands_over_is_read() {
        let launched = with(&[
            ("SIDEKICK_RUNTIME_DIR", "/run/x"),
            ("SIDEKICK_LAUNCH", "7"),
            ("SIDEKICK_INCARNATION", "3"),
            ("SIDEKICK_SOURCE", "lobby-1"),
            ("SIDEKICK_RELAUNCH", "1"),
            ("SIDEKICK_RING_SIZE", "1048576"),
            ("SIDEKICK_RING_WHEN_FULL", "block"),
            ("SIDEKICK_RING_BLOCK_MAX_US", "500"),
            ("SIDEKICK_KEEP", "purchase\nban.*"),
            ("SIDEKICK_WATCHDOG_VERSION", "9.9.9"),
            ("SIDEKICK_SAFE_START", "1"),
            ("SIDEKICK_LAST_DEATH", "/run/x/deaths/6.json"),
            ("SIDEKICK_QUIT_WITHOUT_WATCHDOG_MS", "60000"),
        ])
        .expect("launched");
        let keep: Vec<&str> = launched.options.keep.iter().map(|it| it.as_str()).collect();
        assert_eq!(keep, ["purchase", "ban.*"]);
        assert_eq!(launched.options.launch, 7);
        assert_eq!(launched.incarnation, 3);
        assert_eq!(launched.source, "lobby-1");
        assert!(launched.is_relaunch);
        assert_eq!(launched.options.ring_bytes, 1 << 20);
        assert!(matches!(launched.options.when_full, WhenFull::Block));
        assert_eq!(launched.options.block_max, Duration::from_micros(500));
        assert_eq!(launched.watchdog_version.as_deref(), Some("9.9.9"));
        assert!(launched.is_safe_start);
        assert_eq!(
            launched.last_death.as_deref(),
            Some("/run/x/deaths/6.json".as_ref())
        );
        assert_eq!(
            launched.quit_without_watchdog,
            Some(Duration::from_secs(60))
        );
    }

    #[test]
    fn nonsense_in_the_environment_gives_the_defaults() {
        let launched = with(&[
            ("SIDEKICK_RUNTIME_DIR", "/run/x"),
            ("SIDEKICK_LAUNCH", "-1"),
            ("SIDEKICK_RING_SIZE", "many"),
            ("SIDEKICK_RING_WHEN_FULL", "explode"),
        ])
        .expect("launched");
        assert_eq!(launched.options.launch, 0);
        assert_eq!(launched.options.ring_bytes, RING_BYTES_DEFAULT);
        assert!(matches!(launched.options.when_full, WhenFull::Spill));
        assert!(!launched.is_safe_start);
        assert_eq!(launched.quit_without_watchdog, None);
    }

    #[test]
    fn only_a_supervised_release_build_that_does_not_flush_loses_lines() {
        assert!(loses_lines(true, false, false));
        assert!(!loses_lines(false, false, false));
        assert!(!loses_lines(true, true, false));
        assert!(!loses_lines(true, false, true));
    }
}
