//! The engine's life does not hang on the store's: a store that dies, cannot be opened, or stands still with its disk
//! delays neither relaunch nor orders nor status, and every record arrives once when it is back.

use std::fs;
use std::os::unix::fs::FileExt;
use std::process::Command;
use std::time::Duration;

use libtest_mimic::Trial;
use rustix::process::Signal;
use sidekick_tests::mount::Mount;
use sidekick_tests::wait;
use sidekick_tests::watchdog::{Setup, Watchdog};

use super::stored::{SALT_AT, damage, last_byte, segment};
use super::{
    PATIENCE, assert_all_arrived, assert_nothing_runs, assert_says, ignorable, played, playing,
    stop_cleanly, the_engine, trial, wait_for_committed,
};

const DISK_BYTES: u64 = 256 << 20;
/// Longer than everything that is to happen meanwhile takes on a slow machine.
const STALL_MAX: Duration = Duration::from_secs(600);

pub(super) fn trials() -> Vec<Trial> {
    vec![
        ignorable(
            "a_disk_that_stands_still_delays_neither_relaunch_nor_hang_nor_order",
            a_disk_that_stands_still_delays_neither_relaunch_nor_hang_nor_order,
        ),
        ignorable(
            "a_store_that_dies_takes_nothing_with_it_and_is_opened_again",
            a_store_that_dies_takes_nothing_with_it_and_is_opened_again,
        ),
        trial(
            "a_running_engine_is_adopted_beside_an_unreadable_log",
            a_running_engine_is_adopted_beside_an_unreadable_log,
        ),
        trial(
            "the_end_beside_an_unreadable_log_ends_the_engine_and_keeps_its_records",
            the_end_beside_an_unreadable_log_ends_the_engine_and_keeps_its_records,
        ),
        trial(
            "a_first_engine_does_not_wait_for_a_store_that_takes_long",
            a_first_engine_does_not_wait_for_a_store_that_takes_long,
        ),
    ]
}

/// Waits for a connected engine beyond this incarnation; its process.
#[track_caller]
fn wait_for_engine_after(watchdog: &Watchdog<'_>, incarnation: u64) -> u64 {
    watchdog.wait_for_status("the next engine", PATIENCE, |status| {
        let engine = &status["engine"];
        (engine["incarnation"].as_u64() > Some(incarnation)
            && engine["connected"].as_bool() == Some(true))
        .then(|| engine["pid"].as_u64())?
    })
}

#[track_caller]
fn incarnation(watchdog: &Watchdog<'_>) -> u64 {
    let status = watchdog.status().expect("an answer");
    status["engine"]["incarnation"].as_u64().expect("a number")
}

/// Kills the engine; the next one runs and is heard.
#[track_caller]
fn relaunched_after_a_kill(setup: &Setup, watchdog: &Watchdog<'_>) {
    let (engine, number) = (the_engine(setup, watchdog), incarnation(watchdog));
    setup.signal(engine, Signal::KILL);
    let next = wait_for_engine_after(watchdog, number);
    assert_ne!(next, u64::from(engine));
}

/// Why the store is down, as the status says it.
#[track_caller]
fn wait_until_down(watchdog: &Watchdog<'_>) -> String {
    watchdog.wait_for_status("a store that is down", PATIENCE, |status| {
        let store = &status["store"];
        (store["state"] == "failed").then(|| store["failed"].as_str().map(str::to_owned))?
    })
}

#[track_caller]
fn assert_not_ready(watchdog: &Watchdog<'_>, words: &str) {
    let (code, body) = watchdog.get("/readyz").expect("an answer");
    assert_eq!(code, 503, "{body}");
    assert!(body.contains(words), "{body}");
    let (_, metrics) = watchdog.get("/metrics").expect("an answer");
    assert!(metrics.contains("sidekick_store_up 0"), "{metrics}");
}

/// Waits until the store is open and has taken more than the engines had recorded by now.
#[track_caller]
fn wait_until_caught_up(setup: &Setup, watchdog: &Watchdog<'_>) {
    let recorded: u64 = played(setup).iter().map(|engine| engine.last).sum();
    wait_for_committed(watchdog, recorded + 1);
}

fn a_disk_that_stands_still_delays_neither_relaunch_nor_hang_nor_order() -> Result<(), String> {
    let mut setup = playing();
    setup.set_config("[health]\nhang_timeout = \"2s\"\n[restart]\ncrash_loop_deaths = 100\n");
    // The folders of its own mount stay private.
    let disk = Mount::disk(&setup.data_dir(), DISK_BYTES)?;
    setup.set_variable("SIDEKICK_DATA_DIR", setup.data_dir());
    let watchdog = setup.start();
    wait_for_committed(&watchdog, 50);
    let stall = disk.stall(STALL_MAX)?;
    relaunched_after_a_kill(&setup, &watchdog);
    let number = incarnation(&watchdog);
    let restarted = setup.run(&["restart", "--grace", "1s"], PATIENCE);
    assert!(restarted.status.success(), "{:#?}", restarted.lines);
    wait_for_engine_after(&watchdog, number);
    let number = incarnation(&watchdog);
    setup.signal(the_engine(&setup, &watchdog), Signal::STOP);
    wait_for_engine_after(&watchdog, number);
    let told = watchdog.wait_for_status("the hang's death", PATIENCE, |status| {
        let deaths = status["engine"]["last_deaths"].as_array()?;
        let mut causes = deaths.iter().filter_map(|death| death["cause"].as_str());
        causes
            .find(|cause| cause.contains("hung"))
            .map(str::to_owned)
    });
    println!("{told}");
    stall.end()?;
    wait_until_caught_up(&setup, &watchdog);
    stop_cleanly(&setup, watchdog);
    assert_all_arrived(&setup, &setup.uploaded_files());
    Ok(())
}

/// Lets no thread of the watchdog go on.
#[track_caller]
fn freeze(watchdog: &mut Watchdog<'_>) {
    watchdog.running.signal(Signal::STOP);
    let tasks = format!("/proc/{}/task", watchdog.running.pid());
    wait::until("a stopped watchdog", PATIENCE, || {
        let is_stopped = |stat: String| stat.rsplit(") ").next()?.starts_with('T').then_some(());
        let mut tasks = fs::read_dir(&tasks).ok()?;
        let all = tasks.all(|task| {
            let stat = task.and_then(|task| fs::read_to_string(task.path().join("stat")));
            stat.ok().and_then(is_stopped).is_some()
        });
        all.then_some(())
    });
}

fn a_store_that_dies_takes_nothing_with_it_and_is_opened_again() -> Result<(), String> {
    let setup = playing();
    let disk = Mount::new(&setup.data_dir(), DISK_BYTES)?;
    let mut watchdog = setup.start();
    wait_for_committed(&watchdog, 50);
    let engine = the_engine(&setup, &watchdog);
    // The room that the log had made sure of is taken from it: its next write fails, which nothing can mend.
    freeze(&mut watchdog);
    let path = segment(&setup);
    let file = fs::File::options().write(true).open(&path);
    file.and_then(|file| file.set_len(last_byte(&path) + 1))
        .expect("the segment cut");
    let filler = disk.fill();
    watchdog.running.signal(Signal::CONT);
    let reason = wait_until_down(&watchdog);
    assert_says(&reason, &["No space left"]);
    assert_not_ready(&watchdog, "the store is down");
    assert_eq!(the_engine(&setup, &watchdog), engine, "it was replaced");
    relaunched_after_a_kill(&setup, &watchdog);
    let table = setup.run(&["status"], PATIENCE).stdout.join("\n");
    assert_says(&table, &["records wait in the ring", "why: ", "No space"]);
    assert!(watchdog.running.is_alive());
    fs::remove_file(filler).expect("removed");
    wait_until_caught_up(&setup, &watchdog);
    watchdog.wait_for_status("an open store", PATIENCE, |status| {
        (status["store"]["state"] == "open" && status["store"]["failed"].is_null()).then_some(())
    });
    stop_cleanly(&setup, watchdog);
    assert_all_arrived(&setup, &setup.uploaded_files());
    Ok(())
}

/// A watchdog that was killed, its engine, and what its log was before it was damaged.
fn beside_an_unreadable_log(setup: &Setup) -> (u32, Vec<u8>) {
    let watchdog = setup.start();
    wait_for_committed(&watchdog, 300);
    let engine = the_engine(setup, &watchdog);
    watchdog.kill();
    let path = segment(setup);
    let whole = fs::read(&path).expect("readable");
    damage(&path, SALT_AT, 8);
    (engine, whole)
}

fn repair(setup: &Setup, whole: &[u8]) {
    let file = fs::File::options().write(true).open(segment(setup));
    file.and_then(|file| file.write_all_at(whole, 0))
        .expect("the log as it was");
}

fn a_running_engine_is_adopted_beside_an_unreadable_log() {
    let setup = playing();
    let (engine, whole) = beside_an_unreadable_log(&setup);
    let mut watchdog = setup.start();
    let adopted = watchdog.wait_for_log("the adoption", PATIENCE, |line| {
        line.message.contains("adopted").then(|| line.number("pid"))
    });
    assert_eq!(adopted, Some(u64::from(engine)));
    let reason = wait_until_down(&watchdog);
    assert_says(&reason, &["is damaged at byte", "restore it from a copy"]);
    assert_not_ready(&watchdog, "the store is down");
    wait_for_engine_after(&watchdog, 0);
    relaunched_after_a_kill(&setup, &watchdog);
    repair(&setup, &whole);
    wait_until_caught_up(&setup, &watchdog);
    stop_cleanly(&setup, watchdog);
    assert_all_arrived(&setup, &setup.uploaded_files());
}

fn the_end_beside_an_unreadable_log_ends_the_engine_and_keeps_its_records() {
    let setup = playing();
    let (_, whole) = beside_an_unreadable_log(&setup);
    let watchdog = setup.start();
    wait_until_down(&watchdog);
    let finished = watchdog.stop(PATIENCE);
    let log = finished.lines.join("\n");
    assert_eq!(finished.status.code(), Some(6), "{log}");
    assert_says(
        &log,
        &[
            "not everything that was recorded is committed",
            "is damaged at byte",
        ],
    );
    assert_nothing_runs(&setup);
    repair(&setup, &whole);
    let watchdog = setup.start();
    wait_until_caught_up(&setup, &watchdog);
    stop_cleanly(&setup, watchdog);
    assert_all_arrived(&setup, &setup.uploaded_files());
}

fn a_first_engine_does_not_wait_for_a_store_that_takes_long() {
    let setup = playing();
    fs::create_dir(setup.data_dir()).expect("a data directory");
    // Whoever reads this waits for its writer.
    let names = setup.data_dir().join("names");
    let made = Command::new("mkfifo").arg(&names).status();
    assert!(made.is_ok_and(|status| status.success()));
    let watchdog = setup.start();
    wait_for_engine_after(&watchdog, 0);
    let status = watchdog.status().expect("an answer");
    assert_eq!(status["store"]["state"], "opening", "{status:#}");
    assert_not_ready(&watchdog, "the store is being opened");
    relaunched_after_a_kill(&setup, &watchdog);
    fs::write(&names, "test\n").expect("written");
    wait_until_caught_up(&setup, &watchdog);
    stop_cleanly(&setup, watchdog);
    assert_all_arrived(&setup, &setup.uploaded_files());
}
