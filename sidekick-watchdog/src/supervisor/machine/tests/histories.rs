//! Random histories, driven through hours in milliseconds.

use proptest::prelude::*;

use super::*;

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
