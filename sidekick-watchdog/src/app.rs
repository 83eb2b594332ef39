//! Wires the parts; the only file that knows them all.
//!
//! The data's way: ring → [`crate::intake`] → [`crate::store`] → [`crate::upload`]. The
//! engine's way: [`supervisor`] starts it and tells us, we tell intake to expect its ring, intake
//! hands us the ring's words, the supervisor gets them. Nothing here decides anything about either.
//!
//! The end: first the engine (its grace), then what it left in the ring is drained and committed, then uploads get
//! their grace, then the store closes. What could not be uploaded is in the store for the next start.

mod board;
mod committer;
mod crashes;
mod error;
mod finish;
mod history;
mod last_words;
mod link;
mod names;
mod operator;
mod outbox;
mod parts;
mod service;
mod tell;
#[cfg(test)]
mod tests;

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, Instant, SystemTime};

use sidekick_ipc::SessionInfo;
use tokio::sync::{mpsc, oneshot, watch};
use tokio::task::{JoinHandle, JoinSet};
use tracing::{debug, error, info, warn};

use self::board::Board;
use self::committer::StoreCommitter;
pub use self::error::AppError;
use self::history::History;
use self::names::Names;
use self::operator::{AppOperator, StopNote};
use self::outbox::StoreOutbox;
use self::service::{Probe, Service};
use self::tell::tell;
use crate::api::{Api, Status};
use crate::config::{Config, HeartbeatPolicy};
use crate::crash::CrashReport;
use crate::crash::keep::CrashFolder;
use crate::event::{DeathCause, EngineEvent};
use crate::intake::{Intake, IntakeConfig, IntakeEvent};
use crate::logging::LogGuard;
use crate::metrics::Metrics;
use crate::platform::data_dir::DataDirLock;
use crate::platform::runtime_dir::{self, RuntimeDirHints};
use crate::platform::{self, ShutdownSignals, close_inherited_on_exec};
use crate::respawn;
use crate::slab::{Slab, SlabHead};
use crate::store::{Store, StoreError};
use crate::supervisor::fence::{self, StaleEngine};
use crate::supervisor::output::EngineLog;
use crate::supervisor::{self, Command, NoMoreStarts, Remote};
use crate::upload::{self, Drive};

/// Worker threads: one for openraft and the store's answers, one for uploads and the API.
const WORKERS: usize = 2;
/// Events that wait for the main loop.
const EVENTS_MAX: usize = 256;
/// How often the status is made anew and the engine is told that we live.
const REFRESH_EVERY: Duration = Duration::from_secs(1);
/// How long the parts have to end after their work is done; then the process ends without them.
const LAST_GRACE: Duration = Duration::from_secs(5);
/// How long a service manager is asked to wait for the store at most.
const OPEN_MAX: Duration = Duration::from_secs(600);

/// Runs the watchdog until it is asked to end (SIGTERM, SIGINT), the engine ends for good, or something breaks that
/// only a new process can mend. Blocks; makes its own runtime.
///
/// # Errors
/// [`AppError`] with the sentence for the user and the exit code.
pub fn run(config: Config, log: &LogGuard) -> Result<(), AppError> {
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
    let ended = runtime.block_on(serve(config, lock.dir().to_owned(), runtime_dir.path, log));
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

async fn serve(
    config: Config,
    data_dir: PathBuf,
    runtime_dir: PathBuf,
    log: &LogGuard,
) -> Result<(), AppError> {
    // Before the first engine: it inherits our dispositions.
    let signals = ShutdownSignals::install().map_err(|error| AppError::System {
        doing: "signals cannot be received",
        error,
    })?;
    let service = Service::from_environment();
    // A long log is read to its end before anything runs.
    let opening = service.extend(OPEN_MAX);
    let store = Arc::new(Store::open(parts::store(&config, &data_dir)).await?);
    drop(opening);
    let ended = serve_with(
        &config,
        &data_dir,
        &runtime_dir,
        log,
        Arc::clone(&store),
        signals,
        service,
    )
    .await;
    store.shutdown().await;
    ended
}

async fn serve_with(
    config: &Config,
    data_dir: &Path,
    runtime_dir: &Path,
    log: &LogGuard,
    store: Arc<Store>,
    mut signals: ShutdownSignals,
    service: Service,
) -> Result<(), AppError> {
    let sinks = parts::sinks(config)?;
    let lanes = sinks
        .iter()
        .map(|sink| (sink.name().to_owned(), sink.lanes()))
        .collect();
    store.set_sinks(lanes).await?;
    let names = Names::remember(data_dir, &config.name).map_err(|error| AppError::System {
        doing: "the data directory's list of names cannot be kept",
        error,
    })?;
    let vanished = end_vanished_sessions(&store, &names, runtime_dir).await?;

    let metrics = Metrics::new();
    let mut api = Api::bind(&config.api).await?;
    api.open_control(runtime_dir)?;
    api.record_address(runtime_dir)?;
    let operator = Arc::new(AppOperator::new(data_dir, runtime_dir, &config.shutdown));
    let stop_note = StopNote::new(runtime_dir);
    let (history, last_deaths, keep_history) = History::open(data_dir);
    let mut board = Board::new(
        Status {
            name: config.name.clone(),
            version: env!("CARGO_PKG_VERSION").to_owned(),
            pid: std::process::id(),
            group: store.group().to_string(),
            data_dir: data_dir.to_owned(),
            runtime_dir: runtime_dir.to_owned(),
            api: api.address().to_string(),
            engine: crate::api::EngineStatus {
                ready_required: config.health.ready_required,
                heartbeat_required: config.health.heartbeat == HeartbeatPolicy::Required,
                last_deaths,
                ..Default::default()
            },
            ..Status::default()
        },
        metrics.clone(),
    );

    board.missing(vanished);
    let (drive, driven) = watch::channel(Drive::Run);
    let engine = upload::Engine::new(
        Arc::new(StoreOutbox(Arc::clone(&store))),
        sinks,
        parts::upload(config),
        driven,
    );
    for (source, epoch, session) in store.open_sessions() {
        if names.contains(&source) {
            engine.note(
                store.stats().applied,
                epoch,
                session.next_seq.saturating_sub(1),
            );
        }
    }
    let uploads = engine.status();
    let mut tasks = JoinSet::new();
    tasks.spawn(keep_history);
    for (name, task) in engine.tasks().await? {
        tasks.spawn(async move {
            let end = task.await;
            debug!(lane = name, ?end, "upload lane ended");
        });
    }
    let mut api_drive = drive.subscribe();
    let serve = api.serve(
        board.subscribe(),
        metrics,
        Some(operator.clone()),
        async move {
            let _ = api_drive.wait_for(|drive| *drive == Drive::Stop).await;
        },
    );
    tasks.spawn(async move {
        if let Err(error) = serve.await {
            error!(%error, "the API ended");
        }
    });

    let (intake_sender, intake_events) = mpsc::channel(EVENTS_MAX);
    let intake = Intake::spawn(
        IntakeConfig {
            runtime_dir: runtime_dir.to_owned(),
            source: config.name.clone(),
            slab_bytes_max: parts::slab_bytes_max(config),
            in_flight_bytes_max: parts::in_flight_bytes_max(config),
        },
        Arc::new(StoreCommitter {
            store: Arc::clone(&store),
            runtime: tokio::runtime::Handle::current(),
            names,
        }),
        Arc::new(move |event| {
            // Intake's threads may wait for us: the main loop never waits for them while it takes events.
            let _ = intake_sender.blocking_send(event);
        }),
    )
    .map_err(|error| AppError::System {
        doing: "the intake thread cannot start",
        error,
    })?;

    let (engine_sender, engine_events) = mpsc::channel(EVENTS_MAX);
    let no_more_starts = NoMoreStarts::default();
    // Asked while the store was read: nothing is started then.
    let mut asked = tokio::select! {
        biased;
        signal = signals.recv() => Some(signal),
        () = std::future::ready(()) => None,
    };
    if asked.is_some() {
        no_more_starts.set();
    }
    let supervisor_config = parts::supervisor(
        config,
        data_dir,
        runtime_dir,
        store
            .last_launch(&config.name)
            .max(link::last_launch(runtime_dir)),
        stop_note.is_set().then_some(config.shutdown.engine_grace),
        no_more_starts.clone(),
    );
    let (on_report, reports) = crashes::sender();
    let (report_sender, reports_to_store) = mpsc::channel(crashes::REPORTS_MAX);
    let reports_stored = tokio::spawn(crashes::store_reports(
        Arc::clone(&store),
        CrashFolder::new(data_dir),
        reports_to_store,
    ));
    let find_link = link::finder(runtime_dir.to_owned());
    let mut spawned = tokio::task::spawn_blocking(move || {
        supervisor::spawn(
            supervisor_config,
            engine_sender,
            Some(find_link),
            |_| {},
            on_report,
        )
    });
    let spawned = loop {
        tokio::select! {
            biased;
            signal = signals.recv(), if asked.is_none() => {
                no_more_starts.set();
                asked = Some(signal);
            }
            spawned = &mut spawned => break spawned,
        }
    };
    let supervisor = match spawned {
        Ok(spawned) => spawned,
        Err(error) => {
            return Err(AppError::System {
                doing: "the supervisor panicked while starting",
                error: std::io::Error::other(error),
            });
        }
    };
    let supervisor = match supervisor {
        Ok(supervisor) => supervisor,
        Err(error) => {
            drive.send_replace(Drive::Stop);
            return Err(error.into());
        }
    };
    operator.serve(supervisor.remote(), supervisor.log());
    service.ready();
    let mut app = App {
        store,
        board,
        history: Some(history),
        service,
        stop_note,
        remote: supervisor.remote(),
        intake: Some(intake),
        engine_events,
        intake_events,
        uploads,
        signals,
        no_more_starts,
        engine_grace: config.shutdown.engine_grace,
        heartbeat_required: config.health.heartbeat == HeartbeatPolicy::Required,
        left: None,
        reports,
        reports_to_store: Some((report_sender, reports_stored)),
        engine_log: supervisor.log(),
        log,
        refused: BTreeSet::new(),
    };
    let outcome = match asked {
        Some(signal) => app.asked_to_end(signal),
        None => app.watch().await,
    };
    app.finish(
        outcome,
        supervisor,
        &drive,
        tasks,
        config.shutdown.upload_grace,
    )
    .await
}

/// Ends sessions whose ring is gone (a reboot, a cleaned `/dev/shm`): what they still held is unknown, and the store
/// says so with a gap (CORRECTNESS rule 8). Returns how many there were.
async fn end_vanished_sessions(
    store: &Store,
    names: &Names,
    runtime_dir: &Path,
) -> Result<u64, AppError> {
    let mut ended = 0;
    // Not to see a ring proves nothing: a session that is ended here is never drained again.
    let files = sidekick_ipc::scan(runtime_dir).map_err(|error| AppError::System {
        doing: "the runtime directory cannot be read",
        error,
    })?;
    for (owner, epoch, session) in store.open_sessions() {
        if !names.contains(&owner) || files.iter().any(|file| file.epoch == epoch) {
            continue;
        }
        let committed = session.next_seq.saturating_sub(1);
        warn!(
            %epoch,
            incarnation = session.launch,
            committed,
            "the ring of this session is gone (a reboot?); what was recorded and not committed is lost; a gap is uploaded for it"
        );
        let head = SlabHead {
            source: owner.clone(),
            epoch,
            incarnation: session.launch,
            realtime_offset_ns: 0,
            first_seq: session.next_seq,
            count: 0,
            checkpoint: session.checkpoint.unwrap_or_default(),
        };
        let last = Slab::closing(head, &[], true, SystemTime::now());
        store
            .session_ended(&owner, epoch, "its ring vanished", true, last)
            .await?;
        ended += 1;
    }
    Ok(ended)
}

/// Asks supervisor and store for a word.
fn probe(remote: &Remote, store: &Arc<Store>) -> Probe {
    let (answer, supervisor) = oneshot::channel();
    remote.send(Command::Ping(answer));
    let (answer, from_store) = oneshot::channel();
    let store = Arc::clone(store);
    tokio::spawn(async move {
        if store.is_answering().await {
            let _ = answer.send(());
        }
    });
    Probe {
        supervisor,
        store: from_store,
    }
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
    /// The store died; the engine runs on, for the next watchdog to adopt.
    StoreDied(StoreError),
    /// The supervisor's thread is gone.
    SupervisorGone,
}

struct App<'a> {
    store: Arc<Store>,
    board: Board,
    /// Until the end begins.
    history: Option<History>,
    service: Service,
    stop_note: StopNote,
    remote: Remote,
    intake: Option<Intake>,
    engine_events: mpsc::Receiver<EngineEvent>,
    intake_events: mpsc::Receiver<IntakeEvent>,
    uploads: watch::Receiver<upload::UploadStatus>,
    signals: ShutdownSignals,
    no_more_starts: NoMoreStarts,
    engine_grace: Duration,
    heartbeat_required: bool,
    /// Why records were left in a ring, if any were.
    left: Option<String>,
    /// Reports that are kept, to be told of and stored.
    reports: mpsc::Receiver<(CrashReport, PathBuf)>,
    /// The way into the store; until the end.
    reports_to_store: Option<(mpsc::Sender<CrashReport>, JoinHandle<()>)>,
    engine_log: EngineLog,
    log: &'a LogGuard,
    /// Launches whose ring cannot be used.
    refused: BTreeSet<u32>,
}

impl App<'_> {
    /// The main loop.
    async fn watch(&mut self) -> Outcome {
        let store = Arc::clone(&self.store);
        let mut died = std::pin::pin!(store.fatal());
        let mut refresh = tokio::time::interval(REFRESH_EVERY);
        loop {
            tokio::select! {
                error = &mut died => return Outcome::StoreDied(error),
                signal = self.signals.recv() => return self.asked_to_end(signal),
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
                Ok(()) = self.uploads.changed() => self.on_uploads(),
                _ = refresh.tick() => {
                    self.refresh();
                    let ask = || probe(&self.remote, &self.store);
                    self.service.turn(Instant::now(), self.board.status(), ask);
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

    fn refresh(&mut self) {
        self.board.refresh(&self.store, self.log.lines_dropped());
        if let Some(history) = &self.history {
            history.keep(&self.board.status().engine.last_deaths);
        }
    }

    fn on_report(&mut self, report: CrashReport, path: PathBuf) {
        let event = EngineEvent::Reported {
            incarnation: report.incarnation,
            cause: report.cause.clone(),
            report_id: report.report_id.to_string(),
            path,
        };
        tell(&event);
        self.board.engine(&event);
        if let Some((store, _)) = &self.reports_to_store {
            // Full: it is taken from its file later.
            let _ = store.try_send(report);
        }
        self.refresh();
    }

    fn on_uploads(&mut self) {
        let uploads = self.uploads.borrow_and_update().clone();
        self.board.uploads(uploads);
    }

    fn on_engine(&mut self, event: &EngineEvent) -> Option<Outcome> {
        match event {
            // Why was told when its ring was refused; the extension is there.
            EngineEvent::Unconnected { incarnation, .. } if self.refused.contains(incarnation) => {}
            event => tell(event),
        }
        self.board.engine(event);
        match event {
            EngineEvent::Started { incarnation, .. } | EngineEvent::Adopted { incarnation, .. } => {
                if let Some(intake) = &self.intake {
                    intake.expect(*incarnation);
                }
                None
            }
            EngineEvent::Died {
                incarnation,
                cause,
                log,
                ..
            } => {
                if let (DeathCause::ExitedEarly { .. }, Some(log)) = (cause, log) {
                    last_words::quote(*incarnation, log.clone(), self.engine_log.clone());
                }
                if let Some(intake) = &self.intake {
                    intake.rescan();
                }
                None
            }
            EngineEvent::Unfit {
                unfit,
                log,
                left_running,
                ..
            } => Some(Outcome::Unfit(AppError::unfit(
                unfit.clone(),
                log.clone(),
                *left_running,
            ))),
            EngineEvent::GaveUp { deaths } => Some(Outcome::GaveUp { deaths: *deaths }),
            // An operator's `stop` keeps the watchdog.
            EngineEvent::Stopped { asked: false } => Some(Outcome::EngineDone),
            _ => None,
        }
    }

    fn on_intake(&mut self, event: IntakeEvent) {
        match event {
            IntakeEvent::Attached(session) => {
                let launch = session.info.launch;
                let link = self.board.attached(&session);
                self.remote.send(Command::Connected { launch, link });
            }
            IntakeEvent::Refused { launch, error } => {
                self.refused.insert(launch);
                if let Some(versions) = link::versions(&error) {
                    self.remote.send(Command::Foreign { launch, versions });
                    if self.heartbeat_required {
                        // The supervisor tells what becomes of it.
                        warn!(launch, %error, "a ring cannot be used");
                        return;
                    }
                }
                error!(
                    launch,
                    %error,
                    "a ring cannot be used; its records stay in it, the game runs on"
                );
            }
            IntakeEvent::Stale { info, path } => self.end_stale(&info, path),
            IntakeEvent::Left { launch, reason } => {
                warn!(incarnation = launch, %reason, "the ring keeps what is not committed");
                self.left = Some(reason);
            }
            IntakeEvent::ShutOut {
                launch,
                path,
                reason,
            } => {
                error!(
                    launch,
                    %reason,
                    path = %path.display(),
                    "the store does not take a session's records; they stay in its ring. Does the runtime directory \
                     belong to this data directory? Move the ring away to give them up"
                );
                let reason = format!("{reason} (ring {})", path.display());
                self.board.shut_out(reason.clone());
                self.left = Some(reason);
            }
            IntakeEvent::Ended { launch, progress } => {
                self.board.ended(launch, &progress);
                tell::session_ended(launch, &progress);
            }
        }
    }

    /// Ends an engine that lives beside the one that is the engine. Not on this thread: it looks through all processes.
    fn end_stale(&self, info: &SessionInfo, ring: PathBuf) {
        let stale = StaleEngine {
            launch: info.launch,
            ring,
            pid: info.pid,
            start_ticks: info.pid_start_time,
        };
        let engine = self.board.engine_pid();
        tokio::task::spawn_blocking(move || {
            if let Err(error) = fence::end_stale(&stale, engine) {
                error!(%error, launch = stale.launch, "a stale engine lives on; its records stay in its ring");
            }
        });
    }
}
