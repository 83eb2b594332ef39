//! Whether the kernel killed a process for want of memory.
//!
//! Three sources, from weak to strong: the machine's count of such kills (`/proc/vmstat`), the count of the process's
//! control group (`memory.events`, `memory.oom_control`), and the kernel's log, which names the process but may mostly
//! be read by root alone.

use std::fs::{self, OpenOptions};
use std::io::Read as _;
use std::os::unix::fs::OpenOptionsExt as _;
use std::path::{Path, PathBuf};
use std::time::Duration;

use rustix::fs::OFlags;

/// The inode of the first pid namespace: only there are our numbers the kernel log's.
const FIRST_PID_NAMESPACE: &str = "pid:[4026531836]";
/// One record of the kernel's log is at most 8 KiB.
const RECORD_BYTES_MAX: usize = 8192;
/// The kernel's log is a ring of a few thousand records; a bound all the same.
const RECORDS_MAX: usize = 100_000;

/// The counts as they stood when a process was started.
#[derive(Clone, Debug, Default)]
pub struct OomCounters {
    machine: Option<u64>,
    group: Option<(PathBuf, u64)>,
}

impl OomCounters {
    /// Notes where the counters of a running process stand.
    pub fn of(pid: u32) -> Self {
        Self {
            machine: machine_kills(),
            group: group_file(pid).and_then(|path| {
                let count = group_kills(&path)?;
                Some((path, count))
            }),
        }
    }

    /// Whether the machine counts a kill since then; `None` = it does not tell. Where it saw none, there was none.
    pub fn machine_has_risen(&self) -> Option<bool> {
        Some(machine_kills()? > self.machine?)
    }

    /// Whether the process's control group counts a kill since then; `None` = it does not tell.
    pub fn group_has_risen(&self) -> Option<bool> {
        let (path, before) = self.group.as_ref()?;
        group_kills(path).map(|now| now > *before)
    }
}

fn machine_kills() -> Option<u64> {
    field(&fs::read_to_string("/proc/vmstat").ok()?, "oom_kill")
}

fn group_kills(path: &Path) -> Option<u64> {
    field(&fs::read_to_string(path).ok()?, "oom_kill")
}

/// Reads `name value` of such lines.
fn field(text: &str, name: &str) -> Option<u64> {
    text.lines().find_map(|line| {
        let mut words = line.split_ascii_whitespace();
        (words.next() == Some(name)).then(|| words.next()?.parse().ok())?
    })
}

fn group_file(pid: u32) -> Option<PathBuf> {
    let groups = fs::read_to_string(format!("/proc/{pid}/cgroup")).ok()?;
    group_files(&groups).into_iter().find(|path| path.exists())
}

fn group_files(groups: &str) -> Vec<PathBuf> {
    let mut paths = Vec::new();
    for line in groups.lines() {
        let mut parts = line.splitn(3, ':');
        let (Some(_), Some(controllers), Some(group)) = (parts.next(), parts.next(), parts.next())
        else {
            continue;
        };
        let group = group.trim_start_matches('/');
        if controllers.is_empty() {
            paths.push(
                Path::new("/sys/fs/cgroup")
                    .join(group)
                    .join("memory.events"),
            );
            paths.push(
                Path::new("/sys/fs/cgroup/unified")
                    .join(group)
                    .join("memory.events"),
            );
        } else if controllers.split(',').any(|name| name == "memory") {
            let root = Path::new("/sys/fs/cgroup/memory");
            paths.push(root.join(group).join("memory.oom_control"));
            paths.push(root.join("memory.oom_control"));
        }
    }
    paths
}

/// Whether the kernel's log says that it killed this process for want of memory within the last `within`;
/// `None` = the log cannot be read, or speaks of other numbers than we do.
pub fn kernel_log_names(pid: u32, within: Duration) -> Option<bool> {
    let namespace = fs::read_link("/proc/self/ns/pid").ok()?;
    if namespace.as_os_str() != FIRST_PID_NAMESPACE {
        return None;
    }
    let mut log = OpenOptions::new()
        .read(true)
        .custom_flags(OFlags::NONBLOCK.bits().cast_signed())
        .open("/dev/kmsg")
        .ok()?;
    let since = super::clock::monotonic_now().saturating_sub(within);
    let mut record = [0_u8; RECORD_BYTES_MAX];
    for _ in 0..RECORDS_MAX {
        match log.read(&mut record) {
            Ok(bytes) if bytes > 0 => {
                if names(&String::from_utf8_lossy(&record[..bytes]), pid, since) {
                    return Some(true);
                }
            }
            // EPIPE: records were overwritten while we read; the next read goes on after them.
            Err(error) if error.kind() == std::io::ErrorKind::BrokenPipe => {}
            _ => return Some(false),
        }
    }
    Some(false)
}

/// `6,339,5140900,-;Memory cgroup out of memory: Killed process 1234 (godot) total-vm:…`, times in microseconds.
fn names(record: &str, pid: u32, since: Duration) -> bool {
    let Some((head, text)) = record.split_once(';') else {
        return false;
    };
    let at = head.split(',').nth(2).and_then(|us| us.parse().ok());
    let is_fresh = at.is_some_and(|us| Duration::from_micros(us) >= since);
    let lower = text.to_ascii_lowercase();
    is_fresh
        && lower.contains("out of memory")
        && lower
            .split_once("killed process ")
            .or_else(|| lower.split_once("kill process "))
            .and_then(|(_, rest)| rest.split([' ', ',', '(']).next()?.parse().ok())
            == Some(pid)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_kernels_words_name_one_process_at_one_time() {
        let record =
            "6,339,5140900,-;Memory cgroup out of memory: Killed process 1234 (godot) total-vm:1kB";
        let second = Duration::from_secs(1);
        assert!(names(record, 1234, second));
        assert!(names(
            "3,1,5140900,-;Out of memory: Killed process 1234 (a (b) c) x",
            1234,
            second
        ));
        assert!(!names(record, 123, second), "another process");
        assert!(!names(record, 1234, Duration::from_secs(6)), "long ago");
        assert!(!names("garbage", 1234, second));
        assert!(!names(
            "6,1,5140900,-;process 1234 killed process 1234",
            1234,
            second
        ));
    }

    #[test]
    fn counters_are_read_from_both_kinds_of_groups() {
        assert_eq!(
            group_files("0::/user.slice/a b\n"),
            [
                Path::new("/sys/fs/cgroup/user.slice/a b/memory.events"),
                Path::new("/sys/fs/cgroup/unified/user.slice/a b/memory.events"),
            ]
        );
        assert_eq!(
            group_files("5:cpu,memory:/x\n4:cpuset:/y\ngarbage\n"),
            [
                Path::new("/sys/fs/cgroup/memory/x/memory.oom_control"),
                Path::new("/sys/fs/cgroup/memory/memory.oom_control"),
            ]
        );
        assert_eq!(
            field("oom 3\noom_kill 2\noom_kill_x 9\n", "oom_kill"),
            Some(2)
        );
        assert_eq!(field("under_oom 0\n", "oom_kill"), None);
    }

    #[test]
    fn this_process_was_not_killed() {
        let counters = OomCounters::of(std::process::id());
        assert_ne!(counters.group_has_risen(), Some(true));
    }
}
