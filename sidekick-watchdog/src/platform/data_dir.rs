//! The data directory's lock: one watchdog for one data directory.

use std::fs::File;
use std::io::{self, Read, Seek, SeekFrom, Write};
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use super::{Process, create_private_dir, create_private_file, try_lock};

/// How long a lock is waited for whose recorded holder is dead: its death is still being carried out, or a child that
/// it was just starting has not come to its exec yet.
const DYING_HOLDER_WAIT: Duration = Duration::from_secs(3);
/// How long a holder is waited for that has not written its number yet.
const NEW_HOLDER_WAIT: Duration = Duration::from_millis(200);
const DYING_HOLDER_POLL: Duration = Duration::from_millis(2);

/// Why the data directory cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum DataDirError {
    /// It cannot be made or its lock file cannot be opened.
    #[error(
        "the data directory cannot be used: {path:?}: {source}; {}, or name another folder with --data-dir or data_dir",
        super::remedy(.source)
    )]
    Unusable {
        /// The folder or the file in it.
        path: PathBuf,
        /// What the system said.
        source: io::Error,
    },
    /// Another watchdog uses it.
    #[error(
        "data directory {dir:?} is in use by another watchdog (pid {holder}); stop that one, or give this one a data directory of its own with --data-dir"
    )]
    InUse {
        /// The folder.
        dir: PathBuf,
        /// The other's process id, as far as it is known.
        holder: String,
    },
}

/// Held as long as this watchdog uses the data directory. Released by dropping it, and by our death however it comes.
#[derive(Debug)]
pub struct DataDirLock {
    dir: PathBuf,
    _file: File,
}

/// In a Godot project, keeps the editor from importing what lies here, and Git from committing it.
fn hide_from_godot(dir: &Path) -> io::Result<()> {
    const PROJECT: &str = "project.godot";
    let is_in_project = dir
        .ancestors()
        .skip(1)
        .any(|above| above.join(PROJECT).is_file());
    // Who makes the project itself the data directory wants to go on seeing it.
    if !is_in_project || dir.join(PROJECT).exists() {
        return Ok(());
    }
    for (name, text) in [(".gdignore", ""), (".gitignore", "*\n")] {
        let path = dir.join(name);
        if !path.exists() {
            create_private_file(&path)?.write_all(text.as_bytes())?;
        }
    }
    Ok(())
}

impl DataDirLock {
    /// Creates the data directory if missing (mode 0700) and locks it. Blocks up to 3 s, and that only if the recorded
    /// holder is dead.
    ///
    /// # Errors
    /// - [`DataDirError::InUse`]: another watchdog holds it.
    /// - [`DataDirError::Unusable`]: it cannot be made, opened or written.
    pub fn acquire(dir: &Path) -> Result<Self, DataDirError> {
        let unusable = |path: &Path, source| DataDirError::Unusable {
            path: path.to_owned(),
            source,
        };
        create_private_dir(dir).map_err(|error| unusable(dir, error))?;
        let dir = dir.canonicalize().map_err(|error| unusable(dir, error))?;
        if let Err(error) = hide_from_godot(&dir) {
            tracing::debug!(%error, "the data directory cannot be hidden from the Godot project that it lies in");
        }
        let path = dir.join("watchdog.lock");
        let mut file = create_private_file(&path).map_err(|error| unusable(&path, error))?;
        let asked_at = Instant::now();
        while !try_lock(&file).map_err(|error| unusable(&path, error))? {
            let holder = read_holder(&mut file);
            let is_alive =
                holder.is_some_and(|(pid, ticks)| Process::open(pid, Some(ticks)).is_ok());
            // Nobody recorded: it is a new holder that has not come to it yet.
            let wait = if holder.is_some() {
                DYING_HOLDER_WAIT
            } else {
                NEW_HOLDER_WAIT
            };
            if is_alive || asked_at.elapsed() > wait {
                let holder = holder.filter(|_| is_alive);
                let holder =
                    holder.map_or_else(|| "unknown".to_owned(), |(pid, _)| pid.to_string());
                return Err(DataDirError::InUse { dir, holder });
            }
            std::thread::sleep(DYING_HOLDER_POLL);
        }
        write_holder(&mut file).map_err(|error| unusable(&path, error))?;
        Ok(Self { dir, _file: file })
    }

    /// The data directory, absolute and free of symbolic links.
    pub fn dir(&self) -> &Path {
        &self.dir
    }
}

/// The holder's process id and start time, if the file tells them.
fn read_holder(file: &mut File) -> Option<(u32, u64)> {
    let mut text = String::new();
    file.seek(SeekFrom::Start(0)).ok()?;
    file.take(256).read_to_string(&mut text).ok()?;
    let mut words = text.split_ascii_whitespace();
    Some((words.next()?.parse().ok()?, words.next()?.parse().ok()?))
}

fn write_holder(file: &mut File) -> io::Result<()> {
    let pid = std::process::id();
    let ticks = Process::open(pid, None)?.start_ticks();
    file.set_len(0)?;
    file.seek(SeekFrom::Start(0))?;
    file.write_all(format!("{pid} {ticks}\n").as_bytes())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_data_directory_in_a_godot_project_is_hidden_from_it() {
        let root = tempfile::tempdir().unwrap();
        let project = root.path().join("game");
        std::fs::create_dir(&project).unwrap();
        std::fs::write(project.join("project.godot"), "").unwrap();
        let inside = project.join("server/sidekick-data");
        drop(DataDirLock::acquire(&inside).unwrap());
        assert_eq!(
            std::fs::read_to_string(inside.join(".gitignore")).unwrap(),
            "*\n"
        );
        assert!(inside.join(".gdignore").exists());
        std::fs::write(inside.join(".gitignore"), "mine").unwrap();
        drop(DataDirLock::acquire(&inside).unwrap());
        assert_eq!(
            std::fs::read_to_string(inside.join(".gitignore")).unwrap(),
            "mine"
        );
        for other in [&project, &root.path().join("data")] {
            drop(DataDirLock::acquire(other).unwrap());
            assert!(!other.join(".gdignore").exists());
        }
    }

    #[test]
    fn a_second_watchdog_is_told_who_holds_the_data_directory() {
        let parent = tempfile::tempdir().expect("temporary folder");
        let dir = parent.path().join("new/data");
        let first = DataDirLock::acquire(&dir).expect("free");
        let error = DataDirLock::acquire(&dir).expect_err("held");
        let text = error.to_string();
        assert!(
            text.contains(&format!(
                "in use by another watchdog (pid {})",
                std::process::id()
            )),
            "{text}"
        );
        drop(first);
        DataDirLock::acquire(&dir).expect("free again");
    }

    #[test]
    fn a_file_in_the_place_of_the_data_directory_is_named() {
        let parent = tempfile::tempdir().expect("temporary folder");
        let dir = parent.path().join("data");
        std::fs::write(&dir, "").expect("written");
        let error = DataDirLock::acquire(&dir).expect_err("not a folder");
        assert!(matches!(error, DataDirError::Unusable { .. }));
        assert!(error.to_string().contains("--data-dir"), "{error}");
    }
}
