//! The addon's launch script, with stand-ins for the watchdog and the engine that print what they were given.

use std::fs;
use std::os::unix::fs::{PermissionsExt, symlink};
use std::path::{Path, PathBuf};
use std::process::{Command, Output};

use sidekick_tests::folders::{Folder, repository};

const LIST: &str = ".godot/extension_list.cfg";
const ENTRY: &str = "res://addons/sidekick/sidekick.gdextension";
const WATCHDOG: &str = "addons/sidekick/bin/linux.x86_64/sidekick-watchdog";

/// A project with the addon copied into it, as an installation leaves it: no execute bits, no `.godot`.
struct Installed {
    folder: Folder,
    /// A Godot that does nothing.
    godot: PathBuf,
}

impl Installed {
    fn new() -> Self {
        let folder = Folder::new();
        let put = |inside: &str, text: &[u8], mode: u32| {
            let path = folder.join(inside);
            fs::create_dir_all(path.parent().expect("inside the folder")).expect("writable");
            fs::write(&path, text).expect("writable");
            fs::set_permissions(&path, fs::Permissions::from_mode(mode)).expect("ours");
            path
        };
        let source = repository().join("addons/sidekick");
        for name in ["sidekick.sh", "sidekick.gdextension"] {
            let text = fs::read(source.join(name)).expect("part of the addon");
            put(&format!("game/addons/sidekick/{name}"), &text, 0o644);
        }
        put(
            &format!("game/{WATCHDOG}"),
            b"#!/bin/sh\nprintf '<%s>\\n' \"$@\"\n",
            0o644,
        );
        put("game/project.godot", b"config_version=5\n", 0o644);
        let godot = put("bin/godot", b"#!/bin/sh\n", 0o755);
        Self { folder, godot }
    }

    fn game(&self) -> PathBuf {
        self.folder.join("game")
    }

    fn run(&self, arguments: &[&str]) -> Output {
        self.run_as(&self.game().join("addons/sidekick/sidekick.sh"), arguments)
    }

    fn run_as(&self, script: &Path, arguments: &[&str]) -> Output {
        Command::new("sh")
            .arg(script)
            .args(arguments)
            .current_dir(self.folder.path())
            .env("GODOT4_BIN", &self.godot)
            .output()
            .expect("there is a sh")
    }
}

fn printed(output: &Output) -> String {
    assert!(
        output.status.success(),
        "{}",
        String::from_utf8_lossy(&output.stderr)
    );
    String::from_utf8_lossy(&output.stdout).into_owned()
}

fn refused(output: &Output, code: i32) -> String {
    assert_eq!(output.status.code(), Some(code));
    assert!(output.stdout.is_empty());
    String::from_utf8_lossy(&output.stderr).into_owned()
}

/// Watchdog options stay before the engine, game arguments after it, and spaces and empty words survive.
#[test]
fn every_word_reaches_its_place() {
    let installed = Installed::new();
    let output = installed.run(&[
        "--name",
        "lobby 1",
        "--config=a b.toml",
        "--",
        "--map=two words",
        "",
        "--engine",
        "$HOME",
    ]);
    let (godot, game) = (installed.godot.display(), installed.game());
    let expected = format!(
        "<run>\n<--name>\n<lobby 1>\n<--config=a b.toml>\n<-->\n<{godot}>\n<--headless>\n<--path>\n<{}>\n<-->\n\
         <--map=two words>\n<>\n<--engine>\n<$HOME>\n",
        game.display()
    );
    assert_eq!(printed(&output), expected);
}

/// With no arguments at all: the project, without an empty `--`.
#[test]
fn the_project_and_the_engine_are_found() {
    let installed = Installed::new();
    let expected = format!(
        "<run>\n<-->\n<{}>\n<--headless>\n<--path>\n<{}>\n",
        installed.godot.display(),
        installed.game().display()
    );
    assert_eq!(printed(&installed.run(&[])), expected);
}

/// What an installation from the asset library loses is repaired, and a list that is there is kept.
#[test]
fn execute_bit_and_extension_list_are_repaired() {
    let installed = Installed::new();
    let list = installed.game().join(LIST);
    printed(&installed.run(&[]));
    let mode = fs::metadata(installed.game().join(WATCHDOG))
        .expect("there")
        .permissions()
        .mode();
    assert_eq!(mode & 0o111, 0o111);
    assert_eq!(
        fs::read_to_string(&list).expect("written"),
        format!("{ENTRY}\n")
    );

    fs::write(&list, "res://other.gdextension").expect("writable");
    printed(&installed.run(&[]));
    printed(&installed.run(&[]));
    assert_eq!(
        fs::read_to_string(&list).expect("written"),
        format!("res://other.gdextension\n{ENTRY}\n")
    );
}

/// An exported game needs neither project nor Godot; its own arguments follow.
#[test]
fn an_exported_game_runs_alone() {
    let installed = Installed::new();
    let game = installed.folder.join("export/game.x86_64");
    fs::create_dir_all(game.parent().expect("inside")).expect("writable");
    fs::write(&game, "").expect("writable");
    let output = installed.run(&["--engine", "export/game.x86_64", "--name", "x", "--", "a"]);
    assert_eq!(
        printed(&output),
        format!(
            "<run>\n<--name>\n<x>\n<-->\n<{}>\n<--headless>\n<-->\n<a>\n",
            game.display()
        )
    );
    assert_ne!(
        fs::metadata(&game).expect("there").permissions().mode() & 0o100,
        0
    );
    assert!(
        !installed.game().join(LIST).exists(),
        "the project is not touched"
    );
}

/// Started from anywhere, the project's own configuration is found; one that is named or lies in the current directory wins.
#[test]
fn the_projects_configuration_is_found() {
    let installed = Installed::new();
    let ours = installed.game().join("sidekick.toml");
    fs::write(&ours, "").expect("writable");
    let given = format!("<run>\n<--config>\n<{}>\n<-->\n", ours.display());
    assert!(printed(&installed.run(&[])).starts_with(&given));
    assert!(printed(&installed.run(&["--config=b"])).starts_with("<run>\n<--config=b>\n<-->\n"));

    let exported = installed.folder.join("export/game.x86_64");
    fs::create_dir_all(exported.parent().expect("a folder")).expect("writable");
    fs::write(&exported, "").expect("writable");
    let beside = exported.with_file_name("sidekick.toml");
    fs::write(&beside, "").expect("writable");
    let output = installed.run(&["--engine", "export/game.x86_64"]);
    let given = format!("<run>\n<--config>\n<{}>\n<-->\n", beside.display());
    assert!(printed(&output).starts_with(&given));

    fs::write(installed.folder.join("sidekick.toml"), "").expect("writable");
    assert!(printed(&installed.run(&[])).starts_with("<run>\n<-->\n"));
}

/// An addons folder that is a link (as in this repository's demo) leads to the project that it was called through; a link to the
/// script itself leads to the project in which the script lies.
#[test]
fn links_lead_to_the_project() {
    let installed = Installed::new();
    let demo = installed.folder.join("demo");
    fs::create_dir_all(&demo).expect("writable");
    fs::write(demo.join("project.godot"), "config_version=5\n").expect("writable");
    symlink(installed.game().join("addons"), demo.join("addons")).expect("writable");
    let output = installed.run_as(&demo.join("addons/sidekick/sidekick.sh"), &[]);
    assert!(printed(&output).ends_with(&format!("<--path>\n<{}>\n", demo.display())));

    let link = installed.folder.join("bin/serve");
    symlink(installed.game().join("addons/sidekick/sidekick.sh"), &link).expect("writable");
    let output = installed.run_as(&link, &[]);
    let game = fs::canonicalize(installed.game()).expect("there");
    assert!(printed(&output).ends_with(&format!("<--path>\n<{}>\n", game.display())));
}

/// Each way to fail says what and how to mend it, and starts nothing.
#[test]
fn what_is_missing_is_said() {
    let mut installed = Installed::new();
    assert!(refused(&installed.run(&["--engine"]), 2).contains("--engine needs a value"));
    assert!(
        refused(&installed.run(&["--engine", "nowhere"]), 4).contains("nowhere does not exist")
    );
    assert!(refused(&installed.run(&["--project", "/"]), 2).contains("no project.godot in /"));
    fs::remove_file(installed.game().join(WATCHDOG)).expect("there");
    assert!(refused(&installed.run(&[]), 4).contains("the watchdog is missing"));
    fs::remove_file(installed.game().join("project.godot")).expect("there");
    assert!(refused(&installed.run(&[]), 2).contains("use --project DIR"));
    installed = Installed::new();
    installed.godot = installed.folder.join("no-such-godot");
    assert!(refused(&installed.run(&[]), 4).contains("GODOT4_BIN is"));
}

/// `--help` names every option and starts nothing.
#[test]
fn help_helps() {
    let text = printed(&Installed::new().run(&["--help"]));
    for word in [
        "--engine",
        "--project",
        "GODOT4_BIN",
        "get_cmdline_user_args",
        "--config",
    ] {
        assert!(text.contains(word), "{word} is missing in:\n{text}");
    }
}
