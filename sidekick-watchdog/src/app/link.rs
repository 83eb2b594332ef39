//! Joins the supervisor to a session's ring words.

use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use sidekick_ipc::attach::Attachment;
use sidekick_ipc::{Controls, HeartbeatReader, Phase};

use crate::supervisor::{EngineLink, Heartbeat, LinkFinder};

/// The words of one ring.
#[derive(Clone, Debug)]
pub(super) struct RingLink {
    pub(super) heartbeat: HeartbeatReader,
    pub(super) controls: Controls,
}

impl EngineLink for RingLink {
    fn heartbeat(&self) -> Heartbeat {
        let beat = self.heartbeat.read();
        Heartbeat {
            frames: beat.frames,
            monotonic_ns: beat.monotonic_ns,
            ready: beat.ready,
            paused: beat.phase == Phase::Paused,
            allowed_silence: beat.allowed_silence,
            clean_exit: beat.clean_exit,
        }
    }

    fn ask_quit(&self, grace: Duration) {
        self.controls.set_quit(grace);
    }
}

/// Finds the ring of a launch in the runtime directory, for engines that end before intake has seen their ring.
pub(super) fn finder(runtime_dir: PathBuf) -> LinkFinder {
    Box::new(move |launch| {
        let files = sidekick_ipc::scan(&runtime_dir).ok()?;
        let newest = files.iter().rev().find(|file| file.launch == launch)?;
        let attachment = Attachment::open(newest).ok()?;
        let link = RingLink {
            heartbeat: attachment.heartbeats(),
            controls: attachment.controls(),
        };
        Some(Arc::new(link) as Arc<dyn EngineLink>)
    })
}
