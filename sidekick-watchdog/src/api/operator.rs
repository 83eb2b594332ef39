//! What operators may ask for, in words that handlers, application and command line share.
//!
//! [`Operator`] is all that the API needs of the watchdog; the application implements it. Whether an order is carried
//! out is judged from the [`Status`] alone ([`Goal`]), so that the server and a command line that looks from outside
//! come to the same answer.

use std::fmt;
use std::io;
use std::str::FromStr;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use serde::{Deserialize, Serialize};
use sidekick_ipc::stream::StreamPattern;
use tokio::sync::mpsc::Receiver;

use super::letters::LetterBox;
use super::status::{EngineState, EngineStatus, Status};
use super::tree::TreeStore;
use crate::crash::keep::CrashFolder;
use crate::log_line::{LogLine, LogPosition};

/// What is to be done with the engine.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Verb {
    /// End it and start another; where none runs, start one.
    Restart,
    /// Start one if none runs.
    Start,
    /// End it and start no other until told.
    Stop,
    /// As [`Verb::Stop`], with the time to finish a match.
    Drain,
}

impl Verb {
    /// Every verb.
    pub const ALL: [Self; 4] = [Self::Restart, Self::Start, Self::Stop, Self::Drain];

    /// As in the path of the API and on the command line.
    pub fn word(self) -> &'static str {
        match self {
            Self::Restart => "restart",
            Self::Start => "start",
            Self::Stop => "stop",
            Self::Drain => "drain",
        }
    }
}

impl fmt::Display for Verb {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.word())
    }
}

impl FromStr for Verb {
    type Err = ();

    fn from_str(word: &str) -> Result<Self, ()> {
        let mut all = Self::ALL.into_iter();
        all.find(|verb| verb.word() == word).ok_or(())
    }
}

/// One order to the engine.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Order {
    /// What to do.
    pub verb: Verb,
    /// How long the engine has to quit before it is killed; `None` = as configured.
    pub grace: Option<Duration>,
}

/// Why an order was not taken. Nothing has changed then.
#[derive(Debug, thiserror::Error)]
pub enum OrderError {
    /// The supervisor is not there yet, or not any more.
    #[error("the watchdog is starting or ending and takes no orders; ask again in a moment")]
    NotNow,
    /// The supervisor has as many orders as it can hold.
    #[error("too many orders wait already; ask again in a moment")]
    Busy,
    /// A stop that is to outlive the watchdog cannot be noted.
    #[error("the stop cannot be noted in {path:?}: {source}; {}", crate::platform::remedy(.source))]
    Note {
        /// The file.
        path: std::path::PathBuf,
        /// What the system said.
        source: io::Error,
    },
}

/// Where records can be looked at.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Stage {
    /// As they come out of the ring, before any rule.
    Raw,
    /// As they are committed.
    Stored,
    /// As they are put into a batch for a sink; once more when a batch is made again.
    Uploaded,
}

impl Stage {
    /// Every stage, in their order.
    pub const ALL: [Self; 3] = [Self::Raw, Self::Stored, Self::Uploaded];

    /// As in the API and on the command line.
    pub fn word(self) -> &'static str {
        match self {
            Self::Raw => "raw",
            Self::Stored => "stored",
            Self::Uploaded => "uploaded",
        }
    }
}

impl FromStr for Stage {
    type Err = ();

    fn from_str(word: &str) -> Result<Self, ()> {
        let mut all = Self::ALL.into_iter();
        all.find(|stage| stage.word() == word).ok_or(())
    }
}

/// Which records somebody wants to see.
#[derive(Clone, Debug)]
pub struct Wanted {
    /// Where.
    pub stage: Stage,
    /// Of which streams; `None` = of all.
    pub pattern: Option<StreamPattern>,
    /// How many.
    pub count: u64,
}

/// Why records cannot be shown.
#[derive(Debug, thiserror::Error)]
pub enum TailError {
    /// Enough look already.
    #[error("{max} look at records already; end one of them")]
    TooMany {
        /// How many may.
        max: usize,
    },
    /// Nothing passes here.
    #[error("the watchdog is starting or ending; ask again in a moment")]
    NotNow,
}

/// What came of reading the configuration anew.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Reloaded {
    /// How many rules are in force.
    pub rules: usize,
    /// Their version in the store, 0 for none that act before upload, or while the store is closed.
    pub version: u32,
    /// What has changed besides, and waits for the watchdog's next start.
    pub needs_restart: Vec<String>,
}

/// Why the configuration was not reloaded. The old one stays in force.
#[derive(Debug, thiserror::Error)]
pub enum ReloadError {
    /// Something is wrong with it.
    #[error("{why}")]
    Refused {
        /// All that is wrong, a line for each mistake.
        why: String,
    },
    /// The store cannot take it.
    #[error("not now: {0}")]
    NotNow(String),
}

/// All that the API needs of the watchdog. Called where blocking is allowed, from several threads at once.
pub trait Operator: Send + Sync + 'static {
    /// Takes an order, and returns the grace that is given. Its end shows in the status.
    ///
    /// # Errors
    /// See [`OrderError`].
    fn order(&self, order: Order) -> Result<Duration, OrderError>;

    /// The last lines of output, oldest first, at most `lines_max`: of one incarnation as far back as its output is kept,
    /// of all what is in memory.
    ///
    /// # Errors
    /// What the system said.
    fn log(&self, incarnation: Option<u32>, lines_max: usize) -> io::Result<Vec<LogLine>>;

    /// The last lines in memory, at most `lines_max`, and what comes after them; with `after`, all that comes after that
    /// place, also from the files. Never blocks, and nobody waits for who takes slowly. `None`: the watchdog is not there
    /// yet.
    fn follow_log(
        &self,
        incarnation: Option<u32>,
        lines_max: usize,
        after: Option<LogPosition>,
    ) -> Option<Following>;

    /// Reads the configuration anew and puts its rules in force. Waits until that is committed.
    ///
    /// # Errors
    /// See [`ReloadError`]. Nothing has changed then.
    fn reload(&self) -> Result<Reloaded, ReloadError> {
        Err(ReloadError::NotNow("nothing can be reloaded here".into()))
    }

    /// Records as they pass, as lines of JSON; it ends when the receiver is dropped. Nobody waits for who reads slowly.
    ///
    /// # Errors
    /// See [`TailError`].
    fn tail(&self, _wanted: Wanted) -> Result<Receiver<Bytes>, TailError> {
        Err(TailError::NotNow)
    }

    /// Where the crash reports lie.
    fn crashes(&self) -> CrashFolder;

    /// The state store, where there is one.
    fn tree(&self) -> Option<Arc<dyn TreeStore>> {
        None
    }

    /// The dead letters, where there are any.
    fn letters(&self) -> Option<Arc<dyn LetterBox>> {
        None
    }
}

/// The output, as it comes.
#[derive(Debug)]
pub struct Following {
    /// The lines that are there.
    pub lines: Vec<LogLine>,
    /// The place after them.
    pub position: LogPosition,
    /// What comes after it.
    pub items: Receiver<LogItem>,
}

/// What a follower of the output gets.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum LogItem {
    /// The next line.
    Line(LogLine),
    /// So many bytes are not kept any more.
    Skipped(u64),
    /// The place that it has come to.
    At(LogPosition),
}

/// The answer to an order.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Accepted {
    /// What will be done.
    pub order: Verb,
    /// How long the engine has to quit, in seconds.
    pub grace_s: f64,
    /// By what its end can be told.
    pub goal: Goal,
    /// Whether it is done.
    pub done: bool,
    /// How far it has come, in words.
    pub words: String,
    /// The engine as of this answer.
    pub engine: EngineStatus,
}

/// What an order is to lead to, seen from the status just before it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Goal {
    /// What was ordered.
    pub verb: Verb,
    /// The newest incarnation before it.
    pub incarnation: u32,
    /// Starts that had failed before it.
    pub failed_starts: u64,
    /// Whether an engine was running or being started before it.
    pub was_up: bool,
}

/// How far an order has come.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Progress {
    /// Not there yet; what is going on.
    Underway(String),
    /// There.
    Done(String),
    /// It will not come to that by itself soon; why.
    Failed(String),
}

impl Goal {
    /// The goal of `verb`, ordered while things stand as `before` says.
    pub fn new(verb: Verb, before: &Status) -> Self {
        let engine = &before.engine;
        // A watchdog that holds a stop has started none yet, but knows the deaths of its predecessor's time.
        let last_dead = engine
            .last_deaths
            .last()
            .map_or(0, |death| death.incarnation);
        Self {
            verb,
            incarnation: engine.incarnation.max(last_dead),
            failed_starts: engine.failed_starts,
            was_up: matches!(engine.state, EngineState::Starting | EngineState::Running)
                && engine.incarnation > 0,
        }
    }

    /// How far it has come, now that things stand as `status` says.
    pub fn judge(&self, status: &Status) -> Progress {
        match self.verb {
            Verb::Stop | Verb::Drain => self.judge_stop(&status.engine),
            Verb::Start | Verb::Restart => self.judge_start(&status.engine),
        }
    }

    fn judge_stop(&self, engine: &EngineStatus) -> Progress {
        match engine.state {
            EngineState::Stopped | EngineState::GaveUp => match engine.last_deaths.last() {
                Some(death) if self.was_up && death.incarnation >= self.incarnation => {
                    Progress::Done(format!(
                        "incarnation {} has ended: {}",
                        death.incarnation, death.cause
                    ))
                }
                _ => Progress::Done("no engine runs".to_owned()),
            },
            _ => Progress::Underway(words(engine)),
        }
    }

    fn judge_start(&self, engine: &EngineStatus) -> Progress {
        let is_enough = match self.verb {
            // One that ran before the order is as good as a new one.
            Verb::Start if self.was_up => engine.incarnation >= self.incarnation,
            _ => engine.incarnation > self.incarnation,
        };
        let is_up = match engine.state {
            EngineState::Running => engine.ready || !engine.ready_required,
            // Nothing more will be heard of a program without the extension.
            EngineState::Starting => !engine.heartbeat_required && engine.pid.is_some(),
            _ => false,
        };
        if is_enough && is_up {
            return Progress::Done(format!("incarnation {} runs", engine.incarnation));
        }
        if engine.failed_starts > self.failed_starts {
            let why = engine.start_error.as_deref().unwrap_or("unknown");
            return Progress::Failed(format!("it cannot be started: {why}"));
        }
        // An adopted engine's death may be told after a later one's.
        let mut deaths = engine.last_deaths.iter().rev();
        if let Some(death) = deaths.find(|death| death.incarnation > self.incarnation) {
            let number = death.incarnation;
            return Progress::Failed(format!(
                "incarnation {number} died before it ran: {}",
                death.cause
            ));
        }
        Progress::Underway(words(engine))
    }
}

/// The engine's state and number.
fn words(engine: &EngineStatus) -> String {
    let mut words = match engine.incarnation {
        0 => engine.state.words().to_owned(),
        number => format!("incarnation {number}: {}", engine.state.words()),
    };
    match (engine.state, engine.grace_left_s) {
        (EngineState::Stopping, Some(left)) => {
            words.push_str(&format!(", {left:.0} s left"));
        }
        (EngineState::Running, _) if engine.ready_required && !engine.ready => {
            words.push_str(", not ready");
        }
        _ => {}
    }
    words
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::api::Death;

    fn status(state: EngineState, incarnation: u32) -> Status {
        let mut status = Status::default();
        status.engine.state = state;
        status.engine.incarnation = incarnation;
        status.engine.heartbeat_required = true;
        status
    }

    fn died(mut status: Status, incarnation: u32) -> Status {
        status.engine.last_deaths.push(Death {
            incarnation,
            cause: "quit".into(),
            ..Death::default()
        });
        status
    }

    #[test]
    fn a_restart_is_done_when_a_later_incarnation_runs() {
        let before = status(EngineState::Running, 4);
        let goal = Goal::new(Verb::Restart, &before);
        for underway in [
            before,
            status(EngineState::Stopping, 4),
            died(status(EngineState::Starting, 5), 4),
        ] {
            let progress = goal.judge(&underway);
            assert!(matches!(progress, Progress::Underway(_)), "{progress:?}");
        }
        let up = died(status(EngineState::Running, 5), 4);
        assert_eq!(
            goal.judge(&up),
            Progress::Done("incarnation 5 runs".to_owned())
        );
        let mut unready = up;
        unready.engine.ready_required = true;
        assert!(matches!(goal.judge(&unready), Progress::Underway(_)));
        unready.engine.ready = true;
        assert!(matches!(goal.judge(&unready), Progress::Done(_)));
    }

    #[test]
    fn a_start_that_leads_to_a_death_or_to_no_process_has_failed() {
        let before = status(EngineState::Stopped, 4);
        let goal = Goal::new(Verb::Start, &before);
        assert!(matches!(goal.judge(&before), Progress::Underway(_)));
        let dead = died(status(EngineState::Backoff, 5), 5);
        assert!(matches!(goal.judge(&dead), Progress::Failed(_)));
        // A watchdog that holds its predecessor's stop has no incarnation of its own yet.
        let held = died(status(EngineState::Stopped, 0), 4);
        let goal = Goal::new(Verb::Start, &held);
        assert!(matches!(goal.judge(&held), Progress::Underway(_)));
        let goal = Goal::new(Verb::Start, &before);
        let mut failed = status(EngineState::Backoff, 4);
        failed.engine.failed_starts = 1;
        failed.engine.start_error = Some("no such program".into());
        assert_eq!(
            goal.judge(&failed),
            Progress::Failed("it cannot be started: no such program".to_owned())
        );
    }

    #[test]
    fn a_start_while_one_runs_is_done_and_one_without_the_extension_needs_no_frame() {
        let before = status(EngineState::Running, 4);
        let goal = Goal::new(Verb::Start, &before);
        assert!(matches!(goal.judge(&before), Progress::Done(_)));
        let goal = Goal::new(Verb::Start, &status(EngineState::Stopped, 4));
        let mut started = status(EngineState::Starting, 5);
        started.engine.pid = Some(7);
        assert!(matches!(goal.judge(&started), Progress::Underway(_)));
        started.engine.heartbeat_required = false;
        assert!(matches!(goal.judge(&started), Progress::Done(_)));
    }

    #[test]
    fn a_stop_is_done_when_nothing_runs_and_tells_how_it_ended() {
        let before = status(EngineState::Running, 4);
        let goal = Goal::new(Verb::Drain, &before);
        let mut stopping = status(EngineState::Stopping, 4);
        stopping.engine.grace_left_s = Some(8.2);
        assert_eq!(
            goal.judge(&stopping),
            Progress::Underway("incarnation 4: stopping, 8 s left".to_owned())
        );
        let stopped = died(status(EngineState::Stopped, 4), 4);
        assert_eq!(
            goal.judge(&stopped),
            Progress::Done("incarnation 4 has ended: quit".to_owned())
        );
        let goal = Goal::new(Verb::Stop, &stopped);
        assert_eq!(
            goal.judge(&stopped),
            Progress::Done("no engine runs".to_owned())
        );
    }
}
