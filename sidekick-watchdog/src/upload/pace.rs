//! `[upload] rate_max`: how many bytes a second leave this machine, all sinks together, so that uploads never take the
//! bandwidth that the game's players need.
//!
//! A line for turns: whoever wants to send a chunk takes the next free moment and waits for it. Chunks are small, so one
//! batch is no burst.

use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use tokio::time::Instant;

/// Bytes of a body that go at once.
pub const CHUNK_BYTES: usize = 8 << 10;
/// Shorter waits are not worth a timer: they are saved up.
const WAIT_MIN: Duration = Duration::from_millis(2);

/// Tells when the next chunk may go. Shared by all lanes of all sinks.
#[derive(Debug)]
pub struct Pacer {
    bytes_per_s: u64,
    /// When the line is empty; before now it counts as now.
    free_at: Mutex<Option<Instant>>,
}

impl Pacer {
    /// At most `bytes_per_s`, 1 at least.
    pub fn new(bytes_per_s: u64) -> Self {
        Self {
            bytes_per_s: bytes_per_s.max(1),
            free_at: Mutex::new(None),
        }
    }

    /// Takes a turn for `bytes`: when they may go.
    pub fn turn(&self, bytes: usize, now: Instant) -> Instant {
        let mut free_at = self.free_at.lock().unwrap_or_else(PoisonError::into_inner);
        let turn = free_at.map_or(now, |at| at.max(now));
        *free_at = Some(turn + self.span(bytes));
        match turn.saturating_duration_since(now) < WAIT_MIN {
            true => now,
            false => turn,
        }
    }

    /// How long `bytes` take.
    pub fn span(&self, bytes: usize) -> Duration {
        let seconds = bytes as f64 / self.bytes_per_s as f64;
        Duration::try_from_secs_f64(seconds).unwrap_or(Duration::MAX / 4)
    }

    /// Waits for the turns of `bytes`, chunk by chunk.
    pub async fn wait(&self, bytes: usize) {
        let mut left = bytes;
        while left > 0 {
            let chunk = left.min(CHUNK_BYTES);
            let turn = self.turn(chunk, Instant::now());
            tokio::time::sleep_until(turn).await;
            left -= chunk;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Several at once get together what there is, and no second gets a tenth more.
    #[tokio::test(start_paused = true)]
    async fn the_rate_holds_for_all_together_in_each_second() {
        let pacer = std::sync::Arc::new(Pacer::new(100_000));
        let began = Instant::now();
        let sent = std::sync::Arc::new(Mutex::new(Vec::new()));
        let mut lanes = tokio::task::JoinSet::new();
        for _ in 0..4 {
            let (pacer, sent) = (pacer.clone(), sent.clone());
            lanes.spawn(async move {
                for _ in 0..32 {
                    pacer.wait(CHUNK_BYTES).await;
                    sent.lock().unwrap().push(began.elapsed());
                }
            });
        }
        while lanes.join_next().await.is_some() {}
        let sent = sent.lock().unwrap();
        let total = sent.len() * CHUNK_BYTES;
        let took = began.elapsed().as_secs_f64();
        let rate = total as f64 / (took + pacer.span(CHUNK_BYTES).as_secs_f64());
        assert!((90_000.0..110_000.0).contains(&rate), "{rate}");
        for second in 0..9 {
            let (from, to) = (Duration::from_secs(second), Duration::from_secs(second + 1));
            let in_it = sent.iter().filter(|at| (from..to).contains(*at)).count() * CHUNK_BYTES;
            assert!(in_it <= 110_000, "{in_it} bytes in second {second}");
        }
    }

    /// What was not used is not saved up.
    #[tokio::test(start_paused = true)]
    async fn a_pause_earns_no_burst() {
        let pacer = Pacer::new(10_000);
        pacer.wait(10_000).await;
        tokio::time::sleep(Duration::from_secs(3600)).await;
        let began = Instant::now();
        pacer.wait(40_000).await;
        let took = began.elapsed();
        assert!(took > Duration::from_secs(3), "{took:?}");
    }
}
