//! Gathers what every part tells into the one status that API, CLI and metrics show.

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::sync::atomic::Ordering;
use std::sync::{Arc, PoisonError};
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use sidekick_ipc::Downlink;
use tokio::sync::watch;
use tracing::{info, warn};

use super::link::{RingLink, SessionLink};
use super::quota;
use super::tell::seconds;
use crate::api::{
    BooksStatus, DEATHS_KEPT, Death, EngineState, EngineStatus, FoldingStatus, QuotaLevel,
    RegistryStatus, SessionStatus, SinkStatus, StandbyState, StandbyStatus, Status, StoreState,
    StoreStatus, Totals, UploadStatus,
};
use crate::books::SinkBooks;
use crate::event::EngineEvent;
use crate::intake::{AttachedSession, SessionProgress};
use crate::metrics::{Metrics, raise_to};
use crate::platform::Process;
use crate::process::OpenWindows;
use crate::registry;
use crate::store::Store;
use crate::supervisor::EngineLink;
use crate::upload::{self, SinkState};

/// The session of the running engine.
struct Current {
    launch: u32,
    link: RingLink,
    downlink: Downlink,
    progress: Arc<SessionProgress>,
}

/// From a death to the start after it.
#[derive(Clone, Copy)]
struct Gap {
    /// Who died; 0 where that is not known.
    dead: u32,
    ms: f64,
}

impl Gap {
    fn is_of(&self, death: u32) -> bool {
        self.dead == 0 || self.dead == death
    }
}

/// What a report says of a death.
struct Reported {
    incarnation: u32,
    cause: String,
    report_id: String,
    path: PathBuf,
}

impl Reported {
    fn is_of(&self, death: u32) -> bool {
        self.incarnation == death
    }

    /// The report knows better why it died: Godot ends with SIGABRT whatever it caught.
    fn refine(self, death: &mut Death) {
        death.cause = self.cause;
        death.report_id = Some(self.report_id);
        death.report = Some(self.path);
    }
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

    /// Takes note of what happened to the engine.
    pub(super) fn engine(&mut self, event: &EngineEvent) {
        let engine = &mut self.status.engine;
        match event {
            EngineEvent::Started {
                incarnation,
                pid,
                gap,
                standby,
                ..
            } => {
                let dead = engine.incarnation;
                *engine = EngineStatus {
                    state: EngineState::Starting,
                    incarnation: *incarnation,
                    pid: Some(*pid),
                    ready_required: engine.ready_required,
                    heartbeat_required: engine.heartbeat_required,
                    failed_starts: engine.failed_starts,
                    starts: engine.starts + 1,
                    last_deaths: std::mem::take(&mut engine.last_deaths),
                    ..EngineStatus::default()
                };
                if *standby {
                    self.status.standby = None;
                    self.standby_since = None;
                    self.status.promotions += 1;
                }
                // An adopted engine's death may be told after the next start, when its cause has come to be known.
                if let Some(gap) = gap {
                    let ms = gap.as_secs_f64() * 1000.0;
                    let gap = Gap { dead, ms };
                    let mut deaths = engine.last_deaths.iter_mut().rev();
                    match deaths.find(|death| gap.is_of(death.incarnation)) {
                        Some(death) => death.gap_ms = Some(ms),
                        None => self.gap = Some(gap),
                    }
                }
                self.next_try = None;
                self.metrics.engine_crash_loop.set(0);
                self.engine_started = Some(Instant::now());
                self.metrics.started(*incarnation, *gap);
            }
            EngineEvent::Adopted {
                incarnation,
                pid,
                uptime,
                ring_lost,
            } => {
                engine.ring_lost = *ring_lost;
                self.engine_started = Instant::now().checked_sub(*uptime);
                engine.state = EngineState::Running;
                engine.incarnation = *incarnation;
                engine.pid = Some(*pid);
                self.metrics.engine_incarnation.set(i64::from(*incarnation));
                self.metrics.engine_up.set(1);
            }
            EngineEvent::Connected { in_main_loop, .. } => {
                engine.connected = true;
                // An adopted one was taken for running as long as nobody could tell.
                if matches!(engine.state, EngineState::Starting | EngineState::Running) {
                    engine.state = match in_main_loop {
                        true => EngineState::Running,
                        false => EngineState::Starting,
                    };
                }
            }
            EngineEvent::Running { .. } => {
                if engine.state == EngineState::Starting {
                    engine.state = EngineState::Running;
                }
            }
            EngineEvent::Ready { .. } => engine.ready = true,
            EngineEvent::Hung { .. } => engine.state = EngineState::Hung,
            EngineEvent::Died {
                incarnation,
                cause,
                uptime,
                frame,
                as_asked,
                ..
            } => {
                let is_late = *incarnation < engine.incarnation;
                let gap = self
                    .gap
                    .take_if(|gap| is_late && gap.is_of(*incarnation))
                    .map(|gap| gap.ms);
                let deaths = engine.last_deaths.iter();
                let earlier = deaths
                    .rev()
                    .skip_while(|death| death.incarnation > *incarnation);
                let place = earlier.count();
                let mut death = Death {
                    incarnation: *incarnation,
                    cause: cause.to_string(),
                    gap_ms: gap,
                    uptime_s: uptime.map(seconds),
                    frame: *frame,
                    as_asked: *as_asked,
                    time: now(),
                    report_id: None,
                    report: None,
                };
                // It comes by a way of its own.
                if let Some(early) = self.early.take_if(|early| early.is_of(*incarnation)) {
                    early.refine(&mut death);
                }
                // Told by a watchdog before us, too, which was killed before it could note that.
                let is_known =
                    place > 0 && engine.last_deaths[place - 1].incarnation == *incarnation;
                if !is_known {
                    engine.last_deaths.insert(place, death);
                }
                let surplus = engine.last_deaths.len().saturating_sub(DEATHS_KEPT);
                engine.last_deaths.drain(..surplus);
                self.metrics.died(cause);
                if is_late {
                    self.metrics.engine_up.set(engine.pid.is_some().into());
                    return;
                }
                engine.pid = None;
                engine.uptime_s = None;
                engine.connected = false;
                engine.ring_lost = false;
                engine.ready = false;
                self.engine_started = None;
                self.killed_at = None;
            }
            EngineEvent::Reported {
                incarnation,
                cause,
                report_id,
                path,
            } => {
                let report = Reported {
                    incarnation: *incarnation,
                    cause: cause.clone(),
                    report_id: report_id.clone(),
                    path: path.clone(),
                };
                let mut deaths = engine.last_deaths.iter_mut().rev();
                match deaths.find(|death| report.is_of(death.incarnation)) {
                    Some(death) => report.refine(death),
                    None => self.early = Some(report),
                }
            }
            EngineEvent::StartFailed { error, .. } => {
                engine.state = EngineState::Backoff;
                engine.failed_starts += 1;
                engine.start_error = Some(error.clone());
            }
            EngineEvent::CrashLoop { .. } => engine.state = EngineState::CrashLoop,
            EngineEvent::Backoff { delay, crash_loop } => {
                engine.state = match crash_loop {
                    true => EngineState::CrashLoop,
                    false => EngineState::Backoff,
                };
                self.next_try = Some(Instant::now() + *delay);
                self.metrics.engine_crash_loop.set((*crash_loop).into());
            }
            EngineEvent::GaveUp { .. } => {
                engine.state = EngineState::GaveUp;
                self.no_try_waits();
            }
            EngineEvent::Stopping { grace, .. } => {
                engine.state = EngineState::Stopping;
                self.killed_at = Some(Instant::now() + *grace);
            }
            EngineEvent::Stopped { .. } => {
                engine.state = EngineState::Stopped;
                self.no_try_waits();
            }
            EngineEvent::Ending { .. } | EngineEvent::Planned { .. } => {
                engine.state = EngineState::Stopping;
            }
            EngineEvent::SafeStart { .. } => engine.state = EngineState::Backoff,
            EngineEvent::StandbyStarted {
                incarnation, pid, ..
            } => {
                self.standby_since = Some(Instant::now());
                self.standby_process = Process::open(*pid, None).ok();
                self.status.standby = Some(StandbyStatus {
                    incarnation: *incarnation,
                    pid: *pid,
                    ..StandbyStatus::default()
                });
            }
            EngineEvent::StandbyParked { .. } => {
                if let Some(standby) = &mut self.status.standby {
                    standby.state = StandbyState::Parked;
                    self.standby_since = Some(Instant::now());
                }
            }
            EngineEvent::StandbyEnded { incarnation, .. } => {
                let ended = |standby: &mut StandbyStatus| standby.incarnation == *incarnation;
                self.status.standby.take_if(ended);
            }
            EngineEvent::Unconnected { incarnation, .. } => {
                // Nothing more is to be waited for of a program that may do without the extension.
                let is_it = engine.incarnation == *incarnation && engine.pid.is_some();
                let is_up = is_it && !engine.heartbeat_required;
                if is_up && engine.state == EngineState::Starting {
                    engine.state = EngineState::Running;
                }
            }
            EngineEvent::MemoryHigh { .. } | EngineEvent::Unfit { .. } => {}
        }
    }

    fn no_try_waits(&mut self) {
        self.next_try = None;
        self.metrics.engine_crash_loop.set(0);
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
            self.refused_ended += current.link.heartbeat.read().refused_count;
        }
    }

    /// The uploader has told something; the engine learns how far its own records have come.
    pub(super) fn uploads(&mut self, uploads: upload::UploadStatus) {
        let before = std::mem::replace(&mut self.uploads, uploads);
        if let Some(current) = &self.current {
            for sentence in parked(&before, &self.uploads) {
                // A full downlink means that the game does not look; status and log have it too.
                let _ = current.downlink.notice(&sentence);
            }
            current
                .link
                .controls
                .set_uploaded(self.uploaded_of(current));
        }
    }

    fn uploaded_of(&self, current: &Current) -> u64 {
        let committed = current.progress.committed.load(Ordering::Acquire);
        if self.uploads.sinks.is_empty() {
            return committed;
        }
        let level = self
            .uploads
            .uploaded
            .iter()
            .find(|(epoch, _)| *epoch == current.progress.epoch);
        level.map_or(0, |(_, seq)| (*seq).min(committed))
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

    fn refresh_standby(&mut self) {
        if let Some(standby) = &mut self.status.standby {
            standby.since_s = self.standby_since.map_or(0.0, |at| seconds(at.elapsed()));
            let process = self.standby_process.as_ref();
            standby.resident_bytes = process.and_then(Process::resident_bytes);
        }
        let standby = self.status.standby.as_ref();
        let is_parked = standby.is_some_and(|standby| standby.state == StandbyState::Parked);
        let resident_bytes = standby.and_then(|standby| standby.resident_bytes);
        let metrics = &self.metrics;
        metrics.standby_up.set(standby.is_some().into());
        metrics.standby_parked.set(is_parked.into());
        metrics
            .standby_resident_bytes
            .set(i64::try_from(resident_bytes.unwrap_or(0)).unwrap_or(i64::MAX));
        raise_to(&metrics.standby_promotions, self.status.promotions);
    }

    fn refresh_engine(&mut self) {
        let engine = &mut self.status.engine;
        engine.uptime_s = self.engine_started.map(|at| seconds(at.elapsed()));
        engine.grace_left_s = self
            .killed_at
            .map(|at| seconds(at.saturating_duration_since(Instant::now())));
        engine.next_try_s = self
            .next_try
            .map(|at| seconds(at.saturating_duration_since(Instant::now())));
        self.refresh_standby();
        let (mut holes, mut refused) = (self.holes_ended, self.refused_ended);
        self.waiting = 0;
        if let Some(current) = &self.current {
            current.link.controls.beat();
            let beat = current.link.heartbeat.read();
            let committed = current.progress.committed.load(Ordering::Acquire);
            let recorded = current.progress.recorded.load(Ordering::Relaxed);
            let uploaded = self.uploaded_of(current);
            self.waiting = recorded.saturating_sub(committed);
            self.metrics
                .ring_records
                .set(i64::try_from(self.waiting).unwrap_or(i64::MAX));
            holes += current.progress.holes.load(Ordering::Relaxed);
            refused += beat.refused_count;
            // While the next engine starts, this is the session of the last one.
            if current.launch == self.status.engine.incarnation {
                self.status.engine.frame = Some(beat.frames);
                self.status.engine.game_version = current.link.game_version.to_string();
            }
            self.status.session = Some(SessionStatus {
                epoch: current.progress.epoch.to_string(),
                recorded: Some(recorded.max(committed)),
                committed,
                uploaded,
                backlog: recorded.max(committed).saturating_sub(uploaded),
                refused: beat.refused_count,
                holes: current.progress.holes.load(Ordering::Relaxed),
            });
        }
        self.status.totals.gaps = holes;
        raise_to(&self.metrics.records_missing, holes);
        raise_to(&self.metrics.records_refused, refused);
    }

    fn refresh_store(&mut self, store: &Store) {
        let stats = store.stats();
        self.status.store = StoreStatus {
            log_bytes: stats.log.log_bytes,
            disk_quota_bytes: stats.disk_quota,
            quota: self.quota(stats.log.log_bytes, stats.disk_quota),
            applied: stats.applied,
            shut_out: self.shut_out.clone(),
            last_fsync_us: Some(stats.log.last_sync_us),
            waits: self.current.as_ref().and_then(|current| {
                let waits = current.progress.waits.lock();
                waits.unwrap_or_else(PoisonError::into_inner).clone()
            }),
            rotten: store.rotten().map(ToString::to_string).collect(),
            ..StoreStatus::default()
        };
        let rotten = self.status.store.rotten.len();
        self.metrics
            .store_rotten_entries
            .set(i64::try_from(rotten).unwrap_or(i64::MAX));
        raise_to(&self.metrics.store_fsyncs, stats.log.syncs);
        self.metrics
            .store_fsync_last_seconds
            .set(stats.log.last_sync_us as f64 / 1e6);
        self.metrics
            .store_log_bytes
            .set(i64::try_from(stats.log.log_bytes).unwrap_or(i64::MAX));
        self.metrics
            .store_quota_bytes
            .set(i64::try_from(stats.disk_quota).unwrap_or(i64::MAX));
        self.metrics
            .store_quota_low
            .set((self.status.store.quota == QuotaLevel::Low).into());
        let recorded: u64 = store.totals().values().map(|source| source.committed).sum();
        // What the watchdog records itself is uploaded as well.
        let committed = recorded.saturating_add(store.derived_records());
        raise_to(&self.metrics.records_committed, committed);
        self.status.totals = Totals {
            committed,
            uploaded: BTreeMap::new(),
            gaps: self.status.totals.gaps,
        };
    }

    fn refresh_folding(&mut self, waiting: Option<u64>, open: OpenWindows) {
        self.status.store.folding = waiting.map(|waiting| {
            let oldest = open.oldest_ns.map(Duration::from_nanos);
            let oldest = oldest.and_then(|since_1970| UNIX_EPOCH.checked_add(since_1970));
            FoldingStatus {
                waiting,
                open_windows: open.count,
                oldest_window: oldest
                    .and_then(|oldest| jiff::Timestamp::try_from(oldest).ok())
                    .map(|oldest| oldest.to_string()),
                oldest_window_age_s: oldest.map(|oldest| age(oldest).map_or(0.0, seconds)),
            }
        });
        let folding = self.status.store.folding.as_ref();
        let waiting = folding.map_or(0, |folding| folding.waiting);
        let age_s = folding.and_then(|folding| folding.oldest_window_age_s);
        self.metrics
            .folding_waiting_records
            .set(i64::try_from(waiting).unwrap_or(i64::MAX));
        self.metrics
            .folding_oldest_window_seconds
            .set(age_s.unwrap_or(0.0));
    }

    /// Tells engine, developer and operator how near the log is to its quota.
    fn quota(&self, log_bytes: u64, disk_quota: u64) -> QuotaLevel {
        let before = self.status.store.quota;
        let now = quota::level(before, log_bytes, disk_quota);
        let sentence = quota::sentence(before, now);
        if let Some(sentence) = &sentence {
            let is_better = now < before;
            match is_better {
                true => info!(log_bytes, disk_quota, "{sentence}"),
                false => warn!(log_bytes, disk_quota, "{sentence}"),
            }
        }
        if let Some(current) = &self.current {
            // A level, told each time: an engine that was adopted, or has gone on to another file, knows nothing yet.
            current.link.controls.set_disk_low(now == QuotaLevel::Low);
            if let Some(sentence) = sentence {
                // A full downlink means that the game does not look; status and log have it too.
                let _ = current.downlink.notice(&sentence);
            }
        }
        now
    }

    fn refresh_uploads(&mut self, store: &Store) {
        self.status.upload = UploadStatus {
            sinks: Vec::with_capacity(self.uploads.sinks.len()),
        };
        let committed = self.status.totals.committed;
        let mut backlog = 0;
        for sink in &self.uploads.sinks {
            let (books, committed_numbers) = store.books(&sink.name);
            self.metrics
                .tell_books(&sink.name, &books, committed_numbers);
            let uploaded = store
                .lanes(&sink.name)
                .iter()
                .map(|lane| lane.records)
                .sum();
            // Where a sink does not know yet what it began with, rows taken are the best guess.
            let pending = books.pending(committed_numbers);
            backlog = backlog.max(pending.unwrap_or_else(|| committed.saturating_sub(uploaded)));
            self.status
                .totals
                .uploaded
                .insert(sink.name.clone(), uploaded);
            raise_to(&self.metrics.uploaded(&sink.name), uploaded);
            raise_to(&self.metrics.retries(&sink.name), sink.failures);
            let (state, reason) = match &sink.state {
                SinkState::Ok => ("ok", None),
                SinkState::Retrying { reason } => ("retrying", Some(reason.clone())),
                SinkState::Parked { reason } => ("parked", Some(reason.clone())),
            };
            self.status.upload.sinks.push(SinkStatus {
                name: sink.name.clone(),
                state: state.to_owned(),
                reason,
                records: uploaded,
                last_success_age_s: sink.last_success.and_then(age).map(seconds),
                books: books_status(&books, committed_numbers),
            });
        }
        self.metrics
            .backlog_records
            .set(i64::try_from(backlog.saturating_add(self.waiting)).unwrap_or(i64::MAX));
    }
}

fn books_status(books: &SinkBooks, committed: u64) -> BooksStatus {
    let counts = &books.counts;
    BooksStatus {
        uploaded: counts.records,
        notes: counts.notes,
        lost: counts.lost,
        requests: counts.requests,
        dropped: counts.dropped.clone(),
        dead: books.dead,
        pending: books.pending(committed),
        dead_letters: books.letters_now,
        replayed: books.replayed,
    }
}

/// Sentences about sinks that wait for somebody to repair something since `before`.
fn parked(before: &upload::UploadStatus, now: &upload::UploadStatus) -> Vec<String> {
    let was_parked = |name: &str| {
        let sink = before.sinks.iter().find(|sink| sink.name == name);
        sink.is_some_and(|sink| matches!(sink.state, SinkState::Parked { .. }))
    };
    let told = now.sinks.iter().filter_map(|sink| match &sink.state {
        SinkState::Parked { reason } if !was_parked(&sink.name) => Some(format!(
            "uploads to {} stand still, nothing is lost: {reason}",
            sink.name
        )),
        _ => None,
    });
    told.collect()
}

fn age(time: SystemTime) -> Option<Duration> {
    SystemTime::now().duration_since(time).ok()
}

fn now() -> String {
    jiff::Timestamp::now().to_string()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::event::DeathCause;

    fn died(incarnation: u32) -> EngineEvent {
        EngineEvent::Died {
            incarnation,
            pid: 1,
            cause: DeathCause::Unknown,
            log: None,
            uptime: None,
            frame: None,
            as_asked: false,
            success: false,
        }
    }

    fn started(incarnation: u32, gap_ms: u64) -> EngineEvent {
        EngineEvent::Started {
            incarnation,
            pid: 1,
            gap: Some(Duration::from_millis(gap_ms)),
            log: std::path::PathBuf::new(),
            standby: false,
        }
    }

    #[test]
    fn a_standby_is_counted_from_its_boot_to_its_promotion() {
        let mut board = Board::new(Status::default(), Metrics::new());
        let mut look = |event: Option<EngineEvent>| {
            if let Some(event) = event {
                board.engine(&event);
            }
            board.refresh_standby();
            let metrics = &board.metrics;
            let is_big = metrics.standby_resident_bytes.get() > 100_000;
            let (up, parked) = (metrics.standby_up.get(), metrics.standby_parked.get());
            (up, parked, is_big, metrics.standby_promotions.get())
        };
        assert_eq!(look(None), (0, 0, false, 0));
        let boots = EngineEvent::StandbyStarted {
            incarnation: 2,
            pid: std::process::id(),
            adopted: false,
        };
        assert_eq!(look(Some(boots)), (1, 0, true, 0));
        let parked = EngineEvent::StandbyParked {
            incarnation: 2,
            after: Duration::ZERO,
        };
        assert_eq!(look(Some(parked)), (1, 1, true, 0));
        let promoted = EngineEvent::Started {
            incarnation: 2,
            pid: 1,
            gap: None,
            log: PathBuf::new(),
            standby: true,
        };
        assert_eq!(look(Some(promoted)), (0, 0, false, 1));
    }

    /// Also where it is told after the next start, or after the next death.
    #[test]
    fn each_death_has_its_own_gap() {
        let mut board = Board::new(Status::default(), Metrics::new());
        board.engine(&EngineEvent::Adopted {
            incarnation: 22,
            pid: 1,
            uptime: Duration::ZERO,
            ring_lost: false,
        });
        for event in [started(23, 5), died(23), started(24, 7), died(22), died(24)] {
            board.engine(&event);
        }
        let deaths = board.status.engine.last_deaths.iter();
        let gaps: Vec<_> = deaths
            .map(|death| (death.incarnation, death.gap_ms))
            .collect();
        assert_eq!(gaps, [(22, Some(5.0)), (23, Some(7.0)), (24, None)]);
    }

    /// Whichever comes first: the status says what the report says, once.
    #[test]
    fn the_status_has_the_reports_cause() {
        let reported = || EngineEvent::Reported {
            incarnation: 7,
            cause: "segmentation fault (SIGSEGV)".to_owned(),
            report_id: "x".to_owned(),
            path: PathBuf::from("/x.json"),
        };
        for events in [
            vec![died(6), died(7), reported()],
            vec![died(6), reported(), died(7)],
            // Told by the watchdog before us, which was killed in it, and by us.
            vec![died(6), died(7), reported(), died(7), reported()],
            vec![died(6), died(7), died(7), reported()],
        ] {
            let mut board = Board::new(Status::default(), Metrics::new());
            for event in &events {
                board.engine(event);
            }
            let deaths = board.status.engine.last_deaths.iter();
            let causes: Vec<_> = deaths
                .map(|death| (death.incarnation, death.cause.as_str()))
                .collect();
            let unknown = DeathCause::Unknown.to_string();
            assert_eq!(
                causes,
                [(6, &*unknown), (7, "segmentation fault (SIGSEGV)")],
                "{events:?}"
            );
        }
    }

    #[test]
    fn a_program_that_may_do_without_the_extension_runs_once_its_startup_time_is_over() {
        let unconnected = EngineEvent::Unconnected {
            incarnation: 2,
            after: Duration::from_secs(60),
        };
        for heartbeat_required in [false, true] {
            let mut board = Board::new(Status::default(), Metrics::new());
            board.status.engine.heartbeat_required = heartbeat_required;
            board.engine(&started(2, 5));
            assert!(board.status.unready_reason().is_some());
            board.engine(&unconnected);
            let is_ready = board.status.unready_reason().is_none();
            assert_eq!(is_ready, !heartbeat_required);
            board.engine(&died(2));
            board.engine(&EngineEvent::Stopped { asked: true });
            board.engine(&unconnected);
            assert_eq!(board.status.engine.state, EngineState::Stopped);
        }
    }

    /// Its ring is there long before its first frame, while it loads; an adopted one is taken for running until its ring
    /// says otherwise; who was asked to end does not run again.
    #[test]
    fn it_runs_from_its_first_frame_on() {
        let connected = |in_main_loop| EngineEvent::Connected {
            incarnation: 2,
            in_main_loop,
        };
        let adopted = EngineEvent::Adopted {
            incarnation: 2,
            pid: 1,
            uptime: Duration::ZERO,
            ring_lost: false,
        };
        let running = EngineEvent::Running {
            incarnation: 2,
            after: Duration::from_secs(9),
        };
        let stopping = EngineEvent::Stopping {
            incarnation: 2,
            grace: Duration::ZERO,
        };
        let table = [
            (vec![started(2, 5)], EngineState::Starting),
            (vec![started(2, 5), connected(false)], EngineState::Starting),
            (
                vec![started(2, 5), connected(false), running.clone()],
                EngineState::Running,
            ),
            (vec![started(2, 5), connected(true)], EngineState::Running),
            (vec![adopted.clone()], EngineState::Running),
            (vec![adopted.clone(), connected(true)], EngineState::Running),
            (vec![adopted, connected(false)], EngineState::Starting),
            (
                vec![started(2, 5), stopping, connected(false), running],
                EngineState::Stopping,
            ),
        ];
        for (events, state) in table {
            let mut board = Board::new(Status::default(), Metrics::new());
            board.status.engine.heartbeat_required = true;
            for event in &events {
                board.engine(event);
            }
            assert_eq!(board.status.engine.state, state, "{events:?}");
            let is_ready = board.status.unready_reason().is_none();
            let is_up = state == EngineState::Running && board.status.engine.connected;
            assert!(!is_ready || is_up, "{events:?}");
        }
    }

    #[test]
    fn a_crash_loop_is_told_until_the_next_try() {
        let mut board = Board::new(Status::default(), Metrics::new());
        let delay = Duration::from_secs(60);
        for event in [
            EngineEvent::CrashLoop {
                deaths: 11,
                every: delay,
            },
            EngineEvent::Backoff {
                delay,
                crash_loop: true,
            },
            died(11),
        ] {
            board.engine(&event);
        }
        board.refresh_engine();
        let engine = &board.status.engine;
        assert_eq!(engine.state, EngineState::CrashLoop);
        assert!(engine.next_try_s.is_some_and(|left| left > 1.0));
        assert_eq!(board.metrics.engine_crash_loop.get(), 1);
        board.engine(&started(12, 60_000));
        board.refresh_engine();
        assert_eq!(board.status.engine.next_try_s, None);
        assert_eq!(board.metrics.engine_crash_loop.get(), 0);
    }

    /// A sink that gets parked is told of once, and again only after it worked.
    #[test]
    fn a_parked_sink_is_told_of_once() {
        let with = |state| upload::UploadStatus {
            sinks: vec![upload::SinkStatus {
                name: "http".into(),
                state,
                ..Default::default()
            }],
            ..Default::default()
        };
        let stuck = with(SinkState::Parked {
            reason: "401".into(),
        });
        let well = with(SinkState::Ok);
        assert_eq!(
            parked(&well, &stuck),
            ["uploads to http stand still, nothing is lost: 401"]
        );
        assert!(parked(&stuck, &stuck).is_empty());
        assert!(parked(&stuck, &well).is_empty());
    }
}
