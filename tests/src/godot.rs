//! Finds a Godot that is new enough; [`fetch`] unpacks one where there is none.
//!
//! Owns the order of the search and the version check. Running projects is `project`'s work.

pub mod apt;
pub mod fetch;

use std::env;
use std::fmt;
use std::fs;
use std::io::{self, Read};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::thread;
use std::time::{Duration, Instant};

/// The oldest Godot that Sidekick supports: the first with main-loop callbacks for extensions.
pub const VERSION_MIN: Version = Version {
    major: 4,
    minor: 5,
    patch: 0,
};

/// Names the Godot to use, before any search. A wrong value is an error, not a reason to search on.
pub const GODOT_VARIABLE: &str = "GODOT4_BIN";

/// `--version` of a cold engine takes about 0.1 s; whatever needs longer is not one.
const VERSION_TIME_MAX: Duration = Duration::from_secs(20);

/// What to do where no Godot was found and none can be unpacked.
pub const REMEDY: &str = "install Godot 4.5 or newer (https://godotengine.org/download) and either put it \
     on the PATH as godot4 or godot, or name it in GODOT4_BIN";

/// A version of the engine, as its `--version` tells it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct Version {
    /// 4 in 4.6.3.
    pub major: u32,
    /// 6 in 4.6.3.
    pub minor: u32,
    /// 3 in 4.6.3; 0 where the engine says none, as in `4.5.stable`.
    pub patch: u32,
}

impl Version {
    /// Reads `4.6.3.stable.debian.7d41c59c4` or `4.5.stable`; `None` when it does not begin so.
    pub fn parse(text: &str) -> Option<Self> {
        let mut parts = text.trim().split(['.', '-', '+', '~']);
        let major = parts.next()?.parse().ok()?;
        let minor = parts.next()?.parse().ok()?;
        let patch = parts.next().and_then(|part| part.parse().ok()).unwrap_or(0);
        Some(Self {
            major,
            minor,
            patch,
        })
    }
}

impl fmt::Display for Version {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(formatter, "{}.{}.{}", self.major, self.minor, self.patch)
    }
}

/// A Godot that answered `--version`, or was unpacked by [`fetch`].
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Godot {
    /// What to execute. The process that comes of it is the engine's own (a wrapper script `exec`s).
    pub path: PathBuf,
    /// At least [`VERSION_MIN`].
    pub version: Version,
}

/// Why there is no Godot to be had.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum GodotError {
    /// [`GODOT_VARIABLE`] names something that is no Godot, or an old one.
    #[error("{GODOT_VARIABLE} is {path:?}: {problem}; {REMEDY}")]
    Variable {
        /// The variable's value.
        path: PathBuf,
        /// What is wrong with it.
        problem: String,
    },
    /// The machine has no apt to take one from.
    #[error(
        "no Godot {VERSION_MIN} or newer is on the PATH and this machine has no {missing}; {REMEDY}"
    )]
    NoApt {
        /// The program that was looked for.
        missing: &'static str,
    },
    /// No source of apt's is a Debian archive.
    #[error(
        "no Godot {VERSION_MIN} or newer is on the PATH and none of apt's sources in {folder:?} is a \
         Debian archive; {REMEDY}"
    )]
    NoSources {
        /// Where apt keeps them.
        folder: PathBuf,
    },
    /// One of the steps of unpacking went wrong.
    #[error("cannot unpack Godot: {step}: {problem}; {REMEDY}")]
    Step {
        /// The step, as a command line or a sentence.
        step: String,
        /// The end of what it said.
        problem: String,
    },
    /// The cache folder cannot be used.
    #[error("cannot use the cache folder {path:?}: {source}")]
    Cache {
        /// The file or folder.
        path: PathBuf,
        /// What the system said.
        source: io::Error,
    },
}

/// Finds a Godot without downloading one: `$GODOT4_BIN`, then `godot4` and `godot` on the PATH, then the
/// cache folder that [`fetch::fetch`] fills.
///
/// # Errors
/// [`GodotError::Variable`] when the variable is set and of no use.
pub fn find() -> Result<Option<Godot>, GodotError> {
    if let Some(path) = env::var_os(GODOT_VARIABLE).filter(|value| !value.is_empty()) {
        let path = PathBuf::from(path);
        let wrong = |problem| GodotError::Variable {
            path: path.clone(),
            problem,
        };
        let version = version_of(&path).map_err(&wrong)?;
        if version < VERSION_MIN {
            return Err(wrong(format!(
                "it is Godot {version}, needed is {VERSION_MIN} or newer"
            )));
        }
        return Ok(Some(Godot { path, version }));
    }
    let folders = env::var_os("PATH").unwrap_or_default();
    for name in ["godot4", "godot"] {
        for folder in env::split_paths(&folders) {
            let path = folder.join(name);
            if !path.is_file() {
                continue;
            }
            if let Ok(version) = version_of(&path)
                && version >= VERSION_MIN
            {
                return Ok(Some(Godot { path, version }));
            }
        }
    }
    Ok(cache_folder().and_then(|folder| newest_in(&folder)))
}

/// Finds a Godot as [`find`] does, and unpacks one into the cache folder where there is none.
///
/// # Errors
/// As [`find`] and [`fetch::fetch`].
pub fn find_or_fetch(progress: &mut dyn FnMut(&str)) -> Result<Godot, GodotError> {
    match find()? {
        Some(godot) => Ok(godot),
        None => fetch::fetch(progress),
    }
}

/// `$XDG_CACHE_HOME/sidekick` or `~/.cache/sidekick`; `None` where neither variable is set.
pub fn cache_folder() -> Option<PathBuf> {
    let absolute = |name| {
        env::var_os(name)
            .map(PathBuf::from)
            .filter(|path| path.is_absolute())
    };
    let base =
        absolute("XDG_CACHE_HOME").or_else(|| absolute("HOME").map(|home| home.join(".cache")))?;
    Some(base.join("sidekick"))
}

/// The newest complete engine in the cache. A folder gets its name only when it is complete.
fn newest_in(cache: &Path) -> Option<Godot> {
    let entries = fs::read_dir(cache).ok()?;
    entries
        .filter_map(Result::ok)
        .filter_map(|entry| {
            let name = entry.file_name().into_string().ok()?;
            let version = Version::parse(name.strip_prefix("godot-")?)?;
            let path = entry.path().join("godot");
            path.is_file().then_some(Godot { path, version })
        })
        .filter(|godot| godot.version >= VERSION_MIN)
        .max_by_key(|godot| godot.version)
}

/// Asks an engine for its version.
///
/// # Errors
/// A clause saying what is wrong with it.
fn version_of(path: &Path) -> Result<Version, String> {
    let mut child = Command::new(path)
        .arg("--version")
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .stderr(Stdio::null())
        .spawn()
        .map_err(|error| format!("it cannot be started: {error}"))?;
    let mut stdout = child.stdout.take();
    let reader = thread::spawn(move || {
        let mut text = String::new();
        if let Some(stdout) = stdout.as_mut() {
            // Bounded: whatever pours out more than this is no engine's version.
            let _ = stdout.take(4096).read_to_string(&mut text);
        }
        text
    });
    let deadline = Instant::now() + VERSION_TIME_MAX;
    loop {
        match child.try_wait() {
            Ok(Some(_)) => break,
            Ok(None) if Instant::now() < deadline => thread::sleep(Duration::from_millis(5)),
            Ok(None) | Err(_) => {
                let _ = child.kill();
                let _ = child.wait();
                return Err(format!(
                    "--version did not end within {} s",
                    VERSION_TIME_MAX.as_secs()
                ));
            }
        }
    }
    let text = reader.join().unwrap_or_default();
    // A debug build may say things before; the version stands alone on its line.
    text.lines()
        .rev()
        .find_map(Version::parse)
        .ok_or_else(|| format!("--version said {:?}, which is no version", text.trim()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn versions_are_read_as_the_engine_writes_them() {
        let version = |major, minor, patch| {
            Some(Version {
                major,
                minor,
                patch,
            })
        };
        assert_eq!(
            Version::parse("4.6.3.stable.debian.7d41c59c4\n"),
            version(4, 6, 3)
        );
        assert_eq!(
            Version::parse("4.5.stable.official.876b29033"),
            version(4, 5, 0)
        );
        assert_eq!(Version::parse("4.10-rc1"), version(4, 10, 0));
        assert_eq!(Version::parse("3.6"), version(3, 6, 0));
        assert_eq!(Version::parse("godot 4"), None);
        assert!(Version::parse("4.10") > Version::parse("4.9"));
    }

    #[test]
    fn an_unfinished_folder_in_the_cache_is_not_taken() {
        let cache = tempfile::tempdir().unwrap();
        let make = |name: &str| {
            fs::create_dir(cache.path().join(name)).unwrap();
            fs::write(cache.path().join(name).join("godot"), "").unwrap();
        };
        make("godot.partial");
        make("godot-4.4.1");
        fs::create_dir(cache.path().join("godot-4.9.0")).unwrap();
        assert_eq!(newest_in(cache.path()), None);
        make("godot-4.5.0");
        make("godot-4.10.1");
        let newest = newest_in(cache.path()).unwrap();
        assert_eq!(
            newest.version,
            Version {
                major: 4,
                minor: 10,
                patch: 1
            }
        );
    }

    #[test]
    fn a_program_that_is_no_engine_is_told_apart() {
        assert!(
            version_of(Path::new("/bin/true"))
                .unwrap_err()
                .contains("no version")
        );
        assert!(
            version_of(Path::new("/nonexistent/godot"))
                .unwrap_err()
                .contains("cannot be started")
        );
    }
}
