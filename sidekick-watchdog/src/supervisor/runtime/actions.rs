//! Feeds the machine and does what it says, until it says no more.

use std::collections::VecDeque;
use std::time::Duration;

use super::Runtime;
use crate::event::EngineEvent;
use crate::platform::monotonic_now;
use crate::supervisor::machine::{Action, Event};

impl Runtime {
    pub(super) fn feed(&mut self, event: Event) {
        self.feed_at(event, monotonic_now());
    }

    pub(super) fn feed_at(&mut self, event: Event, now: Duration) {
        let mut actions = VecDeque::from(self.machine.on_event(event, now));
        let mut is_unprepared = false;
        while let Some(action) = actions.pop_front() {
            match action {
                Action::Prepare | Action::Spawn { .. } if self.settings.no_more_starts.is_set() => {
                    let grace = Duration::ZERO;
                    // Withdrawn in the machine's own way: asked to stop amid a start that comes to nothing.
                    for withdrawn in [
                        Event::Stop { grace },
                        Event::SpawnFailed,
                        Event::Prepared { success: false },
                    ] {
                        actions.extend(self.machine.on_event(withdrawn, monotonic_now()));
                    }
                }
                // It ran before the standby's own start.
                Action::Prepare if self.can_promote() => {
                    is_unprepared = true;
                    let prepared = Event::Prepared { success: true };
                    actions.extend(self.machine.on_event(prepared, monotonic_now()));
                }
                Action::Prepare => {
                    let begun = match self.take_standby_preparation() {
                        Some(run) => Ok(Some(run)),
                        None => self.begin_pre_start(),
                    };
                    let success = begun.is_ok();
                    self.pre_start = begun.unwrap_or_else(|error| {
                        self.tell_unprepared(&error);
                        None
                    });
                    if self.pre_start.is_none() {
                        let prepared = Event::Prepared { success };
                        actions.extend(self.machine.on_event(prepared, monotonic_now()));
                    }
                }
                Action::EndPrepare => {
                    if let Some(run) = &self.pre_start {
                        run.cancel();
                    }
                }
                Action::Spawn { safe: false } if self.promote() => {
                    actions.extend(self.machine.on_event(Event::Spawned, monotonic_now()));
                    if self.tell_connected() {
                        actions.extend(self.machine.on_event(Event::Connected, monotonic_now()));
                    }
                }
                // The standby has died since.
                Action::Spawn { .. } if is_unprepared => {
                    is_unprepared = false;
                    actions.extend(self.machine.on_event(Event::SpawnFailed, monotonic_now()));
                }
                Action::Spawn { safe } => match self.start_engine_alone(safe) {
                    Ok(()) => {
                        actions.extend(self.machine.on_event(Event::Spawned, monotonic_now()));
                    }
                    Err(error) if !self.ever_started && !self.is_begun => {
                        self.first_error = Some(error);
                        return;
                    }
                    Err(error) => {
                        let incarnation = self.last_launch;
                        let error = error.to_string();
                        self.emit(EngineEvent::StartFailed { incarnation, error });
                        actions.extend(self.machine.on_event(Event::SpawnFailed, monotonic_now()));
                    }
                },
                Action::AskQuit { grace } => self.ask_quit(grace),
                Action::Backtrace { silent } => self.backtrace(silent),
                Action::KillGroup => {
                    if let Some(engine) = &self.engine {
                        engine.process.kill_group();
                    }
                }
                Action::Leave => self.detached = true,
                Action::Tell(told) => self.tell(told),
            }
        }
    }

    /// Asks through the ring if there is one; else by SIGTERM, which Godot without the extension dies of at once.
    fn ask_quit(&mut self, grace: Duration) {
        if let Some(engine) = &self.engine {
            match &engine.link {
                Some(link) => link.ask_quit(grace),
                None => engine.process.terminate(),
            }
            let incarnation = engine.launch;
            self.emit(EngineEvent::Stopping { incarnation, grace });
        }
    }
}
