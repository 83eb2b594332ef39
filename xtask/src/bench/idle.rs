//! What a watchdog costs while its game, a real engine at sixty frames a second, records nothing.
//!
//! All from `/proc`: time on a core and voluntary context switches of all threads, resident memory without the mapped
//! rings (they are the game's memory as much as ours), the size of the file that ships.

use std::error::Error;
use std::fs;
use std::io;
use std::thread;
use std::time::{Duration, Instant};

use sidekick_tests::build::{self, Profile};
use sidekick_tests::project::Project;
use sidekick_tests::watchdog::Setup;

use super::line::{Line, Printer, Target};
use crate::godot;

/// Before the first look: the eager waits after a start are over by then.
const SETTLE: Duration = Duration::from_secs(10);
const WINDOW: Duration = Duration::from_secs(1);
const WINDOWS: usize = 20;
const PATIENCE: Duration = Duration::from_secs(60);

/// DESIGN.md, "tiny".
const CORE_PERCENT_MAX: f64 = 0.5;
const RESIDENT_MIB_MAX: f64 = 32.0;
const BINARY_MIB_MAX: f64 = 12.0;

const MIB: f64 = 1024.0 * 1024.0;

pub(super) fn run(printer: Printer) -> Result<(), Box<dyn Error>> {
    printer.tell("building what ships (link-time optimization takes minutes)");
    let size = fs::metadata(build::watchdog(Profile::Dist))?.len() as f64 / MIB;
    printer.print(
        &Line::median("idle", "binary", "MiB", &[size]).target(Target::AtMost(BINARY_MIB_MAX)),
    );
    measure(printer, "idle", "0", true)?;
    measure(printer, "one_record_per_frame", "1", false)
}

fn measure(
    printer: Printer,
    case: &str,
    per_frame: &str,
    has_targets: bool,
) -> Result<(), Box<dyn Error>> {
    let godot = godot::locate()?;
    let project = Project::optimized(include_str!("idle.gd"));
    let mut setup = Setup::with_profile(Profile::Dist);
    setup.set_engine(project.command_line(&godot, &["--per-frame", per_frame]));
    let watchdog = setup.start();
    watchdog.wait_for_status("a ready game", PATIENCE, |status| {
        status["engine"]["ready"].as_bool().filter(|yes| *yes)
    });
    printer.tell(&format!("watching the watchdog, {case}"));
    thread::sleep(SETTLE);

    let pid = watchdog.running.pid();
    let (mut percents, mut switches, mut resident) = (Vec::new(), Vec::new(), Vec::new());
    let mut before = Usage::of(pid)?;
    let (first, threads_before, started) = (before, threads(pid)?, Instant::now());
    for _ in 0..WINDOWS {
        let then = Instant::now();
        thread::sleep(WINDOW);
        let now = Usage::of(pid)?;
        let seconds = then.elapsed().as_secs_f64();
        percents.push(now.core_seconds(&before) / seconds * 100.0);
        switches.push(now.switches.saturating_sub(before.switches) as f64 / seconds);
        resident.push(resident_bytes(pid)? as f64 / MIB);
        before = now;
    }
    let seconds = started.elapsed().as_secs_f64();
    let (mean, threads) = (before.core_seconds(&first) / seconds * 100.0, threads(pid)?);

    let with = |line: Line, limit: f64| match has_targets {
        true => line.target(Target::AtMost(limit)),
        false => line,
    };
    let core = Line::median("idle", &format!("{case}_core"), "% of a core", &percents);
    printer.print(&with(core.with_value(mean), CORE_PERCENT_MAX));
    let memory = Line::median("idle", &format!("{case}_resident"), "MiB", &resident);
    printer.print(&with(memory, RESIDENT_MIB_MAX));
    printer.print(&Line::median(
        "idle",
        &format!("{case}_wakeups"),
        "1/s",
        &switches,
    ));
    for (name, usage) in &threads {
        let old = threads_before.iter().find(|(old, _)| old == name);
        let old = old.map(|(_, usage)| *usage).unwrap_or_default();
        let per_s = usage.switches.saturating_sub(old.switches) as f64 / seconds;
        let percent = usage.core_seconds(&old) / seconds * 100.0;
        printer.tell(&format!(
            "  thread {name}: {per_s:.1} wake-ups/s, {percent:.3} % of a core"
        ));
    }
    let threads = threads.len() as f64;
    printer.print(&Line::median(
        "idle",
        &format!("{case}_threads"),
        "threads",
        &[threads],
    ));
    watchdog.stop(PATIENCE);
    Ok(())
}

/// What a process, or one thread, has used so far.
#[derive(Debug, Clone, Copy, Default)]
struct Usage {
    core_ns: u64,
    /// Voluntary ones: each ended a wait.
    switches: u64,
}

impl Usage {
    fn of(pid: u32) -> io::Result<Self> {
        let threads = threads(pid)?;
        Ok(threads
            .iter()
            .fold(Self::default(), |sum, (_, usage)| Self {
                core_ns: sum.core_ns + usage.core_ns,
                switches: sum.switches + usage.switches,
            }))
    }

    fn core_seconds(&self, before: &Self) -> f64 {
        self.core_ns.saturating_sub(before.core_ns) as f64 / 1e9
    }
}

/// Name (with its number) and use of each thread; those that end while we look are left out.
fn threads(pid: u32) -> io::Result<Vec<(String, Usage)>> {
    let mut threads = Vec::new();
    for entry in fs::read_dir(format!("/proc/{pid}/task"))? {
        let folder = entry?.path();
        let read = |name: &str| fs::read_to_string(folder.join(name)).ok();
        let (Some(name), Some(times), Some(status)) =
            (read("comm"), read("schedstat"), read("status"))
        else {
            continue;
        };
        let number = |text: Option<&str>| text.and_then(|text| text.trim().parse().ok());
        let switches = status
            .lines()
            .find_map(|line| line.strip_prefix("voluntary_ctxt_switches:"));
        threads.push((
            format!(
                "{} ({})",
                name.trim(),
                folder.file_name().unwrap_or_default().display()
            ),
            Usage {
                core_ns: number(times.split_whitespace().next()).unwrap_or_default(),
                switches: number(switches).unwrap_or_default(),
            },
        ));
    }
    Ok(threads)
}

/// Resident memory without the mapped rings.
fn resident_bytes(pid: u32) -> io::Result<u64> {
    Ok(resident_in(&fs::read_to_string(format!(
        "/proc/{pid}/smaps"
    ))?))
}

fn resident_in(smaps: &str) -> u64 {
    let (mut bytes, mut is_ring) = (0, false);
    for line in smaps.lines() {
        if let Some(rest) = line.strip_prefix("Rss:") {
            let kib: u64 = rest
                .split_whitespace()
                .next()
                .and_then(|text| text.parse().ok())
                .unwrap_or_default();
            bytes += if is_ring { 0 } else { kib * 1024 };
        } else if !line
            .split_whitespace()
            .next()
            .is_some_and(|word| word.ends_with(':'))
        {
            // A mapping's first line: addresses, rights, offset, device, inode, path.
            is_ring = line.contains(".ring");
        }
    }
    bytes
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rings_do_not_count_as_resident() {
        let smaps = "7f00-7f01 r--p 00000000 00:00 12   /usr/bin/sidekick-watchdog\nSize: 8 kB\nRss: 4 kB\n\
                     7f02-7f03 rw-s 00000000 00:00 13   /dev/shm/x/0000000001-a.0.ring\nRss: 16384 kB\nVmFlags: rd\n\
                     7f04-7f05 rw-p 00000000 00:00 0 \nRss: 8 kB\n";
        assert_eq!(resident_in(smaps), 12 * 1024);
    }
}
