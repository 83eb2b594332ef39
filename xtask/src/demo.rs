//! `cargo xtask demo`: a real Godot server records, is killed again and again, and nothing of it gets lost.
//!
//! What is compared comes from three sides that know nothing of one another: the game notes once a frame how many of
//! its `record()` calls had been taken, the watchdog says what it found in each ring and what it committed, and a
//! small backend on loopback counts what it was sent. Only how many of the numbers were checkpoints and the like, which go to
//! no backend, is the watchdog's word alone. A client plays along and tells what its player sees of each death.

mod ending;
mod player;
mod show;

use std::error::Error;
use std::fs;
use std::process::Command;
use std::thread;
use std::time::{Duration, Instant};

use clap::Args;
use sidekick_tests::build::Profile;
use sidekick_tests::folders::{Folder, repository};
use sidekick_tests::godot::Godot;
use sidekick_tests::ports;
use sidekick_tests::process::{Running, Token};
use sidekick_tests::receiver::Receiver;
use sidekick_tests::watchdog::LogLine;

use self::ending::Ending;
use self::player::Player;
use self::show::Stage;
use crate::{godot, install};

/// How long anything may take that is a matter of seconds; then the demo says what it waited for and fails.
const PATIENCE: Duration = Duration::from_secs(60);

/// What to show.
#[derive(Debug, Args)]
pub struct Options {
    /// How many times the server is killed.
    #[arg(long, default_value_t = 5)]
    kills: u32,
    /// Time between two kills, as `5s`.
    #[arg(long, default_value = "5s")]
    crash_every: humantime::Duration,
    /// Keep a second server booted and parked, which takes over at each death.
    #[arg(long)]
    standby: bool,
    /// Go on killing until Ctrl-C.
    #[arg(long)]
    forever: bool,
    /// Simulated players in the arena.
    #[arg(long, default_value_t = 300)]
    players: u32,
    /// Build with optimizations: takes some minutes longer the first time.
    #[arg(long)]
    release: bool,
}

/// Runs the demo.
///
/// # Errors
/// When something cannot be built or started, or when a record was lost or doubled.
pub fn run(options: &Options) -> Result<(), Box<dyn Error>> {
    println!("1. Godot, the extension and the watchdog");
    let godot = build(options.release)?;
    println!("   Godot {}", godot.version);

    let receiver = Receiver::start();
    let (folder, runtime, token) = (Folder::new(), Folder::in_memory(), Token::new());
    println!(
        "2. An arena server with {} players under the watchdog{}",
        options.players,
        if options.standby {
            ", and a standby"
        } else {
            ""
        }
    );
    println!("   backend   {}", receiver.url());
    println!("   data      {}", folder.path().display());
    let port = ports::free_udp();
    let mut stage = Stage::new(
        start(options, &godot, &receiver, &folder, &runtime, &token, port)?,
        PATIENCE,
    );
    let connected = stage.wait("the game to be ready", |line| {
        (line.message == "game ready").then(|| line.fields["after_ms"].as_f64().unwrap_or_default())
    })?;
    println!("   ready     {connected:.0} ms after its start");
    let mut player = Player::join(&godot, port, folder.path(), PATIENCE)?;
    println!("   client    plays as {}", player.name());

    if options.forever {
        println!("3. Killing it every {}, until Ctrl-C", options.crash_every);
    } else {
        println!("3. Killing it {} times", options.kills);
    }
    let mut ways = ending::WAYS.iter().cycle();
    let began = Instant::now();
    let mut number = 0;
    while options.forever || number < options.kills {
        number += 1;
        // The rhythm of the show, not a wait for anything.
        thread::sleep(options.crash_every.into());
        let Some(way) = ways.next() else { break };
        if options.standby {
            stage.parked()?;
        }
        kill(*way, &mut stage, &token, &folder, began.elapsed())?;
        println!("            {}", player.resumed()?);
        if options.forever {
            println!(
                "              at the backend so far: {}",
                receiver.look(|ledger| ledger.count())
            );
        }
    }
    thread::sleep(Duration::from_secs(1));
    let goes_on = player.verdict();
    drop(player);

    println!("4. Asking the watchdog to end (SIGTERM)");
    let status = stage.end()?;
    let sessions = stage.sessions();
    println!("5. What was recorded, and what became of it");
    let account = show::Account::of(&sessions, &folder.join("witness"), &receiver.ledger())?;
    account.print();
    if !status.success() {
        return Err(format!("the watchdog ended with {status}").into());
    }
    account.verdict()?;
    println!("   {}", goes_on?);
    Ok(())
}

/// Gets Godot while cargo builds.
fn build(release: bool) -> Result<Godot, Box<dyn Error>> {
    thread::scope(|scope| {
        let godot = scope.spawn(|| godot::locate().map_err(|error| error.to_string()));
        install::install(if release {
            Profile::Release
        } else {
            Profile::Debug
        });
        match godot.join() {
            Ok(godot) => Ok(godot?),
            Err(_) => Err("looking for Godot panicked".into()),
        }
    })
}

/// Starts the addon's own launch script, as a user would.
fn start(
    options: &Options,
    godot: &Godot,
    receiver: &Receiver,
    folder: &Folder,
    runtime: &Folder,
    token: &Token,
    port: u16,
) -> Result<Running, Box<dyn Error>> {
    let config = folder.join("sidekick.toml");
    fs::write(
        &config,
        format!(
            "name = \"arena-1\"\n\
             [engine]\nstandby = {}\n\
             [health]\nhang_timeout = \"2s\"\n\
             [restart]\nstable_after = \"2s\"\n\
             [upload]\nsinks = [\"http\"]\nbatch_max_age = \"200ms\"\n\
             [upload.http]\nurl = \"{}\"\n\
             [shutdown]\nupload_grace = \"30s\"\n\
             [api]\nlisten = \"127.0.0.1:0\"\n\
             [log]\nformat = \"json\"\n",
            u8::from(options.standby),
            receiver.url()
        ),
    )?;
    let witness = folder.join("witness");
    fs::create_dir(&witness)?;
    let mut command = Command::new(repository().join("addons/sidekick/sidekick.sh"));
    command
        .arg("--project")
        .arg(repository().join("demo_project"))
        .arg("--config")
        .arg(config)
        .arg("--data-dir")
        .arg(folder.join("data"))
        .arg("--runtime-dir")
        .arg(runtime.path())
        .args(["--", "--players", &options.players.to_string()])
        .args(["--port", &port.to_string(), "--witness"])
        .arg(witness)
        .arg("--command-file")
        .arg(folder.join("command"))
        .env("GODOT4_BIN", &godot.path);
    sidekick_tests::project::confine(&mut command, folder.path());
    token.mark(&mut command);
    Ok(Running::start(&mut command)?)
}

/// Ends the engine in one of the ways and tells what the watchdog made of it.
fn kill(
    way: Ending,
    stage: &mut Stage,
    token: &Token,
    folder: &Folder,
    at: Duration,
) -> Result<(), Box<dyn Error>> {
    let pid = stage.engine().ok_or("no engine runs")?;
    way.bring(pid, token, &folder.join("command"))?;
    let died = stage.wait("the engine's death", |line| {
        is_end(line).then(|| line.number("incarnation"))
    })?;
    let (gap, next) = stage.wait("the next engine", |line| {
        let next = show::new_engine(line)?;
        Some((line.fields["gap_ms"].as_f64(), next))
    })?;
    let ready = stage.wait("the next game to be ready", |line| {
        (line.message == "game ready").then(|| line.fields["after_ms"].as_f64())
    })?;
    // Written while the next engine starts.
    let cause = stage.find("the crash report", |line| {
        let is_it = line.message == "crash report written" && line.number("incarnation") == died;
        is_it.then(|| line.text("cause").unwrap_or("?").to_owned())
    })?;
    println!(
        "   {:5.1} s  {:<24} {cause}; {next} after {:.1} ms, ready after {:.0} ms",
        at.as_secs_f64(),
        way.words(),
        gap.unwrap_or_default(),
        ready.unwrap_or_default(),
    );
    Ok(())
}

fn is_end(line: &LogLine) -> bool {
    matches!(line.message.as_str(), "engine died" | "engine quit")
}
