//! Where a command writes what it was asked for: a file that the user names, or standard output.
//!
//! A file that is there is replaced with `--force` only, and whoever finds a new one finds all of it.

use std::fs::{self, File, OpenOptions};
use std::io::{self, Write};
use std::path::{Path, PathBuf};

/// The name that stands for standard output.
const STANDARD: &str = "-";

/// Why something is not written where the user wants it.
#[derive(Debug, thiserror::Error)]
pub(super) enum DestinationError {
    #[error("{path:?} exists already; --force replaces it")]
    Exists { path: PathBuf },
    #[error("{path:?} exists already and is no file; name another, or - for standard output")]
    NoFile { path: PathBuf },
    #[error("{path:?} cannot be written: {error}")]
    Write { path: PathBuf, error: io::Error },
}

impl DestinationError {
    pub(super) fn exit_code(&self) -> crate::exit::ExitCode {
        match self {
            Self::Exists { .. } | Self::NoFile { .. } => crate::exit::ExitCode::Usage,
            Self::Write { .. } => crate::exit::ExitCode::Internal,
        }
    }
}

/// An open destination. What is not [finished](Self::finish) leaves nothing.
#[derive(Debug)]
pub(super) struct Destination {
    path: PathBuf,
    force: bool,
    /// Beside the file, under a name that nobody has. `None` is standard output.
    partial: Option<Partial>,
}

#[derive(Debug)]
struct Partial {
    path: PathBuf,
    file: File,
}

impl Drop for Partial {
    fn drop(&mut self) {
        // Renamed, it is not there any more.
        let _ = fs::remove_file(&self.path);
    }
}

impl Destination {
    /// Opened before there is anything to write: reading it may take long.
    pub(super) fn open(path: &Path, force: bool) -> Result<Self, DestinationError> {
        let partial = match is_standard(path) {
            true => None,
            false => Some(Partial::create(path, force)?),
        };
        Ok(Self {
            path: path.to_owned(),
            force,
            partial,
        })
    }

    /// Puts the file in its place, if all of it was `written`.
    pub(super) fn finish(mut self, written: io::Result<()>) -> Result<(), DestinationError> {
        let written = written.and_then(|()| self.flush());
        let Some(partial) = self.partial.take() else {
            return match written {
                // Whoever reads us has gone: `buffer export | head`.
                Err(error) if error.kind() == io::ErrorKind::BrokenPipe => Ok(()),
                written => written.map_err(|error| failed(&self.path, error)),
            };
        };
        written
            .and_then(|()| partial.file.sync_all())
            .and_then(|()| partial.put_in_place(&self.path, self.force))
            .map_err(|error| match error.kind() {
                io::ErrorKind::AlreadyExists => exists(&self.path),
                _ => failed(&self.path, error),
            })
    }
}

impl Write for Destination {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        match &mut self.partial {
            Some(partial) => partial.file.write(bytes),
            None => io::stdout().lock().write(bytes),
        }
    }

    fn flush(&mut self) -> io::Result<()> {
        match &mut self.partial {
            Some(partial) => partial.file.flush(),
            None => io::stdout().lock().flush(),
        }
    }
}

impl Partial {
    fn create(target: &Path, force: bool) -> Result<Self, DestinationError> {
        let replaced = match fs::metadata(target) {
            Ok(found) if !found.is_file() => {
                let path = target.to_owned();
                return Err(DestinationError::NoFile { path });
            }
            Ok(_) if !force => return Err(exists(target)),
            Ok(found) => Some(found),
            // What is wrong with the place shows when something is made there.
            Err(_) => None,
        };
        let partial = Self::beside(target).map_err(|error| failed(target, error))?;
        // Who may read the old one may read the new one, and nobody else.
        match replaced.map(|found| partial.file.set_permissions(found.permissions())) {
            None | Some(Ok(())) => Ok(partial),
            Some(Err(error)) => Err(failed(target, error)),
        }
    }

    /// A file under a name that nobody has. One that was killed may have left the first.
    fn beside(target: &Path) -> io::Result<Self> {
        for number in 0.. {
            let mut path = target.to_owned().into_os_string();
            path.push(format!(".{}.{number}.part", std::process::id()));
            let path = PathBuf::from(path);
            match OpenOptions::new().write(true).create_new(true).open(&path) {
                Ok(file) => return Ok(Self { path, file }),
                Err(error) if error.kind() == io::ErrorKind::AlreadyExists => {}
                Err(error) => return Err(error),
            }
        }
        Err(io::ErrorKind::AlreadyExists.into())
    }

    fn put_in_place(&self, target: &Path, force: bool) -> io::Result<()> {
        if force {
            return fs::rename(&self.path, target);
        }
        // A link is refused where somebody has made the file meanwhile; a rename would replace that one.
        match fs::hard_link(&self.path, target) {
            Err(error) if error.kind() != io::ErrorKind::AlreadyExists => {
                // A file system without links.
                fs::rename(&self.path, target)
            }
            linked => linked,
        }
    }
}

/// Whether this name stands for standard output.
pub(super) fn is_standard(path: &Path) -> bool {
    path.as_os_str() == STANDARD
}

fn exists(path: &Path) -> DestinationError {
    let path = path.to_owned();
    DestinationError::Exists { path }
}

fn failed(path: &Path, error: io::Error) -> DestinationError {
    let path = path.to_owned();
    DestinationError::Write { path, error }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The names in a folder, in order.
    fn names(folder: &Path) -> Vec<String> {
        let entries = fs::read_dir(folder).unwrap();
        let mut names: Vec<_> = entries
            .map(|entry| entry.unwrap().file_name().into_string().unwrap())
            .collect();
        names.sort();
        names
    }

    fn write(path: &Path, force: bool, text: &str) -> Result<(), DestinationError> {
        let mut destination = Destination::open(path, force)?;
        let written = destination.write_all(text.as_bytes());
        destination.finish(written)
    }

    #[test]
    fn a_file_is_there_as_a_whole_or_not_at_all() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("all");
        let mut destination = Destination::open(&path, false).unwrap();
        destination.write_all(b"half").unwrap();
        assert!(!path.exists());
        drop(destination);
        let mut destination = Destination::open(&path, false).unwrap();
        destination.write_all(b"half").unwrap();
        let full = io::Error::from(io::ErrorKind::StorageFull);
        let error = destination.finish(Err(full)).unwrap_err();
        assert!(error.to_string().contains("cannot be written"), "{error}");
        assert!(names(folder.path()).is_empty());
        write(&path, false, "all").unwrap();
        assert_eq!(names(folder.path()), ["all"]);
        assert_eq!(fs::read(&path).unwrap(), b"all");
    }

    #[test]
    fn nothing_is_replaced_that_nobody_said_may_be() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("all");
        // Ours is one of many that may be there; a half-written one of somebody else is not touched either.
        let theirs = folder.path().join("all.part");
        fs::write(&theirs, "theirs").unwrap();
        fs::write(&path, "mine").unwrap();
        let error = write(&path, false, "new").unwrap_err();
        assert!(matches!(error, DestinationError::Exists { .. }));
        assert!(error.to_string().contains("--force"), "{error}");
        assert_eq!(fs::read(&path).unwrap(), b"mine");
        write(&path, true, "new").unwrap();
        assert_eq!(fs::read(&path).unwrap(), b"new");
        let error = write(folder.path(), true, "new").unwrap_err();
        assert!(matches!(error, DestinationError::NoFile { .. }));
        assert_eq!(fs::read(&theirs).unwrap(), b"theirs");
        assert_eq!(names(folder.path()), ["all", "all.part"]);
    }

    #[test]
    fn what_a_killed_command_left_is_in_nobodys_way() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("all");
        let left = format!("all.{}.0.part", std::process::id());
        fs::write(folder.path().join(&left), "half").unwrap();
        write(&path, false, "all").unwrap();
        assert_eq!(fs::read(&path).unwrap(), b"all");
        assert_eq!(names(folder.path()), ["all".to_owned(), left]);
    }

    /// Between the look and the end somebody else makes the file.
    #[test]
    fn a_file_that_came_meanwhile_is_not_replaced_either() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("all");
        let mut destination = Destination::open(&path, false).unwrap();
        let written = destination.write_all(b"new");
        fs::write(&path, "mine").unwrap();
        let error = destination.finish(written).unwrap_err();
        assert!(matches!(error, DestinationError::Exists { .. }));
        assert_eq!(fs::read(&path).unwrap(), b"mine");
        assert_eq!(names(folder.path()), ["all"]);
    }

    #[test]
    fn a_replaced_file_keeps_its_permissions() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("all");
        fs::write(&path, "mine").unwrap();
        let mut permissions = fs::metadata(&path).unwrap().permissions();
        permissions.set_readonly(true);
        fs::set_permissions(&path, permissions).unwrap();
        write(&path, true, "new").unwrap();
        assert_eq!(fs::read(&path).unwrap(), b"new");
        assert!(fs::metadata(&path).unwrap().permissions().readonly());
    }
}
