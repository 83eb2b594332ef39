//! Builds the extension and the watchdog and hands out their paths; each is built once a process.
//!
//! `cargo test` builds neither the cdylib's nor the binary's final file for another package, so the harness
//! asks cargo itself. What it builds is copied beside, so that a later build with other features of the same
//! library cannot change what a running test uses.

use std::collections::HashMap;
use std::ffi::OsString;
use std::fs;
use std::io;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::{Mutex, PoisonError};

use serde_json::Value;

use crate::folders::repository;

/// How a program is compiled.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Profile {
    /// Unoptimized, with overflow checks and F1 help: what the engine's debug builds load.
    Debug,
    /// Optimized: what the engine's release templates load, and what is measured.
    Release,
    /// What ships: small, stripped, with link-time optimization.
    Dist,
}

impl Profile {
    /// As cargo calls it.
    pub fn name(self) -> &'static str {
        match self {
            Self::Debug => "dev",
            Self::Release => "release",
            Self::Dist => "dist",
        }
    }
}

/// What can be built.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
enum Artifact {
    /// As a release template loads it.
    Extension,
    /// As the editor and debug templates load it: with the F1 help.
    ExtensionWithHelp,
    Watchdog,
}

impl Artifact {
    fn package(self) -> &'static str {
        match self {
            Self::Extension | Self::ExtensionWithHelp => "sidekick-gdext",
            Self::Watchdog => "sidekick-watchdog",
        }
    }

    /// Its target's name in cargo's messages, and the extension of the file that is wanted of it.
    fn target(self) -> (&'static str, &'static str) {
        match self {
            Self::Extension | Self::ExtensionWithHelp => {
                ("sidekick_gdext", std::env::consts::DLL_EXTENSION)
            }
            Self::Watchdog => ("sidekick-watchdog", std::env::consts::EXE_EXTENSION),
        }
    }

    /// The folder of its copy, so that the two extensions do not overwrite each other.
    fn folder(self) -> &'static str {
        match self {
            Self::Extension => "harness/plain",
            Self::ExtensionWithHelp => "harness/help",
            Self::Watchdog => "harness",
        }
    }
}

/// Names a watchdog to test in place of one that is built here, such as a shipped one.
const WATCHDOG_VARIABLE: &str = "HARNESS_WATCHDOG";
/// Names a library to test in place of the unoptimized one that is built here.
const EXTENSION_VARIABLE: &str = "HARNESS_EXTENSION";

static BUILT: Mutex<Option<HashMap<(Artifact, Profile), PathBuf>>> = Mutex::new(None);

/// The extension's library. The unoptimized one has the F1 help in it, as the one that debug builds load; `HARNESS_EXTENSION`
/// names another one in its place.
///
/// # Panics
/// When it does not compile.
pub fn extension(profile: Profile) -> PathBuf {
    let has_help = profile == Profile::Debug;
    if has_help && let Some(path) = std::env::var_os(EXTENSION_VARIABLE) {
        return PathBuf::from(path);
    }
    built(
        if has_help {
            Artifact::ExtensionWithHelp
        } else {
            Artifact::Extension
        },
        profile,
    )
}

/// The extension's library with the F1 help, also when optimized: what ships for the editor.
///
/// # Panics
/// When it does not compile.
pub fn extension_with_help(profile: Profile) -> PathBuf {
    built(Artifact::ExtensionWithHelp, profile)
}

/// The watchdog's executable. `HARNESS_WATCHDOG` names another one to test, such as a shipped one.
///
/// # Panics
/// When it does not compile.
pub fn watchdog(profile: Profile) -> PathBuf {
    match std::env::var_os(WATCHDOG_VARIABLE) {
        Some(path) => PathBuf::from(path),
        None => built(Artifact::Watchdog, profile),
    }
}

/// Builds what tests use; the variables with which they take that and build nothing themselves. Where tests run beside another cargo,
/// it would link anew what they are about to copy.
///
/// # Panics
/// When something does not compile.
pub fn ready_made() -> [(&'static str, PathBuf); 2] {
    [
        (EXTENSION_VARIABLE, extension(Profile::Debug)),
        (WATCHDOG_VARIABLE, watchdog(Profile::Debug)),
    ]
}

/// Builds extension and watchdog and puts both where the addon looks for them: its folder `bin/`, under the
/// names that `sidekick.gdextension` gives them. Returns that folder.
///
/// # Panics
/// When something does not compile or cannot be written.
pub fn install(profile: Profile) -> PathBuf {
    let bin = repository().join("addons/sidekick/bin").join(platform());
    let put = |from: &Path, name: &str| {
        replace(from, &bin.join(name))
            .unwrap_or_else(|error| panic!("cannot write {name} into {bin:?}: {error}"));
    };
    put(&extension(Profile::Debug), &library_name(Profile::Debug));
    if profile != Profile::Debug {
        put(&extension(profile), &library_name(profile));
    }
    put(&watchdog(profile), "sidekick-watchdog");
    bin
}

/// The folder's name for this platform, as in `linux.x86_64`.
pub fn platform() -> String {
    let architecture = match std::env::consts::ARCH {
        "aarch64" => "arm64", // as Godot calls it
        other => other,
    };
    format!("{}.{architecture}", std::env::consts::OS)
}

/// The file name that `sidekick.gdextension` gives to the library.
pub fn library_name(profile: Profile) -> String {
    let kind = if profile == Profile::Debug {
        ".debug"
    } else {
        ""
    };
    format!(
        "{}sidekick{kind}{}",
        std::env::consts::DLL_PREFIX,
        std::env::consts::DLL_SUFFIX
    )
}

fn built(artifact: Artifact, profile: Profile) -> PathBuf {
    // Held while building: a second test of this process waits instead of building again.
    let mut built = BUILT.lock().unwrap_or_else(PoisonError::into_inner);
    let paths = built.get_or_insert_default();
    if let Some(path) = paths.get(&(artifact, profile)) {
        return path.clone();
    }
    let output = compile(artifact, profile);
    let name = output.file_name().unwrap_or_default().to_owned();
    let kept = output.with_file_name(artifact.folder()).join(name);
    replace(&output, &kept)
        .unwrap_or_else(|error| panic!("cannot copy {output:?} to {kept:?}: {error}"));
    paths.insert((artifact, profile), kept.clone());
    kept
}

fn compile(artifact: Artifact, profile: Profile) -> PathBuf {
    let package = artifact.package();
    let cargo = std::env::var_os("CARGO").unwrap_or_else(|| OsString::from("cargo"));
    let mut command = Command::new(cargo);
    command
        .args([
            "build",
            "--quiet",
            "--message-format",
            "json-render-diagnostics",
            "--package",
            package,
        ])
        .args(["--profile", profile.name()])
        .current_dir(repository())
        .stdin(Stdio::null())
        .stderr(Stdio::inherit());
    if artifact == Artifact::ExtensionWithHelp {
        command.args(["--features", "docs"]);
    }
    // Cargo's words to this test: build scripts that watch them (ring's) would be run again, and all that stands on them
    // compiled again, in turns with the build outside.
    for (name, _) in std::env::vars_os() {
        let is_of_package = name.to_str().is_some_and(|name| {
            name.starts_with("CARGO_PKG_") || name.starts_with("CARGO_MANIFEST_")
        });
        if is_of_package {
            command.env_remove(name);
        }
    }
    let output = command
        .output()
        .unwrap_or_else(|error| panic!("cannot run cargo: {error}"));
    assert!(
        output.status.success(),
        "{package} does not compile ({})",
        output.status
    );
    let (target, extension) = artifact.target();
    let text = String::from_utf8_lossy(&output.stdout);
    let files = text
        .lines()
        .filter_map(|line| serde_json::from_str::<Value>(line).ok())
        .filter(|message| message["reason"] == "compiler-artifact")
        .filter(|message| message["target"]["name"] == target)
        .filter_map(|message| message["filenames"].as_array().cloned())
        .flatten();
    files
        .filter_map(|file| file.as_str().map(PathBuf::from))
        .find(|path| path.extension().unwrap_or_default() == extension)
        .unwrap_or_else(|| panic!("cargo named no file of {package}"))
}

/// Copies by renaming: an engine that has the old file mapped goes on with the old one. Nothing is written
/// when the two are the same, so that no engine reloads for nothing.
fn replace(from: &Path, to: &Path) -> io::Result<()> {
    if let (Ok(new), Ok(old)) = (fs::read(from), fs::read(to))
        && new == old
    {
        return Ok(());
    }
    if let Some(folder) = to.parent() {
        fs::create_dir_all(folder)?;
    }
    let partial = to.with_extension(format!("{}.tmp", std::process::id()));
    fs::copy(from, &partial)?;
    fs::rename(&partial, to)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_those_of_the_gdextension_file() {
        if cfg!(all(target_os = "linux", target_arch = "x86_64")) {
            assert_eq!(platform(), "linux.x86_64");
            assert_eq!(library_name(Profile::Debug), "libsidekick.debug.so");
            assert_eq!(library_name(Profile::Release), "libsidekick.so");
        }
    }

    #[test]
    fn an_equal_file_is_left_alone() {
        let folder = crate::folders::Folder::new();
        let (from, to) = (folder.join("from"), folder.join("deep/to"));
        fs::write(&from, "one").unwrap();
        replace(&from, &to).unwrap();
        let before = fs::metadata(&to).unwrap().modified().unwrap();
        replace(&from, &to).unwrap();
        assert_eq!(fs::metadata(&to).unwrap().modified().unwrap(), before);
        fs::write(&from, "two").unwrap();
        replace(&from, &to).unwrap();
        assert_eq!(fs::read(&to).unwrap(), b"two");
        assert_eq!(fs::read_dir(folder.join("deep")).unwrap().count(), 1);
    }
}
