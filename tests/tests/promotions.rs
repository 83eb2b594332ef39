//! A standby takes over: by plan, and when the watchdog is killed amid it.
//!
//! A watchdog that is killed by SIGKILL amid a promotion, at each of its steps (CORRECTNESS rule 6): the next one finds exactly one
//! active engine, which serves, and nothing is lost. The real Godot, the real watchdog.
//!
//! Where the watchdog dies is a kill point of its debug build (`platform::kill_point`); that it died there is seen by what the
//! steps before had done and those behind had not.

use std::ffi::OsStr;
use std::fs;
use std::os::unix::process::ExitStatusExt;
use std::path::Path;

use rustix::process::Signal;
use sidekick_ipc::{Attachment, Phase, scan};
use sidekick_tests::godot::Godot;
use sidekick_tests::match_stage::{PATIENCE, Stage};
use sidekick_tests::{process, wait};

/// A place in the promotion of a standby.
struct Step {
    place: &'static str,
    /// The file that says which engine is active names the standby.
    is_decided: bool,
    /// The standby knows.
    is_told: bool,
}

const STEPS: [Step; 5] = [
    Step {
        place: "before_active_word",
        is_decided: false,
        is_told: false,
    },
    Step {
        place: "amid_active_word",
        is_decided: false,
        is_told: false,
    },
    Step {
        place: "after_active_word",
        is_decided: true,
        is_told: false,
    },
    Step {
        place: "after_ring_word",
        is_decided: true,
        is_told: true,
    },
    Step {
        place: "after_telling",
        is_decided: true,
        is_told: true,
    },
];

/// The launch that the deciding file names.
fn active(runtime_dir: &Path) -> u32 {
    let text = fs::read_to_string(runtime_dir.join("active")).expect("the word that decides");
    let launch = text.lines().find_map(|line| line.strip_prefix("launch="));
    launch
        .and_then(|launch| launch.parse().ok())
        .expect("a launch")
}

/// The launch of this process, and whether it waits to be activated, as its ring says.
fn in_ring(runtime_dir: &Path, pid: u32) -> Option<(u32, bool)> {
    let files = scan(runtime_dir).ok()?;
    files.iter().rev().find_map(|file| {
        let ring = Attachment::open(file).ok()?;
        (ring.info().pid == pid).then(|| (file.launch, ring.heartbeat().phase == Phase::Parked))
    })
}

/// At each step in turn, in one match.
fn a_watchdog_killed_amid_a_promotion_leaves_one_engine_that_serves(godot: &Godot) {
    let stage = Stage::new(godot, true, "");
    let mut plain = stage.setup.start();
    for step in &STEPS {
        let place = step.place;
        let before = stage.settled(&plain);
        plain.kill();

        let mut doomed = stage.setup.start_with(&[(KILL_AT, OsStr::new(place))]);
        assert_eq!(stage.settled(&doomed), before, "{place}: not adopted");
        let (engine, standby) = (before.0, before.1.expect("a standby"));
        let runtime_dir = stage.setup.runtime_dir();
        let (launch, is_parked) = in_ring(runtime_dir, standby).expect("its ring");
        assert!(is_parked && active(runtime_dir) < launch);
        stage.setup.signal(engine, Signal::KILL);
        let status = doomed.running.wait(PATIENCE).expect("its end");
        assert_eq!(status.signal(), Some(Signal::KILL.as_raw()), "{place}");

        // It came as far as it was to come, and no further.
        assert!(!process::runs(engine) && process::runs(standby), "{place}");
        assert_eq!(active(runtime_dir) == launch, step.is_decided, "{place}");
        // Who knows that it is active begins a journal, and then waits for a watchdog's answer to its restore.
        let journal = stage.journals.join(format!("{launch:010}-{standby}"));
        if step.is_told {
            wait::until("the standby to know", PATIENCE, || {
                journal.exists().then_some(())
            });
        }
        assert_eq!(journal.exists(), step.is_told, "{place}");

        plain = stage.setup.start();
        let next = stage.next(engine);
        assert_eq!((next.pid, next.was_standby), (standby, true), "{place}");
        let pid = plain.wait_for_status("an engine", PATIENCE, |status| {
            status["engine"]["pid"].as_u64()
        });
        assert_eq!(pid, u64::from(standby), "{place}");
        assert_eq!(active(runtime_dir), launch, "{place}");
    }
    // From here on it goes on as ever.
    let (engine, standby) = stage.settled(&plain);
    stage.setup.signal(engine, Signal::KILL);
    assert_eq!(Some(stage.next(engine).pid), standby);
    let outcome = stage.end(plain);
    outcome.assert_kept();
    let steps = STEPS.len() as u64;
    assert_eq!(outcome.summary.promoted, steps + 1);
    assert_eq!(
        (outcome.summary.cold, outcome.summary.restored),
        (1, steps + 1)
    );
}

/// The test above can fail: by a watchdog that knows nothing of the one that was killed, and so starts another engine.
fn a_watchdog_that_knows_nothing_of_the_one_before_is_noticed(godot: &Godot) {
    let stage = Stage::new(godot, true, "");
    let watchdog = stage.setup.start();
    let (engine, _) = stage.settled(&watchdog);
    watchdog.kill();
    let other = |folder: &str| stage.setup.scratch().join(folder);
    let watchdog = stage.setup.start_with(&[
        ("SIDEKICK_DATA_DIR", other("other_data").as_os_str()),
        ("SIDEKICK_RUNTIME_DIR", other("other_runtime").as_os_str()),
    ]);
    wait::until("another engine's journal", PATIENCE, || {
        let pids = stage.setup.engines(Some(&watchdog));
        let mut others = pids.iter().filter(|pid| **pid != engine);
        let name = |pid: &u32| format!("{:010}-{pid}", 1);
        let text = others.find_map(|pid| fs::read_to_string(stage.journals.join(name(pid))).ok());
        text?.contains("serves").then_some(())
    });
    watchdog.kill();
    let (_, broken) = stage.judge();
    for word in ["such an incarnation", "taken"] {
        let is_told = broken.iter().any(|line| line.contains(word));
        assert!(is_told, "{word}: {broken:?}");
    }
}

/// Asked for a restart, the watchdog boots the new program first, then lets the old one quit, and hands over: the new one goes on
/// with everything, and at no time have both the port.
fn an_update_is_handed_over_with_nothing_lost(godot: &Godot) {
    let stage = Stage::new(godot, true, "");
    let watchdog = stage.setup.start();
    for version in 2..=3 {
        let (engine, stale) = stage.settled(&watchdog);
        stage.update(version);
        let restarted = stage.setup.run(&["restart"], PATIENCE);
        assert!(restarted.status.success(), "{:#?}", restarted.lines);
        let next = stage.next(engine);
        assert_eq!((next.was_standby, next.version), (true, version));
        assert_ne!(Some(next.pid), stale, "of the old program");
        assert!(!process::runs(engine));
    }
    // What is parked beside the new one is of the new program, too.
    let (engine, _) = stage.settled(&watchdog);
    stage.setup.signal(engine, Signal::KILL);
    assert_eq!(stage.next(engine).version, 3);
    let outcome = stage.end(watchdog);
    outcome.assert_kept();
    let summary = &outcome.summary;
    assert_eq!((summary.promoted, summary.cold), (3, 1));
    assert_eq!(summary.handed_over, 2, "{summary:?}");
}

/// See `sidekick-watchdog/src/platform/kill_point.rs`.
const KILL_AT: &str = "HARNESS_WATCHDOG_KILL_AT";

sidekick_tests::godot_claims!(
    an_update_is_handed_over_with_nothing_lost,
    a_watchdog_killed_amid_a_promotion_leaves_one_engine_that_serves,
    a_watchdog_that_knows_nothing_of_the_one_before_is_noticed,
);
