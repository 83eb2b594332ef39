//! As `restores.rs`, with a real engine and a game in GDScript.
//!
//! `HARNESS_KILLS` sets the number of kills (20), `HARNESS_SEED` repeats a run's choices; the kernel's timing is not
//! repeated.

use sidekick_tests::godot::Godot;
use sidekick_tests::project::Project;
use sidekick_tests::saver;
use sidekick_tests::watchdog::Setup;

/// Engines, watchdogs and both are killed: the game goes on with its last checkpoint, its puts are answered, reads see
/// them, and its watch tells of each.
fn a_game_goes_on_where_it_was(godot: &Godot) {
    let project = Project::new(saver::SCRIPT);
    let mut setup = Setup::new();
    let journal = setup.scratch().join("journal");
    let path = journal.to_str().expect("a path in UTF-8").to_owned();
    setup.set_engine(project.command_line(godot, &["--journal", &path]));
    setup.set_config(saver::CONFIG);
    saver::assert_kept_over_kills(&setup, &journal);
}

sidekick_tests::godot_claims!(a_game_goes_on_where_it_was);
