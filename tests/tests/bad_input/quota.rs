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

/// The books of the sink add up to what was accepted.
#[track_caller]
fn assert_balanced(status: &Value) {
    let books = &status["upload"]["sinks"][0]["books"];
    let dropped = books["dropped"].as_object().into_iter().flatten();
    let parts = ["uploaded", "notes", "lost", "requests", "dead", "pending"];
    let sum = parts
        .map(|name| books[name].as_u64())
        .into_iter()
        .sum::<Option<u64>>();
    let dropped: u64 = dropped.filter_map(|(_, count)| count.as_u64()).sum();
    assert!(sum.is_some(), "{status}");
    assert_eq!(
        books["accepted"].as_u64(),
        sum.map(|sum| sum + dropped),
        "{status}"
    );
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
    // Told of by the gaps, which find room in the ring all the while.
    let status = watchdog.wait_for_status("why they were refused", PATIENCE, |status| {
        (count(status, "/session/refused_by/quota") > 0).then(|| status.clone())
    });
    assert_balanced(&status);

    receiver.come_up();
    let status = wait_for_level(&watchdog, "fine");
    let quota = count(&status, "/store/disk_quota_bytes");
    assert!(count(&status, "/store/log_bytes") < quota, "{status}");
    watchdog.wait_for_status("every stream is recorded again", 3 * PATIENCE, |status| {
        (count(status, "/session/uploaded") >= RECORDS_MAX).then_some(())
    });
    let refused = watchdog.wait_for_status("all causes are told", PATIENCE, |status| {
        assert_balanced(status);
        let refused = count(status, "/session/refused");
        (count(status, "/session/refused_by/quota") == refused).then_some(refused)
    });
    let metrics = watchdog.get("/metrics").expect("an answer").1;
    let by_quota = r#"sidekick_records_refused_by_cause_total{cause="quota"}"#;
    assert!(
        metrics.contains(&format!("{by_quota} {refused}\n")),
        "{metrics}"
    );
    let finished = stop_cleanly(&setup, watchdog);
    let log = finished.lines.join("\n");
    let warned = log.find("more than 75 % of [store] disk_quota");
    let refused = log.find("more than 90 % of [store] disk_quota");
    assert!(warned.is_some() && warned < refused, "{log}");
    // Each record that was taken, and a gap for each that was not.
    receiver.look(|ledger| assert_all_arrived(&setup, ledger));
}
