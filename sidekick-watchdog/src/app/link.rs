//! Joins the supervisor to a session's ring words.

use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use sidekick_ipc::attach::{AttachError, Attachment};
use sidekick_ipc::{Controls, Downlink, HeartbeatReader, Phase};
use uuid::Uuid;

use crate::event::Versions;
use crate::intake::{AttachedSession, SessionProgress};
use crate::supervisor::{EngineLink, Heartbeat, LinkFinder};

/// The words of one ring.
#[derive(Clone, Debug)]
pub(super) struct RingLink {
    pub(super) heartbeat: HeartbeatReader,
    pub(super) controls: Controls,
    pub(super) downlink: Downlink,
    /// Empty where the game tells none.
    pub(super) game_version: Arc<str>,
}

impl RingLink {
    fn of(ring: &Attachment) -> Self {
        Self {
            heartbeat: ring.heartbeats(),
            controls: ring.controls(),
            downlink: ring.downlink(),
            game_version: ring.info().game_version.as_str().into(),
        }
    }
}

impl EngineLink for RingLink {
    fn game_version(&self) -> Option<String> {
        let version = &*self.game_version;
        (!version.is_empty()).then(|| version.to_owned())
    }

    fn heartbeat(&self) -> Heartbeat {
        let beat = self.heartbeat.read();
        Heartbeat {
            frames: beat.frames,
            monotonic_ns: beat.monotonic_ns,
            ready: beat.ready,
            paused: beat.phase == Phase::Paused,
            parked: beat.phase == Phase::Parked,
            allowed_silence: beat.allowed_silence,
            last_tick_us: beat.last_tick_us,
            idle: beat.idle,
            restart_wanted: beat.restart_wanted,
            crashed: beat.phase == Phase::Crashed,
            phase: match beat.phase {
                Phase::Boot => "boot",
                Phase::Loading => "loading",
                Phase::Running => "running",
                Phase::Paused => "paused",
                Phase::Stopping => "stopping",
                Phase::Crashed => "crashed",
                Phase::Parked => "parked",
            },
            clean_exit: beat.clean_exit,
        }
    }

    fn ask_quit(&self, grace: Duration) {
        self.controls.set_quit(grace);
    }

    fn activate(&self, launch: u32) {
        self.controls.activate(launch);
    }

    fn beat(&self) {
        self.controls.beat();
    }

    fn memory_high(&self, rss_bytes: u64) {
        // A full downlink means that the game does not look; the log has it too.
        let _ = self.downlink.memory_high(rss_bytes);
    }
}

/// A session's words wherever they are now. The engine goes on to another file at once when a ring is damaged; intake
/// follows when all of the old one is committed, and until then its heartbeat would stand still like that of a hang.
#[derive(Debug)]
pub(super) struct SessionLink {
    runtime_dir: PathBuf,
    launch: u32,
    epoch: Uuid,
    words: Mutex<RingLink>,
}

impl SessionLink {
    pub(super) fn new(runtime_dir: PathBuf, launch: u32, epoch: Uuid, words: RingLink) -> Self {
        Self {
            runtime_dir,
            launch,
            epoch,
            words: Mutex::new(words),
        }
    }

    fn words(&self) -> RingLink {
        let mut words = self.words.lock().unwrap_or_else(PoisonError::into_inner);
        if words.heartbeat.read().rotated
            && let Some(newest) = self.newest()
        {
            *words = newest;
        }
        words.clone()
    }

    fn newest(&self) -> Option<RingLink> {
        let files = sidekick_ipc::scan(&self.runtime_dir).ok()?;
        let newest = files
            .iter()
            .rev()
            .find(|file| file.launch == self.launch && file.epoch == self.epoch)?;
        let attachment = Attachment::open(newest).ok()?;
        Some(RingLink::of(&attachment))
    }
}

impl EngineLink for SessionLink {
    fn game_version(&self) -> Option<String> {
        self.words().game_version()
    }

    fn heartbeat(&self) -> Heartbeat {
        self.words().heartbeat()
    }

    fn ask_quit(&self, grace: Duration) {
        self.words().ask_quit(grace);
    }

    fn activate(&self, launch: u32) {
        self.words().activate(launch);
    }

    fn beat(&self) {
        self.words().beat();
    }

    fn memory_high(&self, rss_bytes: u64) {
        self.words().memory_high(rss_bytes);
    }
}

/// Numbers beyond this are not believed of a ring: launch numbers go up by one, and may never run out.
const LAUNCH_MAX: u32 = u32::MAX / 2;

/// The highest launch whose ring lies in the runtime directory; 0 = none. The data directory may have been lost, and its
/// count with it.
pub(super) fn last_launch(runtime_dir: &Path) -> u32 {
    let files = sidekick_ipc::scan(runtime_dir).unwrap_or_default();
    let launches = files.iter().map(|file| file.launch);
    launches
        .filter(|launch| *launch <= LAUNCH_MAX)
        .max()
        .unwrap_or(0)
}

/// Opens the newest ring of a launch to read its words; `None` while there is none.
pub(super) fn find(runtime_dir: &Path, launch: u32) -> Option<Result<Attachment, AttachError>> {
    let files = sidekick_ipc::scan(runtime_dir).ok()?;
    let newest = files.iter().rev().find(|file| file.launch == launch)?;
    Some(Attachment::open(newest))
}

/// A session as it is told of while nobody drains it: what was ever acknowledged is committed, and more is not known.
pub(super) fn undrained(attachment: &Attachment) -> AttachedSession {
    let acked = attachment.acked_seq();
    AttachedSession {
        info: attachment.info().clone(),
        heartbeat: attachment.heartbeats(),
        controls: attachment.controls(),
        downlink: attachment.downlink(),
        progress: Arc::new(SessionProgress {
            epoch: attachment.info().epoch,
            recorded: acked.into(),
            committed: acked.into(),
            ..SessionProgress::default()
        }),
    }
}

/// Finds the ring of a launch in the runtime directory, for engines that end before intake has seen their ring.
pub(super) fn finder(runtime_dir: PathBuf) -> LinkFinder {
    Box::new(move |launch| {
        let attachment = find(&runtime_dir, launch)?.ok()?;
        Some(Arc::new(RingLink::of(&attachment)) as Arc<dyn EngineLink>)
    })
}

/// The two sides of a ring that is of another protocol version than ours.
pub(super) fn versions(error: &AttachError) -> Option<Versions> {
    let (library_protocol, watchdog_protocol) = error.version_mismatch()?;
    Some(Versions {
        library_protocol,
        watchdog_protocol,
        library: error.library_version().map(str::to_owned),
    })
}
