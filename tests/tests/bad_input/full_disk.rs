//! A disk that is full, at the start and amid everything. The data directory is a small file system of its own.

use std::fs;
use std::io::Write;
use std::path::{Path, PathBuf};
use std::time::Duration;

use libtest_mimic::Trial;
use rustix::process::Signal;
use sidekick_ipc::value::write_json;
use sidekick_ipc::{Attachment, ReaderCheckpoint, Record, frames};
use sidekick_tests::engine::{Game, faults_of_arrival};
use sidekick_tests::ledger::Ledger;
use sidekick_tests::mount::Mount;
use sidekick_tests::wait;
use sidekick_tests::watchdog::{Setup, Watchdog};

use super::{
    PATIENCE, assert_all_arrived, assert_nothing_runs, assert_refuses, assert_says, ignorable,
    journals, played, playing, stop_cleanly, the_engine, wait_for_committed,
};

/// Room for log, state and uploads of what these tests record.
const DISK_BYTES: u64 = 128 << 20;
/// More than the ring has room for, so that some waits in the spill file.
const RECORDS: u64 = 12_000;
/// Made before the disk is full.
const RECORDS_EARLY: u64 = 100;
const TEXT_BYTES: usize = 1000;

pub(super) fn trials() -> Vec<Trial> {
    vec![
        ignorable(
            "a_full_disk_at_the_first_start",
            a_full_disk_at_the_first_start,
        ),
        ignorable(
            "a_full_disk_at_a_later_start_harms_nothing",
            a_full_disk_at_a_later_start_harms_nothing,
        ),
        ignorable(
            "while_the_disk_is_full_records_wait_and_are_committed_when_there_is_space",
            while_the_disk_is_full_records_wait_and_are_committed_when_there_is_space,
        ),
        ignorable(
            "a_watchdog_ends_in_time_on_a_full_disk_and_the_next_one_goes_on",
            a_watchdog_ends_in_time_on_a_full_disk_and_the_next_one_goes_on,
        ),
        ignorable(
            "killed_on_a_full_disk_both_lose_nothing",
            killed_on_a_full_disk_both_lose_nothing,
        ),
        ignorable(
            "who_takes_records_and_ignores_a_full_disk_is_found_out",
            who_takes_records_and_ignores_a_full_disk_is_found_out,
        ),
    ]
}

fn a_full_disk_at_the_first_start() -> Result<(), String> {
    let mut setup = Setup::new();
    setup.set_engine(["sleep", "600"]);
    let mount = Mount::new(&setup.data_dir(), 1 << 20)?;
    let filler = mount.fill();
    let sentence = assert_refuses(&setup, 6);
    assert_says(&sentence, &["No space left", "free some space"]);
    // Room for the lock, none for the log.
    fs::File::options()
        .write(true)
        .open(&filler)
        .and_then(|file| file.set_len((1 << 20) - (64 << 10)))
        .expect("the filler cut");
    let sentence = assert_refuses(&setup, 6);
    assert_says(&sentence, &["log", "No space left", "free some space"]);
    Ok(())
}

/// The log has room that was written before, so the watchdog runs; uploads and the state have none and wait.
fn a_full_disk_at_a_later_start_harms_nothing() -> Result<(), String> {
    let setup = playing();
    let mount = Mount::new(&setup.data_dir(), DISK_BYTES)?;
    let watchdog = setup.start();
    wait_for_committed(&watchdog, 100);
    let engine = the_engine(&setup, &watchdog);
    watchdog.kill();
    setup.signal(engine, Signal::KILL);
    let filler = mount.fill();
    let mut watchdog = setup.start();
    let reason = watchdog.wait_for_log("the full disk", PATIENCE, |line| {
        (line.message == "upload failed; trying again")
            .then(|| line.text("reason").unwrap_or_default().to_owned())
    });
    assert_says(&reason, &["No space left", "free space"]);
    wait_for_committed(&watchdog, 200);
    fs::remove_file(filler).expect("removed");
    stop_cleanly(&setup, watchdog);
    assert_all_arrived(&setup, &setup.uploaded_files());
    let set_aside = fs::read_dir(setup.data_dir())
        .expect("readable")
        .filter_map(Result::ok)
        .filter(|entry| entry.file_name().to_string_lossy().contains(".bad-"));
    assert_eq!(set_aside.count(), 0, "a whole database was set aside");
    Ok(())
}

/// A setup with a game that records [`RECORDS`] records, over a file system of its own.
fn recording() -> Result<(Setup, Mount), String> {
    let mut setup = Setup::new();
    set_upload_grace(&setup, "5s");
    let game = Game {
        per_frame: 20,
        text_bytes: TEXT_BYTES,
        records_max: RECORDS,
        ..Game::new(journals(&setup))
    };
    game.let_record(RECORDS_EARLY);
    setup.set_engine(game.command_line());
    let mount = Mount::new(&setup.data_dir(), DISK_BYTES)?;
    Ok((setup, mount))
}

/// What a watchdog that is to end with everything uploaded may take for it.
const GRACE: &str = "80s";

fn set_upload_grace(setup: &Setup, grace: &str) {
    let config = format!("[ring]\nsize = \"1MiB\"\n[shutdown]\nupload_grace = \"{grace}\"\n");
    setup.set_config(&config);
}

/// A watchdog whose game has recorded everything beside a disk that has become full, and the file that fills it.
#[track_caller]
fn on_a_full_disk<'a>(setup: &'a Setup, mount: &Mount) -> (PathBuf, Watchdog<'a>) {
    let mut watchdog = setup.start();
    wait_for_committed(&watchdog, RECORDS_EARLY);
    let filler = mount.fill();
    Game::new(journals(setup)).let_record(RECORDS);
    let reason = watchdog.wait_for_log("the full disk", PATIENCE, |line| {
        (line.level == "WARN" && line.message == "records wait in the ring")
            .then(|| line.text("reason").unwrap_or_default().to_owned())
    });
    assert_says(&reason, &["No space left", "free some space"]);
    // The game notices nothing.
    wait::until("all records", PATIENCE, || {
        (played(setup).iter().map(|engine| engine.last).max() == Some(RECORDS)).then_some(())
    });
    assert!(played(setup).iter().all(|engine| engine.refused == 0));
    (filler, watchdog)
}

fn while_the_disk_is_full_records_wait_and_are_committed_when_there_is_space() -> Result<(), String>
{
    let (setup, mount) = recording()?;
    set_upload_grace(&setup, GRACE);
    let (filler, watchdog) = on_a_full_disk(&setup, &mount);
    let status = watchdog.status().expect("an answer on a full disk");
    let committed = status["totals"]["committed"].as_u64().expect("a number");
    assert!(committed < RECORDS, "the disk was not full: {status:#}");
    fs::remove_file(filler).expect("removed");
    wait_for_committed(&watchdog, RECORDS);
    let log = watchdog.log();
    stop_cleanly(&setup, watchdog);
    let complaints = log
        .iter()
        .filter(|line| line.message == "records wait in the ring");
    assert!(complaints.count() <= 3, "it complained too often: {log:#?}");
    assert_all_arrived(&setup, &setup.uploaded_files());
    Ok(())
}

fn a_watchdog_ends_in_time_on_a_full_disk_and_the_next_one_goes_on() -> Result<(), String> {
    let (setup, mount) = recording()?;
    let (filler, watchdog) = on_a_full_disk(&setup, &mount);
    let finished = watchdog.stop(PATIENCE);
    let log = finished.lines.join("\n");
    // Not 0: a reboot would take what waits in memory.
    assert_eq!(finished.status.code(), Some(6), "{log}");
    assert!(
        log.contains("not everything that was recorded is committed"),
        "{log}"
    );
    fs::remove_file(filler).expect("removed");
    set_upload_grace(&setup, GRACE);
    let watchdog = setup.start();
    wait_for_committed(&watchdog, RECORDS);
    stop_cleanly(&setup, watchdog);
    assert_all_arrived(&setup, &setup.uploaded_files());
    Ok(())
}

fn killed_on_a_full_disk_both_lose_nothing() -> Result<(), String> {
    let (setup, mount) = recording()?;
    let (filler, watchdog) = on_a_full_disk(&setup, &mount);
    let engine = the_engine(&setup, &watchdog);
    watchdog.kill();
    setup.signal(engine, Signal::KILL);
    wait::until("both to be gone", PATIENCE, || {
        setup.descendants(None).is_empty().then_some(())
    });
    // On the full disk the next one either refuses or waits; it harms nothing.
    let mut watchdog = setup.start();
    let ended = wait::poll(Duration::from_secs(3), || watchdog.running.status());
    match ended {
        Some(status) => {
            assert_eq!(status.code(), Some(6));
            assert_nothing_runs(&setup);
        }
        None => watchdog.kill(),
    }
    setup.token.kill_all();
    fs::remove_file(filler).expect("removed");
    set_upload_grace(&setup, GRACE);
    let watchdog = setup.start();
    wait_for_committed(&watchdog, RECORDS);
    stop_cleanly(&setup, watchdog);
    assert_all_arrived(&setup, &setup.uploaded_files());
    Ok(())
}

/// The broken variant: somebody who drains the ring, writes what was in it, and says that it is committed whether or not there
/// was space. The check of the tests above finds nothing missing while there is space, and the loss when there is none.
fn who_takes_records_and_ignores_a_full_disk_is_found_out() -> Result<(), String> {
    for (disk_bytes, loses) in [(DISK_BYTES, false), (2 << 20, true)] {
        let setup = Setup::new();
        let mount = Mount::new(&setup.data_dir(), disk_bytes)?;
        let ledger = take_carelessly(&setup, &mount.path().join("taken.ndjson"));
        let faults = faults_of_arrival(&played(&setup), &ledger);
        let is_found = faults.iter().any(|fault| fault.contains("are missing"));
        assert_eq!(is_found, loses, "{faults:?}");
    }
    Ok(())
}

/// Serves a game by hand and gives what is in the file in the end.
fn take_carelessly(setup: &Setup, path: &Path) -> Ledger {
    const WANTED: u64 = 4000;
    let game = Game {
        per_frame: 20,
        text_bytes: TEXT_BYTES,
        records_max: WANTED,
        ..Game::new(journals(setup))
    };
    let _engine = game.start_by_hand(setup, 1);
    let name = wait::until("its ring", PATIENCE, || {
        let rings = sidekick_ipc::scan(setup.runtime_dir()).ok()?;
        rings.into_iter().next()
    });
    let mut ring = Attachment::open(&name).expect("a good ring");
    ring.resume(1, ReaderCheckpoint::default());
    let epoch = ring.info().epoch;
    let mut file = fs::File::create(path).expect("room for an empty file");
    wait::until("all records", PATIENCE, || {
        let mut bytes = Vec::new();
        let drained = ring.drain(&mut bytes, 1 << 20).expect("a good ring");
        for frame in frames(&bytes, &epoch) {
            let frame = frame.expect("a good frame");
            let record = Record::parse(frame.payload).expect("a good record");
            let mut data = Vec::new();
            write_json(record.variant, &mut data).expect("a good value");
            let (seq, data) = (frame.header.seq, String::from_utf8_lossy(&data));
            let line = format!(
                "{{\"source\":\"test\",\"epoch\":\"{epoch}\",\"seq\":{seq},\"stream\":\"{}\",\"data\":{data}}}\n",
                record.stream
            );
            // Here lies the fault.
            let _ = file.write_all(line.as_bytes());
        }
        let last = (drained.first_seq + drained.count).saturating_sub(1);
        if drained.count > 0 {
            ring.release(last, &drained.checkpoint);
        }
        (drained.count > 0 && last == WANTED).then_some(())
    });
    // Its journal comes a moment after the records.
    wait::until("its own account", PATIENCE, || {
        played(setup)
            .iter()
            .any(|engine| engine.last == WANTED)
            .then_some(())
    });
    let text = fs::read_to_string(path).expect("readable");
    let mut ledger = Ledger::default();
    ledger.take_lines(&text[..text.rfind('\n').map_or(0, |end| end + 1)]);
    ledger
}
