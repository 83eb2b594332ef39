//! Ten million records that lay on the disk while the backend was away: how soon after its start a watchdog goes on with them, how fast, and
//! with how much memory.

use std::error::Error;
use std::path::Path;
use std::time::{Duration, SystemTime};

use sidekick_tests::build::Profile;
use sidekick_tests::wait;
use sidekick_tests::watchdog::Setup;
use sidekick_tests::{ports, process};

use super::super::line::{Line, Printer, Target};
use super::counter::Counter;
use super::{config, flood_command, http_sink, read_flood, usage};

const RECORDS: u64 = 10_000_000;
const PATIENCE: Duration = Duration::from_secs(600);

const RESIDENT_MIB_MAX: f64 = 64.0;
const RESUMED_S_MAX: f64 = 2.0;

pub(super) fn run(printer: Printer, flood: &Path) -> Result<(), Box<dyn Error>> {
    printer.tell("upload, ten million records while the backend is away");
    let port = ports::free();
    let mut setup = Setup::with_profile(Profile::Dist);
    setup.set_config(&config(&http_sink(port)));
    let out = flood_command(&mut setup, flood, RECORDS, None);
    let watchdog = setup.start();
    wait::poll(PATIENCE, || read_flood(&out).ok()).ok_or("the backlog was not recorded in time")?;
    watchdog.stop(PATIENCE);

    printer.tell("upload, the backend is back");
    let (counter, _) = Counter::start(port)?;
    // Something that runs; what it does is of no interest.
    setup.set_engine(["sleep", "infinity"]);
    let started = SystemTime::now();
    let watchdog = setup.start();
    let pid = watchdog.running.pid();
    let mut resident = Vec::new();
    let last = wait::poll(PATIENCE, || {
        resident.extend(usage::resident_mib(pid));
        let count = counter.count();
        count
            .last
            .filter(|_| count.records >= RECORDS || !process::runs(pid))
    });
    let count = counter.count();
    let (Some(first), Some(last)) = (count.first, last.filter(|_| count.records >= RECORDS)) else {
        let log = watchdog.running.lines.all().join("\n");
        return Err(format!(
            "{} of {RECORDS} came; the watchdog's log says:\n{log}",
            count.records
        )
        .into());
    };
    watchdog.stop(PATIENCE);

    let resumed = first.duration_since(started)?.as_secs_f64();
    let line = Line::median("upload", "backlog_resumed", "s", &[resumed]);
    printer.print(&line.target(Target::AtMost(RESUMED_S_MAX)));
    let rate = RECORDS as f64 / last.duration_since(first)?.as_secs_f64();
    printer.print(&Line::median("upload", "backlog_drained", "records/s", &[rate]).with_n(RECORDS));
    let most = resident.iter().copied().fold(0.0, f64::max);
    let line = Line::median("upload", "backlog_resident", "MiB", &resident).with_value(most);
    printer.print(&line.target(Target::AtMost(RESIDENT_MIB_MAX)));
    Ok(())
}
