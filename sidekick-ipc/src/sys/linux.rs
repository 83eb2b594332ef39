//! Linux.

use std::ffi::c_void;
use std::fs::File;
use std::io;
use std::os::fd::{AsFd, BorrowedFd};
use std::path::{Path, PathBuf};
use std::sync::OnceLock;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::Duration;

use rustix::fs::{AtFlags, FileType, FlockOperation, Mode, OFlags, RenameFlags};
use rustix::io::Errno;
use rustix::mm::{Advice, MapFlags, MprotectFlags, ProtFlags};
use rustix::thread::futex;
use rustix::time::{ClockId, Timespec, clock_gettime};

// ---- time and identity ----

/// CLOCK_MONOTONIC in ns: the same in every process of this boot.
#[inline]
pub fn monotonic_ns() -> u64 {
    to_ns(clock_gettime(ClockId::Monotonic))
}

/// Nanoseconds since the Unix epoch.
pub fn realtime_ns() -> u64 {
    to_ns(clock_gettime(ClockId::Realtime))
}

fn to_ns(t: Timespec) -> u64 {
    (t.tv_sec as u64)
        .wrapping_mul(1_000_000_000)
        .wrapping_add(t.tv_nsec as u64)
}

/// This boot's id; zeros where `/proc` is missing.
pub fn boot_id() -> [u8; 16] {
    std::fs::read_to_string("/proc/sys/kernel/random/boot_id")
        .ok()
        .and_then(|text| uuid::Uuid::try_parse(text.trim()).ok())
        .map_or([0; 16], uuid::Uuid::into_bytes)
}

/// When the process started, in clock ticks since boot (field 22 of `/proc/<pid>/stat`). With the pid it names one
/// process for ever. `None` when there is none, or no `/proc`.
pub fn process_start_time(pid: u32) -> Option<u64> {
    Some(process_state(pid)?.1)
}

/// Whether the process of this pid and start time is dead: it is gone, another one has its pid, or nobody has reaped it
/// yet. False where nothing can be known, without `/proc` that is.
pub fn is_process_dead(pid: u32, start_time: u64) -> bool {
    match process_state(pid) {
        Some((state, found)) => found != start_time || matches!(state, 'Z' | 'X'),
        None => process_state(std::process::id()).is_some(),
    }
}

/// State letter and start time.
fn process_state(pid: u32) -> Option<(char, u64)> {
    let stat = std::fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
    // The second field is the name in parentheses and may hold anything, so count from the last one.
    let (_, rest) = stat.rsplit_once(')')?;
    let mut fields = rest.split_ascii_whitespace();
    let state = fields.next()?.chars().next()?;
    Some((state, fields.nth(18)?.parse().ok()?))
}

// ---- files ----

/// A directory that only its owner can write, held open so that no path is walked twice.
#[derive(Debug)]
pub struct Dir {
    file: File,
    path: PathBuf,
}

impl Dir {
    /// Opens an existing directory.
    ///
    /// # Errors
    /// `PermissionDenied` when it belongs to another user or others may write it; else as the system gives them.
    pub fn open(path: &Path) -> io::Result<Dir> {
        let flags = OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC | OFlags::RDONLY;
        let file = File::from(rustix::fs::open(path, flags, Mode::empty())?);
        let stat = rustix::fs::fstat(&file)?;
        if stat.st_uid != rustix::process::geteuid().as_raw() || stat.st_mode & 0o022 != 0 {
            return Err(io::Error::new(
                io::ErrorKind::PermissionDenied,
                format!(
                    "directory {} has owner {} and mode {:o}; it must be this user's and writable by nobody else",
                    path.display(),
                    stat.st_uid,
                    stat.st_mode & 0o7777
                ),
            ));
        }
        Ok(Dir {
            file,
            path: path.to_owned(),
        })
    }

    /// The path it was opened with, for messages.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Makes a file that was not there before, for reading and writing, mode 0600.
    ///
    /// # Errors
    /// As the system gives them.
    pub fn create_new(&self, name: &str) -> io::Result<File> {
        let flags =
            OFlags::RDWR | OFlags::CREATE | OFlags::EXCL | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        let mode = Mode::RUSR | Mode::WUSR;
        Ok(File::from(rustix::fs::openat(
            &self.file, name, flags, mode,
        )?))
    }

    /// Opens a file that must be regular, this user's, and have this one name.
    ///
    /// # Errors
    /// [`io::ErrorKind::InvalidData`] when it is something else; else as the system gives them.
    pub fn open_own(&self, name: &str, write: bool) -> io::Result<(File, u64)> {
        let access = if write { OFlags::RDWR } else { OFlags::RDONLY };
        // NONBLOCK: opening somebody's FIFO must not hang.
        let flags = access | OFlags::NOFOLLOW | OFlags::NONBLOCK | OFlags::CLOEXEC;
        let file = File::from(rustix::fs::openat(&self.file, name, flags, Mode::empty())?);
        let stat = rustix::fs::fstat(&file)?;
        let regular = FileType::from_raw_mode(stat.st_mode) == FileType::RegularFile;
        let own = stat.st_uid == rustix::process::geteuid().as_raw();
        if !regular || !own || stat.st_nlink != 1 {
            return Err(io::Error::new(
                io::ErrorKind::InvalidData,
                format!(
                    "{} is not a regular file of this user with one name (mode {:o}, owner {}, {} names)",
                    self.path.join(name).display(),
                    stat.st_mode,
                    stat.st_uid,
                    stat.st_nlink
                ),
            ));
        }
        Ok((file, stat.st_size as u64))
    }

    /// Gives a file its final name, unless that is taken.
    ///
    /// # Errors
    /// As the system gives them.
    pub fn rename_new(&self, from: &str, to: &str) -> io::Result<()> {
        let done =
            rustix::fs::renameat_with(&self.file, from, &self.file, to, RenameFlags::NOREPLACE);
        match done {
            // A file system without the flag: the name holds a fresh UUID, nothing can be there.
            Err(Errno::INVAL | Errno::NOSYS) => {
                Ok(rustix::fs::renameat(&self.file, from, &self.file, to)?)
            }
            other => Ok(other?),
        }
    }

    /// Removes a file. One that is gone already is fine.
    ///
    /// # Errors
    /// As the system gives them.
    pub fn remove(&self, name: &str) -> io::Result<()> {
        match rustix::fs::unlinkat(&self.file, name, AtFlags::empty()) {
            Ok(()) | Err(Errno::NOENT) => Ok(()),
            Err(e) => Err(e.into()),
        }
    }

    /// Opens a directory in this one, and makes it (0700) if it is missing.
    ///
    /// # Errors
    /// As for [`Dir::open`].
    pub fn subdir(&self, name: &str) -> io::Result<Dir> {
        match rustix::fs::mkdirat(&self.file, name, Mode::RWXU) {
            Ok(()) | Err(Errno::EXIST) => Dir::open(&self.path.join(name)),
            Err(e) => Err(e.into()),
        }
    }
}

/// Gives the file all its blocks now, so that a full disk is an error here and not a SIGBUS later.
///
/// # Errors
/// As the system gives them.
pub fn allocate(file: &File, bytes: u64) -> io::Result<()> {
    let bytes = i64::try_from(bytes).map_err(|_| io::ErrorKind::FileTooLarge)?;
    // SAFETY: a plain call on an open descriptor; unlike fallocate(2) it also works where the file system cannot.
    let code = unsafe { libc::posix_fallocate(std::os::fd::AsRawFd::as_raw_fd(file), 0, bytes) };
    if code == 0 {
        Ok(())
    } else {
        Err(io::Error::from_raw_os_error(code))
    }
}

/// Takes the lock whose holder is the living writer of the file.
///
/// # Errors
/// As the system gives them; `WouldBlock` when it is taken.
pub fn lock_exclusive(file: &File) -> io::Result<()> {
    Ok(rustix::fs::flock(
        file.as_fd(),
        FlockOperation::NonBlockingLockExclusive,
    )?)
}

/// Whether another open file holds the lock. The kernel lets go of it when its process ends, however that happens.
pub fn is_locked_by_other(file: &File) -> bool {
    match rustix::fs::flock(file.as_fd(), FlockOperation::NonBlockingLockShared) {
        Ok(()) => {
            // Unlocking an open file cannot fail; a leftover shared lock would be ours only.
            let _ = rustix::fs::flock(file.as_fd(), FlockOperation::Unlock);
            false
        }
        Err(Errno::WOULDBLOCK) => true,
        // Anything else proves nothing, and only a proof counts as death.
        Err(_) => true,
    }
}

// ---- memory ----

/// # Safety
/// `start .. start + bytes` is inside a mapping of this process that nobody on this side writes from now on.
pub unsafe fn protect_read_only(start: *mut u8, bytes: usize) -> io::Result<()> {
    // SAFETY: passed on to the caller.
    unsafe { rustix::mm::mprotect(start.cast::<c_void>(), bytes, MprotectFlags::READ)? };
    Ok(())
}

/// # Safety
/// `start .. start + bytes` is inside a mapping of this process.
pub unsafe fn prefault(start: *mut u8, bytes: usize) {
    // SAFETY: passed on to the caller; the advice changes no bytes. Errors (kernels before 5.14) cost speed only.
    let _ = unsafe { rustix::mm::madvise(start.cast(), bytes, Advice::LinuxPopulateWrite) };
}

/// # Safety
/// `start .. start + bytes` is a whole mapping of this process.
pub unsafe fn keep_from_children(start: *mut u8, bytes: usize) {
    // SAFETY: passed on to the caller; the advice changes no bytes.
    let _ = unsafe { rustix::mm::madvise(start.cast(), bytes, Advice::LinuxDontFork) };
}

/// Puts private zero pages over a range; false when the system refuses. May be called in a signal handler.
///
/// # Safety
/// The range is a mapping of this process in which nothing but shared words lies.
pub unsafe fn cover_with_zeros(start: usize, bytes: usize) -> bool {
    let flags = MapFlags::PRIVATE | MapFlags::FIXED | MapFlags::NORESERVE;
    // SAFETY: passed on to the caller.
    let mapped = unsafe {
        rustix::mm::mmap_anonymous(
            std::ptr::without_provenance_mut(start),
            bytes,
            ProtFlags::READ | ProtFlags::WRITE,
            flags,
        )
    };
    mapped.is_ok()
}

static ON_BUS_ERROR: OnceLock<fn(usize) -> bool> = OnceLock::new();
static PREVIOUS: OnceLock<libc::sigaction> = OnceLock::new();

/// Installs a handler of SIGBUS for the whole process. `handler` gets the address and says whether the access can be
/// tried again; if not, what was installed before decides, by default the death of the process.
///
/// # Errors
/// As the system gives them.
pub fn install_bus_error_handler(handler: fn(usize) -> bool) -> io::Result<()> {
    let _ = ON_BUS_ERROR.set(handler);
    // SAFETY: zero is a valid sigaction; the handler has the signature that SA_SIGINFO asks for, lives for ever and
    // calls only what is allowed in a handler (loads, stores, mmap, sigaction).
    unsafe {
        let mut action: libc::sigaction = std::mem::zeroed();
        let mut previous: libc::sigaction = std::mem::zeroed();
        action.sa_sigaction = on_signal as *const () as usize;
        action.sa_flags = libc::SA_SIGINFO | libc::SA_ONSTACK;
        if libc::sigaction(libc::SIGBUS, &raw const action, &raw mut previous) != 0 {
            return Err(io::Error::last_os_error());
        }
        let _ = PREVIOUS.set(previous);
    }
    Ok(())
}

extern "C" fn on_signal(_signal: i32, info: *mut libc::siginfo_t, _context: *mut c_void) {
    // SAFETY: the kernel passes a valid siginfo for SIGBUS.
    let address = unsafe { (*info).si_addr() } as usize;
    if ON_BUS_ERROR.get().is_some_and(|handler| handler(address)) {
        return;
    }
    // SAFETY: puts back what was there before; the access is tried again on return and ends there.
    unsafe {
        let mut action: libc::sigaction = std::mem::zeroed();
        action.sa_sigaction = libc::SIG_DFL;
        let previous = PREVIOUS.get().unwrap_or(&action);
        libc::sigaction(libc::SIGBUS, previous, std::ptr::null_mut());
    }
}

// ---- sleeping ----

/// Sleeps while `word` is `while_value`, at most `timeout`.
pub fn futex_wait(word: &AtomicU32, while_value: u32, timeout: Duration) {
    if word.load(Ordering::Relaxed) != while_value {
        return;
    }
    let timeout = Timespec {
        tv_sec: i64::try_from(timeout.as_secs()).unwrap_or(i64::MAX),
        tv_nsec: i64::from(timeout.subsec_nanos()),
    };
    // A signal, a changed value, the timeout: the caller looks again in any case.
    let _ = futex::wait(word, futex::Flags::empty(), while_value, Some(&timeout));
}

/// Wakes all who sleep on `word`.
pub fn futex_wake(word: &AtomicU32) -> usize {
    futex::wake(word, futex::Flags::empty(), i32::MAX as u32).unwrap_or(0)
}

// ---- positioned reads and writes ----

/// Reads at `offset` until `out` is full or the file ends; says how many bytes came.
///
/// # Errors
/// As the system gives them.
pub fn read_at(file: &File, out: &mut [u8], offset: u64) -> io::Result<usize> {
    let mut done = 0;
    while let Some(rest) = out.get_mut(done..).filter(|rest| !rest.is_empty()) {
        match std::os::unix::fs::FileExt::read_at(file, rest, offset.saturating_add(done as u64)) {
            Ok(0) => break,
            Ok(n) => done = done.saturating_add(n),
            Err(e) if e.kind() == io::ErrorKind::Interrupted => {}
            Err(e) => return Err(e),
        }
    }
    Ok(done)
}

/// Writes all of `bytes` at `offset`. On an error some of them may be there.
///
/// # Errors
/// As the system gives them.
pub fn write_all_at(file: &File, bytes: &[u8], offset: u64) -> io::Result<()> {
    std::os::unix::fs::FileExt::write_all_at(file, bytes, offset)
}

// ---- processes ----

/// The kernel's `struct pidfd_info` in its first size.
#[repr(C)]
#[derive(Default)]
struct PidfdInfo {
    mask: u64,
    cgroup_id: u64,
    ids: [u32; 11],
    exit_code: i32,
}

/// `PIDFD_INFO_EXIT`: asks for, and afterwards says that there is, an exit status.
const PIDFD_INFO_EXIT: u64 = 1 << 3;

/// How the process behind a pidfd ended, as the status word of wait(2), whether or not it was our child.
///
/// `None` while it runs or is not reaped by its parent yet, and for ever on a kernel older than 6.15.
pub fn exit_status(pidfd: BorrowedFd<'_>) -> Option<i32> {
    const GET_INFO: rustix::ioctl::Opcode =
        rustix::ioctl::opcode::read_write::<PidfdInfo>(0xFF, 11);
    let mut info = PidfdInfo {
        mask: PIDFD_INFO_EXIT,
        ..PidfdInfo::default()
    };
    // SAFETY: `PIDFD_GET_INFO` on a pidfd writes at most as many bytes as its number says, which is the size of
    // `PidfdInfo`; every bit pattern of it is valid. On any other descriptor it is refused.
    let asked = unsafe {
        rustix::ioctl::ioctl(
            pidfd,
            rustix::ioctl::Updater::<GET_INFO, PidfdInfo>::new(&mut info),
        )
    };
    (asked.is_ok() && info.mask & PIDFD_INFO_EXIT != 0).then_some(info.exit_code)
}

/// Marks every descriptor from `first` on to be closed in programs that this process starts.
pub fn close_on_exec_from(first: u32) {
    // SAFETY: close_range with this flag closes nothing here; it only sets a flag on descriptors.
    let done = unsafe {
        libc::syscall(
            libc::SYS_close_range,
            first,
            u32::MAX,
            libc::CLOSE_RANGE_CLOEXEC,
        )
    };
    if done == 0 {
        return;
    }
    // Linux before 5.11 does not know the flag.
    let Ok(entries) = std::fs::read_dir("/proc/self/fd") else {
        return;
    };
    for entry in entries.flatten() {
        let number = entry
            .file_name()
            .to_str()
            .and_then(|name| name.parse::<i32>().ok());
        if let Some(number) = number.filter(|number| *number >= first.cast_signed()) {
            // SAFETY: sets a flag, on a descriptor or (of one that is gone) on nothing.
            unsafe { libc::fcntl(number, libc::F_SETFD, libc::FD_CLOEXEC) };
        }
    }
}
