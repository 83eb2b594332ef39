//! A match under kills at random moments, with a standby and without: it goes on where it was, and never have two engines the
//! port. The real Godot, the real watchdog; what happened is told by the game's own journal and by the kernel's list of sockets.
//!
//! `HARNESS_STANDBY_KILLS` (10) and `HARNESS_COLD_KILLS` (6) set the numbers of kills, `HARNESS_SEED` repeats a run's choices;
//! the kernel's timing is not repeated.

use std::thread;
use std::time::{Duration, Instant};

use rustix::process::Signal;
use sidekick_tests::godot::Godot;
use sidekick_tests::match_stage::{Outcome, PATIENCE, Stage};
use sidekick_tests::{process, wait};

/// A kill comes at a random moment of this time, which is four times the match's time between two checkpoints.
const MOMENT_MAX_MS: u64 = 400;

/// The moment of a kill, not a wait for anything.
fn wait_for_a_moment(random: &mut fastrand::Rng) {
    let moment_us = random.u64(..MOMENT_MAX_MS * 1000);
    thread::sleep(Duration::from_micros(moment_us));
}

/// Kills who serves so often; gives what is known in the end, and how many standbys had to take over.
fn play(stage: &Stage, has_standby: bool, kills: u64, seed: u64) -> (Outcome, u64) {
    let mut random = fastrand::Rng::with_seed(seed);
    let mut promotions = 0;
    let watchdog = stage.setup.start();
    for kill in 0..kills {
        // Now and then, besides, whoever there is at whatever moment of its life.
        if kill > 0 && random.u32(..4) == 0 {
            wait_for_a_moment(&mut random);
            let engines = stage.setup.engines(Some(&watchdog));
            if let Some(engine) = random.choice(engines) {
                stage.setup.signal(engine, Signal::KILL);
            }
        }
        let (engine, standby) = stage.settled(&watchdog);
        wait_for_a_moment(&mut random);
        // And now and then both, which leaves a cold start.
        let is_for_both = random.u32(..10) == 0;
        promotions += u64::from(standby.is_some() && !is_for_both);
        let mut victims = vec![engine];
        victims.extend(standby.filter(|_| is_for_both));
        random.shuffle(&mut victims);
        for victim in victims {
            stage.setup.signal(victim, Signal::KILL);
        }
        let count = stage.setup.engines(Some(&watchdog)).len();
        assert!(count <= 1 + usize::from(has_standby), "{count} engines");
        let next = stage.next(engine);
        if let Some(standby) = standby {
            assert!(
                next.pid == standby || !process::runs(standby),
                "{next:?} serves, not the standby {standby}"
            );
        }
    }
    stage.settled(&watchdog);
    // Each may have been killed before its first one.
    stage.has_kept(kills);
    (stage.end(watchdog), promotions)
}

fn number(variable: &str) -> Option<u64> {
    let text = std::env::var(variable).ok()?;
    let number = text.parse();
    Some(number.unwrap_or_else(|_| panic!("{variable}={text:?} is no number")))
}

fn assert_goes_on(godot: &Godot, has_standby: bool, kills: u64) {
    let seed = number("HARNESS_SEED").unwrap_or_else(|| fastrand::u64(..));
    println!("{kills} kills, standby: {has_standby}, HARNESS_SEED={seed}");
    let stage = Stage::new(godot, has_standby, "");
    let begun = Instant::now();
    let (outcome, promotions) = play(&stage, has_standby, kills, seed);
    let took = begun.elapsed().as_secs_f64();
    let summary = &outcome.summary;
    println!(
        "in {took:.1} s: {} checkpoints, {} restored ({} of them begun only), {} promoted, {} cold, at most {} ticks lost",
        summary.done,
        summary.restored,
        summary.begun_only,
        summary.promoted,
        summary.cold,
        summary.ticks_lost_max
    );
    outcome.assert_kept();
    let holders = outcome.seen.holders.len() as u64;
    assert!(holders > kills * 3 / 4, "{:?}", outcome.seen);
    // The first one, and one after each kill.
    let served = summary.promoted + summary.cold;
    assert!(served > kills && summary.done >= kills, "{summary:?}");
    assert!(summary.promoted >= promotions, "{summary:?}");
    assert_eq!(summary.promoted > 0, has_standby, "{summary:?}");
}

/// The promise, with a standby.
fn with_a_standby_the_match_goes_on_after_each_kill(godot: &Godot) {
    let kills = number("HARNESS_STANDBY_KILLS").unwrap_or(10);
    assert_goes_on(godot, true, kills);
}

/// And without.
fn without_a_standby_the_match_goes_on_after_each_kill(godot: &Godot) {
    let kills = number("HARNESS_COLD_KILLS").unwrap_or(6);
    assert_goes_on(godot, false, kills);
}

/// The tests above can fail: by a broken game that goes on with another state than its last.
fn a_game_that_goes_back_is_noticed(godot: &Godot) {
    let stage = Stage::new(godot, false, "stale");
    let watchdog = stage.setup.start();
    let (engine, _) = stage.settled(&watchdog);
    stage.has_kept(2);
    stage.setup.signal(engine, Signal::KILL);
    stage.next(engine);
    let broken = stage.end(watchdog).broken;
    assert!(
        broken.iter().any(|line| line.contains("was restored")),
        "{broken:?}"
    );
}

/// And by one that takes the port before its turn: by its own word, and by what is seen from outside.
fn a_game_that_does_not_wait_its_turn_is_noticed(godot: &Godot) {
    let stage = Stage::new(godot, true, "early");
    let watchdog = stage.setup.start();
    let (engine, standby) = stage.settled(&watchdog);
    let mut both = vec![Some(engine), standby];
    both.sort_unstable();
    wait::until("both to be seen together", PATIENCE, || {
        let together = stage.seen().together;
        let is_both = |sockets: &Vec<(u64, Option<u32>)>| {
            let mut pids: Vec<_> = sockets.iter().map(|(_, pid)| *pid).collect();
            pids.sort_unstable();
            pids == both
        };
        together.iter().any(is_both).then_some(())
    });
    let broken = stage.end(watchdog).broken;
    assert!(
        broken.iter().any(|line| line.contains("taken")),
        "{broken:?}"
    );
}

sidekick_tests::godot_claims!(
    with_a_standby_the_match_goes_on_after_each_kill,
    without_a_standby_the_match_goes_on_after_each_kill,
    a_game_that_goes_back_is_noticed,
    a_game_that_does_not_wait_its_turn_is_noticed,
);
