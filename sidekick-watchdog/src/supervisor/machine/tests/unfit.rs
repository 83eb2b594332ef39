//! Engines that run and are of no use: no ring, a foreign one, never ready.

use super::*;

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
