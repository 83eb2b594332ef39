//! Secrets come from files only, and never reach a message.

use std::fs::File;
use std::io::Read;
use std::path::Path;

use super::reader::Pass;
use crate::platform::is_readable_by_all;

/// The longest token that is read, in bytes; a larger file is surely not a token.
const TOKEN_BYTES_MAX: u64 = 8 << 10;

/// Reads a token: the file's content without white space around it.
///
/// # Errors
/// A sentence with the file's name when it cannot be read, is empty, too large or not printable ASCII.
pub fn read_file(path: &Path) -> Result<String, String> {
    let problem = |why: String| format!("{}: {why}", path.display());
    let metadata = std::fs::metadata(path).map_err(|error| problem(error.to_string()))?;
    if !metadata.is_file() {
        return Err(problem("is not a file".into()));
    }
    let mut text = String::new();
    File::open(path)
        .and_then(|file| file.take(TOKEN_BYTES_MAX + 1).read_to_string(&mut text))
        .map_err(|error| problem(error.to_string()))?;
    if text.len() as u64 > TOKEN_BYTES_MAX {
        return Err(problem(format!("is over {TOKEN_BYTES_MAX} bytes long")));
    }
    let token = text.trim();
    if token.is_empty() {
        return Err(problem("is empty".into()));
    }
    if !token.bytes().all(|b| b.is_ascii_graphic()) {
        return Err(problem(
            "holds something else than one word of printable ASCII".into(),
        ));
    }
    Ok(token.to_owned())
}

/// Complains of a token file that cannot be used, warns of one that everybody can read.
pub(super) fn check(pass: &mut Pass<'_>, key: &str, path: Option<&Path>) {
    let Some(path) = path else {
        return;
    };
    if let Err(why) = read_file(path) {
        pass.complain(key, format!("cannot be used: {why}"));
    } else {
        warn_of_readers(pass, key, path);
    }
}

/// Warns of a secret's file that everybody can read.
pub(super) fn warn_of_readers(pass: &mut Pass<'_>, key: &str, path: &Path) {
    if is_readable_by_all(path) {
        let file = path.display();
        pass.warnings.push(format!(
            "{key}: every user of this machine can read {file}; run: chmod o-r {file}"
        ));
    }
}
