//! Wires the parts; the only file that knows them all.
//!
//! The data's way: ring → [`crate::intake`] → [`crate::store`] → [`crate::upload`]; all of it is the data `plane`. The
//! engine's way: [`crate::supervisor`] starts it and tells us, we tell intake to expect its ring, intake
//! hands us the ring's words, the supervisor gets them. Nothing here decides anything about either.
//!
//! The engine's way needs nothing of the data's: it begins first (`start`), and goes on while the plane is closed.
//!
//! The end: first the engine (its grace), then what it left in the ring is drained and committed, then uploads get
//! their grace, then the store closes. What could not be uploaded is in the store for the next start.

mod board;
mod committer;
mod crashes;
mod ends;
mod error;
mod events;
mod finish;
mod folding;
mod history;
mod last_words;
mod letters;
mod link;
mod names;
mod operator;
mod outbox;
mod parts;
mod plane;
mod presence;
mod quota;
mod rules;
mod service;
mod start;
mod tap;
mod tell;
#[cfg(test)]
mod tests;
mod ticker;
mod tree;

use std::collections::BTreeSet;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use tokio::sync::{mpsc, oneshot};
use tokio::time::{Instant, MissedTickBehavior};
use tracing::{error, info, warn};

use self::board::Board;
pub use self::error::AppError;
use self::history::History;
use self::operator::StopNote;
pub use self::parts::postgres_sink;
use self::plane::life::Life;
use self::rules::LiveRules;
pub use self::rules::Reload;
pub(crate) use self::rules::origin_of;
use self::service::{Probe, Service};
use self::ticker::Ticker;
use crate::config::Config;
use crate::crash::CrashReport;
use crate::event::EngineEvent;
use crate::intake::IntakeEvent;
use crate::logging::LogGuard;
use crate::platform::data_dir::DataDirLock;
use crate::platform::runtime_dir::{self, RuntimeDirHints};
use crate::platform::{self, ReloadSignal, ShutdownSignals, close_inherited_on_exec};
use crate::respawn;
use crate::supervisor::output::EngineLog;
use crate::supervisor::{Command, NoMoreStarts, Remote};

/// Worker threads: one for openraft and the store's answers, one for uploads and the API.
const WORKERS: usize = 2;
/// Events that wait for the main loop.
const EVENTS_MAX: usize = 256;
/// How often the status is made anew and the engine is told that we live.
const REFRESH_EVERY: Duration = Duration::from_secs(1);
/// How long the parts have to end after their work is done; then the process ends without them.
const LAST_GRACE: Duration = Duration::from_secs(5);
/// How often the engine's ring is looked for while nobody drains rings, and for how long so often; then it is looked for
/// with each refresh.
const LOOK_EVERY: Duration = Duration::from_millis(20);
const LOOK_EAGERLY: Duration = Duration::from_secs(10);

/// Runs the watchdog until it is asked to end (SIGTERM, SIGINT), the engine ends for good, or something breaks that
/// only a new process can mend. Blocks; makes its own runtime. `reload` reads the configuration anew, for its rules.
///
/// # Errors
/// [`AppError`] with the sentence for the user and the exit code.
pub fn run(config: Config, reload: Reload, log: &LogGuard) -> Result<(), AppError> {
    let lock = DataDirLock::acquire(&config.data_dir)?;
    if let Err(reason) = platform::is_private_dir(lock.dir()) {
        let dir = lock.dir();
        warn!(?dir, %reason, "others can get at what is recorded, printed and uploaded; run: chmod 700 on it");
    }
    let hints = RuntimeDirHints::from_environment(config.runtime_dir.clone());
    let runtime_dir = runtime_dir::resolve(lock.dir(), &hints)?;
    for reason in &runtime_dir.passed_over {
        info!(%reason, "a place for the rings was passed over");
    }
    // What a careless parent left open must not reach the engine, whose launch lock may be among it.
    close_inherited_on_exec();
    if let Err(error) = respawn::record(&runtime_dir.path, lock.dir(), config.log.file.is_some()) {
        warn!(%error, "a game whose watchdog dies cannot start it again: watchdog.json cannot be written");
    }
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .worker_threads(WORKERS)
        .thread_name("worker")
        .enable_all()
        .build()
        .map_err(|error| AppError::System {
            doing: "the async runtime cannot start",
            error,
        })?;
    let rings = runtime_dir.path.clone();
    let ended = runtime.block_on(start::serve(
        config,
        reload,
        lock.dir().to_owned(),
        runtime_dir.path,
        log,
    ));
    if matches!(
        ended,
        Ok(()) | Err(AppError::GaveUp { .. } | AppError::Left { .. })
    ) {
        // No engine runs that could miss us.
        respawn::forget(&rings);
    }
    // A sink that hangs in a system call must not hold the process up; what it did not confirm is sent again.
    runtime.shutdown_timeout(LAST_GRACE);
    ended
}

/// Asks the supervisor for a word, and the store if it is open.
fn probe(remote: &Remote, data: &Life) -> Probe {
    let (answer, supervisor) = oneshot::channel();
    remote.send(Command::Ping(answer));
    let store = data.plane().map_or_else(
        || {
            let (answer, answered) = oneshot::channel();
            // The other end is here.
            let _ = answer.send(());
            answered
        },
        plane::Plane::ask,
    );
    Probe { supervisor, store }
}

/// Why the main loop ended.
enum Outcome {
    /// Somebody asked.
    Signaled,
    /// The engine ended and policy says that this is all.
    EngineDone,
    /// The engine died too often.
    GaveUp { deaths: u32 },
    /// No engine of this configuration can be watched.
    Unfit(AppError),
    /// The supervisor's thread is gone.
    SupervisorGone,
}

/// The engine as the main loop knows it.
#[derive(Clone, Copy, Debug)]
struct Engine {
    launch: u32,
    since: Instant,
    /// Its ring was found (or found to be useless).
    is_connected: bool,
}

struct App<'a> {
    /// Open or not.
    data: Life,
    board: Board,
    /// Until the end begins.
    history: Option<History>,
    service: Service,
    stop_note: StopNote,
    remote: Remote,
    /// The last one that was started or adopted.
    engine: Option<Engine>,
    /// The launch that waits to become the engine.
    standby: Option<u32>,
    engine_events: mpsc::Receiver<EngineEvent>,
    intake_events: mpsc::Receiver<IntakeEvent>,
    signals: ShutdownSignals,
    reload_signal: ReloadSignal,
    rules: Arc<LiveRules>,
    no_more_starts: NoMoreStarts,
    engine_grace: Duration,
    heartbeat_required: bool,
    /// Why records were left in a ring, if any were.
    left: Option<String>,
    /// Reports that are kept, to be told of and stored.
    reports: mpsc::Receiver<(CrashReport, PathBuf)>,
    engine_log: EngineLog,
    log: &'a LogGuard,
    /// Launches whose ring cannot be used.
    refused: BTreeSet<u32>,
}

impl App<'_> {
    /// The main loop.
    async fn watch(&mut self) -> Outcome {
        let mut refresh = Ticker::start(REFRESH_EVERY);
        let mut look = tokio::time::interval(LOOK_EVERY);
        look.set_missed_tick_behavior(MissedTickBehavior::Delay);
        loop {
            let looks_eagerly = self.awaits_ring()
                && (self.engine.as_ref())
                    .is_some_and(|engine| engine.since.elapsed() < LOOK_EAGERLY);
            tokio::select! {
                change = self.data.changed() => {
                    let is_news = !matches!(change, plane::life::Change::Uploads);
                    self.on_change(change);
                    if is_news {
                        self.refresh();
                    }
                }
                signal = self.signals.recv() => return self.asked_to_end(signal),
                () = self.reload_signal.recv() => self.reload(),
                event = self.engine_events.recv() => {
                    let Some(event) = event else { return Outcome::SupervisorGone };
                    let outcome = self.on_engine(&event);
                    self.refresh();
                    if let Some(outcome) = outcome {
                        return outcome;
                    }
                }
                Some(event) = self.intake_events.recv() => {
                    self.on_intake(event);
                    self.refresh();
                }
                Some((report, path)) = self.reports.recv() => self.on_report(report, path),
                _ = look.tick(), if looks_eagerly => self.look_for_ring(),
                () = refresh.tick() => {
                    if self.awaits_ring() {
                        self.look_for_ring();
                    }
                    self.refresh();
                    let ask = || probe(&self.remote, &self.data);
                    let now = std::time::Instant::now();
                    self.service.turn(now, self.board.status(), ask);
                }
            }
        }
    }

    fn asked_to_end(&mut self, signal: &'static str) -> Outcome {
        self.no_more_starts.set();
        // What happened before is told before.
        while let Ok(event) = self.engine_events.try_recv() {
            self.on_engine(&event);
        }
        info!(signal, "asked to end");
        Outcome::Signaled
    }

    /// Asked for by a signal: the log is where the answer goes.
    fn reload(&self) {
        let rules = Arc::clone(&self.rules);
        let reloading = tokio::task::spawn_blocking(move || {
            if let Err(error) = rules.reload() {
                error!(%error, "the configuration was not reloaded; the old rules stay");
            }
        });
        drop(reloading);
    }

    fn refresh(&mut self) {
        let plane = self.data.plane();
        let store = plane.map(|plane| (&**plane.store(), plane.open_windows()));
        let lines_dropped = self.log.lines_dropped();
        self.board
            .refresh(store, self.data.condition(), lines_dropped);
        if let Some(history) = &self.history {
            history.keep(&self.board.status().engine.last_deaths);
        }
    }
}
