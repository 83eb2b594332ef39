//! `[ring]`: the shared memory between engine and watchdog; handed to the engine by environment.

use std::time::Duration;

use super::reader::{Pass, any, between};
use super::value::{Size, keywords};

/// The smallest ring: it holds one record of the largest size and its neighbors.
pub const RING_BYTES_MIN: u64 = 64 << 10;
/// The largest ring.
pub const RING_BYTES_MAX: u64 = 1 << 30;
/// The longest that one `record()` may wait for space; a longer one would be felt as a stutter.
const BLOCK_MAX: Duration = Duration::from_millis(100);

keywords! {
    /// What `record()` does when the ring is full.
    pub enum WhenFull {
        /// Writes to a file beside the ring.
        Spill = "spill",
        /// Waits for space, at most `block_max`, then refuses.
        Block = "block",
        /// Refuses at once; counted and noted in the stream of records.
        Refuse = "refuse",
    }
}

/// The shared memory between engine and watchdog.
#[derive(Clone, Debug)]
pub struct RingConfig {
    /// The uplink ring's size in bytes, a power of two.
    pub bytes: u64,
    /// What `record()` does when it is full.
    pub when_full: WhenFull,
    /// How long `record()` may wait for space.
    pub block_max: Duration,
    /// How large the spill files of one engine may grow, in bytes.
    pub spill_bytes_max: u64,
}

impl RingConfig {
    pub(super) fn read(pass: &mut Pass<'_>) -> Self {
        let mut section = pass.section("ring");
        let bytes = section.get(
            "size",
            Size(16 << 20),
            "Size of the ring that records go through, a power of two from 64KiB to 1GiB.",
            |size: &Size| {
                between(Size(RING_BYTES_MIN), Size(RING_BYTES_MAX))(size)?;
                match size.0.is_power_of_two() {
                    true => Ok(()),
                    false => Err(format!(
                        "is {size}: must be a power of two, such as {}",
                        Size(size.0.next_power_of_two())
                    )),
                }
            },
        );
        let when_full = section.get(
            "when_full",
            WhenFull::Spill,
            "What record() does when the ring is full: \"spill\" to a file, \"block\" for block_max, or \"refuse\".",
            any,
        );
        let block_max = section.get(
            "block_max",
            Duration::from_millis(2),
            "The longest that record() may block with \"block\".",
            between(Duration::ZERO, BLOCK_MAX),
        );
        let spill_max = section.get(
            "spill_max",
            Size(256 << 20),
            "How large the spill files may grow with \"spill\".",
            between(Size(1 << 20), Size(1 << 40)),
        );
        section.finish();
        Self {
            bytes: bytes.0,
            when_full,
            block_max,
            spill_bytes_max: spill_max.0,
        }
    }
}
