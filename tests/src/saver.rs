//! An engine without Godot that lives for its state: it restores, checkpoints without end, and writes down what it was
//! told and when. For tests of what survives a kill.
//!
//! The journal is one file over all incarnations, a line a fact: `begin 7` before a checkpoint's call, `done 7` after it,
//! `restored 7 good` for what a new incarnation was given. Whoever reads it needs to know nothing of ring or store.

use std::ffi::OsString;
use std::fs::{File, OpenOptions};
use std::io::Write;
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::thread;
use std::time::{Duration, Instant};

use sidekick_ipc::session::{CheckpointRef, Message};
use sidekick_ipc::tree::{CheckpointKind, RestoreStatus, StoreOp, StoreQuery, StoreResult};
use sidekick_ipc::{Phase, Session};

use crate::engine;

const FLAG: &str = "--act-as-saver";
const KEY: &str = "match";
/// A restore that was not answered by then never will be.
const RESTORE_MAX: Duration = Duration::from_secs(60);
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

/// Gives what there is to restore. `None` when no answer came.
fn restore(session: &Session) -> Option<sidekick_ipc::tree::Restored> {
    let query = StoreQuery::Restore {
        key: KEY.to_owned(),
        safe: false,
    };
    let number = session.query(&query).ok()?;
    let begun = Instant::now();
    while begun.elapsed() < RESTORE_MAX {
        match session.next_message() {
            Some(Message::Reply {
                number: of,
                result: StoreResult::Restored(restored),
            }) if of == number => return Some(restored),
            Some(_) => {}
            None => session.wait_message(Duration::from_millis(50)),
        }
    }
    None
}

fn save(saver: &Saver) -> ExitCode {
    let session = Session::create(engine::options()).expect("a session");
    let mut journal = Journal::open(&saver.journal);
    // An earlier incarnation was killed amid a line.
    journal.write("");
    let Some(restored) = restore(&session) else {
        journal.write("timeout");
        return ExitCode::from(engine::DEATH_CODE);
    };
    let (mut version, mut full_version) = (0, 0);
    if restored.status == RestoreStatus::Restored {
        full_version = restored.full_version;
        version = full_version + restored.deltas.len() as u64;
        let is_good = restored.full == content(full_version)
            && (full_version + 1..)
                .zip(&restored.deltas)
                .all(|(version, delta)| **delta == content(version));
        let word = if is_good { "good" } else { "bad" };
        journal.write(&format!("restored {version} {word}"));
        let loaded = StoreOp::Loaded {
            key: KEY.to_owned(),
            version: full_version,
        };
        let _ = session.op_quietly(&loaded);
    } else {
        journal.write("restored 0 good");
    }
    // What was seen is behind: a version that was given up is not used again.
    version = version.max(restored.version);
    session.set_ready();
    loop {
        session.on_frame(Phase::Running);
        while let Some(message) = session.next_message() {
            if let Message::Reply {
                result: StoreResult::Error { kind, message },
                ..
            } = message
            {
                journal.write(&format!("error {} {message}", kind.name()));
            }
        }
        if session.control().quit.is_some() {
            session.set_clean_exit(0);
            return ExitCode::SUCCESS;
        }
        let next = version + 1;
        // What a new incarnation goes on with is a full one, so that it stands on its own.
        let is_full = version == restored.version || next.is_multiple_of(FULL_EVERY);
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
        journal.write(&format!("begin {next}"));
        if saver.lies {
            journal.write(&format!("done {next}"));
            thread::sleep(LIE);
        }
        if session.checkpoint(&checkpoint).is_ok() {
            version = next;
            if is_full {
                full_version = next;
            }
            if !saver.lies {
                journal.write(&format!("done {next}"));
            }
        } else {
            journal.write(&format!("refused {next}"));
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
            ("refused", Some(_)) => begun = None,
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
            ("timeout" | "error", _) => broken.push(format!("line {number}: {line}")),
            // What a kill cut off.
            _ => {}
        }
    }
    (summary, broken)
}
