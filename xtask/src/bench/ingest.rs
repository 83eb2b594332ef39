//! Records per second from the ring to the disk, beside the disk alone.
//!
//! The producer is the example `flood` of sidekick-ipc, launched by a real watchdog as if it were the game. The limit
//! is a loop that writes the same bytes into a pre-zeroed file of the same disk, with one fdatasync for as many as the
//! watchdog's own commits held on average. Rounds alternate, so that both see the same machine.

use std::error::Error;
use std::fs;
use std::io;
use std::os::unix::fs::FileExt;
use std::path::Path;
use std::time::{Duration, Instant};

use serde::Deserialize;
use sidekick_tests::build::Profile;
use sidekick_tests::folders::Folder;
use sidekick_tests::wait;
use sidekick_tests::watchdog::Setup;

use super::line::{Line, Printer, Target, at, median, sorted};
use super::{metrics, passed};

const ROUNDS: usize = 5;
/// Measured in each round.
const RECORDS: u64 = 1_000_000;
/// Before that: pages, the log's first files.
const WARM_UP: u64 = 100_000;
const VALUE_BYTES: &str = "150";
const PATIENCE: Duration = Duration::from_secs(180);
/// The limit's file; large enough that the disk's own cache does not see the same blocks all the time.
const PLAIN_BYTES: usize = 64 << 20;
const PLAIN_PASSES: usize = 6;

/// Fewer than this would be felt by a busy server; fewer than this of what the disk can do would be our fault.
const RECORDS_PER_S_MIN: f64 = 300_000.0;
const OF_LIMIT_MIN: f64 = 0.3;
/// How far apart the rounds' limits may be for a verdict on the share of it.
const STEADY: f64 = 2.0;

/// What `flood` writes down.
#[derive(Debug, Deserialize)]
struct Flood {
    records: u64,
    frame_bytes: u64,
    recorded_s: f64,
    committed_s: f64,
    windows: Vec<f64>,
    refused: u64,
}

/// One round: the flood, the commits it took, and the disk alone.
struct Round {
    rate: f64,
    record_rate: f64,
    windows: Vec<f64>,
    records_per_sync: f64,
    limit: f64,
}

pub(super) fn run(printer: Printer) -> Result<(), Box<dyn Error>> {
    let flood = passed::example("sidekick-ipc", "flood")?;
    for (case, sinks) in [("end_to_end", "[]"), ("end_to_end_file_sink", "[\"file\"]")] {
        let mut rounds = Vec::new();
        for number in 1..=ROUNDS {
            printer.tell(&format!("ingest, {case}, round {number} of {ROUNDS}"));
            rounds.push(round(&flood, sinks)?);
        }
        print(printer, case, &rounds);
    }
    passed::bench(printer, "sidekick-watchdog", "ingest_store", |_| None)
}

fn print(printer: Printer, case: &str, rounds: &[Round]) {
    let of = |pick: fn(&Round) -> f64| rounds.iter().map(pick).collect::<Vec<f64>>();
    let windows: Vec<f64> = rounds
        .iter()
        .flat_map(|round| round.windows.clone())
        .collect();
    let n = RECORDS * rounds.len() as u64;
    let line = Line::median("ingest", case, "records/s", &windows)
        .with_value(median(&of(|round| round.rate)))
        .with_n(n)
        .beside("fdatasync", median(&of(|round| round.limit)))
        .beside("record_calls", median(&of(|round| round.record_rate)))
        .beside(
            "records_per_fdatasync",
            median(&of(|round| round.records_per_sync)),
        )
        .target(Target::AtLeast(RECORDS_PER_S_MIN));
    printer.print(&line);
    // A shared disk has fast and slow minutes: only the fastest pass of all rounds says what it can do.
    let limits = sorted(&of(|round| round.limit));
    let limit = limits.last().copied().unwrap_or_default();
    let ratios: Vec<f64> = rounds.iter().map(|round| round.rate / limit).collect();
    let line = Line::median("ingest", &format!("{case}_of_fdatasync"), "ratio", &ratios)
        .beside("fdatasync_slowest", at(&limits, 0.0))
        .beside("fdatasync_fastest", limit);
    // What is faster than its limit has shown that the limit was measured in a slow minute, and nothing else.
    if ratios.iter().any(|ratio| *ratio > 1.0) || limits.first() < Some(&(limit / STEADY)) {
        printer.tell("the disk was not steady: no verdict on its share; run it again");
        printer.print(&line);
    } else {
        printer.print(&line.target(Target::AtLeast(OF_LIMIT_MIN)));
    }
}

fn round(flood: &Path, sinks: &str) -> Result<Round, Box<dyn Error>> {
    let mut setup = Setup::with_profile(Profile::Release);
    setup.set_config(&format!(
        "[engine]\nrestart = \"never\"\n[health]\nheartbeat = \"optional\"\n[upload]\nsinks = {sinks}\n"
    ));
    let out = setup.scratch().join("flood.json");
    setup.set_engine([
        flood.as_os_str().to_owned(),
        out.clone().into_os_string(),
        RECORDS.to_string().into(),
        WARM_UP.to_string().into(),
        VALUE_BYTES.into(),
    ]);
    let watchdog = setup.start();
    let text = wait::poll(PATIENCE, || {
        let has_ended = !watchdog.running.is_alive();
        let text = fs::read_to_string(&out).ok().map(Some);
        text.or_else(|| has_ended.then_some(None))
    });
    let Some(text) = text.flatten() else {
        let log = watchdog.running.lines.all().join("\n");
        return Err(format!("the flood told nothing; the watchdog's log says:\n{log}").into());
    };
    let flood: Flood = serde_json::from_str(&text)?;
    if flood.refused > 0 {
        return Err(format!("{} records were refused", flood.refused).into());
    }
    let all = (flood.records + WARM_UP) as f64;
    metrics::wait_for_committed(&watchdog, all, PATIENCE)?;
    let syncs = metrics::read(&watchdog, "sidekick_store_fsyncs_total")
        .ok_or("the watchdog's metrics have no count of fsyncs")?;
    watchdog.stop(PATIENCE);

    let records_per_sync = all / syncs.max(1.0);
    let batch_bytes = (records_per_sync * flood.frame_bytes as f64) as usize;
    // Before the setup's files go: the disk would be busy with giving their blocks back.
    let bytes_per_s = plain(batch_bytes.max(1))?;
    Ok(Round {
        rate: flood.records as f64 / flood.committed_s,
        record_rate: flood.records as f64 / flood.recorded_s,
        windows: flood.windows,
        records_per_sync,
        limit: bytes_per_s / flood.frame_bytes as f64,
    })
}

/// Bytes per second of filling a pre-zeroed file, each `batch` made durable: the best of several passes. A pass that the
/// rest of the machine disturbed is no limit.
fn plain(batch: usize) -> io::Result<f64> {
    let folder = Folder::new();
    let file = fs::File::create_new(folder.join("plain"))?;
    let batches = (PLAIN_BYTES / batch).max(1);
    let written = batches * batch;
    file.write_all_at(&vec![0; written], 0)?;
    file.sync_all()?;
    let bytes: Vec<u8> = (0..batch).map(|at| (at % 251) as u8).collect();
    let mut best = 0.0_f64;
    for _ in 0..PLAIN_PASSES {
        let started = Instant::now();
        for number in 0..batches {
            file.write_all_at(&bytes, (number * batch) as u64)?;
            file.sync_data()?;
        }
        best = best.max(written as f64 / started.elapsed().as_secs_f64());
    }
    Ok(best)
}
