//! Watchdogs die, engines live: never two engines, never none.

use std::fs;
use std::process::{Command as Program, Stdio};
use std::time::Duration;

use sidekick_watchdog::event::{DeathCause, EngineEvent};
use sidekick_watchdog::exit::ExitCode;
use sidekick_watchdog::platform::{Process, spawn_other};
use sidekick_watchdog::supervisor::launch::LaunchLocks;
use sidekick_watchdog::supervisor::{Command, Ended};

use crate::harness::{Site, Watched, eventually, is_alive, kill, signal};

/// A process that has nothing to do with any of this.
struct Bystander(std::process::Child);

impl Bystander {
    fn start() -> Self {
        let mut command = Program::new("sleep");
        command
            .arg("1000")
            .stdout(Stdio::null())
            .stderr(Stdio::null());
        let child = spawn_other(&mut command);
        Self(child.expect("started"))
    }
}

impl Drop for Bystander {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

const SLEEPS: &str = "echo $$ >> pids; while :; do sleep 0.05; done";

/// The watchdog is killed; the next one takes the running engine over, and still replaces it when it dies.
#[test]
fn a_killed_watchdogs_engine_is_adopted() {
    let site = Site::new(SLEEPS);
    let mut first = site.watchdog_process();
    let pid = eventually("an engine", || site.numbers("pids").first().copied());
    // The lock's record comes just after the engine's start; its absence is another test.
    eventually("a record", || {
        let record = fs::read_to_string(site.launch_file(1)).ok()?;
        record.contains(&format!("pid={pid}\n")).then_some(())
    });
    first.kill();

    let mut watched = Watched::start(site.config()).expect("started");
    assert_eq!(watched.adopted(), (1, pid));
    assert_eq!(site.engines(), [pid]);
    kill(pid);
    let (incarnation, next) = watched.started();
    assert_eq!(incarnation, 2);
    eventually("one engine", || (site.engines() == [next]).then_some(()));
    watched.shut_down(Duration::from_secs(5));
}

/// Killed between the engine's start and the writing of its pid: the lock is held, the record has no pid.
#[test]
fn an_engine_without_a_recorded_pid_is_found_by_its_lock() {
    let site = Site::new(SLEEPS);
    let mut watched = Watched::start(site.config()).expect("started");
    let (_, pid) = watched.started();
    assert!(watched.handle.send(Command::Detach));
    assert_eq!(watched.handle.join(), Ended::Detached);
    for record in [
        "",
        "version=1\nboot_id=",
        "version=1\nboot_id=x\npid=\nstart_ticks=\nlog=\nend\n",
    ] {
        fs::write(site.launch_file(1), record).expect("written");
        let mut watched = Watched::start(site.config()).expect("started");
        assert_eq!(watched.adopted(), (1, pid), "{record:?}");
        assert!(watched.handle.send(Command::Detach));
        watched.handle.join();
    }
    assert_eq!(site.engines(), [pid]);
}

/// A wrapper around the engine may close every descriptor it does not know, and the lock with them: then the record
/// alone tells that it lives.
#[test]
fn an_engine_that_lost_its_lock_is_found_by_its_record() {
    let site = Site::new("");
    let bystander = Bystander::start();
    let locks = LaunchLocks::new(&site.config().engine.runtime_dir);
    let lock = locks.lock(1, None).expect("made").expect("free");
    let process = Process::open(bystander.0.id(), None).expect("running");
    lock.hand_over(&process).expect("written");
    assert!(locks.is_free(1), "it never had the lock");
    let survey = locks.survey().expect("readable");
    let found: Vec<_> = survey
        .running
        .iter()
        .map(|found| found.process.pid())
        .collect();
    assert_eq!(found, [bystander.0.id()]);
    drop(bystander);
    assert_eq!(locks.survey().expect("readable").over, [1]);
}

/// Somebody cleans up the runtime directory under a living engine, launch lock and all: the data directory knows it too.
#[test]
fn an_engine_whose_runtime_directory_vanished_is_adopted_and_no_second_one_started() {
    let site = Site::new(SLEEPS);
    let mut watched = Watched::start(site.config()).expect("started");
    let (_, pid) = watched.started();
    assert!(watched.handle.send(Command::Detach));
    watched.handle.join();
    fs::remove_dir_all(site.path().join("run")).expect("removed");
    // The folder itself is made by who starts a watchdog.
    let mut watched = Watched::start(site.config()).expect("started");
    match watched.event() {
        EngineEvent::Adopted {
            incarnation: 1,
            pid: adopted,
            ring_lost: true,
            ..
        } => assert_eq!(adopted, pid),
        event => panic!("an adoption without a ring, not {event:?}"),
    }
    assert_eq!(site.engines(), [pid]);
    // Its death is seen as any, and the numbers go on.
    kill(pid);
    let (incarnation, next) = watched.started();
    assert_eq!(incarnation, 2);
    eventually("one engine", || (site.engines() == [next]).then_some(()));
    watched.shut_down(Duration::from_secs(5));
}

/// The runtime directory may also vanish under watchdog and engine both; the next engine starts all the same.
#[test]
fn a_runtime_directory_that_vanishes_under_the_watchdog_is_made_anew() {
    let site = Site::new(SLEEPS);
    let mut watched = Watched::start(site.config()).expect("started");
    let (_, pid) = watched.started();
    // Away at once, whatever is being written into it.
    let run = site.path().join("run");
    fs::rename(&run, run.with_file_name("gone")).expect("renamed");
    kill(pid);
    let (incarnation, next) = watched.started();
    assert_eq!(incarnation, 2);
    eventually("its lock", || site.launch_file(2).exists().then_some(()));
    eventually("one engine", || (site.engines() == [next]).then_some(()));
    watched.shut_down(Duration::from_secs(5));
}

/// The incarnations that have a report, one for each report.
fn reported(site: &Site) -> Vec<u64> {
    let reports = fs::read_dir(site.path().join("data/crashes")).into_iter();
    let mut incarnations: Vec<u64> = reports
        .flatten()
        .map(|entry| entry.expect("an entry").path())
        .filter(|path| {
            path.extension()
                .is_some_and(|extension| extension == "json")
        })
        .map(|path| {
            let text = fs::read_to_string(path).expect("a report");
            let from = text.find("\"incarnation\": ").expect("its number") + 15;
            let digits = text[from..].trim_start().chars();
            let digits: String = digits.take_while(char::is_ascii_digit).collect();
            digits.parse().expect("a number")
        })
        .collect();
    incarnations.sort_unstable();
    incarnations
}

/// A watchdog of its own is killed, and then its engine, the first of this site.
fn die_unwatched(site: &Site) {
    let mut watchdog = site.watchdog_process();
    let pid = eventually("an engine", || site.numbers("pids").first().copied());
    eventually("a record", || {
        let record = fs::read_to_string(site.launch_file(1)).ok()?;
        record.contains(&format!("pid={pid}\n")).then_some(())
    });
    watchdog.kill();
    kill(pid);
    eventually("its end", || (!is_alive(pid)).then_some(()));
}

const SAYS_WHAT_IT_KNOWS: &str = "echo $SIDEKICK_RELAUNCH ${SIDEKICK_LAST_DEATH##*/} >> known; \
                                  echo $$ >> pids; while :; do sleep 0.05; done";

/// The engine dies while no watchdog lives: the next one tells it, once, and so does the engine that it starts know.
#[test]
fn a_death_that_no_watchdog_saw_is_told_by_the_next_one() {
    let site = Site::new(SAYS_WHAT_IT_KNOWS);
    die_unwatched(&site);
    let mut watched = Watched::start(site.config()).expect("started");
    match watched.event() {
        EngineEvent::Died {
            incarnation: 1,
            cause: DeathCause::Unwatched,
            uptime: Some(_),
            ..
        } => {}
        event => panic!("its death, not {event:?}"),
    }
    assert_eq!(watched.started().0, 2);
    let known = eventually("what it knows", || {
        let known = fs::read_to_string(site.path().join("known")).ok()?;
        (known.lines().count() == 2).then_some(known)
    });
    assert_eq!(known, "0\n1 0000000001.json\n");
    eventually("its report", || (reported(&site) == [1]).then_some(()));
    eventually("the note that it is told", || {
        let record = fs::read_to_string(site.launch_file(1)).unwrap_or_default();
        (record.is_empty() || record.contains("told=1\n")).then_some(())
    });
    watched.shut_down(Duration::from_secs(5));
    // Neither that death nor the end that was asked for is told by a third one.
    let mut watched = Watched::start(site.config()).expect("started");
    assert!(matches!(watched.event(), EngineEvent::Started { .. }));
    watched.shut_down(Duration::from_secs(5));
    assert_eq!(reported(&site), [1]);
}

/// The watchdogs that are to tell of it are killed, too, at any moment: one report all the same.
#[test]
fn a_death_that_no_watchdog_saw_is_told_once_however_many_watchdogs_die() {
    let mut random = fastrand::Rng::new();
    let seed = random.get_seed();
    let site = Site::new(SAYS_WHAT_IT_KNOWS);
    die_unwatched(&site);
    for _ in 0..10 {
        let mut watchdog = site.watchdog_process();
        // The moment of the kill, not a wait for anything.
        std::thread::sleep(Duration::from_millis(random.u64(0..300)));
        watchdog.kill();
    }
    let watched = Watched::start(site.config()).expect("started");
    eventually("its report", || (!reported(&site).is_empty()).then_some(()));
    watched.shut_down(Duration::from_secs(5));
    assert_eq!(reported(&site), [1], "seed {seed}");
}

/// The broken variant: the next watchdog knows nothing of launches that are over, as if their files went with their
/// engines. Nobody tells of the death.
#[test]
fn without_the_launch_file_nobody_would_tell_of_the_death() {
    let site = Site::new(SAYS_WHAT_IT_KNOWS);
    die_unwatched(&site);
    fs::remove_file(site.launch_file(1)).expect("removed");
    let mut watched = Watched::start(site.config()).expect("started");
    assert!(matches!(watched.event(), EngineEvent::Started { .. }));
    watched.shut_down(Duration::from_secs(5));
    assert_eq!(reported(&site), Vec::<u64>::new());
}

/// The broken variant of the tests above: without its launch lock and its record the engine is not seen and a second one starts.
/// Shows that the count of engines would catch it.
#[test]
fn without_the_launch_lock_there_would_be_two_engines() {
    let site = Site::new(SLEEPS);
    let mut watched = Watched::start(site.config()).expect("started");
    watched.started();
    assert!(watched.handle.send(Command::Detach));
    watched.handle.join();
    fs::remove_file(site.launch_file(1)).expect("removed");
    fs::remove_file(site.running_file()).expect("removed");
    let mut watched = Watched::start(site.config()).expect("started");
    watched.started();
    eventually("two engines", || (site.engines().len() == 2).then_some(()));
    watched.shut_down(Duration::from_secs(5));
}

/// However two engines came to be: the newest is adopted, the other ended.
#[test]
fn of_two_engines_the_newest_is_adopted_and_the_other_ended() {
    let site = Site::new(SLEEPS);
    let mut pids = Vec::new();
    for launch in [1, 2] {
        let mut watched = Watched::start(site.config()).expect("started");
        pids.push(watched.started());
        assert!(pids[pids.len() - 1].0 >= launch);
        assert!(watched.handle.send(Command::Detach));
        watched.handle.join();
        // Hidden, so that the next watchdog starts another one.
        if launch == 1 {
            eventually("output", || (site.numbers("pids").len() == 1).then_some(()));
            fs::rename(site.launch_file(1), site.path().join("hidden")).expect("moved");
            fs::remove_file(site.running_file()).expect("removed");
        }
    }
    fs::rename(site.path().join("hidden"), site.launch_file(1)).expect("moved");
    eventually("two engines", || (site.engines().len() == 2).then_some(()));
    let mut watched = Watched::start(site.config()).expect("started");
    let (incarnation, pid) = pids[1];
    assert_eq!(watched.adopted(), (incarnation, pid));
    assert_eq!(site.engines(), [pid]);
    watched.shut_down(Duration::from_secs(5));
}

/// A recorded pid that means another process by now is never taken for the engine, nor killed.
#[test]
fn a_pid_that_was_used_again_is_left_alone() {
    let site = Site::new(SLEEPS);
    let bystander = Bystander::start();
    let mut watched = Watched::start(site.config()).expect("started");
    let (_, pid) = watched.started();
    assert!(watched.handle.send(Command::Detach));
    watched.handle.join();
    kill(pid);
    eventually("its end", || (!is_alive(pid)).then_some(()));
    let record = fs::read_to_string(site.launch_file(1)).expect("there");
    // Another process of that number is told by its start time, which here can be the same 10 ms.
    let record: String = record
        .lines()
        .map(|line| match line.split_once('=') {
            Some(("pid", _)) => format!("pid={}\n", bystander.0.id()),
            Some(("start_ticks", _)) => "start_ticks=1\n".to_owned(),
            _ => format!("{line}\n"),
        })
        .collect();
    fs::write(site.launch_file(1), record).expect("written");
    let mut watched = Watched::start(site.config()).expect("started");
    let (incarnation, _) = watched.started();
    assert!(incarnation > 1);
    watched.shut_down(Duration::from_secs(5));
    assert!(is_alive(bystander.0.id()));
}

/// Watchdogs killed at all moments around the engine's start; afterwards there is always exactly one engine.
#[test]
fn a_watchdog_killed_at_any_moment_leaves_at_most_one_engine_and_it_is_adopted() {
    let site = Site::new(SLEEPS);
    for round in 0..40_u64 {
        let mut first = site.watchdog_process();
        std::thread::sleep(Duration::from_micros(round * 397 % 16_000));
        first.kill();
        let mut watched = Watched::start(site.config()).expect("started");
        let pid = watched.until(|event| match event {
            EngineEvent::Adopted { pid, .. } | EngineEvent::Started { pid, .. } => Some(*pid),
            _ => None,
        });
        eventually("one engine", || (site.engines() == [pid]).then_some(()));
        if round % 2 == 0 {
            watched.shut_down(Duration::from_secs(5));
            assert!(site.engines().is_empty());
        } else {
            assert!(watched.handle.send(Command::Detach));
            watched.handle.join();
        }
    }
}

/// Two watchdogs at once on one data directory: one wins and has the engine, the other says why it does not run.
#[test]
fn of_two_watchdogs_exactly_one_wins() {
    for round in 0..50 {
        let site = Site::new(SLEEPS);
        let mut both = [site.watchdog_process(), site.watchdog_process()];
        let (loser, code) = eventually("a loser", || {
            both.iter_mut()
                .enumerate()
                .find_map(|(number, watchdog)| Some((number, watchdog.ended()?)))
        });
        assert_eq!(code, Some(ExitCode::Locked as i32), "round {round}");
        let engine = eventually("an engine", || site.engines().first().copied());
        assert_eq!(site.engines(), [engine]);
        assert_eq!(both[1 - loser].ended(), None, "round {round}");
    }
}

/// An adopted engine is nobody's child here, and how it ended is told all the same; the next start does not wait for it.
#[test]
fn how_an_adopted_engine_ended_is_told() {
    if !tells_exits() {
        eprintln!("SKIPPED: Linux 6.15 or newer is needed");
        return;
    }
    let script = "trap 'exit 42' USR1; echo $$ >> pids; while :; do sleep 0.02; done";
    for (sent, cause) in [
        ("USR1", DeathCause::Exited { exit_code: 42 }),
        (
            "SEGV",
            DeathCause::Signaled {
                signal: 11,
                core_dumped: false,
            },
        ),
    ] {
        let site = Site::new(script);
        let mut first = site.watchdog_process();
        let pid = eventually("an engine", || site.numbers("pids").first().copied());
        first.kill();
        let mut config = site.config();
        config.policy.heartbeat_required = true;
        let mut watched = Watched::start(config).expect("started");
        assert_eq!(watched.adopted(), (1, pid));
        signal(pid, sent);
        let mut next = None;
        let told = watched.until(|event| match event {
            EngineEvent::Started { incarnation, .. } => {
                next = Some(*incarnation);
                None
            }
            EngineEvent::Died {
                incarnation: 1,
                cause,
                ..
            } => Some(match cause {
                DeathCause::Signaled { signal, .. } => DeathCause::Signaled {
                    signal: *signal,
                    core_dumped: false,
                },
                cause => cause.clone(),
            }),
            _ => None,
        });
        assert_eq!(told, cause);
        if next.is_none() {
            assert_eq!(watched.started().0, 2);
        }
        watched.shut_down(Duration::from_secs(5));
    }
}

/// An adopted engine's children are not our descendants. One that left its process group is known by the launch lock, which
/// it inherited.
#[test]
fn children_of_an_adopted_engine_die_with_it() {
    let site = Site::new(
        "sleep 1000 & echo $! >> children; setsid sh -c 'echo $$ >> children; exec sleep 1000' & \
         echo $$ >> pids; while :; do sleep 0.02; done",
    );
    let mut first = site.watchdog_process();
    let pid = eventually("an engine", || site.numbers("pids").first().copied());
    let children = eventually("its children", || {
        let children = site.numbers("children");
        (children.len() == 2).then_some(children)
    });
    first.kill();
    let mut watched = Watched::start(site.config()).expect("started");
    assert_eq!(watched.adopted(), (1, pid));
    assert!(
        children.iter().all(|&child| is_alive(child)),
        "left alone while it lives"
    );
    kill(pid);
    let (_, next) = watched.started();
    eventually("their end", || {
        children.iter().all(|&child| !is_alive(child)).then_some(())
    });
    assert!(is_alive(next));
    let of_next = eventually("the next one's children", || {
        let all = site.numbers("children");
        (all.len() == 4).then(|| all[2..].to_vec())
    });
    assert!(of_next.iter().all(|&child| is_alive(child)));
    watched.shut_down(Duration::from_secs(5));
    eventually("the end of all", || {
        of_next.iter().all(|&child| !is_alive(child)).then_some(())
    });
}

/// Whether this kernel tells anybody how a process ended.
fn tells_exits() -> bool {
    let kernel = fs::read_to_string("/proc/sys/kernel/osrelease").unwrap_or_default();
    let mut numbers = kernel
        .split('.')
        .map(|word| word.parse::<u32>().unwrap_or(0));
    (numbers.next(), numbers.next()) >= (Some(6), Some(15))
}
