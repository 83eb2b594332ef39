//! The harness itself, against the real watchdog: a setup is a world of its own.

use std::time::Duration;

use sidekick_tests::watchdog::Setup;

const DEADLINE: Duration = Duration::from_secs(120);

/// Runs the watchdog's commands in a setup and looks at their documented exit codes.
#[test]
fn commands_run_in_the_setups_own_folders() {
    let setup = Setup::new();
    setup.set_config("[engine]\ncommand = [\"true\"]\n");
    let check = setup.run(&["check"], DEADLINE);
    assert_eq!(check.status.code(), Some(0), "{:#?}", check.lines);

    let status = setup.run(&["status", "--json"], DEADLINE);
    assert_eq!(
        status.status.code(),
        Some(10),
        "nobody runs here: {:#?}",
        status.lines
    );

    setup.set_config("[engine]\ncommand = 7\n");
    let check = setup.run(&["check"], DEADLINE);
    assert_eq!(check.status.code(), Some(3), "{:#?}", check.lines);
    let path = setup.config_path().display().to_string();
    assert!(
        check.lines.iter().any(|line| line.contains(&path)),
        "{:#?}",
        check.lines
    );
}
