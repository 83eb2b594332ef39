//! The addon's launch script, with stand-ins for the watchdog and the engine that print what they were given.

use std::fs;
use std::os::unix::fs::{PermissionsExt, symlink};
use std::path::{Path, PathBuf};
use std::process::{Command, Output};
use std::time::Duration;

use rustix::process::Signal;
use serde_json::Value;
use sidekick_tests::folders::{Folder, repository, write_program};
use sidekick_tests::process::Running;
use sidekick_tests::wait;
use sidekick_tests::watchdog::Setup;

const PATIENCE: Duration = Duration::from_secs(120);

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
            write_program(&path, text, mode);
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

/// Puts a stand-in for the watchdog in the place of the one that prints its words; it appends to the file `runs` first.
fn set_watchdog(installed: &Installed, body: &str) -> PathBuf {
    let runs = installed.folder.join("runs");
    let path = installed.game().join(WATCHDOG);
    let text = format!("#!/bin/sh\necho $$ >> '{}'\n{body}\n", runs.display());
    write_program(&path, text.as_bytes(), 0o755);
    runs
}

fn lines(path: &Path) -> Vec<String> {
    let text = fs::read_to_string(path).unwrap_or_default();
    text.lines().map(str::to_owned).collect()
}

/// The script as a command in the background.
fn script(installed: &Installed, arguments: &[&str]) -> Command {
    // Whoever runs the tests may ignore signals (`nohup`, a job in the background of a script), and no shell traps what was
    // ignored when it began.
    let mut command = Command::new("env");
    command
        .args(["--default-signal=HUP,INT,QUIT,TERM", "sh"])
        .arg(installed.game().join("addons/sidekick/sidekick.sh"))
        .args(arguments)
        .current_dir(installed.folder.path())
        .env("GODOT4_BIN", &installed.godot);
    command
}

/// What a human must mend, and what was asked for, is left as it is; the exit code is the watchdog's.
#[test]
fn what_a_restart_cannot_mend_is_left_and_the_exit_code_is_the_watchdogs() {
    for code in [0, 2, 3, 4, 5, 7, 11, 12] {
        let installed = Installed::new();
        let runs = set_watchdog(&installed, &format!("exit {code}"));
        assert_eq!(installed.run(&[]).status.code(), Some(code));
        assert_eq!(lines(&runs).len(), 1, "{code}");
    }
}

/// A watchdog that dies whenever it is started is started five times again, each time later; a `sleep` of our own takes the time out
/// of it and writes the pauses down.
#[test]
fn a_watchdog_that_keeps_dying_is_started_again_five_times() {
    for (death, code) in [("kill -9 $$", 137), ("exit 1", 1)] {
        let installed = Installed::new();
        let runs = set_watchdog(&installed, death);
        let pauses = installed.folder.join("pauses");
        let sleep = installed.folder.join("bin/sleep");
        let text = format!("#!/bin/sh\necho $1 >> '{}'\n", pauses.display());
        write_program(&sleep, text.as_bytes(), 0o755);
        let path = std::env::var("PATH").unwrap_or_default();
        let output = script(&installed, &[])
            .env(
                "PATH",
                format!("{}:{path}", installed.folder.join("bin").display()),
            )
            .output()
            .expect("there is a sh");
        assert_eq!(output.status.code(), Some(code));
        assert_eq!(lines(&runs).len(), 6);
        assert_eq!(lines(&pauses), ["1", "2", "4", "8"]);
        let said = String::from_utf8_lossy(&output.stderr);
        assert!(
            said.contains("the 6th time in 60 s; not started again"),
            "{said}"
        );
    }
}

/// Each signal reaches the watchdog once, and its answer is the script's exit code; nothing is started again. (A shell cannot trap what it
/// was started ignoring, as INT and QUIT in the background; that the watchdog can is in the test with the real one.)
#[test]
fn signals_are_handed_on_once() {
    for (name, signal) in [("TERM", Signal::TERM), ("HUP", Signal::HUP)] {
        let installed = Installed::new();
        let got = installed.folder.join("got");
        let body = format!(
            "trap \"echo x >> '{}'\" {name}; echo up >> '{}'\nn=0; while [ $n -lt 15 ]; do sleep 0.02; [ ! -e '{}' ] || n=$((n + 1)); done\nexit 9",
            got.display(),
            installed.folder.join("up").display(),
            got.display(),
        );
        let runs = set_watchdog(&installed, &body);
        let mut running = Running::start(&mut script(&installed, &[])).expect("there is a sh");
        let up = installed.folder.join("up");
        wait::poll(PATIENCE, || up.exists().then_some(())).expect("the watchdog runs");
        running.signal(signal);
        let status = running.wait(PATIENCE).expect("it ends");
        assert_eq!(status.code(), Some(9), "{name}");
        assert_eq!(lines(&got), ["x"], "{name}");
        assert_eq!(lines(&runs).len(), 1, "{name}");
    }
}

/// After a death, one that the game has brought back keeps ours out: that is no error, it is waited for, and it gets the signals.
#[test]
fn a_watchdog_that_the_game_has_brought_back_is_waited_for() {
    let installed = Installed::new();
    let mut other = Running::start(Command::new("sleep").arg("1000")).expect("there is a sleep");
    let asked = installed.folder.join("asked");
    let died = installed.folder.join("died");
    // It dies, then finds the directory locked; who asks is told of the other.
    let body = format!(
        "if [ $1 = status ]; then echo \"$*\" >> '{0}'; echo '{{\"name\":\"a b\",\"pid\":{1},\"engine\":{{\"pid\":1}}}}'; exit 0; fi\n\
         [ -e '{2}' ] && exit 7\n: > '{2}'\nkill -9 $$",
        asked.display(),
        other.pid(),
        died.display(),
    );
    let _ = set_watchdog(&installed, &body);
    let mut running =
        Running::start(&mut script(&installed, &["--data-dir", "a b"])).expect("there is a sh");
    wait::poll(PATIENCE, || (!lines(&asked).is_empty()).then_some(())).expect("it asks");
    running.signal(Signal::TERM);
    assert!(other.wait(PATIENCE).is_some_and(|status| !status.success()));
    let status = running.wait(PATIENCE).expect("it ends");
    assert_eq!(status.code(), Some(0), "{:?}", running.settled_lines());
    assert_eq!(lines(&asked)[0], "status --json --data-dir a b");
}

/// With `--no-restart` the script becomes the watchdog, and its death is the script's.
#[test]
fn without_restart_the_script_becomes_the_watchdog() {
    use std::os::unix::process::ExitStatusExt;
    let installed = Installed::new();
    let runs = set_watchdog(&installed, "kill -9 $$");
    let mut running =
        Running::start(&mut script(&installed, &["--no-restart"])).expect("there is a sh");
    let pid = running.pid().to_string();
    let status = running.wait(PATIENCE).expect("it ends");
    assert_eq!(status.signal(), Some(9));
    assert_eq!(lines(&runs), [pid]);
}

/// The real watchdog, killed with SIGKILL under the script: the same engine goes on, the next watchdog adopts it, and SIGINT to the
/// script ends both.
#[test]
fn a_killed_watchdog_is_started_again_and_adopts_the_game() {
    let installed = Installed::new();
    let setup = Setup::new();
    setup.set_config("[health]\nheartbeat = \"optional\"\n");
    let watchdog = installed.game().join(WATCHDOG);
    fs::remove_file(&watchdog).expect("there");
    symlink(setup.command(&[]).get_program(), &watchdog).expect("writable");
    let game = installed.folder.join("game.x86_64");
    let text = "#!/bin/sh\ntrap 'exit 0' TERM\nwhile :; do sleep 0.02; done\n";
    write_program(&game, text.as_bytes(), 0o644);
    let mut command = script(&installed, &["--engine", &game.display().to_string()]);
    for (name, value) in setup.command(&[]).get_envs() {
        match value {
            Some(value) => command.env(name, value),
            None => command.env_remove(name),
        };
    }
    let mut running = Running::start(&mut command).expect("there is a sh");
    let status = || -> Option<(u64, u64)> {
        let finished = setup.run(&["status", "--json"], PATIENCE);
        let status: Value = serde_json::from_str(&finished.stdout.join("\n")).ok()?;
        Some((status["pid"].as_u64()?, status["engine"]["pid"].as_u64()?))
    };
    let (first, engine) = wait::poll(PATIENCE, status).expect("a watchdog and its engine");
    setup.signal(u32::try_from(first).expect("a pid"), Signal::KILL);
    let next = wait::poll(PATIENCE, || status().filter(|(pid, _)| *pid != first));
    let (second, adopted) = next.expect("the next watchdog");
    assert_eq!(adopted, engine);
    running.signal(Signal::INT);
    let status = running.wait(PATIENCE).expect("it ends");
    assert_eq!(status.code(), Some(0), "{:?}", running.settled_lines());
    let alive = setup.token.processes();
    for pid in [engine, second] {
        assert!(!alive.iter().any(|found| u64::from(*found) == pid));
    }
}

/// `--help` names every option and starts nothing.
#[test]
fn help_helps() {
    let text = printed(&Installed::new().run(&["--help"]));
    for word in [
        "--engine",
        "--project",
        "--no-restart",
        "GODOT4_BIN",
        "get_cmdline_user_args",
        "--config",
    ] {
        assert!(text.contains(word), "{word} is missing in:\n{text}");
    }
}
