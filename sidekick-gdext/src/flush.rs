//! The objects behind `await Sidekick.flush()`: each emits `completed` exactly once, from the frame hook.

use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

use godot::prelude::*;

/// Longest time-out in seconds; more is taken as this, so that the deadline can always be computed.
pub(crate) const TIMEOUT_S_MAX: f64 = 86_400.0;

/// How many flushes wait in all; the frame hook looks here first, so that an idle frame touches no object.
static PENDING: AtomicUsize = AtomicUsize::new(0);

/// One waiting `Sidekick.flush()`. Not to be made by scripts.
#[derive(GodotClass)]
#[class(no_init, internal, base = RefCounted)]
pub(crate) struct SidekickFlush {
    base: Base<RefCounted>,
}

#[godot_api]
impl SidekickFlush {
    /// `ok`: everything recorded before the flush is committed. False: the time was over first, or no watchdog is there.
    #[signal]
    pub(crate) fn completed(ok: bool);
}

struct Waiting {
    /// Nobody else may hold the object while a script waits for its signal: an unreferenced one would be freed at once.
    object: Gd<SidekickFlush>,
    /// Everything up to this sequence number was recorded before; `None`: there is nothing that could be waited for.
    until_seq: Option<u64>,
    deadline: Instant,
}

/// The flushes that have not completed yet.
#[derive(Default)]
pub(crate) struct Flushes {
    waiting: Mutex<Vec<Waiting>>,
}

impl Flushes {
    /// A signal that comes once `until_seq` is committed, or with `false` after `timeout`; from the next frame on.
    pub(crate) fn begin(&self, until_seq: Option<u64>, timeout: Duration, now: Instant) -> Signal {
        let object = Gd::from_init_fn(|base| SidekickFlush { base });
        let signal = Signal::from_object_signal(&object, "completed");
        let mut waiting = self.waiting.lock().unwrap_or_else(PoisonError::into_inner);
        waiting.push(Waiting {
            object,
            until_seq,
            deadline: now + timeout,
        });
        PENDING.store(waiting.len(), Ordering::Release);
        signal
    }

    /// Takes out what is to be completed now, with its result. The caller emits after letting go of the singleton.
    pub(crate) fn take_due(
        &self,
        committed_seq: u64,
        now: Instant,
    ) -> Vec<(Gd<SidekickFlush>, bool)> {
        let mut waiting = self.waiting.lock().unwrap_or_else(PoisonError::into_inner);
        let mut due = Vec::new();
        waiting.retain(
            |flush| match is_due(flush.until_seq, flush.deadline, committed_seq, now) {
                Some(ok) => {
                    due.push((flush.object.clone(), ok));
                    false
                }
                None => true,
            },
        );
        PENDING.store(waiting.len(), Ordering::Release);
        due
    }

    /// Takes out all, for the end of the main loop.
    pub(crate) fn take_all(&self) -> Vec<Gd<SidekickFlush>> {
        let mut waiting = self.waiting.lock().unwrap_or_else(PoisonError::into_inner);
        PENDING.store(0, Ordering::Release);
        waiting.drain(..).map(|flush| flush.object).collect()
    }
}

/// Whether any flush waits at all.
pub(crate) fn any_pending() -> bool {
    PENDING.load(Ordering::Acquire) != 0
}

/// The result of a flush, if it is to be completed now.
fn is_due(
    until_seq: Option<u64>,
    deadline: Instant,
    committed_seq: u64,
    now: Instant,
) -> Option<bool> {
    match until_seq {
        None => Some(false),
        Some(seq) if committed_seq >= seq => Some(true),
        Some(_) => (now >= deadline).then_some(false),
    }
}

/// What a script gave as time-out: NaN and negative are 0, and a day is the longest.
pub(crate) fn timeout(seconds: f64) -> Duration {
    Duration::try_from_secs_f64(seconds.clamp(0.0, TIMEOUT_S_MAX)).unwrap_or(Duration::ZERO)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_flush_completes_at_its_number_or_at_its_deadline() {
        let now = Instant::now();
        let later = now + Duration::from_secs(5);
        assert_eq!(is_due(Some(10), later, 9, now), None);
        assert_eq!(is_due(Some(10), later, 10, now), Some(true));
        assert_eq!(is_due(Some(10), later, 9, later), Some(false));
        assert_eq!(
            is_due(Some(10), later, 10, later),
            Some(true),
            "in time is in time"
        );
        assert_eq!(
            is_due(Some(0), now, 0, now),
            Some(true),
            "nothing outstanding"
        );
        assert_eq!(
            is_due(None, later, 0, now),
            Some(false),
            "nobody keeps anything"
        );
    }

    #[test]
    fn any_number_makes_a_time_out() {
        assert_eq!(timeout(f64::NAN), Duration::ZERO);
        assert_eq!(timeout(-1.0), Duration::ZERO);
        assert_eq!(timeout(0.25), Duration::from_millis(250));
        assert_eq!(timeout(f64::INFINITY), Duration::from_secs(86_400));
    }
}
