//! The addon as a user has it: unpacked into a fresh project and started by its launch script.

use std::fs;
use std::io;
use std::path::Path;
use std::process::Command;
use std::time::Duration;

use rustix::process::Signal;

use crate::godot::Godot;
use crate::ledger::Ledger;
use crate::process::{Running, Token};
use crate::project;
use crate::wait;

const PATIENCE: Duration = Duration::from_secs(120);
/// What the watchdog's end leaves ends at once; a loaded machine is slow.
const END_TIME_MAX: Duration = Duration::from_secs(10);
/// The game's only stream.
const STREAM: &str = "hello";
const PROJECT: &str = "config_version=5\n\n[application]\n\nconfig/name=\"Fresh project\"\n\
                       run/main_scene=\"res://main.tscn\"\nconfig/features=PackedStringArray(\"4.5\")\n";
const SCENE: &str = "[gd_scene load_steps=2 format=3]\n\n\
                     [ext_resource type=\"Script\" path=\"res://main.gd\" id=\"1\"]\n\n\
                     [node name=\"Main\" type=\"Node\"]\nscript = ExtResource(\"1\")\n";
const SCRIPT: &str = "extends Node\n\n\nfunc _ready() -> void:\n\tSidekick.record(&\"hello\", {\"who\": OS.get_cmdline_user_args()})\n\
                      \tSidekick.mark_ready()\n";

/// Makes a project around the addon in `folder`, starts it with the launch script, waits for the record that its game
/// makes, and stops it. What it writes stays in `folder`.
///
/// # Errors
/// What did not work, with everything that was written.
pub fn try_out(folder: &Path, godot: &Godot) -> Result<(), String> {
    let write = |name: &str, text: &str| {
        fs::write(folder.join(name), text).map_err(|error| format!("cannot write {name}: {error}"))
    };
    write("project.godot", PROJECT)?;
    write("main.tscn", SCENE)?;
    write("main.gd", SCRIPT)?;

    let token = Token::new();
    let data_dir = folder.join("server-data");
    // As the README says: executed, from anywhere.
    let mut command = Command::new(folder.join("addons/sidekick/sidekick.sh"));
    command
        .args(["--name", "fresh", "--data-dir"])
        .arg(&data_dir)
        .args(["--", "world"])
        .current_dir("/")
        .env("GODOT4_BIN", &godot.path)
        // A port of the system's choice: others may run here.
        .env("SIDEKICK_API_LISTEN", "127.0.0.1:0");
    token.mark(&mut command);
    project::confine(&mut command, folder);
    let mut running = Running::start(&mut command)
        .map_err(|error| format!("the launch script cannot be started: {error}"))?;

    let arrived = || -> io::Result<bool> {
        let ledger = Ledger::read_folder(&data_dir.join("uploads"))?;
        Ok(ledger.records().values().any(|arrival| {
            arrival.stream == STREAM && arrival.data() == serde_json::json!({"who": ["world"]})
        }))
    };
    let has_arrived = wait::poll(PATIENCE, || {
        let has_ended = running.status().is_some();
        let arrived = arrived().unwrap_or_default();
        arrived
            .then_some(true)
            .or_else(|| has_ended.then_some(false))
    });
    if has_arrived != Some(true) {
        let wrote = running.lines.all().join("\n");
        return Err(format!(
            "the game's record did not arrive; the watchdog wrote:\n{wrote}"
        ));
    }
    running.signal(Signal::TERM);
    let ended = running.wait(PATIENCE);
    let wrote = running.settled_lines().join("\n");
    // What was a helper's may still be ending.
    let none_left = || token.processes().is_empty().then_some(());
    match ended.map(|status| status.code()) {
        Some(Some(0)) if wait::poll(END_TIME_MAX, none_left).is_some() => Ok(()),
        Some(Some(0)) => Err(format!(
            "something was left running; the watchdog wrote:\n{wrote}"
        )),
        _ => Err(format!(
            "asked to end it gave {ended:?}; the watchdog wrote:\n{wrote}"
        )),
    }
}
