//! Data directories that cannot be had.

use std::fs;

use libtest_mimic::Trial;
use sidekick_tests::mount::Mount;
use sidekick_tests::watchdog::Setup;

use super::{
    PATIENCE, assert_all_arrived, assert_refuses, assert_says, ignorable, playing, stop_cleanly,
    trial, wait_for_committed,
};

pub(super) fn trials() -> Vec<Trial> {
    vec![
        trial(
            "a_file_in_place_of_the_data_directory",
            a_file_in_place_of_the_data_directory,
        ),
        trial(
            "a_data_directory_below_a_file",
            a_data_directory_below_a_file,
        ),
        trial("a_file_in_place_of_the_log", a_file_in_place_of_the_log),
        ignorable("a_read_only_data_directory", a_read_only_data_directory),
        ignorable(
            "a_data_directory_that_became_read_only",
            a_data_directory_that_became_read_only,
        ),
        trial(
            "a_data_directory_in_use_names_its_user_and_does_not_disturb_it",
            a_data_directory_in_use_names_its_user_and_does_not_disturb_it,
        ),
    ]
}

fn idle() -> Setup {
    let mut setup = Setup::new();
    setup.set_engine(["sleep", "600"]);
    setup
}

fn a_file_in_place_of_the_data_directory() {
    let setup = idle();
    fs::write(setup.data_dir(), "precious").expect("written");
    let sentence = assert_refuses(&setup, 6);
    assert_says(
        &sentence,
        &[setup.data_dir().to_str().expect("UTF-8"), "data_dir"],
    );
    let kept = fs::read_to_string(setup.data_dir()).expect("readable");
    assert_eq!(kept, "precious");
}

fn a_data_directory_below_a_file() {
    let mut setup = idle();
    let file = setup.scratch().join("file");
    fs::write(&file, "precious").expect("written");
    let dir = file.join("data");
    setup.set_variable("SIDEKICK_DATA_DIR", &dir);
    let sentence = assert_refuses(&setup, 6);
    assert_says(&sentence, &[dir.to_str().expect("UTF-8"), "data_dir"]);
}

fn a_file_in_place_of_the_log() {
    let setup = idle();
    fs::create_dir(setup.data_dir()).expect("made");
    fs::write(setup.data_dir().join("log"), "precious").expect("written");
    let sentence = assert_refuses(&setup, 6);
    assert_says(&sentence, &["log", "move it away"]);
    let kept = fs::read_to_string(setup.data_dir().join("log")).expect("readable");
    assert_eq!(kept, "precious");
}

fn a_read_only_data_directory() -> Result<(), String> {
    let setup = idle();
    let mount = Mount::new(&setup.data_dir(), 1 << 20)?;
    mount.make_read_only();
    let sentence = assert_refuses(&setup, 6);
    assert_says(
        &sentence,
        &[
            setup.data_dir().to_str().expect("UTF-8"),
            "ead-only",
            "--data-dir",
        ],
    );
    Ok(())
}

/// With everything in place already, no folder has to be made: the first write is what fails.
fn a_data_directory_that_became_read_only() -> Result<(), String> {
    let setup = playing();
    let mount = Mount::new(&setup.data_dir(), 64 << 20)?;
    let watchdog = setup.start();
    wait_for_committed(&watchdog, 10);
    stop_cleanly(&setup, watchdog);
    mount.make_read_only();
    let sentence = assert_refuses(&setup, 6);
    assert_says(&sentence, &["ead-only"]);
    Ok(())
}

fn a_data_directory_in_use_names_its_user_and_does_not_disturb_it() {
    let setup = playing();
    let watchdog = setup.start();
    let before = wait_for_committed(&watchdog, 10);
    let address = watchdog.api_address();

    let second = setup.run(&["run", "--", "sleep", "600"], PATIENCE);
    let log = second.lines.join("\n");
    assert_eq!(second.status.code(), Some(7), "{log}");
    let pid = watchdog.running.pid().to_string();
    assert!(log.contains(&format!("pid {pid}")), "{log}");
    assert!(log.contains("--data-dir"), "{log}");

    wait_for_committed(&watchdog, before + 100);
    assert_eq!(
        watchdog.api_address(),
        address,
        "the second one changed the API's file"
    );
    let starts = watchdog.status().expect("an answer")["engine"]["starts"].as_u64();
    assert_eq!(starts, Some(1), "the engine was disturbed");
    stop_cleanly(&setup, watchdog);
    assert_all_arrived(&setup, &setup.uploaded_files());
}
