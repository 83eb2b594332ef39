//! The files that engine output is kept in: `<data_dir>/engine/<launch>.log`, and once that is full
//! `<launch>.<offset>.log`, where the offset is the place of its first byte in the engine's whole output.
//!
//! So names and lengths tell how much of an engine's output is kept, and nothing else has to be remembered.

use std::ffi::OsStr;
use std::fs;
use std::io;
use std::path::{Path, PathBuf};

/// One file of kept output.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct Piece {
    pub launch: u32,
    /// The place of its first byte in the engine's whole output.
    pub start: u64,
    /// Its length.
    pub bytes: u64,
    pub path: PathBuf,
}

impl Piece {
    /// The place after its last byte.
    pub(super) fn end(&self) -> u64 {
        self.start.saturating_add(self.bytes)
    }
}

/// The name of a piece.
pub(super) fn piece_path(dir: &Path, launch: u32, start: u64) -> PathBuf {
    if start == 0 {
        live_path(dir, launch)
    } else {
        dir.join(format!("{launch:010}.{start:016}.log"))
    }
}

/// The name of the file that an engine itself writes, in the runtime directory.
pub(super) fn live_path(dir: &Path, launch: u32) -> PathBuf {
    dir.join(format!("{launch:010}.log"))
}

/// Launch and offset of a file's name.
pub(super) fn parse(name: &OsStr) -> Option<(u32, u64)> {
    let name = name.to_str()?.strip_suffix(".log")?;
    match name.split_once('.') {
        Some((launch, start)) => Some((launch.parse().ok()?, start.parse().ok()?)),
        None => Some((name.parse().ok()?, 0)),
    }
}

/// All pieces in a folder, by launch and offset; other files are passed over.
pub(super) fn pieces(dir: &Path) -> io::Result<Vec<Piece>> {
    let mut pieces = Vec::new();
    for entry in fs::read_dir(dir)? {
        let entry = entry?;
        let Some((launch, start)) = parse(&entry.file_name()) else {
            continue;
        };
        // Gone meanwhile: no piece.
        let Ok(metadata) = entry.metadata() else {
            continue;
        };
        pieces.push(Piece {
            launch,
            start,
            bytes: metadata.len(),
            path: entry.path(),
        });
    }
    pieces.sort_unstable();
    Ok(pieces)
}

/// Deletes the oldest pieces until all together have at most `bytes_max` bytes and are of at most `launches_max`
/// launches beside those `in_use`. The last piece of a launch in use always stays.
pub(super) fn prune(dir: &Path, bytes_max: u64, launches_max: usize, in_use: &[u32]) {
    let Ok(mut pieces) = pieces(dir) else {
        return;
    };
    let mut launches: Vec<u32> = pieces.iter().map(|piece| piece.launch).collect();
    launches.dedup();
    launches.retain(|launch| !in_use.contains(launch));
    let surplus = launches.len().saturating_sub(launches_max);
    let oldest_kept = launches.get(surplus).copied().unwrap_or(0);
    pieces.retain(|piece| {
        let goes = piece.launch < oldest_kept && !in_use.contains(&piece.launch);
        if goes {
            let _ = fs::remove_file(&piece.path);
        }
        !goes
    });
    let mut total: u64 = pieces.iter().map(|piece| piece.bytes).sum();
    for (at, piece) in pieces.iter().enumerate() {
        if total <= bytes_max {
            return;
        }
        let is_last = pieces
            .get(at + 1)
            .is_none_or(|next| next.launch != piece.launch);
        if is_last && in_use.contains(&piece.launch) {
            continue;
        }
        if fs::remove_file(&piece.path).is_ok() {
            total -= piece.bytes;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn names(dir: &Path) -> Vec<String> {
        let name = |piece: &Piece| Some(piece.path.file_name()?.to_str()?.to_owned());
        pieces(dir)
            .expect("readable")
            .iter()
            .filter_map(name)
            .collect()
    }

    #[test]
    fn names_tell_launch_and_place() {
        let dir = Path::new("/x");
        for (launch, start) in [(1, 0), (7, 1), (u32::MAX, 1 << 40)] {
            let path = piece_path(dir, launch, start);
            assert_eq!(path.file_name().and_then(parse), Some((launch, start)));
        }
        for name in ["1.txt", ".log", "x.log", "1.x.log", "1"] {
            assert_eq!(parse(OsStr::new(name)), None, "{name}");
        }
    }

    #[test]
    fn the_oldest_pieces_go_first_and_the_one_in_use_stays() {
        let dir = tempfile::tempdir().expect("temporary folder");
        for (launch, start) in [(1, 0), (2, 0), (2, 100), (3, 0), (3, 100)] {
            fs::write(piece_path(dir.path(), launch, start), [b'x'; 100]).expect("written");
        }
        prune(dir.path(), 1000, 1, &[3]);
        assert_eq!(
            names(dir.path()),
            [
                "0000000002.log",
                "0000000002.0000000000000100.log",
                "0000000003.log",
                "0000000003.0000000000000100.log"
            ]
        );
        prune(dir.path(), 250, 9, &[3]);
        assert_eq!(
            names(dir.path()),
            ["0000000003.log", "0000000003.0000000000000100.log"]
        );
        prune(dir.path(), 0, 9, &[3]);
        assert_eq!(names(dir.path()), ["0000000003.0000000000000100.log"]);
    }
}
