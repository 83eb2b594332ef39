//! Nothing piles up over many relaunches: no process, descriptor, thread, ring, lock or file.

use std::fs;
use std::path::Path;
use std::time::{Duration, Instant};

use libtest_mimic::Trial;
use serde_json::Value;
use sidekick_tests::engine::Game;
use sidekick_tests::process;
use sidekick_tests::wait;
use sidekick_tests::watchdog::{Setup, Watchdog};

use super::{PATIENCE, assert_all_arrived, journals, playing, rounds, stop_cleanly, trial};

const RELAUNCHES_DEFAULT: u32 = 100;
/// Relaunches after which everything that is made once has been made.
const WARM_UP: u64 = 20;
/// More of a kind than this is a heap: some are kept on purpose (the output of the last engines).
const KEPT_MAX: usize = 64;
/// 200 reports are kept, each with a mark beside it until it is uploaded.
const REPORT_FILES_MAX: usize = 420;

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
    threads: usize,
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
        let zombies = children.iter().filter(|child| !process::runs(**child));
        let rings = sidekick_ipc::scan(setup.runtime_dir()).map_or(0, |rings| rings.len());
        Self {
            descriptors: entries(Path::new(&format!("/proc/{pid}/fd"))),
            threads: entries(Path::new(&format!("/proc/{pid}/task"))),
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

    /// Sentences about everything of which there is more than there should be, `early` being a look after some
    /// relaunches.
    fn piles(&self, early: &Self) -> Vec<String> {
        let limits = [
            ("descriptors", self.descriptors, early.descriptors + 8),
            ("threads", self.threads, early.threads + 4),
            ("children", self.children, 2),
            ("zombies", self.zombies, 1),
            // Watchdog, engine, and one that dies or comes.
            ("processes", self.processes, 3),
            ("rings", self.rings, 4),
            ("launch locks", self.launch_locks, 8),
            ("output files", self.outputs, KEPT_MAX),
            ("files in memory", self.runtime_files, KEPT_MAX * 2),
            ("reports", self.reports, REPORT_FILES_MAX),
        ];
        let piles = limits.iter().filter(|(_, count, limit)| count > limit);
        piles
            .map(|(what, count, limit)| format!("{count} {what}, {limit} at most"))
            .collect()
    }
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

fn starts(watchdog: &Watchdog<'_>) -> Option<u64> {
    let (_, body) = watchdog.get("/api/v1/status")?;
    let status: Value = serde_json::from_str(&body).ok()?;
    status["engine"]["starts"].as_u64()
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
            starts(&watchdog).filter(|starts| *starts >= count)
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
            starts(&watchdog),
            log()
        );
    };
    reached(WARM_UP);
    let early = Stock::take(&setup, pid);
    reached(wanted);
    let took = begun.elapsed();
    // What is swept, is swept a moment after each death: a heap would be one at any look.
    let late = wait::poll(Duration::from_secs(20), || {
        let late = Stock::take(&setup, pid);
        late.piles(&early).is_empty().then_some(late)
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

/// The broken variant: each kind of heap is noticed.
fn piles_are_seen() {
    let early = Stock::default();
    assert!(early.piles(&early).is_empty());
    let heap = 1000;
    let heaps = [
        Stock {
            descriptors: heap,
            ..early.clone()
        },
        Stock {
            threads: heap,
            ..early.clone()
        },
        Stock {
            children: heap,
            ..early.clone()
        },
        Stock {
            zombies: heap,
            ..early.clone()
        },
        Stock {
            processes: heap,
            ..early.clone()
        },
        Stock {
            rings: heap,
            ..early.clone()
        },
        Stock {
            launch_locks: heap,
            ..early.clone()
        },
        Stock {
            outputs: heap,
            ..early.clone()
        },
        Stock {
            runtime_files: heap,
            ..early.clone()
        },
        Stock {
            reports: heap,
            ..early.clone()
        },
    ];
    for late in heaps {
        assert_eq!(late.piles(&early).len(), 1, "{late:?}");
    }
}
