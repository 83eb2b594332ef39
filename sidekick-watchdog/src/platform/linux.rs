//! Linux behind the seam.

pub mod clock;
pub mod control_socket;
pub mod files;
pub mod helper;
pub mod inotify;
pub mod lock;
pub mod oom;
pub mod process;
pub mod procfs;
pub mod service_manager;
pub mod signals;
pub mod system;
pub mod threads;
pub mod wake;
