//! Ends of which the system has the last word: a kill for want of memory, a core dump, an exit code.
//!
//! Real watchdogs; engines are this executable (`sidekick_tests::engine`) or a shell. What needs a control group, or core
//! dumps, is ignored with the reason where they cannot be had.

use std::fs;
use std::process::{Command, ExitCode};

use rustix::process::Signal;
use serde_json::Value;
use sidekick_tests::engine::Game;
use sidekick_tests::memory_group::MemoryGroup;
use sidekick_tests::scene::{assert_cause, report};
use sidekick_tests::verdicts::{self, PATIENCE, ignorable, journals, stop_cleanly, trial};
use sidekick_tests::watchdog::{Setup, Watchdog};

/// Enough for a watchdog and an engine that does not take more and more.
const MEMORY_BYTES: u64 = 256 << 20;
/// Takes the kernel's log away from whoever runs after it in the same name space of mounts.
const HIDE_KERNEL_LOG: &str =
    "mount --bind /dev/kmsg /dev/kmsg && mount -o remount,bind,nodev /dev/kmsg";
/// Goes on from a shell to what it was started for.
const EXEC: &str = "exec \"$0\" \"$@\"";
/// Where the kernel's log and we mean the same processes.
const FIRST_PID_NAMESPACE: &str = "pid:[4026531836]";

fn main() -> ExitCode {
    verdicts::main(vec![
        ignorable(
            "a_kill_for_want_of_memory_is_told_from_any_other_by_the_kernels_log",
            a_kill_for_want_of_memory_is_told_from_any_other_by_the_kernels_log,
        ),
        ignorable(
            "a_kill_for_want_of_memory_is_told_from_any_other_by_counters_alone",
            a_kill_for_want_of_memory_is_told_from_any_other_by_counters_alone,
        ),
        ignorable(
            "a_core_dump_is_named_in_the_report",
            a_core_dump_is_named_in_the_report,
        ),
        trial(
            "an_exit_code_that_counts_as_success_starts_no_other_and_the_log_says_why",
            an_exit_code_that_counts_as_success_starts_no_other_and_the_log_says_why,
        ),
    ])
}

/// The engine of this incarnation, which is connected.
#[track_caller]
fn engine(watchdog: &Watchdog<'_>, incarnation: u64) -> u32 {
    watchdog.wait_for_status("the engine", PATIENCE, |status| {
        let engine = &status["engine"];
        let is_it = engine["incarnation"] == incarnation && engine["connected"] == true;
        is_it.then(|| u32::try_from(engine["pid"].as_u64()?).ok())?
    })
}

/// In one control group, as under a service manager, watchdog and engine: one engine is killed by us, the next one by the
/// kernel, which wants memory. Each report says which, the second one in these words. Who called every SIGKILL the
/// kernel's, or none, would be found out by one of the two. `exec` goes on from a shell to the watchdog.
fn killed_by_us_and_by_the_kernel(exec: &str, words: &str) -> Result<(), String> {
    let group = MemoryGroup::new(MEMORY_BYTES)?;
    let mut setup = Setup::new();
    let game = Game::new(journals(&setup));
    setup.set_engine(game.command_line());
    let members = group.members();
    setup.wrap(&format!("echo $$ > {members:?} && {exec}"));
    let watchdog = setup.start();
    let first = engine(&watchdog, 1);
    assert!(group.has(first), "the engine is not in the group");
    setup.signal(first, Signal::KILL);
    let by_us = report(&watchdog, 1);
    assert_cause(
        &by_us,
        "killed",
        &["killed from outside (SIGKILL; the kernel was not out of memory)"],
    );
    let second = engine(&watchdog, 2);
    assert!(group.has(second), "the engine is not in the group");
    game.let_eat();
    let by_the_kernel = report(&watchdog, 2);
    assert_cause(&by_the_kernel, "oom", &[words]);
    assert_eq!(by_the_kernel["signal"], 9, "{by_the_kernel:#}");
    engine(&watchdog, 3);
    stop_cleanly(&setup, watchdog);
    Ok(())
}

fn a_kill_for_want_of_memory_is_told_from_any_other_by_the_kernels_log() -> Result<(), String> {
    fs::File::open("/dev/kmsg").map_err(|error| format!("no kernel log to read: {error}"))?;
    let own = fs::read_link("/proc/self/ns/pid").unwrap_or_default();
    if own.as_os_str() != FIRST_PID_NAMESPACE {
        return Err("the kernel's log tells of other process numbers than ours".to_owned());
    }
    killed_by_us_and_by_the_kernel(EXEC, "killed by the kernel: out of memory, in frame ")
}

/// As in a container, where nobody reads the kernel's log.
fn a_kill_for_want_of_memory_is_told_from_any_other_by_counters_alone() -> Result<(), String> {
    let test = format!("{HIDE_KERNEL_LOG} && ! head -c 1 /dev/kmsg");
    let hidden = Command::new("unshare")
        .args(["-m", "sh", "-c", &test])
        .output()
        .map_err(|error| format!("cannot run unshare: {error}"))?;
    if !hidden.status.success() {
        let said = String::from_utf8_lossy(&hidden.stderr);
        return Err(format!(
            "the kernel's log cannot be hidden: {}",
            said.trim()
        ));
    }
    let exec = format!("exec unshare -m sh -c '{HIDE_KERNEL_LOG} && {EXEC}' \"$0\" \"$@\"");
    let words = "killed (SIGKILL), most likely by the kernel: out of memory, in frame ";
    killed_by_us_and_by_the_kernel(&exec, words)
}

/// A shell that ends by a signal in its first incarnation and sleeps in the next ones; `limit` is that of its core dump.
fn report_of_a_shell(limit: &str) -> (Value, Setup) {
    let mut setup = Setup::new();
    let script = format!(
        "[ $SIDEKICK_INCARNATION != 1 ] && exec sleep 600; ulimit -c {limit}; kill -SEGV $$"
    );
    setup.set_engine(["sh", "-c", &script]);
    let folder = setup.scratch().join("cores");
    fs::create_dir(&folder).expect("a folder for the core");
    setup.set_config(&format!(
        "[health]\nheartbeat = \"optional\"\n[engine]\nworking_dir = {folder:?}\n"
    ));
    let watchdog = setup.start();
    let report = report(&watchdog, 1);
    stop_cleanly(&setup, watchdog);
    (report, setup)
}

fn a_core_dump_is_named_in_the_report() -> Result<(), String> {
    let allowed = Command::new("sh")
        .args(["-c", "ulimit -c unlimited"])
        .status();
    if !allowed.is_ok_and(|status| status.success()) {
        return Err("core dumps are not allowed here".to_owned());
    }
    let pattern = fs::read_to_string("/proc/sys/kernel/core_pattern").unwrap_or_default();
    let (report, _setup) = report_of_a_shell("unlimited");
    assert_cause(
        &report,
        "segv",
        &["segmentation fault (SIGSEGV), core dumped,"],
    );
    let core = report["core"].as_str().unwrap_or_default();
    if pattern.starts_with('|') {
        assert!(!core.is_empty(), "{report:#}");
    } else {
        let bytes = fs::read(core).unwrap_or_else(|error| panic!("no core {core:?}: {error}"));
        assert_eq!(bytes.get(..4), Some(&b"\x7fELF"[..]), "{core:?} is no core");
    }
    // Where none was dumped, none is named.
    let (report, _setup) = report_of_a_shell("0");
    assert_cause(&report, "segv", &["segmentation fault (SIGSEGV) after "]);
    assert_eq!(report["core"], Value::Null, "{report:#}");
    Ok(())
}

/// `[engine] success_exit_codes` and `restart`, for a program without the extension: its code is all there is to go by.
fn an_exit_code_that_counts_as_success_starts_no_other_and_the_log_says_why() {
    const WORDS: &str = "engine ended by itself with one of [engine] success_exit_codes";
    for (config, code, is_success, is_restarted) in [
        ("", 0, true, false),
        ("", 7, false, true),
        ("success_exit_codes = [0, 7]\n", 7, true, false),
        ("success_exit_codes = [0, 7]\n", 8, false, true),
        (
            "success_exit_codes = [0, 7]\nrestart = \"always\"\n",
            7,
            true,
            true,
        ),
    ] {
        let mut setup = Setup::new();
        let script = format!("[ $SIDEKICK_INCARNATION != 1 ] && exec sleep 600; exit {code}");
        setup.set_engine(["sh", "-c", &script]);
        setup.set_config(&format!(
            "[health]\nheartbeat = \"optional\"\n[engine]\n{config}"
        ));
        let mut watchdog = setup.start();
        let finished = if is_restarted {
            watchdog.wait_for_log("the next engine", PATIENCE, |line| {
                (line.message == "engine started" && line.number("incarnation") == Some(2))
                    .then_some(())
            });
            stop_cleanly(&setup, watchdog)
        } else {
            watchdog.wait(PATIENCE)
        };
        let log = finished.lines.join("\n");
        assert_eq!(finished.status.code(), Some(0), "{log}");
        let case = format!("exit code {code} with {config:?}: {log}");
        assert_eq!(log.contains(WORDS), is_success, "{case}");
        assert_eq!(log.contains("\"engine died\""), !is_success, "{case}");
        let reports = fs::read_dir(setup.data_dir().join("crashes"))
            .into_iter()
            .flatten();
        assert_eq!(reports.count() > 0, !is_success, "{case}");
    }
}
