//! The folders: can they be written, do they survive, is there room, does somebody else use them?

use std::fs::{File, OpenOptions, TryLockError};
use std::path::{Path, PathBuf};

use super::{Finding, failure, fine, gib, warning};
use crate::config::Config;
use crate::exit::ExitCode;
use crate::platform::{
    FileSystem, check_folder_access, file_system, free_bytes, is_private_dir, is_superuser,
};

pub(super) fn data_dir(config: &Config) -> Vec<Finding> {
    let dir = &config.data_dir;
    if let Err(why) = check_writable(dir) {
        return vec![failure(ExitCode::StoreUnusable, "data_dir", why)];
    }
    let mut findings = vec![match is_in_use(dir) {
        Ok(true) => warning(
            "data_dir",
            format!("{dir:?} is in use by a running watchdog"),
        ),
        Ok(false) => fine("data_dir", dir.display().to_string()),
        Err(why) => failure(ExitCode::StoreUnusable, "data_dir", why),
    }];
    if dir.exists()
        && let Err(reason) = is_private_dir(dir)
    {
        findings.push(warning(
            "data_dir",
            format!(
                "{reason}: others could get at what is recorded, printed and uploaded; run: chmod 700 {dir:?}"
            ),
        ));
    }
    let existing = nearest_existing(dir);
    match file_system(&existing) {
        FileSystem::Memory => findings.push(warning(
            "data_dir",
            "lies in memory: what is stored is gone after a reboot; name a folder on a disk",
        )),
        FileSystem::Network(name) => findings.push(warning(
            "data_dir",
            format!("lies on {name}: locks and fsync may not hold what they promise there"),
        )),
        FileSystem::Disk => {}
    }
    if let Ok(free_bytes) = free_bytes(&existing) {
        let quota = config.store.disk_quota_bytes;
        findings.push(match free_bytes < quota {
            true => warning(
                "disk",
                format!(
                    "{} free, less than [store] disk_quota of {}: the disk would be full first",
                    gib(free_bytes),
                    gib(quota)
                ),
            ),
            false => fine(
                "disk",
                format!(
                    "{} free, the store takes at most {}",
                    gib(free_bytes),
                    gib(quota)
                ),
            ),
        });
    }
    findings
}

pub(super) fn runtime_dir(config: &Config) -> Vec<Finding> {
    let dir = likely_runtime_dir(config);
    if let Err(why) = check_writable(&dir) {
        let code = ExitCode::RuntimeDir;
        return vec![failure(
            code,
            "runtime_dir",
            format!("{why}; or set runtime_dir"),
        )];
    }
    let in_memory = file_system(&nearest_existing(&dir)) == FileSystem::Memory;
    let mut findings = vec![match in_memory {
        true => fine("runtime_dir", format!("in {}, in memory", dir.display())),
        false => warning(
            "runtime_dir",
            format!(
                "{dir:?} lies on a disk: records take longer when the disk is busy; name a folder in memory, such as in /dev/shm"
            ),
        ),
    }];
    findings.extend(rings_of_the_dead(&dir));
    let is_login_session = Path::new("/run/systemd/system").exists()
        && std::env::var_os("INVOCATION_ID").is_none()
        && !is_superuser();
    let is_cleared = dir.starts_with("/run/user") || dir.starts_with("/dev/shm");
    if is_login_session && is_cleared {
        findings.push(warning(
            "runtime_dir",
            "systemd clears this folder when this user logs out (RemoveIPC=, XDG_RUNTIME_DIR): run as a system \
             service, or run: loginctl enable-linger",
        ));
    }
    findings
}

/// Rings that nobody writes any more: their records are not stored.
fn rings_of_the_dead(dir: &Path) -> Option<Finding> {
    let rings = sidekick_ipc::scan(dir).ok()?;
    let dead: Vec<String> = rings
        .iter()
        .filter(|ring| {
            sidekick_ipc::Attachment::open(ring).is_ok_and(|ring| !ring.is_writer_alive())
        })
        .map(|ring| ring.path.display().to_string())
        .collect();
    (!dead.is_empty()).then(|| {
        warning(
            "rings",
            format!(
                "records of engines that have ended wait in {}: the next start takes them; if a watchdog runs and they \
                 stay, its status says why",
                dead.join(", ")
            ),
        )
    })
}

/// The folder that `run` would choose, or the one below which it would make its own.
fn likely_runtime_dir(config: &Config) -> PathBuf {
    let variable = |name| {
        std::env::var_os(name)
            .filter(|v| !v.is_empty())
            .map(PathBuf::from)
    };
    let recorded = std::fs::read_to_string(config.data_dir.join("runtime_dir"))
        .ok()
        .map(|text| PathBuf::from(text.trim_end_matches('\n')));
    config
        .runtime_dir
        .clone()
        .or(recorded)
        .or_else(|| variable("RUNTIME_DIRECTORY"))
        .or_else(|| variable("XDG_RUNTIME_DIR").filter(|dir| check_writable(dir).is_ok()))
        .or_else(|| Some(PathBuf::from("/dev/shm")).filter(|dir| check_writable(dir).is_ok()))
        .unwrap_or_else(|| config.data_dir.join("runtime"))
}

/// Whether files can be made in this folder, or the folder itself where it does not exist yet.
pub(super) fn check_writable(dir: &Path) -> Result<(), String> {
    let existing = nearest_existing(dir);
    if !existing.is_dir() {
        return Err(format!("{existing:?} is not a folder"));
    }
    match check_folder_access(&existing) {
        Ok(()) => Ok(()),
        Err(error) => Err(format!(
            "{existing:?} cannot be written: {error}; correct its owner or mode"
        )),
    }
}

fn nearest_existing(dir: &Path) -> PathBuf {
    dir.ancestors()
        .find(|folder| folder.exists())
        .unwrap_or_else(|| Path::new("."))
        .to_owned()
}

fn is_in_use(dir: &Path) -> Result<bool, String> {
    let path = dir.join("watchdog.lock");
    let file: File = match OpenOptions::new().read(true).open(&path) {
        Ok(file) => file,
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(false),
        Err(error) => return Err(format!("{path:?} cannot be read: {error}")),
    };
    // Shared, so that two doctors do not take each other for a watchdog; released with the file.
    match file.try_lock_shared() {
        Ok(()) => Ok(false),
        Err(TryLockError::WouldBlock) => Ok(true),
        Err(TryLockError::Error(error)) => Err(format!("{path:?} cannot be locked: {error}")),
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::super::Verdict;
    use super::*;

    #[test]
    fn a_lock_that_another_holds_is_seen_and_left_alone() {
        let folder = tempfile::tempdir().unwrap();
        assert_eq!(is_in_use(folder.path()), Ok(false));
        let lock = File::create(folder.path().join("watchdog.lock")).unwrap();
        assert_eq!(is_in_use(folder.path()), Ok(false));
        lock.try_lock().unwrap();
        assert_eq!(is_in_use(folder.path()), Ok(true));
        drop(lock);
        assert_eq!(is_in_use(folder.path()), Ok(false));
    }

    #[test]
    fn a_folder_that_does_not_exist_is_judged_by_the_nearest_that_does() {
        let folder = tempfile::tempdir().unwrap();
        assert_eq!(check_writable(&folder.path().join("a/b/c")), Ok(()));
        let file = folder.path().join("file");
        std::fs::write(&file, "").unwrap();
        assert!(
            check_writable(&file.join("a"))
                .unwrap_err()
                .contains("is not a folder")
        );
    }

    #[test]
    fn a_ring_that_nobody_writes_is_a_finding() {
        use sidekick_ipc::session::{Session, SessionOptions, WhenFull};

        let folder = tempfile::tempdir().unwrap();
        assert!(rings_of_the_dead(folder.path()).is_none());
        let session = Session::create(SessionOptions {
            runtime_dir: folder.path().to_owned(),
            launch: 7,
            incarnation: 7,
            ring_bytes: 64 << 10,
            when_full: WhenFull::Refuse,
            block_max: Duration::ZERO,
            spill_bytes_max: 0,
            keep: Vec::new(),
            library_version: "test".to_owned(),
            game_version: String::new(),
        })
        .unwrap();
        assert!(rings_of_the_dead(folder.path()).is_none(), "it lives");
        drop(session);
        let finding = rings_of_the_dead(folder.path()).unwrap();
        assert_eq!(finding.verdict, Verdict::Warning);
        assert!(finding.words.contains("0000000007-"), "{}", finding.words);
    }
}
