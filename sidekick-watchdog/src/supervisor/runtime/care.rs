//! Looks after the engine that runs: its heartbeat, its memory, how it hangs, when it is to be restarted by plan.

use std::time::Duration;

use jiff::Zoned;

use super::Runtime;
use crate::crash::HangKind;
use crate::event::EngineEvent;
use crate::platform::{ProcessState, monotonic_now};
use crate::supervisor::machine::{Beat, Event, Phase};
use crate::supervisor::memory::MemoryLevel;
use crate::supervisor::planned::Wishes;

/// How often the engine's threads, memory and plan are looked at; more often where its memory has a limit, and at the
/// beginning of its life.
const LOOK_EVERY: Duration = Duration::from_secs(5);
const LOOK_EVERY_LIMITED: Duration = Duration::from_secs(1);
/// Pause between two looks whether the game is ready: growing, so that a game that never says so costs nothing. Until its
/// first frame somebody may wait for that.
const FRAME_POLL_MAX: Duration = Duration::from_secs(1);
const READY_POLL_MAX: Duration = Duration::from_secs(5);

impl Runtime {
    pub(super) fn read_heartbeat(&mut self, now: Duration) {
        let Some(engine) = self.engine.as_mut() else {
            return;
        };
        let Some(link) = &engine.link else {
            return;
        };
        let heartbeat = link.heartbeat();
        let beat = Beat {
            frames: heartbeat.frames,
            stamp: Duration::from_nanos(heartbeat.monotonic_ns),
            allowed_silence: heartbeat.allowed_silence,
            paused: heartbeat.paused || engine.process.state() == ProcessState::Traced,
            goodbye: heartbeat.clean_exit.is_some(),
            ready: heartbeat.ready,
            crashed: heartbeat.crashed,
        };
        let incarnation = engine.launch;
        let after = now.saturating_sub(engine.started_at);
        let has_frame = heartbeat.frames > 0;
        let is_first_frame = has_frame && !std::mem::replace(&mut engine.running_told, has_frame);
        let mut became_ready = false;
        if !engine.ready_told {
            // A game may call mark_ready() before its first frame. It is looked at until there is one: the machine must
            // hear of it, or a hang would go unnoticed for as long as a start may take.
            became_ready = heartbeat.ready && has_frame;
            engine.ready_told = became_ready;
            engine.ready_poll_at = now + engine.ready_poll;
            let longest = if has_frame {
                READY_POLL_MAX
            } else {
                FRAME_POLL_MAX
            };
            engine.ready_poll = (engine.ready_poll * 3 / 2).min(longest);
        }
        if is_first_frame {
            self.emit(EngineEvent::Running { incarnation, after });
        }
        if became_ready {
            self.emit(EngineEvent::Ready { incarnation, after });
        }
        self.feed_at(Event::Beat(beat), now);
    }

    /// Now and then: the threads' work (to compare with at a hang), the memory, the plan.
    pub(super) fn look(&mut self, now: Duration) {
        let Some(engine) = self.engine.as_mut().filter(|engine| engine.look_at <= now) else {
            return;
        };
        let limits = &self.settings.memory;
        let every = if limits.any() {
            LOOK_EVERY_LIMITED
        } else {
            LOOK_EVERY
        };
        engine.look_pause = (engine.look_pause * 2).min(every);
        engine.look_at = now + engine.look_pause;
        engine.cpu.look(&engine.process, now);
        if let Some(rss_bytes) = engine.process.resident_bytes() {
            let level = engine.memory.on_sample(rss_bytes, limits, now);
            self.on_memory(level, rss_bytes, now);
        }
        self.look_at_plan(now);
    }

    fn on_memory(&mut self, level: MemoryLevel, rss_bytes: u64, now: Duration) {
        match level {
            MemoryLevel::Fine => {}
            MemoryLevel::High { limit_bytes } => {
                let Some(engine) = &self.engine else {
                    return;
                };
                if let Some(link) = &engine.link {
                    link.memory_high(rss_bytes);
                }
                let incarnation = engine.launch;
                self.emit(EngineEvent::MemoryHigh {
                    incarnation,
                    rss_bytes,
                    limit_bytes,
                });
            }
            MemoryLevel::Over => self.feed_at(Event::MemoryOver { rss_bytes }, now),
        }
    }

    fn look_at_plan(&mut self, now: Duration) {
        let is_free = matches!(self.machine.phase(), Phase::Starting | Phase::Running);
        if self.leaving || !is_free || self.handover.is_some() {
            return;
        }
        let Some(engine) = &mut self.engine else {
            return;
        };
        let heartbeat = engine.link.as_ref().map(|link| link.heartbeat());
        let wishes = heartbeat.map_or_else(Wishes::default, |heartbeat| Wishes {
            idle: heartbeat.idle,
            restart_wanted: heartbeat.restart_wanted,
        });
        let uptime = now.saturating_sub(engine.started_at);
        let plan = &self.settings.plan;
        if let Some(why) = engine.planned.look(plan, Zoned::now, uptime, wishes) {
            let grace = self.settings.drain_grace;
            if self.settings.standby {
                self.restart(grace, Some(why));
                return;
            }
            let incarnation = engine.launch;
            self.emit(EngineEvent::Planned { incarnation, why });
            self.feed_at(Event::Restart { grace }, now);
        }
    }

    /// Finds out how the engine hangs, then makes it print where. One that is stopped prints nothing any more.
    pub(super) fn backtrace(&mut self, silent: Duration) {
        let Some(engine) = &mut self.engine else {
            return;
        };
        let now = monotonic_now();
        let evidence = engine.cpu.evidence(&engine.process, silent, now);
        let how = evidence.kind;
        engine.hang = Some(evidence);
        if how == HangKind::Stopped {
            engine.process.kill_group();
        } else {
            engine.process.backtrace();
        }
        let incarnation = engine.launch;
        self.emit(EngineEvent::Hung {
            incarnation,
            silent,
            how,
        });
    }

    /// Tells the machine of a crash banner in the engine's output, and of each line after it.
    pub(super) fn heed_banner(&mut self) {
        let Some(engine) = &mut self.engine else {
            return;
        };
        let banner = self.output.banner();
        let Some(banner) = banner.filter(|banner| banner.launch == engine.launch) else {
            return;
        };
        if engine.banner_at != Some(banner.last_line) {
            engine.banner_at = Some(banner.last_line);
            self.feed(Event::Crashing {
                banner: banner.at,
                last_output: banner.last_line,
            });
        }
    }
}
