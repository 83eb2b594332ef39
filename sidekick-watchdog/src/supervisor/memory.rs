//! The engine's memory: its history, and when it is too much. Pure.

use std::time::Duration;

use crate::crash::MemorySample;

/// Samples of a life; beyond it every second one is dropped and the next ones are taken half as often.
const SAMPLES_MAX: usize = 128;
/// After a warning memory has to fall below this part of the limit before there is another one.
const CALM_PART: f64 = 0.9;

/// The limits, in bytes of resident memory.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct MemoryLimits {
    /// Warn, and tell the game.
    pub soft_bytes: Option<u64>,
    /// Ask the engine to quit and start another.
    pub max_bytes: Option<u64>,
}

impl MemoryLimits {
    /// Whether there is any.
    pub fn any(&self) -> bool {
        self.soft_bytes.is_some() || self.max_bytes.is_some()
    }
}

/// What a sample says.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum MemoryLevel {
    Fine,
    /// Above the soft limit since this sample.
    High {
        limit_bytes: u64,
    },
    /// Above the hard limit.
    Over,
}

/// The memory of one life.
#[derive(Debug)]
pub(super) struct MemoryWatch {
    started_at: Duration,
    samples: Vec<MemorySample>,
    every: Duration,
    next_at: Duration,
    is_high: bool,
}

impl MemoryWatch {
    /// `every`: how often a sample is kept at first.
    pub(super) fn new(started_at: Duration, every: Duration) -> Self {
        Self {
            started_at,
            samples: Vec::new(),
            every,
            next_at: Duration::ZERO,
            is_high: false,
        }
    }

    /// Takes a sample.
    pub(super) fn on_sample(
        &mut self,
        rss_bytes: u64,
        limits: &MemoryLimits,
        now: Duration,
    ) -> MemoryLevel {
        let is_over = limits.max_bytes.is_some_and(|max| rss_bytes > max);
        if now >= self.next_at || is_over {
            self.keep(rss_bytes, now);
        }
        if is_over {
            return MemoryLevel::Over;
        }
        let Some(limit_bytes) = limits.soft_bytes else {
            return MemoryLevel::Fine;
        };
        if rss_bytes > limit_bytes && !self.is_high {
            self.is_high = true;
            return MemoryLevel::High { limit_bytes };
        }
        if (rss_bytes as f64) < limit_bytes as f64 * CALM_PART {
            self.is_high = false;
        }
        MemoryLevel::Fine
    }

    fn keep(&mut self, rss_bytes: u64, now: Duration) {
        if self.samples.len() >= SAMPLES_MAX {
            let mut keep = false;
            self.samples.retain(|_| {
                keep = !keep;
                keep
            });
            self.every *= 2;
        }
        self.samples.push(MemorySample {
            at_s: now.saturating_sub(self.started_at).as_secs_f64(),
            rss_bytes,
        });
        self.next_at = now.saturating_add(self.every);
    }

    /// The history, oldest first.
    pub(super) fn into_samples(self) -> Vec<MemorySample> {
        self.samples
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const SECOND: Duration = Duration::from_secs(1);

    #[test]
    fn the_soft_limit_is_told_once_until_memory_has_fallen_and_the_hard_one_always() {
        let limits = MemoryLimits {
            soft_bytes: Some(100),
            max_bytes: Some(200),
        };
        let mut memory = MemoryWatch::new(SECOND, SECOND);
        let high = MemoryLevel::High { limit_bytes: 100 };
        for (rss, level) in [
            (50, MemoryLevel::Fine),
            (101, high),
            (150, MemoryLevel::Fine),
            (95, MemoryLevel::Fine),
            (101, MemoryLevel::Fine),
            (89, MemoryLevel::Fine),
            (101, high),
            (201, MemoryLevel::Over),
            (300, MemoryLevel::Over),
        ] {
            assert_eq!(memory.on_sample(rss, &limits, SECOND), level, "{rss}");
        }
        let no_limits = MemoryLimits::default();
        let level = memory.on_sample(u64::MAX, &no_limits, SECOND);
        assert_eq!(level, MemoryLevel::Fine);
    }

    #[test]
    fn the_history_is_bounded_and_spans_the_whole_life() {
        let mut memory = MemoryWatch::new(Duration::ZERO, SECOND);
        for second in 0..100_000_u32 {
            let now = SECOND * second;
            memory.on_sample(u64::from(second), &MemoryLimits::default(), now);
            assert!(memory.samples.len() <= SAMPLES_MAX);
        }
        let samples = memory.into_samples();
        assert_eq!(samples[0].rss_bytes, 0);
        assert!(samples.len() > SAMPLES_MAX / 4);
        assert!(samples.last().is_some_and(|last| last.at_s > 90_000.0));
    }
}
