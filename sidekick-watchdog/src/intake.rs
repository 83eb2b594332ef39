//! Takes frames out of the engines' rings and hands them, as slabs, to whoever commits them.
//!
//! One thread finds ring files (`scanner`) and starts one drain thread for each session (`drain`). Intake knows rings and
//! slabs; what "committed" means is the [`Committer`]'s business. It never decides that an engine is dead: the ring
//! file's lock, which the kernel releases with the engine, proves that. Nor does it decide which engine is *the* engine:
//! it is told ([`Intake::expect`]), and takes nothing from the ring of an older one that lives beside it.

use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc::{SyncSender, sync_channel};
use std::thread::JoinHandle;

use sidekick_ipc::attach::AttachError;
use sidekick_ipc::control::Controls;
use sidekick_ipc::header::SessionInfo;
use sidekick_ipc::heartbeat::HeartbeatReader;
use sidekick_ipc::message::Downlink;
use tracing::error;

use crate::platform::Waker;

mod answers;
mod bell;
mod committer;
mod drain;
mod filter;
mod requests;
mod scanner;
#[cfg(test)]
mod tests;

pub use committer::{
    Asker, Changed, CommitError, Committer, PendingAppend, SessionEnding, SessionOpening,
    SessionResume,
};
pub use drain::SessionProgress;
pub use filter::{Filter, FilterOrigin, Filtered};
use scanner::Scanner;

/// Commands that may wait for the intake thread; more make the caller wait.
const COMMANDS_MAX: usize = 16;

/// Settings of the intake.
#[derive(Clone, Debug)]
pub struct IntakeConfig {
    /// Where ring files appear.
    pub runtime_dir: PathBuf,
    /// The watchdog's configured name.
    pub source: String,
    /// Most bytes of frames in one slab.
    pub slab_bytes_max: usize,
    /// Most bytes of frames that one ring has on their way to the disk, so that the store has something to put together;
    /// one slab always is. All of it is held in memory while the disk is behind.
    pub in_flight_bytes_max: usize,
}

/// What intake has to say.
#[derive(Debug)]
pub enum IntakeEvent {
    /// A session's ring was opened.
    Attached(AttachedSession),
    /// A ring file cannot be used; the engine runs on, but its records stay where they are.
    Refused {
        /// Number of the launch that wrote it.
        launch: u32,
        /// Why.
        error: AttachError,
    },
    /// An older engine lives beside the newer one. Its ring is left alone until it is dead: end it.
    Stale {
        /// What its ring's header says; another process's word.
        info: SessionInfo,
        /// The ring.
        path: PathBuf,
    },
    /// The store refused a session for good; its records stay in its ring until somebody acts.
    ShutOut {
        /// Number of the launch.
        launch: u32,
        /// The ring.
        path: PathBuf,
        /// Why.
        reason: String,
    },
    /// A drain ended before all was committed; the ring keeps the rest for the next start.
    Left {
        /// Number of the launch.
        launch: u32,
        /// Why.
        reason: String,
    },
    /// A session's end is committed and its files are gone.
    Ended {
        /// Number of the launch.
        launch: u32,
        /// Its counts at the end.
        progress: Arc<SessionProgress>,
    },
}

/// A session whose ring is being drained.
#[derive(Clone, Debug)]
pub struct AttachedSession {
    /// What the ring's header says.
    pub info: SessionInfo,
    /// The engine's heartbeat words.
    pub heartbeat: HeartbeatReader,
    /// The words that the engine reads.
    pub controls: Controls,
    /// Messages to the engine.
    pub downlink: Downlink,
    /// Counts, kept up to date by the drain thread.
    pub progress: Arc<SessionProgress>,
}

enum Command {
    /// An engine was started or adopted; its ring will appear.
    Expect(u32),
    /// This launch waits to become the engine: its ring is left alone.
    StandsBy(u32),
    /// The directory may have changed, or an engine has died.
    Rescan,
    Stop,
}

/// The running intake. Dropping it does not stop it; [`Intake::stop`] does.
#[derive(Debug)]
pub struct Intake {
    commands: SyncSender<Command>,
    waker: Waker,
    stopping: Arc<AtomicBool>,
    thread: JoinHandle<()>,
}

impl Intake {
    /// Starts the intake thread. Events go to `on_event`, called from intake's threads; it must not block for long.
    ///
    /// # Errors
    /// When the thread cannot be started.
    pub fn spawn(
        config: IntakeConfig,
        committer: Arc<dyn Committer>,
        on_event: Arc<dyn Fn(IntakeEvent) + Send + Sync>,
    ) -> std::io::Result<Self> {
        let (commands, inbox) = sync_channel(COMMANDS_MAX);
        let stopping = Arc::new(AtomicBool::new(false));
        let scanner = Scanner::new(config, committer, on_event, Arc::clone(&stopping));
        let waker = Waker::new()?;
        let own_waker = waker.clone();
        let thread = std::thread::Builder::new()
            .name("intake".into())
            .spawn(move || scanner.run(&inbox, &own_waker))?;
        Ok(Self {
            commands,
            waker,
            stopping,
            thread,
        })
    }

    /// An engine was started or adopted, and is *the* engine from now on: look for its ring eagerly. Rings of older
    /// launches are drained once their engines are dead. Before the first call nothing is drained.
    pub fn expect(&self, launch: u32) {
        self.send(Command::Expect(launch));
    }

    /// This launch waits to become the engine, and its ring with it.
    pub fn stands_by(&self, launch: u32) {
        self.send(Command::StandsBy(launch));
    }

    /// An engine died, or a ring may have appeared: look now.
    pub fn rescan(&self) {
        self.send(Command::Rescan);
    }

    /// Drains what dead engines left, stops reading the rings of living ones, and waits for the threads.
    pub fn stop(self) {
        self.stopping.store(true, Ordering::Release);
        self.send(Command::Stop);
        if self.thread.join().is_err() {
            error!("the intake thread panicked");
        }
    }

    fn send(&self, command: Command) {
        // The thread ends only by `stop`, which consumes us; a full inbox makes us wait a moment.
        let _ = self.commands.send(command);
        self.waker.wake();
    }
}
