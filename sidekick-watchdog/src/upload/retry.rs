//! When to try again: exponential backoff with full jitter, and what a backend's `Retry-After` says.

use std::time::{Duration, SystemTime};

/// The longest `Retry-After` that is obeyed; a backend that asks for a week gets a probe an hour.
pub const RETRY_AFTER_MAX: Duration = Duration::from_secs(3600);

/// Pauses between failed tries: each a random share of a bound that doubles, so that many watchdogs that lost one
/// backend do not come back to it in step.
#[derive(Clone, Debug)]
pub struct Backoff {
    first: Duration,
    max: Duration,
    failures: u32,
    random: fastrand::Rng,
}

impl Backoff {
    /// Starts with pauses of up to `first`, and never goes beyond `max`.
    pub fn new(first: Duration, max: Duration, random: fastrand::Rng) -> Self {
        Self {
            first: first.min(max),
            max,
            failures: 0,
            random,
        }
    }

    /// How many tries have failed in a row.
    pub fn failures(&self) -> u32 {
        self.failures
    }

    /// Notes one more failed try and gives the pause after it, between a tenth of the bound and the bound.
    pub fn next_pause(&mut self) -> Duration {
        let doublings = self.failures.min(31);
        self.failures = self.failures.saturating_add(1);
        let bound = self.first.saturating_mul(1 << doublings).min(self.max);
        bound.mul_f64(0.1 + 0.9 * self.random.f64())
    }

    /// Forgets the failures.
    pub fn reset(&mut self) {
        self.failures = 0;
    }
}

/// Reads a `Retry-After` header, seconds or an HTTP date, as the pause from `now`, at most [`RETRY_AFTER_MAX`].
///
/// `None` when it is neither. A date that has passed is no pause.
pub fn retry_after(value: &str, now: SystemTime) -> Option<Duration> {
    let value = value.trim();
    let pause = if !value.is_empty() && value.bytes().all(|b| b.is_ascii_digit()) {
        // More digits than a u64 holds are a very long time, too.
        value.parse().map_or(RETRY_AFTER_MAX, Duration::from_secs)
    } else {
        let until = httpdate::parse_http_date(value).ok()?;
        until.duration_since(now).unwrap_or(Duration::ZERO)
    };
    Some(pause.min(RETRY_AFTER_MAX))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pauses_double_up_to_their_bound_and_vary() {
        let (first, max) = (Duration::from_millis(250), Duration::from_secs(60));
        let mut longest = [Duration::ZERO; 12];
        for seed in 0..200 {
            let mut backoff = Backoff::new(first, max, fastrand::Rng::with_seed(seed));
            for (n, longest) in longest.iter_mut().enumerate() {
                let bound = first.saturating_mul(1 << n).min(max);
                let pause = backoff.next_pause();
                assert!(
                    pause <= bound && pause >= bound / 11,
                    "{pause:?} of {bound:?}"
                );
                *longest = pause.max(*longest);
            }
            backoff.reset();
            assert!(backoff.next_pause() <= first);
        }
        assert!(longest[0] > first.mul_f64(0.9) && longest[11] > max.mul_f64(0.9));
    }

    #[test]
    fn a_backoff_never_overflows() {
        let mut backoff = Backoff::new(
            Duration::MAX,
            Duration::from_secs(60),
            fastrand::Rng::with_seed(1),
        );
        for _ in 0..100 {
            assert!(backoff.next_pause() <= Duration::from_secs(60));
        }
    }

    #[test]
    fn retry_after_is_read_in_both_forms_and_capped() {
        let now = httpdate::parse_http_date("Sun, 22 Nov 2026 12:00:00 GMT").unwrap();
        let seconds = |s| Some(Duration::from_secs(s));
        assert_eq!(retry_after("7", now), seconds(7));
        assert_eq!(retry_after(" 0 ", now), seconds(0));
        assert_eq!(
            retry_after("Sun, 22 Nov 2026 12:00:09 GMT", now),
            seconds(9)
        );
        assert_eq!(
            retry_after("Sun, 22 Nov 2026 11:00:00 GMT", now),
            seconds(0),
            "passed"
        );
        assert_eq!(retry_after("99999999999999999999999", now), seconds(3600));
        assert_eq!(
            retry_after("Sun, 22 Nov 2099 12:00:00 GMT", now),
            seconds(3600)
        );
        for bad in ["", "soon", "-1", "1.5", "Sun, 99 Nov"] {
            assert_eq!(retry_after(bad, now), None, "{bad:?}");
        }
    }
}
