//! The log's file: ended with the day or the hour if that is configured, and for this user alone (mode 0600).

use std::fs::{self, File};
use std::io::{self, Write};
use std::path::{Path, PathBuf};

use jiff::{SignedDuration, Timestamp};

use crate::config::LogRotation;
use crate::platform::open_private_append;

/// Rotated files that are kept.
const FILES_KEPT: usize = 14;
/// After a file that cannot be made, until the next try; the old one goes on meanwhile.
const RETRY: SignedDuration = SignedDuration::from_secs(60);

/// Writes to `<path>`, or to `<path>.2026-11-22` or `<path>.2026-11-22-13` (UTC). Blocks on the disk.
#[derive(Debug)]
pub(super) struct Rolling<C> {
    path: PathBuf,
    rotate: LogRotation,
    clock: C,
    file: File,
    current: PathBuf,
    try_at: Timestamp,
}

impl<C: Fn() -> Timestamp> Rolling<C> {
    /// Makes the folder if it is missing, and opens the file of this hour or day.
    ///
    /// # Errors
    /// What the system said.
    pub(super) fn open(path: &Path, rotate: LogRotation, clock: C) -> io::Result<Self> {
        if path.file_name().is_none() {
            let text = "it names no file";
            return Err(io::Error::new(io::ErrorKind::InvalidInput, text));
        }
        if let Some(folder) = path.parent() {
            fs::create_dir_all(folder)?;
        }
        let now = clock();
        let current = name(path, rotate, now);
        let file = open_private_append(&current)?;
        let rolling = Self {
            path: path.to_owned(),
            rotate,
            clock,
            file,
            current,
            try_at: now,
        };
        rolling.prune();
        Ok(rolling)
    }

    fn roll(&mut self) {
        if self.rotate == LogRotation::Never {
            return;
        }
        let now = (self.clock)();
        let wanted = name(&self.path, self.rotate, now);
        if wanted == self.current || now < self.try_at {
            return;
        }
        match open_private_append(&wanted) {
            Ok(file) => {
                self.file = file;
                self.current = wanted;
                self.prune();
            }
            // Into the log it cannot go; the old file shows that there was no newer one.
            Err(_) => self.try_at = now.saturating_add(RETRY).unwrap_or(now),
        }
    }

    /// Deletes the oldest, by their names, which sort by time. What was named otherwise is not ours.
    fn prune(&self) {
        let (Some(folder), Some(prefix)) = (self.current.parent(), self.path.file_name()) else {
            return;
        };
        let folder = match folder.as_os_str().is_empty() {
            true => Path::new("."),
            false => folder,
        };
        let Ok(entries) = fs::read_dir(folder) else {
            return;
        };
        let prefix = format!("{}.", prefix.to_string_lossy());
        let mut dated: Vec<PathBuf> = entries
            .flatten()
            .filter(|entry| {
                let name = entry.file_name();
                let name = name.to_string_lossy();
                name.strip_prefix(&*prefix).is_some_and(is_date)
            })
            .map(|entry| entry.path())
            .collect();
        dated.sort_unstable();
        for old in dated.iter().take(dated.len().saturating_sub(FILES_KEPT)) {
            // The next turn tries again.
            let _ = fs::remove_file(old);
        }
    }
}

impl<C: Fn() -> Timestamp> Write for Rolling<C> {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.roll();
        self.file.write(bytes)
    }

    fn flush(&mut self) -> io::Result<()> {
        self.file.flush()
    }
}

fn name(path: &Path, rotate: LogRotation, now: Timestamp) -> PathBuf {
    let format = match rotate {
        LogRotation::Never => return path.to_owned(),
        LogRotation::Daily => "%Y-%m-%d",
        LogRotation::Hourly => "%Y-%m-%d-%H",
    };
    let mut name = path.as_os_str().to_owned();
    name.push(format!(".{}", now.strftime(format)));
    name.into()
}

/// `2026-11-22` or `2026-11-22-13`.
fn is_date(text: &str) -> bool {
    let has_form = |form: &str| {
        text.len() == form.len()
            && text
                .bytes()
                .zip(form.bytes())
                .all(|(byte, form)| match form {
                    b'-' => byte == b'-',
                    _ => byte.is_ascii_digit(),
                })
    };
    has_form("0000-00-00") || has_form("0000-00-00-00")
}

#[cfg(test)]
mod tests {
    use std::cell::Cell;
    use std::os::unix::fs::PermissionsExt;

    use super::*;

    fn names(folder: &Path) -> Vec<String> {
        let entries = fs::read_dir(folder).unwrap();
        let mut names: Vec<String> = entries
            .map(|entry| entry.unwrap().file_name().into_string().unwrap())
            .collect();
        names.sort();
        names
    }

    #[test]
    fn each_day_has_its_file_of_ours_alone_and_only_the_last_are_kept() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("logs/sidekick.log");
        let now = Cell::new("2026-11-22T23:59:59Z".parse::<Timestamp>().unwrap());
        let mut log = Rolling::open(&path, LogRotation::Daily, || now.get()).unwrap();
        fs::write(path.with_file_name("sidekick.log.old"), "").unwrap();
        for day in 0..20 {
            writeln!(log, "day {day}").unwrap();
            now.set(now.get() + SignedDuration::from_hours(24));
        }
        let kept = names(&folder.path().join("logs"));
        assert_eq!(kept.len(), FILES_KEPT + 1);
        assert_eq!(kept[0], "sidekick.log.2026-11-28");
        assert_eq!(kept[13], "sidekick.log.2026-12-11");
        for name in &kept[..14] {
            let file = path.with_file_name(name);
            assert_eq!(fs::read_to_string(&file).unwrap().lines().count(), 1);
            let mode = fs::metadata(&file).unwrap().permissions().mode();
            assert_eq!(mode & 0o777, 0o600, "{name}");
        }
    }

    #[test]
    fn an_hour_has_its_file_too_and_without_rotation_there_is_one() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("a.log");
        let now = || "2026-11-22T13:05:00Z".parse::<Timestamp>().unwrap();
        for rotate in [LogRotation::Hourly, LogRotation::Never] {
            let mut log = Rolling::open(&path, rotate, now).unwrap();
            writeln!(log, "x").unwrap();
        }
        assert_eq!(names(folder.path()), ["a.log", "a.log.2026-11-22-13"]);
    }

    /// The disk refuses a new file: what there is to say goes on into the old one, and into a new one later.
    #[test]
    fn a_file_that_cannot_be_made_is_tried_again() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("a.log");
        let now = Cell::new("2026-11-22T13:59:00Z".parse::<Timestamp>().unwrap());
        let mut log = Rolling::open(&path, LogRotation::Hourly, || now.get()).unwrap();
        let next = folder.path().join("a.log.2026-11-22-14");
        fs::create_dir(&next).unwrap();
        for _ in 0..2 {
            now.set(now.get() + SignedDuration::from_secs(90));
            writeln!(log, "x").unwrap();
        }
        fs::remove_dir(&next).unwrap();
        now.set(now.get() + SignedDuration::from_secs(90));
        writeln!(log, "y").unwrap();
        let old = fs::read_to_string(folder.path().join("a.log.2026-11-22-13")).unwrap();
        assert_eq!(old, "x\nx\n");
        assert_eq!(fs::read_to_string(next).unwrap(), "y\n");
    }
}
