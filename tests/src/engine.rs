//! An engine without Godot: the test's own executable, started again, recording through the library's session.
//!
//! For tests of what happens around an engine. A target that uses it calls [`act_if_asked`] first thing in its `main`.

use std::ffi::OsString;
use std::fs::{self, File, OpenOptions};
use std::os::unix::fs::FileExt;
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Command, ExitCode};
use std::thread;
use std::time::{Duration, Instant};

use sidekick_ipc::value::{self, Value};
use sidekick_ipc::{Phase, Session, SessionOptions, WhenFull};

use crate::folders::Folder;
use crate::ledger::{Key, Ledger};
use crate::process::{self, Running};
use crate::watchdog::Setup;

/// The first argument of an executable that is to be an engine.
const FLAG: &str = "--act-as-engine";
/// The protocol version that the engine's ring is to have, where it is not this build's.
pub const PROTOCOL_VARIABLE: &str = "HARNESS_PROTOCOL";
/// The watchdog's executable, for an engine that is to start a dead watchdog again.
pub const RESPAWN_VARIABLE: &str = "HARNESS_RESPAWN";
/// A second stream, of which the engine records a little in each frame.
pub const KEPT_VARIABLE: &str = "HARNESS_KEPT";
/// Between two tries of that.
const RESPAWN_EVERY: Duration = Duration::from_secs(1);
/// Which incarnations of a game with few frames live for long, and how long.
const LONG_LIFE_EVERY: u32 = 256;
/// The file beside the journals' folder while which is there nobody's frames are over.
const HOLD: &str = "hold";
/// The file beside it that says how many lines each engine is to print, and how many it prints in a frame.
const PRINT: &str = "print";
const LINES_PER_FRAME: u64 = 500;
/// The file beside it, where it is, that says how many records each engine is to make before it idles.
const RECORD: &str = "record";
/// The file beside it that makes one engine take more and more memory: so much in a frame, so often at most.
const EAT: &str = "eat";
const EAT_BYTES: usize = 16 << 20;
const EATEN_MAX: usize = 64;
const LONG_LIFE_FRAMES: u64 = 250;
/// The exit code of an engine whose frames are over.
pub const DEATH_CODE: u8 = 3;
/// Between two frames.
const FRAME: Duration = Duration::from_millis(5);

/// The bytes of a printed line with its end.
pub const LINE_BYTES: usize = 100;

/// What an engine prints as its `number`th line, without the line's end.
pub fn line(number: u64) -> String {
    format!("line {number:.<width$}", width = LINE_BYTES - 6)
}

/// What the engine does.
#[derive(Debug, Clone)]
pub struct Game {
    /// Where it writes down what it recorded; must exist.
    pub journals: PathBuf,
    /// Records in each frame.
    pub per_frame: u64,
    /// Length of each record's text in bytes.
    pub text_bytes: usize,
    /// It idles after so many records.
    pub records_max: u64,
    /// It dies, without a goodbye, after so many frames; one incarnation in 256 lives more than a second, so that a
    /// watchdog whose limit is higher than that does not take the deaths for a crash loop.
    pub frames_max: u64,
}

impl Game {
    /// A few small records a frame, without end.
    pub fn new(journals: impl Into<PathBuf>) -> Self {
        Self {
            journals: journals.into(),
            per_frame: 3,
            text_bytes: 100,
            records_max: u64::MAX,
            frames_max: u64::MAX,
        }
    }

    /// The command that starts it: this executable with the arguments that [`act_if_asked`] understands.
    ///
    /// # Panics
    /// When the executable's own path is not known.
    pub fn command_line(&self) -> Vec<OsString> {
        let own = std::env::current_exe().expect("the path of this executable");
        vec![
            own.into(),
            FLAG.into(),
            self.journals.clone().into(),
            self.per_frame.to_string().into(),
            self.text_bytes.to_string().into(),
            self.records_max.to_string().into(),
            self.frames_max.to_string().into(),
        ]
    }

    /// Lets every engine live on beyond its frames, or no longer.
    ///
    /// # Panics
    /// When the file that tells them cannot be written or removed.
    pub fn hold(&self, holds: bool) {
        let path = self.journals.with_file_name(HOLD);
        let done = if holds {
            fs::write(&path, "")
        } else {
            fs::remove_file(&path)
        };
        done.unwrap_or_else(|error| panic!("{path:?}: {error}"));
    }

    /// Lets every engine print up to so many lines in all, [`LINE_BYTES`] long with their ends; see [`line()`].
    ///
    /// # Panics
    /// When the file that tells them cannot be written.
    pub fn let_print(&self, lines: u64) {
        let path = self.journals.with_file_name(PRINT);
        fs::write(&path, lines.to_string()).unwrap_or_else(|error| panic!("{path:?}: {error}"));
    }

    /// Lets every engine make up to so many records, and [`Game::records_max`] at most.
    ///
    /// # Panics
    /// When the file that tells them cannot be written.
    pub fn let_record(&self, records: u64) {
        let path = self.journals.with_file_name(RECORD);
        fs::write(&path, records.to_string()).unwrap_or_else(|error| panic!("{path:?}: {error}"));
    }

    /// How many records it may make by now.
    fn allowed(&self) -> u64 {
        match fs::read_to_string(self.journals.with_file_name(RECORD)) {
            // While it is being written it says nothing.
            Ok(text) => text.parse().unwrap_or(0).min(self.records_max),
            Err(_) => self.records_max,
        }
    }

    /// Lets one engine, the first to see it, take memory up to 1 GiB.
    ///
    /// # Panics
    /// When the file that tells it cannot be written.
    pub fn let_eat(&self) {
        let path = self.journals.with_file_name(EAT);
        fs::write(&path, "").unwrap_or_else(|error| panic!("{path:?}: {error}"));
    }

    /// Starts it as no watchdog would: nothing but its ring tells of it.
    ///
    /// # Panics
    /// When it cannot be started.
    pub fn start_by_hand(&self, setup: &Setup, launch: u32) -> Running {
        let words = self.command_line();
        let mut command = Command::new(&words[0]);
        command.args(&words[1..]);
        setup.token.mark(&mut command);
        for (name, value) in [
            ("LAUNCH", launch.to_string()),
            ("INCARNATION", launch.to_string()),
            ("RUNTIME_DIR", setup.runtime_dir().display().to_string()),
            ("RING_SIZE", "1048576".to_owned()),
            ("SPILL_MAX", "67108864".to_owned()),
        ] {
            command.env(format!("SIDEKICK_{name}"), value);
        }
        // Engines are known by it.
        command.process_group(0);
        Running::start(&mut command).expect("this executable")
    }
}

/// Runs the engine to its end if this process was started as one; `None` = it is a test run.
///
/// # Panics
/// When it was started with other arguments than [`Game::command_line`] gives, or without a watchdog.
pub fn act_if_asked() -> Option<ExitCode> {
    let mut arguments = std::env::args_os().skip(1);
    if arguments.next()? != FLAG {
        return None;
    }
    let mut next = || arguments.next().expect("an argument");
    let journals = PathBuf::from(next());
    let mut number = || {
        next()
            .to_str()
            .and_then(|text| text.parse().ok())
            .expect("a number")
    };
    let game = Game {
        journals,
        per_frame: number(),
        text_bytes: number() as usize,
        records_max: number(),
        frames_max: number(),
    };
    Some(play(&game))
}

fn play(game: &Game) -> ExitCode {
    let session = match std::env::var(PROTOCOL_VARIABLE) {
        Ok(version) => foreign_session(version.parse().expect("a number")),
        Err(_) => Session::create(options()).expect("a session"),
    };
    let path = game.journals.join(session.epoch().to_string());
    let journal = Journal::create(&path);
    session.set_ready();
    let text = "x".repeat(game.text_bytes);
    let mut last = 0;
    let mut guard = std::env::var_os(RESPAWN_VARIABLE).map(Guard::new);
    let kept = std::env::var(KEPT_VARIABLE).ok();
    let is_long_lived = options().launch.is_multiple_of(LONG_LIFE_EVERY);
    // Whoever keeps output has something to keep.
    println!("engine {} plays", options().launch);
    let frames_min = if is_long_lived { LONG_LIFE_FRAMES } else { 0 };
    let frames_max = game.frames_max.max(frames_min);
    let hold = game.journals.with_file_name(HOLD);
    let mut print = Print::new(&game.journals);
    let eat = game.journals.with_file_name(EAT);
    let (mut eats, mut eaten) = (false, Vec::new());
    let mut frames = 0;
    while frames < frames_max || hold.exists() {
        frames += 1;
        if let Some(guard) = &mut guard {
            guard.look(session.control().watchdog_pid);
        }
        session.on_frame(Phase::Running);
        let allowed = game.allowed();
        if let Some(kept) = kept.as_ref().filter(|_| last < allowed) {
            let value = value::encode(&Value::String(format!("{}:", last + 1)));
            if let Ok(seq) = session.record(kept, &value) {
                last = seq;
            }
        }
        for _ in 0..game.per_frame {
            if last >= allowed {
                break;
            }
            let value = value::encode(&Value::String(format!("{}:{text}", last + 1)));
            if let Ok(seq) = session.record("test", &value) {
                last = seq;
            }
        }
        eats |= fs::remove_file(&eat).is_ok();
        if eats && eaten.len() < EATEN_MAX {
            // Written to, so that it is resident.
            eaten.push(vec![1_u8; EAT_BYTES]);
        }
        print.go_on();
        journal.write([last, session.refused(), print.lines]);
        if session.control().quit.is_some() {
            session.set_clean_exit(0);
            return ExitCode::SUCCESS;
        }
        thread::sleep(FRAME);
    }
    ExitCode::from(DEATH_CODE)
}

/// Plays a game of a test's own with [`options`] or some like them, for a target with a word of its own in place of [`act_if_asked`]:
/// `act` in each frame, until it is asked to quit.
///
/// # Panics
/// When the session cannot be made.
pub fn play_frames(
    options: SessionOptions,
    frame: Duration,
    mut act: impl FnMut(&Session),
) -> ExitCode {
    let session = Session::create(options).expect("a session");
    session.set_ready();
    loop {
        session.on_frame(Phase::Running);
        act(&session);
        if session.control().quit.is_some() {
            session.set_clean_exit(0);
            return ExitCode::SUCCESS;
        }
        thread::sleep(frame);
    }
}

/// Starts a dead watchdog again, as the extension does: as a plain child of the engine.
struct Guard {
    executable: OsString,
    runtime_dir: OsString,
    asked_at: Option<Instant>,
}

impl Guard {
    fn new(executable: OsString) -> Self {
        Self {
            executable,
            runtime_dir: std::env::var_os("SIDEKICK_RUNTIME_DIR").expect("a watchdog's variable"),
            asked_at: None,
        }
    }

    fn look(&mut self, watchdog_pid: u32) {
        let is_dead = watchdog_pid != 0 && !process::runs(watchdog_pid);
        let is_due = self.asked_at.is_none_or(|at| at.elapsed() > RESPAWN_EVERY);
        if is_dead && is_due {
            self.asked_at = Some(Instant::now());
            let mut command = Command::new(&self.executable);
            command
                .args(["respawn", "--runtime-dir"])
                .arg(&self.runtime_dir);
            command.status().expect("the watchdog's executable");
        }
    }
}

/// A session whose ring file says another version of the protocol before a watchdog can see it.
fn foreign_session(version: u16) -> Session {
    let mut options = options();
    let runtime_dir = std::mem::take(&mut options.runtime_dir);
    let workshop = Folder::beside(&runtime_dir);
    options.runtime_dir = workshop.path().to_owned();
    let session = Session::create(options).expect("a session");
    let [ring] = &sidekick_ipc::scan(workshop.path()).expect("a folder")[..] else {
        panic!("one ring");
    };
    // Magic and version stand first in every version.
    let file = OpenOptions::new().write(true).open(&ring.path);
    file.and_then(|file| file.write_all_at(&version.to_le_bytes(), 8))
        .expect("the version to be written");
    let name = ring.path.file_name().expect("a name");
    fs::rename(&ring.path, runtime_dir.join(name)).expect("the ring to be moved");
    session
}

/// What the watchdog's variables ask for.
pub fn options() -> SessionOptions {
    let variable = |name: &str| std::env::var(name).expect("a variable of the watchdog's");
    let number = |name: &str| variable(name).parse::<u64>().expect("a number");
    SessionOptions {
        runtime_dir: variable("SIDEKICK_RUNTIME_DIR").into(),
        launch: number("SIDEKICK_LAUNCH") as u32,
        incarnation: number("SIDEKICK_INCARNATION") as u32,
        ring_bytes: number("SIDEKICK_RING_SIZE") as usize,
        when_full: WhenFull::Spill,
        block_max: Duration::ZERO,
        spill_bytes_max: number("SIDEKICK_SPILL_MAX"),
        // Nobody hands it to one that is started by hand.
        keep: (std::env::var("SIDEKICK_KEEP").unwrap_or_default())
            .lines()
            .map(|line| line.parse().expect("a pattern"))
            .collect(),
        library_version: env!("CARGO_PKG_VERSION").to_owned(),
        game_version: String::new(),
    }
}

/// The printing of lines, as many as the test allows.
struct Print {
    allowed: PathBuf,
    lines: u64,
}

impl Print {
    fn new(journals: &Path) -> Self {
        Self {
            allowed: journals.with_file_name(PRINT),
            lines: 0,
        }
    }

    fn go_on(&mut self) {
        // While it is being written it says nothing.
        let allowed = fs::read_to_string(&self.allowed).ok();
        let allowed = allowed.and_then(|text| text.parse().ok()).unwrap_or(0);
        for number in (self.lines + 1..=allowed).take(LINES_PER_FRAME as usize) {
            println!("{}", line(number));
            self.lines = number;
        }
    }
}

/// Three numbers in a file: the last sequence number given, how many records were refused, and how many lines printed.
struct Journal(File);

impl Journal {
    fn create(path: &Path) -> Self {
        let file = OpenOptions::new().write(true).create_new(true).open(path);
        Self(file.expect("a new journal"))
    }

    fn write(&self, numbers: [u64; 3]) {
        self.0
            .write_all_at(&numbers.map(u64::to_le_bytes).concat(), 0)
            .expect("the journal to be written");
    }
}

/// What one engine recorded, by its own account.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Played {
    /// The session.
    pub epoch: String,
    /// The last sequence number that `record()` gave.
    pub last: u64,
    /// How many records were refused.
    pub refused: u64,
    /// How many lines it has printed, of those that it was let print.
    pub lines: u64,
}

impl Played {
    /// The identities of all its records, in a backend that heard of it from the watchdog called `test`.
    pub fn keys(&self) -> Vec<Key> {
        (1..=self.last)
            .map(|seq| Key {
                source: "test".to_owned(),
                epoch: self.epoch.clone(),
                seq,
            })
            .collect()
    }
}

/// The accounts of all engines that wrote into `journals`, in no order.
///
/// # Panics
/// When they cannot be read.
pub fn played(journals: &Path) -> Vec<Played> {
    let entries = fs::read_dir(journals).expect("the journals' folder");
    let journal = |entry: fs::DirEntry| {
        let bytes = fs::read(entry.path()).expect("a journal");
        let word = |at: usize| {
            let word = bytes.get(at..at + 8).and_then(|word| word.try_into().ok());
            u64::from_le_bytes(word.unwrap_or_default())
        };
        Played {
            epoch: entry.file_name().display().to_string(),
            last: word(0),
            refused: word(8),
            lines: word(16),
        }
    };
    entries
        .map(|entry| journal(entry.expect("an entry")))
        .collect()
}

/// Sentences about everything that `ledger` has wrong of what the engines of `played` recorded.
pub fn faults_of_arrival(played: &[Played], ledger: &Ledger) -> Vec<String> {
    let mut faults = ledger.violations.clone();
    for engine in played {
        let keys = engine.keys();
        let missing = ledger.missing(&keys);
        if let Some(first) = missing.first() {
            faults.push(format!(
                "{} of {} records of {} are missing, the first: {first:?}",
                missing.len(),
                engine.last,
                engine.epoch
            ));
        }
    }
    faults
}
