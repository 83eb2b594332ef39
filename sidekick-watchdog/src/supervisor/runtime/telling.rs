//! Tells what happens, without ever waiting for who listens.

use tokio::sync::mpsc::error::TrySendError;

use super::Runtime;
use crate::event::{DeathCause, EngineEvent, Unfit};
use crate::supervisor::machine::{self, EndedBy, Told};

/// Events kept for a receiver that does not keep up; beyond it the oldest are dropped and counted.
const EVENTS_KEPT_MAX: usize = 256;

impl Runtime {
    pub(super) fn tell(&mut self, told: Told) {
        let incarnation = self
            .engine
            .as_ref()
            .map_or(self.last_launch, |engine| engine.launch);
        let event = match told {
            Told::Unfit(unfit) => {
                // The application is about to end us; until it does, nothing is started any more.
                self.leaving = true;
                let engine = self.engine.as_ref();
                let versions = engine.and_then(|engine| engine.foreign.clone());
                let left_running = unfit == machine::Unfit::ForeignAdopted;
                EngineEvent::Unfit {
                    incarnation,
                    unfit: match unfit {
                        machine::Unfit::NoRing { after } => Unfit::NoExtension { after },
                        machine::Unfit::Foreign | machine::Unfit::ForeignAdopted => {
                            Unfit::Version(versions.unwrap_or_default())
                        }
                    },
                    log: engine.and_then(|engine| engine.log.clone()),
                    left_running,
                }
            }
            // It was told at its adoption, and the cause is not a missing extension.
            Told::Unconnected { .. } if self.engine.as_ref().is_some_and(|e| e.is_ring_lost) => {
                return;
            }
            Told::Unconnected { after } => EngineEvent::Unconnected { incarnation, after },
            // Told with what was found out about it.
            Told::Hung { .. } => return,
            Told::Ending(ended_by) => EngineEvent::Ending {
                incarnation,
                why: self.why(ended_by),
            },
            Told::SafeStart { deaths } => EngineEvent::SafeStart { deaths },
            Told::Backoff { delay, crash_loop } => EngineEvent::Backoff { delay, crash_loop },
            Told::CrashLoop { deaths, every } => EngineEvent::CrashLoop { deaths, every },
            Told::GaveUp { deaths } => EngineEvent::GaveUp { deaths },
            Told::Stopped { asked } => EngineEvent::Stopped { asked },
        };
        self.emit(event);
    }

    /// Never blocks: what the receiver does not take is kept, up to a bound.
    pub(super) fn emit(&mut self, event: EngineEvent) {
        self.events_kept.push_back(event);
        if !self.events_wait {
            self.flush_events();
        }
        while self.events_kept.len() > EVENTS_KEPT_MAX {
            self.events_kept.pop_front();
            self.events_dropped += 1;
        }
    }

    pub(super) fn flush_events(&mut self) {
        while let Some(event) = self.events_kept.pop_front() {
            match self.events.try_send(event) {
                Ok(()) => {}
                Err(TrySendError::Full(event)) => {
                    self.events_kept.push_front(event);
                    return;
                }
                // Nobody listens any more.
                Err(TrySendError::Closed(_)) => {}
            }
        }
        if self.events_dropped > 0 {
            tracing::warn!(dropped = self.events_dropped, "engine events were dropped");
            self.events_dropped = 0;
        }
    }

    /// The cause of a death that we decided, in words.
    fn why(&self, ended_by: EndedBy) -> String {
        let engine = self.engine.as_ref();
        let versions = engine.and_then(|engine| engine.foreign.clone());
        let cause = match ended_by {
            EndedBy::NotReady { after } => DeathCause::NotReady { after },
            EndedBy::Memory { rss_bytes } => DeathCause::Memory { rss_bytes },
            EndedBy::Foreign => DeathCause::Foreign(versions.unwrap_or_default()),
            EndedBy::NoRing { after } => DeathCause::NoRing { after },
            EndedBy::CrashLimbo => DeathCause::CrashLimbo,
            EndedBy::Hang { .. } | EndedBy::StopTimeout | EndedBy::StuckInExit { .. } => {
                DeathCause::StopTimeout
            }
        };
        let words = cause.to_string();
        let bare = words.strip_prefix("ended: ");
        bare.unwrap_or(&words).to_owned()
    }
}
