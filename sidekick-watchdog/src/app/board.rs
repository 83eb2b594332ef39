//! Gathers what every part tells into the one status that API, CLI and metrics show.
//!
//! `engine`: what is told of the engine and its standby. `store`: the store's figures. `uploads`: how far the sinks have come.

mod engine;
mod store;
mod uploads;

use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::{Duration, Instant, SystemTime};

use sidekick_ipc::Downlink;
use tokio::sync::watch;

use self::engine::{Gap, Reported};
use super::link::{RingLink, SessionLink};
use super::tell::seconds;
use crate::api::{EngineState, RegistryStatus, Status, StoreState, Totals};
use crate::intake::{AttachedSession, SessionProgress};
use crate::metrics::{Metrics, raise_to};
use crate::platform::Process;
use crate::process::OpenWindows;
use crate::registry;
use crate::store::Store;
use crate::supervisor::EngineLink;
use crate::upload;

/// The session of the running engine.
struct Current {
    launch: u32,
    link: RingLink,
    downlink: Downlink,
    progress: Arc<SessionProgress>,
}

/// All that is known, kept by the application's main loop alone.
pub(super) struct Board {
    status: Status,
    sender: watch::Sender<Status>,
    metrics: Metrics,
    started: Instant,
    engine_started: Option<Instant>,
    /// A gap whose death is not told yet.
    gap: Option<Gap>,
    /// A report whose death is not told yet.
    early: Option<Reported>,
    /// When the next start is due, while one waits.
    next_try: Option<Instant>,
    /// When an engine that was asked to quit is killed.
    killed_at: Option<Instant>,
    /// Since when the standby is in its state.
    standby_since: Option<Instant>,
    standby_process: Option<Process>,
    current: Option<Current>,
    /// Recorded in the ring and not yet committed.
    waiting: u64,
    /// Numbers lost as holes in sessions that have ended.
    holes_ended: u64,
    /// Refusals in sessions that have ended.
    refused_ended: u64,
    uploads: upload::UploadStatus,
    /// What is known of its place in a registry, where there is to be one.
    listing: Option<watch::Receiver<registry::Report>>,
    /// Why the store takes none of a session's records, session by session.
    shut_out: Vec<String>,
}

/// How the store is, beside its figures.
#[derive(Clone, Debug, Default, PartialEq)]
pub(super) struct Condition {
    pub(super) state: StoreState,
    /// Why it is not open.
    pub(super) reason: Option<String>,
    /// Until the next try.
    pub(super) next_try: Option<Duration>,
    /// How often it died or could not be opened.
    pub(super) failures: u64,
}

/// Sessions that are shown as shut out at most.
const SHUT_OUT_MAX: usize = 16;

impl Board {
    pub(super) fn new(status: Status, metrics: Metrics) -> Self {
        Self {
            sender: watch::Sender::new(status.clone()),
            status,
            metrics,
            started: Instant::now(),
            engine_started: None,
            gap: None,
            early: None,
            next_try: None,
            killed_at: None,
            standby_since: None,
            standby_process: None,
            current: None,
            waiting: 0,
            holes_ended: 0,
            refused_ended: 0,
            uploads: upload::UploadStatus::default(),
            listing: None,
            shut_out: Vec::new(),
        }
    }

    /// Shows what is known of its place in a registry from now on.
    pub(super) fn show_listing(&mut self, listing: watch::Receiver<registry::Report>) {
        self.listing = Some(listing);
        self.refresh_listing();
    }

    fn refresh_listing(&mut self) {
        let Some(listing) = &self.listing else {
            return;
        };
        let report = listing.borrow();
        self.metrics.registry_listed.set(report.id.is_some().into());
        self.status.registry = Some(RegistryStatus {
            id: report.id.clone(),
            draining: report.is_draining,
            error: report.error.clone(),
        });
    }

    pub(super) fn subscribe(&self) -> watch::Receiver<Status> {
        self.sender.subscribe()
    }

    /// All that is known, as of the last refresh.
    pub(super) fn status(&self) -> &Status {
        &self.status
    }

    /// Where the rings are.
    pub(super) fn runtime_dir(&self) -> &std::path::Path {
        &self.status.runtime_dir
    }

    /// The process that is the engine.
    pub(super) fn engine_pid(&self) -> Option<u32> {
        self.status.engine.pid
    }

    /// Counts over all sessions, as of the last refresh.
    pub(super) fn totals(&self) -> &Totals {
        &self.status.totals
    }

    /// The engine was asked to end.
    pub(super) fn stopping(&mut self) {
        self.status.engine.state = EngineState::Stopping;
    }

    /// A session's ring is found, and being drained where the store is open.
    pub(super) fn attached(&mut self, session: &AttachedSession) -> Arc<dyn EngineLink> {
        let link = RingLink {
            heartbeat: session.heartbeat.clone(),
            controls: session.controls.clone(),
            downlink: session.downlink.clone(),
            game_version: session.info.game_version.as_str().into(),
        };
        // By its pid the game knows whether we live.
        session.controls.set_watchdog();
        let launch = session.info.launch;
        if self
            .current
            .as_ref()
            .is_none_or(|current| current.launch <= launch)
        {
            let progress = Arc::clone(&session.progress);
            self.current = Some(Current {
                launch,
                link: link.clone(),
                downlink: session.downlink.clone(),
                progress,
            });
        }
        let runtime_dir = self.status.runtime_dir.clone();
        let epoch = session.info.epoch;
        Arc::new(SessionLink::new(runtime_dir, launch, epoch, link))
    }

    /// So many records are known to be missing beside what the sessions of this run tell.
    pub(super) fn missing(&mut self, count: u64) {
        self.holes_ended += count;
    }

    /// The store takes none of a session's records.
    pub(super) fn shut_out(&mut self, reason: String) {
        if self.shut_out.len() < SHUT_OUT_MAX {
            self.shut_out.push(reason);
        }
    }

    /// A session's end is committed.
    pub(super) fn ended(&mut self, launch: u32, progress: &SessionProgress) {
        // Its last numbers, which are shown until another engine connects.
        self.refresh_engine();
        self.holes_ended += progress.holes.load(Ordering::Relaxed);
        if let Some(current) = self.current.take_if(|current| current.launch == launch) {
            let refused = current.link.heartbeat.read().refused_count;
            self.refused_ended = self.refused_ended.saturating_add(refused);
        }
    }

    /// Which store this is.
    pub(super) fn group(&mut self, group: String) {
        self.status.group = group;
    }

    /// The store is gone, and with it what it had refused.
    pub(super) fn store_closed(&mut self) {
        self.shut_out.clear();
        self.status.store.shut_out.clear();
    }

    /// Makes the status anew and shows it. Without a store its figures stay as they were.
    pub(super) fn refresh(
        &mut self,
        store: Option<(&Store, OpenWindows)>,
        condition: Condition,
        lines_dropped: u64,
    ) {
        self.refresh_engine();
        self.refresh_listing();
        if let Some((store, open)) = store {
            self.refresh_store(store);
            self.refresh_folding(store.unfolded_numbers(), open);
            self.refresh_uploads(store);
        }
        self.metrics
            .store_up
            .set((condition.state == StoreState::Open).into());
        raise_to(&self.metrics.store_failures, condition.failures);
        self.status.store.state = condition.state;
        self.status.store.failed = condition.reason;
        self.status.store.next_try_s = condition.next_try.map(seconds);
        raise_to(&self.metrics.log_lines_dropped, lines_dropped);
        self.status.uptime_s = seconds(self.started.elapsed());
        self.sender.send_replace(self.status.clone());
    }
}

fn age(time: SystemTime) -> Option<Duration> {
    SystemTime::now().duration_since(time).ok()
}
