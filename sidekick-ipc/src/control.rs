//! What the watchdog wants of the engine: words that are levels, never messages. Reading one twice harms nobody, so
//! they need no protocol for a crash on either side.

use std::sync::Arc;
use std::sync::atomic::Ordering::{Acquire, Relaxed, Release};
use std::time::Duration;

use crate::layout;
use crate::region::{Mapping, Region};
use crate::sys;

/// The watchdog asks the game to quit.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Quit {
    /// Time that is left to save.
    pub grace: Duration,
}

/// Checkpoints of this server that the store keeps.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct KeptCheckpoints {
    /// Every request up to this number is in it; later ones may be.
    pub seq: u64,
    /// How many keys.
    pub keys: u64,
    /// Bytes of the newest full checkpoint of each with its deltas.
    pub bytes: u64,
}

/// Bits of [`KeptCheckpoints::bytes`] in their word; the keys lie above them, and one bit that says that it was told.
const KEPT_BYTES_BITS: u32 = 40;
const KEPT_KEYS_BITS: u32 = 23;

impl KeptCheckpoints {
    fn pack(self) -> u64 {
        let bytes = self.bytes.min((1 << KEPT_BYTES_BITS) - 1);
        let keys = self.keys.min((1 << KEPT_KEYS_BITS) - 1);
        1 << 63 | keys << KEPT_BYTES_BITS | bytes
    }

    /// What the watchdog has told in this ring.
    pub(crate) fn read<R: Region>(region: &R) -> Option<Self> {
        // SYNC: pairs with the Release in `Controls::set_checkpoints`: the word read after it is no older.
        let seq = region.load(layout::C_CHECKPOINTS_SEQ, Acquire);
        let word = region.load(layout::C_CHECKPOINTS, Relaxed);
        (word >> 63 == 1).then_some(Self {
            seq,
            keys: word >> KEPT_BYTES_BITS & ((1 << KEPT_KEYS_BITS) - 1),
            bytes: word & ((1 << KEPT_BYTES_BITS) - 1),
        })
    }
}

/// The control words as the engine reads them, once per frame.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Control {
    /// Who answers requests; 0 before anybody does. A new number: another watchdog, or the same one with its store opened anew.
    pub generation: u64,
    /// Set while the watchdog wants the game to quit.
    pub quit: Option<Quit>,
    /// Time since the watchdog's last beat; [`Duration::MAX`] before the first.
    pub watchdog_alive_age: Duration,
    /// The watchdog's pid; 0 before it has attached.
    pub watchdog_pid: u32,
    /// The watchdog's start time in clock ticks since boot; 0 if unknown.
    pub watchdog_start_time: u64,
    /// Launch number of the engine that is active; 0 before the watchdog has told.
    pub active_launch: u32,
    /// Bytes committed and not yet uploaded.
    pub backlog: u64,
    /// The watchdog is short of disk: only streams that are to be kept record on.
    pub disk_low: bool,
    /// Counts reloads of the watchdog's configuration.
    pub config_generation: u64,
}

impl Control {
    /// Whether the watchdog's process is gone: proven by its pid and start time. False before one has attached, and when
    /// nothing can be known. Asks the system: not for every frame.
    pub fn is_watchdog_dead(&self) -> bool {
        self.watchdog_pid != 0
            && self.watchdog_start_time != 0
            && sys::is_process_dead(self.watchdog_pid, self.watchdog_start_time)
    }
}

pub(crate) fn read<R: Region>(region: &R, now_ns: u64) -> Control {
    let word = |at| region.load(at, Relaxed);
    let deadline_ns = word(layout::C_QUIT_DEADLINE_NS);
    let beat_ns = word(layout::C_WATCHDOG_BEAT_NS);
    let until = |at_ns: u64| Duration::from_nanos(at_ns.saturating_sub(now_ns));
    Control {
        generation: word(layout::C_GENERATION),
        quit: (deadline_ns != 0).then(|| Quit {
            grace: until(deadline_ns),
        }),
        watchdog_alive_age: match beat_ns {
            0 => Duration::MAX,
            _ => Duration::from_nanos(now_ns.saturating_sub(beat_ns)),
        },
        watchdog_pid: word(layout::C_WATCHDOG_PID) as u32,
        watchdog_start_time: word(layout::C_WATCHDOG_START),
        active_launch: word(layout::C_ACTIVE_LAUNCH) as u32,
        backlog: word(layout::C_BACKLOG),
        disk_low: word(layout::C_DISK_LOW) == 1,
        config_generation: word(layout::C_CONFIG_GENERATION),
    }
}

/// Writes the control words from any thread of the watchdog. Cheap to clone; keeps the mapping alive.
///
/// One word has one writing thread at a time, or the last one wins; no method waits.
#[derive(Clone, Debug)]
pub struct Controls(pub(crate) Arc<Mapping>);

impl Controls {
    fn set(&self, at: usize, value: u64) {
        // SYNC: a level that stands alone; the engine sees it in some later frame.
        self.0.store(at, value, Relaxed);
    }

    /// Asks the game to quit within `grace` from now.
    pub fn set_quit(&self, grace: Duration) {
        let grace_ns = u64::try_from(grace.as_nanos()).unwrap_or(u64::MAX);
        self.set(
            layout::C_QUIT_DEADLINE_NS,
            sys::monotonic_ns().saturating_add(grace_ns).max(1),
        );
    }

    /// Takes the request to quit back.
    pub fn clear_quit(&self) {
        self.set(layout::C_QUIT_DEADLINE_NS, 0);
    }

    /// Tells that the watchdog lives. Call it about every second.
    pub fn beat(&self) {
        self.set(layout::C_WATCHDOG_BEAT_NS, sys::monotonic_ns());
    }

    /// Tells which process is the watchdog: this one.
    pub fn set_watchdog(&self) {
        let pid = std::process::id();
        let start_time = sys::process_start_time(pid).unwrap_or(0);
        self.set(layout::C_WATCHDOG_START, start_time);
        self.set(layout::C_WATCHDOG_PID, pid.into());
    }

    /// As [`Controls::set_watchdog`], and tells that requests are answered from now on by somebody new: the engine asks again what it
    /// has no answer to.
    pub fn set_generation(&self, generation: u64) {
        self.set_watchdog();
        self.set(layout::C_GENERATION, generation);
    }

    /// Tells which launch is the active one. An engine of an older launch takes no more records and quits.
    pub fn set_active_launch(&self, launch: u32) {
        self.set(layout::C_ACTIVE_LAUNCH, launch.into());
    }

    /// As [`Controls::set_active_launch`], and wakes a standby that waits for it.
    pub fn activate(&self, launch: u32) {
        self.set_active_launch(launch);
        // SYNC: Release in there keeps the word stored before visible to the sleeper, which compares this one.
        self.0.bump_and_wake(layout::C_PARK);
    }

    /// Tells how many bytes are committed and not uploaded.
    pub fn set_backlog(&self, bytes: u64) {
        self.set(layout::C_BACKLOG, bytes);
    }

    /// Tells whether the disk is short: the engine then refuses what is not to be kept
    /// ([`RefusedCause::Quota`](crate::RefusedCause::Quota)).
    pub fn set_disk_low(&self, low: bool) {
        self.set(layout::C_DISK_LOW, low.into());
    }

    /// Tells what the store keeps of this server's checkpoints. To be called when no earlier session of it can add to that.
    pub fn set_checkpoints(&self, kept: KeptCheckpoints) {
        self.set(layout::C_CHECKPOINTS, kept.pack());
        // SYNC: pairs with the Acquire in `KeptCheckpoints::read`: whoever sees this number sees that word, or a later one.
        self.0.store(layout::C_CHECKPOINTS_SEQ, kept.seq, Release);
    }

    /// Counts a reload of the configuration.
    pub fn set_config_generation(&self, generation: u64) {
        self.set(layout::C_CONFIG_GENERATION, generation);
    }

    /// Asks the engine to go on in a file with at least this rotation number.
    pub fn set_rotate_to(&self, rotation: u32) {
        self.set(layout::C_ROTATE_TO, rotation.into());
    }

    /// Tells up to which sequence number everything is uploaded.
    pub fn set_uploaded(&self, seq: u64) {
        self.set(layout::C_UPLOADED_SEQ, seq);
    }
}
