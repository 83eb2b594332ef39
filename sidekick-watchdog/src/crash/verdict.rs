//! Why an engine died: one verdict of what the system says, what the engine printed and what we did ourselves.

use std::fmt::Write as _;
use std::time::Duration;

use super::parse::CrashScan;
use super::{DeathFacts, HangKind, OutOfMemory};
use crate::event::{DeathCause, signal_name, signal_words};

/// SIGABRT: what Godot's handler ends with, whatever it caught.
const SIGABRT: i32 = 6;
const SIGKILL: i32 = 9;
/// What a shell makes of a child that died of a signal.
const SHELL_SIGNAL_BASE: i32 = 128;
const SIGNAL_MAX: i32 = 64;

/// Why an engine died.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Verdict {
    /// In one word.
    pub kind: String,
    /// In words for people.
    pub words: String,
    /// The signal at its root.
    pub signal: Option<i32>,
    /// The exit code, if it ended by itself.
    pub exit_code: Option<i32>,
    /// Whether the crash handler's backtraces belong to this death.
    pub banner_counts: bool,
}

/// The verdict. What the engine printed only refines what the system says: a banner that the game printed itself makes
/// a clean end no crash, and a kill from outside no segmentation fault.
pub fn verdict(facts: &DeathFacts, scan: &CrashScan, oom: OutOfMemory) -> Verdict {
    let mut found = root(facts, scan, oom);
    let frame = facts.frame.filter(|frame| *frame > 0);
    // Behind a whole sentence the place would read as a part of it.
    if is_sentence(&facts.cause) && (frame.is_some() || facts.uptime.is_some()) {
        found.words.push(',');
    }
    if let Some(frame) = frame {
        let _ = write!(found.words, " in frame {}", grouped(frame));
    }
    if let Some(uptime) = facts.uptime {
        let _ = write!(found.words, " after {}", in_words(uptime));
    }
    found
}

/// Whether the cause's words hold a clause with a verb of its own.
fn is_sentence(cause: &DeathCause) -> bool {
    matches!(
        cause,
        DeathCause::NoRing { .. }
            | DeathCause::Foreign(_)
            | DeathCause::NotReady { .. }
            | DeathCause::Memory { .. }
            | DeathCause::StopTimeout
            | DeathCause::Unwatched
    )
}

fn root(facts: &DeathFacts, scan: &CrashScan, oom: OutOfMemory) -> Verdict {
    match &facts.cause {
        DeathCause::Signaled {
            signal,
            core_dumped,
        } => {
            let mut found = by_signal(*signal, scan, oom);
            if *core_dumped {
                found.words.push_str(", core dumped,");
            }
            found
        }
        // A wrapper script that does not `exec` tells its child's signal like this.
        DeathCause::Exited { exit_code }
            if (SHELL_SIGNAL_BASE + 1..=SHELL_SIGNAL_BASE + SIGNAL_MAX).contains(exit_code)
                && (scan.banner().is_some()
                    || signal_name(exit_code - SHELL_SIGNAL_BASE).is_some()) =>
        {
            by_signal(exit_code - SHELL_SIGNAL_BASE, scan, oom)
        }
        DeathCause::ExitedEarly { exit_code }
            if *exit_code == SHELL_SIGNAL_BASE + SIGABRT && scan.banner().is_some() =>
        {
            by_signal(SIGABRT, scan, oom)
        }
        // The handler told what it caught, and then hung; we ended it.
        DeathCause::CrashLimbo if scan.banner().is_some() => {
            let mut found = by_signal(SIGABRT, scan, oom);
            found
                .words
                .push_str(", then hung in the engine's crash handler,");
            found
        }
        DeathCause::Unknown if scan.banner().is_some() => by_signal(SIGABRT, scan, oom),
        DeathCause::Unwatched if scan.banner().is_some() => {
            unwatched(by_signal(SIGABRT, scan, oom))
        }
        DeathCause::Unwatched if oom == OutOfMemory::Proven => {
            unwatched(by_signal(SIGKILL, scan, oom))
        }
        DeathCause::Hung { silent, .. } => hang(facts, scan, *silent),
        DeathCause::Exited { exit_code } => plain(
            "exit",
            format!("ended by itself with exit code {exit_code}"),
            Some(*exit_code),
        ),
        DeathCause::Clean { exit_code } => plain(
            "exit",
            format!("quit with exit code {exit_code}"),
            Some(*exit_code),
        ),
        DeathCause::ExitedEarly { exit_code } | DeathCause::StuckInExit { exit_code, .. } => plain(
            facts.cause.label(),
            facts.cause.to_string(),
            Some(*exit_code),
        ),
        cause => plain(cause.label(), cause.to_string(), None),
    }
}

/// The system told nobody how it ended, but something else did.
fn unwatched(mut found: Verdict) -> Verdict {
    if !found.words.ends_with(',') {
        found.words.push(',');
    }
    found.words.push_str(" while no watchdog ran");
    found
}

fn plain(kind: &str, words: String, exit_code: Option<i32>) -> Verdict {
    Verdict {
        kind: kind.to_owned(),
        words,
        signal: None,
        exit_code,
        banner_counts: false,
    }
}

fn by_signal(signal: i32, scan: &CrashScan, oom: OutOfMemory) -> Verdict {
    // Only the abort at its end makes the handler's text the account of this death.
    let banner = scan
        .banner()
        .filter(|banner| signal == SIGABRT || signal == banner.signal);
    let signal = banner.map_or(signal, |banner| banner.signal);
    let mut words =
        signal_words(signal).map_or_else(|| format!("killed by signal {signal}"), str::to_owned);
    let mut kind = match signal {
        4 => "ill",
        SIGABRT => "abort",
        7 => "bus",
        8 => "fpe",
        11 => "segv",
        _ => "killed",
    };
    if signal == SIGABRT
        && let Some(reason) = scan.abort_reason()
    {
        let _ = write!(words, ": {reason},");
    }
    if signal == SIGKILL {
        let (word, sentence) = sigkill(oom);
        kind = word;
        sentence.clone_into(&mut words);
    }
    Verdict {
        kind: kind.to_owned(),
        words,
        signal: Some(signal),
        exit_code: None,
        banner_counts: banner.is_some(),
    }
}

fn sigkill(oom: OutOfMemory) -> (&'static str, &'static str) {
    match oom {
        OutOfMemory::Proven => ("oom", "killed by the kernel: out of memory,"),
        OutOfMemory::Likely => (
            "oom",
            "killed (SIGKILL), most likely by the kernel: out of memory,",
        ),
        OutOfMemory::No => (
            "killed",
            "killed from outside (SIGKILL; the kernel was not out of memory)",
        ),
        OutOfMemory::Unknown => (
            "killed",
            "killed (SIGKILL; from outside or by the kernel out of memory, this system does not tell)",
        ),
    }
}

fn hang(facts: &DeathFacts, scan: &CrashScan, silent: Duration) -> Verdict {
    let mut words = format!("hung for {:.1} s", silent.as_secs_f64());
    let kind = facts
        .hang
        .as_ref()
        .map(|hang| hang.kind)
        .unwrap_or_default();
    if kind != HangKind::Unknown {
        let _ = write!(words, " {}", kind.words());
    }
    // The banner is of the SIGSEGV that we sent it, so that it would tell where it hung.
    let banner = scan.banner();
    if let Some(place) = banner.and_then(|banner| banner.script_backtrace.first()) {
        let _ = write!(words, " at {place}");
    }
    Verdict {
        kind: "hang".to_owned(),
        words,
        signal: None,
        exit_code: None,
        banner_counts: banner.is_some(),
    }
}

/// 18211 as `18,211`.
fn grouped(number: u64) -> String {
    let digits = number.to_string();
    let mut text = String::with_capacity(digits.len() + digits.len() / 3);
    for (at, digit) in digits.chars().enumerate() {
        if at > 0 && (digits.len() - at).is_multiple_of(3) {
            text.push(',');
        }
        text.push(digit);
    }
    text
}

/// The two greatest units: `5 min 3 s`, `0.35 s`, `3 d 4 h`.
fn in_words(time: Duration) -> String {
    let seconds = time.as_secs();
    match seconds {
        0..10 => format!("{:.2} s", time.as_secs_f64()),
        10..60 => format!("{seconds} s"),
        60..3600 => format!("{} min {} s", seconds / 60, seconds % 60),
        3600..86_400 => format!("{} h {} min", seconds / 3600, seconds % 3600 / 60),
        _ => format!("{} d {} h", seconds / 86_400, seconds % 86_400 / 3600),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_and_times_read_well() {
        for (number, text) in [
            (7, "7"),
            (999, "999"),
            (1000, "1,000"),
            (1_234_567, "1,234,567"),
        ] {
            assert_eq!(grouped(number), text);
        }
        for (ms, text) in [
            (350, "0.35 s"),
            (59_999, "59 s"),
            (303_000, "5 min 3 s"),
            (7_500_000, "2 h 5 min"),
            (273_600_000, "3 d 4 h"),
        ] {
            assert_eq!(in_words(Duration::from_millis(ms)), text);
        }
    }
}
