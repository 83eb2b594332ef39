//! What is told of the engine and its standby.

use std::path::PathBuf;
use std::sync::atomic::Ordering;
use std::time::Instant;

use super::Board;
use crate::api::{
    DEATHS_KEPT, Death, EngineState, EngineStatus, SessionStatus, StandbyState, StandbyStatus,
};
use crate::app::tell::seconds;
use crate::event::EngineEvent;
use crate::metrics::raise_to;
use crate::platform::Process;

/// From a death to the start after it.
#[derive(Clone, Copy)]
pub(super) struct Gap {
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
pub(super) struct Reported {
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

impl Board {
    /// Takes note of what happened to the engine.
    pub(in crate::app) fn engine(&mut self, event: &EngineEvent) {
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

    pub(super) fn refresh_engine(&mut self) {
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
            let is_read_whole = current.progress.read_before.load(Ordering::Relaxed) == 0;
            let requests = current.progress.requests.load(Ordering::Relaxed);
            self.waiting = recorded.saturating_sub(committed);
            self.metrics
                .ring_records
                .set(i64::try_from(self.waiting).unwrap_or(i64::MAX));
            holes += current.progress.holes.load(Ordering::Relaxed);
            refused = refused.saturating_add(beat.refused_count);
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
                requests: is_read_whole.then_some(requests),
                backlog: recorded.max(committed).saturating_sub(uploaded),
                refused: beat.refused_count,
                refused_by: current.progress.refused_by(),
                holes: current.progress.holes.load(Ordering::Relaxed),
            });
        }
        self.status.totals.gaps = holes;
        raise_to(&self.metrics.records_missing, holes);
        raise_to(&self.metrics.records_refused, refused);
    }

    pub(super) fn refresh_standby(&mut self) {
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
}

fn now() -> String {
    jiff::Timestamp::now().to_string()
}

#[cfg(test)]
mod tests;
