//! A backend that stays away until the log has used up its quota.

use libtest_mimic::Trial;
use serde_json::Value;
use sidekick_tests::engine::{Game, KEPT_VARIABLE};
use sidekick_tests::receiver::Receiver;
use sidekick_tests::watchdog::{Setup, Watchdog};

use super::{PATIENCE, assert_all_arrived, journals, stop_cleanly, trial};

/// More than the smallest quota holds, by far.
const RECORDS_MAX: u64 = 7_000;
const TEXT_BYTES: usize = 60_000;
/// Records of the stream that is to be kept which have to be committed after the others are refused.
const KEPT_MIN: u64 = 20;

pub(super) fn trials() -> Vec<Trial> {
    vec![trial(
        "a_log_near_its_quota_takes_what_is_to_be_kept_and_uploads_make_room",
        a_log_near_its_quota_takes_what_is_to_be_kept_and_uploads_make_room,
    )]
}

fn count(status: &Value, path: &str) -> u64 {
    status.pointer(path).and_then(Value::as_u64).unwrap_or(0)
}

#[track_caller]
fn wait_for_level(watchdog: &Watchdog<'_>, level: &str) -> Value {
    watchdog.wait_for_status(level, 3 * PATIENCE, |status| {
        (status["store"]["quota"] == level).then(|| status.clone())
    })
}

fn a_log_near_its_quota_takes_what_is_to_be_kept_and_uploads_make_room() {
    let mut receiver = Receiver::start();
    let mut setup = Setup::new();
    let game = Game {
        per_frame: 2,
        text_bytes: TEXT_BYTES,
        records_max: RECORDS_MAX,
        ..Game::new(journals(&setup))
    };
    setup.set_engine(game.command_line());
    setup.set_variable(KEPT_VARIABLE, "purchase");
    setup.set_config(&format!(
        "[store]\ndisk_quota = \"256MiB\"\n[[stream]]\nmatch = \"purchase\"\nkeep = true\n\
         [upload]\nsinks = [\"http\"]\ncompression = \"none\"\nbatch_max_bytes = \"8MiB\"\n\
         retry_first = \"10ms\"\nretry_max = \"100ms\"\n[upload.http]\nurl = \"{}\"\n",
        receiver.url()
    ));
    receiver.go_down();
    let watchdog = setup.start();

    let status = wait_for_level(&watchdog, "low");
    let committed = count(&status, "/totals/committed");
    watchdog.wait_for_status(
        "what is kept goes on, the rest is refused",
        PATIENCE,
        |status| {
            let refused = count(status, "/session/refused");
            let went_on = count(status, "/totals/committed") >= committed + KEPT_MIN;
            (refused > 0 && went_on && status["store"]["quota"] == "low").then_some(())
        },
    );

    receiver.come_up();
    let status = wait_for_level(&watchdog, "fine");
    let quota = count(&status, "/store/disk_quota_bytes");
    assert!(count(&status, "/store/log_bytes") < quota, "{status}");
    watchdog.wait_for_status("every stream is recorded again", 3 * PATIENCE, |status| {
        (count(status, "/session/uploaded") >= RECORDS_MAX).then_some(())
    });
    let finished = stop_cleanly(&setup, watchdog);
    let log = finished.lines.join("\n");
    let warned = log.find("more than 75 % of [store] disk_quota");
    let refused = log.find("more than 90 % of [store] disk_quota");
    assert!(warned.is_some() && warned < refused, "{log}");
    // Each record that was taken, and a gap for each that was not.
    assert_all_arrived(&setup, &receiver.ledger());
}
