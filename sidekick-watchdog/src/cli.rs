//! The command line: one file per command. [`main`] parses, dispatches and returns the exit code.
//!
//! What a command answers goes to standard output, what is wrong to standard error. A closed standard output
//! (`… | head`) is no error.

use std::fmt;
use std::io::{self, Write};
use std::path::PathBuf;

use clap::{Args, CommandFactory, FromArgMatches, Parser, Subcommand};

use crate::api::operator::Verb;
use crate::config::{self, Config, ConfigErrors, Flags};
use crate::exit::ExitCode;

mod audit;
mod backend;
mod buffer;
mod check;
mod client;
mod config_print;
mod crashes;
mod dead_letters;
mod destination;
mod doctor;
mod init;
mod logs;
mod order;
mod records;
mod reload;
mod respawn;
mod run;
mod sinks;
mod state;
mod status;
mod store;
mod version;
mod words;

/// Launches, watches and relaunches a Godot server; makes durable and uploads what it records.
#[derive(Debug, Parser)]
#[command(
    name = "sidekick-watchdog",
    version,
    subcommand_required = true,
    arg_required_else_help = true
)]
struct Cli {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Launch the engine and keep it running until SIGTERM or SIGINT
    Run(ConfigArgs),
    /// Check the configuration; tell every mistake with line and column
    Check(ConfigArgs),
    /// Write a commented sidekick.toml with every setting and its default
    Init(init::InitArgs),
    /// Check what `run` will need: engine, folders, disk, port, addon
    Doctor(ConfigArgs),
    /// Ask the running watchdog how engine, records and uploads are doing
    Status(status::StatusArgs),
    /// Show what the engine prints
    #[command(
        after_help = "Examples:\n  sidekick-watchdog logs -n 50\n  sidekick-watchdog logs -f --data-dir /var/lib/lobby-1\n  \
                            sidekick-watchdog logs --incarnation 3 -n 5000"
    )]
    Logs(logs::LogsArgs),
    /// List the crash reports, or show one
    #[command(
        after_help = "Examples:\n  sidekick-watchdog crashes\n  sidekick-watchdog crashes last\n  sidekick-watchdog crashes 5f3a91c2\n  \
                            sidekick-watchdog crashes last --json > report.json\n\n\
                            Without a running watchdog the reports are read from the data directory."
    )]
    Crashes(crashes::CrashesArgs),
    /// List, show, replay or drop records that a backend refused for good
    #[command(
        subcommand,
        after_help = "Examples:\n  sidekick-watchdog dead-letters list --sink http\n  sidekick-watchdog dead-letters show 7\n  \
                      sidekick-watchdog dead-letters replay --stream purchases\n  sidekick-watchdog dead-letters drop 7 8"
    )]
    DeadLetters(dead_letters::DeadLettersCommand),
    /// End the engine and start it again
    #[command(
        after_help = "Example: sidekick-watchdog restart --data-dir /var/lib/lobby-1 --grace 30s"
    )]
    Restart(order::EndArgs),
    /// Start the engine after a stop
    #[command(after_help = "Example: sidekick-watchdog start --data-dir /var/lib/lobby-1")]
    Start(order::OrderArgs),
    /// End the engine; the watchdog goes on and starts none until `start` or `restart`
    #[command(
        after_help = "The stop holds when the watchdog dies and is started again. It ends with `start` or `restart`, when the watchdog \
                      itself is asked to end and run again, and with a reboot.\n\n\
                      Example: sidekick-watchdog stop --data-dir /var/lib/lobby-1"
    )]
    Stop(order::EndArgs),
    /// As stop, with time for the game to come to an end ([shutdown] drain_grace)
    #[command(
        after_help = "The game gets the signal quit_requested(grace_seconds): it may finish its match and call quit().\n\
                      Without a listener it quits at once. /readyz says no from the first moment on.\n\n\
                      Example: sidekick-watchdog drain --data-dir /var/lib/lobby-1 --grace 20m"
    )]
    Drain(order::EndArgs),
    /// Read, write and watch the state store of the running watchdog
    #[command(subcommand)]
    Store(store::StoreCommand),
    /// Reckon the books anew from the log, and compare them with what the destinations hold
    #[command(
        after_help = "With or without a running watchdog. Reads the folder of the file sink and the tables of the PostgreSQL sink; an HTTP \
                      backend cannot be read back. Files that were moved away count as missing. Exit code 15 when the books do not \
                      balance, else 1 when a destination could not be asked.\n\n\
                      Example: sidekick-watchdog audit --data-dir /var/lib/lobby-1"
    )]
    Audit(audit::AuditArgs),
    /// Inspect, verify or export the log on the disk, with or without a running watchdog
    #[command(subcommand)]
    Buffer(buffer::BufferCommand),
    /// Receive records over HTTP, for trying things out (a reference, not for production)
    #[command(
        after_help = "Examples:\n  sidekick-watchdog backend --dir received\n  \
                            sidekick-watchdog backend --postgres postgres://postgres@localhost/game\n\n\
                            Then, in sidekick.toml: [upload] sinks = [\"http\"] and [upload.http] url = \"http://127.0.0.1:7118/records\".\n\
                            It may be killed at any moment: what it has answered for is on the disk, each record once."
    )]
    Backend(backend::BackendArgs),
    /// Look at records
    #[command(subcommand)]
    Records(records::RecordsCommand),
    /// Show the configuration, or have it read anew
    #[command(subcommand)]
    Config(ConfigCommand),
    /// Start a dead watchdog again (for the extension)
    #[command(hide = true)]
    Respawn(respawn::RespawnArgs),
    /// Read or write the state in sled (for the watchdog)
    #[command(hide = true)]
    State(state::StateArgs),
    /// Show the version
    Version,
}

#[derive(Debug, Subcommand)]
enum ConfigCommand {
    /// Print each setting's value in force and where it came from
    Print(ConfigArgs),
    /// Have the running watchdog read its [[stream]] rules anew
    Reload(LocationArgs),
}

/// What every command takes that reads the configuration.
#[derive(Args, Clone, Debug, Default)]
struct LocationArgs {
    /// The configuration file [default: $SIDEKICK_CONFIG, else ./sidekick.toml if it exists]
    #[arg(long, value_name = "FILE")]
    config: Option<PathBuf>,
    /// This server's name in its records [default: the machine's name]
    #[arg(long)]
    name: Option<String>,
    /// Where everything durable lies [default: sidekick-data beside the configuration file]
    #[arg(long, value_name = "DIR")]
    data_dir: Option<PathBuf>,
    /// Where shared memory and locks lie [default: chosen by the system]
    #[arg(long, value_name = "DIR")]
    runtime_dir: Option<PathBuf>,
}

#[derive(Args, Clone, Debug, Default)]
struct ConfigArgs {
    #[command(flatten)]
    location: LocationArgs,
    /// The engine and its arguments, instead of [engine] command
    #[arg(last = true, value_name = "COMMAND")]
    command: Vec<String>,
}

impl ConfigArgs {
    fn load(&self) -> Result<Config, ConfigErrors> {
        self.location.load(self.command.clone())
    }
}

impl LocationArgs {
    fn load(&self, command: Vec<String>) -> Result<Config, ConfigErrors> {
        let flags = Flags {
            config: self.config.clone(),
            name: self.name.clone(),
            data_dir: self.data_dir.clone(),
            runtime_dir: self.runtime_dir.clone(),
            command,
        };
        config::load(&flags, std::env::vars_os(), &working_dir())
    }
}

/// Parses the process's command line, does what it says and returns the exit code.
pub fn main() -> std::process::ExitCode {
    let parsed = command()
        .try_get_matches()
        .and_then(|matches| Cli::from_arg_matches(&matches));
    let code = match parsed {
        Ok(cli) => dispatch(&cli.command),
        Err(error) => {
            let _ = error.print();
            match error.use_stderr() {
                true => ExitCode::Usage,
                false => ExitCode::Ok,
            }
        }
    };
    code.into()
}

fn dispatch(command: &Command) -> ExitCode {
    match command {
        Command::Run(args) => run::run(args),
        Command::Check(args) => check::run(args),
        Command::Init(args) => init::run(args),
        Command::Doctor(args) => doctor::run(args),
        Command::Status(args) => status::run(args),
        Command::Logs(args) => logs::run(args),
        Command::Crashes(args) => crashes::run(args),
        Command::DeadLetters(command) => dead_letters::run(command),
        Command::Restart(args) => order::end(Verb::Restart, args),
        Command::Start(args) => order::start(args),
        Command::Stop(args) => order::end(Verb::Stop, args),
        Command::Drain(args) => order::end(Verb::Drain, args),
        Command::Store(command) => store::run(command),
        Command::Audit(args) => audit::run(args),
        Command::Buffer(command) => buffer::run(command),
        Command::Backend(args) => backend::run(args),
        Command::Records(command) => records::run(command),
        Command::Config(ConfigCommand::Print(args)) => config_print::run(args),
        Command::Config(ConfigCommand::Reload(args)) => reload::run(args),
        Command::Respawn(args) => respawn::run(args),
        Command::State(args) => state::run(args),
        Command::Version => version::run(),
    }
}

/// The parser, with the exit codes in its long help.
fn command() -> clap::Command {
    let mut help = String::from("Exit codes:\n");
    for code in ExitCode::ALL {
        help.push_str(&format!("  {:>2}  {}\n", *code as u8, code.words()));
    }
    help.push_str(
        "\nSettings: flag > SIDEKICK_* > sidekick.toml > default. Every setting is also a variable, \
         SIDEKICK_<SECTION>__<KEY>, for example SIDEKICK_UPLOAD__HTTP__URL.",
    );
    Cli::command()
        .after_long_help(help.clone())
        .mut_subcommand("run", |run| {
            run.after_long_help(help).after_help(
                "Example: sidekick-watchdog run --name lobby-1 -- godot --headless --path my_game",
            )
        })
}

/// Where relative paths of flags and environment count from.
fn working_dir() -> PathBuf {
    // A deleted working directory leaves relative paths relative; the first use of one says what is wrong.
    std::env::current_dir().unwrap_or_default()
}

/// Writes an answer to standard output.
fn say(text: impl fmt::Display) {
    let mut out = io::stdout().lock();
    let _ = writeln!(out, "{text}").and_then(|()| out.flush());
}

/// Writes what is wrong to standard error.
fn complain(text: impl fmt::Display) {
    let _ = writeln!(io::stderr().lock(), "sidekick-watchdog: {text}");
}

/// Prints every complaint, one a line, so that an editor can jump to it.
fn complain_of_config(errors: &ConfigErrors) -> ExitCode {
    let what = match errors.complaints.len() {
        1 => "1 mistake".to_owned(),
        count => format!("{count} mistakes"),
    };
    complain(format_args!("{what} in the configuration"));
    let _ = writeln!(io::stderr().lock(), "{errors}");
    ExitCode::BadConfig
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_parser_is_sound() {
        command().debug_assert();
    }

    /// The user arguments of a game follow a second `--`, which must reach the engine.
    #[test]
    fn everything_after_the_first_dashes_is_the_command() {
        let line = [
            "sidekick-watchdog",
            "run",
            "--name",
            "a",
            "--",
            "godot",
            "--path",
            "p",
            "--",
            "--name",
            "b",
        ];
        let matches = command().try_get_matches_from(line).unwrap();
        let Command::Run(args) = Cli::from_arg_matches(&matches).unwrap().command else {
            panic!("run");
        };
        assert_eq!(args.location.name.as_deref(), Some("a"));
        assert_eq!(args.command, ["godot", "--path", "p", "--", "--name", "b"]);
    }

    /// The terminal breaks lines where it ends; a break of ours within a sentence is one too many.
    #[test]
    fn helps_break_lines_only_where_a_sentence_ends() {
        fn look(command: &clap::Command, breaks: &mut Vec<String>) {
            let helps = [command.get_after_help(), command.get_after_long_help()];
            for help in helps.into_iter().flatten().map(ToString::to_string) {
                let lines: Vec<&str> = help.lines().collect();
                let amid = |pair: &&[&str]| match pair {
                    [line, next] => {
                        let ends = line.is_empty() || line.ends_with(['.', ':']);
                        let is_list = next.is_empty() || next.starts_with(' ');
                        !ends && !is_list
                    }
                    _ => false,
                };
                let name = command.get_name();
                let found = lines.windows(2).filter(amid);
                breaks.extend(found.map(|pair| format!("{name}: {}", pair.join(" / "))));
            }
            for inner in command.get_subcommands() {
                look(inner, breaks);
            }
        }
        let mut breaks = Vec::new();
        look(&command(), &mut breaks);
        assert!(breaks.is_empty(), "{breaks:#?}");
    }

    #[test]
    fn the_long_help_names_every_command_and_every_exit_code() {
        let help = command().render_long_help().to_string();
        for name in [
            "run", "check", "init", "doctor", "status", "restart", "start", "stop", "drain",
            "store", "config", "version",
        ] {
            assert!(
                help.lines().any(|line| line.trim_start().starts_with(name)),
                "{name}\n{help}"
            );
        }
        for code in ExitCode::ALL {
            assert!(help.contains(code.words()), "{code:?}\n{help}");
        }
    }
}
