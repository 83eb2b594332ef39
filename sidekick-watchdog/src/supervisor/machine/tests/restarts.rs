//! When another engine is started after an end, and how long is waited before it.

use super::*;

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
fn a_program_that_cannot_be_started_is_tried_again_like_one_that_died() {
    let mut world = World::started(quiet());
    world.next_spawn_fails = true;
    world.die(false);
    assert_eq!(world.machine.phase(), Phase::Backoff);
    world.let_it_come();
    assert_eq!(world.engines, 1);
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
