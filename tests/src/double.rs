//! A watchdog's double: the test itself plays the watchdog over the shared memory, so that it can do what no watchdog would, such
//! as committing nothing.

use std::ffi::OsString;
use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::time::{Duration, Instant};

use sidekick_ipc::message::Parcel;
use sidekick_ipc::request::Assembler;
use sidekick_ipc::value::write_json;
use sidekick_ipc::{
    Attachment, FrameKind, Gap, KeptCheckpoints, ReaderCheckpoint, Record, frames, scan,
};

use crate::folders::Folder;
use crate::godot::Godot;
use crate::project::{Engine, Options, Output, Project};
use crate::wait;

pub mod store;

use store::Store;

/// How long anything may take.
pub const DEADLINE: Duration = Duration::from_secs(120);
const DRAIN_BYTES_MAX: usize = 1 << 20;

/// A main script whose `_ready` is `body`.
pub fn main_script(body: &str) -> String {
    let body: String = body.lines().map(|line| format!("\t{line}\n")).collect();
    format!("extends Node\n\n\nfunc _ready() -> void:\n{body}")
}

/// One record as the backend would get it.
#[derive(Debug, Clone, PartialEq)]
pub struct Seen {
    /// Its sequence number.
    pub seq: u64,
    /// Its stream.
    pub stream: String,
    /// Its value.
    pub json: String,
}

/// The watchdog's part: a runtime directory, and what came out of the ring.
#[derive(Debug)]
pub struct Watchdog {
    /// The runtime directory.
    pub runtime: Folder,
    environment: Vec<(String, OsString)>,
    ring: Option<Attachment>,
    /// Whether what is drained is told as committed and uploaded.
    pub commits: bool,
    /// The records so far.
    pub seen: Vec<Seen>,
    /// Records that gap frames tell of.
    pub missing: u64,
    /// What the game has put, asked and checkpointed.
    pub store: Store,
    /// Keys with checkpoints besides those of [`Watchdog::store`]; told to the engine if set.
    pub keys_elsewhere: Option<u64>,
    /// Whether requests are answered.
    pub answers: bool,
    /// With a time: sleeps in the ring's own wait for so long instead of looking every few milliseconds.
    pub eager: Option<Duration>,
    /// Answers that found no room yet.
    parcels: Vec<Parcel>,
}

impl Watchdog {
    /// With an empty runtime directory, and the variables that a watchdog hands over.
    ///
    /// # Panics
    /// When it cannot be made.
    pub fn new() -> Self {
        let runtime = Folder::in_memory();
        fs::set_permissions(runtime.path(), fs::Permissions::from_mode(0o700)).expect("ours");
        let mut watchdog = Self {
            runtime,
            environment: Vec::new(),
            ring: None,
            commits: true,
            seen: Vec::new(),
            missing: 0,
            store: Store::default(),
            keys_elsewhere: None,
            answers: true,
            eager: None,
            parcels: Vec::new(),
        };
        let runtime_dir = watchdog.runtime.path().display().to_string();
        for (name, value) in [
            ("RUNTIME_DIR", runtime_dir.as_str()),
            ("LAUNCH", "7"),
            ("INCARNATION", "3"),
            ("SOURCE", "lobby-1"),
            ("RELAUNCH", "1"),
            ("RING_SIZE", "1048576"),
            ("WATCHDOG_VERSION", env!("CARGO_PKG_VERSION")),
        ] {
            watchdog.set(name, value);
        }
        watchdog
    }

    /// Hands another `SIDEKICK_` variable to the engine.
    pub fn set(&mut self, name: &str, value: &str) {
        let name = format!("SIDEKICK_{name}");
        self.environment.retain(|(key, _)| *key != name);
        self.environment.push((name, value.into()));
    }

    /// How to start the engine.
    pub fn options(&self) -> Options<'static> {
        Options {
            environment: self.environment.clone(),
            ..Options::default()
        }
    }

    /// Starts the project's engine and attaches to its ring.
    ///
    /// # Panics
    /// When there is no ring within [`DEADLINE`].
    pub fn launch(&mut self, godot: &Godot, project: &Project) -> Engine {
        let engine = project.start(godot, &self.options());
        let path = self.runtime.path().to_owned();
        let launch = self
            .environment
            .iter()
            .find(|(key, _)| key == "SIDEKICK_LAUNCH");
        let launch: u32 = launch
            .and_then(|(_, value)| value.to_str()?.parse().ok())
            .expect("a number");
        let name = wait::until("a ring", DEADLINE, || {
            let mut rings = scan(&path).expect("ours").into_iter();
            rings.find(|ring| ring.launch == launch)
        });
        let mut ring = Attachment::open(&name).expect("a good ring");
        ring.resume(1, ReaderCheckpoint::default());
        self.ring = Some(ring);
        engine
    }

    /// The ring of the engine that was launched.
    ///
    /// # Panics
    /// When none was.
    pub fn ring(&self) -> &Attachment {
        self.ring.as_ref().expect("launched")
    }

    /// Takes what is there, beats, and returns how much there was.
    ///
    /// # Panics
    /// When the ring is damaged.
    pub fn serve_once(&mut self) -> u64 {
        let commits = self.commits;
        let ring = self.ring.as_mut().expect("launched");
        ring.controls().beat();
        if let Some(longest) = self.eager {
            ring.wait(longest);
        }
        let mut assembler = Assembler::default();
        let mut bytes = Vec::new();
        let drained = ring
            .drain(&mut bytes, DRAIN_BYTES_MAX)
            .expect("a good ring");
        assert_eq!(drained.corruption, None);
        let epoch = ring.info().epoch;
        for frame in frames(&bytes, &epoch) {
            let frame = frame.expect("a good frame");
            if frame.header.kind == FrameKind::Gap as u16 {
                self.missing += Gap::parse(frame.payload).expect("a good gap").count;
                continue;
            }
            if FrameKind::is_request(frame.header.kind) {
                if let Some(request) = assembler.push(&frame) {
                    let parcels = self.store.take(&request);
                    if self.answers {
                        self.parcels.extend(parcels);
                    }
                }
                continue;
            }
            let record = Record::parse(frame.payload).expect("a good record");
            let mut json = Vec::new();
            write_json(record.variant, &mut json).expect("a good value");
            self.seen.push(Seen {
                seq: frame.header.seq,
                stream: record.stream.to_owned(),
                json: String::from_utf8(json).expect("JSON is UTF-8"),
            });
        }
        if let Some(elsewhere) = self.keys_elsewhere {
            ring.controls().set_checkpoints(KeptCheckpoints {
                seq: (drained.first_seq + drained.count).saturating_sub(1),
                keys: elsewhere + self.store.checkpoints.len() as u64,
                bytes: 0,
            });
        }
        let downlink = ring.downlink();
        self.parcels
            .retain_mut(|parcel| downlink.send_parcel(parcel).is_err());
        if commits && drained.count > 0 {
            let last = drained.first_seq + drained.count - 1;
            ring.release(last, &drained.checkpoint);
            ring.set_uploaded(last);
        }
        drained.count
    }

    /// Serves until `is_done`, looking every few milliseconds.
    ///
    /// # Panics
    /// When [`DEADLINE`] passes first.
    pub fn serve_until(&mut self, what: &str, mut is_done: impl FnMut(&Self) -> bool) {
        wait::until(what, DEADLINE, || {
            self.serve_once();
            is_done(self).then_some(())
        });
    }

    /// Serves until the engine has ended, then drains what it left.
    ///
    /// # Panics
    /// When [`DEADLINE`] passes first.
    pub fn serve_to_the_end(&mut self, mut engine: Engine) -> Output {
        let deadline = Instant::now() + DEADLINE;
        wait::until("the engine to end", DEADLINE, || {
            self.serve_once();
            while self.eager.is_some() && engine.running.status().is_none() {
                self.serve_once();
            }
            engine.running.status()
        });
        while self.serve_once() > 0 {}
        engine.finish(deadline.saturating_duration_since(Instant::now()))
    }

    /// Runs a game whose main script's `_ready` is `body`, and serves it to its end.
    ///
    /// # Panics
    /// When [`DEADLINE`] passes first.
    pub fn run(&mut self, godot: &Godot, body: &str) -> Output {
        let project = Project::new(&main_script(body));
        let engine = self.launch(godot, &project);
        self.serve_to_the_end(engine)
    }
}

impl Default for Watchdog {
    fn default() -> Self {
        Self::new()
    }
}
