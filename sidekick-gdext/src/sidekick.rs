//! The `Sidekick` singleton as GDScript and F1 see it. No logic here: each method is a line that hands on.

use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

use godot::builtin::AnyDictionary;
use godot::prelude::*;

use crate::checkpoint;
use crate::common_fields;
use crate::core;
use crate::death;
use crate::flush::{self, Flushes};
use crate::frame;
use crate::hot_call::Anything;
use crate::recorder::Mode;
use crate::requests::Requests;
use crate::standby;
use crate::store::SidekickStore;

/// Records what happens on a game server so that it survives a crash: a small program beside the server, the watchdog, takes
/// each record out of shared memory, commits it to disk, uploads it, and relaunches the server when it dies.
///
/// ```gdscript
/// func _ready() -> void:
///     Sidekick.mark_ready()
///
/// func _on_hit(attacker: int, victim: int, damage: float) -> void:
///     Sidekick.record(&"damage", {"attacker": attacker, "victim": victim, "damage": damage})
///
/// func _on_match_ended() -> void:
///     Sidekick.record(&"match_ended", {"duration_s": 312.5})
///     if not await Sidekick.flush():
///         push_warning("The end of the match is not on disk yet.")
/// ```
///
/// Three modes, fixed when the library is loaded: in the **editor** every method does nothing; **unsupervised**, without a
/// watchdog, records are only counted; **supervised**, launched by `addons/sidekick/sidekick.sh`, everything works as
/// described. Nothing here ever stops the game: what cannot be done is counted and warned of once.
#[derive(GodotClass)]
#[class(singleton, init, base = Object)]
pub(crate) struct Sidekick {
    pub(crate) flushes: Flushes,
    pub(crate) requests: Requests,
    /// A tree of values that outlives the server, see [SidekickStore]. Always the same object.
    #[var(get = get_store, no_set)]
    store: PhantomVar<Gd<SidekickStore>>,
    store_object: Mutex<Option<Gd<SidekickStore>>>,
    base: Base<Object>,
}

#[godot_api]
impl Sidekick {
    /// This server was a standby and is the active one from now on, see `when_active`.
    #[signal]
    pub(crate) fn activated();

    /// Once a watchdog is there: after the start, and again after it was lost.
    #[signal]
    pub(crate) fn watchdog_connected();

    /// The watchdog has been silent for longer than the project setting `sidekick/watchdog/lost_after_s`. Records are
    /// still taken: they wait in shared memory for the next watchdog.
    #[signal]
    pub(crate) fn watchdog_lost();

    /// Every record up to `seq` is on disk. At most once a frame.
    #[signal]
    pub(crate) fn committed(seq: i64);

    /// Every record up to `seq` is at the backend. At most once a frame.
    #[signal]
    pub(crate) fn uploaded(seq: i64);

    /// The server is to quit: save, then call `get_tree().quit()`; after `grace_seconds` it is killed. If nothing
    /// is connected to this signal and `SceneTree.auto_accept_quit` is on, the server quits by itself in the next frame.
    #[signal]
    pub(crate) fn quit_requested(grace_seconds: f64);

    /// The server's process uses `bytes` of memory, more than `[health] memory_soft`: free what can be freed, or
    /// finish the match and quit. At `memory_max` it is asked to quit and started anew.
    #[signal]
    pub(crate) fn memory_high(bytes: i64);

    // `record` is registered by hot_call.rs.

    /// Puts `fields` into every record from now on, of any stream: `Sidekick.set_common_fields({"match": id})` when a match begins.
    /// They take the place of those that were set before, so an empty dictionary takes all away.
    ///
    /// A record whose data is a dictionary has them as if the game had put them in: rules see them, they count towards its 64 KiB, and
    /// a field of that name which the record has itself stays. Other data is recorded as it is; checkpoints and the store
    /// have no such fields. May be called from any thread. Later changes of `fields` do not count. They hold for this
    /// process: the next one, also one that was a standby, sets its own.
    ///
    /// Keys are String or StringName, values any but objects, callables, signals and RIDs; at most 32 fields, and 4 KiB as
    /// [method @GlobalScope.var_to_bytes] encodes all of them. What cannot be set is told in an error, and nothing changes.
    #[func]
    fn set_common_fields(&self, fields: AnyDictionary) {
        common_fields::set(&fields);
    }

    /// Waits until everything recorded before is on disk: `var ok: bool = await Sidekick.flush()`. False when
    /// `timeout_s` seconds were over first (the records are still safe in shared memory), and when there is no watchdog.
    /// Await it at once: a signal that is awaited after it was emitted never returns. To be called on the main thread.
    #[func]
    fn flush(&self, #[opt(default = 5.0)] timeout_s: f64) -> Signal {
        let session = core::session();
        if let Some(session) = session {
            session.kick();
        }
        let until_seq = session.map(|session| session.last_seq());
        self.flushes
            .begin(until_seq, flush::timeout(timeout_s), Instant::now())
    }

    /// Keeps `state` under `key` for the next server process, which gets it from `restore`: the latest one counts. Safe when the
    /// call has returned, also from a crash in the next instruction. Returns its sequence number (see `committed`), or 0 if it was
    /// not kept.
    ///
    /// `state` is any value but objects, callables, signals and RIDs, of at most 1 MiB as `var_to_bytes` encodes it; `key` has 1
    /// to 128 bytes. May be called from any thread, as often as every frame. What is refused is warned of once per cause; also
    /// while a `restore(key)` is without its answer, so that an empty match never takes the place of the good one. Without a
    /// watchdog it is only counted. The newest states of all keys together may have 64 MiB, and there are 4,096 keys at most: call
    /// `forget_checkpoint` when a match is over or a player has left for good.
    #[func]
    fn checkpoint(&self, key: GString, state: Variant) -> i64 {
        checkpoint::checkpoint(&key, &state)
    }

    /// As `checkpoint`, of what has changed since the last one: keys of `delta` replace those of the state, which has to be a
    /// dictionary. Returns 0 if a whole checkpoint has to come first: none was taken in this run, the last one was refused, or 64
    /// deltas or 1 MiB of them follow it already. A key cannot be taken away by a delta.
    #[func]
    fn checkpoint_delta(&self, key: GString, delta: VarDictionary) -> i64 {
        checkpoint::delta(&key, &delta.to_variant())
    }

    /// Takes everything away that is kept under `key`: whoever restores it from now on gets its default. Safe when the call has
    /// returned, in order with the checkpoints before and after it. Returns its sequence number, or 0 if it was not taken, as
    /// while a `restore(key)` is without its answer. Nothing to forget is no error.
    #[func]
    fn forget_checkpoint(&self, key: GString) -> i64 {
        checkpoint::forget(&key)
    }

    /// The state that the last server process kept under `key`, or `default` if there is none: `var state: Dictionary =
    /// Sidekick.restore("match", {})`. Waits until what the dead process left is read, up to `timeout_s`; this holds up the game,
    /// so call it while loading. What it came to is told by `restore_info`.
    ///
    /// A state of another type than `default` is not given out, with a warning. In a safe start (see `is_safe_start`) it is the
    /// state before the one that the processes before had loaded and died with.
    #[func]
    fn restore(
        &self,
        key: GString,
        #[opt(default = Anything::null())] default: Anything,
        #[opt(default = 5.0)] timeout_s: f64,
    ) -> Variant {
        checkpoint::restore(&self.requests, &key, default.0, flush::timeout(timeout_s))
    }

    /// What the last `restore(key)` came to: `status` ("restored", "none", "timeout", "unsupervised", or "wrong_type" if it is not
    /// of the default's type), `age_s` (of the state), `incarnation` and `frame` (of the process that kept it), `is_safe` (it is an
    /// older one, of a safe start) and `message` (what went wrong). Empty before a restore.
    #[func]
    fn restore_info(&self, key: GString) -> VarDictionary {
        checkpoint::info(&key)
    }

    /// The object of the property `store`.
    #[func]
    fn get_store(&self) -> Gd<SidekickStore> {
        self.store_object
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .get_or_insert_with(SidekickStore::create)
            .clone()
    }

    /// Says that the server has loaded and serves.
    #[func]
    fn mark_ready(&self) {
        frame::mark_ready();
    }

    /// Announces that the main loop will stand still for up to `seconds` (loading a big map), so that the watchdog does not
    /// take it for a hang. At most one hour.
    #[func]
    fn expect_stall(&self, seconds: f64) {
        if let Some(session) = core::session() {
            let seconds = seconds.clamp(0.0, 3600.0);
            session.expect_stall(Duration::try_from_secs_f64(seconds).unwrap_or_default());
        }
    }

    /// Whether a watchdog launched this server, so that records are kept.
    #[func]
    fn is_supervised(&self) -> bool {
        core::session().is_some()
    }

    /// Whether the watchdog launched this server because the one before had died.
    #[func]
    fn is_relaunch(&self) -> bool {
        core::core().is_some_and(standby::is_relaunch)
    }

    /// How the server process before this one died, if this is a relaunch: a dictionary with `cause: String` (in words),
    /// `kind: String` (in one word), `signal: int`, `signal_name: String`, `exit_code: int`, `frame: int`,
    /// `uptime_s: float`, `last_tick_ms: float`, `phase: String`, `ready: bool`, `incarnation: int`, `pid: int`,
    /// `started` and `ended: String` (RFC 3339), `backtrace` and `script_backtrace: Array` of String,
    /// `script_errors: Array` of Dictionary (`kind`, `message`, `function`, `file: String`, `line: int`,
    /// `backtrace: Array`, `count: int`), `log_lines: Array` of Dictionary (`incarnation: int`, `level`, `text: String`,
    /// `cut: bool`), `memory: Array` of Dictionary (`at_s: float`, `rss_bytes: int`), `report_id: String` and whatever
    /// else the crash report holds; a value is null where nothing is known. Empty if there was no death, and for a moment
    /// after the start, while the report is being written.
    #[func]
    fn get_last_death(&self) -> VarDictionary {
        death::last_death(core::core().and_then(standby::last_death))
    }

    /// Whether the watchdog asks for a careful start: the servers before died one after the other, so do not load what may
    /// have killed them.
    #[func]
    fn is_safe_start(&self) -> bool {
        core::core().is_some_and(|core| core.is_safe_start)
    }

    /// Says whether a restart would disturb nobody: true when the last player has left, false when one has come.
    #[func]
    fn set_idle(&self, idle: bool) {
        if let Some(session) = core::session() {
            session.set_idle(idle);
        }
    }

    /// Asks for a restart (for an update, or to get rid of leaked memory) as soon as the server is idle, see
    /// `set_idle`. It comes as `quit_requested`.
    #[func]
    fn restart_when_idle(&self) {
        if let Some(session) = core::session() {
            session.set_restart_wanted(true);
        }
    }

    /// Whether this server waits to take another's place (`[engine] standby = 1`): it is to load what it needs, but must
    /// neither bind its port nor serve anybody, and records nothing, until `when_active`.
    #[func]
    fn is_standby(&self) -> bool {
        standby::is_standby()
    }

    /// To be awaited before the server binds its port and restores its state: `await Sidekick.when_active()`. Returns at
    /// once, but in a standby: there it returns when the watchdog makes this server the active one, since the other has
    /// died. Until then the main loop is held and runs one frame a second, so load first.
    #[func]
    fn when_active(&self) -> Variant {
        standby::when_active(&self.to_gd())
    }

    /// The number of this server process in its watchdog's count, 1 or more; 0 without a watchdog, and in a standby.
    #[func]
    fn get_incarnation(&self) -> i64 {
        if standby::is_standby() {
            return 0;
        }
        core::core().map_or(0, |core| i64::from(core.incarnation))
    }

    /// Numbers for a status line: `mode` ("editor", "unsupervised", "supervised"), `source` (the watchdog's
    /// name for this server), `epoch` (the UUID of this run's records), `recorded`, `refused`,
    /// `committed` and `uploaded` (records), `backlog` (recorded but not uploaded yet) and
    /// `ring_used` (bytes in shared memory).
    #[func]
    fn get_stats(&self) -> VarDictionary {
        let mut stats = VarDictionary::new();
        let Some(core) = core::core() else {
            return stats;
        };
        let recorder = &core.recorder;
        let session = recorder.session();
        stats.set(
            "mode",
            match recorder.mode() {
                Mode::Editor => "editor",
                Mode::Unsupervised => "unsupervised",
                Mode::Supervised(_) => "supervised",
            },
        );
        let recorded = recorder.recorded();
        let uploaded = session.map_or(0, |session| session.uploaded_seq());
        let epoch = session
            .map(|session| session.epoch().to_string())
            .unwrap_or_default();
        stats.set("source", core.source.as_str());
        stats.set("epoch", epoch.as_str());
        stats.set("recorded", recorded as i64);
        stats.set("refused", recorder.refused() as i64);
        stats.set(
            "committed",
            session.map_or(0, |session| session.committed_seq()) as i64,
        );
        stats.set("uploaded", uploaded as i64);
        stats.set(
            "backlog",
            session.map_or(0, |_| recorded.saturating_sub(uploaded)) as i64,
        );
        stats.set(
            "ring_used",
            session.map_or(0, |session| session.ring_used()) as i64,
        );
        stats
    }
}
