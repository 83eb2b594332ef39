//! The project's own commands: `cargo xtask demo`, `test`, `bench`, `godot`, `install`, `dist`.
//!
//! Parses the command line and maps the outcome to an exit code; each command is a module.

mod bench;
mod demo;
mod dist;
mod godot;
mod install;
mod test;

use std::error::Error;
use std::process::ExitCode;

use clap::{Parser, Subcommand};

#[derive(Debug, Parser)]
#[command(
    name = "cargo xtask",
    bin_name = "cargo xtask",
    about = "Sidekick's own commands"
)]
struct Cli {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Show a real Godot server recording, being killed, and nothing of it getting lost.
    Demo(demo::Options),
    /// Find a real Godot, or unpack one into the cache folder, and print its path.
    Godot,
    /// Build the extension and the watchdog and put them into the addon's bin folder.
    Install(install::Options),
    /// Get everything a fresh machine needs, then run all tests.
    Test(test::Options),
    /// Measure what a record costs, how many are committed a second, what an idle watchdog costs, how long
    /// a server that died is away, how long players wait for their match, what keeping it costs.
    Bench(bench::Options),
    /// Build what ships, pack it as the addon's zip, and try that out.
    Dist(dist::Options),
}

fn main() -> ExitCode {
    // What is measured may need an engine: it is this executable, started again.
    if let Some(code) = sidekick_tests::engine::act_if_asked() {
        return code;
    }
    match run(Cli::parse().command) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("xtask: {error}");
            ExitCode::FAILURE
        }
    }
}

fn run(command: Command) -> Result<(), Box<dyn Error>> {
    match command {
        Command::Demo(options) => demo::run(&options),
        Command::Godot => godot::run(),
        Command::Install(options) => {
            install::run(&options);
            Ok(())
        }
        Command::Test(options) => test::run(&options),
        Command::Bench(options) => bench::run(&options),
        Command::Dist(options) => dist::run(&options),
    }
}
