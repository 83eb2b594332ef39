//! How the watchdog is asked to end, and what of its signals the engine inherits.

use std::fs;

use crate::harness::{Site, eventually, signal};

const SLEEPS: &str = "echo $$ >> pids; while :; do sleep 0.05; done";

/// SIGTERM ends the engine, then the watchdog, with exit code 0.
#[test]
fn a_watchdog_that_is_asked_to_end_ends_its_engine_first() {
    for name in ["TERM", "INT", "QUIT"] {
        let site = Site::new(SLEEPS);
        let mut watchdog = site.watchdog_process();
        eventually("an engine", || site.numbers("pids").first().copied());
        signal(watchdog.pid(), name);
        let code = eventually("its end", || watchdog.ended());
        assert_eq!(code, Some(0), "{name}");
        assert!(site.engines().is_empty(), "{name}");
    }
}

/// SIGHUP tells the end of a terminal where there is one. Elsewhere it is a service's word for reading its configuration
/// anew: the watchdog stays, and a mistake in the file changes nothing.
#[test]
fn a_hangup_ends_a_watchdog_only_where_a_terminal_can_hang_up() {
    let site = Site::new(SLEEPS);
    let mut watchdog = site.watchdog_process();
    let engine = eventually("an engine", || site.numbers("pids").first().copied());
    signal(watchdog.pid(), "HUP");
    if fs::File::open("/dev/tty").is_ok() {
        assert_eq!(eventually("its end", || watchdog.ended()), Some(0));
        return;
    }
    signal(engine, "KILL");
    eventually("the next engine", || site.numbers("pids").get(1).copied());
    assert_eq!(watchdog.ended(), None);
    signal(watchdog.pid(), "TERM");
    assert_eq!(eventually("its end", || watchdog.ended()), Some(0));
}

/// The engine ignores SIGTERM and has a minute; the second signal ends it at once.
#[test]
fn a_second_signal_does_not_wait_for_the_grace() {
    let site = Site::new("trap '' TERM; echo $$ >> pids; while :; do sleep 0.05; done");
    let mut watchdog = site.watchdog_process();
    eventually("an engine", || site.numbers("pids").first().copied());
    signal(watchdog.pid(), "TERM");
    assert_eq!(watchdog.ended(), None);
    // Sent again and again: two signals in one instant may become one.
    let code = eventually("its end", || {
        signal(watchdog.pid(), "TERM");
        watchdog.ended()
    });
    assert_eq!(code, Some(0));
    assert!(site.engines().is_empty());
}

/// Started with signals ignored, as by a shell's `&` or `nohup`: the engine ignores none, and a hangup that was to be
/// ignored does not end the watchdog.
#[test]
fn the_engine_ignores_no_signal_that_the_watchdog_was_started_with() {
    let site = Site::new(
        "grep SigIgn /proc/self/status > new; mv new ignored; echo $$ >> pids; while :; do sleep 0.05; done",
    );
    let mut watchdog = site.watchdog_process_after("trap '' INT QUIT HUP TERM CHLD PIPE");
    let engine = eventually("an engine", || site.numbers("pids").first().copied());
    let ignored = fs::read_to_string(site.path().join("ignored")).expect("written");
    let mask = ignored.trim_start_matches("SigIgn:").trim();
    let mask = u64::from_str_radix(mask, 16).expect("hexadecimal");
    // Signals 1 to 31; the C library's own two above them are nobody's business.
    assert_eq!(mask & 0x7fff_ffff, 0, "{ignored}");
    signal(watchdog.pid(), "HUP");
    signal(engine, "KILL");
    eventually("the next engine", || site.numbers("pids").get(1).copied());
    assert_eq!(watchdog.ended(), None);
    signal(watchdog.pid(), "TERM");
    assert_eq!(eventually("its end", || watchdog.ended()), Some(0));
}
