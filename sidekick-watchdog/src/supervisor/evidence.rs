//! What can be found out about a hanging engine before it is ended: which thread does what, and how much it works.

use std::collections::VecDeque;
use std::time::Duration;

use crate::crash::{HangEvidence, HangKind, ThreadEvidence};
use crate::platform::{Process, ThreadState, ticks_per_second};

/// Looks at the threads' processor time that are kept.
const LOOKS_MAX: usize = 3;
/// Less time than this between two looks says nothing: the clock ticks a hundred times a second.
const BETWEEN_MIN: Duration = Duration::from_millis(150);
/// Who uses this much of a core, in percent, is busy.
const BUSY_PERCENT: f64 = 50.0;

/// The threads' processor time at a few moments of the engine's life, to compare with at a hang.
#[derive(Debug, Default)]
pub(super) struct CpuLooks {
    looks: VecDeque<(Duration, Vec<ThreadState>)>,
}

impl CpuLooks {
    /// Takes note of how the engine stands. Reads one small file for each thread.
    pub(super) fn look(&mut self, process: &Process, now: Duration) {
        self.note(process.threads(), now);
    }

    fn note(&mut self, threads: Vec<ThreadState>, now: Duration) {
        let is_soon = |(at, _): &(Duration, _)| now.saturating_sub(*at) < BETWEEN_MIN;
        if self.looks.back().is_some_and(is_soon) {
            return;
        }
        if self.looks.len() >= LOOKS_MAX {
            self.looks.pop_front();
        }
        self.looks.push_back((now, threads));
    }

    /// The look to compare with: the earliest one in the silence, else the last one that is old enough.
    fn before(&self, now: Duration, silent: Duration) -> Option<&(Duration, Vec<ThreadState>)> {
        let old_enough = |look: &&(Duration, _)| now.saturating_sub(look.0) >= BETWEEN_MIN;
        let begin = now.saturating_sub(silent);
        let mut usable = self.looks.iter().filter(old_enough);
        usable
            .clone()
            .find(|look| look.0 >= begin)
            .or_else(|| usable.next_back())
    }

    /// What the engine does now that it has been silent for so long. Some milliseconds of reading.
    pub(super) fn evidence(
        &self,
        process: &Process,
        silent: Duration,
        now: Duration,
    ) -> HangEvidence {
        let threads = process.threads();
        let mut evidence = self.compare(&threads, silent, now);
        for thread in &mut evidence.threads {
            thread.waits_in = process.waits_in(thread.id);
            thread.stack = process.kernel_stack(thread.id);
        }
        evidence
    }

    fn compare(&self, threads: &[ThreadState], silent: Duration, now: Duration) -> HangEvidence {
        let before = self.before(now, silent);
        let percent = |thread: &ThreadState| {
            let (at, then) = before?;
            let earlier = then.iter().find(|earlier| earlier.id == thread.id)?;
            let ticks = thread.cpu_ticks.saturating_sub(earlier.cpu_ticks);
            let elapsed = now.saturating_sub(*at).as_secs_f64();
            Some(ticks as f64 / ticks_per_second() as f64 / elapsed * 100.0)
        };
        let percents: Vec<Option<f64>> = threads.iter().map(percent).collect();
        let known: Vec<f64> = percents.iter().flatten().copied().collect();
        HangEvidence {
            kind: kind(threads.first(), percents.first().copied().flatten()),
            silent_s: silent.as_secs_f64(),
            cpu_percent: (!known.is_empty()).then(|| known.iter().sum()),
            threads: threads
                .iter()
                .zip(percents)
                .map(|(thread, cpu_percent)| ThreadEvidence {
                    id: thread.id,
                    name: thread.name.clone(),
                    state: thread.state.to_string(),
                    cpu_percent,
                    ..ThreadEvidence::default()
                })
                .collect(),
        }
    }
}

/// How the main thread hangs.
fn kind(main: Option<&ThreadState>, cpu_percent: Option<f64>) -> HangKind {
    let Some(main) = main else {
        return HangKind::Unknown;
    };
    match (main.state, cpu_percent) {
        ('T' | 't', _) => HangKind::Stopped,
        ('D', _) => HangKind::Uninterruptible,
        (_, Some(percent)) if percent >= BUSY_PERCENT => HangKind::BusyLoop,
        // On a machine that has no time for it, it wants to run all the same.
        ('R', _) => HangKind::BusyLoop,
        _ => HangKind::Waiting,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn thread(id: u32, state: char, cpu_ticks: u64) -> ThreadState {
        ThreadState {
            id,
            name: format!("thread {id}"),
            state,
            cpu_ticks,
        }
    }

    #[test]
    fn the_main_thread_tells_how_it_hangs() {
        let second = Duration::from_secs(1);
        let per_second = ticks_per_second();
        for (state, ticks, kind) in [
            ('S', 4 * per_second, HangKind::BusyLoop),
            ('R', 0, HangKind::BusyLoop),
            ('S', 0, HangKind::Waiting),
            ('T', 0, HangKind::Stopped),
            ('D', 0, HangKind::Uninterruptible),
        ] {
            let mut looks = CpuLooks::default();
            looks.note(vec![thread(1, 'S', 100), thread(2, 'S', 0)], second * 5);
            let now = [thread(1, state, 100 + ticks), thread(2, 'S', per_second)];
            let evidence = looks.compare(&now, second * 5, second * 10);
            assert_eq!(evidence.kind, kind, "{state} {ticks}");
            assert_eq!(evidence.threads[1].cpu_percent, Some(20.0));
            let busy = ticks as f64 / per_second as f64 * 20.0;
            assert_eq!(evidence.cpu_percent, Some(busy + 20.0));
        }
        let unseen = CpuLooks::default().compare(&[], second, second);
        assert_eq!((unseen.kind, unseen.cpu_percent), (HangKind::Unknown, None));
    }

    #[test]
    fn what_it_did_before_it_fell_silent_does_not_count() {
        let ms = Duration::from_millis;
        let mut looks = CpuLooks::default();
        for at in [1000, 6000, 9900, 9999] {
            looks.note(vec![thread(1, 'R', at)], ms(at));
        }
        let before = |silent| looks.before(ms(10_000), ms(silent)).map(|look| look.0);
        assert_eq!(before(5000), Some(ms(6000)));
        // None of them is in the silence: the last one that tells anything.
        assert_eq!(before(50), Some(ms(6000)));
    }
}
