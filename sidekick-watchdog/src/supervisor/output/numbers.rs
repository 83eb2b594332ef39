//! Launch numbers: never used twice in a data directory. `<data_dir>/launch` holds the last one reserved and whether the
//! last end was clean.

use std::fs::{self, File};
use std::path::{Path, PathBuf};

use super::pieces::{live_path, parse, piece_path, pieces};
use super::{OutputError, Past, Prepared};
use crate::platform::{
    boot_id, create_private_dir, create_private_file, open_private_append, write_all_at,
};

/// The counter in the data directory.
const FILE: &str = "launch";

/// The numbers of one data directory.
#[derive(Debug)]
pub(super) struct Numbers {
    file: File,
    kept: PathBuf,
    live: PathBuf,
    boot_id: String,
    pub(super) last: u32,
}

impl Numbers {
    /// Opens the counter. The number goes on after everything that is known of: the counter, output that is kept in
    /// `kept` or lies in `live`, and `used` (launch locks, the store's sessions).
    pub(super) fn open(
        data_dir: &Path,
        kept: &Path,
        live: &Path,
        used: u32,
        is_free: impl Fn(u32) -> bool,
    ) -> Result<(Self, Past), OutputError> {
        let path = data_dir.join(FILE);
        create_private_dir(kept).map_err(|error| OutputError::new(kept, error))?;
        create_private_dir(live).map_err(|error| OutputError::new(live, error))?;
        let file = create_private_file(&path).map_err(|error| OutputError::new(&path, error))?;
        let text = fs::read_to_string(&path).unwrap_or_default();
        let mut words = text.split_ascii_whitespace();
        let reserved: Option<u32> = words.next().and_then(|word| word.parse().ok());
        let clean = words.next() == Some("clean");
        let boot_id = boot_id();
        let same_boot = words.next() == Some(boot_id.as_str());
        let logged = |dir: &Path| {
            let entries = fs::read_dir(dir).map_err(|error| OutputError::new(dir, error))?;
            let launch =
                |entry: std::io::Result<fs::DirEntry>| Some(parse(&entry.ok()?.file_name())?.0);
            Ok(entries.filter_map(launch).max().unwrap_or(0))
        };
        let kept_last = logged(kept)?;
        let mut last = reserved
            .unwrap_or(0)
            .max(kept_last)
            .max(logged(live)?)
            .max(used);
        // Reserved for an engine that never came: in this boot nothing shows that it was used.
        if reserved == Some(last) && last > used && same_boot && is_free(last) {
            let is_empty = |path| fs::metadata(path).map_or(true, |found| found.len() == 0);
            if is_empty(live_path(live, last)) && is_empty(piece_path(kept, last, 0)) {
                last -= 1;
            }
        }
        let past = Past {
            last,
            clean,
            is_ours: reserved.unwrap_or(0).max(kept_last).min(last) > 0,
        };
        let numbers = Self {
            file,
            kept: kept.to_owned(),
            live: live.to_owned(),
            boot_id,
            last,
        };
        Ok((numbers, past))
    }

    /// Reserves the next number beyond `after`, durably, and makes its file.
    pub(super) fn prepare(&mut self, after: u32) -> Result<Prepared, OutputError> {
        let launch = self.last.max(after).saturating_add(1);
        self.write(launch, "running")?;
        self.last = launch;
        open_live(&self.live, &self.kept, launch)
    }

    /// Makes a number (and how the last engine ended) durable.
    pub(super) fn write(&self, launch: u32, how: &str) -> Result<(), OutputError> {
        // Always the same length, so that overwriting it in place is one write of less than a sector.
        let text = format!("{launch:010} {how:<7} {:<36}\n", self.boot_id);
        write_all_at(&self.file, text.as_bytes(), 0)
            .and_then(|()| self.file.sync_all())
            .map_err(|error| OutputError::new(&self.kept.with_file_name(FILE), error))
    }
}

/// The number that was reserved last, as the data directory tells it.
pub(super) fn reserved(data_dir: &Path) -> Option<u32> {
    let text = fs::read_to_string(data_dir.join(FILE)).ok()?;
    text.split_ascii_whitespace().next()?.parse().ok()
}

/// Makes the file that an engine is to write to, in memory.
pub(super) fn open_live(live: &Path, kept: &Path, launch: u32) -> Result<Prepared, OutputError> {
    let path = live_path(live, launch);
    let failed = |error| OutputError::new(&path, error);
    let mut log = open_private_append(&path).map_err(failed)?;
    if log.metadata().map_err(failed)?.len() > 0 {
        // Of another life of this runtime directory; it was accounted for at our start.
        fs::remove_file(&path).map_err(failed)?;
        log = open_private_append(&path).map_err(failed)?;
    }
    let kept = piece_path(kept, launch, 0);
    Ok(Prepared {
        launch,
        log,
        path,
        kept,
    })
}

/// The launches whose live files lie there.
pub(super) fn live_launches(live: &Path) -> Vec<u32> {
    let pieces = pieces(live).unwrap_or_default();
    pieces.into_iter().map(|piece| piece.launch).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn open_if(data_dir: &Path, used: u32, is_free: bool) -> (Numbers, Past) {
        let (kept, live) = (data_dir.join("engine"), data_dir.join("live"));
        Numbers::open(data_dir, &kept, &live, used, |_| is_free).expect("usable")
    }

    fn open(data_dir: &Path, used: u32) -> (Numbers, Past) {
        open_if(data_dir, used, true)
    }

    #[test]
    fn numbers_go_on_over_runs_and_over_a_lost_counter() {
        let dir = tempfile::tempdir().expect("temporary folder");
        let (mut numbers, past) = open(dir.path(), 0);
        assert_eq!((past.last, past.clean, past.is_ours), (0, false, false));
        for wanted in 1..=3 {
            let prepared = numbers.prepare(0).expect("prepared");
            assert_eq!(prepared.launch, wanted);
            fs::write(&prepared.path, "output").expect("written");
        }
        numbers.write(3, "clean").expect("written");
        let (_, past) = open(dir.path(), 0);
        assert_eq!((past.last, past.clean, past.is_ours), (3, true, true));
        fs::write(dir.path().join(FILE), "garbage").expect("written");
        let (mut numbers, past) = open(dir.path(), 0);
        assert_eq!(past.last, 3);
        assert_eq!(numbers.prepare(0).expect("prepared").launch, 4);
        assert_eq!(open(dir.path(), 9).1.last, 9);
    }

    #[test]
    fn what_only_the_runtime_directory_knows_is_not_this_data_directorys_past() {
        let dir = tempfile::tempdir().expect("temporary folder");
        let (mut numbers, past) = open(dir.path(), 9);
        assert_eq!((past.last, past.is_ours), (9, false));
        let prepared = numbers.prepare(0).expect("prepared");
        fs::write(&prepared.path, "output").expect("written");
        assert!(open(dir.path(), 9).1.is_ours);
    }

    #[test]
    fn a_number_reserved_for_nobody_is_given_out_again_but_a_used_one_never() {
        let dir = tempfile::tempdir().expect("temporary folder");
        let (mut numbers, _) = open(dir.path(), 0);
        let prepared = numbers.prepare(0).expect("prepared");
        assert_eq!(open(dir.path(), 0).1.last, 0);
        // A launch lock, output or another boot may mean that it was used.
        assert_eq!(open_if(dir.path(), 0, false).1.last, 1);
        fs::write(dir.path().join("engine/0000000001.log"), "x").expect("written");
        assert_eq!(open(dir.path(), 0).1.last, 1);
        fs::remove_file(dir.path().join("engine/0000000001.log")).expect("removed");
        assert_eq!(open(dir.path(), 0).1.last, 0);
        fs::write(&prepared.path, "x").expect("written");
        assert_eq!(open(dir.path(), 0).1.last, 1);
    }

    #[test]
    fn a_launch_never_appends_to_foreign_output() {
        let dir = tempfile::tempdir().expect("temporary folder");
        let (mut numbers, _) = open(dir.path(), 0);
        fs::write(dir.path().join("live/0000000001.log"), "foreign").expect("written");
        let prepared = numbers.prepare(0).expect("prepared");
        assert_eq!(fs::read(&prepared.path).expect("there"), b"");
        assert_eq!(prepared.kept, dir.path().join("engine/0000000001.log"));
    }
}
