//! Ends stale engines: those of an older launch that still live, or live again, while a newer one is the engine.
//!
//! How there can be one at all: its launch lock and its record were taken away (a cleaned runtime directory), or
//! somebody started it by hand. Intake takes nothing from its ring as long as it lives; here it is ended.

use std::fs::File;
use std::path::PathBuf;
use std::time::Duration;

use crate::platform::{Process, openers};

/// How long it has to die of SIGKILL before we say that it does not.
const DEATH_MAX: Duration = Duration::from_secs(10);

/// A program that we are just starting has what we have open until its exec: look again before complaining of a holder.
const LOOKS_MAX: u32 = 10;
const LOOK_PAUSE: Duration = Duration::from_millis(20);

/// An engine that is to be no more.
#[derive(Clone, Debug)]
pub struct StaleEngine {
    /// Its launch number.
    pub launch: u32,
    /// The ring that it holds.
    pub ring: PathBuf,
    /// Its process id, by its own account.
    pub pid: u32,
    /// Its start time in clock ticks since boot, by its own account.
    pub start_ticks: u64,
}

/// Why a stale engine lives on.
#[derive(Debug, thiserror::Error)]
pub enum FenceError {
    /// What the ring says of its writer is not true, so nobody is killed for it.
    #[error(
        "ring {ring:?} says that process {pid} writes it, which does not hold it open; end the process that does (see fuser)"
    )]
    NotItsHolder {
        /// The ring.
        ring: PathBuf,
        /// Who it says.
        pid: u32,
    },
    /// The ring cannot be looked at.
    #[error("ring {ring:?} cannot be looked at: {source}")]
    Unreadable {
        /// The ring.
        ring: PathBuf,
        /// What the system said.
        source: std::io::Error,
    },
    /// SIGKILL did not end it.
    #[error(
        "process {pid} was sent SIGKILL and is not gone after 10 s; it stands in a system call (a disk that does not answer?)"
    )]
    Undying {
        /// It.
        pid: u32,
    },
}

/// Kills a stale engine with its process group and waits for its death.
///
/// The ring is another process's word, so its pid counts only if the process of that number was started when the ring
/// says and holds the ring open. `engine` is the process that is the engine now: never that one. Looks through `/proc`;
/// blocks for some milliseconds, up to 10 s if it does not die.
///
/// # Errors
/// See [`FenceError`].
pub fn end_stale(stale: &StaleEngine, engine: Option<u32>) -> Result<(), FenceError> {
    let unreadable = |source| FenceError::Unreadable {
        ring: stale.ring.clone(),
        source,
    };
    let file = File::open(&stale.ring).map_err(unreadable)?;
    let claimed = (stale.pid, stale.start_ticks);
    let mut looks = 0;
    let process = loop {
        let holders = openers(&file).map_err(unreadable)?;
        if holders.is_empty() {
            // It died meanwhile.
            return Ok(());
        }
        let is_holder = holders.contains(&claimed) && Some(stale.pid) != engine;
        if is_holder && let Ok(process) = Process::open(stale.pid, Some(stale.start_ticks)) {
            break process;
        }
        looks += 1;
        if looks > LOOKS_MAX {
            return Err(FenceError::NotItsHolder {
                ring: stale.ring.clone(),
                pid: stale.pid,
            });
        }
        std::thread::sleep(LOOK_PAUSE);
    };
    let pid = process.pid();
    tracing::warn!(
        pid,
        launch = stale.launch,
        "a stale engine still lives while a newer one runs; killed"
    );
    if process.leads_group() {
        process.kill_group();
    } else {
        process.kill();
    }
    match process.wait_dead(DEATH_MAX) {
        Ok(true) => Ok(()),
        _ => Err(FenceError::Undying { pid }),
    }
}

#[cfg(test)]
mod tests {
    use std::process::{Command, Stdio};

    use super::*;
    use crate::platform::spawn_other;

    /// Starts a process that has `ring` open, or not.
    fn holder(ring: &std::path::Path, holds: bool) -> std::process::Child {
        let script = if holds {
            "exec 9<\"$0\"; echo; exec sleep 1000"
        } else {
            "echo; exec sleep 1000"
        };
        let mut child = spawn_other(
            Command::new("sh")
                .args(["-c", script])
                .arg(ring)
                .stdout(Stdio::piped()),
        )
        .expect("started");
        let mut line = [0; 1];
        let mut stdout = child.stdout.take().expect("piped");
        std::io::Read::read_exact(&mut stdout, &mut line).expect("told");
        child
    }

    fn stale(ring: &std::path::Path, child: &std::process::Child) -> StaleEngine {
        let process = Process::open(child.id(), None).expect("running");
        StaleEngine {
            launch: 1,
            ring: ring.to_owned(),
            pid: process.pid(),
            start_ticks: process.start_ticks(),
        }
    }

    fn end(mut child: std::process::Child) {
        child.kill().expect("ours");
        child.wait().expect("reaped");
    }

    #[test]
    fn the_holder_of_the_ring_is_ended() {
        let dir = tempfile::tempdir().expect("temporary folder");
        let ring = dir.path().join("1.ring");
        std::fs::write(&ring, "").expect("written");
        let mut child = holder(&ring, true);
        end_stale(&stale(&ring, &child), None).expect("ended");
        assert!(!child.wait().expect("reaped").success());
        end_stale(
            &StaleEngine {
                launch: 1,
                ring,
                pid: child.id(),
                start_ticks: 1,
            },
            None,
        )
        .expect("gone already");
    }

    /// A ring is another process's word: it must not make us kill whomever it names.
    #[test]
    fn who_does_not_hold_the_ring_was_started_later_or_is_the_engine_is_left_alone() {
        let dir = tempfile::tempdir().expect("temporary folder");
        let ring = dir.path().join("1.ring");
        std::fs::write(&ring, "").expect("written");
        let writer = holder(&ring, true);
        let bystander = holder(&ring, false);
        let later = StaleEngine {
            start_ticks: 1,
            ..stale(&ring, &writer)
        };
        for (stale, engine) in [
            (stale(&ring, &bystander), None),
            (later, None),
            (stale(&ring, &writer), Some(writer.id())),
        ] {
            let error = end_stale(&stale, engine).expect_err("refused");
            assert!(matches!(error, FenceError::NotItsHolder { .. }), "{error}");
        }
        for child in [writer, bystander] {
            assert!(Process::open(child.id(), None).is_ok(), "it lives");
            end(child);
        }
    }
}
