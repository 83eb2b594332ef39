//! What Godot's own text tells of a crash: the handler's banner, backtraces, errors.
//!
//! The text is the game's as much as the engine's: anything in it may be imitated, so it only ever refines what the
//! system says of a death (`build`), and everything taken from it is bounded.

use std::collections::VecDeque;

use super::ScriptError;
use crate::log_line::{LogLevel, LogLine};

/// Frames kept of one backtrace.
const FRAMES_MAX: usize = 128;
/// Errors kept, the last ones.
pub const ERRORS_KEPT: usize = 20;
/// Bytes kept of one piece of text.
const TEXT_BYTES_MAX: usize = 1024;
/// Lines between an error's first line and its `at:` line: messages may have several lines.
const MESSAGE_LINES_MAX: usize = 8;
/// So many other lines may follow a banner that is to explain a death: other threads go on printing for a moment.
const LINES_AFTER_MAX: usize = 32;

const BANNER: &str = "handle_crash: Program crashed with signal ";
const END_OF_CPP: &str = "-- END OF C++ BACKTRACE --";
const SCRIPT_TRACE: &str = " backtrace (most recent call first):";

/// Texts of the C and C++ runtimes before they abort a program.
const ABORT_REASONS: [&str; 9] = [
    "double free or corruption",
    "free(): ",
    "malloc(): ",
    "malloc_consolidate(): ",
    "munmap_chunk(): ",
    "corrupted size vs. prev_size",
    "*** stack smashing detected ***",
    "terminate called after throwing",
    "terminate called without an active exception",
];

/// The crash handler's account.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Banner {
    /// The signal that it caught.
    pub signal: i32,
    /// The C++ backtrace.
    pub backtrace: Vec<String>,
    /// The scripts' backtrace.
    pub script_backtrace: Vec<String>,
    /// Other lines since.
    lines_after: usize,
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
enum Place {
    #[default]
    Outside,
    Cpp,
    Between,
    Script,
}

/// Reads an engine's output line by line, as it comes.
#[derive(Clone, Debug, Default)]
pub struct CrashScan {
    banner: Option<Banner>,
    place: Place,
    engine_version: Option<String>,
    errors: VecDeque<ScriptError>,
    open: Option<OpenError>,
    /// The last reason for an abort, and the lines since.
    abort: Option<(String, usize)>,
}

/// An error whose lines are still coming.
#[derive(Clone, Debug)]
struct OpenError {
    error: ScriptError,
    /// Lines that may be the message's, until its `at:` line comes.
    more: Vec<String>,
    has_place: bool,
}

impl CrashScan {
    /// Takes the next line. Returns whether it is a crash handler's banner.
    pub fn push(&mut self, line: &LogLine) -> bool {
        let text = line.text.as_str();
        self.take_version(text);
        self.take_error(line);
        self.take_abort(text);
        if let Some(signal) = text
            .strip_prefix(BANNER)
            .and_then(|n| n.trim().parse().ok())
        {
            self.banner = Some(Banner {
                signal,
                ..Banner::default()
            });
            self.place = Place::Cpp;
            return true;
        }
        self.take_frame(text);
        false
    }

    fn take_version(&mut self, text: &str) {
        if self.engine_version.is_none()
            && let Some(version) = text.strip_prefix("Godot Engine v")
        {
            let version = version.split(" - http").next().unwrap_or(version);
            self.engine_version = Some(shorten(&format!("Godot Engine v{version}")));
        }
    }

    fn take_abort(&mut self, text: &str) {
        if ABORT_REASONS.iter().any(|reason| text.starts_with(reason)) {
            self.abort = Some((shorten(text), 0));
        } else if let Some((_, lines_after)) = &mut self.abort {
            *lines_after += 1;
        }
    }

    fn take_frame(&mut self, text: &str) {
        let Some(banner) = &mut self.banner else {
            return;
        };
        let numbered = |text: &str| {
            text.strip_prefix('[')
                .is_some_and(|rest| rest.starts_with(|c: char| c.is_ascii_digit()))
        };
        match self.place {
            Place::Cpp if text == END_OF_CPP => self.place = Place::Between,
            Place::Cpp if numbered(text) => {
                if banner.backtrace.len() < FRAMES_MAX {
                    banner.backtrace.push(shorten(text));
                }
            }
            Place::Between if text.ends_with(SCRIPT_TRACE) => self.place = Place::Script,
            Place::Script if text.starts_with("-- END OF ") => self.place = Place::Between,
            Place::Script if numbered(text.trim_start()) => {
                if banner.script_backtrace.len() < FRAMES_MAX {
                    banner.script_backtrace.push(frame(text));
                }
            }
            _ if is_frame_of_banner(text) => {}
            _ => banner.lines_after = banner.lines_after.saturating_add(1),
        }
    }

    fn take_error(&mut self, line: &LogLine) {
        let text = line.text.as_str();
        if let Some((kind, message)) = error_start(text) {
            self.close_error();
            self.open = Some(OpenError {
                error: ScriptError {
                    kind: kind.to_owned(),
                    message: shorten(message),
                    count: 1,
                    ..ScriptError::default()
                },
                more: Vec::new(),
                has_place: false,
            });
            return;
        }
        let Some(open) = &mut self.open else {
            return;
        };
        let inner = text.trim_start();
        let is_indented = inner.len() < text.len();
        if is_indented && !open.has_place && inner.starts_with("at: ") {
            let (function, file, line) = place(&inner["at: ".len()..]);
            open.error.function = shorten(function);
            open.error.file = shorten(file);
            open.error.line = line;
            for more in open.more.drain(..) {
                if open.error.message.len() + more.len() < TEXT_BYTES_MAX {
                    open.error.message.push('\n');
                    open.error.message.push_str(&more);
                }
            }
            open.has_place = true;
        } else if open.has_place {
            let is_head = is_indented && inner.ends_with(SCRIPT_TRACE.trim_start());
            let is_frame = is_indented && inner.starts_with('[');
            if is_frame && open.error.backtrace.len() < FRAMES_MAX {
                open.error.backtrace.push(frame(inner));
            } else if !is_head && !is_frame {
                self.close_error();
            }
        } else if open.more.len() < MESSAGE_LINES_MAX {
            open.more.push(shorten(text));
        } else {
            self.close_error();
        }
    }

    fn close_error(&mut self) {
        let Some(OpenError { error, .. }) = self.open.take() else {
            return;
        };
        if let Some(last) = self.errors.back_mut() {
            let same = (&last.kind, &last.message, &last.file, last.line)
                == (&error.kind, &error.message, &error.file, error.line);
            if same {
                last.count = last.count.saturating_add(1);
                return;
            }
        }
        self.errors.push_back(error);
        if self.errors.len() > ERRORS_KEPT {
            self.errors.pop_front();
        }
    }

    /// The last errors, oldest first. Call it at the end of the output.
    pub fn errors(&mut self) -> Vec<ScriptError> {
        self.close_error();
        self.errors.iter().cloned().collect()
    }

    /// The crash handler's account, if its banner stands so near the end of the output that it can explain a death.
    pub fn banner(&self) -> Option<&Banner> {
        self.banner
            .as_ref()
            .filter(|banner| banner.lines_after <= LINES_AFTER_MAX)
    }

    /// Why the runtime aborted the program, if that was among its last lines.
    pub fn abort_reason(&self) -> Option<&str> {
        self.abort
            .as_ref()
            .filter(|(_, lines_after)| *lines_after <= LINES_AFTER_MAX)
            .map(|(reason, _)| reason.as_str())
    }

    /// As the engine's first line told it.
    pub fn engine_version(&self) -> Option<&str> {
        self.engine_version.as_deref()
    }
}

/// Lines that belong to a banner beside its frames.
fn is_frame_of_banner(text: &str) -> bool {
    text.is_empty()
        || text.starts_with("====")
        || text.starts_with("Engine version: ")
        || text.starts_with("Dumping the backtrace.")
        || text.starts_with("-- END OF ")
}

/// The kind and the message, if an error begins here.
fn error_start(text: &str) -> Option<(&'static str, &str)> {
    const STARTS: [(&str, &str); 5] = [
        ("SCRIPT ERROR: ", "script"),
        ("USER SCRIPT ERROR: ", "script"),
        ("ERROR: ", "error"),
        ("USER ERROR: ", "error"),
        ("SHADER ERROR: ", "shader"),
    ];
    STARTS
        .iter()
        .find_map(|(start, kind)| Some((*kind, text.strip_prefix(start)?)))
}

/// Reads `broken (res://main.gd:42)`.
fn place(text: &str) -> (&str, &str, u32) {
    let Some((function, rest)) = text.rsplit_once(" (") else {
        return (text, "", 0);
    };
    let rest = rest.strip_suffix(')').unwrap_or(rest);
    match rest.rsplit_once(':') {
        Some((file, line)) => match line.parse() {
            Ok(line) => (function, file, line),
            Err(_) => (function, rest, 0),
        },
        None => (function, rest, 0),
    }
}

/// `    [0] act (res://main.gd:19)` without its number.
fn frame(text: &str) -> String {
    let text = text.trim_start();
    let text = text.split_once("] ").map_or(text, |(_, frame)| frame);
    shorten(text)
}

/// Cuts at a character's boundary.
pub(super) fn shorten(text: &str) -> String {
    if text.len() <= TEXT_BYTES_MAX {
        return text.to_owned();
    }
    let mut end = TEXT_BYTES_MAX;
    while !text.is_char_boundary(end) {
        end -= 1;
    }
    format!("{}…", &text[..end])
}

/// How grave a line is, by Godot's prefixes; the lines that explain an error go with it.
pub fn level(text: &str, before: LogLevel) -> LogLevel {
    const PREFIXES: [(&str, LogLevel); 8] = [
        ("SCRIPT ERROR:", LogLevel::ScriptError),
        ("USER SCRIPT ERROR:", LogLevel::ScriptError),
        ("ERROR:", LogLevel::Error),
        ("USER ERROR:", LogLevel::Error),
        ("SHADER ERROR:", LogLevel::Error),
        ("handle_crash:", LogLevel::Error),
        ("WARNING:", LogLevel::Warning),
        ("USER WARNING:", LogLevel::Warning),
    ];
    if let Some((_, level)) = PREFIXES.iter().find(|(prefix, _)| text.starts_with(prefix)) {
        return *level;
    }
    let inner = text.trim_start();
    let explains = text.starts_with("   ")
        && (inner.starts_with("at: ")
            || inner.starts_with('[')
            || inner.ends_with(SCRIPT_TRACE.trim_start()));
    if explains { before } else { LogLevel::Info }
}
