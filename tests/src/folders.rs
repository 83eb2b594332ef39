//! Temporary folders with short paths, removed at the end of the test.
//!
//! `HARNESS_KEEP=1` keeps them and prints where they are.

use std::collections::BTreeMap;
use std::env;
use std::fs;
use std::io::Write;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use tempfile::TempDir;

/// The repository's root.
pub fn repository() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR"))
        .parent()
        .unwrap_or_else(|| Path::new("."))
}

/// What each file below `folder` has in it, as text, packed with zstd or not.
///
/// # Panics
/// When a folder cannot be read.
pub fn texts(folder: &Path) -> BTreeMap<PathBuf, String> {
    let mut texts = BTreeMap::new();
    let mut folders = vec![folder.to_owned()];
    while let Some(folder) = folders.pop() {
        let entries =
            fs::read_dir(&folder).unwrap_or_else(|error| panic!("cannot read {folder:?}: {error}"));
        for path in entries.flatten().map(|entry| entry.path()) {
            if path.is_dir() {
                folders.push(path);
                continue;
            }
            let bytes = fs::read(&path).unwrap_or_default();
            let mut text = String::from_utf8_lossy(&bytes).into_owned();
            let unpacked = zstd::decode_all(&bytes[..]).unwrap_or_default();
            text.push_str(&String::from_utf8_lossy(&unpacked));
            texts.insert(path, text);
        }
    }
    texts
}

/// Writes a file that is to be executed. Another process writes it: while a program that another test starts has a copy of our
/// descriptor, which it has for a moment, the file could not be executed.
///
/// # Panics
/// When it cannot be written.
pub fn write_program(path: &Path, content: &[u8], mode: u32) {
    let mut shell = Command::new("sh");
    shell.args(["-c", "cat > \"$0\" && chmod \"$1\" \"$0\""]);
    shell.arg(path).arg(format!("{mode:o}"));
    let mut shell = shell.stdin(Stdio::piped()).spawn().expect("a shell");
    let sent = shell.stdin.take().map(|mut input| input.write_all(content));
    let ended = shell.wait();
    assert!(
        matches!(sent, Some(Ok(()))) && ended.is_ok_and(|status| status.success()),
        "cannot write {path:?}"
    );
}

/// A folder that goes away with this value.
#[derive(Debug)]
pub struct Folder(TempDir);

impl Folder {
    /// Makes a folder under the system's temporary folder. Its path is short: socket names have 108 bytes.
    ///
    /// # Panics
    /// When it cannot be made.
    pub fn new() -> Self {
        Self::under(&env::temp_dir())
    }

    /// Makes a folder in memory, where the system has such a place: for what is mapped, not stored.
    ///
    /// # Panics
    /// When it cannot be made.
    pub fn in_memory() -> Self {
        let memory = Path::new("/dev/shm");
        if memory.is_dir() {
            Self::under(memory)
        } else {
            Self::new()
        }
    }

    /// Makes a folder next to `path`, on the same file system.
    ///
    /// # Panics
    /// When it cannot be made.
    pub fn beside(path: &Path) -> Self {
        Self::under(path.parent().unwrap_or(path))
    }

    fn under(parent: &Path) -> Self {
        let mut folder = tempfile::Builder::new()
            .prefix("sk-")
            .rand_bytes(6)
            // The watchdog refuses a runtime directory that others may enter.
            .permissions(fs::Permissions::from_mode(0o700))
            .tempdir_in(parent)
            .unwrap_or_else(|error| panic!("cannot make a folder in {parent:?}: {error}"));
        if env::var_os("HARNESS_KEEP").is_some() {
            folder.disable_cleanup(true);
            eprintln!("harness: keeping {:?}", folder.path());
        }
        Self(folder)
    }

    /// Where it is.
    pub fn path(&self) -> &Path {
        self.0.path()
    }

    /// The path of something inside.
    pub fn join(&self, inside: impl AsRef<Path>) -> PathBuf {
        self.0.path().join(inside)
    }
}

impl Default for Folder {
    fn default() -> Self {
        Self::new()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn texts_are_found_packed_or_not() {
        let folder = Folder::new();
        let packed = folder.join("in/packed");
        fs::create_dir(folder.join("in")).unwrap();
        fs::write(&packed, zstd::encode_all(&b"below"[..], 1).unwrap()).unwrap();
        let plain = folder.join("plain");
        fs::write(&plain, b"\xffabove").unwrap();
        let texts = texts(folder.path());
        assert_eq!(texts.len(), 2);
        assert!(texts[&packed].ends_with("below"), "{texts:?}");
        assert!(texts[&plain].ends_with("above"), "{texts:?}");
    }

    #[test]
    fn a_folder_is_short_and_goes_away() {
        let folder = Folder::in_memory();
        let path = folder.path().to_owned();
        assert!(path.is_dir());
        assert!(path.as_os_str().len() < 40, "{path:?}");
        drop(folder);
        assert!(!path.exists());
    }
}
