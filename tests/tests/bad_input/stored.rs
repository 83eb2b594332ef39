//! Files of the data directory that are not what was written.

use std::fs::{self, OpenOptions};
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::process::Command;

use libtest_mimic::Trial;
use rustix::process::Signal;
use sidekick_tests::engine::{Game, Played};
use sidekick_tests::wait;
use sidekick_tests::watchdog::Setup;

use super::{
    PATIENCE, assert_all_arrived, assert_refuses, assert_says, journals, played, playing,
    stop_cleanly, the_engine, trial, wait_for_committed,
};

/// Where a segment's header has what its frames' checksums begin with.
pub(super) const SALT_AT: u64 = 24;
/// Where a segment's header has its version.
const VERSION_AT: u64 = 8;

pub(super) fn trials() -> Vec<Trial> {
    vec![
        trial(
            "a_log_with_a_damaged_header_is_refused_and_left_as_it_is",
            a_log_with_a_damaged_header_is_refused_and_left_as_it_is,
        ),
        trial(
            "a_lost_end_of_the_log_is_never_silent",
            a_lost_end_of_the_log_is_never_silent,
        ),
        trial(
            "a_log_of_a_newer_version_is_refused_with_both_versions",
            a_log_of_a_newer_version_is_refused_with_both_versions,
        ),
        trial(
            "a_damaged_sled_is_set_aside_and_rebuilt",
            a_damaged_sled_is_set_aside_and_rebuilt,
        ),
        trial(
            "damaged_snapshots_are_set_aside_and_refused_when_none_is_left",
            damaged_snapshots_are_set_aside_and_refused_when_none_is_left,
        ),
    ]
}

/// Runs watchdog and engine until records are stored, kills both, and copies the data directory to where this says.
fn killed_with_records(setup: &Setup) -> PathBuf {
    let watchdog = setup.start();
    wait_for_committed(&watchdog, 300);
    let engine = the_engine(setup, &watchdog);
    watchdog.kill();
    setup.signal(engine, Signal::KILL);
    wait::until("their end", PATIENCE, || {
        setup.descendants(None).is_empty().then_some(())
    });
    let copy = setup.scratch().join("copy");
    copy_folder(&setup.data_dir(), &copy);
    copy
}

fn copy_folder(from: &Path, to: &Path) {
    let copied = Command::new("cp").arg("-a").args([from, to]).status();
    assert!(copied.is_ok_and(|status| status.success()));
}

/// Puts the copied data directory back in place, starts again and finds everything.
#[track_caller]
fn assert_whole_after_restoring(setup: &Setup, copy: &Path) {
    fs::remove_dir_all(setup.data_dir()).expect("removed");
    copy_folder(copy, &setup.data_dir());
    assert_goes_on(setup);
}

/// A further start commits and uploads what there is.
#[track_caller]
fn assert_goes_on(setup: &Setup) {
    let watchdog = setup.start();
    watchdog.wait_for_status("a connected engine", PATIENCE, |status| {
        status["engine"]["connected"].as_bool().filter(|yes| *yes)
    });
    stop_cleanly(setup, watchdog);
    assert_all_arrived(setup, &setup.uploaded_files());
}

pub(super) fn segment(setup: &Setup) -> PathBuf {
    setup.data_dir().join("log").join("0000000000000001.wal")
}

/// Inverts `count` bytes of a file from `at` on.
pub(super) fn damage(path: &Path, at: u64, count: usize) {
    let file = OpenOptions::new().read(true).write(true).open(path);
    let file = file.expect("a file to damage");
    let mut bytes = vec![0; count];
    file.read_exact_at(&mut bytes, at).expect("readable");
    for byte in &mut bytes {
        *byte = !*byte;
    }
    file.write_all_at(&bytes, at).expect("written");
}

/// Where the last byte of a file is that is not zero.
pub(super) fn last_byte(path: &Path) -> u64 {
    let bytes = fs::read(path).expect("readable");
    bytes
        .iter()
        .rposition(|byte| *byte != 0)
        .expect("not empty") as u64
}

/// Without its header nothing in a segment can be told from what it held before. Damage behind it costs an entry (`rot`).
fn a_log_with_a_damaged_header_is_refused_and_left_as_it_is() {
    let setup = playing();
    let copy = killed_with_records(&setup);
    let path = segment(&setup);
    damage(&path, SALT_AT, 8);
    let damaged = fs::read(&path).expect("readable");
    let sentence = assert_refuses(&setup, 6);
    assert_says(
        &sentence,
        &[
            path.to_str().expect("UTF-8"),
            "is damaged at byte",
            "restore it from a copy",
        ],
    );
    assert!(
        fs::read(&path).expect("readable") == damaged,
        "it was changed"
    );
    assert_whole_after_restoring(&setup, &copy);
}

/// A torn end cannot be told from a write that a power cut took. Here it had been acknowledged, as on a disk that lies
/// about fsync: what was in it is lost, and that is told.
fn a_lost_end_of_the_log_is_never_silent() {
    let setup = playing();
    killed_with_records(&setup);
    let path = segment(&setup);
    damage(&path, last_byte(&path) - 7, 8);
    let watchdog = setup.start();
    watchdog.wait_for_status("a connected engine", PATIENCE, |status| {
        status["engine"]["connected"].as_bool().filter(|yes| *yes)
    });
    let finished = stop_cleanly(&setup, watchdog);
    let ledger = setup.uploaded_files();
    assert!(ledger.violations.is_empty(), "{:#?}", ledger.violations);
    let all: Vec<_> = played(&setup).iter().flat_map(Played::keys).collect();
    let missing = ledger.missing(&all);
    println!("{} of {} records are lost", missing.len(), all.len());
    let log = finished.lines.join("\n");
    assert!(
        missing.is_empty() || log.contains("the log is older than what was acknowledged"),
        "{} records are missing without a word: {log}",
        missing.len()
    );
}

fn a_log_of_a_newer_version_is_refused_with_both_versions() {
    let setup = playing();
    let copy = killed_with_records(&setup);
    let path = segment(&setup);
    let file = OpenOptions::new().write(true).open(&path).expect("a log");
    // A header of which one byte is another one is known all the same: a newer one says more than ours.
    let newer = [9, 0, 1];
    file.write_all_at(&newer, VERSION_AT).expect("written");
    let sentence = assert_refuses(&setup, 6);
    assert_says(
        &sentence,
        &["has version 9", "knows 1", "use the newer program"],
    );
    assert_whole_after_restoring(&setup, &copy);
}

fn a_damaged_sled_is_set_aside_and_rebuilt() {
    let setup = playing();
    // The state is written once a minute, and at the end.
    let watchdog = setup.start();
    wait_for_committed(&watchdog, 100);
    stop_cleanly(&setup, watchdog);
    for name in ["conf", "db"] {
        let path = setup.data_dir().join("state").join(name);
        let bytes = fs::metadata(&path).expect("sled's file").len();
        damage(&path, 0, bytes as usize);
    }
    let mut watchdog = setup.start();
    watchdog.wait_for_log("the damage", PATIENCE, |line| {
        (line.level == "WARN" && line.message.contains("rebuilding from snapshot and log"))
            .then_some(())
    });
    wait_for_committed(&watchdog, 300);
    stop_cleanly(&setup, watchdog);
    assert_all_arrived(&setup, &setup.uploaded_files());
}

/// The snapshots of a data directory whose log is purged behind them.
fn snapshots(setup: &Setup) -> Vec<PathBuf> {
    // Not there before the first start has come so far.
    let entries = fs::read_dir(setup.data_dir().join("snapshots"));
    let mut files: Vec<_> = entries
        .into_iter()
        .flatten()
        .filter_map(|entry| Some(entry.ok()?.path()))
        .filter(|path| path.extension().is_some_and(|kind| kind == "snap"))
        .collect();
    files.sort();
    files
}

fn damaged_snapshots_are_set_aside_and_refused_when_none_is_left() {
    let mut setup = Setup::new();
    setup.set_config("[store]\nsnapshot_every = 16\n[upload]\nbatch_max_age = \"20ms\"\n");
    let game = Game {
        per_frame: 1,
        ..Game::new(journals(&setup))
    };
    setup.set_engine(game.command_line());
    let watchdog = setup.start();
    wait::until("purged log behind two snapshots", PATIENCE, || {
        (snapshots(&setup).len() >= 2).then_some(())
    });
    wait_for_committed(&watchdog, 300);
    stop_cleanly(&setup, watchdog);
    let copy = setup.scratch().join("copy");
    copy_folder(&setup.data_dir(), &copy);

    // One is enough.
    let files = snapshots(&setup);
    assert!(files.len() >= 2, "{files:?}");
    damage(files.last().expect("the newest"), 40, 8);
    let mut watchdog = setup.start();
    watchdog.wait_for_log("the damage", PATIENCE, |line| {
        (line.level == "WARN" && line.message.contains("snapshot unusable")).then_some(())
    });
    watchdog.wait_for_status("a connected engine", PATIENCE, |status| {
        status["engine"]["connected"].as_bool().filter(|yes| *yes)
    });
    stop_cleanly(&setup, watchdog);
    assert_all_arrived(&setup, &setup.uploaded_files());

    // None is not: an empty start would number anew what the backend has seen.
    for file in snapshots(&setup) {
        damage(&file, 40, 8);
    }
    let sentence = assert_refuses(&setup, 6);
    assert_says(
        &sentence,
        &["no snapshot in", "restore the snapshots from a copy"],
    );
    let sentence = assert_refuses(&setup, 6);
    assert_says(&sentence, &["no snapshot in"]);
}
