//! The order of the start: what the engine needs comes first, and the store is not among it.
//!
//! An engine that runs already is adopted at once. A first one waits a moment for the store, so that a store that is
//! broken is told of before anything is started; one that merely takes its time (a long log, a slow disk) is not waited
//! for. Launch numbers come from the data directory's own count and from what lies in the runtime directory.

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use tokio::sync::{mpsc, watch};
use tokio::task::JoinSet;
use tokio::time::Instant;
use tracing::{error, warn};

use super::board::Board;
use super::history::History;
use super::operator::{AppOperator, StopNote};
use super::plane::life::{Change, Life, Opener};
use super::plane::{Plane, Setup};
use super::rules::{LiveRules, Reload};
use super::service::Service;
use super::{App, AppError, EVENTS_MAX, LAST_GRACE, crashes, link, parts, presence};
use crate::api::{Api, EngineStatus, Status, StoreState, StoreStatus};
use crate::config::{Config, HeartbeatPolicy};
use crate::logging::LogGuard;
use crate::metrics::Metrics;
use crate::platform::{ReloadSignal, ShutdownSignals};
use crate::registry;
use crate::supervisor::output::is_launch_reserved;
use crate::supervisor::{self, NoMoreStarts, SupervisorError};

/// How long a first start waits for the store. One that is in order is open within milliseconds; whoever calls us is not
/// kept waiting longer for a game that could run.
const FIRST_OPEN_MAX: Duration = Duration::from_secs(2);
/// How long a service manager is asked to wait for the store where nothing else knows the last launch's number.
const OPEN_MAX: Duration = Duration::from_secs(600);

/// What answers and writes beside everything else.
struct Outside {
    end: watch::Sender<bool>,
    tasks: JoinSet<()>,
}

impl Outside {
    async fn end(mut self) {
        self.end.send_replace(true);
        let ended = async { while self.tasks.join_next().await.is_some() {} };
        if tokio::time::timeout(LAST_GRACE, ended).await.is_err() {
            warn!("a part did not end in time; left behind");
        }
    }
}

/// What the start has come to so far.
struct Start<'a> {
    config: Arc<Config>,
    data_dir: &'a Path,
    runtime_dir: &'a Path,
    log: &'a LogGuard,
    signals: ShutdownSignals,
    reload_signal: ReloadSignal,
    rules: Arc<LiveRules>,
    service: Service,
    operator: Arc<AppOperator>,
    board: Board,
    history: History,
    no_more_starts: NoMoreStarts,
    /// Only the store can tell which launch numbers are used.
    is_store_needed: bool,
    /// The signal that asked to end before the start was over.
    asked: Option<&'static str>,
}

/// Starts everything, runs the main loop and ends everything.
pub(super) async fn serve(
    config: Config,
    reload: Reload,
    data_dir: PathBuf,
    runtime_dir: PathBuf,
    log: &LogGuard,
) -> Result<(), AppError> {
    // Before the first engine: it inherits our dispositions.
    let signals = ShutdownSignals::install().map_err(|error| AppError::System {
        doing: "signals cannot be received",
        error,
    })?;
    let reload_signal = ReloadSignal::install().map_err(|error| AppError::System {
        doing: "signals cannot be received",
        error,
    })?;
    let rules = LiveRules::new(&config, reload).map_err(|error| AppError::Rules {
        reason: error.to_string(),
    })?;
    let service = Service::from_environment();
    let rules = Arc::new(rules.told_by(service.reloads()));
    let config = Arc::new(config);
    let sinks = parts::sinks(&config, &runtime_dir)?;
    let metrics = Metrics::new();
    let mut api = Api::bind(&config.api).await?;
    api.open_control(&runtime_dir)?;
    api.record_address(&runtime_dir)?;
    let operator = Arc::new(AppOperator::new(
        &data_dir,
        &runtime_dir,
        &config.shutdown,
        Arc::clone(&rules),
    ));
    let (history, last_deaths, keep_history) = History::open(&data_dir);
    let mut board = Board::new(
        Status {
            name: config.name.clone(),
            version: env!("CARGO_PKG_VERSION").to_owned(),
            pid: std::process::id(),
            data_dir: data_dir.clone(),
            runtime_dir: runtime_dir.clone(),
            api: api.address().to_string(),
            engine: EngineStatus {
                ready_required: config.health.ready_required,
                heartbeat_required: config.health.heartbeat == HeartbeatPolicy::Required,
                last_deaths,
                ..EngineStatus::default()
            },
            store: StoreStatus {
                state: StoreState::Opening,
                ..StoreStatus::default()
            },
            ..Status::default()
        },
        metrics.clone(),
    );
    let (end, mut ended) = watch::channel(false);
    let mut tasks = JoinSet::new();
    tasks.spawn(keep_history);
    let serve = api.serve(
        board.subscribe(),
        metrics.clone(),
        Some(operator.clone()),
        async move {
            let _ = ended.wait_for(|ended| *ended).await;
        },
    );
    tasks.spawn(async move {
        if let Err(error) = serve.await {
            error!(%error, "the API ended");
        }
    });
    if let Some(settings) = config.registry.clone() {
        let file = data_dir.join("registry.json");
        let (report, listing) = watch::channel(registry::Report::default());
        board.show_listing(listing);
        let presence = presence::follow(board.subscribe(), &mut tasks);
        let end = end.subscribe();
        tasks.spawn(registry::keep(settings, file, presence, report, end));
    }
    let outside = Outside { end, tasks };

    // Looked at before the store is opened, which makes one.
    let is_store_needed = !is_launch_reserved(&data_dir) && has_log(&data_dir);
    let (events, intake_events) = mpsc::channel(EVENTS_MAX);
    let setup = Setup {
        store: parts::store(&config, &data_dir),
        config: Arc::clone(&config),
        rules: Arc::clone(&rules),
        data_dir: data_dir.clone(),
        runtime_dir: runtime_dir.clone(),
        events,
        tree: operator.open_tree(),
        letters: operator.open_letters(),
        metrics: metrics.clone(),
    };
    let first_sinks = Mutex::new(Some(sinks));
    let opener: Opener = Box::new(move || {
        let setup = setup.clone();
        // A sink holds what it has open: each plane has its own.
        let first = first_sinks
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .take();
        Box::pin(async move {
            let sinks =
                first.map_or_else(|| parts::sinks(&setup.config, &setup.runtime_dir), Ok)?;
            Plane::open(setup, sinks).await
        })
    });
    let start = Start {
        config,
        data_dir: &data_dir,
        runtime_dir: &runtime_dir,
        log,
        signals,
        reload_signal,
        rules,
        service,
        operator,
        board,
        history,
        no_more_starts: NoMoreStarts::default(),
        is_store_needed,
        asked: None,
    };
    let result = start.run(Life::begin(opener), intake_events).await;
    outside.end().await;
    result
}

impl Start<'_> {
    async fn run(
        mut self,
        mut data: Life,
        intake_events: mpsc::Receiver<crate::intake::IntakeEvent>,
    ) -> Result<(), AppError> {
        let launch_last = match self.first_open(&mut data).await {
            Ok(launch_last) => launch_last,
            Err(error) => return Err(give_up(data, error).await),
        };
        let (engine_sender, engine_events) = mpsc::channel(EVENTS_MAX);
        let (on_report, reports) = crashes::sender();
        let stop_note = StopNote::new(self.runtime_dir);
        let supervisor_config = parts::supervisor(
            &self.config,
            self.data_dir,
            self.runtime_dir,
            launch_last,
            (stop_note.is_set()).then_some(self.config.shutdown.engine_grace),
            self.no_more_starts.clone(),
        );
        let find_link = link::finder(self.runtime_dir.to_owned());
        let spawned = self
            .blocking("the supervisor panicked while starting", move || {
                supervisor::spawn(
                    supervisor_config,
                    engine_sender,
                    Some(find_link),
                    |_| {},
                    on_report,
                )
            })
            .await;
        let supervisor = match spawned {
            Ok(supervisor) => supervisor,
            Err(error) => return Err(give_up(data, error).await),
        };
        self.operator.serve(supervisor.remote(), supervisor.log());
        self.service.ready();
        let upload_grace = self.config.shutdown.upload_grace;
        let mut app = App {
            data,
            board: self.board,
            history: Some(self.history),
            service: self.service,
            stop_note,
            remote: supervisor.remote(),
            engine: None,
            standby: None,
            engine_events,
            intake_events,
            signals: self.signals,
            reload_signal: self.reload_signal,
            rules: self.rules,
            no_more_starts: self.no_more_starts,
            engine_grace: self.config.shutdown.engine_grace,
            heartbeat_required: self.config.health.heartbeat == HeartbeatPolicy::Required,
            left: None,
            reports,
            engine_log: supervisor.log(),
            log: self.log,
            refused: BTreeSet::new(),
        };
        if app.data.plane().is_some() {
            app.on_change(Change::Opened);
        }
        let outcome = match self.asked {
            Some(signal) => app.asked_to_end(signal),
            None => app.watch().await,
        };
        app.finish(outcome, supervisor, upload_grace).await
    }

    /// Waits for the store as long as the engine has to, and gives the highest launch number that is known of.
    async fn first_open(&mut self, data: &mut Life) -> Result<u32, AppError> {
        let (runtime_dir, data_dir) = (self.runtime_dir.to_owned(), self.data_dir.to_owned());
        let is_running = self
            .blocking("the search for a running engine panicked", move || {
                supervisor::is_engine_running(&runtime_dir, &data_dir)
            })
            .await?;
        if !is_running {
            let begun = Instant::now();
            let is_needed = self.is_store_needed;
            let _more_time = is_needed.then(|| self.service.extend(OPEN_MAX));
            while data.is_opening() && self.asked.is_none() {
                let waits = async {
                    match is_needed {
                        true => std::future::pending().await,
                        false => tokio::time::sleep_until(begun + FIRST_OPEN_MAX).await,
                    }
                };
                tokio::select! {
                    biased;
                    signal = self.signals.recv() => self.ask(signal),
                    change = data.changed() => {
                        if let Change::Failed(error) = change {
                            return Err(error);
                        }
                    }
                    () = waits => {
                        warn!(
                            waited_s = FIRST_OPEN_MAX.as_secs(),
                            "the store is still being opened; the engine starts without it, records wait in its ring"
                        );
                        break;
                    }
                }
            }
        }
        let stored = data
            .plane()
            .map_or(0, |plane| plane.store().last_launch(&self.config.name));
        Ok(stored.max(link::last_launch(self.runtime_dir)))
    }

    /// Does what blocks on another thread; a signal meanwhile is noted.
    async fn blocking<T: Send + 'static>(
        &mut self,
        panic_words: &'static str,
        work: impl FnOnce() -> Result<T, SupervisorError> + Send + 'static,
    ) -> Result<T, AppError> {
        let mut work = tokio::task::spawn_blocking(work);
        loop {
            tokio::select! {
                biased;
                signal = self.signals.recv(), if self.asked.is_none() => self.ask(signal),
                done = &mut work => {
                    return match done {
                        Ok(done) => done.map_err(AppError::from),
                        Err(panic) => Err(AppError::System {
                            doing: panic_words,
                            error: std::io::Error::other(panic),
                        }),
                    };
                }
            }
        }
    }

    /// Nothing is started from now on.
    fn ask(&mut self, signal: &'static str) {
        self.no_more_starts.set();
        self.asked = Some(signal);
    }
}

/// Ends a start that came to nothing.
async fn give_up(data: Life, error: AppError) -> AppError {
    if let Ok(plane) = data.end() {
        plane.end().await;
    }
    error
}

/// Whether a store was ever made in this data directory.
fn has_log(data_dir: &Path) -> bool {
    let entries = std::fs::read_dir(data_dir.join("log"));
    entries.is_ok_and(|mut entries| entries.next().is_some())
}
