//! What `/proc` tells of a process.

use std::fs;
use std::time::Duration;

use super::clock::boottime_now;
use super::process::ProcessState;

/// The parts of `/proc/<pid>/stat` that we use.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Stat {
    /// `R`, `S`, `D`, `T`, `t`, `Z`, …
    pub state: char,
    /// The parent's process id.
    pub parent: u32,
    /// The process group.
    pub group: u32,
    /// Clock ticks from boot to its start: with the pid, its identity.
    pub start_ticks: u64,
}

/// Reads a process's `stat`; `None` if there is no such process (or `/proc` hides it).
pub fn stat(pid: u32) -> Option<Stat> {
    parse_stat(&fs::read_to_string(format!("/proc/{pid}/stat")).ok()?)
}

fn parse_stat(text: &str) -> Option<Stat> {
    // The name in parentheses may hold anything, blanks and parentheses too: go on after the last one.
    let after_name = text.get(text.rfind(')')? + 1..)?;
    let fields: Vec<&str> = after_name.split_ascii_whitespace().collect();
    Some(Stat {
        state: fields.first()?.chars().next()?,
        parent: fields.get(1)?.parse().ok()?,
        group: fields.get(2)?.parse().ok()?,
        start_ticks: fields.get(19)?.parse().ok()?,
    })
}

/// How long ago a process with these start ticks was started, to 10 ms.
pub fn age(start_ticks: u64) -> Duration {
    let ticks_per_second = rustix::param::clock_ticks_per_second().max(1);
    let started = Duration::from_millis(start_ticks.saturating_mul(1000) / ticks_per_second);
    boottime_now().saturating_sub(started)
}

/// Whether a process runs, stands stopped or stands in a debugger.
pub fn state(pid: u32) -> ProcessState {
    match stat(pid).map(|stat| stat.state) {
        Some('t') => ProcessState::Traced,
        Some('T') => ProcessState::Stopped,
        Some('Z' | 'X') | None => ProcessState::Gone,
        Some(_) if is_traced(pid) => ProcessState::Traced,
        Some('R') => ProcessState::Running,
        Some('D') => ProcessState::Uninterruptible,
        Some(_) => ProcessState::Sleeping,
    }
}

fn is_traced(pid: u32) -> bool {
    fs::read_to_string(format!("/proc/{pid}/status"))
        .ok()
        .and_then(|status| {
            let line = status
                .lines()
                .find_map(|line| line.strip_prefix("TracerPid:"))?;
            Some(line.trim() != "0")
        })
        .unwrap_or(false)
}

/// The process ids of all processes that `/proc` shows.
pub fn all_pids() -> Vec<u32> {
    numbered_entries("/proc")
}

/// Whether any process of a process group runs; those that are dead and not reaped do not.
pub fn group_runs(group: u32) -> bool {
    let mut stats = all_pids().into_iter().filter_map(stat);
    stats.any(|stat| stat.group == group && !matches!(stat.state, 'Z' | 'X'))
}

/// Direct children of this process, whichever of its threads they belong to.
pub fn own_children() -> Vec<u32> {
    let mut children = Vec::new();
    for thread in numbered_entries("/proc/self/task") {
        if let Ok(line) = fs::read_to_string(format!("/proc/self/task/{thread}/children")) {
            children.extend(
                line.split_ascii_whitespace()
                    .filter_map(|pid| pid.parse::<u32>().ok()),
            );
        }
    }
    children
}

/// Whether a signal was set to be ignored when this process was started (as `nohup` and a shell's `&` do).
pub fn ignores_signal(signal: i32) -> bool {
    let mask = fs::read_to_string("/proc/self/status")
        .ok()
        .and_then(|status| {
            let line = status
                .lines()
                .find_map(|line| line.strip_prefix("SigIgn:"))?;
            u64::from_str_radix(line.trim(), 16).ok()
        });
    let bit = u32::try_from(signal - 1)
        .ok()
        .and_then(|shift| 1_u64.checked_shl(shift));
    mask.zip(bit).is_some_and(|(mask, bit)| mask & bit != 0)
}

fn numbered_entries(dir: &str) -> Vec<u32> {
    fs::read_dir(dir)
        .map(|entries| {
            entries
                .filter_map(|entry| entry.ok()?.file_name().to_str()?.parse().ok())
                .collect()
        })
        .unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_name_with_blanks_and_parentheses_does_not_shift_the_fields() {
        let text = "42 (a) b (c) S 7 42 42 0 -1 4194560 1 2 3 4 5 6 7 8 20 0 1 0 987654 1 2";
        let stat = parse_stat(text).expect("well-formed");
        assert_eq!(
            stat,
            Stat {
                state: 'S',
                parent: 7,
                group: 42,
                start_ticks: 987_654
            }
        );
    }

    #[test]
    fn torn_text_is_no_process() {
        for text in ["", "42", "42 (x", "42 (x)", "42 (x) S 1 2"] {
            assert_eq!(parse_stat(text), None, "{text:?}");
        }
    }
}
