//! `cargo xtask bench`: what a record costs the game, how many are committed a second, what an idle watchdog
//! costs, how long a server that died is away, how long players wait for their match, what keeping it costs, and how fast records
//! reach a backend.
//!
//! Everything runs optimized, in real processes, beside a peer or a limit measured in the same run. Nothing here fails
//! for being slow: machines differ and share their cores. Each line says its target and whether it was reached.

mod gap;
mod idle;
mod ingest;
mod line;
mod metrics;
mod passed;
mod record;
mod relaunch;
mod store;
mod upload;

use std::error::Error;

use clap::{Args, ValueEnum};

use self::line::Printer;

const RELAUNCH_SAMPLES: u16 = 100;
const GAP_SAMPLES: u16 = 50;

/// What to measure.
#[derive(Debug, Args)]
pub struct Options {
    #[arg(value_enum, default_value_t = What::All)]
    what: What,
    /// Print one JSON object a line instead of a table.
    #[arg(long)]
    json: bool,
    /// How many relaunches (100 if not given) and gaps (50) are measured of each kind.
    #[arg(long, value_parser = clap::value_parser!(u16).range(1..))]
    samples: Option<u16>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
enum What {
    /// What one record costs the game, from GDScript in the real engine and in Rust.
    Record,
    /// Records per second from the ring to the disk.
    Ingest,
    /// Processor, memory and size of a watchdog whose game does nothing.
    Idle,
    /// From the death of a server to the next one's first instruction and first tick.
    Relaunch,
    /// From the death of a server to the next one's first tick with restored state, cold and with a standby.
    Gap,
    /// What a checkpoint and a read of the state store cost the game.
    Store,
    /// From the ring over the disk to a backend, beside rsyslog and PostgreSQL's own `\\copy`; a backlog of ten million.
    Upload,
    /// Everything.
    All,
}

/// Measures and prints.
///
/// # Errors
/// When something could not be measured; a missed target is no error.
pub fn run(options: &Options) -> Result<(), Box<dyn Error>> {
    let printer = Printer { json: options.json };
    let wanted = |what| options.what == What::All || options.what == what;
    let samples = |default| usize::from(options.samples.unwrap_or(default));
    if wanted(What::Idle) {
        idle::run(printer)?;
    }
    if wanted(What::Relaunch) {
        relaunch::run(printer, samples(RELAUNCH_SAMPLES))?;
    }
    if wanted(What::Gap) {
        gap::run(printer, samples(GAP_SAMPLES))?;
    }
    if wanted(What::Store) {
        store::run(printer)?;
    }
    if wanted(What::Ingest) {
        ingest::run(printer)?;
    }
    if wanted(What::Upload) {
        upload::run(printer)?;
    }
    if wanted(What::Record) {
        record::run(printer)?;
    }
    Ok(())
}
