//! The local processor: what `[[stream]]` rules do to records. Pure: records in, verdicts out; no files, no clock, no
//! store.
//!
//! A rule has up to three parts. What must act *before anything is stored* (`screen`: leave out, sample, redact) runs in
//! intake, on bytes that exist nowhere but in the ring. What only matters to the backend (`shape`: filter, rename, set,
//! check) runs when a batch is made, and again, with the same outcome, when it is made once more: a [`Shape`] is a pure
//! function of its text and the record. What looks at more than one record (`fold`: dedupe, aggregate) sees them between
//! the two, as they are stored, in the order of the log. All rules whose pattern matches a record's stream apply, in the order of the
//! file, each to what the ones before it have left.
//!
//! Records are changed in the engine's own encoding ([`edit`]); nothing is made JSON on the way.

use std::borrow::Cow;

use sidekick_ipc::frame::RESERVED_STREAM_PREFIX;
use sidekick_ipc::stream::StreamPattern;

pub mod edit;
mod expression;
mod fold;
mod schema;
mod screen;
mod shape;
mod trial;

pub use edit::{FieldPath, HashKey, PathError};
pub use expression::{
    EXPRESSION_BYTES_MAX, Expression, ExpressionError, NameKind, UnknownName, WrongCall,
    unknown_name, wrong_call,
};
pub use fold::{
    AggregateSpec, BOUNDS_MAX, BY_MAX, CellChange, DedupeSpec, EVERY_MAX_NS, Fold, FoldRules,
    Folded, KEYS_MAX, OpenWindows, ROWS_MAX, Row, VALUES_MAX,
};
pub use schema::{Schema, SchemaError};
pub use screen::{Screen, ScreenSpec, Screened, Verdict};
pub use shape::{Refusal, SetSpec, Shape, ShapeSpec, Shaped, from_json};
pub use trial::{Expected, Recorded, Sent, Trial, TrialRules, Tried};

/// Whose record it is, and when it was recorded.
#[derive(Clone, Copy, Debug)]
pub struct Origin<'a> {
    /// Its stream.
    pub stream: &'a str,
    /// The watchdog's configured name.
    pub source: &'a str,
    /// The launch that recorded it.
    pub incarnation: u32,
    /// The version of the game that recorded it, empty where it has none; `None` for rules that were written before there
    /// was such a word.
    pub game_version: Option<&'a str>,
    /// Its sequence number.
    pub seq: u64,
    /// Nanoseconds since 1970, by the engine's clock.
    pub time_ns: i128,
}

/// Why rules cannot be used.
#[derive(Clone, Debug, PartialEq, thiserror::Error)]
pub enum RuleError {
    /// A pattern.
    #[error(transparent)]
    Pattern(sidekick_ipc::stream::StreamPatternError),
    /// A field's name.
    #[error("the rule for {pattern:?}: {key}: the field {field:?} {why}")]
    Field {
        /// Which rule.
        pattern: String,
        /// Which of its keys.
        key: &'static str,
        /// The field as it was written.
        field: String,
        /// What is wrong.
        why: PathError,
    },
    /// An expression.
    #[error("the rule for {pattern:?}: {key}: {why}")]
    Expression {
        /// Which rule.
        pattern: String,
        /// Which of its keys.
        key: &'static str,
        /// What is wrong.
        why: ExpressionError,
    },
    /// Hashes without a key.
    #[error("the rule for {pattern:?}: hash_fields has no key")]
    NoHashKey {
        /// Which rule.
        pattern: String,
    },
    /// A schema.
    #[error("the rule for {pattern:?}: schema: {why}")]
    Schema {
        /// Which rule.
        pattern: String,
        /// What is wrong.
        why: SchemaError,
    },
    /// The text of a rule set is not one of ours.
    #[error("the stored rules cannot be read: {why}")]
    Text {
        /// What is wrong.
        why: Cow<'static, str>,
    },
}

/// Whether a rule with this pattern is for this stream. The watchdog's own streams (crash reports, gaps) are meant only
/// by a pattern that names them: `*` is for what the game records.
fn means(pattern: &StreamPattern, stream: &str) -> bool {
    pattern.matches(stream)
        && (!stream.starts_with(RESERVED_STREAM_PREFIX)
            || pattern.as_str().starts_with(RESERVED_STREAM_PREFIX))
}

/// Two buffers that a record goes to and fro between while rules change it. Keep it from record to record.
#[derive(Debug, Default)]
pub struct Scratch {
    data: Vec<u8>,
    next: Vec<u8>,
    is_changed: bool,
}

impl Scratch {
    /// The record's data as the rules left it, when they changed it.
    pub fn data(&self) -> &[u8] {
        &self.data
    }

    fn begin(&mut self) {
        self.is_changed = false;
    }

    fn current<'a>(&'a self, given: &'a [u8]) -> &'a [u8] {
        match self.is_changed {
            true => &self.data,
            false => given,
        }
    }

    /// Makes `edit` of what is there.
    fn apply(
        &mut self,
        edit: &edit::Edit,
        values: &[Vec<u8>],
        given: &[u8],
    ) -> Result<(), sidekick_ipc::value::DecodeError> {
        let mut next = std::mem::take(&mut self.next);
        next.clear();
        let applied = edit.apply(self.current(given), values, &mut next);
        self.next = next;
        if applied? {
            std::mem::swap(&mut self.data, &mut self.next);
            self.is_changed = true;
        }
        Ok(())
    }
}
