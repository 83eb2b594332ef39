//! Being told that a file grew, or that one came to be in a folder, without polling.

use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::path::Path;

use rustix::fs::inotify::{CreateFlags, WatchFlags, add_watch, init, remove_watch};

/// Watches one file or folder at a time; readable (see [`super::wake::wait`]) when that was written to, or when something
/// got a name in it.
#[derive(Debug)]
pub struct FileWatch {
    inotify: OwnedFd,
    watch: Option<i32>,
}

impl FileWatch {
    /// Watches nothing yet.
    ///
    /// # Errors
    /// No inotify instance was to be had (`fs.inotify.max_user_instances`).
    pub fn new() -> io::Result<Self> {
        let inotify = init(CreateFlags::CLOEXEC | CreateFlags::NONBLOCK)?;
        Ok(Self {
            inotify,
            watch: None,
        })
    }

    /// Watches `path` instead of what was watched before.
    ///
    /// # Errors
    /// What the system said (`fs.inotify.max_user_watches`, no such file).
    pub fn follow(&mut self, path: &Path) -> io::Result<()> {
        self.replace(path, WatchFlags::MODIFY)
    }

    /// Watches the names in a folder instead of what was watched before: files that are made or moved there. Costs next
    /// to nothing for the folder that is watched already; one that was removed and made again has to be named anew.
    ///
    /// # Errors
    /// As [`Self::follow`].
    pub fn follow_names(&mut self, folder: &Path) -> io::Result<()> {
        self.replace(folder, WatchFlags::CREATE | WatchFlags::MOVED_TO)
    }

    fn replace(&mut self, path: &Path, flags: WatchFlags) -> io::Result<()> {
        let new = add_watch(&self.inotify, path, flags);
        let old = self.watch.take();
        if let Some(old) = old
            && !new.as_ref().is_ok_and(|new| *new == old)
        {
            // The file may be gone, and the watch with it.
            let _ = remove_watch(&self.inotify, old);
        }
        self.watch = Some(new?);
        Ok(())
    }

    /// Takes what was told so far, so that the next wait sleeps.
    pub fn clear(&self) {
        let mut told = [0_u8; 1024];
        while rustix::io::read(&self.inotify, &mut told).is_ok_and(|bytes| bytes > 0) {}
    }
}

impl AsFd for FileWatch {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.inotify.as_fd()
    }
}

#[cfg(test)]
mod tests {
    use std::fs;
    use std::time::Duration;

    use super::super::wake::{Waker, wait};
    use super::*;

    #[test]
    fn new_names_in_a_folder_are_told_also_when_it_was_made_again() {
        let dir = tempfile::tempdir().expect("temporary folder");
        let folder = dir.path().join("folder");
        let waker = Waker::new().expect("a descriptor");
        let mut watch = FileWatch::new().expect("an inotify");
        assert!(watch.follow_names(&folder).is_err(), "it is not there");
        for _ in 0..2 {
            fs::create_dir(&folder).expect("made");
            for _ in 0..2 {
                watch.follow_names(&folder).expect("followed");
            }
            watch.clear();
            let is_told = |patience| {
                let told = wait(&waker, Some(&watch), Some(patience)).expect("waited");
                watch.clear();
                told.readable
            };
            assert!(!is_told(Duration::ZERO));
            fs::write(dir.path().join("file"), "x").expect("written");
            fs::rename(dir.path().join("file"), folder.join("file")).expect("moved");
            assert!(is_told(Duration::from_secs(20)));
            fs::remove_dir_all(&folder).expect("removed");
        }
    }
}
