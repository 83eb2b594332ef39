//! Who has crashed and does not end.

use super::*;

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
