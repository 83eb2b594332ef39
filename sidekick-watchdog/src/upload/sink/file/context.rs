//! Says what failed at which file, and what can be done about it.

use std::io;
use std::path::Path;

/// Does `work`, and says of its error that it came when `path` was to be `verb`ed.
pub(super) fn in_context<T>(
    verb: &str,
    path: &Path,
    work: impl FnOnce(&Path) -> io::Result<T>,
) -> io::Result<T> {
    work(path).map_err(|error| context(verb, path, error))
}

/// Says what was done to what, keeps the kind.
pub(super) fn context(verb: &str, path: &Path, error: io::Error) -> io::Error {
    let remedy = match error.kind() {
        io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded => {
            "; free space, nothing is lost"
        }
        io::ErrorKind::PermissionDenied | io::ErrorKind::ReadOnlyFilesystem => {
            "; make it writable for the watchdog's user"
        }
        _ => "",
    };
    let text = format!("cannot {verb} {}: {error}{remedy}", path.display());
    io::Error::new(error.kind(), text)
}
