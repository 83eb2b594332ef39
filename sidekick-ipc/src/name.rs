//! Names of the files of a session in the runtime directory.

use std::io;
use std::path::{Path, PathBuf};

use uuid::Uuid;

use crate::sys::{self, Dir};

/// A ring file, as its name tells.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct RingFileName {
    /// Launch number of the engine process.
    pub launch: u32,
    /// The session.
    pub epoch: Uuid,
    /// Which file of the session.
    pub rotation: u32,
    /// Where it is.
    pub path: PathBuf,
}

impl RingFileName {
    /// The name and path that a ring file has in `runtime_dir`.
    pub fn new(runtime_dir: &Path, launch: u32, epoch: Uuid, rotation: u32) -> RingFileName {
        let path = runtime_dir.join(ring_name(launch, &epoch, rotation));
        RingFileName {
            launch,
            epoch,
            rotation,
            path,
        }
    }

    fn parse(path: PathBuf) -> Option<RingFileName> {
        let name = path.file_name()?.to_str()?.strip_suffix(".ring")?;
        let (launch, rest) = name.split_once('-')?;
        let (epoch, rotation) = rest.rsplit_once('.')?;
        let (launch, rotation) = (launch.parse().ok()?, rotation.parse().ok()?);
        let epoch = Uuid::try_parse(epoch).ok()?;
        // Only the one spelling: two names must never mean the same ring.
        (path.file_name()?.to_str()? == ring_name(launch, &epoch, rotation)).then_some(
            RingFileName {
                launch,
                epoch,
                rotation,
                path,
            },
        )
    }
}

/// Name of a ring file.
pub fn ring_name(launch: u32, epoch: &Uuid, rotation: u32) -> String {
    format!("{launch:010}-{epoch}.{rotation}.ring")
}

/// Name of a spill file.
pub fn spill_name(launch: u32, epoch: &Uuid, number: u32) -> String {
    format!("{launch:010}-{epoch}.{number}.spill")
}

/// Name of a ring file that is not finished yet; nobody looks at it.
pub fn temporary_name(epoch: &Uuid, rotation: u32) -> String {
    format!(".{epoch}.{rotation}.tmp")
}

/// The ring files in `runtime_dir`, by launch, then session, then rotation.
///
/// # Errors
/// As the system gives them.
pub fn scan(runtime_dir: &Path) -> io::Result<Vec<RingFileName>> {
    let mut names = Vec::new();
    for entry in std::fs::read_dir(runtime_dir)? {
        names.extend(RingFileName::parse(entry?.path()));
    }
    names.sort();
    Ok(names)
}

/// Deletes what engines left that were killed while they made a ring file: unfinished files that nobody holds and
/// that are older than `age`. Returns how many.
///
/// An engine takes its lock microseconds after it made the file, so a minute is a safe age.
///
/// # Errors
/// As the system gives them; some may be deleted by then.
pub fn remove_unfinished(runtime_dir: &Path, age: std::time::Duration) -> io::Result<usize> {
    let dir = Dir::open(runtime_dir)?;
    let mut removed = 0usize;
    for entry in std::fs::read_dir(runtime_dir)? {
        let name = entry?.file_name();
        let Some(name) = name.to_str().filter(|name| is_temporary(name)) else {
            continue;
        };
        let Ok((file, _)) = dir.open_own(name, false) else {
            continue;
        };
        let is_old = file
            .metadata()?
            .modified()?
            .elapsed()
            .is_ok_and(|elapsed| elapsed >= age);
        if is_old && !sys::is_locked_by_other(&file) {
            dir.remove(name)?;
            removed = removed.saturating_add(1);
        }
    }
    Ok(removed)
}

fn is_temporary(name: &str) -> bool {
    let inner = name
        .strip_prefix('.')
        .and_then(|name| name.strip_suffix(".tmp"));
    inner
        .and_then(|inner| inner.rsplit_once('.'))
        .is_some_and(|(epoch, _)| Uuid::try_parse(epoch).is_ok())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_name_is_understood_in_one_spelling_only() {
        let name = RingFileName::new(Path::new("/d"), 7, Uuid::from_u128(9), 2);
        assert_eq!(RingFileName::parse(name.path.clone()), Some(name.clone()));
        let odd = name.path.to_str().unwrap().replace("0000000007", "7");
        assert_eq!(RingFileName::parse(odd.into()), None);
        let spill = Path::new("/d").join(spill_name(7, &name.epoch, 2));
        assert_eq!(RingFileName::parse(spill), None);
    }
}
