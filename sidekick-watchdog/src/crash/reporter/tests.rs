//! Deaths that are told, and told again by a watchdog that comes after, without a disk and with a hook that hangs.

use std::path::Path;
use std::sync::mpsc::channel;

use super::*;
use crate::event::DeathCause;

const DEADLINE: Duration = Duration::from_secs(20);

fn config(dir: &Path) -> ReportConfig {
    ReportConfig {
        source: "test".to_owned(),
        data_dir: dir.join("data"),
        runtime_dir: dir.join("run"),
        working_dir: dir.to_owned(),
        ..ReportConfig::default()
    }
}

fn segv() -> DeathFacts {
    let signaled = DeathCause::Signaled {
        signal: 11,
        core_dumped: false,
    };
    DeathFacts::new(7, 42, signaled)
}

/// Reports a death and checks that its report lies in memory and on the disk, and that an expected one gets none.
#[test]
fn a_death_leaves_a_report_and_an_expected_end_none() {
    let dir = tempfile::tempdir().expect("temporary folder");
    let (sender, reports) = channel();
    let on_report: OnReport = Box::new(move |report, path| {
        let _ = sender.send((report, path));
    });
    let (tells, told) = sync_channel(8);
    let on_told: OnTold = Arc::new(move |incarnation| {
        let _ = tells.try_send(incarnation);
    });
    let reporter = Reporter::start(config(dir.path()), on_report, on_told).expect("started");
    let mut expected = segv();
    expected.expected = true;
    reporter.death(expected, Collected::default());
    reporter.death(segv(), Collected::default());
    drop(reporter);
    let (report, path) = reports.recv_timeout(DEADLINE).expect("a report");
    assert_eq!(report.signal, Some(11));
    assert!(
        path.starts_with(dir.path().join("data/crashes")),
        "{path:?}"
    );
    let folder = CrashFolder::new(&dir.path().join("data"));
    assert_eq!(folder.read(report.report_id).expect("read"), report);
    assert_eq!(folder.pending().expect("readable"), [report.report_id]);
    assert!(dir.path().join("run/deaths/0000000007.json").exists());
    assert!(reports.recv_timeout(DEADLINE).is_err(), "one report");
    let told: Vec<u32> = told.iter().collect();
    assert_eq!(told, [7, 7], "the end that was expected, too");
}

/// A watchdog is killed in the middle of telling a death that it was not there for: whatever it had come to, the
/// next one tells the same report, and there is one.
#[test]
fn a_death_that_was_begun_to_be_told_is_told_as_the_same() {
    for cut in ["nothing kept", "in memory", "on the disk", "both"] {
        let dir = tempfile::tempdir().expect("temporary folder");
        let unwatched = || DeathFacts::new(7, 42, DeathCause::Unwatched);
        let first = make(&config(dir.path()), unwatched(), Collected::default());
        if matches!(cut, "in memory" | "both") {
            keep_death(&dir.path().join("run"), &first).expect("kept");
        }
        let folder = CrashFolder::new(&dir.path().join("data"));
        if matches!(cut, "on the disk" | "both") {
            folder.keep(&first).expect("kept");
        }
        let told = tell_untold(dir.path(), unwatched());
        assert_eq!(told == first.report_id, cut != "nothing kept", "{cut}");
        assert_eq!(folder.ids().expect("readable"), [told], "{cut}");
        assert_eq!(folder.pending().expect("readable"), [told], "{cut}");
        // And told again by a third one.
        assert_eq!(tell_untold(dir.path(), unwatched()), told, "{cut}");
        assert_eq!(folder.ids().expect("readable"), [told], "{cut}");
    }
}

/// The broken variant: a report is made whether there is one or not. The test above would find two.
#[test]
fn made_anew_each_time_there_would_be_two_reports() {
    let dir = tempfile::tempdir().expect("temporary folder");
    let folder = CrashFolder::new(&dir.path().join("data"));
    for _ in 0..2 {
        let facts = DeathFacts::new(7, 42, DeathCause::Unwatched);
        let report = make(&config(dir.path()), facts, Collected::default());
        folder.keep(&report).expect("kept");
    }
    assert_eq!(folder.ids().expect("readable").len(), 2);
}

/// A report of that number, but of another process: of another life of the runtime directory.
#[test]
fn a_report_of_another_process_is_not_this_deaths() {
    let dir = tempfile::tempdir().expect("temporary folder");
    let other = DeathFacts::new(7, 41, DeathCause::Unwatched);
    let other = make(&config(dir.path()), other, Collected::default());
    keep_death(&dir.path().join("run"), &other).expect("kept");
    let told = tell_untold(dir.path(), DeathFacts::new(7, 42, DeathCause::Unwatched));
    assert_ne!(told, other.report_id);
}

fn tell_untold(dir: &Path, facts: DeathFacts) -> uuid::Uuid {
    let (sender, reports) = channel();
    let on_report: OnReport = Box::new(move |report, _| {
        let _ = sender.send(report);
    });
    let reporter = Reporter::start(config(dir), on_report, Arc::new(|_| {})).expect("started");
    reporter.untold_death(facts, Box::new(Collected::default));
    drop(reporter);
    reports.recv_timeout(DEADLINE).expect("a report").report_id
}

/// Makes a folder of reports impossible: the report is in memory, and told all the same.
#[test]
fn without_a_disk_the_report_is_in_memory() {
    let dir = tempfile::tempdir().expect("temporary folder");
    std::fs::write(dir.path().join("data"), "in the way").expect("written");
    let (sender, reports) = channel();
    let on_report: OnReport = Box::new(move |_, path| {
        let _ = sender.send(path);
    });
    let reporter =
        Reporter::start(config(dir.path()), on_report, Arc::new(|_| {})).expect("started");
    reporter.death(segv(), Collected::default());
    let path = reports.recv_timeout(DEADLINE).expect("a report");
    assert_eq!(path, dir.path().join("run/deaths/0000000007.json"));
}

/// A hook that hangs is killed after its time, or the next one would never run, and holds nothing else up; it finds the
/// report.
#[test]
fn the_hook_gets_the_reports_path_and_a_limit() {
    let dir = tempfile::tempdir().expect("temporary folder");
    let (told, hangs, next) = (
        dir.path().join("told"),
        dir.path().join("hangs"),
        dir.path().join("next"),
    );
    // It hangs for as long as this process lives: nothing is left running, however the test ends.
    let script = format!(
        "mkdir {hangs} 2>/dev/null || {{ touch {next}; exit; }}; cp \"$SIDEKICK_REPORT\" {told}.new && mv {told}.new {told}; \
         while kill -0 {own}; do sleep 0.1; done",
        hangs = hangs.display(),
        next = next.display(),
        told = told.display(),
        own = std::process::id(),
    );
    let mut config = config(dir.path());
    config.post_mortem = Some(PostMortem {
        command: vec!["/bin/sh".into(), "-c".into(), script],
        timeout: Duration::from_secs(5),
    });
    let (sender, reports) = channel();
    let on_report: OnReport = Box::new(move |report, _| {
        let _ = sender.send(report);
    });
    let reporter = Reporter::start(config, on_report, Arc::new(|_| {})).expect("started");
    reporter.death(segv(), Collected::default());
    reporter.death(segv(), Collected::default());
    let first = reports.recv_timeout(DEADLINE).expect("a report");
    reports.recv_timeout(DEADLINE).expect("not held up");
    let comes = |path: &Path| {
        let until = Instant::now() + DEADLINE;
        while !path.exists() && Instant::now() < until {
            std::thread::sleep(POLL);
        }
        path.exists()
    };
    assert!(comes(&told), "the hook has copied it");
    let text = std::fs::read(&told).expect("readable");
    let copied: CrashReport = serde_json::from_slice(&text).expect("whole");
    assert_eq!(copied, first);
    assert!(comes(&next), "the first hook was killed");
}
