//! Start, death, relaunch, stop.

use std::fs;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

use sidekick_watchdog::event::{DeathCause, EngineEvent};
use sidekick_watchdog::exit::ExitCode;
use sidekick_watchdog::supervisor::machine::RestartPolicy;
use sidekick_watchdog::supervisor::pre_start::PreStart;
use sidekick_watchdog::supervisor::{Command, Ended, NoMoreStarts};

use crate::harness::{Site, Watched, eventually, is_alive, kill, link, signal};

const SLEEPS: &str = "echo up; while :; do sleep 0.05; done";

/// Kills the engine three times and looks that each time one new process takes its place, with the next number.
#[test]
fn a_killed_engine_is_replaced_and_its_cause_told() {
    let site = Site::new(SLEEPS);
    let mut watched = Watched::start(site.config()).expect("started");
    let (mut incarnation, mut pid) = watched.started();
    assert_eq!(incarnation, 1);
    for _ in 0..3 {
        kill(pid);
        let cause = watched.until(|event| match event {
            EngineEvent::Died {
                cause, pid: died, ..
            } => Some((cause.clone(), *died)),
            _ => None,
        });
        let killed = DeathCause::Signaled {
            signal: 9,
            core_dumped: false,
        };
        assert_eq!(cause, (killed, pid));
        let next = watched.started();
        assert_eq!(next.0, incarnation + 1);
        (incarnation, pid) = next;
        eventually("one engine", || (site.engines() == [pid]).then_some(()));
    }
    assert_eq!(watched.shut_down(Duration::from_secs(5)), Ended::Stopped);
    assert!(site.engines().is_empty());
}

/// Exits with 0 (success, so it stays down) and with 3 (failure, so it is started again).
#[test]
fn the_restart_policy_looks_at_how_the_engine_ended() {
    let site = Site::new("exit 0");
    let mut watched = Watched::start(site.config()).expect("started");
    let cause = watched.until(|event| match event {
        EngineEvent::Died { cause, .. } => Some(cause.clone()),
        _ => None,
    });
    assert_eq!(cause, DeathCause::Exited { exit_code: 0 });
    assert_eq!(watched.event(), EngineEvent::Stopped { asked: false });
    assert!(watched.handle.send(Command::Start));
    assert_eq!(watched.started().0, 2);
    watched.shut_down(Duration::from_secs(5));

    let site = Site::new("exit 3");
    let mut watched = Watched::start(site.config()).expect("started");
    for incarnation in 1..=3 {
        assert_eq!(watched.started().0, incarnation);
    }
    watched.shut_down(Duration::from_secs(5));

    let site = Site::new("exit 3");
    let mut config = site.config();
    config.policy.restart = RestartPolicy::Never;
    let mut watched = Watched::start(config).expect("started");
    watched.until(|event| matches!(event, EngineEvent::Stopped { asked: false }).then_some(()));
    watched.shut_down(Duration::from_secs(5));
}

/// A ring that was attached decides what is clean, not the exit code.
#[test]
fn an_exit_code_of_zero_without_a_goodbye_is_no_clean_end() {
    let site = Site::new("while [ ! -e go ]; do sleep 0.01; done; rm go; exit 0");
    let mut watched = Watched::start(site.config()).expect("started");
    for goodbye in [0, 1] {
        let (launch, _) = watched.started();
        let link = link();
        link.goodbye.store(goodbye, Ordering::Relaxed);
        assert!(watched.handle.send(Command::Connected { launch, link }));
        watched.until(|event| matches!(event, EngineEvent::Connected { .. }).then_some(()));
        fs::write(site.path().join("go"), "").expect("written");
        let cause = watched.until(|event| match event {
            EngineEvent::Died { cause, .. } => Some(cause.clone()),
            _ => None,
        });
        if goodbye == 0 {
            assert_eq!(cause, DeathCause::Exited { exit_code: 0 });
        } else {
            assert_eq!(cause, DeathCause::Clean { exit_code: 0 });
        }
    }
    assert_eq!(watched.event(), EngineEvent::Stopped { asked: false });
    watched.shut_down(Duration::from_secs(5));
}

/// The engine ignores SIGTERM; after the grace it and its children are killed.
#[test]
fn an_engine_that_does_not_quit_is_killed_after_its_grace_with_its_children() {
    let site = Site::new(
        "trap '' TERM; sh -c 'echo $$ > child; while :; do sleep 0.05; done' & echo $$ > up; while :; do sleep 0.05; done",
    );
    let mut watched = Watched::start(site.config()).expect("started");
    watched.started();
    let child = eventually("a child", || site.numbers("child").first().copied());
    eventually("the trap", || site.path().join("up").exists().then_some(()));
    let asked_at = Instant::now();
    let grace = Duration::from_millis(300);
    assert!(watched.handle.send(Command::Stop { grace }));
    let cause = watched.until(|event| match event {
        EngineEvent::Died { cause, .. } => Some(cause.clone()),
        _ => None,
    });
    assert_eq!(cause, DeathCause::StopTimeout);
    assert!(asked_at.elapsed() >= grace);
    eventually("the child's end", || (!is_alive(child)).then_some(()));
    assert_eq!(watched.event(), EngineEvent::Stopped { asked: true });
    assert_eq!(watched.shut_down(Duration::ZERO), Ended::Stopped);
}

/// An operator's stop that outlived the watchdog: nothing is started, what runs is ended, and `Start` starts.
#[test]
fn a_held_supervisor_starts_nothing_until_told_and_ends_what_runs() {
    let site = Site::new("trap 'exit 0' TERM; while :; do sleep 0.01; done");
    let hold = Some(Duration::from_secs(5));
    let mut config = site.config();
    config.hold = hold;
    let mut watched = Watched::start(config).expect("started");
    assert_eq!(watched.event(), EngineEvent::Stopped { asked: true });
    assert!(site.engines().is_empty());
    assert!(watched.handle.send(Command::Start));
    let (incarnation, pid) = watched.started();
    assert!(watched.handle.send(Command::Detach));
    watched.handle.join();

    let mut config = site.config();
    config.hold = hold;
    let mut watched = Watched::start(config).expect("started");
    assert_eq!(watched.adopted(), (incarnation, pid));
    watched.until(|event| matches!(event, EngineEvent::Stopped { asked: true }).then_some(()));
    assert!(!is_alive(pid));
    watched.shut_down(Duration::from_secs(5));
}

/// A child in the engine's process group does not outlive it, however the engine died.
#[test]
fn children_die_with_the_engine() {
    let site = Site::new(
        "sh -c 'echo $$ >> child; while :; do sleep 0.05; done' & while :; do sleep 0.05; done",
    );
    let mut watched = Watched::start(site.config()).expect("started");
    let (_, pid) = watched.started();
    let child = eventually("a child", || site.numbers("child").first().copied());
    kill(pid);
    watched.started();
    eventually("the child's end", || (!is_alive(child)).then_some(()));
    watched.shut_down(Duration::from_secs(5));
}

/// A child that left the group still holds the launch lock, and is found and ended by that.
#[test]
fn children_that_left_the_process_group_die_too() {
    let site = Site::new(
        "setsid sh -c 'echo $$ >> child; while :; do sleep 0.05; done' & while :; do sleep 0.05; done",
    );
    let mut watched = Watched::start(site.config()).expect("started");
    let (_, pid) = watched.started();
    let child = eventually("a child", || site.numbers("child").first().copied());
    kill(pid);
    watched.started();
    eventually("the child's end", || (!is_alive(child)).then_some(()));
    // The same at the end of it all.
    let child = eventually("another child", || site.numbers("child").get(1).copied());
    watched.shut_down(Duration::from_secs(5));
    eventually("the child's end", || (!is_alive(child)).then_some(()));
}

/// With a ring, the game is asked through it, and no signal is sent.
#[test]
fn a_connected_engine_is_asked_to_quit_through_its_ring() {
    let site = Site::new(
        "trap 'echo 1 > terminated' TERM; while [ ! -e go ]; do sleep 0.01; done; exit 0",
    );
    let mut config = site.config();
    config.policy.hang_timeout = Duration::from_secs(60);
    let mut watched = Watched::start(config).expect("started");
    let (launch, _) = watched.started();
    let link = link();
    let handed = Arc::clone(&link);
    assert!(watched.handle.send(Command::Connected {
        launch,
        link: handed
    }));
    link.frames.store(1, Ordering::Relaxed);
    link.ready.store(true, Ordering::Relaxed);
    watched.until(|event| matches!(event, EngineEvent::Ready { .. }).then_some(()));
    assert!(watched.handle.send(Command::Shutdown {
        grace: Duration::from_secs(10)
    }));
    eventually("the request", || {
        link.asked_to_quit.load(Ordering::Relaxed).then_some(())
    });
    link.goodbye.store(1, Ordering::Relaxed);
    fs::write(site.path().join("go"), "").expect("written");
    let cause = watched.until(|event| match event {
        EngineEvent::Died { cause, .. } => Some(cause.clone()),
        _ => None,
    });
    assert_eq!(cause, DeathCause::Clean { exit_code: 0 });
    assert_eq!(watched.handle.join(), Ended::Stopped);
    assert!(!site.path().join("terminated").exists());
}

/// The frame counter stands still: the engine is ended, and the cause says how long it was silent.
#[test]
fn an_engine_whose_frames_stand_still_is_ended() {
    let site = Site::new(SLEEPS);
    let begun = Instant::now();
    let mut watched = Watched::start(site.config()).expect("started");
    let (launch, pid) = watched.started();
    let link = link();
    link.frames.store(1, Ordering::Relaxed);
    assert!(watched.handle.send(Command::Connected { launch, link }));
    let silent = watched.until(|event| match event {
        EngineEvent::Died {
            cause: DeathCause::Hung { silent, .. },
            ..
        } => Some(*silent),
        _ => None,
    });
    assert!(silent >= Duration::from_millis(300));
    // The time since its last frame, not since the machine's start.
    assert!(silent <= begun.elapsed(), "{silent:?}");
    eventually("its end", || (!is_alive(pid)).then_some(()));
    assert_eq!(watched.started().0, launch + 1);
    watched.shut_down(Duration::from_secs(5));
}

/// A game that calls itself ready before its first frame, plays, and hangs: its silence counts from that frame on, not
/// from the end of the time that a start may take. From then on it is told to run.
#[test]
fn an_engine_that_is_ready_before_its_first_frame_is_watched() {
    let site = Site::new(SLEEPS);
    let mut watched = Watched::start(site.config()).expect("started");
    let (launch, _) = watched.started();
    let link = link();
    link.ready.store(true, Ordering::Relaxed);
    let playing = Arc::clone(&link);
    assert!(watched.handle.send(Command::Connected {
        launch,
        link: playing
    }));
    let in_main_loop = watched.until(|event| match event {
        EngineEvent::Connected { in_main_loop, .. } => Some(*in_main_loop),
        _ => None,
    });
    assert!(!in_main_loop);
    let looks = link.looks.load(Ordering::Relaxed);
    eventually("a look at the heartbeat", || {
        (link.looks.load(Ordering::Relaxed) > looks).then_some(())
    });
    link.frames.store(1, Ordering::Relaxed);
    let told = watched.until(|event| match event {
        EngineEvent::Running { .. } => Some(true),
        EngineEvent::Ready { .. } | EngineEvent::Hung { .. } => Some(false),
        _ => None,
    });
    assert!(told, "it was told to run first");
    watched.until(|event| matches!(event, EngineEvent::Hung { .. }).then_some(()));
    watched.shut_down(Duration::from_secs(5));
}

/// SIGSTOP also stops the frames; a stopped process takes no signal but SIGKILL.
#[test]
fn a_stopped_engine_is_killed() {
    let site = Site::new(SLEEPS);
    let mut watched = Watched::start(site.config()).expect("started");
    let (launch, pid) = watched.started();
    let link = link();
    let beating = Arc::clone(&link);
    assert!(watched.handle.send(Command::Connected {
        launch,
        link: beating
    }));
    link.frames.store(1, Ordering::Relaxed);
    signal(pid, "STOP");
    watched.until(|event| {
        matches!(
            event,
            EngineEvent::Died {
                cause: DeathCause::Hung { .. },
                ..
            }
        )
        .then_some(())
    });
    assert!(!is_alive(pid));
    watched.shut_down(Duration::from_secs(5));
}

/// Output of both streams is in the file and in memory, with incarnation and level.
#[test]
fn output_is_kept_line_by_line() {
    let site = Site::new(
        "echo out $SIDEKICK_LAUNCH; echo 'SCRIPT ERROR: bad' >&2; printf unfinished; sleep 0.05; exit 3",
    );
    let mut watched = Watched::start(site.config()).expect("started");
    while watched.started().0 < 3 {}
    let log = watched.handle.log();
    for incarnation in [1, 2] {
        let texts = eventually("three lines", || {
            let lines = log.last_lines(Some(incarnation));
            (lines.len() == 3).then_some(lines)
        });
        let texts: Vec<_> = texts.iter().map(|line| line.text.as_str()).collect();
        assert_eq!(
            texts,
            [
                format!("out {incarnation}").as_str(),
                "SCRIPT ERROR: bad",
                "unfinished"
            ]
        );
    }
    watched.shut_down(Duration::from_secs(5));
}

/// Each way in which a command cannot be started is told with cause and remedy, and with the documented exit code.
#[test]
fn a_command_that_cannot_be_started_is_explained() {
    let site = Site::new("");
    let no_program = site.path().join("data-file");
    fs::write(&no_program, "text").expect("written");
    let missing_dir = site.path().join("nowhere");
    let cases: [(&[&str], Option<&std::path::Path>, &str); 5] = [
        (&["/no/such/engine"], None, "correct the path"),
        (&["no-such-engine-anywhere"], None, "install it"),
        (&[no_program.to_str().expect("UTF-8")], None, "chmod +x"),
        (&["/bin/sh"], Some(&missing_dir), "working_dir"),
        (&[], None, "set [engine] command"),
    ];
    for (command, working_dir, remedy) in cases {
        let mut config = site.config();
        config.engine.command = command.iter().map(|&word| word.to_owned()).collect();
        if let Some(dir) = working_dir {
            config.engine.working_dir = Some(dir.to_owned());
        }
        let Err(error) = Watched::start(config) else {
            panic!("{command:?} was started");
        };
        assert_eq!(error.exit_code(), ExitCode::CannotSpawn);
        assert!(error.to_string().contains(remedy), "{error}");
    }
}

/// What the engine is told by its environment, and what it is not told.
#[test]
fn the_engine_gets_its_own_environment_only() {
    let site = Site::new("env > seen; exit 0");
    let mut config = site.config();
    config
        .engine
        .env
        .push(("GAME_MODE".to_owned(), "arena".to_owned()));
    let mut watched = Watched::start(config).expect("started");
    watched.until(|event| matches!(event, EngineEvent::Stopped { asked: false }).then_some(()));
    let seen = fs::read_to_string(site.path().join("seen")).expect("written");
    for wanted in [
        "GAME_MODE=arena",
        "SIDEKICK_LAUNCH=1",
        "SIDEKICK_INCARNATION=1",
        "SIDEKICK_RELAUNCH=0",
        "SIDEKICK_SOURCE=test",
        "SIDEKICK_RING_SIZE=1048576",
        "SIDEKICK_RING_WHEN_FULL=spill",
        "SIDEKICK_RING_BLOCK_MAX_US=100",
        "SIDEKICK_SPILL_MAX=1048576",
    ] {
        assert!(
            seen.lines().any(|line| line == wanted),
            "{wanted} in {seen}"
        );
    }
    watched.shut_down(Duration::from_secs(5));
}

/// A clean stop, then another watchdog: the numbers go on, and the new engine is no relaunch.
#[test]
fn numbers_go_on_and_a_clean_stop_is_remembered() {
    let site = Site::new(
        "echo $SIDEKICK_LAUNCH >> launches; echo $SIDEKICK_RELAUNCH >> relaunches; while :; do sleep 0.05; done",
    );
    for round in 1..=3 {
        let mut watched = Watched::start(site.config()).expect("started");
        watched.started();
        eventually("a line", || {
            (site.numbers("relaunches").len() == round).then_some(())
        });
        watched.shut_down(Duration::from_secs(5));
    }
    assert_eq!(site.numbers("launches"), [1, 2, 3]);
    assert_eq!(site.numbers("relaunches"), [0, 0, 0]);
}

/// Asked to end at the moment of a death, or of the first start: the command that says so comes later.
#[test]
fn who_is_asked_to_end_starts_nothing() {
    for pre_start in [false, true] {
        let site = Site::new(SLEEPS);
        let no_more_starts = NoMoreStarts::default();
        let config = || {
            let mut config = site.config();
            config.pre_start = pre_start.then(|| PreStart {
                command: vec!["/bin/true".to_owned()],
                timeout: Duration::from_secs(5),
            });
            config.no_more_starts = no_more_starts.clone();
            config
        };
        let mut watched = Watched::start(config()).expect("started");
        let (_, pid) = watched.started();
        no_more_starts.set();
        kill(pid);
        watched.until(|event| match event {
            EngineEvent::Started { .. } => panic!("{event:?}"),
            EngineEvent::Stopped { asked: true } => Some(()),
            _ => None,
        });
        assert_eq!(watched.shut_down(Duration::from_secs(5)), Ended::Stopped);
        assert!(site.engines().is_empty());

        let mut watched = Watched::start(config()).expect("no error");
        watched.until(|event| match event {
            EngineEvent::Started { .. } => panic!("{event:?}"),
            EngineEvent::Stopped { asked: true } => Some(()),
            _ => None,
        });
        assert_eq!(watched.shut_down(Duration::from_secs(5)), Ended::Stopped);
        assert!(site.engines().is_empty());
    }
}
