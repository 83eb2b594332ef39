//! The data plane: store, intake, uploads and the storing of crash reports; what [`super::App`] holds while records can be
//! stored, and goes on without while they cannot.
//!
//! Engine, supervisor, orders and status live outside of it. A plane that is opened takes up where the last one stood, in
//! this process or an earlier one: it knows nothing but what lies on disk and in the rings. When it is opened and closed:
//! [`life`].

#[cfg(test)]
mod conservation;
pub(super) mod life;

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use tokio::runtime::Handle;
use tokio::sync::{mpsc, oneshot, watch};
use tokio::task::{JoinHandle, JoinSet};
use tracing::{debug, warn};

use super::committer::StoreCommitter;
use super::crashes;
use super::ends;
use super::folding;
use super::letters::{self, OpenLetters};
use super::names::Names;
use super::outbox::StoreOutbox;
use super::rules::LiveRules;
use super::tree::OpenTree;
use super::{AppError, LAST_GRACE, parts};
use crate::config::Config;
use crate::crash::CrashReport;
use crate::crash::keep::CrashFolder;
use crate::intake::{Intake, IntakeConfig, IntakeEvent};
use crate::metrics::Metrics;
use crate::process::OpenWindows;
use crate::slab::{Slab, SlabHead};
use crate::store::{Store, StoreConfig};
use crate::upload::{self, Drive, Sink, UploadStatus};

/// How long the watchdog's end waits for the store to close. What was acknowledged is durable long before.
const STORE_END_MAX: Duration = Duration::from_secs(30);

/// What each plane of this watchdog is made of.
#[derive(Clone, Debug)]
pub(super) struct Setup {
    pub(super) config: Arc<Config>,
    pub(super) rules: Arc<LiveRules>,
    pub(super) store: StoreConfig,
    pub(super) data_dir: PathBuf,
    pub(super) runtime_dir: PathBuf,
    /// What intake tells; the receiver must be read while a plane is being closed.
    pub(super) events: mpsc::Sender<IntakeEvent>,
    /// What the API asks, as long as the plane is open.
    pub(super) tree: Arc<OpenTree>,
    /// What the API asks for dead letters.
    pub(super) letters: Arc<OpenLetters>,
    pub(super) metrics: Metrics,
}

/// An open data plane. To drop it without closing it leaves its threads to themselves.
#[derive(Debug)]
pub(super) struct Plane {
    store: Arc<Store>,
    /// Until it is stopped.
    intake: Option<Intake>,
    rules: Arc<LiveRules>,
    drive: watch::Sender<Drive>,
    lanes: JoinSet<()>,
    uploads: watch::Receiver<UploadStatus>,
    open_windows: watch::Receiver<OpenWindows>,
    /// The way of crash reports into the store, until it is closed.
    reports: Option<(mpsc::Sender<CrashReport>, JoinHandle<()>)>,
    /// Sessions whose ring was gone.
    vanished: u64,
    tree: Arc<OpenTree>,
}

impl Plane {
    /// Opens the store, which reads the log, and starts everything around it. Intake takes nothing before it is told
    /// which launch is the engine ([`Plane::expect`]).
    ///
    /// # Errors
    /// What is wrong with the store and what to do. Nothing runs on then.
    pub(super) async fn open(setup: Setup, sinks: Vec<Arc<dyn Sink>>) -> Result<Self, AppError> {
        let store = Arc::new(Store::open(setup.store.clone()).await?);
        match Self::around(Arc::clone(&store), &setup, sinks).await {
            Ok(plane) => Ok(plane),
            Err(error) => {
                store.shutdown().await;
                Err(error)
            }
        }
    }

    async fn around(
        store: Arc<Store>,
        setup: &Setup,
        sinks: Vec<Arc<dyn Sink>>,
    ) -> Result<Self, AppError> {
        let lanes = sinks
            .iter()
            .map(|sink| (sink.name().to_owned(), sink.lanes()))
            .collect();
        store.set_sinks(lanes).await?;
        let (data_dir, name) = (setup.data_dir.clone(), setup.config.name.clone());
        let names = tokio::task::spawn_blocking(move || Names::remember(&data_dir, &name)).await;
        let names = names
            .unwrap_or_else(|panic| Err(std::io::Error::other(panic)))
            .map_err(|error| AppError::System {
                doing: "the data directory's list of names cannot be kept",
                error,
            })?;
        let vanished = end_vanished_sessions(&store, &names, &setup.runtime_dir).await?;
        setup.rules.join(&store).await?;
        let folds = setup.rules.folds();
        if !folds.borrow().is_empty() {
            store.set_folding(true).await?;
        }
        let (drive, driven) = watch::channel(Drive::Run);
        let keep = setup.config.upload.dead_letters_keep;
        let expiry = letters::expire(Arc::clone(&store), keep, driven.clone());
        let engine = upload::Engine::new(
            Arc::new(StoreOutbox(Arc::clone(&store))),
            sinks,
            parts::upload(&setup.config),
            driven,
        )
        .shaped_by(setup.rules.clone());
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
        let tasks = engine.tasks().await?;
        let intake = spawn_intake(&store, setup, names)?;
        let mut lanes = JoinSet::new();
        lanes.spawn(expiry);
        let source = setup.config.name.clone();
        let (windows, open_windows) = watch::channel(OpenWindows::default());
        lanes.spawn(folding::run(
            Arc::clone(&store),
            source,
            folds,
            windows,
            drive.subscribe(),
        ));
        setup.letters.open(&store);
        for (name, task) in tasks {
            lanes.spawn(async move {
                let end = task.await;
                debug!(lane = name, ?end, "upload lane ended");
            });
        }
        let (reports, to_store) = mpsc::channel(crashes::REPORTS_MAX);
        let (again, reminders) = mpsc::channel(1);
        lanes.spawn(crashes::remind(again));
        let storing = crashes::store_reports(
            Arc::clone(&store),
            CrashFolder::new(&setup.data_dir),
            to_store,
            reminders,
        );
        // It reads and marks files, which a worker thread must not wait for.
        let runtime = Handle::current();
        let stored = tokio::task::spawn_blocking(move || runtime.block_on(storing));
        setup.tree.open(&store);
        Ok(Self {
            tree: Arc::clone(&setup.tree),
            store,
            intake: Some(intake),
            rules: Arc::clone(&setup.rules),
            drive,
            lanes,
            uploads,
            open_windows,
            reports: Some((reports, stored)),
            vanished,
        })
    }

    pub(super) fn store(&self) -> &Arc<Store> {
        &self.store
    }

    /// The windows that are open, as of the last step of folding.
    pub(super) fn open_windows(&self) -> OpenWindows {
        *self.open_windows.borrow()
    }

    pub(super) fn vanished(&self) -> u64 {
        self.vanished
    }

    /// This launch is the engine.
    pub(super) fn expect(&self, launch: u32) {
        if let Some(intake) = &self.intake {
            intake.expect(launch);
        }
    }

    /// This launch waits to become the engine.
    pub(super) fn stands_by(&self, launch: u32) {
        if let Some(intake) = &self.intake {
            intake.stands_by(launch);
        }
    }

    /// An engine died.
    pub(super) fn rescan(&self) {
        if let Some(intake) = &self.intake {
            intake.rescan();
        }
    }

    /// Stores a report. One that finds no room is taken from its file later.
    pub(super) fn report(&self, report: CrashReport) {
        if let Some((reports, _)) = &self.reports {
            let _ = reports.try_send(report);
        }
    }

    /// The uploads as they are now.
    pub(super) fn uploads(&mut self) -> UploadStatus {
        self.uploads.borrow_and_update().clone()
    }

    /// Waits for news of the uploads.
    pub(super) async fn uploads_changed(&mut self) {
        if self.uploads.changed().await.is_err() {
            // No lane is left.
            std::future::pending::<()>().await;
        }
    }

    /// Asks the store for a word; the answer comes when it has.
    pub(super) fn ask(&self) -> oneshot::Receiver<()> {
        let (answer, answered) = oneshot::channel();
        let store = Arc::clone(&self.store);
        tokio::spawn(async move {
            if store.is_answering().await {
                let _ = answer.send(());
            }
        });
        answered
    }

    /// The end of the watchdog begins: uploads send what there is at once. Gives the intake, to be stopped by who takes
    /// its events meanwhile.
    pub(super) fn begin_end(&mut self) -> Option<Intake> {
        self.drive.send_replace(Drive::Drain);
        self.intake.take()
    }

    /// Reports of the last deaths are stored before the uploads get their grace. What the store does not take now, the
    /// next start gives it.
    pub(super) async fn end_reports(&mut self) {
        let Some((sender, stored)) = self.reports.take() else {
            return;
        };
        drop(sender);
        if tokio::time::timeout(LAST_GRACE, stored).await.is_err() {
            warn!("crash reports wait for the store; the next start stores them");
        }
    }

    /// Waits until all sinks have everything up to and with this log entry.
    pub(super) async fn uploaded(&mut self, index: u64) {
        let _ = self
            .uploads
            .wait_for(|uploads| uploads.is_through(index))
            .await;
    }

    /// Closes the plane at the watchdog's end, within bounds: what does not end then ends with the process.
    pub(super) async fn end(mut self) {
        self.tree.close();
        // A start that came to nothing ends here without more; who reminds of reports ends with their channel.
        self.end_reports().await;
        self.drive.send_replace(Drive::Stop);
        let lanes = async { while self.lanes.join_next().await.is_some() {} };
        if tokio::time::timeout(LAST_GRACE, lanes).await.is_err() {
            warn!("an upload did not end in time; left behind");
        }
        let closed = tokio::time::timeout(STORE_END_MAX, self.store.shutdown());
        if closed.await.is_err() {
            warn!("the store waits for its disk; what was acknowledged is durable");
        }
    }

    /// Closes the plane, for another one to be opened. When this returns nothing of it touches rings, log, state or
    /// reports any more; it takes as long as the disk does for what is under way.
    pub(super) async fn close(mut self) {
        self.tree.close();
        self.drive.send_replace(Drive::Stop);
        if let Some(intake) = self.intake.take() {
            // Its drains end: each answer of a dead store is that it is closed.
            let _ = tokio::task::spawn_blocking(move || intake.stop()).await;
        }
        if let Some((sender, stored)) = self.reports.take() {
            drop(sender);
            let _ = stored.await;
        }
        while self.lanes.join_next().await.is_some() {}
        self.rules.leave();
        self.store.shutdown().await;
    }
}

fn spawn_intake(store: &Arc<Store>, setup: &Setup, names: Names) -> Result<Intake, AppError> {
    let events = setup.events.clone();
    Intake::spawn(
        IntakeConfig {
            runtime_dir: setup.runtime_dir.clone(),
            source: setup.config.name.clone(),
            slab_bytes_max: parts::slab_bytes_max(&setup.config),
            in_flight_bytes_max: parts::in_flight_bytes_max(&setup.config),
        },
        Arc::new(StoreCommitter {
            store: Arc::clone(store),
            runtime: Handle::current(),
            names,
            rules: Arc::clone(&setup.rules),
            metrics: setup.metrics.clone(),
        }),
        Arc::new(move |event| {
            // Intake's threads may wait for us: the main loop never waits for them while it takes events.
            let _ = events.blocking_send(event);
        }),
    )
    .map_err(|error| AppError::System {
        doing: "the intake thread cannot start",
        error,
    })
}

/// Ends sessions whose ring is gone (a reboot, a cleaned `/dev/shm`): what they still held is unknown, and the store
/// says so with a gap (CORRECTNESS rule 8). Returns how many there were.
pub(super) async fn end_vanished_sessions(
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
        if let Err(error) = ends::note(store, &owner, epoch).await {
            warn!(%epoch, %error, "the end of this session is not recorded");
        }
        ended += 1;
    }
    Ok(ended)
}
