//! Files and folders that belong to this user alone.

use std::ffi::{OsStr, OsString};
use std::fs::{self, DirBuilder, File, OpenOptions};
use std::io;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::{DirBuilderExt, FileExt, MetadataExt, OpenOptionsExt};
use std::path::{Path, PathBuf};

use rustix::fs::{MemfdFlags, OFlags, SealFlags, fcntl_add_seals, memfd_create};

/// Creates a folder with mode 0700 and its missing parents; an existing one is left as it is.
///
/// # Errors
/// What the system said.
pub fn create_private_dir(path: &Path) -> io::Result<()> {
    DirBuilder::new().recursive(true).mode(0o700).create(path)
}

/// Checks that `path` is a folder, no symbolic link, owned by this user and closed to all others.
///
/// # Errors
/// With the reason in words, lower-case, without the path.
pub fn is_private_dir(path: &Path) -> Result<(), String> {
    let metadata = fs::symlink_metadata(path).map_err(|error| error.to_string())?;
    let uid = rustix::process::geteuid().as_raw();
    if metadata.file_type().is_symlink() {
        return Err("it is a symbolic link".to_owned());
    }
    if !metadata.is_dir() {
        return Err("it is not a folder".to_owned());
    }
    if metadata.uid() != uid {
        return Err(format!(
            "it belongs to user {}, not to user {uid}",
            metadata.uid()
        ));
    }
    let mode = metadata.mode() & 0o7777;
    if mode & 0o077 != 0 {
        return Err(format!(
            "its mode is {mode:04o}, others may enter it (0700 is wanted)"
        ));
    }
    Ok(())
}

/// Makes a file that these options create readable and writable by this user alone (mode 0600).
pub fn set_private(options: &mut OpenOptions) -> &mut OpenOptions {
    options.mode(0o600)
}

/// From now on, whatever this process creates is for this user alone, also what libraries create. Not for a process
/// that starts programs of others: they would inherit it.
pub fn make_new_files_private() {
    rustix::process::umask(rustix::fs::Mode::from_bits_retain(0o077));
}

/// Whether everybody on this machine may read a file; `false` when it cannot be looked at.
pub fn is_readable_by_all(path: &Path) -> bool {
    const OTHERS_READ: u32 = 0o004;
    fs::metadata(path).is_ok_and(|found| found.mode() & OTHERS_READ != 0)
}

/// Makes creations, renames and deletions in a folder durable.
///
/// # Errors
/// What the system said.
pub fn sync_dir(path: &Path) -> io::Result<()> {
    File::open(path)?.sync_all()
}

/// Opens a file for reading and writing, created with mode 0600 if missing, never through a symbolic link.
///
/// # Errors
/// What the system said.
pub fn create_private_file(path: &Path) -> io::Result<File> {
    OpenOptions::new()
        .read(true)
        .write(true)
        .create(true)
        .truncate(false)
        .mode(0o600)
        .custom_flags(OFlags::NOFOLLOW.bits().cast_signed())
        .open(path)
}

/// Opens a file for appending, created with mode 0600 if missing, never through a symbolic link.
///
/// # Errors
/// What the system said.
pub fn open_private_append(path: &Path) -> io::Result<File> {
    OpenOptions::new()
        .append(true)
        .create(true)
        .mode(0o600)
        .custom_flags(OFlags::NOFOLLOW.bits().cast_signed())
        .open(path)
}

/// A file in memory that holds `bytes`, whoever reads it, and is gone with its last descriptor. Nobody can change it.
///
/// # Errors
/// What the system said.
pub fn memory_file(bytes: &[u8]) -> io::Result<File> {
    let flags = MemfdFlags::CLOEXEC | MemfdFlags::ALLOW_SEALING;
    let file = File::from(memfd_create("sidekick", flags)?);
    file.write_all_at(bytes, 0)?;
    let seals = SealFlags::WRITE | SealFlags::SHRINK | SealFlags::GROW | SealFlags::SEAL;
    fcntl_add_seals(&file, seals)?;
    Ok(file)
}

/// Reads at an offset; like [`std::io::Read::read`] otherwise.
///
/// # Errors
/// What the system said.
pub fn read_at(file: &File, buffer: &mut [u8], offset: u64) -> io::Result<usize> {
    file.read_at(buffer, offset)
}

/// Writes all of `bytes` at an offset.
///
/// # Errors
/// What the system said.
pub fn write_all_at(file: &File, bytes: &[u8], offset: u64) -> io::Result<()> {
    file.write_all_at(bytes, offset)
}

/// Gives the memory or disk of a part of a file back; the part reads as zeros from then on, the length stays.
///
/// # Errors
/// What the system said; `Unsupported` where the file system has no holes.
pub fn punch_hole(path: &Path, offset: u64, length: u64) -> io::Result<()> {
    use rustix::fs::{FallocateFlags, fallocate};
    let file = OpenOptions::new()
        .write(true)
        .custom_flags(OFlags::NOFOLLOW.bits().cast_signed())
        .open(path)?;
    let flags = FallocateFlags::PUNCH_HOLE | FallocateFlags::KEEP_SIZE;
    Ok(fallocate(&file, flags, offset, length)?)
}

/// Bytes of memory or disk that a file takes; less than its length where it has holes.
///
/// # Errors
/// What the system said.
pub fn allocated_bytes(path: &Path) -> io::Result<u64> {
    /// `st_blocks` counts these, whatever the file system's own blocks are.
    const BLOCK_BYTES: u64 = 512;
    Ok(fs::metadata(path)?.blocks().saturating_mul(BLOCK_BYTES))
}

/// The bytes of a text of the system, whatever their encoding.
pub fn bytes_of(text: &OsStr) -> &[u8] {
    text.as_bytes()
}

/// The text of the system that these bytes are.
pub fn os_string_from_bytes(bytes: &[u8]) -> OsString {
    OsStr::from_bytes(bytes).to_owned()
}

/// The path that these bytes name, whatever their encoding.
pub fn path_from_bytes(bytes: &[u8]) -> PathBuf {
    PathBuf::from(OsStr::from_bytes(bytes))
}
