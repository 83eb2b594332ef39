//! Mistakes in the configuration.

use libtest_mimic::Trial;
use sidekick_tests::watchdog::Setup;

use super::{PATIENCE, assert_nothing_runs, trial};

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
