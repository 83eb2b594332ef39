//! A game goes on where it was: what a new incarnation is given, whatever was killed before.
//!
//! The engine is this executable (`sidekick_tests::saver`). `HARNESS_KILLS` sets the number of kills (20), `HARNESS_SEED`
//! repeats a run's choices; the kernel's timing is not repeated.

use std::fs;
use std::path::PathBuf;
use std::process::ExitCode;
use std::thread;
use std::time::Duration;

use libtest_mimic::{Arguments, Trial};
use rustix::process::Signal;
use sidekick_tests::saver::{self, Saver, Summary, broken_promises};
use sidekick_tests::wait;
use sidekick_tests::watchdog::Setup;

/// Generous: a loaded machine is slow, and a test that ends early for that says nothing.
const PATIENCE: Duration = Duration::from_secs(120);

fn main() -> ExitCode {
    if let Some(code) = saver::act_if_asked() {
        return code;
    }
    let arguments = Arguments::from_args();
    let trial = |name: &str, run: fn()| {
        Trial::test(name, move || {
            run();
            Ok(())
        })
    };
    let trials = vec![
        trial(
            "a_kill_gives_back_the_last_checkpoint",
            a_kill_gives_back_the_last_checkpoint,
        ),
        trial("a_false_word_is_noticed", a_false_word_is_noticed),
        trial("broken_journals_are_noticed", broken_journals_are_noticed),
    ];
    libtest_mimic::run(&arguments, trials).exit_code()
}

fn number(variable: &str) -> Option<u64> {
    let text = std::env::var(variable).ok()?;
    Some(
        text.parse()
            .unwrap_or_else(|_| panic!("{variable}={text:?} is no number")),
    )
}

/// A watchdog's setup with a saver, and the saver's journal.
fn set_up(lies: bool) -> (Setup, PathBuf) {
    let mut setup = Setup::new();
    let journal = setup.scratch().join("journal");
    let saver = Saver {
        journal: journal.clone(),
        lies,
    };
    setup.set_engine(saver.command_line());
    setup.set_config(
        "[upload]\nsinks = []\n[restart]\nbackoff_first = \"1ms\"\nbackoff_max = \"5ms\"\ncrash_loop_deaths = 1000\n\
         stable_after = \"10ms\"\n",
    );
    (setup, journal)
}

/// Lines of the journal that say that something was restored.
fn restores(journal: &PathBuf) -> usize {
    let text = fs::read_to_string(journal).unwrap_or_default();
    text.lines()
        .filter(|line| line.starts_with("restored"))
        .count()
}

/// Kills engines, watchdogs, and both; gives what the journal says in the end.
fn kill(setup: &Setup, journal: &PathBuf, kills: u64, seed: u64) -> (Summary, Vec<String>) {
    let mut random = fastrand::Rng::with_seed(seed);
    let (mut watchdog, mut seen) = (setup.start(), 0);
    for kill in 0..kills {
        // Every third time whenever it is, start-up included; else while it saves.
        if kill % 3 != 0 {
            wait::until("an engine that goes on", PATIENCE, || {
                (restores(journal) > seen).then_some(())
            });
        }
        // The moment of the kill, not a wait for anything.
        thread::sleep(Duration::from_millis(random.u64(0..400)));
        let (kills_engine, kills_watchdog) =
            [(true, false), (false, true), (true, true)][random.usize(..3)];
        let engines = setup.engines(Some(&watchdog));
        assert!(engines.len() <= 1, "more than one engine: {engines:?}");
        let engine = engines.first().copied().filter(|_| kills_engine);
        if engine.is_some() {
            seen = restores(journal);
        }
        let engine_first = random.bool();
        if let Some(pid) = engine.filter(|_| engine_first || !kills_watchdog) {
            setup.signal(pid, Signal::KILL);
        }
        if kills_watchdog {
            watchdog.kill();
            thread::sleep(Duration::from_millis(random.u64(0..100)));
            if let Some(pid) = engine.filter(|_| !engine_first) {
                setup.signal(pid, Signal::KILL);
            }
            watchdog = setup.start();
        }
    }
    // One more, for the last word.
    let before = restores(journal);
    let engine = wait::until("an engine", PATIENCE, || {
        setup.engines(Some(&watchdog)).first().copied()
    });
    setup.signal(engine, Signal::KILL);
    wait::until("the last restore", PATIENCE, || {
        (restores(journal) > before).then_some(())
    });
    let finished = watchdog.stop(PATIENCE);
    let log = finished.lines.join("\n");
    assert_eq!(finished.status.code(), Some(0), "{log}");
    assert!(!log.contains("panicked"), "{log}");
    let text = fs::read_to_string(journal).expect("a journal");
    let (summary, broken) = broken_promises(&text);
    println!("{summary:?}");
    if !broken.is_empty() {
        println!("{log}");
    }
    (summary, broken)
}

/// The promise: what is restored is the last checkpoint whose call had returned (or was under way), whole.
fn a_kill_gives_back_the_last_checkpoint() {
    let kills = number("HARNESS_KILLS").unwrap_or(20);
    let seed = number("HARNESS_SEED").unwrap_or_else(|| fastrand::u64(..));
    println!("{kills} kills, HARNESS_SEED={seed}");
    let (setup, journal) = set_up(false);
    let (summary, broken) = kill(&setup, &journal, kills, seed);
    assert!(
        broken.is_empty(),
        "HARNESS_SEED={seed}: {} broken promises, the first: {:#?}",
        broken.len(),
        &broken[..broken.len().min(5)]
    );
    assert!(summary.done > kills * 5, "{summary:?}");
    assert!(summary.restored > kills / 4, "{summary:?}");
}

/// The test above can fail: an engine that calls a checkpoint done before it is in the ring.
fn a_false_word_is_noticed() {
    let (setup, journal) = set_up(true);
    let (_, broken) = kill(&setup, &journal, 12, 7);
    assert!(
        broken.iter().any(|line| line.contains("was restored")),
        "{broken:?}"
    );
}

/// And so can its judge.
fn broken_journals_are_noticed() {
    let good = "\nrestored 0 good\nbegin 1\ndone 1\nbegin 2\ndone 2\nbegin 3\n\nrestored 3 good\nbegin 4\ndo\n\
                restored 4 good\nbegin 5\ndone 5\n\nrestored 5 good\n";
    let (summary, broken) = broken_promises(good);
    assert_eq!(broken, Vec::<String>::new());
    assert_eq!((summary.done, summary.restored), (3, 3));
    for (bad, word) in [
        (
            "restored 0 good\nbegin 1\ndone 1\nbegin 2\ndone 2\nrestored 1 good",
            "was restored",
        ),
        (
            "restored 0 good\nbegin 1\ndone 1\nrestored 0 good",
            "was restored",
        ),
        (
            "restored 0 good\nbegin 1\ndone 1\nrestored 1 bad",
            "damaged",
        ),
        ("begin 1\nrefused 1 the ring is full", "refused"),
        (
            "restored 0 good\nbegin 1\ndone 1\nfound 0\nrestored 1 good",
            "was found",
        ),
        ("missed 7 came after Some(5)", "missed"),
        ("misread Some(6) instead of 7", "misread"),
        ("unanswered 9", "unanswered"),
        ("timeout", "timeout"),
        ("error delta_gap x", "delta_gap"),
    ] {
        let (_, broken) = broken_promises(bad);
        assert!(
            broken.iter().any(|line| line.contains(word)),
            "{bad:?}: {broken:?}"
        );
    }
}
