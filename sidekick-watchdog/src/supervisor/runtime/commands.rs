//! What the application asks of the thread, and what it tells of the engine's ring.

use std::sync::Arc;
use std::sync::mpsc::TryRecvError;

use super::Runtime;
use crate::event::EngineEvent;
use crate::platform::monotonic_now;
use crate::supervisor::machine::Event;
use crate::supervisor::{Command, EngineLink};

impl Runtime {
    pub(super) fn take_commands(&mut self) {
        loop {
            match self.commands.try_recv() {
                Ok(command) => self.on_command(command),
                Err(TryRecvError::Empty) => return,
                // The application is gone without a word: leave the engine to the next watchdog.
                Err(TryRecvError::Disconnected) => {
                    self.detached |= !self.leaving;
                    return;
                }
            }
        }
    }

    fn on_command(&mut self, command: Command) {
        // Who leaves starts nothing any more.
        if self.leaving && matches!(command, Command::Start | Command::Restart { .. }) {
            return;
        }
        match command {
            Command::Connected { launch, link } => self.on_connected(launch, link),
            Command::Foreign { launch, versions } => {
                let engine = self.engine.as_mut();
                if let Some(engine) = engine.filter(|engine| engine.launch == launch) {
                    engine.foreign = Some(versions);
                    self.feed(Event::Foreign);
                }
            }
            Command::Ping(answer) => {
                // Whoever asked may have gone.
                let _ = answer.send(());
            }
            Command::Start => self.feed(Event::Start),
            Command::Stop { grace } => self.feed(Event::Stop { grace }),
            Command::Restart { grace } if self.settings.standby => self.restart(grace, None),
            Command::Restart { grace } => self.feed(Event::Restart { grace }),
            Command::Shutdown { grace } => {
                self.leaving = true;
                self.feed(Event::Stop { grace });
            }
            Command::Kill => {
                self.leaving = true;
                self.feed(Event::Kill);
            }
            Command::Detach => self.detached = true,
        }
    }

    fn on_connected(&mut self, launch: u32, link: Arc<dyn EngineLink>) {
        let now = monotonic_now();
        let Some(engine) = self
            .engine
            .as_mut()
            .filter(|engine| engine.launch == launch)
        else {
            return;
        };
        let is_first = engine.link.is_none();
        if self.settings.standby {
            // One that was promoted before it had a ring does not know yet.
            link.activate(launch);
        }
        engine.link = Some(link);
        engine.ready_poll_at = now;
        if is_first {
            self.tell_connected();
            self.feed(Event::Connected);
        }
    }

    /// Tells that the engine has a ring, if it has one.
    pub(super) fn tell_connected(&mut self) -> bool {
        let Some(engine) = self.engine.as_mut() else {
            return false;
        };
        let Some(link) = &engine.link else {
            return false;
        };
        engine.running_told = link.heartbeat().frames > 0;
        let (incarnation, in_main_loop) = (engine.launch, engine.running_told);
        self.emit(EngineEvent::Connected {
            incarnation,
            in_main_loop,
        });
        true
    }
}
