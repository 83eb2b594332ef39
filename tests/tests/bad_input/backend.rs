//! A backend that is not there.

use std::time::Instant;

use libtest_mimic::Trial;
use sidekick_tests::receiver::Receiver;

use super::{PATIENCE, assert_all_arrived, playing, stop_cleanly, trial, wait_for_committed};

pub(super) fn trials() -> Vec<Trial> {
    vec![trial(
        "a_dead_backend_does_not_hold_the_end_up_and_gets_the_rest_later",
        a_dead_backend_does_not_hold_the_end_up_and_gets_the_rest_later,
    )]
}

fn a_dead_backend_does_not_hold_the_end_up_and_gets_the_rest_later() {
    let mut receiver = Receiver::start();
    let setup = playing();
    setup.set_config(&format!(
        "[upload]\nsinks = [\"http\"]\nbatch_max_age = \"100ms\"\nretry_first = \"10ms\"\nretry_max = \"100ms\"\n\
         [upload.http]\nurl = \"{}\"\ntimeout = \"1s\"\n[shutdown]\nupload_grace = \"2s\"\n",
        receiver.url()
    ));
    receiver.go_down();
    let watchdog = setup.start();
    wait_for_committed(&watchdog, 50);
    let reason = watchdog.wait_for_status("why nothing is uploaded", PATIENCE, |status| {
        let sink = &status["upload"]["sinks"][0];
        sink["reason"].as_str().map(str::to_owned)
    });
    assert!(reason.contains("refused"), "{reason}");
    let asked_at = Instant::now();
    let finished = stop_cleanly(&setup, watchdog);
    println!("ended after {:?}", asked_at.elapsed());
    let log = finished.lines.join("\n");
    assert!(
        log.contains("not everything is uploaded; the next start goes on"),
        "{log}"
    );
    assert_eq!(receiver.look(|ledger| ledger.count()), 0);

    receiver.come_up();
    let watchdog = setup.start();
    watchdog.wait_for_status("an empty backlog", PATIENCE, |status| {
        let count = |total: &serde_json::Value| total.as_u64();
        let totals = &status["totals"];
        (count(&totals["uploaded"]["http"]) >= Some(50)).then_some(())
    });
    stop_cleanly(&setup, watchdog);
    assert_all_arrived(&setup, &receiver.ledger());
}
