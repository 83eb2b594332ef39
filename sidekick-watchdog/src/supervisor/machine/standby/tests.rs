use proptest::prelude::*;

use super::*;

fn secs(seconds: u64) -> Duration {
    Duration::from_secs(seconds)
}

fn machine() -> StandbyMachine {
    StandbyMachine::new(Policy {
        startup_timeout: secs(30),
        hang_timeout: secs(3),
        ..Policy::default()
    })
}

fn beat(frames: u64, at: Duration, parked: bool) -> Event {
    let beat = Beat {
        frames,
        stamp: at,
        ..Beat::default()
    };
    Event::Beat { beat, parked }
}

/// A machine whose standby was started at 1 s, and is connected.
fn alive() -> StandbyMachine {
    let mut machine = machine();
    assert_eq!(machine.on_event(Event::Wish(Wish::Have), secs(0)), []);
    assert_eq!(machine.on_event(Event::Tick, secs(1)), [Action::Spawn]);
    assert_eq!(machine.on_event(Event::Spawned, secs(1)), []);
    assert_eq!(machine.on_event(Event::Connected, secs(1)), []);
    machine
}

#[test]
fn a_standby_is_wished_for_only_beside_an_engine_that_is_up() {
    use Phase as P;
    for (phase, is_up, is_safe, is_for_good, wish) in [
        (P::Running, true, false, false, Wish::Have),
        (P::Running, false, false, false, Wish::Keep),
        (P::Running, true, true, false, Wish::Keep),
        (P::Starting, true, false, false, Wish::Keep),
        (P::Hung, true, false, false, Wish::Keep),
        (P::Backoff, false, false, false, Wish::Keep),
        (P::HalfOpen, false, false, false, Wish::Keep),
        (P::Preparing, false, false, false, Wish::Keep),
        (P::Stopping, true, false, false, Wish::Keep),
        (P::Stopping, true, false, true, Wish::None),
        (P::Stopped, true, false, false, Wish::None),
        (P::GaveUp, true, false, false, Wish::None),
        (P::Idle, true, false, false, Wish::None),
    ] {
        let found = Wish::of(phase, is_up, is_safe, is_for_good);
        assert_eq!(found, wish, "{phase:?} {is_up} {is_safe} {is_for_good}");
    }
}

#[test]
fn it_is_started_once_the_engine_is_steady_and_waits_anew_if_that_ends() {
    let mut machine = machine();
    assert_eq!(machine.deadline(), None);
    machine.on_event(Event::Wish(Wish::Have), secs(10));
    assert_eq!(machine.deadline(), Some(secs(11)));
    // The engine hangs for a moment.
    machine.on_event(Event::Wish(Wish::Keep), secs(10));
    assert_eq!(machine.on_event(Event::Tick, secs(11)), []);
    machine.on_event(Event::Wish(Wish::Have), secs(12));
    machine.on_event(Event::Wish(Wish::Have), secs(12));
    assert_eq!(machine.on_event(Event::Tick, secs(13)), [Action::Spawn]);
    assert_eq!(machine.on_event(Event::Tick, secs(14)), [], "once");
}

#[test]
fn deaths_are_answered_ever_more_slowly_until_one_lives_long() {
    let mut machine = alive();
    let mut now = secs(1);
    for delay in [1, 2, 4, 8, 16, 32, 60, 60] {
        machine.on_event(Event::Died, now);
        assert_eq!(machine.retry(now), secs(delay));
        now += secs(delay);
        assert_eq!(machine.on_event(Event::Tick, now), [Action::Spawn]);
        machine.on_event(Event::Spawned, now);
    }
    machine.on_event(Event::Died, now + STABLE);
    assert_eq!(machine.retry(now + STABLE), secs(1));
    // One that could not be made at all is a failure, too.
    let mut machine = super::tests::machine();
    machine.on_event(Event::Wish(Wish::Have), secs(0));
    machine.on_event(Event::Tick, secs(1));
    machine.on_event(Event::SpawnFailed, secs(1));
    assert_eq!(machine.deadline(), Some(secs(2)));
}

#[test]
fn one_that_hangs_is_killed_and_replaced() {
    // No frame within the startup time; its first frame, then none; parked, then no beat.
    let mut booting = alive();
    assert_eq!(booting.deadline(), Some(secs(31)));
    let mut running = alive();
    running.on_event(beat(5, secs(2), false), secs(2));
    assert_eq!(running.deadline(), Some(secs(2) + SILENCE_MIN));
    let mut parked = alive();
    let told = parked.on_event(beat(5, secs(2), true), secs(2));
    assert_eq!(told, [Action::TellParked]);
    assert_eq!(parked.on_event(beat(6, secs(3), true), secs(3)), []);
    assert!(parked.is_parked());
    assert_eq!(parked.deadline(), Some(secs(3) + SILENCE_MIN));
    for machine in [&mut booting, &mut running, &mut parked] {
        let due = machine.deadline().expect("watched");
        assert_eq!(machine.on_event(Event::Tick, due), [Action::Kill]);
        assert!(!machine.is_promotable() && machine.silent().is_some());
        let again = machine.deadline().expect("killed again");
        assert_eq!(machine.on_event(Event::Tick, again), [Action::Kill]);
        machine.on_event(Event::Died, again);
        assert_eq!(machine.on_event(Event::Tick, again), [Action::Spawn]);
    }
}

/// Where no heartbeat is required and no ring appears there is nothing to go by, and nobody is killed.
#[test]
fn one_without_a_ring_is_left_alone_where_none_is_required() {
    let mut machine = StandbyMachine::new(Policy {
        heartbeat_required: false,
        ..Policy::default()
    });
    machine.on_event(Event::Spawned, secs(0));
    assert_eq!(machine.deadline(), None);
    assert!(machine.is_promotable());
}

#[test]
fn a_promoted_one_is_followed_by_another_once_it_is_steady_itself() {
    let mut machine = alive();
    assert!(machine.is_promotable());
    machine.on_event(Event::Promoted, secs(5));
    assert!(!machine.is_promotable());
    assert_eq!(machine.deadline(), None);
    // The death of the engine that it has become is none of ours.
    machine.on_event(Event::Died, secs(5));
    machine.on_event(Event::Wish(Wish::Have), secs(6));
    assert_eq!(machine.on_event(Event::Tick, secs(7)), [Action::Spawn]);
}

#[test]
fn one_that_is_not_wanted_is_ended_and_never_promoted() {
    let mut machine = alive();
    let ended = machine.on_event(Event::Wish(Wish::None), secs(2));
    assert_eq!(ended, [Action::Kill]);
    assert!(!machine.is_promotable() && machine.silent().is_none());
    machine.on_event(Event::Died, secs(3));
    assert_eq!(machine.deadline(), None);
    // Dismissed: the next one comes as soon as that is dead.
    let mut machine = alive();
    assert_eq!(machine.on_event(Event::Dismiss, secs(2)), [Action::Kill]);
    machine.on_event(Event::Died, secs(3));
    assert_eq!(machine.on_event(Event::Tick, secs(3)), [Action::Spawn]);
}

fn any_event() -> impl Strategy<Value = Event> {
    prop_oneof![
        1 => Just(Event::Wish(Wish::None)),
        1 => Just(Event::Wish(Wish::Keep)),
        4 => Just(Event::Wish(Wish::Have)),
        1 => Just(Event::Connected),
        2 => (0_u64..5, any::<bool>()).prop_map(|(frames, parked)| beat(frames, secs(1), parked)),
        2 => Just(Event::Died),
        1 => Just(Event::Promoted),
        1 => Just(Event::Dismiss),
        4 => Just(Event::Tick),
    ]
}

proptest! {
    /// Whatever happens in whatever order: never two standbys, none is started unless wished for, only one that lives is
    /// killed or promoted, and a deadline that has come is answered.
    #[test]
    fn there_is_never_more_than_one(
        events in prop::collection::vec((any_event(), 0_u64..4_000, any::<bool>()), 1..200),
    ) {
        let mut machine = machine();
        let mut now = Duration::ZERO;
        let mut is_alive = false;
        let mut wish = Wish::Keep;
        for (event, pause_ms, can_spawn) in events {
            now += Duration::from_millis(pause_ms);
            // What the runtime never says.
            match event {
                Event::Died | Event::Connected | Event::Beat { .. } if !is_alive => continue,
                Event::Promoted if !machine.is_promotable() => continue,
                Event::Wish(new) => wish = new,
                _ => {}
            }
            let mut queue = machine.on_event(event, now);
            if matches!(event, Event::Died | Event::Promoted) {
                is_alive = false;
                if event == Event::Promoted {
                    wish = Wish::Keep;
                }
            }
            while !queue.is_empty() {
                match queue.remove(0) {
                    Action::Spawn => {
                        prop_assert!(!is_alive && wish == Wish::Have);
                        is_alive = can_spawn;
                        let answer = if can_spawn { Event::Spawned } else { Event::SpawnFailed };
                        queue.extend(machine.on_event(answer, now));
                    }
                    Action::Kill => prop_assert!(is_alive),
                    Action::TellParked => prop_assert!(machine.is_parked()),
                }
            }
            prop_assert!(is_alive || !(machine.is_promotable() || machine.is_ending()));
            prop_assert!(!(is_alive && wish == Wish::None && machine.is_promotable()));
            if event == Event::Tick {
                prop_assert!(machine.deadline().is_none_or(|deadline| deadline > now));
            }
        }
    }
}
