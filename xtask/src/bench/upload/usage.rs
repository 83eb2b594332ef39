//! What a process, or a disk, has done so far, from `/proc` and `/sys`.

use std::fs;
use std::io;
use std::os::unix::fs::MetadataExt;
use std::path::Path;

/// Of `/proc/PID/stat`; the same on every Linux that we build for (`getconf CLK_TCK`).
const TICKS_PER_S: f64 = 100.0;
const MIB: f64 = 1024.0 * 1024.0;

/// Seconds on a core, of all threads, also ended ones.
pub(super) fn cpu_s(pid: u32) -> io::Result<f64> {
    let stat = fs::read_to_string(format!("/proc/{pid}/stat"))?;
    let fields = stat.rsplit(')').next().unwrap_or_default();
    // After the name: state is the first field, user and system time the 12th and 13th.
    let times = fields.split_ascii_whitespace().skip(11).take(2);
    let ticks: f64 = times.filter_map(|field| field.parse::<f64>().ok()).sum();
    Ok(ticks / TICKS_PER_S)
}

/// Bytes written to the disk that a folder lies on, by whomever. A process's own `write_bytes` is of no use: it counts a whole
/// page cache folio, up to megabytes, for each byte that makes one dirty.
pub(super) fn disk_bytes(folder: &Path) -> io::Result<f64> {
    const SECTOR: f64 = 512.0;
    let device = fs::metadata(folder)?.dev();
    let (major, minor) = (rustix::fs::major(device), rustix::fs::minor(device));
    let stat = fs::read_to_string(format!("/sys/dev/block/{major}:{minor}/stat"))?;
    // Documentation/block/stat.rst: the seventh is sectors written.
    let sectors = stat.split_ascii_whitespace().nth(6);
    let sectors: Option<f64> = sectors.and_then(|field| field.parse().ok());
    let sectors = sectors.ok_or_else(|| io::Error::other("the disk counts no sectors"))?;
    Ok(sectors * SECTOR)
}

/// Resident memory without the mapped rings, which are the game's as much as ours.
pub(super) fn resident_mib(pid: u32) -> io::Result<f64> {
    let kib = number(pid, "status", "RssAnon:")? + number(pid, "status", "RssFile:")?;
    Ok(kib * 1024.0 / MIB)
}

fn number(pid: u32, file: &str, name: &str) -> io::Result<f64> {
    let text = fs::read_to_string(format!("/proc/{pid}/{file}"))?;
    let line = text.lines().find_map(|line| line.strip_prefix(name));
    line.and_then(|rest| rest.split_ascii_whitespace().next()?.parse().ok())
        .ok_or_else(|| io::Error::other(format!("/proc/{pid}/{file} has no {name}")))
}
