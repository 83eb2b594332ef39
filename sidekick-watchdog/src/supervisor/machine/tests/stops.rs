//! What the operator asks: a stop, a restart, and the grace that an engine has.

use super::*;

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
