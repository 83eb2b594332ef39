//! The runtime directory: launch locks, rings and spill files of one data directory.
//!
//! It has to be found again by the next watchdog whatever that one's environment looks like, or an engine that still
//! runs would not be seen and a second one be started. So the choice is recorded in the data directory.

use std::fs;
use std::io;
use std::path::{Path, PathBuf};

use super::{
    create_private_dir, create_private_file, is_lock_free, is_private_dir, path_from_bytes,
};

/// The file in the data directory that names the runtime directory.
const RECORD_NAME: &str = "runtime_dir";

/// The part of the environment that matters here, handed in so that it can be tested.
#[derive(Clone, Debug, Default)]
pub struct RuntimeDirHints {
    /// `$SIDEKICK_RUNTIME_DIR` or `runtime_dir` of the configuration.
    pub configured: Option<PathBuf>,
    /// `$RUNTIME_DIRECTORY` (systemd); of several, separated by colons, the first counts.
    pub systemd: Option<PathBuf>,
    /// `$XDG_RUNTIME_DIR`.
    pub xdg: Option<PathBuf>,
    /// Memory that every user may make folders in: `/dev/shm`.
    pub shared_memory: Option<PathBuf>,
}

impl RuntimeDirHints {
    /// What this process's environment says.
    pub fn from_environment(configured: Option<PathBuf>) -> Self {
        let variable = |name| {
            std::env::var_os(name)
                .filter(|value| !value.is_empty())
                .map(PathBuf::from)
        };
        let systemd = variable("RUNTIME_DIRECTORY").map(|dirs| {
            let text = dirs.to_string_lossy().into_owned();
            PathBuf::from(text.split(':').next().unwrap_or_default())
        });
        Self {
            configured,
            systemd,
            xdg: variable("XDG_RUNTIME_DIR"),
            shared_memory: Some(PathBuf::from("/dev/shm")),
        }
    }
}

/// Why there is no runtime directory.
#[derive(Debug, thiserror::Error)]
pub enum RuntimeDirError {
    /// The folder cannot be made or is not ours alone.
    #[error(
        "runtime directory {path:?} cannot be used: {reason}; it must belong to this user with mode 0700: repair it, or name another with runtime_dir"
    )]
    Unusable {
        /// The folder.
        path: PathBuf,
        /// What is wrong with it.
        reason: String,
    },
    /// The choice cannot be recorded.
    #[error(
        "runtime directory cannot be recorded in {path:?}: {source}; {}",
        super::remedy(.source)
    )]
    Record {
        /// The record.
        path: PathBuf,
        /// What the system said.
        source: io::Error,
    },
}

/// The runtime directory that was chosen.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RuntimeDir {
    /// The folder; it exists and is ours alone.
    pub path: PathBuf,
    /// Better places that could not be used, each with the reason, for the log.
    pub passed_over: Vec<String>,
}

/// Finds or makes the runtime directory of `data_dir` (absolute, locked by the caller).
///
/// In this order: the recorded one if an engine still runs there or has left a ring there · the configured one · the recorded one ·
/// `$RUNTIME_DIRECTORY/<key>` · `$XDG_RUNTIME_DIR/sidekick/<key>` · `/dev/shm/sidekick-<uid>/<key>` ·
/// `<data_dir>/runtime`. The key is a hash of the data directory's path.
///
/// # Errors
/// - [`RuntimeDirError::Unusable`]: the configured one is not usable (it is never passed over silently), or none is.
/// - [`RuntimeDirError::Record`]: the data directory cannot be written.
pub fn resolve(data_dir: &Path, hints: &RuntimeDirHints) -> Result<RuntimeDir, RuntimeDirError> {
    let record = data_dir.join(RECORD_NAME);
    let recorded = read_record(&record);
    let mut passed_over = Vec::new();

    if let (Some(path), Some(wanted)) = (&recorded, &hints.configured)
        && wanted != path
        && let Some(reason) = in_use(path)
    {
        passed_over.push(format!("{wanted:?} is configured, but {reason} {path:?}"));
        return make(path).map(|()| RuntimeDir {
            path: path.clone(),
            passed_over,
        });
    }
    if let Some(path) = &hints.configured {
        make(path)?;
        let path = path
            .canonicalize()
            .map_err(|error| RuntimeDirError::Unusable {
                path: path.clone(),
                reason: error.to_string(),
            })?;
        write_record(&record, recorded.as_deref(), &path)?;
        return Ok(RuntimeDir { path, passed_over });
    }

    let last = data_dir.join("runtime");
    for path in recorded.iter().cloned().chain(candidates(data_dir, hints)) {
        match make(&path) {
            Ok(()) => {
                write_record(&record, recorded.as_deref(), &path)?;
                return Ok(RuntimeDir { path, passed_over });
            }
            Err(error) if path == last => return Err(error),
            Err(error) => passed_over.push(error.to_string()),
        }
    }
    Err(RuntimeDirError::Unusable {
        path: last,
        reason: "nothing else was left to try".to_owned(),
    })
}

fn candidates(data_dir: &Path, hints: &RuntimeDirHints) -> Vec<PathBuf> {
    let key = key(data_dir);
    let uid = rustix::process::geteuid().as_raw();
    [
        hints.systemd.as_ref().map(|dir| dir.join(&key)),
        hints
            .xdg
            .as_ref()
            .map(|dir| dir.join("sidekick").join(&key)),
        hints
            .shared_memory
            .as_ref()
            .map(|dir| dir.join(format!("sidekick-{uid}")).join(&key)),
        Some(data_dir.join("runtime")),
    ]
    .into_iter()
    .flatten()
    .filter(|path| path.is_absolute())
    .collect()
}

/// FNV-1a of the path: it must be the same in every build for ever.
fn key(data_dir: &Path) -> String {
    let mut hash = 0xcbf2_9ce4_8422_2325_u64;
    for byte in data_dir.as_os_str().as_encoded_bytes() {
        hash = (hash ^ u64::from(*byte)).wrapping_mul(0x0000_0100_0000_01b3);
    }
    format!("{hash:016x}")
}

/// Makes the folder and its `launch` folder and checks that it, and the one above if we made that, is ours alone.
fn make(path: &Path) -> Result<(), RuntimeDirError> {
    let unusable = |reason: String| RuntimeDirError::Unusable {
        path: path.to_owned(),
        reason,
    };
    create_private_dir(path).map_err(|error| unusable(error.to_string()))?;
    // In a place that everybody may write, the folder above ours decides who may replace ours.
    if let Some(parent) = path.parent()
        && parent
            .file_name()
            .is_some_and(|name| name.to_string_lossy().starts_with("sidekick"))
        && parent.starts_with("/dev/shm")
    {
        is_private_dir(parent)
            .map_err(|reason| unusable(format!("of {parent:?} above it: {reason}")))?;
    }
    is_private_dir(path).map_err(unusable)?;
    let launch = path.join("launch");
    create_private_dir(&launch).map_err(|error| unusable(error.to_string()))?;
    is_private_dir(&launch).map_err(|reason| unusable(format!("of {launch:?} in it: {reason}")))
}

/// Why a runtime directory cannot be left yet: its rings would never be drained, its engine not adopted.
fn in_use(runtime_dir: &Path) -> Option<&'static str> {
    if has_running_engine(runtime_dir) {
        return Some("an engine still runs in");
    }
    let has_ring = fs::read_dir(runtime_dir).is_ok_and(|entries| {
        let mut paths = entries.flatten().map(|entry| entry.path());
        paths.any(|path| path.extension().is_some_and(|found| found == "ring"))
    });
    has_ring.then_some("records of an earlier engine are still to be taken from the ring in")
}

/// Whether a launch lock in there is held.
fn has_running_engine(runtime_dir: &Path) -> bool {
    fs::read_dir(runtime_dir.join("launch")).is_ok_and(|entries| {
        entries
            .flatten()
            .filter_map(|entry| create_private_file(&entry.path()).ok())
            .any(|file| is_lock_free(&file).is_ok_and(|free| !free))
    })
}

fn read_record(record: &Path) -> Option<PathBuf> {
    let text = fs::read(record).ok()?;
    let path = path_from_bytes(text.strip_suffix(b"\n").unwrap_or(&text));
    path.is_absolute().then_some(path)
}

fn write_record(record: &Path, old: Option<&Path>, path: &Path) -> Result<(), RuntimeDirError> {
    if old == Some(path) {
        return Ok(());
    }
    let write = || -> io::Result<()> {
        use std::io::Write as _;
        let new = record.with_extension("new");
        let mut file = create_private_file(&new)?;
        file.set_len(0)?;
        file.write_all(path.as_os_str().as_encoded_bytes())?;
        file.write_all(b"\n")?;
        file.sync_all()?;
        fs::rename(&new, record)?;
        if let Some(dir) = record.parent() {
            fs::File::open(dir)?.sync_all()?;
        }
        Ok(())
    };
    write().map_err(|source| RuntimeDirError::Record {
        path: record.to_owned(),
        source,
    })
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::{PermissionsExt, symlink};

    use super::*;

    fn hints(xdg: &Path) -> RuntimeDirHints {
        RuntimeDirHints {
            xdg: Some(xdg.to_owned()),
            ..RuntimeDirHints::default()
        }
    }

    #[test]
    fn the_choice_is_found_again_without_the_environment_that_led_to_it() {
        let dir = tempfile::tempdir().expect("temporary folder");
        let (data, xdg) = (dir.path().join("data"), dir.path().join("run"));
        fs::create_dir(&data).expect("made");
        fs::create_dir(&xdg).expect("made");
        let first = resolve(&data, &hints(&xdg)).expect("usable");
        assert!(first.path.starts_with(&xdg));
        let second = resolve(&data, &RuntimeDirHints::default()).expect("recorded");
        assert_eq!(second.path, first.path);
    }

    #[test]
    fn two_data_directories_have_two_runtime_directories() {
        let dir = tempfile::tempdir().expect("temporary folder");
        let (one, two) = (dir.path().join("one"), dir.path().join("two"));
        fs::create_dir(&one).expect("made");
        fs::create_dir(&two).expect("made");
        let hints = hints(dir.path());
        assert_ne!(
            resolve(&one, &hints).expect("usable").path,
            resolve(&two, &hints).expect("usable").path
        );
    }

    #[test]
    fn a_symbolic_link_or_an_open_folder_in_its_place_is_refused() {
        let dir = tempfile::tempdir().expect("temporary folder");
        let data = dir.path().join("data");
        fs::create_dir(&data).expect("made");
        let link = dir.path().join("link");
        symlink(dir.path(), &link).expect("linked");
        let open = dir.path().join("open");
        fs::create_dir(&open).expect("made");
        fs::set_permissions(&open, fs::Permissions::from_mode(0o755)).expect("opened");
        for (path, reason) in [(link, "symbolic link"), (open, "mode is 0755")] {
            let hints = RuntimeDirHints {
                configured: Some(path),
                ..RuntimeDirHints::default()
            };
            let error = resolve(&data, &hints).expect_err("refused").to_string();
            assert!(error.contains(reason), "{error}");
        }
    }

    #[test]
    fn an_unusable_place_is_passed_over_for_the_next() {
        let dir = tempfile::tempdir().expect("temporary folder");
        let data = dir.path().join("data");
        fs::create_dir(&data).expect("made");
        let chosen = resolve(&data, &hints(&dir.path().join("data/nothing\0"))).expect("usable");
        assert_eq!(chosen.path, data.join("runtime"));
        assert_eq!(chosen.passed_over.len(), 1);
    }

    #[test]
    fn a_configured_place_does_not_hide_an_engine_or_a_ring_elsewhere() {
        let dir = tempfile::tempdir().expect("temporary folder");
        let data = dir.path().join("data");
        fs::create_dir(&data).expect("made");
        let old = resolve(&data, &hints(dir.path())).expect("usable").path;
        let engine = create_private_file(&old.join("launch/0000000001")).expect("made");
        engine.lock().expect("locked");
        let configured = RuntimeDirHints {
            configured: Some(dir.path().join("new")),
            ..RuntimeDirHints::default()
        };
        assert_eq!(resolve(&data, &configured).expect("usable").path, old);
        engine.unlock().expect("unlocked");
        let ring = old.join("0000000001-x.0.ring");
        fs::write(&ring, "").expect("made");
        let chosen = resolve(&data, &configured).expect("usable");
        assert_eq!(chosen.path, old, "its ring is not drained yet");
        assert!(chosen.passed_over[0].contains("still to be taken"));
        fs::remove_file(&ring).expect("removed");
        assert_eq!(
            resolve(&data, &configured).expect("usable").path,
            dir.path().join("new").canonicalize().expect("made")
        );
    }
}
