//! Holds the place of `sidekick_ipc`'s session, which is being built: there is no value of this type, so supervised mode cannot be
//! entered, and an engine under a watchdog says so.

use std::path::PathBuf;
use std::time::Duration;

#[expect(dead_code, reason = "read by the session once it is there")]
#[derive(Debug)]
pub(crate) struct SessionOptions {
    pub(crate) runtime_dir: PathBuf,
    pub(crate) launch: u32,
    pub(crate) incarnation: u32,
    pub(crate) ring_bytes: usize,
    pub(crate) when_full: WhenFull,
    pub(crate) block_max: Duration,
    pub(crate) spill_bytes_max: u64,
    pub(crate) library_version: String,
}

#[derive(Debug)]
pub(crate) enum WhenFull {
    Spill,
    Block,
    Refuse,
}

#[expect(dead_code, reason = "told by the session once it is there")]
pub(crate) enum RefusedCause {
    TooLarge { bytes: usize, max: usize },
    StreamName,
    Full,
    SpillFailed,
    Closed,
}

pub(crate) enum Phase {
    Loading,
    Running,
    Stopping,
}

pub(crate) struct Quit {
    pub(crate) grace: Duration,
}

pub(crate) struct Control {
    pub(crate) quit: Option<Quit>,
    pub(crate) watchdog_alive_age: Duration,
}

pub(crate) enum Session {}

impl Session {
    pub(crate) fn create(_options: SessionOptions) -> Result<Self, &'static str> {
        Err("this build of the library has no ring yet")
    }
    pub(crate) fn epoch(&self) -> String {
        match *self {}
    }
    pub(crate) fn record(&self, _stream: &str, _variant: &[u8]) -> Result<u64, RefusedCause> {
        match *self {}
    }
    pub(crate) fn on_frame(&self, _phase: Phase) {
        match *self {}
    }
    pub(crate) fn kick(&self) {
        match *self {}
    }
    pub(crate) fn last_seq(&self) -> u64 {
        match *self {}
    }
    pub(crate) fn committed_seq(&self) -> u64 {
        match *self {}
    }
    pub(crate) fn uploaded_seq(&self) -> u64 {
        match *self {}
    }
    pub(crate) fn ring_used(&self) -> u64 {
        match *self {}
    }
    pub(crate) fn set_ready(&self) {
        match *self {}
    }
    pub(crate) fn expect_stall(&self, _stall: Duration) {
        match *self {}
    }
    pub(crate) fn set_clean_exit(&self, _exit_code_hint: i32) {
        match *self {}
    }
    pub(crate) fn control(&self) -> Control {
        match *self {}
    }
}
