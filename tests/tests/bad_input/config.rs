//! Mistakes in the configuration.

use libtest_mimic::Trial;
use rustix::process::Signal;
use sidekick_tests::wait;
use sidekick_tests::watchdog::{Setup, Watchdog};

use super::{
    PATIENCE, assert_all_arrived, assert_nothing_runs, playing, stop_cleanly, the_engine, trial,
    wait_for_committed,
};

pub(super) fn trials() -> Vec<Trial> {
    vec![
        trial(
            "every_mistake_is_listed_with_its_place_and_nothing_is_made",
            every_mistake_is_listed_with_its_place_and_nothing_is_made,
        ),
        trial(
            "a_file_that_is_no_toml_is_refused_with_the_place",
            a_file_that_is_no_toml_is_refused_with_the_place,
        ),
        trial("a_missing_file_is_named", a_missing_file_is_named),
        trial(
            "no_engine_command_is_told_how_to_set_one",
            no_engine_command_is_told_how_to_set_one,
        ),
        trial(
            "a_game_is_watched_again_once_the_file_is_mended",
            a_game_is_watched_again_once_the_file_is_mended,
        ),
        trial(
            "without_a_game_a_mistake_is_not_waited_for",
            without_a_game_a_mistake_is_not_waited_for,
        ),
    ]
}

fn every_mistake_is_listed_with_its_place_and_nothing_is_made() {
    let setup = Setup::new();
    setup.set_config(
        "[engine]\ncommand = 7\n\n[upload]\nsinks = [\"http\", \"carrier pigeon\"]\n\n[ring]\nsize = \"lots\"\n\n\
         [helth]\nhang_timeout = \"5s\"\n\n[shutdown]\nupload_grace = \"-1s\"\n",
    );
    let finished = setup.run(&["run"], PATIENCE);
    let said = finished.lines.join("\n");
    assert_eq!(finished.status.code(), Some(3), "{said}");
    let path = setup.config_path().display().to_string();
    for (line, word) in [
        (2, "command"),
        (5, "carrier pigeon"),
        (8, "size"),
        (10, "helth"),
        (14, "upload_grace"),
    ] {
        let place = format!("{path}:{line}:");
        let told: Vec<_> = finished
            .lines
            .iter()
            .filter(|said| said.starts_with(&place))
            .collect();
        assert_eq!(told.len(), 1, "line {line} in {said}");
        assert!(told[0].contains(word), "{word} in {}", told[0]);
        let column = told[0][place.len()..].split(':').next();
        let column: u32 = column
            .and_then(|text| text.parse().ok())
            .unwrap_or_default();
        assert!(column > 0, "a column in {}", told[0]);
    }
    assert!(said.contains("5 mistakes"), "{said}");
    assert!(!setup.data_dir().exists(), "a data directory was made");
    let runtime = std::fs::read_dir(setup.runtime_dir()).expect("readable");
    assert_eq!(runtime.count(), 0, "something was made for rings");
    assert_nothing_runs(&setup);
}

fn a_file_that_is_no_toml_is_refused_with_the_place() {
    let setup = Setup::new();
    setup.set_config("[engine]\ncommand = [\"true\"\n[upload\n");
    let finished = setup.run(&["run"], PATIENCE);
    let said = finished.lines.join("\n");
    assert_eq!(finished.status.code(), Some(3), "{said}");
    let place = format!("{}:", setup.config_path().display());
    assert!(
        finished.lines.iter().any(|line| line.starts_with(&place)),
        "{said}"
    );
    assert!(!setup.data_dir().exists(), "a data directory was made");
}

fn a_missing_file_is_named() {
    let setup = Setup::new();
    std::fs::remove_file(setup.config_path()).expect("removed");
    let finished = setup.run(&["run", "--", "true"], PATIENCE);
    let said = finished.lines.join("\n");
    assert_eq!(finished.status.code(), Some(3), "{said}");
    assert!(
        said.contains(&setup.config_path().display().to_string()),
        "{said}"
    );
    assert!(!setup.data_dir().exists(), "a data directory was made");
}

fn no_engine_command_is_told_how_to_set_one() {
    let setup = Setup::new();
    let finished = setup.run(&["run"], PATIENCE);
    let said = finished.lines.join("\n");
    assert_eq!(finished.status.code(), Some(3), "{said}");
    assert!(said.contains("[engine] command"), "{said}");
    assert!(!setup.data_dir().exists(), "a data directory was made");
}

/// Waits until a watchdog has said something with this in it.
#[track_caller]
fn wait_for_words(watchdog: &Watchdog<'_>, words: &str) {
    let said = wait::poll(PATIENCE, || {
        let lines = watchdog.running.lines.all();
        lines.iter().any(|line| line.contains(words)).then_some(())
    });
    let log = watchdog.running.lines.all().join("\n");
    assert!(said.is_some(), "{words:?} is not said: {log}");
}

/// The watchdog dies while somebody edits the file. The next one tells the mistakes, and those of the next edit, and takes the game
/// over as soon as there are none. A second one does not wait beside it.
fn a_game_is_watched_again_once_the_file_is_mended() {
    let setup = playing();
    let watchdog = setup.start();
    let committed = wait_for_committed(&watchdog, 10);
    let engine = the_engine(&setup, &watchdog);
    watchdog.kill();

    let path = setup.config_path().display().to_string();
    setup.set_config("[upload]\nsinks = [\"file\"\n");
    let watchdog = setup.start();
    wait_for_words(&watchdog, &format!("(process {engine}); waiting"));
    wait_for_words(&watchdog, &format!("{path}:2:"));
    let second = setup.start().wait(PATIENCE);
    let said = second.lines.join("\n");
    assert_eq!(second.status.code(), Some(7), "{said}");
    assert!(said.contains(&format!("{path}:2:")), "{said}");
    setup.set_config("\n\n[upload]\nsinks = [\"carrier pigeon\"]\n");
    wait_for_words(&watchdog, &format!("{path}:4:"));
    // Half an editor's way of saving.
    std::fs::remove_file(setup.config_path()).expect("removed");
    wait_for_words(&watchdog, "cannot be read");
    setup.set_config("");
    wait_for_words(&watchdog, "the configuration is mended");
    wait_for_committed(&watchdog, committed + 10);
    assert_eq!(the_engine(&setup, &watchdog), engine);
    stop_cleanly(&setup, watchdog);
    assert_all_arrived(&setup, &setup.uploaded_files());
}

/// The game died, too, or it is a first start: whoever starts it is told at once.
fn without_a_game_a_mistake_is_not_waited_for() {
    let setup = playing();
    let watchdog = setup.start();
    wait_for_committed(&watchdog, 10);
    let engine = the_engine(&setup, &watchdog);
    watchdog.kill();
    setup.signal(engine, Signal::KILL);
    wait::until("the game's end", PATIENCE, || {
        (!setup.descendants(None).contains(&engine)).then_some(())
    });
    setup.set_config("[upload\n");
    let finished = setup.start().wait(PATIENCE);
    let said = finished.lines.join("\n");
    assert_eq!(finished.status.code(), Some(3), "{said}");
    setup.set_config("");
    let watchdog = setup.start();
    wait_for_committed(&watchdog, 20);
    stop_cleanly(&setup, watchdog);
    assert_all_arrived(&setup, &setup.uploaded_files());
}
