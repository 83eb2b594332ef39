//! Plain Rust: takes encoded values, refuses what cannot be stored, counts, pushes into the ring. Knows nothing of Godot.

use std::fmt;
use std::sync::atomic::{AtomicU32, AtomicU64, Ordering};

use sidekick_ipc::value::{self, DecodeError, Refusal, Type};
use sidekick_ipc::{RefusedCause, Session};

/// Longest stream name in bytes of UTF-8: its length is one byte of the frame.
pub(crate) const STREAM_BYTES_MAX: usize = 255;

/// Decided once at load, then fixed.
pub(crate) enum Mode {
    /// Inside the editor: a silent no-op.
    Editor,
    /// No watchdog gave us a runtime directory: records are counted, nothing else.
    Unsupervised,
    /// A watchdog launched us; records go into this session's ring.
    Supervised(Box<Session>),
}

/// Why a record was refused. Each kind is warned of once in the life of the process.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Cause {
    StreamEmpty,
    StreamTooLong { bytes: usize },
    StreamBad,
    StreamReserved,
    Value(Refusal),
    TooLarge { bytes: usize, max: usize },
    RingFull,
    SpillFailed,
    Closed,
    Fenced,
    Standby,
    Quota,
}

impl Cause {
    /// One bit per kind, whatever the numbers.
    fn bit(&self) -> u32 {
        1 << match self {
            Self::StreamEmpty => 0,
            Self::StreamTooLong { .. } => 1,
            Self::StreamBad => 2,
            Self::TooLarge { .. } => 3,
            Self::RingFull => 4,
            Self::SpillFailed => 5,
            Self::Closed => 6,
            Self::Fenced => 15,
            Self::Standby => 17,
            Self::Quota => 18,
            Self::StreamReserved => 16,
            Self::Value(refusal) => match refusal.error {
                DecodeError::Forbidden {
                    kind: Type::Object, ..
                } => 7,
                DecodeError::Forbidden {
                    kind: Type::Callable,
                    ..
                } => 8,
                DecodeError::Forbidden {
                    kind: Type::Signal, ..
                } => 9,
                DecodeError::Forbidden { .. } => 10,
                DecodeError::TooDeep { .. } => 11,
                DecodeError::NotUnicode { .. } => 12,
                DecodeError::Empty => 13,
                _ => 14,
            },
        }
    }
}

impl fmt::Display for Cause {
    /// Cause and remedy, as the middle part of the warning.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::StreamEmpty => {
                f.write_str("the stream's name is empty; name it, as in record(&\"damage\", {...})")
            }
            Self::StreamTooLong { bytes } => write!(
                f,
                "the stream's name has {bytes} bytes, the limit is {STREAM_BYTES_MAX}; put what varies into the data"
            ),
            Self::StreamBad => f.write_str(
                "the stream's name holds control characters; use letters, digits, '.', '_' and '-'",
            ),
            Self::StreamReserved => f.write_str(
                "streams that begin with \"sidekick.\" are the watchdog's own (gaps, crash reports); choose another name",
            ),
            Self::Value(refusal) => refusal.fmt(f),
            Self::TooLarge { bytes, max } => {
                write!(f, "{bytes} bytes, the limit is {max}; split the data over several records")
            }
            Self::RingFull => f.write_str(
                "the ring is full, and so is the spill file where there is one: the watchdog is gone or does not keep up; \
                 look at its status, or raise [ring] size or spill_max in sidekick.toml",
            ),
            Self::SpillFailed => f.write_str(
                "the ring is full, and the spill file cannot be written; free space in the runtime directory, or see why \
                 the watchdog does not keep up",
            ),
            Self::Closed => f.write_str("the session is closed; record before the engine quits"),
            Self::Fenced => f.write_str(
                "the watchdog has given this process up and started another in its place; this one quits",
            ),
            Self::Quota => f.write_str(
                "the watchdog's [store] disk_quota is nearly used up, since the backend takes nothing; streams with \
                 `keep = true` in sidekick.toml record on. See `sidekick-watchdog status`",
            ),
            Self::Standby => f.write_str(
                "this server is a standby and records nothing until it is active; wait for that with \
                 `await Sidekick.when_active()`",
            ),
        }
    }
}

/// What happened to a record that was not taken.
#[derive(Debug)]
pub(crate) struct Refused {
    /// To be shown once; `None` when this cause was warned of before.
    pub(crate) warning: Option<String>,
}

/// Takes records from any thread. Never panics, never blocks longer than the session's `block_max`.
pub(crate) struct Recorder {
    mode: Mode,
    enabled: bool,
    counted: AtomicU64,
    refused: AtomicU64,
    warned: AtomicU32,
}

impl Recorder {
    /// `enabled` is the Project Setting: off, records are counted only.
    pub(crate) const fn new(mode: Mode, enabled: bool) -> Self {
        Self {
            mode,
            enabled,
            counted: AtomicU64::new(0),
            refused: AtomicU64::new(0),
            warned: AtomicU32::new(0),
        }
    }

    pub(crate) fn mode(&self) -> &Mode {
        &self.mode
    }

    /// The session that takes records; `None` where they are only counted (or, in the editor, ignored).
    #[inline]
    pub(crate) fn session(&self) -> Option<&Session> {
        match &self.mode {
            Mode::Supervised(session) => Some(session),
            Mode::Editor | Mode::Unsupervised => None,
        }
    }

    /// Whether records are worth encoding; if not, this one was counted.
    #[inline]
    pub(crate) fn wants(&self) -> Option<&Session> {
        match &self.mode {
            Mode::Supervised(session) if self.enabled => Some(session),
            Mode::Editor => None,
            Mode::Supervised(_) | Mode::Unsupervised => {
                self.counted.fetch_add(1, Ordering::Relaxed);
                None
            }
        }
    }

    /// Counts what nobody keeps.
    pub(crate) fn count(&self) {
        self.counted.fetch_add(1, Ordering::Relaxed);
    }

    /// Pushes one value as `var_to_bytes` made it. Returns its sequence number (≥ 1).
    ///
    /// # Errors
    /// The record was refused and counted; the warning is there the first time for its cause.
    #[inline]
    pub(crate) fn push(
        &self,
        session: &Session,
        stream: &str,
        variant: &[u8],
    ) -> Result<u64, Refused> {
        match push(session, stream, variant) {
            Ok(seq) => Ok(seq),
            Err(cause) => Err(self.refuse(stream, cause)),
        }
    }

    /// Counts a refusal.
    #[cold]
    pub(crate) fn refuse(&self, stream: &str, cause: Cause) -> Refused {
        self.refused.fetch_add(1, Ordering::Relaxed);
        let warned_before = self.warned.fetch_or(cause.bit(), Ordering::Relaxed) & cause.bit() != 0;
        let warning = (!warned_before).then(|| {
            let shown: String = stream.chars().filter(|c| !c.is_control()).take(64).collect();
            format!(
                "Sidekick: record of stream \"{shown}\" dropped: {cause}. Further drops for this reason are only counted \
                 (Sidekick.get_stats().refused)."
            )
        });
        Refused { warning }
    }

    /// Records that `record()` accepted (supervised), or would have got (unsupervised).
    pub(crate) fn recorded(&self) -> u64 {
        match &self.mode {
            Mode::Supervised(session) => session.last_seq(),
            Mode::Editor | Mode::Unsupervised => self.counted.load(Ordering::Relaxed),
        }
    }

    /// Records for which `record()` returned 0 although a watchdog is there.
    pub(crate) fn refused(&self) -> u64 {
        self.refused.load(Ordering::Relaxed)
    }
}

#[inline]
fn push(session: &Session, stream: &str, variant: &[u8]) -> Result<u64, Cause> {
    value::check(variant).map_err(Cause::Value)?;
    session
        .record(stream, variant)
        .map_err(|refused| match refused {
            RefusedCause::TooLarge { bytes, max } => Cause::TooLarge { bytes, max },
            RefusedCause::StreamName => Cause::StreamBad,
            RefusedCause::StreamReserved => Cause::StreamReserved,
            RefusedCause::Full => Cause::RingFull,
            RefusedCause::SpillFailed => Cause::SpillFailed,
            // Causes of requests, not of records.
            RefusedCause::RequestTooLarge { bytes, max } => Cause::TooLarge { bytes, max },
            RefusedCause::TooLargeForRing { .. }
            | RefusedCause::TooManyRequests { .. }
            | RefusedCause::CheckpointKeys { .. }
            | RefusedCause::CheckpointBytes { .. } => Cause::RingFull,
            RefusedCause::Closed => Cause::Closed,
            RefusedCause::Fenced => Cause::Fenced,
            RefusedCause::Standby => Cause::Standby,
            RefusedCause::Quota => Cause::Quota,
        })
}
