//! A second engine waits to take the place of the first: never two that are active, never none.

use std::collections::BTreeMap;
use std::fs;
use std::path::Path;
use std::sync::atomic::Ordering;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use sidekick_watchdog::event::{DeathCause, EngineEvent};
use sidekick_watchdog::supervisor::launch::{Active, ActiveFile};
use sidekick_watchdog::supervisor::pre_start::PreStart;
use sidekick_watchdog::supervisor::{Command, Ended, EngineLink, LinkFinder, SupervisorConfig};

use crate::harness::{FakeLink, Site, Watched, eventually, is_alive, kill};

const SLEEPS: &str =
    "echo \"$SIDEKICK_LAUNCH ${SIDEKICK_STANDBY:-0}\" >> started; while :; do sleep 0.05; done";
const GRACE: Duration = Duration::from_millis(100);

/// A ring for every launch.
#[derive(Clone, Default)]
struct Rings(Arc<Mutex<BTreeMap<u32, Arc<FakeLink>>>>);

impl Rings {
    fn of(&self, launch: u32) -> Arc<FakeLink> {
        let mut rings = self.0.lock().expect("whole");
        let ring = rings.entry(launch).or_insert_with(|| {
            let link = FakeLink::default();
            link.frames.store(1, Ordering::Relaxed);
            Arc::new(link)
        });
        Arc::clone(ring)
    }

    fn finder(&self) -> LinkFinder {
        let rings = self.clone();
        Box::new(move |launch| Some(rings.of(launch) as Arc<dyn EngineLink>))
    }

    fn park(&self, launch: u32) {
        self.of(launch).parked.store(true, Ordering::Relaxed);
    }

    fn activated(&self, launch: u32) -> u64 {
        self.of(launch).activated.load(Ordering::Relaxed)
    }
}

fn config(site: &Site) -> SupervisorConfig {
    let mut config = site.config();
    config.standby = true;
    config.policy.hang_timeout = Duration::from_secs(60);
    config
}

fn start(site: &Site, rings: &Rings) -> Watched {
    Watched::start_with(config(site), Some(rings.finder())).expect("started")
}

fn connect(watched: &Watched, rings: &Rings, launch: u32) {
    let link = rings.of(launch);
    assert!(watched.handle.send(Command::Connected { launch, link }));
}

fn standby(watched: &mut Watched) -> (u32, u32, bool) {
    watched.until(|event| match event {
        EngineEvent::StandbyStarted {
            incarnation,
            pid,
            adopted,
        } => Some((*incarnation, *pid, *adopted)),
        _ => None,
    })
}

fn parked(watched: &mut Watched) -> u32 {
    watched.until(|event| match event {
        EngineEvent::StandbyParked { incarnation, .. } => Some(*incarnation),
        _ => None,
    })
}

/// The next start: incarnation, pid, whether it was the standby.
fn promoted(watched: &mut Watched) -> (u32, u32, bool) {
    watched.until(|event| match event {
        EngineEvent::Started {
            incarnation,
            pid,
            standby,
            ..
        } => Some((*incarnation, *pid, *standby)),
        _ => None,
    })
}

/// A site with engine 1 and its parked standby 2.
fn pair(rings: &Rings) -> (Site, Watched, u32, u32) {
    let site = Site::new(SLEEPS);
    let mut watched = start(&site, rings);
    let (launch, engine) = watched.started();
    assert_eq!(launch, 1);
    connect(&watched, rings, 1);
    let (launch, pid, adopted) = standby(&mut watched);
    assert_eq!((launch, adopted), (2, false));
    rings.park(2);
    assert_eq!(parked(&mut watched), 2);
    (site, watched, engine, pid)
}

fn active(site: &Site) -> Option<Active> {
    ActiveFile::new(&site.path().join("run")).read()
}

fn same(mut found: Vec<u32>, mut expected: Vec<u32>) -> Option<()> {
    found.sort_unstable();
    expected.sort_unstable();
    (found == expected).then_some(())
}

#[test]
fn the_standby_takes_the_place_of_a_killed_engine_and_is_followed_by_another() {
    let rings = Rings::default();
    let (site, mut watched, engine, waiting) = pair(&rings);
    assert_eq!(active(&site).map(|active| active.launch), Some(1));
    assert_eq!(rings.activated(2), 0);
    kill(engine);
    assert_eq!(promoted(&mut watched), (2, waiting, true));
    assert_eq!(rings.activated(2), 2);
    let active = active(&site).expect("noted");
    assert_eq!((active.launch, active.is_relaunch), (2, true));
    assert!(active.last_death.is_some());
    let (launch, next, _) = standby(&mut watched);
    assert_eq!(launch, 3);
    eventually("two engines", || same(site.engines(), vec![waiting, next]));
    // Each process writes its line some time after it exists.
    eventually("three lines", || {
        let started = fs::read_to_string(site.path().join("started")).expect("written");
        (started == "1 0\n2 1\n3 1\n").then_some(())
    });
    // That one dies as well before its standby is parked: which is still no worse than a cold start.
    kill(waiting);
    assert_eq!(promoted(&mut watched), (3, next, true));
    // And again at once, with none there: a cold start.
    kill(next);
    let (launch, cold, was_standby) = promoted(&mut watched);
    assert_eq!((launch, was_standby), (4, false));
    eventually("one engine", || same(site.engines(), vec![cold]));
    assert_eq!(watched.shut_down(Duration::from_secs(5)), Ended::Stopped);
    assert!(site.engines().is_empty());
}

#[test]
fn a_standby_that_dies_is_replaced_quietly() {
    let rings = Rings::default();
    let (site, mut watched, engine, waiting) = pair(&rings);
    kill(waiting);
    let (launch, next) = watched.until(|event| match event {
        EngineEvent::StandbyStarted {
            incarnation, pid, ..
        } => Some((*incarnation, *pid)),
        EngineEvent::StandbyEnded {
            incarnation, retry, ..
        } => {
            assert_eq!((*incarnation, *retry), (2, Some(Duration::from_secs(1))));
            None
        }
        event => panic!("nothing else happens, not {event:?}"),
    });
    assert_eq!(launch, 3);
    eventually("two engines", || same(site.engines(), vec![engine, next]));
    let report = site.path().join("run/deaths/0000000002.json");
    let report = eventually("its report", || fs::read_to_string(&report).ok());
    assert!(report.contains("\"standby\": true") || report.contains("\"standby\":true"));
    watched.shut_down(Duration::from_secs(5));
    assert!(site.engines().is_empty());
}

/// It beats no more while it waits: it is killed, and the engine plays on.
#[test]
fn a_standby_that_hangs_is_replaced_quietly() {
    let rings = Rings::default();
    let site = Site::new(SLEEPS);
    let mut config = config(&site);
    config.policy.hang_timeout = Duration::from_millis(300);
    let mut watched = Watched::start_with(config, Some(rings.finder())).expect("started");
    let (_, engine) = watched.started();
    for launch in [1, 3] {
        rings.of(launch).beats.store(true, Ordering::Relaxed);
    }
    connect(&watched, &rings, 1);
    let (_, waiting, _) = standby(&mut watched);
    rings.park(2);
    let cause = watched.until(|event| match event {
        EngineEvent::StandbyEnded { pid, cause, .. } => {
            assert_eq!(*pid, waiting);
            Some(cause.clone())
        }
        EngineEvent::Hung { .. } | EngineEvent::Died { .. } => panic!("undisturbed, not {event:?}"),
        _ => None,
    });
    assert!(matches!(cause, DeathCause::Hung { .. }), "{cause}");
    let (launch, next, _) = standby(&mut watched);
    assert_eq!(launch, 3);
    eventually("two engines", || same(site.engines(), vec![engine, next]));
    watched.shut_down(GRACE);
}

#[test]
fn a_stop_ends_both_and_a_start_begins_cold() {
    let rings = Rings::default();
    let (site, mut watched, ..) = pair(&rings);
    assert!(watched.handle.send(Command::Stop { grace: GRACE }));
    watched.until(|event| matches!(event, EngineEvent::Stopped { asked: true }).then_some(()));
    eventually("no engine", || same(site.engines(), vec![]));
    assert!(watched.handle.send(Command::Start));
    let (launch, _, was_standby) = promoted(&mut watched);
    assert_eq!((launch, was_standby), (3, false));
    assert_eq!(watched.shut_down(GRACE), Ended::Stopped);
}

#[test]
fn a_safe_start_is_a_cold_one() {
    let rings = Rings::default();
    let site = Site::new(SLEEPS);
    let mut config = config(&site);
    config.policy.breaker_deaths = 1;
    config.policy.safe_start = true;
    let mut watched = Watched::start_with(config, Some(rings.finder())).expect("started");
    let (_, engine) = watched.started();
    connect(&watched, &rings, 1);
    let (_, waiting, _) = standby(&mut watched);
    kill(engine);
    let (launch, pid, was_standby) = promoted(&mut watched);
    assert_eq!((launch, was_standby), (3, false));
    eventually("one engine", || same(site.engines(), vec![pid]));
    assert!(!is_alive(waiting));
    watched.shut_down(GRACE);
}

/// The new one is booted before the old one is asked to quit.
#[test]
fn a_restart_goes_by_way_of_a_fresh_standby() {
    let rings = Rings::default();
    let (site, mut watched, engine, stale) = pair(&rings);
    assert!(watched.handle.send(Command::Restart { grace: GRACE }));
    let (launch, fresh, _) = standby(&mut watched);
    assert_eq!(launch, 3);
    assert!(!is_alive(stale), "it was of the old program");
    assert!(!rings.of(1).asked_to_quit.load(Ordering::Relaxed));
    assert!(is_alive(engine));
    rings.park(3);
    assert_eq!(promoted(&mut watched), (3, fresh, true));
    assert!(rings.of(1).asked_to_quit.load(Ordering::Relaxed));
    assert_eq!(rings.activated(3), 3);
    assert!(!is_alive(engine));
    watched.shut_down(GRACE);
    assert!(site.engines().is_empty());
}

/// Before an engine's and before a standby's boot, and not when that takes over.
#[test]
fn the_command_before_a_start_runs_once_for_each_boot() {
    let rings = Rings::default();
    let site = Site::new(SLEEPS);
    let hooks = |expected: &str| {
        let text = fs::read_to_string(site.path().join("hooks"));
        (text.ok().as_deref() == Some(expected)).then_some(())
    };
    let mut config = config(&site);
    config.pre_start = hook(&site, "echo hook >> hooks; [ ! -e fails ]");
    let mut watched = Watched::start_with(config, Some(rings.finder())).expect("started");
    let (_, engine) = watched.started();
    eventually("one run", || hooks("hook\n"));
    // One that fails leaves the engine alone, and is tried again.
    fs::write(site.path().join("fails"), "").expect("written");
    connect(&watched, &rings, 1);
    eventually("another run", || hooks("hook\nhook\n"));
    fs::remove_file(site.path().join("fails")).expect("there");
    let (launch, waiting, _) = standby(&mut watched);
    assert_eq!(launch, 2);
    assert!(hooks("hook\nhook\nhook\n").is_some());
    eventually("two engines", || {
        same(site.engines(), vec![engine, waiting])
    });
    fs::write(site.path().join("fails"), "").expect("written");
    kill(engine);
    // With it there would be no start.
    assert_eq!(promoted(&mut watched), (2, waiting, true));
    watched.shut_down(Duration::from_secs(5));
    assert!(site.engines().is_empty());
}

/// The engine dies while the command runs that is to come before a standby: one run is enough for the start that follows.
#[test]
fn a_cold_start_goes_on_with_the_command_that_runs_for_a_standby() {
    let rings = Rings::default();
    let site = Site::new(SLEEPS);
    let runs = || fs::read_to_string(site.path().join("hooks")).unwrap_or_default();
    let mut config = config(&site);
    let script = "echo hook >> hooks; while [ -e waits ]; do sleep 0.01; done";
    config.pre_start = hook(&site, script);
    let mut watched = Watched::start_with(config, Some(rings.finder())).expect("started");
    let (_, engine) = watched.started();
    fs::write(site.path().join("waits"), "").expect("written");
    connect(&watched, &rings, 1);
    eventually("the run for a standby", || {
        (runs() == "hook\nhook\n").then_some(())
    });
    kill(engine);
    watched.until(|event| matches!(event, EngineEvent::Died { .. }).then_some(()));
    fs::remove_file(site.path().join("waits")).expect("there");
    let (launch, pid, was_standby) = promoted(&mut watched);
    assert_eq!((launch, was_standby), (2, false));
    eventually("one engine", || same(site.engines(), vec![pid]));
    assert_eq!(runs(), "hook\nhook\n");
    // And one that is not waited for any more ends.
    fs::write(site.path().join("waits"), "").expect("written");
    connect(&watched, &rings, 2);
    eventually("the run for the next standby", || {
        (runs() == "hook\nhook\nhook\n").then_some(())
    });
    assert_eq!(watched.shut_down(GRACE), Ended::Stopped);
    assert!(site.engines().is_empty());
}

fn hook(site: &Site, script: &str) -> Option<PreStart> {
    let script = format!("cd '{}'; {script}", site.path().display());
    Some(PreStart {
        command: vec!["sh".into(), "-c".into(), script],
        timeout: Duration::from_secs(60),
    })
}

/// What a watchdog finds that comes after one that was killed somewhere between a death and the end of a promotion.
#[derive(Clone, Copy, Debug, PartialEq)]
enum Killed {
    /// Nothing has happened.
    Before,
    /// The engine is dead, nothing is decided.
    BeforeTheWord,
    /// The standby is the engine by the word that decides; its ring does not say so.
    AfterTheWord,
    /// The same, and the old engine lives (it should not).
    AfterTheWordTooEarly,
    /// The ring says so too; nobody was told.
    AfterTheRing,
}

#[test]
fn after_a_kill_at_any_step_of_a_promotion_one_engine_is_active() {
    for step in [
        Killed::Before,
        Killed::BeforeTheWord,
        Killed::AfterTheWord,
        Killed::AfterTheWordTooEarly,
        Killed::AfterTheRing,
    ] {
        let rings = Rings::default();
        let (site, watched, engine, waiting) = pair(&rings);
        assert!(watched.handle.send(Command::Detach));
        assert_eq!(watched.handle.join(), Ended::Detached);
        assert!(is_alive(engine) && is_alive(waiting), "{step:?}");
        if !matches!(step, Killed::Before | Killed::AfterTheWordTooEarly) {
            kill(engine);
            eventually("its death", || (!is_alive(engine)).then_some(()));
        }
        if !matches!(step, Killed::Before | Killed::BeforeTheWord) {
            decide(site.path(), 2);
        }
        if step == Killed::AfterTheRing {
            rings.of(2).activate(2);
        }
        let mut watched = start(&site, &rings);
        let expected = match step {
            Killed::Before => {
                assert_eq!(standby(&mut watched), (2, waiting, true), "{step:?}");
                assert_eq!(watched.adopted(), (1, engine));
                (1, engine)
            }
            Killed::BeforeTheWord => {
                assert_eq!(promoted(&mut watched), (2, waiting, true));
                (2, waiting)
            }
            Killed::AfterTheWord | Killed::AfterTheWordTooEarly | Killed::AfterTheRing => {
                let adopted = watched.until(|event| match event {
                    EngineEvent::Adopted {
                        incarnation, pid, ..
                    } => Some((*incarnation, *pid)),
                    _ => None,
                });
                assert_eq!(adopted, (2, waiting), "{step:?}");
                (2, waiting)
            }
        };
        let found = active(&site).map(|active| active.launch);
        assert_eq!(found, Some(expected.0), "{step:?}");
        let is_promoted = expected.0 == 2;
        assert_eq!(rings.activated(2), 2 * u64::from(is_promoted), "{step:?}");
        assert_eq!(is_alive(engine), step == Killed::Before, "{step:?}");
        // From here on it goes on as ever.
        kill(expected.1);
        let (launch, pid, _) = promoted(&mut watched);
        assert!(launch > expected.0 && is_alive(pid), "{step:?}");
        watched.shut_down(GRACE);
        assert!(site.engines().is_empty(), "{step:?}");
    }
}

fn decide(site: &Path, launch: u32) {
    let active = Active {
        launch,
        is_relaunch: true,
        last_death: None,
    };
    let file = ActiveFile::new(&site.join("run"));
    file.write(&active).expect("written");
}

#[test]
fn without_a_standby_configured_an_earlier_one_is_ended_and_its_word_goes() {
    let rings = Rings::default();
    let (site, watched, engine, waiting) = pair(&rings);
    assert!(watched.handle.send(Command::Detach));
    watched.handle.join();
    let mut config = config(&site);
    config.standby = false;
    let mut watched = Watched::start_with(config, Some(rings.finder())).expect("started");
    assert_eq!(watched.adopted(), (1, engine));
    assert!(!is_alive(waiting));
    assert_eq!(active(&site), None);
    kill(engine);
    let (launch, _, was_standby) = promoted(&mut watched);
    assert_eq!((launch, was_standby), (3, false));
    assert_eq!(active(&site), None);
    watched.shut_down(GRACE);
}
