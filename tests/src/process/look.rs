//! What `/proc` says of a process that may be starting or ending at this moment.

use std::fs;
use std::io;
use std::thread;

/// Fields of a process's `stat`, counted from 1 as in `proc(5)`.
const STATE: usize = 3;
const GROUP: usize = 5;
/// 0 until an `exec` has put down all that the program is given: before, what was given begins and ends at one place for a moment.
const PROGRAM_BEGIN: usize = 26;

/// What a process got when it was started, and which fields of its `stat` tell where that begins and ends.
#[derive(Debug, Clone, Copy)]
pub(super) struct Given {
    file: &'static str,
    begin: usize,
    end: usize,
}

const WORDS: Given = Given {
    file: "cmdline",
    begin: 48,
    end: 49,
};
pub(super) const ENVIRONMENT: Given = Given {
    file: "environ",
    begin: 50,
    end: 51,
};

/// A process's words, each with a 0 behind it; empty when it is ending or gone.
pub fn words(pid: u32) -> Vec<u8> {
    settled(pid, WORDS).unwrap_or_default()
}

/// What a process was given. Amid an `exec` there is nothing for a moment, which whoever started the process does not
/// wait for: it is then looked at again.
///
/// # Errors
/// What the system said: the process is gone, or another user's.
pub(super) fn settled(pid: u32, given: Given) -> io::Result<Vec<u8>> {
    loop {
        let bytes = fs::read(format!("/proc/{pid}/{}", given.file))?;
        if !bytes.is_empty() {
            return Ok(bytes);
        }
        let stat = fs::read_to_string(format!("/proc/{pid}/stat"))?;
        let (begin, end) = (field(&stat, given.begin), field(&stat, given.end));
        // One that is ending has no program any more, a thread of the kernel never had one.
        let has_program = || fs::read_link(format!("/proc/{pid}/exe")).is_ok();
        let is_really_empty = end == begin && field(&stat, PROGRAM_BEGIN) != Some("0");
        if is_really_empty || !has_program() {
            return Ok(bytes);
        }
        thread::yield_now();
    }
}

/// A field behind the name, which is in parentheses and may hold anything.
fn field(stat: &str, number: usize) -> Option<&str> {
    let fields = stat.rsplit(')').next()?;
    fields.split_ascii_whitespace().nth(number - STATE)
}

/// Whether a process leads its process group, as an engine does: what a wrapper script forks does not, nor does the
/// watchdog's own child before it has become an engine.
pub fn leads_its_group(pid: u32) -> bool {
    fs::read_to_string(format!("/proc/{pid}/stat"))
        .is_ok_and(|stat| field(&stat, GROUP) == Some(&pid.to_string()))
}

/// Whether a process runs; one that is dead and not reaped yet does not.
pub fn runs(pid: u32) -> bool {
    fs::read_to_string(format!("/proc/{pid}/stat"))
        .is_ok_and(|stat| !matches!(field(&stat, STATE), Some("Z" | "X") | None))
}

/// A process's number and command line, for the text of a failed assertion.
pub fn command_line(pid: u32) -> String {
    let words = fs::read(format!("/proc/{pid}/cmdline")).unwrap_or_default();
    format!(
        "{pid} {}",
        String::from_utf8_lossy(&words).replace('\0', " ")
    )
}
