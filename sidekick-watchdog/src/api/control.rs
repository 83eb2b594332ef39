//! The control socket: the same answers as over TCP, for this user alone.

use std::io;
use std::path::{Path, PathBuf};

use super::connection::BoundedListener;
use crate::platform::ControlListener;

/// The socket in the runtime directory.
pub const CONTROL_SOCKET: &str = "control.sock";

/// The socket, before it is served.
#[derive(Debug)]
pub(super) struct Control {
    listener: ControlListener,
    path: PathBuf,
}

impl Control {
    pub(super) fn bind(runtime_dir: &Path) -> io::Result<Self> {
        Ok(Self {
            listener: ControlListener::bind(runtime_dir, CONTROL_SOCKET)?,
            path: runtime_dir.join(CONTROL_SOCKET),
        })
    }

    /// Where it lies.
    pub(super) fn path(&self) -> &Path {
        &self.path
    }

    pub(super) fn into_listener(self) -> BoundedListener {
        BoundedListener::over_control(self.listener)
    }
}
