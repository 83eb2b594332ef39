//! The walk that every record takes on the game's thread, and the sentence that a developer reads when it is refused.

use std::fmt;
use std::fmt::Write as _;

use super::wire::{DecodeError, Reader, Token, deeper};
use super::{DEPTH_MAX, Type};

/// How many characters of one key, and of a whole path, a [`Refusal`] shows.
const KEY_CHARS_MAX: usize = 40;
const PATH_CHARS_MAX: usize = 240;

/// Why a value is not taken, and where in it the culprit stands. Its `Display` is a sentence for a GDScript developer.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Refusal {
    /// What is wrong.
    pub error: DecodeError,
    /// Where, as GDScript would write it: `["player"][3]`; empty for the value itself.
    pub path: String,
}

impl std::error::Error for Refusal {}

impl fmt::Display for Refusal {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let place = if self.path.is_empty() {
            String::new()
        } else {
            format!(" at {}", self.path)
        };
        match self.error {
            DecodeError::Forbidden { kind, .. } => {
                let (what, instead) = match kind {
                    Type::Object => (
                        "an Object",
                        "objects cannot be stored; store its properties instead",
                    ),
                    Type::Callable => (
                        "a Callable",
                        "callables cannot be stored; store the method's name instead",
                    ),
                    Type::Signal => (
                        "a Signal",
                        "signals cannot be stored; store the signal's name instead",
                    ),
                    _ => (
                        "an RID",
                        "RIDs mean nothing after a restart; store what the resource is made from",
                    ),
                };
                write!(f, "the data holds {what}{place}; {instead}")
            }
            DecodeError::TooDeep { .. } => write!(
                f,
                "the data{place} is nested more than {DEPTH_MAX} containers deep; flatten it, and look whether a \
                 container holds itself"
            ),
            DecodeError::NotUnicode { .. } => write!(
                f,
                "the data holds a text{place} that is not valid Unicode; pass it as bytes (PackedByteArray) instead"
            ),
            DecodeError::Empty => {
                write!(
                    f,
                    "Godot could not encode the data; look whether a container holds itself"
                )
            }
            error => write!(f, "the data is not in Godot's encoding{place}: {error}"),
        }
    }
}

/// Checks that `bytes` are one well-formed value that can be stored: no `Object`, `Callable`, `Signal` or `RID`, at
/// most [`DEPTH_MAX`] containers inside one another, nothing after its end.
///
/// Made for the game's thread: allocates nothing unless it refuses, and never panics. Accepts exactly what
/// [`decode`](super::decode) accepts.
///
/// # Errors
/// The [`Refusal`] says what is wrong and where.
pub fn check(bytes: &[u8]) -> Result<(), Refusal> {
    walk(bytes).map_err(|error| Refusal {
        error,
        path: locate(bytes),
    })
}

fn walk(bytes: &[u8]) -> Result<(), DecodeError> {
    let mut reader = Reader::new(bytes);
    // How many values are still to come at each depth.
    let mut pending = [0_usize; DEPTH_MAX + 1];
    let mut depth = 0;
    let mut left = 1_usize;
    loop {
        while left == 0 {
            if depth == 0 {
                return reader.finish();
            }
            depth -= 1;
            left = pending[depth];
        }
        left -= 1;
        let at = reader.at();
        let count = match reader.token()? {
            Token::Array { count, .. } => count,
            Token::Dictionary { count, .. } => count * 2,
            _ => continue,
        };
        let inside = deeper(depth, at)?;
        pending[depth] = left;
        depth = inside;
        left = count;
    }
}

/// Walks refused bytes again, slowly, and names the place where they are refused.
#[cold]
fn locate(bytes: &[u8]) -> String {
    let mut path = String::new();
    // The error is known already; only the path at which the walk stops is wanted.
    let _ = step(&mut Reader::new(bytes), 0, &mut path);
    if path.chars().count() > PATH_CHARS_MAX {
        path = path.chars().take(PATH_CHARS_MAX).chain(['…']).collect();
    }
    path
}

fn step(reader: &mut Reader<'_>, depth: usize, path: &mut String) -> Result<(), DecodeError> {
    let at = reader.at();
    match reader.token_outlined()? {
        Token::Array { count, .. } => {
            let depth = deeper(depth, at)?;
            for index in 0..count {
                let parent = path.len();
                let _ = write!(path, "[{index}]");
                step(reader, depth, path)?;
                path.truncate(parent);
            }
        }
        Token::Dictionary { count, .. } => {
            let depth = deeper(depth, at)?;
            for index in 0..count {
                let parent = path.len();
                let mut ahead = *reader;
                let name = match ahead.token_outlined() {
                    Ok(Token::String(key)) => format!("{:?}", shortened(key)),
                    Ok(Token::StringName(key)) => format!("&{:?}", shortened(key)),
                    Ok(Token::Int(key)) => key.to_string(),
                    Ok(Token::Float(key)) => format!("{key:?}"),
                    Ok(Token::Bool(key)) => key.to_string(),
                    _ => format!("key {index}"),
                };
                let _ = write!(path, "[key {index}]");
                step(reader, depth, path)?;
                path.truncate(parent);
                let _ = write!(path, "[{name}]");
                step(reader, depth, path)?;
                path.truncate(parent);
            }
        }
        _ => {}
    }
    if depth == 0 { reader.finish() } else { Ok(()) }
}

/// At most so much of a key as a sentence can show.
pub(super) fn shortened(key: &str) -> String {
    let mut short: String = key.chars().take(KEY_CHARS_MAX).collect();
    if short.len() < key.len() {
        short.push('…');
    }
    short
}
