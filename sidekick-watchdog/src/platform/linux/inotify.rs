//! Being told that a file grew, without polling it.

use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::path::Path;

use rustix::fs::inotify::{CreateFlags, WatchFlags, add_watch, init, remove_watch};

/// Watches one file at a time; readable (see [`super::wake::wait`]) when that was written to.
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
        if let Some(watch) = self.watch.take() {
            // The file may be gone, and the watch with it.
            let _ = remove_watch(&self.inotify, watch);
        }
        self.watch = Some(add_watch(&self.inotify, path, WatchFlags::MODIFY)?);
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
