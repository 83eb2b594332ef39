//! What the supervisor does of its own accord: evidence of hangs, limbo, memory, readiness, plans, hooks, safe starts.

use std::fs;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use sidekick_watchdog::crash::HangKind;
use sidekick_watchdog::event::{DeathCause, EngineEvent};
use sidekick_watchdog::supervisor::memory::MemoryLimits;
use sidekick_watchdog::supervisor::pre_start::PreStart;
use sidekick_watchdog::supervisor::{Command, Ended};

use crate::harness::{FakeLink, Site, Watched, eventually, link, signal};

const SLEEPS: &str = "echo up; while :; do sleep 0.05; done";
/// A game that quits when the test says so, with the goodbye that the test has put into its link.
const QUITS: &str = "echo up; while [ ! -e go ]; do sleep 0.01; done; rm go; exit 0";
const GRACE: Duration = Duration::from_secs(5);

/// Attaches a ring to the engine that was started; its frames stand at 1.
fn connect(watched: &Watched, launch: u32) -> Arc<FakeLink> {
    let link = link();
    link.frames.store(1, Ordering::Relaxed);
    let handed = Arc::clone(&link);
    assert!(watched.handle.send(Command::Connected {
        launch,
        link: handed
    }));
    link
}

fn died(watched: &mut Watched) -> DeathCause {
    watched.until(|event| match event {
        EngineEvent::Died { cause, .. } => Some(cause.clone()),
        _ => None,
    })
}

/// A busy loop, a sleep and SIGSTOP look alike from the ring; the cause tells them apart.
#[test]
fn hangs_are_told_apart() {
    for (engine, stop, kind, words) in [
        (
            "while :; do :; done",
            false,
            HangKind::BusyLoop,
            "in a busy loop",
        ),
        (
            "sleep 600 & wait",
            false,
            HangKind::Waiting,
            "waiting for something",
        ),
        (
            "while :; do :; done",
            true,
            HangKind::Stopped,
            "stopped by a signal",
        ),
    ] {
        let site = Site::new(engine);
        let mut config = site.config();
        config.policy.hang_timeout = Duration::from_millis(1500);
        let mut watched = Watched::start(config).expect("started");
        let (launch, pid) = watched.started();
        connect(&watched, launch);
        if stop {
            signal(pid, "STOP");
        }
        let seen = watched.until(|event| match event {
            EngineEvent::Hung { how, .. } => Some(*how),
            _ => None,
        });
        assert_eq!(seen, kind, "{engine}");
        let cause = died(&mut watched).to_string();
        assert!(
            cause.starts_with("hung for ") && cause.ends_with(words),
            "{cause}"
        );
        watched.shut_down(GRACE);
    }
}

/// Godot's handler printed its banner and then hung (godot#108268): the group is killed though no frame is expected.
#[test]
fn a_crash_that_does_not_end_is_ended() {
    let site = Site::new(
        "echo 'handle_crash: Program crashed with signal 11' >&2; trap '' TERM; while :; do sleep 0.05; done",
    );
    let mut watched = Watched::start(site.config()).expect("started");
    assert_eq!(died(&mut watched), DeathCause::CrashLimbo);
    watched.shut_down(GRACE);
}

/// A game can print that text, too: a frame after it refutes it, also for the lines that come in the next stall; it does
/// not refute the next banner.
#[test]
fn a_banner_that_a_game_prints_and_plays_on_is_no_crash() {
    let banner = "handle_crash: Program crashed with signal 11";
    let site = Site::new(&format!(
        "pause() {{ while [ ! -e $1 ]; do sleep 0.01; done; }}; \
         echo '{banner}'; pause stall; echo loading; sleep 3; echo loaded; pause crash; echo '{banner}'; pause never"
    ));
    let mut config = site.config();
    config.policy.hang_timeout = Duration::from_secs(600);
    let mut watched = Watched::start(config).expect("started");
    let (launch, pid) = watched.started();
    let game = connect(&watched, launch);
    game.beats.store(true, Ordering::Relaxed);
    let lines = |watched: &Watched, count| {
        eventually("its lines", || {
            let lines = watched.handle.log().last_lines(Some(launch));
            (lines.len() >= count).then_some(())
        });
    };
    lines(&watched, 1);
    game.beats.store(false, Ordering::Relaxed);
    game.frames.fetch_add(1, Ordering::Relaxed);
    fs::write(site.path().join("stall"), "").expect("written");
    // So much later a crash that does not end is over.
    lines(&watched, 3);
    assert_eq!(site.engines(), [pid], "it plays on");
    fs::write(site.path().join("crash"), "").expect("written");
    assert_eq!(died(&mut watched), DeathCause::CrashLimbo);
    watched.shut_down(GRACE);
}

/// Asked to restart, an engine ends well, crashes in its end or hangs in it: the next one is told of the latter two, also
/// where a command runs before it.
#[test]
fn a_crash_in_a_restart_is_told_to_the_next_engine() {
    let engine = "echo $SIDEKICK_RELAUNCH ${SIDEKICK_LAST_DEATH:-none} >> told; \
                  while [ ! -e go ]; do sleep 0.01; done; rm go; eval \"$(cat end)\"";
    for (end, is_hooked, is_told) in [
        ("exit 0", false, false),
        ("kill -SEGV $$", false, true),
        ("kill -SEGV $$", true, true),
        ("while :; do :; done", false, true),
    ] {
        let site = Site::new(engine);
        fs::write(site.path().join("end"), end).expect("written");
        let mut config = site.config();
        config.policy.hang_timeout = Duration::from_secs(2);
        if is_hooked {
            config.pre_start = hook("exit 0", GRACE);
        }
        let mut watched = Watched::start(config).expect("started");
        let (launch, _) = watched.started();
        let link = connect(&watched, launch);
        link.ready.store(true, Ordering::Relaxed);
        watched.until(|event| matches!(event, EngineEvent::Ready { .. }).then_some(()));
        assert!(watched.handle.send(Command::Restart {
            grace: Duration::from_secs(600)
        }));
        eventually("the request", || {
            link.asked_to_quit.load(Ordering::Relaxed).then_some(())
        });
        if end == "exit 0" {
            link.goodbye.store(1, Ordering::Relaxed);
        }
        fs::write(site.path().join("go"), "").expect("written");
        let told = eventually("the next engine", || {
            let text = fs::read_to_string(site.path().join("told")).ok()?;
            let whole = text.ends_with('\n').then_some(text)?;
            whole.lines().nth(1).map(str::to_owned)
        });
        let wanted = if is_told {
            let run = site.path().join("run/deaths/0000000001.json");
            format!("1 {}", run.display())
        } else {
            "1 none".to_owned()
        };
        assert_eq!(told, wanted, "{end} {is_hooked}");
        watched.shut_down(Duration::ZERO);
    }
}

#[test]
fn too_much_memory_is_told_and_then_a_planned_relaunch() {
    let site = Site::new(QUITS);
    let mut config = site.config();
    config.memory = MemoryLimits {
        soft_bytes: Some(1),
        max_bytes: None,
    };
    let mut watched = Watched::start(config).expect("started");
    let (launch, _) = watched.started();
    let game = connect(&watched, launch);
    let rss = watched.until(|event| match event {
        EngineEvent::MemoryHigh { rss_bytes, .. } => Some(*rss_bytes),
        _ => None,
    });
    assert!(rss > 100_000, "{rss}");
    // Told before its ring was attached, or through it.
    let told = game.memory_told.load(Ordering::Relaxed);
    assert!(told == 0 || told == rss, "{told}");
    watched.shut_down(Duration::ZERO);

    let site = Site::new(QUITS);
    let mut config = site.config();
    config.memory.max_bytes = Some(1);
    config.policy.drain_grace = Duration::from_secs(60);
    let mut watched = Watched::start(config).expect("started");
    let why = watched.until(|event| match event {
        EngineEvent::Ending { why, .. } => Some(why.clone()),
        _ => None,
    });
    assert!(why.contains("of memory, more than it may"), "{why}");
    // It had no ring, so it was asked by SIGTERM, which a shell dies of.
    let cause = died(&mut watched);
    assert!(matches!(cause, DeathCause::Memory { rss_bytes } if rss_bytes > 100_000));
    assert_eq!(watched.started().0, 2);
    watched.shut_down(Duration::ZERO);
}

/// Frames go on, but the game never says that it is ready.
#[test]
fn a_game_that_does_not_become_ready_is_replaced() {
    let site = Site::new(QUITS);
    let mut config = site.config();
    config.policy.ready_timeout = Some(Duration::from_millis(500));
    config.policy.hang_timeout = Duration::from_secs(60);
    config.policy.drain_grace = Duration::from_secs(60);
    let mut watched = Watched::start(config).expect("started");
    let (launch, _) = watched.started();
    let game = connect(&watched, launch);
    eventually("the request", || {
        game.asked_to_quit.load(Ordering::Relaxed).then_some(())
    });
    // It even quits cleanly: that does not make it a success.
    game.goodbye.store(1, Ordering::Relaxed);
    fs::write(site.path().join("go"), "").expect("written");
    assert!(matches!(died(&mut watched), DeathCause::NotReady { .. }));
    assert_eq!(watched.started().0, launch + 1);
    watched.shut_down(Duration::ZERO);
}

#[test]
fn a_game_that_asks_for_it_is_restarted_once_it_is_idle() {
    let site = Site::new(QUITS);
    let mut config = site.config();
    config.policy.hang_timeout = Duration::from_secs(60);
    config.policy.drain_grace = Duration::from_secs(60);
    let mut watched = Watched::start(config).expect("started");
    let (launch, _) = watched.started();
    let game = connect(&watched, launch);
    game.restart_wanted.store(true, Ordering::Relaxed);
    let looks = game.looks.load(Ordering::Relaxed);
    eventually("more looks", || {
        (game.looks.load(Ordering::Relaxed) > looks + 3).then_some(())
    });
    assert!(
        !game.asked_to_quit.load(Ordering::Relaxed),
        "it is not idle"
    );
    game.idle.store(true, Ordering::Relaxed);
    let why = watched.until(|event| match event {
        EngineEvent::Planned { why, .. } => Some(why.clone()),
        _ => None,
    });
    assert_eq!(why, "the game asked for it");
    // It is told first, then done.
    eventually("the request", || {
        game.asked_to_quit.load(Ordering::Relaxed).then_some(())
    });
    game.goodbye.store(1, Ordering::Relaxed);
    fs::write(site.path().join("go"), "").expect("written");
    assert_eq!(died(&mut watched), DeathCause::Clean { exit_code: 0 });
    assert_eq!(watched.started().0, launch + 1);
    watched.shut_down(Duration::ZERO);
}

fn hook(script: &str, timeout: Duration) -> Option<PreStart> {
    Some(PreStart {
        command: ["/bin/sh", "-c", script].map(str::to_owned).to_vec(),
        timeout,
    })
}

#[test]
fn a_command_runs_before_each_start_and_a_failed_one_is_a_failed_start() {
    let site = Site::new("echo engine >> order; exec sleep 600");
    let mut config = site.config();
    // It fails the second time.
    let script = "echo hook >> order; [ $(grep -c hook order) -ne 2 ]";
    config.pre_start = hook(script, Duration::from_secs(60));
    let mut watched = Watched::start(config).expect("started");
    let (_, pid) = watched.started();
    let order = || fs::read_to_string(site.path().join("order")).unwrap_or_default();
    eventually("the engine", || order().contains("engine").then_some(()));
    signal(pid, "KILL");
    watched.started();
    eventually("the next engine", || {
        (order().matches("engine").count() == 2).then_some(())
    });
    assert_eq!(order(), "hook\nengine\nhook\nhook\nengine\n");
    watched.shut_down(GRACE);
}

#[test]
fn a_command_that_takes_too_long_is_killed_and_so_is_one_that_nobody_waits_for() {
    let site = Site::new(SLEEPS);
    let mut config = site.config();
    let script = "echo $$ >> hooks; if [ $(wc -l < hooks) -eq 1 ]; then sleep 600 & wait; fi";
    // The second run is to have time, on a busy machine as well.
    config.pre_start = hook(script, Duration::from_secs(3));
    let mut watched = Watched::start(config).expect("started");
    assert_eq!(watched.started().0, 1);
    assert_eq!(site.numbers("hooks").len(), 2);
    watched.shut_down(GRACE);

    let site = Site::new(SLEEPS);
    let mut config = site.config();
    config.pre_start = hook(
        "echo $$ >> hooks; sleep 600 & wait",
        Duration::from_secs(600),
    );
    let watched = Watched::start(config).expect("started");
    let pid = eventually("the command", || site.numbers("hooks").first().copied());
    assert_eq!(watched.shut_down(GRACE), Ended::Stopped);
    eventually("its end", || (!crate::harness::is_alive(pid)).then_some(()));
    assert!(site.engines().is_empty());
}

/// In a long drain an engine has time, but not to fill the memory, and not to stand still after a crash.
#[test]
fn an_engine_that_grows_or_crashes_while_it_drains_is_ended() {
    let hour = Duration::from_secs(3600);
    let grows = "x=$(head -c 60000000 /dev/zero | tr '\\0' y)";
    let crashes = "echo 'handle_crash: Program crashed with signal 11' >&2";
    for (act, is_connected) in [
        (grows, true),
        (grows, false),
        (crashes, true),
        (crashes, false),
    ] {
        let site = Site::new(&format!(
            "trap '' TERM; echo > up; while [ ! -e go ]; do sleep 0.01; done; rm go; {act}; while :; do sleep 0.05; done"
        ));
        let mut config = site.config();
        config.memory.max_bytes = Some(40_000_000);
        config.policy.hang_timeout = hour;
        config.policy.startup_timeout = hour;
        let mut watched = Watched::start(config).expect("started");
        let (launch, _) = watched.started();
        if is_connected {
            connect(&watched, launch);
        }
        eventually("the engine", || {
            site.path().join("up").exists().then_some(())
        });
        assert!(watched.handle.send(Command::Restart { grace: hour }));
        watched.until(|event| matches!(event, EngineEvent::Stopping { .. }).then_some(()));
        fs::write(site.path().join("go"), "").expect("written");
        let cause = died(&mut watched);
        let is_right = match act == grows {
            true => matches!(cause, DeathCause::Memory { rss_bytes } if rss_bytes > 40_000_000),
            false => cause == DeathCause::CrashLimbo,
        };
        assert!(is_right, "{act}: {cause}");
        assert_eq!(watched.started().0, 2);
        watched.shut_down(Duration::ZERO);
    }
}

/// The crash loop's safe start says so to the engine, and every relaunch where the last death is told.
#[test]
fn a_crash_loop_is_answered_by_one_safe_start() {
    let site = Site::new(
        "echo \"$SIDEKICK_LAUNCH safe=$SIDEKICK_SAFE_START death=${SIDEKICK_LAST_DEATH##*/}\" >> starts; \
         [ -n \"$SIDEKICK_SAFE_START\" ] || exit 3; while :; do sleep 0.05; done",
    );
    let mut config = site.config();
    config.policy.breaker_deaths = 4;
    let mut watched = Watched::start(config).expect("started");
    let deaths = watched.until(|event| match event {
        EngineEvent::SafeStart { deaths } => Some(*deaths),
        _ => None,
    });
    assert_eq!(deaths, 4);
    assert_eq!(watched.started().0, 5);
    let starts = eventually("the safe start", || {
        let text = fs::read_to_string(site.path().join("starts")).ok()?;
        (text.lines().count() == 5).then_some(text)
    });
    let wanted = "1 safe= death=\n2 safe= death=0000000001.json\n3 safe= death=0000000002.json\n\
                  4 safe= death=0000000003.json\n5 safe=1 death=0000000004.json\n";
    assert_eq!(starts, wanted);
    watched.shut_down(GRACE);
}
