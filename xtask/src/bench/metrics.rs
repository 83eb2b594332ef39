//! Reads single numbers from a watchdog's metrics.

use std::time::Duration;

use sidekick_tests::wait;
use sidekick_tests::watchdog::Watchdog;

/// The first sample whose name begins with `name`.
pub(super) fn read(watchdog: &Watchdog<'_>, name: &str) -> Option<f64> {
    let (_, text) = watchdog.get("/metrics")?;
    let line = text.lines().find(|line| line.starts_with(name))?;
    line.rsplit(' ').next()?.parse().ok()
}

/// Waits until the watchdog counts this many committed records: its metrics are made anew only now and then.
pub(super) fn wait_for_committed(
    watchdog: &Watchdog<'_>,
    records: f64,
    deadline: Duration,
) -> Result<(), String> {
    wait::poll(deadline, || {
        let committed = read(watchdog, "sidekick_records_committed_total")?;
        (committed >= records).then_some(())
    })
    .ok_or_else(|| format!("the watchdog never counted {records} committed records"))
}
