//! Where every word of a ring file lies, and which process may write it.
//!
//! Regions start on 64 KiB boundaries (the allocation granularity of Windows, and a multiple of every page size
//! in use). Their offsets are constants of this build: the header repeats them, and a reader compares, never obeys.
//!
//! | region | written by | bytes |
//! |---|---|---|
//! | `H` header | engine, before the file has its name | 64 KiB |
//! | `P` uplink producer words | engine | 64 KiB |
//! | downlink consumer words | engine | 64 KiB |
//! | `C` uplink consumer words, control | watchdog | 64 KiB |
//! | downlink producer words | watchdog | 64 KiB |
//! | downlink data | watchdog | 1 MiB |
//! | `D` uplink data | engine | a power of two |
//!
//! Each word has one writer for ever. Words written by different threads keep 128 bytes of distance.

/// Unit of all region boundaries.
pub const REGION_BYTES: usize = 64 << 10;
/// Bytes of the downlink's data region.
pub const DOWNLINK_BYTES: usize = 1 << 20;

/// Start of the header region.
pub const H: usize = 0;
/// Start of the uplink's producer words.
pub const P: usize = REGION_BYTES;
/// Start of the downlink's consumer words.
pub const DOWN_C: usize = 2 * REGION_BYTES;
/// Start of the uplink's consumer words and the control words.
pub const C: usize = 3 * REGION_BYTES;
/// Start of the downlink's producer words.
pub const DOWN_P: usize = 4 * REGION_BYTES;
/// Start of the downlink's data.
pub const DOWN_D: usize = 5 * REGION_BYTES;
/// Start of the uplink's data, which goes to the end of the file.
pub const D: usize = DOWN_D + DOWNLINK_BYTES;

/// Smallest uplink: the largest frame fits twice.
pub const RING_BYTES_MIN: usize = 256 << 10;
/// Largest uplink; far beyond what an outage should buffer in memory.
pub const RING_BYTES_MAX: usize = 1 << 30;

// ---- P: written by the engine ----

/// Byte position after the last committed frame. Storing it is the commit.
pub const P_TAIL: usize = P;
/// Records refused in this session, ever.
pub const P_REFUSED_COUNT: usize = P + 128;
/// Payload bytes of the refused records.
pub const P_REFUSED_BYTES: usize = P + 136;
/// How many of the refused records a gap frame has told of.
pub const P_REFUSED_TOLD: usize = P + 144;
/// What no gap frame has told of yet, by cause, as four words each: records, bytes, monotonic ns of first and last.
pub const P_UNTOLD: [usize; 3] = [P + 152, P + 184, P + 800];
/// The number of the gap frame that is about to tell of them, by cause; 0 = none. A reader that has come to that number
/// knows them from the frame, even if the engine was killed before it cleared the words.
pub const P_UNTOLD_TOLD_IN: [usize; 3] = [P + 216, P + 224, P + 832];
/// Frames of the game's main loop so far.
pub const P_FRAMES: usize = P + 256;
/// Engine's monotonic clock at the last of them, ns.
pub const P_FRAME_NS: usize = P + 264;
/// [`crate::heartbeat::Phase`] as a number.
pub const P_PHASE: usize = P + 272;
/// Engine's monotonic clock until which silence was announced, ns.
pub const P_STALL_UNTIL_NS: usize = P + 280;
/// 1 after `set_ready`.
pub const P_READY: usize = P + 288;
/// Microseconds between the last two frames of the main loop.
pub const P_TICK_US: usize = P + 296;
/// 1 while the game says that nobody would miss it.
pub const P_IDLE: usize = P + 304;
/// 1 after the game asked to be started anew when it is idle.
pub const P_RESTART_WANTED: usize = P + 312;
/// What to add to the engine's monotonic clock for nanoseconds since the Unix epoch, as of the last second or so.
pub const P_REALTIME_OFFSET_NS: usize = P + 320;
/// Engine's monotonic clock when the session began, ns: until there is a frame, announced silence counts from here.
pub const P_BEGUN_NS: usize = P + 328;
/// 32-bit futex word: the watchdog's drain thread sleeps on it.
pub const P_WAKE: usize = P + 384;
/// 0 running, 1 ended cleanly, 2 goes on in the next rotation.
pub const P_STATE: usize = P + 512;
/// Exit code that the game announced, valid in state 1.
pub const P_EXIT_CODE: usize = P + 520;
/// Watchdog generation that the engine saw last.
pub const P_GENERATION_SEEN: usize = P + 528;
/// 1 while an engine thread waits for space.
pub const P_SPACE_WAITING: usize = P + 640;
/// One more than the number of the newest spill file; stored before its first frame.
pub const P_SPILL_END: usize = P + 768;
/// Number of the last frame in a spill file; stored after it.
pub const P_SPILL_SEQ: usize = P + 776;
/// Room of a crash handler's last words (512 bytes), not in use yet.
pub const P_LAST_WORDS: usize = P + 1024;

/// Values of [`P_STATE`].
pub const STATE_RUNNING: u64 = 0;
/// The engine said that it quits on purpose.
pub const STATE_CLEAN: u64 = 1;
/// The session goes on in a file with the next rotation number.
pub const STATE_ROTATED: u64 = 2;

// ---- C: written by the watchdog ----

/// Byte position up to which the engine may overwrite.
pub const C_HEAD: usize = C;
/// Every sequence number up to this one is committed. Stored before [`C_HEAD`].
pub const C_ACK_SEQ: usize = C + 8;
/// Every sequence number up to this one is uploaded.
pub const C_UPLOADED_SEQ: usize = C + 16;
/// 1 while the drain thread sleeps or is about to.
pub const C_WAITING: usize = C + 128;
/// The watchdog's generation; 0 before a watchdog has attached.
pub const C_GENERATION: usize = C + 256;
/// Monotonic ns by which the engine should have quit; 0 = go on.
pub const C_QUIT_DEADLINE_NS: usize = C + 264;
/// Rotation that the watchdog wants at least.
pub const C_ROTATE_TO: usize = C + 272;
/// Bytes committed and not yet uploaded.
pub const C_BACKLOG: usize = C + 280;
/// 1 while the watchdog is short of disk: only streams that are to be kept record on.
pub const C_DISK_LOW: usize = C + 288;
/// Counts configuration reloads.
pub const C_CONFIG_GENERATION: usize = C + 296;
/// Requests up to this number are in [`C_CHECKPOINTS`]. Stored after it.
pub const C_CHECKPOINTS_SEQ: usize = C + 304;
/// Checkpoints of this server that the store keeps, packed by [`crate::control::KeptCheckpoints`]; 0 = not told.
pub const C_CHECKPOINTS: usize = C + 312;
/// Pid of the watchdog.
pub const C_WATCHDOG_PID: usize = C + 384;
/// Watchdog's monotonic clock at its last beat, ns.
pub const C_WATCHDOG_BEAT_NS: usize = C + 392;
/// The watchdog's start time in clock ticks since boot; 0 if unknown. With the pid it names the process for ever.
pub const C_WATCHDOG_START: usize = C + 408;
/// Launch number of the engine that is active; 0 = not told. An engine of an older launch records no more and quits.
pub const C_ACTIVE_LAUNCH: usize = C + 400;
/// 32-bit futex word: engine threads wait on it for space.
pub const C_SPACE: usize = C + 512;
/// 32-bit futex word: a parked standby sleeps on it.
pub const C_PARK: usize = C + 640;

// ---- downlink ----

/// Byte position after the last downlink frame; written by the watchdog.
pub const DOWN_TAIL: usize = DOWN_P;
/// Byte position up to which the engine has read; written by the engine.
pub const DOWN_HEAD: usize = DOWN_C;
/// 1 while an engine thread sleeps for a message or is about to; written by the engine.
pub const DOWN_WAITING: usize = DOWN_C + 128;
/// 32-bit futex word: engine threads sleep on it for a message; written by the watchdog.
pub const DOWN_WAKE: usize = DOWN_P + 128;

/// The words and the data of one ring inside a region.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct RingLayout {
    /// Offset of the commit word.
    pub tail: usize,
    /// Offset of the release word.
    pub head: usize,
    /// Offset of the data.
    pub data: usize,
    /// Bytes of data; a power of two.
    pub capacity: u64,
}

impl RingLayout {
    /// The engine-to-watchdog ring of a file whose uplink has `capacity` bytes.
    pub const fn uplink(capacity: u64) -> Self {
        RingLayout {
            tail: P_TAIL,
            head: C_HEAD,
            data: D,
            capacity,
        }
    }

    /// The watchdog-to-engine ring.
    pub const fn downlink() -> Self {
        RingLayout {
            tail: DOWN_TAIL,
            head: DOWN_HEAD,
            data: DOWN_D,
            capacity: DOWNLINK_BYTES as u64,
        }
    }
}

/// Bytes of a file whose uplink has `ring_bytes` bytes.
pub const fn file_bytes(ring_bytes: usize) -> usize {
    D.saturating_add(ring_bytes)
}

/// Offsets written by the engine, as half-open ranges of a file of `file_bytes`.
pub const fn engine_ranges(file_bytes: usize) -> [(usize, usize); 2] {
    [(P, C), (D, file_bytes)]
}

/// Offsets written by the watchdog.
pub const fn watchdog_ranges() -> [(usize, usize); 1] {
    [(C, D)]
}

const _: () = assert!(P_LAST_WORDS + 512 <= DOWN_C);
const _: () = assert!(D.is_multiple_of(REGION_BYTES));
const _: () = assert!(RING_BYTES_MIN.is_power_of_two() && RING_BYTES_MAX.is_power_of_two());
