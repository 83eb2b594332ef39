//! A game goes on where it was: what a new incarnation is given, whatever was killed before.
//!
//! The engine is this executable (`sidekick_tests::saver`). `HARNESS_KILLS` sets the number of kills (20), `HARNESS_SEED`
//! repeats a run's choices; the kernel's timing is not repeated.

use std::path::PathBuf;
use std::process::ExitCode;

use libtest_mimic::Arguments;
use sidekick_tests::saver::{self, Saver, broken_promises, kill};
use sidekick_tests::verdicts::trial;
use sidekick_tests::watchdog::Setup;

fn main() -> ExitCode {
    if let Some(code) = saver::act_if_asked() {
        return code;
    }
    let trials = vec![
        trial(
            "a_kill_gives_back_the_last_checkpoint",
            a_kill_gives_back_the_last_checkpoint,
        ),
        trial("a_false_word_is_noticed", a_false_word_is_noticed),
        trial("broken_journals_are_noticed", broken_journals_are_noticed),
    ];
    libtest_mimic::run(&Arguments::from_args(), trials).exit_code()
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
    setup.set_config(saver::CONFIG);
    (setup, journal)
}

/// The promise: what is restored is the last checkpoint whose call had returned (or was under way), whole.
fn a_kill_gives_back_the_last_checkpoint() {
    let (setup, journal) = set_up(false);
    saver::assert_kept_over_kills(&setup, &journal);
}

/// The test above can fail: an engine that calls a checkpoint done before it is in the ring. A kill has to come between the two,
/// which it does in nearly every round.
fn a_false_word_is_noticed() {
    const ROUNDS: u64 = 8;
    let is_noticed = |seed| {
        let (setup, journal) = set_up(true);
        let (_, broken) = kill(&setup, &journal, 12, seed);
        broken.iter().any(|line| line.contains("was restored"))
    };
    assert!((0..ROUNDS).any(is_noticed));
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
