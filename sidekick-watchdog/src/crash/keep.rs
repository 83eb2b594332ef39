//! Where crash reports lie: `<data_dir>/crashes/<report_id>.json`, a bounded number of them.
//!
//! Beside a report whose record is not in the store yet lies `<report_id>.pending`, empty. Identifiers begin with the
//! time, so names sort by it. Everything here blocks on the disk.

use std::fs::{self, File};
use std::io::{self, Read as _, Write as _};
use std::path::{Path, PathBuf};
use std::str::FromStr as _;

use uuid::Uuid;

use super::{CRASHES_DIR, CrashReport, DEATHS_DIR};
use crate::platform::{create_private_dir, create_private_file, sync_dir};

/// Reports kept; the oldest go first.
pub const REPORTS_KEPT: usize = 200;
/// So many of the last reports are searched for one of a given incarnation.
const SEARCHED_MAX: usize = 16;
/// Reports kept in the runtime directory: that of the last death is the one that is asked for.
const DEATHS_KEPT: usize = 4;
/// A file beyond this size is no report of ours.
const REPORT_BYTES_MAX: u64 = 8 << 20;

/// The folder of reports in one data directory.
#[derive(Clone, Debug)]
pub struct CrashFolder {
    dir: PathBuf,
    kept_max: usize,
}

impl CrashFolder {
    /// That of `data_dir`; it is made with the first report.
    pub fn new(data_dir: &Path) -> Self {
        Self {
            dir: data_dir.join(CRASHES_DIR),
            kept_max: REPORTS_KEPT,
        }
    }

    /// Where it is, or will be.
    pub fn dir(&self) -> &Path {
        &self.dir
    }

    /// Where a report lies, or would.
    pub fn path(&self, report_id: Uuid) -> PathBuf {
        self.dir.join(format!("{report_id}.json"))
    }

    fn pending_path(&self, report_id: Uuid) -> PathBuf {
        self.dir.join(format!("{report_id}.pending"))
    }

    /// Keeps a report, durable when this returns, marked as one whose record is not stored yet; drops the oldest.
    ///
    /// # Errors
    /// What the system said.
    pub fn keep(&self, report: &CrashReport) -> io::Result<PathBuf> {
        create_private_dir(&self.dir)?;
        let path = self.path(report.report_id);
        // First the mark: without a report it means nothing, but a report without it would never be stored.
        create_private_file(&self.pending_path(report.report_id))?;
        write_whole(&path, report, true)?;
        sync_dir(&self.dir)?;
        self.prune();
        Ok(path)
    }

    fn prune(&self) {
        let Ok(ids) = self.ids() else {
            return;
        };
        for id in ids.into_iter().skip(self.kept_max) {
            // What cannot be removed now is tried again with the next report.
            let _ = fs::remove_file(self.path(id));
            let _ = fs::remove_file(self.pending_path(id));
        }
    }

    /// The reports that are kept, the newest first.
    ///
    /// # Errors
    /// The folder cannot be read; a missing one is empty.
    pub fn ids(&self) -> io::Result<Vec<Uuid>> {
        let mut ids = self.names("json")?;
        ids.sort_unstable_by(|a, b| b.cmp(a));
        Ok(ids)
    }

    /// The reports whose record is not in the store yet, the oldest first.
    ///
    /// # Errors
    /// The folder cannot be read; a missing one is empty.
    pub fn pending(&self) -> io::Result<Vec<Uuid>> {
        let mut ids = self.names("pending")?;
        ids.sort_unstable();
        Ok(ids)
    }

    fn names(&self, extension: &str) -> io::Result<Vec<Uuid>> {
        let entries = match fs::read_dir(&self.dir) {
            Ok(entries) => entries,
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Vec::new()),
            Err(error) => return Err(error),
        };
        let id = |path: &Path| {
            (path.extension()? == extension)
                .then(|| Uuid::from_str(path.file_stem()?.to_str()?).ok())?
        };
        Ok(entries
            .filter_map(|entry| id(&entry.ok()?.path()))
            .collect())
    }

    /// Reads one report.
    ///
    /// # Errors
    /// `NotFound`: there is none of this name. `InvalidData`: it is damaged, or of a newer version.
    pub fn read(&self, report_id: Uuid) -> io::Result<CrashReport> {
        let mut bytes = Vec::new();
        File::open(self.path(report_id))?
            .take(REPORT_BYTES_MAX)
            .read_to_end(&mut bytes)?;
        serde_json::from_slice(&bytes)
            .map_err(|error| io::Error::new(io::ErrorKind::InvalidData, error))
    }

    /// The report of this incarnation's death among the last ones, if it is there.
    pub fn find(&self, incarnation: u32) -> Option<CrashReport> {
        let ids = self.ids().ok()?;
        ids.into_iter()
            .take(SEARCHED_MAX)
            .filter_map(|id| self.read(id).ok())
            .find(|report| report.incarnation == incarnation)
    }

    /// Its record is in the store (or will never be).
    pub fn stored(&self, report_id: Uuid) {
        // A mark that stays costs one more try, which the store knows as a repetition.
        let _ = fs::remove_file(self.pending_path(report_id));
    }
}

/// Where the report of this death lies in memory, for the next incarnation (`SIDEKICK_LAST_DEATH`).
pub fn death_path(runtime_dir: &Path, incarnation: u32) -> PathBuf {
    runtime_dir
        .join(DEATHS_DIR)
        .join(format!("{incarnation:010}.json"))
}

/// The report of this death that lies in memory, if there is one.
pub fn read_death(runtime_dir: &Path, incarnation: u32) -> Option<CrashReport> {
    let mut bytes = Vec::new();
    File::open(death_path(runtime_dir, incarnation))
        .and_then(|file| file.take(REPORT_BYTES_MAX).read_to_end(&mut bytes))
        .ok()?;
    let report: CrashReport = serde_json::from_slice(&bytes).ok()?;
    (report.incarnation == incarnation).then_some(report)
}

/// Writes the report into the runtime directory, whole or not at all, and drops the oldest there.
///
/// # Errors
/// What the system said.
pub fn keep_death(runtime_dir: &Path, report: &CrashReport) -> io::Result<PathBuf> {
    let path = death_path(runtime_dir, report.incarnation);
    let dir = runtime_dir.join(DEATHS_DIR);
    create_private_dir(&dir)?;
    write_whole(&path, report, false)?;
    let mut deaths: Vec<PathBuf> = fs::read_dir(&dir)?
        .filter_map(|entry| Some(entry.ok()?.path()))
        .filter(|path| {
            path.extension()
                .is_some_and(|extension| extension == "json")
        })
        .collect();
    deaths.sort_unstable_by(|a, b| b.cmp(a));
    for old in deaths.into_iter().skip(DEATHS_KEPT) {
        let _ = fs::remove_file(old);
    }
    Ok(path)
}

fn write_whole(path: &Path, report: &CrashReport, is_durable: bool) -> io::Result<()> {
    let bytes = serde_json::to_vec_pretty(report)?;
    let unfinished = path.with_extension("tmp");
    let written = (|| {
        let mut file = create_private_file(&unfinished)?;
        file.set_len(0)?;
        file.write_all(&bytes)?;
        if is_durable {
            file.sync_all()?;
        }
        fs::rename(&unfinished, path)
    })();
    if written.is_err() {
        let _ = fs::remove_file(&unfinished);
    }
    written
}

#[cfg(test)]
mod tests {
    use super::super::build::new_report_id;
    use super::*;

    fn report(incarnation: u32) -> CrashReport {
        CrashReport {
            report_id: new_report_id(std::time::SystemTime::now()),
            incarnation,
            ..CrashReport::default()
        }
    }

    #[test]
    fn reports_are_kept_read_marked_and_bounded() {
        let dir = tempfile::tempdir().expect("temporary folder");
        let mut folder = CrashFolder::new(dir.path());
        folder.kept_max = 5;
        assert!(folder.ids().expect("readable").is_empty());
        let mut newest = CrashReport::default();
        for incarnation in 0..=5 {
            newest = report(incarnation);
            let at = std::time::UNIX_EPOCH + std::time::Duration::from_secs(incarnation.into());
            newest.report_id = new_report_id(at);
            folder.keep(&newest).expect("kept");
        }
        let ids = folder.ids().expect("readable");
        assert_eq!(ids.len(), 5);
        assert_eq!(ids[0], newest.report_id, "the newest comes first");
        assert_eq!(folder.read(ids[0]).expect("read"), newest);
        assert_eq!(folder.pending().expect("readable").len(), 5);
        folder.stored(ids[0]);
        assert!(!folder.pending().expect("readable").contains(&ids[0]));
        assert_eq!(folder.ids().expect("readable").len(), 5);
    }

    #[test]
    fn foreign_files_are_no_reports() {
        let dir = tempfile::tempdir().expect("temporary folder");
        let folder = CrashFolder::new(dir.path());
        let kept = report(1);
        let path = folder.keep(&kept).expect("kept");
        let place = path.parent().expect("a folder");
        fs::write(place.join("x.json"), "{}").expect("written");
        fs::write(place.join("../crashes/y.pending"), "").expect("written");
        assert_eq!(folder.ids().expect("readable"), [kept.report_id]);
        fs::write(&path, "{\"pid\":").expect("written");
        let error = folder.read(kept.report_id).expect_err("damaged");
        assert_eq!(error.kind(), io::ErrorKind::InvalidData);
    }

    #[test]
    fn the_last_deaths_lie_in_memory() {
        let dir = tempfile::tempdir().expect("temporary folder");
        for incarnation in 1..=9 {
            keep_death(dir.path(), &report(incarnation)).expect("kept");
        }
        assert!(death_path(dir.path(), 9).exists());
        assert!(!death_path(dir.path(), 1).exists());
        let left = fs::read_dir(dir.path().join(DEATHS_DIR)).expect("there");
        assert_eq!(left.count(), DEATHS_KEPT);
    }
}
