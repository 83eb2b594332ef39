//! `Sidekick.store` as GDScript and F1 see it. No logic here: each method reads its arguments and hands on.

use godot::builtin::{AnyArray, AnyDictionary};
use godot::prelude::*;
use sidekick_ipc::tree::{NODES_PER_ANSWER_MAX, StoreOp, StoreQuery, StoreResult};

use crate::core;
use crate::flush;
use crate::hot_call::{Anything, List, Options};
use crate::request::SidekickRequest;
use crate::requests::{Asked, TIMEOUT_S_DEFAULT, warn_once};
use crate::sidekick::Sidekick;
use crate::watch::SidekickWatch;
use crate::words::{self, Refusal};

/// A tree of values that outlives the server: what several servers share, or the next process of this one needs. To be had as
/// `Sidekick.store`.
///
/// ```gdscript
/// var result: Dictionary = await Sidekick.store.put("/match/42", {"map": "arena"}, {"exists": false}).wait()
/// if not result.ok:
///     push_warning(result.message)
/// var found: Variant = Sidekick.store.get_value("/match/42", {})
/// Sidekick.store.watch("/match/*").changed.connect(func(event: Dictionary) -> void: print(event))
/// ```
///
/// A path has 1 to 16 segments of at most 128 bytes, as `"/match/42/player/7"`; the first one must not be `sidekick`. A pattern is a
/// path in which `*` stands for anything within a segment and `**` for any number of segments. A value is any but objects,
/// callables, signals and RIDs, of at most 1 MiB as [method @GlobalScope.var_to_bytes] encodes it.
///
/// A write is safe when its call has returned: it is applied once, whatever dies after that. How it went is told by its
/// [SidekickRequest]: `ok`; `error`, one word (`not_found`, `condition_failed`, `keep_while_failed`, `lease_held`, `lease_lost`,
/// `too_large`, `invalid`, `tree_full`, `too_many`, `answer_lost`, `unavailable`, `timeout`, `unsupervised`, `shutting_down`);
/// `message`, a sentence; `version` and `value` of the node; `revision` of the whole store; `nodes`, `succeeded`, `next` and `lease`
/// where a method says so. `deleted` are the nodes that vanished with a write, dictionaries with `path` and `reason`; `count` says how
/// many, unless a method says otherwise, and `deleted_cut` that there were more than the 1,024 that `deleted` names. A write whose request ends with `timeout` may still be applied. With `answer_lost` it
/// was applied: more than 16 MiB of answers waited while the game took none, so this one's `value`, `nodes` and `deleted` were given up;
/// the rest of it is told.
///
/// **Options of a write**, all of which must hold, or nothing is changed and `error` is `condition_failed`: `exists` and
/// `has_value` (a bool), `version`, `child_version`, `child_count` (a number, or an array such as `[">=", 3]`), `value` (exactly
/// this one), `field` (`{"stats/hp": [">", 0]}`: fields of a dictionary's, by keys with slashes between or an array of keys),
/// `lease_token` (a number), `not` (a dictionary of conditions), `all` and `any` (arrays of them), `at` (`{"/other": {"exists": true}}`:
/// the same about other nodes). Further `timeout_s` (5 if not given) and, for [method put]: `keep_while` (`{"/match/42": true}` or
/// with conditions: the node is deleted when one no longer holds), `lease` (what [method lease] has answered: the node is deleted
/// when the lease ends).
///
/// **Options of a question**: `linearizable` (also what another watchdog of the group has committed a moment ago is seen),
/// `timeout_s`; for [method list] also `limit` and `after`.
///
/// Methods may be called from any thread; signals come on the main thread.
#[derive(GodotClass)]
#[class(no_init, base = RefCounted)]
pub(crate) struct SidekickStore {
    base: Base<RefCounted>,
}

#[godot_api]
impl SidekickStore {
    /// Sets the value at `path`; nodes above it are made. With a pattern the value of every node that matches is set (1,024 at
    /// most), and none is made; `count` tells how many. A put of the value that is there already changes no version and is no event.
    #[func]
    fn put(
        &self,
        path: GString,
        value: Variant,
        #[opt(default = Options::none())] options: Options,
    ) -> Gd<SidekickRequest> {
        let read = words::write_options(&options.0, &[]);
        let timeout_s = timeout_of(read.as_ref().ok().and_then(|read| read.timeout_s));
        let asked = read.and_then(|read| {
            let value = words::value(&value)?;
            Ok(Asked::Op(words::put(&path.to_string(), value, read)?))
        });
        send(asked, timeout_s, None)
    }

    /// The value at `path`, at once: waits for the answer up to `timeout_s`, which holds up the game, so this is for loading. What
    /// this server has written before is seen. `default` if there is no value, no answer or no watchdog.
    #[func]
    fn get_value(
        &self,
        path: GString,
        #[opt(default = Anything::null())] default: Anything,
        #[opt(default = 1.0)] timeout_s: f64,
    ) -> Variant {
        let default = default.0;
        let Some(session) = core::session() else {
            return default;
        };
        let answer = words::path(&path.to_string()).and_then(|path| {
            let linearizable = false;
            let query = StoreQuery::Get { path, linearizable };
            let timeout = flush::timeout(timeout_s);
            Sidekick::singleton()
                .bind()
                .requests
                .ask(session, &query, timeout)
        });
        match answer {
            Ok(StoreResult::Ok(answer)) => answer.value().map_or(default, words::variant),
            Ok(_) => default,
            Err(refusal) => {
                warn_once(&refusal, "a value could not be read, the default is used");
                default
            }
        }
    }

    /// Reads one node: `value`, `version`, and all of it in `nodes[0]`; `not_found` if there is none. With a pattern as [method list].
    #[func]
    fn fetch(
        &self,
        path: GString,
        #[opt(default = Options::none())] options: Options,
    ) -> Gd<SidekickRequest> {
        let text = path.to_string();
        if text.contains('*') {
            return self.list(path, options);
        }
        let read = words::read_options(&options.0);
        let timeout_s = timeout_of(read.as_ref().ok().and_then(|read| read.timeout_s));
        let asked = read.and_then(|read| {
            Ok(Asked::Query(StoreQuery::Get {
                path: words::path(&text)?,
                linearizable: read.linearizable,
            }))
        });
        send(asked, timeout_s, None)
    }

    /// Deletes a node and all below it, or every node that matches a pattern (1,024 at most, and what is below them). `count` tells
    /// how many went, with those that went along; `deleted` tells which and why, of the first 1,024 (`deleted_cut`: there were more).
    /// Nothing to delete is no error.
    #[func]
    fn delete(
        &self,
        path: GString,
        #[opt(default = Options::none())] options: Options,
    ) -> Gd<SidekickRequest> {
        let read = words::write_options(&options.0, &[]);
        let timeout_s = timeout_of(read.as_ref().ok().and_then(|read| read.timeout_s));
        let asked = read.and_then(|read| {
            if !read.keep_while.is_empty() || read.lease.is_some() {
                return Err(Refusal::invalid(
                    "a delete takes no keep_while and no lease; ask for lease_token instead",
                ));
            }
            Ok(Asked::Op(StoreOp::Delete {
                target: words::pattern(&path.to_string())?,
                when: read.when,
            }))
        });
        send(asked, timeout_s, None)
    }

    /// The nodes that match, ordered by path: `nodes` is an array of dictionaries with `path`, `value`, `version`, `has_value`,
    /// `child_count`, `child_version`, `lease_token`. At most 1,024 and about 1 MiB at a time: `next`, if it is not empty, is the
    /// `after` of the next page.
    #[func]
    fn list(
        &self,
        pattern: GString,
        #[opt(default = Options::none())] options: Options,
    ) -> Gd<SidekickRequest> {
        let read = words::read_options(&options.0);
        let timeout_s = timeout_of(read.as_ref().ok().and_then(|read| read.timeout_s));
        let asked = read.and_then(|read| {
            Ok(Asked::Query(StoreQuery::List {
                pattern: words::pattern(&pattern.to_string())?,
                after: read.after,
                limit: read.limit.unwrap_or(NODES_PER_ANSWER_MAX as u32),
                linearizable: read.linearizable,
            }))
        });
        send(asked, timeout_s, None)
    }

    /// How many nodes match, as `count`.
    #[func]
    fn count(
        &self,
        pattern: GString,
        #[opt(default = Options::none())] options: Options,
    ) -> Gd<SidekickRequest> {
        let read = words::read_options(&options.0);
        let timeout_s = timeout_of(read.as_ref().ok().and_then(|read| read.timeout_s));
        let asked = read.and_then(|read| {
            Ok(Asked::Query(StoreQuery::Count {
                pattern: words::pattern(&pattern.to_string())?,
                linearizable: read.linearizable,
            }))
        });
        send(asked, timeout_s, None)
    }

    /// Several ops at once, all or none. `compare` asks of nodes what options ask (`{"/gold/1": {"field": {"coins": [">=", 10]}}}`); if
    /// all of it holds `then` is done, else `otherwise`, and `succeeded` tells which. An op is a dictionary: `{"put": path, "value":
    /// value}` with options of a write beside (a condition on the node's value goes into `when`), `{"get": path}` or `{"delete":
    /// path}`. `nodes` has one node for each op, with its value for a get; `count` tells how many nodes went, `deleted` which, of the
    /// first 1,024. At most 128 ops with 1 MiB of values.
    #[func]
    fn transaction(
        &self,
        compare: AnyDictionary,
        then: AnyArray,
        #[opt(default = List::empty())] otherwise: List,
        #[opt(default = TIMEOUT_S_DEFAULT)] timeout_s: f64,
    ) -> Gd<SidekickRequest> {
        let asked = words::compare(&compare).and_then(|compare| {
            Ok(Asked::Op(StoreOp::Transaction {
                compare,
                then: words::branch(&then)?,
                otherwise: words::branch(&otherwise.0)?,
            }))
        });
        send(asked, timeout_s, None)
    }

    /// Takes the lease at `path` for so many seconds (0.1 to 86,400): nobody else gets it until it ends or is released. `lease` is a
    /// dictionary with `path`, `token` (higher for each later grant: hand it to whom it may concern), `seconds` and `use_until_ms`: from
    /// that moment of [method Time.get_ticks_msec] on it must not be relied on, since others may get it. Renew it before.
    #[func]
    fn lease(&self, path: GString, seconds: f64) -> Gd<SidekickRequest> {
        let asked = words::path(&path.to_string()).map(|path| {
            Asked::Op(StoreOp::LeaseGrant {
                path,
                ttl_ms: (seconds.max(0.0) * 1000.0) as u64,
            })
        });
        send(asked, TIMEOUT_S_DEFAULT, Some(seconds))
    }

    /// Begins the time of a lease anew; `lease` is what [method lease] has answered. `lease_lost` if it has ended meanwhile.
    #[func]
    fn renew_lease(&self, lease: AnyDictionary) -> Gd<SidekickRequest> {
        let lease = lease.to_variant();
        let seconds = words::lease_seconds(&lease);
        let asked = words::lease(&lease).map(|lease| Asked::Op(StoreOp::LeaseRenew(lease)));
        send(asked, TIMEOUT_S_DEFAULT, seconds)
    }

    /// Gives a lease back; nodes that hang on it are deleted. `count` tells how many, `deleted` which, of the first 1,024.
    #[func]
    fn release_lease(&self, lease: AnyDictionary) -> Gd<SidekickRequest> {
        let asked =
            words::lease(&lease.to_variant()).map(|lease| Asked::Op(StoreOp::LeaseRelease(lease)));
        send(asked, TIMEOUT_S_DEFAULT, None)
    }

    /// Tells of every change of the nodes that match: from now on (-1), or after `from_revision`, the `revision` of an answer or event (0
    /// for a store in which nothing was ever written): none is missed in between, or a `compacted` event says so. So nothing escapes
    /// who lists first and then watches from the `revision` of the list. At most 64 watches at a time.
    #[func]
    fn watch(
        &self,
        pattern: GString,
        #[opt(default = -1)] from_revision: i64,
    ) -> Gd<SidekickWatch> {
        let asked = words::pattern(&pattern.to_string()).map(|pattern| StoreQuery::Watch {
            pattern,
            from_revision: u64::try_from(from_revision).ok(),
        });
        Sidekick::singleton().bind().requests.watch(asked)
    }
}

impl SidekickStore {
    pub(crate) fn create() -> Gd<Self> {
        Gd::from_init_fn(|base| Self { base })
    }
}

fn timeout_of(asked: Option<f64>) -> f64 {
    asked.unwrap_or(TIMEOUT_S_DEFAULT)
}

fn send(
    asked: Result<Asked, Refusal>,
    timeout_s: f64,
    lease_s: Option<f64>,
) -> Gd<SidekickRequest> {
    Sidekick::singleton()
        .bind()
        .requests
        .send(asked, timeout_s, lease_s)
}
