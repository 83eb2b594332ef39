//! The engine's last script errors, in a small file of fixed slots beside the ring, so that the watchdog can tell what
//! the scripts complained of before a death.
//!
//! The engine overwrites the oldest slot with one `write` at a time: no lock file, no mapping, nothing to recover. A slot
//! that was being written when the engine died does not match its checksum and is left out. The reader believes nothing:
//! it takes at most [`SLOTS`] slots of [`SLOT_BYTES`] bytes, whatever the file is.

use std::fs::File;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Mutex, MutexGuard, PoisonError, TryLockError};

use serde::{Deserialize, Serialize};

use crate::sys::{self, Dir};

/// Errors that are kept: the last so many that differ from the one before.
pub const SLOTS: usize = 32;
/// Bytes of a slot.
pub const SLOT_BYTES: usize = 4096;

const MAGIC: u32 = 0x5349_4452;
/// Magic, checksum, body length.
const HEAD_BYTES: usize = 12;
const TEXT_BYTES_MAX: usize = 1400;
const BACKTRACE_BYTES_MAX: usize = 1900;
const FILE_BYTES_MAX: usize = 400;
const FUNCTION_BYTES_MAX: usize = 200;
/// How often a thread looks whether another one has finished, before it gives its error up.
const TRIES: u32 = 200;

/// What kind of error Godot reported.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum ErrorKind {
    /// The engine's own, or a script's `push_error()`.
    #[default]
    Error,
    /// A script went wrong.
    Script,
    /// A shader went wrong.
    Shader,
}

/// One error as Godot reported it. Long texts are cut.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct ScriptError {
    /// Its number in this engine process, from 1 on; repeats of one error have one number.
    pub number: u64,
    /// How often it came in a row.
    pub count: u32,
    /// Engine's monotonic clock when it came last, ns.
    pub monotonic_ns: u64,
    /// What kind of error it is.
    pub kind: ErrorKind,
    /// What went wrong: at most about a kilobyte.
    pub text: String,
    /// Function in which it was reported.
    pub function: String,
    /// File in which it was reported, `res://…` for a script.
    pub file: String,
    /// Line in that file.
    pub line: u32,
    /// The script's stack, innermost first, one line each; empty if no script was running.
    pub backtrace: String,
}

/// The file that a launch's errors are in.
pub fn path(runtime_dir: &Path, launch: u32) -> PathBuf {
    runtime_dir.join(file_name(launch))
}

fn file_name(launch: u32) -> String {
    format!("{launch:010}.errors")
}

/// The writing end, in the engine. Any thread may use it, also one in a signal handler: it waits for nobody.
#[derive(Debug)]
pub struct ErrorLog {
    runtime_dir: PathBuf,
    launch: u32,
    state: Mutex<State>,
    dropped: AtomicU64,
}

#[derive(Debug, Default)]
struct State {
    /// Made with the first error, so that a game without errors leaves no file.
    file: Option<File>,
    is_broken: bool,
    last: ScriptError,
}

impl ErrorLog {
    /// For the errors of `launch`. Touches nothing yet.
    pub fn new(runtime_dir: &Path, launch: u32) -> ErrorLog {
        ErrorLog {
            runtime_dir: runtime_dir.to_owned(),
            launch,
            state: Mutex::default(),
            dropped: AtomicU64::new(0),
        }
    }

    /// Keeps an error; `number`, `count` and `monotonic_ns` are filled in here. One that equals the one before is counted
    /// with it. What cannot be kept is dropped: this is a comfort, not a record.
    pub fn append(&self, error: ScriptError) {
        let Some(mut state) = self.lock_soon() else {
            self.dropped.fetch_add(1, Ordering::Relaxed);
            return;
        };
        let state = &mut *state;
        let error = cut(error);
        let last = &state.last;
        let is_repeat = last.number > 0
            && (last.kind, last.line) == (error.kind, error.line)
            && (&last.text, &last.file) == (&error.text, &error.file);
        let (number, count) = if is_repeat {
            (last.number, last.count.saturating_add(1))
        } else {
            (last.number.saturating_add(1), 1)
        };
        state.last = ScriptError {
            number,
            count,
            monotonic_ns: sys::monotonic_ns(),
            ..error
        };
        if state.file.is_none() && !state.is_broken {
            state.file = self.make_file().ok();
            state.is_broken = state.file.is_none();
        }
        if let Some(file) = &state.file {
            let slot = (number.wrapping_sub(1) as usize) % SLOTS;
            let offset = slot.saturating_mul(SLOT_BYTES) as u64;
            if sys::write_all_at(file, &encode(&state.last), offset).is_err() {
                state.file = None;
                state.is_broken = true;
            }
        }
    }

    /// Errors that were not kept because another thread was at it.
    pub fn dropped(&self) -> u64 {
        self.dropped.load(Ordering::Relaxed)
    }

    fn make_file(&self) -> io::Result<File> {
        let dir = Dir::open(&self.runtime_dir)?;
        let name = file_name(self.launch);
        dir.remove(&name)?;
        dir.create_new(&name)
    }

    /// The holder may be the very thread that a signal handler interrupts, so this gives up.
    fn lock_soon(&self) -> Option<MutexGuard<'_, State>> {
        for _ in 0..TRIES {
            match self.state.try_lock() {
                Ok(state) => return Some(state),
                Err(TryLockError::Poisoned(poisoned)) => {
                    return Some(PoisonError::into_inner(poisoned));
                }
                Err(TryLockError::WouldBlock) => std::thread::yield_now(),
            }
        }
        None
    }
}

/// The errors that a launch has left, oldest first; none if it left no file.
///
/// # Errors
/// As the system gives them, and `InvalidData` when the file is not a plain one of this user alone.
pub fn read(runtime_dir: &Path, launch: u32) -> io::Result<Vec<ScriptError>> {
    let dir = Dir::open(runtime_dir)?;
    let file = match dir.open_own(&file_name(launch), false) {
        Ok((file, _)) => file,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Vec::new()),
        Err(error) => return Err(error),
    };
    let mut errors = Vec::new();
    let mut slot = vec![0; SLOT_BYTES];
    for index in 0..SLOTS {
        let offset = index.saturating_mul(SLOT_BYTES) as u64;
        let bytes = sys::read_at(&file, &mut slot, offset)?;
        if bytes == 0 {
            break;
        }
        errors.extend(decode(slot.get(..bytes).unwrap_or_default()));
    }
    errors.sort_by_key(|error| error.number);
    Ok(errors)
}

/// Deletes what a launch has left. Nothing there is fine.
///
/// # Errors
/// As the system gives them.
pub fn remove(runtime_dir: &Path, launch: u32) -> io::Result<()> {
    Dir::open(runtime_dir)?.remove(&file_name(launch))
}

fn cut(mut error: ScriptError) -> ScriptError {
    for (text, bytes_max) in [
        (&mut error.text, TEXT_BYTES_MAX),
        (&mut error.function, FUNCTION_BYTES_MAX),
        (&mut error.file, FILE_BYTES_MAX),
        (&mut error.backtrace, BACKTRACE_BYTES_MAX),
    ] {
        if text.len() > bytes_max {
            let mut end = bytes_max;
            while !text.is_char_boundary(end) {
                end = end.saturating_sub(1);
            }
            text.truncate(end);
        }
    }
    error
}

fn encode(error: &ScriptError) -> Vec<u8> {
    let mut body = Vec::with_capacity(SLOT_BYTES);
    body.extend_from_slice(&error.number.to_le_bytes());
    body.extend_from_slice(&error.monotonic_ns.to_le_bytes());
    body.extend_from_slice(&error.count.to_le_bytes());
    body.extend_from_slice(&error.line.to_le_bytes());
    body.push(error.kind as u8);
    for text in [&error.text, &error.function, &error.file, &error.backtrace] {
        // Cut before to less than that.
        body.extend_from_slice(&(text.len() as u16).to_le_bytes());
        body.extend_from_slice(text.as_bytes());
    }
    let mut slot = Vec::with_capacity(HEAD_BYTES.saturating_add(body.len()));
    slot.extend_from_slice(&MAGIC.to_le_bytes());
    slot.extend_from_slice(&crc32fast::hash(&body).to_le_bytes());
    slot.extend_from_slice(&(body.len() as u32).to_le_bytes());
    slot.extend_from_slice(&body);
    slot
}

struct Reader<'a>(&'a [u8]);

impl<'a> Reader<'a> {
    fn array<const N: usize>(&mut self) -> Option<[u8; N]> {
        let (head, rest) = self.0.split_first_chunk::<N>()?;
        self.0 = rest;
        Some(*head)
    }

    fn text(&mut self) -> Option<String> {
        let bytes = u16::from_le_bytes(self.array()?);
        let (text, rest) = self.0.split_at_checked(bytes.into())?;
        self.0 = rest;
        Some(String::from_utf8_lossy(text).into_owned())
    }
}

fn decode(slot: &[u8]) -> Option<ScriptError> {
    let mut head = Reader(slot);
    let magic = u32::from_le_bytes(head.array()?);
    let crc = u32::from_le_bytes(head.array()?);
    let bytes = u32::from_le_bytes(head.array()?);
    let body = head.0.get(..usize::try_from(bytes).ok()?)?;
    if magic != MAGIC || crc32fast::hash(body) != crc {
        return None;
    }
    let mut body = Reader(body);
    Some(ScriptError {
        number: u64::from_le_bytes(body.array()?),
        monotonic_ns: u64::from_le_bytes(body.array()?),
        count: u32::from_le_bytes(body.array()?),
        line: u32::from_le_bytes(body.array()?),
        kind: match body.array::<1>()? {
            [1] => ErrorKind::Script,
            [2] => ErrorKind::Shader,
            _ => ErrorKind::Error,
        },
        text: body.text()?,
        function: body.text()?,
        file: body.text()?,
        backtrace: body.text()?,
    })
}

const _: () = assert!(
    HEAD_BYTES
        + 25
        + 4 * 2
        + TEXT_BYTES_MAX
        + BACKTRACE_BYTES_MAX
        + FILE_BYTES_MAX
        + FUNCTION_BYTES_MAX
        <= SLOT_BYTES
);

#[cfg(test)]
mod tests {
    use super::*;

    fn error(text: &str) -> ScriptError {
        ScriptError {
            kind: ErrorKind::Script,
            text: text.to_owned(),
            function: "_process".to_owned(),
            file: "res://main.gd".to_owned(),
            line: 17,
            backtrace: "_process (res://main.gd:17)".to_owned(),
            ..ScriptError::default()
        }
    }

    #[test]
    fn the_last_errors_come_back_oldest_first_and_repeats_are_counted() {
        let dir = tempfile::tempdir().unwrap();
        let log = ErrorLog::new(dir.path(), 7);
        assert_eq!(read(dir.path(), 7).unwrap(), []);
        for number in 0..SLOTS as u32 + 5 {
            for _ in 0..=number % 3 {
                log.append(error(&format!("error {number}")));
            }
        }
        let errors = read(dir.path(), 7).unwrap();
        assert_eq!(errors.len(), SLOTS);
        for (index, found) in errors.iter().enumerate() {
            let number = index as u32 + 5;
            assert_eq!(found.text, format!("error {number}"));
            assert_eq!(
                (found.number, found.count),
                (u64::from(number) + 1, number % 3 + 1)
            );
            assert_eq!((found.line, found.kind), (17, ErrorKind::Script));
            assert_eq!(found.backtrace, "_process (res://main.gd:17)");
            assert!(found.monotonic_ns > 0);
        }
        remove(dir.path(), 7).unwrap();
        remove(dir.path(), 7).unwrap();
        assert_eq!(std::fs::read_dir(dir.path()).unwrap().count(), 0);
    }

    #[test]
    fn long_texts_are_cut_at_a_character_and_fit_their_slot() {
        let dir = tempfile::tempdir().unwrap();
        let log = ErrorLog::new(dir.path(), 1);
        let long = ScriptError {
            text: "ä".repeat(9000),
            function: "ö".repeat(9000),
            file: "ü".repeat(9000),
            backtrace: "€".repeat(9000),
            ..ScriptError::default()
        };
        log.append(long);
        log.append(error("after"));
        let errors = read(dir.path(), 1).unwrap();
        assert_eq!(errors.len(), 2);
        assert_eq!(errors[0].text, "ä".repeat(TEXT_BYTES_MAX / 2));
        assert_eq!(errors[0].backtrace, "€".repeat(BACKTRACE_BYTES_MAX / 3));
        assert_eq!(errors[1].text, "after");
    }

    #[test]
    fn damaged_slots_are_left_out_and_any_file_can_be_read() {
        let dir = tempfile::tempdir().unwrap();
        let log = ErrorLog::new(dir.path(), 1);
        for number in 0..3 {
            log.append(error(&format!("error {number}")));
        }
        let file = path(dir.path(), 1);
        let good = std::fs::read(&file).unwrap();
        let slot = SLOT_BYTES + encode(&error("error 1")).len();
        for at in (SLOT_BYTES..slot).step_by(7) {
            let mut bad = good.clone();
            bad[at] ^= 0x10;
            std::fs::write(&file, &bad).unwrap();
            let texts: Vec<_> = read(dir.path(), 1)
                .unwrap()
                .into_iter()
                .map(|error| error.text)
                .collect();
            assert_eq!(texts, ["error 0", "error 2"], "byte {at}");
        }
        let mut random = fastrand::Rng::with_seed(7);
        for _ in 0..50 {
            let bytes: Vec<u8> = (0..random.usize(..300_000))
                .map(|_| random.u8(..))
                .collect();
            std::fs::write(&file, &bytes).unwrap();
            assert_eq!(read(dir.path(), 1).unwrap(), []);
        }
        std::fs::remove_file(&file).unwrap();
        std::os::unix::fs::symlink("/etc/passwd", &file).unwrap();
        assert!(read(dir.path(), 1).is_err());
    }

    #[test]
    fn who_cannot_write_drops_quietly() {
        let dir = tempfile::tempdir().unwrap();
        let log = ErrorLog::new(&dir.path().join("missing"), 1);
        log.append(error("x"));
        log.append(error("y"));
        let held = log.state.lock().unwrap();
        log.append(error("z"));
        drop(held);
        assert_eq!(log.dropped(), 1);
    }
}
