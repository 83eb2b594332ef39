//! Compresses complete files: `X.ndjson` gives way to `X.ndjson.gz`.
//!
//! Nothing waits for it, and a kill at any instruction loses nothing: the compressed file has its name only when it is
//! whole and durable, and the plain one goes after that. Who sees both for a moment reads one of them. What was left is
//! taken up at the next start, or when the next file is complete. A plain file beside a compressed one that holds anything
//! else is somebody's: both stay.

use std::fs::{File, OpenOptions};
use std::io::{self, BufRead, BufReader};
use std::path::{Path, PathBuf};

use tracing::warn;

use super::context::in_context;
use super::place::{PREFIX, SUFFIX};
use crate::platform;
use crate::upload::sink::Compression;

const TEMPORARY: &str = "packed.tmp";
const CHUNK_BYTES: usize = 128 << 10;

/// Compresses all complete files of `dir`, as long as `goes_on` says so.
///
/// # Errors
/// What the first file brought that cannot be compressed; it stays as it is.
pub(super) fn pack_all(
    dir: &Path,
    compression: Compression,
    goes_on: &dyn Fn() -> bool,
) -> io::Result<()> {
    if compression == Compression::None {
        return Ok(());
    }
    let mut complete = Vec::new();
    for entry in in_context("list", dir, |dir| std::fs::read_dir(dir))? {
        let path = in_context("list", dir, |_| entry)?.path();
        let name = path.file_name().and_then(|name| name.to_str());
        if name.is_some_and(|name| name.starts_with(PREFIX) && name.ends_with(SUFFIX)) {
            complete.push(path);
        }
    }
    complete.sort_unstable();
    for path in complete {
        if !pack(dir, &path, compression, goes_on)? {
            break;
        }
    }
    Ok(())
}

/// The names that a complete file may have once it is compressed.
pub(super) fn packed_names(path: &Path) -> impl Iterator<Item = PathBuf> + '_ {
    let compressed = [Compression::Gzip, Compression::Zstd].into_iter();
    compressed.map(|compression| {
        let mut name = path.as_os_str().to_owned();
        name.push(compression.suffix());
        name.into()
    })
}

fn pack(
    dir: &Path,
    path: &Path,
    compression: Compression,
    goes_on: &dyn Fn() -> bool,
) -> io::Result<bool> {
    let mut packed = None;
    for name in packed_names(path) {
        if in_context("look at", &name, |name| name.try_exists())? {
            packed = Some(name);
        }
    }
    if let Some(packed) = packed {
        // Killed before the plain one was gone; or somebody packs or unpacks it.
        if !in_context("compare", path, |path| is_same(path, &packed, goes_on))? {
            if goes_on() {
                let (plain, packed) = (path.display(), packed.display());
                warn!(%plain, %packed, "a complete file is there twice with different contents; both are left alone");
            }
            return Ok(goes_on());
        }
    } else {
        let temporary = dir.join(TEMPORARY);
        let mut name = path.as_os_str().to_owned();
        name.push(compression.suffix());
        let is_whole = in_context("compress", path, |path| {
            let mut options = OpenOptions::new();
            options.write(true).create(true).truncate(true);
            let mut to = platform::set_private(&mut options).open(&temporary)?;
            let mut from = File::open(path)?;
            let is_whole = compression.compress_file(&mut from, &mut to, goes_on)?;
            if is_whole {
                to.sync_all()?;
                std::fs::rename(&temporary, &name)?;
                platform::sync_dir(dir)?;
            } else {
                std::fs::remove_file(&temporary)?;
            }
            Ok(is_whole)
        });
        if is_whole.is_err() {
            let _ = std::fs::remove_file(&temporary);
        }
        if !is_whole? {
            return Ok(false);
        }
    }
    in_context("remove", path, |path| std::fs::remove_file(path))?;
    Ok(true)
}

/// Whether the file at `packed` is whole and holds what the one at `plain` does.
fn is_same(plain: &Path, packed: &Path, goes_on: &dyn Fn() -> bool) -> io::Result<bool> {
    let mut plain = BufReader::with_capacity(CHUNK_BYTES, File::open(plain)?);
    let Ok(packed) = Compression::open(packed) else {
        return Ok(false);
    };
    let mut packed = BufReader::with_capacity(CHUNK_BYTES, packed);
    while goes_on() {
        let left = plain.fill_buf()?;
        // What cannot be unpacked is not the same.
        let Ok(right) = packed.fill_buf() else {
            return Ok(false);
        };
        let bytes = left.len().min(right.len());
        if bytes == 0 {
            return Ok(left.len() == right.len());
        }
        if left.get(..bytes) != right.get(..bytes) {
            return Ok(false);
        }
        plain.consume(bytes);
        packed.consume(bytes);
    }
    Ok(false)
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;
    use std::sync::atomic::{AtomicU32, Ordering};

    use super::*;
    use crate::upload::sink::arrivals::Arrivals;

    /// Enough for several chunks.
    const LINES: u64 = 4000;

    fn folder() -> tempfile::TempDir {
        let dir = tempfile::tempdir().unwrap();
        let epoch = uuid::Uuid::from_u128(7);
        let line = |seq: u64| {
            format!(
                "{{\"source\":\"s\",\"epoch\":\"{epoch}\",\"seq\":{seq},\"stream\":\"a\",\"data\":{{\"text\":\"{}\"}}}}\n",
                "x".repeat(50)
            )
        };
        for file in 0..2 {
            let lines: String = (file * LINES + 1..=(file + 1) * LINES).map(line).collect();
            std::fs::write(dir.path().join(format!("records-{file}.ndjson")), lines).unwrap();
        }
        std::fs::write(
            dir.path().join("records-2.ndjson.part"),
            line(2 * LINES + 1),
        )
        .unwrap();
        dir
    }

    fn names(dir: &Path) -> BTreeSet<String> {
        let entries = std::fs::read_dir(dir).unwrap();
        entries
            .map(|entry| entry.unwrap().file_name().into_string().unwrap())
            .collect()
    }

    /// What a reader finds: each number once.
    fn check(dir: &Path) {
        let sources = BTreeSet::from(["s".to_owned()]);
        let arrivals = Arrivals::of_files(dir, &sources).unwrap();
        assert_eq!(arrivals.unreadable, Vec::<String>::new());
        let arrived = arrivals.sessions.values().next().unwrap();
        let runs: Vec<_> = arrived.records.runs().collect();
        assert_eq!(
            (runs, arrived.doubled.is_empty()),
            (vec![(1, 2 * LINES + 1)], true)
        );
    }

    #[test]
    fn complete_files_are_compressed_and_the_others_left_alone() {
        for (compression, suffix) in [(Compression::Gzip, "gz"), (Compression::Zstd, "zst")] {
            let dir = folder();
            let dir = dir.path();
            let before = std::fs::metadata(dir.join("records-0.ndjson"))
                .unwrap()
                .len();
            pack_all(dir, compression, &|| true).unwrap();
            let expected = [
                format!("records-0.ndjson.{suffix}"),
                format!("records-1.ndjson.{suffix}"),
                "records-2.ndjson.part".to_owned(),
            ];
            assert_eq!(names(dir), BTreeSet::from(expected.clone()));
            assert!(std::fs::metadata(dir.join(&expected[0])).unwrap().len() * 4 < before);
            check(dir);
            pack_all(dir, compression, &|| true).unwrap();
            assert_eq!(names(dir), BTreeSet::from(expected));
        }
        let dir = folder();
        let before = names(dir.path());
        pack_all(dir.path(), Compression::None, &|| true).unwrap();
        assert_eq!(names(dir.path()), before);
    }

    /// Killed wherever it is: readers see each line once, and the next one ends the work.
    #[test]
    fn a_kill_doubles_and_loses_nothing() {
        // Asked to end after so many chunks.
        for chunks in 0..8 {
            let dir = folder();
            let left = AtomicU32::new(chunks);
            let goes_on = || {
                let more =
                    left.fetch_update(Ordering::Relaxed, Ordering::Relaxed, |n| n.checked_sub(1));
                more.is_ok()
            };
            pack_all(dir.path(), Compression::Gzip, &goes_on).unwrap();
            assert!(!names(dir.path()).contains(TEMPORARY));
            check(dir.path());
            pack_all(dir.path(), Compression::Gzip, &|| true).unwrap();
            check(dir.path());
        }
        // While it wrote; between the new name and the end of the old one.
        for is_renamed in [false, true] {
            let dir = folder();
            let dir = dir.path();
            let plain = std::fs::read(dir.join("records-0.ndjson")).unwrap();
            let packed = Compression::Gzip.compress(plain).unwrap();
            let (name, len) = match is_renamed {
                true => ("records-0.ndjson.gz", packed.len()),
                false => (TEMPORARY, packed.len() / 2),
            };
            std::fs::write(dir.join(name), &packed[..len]).unwrap();
            check(dir);
            pack_all(dir, Compression::Zstd, &|| true).unwrap();
            check(dir);
            let names = names(dir);
            assert!(!names.contains("records-0.ndjson"), "{names:?}");
            assert_eq!(
                (names.contains("records-0.ndjson.gz"), names.len()),
                (is_renamed, 3)
            );
        }
    }

    /// Somebody packs or unpacks a file: it stays, whatever stands beside it under the other name.
    #[test]
    fn a_file_beside_another_content_is_left_alone() {
        let dir = folder();
        let dir = dir.path();
        let plain = std::fs::read(dir.join("records-0.ndjson")).unwrap();
        let packed = Compression::Gzip.compress(plain.clone()).unwrap();
        let gz = dir.join("records-0.ndjson.gz");
        let cut = packed.len() / 2;
        let beside: [(&[u8], &[u8]); 4] = [
            (&plain, b""),
            (&plain, &packed[..cut]),
            (&plain[..plain.len() / 2], &packed),
            (b"", &packed),
        ];
        for (left, right) in beside {
            std::fs::write(dir.join("records-0.ndjson"), left).unwrap();
            std::fs::write(&gz, right).unwrap();
            pack_all(dir, Compression::Gzip, &|| true).unwrap();
            assert_eq!(std::fs::read(dir.join("records-0.ndjson")).unwrap(), left);
            assert_eq!(std::fs::read(&gz).unwrap(), right);
            // The others are not kept waiting.
            assert!(names(dir).contains("records-1.ndjson.gz"));
        }
    }
}
