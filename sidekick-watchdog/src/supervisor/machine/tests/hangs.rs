//! Whose frames stand still: who hangs, and who only seems to.

use super::*;

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
