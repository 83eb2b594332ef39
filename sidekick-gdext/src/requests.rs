//! What the game waits for: requests until they complete, watches until they are stopped, threads that wait in `get_value()` and
//! `restore()`.
//!
//! Answers are taken from the session by whoever looks (the frame hook, or a waiting thread), and told to scripts by the frame hook
//! alone.

use std::collections::{BTreeSet, HashMap, HashSet, VecDeque};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use godot::prelude::*;
use sidekick_ipc::tree::{ErrorKind, StoreOp, StoreQuery, StoreResult, WatchBatch};
use sidekick_ipc::{DownlinkMessage, Message, RefusedCause, Session};

use crate::checkpoint;
use crate::core;
use crate::frame;
use crate::request::SidekickRequest;
use crate::watch::SidekickWatch;
use crate::words::{self, Refusal};

/// Time-out of a request that names none.
pub(crate) const TIMEOUT_S_DEFAULT: f64 = 5.0;
/// Messages that wait for the frame hook while a thread waits for an answer: more are left in the session.
const INBOX_MAX: usize = 65_536;

/// Whether the frame hook has something to do here; it looks here first, so that an idle frame touches no object.
static IS_BUSY: AtomicBool = AtomicBool::new(false);

/// Whether any request or watch is to be looked after.
pub(crate) fn is_busy() -> bool {
    IS_BUSY.load(Ordering::Acquire)
}

/// What a request asks.
pub(crate) enum Asked {
    Op(StoreOp),
    Query(StoreQuery),
}

struct Waiting {
    object: Gd<SidekickRequest>,
    deadline: Instant,
    /// Of a lease: when it was asked for, and for how long it holds.
    lease: Option<(u64, f64)>,
}

struct Done {
    object: Gd<SidekickRequest>,
    result: StoreResult,
    lease: Option<(u64, f64)>,
}

/// What the frame hook tells scripts, after it has let go of the singleton.
pub(crate) enum Told {
    Completed(Gd<SidekickRequest>, VarDictionary),
    Changed(Gd<SidekickWatch>, VarDictionary),
    Failed(Gd<SidekickWatch>, VarDictionary),
    /// What a waiting thread took of the frame hook's own.
    Other(DownlinkMessage),
}

impl Told {
    /// At the end of the main loop: requests complete, so that no function waits for ever; whoever waited in a node is gone with
    /// it by now. Gives back the object, whose connections are to be cut.
    pub(crate) fn end(self) -> Option<Gd<RefCounted>> {
        match self {
            Self::Completed(request, result) => {
                Self::Completed(request.clone(), result).tell();
                Some(request.upcast())
            }
            Self::Changed(watch, _) | Self::Failed(watch, _) => Some(watch.upcast()),
            Self::Other(_) => None,
        }
    }

    /// On the main thread.
    pub(crate) fn tell(self) {
        match self {
            Self::Completed(request, result) => {
                if request.bind().set_result(&result) {
                    request.signals().completed().emit(&result);
                }
            }
            Self::Changed(watch, event) => {
                if watch.bind().is_stopped.load(Ordering::Relaxed) {
                    return;
                }
                watch.signals().changed().emit(&event);
            }
            Self::Other(message) => frame::on_message(&message),
            Self::Failed(watch, result) => {
                if !watch.bind().is_stopped.swap(true, Ordering::Relaxed) {
                    watch.signals().failed().emit(&result);
                }
            }
        }
    }
}

#[derive(Default)]
struct Table {
    waiting: HashMap<u64, Waiting>,
    deadlines: BTreeSet<(Instant, u64)>,
    done: Vec<Done>,
    watches: HashMap<u64, Gd<SidekickWatch>>,
    failed_watches: Vec<(Gd<SidekickWatch>, StoreResult)>,
    /// Questions that a thread waits for, and their answers.
    blocked: HashMap<u64, Option<StoreResult>>,
    /// What a waiting thread took that was for others.
    inbox: VecDeque<Message>,
    is_over: bool,
}

/// Everything that is waited for.
#[derive(Default)]
pub(crate) struct Requests {
    table: Mutex<Table>,
}

impl Requests {
    fn lock(&self) -> MutexGuard<'_, Table> {
        self.table.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Sends a request. Whatever happens, the object completes once, in a later frame.
    pub(crate) fn send(
        &self,
        asked: Result<Asked, Refusal>,
        timeout_s: f64,
        lease_s: Option<f64>,
    ) -> Gd<SidekickRequest> {
        let object = SidekickRequest::create();
        let lease = lease_s.map(|seconds| (now_ms(), seconds));
        let deadline = Instant::now() + crate::flush::timeout(timeout_s);
        let mut table = self.lock();
        let sent = asked.and_then(|asked| {
            if table.is_over {
                return Err(shutting_down());
            }
            let session = core::session().ok_or_else(unsupervised)?;
            let number = match &asked {
                Asked::Op(op) => {
                    op.check()?;
                    session.op(op)
                }
                Asked::Query(query) => {
                    query.check()?;
                    session.query(query)
                }
            };
            number.map_err(refused)
        });
        match sent {
            Ok(number) => {
                table.deadlines.insert((deadline, number));
                let waiting = Waiting {
                    object: object.clone(),
                    deadline,
                    lease,
                };
                table.waiting.insert(number, waiting);
            }
            Err(refusal) => {
                warn_once(&refusal, "a request to the store failed");
                table.done.push(Done {
                    object: object.clone(),
                    result: StoreResult::error(refusal.kind, refusal.sentence),
                    lease: None,
                });
            }
        }
        IS_BUSY.store(true, Ordering::Release);
        object
    }

    /// Begins a watch; the object lives until it is stopped.
    pub(crate) fn watch(&self, asked: Result<StoreQuery, Refusal>) -> Gd<SidekickWatch> {
        let object = SidekickWatch::create();
        let mut table = self.lock();
        let sent = asked.and_then(|query| {
            if table.is_over {
                return Err(shutting_down());
            }
            let session = core::session().ok_or_else(unsupervised)?;
            query.check()?;
            session.query(&query).map_err(refused)
        });
        match sent {
            Ok(number) => {
                object.bind().number.store(number, Ordering::Relaxed);
                table.watches.insert(number, object.clone());
            }
            Err(refusal) => {
                warn_once(&refusal, "a watch could not begin");
                let result = StoreResult::error(refusal.kind, refusal.sentence);
                table.failed_watches.push((object.clone(), result));
            }
        }
        IS_BUSY.store(true, Ordering::Release);
        object
    }

    pub(crate) fn stop_watch(&self, number: u64) {
        if self.lock().watches.remove(&number).is_some()
            && let Some(session) = core::session()
        {
            session.unwatch(number);
        }
    }

    /// Asks and waits, at most `timeout`. The one place where the game's thread is held up.
    pub(crate) fn ask(
        &self,
        session: &Session,
        query: &StoreQuery,
        timeout: Duration,
    ) -> Result<StoreResult, Refusal> {
        let deadline = Instant::now() + timeout;
        query.check()?;
        let number = {
            let mut table = self.lock();
            if table.is_over {
                return Err(shutting_down());
            }
            let number = session.query(query).map_err(refused)?;
            table.blocked.insert(number, None);
            number
        };
        loop {
            let is_full = self.lock().inbox.len() >= INBOX_MAX;
            while !is_full && let Some(message) = session.next_message() {
                let mut table = self.lock();
                if let Some(message) = table.take_blocked(message) {
                    table.inbox.push_back(message);
                    IS_BUSY.store(true, Ordering::Release);
                }
            }
            let now = Instant::now();
            let mut table = self.lock();
            let is_over = now >= deadline || is_full || session.is_fenced();
            match table.blocked.remove(&number) {
                Some(Some(result)) => return Ok(result),
                Some(None) if !is_over => {
                    table.blocked.insert(number, None);
                }
                _ => {
                    session.forget(number);
                    return Err(timed_out(timeout));
                }
            }
            drop(table);
            session.wait_message(deadline.saturating_duration_since(now));
        }
    }

    /// Takes a message that the frame hook has found, and those that a waiting thread has put aside before it.
    pub(crate) fn take(&self, message: Option<Message>) -> Vec<Told> {
        let mut table = self.lock();
        let mut told = Vec::new();
        let aside = std::mem::take(&mut table.inbox);
        for message in aside.into_iter().chain(message) {
            if let Some(message) = table.take_blocked(message) {
                table.take(message, &mut told);
            }
        }
        told
    }

    /// Once a frame when something is waited for: what was put aside, what failed at once, what is over its time.
    pub(crate) fn on_frame(&self, now: Instant) -> Vec<Told> {
        let mut told = self.take(None);
        let mut table = self.lock();
        let session = core::session();
        while let Some((deadline, number)) = table.deadlines.first().copied()
            && deadline <= now
        {
            table.deadlines.pop_first();
            if let Some(waiting) = table.waiting.remove(&number) {
                if let Some(session) = session {
                    session.forget(number);
                }
                let refusal = Refusal::new(
                    ErrorKind::Timeout,
                    "no answer came in time; the watchdog is gone or does not keep up",
                );
                told.push(completed(Done {
                    object: waiting.object,
                    result: StoreResult::error(refusal.kind, refusal.sentence),
                    lease: None,
                }));
            }
        }
        told.extend(table.done.drain(..).map(completed));
        for (watch, result) in table.failed_watches.drain(..) {
            told.push(Told::Failed(watch, words::result(&result)));
        }
        if table.waiting.is_empty() && table.inbox.is_empty() {
            IS_BUSY.store(false, Ordering::Release);
        }
        told
    }

    /// Takes out all, for the end of the main loop; nothing is sent after this.
    pub(crate) fn take_all(&self) -> (Vec<Told>, Vec<Gd<SidekickWatch>>) {
        let mut table = self.lock();
        table.is_over = true;
        table.deadlines.clear();
        let mut told: Vec<Told> = table.done.drain(..).map(completed).collect();
        let waiting: Vec<Waiting> = table.waiting.drain().map(|(_, waiting)| waiting).collect();
        for waiting in waiting {
            let refusal = shutting_down();
            told.push(completed(Done {
                object: waiting.object,
                result: StoreResult::error(refusal.kind, refusal.sentence),
                lease: None,
            }));
        }
        let mut watches: Vec<_> = table.watches.drain().map(|(_, watch)| watch).collect();
        watches.extend(table.failed_watches.drain(..).map(|(watch, _)| watch));
        (told, watches)
    }
}

impl Table {
    /// Gives an answer to the thread that waits for it; anything else comes back.
    fn take_blocked(&mut self, message: Message) -> Option<Message> {
        if let Message::Reply { number, result } = message {
            if let Some(slot) = self.blocked.get_mut(&number) {
                *slot = Some(result);
                return None;
            }
            return Some(Message::Reply { number, result });
        }
        Some(message)
    }

    fn take(&mut self, message: Message, told: &mut Vec<Told>) {
        match message {
            Message::Reply { number, result } => self.take_reply(number, result, told),
            Message::Events { watch, batch } => self.take_events(watch, &batch, told),
            Message::Other(message) => told.push(Told::Other(message)),
        }
    }

    fn take_reply(&mut self, number: u64, result: StoreResult, told: &mut Vec<Told>) {
        if let Some(waiting) = self.waiting.remove(&number) {
            self.deadlines.remove(&(waiting.deadline, number));
            told.push(completed(Done {
                object: waiting.object,
                result,
                lease: waiting.lease,
            }));
            return;
        }
        let Some((kind, message)) = result.error_words() else {
            return;
        };
        if let Some(watch) = self.watches.remove(&number) {
            told.push(Told::Failed(watch, words::result(&result)));
        } else {
            checkpoint::on_error(number, kind, message);
        }
    }

    fn take_events(&mut self, number: u64, batch: &WatchBatch, told: &mut Vec<Told>) {
        let Some(watch) = self.watches.get(&number) else {
            return;
        };
        if batch.compacted {
            told.push(Told::Changed(
                watch.clone(),
                words::compacted(batch.goes_on_after()),
            ));
        }
        for event in &batch.events {
            told.push(Told::Changed(watch.clone(), words::event(event)));
        }
    }
}

fn completed(done: Done) -> Told {
    let mut result = words::result(&done.result);
    if let Some((asked_ms, seconds)) = done.lease
        && let Some(mut lease) = result
            .get("lease")
            .and_then(|it| it.try_to::<VarDictionary>().ok())
    {
        // Holders stop at 0.8 of the time, counted from asking (CORRECTNESS rule 22).
        let use_until_ms = asked_ms.saturating_add((seconds * 800.0) as u64);
        lease.set("seconds", seconds);
        lease.set("use_until_ms", use_until_ms as i64);
        result.set("lease", &lease);
    }
    Told::Completed(done.object, result)
}

/// The engine's clock since its start, as `Time.get_ticks_msec()` gives it.
fn now_ms() -> u64 {
    godot::classes::Time::singleton().get_ticks_msec()
}

fn shutting_down() -> Refusal {
    Refusal::new(ErrorKind::ShuttingDown, "the server is about to end")
}

pub(crate) fn unsupervised() -> Refusal {
    Refusal::new(
        ErrorKind::Unsupervised,
        "there is no watchdog; start the server with addons/sidekick/sidekick.sh",
    )
}

fn timed_out(timeout: Duration) -> Refusal {
    Refusal::new(
        ErrorKind::Timeout,
        format_args!("no answer came within {:.3} s", timeout.as_secs_f64()),
    )
}

pub(crate) fn refused(cause: RefusedCause) -> Refusal {
    let kind = match cause {
        RefusedCause::RequestTooLarge { .. } | RefusedCause::TooLargeForRing { .. } => {
            ErrorKind::TooLarge
        }
        RefusedCause::TooManyRequests { .. } | RefusedCause::CheckpointKeys { .. } => {
            ErrorKind::TooMany
        }
        RefusedCause::CheckpointBytes { .. } => ErrorKind::TreeFull,
        RefusedCause::Closed | RefusedCause::Fenced => ErrorKind::ShuttingDown,
        _ => ErrorKind::Unavailable,
    };
    Refusal::new(kind, cause)
}

static WARNED: Mutex<Option<HashSet<(&'static str, ErrorKind)>>> = Mutex::new(None);

/// One warning for each kind of mistake in each kind of call. What is no mistake of the game's is not warned of.
pub(crate) fn warn_once(refusal: &Refusal, what: &'static str) {
    if matches!(
        refusal.kind,
        ErrorKind::Unsupervised | ErrorKind::ShuttingDown
    ) {
        return;
    }
    let mut warned = WARNED.lock().unwrap_or_else(PoisonError::into_inner);
    if warned.get_or_insert_default().insert((what, refusal.kind)) {
        drop(warned);
        godot_warn!(
            "Sidekick: {what}: {}. Further ones of this kind are not told here.",
            refusal.sentence
        );
    }
}
