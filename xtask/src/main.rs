//! The project's own commands: `cargo xtask godot`.
//!
//! Parses the command line and maps the outcome to an exit code; each command is a module.

mod godot;

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
    /// Find a real Godot, or unpack one into the cache folder, and print its path.
    Godot,
}

fn main() -> ExitCode {
    let outcome = match Cli::parse().command {
        Command::Godot => godot::run(),
    };
    match outcome {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("xtask: {error}");
            ExitCode::FAILURE
        }
    }
}
