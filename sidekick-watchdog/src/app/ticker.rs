//! The main loop's clock.
//!
//! A timer of tokio's costs an idle watchdog four to five wake-ups each time: a worker's, which keeps the timers, the main
//! thread's, the worker's again to be told of the next time, and those at the timer wheel's bounds. A thread that sleeps
//! and wakes the main one costs two.

use std::sync::Arc;
use std::sync::mpsc::{RecvTimeoutError, SyncSender, sync_channel};
use std::time::Duration;

use tokio::sync::Notify;
use tokio::time::Interval;

/// Ticks until it is dropped. Ticks that nobody waits for are kept, as one.
#[derive(Debug)]
pub(super) enum Ticker {
    Thread {
        ticks: Arc<Notify>,
        /// Closed by dropping it, which ends the thread at once; nobody waits for that.
        _life: SyncSender<()>,
    },
    /// Without a thread.
    Timer(Interval),
}

impl Ticker {
    /// The first tick comes at once. Must be called on the runtime.
    pub(super) fn start(every: Duration) -> Self {
        let ticks = Arc::new(Notify::new());
        let (life, death) = sync_channel::<()>(0);
        let told = Arc::clone(&ticks);
        let thread = std::thread::Builder::new()
            .name("ticker".to_owned())
            .spawn(move || {
                loop {
                    told.notify_one();
                    if death.recv_timeout(every) != Err(RecvTimeoutError::Timeout) {
                        return;
                    }
                }
            });
        match thread {
            Ok(_) => Self::Thread { ticks, _life: life },
            Err(_) => Self::Timer(tokio::time::interval(every)),
        }
    }

    /// The next tick. May be dropped and asked for again: none is lost.
    pub(super) async fn tick(&mut self) {
        match self {
            Self::Thread { ticks, .. } => ticks.notified().await,
            Self::Timer(interval) => drop(interval.tick().await),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn it_ticks_at_once_and_again_and_one_that_nobody_waited_for_is_kept() {
        let mut ticker = Ticker::start(Duration::from_millis(1));
        for _ in 0..3 {
            ticker.tick().await;
        }
        let mut slow = Ticker::start(Duration::from_secs(3600));
        slow.tick().await;
        tokio::select! {
            biased;
            () = slow.tick() => panic!("an hour is not over"),
            () = tokio::task::yield_now() => {}
        }
    }
}
