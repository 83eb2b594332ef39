//! Nothing piles up: no process, no descriptor, no thread, no file.

use std::fs;

use crate::harness::{Site, eventually, is_alive, kill};

/// A trivial engine that dies at once, two hundred times.
#[test]
fn two_hundred_relaunches_leave_nothing_behind() {
    let site = Site::new("echo $$ >> pids; exit 3");
    let mut watchdog = site.watchdog_process();
    let pid = watchdog.pid();
    let relaunches = |count: usize| {
        eventually("relaunches", || {
            (site.numbers("pids").len() >= count).then_some(())
        });
    };
    let entries = |path: String| fs::read_dir(path).map(Iterator::count).unwrap_or(0);
    relaunches(20);
    let descriptors = || entries(format!("/proc/{pid}/fd"));
    let at_first = (0..20).map(|_| descriptors()).max().unwrap_or(0);
    relaunches(220);
    // Two more or less belong to what is being started; a leak would be 200 by now and grow while we look.
    eventually("as few descriptors as at first", || {
        (descriptors() <= at_first).then_some(())
    });
    assert!(entries(format!("/proc/{pid}/task")) <= 6);
    // Read while engines come and go: the one that just died may be among them for a moment, and who ends the next one.
    let children = || {
        fs::read_dir(format!("/proc/{pid}/task"))
            .expect("running")
            .flatten()
            .filter_map(|thread| fs::read_to_string(thread.path().join("children")).ok())
            .map(|children| children.split_ascii_whitespace().count())
            .sum::<usize>()
    };
    eventually("one child", || (children() <= 1).then_some(()));
    eventually("few launch files", || {
        (entries(site.path().join("run/launch").display().to_string()) <= 8).then_some(())
    });
    eventually("few output files", || {
        (entries(site.path().join("data/engine").display().to_string()) <= 8).then_some(())
    });
    watchdog.kill();
    let seen = site.numbers("pids");
    eventually("no engine", || {
        seen.iter().all(|&pid| !is_alive(pid)).then_some(())
    });
}

/// What left group and lock behind (a daemon) is found by the watchdog being its subreaper.
#[test]
fn a_daemon_of_the_engine_dies_with_it() {
    let site = Site::new(
        "setsid bash -c 'for fd in /proc/$$/fd/*; do n=${fd##*/}; [ $n -gt 2 ] && eval \"exec $n>&-\"; done; \
         echo $$ >> daemons; while :; do sleep 0.05; done' & echo $$ >> pids; while :; do sleep 0.05; done",
    );
    let _watchdog = site.watchdog_process();
    for round in 0..3 {
        let daemon = eventually("a daemon", || site.numbers("daemons").get(round).copied());
        let engine = eventually("an engine", || site.numbers("pids").get(round).copied());
        kill(engine);
        eventually("the next engine", || {
            site.numbers("pids").get(round + 1).copied()
        });
        eventually("the daemon's end", || (!is_alive(daemon)).then_some(()));
    }
    let last = eventually("the last daemon", || {
        site.numbers("daemons").get(3).copied()
    });
    assert!(
        is_alive(last),
        "the living engine's own daemon is left alone"
    );
    kill(last);
}
