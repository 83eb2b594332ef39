//! The rules in force: what intake and uploads ask, and how they are replaced while both go on.
//!
//! They outlive the data plane. Each plane that opens puts their text into its store and learns which version they have
//! there, and which older ones its plans still name.

use std::borrow::Cow;
use std::cell::RefCell;
use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError, RwLock};

use sidekick_ipc::frame::{FrameHeader, Record};
use tokio::runtime::Handle;
use tokio::sync::watch;
use tracing::{info, warn};

use super::service::Reloads;
use super::tap::{Tap, TappedFilter};
use crate::api::operator::{ReloadError, Reloaded, Stage};
use crate::config::{Config, ConfigErrors, Entry, full_key};
use crate::intake::{Filter, FilterOrigin, Filtered};
use crate::process::{
    FoldRules, Origin, Refusal, RuleError, Scratch, Screen, Shape, Shaped, Verdict,
};
use crate::store::{Store, StoreError};
use crate::upload::{self, Shaper, Stored};

/// Reads the configuration anew, from where it was read at the start.
pub type Reload = Box<dyn Fn() -> Result<Config, ConfigErrors> + Send + Sync>;

thread_local! {
    /// What changed records are made in. Both sides judge on threads of their own.
    static SCRATCH: RefCell<Scratch> = RefCell::default();
}

/// The first halves of the rules, as intake has them.
#[derive(Debug)]
struct Screening {
    screen: Screen,
    /// It was told that a condition has no value for some record.
    is_told: AtomicBool,
}

#[derive(Debug, Default)]
struct Shapes {
    current: u32,
    by_version: BTreeMap<u32, Arc<Shape>>,
}

/// The rules in force.
pub(super) struct LiveRules {
    screening: RwLock<Option<Arc<Screening>>>,
    shapes: RwLock<Shapes>,
    /// What looks at more than one record.
    folds: watch::Sender<Arc<FoldRules>>,
    /// As of the start or the last reload. Held by whoever changes the rules, one at a time.
    config: tokio::sync::Mutex<Config>,
    /// The store of the open plane. Apart from the lock above: a plane must be able to close while somebody waits for it.
    store: Mutex<Option<(Arc<Store>, Handle)>>,
    reload: Reload,
    reloads: Reloads,
    pub(super) tap: Arc<Tap>,
}

impl fmt::Debug for LiveRules {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("LiveRules")
            .field("screening", &self.screening)
            .field("shapes", &self.shapes)
            .finish_non_exhaustive()
    }
}

impl LiveRules {
    /// None at all.
    #[cfg(test)]
    pub(in crate::app) fn none(config: &Config) -> Arc<Self> {
        let same = config.clone();
        let rules = Self::new(config, Box::new(move || Ok(same.clone())));
        Arc::new(rules.unwrap())
    }

    /// The rules of `config`.
    ///
    /// # Errors
    /// None for a configuration that was read as such.
    pub(super) fn new(config: &Config, reload: Reload) -> Result<Self, RuleError> {
        let screen = config.streams.screen()?;
        let folds = config.streams.fold_rules()?;
        Ok(Self {
            screening: RwLock::new(screening(screen)),
            shapes: RwLock::default(),
            folds: watch::Sender::new(Arc::new(folds)),
            config: tokio::sync::Mutex::new(config.clone()),
            store: Mutex::new(None),
            reload,
            reloads: Reloads::default(),
            tap: Arc::default(),
        })
    }

    /// Has reloads told.
    #[must_use]
    pub(super) fn told_by(self, reloads: Reloads) -> Self {
        Self { reloads, ..self }
    }

    /// Puts the rules into the store of a plane that opens, and learns which ones its plans name.
    ///
    /// # Errors
    /// What the store says.
    pub(super) async fn join(&self, store: &Arc<Store>) -> Result<(), StoreError> {
        // Held until the store is known: a reload meanwhile would miss it.
        let config = self.config.lock().await;
        self.put(store, config.streams.shape_text()).await?;
        self.set_store(Some((Arc::clone(store), Handle::current())));
        Ok(())
    }

    /// The plane closes.
    pub(super) fn leave(&self) {
        self.set_store(None);
    }

    fn set_store(&self, store: Option<(Arc<Store>, Handle)>) {
        *self.store.lock().unwrap_or_else(PoisonError::into_inner) = store;
    }

    /// A copy: the lock is not held while the store is waited for, since the plane closes meanwhile if it has to.
    fn store(&self) -> Option<(Arc<Store>, Handle)> {
        let store = self.store.lock().unwrap_or_else(PoisonError::into_inner);
        store.clone()
    }

    async fn put(&self, store: &Store, text: String) -> Result<u32, StoreError> {
        let current = store.set_rules(text).await?;
        let mut by_version = BTreeMap::from([(0, Arc::new(Shape::default()))]);
        for (version, text) in store.rules() {
            match Shape::parse(&text) {
                Ok(shape) => drop(by_version.insert(version, Arc::new(shape))),
                // Written by a later version of this program. A batch that was planned with it waits.
                Err(error) => warn!(version, %error, "rules of an earlier start cannot be used"),
            }
        }
        let mut shapes = self.shapes.write().unwrap_or_else(PoisonError::into_inner);
        *shapes = Shapes {
            current,
            by_version,
        };
        Ok(current)
    }

    /// What judges records before they are stored.
    pub(super) fn filter(&self) -> Option<Arc<dyn Filter>> {
        let screening = self
            .screening
            .read()
            .unwrap_or_else(PoisonError::into_inner);
        let rules = screening.clone().map(|rules| rules as Arc<dyn Filter>);
        match self.tap.is_open(Stage::Raw) {
            true => Some(Arc::new(TappedFilter {
                tap: Arc::clone(&self.tap),
                rules,
            })),
            false => rules,
        }
    }

    /// What looks at more than one record, now and later.
    pub(super) fn folds(&self) -> watch::Receiver<Arc<FoldRules>> {
        self.folds.subscribe()
    }

    /// Reads the configuration anew and puts its rules in force. Blocks until the store has them; on a runtime's thread it
    /// must not be called.
    ///
    /// # Errors
    /// See [`ReloadError`]. The old rules stay in force then.
    pub(super) fn reload(&self) -> Result<Reloaded, ReloadError> {
        let mut config = self.config.blocking_lock();
        let _reloading = self.reloads.begin();
        let refused = |why: String| ReloadError::Refused { why };
        let new = (self.reload)().map_err(|errors| refused(errors.to_string()))?;
        let cannot = |why: RuleError| refused(why.to_string());
        let text = new.streams.shape_text();
        let screen = new.streams.screen().map_err(cannot)?;
        let folds = new.streams.fold_rules().map_err(cannot)?;
        let failing = new.streams.failing_trials(&new.name).map_err(cannot)?;
        if let Some((name, differences)) = failing.first() {
            let found = differences.join("; ");
            return Err(refused(format!("test {name:?} fails: {found}")));
        }
        let version = match self.store() {
            Some((store, runtime)) => runtime
                .block_on(self.put(&store, text))
                .map_err(|error| ReloadError::NotNow(error.to_string()))?,
            // The next plane puts them into its store.
            None => 0,
        };
        *self
            .screening
            .write()
            .unwrap_or_else(PoisonError::into_inner) = screening(screen);
        self.folds.send_replace(Arc::new(folds));
        let needs_restart = other_changes(&config, &new);
        let rules = new.streams.rules.len();
        config.streams = new.streams;
        info!(rules, version, ?needs_restart, "rules reloaded");
        Ok(Reloaded {
            rules,
            version,
            needs_restart,
        })
    }
}

/// What has changed besides the rules: it waits for the watchdog's next start.
fn other_changes(old: &Config, new: &Config) -> Vec<String> {
    let key_of = |entry: &Entry| full_key(entry.section, entry.name);
    let old_entries: BTreeMap<String, &Entry> = old
        .entries
        .iter()
        .map(|entry| (key_of(entry), entry))
        .collect();
    let is_new = |entry: &&Entry| {
        let before = old_entries.get(&key_of(entry));
        before.is_none_or(|before| !entry.is_as(before))
    };
    let changed: BTreeSet<String> = new.entries.iter().filter(is_new).map(key_of).collect();
    let mut changed: Vec<String> = changed.into_iter().collect();
    if old.streams.kept() != new.streams.kept() {
        changed.push("stream.keep".into());
    }
    changed
}

fn screening(screen: Screen) -> Option<Arc<Screening>> {
    (!screen.is_empty()).then(|| {
        Arc::new(Screening {
            screen,
            is_told: AtomicBool::new(false),
        })
    })
}

/// The most that a value grows by being hashed.
const HASH_GROWTH: usize = 5;

impl Filter for Screening {
    fn growth(&self) -> usize {
        match self.screen.grows() {
            true => HASH_GROWTH,
            false => 1,
        }
    }

    fn judge(
        &self,
        origin: &FilterOrigin<'_>,
        record: &Record<'_>,
        header: &FrameHeader,
        out: &mut Vec<u8>,
    ) -> Filtered {
        let origin = Origin {
            stream: record.stream,
            source: origin.source,
            incarnation: origin.incarnation,
            game_version: Some(origin.game_version),
            seq: header.seq,
            time_ns: i128::from(header.monotonic_ns) + i128::from(origin.realtime_offset_ns),
        };
        let screened = SCRATCH.with_borrow_mut(|scratch| {
            let screened = self.screen.screen(&origin, record.variant, scratch);
            if screened.verdict == Verdict::Changed {
                out.extend_from_slice(scratch.data());
            }
            screened
        });
        if screened.undecided && !self.is_told.swap(true, Ordering::Relaxed) {
            warn!(
                stream = record.stream,
                "the condition of a rule's drop has no value for a record; such records are kept (told once)"
            );
        }
        match screened.verdict {
            Verdict::Same => Filtered::Keep,
            Verdict::Changed => Filtered::Changed,
            Verdict::Dropped => Filtered::Dropped,
            Verdict::Unreadable => Filtered::Unreadable,
        }
    }
}

/// A stored record, as rules see it.
pub(crate) fn origin_of<'a>(stored: &'a Stored<'_>) -> Origin<'a> {
    Origin {
        stream: stored.record.stream,
        source: &stored.head.source,
        incarnation: stored.head.incarnation,
        game_version: Some(stored.game_version),
        seq: stored.seq,
        time_ns: i128::from(stored.monotonic_ns) + i128::from(stored.head.realtime_offset_ns),
    }
}

/// Why a record was not sent to a sink.
const BY_FILTER: &str = "filter";
const BY_SINK: &str = "not for this sink";

impl Shaper for LiveRules {
    fn version(&self) -> u32 {
        self.shapes
            .read()
            .unwrap_or_else(PoisonError::into_inner)
            .current
    }

    fn knows(&self, version: u32) -> bool {
        let shapes = self.shapes.read().unwrap_or_else(PoisonError::into_inner);
        shapes.by_version.contains_key(&version)
    }

    fn shape(
        &self,
        version: u32,
        sink: &str,
        stored: &Stored<'_>,
        out: &mut Vec<u8>,
    ) -> upload::Shaped {
        let shaped = self.shape_quietly(version, sink, stored, out);
        if self.tap.is_open(Stage::Uploaded) {
            match &shaped {
                upload::Shaped::Keep => self.tap.uploaded(sink, stored, stored.record.variant),
                upload::Shaped::Changed => {
                    if let Ok(record) = Record::parse(out) {
                        self.tap.uploaded(sink, stored, record.variant);
                    }
                }
                upload::Shaped::Dropped { .. } | upload::Shaped::Refused { .. } => {}
            }
        }
        shaped
    }
}

impl LiveRules {
    fn shape_quietly(
        &self,
        version: u32,
        sink: &str,
        stored: &Stored<'_>,
        out: &mut Vec<u8>,
    ) -> upload::Shaped {
        let shapes = self.shapes.read().unwrap_or_else(PoisonError::into_inner);
        let Some(shape) = shapes.by_version.get(&version).map(Arc::clone) else {
            let reason = format!("the rules of version {version} are not known");
            let code = upload::BY_RULES;
            return upload::Shaped::Refused { code, reason };
        };
        drop(shapes);
        let stream = stored.record.stream;
        if !shape.touches(stream) {
            return upload::Shaped::Keep;
        }
        if !shape.goes_to(stream, sink) {
            return upload::Shaped::Dropped {
                reason: Cow::Borrowed(BY_SINK),
            };
        }
        let origin = origin_of(stored);
        SCRATCH.with_borrow_mut(|scratch| {
            match shape.shape(&origin, stored.record.variant, scratch) {
                Shaped::Same => upload::Shaped::Keep,
                Shaped::Changed => {
                    Record::encode_head(stream, out);
                    out.extend_from_slice(scratch.data());
                    upload::Shaped::Changed
                }
                Shaped::Dropped => upload::Shaped::Dropped {
                    reason: Cow::Borrowed(BY_FILTER),
                },
                Shaped::Refused(Refusal { code, reason }) => {
                    upload::Shaped::Refused { code, reason }
                }
            }
        })
    }
}

#[cfg(test)]
pub(in crate::app) mod tests;
