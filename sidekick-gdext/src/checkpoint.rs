//! Checkpoints: the state that the next server process goes on with.
//!
//! Versions go up over launches without anybody having asked what the last one was: the launch's number is their upper half. A
//! `restore()` that found no answer closes its key until another one has (an empty match must not overwrite the good one).

use std::collections::{HashMap, VecDeque};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use godot::prelude::*;
use sidekick_ipc::tree::{
    CHECKPOINT_KEY_BYTES_MAX, CheckpointKind, DELTAS_MAX, ErrorKind, RestoreStatus, Restored,
    StoreQuery, StoreResult, VALUE_BYTES_MAX,
};
use sidekick_ipc::{CheckpointRef, Session};

use crate::core::{self, Core};
use crate::encode;
use crate::recorder::Mode;
use crate::requests::{Requests, refused, warn_once};
use crate::words::{self, Refusal};

/// Of so many checkpoints it is known which key a later error is about.
const SENT_MAX: usize = 256;
/// Beyond a wait's time-out, before silence counts as a hang.
const STALL_MARGIN: Duration = Duration::from_secs(1);

#[derive(Default)]
struct Key {
    /// Version of the last checkpoint that was sent, or that a restore told of.
    version: u64,
    /// Version of the full checkpoint that deltas may follow.
    full: Option<u64>,
    deltas: usize,
    delta_bytes: usize,
    /// A restore had no answer: nothing is sent until one has.
    is_held: bool,
    info: Option<Info>,
}

/// What the last restore of a key came to.
#[derive(Clone, Default)]
struct Info {
    status: &'static str,
    age_s: f64,
    incarnation: u32,
    frame: u64,
    is_safe: bool,
    message: String,
}

#[derive(Default)]
struct State {
    keys: HashMap<String, Key>,
    sent: VecDeque<(u64, String)>,
}

impl Key {
    /// What is sent must not take the place of what a restore could not read.
    fn check_open(&self, name: &str) -> Result<(), Refusal> {
        match self.is_held {
            false => Ok(()),
            true => Err(Refusal::new(
                ErrorKind::Timeout,
                format_args!(
                    "restore({name:?}) had no answer, so what was kept before could be overwritten; call restore again"
                ),
            )),
        }
    }
}

impl State {
    fn note_sent(&mut self, seq: u64, name: &str) {
        if self.sent.len() >= SENT_MAX {
            self.sent.pop_front();
        }
        self.sent.push_back((seq, name.to_owned()));
    }
}

static STATE: Mutex<Option<State>> = Mutex::new(None);

fn with_state<T>(work: impl FnOnce(&mut State) -> T) -> T {
    let mut state: MutexGuard<'_, Option<State>> =
        STATE.lock().unwrap_or_else(PoisonError::into_inner);
    work(state.get_or_insert_default())
}

enum Kind {
    Full,
    Delta,
}

/// Sends a full checkpoint; its sequence number, or 0. From any thread.
pub(crate) fn checkpoint(key: &GString, state: &Variant) -> i64 {
    send(key, state, &Kind::Full)
}

/// Sends what changed since the last checkpoint; 0 when a full one has to come first.
pub(crate) fn delta(key: &GString, delta: &Variant) -> i64 {
    send(key, delta, &Kind::Delta)
}

/// Takes all checkpoints of a key away; the sequence number, or 0. From any thread.
pub(crate) fn forget(key: &GString) -> i64 {
    supervised("a checkpoint was not forgotten", |_, session| {
        try_forget(session, &key.to_string())
    })
}

fn send(key: &GString, value: &Variant, kind: &Kind) -> i64 {
    supervised("a checkpoint was not taken", |core, session| {
        try_send(core, session, &key.to_string(), value, kind)
    })
}

/// What `work` has sent, or 0; warns of a refusal. Without a watchdog it is only counted.
fn supervised(
    refused: &'static str,
    work: impl FnOnce(&Core, &Session) -> Result<u64, Option<Refusal>>,
) -> i64 {
    let Some(core) = core::core() else { return 0 };
    let session = match core.recorder.mode() {
        Mode::Supervised(session) => session,
        Mode::Unsupervised => {
            core.recorder.count();
            return 0;
        }
        Mode::Editor => return 0,
    };
    match work(core, session) {
        Ok(seq) => i64::try_from(seq).unwrap_or(0),
        Err(Some(refusal)) => {
            warn_once(&refusal, refused);
            0
        }
        Err(None) => 0,
    }
}

fn try_forget(session: &Session, name: &str) -> Result<u64, Option<Refusal>> {
    check_key(name)?;
    with_state(|state| {
        let key = state.keys.get_mut(name);
        if let Some(key) = &key {
            key.check_open(name)?;
        }
        let seq = session.forget_checkpoint(name).map_err(refused)?;
        if let Some(key) = key {
            key.full = None;
        }
        state.note_sent(seq, name);
        Ok(seq)
    })
}

fn try_send(
    core: &Core,
    session: &Session,
    name: &str,
    value: &Variant,
    kind: &Kind,
) -> Result<u64, Option<Refusal>> {
    check_key(name)?;
    let bytes =
        encode::checked(value).map_err(|sentence| Refusal::new(ErrorKind::Invalid, sentence))?;
    if bytes.len() > VALUE_BYTES_MAX {
        return Err(Some(Refusal::new(
            ErrorKind::TooLarge,
            format_args!(
                "the state of {name:?} has {} bytes, the limit is {VALUE_BYTES_MAX}; split it over several keys",
                bytes.len()
            ),
        )));
    }
    let realtime_ms = SystemTime::now()
        .duration_since(UNIX_EPOCH)
        .map_or(0, |since| {
            i64::try_from(since.as_millis()).unwrap_or(i64::MAX)
        });
    with_state(|state| {
        let nothing = Key::default();
        let key = state.keys.get(name).unwrap_or(&nothing);
        key.check_open(name)?;
        let ipc_kind = match (kind, key.full) {
            (Kind::Full, _) => CheckpointKind::Full,
            (Kind::Delta, Some(base))
                if key.deltas < DELTAS_MAX
                    && key.delta_bytes.saturating_add(bytes.len()) <= VALUE_BYTES_MAX =>
            {
                CheckpointKind::Delta { base }
            }
            (Kind::Delta, _) => return Err(None),
        };
        let version = key.version.saturating_add(1).max(first_version(core));
        let checkpoint = CheckpointRef {
            key: name,
            kind: ipc_kind,
            version,
            value: bytes.as_slice(),
            frame: session.frames(),
            realtime_ms,
        };
        let seq = session.checkpoint(&checkpoint).map_err(refused)?;
        let key = match state.keys.get_mut(name) {
            Some(key) => key,
            None => state.keys.entry(name.to_owned()).or_default(),
        };
        key.version = version;
        match kind {
            Kind::Full => (key.full, key.deltas, key.delta_bytes) = (Some(version), 0, 0),
            Kind::Delta => {
                key.deltas = key.deltas.saturating_add(1);
                key.delta_bytes = key.delta_bytes.saturating_add(bytes.len());
            }
        }
        state.note_sent(seq, name);
        Ok(seq)
    })
}

/// Above all versions of earlier launches, whether or not this one has restored.
fn first_version(core: &Core) -> u64 {
    u64::from(core.launch) << 32 | 1
}

fn check_key(key: &str) -> Result<(), Refusal> {
    let bytes = key.len();
    if bytes == 0 || bytes > CHECKPOINT_KEY_BYTES_MAX || key.chars().any(char::is_control) {
        return Err(Refusal::new(
            ErrorKind::Invalid,
            format_args!(
                "a checkpoint's key has 1 to {CHECKPOINT_KEY_BYTES_MAX} bytes and no control characters, this one has {bytes} bytes"
            ),
        ));
    }
    Ok(())
}

/// The watchdog has refused a checkpoint: the next one of its key has to be a full one.
pub(crate) fn on_error(number: u64, kind: ErrorKind, message: &str) {
    with_state(|state| {
        let at = state.sent.iter().position(|(seq, _)| *seq == number);
        let key = at
            .and_then(|at| state.sent.get(at))
            .and_then(|(_, name)| state.keys.get_mut(name));
        if let Some(key) = key {
            key.full = None;
        }
    });
    warn_once(
        &Refusal::new(kind, message),
        "the watchdog refused a checkpoint",
    );
}

/// What is kept under a key, or `default`; waits for it.
pub(crate) fn restore(
    requests: &Requests,
    key: &GString,
    default: Variant,
    timeout: Duration,
) -> Variant {
    let name = key.to_string();
    let Some((core, session)) =
        core::core().and_then(|core| Some((core, core.recorder.session()?)))
    else {
        note(
            &name,
            Info {
                status: "unsupervised",
                ..Info::default()
            },
        );
        return default;
    };
    if let Err(refusal) = check_key(&name) {
        warn_once(&refusal, "a restore failed");
        return default;
    }
    let stall = session.extend_stall(timeout.saturating_add(STALL_MARGIN));
    let query = StoreQuery::Restore {
        key: name.clone(),
        safe: core.is_safe_start,
    };
    let answer = requests.ask(session, &query, timeout);
    session.end_stall(stall, STALL_MARGIN);
    let refusal = match answer {
        Ok(StoreResult::Restored(restored)) => {
            return take(session, &name, &restored, default);
        }
        Ok(StoreResult::Error { kind, message }) => Refusal::new(kind, message),
        Ok(StoreResult::Ok(_) | StoreResult::AnswerLost { .. }) => Refusal::new(
            ErrorKind::Invalid,
            "the watchdog's answer is none to a restore; update addon and watchdog from one release",
        ),
        Err(refusal) => refusal,
    };
    warn_once(&refusal, "a restore had no answer, the default is used");
    with_state(|state| {
        let key = state.keys.entry(name).or_default();
        key.is_held = true;
        key.info = Some(Info {
            status: "timeout",
            message: refusal.sentence,
            ..Info::default()
        });
    });
    default
}

fn take(session: &Session, name: &str, restored: &Restored, default: Variant) -> Variant {
    let mut info = Info {
        status: "none",
        ..Info::default()
    };
    let mut value = None;
    if restored.status == RestoreStatus::Restored {
        info.age_s = restored.age_ms as f64 / 1000.0;
        info.incarnation = restored.incarnation;
        info.frame = restored.frame;
        info.is_safe = restored.is_safe;
        match merged(restored, &default) {
            Ok(state) => {
                info.status = "restored";
                value = Some(state);
            }
            Err(sentence) => {
                info.status = "wrong_type";
                info.message = format!("the checkpoint {name:?} is not used: {sentence}");
                let refusal = Refusal::new(ErrorKind::Invalid, &info.message);
                warn_once(&refusal, "a restore failed");
            }
        }
    }
    with_state(|state| {
        let key = state.keys.entry(name.to_owned()).or_default();
        key.is_held = false;
        key.version = key.version.max(restored.version);
        key.info = Some(info);
    });
    let Some(value) = value else { return default };
    if let Err(cause) = session.loaded(name, restored.full_version) {
        warn_once(
            &refused(cause),
            "a safe start may offer the wrong checkpoint",
        );
    }
    value
}

/// The full state with its deltas, if a script that has this default can take it.
fn merged(restored: &Restored, default: &Variant) -> Result<Variant, String> {
    let read = |bytes: &[u8]| {
        sidekick_ipc::value::check(bytes)
            .map(|()| words::variant(bytes))
            .map_err(|refusal| format!("it cannot be read: {refusal}"))
    };
    let state = read(&restored.full)?;
    if let Some((first, others)) = restored.deltas.split_first() {
        let Ok(mut whole) = state.try_to::<VarDictionary>() else {
            return Err("it has deltas and is no Dictionary".to_owned());
        };
        for delta in std::iter::once(first).chain(others) {
            let Ok(delta) = read(delta)?.try_to::<VarDictionary>() else {
                return Err("one of its deltas is no Dictionary".to_owned());
            };
            whole.extend_dictionary(&delta, true);
        }
        return fits(whole.to_variant(), default);
    }
    fits(state, default)
}

fn fits(state: Variant, default: &Variant) -> Result<Variant, String> {
    let (found, wanted) = (state.get_type(), default.get_type());
    if wanted == VariantType::NIL || found == wanted {
        return Ok(state);
    }
    let name = |of: VariantType| godot::global::type_string(i64::from(of.ord()));
    Err(format!(
        "it is {}, the default is {}; give a default of the same type, or another key to a state of another type",
        name(found),
        name(wanted)
    ))
}

fn note(name: &str, info: Info) {
    with_state(|state| state.keys.entry(name.to_owned()).or_default().info = Some(info));
}

/// What the last `restore` of the key came to; empty before one.
pub(crate) fn info(key: &GString) -> VarDictionary {
    let info = with_state(|state| {
        let key = state.keys.get(&key.to_string())?;
        key.info.clone()
    });
    let mut told = VarDictionary::new();
    let Some(info) = info else { return told };
    told.set("status", info.status);
    told.set("age_s", info.age_s);
    told.set("incarnation", i64::from(info.incarnation));
    told.set("frame", info.frame as i64);
    told.set("is_safe", info.is_safe);
    told.set("message", info.message.as_str());
    told
}
