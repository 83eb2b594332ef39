//! How long after `hang_timeout` a hang is noticed.

use std::error::Error;
use std::thread;
use std::time::{Duration, Instant};

use rustix::process::Signal;
use sidekick_tests::watchdog::{LogLine, Watchdog};

use super::super::line::{Line, Printer, Target};
use super::{CONFIG, PATIENCE, SETTLE, Tools};

const HANG_TIMEOUT: Duration = Duration::from_secs(1);
const HANG_LATE_MS_MAX: f64 = 100.0;

/// From SIGSTOP of an engine at 200 frames a second to the watchdog's word, beyond `hang_timeout`.
pub(super) fn run(printer: Printer, tools: &Tools, samples: usize) -> Result<(), Box<dyn Error>> {
    printer.tell("relaunch, until a hang is noticed");
    let log = tools.log("sidekick_hang");
    let setup = tools.recording_setup(&log)?;
    let seconds = HANG_TIMEOUT.as_secs();
    setup.set_config(&CONFIG.replace(
        "[health]\n",
        &format!("[health]\nhang_timeout = \"{seconds}s\"\n"),
    ));
    let watchdog = setup.start();
    let mut late = Vec::new();
    for incarnation in 1..=samples as u64 {
        let plays = |line: &LogLine| {
            let is_it =
                line.message == "game ready" && line.number("incarnation") == Some(incarnation);
            is_it.then_some(())
        };
        wait_for_line(&watchdog, 0, plays).ok_or("the engine never played")?;
        thread::sleep(SETTLE);
        let seen = watchdog.running.lines.count();
        let engine = setup.engines(Some(&watchdog));
        let stopped = Instant::now();
        for pid in &engine {
            setup.signal(*pid, Signal::STOP);
        }
        let noticed = wait_for_line(&watchdog, seen, |line| {
            (line.message == "engine hung").then(Instant::now)
        });
        let noticed = noticed.ok_or("the hang was never noticed")?;
        let after = noticed.duration_since(stopped).as_secs_f64() - HANG_TIMEOUT.as_secs_f64();
        late.push(after * 1e3);
        for pid in engine {
            setup.signal(pid, Signal::KILL);
        }
    }
    let line = Line::median("relaunch", "hang_noticed_late", "ms", &late);
    let worst = late.iter().copied().fold(f64::MIN, f64::max);
    let line = line
        .with_value(worst)
        .beside("hang_timeout", HANG_TIMEOUT.as_secs_f64() * 1e3);
    printer.print(&line.target(Target::AtMost(HANG_LATE_MS_MAX)));
    watchdog.stop(PATIENCE);
    Ok(())
}

/// Looks every millisecond: what is measured is told by the line's arrival.
fn wait_for_line<T>(
    watchdog: &Watchdog<'_>,
    from: usize,
    mut pick: impl FnMut(&LogLine) -> Option<T>,
) -> Option<T> {
    let deadline = Instant::now() + PATIENCE;
    while Instant::now() < deadline {
        let lines = &watchdog.running.lines;
        if let Some(found) = lines.find(from, |line| pick(&LogLine::parse(line)?)) {
            return Some(found);
        }
        thread::sleep(Duration::from_millis(1));
    }
    None
}
