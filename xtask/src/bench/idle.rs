//! What a watchdog costs while its game, a real engine at sixty frames a second, records nothing.
//!
//! All from `/proc`: time on a core and voluntary context switches of all threads, resident memory without the mapped
//! rings (they are the game's memory as much as ours), the size of the file that ships.

use std::collections::BTreeMap;
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
/// openraft's own tick is 27 of them.
const WAKEUPS_MAX: f64 = 60.0;
/// The time that wake-ups are counted over, in seconds.
const WAKEUPS_S: f64 = 10.0;

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
    let all = before.switches.saturating_sub(first.switches) as f64 / seconds * WAKEUPS_S;
    let wakeups: Vec<f64> = switches.iter().map(|per_s| per_s * WAKEUPS_S).collect();
    let line = Line::median("idle", &format!("{case}_wakeups"), "in 10 s", &wakeups);
    printer.print(&with(line.with_value(all), WAKEUPS_MAX));
    for (name, (switches, core)) in by_name(&threads_before, &threads) {
        let line = Line::median(
            "idle",
            &format!("{case}_wakeups_of_{name}"),
            "in 10 s",
            &[switches as f64 / seconds * WAKEUPS_S],
        );
        printer.print(&line.beside("core_percent", core / seconds * 100.0));
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
            .fold(Self::default(), |sum, (.., usage)| Self {
                core_ns: sum.core_ns + usage.core_ns,
                switches: sum.switches + usage.switches,
            }))
    }

    fn core_seconds(&self, before: &Self) -> f64 {
        self.core_ns.saturating_sub(before.core_ns) as f64 / 1e9
    }
}

/// Wake-ups and seconds on a core between two looks, of all threads that share a name.
fn by_name(
    before: &[(u32, String, Usage)],
    after: &[(u32, String, Usage)],
) -> BTreeMap<String, (u64, f64)> {
    let mut sums = BTreeMap::new();
    for (number, name, usage) in after {
        let old = before.iter().find(|(old, ..)| old == number);
        let old = old.map(|(_, _, usage)| *usage).unwrap_or_default();
        let sum: &mut (u64, f64) = sums.entry(name.clone()).or_default();
        sum.0 += usage.switches.saturating_sub(old.switches);
        sum.1 += usage.core_seconds(&old);
    }
    sums
}

/// Number, name and use of each thread; those that end while we look are left out.
fn threads(pid: u32) -> io::Result<Vec<(u32, String, Usage)>> {
    let mut threads = Vec::new();
    for entry in fs::read_dir(format!("/proc/{pid}/task"))? {
        let folder = entry?.path();
        let read = |name: &str| fs::read_to_string(folder.join(name)).ok();
        let (Some(name), Some(times), Some(status)) =
            (read("comm"), read("schedstat"), read("status"))
        else {
            continue;
        };
        let number = |text: Option<&str>| text.and_then(|text| text.trim().parse::<u64>().ok());
        let switches = status
            .lines()
            .find_map(|line| line.strip_prefix("voluntary_ctxt_switches:"));
        threads.push((
            number(folder.file_name().and_then(|name| name.to_str())).unwrap_or_default() as u32,
            name.trim().to_owned(),
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
    fn threads_of_one_name_are_added_up() {
        let thread = |number, name: &str, switches| {
            let core_ns = switches * 1_000_000_000;
            (number, name.to_owned(), Usage { core_ns, switches })
        };
        let before = [thread(1, "drain", 5), thread(2, "tokio", 3)];
        let after = [
            thread(1, "drain", 7),
            thread(2, "tokio", 4),
            thread(3, "tokio", 10),
        ];
        let sums = by_name(&before, &after);
        assert_eq!(sums["drain"], (2, 2.0));
        assert_eq!(sums["tokio"], (11, 11.0));
    }

    #[test]
    fn rings_do_not_count_as_resident() {
        let smaps = "7f00-7f01 r--p 00000000 00:00 12   /usr/bin/sidekick-watchdog\nSize: 8 kB\nRss: 4 kB\n\
                     7f02-7f03 rw-s 00000000 00:00 13   /dev/shm/x/0000000001-a.0.ring\nRss: 16384 kB\nVmFlags: rd\n\
                     7f04-7f05 rw-p 00000000 00:00 0 \nRss: 8 kB\n";
        assert_eq!(resident_in(smaps), 12 * 1024);
    }
}
