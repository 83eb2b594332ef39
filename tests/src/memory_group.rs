//! A control group with little memory, for tests of the kernel's out-of-memory killer. Only root can make one.

use std::fs;
use std::path::{Path, PathBuf};
use std::time::Duration;

use crate::wait;

/// How long the last of its processes may take to be gone.
const END_TIME_MAX: Duration = Duration::from_secs(10);

/// The folder of a group; it goes with this value, which has to outlive the group's processes.
#[derive(Debug)]
pub struct MemoryGroup {
    path: PathBuf,
}

impl MemoryGroup {
    /// Makes a group whose processes may have `bytes` of memory together, and no swap.
    ///
    /// # Errors
    /// Why not, in a sentence; usually for want of permission.
    pub fn new(bytes: u64) -> Result<Self, String> {
        // A later kernel's one tree for all controllers, or a tree of the memory controller's own.
        let unified = Path::new("/sys/fs/cgroup");
        let own = unified.join("memory");
        let has_memory = |path: PathBuf| {
            fs::read_to_string(path)
                .is_ok_and(|text| text.split_whitespace().any(|name| name == "memory"))
        };
        let (root, limit, swap) = if own.join("memory.limit_in_bytes").exists() {
            (
                own,
                "memory.limit_in_bytes",
                ("memory.memsw.limit_in_bytes", bytes),
            )
        } else if has_memory(unified.join("cgroup.subtree_control")) {
            (unified.to_owned(), "memory.max", ("memory.swap.max", 0))
        } else {
            return Err("no control group of memory can be made here".to_owned());
        };
        let name = format!(
            "sidekick-test-{}-{:08x}",
            std::process::id(),
            fastrand::u32(..)
        );
        let path = root.join(name);
        fs::create_dir(&path).map_err(|error| format!("cannot make {path:?}: {error}"))?;
        let group = Self { path };
        group.write(limit, bytes)?;
        // A kernel without swap has no such file.
        if group.path.join(swap.0).exists() {
            group.write(swap.0, swap.1)?;
        }
        Ok(group)
    }

    /// The file that takes the number of a process which is to belong to the group.
    pub fn members(&self) -> PathBuf {
        self.path.join("cgroup.procs")
    }

    /// Whether this process is a member.
    pub fn has(&self, pid: u32) -> bool {
        let members = fs::read_to_string(self.members()).unwrap_or_default();
        members.lines().any(|line| line == pid.to_string())
    }

    fn write(&self, name: &str, value: u64) -> Result<(), String> {
        let path = self.path.join(name);
        fs::write(&path, value.to_string())
            .map_err(|error| format!("cannot write {value} to {path:?}: {error}"))
    }
}

impl Drop for MemoryGroup {
    fn drop(&mut self) {
        let removed = wait::poll(END_TIME_MAX, || fs::remove_dir(&self.path).ok());
        if removed.is_none() {
            eprintln!("harness: {:?} cannot be removed", self.path);
        }
    }
}
