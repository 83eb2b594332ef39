//! Nothing piles up over many relaunches: no process, descriptor, thread, ring, lock or file.

use std::collections::BTreeMap;
use std::fs;
use std::path::Path;
use std::time::{Duration, Instant};

use libtest_mimic::Trial;
use sidekick_tests::engine::Game;
use sidekick_tests::process;
use sidekick_tests::wait;
use sidekick_tests::watchdog::Setup;

use super::{PATIENCE, assert_all_arrived, journals, playing, rounds, stop_cleanly, trial};

const RELAUNCHES_DEFAULT: u32 = 1000;
/// Relaunches after which everything that is made once has been made.
const WARM_UP: u64 = 20;
/// The output of so many engines is kept on purpose.
const OUTPUTS_MAX: usize = 51;
/// 200 reports are kept, each with a mark beside it until it is uploaded.
const REPORT_FILES_MAX: usize = 400;
/// The runtime's threads; more of them come when there is much to do and go when there is not.
const POOL: &str = "worker";
const POOL_MAX: usize = 16;
/// An engine that plays on is left alone for so many looks.
const LOOKS_AT_REST: u32 = 50;

pub(super) fn trials() -> Vec<Trial> {
    vec![
        trial("relaunches_leave_nothing_behind", relaunches),
        trial("what_piles_up_is_seen", piles_are_seen),
    ]
}

/// What could pile up, counted.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
struct Stock {
    descriptors: usize,
    /// By their names, without the numbers in them and without the runtime's pool.
    threads: BTreeMap<String, usize>,
    pool: usize,
    children: usize,
    zombies: usize,
    processes: usize,
    rings: usize,
    launch_locks: usize,
    outputs: usize,
    runtime_files: usize,
    reports: usize,
}

impl Stock {
    fn take(setup: &Setup, pid: u32) -> Self {
        let children = children(pid);
        let mut threads = threads(pid);
        let zombies = children.iter().filter(|child| !process::runs(**child));
        let rings = sidekick_ipc::scan(setup.runtime_dir()).map_or(0, |rings| rings.len());
        Self {
            descriptors: entries(Path::new(&format!("/proc/{pid}/fd"))),
            pool: threads.remove(POOL).unwrap_or_default(),
            threads,
            zombies: zombies.count(),
            children: children.len(),
            processes: setup.descendants(None).len(),
            rings,
            launch_locks: entries(&setup.runtime_dir().join("launch")),
            outputs: entries(&setup.data_dir().join("engine")),
            runtime_files: files_below(setup.runtime_dir()),
            reports: entries(&setup.data_dir().join("crashes")),
        }
    }

    /// Sentences about everything of which there is more than there was early; both are looks at one engine that plays
    /// on, so nothing comes or goes.
    fn piles(&self, early: &Self) -> Vec<String> {
        let limits = [
            ("descriptors", self.descriptors, early.descriptors),
            ("threads of the pool", self.pool, POOL_MAX),
            ("children", self.children, early.children),
            ("zombies", self.zombies, 0),
            ("processes", self.processes, early.processes),
            ("rings", self.rings, early.rings),
            ("launch locks", self.launch_locks, early.launch_locks),
            ("files in memory", self.runtime_files, early.runtime_files),
            // Kept for whoever reads them, the last of them.
            ("output files", self.outputs, OUTPUTS_MAX),
            ("reports", self.reports, REPORT_FILES_MAX),
        ];
        let threads = self.threads.iter().map(|(name, count)| {
            let limit = early.threads.get(name).copied().unwrap_or_default();
            (name.as_str(), *count, limit)
        });
        let all = limits.into_iter().chain(threads);
        all.filter(|(_, count, limit)| count > limit)
            .map(|(what, count, limit)| format!("{count} {what}, {limit} at most"))
            .collect()
    }

    /// Whether nothing but the watchdog and one engine runs.
    fn is_at_rest(&self) -> bool {
        (self.children, self.zombies, self.processes, self.rings) == (1, 0, 2, 1)
    }
}

/// Looks until one engine has played on for a while and nothing else changes any more.
fn stock_at_rest(setup: &Setup, pid: u32) -> Stock {
    let mut last = Stock::default();
    let mut looks = 0;
    let rests = wait::poll(PATIENCE, || {
        let stock = Stock::take(setup, pid);
        looks = if stock.is_at_rest() && stock == last {
            looks + 1
        } else {
            0
        };
        last = stock;
        (looks == LOOKS_AT_REST).then_some(())
    });
    assert!(rests.is_some(), "it does not come to rest: {last:?}");
    last
}

fn threads(pid: u32) -> BTreeMap<String, usize> {
    let mut counts = BTreeMap::new();
    let threads = fs::read_dir(format!("/proc/{pid}/task"));
    for thread in threads.into_iter().flatten().flatten() {
        if let Ok(name) = fs::read_to_string(thread.path().join("comm")) {
            let name = name
                .trim()
                .trim_end_matches(|char: char| char.is_ascii_digit());
            *counts.entry(name.to_owned()).or_default() += 1;
        }
    }
    counts
}

fn children(pid: u32) -> Vec<u32> {
    let Ok(threads) = fs::read_dir(format!("/proc/{pid}/task")) else {
        return Vec::new();
    };
    threads
        .flatten()
        .filter_map(|thread| fs::read_to_string(thread.path().join("children")).ok())
        .flat_map(|line| {
            let pids = line.split_ascii_whitespace().map(str::to_owned);
            pids.collect::<Vec<_>>()
        })
        .filter_map(|pid| pid.parse().ok())
        .collect()
}

fn entries(folder: &Path) -> usize {
    fs::read_dir(folder).map_or(0, Iterator::count)
}

fn files_below(folder: &Path) -> usize {
    let Ok(found) = fs::read_dir(folder) else {
        return 0;
    };
    found
        .flatten()
        .map(|entry| match entry.file_type() {
            Ok(kind) if kind.is_dir() => files_below(&entry.path()),
            _ => 1,
        })
        .sum()
}

/// The number of the newest launch.
fn launches(setup: &Setup) -> Option<u64> {
    let locks = fs::read_dir(setup.runtime_dir().join("launch")).ok()?;
    let numbers = locks.flatten().filter_map(|lock| {
        let name = lock.file_name();
        name.to_str()?.parse().ok()
    });
    numbers.max()
}

fn relaunches() {
    let wanted = u64::from(rounds("HARNESS_RELAUNCHES", RELAUNCHES_DEFAULT));
    let mut setup = playing();
    let game = Game {
        frames_max: 4,
        ..Game::new(journals(&setup))
    };
    setup.set_engine(game.command_line());
    let watchdog = setup.start();
    let pid = watchdog.running.pid();
    let begun = Instant::now();
    let patience =
        PATIENCE + Duration::from_millis(500) * u32::try_from(wanted).unwrap_or(u32::MAX);
    let reached = |count: u64| {
        let is_reached = wait::poll(patience, || {
            assert!(watchdog.running.is_alive(), "the watchdog ended");
            launches(&setup).filter(|launches| *launches >= count)
        });
        let log = || {
            watchdog
                .running
                .lines
                .all()
                .split_off(watchdog.running.lines.count().saturating_sub(20))
                .join("\n")
        };
        assert!(
            is_reached.is_some(),
            "{:?} of {count} starts\n{}",
            launches(&setup),
            log()
        );
    };
    reached(WARM_UP);
    game.hold(true);
    let early = stock_at_rest(&setup, pid);
    game.hold(false);
    reached(wanted);
    let took = begun.elapsed();
    game.hold(true);
    // What is swept, is swept a moment after each death; a heap is one at any look.
    let late = wait::poll(PATIENCE, || {
        let late = Stock::take(&setup, pid);
        (late.is_at_rest() && late.piles(&early).is_empty()).then_some(late)
    });
    let late = late.unwrap_or_else(|| {
        let late = Stock::take(&setup, pid);
        panic!("{:?}\nearly {early:?}\nlate {late:?}", late.piles(&early));
    });
    println!("{wanted} relaunches in {took:.1?}\nearly {early:?}\nlate  {late:?}");
    stop_cleanly(&setup, watchdog);
    let rings = sidekick_ipc::scan(setup.runtime_dir()).expect("readable");
    assert!(rings.is_empty(), "{rings:?}");
    let records = assert_all_arrived(&setup, usize::try_from(wanted).unwrap_or(usize::MAX) / 2);
    println!("{records} records, all arrived once");
}

/// The broken variant: a single one too many of any kind is noticed.
fn piles_are_seen() {
    let early = Stock {
        descriptors: 30,
        threads: [("main".to_owned(), 1)].into(),
        pool: POOL_MAX,
        children: 1,
        zombies: 0,
        processes: 2,
        rings: 1,
        launch_locks: 2,
        outputs: OUTPUTS_MAX,
        runtime_files: 12,
        reports: REPORT_FILES_MAX,
    };
    assert!(early.is_at_rest() && early.piles(&early).is_empty());
    let more: [fn(&mut Stock) -> &mut usize; 12] = [
        |stock| &mut stock.descriptors,
        |stock| stock.threads.entry("main".to_owned()).or_default(),
        |stock| stock.threads.entry("new".to_owned()).or_default(),
        |stock| &mut stock.pool,
        |stock| &mut stock.children,
        |stock| &mut stock.zombies,
        |stock| &mut stock.processes,
        |stock| &mut stock.rings,
        |stock| &mut stock.launch_locks,
        |stock| &mut stock.outputs,
        |stock| &mut stock.runtime_files,
        |stock| &mut stock.reports,
    ];
    for count in more {
        let mut late = early.clone();
        *count(&mut late) += 1;
        assert_eq!(late.piles(&early).len(), 1, "{late:?}");
    }
}
