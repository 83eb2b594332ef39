//! What `GET /api/v1/status` and `sidekick-watchdog status` tell.
//!
//! `app` fills it and publishes it through a `watch` channel at each event and about once a second; ages and
//! uptimes are as of then. Every field has a default, so that a reader of another version still reads it.

use std::borrow::Cow;
use std::collections::BTreeMap;
use std::path::PathBuf;

use serde::{Deserialize, Serialize};

use crate::books::Refused;

/// How many deaths [`EngineStatus::last_deaths`] keeps, the newest last.
pub const DEATHS_KEPT: usize = 16;

/// The whole watchdog at a glance.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct Status {
    /// The configured name, the `source` of the records.
    pub name: String,
    /// The watchdog's version.
    pub version: String,
    /// The watchdog's process id.
    pub pid: u32,
    /// Seconds since it started.
    pub uptime_s: f64,
    /// The store's group, a UUID.
    pub group: String,
    /// Where everything durable lies.
    pub data_dir: PathBuf,
    /// Where rings and locks lie.
    pub runtime_dir: PathBuf,
    /// The API's actual address.
    pub api: String,
    /// The engine.
    pub engine: EngineStatus,
    /// The second engine that waits to take its place (`[engine] standby`), while there is one.
    pub standby: Option<StandbyStatus>,
    /// How often a standby became the engine since the watchdog's own start.
    pub promotions: u64,
    /// Its place in a registry of game servers (`[registry]`), where there is to be one.
    pub registry: Option<RegistryStatus>,
    /// The session of the engine that connected last; `None` before the first.
    pub session: Option<SessionStatus>,
    /// All sessions together; what the store has counted since it was made, and gaps since this watchdog began.
    pub totals: Totals,
    /// The store.
    pub store: StoreStatus,
    /// The uploads.
    pub upload: UploadStatus,
}

/// Where in its life the engine is.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum EngineState {
    /// Launched, its first frame has not passed.
    #[default]
    Starting,
    /// In its main loop, from its first frame on; or it was adopted and has not connected yet; or it need not connect (`[health] heartbeat = "optional"`), and its startup time is
    /// over.
    Running,
    /// Its main loop is silent beyond the limit.
    Hung,
    /// Dead; the next start waits.
    Backoff,
    /// Died again and again; the next of the slow tries waits (`[restart] half_open_every`).
    CrashLoop,
    /// Asked to quit.
    Stopping,
    /// None runs and none will be started.
    Stopped,
    /// Died too often; none will be started.
    GaveUp,
}

impl EngineState {
    /// The state as one lower-case word or two.
    pub fn words(self) -> &'static str {
        match self {
            Self::Starting => "starting",
            Self::Running => "running",
            Self::Hung => "hung",
            Self::Backoff => "waiting to relaunch",
            Self::CrashLoop => "in a crash loop",
            Self::Stopping => "stopping",
            Self::Stopped => "stopped",
            Self::GaveUp => "given up",
        }
    }
}

/// The engine.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct EngineStatus {
    /// Where in its life it is.
    pub state: EngineState,
    /// Its number, from 1; 0 before the first start.
    pub incarnation: u32,
    /// Its process id, while it runs.
    pub pid: Option<u32>,
    /// Seconds since it was started, while it runs.
    pub uptime_s: Option<f64>,
    /// Seconds that it has left to quit, once it was asked to.
    pub grace_left_s: Option<f64>,
    /// Seconds until the next start, while one waits.
    pub next_try_s: Option<f64>,
    /// The frame that its heartbeat told last.
    pub frame: Option<u64>,
    /// Whether its extension has connected.
    pub connected: bool,
    /// The game's version, as its project has it; empty before its extension has connected, and where it has none.
    pub game_version: String,
    /// Whether it was adopted after its ring was cleaned up with the runtime directory: it records nothing until it is
    /// restarted.
    pub ring_lost: bool,
    /// Whether the game has called `Sidekick.mark_ready()`.
    pub ready: bool,
    /// Whether `/readyz` waits for that (`[health] ready_required`).
    pub ready_required: bool,
    /// Whether it must show a heartbeat (`[health] heartbeat`).
    pub heartbeat_required: bool,
    /// Starts since the watchdog's own start.
    pub starts: u64,
    /// Starts that came to no process.
    pub failed_starts: u64,
    /// Why the last start came to no process, until one does.
    pub start_error: Option<String>,
    /// The last deaths, the newest last, at most [`DEATHS_KEPT`].
    pub last_deaths: Vec<Death>,
}

/// Where in its life a standby is.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum StandbyState {
    /// It loads, or its game does not wait for `Sidekick.when_active()`.
    #[default]
    Booting,
    /// It waits to be activated, and costs memory only.
    Parked,
}

impl StandbyState {
    /// The state in one lower-case word.
    pub fn word(self) -> &'static str {
        match self {
            Self::Booting => "booting",
            Self::Parked => "parked",
        }
    }
}

/// A second engine that waits to take the first one's place.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct StandbyStatus {
    /// Where in its life it is.
    pub state: StandbyState,
    /// The number that it has when it is activated.
    pub incarnation: u32,
    /// Its process id.
    pub pid: u32,
    /// Seconds that it has been in that state.
    pub since_s: f64,
    /// Its resident memory in bytes, where that can be seen.
    pub resident_bytes: Option<u64>,
}

/// The server's place in a registry of game servers.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct RegistryStatus {
    /// The id under which it is listed; `None` while it is not.
    pub id: Option<String>,
    /// It is listed as one that will end.
    pub draining: bool,
    /// Why the last try to tell the registry failed, until one does not.
    pub error: Option<String>,
}

/// One death of an engine.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct Death {
    /// The number of the engine that died.
    pub incarnation: u32,
    /// Why, in words (`DeathCause`'s `Display`).
    pub cause: String,
    /// From the proof of its death to the next start in milliseconds, once there was one.
    pub gap_ms: Option<f64>,
    /// How long it had lived, in seconds.
    pub uptime_s: Option<f64>,
    /// The last frame that its heartbeat told.
    pub frame: Option<u64>,
    /// Whether it was asked to end, and did: no fault.
    pub as_asked: bool,
    /// When, RFC 3339.
    pub time: String,
    /// What names its report, once there is one.
    pub report_id: Option<String>,
    /// The report's file.
    pub report: Option<PathBuf>,
}

/// A session's counts. Requests to the store (checkpoints among them) have sequence numbers as records have.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct SessionStatus {
    /// The session's UUID.
    pub epoch: String,
    /// The highest sequence number that the library gave out, where that is known.
    pub recorded: Option<u64>,
    /// The highest one that is durable.
    pub committed: u64,
    /// The highest one up to which every sink has taken all that goes to it.
    pub uploaded: u64,
    /// How many of the numbers recorded are requests to the store, which go to no backend; `None` where this watchdog has not
    /// read all of them.
    pub requests: Option<u64>,
    /// Recorded and not yet uploaded, whether committed or still in the ring: the same as `Sidekick.get_stats().backlog`.
    pub backlog: u64,
    /// Records that the library refused.
    pub refused: u64,
    /// Why: what gap records told of them that this watchdog has committed. The rest is not told yet, or was told to one before.
    pub refused_by: Refused,
    /// Records known to be missing.
    pub holes: u64,
}

/// All sessions together.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct Totals {
    /// Records that are durable, those that the watchdog made itself (crash reports) among them.
    pub committed: u64,
    /// Records taken, per sink.
    pub uploaded: BTreeMap<String, u64>,
    /// Records that are known to be missing, since this watchdog began. Those of its whole history are told by the lines
    /// of stream `sidekick.gap` at the backend.
    pub gaps: u64,
}

/// Whether records can be stored.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum StoreState {
    /// It takes records.
    #[default]
    Open,
    /// It is being opened: a long log is read, or the disk is slow.
    Opening,
    /// It has died, and what it had begun is waited for: a disk that stands still keeps it here.
    Closing,
    /// It could not be opened; the next try waits.
    Failed,
}

impl StoreState {
    /// The state in one lower-case word.
    pub fn word(self) -> &'static str {
        match self {
            Self::Open => "open",
            Self::Opening => "opening",
            Self::Closing => "closing",
            Self::Failed => "failed",
        }
    }
}

/// How near the log is to `[store] disk_quota`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum QuotaLevel {
    /// Far from it.
    #[default]
    Fine,
    /// Near enough to warn.
    High,
    /// Only streams with `keep = true` are recorded.
    Low,
}

/// The store.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct StoreStatus {
    /// Whether it takes records. While it does not they wait in the ring, and the engine is supervised all the same; the
    /// figures are those of the last time that it did.
    pub state: StoreState,
    /// Why it died, or could not be opened the last time, until it is open again.
    pub failed: Option<String>,
    /// Seconds until the next try to open it, while one waits.
    pub next_try_s: Option<f64>,
    /// Bytes that the log takes on disk.
    pub log_bytes: u64,
    /// Bytes that it may take (`[store] disk_quota`).
    pub disk_quota_bytes: u64,
    /// How near it is to that.
    pub quota: QuotaLevel,
    /// The last log index applied.
    pub applied: u64,
    /// How long the last fsync took, in microseconds.
    pub last_fsync_us: Option<u64>,
    /// Why it takes no records just now; they wait in the ring, uncounted here.
    pub waits: Option<String>,
    /// Why it takes none of a session's records at all, session by session; they stay in their rings.
    pub shut_out: Vec<String>,
    /// How far the rules that look at more than one record (`dedupe`, `aggregate`) have come; `None` without any.
    pub folding: Option<FoldingStatus>,
    /// Log entries that were found damaged on the disk, and what is lost with each, in words; until the log is purged
    /// behind them.
    pub rotten: Vec<String>,
    /// Bytes of the log that are not what was written, where that is known and nothing is lost; until the log is purged behind them.
    pub mended_bytes: u64,
}

/// How far `dedupe` and `aggregate` have come. Nothing is uploaded before it came by there.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct FoldingStatus {
    /// Committed sequence numbers that they have not looked at yet.
    pub waiting: u64,
    /// Windows that are open, each group of one counted: what is in them is counted and not told.
    pub open_windows: usize,
    /// The beginning of the oldest of them, RFC 3339.
    pub oldest_window: Option<String>,
    /// How long ago that was, in seconds; by the records' own time, so 0 for one that begins later than now.
    pub oldest_window_age_s: Option<f64>,
}

/// The uploads.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct UploadStatus {
    /// One for each configured sink.
    pub sinks: Vec<SinkStatus>,
    /// The dead letters of all sinks together.
    pub dead_letters: LettersStatus,
    /// Sinks that are not configured any more and of which something is left.
    pub removed: Vec<RemovedSink>,
}

/// The dead letters of all sinks together, and how many there may be.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct LettersStatus {
    /// How many there are.
    pub count: u64,
    /// How many there may be; a sink with another one waits.
    pub count_max: u64,
    /// Bytes that they take.
    pub bytes: u64,
    /// Bytes that they may take.
    pub bytes_max: u64,
}

/// A sink that is not configured any more.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct RemovedSink {
    /// Its name.
    pub name: String,
    /// Its dead letters: they can be dropped, and replayed once it is configured again.
    pub dead_letters: u64,
    /// The log may still hold what it had not taken and no other sink took over: configured again, it goes on there.
    pub has_records: bool,
    /// How many sequence numbers that are, where it is known.
    pub records: Option<u64>,
}

/// One sink.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct SinkStatus {
    /// `file`, `http`.
    pub name: String,
    /// `idle`, `sending`, `retrying`, `parked`.
    pub state: String,
    /// Why, when it is not going well.
    pub reason: Option<String>,
    /// Records that it has taken.
    pub records: u64,
    /// Seconds since it last took a batch.
    pub last_success_age_s: Option<f64>,
    /// Entries of the log that it has still to go through. Told where `books.pending` is not: a sink that came back, or took
    /// the place of another, learns what it began with only when it has caught up.
    pub entries_behind: Option<u64>,
    /// What became of each sequence number.
    pub books: BooksStatus,
}

/// The books of one sink: of the sequence numbers committed since it began, exactly
/// `accepted = uploaded + notes + lost + requests + dropped + dead + pending`.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct BooksStatus {
    /// Sequence numbers committed since the sink began; `None` where that is not known, as `pending`.
    pub accepted: Option<u64>,
    /// Records that the backend took.
    pub uploaded: u64,
    /// Numbers of rows at the backend that tell of records refused by the engine or of a session's unknown tail.
    pub notes: u64,
    /// Numbers whose records are lost; rows of stream `sidekick.gap` tell which.
    pub lost: u64,
    /// Operations and queries of the game's state, which no backend gets.
    pub requests: u64,
    /// Records left out on purpose, by reason.
    pub dropped: BTreeMap<String, u64>,
    /// Numbers whose records are dead letters.
    pub dead: u64,
    /// Not dealt with yet; `None` until a sink that came later has caught up for the first time.
    pub pending: Option<u64>,
    /// Dead letters that wait for somebody.
    pub dead_letters: u64,
    /// Dead letters that a replay brought to the backend.
    pub replayed: u64,
}

impl Status {
    /// Why the game cannot be played right now; `None` when it can.
    pub fn unready_reason(&self) -> Option<Cow<'static, str>> {
        let engine = &self.engine;
        if engine.state != EngineState::Running {
            let words = match engine.state {
                EngineState::Starting => "the engine is starting",
                EngineState::Hung => "the engine hangs",
                EngineState::Backoff => "the engine died and waits to be relaunched",
                EngineState::CrashLoop => "the engine is in a crash loop",
                EngineState::Stopping => "the engine is stopping",
                _ => "no engine runs",
            };
            return Some(match engine.next_try_s {
                Some(left) => format!("{words}, next try in {left:.0} s").into(),
                None => words.into(),
            });
        }
        if engine.ring_lost {
            return Some("the engine's ring was cleaned up, restart it".into());
        }
        if !engine.connected && engine.heartbeat_required {
            return Some("the engine has not connected".into());
        }
        match (self.store.state, self.store.failed.is_some()) {
            (StoreState::Open, _) => {}
            (StoreState::Opening, false) => {
                return Some("the store is being opened, records wait in the ring".into());
            }
            _ => {
                let words = "the store is down, records wait in the ring; status says why";
                return Some(words.into());
            }
        }
        if self.store.waits.is_some() {
            return Some(
                "the store takes no records, they wait in the ring; status says why".into(),
            );
        }
        if engine.ready_required && !engine.ready {
            return Some("the game has not called Sidekick.mark_ready()".into());
        }
        None
    }
}
