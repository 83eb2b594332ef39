//! How much is written to the disk for each byte that a busy game records and that is uploaded as it comes.

use std::error::Error;
use std::path::Path;
use std::time::Duration;

use sidekick_tests::build::Profile;
use sidekick_tests::wait;
use sidekick_tests::watchdog::Setup;

use super::super::line::{Line, Printer, Target};
use super::counter::Counter;
use super::{config, flood_command, http_sink, read_flood, usage};

const PER_S: u64 = 50_000;
/// The log's first files are zeroed before use, later ones are used again: only what comes after these tells what goes on for weeks.
const FIRST_RECORDS: u64 = 1_250_000;
const RECORDS: u64 = 2_500_000;
const PATIENCE: Duration = Duration::from_secs(180);

const WRITTEN_PER_BYTE_MAX: f64 = 1.3;

pub(super) fn run(printer: Printer, flood: &Path) -> Result<(), Box<dyn Error>> {
    printer.tell(&format!(
        "upload, {PER_S} records/s, what is written to the disk"
    ));
    let (counter, address) = Counter::start(0)?;
    let mut setup = Setup::with_profile(Profile::Dist);
    setup.set_config(&config(&http_sink(address.port())));
    let out = flood_command(&mut setup, flood, RECORDS, Some(PER_S));
    let folder = setup.scratch().to_owned();
    let before = usage::disk_bytes(&folder)?;
    let watchdog = setup.start();
    let mut written = Vec::new();
    for records in [FIRST_RECORDS, RECORDS] {
        let came = wait::poll(PATIENCE, || {
            (counter.count().records >= records).then_some(())
        });
        came.ok_or_else(|| format!("{records} records did not come"))?;
        written.push(usage::disk_bytes(&folder)?);
    }
    let (flood, _) =
        wait::poll(PATIENCE, || read_flood(&out).ok()).ok_or("no word of the flood")?;
    watchdog.stop(PATIENCE);

    let [first, all] = written[..] else {
        return Err("two looks".into());
    };
    let per_byte = |bytes: f64, records: u64| bytes / (records * flood.frame_bytes) as f64;
    let line = Line::median(
        "upload",
        "written_per_byte",
        "ratio",
        &[per_byte(all - first, RECORDS - FIRST_RECORDS)],
    );
    let line = line.beside("first_files", per_byte(first - before, FIRST_RECORDS));
    printer.print(&line.target(Target::AtMost(WRITTEN_PER_BYTE_MAX)));
    Ok(())
}
