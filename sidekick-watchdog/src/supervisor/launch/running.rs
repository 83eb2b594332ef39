//! Which process the engine is, told in the data directory as well.
//!
//! The launch lock lies in the runtime directory, which somebody may clean up under a living engine (a login manager at
//! the last logout, a cron job on `/dev/shm`). The lock's holder then keeps a file that no successor can find, and this
//! record is what keeps it from starting a second engine.

use std::fs;
use std::io::{self, Write};
use std::path::{Path, PathBuf};

use super::{LaunchLocks, LaunchRecord, RECORD_BYTES_MAX, Survey, Survivor, write_record};
use crate::platform::{Process, boot_id, create_private_dir, create_private_file, read_at};

/// An engine that was started or adopted.
#[derive(Clone, Debug)]
pub struct Running {
    /// Its launch number.
    pub launch: u32,
    /// Its process id.
    pub pid: u32,
    /// Its start time in clock ticks since boot.
    pub start_ticks: u64,
    /// Where its output goes.
    pub log: Option<PathBuf>,
}

/// `<data_dir>/engine_process`: the engine that was started or adopted last.
#[derive(Clone, Debug)]
pub struct RunningFile {
    path: PathBuf,
}

impl RunningFile {
    /// The file of this data directory.
    pub fn new(data_dir: &Path) -> Self {
        Self {
            path: data_dir.join("engine_process"),
        }
    }

    /// Writes down which process the engine is. It is not synced: after a power cut no engine runs.
    ///
    /// # Errors
    /// What the system said; the file is as it was.
    pub fn write(&self, running: &Running) -> io::Result<()> {
        let record = LaunchRecord {
            pid: Some(running.pid),
            start_ticks: Some(running.start_ticks),
            boot_id: boot_id(),
            log: running.log.clone(),
            told: false,
            ring_lost: false,
        };
        let new = self.path.with_extension("new");
        let mut file = create_private_file(&new)?;
        file.set_len(0)?;
        writeln!(file, "launch={}", running.launch)?;
        file.write_all(&record.to_text())?;
        fs::rename(&new, &self.path)
    }

    fn read(&self) -> Option<(u32, LaunchRecord)> {
        // Not simply read: the folder is ours, but what lies in it may have any size.
        let file = fs::File::open(&self.path).ok()?;
        let mut text = vec![0; usize::try_from(RECORD_BYTES_MAX).unwrap_or(0)];
        let bytes = read_at(&file, &mut text, 0).ok()?;
        text.truncate(bytes);
        let first = text.split(|&byte| byte == b'\n').next()?;
        let launch = std::str::from_utf8(first).ok()?.strip_prefix("launch=")?;
        Some((launch.parse().ok()?, LaunchRecord::parse(&text)))
    }

    /// Adds the recorded engine to what the launch locks tell if it runs and they do not know of it, and writes its
    /// launch file anew.
    pub fn complete(&self, survey: &mut Survey, locks: &LaunchLocks) {
        let Some((launch, mut record)) = self.read() else {
            return;
        };
        if record.boot_id != boot_id() {
            return;
        }
        let Some(process) = record
            .pid
            .zip(record.start_ticks)
            .and_then(|(pid, ticks)| Process::open(pid, Some(ticks)).ok())
        else {
            return;
        };
        let pid = process.pid();
        if survey
            .running
            .iter()
            .any(|known| known.process.pid() == pid)
        {
            return;
        }
        // Whoever reads it next finds a launch file and no ring, and has to know why.
        record.ring_lost = true;
        let file =
            create_private_dir(&locks.dir).and_then(|()| create_private_file(&locks.path(launch)));
        if let Err(error) = file.and_then(|file| write_record(&file, &record)) {
            tracing::warn!(launch, %error, "its launch file cannot be written anew");
        }
        survey.over.retain(|&over| over != launch);
        survey.untold.retain(|untold| untold.launch != launch);
        survey.running.push(Survivor {
            launch,
            process,
            log: record.log,
            is_ring_lost: true,
        });
        survey.running.sort_by_key(|survivor| survivor.launch);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn own(launch: u32) -> Running {
        let pid = std::process::id();
        Running {
            launch,
            pid,
            start_ticks: Process::open(pid, None).expect("running").start_ticks(),
            log: Some(PathBuf::from("/data/engine/0000000004.log")),
        }
    }

    #[test]
    fn a_recorded_engine_without_a_lock_is_found_and_its_launch_file_comes_back() {
        let dir = tempfile::tempdir().expect("temporary folder");
        let locks = LaunchLocks::new(&dir.path().join("run"));
        let file = RunningFile::new(dir.path());
        file.write(&own(4)).expect("written");
        let mut survey = Survey::default();
        file.complete(&mut survey, &locks);
        let [survivor] = &survey.running[..] else {
            panic!("{survey:?}");
        };
        assert_eq!(
            (survivor.launch, survivor.process.pid()),
            (4, std::process::id())
        );
        assert!(survivor.is_ring_lost);
        // From now on the launch file tells it, and why nothing is heard of it.
        let mut survey = locks.survey().expect("readable");
        assert_eq!(survey.running.len(), 1);
        file.complete(&mut survey, &locks);
        assert_eq!(survey.running.len(), 1, "not twice");
        assert!(survey.running[0].is_ring_lost);
    }

    /// A number of another boot, one that another process has by now, and a torn record are nobody.
    #[test]
    fn a_record_of_another_process_is_nobodys() {
        let dir = tempfile::tempdir().expect("temporary folder");
        let locks = LaunchLocks::new(&dir.path().join("run"));
        let file = RunningFile::new(dir.path());
        let found = |text: &[u8]| {
            fs::write(&file.path, text).expect("written");
            let mut survey = Survey::default();
            file.complete(&mut survey, &locks);
            survey.running.len()
        };
        file.write(&own(4)).expect("written");
        let whole = fs::read(&file.path).expect("there");
        assert_eq!(found(&whole), 1);
        let text = String::from_utf8(whole.clone()).expect("text");
        for broken in [
            text.replace(&boot_id(), "another"),
            text.replace("start_ticks=", "start_ticks=1"),
            text.replace("pid=", "pid=9"),
            text.replace("launch=4", "launch=x"),
        ] {
            assert_eq!(found(broken.as_bytes()), 0, "{broken}");
        }
        for cut in 0..whole.len() {
            assert_eq!(found(&whole[..cut]), 0, "cut at {cut}");
        }
    }
}
