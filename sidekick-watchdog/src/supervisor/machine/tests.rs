//! The machine by tables, and driven through hours in milliseconds by random worlds.

use std::collections::VecDeque;

use proptest::prelude::*;

use super::*;

mod broken;

use broken::Broken;

const MS: Duration = Duration::from_millis(1);
const SECOND: Duration = Duration::from_secs(1);

fn quiet() -> Policy {
    Policy {
        backoff_jitter: 0.0,
        ..Policy::default()
    }
}

/// A machine and its clock; a started engine lives.
struct World {
    machine: Machine,
    now: Duration,
    engines: u32,
    starts: Vec<Duration>,
    told: Vec<Told>,
    kills: u32,
    backtraces: u32,
    asked: Vec<Duration>,
    next_spawn_fails: bool,
    left: bool,
    safe_starts: u32,
    hooks: u32,
    hook_kills: u32,
    broken: Option<Broken>,
    /// Starts beside a living engine, by a broken machine; by one that is not, they panic.
    doubles: u32,
}

impl World {
    fn new(policy: Policy) -> Self {
        Self::with_broken(policy, None)
    }

    /// A world whose machine lacks a rule.
    fn with_broken(policy: Policy, broken: Option<Broken>) -> Self {
        let policy = match broken {
            Some(broken) => broken.policy(policy),
            None => policy,
        };
        Self {
            machine: Machine::new(policy, 7),
            broken,
            doubles: 0,
            now: Duration::from_secs(1000),
            engines: 0,
            starts: Vec::new(),
            told: Vec::new(),
            kills: 0,
            backtraces: 0,
            asked: Vec::new(),
            next_spawn_fails: false,
            left: false,
            safe_starts: 0,
            hooks: 0,
            hook_kills: 0,
        }
    }

    fn started(policy: Policy) -> Self {
        let mut world = Self::new(policy);
        world.feed(Event::Start);
        world
    }

    fn feed(&mut self, event: Event) {
        let event = match self.broken {
            Some(broken) => broken.event(event, self.now),
            None => Some(event),
        };
        let Some(event) = event else { return };
        let mut actions = VecDeque::from(self.machine.on_event(event, self.now));
        while let Some(action) = actions.pop_front() {
            if self.broken.is_some_and(|broken| broken.swallows(&action)) {
                continue;
            }
            match action {
                Action::Prepare => {
                    assert_eq!((self.engines, self.hooks), (0, 0), "two at once");
                    self.hooks = 1;
                }
                Action::EndPrepare => self.hook_kills += 1,
                Action::Spawn { safe } => {
                    let is_double = (self.engines, self.hooks) != (0, 0);
                    assert!(!is_double || self.broken.is_some(), "two engines at once");
                    self.doubles += u32::from(is_double);
                    self.safe_starts += u32::from(safe);
                    self.starts.push(self.now);
                    let event = if std::mem::take(&mut self.next_spawn_fails) {
                        Event::SpawnFailed
                    } else {
                        self.engines = 1;
                        Event::Spawned
                    };
                    actions.extend(self.machine.on_event(event, self.now));
                }
                Action::AskQuit { grace } => self.asked.push(grace),
                Action::Backtrace { .. } => self.backtraces += 1,
                Action::KillGroup => self.kills += 1,
                Action::Leave => self.left = true,
                Action::Tell(told) => self.told.push(told),
            }
        }
    }

    fn die(&mut self, success: bool) {
        assert_eq!(self.engines, 1);
        self.engines = 0;
        self.feed(Event::Died { success });
    }

    fn hook_ends(&mut self, success: bool) {
        assert_eq!(self.hooks, 1);
        self.hooks = 0;
        self.feed(Event::Prepared { success });
    }

    fn pass(&mut self, time: Duration) {
        self.now += time;
        self.feed(Event::Tick);
    }

    fn let_it_come(&mut self) {
        let deadline = self.machine.deadline().expect("a deadline");
        self.now = self.now.max(deadline);
        self.feed(Event::Tick);
    }

    fn beat(&mut self, frames: u64) {
        let stamp = self.now;
        self.feed(Event::Beat(Beat {
            frames,
            stamp,
            ..Beat::default()
        }));
    }
}

/// A banner, or the next line of a crash handler that has begun.
fn crashing(last_output: Duration) -> Event {
    Event::Crashing {
        banner: last_output,
        last_output,
    }
}

#[test]
fn the_first_relaunch_is_at_once_and_the_next_ones_wait_longer_and_longer() {
    let mut world = World::started(quiet());
    for wanted_ms in [0, 250, 500, 1000, 2000, 4000, 8000, 16_000, 30_000] {
        let died = world.now;
        world.die(false);
        if world.engines == 0 {
            world.let_it_come();
        }
        assert_eq!(world.now - died, MS * wanted_ms);
        assert_eq!(world.engines, 1);
    }
}

#[test]
fn a_crash_loop_tries_once_a_minute_for_ever_and_a_stable_life_closes_it() {
    let mut world = World::started(quiet());
    for _ in 0..10 {
        assert_eq!(world.safe_starts, 0);
        world.die(false);
        if world.engines == 0 {
            world.let_it_come();
        }
    }
    assert!(world.told.contains(&Told::SafeStart { deaths: 10 }));
    assert_eq!(world.safe_starts, 1);
    world.die(false);
    assert_eq!(world.machine.phase(), Phase::HalfOpen);
    let every = SECOND * 60;
    assert!(world.told.contains(&Told::CrashLoop { deaths: 11, every }));
    for _ in 0..1000 {
        let died = world.now;
        world.let_it_come();
        assert_eq!(world.now - died, every);
        world.die(false);
    }
    let loops = |told: &[Told]| {
        let is_loop = |told: &&Told| matches!(told, Told::CrashLoop { .. });
        told.iter().filter(is_loop).count()
    };
    assert_eq!((loops(&world.told), world.safe_starts), (1, 1));
    world.let_it_come();
    world.feed(Event::Connected);
    world.beat(1);
    world.now += SECOND * 60;
    world.beat(2);
    let died = world.now;
    world.die(false);
    assert_eq!((world.engines, world.now), (1, died), "at once again");
}

#[test]
fn at_most_eight_starts_in_the_first_ten_seconds_of_a_crash_loop() {
    for seed in 0..50 {
        let mut world = World::new(Policy::default());
        world.machine = Machine::new(Policy::default(), seed);
        let begin = world.now;
        world.feed(Event::Start);
        while world.now < begin + SECOND * 10 {
            if world.engines == 1 {
                world.die(false);
            } else {
                world.let_it_come();
            }
        }
        let early = world.starts.iter().filter(|&&at| at <= begin + SECOND * 10);
        assert!(early.count() <= 8, "seed {seed}");
    }
}

#[test]
fn whether_an_end_leads_to_a_start_is_the_policys() {
    use RestartPolicy::{Always, Never, OnFailure};
    for (restart, success, wanted) in [
        (Always, true, 1),
        (Always, false, 1),
        (OnFailure, true, 0),
        (OnFailure, false, 1),
        (Never, true, 0),
        (Never, false, 0),
    ] {
        let mut world = World::started(Policy { restart, ..quiet() });
        world.die(success);
        assert_eq!(world.engines, wanted, "{restart:?} {success}");
        let stopped = world
            .told
            .iter()
            .any(|told| matches!(told, Told::Stopped { .. }));
        assert_eq!(stopped, wanted == 0);
    }
}

/// Who is not decided by it does not wait for it.
#[test]
fn an_exit_code_decides_only_for_who_ended_unasked_and_is_restarted_on_failure() {
    use RestartPolicy::{Always, Never, OnFailure};
    let grace = SECOND;
    for (restart, event, wanted) in [
        (OnFailure, None, true),
        (OnFailure, Some(Event::Stop { grace }), false),
        (OnFailure, Some(Event::Restart { grace }), false),
        (OnFailure, Some(Event::MemoryOver { rss_bytes: 1 }), false),
        (Always, None, false),
        (Never, None, false),
    ] {
        let ends = [true, false].map(|success| {
            let mut world = World::started(Policy { restart, ..quiet() });
            if let Some(event) = event {
                world.feed(event);
            }
            assert_eq!(
                world.machine.is_exit_decisive(),
                wanted,
                "{restart:?} {event:?}"
            );
            world.die(success);
            world.machine.phase()
        });
        assert_eq!(ends[0] != ends[1], wanted, "{restart:?} {event:?}");
    }
}

#[test]
fn it_gives_up_only_when_told_to() {
    let mut world = World::started(Policy {
        give_up_after: Some(3),
        give_up_window: SECOND * 60,
        ..quiet()
    });
    world.die(false);
    world.feed(Event::Connected);
    world.now += SECOND * 61;
    world.beat(1);
    for _ in 0..2 {
        if world.engines == 0 {
            world.let_it_come();
        }
        world.die(false);
        assert_ne!(world.machine.phase(), Phase::GaveUp);
    }
    world.let_it_come();
    world.die(false);
    assert_eq!(world.told.last(), Some(&Told::GaveUp { deaths: 3 }));
    assert_eq!(world.machine.deadline(), None);
    world.feed(Event::Start);
    assert_eq!(world.engines, 1);
}

#[test]
fn a_stop_asks_then_kills_then_kills_again() {
    let mut world = World::started(quiet());
    world.feed(Event::Stop { grace: SECOND * 3 });
    assert_eq!(
        (world.asked.as_slice(), world.kills),
        (&[SECOND * 3][..], 0)
    );
    world.pass(SECOND * 3 - MS);
    assert_eq!(world.kills, 0);
    world.pass(MS);
    assert_eq!(world.kills, 1);
    assert_eq!(world.machine.ended_by(), Some(EndedBy::StopTimeout));
    world.pass(KILL_AGAIN_AFTER);
    assert_eq!((world.kills, world.starts.len()), (2, 1));
    world.die(false);
    assert_eq!(world.machine.phase(), Phase::Stopped);
    assert_eq!(world.machine.deadline(), None);
}

/// A grace is for who makes use of it.
#[test]
fn who_hangs_or_crashed_while_it_was_to_end_is_not_waited_for() {
    #[derive(Clone, Copy, Debug, PartialEq)]
    enum End {
        Hangs,
        HangsAfterAStall,
        Limbo,
        CrashedSilently,
        Goodbye,
        PlaysOn,
        HasNoRing,
    }
    let grace = SECOND * 600;
    for end in [
        End::Hangs,
        End::HangsAfterAStall,
        End::Limbo,
        End::CrashedSilently,
        End::Goodbye,
        End::PlaysOn,
        End::HasNoRing,
    ] {
        for (event, engines) in [(Event::Stop { grace }, 0), (Event::Restart { grace }, 1)] {
            let mut world = World::started(quiet());
            if end != End::HasNoRing {
                world.feed(Event::Connected);
                world.beat(1);
            }
            world.feed(event);
            let asked = world.now;
            let last = Beat {
                frames: 1,
                stamp: asked,
                allowed_silence: SECOND * u32::from(end == End::HangsAfterAStall) * 300,
                crashed: end == End::CrashedSilently,
                goodbye: end == End::Goodbye,
                ..Beat::default()
            };
            let last_output = asked;
            match end {
                End::Limbo | End::HasNoRing => world.feed(crashing(last_output)),
                End::PlaysOn => {
                    for frame in 2..600 {
                        world.now += SECOND;
                        world.beat(frame);
                        world.feed(Event::Tick);
                    }
                }
                _ => world.feed(Event::Beat(last)),
            }
            assert!(world.kills == 0 && world.machine.is_end_asked(), "{end:?}");
            let mut backtraces = 0;
            while world.kills == 0 {
                world.let_it_come();
                if world.backtraces > backtraces {
                    backtraces += 1;
                    // It comes slowly.
                    let last_output = world.now + SECOND;
                    world.pass(SECOND);
                    world.feed(crashing(last_output));
                }
            }
            let silent = SECOND * 5;
            let (after, is_hang, ended_by) = match end {
                End::Hangs => (8, true, EndedBy::Hang { silent }),
                End::HangsAfterAStall => {
                    let silent = SECOND * 300;
                    (303, true, EndedBy::Hang { silent })
                }
                End::Limbo | End::HasNoRing => (2, false, EndedBy::CrashLimbo),
                End::CrashedSilently => (5, false, EndedBy::CrashLimbo),
                End::Goodbye => (5, false, EndedBy::StuckInExit { silent }),
                End::PlaysOn => (600, false, EndedBy::StopTimeout),
            };
            assert_eq!(world.now - asked, SECOND * after, "{end:?}");
            assert_eq!(world.backtraces, u32::from(is_hang), "{end:?}");
            assert_eq!(world.machine.ended_by(), Some(ended_by), "{end:?}");
            assert!(world.machine.is_end_asked());
            world.pass(KILL_AGAIN_AFTER);
            assert_eq!(world.kills, 2, "{end:?}");
            world.die(false);
            assert_eq!(
                (world.engines, world.machine.failures()),
                (engines, 0),
                "{end:?}"
            );
        }
    }
}

/// Its grace is over all the same, whatever it prints.
#[test]
fn a_hang_never_lengthens_a_grace() {
    let mut world = World::started(quiet());
    world.feed(Event::Connected);
    world.beat(1);
    world.feed(Event::Stop { grace: SECOND * 8 });
    let asked = world.now;
    world.let_it_come();
    assert_eq!((world.backtraces, world.kills), (1, 0));
    world.now += SECOND;
    let last_output = world.now;
    world.feed(crashing(last_output));
    assert_eq!(world.machine.deadline(), Some(asked + SECOND * 8));
    world.feed(Event::Stop { grace: SECOND });
    assert_eq!(world.machine.deadline(), Some(asked + SECOND * 7));
    assert_eq!(world.asked.len(), 1, "it hears nothing");
    world.let_it_come();
    assert_eq!(world.kills, 1);
}

#[test]
fn a_second_stop_can_only_shorten_the_grace() {
    let mut world = World::started(quiet());
    world.feed(Event::Stop { grace: SECOND * 10 });
    world.feed(Event::Stop { grace: SECOND * 60 });
    assert_eq!(world.machine.deadline(), Some(world.now + SECOND * 10));
    world.feed(Event::Stop { grace: SECOND });
    assert_eq!(world.machine.deadline(), Some(world.now + SECOND));
    world.feed(Event::Kill);
    assert_eq!(world.kills, 1);
}

#[test]
fn what_is_asked_while_stopping_decides_what_comes_after() {
    let grace = SECOND;
    for (events, wanted) in [
        (vec![Event::Stop { grace }, Event::Start], 1),
        (vec![Event::Restart { grace }], 1),
        (vec![Event::Restart { grace }, Event::Stop { grace }], 0),
        (vec![Event::Stop { grace }, Event::Restart { grace }], 1),
        (vec![Event::Restart { grace }, Event::Kill], 0),
    ] {
        let mut world = World::started(quiet());
        for event in &events {
            world.feed(*event);
        }
        world.die(false);
        assert_eq!(world.engines, wanted, "{events:?}");
    }
}

#[test]
fn a_restart_by_hand_is_no_failure() {
    let mut world = World::started(quiet());
    for _ in 0..100 {
        world.feed(Event::Restart { grace: SECOND });
        world.die(false);
        assert_eq!(world.engines, 1);
    }
    assert_eq!(world.machine.failures(), 0);
}

#[test]
fn a_stop_ends_the_waiting() {
    let mut world = World::started(quiet());
    world.die(false);
    world.die(false);
    assert_eq!(world.machine.phase(), Phase::Backoff);
    world.feed(Event::Stop { grace: SECOND });
    assert_eq!(world.machine.phase(), Phase::Stopped);
    assert_eq!(world.told.last(), Some(&Told::Stopped { asked: true }));
}

#[test]
fn a_program_that_cannot_be_started_is_tried_again_like_one_that_died() {
    let mut world = World::started(quiet());
    world.next_spawn_fails = true;
    world.die(false);
    assert_eq!(world.machine.phase(), Phase::Backoff);
    world.let_it_come();
    assert_eq!(world.engines, 1);
}

#[test]
fn silence_of_the_frames_is_a_hang_and_their_movement_is_none() {
    let mut world = World::started(quiet());
    world.feed(Event::Connected);
    world.beat(1);
    assert_eq!(world.machine.phase(), Phase::Running);
    for frame in 2..100 {
        world.now += SECOND * 4;
        world.beat(frame);
        world.feed(Event::Tick);
    }
    assert_eq!(world.machine.phase(), Phase::Running);
    world.now += SECOND * 5;
    world.beat(99);
    world.feed(Event::Tick);
    assert_eq!(world.machine.phase(), Phase::Hung);
    assert_eq!((world.backtraces, world.kills), (1, 0));
    world.pass(SECOND * 2);
    assert_eq!(world.kills, 1);
    let silent = SECOND * 5;
    assert_eq!(world.machine.ended_by(), Some(EndedBy::Hang { silent }));
    world.die(false);
    assert_eq!(world.engines, 1);
    assert_eq!(world.machine.ended_by(), None);
}

#[test]
fn a_stamp_is_believed_only_between_the_last_reading_and_now() {
    for (stamp, wanted) in [
        (Duration::MAX, Duration::from_secs(1004)),
        (Duration::ZERO, Duration::from_secs(1000)),
        (Duration::from_secs(1003), Duration::from_secs(1003)),
    ] {
        let mut world = World::started(quiet());
        world.feed(Event::Connected);
        world.now += SECOND * 4;
        world.feed(Event::Beat(Beat {
            frames: 1,
            stamp,
            ..Beat::default()
        }));
        assert_eq!(world.machine.deadline(), Some(wanted + SECOND * 5));
    }
}

#[test]
fn a_fresh_stamp_without_a_moving_counter_is_no_life() {
    let mut world = World::started(quiet());
    world.feed(Event::Connected);
    world.beat(1);
    for _ in 0..6 {
        world.now += SECOND;
        world.beat(1);
        world.feed(Event::Tick);
    }
    assert_eq!(world.machine.phase(), Phase::Hung);
}

#[test]
fn an_announced_stall_and_a_debugger_are_no_hang() {
    let mut world = World::started(quiet());
    world.feed(Event::Connected);
    let beat = Beat {
        frames: 1,
        stamp: world.now,
        allowed_silence: SECOND * 300,
        ..Beat::default()
    };
    world.feed(Event::Beat(beat));
    world.pass(SECOND * 299);
    assert_eq!(world.machine.phase(), Phase::Running);
    for _ in 0..1000 {
        world.now += SECOND * 5;
        let paused = true;
        world.feed(Event::Beat(Beat { paused, ..beat }));
        world.feed(Event::Tick);
    }
    assert_eq!(world.machine.phase(), Phase::Running);
}

#[test]
fn who_was_stopped_together_with_the_engine_forgives_it_once() {
    let mut world = World::started(quiet());
    world.feed(Event::Connected);
    world.beat(1);
    world.now += SECOND * 3600;
    world.beat(1);
    world.feed(Event::Tick);
    assert_eq!(world.machine.phase(), Phase::Running);
    world.now += SECOND * 3600;
    world.beat(1);
    world.feed(Event::Tick);
    assert_eq!(world.machine.phase(), Phase::Hung);
}

#[test]
fn a_first_engine_without_a_ring_ends_the_watchdog_only_where_one_is_required() {
    let after = SECOND * 60;
    let mut world = World::started(quiet());
    world.let_it_come();
    assert_eq!(world.told, [Told::Unfit(Unfit::NoRing { after })]);
    assert_eq!(world.machine.phase(), Phase::Stopping);
    assert_eq!(world.machine.ended_by(), Some(EndedBy::NoRing { after }));
    assert_eq!(
        (world.asked.len(), world.kills, world.backtraces),
        (1, 0, 0)
    );
    world.let_it_come();
    assert_eq!(world.kills, 1);
    world.die(false);
    assert_eq!((world.engines, world.machine.phase()), (0, Phase::Stopped));

    let mut world = World::started(Policy {
        heartbeat_required: false,
        ..quiet()
    });
    world.let_it_come();
    assert_eq!(world.machine.phase(), Phase::Starting);
    assert_eq!(world.told, [Told::Unconnected { after }]);
    assert_eq!(world.machine.deadline(), None);
}

/// A game update broke what worked: the next update may mend it, so it is tried on, and told every time.
#[test]
fn a_later_engine_without_a_ring_is_a_start_that_failed() {
    let mut world = World::started(quiet());
    world.feed(Event::Connected);
    world.beat(1);
    world.die(false);
    for times in 1..20 {
        if times % 2 == 0 {
            world.feed(Event::Foreign);
            assert_eq!(world.machine.ended_by(), Some(EndedBy::Foreign));
        } else {
            world.let_it_come();
            let ended_by = world.machine.ended_by();
            assert!(matches!(ended_by, Some(EndedBy::NoRing { .. })));
        }
        assert_eq!(world.asked.len(), times);
        world.die(false);
        if world.engines == 0 {
            world.let_it_come();
        }
        assert_eq!(world.engines, 1);
    }
    let is_unconnected = |told: &&Told| matches!(told, Told::Unconnected { .. });
    assert_eq!(world.told.iter().filter(is_unconnected).count(), 10);
    assert!(!world.told.iter().any(|told| matches!(told, Told::Unfit(_))));
    assert_eq!(world.machine.phase(), Phase::Starting);
}

#[test]
fn a_ring_of_another_version_ends_the_watchdog_but_not_an_engine_that_ran_before_it() {
    let mut world = World::started(quiet());
    world.feed(Event::Foreign);
    assert_eq!(world.told, [Told::Unfit(Unfit::Foreign)]);
    assert_eq!((world.asked.len(), world.left), (1, false));
    assert_eq!(world.machine.phase(), Phase::Stopping);

    let mut world = World::new(quiet());
    world.engines = 1;
    world.feed(Event::Adopted { since: SECOND });
    world.feed(Event::Foreign);
    assert_eq!(world.told, [Told::Unfit(Unfit::ForeignAdopted)]);
    assert_eq!((world.asked.len(), world.kills, world.left), (0, 0, true));

    let mut world = World::started(Policy {
        heartbeat_required: false,
        ..quiet()
    });
    world.feed(Event::Foreign);
    assert_eq!(
        (world.machine.phase(), world.told.len()),
        (Phase::Starting, 0)
    );
}

#[test]
fn who_said_goodbye_and_does_not_end_is_killed_and_not_called_hung() {
    let mut world = World::started(quiet());
    world.feed(Event::Connected);
    world.beat(1);
    world.now += SECOND * 5;
    world.feed(Event::Beat(Beat {
        frames: 1,
        goodbye: true,
        ..Beat::default()
    }));
    world.feed(Event::Tick);
    let silent = SECOND * 5;
    assert_eq!(
        world.machine.ended_by(),
        Some(EndedBy::StuckInExit { silent })
    );
    assert_eq!((world.backtraces, world.kills), (0, 1));
    assert!(world.told.is_empty());
    world.die(true);
    assert_eq!(world.machine.phase(), Phase::Stopped);
}

#[test]
fn an_adopted_engine_has_the_whole_startup_time_to_be_found() {
    let mut world = World::new(quiet());
    world.engines = 1;
    world.feed(Event::Adopted {
        since: Duration::from_secs(1),
    });
    assert_eq!(world.machine.deadline(), Some(world.now + SECOND * 60));
    world.die(false);
    assert_eq!((world.engines, world.starts.len()), (1, 1));
}

#[test]
fn no_configuration_makes_a_busy_loop_of_starts_that_fail() {
    let policy = Policy {
        stable_after: Duration::ZERO,
        backoff_first: Duration::ZERO,
        backoff_max: Duration::ZERO,
        ..quiet()
    };
    let mut machine = Machine::new(policy, 1);
    let mut actions = VecDeque::from(machine.on_event(Event::Start, SECOND));
    let mut starts = 0;
    while let Some(action) = actions.pop_front() {
        if matches!(action, Action::Spawn { .. }) {
            starts += 1;
            actions.extend(machine.on_event(Event::SpawnFailed, SECOND));
        }
        assert!(starts < 100);
    }
    assert_eq!(machine.phase(), Phase::HalfOpen);
}

/// However old it grew: who never came up was never stable.
#[test]
fn a_life_that_never_came_up_is_no_stable_one() {
    #[derive(Clone, Copy, Debug)]
    enum Life {
        /// Frames, and no word that it is ready until it is ended.
        NeverReady,
        /// No ring.
        NoRing,
        /// A ring and no frame.
        NoFrame,
        /// One frame, and then none for longer than a stable life takes.
        OneFrame,
        /// The same, without a ring.
        Unwatched,
    }
    let minutes = Some(SECOND * 120);
    for (life, heartbeat_required, ready_timeout, is_loop) in [
        (Life::NeverReady, true, minutes, true),
        (Life::NeverReady, true, None, false),
        (Life::NoRing, true, minutes, true),
        (Life::NoRing, true, None, true),
        (Life::NoFrame, true, None, true),
        (Life::OneFrame, true, None, false),
        (Life::Unwatched, false, minutes, false),
    ] {
        let mut world = World::started(Policy {
            heartbeat_required,
            ready_timeout,
            hang_timeout: SECOND * 100,
            ..quiet()
        });
        // Or the first engine without a ring would end the watchdog.
        world.feed(Event::Connected);
        world.die(false);
        for _ in 0..12 {
            if world.engines == 0 {
                world.let_it_come();
            }
            match life {
                Life::NoRing | Life::Unwatched => {}
                Life::NoFrame => world.feed(Event::Connected),
                Life::OneFrame => {
                    world.feed(Event::Connected);
                    world.beat(1);
                }
                Life::NeverReady => {
                    world.feed(Event::Connected);
                    for frame in 1..=120 {
                        world.now += SECOND;
                        world.beat(frame);
                        world.feed(Event::Tick);
                    }
                }
            }
            world.now += SECOND * 61;
            if let Some(deadline) = world.machine.deadline() {
                world.now = world.now.max(deadline);
            }
            world.feed(Event::Tick);
            world.die(false);
        }
        let at = format!("{life:?} {heartbeat_required} {ready_timeout:?}");
        assert_eq!(world.safe_starts, u32::from(is_loop), "{at}");
        let is_open = world.machine.phase() == Phase::HalfOpen;
        assert_eq!(is_open, is_loop, "{at}");
        let is_stable = matches!(life, Life::Unwatched)
            || (matches!(life, Life::NeverReady) && ready_timeout.is_none());
        assert_eq!(world.machine.failures() == 1, is_stable, "{at}");
    }
}

/// A server that dies now and then, each time soon after its backoff, is no crash loop while its deaths lie far apart.
#[test]
fn deaths_far_apart_do_not_open_the_breaker() {
    let mut world = World::started(quiet());
    for _ in 0..100 {
        world.feed(Event::Connected);
        world.now += SECOND * 50;
        world.beat(1);
        world.die(false);
        if world.engines == 0 {
            assert_eq!(world.machine.phase(), Phase::Backoff);
            world.let_it_come();
        }
    }
    assert_eq!(world.safe_starts, 0);
}

#[test]
fn a_safe_start_that_lives_ends_the_crash_loop() {
    let mut world = World::started(quiet());
    for _ in 0..10 {
        world.die(false);
        if world.engines == 0 {
            world.let_it_come();
        }
    }
    assert_eq!(world.safe_starts, 1);
    world.feed(Event::Connected);
    world.beat(1);
    world.now += SECOND * 61;
    world.beat(2);
    let died = world.now;
    world.die(false);
    assert_eq!((world.engines, world.now), (1, died), "at once");
    assert_eq!(world.safe_starts, 1, "and as usual");
}

#[test]
fn a_crash_loop_without_a_safe_start_goes_half_open() {
    let mut world = World::started(Policy {
        safe_start: false,
        ..quiet()
    });
    for _ in 0..10 {
        world.die(false);
        if world.machine.phase() == Phase::Backoff {
            world.let_it_come();
        }
    }
    assert_eq!(
        (world.machine.phase(), world.safe_starts),
        (Phase::HalfOpen, 0)
    );
    world.feed(Event::Start);
    assert_eq!(
        (world.engines, world.machine.failures()),
        (1, 0),
        "a manual start is free"
    );
}

/// A script that does not parse: frames go on for ever, and nobody can play.
#[test]
fn a_game_that_never_becomes_ready_is_started_anew_if_it_has_to() {
    let mut world = World::started(Policy {
        ready_timeout: Some(SECOND * 30),
        ..quiet()
    });
    world.feed(Event::Connected);
    for frame in 1..=30 {
        world.now += SECOND;
        world.beat(frame);
        world.feed(Event::Tick);
    }
    let after = SECOND * 30;
    let ended_by = EndedBy::NotReady { after };
    assert_eq!(world.machine.ended_by(), Some(ended_by));
    assert_eq!(world.told, [Told::Ending(ended_by)]);
    assert_eq!((world.asked.len(), world.kills), (1, 0), "it may save");
    assert!(!world.machine.is_end_asked());
    world.die(true);
    assert_eq!((world.engines, world.machine.failures()), (1, 1));

    // Ready once is ready for life, and an announced load is waited for.
    world.feed(Event::Connected);
    let loading = Beat {
        frames: 1,
        stamp: world.now,
        allowed_silence: SECOND * 300,
        ..Beat::default()
    };
    world.feed(Event::Beat(loading));
    world.pass(SECOND * 299);
    assert_eq!(world.machine.phase(), Phase::Running);
    for frame in 2..1000 {
        world.now += SECOND;
        let (stamp, ready) = (world.now, frame == 2);
        world.feed(Event::Beat(Beat {
            frames: frame,
            stamp,
            ready,
            ..Beat::default()
        }));
        world.feed(Event::Tick);
    }
    assert_eq!(world.machine.phase(), Phase::Running);
}

#[test]
fn too_much_memory_is_a_planned_end_that_counts_as_a_failure() {
    let mut world = World::started(quiet());
    for times in 1..=12 {
        world.feed(Event::MemoryOver { rss_bytes: 70 });
        world.feed(Event::MemoryOver { rss_bytes: 80 });
        assert_eq!(
            world.machine.ended_by(),
            Some(EndedBy::Memory { rss_bytes: 70 })
        );
        assert_eq!(world.asked.len(), times, "asked once");
        world.die(true);
        if world.engines == 0 {
            world.let_it_come();
        }
    }
    assert!(
        world
            .told
            .iter()
            .any(|told| matches!(told, Told::CrashLoop { .. }))
    );
}

/// Whoever drains has its whole grace, but not to grow without end: asked by the operator or for its memory, with a ring
/// or without.
#[test]
fn who_grows_too_much_while_it_drains_is_ended() {
    let hour = SECOND * 3600;
    for (is_asked, is_connected) in [(true, true), (true, false), (false, true), (false, false)] {
        let mut world = World::started(Policy {
            drain_grace: hour,
            heartbeat_required: false,
            hang_timeout: hour,
            startup_timeout: hour,
            ..quiet()
        });
        if is_connected {
            world.feed(Event::Connected);
            world.beat(1);
        }
        match is_asked {
            true => world.feed(Event::Stop { grace: hour }),
            false => world.feed(Event::MemoryOver { rss_bytes: 1000 }),
        }
        let asked = world.asked.len();
        if !is_asked {
            world.pass(SECOND);
            world.feed(Event::MemoryOver { rss_bytes: 1249 });
            assert_eq!(world.asked.len(), asked, "it drains because of its memory");
        }
        for _ in 0..3 {
            world.feed(Event::MemoryOver { rss_bytes: 1250 });
            world.pass(MS * 500);
        }
        assert_eq!(
            (world.asked.len(), world.kills),
            (asked + 1, 0),
            "once more"
        );
        world.pass(MS * 500);
        assert_eq!(world.kills, 1);
        let ended_by = world.machine.ended_by();
        assert!(
            matches!(ended_by, Some(EndedBy::Memory { .. })),
            "{ended_by:?}"
        );
        world.die(false);
        let starts_again = world.engines == 1;
        assert_eq!(starts_again, !is_asked);
    }
}

/// As [`who_crashed_and_prints_no_more_is_killed`], in a long drain, with a ring or without.
#[test]
fn who_crashes_while_it_drains_and_does_not_end_is_killed() {
    for is_connected in [true, false] {
        let mut world = World::started(quiet());
        if is_connected {
            world.feed(Event::Connected);
            world.beat(1);
        }
        world.feed(Event::Stop {
            grace: SECOND * 3600,
        });
        let last_output = world.now;
        world.feed(crashing(last_output));
        world.pass(LIMBO_SILENCE - MS);
        assert_eq!(world.kills, 0);
        world.pass(MS);
        assert_eq!(world.kills, 1, "connected: {is_connected}");
        assert_eq!(world.machine.ended_by(), Some(EndedBy::CrashLimbo));
        world.die(false);
        assert_eq!(world.machine.phase(), Phase::Stopped);
    }
}

#[test]
fn who_crashed_and_prints_no_more_is_killed() {
    let mut world = World::started(quiet());
    world.feed(Event::Connected);
    world.beat(1);
    for _ in 0..5 {
        let last_output = world.now;
        world.feed(crashing(last_output));
        assert_eq!(world.machine.deadline(), Some(world.now + LIMBO_SILENCE));
        world.pass(SECOND);
        assert_eq!(world.kills, 0, "its backtrace is still coming");
    }
    world.let_it_come();
    assert_eq!((world.kills, world.backtraces), (1, 0));
    assert_eq!(world.machine.ended_by(), Some(EndedBy::CrashLimbo));
    world.die(false);
    assert_eq!(world.engines, 1);

    // One that prints without end is over too.
    for _ in 0..100 {
        if world.kills == 2 {
            break;
        }
        let last_output = world.now;
        world.feed(crashing(last_output));
        world.pass(SECOND);
    }
    assert_eq!(world.kills, 2);
}

#[test]
fn a_crash_handler_that_hangs_is_not_made_to_crash_again() {
    let mut world = World::started(quiet());
    world.feed(Event::Connected);
    world.beat(1);
    world.now += SECOND * 5;
    world.feed(Event::Beat(Beat {
        frames: 1,
        crashed: true,
        ..Beat::default()
    }));
    world.feed(Event::Tick);
    assert_eq!((world.kills, world.backtraces), (1, 0));
    assert_eq!(world.machine.ended_by(), Some(EndedBy::CrashLimbo));
}

#[test]
fn the_backtrace_of_a_hung_engine_is_waited_for_while_it_comes() {
    let mut world = World::started(quiet());
    world.feed(Event::Connected);
    world.beat(1);
    world.now += SECOND * 5;
    world.beat(1);
    world.feed(Event::Tick);
    assert_eq!(world.backtraces, 1);
    for _ in 0..5 {
        world.now += SECOND;
        let last_output = world.now;
        world.feed(crashing(last_output));
        world.feed(Event::Tick);
        assert_eq!(world.kills, 0);
    }
    world.let_it_come();
    assert_eq!(world.kills, 1);
    assert!(matches!(
        world.machine.ended_by(),
        Some(EndedBy::Hang { .. })
    ));
}

#[test]
fn each_start_waits_for_the_command_before_it_and_fails_with_it() {
    let mut world = World::started(Policy {
        pre_start_timeout: Some(SECOND * 30),
        ..quiet()
    });
    assert_eq!((world.hooks, world.engines), (1, 0));
    world.hook_ends(true);
    assert_eq!(world.engines, 1);
    world.die(false);
    assert_eq!(world.hooks, 1);
    // It takes too long: killed, and its start has failed.
    world.let_it_come();
    assert_eq!(world.hook_kills, 1);
    world.hook_ends(false);
    assert_eq!(
        (world.machine.phase(), world.machine.failures()),
        (Phase::Backoff, 2)
    );
    world.let_it_come();
    world.feed(Event::Stop { grace: SECOND });
    assert_eq!(world.hook_kills, 2);
    world.hook_ends(false);
    assert_eq!((world.machine.phase(), world.engines), (Phase::Stopped, 0));
}

#[derive(Clone, Debug)]
enum Step {
    Pass(u64),
    ToDeadline,
    Die(bool),
    SpawnFails,
    Command(Event),
    Beat(u64, u64, bool),
    HookEnds(bool),
}

fn step() -> impl Strategy<Value = Step> {
    let grace = (0_u64..20_000).prop_map(Duration::from_millis);
    prop_oneof![
        4 => (0_u64..100_000).prop_map(Step::Pass),
        4 => Just(Step::ToDeadline),
        4 => any::<bool>().prop_map(Step::Die),
        1 => Just(Step::SpawnFails),
        4 => any::<bool>().prop_map(Step::HookEnds),
        1 => Just(Step::Command(Event::MemoryOver { rss_bytes: 1 })),
        1 => (0_u64..5000).prop_map(|ago| {
            Step::Command(crashing(Duration::from_millis(1_000_000 + ago)))
        }),
        1 => grace.clone().prop_map(|grace| Step::Command(Event::Stop { grace })),
        1 => grace.prop_map(|grace| Step::Command(Event::Restart { grace })),
        1 => Just(Step::Command(Event::Start)),
        1 => Just(Step::Command(Event::Kill)),
        1 => Just(Step::Command(Event::Connected)),
        1 => Just(Step::Command(Event::Foreign)),
        3 => (0_u64..5, any::<u64>(), any::<bool>()).prop_map(|(f, s, p)| Step::Beat(f, s, p)),
    ]
}

fn policy() -> impl Strategy<Value = Policy> {
    let restart = prop_oneof![
        Just(RestartPolicy::Always),
        Just(RestartPolicy::OnFailure),
        Just(RestartPolicy::Never)
    ];
    (
        restart,
        any::<bool>(),
        any::<bool>(),
        any::<bool>(),
        proptest::option::of(1_u32..6),
        0_u64..100_000,
    )
        .prop_map(
            |(restart, heartbeat_required, ready, hook, give_up_after, stable_ms)| Policy {
                restart,
                heartbeat_required,
                ready_timeout: ready.then_some(SECOND * 20),
                pre_start_timeout: hook.then_some(SECOND * 30),
                give_up_after,
                stable_after: MS * u32::try_from(stable_ms).unwrap_or(0),
                ..Policy::default()
            },
        )
}

proptest! {
    /// Never two engines at once; the phase never lies about whether one lives; whoever waits has a deadline; and
    /// whatever was asked is reached by letting time pass (a killed engine dies in this world).
    #[test]
    fn every_history_holds_the_promises(policy in policy(), steps in prop::collection::vec(step(), 1..200)) {
        let restart = policy.restart;
        let heartbeat_required = policy.heartbeat_required;
        let mut world = World::started(policy);
        let mut last_asked_to_run = true;
        for step in steps {
            match step {
                Step::Pass(ms) => world.pass(MS * u32::try_from(ms).unwrap_or(0)),
                Step::ToDeadline => if world.machine.deadline().is_some() { world.let_it_come() },
                Step::Die(success) => if world.engines == 1 { world.die(success) },
                Step::SpawnFails => world.next_spawn_fails = true,
                Step::HookEnds(success) => if world.hooks == 1 { world.hook_ends(success) },
                Step::Command(event) => {
                    match event {
                        Event::Stop { .. } | Event::Kill => last_asked_to_run = false,
                        Event::Start | Event::Restart { .. } => last_asked_to_run = true,
                        _ => {}
                    }
                    world.feed(event);
                }
                Step::Beat(frames, stamp, paused) => world.feed(Event::Beat(Beat {
                    frames,
                    stamp: Duration::from_nanos(stamp),
                    allowed_silence: Duration::ZERO,
                    paused,
                    ready: frames % 2 == 1,
                    ..Beat::default()
                })),
            }
            let phase = world.machine.phase();
            let lives = matches!(phase, Phase::Starting | Phase::Running | Phase::Hung | Phase::Stopping);
            prop_assert_eq!(lives, world.engines == 1, "{:?}", phase);
            prop_assert_eq!(phase == Phase::Preparing, world.hooks == 1);
            if matches!(phase, Phase::Backoff | Phase::HalfOpen | Phase::Hung | Phase::Stopping | Phase::Running | Phase::Preparing) {
                prop_assert!(world.machine.deadline().is_some(), "{:?}", phase);
            }
            if phase == Phase::Starting && heartbeat_required {
                prop_assert!(world.machine.deadline().is_some());
            }
            if !last_asked_to_run {
                prop_assert!(!matches!(phase, Phase::Backoff | Phase::HalfOpen), "{:?}", phase);
            }
        }
        // Let an hour pass in which kills work and nothing else happens.
        world.next_spawn_fails = false;
        let end = world.now + SECOND * 3600;
        let mut was_killed = world.kills;
        let mut hook_was_killed = world.hook_kills;
        if world.hooks == 1 && hook_was_killed > 0 {
            world.hook_ends(false);
        }
        while let Some(deadline) = world.machine.deadline().filter(|&deadline| deadline < end) {
            let at_rest = world.machine.phase() == Phase::Running && restart == RestartPolicy::Always;
            world.now = world.now.max(deadline);
            world.feed(Event::Tick);
            if world.kills > was_killed && world.engines == 1 {
                was_killed = world.kills;
                world.die(false);
            }
            if world.hook_kills > hook_was_killed && world.hooks == 1 {
                hook_was_killed = world.hook_kills;
                world.hook_ends(false);
            }
            if at_rest && world.starts.len() > 10_000 {
                break;
            }
        }
        if !last_asked_to_run {
            prop_assert_eq!(world.engines, 0);
            prop_assert!(matches!(world.machine.phase(), Phase::Stopped | Phase::GaveUp));
        }
        if world.engines == 0 {
            // Nothing runs: asked so, allowed by the policy, given up, or the next try comes within its time.
            let phase = world.machine.phase();
            let next = world.machine.deadline().unwrap_or(Duration::MAX).saturating_sub(world.now);
            prop_assert!(
                matches!(phase, Phase::Stopped | Phase::GaveUp) || next <= SECOND * 61 || world.hooks == 1,
                "{:?} {:?}", phase, next
            );
            if phase == Phase::Stopped && last_asked_to_run {
                let unfit = world.told.iter().any(|told| matches!(told, Told::Unfit(_)));
                prop_assert!(restart != RestartPolicy::Always || unfit);
            }
        }
    }
}
