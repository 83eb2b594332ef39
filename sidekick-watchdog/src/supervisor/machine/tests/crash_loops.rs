//! What is a crash loop, and how one ends.

use std::collections::VecDeque;

use super::*;

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
