//! The names under which this data directory's records were made.
//!
//! A session keeps the name under which it was opened: its records' identities hold it. When `name` changes in the
//! configuration, sessions of the old one are still to be drained and ended, and the store alone cannot tell which of
//! its names were ours once it is shared with other watchdogs.

use std::fs;
use std::io::{self, Write};
use std::path::Path;
use std::sync::Arc;

use uuid::Uuid;

use crate::platform::open_private_append;
use crate::store::Store;

/// Names, the present one first.
#[derive(Clone, Debug)]
pub(super) struct Names(Arc<[String]>);

impl Names {
    /// Reads `<data_dir>/names`, one a line, and adds `present` to it if it is new there.
    pub(super) fn remember(data_dir: &Path, present: &str) -> io::Result<Self> {
        let path = data_dir.join("names");
        let text = match fs::read_to_string(&path) {
            Ok(text) => text,
            Err(error) if error.kind() == io::ErrorKind::NotFound => String::new(),
            Err(error) => return Err(error),
        };
        // A line without an end was being written when its watchdog was killed, which then had no session yet.
        let whole = text.rfind('\n').map_or("", |end| &text[..=end]);
        let known = whole.lines().any(|name| name == present);
        if !known {
            let mut file = open_private_append(&path)?;
            let torn = if whole.len() < text.len() { "\n" } else { "" };
            file.write_all(format!("{torn}{present}\n").as_bytes())?;
            file.sync_all()?;
        }
        let earlier = whole.lines().filter(|name| *name != present);
        let names = std::iter::once(present).chain(earlier);
        Ok(Self(names.map(str::to_owned).collect()))
    }

    /// The name in the configuration.
    pub(super) fn present(&self) -> &str {
        self.0.first().map_or("", String::as_str)
    }

    /// Whether a session of that name is ours.
    pub(super) fn contains(&self, name: &str) -> bool {
        self.0.iter().any(|known| known == name)
    }

    /// Under which name a session was opened; the present one if it was not yet.
    pub(super) fn owner<'a>(&'a self, store: &Store, epoch: Uuid) -> &'a str {
        let mut names = self.0.iter();
        names
            .find(|name| store.session(name, epoch).is_some())
            .map_or_else(|| self.present(), String::as_str)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_name_is_remembered_once_and_the_present_one_comes_first() {
        let dir = tempfile::tempdir().expect("temporary folder");
        let names = |present| {
            let names = Names::remember(dir.path(), present).expect("writable");
            names.0.to_vec()
        };
        assert_eq!(names("a"), ["a"]);
        assert_eq!(names("b"), ["b", "a"]);
        assert_eq!(names("a"), ["a", "b"]);
        // Killed while it wrote.
        let path = dir.path().join("names");
        fs::write(&path, "a\nb\nhal").expect("written");
        assert_eq!(names("c"), ["c", "a", "b"]);
        assert_eq!(names("b"), ["b", "a", "hal", "c"]);
    }
}
