//! Tells the service manager (systemd) how the watchdog does: READY, RELOADING, STATUS, WATCHDOG, STOPPING.
//!
//! A sign of life (`WATCHDOG=1`) is sent by the main loop, and only while supervisor and store answer: each is asked for
//! a word, and the sign goes out when both have come. A store that is down has been noticed and is opened again: it is
//! not asked. An engine that is down, or a disk that stands still, is no reason to
//! be killed: the supervisor answers from its own thread, the store from its core, which waits for no disk.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use tokio::sync::oneshot::{self, error::TryRecvError};
use tokio::task::JoinHandle;
use tracing::{debug, warn};

use crate::api::{EngineState, Status, StoreState};
use crate::platform::{ServiceHints, ServiceManager, monotonic_now};

/// A part of the time within which a sign is wanted: so often one is sent.
const SIGNS_PER_TIMEOUT: u32 = 4;
/// So much more time is asked for at once while something takes long; asked for again before it is over.
const EXTENSION: Duration = Duration::from_secs(15);
const EXTENSION_EVERY: Duration = Duration::from_secs(5);

/// The answers that a sign of life waits for.
#[derive(Debug)]
pub(super) struct Probe {
    /// The supervisor's.
    pub(super) supervisor: oneshot::Receiver<()>,
    /// The store's.
    pub(super) store: oneshot::Receiver<()>,
}

/// What is being waited for.
#[derive(Debug)]
struct Asked {
    at: Instant,
    probe: Probe,
    supervisor: bool,
    store: bool,
    told: bool,
}

/// The watchdog's side of the service manager.
#[derive(Debug)]
pub(super) struct Service {
    manager: Arc<ServiceManager>,
    reloads: Reloads,
    sign_every: Option<Duration>,
    signed_at: Option<Instant>,
    asked: Option<Asked>,
    status: String,
}

impl Service {
    pub(super) fn from_environment() -> Self {
        let manager = ServiceManager::new(&ServiceHints::from_environment());
        Self::new(manager.unwrap_or_else(|error| {
            warn!(%error, "NOTIFY_SOCKET cannot be used; the service manager is told nothing");
            ServiceManager::default()
        }))
    }

    fn new(manager: ServiceManager) -> Self {
        let manager = Arc::new(manager);
        Self {
            sign_every: manager.alive_within().map(|time| time / SIGNS_PER_TIMEOUT),
            reloads: Reloads {
                manager: Arc::clone(&manager),
                is_ready: Arc::default(),
            },
            manager,
            signed_at: None,
            asked: None,
            status: String::new(),
        }
    }

    /// The engine runs (or is held), orders are taken.
    pub(super) fn ready(&self) {
        self.reloads.is_ready.store(true, Ordering::Relaxed);
        tell(&self.manager, "READY=1");
    }

    /// For whoever reloads.
    pub(super) fn reloads(&self) -> Reloads {
        self.reloads.clone()
    }

    /// The end begins.
    pub(super) fn stopping(&self) {
        self.reloads.is_ready.store(false, Ordering::Relaxed);
        tell(&self.manager, "STOPPING=1\nSTATUS=ending");
    }

    /// Asks for more time as long as the returned value lives, and at most `longest`: what hangs beyond that is the
    /// manager's to end. Must be called on the runtime.
    pub(super) fn extend(&self, longest: Duration) -> Extension {
        let manager = Arc::clone(&self.manager);
        Extension(tokio::spawn(async move {
            let begun = Instant::now();
            while begun.elapsed() < longest {
                let usec = EXTENSION.as_micros();
                tell(&manager, &format!("EXTEND_TIMEOUT_USEC={usec}\nWATCHDOG=1"));
                tokio::time::sleep(EXTENSION_EVERY).await;
            }
        }))
    }

    /// One turn of the main loop, about once a second. `ask` starts a new round of questions.
    pub(super) fn turn(&mut self, now: Instant, status: &Status, ask: impl FnOnce() -> Probe) {
        let words = words(status);
        if words != self.status {
            tell(&self.manager, &format!("STATUS={words}"));
            self.status = words;
        }
        let Some(every) = self.sign_every else {
            return;
        };
        if let Some(asked) = &mut self.asked {
            let supervisor = heard(&mut asked.supervisor, &mut asked.probe.supervisor);
            let store = heard(&mut asked.store, &mut asked.probe.store);
            if asked.supervisor && asked.store {
                tell(&self.manager, "WATCHDOG=1");
                self.signed_at = Some(now);
                self.asked = None;
            } else if !asked.told && now.saturating_duration_since(asked.at) > every {
                asked.told = true;
                warn!(
                    supervisor_answers = asked.supervisor,
                    store_answers = asked.store,
                    "no sign of life for the service manager until both answer"
                );
            } else if supervisor.and(store).is_err() {
                // The question was lost (a full queue); asked again in the next turn.
                self.asked = None;
                return;
            }
        }
        let is_due = self
            .signed_at
            .is_none_or(|at| now.saturating_duration_since(at) + Duration::from_secs(1) >= every);
        if self.asked.is_none() && is_due {
            self.asked = Some(Asked {
                at: now,
                probe: ask(),
                supervisor: false,
                store: false,
                told: false,
            });
        }
    }
}

/// Notes whether a part has answered.
///
/// # Errors
/// It never will.
fn heard(answered: &mut bool, answer: &mut oneshot::Receiver<()>) -> Result<(), TryRecvError> {
    if *answered {
        return Ok(());
    }
    match answer.try_recv() {
        Ok(()) => *answered = true,
        Err(TryRecvError::Empty) => {}
        Err(closed) => return Err(closed),
    }
    Ok(())
}

/// Ends the asking for more time when it goes.
#[derive(Debug)]
pub(super) struct Extension(JoinHandle<()>);

/// Tells of reloads, whoever asked for them. By default nobody is told.
#[derive(Clone, Debug, Default)]
pub(super) struct Reloads {
    manager: Arc<ServiceManager>,
    /// READY was told, and the end has not begun: nothing else may be said of us then.
    is_ready: Arc<AtomicBool>,
}

impl Reloads {
    /// A reload begins; it ends, well or not, when the returned value is dropped.
    pub(super) fn begin(&self) -> Reloading<'_> {
        let is_told = self.is_ready.load(Ordering::Relaxed);
        if is_told {
            let usec = monotonic_now().as_micros();
            tell(
                &self.manager,
                &format!("RELOADING=1\nMONOTONIC_USEC={usec}"),
            );
        }
        Reloading {
            reloads: self,
            is_told,
        }
    }
}

/// See [`Reloads::begin`].
#[derive(Debug)]
pub(super) struct Reloading<'a> {
    reloads: &'a Reloads,
    is_told: bool,
}

impl Drop for Reloading<'_> {
    fn drop(&mut self) {
        if self.is_told && self.reloads.is_ready.load(Ordering::Relaxed) {
            tell(&self.reloads.manager, "READY=1");
        }
    }
}

impl Drop for Extension {
    fn drop(&mut self) {
        self.0.abort();
    }
}

fn tell(manager: &ServiceManager, message: &str) {
    if let Err(error) = manager.tell(message) {
        debug!(%error, "the service manager was not told");
    }
}

/// The engine's state in one line, without figures that change all the time.
fn words(status: &Status) -> String {
    let engine = &status.engine;
    let mut words = match engine.incarnation {
        0 => engine.state.words().to_owned(),
        number => format!("incarnation {number} {}", engine.state.words()),
    };
    if engine.state == EngineState::Running && engine.ready {
        words.push_str(", ready");
    }
    if let Some(death) = engine.last_deaths.last() {
        words.push_str(&format!(
            "; incarnation {}: {}",
            death.incarnation, death.cause
        ));
        if death.as_asked {
            words.push_str(", as asked");
        }
    }
    match status.store.state {
        StoreState::Open => {}
        StoreState::Opening => words.push_str("; the store is being opened"),
        StoreState::Closing | StoreState::Failed => {
            words.push_str("; the store is down, records wait in the ring");
        }
    }
    for sink in status
        .upload
        .sinks
        .iter()
        .filter(|sink| sink.state == "parked")
    {
        words.push_str(&format!("; uploads to {} stand still", sink.name));
    }
    // A line end would begin another assignment.
    words.retain(|c| !c.is_control());
    words
}

#[cfg(test)]
mod tests {
    use std::os::unix::net::UnixDatagram;

    use super::*;

    struct World {
        service: Service,
        socket: UnixDatagram,
        status: Status,
        now: Instant,
        _folder: tempfile::TempDir,
    }

    impl World {
        fn new() -> Self {
            let folder = tempfile::tempdir().unwrap();
            let path = folder.path().join("notify");
            let socket = UnixDatagram::bind(&path).unwrap();
            socket.set_nonblocking(true).unwrap();
            let hints = ServiceHints {
                socket: Some(path.into_os_string()),
                watchdog_usec: Some("8000000".into()),
                watchdog_pid: None,
            };
            Self {
                service: Service::new(ServiceManager::new(&hints).unwrap()),
                socket,
                status: Status::default(),
                now: Instant::now(),
                _folder: folder,
            }
        }

        /// One turn a second later; the messages of it.
        fn turn(&mut self, ask: impl FnOnce() -> Probe) -> Vec<String> {
            self.now += Duration::from_secs(1);
            self.service.turn(self.now, &self.status, ask);
            let mut buffer = [0; 512];
            let mut messages = Vec::new();
            while let Ok(length) = self.socket.recv(&mut buffer) {
                messages.push(String::from_utf8_lossy(&buffer[..length]).into_owned());
            }
            messages
        }
    }

    fn probe() -> (oneshot::Sender<()>, oneshot::Sender<()>, Probe) {
        let (supervisor, from_supervisor) = oneshot::channel();
        let (store, from_store) = oneshot::channel();
        let probe = Probe {
            supervisor: from_supervisor,
            store: from_store,
        };
        (supervisor, store, probe)
    }

    /// The sign goes out when both have answered, and not while only one has, however long that takes.
    #[test]
    fn a_sign_of_life_wants_both_answers() {
        let mut world = World::new();
        let (supervisor, store, first) = probe();
        assert_eq!(world.turn(|| first), ["STATUS=starting"]);
        supervisor.send(()).unwrap();
        for _ in 0..20 {
            assert!(world.turn(|| unreachable!("one is under way")).is_empty());
        }
        store.send(()).unwrap();
        assert_eq!(
            world.turn(|| unreachable!("it was just signed")),
            ["WATCHDOG=1"]
        );
        // Every quarter of the time.
        let (supervisor, store, second) = probe();
        supervisor.send(()).unwrap();
        store.send(()).unwrap();
        assert!(world.turn(|| second).is_empty());
        assert_eq!(
            world.turn(|| unreachable!("it was just signed")),
            ["WATCHDOG=1"]
        );
    }

    /// A part that has died answers never again.
    #[test]
    fn a_dead_part_lets_no_sign_out() {
        let mut world = World::new();
        let (supervisor, store, first) = probe();
        store.send(()).unwrap();
        drop(supervisor);
        world.turn(|| first);
        let mut asked = 0;
        for _ in 0..20 {
            let dead = || {
                asked += 1;
                let (_, store, dead) = probe();
                store.send(()).unwrap();
                dead
            };
            assert!(world.turn(dead).is_empty());
        }
        assert!(asked > 5, "it is asked again");
    }

    #[test]
    fn the_status_is_one_line_and_told_when_it_changes() {
        let mut world = World::new();
        world.service.sign_every = None;
        world.status.engine.state = EngineState::Running;
        world.status.engine.incarnation = 3;
        world.status.engine.last_deaths.push(crate::api::Death {
            incarnation: 2,
            cause: "hung\nREADY=0".into(),
            ..Default::default()
        });
        let told = world.turn(|| unreachable!("no sign is wanted"));
        assert_eq!(
            told,
            ["STATUS=incarnation 3 running; incarnation 2: hungREADY=0"]
        );
        world.status.engine.frame = Some(7);
        assert!(world.turn(|| unreachable!("no sign is wanted")).is_empty());
    }
}
