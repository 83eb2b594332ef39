//! An engine without Godot that lives for its state: it restores, checkpoints without end, and writes down what it was
//! told and when. For tests of what survives a kill.
//!
//! The journal is one file over all incarnations, a line a fact: `begin 7` before a checkpoint's call, `done 7` after it,
//! `found 7` and `restored 7 good` for what a new incarnation was given. Whoever reads it needs to know nothing of ring or
//! store. Beside each checkpoint goes a put of the same version: its answer must come, a read behind it must see it, and
//! a watch must tell of each.

use std::collections::BTreeMap;
use std::ffi::OsString;
use std::fs::{self, File, OpenOptions};
use std::io::Write;
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::thread;
use std::time::{Duration, Instant};

use sidekick_ipc::session::{CheckpointRef, Message};
use sidekick_ipc::tree::{
    CheckpointKind, ErrorKind, Path as TreePath, Pattern, Put, RestoreStatus, StoreOp, StoreQuery,
    StoreResult, WatchKind,
};
use sidekick_ipc::value::{Value, decode, encode};
use sidekick_ipc::{Phase, Session};

use rustix::process::Signal;

use crate::engine;
use crate::wait;
use crate::watchdog::Setup;

/// The same in GDScript: writes its journal to what `--journal` names.
pub const SCRIPT: &str = include_str!("../gd/saver.gd");
/// Generous: a loaded machine is slow, and a test that ends early for that says nothing.
const PATIENCE: Duration = Duration::from_secs(120);

const FLAG: &str = "--act-as-saver";
const KEY: &str = "match";
/// The node that each version is put to.
const NODE: &str = "/saver/version";
/// What was not answered by then never will be.
const ANSWER_MAX: Duration = Duration::from_secs(60);
/// Of so many versions one is read back.
const READ_EVERY: u64 = 7;
/// Between two frames.
const FRAME: Duration = Duration::from_millis(2);
/// Full checkpoints every so many; deltas in between.
const FULL_EVERY: u64 = 5;
/// What a lying saver lets pass between its word and the deed.
const LIE: Duration = Duration::from_millis(3);

/// What the saver does.
#[derive(Debug, Clone)]
pub struct Saver {
    /// Its journal; made if it is not there.
    pub journal: PathBuf,
    /// It says that a checkpoint's call has returned before it calls. For the test of the test.
    pub lies: bool,
}

impl Saver {
    /// The command that starts it: this executable with the arguments that [`act_if_asked`] understands.
    ///
    /// # Panics
    /// When the executable's own path is not known.
    pub fn command_line(&self) -> Vec<OsString> {
        let own = std::env::current_exe().expect("the path of this executable");
        vec![
            own.into(),
            FLAG.into(),
            self.journal.clone().into(),
            u8::from(self.lies).to_string().into(),
        ]
    }
}

/// Runs the engine to its end if this process was started as one; `None` = it is a test run.
///
/// # Panics
/// When it was started with other arguments than [`Saver::command_line`] gives, or without a watchdog.
pub fn act_if_asked() -> Option<ExitCode> {
    let mut arguments = std::env::args_os().skip(1);
    if arguments.next()? != FLAG {
        return None;
    }
    let saver = Saver {
        journal: arguments.next().expect("a journal").into(),
        lies: arguments.next().expect("0 or 1") == "1",
    };
    Some(save(&saver))
}

/// What the checkpoint with this version holds: any size up to a few frames of the ring, every byte of it known.
fn content(version: u64) -> Vec<u8> {
    let words = [1, 50, 9_000, 30_000][(version % 4) as usize];
    (0..words)
        .flat_map(|word: u64| (version.wrapping_mul(0x9E37_79B9_7F4A_7C15) ^ word).to_le_bytes())
        .collect()
}

struct Journal(File);

impl Journal {
    fn open(path: &Path) -> Self {
        let file = OpenOptions::new().append(true).create(true).open(path);
        Self(file.expect("a journal"))
    }

    fn write(&mut self, line: &str) {
        // One write, so that a kill leaves whole lines and part of one at most.
        let line = format!("{line}\n");
        self.0.write_all(line.as_bytes()).expect("to be written");
    }
}

/// A session and what is known of it.
struct Game {
    session: Session,
    journal: Journal,
    /// Puts without an answer.
    unanswered: BTreeMap<u64, Instant>,
    /// The last version that the watch told of.
    watched: Option<u64>,
}

fn node() -> TreePath {
    TreePath::new(NODE).expect("a path")
}

fn version_in(value: Option<&[u8]>) -> Option<u64> {
    match decode(value?) {
        Ok(Value::Int(version)) => u64::try_from(version).ok(),
        _ => None,
    }
}

impl Game {
    /// Takes the next message; gives the answer if it is the one to `awaited`.
    fn take(&mut self, awaited: u64) -> Option<Option<StoreResult>> {
        match self.session.next_message()? {
            Message::Reply { number, result } => {
                self.unanswered.remove(&number);
                // That a node is not there yet is an answer to who asks for it.
                if let StoreResult::Error { kind, message } = &result
                    && (*kind, number) != (ErrorKind::NotFound, awaited)
                {
                    self.journal
                        .write(&format!("error {} {message}", kind.name()));
                }
                return Some((number == awaited).then_some(result));
            }
            Message::Events { batch, .. } => {
                if batch.compacted {
                    self.journal.write("missed compacted");
                }
                for event in batch.events {
                    let WatchKind::Put { value, .. } = event.kind else {
                        self.journal.write("missed a version, there was a delete");
                        continue;
                    };
                    let version = version_in(value.as_deref()).unwrap_or_default();
                    if self.watched.is_some_and(|watched| version != watched + 1) {
                        let watched = self.watched;
                        self.journal
                            .write(&format!("missed {version} came after {watched:?}"));
                    }
                    self.watched = Some(version);
                }
            }
            Message::Other(_) => {}
        }
        Some(None)
    }

    /// Waits for an answer. `None` when none came.
    fn ask(&mut self, query: &StoreQuery) -> Option<StoreResult> {
        let number = self.session.query(query).ok()?;
        let begun = Instant::now();
        while begun.elapsed() < ANSWER_MAX {
            match self.take(number) {
                Some(Some(result)) => return Some(result),
                Some(None) => {}
                None => self.session.wait_message(Duration::from_millis(50)),
            }
        }
        None
    }

    fn restore(&mut self) -> Option<sidekick_ipc::tree::Restored> {
        let query = StoreQuery::Restore {
            key: KEY.to_owned(),
            safe: false,
        };
        match self.ask(&query)? {
            StoreResult::Restored(restored) => Some(restored),
            _ => None,
        }
    }

    /// The version in the tree; 0 if there is none.
    fn read(&mut self) -> Option<u64> {
        let query = StoreQuery::Get {
            path: node(),
            linearizable: false,
        };
        match self.ask(&query)? {
            StoreResult::Ok(answer) => Some(version_in(answer.value()).unwrap_or(0)),
            StoreResult::Error {
                kind: ErrorKind::NotFound,
                ..
            } => Some(0),
            _ => None,
        }
    }

    /// What comes by itself, and what should have come.
    fn listen(&mut self) {
        while self.take(0).is_some() {}
        let now = Instant::now();
        let late = self
            .unanswered
            .iter()
            .find(|(_, since)| now.duration_since(**since) > ANSWER_MAX);
        if let Some((number, _)) = late {
            self.journal.write(&format!("unanswered {number}"));
            self.unanswered.clear();
        }
    }

    fn put(&mut self, version: u64) {
        let version = Value::Int(i64::try_from(version).unwrap_or_default());
        let put = Put::new(node(), Some(encode(&version)));
        if let Ok(number) = self.session.op(&StoreOp::Put(put)) {
            self.unanswered.insert(number, Instant::now());
        }
    }
}

fn save(saver: &Saver) -> ExitCode {
    let mut game = Game {
        session: Session::create(engine::options()).expect("a session"),
        journal: Journal::open(&saver.journal),
        unanswered: BTreeMap::new(),
        watched: None,
    };
    // An earlier incarnation was killed amid a line.
    game.journal.write("");
    let watch = StoreQuery::Watch {
        pattern: Pattern::new(NODE).expect("a pattern"),
        from_revision: None,
    };
    let (Some(restored), Some(found)) = (game.restore(), game.read()) else {
        game.journal.write("timeout");
        return ExitCode::from(engine::DEATH_CODE);
    };
    game.journal.write(&format!("found {found}"));
    let full_version = restored.full_version;
    let version = full_version + restored.deltas.len() as u64;
    let is_good = restored.status == RestoreStatus::None
        || restored.full == content(full_version)
            && (full_version + 1..)
                .zip(&restored.deltas)
                .all(|(version, delta)| **delta == content(version));
    let word = if is_good { "good" } else { "bad" };
    game.journal.write(&format!("restored {version} {word}"));
    if full_version > 0 {
        let _ = game.session.loaded(KEY, full_version);
    }
    let _ = game.session.query(&watch);
    // A version that was begun and given up is not used again: neither here nor there.
    let first = restored.version.max(found);
    let (mut version, mut full_version) = (first, full_version);
    game.session.set_ready();
    loop {
        game.session.on_frame(Phase::Running);
        game.listen();
        if game.session.control().quit.is_some() {
            game.session.set_clean_exit(0);
            return ExitCode::SUCCESS;
        }
        if version.is_multiple_of(READ_EVERY) && version > first {
            match game.read() {
                Some(read) if read == version => {}
                read => game
                    .journal
                    .write(&format!("misread {read:?} instead of {version}")),
            }
        }
        let next = version + 1;
        // What a new incarnation goes on with is a full one, so that it stands on its own.
        let is_full = version == first || next.is_multiple_of(FULL_EVERY);
        let kind = match is_full {
            true => CheckpointKind::Full,
            false => CheckpointKind::Delta { base: full_version },
        };
        let value = content(next);
        let checkpoint = CheckpointRef {
            key: KEY,
            kind,
            version: next,
            value: &value,
            frame: next,
            realtime_ms: 0,
        };
        game.journal.write(&format!("begin {next}"));
        if saver.lies {
            game.journal.write(&format!("done {next}"));
            thread::sleep(LIE);
        }
        game.put(next);
        match game.session.checkpoint(&checkpoint) {
            Ok(_) if !saver.lies => game.journal.write(&format!("done {next}")),
            Ok(_) => {}
            // Its put may be there: whoever counts on it would count wrong from here on.
            Err(refused) => {
                game.journal.write(&format!("refused {next} {refused}"));
                return ExitCode::from(engine::DEATH_CODE);
            }
        }
        version = next;
        if is_full {
            full_version = next;
        }
        thread::sleep(FRAME);
    }
}

/// Numbers of a journal.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Summary {
    /// Checkpoints whose calls returned.
    pub done: u64,
    /// Incarnations that were given something to go on with.
    pub restored: u64,
    /// Of these, how many were given one whose call had begun and not returned.
    pub begun_only: u64,
}

/// Sentences about everything in a journal that is not as promised: what an incarnation is given is the last checkpoint
/// whose call had returned, or the one whose call had begun when the engine was killed.
pub fn broken_promises(journal: &str) -> (Summary, Vec<String>) {
    let (mut summary, mut broken) = (Summary::default(), Vec::new());
    let (mut done, mut begun) = (0, None);
    for (number, line) in (1..).zip(journal.lines()) {
        let words: Vec<&str> = line.split(' ').collect();
        let version = || words.get(1).and_then(|word| word.parse::<u64>().ok());
        match (words[0], version()) {
            ("begin", Some(version)) => begun = Some(version),
            ("done", Some(version)) => {
                (done, begun) = (version, None);
                summary.done += 1;
            }
            // Its put comes first, so it may be ahead of the checkpoint.
            ("found", Some(version)) if version != done && Some(version) != begun => {
                broken.push(format!(
                    "line {number}: version {version} was found, {done} was the last one done, {begun:?} was begun"
                ));
            }
            ("restored", Some(version)) => {
                if words.get(2) != Some(&"good") {
                    broken.push(format!(
                        "line {number}: version {version} came back damaged"
                    ));
                }
                if version != done && Some(version) != begun {
                    broken.push(format!(
                        "line {number}: version {version} was restored, {done} was the last one done, {begun:?} was begun"
                    ));
                }
                summary.restored += u64::from(version > 0);
                summary.begun_only += u64::from(Some(version) == begun);
                (done, begun) = (version, None);
            }
            ("timeout" | "error" | "refused" | "missed" | "misread" | "unanswered", _) => {
                broken.push(format!("line {number}: {line}"));
            }
            // What a kill cut off.
            _ => {}
        }
    }
    (summary, broken)
}

/// The watchdog's configuration for it: an engine that was killed is started again at once.
pub const CONFIG: &str = "[upload]\nsinks = []\n[restart]\nbackoff_first = \"1ms\"\nbackoff_max = \"5ms\"\n\
                          crash_loop_deaths = 1000\nstable_after = \"10ms\"\n";

/// Lines of the journal that say that something was restored.
fn restores(journal: &Path) -> usize {
    let text = fs::read_to_string(journal).unwrap_or_default();
    text.lines()
        .filter(|line| line.starts_with("restored"))
        .count()
}

/// Kills engines, watchdogs, and both; gives what the journal says in the end.
///
/// # Panics
/// When there are two engines, or the watchdog does not end well.
pub fn kill(setup: &Setup, journal: &Path, kills: u64, seed: u64) -> (Summary, Vec<String>) {
    let mut random = fastrand::Rng::with_seed(seed);
    let (mut watchdog, mut seen) = (setup.start(), 0);
    for kill in 0..kills {
        // Every third time whenever it is, start-up included; else while it saves.
        if kill % 3 != 0 {
            wait::until("an engine that goes on", PATIENCE, || {
                (restores(journal) > seen).then_some(())
            });
        }
        // The moment of the kill, not a wait for anything.
        thread::sleep(Duration::from_millis(random.u64(0..400)));
        let (kills_engine, kills_watchdog) =
            [(true, false), (false, true), (true, true)][random.usize(..3)];
        let engines = setup.engines(Some(&watchdog));
        assert!(engines.len() <= 1, "more than one engine: {engines:?}");
        let engine = engines.first().copied().filter(|_| kills_engine);
        if engine.is_some() {
            seen = restores(journal);
        }
        let engine_first = random.bool();
        if let Some(pid) = engine.filter(|_| engine_first || !kills_watchdog) {
            setup.signal(pid, Signal::KILL);
        }
        if kills_watchdog {
            watchdog.kill();
            thread::sleep(Duration::from_millis(random.u64(0..100)));
            if let Some(pid) = engine.filter(|_| !engine_first) {
                setup.signal(pid, Signal::KILL);
            }
            watchdog = setup.start();
        }
    }
    // More, for the last word: until what was kept and given back is worth being judged.
    let summary = || broken_promises(&fs::read_to_string(journal).unwrap_or_default()).0;
    loop {
        wait::until("more checkpoints", PATIENCE, || {
            (summary().done > kills * 5).then_some(())
        });
        let before = restores(journal);
        let engine = wait::until("an engine", PATIENCE, || {
            setup.engines(Some(&watchdog)).first().copied()
        });
        setup.signal(engine, Signal::KILL);
        wait::until("the last restore", PATIENCE, || {
            (restores(journal) > before).then_some(())
        });
        if summary().restored > kills / 4 {
            break;
        }
    }
    let finished = watchdog.stop(PATIENCE);
    let log = finished.lines.join("\n");
    assert_eq!(finished.status.code(), Some(0), "{log}");
    assert!(!log.contains("panicked"), "{log}");
    let text = fs::read_to_string(journal).expect("a journal");
    let (summary, broken) = broken_promises(&text);
    println!("{summary:?}");
    if !broken.is_empty() {
        println!("{log}");
    }
    (summary, broken)
}

fn number(variable: &str) -> Option<u64> {
    let text = std::env::var(variable).ok()?;
    Some(
        text.parse()
            .unwrap_or_else(|_| panic!("{variable}={text:?} is no number")),
    )
}

/// What is restored, found and told after `HARNESS_KILLS` (20) kills is what the journal says.
///
/// # Panics
/// When it is not.
pub fn assert_kept_over_kills(setup: &Setup, journal: &Path) {
    let kills = number("HARNESS_KILLS").unwrap_or(20);
    let seed = number("HARNESS_SEED").unwrap_or_else(|| fastrand::u64(..));
    println!("{kills} kills, HARNESS_SEED={seed}");
    let (summary, broken) = kill(setup, journal, kills, seed);
    assert!(
        broken.is_empty(),
        "HARNESS_SEED={seed}: {} broken promises, the first: {:#?}",
        broken.len(),
        &broken[..broken.len().min(5)]
    );
    assert!(summary.done > kills * 5, "{summary:?}");
    assert!(summary.restored > kills / 4, "{summary:?}");
}
