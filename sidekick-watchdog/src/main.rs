//! Parses the command line and runs it; everything else is in the library.

fn main() -> std::process::ExitCode {
    sidekick_watchdog::cli::main()
}
