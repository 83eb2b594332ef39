//! The engine's environment without its secrets.
//!
//! Values are shown only of variables that are known to be harmless; of those that the configuration sets, the name is
//! shown and the value hidden; all others are left out.

use std::collections::BTreeMap;

use crate::shown::{HIDDEN, is_secret};

/// Bytes shown of one value.
const VALUE_BYTES_MAX: usize = 256;

const SHOWN: [&str; 17] = [
    "LANG",
    "LANGUAGE",
    "TZ",
    "TERM",
    "SHELL",
    "DISPLAY",
    "WAYLAND_DISPLAY",
    "container",
    "MALLOC_ARENA_MAX",
    "MALLOC_CHECK_",
    "LD_PRELOAD",
    "LD_LIBRARY_PATH",
    "OMP_NUM_THREADS",
    "MESA_GL_VERSION_OVERRIDE",
    "LIBGL_ALWAYS_SOFTWARE",
    "SDL_VIDEODRIVER",
    "PULSE_SERVER",
];
const SHOWN_PREFIXES: [&str; 3] = ["LC_", "GODOT_", "SIDEKICK_"];

/// What of an engine's environment may be in a report. `inherited` it has of us, `configured` are the names that the
/// configuration sets.
pub fn shown<'a>(
    inherited: impl IntoIterator<Item = (&'a str, &'a str)>,
    configured: impl IntoIterator<Item = (&'a str, &'a str)>,
) -> BTreeMap<String, String> {
    let mut environment = BTreeMap::new();
    for (name, value) in inherited {
        if is_harmless(name, value) {
            environment.insert(name.to_owned(), cut(value));
        }
    }
    for (name, value) in configured {
        let value = if is_harmless(name, value) {
            cut(value)
        } else {
            HIDDEN.to_owned()
        };
        environment.insert(name.to_owned(), value);
    }
    environment
}

fn is_harmless(name: &str, value: &str) -> bool {
    let is_known =
        SHOWN.contains(&name) || SHOWN_PREFIXES.iter().any(|prefix| name.starts_with(prefix));
    is_known
        && !is_secret(name)
        // `https://user:password@host`
        && !(value.contains("://") && value.contains('@'))
}

fn cut(value: &str) -> String {
    let mut end = value.len().min(VALUE_BYTES_MAX);
    while !value.is_char_boundary(end) {
        end -= 1;
    }
    value[..end].to_owned()
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Gives real and sneaky names of secrets, and checks that no value of them is in what is shown.
    #[test]
    fn no_secret_is_shown() {
        let secret = "hunter2";
        let names = [
            "AWS_SECRET_ACCESS_KEY",
            "GITHUB_TOKEN",
            "GODOT_SCRIPT_ENCRYPTION_KEY",
            "GODOT_ANDROID_KEYSTORE_RELEASE_PASSWORD",
            "SIDEKICK_UPLOAD__HTTP__HEADERS_AUTH",
            "SIDEKICK_UPLOAD__HTTP__URL",
            "DATABASE_URL",
            "PGPASSWORD",
            "LC_SESSION_COOKIE",
            "godot_token",
            "SENTRY_DSN",
            "MY_GAME_ADMIN",
            "HOME",
            "PATH",
            "",
        ];
        let pairs: Vec<_> = names.iter().map(|name| (*name, secret)).collect();
        let shown = shown(pairs.clone(), pairs);
        assert!(shown.values().all(|value| value == HIDDEN), "{shown:?}");
    }

    #[test]
    fn harmless_values_are_shown_and_a_login_in_an_address_is_not() {
        let shown = shown(
            [
                ("LANG", "C.UTF-8"),
                ("LC_ALL", "C"),
                ("GODOT_SILENCE_ROOT_WARNING", "1"),
                ("PULSE_SERVER", "tcp://user:hunter2@host"),
            ],
            [("MAP", "desert")],
        );
        let pairs: Vec<_> = shown
            .iter()
            .map(|(name, value)| (name.as_str(), value.as_str()))
            .collect();
        assert_eq!(
            pairs,
            [
                ("GODOT_SILENCE_ROOT_WARNING", "1"),
                ("LANG", "C.UTF-8"),
                ("LC_ALL", "C"),
                ("MAP", HIDDEN),
            ]
        );
    }

    #[test]
    fn long_values_are_cut_at_a_character() {
        let value = "ä".repeat(VALUE_BYTES_MAX);
        let shown = shown([("LANG", value.as_str())], []);
        assert_eq!(shown["LANG"].len(), VALUE_BYTES_MAX);
    }
}
