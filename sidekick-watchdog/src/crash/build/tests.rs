//! Verdicts and reports of what the real Godot 4.6.3 printed (`golden/`), and of what it never should have.

use std::time::Duration;

use super::super::parse::level;
use super::super::{HangEvidence, HangKind, MemorySample};
use super::*;
use crate::event::DeathCause;
use crate::log_line::LogLevel;

const SEGV: &str = include_str!("../golden/segv.txt");
const CRASH: &str = include_str!("../golden/crash.txt");
const FPE: &str = include_str!("../golden/fpe.txt");
const ILL: &str = include_str!("../golden/ill.txt");
const ABRT: &str = include_str!("../golden/abrt.txt");
const BUS: &str = include_str!("../golden/bus.txt");
const KILL: &str = include_str!("../golden/kill.txt");
const ERROR: &str = include_str!("../golden/error.txt");
/// A game that prints a banner itself, and quits.
const BANNER: &str = include_str!("../golden/banner.txt");

fn lines(text: &str) -> Vec<LogLine> {
    let mut last = LogLevel::Info;
    let line = |text: &str| {
        last = level(text, last);
        LogLine {
            incarnation: 1,
            level: last,
            text: text.to_owned(),
            ..LogLine::default()
        }
    };
    text.lines().map(line).collect()
}

fn scan(text: &str) -> CrashScan {
    let mut scan = CrashScan::default();
    for line in lines(text) {
        scan.push(&line);
    }
    scan
}

fn report(cause: DeathCause, text: &str) -> CrashReport {
    let findings = Findings {
        scan: scan(text),
        lines: lines(text),
        ..Findings::default()
    };
    build(facts(cause), findings)
}

fn facts(cause: DeathCause) -> DeathFacts {
    DeathFacts {
        uptime: Some(Duration::from_secs(303)),
        frame: Some(18_211),
        ..DeathFacts::new(1, 4242, cause)
    }
}

fn signaled(signal: i32) -> DeathCause {
    DeathCause::Signaled {
        signal,
        core_dumped: false,
    }
}

/// Twelve deaths, each with the text that Godot printed at it, and the verdict that it must get.
#[test]
fn twelve_deaths_get_their_verdicts() {
    let hung = |kind, text| {
        let silent = Duration::from_millis(10_230);
        let hang = HangEvidence {
            kind,
            ..HangEvidence::default()
        };
        let facts = DeathFacts {
            hang: Some(hang),
            ..facts(DeathCause::Hung {
                silent,
                how: HangKind::Unknown,
            })
        };
        (facts, text, OutOfMemory::No)
    };
    let by = |cause, text| (facts(cause), text, OutOfMemory::No);
    let killed = |oom| (facts(signaled(9)), KILL, oom);
    let exited = |exit_code| DeathCause::Exited { exit_code };
    let table = [
        // The handler turns all of these into SIGABRT; the true signal is in its text.
        (
            by(signaled(6), SEGV),
            "segv",
            Some(11),
            "segmentation fault (SIGSEGV)",
        ),
        (
            by(signaled(6), CRASH),
            "ill",
            Some(4),
            "illegal instruction (SIGILL)",
        ),
        (
            by(signaled(6), FPE),
            "fpe",
            Some(8),
            "arithmetic error (SIGFPE)",
        ),
        // These it does not catch.
        (by(signaled(6), ABRT), "abort", Some(6), "aborted (SIGABRT)"),
        (by(signaled(7), BUS), "bus", Some(7), "bus error (SIGBUS)"),
        (
            by(signaled(15), KILL),
            "killed",
            Some(15),
            "killed by SIGTERM",
        ),
        // A release template has no handler.
        (
            by(signaled(11), KILL),
            "segv",
            Some(11),
            "segmentation fault (SIGSEGV)",
        ),
        (
            killed(OutOfMemory::No),
            "killed",
            Some(9),
            "killed from outside (SIGKILL; the kernel was not out of memory)",
        ),
        (
            killed(OutOfMemory::Proven),
            "oom",
            Some(9),
            "killed by the kernel: out of memory,",
        ),
        (
            hung(HangKind::BusyLoop, SEGV),
            "hang",
            None,
            "hung for 10.2 s in a busy loop at act (res://main.gd:19)",
        ),
        (
            hung(HangKind::Stopped, KILL),
            "hang",
            None,
            "hung for 10.2 s stopped by a signal",
        ),
        (
            by(exited(3), KILL),
            "exit",
            None,
            "ended by itself with exit code 3",
        ),
    ];
    for ((facts, text, oom), kind, signal, words) in table {
        let found = verdict(&facts, &scan(text), oom);
        assert_eq!(found.kind, kind, "{words}");
        assert_eq!(found.signal, signal, "{words}");
        assert_eq!(
            found.words,
            format!("{words} in frame 18,211 after 5 min 3 s")
        );
    }
}

#[test]
fn more_verdicts() {
    let words = |cause, text: &str, oom| verdict(&facts(cause), &scan(text), oom).words;
    // A wrapper that does not exec tells the signal as 128 and more.
    let found = report(DeathCause::Exited { exit_code: 134 }, SEGV);
    assert_eq!((found.kind.as_str(), found.signal), ("segv", Some(11)));
    // Nobody saw the end, but the text tells it.
    let found = report(DeathCause::Unwatched, SEGV);
    assert_eq!((found.kind.as_str(), found.signal), ("segv", Some(11)));
    assert_eq!(
        found.cause,
        "segmentation fault (SIGSEGV), while no watchdog ran, in frame 18,211 after 5 min 3 s"
    );
    assert!(!found.backtrace.is_empty() && !found.script_backtrace.is_empty());
    let found = report(DeathCause::Unwatched, KILL);
    assert_eq!((found.kind.as_str(), found.signal), ("unwatched", None));
    assert_eq!(
        found.cause,
        "died while no watchdog ran, nobody saw how, in frame 18,211 after 5 min 3 s"
    );
    let found = report(DeathCause::Unknown, SEGV);
    assert_eq!(found.signal_name.as_deref(), Some("SIGSEGV"));
    // The handler hung after its banner, and we ended it.
    let found = report(DeathCause::CrashLimbo, SEGV);
    assert_eq!((found.kind.as_str(), found.signal), ("segv", Some(11)));
    assert_eq!(found.backtrace.len(), 29);
    assert!(found.cause.contains("hung in the engine's crash handler"));
    assert_eq!(report(DeathCause::CrashLimbo, KILL).signal, None);
    let found = report(DeathCause::ExitedEarly { exit_code: 134 }, FPE);
    assert_eq!(found.signal, Some(8));
    let unknown = words(signaled(9), KILL, OutOfMemory::Unknown);
    assert!(unknown.contains("this system does not tell"), "{unknown}");
    let likely = words(signaled(9), KILL, OutOfMemory::Likely);
    assert!(likely.contains("most likely"), "{likely}");
    let text = format!("{ABRT}double free or corruption (out)\n");
    let aborted = words(signaled(6), &text, OutOfMemory::No);
    assert!(
        aborted.starts_with("aborted (SIGABRT): double free or corruption (out), in frame"),
        "{aborted}"
    );
    // A comma, so that the place belongs to the end and not to the clause before.
    let rss_bytes = 1152 << 20;
    assert_eq!(
        words(DeathCause::Memory { rss_bytes }, "", OutOfMemory::No),
        "ended: it used 1152 MiB of memory, more than it may, in frame 18,211 after 5 min 3 s"
    );
    let found = report(DeathCause::Clean { exit_code: 3 }, KILL);
    assert_eq!(found.exit_code, Some(3));
}

#[test]
fn backtraces_are_those_that_were_printed() {
    let found = report(signaled(6), SEGV);
    assert_eq!(found.backtrace.len(), 29);
    assert!(found.backtrace[0].contains("libc.so.6"));
    assert_eq!(
        found.script_backtrace,
        ["act (res://main.gd:19)", "_process (res://main.gd:11)"]
    );
    let version = found.engine_version.expect("told in the first line");
    assert!(
        version.starts_with("Godot Engine v4.6.3.stable"),
        "{version}"
    );
    assert!(!version.contains("http"), "{version}");
    let asked = report(signaled(6), CRASH);
    assert_eq!(asked.script_errors.len(), 1);
    assert_eq!(asked.script_errors[0].message, "the game asked for it");
    assert_eq!(report(signaled(6), ILL).backtrace.len(), 29);
}

#[test]
fn script_errors_are_read_with_their_places() {
    let errors = report(DeathCause::Exited { exit_code: 1 }, ERROR).script_errors;
    let told: Vec<_> = errors
        .iter()
        .map(|error| (error.kind.as_str(), error.function.as_str(), error.line))
        .collect();
    assert_eq!(
        told,
        [
            ("script", "broken", 42),
            ("error", "push_error", 1024),
            ("error", "get_node", 1963)
        ]
    );
    assert_eq!(errors[0].file, "res://main.gd");
    assert_eq!(
        errors[0].backtrace,
        [
            "broken (res://main.gd:42)",
            "act (res://main.gd:21)",
            "_process (res://main.gd:11)"
        ]
    );
    assert!(errors[2].message.starts_with("Node not found: \"Missing\""));
}

#[test]
fn a_repeated_error_is_counted_and_only_the_last_are_kept() {
    let one = "ERROR: a\nb\n   at: f (x.cpp:1)\n";
    let mut text = one.repeat(1000);
    for n in 0..100 {
        text.push_str(&format!("ERROR: other {n}\n   at: g (y.cpp:2)\n"));
    }
    let mut found = scan(&text);
    let errors = found.errors();
    assert_eq!(errors.len(), super::super::parse::ERRORS_KEPT);
    assert_eq!(
        errors.last().map(|error| error.message.as_str()),
        Some("other 99")
    );
    let mut found = scan(&one.repeat(1000));
    let errors = found.errors();
    assert_eq!(errors.len(), 1);
    assert_eq!(
        (errors[0].message.as_str(), errors[0].count),
        ("a\nb", 1000)
    );
}

/// The broken variant of this would take any banner for the truth; each case here is one that it gets wrong.
#[test]
fn a_banner_that_the_game_prints_itself_explains_nothing() {
    // It goes on and quits, or is killed from outside.
    let found = report(DeathCause::Clean { exit_code: 3 }, BANNER);
    assert_eq!((found.kind.as_str(), found.signal), ("exit", None));
    assert!(found.backtrace.is_empty());
    let found = report(signaled(9), BANNER);
    assert_eq!(found.signal, Some(9));
    assert!(found.backtrace.is_empty());
    // It goes on for long and then aborts for another reason.
    let text = format!("{BANNER}{}", "playing on\n".repeat(100));
    let found = report(signaled(6), &text);
    assert_eq!((found.kind.as_str(), found.signal), ("abort", Some(6)));
    assert!(found.backtrace.is_empty());
    // A real one after it counts.
    let text = format!("{text}{SEGV}");
    let found = report(signaled(6), &text);
    assert_eq!((found.signal, found.backtrace.len()), (Some(11), 29));
}

#[test]
fn hostile_text_takes_bounded_memory() {
    let mut scan = CrashScan::default();
    let mut push = |text: String| {
        scan.push(&LogLine {
            text,
            ..LogLine::default()
        });
    };
    push("handle_crash: Program crashed with signal 99999999999999999999".into());
    push("handle_crash: Program crashed with signal -3".into());
    for _ in 0..10_000 {
        push(format!("[1]{}", "ä".repeat(4000)));
        push(format!("ERROR: {}", "\u{fffd}".repeat(2000)));
        push(format!("   at: {}(:", "x".repeat(8000)));
        push("   [x".into());
    }
    push("-- END OF C++ BACKTRACE --".into());
    push("x backtrace (most recent call first):".into());
    for _ in 0..10_000 {
        push(format!("  [0] {}", "y".repeat(8000)));
    }
    let findings = Findings {
        scan,
        lines: (0..1000)
            .map(|_| LogLine {
                text: "z".repeat(8000),
                ..LogLine::default()
            })
            .collect(),
        ..Findings::default()
    };
    let mut facts = facts(signaled(6));
    facts.memory = vec![MemorySample::default(); 100_000];
    let found = build(facts, findings);
    assert!(found.backtrace.len() <= 128 && found.script_backtrace.len() <= 128);
    assert_eq!(found.memory.len(), MEMORY_SAMPLES_MAX);
    let bytes = serde_json::to_vec(&found).expect("JSON").len();
    assert!(bytes < 1 << 20, "{bytes}");
    for bytes_max in [60_000, 10_000, 3_000] {
        let small = for_record(found.clone(), bytes_max);
        let bytes = serde_json::to_vec(&small).expect("JSON").len();
        assert!(bytes <= bytes_max, "{bytes} > {bytes_max}");
        assert_eq!(small.cause, found.cause);
    }
}

#[test]
fn report_ids_sort_by_time() {
    let at = |seconds| new_report_id(UNIX_EPOCH + Duration::from_secs(seconds));
    assert!(at(1_000_000_000) < at(1_000_000_001));
    assert_ne!(at(1), at(1));
}
