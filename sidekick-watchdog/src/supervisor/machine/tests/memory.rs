//! An engine that grows beyond its limit.

use super::*;

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
