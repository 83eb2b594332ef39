//! What `/proc` tells of a process's threads and memory: evidence of a hang, and the memory ceiling.

use std::fs;

use super::process::Process;

/// More threads than this tell no more.
const THREADS_MAX: usize = 128;
/// The innermost frames of a stack in the kernel.
const STACK_LINES_MAX: usize = 16;

/// One thread as it stands.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct ThreadState {
    /// Its id; the main thread's is the process's.
    pub id: u32,
    /// Its name.
    pub name: String,
    /// `R`, `S`, `D`, `T`, … as the system has it.
    pub state: char,
    /// Processor time so far, in clock ticks ([`ticks_per_second`]).
    pub cpu_ticks: u64,
}

/// Clock ticks in a second.
pub fn ticks_per_second() -> u64 {
    rustix::param::clock_ticks_per_second().max(1)
}

impl Process {
    /// Its threads, the main thread first; empty if it is gone or hidden.
    pub fn threads(&self) -> Vec<ThreadState> {
        let pid = self.pid();
        let Ok(entries) = fs::read_dir(format!("/proc/{pid}/task")) else {
            return Vec::new();
        };
        let ids = entries.filter_map(|entry| entry.ok()?.file_name().to_str()?.parse().ok());
        let mut threads: Vec<ThreadState> = ids
            .take(THREADS_MAX)
            .filter_map(|id| {
                let text = fs::read_to_string(format!("/proc/{pid}/task/{id}/stat")).ok()?;
                parse(id, &text)
            })
            .collect();
        threads.sort_by_key(|thread| (thread.id != pid, thread.id));
        threads
    }

    /// Where in the kernel a thread waits, by function or else by system call; `None` where the system does not tell.
    pub fn waits_in(&self, thread: u32) -> Option<String> {
        let file = |name: &str| {
            let path = format!("/proc/{}/task/{thread}/{name}", self.pid());
            let text = fs::read_to_string(path).ok()?.trim().to_owned();
            Some(text).filter(|text| !text.is_empty() && text != "0")
        };
        if let Some(function) = file("wchan") {
            return Some(function);
        }
        let call = file("syscall")?;
        let number = call.split_ascii_whitespace().next()?;
        let number: u32 = number.parse().ok()?;
        Some(format!("system call {number}"))
    }

    /// A thread's stack inside the kernel, innermost first; empty where the system does not tell (only to root).
    pub fn kernel_stack(&self, thread: u32) -> Vec<String> {
        let path = format!("/proc/{}/task/{thread}/stack", self.pid());
        let text = fs::read_to_string(path).unwrap_or_default();
        let frames = text.lines().map(|line| {
            let frame = line.rsplit("] ").next().unwrap_or(line);
            frame.trim().to_owned()
        });
        frames.take(STACK_LINES_MAX).collect()
    }

    /// Its resident memory in bytes.
    pub fn resident_bytes(&self) -> Option<u64> {
        let text = fs::read_to_string(format!("/proc/{}/statm", self.pid())).ok()?;
        let pages: u64 = text.split_ascii_whitespace().nth(1)?.parse().ok()?;
        let page = u64::try_from(rustix::param::page_size()).ok()?;
        pages.checked_mul(page)
    }
}

fn parse(id: u32, text: &str) -> Option<ThreadState> {
    // The name in parentheses may hold anything, parentheses too.
    let (before, after) = text.rsplit_once(')')?;
    let name = before.split_once('(')?.1;
    let fields: Vec<&str> = after.split_ascii_whitespace().collect();
    let ticks = |at: usize| fields.get(at)?.parse::<u64>().ok();
    Some(ThreadState {
        id,
        name: name.to_owned(),
        state: fields.first()?.chars().next()?,
        cpu_ticks: ticks(11)?.saturating_add(ticks(12)?),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_threads_line_is_read_whatever_its_name() {
        let text = "42 (a) (b c) R 7 42 42 0 -1 4194560 1 2 3 4 50 60 7 8 20 0 1 0 987654 1 2";
        let thread = parse(42, text).expect("well-formed");
        assert_eq!(
            thread,
            ThreadState {
                id: 42,
                name: "a) (b c".to_owned(),
                state: 'R',
                cpu_ticks: 110
            }
        );
        for torn in ["", "42 (x", "42 (x)", "42 (x) S 1 2"] {
            assert_eq!(parse(1, torn), None, "{torn:?}");
        }
    }

    #[test]
    fn this_process_has_threads_and_memory() {
        let process = Process::open(std::process::id(), None).expect("we live");
        let threads = process.threads();
        assert_eq!(threads.first().map(|thread| thread.id), Some(process.pid()));
        assert!(
            process
                .resident_bytes()
                .is_some_and(|bytes| bytes > 100_000)
        );
    }
}
