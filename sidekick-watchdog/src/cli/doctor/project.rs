//! The project: is the addon there, will Godot load it, and is it of this watchdog's version?

use std::path::{Path, PathBuf};

use super::{Finding, fine, warning};
use crate::config::Config;

/// The line that makes Godot load the extension.
const EXTENSION: &str = "res://addons/sidekick/sidekick.gdextension";

pub(super) fn examine(config: &Config) -> Vec<Finding> {
    let Some(project) = find_project(config) else {
        return Vec::new();
    };
    let plugin = project.join("addons/sidekick/plugin.cfg");
    let Ok(text) = std::fs::read_to_string(&plugin) else {
        return vec![warning(
            "addon",
            format!(
                "{project:?} has no addons/sidekick: the game runs, but records nothing; install the addon"
            ),
        )];
    };
    let ours = env!("CARGO_PKG_VERSION");
    let mut findings = vec![match version_of(&text) {
        Some(found) if found == ours => fine("addon", format!("version {found}")),
        Some(found) => warning(
            "addon",
            format!("version {found}, this watchdog is {ours}; take both from one release"),
        ),
        None => warning("addon", format!("{plugin:?} names no version")),
    }];
    let bin = project.join("addons/sidekick/bin").join(format!(
        "{}.{}",
        std::env::consts::OS,
        std::env::consts::ARCH
    ));
    if !has_library(&bin) {
        findings.push(warning(
            "addon",
            format!("{bin:?} holds no library, so nothing is recorded; install the addon's release, or build it"),
        ));
    }
    let list = project.join(".godot/extension_list.cfg");
    let is_listed = std::fs::read_to_string(&list)
        .is_ok_and(|text| text.lines().any(|line| line.trim() == EXTENSION));
    if !is_listed {
        findings.push(warning(
            "addon",
            format!(
                "{list:?} does not name the extension, so Godot would not load it; start once with addons/sidekick/sidekick.sh"
            ),
        ));
    }
    findings
}

/// What follows `--path`, else the working directory, where that holds a project.
fn find_project(config: &Config) -> Option<PathBuf> {
    let folder = config
        .engine
        .working_dir
        .clone()
        .unwrap_or_else(super::super::working_dir);
    let mut arguments = config
        .engine
        .command
        .0
        .iter()
        .take_while(|argument| *argument != "--");
    let path = arguments
        .find(|argument| *argument == "--path")
        .and_then(|_| arguments.next())
        .map_or_else(|| folder.clone(), |path| folder.join(path));
    is_project(&path).then_some(path)
}

fn is_project(folder: &Path) -> bool {
    folder.join("project.godot").is_file()
}

fn has_library(bin: &Path) -> bool {
    std::fs::read_dir(bin).is_ok_and(|entries| {
        entries.flatten().any(|entry| {
            entry
                .file_name()
                .to_string_lossy()
                .starts_with("libsidekick")
        })
    })
}

/// The value of `version="…"`.
fn version_of(plugin_cfg: &str) -> Option<&str> {
    let (_, value) = plugin_cfg
        .lines()
        .filter_map(|line| line.split_once('='))
        .find(|(name, _)| name.trim() == "version")?;
    Some(value.trim().trim_matches('"'))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::{Sources, resolve};

    /// Builds a project up step by step and reads what is said of it.
    #[test]
    fn addon_version_and_extension_list_are_checked() {
        let folder = tempfile::tempdir().unwrap();
        let config = resolve(&Sources {
            command: Some(vec!["godot".into(), "--path".into(), "game".into()]),
            working_dir: folder.path().to_owned(),
            ..Sources::default()
        });
        let mut config = config.unwrap();
        config.engine.working_dir = Some(folder.path().to_owned());
        let words = |config: &Config| -> Vec<String> {
            examine(config)
                .into_iter()
                .map(|finding| finding.words)
                .collect()
        };
        assert!(words(&config).is_empty());
        let game = folder.path().join("game");
        std::fs::create_dir_all(game.join("addons/sidekick")).unwrap();
        std::fs::create_dir_all(game.join(".godot")).unwrap();
        std::fs::write(game.join("project.godot"), "").unwrap();
        assert!(words(&config)[0].contains("install the addon"));
        std::fs::write(
            game.join("addons/sidekick/plugin.cfg"),
            "[plugin]\nversion=\"0.0.1\"\n",
        )
        .unwrap();
        let found = words(&config);
        assert!(
            found[0].starts_with("version 0.0.1, this watchdog is"),
            "{found:?}"
        );
        assert!(found[1].contains("holds no library"), "{found:?}");
        assert!(found[2].contains("extension_list.cfg"), "{found:?}");
        let platform = format!("{}.{}", std::env::consts::OS, std::env::consts::ARCH);
        let bin = game.join("addons/sidekick/bin").join(platform);
        std::fs::create_dir_all(&bin).unwrap();
        std::fs::write(bin.join("libsidekick.so"), "").unwrap();
        std::fs::write(
            game.join(".godot/extension_list.cfg"),
            format!("{EXTENSION}\n"),
        )
        .unwrap();
        assert_eq!(words(&config).len(), 1);
    }
}
