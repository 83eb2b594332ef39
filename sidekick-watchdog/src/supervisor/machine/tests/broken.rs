//! The rules that keep a server up, each as a check that is held against the machine and against one that lacks the rule:
//! a check that finds nothing wrong with the latter proves nothing of the former.

use super::*;

/// The longest stall that a game can announce.
const STALL_MAX: Duration = Duration::from_secs(3600);

/// A machine that lacks a rule.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Broken {
    /// Nobody is killed.
    NoKill,
    /// A hung engine is killed without its backtrace.
    NoEvidence,
    /// A fresh stamp is life, though the frame counter stands still.
    BelievesStamps,
    /// Who crashed and does not end is waited for.
    NoLimbo,
    /// Each line after a banner tells of the crash anew, whatever frames have passed since.
    HeedsLines,
    /// Nothing is a crash loop.
    NoBreaker,
    /// A crash loop is left to a human.
    GivesUp,
    /// An engine that is found running is not taken for one.
    NoAdoption,
    /// What a game announces before its first frame counts from the machine's start.
    CountsFromBoot,
}

impl Broken {
    pub(super) fn policy(self, policy: Policy) -> Policy {
        match self {
            Self::NoBreaker => Policy {
                breaker_deaths: u32::MAX,
                ..policy
            },
            Self::GivesUp => Policy {
                give_up_after: Some(policy.breaker_deaths + 1),
                ..policy
            },
            _ => policy,
        }
    }

    /// What the machine gets to know of an event.
    pub(super) fn event(self, event: Event, now: Duration) -> Option<Event> {
        match (self, event) {
            (Self::NoLimbo, Event::Crashing { .. }) => None,
            (Self::HeedsLines, Event::Crashing { last_output, .. }) => Some(crashing(last_output)),
            (Self::NoAdoption, Event::Adopted { .. }) => Some(Event::Start),
            (Self::BelievesStamps, Event::Beat(beat)) => {
                let frames = u64::try_from(now.as_millis()).unwrap_or(u64::MAX);
                Some(Event::Beat(Beat { frames, ..beat }))
            }
            // The stall's end on the clock, less the last frame's stamp: there was none, so it was zero.
            (Self::CountsFromBoot, Event::Beat(beat))
                if beat.frames == 0 && !beat.allowed_silence.is_zero() =>
            {
                let allowed_silence = (now + beat.allowed_silence).min(STALL_MAX);
                Some(Event::Beat(Beat {
                    allowed_silence,
                    ..beat
                }))
            }
            (_, event) => Some(event),
        }
    }

    pub(super) fn swallows(self, action: &Action) -> bool {
        match self {
            Self::NoKill => matches!(action, Action::KillGroup),
            Self::NoEvidence => matches!(action, Action::Backtrace { .. }),
            _ => false,
        }
    }
}

/// Sentences about what is wrong with a machine.
type Check = fn(Option<Broken>) -> Vec<String>;

const CHECKS: [(Check, &[Broken]); 6] = [
    (
        faults_of_a_hang,
        &[Broken::NoKill, Broken::NoEvidence, Broken::BelievesStamps],
    ),
    (faults_of_a_limbo, &[Broken::NoKill, Broken::NoLimbo]),
    (
        faults_of_a_printed_banner,
        &[Broken::HeedsLines, Broken::NoLimbo],
    ),
    (
        faults_of_a_crash_loop,
        &[Broken::NoBreaker, Broken::GivesUp],
    ),
    (faults_of_an_adoption, &[Broken::NoAdoption]),
    (faults_of_a_first_frame, &[Broken::CountsFromBoot]),
];

/// An engine with a ring that has come to its first frame.
fn playing(broken: Option<Broken>) -> World {
    let mut world = World::with_broken(quiet(), broken);
    world.feed(Event::Start);
    world.feed(Event::Connected);
    world.beat(1);
    world
}

fn add(faults: &mut Vec<String>, is_fault: bool, sentence: &str) {
    if is_fault {
        faults.push(sentence.to_owned());
    }
}

/// Its counter stands still, though somebody still stamps the beats.
fn faults_of_a_hang(broken: Option<Broken>) -> Vec<String> {
    let mut faults = Vec::new();
    let mut world = playing(broken);
    for _ in 0..5 {
        world.now += SECOND;
        world.beat(1);
        world.feed(Event::Tick);
    }
    let early = (world.backtraces, world.kills);
    add(&mut faults, early.0 != 1, "no backtrace was asked for");
    add(&mut faults, early.1 != 0, "it was killed at once");
    for _ in 0..5 {
        world.pass(SECOND);
    }
    add(&mut faults, world.kills == 0, "it hangs for ever");
    let is_told = matches!(world.machine.ended_by(), Some(EndedBy::Hang { .. }));
    add(&mut faults, !is_told, "nobody says why it ended");
    world.die(false);
    add(&mut faults, world.engines != 1, "none came after it");
    faults
}

/// It has said that it crashes, and then nothing more.
fn faults_of_a_limbo(broken: Option<Broken>) -> Vec<String> {
    let mut faults = Vec::new();
    let mut world = playing(broken);
    let last_output = world.now;
    world.feed(crashing(last_output));
    world.pass(LIMBO_SILENCE - MS);
    add(&mut faults, world.kills > 0, "its backtrace was cut off");
    world.pass(MS);
    add(&mut faults, world.kills == 0, "it is left in limbo");
    let is_told = world.machine.ended_by() == Some(EndedBy::CrashLimbo);
    add(&mut faults, !is_told, "nobody says why it ended");
    faults
}

/// A game prints what a crash handler prints and plays on, stalls as announced and prints a line meanwhile; in another
/// stall it does crash.
fn faults_of_a_printed_banner(broken: Option<Broken>) -> Vec<String> {
    let mut faults = Vec::new();
    let mut world = playing(broken);
    let stalls = |world: &mut World, frames| {
        let stamp = world.now;
        world.feed(Event::Beat(Beat {
            frames,
            stamp,
            allowed_silence: SECOND * 30,
            ..Beat::default()
        }));
    };
    let banner = world.now;
    world.feed(crashing(banner));
    world.now += MS * 16;
    stalls(&mut world, 2);
    for second in 0..30 {
        if second == 4 {
            let last_output = world.now;
            world.feed(Event::Crashing {
                banner,
                last_output,
            });
        }
        world.pass(SECOND - MS);
    }
    let ends = world.kills + world.backtraces;
    add(&mut faults, ends > 0, "it was ended in its stall");
    stalls(&mut world, 3);
    world.now += MS * 16;
    let banner = world.now;
    world.feed(crashing(banner));
    world.pass(LIMBO_SILENCE);
    add(&mut faults, world.kills == 0, "its crash is not believed");
    faults
}

/// Whatever is started dies at once, for two hours; then the cause is gone.
fn faults_of_a_crash_loop(broken: Option<Broken>) -> Vec<String> {
    const LONGEST: Duration = Duration::from_secs(61);
    let mut faults = Vec::new();
    let mut world = World::with_broken(quiet(), broken);
    let begin = world.now;
    let end = begin + SECOND * 7200;
    world.feed(Event::Start);
    while world.now < end {
        if world.engines == 1 {
            world.die(false);
        } else if world.machine.deadline().is_some() {
            world.let_it_come();
        } else {
            break;
        }
    }
    // Ten deaths, the safe start, and one a minute.
    add(
        &mut faults,
        world.starts.len() > 140,
        "it is started without a pause",
    );
    add(
        &mut faults,
        world.safe_starts != 1,
        "no safe start, or several",
    );
    let loops = world.told.iter();
    let loops = loops
        .filter(|told| matches!(told, Told::CrashLoop { .. }))
        .count();
    add(&mut faults, loops != 1, "the crash loop was not told once");
    let pauses = world.starts.windows(2).map(|pair| pair[1] - pair[0]);
    let is_silent = pauses.max() > Some(LONGEST) || world.starts.last() < Some(&(end - LONGEST));
    add(&mut faults, is_silent, "nobody tries any more");
    if world.engines == 0 && world.machine.deadline().is_some() {
        world.let_it_come();
    }
    if world.engines == 1 {
        world.feed(Event::Connected);
        world.beat(1);
        world.now += SECOND * 61;
        world.beat(2);
        world.feed(Event::Tick);
    }
    let plays = world.engines == 1 && world.machine.phase() == Phase::Running;
    add(&mut faults, !plays, "it does not come back by itself");
    faults
}

/// One runs already when the watchdog comes, and dies later.
fn faults_of_an_adoption(broken: Option<Broken>) -> Vec<String> {
    let mut faults = Vec::new();
    let mut world = World::with_broken(quiet(), broken);
    world.engines = 1;
    world.feed(Event::Adopted { since: SECOND });
    add(
        &mut faults,
        !world.starts.is_empty(),
        "one was started beside it",
    );
    add(&mut faults, world.doubles > 0, "two engines at once");
    world.die(false);
    add(&mut faults, world.engines != 1, "none came after it");
    faults
}

/// A game restores, or expects a stall, and then hangs in its first frame: nobody waits for longer than its start may take
/// or than it has announced, however long the machine has been up.
fn faults_of_a_first_frame(broken: Option<Broken>) -> Vec<String> {
    let mut faults = Vec::new();
    for (connected_after, announced) in [(0, 1), (3, 7), (20, 39), (20, 300)] {
        let mut world = World::with_broken(quiet(), broken);
        let startup_timeout = world.machine.policy.startup_timeout;
        world.feed(Event::Start);
        world.now += SECOND * connected_after;
        world.feed(Event::Connected);
        let limit = startup_timeout.max(SECOND * (connected_after + announced));
        let begin = world.starts[0];
        let mut hung_at = None;
        while world.now < begin + STALL_MAX && hung_at.is_none() {
            world.feed(Event::Beat(Beat {
                allowed_silence: SECOND * announced,
                ..Beat::default()
            }));
            world.pass(SECOND);
            hung_at = (world.backtraces > 0).then(|| world.now - begin);
        }
        let case = format!("{announced} s announced after {connected_after} s");
        match hung_at {
            Some(at) if at < limit => faults.push(format!("{case}: not waited for")),
            Some(at) if at > limit + SECOND => faults.push(format!("{case}: found after {at:?}")),
            Some(_) => {}
            None => faults.push(format!("{case}: never found")),
        }
    }
    faults
}

#[test]
fn the_machine_keeps_every_rule() {
    for (check, _) in CHECKS {
        assert_eq!(check(None), Vec::<String>::new());
    }
}

#[test]
fn a_machine_that_lacks_a_rule_is_found_out() {
    for (check, broken) in CHECKS {
        for broken in broken {
            assert_ne!(check(Some(*broken)), Vec::<String>::new(), "{broken:?}");
        }
    }
}
