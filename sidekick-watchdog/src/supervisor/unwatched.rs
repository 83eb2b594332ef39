//! Deaths that no watchdog told: the last one was killed, then the engine died (or the other way round, and it could not
//! tell any more). What is left of such an engine says what can still be known.

use std::fs;
use std::path::{Path, PathBuf};
use std::time::{Duration, SystemTime};

use super::launch::{LaunchLocks, Untold};
use super::{Heartbeat, LinkFinder};
use crate::crash::DeathFacts;
use crate::event::DeathCause;
use crate::platform::{age, monotonic_now};

/// Beyond so many the oldest get no report: something else is wrong then.
const REPORTED_MAX: usize = 16;

/// An engine's death that is to be told.
#[derive(Clone, Debug)]
pub(super) struct Unwatched {
    /// What is known of it.
    pub facts: DeathFacts,
    /// It said goodbye with a code that counts as success.
    pub is_success: bool,
    /// The file that it wrote its output to.
    pub live: Option<PathBuf>,
}

/// What is left of engines whose death was not told, oldest first. Reads the runtime directory only.
///
/// Called before anything is started or adopted: nobody takes records from a ring before that, so it is still there.
pub(super) fn find(
    untold: Vec<Untold>,
    locks: &LaunchLocks,
    find_link: Option<&LinkFinder>,
    success_exit_codes: &[i32],
) -> Vec<Unwatched> {
    let surplus = untold.len().saturating_sub(REPORTED_MAX);
    let mut found = Vec::new();
    for (number, untold) in untold.into_iter().enumerate() {
        let launch = untold.launch;
        let link = find_link.and_then(|find| find(launch));
        let heartbeat = link.as_ref().map(|link| link.heartbeat());
        let printed_at = untold.record.log.as_deref().and_then(last_written);
        let has_lived = untold.record.pid.is_some() || heartbeat.is_some() || printed_at.is_some();
        if number < surplus {
            tracing::warn!(
                launch,
                "an earlier engine's death gets no report: there are too many of them"
            );
        }
        if number < surplus || !has_lived {
            // Only a waste of time, the next time.
            let _ = locks.tell(launch);
            continue;
        }
        let mut unwatched = unwatched(untold, heartbeat, printed_at, success_exit_codes);
        unwatched.facts.game_version = link.and_then(|link| link.game_version());
        found.push(unwatched);
    }
    found
}

fn unwatched(
    untold: Untold,
    heartbeat: Option<Heartbeat>,
    printed_at: Option<SystemTime>,
    success_exit_codes: &[i32],
) -> Unwatched {
    let Untold {
        launch,
        record,
        is_of_this_boot,
    } = untold;
    let now = SystemTime::now();
    // Its clock stands in its ring, and means something only until the next boot.
    let beat_at = heartbeat
        .filter(|beat| is_of_this_boot && beat.monotonic_ns > 0)
        .and_then(|beat| {
            let ago = monotonic_now().saturating_sub(Duration::from_nanos(beat.monotonic_ns));
            now.checked_sub(ago)
        });
    let started = record
        .start_ticks
        .filter(|_| is_of_this_boot)
        .and_then(|ticks| now.checked_sub(age(ticks)));
    // Its last sign of life is the nearest to its death that can be known.
    let ended = beat_at.max(printed_at).max(started).unwrap_or(now).min(now);
    let cause = match heartbeat.and_then(|beat| beat.clean_exit) {
        Some(exit_code) => DeathCause::Clean { exit_code },
        None => DeathCause::Unwatched,
    };
    let is_success =
        matches!(&cause, DeathCause::Clean { exit_code } if success_exit_codes.contains(exit_code));
    let beat = heartbeat.unwrap_or_default();
    let tick = Duration::from_micros(beat.last_tick_us.into());
    let facts = DeathFacts {
        expected: is_success,
        ended,
        uptime: started.and_then(|started| ended.duration_since(started).ok()),
        frame: heartbeat.map(|beat| beat.frames),
        last_tick: Some(tick).filter(|tick| !tick.is_zero()),
        phase: Some(beat.phase.to_owned()).filter(|phase| !phase.is_empty()),
        ready: beat.ready,
        ..DeathFacts::new(launch, record.pid.unwrap_or(0), cause)
    };
    Unwatched {
        facts,
        is_success,
        live: record.log,
    }
}

/// When something was last written to a file; `None`: never, or it is gone.
fn last_written(path: &Path) -> Option<SystemTime> {
    let metadata = fs::metadata(path).ok()?;
    (metadata.len() > 0).then(|| metadata.modified().ok())?
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use super::*;
    use crate::supervisor::EngineLink;
    use crate::supervisor::launch::LaunchRecord;

    #[derive(Debug)]
    struct Ring(Heartbeat);

    impl EngineLink for Ring {
        fn heartbeat(&self) -> Heartbeat {
            self.0
        }

        fn ask_quit(&self, _grace: Duration) {}
    }

    fn untold(launch: u32, pid: Option<u32>, log: Option<PathBuf>) -> Untold {
        Untold {
            launch,
            record: LaunchRecord {
                pid,
                start_ticks: pid.map(|_| 0),
                log,
                ..LaunchRecord::default()
            },
            is_of_this_boot: true,
        }
    }

    fn finder(heartbeat: Heartbeat) -> LinkFinder {
        Box::new(move |_| Some(Arc::new(Ring(heartbeat))))
    }

    fn look(untold: Vec<Untold>, ring: Option<Heartbeat>) -> Vec<Unwatched> {
        let dir = tempfile::tempdir().expect("temporary folder");
        let ring = ring.map(finder);
        find(untold, &LaunchLocks::new(dir.path()), ring.as_ref(), &[0])
    }

    #[test]
    fn the_ring_tells_where_it_died_and_whether_it_said_goodbye() {
        let beat_at = monotonic_now();
        let beat = Heartbeat {
            frames: 120,
            monotonic_ns: u64::try_from(beat_at.as_nanos()).expect("small"),
            ready: true,
            last_tick_us: 16_600,
            phase: "crashed",
            ..Heartbeat::default()
        };
        for (clean_exit, cause, expected) in [
            (None, DeathCause::Unwatched, false),
            (Some(0), DeathCause::Clean { exit_code: 0 }, true),
            (Some(3), DeathCause::Clean { exit_code: 3 }, false),
        ] {
            let ring = Heartbeat { clean_exit, ..beat };
            let found = look(vec![untold(7, Some(42), None)], Some(ring));
            let [Unwatched { facts, .. }] = &found[..] else {
                panic!("{found:?}");
            };
            assert_eq!((facts.incarnation, facts.pid), (7, 42));
            assert_eq!((&facts.cause, facts.expected), (&cause, expected));
            assert_eq!((facts.frame, facts.ready), (Some(120), true));
            assert_eq!(facts.phase.as_deref(), Some("crashed"));
            assert_eq!(facts.last_tick, Some(Duration::from_micros(16_600)));
            // Started with the machine (tick 0).
            assert!(facts.uptime.is_some_and(|uptime| uptime > Duration::ZERO));
            assert!(facts.ended <= SystemTime::now());
        }
    }

    #[test]
    fn a_number_that_no_engine_ever_had_is_no_death() {
        assert!(look(vec![untold(7, None, None)], None).is_empty());
        let dir = tempfile::tempdir().expect("temporary folder");
        let log = dir.path().join("7.log");
        fs::write(&log, "").expect("written");
        assert!(look(vec![untold(7, None, Some(log.clone()))], None).is_empty());
        // Its watchdog was killed before it wrote down the pid; what it printed shows that it lived.
        fs::write(&log, "Godot").expect("written");
        assert_eq!(look(vec![untold(7, None, Some(log))], None).len(), 1);
    }

    /// The clock in a ring that outlived a boot (in a runtime directory on a disk) tells nothing.
    #[test]
    fn times_of_another_boot_are_not_believed() {
        let mut untold = untold(7, Some(42), None);
        untold.is_of_this_boot = false;
        let ring = Heartbeat {
            frames: 5,
            monotonic_ns: 1,
            ..Heartbeat::default()
        };
        let found = look(vec![untold], Some(ring));
        let facts = &found[0].facts;
        assert_eq!((facts.uptime, facts.frame), (None, Some(5)));
    }

    #[test]
    fn reports_of_one_start_are_bounded() {
        let many = (1..=40)
            .map(|launch| untold(launch, Some(launch), None))
            .collect();
        let found = look(many, None);
        assert_eq!(found.len(), REPORTED_MAX);
        assert_eq!(found[0].facts.incarnation, 25);
    }
}
