//! Project Settings under `sidekick/`: one table; registered with hints for the editor, read once at start.
//!
//! A feature tag overrides a value as everywhere in Godot: `sidekick/record/enabled.dedicated_server`.

use godot::classes::ProjectSettings;
use godot::prelude::*;
use godot::register::info::PropertyHint;

/// Whether `Sidekick.record()` records at all. Off: it counts and returns 0, as without a watchdog.
pub(crate) const RECORD_ENABLED: &str = "sidekick/record/enabled";
/// Whether one line at start says that no watchdog is there.
pub(crate) const LOG_UNSUPERVISED: &str = "sidekick/log/say_when_unsupervised";
/// Silence of the watchdog in seconds after which `watchdog_lost` is emitted.
pub(crate) const WATCHDOG_LOST_AFTER_S: &str = "sidekick/watchdog/lost_after_s";

/// Whether a watchdog that has died is started again from here.
pub(crate) const WATCHDOG_RESPAWN: &str = "sidekick/watchdog/respawn";
/// Godot's own setting: which version of the game this is. Told to the watchdog, for its rules.
pub(crate) const GAME_VERSION: &str = "application/config/version";

enum Default {
    Flag(bool),
    /// Seconds, with the editor's range hint.
    Seconds(f64, &'static str),
}

struct Setting {
    key: &'static str,
    default: Default,
}

const SETTINGS: [Setting; 4] = [
    Setting {
        key: RECORD_ENABLED,
        default: Default::Flag(true),
    },
    Setting {
        key: LOG_UNSUPERVISED,
        default: Default::Flag(true),
    },
    Setting {
        key: WATCHDOG_LOST_AFTER_S,
        default: Default::Seconds(3.0, "1,60,0.5,or_greater,suffix:s"),
    },
    Setting {
        key: WATCHDOG_RESPAWN,
        default: Default::Flag(false),
    },
];

/// Makes the settings known to the editor and the game. Values that are the default are not written to `project.godot`.
pub(crate) fn register() {
    let mut project = ProjectSettings::singleton();
    for (order, setting) in SETTINGS.iter().enumerate() {
        let key = setting.key;
        let (default, hint, hint_string) = match setting.default {
            Default::Flag(flag) => (flag.to_variant(), PropertyHint::NONE, ""),
            Default::Seconds(seconds, range) => (seconds.to_variant(), PropertyHint::RANGE, range),
        };
        if !project.has_setting(key) {
            project.set_setting(key, &default);
        }
        project.set_initial_value(key, &default);
        project.set_as_basic(key, true);
        let mut info = VarDictionary::new();
        info.set("name", key);
        info.set("type", default.get_type());
        info.set("hint", hint);
        info.set("hint_string", hint_string);
        project.add_property_info(&info);
        // After every group that Godot itself has.
        project.set_order(key, 1_000_000 + order as i32);
    }
}

/// The value of a flag, feature overrides included; its default if the project holds something else.
pub(crate) fn flag(key: &'static str) -> bool {
    let value = ProjectSettings::singleton().get_setting_with_override(key);
    value.try_to::<bool>().unwrap_or_else(|_| {
        SETTINGS
            .iter()
            .any(|s| s.key == key && matches!(s.default, Default::Flag(true)))
    })
}

/// A text, feature overrides included; empty if the project has none.
pub(crate) fn text(key: &'static str) -> String {
    let value = ProjectSettings::singleton().get_setting_with_override(key);
    let text = value.try_to::<GString>();
    text.map(|text| text.to_string()).unwrap_or_default()
}

/// A number of seconds, feature overrides included; its default if the project holds something else.
pub(crate) fn seconds(key: &'static str) -> f64 {
    let value = ProjectSettings::singleton().get_setting_with_override(key);
    let number = value
        .try_to::<f64>()
        .or_else(|_| value.try_to::<i64>().map(|whole| whole as f64));
    match number {
        Ok(seconds) if seconds.is_finite() && seconds > 0.0 => seconds,
        _ => SETTINGS
            .iter()
            .find_map(|s| match s.default {
                Default::Seconds(seconds, _) if s.key == key => Some(seconds),
                _ => None,
            })
            .unwrap_or(1.0),
    }
}
