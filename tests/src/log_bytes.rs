//! The bytes of a stopped or a running watchdog's log, and how tests change them.

use std::fs;
use std::os::unix::fs::FileExt;
use std::path::PathBuf;

use rustix::process::Signal;

use crate::verdicts::PATIENCE;
use crate::wait;
use crate::watchdog::{Setup, Watchdog};

/// Where frames begin in a segment.
const FRAMES_AT: usize = 4096;
/// The bytes of a segment that say whose log it is.
const HEADER_BYTES: usize = 60;
/// The kind of a frame that is an entry with commands.
const COMMANDS: u8 = 3;

/// The first segment of the log.
pub fn segment(setup: &Setup) -> PathBuf {
    setup.data_dir().join("log").join("0000000000000001.wal")
}

/// A frame by its head.
#[derive(Debug, Clone, Copy)]
pub struct Frame {
    /// Its first byte.
    pub at: usize,
    /// The byte after its last one, padding included.
    pub end: usize,
    /// The padding begins here, which is nobody's.
    covered: usize,
    kind: u8,
    flags: u8,
}

impl Frame {
    /// Whether it is an entry with commands.
    pub fn is_commands(&self) -> bool {
        self.kind == COMMANDS
    }
}

/// The frames of a segment that is whole, by their heads alone.
///
/// # Panics
/// When the bytes are none of a segment.
pub fn frames(bytes: &[u8]) -> Vec<Frame> {
    let mut frames = Vec::new();
    let mut at = FRAMES_AT;
    while at + 40 <= bytes.len() {
        let word = |at: usize| u32::from_le_bytes(bytes[at..at + 4].try_into().expect("4 bytes"));
        let (length, kind, flags) = (word(at) as usize, bytes[at + 12], bytes[at + 13]);
        if kind == 0 {
            break;
        }
        let end = at + (40 + length).next_multiple_of(8);
        frames.push(Frame {
            at,
            end,
            covered: at + 40 + length,
            kind,
            flags,
        });
        at = end;
    }
    frames
}

/// A place in the log, behind so much of it (0 to 1), in which damage is told from a torn end: behind it a later batch
/// begins.
pub fn place(bytes: &[u8], behind: f64, random: &mut fastrand::Rng) -> usize {
    let frames = frames(bytes);
    let last_batch = frames.iter().rfind(|frame| frame.flags & 1 == 1);
    // Two bytes are damaged, both of one frame: one alone would be mended.
    let last_batch = last_batch.map_or(FRAMES_AT, |frame| frame.at) - 1;
    // What says whose log it is lies in the first entries; they are refused where they have to be applied again.
    let begin = frames.get(12).map_or(FRAMES_AT, |frame| frame.at);
    let begin = begin + ((last_batch - begin) as f64 * behind) as usize;
    loop {
        let at = random.usize(begin..last_batch);
        if frames
            .iter()
            .any(|frame| (frame.at..frame.covered - 1).contains(&at))
        {
            return at;
        }
    }
}

/// Any byte that a frame covers, in the log's first entries and its last batch as well, or that says whose log it is.
pub fn any_place(bytes: &[u8], random: &mut fastrand::Rng) -> usize {
    let frames = frames(bytes);
    match random.u8(0..4) {
        0 => random.usize(..HEADER_BYTES),
        1 => {
            let last = frames.last().expect("a frame");
            random.usize(last.at..last.covered)
        }
        _ => {
            let frame = frames[random.usize(..frames.len())];
            random.usize(frame.at..frame.covered)
        }
    }
}

/// The entry with the record of this text, if a later entry with a record of `text_bytes` or more follows.
pub fn entry_with(bytes: &[u8], text: &str, text_bytes: usize) -> Option<Frame> {
    let mut entries = frames(bytes).into_iter().filter(Frame::is_commands);
    let entry = entries.find(|frame| {
        let payload = &bytes[frame.at..frame.end];
        payload
            .windows(text.len())
            .any(|window| window == text.as_bytes())
    })?;
    let mut behind = entries.map(|frame| frame.end - frame.at);
    behind.any(|length| length > text_bytes).then_some(entry)
}

/// Changes the byte at `at` of the log's first segment to another one. What it was is known.
///
/// # Panics
/// When the file cannot be written.
pub fn change(setup: &Setup, at: usize, random: &mut fastrand::Rng) {
    change_all(setup, at, 1, random);
}

/// Changes two bytes, at `at` and behind it: nobody knows what they were.
///
/// # Panics
/// When the file cannot be written.
pub fn damage(setup: &Setup, at: usize, random: &mut fastrand::Rng) {
    change_all(setup, at, 2, random);
}

fn change_all(setup: &Setup, at: usize, count: usize, random: &mut fastrand::Rng) {
    let path = segment(setup);
    let file = fs::OpenOptions::new().read(true).write(true).open(&path);
    let file = file.unwrap_or_else(|error| panic!("{path:?}: {error}"));
    let mut bytes = vec![0; count];
    file.read_exact_at(&mut bytes, at as u64).expect("bytes");
    bytes.iter_mut().for_each(|byte| *byte ^= random.u8(1..));
    file.write_all_at(&bytes, at as u64).expect("written");
}

/// Ends watchdog and engine at once, as a power cut would.
pub fn kill_all(setup: &Setup, watchdog: Watchdog<'_>) {
    let engines = setup.engines(Some(&watchdog));
    watchdog.kill();
    for engine in engines {
        setup.signal(engine, Signal::KILL);
    }
    wait::until("their end", PATIENCE, || {
        setup.descendants(None).is_empty().then_some(())
    });
}
