//! The harness itself, against the real engine: what it would report wrongly, every other test would.

use std::time::Duration;

use sidekick_tests::godot::Godot;
use sidekick_tests::project::{Options, Project};

const DEADLINE: Duration = Duration::from_secs(120);

/// Runs a script that answers and quits with a code, and looks at both.
fn a_script_runs_and_its_exit_code_is_seen(godot: &Godot) {
    let project = Project::without_extension(
        "extends Node\n\nfunc _ready() -> void:\n\tprint(\"answer: \", OS.get_cmdline_user_args())\n\
         \tget_tree().quit(3)\n",
    );
    let options = Options {
        user_arguments: vec!["one", "two"],
        ..Options::default()
    };
    let output = project.run(godot, &options, DEADLINE);
    output.assert_clean_exit(3);
    assert_eq!(output.answer("answer: "), Some("[\"one\", \"two\"]"));
}

/// The engine exits with 0 after a script error; the harness must not.
fn a_script_error_is_a_complaint(godot: &Godot) {
    let project = Project::without_extension(
        "extends Node\n\nfunc _ready() -> void:\n\tget_tree().quit.call_deferred()\n\tvar nothing: Variant = null\n\
         \tnothing.do()\n",
    );
    let output = project.run(godot, &Options::default(), DEADLINE);
    assert_eq!(output.status.code(), Some(0));
    assert!(!output.complaints().is_empty(), "{:#?}", output.lines);
}

/// The engine idles for ever when the main script does not parse; the harness says so long before the deadline.
fn a_script_that_does_not_parse_fails_at_once(godot: &Godot) {
    let project = Project::without_extension("extends Node\n\nfunc _ready( -> void:\n\tpass\n");
    let problem = project
        .start(godot, &Options::default())
        .try_finish(10 * DEADLINE)
        .expect_err("no end");
    assert!(problem.contains("will never end"), "{problem}");
}

/// A project of the harness has the addon with the library just built, without an import.
fn the_extension_is_loaded(godot: &Godot) {
    let project = Project::new(
        "extends Node\n\nfunc _ready() -> void:\n\tprint(\"singleton: \", Engine.has_singleton(\"Sidekick\"))\n\
         \tget_tree().quit()\n",
    );
    let output = project.run(godot, &Options::default(), DEADLINE);
    output.assert_clean_exit(0);
    assert_eq!(output.answer("singleton: "), Some("true"));
}

sidekick_tests::godot_claims!(
    the_extension_is_loaded,
    a_script_runs_and_its_exit_code_is_seen,
    a_script_error_is_a_complaint,
    a_script_that_does_not_parse_fails_at_once,
);
