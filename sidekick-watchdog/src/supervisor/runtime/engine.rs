//! The engine that lives, as the thread knows it.

use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use jiff::Zoned;

use crate::crash::HangEvidence;
use crate::event::Versions;
use crate::platform::Process;
use crate::supervisor::EngineLink;
use crate::supervisor::evidence::CpuLooks;
use crate::supervisor::launch::Running;
use crate::supervisor::memory::MemoryWatch;
use crate::supervisor::planned::{Planned, RestartPlan};

/// The first look at its threads, memory and plan after a start, and the first whether the game is ready.
const LOOK_FIRST: Duration = Duration::from_millis(250);
const READY_POLL_FIRST: Duration = Duration::from_millis(20);

/// The engine that lives.
#[derive(Debug)]
pub(super) struct Engine {
    pub launch: u32,
    pub process: Process,
    pub started_at: Duration,
    pub link: Option<Arc<dyn EngineLink>>,
    /// Its ring is of another protocol version.
    pub foreign: Option<Versions>,
    pub log: Option<PathBuf>,
    /// It was started by an earlier watchdog, which may have seen its ring.
    pub is_adopted: bool,
    /// Its ring was cleaned up with the runtime directory.
    pub is_ring_lost: bool,
    /// It is the safe start of a crash loop.
    pub is_safe: bool,
    pub cpu: CpuLooks,
    pub memory: MemoryWatch,
    pub planned: Planned,
    /// How it hangs, once it does.
    pub hang: Option<HangEvidence>,
    /// The last line after a crash banner that the machine was told of.
    pub banner_at: Option<Duration>,
    pub look_at: Duration,
    pub look_pause: Duration,
    pub running_told: bool,
    pub ready_told: bool,
    pub ready_poll: Duration,
    pub ready_poll_at: Duration,
}

impl Engine {
    pub(super) fn new(
        launch: u32,
        process: Process,
        log: Option<PathBuf>,
        started_at: Duration,
        now: Duration,
        plan: &RestartPlan,
    ) -> Self {
        Self {
            launch,
            process,
            started_at,
            link: None,
            foreign: None,
            log,
            is_adopted: false,
            is_ring_lost: false,
            is_safe: false,
            cpu: CpuLooks::default(),
            memory: MemoryWatch::new(started_at, LOOK_FIRST),
            planned: Planned::new(plan, Zoned::now),
            hang: None,
            banner_at: None,
            look_at: now + LOOK_FIRST,
            look_pause: LOOK_FIRST,
            running_told: false,
            ready_told: false,
            ready_poll: READY_POLL_FIRST,
            ready_poll_at: now,
        }
    }
}

pub(super) fn running(launch: u32, process: &Process, log: Option<&PathBuf>) -> Running {
    Running {
        launch,
        pid: process.pid(),
        start_ticks: process.start_ticks(),
        log: log.cloned(),
    }
}
