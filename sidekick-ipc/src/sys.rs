//! What the system does for us, one file per system. Nothing else in this crate names a system.

#[cfg(target_os = "linux")]
mod linux;
#[cfg(target_os = "linux")]
pub use linux::*;

#[cfg(not(target_os = "linux"))]
compile_error!(
    "sidekick-ipc runs on Linux only so far; another system needs a file beside sys/linux.rs"
);
