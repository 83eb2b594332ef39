//! Who holds a UDP port, seen from outside: the kernel's own list of sockets, looked at without pause.
//!
//! It knows nothing of what an engine or a watchdog says. A moment shorter than the pause between two looks can escape it.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::thread::{self, JoinHandle};
use std::time::Duration;

/// Between two looks: short beside the time that an engine holds its port, long beside the look.
const PAUSE: Duration = Duration::from_millis(1);

/// What was seen of a port.
#[derive(Debug, Clone, Default)]
pub struct Seen {
    /// The processes that held it, as far as they could still be told.
    pub holders: BTreeSet<u32>,
    /// Sockets that held it at the same time, with their processes where those could be told.
    pub together: Vec<Vec<(u64, Option<u32>)>>,
}

/// A thread that watches a port until this value goes.
#[derive(Debug)]
pub struct PortWatch {
    is_over: Arc<AtomicBool>,
    looks: Arc<AtomicU64>,
    seen: Arc<Mutex<Seen>>,
    thread: Option<JoinHandle<()>>,
}

impl PortWatch {
    /// Begins to watch a UDP port of this machine's IPv4 addresses.
    pub fn start(port: u16) -> Self {
        let is_over = Arc::new(AtomicBool::new(false));
        let looks = Arc::new(AtomicU64::new(0));
        let seen = Arc::new(Mutex::new(Seen::default()));
        let (ends, counts, tells) = (Arc::clone(&is_over), Arc::clone(&looks), Arc::clone(&seen));
        let thread = thread::spawn(move || watch(port, &ends, &counts, &tells));
        Self {
            is_over,
            looks,
            seen,
            thread: Some(thread),
        }
    }

    /// How often it has looked.
    pub fn looks(&self) -> u64 {
        self.looks.load(Ordering::Relaxed)
    }

    /// What was seen so far.
    ///
    /// # Panics
    /// When the kernel's list cannot be read.
    pub fn seen(&self) -> Seen {
        let is_over = self.thread.as_ref().is_none_or(JoinHandle::is_finished);
        assert!(!is_over, "the watch has ended");
        lock(&self.seen).clone()
    }
}

impl Drop for PortWatch {
    fn drop(&mut self) {
        self.is_over.store(true, Ordering::Relaxed);
        if let Some(thread) = self.thread.take() {
            let _ = thread.join();
        }
    }
}

fn watch(port: u16, is_over: &AtomicBool, looks: &AtomicU64, seen: &Mutex<Seen>) {
    let mut known = BTreeMap::new();
    let mut last = BTreeSet::new();
    while !is_over.load(Ordering::Relaxed) {
        let now = sockets(port);
        for inode in now.difference(&last) {
            let holder = holder(*inode);
            lock(seen).holders.extend(holder);
            known.insert(*inode, holder);
        }
        // The list is no picture of one moment: only sockets that are still there at a second look were there together.
        if now.len() > 1 && now != last {
            let both: BTreeSet<u64> = now.intersection(&sockets(port)).copied().collect();
            if both.len() > 1 {
                let named = |inode: &u64| (*inode, known.get(inode).copied().flatten());
                lock(seen).together.push(both.iter().map(named).collect());
            }
        }
        last = now;
        looks.fetch_add(1, Ordering::Relaxed);
        thread::sleep(PAUSE);
    }
}

fn lock(seen: &Mutex<Seen>) -> MutexGuard<'_, Seen> {
    seen.lock().unwrap_or_else(PoisonError::into_inner)
}

/// The inodes of the sockets that are bound to the port.
fn sockets(port: u16) -> BTreeSet<u64> {
    let text = fs::read_to_string("/proc/net/udp").expect("the kernel's list of UDP sockets");
    let of_port = |line: &str| {
        let mut words = line.split_ascii_whitespace();
        let (_, found) = words.nth(1)?.split_once(':')?;
        let is_it = u16::from_str_radix(found, 16) == Ok(port);
        // After the address: the other end, state, queues, timer, retransmissions, user, time-out.
        let inode = words.nth(7)?.parse().ok();
        inode.filter(|_| is_it)
    };
    text.lines().skip(1).filter_map(of_port).collect()
}

/// A process that has this socket open.
fn holder(inode: u64) -> Option<u32> {
    let wanted = format!("socket:[{inode}]");
    let pids = fs::read_dir("/proc").ok()?;
    let mut pids = pids.filter_map(|entry| entry.ok()?.file_name().to_str()?.parse().ok());
    pids.find(|pid: &u32| {
        let files = fs::read_dir(format!("/proc/{pid}/fd"));
        let mut links = files.into_iter().flatten().filter_map(|file| {
            let link = fs::read_link(file.ok()?.path()).ok()?;
            Some(link.to_string_lossy().into_owned())
        });
        links.any(|link| link == wanted)
    })
}

#[cfg(test)]
mod tests {
    use std::net::{Ipv4Addr, UdpSocket};

    use super::*;
    use crate::{ports, wait};

    const PATIENCE: Duration = Duration::from_secs(30);

    /// At least one whole look from now on.
    fn wait_for_looks(watch: &PortWatch) {
        let from = watch.looks();
        wait::until("two looks", PATIENCE, || {
            (watch.looks() >= from + 2).then_some(())
        });
    }

    /// One socket after the other is nothing; two at a time are told, with their process.
    #[test]
    fn two_holders_of_a_port_are_seen() {
        let port = ports::free_udp();
        let watch = PortWatch::start(port);
        let socket = |port: u16| UdpSocket::bind((Ipv4Addr::LOCALHOST, port)).unwrap();
        for _ in 0..5 {
            let held = socket(port);
            wait_for_looks(&watch);
            drop(held);
        }
        let seen = watch.seen();
        assert_eq!(seen.holders, BTreeSet::from([std::process::id()]));
        assert!(seen.together.is_empty(), "{seen:?}");

        // The same port on two addresses: as good as a shared one for who goes by the port.
        let _first = socket(port);
        let watch = PortWatch::start(port);
        let _second = UdpSocket::bind((Ipv4Addr::new(127, 0, 0, 2), port)).unwrap();
        wait_for_looks(&watch);
        let seen = watch.seen();
        let own = Some(std::process::id());
        let together: Vec<_> = seen.together.concat();
        assert_eq!(together.len(), 2, "{seen:?}");
        assert!(together.iter().all(|(_, pid)| *pid == own), "{seen:?}");
    }
}
