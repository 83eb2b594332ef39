//! What an engine's heartbeat tells, and until when it may be silent.

use std::time::Duration;

use super::policy::Policy;
use super::words::Beat;

/// A check for a hang that comes later than this after its time says that *we* stood still (a suspended machine, a
/// stopped container); the engine then gets a whole period more, once.
const LATE_MAX: Duration = Duration::from_secs(1);

/// The heartbeat of one life.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Heart {
    pub(super) connected: bool,
    pub(super) ready: bool,
    pub(super) crashed: bool,
    pub(super) goodbye: bool,
    frames: u64,
    read_at: Duration,
    moved_at: Duration,
    /// When its ring was found: before a first frame, announced silence counts from here.
    connected_at: Duration,
    /// From here the time to become ready counts.
    ready_since: Duration,
    first_frame_at: Option<Duration>,
    last_frame_at: Option<Duration>,
    ready_at: Option<Duration>,
    allowed_silence: Duration,
    late_forgiven: bool,
}

impl Heart {
    /// The heart of an engine that is watched from `now` on.
    pub(super) fn new(now: Duration) -> Self {
        Self {
            read_at: now,
            moved_at: now,
            ready_since: now,
            ..Self::default()
        }
    }

    pub(super) fn connect(&mut self, now: Duration) {
        self.connected = true;
        self.connected_at = now;
        self.read_at = now;
    }

    /// Takes one reading and returns whether a frame has passed since the last one.
    pub(super) fn on_beat(&mut self, beat: &Beat, now: Duration) -> bool {
        self.allowed_silence = beat.allowed_silence;
        self.goodbye = beat.goodbye;
        self.crashed = beat.crashed;
        // For a whole life: who has said it once is ready.
        if beat.ready && !self.ready {
            self.ready = true;
            self.ready_at = Some(now);
        }
        let moved = beat.frames != self.frames;
        if moved {
            // The counter moved since the last reading, so the true time lies between that and now.
            self.moved_at = beat.stamp.clamp(self.read_at.min(now), now);
            self.frames = beat.frames;
            self.late_forgiven = false;
            self.first_frame_at.get_or_insert(self.moved_at);
            self.last_frame_at = Some(self.moved_at);
        }
        if beat.paused {
            self.moved_at = now;
            self.ready_since = now;
        }
        self.read_at = now;
        moved
    }

    pub(super) fn silent(&self, now: Duration) -> Duration {
        now.saturating_sub(self.moved_at)
    }

    /// Since when it has been up: ready where it has to be, else from its first frame. `None`: it never was.
    pub(super) fn up_since(&self, policy: &Policy) -> Option<Duration> {
        if policy.ready_timeout.is_some() {
            self.ready_at
        } else {
            self.first_frame_at
        }
    }

    pub(super) fn has_frame(&self) -> bool {
        self.first_frame_at.is_some()
    }

    /// Whether a frame is known to have passed after `at`. Silence that was forgiven is no frame.
    pub(super) fn has_frame_after(&self, at: Duration) -> bool {
        self.last_frame_at.is_some_and(|frame| frame > at)
    }

    /// When the last frame passed, or its silence began to count anew.
    pub(super) fn moved_at(&self) -> Duration {
        self.moved_at
    }

    /// Until when there must be a first frame. From the watch's beginning: an adopted engine's time begins there.
    pub(super) fn startup_deadline(&self, policy: &Policy) -> Duration {
        let limit = self.moved_at.saturating_add(policy.startup_timeout);
        limit.max(self.announced_until())
    }

    /// Until when there must be another frame.
    pub(super) fn hang_deadline(&self, policy: &Policy) -> Duration {
        let limit = policy.hang_timeout.max(self.allowed_silence);
        self.moved_at.saturating_add(limit)
    }

    /// Until when it must be ready, if it has to be and is not. A load that was announced is waited for.
    pub(super) fn ready_deadline(&self, policy: &Policy) -> Option<Duration> {
        let limit = policy.ready_timeout?;
        if self.ready || !self.connected || self.goodbye {
            return None;
        }
        let limit = self.ready_since.saturating_add(limit);
        Some(limit.max(self.announced_until()))
    }

    /// The end of a silence that the game has announced; in the past where it has announced none.
    fn announced_until(&self) -> Duration {
        let since = match self.has_frame() {
            true => self.moved_at,
            false => self.moved_at.max(self.connected_at),
        };
        since.saturating_add(self.allowed_silence)
    }

    /// Whether the silence may be our own: then it is forgiven, once.
    pub(super) fn forgive_lateness(&mut self, policy: &Policy, now: Duration) -> bool {
        let late = now.saturating_sub(self.hang_deadline(policy));
        if late <= LATE_MAX || self.late_forgiven {
            return false;
        }
        self.late_forgiven = true;
        self.moved_at = now;
        true
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// What a game announces before its first frame counts from when its ring was found, not from its process's start.
    #[test]
    fn an_announced_start_may_take_as_long_as_said() {
        let second = Duration::from_secs;
        let policy = Policy {
            startup_timeout: second(60),
            ready_timeout: Some(second(30)),
            ..Policy::default()
        };
        let mut heart = Heart::new(second(100));
        assert_eq!(heart.startup_deadline(&policy), second(160));
        heart.connect(second(103));
        for (announced, start, ready) in [(0, 160, 130), (5, 160, 130), (90, 193, 193)] {
            let beat = Beat {
                allowed_silence: second(announced),
                ..Beat::default()
            };
            heart.on_beat(&beat, second(104));
            assert_eq!(heart.startup_deadline(&policy), second(start));
            assert_eq!(heart.ready_deadline(&policy), Some(second(ready)));
        }
    }
}
