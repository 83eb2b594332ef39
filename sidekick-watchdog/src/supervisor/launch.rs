//! Launch locks: the proof that an engine lives, kept by the engine itself (CORRECTNESS rule 2).
//!
//! Before an engine is started its file `launch/<n>` is locked, and the engine inherits the descriptor: the lock is
//! held from before its first instruction until it and all its descendants are gone, whatever becomes of the
//! watchdog. After the start its pid and start time are written into the file. A watchdog killed between the two
//! leaves a held lock without a pid; then the holder is found by looking through `/proc`.
//!
//! The file outlives its engine until that one's death is *told*: its report is kept, or none is due. A launch that is
//! over and not told ended while no watchdog was there to tell it ([`Untold`]).
//!
//! (Inheriting costs nothing. A tiny launcher program that locks, writes its own pid and then becomes the engine
//! would close that window too, for one more exec of 1 to 2 ms on each relaunch.)

mod active;
mod running;

use std::ffi::OsString;
use std::fs::{self, File};
use std::io;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use crate::platform::{
    Process, RunLock, boot_id, create_private_dir, create_private_file, is_lock_free, lock_holders,
    read_at, try_lock, write_all_at,
};

pub use self::active::{Active, ActiveFile, Sorted, sort_out};
pub use self::running::{Running, RunningFile};

/// How long a held lock is looked into before we say that its holder cannot be seen.
const IDENTIFY_MAX: Duration = Duration::from_secs(5);
/// How long a holder without a process group of its own is taken for one that is just being started.
const BEING_STARTED_MAX: Duration = Duration::from_secs(1);
const IDENTIFY_POLL: Duration = Duration::from_millis(2);
const RECORD_BYTES_MAX: u64 = 4096;

/// Why the engines of an earlier watchdog cannot be accounted for.
#[derive(Debug, thiserror::Error)]
pub enum AdoptError {
    /// The launch locks cannot be read.
    #[error(
        "launch locks in {path:?} cannot be read: {source}; make the runtime directory accessible"
    )]
    Unreadable {
        /// The folder or file.
        path: PathBuf,
        /// What the system said.
        source: io::Error,
    },
    /// A lock is held by a process that this one may not see.
    #[error(
        "an engine holds the launch lock {path:?} but cannot be seen from here (another container or user?); start no second one: end it there first"
    )]
    Invisible {
        /// The lock.
        path: PathBuf,
    },
}

/// What a launch file says.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct LaunchRecord {
    /// The engine's process id; `None` = it was being started when this was written.
    pub pid: Option<u32>,
    /// The engine's start time in clock ticks since boot.
    pub start_ticks: Option<u64>,
    /// Which boot of the machine.
    pub boot_id: String,
    /// Where the engine's output goes.
    pub log: Option<PathBuf>,
    /// How it ended was told.
    pub told: bool,
    /// The file was written anew for an engine whose runtime directory was cleaned up: its ring is lost.
    pub ring_lost: bool,
}

impl LaunchRecord {
    fn to_text(&self) -> Vec<u8> {
        let number = |n: Option<u64>| n.map_or_else(String::new, |n| n.to_string());
        let mut text = format!(
            "version=1\nboot_id={}\npid={}\nstart_ticks={}\n{}{}log=",
            self.boot_id,
            number(self.pid.map(u64::from)),
            number(self.start_ticks),
            if self.told { "told=1\n" } else { "" },
            if self.ring_lost { "ring_lost=1\n" } else { "" }
        )
        .into_bytes();
        if let Some(log) = &self.log {
            text.extend_from_slice(log.as_os_str().as_encoded_bytes());
        }
        text.extend_from_slice(b"\nend\n");
        text
    }

    /// Takes what is there: a torn or foreign text is a record without a pid.
    fn parse(text: &[u8]) -> Self {
        let text = String::from_utf8_lossy(text);
        if !text.ends_with("\nend\n") {
            return Self::default();
        }
        let field = |name: &str| {
            text.lines()
                .find_map(|line| line.strip_prefix(name)?.strip_prefix('='))
                .filter(|value| !value.is_empty())
        };
        Self {
            pid: field("pid").and_then(|value| value.parse().ok()),
            start_ticks: field("start_ticks").and_then(|value| value.parse().ok()),
            boot_id: field("boot_id").unwrap_or_default().to_owned(),
            log: field("log").map(|value| PathBuf::from(OsString::from(value))),
            told: field("told") == Some("1"),
            ring_lost: field("ring_lost") == Some("1"),
        }
    }
}

/// An engine that outlived its watchdog.
#[derive(Debug)]
pub struct Survivor {
    /// Its launch number.
    pub launch: u32,
    /// It.
    pub process: Process,
    /// Where its output goes, if that was recorded.
    pub log: Option<PathBuf>,
    /// The runtime directory was cleaned up under it: its launch file was written anew, and its ring is lost.
    pub is_ring_lost: bool,
}

/// What the launch locks tell.
#[derive(Debug, Default)]
pub struct Survey {
    /// Engines that run, oldest launch first. There should be one at most.
    pub running: Vec<Survivor>,
    /// Launches that are over; their files are still there.
    pub over: Vec<u32>,
    /// Those of them whose end nobody told, oldest first.
    pub untold: Vec<Untold>,
}

/// A launch that is over, and nobody told how it ended: its watchdog was gone by then, or killed before it could.
#[derive(Clone, Debug)]
pub struct Untold {
    /// Its launch number.
    pub launch: u32,
    /// What its file says. Without a pid there may never have been an engine.
    pub record: LaunchRecord,
    /// Whether it was started since the machine was.
    pub is_of_this_boot: bool,
}

/// The launch locks of one runtime directory.
#[derive(Clone, Debug)]
pub struct LaunchLocks {
    dir: PathBuf,
    boot_id: String,
}

/// A lock that we hold, to be inherited by an engine.
#[derive(Debug)]
pub struct LaunchLock {
    file: File,
    record: LaunchRecord,
}

impl LaunchLock {
    /// The file, for the engine to inherit.
    pub fn file(&self) -> &File {
        &self.file
    }

    /// Writes down which process holds it now, and lets go of our copy.
    ///
    /// # Errors
    /// What the system said. The lock is held by the engine all the same, and a successor finds it by that.
    pub fn hand_over(mut self, process: &Process) -> io::Result<()> {
        self.record.pid = Some(process.pid());
        self.record.start_ticks = Some(process.start_ticks());
        write_record(&self.file, &self.record)
    }
}

fn write_record(file: &File, record: &LaunchRecord) -> io::Result<()> {
    let text = record.to_text();
    write_all_at(file, &text, 0)?;
    // A longer old text has its own end mark, so the cut comes last and a kill before it leaves a longer record.
    file.set_len(text.len() as u64)
}

impl LaunchLocks {
    /// The locks in `runtime_dir`.
    pub fn new(runtime_dir: &Path) -> Self {
        Self {
            dir: runtime_dir.join("launch"),
            boot_id: boot_id(),
        }
    }

    /// The file of a launch.
    pub fn path(&self, launch: u32) -> PathBuf {
        self.dir.join(format!("{launch:010}"))
    }

    /// Locks `launch` for an engine to be started; `None` if somebody holds that one.
    ///
    /// # Errors
    /// What the system said.
    pub fn lock(&self, launch: u32, log: Option<&Path>) -> io::Result<Option<LaunchLock>> {
        let path = self.path(launch);
        let file = match create_private_file(&path) {
            // Somebody cleaned up a folder that was not theirs; the next engine must start all the same.
            Err(error) if error.kind() == io::ErrorKind::NotFound => {
                create_private_dir(&self.dir)?;
                create_private_file(&path)?
            }
            other => other?,
        };
        if !try_lock(&file)? {
            return Ok(None);
        }
        let record = LaunchRecord {
            boot_id: self.boot_id.clone(),
            log: log.map(Path::to_owned),
            ..LaunchRecord::default()
        };
        file.set_len(0)?;
        write_record(&file, &record)?;
        Ok(Some(LaunchLock { file, record }))
    }

    /// Whether nobody holds the lock of a launch: its engine and all its descendants are gone.
    pub fn is_free(&self, launch: u32) -> bool {
        File::open(self.path(launch)).is_ok_and(|file| is_lock_free(&file).unwrap_or(true))
            || !self.path(launch).exists()
    }

    /// Removes the file of a launch unless somebody holds it.
    pub fn remove_if_free(&self, launch: u32) {
        if self.is_free(launch) {
            // Left behind it does no harm; the next survey sees that it is over.
            let _ = fs::remove_file(self.path(launch));
        }
    }

    /// Notes that the end of a launch was told: no later watchdog tells it again. A file that is gone needs no note.
    ///
    /// # Errors
    /// What the system said; a later watchdog may tell it again.
    pub fn tell(&self, launch: u32) -> io::Result<()> {
        let path = self.path(launch);
        if !path.exists() {
            return Ok(());
        }
        let file = create_private_file(&path)?;
        let mut record = read_record(&file)?;
        if !record.told {
            record.told = true;
            write_record(&file, &record)?;
        }
        Ok(())
    }

    /// Whether nothing is left to tell of the end of a launch.
    pub fn is_told(&self, launch: u32) -> bool {
        let record = File::open(self.path(launch)).and_then(|file| read_record(&file));
        // What cannot be read now never will be.
        record.map_or(true, |record| record.told)
    }

    /// Ends the command before a start of an earlier watchdog if it still runs, and locks a new file for the next one. Blocks
    /// until that one is gone, up to 5 s.
    ///
    /// # Errors
    /// What the system said; or that the earlier one does not end.
    pub fn lock_hook(&self) -> io::Result<RunLock> {
        RunLock::take(&self.dir.join("pre_start"), "[hooks] pre_start")
    }

    /// Kills what still holds the lock of a launch that is over: descendants that left the engine's process group.
    pub fn kill_leftovers(&self, launch: u32) -> usize {
        File::open(self.path(launch)).map_or(0, |file| kill_holders(&file))
    }

    /// Finds every engine that still runs. Only the holder of the data directory's lock may call it.
    ///
    /// Blocks for some milliseconds if locks are held, up to 5 s if their holders cannot be made out.
    ///
    /// # Errors
    /// See [`AdoptError`].
    pub fn survey(&self) -> Result<Survey, AdoptError> {
        let unreadable = |path: &Path, source| AdoptError::Unreadable {
            path: path.to_owned(),
            source,
        };
        let mut launches: Vec<u32> = fs::read_dir(&self.dir)
            .map_err(|error| unreadable(&self.dir, error))?
            .filter_map(|entry| entry.ok()?.file_name().to_str()?.parse().ok())
            .collect();
        launches.sort_unstable();
        let mut survey = Survey::default();
        for launch in launches {
            let path = self.path(launch);
            let file = create_private_file(&path).map_err(|error| unreadable(&path, error))?;
            let found = self
                .identify(&file)
                .map_err(|error| unreadable(&path, error))?;
            match found {
                Found::Over(record) => {
                    survey.over.push(launch);
                    if !record.told {
                        let is_of_this_boot = record.boot_id == self.boot_id;
                        survey.untold.push(Untold {
                            launch,
                            record,
                            is_of_this_boot,
                        });
                    }
                }
                Found::Running(process, record) => survey.running.push(Survivor {
                    launch,
                    process,
                    log: record.log,
                    is_ring_lost: record.ring_lost,
                }),
                Found::Invisible => return Err(AdoptError::Invisible { path }),
            }
        }
        Ok(survey)
    }

    fn identify(&self, file: &File) -> io::Result<Found> {
        let asked_at = Instant::now();
        loop {
            let is_free = is_lock_free(file)?;
            let mut record = read_record(file)?;
            let same_boot = record.boot_id == self.boot_id;
            let known = record.pid.zip(record.start_ticks).filter(|_| same_boot);
            // Looked at even if the lock is free: a wrapper script may have closed every descriptor it did not know.
            if let Some((pid, ticks)) = known
                && let Ok(process) = Process::open(pid, Some(ticks))
            {
                return Ok(Found::Running(process, record));
            }
            if is_free {
                return Ok(Found::Over(record));
            }
            if known.is_some() {
                // The engine is dead; what holds the lock are its descendants.
                kill_holders(file);
            } else {
                // Its watchdog died before it wrote the pid. The oldest holder is the engine: all others descend
                // from it. It leads its process group as soon as it has come to its exec.
                let holders = lock_holders(file)?;
                let engine = holders
                    .into_iter()
                    .filter_map(|(pid, ticks)| Process::open(pid, Some(ticks)).ok())
                    .find(Process::leads_group);
                if let Some(process) = engine {
                    record.pid = Some(process.pid());
                    record.start_ticks = Some(process.start_ticks());
                    record.boot_id.clone_from(&self.boot_id);
                    write_record(file, &record)?;
                    return Ok(Found::Running(process, record));
                }
                if asked_at.elapsed() > BEING_STARTED_MAX {
                    kill_holders(file);
                }
            }
            if asked_at.elapsed() > IDENTIFY_MAX {
                return Ok(Found::Invisible);
            }
            std::thread::sleep(IDENTIFY_POLL);
        }
    }
}

enum Found {
    Over(LaunchRecord),
    Running(Process, LaunchRecord),
    Invisible,
}

fn kill_holders(file: &File) -> usize {
    let holders = lock_holders(file).unwrap_or_default();
    holders
        .into_iter()
        .filter_map(|(pid, ticks)| Process::open(pid, Some(ticks)).ok())
        .map(|process| process.kill())
        .count()
}

fn read_record(file: &File) -> io::Result<LaunchRecord> {
    let length = file.metadata()?.len().min(RECORD_BYTES_MAX);
    let mut text = vec![0; usize::try_from(length).unwrap_or(0)];
    let bytes = read_at(file, &mut text, 0)?;
    text.truncate(bytes);
    Ok(LaunchRecord::parse(&text))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_record_survives_its_text_and_a_torn_one_has_no_pid() {
        let record = LaunchRecord {
            pid: Some(42),
            start_ticks: Some(4_200),
            boot_id: "boot".to_owned(),
            log: Some(PathBuf::from("/data/engine/0000000001.log")),
            told: true,
            ring_lost: true,
        };
        let text = record.to_text();
        assert_eq!(LaunchRecord::parse(&text), record);
        for cut in 0..text.len() {
            assert_eq!(LaunchRecord::parse(&text[..cut]).pid, None, "cut at {cut}");
        }
    }

    #[test]
    fn a_lock_that_is_held_is_not_given_out_again() {
        let dir = tempfile::tempdir().expect("temporary folder");
        let locks = LaunchLocks::new(dir.path());
        let held = locks.lock(1, None).expect("made").expect("free");
        assert!(locks.lock(1, None).expect("opened").is_none());
        locks.remove_if_free(1);
        assert!(!locks.is_free(1) && locks.path(1).exists());
        drop(held);
        locks.remove_if_free(1);
        assert!(!locks.path(1).exists());
    }

    #[test]
    fn launches_that_are_over_are_told_apart_from_nothing() {
        let dir = tempfile::tempdir().expect("temporary folder");
        let locks = LaunchLocks::new(dir.path());
        drop(locks.lock(3, None).expect("made").expect("free"));
        let survey = locks.survey().expect("readable");
        assert!(survey.running.is_empty());
        assert_eq!(survey.over, [3]);
    }

    #[test]
    fn an_end_is_told_once() {
        let dir = tempfile::tempdir().expect("temporary folder");
        let locks = LaunchLocks::new(dir.path());
        let log = PathBuf::from("/run/output/0000000003.log");
        drop(locks.lock(3, Some(&log)).expect("made").expect("free"));
        assert!(!locks.is_told(3));
        let survey = locks.survey().expect("readable");
        let [untold] = &survey.untold[..] else {
            panic!("{survey:?}");
        };
        assert_eq!((untold.launch, untold.is_of_this_boot), (3, true));
        assert_eq!(untold.record.log.as_ref(), Some(&log));
        locks.tell(3).expect("written");
        assert!(locks.is_told(3));
        let survey = locks.survey().expect("readable");
        assert_eq!((survey.over.len(), survey.untold.len()), (1, 0));
        // Of one that was never made there is nothing to tell, and no file comes of it.
        locks.tell(4).expect("nothing to do");
        assert!(locks.is_told(4) && !locks.path(4).exists());
    }
}
