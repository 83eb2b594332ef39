//! Deaths whose cause is not known yet.
//!
//! An adopted engine is somebody else's child: how it ended is told to us only after that one (mostly the system's
//! first process) has taken its exit status, some milliseconds to a second or two after its death. The next start
//! does not wait for that; the telling of the death does.

use std::time::Duration;

use crate::platform::{Exit, Process};

/// After so long nobody will tell any more: the kernel is too old, or the parent never takes the status.
const TOLD_MAX: Duration = Duration::from_secs(5);
const LOOK_FIRST: Duration = Duration::from_millis(1);
const LOOK_MAX: Duration = Duration::from_millis(100);

/// A dead process whose exit status is still to come, and what is to be told with it.
#[derive(Debug)]
struct Late<T> {
    process: Process,
    what: T,
    until: Duration,
    pause: Duration,
    look_at: Duration,
}

/// Deaths that wait for their cause.
#[derive(Debug)]
pub(super) struct LateExits<T> {
    waiting: Vec<Late<T>>,
}

impl<T> LateExits<T> {
    pub(super) fn new() -> Self {
        Self {
            waiting: Vec::new(),
        }
    }

    /// Keeps a dead process until the system tells how it ended.
    pub(super) fn push(&mut self, process: Process, what: T, now: Duration) {
        self.waiting.push(Late {
            process,
            what,
            until: now + TOLD_MAX,
            pause: LOOK_FIRST,
            look_at: now + LOOK_FIRST,
        });
    }

    /// When to look next.
    pub(super) fn deadline(&self) -> Option<Duration> {
        self.waiting.iter().map(|late| late.look_at).min()
    }

    /// Those that are told by now, or never will be (with [`Exit::Unknown`]). With `last`, all.
    pub(super) fn take(&mut self, now: Duration, last: bool) -> Vec<(T, Exit)> {
        let mut told = Vec::new();
        let mut waiting = Vec::with_capacity(self.waiting.len());
        for mut late in self.waiting.drain(..) {
            if late.look_at > now && !last {
                waiting.push(late);
                continue;
            }
            let exit = late.process.reap();
            if exit != Exit::Unknown || last || now >= late.until {
                told.push((late.what, exit));
            } else {
                late.pause = (late.pause * 2).min(LOOK_MAX);
                late.look_at = now + late.pause;
                waiting.push(late);
            }
        }
        self.waiting = waiting;
        told
    }
}
