//! What machine this is, and what its folders are made of.

use std::io;
use std::path::Path;

use rustix::fs::Access;

/// Filesystem magic numbers of `statfs(2)`.
const MEMORY_MAGICS: [u64; 2] = [0x0102_1994, 0x8584_58f6];
const NETWORK_MAGICS: [(u64, &str); 4] = [
    (0x6969, "NFS"),
    (0xff53_4d42, "CIFS"),
    (0xfe53_4d42, "SMB"),
    (0x0102_1997, "9P"),
];

/// Where a folder's files are.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum FileSystem {
    /// In memory: gone after a reboot.
    Memory,
    /// On another machine, reached by this protocol.
    Network(&'static str),
    /// On a disk of this machine, or nobody knows.
    Disk,
}

/// What kind of file system an existing path lies on.
pub fn file_system(path: &Path) -> FileSystem {
    let Ok(found) = rustix::fs::statfs(path) else {
        return FileSystem::Disk;
    };
    // The field's width and sign differ between processors; the magic numbers are 32 bits.
    let magic = found.f_type as u64 & 0xffff_ffff;
    if MEMORY_MAGICS.contains(&magic) {
        return FileSystem::Memory;
    }
    NETWORK_MAGICS
        .iter()
        .find(|(known, _)| *known == magic)
        .map_or(FileSystem::Disk, |(_, name)| FileSystem::Network(name))
}

/// Bytes that this user may still write to the file system of an existing path.
///
/// # Errors
/// What the system said.
pub fn free_bytes(path: &Path) -> io::Result<u64> {
    let space = rustix::fs::statvfs(path)?;
    Ok(space.f_bavail.saturating_mul(space.f_frsize))
}

/// Whether this user may make files in an existing folder.
///
/// # Errors
/// What the system said.
pub fn check_folder_access(folder: &Path) -> io::Result<()> {
    Ok(rustix::fs::access(
        folder,
        Access::WRITE_OK | Access::EXEC_OK,
    )?)
}

/// Whether a path is a file that this user may execute.
pub fn is_executable(path: &Path) -> bool {
    path.is_file() && rustix::fs::access(path, Access::EXEC_OK).is_ok()
}

/// Whether this process may do everything (root).
pub fn is_superuser() -> bool {
    rustix::process::geteuid().is_root()
}

/// The machine's name.
pub fn host_name() -> String {
    let names = rustix::system::uname();
    names.nodename().to_string_lossy().into_owned()
}

/// The kernel's version, such as `6.1.0-18-amd64`.
pub fn kernel_release() -> String {
    let names = rustix::system::uname();
    names.release().to_string_lossy().into_owned()
}
