//! Ends that come by the clock, by a watchdog's absence and by being replaced: the real Godot, the real watchdog.

use std::fs;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use rustix::process::Signal;
use sidekick_tests::godot::Godot;
use sidekick_tests::process;
use sidekick_tests::scene::{PATIENCE, QUICK, Scene, plays};
use sidekick_tests::wait;

const DAY: u64 = 24 * 3600;
/// Time for a game to start before its restart is due.
const AHEAD: Duration = Duration::from_secs(10);

/// A time zone in which it will be 04:00 o'clock after [`AHEAD`].
fn shortly_before_four() -> String {
    let now = SystemTime::now().duration_since(UNIX_EPOCH);
    let now = now.expect("after 1970").as_secs() % DAY;
    let wanted = 4 * 3600 - AHEAD.as_secs();
    let east = (wanted + DAY - now) % DAY;
    // POSIX counts to the west.
    format!(
        "SKT-{:02}:{:02}:{:02}",
        east / 3600,
        east / 60 % 60,
        east % 60
    )
}

/// At 04:00 daily the game is asked to quit, saves, and the next incarnation plays; that one's time comes the day after.
fn a_restart_at_four_daily(godot: &Godot) {
    // The later ones are for a machine on which the game is not up in time.
    let schedule = "[restart]\nschedule = [\"04:00 daily\", \"04:01 daily\", \"04:02 daily\"]\n";
    let mut scene = Scene::new(godot, &[], "");
    scene
        .setup
        .set_config(&QUICK.replace("[restart]\n", schedule));
    scene.setup.set_variable("TZ", shortly_before_four());
    let mut watchdog = scene.setup.start();
    plays(&watchdog, 1);
    let why = watchdog.wait_for_log("the planned restart", 2 * PATIENCE, |line| {
        (line.message == "planned restart").then(|| line.text("why").map(str::to_owned))
    });
    let why = why.unwrap_or_default();
    assert!(
        why.starts_with("04:0") && why.ends_with(" daily"),
        "{why:?}"
    );
    let cause = watchdog.wait_for_log("its clean end", PATIENCE, |line| {
        (line.message == "engine quit").then(|| line.text("cause").map(str::to_owned))
    });
    assert_eq!(cause.as_deref(), Some("quit"));
    scene.ends_well(watchdog, 2);
}

/// `[engine] quit_without_watchdog`: a game whose watchdog comes back in time plays on; one whose watchdog stays away saves and
/// quits by itself, and what it recorded is not lost.
fn a_game_whose_watchdog_stays_away(godot: &Godot) {
    let config = "[engine]\nquit_without_watchdog = \"15s\"\n";
    let scene = Scene::new(godot, &[], config);
    let watchdog = scene.setup.start();
    plays(&watchdog, 1);
    let engine = scene.engine(&watchdog);
    watchdog.kill();
    let watchdog = scene.setup.start();
    plays(&watchdog, 1);
    assert_eq!(scene.engine(&watchdog), engine);
    watchdog.kill();
    assert_eq!(scene.setup.engines(None), [engine]);
    wait::until("the game's own end", PATIENCE, || {
        // A process that is ending has no environment any more to be known by, and can still be adopted.
        let is_over = scene.setup.descendants(None).is_empty() && !process::runs(engine);
        is_over.then_some(())
    });
    let watchdog = scene.setup.start();
    scene.ends_well(watchdog, 2);
    // Its last words waited for the next watchdog.
    let outputs = fs::read_dir(scene.setup.data_dir().join("engine")).expect("its output");
    let said: String = outputs
        .flatten()
        .filter_map(|entry| fs::read_to_string(entry.path()).ok())
        .collect();
    assert!(said.contains("is asked to quit as configured"), "{said}");
}

/// A server that was stopped (SIGSTOP) and forgotten comes back beside the one that took its place: it is ended, the newer one
/// plays on, and the records of both arrive.
fn a_game_that_comes_back_from_sigstop(godot: &Godot) {
    let scene = Scene::new(godot, &[], "");
    let watchdog = scene.setup.start();
    plays(&watchdog, 1);
    let old = scene.engine(&watchdog);
    // In this order: a process group that loses its parent while it is stopped is sent SIGHUP by the system.
    watchdog.kill();
    scene.setup.signal(old, Signal::STOP);
    scene.setup.hide_engine(1);
    let mut watchdog = scene.setup.start();
    scene.setup.signal(old, Signal::CONT);
    watchdog.wait_for_log("the older one", PATIENCE, |line| {
        line.message
            .contains("a stale engine still lives")
            .then_some(())
    });
    wait::until("the older one's end", PATIENCE, || {
        (!process::runs(old)).then_some(())
    });
    plays(&watchdog, 2);
    assert_ne!(scene.engine(&watchdog), old);
    scene.ends_well(watchdog, 2);
}

sidekick_tests::godot_claims!(
    a_restart_at_four_daily,
    a_game_whose_watchdog_stays_away,
    a_game_that_comes_back_from_sigstop,
);
