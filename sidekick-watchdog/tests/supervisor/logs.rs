//! What engines print, over the deaths of watchdogs and engines.

use std::fs;
use std::time::Duration;

use sidekick_watchdog::crash::keep::CrashFolder;
use sidekick_watchdog::event::EngineEvent;

use crate::harness::{Site, Watched, eventually, kill};

/// Prints numbered lines without end, and notes how far it is.
const TALKS: &str = "i=0; while :; do i=$((i+1)); echo \"line $i is one of many\"; \
                     if [ $((i % 40)) = 0 ]; then echo $i > told.new; mv told.new told; sleep 0.005; fi; done";

/// All that is kept of the first engine's output.
fn kept(site: &Site) -> String {
    let mut pieces: Vec<_> = fs::read_dir(site.path().join("data/engine"))
        .expect("a folder")
        .map(|entry| entry.expect("an entry").path())
        .filter(|path| path.to_string_lossy().contains("/0000000001."))
        .collect();
    pieces.sort_by_key(|path| {
        let name = path
            .file_stem()
            .expect("a name")
            .to_string_lossy()
            .into_owned();
        name.split_once('.')
            .map_or(0, |(_, start)| start.parse::<u64>().expect("an offset"))
    });
    assert!(pieces.len() > 1, "rotated: {pieces:?}");
    pieces
        .iter()
        .map(|path| fs::read_to_string(path).expect("text"))
        .collect()
}

/// Kills ten watchdogs under an engine that prints all the time. What is kept in the end, over all its pieces, is every
/// line that it printed, once, in order.
#[test]
fn no_line_is_lost_or_doubled_however_many_watchdogs_die() {
    let site = Site::new(TALKS);
    let told = || site.numbers("told").first().copied();
    for _ in 0..10 {
        let mut watchdog = site.watchdog_process();
        let before = told().unwrap_or(0);
        eventually("it to print on", || {
            told().filter(|told| *told > before + 200)
        });
        watchdog.kill();
        assert_eq!(site.engines().len(), 1);
    }
    let watched = Watched::start(site.config()).expect("started");
    let log = watched.handle.log();
    watched.shut_down(Duration::from_secs(5));
    assert!(site.engines().is_empty());
    let told = told().expect("a number");
    let text = kept(&site);
    let numbers: Vec<u32> = text
        .lines()
        .filter_map(|line| line.strip_prefix("line ")?.split(' ').next()?.parse().ok())
        .collect();
    let wanted: Vec<u32> = (1..=u32::try_from(numbers.len()).expect("few")).collect();
    assert!(numbers == wanted, "lost or doubled");
    assert!(
        numbers.len() >= told as usize,
        "{} of {told}",
        numbers.len()
    );
    assert!(
        !site.path().join("run/output/0000000001.log").exists(),
        "in memory no longer"
    );
    // The same is read back line by line.
    let lines = log.read_back(1, 300).expect("read");
    assert_eq!(lines.len(), 300);
    let last: Vec<&str> = text.lines().collect();
    assert_eq!(lines[299].text, last[last.len() - 1]);
}

/// An engine dies of SIGKILL: there is a report with its last lines, and none for the end that was asked for.
#[test]
fn a_death_leaves_a_report_and_an_end_that_was_asked_for_none() {
    let site = Site::new("echo incarnation $SIDEKICK_LAUNCH; exec sleep 1000");
    let mut watched = Watched::start(site.config()).expect("started");
    let (_, pid) = watched.started();
    let log = watched.handle.log();
    eventually("its line", || {
        (!log.last_lines(Some(1)).is_empty()).then_some(())
    });
    kill(pid);
    watched.until(|event| matches!(event, EngineEvent::Died { .. }).then_some(()));
    watched.started();
    let folder = CrashFolder::new(&site.path().join("data"));
    let id = eventually("a report", || folder.ids().ok()?.first().copied());
    watched.shut_down(Duration::from_secs(5));
    let report = folder.read(id).expect("a report");
    assert_eq!(
        (report.incarnation, report.pid, report.signal),
        (1, pid, Some(9))
    );
    let texts: Vec<_> = report.log_lines.iter().map(|line| &*line.text).collect();
    assert_eq!(texts, ["incarnation 1"]);
    assert!(site.path().join("run/deaths/0000000001.json").exists());
    assert_eq!(folder.ids().expect("readable").len(), 1);
}
